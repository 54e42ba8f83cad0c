package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The stage: networks, containers, a Swarm stack and the outside world. The
// containers carry the labels that docker compose gives its own.
const (
	outsideNS      = "gatehouse-outside"
	outsideHost    = "198.51.100.1"
	outside4       = "198.51.100.2"
	outside6       = "2001:db8::2"
	frontPort      = "8080"
	partners       = "partners" // a network made by hand, which two projects share
	forwarding6    = "/proc/sys/net/ipv6/conf/all/forwarding"
	startPatience  = 60 * time.Second
	intruderInside = "/intruder"
)

const webConfig = `server {
  listen 80; listen [::]:80;
  location / {
    proxy_pass http://app:8000;
    proxy_http_version 1.1;
    proxy_buffering off;
    proxy_connect_timeout 3s;
  }
}
`

// cast is one container of a project.
type cast struct {
	project, service, image string
	env                     []string
	publish                 string
	also                    string            // a second network
	files                   map[string]string // path inside to content
}

var plays = []cast{
	{project: "shop", service: "db", image: "postgres:15"},
	{project: "shop", service: "cache", image: "redis:7"},
	{project: "shop", service: "app", image: "demo/app:1", also: partners,
		env: []string{"DATABASE_URL=postgresql://postgres@db/shop", "REDIS_URL=redis://cache:6379"}},
	{project: "shop", service: "worker", image: "demo/app:1", env: []string{"REDIS_URL=redis://cache:6379", "ROUND_EVERY=500ms"}},
	{project: "shop", service: "web", image: "nginx:1", publish: frontPort + ":80", files: map[string]string{"/etc/nginx/conf.d/default.conf": webConfig}},
	{project: "blog", service: "db", image: "mariadb:10", also: partners},
	{project: "blog", service: "site", image: "demo/app:1", also: partners, env: []string{"DATABASE_URL=mysql://blog@db/blog", "ROUND_EVERY=500ms"}},
}

// swarmPlays are services of the stack media on a one-node overlay network. A
// Swarm node asks the registry even for an image that it has; nobody's demo
// is at localhost.
var swarmPlays = []cast{
	{project: "media", service: "web", image: "nginx:1"},
	{project: "media", service: "client", image: "localhost/demo/app:1", env: []string{"API_URL=http://web/", "ROUND_EVERY=500ms"}},
}

type stage struct {
	intruder   string // the binary outside
	containers map[string]*container
	outside6   bool // the outside is reached over IPv6 too
}

func (s *stage) build(ctx context.Context) error {
	s.containers = map[string]*container{}
	// Swarm first: a node tries to pull an image before it uses its own.
	if err := s.startSwarm(ctx); err != nil {
		return err
	}
	for i, n := range []string{"shop", "blog"} {
		if _, err := docker(ctx, "network", "create", "--label", ours, "--label", "com.docker.compose.project="+n,
			"--label", "com.docker.compose.network=default", "--ipv6", "--subnet", fmt.Sprintf("fd00:6761:%d::/64", i+1), n+"_default"); err != nil {
			return err
		}
	}
	if _, err := docker(ctx, "network", "create", "--label", ours, "--ipv6", "--subnet", "fd00:6761:9::/64", partners); err != nil {
		return err
	}
	if err := s.buildOutside(ctx); err != nil {
		return err
	}
	for _, c := range plays {
		if err := s.startContainer(ctx, c); err != nil {
			return err
		}
	}
	if err := s.findTasks(ctx); err != nil {
		return err
	}
	for _, key := range []string{"shop/app", "shop/worker", "shop/web", "media/client"} {
		if _, err := docker(ctx, "cp", s.intruder, s.containers[key].id+":"+intruderInside); err != nil {
			return err
		}
	}
	return s.await(ctx)
}

func (s *stage) startContainer(ctx context.Context, c cast) error {
	network := c.project + "_default"
	args := []string{"create", "--label", ours, "--name", c.project + "-" + c.service + "-1",
		"--network", network, "--network-alias", c.service,
		"--label", "com.docker.compose.project=" + c.project,
		"--label", "com.docker.compose.service=" + c.service,
		"--label", "com.docker.compose.container-number=1",
		"--label", "com.docker.compose.oneoff=False",
		"--label", "com.docker.compose.config-hash=" + fmt.Sprintf("%064x", len(c.image)+len(c.service))}
	for _, e := range c.env {
		args = append(args, "--env", e)
	}
	if c.publish != "" {
		args = append(args, "--publish", c.publish)
	}
	id, err := docker(ctx, append(args, c.image)...)
	if err != nil {
		return err
	}
	for path, content := range c.files {
		if err := copyInto(ctx, id, path, content); err != nil {
			return err
		}
	}
	if c.also != "" {
		if _, err := docker(ctx, "network", "connect", c.also, id); err != nil {
			return err
		}
	}
	if _, err := docker(ctx, "start", id); err != nil {
		return err
	}
	s.containers[c.project+"/"+c.service], err = inspect(ctx, id)
	return err
}

func copyInto(ctx context.Context, id, path, content string) error {
	dir, err := os.MkdirTemp("", "gatehouse-demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return err
	}
	_, err = docker(ctx, "cp", file, id+":"+path)
	return err
}

// startSwarm makes the engine a one-node Swarm unless it is in one. There may
// be no IPVS in the kernel, so the services are found by DNS round robin.
func (s *stage) startSwarm(ctx context.Context) error {
	state, err := docker(ctx, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}")
	if err != nil {
		return err
	}
	switch state {
	case "active true":
	case "inactive false":
		if _, err := docker(ctx, "swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377"); err != nil {
			return err
		}
	default:
		return fmt.Errorf("this engine is a worker in a Swarm (%s): the demo needs a manager, or no Swarm", state)
	}
	// The label tells clear that the Swarm itself is ours.
	args := []string{"network", "create", "--driver", "overlay", "--attachable", "--label", ours, "--label", "com.docker.stack.namespace=media"}
	if state == "inactive false" {
		args = append(args, "--label", "demo.swarm=ours")
	}
	if _, err := docker(ctx, append(args, "media_default")...); err != nil {
		return err
	}
	for _, c := range swarmPlays {
		args := []string{"service", "create", "--quiet", "--detach", "--no-resolve-image", "--endpoint-mode", "dnsrr",
			"--name", c.project + "_" + c.service, "--network", "name=media_default,alias=" + c.service,
			"--label", ours, "--label", "com.docker.stack.namespace=" + c.project,
			"--container-label", "com.docker.stack.namespace=" + c.project}
		for _, e := range c.env {
			args = append(args, "--env", e)
		}
		if _, err := docker(ctx, append(args, c.image)...); err != nil {
			return err
		}
	}
	return nil
}

// findTasks waits for the tasks of the stack.
func (s *stage) findTasks(ctx context.Context) error {
	until := time.Now().Add(startPatience)
	for _, c := range swarmPlays {
		key := c.project + "/" + c.service
		for s.containers[key] == nil {
			id, err := docker(ctx, "ps", "-q", "--filter", "label=com.docker.swarm.service.name="+c.project+"_"+c.service)
			if err != nil {
				return err
			}
			if id != "" {
				if s.containers[key], err = inspect(ctx, strings.Fields(id)[0]); err != nil {
					return err
				}
				break
			}
			if time.Now().After(until) {
				tasks, _ := docker(ctx, "service", "ps", "--no-trunc", c.project+"_"+c.service)
				return fmt.Errorf("service %s has no running task:\n%s", key, tasks)
			}
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// buildOutside makes a namespace with documentation addresses, routed to this
// host as a stranger's machine would be.
func (s *stage) buildOutside(ctx context.Context) error {
	if err := commands(ctx,
		"ip netns add "+outsideNS,
		"ip link add outside0 type veth peer name eth0 netns "+outsideNS,
		"ip addr add "+outsideHost+"/24 dev outside0",
		"ip addr add 2001:db8::1/64 dev outside0 nodad",
		"ip link set outside0 up",
		"ip -n "+outsideNS+" link set lo up",
		"ip -n "+outsideNS+" link set eth0 up",
		"ip -n "+outsideNS+" addr add "+outside4+"/24 dev eth0",
		"ip -n "+outsideNS+" addr add "+outside6+"/64 dev eth0 nodad",
		"ip -n "+outsideNS+" route add default via "+outsideHost,
		"ip -n "+outsideNS+" -6 route add default via 2001:db8::1",
	); err != nil {
		return err
	}
	on, err := os.ReadFile(forwarding6)
	s.outside6 = err == nil && strings.TrimSpace(string(on)) == "1"
	return nil
}

func commands(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if _, err := command(ctx, words[0], words[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func outsidePath() string { return "/run/netns/" + outsideNS }

// await waits until ordinary traffic is answered once.
func (s *stage) await(ctx context.Context) error {
	until := time.Now().Add(startPatience)
	for {
		_, err := s.visit(ctx)
		if err == nil {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("the shop does not answer: %w", err)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// heal lets the containers forget what the intruder's ARP told them.
func (s *stage) heal(ctx context.Context) error {
	for _, c := range s.containers {
		if _, err := command(ctx, "nsenter", "--net="+c.netns, "ip", "neigh", "flush", "all"); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (s *stage) describe(ctx context.Context) error {
	fmt.Print(`  outside ─▶ :8080 shop/web (nginx) ─▶ shop/app ─▶ shop/db (PostgreSQL), shop/cache (Redis)
             shop/worker ─▶ shop/cache            bridge shop_default, IPv4 and IPv6
             blog/site ─▶ blog/db (MariaDB)       bridge blog_default; app, site and blog/db share the bridge "partners"
             media/client ─▶ media/web (nginx)    Swarm overlay media_default
`)
	ids, err := docker(ctx, "ps", "-q")
	if others := len(strings.Fields(ids)) - len(s.containers); err == nil && others > 0 {
		fmt.Printf("  %d other containers run here: Gatehouse will observe them, and enforce nothing on them\n", others)
	}
	return err
}

// clear takes away all that a stage has, this one's or an earlier run's.
func (s *stage) clear(ctx context.Context) error {
	var errs []error
	try := func(name string, args ...string) string {
		out, err := command(ctx, name, args...)
		if err != nil {
			errs = append(errs, err)
		}
		return out
	}
	if state := try("docker", "info", "--format", "{{.Swarm.ControlAvailable}}"); state == "true" {
		for _, id := range strings.Fields(try("docker", "service", "ls", "-q", "--filter", "label="+ours)) {
			try("docker", "service", "rm", id)
		}
		s.awaitTasksGone(ctx)
	}
	if ids := strings.Fields(try("docker", "ps", "-aq", "--filter", "label="+ours)); len(ids) > 0 {
		try("docker", append([]string{"rm", "-fv"}, ids...)...)
	}
	swarm := try("docker", "network", "ls", "-q", "--filter", "label=demo.swarm=ours")
	if ids := strings.Fields(try("docker", "network", "ls", "-q", "--filter", "label="+ours)); len(ids) > 0 {
		try("docker", append([]string{"network", "rm"}, ids...)...)
	}
	if swarm != "" {
		try("docker", "swarm", "leave", "--force")
		try("docker", "network", "rm", "docker_gwbridge")
	}
	if _, err := command(ctx, "ip", "link", "show", "outside0"); err == nil {
		try("ip", "link", "delete", "outside0")
	}
	if _, err := os.Stat(outsidePath()); err == nil {
		try("ip", "netns", "delete", outsideNS)
	}
	return errors.Join(errs...)
}

// awaitTasksGone waits, not for ever, for the stack's containers to end, so
// that their network can be removed.
func (s *stage) awaitTasksGone(ctx context.Context) {
	for until := time.Now().Add(startPatience); time.Now().Before(until); {
		ids, err := docker(ctx, "ps", "-aq", "--filter", "label=com.docker.stack.namespace=media")
		if err != nil || ids == "" || pause(ctx, 100*time.Millisecond) != nil {
			return
		}
	}
}

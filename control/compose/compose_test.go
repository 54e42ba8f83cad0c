package compose

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/control/docker"
	"gatehouse/policy"
)

// write puts files into a folder of their own; names with a slash make folders.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t *testing.T, o Options, files ...File) policy.Snapshot {
	t.Helper()
	snap, err := Load(context.Background(), files, o)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func workload(t *testing.T, snap policy.Snapshot, name string) policy.Workload {
	t.Helper()
	i := slices.IndexFunc(snap.Workloads, func(w policy.Workload) bool { return w.Name == name })
	if i < 0 {
		var names []string
		for _, w := range snap.Workloads {
			names = append(names, w.Name)
		}
		t.Fatalf("no %s in %v", name, names)
	}
	return snap.Workloads[i]
}

// What a reader sees of a Compose project is what the engine would tell of it
// once it ran.
func TestProject(t *testing.T) {
	dir := write(t, map[string]string{
		".env":    "TAG=6-apache\n",
		"web.env": "MAIL_HOST=mail\nMAIL_PORT=587\n",
		"compose.yaml": `
services:
  wordpress:
    image: wordpress:${TAG}
    env_file: web.env
    environment: {WORDPRESS_DB_HOST: "db:3306", WORDPRESS_DB_PASSWORD: secret, PATH: /bin}
    ports: ["8080:80", "127.0.0.1:9000:9000/udp"]
    labels: {team: web, baked: "yes"}
    networks: {default: {aliases: [www]}, back: {}}
    depends_on: {db: {condition: service_healthy}}
    links: [db]
    scale: 2
  db:
    image: mariadb:11
    networks: [back]
    dns: 192.0.2.53
  job:
    build: .
    command: ["run", "--port", "8000"]
    network_mode: service:db
  host:
    image: prom/node-exporter
    network_mode: host
networks:
  back: {internal: true, enable_ipv6: true, ipam: {config: [{subnet: 10.9.0.0/24, gateway: 10.9.0.9}]}}
`})
	snap := load(t, Options{
		Images: map[string]Image{"wordpress": {Expose: []string{"80/tcp"}, Env: map[string]string{"PATH": "/bin"}, Labels: map[string]string{"baked": "yes"}}},
		Keep:   docker.Keep{Env: []string{"MAIL_PORT"}, Args: []string{"--port"}, Words: []string{"run"}},
	}, File{Paths: []string{filepath.Join(dir, "compose.yaml")}, Name: "shop"})

	w := workload(t, snap, "shop-wordpress-1")
	if w.Service.String() != "shop/wordpress" || !w.Compose || w.Image.Tag != "6-apache" || w.Image.PulledFrom[0] != "docker.io/library/wordpress" {
		t.Errorf("%+v", w)
	}
	if w.Labels["team"].By != policy.SetByDeployer || w.Labels["baked"].By != policy.SetByImage {
		t.Errorf("labels %v", w.Labels)
	}
	if !slices.Equal(w.EnvKeys, []string{"MAIL_HOST", "MAIL_PORT", "WORDPRESS_DB_HOST", "WORDPRESS_DB_PASSWORD"}) {
		t.Errorf("keys %v: the image's own do not count", w.EnvKeys)
	}
	if w.Env["MAIL_PORT"] != "587" || len(w.Env) != 1 {
		t.Errorf("env %v", w.Env)
	}
	if !slices.Contains(w.References, policy.Reference{Source: "env WORDPRESS_DB_HOST", Host: "db", Port: 3306}) ||
		!slices.Contains(w.References, policy.Reference{Source: "env MAIL_HOST", Host: "mail", Port: 587}) {
		t.Errorf("references %v", w.References)
	}
	if !slices.Equal(w.DependsOn, []string{"db"}) || !slices.Equal(w.Exposed, []policy.PortRange{policy.Port(policy.ProtoTCP, 80)}) {
		t.Errorf("depends on %v, exposes %v", w.DependsOn, w.Exposed)
	}
	want := []policy.Published{
		{HostIP: netip.IPv4Unspecified(), HostPort: 8080, Port: 80, Proto: policy.ProtoTCP},
		{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 9000, Port: 9000, Proto: policy.ProtoUDP},
		{HostIP: netip.IPv6Unspecified(), HostPort: 8080, Port: 80, Proto: policy.ProtoTCP},
	}
	if !slices.Equal(w.Published, want) {
		t.Errorf("published %v", w.Published)
	}
	if other := workload(t, snap, "shop-wordpress-2"); other.Service != w.Service || other.Endpoints[0].Addresses[0] == w.Endpoints[0].Addresses[0] {
		t.Errorf("the second replica is %+v", other)
	}
	db := workload(t, snap, "shop-db-1")
	if len(db.Endpoints) != 1 || len(db.Endpoints[0].Addresses) != 2 || !slices.Equal(db.DNS, []netip.Addr{netip.MustParseAddr("192.0.2.53")}) {
		t.Errorf("%+v", db)
	}
	job := workload(t, snap, "shop-job-1")
	if job.SharedWith != db.ID || !job.Image.Built || len(job.Image.PulledFrom) != 0 || !slices.Equal(job.Command, []string{"run", "--port", "8000"}) {
		t.Errorf("%+v", job)
	}
	if host := workload(t, snap, "shop-host-1"); host.Uncovered != "network_mode host" {
		t.Errorf("%+v", host)
	}
	i := slices.IndexFunc(snap.Networks, func(n policy.Network) bool { return n.Name == "shop_back" })
	if n := snap.Networks[i]; n.Owner.Name != "shop" || !n.Internal || n.Gateways[0].String() != "10.9.0.9" || len(n.Subnets) != 2 {
		t.Errorf("%+v", n)
	}
}

func TestStack(t *testing.T) {
	dir := write(t, map[string]string{"stack.yaml": `
services:
  web:
    image: example/web
    ports: [{target: 3000, published: "8080", mode: ingress}, {target: 53, published: "53", protocol: udp, mode: host}]
    labels: {on: container}
    deploy: {replicas: 2, labels: {on-service: "1"}}
  cache:
    image: redis:7
    deploy: {endpoint_mode: dnsrr}
`})
	snap := load(t, Options{}, File{Paths: []string{filepath.Join(dir, "stack.yaml")}, Name: "shop", Stack: true})
	var web, cache policy.Workload
	for _, w := range snap.Workloads {
		switch w.Service.String() {
		case "shop/web":
			web = w
		case "shop/cache":
			cache = w
		}
	}
	if len(snap.Workloads) != 3 || !web.Swarm || web.Labels["on"].By != policy.SetByDeployer || web.Labels["on-service"].By != policy.SetByDeployer {
		t.Errorf("%d workloads, %+v", len(snap.Workloads), web)
	}
	var names []string
	for _, e := range web.Endpoints {
		for _, n := range snap.Networks {
			if n.ID == e.Network {
				names = append(names, n.Name)
			}
		}
	}
	slices.Sort(names)
	if strings.Join(names, " ") != "docker_gwbridge ingress shop_default" {
		t.Errorf("on %v", names)
	}
	ingress := policy.Published{HostIP: netip.IPv4Unspecified(), HostPort: 8080, Port: 3000, Proto: policy.ProtoTCP, Ingress: true}
	if !slices.Contains(web.Published, ingress) || len(web.VIPs) != 1 || len(cache.VIPs) != 0 {
		t.Errorf("published %v, virtual addresses %v and %v", web.Published, web.VIPs, cache.VIPs)
	}
}

// A network that several projects join is its declarer's, or nobody's (I8).
func TestExternalNetworks(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml": "services: {front: {image: traefik, networks: [proxy]}}\nnetworks: {proxy: {name: proxy}}\n",
		"b.yaml": "services: {web: {image: nginx, networks: [proxy, lab]}}\nnetworks: {proxy: {external: true}, lab: {external: true}}\n",
	})
	a, b := File{Paths: []string{filepath.Join(dir, "a.yaml")}, Name: "a"}, File{Paths: []string{filepath.Join(dir, "b.yaml")}, Name: "b"}
	for _, files := range [][]File{{a, b}, {b, a}} {
		snap := load(t, Options{}, files...)
		for _, n := range snap.Networks {
			if want := map[string]string{"proxy": "a"}[n.Name]; n.Owner.Name != want {
				t.Errorf("%s is owned by %q, want %q", n.Name, n.Owner.Name, want)
			}
		}
	}
}

func TestFaultsNameTheFile(t *testing.T) {
	for text, want := range map[string]string{
		"services: {web: {imag: x}}":                                                 "imag",
		"services: {web: {}}":                                                        "image",
		"services: [":                                                                "",
		"services: {web: {image: x, ports: ['http:80']}}":                            "",
		"services: {web: {image: x, networks: [gone]}}":                              "gone",
		"services: {web: {image: x, depends_on: [gone]}}":                            "gone",
		"services: {web: {image: x, network_mode: 'service:gone'}}":                  "gone",
		"services: {web: {image: x, env_file: /nonexistent/gatehouse.env}}":          "gatehouse.env",
		"services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}": "cycle",
	} {
		path := filepath.Join(write(t, map[string]string{"compose.yaml": text}), "compose.yaml")
		_, err := Load(context.Background(), []File{{Paths: []string{path}, Name: "p"}}, Options{})
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want the file and %q", text, err, want)
		}
	}
	if _, err := Load(context.Background(), []File{{}}, Options{}); err == nil {
		t.Error("no file: no error")
	}
	if _, err := Load(context.Background(), []File{{Paths: []string{"x.yaml"}, Stack: true}}, Options{}); err == nil || !strings.Contains(err.Error(), "x.yaml") {
		t.Errorf("a stack without a name: %v", err)
	}
}

// Two loads of the same files are the same plan.
func TestLoadIsDeterministic(t *testing.T) {
	dir := write(t, map[string]string{"compose.yaml": "services: {a: {image: x, scale: 3}, b: {image: y, networks: [one, two]}}\nnetworks: {one: {}, two: {}}\n"})
	f := File{Paths: []string{filepath.Join(dir, "compose.yaml")}, Name: "p"}
	first := load(t, Options{}, f)
	for range 5 {
		again := load(t, Options{}, f)
		for i := range first.Workloads {
			a, b := first.Workloads[i], again.Workloads[i]
			if a.ID != b.ID || !slices.EqualFunc(a.Endpoints, b.Endpoints, func(x, y policy.Endpoint) bool {
				return x.ID == y.ID && slices.Equal(x.Addresses, y.Addresses)
			}) {
				t.Fatalf("%+v then %+v", a, b)
			}
		}
	}
}

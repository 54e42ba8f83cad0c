package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stack      = "ghe-stack"
	overlay    = stack + "_default"
	swarmImage = "localhost/ghe/probe:1" // nobody's registry is asked for it
)

// joinSwarm makes the engine a one-node Swarm until the test ends, unless it is in one.
func joinSwarm(t *testing.T) {
	t.Helper()
	lock, err := os.Create("/tmp/ghe-swarm.lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	switch state := mustRun(t, "docker", "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"); state {
	case "active true":
	case "inactive false":
		mustRun(t, "docker", "swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
		t.Cleanup(func() {
			_, _ = command("docker", "swarm", "leave", "--force")
			_, _ = command("docker", "network", "rm", "docker_gwbridge")
		})
	default:
		t.Skipf("the engine is a worker of somebody's Swarm (%s)", state)
	}
}

// task runs a Swarm service of one task on the overlay until the test ends.
func task(t *testing.T, service string, options ...string) *container {
	t.Helper()
	name := stack + "_" + service
	// The images of the registry of this machine's loopback are not there: the node uses its own.
	args := []string{"service", "create", "-d", "--name", name, "--endpoint-mode", "dnsrr", "--no-resolve-image",
		"--network", "name=" + overlay + ",alias=" + service, "--label", liveLabel, "--container-label", liveLabel,
		"--label", "com.docker.stack.namespace=" + stack, "--container-label", "com.docker.stack.namespace=" + stack}
	mustRun(t, "docker", append(append(args, options...), swarmImage)...)
	t.Cleanup(func() { removeService(name) })
	var id string
	for until := time.Now().Add(time.Minute); id == ""; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			tasks, _ := command("docker", "service", "ps", "--no-trunc", name)
			t.Fatalf("no task of %s runs:\n%s", name, tasks)
		}
		id, _ = command("docker", "ps", "-q", "--filter", "label=com.docker.swarm.service.name="+name)
	}
	return inspect(t, strings.Fields(id)[0])
}

func removeService(name string) {
	_, _ = command("docker", "service", "rm", name)
	for until := time.Now().Add(livePatience); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if out, err := command("docker", "ps", "-aq", "--filter", "label=com.docker.swarm.service.name="+name); err != nil || out == "" {
			return
		}
	}
}

// TestSwarmOverlay holds the same on an overlay network, whose interfaces are
// in a namespace of their own, and on the second way out that each task has.
func TestSwarmOverlay(t *testing.T) {
	live(t)
	out := makeOutside(t)
	joinSwarm(t)
	mustRun(t, "docker", "tag", probeImage, swarmImage)
	t.Cleanup(func() { _, _ = command("docker", "rmi", swarmImage) })
	gw := startGateway(t)
	mustRun(t, "docker", "network", "create", "-d", "overlay", "--attachable", "--label", liveLabel, "--label", "com.docker.stack.namespace="+stack, overlay)
	t.Cleanup(func() { removeNetwork(t, overlay) })
	server := task(t, "server")
	client := task(t, "client", "--env", "SERVER_HOST=server", "--env", "SERVER_PORT=8000")
	echo(t, server, 8000)
	gw.admitted(server, client)
	for _, c := range []*container{server, client} {
		w, _ := gw.workload(c.name)
		var on []string
		for _, e := range w.Endpoints {
			on = append(on, e.Network)
		}
		if slices.Sort(on); !slices.Equal(on, []string{"docker_gwbridge", overlay}) {
			t.Errorf("%s is guarded on %v", c.name, on)
		}
	}
	to := port(server.leg(overlay).v4, 8000)
	beyond := port(out.far[4], 443)
	forbidden := []struct {
		name, netns string
		to          netip.AddrPort
		fits        func(seen) bool
	}{
		{"another port, on the overlay", server.netns, port(to.Addr(), 9000), towards(to.Addr(), 9000)},
		{"the outside, by docker_gwbridge", out.netns, beyond, towards(beyond.Addr(), 443)},
	}
	try := func(t *testing.T, enforced bool) {
		if err := says(client, to, "hello", livePatience); err != nil {
			t.Errorf("what policy allows: %v", err)
		}
		for _, f := range forbidden {
			w := watch(t, f.netns, f.fits)
			for _, network := range []string{"tcp", "udp"} {
				if conn, err := dial(client.netns, network, f.to.String(), 500*time.Millisecond); err == nil {
					_, _ = conn.Write([]byte("leak"))
					conn.Close()
				}
			}
			if enforced {
				w.none(f.name)
			} else if len(w.close()) == 0 {
				t.Errorf("%s: observed, and did not arrive", f.name)
			}
			verdict := map[bool]string{false: "recorded", true: "dropped"}[enforced]
			gw.as(t).eventually("a violation: "+f.name, func() bool {
				var all []ViolationView
				gw.mustGet("/v1/violations", &all)
				return slices.ContainsFunc(all, func(v ViolationView) bool {
					return v.Dest == f.to.String() && v.Verdict == verdict && v.From == stack+"/client"
				})
			}, func() string {
				var all []ViolationView
				gw.mustGet("/v1/violations", &all)
				return violationLines(all)
			})
		}
	}
	t.Run("Observe", func(t *testing.T) { try(t, false) })
	gw.enforce(stack+"/server", stack+"/client")
	t.Run("Enforce", func(t *testing.T) { try(t, true) })
	t.Run("FirstAct", func(t *testing.T) {
		w := watch(t, server.netns, func(f seen) bool {
			src, _ := f.ends()
			return towards(to.Addr(), 8000)(f) && src != client.leg(overlay).v4
		})
		for i := range 3 {
			perform(t, play{name: fmt.Sprintf("ghe-overlay-stranger-%d", i), network: overlay, command: []string{"/probe", "first", "1", to.String()}})
		}
		time.Sleep(1200 * time.Millisecond)
		w.none("a stranger's first act on the overlay")
	})
	t.Run("GatewayDead", func(t *testing.T) {
		conn, err := dial(client.netns, "tcp", to.String(), livePatience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := sayOn(conn, "before", livePatience); err != nil {
			t.Fatal(err)
		}
		gw := gw.as(t)
		gw.kill()
		time.Sleep(beatStale)
		if err := sayOn(conn, "without", livePatience); err != nil {
			t.Errorf("a conversation that lived: %v", err)
		}
		if says(client, to, "hello", 500*time.Millisecond) == nil {
			t.Error("a new conversation with nobody to decide")
		}
		gw.start()
		if err := sayOn(conn, "after", livePatience); err != nil {
			t.Errorf("a conversation that lived, after the restart: %v", err)
		}
		try(t, true)
	})
}

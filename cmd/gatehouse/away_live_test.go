package main

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// detour is a way to the engine that can be cut, as the engine's restart cuts it.
type detour struct {
	socket string
	listen net.Listener
	mu     sync.Mutex
	cut    bool
	open   []net.Conn
}

func newDetour(t *testing.T, socket, engine string) *detour {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	d := &detour{socket: socket, listen: l}
	t.Cleanup(func() { l.Close(); d.set(true) })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", engine)
			if err != nil || !d.keep(from, to) {
				from.Close()
				continue
			}
			pipe := func(a, b net.Conn) { _, _ = io.Copy(a, b); a.Close(); b.Close() }
			go pipe(from, to)
			go pipe(to, from)
		}
	}()
	return d
}

// keep notes a connection, unless it is cut.
func (d *detour) keep(conns ...net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		for _, c := range conns {
			c.Close()
		}
		return false
	}
	d.open = append(d.open, conns...)
	return true
}

func (d *detour) set(cut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut = cut
	for _, c := range d.open {
		c.Close()
	}
	d.open = nil
}

// TestStartUnheard: an engine that restarts ends its containers, goes, and starts
// them before anybody can ask it. What enforced before it went is shut until it is
// told of, though nobody enforced when it went.
func TestStartUnheard(t *testing.T) {
	r := live(t)
	out := makeOutside(t)
	far := port(out.far[4], 443)
	network := makeNetwork(t, "ghe-unheard_default", ofProject("ghe-unheard")...)
	w := watch(t, out.netns, towards(far.Addr(), 443))
	probe := perform(t, play{project: "ghe-unheard", service: "probe", network: network, command: []string{"/probe", "first", "0.5", far.String()},
		labels: []string{enforced, "gatehouse.deny.egress=@external:any"}})
	eventually(t, "without a gateway it arrives", func() bool { return w.count() > 0 }, nil)
	w.close()

	road := newDetour(t, t.TempDir()+"/s", r.docker)
	gw := startGateway(t, "--docker", road.socket)
	mustRun(t, "docker", "start", probe.name)
	gw.eventually("closed", func() bool { return len(gw.status().Closed) > 0 }, gw.log)
	mustRun(t, "docker", "stop", "-t", "1", probe.name)
	gw.eventually("its end is told", func() bool { _, there := gw.workload(probe.name); return !there }, gw.log)
	road.set(true)
	w = watch(t, out.netns, towards(far.Addr(), 443))
	mustRun(t, "docker", "start", probe.name)
	mustRun(t, "docker", "wait", probe.name)
	mustRun(t, "docker", "start", probe.name)
	road.set(false)
	time.Sleep(time.Second)
	w.none("a first act that the gateway could not hear of")
	gw.waitReady()
}

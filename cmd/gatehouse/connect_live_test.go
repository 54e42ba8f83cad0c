package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// TestHotConnect holds threat 31: a second interface is guarded before its first
// packet, and what it had ends with it.
func TestHotConnect(t *testing.T) {
	gw := startGateway(t)
	p := makePair(t, "ghe-hot", "gatehouse.mode=enforce")
	other := makeNetwork(t, "ghe-other")
	stranger := perform(t, play{name: "ghe-hot-stranger", network: other})
	late := perform(t, play{name: "ghe-hot-late-1", project: "ghe-hot", service: "late", network: other, labels: []string{"gatehouse.mode=enforce"},
		env: []string{"SERVER_HOST=server", "SERVER_PORT=8000"}})
	gw.admitted(p.server, p.client, stranger, late)

	w := watch(t, p.server.netns, func(f seen) bool {
		src, _ := f.ends()
		return src != p.client.leg().at(4) && (towards(p.server.leg().v4, 8000)(f) || towards(p.server.leg().v6, 8000)(f))
	})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // all the time, as fast as it can
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, family := range []int{4, 6} {
				if conn, err := dial(stranger.netns, "udp", p.at(family, 8000).String(), time.Second); err == nil {
					_, _ = conn.Write([]byte("leak"))
					conn.Close()
				}
				if conn, err := dial(stranger.netns, "tcp", p.at(family, 8000).String(), time.Millisecond); err == nil {
					conn.Close()
				}
			}
		}
	}()
	mustRun(t, "docker", "network", "connect", p.network, stranger.name)
	gw.admitted(inspect(t, stranger.name))
	time.Sleep(300 * time.Millisecond)
	close(stop)
	<-done
	w.none("a stranger that was connected")
	src := inspect(t, stranger.name).leg(p.network).v4
	gw.eventually("a violation of the stranger", func() bool {
		var all []ViolationView
		gw.mustGet("/v1/violations", &all)
		return slices.ContainsFunc(all, func(v ViolationView) bool { return strings.HasPrefix(v.Source, src.String()+":") })
	}, nil)

	// One that policy does let in, and its end.
	mustRun(t, "docker", "network", "connect", p.network, late.name)
	var err error
	gw.eventually("a call of one that was connected", func() bool {
		err = says(late, p.at(4, 8000), "hello", time.Second)
		return err == nil
	}, func() string { return err.Error() })
	conn, err := dial(late.netns, "tcp", p.at(4, 8000).String(), livePatience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sayOn(conn, "hello", livePatience); err != nil {
		t.Fatal(err)
	}
	gw.flow(conn.LocalAddr().String(), true)
	mustRun(t, "docker", "network", "disconnect", p.network, late.name)
	gw.flow(conn.LocalAddr().String(), false)
}

// flow waits until a flow from this address and port is there, or is not.
func (p *process) flow(source string, there bool) {
	p.t.Helper()
	var all []FlowView
	p.eventually(fmt.Sprintf("flow from %s: %v", source, there), func() bool {
		p.mustGet("/v1/flows", &all)
		return slices.ContainsFunc(all, func(f FlowView) bool { return f.Source == source }) == there
	}, func() string { return fmt.Sprintf("%+v", all) })
}

// TestRecycledAddress holds threat 22: who gets a stopped container's address gets
// nothing of what that was allowed, not even its live connections.
func TestRecycledAddress(t *testing.T) {
	gw := startGateway(t)
	e := newEngine(gw.rig.docker)
	network := makeNetwork(t, "ghe-reuse_default", append(ofProject("ghe-reuse"), "--subnet", "10.214.0.0/16")...)
	server := perform(t, play{project: "ghe-reuse", service: "server", network: network, labels: []string{"gatehouse.mode=enforce"}})
	echo(t, server, 8000)
	const address = "10.214.9.9"
	for round := range 3 {
		client := perform(t, play{name: fmt.Sprintf("ghe-reuse-client-%d", round), project: "ghe-reuse", service: "client", network: network,
			labels: []string{"gatehouse.mode=enforce"}, options: []string{"--ip", address}, env: []string{"SERVER_HOST=server", "SERVER_PORT=8000"}})
		heir := prepare(t, play{name: fmt.Sprintf("ghe-reuse-heir-%d", round), network: network, options: []string{"--ip", address},
			command: []string{"/probe", "first", "1", port(server.leg().v4, 8000).String()}})
		gw.admitted(server, client)
		to := port(server.leg().v4, 8000)
		conn, err := dial(client.netns, "tcp", to.String(), livePatience)
		if err != nil {
			t.Fatal(err)
		}
		if err := sayOn(conn, "hello", livePatience); err != nil {
			t.Fatal(err)
		}
		gw.flow(conn.LocalAddr().String(), true)
		source := netip.MustParseAddrPort(conn.LocalAddr().String())

		if err := e.ask(http.MethodDelete, client.id+"?force=true", nil, nil); err != nil {
			t.Fatal(err)
		}
		w := watch(t, server.netns, func(f seen) bool {
			src, dst := f.ends()
			return src == netip.MustParseAddr(address) && dst == to.Addr()
		})
		if err := e.ask(http.MethodPost, heir+"/start", nil, nil); err != nil {
			t.Fatal(err)
		}
		h := inspect(t, heir)
		if h.leg().v4.String() != address || h.leg().mac.String() != client.leg().mac.String() {
			t.Fatalf("the engine gave %v %v in place of %v %v", h.leg().v4, h.leg().mac, address, client.leg().mac)
		}
		// The middle of the connection that the other had.
		segment := frameOf(t, h.leg(), server.leg(), &layers.TCP{SrcPort: layers.TCPPort(source.Port()), DstPort: 8000,
			Seq: 1000, Ack: 1000, ACK: true, PSH: true, Window: 1024}, "leak")
		until := time.Now().Add(700 * time.Millisecond)
		for time.Now().Before(until) {
			if err := sendRaw(h.netns, "eth0", segment); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Millisecond)
		}
		w.none("an heir of the address")
		gw.flow(source.String(), false)
		conn.Close()
		mustRun(t, "docker", "rm", "-f", heir)
	}
}

// sendRaw sends a frame out of an interface of a namespace.
func sendRaw(netns, name string, data []byte) error {
	return inside(netns, func() error {
		device, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, data, 0, &unix.SockaddrLinklayer{Ifindex: device.Index})
	})
}

// TestUncovered holds threat 30 and I6: what cannot be guarded is said to be so, and
// who shares a namespace is guarded under its owner's name.
func TestUncovered(t *testing.T) {
	const parent = "ghe-mv0"
	_, _ = command("ip", "link", "delete", parent)
	mustRun(t, "ip", "link", "add", parent, "type", "veth", "peer", "name", "ghe-mv1")
	t.Cleanup(func() { _, _ = command("ip", "link", "delete", parent) })
	mustRun(t, "ip", "link", "set", parent, "up")
	gw := startGateway(t)
	uncovered := map[string]string{}
	host := perform(t, play{project: "ghe-unc", service: "host", options: []string{"--network", "host"}})
	uncovered[host.name] = "host"
	for _, driver := range []string{"macvlan", "ipvlan"} {
		name := "ghe-" + driver
		if out, err := command("docker", "network", "create", "--label", liveLabel, "-d", driver, "-o", "parent="+parent, name); err != nil {
			t.Logf("no %s here: %v %s", driver, err, out)
			continue
		}
		t.Cleanup(func() { removeNetwork(t, name) })
		id := prepare(t, play{project: "ghe-unc", service: driver, network: name})
		if _, err := command("docker", "start", id); err != nil {
			t.Logf("no %s here: %v", driver, err)
			continue
		}
		uncovered[id] = driver
	}
	for name, why := range uncovered {
		var w WorkloadView
		gw.eventually(name+" is known", func() bool { var ok bool; w, ok = gw.workload(name); return ok && w.Uncovered != "" },
			func() string { return fmt.Sprintf("%+v", w) })
		if !strings.Contains(w.Uncovered, why) {
			t.Errorf("%s: %q does not name %s", name, w.Uncovered, why)
		}
		out, _ := gw.cli("status")
		if !strings.Contains(out, "UNCOVERED") || !strings.Contains(out, w.Service) {
			t.Errorf("status does not tell of %s:\n%s", w.Service, out)
		}
	}
	if len(uncovered) < 2 {
		t.Errorf("only %v could be tried", uncovered)
	}

	network := makeNetwork(t, "ghe-unc_default", ofProject("ghe-unc")...)
	owner := perform(t, play{project: "ghe-unc", service: "vpn", network: network})
	guest := perform(t, play{project: "ghe-unc", service: "guest", options: []string{"--network", "container:" + owner.id, "--label", "gatehouse.model=redis"}})
	client := perform(t, play{project: "ghe-unc", service: "client", network: network, labels: []string{"gatehouse.mode=enforce"},
		env: []string{"CACHE_HOST=vpn", "CACHE_PORT=6379"}})
	gw.admitted(owner, client)
	gw.eventually("the guest is known", func() bool { w, ok := gw.workload(guest.name); return ok && w.SharedWith != "" }, nil)
	w, _ := gw.workload(guest.name)
	if w.Service != "ghe-unc/vpn" {
		t.Errorf("the guest goes by %q, want its owner's name", w.Service)
	}
	var statements []StatementView
	gw.mustGet("/v1/statements", &statements)
	var lines []string
	for _, s := range statements {
		lines = append(lines, s.Text...)
	}
	text := strings.Join(lines, "\n")
	if !strings.Contains(text, "ghe-unc/client -> ghe-unc/vpn : redis tcp/6379") {
		t.Errorf("the client may not reach the guest's redis under the owner's name:\n%s", text)
	}
	if !slices.ContainsFunc(gw.status().Findings, func(f Finding) bool { return f.Kind == "shared-namespace" }) {
		t.Errorf("no finding shared-namespace: %+v", gw.status().Findings)
	}
}

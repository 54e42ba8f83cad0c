package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatehouse/policy"
)

// exportLab is a router with a leg for each end; the router is the host.
type exportLab struct {
	router string
	ends   []labEnd
}

type labEnd struct {
	ns     string
	v4, v6 netip.Addr
}

func ip(t *testing.T, format string, args ...any) {
	t.Helper()
	words := strings.Fields(fmt.Sprintf(format, args...))
	if out, err := exec.Command("ip", words...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(words, " "), err, out)
	}
}

func newExportLab(t *testing.T, addresses ...[2]string) *exportLab {
	t.Helper()
	lab := &exportLab{router: fmt.Sprintf("ghx%d", os.Getpid())}
	space := func(name string) {
		ip(t, "netns add %s", name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
		ip(t, "-n %s link set lo up", name)
	}
	space(lab.router)
	for _, key := range []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"} {
		ip(t, "netns exec %s sysctl -qw %s", lab.router, key)
	}
	for i, a := range addresses {
		e := labEnd{fmt.Sprintf("%s-%d", lab.router, i), netip.MustParseAddr(a[0]), netip.MustParseAddr(a[1])}
		space(e.ns)
		ip(t, "-n %s link add eth0 type veth peer name leg%d netns %s", e.ns, i, lab.router)
		for _, key := range []string{"net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"} {
			ip(t, "netns exec %s sysctl -qw %s", e.ns, key)
		}
		ip(t, "-n %s addr add 10.77.0.1/32 dev leg%d", lab.router, i)
		ip(t, "-n %s addr add fd77::1/128 dev leg%d nodad", lab.router, i)
		ip(t, "-n %s link set leg%d up", lab.router, i)
		ip(t, "-n %s addr add %s/32 dev eth0", e.ns, e.v4)
		ip(t, "-n %s addr add %s/128 dev eth0 nodad", e.ns, e.v6)
		ip(t, "-n %s link set eth0 up", e.ns)
		ip(t, "-n %s route add 10.77.0.1 dev eth0", e.ns)
		ip(t, "-n %s route add default via 10.77.0.1", e.ns)
		ip(t, "-n %s route add fd77::1 dev eth0", e.ns)
		ip(t, "-n %s route add default via fd77::1 dev eth0", e.ns)
		ip(t, "-n %s route add %s dev leg%d", lab.router, e.v4, i)
		ip(t, "-n %s route add %s dev leg%d", lab.router, e.v6, i)
		lab.ends = append(lab.ends, e)
	}
	return lab
}

// passes reports whether a packet from a namespace gets to an address where
// nobody listens: the answer is a reset or an ICMP error.
func passes(ns string, proto policy.Proto, to netip.AddrPort) (ok bool, err error) {
	err = inside("/var/run/netns/"+ns, func() error {
		d := net.Dialer{Timeout: 700 * time.Millisecond}
		c, err := d.Dial(proto.String(), to.String())
		if proto == policy.ProtoUDP && err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(700 * time.Millisecond))
			if _, err = c.Write([]byte("x")); err == nil {
				_, err = c.Read(make([]byte, 1))
			}
		}
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			ok = true
		case err == nil:
			c.Close()
			return fmt.Errorf("somebody listens at %s", to)
		case !errors.Is(err, os.ErrDeadlineExceeded) && !strings.Contains(err.Error(), "timeout"):
			return err
		}
		return nil
	})
	return ok, err
}

// TestExportNFTables loads what `policy export --to nftables` writes and sends
// real packets: they meet the verdicts of the table, in both families.
func TestExportNFTables(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("missing: nft")
	}
	lab := newExportLab(t, [2]string{"10.77.0.2", "fd77::2"}, [2]string{"10.77.0.3", "fd77::3"}, [2]string{"10.77.0.4", "fd77::4"},
		[2]string{"192.168.77.2", "fdaa::2"}, [2]string{"198.51.100.2", "2001:db8::2"}, [2]string{"192.168.78.2", "fdab::2"})
	table := exportTable(t, lab)
	text, losses := policy.ExportNFTables(table)
	load := exec.Command("ip", "netns", "exec", lab.router, "nft", "-f", "-")
	load.Stdin = strings.NewReader(text)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, text)
	}
	if len(losses) == 0 {
		t.Error("what nftables cannot express is not told")
	}
	var wg sync.WaitGroup
	limit, verdicts := make(chan struct{}, 24), map[bool]int{}
	var mu sync.Mutex
	ask := func(ns string, src netip.Addr, proto policy.Proto, to netip.AddrPort) {
		q := policy.Query{Src: src.As16(), Dst: to.Addr().As16(), Proto: proto, DstPort: to.Port()}
		if policyNet.Contains(src) || policyNet6.Contains(src) || policyNet.Contains(to.Addr()) || policyNet6.Contains(to.Addr()) {
			q.Zone = 1
		}
		d := table.Lookup(q)
		want := d.Verdict() == policy.Allow || d.Verdict() == policy.Undecided
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			got, err := passes(ns, proto, to)
			for range 5 { // the kernel limits how many ICMP errors it sends
				if want && !got && err == nil {
					got, err = passes(ns, proto, to)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			verdicts[want]++
			if err != nil || got != want {
				t.Errorf("%s -> %s %s: passes %v, want %v (%v)", src, proto, to, got, want, err)
			}
		})
	}
	for i, from := range lab.ends {
		for _, proto := range []policy.Proto{policy.ProtoTCP, policy.ProtoUDP} {
			for _, port := range []uint16{22, 53, 80, 2375, 3306, 9001} {
				for j, to := range lab.ends {
					if i != j {
						ask(from.ns, from.v4, proto, netip.AddrPortFrom(to.v4, port))
						ask(from.ns, from.v6, proto, netip.AddrPortFrom(to.v6, port))
					}
				}
				ask(from.ns, from.v4, proto, netip.MustParseAddrPort(fmt.Sprintf("10.77.0.1:%d", port)))
				ask(from.ns, from.v6, proto, netip.MustParseAddrPort(fmt.Sprintf("[fd77::1]:%d", port)))
			}
		}
	}
	wg.Wait()
	if verdicts[true] < 50 || verdicts[false] < 50 {
		t.Errorf("%d should pass and %d should not: too few of one kind", verdicts[true], verdicts[false])
	}
	t.Logf("%d passed and %d did not, as the table says", verdicts[true], verdicts[false])
}

var policyNet, policyNet6 = netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::/64")

// exportTable has a web server, a database that enforces and one that only
// observes, a deny, and a prefix that a statement names.
func exportTable(t *testing.T, lab *exportLab) *policy.Table {
	t.Helper()
	key := func(name string) policy.ServiceKey {
		return policy.ServiceKey{Project: policy.ProjectKey{Name: "shop"}, Name: name}
	}
	snap := &policy.Snapshot{
		Host: policy.Host{Name: "router", Resolvers: []netip.Addr{lab.ends[3].v4, lab.ends[3].v6}},
		Networks: []policy.Network{{ID: "n", Name: "shop", Driver: "bridge", Zone: 1, Subnets: []netip.Prefix{policyNet, policyNet6},
			Gateways: []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}, ICC: true, Guarded: true}},
	}
	var groups []policy.Group
	for i, name := range []string{"web", "db", "watched"} {
		snap.Workloads = append(snap.Workloads, policy.Workload{ID: name, Name: name, Service: key(name), Endpoints: []policy.Endpoint{
			{ID: "e" + name, Network: "n", MAC: policy.MAC{2, 0, 0, 0, 0, byte(i)}, Addresses: []netip.Addr{lab.ends[i].v4, lab.ends[i].v6}}}})
		g := policy.Group{Identity: policy.FirstWorkloadIdentity + policy.Identity(i), Service: key(name), Guarded: true, Members: []string{name}}
		if name == "watched" {
			g.Mode = policy.Observe
		}
		groups = append(groups, g)
	}
	snap.Workloads[0], snap.Workloads[1], snap.Workloads[2] = snap.Workloads[1], snap.Workloads[2], snap.Workloads[0] // by id: db, watched, web
	kind := func(k policy.PeerKind) []policy.Peer { return []policy.Peer{{Kind: k}} }
	service := func(name string) []policy.Peer { return []policy.Peer{policy.ServicePeer(key(name))} }
	cidr := func(text string) []policy.Peer {
		return []policy.Peer{{Kind: policy.PeerCIDR, Prefix: netip.MustParsePrefix(text)}}
	}
	app := func(a policy.App) policy.AppMatch { return policy.AppMatch{App: a, Forms: policy.TLSPlain} }
	port := func(n uint16) []policy.PortRange { return []policy.PortRange{policy.Port(policy.ProtoTCP, n)} }
	statements := []policy.Statement{
		{ID: "web", Verdict: policy.Allow, From: kind(policy.PeerExternal), To: service("web"), App: app(policy.AppHTTP), Ports: port(80)},
		{ID: "sql", Verdict: policy.Allow, From: service("web"), To: service("db"), App: app(policy.AppMySQL), Ports: port(3306)},
		{ID: "dns", Verdict: policy.Allow, From: service("web"), To: kind(policy.PeerResolver), App: app(policy.AppDNS), Ports: []policy.PortRange{policy.Port(policy.ProtoUDP, 53), policy.Port(policy.ProtoTCP, 53)}},
		{ID: "out", Verdict: policy.Allow, Tier: policy.TierOperator, From: service("db"), To: kind(policy.PeerInternet), App: policy.AnyApp, Ports: []policy.PortRange{{Proto: policy.ProtoUDP, Lo: 9000, Hi: 9100}}},
		{ID: "host", Verdict: policy.Allow, Tier: policy.TierOperator, From: service("db"), To: kind(policy.PeerHost), App: policy.AnyApp, Ports: port(22)},
		{ID: "engine", Verdict: policy.Allow, Tier: policy.TierOperator, From: service("web"), To: kind(policy.PeerOrchestrator), App: policy.AnyApp, Ports: port(2375)},
		{ID: "not-these", Verdict: policy.Drop, Tier: policy.TierOperator, From: cidr("192.168.78.0/24"), To: service("web"), App: policy.AnyApp, AnyPort: true},
		{ID: "nor-these", Verdict: policy.Drop, Tier: policy.TierOperator, From: cidr("fdab::/64"), To: service("web"), App: policy.AnyApp, AnyPort: true},
		{ID: "always", Verdict: policy.Drop, Tier: policy.TierOperator, EnforceAlways: true, From: kind(policy.PeerInternet), To: service("watched"), App: policy.AnyApp, Ports: port(22)},
		{ID: "watched", Verdict: policy.Allow, Tier: policy.TierOperator, From: service("web"), To: service("watched"), App: policy.AnyApp, Ports: []policy.PortRange{{Proto: policy.ProtoTCP, Lo: 1, Hi: 65535}}},
		{ID: "nobody", Verdict: policy.Allow, Tier: policy.TierOperator, From: []policy.Peer{}, To: kind(policy.PeerAny), App: policy.AnyApp, Ports: []policy.PortRange{{Proto: policy.ProtoTCP, Lo: 1, Hi: 65535}}},
	}
	table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: snap, Groups: groups, Statements: statements})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
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

// probeWait is how long an answer is waited for; what should come is asked for again.
const probeWait = 300 * time.Millisecond

// passes reports whether a packet from a namespace gets to an address where
// nobody listens: the answer is a reset or an ICMP error.
func passes(ns string, proto policy.Proto, to netip.AddrPort) (ok bool, err error) {
	err = inside("/var/run/netns/"+ns, func() error {
		d := net.Dialer{Timeout: probeWait}
		c, err := d.Dial(proto.String(), to.String())
		if proto == policy.ProtoUDP && err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(probeWait))
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

var pings atomic.Uint32

// echoes reports whether a ping from a namespace is answered.
func echoes(ns string, to netip.Addr) (ok bool, err error) {
	network, request, reply := "ip4:icmp", byte(8), byte(0) // RFC 792
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129 // RFC 4443
	}
	err = inside("/var/run/netns/"+ns, func() error {
		c, err := net.Dial(network, to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(probeWait))
		id := uint16(pings.Add(1)) // what the kernel tracks must be of this one
		sum := ^(uint16(request)<<8 + id)
		if _, err := c.Write([]byte{request, 0, byte(sum >> 8), byte(sum), byte(id >> 8), byte(id), 0, 0}); err != nil { // IPv6's checksum is the kernel's to fill in
			return err
		}
		for data := make([]byte, 64); !ok; {
			n, err := c.Read(data)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			if err != nil {
				return err
			}
			if header := int(data[0]&0xf) * 4; n > header && to.Is4() { // which Read leaves there
				copy(data, data[header:n])
			}
			ok = n >= 8 && data[0] == reply && binary.BigEndian.Uint16(data[4:]) == id
		}
		return nil
	})
	return ok, err
}

// exportTrial sends real packets through what was exported, and holds what
// becomes of them to the table's verdicts.
type exportTrial struct {
	t        *testing.T
	lab      *exportLab
	table    *policy.Table
	losses   []policy.Loss
	wait     sync.WaitGroup
	limit    chan struct{}
	mu       sync.Mutex
	verdicts map[bool]int
}

func newExportTrial(t *testing.T, lab *exportLab, table *policy.Table) *exportTrial {
	t.Helper()
	text, losses := policy.ExportNFTables(table)
	load := exec.Command("ip", "netns", "exec", lab.router, "nft", "-f", "-")
	load.Stdin = strings.NewReader("flush ruleset\n" + text)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, text)
	}
	return &exportTrial{t: t, lab: lab, table: table, losses: losses, limit: make(chan struct{}, 48), verdicts: map[bool]int{}}
}

func (x *exportTrial) ask(ns string, src netip.Addr, proto policy.Proto, to netip.AddrPort) {
	q := policy.Query{Src: src.As16(), Dst: to.Addr().As16(), Proto: proto, DstPort: to.Port()}
	if policyNet.Contains(src) || policyNet6.Contains(src) || policyNet.Contains(to.Addr()) || policyNet6.Contains(to.Addr()) {
		q.Zone = 1
	}
	d := x.table.Lookup(q)
	want := d.Verdict() == policy.Allow || d.Verdict() == policy.Undecided
	try := func() (bool, error) {
		if proto == policy.ProtoICMP {
			return echoes(ns, to.Addr())
		}
		return passes(ns, proto, to)
	}
	x.wait.Go(func() {
		x.limit <- struct{}{}
		defer func() { <-x.limit }()
		got, err := try()
		for range 50 { // the kernel limits how many ICMP errors it sends
			if want && !got && err == nil {
				got, err = try()
			}
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.verdicts[want]++
		if err != nil || got != want {
			x.t.Errorf("%s -> %s %s: passes %v, want %v (%v)", src, proto, to, got, want, err)
		}
	})
}

// askAll asks from every end to every other and the router, at a port.
func (x *exportTrial) askAll(proto policy.Proto, port uint16) {
	to := []labEnd{{v4: netip.MustParseAddr("10.77.0.1"), v6: netip.MustParseAddr("fd77::1")}}
	for i, from := range x.lab.ends {
		for j, to := range append(to, x.lab.ends...) {
			if i != j-1 {
				x.ask(from.ns, from.v4, proto, netip.AddrPortFrom(to.v4, port))
				x.ask(from.ns, from.v6, proto, netip.AddrPortFrom(to.v6, port))
			}
		}
	}
}

func nftablesLab(t *testing.T) *exportLab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("missing: nft")
	}
	return newExportLab(t, [2]string{"10.77.0.2", "fd77::2"}, [2]string{"10.77.0.3", "fd77::3"}, [2]string{"10.77.0.4", "fd77::4"},
		[2]string{"192.168.77.2", "fdaa::2"}, [2]string{"198.51.100.2", "2001:db8::2"}, [2]string{"192.168.78.2", "fdab::2"})
}

// TestExportNFTables loads what `policy export --to nftables` writes and sends
// real packets: they meet the verdicts of the table, in both families.
func TestExportNFTables(t *testing.T) {
	lab := nftablesLab(t)
	x := newExportTrial(t, lab, exportTable(t, lab, exportStatements()))
	if len(x.losses) == 0 {
		t.Error("what nftables cannot express is not told")
	}
	for _, port := range []uint16{22, 53, 80, 2375, 3306, 9001} {
		x.askAll(policy.ProtoTCP, port)
		x.askAll(policy.ProtoUDP, port)
	}
	x.askAll(policy.ProtoICMP, 0)
	x.wait.Wait()
	if x.verdicts[true] < 50 || x.verdicts[false] < 50 {
		t.Errorf("%d should pass and %d should not: too few of one kind", x.verdicts[true], x.verdicts[false])
	}
	t.Logf("%d passed and %d did not, as the table says", x.verdicts[true], x.verdicts[false])
}

// TestExportNFTablesAtRandom does it with random statements of services, prefixes,
// ranges of ports, ICMP and denies, at the edges of their ranges.
func TestExportNFTablesAtRandom(t *testing.T) {
	lab := nftablesLab(t)
	seed := rand.Uint64()
	verdicts := map[bool]int{}
	isRich := func() bool { return min(verdicts[true], verdicts[false]) >= 100 }
	for n := 0; n < 3 || n < 60 && !isRich(); n++ {
		w := exportWorld{rand.New(rand.NewPCG(seed, uint64(n)))}
		statements := w.statements()
		x := newExportTrial(t, lab, exportTable(t, lab, statements))
		for range 2 {
			r := w.anyPorts(statements)
			for _, port := range []uint16{r.Lo - 1, r.Lo, r.Hi, r.Hi + 1} {
				if port > 0 {
					x.askAll(r.Proto, port)
				}
			}
		}
		x.askAll(policy.ProtoICMP, 0)
		x.wait.Wait()
		if t.Failed() {
			for _, s := range statements {
				t.Log(strings.Join(s.Lines(false), "; "))
			}
			t.Fatalf("seed %d/%d", seed, n)
		}
		verdicts[true] += x.verdicts[true]
		verdicts[false] += x.verdicts[false]
	}
	if !isRich() {
		t.Errorf("%d should pass and %d should not: too few of one kind", verdicts[true], verdicts[false])
	}
	t.Logf("%d passed and %d did not, as the tables say", verdicts[true], verdicts[false])
}

type exportWorld struct{ *rand.Rand }

func (w exportWorld) peers() []policy.Peer {
	prefixes := []string{"10.77.0.0/30", "10.77.0.4/32", "192.168.77.0/24", "192.168.0.0/16", "198.51.100.0/25", "0.0.0.0/0", "fd77::2/127", "fdaa::/64", "fda0::/12", "2001:db8::/32", "::/0"}
	kinds := []policy.PeerKind{policy.PeerAny, policy.PeerInternet, policy.PeerSite, policy.PeerHost, policy.PeerExternal}
	out := make([]policy.Peer, 1+w.IntN(2))
	for i := range out {
		switch w.IntN(3) {
		case 0:
			out[i] = policy.Peer{Kind: policy.PeerCIDR, Prefix: netip.MustParsePrefix(prefixes[w.IntN(len(prefixes))])}
		case 1:
			out[i] = policy.Peer{Kind: kinds[w.IntN(len(kinds))]}
		default:
			out[i] = policy.ServicePeer(exportKey([]string{"web", "db", "watched"}[w.IntN(3)]))
		}
	}
	return out
}

func (w exportWorld) statements() []policy.Statement {
	out := make([]policy.Statement, 6+w.IntN(8))
	for i := range out {
		s := policy.Statement{ID: fmt.Sprint("s", i), Verdict: policy.Allow, Tier: policy.TierOperator, From: w.peers(), To: w.peers(), App: policy.AnyApp}
		if w.IntN(4) == 0 {
			s.Verdict = policy.Drop
		}
		for range 1 + w.IntN(2) {
			lo := 2 + w.IntN(9000)
			s.Ports = append(s.Ports, policy.PortRange{Proto: []policy.Proto{policy.ProtoTCP, policy.ProtoUDP}[w.IntN(2)], Lo: uint16(lo), Hi: uint16(lo + w.IntN(2)*w.IntN(20000))})
		}
		if w.IntN(3) == 0 {
			s.Ports = append(s.Ports, policy.PortRange{Proto: policy.ProtoICMP})
		}
		out[i] = s
	}
	return out
}

func (w exportWorld) anyPorts(statements []policy.Statement) policy.PortRange {
	return statements[w.IntN(len(statements))].Ports[0]
}

var policyNet, policyNet6 = netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::/64")

// exportTable has a web server, a database that enforces and one that only
// observes.
func exportTable(t *testing.T, lab *exportLab, statements []policy.Statement) *policy.Table {
	t.Helper()
	snap := &policy.Snapshot{
		Host: policy.Host{Name: "router", Resolvers: []netip.Addr{lab.ends[3].v4, lab.ends[3].v6}},
		Networks: []policy.Network{{ID: "n", Name: "shop", Driver: "bridge", Zone: 1, Subnets: []netip.Prefix{policyNet, policyNet6},
			Gateways: []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}, ICC: true, Guarded: true}},
	}
	var groups []policy.Group
	for i, name := range []string{"web", "db", "watched"} {
		snap.Workloads = append(snap.Workloads, policy.Workload{ID: name, Name: name, Service: exportKey(name), Endpoints: []policy.Endpoint{
			{ID: "e" + name, Network: "n", MAC: policy.MAC{2, 0, 0, 0, 0, byte(i)}, Addresses: []netip.Addr{lab.ends[i].v4, lab.ends[i].v6}}}})
		g := policy.Group{Identity: policy.FirstWorkloadIdentity + policy.Identity(i), Service: exportKey(name), Guarded: true, Members: []string{name}}
		if name == "watched" {
			g.Mode = policy.Observe
		}
		groups = append(groups, g)
	}
	snap.Workloads[0], snap.Workloads[1], snap.Workloads[2] = snap.Workloads[1], snap.Workloads[2], snap.Workloads[0] // by id: db, watched, web
	table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: snap, Groups: groups, Statements: statements})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func exportKey(service string) policy.ServiceKey {
	return policy.ServiceKey{Project: policy.ProjectKey{Name: "shop"}, Name: service}
}

func exportStatements() []policy.Statement {
	kind := func(k policy.PeerKind) []policy.Peer { return []policy.Peer{{Kind: k}} }
	service := func(name string) []policy.Peer { return []policy.Peer{policy.ServicePeer(exportKey(name))} }
	cidr := func(text string) []policy.Peer {
		return []policy.Peer{{Kind: policy.PeerCIDR, Prefix: netip.MustParsePrefix(text)}}
	}
	app := func(a policy.App) policy.AppMatch { return policy.AppMatch{App: a, Forms: policy.TLSPlain} }
	port := func(n uint16) []policy.PortRange { return []policy.PortRange{policy.Port(policy.ProtoTCP, n)} }
	return []policy.Statement{
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
}

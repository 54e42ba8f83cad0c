package dataplane_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/dns/dnsmessage"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/dataplane/dataplanetest"
	"gatehouse/policy"
)

const zone = 7

// party is an end of the tests' conversations.
type party struct {
	name string
	slot uint16 // 0: outside, behind the gateway
	mac  policy.MAC
	v4   netip.Addr
	v6   netip.Addr
}

var (
	gatewayMAC = policy.MAC{2, 0, 0, 0, 0, 0xfe}
	web        = party{"web", 1, policy.MAC{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("172.18.0.2"), netip.MustParseAddr("fd00:18::2")}
	db         = party{"db", 2, policy.MAC{2, 0, 0, 0, 0, 2}, netip.MustParseAddr("172.18.0.3"), netip.MustParseAddr("fd00:18::3")}
	outside    = party{"outside", 0, gatewayMAC, netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::2")}
)

func (p party) addr(v6 bool) netip.Addr {
	if v6 {
		return p.v6
	}
	return p.v4
}

func (p party) endpoint() dataplane.Endpoint {
	return dataplane.Endpoint{
		ID: p.name + "-ep", Workload: p.name, Slot: p.slot, Zone: zone, Ifindex: 100 + uint32(p.slot), Bridge: 50,
		MAC: p.mac, Gateway: gatewayMAC, Addrs: [][16]byte{p.v4.As16(), p.v6.As16()}, ICC: true,
	}
}

func service(name string) policy.ServiceKey {
	return policy.ServiceKey{Project: policy.ProjectKey{Name: "shop"}, Name: name}
}

// line makes a statement between services, or the outside.
func line(v policy.Verdict, from, to, app string, port string) policy.Statement {
	s := policy.Statement{ID: fmt.Sprint(v, from, to, app, port), Verdict: v, Tier: policy.TierOperator}
	peer := func(name string) []policy.Peer {
		if name == "outside" {
			return []policy.Peer{{Kind: policy.PeerExternal}}
		}
		return []policy.Peer{policy.ServicePeer(service(name))}
	}
	s.From, s.To = peer(from), peer(to)
	if app == "any" {
		s.App = policy.AnyApp
	} else {
		a, ok := policy.ParseApp(app)
		if !ok {
			panic(app)
		}
		s.App = policy.AppMatch{App: a, Forms: policy.TLSNone}
	}
	r, err := policy.ParsePortRange(port)
	if err != nil {
		panic(err)
	}
	s.Ports = []policy.PortRange{r}
	return s
}

var lines = []policy.Statement{
	line(policy.Allow, "web", "db", "any", "tcp/9000"),
	line(policy.Allow, "web", "db", "http", "tcp/80"),
	line(policy.Allow, "web", "db", "any", "udp/9000"),
	line(policy.Allow, "web", "db", "icmp", "icmp"),
	line(policy.Reject, "web", "db", "any", "tcp/7000"),
	line(policy.Reject, "web", "db", "any", "udp/7000"),
	line(policy.Reject, "outside", "web", "any", "tcp/7000"),
	line(policy.Allow, "outside", "web", "any", "tcp/8080"),
	line(policy.Allow, "web", "outside", "any", "tcp/443"),
}

func table(t testing.TB, epoch uint32, mode policy.Mode, statements ...policy.Statement) *policy.Table {
	t.Helper()
	out, err := policy.Compile(tableInput(epoch, mode, statements...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tableInput(epoch uint32, mode policy.Mode, statements ...policy.Statement) policy.Input {
	in := policy.Input{Epoch: epoch, Statements: statements, Snapshot: &policy.Snapshot{Networks: []policy.Network{{
		ID: "net", Name: "net", Driver: "bridge", Zone: zone, ICC: true, Guarded: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("fd00:18::/64")},
	}}}}
	for i, p := range []party{web, db} {
		in.Snapshot.Workloads = append(in.Snapshot.Workloads, policy.Workload{
			ID: p.name, Name: p.name, Service: service(p.name),
			Endpoints: []policy.Endpoint{{ID: p.name + "-ep", Network: "net", MAC: p.mac, Addresses: []netip.Addr{p.v4, p.v6}}},
		})
		in.Groups = append(in.Groups, policy.Group{
			Identity: policy.FirstWorkloadIdentity + policy.Identity(i), Service: service(p.name), Guarded: true, Mode: mode, Members: []string{p.name},
		})
	}
	return in
}

// lane is a dataplane of one worker over a port in memory, turned by hand.
type lane struct {
	t    testing.TB
	d    *dataplane.Dataplane
	port *dataplanetest.Port
	m    *dataplanetest.FlowMap
}

func newLane(t testing.TB, statements ...policy.Statement) *lane {
	t.Helper()
	return newLaneOf(t, dataplane.Config{Flows: 1024, Ended: func([]dataplane.Flow, uint64) {}}, statements...)
}

func newLaneOf(t testing.TB, config dataplane.Config, statements ...policy.Statement) *lane {
	t.Helper()
	if statements == nil {
		statements = lines
	}
	order := new(dataplanetest.Order)
	l := &lane{t: t, m: &dataplanetest.FlowMap{Order: order}}
	var err error
	config.FlowMap = l.m
	l.d, err = dataplane.New(config)
	if err != nil {
		t.Fatal(err)
	}
	l.port, err = dataplanetest.NewPort(256)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.port.Close() })
	l.port.Order = order
	l.d.SetTable(table(t, 1, policy.Enforce, statements...))
	l.d.SetEndpoints([]dataplane.Endpoint{web.endpoint(), db.endpoint()})
	if err := l.d.AddPort(0, 0, l.port); err != nil {
		t.Fatal(err)
	}
	l.d.Turn(0)
	return l
}

// send steers a frame from the sender's hook, or the receiver's if the sender
// is outside, and returns what was transmitted.
func (l *lane) send(from, to party, frame []byte) []dataplanetest.Sent {
	l.t.Helper()
	slot, dir := from.slot, dataplane.FromEndpoint
	if slot == 0 {
		slot, dir = to.slot, dataplane.ToEndpoint
	}
	if !l.port.Steer(slot, dir, frame) {
		l.t.Fatal("no frame free")
	}
	l.d.Turn(0)
	if total, held := l.port.Balance(); total != 256 || held != 0 {
		l.t.Fatalf("%d of 256 frames, %d not given back", total, held)
	}
	return l.port.Take()
}

func (l *lane) passes(from, to party, frame []byte) {
	l.t.Helper()
	got := l.send(from, to, frame)
	if len(got) != 1 || string(got[0].Data) != string(frame) {
		l.t.Fatalf("%s to %s: %d frames left, want the one that came", from.name, to.name, len(got))
	}
}

func (l *lane) isDropped(from, to party, frame []byte, why policy.Reason) {
	l.t.Helper()
	before := l.d.Counters().Reasons[why]
	if got := l.send(from, to, frame); len(got) != 0 {
		l.t.Fatalf("%s to %s: %d frames left, want none", from.name, to.name, len(got))
	}
	if n := l.d.Counters().Reasons[why] - before; n != 1 {
		l.t.Errorf("%s to %s: %d packets counted as %v, want 1", from.name, to.name, n, why)
	}
}

func serialize(t testing.TB, from, to party, v6 bool, proto layers.IPProtocol, l4 gopacket.SerializableLayer, payload string) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: from.mac[:], DstMAC: to.mac[:], EthernetType: layers.EthernetTypeIPv4}
	src, dst := from.addr(v6), to.addr(v6)
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	}
	if v6 {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, NextHeader: proto, HopLimit: 64, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	} else {
		ip = &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	if c, ok := l4.(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := c.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, l4, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(b.Bytes())
}

func udp(t testing.TB, from, to party, v6 bool, sport, dport uint16, payload string) []byte {
	return serialize(t, from, to, v6, layers.IPProtocolUDP, &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}, payload)
}

// conn makes the segments of one TCP connection.
type conn struct {
	t              testing.TB
	client, server party
	v6             bool
	sport, dport   uint16
	seq            [2]uint32
}

func newConn(t testing.TB, client, server party, v6 bool, sport, dport uint16) *conn {
	return &conn{t: t, client: client, server: server, v6: v6, sport: sport, dport: dport, seq: [2]uint32{1000, 9000}}
}

func (c *conn) segment(fromServer bool, flags, payload string) []byte {
	h := &layers.TCP{SrcPort: layers.TCPPort(c.sport), DstPort: layers.TCPPort(c.dport), Seq: c.seq[0], Ack: c.seq[1], Window: 1000,
		SYN: strings.Contains(flags, "S"), ACK: strings.Contains(flags, "A"), FIN: strings.Contains(flags, "F"), RST: strings.Contains(flags, "R")}
	from, to, side := c.client, c.server, 0
	if fromServer {
		h.SrcPort, h.DstPort, h.Seq, h.Ack = h.DstPort, h.SrcPort, h.Ack, h.Seq
		from, to, side = to, from, 1
	}
	if !h.ACK {
		h.Ack = 0
	}
	c.seq[side] += uint32(len(payload))
	if h.SYN || h.FIN {
		c.seq[side]++
	}
	return serialize(c.t, from, to, c.v6, layers.IPProtocolTCP, h, payload)
}

// open takes the connection through the handshake.
func (c *conn) open(l *lane) {
	c.t.Helper()
	l.passes(c.client, c.server, c.segment(false, "S", ""))
	l.passes(c.server, c.client, c.segment(true, "SA", ""))
	l.passes(c.client, c.server, c.segment(false, "A", ""))
}

func (c *conn) key() classify.FlowKey {
	k, _ := classify.MakeKey(zone, policy.ProtoTCP, c.client.addr(c.v6).As16(), c.server.addr(c.v6).As16(), c.sport, c.dport)
	return k
}

func families(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Run("IPv4", func(t *testing.T) { f(t, false) })
	t.Run("IPv6", func(t *testing.T) { f(t, true) })
}

// TestOffloadOrder: nothing may overtake the packet that decided its flow; the
// answer to a SYN needs not come here.
func TestOffloadOrder(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for name, tc := range map[string]struct {
			frame []byte
			want  []string
		}{
			"SYN":      {newConn(t, web, db, v6, 40000, 9000).segment(false, "S", ""), []string{"recv", "put", "flush"}},
			"datagram": {udp(t, web, db, v6, 40000, 9000, "x"), []string{"recv", "flush", "put"}},
		} {
			l := newLane(t)
			l.passes(web, db, tc.frame)
			steps := l.port.Order.Steps()
			if i := slices.Index(steps, "recv"); !slices.Equal(steps[i:], tc.want) {
				t.Errorf("%s: steps %v, want %v", name, steps, tc.want)
			}
		}
	})
}

func TestAllowedFlowIsOffloaded(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, db, v6, 40000, 9000)
		l.passes(web, db, c.segment(false, "S", ""))
		e, ok := l.m.Get(c.key())
		if !ok {
			t.Fatal("not offloaded")
		}
		from := 0
		if e.Key.PortA == 9000 {
			from = 1
		}
		if e.Verdict != policy.Allow || e.Epoch != 1 || !e.Peer || int(e.Initiator) != from ||
			e.Ifindex[from] != 101 || e.Ifindex[1-from] != 102 || e.MAC[from] != web.mac || e.MAC[1-from] != db.mac {
			t.Errorf("entry %+v", e)
		}
	})
}

func TestFlowToOutsideHasOneLocalEnd(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, outside, v6, 40000, 443)
		l.passes(web, outside, c.segment(false, "S", ""))
		e, ok := l.m.Get(c.key())
		if !ok {
			t.Fatal("not offloaded")
		}
		i := e.Initiator
		if e.Peer || e.Ifindex[i] != 101 || e.Ifindex[1-i] != 0 || e.MAC[1-i] != gatewayMAC {
			t.Errorf("entry %+v", e)
		}
		in := newConn(t, outside, web, v6, 50000, 8080)
		l.passes(outside, web, in.segment(false, "S", ""))
		l.passes(web, outside, in.segment(true, "SA", ""))
		if e, ok := l.m.Get(in.key()); !ok || e.Peer || e.Ifindex[e.Initiator] != 0 || e.Ifindex[1-e.Initiator] != 101 {
			t.Errorf("entry of an incoming flow %+v, %v", e, ok)
		}
	})
}

// What the worker looks at as long as a flow lasts is offered for the proof that the
// bridge delivers it, once it has lasted for some packets.
func TestStayingFlow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		key := func() (k classify.FlowKey, ok bool) {
			entries := make([]dataplane.FlowEntry, 2)
			n, _, err := l.m.Scan(entries)
			if err != nil || n > 1 {
				t.Fatalf("%d entries, %v", n, err)
			}
			return entries[0].Key, n == 1
		}
		// round sends an echo and its answer and says whether both were sent as
		// a flow's that was handed over.
		round := func() bool {
			t.Helper()
			asked := l.send(web, db, echoFrame(t, web, db, v6, true))
			answered := l.send(db, web, echoFrame(t, db, web, v6, false))
			if len(asked) != 1 || len(answered) != 1 {
				t.Fatalf("%d and %d frames left, want one each", len(asked), len(answered))
			}
			return asked[0].Line && answered[0].Line
		}
		for range 3 {
			if round() {
				t.Fatal("a short flow was handed over")
			}
		}
		if _, ok := key(); ok {
			t.Fatal("a short flow was offloaded")
		}
		round()
		k, ok := key()
		if !ok || !round() {
			t.Fatalf("entry %v: a long flow was not handed over", ok)
		}
		e, _ := l.m.Get(k)
		if !e.Stays || !e.Peer || e.Verdict != policy.Allow || e.Epoch != 1 || e.Ifindex[e.Initiator] != 101 || e.Ifindex[1-e.Initiator] != 102 {
			t.Errorf("entry %+v", e)
		}
		if fs := l.d.ListFlows(); len(fs) != 1 || fs[0].Packets != [2]uint64{5, 5} {
			t.Errorf("flows %+v", fs)
		}

		// A new table: what is known of its delivery ends with the old one.
		l.d.SetTable(table(t, 2, policy.Enforce, lines...))
		round()
		if e, ok := l.m.Get(k); !ok || e.Epoch != 2 || !e.Stays {
			t.Errorf("under a new table: entry %+v, %v", e, ok)
		}
		l.d.SetTable(table(t, 3, policy.Enforce, lines[0]))
		l.send(web, db, echoFrame(t, web, db, v6, true))
		if e, ok := l.m.Get(k); ok && e.Verdict == policy.Allow {
			t.Errorf("refused by a new table: entry %+v", e)
		}

		l.d.SetEndpoints([]dataplane.Endpoint{web.endpoint()})
		l.d.Turn(0)
		if _, ok := key(); ok {
			t.Error("the entry outlived its endpoint")
		}
	})
}

func echoFrame(t testing.TB, from, to party, v6, request bool) []byte {
	typ := map[bool]map[bool]uint8{false: {true: 8, false: 0}, true: {true: 128, false: 129}}[v6][request]
	if v6 {
		return serialize(t, from, to, v6, layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}, "\x00\x07\x00\x01ping")
	}
	return serialize(t, from, to, v6, layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: 7}, "ping")
}

func TestPeerOnlyWhereTheBridgeDelivers(t *testing.T) {
	for name, change := range map[string]func(*dataplane.Endpoint){
		"other bridge":         func(e *dataplane.Endpoint) { e.Bridge = 51 },
		"no icc":               func(e *dataplane.Endpoint) { e.ICC = false },
		"the bridge's own MAC": func(e *dataplane.Endpoint) { e.Gateway = e.MAC },
	} {
		l := newLane(t)
		e := db.endpoint()
		change(&e)
		l.d.SetEndpoints([]dataplane.Endpoint{web.endpoint(), e})
		c := newConn(t, web, db, false, 40000, 9000)
		l.passes(web, db, c.segment(false, "S", ""))
		if e, ok := l.m.Get(c.key()); !ok || e.Peer {
			t.Errorf("%s: entry %+v, %v", name, e, ok)
		}
	}
}

func TestWrongApplicationDoesNotArrive(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		good := newConn(t, web, db, v6, 40000, 80)
		good.open(l)
		if e, ok := l.m.Get(good.key()); !ok || e.Verdict != policy.Undecided || e.Peer {
			t.Fatalf("entry before the application is known %+v, %v", e, ok)
		}
		l.passes(web, db, good.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
		l.passes(db, web, good.segment(true, "A", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
		if e, ok := l.m.Get(good.key()); !ok || e.Verdict != policy.Allow || e.App != policy.AppHTTP {
			t.Errorf("entry %+v, %v", e, ok)
		}

		bad := newConn(t, web, db, v6, 40001, 80)
		bad.open(l)
		l.isDropped(web, db, bad.segment(false, "A", "SSH-2.0-OpenSSH_9.2\r\n"), policy.ReasonApp)
		if e, ok := l.m.Get(bad.key()); !ok || e.Verdict != policy.Drop || e.Reason != policy.ReasonApp {
			t.Errorf("entry %+v, %v", e, ok)
		}
		l.isDropped(db, web, bad.segment(true, "A", "SSH-2.0-x\r\n"), policy.ReasonApp)

		if c := l.d.Counters(); c.Offloaded != 2 {
			t.Errorf("%d flows offloaded, want those two that were decided", c.Offloaded)
		}
		l.d.Settle()
		vs := l.d.Violations().List()
		if len(vs) != 2 {
			t.Fatalf("%d violations, want one for each hook that dropped: %+v", len(vs), vs)
		}
		v := vs[len(vs)-1]
		if v.Reason != policy.ReasonApp || v.Spoken.App != policy.AppSSH || v.Mode != policy.Enforce || v.Workload != "web" ||
			v.Src.Addr() != web.addr(v6) || v.Dst != netip.AddrPortFrom(db.addr(v6), 80) || v.FromName != "shop/web" || v.ToName != "shop/db" {
			t.Errorf("violation %+v", v)
		}
	})
}

// TestUndecidedInTheKernel: the kernel learns of an undecided connection with its
// SYN, before that is transmitted, and again where the answer came here; it forgets
// it where the decision stays in user space, where it ends, and where its reader is
// gone.
func TestUndecidedInTheKernel(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t, append([]policy.Statement{line(policy.Reject, "web", "db", "ssh", "tcp/80")}, lines...)...)
		c := newConn(t, web, db, v6, 40000, 80)
		var e dataplane.FlowEntry
		var ok bool
		for _, opening := range []bool{true, false} {
			if opening {
				l.passes(web, db, c.segment(false, "S", ""))
			} else {
				l.passes(db, web, c.segment(true, "SA", ""))
			}
			steps := l.port.Order.Steps()
			if n := len(steps); n < 2 || !slices.Equal(steps[n-2:], []string{"put", "flush"}) {
				t.Errorf("steps %v, want the entry before the transmit", steps)
			}
			e, ok = l.m.Get(c.key())
			if i := e.Initiator; !ok || e.Verdict != policy.Undecided || e.Peer || e.Ifindex[i] != web.endpoint().Ifindex || e.Ifindex[1-i] != db.endpoint().Ifindex {
				t.Errorf("entry %+v, %v", e, ok)
			}
			if e.Opening != opening || opening && e.Awaited != c.seq[0] {
				t.Errorf("entry %+v, opening %v", e, opening)
			}
		}
		if flows := l.d.ListFlows(); len(flows) != 1 || flows[0].Offloaded {
			t.Errorf("flows %+v", flows)
		}

		if got := l.send(web, db, c.segment(false, "A", "SSH-2.0-OpenSSH_9.2\r\n")); len(got) != 2 {
			t.Fatalf("%d frames, want a reset for each end", len(got))
		}
		if e, ok := l.m.Get(c.key()); ok {
			t.Errorf("rejected, and the kernel has %+v", e)
		}

		ended := newConn(t, web, db, v6, 40001, 80)
		ended.open(l)
		l.passes(web, db, ended.segment(false, "RA", ""))
		l.d.Elapse(time.Second)
		l.d.Turn(0)
		if e, ok := l.m.Get(ended.key()); ok {
			t.Errorf("reset, and the kernel has %+v", e)
		}

		// Its answer passes in the kernel, and nothing more comes.
		silent := newConn(t, web, db, v6, 40003, 80)
		l.passes(web, db, silent.segment(false, "S", ""))
		l.m.NoteAnswer(silent.key(), silent.seq[1], 60)
		if flows := l.d.ListFlows(); !slices.ContainsFunc(flows, func(f dataplane.Flow) bool {
			return f.Src.Port() == 40003 && f.Packets == [2]uint64{1, 1}
		}) {
			t.Errorf("flows %+v, want the one that the kernel saw answered", flows)
		}
		// One that is never answered leaves the map when it is given up.
		unanswered := newConn(t, web, db, v6, 40004, 80)
		l.passes(web, db, unanswered.segment(false, "S", ""))
		l.passes(db, web, unanswered.segment(true, "RA", ""))
		l.d.Elapse(time.Second)
		l.d.Turn(0)
		if e, ok := l.m.Get(unanswered.key()); ok {
			t.Errorf("refused by its responder, and the kernel has %+v", e)
		}

		left := newConn(t, web, db, v6, 40002, 80)
		left.open(l)
		e, ok = l.m.Get(left.key())
		if !ok {
			t.Fatal("no entry")
		}
		next := newLane(t)
		if err := next.m.Put([]dataplane.FlowEntry{e}); err != nil {
			t.Fatal(err)
		}
		if n := next.d.Adopt([]dataplane.FlowEntry{e}); n != 0 {
			t.Errorf("%d undecided flows adopted", n)
		}
		next.d.Turn(0)
		if next.m.Len() != 0 || len(next.d.ListFlows()) != 0 {
			t.Error("a new process keeps what the old one had not decided")
		}
	})
}

func TestUnmatchedFlowIsDroppedAndCountedOnce(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		for range 5 {
			l.isDropped(web, db, udp(t, web, db, v6, 5000, 1234, "x"), policy.ReasonNoRule)
		}
		l.d.Settle()
		vs := l.d.Violations().List()
		if len(vs) != 1 || vs[0].Packets != 5 || vs[0].Count != 5 || vs[0].Reason != policy.ReasonNoRule || vs[0].Rule != -1 {
			t.Fatalf("violations %+v", vs)
		}
		// The kernel goes on dropping.
		k, _ := classify.MakeKey(zone, policy.ProtoUDP, web.addr(v6).As16(), db.addr(v6).As16(), 5000, 1234)
		l.m.Update(k, func(e *dataplane.FlowEntry) {
			side := e.Initiator
			e.Packets[side], e.Bytes[side] = 40, 4000
		})
		l.d.Settle()
		if vs := l.d.Violations().List(); len(vs) != 1 || vs[0].Packets != 45 || l.d.Violations().Made() != 1 {
			t.Fatalf("with the kernel's: %+v", vs)
		}
	})
}

func TestObserveRecordsAndPasses(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		l.d.SetTable(table(t, 2, policy.Observe, lines...))
		observed := []dataplane.Endpoint{web.endpoint(), db.endpoint()}
		for i := range observed {
			observed[i].Mode = policy.Observe
		}
		l.d.SetEndpoints(observed)
		l.passes(web, db, udp(t, web, db, v6, 5000, 1234, "x"))
		// A neighbour that routes for others is no violation of an observer's peace.
		f := udp(t, web, outside, v6, 5000, 1234, "x")
		copy(f, db.mac[:])
		l.passes(web, outside, f)
		l.d.Settle()
		got := map[policy.Reason]policy.Mode{}
		for _, v := range l.d.Violations().List() {
			got[v.Reason] = v.Mode
		}
		for _, r := range []policy.Reason{policy.ReasonNoRule, policy.ReasonDestinationMAC} {
			if mode, ok := got[r]; !ok || mode != policy.Observe {
				t.Errorf("%v: recorded %v as %v", r, ok, mode)
			}
		}
	})
}

func TestDestinationMAC(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		toGateway := db
		toGateway.mac = gatewayMAC
		stranger := outside
		stranger.mac = policy.MAC{2, 0, 0, 0, 0, 0x77}
		viaNeighbour := outside
		viaNeighbour.mac = db.mac
		everybody := db
		everybody.mac = policy.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		outsideToAll := outside
		outsideToAll.mac = everybody.mac
		for _, to := range []party{toGateway, stranger, viaNeighbour, everybody, outsideToAll} {
			l.isDropped(web, to, udp(t, web, to, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		}
		for _, to := range []party{{mac: everybody.mac, v4: netip.MustParseAddr("172.18.255.255"), v6: db.v6}, {mac: everybody.mac, v4: netip.MustParseAddr("255.255.255.255"), v6: db.v6}} {
			if !v6 { // the right frame for a broadcast, which policy does not allow
				l.isDropped(web, to, udp(t, web, to, v6, 5000, 9000, "x"), policy.ReasonMulticast)
			}
		}
		over := web.endpoint()
		over.Overlay = true
		l.d.SetEndpoints([]dataplane.Endpoint{over, db.endpoint()})
		c := newConn(t, web, stranger, v6, 40000, 443)
		l.passes(web, stranger, c.segment(false, "S", ""))
		l.isDropped(web, viaNeighbour, udp(t, web, viaNeighbour, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
	})
}

// What goes on to a neighbour that was stopped is dropped and counted; a violation is
// only what is for a MAC that somebody has, or for somebody's address at another MAC.
func TestGoneNeighbour(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		gone := party{"gone", 0, policy.MAC{2, 0, 0, 0, 0, 0x77}, netip.MustParseAddr("172.18.0.77"), netip.MustParseAddr("fd00:18::77")}
		violations := func() int {
			l.d.Settle()
			n := 0
			for _, v := range l.d.Violations().List() {
				if v.Reason == policy.ReasonDestinationMAC {
					n++
				}
			}
			return n
		}
		l.isDropped(web, gone, udp(t, web, gone, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		if n := violations(); n != 0 {
			t.Errorf("%d violations of a neighbour that is gone", n)
		}
		poisoned := gone
		poisoned.mac = db.mac
		l.isDropped(web, poisoned, udp(t, web, poisoned, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		if n := violations(); n != 1 {
			t.Errorf("%d violations of a neighbour that has another's address", n)
		}
		moved := db
		moved.mac = gone.mac
		l.isDropped(web, moved, udp(t, web, moved, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		if n := violations(); n == 0 {
			t.Error("no violation of an address at another MAC")
		}
	})
}

// TestForeignAddressAtAnEndpoint: a neighbour that nobody stops (not guarded,
// or only observed) cannot reach an endpoint under an address that policy lets
// it talk to.
func TestForeignAddressAtAnEndpoint(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		neighbour := party{"neighbour", 0, policy.MAC{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("172.18.0.9"), netip.MustParseAddr("fd00:18::9")}
		for _, dst := range [][2]string{
			{"198.51.100.2", "2001:db8::2"}, {"172.18.0.77", "fd00:18::77"}, {"224.0.0.251", "ff02::fb"}, {"255.255.255.255", "ff02::1"}, {"172.18.0.255", "fe80::1"},
		} {
			l := newLane(t)
			to := db
			to.slot, to.v4, to.v6 = db.slot, netip.MustParseAddr(dst[0]), netip.MustParseAddr(dst[1])
			l.isDropped(neighbour, to, udp(t, neighbour, to, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		}
	})
}

func decode(t *testing.T, s dataplanetest.Sent) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(s.Data, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	return p
}

func TestRejectAnswersTheSender(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, db, v6, 40000, 7000)
		got := l.send(web, db, c.segment(false, "S", ""))
		if len(got) != 1 || got[0].Slot != web.slot || got[0].Dir != dataplane.ToEndpoint {
			t.Fatalf("sent %+v", got)
		}
		rst := decode(t, got[0]).Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !rst.RST || rst.Ack != 1001 || rst.DstPort != 40000 {
			t.Errorf("answer %+v", rst)
		}
		got = l.send(web, db, udp(t, web, db, v6, 5000, 7000, "x"))
		if len(got) != 1 || got[0].Dir != dataplane.ToEndpoint {
			t.Fatalf("sent %+v", got)
		}
		in := newConn(t, outside, web, v6, 40000, 7000)
		got = l.send(outside, web, in.segment(false, "S", ""))
		if len(got) != 1 || got[0].Slot != web.slot || got[0].Dir != dataplane.FromEndpoint {
			t.Fatalf("answer to outside: %+v", got)
		}
		if l.m.Len() != 0 {
			t.Error("a rejected flow was offloaded: its next packet would have no answer")
		}
	})
}

// A lookup that policy does not allow fails at once: by DNS where it is a query
// over UDP, else as a closed port. Nobody else is told, and nothing leaves.
func TestRefusedLookupIsAnswered(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		answerTo := func(payload string) gopacket.Packet {
			t.Helper()
			got := l.send(web, outside, udp(t, web, outside, v6, 5000, 53, payload))
			if len(got) != 1 || got[0].Dir != dataplane.ToEndpoint || got[0].Slot != web.slot {
				t.Fatalf("sent %+v", got)
			}
			p := decode(t, got[0])
			if f := p.NetworkLayer().NetworkFlow(); f.Src().String() != outside.addr(v6).String() || f.Dst().String() != web.addr(v6).String() {
				t.Errorf("an answer of %v", f)
			}
			return p
		}
		for name, want := range map[string]dnsmessage.RCode{"ldap.example.com.": dnsmessage.RCodeRefused, "redis.": dnsmessage.RCodeNameError} {
			for id := range uint16(3) { // each try, not the first alone
				u, ok := answerTo(message(t, id, false, name)).Layer(layers.LayerTypeUDP).(*layers.UDP)
				var m dnsmessage.Message
				if !ok || u.SrcPort != 53 || u.DstPort != 5000 || m.Unpack(u.Payload) != nil || m.ID != id || !m.Response || m.RCode != want {
					t.Errorf("%s: %+v", name, m)
				}
			}
		}
		for _, payload := range []string{"query", message(t, 7, true, "redis.")} {
			p := answerTo(payload)
			if v6 {
				if m := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); m.TypeCode != layers.CreateICMPv6TypeCode(1, 4) {
					t.Errorf("answer %v", m.TypeCode)
				}
			} else if m := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); m.TypeCode != layers.CreateICMPv4TypeCode(3, 3) {
				t.Errorf("answer %v", m.TypeCode)
			}
		}
		c := newConn(t, web, outside, v6, 40000, 53)
		got := l.send(web, outside, c.segment(false, "S", ""))
		if len(got) != 1 || !decode(t, got[0]).Layer(layers.LayerTypeTCP).(*layers.TCP).RST {
			t.Fatalf("sent %+v", got)
		}
		l.isDropped(outside, web, udp(t, outside, web, v6, 5000, 53, message(t, 7, false, "redis.")), policy.ReasonNoRule)
	})
}

// Lookups fail by the hundred where a server looks up each of its clients, and what
// else is refused meanwhile takes nothing of their answers.
func TestManyLookupsAreAnswered(t *testing.T) {
	l := newLane(t)
	answers := func(n int, to party, port uint16) (told int) {
		for i := range n {
			told += len(l.send(web, to, udp(t, web, to, false, uint16(1000+i), port, message(t, 7, false, "redis."))))
		}
		return told
	}
	answers(300, db, 7000)
	if told := answers(400, outside, 53); told != 400 {
		t.Errorf("%d of 400 lookups are answered", told)
	}
}

// What a container that enforces begins and no statement lets pass fails at once
// where that is asked for. Nobody else is told: who is outside, who only observes,
// and who is denied by a statement that says drop.
func TestRejectOwn(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLaneOf(t, dataplane.Config{Flows: 1024, RejectOwn: true}, append(slices.Clone(lines), line(policy.Drop, "web", "db", "any", "tcp/6000"))...)
		toSender := func(frame []byte) gopacket.Packet {
			t.Helper()
			got := l.send(web, outside, frame)
			if len(got) != 1 || got[0].Dir != dataplane.ToEndpoint || got[0].Slot != web.slot {
				t.Fatalf("sent %+v", got)
			}
			return decode(t, got[0])
		}
		for range 2 {
			rst, _ := toSender(newConn(t, web, outside, v6, 40000, 25).segment(false, "S", "")).Layer(layers.LayerTypeTCP).(*layers.TCP)
			if rst == nil || !rst.RST || rst.Ack != 1001 || rst.DstPort != 40000 {
				t.Errorf("answer %+v", rst)
			}
		}
		datagram := udp(t, web, outside, v6, 5000, 9000, "x")
		p := toSender(datagram)
		if v6 {
			if m, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); !ok || m.TypeCode != layers.CreateICMPv6TypeCode(1, 1) {
				t.Errorf("answer %v", p)
			}
		} else if m, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); !ok || m.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
			t.Errorf("answer %v", p)
		}
		if l.m.Len() != 1 {
			t.Errorf("%d flows in the kernel's map, want the datagrams': a flood of them would stay in user space", l.m.Len())
		}

		l.isDropped(outside, web, newConn(t, outside, web, v6, 40000, 25).segment(false, "S", ""), policy.ReasonNoRule)
		l.isDropped(outside, web, udp(t, outside, web, v6, 5000, 9000, "x"), policy.ReasonNoRule)
		l.isDropped(web, db, newConn(t, web, db, v6, 40001, 6000).segment(false, "S", ""), policy.ReasonDenied)
		observing := web.endpoint()
		observing.Mode = policy.Observe
		l.d.SetEndpoints([]dataplane.Endpoint{observing, db.endpoint()})
		for _, s := range l.send(web, db, newConn(t, web, db, v6, 40002, 25).segment(false, "S", "")) {
			if s.Dir == dataplane.ToEndpoint {
				t.Errorf("who only observes is told: %v", decode(t, s))
			}
		}
	})
}

func TestRejectsAreRateLimited(t *testing.T) {
	l := newLane(t)
	answers := 0
	for i := range 500 {
		answers += len(l.send(web, db, udp(t, web, db, false, uint16(1000+i), 7000, "x")))
	}
	if answers == 0 || answers > 300 {
		t.Errorf("%d answers to 500 packets", answers)
	}
}

// TestPolicyChangeCutsLiveFlow: both ends are told where the new table rejects,
// and one drops silently where it denies.
func TestPolicyChangeCutsLiveFlow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, db, v6, 40000, 9000)
		c.open(l)
		l.d.SetTable(table(t, 2, policy.Enforce, line(policy.Reject, "web", "db", "any", "tcp/9000")))
		got := l.send(web, db, c.segment(false, "A", "more"))
		if len(got) != 2 {
			t.Fatalf("%d frames, want a reset for each end", len(got))
		}
		back, on := decode(t, got[0]).Layer(layers.LayerTypeTCP).(*layers.TCP), decode(t, got[1]).Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !back.RST || back.SrcPort != 9000 || got[0].Dir != dataplane.ToEndpoint || back.Seq != 9001 {
			t.Errorf("to the sender: %+v", back)
		}
		if !on.RST || on.SrcPort != 40000 || got[1].Dir != dataplane.FromEndpoint || on.Seq != 1001 || len(on.Payload) != 0 {
			t.Errorf("to the receiver: %+v", on)
		}

		l = newLane(t)
		c = newConn(t, web, db, v6, 40000, 9000)
		c.open(l)
		l.d.SetTable(table(t, 2, policy.Enforce))
		l.isDropped(web, db, c.segment(false, "A", "more"), policy.ReasonPolicyChanged)
		if e, ok := l.m.Get(c.key()); !ok || e.Verdict != policy.Drop || e.Epoch != 2 {
			t.Errorf("entry %+v, %v", e, ok)
		}
	})
}

func TestPolicyChangeKeepsAllowedFlow(t *testing.T) {
	l := newLane(t)
	c := newConn(t, web, db, false, 40000, 80)
	c.open(l)
	l.passes(web, db, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
	l.passes(db, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\n\r\n"))
	l.d.SetTable(table(t, 2, policy.Enforce, lines...))
	l.passes(db, web, c.segment(true, "A", "more"))
	if e, ok := l.m.Get(c.key()); !ok || e.Epoch != 2 || e.Verdict != policy.Allow {
		t.Errorf("entry %+v, %v", e, ok)
	}
}

// TestNewConversationOnOldKey: what the kernel knew of a key must not speak for
// the next connection on it.
func TestNewConversationOnOldKey(t *testing.T) {
	l := newLane(t)
	c := newConn(t, web, db, false, 40000, 80)
	c.open(l)
	l.passes(web, db, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
	l.passes(db, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\n\r\n"))
	if l.m.Len() != 1 {
		t.Fatal("not offloaded")
	}
	again := newConn(t, web, db, false, 40000, 80)
	again.seq[0] = 777777
	l.passes(web, db, again.segment(false, "S", ""))
	if l.m.Len() != 0 {
		t.Error("the old entry carries the new connection")
	}
}

func TestStaleFramesAreDropped(t *testing.T) {
	l := newLane(t)
	c := newConn(t, web, db, false, 40000, 9000)
	syn := c.segment(false, "S", "")
	for range 100 {
		l.port.Steer(web.slot, dataplane.FromEndpoint, syn)
	}
	l.d.Stop(0, 300*time.Millisecond)
	l.d.Turn(0)
	if got := l.port.Take(); len(got) != 0 {
		t.Errorf("%d frames were delivered late", len(got))
	}
	if n := l.d.Counters().Reasons[policy.ReasonStale]; n != 100 {
		t.Errorf("%d counted as stale", n)
	}
	l.passes(web, db, syn)
}

func TestUnknownSlotIsDropped(t *testing.T) {
	l := newLane(t)
	for _, slot := range []uint16{0, 3, 2047} {
		p := web
		p.slot = slot
		before := l.d.Counters().Dropped
		l.port.Steer(slot, dataplane.FromEndpoint, udp(t, p, db, false, 5000, 9000, "x"))
		l.d.Turn(0)
		if got := l.port.Take(); len(got) != 0 || l.d.Counters().Dropped != before+1 {
			t.Errorf("slot %d: %d frames left", slot, len(got))
		}
	}
}

func TestMalformedIsDropped(t *testing.T) {
	l := newLane(t)
	short := udp(t, web, db, false, 5000, 9000, "x")[:30]
	l.isDropped(web, db, short, policy.ReasonTruncated)
	options := udp(t, web, db, false, 5000, 9000, "0123456789")
	options[14] = 0x46
	l.isDropped(web, db, options, policy.ReasonIPOptions)
	l.d.Settle()
	if vs := l.d.Violations().List(); len(vs) != 2 || vs[0].Endpoint != "web-ep" || vs[0].Src.IsValid() {
		t.Errorf("violations %+v", vs)
	}
}

// TestUnjudged: what the kernel's programs drop is the endpoint's at which they do, who
// sent it; but a frame in the name of an endpoint here was sent to that one, by nobody knows whom.
func TestUnjudged(t *testing.T) {
	for reason, sent := range map[policy.Reason]bool{policy.ReasonSourceAddress: true, policy.ReasonVLAN: true, policy.ReasonSourceInterface: false} {
		l := newLane(t)
		l.d.AddUnjudged("web-ep", reason, 3)
		l.d.AddUnjudged("nobody", reason, 3)
		l.d.Settle()
		if vs := l.d.Violations().List(); len(vs) != 1 || vs[0].Packets != 3 || vs[0].Reason != reason || vs[0].Endpoint != "web-ep" || vs[0].Initiator != sent || vs[0].Outgoing != sent {
			t.Errorf("%v: %+v", reason, vs)
		}
	}
}

// TestEndpointsFlowsEndWithIt: whoever has the address next inherits nothing.
func TestEndpointsFlowsEndWithIt(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, db, v6, 40000, 9000)
		c.open(l)
		next := db.endpoint()
		next.Ifindex, next.Attached = 200, 5
		l.d.SetEndpoints([]dataplane.Endpoint{web.endpoint(), next})
		l.d.Turn(0)
		if l.m.Len() != 0 {
			t.Error("the kernel still carries the old endpoint's flow")
		}
		if fs := l.d.ListFlows(); len(fs) != 0 {
			t.Errorf("flows %+v", fs)
		}
	})
}

func TestEntriesOfNobodyAreSwept(t *testing.T) {
	l := newLane(t)
	k, _ := classify.MakeKey(zone, policy.ProtoTCP, netip.MustParseAddr("172.18.0.77").As16(), db.v4.As16(), 1, 2)
	now := uint32(l.d.Now() / 1e9)
	if err := l.m.Put([]dataplane.FlowEntry{{Key: k, Ifindex: [2]uint32{9, 9}, Verdict: policy.Allow, Seen: now}}); err != nil {
		t.Fatal(err)
	}
	old, _ := classify.MakeKey(zone, policy.ProtoUDP, web.v4.As16(), db.v4.As16(), 1, 2)
	if err := l.m.Put([]dataplane.FlowEntry{{Key: old, Ifindex: [2]uint32{101, 102}, Verdict: policy.Allow, Seen: now - 1000}}); err != nil {
		t.Fatal(err)
	}
	l.d.Settle()
	if n := l.m.Len(); n != 0 {
		t.Errorf("%d entries left", n)
	}
}

func TestKernelsCountsReachTheFlow(t *testing.T) {
	l := newLane(t)
	c := newConn(t, web, db, false, 40000, 9000)
	c.open(l)
	k := c.key()
	for round := range uint32(2) {
		l.m.Update(k, func(e *dataplane.FlowEntry) {
			i := e.Initiator
			e.Packets[i], e.Bytes[i] = 100*(round+1), 50000*uint64(round+1)
			e.Seen = uint32(l.d.Now() / 1e9)
		})
		l.d.Settle()
	}
	fs := l.d.ListFlows()
	if len(fs) != 1 {
		t.Fatalf("flows %+v", fs)
	}
	f := fs[0]
	if !f.Offloaded || f.Packets[0] < 200 || f.Bytes[0] < 100000 || f.Src.Addr() != web.v4 || f.Workload != [2]string{"web", "db"} {
		t.Errorf("flow %+v", f)
	}
}

// TestClosedConnectionsDoNotPileUp: more connections than an endpoint's share of
// the table, one after the other, closed in the kernel's sight only.
func TestClosedConnectionsDoNotPileUp(t *testing.T) {
	for name, bits := range map[string]uint8{"fin": 3, "rst": 4} {
		l := newLane(t)
		for i := range 1000 {
			c := newConn(t, web, db, i%2 == 0, uint16(10000+i), 9000)
			l.passes(web, db, c.segment(false, "S", ""))
			l.m.Update(c.key(), func(e *dataplane.FlowEntry) { e.Closed, e.Bytes[0] = bits, 100 })
			if i%50 == 0 {
				l.d.Settle()
				l.d.Elapse(time.Second)
				l.d.Turn(0)
			}
		}
		if n := l.m.Len(); n > 100 {
			t.Errorf("%s: %d entries are left in the kernel's map", name, n)
		}
	}
}

func TestAnsweredLookupsDoNotPileUp(t *testing.T) {
	l := newLane(t, line(policy.Allow, "web", "db", "any", "udp/53"))
	for i := range 1000 {
		q := udp(t, web, db, i%2 == 0, uint16(10000+i), 53, "query")
		l.passes(web, db, q)
		l.passes(db, web, udp(t, db, web, i%2 == 0, 53, uint16(10000+i), "answer"))
		if i%50 == 0 {
			l.d.Elapse(4 * time.Second)
			l.d.Turn(0)
		}
	}
	if n := l.m.Len(); n > 100 {
		t.Errorf("%d entries are left in the kernel's map", n)
	}
}

func TestAdoptedFlowGoesOn(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		old := newLane(t)
		c := newConn(t, web, db, v6, 40000, 80)
		c.open(old)
		old.passes(web, db, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
		old.passes(db, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\n\r\n"))
		entries := make([]dataplane.FlowEntry, 10)
		n, _, err := old.m.Scan(entries)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}

		l := newLane(t)
		l.d.SetTable(table(t, 9, policy.Enforce, lines...))
		l.d.Adopt(entries[:n])
		l.d.Turn(0)
		l.passes(db, web, c.segment(true, "A", "in the middle of a body"))
		if e, ok := l.m.Get(c.key()); !ok || e.Epoch != 9 || e.App != policy.AppHTTP || e.Verdict != policy.Allow {
			t.Errorf("entry %+v, %v", e, ok)
		}
		l.d.SetTable(table(t, 10, policy.Enforce))
		l.isDropped(db, web, c.segment(true, "A", "more"), policy.ReasonPolicyChanged)
	})
}

func TestFullMapKeepsFlowsHere(t *testing.T) {
	l := newLane(t)
	l.m.Max = 1
	a, b := newConn(t, web, db, false, 40000, 9000), newConn(t, web, db, false, 40001, 9000)
	a.open(l)
	b.open(l)
	if c := l.d.Counters(); c.NotOffloaded == 0 {
		t.Errorf("counters %+v", c)
	}
	l.passes(web, db, b.segment(false, "A", "x"))
}

func TestFailedPortIsClosedAndReported(t *testing.T) {
	var mu sync.Mutex
	failed := make(chan error, 1)
	var text bytes.Buffer
	d, err := dataplane.New(dataplane.Config{FlowMap: &dataplanetest.FlowMap{}, Flows: 64, Logger: slog.New(slog.NewTextHandler(&text, nil)), PortFailed: func(space, queue int, err error) {
		mu.Lock()
		defer mu.Unlock()
		failed <- fmt.Errorf("%d/%d: %w", space, queue, err)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	bad, _ := dataplanetest.NewPort(4)
	good, _ := dataplanetest.NewPort(4)
	if err := errors.Join(d.AddPort(3, 0, bad), d.AddPort(4, 0, good)); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("device gone")
	bad.Steer(1, dataplane.FromEndpoint, make([]byte, 60))
	bad.Fail(gone)
	if err := <-failed; !errors.Is(err, gone) || !strings.HasPrefix(err.Error(), "3/0") {
		t.Errorf("reported %v", err)
	}
	if !bad.Closed() || good.Closed() {
		t.Errorf("closed: the bad one %v, the good one %v", bad.Closed(), good.Closed())
	}
	again, _ := dataplanetest.NewPort(4)
	if err := d.AddPort(3, 0, again); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if !good.Closed() {
		t.Error("a port is open after Run")
	}
	if log := text.String(); strings.Count(log, "the slow path is gone") != 1 || strings.Count(log, "level=INFO msg=\"the slow path is back") != 1 || !strings.Contains(log, "space=3") {
		t.Errorf("logged:\n%s", log)
	}
	late, _ := dataplanetest.NewPort(4)
	if err := d.AddPort(5, 0, late); err == nil || !late.Closed() {
		t.Errorf("a port was added after Run: %v", err)
	}
}

func TestRunServesAndSleeps(t *testing.T) {
	beats := make(chan int64, 1000)
	records, ended := make(chan dataplane.Violation, 16), make(chan dataplane.Flow, 16)
	d, err := dataplane.New(dataplane.Config{
		FlowMap: &dataplanetest.FlowMap{}, Flows: 64,
		Beat: func(_ int, now int64) {
			select {
			case beats <- now:
			default:
			}
		},
		Violated: func(v *dataplane.Violation, packets, lost uint64) {
			if packets != 1 || lost != 0 {
				t.Errorf("%d packets, %d lost", packets, lost)
			}
			records <- *v
		},
		Ended: func(flows []dataplane.Flow, lost uint64) {
			for _, f := range flows {
				ended <- f
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	port, _ := dataplanetest.NewPort(16)
	if err := d.AddPort(0, 0, port); err != nil {
		t.Fatal(err)
	}
	d.SetTable(table(t, 1, policy.Enforce, lines...))
	d.SetEndpoints([]dataplane.Endpoint{web.endpoint(), db.endpoint()})
	port.Steer(web.slot, dataplane.FromEndpoint, udp(t, web, db, true, 5000, 1234, "x"))
	if v := <-records; v.Reason != policy.ReasonNoRule || v.Src.Addr() != web.v6 {
		t.Errorf("violation %+v", v)
	}
	if fs := d.Flows(); len(fs) != 1 || fs[0].Verdict != policy.Drop {
		t.Errorf("flows %+v", fs)
	}
	d.SetEndpoints([]dataplane.Endpoint{db.endpoint()})
	if f := <-ended; f.Src.Addr() != web.v6 || f.Packets != [2]uint64{1, 0} || f.Workload != [2]string{"web", "db"} {
		t.Errorf("ended flow %+v", f)
	}
	if err := d.RemoveSpace(0); err != nil || !port.Closed() {
		t.Errorf("RemoveSpace: %v, closed %v", err, port.Closed())
	}
	first := <-beats
	for second := first; second == first; {
		second = <-beats
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What an ended flow to the outside asked for is told with it; of one between
// containers it is not.
func TestHostOfEndedFlow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		var ended []dataplane.Flow
		l := newLaneOf(t, dataplane.Config{Flows: 64, WatchEvery: time.Hour, Ended: func(flows []dataplane.Flow, _ uint64) { ended = append(ended, flows...) }})
		l.d.SetTable(table(t, 2, policy.Observe, lines...))
		for i, to := range []party{outside, db} {
			c := newConn(t, web, to, v6, uint16(40000+i), 80)
			c.open(l)
			l.passes(web, to, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: API.example.com:8080\r\n\r\n"))
			l.passes(to, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			l.d.Told()
			if live := l.d.ListFlows(); i == 0 && (len(live) != 1 || live[0].Host != "api.example.com") {
				t.Errorf("live: %+v", live)
			}
			l.passes(web, to, c.segment(false, "RA", ""))
		}
		l.d.Elapse(time.Second)
		l.d.Turn(0)
		l.d.Told()
		hosts := map[netip.Addr]string{}
		for _, f := range ended {
			if f.Spoken.App != policy.AppHTTP {
				t.Errorf("%+v", f)
			}
			hosts[f.Dst.Addr()] = f.Host
		}
		if len(ended) != 2 || hosts[outside.addr(v6)] != "api.example.com" || hosts[db.addr(v6)] != "" {
			t.Errorf("hosts %v of %d flows", hosts, len(ended))
		}
	})
}

func TestFloodLosesAndNobodyWaits(t *testing.T) {
	l := newLane(t)
	l.d.Gather(60000)
	l.d.Settle()
	if l.d.Counters().LostViolations == 0 {
		t.Error("60000 violations at once, none lost: the mailbox is not bounded")
	}
	if n := len(l.d.Violations().List()); n == 0 || n > 8192 {
		t.Errorf("%d records kept", n)
	}
}

// TestDamagedHeaderIsNoDecoy: a datagram that its receiver's stack throws away
// opens no flow and names none (threat 11).
func TestDamagedHeaderIsNoDecoy(t *testing.T) {
	l := newLane(t)
	whole := udp(t, web, db, false, 40000, 9000, "x")
	decoy := slices.Clone(whole)
	decoy[14+10] ^= 0x40
	l.isDropped(web, db, decoy, policy.ReasonBadHeader)
	if flows := l.d.ListFlows(); len(flows) != 0 {
		t.Fatalf("flows %+v", flows)
	}
	l.passes(web, db, whole)
	l.isDropped(web, db, decoy, policy.ReasonBadHeader)
	if flows := l.d.ListFlows(); len(flows) != 1 || flows[0].Packets[0] != 1 {
		t.Fatalf("flows %+v", flows)
	}
}

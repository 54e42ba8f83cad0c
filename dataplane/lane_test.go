package dataplane_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

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
	before := l.d.Counters().Reasons.Of(why)
	if got := l.send(from, to, frame); len(got) != 0 {
		l.t.Fatalf("%s to %s: %d frames left, want none", from.name, to.name, len(got))
	}
	if n := l.d.Counters().Reasons.Of(why) - before; n != 1 {
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

func echoFrame(t testing.TB, from, to party, v6, request bool) []byte {
	typ := map[bool]map[bool]uint8{false: {true: 8, false: 0}, true: {true: 128, false: 129}}[v6][request]
	if v6 {
		return serialize(t, from, to, v6, layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}, "\x00\x07\x00\x01ping")
	}
	return serialize(t, from, to, v6, layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: 7}, "ping")
}

func decode(t *testing.T, s dataplanetest.Sent) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(s.Data, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	return p
}

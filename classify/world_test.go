package classify

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"gatehouse/policy"
)

// The world of the tests: four services on one network, in both families.
const (
	zone   = 7
	webIdx = iota // client, 172.18.0.2, fd00:18::2
	dbIdx         // server, 172.18.0.3
	strangerIdx
	oldIdx
)

var names = []string{"", "web", "db", "stranger", "old"}

func addr(i int, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:18::%x", i+1))
	}
	return netip.MustParseAddr(fmt.Sprintf("172.18.0.%d", i+1))
}

// world compiles statements between the four services, all enforcing unless
// listed in observe.
type world struct {
	statements []policy.Statement
	observe    []int
	epoch      uint32
}

func service(i int) policy.ServiceKey {
	return policy.ServiceKey{Project: policy.ProjectKey{Name: "p"}, Name: names[i]}
}

func allow(from, to int, app policy.AppMatch, ports ...policy.PortRange) policy.Statement {
	return policy.Statement{
		ID: fmt.Sprint(names[from], names[to], app, ports), Verdict: policy.Allow, App: app, Ports: ports,
		From: []policy.Peer{policy.ServicePeer(service(from))}, To: []policy.Peer{policy.ServicePeer(service(to))},
	}
}

func plain(a policy.App) policy.AppMatch {
	return policy.AppMatch{App: a, Forms: policy.TLSNone}
}

func tcpPort(n uint16) policy.PortRange { return policy.Port(policy.ProtoTCP, n) }
func udpPort(n uint16) policy.PortRange { return policy.Port(policy.ProtoUDP, n) }

var echoRange = policy.Port(policy.ProtoICMP, 0)

func (w world) table(t testing.TB) *policy.Table {
	t.Helper()
	snap := &policy.Snapshot{Networks: []policy.Network{{
		ID: "net", Name: "net", Driver: "bridge", Zone: zone, ICC: true, Guarded: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("fd00:18::/64")},
	}}}
	in := policy.Input{Epoch: max(w.epoch, 1), Snapshot: snap, Statements: w.statements}
	for i := webIdx; i <= oldIdx; i++ {
		id := fmt.Sprintf("%064d", i)
		snap.Workloads = append(snap.Workloads, policy.Workload{
			ID: id, Name: names[i], Service: service(i),
			Endpoints: []policy.Endpoint{{ID: id, Network: "net", MAC: policy.MAC{2, 0, 0, 0, 0, byte(i)}, Addresses: []netip.Addr{addr(i, false), addr(i, true)}}},
		})
		g := policy.Group{Identity: policy.FirstWorkloadIdentity + policy.Identity(i), Service: service(i), Guarded: true, Members: []string{id}}
		for _, o := range w.observe {
			if o == i {
				g.Mode = policy.Observe
			}
		}
		in.Groups = append(in.Groups, g)
	}
	table, err := policy.Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// wire builds frames between two of the world's services.
type wire struct {
	v6       bool
	from, to int
}

func (w wire) back() wire { return wire{w.v6, w.to, w.from} }

func (w wire) network(proto layers.IPProtocol) (layers.EthernetType, gopacket.SerializableLayer) {
	src, dst := addr(w.from, w.v6), addr(w.to, w.v6)
	if w.v6 {
		return layers.EthernetTypeIPv6, &layers.IPv6{Version: 6, NextHeader: proto, HopLimit: 64, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	return layers.EthernetTypeIPv4, &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

func serialize(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (w wire) frame(t testing.TB, proto layers.IPProtocol, l4 gopacket.SerializableLayer, payload []byte) []byte {
	t.Helper()
	et, ip := w.network(proto)
	if n, ok := l4.(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := n.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)); err != nil {
			t.Fatal(err)
		}
	}
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, byte(w.from)}, DstMAC: []byte{2, 0, 0, 0, 0, byte(w.to)}, EthernetType: et}
	return serialize(t, eth, ip, l4, gopacket.Payload(payload))
}

func (w wire) tcp(t testing.TB, sport, dport uint16, flags TCPFlags, seq, ack uint32, payload string) []byte {
	h := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Seq: seq, Ack: ack, Window: 65535,
		FIN: flags&FIN != 0, SYN: flags&SYN != 0, RST: flags&RST != 0, PSH: flags&PSH != 0, ACK: flags&ACK != 0, URG: flags&URG != 0}
	return w.frame(t, layers.IPProtocolTCP, h, []byte(payload))
}

func (w wire) udp(t testing.TB, sport, dport uint16, payload string) []byte {
	return w.frame(t, layers.IPProtocolUDP, &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}, []byte(payload))
}

// icmp makes a message of the family's own type: t4 in IPv4, t6 in IPv6.
func (w wire) icmp(t testing.TB, t4, t6 uint8, id uint16, payload string) []byte {
	body := append([]byte{byte(id >> 8), byte(id), 0, 1}, payload...)
	if w.v6 {
		return w.frame(t, layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(t6, 0)}, body)
	}
	// gopacket's ICMPv4 has id and sequence in its header.
	return w.frame(t, layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(t4, 0), Id: id, Seq: 1}, []byte(payload))
}

// bench is a classifier with a clock and a place to meet packets at.
type bench struct {
	t   testing.TB
	c   *Classifier
	in  Ingress
	now int64
	p   Packet
	out Result
	// kernel is what carries SYN-ACKs meanwhile, nil = nothing does.
	kernel map[FlowKey]*opening
}

// opening is an entry that carries the answer to a SYN, as the programs do it.
type opening struct {
	awaited, seq uint32
	length       int
	noted        bool
}

// carries reports whether the kernel lets p by.
func (b *bench) carries(p *Packet) bool {
	p.Key.Zone = uint16(b.in.Zone)
	e := b.kernel[p.Key]
	f := b.c.Find(p.Key)
	if e == nil || f == nil || f.Epoch != b.c.table.Epoch() || p.Proto != policy.ProtoTCP || p.Fragment != Whole ||
		p.Flags != SYN|ACK || len(p.Payload) > 0 || p.side() == f.Initiator || p.Ack != e.awaited || p.Seq == 0 {
		return false
	}
	if !e.noted {
		e.seq, e.length, e.noted = p.Seq, p.Length, true
	}
	return e.seq == p.Seq
}

func (b *bench) answer(key *FlowKey) (seq uint32, length int, ok bool) {
	if e := b.kernel[*key]; e != nil {
		return e.seq, e.length, e.noted
	}
	return 0, 0, false
}

// follow keeps the kernel's entries as the worker does.
func (b *bench) follow() {
	r := &b.out
	if r.Retract || r.Opened || r.Decided || r.Offload {
		delete(b.kernel, b.p.Key)
	}
	if r.Opening {
		b.kernel[b.p.Key] = &opening{awaited: r.Awaited}
	}
}

// withKernel says whether benches have a kernel that carries SYN-ACKs; families
// runs its test both ways.
var withKernel bool

const l3 = 14

func newBench(t testing.TB, w world, cfg Config) *bench {
	t.Helper()
	if cfg.Flows == 0 {
		cfg.Flows, cfg.Undecided = 256, 32
	}
	b := &bench{t: t, in: Ingress{Zone: zone, FromEndpoint: true, Slot: 1}, now: 1e12}
	if withKernel && cfg.Answer == nil {
		b.kernel, cfg.Answer = make(map[FlowKey]*opening), b.answer
	}
	b.c = New(cfg)
	b.c.SetTable(w.table(t))
	return b
}

func (b *bench) send(frame []byte) Result {
	b.t.Helper()
	if r := Decode(frame, l3, &b.p); r != policy.ReasonNone {
		b.out = Result{Reason: r}
		return b.out
	}
	if b.carries(&b.p) {
		b.out = Result{Forward: true, Verdict: policy.Undecided}
		return b.out
	}
	b.c.Packet(&b.p, &b.in, b.now, &b.out)
	if b.kernel != nil {
		b.follow()
	}
	b.now += 1e6
	return b.out
}

// conn is a TCP conversation that keeps its own sequence numbers.
type conn struct {
	b            *bench
	w            wire
	sport, dport uint16
	seq, ack     uint32
}

func (b *bench) conn(w wire, sport, dport uint16) *conn {
	return &conn{b, w, sport, dport, 1000 * uint32(sport), 77_000}
}

// open shakes hands and returns what became of the SYN.
func (c *conn) open() Result {
	r := c.b.send(c.w.tcp(c.b.t, c.sport, c.dport, SYN, c.seq, 0, ""))
	c.seq++
	if !r.Forward {
		return r
	}
	c.b.send(c.w.back().tcp(c.b.t, c.dport, c.sport, SYN|ACK, c.ack, c.seq, ""))
	c.ack++
	c.b.send(c.w.tcp(c.b.t, c.sport, c.dport, ACK, c.seq, c.ack, ""))
	return r
}

func (c *conn) client(payload string) Result {
	c.b.t.Helper()
	r := c.b.send(c.w.tcp(c.b.t, c.sport, c.dport, PSH|ACK, c.seq, c.ack, payload))
	c.seq += uint32(len(payload))
	return r
}

func (c *conn) server(payload string) Result {
	c.b.t.Helper()
	r := c.b.send(c.w.back().tcp(c.b.t, c.dport, c.sport, PSH|ACK, c.ack, c.seq, payload))
	c.ack += uint32(len(payload))
	return r
}

// families runs a test in both, with the SYN-ACKs judged here and with those that
// the kernel may carry carried there.
func families(t *testing.T, f func(t *testing.T, v6 bool)) {
	for _, kernel := range []bool{false, true} {
		withKernel = kernel
		name := map[bool]string{true: ", answers in the kernel"}[kernel]
		t.Run("ipv4"+name, func(t *testing.T) { f(t, false) })
		t.Run("ipv6"+name, func(t *testing.T) { f(t, true) })
	}
	withKernel = false
}

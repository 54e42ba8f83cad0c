package dataplane

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"gatehouse/classify"
	"gatehouse/classify/lookup"
	"gatehouse/policy"
)

// lookups is how a worker reads the DNS of workloads that statements let reach
// names, or look up nothing else (R18). The fields of the packet at hand are set
// by worker.lookUp.
type lookups struct {
	names  *policy.Names
	reader *lookup.Reader
	volume *lookup.Volume

	table     *policy.Table
	asker     int32 // index into the table's snapshot
	owner     uint16
	namesOnly bool
	resolver  netip.Addr
	now       int64
	refused   policy.Reason // why Ask said no, or only wants it recorded
	asked     string        // the name that was, of a tunnel the domain
}

func newLookups(names *policy.Names) *lookups {
	l := &lookups{names: names, volume: lookup.NewVolume()}
	l.reader = lookup.New(lookup.Handlers{Ask: l.ask, Learn: l.learn, Refuse: names.Refuse})
	return l
}

func (l *lookups) ask(q *lookup.Query) (passes, wanted bool) {
	wanted = q.Name != "" && l.table.MayAsk(l.asker, q.Name)
	switch {
	case q.Name != "" && l.volume.Add(l.owner, q.Name, l.now):
		l.refused, l.asked = policy.ReasonNameTunnel, lookup.Domain(q.Name)
	case !wanted && l.namesOnly:
		l.refused, l.asked = policy.ReasonNameRefused, q.Name
	}
	return l.refused == policy.ReasonNone || !l.namesOnly, wanted
}

func (l *lookups) learn(a *policy.Answer) {
	a.Resolver = l.resolver
	l.names.Note(l.table, l.asker, a, time.Now())
}

// namesSweep is how often names are looked through for what is over: so much
// later than its time an address may end.
const namesSweep = 250 * time.Millisecond

func (d *Dataplane) sweepNames(ctx context.Context) {
	if d.config.Names == nil {
		return
	}
	t := time.NewTicker(namesSweep)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			d.config.Names.Sweep(now)
		}
	}
}

// lookUp reads the DNS message that the packet at hand carries, and may turn the
// packet away. The names of an answer are known when it returns.
func (w *worker) lookUp(ep *localEndpoint) {
	r, p, l := &w.result, w.packet, w.lookups
	f := r.Flow
	if l == nil || f == nil || !f.Lookups || !r.Forward || len(p.Payload) == 0 {
		return
	}
	q := f.Query()
	asker, ok := w.current.Asker(q)
	dns := f.Decision.Judge(policy.Spoken{App: policy.AppDNS})
	if !ok || dns.Denied || dns.Rule < 0 {
		return
	}
	l.table, l.asker, l.owner, l.now, l.refused = w.current, asker, f.Slot, w.now, policy.ReasonNone
	l.namesOnly = w.current.Statements()[w.current.Rules()[dns.Rule].Statement].NamesOnly
	l.resolver = netip.AddrFrom16(q.Dst).Unmap()
	side := uint8(0)
	if p.Reversed {
		side = 1
	}
	packet := lookup.Packet{Key: f.Key, Owner: f.Slot, FromAsker: side == f.Initiator, Payload: p.Payload,
		Part: p.Fragment == classify.FirstFragment, TCP: p.Proto == policy.ProtoTCP, Seq: p.Seq, Now: w.now}
	packet.Start, packet.Started = f.DataStart(side)
	switch l.reader.Read(&packet) {
	case lookup.Held:
		r.Forward, r.Reason = false, policy.ReasonConflict
	case lookup.Refused:
		r.Forward = ep.Mode == policy.Observe
	}
	if l.refused != policy.ReasonNone {
		r.Reason, r.Violation = l.refused, true
		r.Judgement = policy.Judgement{Verdict: policy.Drop, Denied: true, Side: policy.SideOut, Rule: -1, Reason: l.refused}
	}
}

// refuseLookup answers a lookup that policy refuses, so that it fails at once and
// not after a resolver's patience (R18): a query over UDP in DNS, because who
// forwards for others hands that on to them where an ICMP error ends with it
// (Docker 20.10's resolver then says nothing); the rest as a closed port.
func (w *worker) refuseLookup(p *servedPort, f *Frame, ep *localEndpoint) {
	w.reply(p, f, &ep.refusals, refusalPace, func(out []byte) int {
		if q := w.packet; q.Proto == policy.ProtoUDP && q.Fragment == classify.Whole {
			if n := writeRefusal(out, f.Data, f.L3, q.Payload, w.absent); n > 0 {
				return n
			}
		}
		return writeReject(out, f.Data, f.L3, portUnreachable)
	})
}

const udpHeader = 8

// writeRefusal writes the answer to the query in packet, whose network header is
// at l3, into out and returns its length; 0 where there can be none. packet is
// no fragment and has been decoded before: its headers are whole and free of
// options. absent is lookup.Refusal's.
func writeRefusal(out, packet []byte, l3 int, query []byte, absent bool) int {
	if len(packet) <= l3 || !isToOne(packet, l3) {
		return 0
	}
	head := ipv4Header
	if packet[l3]>>4 == 6 {
		head = ipv6Header
	}
	if len(packet) < l3+head+udpHeader || len(out) < l3+head+udpHeader {
		return 0
	}
	ip, asked := out[l3:], packet[l3:]
	if head == ipv4Header && !areHosts4(asked[12:16], asked[16:20]) || head == ipv6Header && !areHosts6(asked[8:24], asked[24:40]) {
		return 0
	}
	n := lookup.Refusal(ip[head+udpHeader:], query, absent)
	if n == 0 {
		return 0
	}
	answerLink(out, packet, l3)
	udp := ip[head : head+udpHeader+n]
	copy(udp[0:2], asked[head+2:])
	copy(udp[2:4], asked[head:])
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	clear(udp[6:8])
	clear(ip[:head])
	if head == ipv6Header {
		ip[0], ip[6], ip[7] = 0x60, byte(policy.ProtoUDP), answerTTL
		binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
		copy(ip[8:24], asked[24:40])
		copy(ip[24:40], asked[8:24])
		putUDPChecksum(udp, pseudo(ip[8:24], ip[24:40], policy.ProtoUDP, len(udp)))
		return l3 + head + len(udp)
	}
	ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, answerTTL, byte(policy.ProtoUDP)
	binary.BigEndian.PutUint16(ip[2:], uint16(head+len(udp)))
	copy(ip[12:16], asked[16:20])
	copy(ip[16:20], asked[12:16])
	putChecksum(ip[:head], 10, 0)
	putUDPChecksum(udp, pseudo(ip[12:16], ip[16:20], policy.ProtoUDP, len(udp)))
	return l3 + head + len(udp)
}

// putUDPChecksum sends no zero: that says there is no checksum (RFC 768).
func putUDPChecksum(udp []byte, pseudo uint64) {
	putChecksum(udp, 6, pseudo)
	if udp[6]|udp[7] == 0 {
		udp[6], udp[7] = 0xff, 0xff
	}
}

package dataplane

import (
	"slices"
	"strings"
	"time"

	"gatehouse/classify"
	"gatehouse/policy"
)

// judge decides on one frame and puts it where it goes: w.send or w.drop, and
// its flow into w.decided. ep is the endpoint at whose hook the frame was met,
// nil if it is gone; unread is why w.packet could not be decoded.
func (w *worker) judge(p *servedPort, f *Frame, ep *localEndpoint, unread policy.Reason) {
	if ep == nil || w.current == nil {
		w.count(f, ep, policy.ReasonNotAdmitted)
		w.drop = append(w.drop, *f)
		return
	}
	if unread != policy.ReasonNone {
		w.refuse(f, ep, unread, policy.Enforce)
		w.drop = append(w.drop, *f)
		return
	}
	if ep.Transit && w.isNeighbours(f, ep) {
		return
	}
	wrongMAC := !w.rightMAC(f, ep)
	if wrongMAC && ep.Mode == policy.Enforce && w.isForNobody(f, ep) {
		w.count(f, ep, policy.ReasonDestinationMAC)
		w.drop = append(w.drop, *f)
		return
	}
	if wrongMAC {
		w.refuse(f, ep, policy.ReasonDestinationMAC, ep.Mode)
		if ep.Mode == policy.Enforce {
			w.drop = append(w.drop, *f)
			return
		}
	}
	in := classify.Ingress{
		Zone:         ep.Zone,
		FromEndpoint: f.Dir == FromEndpoint && !ep.Transit, // routers may be behind that
		Slot:         ep.number,
		Workload:     ep.workload,
		Mode:         ep.Mode,
		RanBefore:    ep.RanBefore,
		Attached:     ep.Attached,
	}
	w.classifier.Packet(w.packet, &in, w.now, &w.result)
	if w.result.Retract {
		w.retract(w.packet.Key)
	}
	w.lookUp(ep)
	w.record(f, ep)
	if w.result.Flow != nil {
		w.seeOff(w.result.Flow)
	}
	carried := !ep.Transit || ep.isLeg()
	queued := (w.result.Offload || w.result.Opening || w.result.Opened) && !wrongMAC && carried && w.decide(f, ep)
	if w.result.Decided && !w.result.New && !queued && carried {
		w.retract(w.packet.Key) // what the kernel has says undecided
	}
	if w.result.Forward {
		f.Line = f.Dir == FromEndpoint && w.result.Flow != nil && w.result.Flow.HandedOver()
		w.send = append(w.send, *f)
		return
	}
	w.count(f, ep, w.result.Reason)
	w.turnAway(p, f, ep)
}

// count counts a dropped packet, of an endpoint that is nil where it is gone.
func (w *worker) count(f *Frame, ep *localEndpoint, r policy.Reason) {
	dir := f.Dir
	if ep != nil && ep.Transit {
		dir = Neither
	}
	w.counters.reasons[dir][r].Add(1)
}

// retract takes a key out of the kernel's map, before this batch is sent: what
// answers the packet at hand must come here.
func (w *worker) retract(key classify.FlowKey) {
	of := func(e FlowEntry) bool { return e.Key == key }
	w.opening, w.decided = slices.DeleteFunc(w.opening, of), slices.DeleteFunc(w.decided, of)
	if len(w.over) == cap(w.over) {
		w.forget()
	}
	w.over = append(w.over, key)
}

// isNeighbours reports what hosts of one link say to find each other, and passes
// or drops it: none of it is policy's (R22).
func (w *worker) isNeighbours(f *Frame, ep *localEndpoint) bool {
	is, r := classify.Neighbours(f.Data, w.packet)
	switch {
	case !is:
	case r == policy.ReasonNone:
		w.send = append(w.send, *f)
	case r == policy.ReasonRouterSolicitation: // every host that starts sends some
		w.count(f, ep, r)
		w.drop = append(w.drop, *f)
	default:
		w.refuse(f, ep, r, policy.Enforce)
		w.drop = append(w.drop, *f)
	}
	return is
}

// rightMAC reports whether the frame is addressed to who has its destination
// address. At the hook towards an endpoint the kernel has looked at the MAC; the
// address must be the endpoint's too, or its verdict would be about another's.
func (w *worker) rightMAC(f *Frame, ep *localEndpoint) bool {
	if f.L3 == 0 {
		return true
	}
	mac := policy.MAC(f.Data[0:6])
	if ep.Transit { // who has which MAC is not known there
		return mac[0]&1 == 0 || multicastMAC(w.packet.Dst, mac) && (mac != broadcastMAC || w.isBroadcast(ep))
	}
	if f.Dir == FromEndpoint {
		return w.local.mayLeaveTo(ep, w.packet.Dst, mac) && (mac != broadcastMAC || w.isBroadcast(ep))
	}
	return mac == ep.MAC && ep.has(w.packet.Dst) || mac[0]&1 != 0
}

// isForNobody reports whether neither the frame's destination MAC nor its address is
// anybody's: neighbours say so for a while to who was stopped, which is no violation.
func (w *worker) isForNobody(f *Frame, ep *localEndpoint) bool {
	return f.Dir == FromEndpoint && !ep.Transit && w.local.isNobody(ep, w.packet.Dst, policy.MAC(f.Data[0:6]))
}

// isBroadcast reports whether the packet's destination is an address for
// everybody on ep's network: the whole network sees what is sent there.
func (w *worker) isBroadcast(ep *localEndpoint) bool {
	p := w.packet
	_, to, _ := w.current.Resolve(policy.Query{Zone: ep.Zone, Src: p.Src, Dst: p.Dst, Proto: p.Proto, DstPort: p.DstPort})
	return to == policy.IDBroadcast
}

// refuse records a packet that is no flow's.
func (w *worker) refuse(f *Frame, ep *localEndpoint, r policy.Reason, mode policy.Mode) {
	if mode == policy.Enforce {
		w.count(f, ep, r)
	} else {
		w.counters.observed.Add(1)
	}
	e := event{reason: r, mode: mode, dir: f.Dir, rule: -1, endpoint: ep, table: w.current, last: w.now}
	w.events.add(&e)
}

// record hands on a violation: each that the classifier calls one, and every
// further packet of a flow that is dropped for the same reason.
func (w *worker) record(f *Frame, ep *localEndpoint) {
	r := &w.result
	again := r.Flow != nil && !r.Forward && r.Reason != policy.ReasonNone && r.Reason == r.Flow.Reason
	if !r.Violation && !again {
		return
	}
	e := event{
		reason:   r.Reason,
		side:     r.Judgement.Side,
		mode:     policy.Enforce,
		dir:      f.Dir,
		rule:     r.Judgement.Rule,
		endpoint: ep,
		table:    w.current,
		last:     w.now,
	}
	if r.Forward {
		e.mode = policy.Observe
		w.counters.observed.Add(1)
	}
	if r.Flow != nil {
		e.ofFlow(r.Flow)
	} else {
		e.ofPacket(w.packet)
	}
	if e.reason == policy.ReasonNone {
		e.reason = r.Judgement.Reason
	}
	switch {
	case ofLookup(e.reason):
		e.name, e.spoken = w.lookups.asked, policy.Spoken{App: policy.AppDNS}
	case len(r.Server) > 0:
		e.name = strings.ToLower(string(r.Server))
	}
	w.events.add(&e)
}

func (e *event) ofFlow(f *classify.Flow) {
	e.key, e.proto, e.spoken = f.Key, f.Key.Proto, f.Spoken
	e.src, e.dst, e.sport, e.dport = f.Key.AddrA, f.Key.AddrB, f.Key.PortA, f.Key.PortB
	if f.Initiator == 1 {
		e.src, e.dst, e.sport, e.dport = e.dst, e.src, e.dport, e.sport
	}
	if e.proto == policy.ProtoICMP { // the identifier is no port
		e.sport, e.dport = 0, 0
	}
	if e.reason == policy.ReasonNone {
		e.reason = f.Reason
	}
}

func (e *event) ofPacket(p *classify.Packet) {
	e.key, e.proto = p.Key, p.Proto
	e.src, e.dst, e.sport, e.dport = p.Src, p.Dst, p.SrcPort, p.DstPort
	if e.proto == policy.ProtoICMP || e.proto == policy.ProtoICMPv6 {
		e.sport, e.dport = 0, 0
	}
}

// turnAway drops the frame and tells those who should know.
func (w *worker) turnAway(p *servedPort, f *Frame, ep *localEndpoint) {
	r := &w.result
	switch {
	case r.Verdict == policy.Reject:
		w.answer(p, f, ep, adminProhibited)
		// A conversation that was under way ends at both ends.
		if r.Decided && !r.New {
			if n := cutTo(f.Data, f.L3); n > 0 {
				f.Data = f.Data[:n]
				w.send = append(w.send, *f)
				w.counters.rejected.Add(1)
				return
			}
		}
	case w.isRefusedLookup(f, ep), ofLookup(r.Reason):
		w.refuseLookup(p, f, ep)
	case w.rejectOwn && w.isOwnRefusal(f, ep):
		w.answer(p, f, ep, adminProhibited)
	}
	w.drop = append(w.drop, *f)
}

// isOwnRefusal reports what an enforcing endpoint begins and no statement lets
// pass. A refusal that may be over in a moment is none of these: of a peer that
// nobody knows yet, of a full table, of a gateway that was away.
func (w *worker) isOwnRefusal(f *Frame, ep *localEndpoint) bool {
	return f.Dir == FromEndpoint && !ep.Transit && ep.Mode == policy.Enforce && w.result.Reason == policy.ReasonNoRule
}

// isRefusedLookup reports a DNS query of an enforcing endpoint that policy does
// not allow: it is answered (R18), and so stays in user space.
func (w *worker) isRefusedLookup(f *Frame, ep *localEndpoint) bool {
	r, p := &w.result, w.packet
	return f.Dir == FromEndpoint && !ep.Transit && ep.Mode == policy.Enforce && p.DstPort == 53 &&
		(p.Proto == policy.ProtoUDP || p.Proto == policy.ProtoTCP) &&
		(r.Reason == policy.ReasonNoRule || r.Reason == policy.ReasonDenied)
}

// answer tells the sender of f that its packet went nowhere. The answer leaves
// by the other hook of the same endpoint: to the endpoint what it sent, to
// outside what came from there.
func (w *worker) answer(p *servedPort, f *Frame, ep *localEndpoint, why unreachable) {
	w.reply(p, f, &ep.rejects, rejectPace, func(out []byte) int { return writeReject(out, f.Data, f.L3, why) })
}

// reply sends what write puts into a borrowed frame, unless it is nothing or more
// than limit has room for.
func (w *worker) reply(p *servedPort, f *Frame, limit *rateLimit, pace pace, write func(out []byte) int) {
	if !limit.take(w.now, pace) {
		return
	}
	out, ok := p.Alloc()
	if !ok {
		return
	}
	n := 0
	if out.L3 == f.L3 {
		n = write(out.Data)
	}
	if n == 0 {
		w.drop = append(w.drop, out)
		return
	}
	out.Data, out.Slot, out.Dir = out.Data[:n], f.Slot, f.Dir^1
	w.send = append(w.send, out)
	w.counters.rejected.Add(1)
}

// keepOrder is how long the datagrams of a flow stay in user space between two
// interfaces, so that a burst at its beginning keeps its order.
const keepOrder = 100 * time.Millisecond

// decide queues the frame's flow for the kernel's map, false where it stays
// here: refused flows whose packets are answered, and multicast, which is judged
// at each receiver.
func (w *worker) decide(f *Frame, ep *localEndpoint) bool {
	flow := w.result.Flow
	dst, src := policy.MAC(f.Data[0:6]), policy.MAC(f.Data[6:12])
	switch {
	case flow == nil, len(w.decided) == cap(w.decided), dst[0]&1 != 0:
		return false
	case !offloads(flow), flow.Verdict == policy.Drop && w.isRefusedLookup(f, ep):
		return false
	}
	from, to := 0, 1
	if w.packet.Reversed {
		from, to = 1, 0
	}
	e := FlowEntry{
		Key:       flow.Key,
		Epoch:     flow.Epoch,
		Initiator: flow.Initiator,
		Verdict:   flow.Verdict,
		App:       flow.Spoken.App,
		Sub:       flow.Spoken.Sub,
		Inner:     flow.Spoken.Inner,
		ALPN:      flow.Spoken.ALPN,
		Stays:     w.result.Stays,
		Old:       flow.IsOld(),
		Opening:   w.result.Opening,
		Awaited:   w.result.Awaited,
		Seen:      uint32(w.now / int64(time.Second)),
	}
	if flow.Verdict == policy.Drop {
		e.Reason = flow.Reason
	}
	e.MAC[from], e.MAC[to] = src, dst
	if ep.Transit {
		other := w.local.across(ep)
		// Behind an interface senders do not wait for what they sent before: datagrams
		// in its ring would be overtaken.
		early := flow.Key.Proto != policy.ProtoTCP && w.now-flow.First < int64(keepOrder)
		if other == nil || early && flow.Verdict == policy.Allow {
			return false
		}
		e.Ifindex[from], e.Ifindex[to] = ep.Ifindex, other.Ifindex
		w.enqueue(&e)
		return true
	}
	sender := w.local.byAddr[zoneAddr{ep.Zone, w.packet.Src}]
	receiver := w.local.byAddr[zoneAddr{ep.Zone, w.packet.Dst}]
	if sender != nil && sender.Space == ep.Space && sender.MAC == src {
		e.Ifindex[from] = sender.Ifindex
	}
	if receiver != nil && receiver.Space == ep.Space && receiver.MAC == dst {
		e.Ifindex[to] = receiver.Ifindex
	}
	e.Peer = e.Verdict == policy.Allow && e.Ifindex[0] != 0 && e.Ifindex[1] != 0 &&
		sender.Bridge == receiver.Bridge && sender.ICC && receiver.ICC && src != sender.Gateway && dst != receiver.Gateway
	if e.Stays && !e.Peer {
		return false
	}
	w.enqueue(&e)
	return true
}

// enqueue puts an entry where it belongs: before what this batch sends, or after
// it.
func (w *worker) enqueue(e *FlowEntry) {
	if w.result.Opened || w.result.New && w.packet.Flags&(classify.SYN|classify.ACK) == classify.SYN {
		w.opening = append(w.opening, *e)
		return
	}
	w.decided = append(w.decided, *e)
}

// offloads reports whether the kernel's map is the place for a flow of that
// kind. A connection that is refused from its SYN on is not: SYNs come to user
// space in any case, and a scan would fill the map.
func offloads(f *classify.Flow) bool {
	switch f.Verdict {
	case policy.Allow:
		return f.Key.Proto != policy.ProtoICMP || f.HandedOver()
	case policy.Undecided:
		return f.Key.Proto == policy.ProtoTCP && (f.State != classify.Opening || f.Awaits)
	case policy.Drop:
		return f.Key.Proto != policy.ProtoTCP || f.State != classify.Opening
	}
	return false
}

// Package appid names the application of a flow from the first bytes that its
// two sides send. The classifier feeds it the payload of undecided flows, in
// whatever order, split and repetition the wire gives, and asks policy about
// the answer.
//
// Nothing is guessed from a port. A signature that is not proof by itself needs
// the other side's bytes too; sides that speak different protocols are an
// anomaly and not a label. All work per flow is bounded: a fixed prefix of each
// direction is kept, and a budget of payload ends the search as "unknown".
//
// Engine is immutable and safe to share. A State belongs to one flow and one
// goroutine. Nothing here allocates after the State was made.
package appid

import (
	"math/bits"

	"gatehouse/policy"
)

// Dir is who sent some bytes.
type Dir uint8

const (
	FromClient Dir = iota // from the flow's initiator
	FromServer            // from its responder
)

// Confidence says what an answer rests on.
type Confidence uint8

const (
	ConfidenceNone      Confidence = iota
	ConfidenceOneSide              // one side's bytes are proof enough; the other has not spoken
	ConfidenceBothSides            // both sides' bytes fit
)

// Anomaly is something that no honest peer does.
type Anomaly uint8

const (
	AnomalyNone      Anomaly = iota
	AnomalyConflict          // a retransmission differs from what was forwarded; this packet must not be
	AnomalyMismatch          // the two sides speak different protocols
	AnomalyScattered         // a piece beyond too many gaps; this packet must not be forwarded
)

// Outcome is what is known after a packet.
type Outcome struct {
	// Spoken.App is AppNone while nothing is proved, and AppUnknown once
	// Decided without an answer.
	Spoken     policy.Spoken
	Confidence Confidence
	// Decided: further bytes change nothing, or the budget is used up. An
	// answer with ConfidenceOneSide is reported before it is decided, so that
	// policy can refuse it at once; only the other side's bytes are missing.
	Decided bool
	// Reversed: picked up mid-stream, and the bytes say that the initiator is
	// the server.
	Reversed bool
	Anomaly  Anomaly
}

// match is what one protocol says to the bytes of one direction.
type match uint8

const (
	no   match = iota // cannot be this protocol
	more              // more bytes are needed
	fits              // consistent with it, and no proof without the other side
	yes               // proof
)

// view is what the protocols look at: of TCP the contiguous prefix of each
// direction, of UDP the latest datagram.
type view struct {
	c, s         []byte // from the client, from the server; empty while that side is silent
	cFull, sFull bool   // no more of it will be kept (UDP: the datagram was longer)
	udp          bool
	serverFirst  bool   // the first payload was the server's
	port         uint16 // the responder's
}

// firsts is the set of bytes that a direction may begin with.
type firsts [4]uint64

func (f *firsts) add(b byte)      { f[b>>6] |= 1 << (b & 63) }
func (f *firsts) has(b byte) bool { return f[b>>6]&(1<<(b&63)) != 0 }

func anyByte() firsts { return firsts{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)} }

func oneOf(s string) (f firsts) {
	for i := range len(s) {
		f.add(s[i])
	}
	return f
}

func between(lo, hi byte) (f firsts) {
	for b := int(lo); b <= int(hi); b++ {
		f.add(byte(b))
	}
	return f
}

func (f firsts) or(g firsts) firsts {
	for i := range f {
		f[i] |= g[i]
	}
	return f
}

// protocol is one signature: what each side's first bytes must look like.
type protocol struct {
	app      policy.App
	tcp, udp bool
	// client and server are called again whenever either side's bytes grew,
	// until they say no or yes.
	client, server             func(*view) match
	clientFirsts, serverFirsts firsts
	// mid is tried on either side of a flow met mid-stream; nil = none.
	mid func([]byte) match
	// refine names a finer application once the protocol is sure.
	refine func(*view) policy.App
	// alpn is the application that a TLS hello announces.
	alpn func(*view) policy.App
	// upgraded says whether the flow went over to TLS inside the protocol:
	// yes, more (it still may), or no (it cannot any more, as far as is looked).
	upgraded func(*view) match
	// attrs copies what is worth showing.
	attrs func(*view, *Attrs)
}

// Engine holds the signatures, ready to be tried.
type Engine struct {
	first [2][2][256]uint64 // [udp][dir][first byte] → protocols that may begin so
	all   [2]uint64         // [udp] → protocols of that transport
}

// New returns an engine with every signature.
func New() *Engine {
	e := &Engine{}
	for i := range protocols {
		p := &protocols[i]
		for t, on := range [2]bool{p.tcp, p.udp} {
			if !on {
				continue
			}
			e.all[t] |= 1 << i
			for b := range 256 {
				if p.clientFirsts.has(byte(b)) {
					e.first[t][FromClient][b] |= 1 << i
				}
				if p.serverFirsts.has(byte(b)) {
					e.first[t][FromServer][b] |= 1 << i
				}
			}
		}
	}
	return e
}

// FeedPart takes the beginning of a UDP datagram whose rest comes in fragments.
func (e *Engine) FeedPart(s *State, dir Dir, payload []byte) Outcome {
	s.part = true
	o := e.Feed(s, dir, 0, payload)
	s.part = false
	return o
}

// Feed takes one packet's payload. seq is the TCP sequence number of its first
// byte (for data in a SYN: the SYN's plus one) and ignored for UDP. The payload
// is borrowed for the call.
func (e *Engine) Feed(s *State, dir Dir, seq uint32, payload []byte) Outcome {
	if len(payload) == 0 || s.outcome.Decided && s.isReceived() {
		return s.Outcome()
	}
	if !s.begun {
		s.begun, s.first = true, dir
	}
	grew, anomaly := true, AnomalyNone
	if s.udp {
		s.datagram(dir, payload)
	} else {
		grew, anomaly = s.segment(dir, seq, payload)
	}
	if anomaly == AnomalyConflict {
		o := s.Outcome()
		o.Anomaly = anomaly
		return o
	}
	switch {
	case !s.outcome.Decided && grew:
		e.judge(s, dir)
	case s.outcome.Decided && s.dir[FromClient].bytes > unreceivedMax:
		s.disbelieve()
	}
	if !s.outcome.Decided && s.exhausted() {
		s.giveUp()
	}
	o := s.Outcome()
	if anomaly != AnomalyNone && !o.Decided {
		o.Anomaly = anomaly
	}
	return o
}

// Finish ends the search with what is known: for flows that fell silent.
func (e *Engine) Finish(s *State) Outcome {
	if !s.outcome.Decided {
		s.giveUp()
		s.upgrades = no
	}
	if !s.isReceived() {
		s.disbelieve()
	}
	return s.outcome
}

// evidence is what the protocols have said so far, one bit each, per direction.
type evidence struct {
	no, yes, fits [2]uint64
}

func (ev *evidence) set(dir Dir, bit uint64, m match) {
	switch m {
	case no:
		ev.no[dir] |= bit
		ev.yes[dir] &^= bit
		ev.fits[dir] &^= bit
	case fits:
		ev.fits[dir] |= bit
	case yes:
		ev.yes[dir] |= bit
	}
}

// standing is how far one reading of the flow has come.
type standing uint8

const (
	open    standing = iota
	oneSide          // a side proves it, the other has not said enough
	final
)

func (e *Engine) judge(s *State, dir Dir) {
	if s.watching {
		s.watch()
		return
	}
	v := s.look(false)
	e.gather(&s.ev[0], v, dir)
	st := e.conclude(s, &s.ev[0], v, false)
	if st == final || !s.mid {
		return
	}
	// Met mid-stream, the initiator may be the server.
	v = s.look(true)
	e.gather(&s.ev[1], v, 1-dir)
	if st == open {
		st = e.conclude(s, &s.ev[1], v, true)
	}
	if st == open {
		e.midStream(s, v)
	}
}

// midStream tries the signatures that hold anywhere in a stream.
func (e *Engine) midStream(s *State, v *view) {
	for i := range protocols {
		p := &protocols[i]
		if p.mid == nil || p.udp == p.tcp || p.udp != v.udp {
			continue
		}
		if len(v.c) > 0 && p.mid(v.c) == yes || len(v.s) > 0 && p.mid(v.s) == yes {
			s.outcome = Outcome{Spoken: policy.Spoken{App: p.app}, Confidence: ConfidenceOneSide}
			s.proto = int8(i)
			return
		}
	}
}

// gather asks every protocol that is still possible.
func (e *Engine) gather(ev *evidence, v *view, dir Dir) {
	t := 0
	if v.udp {
		t = 1
	}
	if len(v.c) > 0 {
		ev.no[FromClient] |= e.all[t] &^ e.first[t][FromClient][v.c[0]]
	}
	if len(v.s) > 0 {
		ev.no[FromServer] |= e.all[t] &^ e.first[t][FromServer][v.s[0]]
	}
	for d := FromClient; d <= FromServer; d++ {
		data := v.c
		if d == FromServer {
			data = v.s
		}
		if len(data) == 0 || v.udp && d != dir {
			continue
		}
		possible := e.all[t] &^ ev.no[d]
		if !v.udp {
			possible &^= ev.yes[d]
		}
		for ; possible != 0; possible &= possible - 1 {
			i := bits.TrailingZeros64(possible)
			f := protocols[i].client
			if d == FromServer {
				f = protocols[i].server
			}
			ev.set(d, 1<<i, f(v))
		}
		ev.yes[d] &^= ev.no[d]
		ev.fits[d] &^= ev.no[d]
	}
}

// conclude turns evidence into the outcome.
func (e *Engine) conclude(s *State, ev *evidence, v *view, reversed bool) standing {
	t := 0
	if v.udp {
		t = 1
	}
	alive := e.all[t] &^ ev.no[0] &^ ev.no[1]
	proved := ev.yes[0] | ev.yes[1]
	// A side that proves something speaks nothing else.
	for _, y := range ev.yes {
		if y != 0 {
			alive &= y
		}
	}
	if both := (ev.yes[0] | ev.fits[0]) & (ev.yes[1] | ev.fits[1]) & alive; both != 0 {
		s.settle(bits.TrailingZeros64(both), v, ConfidenceBothSides, reversed)
		s.outcome.Decided = true
		return final
	}
	if one := proved & alive; one != 0 {
		s.settle(bits.TrailingZeros64(one), v, ConfidenceOneSide, reversed)
		return oneSide
	}
	if s.mid {
		return open
	}
	// A side proved something that the other, or its own next datagram, rules out.
	if proved != 0 || s.outcome.Confidence != ConfidenceNone {
		s.outcome = Outcome{Spoken: policy.Spoken{App: policy.AppUnknown}, Decided: true, Anomaly: AnomalyMismatch}
		return final
	}
	if alive == 0 {
		s.outcome = Outcome{Spoken: policy.Spoken{App: policy.AppUnknown}, Decided: true}
		return final
	}
	return open
}

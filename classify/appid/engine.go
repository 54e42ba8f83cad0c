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
// What can be promised. Until a flow is decided, no byte of it passes unread: not
// behind a borrowed first line, nor inside a tunnel or an upgrade that policy
// tells from the plain form, each of which is identified anew. An honest server
// or client therefore never gets into a conversation of another protocol than
// the one named, since its own answer decides; what it can be sent before is
// bounded by the budget. After that the kernel carries the flow and
// nothing reads it: two ends that both lie can say anything, and a proxy that
// served an ordinary request first can be asked for a tunnel on the same
// connection afterwards. HTTP/2's CONNECT, and what TLS or WebSocket frames
// carry, is never seen.
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

// Confidence says how sure an answer is.
type Confidence uint8

const (
	ConfidenceNone      Confidence = iota
	ConfidenceBehaviour            // what the packets do, not what they say
	ConfidenceOneSide              // one side's bytes are proof enough; the other has not spoken
	ConfidenceExpected             // another flow announced it, and its bytes do not contradict
	ConfidenceBothSides            // both sides' bytes fit
)

var confidenceNames = [...]string{"none", "behaviour", "one-side", "expectation", "both-sides"}

func (c Confidence) String() string { return confidenceNames[c] }

// Evidence is what an answer rests on, a set of bits.
type Evidence uint8

const (
	EvidenceClient      Evidence = 1 << iota // the initiator's bytes
	EvidenceServer                           // the responder's bytes
	EvidenceSignature                        // the beginning of the conversation
	EvidenceMidStream                        // bytes that mean the same anywhere in a conversation
	EvidenceExpectation                      // another flow's announcement
	EvidenceBehaviour                        // sequence, volume
)

var evidenceNames = [...]string{"client", "server", "signature", "midstream", "expectation", "behaviour"}

func (e Evidence) String() string { return bitNames(uint8(e), evidenceNames[:]) }

// Status says how far the search has come.
type Status uint8

const (
	StatusIncomplete       Status = iota // no payload yet
	StatusInsufficient                   // payload, and nothing proved so far
	StatusNamed                          // there is an answer
	StatusUnknown                        // no signature fits, or the budget is used up
	StatusUnknownMidStream               // the same of a flow whose beginning was not seen
)

var statusNames = [...]string{"incomplete", "insufficient-data", "named", "unknown", "unknown-midstream"}

func (s Status) String() string { return statusNames[s] }

// Anomaly is something that no honest peer does.
type Anomaly uint8

const (
	AnomalyNone      Anomaly = iota
	AnomalyConflict          // a retransmission differs from what was forwarded; this packet must not be
	AnomalyMismatch          // the two sides speak different protocols
	AnomalyScattered         // a piece beyond too many gaps; this packet must not be forwarded
)

var anomalyNames = [...]string{"none", "conflict", "mismatch", "scattered"}

func (a Anomaly) String() string { return anomalyNames[a] }

// Outcome is what is known after a packet.
type Outcome struct {
	// Spoken.App is AppNone while nothing is proved, and AppUnknown once
	// Decided without an answer.
	Spoken     policy.Spoken
	Confidence Confidence
	Evidence   Evidence
	Status     Status
	// Decided: further bytes change nothing, or the budget is used up. An
	// answer with ConfidenceOneSide is reported before it is decided, so that
	// policy can refuse it at once; only the other side's bytes are missing.
	Decided bool
	// Reversed: picked up mid-stream, and the bytes say that the initiator is
	// the server.
	Reversed bool
	Anomaly  Anomaly
	// Likely is what the flow behaves like where Spoken stays unknown: to be
	// shown, and never the ground for an allow.
	Likely policy.App
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
	serverFirst  bool       // the first payload was the server's
	hello        *quicHello // where QUIC's hello is collected; nil = it is not
	port         uint16     // the responder's
	sub          policy.App // for tunnel: the API on top
	refused      bool       // for tunnel: one was asked for before, and refused
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
	// sub names the API or product on top once the protocol is sure: yes, or
	// more where the bytes so far fit one and others (the server's reply, mostly)
	// may still name it, else no. With AppNone as its name it is none.
	sub func(*view) (policy.App, match)
	// alpn is the application that a TLS hello announces.
	alpn func(*view) policy.App
	// upgraded says whether the flow went over to TLS inside the protocol:
	// yes, more (it still may), or no (it cannot any more, as far as is looked).
	upgraded func(*view) match
	// tunnel says whether the flow carries another conversation from some byte of
	// either side on: yes with those two offsets, more (it still may), or no. With
	// more the bytes before the offsets are done with.
	tunnel func(*view) (m match, client, server int)
	// holds is false where what either side says after its beginning is neither
	// the protocol nor what it may go over to.
	holds func(*view) bool
	// next is where the client's next message begins behind the one that b begins
	// with, 0 if that is not known. Another protocol's beginning there is foreign.
	next func(b []byte) int
	// lines: a protocol of text lines that may go over to TLS. What the client says
	// next is awaited before it is decided, whatever policy makes of TLS.
	lines bool
	// attrs copies what is worth showing, of both sides as far as they have spoken.
	attrs func(*view, *Attrs)
}

// Engine holds the signatures, ready to be tried.
type Engine struct {
	first [2][2][256]set // [udp][dir][first byte] → protocols that may begin so
	all   [2]set         // [udp] → protocols of that transport
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
			e.all[t] = e.all[t].or(one(i))
			for d, firsts := range [2]*firsts{&p.clientFirsts, &p.serverFirsts} {
				for b := range 256 {
					if firsts.has(byte(b)) {
						e.first[t][d][b] = e.first[t][d][b].or(one(i))
					}
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
	if len(payload) == 0 || s.isOver() {
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
	case s.outcome.Decided && s.neverReceived():
		s.disbelieve()
	case s.outcome.Decided && grew && s.proto >= 0:
		e.watch(s) // what waits to be received may still turn out to be something else
	}
	s.behave()
	if !s.outcome.Decided && s.exhausted() {
		e.giveUp(s)
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
		e.giveUp(s)
		s.upgrades = no
	}
	if !s.isReceived() {
		s.disbelieve()
	}
	return s.Outcome()
}

// tally is what the protocols have said so far, per direction.
type tally struct {
	no, yes, fits [2]set
}

// standing is how far one reading of the flow has come.
type standing uint8

const (
	open    standing = iota
	oneSide          // a side proves it, the other has not said enough
	final
)

func (e *Engine) judge(s *State, dir Dir) {
	switch {
	case s.watching:
		e.watch(s)
		return
	case s.awaiting:
		s.await()
		return
	}
	v := s.look(false)
	e.gather(s, &s.tally[0], v, dir)
	st := e.conclude(s, &s.tally[0], v, false)
	if st == final || !s.mid {
		return
	}
	// Met mid-stream, the initiator may be the server.
	v = s.look(true)
	e.gather(s, &s.tally[1], v, 1-dir)
	if st == open {
		st = e.conclude(s, &s.tally[1], v, true)
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
		s.asked++
		client, server := len(v.c) > 0 && p.mid(v.c) == yes, len(v.s) > 0 && p.mid(v.s) == yes
		if !client && !server {
			continue
		}
		s.outcome = Outcome{Spoken: policy.Spoken{App: p.app}, Confidence: ConfidenceOneSide, Evidence: EvidenceMidStream}
		if p.refine != nil {
			// Which side asks is not known.
			if s.outcome.Spoken.App = p.refine(v); s.outcome.Spoken.App == p.app {
				s.outcome.Spoken.App = p.refine(s.look(false))
			}
		}
		// v has the sides exchanged.
		if client {
			s.outcome.Evidence |= EvidenceServer
		}
		if server {
			s.outcome.Evidence |= EvidenceClient
		}
		s.proto = int8(i)
		return
	}
}

func transport(v *view) int {
	if v.udp {
		return 1
	}
	return 0
}

// gather asks every protocol that is still possible.
func (e *Engine) gather(s *State, ta *tally, v *view, dir Dir) {
	if len(v.c) > 0 {
		e.ask(s, ta, v, FromClient, v.c[0], !v.udp || dir == FromClient)
	}
	if len(v.s) > 0 {
		e.ask(s, ta, v, FromServer, v.s[0], !v.udp || dir == FromServer)
	}
}

// ask lets the protocols look at one direction, which begins with first. What is
// not fresh was asked about before.
func (e *Engine) ask(s *State, ta *tally, v *view, dir Dir, first byte, fresh bool) {
	t := transport(v)
	said := answers{no: ta.no[dir].or(e.all[t].not(e.first[t][dir][first])), yes: ta.yes[dir], fits: ta.fits[dir]}
	if fresh {
		possible := e.all[t].not(said.no)
		if !v.udp {
			possible = possible.not(said.yes)
		}
		for m := possible.lo; m != 0; m &= m - 1 {
			said.take(one(bits.TrailingZeros64(m)), s.call(v, dir, bits.TrailingZeros64(m)))
		}
		for m := possible.hi; m != 0; m &= m - 1 {
			said.take(one(64+bits.TrailingZeros64(m)), s.call(v, dir, 64+bits.TrailingZeros64(m)))
		}
	}
	ta.no[dir], ta.yes[dir], ta.fits[dir] = said.no, said.yes.not(said.no), said.fits.not(said.no)
}

// answers is one direction of a tally.
type answers struct{ no, yes, fits set }

func (a *answers) take(bit set, m match) {
	switch m {
	case no:
		a.no = a.no.or(bit)
	case fits:
		a.fits = a.fits.or(bit)
	case yes:
		a.yes = a.yes.or(bit)
	}
}

func (s *State) call(v *view, dir Dir, i int) match {
	s.asked++
	if dir == FromClient {
		return protocols[i].client(v)
	}
	return protocols[i].server(v)
}

// conclude turns what was said into the outcome.
func (e *Engine) conclude(s *State, ta *tally, v *view, reversed bool) standing {
	alive := e.all[transport(v)].not(ta.no[0]).not(ta.no[1])
	proved := ta.yes[0].or(ta.yes[1])
	// A side that proves something speaks nothing else.
	for _, y := range ta.yes {
		if !y.empty() {
			alive = alive.and(y)
		}
	}
	if both := ta.yes[0].or(ta.fits[0]).and(ta.yes[1].or(ta.fits[1])).and(alive); !both.empty() {
		if !e.settle(s, both.lowest(), v, ConfidenceBothSides, reversed) {
			return final
		}
		s.outcome.Decided = true
		return final
	}
	if single := proved.and(alive); !single.empty() {
		if !e.settle(s, single.lowest(), v, ConfidenceOneSide, reversed) {
			return final
		}
		return oneSide
	}
	if s.mid {
		return open
	}
	// A side proved something that the other, or its own next datagram, rules out.
	if !proved.empty() || s.outcome.Confidence != ConfidenceNone {
		s.contradict()
		return final
	}
	if alive.empty() {
		s.outcome = Outcome{Spoken: s.unknown(), Decided: true}
		return final
	}
	return open
}

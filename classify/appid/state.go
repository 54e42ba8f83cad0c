package appid

import (
	"bytes"

	"gatehouse/policy"
)

// What an undecided flow may cost. A packet is worth 64 units; crumbs of a
// stream that was split into a few bytes each cost what they carry, so that it
// is still read while its bytes stay bounded.
const (
	clientKeep = 3968 // bytes kept of the client's side: a TLS hello with post-quantum key shares fits
	serverKeep = 1536 // of the server's: banners and the heads of replies

	unitsPerPacket = 64
	crumb          = 8
	unitsTCP       = 10 * unitsPerPacket
	unitsUDP       = 6 * unitsPerPacket
	bytesPerDir    = 4 << 10
	bytesHello     = 16 << 10 // while a hello that began is incomplete

	// unreceivedMax is how much a client sends before its first acknowledgement:
	// the window of a SYN-ACK is never scaled (RFC 7323 2.2).
	unreceivedMax = 1 << 16
	// unreceivedTwice is how much with what it sends once more: the news that it was
	// received may be late.
	unreceivedTwice = 2 * unreceivedMax

	// A hello that is cut too fine to be read to its end within the budget is
	// one if this much of it was consistent: all up to the cipher suites.
	helloEvidence = recordHead + 4 + 2 + 32 + 1

	maxSpans = 6 // separate pieces kept of one direction that arrives out of order
)

// span is a kept piece [lo, hi) of a direction.
type span struct{ lo, hi uint16 }

// stream is one direction's prefix and budget.
type stream struct {
	base    uint32 // sequence number of the first byte
	based   bool
	n       uint16 // contiguous bytes kept
	spans   [maxSpans]span
	nspans  uint8
	full    bool // the prefix is complete, or a datagram was longer than it
	bytes   uint32
	units   uint16
	packets uint16
	acked   uint32 // how far the other side has acknowledged it, from base
}

// State is what app-ID keeps of one undecided flow: at most 6 KiB, reused.
type State struct {
	udp, mid bool
	watching bool // for an upgrade, see Watch
	awaiting bool // the API on top, see AwaitSub
	begun    bool
	receipts bool            // see WantReceipts
	proof    uint16          // how much of the client's side the answer rests on
	part     bool            // the datagram at hand goes on in fragments
	first    Dir             // who sent the first payload
	upgrades match           // of the settled protocol: more = it may still go over to TLS
	naming   match           // of the settled protocol: more = the API on top may still show
	tunnel   match           // of the settled protocol: more = it may still open one, yes = it has
	at       [2]uint16       // where the tunnel begins in each direction
	rounds   uint8           // of refusals of a tunnel
	depth    uint8           // how many tunnels the bytes at hand are in
	outer    policy.Spoken   // depth > 0: what the outermost tunnel is opened in
	target   [targetMax]byte // where the innermost tunnel leads
	targetN  uint8
	proto    int8 // index of the settled protocol, -1 = none
	reversed bool
	port     uint16
	outcome  Outcome
	dir      [2]stream
	tally    [2]tally
	asked    uint32 // how often a signature was called
	reach    uint32 // how far the client has sent, what is out of all windows left out
	v        view   // borrowed by the signatures; slices of buf
	media    [2]rtpTrack
	ahead    view // of what follows the first message
	hello    quicHello
	buf      [clientKeep + serverKeep]byte
}

// Reset makes s ready for a new flow of that transport. port is the
// responder's: it only tells names of one wire format apart (dns, mdns). mid
// says that the flow's beginning was not seen.
func (s *State) Reset(proto policy.Proto, port uint16, mid bool) {
	s.udp, s.mid, s.watching, s.reversed = proto == policy.ProtoUDP, mid, false, false
	s.upgrades, s.proto, s.port, s.begun = no, -1, port, false
	s.receipts, s.proof = false, 0
	s.outcome = Outcome{}
	s.dir = [2]stream{}
	s.hello = quicHello{}
	s.media = [2]rtpTrack{}
	s.tally[0] = tally{}
	if mid {
		s.tally[1] = tally{}
	}
	s.awaiting, s.naming, s.asked, s.reach = false, no, 0, 0
	s.tunnel, s.depth, s.rounds, s.outer, s.targetN = no, 0, 0, policy.Spoken{}, 0
}

// Open fixes where a direction's data begins: at a SYN's sequence number plus one.
func (s *State) Open(dir Dir, seq uint32) {
	if d := &s.dir[dir]; !d.based {
		d.base, d.based = seq, true
	}
}

// WantReceipts makes answers wait until the server has acknowledged the
// client's bytes that they rest on. A client can send what its server throws
// away (an old timestamp, a bad acknowledgement, too short a life), be named by
// it, and then send other bytes in their place.
func (s *State) WantReceipts() { s.receipts = true }

// Acknowledged notes that all of a direction before seq was received.
func (s *State) Acknowledged(dir Dir, seq uint32) {
	d := &s.dir[dir]
	if n := int32(seq - d.base); d.based && n > 0 && uint32(n) > d.acked {
		d.acked = uint32(n)
	}
}

// isReceived reports whether the answer may be relied on. A no may always.
func (s *State) isReceived() bool {
	return !s.receipts || s.isUnknown() || s.dir[FromClient].acked >= uint32(s.proof)
}

// Waits reports whether there is an answer that only waits to be received.
func (s *State) Waits() bool { return s.outcome.Decided && !s.isReceived() }

// Outcome is what the last Feed returned, without an anomaly of its packet.
func (s *State) Outcome() Outcome {
	o := s.outcome
	o.Decided = o.Decided && s.isReceived()
	o.Status = s.status()
	return o
}

func (s *State) status() Status {
	switch {
	case s.outcome.Likely != policy.AppNone:
		return StatusNamed
	case s.isUnknown() && s.mid:
		return StatusUnknownMidStream
	case s.isUnknown():
		return StatusUnknown
	case s.outcome.Spoken.App != policy.AppNone:
		return StatusNamed
	case !s.begun:
		return StatusIncomplete
	}
	return StatusInsufficient
}

// MayName reports whether the API on top of the answer's protocol may still show.
func (s *State) MayName() bool { return s.naming == more }

// AwaitSub goes on with a decided flow until the API on top is known or cannot
// be any more, within what is left of the budget.
func (s *State) AwaitSub() Outcome {
	s.awaiting = true
	s.await()
	return s.Outcome()
}

// await looks for the API only.
func (s *State) await() {
	s.name(&protocols[s.proto], s.look(s.reversed))
	s.outcome.Decided = s.naming != more
}

// name asks for the API on top.
func (s *State) name(p *protocol, v *view) {
	s.outcome.Spoken.Sub, s.naming = policy.AppNone, no
	if p.refine != nil {
		s.outcome.Spoken.App = p.refine(v)
	}
	if p.sub == nil {
		return
	}
	app, m := p.sub(v)
	if s.naming = m; m == yes && app.IsSub() {
		s.outcome.Spoken.Sub = app
	}
}

// MayUpgrade reports whether the answer's protocol may still go over to TLS, or
// open a tunnel, or has opened one that was not looked into.
func (s *State) MayUpgrade() bool {
	if !s.outcome.Decided || !s.isReceived() {
		return false
	}
	return s.tunnel == yes || !s.watching && (s.upgrades == more || s.tunnel == more)
}

// isOver reports whether no further bytes could change anything.
func (s *State) isOver() bool {
	return s.outcome.Decided && s.isReceived() && !s.MayUpgrade() && !s.MayName()
}

// IsText reports whether the answer's protocol is one of text lines, whose
// upgrade to TLS shows with the client's next lines: those are worth waiting for.
func (s *State) IsText() bool { return s.proto >= 0 && protocols[s.proto].lines }

// Watch goes on with a decided flow that MayUpgrade: into the tunnel that was
// opened, or until it went over to TLS, opened one, or can do neither any more.
// The budget starts anew. What is in the tunnel may be decided at once.
func (e *Engine) Watch(s *State) Outcome {
	s.renew()
	if s.tunnel == yes {
		e.enter(s)
		return s.Outcome()
	}
	s.watching, s.outcome.Decided = true, false
	e.watch(s)
	return s.Outcome()
}

// renew makes the budget a new one.
func (s *State) renew() {
	for d := range s.dir {
		s.dir[d].units, s.dir[d].bytes, s.dir[d].packets = 0, 0, 0
	}
}

// roundsMax is how many packets of refusals of a tunnel are passed over.
const roundsMax = 64

// depthMax is how many tunnels in each other are looked into; what is in more of
// them is unknown.
const depthMax = 4

// targetMax is how much is kept of the name that a tunnel leads to.
const targetMax = 48

// enter begins anew with what the tunnel carries.
func (e *Engine) enter(s *State) {
	if s.depth == 0 {
		s.outer = s.outcome.Spoken
	}
	var a Attrs
	if protocols[s.proto].attrs != nil {
		protocols[s.proto].attrs(s.look(s.reversed), &a)
	}
	s.targetN = uint8(copy(s.target[:], a.Get(AttrTarget)))
	lost := s.dir[FromClient].full || s.dir[FromServer].full
	for d := range s.dir {
		s.dir[d].advance(s.kept(Dir(d)), int(s.at[d]))
	}
	s.depth++
	s.mid, s.watching, s.awaiting, s.begun, s.reversed = false, false, false, false, false
	s.proto, s.proof, s.upgrades, s.naming, s.tunnel = -1, 0, no, no, no
	s.tally[0] = tally{}
	s.outcome = Outcome{Spoken: s.outer}
	if s.depth > depthMax || lost { // bytes of it went by that were not kept
		s.outcome = Outcome{Spoken: s.unknown(), Decided: true}
		return
	}
	for _, d := range [...]Dir{FromServer, FromClient} {
		if s.dir[d].n > 0 {
			s.begun, s.first = true, d
		}
	}
	if s.begun {
		e.judge(s, s.first)
	}
}

// advance forgets the first n bytes of the direction, some of which may be still
// to come.
func (d *stream) advance(keep []byte, n int) {
	kept := min(n, int(d.n))
	end := int(d.n)
	for _, p := range d.spans[:d.nspans] {
		end = max(end, int(p.hi))
	}
	copy(keep, keep[min(n, end):end])
	d.base += uint32(n)
	d.n -= uint16(kept)
	d.acked -= min(d.acked, uint32(n))
	spans := d.spans
	held := spans[:d.nspans]
	d.nspans = 0
	for _, p := range held {
		if int(p.hi) > n {
			d.spans[d.nspans] = span{uint16(max(int(p.lo)-n, 0)), uint16(int(p.hi) - n)}
			d.nspans++
		}
	}
	// Bytes that there was no room for are missing now: the gap stays.
	d.full = false
}

// unknown is what is said of bytes that are no protocol.
func (s *State) unknown() policy.Spoken {
	if s.depth == 0 {
		return policy.Spoken{App: policy.AppUnknown}
	}
	out := s.outer
	out.Inner = policy.AppUnknown
	return out
}

// carriesUnknown is what is said where a tunnel was asked for, and what came of
// it could not be told.
func (s *State) carriesUnknown() policy.Spoken {
	if s.depth > 0 {
		return s.unknown()
	}
	out := s.outcome.Spoken
	out.Inner = policy.AppUnknown
	return out
}

func (s *State) isUnknown() bool {
	return s.outcome.Spoken.App == policy.AppUnknown || s.outcome.Spoken.Inner == policy.AppUnknown
}

// contradict ends the search: the two sides, or the beginning and the rest of
// one, are not the same protocol.
func (s *State) contradict() {
	s.outcome = Outcome{Spoken: s.unknown(), Decided: true, Anomaly: AnomalyMismatch}
	s.upgrades, s.naming, s.tunnel = no, no, no
}

// Charge counts payload that is forwarded without being looked at, such as
// later fragments of a datagram.
func (e *Engine) Charge(s *State, dir Dir, n int) {
	s.dir[dir].charge(n)
	if s.exhausted() && !s.outcome.Decided {
		e.giveUp(s)
	}
}

func (d *stream) charge(n int) {
	d.packets++
	d.bytes += uint32(n)
	if n > crumb {
		n = unitsPerPacket
	}
	d.units = min(d.units+uint16(max(1, n)), 1<<15)
}

func (s *State) kept(dir Dir) []byte {
	if dir == FromClient {
		return s.buf[:clientKeep]
	}
	return s.buf[clientKeep:]
}

// look fills the view of the flow, with the sides as they are or, for flows
// met mid-stream, exchanged.
func (s *State) look(exchanged bool) *view {
	c, r := &s.dir[FromClient], &s.dir[FromServer]
	cb, rb := s.buf[:c.n], s.buf[clientKeep:clientKeep+int(r.n)]
	if exchanged {
		c, r, cb, rb = r, c, rb, cb
	}
	s.v = view{hello: s.quicHello(), c: cb, s: rb, cFull: c.full, sFull: r.full, udp: s.udp, port: s.port, serverFirst: (s.first == FromServer) != exchanged}
	return &s.v
}

// quicHello is where a datagram flow's hello is collected: behind the client's
// latest datagram.
func (s *State) quicHello() *quicHello {
	if !s.udp {
		return nil
	}
	s.hello.keep = s.buf[quicDatagram:clientKeep]
	return &s.hello
}

func (s *State) datagram(dir Dir, payload []byte) {
	d := &s.dir[dir]
	d.charge(len(payload))
	keep := s.kept(dir)
	n := copy(keep[:min(len(keep), quicDatagram)], payload)
	d.n, d.full = uint16(n), n < len(payload) || s.part
	s.media[dir].follow(payload)
}

// segment keeps what a TCP segment adds to its direction's prefix. The first
// bytes to arrive stay; other bytes for the same place are a conflict, and
// then nothing of the segment is kept. So is a piece that there is no room for:
// its receiver would keep it, and others could be shown here later. grew: the
// contiguous part grew.
func (s *State) segment(dir Dir, seq uint32, payload []byte) (grew bool, a Anomaly) {
	d, keep := &s.dir[dir], s.kept(dir)
	if !d.based {
		d.base, d.based = seq, true
	}
	off := int(int32(seq - d.base))
	if len(payload) == 1 && d.n > 0 && off == int(d.n)-1 {
		// A keep-alive is free.
		if payload[0] != keep[off] {
			return false, AnomalyConflict
		}
		return false, AnomalyNone
	}
	if off < 0 {
		// From before what was met mid-stream, or a keep-alive of a side that sent nothing yet.
		if off+len(payload) <= 0 {
			if off != -1 || len(payload) != 1 {
				d.charge(len(payload))
			}
			return false, AnomalyNone
		}
		payload, off = payload[-off:], 0
	}
	if dir == FromClient && off <= unreceivedMax {
		s.reach = max(s.reach, uint32(off+len(payload)))
	}
	if off >= len(keep) {
		d.charge(len(payload))
		return false, AnomalyNone
	}
	data := payload
	if off+len(data) > len(keep) {
		data = data[:len(keep)-off]
	}
	if d.conflicts(keep, off, data) {
		return false, AnomalyConflict
	}
	d.charge(len(payload))
	return d.insert(keep, off, data)
}

func (d *stream) conflicts(keep []byte, off int, data []byte) bool {
	differs := func(lo, hi int) bool {
		lo, hi = max(lo, off), min(hi, off+len(data))
		return lo < hi && !bytes.Equal(keep[lo:hi], data[lo-off:hi-off])
	}
	if differs(0, int(d.n)) {
		return true
	}
	for _, p := range d.spans[:d.nspans] {
		if differs(int(p.lo), int(p.hi)) {
			return true
		}
	}
	return false
}

// insert keeps data at off; where bytes are kept already they are the same.
func (d *stream) insert(keep []byte, off int, data []byte) (grew bool, a Anomaly) {
	lo, hi := uint16(off), uint16(off+len(data))
	if lo > d.n {
		if !d.hold(keep, span{lo, hi}, data) {
			return false, AnomalyScattered
		}
		return false, AnomalyNone
	}
	if hi <= d.n {
		return false, AnomalyNone
	}
	copy(keep[off:], data)
	d.n = hi
	// Pieces that were waiting may join now; each pass removes one.
	for i := 0; i < int(d.nspans); {
		p := d.spans[i]
		if p.lo > d.n {
			i++
			continue
		}
		d.n = max(d.n, p.hi)
		d.nspans--
		d.spans[i] = d.spans[d.nspans]
		i = 0
	}
	d.full = int(d.n) == len(keep)
	return true, AnomalyNone
}

// hold keeps a piece beyond a gap, if there is room.
func (d *stream) hold(keep []byte, p span, data []byte) bool {
	at := p.lo
	for i := 0; i < int(d.nspans); {
		q := d.spans[i]
		if q.lo > p.hi || p.lo > q.hi {
			i++
			continue
		}
		p = span{min(p.lo, q.lo), max(p.hi, q.hi)}
		d.nspans--
		d.spans[i] = d.spans[d.nspans]
		i = 0
	}
	if d.nspans == maxSpans {
		return false
	}
	copy(keep[at:], data)
	d.spans[d.nspans] = p
	d.nspans++
	return true
}

// exhausted reports whether either direction has used up its budget.
func (s *State) exhausted() bool {
	units, limit := uint16(unitsTCP), uint32(bytesPerDir)
	if s.udp {
		units, limit = unitsUDP, bytesPerDir*2
	}
	if s.helloPending() {
		units, limit = units*4, bytesHello
	}
	for i := range s.dir {
		if s.dir[i].units >= units || s.dir[i].bytes >= limit {
			return true
		}
	}
	return false
}

// helloPending reports whether the client's side begins a TLS hello that is incomplete.
func (s *State) helloPending() bool {
	b := s.buf[:s.dir[FromClient].n]
	return !s.udp && s.outcome.Confidence == ConfidenceNone && !s.dir[FromClient].full &&
		len(b) >= 6 && b[0] == recordHandshake && b[1] == 3 && b[5] == helloClient
}

// giveUp decides with what there is: proof of one side where the other is
// silent, or unknown.
func (e *Engine) giveUp(s *State) {
	s.outcome.Decided = true
	if s.watching && s.tunnel == more && s.exhausted() {
		s.outcome.Spoken = s.carriesUnknown()
	}
	s.naming, s.tunnel = no, no
	if s.watching || s.awaiting {
		return
	}
	silent := s.dir[FromClient].n == 0 || s.dir[FromServer].n == 0
	if silent && s.helloPending() && s.dir[FromClient].n >= helloEvidence {
		e.settle(s, tlsIndex, s.look(false), ConfidenceOneSide, false)
		return
	}
	if s.outcome.Confidence == ConfidenceNone || !silent && !s.mid {
		s.outcome.Spoken = s.unknown()
		s.outcome.Confidence, s.outcome.Evidence = ConfidenceNone, 0
	}
}

// neverReceived: a client that is heard has sent no more before that was acknowledged.
func (s *State) neverReceived() bool {
	sent := s.dir[FromClient].bytes
	return sent > unreceivedMax && (s.udp || s.reach > unreceivedMax || sent > unreceivedTwice)
}

// disbelieve decides on unknown where what was sent was never received.
func (s *State) disbelieve() {
	s.outcome = Outcome{Spoken: s.unknown(), Decided: true}
	s.upgrades, s.naming, s.tunnel = no, no, no
}

// settle names protocol i; false if it turns out to be something else further on.
func (e *Engine) settle(s *State, i int, v *view, c Confidence, reversed bool) bool {
	p := &protocols[i]
	if p.holds != nil && !p.holds(v) || e.borrowed(s, p, v) {
		s.contradict()
		return false
	}
	if s.proto != int8(i) || c > s.outcome.Confidence {
		s.proof = s.dir[FromClient].n
	}
	s.proto, s.reversed = int8(i), reversed
	s.outcome.Spoken = policy.Spoken{App: p.app}
	s.outcome.Confidence, s.outcome.Reversed = c, reversed
	s.outcome.Evidence = s.sides() | EvidenceSignature
	if p.refine != nil {
		s.outcome.Spoken.App = p.refine(v)
	}
	s.name(p, v)
	if p.alpn != nil {
		s.outcome.Spoken.ALPN = p.alpn(v)
	}
	s.upgrades = no
	if p.upgraded != nil && s.depth == 0 {
		if s.upgrades = p.upgraded(v); s.upgrades == yes {
			s.outcome.Spoken.Inner = policy.AppTLS
		}
	}
	s.lookForTunnel(p, v)
	if s.depth > 0 {
		in := s.outcome.Spoken
		s.outcome.Spoken = s.outer
		s.outcome.Spoken.Inner, s.outcome.Spoken.ALPN = in.App, in.ALPN
	}
	return true
}

// lookForTunnel asks whether one was opened.
func (s *State) lookForTunnel(p *protocol, v *view) {
	if s.tunnel = no; p.tunnel == nil {
		return
	}
	v.sub, v.refused = s.outcome.Spoken.Sub, s.rounds > 0
	m, c, r := p.tunnel(v)
	if s.reversed {
		c, r = r, c
	}
	s.tunnel, s.at = m, [2]uint16{uint16(c), uint16(r)}
	if m == yes {
		s.proof = s.at[FromClient]
	}
}

// sides are those whose bytes were read.
func (s *State) sides() (e Evidence) {
	if s.dir[FromClient].n > 0 {
		e |= EvidenceClient
	}
	if s.dir[FromServer].n > 0 {
		e |= EvidenceServer
	}
	return e
}

// watch goes on with a settled protocol: does it hold, does it go over to TLS,
// does it open a tunnel.
func (e *Engine) watch(s *State) {
	p, v := &protocols[s.proto], s.look(s.reversed)
	if p.holds != nil && !p.holds(v) || e.borrowed(s, p, v) {
		s.contradict()
		return
	}
	if s.tunnel == more {
		if s.lookForTunnel(p, v); s.tunnel == no {
			s.proof = s.dir[FromClient].n
		}
	}
	if s.upgrades == more {
		if s.upgrades = p.upgraded(v); s.upgrades == yes {
			s.outcome.Spoken.Inner = policy.AppTLS
		}
		if s.upgrades != more {
			s.proof = s.dir[FromClient].n
		}
	}
	if !s.watching {
		return
	}
	if s.tunnel == more {
		done := s.at != [2]uint16{}
		for d := range s.dir {
			s.dir[d].advance(s.kept(Dir(d)), int(s.at[d]))
		}
		if done && s.rounds < roundsMax { // a refusal counts against no budget
			s.rounds++
			s.renew()
		}
	}
	s.outcome.Decided = s.tunnel != more && s.upgrades != more
}

// Attrs fills a from what is kept of the flow.
func (s *State) Attrs(a *Attrs) {
	*a = Attrs{}
	if s.depth > 0 {
		a.Set(AttrTarget, s.target[:s.targetN])
	}
	if s.isUnknown() {
		a.noteEntropy(s.buf[:s.dir[FromClient].n], s.buf[clientKeep:][:s.dir[FromServer].n])
	}
	if s.proto < 0 || protocols[s.proto].attrs == nil {
		return
	}
	protocols[s.proto].attrs(s.look(s.reversed), a)
}

// behave decides on what a flow behaves like, if its bytes have told nothing.
func (s *State) behave() {
	if s.outcome.Decided || s.outcome.Confidence != ConfidenceNone || !s.isMedia() {
		return
	}
	s.outcome = Outcome{Spoken: s.unknown(), Decided: true, Likely: policy.AppRTP, Confidence: ConfidenceBehaviour, Evidence: s.sides() | EvidenceBehaviour}
}

// isMedia reports whether a side's packets number themselves as RTP's do, and the
// other's are nothing else.
func (s *State) isMedia() bool {
	if s.udp {
		c, r := &s.media[FromClient], &s.media[FromServer]
		return !c.foreign && !r.foreign && (c.run >= rtpRun || r.run >= rtpRun)
	}
	best := no
	for d := range s.dir {
		if s.dir[d].n == 0 {
			continue
		}
		m := rtpFrames(s.kept(Dir(d))[:s.dir[d].n], s.dir[d].full)
		if m == no {
			return false
		}
		best = max(best, m)
	}
	return best == yes
}

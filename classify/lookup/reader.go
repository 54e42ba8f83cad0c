// Package lookup reads the DNS queries and answers of the flows from which policy
// learns what names stand for. It is called by a dataplane worker with each such
// packet before that is sent, so that the rule is there before the answer is. It
// allocates: only the DNS of workloads that statements let reach names comes
// here. Everything it keeps is bounded. A Reader belongs to one worker.
package lookup

import (
	"encoding/binary"
	"slices"

	"gatehouse/classify"
	"gatehouse/policy"
)

const (
	questionsMax = 4096 // that wait for their answers, of one worker
	perOwner     = 512  // of one endpoint
	streamsMax   = 256  // DNS connections read at once, of one worker
	streamsOwner = 32   // of one endpoint
	// answerWait is how late an answer counts, in nanoseconds: stub resolvers wait
	// for five seconds, and ask twice.
	answerWait = int64(15e9)
	// expireEvery is how often what nobody answered is looked for, where there is no
	// room: of a flood each query would look through all.
	expireEvery = int64(1e9)
	// learnAtOnce and learnRate are how many addresses answers may bring to one
	// endpoint, at once and a second. A page that is loaded, or an update, asks for
	// some hundred names; who has answers made for him could occupy the worker.
	learnAtOnce = 4096
	learnRate   = 1000
	// tailMax is how much of what has passed is kept to compare what comes again.
	tailMax = 4096
)

// Handlers are what a Reader tells. They are called before Read returns.
type Handlers struct {
	// Ask is told of each query: whether its packet passes, and whether the
	// answer is wanted.
	Ask func(q *Query) (passes, wanted bool)
	// Learn is told of each answer to a query that has passed.
	Learn func(a *policy.Answer)
	// Refuse counts what is not learned.
	Refuse func(r policy.NameRefusal)
}

// Outcome is what becomes of a packet.
type Outcome uint8

const (
	Pass    Outcome = iota
	Refused         // Ask said no
	Held            // a segment out of order, or with other bytes than have passed: its sender sends it again
)

// Packet is one packet of a flow to a name server.
type Packet struct {
	Key       classify.FlowKey
	Owner     uint16 // of the asker's endpoint, for its share
	FromAsker bool
	Payload   []byte
	Part      bool // the first fragment of a datagram
	TCP       bool
	Seq       uint32
	Start     uint32 // the sequence number of this side's first byte
	Started   bool   // Start is known
	Now       int64  // nanoseconds of any monotonic clock
}

// Reader keeps the questions that wait for an answer, and the connections that
// are read.
type Reader struct {
	Handlers
	questions map[question]*pending
	ofOwner   map[uint16]*asked
	expired   int64 // when expire last ran
	paces     map[uint16]*pace
	streams   map[classify.FlowKey]*stream
	streamsOf map[uint16]int
	ended     map[classify.FlowKey]bool // connections that go on, unread, as others took their room
}

// question is what an answer must repeat, in its own flow.
type question struct {
	key  classify.FlowKey
	id   uint16
	kind uint16
	name string
}

type pending struct {
	question
	times int // asked and not answered
	until int64
	owner uint16
}

// asked is what waits of one endpoint.
type asked struct {
	waiting int
	order   []*pending // as they came; some wait no more
}

// stream is one DNS connection (RFC 7766).
type stream struct {
	owner uint16
	side  [2]half // of the asker, of the name server
}

// half is what one side has sent: all before next, in order.
type half struct {
	next  uint32
	begun bool
	rest  []byte // of a message that is not whole yet, with its length
	tail  []byte
}

// New returns a Reader that waits for nothing.
func New(h Handlers) *Reader {
	return &Reader{
		Handlers:  h,
		questions: make(map[question]*pending), ofOwner: make(map[uint16]*asked), paces: make(map[uint16]*pace),
		streams: make(map[classify.FlowKey]*stream), streamsOf: make(map[uint16]int), ended: make(map[classify.FlowKey]bool),
	}
}

// Read looks at one packet with payload.
func (r *Reader) Read(p *Packet) Outcome {
	if p.TCP {
		return r.segment(p)
	}
	return r.message(p, p.Payload)
}

// Forget ends a flow.
func (r *Reader) Forget(key classify.FlowKey) {
	if s := r.streams[key]; s != nil {
		if r.streamsOf[s.owner]--; r.streamsOf[s.owner] == 0 {
			delete(r.streamsOf, s.owner)
		}
		delete(r.streams, key)
	}
	delete(r.ended, key)
}

func (r *Reader) message(p *Packet, b []byte) Outcome {
	m, err := parse(b)
	if p.FromAsker {
		if err != nil || m.isAnswer {
			m.Query = Query{}
		}
		passes, wanted := r.Ask(&m.Query)
		if !passes {
			return Refused
		}
		if wanted {
			r.ask(p, &m.Query)
		}
		return Pass
	}
	switch {
	case err != nil:
		r.Refuse(policy.NameMalformed)
	case m.isAnswer && m.Name != "":
		r.answered(p, &m)
	}
	return Pass
}

func (r *Reader) ask(p *Packet, q *Query) {
	k := question{p.Key, q.id, q.Type, q.Name}
	if w := r.questions[k]; w != nil {
		w.times, w.until = w.times+1, p.Now+answerWait
		return
	}
	if r.isFull(p.Owner) && p.Now-r.expired >= expireEvery {
		r.expired = p.Now
		r.expire(p.Now)
	}
	if r.isFull(p.Owner) {
		r.giveUp(r.largest(p.Owner), p.Now)
	}
	w := &pending{k, 1, p.Now + answerWait, p.Owner}
	of := r.ofOwner[p.Owner]
	if of == nil {
		of = &asked{}
		r.ofOwner[p.Owner] = of
	}
	if len(of.order) >= 2*perOwner {
		of.order = slices.DeleteFunc(of.order, func(w *pending) bool { return r.questions[w.question] != w })
	}
	r.questions[k], of.order = w, append(of.order, w)
	of.waiting++
}

func (r *Reader) isFull(owner uint16) bool {
	of := r.ofOwner[owner]
	return len(r.questions) >= questionsMax || of != nil && of.waiting >= perOwner
}

// largest is who makes room: the endpoint of which most waits, the asker itself
// where that has its share.
func (r *Reader) largest(asker uint16) uint16 {
	most, n := asker, 0
	if of := r.ofOwner[asker]; of != nil {
		n = of.waiting
	}
	if n >= perOwner {
		return asker
	}
	for owner, of := range r.ofOwner {
		if of.waiting > n {
			most, n = owner, of.waiting
		}
	}
	return most
}

// giveUp waits no more for the answer to what an endpoint asked first.
func (r *Reader) giveUp(owner uint16, now int64) {
	of := r.ofOwner[owner]
	for of != nil && len(of.order) > 0 {
		w := of.order[0]
		of.order = of.order[1:]
		if r.questions[w.question] != w {
			continue
		}
		if w.until >= now {
			r.Refuse(policy.NameBusy)
		}
		r.drop(w)
		return
	}
}

func (r *Reader) expire(now int64) {
	for _, w := range r.questions {
		if w.until < now {
			r.drop(w)
		}
	}
}

func (r *Reader) drop(w *pending) {
	delete(r.questions, w.question)
	of := r.ofOwner[w.owner]
	if of.waiting--; of.waiting == 0 {
		delete(r.ofOwner, w.owner)
	}
}

// pace is how many addresses an endpoint may still be told of.
type pace struct {
	left int64
	at   int64
}

func (r *Reader) paceOf(p *Packet) *pace {
	of := r.paces[p.Owner]
	if of == nil {
		of = &pace{learnAtOnce, p.Now}
		r.paces[p.Owner] = of
	}
	if more := (p.Now - of.at) / (int64(1e9) / learnRate); more > 0 {
		of.left = min(learnAtOnce, of.left+more)
		of.at += more * (int64(1e9) / learnRate)
	}
	return of
}

// answered takes an answer to a question of the same flow; each counts once. Only
// then its records are read.
func (r *Reader) answered(p *Packet, m *message) {
	w := r.questions[question{p.Key, m.id, m.Type, m.Name}]
	if w == nil || w.until < p.Now {
		r.Refuse(policy.NameUnasked)
		return
	}
	if w.times--; w.times == 0 {
		r.drop(w)
	}
	of := r.paceOf(p)
	if of.left <= 0 {
		r.Refuse(policy.NameBusy)
		return
	}
	if m.readRecords(p.Part) != nil {
		r.Refuse(policy.NameMalformed)
		return
	}
	of.left -= int64(len(m.found))
	if m.more {
		r.Refuse(policy.NameAddresses)
	}
	if p.Part {
		r.Refuse(policy.NameInPieces)
	}
	if a := m.answer(); len(a.Addresses) > 0 {
		r.Learn(&a)
	}
}

// segment takes what a TCP segment adds to its side.
func (r *Reader) segment(p *Packet) Outcome {
	s := r.stream(p)
	if s == nil {
		r.Refuse(policy.NameBusy)
		if !p.FromAsker {
			return Pass
		}
		if passes, _ := r.Ask(&Query{}); !passes {
			return Refused
		}
		return Pass
	}
	h := &s.side[0]
	if !p.FromAsker {
		h = &s.side[1]
	}
	if !h.begun {
		h.next, h.begun = p.Start, true
	}
	fresh, ok := h.fresh(p.Seq, p.Payload)
	if !ok {
		return Held
	}
	// In place: a message that comes by the byte is not copied with each.
	b := append(h.rest, fresh...)
	for len(b) >= 2 {
		n := 2 + int(binary.BigEndian.Uint16(b))
		if len(b) < n {
			break
		}
		if o := r.message(p, b[2:n]); o != Pass {
			return o
		}
		b = b[n:]
	}
	switch {
	case len(b) == 0:
		h.rest = nil
	case len(b) < len(h.rest)+len(fresh):
		h.rest = append(h.rest[:0], b...)
	default:
		h.rest = b
	}
	h.tail = append(h.tail, fresh...)
	h.tail = h.tail[max(0, len(h.tail)-tailMax):]
	h.next += uint32(len(fresh))
	return Pass
}

// fresh is what a segment has beyond what has passed. What has passed must be
// the same again: its receiver may have missed the first.
func (h *half) fresh(seq uint32, payload []byte) ([]byte, bool) {
	again := -int(int32(seq - h.next))
	if again < 0 || again > len(h.tail) {
		return nil, false
	}
	old := payload[:min(again, len(payload))]
	if string(old) != string(h.tail[len(h.tail)-again:][:len(old)]) {
		return nil, false
	}
	return payload[len(old):], true
}

// stream is the packet's connection; nil where there is no room, or its
// beginning was not seen.
func (r *Reader) stream(p *Packet) *stream {
	if s := r.streams[p.Key]; s != nil {
		return s
	}
	if !p.Started || p.Part || r.ended[p.Key] || r.streamsOf[p.Owner] >= streamsOwner || len(r.streams) >= streamsMax && !r.endStream(p.Owner) {
		return nil
	}
	s := &stream{owner: p.Owner}
	r.streams[p.Key] = s
	r.streamsOf[p.Owner]++
	return s
}

// endStream makes room for a connection of an asker: the endpoint that has most
// gives one, where that is more than the asker has. It is not read again: what was
// of it is not known any more.
func (r *Reader) endStream(asker uint16) bool {
	if len(r.ended) >= streamsMax {
		return false
	}
	most := asker
	for owner, n := range r.streamsOf {
		if n > r.streamsOf[most] {
			most = owner
		}
	}
	for key, s := range r.streams {
		if most != asker && s.owner == most {
			r.Forget(key)
			r.ended[key] = true
			return true
		}
	}
	return false
}

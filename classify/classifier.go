package classify

import (
	"time"
	"unsafe"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

// The order of events for a packet: find its flow, or open one by asking the
// table who may begin it; judge the flow again if the table is a newer one;
// follow TCP's state; while the flow is undecided let app-ID read the payload
// and ask policy about the answer, before the packet is forwarded.

// Limits and timeouts.
const (
	idleOpening = int64(30 * time.Second)
	idleLasting = int64(2 * time.Hour) // TCP
	idleHalf    = int64(2 * time.Minute)
	idleClosed  = int64(10 * time.Second)
	idleUDP     = int64(180 * time.Second)
	idleUDPOnce = int64(30 * time.Second)
	idleOther   = int64(30 * time.Second)
	idleDropped = int64(5 * time.Second)
	idleHearsay = int64(60 * time.Second) // met mid-stream and heard from one side only
	idleSearch  = int64(2 * time.Minute)  // undecided and silent, while app-ID holds its bytes
	udpOldFlows = int64(60 * time.Second) // V9
	offerAgain  = int64(100 * time.Millisecond)
	// stayingMin is how many packets a flow that stays has before the kernel is told
	// of it: a query and its answer are over by then.
	stayingMin = 8
	// answerMax is how late a SYN may be answered. What the responder says until
	// then may be older than the SYN.
	answerMax    = int64(3 * time.Second)
	echoMax      = 1472 // bytes of payload (R21)
	echoInterval = int64(time.Second / 50)
	echoBurst    = 100 * echoInterval
)

// Config sizes a Classifier. Everything is allocated by New.
type Config struct {
	Flows     int // conversations known at once; 0 = 65,536
	Undecided int // of those, how many app-ID may read at once (6 KiB each); 0 = 4,096
	// PerEndpoint is one endpoint's share of Flows, 0 = a quarter; of Undecided
	// it gets the same share.
	PerEndpoint int
	Fragments   int // datagrams in pieces known at once of one endpoint; 0 = 256
	// Capture: the packets are of a capture, and nothing depends on the answer.
	// Then checksums need not be right, since they may have been captured before
	// the sender's hardware filled them in; what one side says is read where the
	// other was not captured; the bytes may correct who began; any ICMP between
	// two addresses is one flow, without ports; upgrades are waited for whatever
	// policy asks; and what is full makes room for the flows at hand.
	Capture bool
	// WatchEvery is how often a flow of the same two addresses and port is read
	// although policy does not ask what it speaks; 0 = never. Its verdict does
	// not depend on it.
	WatchEvery time.Duration
	// Live, if not nil, says whether a flow that this Classifier does not know
	// is alive elsewhere (in the kernel's map, at another worker), for ICMP errors.
	Live func(key FlowKey) bool
	// Answer, if not nil, returns the sequence number and IP length of the SYN-ACK
	// that was carried elsewhere for a flow whose result said Opening; false if none was.
	Answer func(key *FlowKey) (seq uint32, length int, ok bool)
	// Ended, if not nil, is told of every flow that goes, before it does.
	Ended func(f *Flow)
	// Decided, if not nil, is told of every flow whose bytes were read once it is
	// decided, by Packet or otherwise; both are valid during the call.
	Decided func(f *Flow, a *appid.Attrs)
}

// Ingress is where a packet was met.
type Ingress struct {
	Zone         policy.Zone // below 65,536, as FlowKey has it
	FromEndpoint bool        // at the hook of what the endpoint sends; else of what it is sent
	Slot         uint16      // of that endpoint
	Workload     uint16      // whose that is: the same for all slots of one
	Mode         policy.Mode // of that endpoint
	RanBefore    bool        // its workload ran before the gateway attached (V9)
	Attached     int64       // when that was, on the clock of now
}

// Result is what becomes of a packet.
type Result struct {
	Forward bool
	// Verdict is the flow's: Undecided is forwarded within its budget, unless
	// Reason says why not this packet.
	Verdict policy.Verdict
	Reason  policy.Reason
	// Flow is nil for packets that belong to none; valid until the next call.
	Flow *Flow
	// Judgement of the flow once it is decided; of a packet that policy objects
	// to and lets pass, why.
	Judgement policy.Judgement
	// Attrs is set when the packet decided a flow whose bytes were read; valid
	// until the next call.
	Attrs *appid.Attrs
	// Server is the name that the flow asked its server for, where the packet
	// decided it and policy allowed another one; valid until the next call.
	Server []byte
	// New: the packet opened the flow. Decided: the verdict is from this packet on.
	New, Decided bool
	// Offload: the flow is decided, and the kernel should know (after this
	// packet is transmitted, where it is forwarded).
	Offload bool
	// Stays: of an Offload, all packets of the flow come here all the same.
	Stays bool
	// Opened: the responder of an undecided TCP connection has answered. The
	// kernel may carry its bare acknowledgements from this packet on, which say
	// nothing about its application.
	Opened bool
	// Opening: the packet is the SYN of an undecided TCP connection. The kernel may
	// carry the SYN-ACK that acknowledges Awaited, if Config.Answer tells of it.
	Opening bool
	Awaited uint32
	// Retract: the kernel must forget this key before the packet is transmitted:
	// a new conversation begins on it, or may if the responder answers.
	Retract bool
	// Violation: to be recorded. Once per flow and reason; for packets without
	// a flow every time.
	Violation bool
}

// Classifier judges the packets of one worker. Not safe for concurrent use.
type Classifier struct {
	table          *policy.Table
	flows          *flowTable
	engine         *appid.Engine
	states         []appid.State
	freeStates     []int32
	fragments      *fragments
	attrs          appid.Attrs
	hello          appid.Attrs // room for a server name
	freeNames      []*flowName
	watchList      watchList
	unproven       *unproven
	initials       initials
	expected       expectations
	announcers     []appid.Announcer
	freeAnnouncers []int32
	attending      []uint16 // control flows by slot
	perEndpoint    uint32
	perStates      uint32
	count          []uint32 // flows by slot
	reading        []uint16 // app-ID states by slot
	capture        bool
	live           func(FlowKey) bool
	answer         func(*FlowKey) (seq uint32, length int, ok bool)
	ended          func(*Flow)
	decided        func(*Flow, *appid.Attrs)
}

// New returns a Classifier that drops everything until SetTable.
func New(cfg Config) *Classifier {
	def := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&cfg.Flows, 1<<16)
	def(&cfg.Undecided, 1<<12)
	def(&cfg.PerEndpoint, max(1, cfg.Flows/4))
	def(&cfg.Fragments, 1<<8)
	c := &Classifier{
		flows:          newFlowTable(cfg.Flows),
		engine:         appid.New(),
		states:         make([]appid.State, cfg.Undecided),
		freeStates:     make([]int32, cfg.Undecided),
		fragments:      newFragments(cfg.Fragments),
		unproven:       newUnproven(cfg.Flows / 2),
		initials:       newInitials(),
		expected:       newExpectations(),
		announcers:     make([]appid.Announcer, announcersMax),
		freeAnnouncers: make([]int32, announcersMax),
		attending:      make([]uint16, 1<<16),
		perEndpoint:    uint32(cfg.PerEndpoint),
		perStates:      uint32(max(1, cfg.Undecided*cfg.PerEndpoint/cfg.Flows)),
		count:          make([]uint32, 1<<16),
		reading:        make([]uint16, 1<<16),
		capture:        cfg.Capture,
		live:           cfg.Live,
		answer:         cfg.Answer,
		ended:          cfg.Ended,
		watchList:      watchList{every: int64(cfg.WatchEvery)},
		decided:        cfg.Decided,
	}
	for i := range c.freeStates {
		c.freeStates[i] = int32(len(c.freeStates) - 1 - i)
	}
	for i := range c.freeAnnouncers {
		c.freeAnnouncers[i] = int32(i)
	}
	return c
}

// SetTable makes t the policy from the next packet on; call it once per batch.
// Flows are judged again as their packets come.
func (c *Classifier) SetTable(t *policy.Table) { c.table = t }

// Len is how many flows are known.
func (c *Classifier) Len() int { return c.flows.live }

// Memory is what the flow table has allocated, in bytes: the index that finds
// flows, and the flows, which hold their keys. The pages of flows that were
// never there are not resident.
func (c *Classifier) Memory() (index, flows int) {
	return len(c.flows.buckets) * int(unsafe.Sizeof(bucket{})), len(c.flows.slab) * int(unsafe.Sizeof(Flow{}))
}

// Packet judges p, which Decode has filled, met at in. now is nanoseconds of
// any monotonic clock. out is overwritten.
func (c *Classifier) Packet(p *Packet, in *Ingress, now int64, out *Result) {
	*out = Result{}
	if c.table == nil {
		out.Reason = policy.ReasonNotAdmitted
		return
	}
	p.Key.Zone, p.Inner.Zone = uint16(in.Zone), uint16(in.Zone)
	switch {
	case p.ARP:
		out.Reason = policy.ReasonEtherType
	case p.Fragment == LaterFragment:
		c.laterFragment(p, in, now, out)
	case p.Proto == policy.ProtoTCP, p.Proto == policy.ProtoUDP:
		c.flowPacket(p, in, now, out)
	case isICMP(p.Proto) && c.capture:
		p.Key, p.Reversed = MakeKey(uint16(in.Zone), policy.ProtoICMP, p.Src, p.Dst, 0, 0)
		c.flowPacket(p, in, now, out)
	case isICMP(p.Proto):
		c.icmp(p, in, now, out)
	default:
		p.Key, p.Reversed = MakeKey(uint16(in.Zone), p.Proto, p.Src, p.Dst, 0, 0)
		c.flowPacket(p, in, now, out)
	}
	if p.Fragment == FirstFragment {
		c.firstFragment(p, in, now, out)
	}
}

func isICMP(p policy.Proto) bool { return p == policy.ProtoICMP || p == policy.ProtoICMPv6 }

func (p *Packet) side() uint8 {
	if p.Reversed {
		return 1
	}
	return 0
}

func (c *Classifier) flowPacket(p *Packet, in *Ingress, now int64, out *Result) {
	f := c.flows.find(&p.Key)
	if f != nil && f.Awaits {
		c.hearAnswer(f)
	}
	if f != nil && f.State == Closed && p.Proto != policy.ProtoTCP {
		c.retire(f)
		f = nil
	}
	if f == nil {
		if f = c.open(p, in, now, out); f == nil {
			return
		}
	} else if f.Epoch != c.table.Epoch() {
		c.rejudge(f, out)
	}
	if p.Proto == policy.ProtoUDP && !f.Allowed() && p.side() != f.Initiator && c.mayBegin(p, in) {
		// What the other side sent unasked must not stand in its way.
		c.retire(f)
		*out = Result{Retract: true}
		if f = c.open(p, in, now, out); f == nil {
			return
		}
	}
	c.carry(f, p, in, now, out)
}

// mayBegin reports whether policy lets p's sender begin its conversation.
func (c *Classifier) mayBegin(p *Packet, in *Ingress) bool {
	v := c.table.Lookup(policy.Query{Zone: in.Zone, Src: p.Src, Dst: p.Dst, Proto: p.Proto, DstPort: p.DstPort}).Verdict()
	return v == policy.Allow || v == policy.Undecided
}

// refuse drops a packet that belongs to no flow. Where every side that objects
// only observes, it is recorded and passes.
func (c *Classifier) refuse(p *Packet, in *Ingress, r policy.Reason, out *Result) {
	out.Reason, out.Violation = r, true
	out.Judgement = policy.Judgement{Denied: true, Rule: -1, Reason: r}
	if in.Mode != policy.Observe {
		return
	}
	q := policy.Query{Zone: in.Zone, Src: p.Src, Dst: p.Dst, Proto: p.Proto, DstPort: p.DstPort}
	if isICMP(p.Proto) {
		q.DstPort = 0
	}
	if j := c.table.Lookup(q).Judge(policy.Spoken{App: policy.AppUnknown}); j.Verdict == policy.Allow {
		out.Forward, out.Verdict, out.Judgement.Verdict = true, policy.Allow, policy.Allow
	}
}

// open makes the flow that p begins, or refuses p.
func (c *Classifier) open(p *Packet, in *Ingress, now int64, out *Result) *Flow {
	q := policy.Query{Zone: in.Zone, Src: p.Src, Dst: p.Dst, Proto: p.Key.Proto, DstPort: p.DstPort}
	if q.Proto == policy.ProtoICMP {
		q.DstPort = 0
	}
	b, ok := c.beginning(p, in, &q, now, out)
	if !ok {
		return nil
	}
	announced := !b.midStream && c.expected.find(&q, now) != nil
	if !c.mayOpen(b.decision, announced, p, in, out) {
		return nil
	}
	f := c.add(&p.Key)
	if f == nil {
		out.Reason, out.Violation = policy.ReasonFlowQuota, true
		return nil
	}
	c.count[in.Slot]++
	c.initials.owner[in.Slot] = in.Workload
	f.Decision, f.Epoch, f.Slot = b.decision, c.table.Epoch(), in.Slot
	f.First, f.Seen, f.State = now, now, Opening
	f.MidStream, f.lenient = b.midStream, b.midStream && in.RanBefore
	if f.Initiator = p.side(); b.reversed {
		c.unattend(f) // it has the sides exchanged
		f.Initiator ^= 1
	}
	c.noteNames(f)
	if b.midStream && p.Proto == policy.ProtoTCP {
		f.State = Answered
	}
	out.New = true
	if !announced || !c.admit(f, p, &q, now, out) {
		c.start(f, out)
	}
	return f
}

// beginning is how a flow begins: by whose decision, whether its first packet here
// is the responder's, and whether others came before that.
type beginning struct {
	decision            *policy.Decision
	reversed, midStream bool
}

// beginning asks the table who may begin what p, of which q is the query, begins;
// false if that is no flow, and out says what becomes of p.
func (c *Classifier) beginning(p *Packet, in *Ingress, q *policy.Query, now int64, out *Result) (b beginning, ok bool) {
	switch {
	case p.Proto == policy.ProtoTCP && p.Flags&(SYN|ACK) == SYN:
		if len(p.Payload) > 0 && c.unproven.has(c.flows.sum(&p.Key)) {
			// The answer to an earlier SYN might pass for one that has taken these bytes.
			c.refuse(p, in, policy.ReasonBadHeader, out)
			return b, false
		}
		b.decision = c.table.Lookup(*q)
	case p.Proto == policy.ProtoTCP && p.Flags&SYN != 0 && c.capture:
		// The SYN that it answers was not captured; it says all the same who
		// begins and where.
		b.decision, b.reversed = c.table.Lookup(reply(*q, p.SrcPort)), true
	case p.Proto == policy.ProtoTCP:
		return c.midConnection(p, in, q, out)
	case p.Proto == policy.ProtoUDP && in.RanBefore && now-in.Attached < udpOldFlows:
		// Only a reply: what the sender may begin itself begins now.
		b.decision, b.reversed, b.midStream = c.table.Initiator(*q, p.SrcPort)
		b.midStream = b.midStream && b.reversed
	default:
		b.decision = c.table.Lookup(*q)
	}
	return b, true
}

// mayOpen reports whether an endpoint has room for one flow more. What is refused
// anyway takes at most half of its share: a scan must not use up what its own
// allowed flows need.
func (c *Classifier) mayOpen(d *policy.Decision, announced bool, p *Packet, in *Ingress, out *Result) bool {
	if v := d.Verdict(); (v == policy.Drop || v == policy.Reject) && !announced && c.count[in.Slot] >= c.perEndpoint/2 {
		out.Judgement = judge(d, policy.Spoken{}, policy.ServerName{}, p.Key.Proto)
		out.Verdict, out.Reason, out.Violation = v, out.Judgement.Reason, true
		return false
	}
	if c.count[in.Slot] >= c.perEndpoint && !c.capture {
		out.Reason, out.Violation = policy.ReasonFlowQuota, true
		return false
	}
	return true
}

// add takes a flow from the table, nil if that is full; of a capture the silent ones
// make room.
func (c *Classifier) add(key *FlowKey) *Flow {
	f := c.flows.add(key)
	if f != nil || !c.capture {
		return f
	}
	for _, old := range c.silent(func(*Flow) bool { return true }) {
		c.retire(old)
	}
	return c.flows.add(key)
}

// reply is the query of the flow that q's packet, from that port, answers.
func reply(q policy.Query, srcPort uint16) policy.Query {
	q.Src, q.Dst, q.DstPort = q.Dst, q.Src, srcPort
	return q
}

// start gives a flow its first verdict.
func (c *Classifier) start(f *Flow, out *Result) {
	if f.Decision.Verdict() != policy.Undecided {
		c.decide(f, policy.Spoken{}, policy.ReasonNone, out)
		f.watched = c.watches(f)
		return
	}
	switch f.Key.Proto {
	case policy.ProtoTCP, policy.ProtoUDP:
		f.Verdict = policy.Undecided
	case policy.ProtoICMP:
		app := policy.AppICMP
		if f.V6() {
			app = policy.AppICMPv6
		}
		f.NamedAt, f.Status, f.Confidence = 1, appid.StatusNamed, appid.ConfidenceOneSide
		c.decide(f, policy.Spoken{App: app}, policy.ReasonNone, out)
	default:
		c.decide(f, policy.Spoken{App: policy.AppUnknown}, policy.ReasonNone, out)
	}
}

// decide asks policy about what is spoken. why, if set, replaces the reason of a no.
func (c *Classifier) decide(f *Flow, s policy.Spoken, why policy.Reason, out *Result) {
	server := c.serverOf(f)
	j := judge(f.Decision, s, server, f.Key.Proto)
	f.misnamed = f.misnamed || j.Reason == policy.ReasonNameMismatch
	if server.State == policy.NameGiven && f.name != nil && f.Epoch == c.table.Epoch() && !j.Denied && j.Rule >= 0 {
		f.name.fitted = c.table.Rules()[j.Rule].Name
	}
	if j.Denied && why != policy.ReasonNone {
		j.Reason = why
	}
	if j.Reason == policy.ReasonNameMismatch {
		out.Server = server.Text
	}
	f.Spoken, f.Judgement, f.Verdict, f.Reason = s, j, j.Verdict, j.Reason
	f.offered = 0
	out.Decided = true
	if !f.announces() {
		c.unattend(f)
	}
	if f.app < 0 {
		return
	}
	st := &c.states[f.app]
	o := st.Outcome()
	f.Confidence, f.Evidence, f.Status = o.Confidence, o.Evidence, o.Status
	st.Attrs(&c.attrs)
	out.Attrs = &c.attrs
	f.Findings |= st.Findings()
	if f.announces() {
		c.attend(f, st, f.Seen)
	}
	c.release(f)
	if c.decided != nil {
		c.decided(f, out.Attrs)
	}
}

// judge asks policy, and says so where the no is the protocol's.
func judge(d *policy.Decision, s policy.Spoken, server policy.ServerName, proto policy.Proto) policy.Judgement {
	j := d.JudgeServer(s, server)
	if j.Denied && j.Reason == policy.ReasonNoRule && !namable(proto) {
		j.Reason = policy.ReasonProtocol
	}
	return j
}

// namable: protocols that statements can name.
func namable(p policy.Proto) bool {
	return p == policy.ProtoTCP || p == policy.ProtoUDP || p == policy.ProtoICMP || p == policy.ProtoICMPv6
}

// violation counts a packet against policy and reports each reason once per flow.
func (c *Classifier) violation(f *Flow, r policy.Reason, out *Result) {
	f.Violations++
	if f.reported&(1<<r) == 0 {
		f.reported |= 1 << r
		out.Violation = true
	}
}

// rejudge applies a newer table: who began and what is spoken stay (V8).
func (c *Classifier) rejudge(f *Flow, out *Result) {
	was := f.Verdict
	if f.watched {
		c.unwatch(f)
	}
	f.Decision, f.Epoch, f.offered = c.table.LookupHeld(f.Query(), f.held()), c.table.Epoch(), 0
	c.noteNames(f)
	s, why := f.resembled(), policy.ReasonNone
	if was == policy.Allow || was == policy.Undecided {
		why = policy.ReasonPolicyChanged
	}
	switch {
	case f.control.proto != 0:
		c.rejudgeExpected(f, why, out)
	case f.Decision.Verdict() != policy.Undecided:
		if was == policy.Undecided {
			s = policy.Spoken{}
		}
		c.redecide(f, s, why, out)
		if was == policy.Undecided && !f.Allowed() && f.Key.Proto == policy.ProtoTCP && f.payloads > 0 {
			// What had been read of it is gone, and passes no second time.
			f.Spoken.App, f.misnamed = policy.AppUnknown, true
		}
	case was == policy.Undecided:
	case was == policy.Allow && f.mayStayHidden(s):
		c.accept(f, s, out)
	case s.App != policy.AppNone:
		c.redecide(f, s, why, out)
	case f.Key.Proto == policy.ProtoUDP && was != policy.Allow && f.Packets[f.Initiator^1] == 0:
		f.Verdict = policy.Undecided // nobody has received its beginning
	case f.Key.Proto == policy.ProtoTCP || f.Key.Proto == policy.ProtoUDP:
		// Policy had not asked for the application; it must be found mid-stream.
		f.Verdict, f.MidStream, f.lenient, f.hasISN = policy.Undecided, true, false, [2]bool{}
	default:
		c.start(f, out)
	}
}

// redecide is decide for a flow that lived under an older table: a no that was
// known and only recorded keeps its reason, one that ends the flow is the change's.
func (c *Classifier) redecide(f *Flow, s policy.Spoken, why policy.Reason, out *Result) {
	if f.Decision.JudgeServer(s, c.serverOf(f)).Verdict == policy.Allow {
		why = policy.ReasonNone
	}
	c.decide(f, s, why, out)
}

// carry takes p through its flow.
func (c *Classifier) carry(f *Flow, p *Packet, in *Ingress, now int64, out *Result) {
	out.Flow = f
	if p.Proto == policy.ProtoTCP {
		if f = c.follow(f, p, in, now, out); f == nil {
			return
		}
	} else if f.State == Opening && p.side() != f.Initiator {
		f.State = Answered
	}
	side := p.side()
	f.Packets[side]++
	f.Bytes[side] += uint64(p.Length)
	f.Seen = now
	c.heed(f, p, now, out)
	if out.Verdict = f.Verdict; f.Verdict != policy.Undecided {
		out.Judgement = f.Judgement
	}
	if f.Verdict != policy.Undecided && f.Judgement.Denied {
		c.violation(f, f.Reason, out)
		if f.Verdict != policy.Allow {
			out.Reason = f.Reason
		}
	}
	out.Forward = f.Allowed() && out.Reason == policy.ReasonNone
	out.Opened = out.Forward && f.Verdict == policy.Undecided && !f.again && p.Fragment == Whole &&
		p.Proto == policy.ProtoTCP && p.Flags&(SYN|ACK) == SYN|ACK
	if out.New && out.Forward && c.answer != nil && f.Verdict == policy.Undecided && isPlainSYN(p) && c.count[f.Slot] <= c.perEndpoint/2 {
		f.Awaits, out.Opening, out.Awaited = true, true, p.Seq+1
	}
	c.offer(f, p, now, out)
}

// heed lets whoever reads the flow have p: app-ID while it is undecided, then what
// waits for announcements, or watches.
func (c *Classifier) heed(f *Flow, p *Packet, now int64, out *Result) {
	switch {
	case f.Verdict == policy.Undecided && (len(p.Payload) > 0 || p.Fragment != Whole):
		attended := f.announcer >= 0
		if c.read(f, p, out); attended && f.announcer >= 0 && out.Reason == policy.ReasonNone {
			c.hear(f, p, now)
		}
	case f.Verdict == policy.Undecided && f.app >= 0 && p.Proto == policy.ProtoTCP:
		c.acknowledge(f, p, out)
	case f.announcer >= 0 && len(p.Payload) > 0:
		c.hear(f, p, now)
	case f.watched:
		c.watch(f, p)
	}
}

// offer hands decided flows to the kernel. What still comes here although it
// was handed over is offered again, now and then: the entry may be gone.
func (c *Classifier) offer(f *Flow, p *Packet, now int64, out *Result) {
	stays := f.stays()
	switch {
	case f.Verdict == policy.Undecided, f.watched, !namable(f.Key.Proto), p.Fragment != Whole, f.State == Closed, f.again:
		return
	case stays && f.Packets[0]+f.Packets[1] < stayingMin:
		return
	case f.offered != 0 && now-f.offered < offerAgain:
		return
	}
	f.offered = now
	out.Offload, out.Stays = true, stays
}

// stays reports whether the packets of a decided flow are looked at here: queries
// and answers that policy wants to read, what may announce other flows, and the
// size and rate of echoes.
func (f *Flow) stays() bool {
	return f.Verdict == policy.Allow && (f.Lookups || f.announcer >= 0 || f.Key.Proto == policy.ProtoICMP)
}

// HandedOver reports whether the kernel was told of the flow since it was judged.
func (f *Flow) HandedOver() bool { return f.offered != 0 }

// drop refuses this packet of a flow and leaves the flow as it is.
func (c *Classifier) drop(f *Flow, r policy.Reason, out *Result) {
	out.Reason, out.Verdict, out.Judgement = r, f.Verdict, f.Judgement
	c.violation(f, r, out)
}

// recorded is the judgement on what is against policy, and only recorded.
func recorded(r policy.Reason) policy.Judgement {
	return policy.Judgement{Verdict: policy.Allow, Denied: true, Rule: -1, Reason: r}
}

// object drops a packet of an undecided flow that must not be trusted. Where
// every side that would object only observes, it is recorded and passes unread.
func (c *Classifier) object(f *Flow, r policy.Reason, out *Result) {
	if f.Decision.Judge(policy.Spoken{App: policy.AppUnknown}).Verdict == policy.Allow {
		c.violation(f, r, out)
		out.Judgement = recorded(r)
		return
	}
	c.drop(f, r, out)
}

func (c *Classifier) retire(f *Flow) {
	if f.Awaits {
		c.hearAnswer(f)
	}
	if c.capture {
		c.conclude(f)
	}
	if c.ended != nil {
		c.ended(f)
	}
	c.release(f)
	c.unattend(f)
	c.letGo(f)
	if f.isUnproven() {
		c.unproven.add(c.flows.sum(&f.Key))
	}
	c.count[f.Slot]--
	c.flows.remove(f)
}

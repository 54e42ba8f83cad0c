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
	var d *policy.Decision
	midStream, reversed := false, false
	switch {
	case p.Proto == policy.ProtoTCP && p.Flags&(SYN|ACK) == SYN:
		d = c.table.Lookup(q)
	case p.Proto == policy.ProtoTCP && p.Flags&SYN != 0 && c.capture:
		// The SYN that it answers was not captured; it says all the same who
		// begins and where.
		d, reversed = c.table.Lookup(reply(q, p.SrcPort)), true
	case p.Proto == policy.ProtoTCP:
		ok := false
		if p.Flags&SYN == 0 {
			d, reversed, ok = c.table.Initiator(q, p.SrcPort)
		}
		if ok && p.Flags&RST == 0 && d.Verdict() == policy.Undecided && c.unproven.has(c.flows.sum(&p.Key)) {
			ok = false
		}
		if !ok {
			c.refuse(p, in, policy.ReasonNoFlow, out)
			out.Violation = out.Violation && p.Flags&RST == 0
			return nil
		}
		if p.Flags&RST != 0 { // the end of something forgotten
			out.Forward, out.Verdict = true, policy.Allow
			return nil
		}
		midStream = true
	case p.Proto == policy.ProtoUDP && in.RanBefore && now-in.Attached < udpOldFlows:
		// Only a reply: what the sender may begin itself begins now.
		d, reversed, midStream = c.table.Initiator(q, p.SrcPort)
		midStream = midStream && reversed
	default:
		d = c.table.Lookup(q)
	}
	announced := !midStream && c.expected.find(&q, now) != nil
	// What is refused anyway takes at most half of the endpoint's share: a scan
	// must not use up what its own allowed flows need.
	if v := d.Verdict(); (v == policy.Drop || v == policy.Reject) && !announced && c.count[in.Slot] >= c.perEndpoint/2 {
		out.Judgement = judge(d, policy.Spoken{}, policy.ServerName{}, p.Key.Proto)
		out.Verdict, out.Reason, out.Violation = v, out.Judgement.Reason, true
		return nil
	}
	if c.count[in.Slot] >= c.perEndpoint && !c.capture {
		out.Reason, out.Violation = policy.ReasonFlowQuota, true
		return nil
	}
	f := c.flows.add(&p.Key)
	if f == nil && c.capture {
		for _, old := range c.silent(func(*Flow) bool { return true }) {
			c.retire(old)
		}
		f = c.flows.add(&p.Key)
	}
	if f == nil {
		out.Reason, out.Violation = policy.ReasonFlowQuota, true
		return nil
	}
	c.count[in.Slot]++
	c.initials.owner[in.Slot] = in.Workload
	f.Decision, f.Epoch, f.Slot = d, c.table.Epoch(), in.Slot
	f.First, f.Seen, f.State = now, now, Opening
	f.MidStream, f.lenient = midStream, midStream && in.RanBefore
	if f.Initiator = p.side(); reversed {
		c.unattend(f) // it has the sides exchanged
		f.Initiator ^= 1
	}
	c.noteNames(f)
	if midStream && p.Proto == policy.ProtoTCP {
		f.State = Answered
	}
	out.New = true
	if !announced || !c.admit(f, p, &q, now, out) {
		c.start(f, out)
	}
	return f
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
	why := policy.ReasonNone
	if was == policy.Allow || was == policy.Undecided {
		why = policy.ReasonPolicyChanged
	}
	switch {
	case f.control.proto != 0:
		c.rejudgeExpected(f, why, out)
	case f.Decision.Verdict() != policy.Undecided:
		s := f.Spoken
		if was == policy.Undecided {
			s = policy.Spoken{}
		}
		c.redecide(f, s, why, out)
	case was == policy.Undecided:
	case f.Spoken.App != policy.AppNone:
		c.redecide(f, f.Spoken, why, out)
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
	if f.Verdict == policy.Undecided && (len(p.Payload) > 0 || p.Fragment != Whole) {
		attended := f.announcer >= 0
		if c.read(f, p, out); attended && f.announcer >= 0 && out.Reason == policy.ReasonNone {
			c.hear(f, p, now)
		}
	} else if f.Verdict == policy.Undecided && f.app >= 0 && p.Proto == policy.ProtoTCP {
		c.acknowledge(f, p, out)
	} else if f.announcer >= 0 && len(p.Payload) > 0 {
		c.hear(f, p, now)
	} else if f.watched {
		c.watch(f, p)
	}
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

// isPlainSYN reports a SYN that a SYN-ACK alone answers.
func isPlainSYN(p *Packet) bool {
	return p.Proto == policy.ProtoTCP && p.Fragment == Whole && p.Flags&(SYN|ACK|FIN|RST|URG) == SYN && len(p.Payload) == 0
}

// hearAnswer takes over the SYN-ACK that the kernel may have carried of a flow
// since its SYN. It must be done before anything that asks how far the connection
// has come: what follows the SYN-ACK may be here before news of it.
func (c *Classifier) hearAnswer(f *Flow) {
	seq, length, ok := c.answer(&f.Key)
	if !ok {
		return
	}
	side := f.Initiator ^ 1
	f.Awaits = false
	f.isn[side], f.hasISN[side] = seq, true
	f.Packets[side]++
	f.Bytes[side] += uint64(length)
	c.answered(f)
}

// answered: the responder has acknowledged the SYN.
func (c *Classifier) answered(f *Flow) {
	if f.State == Opening {
		f.State = Answered
		c.unproven.remove(c.flows.sum(&f.Key))
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

// follow keeps TCP's state. It returns nil if p was refused; the flow may be a
// new one on the same key.
func (c *Classifier) follow(f *Flow, p *Packet, in *Ingress, now int64, out *Result) *Flow {
	side := p.side()
	fromInitiator := side == f.Initiator
	switch {
	case p.Flags&(SYN|ACK) == SYN:
		switch {
		case out.New:
			f.isn[side], f.hasISN[side] = p.Seq, true
			return f
		case fromInitiator && f.hasISN[side] && f.isn[side] == p.Seq && f.State == Opening && !f.MidStream:
			return f // retransmitted
		case f.isOver() || !f.Allowed() || fromInitiator && f.State == Opening:
			return c.restart(f, p, in, now, out)
		case !fromInitiator || len(p.Payload) > 0:
			// Simultaneous open, split handshake: only one side begins. And data
			// that may be of another conversation than the one it is read for.
			c.drop(f, policy.ReasonBadHeader, out)
			return nil
		}
		// A conversation that lives ends with the responder's SYN-ACK only: anyone
		// who knows its ports could forge the SYN.
		f.again, f.againISN, f.againAt, out.Retract = true, p.Seq, now, true
	case p.Flags&SYN != 0:
		if fromInitiator {
			c.drop(f, policy.ReasonBadHeader, out)
			return nil
		}
		if f.again && p.Ack == f.againISN+1 {
			f = c.renew(f, now, out)
		}
		f.isn[side], f.hasISN[side] = p.Seq, true
		f.Awaits = false
		c.answered(f)
	case p.Flags&RST != 0:
		f.State = Closed
	case f.State == Closed && f.fins != 3 && len(p.Payload) > 0:
		f.State = HalfClosed // the reset was not one of theirs
	case p.Flags&FIN != 0:
		f.fins |= 1 << side
		if f.State != Closed {
			f.State = HalfClosed
			if f.fins == 3 {
				f.State = Closed
			}
		}
	case f.State == Answered && (fromInitiator || f.MidStream):
		if !f.MidStream || f.Packets[side^1] > 0 {
			f.State = Lasting
		}
	}
	if !fromInitiator && p.Flags&(SYN|RST) == 0 && now-f.againAt > answerMax {
		f.again = false // the responder goes on with what there was
	}
	return f
}

// isOver: both sides have said so.
func (f *Flow) isOver() bool { return f.State == Closed && f.fins == 3 }

// renew begins a new conversation on f's key: the responder has answered its
// initiator's new SYN. There is room: the old flow's.
func (c *Classifier) renew(f *Flow, now int64, out *Result) *Flow {
	key, initiator, isn, slot, q := f.Key, f.Initiator, f.againISN, f.Slot, f.Query()
	c.retire(f)
	*out = Result{New: true, Retract: true}
	f = c.flows.add(&key)
	c.count[slot]++
	f.Decision, f.Epoch, f.Slot = c.table.Lookup(q), c.table.Epoch(), slot
	f.First, f.Seen, f.State, f.Initiator = now, now, Opening, initiator
	f.isn[initiator], f.hasISN[initiator] = isn, true
	c.noteNames(f)
	out.Flow = f
	c.start(f, out)
	return f
}

// restart begins a new conversation on the key of one that is over, or that its
// initiator has given up.
func (c *Classifier) restart(f *Flow, p *Packet, in *Ingress, now int64, out *Result) *Flow {
	c.retire(f)
	*out = Result{Retract: true}
	if f = c.open(p, in, now, out); f == nil {
		return nil
	}
	out.Flow = f
	return c.follow(f, p, in, now, out)
}

// read lets app-ID see the payload and asks policy about its answer.
func (c *Classifier) read(f *Flow, p *Packet, out *Result) {
	isTCP := p.Proto == policy.ProtoTCP
	if isTCP {
		switch {
		case c.capture:
		case p.Flags&SYN == 0 && !f.MidStream && !f.hasISN[f.Initiator^1]:
			// Before the answer to the SYN these are bytes of some other
			// conversation that its responder still has.
			c.object(f, policy.ReasonNoFlow, out)
			return
		case p.Fragment != Whole:
			c.object(f, policy.ReasonFragment, out)
			return
		case p.Flags&URG != 0: // receivers disagree whether that byte is part of the stream
			c.object(f, policy.ReasonBadHeader, out)
			return
		}
	}
	if p.Fragment == Whole && !c.capture && !p.checksumOK() {
		out.Reason = policy.ReasonBadHeader // damaged: its receiver would not take it either
		return
	}
	s := c.state(f)
	if s == nil {
		c.object(f, policy.ReasonMissBudget, out)
		return
	}
	seq := p.Seq
	if p.Flags&SYN != 0 {
		seq++
	}
	dir := direction(f, p.side())
	if isTCP && p.Flags&ACK != 0 {
		s.Acknowledged(direction(f, p.side()^1), p.Ack)
	}
	if !c.mayFeed(f, s, p) {
		c.object(f, policy.ReasonMissBudget, out)
		return
	}
	f.payloads++
	waited := s.Waits()
	o := c.feed(f, s, dir, seq, p)
	// The acknowledgement that it waits for must come here.
	out.Retract = out.Retract || s.Waits() && !waited
	c.weigh(f, s, o, out)
}

// mayFeed reports whether app-ID may read p now: a datagram that costs more than
// others only within its workload's budget.
func (c *Classifier) mayFeed(f *Flow, s *appid.State, p *Packet) bool {
	return p.Proto != policy.ProtoUDP || c.capture || !s.MayDecrypt(p.Payload) || c.initials.may(f.Slot, f.Seen)
}

// feed gives p's payload to app-ID, as the part of a datagram where it is one.
func (c *Classifier) feed(f *Flow, s *appid.State, dir appid.Dir, seq uint32, p *Packet) (o appid.Outcome) {
	before := s.Decrypted()
	if p.Fragment == Whole && !p.cut || p.Proto == policy.ProtoTCP {
		o = c.engine.Feed(s, dir, seq, p.Payload)
	} else {
		o = c.engine.FeedPart(s, dir, p.Payload)
	}
	if n := s.Decrypted() - before; n > 0 {
		c.initials.spend(f.Slot, n, f.Seen)
	}
	return o
}

// acknowledge takes a segment without payload: an answer that waited for it
// counts now.
func (c *Classifier) acknowledge(f *Flow, p *Packet, out *Result) {
	if p.Flags&ACK == 0 {
		return
	}
	s := &c.states[f.app]
	s.Acknowledged(direction(f, p.side()^1), p.Ack)
	if o := s.Outcome(); o.Decided {
		c.weigh(f, s, o, out)
	}
}

// weigh acts on what app-ID says.
func (c *Classifier) weigh(f *Flow, s *appid.State, o appid.Outcome, out *Result) {
	spoken := o.Spoken
	if spoken.App != f.named {
		f.named, f.NamedAt = spoken.App, f.payloads
	}
	if o.Anomaly != appid.AnomalyNone && f.Anomaly != appid.AnomalyMismatch {
		f.Anomaly = o.Anomaly
	}
	switch {
	case o.Anomaly == appid.AnomalyConflict:
		c.object(f, policy.ReasonConflict, out)
		return
	case o.Anomaly == appid.AnomalyScattered:
		c.object(f, policy.ReasonMissBudget, out)
		return
	case o.Anomaly == appid.AnomalyMismatch:
		c.decide(f, spoken, policy.ReasonProtocolMismatch, out)
		if !f.Judgement.Denied { // let pass, and yet worth to be known
			f.Judgement, f.Reason = recorded(policy.ReasonProtocolMismatch), policy.ReasonProtocolMismatch
		}
		return
	case o.Reversed && !c.capture:
		// Policy let the other side begin: what is spoken is not what it asked about.
		spoken = policy.Spoken{App: policy.AppUnknown}
	}
	if spoken.App == policy.AppNone {
		return
	}
	j := f.Decision.Judge(spoken)
	if f.Likely = o.Likely; f.Likely != policy.AppNone {
		// What it behaves like may be denied; it is never allowed by that.
		if k := f.Decision.Judge(policy.Spoken{App: f.Likely}); k.Denied && k.Reason == policy.ReasonDenied {
			spoken, j = policy.Spoken{App: f.Likely}, k
		}
	}
	if f.Decision.Named() && !j.Denied {
		server, whole := s.ServerName(&c.hello)
		if !whole && !o.Decided {
			return // what says which server it is for is still coming
		}
		j = f.Decision.JudgeServer(spoken, server)
	}
	if f.lenient && o.Confidence != appid.ConfidenceBothSides && j.Denied && (spoken.App == policy.AppUnknown || spoken.App == policy.AppTLS) {
		// An old flow in the middle of its life cannot show what it is (V9).
		if o.Decided {
			c.accept(f, spoken, out)
		}
		return
	}
	if s.MayName() && (c.capture || f.Decision.SubMatters(spoken)) {
		if o.Decided {
			c.weigh(f, s, s.AwaitSub(), out)
		}
		return
	}
	if o.Decided && !j.Denied && j.Verdict == policy.Allow && spoken.Inner == policy.AppNone && appid.Announces(spoken.App) {
		c.attend(f, s, f.Seen) // a data connection may come before it is sure that there will be no upgrade
	}
	if s.MayUpgrade() && (c.capture || f.Decision.InnerMatters(spoken) || s.IsText() && !j.Denied) {
		c.weigh(f, s, c.engine.Watch(s), out)
		return
	}
	// A no counts at once, also one that is only recorded; a yes waits for the
	// other side.
	if o.Decided || j.Denied && !c.upgradePossible(f, spoken, j) {
		c.decide(f, spoken, policy.ReasonNone, out)
	}
	if o.Decided && o.Reversed {
		f.Initiator ^= 1
	}
}

// upgradePossible reports whether a protocol that policy says no to, as j has
// it, could do better once it has gone over to TLS.
func (c *Classifier) upgradePossible(f *Flow, s policy.Spoken, j policy.Judgement) bool {
	if !s.App.CanStartTLS() || s.Inner != policy.AppNone {
		return false
	}
	s.Inner = policy.AppTLS
	k := f.Decision.Judge(s)
	return k.Verdict == policy.Allow && (j.Verdict != policy.Allow || !k.Denied)
}

// accept lets an old flow go on that policy lets its two ends have.
func (c *Classifier) accept(f *Flow, s policy.Spoken, out *Result) {
	c.release(f)
	f.Spoken, f.Verdict, f.Reason = s, policy.Allow, policy.ReasonNone
	f.Judgement = policy.Judgement{Verdict: policy.Allow, Rule: -1}
	f.offered = 0
	out.Decided = true
}

// state is the flow's app-ID state, taken from the pool at its first payload.
func (c *Classifier) state(f *Flow) *appid.State {
	if f.app >= 0 {
		return &c.states[f.app]
	}
	if len(c.freeStates) == 0 && c.capture {
		for _, old := range c.silent(func(f *Flow) bool { return f.app >= 0 }) {
			c.conclude(old)
		}
	}
	n := len(c.freeStates)
	if n == 0 || uint32(c.reading[f.Slot]) >= c.perStates && !c.capture {
		return nil
	}
	f.app = c.freeStates[n-1]
	c.freeStates = c.freeStates[:n-1]
	c.reading[f.Slot]++
	s := &c.states[f.app]
	q := f.Query()
	// The first datagram of a capture need not be a flow's first.
	s.Reset(f.Key.Proto, q.DstPort, f.MidStream || c.capture && f.Key.Proto == policy.ProtoUDP)
	for side := range uint8(2) {
		if f.hasISN[side] {
			s.Open(direction(f, side), f.isn[side]+1)
		}
	}
	if f.Key.Proto == policy.ProtoTCP && !f.MidStream && !c.capture {
		s.WantReceipts()
	}
	return s
}

func (c *Classifier) release(f *Flow) {
	if f.app < 0 {
		return
	}
	c.freeStates = append(c.freeStates, f.app)
	c.reading[f.Slot]--
	f.app = -1
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

package classify

import (
	"gatehouse/classify/appid"
	"gatehouse/policy"
)

// What an undecided flow's bytes say: app-ID reads them in a state of a pool, and
// policy is asked about each answer before the packet that gave it is forwarded.

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
	if c.isAnomalous(f, o, out) {
		return
	}
	if o.Reversed && !c.capture {
		// Policy let the other side begin: what is spoken is not what it asked about.
		spoken = policy.Spoken{App: policy.AppUnknown}
	}
	if spoken.App == policy.AppNone {
		return
	}
	f.Likely = o.Likely
	spoken, j, known := c.judgeSpoken(f, s, spoken, o.Decided)
	if !known {
		return
	}
	if f.mayHide(spoken, o.Confidence, &j) {
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
	if o.Decided && o.Reversed && c.capture {
		f.Initiator ^= 1
	}
}

// mayHide: an old flow in the middle of its life cannot show what it is (V9); what
// it does show may be denied.
func (f *Flow) mayHide(s policy.Spoken, c appid.Confidence, j *policy.Judgement) bool {
	return f.lenient && j.Denied && j.Reason != policy.ReasonDenied &&
		c != appid.ConfidenceBothSides && (s.App == policy.AppUnknown || s.App == policy.AppTLS)
}

// mayStayHidden is mayHide under a newer table.
func (f *Flow) mayStayHidden(s policy.Spoken) bool {
	j := f.Decision.Judge(s)
	return f.mayHide(s, f.Confidence, &j)
}

// isAnomalous deals with bytes that are no protocol's, or not for whom they seem to be.
func (c *Classifier) isAnomalous(f *Flow, o appid.Outcome, out *Result) bool {
	switch o.Anomaly {
	case appid.AnomalyConflict:
		c.object(f, policy.ReasonConflict, out)
	case appid.AnomalyScattered:
		c.object(f, policy.ReasonMissBudget, out)
	case appid.AnomalyMismatch:
		c.decide(f, o.Spoken, policy.ReasonProtocolMismatch, out)
		if !f.Judgement.Denied { // let pass, and yet worth to be known
			f.Judgement, f.Reason = recorded(policy.ReasonProtocolMismatch), policy.ReasonProtocolMismatch
		}
	default:
		return false
	}
	return true
}

// judgeSpoken asks policy about what is spoken, or behaves like; known is false
// while the bytes that say which server is asked for are still to come.
func (c *Classifier) judgeSpoken(f *Flow, s *appid.State, spoken policy.Spoken, decided bool) (_ policy.Spoken, j policy.Judgement, known bool) {
	spoken = f.likeness(spoken)
	j = f.Decision.Judge(spoken)
	if f.Decision.Named() && !j.Denied {
		server, whole := s.ServerName(&c.hello)
		if !whole && !decided {
			return spoken, j, false
		}
		j = f.Decision.JudgeServer(spoken, server)
	}
	return spoken, j, true
}

// likeness is what f speaks, or behaves like: that may be denied, and is never what
// it is allowed by.
func (f *Flow) likeness(s policy.Spoken) policy.Spoken {
	if f.Likely == policy.AppNone {
		return s
	}
	like := policy.Spoken{App: f.Likely}
	if j := f.Decision.Judge(like); j.Denied && j.Reason == policy.ReasonDenied {
		return like
	}
	return s
}

// resembled is likeness for what was decided under an older table.
func (f *Flow) resembled() policy.Spoken {
	s := f.Spoken
	if s.App == f.Likely && s.App != policy.AppNone {
		s = policy.Spoken{App: policy.AppUnknown}
	}
	return f.likeness(s)
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

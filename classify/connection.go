package classify

import "gatehouse/policy"

// What TCP's flags make of a flow: how far the connection has come, and when
// another begins on its key.

// midConnection is beginning for a segment of a connection that is not known and
// that no SYN opens here.
func (c *Classifier) midConnection(p *Packet, in *Ingress, q *policy.Query, out *Result) (b beginning, ok bool) {
	if p.Flags&SYN == 0 {
		b.decision, b.reversed, ok = c.table.Initiator(*q, p.SrcPort)
	}
	if ok && p.Flags&RST == 0 && b.decision.Verdict() == policy.Undecided && c.unproven.has(c.flows.sum(&p.Key)) {
		ok = false
	}
	if !ok {
		c.refuse(p, in, policy.ReasonNoFlow, out)
		out.Violation = out.Violation && p.Flags&RST == 0
		return b, false
	}
	if p.Flags&RST != 0 { // the end of something forgotten
		out.Forward, out.Verdict = true, policy.Allow
		return b, false
	}
	b.midStream = true
	return b, true
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

// follow keeps TCP's state. It returns nil if p was refused; the flow may be a
// new one on the same key.
func (c *Classifier) follow(f *Flow, p *Packet, in *Ingress, now int64, out *Result) *Flow {
	side := p.side()
	fromInitiator := side == f.Initiator
	switch {
	case p.Flags&(SYN|ACK) == SYN:
		return c.followSYN(f, p, in, now, out)
	case p.Flags&SYN != 0:
		if fromInitiator {
			c.drop(f, policy.ReasonBadHeader, out)
			return nil
		}
		return c.followAnswer(f, p, now, out)
	case p.Flags&RST != 0 && fromInitiator && f.State == Opening:
		// The answer to its SYN may be under way.
	case p.Flags&RST != 0:
		f.State = Closed
	case f.State == Closed && f.fins != 3 && len(p.Payload) > 0:
		f.State = HalfClosed // the reset was not one of theirs
	case p.Flags&FIN != 0:
		if f.fins |= 1 << side; f.fins == 3 {
			f.State = Closed
		} else if f.State != Closed {
			f.State = HalfClosed
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

// followAnswer is follow for the responder's SYN-ACK. Which SYN it answers is the
// responder's to say: whoever has sent several on one key would else go on under the
// verdict of the conversation before, or be read from where nothing begins.
func (c *Classifier) followAnswer(f *Flow, p *Packet, now int64, out *Result) *Flow {
	side := p.side()
	taken := !f.hasISN[side^1] || p.Ack-f.isn[side^1]-1 <= uint32(f.synData)
	again := f.hasISN[side] && p.Seq == f.isn[side] // it is sent once more
	switch {
	case f.again && (!taken || !again || p.Ack == f.againISN+1):
		f = c.renew(f, p.Ack-1, now, out)
	case taken && (again || !f.hasISN[side]):
	case f.synData == 0 && f.app < 0 && (f.State == Opening || f.State == Answered && !f.MidStream):
		f.isn[side^1] = p.Ack - 1 // its initiator has not said yet that it is content with one
	default:
		c.drop(f, policy.ReasonBadHeader, out)
		return nil
	}
	f.isn[side], f.hasISN[side] = p.Seq, true
	f.Awaits = false
	c.answered(f)
	return f
}

// followSYN is follow for a SYN: the one that opened f, or one more on its key.
func (c *Classifier) followSYN(f *Flow, p *Packet, in *Ingress, now int64, out *Result) *Flow {
	side := p.side()
	fromInitiator := side == f.Initiator
	switch {
	case out.New:
		f.isn[side], f.hasISN[side], f.synData = p.Seq, true, uint16(len(p.Payload))
		return f
	case fromInitiator && f.hasISN[side] && f.isn[side] == p.Seq && f.State == Opening && !f.MidStream:
		return f // retransmitted
	case f.isOver() || !f.Allowed() || fromInitiator && f.State == Opening && len(p.Payload) == 0:
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
	return f
}

// isOver: both sides have said so.
func (f *Flow) isOver() bool { return f.State == Closed && f.fins == 3 }

// renew begins a new conversation on f's key: the responder has answered its
// initiator's new SYN, of that number. There is room: the old flow's.
func (c *Classifier) renew(f *Flow, isn uint32, now int64, out *Result) *Flow {
	key, initiator, slot, q := f.Key, f.Initiator, f.Slot, f.Query()
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

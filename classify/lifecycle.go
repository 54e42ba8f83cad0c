package classify

import (
	"cmp"
	"slices"

	"gatehouse/policy"
)

// Entry is a decided flow as the kernel's map keeps it.
type Entry struct {
	Key       FlowKey
	Epoch     uint32
	Initiator uint8
	Slot      uint16 // of the endpoint whose quota it counts against
	Verdict   policy.Verdict
	Reason    policy.Reason // of a Drop
	Spoken    policy.Spoken
	Closed    uint8 // bit 0, 1: FIN from that side; bit 2: RST
	Old       bool  // as Flow.IsOld had it
}

// Adopt makes a flow of what the kernel kept while user space was away: its
// direction and application count as known. With an older epoch it is judged
// again at its next packet. False: it is known already, or there is no room.
func (c *Classifier) Adopt(e Entry, now int64) bool {
	if c.table == nil || c.flows.find(&e.Key) != nil {
		return false
	}
	f := c.flows.add(&e.Key)
	if f == nil {
		return false
	}
	c.count[e.Slot]++
	f.Initiator, f.Slot, f.Spoken = e.Initiator, e.Slot, e.Spoken
	f.First, f.Seen, f.State = now, now, Answered
	f.MidStream, f.lenient = true, e.Old
	f.setClosed(e.Closed)
	// What it was decided by is in the table that is gone; the one at hand
	// gives reason and rule, and the verdict once they differ in epoch.
	q := f.Query()
	f.Decision, f.Epoch = c.table.LookupHeld(q, c.table.NameUse(q)), e.Epoch
	c.noteNames(f)
	f.Verdict, f.Reason = e.Verdict, e.Reason
	f.misnamed = e.Reason == policy.ReasonNameMismatch
	f.Judgement = f.Decision.Judge(f.Spoken)
	f.Judgement.Verdict = e.Verdict
	f.offered = now
	return true
}

func (f *Flow) setClosed(bits uint8) {
	if f.Key.Proto != policy.ProtoTCP || bits == 0 {
		return
	}
	f.fins |= bits & 3
	f.State = HalfClosed
	if bits&4 != 0 || f.fins == 3 {
		f.State = Closed
	}
}

// Touch adds what the kernel carried of a flow since the last Touch, and what it
// saw of its end. seen is on the clock of Packet.
func (c *Classifier) Touch(f *Flow, packets, bytes [2]uint64, closed uint8, seen int64) {
	for i := range 2 {
		f.Packets[i] += packets[i]
		f.Bytes[i] += bytes[i]
	}
	if f.Awaits {
		c.hearAnswer(f)
	}
	if f.State == Answered && packets[0] > 0 && packets[1] > 0 {
		f.State = Lasting
	}
	f.weighVolume()
	f.setClosed(closed)
	f.Seen = max(f.Seen, seen)
}

// Find returns the flow of that key, or nil; valid until the next call.
func (c *Classifier) Find(key FlowKey) *Flow { return c.flows.find(&key) }

// FindAll is Find for many keys at once, which takes about half the time of
// each by itself where the flows are many (bench/table.md). out[i] is the flow of
// keys[i], or nil; it has room for all.
func (c *Classifier) FindAll(keys []FlowKey, out []*Flow) { c.flows.findAll(keys, out) }

// Retire forgets one flow.
func (c *Classifier) Retire(key FlowKey) bool {
	f := c.flows.find(&key)
	if f == nil {
		return false
	}
	c.retire(f)
	return true
}

// Each calls yield for every flow until it returns false. Nothing may be
// retired meanwhile.
func (c *Classifier) Each(yield func(*Flow) bool) {
	flows := c.flows.used()
	for i := range flows {
		f := &flows[i]
		if f.State == Free {
			continue
		}
		if f.Awaits {
			c.hearAnswer(f)
		}
		if !yield(f) {
			return
		}
	}
}

// idle is how long f may be silent.
func (f *Flow) idle() int64 {
	if f.Verdict == policy.Drop || f.Verdict == policy.Reject {
		return idleDropped
	}
	heardBoth := f.Packets[0] > 0 && f.Packets[1] > 0
	switch f.Key.Proto {
	case policy.ProtoTCP:
		switch {
		case f.State == Closed:
			return idleClosed
		case f.State == HalfClosed:
			return idleHalf
		case f.MidStream && !heardBoth:
			return idleHearsay
		case f.State == Opening:
			return idleOpening
		}
		return idleLasting
	case policy.ProtoUDP:
		if heardBoth {
			return idleUDP
		}
		return idleUDPOnce
	}
	return idleOther
}

// conclude decides an undecided flow with what app-ID knows of it.
func (c *Classifier) conclude(f *Flow) {
	if f.app < 0 {
		return
	}
	var out Result
	s := &c.states[f.app]
	c.weigh(f, s, c.engine.Finish(s), &out)
}

// silent lists those that may go and were silent for longest, an eighth of them
// and at least one. It walks the whole table.
func (c *Classifier) silent(may func(*Flow) bool) []*Flow {
	var all []*Flow
	c.Each(func(f *Flow) bool {
		if may(f) {
			all = append(all, f)
		}
		return true
	})
	slices.SortFunc(all, func(a, b *Flow) int { return cmp.Compare(a.Seen, b.Seen) })
	return all[:(len(all)+7)/8]
}

// Drain retires every flow in the order in which they began. A Classifier that
// was drained is as New made it.
func (c *Classifier) Drain() {
	all := make([]*Flow, 0, c.flows.live)
	c.Each(func(f *Flow) bool { all = append(all, f); return true })
	slices.SortStableFunc(all, func(a, b *Flow) int { return cmp.Compare(a.First, b.First) })
	for _, f := range all {
		c.retire(f)
	}
	c.fragments = newFragments(c.fragments.each)
}

// Sweep looks at the next n places of the table and forgets the flows there
// that were silent for too long; it returns how many. Flows that the kernel
// carries live by Touch. A flow that fell silent while app-ID was reading it is
// decided with what is known.
func (c *Classifier) Sweep(now int64, n int) (gone int) {
	t := c.flows
	flows := t.used()
	for range min(n, len(flows)) {
		if t.cursor++; t.cursor >= len(flows) {
			t.cursor = 0
		}
		f := &flows[t.cursor]
		if f.Awaits {
			c.hearAnswer(f)
		}
		switch {
		case f.State == Free:
		case now-f.Seen > f.idle():
			c.retire(f)
			gone++
		case f.watched && now-f.Seen > idleSearch:
			c.unwatch(f)
		case f.app >= 0 && now-f.Seen > idleSearch:
			c.conclude(f)
			f.reported = 0 // its next packet reports
		}
	}
	return gone
}

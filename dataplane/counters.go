package dataplane

import (
	"sync/atomic"

	"gatehouse/policy"
)

// counters are one worker's. The worker adds, anybody reads.
type counters struct {
	reasons      [policy.ReasonCount]atomic.Uint64
	forwarded    atomic.Uint64
	dropped      atomic.Uint64
	rejected     atomic.Uint64
	observed     atomic.Uint64
	offloaded    atomic.Uint64
	opened       atomic.Uint64 // undecided flows written to the kernel's map
	notOffloaded atomic.Uint64
	_            [64]byte // the next worker's are on another cache line
}

// Counters are totals since the start, over all workers. What the kernel
// programs count is the steering side's.
type Counters struct {
	Reasons      [policy.ReasonCount]uint64 // packets dropped, by reason
	Forwarded    uint64                     // frames sent on, answers included
	Dropped      uint64                     // frames
	Rejected     uint64                     // answers to refused packets
	Observed     uint64                     // violations that a mode let by
	Offloaded    uint64                     // flows written to the kernel's map
	NotOffloaded uint64                     // flows that it did not take
	// LostViolations have no record; their packets are in Reasons.
	LostViolations uint64
}

func (c *Counters) add(w *counters) {
	for i := range c.Reasons {
		c.Reasons[i] += w.reasons[i].Load()
	}
	c.Forwarded += w.forwarded.Load()
	c.Dropped += w.dropped.Load()
	c.Rejected += w.rejected.Load()
	c.Observed += w.observed.Load()
	c.Offloaded += w.offloaded.Load()
	c.NotOffloaded += w.notOffloaded.Load()
}

package dataplane

import (
	"sync/atomic"

	"gatehouse/policy"
)

// counters are one worker's. The worker adds, anybody reads.
type counters struct {
	reasons      [Directions][policy.ReasonCount]atomic.Uint64
	forwarded    atomic.Uint64
	dropped      atomic.Uint64
	rejected     atomic.Uint64
	observed     atomic.Uint64
	offloaded    atomic.Uint64
	opened       atomic.Uint64 // undecided flows written to the kernel's map
	notOffloaded atomic.Uint64
	_            [64]byte // the next worker's are on another cache line
}

// Drops counts dropped packets by where they were met, and why.
type Drops [Directions][policy.ReasonCount]uint64

// Of is how many were dropped for that reason, wherever.
func (d Drops) Of(r policy.Reason) (n uint64) {
	for dir := range d {
		n += d[dir][r]
	}
	return n
}

// Counters are totals since the start, over all workers. What the kernel
// programs count is the steering side's.
type Counters struct {
	Reasons      Drops  // packets dropped, those included that found no room in a port: internal
	Forwarded    uint64 // frames sent on, answers included
	Dropped      uint64 // frames
	Rejected     uint64 // answers to refused packets
	Observed     uint64 // violations that a mode let by
	Offloaded    uint64 // flows written to the kernel's map
	NotOffloaded uint64 // flows that it did not take
	// LostViolations have no record; their packets are in Reasons.
	LostViolations uint64
}

func (c *Counters) add(w *counters) {
	for dir := range c.Reasons {
		for r := range c.Reasons[dir] {
			c.Reasons[dir][r] += w.reasons[dir][r].Load()
		}
	}
	c.Forwarded += w.forwarded.Load()
	c.Dropped += w.dropped.Load()
	c.Rejected += w.rejected.Load()
	c.Observed += w.observed.Load()
	c.Offloaded += w.offloaded.Load()
	c.NotOffloaded += w.notOffloaded.Load()
}

package dataplane

import (
	"context"

	"gatehouse/classify"
	"gatehouse/policy"
)

// endedKept is how many ended flows may wait for Config.Ended.
const endedKept = 1 << 14

// endedFlow is a flow as its worker forgot it. What costs time to work out is
// left to the reader.
type endedFlow struct {
	flow  classify.Flow
	local [2]*localEndpoint // of Key's sides, nil = not here
}

// put is called by workers; it neither waits nor allocates.
func (w *worker) put(f *classify.Flow) {
	if w.ended == nil {
		return
	}
	e := endedFlow{flow: *f}
	zone := policy.Zone(f.Key.Zone)
	e.local[0], e.local[1] = w.local.byAddr[zoneAddr{zone, f.Key.AddrA}], w.local.byAddr[zoneAddr{zone, f.Key.AddrB}]
	w.ended.put(&e)
}

// runEnded hands ended flows to Config.Ended until ctx ends, then those that
// wait.
func (d *Dataplane) runEnded(ctx context.Context) {
	spare := make([]endedFlow, 0, endedKept)
	flows := make([]Flow, 0, 1024)
	for {
		select {
		case <-ctx.Done():
			d.handOn(spare, flows)
			return
		case <-d.ended.full:
		}
		spare = d.handOn(spare, flows)
	}
}

func (d *Dataplane) handOn(spare []endedFlow, flows []Flow) []endedFlow {
	ended, lost := d.ended.take(spare)
	for rest := ended; len(rest) > 0 || lost > 0; lost = 0 {
		n := min(len(rest), cap(flows))
		flows = flows[:0]
		for i := range rest[:n] {
			flows = append(flows, rest[i].shown(d.clock))
		}
		d.config.Ended(flows, lost)
		rest = rest[n:]
	}
	clear(ended)
	return ended[:0]
}

func (e *endedFlow) shown(c clock) Flow {
	f := newFlow(&e.flow, c)
	for side, l := range e.local {
		if l != nil {
			end := side ^ int(e.flow.Initiator)
			f.Endpoint[end], f.Workload[end] = l.ID, l.Workload
		}
	}
	return f
}

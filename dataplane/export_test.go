package dataplane

import "time"

// Turn runs one turn of a worker that Run does not run.
func (d *Dataplane) Turn(queue int) bool { return d.workers[queue].turn() }

// Stop makes the worker believe that its last turn was that long ago.
func (d *Dataplane) Stop(queue int, gap time.Duration) { d.workers[queue].lastTurn -= int64(gap) }

// Pass moves all that is due at intervals.
func (d *Dataplane) Pass() {
	for _, w := range d.workers {
		w.lastSweep, w.lastEvents, w.lastBeat = 0, 0, 0
	}
}

// Settle moves what waits in the mailboxes into the log, and sweeps the map.
func (d *Dataplane) Settle() {
	for _, w := range d.workers {
		w.events.flush()
	}
	events, lost := d.events.take(make([]event, 0, eventsKept))
	d.violations.lost.Add(lost)
	for i := range events {
		d.violations.record(&events[i])
	}
	d.sweeper.sweep()
	for _, w := range d.workers {
		w.runControl(false)
	}
}

// Told hands on what workers told of flows.
func (d *Dataplane) Told() { d.handOn(make([]told, 0, endedKept), make([]Flow, 0, 16)) }

// ListFlows is Flows for workers that Run does not run.
func (d *Dataplane) ListFlows() (out []Flow) {
	for _, w := range d.workers {
		out = append(out, w.flows()...)
	}
	return out
}

// Now is the workers' clock.
func (d *Dataplane) Now() int64 { return d.clock.now() }

// Gather adds n events of as many flows to a worker's violations.
func (d *Dataplane) Gather(n int) {
	for i := range n {
		e := event{reason: 1, rule: -1}
		e.key.PortA = uint16(i)
		d.workers[0].events.add(&e)
	}
}

// Elapse moves the workers' clock on, without a stop.
func (d *Dataplane) Elapse(by time.Duration) {
	for _, w := range d.workers {
		w.clock.offset += int64(by)
		w.lastTurn = w.clock.now()
	}
}

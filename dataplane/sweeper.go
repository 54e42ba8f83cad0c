package dataplane

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"gatehouse/classify"
	"gatehouse/policy"
)

const (
	sweepEvery = 250 * time.Millisecond
	// sweepCalm is the pause after a walk that found fewer than sweepBusy
	// entries changed: a walk costs half a millisecond and more even where
	// there is nothing.
	sweepCalm = time.Second
	sweepBusy = 256
	// sweepIdle is what that pause grows to while nothing changes at all.
	sweepIdle = 4 * time.Second
	// sweepSlice entries are read with one call, sweepMost with one tick, so
	// that a full map is seen every four seconds and a tick stays short.
	sweepSlice = 4096
	sweepMost  = 16384
)

// sweeper walks the kernel's flow map slice by slice and tells the workers what
// the kernel carried, so that they know which flows live and take out those
// that do not. Entries that no worker knows any more it deletes itself.
type sweeper struct {
	flowMap    FlowMap
	endpoints  *atomic.Pointer[endpoints]
	violations *Violations
	tell       func([]touch) // the workers; the slice is theirs
	offloads   func() uint64 // how many entries were written so far
	log        *slog.Logger
	clock      clock

	buf     []FlowEntry
	touches []touch
	orphans []classify.FlowKey
	failing bool // the last scan failed, and it was said
	changed int  // entries, in this round
	seen    int  // entries, in this round
	written uint64
	ended   int64         // when the last round did
	pause   time.Duration // before the next
	empty   bool          // nothing was there in the last round

	lines carriedLines
	// checking is the set of endpoints that this round began with; at the end of a
	// round that met no other it is settled: the entries known by then are its.
	checking, settled *endpoints
}

func newSweeper(m FlowMap, e *atomic.Pointer[endpoints], v *Violations, tell func([]touch), offloads func() uint64, log *slog.Logger, c clock) *sweeper {
	return &sweeper{
		flowMap: m, endpoints: e, violations: v, tell: tell, offloads: offloads, log: log, clock: c,
		buf: make([]FlowEntry, sweepSlice),
	}
}

func (s *sweeper) run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if s.isDue() {
				s.sweep()
			}
		}
	}
}

// isDue reports whether another walk would find something new.
func (s *sweeper) isDue() bool {
	pause := s.pause
	if s.offloads() != s.written {
		pause = min(pause, sweepCalm)
	} else if s.empty {
		return false
	}
	return s.clock.now() >= s.ended+int64(pause)
}

// sweep visits the next part of the map.
func (s *sweeper) sweep() {
	if s.seen == 0 {
		s.written = s.offloads()
		s.checking = s.endpoints.Load()
	}
	for seen := 0; seen < sweepMost; {
		n, end, err := s.flowMap.Scan(s.buf)
		if err != nil {
			if !s.failing {
				s.log.Error("cannot read the kernel's flow map; ended flows stay in it", "err", err)
			}
			s.failing = true
			return
		}
		s.failing = false
		s.visit(s.buf[:n])
		if end {
			s.endRound()
			return
		}
		seen += n
	}
}

// visit hands on what entries have counted, and deletes those that nobody
// wants.
func (s *sweeper) visit(entries []FlowEntry) {
	s.seen += len(entries)
	local := s.endpoints.Load()
	if local != s.checking {
		s.checking, s.settled = nil, nil
	}
	now := uint32(s.clock.now() / int64(time.Second))
	for i := range entries {
		e := &entries[i]
		c := s.lines.at(e.Line)
		known := c.is(&e.Key)
		if e.orphaned(now) || (!known || local != s.settled) && !local.carry(e) {
			s.orphans = append(s.orphans, e.Key)
			continue
		}
		if !known {
			c.begin(&e.Key)
		}
		t, changed := c.grown(e)
		if !changed {
			continue
		}
		s.touches = append(s.touches, t)
		if n := t.packets[0] + t.packets[1]; n > 0 {
			s.violations.addKernel(e.Key, n)
		}
	}
	if len(s.touches) > 0 {
		s.changed += len(s.touches)
		s.tell(s.touches)
		s.touches = make([]touch, 0, len(s.touches))
	}
	if len(s.orphans) > 0 {
		if err := s.flowMap.Delete(s.orphans); err != nil {
			s.log.Error("cannot delete ended flows", "flows", len(s.orphans), "err", err)
		}
		s.orphans = s.orphans[:0]
	}
}

// endRound says when the next round may begin.
func (s *sweeper) endRound() {
	s.lines.endRound()
	s.settled = s.checking
	s.empty, s.ended = s.seen == 0, s.clock.now()
	switch {
	case s.changed >= sweepBusy:
		s.pause = 0
	case s.changed > 0 || s.offloads() != s.written:
		s.pause = sweepCalm
	default:
		s.pause = min(max(2*s.pause, sweepCalm), sweepIdle)
	}
	s.seen, s.changed = 0, 0
}

// carry reports whether the entry's local ends are still the endpoints that it
// was made for.
func (e *endpoints) carry(f *FlowEntry) bool {
	if e.unset {
		return true
	}
	if len(e.legs) == 2 {
		a, b := e.legs[0].Ifindex, e.legs[1].Ifindex
		return f.Ifindex == [2]uint32{a, b} || f.Ifindex == [2]uint32{b, a}
	}
	zone := policy.Zone(f.Key.Zone)
	some := false
	for i, addr := range [2][16]byte{f.Key.AddrA, f.Key.AddrB} {
		if f.Ifindex[i] == 0 {
			continue
		}
		l := e.byAddr[zoneAddr{zone, addr}]
		if l == nil || l.Ifindex != f.Ifindex[i] {
			return false
		}
		some = true
	}
	return some
}

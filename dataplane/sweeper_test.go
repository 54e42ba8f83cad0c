package dataplane

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/classify"
	"gatehouse/policy"
)

// numberedEntry is an entry that nothing is known of but its key.
func numberedEntry(n uint32) FlowEntry {
	return FlowEntry{
		Key:     classify.FlowKey{AddrA: [16]byte{10: 0xff, 11: 0xff, 12: 10}, AddrB: [16]byte{10: 0xff, 11: 0xff, 12: 11}, PortA: uint16(n), PortB: uint16(n >> 16), Zone: 7, Proto: policy.ProtoTCP},
		Verdict: policy.Allow,
	}
}

// TestCarriedFollowsEntries: a line that was left is given up, one that others
// have scanned past is not, and the room of lines that are given up is used again.
func TestCarriedFollowsEntries(t *testing.T) {
	const alive = 100
	var lines carriedLines
	for round := range uint32(50) {
		for i := range uint32(alive) {
			e := numberedEntry(round*alive + i)
			e.Line, e.Bytes[0] = (round*alive+i)*37%20000, 100
			c := lines.at(e.Line)
			if c.is(&e.Key) {
				t.Fatalf("round %d, entry %d: known before it was met", round, i)
			}
			c.begin(&e.Key)
			c.grown(&e)
			if lines.endRound(); i%2 == 0 && !lines.at(e.Line).is(&e.Key) {
				t.Fatalf("round %d, entry %d: forgotten after a round without it", round, i)
			}
		}
		for range carriedRounds + 1 {
			lines.endRound()
		}
	}
	if n := len(lines.kept); n > 2*alive {
		t.Errorf("room for %d lines, of which at most %d were in use", n, alive)
	}
}

// TestCarriedAgainstMap: what lines have grown by is what a map by key says,
// while entries come, count, and give their lines to others.
func TestCarriedAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const places = 2000
	var lines carriedLines
	there := make([]FlowEntry, places)
	told := map[classify.FlowKey]uint64{}
	for i := range there {
		there[i] = numberedEntry(uint32(i))
		there[i].Line = uint32(i)
	}
	next := uint32(places)
	for range 200000 {
		i := r.IntN(places)
		e := &there[i]
		switch r.IntN(8) {
		case 0: // another's
			*e = numberedEntry(next)
			e.Line = uint32(i)
			next++
		case 1: // written anew
			e.Bytes, e.Packets = [2]uint64{}, [2]uint32{}
			told[e.Key] = 0
			lines.at(e.Line).grown(e)
		default:
			n := uint64(r.IntN(5))
			e.Packets[1] += uint32(n)
			e.Bytes[1] += 100 * n
		}
		c := lines.at(e.Line)
		if !c.is(&e.Key) {
			c.begin(&e.Key)
		}
		before := told[e.Key]
		touch, changed := c.grown(e)
		told[e.Key] += touch.bytes[1]
		if told[e.Key] != e.Bytes[1] || changed != (before != e.Bytes[1]) || touch.packets[1]*100 != touch.bytes[1] {
			t.Fatalf("%+v: told %d bytes of %d, changed %v, %d packets", e.Key, told[e.Key], e.Bytes[1], changed, touch.packets[1])
		}
	}
}

// TestFewerAndLargerPackets: an entry that was written anew may have fewer packets and
// more bytes than the one that was there.
func TestFewerAndLargerPackets(t *testing.T) {
	var c carried
	c.grown(&FlowEntry{Packets: [2]uint32{20, 1<<32 - 2}, Bytes: [2]uint64{2000, 2000}})
	for _, step := range []struct {
		e    FlowEntry
		want [2]uint64
	}{
		{FlowEntry{Packets: [2]uint32{2, 3}, Bytes: [2]uint64{2800, 2500}}, [2]uint64{2, 5}}, // the other wraps as the kernel's count does
		{FlowEntry{Packets: [2]uint32{3, 4}, Bytes: [2]uint64{2900, 2600}}, [2]uint64{1, 1}},
	} {
		if got, _ := c.grown(&step.e); got.packets != step.want {
			t.Errorf("%v packets, want %v", got.packets, step.want)
		}
	}
}

// stillMap holds entries that never count.
type stillMap struct {
	n, at int
	seen  uint32
}

func (m *stillMap) Put([]FlowEntry) error           { return nil }
func (m *stillMap) Delete([]classify.FlowKey) error { return nil }
func (m *stillMap) Has(*classify.FlowKey) bool      { return true }

func (m *stillMap) Answer(*classify.FlowKey) (seq uint32, length int, ok bool) { return 0, 0, false }

func (m *stillMap) Scan(entries []FlowEntry) (n int, end bool, err error) {
	for ; n < len(entries) && m.at < m.n; n, m.at = n+1, m.at+1 {
		entries[n] = numberedEntry(uint32(m.at))
		entries[n].Line, entries[n].Seen = uint32(m.at), m.seen
	}
	if m.at < m.n {
		return n, false, nil
	}
	m.at = 0
	return n, true, nil
}

// TestSweeperAtRest: entries that do not count are told of once, are walked ever
// more rarely, and cost no memory.
func TestSweeperAtRest(t *testing.T) {
	c := newClock()
	m := &stillMap{n: 10000, seen: uint32(c.now() / int64(time.Second))}
	var local atomic.Pointer[endpoints]
	local.Store(noEndpoints())
	told, written := 0, uint64(1)
	s := newSweeper(m, &local, nil, func(ts []touch) { told += len(ts) }, func() uint64 { return written }, nil, c)
	s.sweep()
	if told != m.n || s.pause != 0 {
		t.Errorf("%d of %d told, pause %v", told, m.n, s.pause)
	}
	for _, want := range []time.Duration{sweepCalm, 2 * sweepCalm, sweepIdle, sweepIdle} {
		if s.sweep(); s.pause != want {
			t.Errorf("pause %v, want %v", s.pause, want)
		}
	}
	if told != m.n {
		t.Errorf("%d told of %d that did not change", told, m.n)
	}
	if n := testing.AllocsPerRun(10, s.sweep); n != 0 {
		t.Errorf("%v allocations a walk", n)
	}
	if s.ended = c.now() - int64(sweepCalm); s.isDue() {
		t.Error("walks again, and nothing was written")
	}
	if written++; !s.isDue() {
		t.Error("does not look at what was written")
	}
}

package steer

import (
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"gatehouse/dataplane"
)

// interned numbers the ends of flows, so that a flow's line holds two bytes for
// each. A number lives as long as a line has it, and rests before it is
// somebody else's.
type interned struct {
	memory  []byte // of the map ends: each end in endSize bytes
	byEnd   map[steerEnd]uint16
	lines   []uint32        // how many have it, by number
	since   []time.Duration // when nobody had it any more, by number
	free    []uint16
	resting queue[uint16] // may have a number twice
}

const endSize = (int(unsafe.Sizeof(steerEnd{})) + 7) &^ 7 // as the kernel spaces an array's values

func (n *interned) open(m *ebpf.Map) (err error) {
	n.byEnd = make(map[steerEnd]uint16)
	n.lines, n.since = make([]uint32, m.MaxEntries()), make([]time.Duration, m.MaxEntries())
	n.memory, err = mapMemory(m)
	return err
}

func (n *interned) at(number uint16) *steerEnd {
	return (*steerEnd)(unsafe.Pointer(&n.memory[int(number)*endSize]))
}

// recall counts a line of an earlier gateway.
func (n *interned) recall(ends [2]uint16) {
	for _, number := range ends {
		n.lines[number]++
		n.byEnd[*n.at(number)] = number
	}
}

// recalled ends the taking of stock.
func (n *interned) recalled() {
	for i := len(n.lines) - 1; i >= 0; i-- {
		if n.lines[i] == 0 {
			n.free = append(n.free, uint16(i))
		}
	}
}

// take gives the numbers of an entry's ends; false when there is none left.
func (n *interned) take(e *dataplane.FlowEntry, now time.Duration) (ends [2]uint16, ok bool) {
	for side := range ends {
		end := steerEnd{Ifindex: e.Ifindex[side], Mac: e.MAC[side]}
		number, known := n.byEnd[end]
		if !known {
			if len(n.free) == 0 {
				n.release(ends[:side], now)
				return ends, false
			}
			number = n.free[len(n.free)-1]
			n.free = n.free[:len(n.free)-1]
			*n.at(number) = end
			n.byEnd[end] = number
		}
		n.lines[number]++
		ends[side] = number
	}
	return ends, true
}

func (n *interned) release(ends []uint16, now time.Duration) {
	for _, number := range ends {
		if n.lines[number]--; n.lines[number] == 0 {
			n.since[number] = now
			n.resting.push(number)
		}
	}
}

// wake frees the numbers that rested and that nobody took again.
func (n *interned) wake(now time.Duration) {
	for n.resting.len() > 0 {
		number := n.resting.front()
		if n.lines[number] == 0 && now-n.since[number] < restFor {
			return
		}
		n.resting.pop()
		if end := *n.at(number); n.lines[number] == 0 && n.byEnd[end] == number {
			delete(n.byEnd, end)
			n.free = append(n.free, number)
		}
	}
}

// names reports whether one of the ends is one of those interfaces.
func (n *interned) names(ends [2]uint16, ifindexes []uint32) bool {
	for _, number := range ends {
		for _, i := range ifindexes {
			if n.at(number).Ifindex == i {
				return true
			}
		}
	}
	return false
}

// queue is first in, first out, in a ring that grows.
type queue[T any] struct {
	ring []T
	head int
	n    int
}

func (q *queue[T]) len() int { return q.n }

func (q *queue[T]) front() T { return q.ring[q.head] }

func (q *queue[T]) push(v T) {
	if q.n == len(q.ring) {
		bigger := make([]T, max(64, 2*q.n))
		for i := range q.n {
			bigger[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = bigger, 0
	}
	q.ring[(q.head+q.n)%len(q.ring)] = v
	q.n++
}

func (q *queue[T]) pop() T {
	v := q.ring[q.head]
	var zero T
	q.ring[q.head] = zero
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	return v
}

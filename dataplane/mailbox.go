package dataplane

import "sync"

// mailbox carries values from a worker, which never waits, to one reader. What
// does not fit is lost and counted.
type mailbox[T any] struct {
	mu    sync.Mutex
	items []T
	lost  uint64
	full  chan struct{} // has a token while there may be something
}

func newMailbox[T any](size int) *mailbox[T] {
	return &mailbox[T]{items: make([]T, 0, size), full: make(chan struct{}, 1)}
}

// put does not allocate.
func (m *mailbox[T]) put(v *T) {
	m.mu.Lock()
	if len(m.items) < cap(m.items) {
		m.items = append(m.items, *v)
	} else {
		m.lost++
	}
	m.mu.Unlock()
	select {
	case m.full <- struct{}{}:
	default:
	}
}

// take swaps what is there for the empty slice spare, which must have the
// mailbox's size as capacity, and tells how many were lost since.
func (m *mailbox[T]) take(spare []T) (items []T, lost uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	items, lost = m.items, m.lost
	m.items, m.lost = spare[:0], 0
	return items, lost
}

package history

import "time"

const (
	// streamSize is how far a subscriber may fall behind.
	streamSize = 256
	// announcePause is how long a record must have been quiet to be sent to
	// subscribers again when it grows.
	announcePause = time.Second
)

type stream struct {
	filter Filter
	c      chan Record
}

// Subscribe sends each chosen record when it begins, and when it grows after a
// pause of a second, until stop is called. A reader that is not there in time
// loses some; the store goes on.
func (s *Store) Subscribe(f Filter) (records <-chan Record, stop func()) {
	st := &stream{f, make(chan Record, streamSize)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = struct{}{}
	return st.c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, st)
	}
}

// Subscribers is how many there are.
func (s *Store) Subscribers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

func (s *Store) announce(r *Record) {
	for st := range s.streams {
		if !st.filter.Match(r) {
			continue
		}
		select {
		case st.c <- *r:
		default:
		}
	}
}

package dataplane

import (
	"context"
	"sync"
	"sync/atomic"

	"gatehouse/classify"
)

// endedSize is how many ended flows may wait for their readers.
const endedSize = 4096

// flowStream carries ended flows from the workers to subscribers; without any,
// a worker does nothing for it.
type flowStream struct {
	wanted  atomic.Int32
	box     *mailbox[Flow]
	mu      sync.Mutex
	streams map[*stream[Flow]]struct{}
}

func newFlowStream() *flowStream {
	return &flowStream{box: newMailbox[Flow](endedSize), streams: make(map[*stream[Flow]]struct{})}
}

// put is called by workers.
func (s *flowStream) put(f *classify.Flow, c clock, e *endpoints) {
	if s.wanted.Load() == 0 {
		return
	}
	out := newFlow(f, c)
	out.setEndpoints(e)
	s.box.put(&out)
}

func (s *flowStream) subscribe() (flows <-chan Flow, stop func()) {
	st := newStream[Flow]()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = struct{}{}
	s.wanted.Add(1)
	return st.c, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, st)
		s.wanted.Add(-1)
	})
}

func (s *flowStream) run(ctx context.Context) {
	spare := make([]Flow, 0, endedSize)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.box.full:
		}
		flows, _ := s.box.take(spare)
		s.mu.Lock()
		for i := range flows {
			for st := range s.streams {
				st.send(flows[i])
			}
		}
		s.mu.Unlock()
		clear(flows)
		spare = flows[:0]
	}
}

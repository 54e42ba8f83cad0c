package dataplane

import (
	"time"

	"gatehouse/classify"
	"gatehouse/policy"
)

// Conversations that are over are forgotten soon: a busy client opens tens of
// thousands a second, and until then each counts against its endpoint's share.
const (
	// closedGrace lets the last acknowledgements of a TCP connection by.
	closedGrace = 200 * time.Millisecond
	// answeredGrace lets a second answer to the same DNS query by.
	answeredGrace = 3 * time.Second
	// departuresKept bounds each list; who finds no room waits for the
	// classifier's own patience.
	departuresKept = 1 << 15
	// departuresTurn is how many are forgotten in one turn.
	departuresTurn = 1024
)

// departures is a queue of flows that will be forgotten a while after they were
// put in.
type departures struct {
	ring  []departure
	first int
	n     int
	grace int64
}

type departure struct {
	key classify.FlowKey
	at  int64
}

func newDepartures(grace time.Duration) departures {
	return departures{ring: make([]departure, departuresKept), grace: int64(grace)}
}

func (d *departures) add(key *classify.FlowKey, now int64) {
	if d.n == len(d.ring) {
		return
	}
	d.ring[(d.first+d.n)%len(d.ring)] = departure{*key, now}
	d.n++
}

// next takes the first whose time has come.
func (d *departures) next(now int64) (key classify.FlowKey, ok bool) {
	if d.n == 0 || now-d.ring[d.first].at < d.grace {
		return key, false
	}
	key = d.ring[d.first].key
	d.first = (d.first + 1) % len(d.ring)
	d.n--
	return key, true
}

// isAnswered reports a DNS lookup over UDP with as many answers as queries.
func isAnswered(f *classify.Flow) bool {
	return f.Key.Proto == policy.ProtoUDP && (f.Key.PortA == 53 || f.Key.PortB == 53) &&
		f.Packets[0] == f.Packets[1] && f.Packets[0] > 0
}

// seeOff notes a flow that is over.
func (w *worker) seeOff(f *classify.Flow) {
	switch {
	case f.State == classify.Closed:
		w.closed.add(&f.Key, w.now)
	case isAnswered(f):
		w.answered.add(&f.Key, w.now)
	}
}

// depart forgets the flows whose time has come, unless they have gone on.
func (w *worker) depart() {
	for range departuresTurn {
		key, ok := w.closed.next(w.now)
		if !ok {
			break
		}
		f := w.classifier.Find(key)
		if f != nil && f.State == classify.Closed && w.now-f.Seen >= w.closed.grace {
			w.classifier.Retire(key)
		}
	}
	for range departuresTurn {
		key, ok := w.answered.next(w.now)
		if !ok {
			break
		}
		f := w.classifier.Find(key)
		if f != nil && isAnswered(f) && w.now-f.Seen >= w.answered.grace {
			w.classifier.Retire(key)
		}
	}
	w.forget()
}

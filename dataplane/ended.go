package dataplane

import (
	"context"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"gatehouse/classify"
	"gatehouse/policy"
)

const (
	// endedKept is how many ended flows may wait for Config.Ended.
	endedKept = 1 << 14
	// hostsKept is how many flows' hosts are known at once; the one that was
	// told longest ago goes first.
	hostsKept = 1 << 14
	// hostBytes is the longest host that is kept; longer ones are not.
	hostBytes = 96
)

// told is what a worker tells of a flow: the host that it asked for, or its
// end. What costs time to work out is left to the reader.
type told struct {
	flow  classify.Flow
	local [2]*localEndpoint // of Key's sides, nil = not here
	host  [hostBytes]byte
	size  uint8 // of host; 0 = the flow has ended
}

// tell is called by workers; it neither waits nor allocates.
func (w *worker) tell(f *classify.Flow, host []byte) {
	if w.told == nil || len(host) > hostBytes {
		return
	}
	t := told{flow: *f, size: uint8(len(host))}
	copy(t.host[:], host)
	zone := policy.Zone(f.Key.Zone)
	t.local[0], t.local[1] = w.local.byAddr[zoneAddr{zone, f.Key.AddrA}], w.local.byAddr[zoneAddr{zone, f.Key.AddrB}]
	w.told.put(&t)
}

// flowRead is called by the classifier for every flow whose bytes told what it
// is.
func (w *worker) flowRead(f *classify.Flow, a *classify.Attrs) {
	if host := f.Asked(a); len(host) > 0 {
		w.tell(f, host)
	}
}

// hosts knows which host a flow to the outside asked for. Safe for concurrent
// use.
type hosts struct {
	mu    sync.Mutex
	byKey *simplelru.LRU[classify.FlowKey, string]
}

func newHosts() *hosts {
	h := new(hosts)
	h.byKey, _ = simplelru.NewLRU[classify.FlowKey, string](hostsKept, nil)
	return h
}

func (h *hosts) add(key classify.FlowKey, host string) {
	if i := strings.LastIndexByte(host, ':'); i > 0 && !strings.HasSuffix(host, "]") { // HTTP's host may have a port
		host = host[:i]
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byKey.Add(key, strings.ToLower(host))
}

func (h *hosts) get(key classify.FlowKey) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	host, _ := h.byKey.Peek(key)
	return host
}

func (h *hosts) take(key classify.FlowKey) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	host, ok := h.byKey.Peek(key)
	if ok {
		h.byKey.Remove(key)
	}
	return host
}

// runEnded hands ended flows to Config.Ended until ctx ends, then those that
// wait.
func (d *Dataplane) runEnded(ctx context.Context) {
	spare := make([]told, 0, endedKept)
	flows := make([]Flow, 0, 1024)
	for {
		select {
		case <-ctx.Done():
			d.handOn(spare, flows)
			return
		case <-d.told.full:
		}
		spare = d.handOn(spare, flows)
	}
}

func (d *Dataplane) handOn(spare []told, flows []Flow) []told {
	items, lost := d.told.take(spare)
	for rest := items; len(rest) > 0 || lost > 0; lost = 0 {
		n := min(len(rest), cap(flows))
		flows = flows[:0]
		for i := range rest[:n] {
			t := &rest[i]
			switch {
			case t.size == 0:
				flows = append(flows, t.ended(d.hosts.take(t.flow.Key), d.clock))
			case t.local[t.flow.Initiator^1] == nil:
				d.hosts.add(t.flow.Key, string(t.host[:t.size]))
			}
		}
		d.config.Ended(flows, lost)
		rest = rest[n:]
	}
	clear(items)
	return items[:0]
}

func (t *told) ended(host string, c clock) Flow {
	f := newFlow(&t.flow, c)
	f.Host = host
	for side, l := range t.local {
		if l != nil {
			end := side ^ int(t.flow.Initiator)
			f.Endpoint[end], f.Workload[end] = l.ID, l.Workload
		}
	}
	return f
}

// Package inventory holds the present set of workloads, networks and the host,
// as orchestrators told it. Watchers such as control/docker write it; the loop
// that compiles policy waits for Changed and takes a View.
//
// An Inventory is safe for concurrent use. What is handed to it and what it
// hands out is shared, not copied: neither side may change it afterwards.
package inventory

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/tidwall/btree"

	"gatehouse/policy"
)

// Inventory is the present set of workloads and networks.
type Inventory struct {
	changed chan struct{}

	mu        sync.Mutex
	host      policy.Host
	networks  []policy.Network // sorted by id; another slice after each change
	workloads *btree.Map[string, *policy.Workload]
	view      *View           // nil after a change
	news      map[string]bool // ids of workloads that changed since Take
	around    bool            // so did networks or the host
}

// New returns an empty inventory.
func New() *Inventory {
	return &Inventory{changed: make(chan struct{}, 1), workloads: new(btree.Map[string, *policy.Workload]), news: make(map[string]bool)}
}

// View is what an inventory held at a moment; immutable. Two views of which one
// followed the other share what did not change.
type View struct {
	Host      policy.Host
	Networks  []policy.Network // sorted by id
	workloads *btree.Map[string, *policy.Workload]
	snapshot  func() *policy.Snapshot
}

// Workload is the one with that ID, nil if there is none.
func (v *View) Workload(id string) *policy.Workload {
	w, _ := v.workloads.Get(id)
	return w
}

// Network is the one with that ID, nil if there is none.
func (v *View) Network(id string) *policy.Network {
	at, found := searchNetwork(v.Networks, id)
	if !found {
		return nil
	}
	return &v.Networks[at]
}

// Workloads calls yield for each workload, in the order of their ids.
func (v *View) Workloads(yield func(*policy.Workload) bool) {
	v.workloads.Scan(func(_ string, w *policy.Workload) bool { return yield(w) })
}

// Snapshot is all of the view in one piece, its slices sorted by ID. It takes time
// in proportion to what there is, the first time.
func (v *View) Snapshot() *policy.Snapshot { return v.snapshot() }

// ViewOf is the view of an inventory that holds what s holds. s must be sorted by
// ID, as snapshots are, and nobody may change it afterwards.
func ViewOf(s *policy.Snapshot) *View {
	workloads := new(btree.Map[string, *policy.Workload])
	for i := range s.Workloads {
		workloads.Set(s.Workloads[i].ID, &s.Workloads[i])
	}
	return &View{Host: s.Host, Networks: s.Networks, workloads: workloads, snapshot: func() *policy.Snapshot { return s }}
}

func newView(host policy.Host, networks []policy.Network, workloads *btree.Map[string, *policy.Workload]) *View {
	v := &View{Host: host, Networks: networks, workloads: workloads}
	v.snapshot = sync.OnceValue(func() *policy.Snapshot {
		s := &policy.Snapshot{Host: host, Networks: networks}
		if n := workloads.Len(); n > 0 {
			s.Workloads = make([]policy.Workload, 0, n)
		}
		for w := range v.Workloads {
			s.Workloads = append(s.Workloads, *w)
		}
		return s
	})
	return v
}

// Changed delivers one value after any number of changes since the last one
// was received: a burst collapses into one. It is meant for one reader, which
// takes the View after receiving, never before.
func (v *Inventory) Changed() <-chan struct{} { return v.changed }

// Put adds the workload or replaces the one with its ID.
func (v *Inventory) Put(w policy.Workload) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.put(&w)
}

func (v *Inventory) put(w *policy.Workload) {
	if old, ok := v.workloads.Get(w.ID); ok && reflect.DeepEqual(old, w) {
		return
	}
	v.workloads.Set(w.ID, w)
	v.news[w.ID] = true
	v.note()
}

// Delete removes the workload with that ID, if there is one.
func (v *Inventory) Delete(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.delete(id)
}

func (v *Inventory) delete(id string) {
	if _, ok := v.workloads.Delete(id); ok {
		v.news[id] = true
		v.note()
	}
}

// PutNetwork adds the network or replaces the one with its ID.
func (v *Inventory) PutNetwork(n policy.Network) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at, found := searchNetwork(v.networks, n.ID)
	switch {
	case !found:
		v.setNetworks(slices.Insert(slices.Clone(v.networks), at, n))
	case !reflect.DeepEqual(v.networks[at], n):
		networks := slices.Clone(v.networks)
		networks[at] = n
		v.setNetworks(networks)
	}
}

// DeleteNetwork removes the network with that ID, if there is one.
func (v *Inventory) DeleteNetwork(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if at, found := searchNetwork(v.networks, id); found {
		v.setNetworks(slices.Delete(slices.Clone(v.networks), at, at+1))
	}
}

func searchNetwork(networks []policy.Network, id string) (at int, found bool) {
	return slices.BinarySearchFunc(networks, id, func(n policy.Network, id string) int { return cmp.Compare(n.ID, id) })
}

func (v *Inventory) setNetworks(networks []policy.Network) {
	v.networks, v.around = networks, true
	v.note()
}

// PutHost replaces what is known of this machine.
func (v *Inventory) PutHost(h policy.Host) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.putHost(h)
}

func (v *Inventory) putHost(h policy.Host) {
	if !reflect.DeepEqual(v.host, h) {
		v.host, v.around = h, true
		v.note()
	}
}

// Replace makes the inventory hold exactly what s holds, as one change. Its
// slices need not be sorted; of two entries with one ID the later counts.
func (v *Inventory) Replace(s *policy.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.putHost(s.Host)
	byID := make(map[string]policy.Network, len(s.Networks))
	for _, n := range s.Networks {
		byID[n.ID] = n
	}
	networks := slices.SortedFunc(maps.Values(byID), func(a, b policy.Network) int { return cmp.Compare(a.ID, b.ID) })
	if !slices.EqualFunc(v.networks, networks, func(a, b policy.Network) bool { return reflect.DeepEqual(a, b) }) {
		v.setNetworks(networks)
	}
	last := make(map[string]*policy.Workload, len(s.Workloads))
	for i := range s.Workloads {
		last[s.Workloads[i].ID] = &s.Workloads[i]
	}
	for _, id := range v.workloads.Keys() {
		if last[id] == nil {
			v.delete(id)
		}
	}
	for _, w := range last {
		v.put(w)
	}
}

// View returns what there is at present. Calls without a change in between return
// the same one.
func (v *Inventory) View() *View {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.present()
}

func (v *Inventory) present() *View {
	if v.view == nil {
		v.view = newView(v.host, v.networks, v.workloads.Copy())
	}
	return v.view
}

// Snapshot is View in one piece.
func (v *Inventory) Snapshot() *policy.Snapshot { return v.View().Snapshot() }

// Take is View for the one reader that follows changes: news are the ids of the
// workloads that may be others than at the Take before, sorted, and around says
// that networks or the host may be.
func (v *Inventory) Take() (view *View, news []string, around bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	news, around = slices.Sorted(maps.Keys(v.news)), v.around
	v.news, v.around = make(map[string]bool), false
	return v.present(), news, around
}

// note records that something changed. The caller holds mu.
func (v *Inventory) note() {
	v.view = nil
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// Package inventory holds the present set of workloads, networks and the host,
// as orchestrators told it. Watchers such as control/docker write it; the loop
// that compiles policy waits for Changed and takes a Snapshot.
//
// An Inventory is safe for concurrent use. What is handed to it and what it
// hands out is shared, not copied: neither side may change it afterwards.
package inventory

import (
	"cmp"
	"reflect"
	"slices"
	"sync"

	"gatehouse/policy"
)

// Inventory is the present set of workloads and networks.
type Inventory struct {
	changed chan struct{}

	mu        sync.Mutex
	host      policy.Host
	networks  sorted[policy.Network]
	workloads sorted[policy.Workload]
	last      *policy.Snapshot // nil after a change
}

// New returns an empty inventory.
func New() *Inventory {
	return &Inventory{
		changed:   make(chan struct{}, 1),
		networks:  sorted[policy.Network]{id: func(n *policy.Network) string { return n.ID }},
		workloads: sorted[policy.Workload]{id: func(w *policy.Workload) string { return w.ID }},
	}
}

// Changed delivers one value after any number of changes since the last one
// was received: a burst collapses into one. It is meant for one reader, which
// takes the Snapshot after receiving, never before.
func (v *Inventory) Changed() <-chan struct{} { return v.changed }

// Put adds the workload or replaces the one with its ID.
func (v *Inventory) Put(w policy.Workload) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note(v.workloads.put(w))
}

// Delete removes the workload with that ID, if there is one.
func (v *Inventory) Delete(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note(v.workloads.delete(id))
}

// PutNetwork adds the network or replaces the one with its ID.
func (v *Inventory) PutNetwork(n policy.Network) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note(v.networks.put(n))
}

// DeleteNetwork removes the network with that ID, if there is one.
func (v *Inventory) DeleteNetwork(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note(v.networks.delete(id))
}

// PutHost replaces what is known of this machine.
func (v *Inventory) PutHost(h policy.Host) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if reflect.DeepEqual(v.host, h) {
		return
	}
	v.host = h
	v.note(true)
}

// Replace makes the inventory hold exactly what s holds, as one change. Its
// slices need not be sorted; of two entries with one ID the later counts.
func (v *Inventory) Replace(s *policy.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	hostChanged := !reflect.DeepEqual(v.host, s.Host)
	v.host = s.Host
	networksChanged := v.networks.replace(s.Networks)
	workloadsChanged := v.workloads.replace(s.Workloads)
	v.note(hostChanged || networksChanged || workloadsChanged)
}

// Snapshot returns the present state. It is immutable, its slices are sorted by
// ID, and calls without a change in between return the same pointer.
func (v *Inventory) Snapshot() *policy.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last == nil {
		v.last = &policy.Snapshot{Host: v.host, Networks: v.networks.share(), Workloads: v.workloads.share()}
	}
	return v.last
}

// note records that something changed. The caller holds mu.
func (v *Inventory) note(changed bool) {
	if !changed {
		return
	}
	v.last = nil
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// sorted is a slice in the order of its items' ids. Once shared with a snapshot
// it is copied before the next change, so a burst costs one copy.
type sorted[T any] struct {
	id     func(*T) string
	items  []T
	shared bool
}

func (s *sorted[T]) find(id string) (int, bool) {
	return slices.BinarySearchFunc(s.items, id, func(item T, id string) int { return cmp.Compare(s.id(&item), id) })
}

func (s *sorted[T]) own() {
	if s.shared {
		s.items = slices.Clone(s.items)
		s.shared = false
	}
}

func (s *sorted[T]) share() []T {
	s.shared = true
	return slices.Clip(s.items)
}

func (s *sorted[T]) put(item T) (changed bool) {
	i, found := s.find(s.id(&item))
	if found && reflect.DeepEqual(s.items[i], item) {
		return false
	}
	s.own()
	if found {
		s.items[i] = item
	} else {
		s.items = slices.Insert(s.items, i, item)
	}
	return true
}

func (s *sorted[T]) delete(id string) (changed bool) {
	i, found := s.find(id)
	if !found {
		return false
	}
	s.own()
	s.items = slices.Delete(s.items, i, i+1)
	return true
}

func (s *sorted[T]) replace(items []T) (changed bool) {
	next := sorted[T]{id: s.id, items: slices.Clone(items)}
	slices.SortStableFunc(next.items, func(a, b T) int { return cmp.Compare(s.id(&a), s.id(&b)) })
	kept := next.items[:0]
	for _, item := range next.items {
		if n := len(kept); n > 0 && s.id(&kept[n-1]) == s.id(&item) {
			kept[n-1] = item
			continue
		}
		kept = append(kept, item)
	}
	if len(kept) == len(s.items) && (len(kept) == 0 || reflect.DeepEqual(kept, s.items)) {
		return false
	}
	s.items, s.shared = kept, false
	return true
}

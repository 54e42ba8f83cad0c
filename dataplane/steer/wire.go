package steer

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// Wire is the kernel's side of a bump in the wire: XDP programs that carry the
// frames of decided flows from one interface to the other and hand the rest to
// user space. Its flow tables are nobody else's and end with it. All methods are
// safe for concurrent use.
type Wire struct {
	maps  steerMaps
	spec  *ebpf.CollectionSpec
	flows *FlowMap

	mu      sync.Mutex
	epoch   uint32 // of the present table
	carries bool
}

// OpenWire makes tables for so many flows, 0 = DefaultFlowEntries. It
// carries nothing until Carry and SetEpoch say so. It needs root and Linux 5.12.
func OpenWire(flows uint32) (*Wire, error) {
	flows = or(flows, DefaultFlowEntries)
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory (needs root): %w", err)
	}
	spec, err := specFor(flows)
	if err != nil {
		return nil, err
	}
	w := &Wire{spec: spec}
	for name, to := range w.shared() {
		if *to, err = ebpf.NewMap(spec.Maps[name]); err != nil {
			return nil, errors.Join(fmt.Errorf("map %s: %w", name, err), w.Close())
		}
	}
	seed, err := flowSeed(w.maps.States)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if w.flows, err = openFlowMap(flowMaps{w.maps.Flows, w.maps.Flows6, w.maps.Ends}, seed, int(flows)); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// shared are the maps of both interfaces' programs.
func (w *Wire) shared() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		"counters": &w.maps.Counters,
		"ends":     &w.maps.Ends,
		"flows":    &w.maps.Flows,
		"flows6":   &w.maps.Flows6,
		"states":   &w.maps.States,
	}
}

// Load makes the program of the interface that is across from the one of index
// far in the calling thread's network namespace, 0 = none, with the map of the
// sockets of its queues, both the caller's to close. The number of queues is at
// most 64.
func (w *Wire) Load(far int) (program *ebpf.Program, sockets *ebpf.Map, err error) {
	replaced := make(map[string]*ebpf.Map)
	for name, m := range w.shared() {
		replaced[name] = *m
	}
	var loaded struct {
		Wire    *ebpf.Program `ebpf:"wire"`
		Sockets *ebpf.Map     `ebpf:"sockets"`
		Far     *ebpf.Map     `ebpf:"far"`
	}
	if err := w.spec.Copy().LoadAndAssign(&loaded, &ebpf.CollectionOptions{MapReplacements: replaced}); err != nil {
		return nil, nil, fmt.Errorf("it needs Linux 5.12 (on other processors than amd64 5.18): %w", err)
	}
	defer loaded.Far.Close() // the program keeps it
	if far != 0 {
		err = loaded.Far.Put(uint32(0), uint32(far))
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("send frames to interface %d: %w", far, err), loaded.Wire.Close(), loaded.Sockets.Close())
	}
	return loaded.Wire, loaded.Sockets, nil
}

// Flows is the wire's flow map.
func (w *Wire) Flows() *FlowMap { return w.flows }

// SetEpoch tells the programs the number of the present table: entries of
// another epoch are no longer valid.
func (w *Wire) SetEpoch(epoch uint32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.epoch = epoch
	return w.tell()
}

// Carry says whether the interfaces can take frames from each other's programs.
// While not, every frame goes to user space.
func (w *Wire) Carry(able bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.carries = able
	return w.tell()
}

// Carries reports what Carry said last.
func (w *Wire) Carries() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.carries
}

// tell writes the epoch that the programs go by: 0 fits no entry.
func (w *Wire) tell() error {
	var st steerState
	if err := w.maps.States.Lookup(uint32(0), &st); err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	st.Epoch = 0
	if w.carries {
		st.Epoch = w.epoch
	}
	if err := w.maps.States.Put(uint32(0), st); err != nil {
		return fmt.Errorf("set epoch: %w", err)
	}
	return nil
}

// Counters is what the programs have counted: hits and drops, the rest is 0.
func (w *Wire) Counters() (Counters, error) { return readCounters(w.maps.Counters) }

// Close unmaps the tables. Programs that are attached keep them.
func (w *Wire) Close() error {
	errs := []error{w.flows.close()}
	for _, m := range w.shared() {
		if *m != nil {
			errs = append(errs, (*m).Close())
		}
	}
	return errors.Join(errs...)
}

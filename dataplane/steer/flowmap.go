package steer

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

// FlowMap is the kernel's flow map: user space alone puts entries in and takes
// them out, the programs count in them. It implements dataplane.FlowMap and is
// safe for concurrent use.
type FlowMap struct {
	m *ebpf.Map

	write struct {
		sync.Mutex
		keys   []classify.FlowKey
		values []steerFlow
	}
	scan struct {
		sync.Mutex
		flowScan
	}
}

var _ dataplane.FlowMap = (*FlowMap)(nil)

// ErrFull says that the flow map has no room.
var ErrFull = errors.New("the flow map is full")

// batch is how many entries one system call moves. A lookup needs room for the
// longest chain of a bucket.
const batch = 1024

func newFlowMap(m *ebpf.Map) *FlowMap {
	f := &FlowMap{m: m}
	f.write.keys = make([]classify.FlowKey, 0, batch)
	f.write.values = make([]steerFlow, 0, batch)
	return f
}

// Put inserts entries, or replaces them: their counters become what the entry
// says, and the proof of delivery that redirect_peer needs starts anew. Where
// the map is full the error wraps ErrFull and says how many were refused. It
// allocates only that error.
func (f *FlowMap) Put(entries []dataplane.FlowEntry) error {
	f.write.Lock()
	defer f.write.Unlock()
	refused := 0
	for len(entries) > 0 {
		n := min(len(entries), batch)
		keys, values := f.write.keys[:n], f.write.values[:n]
		for i := range n {
			keys[i] = entries[i].Key
			values[i] = toKernel(&entries[i])
		}
		entries = entries[n:]
		for len(keys) > 0 {
			done, errno := f.update(keys, values)
			if errno == 0 {
				break
			}
			if errno != unix.E2BIG {
				return fmt.Errorf("flow map: %w", errno)
			}
			// The one after those done was refused; the rest may replace others.
			refused++
			keys, values = keys[done+1:], values[done+1:]
		}
	}
	if refused > 0 {
		return fmt.Errorf("%w: %d entries refused", ErrFull, refused)
	}
	return nil
}

// update is one BPF_MAP_UPDATE_BATCH; it stops at the first entry that is
// refused and returns how many were taken. The library's own allocates.
func (f *FlowMap) update(keys []classify.FlowKey, values []steerFlow) (done int, errno unix.Errno) {
	// The batch member of union bpf_attr, linux/bpf.h.
	attr := struct {
		inBatch, outBatch uint64
		keys, values      uint64
		count, mapFD      uint32
		elemFlags, flags  uint64
	}{
		keys:   uint64(uintptr(unsafe.Pointer(unsafe.SliceData(keys)))),
		values: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(values)))),
		count:  uint32(len(keys)),
		mapFD:  uint32(f.m.FD()),
	}
	_, _, errno = unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_UPDATE_BATCH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(keys)
	runtime.KeepAlive(values)
	runtime.KeepAlive(f)
	return int(attr.count), errno
}

// Delete removes entries; those that are not there are passed over.
func (f *FlowMap) Delete(keys []classify.FlowKey) error {
	for len(keys) > 0 {
		done, err := f.m.BatchDelete(keys[:min(len(keys), batch)], nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("flow map: %w", err)
		}
		if err != nil {
			done++ // the one that is not there
		}
		keys = keys[min(done, len(keys)):]
	}
	return nil
}

// Scan reads the next slice of the map into entries and returns how many, and
// whether the end was reached; the next call starts over. Entries that come or
// go meanwhile may be missed or seen twice.
func (f *FlowMap) Scan(entries []dataplane.FlowEntry) (n int, end bool, err error) {
	f.scan.Lock()
	defer f.scan.Unlock()
	for n < len(entries) {
		ok, err := f.scan.next(f.m)
		if err != nil || !ok {
			return n, err == nil, err
		}
		k, v := f.scan.entry()
		entries[n] = fromKernel(k, v)
		n++
	}
	return n, false, nil
}

// purge deletes the entries that name one of a zone's local endpoints.
func (f *FlowMap) purge(zone policy.Zone, ifindexes ...uint32) error {
	var s flowScan
	var keys []classify.FlowKey
	for {
		ok, err := s.next(f.m)
		if err != nil {
			return err
		}
		if !ok {
			return f.Delete(keys)
		}
		k, v := s.entry()
		if policy.Zone(k.Zone) != zone {
			continue
		}
		for _, i := range ifindexes {
			if v.Ifindex[0] == i || v.Ifindex[1] == i {
				keys = append(keys, *k)
				break
			}
		}
	}
}

// flowScan walks the map once, then again from its start.
type flowScan struct {
	cursor ebpf.MapBatchCursor
	keys   []classify.FlowKey
	values []steerFlow
	at, n  int
	last   bool // no batch follows the present one
}

// next moves to the next entry; false at the end.
func (s *flowScan) next(m *ebpf.Map) (bool, error) {
	s.at++
	for s.at >= s.n {
		if s.last {
			s.cursor, s.at, s.n, s.last = ebpf.MapBatchCursor{}, -1, 0, false
			return false, nil
		}
		if s.keys == nil {
			s.keys = make([]classify.FlowKey, batch)
			s.values = make([]steerFlow, batch)
		}
		n, err := m.BatchLookup(&s.cursor, s.keys, s.values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			s.cursor, s.at, s.n, s.last = ebpf.MapBatchCursor{}, -1, 0, false
			return false, fmt.Errorf("scan the flow map: %w", err)
		}
		s.at, s.n, s.last = 0, n, err != nil
	}
	return true, nil
}

func (s *flowScan) entry() (*classify.FlowKey, *steerFlow) { return &s.keys[s.at], &s.values[s.at] }

// The bits of struct flow's flags and closed, in steer.bpf.c.
const (
	flowInitiator = 1
	flowPeer      = 2
	flowAllow     = 4
	flowBare      = 8

	closedFIN = 1
	closedRST = 2
)

func toKernel(e *dataplane.FlowEntry) steerFlow {
	v := steerFlow{
		Epoch:   e.Epoch,
		Ifindex: e.Ifindex,
		Mac:     [2][6]uint8{e.MAC[0], e.MAC[1]},
		Reason:  uint8(e.Reason),
		App:     uint8(e.App),
		Sub:     uint8(e.Sub),
		Inner:   uint8(e.Inner),
		Alpn:    uint8(e.ALPN),
		Seen:    secondsToTicks(e.Seen),
		Packets: e.Packets,
		Bytes:   e.Bytes,
		Flags:   e.Initiator & flowInitiator,
	}
	switch e.Verdict {
	case policy.Allow:
		v.Flags |= flowAllow
	case policy.Undecided:
		v.Flags |= flowBare
	}
	if e.Peer {
		v.Flags |= flowPeer
	}
	if v.Reason == 0 {
		v.Reason = uint8(policy.ReasonDenied)
	}
	for side := range 2 {
		v.Closed[side] = e.Closed >> side & 1 * closedFIN
	}
	if e.Closed&4 != 0 {
		v.Closed[0] |= closedRST
	}
	return v
}

func fromKernel(k *classify.FlowKey, v *steerFlow) dataplane.FlowEntry {
	e := dataplane.FlowEntry{
		Key:       *k,
		Epoch:     v.Epoch,
		Ifindex:   v.Ifindex,
		MAC:       [2]policy.MAC{v.Mac[0], v.Mac[1]},
		Initiator: v.Flags & flowInitiator,
		Peer:      v.Flags&flowPeer != 0,
		App:       policy.App(v.App),
		Sub:       policy.App(v.Sub),
		Inner:     policy.App(v.Inner),
		ALPN:      policy.App(v.Alpn),
		Closed:    v.Closed[0]&closedFIN | v.Closed[1]&closedFIN<<1,
		Packets:   v.Packets,
		Bytes:     v.Bytes,
		Seen:      ticksToSeconds(v.Seen),
	}
	if (v.Closed[0]|v.Closed[1])&closedRST != 0 {
		e.Closed |= 4
	}
	switch {
	case v.Flags&flowAllow != 0:
		e.Verdict = policy.Allow
	case v.Flags&flowBare != 0:
		e.Verdict = policy.Undecided
	default:
		e.Reason = policy.Reason(v.Reason)
	}
	return e
}

// The programs count time in ticks of 2^30 ns, which take a shift where seconds
// take a division. Both conversions never make a flow look older than it is by
// more than a tick.
const tick = 1 << 30

func secondsToTicks(s uint32) uint32 { return uint32((uint64(s)*1e9 + tick - 1) / tick) }

func ticksToSeconds(t uint32) uint32 {
	return uint32(min(uint64(t)*tick/1e9, math.MaxUint32))
}

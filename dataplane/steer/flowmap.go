package steer

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

// FlowMap is the kernel's flow tables, one for each family, in memory that it
// shares with the programs: user space alone puts lines in and takes them out,
// the programs count in them. It implements dataplane.FlowMap and is safe for
// concurrent use. There can be one only on the same maps.
//
// A line that is taken out rests before it is used again, for longer than a
// program that found it can run.
type FlowMap struct {
	mu    sync.Mutex
	v4    family
	v6    family
	seed  [3]uint64
	limit int // flows of both families; of IPv6 half as many
	ends  interned

	resting queue[rested]
	now     func() time.Duration
	closed  bool

	cursor struct {
		sync.Mutex
		v6     bool
		bucket int
		place  int
	}
}

var _ dataplane.FlowMap = (*FlowMap)(nil)

var errFlowMapClosed = errors.New("the flow map is closed")

// ErrFull says that the flow map has no room.
var ErrFull = errors.New("the flow map is full")

const (
	flowUsed = 1 // FLOW_USED in steer.bpf.c
	// flowResting is the head of a line that rests: no key's.
	flowResting = 2
	restFor     = 100 * time.Millisecond

	lines     = 4 // of a bucket
	lineSize  = int(unsafe.Sizeof(steerFlow{}))
	line6Size = int(unsafe.Sizeof(steerFlow6{}))
)

// family is one of the tables: buckets of four lines.
type family struct {
	memory []byte
	size   int     // of a line: 64 or 128 bytes
	mask   uint32  // buckets - 1
	used   []uint8 // lines in use, by bucket
	live   int
}

// rested is a line that was taken out.
type rested struct {
	line *steerFlow
	at   time.Duration
}

// tableSizes is how many buckets the tables have for so many flows: twice as
// many lines as there may be flows, so that one of the two buckets of a key
// practically always has room.
func tableSizes(flows uint32) (v4, v6 uint32) {
	v4 = max(2, uint32(1)<<bits.Len32((2*flows-1)/lines))
	return v4, v4 / 2
}

// flowMaps are the maps behind a FlowMap.
type flowMaps struct{ flows, flows6, ends *ebpf.Map }

// openFlowMap maps the tables' memory, with what an earlier gateway left in
// them. limit is how many flows it takes.
func openFlowMap(m flowMaps, seed [3]uint64, limit int) (f *FlowMap, err error) {
	f = &FlowMap{seed: seed, limit: limit, now: monotonicNow}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("flow map: %w", err), f.close())
		}
	}()
	if err := f.v4.open(m.flows, lineSize); err != nil {
		return f, err
	}
	if err := f.v6.open(m.flows6, line6Size); err != nil {
		return f, err
	}
	if err := f.ends.open(m.ends); err != nil {
		return f, err
	}
	f.recall()
	return f, nil
}

func mapMemory(m *ebpf.Map) ([]byte, error) {
	size := int(m.MaxEntries()) * int((m.ValueSize()+7)&^7)
	page := os.Getpagesize()
	memory, err := unix.Mmap(m.FD(), 0, (size+page-1)&^(page-1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the memory of %s: %w", m, err)
	}
	return memory, nil
}

func (t *family) open(m *ebpf.Map, size int) (err error) {
	t.size, t.mask = size, m.MaxEntries()-1
	t.used = make([]uint8, m.MaxEntries())
	t.memory, err = mapMemory(m)
	return err
}

// close unmaps the tables; what is called afterwards fails.
func (f *FlowMap) close() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	var errs []error
	for _, memory := range []*[]byte{&f.v4.memory, &f.v6.memory, &f.ends.memory} {
		if *memory != nil {
			errs = append(errs, unix.Munmap(*memory))
			*memory = nil
		}
	}
	return errors.Join(errs...)
}

// recall takes stock of what an earlier gateway left. Lines that it left resting
// have rested.
func (f *FlowMap) recall() {
	for _, t := range []*family{&f.v4, &f.v6} {
		for b := range t.used {
			for place := range lines {
				l := t.line(uint32(b), uint32(place))
				switch l.Head & 0xff {
				case flowUsed:
					t.used[b]++
					t.live++
					f.ends.recall(l.Ends)
				case flowResting:
					atomic.StoreUint32(&l.Head, 0)
				}
			}
		}
	}
	f.ends.recalled()
}

func (t *family) line(bucket, place uint32) *steerFlow {
	return (*steerFlow)(unsafe.Pointer(&t.memory[(int(bucket)*lines+int(place))*t.size]))
}

// wide is the line as IPv6 has it.
func wide(l *steerFlow) *steerFlow6 { return (*steerFlow6)(unsafe.Pointer(l)) }

// place says where a key may be: two buckets, and what is looked at first in both.
type place struct{ bucket, other, first uint32 }

// keyWords is a key as the programs hold it.
type keyWords struct {
	head, ports uint32
	a4, b4      uint32
	a, b        [4]uint32
	v6          bool
}

func wordsOf(k *classify.FlowKey) (w keyWords) {
	w.head = flowUsed | uint32(k.Proto)<<8 | uint32(k.Zone)<<16
	w.ports = uint32(k.PortA) | uint32(k.PortB)<<16
	w.a, w.b = *(*[4]uint32)(unsafe.Pointer(&k.AddrA)), *(*[4]uint32)(unsafe.Pointer(&k.AddrB))
	if w.v6 = [12]byte(k.AddrA[:12]) != mappedPrefix; !w.v6 {
		w.a4, w.b4 = w.a[3], w.b[3]
		w.a, w.b = [4]uint32{}, [4]uint32{}
	}
	return w
}

var mappedPrefix = [12]byte{10: 0xff, 11: 0xff}

func keyOf(l *steerFlow, v6 bool) (k classify.FlowKey) {
	k.Proto, k.Zone = policy.Proto(l.Head>>8), uint16(l.Head>>16)
	k.PortA, k.PortB = uint16(l.Ports), uint16(l.Ports>>16)
	a, b := (*[4]uint32)(unsafe.Pointer(&k.AddrA)), (*[4]uint32)(unsafe.Pointer(&k.AddrB))
	if v6 {
		*a, *b = wide(l).A, wide(l).B
		return k
	}
	copy(k.AddrA[:], mappedPrefix[:])
	copy(k.AddrB[:], mappedPrefix[:])
	a[3], b[3] = l.A4, l.B4
	return k
}

// is reports whether the line in use is that key's.
func (w *keyWords) is(l *steerFlow) bool {
	if l.Head != w.head || l.Ports != w.ports || l.A4 != w.a4 || l.B4 != w.b4 {
		return false
	}
	return !w.v6 || wide(l).A == w.a && wide(l).B == w.b
}

func mix(h, word, seed uint64) uint64 {
	h = (h ^ word) * seed
	return h ^ h>>32
}

func pack(lo, hi uint32) uint64 { return uint64(lo) | uint64(hi)<<32 }

// hash is find4's and find6's in steer.bpf.c.
func (f *FlowMap) hash(w *keyWords) uint64 {
	s := &f.seed
	h := s[0]
	if w.v6 {
		h = mix(h, pack(w.a[0], w.a[1]), s[1])
		h = mix(h, pack(w.a[2], w.a[3]), s[2])
		h = mix(h, pack(w.b[0], w.b[1]), s[1])
		h = mix(h, pack(w.b[2], w.b[3]), s[2])
	} else {
		h = mix(h, pack(w.a4, w.b4), s[1])
	}
	return mix(h, pack(w.head, w.ports), s[2]) * s[1]
}

func (t *family) place(h uint64) place {
	return place{uint32(h) & t.mask, uint32(h^(h>>24|1)) & t.mask, uint32(h >> 62)}
}

func (f *FlowMap) family(w *keyWords) *family {
	if w.v6 {
		return &f.v6
	}
	return &f.v4
}

// find returns the line of a key, nil if there is none.
func (f *FlowMap) find(w *keyWords) (l *steerFlow, bucket uint32) {
	t := f.family(w)
	p := t.place(f.hash(w))
	for _, b := range [2]uint32{p.bucket, p.other} {
		for i, left := uint32(0), t.used[b]; i < lines && left > 0; i++ {
			l := t.line(b, p.first^i)
			if w.is(l) {
				return l, b
			}
			if l.Head&0xff == flowUsed {
				left--
			}
		}
	}
	return nil, 0
}

// room returns a free line for a key that is not there, nil if there is none.
// The first bucket is left for the other where it is nearly full.
func (f *FlowMap) room(w *keyWords) (l *steerFlow, bucket uint32) {
	t := f.family(w)
	if f.v4.live+f.v6.live >= f.limit || w.v6 && f.v6.live >= f.limit/2 {
		return nil, 0
	}
	p := t.place(f.hash(w))
	buckets := [2]uint32{p.bucket, p.other}
	if t.used[p.bucket] >= lines-1 && t.used[p.other] < t.used[p.bucket] {
		buckets = [2]uint32{p.other, p.bucket}
	}
	for _, b := range buckets {
		for i := range uint32(lines) {
			if l := t.line(b, p.first^i); l.Head == 0 {
				return l, b
			}
		}
	}
	return nil, 0
}

// Put inserts entries, or replaces them: their counters become what the entry
// says, or go on where the flow was undecided, and the proof of delivery that
// redirect_peer needs starts anew, except where a flow that stays is there as it is.
// Where there is no room the error wraps ErrFull and says how many were refused. It
// allocates only that error.
func (f *FlowMap) Put(entries []dataplane.FlowEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFlowMapClosed
	}
	now := f.now() // a system call: once for all
	f.wake(now)
	refused := 0
	for i := range entries {
		if !f.put(&entries[i], now) {
			refused++
		}
	}
	if refused > 0 {
		return fmt.Errorf("%w: %d entries refused", ErrFull, refused)
	}
	return nil
}

func (f *FlowMap) put(e *dataplane.FlowEntry, now time.Duration) bool {
	w := wordsOf(&e.Key)
	ends, ok := f.ends.take(e, now)
	if !ok {
		return false
	}
	l, b := f.find(&w)
	t := f.family(&w)
	if l != nil && e.Stays && proves(l, e, ends) {
		f.ends.release(ends[:], now)
		l.Seen = secondsToTicks(e.Seen)
		return true
	}
	var counted steerFlow
	if l != nil {
		suspend(l)
		if l.Flags&flowBare != 0 {
			counted.Packets, counted.Bytes = l.Packets, l.Bytes
		}
		if l.Flags&flowOpening != 0 || e.Opening {
			// A program may be about to note an answer where others have their proof
			// of delivery, or the other way round.
			f.takeOut(t, l, b, now)
			l = nil
		} else {
			f.ends.release(l.Ends[:], now)
		}
	}
	if l == nil {
		if l, b = f.room(&w); l == nil {
			f.ends.release(ends[:], now)
			return false
		}
		t.used[b]++
		t.live++
		l.Epoch, l.Ports, l.A4, l.B4 = 0, w.ports, w.a4, w.b4
		if w.v6 {
			wide(l).A, wide(l).B = w.a, w.b
		}
	}
	setLine(l, e, ends)
	for i := range 2 {
		l.Packets[i] += counted.Packets[i]
		l.Bytes[i] += counted.Bytes[i]
	}
	atomic.StoreUint32(&l.Epoch, e.Epoch)
	atomic.StoreUint32(&l.Head, w.head)
	return true
}

// proves reports whether the line is that of the same flow that stays, so that its
// proof of delivery may go on.
func proves(l *steerFlow, e *dataplane.FlowEntry, ends [2]uint16) bool {
	return l.Epoch == e.Epoch && l.Ends == ends && l.Flags == flagsOf(e)
}

// suspend takes a line out of force, so that it can be written anew. Struct flow in
// steer.bpf.c says why that needs a load: a release alone lets later stores pass it.
func suspend(l *steerFlow) {
	atomic.StoreUint32(&l.Epoch, 0)
	atomic.LoadUint32(&l.Epoch)
}

// Delete removes entries; those that are not there are passed over.
func (f *FlowMap) Delete(keys []classify.FlowKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFlowMapClosed
	}
	now := f.now()
	f.wake(now)
	for i := range keys {
		w := wordsOf(&keys[i])
		if l, b := f.find(&w); l != nil {
			f.takeOut(f.family(&w), l, b, now)
		}
	}
	return nil
}

func (f *FlowMap) takeOut(t *family, l *steerFlow, bucket uint32, now time.Duration) {
	atomic.StoreUint32(&l.Head, flowResting)
	t.used[bucket]--
	t.live--
	f.ends.release(l.Ends[:], now)
	f.resting.push(rested{l, now})
}

// wake makes lines free that have rested.
func (f *FlowMap) wake(now time.Duration) {
	for f.resting.len() > 0 && now-f.resting.front().at >= restFor {
		atomic.StoreUint32(&f.resting.pop().line.Head, 0)
	}
	f.ends.wake(now)
}

// Scan reads the next part of the map into entries and returns how many, and
// whether the end was reached; the next call starts over. Entries that come or
// go meanwhile may be missed.
func (f *FlowMap) Scan(entries []dataplane.FlowEntry) (n int, end bool, err error) {
	f.cursor.Lock()
	defer f.cursor.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, false, errFlowMapClosed
	}
	c := &f.cursor
	for {
		t := &f.v4
		if c.v6 {
			t = &f.v6
		}
		for ; c.bucket < len(t.used); c.bucket, c.place = c.bucket+1, 0 {
			for ; t.used[c.bucket] > 0 && c.place < lines; c.place++ {
				if n == len(entries) {
					return n, false, nil
				}
				if l := t.line(uint32(c.bucket), uint32(c.place)); l.Head&0xff == flowUsed {
					entries[n] = f.entry(l, c.v6)
					entries[n].Line = uint32(c.bucket*lines + c.place)
					if c.v6 {
						entries[n].Line += uint32(len(f.v4.used) * lines)
					}
					n++
				}
			}
		}
		c.bucket, c.place = 0, 0
		if c.v6 = !c.v6; !c.v6 {
			return n, true, nil
		}
	}
}

// Has implements dataplane.FlowMap.
func (f *FlowMap) Has(key *classify.FlowKey) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	w := wordsOf(key)
	l, _ := f.find(&w)
	return l != nil && l.Flags&flowStays == 0
}

// Answer implements dataplane.FlowMap.
func (f *FlowMap) Answer(key *classify.FlowKey) (seq uint32, length int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, 0, false
	}
	w := wordsOf(key)
	l, _ := f.find(&w)
	if l == nil || l.Flags&flowOpening == 0 {
		return 0, 0, false
	}
	noted := atomic.LoadUint32(answerOf(l))
	return bits.ReverseBytes32(noted), int(l.Reason), noted != 0
}

// awaitedOf and answerOf are AWAITED and ANSWER in steer.bpf.c, in network order.
func awaitedOf(l *steerFlow) *uint32 { return (*uint32)(unsafe.Pointer(&l.App)) }
func answerOf(l *steerFlow) *uint32  { return (*uint32)(unsafe.Pointer(&l.Via)) }

// purge deletes the entries that name one of a zone's local endpoints.
func (f *FlowMap) purge(zone policy.Zone, ifindexes ...uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFlowMapClosed
	}
	now := f.now()
	for _, t := range []*family{&f.v4, &f.v6} {
		for b, used := range t.used {
			for place := uint32(0); used > 0 && place < lines; place++ {
				l := t.line(uint32(b), place)
				if l.Head&0xff == flowUsed && policy.Zone(l.Head>>16) == zone && f.ends.names(l.Ends, ifindexes) {
					f.takeOut(t, l, uint32(b), now)
				}
			}
		}
	}
	return nil
}

// The bits of struct flow's flags and closed, in steer.bpf.c.
const (
	flowInitiator = 1
	flowPeer      = 2
	flowAllow     = 4
	flowBare      = 8
	flowOpening   = 16
	flowStays     = 32
	flowOld       = 64

	closedFIN = 1
	closedRST = 2
)

// setLine writes all of a line but its key and its epoch.
func setLine(l *steerFlow, e *dataplane.FlowEntry, ends [2]uint16) {
	l.Ends, l.Via = ends, [2]uint16{}
	l.Reason = uint8(e.Reason)
	l.App, l.Sub, l.Inner, l.Alpn = uint8(e.App), uint8(e.Sub), uint8(e.Inner), uint8(e.ALPN)
	l.Seen, l.Packets, l.Bytes = secondsToTicks(e.Seen), e.Packets, e.Bytes
	l.Flags = flagsOf(e)
	if l.Flags&flowOpening != 0 {
		*awaitedOf(l) = bits.ReverseBytes32(e.Awaited)
	}
	if l.Reason == 0 {
		l.Reason = uint8(policy.ReasonDenied)
	}
	for side := range 2 {
		l.Closed[side] = e.Closed >> side & 1 * closedFIN
	}
	if e.Closed&4 != 0 {
		l.Closed[0] |= closedRST
	}
}

func flagsOf(e *dataplane.FlowEntry) uint8 {
	flags := e.Initiator & flowInitiator
	switch e.Verdict {
	case policy.Allow:
		flags |= flowAllow
		if e.Stays {
			flags |= flowStays
		}
		if e.Old {
			flags |= flowOld
		}
	case policy.Undecided:
		flags |= flowBare
		if e.Opening {
			flags |= flowOpening
		}
	}
	if e.Peer {
		flags |= flowPeer
	}
	return flags
}

func (f *FlowMap) entry(l *steerFlow, v6 bool) dataplane.FlowEntry {
	e := dataplane.FlowEntry{
		Key:       keyOf(l, v6),
		Epoch:     l.Epoch,
		Initiator: l.Flags & flowInitiator,
		Peer:      l.Flags&flowPeer != 0,
		Stays:     l.Flags&flowStays != 0,
		Old:       l.Flags&flowOld != 0,
		Closed:    l.Closed[0]&closedFIN | l.Closed[1]&closedFIN<<1,
		Packets:   l.Packets,
		Bytes:     l.Bytes,
		Seen:      ticksToSeconds(l.Seen),
	}
	for side, n := range l.Ends {
		end := f.ends.at(n)
		e.Ifindex[side], e.MAC[side] = end.Ifindex, policy.MAC(end.Mac)
	}
	if (l.Closed[0]|l.Closed[1])&closedRST != 0 {
		e.Closed |= 4
	}
	if l.Flags&flowOpening != 0 {
		e.Opening, e.Awaited = true, bits.ReverseBytes32(*awaitedOf(l))
	} else {
		e.App, e.Sub, e.Inner, e.ALPN = policy.App(l.App), policy.App(l.Sub), policy.App(l.Inner), policy.App(l.Alpn)
	}
	switch {
	case l.Flags&flowAllow != 0:
		e.Verdict = policy.Allow
	case l.Flags&flowBare != 0:
		e.Verdict = policy.Undecided
	default:
		e.Reason = policy.Reason(l.Reason)
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

func monotonicNow() time.Duration { return time.Duration(monotonic()) }

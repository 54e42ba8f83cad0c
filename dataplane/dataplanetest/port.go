// Package dataplanetest has a Port and a FlowMap in memory, for tests of what
// sits above them.
package dataplanetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"gatehouse/classify"
	"gatehouse/dataplane"
)

const (
	frameSize = 2048
	tagged    = 18
)

// Sent is a frame that a Port transmitted, without the steering tag.
type Sent struct {
	Slot uint16
	Dir  dataplane.Direction
	Data []byte
	Line bool // as the Frame had it
}

// Port is a dataplane.Port whose wire is memory. Safe for concurrent use.
type Port struct {
	// Order, if set, gets a word for each step: "recv", "flush".
	Order *Order
	// Discard drops what is sent instead of keeping it, so that nothing is
	// allocated.
	Discard bool

	mu      sync.Mutex
	fd      int
	area    []byte
	free    []uint64
	held    int
	waiting []dataplane.Frame
	queued  []dataplane.Frame
	sent    []Sent
	fail    error
	closed  bool
	stats   dataplane.PortStats
}

// NewPort makes a port of n frames.
func NewPort(n int) (*Port, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p := &Port{fd: fd, area: make([]byte, n*frameSize)}
	for i := range n {
		p.free = append(p.free, uint64(i*frameSize))
	}
	p.waiting = make([]dataplane.Frame, 0, n)
	p.queued = make([]dataplane.Frame, 0, n)
	return p, nil
}

// Steer has the untagged Ethernet frame arrive from an endpoint's hook. It
// reports whether there was a frame free; else it counts as NoFrame.
func (p *Port) Steer(slot uint16, dir dataplane.Direction, frame []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		p.stats.NoFrame++
		return false
	}
	ref := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	data := p.area[ref : ref+uint64(len(frame))+4 : ref+uint64(len(frame))+4]
	copy(data, frame[:12])
	tag(data, slot, dir)
	copy(data[16:], frame[12:])
	p.waiting = append(p.waiting, dataplane.Frame{Data: data, L3: tagged, Slot: slot, Dir: dir, Ref: ref})
	p.signal()
	return true
}

func tag(data []byte, slot uint16, dir dataplane.Direction) {
	binary.BigEndian.PutUint16(data[12:], unix.ETH_P_8021Q)
	binary.BigEndian.PutUint16(data[14:], slot<<1|uint16(dir))
}

func (p *Port) signal() {
	one := [8]byte{1}
	_, _ = unix.Write(p.fd, one[:])
}

// Fail makes every Flush from now on return err.
func (p *Port) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
	p.signal()
}

// Take returns what was transmitted since the last time.
func (p *Port) Take() []Sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sent
	p.sent = nil
	return s
}

// Balance returns how many frames the port has, and how many of them nobody
// gave back.
func (p *Port) Balance() (total, held int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free) + len(p.waiting) + len(p.queued) + p.held, p.held
}

// Closed reports whether the port was closed.
func (p *Port) Closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Recv implements dataplane.Port.
func (p *Port) Recv(frames []dataplane.Frame) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := copy(frames, p.waiting)
	p.waiting = slices.Delete(p.waiting, 0, n)
	p.held += n
	p.stats.Received += uint64(n)
	if len(p.waiting) == 0 {
		var b [8]byte
		_, _ = unix.Read(p.fd, b[:])
	}
	if n > 0 {
		p.Order.add("recv")
	}
	return n
}

// Send implements dataplane.Port.
func (p *Port) Send(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queued = append(p.queued, frames...)
	p.held -= len(frames)
}

// Alloc implements dataplane.Port.
func (p *Port) Alloc() (dataplane.Frame, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		return dataplane.Frame{}, false
	}
	ref := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.held++
	data := p.area[ref : ref+frameSize : ref+frameSize]
	tag(data, 0, 0)
	return dataplane.Frame{Data: data, L3: tagged, Ref: ref}, true
}

// Release implements dataplane.Port.
func (p *Port) Release(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range frames {
		p.free = append(p.free, f.Ref)
	}
	p.held -= len(frames)
}

// Flush implements dataplane.Port.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.queued {
		f := &p.queued[i]
		if !p.Discard {
			p.sent = append(p.sent, Sent{f.Slot, f.Dir, append(bytes.Clone(f.Data[:12]), f.Data[16:]...), f.Line})
		}
		p.free = append(p.free, f.Ref)
	}
	p.stats.Sent += uint64(len(p.queued))
	p.queued = p.queued[:0]
	p.Order.add("flush")
	return p.fail
}

// Pending implements dataplane.Port.
func (p *Port) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queued)
}

// Stats implements dataplane.Port.
func (p *Port) Stats() dataplane.PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// FD implements dataplane.Port.
func (p *Port) FD() int { return p.fd }

// Close implements dataplane.Port.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	return unix.Close(p.fd)
}

// Order is a log of steps that several fakes share.
type Order struct {
	mu    sync.Mutex
	steps []string
}

func (o *Order) add(step string) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.steps = append(o.steps, step)
}

// Steps returns the log.
func (o *Order) Steps() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.steps)
}

// FlowMap is a dataplane.FlowMap in memory. Safe for concurrent use.
type FlowMap struct {
	// Order, if set, gets "put" for each Put.
	Order *Order
	// Max is how many entries fit; 0 = any number.
	Max int

	mu      sync.Mutex
	entries map[classify.FlowKey]dataplane.FlowEntry
	lines   map[classify.FlowKey]uint32
	answers map[classify.FlowKey]answer
	keys    []classify.FlowKey // of the scan that is under way
	at      int
}

// Put implements dataplane.FlowMap.
func (m *FlowMap) Put(entries []dataplane.FlowEntry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = make(map[classify.FlowKey]dataplane.FlowEntry)
		m.lines = make(map[classify.FlowKey]uint32)
	}
	m.Order.add("put")
	refused := 0
	for _, e := range entries {
		if _, ok := m.entries[e.Key]; !ok && m.Max > 0 && len(m.entries) >= m.Max {
			refused++
			continue
		}
		m.entries[e.Key] = e
		delete(m.answers, e.Key)
		if _, ok := m.lines[e.Key]; !ok {
			m.lines[e.Key] = uint32(len(m.lines))
		}
	}
	if refused > 0 {
		return fmt.Errorf("flow map full: %d entries refused", refused)
	}
	return nil
}

// Delete implements dataplane.FlowMap.
func (m *FlowMap) Delete(keys []classify.FlowKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range keys {
		delete(m.entries, k)
		delete(m.answers, k)
	}
	return nil
}

// Scan implements dataplane.FlowMap.
func (m *FlowMap) Scan(entries []dataplane.FlowEntry) (n int, end bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at == 0 {
		m.keys = m.keys[:0]
		for k := range m.entries {
			m.keys = append(m.keys, k)
		}
	}
	for n < len(entries) && m.at < len(m.keys) {
		if e, ok := m.entries[m.keys[m.at]]; ok {
			entries[n] = e
			entries[n].Line = m.lines[e.Key]
			n++
		}
		m.at++
	}
	if m.at == len(m.keys) {
		m.at = 0
		return n, true, nil
	}
	return n, false, nil
}

// Has implements dataplane.FlowMap.
func (m *FlowMap) Has(k *classify.FlowKey) bool {
	_, ok := m.Get(*k)
	return ok
}

// Answer implements dataplane.FlowMap.
func (m *FlowMap) Answer(k *classify.FlowKey) (seq uint32, length int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.answers[*k]
	return a.seq, a.length, ok && m.entries[*k].Opening
}

// NoteAnswer is what the kernel does when the SYN-ACK of an Opening entry passes.
func (m *FlowMap) NoteAnswer(k classify.FlowKey, seq uint32, length int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers == nil {
		m.answers = make(map[classify.FlowKey]answer)
	}
	m.answers[k] = answer{seq, length}
}

type answer struct {
	seq    uint32
	length int
}

// Get returns one entry.
func (m *FlowMap) Get(k classify.FlowKey) (dataplane.FlowEntry, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[k]
	return e, ok
}

// Update changes one entry in place, as the kernel does when packets pass.
func (m *FlowMap) Update(k classify.FlowKey, f func(*dataplane.FlowEntry)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[k]; ok {
		f(&e)
		m.entries[k] = e
	}
}

// Len is how many entries there are.
func (m *FlowMap) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.entries)
}

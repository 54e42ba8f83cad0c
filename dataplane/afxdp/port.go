package afxdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
)

const (
	taggedHeader = 18 // Ethernet header with one 802.1Q tag
	// reserve is how many frames never go to the fill ring, so that a flood
	// cannot leave none for a reject.
	reserve = 64
	// flushTries bounds the calls of one Flush; what the kernel has not taken
	// then stays in the ring for the next.
	flushTries = 16
)

// Port is one AF_XDP socket on one queue of a slow-path device. It implements
// dataplane.Port.
//
// A frame is at any time in exactly one place: the free list, the fill ring or
// the receive ring (the kernel's), held by the caller, or in flight (transmit
// ring until completed).
type Port struct {
	mu        sync.Mutex
	fd        int
	closed    bool
	area      []byte
	frameSize uint64
	frames    int

	fill, completion ring[uint64]
	rx, tx           ring[unix.XDPDesc]

	free     []uint64 // chunk addresses
	filled   int      // in the fill ring or received and not read
	held     int      // borrowed by the caller
	inFlight int      // queued or with the kernel, not completed
	queued   uint32   // written to the transmit ring, not yet produced

	stats dataplane.PortStats
}

var _ dataplane.Port = (*Port)(nil)

// Recv implements dataplane.Port.
func (p *Port) Recv(frames []dataplane.Frame) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0
	}
	p.reap()
	n := min(p.rx.waiting(), uint32(len(frames)))
	got := 0
	for i := range n {
		d := *p.rx.at(i)
		p.filled--
		f, ok := p.frame(d)
		if !ok {
			p.stats.Malformed++
			p.free = append(p.free, d.Addr&^(p.frameSize-1))
			continue
		}
		frames[got] = f
		got++
	}
	if n > 0 {
		p.rx.consume(n)
	}
	p.held += got
	p.stats.Received += uint64(got)
	p.refill()
	return got
}

// frame reads the steering tag. A frame without one did not come from the
// steering programs and has nowhere to go back to.
func (p *Port) frame(d unix.XDPDesc) (dataplane.Frame, bool) {
	end := d.Addr + uint64(d.Len)
	if d.Len < taggedHeader || end > uint64(len(p.area)) {
		return dataplane.Frame{}, false
	}
	data := p.area[d.Addr:end:end]
	if binary.BigEndian.Uint16(data[12:]) != unix.ETH_P_8021Q {
		return dataplane.Frame{}, false
	}
	tci := binary.BigEndian.Uint16(data[14:])
	return dataplane.Frame{
		Data: data,
		L3:   taggedHeader,
		Slot: tci >> 1,
		Dir:  dataplane.Direction(tci & 1),
		Ref:  d.Addr,
	}, true
}

// Send implements dataplane.Port. Slot and Dir are written back into the tag.
func (p *Port) Send(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for i := range frames {
		f := &frames[i]
		binary.BigEndian.PutUint16(f.Data[14:], f.Slot<<1|uint16(f.Dir))
		// The transmit ring has room for every frame there is.
		*p.tx.at(p.queued) = unix.XDPDesc{Addr: f.Ref, Len: uint32(len(f.Data))}
		p.queued++
	}
	p.held -= len(frames)
	p.inFlight += len(frames)
	p.stats.Sent += uint64(len(frames))
}

// Alloc implements dataplane.Port. The frame carries an empty steering tag; the
// caller shortens Data, and sets Slot and Dir.
func (p *Port) Alloc() (dataplane.Frame, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.Frame{}, false
	}
	p.reap()
	if len(p.free) == 0 {
		return dataplane.Frame{}, false
	}
	chunk := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.held++
	start, end := chunk+unix.XDP_PACKET_HEADROOM, chunk+p.frameSize
	data := p.area[start:end:end]
	binary.BigEndian.PutUint16(data[12:], unix.ETH_P_8021Q)
	return dataplane.Frame{Data: data, L3: taggedHeader, Ref: start}, true
}

// Release implements dataplane.Port.
func (p *Port) Release(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range frames {
		p.free = append(p.free, frames[i].Ref&^(p.frameSize-1))
	}
	p.held -= len(frames)
}

// Flush implements dataplane.Port.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if p.queued > 0 {
		p.tx.produce(p.queued)
		p.queued = 0
	}
	if p.inFlight == 0 {
		return p.gone()
	}
	for range flushTries {
		p.reap()
		if p.tx.unread() == 0 {
			return nil
		}
		if err := p.kick(); err != nil {
			return fmt.Errorf("transmit: %w", err)
		}
	}
	return nil
}

// gone asks an idle socket whether its device was removed: the kernel leaves
// ENETDOWN in it then.
func (p *Port) gone() error {
	errno, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || errno == 0 {
		return err
	}
	return fmt.Errorf("device: %w", unix.Errno(errno))
}

// kick asks the kernel to transmit what is in the ring. In copy mode that
// happens inside the call. The errors that pass (the budget is used up, or
// buffers are) leave the rest in the ring.
func (p *Port) kick() error {
	p.stats.Kicks++
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(p.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0, unix.EINTR:
		return nil
	case unix.EAGAIN, unix.EBUSY, unix.ENOBUFS:
		p.stats.Again++
		return nil
	}
	return errno
}

// Pending implements dataplane.Port.
func (p *Port) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0
	}
	return int(p.queued + p.tx.unread())
}

// reap takes back the frames that the kernel has transmitted.
func (p *Port) reap() { p.free = p.reapInto(p.free) }

func (p *Port) reapInto(free []uint64) []uint64 {
	n := p.completion.waiting()
	for i := range n {
		free = append(free, *p.completion.at(i)&^(p.frameSize-1))
	}
	if n > 0 {
		p.completion.consume(n)
		p.inFlight -= int(n)
	}
	return free
}

// refill gives the kernel frames to receive into.
func (p *Port) refill() { p.free = p.refillFrom(p.free, len(p.free)) }

// refillFrom gives the kernel at most so many of the frames in free and returns
// the rest.
func (p *Port) refillFrom(free []uint64, most int) []uint64 {
	n := min(int(p.fill.room()), most, len(free)-reserve)
	if n <= 0 {
		return free
	}
	for i := range n {
		*p.fill.at(uint32(i)) = free[len(free)-1-i]
	}
	p.filled += n
	p.fill.produce(uint32(n))
	return free[:len(free)-n]
}

// FD implements dataplane.Port.
func (p *Port) FD() int { return p.fd }

// Stats implements dataplane.Port. After Close they are the last ones.
func (p *Port) Stats() dataplane.PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readKernelStats()
	return p.stats
}

func (p *Port) readKernelStats() {
	if p.closed {
		return
	}
	var s unix.XDPStatistics
	if getsockopt(p.fd, unix.XDP_STATISTICS, unsafe.Pointer(&s), unsafe.Sizeof(s)) != nil {
		return
	}
	p.stats.NoFrame = s.Rx_fill_ring_empty_descs
	p.stats.RingFull = s.Rx_ring_full
	// In copy mode a frame that finds no room counts as dropped too.
	p.stats.Invalid = s.Rx_dropped - min(s.Rx_dropped, s.Rx_fill_ring_empty_descs) + s.Rx_invalid_descs + s.Tx_invalid_descs
}

// Close implements dataplane.Port. The XDP program stays and drops what comes;
// frames still borrowed stay readable and go nowhere.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.readKernelStats()
	p.closed = true
	return errors.Join(p.fill.unmap(), p.completion.unmap(), p.rx.unmap(), p.tx.unmap(), unix.Close(p.fd))
}

package afxdp

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
)

const (
	// reserve is how many frames never go to a fill ring, so that a flood
	// cannot leave none for a reject.
	reserve = 64
	// flushTries bounds the calls of one flush; what the kernel has not taken
	// then stays in the ring for the next.
	flushTries = 16
)

// queue is the socket of one queue of an interface: four rings over a umem that
// it may share with others. Who owns it serialises the calls.
//
// A frame is at any time in exactly one place: the umem's free list, a fill ring
// or receive ring (the kernel's), held by the caller, or in flight (transmit
// ring until completed).
type queue struct {
	*umem
	fd int

	fill, completion ring[uint64]
	rx, tx           ring[unix.XDPDesc]

	filled   int    // in the fill ring or received and not read
	inFlight int    // queued or with the kernel, not completed
	queued   uint32 // written to the transmit ring, not yet produced

	kicks, again uint64
}

// recv reads frames with a header of at least so many bytes, and counts those
// that have none or lie outside.
func (q *queue) recv(frames []dataplane.Frame, header int) (got int, malformed uint64) {
	n := min(q.rx.waiting(), uint32(len(frames)))
	for i := range n {
		d := *q.rx.at(i)
		end := d.Addr + uint64(d.Len)
		if d.Len < uint32(header) || end > uint64(len(q.area)) {
			malformed++
			q.put(d.Addr)
			continue
		}
		frames[got] = dataplane.Frame{Data: q.area[d.Addr:end:end], L3: header, Ref: d.Addr}
		got++
	}
	if n > 0 {
		q.rx.consume(n)
		q.filled -= int(n)
	}
	return got, malformed
}

// send queues one frame. The transmit ring has room for every frame there is.
func (q *queue) send(address uint64, length int) {
	*q.tx.at(q.queued) = unix.XDPDesc{Addr: address, Len: uint32(length)}
	q.queued++
	q.inFlight++
}

// flush transmits what was sent.
func (q *queue) flush() error {
	if q.queued > 0 {
		q.tx.produce(q.queued)
		q.queued = 0
	}
	if q.inFlight == 0 {
		return q.gone()
	}
	for range flushTries {
		q.reap()
		if q.tx.unread() == 0 {
			return nil
		}
		if err := q.kick(); err != nil {
			return fmt.Errorf("transmit: %w", err)
		}
	}
	return nil
}

// pending is how many frames the kernel has not taken yet.
func (q *queue) pending() int { return int(q.queued + q.tx.unread()) }

// gone asks an idle socket whether its device was removed: the kernel leaves
// ENETDOWN in it then.
func (q *queue) gone() error {
	errno, err := unix.GetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || errno == 0 {
		return err
	}
	return fmt.Errorf("device: %w", unix.Errno(errno))
}

// kick asks the kernel to transmit what is in the ring. In copy mode that
// happens inside the call. The errors that pass (the budget is used up, or
// buffers are) leave the rest in the ring.
func (q *queue) kick() error {
	q.kicks++
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(q.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0, unix.EINTR:
		return nil
	case unix.EAGAIN, unix.EBUSY, unix.ENOBUFS:
		q.again++
		return nil
	}
	return errno
}

// reap takes back the frames that the kernel has transmitted.
func (q *queue) reap() {
	n := q.completion.waiting()
	for i := range n {
		q.put(*q.completion.at(i))
	}
	if n > 0 {
		q.completion.consume(n)
		q.inFlight -= int(n)
	}
}

// refill gives the kernel at most so many free frames to receive into.
func (q *queue) refill(most int) {
	n := min(int(q.fill.room()), most, len(q.free)-reserve)
	if n <= 0 {
		return
	}
	for i := range n {
		*q.fill.at(uint32(i)) = q.free[len(q.free)-1-i]
	}
	q.free = q.free[:len(q.free)-n]
	q.filled += n
	q.fill.produce(uint32(n))
}

// addTo adds what the socket and the kernel have counted.
func (q *queue) addTo(stats *dataplane.PortStats) {
	stats.Kicks += q.kicks
	stats.Again += q.again
	var s unix.XDPStatistics
	if getsockopt(q.fd, unix.XDP_STATISTICS, unsafe.Pointer(&s), unsafe.Sizeof(s)) != nil {
		return
	}
	stats.NoFrame += s.Rx_fill_ring_empty_descs
	stats.RingFull += s.Rx_ring_full
	// In copy mode a frame that finds no room counts as dropped too.
	stats.Invalid += s.Rx_dropped - min(s.Rx_dropped, s.Rx_fill_ring_empty_descs) + s.Rx_invalid_descs + s.Tx_invalid_descs
}

// close ends the socket; what is borrowed stays readable. A second call does
// nothing.
func (q *queue) close() error {
	if q.fd < 0 {
		return nil
	}
	fd := q.fd
	q.fd = -1
	return errors.Join(q.fill.unmap(), q.completion.unmap(), q.rx.unmap(), q.tx.unmap(), unix.Close(fd))
}

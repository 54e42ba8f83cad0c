package afxdp

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
)

// Pair is a bump in the wire: sockets on all queues of two interfaces, over one
// UMEM, so that what was received on one leaves by the other uncopied. It
// implements dataplane.Port; Slot 0 and 1 are the interfaces in the order of
// PairConfig, and Send's frames leave by the other one, or where Dir is
// ToEndpoint by that one itself.
//
// All queues belong to one worker: network cards spread the two directions of a
// conversation over different queues.
type Pair struct {
	netns string
	legs  [2]leg

	mu     sync.Mutex
	closed bool
	epoll  int
	listen int // the packet socket that holds both interfaces in promiscuous mode

	area      []byte
	frameSize uint64
	frames    int
	free      []uint64 // chunk addresses
	held      int      // borrowed by the caller
	share     int      // of frames that a queue may receive into

	queues []*pairQueue    // all
	sides  [2][]*pairQueue // by interface, then queue
	next   int             // of queues, to be read first
	stats  dataplane.PortStats
}

// pairQueue is one queue of one interface. Of its Port only the rings, their counts
// and fd are used, under the Pair's lock.
type pairQueue struct {
	*Port
	side  uint16
	queue int
}

var _ dataplane.Port = (*Pair)(nil)

// Recv implements dataplane.Port.
func (p *Pair) Recv(frames []dataplane.Frame) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0
	}
	p.reap()
	got := 0
	for i := range p.queues {
		if got == len(frames) {
			break
		}
		got += p.recv(p.queues[(p.next+i)%len(p.queues)], frames[got:])
	}
	p.next = (p.next + 1) % len(p.queues)
	p.held += got
	p.stats.Received += uint64(got)
	p.refill()
	return got
}

func (p *Pair) recv(l *pairQueue, frames []dataplane.Frame) int {
	n, got := min(l.rx.waiting(), uint32(len(frames))), 0
	for i := range n {
		d := *l.rx.at(i)
		l.filled--
		end := d.Addr + uint64(d.Len)
		if d.Len < etherHeader || end > uint64(len(p.area)) {
			p.stats.Malformed++
			p.free = append(p.free, d.Addr&^(p.frameSize-1))
			continue
		}
		frames[got] = dataplane.Frame{Data: p.area[d.Addr:end:end], L3: etherHeader, Slot: l.side, Ref: d.Addr | uint64(l.queue)<<queueShift}
		got++
	}
	if n > 0 {
		l.rx.consume(n)
	}
	return got
}

const (
	etherHeader = 14
	// queueShift: above a frame's address its Ref says which queue it came by, so
	// that a conversation keeps to one.
	queueShift = 48
)

// Send implements dataplane.Port.
func (p *Pair) Send(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for i := range frames {
		f := &frames[i]
		side := p.sides[f.Slot&1^1^uint16(f.Dir)&1]
		l := side[int(f.Ref>>queueShift)%len(side)]
		// The transmit ring has room for every frame there is.
		*l.tx.at(l.queued) = unix.XDPDesc{Addr: f.Ref & (1<<queueShift - 1), Len: uint32(len(f.Data))}
		l.queued++
		l.inFlight++
	}
	p.held -= len(frames)
	p.stats.Sent += uint64(len(frames))
}

// Alloc implements dataplane.Port. The caller shortens Data, writes the link
// header, and sets Slot and Dir.
func (p *Pair) Alloc() (dataplane.Frame, bool) {
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
	return dataplane.Frame{Data: p.area[start:end:end], L3: etherHeader, Ref: start}, true
}

// Release implements dataplane.Port.
func (p *Pair) Release(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range frames {
		p.free = append(p.free, frames[i].Ref&(1<<queueShift-1)&^(p.frameSize-1))
	}
	p.held -= len(frames)
}

// Flush implements dataplane.Port. An interface that is down is an error too:
// what waits for it is not kept.
func (p *Pair) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	for _, l := range p.queues {
		if err := p.flush(l); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pair) flush(l *pairQueue) error {
	if l.queued > 0 {
		l.tx.produce(l.queued)
		l.queued = 0
	}
	if l.inFlight == 0 {
		return l.gone()
	}
	for range flushTries {
		p.free = l.reapInto(p.free)
		if l.tx.unread() == 0 {
			return nil
		}
		if err := l.kick(); err != nil {
			return fmt.Errorf("transmit: %w", err)
		}
	}
	return nil
}

// Pending implements dataplane.Port.
func (p *Pair) Pending() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0
	}
	for _, l := range p.queues {
		n += int(l.queued + l.tx.unread())
	}
	return n
}

// reap takes back the frames that the kernel has transmitted.
func (p *Pair) reap() {
	for _, l := range p.queues {
		p.free = l.reapInto(p.free)
	}
}

// refill gives each queue frames to receive into, up to its share, so that a
// flood on one does not leave the others without.
func (p *Pair) refill() {
	for _, l := range p.queues {
		p.free = l.refillFrom(p.free, p.share-l.filled)
	}
}

// FD implements dataplane.Port: an epoll over all sockets.
func (p *Pair) FD() int { return p.epoll }

// Stats implements dataplane.Port. After Close they are the last ones.
func (p *Pair) Stats() dataplane.PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readStats()
	return p.stats
}

func (p *Pair) readStats() {
	if p.closed {
		return
	}
	s := &p.stats
	s.Kicks, s.Again, s.NoFrame, s.RingFull, s.Invalid = 0, 0, 0, 0, 0
	for _, l := range p.queues {
		l.readKernelStats()
		s.Kicks += l.stats.Kicks
		s.Again += l.stats.Again
		s.NoFrame += l.stats.NoFrame
		s.RingFull += l.stats.RingFull
		s.Invalid += l.stats.Invalid
	}
}

// Close implements dataplane.Port. The XDP programs stay and drop what comes;
// frames still borrowed stay readable and go nowhere.
func (p *Pair) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.readStats()
	p.closed = true
	var errs []error
	for _, l := range p.queues {
		errs = append(errs, l.Port.Close())
	}
	for _, fd := range []int{p.epoll, p.listen} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// watch makes the epoll of all sockets.
func (p *Pair) watch() (err error) {
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, l := range p.queues {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l.fd)}
		if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, l.fd, &event); err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	return nil
}

// hear makes the interfaces take frames for every MAC while the Pair is open.
func (p *Pair) hear(ifindexes ...int) (err error) {
	if p.listen, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	for _, i := range ifindexes {
		request := unix.PacketMreq{Ifindex: int32(i), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(p.listen, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &request); err != nil {
			return fmt.Errorf("promiscuous mode: %w", err)
		}
	}
	return nil
}

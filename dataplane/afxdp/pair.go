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

	*umem
	held  int // borrowed by the caller
	share int // of frames that a queue may receive into

	queues []*pairQueue    // all
	sides  [2][]*pairQueue // by interface, then queue
	next   int             // of queues, to be read first
	stats  dataplane.PortStats
}

// pairQueue is one queue of one interface.
type pairQueue struct {
	*queue
	side   uint16
	number int
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
		n, malformed := p.queues[(p.next+i)%len(p.queues)].recv(frames[got:])
		got += n
		p.stats.Malformed += malformed
	}
	p.next = (p.next + 1) % len(p.queues)
	p.held += got
	p.stats.Received += uint64(got)
	p.refill()
	return got
}

func (q *pairQueue) recv(frames []dataplane.Frame) (got int, malformed uint64) {
	got, malformed = q.queue.recv(frames, etherHeader)
	for i := range got {
		frames[i].Slot = q.side
		frames[i].Ref |= uint64(q.number) << queueShift
	}
	return got, malformed
}

const (
	etherHeader = 14
	// queueShift: above a frame's address its Ref says which queue it came by, so
	// that a conversation keeps to one.
	queueShift = 48
)

func address(f *dataplane.Frame) uint64 { return f.Ref & (1<<queueShift - 1) }

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
		side[int(f.Ref>>queueShift)%len(side)].send(address(f), len(f.Data))
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
	f, ok := p.get(etherHeader)
	if ok {
		p.held++
	}
	return f, ok
}

// Release implements dataplane.Port.
func (p *Pair) Release(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range frames {
		p.put(address(&frames[i]))
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
	for _, q := range p.queues {
		if err := q.flush(); err != nil {
			return err
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
	for _, q := range p.queues {
		n += q.pending()
	}
	return n
}

// reap takes back the frames that the kernel has transmitted.
func (p *Pair) reap() {
	for _, q := range p.queues {
		q.reap()
	}
}

// refill gives each queue frames to receive into, up to its share, so that a
// flood on one does not leave the others without.
func (p *Pair) refill() {
	for _, q := range p.queues {
		q.refill(p.share - q.filled)
	}
}

// FD implements dataplane.Port: an epoll over all sockets.
func (p *Pair) FD() int { return p.epoll }

// Stats implements dataplane.Port. After Close they are the last ones.
func (p *Pair) Stats() dataplane.PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counted()
}

func (p *Pair) counted() dataplane.PortStats {
	stats := p.stats
	if !p.closed {
		for _, q := range p.queues {
			q.addTo(&stats)
		}
	}
	return stats
}

// Close implements dataplane.Port. The XDP programs stay and drop what comes;
// frames still borrowed stay readable and go nowhere.
func (p *Pair) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.stats, p.closed = p.counted(), true
	var errs []error
	for _, q := range p.queues {
		errs = append(errs, q.close())
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
	for _, q := range p.queues {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(q.fd)}
		if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, q.fd, &event); err != nil {
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

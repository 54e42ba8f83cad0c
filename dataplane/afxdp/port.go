package afxdp

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
)

const taggedHeader = 18 // Ethernet header with one 802.1Q tag

// Port is one AF_XDP socket on one queue of a slow-path device, with a memory of
// its own. It implements dataplane.Port.
type Port struct {
	mu     sync.Mutex
	closed bool
	held   int // borrowed by the caller
	stats  dataplane.PortStats
	*queue
}

var _ dataplane.Port = (*Port)(nil)

// Recv implements dataplane.Port. A frame without the steering tag did not come
// from the steering programs and has nowhere to go back to.
func (p *Port) Recv(frames []dataplane.Frame) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0
	}
	p.reap()
	n, malformed := p.recv(frames, taggedHeader)
	got := 0
	for _, f := range frames[:n] {
		if binary.BigEndian.Uint16(f.Data[12:]) != unix.ETH_P_8021Q {
			malformed++
			p.put(f.Ref)
			continue
		}
		tci := binary.BigEndian.Uint16(f.Data[14:])
		f.Slot, f.Dir = tci>>1, dataplane.Direction(tci&1)
		frames[got] = f
		got++
	}
	p.held += got
	p.stats.Received += uint64(got)
	p.stats.Malformed += malformed
	p.refill(p.frames)
	return got
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
		binary.BigEndian.PutUint16(f.Data[14:], f.Tag())
		p.send(f.Ref, len(f.Data))
	}
	p.held -= len(frames)
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
	f, ok := p.get(taggedHeader)
	if ok {
		p.held++
		binary.BigEndian.PutUint16(f.Data[12:], unix.ETH_P_8021Q)
	}
	return f, ok
}

// Release implements dataplane.Port.
func (p *Port) Release(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range frames {
		p.put(frames[i].Ref)
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
	return p.flush()
}

// Pending implements dataplane.Port.
func (p *Port) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0
	}
	return p.pending()
}

// FD implements dataplane.Port.
func (p *Port) FD() int { return p.fd }

// Stats implements dataplane.Port. After Close they are the last ones.
func (p *Port) Stats() dataplane.PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counted()
}

func (p *Port) counted() dataplane.PortStats {
	stats := p.stats
	if !p.closed {
		p.addTo(&stats)
	}
	return stats
}

// Close implements dataplane.Port. The XDP program stays and drops what comes;
// frames still borrowed stay readable and go nowhere.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.stats, p.closed = p.counted(), true
	return p.close()
}

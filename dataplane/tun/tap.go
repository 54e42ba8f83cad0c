// Package tun is the dataplane's Port over TAP and TUN devices. A TAP is the slow
// path where XDP is not to be had: the steering programs send undecided frames
// to it, a worker reads them there, and what it writes back enters by the same
// device. A TUN is the way through the gateway of what the host routes: Route
// makes the kernel send it there. One system call a frame; what AF_XDP does in
// batches it does not. It is the only importer of songgao/water.
//
// cmd opens the ports of a device and gives each to one worker. A Port's
// methods are serialised by a mutex, so that Close and Stats may be called from
// anywhere.
package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
	"gatehouse/dataplane/namespace"
)

const (
	taggedHeader = 18 // Ethernet header with one 802.1Q tag
	// DefaultFrames is how many frames a port has when Config does not say.
	DefaultFrames = 512
)

// Config says which device to open.
type Config struct {
	NetNS     string // path of the network namespace that holds the device; "" = the caller's own
	Interface string // a TAP that steer has made, gh0
	Queues    int    // how many queues it has, one port each; 0 = 1
	Frames    int    // per port; 0 = DefaultFrames
}

// Port is one queue of a TAP, or a TUN. It implements dataplane.Port.
type Port struct {
	mu     sync.Mutex
	device *water.Interface
	fd     int
	closed bool
	header int // of a frame before IP's: taggedHeader, or 0 of a TUN
	size   int // of a frame
	area   []byte
	free   []uint32 // frames
	queued []dataplane.Frame
	stats  dataplane.PortStats
}

var _ dataplane.Port = (*Port)(nil)

// OpenTAP makes one Port per queue of the device, index = queue. The device
// stays when they close.
func OpenTAP(c Config) ([]*Port, error) {
	c.Queues, c.Frames = max(c.Queues, 1), max(c.Frames, 0)
	if c.Frames == 0 {
		c.Frames = DefaultFrames
	}
	var ports []*Port
	err := namespace.Run(c.NetNS, func() error {
		link, err := netlink.LinkByName(c.Interface)
		if err != nil {
			return err
		}
		for range c.Queues {
			p, err := openTAP(c, link.Attrs())
			if err != nil {
				return err
			}
			ports = append(ports, p)
		}
		if c.Queues > 1 {
			return keepQueues(ports[0].fd)
		}
		return nil
	})
	if err != nil {
		for _, p := range ports {
			err = errors.Join(err, p.Close())
		}
		return nil, fmt.Errorf("open %s: %w", c.Interface, err)
	}
	return ports, nil
}

// openTAP runs inside the namespace.
func openTAP(c Config, link *netlink.LinkAttrs) (*Port, error) {
	device, err := water.New(water.Config{DeviceType: water.TAP, PlatformSpecificParams: water.PlatformSpecificParams{
		Name: c.Interface, Persist: true, MultiQueue: c.Queues > 1,
	}})
	if err != nil {
		return nil, fmt.Errorf("TAP: %w", err)
	}
	return newPort(device, taggedHeader, link.MTU, c.Frames)
}

// newPort takes the device over, whatever it returns.
func newPort(device *water.Interface, header, mtu, frames int) (*Port, error) {
	file, ok := device.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, errors.Join(errors.New("no file descriptor"), device.Close())
	}
	p := &Port{device: device, fd: int(file.Fd()), header: header, size: mtu + header}
	// Fd has made it blocking.
	if err := unix.SetNonblock(p.fd, true); err != nil {
		return nil, errors.Join(err, device.Close())
	}
	p.area = make([]byte, frames*p.size)
	p.free = make([]uint32, frames)
	for i := range p.free {
		p.free[i] = uint32(i)
	}
	p.queued = make([]dataplane.Frame, 0, frames)
	return p, nil
}

func (p *Port) frame(n uint32) []byte {
	return p.area[int(n)*p.size : int(n+1)*p.size : int(n+1)*p.size]
}

// Recv implements dataplane.Port.
func (p *Port) Recv(frames []dataplane.Frame) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := 0
	for !p.closed && got < len(frames) && len(p.free) > 0 {
		n := p.free[len(p.free)-1]
		data := p.frame(n)
		size, err := unix.Read(p.fd, data)
		if err != nil || size <= 0 {
			break
		}
		f := dataplane.Frame{Data: data[:size:size], L3: p.header, Ref: uint64(n)}
		if p.header > 0 {
			if size < taggedHeader || binary.BigEndian.Uint16(data[12:]) != unix.ETH_P_8021Q {
				p.stats.Malformed++
				continue
			}
			tci := binary.BigEndian.Uint16(data[14:])
			f.Slot, f.Dir = tci>>1, dataplane.Direction(tci&1)
		}
		p.free = p.free[:len(p.free)-1]
		frames[got] = f
		got++
	}
	p.stats.Received += uint64(got)
	return got
}

// Send implements dataplane.Port. A TAP has Slot and Dir written back into the
// tag.
func (p *Port) Send(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range frames {
		if f := &frames[i]; p.header > 0 {
			binary.BigEndian.PutUint16(f.Data[14:], f.Tag())
		}
	}
	p.queued = append(p.queued, frames...)
	p.stats.Sent += uint64(len(frames))
}

// Alloc implements dataplane.Port. A TAP's frame carries an empty steering tag; the
// caller shortens Data, and sets Slot and Dir.
func (p *Port) Alloc() (dataplane.Frame, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.free) == 0 {
		return dataplane.Frame{}, false
	}
	n := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	data := p.frame(n)
	if p.header > 0 {
		binary.BigEndian.PutUint16(data[12:], unix.ETH_P_8021Q)
	}
	return dataplane.Frame{Data: data, L3: p.header, Ref: uint64(n)}, true
}

// Release implements dataplane.Port.
func (p *Port) Release(frames []dataplane.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(frames)
}

func (p *Port) release(frames []dataplane.Frame) {
	for i := range frames {
		p.free = append(p.free, uint32(frames[i].Ref))
	}
}

// Flush implements dataplane.Port.
func (p *Port) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if len(p.queued) == 0 {
		return p.gone()
	}
	written, err := p.write()
	p.release(p.queued[:written])
	p.queued = p.queued[:copy(p.queued, p.queued[written:])]
	return err
}

// write returns how many of the queued frames the device has taken, or will
// never take.
func (p *Port) write() (n int, err error) {
	for n < len(p.queued) {
		p.stats.Kicks++
		_, err := unix.Write(p.fd, p.queued[n].Data)
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			p.stats.Again++
			return n, nil
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE):
			p.stats.Invalid++
			n++
		default:
			return n, fmt.Errorf("write: %w", err)
		}
	}
	return n, nil
}

// gone asks whether the device was removed: a read from it fails otherwise than
// for want of frames. The frame that it may give instead waits its turn.
func (p *Port) gone() error {
	fds := [1]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	if err != nil || n == 0 || fds[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0 {
		return nil
	}
	return fmt.Errorf("device: %w", unix.ENODEV)
}

// Pending implements dataplane.Port.
func (p *Port) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queued)
}

// Stats implements dataplane.Port. After Close they are the last ones.
func (p *Port) Stats() dataplane.PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// FD implements dataplane.Port.
func (p *Port) FD() int { return p.fd }

// Close implements dataplane.Port. A TAP stays, and what it is sent waits there, at
// most as much as its queue holds, and is dropped then; a TUN goes. Frames still
// borrowed stay readable and go nowhere.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	p.queued = p.queued[:0]
	return p.device.Close()
}

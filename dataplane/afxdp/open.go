// Package afxdp is the dataplane's Port over AF_XDP: frames that the steering
// programs send to the slow-path device arrive here, and leave by the same
// socket, uncopied. The rings are our own; the XDP program that hands frames to
// the sockets, and their registration in it, are asavie/xdp's.
//
// cmd opens the ports of a device and gives each to one worker. A Port's
// methods are serialised by a mutex, so that Close and Stats may be called from
// anywhere.
package afxdp

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/asavie/xdp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane/namespace"
)

// DefaultFrames is how many frames a port has when Config does not say: 16 MB
// of memory where each is a page, and room for two milliseconds of a flood that
// one worker can just follow.
const DefaultFrames = 4096

// Config says which device to open.
type Config struct {
	NetNS     string // path of the network namespace that holds the device; "" = the caller's own
	Interface string // the device that receives steered frames, gh1
	Queues    int    // how many receive queues it has, one port each; 0 = 1
	Frames    int    // per port, a power of two of at least 256; 0 = DefaultFrames
}

// Open makes one Port per queue of the device, index = queue, and then puts the
// XDP program in place that feeds them, in one step: what was attached before
// drops or delivers every frame until then, the new program from then on. The
// program outlives the process; without a socket it drops.
//
// A queue that another process still serves is waited for about a second.
func Open(c Config) ([]*Port, error) {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Frames == 0 {
		c.Frames = DefaultFrames
	}
	if c.Frames < 256 || bits.OnesCount(uint(c.Frames)) != 1 {
		return nil, fmt.Errorf("%d frames: want a power of two of at least 256", c.Frames)
	}
	var ports []*Port
	err := namespace.Run(c.NetNS, func() (err error) {
		ports, err = open(c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", c.Interface, err)
	}
	return ports, nil
}

func open(c Config) (ports []*Port, err error) {
	link, err := netlink.LinkByName(c.Interface)
	if err != nil {
		return nil, err
	}
	size, err := frameSize(link.Attrs().MTU)
	if err != nil {
		return nil, err
	}
	program, err := xdp.NewProgram(c.Queues)
	if err != nil {
		return nil, fmt.Errorf("load the XDP program: %w", err)
	}
	// Once attached, the kernel keeps program and maps.
	defer func() { err = errors.Join(err, program.Close()) }()
	defer func() {
		if err == nil {
			return
		}
		for _, p := range ports {
			err = errors.Join(err, p.Close())
		}
		ports = nil
	}()
	for queue := range c.Queues {
		// A queue of which this map says 0 passes its frames to the device's own
		// stack; with 1 and no socket it drops them.
		if err := program.Queues.Put(uint32(queue), uint32(1)); err != nil {
			return ports, fmt.Errorf("close queue %d: %w", queue, err)
		}
		q, err := newQueue(newUMEM(c.Frames, size), true)
		if err != nil {
			return ports, err
		}
		q.refill(c.Frames)
		p := &Port{queue: q}
		ports = append(ports, p)
		if err := p.bind(link.Attrs().Index, queue); err != nil {
			return ports, err
		}
		if err := program.Register(queue, p.fd); err != nil {
			return ports, fmt.Errorf("register queue %d: %w", queue, err)
		}
	}
	// Not Program.Attach: it takes the old program off first, and in between
	// frames would go to the device's own stack.
	err = netlink.LinkSetXdpFdWithFlags(link, program.Program.FD(), unix.XDP_FLAGS_DRV_MODE)
	if err != nil {
		return ports, fmt.Errorf("attach the XDP program: %w", err)
	}
	return ports, nil
}

const (
	frameOverhead = unix.XDP_PACKET_HEADROOM + taggedHeader // what the kernel keeps for itself, and the link header
	largestMTU    = 4096 - frameOverhead                    // the kernel takes no chunks above a page
)

// frameSize is the UMEM chunk for a device.
func frameSize(mtu int) (int, error) {
	for _, size := range []int{2048, 4096} {
		if mtu+frameOverhead <= size {
			return size, nil
		}
	}
	return 0, fmt.Errorf("MTU %d is too large for one frame: at most %d", mtu, largestMTU)
}

package afxdp

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane/namespace"
)

// Generator sends prepared frames from a device, as fast as one thread can: the
// cheapest source of real socket buffers there is. It belongs to one goroutine.
type Generator struct {
	queue   *queue
	lengths []uint32 // by frame
}

const generatorFrame = 2048

// NewGenerator opens queue 0 of an interface for sending alone. fill writes the
// i-th of Config.Frames frames and returns its length, at most 2,048 bytes.
func NewGenerator(c Config, fill func(i int, frame []byte) int) (*Generator, error) {
	if c.Frames == 0 {
		c.Frames = DefaultFrames
	}
	g := &Generator{lengths: make([]uint32, c.Frames)}
	err := namespace.Run(c.NetNS, func() error {
		link, err := netlink.LinkByName(c.Interface)
		if err != nil {
			return err
		}
		if g.queue, err = newQueue(newUMEM(c.Frames, generatorFrame), true); err != nil {
			return err
		}
		for i := range c.Frames {
			g.lengths[i] = uint32(fill(i, g.queue.area[i*generatorFrame:(i+1)*generatorFrame]))
		}
		if err := g.queue.bind(link.Attrs().Index, 0); err != nil {
			return errors.Join(err, g.queue.close())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("generator on %s: %w", c.Interface, err)
	}
	return g, nil
}

// Burst sends up to n frames and returns how many it handed to the kernel.
// change, if not nil, may write each frame anew before it leaves; its length
// stays.
func (g *Generator) Burst(n int, change func(frame []byte)) (int, error) {
	q := g.queue
	q.reap()
	n = min(n, len(q.free))
	// From the front, so that frames leave in turn and not the last few only.
	for i := range n {
		at := q.free[i]
		length := g.lengths[at/generatorFrame]
		if change != nil {
			change(q.area[at : at+uint64(length)])
		}
		*q.tx.at(uint32(i)) = unix.XDPDesc{Addr: at, Len: length}
	}
	q.free = q.free[n:]
	q.inFlight += n
	q.tx.produce(uint32(n))
	return n, q.kick()
}

// Close lets go of the device.
func (g *Generator) Close() error { return g.queue.close() }

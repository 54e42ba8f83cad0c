package afxdp

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/asavie/xdp"
	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane/namespace"
)

// PairConfig names the two interfaces of a bump in the wire.
type PairConfig struct {
	NetNS      string // path of the network namespace that holds them; "" = the caller's own
	Interfaces [2]string
	Frames     int // for each of their queues, a power of two of at least 256; 0 = DefaultFrames
	// Load makes the XDP program of the interface that is across from the one of
	// index far, and the map of the sockets of its queues: what has none there it
	// must drop. nil = a program that gives all frames to the sockets.
	Load func(far int) (*ebpf.Program, *ebpf.Map, error)
}

// pairQueues is how many queues both sides may have together: the memory for
// them is taken at once.
const pairQueues = 64

// ErrUnfit is wrapped by errors that waiting does not mend: somebody has to
// change something.
var ErrUnfit = errors.New("not fit for a pair")

// OpenPair opens both interfaces and puts the XDP programs in place that give
// it all their frames. The programs outlive the process; without sockets they
// drop. notes are for the log. An error names the interface and what to do.
func OpenPair(c PairConfig) (p *Pair, notes []string, err error) {
	if c.Frames == 0 {
		c.Frames = DefaultFrames
	}
	if c.Frames < 256 || bits.OnesCount(uint(c.Frames)) != 1 {
		return nil, nil, fmt.Errorf("%d frames: want a power of two of at least 256", c.Frames)
	}
	err = namespace.Run(c.NetNS, func() (err error) {
		p, notes, err = openPair(c)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("pair %s, %s: %w", c.Interfaces[0], c.Interfaces[1], err)
	}
	return p, notes, nil
}

// end is one interface of a pair while it is opened.
type end struct {
	link    netlink.Link
	queues  int
	program *ebpf.Program
	sockets *ebpf.Map
}

// place is what is remembered of it.
func (e *end) place() (l leg, err error) {
	info, err := e.program.Info()
	if err != nil {
		return l, err
	}
	l.name, l.index = e.link.Attrs().Name, e.link.Attrs().Index
	l.program, _ = info.ID()
	return l, nil
}

// close lets go of the program; once it is attached, the kernel keeps it and its
// maps.
func (e *end) close() error {
	if e.program == nil {
		return nil
	}
	return errors.Join(e.program.Close(), e.sockets.Close())
}

// loadPlain is PairConfig.Load where there is none.
func loadPlain(int) (*ebpf.Program, *ebpf.Map, error) {
	p, err := xdp.NewProgram(pairQueues)
	if err != nil {
		return nil, nil, err
	}
	for queue := range uint32(pairQueues) { // it passes the frames of queues that it knows nothing of
		if err := p.Queues.Put(queue, uint32(1)); err != nil {
			return nil, nil, errors.Join(err, p.Close())
		}
	}
	return p.Program, p.Sockets, p.Queues.Close()
}

func (c *PairConfig) load(far int) (*ebpf.Program, *ebpf.Map, error) {
	load := c.Load
	if load == nil {
		load = loadPlain
	}
	program, sockets, err := load(far)
	if err != nil {
		return nil, nil, fmt.Errorf("load the XDP program: %w", err)
	}
	return program, sockets, nil
}

// FitPair says what stands in the way of OpenPair, and changes nothing. notes are
// about what is slower than it could be, or is no longer to be had.
func FitPair(c PairConfig) (notes []string, err error) {
	err = namespace.Run(c.NetNS, func() error {
		ends, fits, err := c.fit()
		notes = fits
		for i := range ends {
			if err != nil {
				break
			}
			var note string
			if note, err = foreseen(ends[i].link); note != "" {
				notes = append(notes, note)
			}
		}
		return errors.Join(err, ends[0].close(), ends[1].close())
	})
	return notes, err
}

// foreseen is what attaching the program to an interface would tell.
func foreseen(link netlink.Link) (note string, err error) {
	features, known, err := xdpFeatures(link.Attrs().Index)
	switch {
	case err != nil:
		return "", fmt.Errorf("XDP features of %s: %w", link.Attrs().Name, err)
	case known && features&xdpBasic == 0:
		return genericNote(link.Attrs().Name)
	}
	if note, err = linkTakes(link); note != "" {
		note += ": every packet goes through user space"
	}
	return note, err
}

// fit looks at both interfaces and loads their programs. ends are to be closed.
func (c *PairConfig) fit() (ends [2]end, notes []string, err error) {
	var faults []error
	for i, name := range c.Interfaces {
		e, note, err := fit(name)
		ends[i], notes = e, append(notes, note...)
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return ends, notes, err
	}
	a, b := ends[0].link.Attrs(), ends[1].link.Attrs()
	if err := errors.Join(ends[0].prepare(c, b.Index), ends[1].prepare(c, a.Index)); err != nil {
		return ends, notes, err
	}
	if a.MTU != b.MTU {
		return ends, notes, fmt.Errorf("%w: %s has an MTU of %d, %s of %d: what is too long for the other side would be lost; give both the same: ip link set %s mtu %d",
			ErrUnfit, a.Name, a.MTU, b.Name, b.MTU, b.Name, a.MTU)
	}
	if _, err := frameSize(a.MTU); err != nil {
		return ends, notes, fmt.Errorf("%w: %s and %s: %w: ip link set DEVICE mtu %d", ErrUnfit, a.Name, b.Name, err, largestMTU)
	}
	return ends, notes, nil
}

func openPair(c PairConfig) (p *Pair, notes []string, err error) {
	ends, notes, err := c.fit()
	defer func() {
		err = errors.Join(err, ends[0].close(), ends[1].close())
	}()
	if err != nil {
		return nil, nil, err
	}
	size, err := frameSize(ends[0].link.Attrs().MTU)
	if err != nil {
		return nil, nil, err
	}
	if p, err = newPair(c.NetNS, ends, size, c.Frames); err != nil {
		return nil, nil, err
	}
	for i, e := range ends {
		generic, err := e.attach()
		if err == nil {
			p.legs[i], err = e.place()
		}
		if err != nil {
			return nil, nil, errors.Join(err, p.Close())
		}
		if generic {
			note, err := genericNote(e.link.Attrs().Name)
			if err != nil {
				return nil, nil, errors.Join(err, p.Close())
			}
			notes = append(notes, note)
		}
	}
	if err := p.check(); err != nil { // meanwhile
		return nil, nil, errors.Join(err, p.Close())
	}
	return p, notes, nil
}

// fit checks one interface.
func fit(name string) (e end, notes []string, err error) {
	if e.link, err = netlink.LinkByName(name); err != nil {
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return e, nil, fmt.Errorf("there is no interface %s: `ip link` lists them", name)
		}
		return e, nil, fmt.Errorf("%s: %w", name, err)
	}
	a := e.link.Attrs()
	switch {
	case a.EncapType != "ether":
		return e, nil, fmt.Errorf("%w: %s is no Ethernet interface but %s", ErrUnfit, name, a.EncapType)
	case a.RawFlags&unix.IFF_UP == 0:
		return e, nil, fmt.Errorf("%s is down: ip link set %s up", name, name)
	case a.MasterIndex != 0:
		return e, nil, fmt.Errorf("%w: %s is a port of interface %d, which would carry frames past the pair: ip link set %s nomaster", ErrUnfit, name, a.MasterIndex, name)
	}
	if flags, err := ethtoolValue(name, getFlags); err == nil && flags&flagRxVLAN != 0 && e.link.Type() != "veth" {
		return e, nil, fmt.Errorf("%w: %s takes VLAN tags off before the gateway sees them: ethtool -K %s rxvlan off", ErrUnfit, name, name)
	}
	if e.queues, err = rxQueues(name); errors.Is(err, unix.EOPNOTSUPP) {
		e.queues = max(a.NumRxQueues, 1) // such a driver has no more than it was made with
	} else if err != nil {
		return e, nil, fmt.Errorf("queues of %s: %w", name, err)
	}
	if e.queues > pairQueues/2 {
		return e, nil, fmt.Errorf("%w: %s has %d receive queues, at most %d can be served: ethtool -L %s combined %d", ErrUnfit, name, e.queues, pairQueues/2, name, pairQueues/2)
	}
	addrs, err := netlink.AddrList(e.link, netlink.FAMILY_ALL)
	if err != nil {
		return e, nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	for _, x := range addrs {
		if x.IP.IsGlobalUnicast() {
			notes = append(notes, fmt.Sprintf("%s has the address %s, by which nobody can reach this host while it is one of a pair", name, x.IPNet))
		}
	}
	return e, notes, nil
}

// prepare loads the program of an interface, where no other's is in the way.
func (e *end) prepare(c *PairConfig, far int) (err error) {
	if e.program, e.sockets, err = c.load(far); err != nil {
		return err
	}
	a := e.link.Attrs()
	foreign, err := foreignProgram(a, e.program)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	if foreign != "" {
		return fmt.Errorf("%w: %s has an XDP program of somebody else's, %s: end what attached it, or take it off with ip link set %s xdp off", ErrUnfit, a.Name, foreign, a.Name)
	}
	return nil
}

// genericNote is about generic XDP, which comes after what joins segments.
func genericNote(name string) (string, error) {
	gro, err := ethtoolValue(name, getGRO)
	flags, errFlags := ethtoolValue(name, getFlags)
	if err == nil && gro != 0 || errFlags == nil && flags&flagLRO != 0 {
		return "", fmt.Errorf("%w: the driver of %s has no native XDP, and in generic mode joined segments are too long for a frame: ethtool -K %s gro off lro off", ErrUnfit, name, name)
	}
	return "the driver of " + name + " has no native XDP: generic mode, which is slower", nil
}

// foreignProgram names the XDP program of an interface if it is not one like
// own, as a pair of this or another version leaves behind.
func foreignProgram(a *netlink.LinkAttrs, own *ebpf.Program) (string, error) {
	if a.Xdp == nil || !a.Xdp.Attached {
		return "", nil
	}
	there, err := ebpf.NewProgramFromID(ebpf.ProgramID(a.Xdp.ProgId))
	if err != nil {
		return fmt.Sprintf("number %d", a.Xdp.ProgId), nil
	}
	defer there.Close()
	has, err := there.Info()
	if err != nil {
		return "", err
	}
	wants, err := own.Info()
	if err != nil {
		return "", err
	}
	if has.Tag == wants.Tag || has.Name == wants.Name && hasSockets(has) {
		return "", nil
	}
	return fmt.Sprintf("number %d, %q", a.Xdp.ProgId, has.Name), nil
}

// hasSockets reports whether a program has a map of sockets by the name that a
// pair's has.
func hasSockets(program *ebpf.ProgramInfo) bool {
	ids, _ := program.MapIDs()
	return slices.ContainsFunc(ids, func(id ebpf.MapID) bool {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return false
		}
		defer m.Close()
		info, err := m.Info()
		return err == nil && info.Type == ebpf.XSKMap && info.Name == "sockets"
	})
}

func newPair(netns string, ends [2]end, size, frames int) (_ *Pair, err error) {
	queues := ends[0].queues + ends[1].queues
	for frames *= queues; bits.OnesCount(uint(frames)) != 1; {
		frames += frames & -frames
	}
	p := &Pair{netns: netns, epoll: -1, listen: -1, umem: newUMEM(frames, size), share: frames / 2 / queues}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	for i, e := range ends {
		for queue := range e.queues {
			if err := p.open(e, i, queue); err != nil {
				return nil, err
			}
		}
	}
	p.refill()
	if err := p.watch(); err != nil {
		return nil, err
	}
	if err := p.hear(ends[0].link.Attrs().Index, ends[1].link.Attrs().Index); err != nil {
		return nil, err
	}
	return p, nil
}

// open adds a queue.
func (p *Pair) open(e end, side, number int) error {
	name, index := e.link.Attrs().Name, e.link.Attrs().Index
	q, err := newQueue(p.umem, len(p.queues) == 0)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	l := &pairQueue{queue: q, side: uint16(side), number: number}
	p.queues, p.sides[side] = append(p.queues, l), append(p.sides[side], l)
	if first := p.queues[0].queue; first == q {
		err = q.bind(index, number)
	} else {
		err = q.bindSharing(first, index, number)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := e.sockets.Put(uint32(number), uint32(q.fd)); err != nil {
		return fmt.Errorf("%s: register queue %d: %w", name, number, err)
	}
	return nil
}

// attach puts the program in place of what is there, in the mode of that; where
// nothing is, in native mode if the driver can.
func (e *end) attach() (generic bool, err error) {
	a := e.link.Attrs()
	flags := unix.XDP_FLAGS_DRV_MODE
	if a.Xdp != nil && a.Xdp.Attached && a.Xdp.AttachMode == nl.XDP_ATTACHED_SKB {
		flags = unix.XDP_FLAGS_SKB_MODE
	}
	err = netlink.LinkSetXdpFdWithFlags(e.link, e.program.FD(), flags)
	if errors.Is(err, unix.EOPNOTSUPP) {
		flags = unix.XDP_FLAGS_SKB_MODE
		err = netlink.LinkSetXdpFdWithFlags(e.link, e.program.FD(), flags)
	}
	if err != nil {
		return false, fmt.Errorf("%s: attach the XDP program: %w", a.Name, err)
	}
	return flags == unix.XDP_FLAGS_SKB_MODE, nil
}

// RemovePair takes the XDP programs that a pair left behind off its interfaces.
// An interface that is gone, or has none, is as it should be. found reports whether
// there was a program.
func RemovePair(c PairConfig) (found bool, err error) {
	err = namespace.Run(c.NetNS, func() error {
		var errs []error
		for _, name := range c.Interfaces {
			some, err := c.removeProgram(name)
			found, errs = found || some, append(errs, err)
		}
		return errors.Join(errs...)
	})
	return found, err
}

func (c *PairConfig) removeProgram(name string) (found bool, err error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	own := end{link: link}
	if own.program, own.sockets, err = c.load(0); err != nil {
		return false, err
	}
	defer own.close()
	a := link.Attrs()
	foreign, err := foreignProgram(a, own.program)
	switch {
	case err != nil:
		return false, fmt.Errorf("%s: %w", name, err)
	case foreign != "":
		return false, fmt.Errorf("%s has an XDP program of somebody else's, %s: it stays", name, foreign)
	case a.Xdp == nil || !a.Xdp.Attached:
		return false, nil
	}
	flags := unix.XDP_FLAGS_DRV_MODE
	if a.Xdp.AttachMode == nl.XDP_ATTACHED_SKB {
		flags = unix.XDP_FLAGS_SKB_MODE
	}
	if err := netlink.LinkSetXdpFdWithFlags(link, -1, flags); err != nil {
		return true, fmt.Errorf("%s: take the XDP program off: %w", name, err)
	}
	return true, nil
}

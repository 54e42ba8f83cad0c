package steer

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Space is one network namespace that holds endpoints, with the slow-path pair
// there: what the programs send into gh0 arrives at gh1, where AF_XDP sockets
// take it, and what those send comes out of gh0 again. With Config.TAP gh0 is a
// TAP, and both ends are it.
type Space struct {
	Number int    // unique on this host, kept over restarts; never 0
	NetNS  string // path of the namespace, "" = this process's own
	Kernel string // name of the pair's end that the programs use, gh0
	User   string // name of the end for user space: gh1, or the TAP

	gh0      uint32 // ifindex
	gh1      uint32
	ns       *netns
	lastSlot uint16
	lost     uint64        // what the pair had no room for, as last read
	done     chan struct{} // closed when the namespace is given up
}

// Gone is closed when the namespace, or the pair in it, was removed: its devices
// are of no use any more. Guard makes them anew.
func (sp *Space) Gone() <-chan struct{} { return sp.done }

// Space returns the slow-path pair of the namespace at path, "" = this
// process's own, and makes it if there is none yet. Path may be reused by
// another namespace: that is another Space.
func (s *Steer) Space(path string) (*Space, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp, err := s.space(path)
	if err != nil {
		return nil, fmt.Errorf("slow path in %s: %w", nsName(path), err)
	}
	return sp, nil
}

func nsName(path string) string { return or(path, "the host's network namespace") }

func (s *Steer) space(path string) (*Space, error) {
	ns, err := openNetNS(path)
	if err != nil {
		return nil, err
	}
	if sp := s.spaces[ns.cookie]; sp != nil {
		return sp, ns.close()
	}
	sp := &Space{
		NetNS:  path,
		Kernel: s.cfg.Prefix + "0",
		User:   s.cfg.Prefix + "1",
		ns:     ns,
		done:   make(chan struct{}),
	}
	if s.cfg.TAP {
		sp.User = sp.Kernel
	}
	if sp.Number, err = s.spaceNumber(ns.cookie); err != nil {
		return nil, errors.Join(err, ns.close())
	}
	if err := ns.do(func() error { return sp.makeDevices(s.cfg) }); err != nil {
		return nil, errors.Join(err, ns.close())
	}
	if err := s.attachReturn(sp); err != nil {
		return nil, errors.Join(err, ns.close())
	}
	s.spaces[ns.cookie] = sp
	s.held.Store(ns.cookie, ns)
	notify(s.more)
	return sp, nil
}

// spaceNumber is the namespace's number as it was, or a new one. What once was
// another namespace's is not given again: workers know namespaces by it.
func (s *Steer) spaceNumber(cookie uint64) (int, error) {
	var number uint32
	err := s.maps.Spaces.Lookup(cookie, &number)
	if err == nil {
		return int(number), nil
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("number of the namespace: %w", err)
	}
	var k uint64
	it := s.maps.Spaces.Iterate()
	for it.Next(&k, &number) {
		s.lastSpace = max(s.lastSpace, number)
	}
	if err := it.Err(); err != nil {
		return 0, fmt.Errorf("number of the namespace: %w", err)
	}
	if s.lastSpace == math.MaxUint16 {
		return 0, errors.New("no number is left for the namespace: restart the gateway")
	}
	s.lastSpace++
	number = s.lastSpace
	if err := s.maps.Spaces.Put(cookie, number); err != nil {
		return 0, fmt.Errorf("number of the namespace: %w", err)
	}
	return int(number), nil
}

// makeDevices runs inside the namespace. What an earlier gateway made is kept if
// it is of the same kind and has as many queues.
func (sp *Space) makeDevices(cfg Config) error {
	find, build := sp.findPair, sp.makePair
	if cfg.TAP {
		find, build = sp.findTAP, sp.makeTAP
	}
	err := find(cfg.Queues)
	if err == nil {
		return nil
	}
	if !errors.As(err, &netlink.LinkNotFoundError{}) && !errors.Is(err, errOtherPair) {
		return err
	}
	if err := sp.removeOld(cfg.Prefix); err != nil {
		return err
	}
	if err := build(cfg.Queues); err != nil {
		return err
	}
	return find(cfg.Queues)
}

func (sp *Space) removeOld(prefix string) error {
	if err := removePair(prefix); err != nil {
		return fmt.Errorf("remove %s: %w", sp.Kernel, err)
	}
	if _, err := netlink.LinkByName(sp.Kernel); err == nil {
		return fmt.Errorf("interface %s is there and is not the slow path's: choose another device prefix", sp.Kernel)
	}
	return nil
}

// makeTAP makes a TAP that stays without a process. What nobody reads fills its
// queue and is dropped then.
func (sp *Space) makeTAP(queues int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = sp.Kernel, TAPMTU
	flags := netlink.TUNTAP_NO_PI
	if queues > 1 {
		flags |= netlink.TUNTAP_MULTI_QUEUE
	}
	if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: flags}); err != nil {
		return fmt.Errorf("make the TAP %s: %w", sp.Kernel, err)
	}
	l, err := netlink.LinkByName(sp.Kernel)
	if err != nil {
		return err
	}
	if err := quiet(sp.Kernel, l); err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(l, TAPMTU); err != nil {
		return fmt.Errorf("MTU of %s: %w", sp.Kernel, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", sp.Kernel, err)
	}
	return nil
}

func (sp *Space) findTAP(queues int) error {
	l, err := netlink.LinkByName(sp.Kernel)
	if err != nil {
		return err
	}
	tap, ok := l.(*netlink.Tuntap)
	if !ok || tap.Mode != netlink.TUNTAP_MODE_TAP || tap.MTU != TAPMTU || (queues > 1) != (tap.Flags&netlink.TUNTAP_MULTI_QUEUE != 0) {
		return errOtherPair
	}
	sp.gh0, sp.gh1 = uint32(tap.Index), uint32(tap.Index)
	return nil
}

func (sp *Space) makePair(queues int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = sp.Kernel
	attrs.MTU = PairMTU
	attrs.NumTxQueues, attrs.NumRxQueues = queues, queues
	pair := netlink.NewVeth(attrs)
	pair.PeerName = sp.User
	pair.PeerMTU = PairMTU
	pair.PeerNumTxQueues, pair.PeerNumRxQueues = uint32(queues), uint32(queues)
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make %s and %s: %w", sp.Kernel, sp.User, err)
	}
	// User space needs whole checksums, and the steering tag in the frame.
	if err := ethtoolOff(sp.Kernel); err != nil {
		return fmt.Errorf("offloads of %s: %w", sp.Kernel, err)
	}
	for _, name := range []string{sp.Kernel, sp.User} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := quiet(name, l); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return nil
}

var errOtherPair = errors.New("a pair with other queues")

func (sp *Space) findPair(queues int) error {
	kernel, err := netlink.LinkByName(sp.Kernel)
	if err != nil {
		return err
	}
	user, err := netlink.LinkByName(sp.User)
	if err != nil {
		return err
	}
	k, u := kernel.Attrs(), user.Attrs()
	if k.NumRxQueues != queues || u.NumRxQueues != queues || k.MTU != PairMTU || u.MTU != PairMTU || k.ParentIndex != u.Index {
		return errOtherPair
	}
	sp.gh0, sp.gh1 = uint32(k.Index), uint32(u.Index)
	return nil
}

// quiet keeps the host's IPv6 from talking on the slow path: on a host that
// forwards it, a device without addresses still reports that it listens for
// routers, whenever the device comes up or an AF_XDP socket is bound.
func quiet(name string, l netlink.Link) error {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	err := netlink.LinkSetIP6AddrGenMode(l, none)
	// A kernel without IPv6 has nothing to keep quiet.
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep IPv6 off %s: %w", name, err)
	}
	// Where /proc/sys is read only those few reports are dropped and counted.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	return nil
}

// ethtoolOff switches checksum offload and VLAN tag insertion off, so that
// checksums and the steering tag are written into the frame.
func ethtoolOff(name string) error {
	const (
		getFlags   = 0x25   // ETHTOOL_GFLAGS, linux/ethtool.h
		setFlags   = 0x26   // ETHTOOL_SFLAGS
		setTxCsum  = 0x17   // ETHTOOL_STXCSUM
		flagTxVLAN = 1 << 7 // ETH_FLAG_TXVLAN
	)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := ethtool(fd, name, setTxCsum, 0); err != nil {
		return fmt.Errorf("checksums: %w", err)
	}
	flags, err := ethtool(fd, name, getFlags, 0)
	if err != nil {
		return fmt.Errorf("flags: %w", err)
	}
	if _, err := ethtool(fd, name, setFlags, flags&^flagTxVLAN); err != nil {
		return fmt.Errorf("VLAN insertion: %w", err)
	}
	return nil
}

func ethtool(fd int, name string, command, data uint32) (uint32, error) {
	value := struct{ command, data uint32 }{command, data} // struct ethtool_value
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	ifr.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	if errno != 0 {
		return 0, errno
	}
	return value.data, nil
}

func (s *Steer) attachReturn(sp *Space) error {
	var p struct {
		GhReturn *ebpf.Program `ebpf:"gh_return"`
	}
	if err := s.load(&p, map[string]any{"space": uint32(sp.Number)}); err != nil {
		return err
	}
	defer p.GhReturn.Close() // the link holds it
	return s.attach(sp.ns, sp.returnHook(), p.GhReturn)
}

func (sp *Space) returnHook() hook {
	return hook{sp.ns.cookie, sp.gh0, ebpf.AttachTCXIngress}
}

// removePair runs inside the namespace. It removes a TAP of ours too.
func removePair(prefix string) error {
	kernel, err := netlink.LinkByName(prefix + "0")
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	if tap, ok := kernel.(*netlink.Tuntap); ok && tap.Mode == netlink.TUNTAP_MODE_TAP && tap.MTU == TAPMTU {
		return netlink.LinkDel(kernel)
	}
	user, err := netlink.LinkByName(prefix + "1")
	if err != nil || kernel.Type() != "veth" || kernel.Attrs().ParentIndex != user.Attrs().Index {
		return nil // somebody else's
	}
	return netlink.LinkDel(kernel)
}

// lostPair reports whether somebody removed the pair.
func (sp *Space) lostPair() bool {
	err := sp.ns.do(func() error {
		for _, ifindex := range []uint32{sp.gh0, sp.gh1} {
			if _, err := netlink.LinkByIndex(int(ifindex)); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.As(err, &netlink.LinkNotFoundError{})
}

// removeDown removes the pair if one of its ends is down at this moment. It runs
// inside the namespace.
func (sp *Space) removeDown() error {
	for _, ifindex := range []uint32{sp.gh0, sp.gh1} {
		l, err := netlink.LinkByIndex(int(ifindex))
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		if l.Attrs().RawFlags&unix.IFF_UP == 0 {
			return netlink.LinkDel(l)
		}
	}
	return nil
}

// gonePath reports whether the namespace's path names another namespace now, or
// none.
func (sp *Space) gonePath() bool {
	if sp.NetNS == "" {
		return false
	}
	ns, err := openNetNS(sp.NetNS)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL)
	}
	defer ns.close()
	return ns.cookie != sp.ns.cookie
}

// nextSlot finds a free slot, the one longest unused first: a frame on its way
// through user space must not come back to another endpoint. 0 is none.
func (s *Steer) nextSlot(sp *Space) (uint16, error) {
	const last = 1<<11 - 1 // with the direction it fills a VLAN id
	used := make(map[uint16]bool)
	for _, e := range s.endpoints {
		if e.space == sp {
			used[e.slot] = true
		}
	}
	for k, slot := range s.found {
		if k.Space == uint32(sp.Number) {
			used[slot] = true
		}
	}
	for range last {
		sp.lastSlot = sp.lastSlot%last + 1
		if !used[sp.lastSlot] {
			return sp.lastSlot, nil
		}
	}
	return 0, fmt.Errorf("%s holds %d endpoints, all that the steering tag can tell apart", nsName(sp.NetNS), last)
}

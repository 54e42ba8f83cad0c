package steer

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"gatehouse/policy"
)

// Veth is the host end of an endpoint's interface.
type Veth struct {
	Ifindex uint32 // in the bridge's namespace
	Name    string
	Sandbox string // path of the namespace that holds the other end
}

// ErrNoVeth says that no namespace holds an interface with that MAC whose other
// end is a port of that bridge: the container is not wired yet, or gone.
var ErrNoVeth = errors.New("no port of the bridge leads to an interface with that MAC")

// FindVeth finds the port of a guarded network's bridge that leads to the
// interface with that MAC in a container's namespace. Sandbox is the path of
// that namespace; "" searches the engine's directory. The binding is the
// kernel's own: index of the peer and namespace of the peer, read from both
// ends. What a container sends plays no part in it.
func (s *Steer) FindVeth(zone policy.Zone, mac policy.MAC, sandbox string) (Veth, error) {
	return s.Search().FindVeth(zone, mac, sandbox)
}

// Search is FindVeth for many endpoints at one moment: it looks into each of
// the engine's namespaces once. It is for one goroutine, and goes stale.
type Search struct {
	steer *Steer
	seen  map[*network]map[policy.MAC][]string // namespaces behind ports that nobody is admitted at
}

// Search begins one.
func (s *Steer) Search() *Search {
	return &Search{steer: s, seen: make(map[*network]map[policy.MAC][]string)}
}

// FindVeth is as Steer's. Where two containers have the MAC, and no sandbox
// says which is meant, it finds neither: one of them took it.
func (f *Search) FindVeth(zone policy.Zone, mac policy.MAC, sandbox string) (v Veth, err error) {
	f.steer.mu.Lock()
	n := f.steer.networks[zone]
	f.steer.mu.Unlock()
	if n == nil {
		return v, fmt.Errorf("zone %d is not guarded", zone)
	}
	if sandbox != "" {
		return n.findVeth(mac, sandbox)
	}
	paths, err := f.holding(n, mac)
	if err != nil {
		return v, fmt.Errorf("find %s: %w", netHardwareAddr(mac), err)
	}
	for _, path := range paths {
		// One that goes away meanwhile is not it.
		found, err := n.findVeth(mac, path)
		if err != nil {
			continue
		}
		if v.Ifindex != 0 && v.Ifindex != found.Ifindex {
			return Veth{}, fmt.Errorf("interfaces with %s are in %s and %s: %w", netHardwareAddr(mac), v.Sandbox, path, ErrNoVeth)
		}
		v = found
	}
	if v.Ifindex == 0 {
		return v, fmt.Errorf("find %s on bridge %s: %w", netHardwareAddr(mac), n.Bridge, ErrNoVeth)
	}
	return v, nil
}

// holding lists the namespaces that hold an interface with that MAC: those
// behind free ports, and behind ports of endpoints that are admitted with it.
func (f *Search) holding(n *network, mac policy.MAC) ([]string, error) {
	f.steer.mu.Lock()
	others, taken, again := f.steer.bound(n.space, mac)
	f.steer.mu.Unlock()
	if again {
		return f.steer.leadingTo(n, others)
	}
	if f.seen[n] == nil {
		paths, err := f.steer.leadingTo(n, taken)
		if err != nil {
			return nil, err
		}
		f.seen[n] = lookInto(paths)
	}
	return f.seen[n][mac], nil
}

// lookInto lists the namespaces by the MACs of the interfaces in them.
func lookInto(paths []string) map[policy.MAC][]string {
	seen := make(map[policy.MAC][]string)
	for _, path := range paths {
		for _, mac := range macsIn(path) {
			seen[mac] = append(seen[mac], path)
		}
	}
	return seen
}

func macsIn(path string) (macs []policy.MAC) {
	ns, err := openNetNS(path)
	if err != nil {
		return nil
	}
	defer ns.close()
	_ = ns.do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if a := l.Attrs(); l.Type() == "veth" && len(a.HardwareAddr) == len(policy.MAC{}) {
				macs = append(macs, policy.MAC(a.HardwareAddr))
			}
		}
		return err
	})
	return macs
}

// bound lists the ports of admitted endpoints: all, and those with another MAC;
// again says that the two differ.
func (s *Steer) bound(sp *Space, mac policy.MAC) (others, all map[uint32]bool, again bool) {
	others, all = make(map[uint32]bool), make(map[uint32]bool)
	for _, e := range s.endpoints {
		if e.space != sp {
			continue
		}
		all[e.Ifindex] = true
		if e.MAC != mac {
			others[e.Ifindex] = true
		}
	}
	return others, all, len(all) > len(others)
}

// leadingTo lists the engine's namespaces that ports of the bridge lead to,
// bound ports left out: where hundreds of containers run, few are looked into.
func (s *Steer) leadingTo(n *network, bound map[uint32]bool) (paths []string, err error) {
	ports, err := bridgePorts(n.space.ns, n.bridge)
	if err != nil {
		return nil, err
	}
	wanted := make(map[int]bool) // the kernel's ids of namespaces, as the bridge's knows them
	for _, p := range ports {
		if p.NetNsID >= 0 && !bound[uint32(p.Index)] {
			wanted[p.NetNsID] = true
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	err = n.space.ns.do(func() error {
		for _, path := range s.namespaces()[1:] {
			if id, err := namespaceID(path); err == nil && wanted[id] {
				paths = append(paths, path)
			}
		}
		return nil
	})
	return paths, err
}

// namespaceID is the id by which the calling thread's namespace knows the one
// at path.
func namespaceID(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return netlink.GetNetNsIdByFd(int(f.Fd()))
}

func netHardwareAddr(m policy.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// inner is an interface in a container: its own index and its peer's.
type inner struct{ index, peer int }

func (n *network) findVeth(mac policy.MAC, sandbox string) (Veth, error) {
	ns, err := openNetNS(sandbox)
	if err != nil {
		return Veth{}, err
	}
	defer ns.close()
	if ns.cookie == n.space.ns.cookie {
		return Veth{}, ErrNoVeth
	}
	ends, err := interfacesWith(ns, mac)
	if err != nil {
		return Veth{}, err
	}
	for _, end := range ends {
		v, err := n.outerEnd(ns, end)
		if err == nil {
			v.Sandbox = sandbox
			return v, nil
		}
	}
	return Veth{}, fmt.Errorf("%s in %s: %w", netHardwareAddr(mac), sandbox, ErrNoVeth)
}

func interfacesWith(ns *netns, mac policy.MAC) (ends []inner, err error) {
	err = ns.do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces of %s: %w", ns.path, err)
		}
		for _, l := range links {
			a := l.Attrs()
			if l.Type() == "veth" && bytes.Equal(a.HardwareAddr, mac[:]) {
				ends = append(ends, inner{a.Index, a.ParentIndex})
			}
		}
		return nil
	})
	return ends, err
}

// outerEnd checks the peer of a container's interface from the bridge's side.
func (n *network) outerEnd(container *netns, end inner) (v Veth, err error) {
	err = n.space.ns.do(func() error {
		l, err := netlink.LinkByIndex(end.peer)
		if err != nil {
			return err
		}
		a := l.Attrs()
		if l.Type() != "veth" || a.MasterIndex != int(n.bridge) || a.ParentIndex != end.index {
			return ErrNoVeth
		}
		id, err := netlink.GetNetNsIdByFd(int(container.file.Fd()))
		if err != nil {
			return err
		}
		if id < 0 || id != a.NetNsID {
			return ErrNoVeth
		}
		v = Veth{Ifindex: uint32(a.Index), Name: a.Name}
		return nil
	})
	return v, err
}

// openPorts lists the veths of a namespace that no closed bridge has.
func openPorts(ns *netns, closed map[uint32]bool) (open map[uint32]bool, err error) {
	open = make(map[uint32]bool)
	err = ns.do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, l := range links {
			a := l.Attrs()
			if l.Type() == "veth" && a.MasterIndex != 0 && !closed[uint32(a.MasterIndex)] {
				open[uint32(a.Index)] = true
			}
		}
		return nil
	})
	return open, err
}

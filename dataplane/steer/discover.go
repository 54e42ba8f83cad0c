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
	s.mu.Lock()
	n := s.networks[zone]
	var bound map[uint32]bool
	if n != nil {
		bound = s.bound(n.space, mac)
	}
	s.mu.Unlock()
	if n == nil {
		return Veth{}, fmt.Errorf("zone %d is not guarded", zone)
	}
	if sandbox != "" {
		return n.findVeth(mac, sandbox)
	}
	paths, err := s.leadingTo(n, bound)
	if err != nil {
		return Veth{}, fmt.Errorf("find %s: %w", netHardwareAddr(mac), err)
	}
	for _, path := range paths {
		// One that goes away meanwhile is not it.
		v, err := n.findVeth(mac, path)
		if err == nil {
			return v, nil
		}
	}
	return Veth{}, fmt.Errorf("find %s on bridge %s: %w", netHardwareAddr(mac), n.Bridge, ErrNoVeth)
}

// bound lists the ports of admitted endpoints that have another MAC.
func (s *Steer) bound(sp *Space, mac policy.MAC) map[uint32]bool {
	bound := make(map[uint32]bool)
	for _, e := range s.endpoints {
		if e.space == sp && e.MAC != mac {
			bound[e.Ifindex] = true
		}
	}
	return bound
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

package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"gatehouse/policy"
)

// Network is one bridge whose ports are guarded.
type Network struct {
	Zone   policy.Zone // not 0; at most 65535, as flow keys hold 16 bits
	Bridge string      // the bridge device's name
	NetNS  string      // path of the namespace that it is in, "" = the host's
	// Closed holds what is not admitted: frames of new ports are dropped until
	// Admit, also while no gateway runs. Open networks let them pass.
	Closed bool
	// Unrouted: the bridge's host has no business to route between its ports, as that
	// of an overlay. What it routes in the name of an endpoint came by another way.
	Unrouted bool
}

type network struct {
	Network
	space   *Space
	bridge  uint32 // ifindex
	gateway policy.MAC
	from    *ebpf.Program
	to      *ebpf.Program
}

func (n *network) close() error { return errors.Join(n.from.Close(), n.to.Close()) }

// Guard makes a network ready for Admit, and sets whether what is not admitted
// passes. It may be called again at any time, and must be when the network's
// namespace or bridge was made anew: endpoints of the one before are removed
// then.
//
// Guard an existing network open, admit what runs in it, and then close it, so
// that nothing is cut meanwhile.
func (s *Steer) Guard(n Network) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.guard(n); err != nil {
		return fmt.Errorf("guard bridge %s in %s: %w", n.Bridge, nsName(n.NetNS), err)
	}
	return nil
}

// Guarded reports whether a network is guarded still. It ends with Unguard, and
// with its namespace or the slow path there: then it is to be guarded again.
func (s *Steer) Guarded(zone policy.Zone) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.networks[zone] != nil
}

func (s *Steer) guard(n Network) error {
	if n.Zone == 0 || n.Zone > math.MaxUint16 {
		return fmt.Errorf("zone %d: want 1 to %d", n.Zone, math.MaxUint16)
	}
	sp, err := s.space(n.NetNS)
	if err != nil {
		return err
	}
	bridge, err := findBridge(sp.ns, n.Bridge)
	if err != nil {
		return err
	}
	gateway := policy.MAC(bridge.HardwareAddr)
	old := s.networks[n.Zone]
	if old != nil && (old.space != sp || old.bridge != uint32(bridge.Index)) {
		if err := s.forget(old); err != nil {
			return err
		}
		old = nil
	}
	if old == nil || old.gateway != gateway || old.Unrouted != n.Unrouted {
		fresh := &network{Network: n, space: sp, bridge: uint32(bridge.Index), gateway: gateway}
		if err := s.loadNetwork(fresh); err != nil {
			return err
		}
		s.networks[n.Zone] = fresh
		if old != nil {
			err = old.close()
		}
		if err := errors.Join(err, s.setOpen(n.Zone, !n.Closed), s.replacePrograms(fresh)); err != nil {
			return err
		}
	}
	s.networks[n.Zone].Network = n
	return errors.Join(s.setOpen(n.Zone, !n.Closed), s.syncDefault(sp))
}

func findBridge(ns *netns, name string) (attrs *netlink.LinkAttrs, err error) {
	err = ns.do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if l.Type() != "bridge" {
			return fmt.Errorf("interface %s is a %s, no bridge", name, l.Type())
		}
		attrs = l.Attrs()
		return nil
	})
	if err == nil && len(attrs.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s has no Ethernet address", name)
	}
	return attrs, err
}

func (s *Steer) loadNetwork(n *network) error {
	var p struct {
		From *ebpf.Program `ebpf:"from_endpoint"`
		To   *ebpf.Program `ebpf:"to_endpoint"`
	}
	router := n.bridge
	if n.Unrouted {
		router = 0
	}
	err := s.load(&p, map[string]any{
		"zone":    uint16(n.Zone),
		"space":   uint32(n.space.Number),
		"gh0":     n.space.gh0,
		"queues":  uint32(s.cfg.Queues),
		"gateway": words(n.gateway),
		"bridge":  router,
	})
	if err != nil {
		return err
	}
	n.from, n.to = p.From, p.To
	return nil
}

// words is an address as the programs compare it.
func words(m policy.MAC) (w [3]uint16) {
	for i := range w {
		w[i] = binary.NativeEndian.Uint16(m[2*i:])
	}
	return w
}

// replacePrograms puts a network's new programs where old ones are: its own
// endpoints', and those of an earlier gateway.
func (s *Steer) replacePrograms(n *network) error {
	for _, e := range s.endpoints {
		if e.network.Zone == n.Zone {
			e.network = n
		}
	}
	ports, err := bridgePorts(n.space.ns, n.bridge)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range ports {
		h := hook{n.space.ns.cookie, uint32(p.Index), ebpf.AttachTCXIngress}
		if s.pinned(h) {
			errs = append(errs, s.attachBoth(n, h.ifindex))
		}
	}
	return errors.Join(errs...)
}

func (s *Steer) setOpen(zone policy.Zone, open bool) error {
	if open {
		return s.maps.OpenZones.Put(uint32(zone), uint32(1))
	}
	err := s.maps.OpenZones.Delete(uint32(zone))
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// Unguard ends the guarding of a network: its endpoints are removed and its
// ports are as they were found.
func (s *Steer) Unguard(zone policy.Zone) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[zone]
	if n == nil {
		return nil
	}
	err := s.forget(n)
	if n.space.gonePath() {
		return errors.Join(err, s.forgetSpace(n.space))
	}
	return errors.Join(err, s.unhook(n), s.setOpen(zone, false), s.syncDefault(n.space))
}

// forget removes a network's endpoints and the network, but leaves its ports'
// programs: without an entry they drop or pass as the zone says.
func (s *Steer) forget(n *network) error {
	var errs []error
	for id, e := range s.endpoints {
		if e.network.Zone == n.Zone {
			errs = append(errs, s.remove(id))
		}
	}
	delete(s.networks, n.Zone)
	return errors.Join(append(errs, n.close())...)
}

// unhook takes the programs off a network's ports.
func (s *Steer) unhook(n *network) error {
	ports, err := bridgePorts(n.space.ns, n.bridge)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range ports {
		errs = append(errs, s.detachBoth(n.space.ns.cookie, uint32(p.Index)))
	}
	return errors.Join(errs...)
}

// dropGone lets go of the namespaces that no longer exist.
func (s *Steer) dropGone() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, sp := range s.spaces {
		if sp.gonePath() {
			errs = append(errs, s.forgetSpace(sp))
		}
	}
	return errors.Join(errs...)
}

// forgetSpace lets go of a namespace that no longer exists: holding it would
// keep it, and its addresses, alive.
func (s *Steer) forgetSpace(sp *Space) error {
	errs := []error{s.abandon(sp)}
	hooks, err := s.pinnedHooks()
	hooks = slices.DeleteFunc(hooks, func(h hook) bool { return h.cookie != sp.ns.cookie })
	return errors.Join(append(errs, err, s.detachAll(hooks), sp.ns.close())...)
}

// abandon gives up a namespace's networks, its pair and its number, but leaves
// programs and standing default: what is closed there stays closed.
func (s *Steer) abandon(sp *Space) error {
	var errs []error
	for _, n := range s.networks {
		if n.space == sp {
			errs = append(errs, s.forget(n))
		}
	}
	s.lost += sp.lost
	delete(s.defaults, sp.ns.cookie)
	delete(s.spaces, sp.ns.cookie)
	s.held.Delete(sp.ns.cookie)
	close(sp.done)
	err := s.maps.Spaces.Delete(sp.ns.cookie)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	return errors.Join(append(errs, err)...)
}

// pairGone deals with a pair that somebody removed.
func (s *Steer) pairGone(sp *Space) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spaces[sp.ns.cookie] != sp {
		return
	}
	err := errors.Join(s.abandon(sp), sp.ns.close())
	s.report(Report{sp.NetNS, "the slow-path devices were removed by others: guard its networks again", err})
}

// bridgePorts lists the ports of a bridge.
func bridgePorts(ns *netns, bridge uint32) (ports []*netlink.LinkAttrs, err error) {
	err = ns.do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, l := range links {
			if l.Attrs().MasterIndex == int(bridge) {
				ports = append(ports, l.Attrs())
			}
		}
		return nil
	})
	return ports, err
}

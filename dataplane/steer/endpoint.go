package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// Spec says which port of a guarded network an endpoint is, and what is its own.
type Spec struct {
	ID       string // policy.Endpoint.ID
	Workload string
	Zone     policy.Zone
	Ifindex  uint32 // of the veth's host end, in the network's namespace; FindVeth tells it
	MAC      policy.MAC
	Addrs    []netip.Addr // the link-local one that follows from MAC is added
	ICC      bool         // the network lets its containers talk directly
	Overlay  bool
	Mode     policy.Mode
	// Open lets pass what nobody can judge: the gateway is down, or too much
	// waits for it. Such frames are dropped otherwise.
	Open bool
	// Unguarded is an endpoint that is not enrolled: only its sender addresses
	// are checked.
	Unguarded bool
	RanBefore bool // its workload was running before the gateway attached
}

type endpoint struct {
	Spec
	network  *network
	space    *Space
	slot     uint16
	attached uint64
	owned    []steerOwnerKey
}

func (e *endpoint) portKey() steerPortKey {
	return steerPortKey{Space: uint32(e.space.Number), Ifindex: e.Ifindex}
}

func (e *endpoint) slotKey() uint32 { return uint32(e.space.Number)<<16 | uint32(e.slot) }

// Admit lets an endpoint's port talk, as the flow map and user space say. The
// maps know of it before its programs do, and the standing default lets it by
// last. Admitting an id again, or a port that an earlier gateway admitted,
// changes it in one step; flows of other endpoints that had its address end.
func (s *Steer) Admit(spec Spec) (dataplane.Endpoint, error) {
	e, err := s.enter(spec)
	if err == nil {
		err = s.attachBoth(e.network, spec.Ifindex)
		if err != nil {
			err = errors.Join(err, s.Remove(spec.ID))
		}
	}
	if err == nil {
		err = s.letBy(e)
	}
	if err != nil {
		return dataplane.Endpoint{}, fmt.Errorf("admit endpoint %s (%s): %w", spec.ID, spec.Workload, err)
	}
	return e.dataplane(), nil
}

// Admitted reports whether an endpoint is in force still. It ends with Remove,
// with its network, and when another one is admitted at its port.
func (s *Steer) Admitted(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoints[id] != nil
}

// enter writes an endpoint into the maps.
func (s *Steer) enter(spec Spec) (*endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[spec.Zone]
	if n == nil {
		return nil, fmt.Errorf("zone %d is not guarded", spec.Zone)
	}
	if err := n.checkPort(spec.Ifindex, s.cfg.maxMTU()); err != nil {
		return nil, err
	}
	e := &endpoint{Spec: spec, network: n, space: n.space}
	if old := s.endpoints[spec.ID]; old != nil && old.portKey() != e.portKey() {
		if err := s.remove(spec.ID); err != nil {
			return nil, err
		}
	}
	if id, taken := s.ports[e.portKey()]; taken && id != spec.ID {
		if err := s.remove(id); err != nil {
			return nil, err
		}
	}
	if err := s.giveSlot(e); err != nil {
		return nil, err
	}
	if err := s.evict(e); err != nil {
		return nil, err
	}
	old := s.endpoints[spec.ID]
	if err := s.write(e, old); err != nil {
		return nil, err
	}
	s.endpoints[spec.ID] = e
	s.ports[e.portKey()] = spec.ID
	delete(s.found, e.portKey())
	return e, nil
}

// checkPort: the interface is a port of this very bridge, and its frames fit
// the slow path.
func (n *network) checkPort(ifindex uint32, maxMTU int) error {
	return n.space.ns.do(func() error {
		l, err := netlink.LinkByIndex(int(ifindex))
		if err != nil {
			return fmt.Errorf("interface %d: %w", ifindex, err)
		}
		a := l.Attrs()
		if a.MasterIndex != int(n.bridge) {
			return fmt.Errorf("interface %s is no port of bridge %s", a.Name, n.Bridge)
		}
		if a.MTU > maxMTU {
			return fmt.Errorf("interface %s has MTU %d: undecided frames of more than %d bytes cannot reach user space; lower the network's MTU, or let the slow path be a TAP", a.Name, a.MTU, maxMTU)
		}
		return nil
	})
}

func (s *Steer) giveSlot(e *endpoint) (err error) {
	if old := s.endpoints[e.ID]; old != nil {
		e.slot, e.attached = old.slot, old.attached
		return nil
	}
	var p steerPort
	if s.maps.Ports.Lookup(e.portKey(), &p) == nil {
		e.slot, e.attached = p.Slot, p.Attached
		return nil
	}
	e.attached = monotonic()
	e.slot, err = s.nextSlot(e.space)
	return err
}

// evict ends what is left of earlier endpoints that had one of e's addresses:
// their removal may be told late.
func (s *Steer) evict(e *endpoint) error {
	e.owned = e.ownerKeys()
	var gone []uint32
	for _, k := range e.owned {
		var o steerOwner
		if s.maps.Owners.Lookup(k, &o) == nil && o.Ifindex != e.Ifindex && !slices.Contains(gone, o.Ifindex) {
			gone = append(gone, o.Ifindex)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return s.flows.purge(e.Zone, gone...)
}

func (s *Steer) write(e, old *endpoint) error {
	slot := steerSlot{Ifindex: e.Ifindex, Zone: uint32(e.Zone)}
	if err := s.maps.Slots.Put(e.slotKey(), slot); err != nil {
		return fmt.Errorf("slot: %w", err)
	}
	owner := steerOwner{Ifindex: e.Ifindex, Slot: e.slot, Mac: e.MAC}
	for _, k := range e.owned {
		if err := s.maps.Owners.Put(k, owner); err != nil {
			return fmt.Errorf("addresses: %w", err)
		}
	}
	if err := s.maps.Ports.Put(e.portKey(), s.port(e)); err != nil {
		return fmt.Errorf("port: %w", err)
	}
	if old == nil {
		return nil
	}
	for _, k := range old.owned {
		if slices.Contains(e.owned, k) {
			continue
		}
		if err := s.disown(k, e.Ifindex); err != nil {
			return err
		}
	}
	return nil
}

// The bits of struct port's flags, in steer.bpf.c.
const (
	portObserve   = 1
	portOpen      = 2
	portUnguarded = 4
)

// port is the endpoint's entry, with the counters that the present one has.
func (s *Steer) port(e *endpoint) steerPort {
	var p steerPort
	if s.maps.Ports.Lookup(e.portKey(), &p) != nil {
		p = steerPort{}
	}
	p.Attached = e.attached
	p.Slot = e.slot
	p.Zone = uint16(e.Zone)
	p.Mac = e.MAC
	p.Cost = 1e9 / s.cfg.MissBudget
	p.Flags = 0
	if e.Mode == policy.Observe {
		p.Flags |= portObserve
	}
	if e.Open {
		p.Flags |= portOpen
	}
	if e.Unguarded {
		p.Flags |= portUnguarded
	}
	p.Groups = e.groups()
	return p
}

// groups is what the endpoint's solicited-node groups end with. More distinct
// ones than fit are left out: reports for them are dropped, which costs nothing
// where the bridge floods.
func (e *endpoint) groups() (groups [8]uint32) {
	n := 0
	for _, a := range e.addrs() {
		if a.Is4() || n == len(groups) {
			continue
		}
		b := a.As16()
		g := uint32(1)<<24 | uint32(b[13])<<16 | uint32(b[14])<<8 | uint32(b[15])
		if !slices.Contains(groups[:n], g) {
			groups[n] = g
			n++
		}
	}
	return groups
}

// addrs is the endpoint's addresses with its link-local one.
func (e *endpoint) addrs() []netip.Addr {
	var all []netip.Addr
	for _, a := range append(slices.Clip(e.Addrs), linkLocal(e.MAC)) {
		if a = a.Unmap().WithZone(""); a.IsValid() && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// linkLocal is the address that follows from a MAC (RFC 4291, appendix A).
func linkLocal(m policy.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

func (e *endpoint) ownerKeys() []steerOwnerKey {
	var keys []steerOwnerKey
	for _, a := range e.addrs() {
		keys = append(keys, ownerKey(e.Zone, a))
	}
	return keys
}

func ownerKey(zone policy.Zone, a netip.Addr) steerOwnerKey {
	b := a.As16()
	k := steerOwnerKey{Zone: uint32(zone)}
	for i := range k.Addr {
		k.Addr[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return k
}

func (e *endpoint) dataplane() dataplane.Endpoint {
	d := dataplane.Endpoint{
		ID:        e.ID,
		Workload:  e.Workload,
		Slot:      e.slot,
		Space:     e.space.Number,
		Zone:      e.Zone,
		Ifindex:   e.Ifindex,
		Bridge:    e.network.bridge,
		MAC:       e.MAC,
		Gateway:   e.network.gateway,
		Overlay:   e.Overlay,
		ICC:       e.ICC,
		Mode:      e.Mode,
		RanBefore: e.RanBefore,
		Attached:  int64(e.attached),
	}
	for _, a := range e.addrs() {
		d.Addrs = append(d.Addrs, a.As16())
	}
	return d
}

func (s *Steer) attachBoth(n *network, ifindex uint32) error {
	s.attaching.Lock()
	defer s.attaching.Unlock()
	ns := n.space.ns
	if err := s.attach(ns, hook{ns.cookie, ifindex, ebpf.AttachTCXIngress}, n.from); err != nil {
		return err
	}
	return s.attach(ns, hook{ns.cookie, ifindex, ebpf.AttachTCXEgress}, n.to)
}

func (s *Steer) detachBoth(cookie uint64, ifindex uint32) error {
	s.attaching.Lock()
	defer s.attaching.Unlock()
	return errors.Join(
		s.detach(hook{cookie, ifindex, ebpf.AttachTCXIngress}),
		s.detach(hook{cookie, ifindex, ebpf.AttachTCXEgress}))
}

// letBy admits the port in the standing default, if it has one.
func (s *Steer) letBy(e *endpoint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.defaults[e.space.ns.cookie]; d != nil {
		return d.admit(e.Ifindex)
	}
	return nil
}

// Remove ends an endpoint: its port is unadmitted, and its addresses, and every
// flow that names it, are gone before the call returns. An unknown id is fine.
func (s *Steer) Remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.remove(id); err != nil {
		return fmt.Errorf("remove endpoint %s: %w", id, err)
	}
	return nil
}

func (s *Steer) remove(id string) error {
	e := s.endpoints[id]
	if e == nil {
		return nil
	}
	var errs []error
	if d := s.defaults[e.space.ns.cookie]; d != nil && !s.passes(e) {
		errs = append(errs, d.revoke(e.Ifindex))
	}
	delete(s.endpoints, id)
	delete(s.ports, e.portKey())
	errs = append(errs, s.erase(e.portKey(), e.slotKey()))
	for _, k := range e.owned {
		errs = append(errs, s.disown(k, e.Ifindex))
	}
	return errors.Join(append(errs, s.flows.purge(e.Zone, e.Ifindex))...)
}

// passes: a port of an open network stays admitted in the standing default.
func (s *Steer) passes(e *endpoint) bool { return !e.network.Closed }

func (s *Steer) erase(port steerPortKey, slot uint32) error {
	var errs []error
	for _, m := range []*ebpf.Map{s.maps.Ports, s.maps.Told} {
		if err := m.Delete(port); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	if err := s.maps.Slots.Delete(slot); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// disown deletes an address that still is that interface's; a later endpoint
// may have it by now.
func (s *Steer) disown(k steerOwnerKey, ifindex uint32) error {
	var o steerOwner
	err := s.maps.Owners.Lookup(k, &o)
	if err == nil && o.Ifindex == ifindex {
		err = s.maps.Owners.Delete(k)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// Sweep removes what an earlier gateway left and this one has not taken over:
// endpoints that nobody admitted, links of interfaces that are gone, numbers of
// namespaces that are gone, all of another layout. Call it once everything present has been admitted.
func (s *Steer) Sweep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for k, slot := range s.found {
		errs = append(errs, s.sweepPort(k, slot))
	}
	clear(s.found)
	errs = append(errs, s.sweepOwners(), s.sweepLinks(), s.sweepSpaces(), s.dropOthers())
	for _, sp := range s.spaces {
		errs = append(errs, s.syncDefault(sp))
	}
	return errors.Join(errs...)
}

func (s *Steer) sweepPort(k steerPortKey, slot uint16) error {
	var p steerPort
	if err := s.maps.Ports.Lookup(k, &p); err != nil {
		return nil
	}
	return errors.Join(
		s.erase(k, k.Space<<16|uint32(slot)),
		s.flows.purge(policy.Zone(p.Zone), k.Ifindex))
}

func (s *Steer) sweepOwners() error {
	type place struct {
		zone    uint32
		ifindex uint32
	}
	present := make(map[place]bool)
	for _, e := range s.endpoints {
		present[place{uint32(e.Zone), e.Ifindex}] = true
	}
	var stale []steerOwnerKey
	var k steerOwnerKey
	var o steerOwner
	it := s.maps.Owners.Iterate()
	for it.Next(&k, &o) {
		if !present[place{k.Zone, o.Ifindex}] {
			stale = append(stale, k)
		}
	}
	errs := []error{it.Err()}
	for _, k := range stale {
		errs = append(errs, s.maps.Owners.Delete(k))
	}
	return errors.Join(errs...)
}

func (s *Steer) sweepLinks() error {
	hooks, err := s.pinnedHooks()
	hooks = slices.DeleteFunc(hooks, func(h hook) bool { return !s.severed(h) })
	return errors.Join(err, s.detachAll(hooks))
}

func (s *Steer) sweepSpaces() error {
	var stale []uint64
	var cookie uint64
	var number uint32
	it := s.maps.Spaces.Iterate()
	for it.Next(&cookie, &number) {
		if s.spaces[cookie] == nil {
			stale = append(stale, cookie)
		}
	}
	errs := []error{it.Err()}
	for _, c := range stale {
		errs = append(errs, s.maps.Spaces.Delete(c))
	}
	return errors.Join(errs...)
}

// monotonic is CLOCK_MONOTONIC in nanoseconds, the clock of bpf_ktime_get_ns.
func monotonic() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("steer: no monotonic clock: " + err.Error())
	}
	return uint64(ts.Nano())
}

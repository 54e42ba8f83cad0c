package dataplane

import (
	"slices"

	"gatehouse/policy"
)

// endpoints is an immutable index of the admitted interfaces; the worker loads
// it once per batch.
type endpoints struct {
	unset  bool // nobody has said yet who is here
	all    []*localEndpoint
	slots  map[int][]*localEndpoint // by space, then by slot; nil = nobody
	byAddr map[zoneAddr]*localEndpoint
	byMAC  map[zoneMAC]*localEndpoint
	legs   []*localEndpoint // whose frames the kernel carries from one to another
}

// localEndpoint is an Endpoint with what lives as long as it does, over many
// snapshots.
type localEndpoint struct {
	Endpoint
	*endpointLife
}

type endpointLife struct {
	// number stands for the endpoint in the classifiers' quotas; Slot is unique
	// only in its space. workload stands there for all endpoints of one.
	number, workload uint16
	rejects          rateLimit
	refusals         rateLimit // of lookups
}

type zoneAddr struct {
	zone policy.Zone
	addr [16]byte
}

type zoneMAC struct {
	zone policy.Zone
	mac  policy.MAC
}

func noEndpoints() *endpoints {
	e := newEndpoints(nil, nil)
	e.unset = true
	return e
}

// newEndpoints indexes list. The life of endpoints that stay (same id, attached
// at the same moment) is carried over from old.
func newEndpoints(list []Endpoint, old *endpoints) *endpoints {
	e := &endpoints{
		all:    make([]*localEndpoint, 0, len(list)),
		slots:  make(map[int][]*localEndpoint),
		byAddr: make(map[zoneAddr]*localEndpoint, 2*len(list)),
		byMAC:  make(map[zoneMAC]*localEndpoint, len(list)),
	}
	lives := old.lives()
	for _, x := range list {
		e.add(&localEndpoint{Endpoint: x, endpointLife: lives.of(&x)})
	}
	return e
}

func (e *endpoints) add(l *localEndpoint) {
	e.all = append(e.all, l)
	slots := e.slots[l.Space]
	for len(slots) <= int(l.Slot) {
		slots = append(slots, nil)
	}
	slots[l.Slot] = l
	e.slots[l.Space] = slots
	if l.isLeg() {
		e.legs = append(e.legs, l)
	}
	e.byMAC[zoneMAC{l.Zone, l.MAC}] = l
	for _, a := range l.Addrs {
		e.byAddr[zoneAddr{l.Zone, a}] = l
	}
}

// without is who of e is not in list any more.
func (e *endpoints) without(list []Endpoint) (gone []*localEndpoint) {
	here := make(map[string]int64, len(list))
	for i := range list {
		here[list[i].ID] = list[i].Attached
	}
	for _, l := range e.all {
		if at, ok := here[l.ID]; !ok || at != l.Attached {
			gone = append(gone, l)
		}
	}
	return gone
}

// isLeg reports whether the endpoint is an interface of a bump in the wire.
func (x *Endpoint) isLeg() bool { return x.Transit && x.Ifindex != 0 }

// across is the other interface of a bump in the wire, nil if there is none.
func (e *endpoints) across(l *localEndpoint) *localEndpoint {
	if len(e.legs) != 2 {
		return nil
	}
	if e.legs[0].Slot == l.Slot {
		return e.legs[1]
	}
	return e.legs[0]
}

// lives are the endpoints of an old snapshot by what they are known by again.
type lives struct {
	byKey     map[lifeKey]*endpointLife
	workloads map[string]uint16
	// Numbers in the old snapshot are not given again in the next.
	endpoints, owners numbers
}

// numbers gives those that are not taken.
type numbers struct {
	taken map[uint16]bool
	last  uint16
}

func (n *numbers) take(number uint16) {
	n.taken[number] = true
	n.last = max(n.last, number)
}

func (n *numbers) another() uint16 {
	for {
		n.last++
		if !n.taken[n.last] || len(n.taken) > 1<<15 {
			break
		}
	}
	n.taken[n.last] = true
	return n.last
}

type lifeKey struct {
	id       string
	attached int64
}

func (e *endpoints) lives() *lives {
	l := &lives{byKey: make(map[lifeKey]*endpointLife), workloads: make(map[string]uint16)}
	l.endpoints.taken, l.owners.taken = make(map[uint16]bool), make(map[uint16]bool)
	if e == nil {
		return l
	}
	for _, x := range e.all {
		l.byKey[lifeKey{x.ID, x.Attached}] = x.endpointLife
		l.endpoints.take(x.number)
		l.owners.take(x.workload)
		l.workloads[x.owner()] = x.workload
	}
	return l
}

// owner is whose the endpoint is; an interface that is no workload's is its own.
func (x *Endpoint) owner() string {
	if x.Workload == "" {
		return x.ID
	}
	return x.Workload
}

// of returns the endpoint's life so far, or a new one under a number that none
// had in the old snapshot.
func (l *lives) of(x *Endpoint) *endpointLife {
	if life := l.byKey[lifeKey{x.ID, x.Attached}]; life != nil {
		return life
	}
	workload, known := l.workloads[x.owner()]
	if !known {
		workload = l.owners.another()
		l.workloads[x.owner()] = workload
	}
	return &endpointLife{number: l.endpoints.another(), workload: workload}
}

// gone returns the endpoints of e that next no longer has as they were.
func (e *endpoints) gone(next *endpoints) []*localEndpoint {
	stay := make(map[lifeKey]*localEndpoint, len(next.all))
	for _, l := range next.all {
		stay[lifeKey{l.ID, l.Attached}] = l
	}
	var out []*localEndpoint
	for _, l := range e.all {
		if n := stay[lifeKey{l.ID, l.Attached}]; n == nil || n.Ifindex != l.Ifindex || !slices.Equal(n.Addrs, l.Addrs) {
			out = append(out, l)
		}
	}
	return out
}

// has reports whether addr is l's, the link-local address of its MAC (RFC 4291,
// appendix A) included.
func (l *localEndpoint) has(addr [16]byte) bool {
	if addr[0] == 0xfe {
		m := l.MAC
		return addr == [16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]} ||
			slices.Contains(l.Addrs, addr)
	}
	return slices.Contains(l.Addrs, addr)
}

// at is the endpoint behind a steering tag, nil if there is none (any more).
func at(slots []*localEndpoint, slot uint16) *localEndpoint {
	if int(slot) >= len(slots) {
		return nil
	}
	return slots[slot]
}

// mayLeaveTo checks the destination MAC of a frame that ep sends to dst: the
// endpoint that owns the address, else the gateway; in an overlay also any
// remote task. Without this a container could hand frames judged for one
// neighbour to another.
func (e *endpoints) mayLeaveTo(ep *localEndpoint, dst [16]byte, mac policy.MAC) bool {
	if owner := e.byAddr[zoneAddr{ep.Zone, dst}]; owner != nil {
		return mac == owner.MAC
	}
	if mac[0]&1 != 0 {
		return multicastMAC(dst, mac)
	}
	if mac == ep.Gateway {
		return true
	}
	return ep.Overlay && e.byMAC[zoneMAC{ep.Zone, mac}] == nil
}

// isNobody reports whether neither a unicast MAC nor an address is of an endpoint on
// ep's network.
func (e *endpoints) isNobody(ep *localEndpoint, addr [16]byte, mac policy.MAC) bool {
	return mac[0]&1 == 0 && mac != ep.Gateway && e.byMAC[zoneMAC{ep.Zone, mac}] == nil && e.byAddr[zoneAddr{ep.Zone, addr}] == nil
}

var broadcastMAC = policy.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// multicastMAC reports whether mac is the group address that dst maps to (RFC
// 1112 6.4, RFC 2464 7), or the broadcast address for an IPv4 address.
func multicastMAC(dst [16]byte, mac policy.MAC) bool {
	if isMapped(&dst) {
		if mac == broadcastMAC {
			return true
		}
		return dst[12]>>4 == 0xe && mac == policy.MAC{0x01, 0x00, 0x5e, dst[13] & 0x7f, dst[14], dst[15]}
	}
	return dst[0] == 0xff && mac == policy.MAC{0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}
}

// isMapped reports an IPv4 address in its v4-mapped form.
func isMapped(a *[16]byte) bool {
	return *(*[12]byte)(a[:12]) == [12]byte{10: 0xff, 11: 0xff}
}

// charged is the endpoint whose quota an entry counts against: the initiator
// if it is local, else the responder.
func (e *endpoints) charged(f *FlowEntry) *localEndpoint {
	zone := policy.Zone(f.Key.Zone)
	initiator, responder := f.Key.AddrA, f.Key.AddrB
	if f.Initiator == 1 {
		initiator, responder = responder, initiator
	}
	if l := e.byAddr[zoneAddr{zone, initiator}]; l != nil {
		return l
	}
	return e.byAddr[zoneAddr{zone, responder}]
}

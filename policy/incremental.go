package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Change is one workload that started in a group, or that stopped: what happens most.
type Change struct {
	Workload *Workload
	Group    Identity
	Gone     bool
	// Beside is another of the group, which is there before and after; nil = none
	// is told.
	Beside *Workload
}

// move makes the addresses of workloads, and what stands for those, those of their
// groups, or nobody's.
func (t *Table) move(before *Table, u *Update) bool {
	t.resolver.claims = claims{before.resolver.claims.tree.Copy()}
	for _, gone := range []bool{true, false} { // an address is left before it is taken again
		of := t
		if gone {
			of = before
		}
		for i := range u.Changes {
			if c := &u.Changes[i]; c.Gone == gone && !of.change(t, c) {
				return false
			}
		}
	}
	return true
}

// change makes next the table after c.
func (t *Table) change(next *Table, c *Change) bool {
	r := &next.resolver
	dense, known := t.byIdentity.Get(c.Group)
	w := c.Workload
	if !known || !r.claimFor(c, dense, t.compiled) {
		return false
	}
	workload := int32(unnumbered)
	if t.names.asks(dense) {
		switch {
		case c.Gone:
			next.names.part(w.ID)
		default:
			if workload, known = next.enlist(w.ID, dense); !known {
				return false
			}
		}
	}
	if w.SharedWith != "" { // I6: it is at no address
		return true
	}
	if c.Gone && r.strays { // who may be at its address
		return false
	}
	dns, known := r.dnsSets[dnsKey(w, t.compiled)]
	if !known {
		return false
	}
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		n, routed, found := t.compiled.network(e.Network)
		if !found {
			return false
		}
		for _, ip := range e.all() {
			if !ip.IsValid() {
				continue
			}
			a := addressFrom(ip)
			m := move{r, c, n.Zone, routed, a, dense, int32(r.placed(dense, a)), dns, workload}
			if c.Gone && !m.leave() || !c.Gone && !m.join() {
				return false
			}
		}
	}
	return true
}

// dnsKey tells sets of name servers apart (A7).
func dnsKey(w *Workload, s *Snapshot) string {
	servers := w.DNS
	if len(servers) == 0 {
		servers = s.Host.Resolvers
	}
	return fmt.Sprint(servers)
}

// network finds one by id, the first of it, and whether the kernel routes
// between its zone and others.
func (s *Snapshot) network(id string) (n *Network, routed, found bool) {
	at := slices.IndexFunc(s.Networks, func(n Network) bool { return n.ID == id })
	if at < 0 {
		return nil, false, false
	}
	n = &s.Networks[at]
	routed = !slices.ContainsFunc(s.Networks, func(o Network) bool { return o.Zone == n.Zone && !o.isRouted() })
	return n, routed, true
}

// all is the endpoint's addresses, with the link-local one that follows from
// its MAC.
func (e *Endpoint) all() []netip.Addr {
	if e.MAC == (MAC{}) {
		return e.Addresses
	}
	return append(slices.Clip(e.Addresses), e.MAC.LinkLocal())
}

// move is one address that one workload gets or leaves. The resolver is the
// mover's own; its tables are shared, and replaced.
type move struct {
	*resolver
	change  *Change
	zone    Zone
	routed  bool
	address address
	group   uint32
	who     int32 // the group's variant at the address
	dns     uint16
	number  int32 // of the workload, where it may ask for names
}

// isElsewhere: the address is met in every zone, not in its own alone.
func (m *move) isElsewhere() bool { return m.routed && !m.address.isLinkLocal() }

// isMet: what the table has of the mover's group where prefixes of statements hold
// the address is there before and after.
func (m *move) isMet() bool {
	if m.regions == nil {
		return true
	}
	region := m.regions.at(m.address.netip())
	switch {
	case region == 0:
		return true
	case !m.change.Gone:
		return m.callers[region] && m.variants.get(variantKey{m.group, region}) != 0
	case m.change.Beside == nil:
		return false
	}
	return slices.ContainsFunc(m.change.Beside.Endpoints, func(e Endpoint) bool {
		return slices.ContainsFunc(e.all(), func(ip netip.Addr) bool { return ip.IsValid() && m.regions.at(addressFrom(ip).netip()) == region })
	})
}

// isPlain: the address is in one zone at most of those that the kernel routes
// between.
func (m *move) isPlain() bool {
	if !m.isMet() {
		return false
	}
	return !m.spotAt(m.address).disputed
}

func (m *move) join() bool {
	p := m.placeAt(m.zone, m.address)
	if p.endpoint != nobody || !m.isPlain() {
		return false
	}
	p.endpoint, p.dns, p.workload = m.who, m.dns, m.number
	m.setPlace(m.key(), p)
	if !m.isElsewhere() {
		return true
	}
	sp := m.spotAt(m.address)
	if sp.endpoint != nobody {
		return false
	}
	sp.endpoint, sp.dns, sp.workload = m.who, m.dns, m.number
	m.setSpot(sp)
	return true
}

func (m *move) leave() bool {
	p := m.placeAt(m.zone, m.address)
	if p.endpoint != m.who || p.workload == nobody || !m.isPlain() {
		return false
	}
	p.endpoint, p.dns, p.workload = nobody, 0, 0
	m.setPlace(m.key(), p)
	if !m.isElsewhere() {
		return true
	}
	sp := m.spotAt(m.address)
	if sp.endpoint != m.who {
		return false
	}
	sp.endpoint, sp.dns, sp.workload = nobody, 0, 0
	m.setSpot(sp)
	return true
}

func (m *move) key() addrKey { return addrKey{uint32(m.zone), m.address} }

func (r *resolver) setPlace(k addrKey, p place) {
	cell := p.cell()
	if cell == 0 && p != (place{endpoint: nobody, vip: nobody}) {
		r.places, cell = r.places.with(p)
	}
	r.local = r.local.with(k, cell)
}

func (m *move) setSpot(s spot) {
	cell := s.cell()
	if cell == 0 && s != (spot{endpoint: nobody}) {
		m.spots, cell = m.spots.with(s)
	}
	m.anywhere = m.anywhere.with(addrKey{0, m.address}, cell)
}

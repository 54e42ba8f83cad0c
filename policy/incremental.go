package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Change is one workload that started or stopped in a group that there was
// before and is after it: what happens most.
type Change struct {
	Workload *Workload
	Group    Identity
	Gone     bool
}

// With is the table after a change, with what it shares untouched: it takes
// microseconds, however many workloads there are, and equals what Compile would
// make of s and groups. They differ from the table's own by that workload alone.
// Without ok the change reaches further than its own addresses, and Compile must
// be asked.
func (t *Table) With(epoch uint32, s *Snapshot, groups []Group, c Change) (next *Table, ok bool) {
	dense, known := t.byIdentity[c.Group]
	w := c.Workload
	if !known || t.names.of != nil || w.SharedWith != "" || w.isHostNetwork() || len(w.VIPs) > 0 || len(w.Published) > 0 {
		return nil, false
	}
	r := t.resolver
	if c.Gone && r.strays { // who may be at its address
		return nil, false
	}
	dns, known := r.dnsSets[dnsKey(w, s)]
	if !known {
		return nil, false
	}
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		n, routed, found := s.network(e.Network)
		if !found {
			return nil, false
		}
		for _, ip := range e.all() {
			if !ip.IsValid() {
				continue
			}
			m := move{&r, s, n.Zone, routed, addressFrom(ip), int32(dense), dns}
			if c.Gone && !m.leave() || !c.Gone && !m.join() {
				return nil, false
			}
		}
	}
	return &Table{epoch: epoch, resolver: r, pairs: t.pairs, parts: t.parts, crowds: t.crowds, unruled: t.unruled, ids: t.ids, peers: t.peers, byIdentity: t.byIdentity,
		rules: t.rules, sets: t.sets, statements: t.statements, groups: groups, snapshot: s, met: t.met}, true
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
	snapshot *Snapshot
	zone     Zone
	routed   bool
	address  address
	who      int32
	dns      uint16
}

// isElsewhere: the address is met in every zone, not in its own alone.
func (m *move) isElsewhere() bool { return m.routed && !m.address.isLinkLocal() }

// isPlain: nobody else has the address in any zone, and no prefix of a
// statement holds it.
func (m *move) isPlain() bool {
	if m.regions != nil && m.regions.at(m.address.netip()) != 0 {
		return false
	}
	for i := range m.snapshot.Networks {
		if z := m.snapshot.Networks[i].Zone; z != m.zone && m.local.get(uint32(z), m.address) != nil {
			return false
		}
	}
	return true
}

func (m *move) join() bool {
	k := addrKey{uint32(m.zone), m.address}
	if !m.isPlain() || m.local.get(k.scope, k.address) != nil {
		return false
	}
	m.local = m.local.with(k, &place{endpoint: m.who, vip: nobody, dns: m.dns, workload: unnumbered})
	if !m.isElsewhere() {
		return true
	}
	sp := spot{endpoint: nobody}
	if old := m.anywhere.get(0, m.address); old != nil {
		sp = *old
	}
	if sp.endpoint != nobody {
		return false
	}
	sp.endpoint, sp.dns, sp.workload = m.who, m.dns, unnumbered
	m.anywhere = m.anywhere.with(addrKey{0, m.address}, &sp)
	return true
}

func (m *move) leave() bool {
	k := addrKey{uint32(m.zone), m.address}
	p := m.local.get(k.scope, k.address)
	if p == nil || p.endpoint != m.who || p.workload == nobody || p.vip != nobody || p.lb || !m.isPlain() {
		return false
	}
	m.local = m.local.with(k, nil)
	if !m.isElsewhere() {
		return true
	}
	old := m.anywhere.get(0, m.address)
	if old == nil || old.endpoint != m.who {
		return false
	}
	sp := *old
	sp.endpoint, sp.dns, sp.workload = nobody, 0, 0
	if sp == (spot{endpoint: nobody}) {
		m.anywhere = m.anywhere.with(addrKey{0, m.address}, nil)
		return true
	}
	m.anywhere = m.anywhere.with(addrKey{0, m.address}, &sp)
	return true
}

package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Whom Diff compares outside. Two addresses between which no prefix begins or ends
// are of the same peers, in both tables, unless one of them means something of its
// own. So one address of each such stretch is asked for, and every one that means
// something.

// bothEnds is a peer as both tables number it.
type bothEnds struct {
	name   string
	at     [2]uint32
	silent bool         // it is only called
	ports  []PortRange  // where alone it is called; nil = everywhere
	ips    []netip.Addr // the host's and nodes', of whose ports some are others'
}

// endSet gathers ends, each once.
type endSet struct {
	*differ
	by    map[[2]uint32]int // index into differ.ends
	zones []zonePrefix      // the subnets of both tables' networks
	link  Zone              // some network's: fe80::/10 is every link's own (A12)
	met   [IDPrefix]bool
}

func (s *endSet) add(e bothEnds) {
	at, known := s.by[e.at]
	if !known {
		s.by[e.at] = len(s.ends)
		s.ends = append(s.ends, e)
		return
	}
	have := &s.ends[at]
	have.silent = have.silent && e.silent
	have.ips = append(have.ips, e.ips...)
	switch {
	case e.ports == nil:
		have.ports = nil
	case have.ports != nil:
		have.ports = append(have.ports, e.ports...)
	}
}

// pairOutside finds who is no workload, at every address that tells peers apart.
func (d *differ) pairOutside(s *endSet) {
	s.findZones()
	single := d.singleAddresses()
	for a := range single {
		s.addAt(a.netip())
	}
	edges := d.edges()
	for i, from := range edges {
		var end netip.Addr // the next stretch's first; none = the family's last
		if i+1 < len(edges) && edges[i+1].Is4() == from.Is4() {
			end = edges[i+1]
		}
		for ip := from; ip.IsValid() && ip != end; ip = ip.Next() {
			if _, taken := single[addressFrom(ip)]; !taken {
				s.addAt(ip)
				break
			}
		}
	}
	for a := range single {
		s.addCalled(a)
	}
	// Whose addresses neither table knows is compared as named without one.
	for id := IDUnknown; id <= IDIngress; id++ {
		if !s.met[id] {
			s.add(bothEnds{name: identityNames[id], at: [2]uint32{d.tables[0].somewhere(uint32(id)), d.tables[1].somewhere(uint32(id))}})
		}
	}
}

// findZones notes on which networks an address may be met.
func (s *endSet) findZones() {
	seen := make(map[zonePrefix]bool)
	for _, t := range s.tables {
		for zone, prefixes := range t.resolver.onLink {
			s.link = cmp.Or(s.link, zone)
			for _, p := range prefixes {
				if z := (zonePrefix{zone, p}); !seen[z] {
					seen[z] = true
					s.zones = append(s.zones, z)
				}
			}
		}
	}
}

// addAt adds who begins flows at an address, seen from everywhere and on the
// networks that hold it.
func (s *endSet) addAt(ip netip.Addr) {
	s.addIn(0, ip)
	if addressFrom(ip).isLinkLocal6() {
		s.addIn(s.link, ip)
	}
	for _, z := range s.zones {
		if z.prefix.Contains(ip) {
			s.addIn(z.zone, ip)
		}
	}
}

func (s *endSet) addIn(zone Zone, ip netip.Addr) {
	e := bothEnds{}
	for i, t := range s.tables {
		e.at[i], _ = t.resolver.source(zone, addressFrom(ip))
		if t.ids[e.at[i]] >= FirstWorkloadIdentity {
			return
		}
	}
	id := s.tables[1].ids[e.at[1]]
	s.met[id], s.met[s.tables[0].ids[e.at[0]]] = true, true
	if id == IDHost || id == IDNode {
		e.ips = []netip.Addr{ip}
	}
	e.name = s.nameAt(id, ip)
	s.add(e)
}

// nameAt names a peer at an address: by the narrower of the prefixes that the
// policies know it by.
func (s *endSet) nameAt(id Identity, ip netip.Addr) string {
	name := s.tables[1].IdentityName(id)
	var narrow netip.Prefix
	for _, t := range s.tables {
		if r := t.resolver.regions; r != nil {
			if p := r.named[r.at(ip)]; p.IsValid() && (!narrow.IsValid() || p.Bits() > narrow.Bits()) {
				narrow = p
			}
		}
	}
	if !narrow.IsValid() {
		return name
	}
	return name + " at " + narrow.String()
}

// addCalled adds who is only called at an address: name servers, the orchestrator's
// ports of the host and of nodes.
func (s *endSet) addCalled(a address) {
	ip := a.netip()
	called := func(id Identity, ports []PortRange) {
		s.met[id] = true
		s.add(bothEnds{name: s.nameAt(id, ip), silent: true, ports: ports,
			at: [2]uint32{s.tables[0].resolver.placed(uint32(id), a), s.tables[1].resolver.placed(uint32(id), a)}})
	}
	resolver, managed := false, false
	for _, t := range s.tables {
		r := &t.resolver
		spot := r.spotAt(a)
		managed = managed || spot.host || spot.node
		resolver = resolver || slices.ContainsFunc(r.dns, func(set []address) bool { return slices.Contains(set, a) })
	}
	if resolver {
		called(IDResolver, []PortRange{Port(ProtoUDP, 53), Port(ProtoTCP, 53)})
	}
	if ports := s.orchestratorPorts(a); managed && len(ports) > 0 {
		called(IDOrchestrator, ports)
	}
	s.addBehind(a)
}

// addBehind adds the services that are called at an address of the host (A5, A6).
func (s *endSet) addBehind(a address) {
	if before, after := s.tables[0].resolver.spotAt(a), s.tables[1].resolver.spotAt(a); !before.host || !after.host {
		return
	}
	for proto, known := range s.ownPorts {
		ports := slices.Sorted(maps.Keys(known))
		for i, port := range ports {
			before, was := s.tables[0].resolver.behind(a, proto, port)
			after, is := s.tables[1].resolver.behind(a, proto, port)
			at := [2]uint32{before.who, after.who}
			if !was || !is || before.port != after.port || !s.paired[at] {
				continue
			}
			own := Port(proto, after.port)
			if after.port == port {
				if own.Hi = 65535; i+1 < len(ports) {
					own.Hi = ports[i+1] - 1
				}
			}
			name := s.tables[1].IdentityName(s.tables[1].ids[after.who])
			s.add(bothEnds{name: name, silent: true, ports: []PortRange{own},
				at: [2]uint32{s.tables[0].resolver.placed(before.who, a), s.tables[1].resolver.placed(after.who, a)}})
		}
	}
}

// orchestratorPorts are those at which the orchestrator is called at an address,
// from anywhere or on a network that holds it.
func (s *endSet) orchestratorPorts(a address) []PortRange {
	zones := []Zone{0}
	for _, z := range s.zones {
		if z.prefix.Contains(a.netip()) {
			zones = append(zones, z.zone)
		}
	}
	isCalled := func(proto Proto, port uint16) bool {
		return slices.ContainsFunc(zones, func(zone Zone) bool {
			q := Query{Zone: zone, Proto: proto, DstPort: port}
			return slices.ContainsFunc(s.tables[:], func(t *Table) bool {
				who, _ := t.resolver.destination(&q, a, 0)
				return t.ids[who] == IDOrchestrator
			})
		})
	}
	out := []PortRange{}
	for proto, ports := range s.ownPorts {
		for port := range ports {
			if isCalled(proto, port) {
				out = append(out, Port(proto, port))
			}
		}
	}
	return out
}

// findOwnPorts notes the ports of the host that may be somebody else's.
func (d *differ) findOwnPorts() {
	d.ownPorts = map[Proto]map[uint16]bool{ProtoTCP: {}, ProtoUDP: {}}
	note := func(proto Proto, port uint16) {
		if d.ownPorts[proto] != nil {
			d.ownPorts[proto][port] = true
		}
	}
	for _, port := range [...]uint16{53, 2375, 2376, 2377, 4789, 6443, 7946, 10250} { // A7, A9
		note(ProtoTCP, port)
		note(ProtoUDP, port)
	}
	for _, t := range d.tables {
		for _, e := range t.resolver.engine {
			note(ProtoTCP, e.Port())
		}
		t.resolver.published.each(func(k addrKey, _ uint32) {
			note(Proto(k.scope>>16), uint16(k.scope))
			note(Proto(k.scope>>16), uint16(k.scope)+1)
		})
		for proto, owners := range t.resolver.hostPorts {
			for _, o := range owners {
				note(proto, o.lo)
				if o.hi < 65535 {
					note(proto, o.hi+1)
				}
			}
		}
	}
}

// addEdges cuts ports where an end changes hands.
func (e *bothEnds) addEdges(d *differ, proto Proto, edges map[uint32]bool) {
	for _, p := range e.ports {
		edges[uint32(p.Lo)], edges[uint32(p.Hi)+1] = true, true
	}
	if len(e.ips) == 0 {
		return
	}
	for port := range d.ownPorts[proto] {
		edges[uint32(port)], edges[uint32(port)+1] = true, true
	}
}

// isCalled reports whether who calls the end's address at that port may meet it.
// What a name server of the caller's has at port 53 is not asked for.
func (e *bothEnds) isCalled(d *differ, proto Proto, port uint16) bool {
	if e.ports != nil && !slices.ContainsFunc(e.ports, func(p PortRange) bool { return p.Contains(proto, port) }) {
		return false
	}
	return len(e.ips) == 0 || slices.ContainsFunc(e.ips, func(ip netip.Addr) bool {
		for i, t := range d.tables {
			q := Query{Proto: proto, DstPort: port}
			if who, _ := t.resolver.destination(&q, addressFrom(ip), 0); who != e.at[i] {
				return false
			}
		}
		return true
	})
}

// singleAddresses are those that mean something of their own in either table.
func (d *differ) singleAddresses() map[address]bool {
	out := make(map[address]bool)
	for _, t := range d.tables {
		r := &t.resolver
		note := func(k addrKey, _ uint32) { out[k.address] = true }
		r.local.each(note)
		r.anywhere.each(note)
		for _, set := range r.dns {
			for _, a := range set {
				out[a] = true
			}
		}
	}
	return out
}

// edges are the first addresses of stretches that are of the same peers, sorted by
// family and address.
func (d *differ) edges() []netip.Addr {
	all := make(map[netip.Addr]bool)
	cut := func(p netip.Prefix) {
		all[p.Addr()] = true
		if next := lastIn(p).Next(); next.IsValid() {
			all[next] = true
		}
	}
	for _, p := range slices.Concat(everywhere, multicast, sitePrefixes) {
		cut(p)
	}
	for _, t := range d.tables {
		r := &t.resolver
		for p := range r.outside.All() {
			cut(p)
		}
		for _, prefixes := range r.onLink {
			for _, p := range prefixes {
				cut(p)
			}
		}
		if r.regions != nil {
			for _, p := range r.regions.named[1:] {
				cut(p)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(a.BitLen(), b.BitLen()), a.Compare(b))
	})
}

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
	calls  bool        // it begins flows
	rare   bool        // hardly anybody calls from there
	called []PortRange // sorted and disjoint once all are found
	// Of what a port of the host leads to in each table: how far its own port is from
	// the host's, and in words why that is another now. Else 0 and "".
	own   [2]int
	leads string
}

// anyCalled are all ports of every protocol that is compared, as joined has them.
var anyCalled = []PortRange{{ProtoTCP, 0, 65535}, {ProtoUDP, 0, 65535}, {Proto: ProtoICMP}}

// endSet gathers ends, each once.
type endSet struct {
	*differ
	by    map[endKey]int // index into differ.ends
	zones []zonePrefix   // the subnets of both tables' networks
	link  Zone           // some network's: fe80::/10 is every link's own (A12)
	met   [IDPrefix]bool
}

type endKey struct {
	at  [2]uint32
	own [2]int
}

func (s *endSet) add(e bothEnds) {
	key := endKey{e.at, e.own}
	at, known := s.by[key]
	if !known {
		s.by[key] = len(s.ends)
		e.called = slices.Clone(e.called)
		s.ends = append(s.ends, e)
		return
	}
	have := &s.ends[at]
	have.calls, have.rare = have.calls || e.calls, have.rare || e.rare
	have.called = append(have.called, e.called...)
	if len(have.called) > 1<<16 {
		have.called = joined(have.called)
	}
}

// pairWorkloads finds the services that both tables know.
func (s *endSet) pairWorkloads() {
	groups := [2]map[string]uint32{memberGroups(s.tables[0]), memberGroups(s.tables[1])}
	members := [2]map[uint32][]*Workload{membersOf(s.tables[0], groups[0]), membersOf(s.tables[1], groups[1])}
	met := [2]map[uint32]bool{{}, {}}
	snapshot := s.tables[1].snapshot()
	old := make(map[string]*Workload)
	for i := range s.tables[0].snapshot().Workloads {
		w := &s.tables[0].snapshot().Workloads[i]
		old[w.ID] = w
	}
	for i := range snapshot.Workloads {
		w := &snapshot.Workloads[i]
		before, known := groups[0][w.ID]
		if after := groups[1][w.ID]; known && after != 0 {
			met[0][before], met[1][after] = true, true
			s.pair([2]uint32{before, after}, [2][]*Workload{{old[w.ID]}, {w}})
		}
	}
	byName := make(map[string][]uint32)
	for i := range s.tables[0].groups {
		if dense := uint32(FirstWorkloadIdentity) + uint32(i); !met[0][dense] {
			name := s.tables[0].groups[i].Service.String()
			byName[name] = append(byName[name], dense)
		}
	}
	for i := range s.tables[1].groups {
		dense, name := uint32(FirstWorkloadIdentity)+uint32(i), s.tables[1].groups[i].Service.String()
		if met[1][dense] {
			continue
		}
		if old := byName[name]; len(old) > 0 {
			s.pair([2]uint32{old[0], dense}, [2][]*Workload{members[0][old[0]], members[1][dense]})
			byName[name] = old[1:]
			continue
		}
		s.came = append(s.came, name)
	}
	for name, old := range byName {
		for range old {
			s.left = append(s.left, name)
		}
	}
}

func membersOf(t *Table, groups map[string]uint32) map[uint32][]*Workload {
	out := make(map[uint32][]*Workload)
	snapshot := t.snapshot()
	for i := range snapshot.Workloads {
		w := &snapshot.Workloads[i]
		if dense := groups[w.ID]; dense != 0 {
			out[dense] = append(out[dense], w)
		}
	}
	return out
}

// pair adds a service at the addresses of workloads that are its in each table.
func (s *endSet) pair(at [2]uint32, members [2][]*Workload) {
	s.paired[at] = true
	name := s.tables[1].IdentityName(s.tables[1].ids[at[1]])
	var senders, virtual [2][]whoAt
	untold := false
	for i, t := range s.tables {
		for _, w := range members[i] {
			senders[i] = append(senders[i], t.sendersOf(at[i], w)...)
			virtual[i] = append(virtual[i], t.virtualOf(at[i], w)...)
			untold = untold || slices.ContainsFunc(w.Endpoints, func(e Endpoint) bool { return len(e.all()) == 0 })
		}
	}
	for _, now := range senders[1] {
		s.add(bothEnds{name: name, at: [2]uint32{before(senders[0], now.ip, at[0]), now.who}, calls: true, called: anyCalled})
	}
	for _, now := range virtual[1] {
		s.add(bothEnds{name: name, at: [2]uint32{before(virtual[0], now.ip, at[0]), now.who}, called: anyCalled})
	}
	if untold && len(senders[1]) == 0 {
		s.add(bothEnds{name: name, at: at, calls: true, called: anyCalled})
	}
}

// whoAt is a variant of a peer, and an address that it is met at.
type whoAt struct {
	ip  netip.Addr
	who uint32
}

// before is who was at that address, else at the first of its family.
func before(known []whoAt, ip netip.Addr, otherwise uint32) uint32 {
	same := func(a whoAt) bool { return a.ip == ip }
	family := func(a whoAt) bool { return a.ip.Is4() == ip.Is4() }
	for _, fits := range []func(whoAt) bool{same, family} {
		if i := slices.IndexFunc(known, fits); i >= 0 {
			return known[i].who
		}
	}
	return otherwise
}

// sendersOf are the addresses from which a member of a service is known as that.
func (t *Table) sendersOf(service uint32, w *Workload) []whoAt {
	var out []whoAt
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		zone := t.zoneOf(e.Network)
		for _, ip := range e.all() {
			if who, _ := t.resolver.source(zone, addressFrom(ip)); t.ids[who] == t.ids[service] {
				out = append(out, whoAt{ip, who})
			}
		}
	}
	return out
}

// virtualOf are the virtual addresses at which a service is called.
func (t *Table) virtualOf(service uint32, w *Workload) []whoAt {
	var out []whoAt
	for network, vips := range w.VIPs {
		q := Query{Zone: t.zoneOf(network), Proto: ProtoICMP}
		for _, ip := range vips {
			if who, _ := t.resolver.destination(&q, addressFrom(ip), 0); t.ids[who] == t.ids[service] {
				out = append(out, whoAt{ip, who})
			}
		}
	}
	return out
}

func (t *Table) zoneOf(network string) Zone {
	snapshot := t.snapshot()
	at, known := slices.BinarySearchFunc(snapshot.Networks, network, func(n Network, id string) int { return cmp.Compare(n.ID, id) })
	if !known {
		return 0
	}
	return snapshot.Networks[at].Zone
}

// pairOutside finds who is no workload, at every address that tells peers apart.
func (s *endSet) pairOutside() {
	single := s.singleAddresses()
	for a := range single {
		s.addAt(a.netip())
	}
	edges := s.edges()
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
	// Whose addresses neither table knows is compared as named without one.
	for id := IDUnknown; id <= IDIngress; id++ {
		if !s.met[id] {
			s.add(bothEnds{name: identityNames[id], calls: begins(id), rare: true, called: anyCalled,
				at: [2]uint32{s.tables[0].somewhere(uint32(id)), s.tables[1].somewhere(uint32(id))}})
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

// addAt adds who begins flows at an address and who is called there, from
// everywhere and on the networks that hold it.
func (s *endSet) addAt(ip netip.Addr) {
	a := addressFrom(ip)
	s.addIn(0, a)
	if a.isLinkLocal6() {
		s.addIn(s.link, a)
	}
	for _, z := range s.zones {
		if z.prefix.Contains(ip) {
			s.addIn(z.zone, a)
		}
	}
}

func (s *endSet) addIn(zone Zone, a address) {
	var from, to [2]uint32
	q := Query{Zone: zone, Proto: ProtoICMP}
	for i, t := range s.tables {
		from[i], _ = t.resolver.source(zone, a)
		to[i], _ = t.resolver.destination(&q, a, 0)
	}
	if !s.isWorkload(from) && begins(s.tables[1].ids[from[1]]) {
		id := s.tables[1].ids[from[1]]
		s.addOutside(a, bothEnds{at: from, calls: true, rare: id == IDUnknown || id == IDMetadata})
	}
	if s.isWorkload(to) {
		return
	}
	called := anyCalled[2:]
	ported := s.dnsSets(a)
	if len(ported) == 1 && !s.hasPorts(a) {
		called = anyCalled
	}
	s.addOutside(a, bothEnds{at: to, called: called})
	if len(called) == len(anyCalled) {
		return
	}
	for _, dns := range ported {
		s.addPorts(zone, a, dns)
	}
}

// begins reports whether flows begin at such a peer: nothing is sent from the addresses
// of groups (A11).
func begins(id Identity) bool { return id != IDMulticast && id != IDBroadcast }

// addOutside adds a peer that is no workload.
func (s *endSet) addOutside(a address, e bothEnds) {
	for i, t := range s.tables {
		s.met[t.ids[e.at[i]]] = true
	}
	e.name = s.nameAt(1, e.at[1], a)
	s.add(e)
}

// isWorkload reports whether a peer is one in either table.
func (s *endSet) isWorkload(at [2]uint32) bool {
	return max(s.tables[0].ids[at[0]], s.tables[1].ids[at[1]]) >= FirstWorkloadIdentity
}

// hasPorts reports whether an address's ports may lead to others (A5, A6, A9).
func (s *endSet) hasPorts(a address) bool {
	return slices.ContainsFunc(s.tables[:], func(t *Table) bool {
		spot := t.resolver.spotAt(a)
		return spot.host || spot.node
	})
}

// dnsSets are pairs of sets of name servers, as the tables number them: none that
// holds the address and, if there is one in either, one that does (A7).
func (s *endSet) dnsSets(a address) [][2]uint16 {
	out := [][2]uint16{{}}
	var holding [2]uint16
	for i, t := range s.tables {
		if at := slices.IndexFunc(t.resolver.dns, func(set []address) bool { return slices.Contains(set, a) }); at >= 0 {
			holding[i] = uint16(at)
			out = [][2]uint16{{}, holding}
		}
	}
	return out
}

// addPorts adds who is called at each port of an address, by callers with those
// name servers.
func (s *endSet) addPorts(zone Zone, a address, dns [2]uint16) {
	for proto, stretches := range s.ownPorts {
		for _, host := range stretches {
			var to, own [2]uint32
			for i, t := range s.tables {
				who, port := t.resolver.destination(&Query{Zone: zone, Proto: proto, DstPort: host.Lo}, a, dns[i])
				to[i], own[i] = who, uint32(port)
			}
			s.addPort(a, host, to, own)
		}
	}
}

// addPort adds who is called at a stretch of ports of an address. Of its first port
// the tables' own are told.
func (s *endSet) addPort(a address, host PortRange, to, own [2]uint32) {
	isSame := s.tables[0].ids[to[0]] == s.tables[1].ids[to[1]] && !s.isWorkload(to) || s.paired[s.services(to)]
	if isSame && own[0] == own[1] {
		called := PortRange{host.Proto, uint16(own[0]), uint16(own[0]) + host.Hi - host.Lo}
		if s.isWorkload(to) {
			s.add(bothEnds{name: s.nameAt(1, to[1], a), at: to, called: []PortRange{called}})
			return
		}
		s.addOutside(a, bothEnds{at: to, called: []PortRange{called}})
		return
	}
	was, is := s.nameAt(0, to[0], a), s.nameAt(1, to[1], a)
	e := bothEnds{name: is + " (" + was + " before)", at: to, called: []PortRange{host}, leads: "that port leads to " + is + " now, and led to " + was + " before"}
	if was == is {
		e.name = is
		e.leads = "that port leads to its " + Port(host.Proto, uint16(own[1])).String() + " now, and led to " + Port(host.Proto, uint16(own[0])).String() + " before"
	}
	for i := range own {
		e.own[i] = int(own[i]) - int(host.Lo)
	}
	s.add(e)
}

// services are peers without what prefixes tell apart.
func (s *endSet) services(at [2]uint32) [2]uint32 {
	var out [2]uint32
	for i, t := range s.tables {
		out[i] = t.denseOf(t.ids[at[i]])
	}
	return out
}

// nameAt names a peer of a table at an address: what is outside by the narrower of
// the prefixes that the policies know it by.
func (s *endSet) nameAt(table int, who uint32, a address) string {
	t := s.tables[table]
	name := t.IdentityName(t.ids[who])
	if t.ids[who] >= FirstWorkloadIdentity {
		return name
	}
	var narrow netip.Prefix
	for _, t := range s.tables {
		if r := t.resolver.regions; r != nil {
			if p := r.named[r.at(a.netip())]; p.IsValid() && (!narrow.IsValid() || p.Bits() > narrow.Bits()) {
				narrow = p
			}
		}
	}
	if !narrow.IsValid() {
		return name
	}
	return name + " at " + narrow.String()
}

// findOwnPorts cuts all ports where those of the host or of a node may change
// hands.
func (d *differ) findOwnPorts() {
	edges := map[Proto]map[uint16]bool{ProtoTCP: {0: true}, ProtoUDP: {0: true}}
	note := func(proto Proto, lo, hi uint16) {
		if edges[proto] == nil {
			return
		}
		edges[proto][lo] = true
		if hi < 65535 {
			edges[proto][hi+1] = true
		}
	}
	for _, port := range [...]uint16{53, 2375, 2376, 2377, 4789, 6443, 7946, 10250} { // A7, A9
		note(ProtoTCP, port, port)
		note(ProtoUDP, port, port)
	}
	for _, t := range d.tables {
		for _, e := range t.resolver.engine {
			note(ProtoTCP, e.Port(), e.Port())
		}
		t.resolver.published.each(func(k addrKey, _ uint32) {
			note(Proto(k.scope>>16), uint16(k.scope), uint16(k.scope))
		})
		for proto, owners := range t.resolver.hostPorts {
			for _, o := range owners {
				note(proto, o.lo, o.hi)
			}
		}
	}
	d.ownPorts = make(map[Proto][]PortRange)
	for proto, known := range edges {
		sorted := slices.Sorted(maps.Keys(known))
		for i, lo := range sorted {
			hi := uint16(65535)
			if i+1 < len(sorted) {
				hi = sorted[i+1] - 1
			}
			d.ownPorts[proto] = append(d.ownPorts[proto], PortRange{proto, lo, hi})
		}
	}
}

// isCalled reports whether somebody may meet the end at that port.
func (e *bothEnds) isCalled(proto Proto, port uint16) bool {
	_, found := slices.BinarySearchFunc(e.called, Port(proto, port), func(p, q PortRange) int {
		return cmp.Or(cmp.Compare(protoPlace(p.Proto), protoPlace(q.Proto)), min(0, int(p.Hi)-int(q.Lo)), max(0, int(p.Lo)-int(q.Lo)))
	})
	return found
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

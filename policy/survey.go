package policy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// surveyor collects what a resolver is made of.
type surveyor struct {
	in       *Input
	member   map[string]uint32 // workload id -> dense number
	networks map[string]*Network
	places   map[addrKey]place
	spots    map[address]spot
	targets  map[addrKey]target
	hostNet  map[Proto][]portOwner
	claims   map[claim]int
	dnsSets  map[string]uint16
	stray    []netip.Addr // of endpoints whose network is not listed
	res      *resolver
	errs     []error
}

// newResolver reads who is where out of a snapshot. Where two peers claim one
// address or port, neither has it: it resolves to unknown.
func newResolver(in *Input, member map[string]uint32, named *regions) (*resolver, error) {
	s := surveyor{
		in: in, member: member,
		networks: make(map[string]*Network, len(in.Snapshot.Networks)),
		places:   make(map[addrKey]place), spots: make(map[address]spot),
		targets: make(map[addrKey]target), hostNet: make(map[Proto][]portOwner), claims: make(map[claim]int),
		dnsSets: map[string]uint16{"": 0},
		res: &resolver{
			hostPorts: make(map[Proto][]portOwner), onLink: make(map[Zone][]netip.Prefix),
			dns: [][]address{nil}, engine: in.Snapshot.Host.EngineAPI,
			subnets: new(bart.Lite), outside: new(bart.Table[uint32]), far: new(bart.Fast[uint32]), regions: named,
		},
	}
	s.surveyOutside()
	s.surveyHost()
	for i := range in.Snapshot.Networks {
		s.surveyNetwork(&in.Snapshot.Networks[i])
	}
	for i := range in.Snapshot.Workloads {
		s.surveyWorkload(int32(i))
	}
	s.surveyFronts()
	s.surveyElsewhere()
	s.finish()
	return s.res, errors.Join(s.errs...)
}

func (s *surveyor) fault(format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

func (s *surveyor) surveyOutside() {
	for _, p := range sitePrefixes {
		s.res.outside.Insert(p, uint32(IDSite))
	}
	insert := func(ps []netip.Prefix, who Identity, setting string) {
		for _, p := range ps {
			if !p.IsValid() {
				s.fault("%s: %v is not a prefix", setting, p)
				continue
			}
			s.res.outside.Insert(plain(p), uint32(who))
		}
	}
	insert(s.in.ExtraSite, IDSite, "site prefixes to add")
	insert(s.in.NotSite, IDInternet, "site prefixes to remove")
	for _, p := range s.in.NotSite {
		if slices.Contains(s.in.ExtraSite, p) {
			s.fault("site prefix %v is both added and removed: drop one of the two", p)
		}
	}
	for _, ip := range slices.Concat(metadataAddrs, s.in.ExtraMetadata) {
		if !ip.IsValid() {
			s.fault("metadata addresses to add: an address is empty")
			continue
		}
		s.mark(ip, func(sp *spot) { sp.metadata = true })
	}
}

func (s *surveyor) surveyHost() {
	h := &s.in.Snapshot.Host
	for _, p := range h.Addresses {
		if !p.IsValid() {
			s.fault("host: %v is not an address with a prefix", p)
			continue
		}
		p = netip.PrefixFrom(p.Addr().WithZone("").Unmap(), p.Bits())
		if p.Addr().IsLoopback() || p.Addr().IsUnspecified() {
			continue
		}
		s.mark(p.Addr(), func(sp *spot) { sp.host = true })
		s.markBroadcast(p)
	}
	for _, ip := range h.Nodes {
		if !ip.IsValid() {
			s.fault("host: a node's address is empty")
			continue
		}
		s.mark(ip, func(sp *spot) { sp.node = true })
	}
	s.mark(netip.AddrFrom4([4]byte{255, 255, 255, 255}), func(sp *spot) { sp.broadcast = true })
}

func (s *surveyor) mark(ip netip.Addr, set func(*spot)) {
	a := addressFrom(ip)
	sp, ok := s.spots[a]
	if !ok {
		sp.endpoint = nobody
	}
	set(&sp)
	s.spots[a] = sp
}

// markBroadcast marks the last address of an IPv4 network; /31 and /32 have
// none (RFC 3021).
func (s *surveyor) markBroadcast(p netip.Prefix) {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return
	}
	b := p.Addr().As4()
	last := binary.BigEndian.Uint32(b[:]) | ^uint32(0)>>p.Bits()
	binary.BigEndian.PutUint32(b[:], last)
	s.mark(netip.AddrFrom4(b), func(sp *spot) { sp.broadcast = true })
}

func (s *surveyor) surveyNetwork(n *Network) {
	if s.networks[n.ID] != nil { // Problems tells
		return
	}
	s.networks[n.ID] = n
	for _, p := range n.Subnets {
		if !p.IsValid() { // Problems tells
			continue
		}
		p = plain(p)
		s.res.onLink[n.Zone] = append(s.res.onLink[n.Zone], p)
		if n.Ingress {
			s.res.ingress = append(s.res.ingress, zonePrefix{n.Zone, p})
		}
		s.markBroadcast(p)
		if !n.isOutsideLink() {
			s.res.subnets.Insert(p)
		}
	}
	for _, ip := range n.Gateways {
		if ip.IsValid() && n.isRouted() && !n.isOutsideLink() {
			s.mark(ip, func(sp *spot) { sp.host = true })
		}
	}
	for _, ip := range n.LB {
		if ip.IsValid() {
			s.put(n.Zone, ip, func(p *place) { p.lb = true })
		}
	}
}

func (s *surveyor) put(zone Zone, ip netip.Addr, set func(*place)) {
	k := addrKey{uint32(zone), addressFrom(ip)}
	p, ok := s.places[k]
	if !ok {
		p.endpoint, p.vip = nobody, nobody
	}
	set(&p)
	s.places[k] = p
}

// claimPlace gives a peer what nobody has, and takes it from both where another
// has it already.
func claimPlace(owner *int32, who uint32) {
	switch *owner {
	case nobody, int32(who):
		*owner = int32(who)
	default:
		*owner = int32(IDUnknown)
	}
}

func (s *surveyor) surveyWorkload(index int32) {
	w := &s.in.Snapshot.Workloads[index]
	who := s.member[w.ID] // unknown (0) while it is in no group
	w.fronts(s.zone, func(f front, port uint16) { s.claims[claim{front: f, target: target{who, port}}]++ })
	if w.SharedWith != "" { // I6: the owner's endpoint is its own
		return
	}
	dns := s.dnsSet(w)
	for i := range w.Endpoints {
		s.surveyEndpoint(index, &w.Endpoints[i], who, dns)
	}
}

func (s *surveyor) zone(network string) (Zone, bool) {
	n := s.networks[network]
	if n == nil {
		return 0, false
	}
	return n.Zone, true
}

// surveyFronts gives peers what they claim.
func (s *surveyor) surveyFronts() {
	s.res.claims = newClaims()
	for c, n := range s.claims {
		s.res.claims.add(c, n)
		switch c.kind {
		case frontVIP:
			s.put(Zone(c.at.scope), c.at.netip(), func(p *place) { claimPlace(&p.vip, c.who) })
		case frontPublished:
			s.targets[c.at], _ = s.res.claims.of(c.front, uint16(c.at.scope))
		case frontHostPorts:
			s.hostNet[Proto(c.at.scope)] = append(s.hostNet[Proto(c.at.scope)], portOwner{c.lo, c.hi, c.who})
		}
	}
}

// dnsSet numbers the workload's set of name servers (A7).
func (s *surveyor) dnsSet(w *Workload) uint16 {
	servers := w.DNS
	if len(servers) == 0 {
		servers = s.in.Snapshot.Host.Resolvers
	}
	key := dnsKey(w, s.in.Snapshot)
	if i, ok := s.dnsSets[key]; ok {
		return i
	}
	var set []address
	for _, ip := range servers {
		if ip.IsValid() {
			set = append(set, addressFrom(ip))
		}
	}
	if len(s.res.dns) > 0xffff { // this one has no resolver then
		return 0
	}
	i := uint16(len(s.res.dns))
	s.res.dns = append(s.res.dns, set)
	s.dnsSets[key] = i
	return i
}

func (s *surveyor) surveyEndpoint(index int32, e *Endpoint, who uint32, dns uint16) {
	n := s.networks[e.Network]
	if n == nil { // Problems tells
		s.stray = append(s.stray, e.Addresses...)
		return
	}
	for _, ip := range e.all() {
		if !ip.IsValid() { // Problems tells
			continue
		}
		s.put(n.Zone, ip, func(p *place) {
			switch {
			case p.endpoint == nobody:
				p.dns, p.workload = dns, index
			case p.workload != index:
				p.workload = nobody
			}
			claimPlace(&p.endpoint, who)
			if p.endpoint == int32(IDUnknown) {
				p.dns = 0
			}
		})
	}
}

// boundTo are the addresses of the host at which containers meet the port. Without
// one it is bound in both families; on loopback no container can reach it.
func (p *Published) boundTo() []address {
	switch {
	case !p.HostIP.IsValid():
		return []address{{0, mappedLo}, {}}
	case p.HostIP.IsLoopback():
		return nil
	}
	return []address{addressFrom(p.HostIP)}
}

// surveyElsewhere makes the endpoints of routed networks known to all zones,
// where their address is unique among them.
func (s *surveyor) surveyElsewhere() {
	apart := make(map[Zone]bool)
	for _, n := range s.networks {
		if !n.isRouted() {
			apart[n.Zone] = true
		}
	}
	type found struct {
		place
		times int
	}
	byAddress := make(map[address]found)
	for k, p := range s.places {
		if p.endpoint == nobody || apart[Zone(k.scope)] || k.isLinkLocal() {
			continue
		}
		f := byAddress[k.address]
		byAddress[k.address] = found{p, f.times + 1}
	}
	for a, f := range byAddress {
		sp, ok := s.spots[a]
		if !ok {
			sp.endpoint = nobody
		}
		if sp.disputed = f.times > 1; !sp.disputed {
			sp.endpoint, sp.dns, sp.workload = f.endpoint, f.dns, f.workload
		}
		s.spots[a] = sp
	}
	s.res.strays = len(s.stray) > 0
	// Whose network is not known is unknown (A12), never site.
	for _, ip := range s.stray {
		if ip.IsValid() {
			s.mark(ip, func(sp *spot) {
				if sp.endpoint == nobody {
					sp.endpoint = int32(IDUnknown)
				}
			})
		}
	}
}

func (s *surveyor) finish() {
	r := s.res
	for proto, owners := range s.hostNet {
		r.hostPorts[proto] = disjoint(owners)
	}
	if r.regions != nil {
		s.surveyRegions()
		s.placeVariants()
	}
	s.surveyFar()
	spots := make(map[addrKey]spot, len(s.spots))
	for a, sp := range s.spots {
		spots[addrKey{0, a}] = sp
	}
	if !slices.ContainsFunc(s.in.Statements, asksNames) {
		forgetNumbers(s.places, spots)
	}
	r.local, r.places = newCells(s.places, place.cell)
	r.anywhere, r.spots = newCells(spots, spot.cell)
	r.published, r.targets = newCells(s.targets, func(target) uint32 { return 0 })
	r.dnsSets = s.dnsSets
}

// forgetNumbers leaves out which workload is at an address, as nobody asks: most
// addresses then say no more than their cells hold.
func forgetNumbers(places map[addrKey]place, spots map[addrKey]spot) {
	for k, p := range places {
		if p.endpoint != nobody && p.workload != nobody {
			p.workload = unnumbered
			places[k] = p
		}
	}
	for k, sp := range spots {
		if sp.endpoint != nobody && sp.workload != nobody {
			sp.workload = unnumbered
			spots[k] = sp
		}
	}
}

// placeVariants writes the variants of peers in place of those, where their
// addresses are known.
func (s *surveyor) placeVariants() {
	variant := func(who *int32, a address) {
		if *who != nobody {
			*who = int32(s.res.placed(uint32(*who), a))
		}
	}
	for k, p := range s.places {
		variant(&p.endpoint, k.address)
		variant(&p.vip, k.address)
		s.places[k] = p
	}
	for a, sp := range s.spots {
		variant(&sp.endpoint, a)
		s.spots[a] = sp
	}
}

// everywhere covers all addresses, cut where isGlobal changes its mind.
var everywhere = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/0"), netip.MustParsePrefix("2000::/3"),
}

// surveyFar makes one table of who is at addresses of which only ranges are known.
// A prefix of it stands for those of its addresses that no longer one holds.
func (s *surveyor) surveyFar() {
	r := s.res
	add := func(p netip.Prefix) { r.far.Insert(p, s.farAt(p)) }
	for _, p := range everywhere {
		add(p)
	}
	for p := range r.outside.All() {
		add(p)
	}
	for p := range r.subnets.All() {
		add(p)
	}
	if r.regions != nil {
		for _, p := range r.regions.named[1:] {
			add(p)
		}
	}
}

func (s *surveyor) farAt(p netip.Prefix) uint32 {
	r := s.res
	who, known := r.outside.LookupPrefix(p)
	switch {
	case r.subnets.LookupPrefix(p):
		who = uint32(IDUnknown)
	case known:
	case isGlobal(p):
		who = uint32(IDInternet)
	default:
		who = uint32(IDUnknown)
	}
	if r.regions == nil {
		return who
	}
	region, _ := r.regions.longest.LookupPrefix(p)
	if v := r.variants.get(variantKey{who, region}); region != 0 && v != 0 {
		return v
	}
	return who
}

// surveyRegions notes which peers can be met in which regions: workloads at
// their own and their services' addresses and behind those of the host, others
// where the lines of section 1 that mean them can hold.
func (s *surveyor) surveyRegions() {
	r := s.res
	met := make(map[variantKey]bool)
	r.callers = make(map[uint32]bool)
	add := func(who Identity, region uint32) {
		if region != 0 {
			met[variantKey{uint32(who), region}] = true
		}
	}
	for region := uint32(1); region < r.regions.count; region++ {
		for who := range s.outsiders(r.regions.named[region]) {
			add(who, region)
		}
	}
	for k, p := range s.places {
		region := r.regions.at(k.netip())
		if p.endpoint >= int32(FirstWorkloadIdentity) {
			r.callers[region] = true
		}
		add(Identity(max(p.endpoint, 0)), region)
		add(Identity(max(p.vip, 0)), region)
		if p.lb {
			add(IDLB, region)
		}
	}
	for _, set := range r.dns {
		for _, a := range set {
			add(IDResolver, r.regions.at(a.netip()))
		}
	}
	for a, sp := range s.spots {
		region := r.regions.at(a.netip())
		s.surveySpot(sp, region, add)
		if sp.host && region != 0 && !slices.Contains(r.hostRegions, region) {
			r.hostRegions = append(r.hostRegions, region)
		}
	}
	r.met = slices.SortedFunc(maps.Keys(met), func(a, b variantKey) int {
		return cmp.Or(cmp.Compare(a.region, b.region), cmp.Compare(a.who, b.who))
	})
	r.variants = newVariantTable(r.met, uint32(FirstWorkloadIdentity)+uint32(len(s.in.Groups)))
}

// surveySpot adds who can be met at an address.
func (s *surveyor) surveySpot(sp spot, region uint32, add func(Identity, uint32)) {
	if sp.endpoint != nobody {
		add(Identity(sp.endpoint), region)
	}
	if sp.metadata {
		add(IDMetadata, region)
	}
	if sp.broadcast {
		add(IDBroadcast, region)
	}
	if sp.node {
		add(IDNode, region)
	}
	if sp.host || sp.node {
		add(IDOrchestrator, region)
	}
	if !sp.host {
		return
	}
	add(IDHost, region)
	for _, t := range s.targets {
		add(Identity(t.who), region)
	}
	for _, owners := range s.hostNet {
		for _, o := range owners {
			add(Identity(o.who), region)
		}
	}
}

// isGlobal reports unicast that may be the internet's once everything private is
// ruled out: 2000::/3 (RFC 4291), and IPv4 without 0/8, 127/8 and 224/3. What other
// prefixes of everywhere take out of p does not count.
func isGlobal(p netip.Prefix) bool {
	if p.Addr().Is4() {
		first := p.Addr().As4()[0]
		return first == 0 && p.Bits() < 8 || first != 0 && first != 127 && first < 224
	}
	return p.Addr().As16()[0]>>5 == 1
}

var multicast = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")}

// outsiders holds whom the ranges of section 1 place at addresses of p, and
// perhaps others.
func (s *surveyor) outsiders(p netip.Prefix) map[Identity]bool {
	r := s.res
	found := map[Identity]bool{IDUnknown: true}
	if p.Bits() == 0 { // who is named without an address is at one of these
		for who := IDUnknown; who <= IDIngress; who++ {
			found[who] = true
		}
	}
	if who, ok := r.outside.LookupPrefix(p); ok {
		found[Identity(who)] = true
	} else {
		found[IDInternet] = true
	}
	for _, who := range r.outside.Subnets(p) {
		found[Identity(who)] = true
	}
	if slices.ContainsFunc(multicast, p.Overlaps) {
		found[IDMulticast] = true
	}
	if slices.ContainsFunc(r.ingress, func(n zonePrefix) bool { return n.prefix.Overlaps(p) }) {
		found[IDIngress] = true
	}
	return found
}

// disjoint cuts ranges of ports into sorted pieces of one owner each; a piece
// that two claim is nobody's.
func disjoint(owners []portOwner) []portOwner {
	var out []portOwner
	sweep(len(owners), func(i int) (lo, hi uint16) { return owners[i].lo, owners[i].hi },
		func(lo, hi uint16, of []int32) {
			who := owners[of[0]].who
			for _, i := range of[1:] {
				if owners[i].who != who {
					who = uint32(IDUnknown)
				}
			}
			out = append(out, portOwner{lo, hi, who})
		})
	return out
}

// sweep cuts n ranges of ports into disjoint pieces, in order, and calls emit
// with each piece and the ranges that cover it, ascending. emit must not keep of.
func sweep(n int, bounds func(i int) (lo, hi uint16), emit func(lo, hi uint16, of []int32)) {
	type edge struct {
		port uint32 // where the range begins, or the first port behind it
		i    int32
		end  bool
	}
	edges := make([]edge, 0, 2*n)
	for i := range n {
		lo, hi := bounds(i)
		edges = append(edges, edge{uint32(lo), int32(i), false}, edge{uint32(hi) + 1, int32(i), true})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.port, b.port) })
	var of []int32
	var from uint32
	for k := 0; k < len(edges); {
		port := edges[k].port
		if len(of) > 0 {
			emit(uint16(from), uint16(port-1), of)
		}
		for ; k < len(edges) && edges[k].port == port; k++ {
			at, found := slices.BinarySearch(of, edges[k].i)
			if edges[k].end && found {
				of = slices.Delete(of, at, at+1)
			} else if !edges[k].end {
				of = slices.Insert(of, at, edges[k].i)
			}
		}
		from = port
	}
}

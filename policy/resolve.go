package policy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
)

// Resolution says who is at an address (A1-A14). Inside a table, identities
// are dense numbers: those below FirstWorkloadIdentity stand for themselves,
// groups follow in the order of Input.Groups.

// nobody marks that a line of section 1 does not fit.
const nobody = -1

// resolver holds all that resolution reads; immutable.
type resolver struct {
	local     addrTable // (zone, address) -> places
	places    []place
	anywhere  addrTable // (0, address) -> spots
	spots     []spot
	published addrTable // (protocol and port, host address or the family's unspecified) -> targets
	targets   []target
	hostPorts map[Proto][]portOwner // A6, sorted and disjoint
	onLink    map[Zone][]netip.Prefix
	ingress   []zonePrefix
	dns       [][]address // sets of name servers, by place.dns and spot.dns
	engine    []netip.AddrPort
	subnets   *bart.Lite          // A12
	outside   *bart.Table[uint32] // A13: site or, taken out of it, internet
}

// place is who is at an address of one zone.
type place struct {
	endpoint int32  // A1, or nobody
	vip      int32  // A2, or nobody
	lb       bool   // A3
	dns      uint16 // index into resolver.dns
}

// spot is what an address is in every zone.
type spot struct {
	endpoint  int32 // A1 in another zone, or nobody
	dns       uint16
	host      bool
	node      bool
	metadata  bool
	broadcast bool
}

type target struct {
	who  uint32
	port uint16
}

type portOwner struct {
	lo, hi uint16
	who    uint32
}

type zonePrefix struct {
	zone   Zone
	prefix netip.Prefix
}

// peers resolves both ends of a flow; port is the responder's own. The first
// line of section 1 that fits wins.
func (r *resolver) peers(q *Query) (from, to uint32, port uint16) {
	src, dst := addressOf(&q.Src), addressOf(&q.Dst)
	from, dns := r.source(q.Zone, src)
	to, port = r.destination(q, dst, dns)
	return from, to, port
}

func (r *resolver) source(zone Zone, a address) (who uint32, dns uint16) {
	p, s := r.at(zone, a)
	switch {
	case p != nil && p.endpoint != nobody: // A1
		return uint32(p.endpoint), p.dns
	case s != nil && s.endpoint != nobody && !r.isOnLink(zone, a): // A1
		return uint32(s.endpoint), s.dns
	case p != nil && p.lb: // A3
		return uint32(IDLB), 0
	case r.isIngress(zone, a): // A4
		return uint32(IDIngress), 0
	case s != nil && s.metadata: // A8
		return uint32(IDMetadata), 0
	}
	return r.elsewhere(zone, a, s), 0
}

func (r *resolver) destination(q *Query, a address, dns uint16) (who uint32, port uint16) {
	p, s := r.at(q.Zone, a)
	switch {
	case p != nil && p.endpoint != nobody: // A1
		return uint32(p.endpoint), q.DstPort
	case s != nil && s.endpoint != nobody && !r.isOnLink(q.Zone, a): // A1
		return uint32(s.endpoint), q.DstPort
	case p != nil && p.vip != nobody: // A2
		return uint32(p.vip), q.DstPort
	case p != nil && p.lb: // A3
		return uint32(IDLB), q.DstPort
	case r.isIngress(q.Zone, a): // A4
		return uint32(IDIngress), q.DstPort
	}
	if s != nil && s.host {
		if t, ok := r.behind(a, q.Proto, q.DstPort); ok { // A5, A6
			return t.who, t.port
		}
	}
	switch {
	case q.DstPort == 53 && (q.Proto == ProtoUDP || q.Proto == ProtoTCP) && slices.Contains(r.dns[dns], a): // A7
		return uint32(IDResolver), q.DstPort
	case s != nil && s.metadata: // A8
		return uint32(IDMetadata), q.DstPort
	case s != nil && (s.host || s.node) && r.isOrchestrator(a, s, q.Proto, q.DstPort): // A9
		return uint32(IDOrchestrator), q.DstPort
	}
	return r.elsewhere(q.Zone, a, s), q.DstPort
}

func (r *resolver) at(zone Zone, a address) (*place, *spot) {
	var p *place
	var s *spot
	if i := r.local.get(uint64(zone), a); i >= 0 {
		p = &r.places[i]
		if p.endpoint != nobody {
			return p, nil
		}
	}
	if i := r.anywhere.get(0, a); i >= 0 {
		s = &r.spots[i]
	}
	return p, s
}

// elsewhere is A10 to A14, the same for both ends.
func (r *resolver) elsewhere(zone Zone, a address, s *spot) uint32 {
	switch {
	case s != nil && s.host:
		return uint32(IDHost)
	case s != nil && s.node:
		return uint32(IDNode)
	case a.isMulticast():
		return uint32(IDMulticast)
	case s != nil && s.broadcast:
		return uint32(IDBroadcast)
	case zone != 0 && a.isLinkLocal6(): // on every container network's link
		return uint32(IDUnknown)
	}
	ip := a.netip()
	if r.subnets.Contains(ip) {
		return uint32(IDUnknown)
	}
	if who, ok := r.outside.Lookup(ip); ok {
		return who
	}
	if a.isGlobal() {
		return uint32(IDInternet)
	}
	return uint32(IDUnknown)
}

// isOnLink: the address is in the zone's own subnets, so that the kernel would
// not route to another zone for it.
func (r *resolver) isOnLink(zone Zone, a address) bool {
	ip := a.netip()
	for _, p := range r.onLink[zone] {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

func (r *resolver) isIngress(zone Zone, a address) bool {
	for i := range r.ingress {
		if n := &r.ingress[i]; n.zone == zone && n.prefix.Contains(a.netip()) {
			return true
		}
	}
	return false
}

// behind finds the service behind a host address and port. A published port
// bound to that very address goes before one bound to all (A5), both before a
// host-network workload (A6).
func (r *resolver) behind(a address, proto Proto, port uint16) (target, bool) {
	scope := portScope(proto, port)
	i := r.published.get(scope, a)
	if i < 0 {
		i = r.published.get(scope, unspecified(a))
	}
	if i >= 0 {
		return r.targets[i], true
	}
	for _, o := range r.hostPorts[proto] {
		if o.lo <= port && port <= o.hi {
			return target{o.who, port}, true
		}
	}
	return target{}, false
}

func portScope(proto Proto, port uint16) uint64 { return uint64(proto)<<16 | uint64(port) }

// unspecified is 0.0.0.0 or ::, whichever is of a's family.
func unspecified(a address) address {
	if a.is4() {
		return address{0, mappedLo}
	}
	return address{}
}

// isOrchestrator knows the ports of Docker (2375-2377), Swarm (2377, 7946,
// 4789), the Kubernetes API (6443) and kubelet (10250), and the engine's own.
func (r *resolver) isOrchestrator(a address, s *spot, proto Proto, port uint16) bool {
	if proto != ProtoTCP && proto != ProtoUDP {
		return false
	}
	switch port {
	case 2375, 2376, 2377, 7946, 4789, 6443, 10250:
		return true
	}
	for _, e := range r.engine {
		if proto == ProtoTCP && e.Port() == port && (addressFrom(e.Addr()) == a || e.Addr().IsUnspecified() && s.host) {
			return true
		}
	}
	return false
}

// metadataAddrs are the cloud providers' instance metadata services (A8).
var metadataAddrs = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.170.23"),
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd00:ec2::23"), netip.MustParseAddr("fd20:ce::254"),
	netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"),
}

// sitePrefixes are private unicast (A13).
var sitePrefixes = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// isOutsideLink reports drivers whose networks are the outside's own link: the
// LAN's addresses are in their subnets, so that those say nothing of
// containers.
func (n *Network) isOutsideLink() bool { return n.Driver == "macvlan" || n.Driver == "ipvlan" }

// isRouted: the host's kernel routes between this network and others; an
// overlay lives in a namespace of its own.
func (n *Network) isRouted() bool { return n.NetNS == "" && n.Driver != "overlay" }

// isHostNetwork: the workload lives in the host's network namespace.
func (w *Workload) isHostNetwork() bool { return strings.HasPrefix(w.Uncovered, "network_mode host") }

// LinkLocal is the IPv6 link-local address that follows from a MAC (modified
// EUI-64, RFC 4291 appendix A).
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// surveyor collects what a resolver is made of.
type surveyor struct {
	in       *Input
	member   map[string]uint32 // workload id -> dense number
	networks map[string]*Network
	places   map[addrKey]place
	spots    map[address]spot
	targets  map[addrKey]target
	hostNet  map[Proto][]portOwner
	dnsSets  map[string]uint16
	res      *resolver
	errs     []error
}

// newResolver reads who is where out of a snapshot. Where two peers claim one
// address or port, neither has it: it resolves to unknown.
func newResolver(in *Input, member map[string]uint32) (*resolver, error) {
	s := surveyor{
		in: in, member: member,
		networks: make(map[string]*Network, len(in.Snapshot.Networks)),
		places:   make(map[addrKey]place), spots: make(map[address]spot),
		targets: make(map[addrKey]target), hostNet: make(map[Proto][]portOwner),
		dnsSets: map[string]uint16{"": 0},
		res: &resolver{
			hostPorts: make(map[Proto][]portOwner), onLink: make(map[Zone][]netip.Prefix),
			dns: [][]address{nil}, engine: in.Snapshot.Host.EngineAPI,
			subnets: new(bart.Lite), outside: new(bart.Table[uint32]),
		},
	}
	s.surveyOutside()
	s.surveyHost()
	for i := range in.Snapshot.Networks {
		s.surveyNetwork(&in.Snapshot.Networks[i])
	}
	for i := range in.Snapshot.Workloads {
		s.surveyWorkload(&in.Snapshot.Workloads[i])
	}
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

// plain is the masked prefix, as IPv4 where it is v4-mapped.
func plain(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
	}
	return p.Masked()
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
	if s.networks[n.ID] != nil {
		s.fault("network %s (%s) is listed twice", n.Name, n.ID)
		return
	}
	s.networks[n.ID] = n
	for _, p := range n.Subnets {
		if !p.IsValid() {
			s.fault("network %s: %v is not a subnet", n.Name, p)
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
	k := addrKey{uint64(zone), addressFrom(ip)}
	p, ok := s.places[k]
	if !ok {
		p.endpoint, p.vip = nobody, nobody
	}
	set(&p)
	s.places[k] = p
}

// claim gives a peer what nobody has, and takes it from both where another
// has it already.
func claim(owner *int32, who uint32) {
	switch *owner {
	case nobody, int32(who):
		*owner = int32(who)
	default:
		*owner = int32(IDUnknown)
	}
}

func (s *surveyor) surveyWorkload(w *Workload) {
	if w.SharedWith != "" { // I6: the owner's endpoint is its own
		return
	}
	who := s.member[w.ID] // unknown (0) while it is in no group
	dns := s.dnsSet(w)
	for i := range w.Endpoints {
		s.surveyEndpoint(w, &w.Endpoints[i], who, dns)
	}
	for id, vips := range w.VIPs {
		n := s.networks[id]
		if n == nil {
			continue
		}
		for _, ip := range vips {
			if ip.IsValid() {
				s.put(n.Zone, ip, func(p *place) { claim(&p.vip, who) })
			}
		}
	}
	for _, p := range w.Published {
		s.surveyPublished(p, who)
	}
	if !w.isHostNetwork() {
		return
	}
	for _, r := range w.Exposed {
		if r.Hi < r.Lo {
			s.fault("workload %s: exposed ports %v: the lower number comes first", w.Name, r)
			continue
		}
		s.hostNet[r.Proto] = append(s.hostNet[r.Proto], portOwner{r.Lo, r.Hi, who})
	}
}

// dnsSet numbers the workload's set of name servers (A7).
func (s *surveyor) dnsSet(w *Workload) uint16 {
	servers := w.DNS
	if len(servers) == 0 {
		servers = s.in.Snapshot.Host.Resolvers
	}
	key := fmt.Sprint(servers)
	if i, ok := s.dnsSets[key]; ok {
		return i
	}
	var set []address
	for _, ip := range servers {
		if ip.IsValid() {
			set = append(set, addressFrom(ip))
		}
	}
	if len(s.res.dns) > 0xffff {
		s.fault("workload %s: more than 65,535 different sets of name servers", w.Name)
		return 0
	}
	i := uint16(len(s.res.dns))
	s.res.dns = append(s.res.dns, set)
	s.dnsSets[key] = i
	return i
}

func (s *surveyor) surveyEndpoint(w *Workload, e *Endpoint, who uint32, dns uint16) {
	n := s.networks[e.Network]
	if n == nil {
		if len(e.Addresses) > 0 {
			s.fault("workload %s: endpoint %s is on network %s, which is not in the snapshot", w.Name, e.ID, e.Network)
		}
		return
	}
	addrs := e.Addresses
	if e.MAC != (MAC{}) {
		addrs = append(slices.Clip(addrs), e.MAC.LinkLocal())
	}
	for _, ip := range addrs {
		if !ip.IsValid() {
			s.fault("workload %s: endpoint %s has an empty address", w.Name, e.ID)
			continue
		}
		s.put(n.Zone, ip, func(p *place) {
			if p.endpoint == nobody {
				p.dns = dns
			}
			claim(&p.endpoint, who)
			if p.endpoint == int32(IDUnknown) {
				p.dns = 0
			}
		})
	}
}

func (s *surveyor) surveyPublished(p Published, who uint32) {
	// Without an address it is bound in both families; on loopback no
	// container can reach it.
	var on []address
	switch {
	case !p.HostIP.IsValid():
		on = []address{{0, mappedLo}, {}}
	case p.HostIP.IsLoopback():
		return
	default:
		on = []address{addressFrom(p.HostIP)}
	}
	t := target{who, p.Port}
	for _, a := range on {
		k := addrKey{portScope(p.Proto, p.HostPort), a}
		if old, ok := s.targets[k]; ok && old != t {
			s.targets[k] = target{uint32(IDUnknown), p.HostPort}
			continue
		}
		s.targets[k] = t
	}
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
		if f.times > 1 {
			continue
		}
		sp, ok := s.spots[a]
		if !ok {
			sp.endpoint = nobody
		}
		sp.endpoint, sp.dns = f.endpoint, f.dns
		s.spots[a] = sp
	}
}

func (s *surveyor) finish() {
	r := s.res
	index := make(map[addrKey]uint32, len(s.places))
	for k, p := range s.places {
		index[k] = uint32(len(r.places))
		r.places = append(r.places, p)
	}
	r.local = newAddrTable(index)

	index = make(map[addrKey]uint32, len(s.spots))
	for a, sp := range s.spots {
		index[addrKey{0, a}] = uint32(len(r.spots))
		r.spots = append(r.spots, sp)
	}
	r.anywhere = newAddrTable(index)

	index = make(map[addrKey]uint32, len(s.targets))
	for k, t := range s.targets {
		index[k] = uint32(len(r.targets))
		r.targets = append(r.targets, t)
	}
	r.published = newAddrTable(index)

	for proto, owners := range s.hostNet {
		r.hostPorts[proto] = disjoint(owners)
	}
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

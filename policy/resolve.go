package policy

import (
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

// unnumbered stands for the index of a workload that came after its table was
// compiled (With), and for all where no statement names a name. Those that
// statements let reach names have numbers of their own.
const unnumbered = 1<<31 - 1

// resolver holds all that resolution reads; immutable.
type resolver struct {
	local       addrIndex             // by (zone, address)
	anywhere    addrIndex             // by (0, address)
	published   addrIndex             // by (protocol and port, host address or the family's unspecified)
	places      beside[place]         // what does not fit into the cells of local
	spots       beside[spot]          // and of anywhere
	targets     beside[target]        // all of published
	hostPorts   map[Proto][]portOwner // A6, sorted and disjoint
	claims      claims                // what vips, published and hostPorts follow from, for the compiler
	onLink      map[Zone][]netip.Prefix
	ingress     []zonePrefix
	dns         [][]address       // sets of name servers, by place.dns and spot.dns
	dnsSets     map[string]uint16 // their numbers, for the compiler
	engine      []netip.AddrPort
	strays      bool                // an endpoint's network is not known
	subnets     *bart.Lite          // A12, for the compiler
	outside     *bart.Table[uint32] // A13: site or, taken out of it, internet
	far         *bart.Fast[uint32]  // A12 to A14: every address
	regions     *regions            // nil where no statement names a prefix
	hostRegions []uint32            // those that addresses of the host are in
	variants    variantTable
	met         []variantKey    // who was met where, for the compiler
	callers     map[uint32]bool // regions that workloads have addresses in, for the compiler
}

// place is who is at an address of one zone.
type place struct {
	endpoint int32  // A1, or nobody
	vip      int32  // A2, or nobody
	lb       bool   // A3
	dns      uint16 // index into resolver.dns
	workload int32  // of the endpoint: its number, or nobody
}

// spot is what an address is in every zone.
type spot struct {
	endpoint  int32 // A1 in another zone, or nobody
	workload  int32
	dns       uint16
	host      bool
	node      bool
	disputed  bool // endpoints of several zones have it, so that it is none's here
	metadata  bool
	broadcast bool
}

// cell is what says p with nothing beside, or 0.
func (p place) cell() uint32 {
	if p.vip != nobody || p.lb || p.workload != unnumbered {
		return 0
	}
	return plainEnd(p.endpoint, p.dns)
}

// cell is what says s with nothing beside, or 0.
func (s spot) cell() uint32 {
	if s.host || s.node || s.disputed || s.metadata || s.broadcast || s.workload != unnumbered {
		return 0
	}
	return plainEnd(s.endpoint, s.dns)
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
// line of section 1 that fits wins. Where statements name prefixes, tables of
// addresses hold the variants of peers there.
func (r *resolver) peers(q *Query) (from, to uint32, port uint16) {
	from, dns := r.source(q.Zone, addressOf(&q.Src))
	to, port = r.destination(q, addressOf(&q.Dst), dns)
	return from, to, port
}

// placed is the peer's variant in the address's region.
func (r *resolver) placed(who uint32, a address) uint32 {
	if r.regions == nil {
		return who
	}
	if region := r.regions.at(a.netip()); region != 0 {
		if v := r.variants.get(variantKey{who, region}); v != 0 {
			return v
		}
	}
	return who
}

func (r *resolver) source(zone Zone, a address) (who uint32, dns uint16) {
	cell := r.local.get(uint32(zone), a)
	if who, dns, ok := endOf(cell); ok { // A1
		return who, dns
	}
	p := r.places.of(cell)
	if p != nil && p.endpoint != nobody { // A1
		return uint32(p.endpoint), p.dns
	}
	s := r.spotAt(a)
	switch {
	case s.endpoint != nobody && !r.isOnLink(zone, a): // A1
		return uint32(s.endpoint), s.dns
	case p != nil && p.lb: // A3
		return r.placed(uint32(IDLB), a), 0
	case r.isIngress(zone, a): // A4
		return r.placed(uint32(IDIngress), a), 0
	case s.metadata: // A8
		return r.placed(uint32(IDMetadata), a), 0
	}
	return r.elsewhere(zone, a, s), 0
}

// callerAt is which workload sends from an address of its own, nobody where
// none or more than one may, and its name servers.
func (r *resolver) callerAt(zone Zone, a address) (dns uint16, workload int32) {
	if p := r.placeAt(zone, a); p.endpoint != nobody {
		return p.dns, p.workload
	}
	if s := r.spotAt(a); s.endpoint != nobody && !r.isOnLink(zone, a) {
		return s.dns, s.workload
	}
	return 0, nobody
}

func (r *resolver) destination(q *Query, a address, dns uint16) (who uint32, port uint16) {
	cell := r.local.get(uint32(q.Zone), a)
	if who, _, ok := endOf(cell); ok { // A1
		return who, q.DstPort
	}
	p := r.places.of(cell)
	if p != nil && p.endpoint != nobody { // A1
		return uint32(p.endpoint), q.DstPort
	}
	s := r.spotAt(a)
	switch {
	case s.endpoint != nobody && !r.isOnLink(q.Zone, a): // A1
		return uint32(s.endpoint), q.DstPort
	case p != nil && p.vip != nobody: // A2
		return uint32(p.vip), q.DstPort
	case p != nil && p.lb: // A3
		return r.placed(uint32(IDLB), a), q.DstPort
	case r.isIngress(q.Zone, a): // A4
		return r.placed(uint32(IDIngress), a), q.DstPort
	}
	if s.host {
		if t, ok := r.behind(a, q.Proto, q.DstPort); ok { // A5, A6
			return r.placed(t.who, a), t.port
		}
	}
	switch {
	case q.DstPort == 53 && (q.Proto == ProtoUDP || q.Proto == ProtoTCP) && slices.Contains(r.dns[dns], a): // A7
		return r.placed(uint32(IDResolver), a), q.DstPort
	case s.metadata: // A8
		return r.placed(uint32(IDMetadata), a), q.DstPort
	case (s.host || s.node) && r.isOrchestrator(a, &s, q.Proto, q.DstPort): // A9
		return r.placed(uint32(IDOrchestrator), a), q.DstPort
	}
	return r.elsewhere(q.Zone, a, s), q.DstPort
}

// placeAt is who is at an address of a zone.
func (r *resolver) placeAt(zone Zone, a address) place {
	cell := r.local.get(uint32(zone), a)
	if who, dns, ok := endOf(cell); ok {
		return place{endpoint: int32(who), vip: nobody, dns: dns, workload: unnumbered}
	}
	if p := r.places.of(cell); p != nil {
		return *p
	}
	return place{endpoint: nobody, vip: nobody}
}

// spotAt is what an address is in every zone.
func (r *resolver) spotAt(a address) spot {
	cell := r.anywhere.get(0, a)
	if who, dns, ok := endOf(cell); ok {
		return spot{endpoint: int32(who), dns: dns, workload: unnumbered}
	}
	if s := r.spots.of(cell); s != nil {
		return *s
	}
	return spot{endpoint: nobody}
}

// elsewhere is A10 to A14, the same for both ends.
func (r *resolver) elsewhere(zone Zone, a address, s spot) uint32 {
	switch {
	case s.host:
		return r.placed(uint32(IDHost), a)
	case s.node:
		return r.placed(uint32(IDNode), a)
	case a.isMulticast():
		return r.placed(uint32(IDMulticast), a)
	case s.broadcast:
		return r.placed(uint32(IDBroadcast), a)
	case zone != 0 && a.isLinkLocal6(): // on every container network's link
		return r.placed(uint32(IDUnknown), a)
	}
	who, _ := r.far.Lookup(a.netip())
	return who
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
	t := r.targets.of(r.published.get(scope, a))
	if t == nil {
		t = r.targets.of(r.published.get(scope, unspecified(a)))
	}
	if t != nil {
		return *t, true
	}
	for _, o := range r.hostPorts[proto] {
		if o.lo <= port && port <= o.hi {
			return target{o.who, port}, true
		}
	}
	return target{}, false
}

func portScope(proto Proto, port uint16) uint32 { return uint32(proto)<<16 | uint32(port) }

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

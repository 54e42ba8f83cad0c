package policy

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
)

// oracle says what the specification says, slowly: for each packet it walks
// the snapshot and every statement, and shares no code with the compiler.
type oracle struct{ in Input }

// refPeer is who is at an address, and the workload that it was found by.
type refPeer struct {
	id       Identity
	workload *Workload
}

func (r *oracle) group(w *Workload) Identity {
	for _, g := range r.in.Groups {
		if slices.Contains(g.Members, w.ID) {
			return g.Identity
		}
	}
	return IDUnknown
}

func (r *oracle) network(id string) *Network {
	for i, n := range r.in.Snapshot.Networks {
		if n.ID == id {
			return &r.in.Snapshot.Networks[i]
		}
	}
	return nil
}

func refInner(ip netip.Addr) netip.Addr {
	b := ip.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(ip):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case netip.MustParsePrefix("2002::/16").Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return ip.Unmap()
}

// agreed is the one identity of all claims, unknown if there are two.
func agreed(ids []Identity) Identity {
	for _, id := range ids {
		if id != ids[0] {
			return IDUnknown
		}
	}
	return ids[0]
}

// endpointAt finds who has the address in the zone.
func (r *oracle) endpointAt(zone Zone, ip netip.Addr) (refPeer, bool) {
	var ids []Identity
	var first *Workload
	for i := range r.in.Snapshot.Workloads {
		w := &r.in.Snapshot.Workloads[i]
		if w.SharedWith != "" {
			continue
		}
		for _, e := range w.Endpoints {
			if r.network(e.Network).Zone != zone {
				continue
			}
			has := e.MAC != MAC{} && refEUI64(e.MAC) == ip
			for _, a := range e.Addresses {
				has = has || refInner(a) == ip
			}
			if has {
				ids = append(ids, r.group(w))
				if first == nil {
					first = w
				}
			}
		}
	}
	if len(ids) == 0 {
		return refPeer{}, false
	}
	p := refPeer{agreed(ids), first}
	if p.id == IDUnknown {
		p.workload = nil
	}
	return p, true
}

func refEUI64(m MAC) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fe80::%02x%02x:%02xff:fe%02x:%02x%02x", m[0]^2, m[1], m[2], m[3], m[4], m[5]))
}

func (r *oracle) zones() []Zone {
	var out []Zone
	for _, n := range r.in.Snapshot.Networks {
		if !slices.Contains(out, n.Zone) {
			out = append(out, n.Zone)
		}
	}
	return out
}

// elsewhereAt is the second half of A1: in another zone that the host routes to.
func (r *oracle) elsewhereAt(zone Zone, ip netip.Addr) (refPeer, bool) {
	if ip.IsLinkLocalUnicast() {
		return refPeer{}, false
	}
	var found []refPeer
	for _, z := range r.zones() {
		routed := true
		for _, n := range r.in.Snapshot.Networks {
			if n.Zone == z && (n.Driver == "overlay" || n.NetNS != "") {
				routed = false
			}
		}
		if p, ok := r.endpointAt(z, ip); ok && routed {
			found = append(found, p)
		}
	}
	for _, n := range r.in.Snapshot.Networks {
		for _, s := range n.Subnets {
			if n.Zone == zone && s.Contains(ip) {
				return refPeer{}, false
			}
		}
	}
	if len(found) != 1 {
		return refPeer{}, false
	}
	return found[0], true
}

func (r *oracle) hostAddrs() []netip.Addr {
	var out []netip.Addr
	for _, p := range r.in.Snapshot.Host.Addresses {
		if !p.Addr().IsLoopback() {
			out = append(out, refInner(p.Addr()))
		}
	}
	for _, n := range r.in.Snapshot.Networks {
		if n.NetNS == "" && n.Driver == "bridge" {
			out = append(out, n.Gateways...)
		}
	}
	return out
}

// behindHost is A5 and A6.
func (r *oracle) behindHost(ip netip.Addr, proto Proto, port uint16) (Identity, uint16, bool) {
	type target struct {
		id   Identity
		port uint16
	}
	var exact, wide, served []target
	for i := range r.in.Snapshot.Workloads {
		w := &r.in.Snapshot.Workloads[i]
		if w.SharedWith != "" {
			continue
		}
		for _, p := range w.Published {
			if p.Proto != proto || p.HostPort != port {
				continue
			}
			t := target{r.group(w), p.Port}
			switch {
			case !p.HostIP.IsValid():
				wide = append(wide, t)
			case p.HostIP == ip:
				exact = append(exact, t)
			case p.HostIP.IsUnspecified() && p.HostIP.Is4() == ip.Is4():
				wide = append(wide, t)
			}
		}
		if w.Uncovered == "network_mode host" {
			for _, e := range w.Exposed {
				if e.Contains(proto, port) {
					served = append(served, target{r.group(w), port})
				}
			}
		}
	}
	for _, ts := range [][]target{exact, wide, served} {
		if len(ts) == 0 {
			continue
		}
		for _, t := range ts {
			if t != ts[0] {
				return IDUnknown, port, true
			}
		}
		return ts[0].id, ts[0].port, true
	}
	return 0, 0, false
}

func lastOf(p netip.Prefix) netip.Addr {
	p = p.Masked()
	a := p.Addr()
	for n := a; p.Contains(n); n = n.Next() {
		a = n
	}
	return a
}

var refSite = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "169.254.0.0/16", "fe80::/10")

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// at walks A1 to A14. caller is the initiator when ip is the destination.
func (r *oracle) at(zone Zone, ip netip.Addr, isDestination bool, caller *Workload, proto Proto, port uint16) (refPeer, uint16) {
	h := r.in.Snapshot.Host
	if p, ok := r.endpointAt(zone, ip); ok {
		return p, port
	}
	if p, ok := r.elsewhereAt(zone, ip); ok {
		return p, port
	}
	is := func(id Identity) (refPeer, uint16) { return refPeer{id: id}, port }
	if isDestination {
		var vip []Identity
		for i := range r.in.Snapshot.Workloads {
			w := &r.in.Snapshot.Workloads[i]
			for _, n := range r.in.Snapshot.Networks {
				if n.Zone == zone && w.SharedWith == "" && slices.Contains(w.VIPs[n.ID], ip) {
					vip = append(vip, r.group(w))
				}
			}
		}
		if len(vip) > 0 {
			return is(agreed(vip))
		}
	}
	for _, n := range r.in.Snapshot.Networks {
		if n.Zone == zone && slices.Contains(n.LB, ip) {
			return is(IDLB)
		}
	}
	for _, n := range r.in.Snapshot.Networks {
		for _, s := range n.Subnets {
			if n.Zone == zone && n.Ingress && s.Contains(ip) {
				return is(IDIngress)
			}
		}
	}
	isHost := slices.Contains(r.hostAddrs(), ip)
	if isDestination && isHost {
		if id, own, ok := r.behindHost(ip, proto, port); ok {
			return refPeer{id: id}, own
		}
	}
	if isDestination && caller != nil && port == 53 && (proto == ProtoTCP || proto == ProtoUDP) {
		servers := caller.DNS
		if len(servers) == 0 {
			servers = h.Resolvers
		}
		if slices.Contains(servers, ip) {
			return is(IDResolver)
		}
	}
	if slices.Contains(slices.Concat(addrs("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23",
		"fd20:ce::254", "100.100.100.200", "168.63.129.16"), r.in.ExtraMetadata), ip) {
		return is(IDMetadata)
	}
	isNode := slices.Contains(h.Nodes, ip)
	if isDestination && (isHost || isNode) && (proto == ProtoTCP || proto == ProtoUDP) {
		if slices.Contains([]uint16{2375, 2376, 2377, 7946, 4789, 6443, 10250}, port) {
			return is(IDOrchestrator)
		}
		for _, e := range h.EngineAPI {
			if proto == ProtoTCP && e.Port() == port && (e.Addr() == ip || isHost && e.Addr().IsUnspecified()) {
				return is(IDOrchestrator)
			}
		}
	}
	switch {
	case isHost:
		return is(IDHost)
	case isNode:
		return is(IDNode)
	case ip.IsMulticast():
		return is(IDMulticast)
	case ip == netip.MustParseAddr("255.255.255.255"):
		return is(IDBroadcast)
	}
	nets := slices.Clone(h.Addresses)
	nets = slices.DeleteFunc(nets, func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
	inside := false
	for _, n := range r.in.Snapshot.Networks {
		nets = append(nets, n.Subnets...)
		for _, s := range n.Subnets {
			inside = inside || s.Contains(ip) && n.Driver != "macvlan" && n.Driver != "ipvlan"
		}
	}
	for _, p := range nets {
		if p.Addr().Is4() && p.Bits() < 31 && lastOf(p) == ip {
			return is(IDBroadcast)
		}
	}
	if inside || zone != 0 && ip.Is6() && ip.IsLinkLocalUnicast() {
		return is(IDUnknown)
	}
	best, kind := -1, IDUnknown
	for _, p := range refSite {
		if p.Contains(ip) && p.Bits() > best {
			best, kind = p.Bits(), IDSite
		}
	}
	for _, p := range r.in.ExtraSite {
		if p.Contains(ip) && p.Bits() >= best {
			best, kind = p.Bits(), IDSite
		}
	}
	for _, p := range r.in.NotSite {
		if p.Contains(ip) && p.Bits() >= best {
			best, kind = p.Bits(), IDInternet
		}
	}
	switch {
	case best >= 0:
		return is(kind)
	case ip.Is6() && netip.MustParsePrefix("2000::/3").Contains(ip):
		return is(IDInternet)
	case ip.Is4() && !slices.ContainsFunc(prefixes("0.0.0.0/8", "127.0.0.0/8", "240.0.0.0/4"), func(p netip.Prefix) bool { return p.Contains(ip) }):
		return is(IDInternet)
	}
	return is(IDUnknown)
}

// refEnd is one end of a flow: who is there, and at which address.
type refEnd struct {
	id Identity
	ip netip.Addr
}

func (r *oracle) resolve(q Query) (from, to refEnd, port uint16) {
	src, dst := refInner(netip.AddrFrom16(q.Src)), refInner(netip.AddrFrom16(q.Dst))
	f, _ := r.at(q.Zone, src, false, nil, q.Proto, q.DstPort)
	t, port := r.at(q.Zone, dst, true, f.workload, q.Proto, q.DstPort)
	return refEnd{f.id, src}, refEnd{t.id, dst}, port
}

// refHolds: a prefix holds an address; inside the ranges that stand for IPv4 it
// holds the IPv4 address.
func refHolds(p netip.Prefix, ip netip.Addr) bool {
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p.Contains(ip) {
		return true
	}
	if !ip.Is4() {
		return false
	}
	b := ip.As4()
	translated := netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
	sixToFour := netip.AddrFrom16([16]byte{0x20, 2, b[0], b[1], b[2], b[3]})
	return p.Bits() >= 96 && p.Contains(translated) || p.Bits() >= 16 && p.Contains(sixToFour)
}

var mustBeNamed = []Identity{IDUnknown, IDMetadata, IDOrchestrator, IDMulticast, IDBroadcast}

// selects reports whether a peer of a statement matches an end. hidden: as a
// caller, the routing mesh counts as the internet (R14). loosens: of an allow,
// or of what a deny excepts.
func (r *oracle) selects(p Peer, e refEnd, hidden, loosens bool, tier Tier) bool {
	id := e.id
	isWorkload := id >= FirstWorkloadIdentity
	switch p.Kind {
	case PeerCIDR:
		if loosens && slices.Contains(mustBeNamed, id) || tier == TierModel && isWorkload {
			return false
		}
		return refHolds(p.Prefix, e.ip)
	case PeerSelector:
		if p.Selected == nil || slices.Contains(p.Selected.Identities, id) {
			return p.Selected != nil
		}
		if isWorkload || loosens && slices.Contains(mustBeNamed, id) {
			return false
		}
		return slices.ContainsFunc(p.Selected.Prefixes, func(p netip.Prefix) bool { return refHolds(p, e.ip) })
	case PeerService:
		for _, g := range r.in.Groups {
			if g.Identity == id && g.Service == p.Service && (p.Identity == 0 || p.Identity == id) {
				return true
			}
		}
	case PeerHost:
		return id == IDHost
	case PeerNode:
		return id == IDNode
	case PeerResolver:
		return id == IDResolver
	case PeerMetadata:
		return id == IDMetadata
	case PeerOrchestrator:
		return id == IDOrchestrator
	case PeerMulticast:
		return id == IDMulticast
	case PeerBroadcast:
		return id == IDBroadcast
	case PeerSite:
		return id == IDSite
	case PeerInternet:
		return id == IDInternet || hidden && id == IDIngress
	case PeerExternal:
		return id == IDSite || id == IDInternet || hidden && id == IDIngress
	case PeerLB:
		return id == IDLB
	case PeerIngress:
		return id == IDIngress
	case PeerWorkload:
		return isWorkload
	case PeerAny:
		return isWorkload || slices.Contains([]Identity{IDHost, IDNode, IDResolver, IDSite, IDInternet, IDLB, IDIngress}, id)
	case PeerEverybody:
		return true
	}
	return false
}

// refMatch is a statement that holds between two peers on a port.
type refMatch struct {
	statement int
	side      [2]bool
	matches   func(Spoken) bool
}

// callers are all addresses that workloads have, with whose they are.
func (r *oracle) callers() []refEnd {
	var out []refEnd
	for _, w := range r.in.Snapshot.Workloads {
		for _, e := range w.Endpoints {
			addrs := slices.Clone(e.Addresses)
			if e.MAC != (MAC{}) {
				addrs = append(addrs, refEUI64(e.MAC))
			}
			for _, ip := range addrs {
				if p, ok := r.endpointAt(r.network(e.Network).Zone, refInner(ip)); ok && p.id != IDUnknown {
					out = append(out, refEnd{p.id, refInner(ip)})
				}
			}
		}
	}
	return out
}

func (r *oracle) isBalanced(id Identity) bool {
	return slices.ContainsFunc(r.in.Snapshot.Workloads, func(w Workload) bool {
		return len(w.VIPs) > 0 && id != IDUnknown && r.group(&w) == id
	})
}

// covers reports whether peers and ports hold for a flow; behind says that they
// only do as the service's own hook sees callers of its VIP, as lb (R16).
func (r *oracle) covers(from, to []Peer, ports []PortRange, anyPort bool, f, t refEnd, proto Proto, port uint16, loosens bool, tier Tier) (holds, behind bool) {
	onPort := anyPort && (proto == ProtoTCP || proto == ProtoUDP || proto == ProtoICMP)
	for _, p := range ports {
		onPort = onPort || p.Contains(proto, port)
	}
	if !onPort || !slices.ContainsFunc(to, func(p Peer) bool { return r.selects(p, t, false, loosens, tier) }) {
		return false, false
	}
	if slices.ContainsFunc(from, func(p Peer) bool { return r.selects(p, f, true, loosens, tier) }) {
		return true, false
	}
	anyWorkload := slices.ContainsFunc(from, func(p Peer) bool {
		named := slices.ContainsFunc(r.in.Groups, func(g Group) bool { return r.selects(p, refEnd{id: g.Identity}, true, loosens, tier) })
		return p.Kind == PeerWorkload || named || p.Kind == PeerCIDR && slices.ContainsFunc(r.callers(), func(e refEnd) bool { return r.selects(p, e, true, loosens, tier) })
	})
	return false, f.id == IDLB && r.isBalanced(t.id) && loosens && anyWorkload
}

// excepted reports whether a deny leaves what is spoken to other statements.
func (r *oracle) excepted(s Statement, f, t refEnd, proto Proto, port uint16, spoken Spoken) bool {
	return slices.ContainsFunc(s.Except, func(e Exception) bool {
		holds, behind := r.covers(e.From, e.To, e.Ports, e.AnyPort, f, t, proto, port, true, s.Tier)
		return (holds || behind && s.Speaks != SpeaksOut) && e.App.Matches(spoken)
	})
}

func (r *oracle) matches(from, to refEnd, proto Proto, port uint16) []refMatch {
	var out []refMatch
	for i, s := range r.in.Statements {
		if s.Pending != "" {
			continue
		}
		m := refMatch{i, [2]bool{s.Speaks != SpeaksIn, s.Speaks != SpeaksOut}, func(sp Spoken) bool {
			return s.App.Matches(sp) && !r.excepted(s, from, to, proto, port, sp)
		}}
		holds, behind := r.covers(s.From, s.To, s.Ports, s.AnyPort, from, to, proto, port, s.Verdict == Allow, s.Tier)
		switch {
		case holds:
			out = append(out, m)
		case behind:
			m.side[SideOut] = false
			out = append(out, m)
		}
	}
	return out
}

type refAnswer struct {
	no, enforced bool
	reject       bool
	statement    int
	guarded      bool
}

func (r *oracle) side(side Side, id Identity, ms []refMatch, s Spoken) refAnswer {
	var mode Mode
	guarded := false
	for _, g := range r.in.Groups {
		if g.Identity == id {
			guarded, mode = g.Guarded, g.Mode
		}
	}
	if !guarded {
		return refAnswer{statement: -1}
	}
	for _, tier := range []Tier{TierOperator, TierLabel, TierModel} {
		for _, allow := range []bool{false, true} {
			for _, always := range []bool{true, false} {
				for _, m := range ms {
					st := r.in.Statements[m.statement]
					if !m.side[side] || st.Tier != tier || (st.Verdict == Allow) != allow || !allow && st.EnforceAlways != always || !m.matches(s) {
						continue
					}
					return refAnswer{!allow, mode == Enforce || always, st.Verdict == Reject, m.statement, true}
				}
			}
		}
	}
	return refAnswer{true, mode == Enforce, false, -1, true}
}

func (r *oracle) judge(from, to Identity, ms []refMatch, s Spoken) (v Verdict, denied bool, side Side, statement int) {
	out, in := r.side(SideOut, from, ms, s), r.side(SideIn, to, ms, s)
	verdict := func(a refAnswer) Verdict {
		switch {
		case !a.enforced:
			return Allow
		case a.reject:
			return Reject
		}
		return Drop
	}
	switch {
	case out.no && out.enforced:
		return verdict(out), true, SideOut, out.statement
	case in.no && in.enforced:
		return verdict(in), true, SideIn, in.statement
	case out.no:
		return Allow, true, SideOut, out.statement
	case in.no:
		return Allow, true, SideIn, in.statement
	case !out.guarded && in.guarded:
		return Allow, false, SideIn, in.statement
	}
	return Allow, false, SideOut, out.statement
}

// world makes random inputs and packets out of small pools, so that things
// meet and collide.
type world struct{ *rand.Rand }

func pick[T any](w world, from []T) T { return from[w.IntN(len(from))] }

func (w world) chance(percent int) bool { return w.IntN(100) < percent }

func (w world) some(n int) int { return w.IntN(n + 1) }

var (
	worldSubnets = [][]netip.Prefix{
		prefixes("172.18.0.0/24", "fd00:18::/64"), prefixes("172.19.0.0/28", "fd00:19::/64"), prefixes("10.0.1.0/24"),
		prefixes("10.0.1.0/28", "2001:db8:5::/64"), prefixes("192.168.1.0/24"), prefixes("10.9.9.0/24"),
	}
	worldPorts    = []uint16{22, 53, 80, 443, 2375, 5000, 5432, 8080}
	worldApps     = []App{AppDocker, AppHTTP, AppHTTP2, AppGRPC, AppTLS, AppDNS, AppSSH, AppMySQL, AppICMP}
	worldServices = []ServiceKey{key("a", "x"), key("a", "y"), key("b", "x"), key("b", "z")}
	worldHosts    = addrs("192.168.1.9", "203.0.113.9", "2001:db8::9", "172.18.0.1", "fe80::1")
	worldPlaces   = addrs("169.254.169.254", "168.63.129.16", "fd00:ec2::254", "192.168.1.1", "192.168.1.255", "1.1.1.1", "2606:4700::1",
		"224.0.0.251", "ff02::1", "255.255.255.255", "10.20.0.1", "10.30.0.1", "100.64.0.1", "172.18.0.255", "172.19.0.15", "127.0.0.1", "::1", "::",
		"0.0.0.0", "240.0.0.1", "fec0::1", "64:ff9b:1::1", "198.51.100.53", "fe80::99", "169.254.7.7", "192.168.1.77", "192.168.1.8", "10.0.1.4", "fd99::1")
)

// worldPrefixes nest, hold peers of every kind, and stand for IPv4 in each way.
var worldPrefixes = prefixes("0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.1.0/28", "10.0.1.2/32", "172.18.0.0/16", "172.18.0.0/29", "172.18.0.1/32", "192.168.1.0/24",
	"192.168.1.8/31", "1.1.1.0/24", "2000::/3", "2001:db8::/32", "2001:db8:5::/64", "fd00:18::/64", "fd00::/8", "fe80::/10", "169.254.0.0/16", "224.0.0.0/4",
	"198.51.100.0/24", "10.30.0.0/16", "fd99::/32", "203.0.113.9/32", "64:ff9b::ac12:0/112", "2002:a00::/24", "::ffff:192.168.0.0/112", "255.255.255.255/32", "ff00::/8")

func (w world) addrIn(p netip.Prefix) netip.Addr {
	a := p.Addr()
	for range 1 + w.IntN(6) {
		a = a.Next()
	}
	return a
}

func (w world) input() Input {
	snap := &Snapshot{Host: Host{
		Addresses: prefixes("127.0.0.1/8", "192.168.1.9/24", "203.0.113.9/32", "2001:db8::9/64", "fe80::1/64"),
		Resolvers: addrs("192.168.1.1", "169.254.169.254", "1.1.1.1"),
		EngineAPI: []netip.AddrPort{netip.MustParseAddrPort(pick(w, []string{"0.0.0.0:5000", "192.168.1.9:5000"}))},
		Nodes:     addrs("192.168.1.8"),
	}}
	for i := range 1 + w.IntN(4) {
		n := Network{ID: fmt.Sprint("n", i), Zone: Zone(i + 1), Driver: "bridge", Subnets: pick(w, worldSubnets)}
		n.Gateways = []netip.Addr{n.Subnets[0].Addr().Next()}
		switch w.IntN(5) {
		case 0:
			n.Driver, n.NetNS, n.Ingress = "overlay", "/ns", w.chance(40)
			n.LB = []netip.Addr{w.addrIn(n.Subnets[0])}
		case 1:
			n.Driver = "macvlan"
		}
		snap.Networks = append(snap.Networks, n)
	}
	in := Input{Epoch: 7, Snapshot: snap, PairsAhead: pick(w, []int{0, 1}), few: pick(w, []int{0, 1, 2}), placesAhead: pick(w, []int{0, 0, 0, 1, 4})}
	for i := range 2 + w.IntN(4) {
		in.Groups = append(in.Groups, Group{Identity: FirstWorkloadIdentity + Identity(i*3), Service: pick(w, worldServices), Mode: Mode(w.IntN(2)), Guarded: w.chance(93)})
	}
	for i := range 2 + w.some(8) {
		snap.Workloads = append(snap.Workloads, w.workload(fmt.Sprint("w", i), snap.Networks))
		if g := w.IntN(10 * len(in.Groups)); g < 9*len(in.Groups) {
			g %= len(in.Groups)
			in.Groups[g].Members = append(in.Groups[g].Members, fmt.Sprint("w", i))
		}
	}
	for i := range w.some(40) {
		in.Statements = append(in.Statements, w.statement(i, in.Groups))
	}
	if w.chance(30) {
		in.ExtraSite, in.NotSite, in.ExtraMetadata = prefixes("198.51.100.0/24", "fd99::/16"), prefixes("10.30.0.0/16", "fd99::/32"), addrs("10.20.0.1")
	}
	return in
}

func (w world) workload(id string, networks []Network) Workload {
	c := Workload{ID: id, Name: id}
	for range w.some(2) {
		n := pick(w, networks)
		e := Endpoint{ID: id, Network: n.ID, MAC: MAC{2, 0x42, 0, 0, 0, byte(w.IntN(6))}}
		for _, s := range n.Subnets {
			e.Addresses = append(e.Addresses, w.addrIn(s))
		}
		c.Endpoints = append(c.Endpoints, e)
		if n.Driver == "overlay" && w.chance(50) {
			c.VIPs = map[string][]netip.Addr{n.ID: {pick(w, append(n.LB, w.addrIn(n.Subnets[0])))}}
		}
	}
	for range w.some(2) {
		bound := pick(w, append(addrs("0.0.0.0", "::", "127.0.0.1", "192.168.1.9"), netip.Addr{}))
		c.Published = append(c.Published, Published{bound, pick(w, worldPorts), pick(w, worldPorts), ProtoTCP, false})
	}
	if w.chance(20) {
		c.Uncovered = "network_mode host"
		c.Exposed = []PortRange{{ProtoTCP, pick(w, worldPorts), 9000}, Port(ProtoUDP, 53)}
		if c.Exposed[0].Lo > 8999 {
			c.Exposed = nil
		}
	}
	if w.chance(10) {
		c.SharedWith = "w0"
	}
	if w.chance(30) {
		c.DNS = addrs("198.51.100.53", "172.18.0.1")
	}
	return c
}

func (w world) peers(groups []Group) []Peer {
	var out []Peer
	for range w.some(3) {
		p := Peer{Kind: PeerKind(w.IntN(int(PeerName)))}
		switch w.IntN(6) {
		case 0, 1:
			p = ServicePeer(pick(w, groups).Service)
		case 2:
			g := pick(w, groups)
			p = Peer{Kind: PeerService, Service: pick(w, []ServiceKey{g.Service, pick(w, worldServices)}), Identity: g.Identity}
		case 3:
			p.Kind = pick(w, []PeerKind{PeerAny, PeerWorkload, PeerExternal, PeerEverybody})
		case 4:
			switch {
			case w.chance(60):
				p = Peer{Kind: PeerCIDR, Prefix: pick(w, worldPrefixes)}
			case w.chance(90):
				p = w.selector(groups)
			}
		}
		out = append(out, p)
	}
	return out
}

// notEverybody are peers as an allow may have them.
func notEverybody(peers []Peer) []Peer {
	peers = slices.Clone(peers)
	for i := range peers {
		if peers[i].Kind == PeerEverybody {
			peers[i].Kind = PeerAny
		}
	}
	return peers
}

func (w world) selector(groups []Group) Peer {
	s := &Selection{}
	for range w.some(2) {
		s.Identities = append(s.Identities, pick(w, groups).Identity)
	}
	for range w.some(2) {
		s.Prefixes = append(s.Prefixes, pick(w, worldPrefixes))
	}
	if w.chance(10) {
		s = nil
	}
	return Peer{Kind: PeerSelector, Name: "a selector", Selected: s}
}

func (w world) ports() []PortRange {
	var out []PortRange
	for range w.some(4) {
		lo := pick(w, worldPorts)
		out = append(out, pick(w, []PortRange{Port(ProtoTCP, lo), {ProtoTCP, lo, max(lo, 5000)}, {ProtoTCP, 1, 65535}, {ProtoTCP, 1, 65535}, Port(ProtoUDP, 53), {Proto: ProtoICMP}}))
	}
	return out
}

func (w world) app() AppMatch {
	if w.chance(30) {
		return AnyApp
	}
	return AppMatch{App: pick(w, worldApps), Forms: TLSForms(w.IntN(8))}
}

// exceptions of a deny; much of them is as the deny has it.
func (w world) exceptions(s *Statement, groups []Group) []Exception {
	var out []Exception
	for range w.some(2) {
		e := Exception{From: w.peers(groups), To: w.peers(groups), App: w.app(), Ports: w.ports(), AnyPort: w.chance(40)}
		if w.chance(40) {
			e.From = s.From
		}
		if w.chance(40) {
			e.To = s.To
		}
		e.From, e.To = notEverybody(e.From), notEverybody(e.To)
		out = append(out, e)
	}
	return out
}

func (w world) statement(i int, groups []Group) Statement {
	s := Statement{ID: fmt.Sprint("s", i), Verdict: Allow, Tier: Tier(w.IntN(3)), From: w.peers(groups), To: w.peers(groups),
		EnforceAlways: w.chance(20), App: w.app(), Ports: w.ports()}
	if s.Tier != TierModel && w.chance(40) {
		s.Verdict = pick(w, []Verdict{Drop, Reject})
		s.AnyPort = w.chance(30)
		s.Except = w.exceptions(&s, groups)
	} else {
		s.From, s.To = notEverybody(s.From), notEverybody(s.To)
	}
	if w.chance(40) {
		s.Speaks = Speaks(w.IntN(3))
	}
	if w.chance(5) {
		s.Pending = "a name"
	}
	return s
}

func (w world) address(snap *Snapshot) [16]byte {
	var a netip.Addr
	switch w.IntN(6) {
	case 0:
		a = pick(w, worldPlaces)
	case 1:
		a = pick(w, worldHosts)
	case 2:
		a = (MAC{2, 0x42, 0, 0, 0, byte(w.IntN(6))}).LinkLocal()
	default:
		a = w.addrIn(pick(w, pick(w, snap.Networks).Subnets))
	}
	if a.Is4() && w.chance(10) {
		b := a.As4()
		if w.chance(50) {
			return [16]byte{0, 0x64, 0xff, 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}
		}
		out := [16]byte{0x20, 2, b[0], b[1], b[2], b[3]}
		binary.BigEndian.PutUint64(out[8:], w.Uint64())
		return out
	}
	return a.As16()
}

// query is a packet; most come from a workload, and many go to one.
func (w world) query(snap *Snapshot) Query {
	q := w.anyQuery(snap)
	from, to := pick(w, snap.Workloads), pick(w, snap.Workloads)
	if len(from.Endpoints) == 0 || w.chance(20) {
		return q
	}
	e := from.Endpoints[0]
	for _, n := range snap.Networks {
		if n.ID == e.Network {
			q.Zone = n.Zone
		}
	}
	q.Src = pick(w, e.Addresses).As16()
	switch {
	case w.chance(10):
		q.DstPort, q.Proto, q.Dst = 53, ProtoUDP, pick(w, append(from.DNS, snap.Host.Resolvers...)).As16()
	case w.chance(15):
		q.Src, q.Dst = q.Dst, q.Src
	case w.chance(20):
		q.Dst = pick(w, worldHosts).As16()
	case len(to.Endpoints) > 0 && w.chance(60):
		q.Dst = pick(w, to.Endpoints[0].Addresses).As16()
	}
	return q
}

func (w world) anyQuery(snap *Snapshot) Query {
	return Query{Zone(w.some(len(snap.Networks))), w.address(snap), w.address(snap),
		pick(w, []Proto{ProtoTCP, ProtoTCP, ProtoTCP, ProtoUDP, ProtoICMP, 132}), pick(w, worldPorts)}
}

// everySpoken is all that application identification could say.
func everySpoken(apps []App) []Spoken {
	out := []Spoken{{}, {App: AppUnknown}, {App: AppTLS}, {App: AppDTLS}, {App: AppTLS, ALPN: AppUnknown}}
	for _, a := range apps {
		out = append(out, Spoken{App: a}, Spoken{App: a, Inner: AppTLS}, Spoken{App: AppTLS, ALPN: a}, Spoken{App: AppDTLS, ALPN: a},
			Spoken{App: AppHTTP, Inner: a}, Spoken{App: AppSOCKS, Inner: a})
		if a.IsSub() {
			out = append(out, Spoken{App: AppHTTP, Sub: a}, Spoken{App: AppGRPC, Sub: a})
		}
	}
	return out
}

// rounds is how many worlds of n a comparison makes: all, or with -short a tenth. So
// the race detector, which finds nothing in one goroutine but slows it five times,
// looks on at fewer.
func rounds(n int) int {
	if testing.Short() {
		return max(1, n/10)
	}
	return n
}

// patience is how many times as many worlds as it wants a test makes before it says
// that they do not cover what they are to cover: by chance that hardly ever happens.
const patience = 20

// TestTableEqualsReference compares the compiled table with the reference on
// random worlds, packets and applications: 100,000 cases, or as many as
// GATEHOUSE_TEST_CASES says; a tenth with -short.
func TestTableEqualsReference(t *testing.T) {
	const packets = 20
	worlds, wanted := rounds(400), rounds(100_000)
	if n, err := strconv.Atoi(os.Getenv("GATEHOUSE_TEST_CASES")); err == nil {
		worlds, wanted = max(worlds, n/1000), n
	}
	seed := rand.Uint64()
	spoken := everySpoken(append([]App{AppWebSocket, AppDocker, AppElasticsearch, AppICMPv6, AppRedis}, worldApps...))
	cases, seen := 0, map[Verdict]int{}
	peers := map[Identity]int{}
	uncovered := func() (which []string) {
		for v := range verdictNames {
			if seen[Verdict(v)] == 0 {
				which = append(which, fmt.Sprint("no case came out ", Verdict(v)))
			}
		}
		for id := IDUnknown; id <= IDIngress; id++ {
			if peers[id] == 0 {
				which = append(which, "no packet met "+table0.IdentityName(id))
			}
		}
		return which
	}
	for n := 0; n < worlds || n < patience*worlds && uncovered() != nil; n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		in := w.input()
		table, err := Compile(in)
		if err != nil {
			t.Fatalf("seed %d world %d: %v", seed, n, err)
		}
		ref := &oracle{in}
		for range packets {
			q := w.query(in.Snapshot)
			cases += compareQuery(t, table, ref, q, spoken, seen, peers)
			if t.Failed() {
				t.Fatalf("seed %d world %d", seed, n)
			}
		}
	}
	if cases < wanted {
		t.Errorf("only %d cases compared, want %d", cases, wanted)
	}
	for _, what := range uncovered() {
		t.Errorf("%s: the worlds are too plain", what)
	}
	t.Logf("%d cases, verdicts %v, peers %v", cases, seen, peers)
}

var table0 = &Table{}

func compareQuery(t *testing.T, table *Table, ref *oracle, q Query, spoken []Spoken, seen map[Verdict]int, peers map[Identity]int) (cases int) {
	t.Helper()
	from, to, port := table.Resolve(q)
	fromEnd, toEnd, wantPort := ref.resolve(q)
	wantFrom, wantTo := fromEnd.id, toEnd.id
	if from != wantFrom || to != wantTo || port != wantPort {
		t.Errorf("zone %d %v -> %v %v/%d: resolved to %s, %s, %d; want %s, %s, %d", q.Zone, netip.AddrFrom16(q.Src), netip.AddrFrom16(q.Dst), q.Proto, q.DstPort,
			table.IdentityName(from), table.IdentityName(to), port, table.IdentityName(wantFrom), table.IdentityName(wantTo), wantPort)
		return 0
	}
	peers[from]++
	peers[to]++
	d := table.Lookup(q)
	ms := ref.matches(fromEnd, toEnd, q.Proto, port)
	passes, records, drops := false, false, false
	for _, s := range spoken {
		got := d.Judge(s)
		verdict, denied, side, statement := ref.judge(from, to, ms, s)
		ruled := -1
		if got.Rule >= 0 {
			ruled = table.placeOf(got.Rule)
		}
		if got.Verdict != verdict || got.Denied != denied || got.Side != side || ruled != statement {
			t.Errorf("%v -> %v %v/%d %+v: %v denied %v side %v by statement %d; want %v, %v, %v, %d", from, to, q.Proto, port, s,
				got.Verdict, got.Denied, got.Side, ruled, verdict, denied, side, statement)
		}
		if denied == (got.Reason == ReasonNone) {
			t.Errorf("%+v: denied %v for reason %v", s, denied, got.Reason)
		}
		switch {
		case verdict != Allow:
			drops = true
		case denied:
			records = true
		default:
			passes = true
		}
		seen[verdict]++
		cases++
	}
	decided := passes && !records && !drops || records && !passes && !drops || drops && !passes && !records
	if (d.Verdict() != Undecided) != decided {
		t.Errorf("%v -> %v %v/%d: %v before the application is known; passes %v, is recorded %v, drops %v", from, to, q.Proto, port, d.Verdict(), passes, records, drops)
	}
	if decided && (d.Verdict() == Allow) == drops {
		t.Errorf("%v -> %v: verdict %v though drops is %v", from, to, d.Verdict(), drops)
	}
	if decided && d.Denied() == passes {
		t.Errorf("%v -> %v: denied %v though it passes is %v", from, to, d.Denied(), passes)
	}
	if d.Verdict() == Undecided {
		seen[Undecided] += cases
	}
	return cases
}

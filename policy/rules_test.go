package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Identities of the town below.
const (
	idWeb Identity = FirstWorkloadIdentity + iota
	idDB
	idApp
	idExporter
	idLoose
	idTask
	idResolverBox
)

// town is one host with two bridge networks (zones 1 and 2, IPv4 and IPv6), an
// overlay (3), the ingress network (4) and a macvlan on the LAN (5).
func town() Input {
	ep := func(network string, last byte, as ...string) []Endpoint {
		return []Endpoint{{ID: network + as[0], Network: network, MAC: MAC{2, 0x42, 0, 0, 0, last}, Addresses: addrs(as...)}}
	}
	published := func(host string, hostPort, port uint16) Published {
		p := Published{HostPort: hostPort, Port: port, Proto: ProtoTCP}
		if host != "" {
			p.HostIP = netip.MustParseAddr(host)
		}
		return p
	}
	snap := &Snapshot{
		Host: Host{
			Addresses: prefixes("127.0.0.1/8", "192.168.1.9/24", "2001:db8:1::9/64", "172.18.0.1/16", "fd00:18::1/64", "fe80::42:1/64"),
			Resolvers: addrs("192.168.1.1", "2001:db8:1::53"),
			EngineAPI: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:4243")},
			Nodes:     addrs("192.168.1.10"),
		},
		Networks: []Network{
			{ID: "front", Zone: 1, Driver: "bridge", Subnets: prefixes("172.18.0.0/16", "fd00:18::/64"), Gateways: addrs("172.18.0.1", "fd00:18::1")},
			{ID: "back", Zone: 2, Driver: "bridge", Subnets: prefixes("172.19.0.0/16", "fd00:19::/64"), Gateways: addrs("172.19.0.1", "fd00:19::1")},
			{ID: "over", Zone: 3, Driver: "overlay", NetNS: "/run/ns/over", Subnets: prefixes("10.0.1.0/24"), LB: addrs("10.0.1.4")},
			{ID: "ingress", Zone: 4, Driver: "overlay", NetNS: "/run/ns/ingress", Subnets: prefixes("10.0.0.0/24"), Ingress: true},
			{ID: "lan", Zone: 5, Driver: "macvlan", Subnets: prefixes("192.168.1.0/24"), Gateways: addrs("192.168.1.1")},
		},
		Workloads: []Workload{
			{ID: "app", Name: "app", Endpoints: ep("back", 3, "172.19.0.3", "fd00:19::3"), DNS: addrs("1.1.1.1", "172.18.0.53", "169.254.169.254")},
			{ID: "db", Name: "db", Endpoints: ep("front", 3, "172.18.0.3", "fd00:18::3"), Published: []Published{published("127.0.0.1", 5432, 5432), published("192.168.1.9", 6000, 5432)}},
			{ID: "exporter", Name: "exporter", Uncovered: "network_mode host", Exposed: tcp(9100)},
			{ID: "gone", Name: "gone", Endpoints: ep("front", 77, "172.18.0.77")},
			{ID: "loose", Name: "loose", Endpoints: ep("front", 9, "172.18.0.9", "fd00:18::9")},
			{ID: "namesake", Name: "namesake", SharedWith: "db", Endpoints: ep("front", 88, "172.18.0.88")},
			{ID: "resolver", Name: "resolver", Endpoints: ep("front", 53, "172.18.0.53")},
			{ID: "task", Name: "task", Endpoints: slices.Concat(ep("over", 5, "10.0.1.6"), ep("ingress", 6, "10.0.0.6")), VIPs: map[string][]netip.Addr{"over": addrs("10.0.1.5")}},
			{ID: "web", Name: "web", Endpoints: ep("front", 2, "172.18.0.2", "fd00:18::2"), Published: []Published{published("0.0.0.0", 8080, 80), published("::", 8080, 80)}},
		},
	}
	group := func(id Identity, project, name, member string) Group {
		return Group{Identity: id, Service: key(project, name), Model: name, Revision: 1, Guarded: true, Members: []string{member}}
	}
	in := Input{Epoch: 3, Snapshot: snap, Groups: []Group{
		group(idWeb, "shop", "web", "web"), group(idDB, "shop", "db", "db"), group(idApp, "blog", "app", "app"),
		group(idExporter, "mon", "exporter", "exporter"), group(idLoose, "shop", "loose", "loose"),
		group(idTask, "swarm", "task", "task"), group(idResolverBox, "shop", "unbound", "resolver"),
	}}
	in.Groups[3].Guarded = false // on the host's network: uncovered
	in.Groups[4].Guarded = false // not enrolled
	return in
}

func TestResolve(t *testing.T) {
	in := town()
	in.ExtraSite, in.NotSite, in.ExtraMetadata = prefixes("198.51.100.0/24"), prefixes("10.30.0.0/16"), addrs("10.20.0.1")
	table := mustCompile(t, in)
	const udp = ProtoUDP
	for _, c := range []struct {
		rule     string
		zone     Zone
		src, dst string
		proto    Proto
		port     uint16
		from, to Identity
		own      uint16 // 0 = port
	}{
		{"A1", 1, "172.18.0.2", "172.18.0.3", ProtoTCP, 5432, idWeb, idDB, 0},
		{"A1", 1, "fd00:18::2", "fd00:18::3", ProtoTCP, 5432, idWeb, idDB, 0},
		{"A1 link-local", 1, "fe80::42:ff:fe00:2", "fe80::42:ff:fe00:3", ProtoTCP, 5432, idWeb, idDB, 0},
		{"A1 link-local is of its zone only", 2, "fe80::42:ff:fe00:3", "fe80::42:ff:fe00:2", ProtoTCP, 5432, idApp, IDUnknown, 0},
		{"A1 another zone", 2, "172.19.0.3", "172.18.0.3", ProtoTCP, 5432, idApp, idDB, 0},
		{"A1 another zone", 2, "fd00:19::3", "fd00:18::3", ProtoTCP, 5432, idApp, idDB, 0},
		{"A1 another zone, as source", 1, "172.19.0.3", "172.18.0.3", ProtoTCP, 5432, idApp, idDB, 0},
		{"A1 an overlay is not routed to", 1, "172.18.0.2", "10.0.1.6", ProtoTCP, 80, idWeb, IDUnknown, 0},
		{"A1 not enrolled is still somebody", 1, "172.18.0.9", "172.18.0.2", ProtoTCP, 80, idLoose, idWeb, 0},
		{"A1 shares its owner's endpoint (I6)", 1, "172.18.0.88", "172.18.0.2", ProtoTCP, 80, IDUnknown, idWeb, 0},
		{"A2", 3, "10.0.1.6", "10.0.1.5", ProtoTCP, 3306, idTask, idTask, 0},
		{"A2 not as source", 3, "10.0.1.5", "10.0.1.6", ProtoTCP, 3306, IDUnknown, idTask, 0},
		{"A3", 3, "10.0.1.4", "10.0.1.6", ProtoTCP, 80, IDLB, idTask, 0},
		{"A4", 4, "10.0.0.2", "10.0.0.6", ProtoTCP, 80, IDIngress, idTask, 0},
		{"A5", 2, "172.19.0.3", "192.168.1.9", ProtoTCP, 8080, idApp, idWeb, 80},
		{"A5", 2, "fd00:19::3", "2001:db8:1::9", ProtoTCP, 8080, idApp, idWeb, 80},
		{"A5 by any gateway", 1, "172.18.0.3", "172.19.0.1", ProtoTCP, 8080, idDB, idWeb, 80},
		{"A5 bound address", 2, "172.19.0.3", "192.168.1.9", ProtoTCP, 6000, idApp, idDB, 5432},
		{"A5 bound address only", 2, "172.19.0.3", "172.19.0.1", ProtoTCP, 6000, idApp, IDHost, 0},
		{"A5 other protocol", 2, "172.19.0.3", "192.168.1.9", udp, 8080, idApp, IDHost, 0},
		{"A5 not from loopback", 2, "172.19.0.3", "192.168.1.9", ProtoTCP, 5432, idApp, IDHost, 0},
		{"A5 not as source", 1, "192.168.1.9", "172.18.0.2", ProtoTCP, 8080, IDHost, idWeb, 0},
		{"A6", 1, "172.18.0.2", "172.18.0.1", ProtoTCP, 9100, idWeb, idExporter, 0},
		{"A6", 1, "fd00:18::2", "fd00:18::1", ProtoTCP, 9100, idWeb, idExporter, 0},
		{"A7 the host's", 1, "172.18.0.2", "192.168.1.1", udp, 53, idWeb, IDResolver, 0},
		{"A7 the host's", 1, "fd00:18::2", "2001:db8:1::53", ProtoTCP, 53, idWeb, IDResolver, 0},
		{"A7 only port 53", 1, "172.18.0.2", "192.168.1.1", ProtoTCP, 853, idWeb, IDSite, 0},
		{"A7 its own dns", 2, "172.19.0.3", "1.1.1.1", udp, 53, idApp, IDResolver, 0},
		{"A7 not another's dns", 1, "172.18.0.2", "1.1.1.1", udp, 53, idWeb, IDInternet, 0},
		{"A7 instead of the host's", 2, "172.19.0.3", "192.168.1.1", udp, 53, idApp, IDSite, 0},
		{"A7 after A1", 2, "172.19.0.3", "172.18.0.53", udp, 53, idApp, idResolverBox, 0},
		{"A7 beats A8", 2, "172.19.0.3", "169.254.169.254", udp, 53, idApp, IDResolver, 0},
		{"A7 not as source", 2, "1.1.1.1", "172.19.0.3", udp, 53, IDInternet, idApp, 0},
		{"A8", 1, "172.18.0.2", "169.254.169.254", ProtoTCP, 80, idWeb, IDMetadata, 0},
		{"A8", 1, "fd00:18::2", "fd00:ec2::254", ProtoTCP, 80, idWeb, IDMetadata, 0},
		{"A8 public address", 1, "172.18.0.2", "168.63.129.16", ProtoTCP, 80, idWeb, IDMetadata, 0},
		{"A8 added", 1, "172.18.0.2", "10.20.0.1", ProtoTCP, 80, idWeb, IDMetadata, 0},
		{"A8 by NAT64", 1, "fd00:18::2", "64:ff9b::a9fe:a9fe", ProtoTCP, 80, idWeb, IDMetadata, 0},
		{"A8 by 6to4", 1, "fd00:18::2", "2002:a9fe:a9fe::1", ProtoTCP, 80, idWeb, IDMetadata, 0},
		{"A8 by local NAT64", 1, "fd00:18::2", "64:ff9b:1::a9fe:a9fe", ProtoTCP, 80, idWeb, IDUnknown, 0},
		{"A8 v4-mapped", 1, "172.18.0.2", "::ffff:169.254.169.254", ProtoTCP, 80, idWeb, IDMetadata, 0},
		{"A9", 1, "172.18.0.2", "172.18.0.1", ProtoTCP, 2375, idWeb, IDOrchestrator, 0},
		{"A9", 1, "fd00:18::2", "fd00:18::1", ProtoTCP, 2376, idWeb, IDOrchestrator, 0},
		{"A9 overlay data", 1, "172.18.0.2", "192.168.1.9", udp, 4789, idWeb, IDOrchestrator, 0},
		{"A9 on a node", 1, "172.18.0.2", "192.168.1.10", ProtoTCP, 7946, idWeb, IDOrchestrator, 0},
		{"A9 where the engine listens", 1, "172.18.0.2", "192.168.1.9", ProtoTCP, 4243, idWeb, IDOrchestrator, 0},
		{"A9 not elsewhere", 1, "172.18.0.2", "192.168.1.11", ProtoTCP, 2375, idWeb, IDSite, 0},
		{"A10 gateway", 1, "172.18.0.1", "172.18.0.2", ProtoTCP, 80, IDHost, idWeb, 0},
		{"A10 gateway", 1, "fd00:18::1", "fd00:18::2", ProtoTCP, 80, IDHost, idWeb, 0},
		{"A10 link-local", 1, "fe80::42:1", "fe80::42:ff:fe00:2", ProtoTCP, 80, IDHost, idWeb, 0},
		{"A10 another gateway", 2, "172.19.0.3", "172.18.0.1", ProtoTCP, 22, idApp, IDHost, 0},
		{"A10 an overlay's gateway is not the host", 3, "10.0.1.6", "10.0.1.1", ProtoTCP, 22, idTask, IDUnknown, 0},
		{"A10 node", 1, "172.18.0.2", "192.168.1.10", ProtoTCP, 22, idWeb, IDNode, 0},
		{"A11", 1, "172.18.0.2", "224.0.0.251", udp, 5353, idWeb, IDMulticast, 0},
		{"A11", 1, "fd00:18::2", "ff02::fb", udp, 5353, idWeb, IDMulticast, 0},
		{"A11 broadcast", 1, "172.18.0.2", "255.255.255.255", udp, 67, idWeb, IDBroadcast, 0},
		{"A11 a network's last address", 1, "172.18.0.2", "172.18.255.255", udp, 137, idWeb, IDBroadcast, 0},
		{"A11 the LAN's last address", 1, "172.18.0.2", "192.168.1.255", udp, 137, idWeb, IDBroadcast, 0},
		{"A12", 1, "172.18.0.2", "172.18.0.200", ProtoTCP, 80, idWeb, IDUnknown, 0},
		{"A12", 1, "fd00:18::2", "fd00:18::200", ProtoTCP, 80, idWeb, IDUnknown, 0},
		{"A12 of another network", 1, "172.18.0.2", "172.19.0.200", ProtoTCP, 80, idWeb, IDUnknown, 0},
		{"A12 as source", 1, "172.18.0.200", "172.18.0.2", ProtoTCP, 80, IDUnknown, idWeb, 0},
		{"A12 in no group", 1, "172.18.0.77", "172.18.0.2", ProtoTCP, 80, IDUnknown, idWeb, 0},
		{"A12 link-local of nobody", 1, "fe80::1234", "172.18.0.2", ProtoTCP, 80, IDUnknown, idWeb, 0},
		{"A13", 1, "172.18.0.2", "192.168.1.77", ProtoTCP, 80, idWeb, IDSite, 0},
		{"A13 the macvlan's router", 1, "172.18.0.2", "192.168.1.1", ProtoTCP, 80, idWeb, IDSite, 0},
		{"A13", 1, "fd00:18::2", "fd77::1", ProtoTCP, 80, idWeb, IDSite, 0},
		{"A13 carrier", 1, "100.64.3.4", "172.18.0.2", ProtoTCP, 80, IDSite, idWeb, 0},
		{"A13 added", 1, "172.18.0.2", "198.51.100.7", ProtoTCP, 80, idWeb, IDSite, 0},
		{"A13 removed", 1, "172.18.0.2", "10.30.0.7", ProtoTCP, 80, idWeb, IDInternet, 0},
		{"A13 by 6to4", 1, "fd00:18::2", "2002:0a28:0007::1", ProtoTCP, 80, idWeb, IDSite, 0},
		{"A14", 1, "172.18.0.2", "1.1.1.1", ProtoTCP, 443, idWeb, IDInternet, 0},
		{"A14", 1, "fd00:18::2", "2606:4700::1111", ProtoTCP, 443, idWeb, IDInternet, 0},
		{"A14 not loopback", 1, "172.18.0.2", "127.0.0.1", ProtoTCP, 443, idWeb, IDUnknown, 0},
		{"A14 not v4-compatible", 1, "fd00:18::2", "::a9fe:a9fe", ProtoTCP, 443, idWeb, IDUnknown, 0},
		{"A14 not unspecified", 1, "0.0.0.0", "255.255.255.255", udp, 67, IDUnknown, IDBroadcast, 0},
		{"R15 the callee's hook sees the host", 1, "172.18.0.1", "172.18.0.2", ProtoTCP, 80, IDHost, idWeb, 0},
	} {
		from, to, own := table.Resolve(query(c.zone, c.src, c.dst, c.proto, c.port))
		if c.own == 0 {
			c.own = c.port
		}
		if from != c.from || to != c.to || own != c.own {
			t.Errorf("%s: %s -> %s %s/%d in zone %d is %s -> %s port %d, want %s -> %s port %d", c.rule, c.src, c.dst, c.proto, c.port, c.zone,
				table.IdentityName(from), table.IdentityName(to), own, table.IdentityName(c.from), table.IdentityName(c.to), c.own)
		}
	}
}

// TestResolveClaims: what two peers claim is nobody's.
func TestResolveClaims(t *testing.T) {
	in := town()
	in.Snapshot.Workloads[4].Endpoints[0].Addresses = addrs("172.18.0.3")                                    // loose takes db's address
	in.Snapshot.Workloads[6].Published = []Published{{HostPort: 8080, Port: 53, Proto: ProtoTCP}}            // and unbound web's port
	in.Snapshot.Workloads[8].Endpoints[0].Addresses = addrs("172.18.0.2", "fd00:18::2", "::ffff:172.18.0.7") // web has one more
	table := mustCompile(t, in)
	for _, c := range []struct {
		dst  string
		port uint16
		to   Identity
	}{
		{"172.18.0.3", 5432, IDUnknown}, {"192.168.1.9", 8080, IDUnknown}, {"fd00:18::1", 8080, IDUnknown}, {"172.18.0.7", 80, idWeb}, {"fd00:18::3", 5432, idDB},
	} {
		if _, to, _ := table.Resolve(query(1, "172.18.0.53", c.dst, ProtoTCP, c.port)); to != c.to {
			t.Errorf("%s:%d is %s, want %s", c.dst, c.port, table.IdentityName(to), table.IdentityName(c.to))
		}
	}
}

// service peers and statements of the town.
var (
	peerWeb  = ServicePeer(key("shop", "web"))
	peerDB   = ServicePeer(key("shop", "db"))
	peerApp  = ServicePeer(key("blog", "app"))
	peerTask = ServicePeer(key("swarm", "task"))
)

func peersOf(kinds ...PeerKind) []Peer {
	var out []Peer
	for _, k := range kinds {
		out = append(out, Peer{Kind: k})
	}
	return out
}

func one(p Peer) []Peer { return []Peer{p} }

func webToDB(edit ...func(*Statement)) Statement {
	s := Statement{ID: "web-db", Verdict: Allow, From: one(peerWeb), To: one(peerDB), App: app(AppMySQL), Ports: tcp(3306), Origin: []string{"test"}}
	for _, e := range edit {
		e(&s)
	}
	return s
}

func as(v Verdict, tier Tier, id string) func(*Statement) {
	return func(s *Statement) { s.Verdict, s.Tier, s.ID = v, tier, id }
}

func speak(m AppMatch) func(*Statement) { return func(s *Statement) { s.App = m } }

func only(speaks Speaks) func(*Statement) { return func(s *Statement) { s.Speaks = speaks } }

func always(s *Statement) { s.EnforceAlways = true }

// TestVerdict asks one thing of web -> db tcp/3306 in both families, under
// statements and the modes of both sides.
func TestVerdict(t *testing.T) {
	modes := map[byte]Mode{'e': Enforce, 'o': Observe, 'u': Enforce} // u: not guarded
	mysql, ssh := Spoken{App: AppMySQL}, Spoken{App: AppSSH}
	for _, c := range []struct {
		rule       string
		modes      string // web's, db's
		statements []Statement
		spoken     Spoken
		before     Verdict
		want       Judgement
	}{
		{"V1 nothing said", "ee", nil, mysql, Drop, Judgement{Drop, true, SideOut, -1, ReasonNoRule}},
		{"V1 both sides say yes", "ee", []Statement{webToDB()}, mysql, Undecided, Judgement{Allow, false, SideOut, 0, ReasonNone}},
		{"V1 only the caller's yes", "ee", []Statement{webToDB(only(SpeaksOut))}, mysql, Drop, Judgement{Drop, true, SideIn, -1, ReasonNoRule}},
		{"V1 only the callee's yes", "ee", []Statement{webToDB(only(SpeaksIn))}, mysql, Drop, Judgement{Drop, true, SideOut, -1, ReasonNoRule}},
		{"V1 a side each", "ee", []Statement{webToDB(only(SpeaksIn)), webToDB(only(SpeaksOut), as(Allow, TierModel, "b"))}, mysql, Undecided, Judgement{Allow, false, SideOut, 1, ReasonNone}},
		{"V1 unguarded caller says yes", "ue", []Statement{webToDB(only(SpeaksIn))}, mysql, Undecided, Judgement{Allow, false, SideIn, 0, ReasonNone}},
		{"V1 unguarded caller needs the callee's", "ue", nil, mysql, Drop, Judgement{Drop, true, SideIn, -1, ReasonNoRule}},
		{"V1 unguarded callee says yes", "eu", []Statement{webToDB(only(SpeaksOut))}, mysql, Undecided, Judgement{Allow, false, SideOut, 0, ReasonNone}},
		{"V1 neither guarded", "uu", nil, mysql, Allow, Judgement{Allow, false, SideOut, -1, ReasonNone}},
		{"V1 the application is the statement's", "ee", []Statement{webToDB()}, ssh, Undecided, Judgement{Drop, true, SideOut, -1, ReasonApp}},
		{"V1 the budget ran out", "ee", []Statement{webToDB()}, Spoken{App: AppUnknown}, Undecided, Judgement{Drop, true, SideOut, -1, ReasonAppUnknown}},
		{"V1 any application", "ee", []Statement{webToDB(speak(AnyApp))}, Spoken{App: AppUnknown}, Allow, Judgement{Allow, false, SideOut, 0, ReasonNone}},
		{"V2 an operator's speaks for both", "ee", []Statement{webToDB(as(Allow, TierOperator, "op"))}, mysql, Undecided, Judgement{Allow, false, SideOut, 0, ReasonNone}},
		{"V3 operator deny > operator allow", "ee", []Statement{webToDB(as(Allow, TierOperator, "a")), webToDB(as(Drop, TierOperator, "d"), speak(AnyApp))}, mysql, Drop, Judgement{Drop, true, SideOut, 1, ReasonDenied}},
		{"V3 operator allow > label deny", "ee", []Statement{webToDB(as(Drop, TierLabel, "d"), speak(AnyApp)), webToDB(as(Allow, TierOperator, "a"), speak(AnyApp))}, mysql, Allow, Judgement{Allow, false, SideOut, 1, ReasonNone}},
		{"V3 label deny > label allow", "ee", []Statement{webToDB(as(Allow, TierLabel, "a"), speak(AnyApp)), webToDB(as(Reject, TierLabel, "d"), speak(AnyApp))}, mysql, Reject, Judgement{Reject, true, SideOut, 1, ReasonDenied}},
		{"V3 label deny > model", "ee", []Statement{webToDB(), webToDB(as(Drop, TierLabel, "d"), speak(AnyApp))}, mysql, Drop, Judgement{Drop, true, SideOut, 1, ReasonDenied}},
		{"V3 label allow > drop", "ee", []Statement{webToDB(as(Allow, TierLabel, "a"), speak(AnyApp))}, ssh, Allow, Judgement{Allow, false, SideOut, 0, ReasonNone}},
		{"V3 no specificity", "ee", []Statement{webToDB(), {ID: "wide", Verdict: Drop, Tier: TierOperator, From: peersOf(PeerAny), To: peersOf(PeerAny), App: AnyApp, AnyPort: true}}, mysql, Drop, Judgement{Drop, true, SideOut, 1, ReasonDenied}},
		{"V3 one side's deny", "ee", []Statement{webToDB(), webToDB(as(Drop, TierLabel, "d"), speak(AnyApp), only(SpeaksIn))}, mysql, Drop, Judgement{Drop, true, SideIn, 1, ReasonDenied}},
		{"V4 caller observes", "oe", []Statement{webToDB(only(SpeaksIn), speak(AnyApp))}, mysql, Allow, Judgement{Allow, true, SideOut, -1, ReasonNoRule}},
		{"V4 callee observes", "eo", []Statement{webToDB(only(SpeaksOut), speak(AnyApp))}, mysql, Allow, Judgement{Allow, true, SideIn, -1, ReasonNoRule}},
		{"V4 both observe", "oo", nil, mysql, Allow, Judgement{Allow, true, SideOut, -1, ReasonNoRule}},
		{"V4 observing web, enforcing db", "oe", nil, mysql, Drop, Judgement{Drop, true, SideIn, -1, ReasonNoRule}},
		{"V4 to record, the application must be known", "oo", []Statement{webToDB()}, ssh, Undecided, Judgement{Allow, true, SideOut, -1, ReasonApp}},
		{"V4 enforce: always", "oo", []Statement{webToDB(as(Drop, TierOperator, "d"), speak(AnyApp), always)}, mysql, Drop, Judgement{Drop, true, SideOut, 0, ReasonDenied}},
		{"V4 an always among its equals", "oo", []Statement{webToDB(as(Drop, TierOperator, "d"), speak(AnyApp)), webToDB(as(Reject, TierOperator, "e"), speak(AnyApp), always)}, mysql, Reject, Judgement{Reject, true, SideOut, 1, ReasonDenied}},
		{"V4 a deny in observe mode", "oo", []Statement{webToDB(as(Reject, TierOperator, "d"), speak(AnyApp))}, mysql, Allow, Judgement{Allow, true, SideOut, 0, ReasonDenied}},
		{"V7 a deny with an app", "ee", []Statement{webToDB(speak(AnyApp)), webToDB(as(Drop, TierOperator, "d"), speak(app(AppSSH)))}, mysql, Undecided, Judgement{Allow, false, SideOut, 0, ReasonNone}},
		{"V7 and when it is that", "ee", []Statement{webToDB(speak(AnyApp)), webToDB(as(Drop, TierOperator, "d"), speak(app(AppSSH)))}, ssh, Undecided, Judgement{Drop, true, SideOut, 1, ReasonDenied}},
		{"V7 a deny that changes nothing", "ee", []Statement{webToDB(as(Drop, TierOperator, "d"), speak(app(AppSSH)))}, Spoken{}, Drop, Judgement{Drop, true, SideOut, -1, ReasonNoRule}},
		{"V7 plain only", "ee", []Statement{webToDB()}, Spoken{App: AppMySQL, Inner: AppTLS}, Undecided, Judgement{Drop, true, SideOut, -1, ReasonApp}},
	} {
		in := town()
		in.Statements = c.statements
		for i, letter := range []byte(c.modes) {
			in.Groups[i].Mode, in.Groups[i].Guarded = modes[letter], letter != 'u'
		}
		table := mustCompile(t, in)
		for _, ends := range [][2]string{{"172.18.0.2", "172.18.0.3"}, {"fd00:18::2", "fd00:18::3"}} {
			d := table.Lookup(query(1, ends[0], ends[1], ProtoTCP, 3306))
			if d.Verdict() != c.before {
				t.Errorf("%s: verdict %v before the application is known, want %v", c.rule, d.Verdict(), c.before)
			}
			if got := d.Judge(c.spoken); got != c.want {
				t.Errorf("%s: judged %+v, want %+v", c.rule, got, c.want)
			}
		}
	}
}

func verdictOf(t *testing.T, table *Table, q Query, s Spoken) Judgement {
	t.Helper()
	return table.Lookup(q).Judge(s)
}

// TestPublished is R13 and R15: who may call a published port, and how far a
// caller in a container is judged against the service behind it.
func TestPublished(t *testing.T) {
	in := town()
	in.Statements = []Statement{
		{ID: "published", Verdict: Allow, From: peersOf(PeerSite, PeerHost), To: one(peerWeb), App: app(AppHTTP), Ports: tcp(80)},
		{ID: "own", Verdict: Allow, From: one(peerApp), To: one(peerWeb), App: app(AppHTTP), Ports: tcp(80)},
	}
	table := mustCompile(t, in)
	http := Spoken{App: AppHTTP}
	for _, c := range []struct {
		what     string
		zone     Zone
		src, dst string
		port     uint16
		want     Verdict
		reason   Reason
	}{
		{"R13 the LAN", 1, "192.168.1.77", "172.18.0.2", 80, Allow, ReasonNone},
		{"R13 the host", 1, "172.18.0.1", "172.18.0.2", 80, Allow, ReasonNone},
		{"R13 the host", 1, "fd00:18::1", "fd00:18::2", 80, Allow, ReasonNone},
		{"R13 the internet not", 1, "1.1.1.1", "172.18.0.2", 80, Drop, ReasonNoRule},
		{"R13 no other port", 1, "192.168.1.77", "172.18.0.2", 22, Drop, ReasonNoRule},
		{"R15 judged against the service at its own port", 2, "172.19.0.3", "192.168.1.9", 8080, Allow, ReasonNone},
		{"R15 in IPv6", 2, "fd00:19::3", "fd00:19::1", 8080, Allow, ReasonNone},
		{"R15 a caller without a statement", 1, "172.18.0.3", "192.168.1.9", 8080, Drop, ReasonNoRule},
		{"R15 not the published number itself", 2, "172.19.0.3", "172.18.0.2", 8080, Drop, ReasonNoRule},
		{"R15 the host's own ports", 2, "172.19.0.3", "192.168.1.9", 22, Drop, ReasonNoRule},
		{"R15 unguarded caller: the service's say", 1, "172.18.0.9", "192.168.1.9", 8080, Drop, ReasonNoRule},
	} {
		if got := verdictOf(t, table, query(c.zone, c.src, c.dst, ProtoTCP, c.port), http); got.Verdict != c.want || got.Reason != c.reason {
			t.Errorf("%s: %s -> %s:%d %v (%v), want %v (%v)", c.what, c.src, c.dst, c.port, got.Verdict, got.Reason, c.want, c.reason)
		}
	}
}

// TestHiddenSources is R14: clients behind the routing mesh count as internet.
func TestHiddenSources(t *testing.T) {
	q := query(4, "10.0.0.2", "10.0.0.6", ProtoTCP, 80)
	for kind, want := range map[PeerKind]Verdict{PeerInternet: Allow, PeerExternal: Allow, PeerIngress: Allow, PeerAny: Allow, PeerSite: Drop, PeerHost: Drop, PeerWorkload: Drop} {
		in := town()
		in.Statements = []Statement{{ID: "s", Verdict: Allow, From: peersOf(kind), To: one(peerTask), App: AnyApp, Ports: tcp(80)}}
		if got := mustCompile(t, in).Lookup(q).Verdict(); got != want {
			t.Errorf("published for %v: %v, want %v", kind, got, want)
		}
	}
}

// TestBalancer is R16: the task's hook sees callers of a VIP as lb.
func TestBalancer(t *testing.T) {
	lb := query(3, "10.0.1.4", "10.0.1.6", ProtoTCP, 80)
	for _, c := range []struct {
		what string
		edit func(*Statement)
		want Verdict
	}{
		{"a workload may call", func(*Statement) {}, Allow},
		{"any workload may call", func(s *Statement) { s.From = peersOf(PeerWorkload) }, Allow},
		{"only the LAN may call", func(s *Statement) { s.From = peersOf(PeerSite) }, Drop},
		{"on another port", func(s *Statement) { s.Ports = tcp(81) }, Drop},
		{"only the caller says so", func(s *Statement) { s.Speaks = SpeaksOut }, Drop},
		{"a deny", as(Drop, TierOperator, "d"), Drop},
		{"of every workload to every workload", func(s *Statement) { s.From, s.To = peersOf(PeerWorkload), peersOf(PeerWorkload) }, Allow},
	} {
		in := town()
		s := Statement{ID: "s", Verdict: Allow, From: one(peerWeb), To: one(peerTask), App: AnyApp, Ports: tcp(80)}
		c.edit(&s)
		in.Statements = []Statement{s}
		if got := mustCompile(t, in).Lookup(lb).Verdict(); got != c.want {
			t.Errorf("%s: lb -> task %v, want %v", c.what, got, c.want)
		}
	}
}

// TestSelectors: any and workload never reach what only a name reaches, and
// unknown is reached by nothing (A12, V11).
func TestSelectors(t *testing.T) {
	in := town()
	in.Statements = []Statement{
		{ID: "any", Verdict: Allow, From: peersOf(PeerAny), To: peersOf(PeerAny), App: AnyApp, Ports: []PortRange{{ProtoTCP, 1, 65535}}},
		{ID: "mdns", Verdict: Allow, From: one(peerDB), To: peersOf(PeerMulticast), App: AnyApp, Ports: []PortRange{Port(ProtoUDP, 5353)}},
		{ID: "imds", Verdict: Allow, From: one(peerDB), To: peersOf(PeerMetadata), App: AnyApp, Ports: tcp(80)},
	}
	table := mustCompile(t, in)
	for _, c := range []struct {
		src, dst string
		proto    Proto
		port     uint16
		want     Verdict
		reason   Reason
	}{
		{"172.18.0.2", "172.18.0.3", ProtoTCP, 1, Allow, ReasonNone},
		{"172.18.0.2", "1.1.1.1", ProtoTCP, 1, Allow, ReasonNone},
		{"172.18.0.2", "192.168.1.9", ProtoTCP, 1, Allow, ReasonNone},
		{"172.18.0.2", "172.18.0.200", ProtoTCP, 1, Drop, ReasonUnknownPeer},
		{"172.18.0.200", "172.18.0.2", ProtoTCP, 1, Drop, ReasonUnknownPeer},
		{"fd00:18::200", "fd00:18::2", ProtoTCP, 1, Drop, ReasonUnknownPeer},
		{"172.18.0.2", "169.254.169.254", ProtoTCP, 80, Drop, ReasonNoRule},
		{"172.18.0.3", "169.254.169.254", ProtoTCP, 80, Allow, ReasonNone},
		{"172.18.0.2", "192.168.1.9", ProtoTCP, 2375, Drop, ReasonNoRule},
		{"172.18.0.2", "224.0.0.251", ProtoUDP, 5353, Drop, ReasonMulticast},
		{"172.18.0.2", "255.255.255.255", ProtoUDP, 67, Drop, ReasonMulticast},
		{"172.18.0.3", "224.0.0.251", ProtoUDP, 5353, Allow, ReasonNone},
		{"fd00:18::3", "ff02::fb", ProtoUDP, 5353, Allow, ReasonNone},
		{"172.18.0.2", "172.18.0.3", ProtoUDP, 1, Drop, ReasonNoRule},
		{"172.18.0.2", "172.18.0.3", 132, 1, Drop, ReasonNoRule},
	} {
		if got := verdictOf(t, table, query(1, c.src, c.dst, c.proto, c.port), Spoken{App: AppUnknown}); got.Verdict != c.want || got.Reason != c.reason {
			t.Errorf("%s -> %s %s/%d: %v (%v), want %v (%v)", c.src, c.dst, c.proto, c.port, got.Verdict, got.Reason, c.want, c.reason)
		}
	}
}

// TestLostMetadata is V11: what nobody told of, or not any more, is let
// through by nothing.
func TestLostMetadata(t *testing.T) {
	in := town()
	in.Statements = []Statement{webToDB(speak(AnyApp))}
	q := query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, 3306)
	if v := mustCompile(t, in).Lookup(q).Verdict(); v != Allow {
		t.Fatalf("with metadata: %v", v)
	}
	in.Groups = slices.DeleteFunc(in.Groups, func(g Group) bool { return g.Identity == idWeb })
	if j := verdictOf(t, mustCompile(t, in), q, Spoken{}); j.Verdict != Drop || j.Reason != ReasonUnknownPeer {
		t.Errorf("caller in no group: %+v", j)
	}
	in = town()
	in.Statements = []Statement{webToDB(speak(AnyApp))}
	in.Snapshot.Workloads = in.Snapshot.Workloads[:7]
	if j := verdictOf(t, mustCompile(t, in), q, Spoken{}); j.Verdict != Drop || j.Reason != ReasonUnknownPeer {
		t.Errorf("caller gone: %+v", j)
	}
}

// TestEpoch: a table keeps the number it was compiled with (V8); a faulty
// input gives no table, so that the last one stays.
func TestEpoch(t *testing.T) {
	in := town()
	if e := mustCompile(t, in).Epoch(); e != 3 {
		t.Errorf("epoch %d, want 3", e)
	}
	in.Statements = []Statement{webToDB(), webToDB()}
	if table, err := Compile(in); err == nil || table != nil {
		t.Errorf("faulty input: table %v, error %v", table, err)
	}
}

// TestInitiator is V9.
func TestInitiator(t *testing.T) {
	in := town()
	in.Statements = []Statement{webToDB(), {ID: "published", Verdict: Allow, From: one(peerApp), To: one(peerWeb), App: AnyApp, Ports: tcp(80)}}
	enforcing := mustCompile(t, in)
	observing := town()
	observing.Statements = in.Statements
	for i := range observing.Groups {
		observing.Groups[i].Mode = Observe
	}
	recording := mustCompile(t, observing)
	for _, c := range []struct {
		what         string
		table        *Table
		src          string
		srcPort      uint16
		dst          string
		dstPort      uint16
		reversed, ok bool
	}{
		{"the caller goes on", enforcing, "172.18.0.2", 40000, "172.18.0.3", 3306, false, true},
		{"the callee goes on", enforcing, "172.18.0.3", 3306, "172.18.0.2", 40000, true, true},
		{"the callee goes on", enforcing, "fd00:18::3", 3306, "fd00:18::2", 40000, true, true},
		{"another port of the callee", enforcing, "172.18.0.3", 3307, "172.18.0.2", 40000, false, false},
		{"a stranger", enforcing, "172.18.0.53", 3306, "172.18.0.2", 40000, false, false},
		{"the callee, in observe mode, is a reply and no violation", recording, "172.18.0.3", 3306, "172.18.0.2", 40000, true, true},
		{"a stranger in observe mode is recorded", recording, "172.18.0.53", 3306, "172.18.0.2", 40000, false, true},
		{"a published port answers", enforcing, "192.168.1.9", 8080, "172.19.0.3", 40000, true, true},
	} {
		d, reversed, ok := c.table.Initiator(query(1, c.src, c.dst, ProtoTCP, c.dstPort), c.srcPort)
		if d == nil || reversed != c.reversed || ok != c.ok {
			t.Errorf("%s: reversed %v ok %v, want %v %v", c.what, reversed, ok, c.reversed, c.ok)
		}
	}
}

// TestEmptySets: an empty peer or port set matches nothing, in an allow and in
// a deny, and so does what is pending, a name, an application of no form.
func TestEmptySets(t *testing.T) {
	q := query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, 3306)
	for _, c := range []struct {
		what string
		edit func(*Statement)
	}{
		{"no from", func(s *Statement) { s.From = nil }},
		{"empty from", func(s *Statement) { s.From = []Peer{} }},
		{"no to", func(s *Statement) { s.To = nil }},
		{"no ports", func(s *Statement) { s.Ports = nil }},
		{"no application", func(s *Statement) { s.App = AppMatch{} }},
		{"no form", func(s *Statement) { s.App = AppMatch{App: AppMySQL} }},
		{"zero peer", func(s *Statement) { s.From = []Peer{{}} }},
		{"zero service", func(s *Statement) { s.From = []Peer{{Kind: PeerService}} }},
		{"service of that name elsewhere", func(s *Statement) { s.From = one(ServicePeer(key("blog", "web"))) }},
		{"a name with a dot for any character", func(s *Statement) { s.From = one(ServicePeer(key("shop", "w.b"))) }},
		{"service of another domain", func(s *Statement) { s.From[0].Service.Project.Domain = "n2" }},
		{"another identity", func(s *Statement) { s.From[0].Identity = idDB }},
		{"pending", func(s *Statement) { s.Pending = "names" }},
	} {
		in := town()
		allow, deny := webToDB(speak(AnyApp)), webToDB(speak(AnyApp))
		allow.From, deny.From = slices.Clone(allow.From), slices.Clone(deny.From)
		c.edit(&allow)
		in.Statements = []Statement{allow}
		if v := mustCompile(t, in).Lookup(q).Verdict(); v != Drop {
			t.Errorf("%s: allow gives %v", c.what, v)
		}
		c.edit(&deny)
		as(Drop, TierOperator, "deny")(&deny)
		in.Statements = []Statement{webToDB(speak(AnyApp)), deny}
		if v := mustCompile(t, in).Lookup(q).Verdict(); v != Allow {
			t.Errorf("%s: deny gives %v", c.what, v)
		}
	}
}

// TestFaults: each fault is reported, names its statement, and gives no table.
func TestFaults(t *testing.T) {
	bad := func(edit func(*Statement)) []Statement { return []Statement{webToDB(edit)} }
	for _, c := range []struct {
		what       string
		statements []Statement
		edit       func(*Input)
		want       []string
	}{
		{"no id", bad(func(s *Statement) { s.ID = "" }), nil, []string{"statement 0 (test)", "no id"}},
		{"same id", []Statement{webToDB(), webToDB()}, nil, []string{`"web-db"`, "another statement"}},
		{"undecided", bad(func(s *Statement) { s.Verdict = Undecided }), nil, []string{"want allow, drop or reject"}},
		{"deny by a model", bad(func(s *Statement) { s.Verdict = Drop }), nil, []string{"models only allow"}},
		{"any port", bad(func(s *Statement) { s.AnyPort = true }), nil, []string{"deny only"}},
		{"no prefix", bad(func(s *Statement) { s.To = peersOf(PeerCIDR) }), nil, []string{"cidr:", "no prefix"}},
		{"record without prefix", bad(func(s *Statement) {
			s.To = []Peer{{Kind: PeerSelector, Selected: &Selection{Prefixes: make([]netip.Prefix, 1)}}}
		}), nil, []string{"empty prefix"}},
		{"exception of an allow", bad(func(s *Statement) { s.Except = make([]Exception, 1) }), nil, []string{"except is for deny only"}},
		{"bad exception", bad(func(s *Statement) {
			as(Drop, TierOperator, "d")(s)
			s.Except = []Exception{{Ports: tcp(0), To: []Peer{{Kind: 99}}}}
		}), nil, []string{"except 0: peer kind 99", "except 0: ports tcp/0"}},
		{"deny by name", bad(func(s *Statement) {
			as(Drop, TierOperator, "d")(s)
			s.To = []Peer{{Kind: PeerName, Name: "a.example.com"}}
		}), nil, []string{`"d"`, "name:a.example.com"}},
		{"port 0", bad(func(s *Statement) { s.Ports = tcp(0) }), nil, []string{"tcp/0"}},
		{"backwards", bad(func(s *Statement) { s.Ports = []PortRange{{ProtoTCP, 9, 8}} }), nil, []string{"tcp/9-8"}},
		{"other protocol", bad(func(s *Statement) { s.Ports = []PortRange{{132, 1, 2}} }), nil, []string{"tcp, udp or icmp"}},
		{"unknown peer kind", bad(func(s *Statement) { s.To = []Peer{{Kind: 99}} }), nil, []string{"peer kind 99"}},
		{"unknown tier", bad(func(s *Statement) { s.Tier = 9 }), nil, []string{"tier 9"}},
		{"unknown sides", bad(func(s *Statement) { s.Speaks = 9 }), nil, []string{"speaks 9"}},
		{"unknown application", bad(func(s *Statement) { s.App.App = AppCount }), nil, []string{"application"}},
		{"all are reported", []Statement{webToDB(func(s *Statement) { s.Ports = tcp(0) }), webToDB(as(Undecided, TierLabel, "other"))}, nil, []string{`"web-db"`, `"other"`}},
		{"no snapshot", nil, func(in *Input) { in.Snapshot = nil }, []string{"no snapshot"}},
		{"reserved identity", nil, func(in *Input) { in.Groups[0].Identity = IDHost }, []string{"shop/web", "reserved"}},
		{"identity twice", nil, func(in *Input) { in.Groups[0].Identity = idDB }, []string{"shop/db", "another group"}},
		{"in two groups", nil, func(in *Input) { in.Groups[0].Members = []string{"db"} }, []string{"workload db", "shop/web", "shop/db"}},
		{"site both ways", nil, func(in *Input) { in.ExtraSite, in.NotSite = prefixes("10.0.0.0/8"), prefixes("10.0.0.0/8") }, []string{"10.0.0.0/8"}},
		{"empty setting", nil, func(in *Input) { in.ExtraMetadata, in.ExtraSite = make([]netip.Addr, 1), make([]netip.Prefix, 1) }, []string{"metadata", "site"}},
	} {
		in := town()
		in.Statements = c.statements
		if c.edit != nil {
			c.edit(&in)
		}
		table, err := Compile(in)
		if err == nil || table != nil {
			t.Errorf("%s: no fault reported", c.what)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", c.what, err, want)
			}
		}
	}
}

// TestRules: the provenance of each rule, wildcards left as they are.
func TestRules(t *testing.T) {
	in := town()
	in.Statements = []Statement{
		webToDB(),
		{ID: "out", Verdict: Allow, From: peersOf(PeerWorkload), To: peersOf(PeerExternal), App: AnyApp, Ports: []PortRange{Port(ProtoTCP, 443), Port(ProtoUDP, 443)}},
		{ID: "deny", Verdict: Reject, Tier: TierOperator, From: peersOf(PeerAny), To: one(peerDB), App: AnyApp, AnyPort: true},
	}
	table := mustCompile(t, in)
	var got []string
	for _, r := range table.Rules() {
		got = append(got, strings.Join([]string{table.Statements()[r.Statement].ID, r.Verdict.String(), table.IdentityName(r.From), table.IdentityName(r.To), r.Ports.String()}, " "))
	}
	want := []string{
		"web-db allow shop/web shop/db tcp/3306",
		"out allow @workload @site tcp/443", "out allow @workload @site udp/443",
		"out allow @workload @internet tcp/443", "out allow @workload @internet udp/443",
		"deny reject @any shop/db tcp/0-65535", "deny reject @any shop/db udp/0-65535", "deny reject @any shop/db icmp",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rules:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestEcho: ICMP echo is one thing in both families (R21).
func TestEcho(t *testing.T) {
	in := town()
	in.Statements = []Statement{webToDB(speak(app(AppICMP)), func(s *Statement) { s.Ports = []PortRange{{Proto: ProtoICMP}} })}
	table := mustCompile(t, in)
	for _, q := range []Query{query(1, "172.18.0.2", "172.18.0.3", ProtoICMP, 0), query(1, "fd00:18::2", "fd00:18::3", ProtoICMP, 0), query(1, "fd00:18::2", "fd00:18::3", ProtoICMPv6, 0)} {
		if j := verdictOf(t, table, q, Spoken{App: AppICMP}); j.Verdict != Allow {
			t.Errorf("%v: %+v", q.Proto, j)
		}
		if j := verdictOf(t, table, q, Spoken{App: AppICMPv6}); j.Verdict != Allow {
			t.Errorf("%v, icmpv6: %+v", q.Proto, j)
		}
	}
}

func TestIdentities(t *testing.T) {
	ids := NewIdentities()
	a, b := ids.Get("a"), ids.Get("b")
	if a != FirstWorkloadIdentity || a == b || ids.Get("a") != a {
		t.Errorf("a %d, b %d, a again %d", a, b, ids.Get("a"))
	}
	ids.Keep(func(key string) bool { return key == "b" })
	if again := ids.Get("a"); again == a || again == b {
		t.Errorf("a forgotten key got the old number %d", again)
	}
	if ids.Get("b") != b {
		t.Error("a kept key got another number")
	}
}

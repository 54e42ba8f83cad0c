package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// An export is a table written down for another enforcer, as far as that can
// express it. It is made of the table's verdicts, so that precedence, exceptions
// and modes are worked in; what the target cannot say is listed.

// Loss is something of the policy that the target does not enforce in the same
// way.
type Loss struct {
	What string `json:"what"` // the statement, service or network
	Text string `json:"text"`
}

// exporter works the table out for pairs of ends.
type exporter struct {
	t      *Table
	ends   []exportEnd
	losses []Loss
	told   map[Loss]bool
}

// exportEnd is a peer with the addresses that it has.
type exportEnd struct {
	name     string
	who      uint32
	prefixes []netip.Prefix
}

func newExporter(t *Table) *exporter {
	x := &exporter{t: t, told: make(map[Loss]bool)}
	x.findWorkloads()
	x.findAddresses()
	x.findNetworks()
	x.loseStatements()
	return x
}

func (x *exporter) lose(what, format string, args ...any) {
	l := Loss{what, fmt.Sprintf(format, args...)}
	if !x.told[l] {
		x.told[l] = true
		x.losses = append(x.losses, l)
	}
}

// toldAs is how a statement is called before people: those of files by their id, the
// others, whose ids are digests, by their text.
func (s *Statement) toldAs() string {
	if lines := s.Lines(false); s.Tier != TierOperator && len(lines) > 0 {
		return lines[0]
	}
	return s.ID
}

// findWorkloads makes an end of each group at each number that it has.
func (x *exporter) findWorkloads() {
	at := make(map[uint32][]netip.Prefix)
	zones := make(map[netip.Addr]Zone)
	networks := make(map[string]*Network)
	groups, snapshot := memberGroups(x.t), x.t.snapshot()
	for i := range snapshot.Networks {
		networks[snapshot.Networks[i].ID] = &snapshot.Networks[i]
	}
	for i := range snapshot.Workloads {
		w := &snapshot.Workloads[i]
		group := groups[w.ID]
		for _, e := range w.Endpoints {
			n := networks[e.Network]
			for _, ip := range e.Addresses {
				if n == nil || group == 0 || !ip.IsValid() {
					continue
				}
				if other, twice := zones[ip]; twice && other != n.Zone {
					x.lose(w.Service.String(), "its address %s is also another workload's on another network: what is written holds for both", ip)
				}
				zones[ip] = n.Zone
				who := x.t.placed(group, ip)
				at[who] = append(at[who], hostPrefix(ip))
			}
		}
	}
	for _, who := range slices.Sorted(maps.Keys(at)) {
		x.ends = append(x.ends, exportEnd{name: x.t.IdentityName(x.t.ids[who]), who: who, prefixes: at[who]})
	}
}

func hostPrefix(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	return netip.PrefixFrom(ip, ip.BitLen())
}

// findAddresses makes ends of what single addresses are: metadata services, the
// host, nodes, load balancers.
func (x *exporter) findAddresses() {
	at := make(map[uint32][]netip.Prefix)
	var order []uint32
	for k, ip := range x.t.singles() {
		if s := x.t.resolver.spotAt(k); s.endpoint != nobody && uint32(s.endpoint) >= uint32(FirstWorkloadIdentity) {
			continue
		}
		who := x.t.whoIs(ip)
		if at[who] == nil {
			order = append(order, who)
		}
		at[who] = append(at[who], hostPrefix(ip))
	}
	slices.Sort(order)
	for _, who := range order {
		list := at[who]
		slices.SortFunc(list, comparePrefix)
		x.ends = append(x.ends, exportEnd{name: x.t.IdentityName(x.t.ids[who]), who: who, prefixes: list})
	}
}

// whoIs is who is at an address that is no workload's, seen from everywhere.
func (t *Table) whoIs(ip netip.Addr) uint32 {
	a := addressFrom(ip)
	s := t.resolver.spotAt(a)
	if s.metadata {
		return t.placed(uint32(IDMetadata), ip)
	}
	return t.resolver.elsewhere(0, a, s)
}

// singles are the addresses that mean something of their own.
func (t *Table) singles() map[address]netip.Addr {
	out := make(map[address]netip.Addr)
	add := func(ip netip.Addr) {
		if ip.IsValid() && !ip.IsLoopback() && !ip.IsUnspecified() {
			out[addressFrom(ip)] = ip.Unmap().WithZone("")
		}
	}
	s := t.compiled // hosts and networks
	for _, p := range s.Host.Addresses {
		add(p.Addr())
	}
	for _, ip := range slices.Concat(s.Host.Nodes, t.resolver.metadata()) {
		add(ip)
	}
	for i := range s.Networks {
		for _, ip := range slices.Concat(s.Networks[i].Gateways, s.Networks[i].LB) {
			add(ip)
		}
	}
	return out
}

// metadata lists the addresses of metadata services, settings' too.
func (r *resolver) metadata() []netip.Addr {
	var out []netip.Addr
	r.anywhere.each(func(k addrKey, cell uint32) {
		if cell&plainCell == 0 && r.spots.of(cell).metadata {
			out = append(out, k.netip())
		}
	})
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(cmp.Compare(b.Bits(), a.Bits()), a.Addr().Compare(b.Addr()))
}

var multicastPrefixes = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")}

// representative is an address of p that no longer prefix of all holds; false
// where those cover it.
func representative(p netip.Prefix, all []netip.Prefix) (netip.Addr, bool) {
	ip := p.Addr()
	for ip.IsValid() && p.Contains(ip) {
		inner := slices.IndexFunc(all, func(q netip.Prefix) bool { return q.Bits() > p.Bits() && q.Contains(ip) })
		if inner < 0 {
			return ip, true
		}
		ip = lastIn(all[inner]).Next()
	}
	return netip.Addr{}, false
}

// findNetworks makes ends of prefixes, the longest first: multicast, what is in a
// container network and nobody's, what statements name, the site, the internet and
// what is none of it. Every address is in one.
func (x *exporter) findNetworks() {
	x.ends = append(x.ends, exportEnd{name: "@multicast", who: uint32(IDMulticast), prefixes: multicastPrefixes})
	var subnets []netip.Prefix
	for i := range x.t.compiled.Networks {
		n := &x.t.compiled.Networks[i]
		for _, p := range n.Subnets {
			if p.IsValid() && !n.isOutsideLink() {
				subnets = append(subnets, plain(p))
			}
		}
	}
	if len(subnets) > 0 {
		x.ends = append(x.ends, exportEnd{name: "@unknown", who: uint32(IDUnknown), prefixes: subnets})
	}
	named := make(map[netip.Prefix]bool)
	for _, p := range everywhere {
		named[p] = true
	}
	for p := range x.t.resolver.outside.All() {
		named[p] = true
	}
	for p := range x.t.namedPrefixes {
		named[plain(p)] = true
	}
	sorted := slices.SortedFunc(maps.Keys(named), comparePrefix)
	for _, p := range sorted {
		ip, ok := representative(p, sorted)
		if !ok {
			continue
		}
		a := addressFrom(ip)
		who := x.t.resolver.elsewhere(0, a, spot{endpoint: nobody})
		name := x.t.IdentityName(x.t.ids[who])
		if n := len(x.ends); x.ends[n-1].who == who {
			x.ends[n-1].prefixes = append(x.ends[n-1].prefixes, p)
			continue
		}
		x.ends = append(x.ends, exportEnd{name: name, who: who, prefixes: []netip.Prefix{p}})
	}
}

// loseStatements tells what of statements no target of addresses and ports says.
func (x *exporter) loseStatements() {
	for _, s := range x.t.statements {
		switch {
		case s.Pending != "":
			continue
		case s.Verdict != Allow && !s.App.Any:
			x.lose(s.toldAs(), "a deny of an application (%s) cannot be expressed: such flows pass where another statement allows their ports", s.App)
		case s.Verdict == Allow && !s.App.Any:
			x.lose(s.toldAs(), "%s on %s is written as any application on these ports", s.App, PortsText(s.Ports))
		}
		if s.NamesOnly {
			x.lose(s.toldAs(), "which names may be looked up cannot be limited")
		}
		if s.While != "" {
			x.lose(s.toldAs(), "it is in force as of now (%s) and does not end by itself", s.While)
		}
	}
}

// allows reports whether some application passes: a target without applications
// must let those ports by.
func allows(d *Decision) (v Verdict) {
	v = Drop
	for _, s := range append(d.spoken(), Spoken{}, Spoken{App: AppUnknown}) {
		switch j := d.Judge(s); j.Verdict {
		case Allow, Undecided:
			return Allow
		case Reject:
			v = Reject
		}
	}
	return v
}

// portVerdict is what becomes of a range of ports.
type portVerdict struct {
	ports   PortRange
	verdict Verdict
}

// between lists the verdicts from one end to the other, port by port; other is
// that of protocols without ports, and of what the list leaves out.
func (x *exporter) between(from, to uint32, judge func(*Decision) Verdict) (list []portVerdict, other Verdict) {
	other = judge(x.t.unruled[x.t.peers[from].class][x.t.peers[to].class])
	for _, proto := range nameProtos {
		for _, s := range x.t.spansBetween(from, to, proto) {
			v := judge(s.decision)
			if n := len(list); n > 0 && list[n-1].verdict == v && list[n-1].ports.Proto == proto && list[n-1].ports.Hi+1 == s.lo {
				list[n-1].ports.Hi = s.hi
				continue
			}
			list = append(list, portVerdict{PortRange{proto, s.lo, s.hi}, v})
		}
	}
	return slices.DeleteFunc(list, func(p portVerdict) bool { return p.verdict == other }), other
}

// orchestratorPorts are those of isOrchestrator.
var orchestratorPorts = []uint16{2375, 2376, 2377, 7946, 4789, 6443, 10250}

// resolversOf are the name servers of a group's members, other than workloads.
func (x *exporter) resolversOf(who uint32) []netip.Prefix {
	group := who
	if id := x.t.ids[who]; id >= FirstWorkloadIdentity {
		group = x.t.denseOf(id)
	}
	var out []netip.Prefix
	groups, snapshot := memberGroups(x.t), x.t.snapshot()
	for i := range snapshot.Workloads {
		w := &snapshot.Workloads[i]
		if groups[w.ID] != group {
			continue
		}
		servers := w.DNS
		if len(servers) == 0 {
			servers = snapshot.Host.Resolvers
		}
		for _, ip := range servers {
			if p := hostPrefix(ip); ip.IsValid() && !ip.IsLoopback() && !slices.Contains(out, p) && !x.isWorkload(p) {
				out = append(out, p)
			}
		}
	}
	return out
}

func (x *exporter) isWorkload(p netip.Prefix) bool {
	return slices.ContainsFunc(x.ends, func(e exportEnd) bool {
		return e.who >= uint32(FirstWorkloadIdentity) && slices.Contains(e.prefixes, p)
	})
}

func ofFamily(ps []netip.Prefix, is4 bool) []string {
	var out []string
	for _, p := range ps {
		if p.Addr().Is4() == is4 {
			if p.IsSingleIP() {
				out = append(out, p.Addr().String())
			} else {
				out = append(out, p.String())
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func portText(r PortRange) string {
	if r.Lo == r.Hi {
		return fmt.Sprint(r.Lo)
	}
	return fmt.Sprintf("%d-%d", r.Lo, r.Hi)
}

// ExportNFTables writes the table as a file for `nft -f`: one table of the inet
// family whose chains see what is forwarded, and what the host sends and gets.
func ExportNFTables(t *Table) (text string, losses []Loss) {
	t = t.Whole()
	x := newExporter(t)
	x.loseNames()
	for i := range t.groups {
		if g := &t.groups[i]; g.Guarded && g.Mode == Observe {
			x.lose(g.Service.String(), "it is in observe mode: what policy does not allow there passes, and is not recorded")
		}
	}
	x.lose("conversations", "replies pass as the kernel's connection tracking knows them, and a new policy does not end what is open")
	x.lose("containers of one bridge", "they meet these chains only where br_netfilter is on (net.bridge.bridge-nf-call-iptables and -ip6tables = 1)")
	var b strings.Builder
	write := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	write("# Gatehouse policy, written for nftables; load with nft -f")
	write("table inet gatehouse_policy")
	write("delete table inet gatehouse_policy")
	write("table inet gatehouse_policy {")
	var pairs strings.Builder
	for from := range x.ends {
		x.nftFrom(&b, &pairs, from)
	}
	b.WriteString(pairs.String())
	write("\tchain judge {")
	write("\t\tct state established,related accept")
	write("\t\tiif lo accept")
	write("\t\ticmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query, mld-listener-report, mld2-listener-report } accept")
	for i := range x.ends {
		x.nftMatch(&b, "saddr", x.ends[i].prefixes, "", fmt.Sprintf("goto from_%d", i))
	}
	write("\t}")
	for _, hook := range []string{"forward", "input", "output"} {
		write("\tchain %s {\n\t\ttype filter hook %s priority filter + 5; policy accept;\n\t\tjump judge\n\t}", hook, hook)
	}
	write("}")
	return nftOrder(b.String()), x.losses
}

// nftOrder puts chains behind those that they name: nft reads from the top.
func nftOrder(text string) string {
	begin := strings.Index(text, "table inet gatehouse_policy {\n") + len("table inet gatehouse_policy {\n")
	end := strings.LastIndex(text, "}")
	chains := strings.SplitAfter(text[begin:end], "\n\t}\n")
	slices.SortStableFunc(chains, func(a, b string) int { return cmp.Compare(nftRank(a), nftRank(b)) })
	return text[:begin] + strings.Join(chains, "") + text[end:]
}

func nftRank(chain string) int {
	switch {
	case strings.HasPrefix(chain, "\tchain pair_"):
		return 0
	case strings.HasPrefix(chain, "\tchain from_"):
		return 1
	case strings.HasPrefix(chain, "\tchain judge"):
		return 2
	}
	return 3
}

// nftFrom writes the chain of one source, and those of its pairs.
func (x *exporter) nftFrom(b, pairs *strings.Builder, from int) {
	f := &x.ends[from]
	fmt.Fprintf(b, "\tchain from_%d { # %s\n", from, nftComment(f.name))
	if servers := x.resolversOf(f.who); f.who >= uint32(FirstWorkloadIdentity) && len(servers) > 0 {
		list, other := x.between(f.who, x.t.somewhere(uint32(IDResolver)), allows)
		for _, proto := range []Proto{ProtoUDP, ProtoTCP} {
			v := other
			for _, p := range list {
				if p.ports.Contains(proto, 53) {
					v = p.verdict
				}
			}
			x.nftMatch(b, "daddr", servers, fmt.Sprintf("%s dport 53 ", proto), nftVerdict(v))
		}
	}
	for to := range x.ends {
		t := &x.ends[to]
		if x.t.ids[t.who] == IDHost || x.t.ids[t.who] == IDNode {
			x.nftOrchestrator(b, f, t)
		}
		list, other := x.between(f.who, t.who, allows)
		if len(list) == 0 {
			x.nftMatch(b, "daddr", t.prefixes, "", nftVerdict(other))
			continue
		}
		x.nftMatch(b, "daddr", t.prefixes, "", fmt.Sprintf("goto pair_%d_%d", from, to))
		fmt.Fprintf(pairs, "\tchain pair_%d_%d { # %s to %s\n", from, to, nftComment(f.name), nftComment(t.name))
		for _, p := range list {
			for _, line := range nftPorts(p.ports) {
				fmt.Fprintf(pairs, "\t\t%s %s\n", line, nftVerdict(p.verdict))
			}
		}
		fmt.Fprintf(pairs, "\t\t%s\n\t}\n", nftVerdict(other))
	}
	b.WriteString("\t}\n")
}

func (x *exporter) nftOrchestrator(b *strings.Builder, f, t *exportEnd) {
	var ports []string
	for _, p := range orchestratorPorts {
		ports = append(ports, fmt.Sprint(p))
	}
	list, other := x.between(f.who, x.t.somewhere(uint32(IDOrchestrator)), allows)
	for _, proto := range []Proto{ProtoTCP, ProtoUDP} {
		for _, p := range list {
			if p.ports.Proto == proto {
				x.nftMatch(b, "daddr", t.prefixes, fmt.Sprintf("%s dport { %s } %s dport %s ", proto, strings.Join(ports, ", "), proto, portText(p.ports)), nftVerdict(p.verdict))
			}
		}
		x.nftMatch(b, "daddr", t.prefixes, fmt.Sprintf("%s dport { %s } ", proto, strings.Join(ports, ", ")), nftVerdict(other))
	}
}

// nftMatch writes a line for each family in which there are addresses; none
// without any, as an empty set matches nothing.
func (x *exporter) nftMatch(b *strings.Builder, field string, ps []netip.Prefix, also, verdict string) {
	for _, family := range []struct {
		word string
		is4  bool
	}{{"ip", true}, {"ip6", false}} {
		if texts := ofFamily(ps, family.is4); len(texts) > 0 {
			fmt.Fprintf(b, "\t\t%s %s { %s } %s%s\n", family.word, field, strings.Join(texts, ", "), also, verdict)
		}
	}
}

func nftPorts(r PortRange) []string {
	if r.Proto == ProtoICMP {
		return []string{"icmp type echo-request", "icmpv6 type echo-request"}
	}
	if r.Lo == 0 && r.Hi == 65535 {
		return []string{"meta l4proto " + r.Proto.String()}
	}
	return []string{fmt.Sprintf("%s dport %s", r.Proto, portText(r))}
}

func nftVerdict(v Verdict) string {
	switch v {
	case Allow:
		return "accept"
	case Reject:
		return "reject"
	}
	return "drop"
}

// nftComment is a name without what would end a comment.
func nftComment(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
}

// loseNames tells of statements to names, which addresses cannot say.
func (x *exporter) loseNames() {
	for _, s := range x.t.statements {
		if s.Pending == "" && slices.ContainsFunc(s.To, func(p Peer) bool { return p.Kind == PeerName }) {
			x.lose(s.toldAs(), "names cannot be expressed: the way to %s stays shut", peersText(s.To))
		}
	}
}

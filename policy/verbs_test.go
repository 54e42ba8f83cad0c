package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// verbWorld is a random input without names: which addresses those lead to is not
// the table's.
func verbWorld(seed uint64, n int) (world, Input) {
	w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
	for {
		in := w.input()
		in.Statements = slices.DeleteFunc(in.Statements, func(s Statement) bool {
			return slices.ContainsFunc(s.To, func(p Peer) bool { return p.Kind == PeerName })
		})
		for i := range in.Statements {
			in.Statements[i].ID = fmt.Sprint("s", i)
		}
		for i := range in.Groups { // a name for each
			if slices.ContainsFunc(in.Groups[:i], func(g Group) bool { return g.Service == in.Groups[i].Service }) {
				in.Groups[i].Service = key("c", fmt.Sprint("one-more-", i))
			}
		}
		if _, err := Compile(in); err == nil {
			return w, in
		}
	}
}

// plainWorld is a verbWorld without prefixes.
func plainWorld(seed uint64, n int) (world, Input) {
	w, in := verbWorld(seed, n)
	in.Statements = slices.DeleteFunc(in.Statements, namesPrefix)
	return w, in
}

// diffAddresses are those at which peers may differ: each side of every edge of the
// prefixes in a world, one inside, and all that mean something.
func (w world) diffAddresses(in Input) []netip.Addr {
	out := slices.Concat(worldPlaces, worldHosts)
	ranges := slices.Concat(worldPrefixes, refSite, in.ExtraSite, in.NotSite)
	for _, n := range in.Snapshot.Networks {
		ranges = append(ranges, n.Subnets...)
		out = append(append(out, n.LB...), n.Gateways...)
	}
	for _, p := range ranges {
		p = plain(p)
		b := p.Addr().AsSlice()
		for bit := p.Bits(); bit < 8*len(b); bit++ {
			b[bit/8] |= byte(w.IntN(2)) << (7 - bit%8)
		}
		inside, _ := netip.AddrFromSlice(b)
		out = append(out, p.Addr(), p.Addr().Prev(), lastIn(p), lastIn(p).Next(), inside)
	}
	for i := range in.Snapshot.Workloads {
		c := &in.Snapshot.Workloads[i]
		out = append(out, c.DNS...)
		for _, vips := range c.VIPs {
			out = append(out, vips...)
		}
		for _, e := range c.Endpoints {
			out = append(append(out, e.Addresses...), refEUI64(e.MAC))
		}
	}
	out = slices.DeleteFunc(out, func(a netip.Addr) bool { return !a.IsValid() })
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// namedAt is how a diff names who is at an address: with the longest prefix that
// either policy's statements know it by.
func namedAt(ref *oracle, others []Statement, e refEnd) string {
	name := table0.IdentityName(e.id)
	if e.id >= FirstWorkloadIdentity {
		return ""
	}
	longest := netip.Prefix{}
	note := func(p netip.Prefix) {
		if p = plain(p); refHolds(p, e.ip) && (!longest.IsValid() || p.Bits() > longest.Bits()) {
			longest = p
		}
	}
	for _, s := range slices.Concat(ref.in.Statements, others) {
		if s.Pending != "" {
			continue
		}
		lists := [][]Peer{s.From, s.To}
		for _, x := range s.Except {
			lists = append(lists, x.From, x.To)
		}
		for _, p := range slices.Concat(lists...) {
			switch {
			case p.Kind == PeerCIDR:
				note(p.Prefix)
			case p.Kind == PeerSelector && p.Selected != nil:
				for _, prefix := range p.Selected.Prefixes {
					note(prefix)
				}
			}
		}
	}
	if longest.IsValid() {
		name += " at " + longest.String()
	}
	return name
}

// republished is the world with other ports published, by one of its workloads.
func (w world) republished(in Input) Input {
	snap := *in.Snapshot
	snap.Workloads = slices.Clone(snap.Workloads)
	c := &snap.Workloads[w.IntN(len(snap.Workloads))]
	published := w.workload(c.ID, snap.Networks).Published
	if len(c.Published) > 0 && w.chance(50) { // only the port that it leads to
		published = slices.Clone(c.Published)
		published[0].Port = pick(w, worldPorts)
	}
	c.Published = published
	in.Snapshot = &snap
	return in
}

// TestDiffEqualsVerdicts: of two random policies for the same workloads, that may
// publish other ports, what the slow reference says differently of a packet is in
// the diff, of whose it is and at which prefix; and whom the diff names begins flows
// at some address, or is called at one, with those ports.
func TestDiffEqualsVerdicts(t *testing.T) {
	seed := rand.Uint64()
	differing, outside, told, moved := 0, 0, 0, 0
	isRich := func() bool { return min(differing, outside, moved) >= rounds(20) }
	for n := 0; n < rounds(150) || n < 150*patience && !isRich(); n++ {
		w, in := verbWorld(seed, n)
		before := mustCompile(t, in)
		if c := Diff(before, mustCompile(t, in)); !c.Same() {
			t.Fatalf("seed %d/%d: a policy differs from itself: %+v", seed, n, c)
		}
		changed := in
		if w.chance(50) {
			changed = w.republished(in)
		}
		if len(in.Statements) > 0 && w.chance(70) {
			at := w.IntN(len(in.Statements))
			changed.Statements = slices.Delete(slices.Clone(in.Statements), at, at+1)
		}
		x := diffCase{before: &oracle{in}, after: &oracle{changed}, tables: [2]*Table{before, mustCompile(t, changed)}, addresses: w.diffAddresses(in)}
		x.diff = Diff(x.tables[0], x.tables[1])
		for range 400 {
			q := w.anyQuery(in.Snapshot)
			if w.chance(70) {
				q.Src = pick(w, x.addresses).As16()
			}
			switch {
			case w.chance(20):
				q.Dst = pick(w, worldHosts).As16()
			case w.chance(70):
				q.Dst = pick(w, x.addresses).As16()
			}
			if src, _, _ := before.Resolve(q); src == IDMulticast || src == IDBroadcast {
				continue // nobody sends from there
			}
			if q.Proto.normal() == ProtoICMP && q.DstPort != 0 || netip.AddrFrom16(q.Src).Unmap().Is4() != netip.AddrFrom16(q.Dst).Unmap().Is4() {
				continue // there is no such flow
			}
			missing, found := x.untold(q)
			if missing != "" {
				t.Fatalf("seed %d/%d: %s, and the diff does not say so: %+v", seed, n, missing, x.diff.Differences)
			}
			differing += found
		}
		x.findMet()
		for i := range x.diff.Differences {
			d := &x.diff.Differences[i]
			told++
			if strings.Contains(d.From+d.To, " at ") {
				outside++
			}
			if d.HostPorts {
				moved++
			}
			if d.HostPorts && slices.Contains([]string{"@unknown", "@metadata"}, d.From) {
				t.Fatalf("seed %d/%d: hardly anybody calls from there: %+v", seed, n, *d)
			}
			if !x.isMet(d) {
				t.Fatalf("seed %d/%d: nobody is there of whom the diff tells: %+v", seed, n, *d)
			}
		}
	}
	if !isRich() {
		t.Errorf("only %d verdicts differed, and of %d differences %d at prefixes, %d at the host's ports: the worlds are too tame", differing, told, outside, moved)
	}
}

// TestDiffHostPorts: a port of the host that leads elsewhere in one policy is told of
// as what it leads to in each (A5), for those who may call there.
func TestDiffHostPorts(t *testing.T) {
	web, api := ServiceKey{ProjectKey{Name: "shop"}, "web"}, ServiceKey{ProjectKey{Name: "shop"}, "api"}
	world := func(published ...Published) *Table {
		snap := &Snapshot{Host: Host{Addresses: prefixes("192.168.1.9/24")}, Networks: []Network{{ID: "n", Zone: 1, Driver: "bridge", Subnets: prefixes("172.18.0.0/24")}}, Workloads: []Workload{
			{ID: "a", Endpoints: []Endpoint{{Network: "n", Addresses: addrs("172.18.0.2")}}},
			{ID: "w", Endpoints: []Endpoint{{Network: "n", Addresses: addrs("172.18.0.3")}}, Published: published},
		}}
		return mustCompile(t, Input{Epoch: 1, Snapshot: snap, Groups: []Group{
			{Identity: FirstWorkloadIdentity, Service: api, Members: []string{"a"}, Guarded: true, Mode: Enforce},
			{Identity: FirstWorkloadIdentity + 1, Service: web, Members: []string{"w"}, Guarded: true, Mode: Enforce},
		}, Statements: []Statement{{ID: "web", Verdict: Allow, From: []Peer{{Kind: PeerAny}}, To: []Peer{ServicePeer(web)}, App: AnyApp, Ports: []PortRange{Port(ProtoTCP, 80)}}}})
	}
	for _, c := range []struct {
		before, after []Published
		want          []string
	}{
		{[]Published{{HostPort: 8080, Port: 80, Proto: ProtoTCP}}, nil, []string{
			"shop/api may no longer reach @host (shop/web before) with anything on the host's tcp/8080: that port leads to @host now, and led to shop/web before",
			"shop/web may no longer reach @host (shop/web before) with anything on the host's tcp/8080: that port leads to @host now, and led to shop/web before"}},
		{nil, []Published{{HostPort: 8080, Port: 80, Proto: ProtoTCP}}, []string{
			"shop/api may now reach shop/web (@host before) with anything on the host's tcp/8080: that port leads to shop/web now, and led to @host before",
			"shop/web may now reach shop/web (@host before) with anything on the host's tcp/8080: that port leads to shop/web now, and led to @host before"}},
		{[]Published{{HostPort: 8080, Port: 80, Proto: ProtoTCP}}, []Published{{HostPort: 8080, Port: 81, Proto: ProtoTCP}}, []string{
			"@host may no longer reach shop/web with anything on the host's tcp/8080: that port leads to its tcp/81 now, and led to tcp/80 before",
			"@internet may no longer reach shop/web with anything on the host's tcp/8080: that port leads to its tcp/81 now, and led to tcp/80 before",
			"@site may no longer reach shop/web with anything on the host's tcp/8080: that port leads to its tcp/81 now, and led to tcp/80 before",
			"shop/api may no longer reach shop/web with anything on the host's tcp/8080: that port leads to its tcp/81 now, and led to tcp/80 before",
			"shop/web may no longer reach shop/web with anything on the host's tcp/8080: that port leads to its tcp/81 now, and led to tcp/80 before"}},
	} {
		var told []string
		diff := Diff(world(c.before...), world(c.after...))
		for i := range diff.Differences {
			told = append(told, diff.Differences[i].String())
		}
		if !slices.Equal(told, c.want) {
			t.Errorf("%v to %v: %q, want %q", c.before, c.after, told, c.want)
		}
	}
}

type diffCase struct {
	before, after *oracle
	tables        [2]*Table
	addresses     []netip.Addr
	diff          Comparison
	calling       map[string]bool          // who begins flows
	called        map[calledAt][]PortRange // the ports at which somebody is called
	known         map[Identity]bool        // whose addresses there are
}

type calledAt struct {
	name      string
	hostPorts bool
}

// judged is what the reference says of a packet, before and after.
func (x *diffCase) judged(q Query, s Spoken) (outcomes [2]Outcome) {
	for i, ref := range [...]*oracle{x.before, x.after} {
		from, to, port := ref.resolve(q)
		v, denied, _, _ := ref.judge(from.id, to.id, ref.matches(from, to, q.Proto.normal(), port), s)
		j := Judgement{Verdict: v, Denied: denied}
		outcomes[i] = j.Outcome()
	}
	return outcomes
}

// spoken is what either table tells apart there.
func (x *diffCase) spoken(q Query) []Spoken {
	all := append(x.tables[0].Lookup(q).spoken(), x.tables[1].Lookup(q).spoken()...)
	return slices.DeleteFunc(append(all, Spoken{App: AppUnknown}), func(s Spoken) bool { return s.App == AppDTLS || s.ALPN == AppUnknown })
}

func (x *diffCase) untold(q Query) (missing string, differing int) {
	from, _, _ := x.after.resolve(q)
	for _, s := range x.spoken(q) {
		o := x.judged(q, s)
		if o[0] == o[1] {
			continue
		}
		to, port := x.destination(q)
		if to.hostPorts && (from.id == IDUnknown || from.id == IDMetadata) {
			continue // hardly anybody calls from there
		}
		differing++
		if !slices.ContainsFunc(x.diff.Differences, func(d Difference) bool {
			return d.From == x.name(from) && d.To == to.name && d.HostPorts == to.hostPorts && d.Before == o[0] && d.After == o[1] &&
				(slices.Contains(d.Apps, "any") || slices.Contains(d.Apps, appOf(s))) &&
				slices.ContainsFunc(d.Ports, func(p PortRange) bool { return p.Contains(q.Proto.normal(), port) })
		}) {
			return fmt.Sprintf("%s %s -> %+v %s %s/%d %s: %s before, %s now", x.name(from), from.ip, to, netip.AddrFrom16(q.Dst), q.Proto, port, s, o[0], o[1]), differing
		}
	}
	return "", differing
}

// destination is how a diff names who is called, and at which port.
func (x *diffCase) destination(q Query) (calledAt, uint16) {
	_, was, wasPort := x.before.resolve(q)
	_, is, isPort := x.after.resolve(q)
	switch name := x.name(is); {
	case was.id != is.id:
		return calledAt{name + " (" + x.name(was) + " before)", true}, q.DstPort
	case wasPort != isPort:
		return calledAt{name, true}, q.DstPort
	default:
		return calledAt{name, false}, isPort
	}
}

func (x *diffCase) name(e refEnd) string {
	return cmp.Or(namedAt(x.after, x.before.in.Statements, e), x.tables[1].IdentityName(e.id))
}

// findMet notes who begins flows and who is called, from everywhere, by callers of
// all name servers.
func (x *diffCase) findMet() {
	x.calling, x.called, x.known = make(map[string]bool), make(map[calledAt][]PortRange), make(map[Identity]bool)
	if len(x.diff.Differences) == 0 {
		return
	}
	snap := x.after.in.Snapshot
	ported := slices.Concat(x.before.hostAddrs(), x.after.hostAddrs(), snap.Host.Nodes, snap.Host.Resolvers, addrs("198.51.100.53", "172.18.0.1"))
	ports := []uint16{0, 1, 5001, 9001, 2376, 2377, 2378, 4789, 6443, 7946, 10250} // the first of each stretch, and those of A9
	for _, port := range worldPorts {
		ports = append(ports, port, port+1)
	}
	for zone := range Zone(len(snap.Networks) + 1) {
		for _, ip := range x.addresses {
			ip = refInner(ip)
			p, _ := x.after.at(zone, ip, false, nil, ProtoTCP, 80)
			x.calling[x.name(refEnd{p.id, ip})] = p.id != IDMulticast && p.id != IDBroadcast
			x.known[p.id] = true
			ping := Query{Zone: zone, Proto: ProtoICMP}
			if !slices.Contains(ported, ip) {
				x.noteCalled(ip, ping, nil, anyCalled)
				continue
			}
			x.noteCalled(ip, ping, nil, anyCalled[2:])
			for _, proto := range []Proto{ProtoTCP, ProtoUDP} {
				for _, caller := range []*Workload{{}, {DNS: addrs("198.51.100.53", "172.18.0.1")}} {
					x.noteCalled(ip, Query{Zone: zone, Proto: proto, DstPort: 53}, caller, nil)
				}
				for _, port := range ports {
					x.noteCalled(ip, Query{Zone: zone, Proto: proto, DstPort: port}, nil, nil)
				}
			}
		}
	}
}

// noteCalled notes who is called at an address and port: at these ports, else at
// the callee's own.
func (x *diffCase) noteCalled(ip netip.Addr, q Query, caller *Workload, ports []PortRange) {
	was, wasPort := x.before.at(q.Zone, ip, true, caller, q.Proto, q.DstPort)
	is, port := x.after.at(q.Zone, ip, true, caller, q.Proto, q.DstPort)
	to := calledAt{x.name(refEnd{is.id, ip}), false}
	switch was := x.name(refEnd{was.id, ip}); {
	case was != to.name:
		to, port = calledAt{to.name + " (" + was + " before)", true}, q.DstPort
	case wasPort != port:
		to.hostPorts, port = true, q.DstPort
	}
	x.known[is.id] = true
	if ports == nil {
		ports = []PortRange{{q.Proto, port, port}}
	}
	if !slices.Contains(x.called[to], ports[0]) {
		x.called[to] = append(x.called[to], ports...)
	}
}

// isMet reports whether who is at either end is at some address, begins flows there,
// or is called there at one of the ports told.
func (x *diffCase) isMet(d *Difference) bool {
	nowhere := func(name string) bool { // nobody's address is known, in no network
		return slices.ContainsFunc(slices.Collect(maps.Keys(identityNames)), func(id Identity) bool { return identityNames[id] == name && !x.known[id] })
	}
	from := x.calling[d.From] || nowhere(d.From) && !d.HostPorts
	return from && (nowhere(d.To) || slices.ContainsFunc(x.called[calledAt{d.To, d.HostPorts}], func(at PortRange) bool {
		return slices.ContainsFunc(d.Ports, func(p PortRange) bool { return p.Proto == at.Proto && p.Lo <= at.Hi && at.Lo <= p.Hi })
	}))
}

// TestAuditIsRight: a statement of which an audit says that it never acts, adds
// nothing or matches nothing can go without any verdict changing, also where it and
// others name prefixes, as categories do.
func TestAuditIsRight(t *testing.T) {
	seed := rand.Uint64()
	gone, atPrefixes := map[FlawKind]int{}, map[FlawKind]int{}
	for n := 0; n < rounds(150) || len(atPrefixes) < 3 && n < 150*patience; n++ {
		w, in := verbWorld(seed, n)
		if w.chance(80) { // else hardly any place of prefixes is looked at
			in.PairsAhead, in.placesAhead = 1<<30, 1<<30
		}
		if len(in.Statements) > 0 { // said twice
			twin := in.Statements[w.IntN(len(in.Statements))]
			twin.ID += " again"
			in.Statements = append(slices.Clip(in.Statements), twin)
		}
		audit, err := MakeAudit(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range audit.Flaws {
			if f.Kind != FlawShadowed && f.Kind != FlawRedundant && f.Kind != FlawUnmatched {
				continue
			}
			gone[f.Kind]++
			if slices.ContainsFunc(in.Statements, func(s Statement) bool { return s.ID == f.Statement && namesPrefix(s) }) {
				atPrefixes[f.Kind]++
			}
			without := in
			without.Statements = slices.DeleteFunc(slices.Clone(in.Statements), func(s Statement) bool { return s.ID == f.Statement })
			if c := Diff(audit.Table, mustCompile(t, without)); len(c.Differences) > 0 {
				t.Fatalf("seed %d/%d: %s %s: %s; without it %s", seed, n, f.Kind, f.Statement, f.Text, c.Differences[0].String())
			}
		}
	}
	for _, k := range []FlawKind{FlawShadowed, FlawRedundant, FlawUnmatched} {
		if atPrefixes[k] == 0 {
			t.Errorf("of %d statements that were %s none names prefixes: the worlds are too tame", gone[k], k)
		}
	}
	t.Log(gone, atPrefixes)
}

// TestExportKeepsEmptySetsEmpty (THREATS 18): a statement with nobody, or without
// ports, changes nothing in any target, and no list that means all when it is
// empty is ever written.
func TestExportKeepsEmptySetsEmpty(t *testing.T) {
	seed := rand.Uint64()
	for n := range rounds(60) {
		w, in := plainWorld(seed, n)
		for i := range in.Groups {
			in.Groups[i].Mode = Enforce
		}
		with := in
		with.Statements = slices.Clone(in.Statements)
		empty := Statement{ID: "empty", Verdict: Allow, Tier: TierOperator, App: AnyApp, From: []Peer{{Kind: PeerAny}}, To: []Peer{{Kind: PeerAny}}, Ports: []PortRange{{ProtoTCP, 1, 65535}}}
		switch w.IntN(4) {
		case 0:
			empty.From = []Peer{}
		case 1:
			empty.To = []Peer{{Kind: PeerSelector, Selected: &Selection{}}}
		case 2:
			empty.Ports = nil
		case 3:
			empty.App = AppMatch{}
		}
		with.Statements = append(with.Statements, empty)
		a, b := mustCompile(t, in), mustCompile(t, with)
		for target, export := range exports {
			before, after := export(a), export(b)
			if before != after {
				t.Fatalf("seed %d/%d: %s: an empty statement changes\n%s\nto\n%s", seed, n, target, before, after)
			}
			for _, all := range []string{`"from":[]`, `"to":[]`, `"ports":[]`, `"toPorts":[]`, `"fromEndpoints":[]`, `"toEndpoints":[]`, `"toCIDRSet":[]`, `"fromCIDRSet":[]`,
				`"matchLabels":{}`, `"podSelector":{}`, `"namespaceSelector":{}`, `[{}]},{`, "{ }", "{  }", "null"} {
				if strings.Contains(after, all) {
					t.Fatalf("seed %d/%d: %s has %s, which would mean all:\n%s", seed, n, target, all, after)
				}
			}
		}
	}
}

var exports = map[string]func(*Table) string{
	"nftables": func(t *Table) string { text, _ := ExportNFTables(t); return text },
	"networkpolicy": func(t *Table) string {
		objects, _ := ExportNetworkPolicy(t)
		data, _ := json.Marshal(append([]map[string]any{}, objects...))
		return string(data)
	},
	"cilium": func(t *Table) string {
		objects, _ := ExportCilium(t)
		data, _ := json.Marshal(append([]map[string]any{}, objects...))
		return string(data)
	},
}

// TestExportNobodyAllowed: where policy allows nothing, each target shuts every
// service both ways.
func TestExportNobodyAllowed(t *testing.T) {
	_, in := plainWorld(1, 1)
	in.Statements = nil
	for i := range in.Groups {
		in.Groups[i].Mode, in.Groups[i].Guarded, in.Groups[i].Shut = Enforce, true, false
	}
	table := mustCompile(t, in)
	objects, _ := ExportNetworkPolicy(table)
	for _, o := range objects {
		spec := o["spec"].(object)
		if len(spec["ingress"].([]any)) != 0 || len(spec["egress"].([]any)) != 0 || len(spec["policyTypes"].([]string)) != 2 {
			t.Errorf("networkpolicy: %v", spec)
		}
	}
	objects, _ = ExportCilium(table)
	for _, o := range objects {
		spec := o["spec"].(object)
		for _, side := range []string{"ingress", "egress"} {
			if rules := spec[side].([]any); len(rules) != 1 || len(rules[0].(object)) != 0 {
				t.Errorf("cilium %s: %v", side, rules)
			}
		}
	}
	if len(objects) == 0 {
		t.Error("no service was exported")
	}
}

// BenchmarkExplain answers for a flow among 10,000 workloads of 500 services, with
// 5,000 statements.
func BenchmarkExplain(b *testing.B) {
	in := sizedInput(10_000, 500, 5_000)
	table := mustCompile(b, in)
	from, to := in.Groups[3].Service.String(), in.Groups[490].Service.String()
	for b.Loop() {
		x, err := Explain(table, from, to, Port(ProtoTCP, 5432), AppPostgreSQL)
		if err != nil || len(x.Change) == 0 {
			b.Fatal(err, x.Change)
		}
	}
}

// sizedInput is workloads of services on one network, and statements between
// random pairs of services.
func sizedInput(workloads, services, statements int) Input {
	rnd := rand.New(rand.NewPCG(1, 1))
	snap := &Snapshot{Networks: []Network{{ID: "n", Zone: 1, Driver: "bridge", Subnets: prefixes("10.0.0.0/16")}}}
	groups := make([]Group, services)
	for i := range groups {
		groups[i] = Group{Identity: FirstWorkloadIdentity + Identity(i), Service: ServiceKey{ProjectKey{Name: "p"}, fmt.Sprint("s", i)}, Guarded: true, Model: "m"}
	}
	for i := range workloads {
		id := fmt.Sprintf("w%05d", i)
		g := &groups[i%services]
		g.Members = append(g.Members, id)
		snap.Workloads = append(snap.Workloads, Workload{ID: id, Service: g.Service, Endpoints: []Endpoint{{Network: "n", Addresses: addrs(fmt.Sprintf("10.0.%d.%d", i/250, i%250+2))}}})
	}
	in := Input{Epoch: 1, Snapshot: snap, Groups: groups}
	for i := range statements {
		in.Statements = append(in.Statements, Statement{ID: fmt.Sprint("s", i), Verdict: Allow, From: []Peer{ServicePeer(groups[rnd.IntN(services)].Service)},
			To: []Peer{ServicePeer(groups[rnd.IntN(services)].Service)}, App: AppMatch{App: AppHTTP, Forms: TLSPlain}, Ports: []PortRange{Port(ProtoTCP, uint16(1+rnd.IntN(60000)))}})
	}
	return in
}

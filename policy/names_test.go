package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// refFits says slowly whether a name is what a statement's name means.
func refFits(pattern, name string) bool {
	labels := func(s string) []string { return strings.Split(strings.ToLower(strings.TrimSuffix(s, ".")), ".") }
	p, n := labels(pattern), labels(name)
	if p[0] != "*" {
		return slices.Equal(p, n)
	}
	p = p[1:]
	return len(n) > len(p) && !slices.Contains(n, "") && slices.Equal(n[len(n)-len(p):], p)
}

// N1: names are literal, a * in front means every name below, and nothing else does.
func TestNameFitsEqualsReference(t *testing.T) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 1))
	label := func() string { return []string{"a", "b", "A", "example", "com", "xn--bcher-kva"}[r.IntN(6)] }
	name := func() string {
		s := label()
		for range r.IntN(4) {
			s += "." + label()
		}
		return s
	}
	fits := 0
	for range 200_000 {
		pattern, n := strings.ToLower(name()), name()
		if r.IntN(2) == 0 {
			pattern = "*." + pattern
		}
		if r.IntN(3) == 0 {
			n += "."
		}
		want := refFits(pattern, n)
		if got := nameFits(pattern, n); got != want {
			t.Fatalf("nameFits(%q, %q) = %v", pattern, n, got)
		}
		if nameFits(pattern, []byte(n)) != want {
			t.Fatalf("as bytes nameFits(%q, %q) differs", pattern, n)
		}
		if want {
			fits++
		}
	}
	if fits < 1000 {
		t.Errorf("only %d names fitted", fits)
	}
	for _, c := range []struct{ pattern, name string }{
		{"*.example.com", "example.com"}, {"*.example.com", ".example.com"}, {"*.example.com", "badexample.com"},
		{"api.example.com", "api.example.com.evil.net"}, {"api.example.com", "xapi.example.com"}, {"api.example.com", ""}, {"*.example.com", "."},
	} {
		if nameFits(c.pattern, c.name) {
			t.Errorf("%q fits %q", c.name, c.pattern)
		}
	}
}

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{
		"API.Example.COM.": "api.example.com", "*.Example.com": "*.example.com", "bücher.example": "xn--bcher-kva.example",
		"*.bücher.example": "*.xn--bcher-kva.example", "_acme.example.com": "_acme.example.com", "localhost": "localhost",
	} {
		if got, err := ParseName(in); err != nil || got != want {
			t.Errorf("ParseName(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".", "*", "*.", "a..b", "*a.example.com", "a.*.example.com", "198.51.100.1", "2001:db8::1", "a b.example", "a\n.example",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 130) + "example"} {
		if got, err := ParseName(in); err == nil {
			t.Errorf("ParseName(%q) = %q, want an error", in, got)
		}
	}
}

// namesOracle is the oracle with what workloads were told of names.
type namesOracle struct {
	oracle
	told    []told
	private []netip.Prefix
}

type told struct {
	workload, name string
	ip             netip.Addr
	until          time.Time
}

// askers lists the workloads that send from an address in a zone.
func (r *namesOracle) askers(q Query) []string {
	ip := refInner(netip.AddrFrom16(q.Src))
	at := func(zone Zone) (out []string) {
		for i := range r.in.Snapshot.Workloads {
			w := &r.in.Snapshot.Workloads[i]
			for _, e := range w.Endpoints {
				has := e.MAC != MAC{} && refEUI64(e.MAC) == ip
				for _, a := range e.Addresses {
					has = has || refInner(a) == ip
				}
				if has && w.SharedWith == "" && r.network(e.Network).Zone == zone && !slices.Contains(out, w.ID) {
					out = append(out, w.ID)
				}
			}
		}
		return out
	}
	if here := at(q.Zone); len(here) > 0 {
		return here
	}
	if _, ok := r.elsewhereAt(q.Zone, ip); !ok {
		return nil
	}
	for _, z := range r.zones() {
		routed := true
		for _, n := range r.in.Snapshot.Networks {
			if n.Zone == z && (n.Driver == "overlay" || n.NetNS != "") {
				routed = false
			}
		}
		if there := at(z); routed && len(there) > 0 {
			return there
		}
	}
	return nil
}

// patternsAt lists the names among peers by which q's sender knows its
// destination.
func (r *namesOracle) patternsAt(q Query, to Identity, peers []Peer, now time.Time) (out []string) {
	askers := r.askers(q)
	if len(askers) != 1 || to != IDInternet && to != IDSite {
		return nil
	}
	ip := refInner(netip.AddrFrom16(q.Dst))
	for _, p := range peers {
		known := slices.ContainsFunc(r.told, func(k told) bool {
			return k.workload == askers[0] && k.ip == ip && k.until.After(now) && refFits(p.Name, k.name)
		})
		may := to == IDInternet || slices.ContainsFunc(r.private, func(p netip.Prefix) bool { return p.Contains(ip) })
		if p.Prefix.IsValid() {
			may = p.Prefix.Contains(ip)
		}
		if p.Kind == PeerName && known && may {
			out = append(out, p.Name)
		}
	}
	return out
}

// fits reports whether a flow that speaks s to server may be meant by one of
// these names, where m may be spoken.
func (r *namesOracle) fits(patterns []string, server ServerName, m AppMatch, s Spoken) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		switch server.State {
		case NameUnread:
			return true
		case NameGiven:
			return refFits(p, string(server.Text))
		case NameNone:
			if m.Any {
				return !s.App.Is(AppHTTP)
			}
			return !m.App.Is(AppHTTP)
		}
		return false
	})
}

// judge walks both sides for a flow that says its server is server.
func (r *namesOracle) judge(q Query, from, to refEnd, port uint16, s Spoken, server ServerName, now time.Time) (v Verdict, denied bool) {
	ms := r.matches(from, to, q.Proto, port)
	for i := range ms { // a deny's exceptions that are names
		st := r.in.Statements[ms[i].statement]
		for _, e := range st.Except {
			patterns := r.patternsAt(q, to.id, e.To, now)
			onPort := e.AnyPort || slices.ContainsFunc(e.Ports, func(p PortRange) bool { return p.Contains(q.Proto, port) })
			isFrom := slices.ContainsFunc(e.From, func(p Peer) bool { return r.selects(p, from, true, true, st.Tier) })
			if before := ms[i].matches; onPort && isFrom && e.App.Matches(s) && r.fits(patterns, server, e.App, s) {
				ms[i].matches = func(sp Spoken) bool { return sp != s && before(sp) }
			}
		}
	}
	for i, st := range r.in.Statements {
		held := slices.ContainsFunc(ms, func(m refMatch) bool { return m.statement == i && m.side != [2]bool{false, true} })
		if st.Pending != "" || st.Verdict != Allow || held {
			continue
		}
		onPort := slices.ContainsFunc(st.Ports, func(p PortRange) bool { return p.Contains(q.Proto, port) })
		isFrom := slices.ContainsFunc(st.From, func(p Peer) bool { return r.selects(p, from, true, true, st.Tier) })
		if onPort && isFrom && r.fits(r.patternsAt(q, to.id, st.To, now), server, st.App, s) {
			ms = append(ms, refMatch{i, [2]bool{st.Speaks != SpeaksIn, st.Speaks != SpeaksOut}, st.App.Matches})
		}
	}
	v, denied, _, _ = r.oracle.judge(from.id, to.id, ms, s)
	return v, denied
}

var (
	refNames    = []string{"api.example.com", "a.b.example.com", "example.com", "api.example.org", "x.example.org"}
	refPatterns = []string{"api.example.com", "*.example.com", "example.com", "*.org", "x.example.org"}
	namePlaces  = addrs("1.1.1.1", "2606:4700::1", "10.30.0.1", "10.20.0.1", "100.64.0.1", "fd99::1", "127.0.0.1", "169.254.169.254", "192.168.1.9", "172.18.0.2", "198.51.100.53")
)

func (w world) nameStatement(i int, groups []Group) Statement {
	s := w.statement(i, groups)
	s.ID, s.Verdict, s.AnyPort, s.EnforceAlways, s.Except = fmt.Sprint("n", i), Allow, false, false, nil
	s.Ports = append(s.Ports, PortRange{ProtoTCP, 1, 65535})
	s.From, s.To = append(notEverybody(s.From), ServicePeer(pick(w, groups).Service)), notEverybody(s.To)
	for range 1 + w.some(2) {
		p := Peer{Kind: PeerName, Name: pick(w, refPatterns)}
		if w.chance(20) {
			p.Prefix = pick(w, prefixes("10.0.0.0/8", "1.0.0.0/8", "fd99::/16"))
		}
		s.To = append(s.To, p)
	}
	return s
}

// nameQuery is mostly a packet from who was told of a name, to an address of one.
func (w world) nameQuery(q Query, ts []told, snap *Snapshot) Query {
	q.Proto, q.Dst = ProtoTCP, pick(w, namePlaces).As16()
	if len(ts) == 0 {
		return q
	}
	k := pick(w, ts)
	i := slices.IndexFunc(snap.Workloads, func(x Workload) bool { return x.ID == k.workload })
	if es := snap.Workloads[i].Endpoints; len(es) > 0 {
		e := pick(w, es)
		q.Zone = snap.Networks[slices.IndexFunc(snap.Networks, func(n Network) bool { return n.ID == e.Network })].Zone
		q.Src, q.Dst = pick(w, e.Addresses).As16(), k.ip.As16()
	}
	return q
}

// TestNamesEqualReference compares tables that learn names with the reference:
// random worlds, answers, times, packets, applications and server names.
func TestNamesEqualReference(t *testing.T) {
	const packets = 20
	worlds, wanted := rounds(30), rounds(100_000)
	byNames, ofOthers := 500, 200 // cases that the names decide, which come in clusters
	if testing.Short() {
		byNames, ofOthers = 1, 1
	}
	seed := rand.Uint64()
	spoken := everySpoken([]App{AppHTTP, AppHTTP2, AppSSH})
	servers := []ServerName{{}, {State: NameNone}, {State: NameHidden}}
	for _, n := range append([]string{"evil.net", "API.example.com."}, refNames...) {
		servers = append(servers, ServerName{State: NameGiven, Text: []byte(n)})
	}
	cases, byName, refusedByName := 0, 0, 0
	isRich := func() bool { return cases >= wanted && byName >= byNames && refusedByName >= ofOthers }
	for n := 0; n < worlds || n < patience*worlds && !isRich(); n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		now := time.Unix(1_000_000, 0)
		names := NewNames(NameLimits{Floor: 10 * time.Second})
		in := w.input()
		for i := range 1 + w.some(5) {
			in.Statements = append(in.Statements, w.nameStatement(i, in.Groups))
		}
		for i := range in.Statements {
			if st := &in.Statements[i]; st.Verdict != Allow && w.chance(40) {
				names := w.nameStatement(i, in.Groups)
				st.Except = append(st.Except, Exception{names.From, names.To, names.App, names.Ports, false})
			}
		}
		ref := &namesOracle{oracle: oracle{in}}
		if w.chance(30) {
			in.PrivateNames = prefixes("10.0.0.0/8")
			ref.private = in.PrivateNames
		}
		table := names.compiled(t, in, now)
		for range packets {
			if w.chance(10) { // another table finds what the one before has learned
				in.Epoch++
				table = names.compiled(t, in, now)
			}
			for range w.some(3) {
				k := told{pick(w, in.Snapshot.Workloads).ID, pick(w, refNames), pick(w, namePlaces), now.Add(10 * time.Second)}
				ref.told = append(ref.told, k)
				i := slices.IndexFunc(in.Snapshot.Workloads, func(x Workload) bool { return x.ID == k.workload })
				names.Note(table, int32(i), &Answer{Name: k.name, Addresses: []AnswerAddress{{IP: k.ip}}}, now)
			}
			now = now.Add(time.Duration(w.some(4)) * time.Second)
			names.Sweep(now)
			q := w.query(in.Snapshot)
			if w.chance(90) {
				q = w.nameQuery(q, ref.told, in.Snapshot)
			}
			from, to, port := ref.resolve(q)
			d := table.Lookup(q)
			passes, fails := false, false
			for _, s := range spoken {
				for _, server := range servers {
					got := d.JudgeServer(s, server)
					v, denied := ref.judge(q, from, to, port, s, server, now)
					if got.Verdict != v || got.Denied != denied {
						t.Fatalf("seed %d world %d: %v -> %v %v/%d %+v server %d %q: %v denied %v; want %v %v", seed, n, netip.AddrFrom16(q.Src), netip.AddrFrom16(q.Dst),
							q.Proto, q.DstPort, s, server.State, server.Text, got.Verdict, got.Denied, v, denied)
					}
					passes, fails = passes || v == Allow && !denied, fails || denied
					if d.Named() && !denied {
						byName++
					}
					if got.Reason == ReasonNameMismatch {
						refusedByName++
					}
					cases++
				}
			}
			if d.Named() && passes && fails && d.Verdict() != Undecided {
				t.Fatalf("seed %d world %d: %v though some pass and some do not", seed, n, d.Verdict())
			}
		}
	}
	if !isRich() {
		t.Errorf("%d cases, %d passed by name, %d were of another: the worlds are too plain", cases, byName, refusedByName)
	}
	t.Logf("%d cases, %d passed by name, %d of another name", cases, byName, refusedByName)
}

// nameTown is the town with a statement to a name for web, and one to every
// name below a domain for the app.
func nameTown() Input {
	in := town()
	to := func(name string) []Peer { return []Peer{{Kind: PeerName, Name: name}} }
	in.Statements = []Statement{
		{ID: "api", Verdict: Allow, From: []Peer{ServicePeer(key("shop", "web"))}, To: to("api.example.com"), App: AppMatch{App: AppHTTP, Forms: TLSOnly}, Ports: tcp(443)},
		{ID: "all", Verdict: Allow, From: []Peer{ServicePeer(key("blog", "app"))}, To: to("*.example.com"), App: AnyApp, Ports: tcp(443)},
	}
	return in
}

// compiled is the table of in, attached.
func (n *Names) compiled(t testing.TB, in Input, now time.Time) *Table {
	t.Helper()
	table := mustCompile(t, in)
	n.Attach(table, now)
	return table
}

func indexOf(t testing.TB, in Input, id string) int32 {
	t.Helper()
	i := slices.IndexFunc(in.Snapshot.Workloads, func(w Workload) bool { return w.ID == id })
	if i < 0 {
		t.Fatalf("no workload %s", id)
	}
	return int32(i)
}

func answered(name string, ttl time.Duration, as ...string) *Answer {
	a := &Answer{Name: name, Resolver: netip.MustParseAddr("192.168.1.1")}
	for _, ip := range addrs(as...) {
		a.Addresses = append(a.Addresses, AnswerAddress{ip, ttl})
	}
	return a
}

func passes(table *Table, zone Zone, src, dst string) bool {
	return !table.Lookup(query(zone, src, dst, ProtoTCP, 443)).Judge(Spoken{App: AppTLS}).Denied
}

// What one workload was told opens nothing for another, in either family (N2).
func TestNamesCountForTheAsker(t *testing.T) {
	now := time.Unix(1e6, 0)
	names := NewNames(NameLimits{})
	in := nameTown()
	table := names.compiled(t, in, now)
	names.Note(table, indexOf(t, in, "web"), answered("api.example.com", time.Minute, "198.51.100.7", "2001:db8:7::7"), now)
	for _, dst := range []string{"198.51.100.7", "2001:db8:7::7"} {
		for _, src := range []string{"172.18.0.2", "fd00:18::2"} {
			if !passes(table, 1, src, dst) {
				t.Errorf("%s -> %s does not pass", src, dst)
			}
		}
		if passes(table, 2, "172.19.0.3", dst) || passes(table, 1, "172.18.0.3", dst) {
			t.Errorf("somebody else reaches %s", dst)
		}
	}
	if passes(table, 1, "172.18.0.2", "198.51.100.8") {
		t.Error("an address that no answer had passes")
	}
	if table.Lookup(query(1, "172.18.0.2", "198.51.100.7", ProtoTCP, 80)).Verdict() != Drop {
		t.Error("a port that the statement does not name passes")
	}
}

// An address counts for new flows until its time is over, and for one that
// lives on it as long as it does, in the tables that follow too (N3).
func TestNamesEndWithTheirTime(t *testing.T) {
	now := time.Unix(1e6, 0)
	names := NewNames(NameLimits{Floor: 10 * time.Second, Ceiling: time.Hour})
	in := nameTown()
	table := names.compiled(t, in, now)
	web := indexOf(t, in, "web")
	names.Note(table, web, answered("api.example.com", 0, "198.51.100.7"), now)
	names.Note(table, web, answered("api.example.com", 48*time.Hour, "198.51.100.8"), now)
	q := query(1, "172.18.0.2", "198.51.100.7", ProtoTCP, 443)
	use := table.NameUse(q)
	if use == nil {
		t.Fatal("the address has no use")
	}
	use.Hold()
	now = now.Add(9 * time.Second)
	names.Sweep(now)
	if !passes(table, 1, "172.18.0.2", "198.51.100.7") {
		t.Error("the floor does not hold")
	}
	now = now.Add(2 * time.Second)
	names.Sweep(now)
	in.Epoch++
	for what, t2 := range map[string]*Table{"this table": table, "the next": names.compiled(t, in, now)} {
		if passes(t2, 1, "172.18.0.2", "198.51.100.7") {
			t.Errorf("%s: a new flow passes after the time", what)
		}
		if t2.LookupHeld(q, use).Judge(Spoken{App: AppTLS}).Denied {
			t.Errorf("%s: the living flow does not", what)
		}
		if !passes(t2, 1, "172.18.0.2", "198.51.100.8") {
			t.Errorf("%s: the other address is gone", what)
		}
	}
	use.Release()
	now = now.Add(time.Hour)
	names.Sweep(now)
	if left := names.List(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

// Each bound holds, is counted, and takes no address from a living flow while
// another can go (N5).
func TestNamesAreBounded(t *testing.T) {
	now := time.Unix(1e6, 0)
	names := NewNames(NameLimits{PerWorkload: 3, PerName: 2, Addresses: 4, Total: 5})
	in := nameTown()
	table := names.compiled(t, in, now)
	app, web := indexOf(t, in, "app"), indexOf(t, in, "web")
	q := query(2, "172.19.0.3", "198.51.100.1", ProtoTCP, 443)
	names.Note(table, app, answered("a.example.com", time.Minute, "198.51.100.1"), now)
	held := table.NameUse(q)
	held.Hold()
	for i := range 10_000 {
		now = now.Add(time.Millisecond)
		names.Note(table, app, answered(fmt.Sprintf("%c.example.com", 'a'+i%9), time.Minute, fmt.Sprintf("198.51.%d.%d", i/250, 2+i%250)), now)
		if !passes(table, 2, "172.19.0.3", fmt.Sprintf("198.51.%d.%d", i/250, 2+i%250)) {
			t.Fatalf("answer %d was not taken", i)
		}
	}
	if !passes(table, 2, "172.19.0.3", "198.51.100.1") {
		t.Error("the address of a living flow was taken")
	}
	perName, all := map[string]int{}, map[netip.Addr]bool{}
	for _, k := range names.List() {
		perName[k.Name]++
		all[k.Address] = true
	}
	for name, n := range perName {
		if n > 2 {
			t.Errorf("%s has %d addresses", name, n)
		}
	}
	if len(perName) > 3 || len(all) > 4 {
		t.Errorf("%d names, %d addresses", len(perName), len(all))
	}
	// All in use: nothing new, and counted.
	for _, k := range names.List() {
		table.NameUse(query(2, "172.19.0.3", k.Address.String(), ProtoTCP, 443)).Hold()
	}
	names.Note(table, app, answered("a.example.com", time.Minute, "198.51.101.1", "198.51.101.2", "198.51.101.3", "198.51.101.4"), now)
	names.Note(table, web, answered("api.example.com", time.Minute, "198.51.100.7", "198.51.100.8", "198.51.100.9"), now)
	if n := len(names.List()); n > 5 {
		t.Errorf("%d addresses in all", n)
	}
	if refused := names.Refused(); refused["addresses"] == 0 {
		t.Errorf("refused %v", refused)
	}
}

// BenchmarkNoteAtTheBounds learns answers of 64 addresses that were in none before,
// of a workload that has all it may.
func BenchmarkNoteAtTheBounds(b *testing.B) {
	now, names, in := time.Unix(1e6, 0), NewNames(NameLimits{}), nameTown()
	table, app := names.compiled(b, in, now), indexOf(b, in, "app")
	next := uint32(0)
	note := func() {
		next++
		a := Answer{Name: fmt.Sprintf("x%d.example.com", next%16)}
		for i := range uint32(64) {
			k := next*64 + i
			a.Addresses = append(a.Addresses, AnswerAddress{netip.AddrFrom4([4]byte{198, byte(k >> 16), byte(k >> 8), byte(k)}), time.Minute})
		}
		names.Note(table, app, &a, now)
	}
	for range 32 {
		note()
	}
	for b.Loop() {
		note()
	}
}

// What is a container's, the host's, nobody's or the loopback's is never a
// name's; what is the site's only where that was said (rebinding, N4).
func TestNamesRefusePrivateAddresses(t *testing.T) {
	now := time.Unix(1e6, 0)
	for _, c := range []struct {
		within  netip.Prefix
		private []netip.Prefix
		dst     string
		want    bool
	}{
		{dst: "198.51.100.7", want: true},
		{dst: "10.9.0.7"}, {dst: "fd12::7"}, {dst: "169.254.1.1"}, {dst: "100.64.0.1"}, {dst: "fe80::7"},
		{dst: "127.0.0.1"}, {dst: "::1"}, {dst: "0.0.0.0"}, {dst: "169.254.169.254"}, {dst: "64:ff9b::a9fe:a9fe"},
		{dst: "172.18.0.3"}, {dst: "172.18.0.99"}, {dst: "192.168.1.9"}, {dst: "172.18.0.1"}, {dst: "192.168.1.10"}, {dst: "224.0.0.251"},
		{dst: "10.9.0.7", private: prefixes("10.9.0.0/16"), want: true},
		{dst: "10.9.0.7", within: netip.MustParsePrefix("10.9.0.0/24"), want: true},
		{dst: "10.9.1.7", within: netip.MustParsePrefix("10.9.0.0/24")},
		{dst: "198.51.100.7", within: netip.MustParsePrefix("10.9.0.0/24")},
		{dst: "172.18.0.3", within: netip.MustParsePrefix("172.16.0.0/12"), private: prefixes("172.16.0.0/12")},
		{dst: "169.254.169.254", within: netip.MustParsePrefix("169.254.0.0/16"), private: prefixes("169.254.0.0/16")},
	} {
		names := NewNames(NameLimits{})
		in := nameTown()
		in.PrivateNames = c.private
		in.Statements[0].To[0].Prefix = c.within
		table := names.compiled(t, in, now)
		names.Note(table, indexOf(t, in, "web"), answered("api.example.com", time.Minute, c.dst), now)
		if got := passes(table, 1, "172.18.0.2", c.dst); got != c.want {
			t.Errorf("%+v: passes %v", c, got)
		}
		if refused := names.Refused()["private"]; (refused == 0) != c.want {
			t.Errorf("%+v: %d refusals", c, refused)
		}
		if known := names.List(); (len(known) > 0) != c.want {
			t.Errorf("%+v: known as %+v", c, known)
		}
	}
}

// A restart keeps what is still valid, and what a flow lives on (N3).
func TestNamesLoad(t *testing.T) {
	now := time.Unix(1e6, 0)
	names := NewNames(NameLimits{})
	in := nameTown()
	k := KnownName{Workload: "web", Name: "api.example.com", Address: netip.MustParseAddr("198.51.100.7"), At: now.Add(-time.Hour), Until: now.Add(time.Minute)}
	held, over, forged, far := k, k, k, k
	held.Address, held.Until, held.Flows = netip.MustParseAddr("198.51.100.8"), now.Add(-time.Second), 1
	over.Address, over.Until = netip.MustParseAddr("198.51.100.9"), now.Add(-time.Second)
	forged.Name = "api\n.example.com"
	far.Address, far.Until = netip.MustParseAddr("10.0.0.7"), now.Add(10000*time.Hour)
	if n := names.Load([]KnownName{k, held, over, forged, far, {}}, now); n != 3 {
		t.Errorf("took %d", n)
	}
	table := names.compiled(t, in, now)
	if !passes(table, 1, "172.18.0.2", "198.51.100.7") {
		t.Error("what is still valid does not pass")
	}
	for _, dst := range []string{"198.51.100.8", "198.51.100.9", "10.0.0.7"} {
		if passes(table, 1, "172.18.0.2", dst) {
			t.Errorf("%s passes", dst)
		}
	}
	q := query(1, "172.18.0.2", "198.51.100.8", ProtoTCP, 443)
	if use := table.NameUse(q); use == nil || table.LookupHeld(q, use).Judge(Spoken{App: AppTLS}).Denied {
		t.Error("the flow that lived does not go on")
	}
	if len(names.List()) == 0 || names.List()[0].Until.After(now.Add(24*time.Hour)) {
		t.Errorf("%+v", names.List())
	}
}

// A deny by name is an error (N7), and so is a name that DNS would not have.
func TestNameStatementFaults(t *testing.T) {
	for _, c := range []struct {
		want string
		edit func(*Statement)
	}{
		{"a deny by name would not deny", func(s *Statement) { s.Verdict, s.Tier = Drop, TierOperator }},
		{"a name says where to", func(s *Statement) { s.From = s.To }},
		{"want labels", func(s *Statement) { s.To[0].Name = "a..b" }},
		{"as DNS has it, api.example.com", func(s *Statement) { s.To[0].Name = "API.example.com." }},
	} {
		in := nameTown()
		c.edit(&in.Statements[0])
		if _, err := Compile(in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
}

// Lookups go on while answers are noted, tables change and time passes.
func TestNamesConcurrently(t *testing.T) {
	now := time.Unix(1e6, 0)
	names := NewNames(NameLimits{Addresses: 16})
	in := nameTown()
	table := names.compiled(t, in, now)
	web := indexOf(t, in, "web")
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				q := query(1, "172.18.0.2", fmt.Sprintf("198.51.100.%d", i%64), ProtoTCP, 443)
				if use := table.NameUse(q); use != nil {
					use.Hold()
					table.LookupHeld(q, use)
					use.Release()
				}
				table.Lookup(q)
			}
		})
	}
	for i := range 2000 {
		names.Note(table, web, answered("api.example.com", time.Second, fmt.Sprintf("198.51.100.%d", i%64)), now.Add(time.Duration(i)*time.Second))
		names.Sweep(now.Add(time.Duration(i) * time.Second))
		if i%100 == 0 {
			in.Epoch++
			names.compiled(t, in, now)
		}
	}
	close(stop)
	readers.Wait()
}

// Whose DNS the engine may ask from the host's namespace is told, and a statement to
// a name gives him nothing (N9).
func TestNamesBlind(t *testing.T) {
	toName := Statement{ID: "n", Verdict: Allow, From: one(peerWeb), To: []Peer{{Kind: PeerName, Name: "a.example.com"}}, App: app(AppHTTP), Ports: tcp(443)}
	for _, c := range []struct {
		what       string
		loopback   bool
		own        []netip.Addr
		statements []Statement
		blind      bool
	}{
		{"the host asks servers elsewhere", false, nil, []Statement{toName}, false},
		{"the host asks its loopback", true, nil, []Statement{toName}, true},
		{"name servers of its own", true, addrs("192.168.1.1"), []Statement{toName}, false},
		{"of its own, on the loopback", false, addrs("127.0.0.53"), []Statement{toName}, true},
		{"lookups of nothing, which are not seen", true, nil, []Statement{{ID: "d", Verdict: Allow, From: one(peerWeb), To: one(Peer{Kind: PeerResolver}), App: app(AppDNS), Ports: []PortRange{Port(ProtoUDP, 53)}, NamesOnly: true}}, true},
		{"nothing to learn", true, nil, nil, false},
	} {
		in := town()
		in.Snapshot.Host.LoopbackDNS = c.loopback
		for i := range in.Snapshot.Workloads {
			if in.Snapshot.Workloads[i].ID == "web" {
				in.Snapshot.Workloads[i].DNS = c.own
			}
		}
		in.Statements = c.statements
		table := mustCompile(t, in)
		if got := len(table.NamesBlind()) > 0; got != c.blind {
			t.Errorf("%s: told %t, want %t", c.what, got, c.blind)
		}
		if d := table.Lookup(query(1, "172.18.0.2", "1.1.1.1", ProtoTCP, 443)); d.Verdict() != Drop {
			t.Errorf("%s: an address that no answer named is %v", c.what, d.Verdict())
		}
	}
}

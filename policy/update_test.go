package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// placeOf is the place of a rule's statement among all, in order.
func (t *Table) placeOf(rule int32) int {
	n := t.rules[rule].Statement
	if t.edited == nil {
		return n
	}
	return slices.Index(t.edited.order, int32(n))
}

// edit is a random update of a world in which groups and statements come and go: the
// input after it, and how it differs.
func (w world) edit(in Input, id int) (Input, Update) {
	before := in.Statements
	in, u := w.editGroups(in, id)
	if w.chance(30) && len(in.Statements) > 0 {
		at := w.IntN(len(in.Statements))
		in.Statements = slices.Delete(in.Statements, at, at+1)
	}
	for n := range w.some(2) {
		s := w.statement(100+10*id+n, in.Groups)
		if namesPrefix(s) && w.chance(90) {
			continue
		}
		in.Statements = slices.Insert(in.Statements, w.IntN(len(in.Statements)+1), s)
	}
	canTurn := func(s Statement) bool { return namesPrefix(s) && !asksNames(s) }
	if at := slices.IndexFunc(in.Statements, canTurn); at >= 0 && w.chance(20) {
		in.Statements = slices.Insert(in.Statements, w.IntN(len(in.Statements)+1), turned(in.Statements[at], id))
	}
	u.Groups, u.Statements = in.Groups, Pointers(in.Statements)
	u.Removed, u.Added = differing(before, in.Statements)
	return in, u
}

// editGroups is edit without what statements say, but for whom they select.
func (w world) editGroups(in Input, id int) (Input, Update) {
	snap := *in.Snapshot
	snap.Workloads, in.Groups, in.Statements = slices.Clone(snap.Workloads), slices.Clone(in.Groups), slices.Clone(in.Statements)
	in.Snapshot, in.Epoch = &snap, in.Epoch+1
	u := Update{Epoch: in.Epoch, Snapshot: func() *Snapshot { return in.Snapshot }}
	put := func(g Group) {
		at := w.IntN(len(in.Groups) + 1)
		in.Groups = slices.Insert(in.Groups, at, g)
		u.Came = append(u.Came, g)
	}
	identity := FirstWorkloadIdentity + Identity(1000+id)
	switch kind := w.IntN(10); {
	case kind < 3: // a service's first container
		came := w.plain(fmt.Sprint("n", id), snap.Networks, id)
		snap.Workloads = append(snap.Workloads, came)
		put(Group{Identity: identity, Service: pick(w, worldServices), Mode: Mode(w.IntN(2)), Guarded: w.chance(93), Members: []string{came.ID}})
		u.Changes = append(u.Changes, Change{Workload: &came, Group: identity})
	case kind < 7 && len(in.Groups) > 1: // its last, or its mode
		at := w.IntN(len(in.Groups))
		if w.chance(60) && in.Groups[len(in.Groups)-1].Identity > FirstWorkloadIdentity+999 {
			at = slices.IndexFunc(in.Groups, func(g Group) bool { return g.Identity > FirstWorkloadIdentity+999 })
		}
		g := in.Groups[at]
		again := w.chance(40) || len(g.Members) >= len(snap.Workloads)-1
		in.Groups = slices.Delete(in.Groups, at, at+1)
		u.Gone = append(u.Gone, g.Identity)
		now := Group{Identity: identity, Service: g.Service, Mode: Enforce + Observe - g.Mode, Guarded: g.Guarded, Members: g.Members}
		if again {
			put(now)
		}
		for _, member := range g.Members {
			i := slices.IndexFunc(snap.Workloads, func(x Workload) bool { return x.ID == member })
			x := snap.Workloads[i]
			u.Changes = append(u.Changes, Change{Workload: &x, Group: g.Identity, Gone: true})
			if again {
				u.Changes = append(u.Changes, Change{Workload: &x, Group: identity})
			} else {
				snap.Workloads = slices.Delete(snap.Workloads, i, i+1)
			}
		}
		for i := range in.Statements { // who is gone is selected no more
			in.Statements[i] = withoutIdentity(in.Statements[i], g.Identity)
		}
	}
	if len(u.Came) > 0 || w.chance(10) {
		w.selectMore(in.Statements, pick(w, in.Groups).Identity)
	}
	slices.SortFunc(snap.Workloads, func(a, b Workload) int { return strings.Compare(a.ID, b.ID) })
	return in, u
}

// selectMore has some selections mean one more.
func (w world) selectMore(statements []Statement, id Identity) {
	for i := range statements {
		s := &statements[i]
		s.From, s.To = slices.Clone(s.From), slices.Clone(s.To)
		for _, peers := range [...][]Peer{s.From, s.To} {
			for j, p := range peers {
				if p.Kind != PeerSelector || p.Selected == nil || slices.Contains(p.Selected.Identities, id) || w.chance(40) {
					continue
				}
				peers[j].Selected = &Selection{Identities: append(slices.Clone(p.Selected.Identities), id), Prefixes: p.Selected.Prefixes}
			}
		}
	}
}

// selecting is a statement of services that have something in common.
func (w world) selecting(i int, groups []Group) Statement {
	s := w.statement(i, groups)
	s.Pending = ""
	some := func() []Peer {
		sel := &Selection{}
		for range 1 + w.some(4) {
			sel.Identities = append(sel.Identities, pick(w, groups).Identity)
		}
		return []Peer{{Kind: PeerSelector, Name: "some", Selected: sel}}
	}
	s.From, s.To = some(), some()
	switch w.IntN(4) {
	case 0:
		s.From = []Peer{{Kind: pick(w, []PeerKind{PeerAny, PeerWorkload, PeerInternet})}}
	case 1:
		s.To = []Peer{{Kind: pick(w, []PeerKind{PeerAny, PeerWorkload, PeerHost})}}
	}
	if s.Except = nil; s.Verdict != Allow && w.chance(50) {
		s.Except = []Exception{{From: s.From, To: some(), App: w.app(), Ports: w.ports()}}
	}
	if s.Verdict != Allow && w.chance(20) { // as a quarantine does
		if w.chance(50) {
			s.From = []Peer{{Kind: PeerEverybody}}
		} else {
			s.To = []Peer{{Kind: PeerEverybody}}
		}
	}
	return s
}

// turned is a statement that says the opposite: of a prefix, a deny reaches further
// than an allow.
func turned(s Statement, id int) Statement {
	s.ID, s.Except = fmt.Sprint("t", id), nil
	if s.Verdict == Allow {
		s.Verdict, s.Tier = Drop, max(s.Tier, TierLabel)
	} else {
		s.Verdict, s.AnyPort, s.From, s.To = Allow, false, notEverybody(s.From), notEverybody(s.To)
	}
	return s
}

// isAmended reports whether an update has a statement mean others.
func (u *Update) isAmended(before []Statement) bool {
	for _, at := range u.Added {
		if slices.ContainsFunc(u.Removed, func(n int) bool { return before[n].ID == u.Statements[at].ID && amends(&before[n], u.Statements[at]) }) {
			return true
		}
	}
	return false
}

func withoutPeers(x Exception) Exception {
	x.From, x.To = nil, nil
	return x
}

func withoutIdentity(s Statement, id Identity) Statement {
	peers := func(ps []Peer) []Peer {
		ps = slices.Clone(ps)
		for i := range ps {
			if ps[i].Selected != nil {
				sel := *ps[i].Selected
				sel.Identities = slices.DeleteFunc(slices.Clone(sel.Identities), func(x Identity) bool { return x == id })
				ps[i].Selected = &sel
			}
		}
		return ps
	}
	s.From, s.To, s.Except = peers(s.From), peers(s.To), slices.Clone(s.Except)
	for i := range s.Except {
		s.Except[i].From, s.Except[i].To = peers(s.Except[i].From), peers(s.Except[i].To)
	}
	return s
}

// turns reports whether some group became another one and kept its number.
func (u *Update) turns(before, after *Table) bool {
	return slices.ContainsFunc(u.Came, func(g Group) bool {
		return slices.ContainsFunc(u.Gone, func(id Identity) bool { return before.denseOf(id) == after.denseOf(g.Identity) })
	})
}

// differing are the places of statements that are in one list only.
func differing(before, after []Statement) (removed, added []int) {
	text := func(s *Statement) string {
		var b strings.Builder
		rest := *s
		rest.From, rest.To, rest.Except = nil, nil, nil
		fmt.Fprintf(&b, "%+v", rest)
		for _, x := range s.clauses() {
			fmt.Fprintf(&b, "%+v", withoutPeers(x))
			for _, p := range slices.Concat(x.From, []Peer{{}}, x.To) {
				sel := p.Selected
				p.Selected = nil
				fmt.Fprintf(&b, "%+v", p)
				if sel != nil {
					fmt.Fprintf(&b, "%+v", *sel)
				}
			}
		}
		return b.String()
	}
	have := func(list []Statement) map[string]bool {
		out := make(map[string]bool)
		for i := range list {
			out[text(&list[i])] = true
		}
		return out
	}
	was, is := have(before), have(after)
	for i := range before {
		if !is[text(&before[i])] {
			removed = append(removed, i)
		}
	}
	for i := range after {
		if !was[text(&after[i])] {
			added = append(added, i)
		}
	}
	return removed, added
}

// plain is a workload at addresses that nobody else has.
func (w world) plain(id string, networks []Network, n int) Workload {
	x := w.workload(id, networks)
	x.DNS = nil
	if w.chance(50) {
		x.VIPs, x.Published, x.Uncovered, x.SharedWith = nil, nil, "", ""
	}
	for i := range x.Endpoints {
		x.Endpoints[i].MAC[4] = byte(n)
		for j, a := range x.Endpoints[i].Addresses {
			b := a.As16()
			b[15] += byte(n)
			x.Endpoints[i].Addresses[j] = addressOf(&b).netip()
		}
	}
	return x
}

// queryBalanced is query, but for a third: those come from a network's balancer to whom
// stands behind one, or to a virtual address, at a port of a rule (R16).
func (w world) queryBalanced(snap *Snapshot, table *Table) Query {
	var out []Query
	for i := range snap.Networks {
		n := &snap.Networks[i]
		for _, lb := range n.LB {
			for _, to := range snap.behind(n.ID) {
				out = append(out, Query{Zone: n.Zone, Src: lb.As16(), Dst: to.As16()})
			}
		}
	}
	if rules := table.Rules(); len(out) > 0 && len(rules) > 0 && w.chance(33) {
		q, p := pick(w, out), pick(w, rules).Ports
		q.Proto, q.DstPort = p.Proto, p.Lo
		return q
	}
	return w.query(snap)
}

// behind are the addresses, on a network, of workloads with virtual ones, and those.
func (s *Snapshot) behind(network string) (out []netip.Addr) {
	for i := range s.Workloads {
		if x := &s.Workloads[i]; len(x.VIPs) > 0 {
			out = append(out, x.VIPs[network]...)
			for _, e := range x.Endpoints {
				if e.Network == network {
					out = append(out, e.Addresses...)
				}
			}
		}
	}
	return out
}

// TestEditsEqualReference: whatever sequence of services and statements that come
// and go a table has come through, it says what the specification says of what
// there is now, and its former self what it said before.
func TestEditsEqualReference(t *testing.T) {
	seed := rand.Uint64()
	spoken := everySpoken(worldApps)
	steps, taken, turned, odd := 0, 0, 0, standing{}
	isRich := func() bool { return taken >= steps/5 && turned >= rounds(50) && odd.least() >= rounds(20) }
	for n := 0; n < rounds(150) || n < patience*rounds(150) && !isRich(); n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		in := w.balancedInput()
		in.PairsAhead = 0
		if w.chance(70) {
			in.Statements = slices.DeleteFunc(in.Statements, namesPrefix)
		}
		table, err := Compile(in)
		if err != nil {
			t.Fatalf("seed %d world %d: %v", seed, n, err)
		}
		kept := false // a region that nothing names any more, or a selection that is more than one set
		for id := range 25 {
			after, u := w.edit(in, 20+id)
			steps++
			before := table
			next, ok := table.With(&u)
			if ok {
				taken++
				table = next
				if u.turns(before, table) {
					turned++
				}
				for i := range u.Changes {
					odd.count(u.Changes[i].Workload)
				}
				kept = kept || u.isAmended(in.Statements) || slices.ContainsFunc(u.Removed, func(n int) bool { return namesPrefix(in.Statements[n]) })
			} else if table, err = Compile(after); err != nil {
				t.Fatalf("seed %d world %d: %v", seed, n, err)
			} else {
				kept = false
			}
			for range 8 {
				compareQuery(t, before, &oracle{in}, w.queryBalanced(in.Snapshot, before), spoken, map[Verdict]int{}, map[Identity]int{})
				compareQuery(t, table, &oracle{after}, w.queryBalanced(after.Snapshot, table), spoken, map[Verdict]int{}, map[Identity]int{})
			}
			if a, b := table.FlatCount(), table.Whole().FlatCount(); a != b && !kept {
				t.Errorf("%d rules, want %d", a, b)
			}
			if t.Failed() {
				t.Fatalf("seed %d world %d step %d: %+v, shared %v", seed, n, id, u, ok)
			}
			if table.Epoch() != after.Epoch || table.snapshot() != after.Snapshot {
				t.Fatal("the table is of another epoch or snapshot")
			}
			in = after
		}
	}
	if !isRich() {
		t.Errorf("of %d steps %d were taken without Compile, %d groups turned, of %+v: the worlds are too odd", steps, taken, turned, odd)
	}
	t.Logf("%d steps, without Compile %d, groups that turned %d, changes %+v", steps, taken, turned, odd)
}

// TestAmendedStatementsEqualReference: statements of those who have something in common,
// whom services join and leave, say what the specification says, and are not compiled.
func TestAmendedStatementsEqualReference(t *testing.T) {
	seed := rand.Uint64()
	spoken := everySpoken(worldApps)
	steps, amended, ofSets, turned := 0, 0, 0, 0
	isRich := func() bool { return min(amended, ofSets, turned) > 0 && amended >= steps/3 && ofSets >= steps/8 }
	for n := 0; n < rounds(60) || n < patience*rounds(60) && !isRich(); n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		in := w.balancedInput()
		in.PairsAhead, in.placesAhead, in.few, in.Statements = 0, 0, 1+w.IntN(3), nil
		for i := range 1 + w.some(8) {
			in.Statements = append(in.Statements, w.selecting(i, in.Groups))
		}
		table, err := Compile(in)
		if err != nil {
			t.Fatalf("seed %d world %d: %v", seed, n, err)
		}
		for id := range 25 {
			after, u := w.editGroups(in, 20+id)
			u.Groups, u.Statements = after.Groups, Pointers(after.Statements)
			u.Removed, u.Added = differing(in.Statements, after.Statements)
			before := table
			next, ok := table.With(&u)
			if !ok {
				if next, err = Compile(after); err != nil {
					t.Fatalf("seed %d world %d: %v", seed, n, err)
				}
			}
			table = next
			if u.isAmended(in.Statements) {
				steps++
				if ok {
					amended++
				}
				if ok && len(next.sets) > 1 {
					ofSets++
				}
				if ok && u.turns(before, next) {
					turned++
				}
			}
			for range 15 {
				compareQuery(t, before, &oracle{in}, w.queryBalanced(in.Snapshot, before), spoken, map[Verdict]int{}, map[Identity]int{})
				compareQuery(t, table, &oracle{after}, w.queryBalanced(after.Snapshot, table), spoken, map[Verdict]int{}, map[Identity]int{})
			}
			if t.Failed() {
				t.Fatalf("seed %d world %d step %d: %+v, shared %v", seed, n, id, u, ok)
			}
			in = after
		}
	}
	if !isRich() {
		t.Errorf("of %d steps %d were taken without Compile, %d beside sets, %d as a group turned: the worlds are too odd", steps, amended, ofSets, turned)
	}
	t.Logf("%d steps, without Compile %d, beside sets %d, groups that turned %d", steps, amended, ofSets, turned)
}

// TestAmendsWhoIsMeantAlone: statements that differ in anything that a flow is judged by, but
// whom they select, are not amended.
func TestAmendsWhoIsMeantAlone(t *testing.T) {
	some := func(id Identity) []Peer {
		return []Peer{{Kind: PeerSelector, Name: "some", Selected: &Selection{Identities: []Identity{id}}}, ServicePeer(ServiceKey{Name: "one"})}
	}
	x := Exception{From: some(100), To: some(101), App: AnyApp, Ports: tcp(1)}
	s := Statement{ID: "s", Verdict: Drop, From: some(100), To: some(101), App: AnyApp, Ports: tcp(1), Except: []Exception{x}, Origin: []string{"a"}}
	after := s
	after.From, after.Origin, after.While = some(102), nil, "while"
	after.Except = []Exception{{From: some(103), To: some(101), App: AnyApp, Ports: tcp(1)}}
	if !amends(&s, &after) {
		t.Fatal("a statement that selects others is not amended")
	}
	except := func(change func(*Exception)) func(*Statement) {
		return func(s *Statement) { s.Except = slices.Clone(s.Except); change(&s.Except[0]) }
	}
	other := []Peer{some(102)[0], ServicePeer(ServiceKey{Name: "two"})}
	changes := map[string]func(*Statement){
		"ID": func(s *Statement) { s.ID = "o" }, "Verdict": func(s *Statement) { s.Verdict = Reject }, "Tier": func(s *Statement) { s.Tier++ },
		"From": func(s *Statement) { s.From = other }, "To": func(s *Statement) { s.To = some(101)[:1] },
		"App": func(s *Statement) { s.App = AppMatch{App: AppHTTP, Forms: TLSNone} }, "Ports": func(s *Statement) { s.Ports = tcp(2) },
		"AnyPort": func(s *Statement) { s.AnyPort = true }, "Speaks": func(s *Statement) { s.Speaks = SpeaksIn },
		"EnforceAlways": func(s *Statement) { s.EnforceAlways = true }, "NamesOnly": func(s *Statement) { s.NamesOnly = true },
		"Except": func(s *Statement) { s.Except = nil }, "Pending": func(s *Statement) { s.Pending = "later" },
		"Except.From": except(func(x *Exception) { x.From = other }), "Except.To": except(func(x *Exception) { x.To = other }),
		"Except.App":   except(func(x *Exception) { x.App = AppMatch{App: AppHTTP, Forms: TLSNone} }),
		"Except.Ports": except(func(x *Exception) { x.Ports = nil }), "Except.AnyPort": except(func(x *Exception) { x.AnyPort = true }),
	}
	fields := func(prefix string, of reflect.Type) {
		for f := range of.Fields() {
			if changes[prefix+f.Name] == nil && f.Name != "Origin" && f.Name != "While" {
				t.Errorf("nothing is known of %s%s", prefix, f.Name)
			}
		}
	}
	fields("", reflect.TypeFor[Statement]())
	fields("Except.", reflect.TypeFor[Exception]())
	for what, change := range changes {
		o := after
		change(&o)
		if amends(&s, &o) {
			t.Errorf("%s: it is amended", what)
		}
	}
}

// TestGroupTurnsWhereItStands: a group that becomes another one as a whole, by its mode,
// stays at its addresses: the tables of those are the ones before.
func TestGroupTurnsWhereItStands(t *testing.T) {
	in := town()
	table := mustCompile(t, in)
	turned := 0
	for i, was := range in.Groups {
		if table.names.asks(table.denseOf(was.Identity)) || len(table.updater.compiler.placed.variants[table.denseOf(was.Identity)]) > 0 {
			continue
		}
		is := was
		is.Identity, is.Mode = was.Identity+1000, Enforce+Observe-was.Mode
		u := Update{Epoch: 2, Snapshot: func() *Snapshot { return in.Snapshot }, Groups: slices.Clone(in.Groups), Came: []Group{is}, Gone: []Identity{was.Identity}, Statements: Pointers(in.Statements)}
		u.Groups[i] = is
		for _, id := range was.Members {
			w := &in.Snapshot.Workloads[slices.IndexFunc(in.Snapshot.Workloads, func(w Workload) bool { return w.ID == id })]
			u.Changes = append(u.Changes, Change{Workload: w, Group: was.Identity, Gone: true}, Change{Workload: w, Group: is.Identity})
		}
		next, ok := mustCompile(t, in).With(&u)
		if !ok || !u.turns(table, next) {
			t.Errorf("%s: taken %v", was.Service, ok)
			continue
		}
		turned++
		changed := in
		changed.Groups = u.Groups
		for _, w := range in.Snapshot.Workloads {
			for _, e := range w.Endpoints {
				q := Query{Zone: 1, Src: e.Addresses[0].As16(), Dst: netip.MustParseAddr("8.8.8.8").As16(), Proto: ProtoTCP, DstPort: 443}
				compareQuery(t, next, &oracle{changed}, q, []Spoken{{}, {App: AppTLS}}, map[Verdict]int{}, map[Identity]int{})
			}
		}
	}
	if turned == 0 {
		t.Error("no group turned")
	}
}

// TestBalancerReachesAnotherIdentity: a service with virtual addresses gets another
// identity, as its mode changes, together with the selection of a statement that lets
// all workloads be called: the balancer reaches it as before (R16).
func TestBalancerReachesAnotherIdentity(t *testing.T) {
	const idNew = idTask + 500
	in := town()
	selecting := func(ids ...Identity) []Statement {
		from := []Peer{{Kind: PeerSelector, Name: "some", Selected: &Selection{Identities: ids}}}
		return []Statement{{ID: "s", Verdict: Allow, Tier: TierOperator, From: from, To: peersOf(PeerWorkload), App: AnyApp, Ports: tcp(80)}}
	}
	in.Statements = selecting(idWeb, idTask)
	table := mustCompile(t, in)
	after := in
	after.Epoch++
	after.Statements, after.Groups = selecting(idWeb, idNew), slices.Clone(in.Groups)
	g := &after.Groups[slices.IndexFunc(in.Groups, func(g Group) bool { return g.Identity == idTask })]
	g.Identity, g.Mode = idNew, Enforce
	task := in.Snapshot.Workloads[slices.IndexFunc(in.Snapshot.Workloads, func(w Workload) bool { return w.ID == "task" })]
	next, ok := table.With(&Update{Epoch: after.Epoch, Snapshot: func() *Snapshot { return after.Snapshot }, Groups: after.Groups, Came: []Group{*g}, Gone: []Identity{idTask},
		Changes: []Change{{Workload: &task, Group: idTask, Gone: true}, {Workload: &task, Group: idNew}}, Statements: Pointers(after.Statements), Removed: []int{0}, Added: []int{0}})
	if !ok {
		t.Fatal("the update was not taken without Compile")
	}
	lb := query(3, "10.0.1.4", "10.0.1.6", ProtoTCP, 80)
	for what, c := range map[string]struct {
		*Table
		to Identity
	}{"before": {table, idTask}, "after": {next, idNew}, "compiled": {mustCompile(t, after), idNew}} {
		from, to, _ := c.Resolve(lb)
		if j := c.Lookup(lb).Judge(Spoken{App: AppHTTP}); from != IDLB || to != c.to || j.Verdict != Allow || j.Denied {
			t.Errorf("%s: %s calls %d: %+v; want @lb to be let through to %d", what, c.IdentityName(from), to, j, c.to)
		}
	}
}

// TestEditsKeepNames: services and statements that come and go beside those that
// reach names leave what was learned of names as it is, for a table as for one that
// is compiled of what there is now.
func TestEditsKeepNames(t *testing.T) {
	seed := rand.Uint64()
	spoken := everySpoken([]App{AppHTTP, AppSSH})
	servers := []ServerName{{}, {State: NameHidden}}
	for _, n := range refNames {
		servers = append(servers, ServerName{State: NameGiven, Text: []byte(n)})
	}
	now := time.Unix(1_000_000, 0)
	taken, named, by := 0, 0, nameEdits{}
	isRich := func() bool {
		return min(taken, named) >= rounds(20) && min(by.came, by.gone, by.replicas, by.underAll) >= rounds(15) && by.flows > 0
	}
	for n := 0; n < rounds(150) || n < patience*rounds(150) && !isRich(); n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		in := w.input()
		in.PairsAhead = 0
		if w.chance(70) {
			in.Statements = slices.DeleteFunc(in.Statements, namesPrefix)
		}
		for i := range w.some(3) {
			in.Statements = append(in.Statements, w.nameStatement(i, in.Groups[:1]))
		}
		names, learned := NewNames(NameLimits{}), []told{}
		table := names.compiled(t, in, now)
		note := func(names *Names, table *Table, k told) {
			if i := table.AskerOf(k.workload); i >= 0 {
				names.Note(table, i, &Answer{Name: k.name, Addresses: []AnswerAddress{{IP: k.ip}}}, now)
			}
		}
		for id := range 15 {
			after, u := w.editNames(in, 20+id)
			next, ok := table.With(&u)
			if ok {
				table = next
				names.Attach(table, now)
				by.count(&u, in)
			} else {
				table = names.compiled(t, after, now)
			}
			who := after.Snapshot.Workloads
			if askers := slices.DeleteFunc(slices.Clone(who), func(x Workload) bool { return table.AskerOf(x.ID) < 0 }); len(askers) > 0 {
				who = askers
			}
			k := told{pick(w, who).ID, pick(w, refNames), pick(w, namePlaces), now.Add(time.Minute)}
			note(names, table, k)
			// What no statement was about is not known; what one was about stays known for as
			// long as the answer holds, should the statement go and come again.
			learned = slices.DeleteFunc(append(learned, k), func(k told) bool {
				return !slices.ContainsFunc(names.List(), func(n KnownName) bool { return n.Workload == k.workload && n.Name == k.name && n.Address == k.ip })
			})
			fresh := NewNames(NameLimits{})
			want := fresh.compiled(t, after, now)
			for _, k := range learned {
				note(fresh, want, k)
			}
			asked := slices.DeleteFunc(slices.Clone(learned), func(k told) bool { return want.AskerOf(k.workload) < 0 })
			for range 12 {
				q := w.nameQuery(w.query(after.Snapshot), asked, after.Snapshot)
				a, b := table.Lookup(q), want.Lookup(q)
				for _, s := range spoken {
					for _, server := range servers {
						has, wants := a.JudgeServer(s, server), b.JudgeServer(s, server)
						at := [2]int{-1, -1}
						if has.Rule >= 0 && wants.Rule >= 0 {
							at = [2]int{table.placeOf(has.Rule), want.placeOf(wants.Rule)}
						}
						if has.Rule, wants.Rule = min(has.Rule, 0), min(wants.Rule, 0); has != wants || at[0] != at[1] {
							t.Fatalf("seed %d world %d step %d, shared %v: %v %+v %+v: %+v by %d, want %+v by %d", seed, n, id, ok, q, s, server, has, at[0], wants, at[1])
						}
					}
				}
				if ok && b.Named() {
					named++
				}
				if _, who := table.resolver.callerAt(q.Zone, addressOf(&q.Src)); b.Named() && int(who) >= len(table.groupOf) {
					by.flows++
				}
			}
			if ok && len(u.Came)+len(u.Gone)+len(u.Added)+len(u.Removed) > 0 {
				taken++
			}
			in = after
		}
	}
	if !isRich() {
		t.Errorf("%d edits were taken without Compile, %d flows were by name, and of who asks for names were made so %+v: the worlds are too odd", taken, named, by)
	}
	t.Logf("%d edits without Compile, %d flows by name; of who asks %+v", taken, named, by)
}

// nameEdits counts what was made without Compile of those who ask for names: their
// statements that came and that are gone, their replicas, flows by name of who
// came so, and services that came where all ask.
type nameEdits struct{ came, gone, replicas, flows, underAll int }

func (c *nameEdits) count(u *Update, before Input) {
	ofAll := func(s *Statement) bool {
		return asksNames(*s) && s.Pending == "" && slices.ContainsFunc(s.From, func(p Peer) bool { return p.Kind == PeerAny || p.Kind == PeerWorkload })
	}
	if len(u.Came) > 0 && slices.ContainsFunc(u.Statements, ofAll) {
		c.underAll++
	}
	for _, at := range u.Added {
		if asksNames(*u.Statements[at]) {
			c.came++
		}
	}
	for _, at := range u.Removed {
		if asksNames(before.Statements[at]) {
			c.gone++
		}
	}
	if len(u.Came)+len(u.Gone)+len(u.Added)+len(u.Removed) > 0 {
		return
	}
	for _, change := range u.Changes {
		of := slices.IndexFunc(before.Groups, func(g Group) bool { return g.Identity == change.Group })
		if of >= 0 && slices.ContainsFunc(before.Statements, func(s Statement) bool {
			return asksNames(s) && s.Pending == "" && slices.ContainsFunc(s.From, func(p Peer) bool { return p.Service == before.Groups[of].Service })
		}) {
			c.replicas++
		}
	}
}

// editNames is edit where most services that come are the only ones of their name and
// ask for names, as long as they are there; or a replica's start or stop.
func (w world) editNames(in Input, id int) (Input, Update) {
	if w.chance(40) {
		if after, change, ok := w.step(in, id); ok {
			return after, Update{Epoch: after.Epoch, Snapshot: func() *Snapshot { return after.Snapshot }, Groups: after.Groups,
				Statements: Pointers(after.Statements), Changes: []Change{change}}
		}
	}
	after, u := w.edit(in, id)
	for i := range u.Came {
		g := &u.Came[i]
		if w.chance(20) {
			continue
		}
		g.Service.Name = fmt.Sprint("own", id)
		after.Groups[slices.IndexFunc(after.Groups, func(o Group) bool { return o.Identity == g.Identity })].Service = g.Service
		s := w.nameStatement(1000+id, []Group{*g})
		s.From, s.Pending = []Peer{ServicePeer(g.Service)}, ""
		if w.chance(20) {
			s.To, s.App, s.Ports, s.NamesOnly = []Peer{{Kind: PeerResolver}}, AppMatch{App: AppDNS, Forms: TLSNone}, []PortRange{Port(ProtoUDP, 53)}, true
		}
		after.Statements = slices.Insert(after.Statements, w.IntN(len(after.Statements)+1), s)
	}
	for _, id := range u.Gone {
		of := slices.IndexFunc(in.Groups, func(g Group) bool { return g.Identity == id })
		service := in.Groups[of].Service
		after.Statements = slices.DeleteFunc(after.Statements, func(s Statement) bool {
			return asksNames(s) && len(s.From) == 1 && s.From[0].Service == service && strings.HasPrefix(service.Name, "own")
		})
	}
	u.Statements = Pointers(after.Statements)
	u.Removed, u.Added = differing(in.Statements, after.Statements)
	return after, u
}

// TestEditsBesideReaders: whoever asks a table while the next ones are made of it
// is told what the specification says of its own. The race detector looks on.
func TestEditsBesideReaders(t *testing.T) {
	seed := rand.Uint64()
	spoken := everySpoken(worldApps)
	type published struct {
		table *Table
		in    Input
	}
	taken := 0
	for n := 0; n < 15 || n < 15*patience && taken == 0; n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		in := w.input()
		in.PairsAhead = 0
		in.Statements = slices.DeleteFunc(in.Statements, namesPrefix)
		table, err := Compile(in)
		if err != nil {
			t.Fatalf("seed %d world %d: %v", seed, n, err)
		}
		var now atomic.Pointer[published]
		now.Store(&published{table, in})
		var over atomic.Bool
		var readers sync.WaitGroup
		for r := range 2 {
			readers.Go(func() {
				w := world{rand.New(rand.NewPCG(seed, uint64(1000+10*n+r)))}
				for !over.Load() && !t.Failed() {
					p := now.Load()
					for range 20 {
						compareQuery(t, p.table, &oracle{p.in}, w.query(p.in.Snapshot), spoken, map[Verdict]int{}, map[Identity]int{})
					}
				}
			})
		}
		for id := range 25 {
			after, u := w.edit(in, 20+id)
			next, ok := table.With(&u)
			if ok {
				taken++
				table = next
			} else if table, err = Compile(after); err != nil {
				t.Errorf("seed %d world %d: %v", seed, n, err)
				break
			}
			in = after
			now.Store(&published{table, in})
			time.Sleep(time.Millisecond) // readers meet some of each
		}
		over.Store(true)
		readers.Wait()
		if t.Failed() {
			t.Fatalf("seed %d world %d", seed, n)
		}
	}
	if taken == 0 {
		t.Error("all was compiled: nothing was shared")
	}
}

// TestEditsAreBounded: however long statements of no rules come and go, a table does
// not keep those that are no more.
func TestEditsAreBounded(t *testing.T) {
	pending := func(round int) []Statement {
		out := make([]Statement, maxDead/4)
		for i := range out {
			out[i] = Statement{ID: fmt.Sprint(round, "-", i), Verdict: Allow, Tier: TierModel, From: []Peer{{Kind: PeerAny}}, To: []Peer{{Kind: PeerAny}},
				App: AnyApp, AnyPort: true, Speaks: SpeaksBoth, Pending: "its time"}
		}
		return out
	}
	all := make([]int, maxDead/4)
	for i := range all {
		all[i] = i
	}
	in := Input{Epoch: 1, Snapshot: &Snapshot{}, Statements: pending(0)}
	table, err := Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	for round := 1; ; round++ {
		next, ok := table.With(&Update{Epoch: in.Epoch + uint32(round), Snapshot: func() *Snapshot { return in.Snapshot }, Statements: Pointers(pending(round)), Removed: all, Added: all})
		if !ok {
			break
		}
		table = next
		if n := len(table.Statements()); n > 2*maxDead {
			t.Fatalf("after %d changes %d statements are kept for %d", round, n, len(all))
		}
	}
	if n := len(table.Statements()); n <= len(all) {
		t.Errorf("%d statements are kept: no change was taken", n)
	}
}

// TestEditsBesideLookups: answers are learned and flows go by name in a table while
// those who ask for names come and go in the next ones: what it decides is by rules
// of its own. The race detector looks on.
func TestEditsBesideLookups(t *testing.T) {
	seed := rand.Uint64()
	now := time.Unix(1_000_000, 0)
	type published struct {
		table *Table
		in    Input
	}
	by := nameEdits{}
	var named atomic.Int32
	isRich := func() bool { return min(by.came, by.gone, by.replicas) > 0 && named.Load() > 0 }
	for n := 0; n < 25 || n < 25*patience && !isRich(); n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		in := w.input()
		in.PairsAhead = 0
		in.Statements = append(slices.DeleteFunc(in.Statements, namesPrefix), w.nameStatement(0, in.Groups[:1]))
		names := NewNames(NameLimits{})
		table := names.compiled(t, in, now)
		var last atomic.Pointer[published]
		last.Store(&published{table, in})
		var over atomic.Bool
		var readers sync.WaitGroup
		for r := range 2 {
			readers.Go(func() {
				w := world{rand.New(rand.NewPCG(seed, uint64(1000+10*n+r)))}
				for !over.Load() {
					p := last.Load()
					k := told{pick(w, p.in.Snapshot.Workloads).ID, pick(w, refNames), pick(w, namePlaces), now.Add(time.Minute)}
					if i := p.table.AskerOf(k.workload); i >= 0 {
						names.Note(p.table, i, &Answer{Name: k.name, Addresses: []AnswerAddress{{IP: k.ip}}}, now)
						p.table.MayAsk(i, k.name)
					}
					for range 20 {
						q := w.nameQuery(w.query(p.in.Snapshot), []told{k}, p.in.Snapshot)
						d := p.table.Lookup(q)
						if j := d.JudgeServer(Spoken{App: AppHTTP}, ServerName{}); int(j.Rule) >= len(p.table.Rules()) {
							t.Errorf("rule %d of %d", j.Rule, len(p.table.Rules()))
						}
						if d.Named() {
							named.Add(1)
						}
					}
				}
			})
		}
		for id := range 15 {
			after, u := w.editNames(in, 20+id)
			if next, ok := table.With(&u); ok {
				table = next
				by.count(&u, in)
				names.Attach(table, now)
			} else {
				table = names.compiled(t, after, now)
			}
			in = after
			last.Store(&published{table, in})
		}
		over.Store(true)
		readers.Wait()
	}
	if !isRich() {
		t.Errorf("%+v, %d flows by name: nothing was shared", by, named.Load())
	}
}

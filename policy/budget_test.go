package policy

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// crowded is n services, of which the operator lets all call all but on one port.
func crowded(n int) Input {
	in := largeInput(n)
	sel := &Selection{}
	for _, g := range in.Groups {
		sel.Identities = append(sel.Identities, g.Identity)
	}
	all := []Peer{{Kind: PeerSelector, Name: "category/risk=high", Selected: sel}}
	in.Statements = append(in.Statements, Statement{ID: "all-to-all", Verdict: Drop, Tier: TierOperator, From: all, To: all, App: AnyApp, Ports: tcp(25), Origin: []string{"ops.yaml:12"}})
	return in
}

// TestCosts: what the report says of memory is in proportion to what statements
// mean, and a statement with large sides costs about what both have peers.
func TestCosts(t *testing.T) {
	bytes := make(map[int]int)
	for _, n := range []int{100, 200, 400} {
		audit, err := MakeAudit(crowded(n))
		if err != nil {
			t.Fatal(err)
		}
		rules, rest := 0, 0
		for i, c := range audit.Costs {
			rules += c.Rules
			if c.Rules > 0 && c.Bytes < int(unsafe.Sizeof(Rule{})) {
				t.Errorf("%d services: statement %d has %d rules in %d bytes", n, i, c.Rules, c.Bytes)
			}
			if i < n {
				rest += c.Bytes
			}
		}
		last := audit.Costs[n]
		if rules != audit.Table.FlatCount() || last.Rules != n*n || last.Spans == 0 {
			t.Errorf("%d services: %d rules, the table lists %d; of the large statement %d, in %d places", n, rules, audit.Table.FlatCount(), last.Rules, last.Spans)
		}
		if each := rest / n; each > 4096 {
			t.Errorf("%d services: a statement of two services takes %d bytes", n, each)
		}
		bytes[n] = last.Bytes
	}
	for _, n := range []int{100, 200} {
		if bytes[2*n] > 3*bytes[n] {
			t.Errorf("with sides twice as large the statement takes %d bytes instead of %d", bytes[2*n], bytes[n])
		}
	}
}

// TestFlat: a rule of many peers is listed as one for each pair of them.
func TestFlat(t *testing.T) {
	in := crowded(20)
	table := mustCompile(t, in)
	pairs := make(map[[2]string]bool)
	for i, r := range table.Flat() {
		if table.Rules()[i].Statement != r.Statement {
			t.Fatal("a rule is listed as another's")
		}
		if table.Statements()[r.Statement].ID == "all-to-all" {
			from, to := table.RuleEnds(&r)
			pairs[[2]string{from, to}] = true
		}
	}
	if len(pairs) != 400 || !pairs[[2]string{"p/s3", "p/s17"}] {
		t.Errorf("%d pairs", len(pairs))
	}
}

// TestMemoryBudget: a policy that takes more than its budget makes no table, and
// the error names the statement that takes most, with its file and line.
func TestMemoryBudget(t *testing.T) {
	in := crowded(200)
	audit, err := MakeAudit(in)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, c := range audit.Costs {
		total += c.Bytes
	}
	in.MemoryBudget = 2 * total
	mustCompile(t, in)

	// Each of these peers is an end of its own and meets each at the other side.
	var ports []PortRange
	for p := range uint16(2000) {
		ports = append(ports, Port(ProtoTCP, 1000+2*p))
	}
	at := slices.IndexFunc(in.Statements, func(s Statement) bool { return s.ID == "all-to-all" })
	in.Statements[at].Ports = ports
	for _, budget := range []int{2 * total, 1 << 10} {
		in.MemoryBudget = budget
		table, err := Compile(in)
		if err == nil || table != nil {
			t.Fatalf("%d bytes are enough", budget)
		}
		if budget > total && (!strings.Contains(err.Error(), `"all-to-all" (ops.yaml:12)`) || !strings.Contains(err.Error(), fmt.Sprint(200*200*len(ports))+" rules")) {
			t.Errorf("budget %d: %v", budget, err)
		}
	}
}

// TestFirstFlows: a flow to a place that none was to before allocates nothing,
// where such places are laid when they are met.
func TestFirstFlows(t *testing.T) {
	in := town()
	in.PairsAhead = 1
	for i := range 5000 {
		s := Statement{ID: fmt.Sprint("s", i), Verdict: Drop, Tier: TierOperator, App: app(AppHTTP + App(i%20)), From: peersOf(PeerAny), To: []Peer{prefixNumber(i)}, Ports: tcp(uint16(1 + i%7))}
		if i%3 == 0 {
			s.Except = []Exception{{From: []Peer{peerWeb}, To: s.To, App: app(AppSSH), AnyPort: true}}
		}
		in.Statements = append(in.Statements, s)
	}
	table := mustCompile(t, in)
	if table.met == nil {
		t.Fatal("all pairs are laid ahead")
	}
	var queries []Query
	for i := range 2000 {
		q := query(1, "172.18.0.2", "1.1.1.1", ProtoTCP, uint16(1+i%7))
		q.Dst = prefixNumber(i).Prefix.Addr().As16()
		queries = append(queries, q)
	}
	next := 0
	if allocs := testing.AllocsPerRun(len(queries)-1, func() {
		table.Lookup(queries[next])
		next++
	}); allocs != 0 {
		t.Errorf("%v allocations a flow", allocs)
	}
	if table.met.count < 500 {
		t.Errorf("only %d places were met", table.met.count)
	}
}

// allocated is what f allocates in all: more than the heap ever grows by.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// TestCompileMemory: what a compile takes stays near the memory budget, whatever
// statements say; of those that fit every flow gets what they say, and what does
// not fit is refused by file and line.
func TestCompileMemory(t *testing.T) {
	const budget = 24 << 20
	each := func(n int, of func(in Input, i int) Statement) Input {
		in := site(n, n)
		for i := range n {
			s := of(in, i)
			s.ID, s.Verdict, s.Tier, s.App, s.Origin = fmt.Sprint("st-", i), Allow, TierOperator, AnyApp, []string{fmt.Sprintf("ops.yaml:%d", 10+i)}
			in.Statements = append(in.Statements, s)
		}
		return in
	}
	service := func(in Input, i int) []Peer { return []Peer{ServicePeer(in.Groups[i%len(in.Groups)].Service)} }
	rnd := rand.New(rand.NewPCG(5, 5))
	var manyPorts []PortRange
	for p := range uint16(30_000) {
		manyPorts = append(manyPorts, Port(ProtoTCP, 1+2*p))
	}
	for _, c := range []struct {
		what    string
		in      Input
		refused bool
	}{
		{"halves of services on both sides", halves(1500, 24), false},
		{"many halves of few services", halves(200, 1000), false},
		{"more halves than fit", halves(1500, 2000), true},
		{"each service may call all, and be called by all", each(1500, func(in Input, i int) Statement {
			s := Statement{From: service(in, i), To: peersOf(PeerWorkload), Ports: tcp(9100)}
			if i%2 == 0 {
				s.From, s.To = s.To, s.From
			}
			return s
		}), false},
		{"a half of its own may call each service", each(600, func(in Input, i int) Statement {
			return Statement{From: []Peer{half(in, rnd)}, To: service(in, i), Ports: tcp(80)}
		}), false},
		{"each service may call a half of its own", each(600, func(in Input, i int) Statement {
			return Statement{From: service(in, i), To: []Peer{half(in, rnd)}, Ports: tcp(80)}
		}), false},
		{"more names of all services than fit", each(1500, func(in Input, i int) Statement {
			return Statement{From: peersOf(PeerWorkload), To: []Peer{{Kind: PeerName, Name: fmt.Sprintf("h%d.example.com", i)}}, Ports: tcp(443)}
		}), true},
		{"more ports than fit", each(9, func(in Input, i int) Statement {
			s := Statement{From: service(in, i), To: service(in, i+1), Ports: tcp(80)}
			if i == 4 {
				s.From, s.To, s.Ports = slices.Concat(service(in, 1), service(in, 2), service(in, 3)), slices.Concat(service(in, 4), service(in, 5)), manyPorts
			}
			return s
		}), true},
	} {
		bare := c.in
		bare.Statements = nil
		rest := allocated(func() { mustCompile(t, bare) })
		var table *Table
		var err error
		c.in.MemoryBudget = budget
		took := allocated(func() { table, err = Compile(c.in) })
		if took-rest > 4*budget {
			t.Errorf("%s: the compile allocated %s, the budget is %s", c.what, bytesText(took-rest), bytesText(budget))
		}
		if c.refused {
			if err == nil || table != nil || !strings.Contains(err.Error(), "ops.yaml:") {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		judgesAsStatements(t, c.what, table, rnd)
	}
}

// judgesAsStatements asks, for random workloads, whether a flow passes as the
// statements, all of them allowing, say one by one.
func judgesAsStatements(t *testing.T, what string, table *Table, rnd *rand.Rand) {
	t.Helper()
	means := func(peers []Peer, g Group) bool {
		return slices.ContainsFunc(peers, func(p Peer) bool {
			return p.Kind == PeerWorkload || p.Kind == PeerService && p.Service == g.Service || p.Kind == PeerSelector && slices.Contains(p.Selected.Identities, g.Identity)
		})
	}
	workloads, allowed := table.compiled.Workloads, 0
	for range 400 {
		i, k := rnd.IntN(len(workloads)), rnd.IntN(len(workloads))
		port := []uint16{80, 9100, 1000, 1001, 1002}[rnd.IntN(5)]
		want := Drop
		for s := range slices.Values(table.statements) {
			if s.Ports[0].Lo == port && means(s.From, table.groups[i]) && means(s.To, table.groups[k]) {
				want = Allow
			}
		}
		got := table.Lookup(Query{Zone: 1, Src: workloads[i].Endpoints[0].Addresses[0].As16(), Dst: workloads[k].Endpoints[0].Addresses[0].As16(), Proto: ProtoTCP, DstPort: port}).Verdict()
		if got != want {
			t.Fatalf("%s: %d -> %d tcp/%d is %v, want %v", what, i, k, port, got, want)
		}
		if got == Allow {
			allowed++
		}
	}
	if allowed < 20 {
		t.Errorf("%s: only %d of 400 flows pass", what, allowed)
	}
}

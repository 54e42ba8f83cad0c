package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// verbWorld is a random input without names and prefixes: which addresses those
// lead to is not the table's.
func verbWorld(seed uint64, n int) (world, Input) {
	w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
	for {
		in := w.input()
		in.Statements = slices.DeleteFunc(in.Statements, func(s Statement) bool {
			return namesPrefix(s) || slices.ContainsFunc(s.To, func(p Peer) bool { return p.Kind == PeerName })
		})
		for i := range in.Statements {
			in.Statements[i].ID = fmt.Sprint("s", i)
		}
		if _, err := Compile(in); err == nil {
			return w, in
		}
	}
}

// TestDiffEqualsVerdicts: of two random policies for the same workloads, what
// differs for a flow is in the diff of whose it is, and what is in the diff differs.
func TestDiffEqualsVerdicts(t *testing.T) {
	seed := rand.Uint64()
	differing := 0
	for n := range 150 {
		w, in := verbWorld(seed, n)
		before := mustCompile(t, in)
		if c := Diff(before, mustCompile(t, in)); !c.Same() {
			t.Fatalf("seed %d/%d: a policy differs from itself: %+v", seed, n, c)
		}
		changed := in
		changed.Statements = slices.Clone(in.Statements)
		if len(changed.Statements) == 0 {
			continue
		}
		at := w.IntN(len(changed.Statements))
		changed.Statements = slices.Delete(changed.Statements, at, at+1)
		after := mustCompile(t, changed)
		c := Diff(before, after)
		for range 400 {
			q := w.anyQuery(in.Snapshot)
			if q.Proto.normal() == ProtoICMP && q.DstPort != 0 {
				continue // there is no such flow
			}
			d, e := before.Lookup(q), after.Lookup(q)
			from, to, port := after.Resolve(q)
			for _, s := range append(d.spoken(), e.spoken()...) {
				if s.App == AppDTLS || s.ALPN == AppUnknown {
					continue
				}
				jb, ja := d.Judge(s), e.Judge(s)
				if jb.Outcome() == ja.Outcome() {
					continue
				}
				differing++
				told := slices.ContainsFunc(c.Differences, func(x Difference) bool {
					return strings.HasPrefix(x.From, after.IdentityName(from)) && strings.HasPrefix(x.To, after.IdentityName(to)) &&
						x.Before == jb.Outcome() && x.After == ja.Outcome() && (slices.Contains(x.Apps, "any") || slices.Contains(x.Apps, appOf(s))) &&
						slices.ContainsFunc(x.Ports, func(p PortRange) bool { return p.Contains(q.Proto.normal(), port) })
				})
				if !told {
					t.Fatalf("seed %d/%d: %s -> %s %s/%d %s: %s before, %s now, and the diff does not say so: %+v", seed, n,
						after.IdentityName(from), after.IdentityName(to), q.Proto, port, s, jb.Outcome(), ja.Outcome(), c.Differences)
				}
			}
		}
	}
	if differing < 20 {
		t.Errorf("only %d verdicts differed: the worlds are too tame", differing)
	}
}

// TestAuditIsRight: a statement of which an audit says that it never acts, adds
// nothing or matches nothing can go without any verdict changing.
func TestAuditIsRight(t *testing.T) {
	seed := rand.Uint64()
	gone := map[FlawKind]int{}
	for n := range 150 {
		w, in := verbWorld(seed, n)
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
			without := in
			without.Statements = slices.DeleteFunc(slices.Clone(in.Statements), func(s Statement) bool { return s.ID == f.Statement })
			if c := Diff(audit.Table, mustCompile(t, without)); len(c.Differences) > 0 {
				t.Fatalf("seed %d/%d: %s %s: %s; without it %s", seed, n, f.Kind, f.Statement, f.Text, c.Differences[0].String())
			}
		}
	}
	for _, k := range []FlawKind{FlawShadowed, FlawRedundant, FlawUnmatched} {
		if gone[k] == 0 {
			t.Errorf("no statement was %s: the worlds are too tame", k)
		}
	}
}

// TestExportKeepsEmptySetsEmpty (THREATS 18): a statement with nobody, or without
// ports, changes nothing in any target, and no list that means all when it is
// empty is ever written.
func TestExportKeepsEmptySetsEmpty(t *testing.T) {
	seed := rand.Uint64()
	for n := range 60 {
		w, in := verbWorld(seed, n)
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
	_, in := verbWorld(1, 1)
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

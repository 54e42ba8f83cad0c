package ruleset_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gatehouse/policy/ruleset"
	"gatehouse/policy/ruleset/rulesettest"
)

var engines = []ruleset.Engine{ruleset.Tables, ruleset.Tree, ruleset.Vectors}

// matching is the ids of all rules that match, in order: what Set must say.
func matching(rules []ruleset.Rule, h *ruleset.Header) []uint32 {
	var hits []ruleset.Rule
	for i := range rules {
		if rules[i].Matches(h) {
			hits = append(hits, rules[i])
		}
	}
	slices.SortFunc(hits, func(a, b ruleset.Rule) int {
		if a.Priority != b.Priority {
			return int(int64(a.Priority) - int64(b.Priority))
		}
		return int(int64(a.ID) - int64(b.ID))
	})
	ids := make([]uint32, len(hits))
	for i := range hits {
		ids[i] = hits[i].ID
	}
	return ids
}

func found(v *ruleset.View, h *ruleset.Header) (ids []uint32) {
	for m := v.First(h); m.OK(); m = v.Next(h, m) {
		ids = append(ids, m.ID)
	}
	return ids
}

func check(t *testing.T, v *ruleset.View, rules []ruleset.Rule, headers []ruleset.Header) {
	t.Helper()
	for i := range headers {
		if got, want := found(v, &headers[i]), matching(rules, &headers[i]); !slices.Equal(got, want) {
			t.Fatalf("header %+v: found %v, want %v", headers[i], got, want)
		}
	}
}

// TestAgainstLinearScan: every engine finds the same rules in the same order as
// a look at each rule does.
func TestAgainstLinearScan(t *testing.T) {
	for _, kind := range rulesettest.Kinds {
		for _, n := range []int{1, 2, 9, 65, 700} {
			for _, v6 := range []bool{false, true} {
				rules := rulesettest.Generate(kind, n, v6, uint64(n))
				headers := rulesettest.Headers(rules, 600, 3)
				for _, e := range engines {
					t.Run(fmt.Sprintf("%s/%d/v6=%t/%s", kind, n, v6, e), func(t *testing.T) {
						s, err := ruleset.New(rules, ruleset.Options{Engine: e})
						if err != nil {
							t.Fatal(err)
						}
						check(t, s.View(), rules, headers)
					})
				}
			}
		}
	}
}

// crowd is rules of few values, so that nearly all overlap: both families, any
// address, nested prefixes, ends of the address and port ranges.
func crowd(rnd *rand.Rand, n int) []ruleset.Rule {
	prefixes := []string{"", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.0.0.0/32", "10.0.0.255/32", "10.0.1.0/31", "10.0.255.255/32", "255.255.255.255/32", "255.255.255.0/24", "0.0.0.0/32", "::ffff:10.0.0.0/104",
		"::/0", "::/1", "8000::/1", "2001:db8::/32", "2001:db8::/64", "2001:db8::/65", "2001:db8::/128", "2001:db8::ffff:ffff:ffff:ffff/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "::/128"}
	ports := []ruleset.Ports{ruleset.AnyPort, {0, 0}, {65535, 65535}, {80, 80}, {79, 81}, {0, 79}, {80, 65535}, {255, 256}, {1024, 65535}}
	out := make([]ruleset.Rule, 0, n)
	prefix := func() (p netip.Prefix) {
		if s := prefixes[rnd.IntN(len(prefixes))]; s != "" {
			p = netip.MustParsePrefix(s)
		}
		return p
	}
	for len(out) < n {
		r := ruleset.Rule{ID: uint32(len(out)), Priority: uint32(rnd.IntN(n)), Src: prefix(), Dst: prefix(), SrcPorts: ports[rnd.IntN(len(ports))], DstPorts: ports[rnd.IntN(len(ports))], Proto: uint8(rnd.IntN(3)), AnyProto: rnd.IntN(3) == 0}
		if r.Src.IsValid() && r.Dst.IsValid() && r.Src.Addr().Unmap().Is4() != r.Dst.Addr().Unmap().Is4() {
			continue
		}
		out = append(out, r)
	}
	return out
}

func TestOverlapping(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		rules := crowd(rnd, 120)
		headers := rulesettest.Headers(rules, 1500, seed)
		for _, e := range engines {
			s, err := ruleset.New(rules, ruleset.Options{Engine: e})
			if err != nil {
				t.Fatal(err)
			}
			check(t, s.View(), rules, headers)
		}
	}
}

// TestMixedFamilies: rules without addresses hold in both families, and a
// header of two families matches nothing.
func TestMixedFamilies(t *testing.T) {
	rules := []ruleset.Rule{{ID: 5, SrcPorts: ruleset.AnyPort, DstPorts: ruleset.AnyPort, AnyProto: true}}
	s, err := ruleset.New(rules, ruleset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := netip.MustParseAddr("192.0.2.1").As16(), netip.MustParseAddr("2001:db8::1").As16()
	for _, tc := range []struct {
		src, dst [16]byte
		want     uint32
	}{{v4, v4, 5}, {v6, v6, 5}, {v4, v6, ruleset.NoRule}, {v6, v4, ruleset.NoRule}} {
		if got := s.Lookup(&ruleset.Header{Src: tc.src, Dst: tc.dst}); got != tc.want {
			t.Errorf("%v to %v: %d, want %d", tc.src, tc.dst, got, tc.want)
		}
	}
}

// TestChanges: after every step of a random sequence of inserts and deletes a
// Set is what its rules say, whichever rebuilds are under way.
func TestChanges(t *testing.T) {
	for _, e := range append(engines, "") {
		for seed := range uint64(3) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			pool := crowd(rnd, 400)
			rules := slices.Clone(pool[:100])
			spare := slices.Clone(pool[100:])
			headers := rulesettest.Headers(pool, 4000, seed)
			s, err := ruleset.New(rules, ruleset.Options{Engine: e})
			if err != nil {
				t.Fatal(err)
			}
			for step := range 700 {
				if rnd.IntN(2) == 0 && len(spare) > 0 {
					i := rnd.IntN(len(spare))
					if err := s.Insert(spare[i]); err != nil {
						t.Fatal(err)
					}
					rules, spare = append(rules, spare[i]), slices.Delete(spare, i, i+1)
				} else if len(rules) > 0 {
					i := rnd.IntN(len(rules))
					if err := s.Delete(rules[i].ID); err != nil {
						t.Fatal(err)
					}
					spare, rules = append(spare, rules[i]), slices.Delete(rules, i, i+1)
				}
				v := s.View()
				if v.Len() != len(rules) || len(v.Rules()) != len(rules) {
					t.Fatalf("step %d: %d rules, %d listed, want %d", step, v.Len(), len(v.Rules()), len(rules))
				}
				at := rnd.IntN(len(headers) - 12)
				check(t, v, rules, headers[at:at+12])
			}
			s.Settle()
			check(t, s.View(), rules, headers[:500])
		}
	}
}

func TestChangeFaults(t *testing.T) {
	rules := rulesettest.Generate(rulesettest.Mixed, 20, false, 1)
	s, err := ruleset.New(rules, ruleset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	bad := rules[3]
	bad.ID, bad.DstPorts = 99, ruleset.Ports{Lo: 9, Hi: 1}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"insert twice", s.Insert(rules[3]), "rule 3: another rule has this id"},
		{"insert a bad one", s.Insert(bad), "rule 99: destination ports 9-1: want the lower first"},
		{"delete what is not there", s.Delete(77), "rule 77: there is none"},
	} {
		if tc.err == nil || tc.err.Error() != tc.want {
			t.Errorf("%s: %v, want %s", tc.name, tc.err, tc.want)
		}
	}
	check(t, s.View(), rules, rulesettest.Headers(rules, 100, 1))
}

// TestViewStays: a View does not change with its Set.
func TestViewStays(t *testing.T) {
	rules := rulesettest.Generate(rulesettest.Firewall, 300, false, 4)
	headers := rulesettest.Headers(rules, 300, 4)
	s, err := ruleset.New(rules[:200], ruleset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 200; i < 250; i++ {
		if err := s.Insert(rules[i]); err != nil {
			t.Fatal(err)
		}
	}
	v := s.View()
	for i := 250; i < 300; i++ {
		if err := errors.Join(s.Insert(rules[i]), s.Delete(uint32(i-60)), s.Delete(uint32(i-250))); err != nil {
			t.Fatal(err)
		}
	}
	s.Settle()
	check(t, v, rules[:250], headers)
}

// TestReaders: while rules come and go, a reader finds on each View what that
// View's rules say, and always the rule that never goes.
func TestReaders(t *testing.T) {
	rules := rulesettest.Generate(rulesettest.Mixed, 300, false, 9)
	always := ruleset.Rule{ID: 1 << 20, Priority: 1 << 20, SrcPorts: ruleset.AnyPort, DstPorts: ruleset.AnyPort, AnyProto: true}
	headers := rulesettest.Headers(rules, 500, 9)
	s, err := ruleset.New(append(slices.Clone(rules[:150]), always), ruleset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	for n := range 2 {
		readers.Go(func() {
			for i := n; !done.Load(); i++ {
				h := &headers[i%len(headers)]
				if s.Lookup(h) == ruleset.NoRule {
					t.Errorf("header %+v: the last rule was not found", *h)
					return
				}
				v := s.View()
				if got, want := v.First(h).ID, rulesettest.First(v.Rules(), h).ID; got != want {
					t.Errorf("header %+v: %d, want %d", *h, got, want)
					return
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	in := make([]bool, len(rules))
	for i := range 150 {
		in[i] = true
	}
	for range 1500 {
		i := rnd.IntN(len(rules))
		if in[i] {
			err = s.Delete(rules[i].ID)
		} else {
			err = s.Insert(rules[i])
		}
		if err != nil {
			t.Fatal(err)
		}
		in[i] = !in[i]
	}
	done.Store(true)
	readers.Wait()
	s.Settle()
}

// TestBudget: rules that fit no engine are refused, and the widest is named; a
// rebuild that does not fit leaves the rules as they are.
func TestBudget(t *testing.T) {
	rules := rulesettest.Generate(rulesettest.Access, 2000, false, 2)
	wide := uint32(1234)
	rules[wide].Src, rules[wide].Dst, rules[wide].SrcPorts, rules[wide].DstPorts, rules[wide].AnyProto = netip.Prefix{}, netip.Prefix{}, ruleset.AnyPort, ruleset.AnyPort, true
	_, err := ruleset.New(rules, ruleset.Options{Memory: 1 << 19})
	var refused *ruleset.MemoryError
	if !errors.As(err, &refused) || refused.Rule != wide || refused.Budget != 1<<19 || refused.Need <= 1<<19 {
		t.Fatalf("a budget of 512 KiB: %v", err)
	}
	if !strings.Contains(err.Error(), "rule 1234 is the most expensive") {
		t.Errorf("%v", err)
	}
	for _, e := range engines {
		s, err := ruleset.New(rules, ruleset.Options{Engine: e})
		if err != nil {
			t.Fatal(err)
		}
		need := s.View().Bytes()
		if s, err = ruleset.New(rules, ruleset.Options{Engine: e, Memory: need}); err != nil || s.View().Bytes() > need {
			t.Errorf("%s: %d bytes were not enough for %d: %v", e, need, need, err)
		}
		if _, err = ruleset.New(rules, ruleset.Options{Engine: e, Memory: need - 1}); !errors.As(err, &refused) || refused.Rule != wide {
			t.Errorf("%s: %d bytes for %d: %v", e, need-1, need, err)
		}
	}
}

// TestRebuildGarbage: a rebuild takes less memory than a first build, since it knows
// how long its lists get: what it leaves is collected while writers wait.
func TestRebuildGarbage(t *testing.T) {
	rules := rulesettest.Generate(rulesettest.Dense, 4000, false, 1)
	taken := func(f func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	var s *ruleset.Set
	first := taken(func() {
		var err error
		if s, err = ruleset.New(rules, ruleset.Options{Engine: ruleset.Tables}); err != nil {
			t.Fatal(err)
		}
	})
	// As many as make one due.
	again := taken(func() {
		for i := range 32 {
			if err := errors.Join(s.Delete(rules[i].ID), s.Insert(rules[i])); err != nil {
				t.Fatal(err)
			}
		}
		s.Settle()
	})
	if 4*again > 3*first {
		t.Errorf("%d bytes, the first time %d", again, first)
	}
}

func TestRebuildRefused(t *testing.T) {
	rules := rulesettest.Generate(rulesettest.Firewall, 3000, false, 2)
	s, err := ruleset.New(rules[:200], ruleset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s, err = ruleset.New(rules[:200], ruleset.Options{Memory: s.View().Bytes()}); err != nil {
		t.Fatal(err)
	}
	var refused *ruleset.MemoryError
	for i := 200; i < len(rules); i++ {
		if err = s.Insert(rules[i]); errors.As(err, &refused) {
			check(t, s.View(), rules[:i], rulesettest.Headers(rules[:i], 200, 2))
			if err := s.Delete(0); err != nil {
				t.Error(err)
			}
			s.Settle()
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%64 == 0 {
			s.Settle()
		}
	}
	t.Error("no insert was refused")
}

func TestFaults(t *testing.T) {
	p := netip.MustParsePrefix
	for _, tc := range []struct {
		rules []ruleset.Rule
		want  string
	}{
		{[]ruleset.Rule{{ID: 1}, {ID: 1}}, "rule 1: another rule has this id"},
		{[]ruleset.Rule{{ID: ruleset.NoRule}}, "this id is reserved"},
		{[]ruleset.Rule{{ID: 1, SrcPorts: ruleset.Ports{Lo: 2, Hi: 1}}}, "rule 1: source ports 2-1"},
		{[]ruleset.Rule{{ID: 1, Src: p("10.0.0.0/8"), Dst: p("2001:db8::/32")}}, "rule 1: source 10.0.0.0/8 and destination 2001:db8::/32 are of different families"},
	} {
		if _, err := ruleset.New(tc.rules, ruleset.Options{}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %s", tc.rules, err, tc.want)
		}
	}
	if _, err := ruleset.New(nil, ruleset.Options{Engine: "trie"}); err == nil || !strings.Contains(err.Error(), `engine "trie"`) {
		t.Errorf("an engine that is none: %v", err)
	}
}

// TestChoice: the same rules always get the same engine, and it is not one
// engine for everything.
func TestChoice(t *testing.T) {
	chosen := map[ruleset.Engine]bool{}
	for _, kind := range rulesettest.Kinds {
		for _, n := range []int{30, 1500} {
			rules := rulesettest.Generate(kind, n, false, 1)
			var first ruleset.Engine
			for range 2 {
				s, err := ruleset.New(rules, ruleset.Options{})
				if err != nil {
					t.Fatal(err)
				}
				e, v6 := s.View().Engines()
				if v6 != "" {
					t.Errorf("IPv4 rules have an engine %q for IPv6", v6)
				}
				if first != "" && e != first {
					t.Errorf("%s, %d rules: %s, then %s", kind, n, first, e)
				}
				first = e
				chosen[e] = true
			}
		}
	}
	if len(chosen) < 2 {
		t.Errorf("only %v was ever chosen", chosen)
	}
}

// TestNoAllocs: lookups allocate nothing, with changes pending or not.
func TestNoAllocs(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		rules := rulesettest.Generate(rulesettest.Mixed, 500, v6, 1)
		headers := rulesettest.Headers(rules, 100, 1)
		for _, e := range engines {
			s, err := ruleset.New(rules[:480], ruleset.Options{Engine: e})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules[480:] {
				if err := s.Insert(r); err != nil {
					t.Fatal(err)
				}
			}
			if n := testing.AllocsPerRun(20, func() {
				v := s.View()
				for i := range headers {
					for m := v.First(&headers[i]); m.OK(); m = v.Next(&headers[i], m) {
					}
				}
			}); n != 0 {
				t.Errorf("%s, v6=%t: %v allocations", e, v6, n)
			}
		}
	}
}

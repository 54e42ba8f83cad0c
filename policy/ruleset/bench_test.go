package ruleset_test

import (
	"errors"
	"testing"

	"gatehouse/policy/ruleset"
	"gatehouse/policy/ruleset/rulesettest"
)

func BenchmarkLookup(b *testing.B) {
	for _, kind := range rulesettest.Kinds {
		rules := rulesettest.Generate(kind, 1000, false, 1)
		headers := rulesettest.Headers(rules, 1<<14, 7)
		for _, e := range engines {
			s, err := ruleset.New(rules, ruleset.Options{Engine: e})
			if err != nil {
				b.Fatal(err)
			}
			b.Run(string(kind)+"/"+string(e), func(b *testing.B) {
				found := 0
				for i := range b.N {
					if s.Lookup(&headers[i&(1<<14-1)]) != ruleset.NoRule {
						found++
					}
				}
				if b.N > 1000 && found == 0 {
					b.Error("no header found a rule")
				}
			})
		}
	}
}

// BenchmarkRebuild makes as many changes as two rebuilds fold in, and waits for
// them.
func BenchmarkRebuild(b *testing.B) {
	for _, set := range []struct {
		name  string
		kind  rulesettest.Kind
		count int
		v6    bool
	}{
		{"firewall", rulesettest.Firewall, 10_000, false},
		{"access-ipv6", rulesettest.Access, 10_000, true},
		{"dense", rulesettest.Dense, 20_000, false},
		{"dense-ipv6", rulesettest.Dense, 10_000, true},
	} {
		b.Run(set.name, func(b *testing.B) {
			rules := rulesettest.Generate(set.kind, set.count, set.v6, 1)
			s, err := ruleset.New(rules, ruleset.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, r := range rules[:64] {
					if err := errors.Join(s.Delete(r.ID), s.Insert(r)); err != nil {
						b.Fatal(err)
					}
				}
				s.Settle()
			}
		})
	}
}

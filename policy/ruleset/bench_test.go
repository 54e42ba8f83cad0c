package ruleset_test

import (
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

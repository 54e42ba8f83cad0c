package operator

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestOutsideEqualsReference compares the prefixes that a comparison means with a
// walk over all records for random addresses, in both families.
func TestOutsideEqualsReference(t *testing.T) {
	kinds := map[string]Kind{"risk": {Levels: []string{"low", "medium", "high"}}, "device": {}}
	r := rand.New(rand.NewPCG(rand.Uint64(), 1))
	address := func() netip.Addr {
		b := [16]byte{0xfd, 15: byte(r.IntN(256))}
		if r.IntN(2) == 0 {
			return netip.AddrFrom16(b)
		}
		return netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(2)), b[15]})
	}
	for range 300 {
		var said Records
		for range r.IntN(8) {
			a := address()
			p, _ := a.Prefix(a.BitLen() - r.IntN(10))
			rec := Record{CIDR: p, Set: map[string][]string{"risk": {kinds["risk"].Levels[r.IntN(3)]}}}
			if r.IntN(3) == 0 {
				rec.Set = map[string][]string{"device": {"printer"}}
			}
			said.Records = append(said.Records, rec)
		}
		c := NewCatalog(kinds, []Records{said})
		want := []Comparison{{Category: "risk", Tests: []Test{{Op: OpGte, Values: []string{"medium"}}}, Unknown: r.IntN(2) == 0}}
		if r.IntN(3) == 0 {
			want = append(want, Comparison{Category: "device", Tests: []Test{{Op: OpEq, Values: []string{"printer"}}}})
		}
		loosens := !want[0].Unknown && r.IntN(2) == 0
		prefixes := c.outside(want, loosens)
		for range 60 {
			a := address()
			held := 0
			for _, p := range prefixes {
				if p.Contains(a) {
					held++
				}
			}
			if is := slowly(said.Records, want, a, loosens); held > 1 || (held == 1) != is {
				t.Fatalf("%s is in %d of %v; want %t by %v of %v", a, held, prefixes, is, want, said.Records)
			}
		}
	}
}

// slowly says of one address whether it passes all comparisons.
func slowly(records []Record, want []Comparison, a netip.Addr, loosens bool) bool {
	level := map[string]int{"low": 0, "medium": 1, "high": 2}
	for _, w := range want {
		longest := -1
		for _, r := range records {
			if _, says := r.Set[w.Category]; says && r.CIDR.Contains(a) {
				longest = max(longest, r.CIDR.Bits())
			}
		}
		all, some := true, false
		for _, r := range records {
			if v, says := r.Set[w.Category]; says && r.CIDR.Contains(a) && r.CIDR.Bits() == longest {
				fits := w.Category == "device" && v[0] == "printer" || w.Category == "risk" && level[v[0]] >= 1
				all, some = all && fits, some || fits
			}
		}
		passes := some
		switch {
		case longest < 0:
			passes = w.Unknown
		case loosens:
			passes = all
		}
		if !passes {
			return false
		}
	}
	return true
}

package bench

import (
	"strconv"
	"testing"
)

// BenchmarkChanges makes the changes of each row one after the other, without the rest
// that the loop takes between publications: of what a change costs, that is what
// the processor does. A third of `bench changes`, which finds cold caches.
func BenchmarkChanges(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		w, err := newChangingWorld(n, &changingPolicies[0])
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(w.close)
		change := func(b *testing.B) (whole bool) {
			if err := w.control.Refresh(); err != nil {
				b.Fatal(err)
			}
			return (<-w.published).whole
		}
		change(b)
		for i := range changeKinds {
			k := &changeKinds[i]
			b.Run(k.variant+"/"+strconv.Itoa(n), func(b *testing.B) {
				b.ReportAllocs()
				wholes := 0
				for made := 0; made < b.N; {
					for _, step := range k.steps(w) {
						step.change()
						if w.fault != nil {
							b.Fatal(w.fault)
						}
						if !step.measured {
							b.StopTimer()
						}
						whole := change(b)
						b.StartTimer()
						if step.measured {
							made++
							if whole {
								wholes++
							}
						}
					}
				}
				b.ReportMetric(float64(wholes)/float64(b.N), "whole/op")
			})
		}
	}
}

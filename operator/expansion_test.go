package operator

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gatehouse/models"
	"gatehouse/policy"
)

// TestPartedStatementsFollowWhoComes: as services come and go, a statement whose terms
// reach less than everywhere is what it is expanded to anew, and so is the list of
// statements after the edits.
func TestPartedStatementsFollowWhoComes(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for _, c := range []struct{ from, to string }{
		{"{peer: siblings}", "{peer: workload}"},
		{"{peer: workload, within: shared}", "{role: cache, within: shared}"},
		{"{peer: workload, within: project}", "{role: database}"},
		{"{peer: workload}", "{model: nginx, within: shared}"},
		{"{peer: workload, within: shared}", "{peer: workload, within: project}"},
		{"{peer: workload}", "{peer: self}"},
		{"{service: shop/web}, {service: shop/web, within: project}", "{role: cache}, {role: cache, within: project}"},
		{"{service: shop/web}", "{role: cache}"},
	} {
		snap := town()
		for i := range 12 { // some of a kin, some on both networks
			x := snap.Workloads[r.IntN(6)]
			x.ID, x.Service.Name = fmt.Sprint("more", i), fmt.Sprint(x.Service.Name, i)
			x.Endpoints = slices.Clone(x.Endpoints)
			if i%3 == 0 {
				other := snap.Workloads[r.IntN(6)].Endpoints[0]
				x.Endpoints = append(x.Endpoints, other)
			}
			snap.Workloads = append(snap.Workloads, x)
		}
		text := strings.Replace(strings.Replace(allowing(""), "{service: shop/web}", c.from, 1), "{peer: internet}", c.to, 1)
		w := newWorld(t, snap, text, "")
		e := w.NewExpansion(w.pop, w.catalog, Moment{})
		list := e.Statements()
		absent := make([]bool, len(snap.Workloads))
		for step := range 150 {
			i := r.IntN(len(absent))
			change := models.Transition{Before: &snap.Workloads[i]}
			if absent[i] {
				change = models.Transition{After: &snap.Workloads[i]}
			}
			pop, d, ok := w.pop.Next([]models.Transition{change})
			if !ok {
				continue
			}
			absent[i], w.pop = !absent[i], pop
			var edits []Edit
			if e, edits, ok = e.Next(pop, w.catalog, Moment{}, d.Were, d.Are); !ok {
				t.Fatal("it is the newest")
			}
			for _, edit := range slices.Backward(edits) {
				list = slices.Replace(slices.Clone(list), edit.At, edit.At+edit.Removed, edit.Added...)
			}
			want := w.NewExpansion(pop, w.catalog, Moment{}).Statements()
			for name, got := range map[string][]policy.Statement{"expansion": e.Statements(), "list": list} {
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, %s -> %s, step %d, %v: %s\n got %v\nwant %v", seed, c.from, c.to, step, change, name, got, want)
				}
			}
		}
	}
}

package inventory

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gatehouse/policy"
)

func changed(v *Inventory) bool {
	select {
	case <-v.Changed():
		return true
	default:
		return false
	}
}

func ids(s *policy.Snapshot) (out []string) {
	for _, w := range s.Workloads {
		out = append(out, w.ID)
	}
	return out
}

func TestChanged(t *testing.T) {
	w := func(id, name string) policy.Workload { return policy.Workload{ID: id, Name: name} }
	for _, c := range []struct {
		name string
		do   func(*Inventory)
		want bool
		ids  []string
	}{
		{"new workload", func(v *Inventory) { v.Put(w("a", "x")) }, true, []string{"a", "b"}},
		{"the same again", func(v *Inventory) { v.Put(w("b", "db")) }, false, []string{"b"}},
		{"another value", func(v *Inventory) { v.Put(w("b", "web")) }, true, []string{"b"}},
		{"a burst", func(v *Inventory) { v.Put(w("c", "")); v.Put(w("a", "")); v.Delete("b") }, true, []string{"a", "c"}},
		{"delete what is not there", func(v *Inventory) { v.Delete("z"); v.DeleteNetwork("z") }, false, []string{"b"}},
		{"network", func(v *Inventory) { v.PutNetwork(policy.Network{ID: "n"}) }, true, []string{"b"}},
		{"host", func(v *Inventory) { v.PutHost(policy.Host{Name: "n1"}) }, true, []string{"b"}},
		{"the same host", func(v *Inventory) { v.PutHost(policy.Host{}) }, false, []string{"b"}},
		{"replace by the same", func(v *Inventory) { v.Replace(&policy.Snapshot{Workloads: []policy.Workload{w("b", "db")}}) }, false, []string{"b"}},
		{"replace by nothing", func(v *Inventory) { v.Replace(&policy.Snapshot{}) }, true, nil},
		{"replace, unsorted, twice the same id", func(v *Inventory) {
			v.Replace(&policy.Snapshot{Workloads: []policy.Workload{w("d", "1"), w("a", ""), w("d", "2")}})
		}, true, []string{"a", "d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := New()
			v.Put(w("b", "db"))
			before := v.Snapshot()
			changed(v)
			c.do(v)
			if got := changed(v); got != c.want {
				t.Errorf("changed: %v, want %v", got, c.want)
			}
			if changed(v) {
				t.Error("a burst was told twice")
			}
			if got := ids(v.Snapshot()); !slices.Equal(got, c.ids) {
				t.Errorf("ids: %v, want %v", got, c.ids)
			}
			if !c.want && v.Snapshot() != before {
				t.Error("nothing changed, but the snapshot is another")
			}
			if got := ids(before); !slices.Equal(got, []string{"b"}) || before.Workloads[0].Name != "db" {
				t.Errorf("an old snapshot changed: %v", before.Workloads)
			}
		})
	}
}

// TestAgainstMap compares with the obvious version: a map, sorted when asked.
func TestAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	v, want := New(), map[string]policy.Workload{}
	type kept struct {
		snap *policy.Snapshot
		ids  []string
	}
	var old []kept
	for range 2000 {
		id := fmt.Sprint(r.IntN(50))
		switch r.IntN(4) {
		case 0:
			v.Delete(id)
			delete(want, id)
		case 1:
			s := v.Snapshot()
			old = append(old, kept{s, ids(s)})
		default:
			w := policy.Workload{ID: id, Name: fmt.Sprint(r.IntN(3))}
			v.Put(w)
			want[id] = w
		}
	}
	var list []policy.Workload
	for _, w := range want {
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b policy.Workload) int { return cmpString(a.ID, b.ID) })
	if d := cmp.Diff(list, v.Snapshot().Workloads, cmpopts.EquateEmpty(), cmpopts.EquateComparable()); d != "" {
		t.Error(d)
	}
	for _, k := range old {
		if !slices.Equal(k.ids, ids(k.snap)) {
			t.Fatal("a snapshot changed after it was taken")
		}
	}
}

func cmpString(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

func TestConcurrentUse(t *testing.T) {
	v := New()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				id := fmt.Sprint(g, i%10)
				v.Put(policy.Workload{ID: id, Name: fmt.Sprint(i)})
				v.PutNetwork(policy.Network{ID: id})
				v.Snapshot()
				if i%3 == 0 {
					v.Delete(id)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for {
		select {
		case <-v.Changed():
			s := v.Snapshot()
			if !slices.IsSortedFunc(s.Workloads, func(a, b policy.Workload) int { return cmpString(a.ID, b.ID) }) {
				t.Error("not sorted")
			}
		case <-done:
			return
		}
	}
}

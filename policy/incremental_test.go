package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// step is a random start or stop: the input after it, and what changed. ok is
// false where there is nobody to stop.
func (w world) step(in Input, id int) (Input, Change, bool) {
	snap := *in.Snapshot
	snap.Workloads, in.Groups = slices.Clone(snap.Workloads), slices.Clone(in.Groups)
	in.Snapshot, in.Epoch = &snap, in.Epoch+1
	g := &in.Groups[w.IntN(len(in.Groups))]
	g.Members = slices.Clone(g.Members)
	if w.chance(50) {
		if len(g.Members) == 0 || len(snap.Workloads) < 2 {
			return in, Change{}, false
		}
		at := w.IntN(len(g.Members))
		i := slices.IndexFunc(snap.Workloads, func(x Workload) bool { return x.ID == g.Members[at] })
		gone := snap.Workloads[i]
		snap.Workloads, g.Members = slices.Delete(snap.Workloads, i, i+1), slices.Delete(g.Members, at, at+1)
		return in, Change{Workload: &gone, Group: g.Identity, Gone: true, Beside: w.other(&snap, g, gone.ID)}, true
	}
	came := w.workload(fmt.Sprint("w", id), snap.Networks)
	if w.chance(70) { // as most are
		came.DNS = nil
		if w.chance(50) {
			came.VIPs, came.Published, came.Uncovered, came.SharedWith = nil, nil, "", ""
		}
		for i := range came.Endpoints {
			came.Endpoints[i].MAC[4] = byte(id)
			for j, a := range came.Endpoints[i].Addresses {
				b := a.As16()
				b[15] += byte(id)
				came.Endpoints[i].Addresses[j] = netip.AddrFrom16(b).Unmap()
			}
		}
	}
	beside := w.other(&snap, g, came.ID)
	if beside != nil && w.chance(50) {
		came.VIPs, came.Published = beside.VIPs, beside.Published
	}
	snap.Workloads = append(snap.Workloads, came)
	slices.SortFunc(snap.Workloads, func(a, b Workload) int { return strings.Compare(a.ID, b.ID) })
	g.Members = append(g.Members, came.ID)
	return in, Change{Workload: &came, Group: g.Identity, Beside: beside}, true
}

// other is a member of a group that is not id, nil if there is none.
func (w world) other(s *Snapshot, g *Group, id string) *Workload {
	var others []*Workload
	for i := range s.Workloads {
		if x := s.Workloads[i]; x.ID != id && x.SharedWith == "" && slices.Contains(g.Members, x.ID) {
			others = append(others, &x)
		}
	}
	if len(others) == 0 {
		return nil
	}
	return others[w.IntN(len(others))]
}

// TestWithEqualsReference: whatever sequence of starts and stops a table has come
// through, it says what the specification says of what there is now, and its
// former self what it said before.
func TestWithEqualsReference(t *testing.T) {
	seed := rand.Uint64()
	spoken := everySpoken(worldApps)
	steps, taken, odd := 0, map[bool]int{}, standing{} // without Compile: stops and starts, and of whom
	isRich := func() bool { return min(taken[false], taken[true]) >= max(1, steps/20) && odd.least() >= rounds(20) }
	for n := 0; n < rounds(120) || n < patience*rounds(120) && !isRich(); n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		in := w.balancedInput()
		if w.chance(50) {
			in.Statements = slices.DeleteFunc(in.Statements, namesPrefix)
		}
		table, err := Compile(in)
		if err != nil {
			t.Fatalf("seed %d world %d: %v", seed, n, err)
		}
		for id := range 12 {
			after, change, ok := w.step(in, 20+id)
			if !ok {
				continue
			}
			steps++
			before := table
			next, ok := table.With(&Update{Epoch: after.Epoch, Snapshot: func() *Snapshot { return after.Snapshot }, Groups: after.Groups, Statements: Pointers(after.Statements), Changes: []Change{change}})
			if ok {
				taken[change.Gone]++
				table = next
				odd.count(change.Workload)
			} else if table, err = Compile(after); err != nil {
				t.Fatalf("seed %d world %d: %v", seed, n, err)
			}
			for range 6 {
				compareQuery(t, before, &oracle{in}, w.query(in.Snapshot), spoken, map[Verdict]int{}, map[Identity]int{})
				compareQuery(t, table, &oracle{after}, w.query(after.Snapshot), spoken, map[Verdict]int{}, map[Identity]int{})
			}
			if t.Failed() {
				t.Fatalf("seed %d world %d step %d: %+v, shared %v", seed, n, id, change, ok)
			}
			if table.Epoch() != after.Epoch || table.snapshot() != after.Snapshot {
				t.Fatal("the table is of another epoch or snapshot")
			}
			in = after
		}
	}
	if !isRich() {
		t.Errorf("of %d steps %d starts and %d stops were taken without Compile, of %+v: the worlds are too odd", steps, taken[false], taken[true], odd)
	}
	t.Logf("%d steps, without Compile %v, of them %+v", steps, taken, odd)
}

// standing counts workloads that have more than addresses of their own, or none.
type standing struct{ vips, published, host, shared int }

func (s *standing) count(w *Workload) {
	for has, n := range map[*int]bool{&s.vips: len(w.VIPs) > 0, &s.published: len(w.Published) > 0, &s.host: w.isHostNetwork() && len(w.Exposed) > 0, &s.shared: w.SharedWith != ""} {
		if n {
			*has++
		}
	}
}

// least is of how many there are of the kind of which there are the fewest.
func (s *standing) least() int { return min(s.vips, s.published, s.host, s.shared) }

// balancedInput is an input that mostly has a network with virtual addresses.
func (w world) balancedInput() Input {
	in := w.input()
	n := &in.Snapshot.Networks[0]
	if w.chance(30) || n.Driver == "overlay" {
		return in
	}
	n.Driver, n.NetNS, n.LB = "overlay", "/ns", []netip.Addr{w.addrIn(n.Subnets[0])}
	for i := range in.Snapshot.Workloads {
		if x := &in.Snapshot.Workloads[i]; w.chance(30) {
			x.VIPs = map[string][]netip.Addr{n.ID: {w.addrIn(n.Subnets[0])}}
		}
	}
	return in
}

func namesPrefix(s Statement) bool {
	isPrefix := func(p Peer) bool { return p.Kind == PeerCIDR || p.Kind == PeerSelector }
	return slices.ContainsFunc(s.From, isPrefix) || slices.ContainsFunc(s.To, isPrefix) ||
		slices.ContainsFunc(s.Except, func(e Exception) bool {
			return slices.ContainsFunc(e.From, isPrefix) || slices.ContainsFunc(e.To, isPrefix)
		})
}

// TestAddrIndex: every step of a random sequence leaves an index as a plain map
// has it, and those before it as they were.
func TestAddrIndex(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	key := func() addrKey { return addrKey{uint32(rnd.IntN(3)), address{0, mappedLo | uint64(rnd.IntN(300))}} }
	plain := map[addrKey]uint32{}
	for range 100 {
		plain[key()] = 1 + rnd.Uint32N(1<<32-1)
	}
	table := newAddrIndex(plain)
	holds := func(table *addrIndex, plain map[addrKey]uint32) {
		t.Helper()
		for scope := range uint32(3) {
			for a := range uint64(300) {
				k := addrKey{scope, address{0, mappedLo | a}}
				if got := table.get(k.scope, k.address); got != plain[k] {
					t.Fatalf("%v: %d, want %d", k, got, plain[k])
				}
			}
		}
	}
	first, was := table, map[addrKey]uint32{}
	for k, v := range plain {
		was[k] = v
	}
	for step := range 3000 {
		k, v := key(), 1+rnd.Uint32N(1<<32-1)
		if rnd.IntN(2) == 0 {
			delete(plain, k)
			table = table.with(k, 0)
		} else {
			plain[k] = v
			table = table.with(k, v)
		}
		if step%50 == 0 {
			holds(&table, plain)
		}
	}
	holds(&first, was)
}

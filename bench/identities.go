package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"gatehouse/policy"
)

const (
	goMaps       = "Go maps"
	startVariant = ours + ": one container's start or stop, table to table"
)

// identityWorld is workloads, one address each, of services that call each
// other.
type identityWorld struct {
	in    policy.Input
	pairs []identityPair
}

// identityPair is a statement as the Go maps have it.
type identityPair struct {
	from, to uint32
	port     uint16
}

func newIdentityWorld(workloads, services, statements int) identityWorld {
	rnd := rand.New(rand.NewPCG(uint64(workloads), 1))
	snap := &policy.Snapshot{Networks: []policy.Network{{ID: "n", Zone: 1, Driver: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}}
	w := identityWorld{in: policy.Input{Epoch: 1, Snapshot: snap}}
	for i := range services {
		w.in.Groups = append(w.in.Groups, policy.Group{Identity: policy.FirstWorkloadIdentity + policy.Identity(i), Service: serviceNumber(i), Guarded: true})
	}
	for i := range workloads {
		x := workloadNumber(i)
		snap.Workloads = append(snap.Workloads, x)
		g := &w.in.Groups[i%services]
		g.Members = append(g.Members, x.ID)
	}
	for i := range statements {
		p := identityPair{uint32(rnd.IntN(services)), uint32(rnd.IntN(services)), uint16(1 + rnd.IntN(60_000))}
		w.pairs = append(w.pairs, p)
		w.in.Statements = append(w.in.Statements, policy.Statement{ID: fmt.Sprint("s", i), Verdict: policy.Allow,
			From: []policy.Peer{policy.ServicePeer(serviceNumber(int(p.from)))}, To: []policy.Peer{policy.ServicePeer(serviceNumber(int(p.to)))},
			App: policy.AppMatch{Any: true}, Ports: []policy.PortRange{policy.Port(policy.ProtoTCP, p.port)}})
	}
	return w
}

func serviceNumber(i int) policy.ServiceKey {
	return policy.ServiceKey{Project: policy.ProjectKey{Name: "p"}, Name: fmt.Sprint("s", i)}
}

func workloadNumber(i int) policy.Workload {
	return policy.Workload{ID: fmt.Sprintf("w%08d", i), Endpoints: []policy.Endpoint{{Network: "n", Addresses: []netip.Addr{workloadAddr(i)}}}}
}

func workloadAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// queries are flows between workloads, half of them such as a statement allows.
func (w *identityWorld) queries(n int) []policy.Query {
	rnd := rand.New(rand.NewPCG(3, uint64(n)))
	workloads, services := len(w.in.Snapshot.Workloads), len(w.in.Groups)
	of := func(service int) int { return service + services*rnd.IntN(max(1, workloads/services)) }
	out := make([]policy.Query, n)
	for i := range out {
		p := w.pairs[rnd.IntN(len(w.pairs))]
		src, dst := of(int(p.from)), of(int(p.to))
		if rnd.IntN(2) == 0 {
			src = rnd.IntN(workloads)
		}
		out[i] = policy.Query{Zone: 1, Src: workloadAddr(src).As16(), Dst: workloadAddr(dst).As16(), Proto: policy.ProtoTCP, DstPort: p.port}
	}
	return out
}

// goMapTable is a verdict out of Go maps, as one would write it first.
type goMapTable struct {
	identity map[netip.Addr]uint32
	allowed  map[identityPair]bool
}

func newGoMapTable(w *identityWorld) *goMapTable {
	m := &goMapTable{make(map[netip.Addr]uint32, len(w.in.Snapshot.Workloads)), make(map[identityPair]bool, len(w.pairs))}
	for i := range w.in.Snapshot.Workloads {
		m.identity[workloadAddr(i)] = uint32(i % len(w.in.Groups))
	}
	for _, p := range w.pairs {
		m.allowed[p] = true
	}
	return m
}

func (m *goMapTable) allows(q *policy.Query) bool {
	from, ok := m.identity[netip.AddrFrom16(q.Src).Unmap()]
	if !ok {
		return false
	}
	to, ok := m.identity[netip.AddrFrom16(q.Dst).Unmap()]
	return ok && m.allowed[identityPair{from, to, q.DstPort}]
}

// identities adds to c the verdict between workloads, and one's start and stop,
// at each size.
func identities(ctx context.Context, c *Comparison, sizes []int, progress io.Writer) error {
	for _, n := range sizes {
		if n < 1000 || n > 4_000_000 {
			return fmt.Errorf("workloads: %d is not between 1,000 and 4,000,000", n)
		}
		w := newIdentityWorld(n, 500, 5000)
		begin := time.Now()
		before := heap()
		table, err := policy.Compile(w.in)
		if err != nil {
			return err
		}
		took := time.Since(begin)
		size := float64(heap() - before)
		peer := newGoMapTable(&w)
		queries := w.queries(1 << 18)
		for i := range queries {
			if got, want := table.Lookup(queries[i]).Verdict() == policy.Allow, peer.allows(&queries[i]); got != want {
				return fmt.Errorf("query %d of %d workloads: allowed %v, the maps say %v", i, n, got, want)
			}
		}
		allowed := 0
		count := func(allows func(*policy.Query) bool) func() (float64, error) {
			return func() (float64, error) {
				return perOp(len(queries), func() {
					for i := range queries {
						if allows(&queries[i]) {
							allowed++
						}
					}
				}), nil
			}
		}
		if err := c.measure(ctx, fmt.Sprintf("%d workloads, 500 services, 5000 statements", n), "", n, []contender{
			{name: goMaps, unit: "ns a verdict", run: count(peer.allows)},
			{name: ours, unit: "ns a verdict", run: count(func(q *policy.Query) bool { return table.Lookup(*q).Verdict() == policy.Allow })},
		}, progress); err != nil {
			return err
		}
		last := &c.Cases[len(c.Cases)-1]
		moves, err := w.starts(table)
		if err != nil {
			return err
		}
		one := func(name, unit string, v float64) Result {
			return Result{Variant: name, Unit: unit, Min: v, Median: v, Max: v}
		}
		last.Results = append(last.Results,
			latencies(startVariant, moves),
			one(ours+": full compile", "ms", float64(took.Microseconds())/1000),
			one(ours+": memory of the table", "bytes a workload", size/float64(n)))
		last.compare(goMaps)
	}
	return nil
}

// starts stops and starts random workloads, and returns the sorted times in
// microseconds.
func (w *identityWorld) starts(t *policy.Table) ([]float64, error) {
	rnd := rand.New(rand.NewPCG(5, 5))
	now := func() *policy.Snapshot { return w.in.Snapshot }
	statements := policy.Pointers(w.in.Statements)
	var took []float64
	for range 5000 {
		i := rnd.IntN(len(w.in.Snapshot.Workloads))
		x := workloadNumber(i)
		for _, gone := range []bool{true, false} {
			begin := time.Now()
			next, ok := t.With(&policy.Update{Epoch: t.Epoch() + 1, Snapshot: now, Groups: w.in.Groups, Statements: statements,
				Changes: []policy.Change{{Workload: &x, Group: w.in.Groups[i%len(w.in.Groups)].Identity, Gone: gone}}})
			took = append(took, float64(time.Since(begin).Nanoseconds())/1000)
			if !ok {
				return nil, errors.New("a plain start or stop was not taken")
			}
			t = next
		}
	}
	slices.Sort(took)
	return took, nil
}

// statementMemory adds what a statement and a rule take: the same workloads with
// few and with many statements.
func statementMemory(c *Comparison) error {
	few, many := newIdentityWorld(1000, 500, 1000), newIdentityWorld(1000, 500, 11_000)
	sizes := [2]float64{}
	rules := [2]int{}
	for i, w := range []identityWorld{few, many} {
		before := heap()
		table, err := policy.Compile(w.in)
		if err != nil {
			return err
		}
		sizes[i], rules[i] = float64(heap()-before), len(table.Rules())
	}
	c.Notes = append(c.Notes, fmt.Sprintf("A statement of one service to another and one port takes %.0f bytes of the compiled table beside itself (10,000 more of them, %d more rules).", (sizes[1]-sizes[0])/10_000, rules[1]-rules[0]))
	return nil
}

package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"unsafe"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"gatehouse/classify"
	"gatehouse/policy"
)

// TableConfig says what Table measures.
type TableConfig struct {
	Rounds int
	Flows  []int // sizes; none = 1,000, 100,000 and 1,000,000
	// Workloads are the sizes of the identity table; none = 10,000, 100,000 and
	// 1,000,000.
	Workloads []int
	Progress  io.Writer
}

const (
	lruPeer = "golang-lru (simplelru)"
	mapPeer = "Go map"

	batched     = ", 64 keys a call"
	oursBatched = ours + batched

	// floorPeer is no table, but the wait that none can do without.
	floorPeer = "one load for each, where the key alone says"
)

// flowPeer is something that finds flows by key.
type flowPeer struct {
	name string
	find func(*classify.FlowKey) bool
	// findAll counts those that are there; nil = it has no such call.
	findAll func([]classify.FlowKey) int
	add     func(*classify.FlowKey)
	remove  func(*classify.FlowKey)
}

// Table measures the flow table beside golang-lru and a Go map, and the policy
// table's verdict between workloads beside Go maps.
func Table(ctx context.Context, cfg TableConfig) (*Comparison, error) {
	c := newComparison("Tables", lruPeer, cfg.Rounds)
	c.Notes = append(c.Notes, "Keys of 40 bytes, looked up in random order; what is found is read. Misses are of keys that were never there. A turnover removes one flow and adds another. Memory by key and index is what finds a flow; the heap is everything that was allocated for it, ours with the whole flow (counters, TCP state, verdict), the peers' with an 8-byte pointer in its place.")
	c.Notes = append(c.Notes, "A hit by itself waits twice, for its bucket's cache line and then for its flow's; of a million flows both are in memory, and all that a loop of single lookups can do is to begin the next one meanwhile. Those of one call wait together. One load for each reads a byte of as many records of a flow's size, each at a place that its key alone gives: no index, no comparison, a hash of one multiplication, and in huge pages as our table is. It is the least that any table of so many flows waits for.")
	if len(cfg.Flows) == 0 {
		cfg.Flows = []int{1000, 100_000, 1_000_000}
	}
	for _, n := range cfg.Flows {
		if n < 1 || n > 1<<24 {
			return nil, fmt.Errorf("flows: %d is not between 1 and %d", n, 1<<24)
		}
		if err := measureFlows(ctx, c, n, cfg.Progress); err != nil {
			return nil, err
		}
	}
	if len(cfg.Workloads) == 0 {
		cfg.Workloads = []int{10_000, 100_000, 1_000_000}
	}
	if err := identities(ctx, c, cfg.Workloads, cfg.Progress); err != nil {
		return nil, err
	}
	c.Notes = append(c.Notes, "Verdicts between workloads have their ratio to Go maps: two lookups of an address, one of both identities and the port.")
	c.Notes = append(c.Notes, "Tables with statements of prefixes have 10,000 workloads and their ratio to one that has none; the flows are of a workload with an address of a generated rule or beside it, 16,384 of them in random order, each in a place of its own.")
	if err := statementMemory(c); err != nil {
		return nil, err
	}
	if err := compiles(ctx, c, cfg.Progress); err != nil {
		return nil, err
	}
	return c, prefixes(ctx, c, cfg.Progress)
}

func flowKey(n uint64) (k classify.FlowKey) {
	k.AddrA = [16]byte{10: 0xff, 11: 0xff, 12: 10}
	k.AddrB = k.AddrA
	binary.BigEndian.PutUint16(k.AddrA[14:], uint16(n>>4))
	binary.BigEndian.PutUint16(k.AddrB[14:], uint16(n>>20)+0x8000)
	k.PortA, k.PortB, k.Proto = uint16(n*7919), 443, policy.ProtoTCP
	return k
}

func measureFlows(ctx context.Context, c *Comparison, n int, progress io.Writer) error {
	present, absent := make([]classify.FlowKey, n), make([]classify.FlowKey, n)
	for i := range n {
		present[i], absent[i] = flowKey(uint64(i)), flowKey(uint64(n+i))
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { present[i], present[j] = present[j], present[i] })
	var contenders []contender
	var memory []Result
	for _, make := range []func(int) (flowPeer, float64, error){newLRU, newFlowMap, newFlows} {
		before := heap()
		p, keyed, err := make(n)
		if err != nil {
			return err
		}
		for i := range present {
			p.add(&present[i])
		}
		all := float64(heap()-before) / float64(n)
		if keyed == 0 {
			keyed = all
		}
		memory = append(memory, Result{Variant: p.name, Unit: "bytes a flow, key and index", Min: keyed, Median: keyed, Max: keyed},
			Result{Variant: p.name, Unit: "bytes a flow, heap", Min: all, Median: all, Max: all})
		contenders = append(contenders, p.contenders(present, absent)...)
	}
	// Not in the order in which they were added, which is that of the memory.
	rand.New(rand.NewPCG(2, 2)).Shuffle(n, func(i, j int) { present[i], present[j] = present[j], present[i] })
	contenders = append(contenders, newFloor(present))
	if err := c.measure(ctx, fmt.Sprintf("%d flows", n), "", n, contenders, progress); err != nil {
		return err
	}
	last := &c.Cases[len(c.Cases)-1]
	last.Results = append(last.Results, memory...)
	last.compare(c.Baseline)
	return nil
}

type flowRecord [unsafe.Sizeof(classify.Flow{})]byte

// newFloor reads, for every key, of a record that a multiplication of the key
// chooses.
func newFloor(keys []classify.FlowKey) contender {
	records := make([]flowRecord, len(keys))
	policy.WantHugePages(records)
	for i := range records {
		records[i][0] = 1
	}
	read := 0
	return contender{name: floorPeer, unit: "ns a hit", run: func() (float64, error) {
		return perOp(len(keys), func() {
			for i := range keys {
				k := &keys[i]
				h := (binary.LittleEndian.Uint64(k.AddrA[8:]) ^ binary.BigEndian.Uint64(k.AddrB[8:]) ^ uint64(k.PortA)<<40) * 0x9e3779b97f4a7c15
				at, _ := bits.Mul64(h, uint64(len(records)))
				read += int(records[at][0])
			}
		}), nil
	}}
}

func (p *flowPeer) contenders(present, absent []classify.FlowKey) []contender {
	look := func(keys []classify.FlowKey, want bool) func() (float64, error) {
		return func() (float64, error) {
			wrong := 0
			ns := perOp(len(keys), func() {
				for i := range keys {
					if p.find(&keys[i]) != want {
						wrong++
					}
				}
			})
			if wrong > 0 {
				return 0, fmt.Errorf("%d keys were found wrongly", wrong)
			}
			return ns, nil
		}
	}
	turn := 0
	out := []contender{
		{name: p.name, unit: "ns a hit", run: look(present, true)},
		{name: p.name, unit: "ns a miss", run: look(absent, false)},
		{name: p.name, unit: "ns a turnover", run: func() (float64, error) {
			n := min(len(present), 10_000)
			return perOp(n, func() {
				for range n {
					k := &present[turn%len(present)]
					turn++
					p.remove(k)
					p.add(k)
				}
			}), nil
		}},
	}
	if p.findAll == nil {
		return out
	}
	return append(out, contender{name: p.name + batched, unit: "ns a hit", run: func() (float64, error) {
		found, asked := 0, 0
		ns := perOp(len(present), func() {
			for at := 0; at < len(present); at += 64 {
				found += p.findAll(present[at:min(at+64, len(present))])
			}
			asked += len(present)
		})
		if found != asked {
			return 0, fmt.Errorf("%d of %d keys were found", found, asked)
		}
		return ns, nil
	}})
}

// heap is the bytes of live objects.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func newLRU(n int) (flowPeer, float64, error) {
	cache, err := simplelru.NewLRU[classify.FlowKey, *uint64](n, nil)
	if err != nil {
		return flowPeer{}, 0, err
	}
	value := new(uint64)
	return flowPeer{
		name:   lruPeer,
		find:   func(k *classify.FlowKey) bool { v, ok := cache.Get(*k); return ok && *v == 0 },
		add:    func(k *classify.FlowKey) { cache.Add(*k, value) },
		remove: func(k *classify.FlowKey) { cache.Remove(*k) },
	}, 0, nil
}

func newFlowMap(n int) (flowPeer, float64, error) {
	m := make(map[classify.FlowKey]*uint64, n)
	value := new(uint64)
	return flowPeer{
		name:   mapPeer,
		find:   func(k *classify.FlowKey) bool { v := m[*k]; return v != nil && *v == 0 },
		add:    func(k *classify.FlowKey) { m[*k] = value },
		remove: func(k *classify.FlowKey) { delete(m, *k) },
	}, 0, nil
}

func newFlows(n int) (flowPeer, float64, error) {
	table, err := policy.Compile(policy.Input{Snapshot: &policy.Snapshot{}})
	if err != nil {
		return flowPeer{}, 0, err
	}
	c := classify.New(classify.Config{Flows: n, PerEndpoint: n, Undecided: 1})
	c.SetTable(table)
	index, _ := c.Memory()
	found := make([]*classify.Flow, 64)
	return flowPeer{
		name: ours,
		find: func(k *classify.FlowKey) bool { f := c.Find(*k); return f != nil && f.State != classify.Free },
		findAll: func(keys []classify.FlowKey) (hits int) {
			c.FindAll(keys, found)
			for _, f := range found[:len(keys)] {
				if f != nil && f.State != classify.Free {
					hits++
				}
			}
			return hits
		},
		add:    func(k *classify.FlowKey) { c.Adopt(classify.Entry{Key: *k, Verdict: policy.Allow}, 1) },
		remove: func(k *classify.FlowKey) { c.Retire(*k) },
	}, float64(index)/float64(n) + 40, nil
}

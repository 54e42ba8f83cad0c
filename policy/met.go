package policy

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// Pairs of variants are as many as the regions of both sides multiplied: 10,000
// statements from prefixes to prefixes make tens of millions, of which flows meet
// few. Where they are more than Input.PairsAhead, none is laid when the table is
// compiled: the rules of a pair at a port are found when a flow first meets it,
// and what they come to stands from then on, for all ports at which the same
// rules apply. Only those wait who meet something new at the same moment.

const (
	pairsAhead = 1 << 16
	// metMax bounds the spans that stand, some 200 bytes each; when they are as
	// many, all are forgotten, and laid again as they are met.
	metMax = 1 << 18
)

// metPairs are the pairs that flows have met. Tables that differ in what With
// changes share them.
type metPairs struct {
	first    uint32 // the lowest number of a variant
	compiler *compiler
	seed     hashSeed
	slots    atomic.Pointer[metSlots]

	most  int        // spans that stand
	mu    sync.Mutex // held by whoever lays a span
	pairs int
	count int // of spans
}

// metSlots is a power of two of slots, at most half full: a pair stands at its
// hash or behind it.
type metSlots []atomic.Pointer[metPair]

// metPair is replaced by one with more spans.
type metPair struct {
	key   pairKey
	spans []span // sorted and disjoint; ports between them are not laid
}

// metPairs returns nil where all pairs are laid ahead.
func (c *compiler) metPairs() *metPairs {
	if c.regions == nil || c.countPairs() <= cmp.Or(c.in.PairsAhead, pairsAhead) {
		return nil
	}
	m := &metPairs{first: uint32(FirstWorkloadIdentity) + uint32(len(c.table.groups)), compiler: c, seed: newHashSeed(), most: metMax}
	m.forget()
	return m
}

// multitude is how many peers an end of rules means.
type multitude struct{ all, guarded, plain int } // plain: without their variants

func (m *multitude) add(o multitude) {
	m.all, m.guarded, m.plain = m.all+o.all, m.guarded+o.guarded, m.plain+o.plain
}

// countPairs is at least how many pairs of variants rules name and somebody
// guards.
func (c *compiler) countPairs() int {
	sizes := make(map[uint32]multitude)
	size := func(end uint32) multitude {
		if m, ok := sizes[end]; ok {
			return m
		}
		m := c.multitude(end)
		sizes[end] = m
		return m
	}
	pairs := 0
	add := func(f, t multitude) {
		n := f.all*t.all - (f.all-f.guarded)*(t.all-t.guarded)
		pairs += max(n-f.plain*t.plain, 0)
	}
	type side struct {
		end   uint32
		proto Proto
		side  Side
	}
	counted, halves := make(map[side]bool), make(map[Proto]*[2]multitude)
	half := func(s side) {
		if counted[s] {
			return
		}
		counted[s] = true
		if halves[s.proto] == nil {
			halves[s.proto] = new([2]multitude)
		}
		halves[s.proto][s.side].add(size(s.end))
	}
	for k := range c.buckets {
		f, t := k.from(), k.to()
		add(size(f), size(t))
		switch {
		case isWildcard(f) == isWildcard(t):
		case isWildcard(f):
			half(side{t, k.proto(), SideIn})
		default:
			half(side{f, k.proto(), SideOut})
		}
	}
	for _, h := range halves {
		add(h[SideOut], h[SideIn])
	}
	return pairs
}

func (c *compiler) multitude(end uint32) multitude {
	peers, plain := everyClass, len(everyClass)
	if !isWildcard(end) {
		peers, plain = c.peersOf(end), 1
		if isRange(end) {
			plain = 0
		}
	}
	m := multitude{all: len(peers), plain: plain}
	for _, p := range peers {
		if c.isGuarded(p) {
			m.guarded++
		}
	}
	return m
}

// forget empties the table. Its caller holds mu, or made it.
func (m *metPairs) forget() {
	slots := make(metSlots, 1<<10)
	m.pairs, m.count = 0, 0
	m.slots.Store(&slots)
}

// decide is the decision for a pair of which one is a variant. It allocates only
// where it lays the span.
func (m *metPairs) decide(k pairKey, port uint16) *Decision {
	t := m.compiler.table
	unruled := t.unruled[t.peers[k.from()].class][t.peers[k.to()].class]
	if !unruled.out.guarded && !unruled.in.guarded {
		return unruled
	}
	if p := m.slots.Load().get(k, m.start(k)); p != nil {
		if d := at(p.spans, port); d != nil {
			return d
		}
	}
	return m.lay(k, port)
}

func (m *metPairs) start(k pairKey) uint64 { return fold(uint64(k)^m.seed.a, m.seed.b) }

func (s metSlots) get(k pairKey, start uint64) *metPair {
	mask := uint64(len(s) - 1)
	for i := start & mask; ; i = (i + 1) & mask {
		if p := s[i].Load(); p == nil || p.key == k {
			return p
		}
	}
}

// put adds a pair, or puts it in the place of what it is the next of.
func (s metSlots) put(p *metPair, start uint64) {
	mask := uint64(len(s) - 1)
	i := start & mask
	for old := s[i].Load(); old != nil && old.key != p.key; old = s[i].Load() {
		i = (i + 1) & mask
	}
	s[i].Store(p)
}

// lay finds the rules of a pair at a port and keeps what they come to.
func (m *metPairs) lay(k pairKey, port uint16) *Decision {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count >= m.most {
		m.forget()
		m.compiler.forgetDecisions()
	}
	next := metPair{key: k}
	slots := *m.slots.Load()
	if p := slots.get(k, m.start(k)); p != nil {
		if d := at(p.spans, port); d != nil { // somebody else met it
			return d
		}
		next.spans = p.spans
	} else if m.pairs++; 2*m.pairs > len(slots) {
		slots = m.grown(slots)
		m.slots.Store(&slots)
	}
	s := m.compiler.spanAt(k, port)
	i, _ := slices.BinarySearchFunc(next.spans, s.lo, func(o span, lo uint16) int { return cmp.Compare(o.lo, lo) })
	next.spans = slices.Insert(slices.Clone(next.spans), i, s)
	slots.put(&next, m.start(k))
	m.count++
	return s.decision
}

func (m *metPairs) grown(slots metSlots) metSlots {
	out := make(metSlots, 2*len(slots))
	for i := range slots {
		if p := slots[i].Load(); p != nil {
			out.put(p, m.start(p.key))
		}
	}
	return out
}

// forgetDecisions lets decisions go that nothing but the compiler knows of.
func (c *compiler) forgetDecisions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interned = make(map[string]*Decision)
}

package policy

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Pairs of variants are as many as the regions of both sides multiplied: 10,000
// statements from prefixes to prefixes make tens of millions, of which flows meet
// few. Where they are more than Input.PairsAhead, none is laid when the table is
// compiled: the rules of a pair at a port are found when a flow first meets it,
// and what they come to stands from then on, for all ports at which the same
// rules apply. Only those wait who meet something new at the same moment. The
// room for it is taken beforehand: a new pair allocates nothing, but that once in
// some thousand the next room is.
//
// So it is with all pairs of peers where places that no rule names by itself are
// too many (see layers.go): statements of many peers that overlap at random make as
// many crowds as there are peers, on either side.

const (
	pairsAhead = 1 << 16
	// metMax bounds the spans that stand, some 100 to 300 bytes each; when they are
	// as many, or their decisions take all that is left of the memory budget, all
	// are forgotten, and laid again as they are met.
	metMax = 1 << 18
)

// metPairs are the pairs that flows have met. Tables that differ in what With
// changes share them.
type metPairs struct {
	first    uint32 // the lowest number of a variant, or 0: pairs of all peers are met
	compiler *compiler
	seed     hashSeed
	slots    atomic.Pointer[metSlots]

	most  int        // spans that stand
	bytes int        // that their decisions take
	mu    sync.Mutex // held by whoever lays a span
	pairs int
	count int // of spans
	made  slab[metPair]
	more  slab[metSpans]
	rules []int32 // of the span that is being laid
}

// metSlots is a power of two of slots, at most half full: a pair stands at its
// hash or behind it.
type metSlots []atomic.Pointer[metPair]

type metPair struct {
	key pairKey
	metSpans
}

// metSpans are disjoint spans, in the order in which they were met; ports between
// them are not laid. Those below n never change.
type metSpans struct {
	n     atomic.Uint32
	spans [4]span
	next  atomic.Pointer[metSpans]
}

func (c *compiler) metPairs() *metPairs {
	first := uint32(FirstWorkloadIdentity) + uint32(len(c.table.groups))
	if c.onMeeting == metAll {
		first = 0
	}
	m := &metPairs{first: first, compiler: c, seed: newHashSeed(), most: metMax, bytes: max(c.budget()-c.spent, c.budget()/8)}
	m.forget()
	m.made, m.more = slab[metPair]{make([]metPair, largeSlab), largeSlab}, slab[metSpans]{make([]metSpans, largeSlab/4), largeSlab / 4}
	m.rules = make([]int32, 0, len(c.table.rules)) // a rule applies once
	return m
}

// forget empties the table. Its caller holds mu, or made it.
func (m *metPairs) forget() {
	slots := make(metSlots, 2*largeSlab)
	m.pairs, m.count = 0, 0
	m.slots.Store(&slots)
}

// decide is the decision for a pair of which one is a variant.
func (m *metPairs) decide(k pairKey, port uint16) *Decision {
	t := m.compiler.table
	unruled := t.unruled[t.peers[k.from()].class][t.peers[k.to()].class]
	if !unruled.out.guarded && !unruled.in.guarded {
		return unruled
	}
	if p := m.slots.Load().get(k, m.start(k)); p != nil {
		if d := p.at(port); d != nil {
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

func (s metSlots) put(p *metPair, start uint64) {
	mask := uint64(len(s) - 1)
	i := start & mask
	for s[i].Load() != nil {
		i = (i + 1) & mask
	}
	s[i].Store(p)
}

func (l *metSpans) at(port uint16) *Decision {
	for ; l != nil; l = l.next.Load() {
		for i := range l.n.Load() {
			if s := &l.spans[i]; s.lo <= port && port <= s.hi {
				return s.decision
			}
		}
	}
	return nil
}

// lay finds the rules of a pair at a port and keeps what they come to.
func (m *metPairs) lay(k pairKey, port uint16) *Decision {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count >= m.most || m.compiler.decisionBytes() > m.bytes {
		m.forget()
		m.compiler.forgetDecisions()
	}
	p := m.slots.Load().get(k, m.start(k))
	if p != nil {
		if d := p.at(port); d != nil { // somebody else met it
			return d
		}
	} else {
		p = m.add(k)
	}
	s := m.spanAt(k, port)
	m.append(&p.metSpans, s)
	m.count++
	return s.decision
}

func (m *metPairs) add(k pairKey) *metPair {
	slots := *m.slots.Load()
	if m.pairs++; 2*m.pairs > len(slots) {
		slots = m.grown(slots)
		m.slots.Store(&slots)
	}
	p := &m.made.take(1)[0]
	p.key = k
	slots.put(p, m.start(k))
	return p
}

func (m *metPairs) append(l *metSpans, s span) {
	for next := l.next.Load(); next != nil; next = l.next.Load() {
		l = next
	}
	n := l.n.Load()
	if int(n) < len(l.spans) {
		l.spans[n] = s
		l.n.Store(n + 1)
		return
	}
	next := &m.more.take(1)[0]
	next.spans[0] = s
	next.n.Store(1)
	l.next.Store(next)
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

// spanAt is the widest span round port in which the same rules apply.
func (m *metPairs) spanAt(k pairKey, port uint16) span {
	c := m.compiler
	s := span{lo: 0, hi: 65535}
	p := c.pairing(k)
	m.rules = c.rulesOf(m.rules[:0], p, nil)
	here := m.rules[:0]
	for _, i := range m.rules {
		switch r := &c.table.rules[i].Ports; {
		case r.Hi < port:
			s.lo = max(s.lo, r.Hi+1)
		case r.Lo > port:
			s.hi = min(s.hi, r.Lo-1)
		default:
			s.lo, s.hi = max(s.lo, r.Lo), min(s.hi, r.Hi)
			here = append(here, i)
		}
	}
	slices.Sort(here)
	s.decision = c.decision(p.caller.class, p.callee.class, here)
	return s
}

// forgetDecisions lets decisions go that nothing but the compiler knows of.
func (c *compiler) forgetDecisions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decisions.slots, c.decisions.count, c.decisions.bytes = nil, 0, 0
}

// decisionBytes is what was made since they were last let go.
func (c *compiler) decisionBytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.decisions.bytes
}

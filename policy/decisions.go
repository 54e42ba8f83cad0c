package policy

import (
	"cmp"
	"slices"
	"unsafe"
)

// decisions are all that were made for a table, each once. What they are made of
// comes out of slabs, so that a flow that needs a new one allocates nothing but,
// once in some thousand times, a slab. Not safe for concurrent use.
type decisions struct {
	seed  hashSeed
	slots []decided // a power of two, at most half full
	count int
	bytes int // of all that slots hold

	made    slab[Decision]
	terms   slab[term]
	excepts slab[excepted]
	rules   slab[int32]
	weighed []term // of the side that is being made
	taken   []excepted
	spoken  []Spoken
}

// decided without a decision is an empty slot.
type decided struct {
	hash     uint64
	from, to class
	rules    []int32
	decision *Decision
}

// slab is room for many values that are never given back one by one.
type slab[T any] struct {
	room []T
	next int // how many there will be room for
}

const (
	firstSlab = 64
	largeSlab = 4096
)

func (s *slab[T]) take(n int) []T {
	if n == 0 {
		return nil
	}
	if len(s.room) < n {
		s.next = min(max(2*s.next, firstSlab), largeSlab)
		s.room = make([]T, max(n, s.next))
	}
	out := s.room[:n:n]
	s.room = s.room[n:]
	return out
}

// reserve makes room for all that the packet path takes for some thousand new
// decisions.
func (ds *decisions) reserve(mostRules int) {
	ds.made, ds.terms = slab[Decision]{make([]Decision, largeSlab), largeSlab}, slab[term]{make([]term, 4*largeSlab), largeSlab}
	ds.excepts, ds.rules = slab[excepted]{make([]excepted, largeSlab), largeSlab}, slab[int32]{make([]int32, 8*largeSlab), largeSlab}
	ds.weighed, ds.taken = make([]term, 0, mostRules), make([]excepted, 0, mostRules)
	ds.spoken = make([]Spoken, 0, 1024)
	ds.grow(4 * largeSlab)
}

func (ds *decisions) grow(size int) {
	old := ds.slots
	ds.slots = make([]decided, max(size, 2*len(old)))
	for i := range old {
		if old[i].decision != nil {
			*ds.slot(old[i].hash, old[i].from, old[i].to, old[i].rules) = old[i]
		}
	}
}

func (ds *decisions) hash(from, to class, rules []int32) uint64 {
	h := ds.seed.a ^ uint64(from)<<8 ^ uint64(to)
	for _, r := range rules {
		h = fold(h^uint64(r), ds.seed.b)
	}
	return fold(h, ds.seed.c)
}

func (ds *decisions) slot(h uint64, from, to class, rules []int32) *decided {
	mask := uint64(len(ds.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		if s := &ds.slots[i]; s.decision == nil || s.hash == h && s.from == from && s.to == to && slices.Equal(s.rules, rules) {
			return s
		}
	}
}

// get returns the decision for these rules, as sortRules has them, between peers of these
// classes.
func (ds *decisions) get(c *compiler, from, to class, rules []int32) *Decision {
	if ds.slots == nil {
		ds.seed = newHashSeed()
		ds.grow(firstSlab)
	}
	h := ds.hash(from, to, rules)
	s := ds.slot(h, from, to, rules)
	if s.decision != nil {
		return s.decision
	}
	own := ds.rules.take(len(rules))
	copy(own, rules)
	*s = decided{h, from, to, own, ds.make(c, from, to, rules)}
	d := s.decision
	if ds.count++; 2*ds.count > len(ds.slots) {
		ds.grow(0)
	}
	size := unsafe.Sizeof(Decision{}) + 3*unsafe.Sizeof(decided{}) + uintptr(len(d.out.terms)+len(d.in.terms))*unsafe.Sizeof(term{}) + uintptr(len(rules))*4
	ds.bytes += int(size)
	c.charge(rules, int(size), 0)
	return d
}

func (ds *decisions) make(c *compiler, from, to class, rules []int32) *Decision {
	reason := ReasonNoRule
	switch {
	case from == classUnknown || to == classUnknown:
		reason = ReasonUnknownPeer
	case from == classMulticast || to == classMulticast:
		reason = ReasonMulticast
	}
	d := &ds.made.take(1)[0]
	d.out, d.in = ds.side(c, from, SpeaksOut, reason, rules), ds.side(c, to, SpeaksIn, reason, rules)
	d.named = slices.ContainsFunc(rules, func(i int32) bool { return c.table.rules[i].Name != "" })
	ds.spoken = d.settle(ds.spoken[:0])
	return d
}

func (ds *decisions) side(c *compiler, k class, side Speaks, reason Reason, rules []int32) sideDecision {
	s := sideDecision{guarded: k.isGuarded() || c.in.Transit, mode: Enforce, reason: reason}
	switch {
	case c.in.Transit && k > classObserving:
		s.mode = c.in.TransitMode
	case k == classObserving || k == classShutObserving:
		s.mode = Observe
	}
	if !s.guarded {
		return s
	}
	ds.weighed = ds.weighed[:0]
	for at, i := range rules {
		r := &c.table.rules[i]
		if r.Except || r.Speaks != SpeaksBoth && r.Speaks != side {
			continue
		}
		if except, all := ds.excepted(c, r.Statement, rules[at:]); !all {
			ds.weighed = append(ds.weighed, term{r.App, r.Name, except, rankOf(r.Tier, r.Verdict), r.Verdict, r.EnforceAlways && r.Verdict != Allow, i})
		}
	}
	kept := deciding(ds.weighed)
	s.terms = ds.terms.take(len(kept))
	copy(s.terms, kept)
	s.allows = slices.ContainsFunc(kept, func(t term) bool { return t.verdict == Allow })
	return s
}

// excepted collects the applications that rules take out of a statement: its
// exceptions stand behind its other rules. all is true where they leave nothing.
func (ds *decisions) excepted(c *compiler, statement int, rules []int32) (except []excepted, all bool) {
	ds.taken = ds.taken[:0]
	for _, i := range rules {
		r := &c.table.rules[i]
		if r.Statement != statement {
			break
		}
		e := excepted{r.App, r.Name}
		switch {
		case !r.Except || slices.Contains(ds.taken, e):
		case e == (excepted{app: AnyApp}):
			return nil, true
		default:
			ds.taken = append(ds.taken, e)
		}
	}
	except = ds.excepts.take(len(ds.taken))
	copy(except, ds.taken)
	return except, false
}

// deciding sorts terms, which come in the order of their rules, into the order in
// which they decide, and leaves out what can never decide. It works in place.
func deciding(terms []term) []term {
	last := -1 // the first that matches everything
	for i := range terms {
		if terms[i].isAll() && (last < 0 || terms[i].compare(&terms[last]) < 0) {
			last = i
		}
	}
	if last >= 0 {
		end, n := terms[last], 0
		for i, t := range terms {
			if order := t.compare(&end); order < 0 || order == 0 && i <= last {
				terms[n] = t
				n++
			}
		}
		terms = terms[:n]
	}
	slices.SortStableFunc(terms, func(a, b term) int { return a.compare(&b) })
	kept := terms[:0]
	for _, t := range terms {
		if !isBehind(kept, &t) {
			kept = append(kept, t)
		}
	}
	return kept
}

// isAll reports whether nothing behind the term can decide.
func (t *term) isAll() bool { return len(t.except) == 0 && t.app.Any && t.name == "" }

// compare orders terms as they decide, but for those of equal weight: of them the
// one of the earlier rule does.
func (t *term) compare(o *term) int {
	return cmp.Or(cmp.Compare(t.rank, o.rank), boolOrder(t.always, o.always))
}

// isBehind reports whether one of those before t matches all that t does. Of what
// has exceptions, what it leaves is for those behind it.
func isBehind(kept []term, t *term) bool {
	for i := range kept {
		if k := &kept[i]; len(k.except) == 0 && k.rank == t.rank && k.app == t.app && k.name == t.name {
			return true
		}
	}
	return false
}

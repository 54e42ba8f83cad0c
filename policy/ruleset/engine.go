package ruleset

import "math/rand/v2"

// engine is the structure that was chosen for the rules of one family; the
// others are nil. What it finds are indexes into space.boxes.
type engine struct {
	tables  *tables
	tree    *tree
	vectors *vectors
}

// first is the first rule that holds p, or none.
func (e *engine) first(p *point) uint32 {
	switch {
	case e.tables != nil:
		return e.tables.first(p)
	case e.tree != nil:
		return e.tree.first(p)
	}
	return e.vectors.first(p)
}

// next is the first rule behind that one that holds p, or none.
func (e *engine) next(p *point, after uint32) uint32 {
	switch {
	case e.tables != nil:
		return e.tables.next(p, after)
	case e.tree != nil:
		return e.tree.next(p, after)
	}
	return e.vectors.next(p, after)
}

func (e *engine) bytes() int {
	switch {
	case e.tables != nil:
		return e.tables.bytes()
	case e.tree != nil:
		return e.tree.bytes()
	}
	return e.vectors.bytes()
}

// cost is the estimated nanoseconds of a lookup, from the work that the engine
// counts on each sample.
func (e *engine) cost(samples []point) float64 {
	sum := 0.0
	for i := range samples {
		switch {
		case e.tables != nil:
			sum += e.tables.cost()
		case e.tree != nil:
			sum += e.tree.cost(&samples[i])
		default:
			sum += e.vectors.cost(&samples[i])
		}
	}
	return sum / float64(len(samples))
}

// Engine names a structure that rules can be compiled to.
type Engine string

const (
	Tables  Engine = "tables"  // cross-product tables
	Tree    Engine = "tree"    // cut trees over subsets
	Vectors Engine = "vectors" // aggregated bit vectors
)

func (e *engine) name() Engine {
	switch {
	case e.tables != nil:
		return Tables
	case e.tree != nil:
		return Tree
	}
	return Vectors
}

// build makes an engine of that kind, or says what it needs if that is more
// than budget. last is what the rules had before, if there is one.
func build(kind Engine, s *space, budget int, last *engine, p *pace) (e engine, need int) {
	switch kind {
	case Tables:
		e.tables, need = newTables(s, budget, last.tables, p)
	case Tree:
		e.tree, need = newTree(s, budget, p)
	case Vectors:
		e.vectors, need = newVectors(s, budget, p)
	}
	return e, need
}

// built reports whether there is an engine.
func (e *engine) built() bool { return e.tables != nil || e.tree != nil || e.vectors != nil }

// choose builds the engines that fit the budget and keeps the one with the
// least cost. The same rules always give the same choice.
func choose(s *space, only Engine, budget int, last *engine, p *pace) (best engine, err error) {
	samples := s.samples()
	lowest, least := 0.0, 0
	for _, kind := range []Engine{Tables, Tree, Vectors} {
		if only != "" && only != kind {
			continue
		}
		e, need := build(kind, s, budget, last, p)
		if !e.built() {
			if least == 0 || need < least {
				least = need
			}
			continue
		}
		if c := e.cost(samples); !best.built() || c < lowest {
			best, lowest = e, c
		}
	}
	if !best.built() {
		return best, &MemoryError{Budget: budget, Need: least, Rule: s.widest()}
	}
	return best, nil
}

// widest is the rule that covers the most classes: every engine pays by that.
func (s *space) widest() uint32 {
	width := func(b box) (n uint32) {
		for i := range b.lo {
			n += b.hi[i] - b.lo[i]
		}
		return n
	}
	at := 0
	for i := range s.boxes {
		if width(s.boxes[i]) > width(s.boxes[at]) {
			at = i
		}
	}
	return uint32(s.keys[at])
}

const sampleCount = 512

// samples are points to count work on: most inside a random rule, some at a
// rule's corner, some anywhere.
func (s *space) samples() []point {
	rnd := rand.New(rand.NewPCG(1, uint64(len(s.boxes))))
	sizes := s.sizes()
	out := make([]point, sampleCount)
	for i := range out {
		var b box
		for x, n := range sizes {
			b.hi[x] = n - 1
		}
		if len(s.boxes) > 0 && i%10 != 0 {
			b = s.boxes[rnd.IntN(len(s.boxes))]
		}
		for x := range out[i] {
			width := b.hi[x] - b.lo[x]
			if out[i][x] = b.lo[x] + uint32(rnd.Int64N(int64(width)+1)); i%5 == 1 {
				out[i][x] = b.lo[x] + width*uint32(rnd.IntN(2))
			}
		}
	}
	return out
}

// What one step costs in nanoseconds, with many lookups under way. They are
// rough, and serve to rank the engines only; `gatehouse bench classify` times
// each engine beside the one that was chosen.
const (
	mispredicted = 5.0 // a branch that depends on the header
	compared     = 3.0 // a rule of a leaf
)

// load is what one load from a structure of that many bytes costs.
func load(bytes int) float64 {
	switch {
	case bytes <= 16<<10:
		return 0.7
	case bytes <= 512<<10:
		return 1.5
	case bytes <= 8<<20:
		return 4
	}
	return 8
}

func (t *tables) cost() float64 {
	ports := load(4*len(t.byDstPort)) + load(4*len(t.byPorts))
	matrix := load(8*len(t.byRow)) + load(8*len(t.byCol)) + load(4*len(t.rows)) + load(4*len(t.dir)) + load(16*len(t.pages)) + load(8*len(t.cells))
	lists := load(4*len(t.shapes)) + load(2*len(t.places)) + load(4*len(t.heads))
	return ports + matrix + 3*lists
}

func (t *tree) cost(p *point) float64 {
	sum, best := 0.0, none
	perNode, perRule := load(16*len(t.nodes))+1, load(4*len(t.rules)+40*len(t.boxes))+compared
	for _, root := range t.roots {
		i := root
		for t.nodes[i].axis != leaf && t.nodes[i].best < best {
			i = t.part(&t.nodes[i], p)
			sum += perNode
		}
		n := &t.nodes[i]
		sum += mispredicted
		if n.best >= best {
			continue
		}
		for _, r := range t.rules[n.child : n.child+n.lo] {
			if r >= best {
				break
			}
			sum += perRule
			if t.boxes[r].holds(p) {
				best = r
			}
		}
	}
	return sum
}

func (v *vectors) cost(p *point) float64 {
	per := 0.0
	for i := range v.bits {
		per += load(8 * len(v.bits[i]))
	}
	sums, words := v.effort(p)
	return float64(sums)*per + float64(words)*(per+mispredicted)
}

// effort is how many words of sums and of bits a lookup reads on each axis.
func (v *vectors) effort(p *point) (sums, words int) {
	all := func(i int) uint64 {
		w := ^uint64(0)
		for axis := range axes {
			w &= v.vector(axis, p)[i]
		}
		return w
	}
	for s := range v.sums {
		sums++
		for w := range 64 {
			if all(s)>>w&1 == 0 {
				continue
			}
			words++
			if all(v.sums+s<<6+w) != 0 {
				return sums, words
			}
		}
	}
	return sums, words
}

package ruleset

import "slices"

// tree answers by cutting: each subset of the rules has a tree whose nodes cut
// one axis into equal parts, down to leaves of a few rules. Rules that are wide
// on the same addresses make one subset, so that a cut separates most of them.
type tree struct {
	roots []uint32
	nodes []node
	rules []uint32 // of all leaves, each in order
	boxes []box
}

// node cuts one axis, or is a leaf.
type node struct {
	best  uint32 // the first of its rules; none = empty
	lo    uint32 // where the cut axis begins; of a leaf how many rules
	child uint32 // its first part; of a leaf its first rule
	axis  uint8  // leaf, or what is cut
	shift uint8  // parts are 1<<shift classes
}

const (
	leaf     = axes
	leafSize = 8
	maxDepth = 24
)

func (t *tree) first(p *point) uint32 {
	best := uint32(none)
	for _, root := range t.roots {
		n := t.descend(root, p, best)
		if n.best >= best {
			continue
		}
		for _, r := range t.rules[n.child : n.child+n.lo] {
			if r >= best {
				break
			}
			if t.boxes[r].holds(p) {
				best = r
				break
			}
		}
	}
	return best
}

// descend goes to the leaf of a point, or to a node none of whose rules is
// before best.
func (t *tree) descend(i uint32, p *point, best uint32) *node {
	n := &t.nodes[i]
	for n.axis != leaf && n.best < best {
		n = &t.nodes[t.part(n, p)]
	}
	return n
}

// part is the child of n that holds p.
func (t *tree) part(n *node, p *point) uint32 { return n.child + (p[n.axis]-n.lo)>>n.shift }

func (t *tree) next(p *point, after uint32) uint32 {
	best := uint32(none)
	for _, root := range t.roots {
		n := t.descend(root, p, best)
		if n.best >= best {
			continue
		}
		for _, r := range t.rules[n.child : n.child+n.lo] {
			if r > after && t.boxes[r].holds(p) {
				best = min(best, r)
				break
			}
		}
	}
	return best
}

func (t *tree) bytes() int { return 16*len(t.nodes) + 4*len(t.rules) }

// treeBuilder holds what only the build needs.
type treeBuilder struct {
	tree
	budget int
	pace   *pace
}

// newTree builds trees for the space, or says what they need if that is more
// than budget.
func newTree(s *space, budget int, p *pace) (t *tree, need int) {
	b := &treeBuilder{tree: tree{boxes: s.boxes}, budget: budget, pace: p}
	whole := box{}
	for i, n := range s.sizes() {
		whole.hi[i] = n - 1
	}
	for _, rules := range subsets(s) {
		root := uint32(len(b.nodes))
		b.roots = append(b.roots, root)
		b.nodes = append(b.nodes, node{})
		b.grow(root, whole, rules, 0)
		if b.bytes() > budget {
			return nil, b.bytes()
		}
	}
	slices.SortFunc(b.roots, func(x, y uint32) int { return int(b.nodes[x].best) - int(b.nodes[y].best) })
	return &b.tree, b.bytes()
}

// subsets parts the rules by the addresses on which they are wide: more than a
// thirty-second of the classes.
func subsets(s *space) [][]uint32 {
	parts := make([][]uint32, 4)
	sizes := s.sizes()
	wide := func(b *box, axis int) int {
		if (b.hi[axis]-b.lo[axis])*32 > sizes[axis] {
			return 1
		}
		return 0
	}
	for i := range s.boxes {
		k := wide(&s.boxes[i], axisSrc)*2 + wide(&s.boxes[i], axisDst)
		parts[k] = append(parts[k], uint32(i))
	}
	return slices.DeleteFunc(parts, func(p []uint32) bool { return len(p) == 0 })
}

// grow makes node at out of the rules, in order, that meet the region.
func (b *treeBuilder) grow(at uint32, region box, rules []uint32, depth int) {
	if len(rules) > leafSize && depth < maxDepth && b.bytes() <= b.budget {
		if axis, shift, ok := b.choose(region, rules); ok {
			b.cut(at, region, rules, axis, shift, depth)
			return
		}
	}
	n := node{best: none, lo: uint32(len(rules)), child: uint32(len(b.rules)), axis: leaf}
	if len(rules) > 0 {
		n.best = rules[0]
	}
	b.rules = append(b.rules, rules...)
	b.nodes[at] = n
}

func (b *treeBuilder) cut(at uint32, region box, rules []uint32, axis int, shift uint8, depth int) {
	b.pace.giveWay()
	lo, hi := region.lo[axis], region.hi[axis]
	child := uint32(len(b.nodes))
	b.nodes[at] = node{best: rules[0], lo: lo, child: child, axis: uint8(axis), shift: shift}
	parts := (hi-lo)>>shift + 1
	b.nodes = append(b.nodes, make([]node, parts)...)
	var last []uint32
	for i := range parts {
		part := region
		part.lo[axis] = lo + i<<shift
		part.hi[axis] = min(hi, part.lo[axis]+1<<shift-1)
		var in []uint32
		for _, r := range rules {
			if x := &b.boxes[r]; x.lo[axis] <= part.hi[axis] && part.lo[axis] <= x.hi[axis] {
				in = append(in, r)
			}
		}
		if n := b.nodes[child+i-min(i, 1)]; i > 0 && n.axis == leaf && slices.Equal(in, last) {
			b.nodes[child+i] = n
			continue
		}
		last = in
		b.grow(child+i, part, in, depth+1)
	}
}

// spread bounds how many rules all parts of a cut may have together, as a
// multiple of what is cut.
const spread = 2

// choose picks the cut whose fullest part has the fewest rules; ok is false
// where no cut makes any part smaller.
func (b *treeBuilder) choose(region box, rules []uint32) (axis int, shift uint8, ok bool) {
	least := len(rules)
	for x := range axes {
		if region.hi[x] == region.lo[x] {
			continue
		}
		sh, most := b.parts(region, rules, x)
		if most < least {
			axis, shift, least, ok = x, sh, most, true
		}
	}
	return axis, shift, ok
}

// parts is the finest cut of an axis that keeps within spread, and how many
// rules its fullest part has.
func (b *treeBuilder) parts(region box, rules []uint32, axis int) (shift uint8, most int) {
	most = len(rules)
	width := region.hi[axis] - region.lo[axis]
	top := uint8(0)
	for width>>top > 1 {
		top++
	}
	for sh := int(top); sh >= 0; sh-- {
		n := int(width>>sh) + 1
		sum, full := b.count(region, rules, axis, uint8(sh), n)
		if sum+n > spread*len(rules)+8 {
			break
		}
		shift, most = uint8(sh), full
	}
	return shift, most
}

// count is how many rules n parts have together, and the fullest of them.
func (b *treeBuilder) count(region box, rules []uint32, axis int, shift uint8, n int) (sum, full int) {
	change := make([]int, n+1)
	for _, r := range rules {
		x := &b.boxes[r]
		lo := (max(x.lo[axis], region.lo[axis]) - region.lo[axis]) >> shift
		hi := (min(x.hi[axis], region.hi[axis]) - region.lo[axis]) >> shift
		change[lo]++
		change[hi+1]--
		sum += int(hi-lo) + 1
	}
	in := 0
	for _, c := range change[:n] {
		in += c
		full = max(full, in)
	}
	return sum, full
}

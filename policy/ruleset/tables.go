package ruleset

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
	"unsafe"
)

// tables answers by cross product: a fixed number of dependent loads and no
// branch that depends on the header, so that lookups overlap.
//
// The ports and the protocol become one class in two steps. The addresses
// become three lists of rules: those of any destination by source, those of any
// source by destination, and the others by both, in a matrix whose row is its
// parent prefix' row but for the pages that its own rules touch. A list's shape
// says which of its rules is the first for a class of ports; parts of shapes
// that are equal are kept once.
type tables struct {
	protos, halves uint32
	byDstPort      []uint32 // [destination port, protocol] -> half
	byPorts        []uint32 // [source port, half] -> class of ports

	rowAxis, colAxis int
	byRow, byCol     []list   // [class]
	rows             []uint32 // [class] -> first of its entries in dir
	dir              []uint32 // [row, page] -> page
	pages            []page
	cells            []list // of all pages

	heads  []uint32 // of all lists: the rules that are the first for some class of ports, then none
	shapes []uint32 // [shape, block of classes of ports] -> block of places
	places []uint16 // [block, class of ports] -> place among those

	// For next alone.
	words                 uint32   // of one row of match
	match                 []uint64 // [class of ports]: which conditions it meets
	rowList, colList, all []uint32 // beside byRow, byCol, cells: list
	tails                 []uint32 // by list: its first in rules
	rules                 []uint32 // of all lists, each ended by none
	conds                 []uint16 // beside rules: the condition of each

	used int
}

// list is what first reads of one.
type list struct{ heads, shape uint32 }

// page is pageSize cells of a row: a bit stands at each that differs from the
// one before, and at the first.
type page struct {
	bits uint64
	at   uint32 // index into cells, less one
}

const (
	none     = NoRule // behind a list's last rule
	pageBits = 6
	pageSize = 1 << pageBits

	blockBits = 5
	blockSize = 1 << blockBits
)

func (t *tables) first(p *point) uint32 {
	k := t.ports(p)
	row, col := p[t.rowAxis], p[t.colAxis]
	return min(t.head(t.byRow[row], k), t.head(t.byCol[col], k), t.head(t.cells[t.cell(row, col)], k))
}

// ports is the class of the header's ports and protocol.
func (t *tables) ports(p *point) uint32 {
	return t.byPorts[p[axisSrcPort]*t.halves+t.byDstPort[p[axisDstPort]*t.protos+p[axisProto]]]
}

// cell is where the list of both addresses stands.
func (t *tables) cell(row, col uint32) uint32 {
	g := &t.pages[t.dir[t.rows[row]+col>>pageBits]]
	return g.at + uint32(bits.OnesCount64(g.bits&(2<<(col%pageSize)-1)))
}

func (t *tables) head(l list, k uint32) uint32 {
	return t.heads[l.heads+uint32(t.places[t.shapes[l.shape+k>>blockBits]<<blockBits+k%blockSize])]
}

func (t *tables) next(p *point, after uint32) uint32 {
	k := t.ports(p)
	row, col := p[t.rowAxis], p[t.colAxis]
	return min(t.behind(t.rowList[row], k, after), t.behind(t.colList[col], k, after), t.behind(t.all[t.cell(row, col)], k, after))
}

// behind is the first rule of a list, after that one, whose ports match.
func (t *tables) behind(i, k, after uint32) uint32 {
	match := t.match[k*t.words:]
	for j := t.tails[i]; ; j++ {
		r := t.rules[j]
		if r == none {
			return none
		}
		if q := t.conds[j]; r > after && match[q/64]>>(q%64)&1 != 0 {
			return r
		}
	}
}

func (t *tables) bytes() int { return t.used }

// tablesBuilder holds what only the build needs.
type tablesBuilder struct {
	*tables
	s        *space
	budget   int
	pace     *pace
	cond     []uint16   // by rule
	classes  uint32     // of ports
	matching [][]uint32 // by condition: classes of ports
	lists    []list
	shapeOf  map[string]shape // by the conditions of a list
	blocks   blockIndex
	pageOf   map[string]uint32 // by its lists
	row      []uint16
}

// newTables builds tables for the space, or says what they need if that is more
// than budget, as far as it was seen. It makes room as for last, if that is not
// nil: lists that grow leave garbage of some times their size.
func newTables(s *space, budget int, last *tables, p *pace) (t *tables, need int) {
	if last == nil {
		last = &tables{}
	}
	t = &tables{
		dir: roomLike(last.dir), pages: roomLike(last.pages), cells: roomLike(last.cells), all: roomLike(last.all),
		heads: roomLike(last.heads), shapes: roomLike(last.shapes), places: roomLike(last.places),
		tails: roomLike(last.tails), rules: roomLike(last.rules), conds: roomLike(last.conds),
	}
	b := &tablesBuilder{tables: t, s: s, budget: budget, pace: p, lists: make([]list, 0, cap(t.tails)), shapeOf: map[string]shape{}, blocks: newBlockIndex(cap(t.places)), pageOf: map[string]uint32{}}
	if !b.layPorts() {
		return nil, max(b.used, budget+1)
	}
	b.chooseRows()
	b.list(nil) // list 0 is empty
	if !b.layEdges() || !b.layMatrix() {
		return nil, b.used
	}
	return b.tables, b.used
}

// roomLike is an empty list with room for somewhat more than that one has.
func roomLike[T any](last []T) []T { return make([]T, 0, len(last)+len(last)/16) }

// spend accounts for n more bytes.
func (b *tablesBuilder) spend(n int) bool {
	b.used += n
	return b.used <= b.budget
}

// condition is what a rule asks of ports and protocol.
type condition struct{ lo, hi [3]uint32 }

func conditionOf(b *box) condition {
	return condition{[3]uint32(b.lo[axisSrcPort:]), [3]uint32(b.hi[axisSrcPort:])}
}

// maxWork bounds what a build may cost in time: words to combine.
const maxWork = 1 << 25

func (b *tablesBuilder) layPorts() bool {
	sizes := b.s.sizes()
	var conds []condition
	index := map[condition]uint16{}
	b.cond = make([]uint16, len(b.s.boxes))
	for i := range b.s.boxes {
		c := conditionOf(&b.s.boxes[i])
		q, ok := index[c]
		if !ok {
			if len(conds) == 1<<16-1 {
				return false
			}
			q = uint16(len(conds))
			index[c] = q
			conds = append(conds, c)
		}
		b.cond[i] = q
	}
	words := (len(conds) + 63) / 64
	b.words, b.protos = uint32(words), uint32(b.s.protos)
	dstPorts, protos, srcPorts := int(sizes[axisDstPort]), int(sizes[axisProto]), int(sizes[axisSrcPort])
	if dstPorts*protos*words > maxWork {
		return false
	}
	byField := [3][][]uint64{}
	for f := range byField {
		byField[f] = make([][]uint64, sizes[axisSrcPort+f])
		for c := range byField[f] {
			b.pace.giveWay()
			v := make([]uint64, words)
			for q := range conds {
				if conds[q].lo[f] <= uint32(c) && uint32(c) <= conds[q].hi[f] {
					v[q/64] |= 1 << (q % 64)
				}
			}
			byField[f][c] = v
		}
	}
	halves, byDstPort := crossed(byField[1], byField[2], b.pace)
	if srcPorts*len(halves)*words > maxWork {
		return false
	}
	classes, byPorts := crossed(byField[0], halves, b.pace)
	b.halves, b.byDstPort, b.byPorts, b.classes = uint32(len(halves)), byDstPort, byPorts, uint32(len(classes))
	b.match = slices.Concat(classes...)
	b.matching = make([][]uint32, len(conds))
	var met []uint32
	for q := range conds {
		b.pace.giveWay()
		met = met[:0]
		for k, v := range classes {
			if v[q/64]>>(q%64)&1 != 0 {
				met = append(met, uint32(k))
			}
		}
		b.matching[q] = slices.Clone(met)
	}
	return b.spend(4*len(b.byDstPort) + 4*len(b.byPorts) + 8*len(b.match))
}

// crossed combines every vector of a with every one of b: the distinct results,
// and which of them each pair has.
func crossed(a, b [][]uint64, p *pace) (distinct [][]uint64, at []uint32) {
	index := map[string]uint32{}
	at = make([]uint32, 0, len(a)*len(b))
	var v []uint64
	for i := range a {
		p.giveWay()
		for j := range b {
			v = v[:0]
			for w := range a[i] {
				v = append(v, a[i][w]&b[j][w])
			}
			k, ok := index[text(v)]
			if !ok {
				k = uint32(len(distinct))
				own := slices.Clone(v)
				index[text(own)] = k
				distinct = append(distinct, own)
			}
			at = append(at, k)
		}
	}
	return distinct, at
}

// text is the memory of v as a map key; v must not change while the map has it.
func text[T uint16 | uint32 | uint64](v []T) string {
	return unsafe.String((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(T(0))))
}

// chooseRows makes that address the row whose matrix touches fewer pages.
func (b *tablesBuilder) chooseRows() {
	touched := func(row, col int) int {
		n := int(b.s.sizes()[row]) * int(b.s.sizes()[col]) / pageSize / pageSize
		for i := range b.s.boxes {
			if x := &b.s.boxes[i]; !b.isEdge(x) {
				n += int(x.hi[col]>>pageBits-x.lo[col]>>pageBits) + 1
			}
		}
		return n
	}
	b.rowAxis, b.colAxis = axisSrc, axisDst
	if touched(axisDst, axisSrc) < touched(axisSrc, axisDst) {
		b.rowAxis, b.colAxis = axisDst, axisSrc
	}
}

// isEdge: one of its addresses is any.
func (b *tablesBuilder) isEdge(x *box) bool { return x.lo[axisSrc] == 0 || x.lo[axisDst] == 0 }

// axis is the address axis of that number.
func (s *space) axis(i int) *addrAxis {
	if i == axisSrc {
		return s.src
	}
	return s.dst
}

// list stores a list of rules, in order, and returns its number.
func (b *tablesBuilder) list(rules []uint32) uint32 {
	b.pace.giveWay()
	n := uint32(len(b.lists))
	s := b.shape(rules)
	b.lists, b.tails = append(b.lists, list{uint32(len(b.heads)), s.row}), append(b.tails, uint32(len(b.rules)))
	for _, i := range s.heads {
		b.heads = append(b.heads, rules[i])
	}
	b.heads = append(b.heads, none)
	for _, r := range rules {
		b.rules, b.conds = append(b.rules, r), append(b.conds, b.cond[r])
	}
	b.rules, b.conds = append(b.rules, none), append(b.conds, 0)
	b.used += 12 + 4*(len(s.heads)+1) + 6*(len(rules)+1)
	return n
}

// shape is where in a list the first match is, by class of ports.
type shape struct {
	row   uint32
	heads []uint16 // places in the list that are the first for some class
}

func (b *tablesBuilder) shape(rules []uint32) shape {
	var key []byte
	for _, r := range rules {
		key = binary.LittleEndian.AppendUint16(key, b.cond[r])
	}
	if s, ok := b.shapeOf[string(key)]; ok {
		return s
	}
	s := b.newShape(rules)
	b.shapeOf[string(key)] = s
	return s
}

func (b *tablesBuilder) newShape(rules []uint32) shape {
	const free = 1<<16 - 1
	row := slices.Grow(b.row[:0], int(b.classes))[:b.classes]
	b.row = row
	for k := range row {
		row[k] = free
	}
	var s shape
	for i, r := range rules {
		isHead := false
		for _, k := range b.matching[b.cond[r]] {
			if row[k] == free {
				row[k] = uint16(len(s.heads))
				isHead = true
			}
		}
		if isHead {
			s.heads = append(s.heads, uint16(i))
		}
	}
	for k := range row {
		if row[k] == free {
			row[k] = uint16(len(s.heads))
		}
	}
	s.row = uint32(len(b.shapes))
	for len(row) > 0 {
		n := min(blockSize, len(row))
		b.shapes = append(b.shapes, b.block(row[:n]))
		b.used += 4
		row = row[n:]
	}
	return s
}

// block stores a part of a row once.
func (b *tablesBuilder) block(part []uint16) uint32 {
	var block [blockSize]uint16
	copy(block[:], part)
	at, ok := b.blocks.find(block[:], b.places)
	if !ok {
		b.places = append(b.places, block[:]...)
		b.used += 2 * blockSize
	}
	return at
}

// blockIndex finds blocks by what they hold.
type blockIndex struct {
	seed  maphash.Seed
	slots []uint32 // a block and one; 0 = none. Half of them at most are taken
	taken int
}

// newBlockIndex has room for the blocks of that many places.
func newBlockIndex(places int) blockIndex {
	return blockIndex{seed: maphash.MakeSeed(), slots: make([]uint32, 1<<bits.Len(uint(places>>blockBits*2+16)))}
}

// find is the block of those places that equals block. If there is none it is the
// next one, and the caller stores it.
func (x *blockIndex) find(block, places []uint16) (at uint32, ok bool) {
	slot := x.slot(block, places)
	if *slot != 0 {
		return *slot - 1, true
	}
	if x.taken++; 2*x.taken > len(x.slots) {
		x.slots = make([]uint32, 2*len(x.slots))
		for at := range len(places) >> blockBits {
			*x.slot(places[at<<blockBits:][:blockSize], places) = uint32(at) + 1
		}
		slot = x.slot(block, places)
	}
	*slot = uint32(len(places)>>blockBits) + 1
	return *slot - 1, false
}

// slot is where the block stands, or is to stand.
func (x *blockIndex) slot(block, places []uint16) *uint32 {
	for i := maphash.String(x.seed, text(block)); ; i++ {
		slot := &x.slots[i%uint64(len(x.slots))]
		if *slot == 0 || text(places[(*slot-1)<<blockBits:][:blockSize]) == text(block) {
			return slot
		}
	}
}

// of is list i's rules.
func (b *tablesBuilder) of(i uint32) []uint32 {
	start, end := b.tails[i], uint32(len(b.rules))-1
	if int(i)+1 < len(b.tails) {
		end = b.tails[i+1] - 1
	}
	return b.rules[start:end]
}

// layEdges makes the lists of rules that have any address on one side.
func (b *tablesBuilder) layEdges() bool {
	edge := func(axis, other int, rowsOwn bool) []uint32 {
		own := make([][]uint32, b.s.axis(axis).size())
		for i := range b.s.boxes {
			x := &b.s.boxes[i]
			if x.lo[other] == 0 && (rowsOwn || x.lo[axis] != 0) {
				own[x.lo[axis]] = append(own[x.lo[axis]], uint32(i))
			}
		}
		at := make([]uint32, len(own))
		for c := range own {
			b.pace.step()
			parent := at[b.s.axis(axis).parent[c]]
			if at[c] = parent; len(own[c]) > 0 {
				at[c] = b.list(merged(b.of(parent), own[c]))
			}
			if b.used > b.budget {
				return nil
			}
		}
		return at
	}
	// Rules of any source and any destination stand with the rows.
	b.rowList = edge(b.rowAxis, b.colAxis, true)
	b.colList = edge(b.colAxis, b.rowAxis, false)
	if b.rowList == nil || b.colList == nil {
		return false
	}
	for _, i := range b.rowList {
		b.byRow = append(b.byRow, b.lists[i])
	}
	for _, i := range b.colList {
		b.byCol = append(b.byCol, b.lists[i])
	}
	return b.spend(12 * (len(b.byRow) + len(b.byCol)))
}

func merged(a, b []uint32) []uint32 {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return out
}

// layMatrix makes the rows, parents first.
func (b *tablesBuilder) layMatrix() bool {
	rows, cols := b.s.axis(b.rowAxis), b.s.axis(b.colAxis)
	own := make([][]uint32, rows.size())
	for i := range b.s.boxes {
		if x := &b.s.boxes[i]; !b.isEdge(x) {
			own[x.lo[b.rowAxis]] = append(own[x.lo[b.rowAxis]], uint32(i))
		}
	}
	pages := (cols.size() + pageSize - 1) / pageSize
	b.rows = make([]uint32, rows.size())
	b.dir = append(b.dir, make([]uint32, pages)...) // row 0, of the empty page
	b.page(&[pageSize]uint32{})
	if !b.spend(4*len(b.rows) + 4*pages) {
		return false
	}
	for c := 1; c < rows.size(); c++ {
		b.pace.giveWay()
		parent := b.rows[rows.parent[c]]
		if b.rows[c] = parent; len(own[c]) == 0 {
			continue
		}
		b.rows[c] = uint32(len(b.dir))
		b.dir = append(b.dir, b.dir[parent:parent+uint32(pages)]...)
		b.used += 4 * pages
		if !b.paint(b.dir[b.rows[c]:], own[c]) {
			return false
		}
	}
	return true
}

// page stores the lists of a page's cells, equal pages once.
func (b *tablesBuilder) page(cells *[pageSize]uint32) uint32 {
	at, ok := b.pageOf[text(cells[:])]
	if ok {
		return at
	}
	g := page{at: uint32(len(b.cells)) - 1}
	for i, l := range cells {
		if i == 0 || l != cells[i-1] {
			g.bits |= 1 << i
			b.cells, b.all = append(b.cells, b.lists[l]), append(b.all, l)
			b.used += 12
		}
	}
	at = uint32(len(b.pages))
	b.pages = append(b.pages, g)
	b.used += 16
	b.pageOf[strings.Clone(text(cells[:]))] = at
	return at
}

// expand is the lists of a page's cells.
func (b *tablesBuilder) expand(at uint32, cells *[pageSize]uint32) {
	g := b.pages[at]
	for i := range cells {
		g.at += uint32(g.bits >> i & 1)
		cells[i] = b.all[g.at]
	}
}

// stretch is columns that the same own rules of a row take.
type stretch struct {
	lo, hi uint32 // hi is behind the last
	rules  []uint32
}

func (b *tablesBuilder) stretches(own []uint32) (out []stretch) {
	var edges []uint32
	for _, r := range own {
		edges = append(edges, b.s.boxes[r].lo[b.colAxis], b.s.boxes[r].hi[b.colAxis]+1)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	for e := range len(edges) - 1 {
		s := stretch{lo: edges[e], hi: edges[e+1]}
		for _, r := range own {
			if x := &b.s.boxes[r]; x.lo[b.colAxis] <= s.lo && s.lo <= x.hi[b.colAxis] {
				s.rules = append(s.rules, r)
			}
		}
		if len(s.rules) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// paint adds a row's own rules to what it has from its parent.
func (b *tablesBuilder) paint(dir []uint32, own []uint32) bool {
	type key struct {
		was   uint32
		rules string
	}
	grown := map[key]uint32{}
	loaded := none
	var cells [pageSize]uint32
	for _, s := range b.stretches(own) {
		was, is := none, none
		for col := s.lo; col < s.hi; col++ {
			if g := col >> pageBits; g != loaded {
				if loaded != none {
					dir[loaded] = b.page(&cells)
				}
				loaded = g
				b.expand(dir[g], &cells)
				if b.used > b.budget {
					return false
				}
			}
			cell := &cells[col%pageSize]
			if *cell != was {
				was = *cell
				k := key{was, text(s.rules)}
				var ok bool
				if is, ok = grown[k]; !ok {
					is = b.list(merged(b.of(was), s.rules))
					grown[k] = is
				}
			}
			*cell = is
		}
	}
	if loaded != none {
		dir[loaded] = b.page(&cells)
	}
	return b.used <= b.budget
}

package ruleset

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Options of a Set; the zero value is the default.
type Options struct {
	// Memory is the most bytes that the compiled rules may take; 0 = 64 MiB. A
	// rebuild takes as much again until it is done.
	Memory int
	// Engine, if set, is used whatever it costs.
	Engine Engine
}

const defaultMemory = 64 << 20

// Set is rules that can be looked up while they change.
type Set struct {
	view    atomic.Pointer[View]
	opts    Options
	mu      sync.Mutex              // held by writers, never by a rebuild
	rebuild atomic.Pointer[rebuild] // under way; nil = none is. Writers begin it
	refused atomic.Pointer[error]   // why the last rebuild was; nil = it was not
}

// View is a Set at one moment: immutable. Lookups on one View agree.
type View struct {
	base    *base
	since   *history
	seq     uint64   // changes to the Set until here
	overlay []recent // inserted since the base was built
	added   []Rule   // the same, as they came
	buried  int      // rules of the base that were deleted
	lost    int      // rules of the overlay that were deleted again
}

// history is what happened to a base, shared by its Views. Whoever makes the next
// View writes it; readers of a View pass over what is younger than that.
type history struct {
	dead  [familyCount]deaths
	begin uint64 // the View of this seq has no changes
	first *changes

	// For writers alone:
	last  *changes
	place map[uint32]int // id -> its place in the latest View's overlay
	views []View         // not used yet
}

// deaths are the deletions of a base's rules, by box: whether there was one, and
// with which change it came.
type deaths struct{ any, at []uint64 }

// base is the compiled part of a View.
type base struct {
	rules    []Rule            // in the order in which they match
	at       map[uint32]uint32 // id -> index into rules
	families [familyCount]compiled
	bytes    int
	chosenAt int // how many rules there were when the engines were chosen
}

type compiled struct {
	space  *space // nil: no rule is of this family
	engine engine
	boxOf  []uint32 // by rule: its box, none = it is not of this family
}

// recent is a rule that is compared field by field.
type recent struct {
	key                uint64
	gone               uint64 // the change that deleted it, 0 = none; read and written atomically
	families           [familyCount]bool
	src, dst           uint128
	srcMask, dstMask   uint128
	srcPorts, dstPorts Ports
	proto              uint8
	anyProto           bool
}

// Match is a rule that was found. The zero Match stands before all rules.
type Match struct {
	ID uint32 // NoRule = none
	// after is the key of the rule, plus one.
	after uint64
}

// OK reports whether there is a rule.
func (m Match) OK() bool { return m.ID != NoRule }

// Priority of the rule.
func (m Match) Priority() uint32 { return uint32((m.after - 1) >> 32) }

const noKey = ^uint64(0)

// New compiles rules. The error joins every fault, or is a *MemoryError.
func New(rules []Rule, opts Options) (*Set, error) {
	opts.Memory = cmp.Or(opts.Memory, defaultMemory)
	switch opts.Engine {
	case "", Tables, Tree, Vectors:
	default:
		return nil, fmt.Errorf("engine %q: want tables, tree or vectors", opts.Engine)
	}
	if err := faults(rules); err != nil {
		return nil, err
	}
	rules = slices.Clone(rules)
	slices.SortFunc(rules, inOrder)
	b, err := newBase(rules, opts, &base{}, nil)
	if err != nil {
		return nil, err
	}
	s := &Set{opts: opts}
	s.view.Store(b.view(0))
	return s, nil
}

// inOrder compares by the order in which rules match.
func inOrder(x, y Rule) int { return cmp.Compare(x.key(), y.key()) }

// newBase compiles rules, which are in order, and keeps them. It keeps the engines
// of last, if that was about as large: choosing takes thrice as long.
func newBase(rules []Rule, opts Options, last *base, p *pace) (*base, error) {
	b := &base{rules: rules, at: make(map[uint32]uint32, len(rules)), chosenAt: len(rules)}
	for i := range b.rules {
		p.step()
		b.at[b.rules[i].ID] = uint32(i)
	}
	for f := range familyCount {
		c := &b.families[f]
		own, before := opts, &last.families[f]
		if own.Engine == "" && 4*len(rules) < 5*last.chosenAt && 4*last.chosenAt < 5*len(rules) && before.space != nil {
			own.Engine, b.chosenAt = before.engine.name(), last.chosenAt
		}
		err := c.compile(f, b.rules, own, b.bytes, before, p)
		if err != nil && own != opts {
			err = c.compile(f, b.rules, opts, b.bytes, before, p)
		}
		if err != nil {
			return nil, err
		}
		if c.space != nil {
			b.bytes += c.space.bytes() + c.engine.bytes()
		}
	}
	return b, nil
}

// compile makes the part of family f, which was last before. The other family
// takes some of the memory already.
func (c *compiled) compile(f family, rules []Rule, opts Options, taken int, last *compiled, p *pace) (err error) {
	c.boxOf = make([]uint32, len(rules))
	n := uint32(0)
	for i := range rules {
		if c.boxOf[i] = none; rules[i].in(f) {
			c.boxOf[i] = n
			n++
		}
	}
	if n == 0 {
		return nil
	}
	own := make([]Rule, 0, n)
	for i := range rules {
		if c.boxOf[i] != none {
			own = append(own, rules[i])
		}
	}
	c.space = newSpace(f, own, p)
	taken += c.space.bytes()
	if taken > opts.Memory {
		return &MemoryError{Budget: opts.Memory, Need: taken, Rule: c.space.widest()}
	}
	c.engine, err = choose(c.space, opts.Engine, opts.Memory-taken, &last.engine, p)
	if e, ok := err.(*MemoryError); ok {
		e.Need += taken
		e.Budget = opts.Memory
	}
	return err
}

// view is b after seq changes, none of which came since. There is room for some,
// as writers that ask for memory may have to help the garbage collector first, or
// to wait for it.
func (b *base) view(seq uint64) *View {
	room := max(2*foldAt, len(b.rules)/4)
	h := &history{begin: seq, first: &changes{list: make([]change, room)}, place: make(map[uint32]int, room), views: make([]View, room)}
	h.last = h.first
	for f := range h.dead {
		if s := b.families[f].space; s != nil {
			h.dead[f] = deaths{make([]uint64, (len(s.boxes)+63)/64), make([]uint64, len(s.boxes))}
		}
	}
	return &View{base: b, since: h, seq: seq, overlay: make([]recent, 0, room), added: make([]Rule, 0, room)}
}

// holds reports whether box i was deleted by change seq at the latest.
func (d *deaths) holds(i uint32, seq uint64) bool {
	return atomic.LoadUint64(&d.any[i>>6])>>(i&63)&1 != 0 && atomic.LoadUint64(&d.at[i]) <= seq
}

// add tells of change seq. There is one writer.
func (d *deaths) add(i uint32, seq uint64) {
	atomic.StoreUint64(&d.at[i], seq)
	atomic.StoreUint64(&d.any[i>>6], d.any[i>>6]|1<<(i&63))
}

// isGone reports whether change seq, or one before it, deleted r.
func (r *recent) isGone(seq uint64) bool {
	at := atomic.LoadUint64(&r.gone)
	return at != 0 && at <= seq
}

// View returns the rules as they are now.
func (s *Set) View() *View { return s.view.Load() }

// Lookup returns the first rule that matches h, or NoRule.
func (s *Set) Lookup(h *Header) uint32 { return s.view.Load().First(h).ID }

// First returns the first rule that matches h.
func (v *View) First(h *Header) Match { return v.Next(h, Match{}) }

// Next returns the first rule that matches h behind m.
func (v *View) Next(h *Header, m Match) Match {
	key := noKey
	f := h.family()
	if c := &v.base.families[f]; c.space != nil {
		key = v.inBase(c, f, h, m.after)
	}
	if len(v.overlay) > 0 {
		key = v.inOverlay(f, h, m.after, key)
	}
	if key == noKey || h.straddles() {
		return Match{ID: NoRule}
	}
	return Match{uint32(key), key + 1}
}

// inBase is the lowest key from after on of the compiled rules that match.
func (v *View) inBase(c *compiled, f family, h *Header, after uint64) uint64 {
	var p point
	if f == family4 {
		c.space.point4(h, &p)
	} else {
		c.space.point6(h, &p)
	}
	var i uint32
	if after == 0 {
		i = c.engine.first(&p)
	} else if n, _ := slices.BinarySearch(c.space.keys, after); n == 0 {
		i = c.engine.first(&p)
	} else {
		i = c.engine.next(&p, uint32(n-1))
	}
	for i != none && v.since.dead[f].holds(i, v.seq) {
		i = c.engine.next(&p, i)
	}
	if i == none {
		return noKey
	}
	return c.space.keys[i]
}

// inOverlay is the lowest key from after on, below key, of the recent rules
// that match; else key.
func (v *View) inOverlay(f family, h *Header, after, key uint64) uint64 {
	src, dst := words(&h.Src), words(&h.Dst)
	for i := range v.overlay {
		r := &v.overlay[i]
		if r.key >= after && r.key < key && r.families[f] &&
			(src.hi^r.src.hi)&r.srcMask.hi|(src.lo^r.src.lo)&r.srcMask.lo|(dst.hi^r.dst.hi)&r.dstMask.hi|(dst.lo^r.dst.lo)&r.dstMask.lo == 0 &&
			r.srcPorts.Lo <= h.SrcPort && h.SrcPort <= r.srcPorts.Hi &&
			r.dstPorts.Lo <= h.DstPort && h.DstPort <= r.dstPorts.Hi &&
			(r.anyProto || r.proto == h.Proto) && !r.isGone(v.seq) {
			key = r.key
		}
	}
	return key
}

func words(a *[16]byte) uint128 {
	return uint128{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])}
}

func newRecent(r *Rule) recent {
	out := recent{key: r.key(), srcPorts: r.SrcPorts, dstPorts: r.DstPorts, proto: r.Proto, anyProto: r.AnyProto,
		families: [familyCount]bool{r.in(family4), r.in(family6)}}
	if r.Src.IsValid() {
		out.src, out.srcMask = addr128(r.Src.Addr()), maskOf(r.Src)
	}
	if r.Dst.IsValid() {
		out.dst, out.dstMask = addr128(r.Dst.Addr()), maskOf(r.Dst)
	}
	return out
}

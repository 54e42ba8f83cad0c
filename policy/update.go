package policy

import (
	"maps"
	"slices"
	"sync"
)

// Update is how the input of a table differs from that of the one before it: by
// workloads, by groups that came or are gone, and by statements. Networks, host
// and settings are the same, and groups that stay differ in their members alone.
type Update struct {
	Epoch    uint32
	Snapshot func() *Snapshot // called when somebody asks for it, which lookups do not
	Groups   []Group          // all there are now
	Came     []Group          // those of Groups that were not there before
	Gone     []Identity       // of those that were, and are no more
	Changes  []Change

	Statements []*Statement // all there are now, in order; nobody may change them
	Removed    []int        // of the statements before: their places in the order, ascending
	Added      []int        // the places of new ones in Statements, ascending
}

// edits reports whether more than workloads changed.
func (u *Update) edits() bool { return len(u.Came)+len(u.Gone)+len(u.Removed)+len(u.Added) > 0 }

// With is the table after changes, with what they share untouched: it takes as
// long as what changes takes to compile, however many workloads there are, and
// says what Compile would of the same input. Lookups in either table do not wait.
// Of tables that follow from one another one goroutine at a time may ask.
// Without ok a change reaches further, and Compile must be asked.
func (t *Table) With(u *Update) (next *Table, ok bool) {
	changed := *t
	changed.epoch, changed.groups, changed.now = u.Epoch, u.Groups, sync.OnceValue(u.Snapshot)
	changed.names = t.names.next()
	newest := t.updater != nil && t.updater.newest == t && !t.updater.spoilt
	var turned []turning
	if newest {
		turned, u = t.updater.turned(t, u)
	}
	gained, lost := t.rebalanced(u, turned)
	edits := u.edits() || len(turned)+len(gained)+len(lost) > 0
	switch {
	case !newest && edits:
		return nil, false
	case !newest:
		changed.updater = nil
	case edits:
		t.updater.spoilt = true // until all of it is done
		e := edit{updater: t.updater, before: t, table: &changed, Update: u, turned: turned, gained: gained, lost: lost}
		if !e.make() {
			return nil, false
		}
	}
	if !changed.move(t, u) {
		return nil, false
	}
	if newest {
		t.updater.newest, t.updater.spoilt = &changed, false
	}
	if changed.edited != nil {
		changed.edited = changed.edited.with(u)
	}
	return &changed, true
}

// edited is what a table knows of itself that was changed in more than workloads.
type edited struct {
	settings *Input
	order    []int32 // numbers of statements, in order
	flat     int     // how many rules Flat lists
	whole    func() *Table
}

func (e *edited) with(u *Update) *edited {
	next := *e
	in := *e.settings
	in.Epoch, in.Groups = u.Epoch, u.Groups
	next.whole = sync.OnceValue(func() *Table {
		in.Snapshot, in.Statements = u.Snapshot(), Listed(u.Statements)
		t, err := Compile(in)
		if err != nil {
			return nil
		}
		return t
	})
	return &next
}

// Whole is the table as Compile makes it: what With changed has rules and
// statements by number, in no order. It takes as long as Compile, the first time.
// Where Compile refuses now what it did not before, for want of memory, it is t.
func (t *Table) Whole() *Table {
	if t.edited == nil {
		return t
	}
	if w := t.edited.whole(); w != nil {
		return w
	}
	return t
}

const (
	// orderGap is between the orders of statements that Compile numbered: room for
	// some twenty insertions at one place.
	orderGap = 1 << 24
	// maxLate bounds the places that are others than Compile made them, maxDead the
	// rules, and the statements, that are none any more; then all is compiled anew.
	maxLate = 1 << 13
	maxDead = 1 << 15
	// maxRelaid bounds the places that one update lays.
	maxRelaid = 1 << 12
)

// updater compiles what changes of a table. It is the newest's of the tables that
// follow from one another; those before share with it what is only appended to.
type updater struct {
	compiler *compiler
	newest   *Table
	spoilt   bool // a change was begun that could not be made
	ready    bool // the rest is filled in

	byFrom  map[uint32]map[toward]int     // how many rules lead there, by the end that they lead from
	naming  map[ServiceKey]map[int32]bool // statements, by number, that name a service
	byID    map[string]int32              // statements by id
	written [][]int32                     // rules by statement
	ends    map[int32][]clause            // of statements that were amended, by number
	used    [2]map[uint32]bool            // large ends that tell crowds apart, by Side
	crowds  [2]map[string]uint32          // by party.key
	first   uint32                        // the first peer that Compile did not number
	spare   []uint32                      // peers from there on that are gone
	alive   int                           // rules
	flat    int                           // as Table.FlatCount
	places  int                           // in Table.late
}

// newUpdater is nil where tables are changed in workloads alone: what flows that are
// met still read of the compiler stays as it is.
func (c *compiler) newUpdater() *updater {
	if c.onMeeting != metNobodys {
		return nil
	}
	c.member = nil
	return &updater{compiler: c, newest: c.table}
}

// apart is a compiler that may go on while names that are learned are laid by c.
func (c *compiler) apart() *compiler {
	o := &compiler{in: c.in, table: c.table, byService: maps.Clone(c.byService), balanced: slices.Clone(c.balanced), regions: c.regions, callers: c.callers,
		placed: c.placed, buckets: make(map[toward]map[uint32][]int32, len(c.buckets)), ruleEnds: slices.Clip(c.ruleEnds), toNames: maps.Clone(c.toNames),
		patterns: maps.Clone(c.patterns), parties: slices.Clone(c.parties), wide: c.wide, costs: slices.Clone(c.costs), spent: c.spent}
	for k, list := range o.byService {
		o.byService[k] = slices.Clone(list)
	}
	for k, rules := range o.toNames {
		o.toNames[k] = slices.Clip(rules)
	}
	for k, from := range c.buckets {
		o.buckets[k] = make(map[uint32][]int32, len(from))
		for f, rules := range from {
			o.buckets[k][f] = slices.Clone(rules)
		}
	}
	l, w := &o.placed, &o.wide
	l.base, l.variants, l.above, l.collectives = slices.Clone(l.base), slices.Clone(l.variants), slices.Clone(l.above), slices.Clip(l.collectives)
	for i := range l.above {
		l.above[i] = slices.Clip(l.above[i])
	}
	l.ofPrefix, l.ofEnds = maps.Clone(l.ofPrefix), maps.Clone(l.ofEnds)
	w.ofRule = slices.Clip(w.ofRule)
	for _, ends := range []*map[uint32][]uint32{&w.froms, &w.tos} {
		*ends = maps.Clone(*ends)
		for k, list := range *ends {
			(*ends)[k] = slices.Clip(list)
		}
	}
	for side := range w.divisions {
		w.divisions[side], w.crowdsOf[side] = maps.Clone(w.divisions[side]), maps.Clone(w.crowdsOf[side])
		w.crowds[side] = slices.Clip(w.crowds[side])
		for end, list := range w.crowdsOf[side] {
			w.crowdsOf[side][end] = slices.Clip(list)
		}
	}
	return o
}

func (u *updater) prepare() {
	if u.compiler.table.names.of != nil {
		u.compiler = u.compiler.apart()
	}
	c := u.compiler
	u.ready, u.ends = true, make(map[int32][]clause)
	u.byFrom, u.naming, u.byID = make(map[uint32]map[toward]int), make(map[ServiceKey]map[int32]bool), make(map[string]int32)
	u.written = make([][]int32, len(c.table.statements))
	u.first, u.alive = uint32(len(c.table.ids)), len(c.table.rules)
	u.flat = c.table.FlatCount()
	c.orders = make([]uint64, len(c.table.statements))
	for i := range c.table.statements {
		c.orders[i] = uint64(i+1) * orderGap
		u.byID[c.table.statements[i].ID] = int32(i)
		u.note(int32(i))
	}
	for i := range c.table.rules {
		n := c.table.rules[i].Statement
		u.written[n] = append(u.written[n], int32(i))
		u.lead(int32(i), 1)
	}
	for side, others := range [2]map[uint32][]uint32{SideOut: c.wide.froms, SideIn: c.wide.tos} {
		u.used[side], u.crowds[side] = usedEnds(others), make(map[string]uint32)
		for i := range c.wide.crowds[side] {
			p := &c.wide.crowds[side][i]
			u.crowds[side][p.key()] = uint32(i)
		}
	}
}

// note finds the services that a statement names.
func (u *updater) note(n int32) {
	s := u.compiler.table.statements[n]
	for p := range s.peers {
		if p.Kind == PeerService {
			if u.naming[p.Service] == nil {
				u.naming[p.Service] = make(map[int32]bool)
			}
			u.naming[p.Service][n] = true
		}
	}
}

// peers are those of both sides and of the exceptions.
func (s *Statement) peers(yield func(*Peer) bool) {
	lists := [][]Peer{s.From, s.To}
	for i := range s.Except {
		lists = append(lists, s.Except[i].From, s.Except[i].To)
	}
	for _, list := range lists {
		for i := range list {
			if !yield(&list[i]) {
				return
			}
		}
	}
}

// lead counts a rule in or out, but for those to names.
func (u *updater) lead(rule int32, n int) {
	ends := u.compiler.ruleEnds[rule]
	if isNameEnd(ends.to) {
		return
	}
	k := toward{ends.to, u.compiler.table.rules[rule].Ports.Proto}
	to := u.byFrom[ends.from]
	if to == nil {
		to = make(map[toward]int)
		u.byFrom[ends.from] = to
	}
	if to[k] += n; to[k] == 0 {
		delete(to, k)
	}
}

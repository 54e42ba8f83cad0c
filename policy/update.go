package policy

import (
	"maps"
	"net/netip"
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

// edit makes the table of one update, in this order:
//
//	what is laid between the peers concerned is listed
//	statements that mean others than before, and are the same else, are amended
//	rules of removed statements, and of those that name a service of which groups
//	came or are gone, are taken out
//	groups that are gone lose their numbers, those that came get some, and those that
//	became others as a whole keep theirs
//	statements are written
//	what was laid and what is to be is laid anew, beside what Compile laid
type edit struct {
	*updater
	*Update
	before, table *Table
	turned        []turning
	services      []ServiceKey // of which groups come, go or turn
	rewrite       []int32      // statements
	amended       []amendment
	touched       map[uint32]bool
	relaid        map[pairKey]bool
	gone          map[uint32]bool
	came          map[uint32]bool
	asking        map[uint32][]uint32 // patterns, by who came and asks
	freed         []uint32            // of gone: who may be somebody else next time
	formed        [2][]uint32         // crowds that there were not, by Side
	gained, lost  map[Identity]bool   // who has virtual addresses now, and who had some
}

func (e *edit) make() bool {
	if !e.ready {
		e.prepare()
	}
	c, t := e.compiler, e.table
	order := t.edited.orderOf(len(t.statements))
	if e.places > maxLate || len(t.rules)-e.alive > maxDead || len(t.statements)-len(order) > maxDead || len(e.Came)+len(e.Gone)+len(e.turned) > 64 {
		return false
	}
	e.services = e.regrouped()
	e.touched, e.relaid, e.gone = make(map[uint32]bool), make(map[pairKey]bool), make(map[uint32]bool)
	e.came, e.asking = make(map[uint32]bool), make(map[uint32][]uint32)
	t.ids, t.peers, t.byIdentity = slices.Clone(t.ids), slices.Clone(t.peers), t.byIdentity.Copy()
	c.table, c.inUse, c.errs, c.selected = t, false, nil, nil
	defer func() { c.inUse = true }()
	if !e.pair(order) {
		return false
	}
	order, ok := e.remove(order)
	if !ok || !e.number() {
		return false
	}
	if order, ok = e.insert(order); !ok || !e.amend(order) || !e.admitBalancers() {
		return false
	}
	if !e.write() || e.concernsNames() || !e.lay() || c.overBudget() != nil {
		return false
	}
	e.askAsAll()
	if !e.layNames() {
		return false
	}
	e.spare = append(e.spare, e.freed...)
	t.edited = &edited{settings: c.in, order: order, flat: e.flat}
	return true
}

// orderOf is the order of that many statements that Compile made where there is no
// other.
func (e *edited) orderOf(n int) []int32 {
	if e != nil {
		return e.order
	}
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	return out
}

// remove takes rules out, and removed statements out of the order.
func (e *edit) remove(order []int32) ([]int32, bool) {
	removed := make(map[int32]bool)
	for _, at := range e.Removed {
		n := order[at]
		removed[n] = true
		delete(e.byID, e.table.statements[n].ID)
	}
	rewrite := make(map[int32]bool)
	for _, id := range e.Gone {
		g, known := e.before.Group(id)
		if !known || e.stays(id, len(g.Members)) {
			return nil, false
		}
		e.gone[e.before.denseOf(id)] = true
	}
	for i := range e.turned {
		e.touched[e.turned[i].dense] = true
	}
	for _, k := range e.services {
		for n := range e.naming[k] {
			if !removed[n] {
				rewrite[n] = true
				delete(e.ends, n)
			}
		}
	}
	for _, of := range []map[int32]bool{removed, rewrite} {
		for n := range of {
			asks := asksNames(*e.table.statements[n])
			for _, rule := range e.written[n] {
				ends := e.compiler.ruleEnds[rule]
				if asks && !e.gone[ends.from] || !isNameEnd(ends.to) && !e.concern(rule) {
					return nil, false
				}
			}
		}
	}
	behind, ok := e.behindLost(func(n int32) bool { return removed[n] || rewrite[n] })
	if !ok || !e.listLaid() {
		return nil, false
	}
	for _, of := range []map[int32]bool{removed, rewrite} {
		for n := range of {
			e.takeOut(n)
		}
	}
	for _, rule := range behind {
		e.takeOutOf(rule)
	}
	for i := range e.amended {
		a := &e.amended[i]
		for _, rule := range a.out {
			e.takeOutRule(rule)
		}
		e.written[a.n] = slices.DeleteFunc(slices.Clone(e.written[a.n]), func(r int32) bool { return slices.Contains(a.out, r) })
	}
	for n := range removed {
		delete(e.ends, n)
		for p := range e.table.statements[n].peers {
			if delete(e.naming[p.Service], n); len(e.naming[p.Service]) == 0 {
				delete(e.naming, p.Service)
			}
		}
	}
	for n := range rewrite {
		e.rewrite = append(e.rewrite, n)
	}
	out := make([]int32, 0, len(order)+len(e.Added))
	last := 0
	for _, at := range e.Removed {
		out = append(out, order[last:at]...)
		last = at + 1
	}
	return append(out, order[last:]...), true
}

// regrouped are the services of which groups come, go or turn.
func (e *edit) regrouped() []ServiceKey {
	out := make([]ServiceKey, 0, len(e.Came)+len(e.Gone)+2*len(e.turned))
	for i := range e.turned {
		out = append(out, e.turned[i].was.Service, e.turned[i].is.Service)
	}
	for i := range e.Came {
		out = append(out, e.Came[i].Service)
	}
	for _, id := range e.Gone {
		if g, known := e.before.Group(id); known {
			out = append(out, g.Service)
		}
	}
	return out
}

// stays reports whether some of that many members of a group do not stop.
func (e *edit) stays(group Identity, members int) bool {
	for i := range e.Changes {
		if c := &e.Changes[i]; c.Gone && c.Group == group {
			members--
		}
	}
	return members != 0
}

// concern notes between whom a rule changes what is laid.
func (e *edit) concern(rule int32) bool {
	c, ends := e.compiler, e.compiler.ruleEnds[rule]
	proto := c.table.rules[rule].Ports.Proto
	largeFrom, largeTo := c.isLarge(ends.from), c.isLarge(ends.to)
	switch {
	case largeFrom && largeTo:
		return false
	case largeFrom:
		e.touch(ends.to)
	case largeTo:
		e.touch(ends.from)
	default:
		for _, f := range c.peersOf(ends.from) {
			for _, t := range c.peersOf(ends.to) {
				e.relaid[keyOf(f, t, proto)] = true
			}
		}
	}
	return true
}

func (e *edit) touch(end uint32) {
	for _, peer := range e.compiler.peersOf(end) {
		e.touched[peer] = true
	}
}

// listLaid notes what is, or is to be, laid for those touched. It may note more.
func (e *edit) listLaid() bool {
	for peer := range e.touched {
		if !e.listOf(peer) || len(e.relaid) > maxRelaid {
			return false
		}
	}
	return len(e.relaid) <= maxRelaid
}

func (e *edit) listOf(peer uint32) bool {
	c := e.compiler
	if len(c.placed.variants[peer]) > 0 || c.placed.base[peer] != peer {
		return false
	}
	for _, proto := range nameProtos {
		fromLarge, toLarge := e.hasLarge(peer, proto)
		for _, end := range c.parties[peer].ends {
			large := c.isLarge(end)
			if large && !fromLarge {
				continue
			}
			for f := range c.buckets[toward{end, proto}] {
				if c.isLarge(f) {
					continue
				}
				for _, other := range c.peersOf(f) {
					e.relaid[keyOf(other, peer, proto)] = true
				}
			}
		}
		for _, end := range c.parties[peer].ends {
			large := c.isLarge(end)
			if large && !toLarge {
				continue
			}
			for k := range e.byFrom[end] {
				if k.proto != proto || c.isLarge(k.to) {
					continue
				}
				for _, other := range c.peersOf(k.to) {
					e.relaid[keyOf(peer, other, proto)] = true
				}
			}
		}
	}
	return true
}

// hasLarge reports whether rules lead from a large end to a peer, and from it to one.
func (e *edit) hasLarge(peer uint32, proto Proto) (from, to bool) {
	c := e.compiler
	for _, end := range c.parties[peer].ends {
		if c.isLarge(end) {
			continue
		}
		for f := range c.buckets[toward{end, proto}] {
			from = from || c.isLarge(f)
		}
		for k := range e.byFrom[end] {
			to = to || k.proto == proto && c.isLarge(k.to)
		}
	}
	return from, to
}

// takeOut makes a statement one of no rules.
func (e *edit) takeOut(n int32) {
	for _, rule := range e.written[n] {
		e.takeOutRule(rule)
	}
	e.written[n] = nil
}

func (e *edit) takeOutRule(rule int32) {
	c := e.compiler
	e.lead(rule, -1)
	e.alive--
	e.flat -= c.table.flatCount(&c.table.rules[rule])
	ends := c.ruleEnds[rule]
	if isNameEnd(ends.to) {
		delete(c.toNames, keyOf(ends.from, ends.to, c.table.rules[rule].Ports.Proto)) // who is gone reaches none
		return
	}
	k := toward{ends.to, c.table.rules[rule].Ports.Proto}
	from := c.buckets[k]
	from[ends.from] = slices.DeleteFunc(from[ends.from], func(r int32) bool { return r == rule })
	if len(from[ends.from]) == 0 {
		delete(from, ends.from)
	}
	if len(from) == 0 {
		delete(c.buckets, k)
	}
}

// number takes the numbers of groups that are gone, and gives some to those that came.
func (e *edit) number() bool {
	c, t := e.compiler, e.table
	for _, id := range e.Gone {
		g, _ := e.before.Group(id)
		dense := t.denseOf(id)
		c.byService[g.Service] = slices.DeleteFunc(c.byService[g.Service], func(d uint32) bool { return d == dense })
		t.byIdentity.Delete(id)
		if len(c.placed.variants[dense]) > 0 || e.isMeant(dense) {
			return false
		}
		if dense >= e.first && len(c.placed.above[dense]) == 0 && !e.before.names.asks(dense) {
			e.freed = append(e.freed, dense)
		}
	}
	for i := range e.turned {
		if !e.turn(&e.turned[i]) {
			return false
		}
	}
	for i := range e.Came {
		if !e.come(&e.Came[i]) {
			return false
		}
	}
	e.rebalance()
	return true
}

// isMeant reports whether some rule has the peer as its end.
func (e *edit) isMeant(dense uint32) bool {
	return len(e.byFrom[dense]) > 0 || slices.ContainsFunc(nameProtos[:], func(p Proto) bool { return len(e.compiler.buckets[toward{dense, p}]) > 0 })
}

func (e *edit) come(g *Group) bool {
	c, t := e.compiler, e.table
	if !g.canCome(t) {
		return false
	}
	dense := uint32(len(t.ids))
	if n := len(e.spare); n > 0 {
		dense, e.spare = e.spare[n-1], e.spare[:n-1]
	} else {
		t.ids, t.peers = append(t.ids, 0), append(t.peers, peerInfo{})
		l := &c.placed
		l.base, l.variants, l.above = append(l.base, dense), append(l.variants, nil), append(l.above, nil)
		c.parties = append(c.parties, party{})
	}
	e.came[dense] = true
	return e.settle(dense, g)
}

// canCome: Compile would not refuse the group.
func (g *Group) canCome(t *Table) bool {
	return g.Identity >= FirstWorkloadIdentity && t.denseOf(g.Identity) == 0 && g.Mode <= Observe
}

// settle makes a peer one of a group, in its crowds.
func (e *edit) settle(dense uint32, g *Group) bool {
	c, t := e.compiler, e.table
	t.ids[dense], t.peers[dense] = g.Identity, peerInfo{class: classOfGroup(g)}
	t.byIdentity.Set(g.Identity, dense)
	if !g.Shut {
		c.byService[g.Service] = append(c.byService[g.Service], dense)
	}
	c.parties[dense] = party{c.endsOf(dense), t.peers[dense].class}
	for side := range e.crowds {
		crowd, ok := e.crowdOf(dense, Side(side))
		if !ok {
			return false
		}
		t.peers[dense].side(Side(side)).crowd = crowd
	}
	e.touched[dense] = true
	return true
}

// crowdOf is the crowd that a peer joins.
func (e *edit) crowdOf(dense uint32, side Side) (uint32, bool) {
	p := party{class: e.compiler.parties[dense].class}
	for _, end := range e.compiler.parties[dense].ends {
		if e.used[side][end] {
			p.ends = append(p.ends, end)
		}
	}
	key := p.key()
	crowd, known := e.crowds[side][key]
	if !known {
		if crowd = uint32(len(e.compiler.wide.crowds[side])); int(crowd) == e.compiler.wide.room[side] {
			return 0, false
		}
		e.compiler.addCrowd(side, p)
		e.crowds[side][key] = crowd
		e.formed[side] = append(e.formed[side], crowd)
	}
	return crowd, true
}

// concernsNames reports whether what is said of names that somebody learned, or may
// learn, could be something else afterwards: that is laid by what Compile made.
func (e *edit) concernsNames() bool {
	c, of := e.compiler, e.table.names.of
	if of == nil {
		return false
	}
	outside := func(peer uint32) bool { return c.placed.base[peer] < uint32(FirstWorkloadIdentity) }
	asks := func(peer uint32) bool {
		_, is := of[c.placed.base[peer]]
		return is
	}
	for peer := range e.touched {
		if outside(peer) || asks(peer) && !e.gone[peer] {
			return true
		}
	}
	for k := range e.relaid {
		if asks(k.from()) && !e.gone[k.from()] && outside(k.to()) {
			return true
		}
	}
	return false
}

// insert numbers new statements and puts them in their places.
func (e *edit) insert(order []int32) ([]int32, bool) {
	c, t := e.compiler, e.table
	for i := 0; i < len(e.Added); {
		run := i + 1
		for run < len(e.Added) && e.Added[run] == e.Added[run-1]+1 {
			run++
		}
		at, n := e.Added[i], run-i
		if at > len(order) {
			return nil, false
		}
		before, step := uint64(0), uint64(orderGap)
		if at > 0 {
			before = c.orders[order[at-1]]
		}
		if at < len(order) {
			step = (c.orders[order[at]] - before) / uint64(n+1)
		}
		if step == 0 {
			return nil, false
		}
		numbers := make([]int32, n)
		for j := range numbers {
			s := e.Statements[at+j]
			number := int32(len(t.statements))
			if _, again := e.byID[s.ID]; again || s.ID == "" || !e.canWrite(s) {
				return nil, false
			}
			numbers[j] = number
			t.statements, c.orders, c.costs = append(t.statements, s), append(c.orders, before+uint64(j+1)*step), append(c.costs, Cost{})
			e.written = append(e.written, nil)
			e.byID[s.ID] = number
			e.note(number)
			e.rewrite = append(e.rewrite, number)
		}
		order = slices.Insert(order, at, numbers...)
		i = run
	}
	return order, len(order) == len(e.Statements)
}

// canWrite: the statement has no fault, and names no prefixes but those that are told apart already.
func (e *edit) canWrite(s *Statement) bool {
	if s.Pending != "" {
		return true
	}
	if len(statementFaults(s)) > 0 {
		return false
	}
	isTold := func(p netip.Prefix) bool {
		return e.compiler.regions != nil && e.compiler.regions.held[plain(p)] != nil
	}
	for p := range s.peers {
		switch {
		case p.Kind == PeerCIDR && !isTold(p.Prefix):
			return false
		case p.Kind == PeerSelector && p.Selected != nil && slices.ContainsFunc(p.Selected.Prefixes, func(p netip.Prefix) bool { return !isTold(p) }):
			return false
		}
	}
	return true
}

// write writes the rules of statements. A prefix that is to reach further than in
// any rule before is an end that no peer is known by: Compile makes it one.
func (e *edit) write() bool {
	c := e.compiler
	known := len(c.placed.collectives)
	slices.Sort(e.rewrite)
	for _, n := range e.rewrite {
		s := e.table.statements[n]
		if s.Pending != "" {
			continue
		}
		first := len(e.table.rules)
		c.writeStatement(int(n), s)
		if !e.takeIn(n, first) {
			return false
		}
		if asksNames(*s) && !e.ask(s, int32(first)) {
			return false
		}
	}
	return len(c.errs) == 0 && len(c.placed.collectives) == known && e.listLaid()
}

// takeIn notes what the rules of a statement, from first on, say of ends.
func (e *edit) takeIn(n int32, first int) bool {
	for rule := int32(first); int(rule) < len(e.table.rules); rule++ {
		if !e.lead1(rule) {
			return false
		}
		e.written[n] = append(e.written[n], rule)
	}
	return true
}

// lead1 notes what a new rule says of ends.
func (e *edit) lead1(rule int32) bool {
	c, ends := e.compiler, e.compiler.ruleEnds[rule]
	e.lead(rule, 1)
	e.alive++
	e.flat += c.table.flatCount(&c.table.rules[rule])
	if isNameEnd(ends.to) {
		c.wide.ofRule = append(c.wide.ofRule, namesCaller|namesCallee)
		return true
	}
	w, named := &c.wide, names(0)
	if !c.isLarge(ends.from) {
		named |= namesCaller
	} else if !slices.Contains(w.froms[ends.to], ends.from) {
		w.froms[ends.to] = append(w.froms[ends.to], ends.from)
	}
	if !c.isLarge(ends.to) {
		named |= namesCallee
	} else if !slices.Contains(w.tos[ends.from], ends.to) {
		w.tos[ends.from] = append(w.tos[ends.from], ends.to)
	}
	w.ofRule = append(w.ofRule, named)
	if named&namesCaller == 0 && !e.used[SideOut][ends.from] || named&namesCallee == 0 && !e.used[SideIn][ends.to] {
		return false // it tells crowds apart
	}
	return e.concern(rule)
}

// ask notes who asks for names by a statement whose rules begin at first. It is false
// where that is somebody who was there before.
func (e *edit) ask(s *Statement, first int32) bool {
	c := e.compiler
	for rule := first; int(rule) < len(c.table.rules); rule++ {
		ends := c.ruleEnds[rule]
		if !e.came[ends.from] {
			return false
		}
		if isNameEnd(ends.to) {
			e.asking[ends.from] = append(e.asking[ends.from], ends.to-firstName)
		} else if s.NamesOnly && e.asking[ends.from] == nil {
			e.asking[ends.from] = []uint32{}
		}
	}
	return true
}

// askAsAll notes the names that those who came ask for as all workloads do.
func (e *edit) askAsAll() {
	for k := range e.compiler.toNames {
		if !isWildcard(k.from()) {
			continue
		}
		for dense := range e.came {
			e.asking[dense] = append(e.asking[dense], k.to()-firstName)
		}
	}
}

// Bounds of the places to which rules lead from one who asks for names, and from all
// who came to ask since Compile.
const (
	maxAsked    = 1 << 12
	maxAskedAll = 1 << 16
)

// layNames notes what those who came may ask, and keeps what their rules are laid
// from when an answer comes: that stands until they are gone.
func (e *edit) layNames() bool {
	n := e.table.names
	gone := maps.Clone(e.gone)
	maps.DeleteFunc(gone, func(dense uint32, _ bool) bool { return !n.asks(dense) })
	if len(gone)+len(e.asking) == 0 {
		return true
	}
	n.of, n.apart = maps.Clone(n.of), maps.Clone(n.apart)
	for dense := range gone {
		delete(n.of, dense)
		delete(n.apart, dense)
	}
	if n.of == nil {
		n.of, n.made, n.private = make(map[uint32][]uint32), make(map[string]nameRules), e.compiler.in.PrivateNames
		n.found = &namedAddresses{m: make(map[addrKey]*named)}
	}
	if n.apart == nil {
		n.apart = make(map[uint32]*compiler)
	}
	for dense, patterns := range e.asking {
		slices.Sort(patterns)
		n.of[dense] = slices.Compact(patterns)
		if n.apart[dense] = e.asked(dense, n.of[dense]); n.apart[dense] == nil {
			return false
		}
		e.table.peers[dense].layers |= nameFrom
	}
	places := 0
	for _, c := range n.apart {
		places += len(c.buckets)
	}
	return places <= maxAskedAll
}

// asked is a compiler that knows of the rules of one peer to whoever is no workload by
// itself, and to names; nil where they are too many.
func (e *edit) asked(dense uint32, patterns []uint32) *compiler {
	c := e.compiler
	o := &compiler{in: c.in, table: &Table{rules: e.table.rules, statements: e.table.statements, sets: e.table.sets},
		parties: c.parties, orders: c.orders, wide: wideEnds{ofRule: c.wide.ofRule}, inUse: true,
		buckets: make(map[toward]map[uint32][]int32), toNames: make(map[pairKey][]int32)}
	for _, end := range c.parties[dense].ends {
		for k := range e.byFrom[end] {
			if uint32(FirstWorkloadIdentity) <= k.to && k.to < uint32(len(e.table.ids)) && c.placed.base[k.to] >= uint32(FirstWorkloadIdentity) {
				continue
			}
			if o.buckets[k] == nil {
				o.buckets[k] = make(map[uint32][]int32)
			}
			o.buckets[k][end] = slices.Clone(c.buckets[k][end])
		}
	}
	if len(o.buckets) > maxAsked {
		return nil
	}
	for _, end := range c.parties[dense].ends {
		for _, p := range patterns {
			for _, proto := range nameProtos {
				k := keyOf(end, firstName+p, proto)
				if rules := c.toNames[k]; len(rules) > 0 {
					o.toNames[k] = slices.Clone(rules)
				}
			}
		}
	}
	return o
}

// lay lays what is to be laid anew.
func (e *edit) lay() bool {
	c, t := e.compiler, e.table
	places := make(map[pairKey][]span, len(e.relaid))
	put := func(k pairKey, p pairing, needs names) {
		var spans []span
		if c.isGuarded(p.caller.class) || c.isGuarded(p.callee.class) {
			c.laidCells(&laidPlace{key: k, pairing: p, needs: needs}, func(lo, hi uint16, _ []int32, d *Decision) {
				spans = appendSpan(spans, span{lo, hi, d})
			})
		}
		places[k] = spans
	}
	for k := range e.relaid {
		from, to := k.from(), k.to()
		if e.gone[from] || e.gone[to] {
			continue
		}
		put(k, c.pairing(k), namesCaller|namesCallee)
		t.peers[from].layers |= lately
		t.peers[to].layers |= lately
		if len(places[k]) > 0 {
			t.peers[from].layers |= pairFrom
			t.peers[to].layers |= pairTo
		}
	}
	e.layCrowds(put)
	for peer := range e.touched {
		if !e.gone[peer] {
			e.layParts(peer, put)
		}
	}
	if len(places) > 4*maxRelaid {
		return false
	}
	t.late = t.late.with(places, e.gone)
	e.places = t.late.count
	return true
}

// layParts lays the second and the third layer of a peer.
func (e *edit) layParts(peer uint32, put func(pairKey, pairing, names)) {
	c, t := e.compiler, e.table
	self := c.parties[peer]
	var from, to [len(nameProtos)]bool
	for i, proto := range nameProtos {
		from[i], to[i] = e.hasLarge(peer, proto)
	}
	info := &t.peers[peer]
	info.layers |= lately
	if slices.Contains(from[:], true) {
		d := c.divide(SideOut, c.facing(self.ends, c.wide.froms))
		info.asCallee.division = d.first
		for i, caller := range d.parts {
			for _, proto := range nameProtos {
				put(keyOf(firstPart+uint32(i+1), peer, proto), pairing{caller, self, proto}, namesCallee)
			}
		}
	} else {
		info.asCallee.division = 0
	}
	if slices.Contains(to[:], true) {
		d := c.divide(SideIn, c.facing(self.ends, c.wide.tos))
		info.asCaller.division = d.first
		for i, callee := range d.parts {
			for _, proto := range nameProtos {
				put(keyOf(peer, firstPart+uint32(i+1), proto), pairing{self, callee, proto}, namesCaller)
			}
		}
	} else {
		info.asCaller.division = 0
	}
}

// layCrowds finds the parts of crowds that there were not, and lays those parts that
// there were not either.
func (e *edit) layCrowds(put func(pairKey, pairing, names)) {
	var anew [2]map[uint32][]uint32 // by Side: new parts, by the division
	for side, formed := range e.formed {
		anew[side] = make(map[uint32][]uint32)
		for key, d := range e.compiler.wide.divisions[side] {
			if len(formed) == 0 {
				break
			}
			old := len(d.parts)
			for _, crowd := range formed {
				e.compiler.partOf(&d, e.compiler.wide.crowds[side][crowd], crowd)
			}
			for i := old; i < len(d.parts); i++ {
				anew[side][d.first] = append(anew[side][d.first], uint32(i+1))
			}
			e.compiler.wide.divisions[side][key] = d
		}
	}
	e.layFormed(put)
	e.layNewParts(anew, put)
}

// partOf notes of which part of a division a new crowd is.
func (c *compiler) partOf(d *division, p party, crowd uint32) {
	p.ends = common(p.ends, d.ends)
	if len(p.ends) == 0 {
		return
	}
	at := slices.IndexFunc(d.parts, func(o party) bool { return o.class == p.class && slices.Equal(o.ends, p.ends) })
	if at < 0 {
		at, d.parts = len(d.parts), append(slices.Clip(d.parts), p)
	}
	c.table.parts[d.first+crowd] = uint32(at + 1) // no peer of an older table is of the crowd
}

// layFormed lays the fourth layer of callees' crowds that there were not.
func (e *edit) layFormed(put func(pairKey, pairing, names)) {
	c, t := e.compiler, e.table
	if t.crowds == nil {
		return
	}
	for _, crowd := range e.formed[SideIn] {
		callee := c.wide.crowds[SideIn][crowd]
		d := c.divide(SideOut, c.facing(callee.ends, c.wide.froms))
		t.crowds = append(t.crowds, d.first)
		for i, caller := range d.parts {
			for _, proto := range nameProtos {
				put(keyOf(firstPart+uint32(i+1), firstCrowd+crowd, proto), pairing{caller, callee, proto}, 0)
			}
		}
	}
}

// layNewParts lays the parts of divisions that there were not, for all who have those
// divisions.
func (e *edit) layNewParts(anew [2]map[uint32][]uint32, put func(pairKey, pairing, names)) {
	c, t := e.compiler, e.table
	if len(anew[SideOut])+len(anew[SideIn]) == 0 {
		return
	}
	parts := make(map[uint32][]party)
	for side := range c.wide.divisions {
		for _, d := range c.wide.divisions[side] {
			parts[d.first] = d.parts
		}
	}
	for dense := range t.peers {
		peer, self := uint32(dense), c.parties[dense]
		if e.gone[peer] {
			continue
		}
		callee, caller := t.peers[dense].asCallee.division, t.peers[dense].asCaller.division
		for _, proto := range nameProtos {
			for _, i := range anew[SideOut][callee] {
				put(keyOf(firstPart+i, peer, proto), pairing{parts[callee][i-1], self, proto}, namesCallee)
			}
			for _, i := range anew[SideIn][caller] {
				put(keyOf(peer, firstPart+i, proto), pairing{self, parts[caller][i-1], proto}, namesCaller)
			}
		}
	}
	for crowd, division := range t.crowds {
		for _, i := range anew[SideOut][division] {
			for _, proto := range nameProtos {
				put(keyOf(firstPart+i, firstCrowd+uint32(crowd), proto), pairing{parts[division][i-1], c.wide.crowds[SideIn][crowd], proto}, 0)
			}
		}
	}
}

// latePairs are places that are others than those that Compile made; immutable.
type latePairs struct {
	seed   hashSeed
	shards [lateShards][]latePlace
	count  int
}

const lateShards = 256

// latePlace without spans is one that is none any more.
type latePlace struct {
	key   pairKey
	spans []span
}

func (l *latePairs) shard(k pairKey) uint8 { return uint8(fold(uint64(k)^l.seed.a, l.seed.b) >> 56) }

func (l *latePairs) get(k pairKey) (spans []span, found bool) {
	s := l.shards[l.shard(k)]
	for i := range s {
		if s[i].key == k {
			return s[i].spans, true
		}
	}
	return nil, false
}

// with is what there is after these places, without those of who is gone.
func (l *latePairs) with(places map[pairKey][]span, gone map[uint32]bool) *latePairs {
	out := &latePairs{seed: newHashSeed()}
	if l != nil {
		*out = *l
	}
	if len(gone) > 0 {
		for i, s := range out.shards {
			left := slices.DeleteFunc(slices.Clone(s), func(p latePlace) bool { return gone[p.key.from()] || gone[p.key.to()] })
			out.count -= len(s) - len(left)
			out.shards[i] = left
		}
	}
	var fresh [lateShards]bool // a shard that is out's own
	for k, spans := range places {
		i := out.shard(k)
		if !fresh[i] {
			out.shards[i], fresh[i] = slices.Clone(out.shards[i]), true
		}
		s := &out.shards[i]
		if at := slices.IndexFunc(*s, func(p latePlace) bool { return p.key == k }); at >= 0 {
			(*s)[at].spans = spans
			continue
		}
		*s = append(*s, latePlace{k, spans})
		out.count++
	}
	return out
}

package policy

import (
	"net/netip"
	"slices"
)

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

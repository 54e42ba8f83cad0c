package policy

import "slices"

// A statement that differs in whom its selections mean alone is amended: who joined
// gets rules of its own, beside the set of those who are meant already, and rules of
// those who left are taken out. A set keeps those of its peers that are gone: nobody
// is at their addresses, and nobody else gets their numbers.

// maxDirect bounds the ends on one side of an amended statement; of more, Compile makes
// a set.
const maxDirect = 64

// amendment is one statement that means others than before.
type amendment struct {
	n      int32
	at     int // its place among all statements
	before *Statement
	after  *Statement
	was    []clause
	left   []clause   // who is meant no more
	again  []clause   // who is meant still, and turned
	lb     [][]uint32 // by clause: who admits balancers before and after
	out    []int32    // rules that are to be taken out
}

// clause is the ends, by Side, of what a statement says, or of its exception.
type clause [2][]uint32

// clauses are what a statement says, and its exceptions.
func (s *Statement) clauses() []Exception {
	return append([]Exception{{From: s.From, To: s.To, App: s.App, Ports: s.Ports, AnyPort: s.AnyPort}}, s.Except...)
}

func (x *Exception) side(s Side) []Peer {
	if s == SideOut {
		return x.From
	}
	return x.To
}

// amends reports whether two statements differ in the identities of selections alone,
// and in what is said of where they come from, and are such as can be amended.
func amends(before, after *Statement) bool {
	if before.ID != after.ID || before.Verdict != after.Verdict || before.Tier != after.Tier || before.Speaks != after.Speaks ||
		before.EnforceAlways != after.EnforceAlways || before.Pending != "" || after.Pending != "" || len(before.Except) > 1 || asksNames(*before) || asksNames(*after) {
		return false
	}
	return slices.EqualFunc(before.clauses(), after.clauses(), func(was, is Exception) bool {
		return was.App == is.App && was.AnyPort == is.AnyPort && slices.Equal(was.Ports, is.Ports) &&
			slices.EqualFunc(was.From, is.From, sameBut) && slices.EqualFunc(was.To, is.To, sameBut)
	})
}

// sameBut reports whether both are the same but for who is selected.
func sameBut(a, b Peer) bool {
	if a.Kind != PeerSelector || b.Kind != PeerSelector {
		return a == b
	}
	return a.Name == b.Name && a.Selected != nil && b.Selected != nil && slices.Equal(a.Selected.Prefixes, b.Selected.Prefixes)
}

// selected are the identities that peers select.
func selected(peers []Peer) map[Identity]bool {
	out := make(map[Identity]bool)
	for i := range peers {
		if s := peers[i].Selected; peers[i].Kind == PeerSelector && s != nil {
			for _, id := range s.Identities {
				out[id] = true
			}
		}
	}
	return out
}

// pair makes amendments of the statements that are removed and added again, but for
// those that name a service of which groups come or go.
func (e *edit) pair(order []int32) bool {
	again := make(map[string]int, len(e.Added))
	for _, at := range e.Added {
		again[e.Statements[at].ID] = at
	}
	u, stays := *e.Update, make(map[int]bool)
	u.Removed, u.Added = nil, nil
	for _, place := range e.Removed {
		n := order[place]
		s := e.table.statements[n]
		at, is := again[s.ID]
		if !is || e.concerned(n) || !amends(s, e.Statements[at]) {
			u.Removed = append(u.Removed, place)
			continue
		}
		stays[at] = true
		a := amendment{n: n, at: at, before: s, after: e.Statements[at]}
		if !e.depart(&a) {
			return false
		}
		e.amended = append(e.amended, a)
	}
	for _, at := range e.Added {
		if !stays[at] {
			u.Added = append(u.Added, at)
		}
	}
	e.Update = &u
	return true
}

// concerned reports whether a statement names a service of which groups come or go.
func (e *edit) concerned(n int32) bool {
	for _, k := range e.services {
		if e.naming[k][n] {
			return true
		}
	}
	return false
}

// depart finds who is meant no more, and what rules are theirs.
func (e *edit) depart(a *amendment) bool {
	c := e.compiler
	ok := true
	if a.was, ok = e.endsWritten(a); !ok {
		return false
	}
	after := a.after.clauses()
	for i, x := range a.before.clauses() {
		var left, again clause
		for side := range left {
			is := selected(after[i].side(Side(side)))
			for id := range selected(x.side(Side(side))) {
				dense, now := e.before.denseOf(id), e.becomes(id)
				switch {
				case dense == 0 || e.isNamed(id, x.side(Side(side))):
				case now != 0 && is[now]:
					again[side] = append(again[side], dense)
				case now != 0 || !is[id] || slices.Contains(e.Gone, id):
					left[side] = append(left[side], dense)
				}
			}
		}
		a.left, a.again = append(a.left, left), append(a.again, again)
		r := ruleOf(a.before, i, &x)
		lb := slices.Clone(c.behindBalancer(&r, a.was[i][SideOut], a.was[i][SideIn]))
		a.lb = append(a.lb, slices.DeleteFunc(lb, func(d uint32) bool { return e.lost[e.before.ids[d]] || slices.Contains(again[SideIn], d) }))
	}
	for _, rule := range e.written[a.n] {
		ends, clause := c.ruleEnds[rule], 0
		if c.table.rules[rule].Except {
			clause = 1
		}
		if !a.parts(clause, SideOut, ends.from) && !a.parts(clause, SideIn, ends.to) {
			continue
		}
		if !e.concern(rule) {
			return false
		}
		a.out = append(a.out, rule)
	}
	return true
}

// parts reports whether rules of an end, as they are, are none any more.
func (a *amendment) parts(clause int, side Side, end uint32) bool {
	return slices.Contains(a.left[clause][side], end) || slices.Contains(a.again[clause][side], end)
}

// isNamed reports whether peers mean an identity by its service too.
func (e *edit) isNamed(id Identity, peers []Peer) bool {
	g, _ := e.before.Group(id)
	return !g.Shut && slices.ContainsFunc(peers, func(p Peer) bool {
		return p.Kind == PeerService && p.Service == g.Service && (p.Identity == 0 || p.Identity == id)
	})
}

// endsWritten are those of the rules of a statement, which are all known.
func (e *edit) endsWritten(a *amendment) ([]clause, bool) {
	if ends, known := e.ends[a.n]; known {
		return ends, true
	}
	c := e.compiler
	all := len(c.placed.collectives)
	var out []clause
	for i, x := range a.before.clauses() {
		r := ruleOf(a.before, i, &x)
		out = append(out, clause{c.gathered(c.terms(x.From, SideOut, &r)), c.gathered(c.terms(x.To, SideIn, &r))})
	}
	return out, len(c.placed.collectives) == all
}

// amend writes what amended statements say of those who joined.
func (e *edit) amend(order []int32) bool {
	if len(e.amended) == 0 {
		return true
	}
	e.table.statements = slices.Clone(e.table.statements)
	e.thinSets()
	for i := range e.amended {
		a := &e.amended[i]
		if a.at >= len(order) || order[a.at] != a.n || !e.canWrite(a.after) || !e.join(a) {
			return false
		}
		e.table.statements[a.n] = a.after
	}
	return true
}

// thinSets takes those who are gone out of what sets are said to be.
func (e *edit) thinSets() {
	c, t := e.compiler, e.table
	thin := make(map[uint32]bool)
	for dense := range e.gone {
		for _, end := range c.placed.above[dense] {
			if c.collective(end).set > 0 {
				thin[end] = true
			}
		}
	}
	if len(thin) == 0 {
		return
	}
	rules := e.rulesOfEnds(thin)
	for rule := range rules {
		e.flat -= t.flatCount(&t.rules[rule])
	}
	t.sets = slices.Clone(t.sets)
	for end := range thin {
		set := c.collective(end).set
		t.sets[set] = slices.DeleteFunc(slices.Clone(t.sets[set]), func(r RuleEnd) bool { return slices.Contains(e.Gone, r.Identity) })
	}
	for rule := range rules {
		e.flat += t.flatCount(&t.rules[rule])
	}
}

// rulesOfEnds are the rules that have one of these at an end.
func (e *edit) rulesOfEnds(ends map[uint32]bool) map[int32]bool {
	out := make(map[int32]bool)
	note := func(rules []int32) {
		for _, r := range rules {
			out[r] = true
		}
	}
	for end := range ends {
		for k := range e.byFrom[end] {
			note(e.compiler.buckets[k][end])
		}
		for _, proto := range nameProtos {
			for _, rules := range e.compiler.buckets[toward{end, proto}] {
				note(rules)
			}
		}
	}
	return out
}

// join writes the rules of those who joined a statement.
func (e *edit) join(a *amendment) bool {
	c, first := e.compiler, len(e.table.rules)
	c.expanding = int(a.n)
	before := a.before.clauses()
	ends := make([]clause, len(before))
	for i, x := range a.after.clauses() {
		var joined clause
		for side := range joined {
			if !e.canLeave(a.was[i][side], a.left[i][side]) {
				return false
			}
			stay := slices.DeleteFunc(slices.Clone(a.was[i][side]), func(end uint32) bool { return a.parts(i, Side(side), end) })
			joined[side] = e.joined(selected(before[i].side(Side(side))), selected(x.side(Side(side))))
			joined[side] = slices.DeleteFunc(joined[side], func(dense uint32) bool {
				inSet := slices.Contains(a.again[i][side], dense) && !slices.Contains(a.was[i][side], dense)
				return inSet || slices.Contains(stay, dense)
			})
			if ends[i][side] = append(stay, joined[side]...); len(ends[i][side]) > maxDirect {
				return false
			}
		}
		r := ruleOf(a.after, i, &x)
		r.Statement = int(a.n)
		admitted := c.behindBalancer(&r, ends[i][SideOut], ends[i][SideIn])
		if !x.speaks() || slices.ContainsFunc(a.lb[i], func(d uint32) bool { return !e.gone[d] && !slices.Contains(admitted, d) }) {
			return false
		}
		c.expandEnds(r, &x, ends[i], func(from, to uint32) bool {
			return slices.Contains(joined[SideOut], from) || slices.Contains(joined[SideIn], to)
		}, a.lb[i])
	}
	e.ends[a.n] = ends
	return e.takeIn(a.n, first)
}

// joined are those who are selected now and were not there to be.
func (e *edit) joined(before, after map[Identity]bool) []uint32 {
	var out []uint32
	for id := range after {
		was := before[id] && e.before.denseOf(id) != 0 && !slices.Contains(e.Gone, id)
		if dense := e.table.denseOf(id); dense != 0 && !was {
			out = append(out, dense)
		}
	}
	return out
}

// canLeave reports whether those who left were ends themselves and in no set, or are
// gone from sets that mean others still.
func (e *edit) canLeave(ends, left []uint32) bool {
	for _, dense := range left {
		inSet := func(end uint32) bool { return isCollective(end) && slices.Contains(e.compiler.peersOf(end), dense) }
		if !e.gone[dense] && (!slices.Contains(ends, dense) || slices.ContainsFunc(ends, inSet)) {
			return false
		}
	}
	return len(left) == 0 || !slices.ContainsFunc(ends, func(end uint32) bool { return isCollective(end) && !e.isAlive(end) })
}

// isAlive reports whether an end means somebody who is there.
func (e *edit) isAlive(end uint32) bool {
	if !isCollective(end) {
		return e.table.denseOf(e.table.ids[end]) == end
	}
	s := e.compiler.collective(end)
	return s.set == 0 || slices.ContainsFunc(s.ends, e.isAlive)
}

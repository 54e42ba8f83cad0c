package policy

import "slices"

// turning is a group that became another one as a whole: by its mode, or as it was put
// in quarantine. It keeps its dense number, so that what is found by addresses stays as
// it is, however many workloads it has.
type turning struct {
	dense   uint32
	was, is Group
}

// turned finds the groups that turn in an update of t, and what the update is beside
// them. Who may ask for names does not: his workloads are known by numbers for which
// rules are laid already.
func (u *updater) turned(t *Table, up *Update) ([]turning, *Update) {
	if len(up.Gone) == 0 || len(up.Came) == 0 || slices.ContainsFunc(up.Added, func(at int) bool { return asksNames(*up.Statements[at]) }) {
		return nil, up
	}
	if !u.ready {
		u.prepare()
	}
	var out []turning
	rest := *up
	for id, stay := range up.staying() {
		at := slices.IndexFunc(up.Came, func(g Group) bool { return g.Identity == stay.group })
		was, known := t.Group(id)
		if at < 0 || !known || !slices.Contains(up.Gone, id) || stay.count != len(was.Members) || stay.count != len(up.Came[at].Members) {
			continue
		}
		g := turning{t.denseOf(id), was, up.Came[at]}
		if t.names.asks(g.dense) || u.mayAsk(g.is.Service) || !u.keepsSets(t, up, &g) {
			continue
		}
		out = append(out, g)
		rest.Gone = slices.DeleteFunc(slices.Clone(rest.Gone), func(o Identity) bool { return o == id })
		rest.Came = slices.DeleteFunc(slices.Clone(rest.Came), func(o Group) bool { return o.Identity == stay.group })
		rest.Changes = slices.DeleteFunc(slices.Clone(rest.Changes), func(c Change) bool { return c.Group == id || c.Group == stay.group })
	}
	return out, &rest
}

// stayer is the group that workloads of another one went to.
type stayer struct {
	group Identity
	count int
}

// staying are, by the group that they were of, those workloads of an update that are the
// same as before but for their group, where that is one.
func (u *Update) staying() map[Identity]stayer {
	was := make(map[*Workload]Identity)
	for i := range u.Changes {
		if c := &u.Changes[i]; c.Gone {
			was[c.Workload] = c.Group
		}
	}
	out := make(map[Identity]stayer)
	for i := range u.Changes {
		c := &u.Changes[i]
		old, same := was[c.Workload]
		if c.Gone || !same {
			continue
		}
		s, again := out[old]
		if again && s.group != c.Group {
			continue // it is not the whole of any
		}
		out[old] = stayer{c.Group, s.count + 1}
	}
	return out
}

// mayAsk reports whether some statement of a service is about names.
func (u *updater) mayAsk(k ServiceKey) bool {
	for n := range u.naming[k] {
		if asksNames(*u.compiler.table.statements[n]) {
			return true
		}
	}
	return false
}

// keepsSets reports whether each statement that selects a group selects what it became:
// nobody who is there leaves a set.
func (u *updater) keepsSets(t *Table, up *Update, g *turning) bool {
	c := u.compiler
	if !slices.ContainsFunc(c.placed.above[g.dense], func(end uint32) bool { return c.collective(end).set > 0 }) {
		return true
	}
	again := make(map[string]*Statement, len(up.Added))
	for _, at := range up.Added {
		again[up.Statements[at].ID] = up.Statements[at]
	}
	order := t.edited.orderOf(len(t.statements))
	for _, place := range up.Removed {
		s := t.statements[order[place]]
		after, is := again[s.ID]
		if !is {
			continue
		}
		now := after.clauses()
		for i, was := range s.clauses() {
			for side := range Side(2) {
				if selects(was.side(side), g.was.Identity) && (i >= len(now) || !selects(now[i].side(side), g.is.Identity)) {
					return false
				}
			}
		}
	}
	return true
}

// selects reports whether peers select an identity.
func selects(peers []Peer, id Identity) bool {
	return slices.ContainsFunc(peers, func(p Peer) bool {
		return p.Kind == PeerSelector && p.Selected != nil && slices.Contains(p.Selected.Identities, id)
	})
}

// turn makes a group's peer one of the group that it became. Rules that name it are
// taken out before.
func (e *edit) turn(g *turning) bool {
	c, t := e.compiler, e.table
	if !g.is.canCome(t) || len(c.placed.variants[g.dense]) > 0 || e.isMeant(g.dense) {
		return false
	}
	c.byService[g.was.Service] = slices.DeleteFunc(c.byService[g.was.Service], func(d uint32) bool { return d == g.dense })
	t.byIdentity.Delete(g.was.Identity)
	e.renameInSets(g)
	layers := t.peers[g.dense].layers // of what Compile laid
	ok := e.settle(g.dense, &g.is)
	t.peers[g.dense].layers |= layers
	return ok
}

// renameInSets has sets name a group as it is now.
func (e *edit) renameInSets(g *turning) {
	c, t := e.compiler, e.table
	sets := slices.Clone(t.sets)
	for _, end := range c.placed.above[g.dense] {
		set := c.collective(end).set
		if set == 0 {
			continue
		}
		sets[set] = slices.Clone(sets[set])
		for i := range sets[set] {
			if sets[set][i].Identity == g.was.Identity {
				sets[set][i].Identity = g.is.Identity
			}
		}
	}
	t.sets = sets
}

// becomes is the identity that a group turned to, or 0.
func (e *edit) becomes(id Identity) Identity {
	for i := range e.turned {
		if e.turned[i].was.Identity == id {
			return e.turned[i].is.Identity
		}
	}
	return 0
}

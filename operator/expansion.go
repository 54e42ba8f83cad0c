package operator

import (
	"maps"
	"slices"
	"strings"

	"gatehouse/models"
	"gatehouse/policy"
)

// Expansion is what the statements of a policy mean at a moment, and how to tell
// what that becomes as services come and go.
type Expansion struct {
	policy *Policy
	moment Moment
	shared *expanding
}

// expanding is the newest expansion's of those that follow from one another.
type expanding struct {
	*expansion
	newest  *Expansion
	of      [][]policy.Statement // by statement of the policy
	naming  map[string][]int     // statements by a service that terms name
	looking []int                // statements with a term that means services by something else
}

// NewExpansion expands all statements.
func (p *Policy) NewExpansion(pop *models.Population, c *Catalog, m Moment) *Expansion {
	shared := &expanding{expansion: newExpansion(pop, c), of: make([][]policy.Statement, len(p.Statements)), naming: make(map[string][]int)}
	e := &Expansion{policy: p, moment: m, shared: shared}
	shared.newest = e
	for i := range p.Statements {
		s := &p.Statements[i]
		shared.of[i] = shared.statement(s, m)
		looks := false
		for t := range s.terms {
			if t.Service != "" && t.Within == WithinAll {
				shared.naming[t.Service] = append(shared.naming[t.Service], i)
			} else {
				looks = looks || t.looks()
			}
		}
		if looks || s.parts() {
			shared.looking = append(shared.looking, i)
		}
	}
	return e
}

// looks reports whether who is meant depends on what workloads are, besides their
// service.
func (t *Term) looks() bool { return t.selectsWorkloads() || len(t.Categories) > 0 }

// parts reports whether some term of the statement reaches less than everywhere: then
// who is anybody counts too.
func (s *Statement) parts() bool {
	for t := range s.terms {
		if t.Within != WithinAll {
			return true
		}
	}
	return false
}

// Statements are all, in the order of the files, of the newest of the expansions that
// follow from one another.
func (e *Expansion) Statements() []policy.Statement { return slices.Concat(e.shared.of...) }

// Edit is how statements of an expansion differ from those of the one before it.
type Edit struct {
	At      int // of the statements before: the place where
	Removed int // so many are no more
	Added   []policy.Statement
}

// Next is the expansion after subjects became others, at a moment, and what differs, in
// order. c says of subjects that stay, and of whoever is outside, what the catalog before
// said. Without ok e is not the newest.
func (e *Expansion) Next(pop *models.Population, c *Catalog, m Moment, were, are []models.Subject) (next *Expansion, edits []Edit, ok bool) {
	x := e.shared
	if x.newest != e {
		return nil, nil, false
	}
	next = &Expansion{e.policy, m, x}
	x.newest, x.match, x.catalog = next, pop.Match, c
	concerned := make(map[int]bool)
	for _, i := range e.policy.timely {
		if s := &e.policy.Statements[i]; m != e.moment && (s.Active(m) != s.Active(e.moment) || s.state(m) != s.state(e.moment)) {
			concerned[i] = true
		}
	}
	for i := range were {
		x.concern(&were[i], concerned)
		x.forget(&were[i])
	}
	for i := range are {
		x.concern(&are[i], concerned)
		x.learn(&are[i])
	}
	others := slices.Concat(were, are)
	for i := range concerned {
		for t := range e.policy.Statements[i].terms {
			text := x.text(t)
			delete(x.meant, meaning{text, true})
			delete(x.meant, meaning{text, false})
		}
	}
	at, last := 0, 0
	for _, i := range slices.Sorted(maps.Keys(concerned)) {
		for ; last < i; last++ {
			at += len(x.of[last])
		}
		before := x.of[i]
		x.of[i] = x.again(&e.policy.Statements[i], m, before, others)
		edits = appendEdits(edits, at, before, x.of[i])
		at, last = at+len(before), i+1
	}
	return next, edits, true
}

// again is what a statement, which was expanded before, becomes as subjects were or
// are others. One that is parted in one way alone is expanded anew in their cells.
func (x *expanding) again(s *Statement, m Moment, before []policy.Statement, others []models.Subject) []policy.Statement {
	from, to := byWithin(s.From), byWithin(s.To)
	if len(from) != 1 || len(to) != 1 || len(s.Apps) != 1 || len(s.Except) > 0 || s.state(m) != "" || before[0].ID == s.ID {
		return x.statement(s, m) // one that is in no parts has its own id
	}
	fw, tw := s.From[0].Within, s.To[0].Within
	theirs, ids := make(map[string]bool), make(map[string]bool)
	for i := range others {
		for _, name := range cellsOf(&others[i], []Within{fw, tw}) {
			theirs[name], ids[s.ID+"~"+name] = true, true
		}
	}
	out := slices.DeleteFunc(slices.Clone(before), func(st policy.Statement) bool { return ids[st.ID] })
	loosens := s.Verdict == policy.Allow
	for _, st := range x.statementOf(s, m, x.split(cell{from: x.peers(from[fw], loosens), to: x.peers(to[tw], loosens)}, theirs, fw, tw)) {
		at, _ := slices.BinarySearchFunc(out, st.ID, func(o policy.Statement, id string) int { return strings.Compare(o.ID, id) })
		out = slices.Insert(out, at, st)
	}
	if len(out) == 0 {
		return x.statement(s, m)
	}
	return out
}

// appendEdits appends what makes one list of statements the other. Those that both
// have stand in the same order, as parts of one statement do.
func appendEdits(edits []Edit, at int, before, after []policy.Statement) []Edit {
	stays := make(map[string]bool, len(after))
	for i := range after {
		stays[after[i].ID] = true
	}
	put := func(i, removed int, added []policy.Statement) { edits = append(edits, Edit{at + i, removed, added}) }
	i := 0
	for j := range after {
		for i < len(before) && !stays[before[i].ID] {
			put(i, 1, nil)
			i++
		}
		switch {
		case i == len(before) || before[i].ID != after[j].ID:
			put(i, 0, after[j:j+1])
		case !sameMeant(&before[i], &after[j]):
			put(i, 1, after[j:j+1])
			i++
		default:
			i++
		}
	}
	for ; i < len(before); i++ {
		put(i, 1, nil)
	}
	return edits
}

// sameMeant reports whether statements of one id, which come of one statement of the
// policy, mean the same and are in force alike: in the rest they are equal.
func sameMeant(a, b *policy.Statement) bool {
	return a.While == b.While && a.Pending == b.Pending && slices.EqualFunc(a.From, b.From, samePeer) && slices.EqualFunc(a.To, b.To, samePeer) &&
		slices.EqualFunc(a.Except, b.Except, func(x, y policy.Exception) bool {
			return x.App == y.App && x.AnyPort == y.AnyPort && slices.Equal(x.Ports, y.Ports) &&
				slices.EqualFunc(x.From, y.From, samePeer) && slices.EqualFunc(x.To, y.To, samePeer)
		})
}

func samePeer(a, b policy.Peer) bool {
	s, o := a.Selected, b.Selected
	a.Selected, b.Selected = nil, nil
	if a != b || s == o {
		return a == b
	}
	return s != nil && o != nil && slices.Equal(s.Identities, o.Identities) && slices.Equal(s.Prefixes, o.Prefixes)
}

// concern notes the statements that may mean a subject.
func (x *expanding) concern(s *models.Subject, concerned map[int]bool) {
	for name := range namesOf(s) {
		for _, i := range x.naming[name] {
			concerned[i] = true
		}
	}
	for _, i := range x.looking {
		for t := range x.newest.policy.Statements[i].terms {
			if t.Within != WithinAll || t.looks() && (x.fits(s, t, true) || x.fits(s, t, false)) {
				concerned[i] = true
				break
			}
		}
	}
}

func (x *expanding) forget(s *models.Subject) {
	is := func(o *models.Subject) bool { return o.Identity == s.Identity }
	x.subjects = slices.DeleteFunc(x.subjects, is)
	delete(x.byID, s.Identity)
	maps.DeleteFunc(x.said, func(k saying, _ []value) bool { return k.id == s.Identity })
	for name := range namesOf(s) {
		x.byService[name] = slices.DeleteFunc(x.byService[name], is)
	}
}

func (x *expanding) learn(s *models.Subject) {
	put := func(list []*models.Subject) []*models.Subject {
		at, _ := slices.BinarySearchFunc(list, s, (*models.Subject).Compare)
		return slices.Insert(list, at, s)
	}
	x.subjects, x.byID[s.Identity] = put(x.subjects), s
	for name := range namesOf(s) {
		x.byService[name] = put(x.byService[name])
	}
}

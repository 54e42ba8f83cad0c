package models

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"gatehouse/policy"
)

// maxVicinity bounds how many groups, and how many workloads that stand for all, are
// understood anew for one change.
const maxVicinity = 256

// edit is Next for changes that change statements: the vicinity of those who changed
// is understood as it was and as it is, and the difference is what there is to it.
func (p *Population) edit(changes []Transition) (*Population, *Difference, bool) {
	next := *p
	next.index = nil
	next.known, next.standing, next.late, next.ties = p.known.Copy(), p.standing.Copy(), p.late.Copy(), p.ties.Copy()
	e := edit{Population: &next, before: p, leave: make(map[string]bool)}
	for _, c := range changes {
		if !e.takes(c) {
			return nil, nil, false
		}
	}
	if !e.gather() {
		return nil, nil, false
	}
	number := func(key string) policy.Identity {
		if st, ok := p.standing.Get(key); ok {
			return st.subject.group.Identity
		}
		return p.number(key)
	}
	is := next.alike(slices.Concat(e.stay, e.came), number)
	e.said = sayingsOf(is)
	d := new(Difference)
	e.compare(d, e.saidBefore(number))
	e.regroup(d, is)
	return e.Population, d, true
}

func sayingsOf(p *Population) *sayings {
	s := &sayings{groups: len(p.Groups)}
	s.statements, s.findings = p.Statements()
	s.findings = ofServices(s.findings)
	return s
}

// saidBefore is what the vicinity came to before the change.
func (e *edit) saidBefore(number func(string) policy.Identity) *sayings {
	var all *sayings
	for i, key := range e.vicinal {
		st, _ := e.before.standing.Get(key)
		if i == 0 {
			all = st.said
		}
		if st.said != all {
			all = nil
		}
	}
	if all != nil && all.groups == len(e.vicinal) {
		return all
	}
	return sayingsOf(e.before.alike(slices.Concat(e.stay, e.left), number))
}

type edit struct {
	*Population // as it is to be
	before      *Population
	left, came  []*known
	leave       map[string]bool
	stay        []*known // who stand for those that stay
	vicinal     []string // keys of groups of the vicinity
	regrouped   []keyedGroup
	said        *sayings // of the vicinity as it is to be
}

// takes notes one change. It is false for one that has to do with the network
// namespaces of others or with the host's, or that cannot be used.
func (e *edit) takes(c Transition) bool {
	if w := c.Before; w != nil {
		k, ok := e.before.known.Get(w.ID)
		if !ok || k.kind.print == "" || !e.isSpared(k.match.Model) {
			return false
		}
		e.left = append(e.left, k)
		e.leave[w.ID] = true
	}
	w := c.After
	if w == nil {
		return true
	}
	k := &known{Workload: w, match: e.match(w)}
	if w.SharedWith != "" || e.sought.owners[w.ID] || isHostMode(w) || !e.isCommon(k.match.Model) || len(e.assembly.problems(w)) > 0 {
		return false
	}
	e.came = append(e.came, k)
	return true
}

// isCommon: that a workload of a model is there makes no other label part of
// identities.
func (e *edit) isCommon(m *Model) bool {
	in := map[*Model]bool{m: true}
	for _, key := range selectedLabels(in, nil) {
		if !slices.Contains(e.assembly.selected, key) {
			return false
		}
	}
	return m.Routes == nil || slices.ContainsFunc(e.assembly.routes, func(r *Routes) bool { return r == m.Routes })
}

// isSpared: that no workload of a model were there would leave all labels that are
// part of identities as they are.
func (e *edit) isSpared(m *Model) bool {
	return m.Routes == nil && len(selectedLabels(map[*Model]bool{m: true}, nil)) == 0
}

// gather finds the vicinity of those who leave and come.
func (e *edit) gather() bool {
	var projects, ties []string
	for _, k := range e.left {
		projects = append(projects, projectText(k.Service))
	}
	for _, k := range e.came {
		projects = append(projects, projectText(k.Service))
		ties = append(ties, e.tiesOf(k.Workload)...)
	}
	var ok bool
	if e.vicinal, ok = e.before.vicinity(projects, ties, maxVicinity); !ok {
		return false
	}
	e.look()
	for _, key := range e.vicinal {
		some, others := e.before.some(key, e.leave)
		if e.stay = append(e.stay, some...); len(e.stay) > maxVicinity || e.lookedFor(others) {
			return false
		}
	}
	return true
}

// look notes what those who come look for that nobody did.
func (e *edit) look() {
	of := sought{make(map[string]bool), make(map[netip.Addr]bool), make(map[string]bool)}
	for _, k := range e.came {
		of.by(k.Workload)
	}
	for name := range of.names {
		if !e.sought.names[name] {
			e.late.Set(name, true)
		}
	}
	for a := range of.addresses {
		if !e.sought.addresses[a] {
			e.late.Set(a.String(), true)
		}
	}
}

// lookedFor reports whether somebody looks for one of those for whom another stands,
// and did not when they were said to be of one kind.
func (e *edit) lookedFor(others []*known) bool {
	if e.late.Len() == 0 {
		return false
	}
	for _, k := range others {
		w := k.Workload
		names := append(swarmNames(w), w.Name, w.Service.Name)
		for i := range w.Endpoints {
			names = append(names, w.Endpoints[i].Aliases...)
			if slices.ContainsFunc(w.Endpoints[i].Addresses, func(a netip.Addr) bool { return e.isLate(a.Unmap().String()) }) {
				return true
			}
		}
		if slices.ContainsFunc(names, func(n string) bool { return e.isLate(plainName(n)) }) {
			return true
		}
	}
	return false
}

// compare lists the statements and findings that differ.
func (e *edit) compare(d *Difference, was *sayings) {
	before, now := was.statements, e.said.statements
	d.FoundBefore, d.FoundNow = was.findings, e.said.findings
	byID := make(map[string]*policy.Statement, len(before))
	for i := range before {
		byID[before[i].ID] = &before[i]
	}
	same := make(map[string]bool)
	for i := range now {
		if old := byID[now[i].ID]; old != nil && reflect.DeepEqual(*old, now[i]) {
			same[now[i].ID] = true
		} else {
			d.Added = append(d.Added, now[i])
		}
	}
	for i := range before {
		if !same[before[i].ID] {
			d.Removed = append(d.Removed, before[i])
		}
	}
}

func ofServices(all []Finding) []Finding {
	return slices.DeleteFunc(all, func(f Finding) bool { return f.Workload != "" })
}

// regroup makes the groups of the vicinity what they are now, and tells what of them
// differs.
func (e *edit) regroup(d *Difference, is *Population) {
	for _, k := range e.left {
		old := e.before.groupOf(k.key)
		d.Changes = append(d.Changes, policy.Change{Workload: k.Workload, Group: old.Identity, Gone: true})
		e.known.Delete(k.ID)
	}
	members := make(map[string][]string)
	for _, key := range e.vicinal {
		st, _ := e.before.standing.Get(key)
		e.tieGroup(key, st, -1)
		members[key] = e.before.groupOf(key).Members
		for _, k := range e.left {
			if k.key == key {
				members[key] = slices.DeleteFunc(slices.Clone(members[key]), func(id string) bool { return id == k.ID })
			}
		}
	}
	for _, k := range e.came {
		now, _ := is.known.Get(k.ID)
		k.key, k.findings = now.key, now.findings
		at, _ := slices.BinarySearch(members[k.key], k.ID)
		members[k.key] = slices.Insert(slices.Clone(members[k.key]), at, k.ID)
		e.known.Set(k.ID, k)
	}
	for _, key := range e.vicinal {
		if _, stays := is.standing.Get(key); !stays {
			st, _ := e.before.standing.Get(key)
			d.Gone = append(d.Gone, st.subject.group.Identity)
			d.Were = append(d.Were, e.before.subjectOf(st.subject, e.before.groupOf(key).Members))
			e.standing.Delete(key)
		}
	}
	for i, key := range is.keys {
		e.stand(key, members[key], is)
		group := is.Groups[i]
		group.Members = members[key]
		e.place1(d, key, group)
	}
	e.order()
	for i := range d.Changes {
		c := &d.Changes[i]
		c.Last = slices.Contains(d.Gone, c.Group)
		if !c.Last {
			k, _ := e.before.known.Get(c.Workload.ID)
			c.Beside = e.beside(members[k.key], k.kind)
		}
	}
	for _, k := range e.came {
		g := e.groupOf(k.key)
		rest := slices.DeleteFunc(slices.Clone(g.Members), func(id string) bool {
			return slices.ContainsFunc(e.came, func(c *known) bool { return c.ID == id })
		})
		d.Changes = append(d.Changes, policy.Change{Workload: k.Workload, Group: g.Identity, Beside: e.beside(rest, k.kind)})
	}
}

// stand notes of which kinds the members of a group are.
func (e *edit) stand(key string, members []string, is *Population) {
	made, _ := is.standing.Get(key)
	st := &standing{subject: made.subject, said: e.said}
	old, _ := e.before.standing.Get(key)
	anew := make(map[*kind]*kind) // kinds of before, by what those who stand for them are now
	for _, id := range members {
		k, _ := e.known.Get(id)
		if now, ok := is.known.Get(id); ok {
			of := st.add(old.like(now.kind))
			if k.kind != nil {
				anew[k.kind] = of
			}
			next := *k
			next.kind, next.key, next.findings = of, key, now.findings
			e.known.Set(id, &next)
		}
	}
	for _, c := range e.came {
		if now, ok := e.known.Get(c.ID); ok {
			c.kind = now.kind
		}
	}
	if old != nil {
		e.standBehind(st, old, members, is, anew)
	}
	e.standing.Set(key, st)
	e.tieGroup(key, st, 1)
}

// standBehind counts in those for whom others stand.
func (e *edit) standBehind(st, old *standing, members []string, is *Population, anew map[*kind]*kind) {
	if st.count() == len(members) {
		return
	}
	for _, id := range members {
		if _, ok := is.known.Get(id); ok {
			continue
		}
		k, _ := e.known.Get(id)
		of := anew[k.kind]
		for i := range st.kinds {
			if st.kinds[i].kind == of {
				st.kinds[i].n++
			}
		}
		if of != k.kind {
			next := *k
			next.kind = of
			e.known.Set(id, &next)
		}
	}
}

// place1 notes a group that is there.
func (e *edit) place1(d *Difference, key string, g policy.Group) {
	st, _ := e.standing.Get(key)
	is := e.subjectOf(st.subject, g.Members)
	old, was := e.before.standing.Get(key)
	if !was {
		d.Came = append(d.Came, g)
		d.Are = append(d.Are, is)
	} else if were := e.before.subjectOf(old.subject, e.before.groupOf(key).Members); !sameSelected(&were, &is) {
		d.Were, d.Are = append(d.Were, were), append(d.Are, is)
	}
	e.regrouped = append(e.regrouped, keyedGroup{key, g})
}

type keyedGroup struct {
	key string
	policy.Group
}

// sameSelected reports whether operators' statements select both alike. What tells
// members apart is in identities.
func sameSelected(a, b *Subject) bool {
	x, y := *a, *b
	x.Members, y.Members = nil, nil
	return reflect.DeepEqual(x, y)
}

// order puts all groups in their order.
func (e *edit) order() {
	anew := make(map[string]*policy.Group, len(e.regrouped))
	for i := range e.regrouped {
		anew[e.regrouped[i].key] = &e.regrouped[i].Group
	}
	gone := make(map[string]bool)
	for _, key := range e.vicinal {
		gone[key] = anew[key] == nil
	}
	groups, keys := make([]policy.Group, 0, len(e.before.Groups)+1), make([]string, 0, len(e.before.Groups)+1)
	for i, key := range e.before.keys {
		switch g := anew[key]; {
		case g != nil:
			groups, keys = append(groups, *g), append(keys, key)
			delete(anew, key)
		case !gone[key]:
			groups, keys = append(groups, e.before.Groups[i]), append(keys, key)
		}
	}
	e.Groups, e.keys = groups, keys
	came := make([]string, 0, len(anew))
	for key := range anew {
		came = append(came, key)
	}
	slices.SortFunc(came, cmp.Compare[string])
	for _, key := range came {
		st, _ := e.standing.Get(key)
		at := e.place(st.subject)
		e.Groups, e.keys = slices.Insert(e.Groups, at, *anew[key]), slices.Insert(e.keys, at, key)
	}
}

package models

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"gatehouse/policy"
)

// maxVicinity bounds how many groups, and how many workloads that stand for all, are
// understood anew for one change: thousands take about as long as to understand all.
const maxVicinity = 4096

// edit is Next for changes that change statements: the vicinity of those who changed
// is understood as it was and as it is, and the difference is what there is to it.
func (p *Population) edit(under *assembly, changes []Transition) (*Population, *Difference, bool) {
	next := *p
	next.index, next.assembly = nil, under
	next.known, next.standing, next.late, next.ties, next.sharing = p.known.Copy(), p.standing.Copy(), p.late.Copy(), p.ties.Copy(), p.sharing.Copy()
	changes, ok := next.withNamespaces(changes)
	if !ok {
		return nil, nil, false
	}
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
	if !e.regroup(d, is) {
		return nil, nil, false
	}
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
	stay        []*known        // who stand for those that stay
	fresh       map[string]bool // names and addresses that nobody looked for before
	vicinal     []string        // keys of groups of the vicinity
	regrouped   []keyedGroup
	said        *sayings // of the vicinity as it is to be
}

// takes notes one change. It is false for one after which labels may be part of
// identities that were not, or the other way round.
func (e *edit) takes(c Transition) bool {
	var k *known
	if c.After != nil {
		k = &known{Workload: c.After, match: e.match(c.After)}
	}
	if w := c.Before; w != nil {
		was, ok := e.before.known.Get(w.ID)
		if !ok || (k == nil || k.match.Model != was.match.Model) && !e.isSpared(was.match.Model) {
			return false
		}
		e.left = append(e.left, was)
		e.leave[w.ID] = true
	}
	if k == nil {
		return true
	}
	if !e.isCommon(k.match.Model) {
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
		e.stay = append(e.stay, e.before.some(key, e.leave)...)
		if len(e.stay) > maxVicinity || len(e.fresh) > 0 && e.lookedFor(e.before.others(key, e.leave)) {
			return false
		}
	}
	return true
}

// look notes what those who come look for and nobody did when all was made: since
// then somebody may have, from another vicinity.
func (e *edit) look() {
	of := sought{make(map[string]bool), make(map[netip.Addr]bool)}
	for _, k := range e.came {
		of.by(k.Workload)
	}
	e.fresh = make(map[string]bool)
	for name := range of.names {
		if !e.sought.names[name] {
			e.fresh[name] = true
		}
	}
	for a := range of.addresses {
		if text := a.String(); !e.sought.addresses[a] {
			e.fresh[text] = true
		}
	}
	for what := range e.fresh {
		e.late.Set(what, true)
	}
}

// lookedFor reports whether somebody looks for one of those for whom another stands,
// and did not when they were said to be of one kind.
func (e *edit) lookedFor(others iter.Seq[*known]) bool {
	for k := range others {
		w := k.Workload
		names := append(swarmNames(w), w.Name, w.Service.Name)
		for i := range w.Endpoints {
			names = append(names, w.Endpoints[i].Aliases...)
			if slices.ContainsFunc(w.Endpoints[i].Addresses, func(a netip.Addr) bool { return e.fresh[a.Unmap().String()] }) {
				return true
			}
		}
		if slices.ContainsFunc(names, func(n string) bool { return e.fresh[plainName(n)] }) {
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
// differs. It is false where that cannot be told.
func (e *edit) regroup(d *Difference, is *Population) bool {
	for _, k := range e.left {
		old := e.before.groupOf(k.key)
		d.Changes = append(d.Changes, policy.Change{Workload: k.Workload, Group: old.Identity, Gone: true})
		e.known.Delete(k.ID)
	}
	members := make(map[string][]string)
	for _, key := range e.vicinal {
		st, _ := e.before.standing.Get(key)
		e.tieGroup(key, st, -1)
		if len(st.subject.within) > 0 {
			continue
		}
		members[key] = e.before.groupOf(key).Members
		for _, k := range e.left {
			if k.key == key {
				members[key] = deleted(members[key], k.ID)
			}
		}
	}
	for _, k := range e.came {
		now, _ := is.known.Get(k.ID)
		k.key, k.findings = now.key, now.findings
		members[k.key] = inserted(members[k.key], k.ID)
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
		if !e.stand(key, is) {
			return false
		}
		group := is.Groups[i]
		if !e.livesTogether(key, is) { // else all of it are among those who are understood, in another order
			group.Members = members[key]
		}
		e.place1(d, key, group)
	}
	e.order()
	for i := range d.Changes {
		c := &d.Changes[i]
		if !slices.Contains(d.Gone, c.Group) {
			k, _ := e.before.known.Get(c.Workload.ID)
			c.Beside = e.before.beside(k.key, k.kind, e.leave)
		}
	}
	came := make(map[string]bool, len(e.came))
	for _, k := range e.came {
		came[k.ID] = true
	}
	for _, k := range e.came {
		d.Changes = append(d.Changes, policy.Change{Workload: k.Workload, Group: e.groupOf(k.key).Identity, Beside: e.beside(k.key, k.kind, came)})
	}
	return true
}

// stand notes of which kinds the members of a group are. It is false where those who
// stand for others are of another kind than before: then each must be asked.
func (e *edit) stand(key string, is *Population) bool {
	made, _ := is.standing.Get(key)
	st := &standing{subject: made.subject, said: e.said}
	old, _ := e.before.standing.Get(key)
	more := make(map[*kind][]string)
	parted := e.leave // who are no more what they were
	for i := range made.kinds {
		of := old.like(made.kinds[i].kind)
		st.kinds = append(st.kinds, counted{kind: of})
		for _, id := range made.kinds[i].ids {
			now, _ := is.known.Get(id)
			k, _ := e.known.Get(id)
			switch {
			case k.kind == nil: // it came
				k.kind = of
				more[of] = append(more[of], id)
				continue
			case k.kind != of && len(staying(old.of(k.kind), e.leave, stands+1)) > stands:
				return false
			case k.kind != of:
				parted = maps.Clone(parted)
				parted[id] = true
				more[of] = append(more[of], id)
			case slices.Equal(k.findings, now.findings):
				continue
			}
			next := *k
			next.kind, next.findings = of, now.findings
			e.known.Set(id, &next)
		}
	}
	for i := range st.kinds {
		c := &st.kinds[i]
		c.ids = old.of(c.kind)
		if slices.ContainsFunc(c.ids, func(id string) bool { return parted[id] }) {
			c.ids = staying(c.ids, parted, -1)
		}
		for _, id := range more[c.kind] {
			c.ids = inserted(c.ids, id)
		}
	}
	e.standing.Set(key, st)
	e.tieGroup(key, st, 1)
	return true
}

// livesTogether reports whether workloads of a group live in the network namespaces of
// others, or did: nobody of it stands for others then.
func (e *edit) livesTogether(key string, is *Population) bool {
	now, _ := is.standing.Get(key)
	was, there := e.before.standing.Get(key)
	return len(now.subject.within) > 0 || there && len(was.subject.within) > 0
}

// place1 notes a group that is there.
func (e *edit) place1(d *Difference, key string, g policy.Group) {
	st, _ := e.standing.Get(key)
	old, was := e.before.standing.Get(key)
	if !was {
		d.Came = append(d.Came, g)
		d.Are = append(d.Are, e.subjectOf(st.subject, g.Members))
	} else if !reflect.DeepEqual(old.subject.selected(), st.subject.selected()) {
		d.Were = append(d.Were, e.before.subjectOf(old.subject, e.before.groupOf(key).Members))
		d.Are = append(d.Are, e.subjectOf(st.subject, g.Members))
	}
	e.regrouped = append(e.regrouped, keyedGroup{key, g})
}

type keyedGroup struct {
	key string
	policy.Group
}

// order puts all groups in their order.
func (e *edit) order() {
	is := make(map[string]bool, len(e.regrouped))
	groups, keys := slices.Clone(e.before.Groups), slices.Clone(e.before.keys)
	var came []keyedGroup
	for _, g := range e.regrouped {
		is[g.key] = true
		if st, stays := e.before.standing.Get(g.key); stays {
			groups[e.before.place(st.subject)] = g.Group
		} else {
			came = append(came, g)
		}
	}
	for _, key := range e.vicinal {
		if !is[key] {
			at, _ := slices.BinarySearchFunc(keys, key, e.byPlace)
			groups, keys = slices.Delete(groups, at, at+1), slices.Delete(keys, at, at+1)
		}
	}
	for _, g := range came {
		at, _ := slices.BinarySearchFunc(keys, g.key, e.byPlace)
		groups, keys = slices.Insert(groups, at, g.Group), slices.Insert(keys, at, g.key)
	}
	e.Groups, e.keys = groups, keys
}

// byPlace orders keys of groups that are or were.
func (e *edit) byPlace(a, b string) int {
	service := func(key string) string {
		st, there := e.standing.Get(key)
		if !there {
			st, _ = e.before.standing.Get(key)
		}
		return st.subject.service.String()
	}
	return cmp.Or(cmp.Compare(service(a), service(b)), cmp.Compare(a, b))
}

package models

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

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
	e.represent()
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
	left := slices.DeleteFunc(slices.Clone(e.left), func(k *known) bool { return e.represented[k.ID] })
	return sayingsOf(e.before.alike(slices.Concat(e.stay, left), number))
}

type edit struct {
	*Population // as it is to be
	before      *Population
	left, came  []*known
	like        map[string][]*known // of those who came: for whom else they stand, by id
	represented map[string]bool     // who is among those
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
	var was, is *known
	if c.Before != nil {
		var ok bool
		if was, ok = e.before.known.Get(c.Before.ID); !ok {
			return false
		}
		e.left = append(e.left, was)
		e.leave[was.ID] = true
	}
	switch {
	case c.After == nil:
	case c.After == c.Before: // it is regarded otherwise
		is = &known{Workload: was.Workload, match: was.match}
	default:
		is = &known{Workload: c.After, match: e.match(c.After)}
	}
	if is != nil {
		e.came = append(e.came, is)
	}
	if was != nil && is != nil && was.match.Model == is.match.Model {
		return true
	}
	return (was == nil || e.isSpared(was.match.Model)) && (is == nil || e.isCommon(is.match.Model))
}

// represent has two stand for all of a kind who are regarded otherwise, and alike.
func (e *edit) represent() {
	type regard struct {
		*kind
		mode    policy.Label
		variant string
	}
	e.like, e.represented = make(map[string][]*known), make(map[string]bool)
	of := make(map[regard][]*known)
	slices.SortFunc(e.came, func(a, b *known) int { return strings.Compare(a.ID, b.ID) })
	e.came = slices.DeleteFunc(e.came, func(k *known) bool {
		was, there := e.before.known.Get(k.ID)
		if !there || was.Workload != k.Workload || was.kind.print == "" || len(was.findings) > 0 {
			return false
		}
		r := regard{kind: was.kind, mode: k.Labels[LabelMode]}
		if variant := e.assembly.set.Variant; variant != nil {
			r.variant = variant(k.Workload)
		}
		of[r] = append(of[r], k)
		if len(of[r]) <= stands {
			return false
		}
		first := of[r][0].ID
		e.like[first] = append(e.like[first], k)
		e.represented[k.ID] = true
		return true
	})
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
	for _, like := range e.like {
		if len(e.fresh) > 0 && e.lookedFor(slices.Values(like)) {
			return false
		}
	}
	for i, k := range e.stay {
		if len(e.fresh) > 0 { // their names may be looked for now
			unprinted := *k
			unprinted.kind = nil
			e.stay[i] = &unprinted
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
		e.known.Delete(k.ID)
	}
	more := make(map[string][]string) // members of groups that came to them
	for _, k := range e.came {
		now, _ := is.known.Get(k.ID)
		if len(now.findings) > 0 && e.like[k.ID] != nil {
			return false
		}
		for _, o := range append([]*known{k}, e.like[k.ID]...) {
			o.key, o.findings = now.key, now.findings
			more[o.key] = append(more[o.key], o.ID)
			e.known.Set(o.ID, o)
		}
	}
	members := make(map[string][]string)
	for _, key := range e.vicinal {
		st, _ := e.before.standing.Get(key)
		if len(st.subject.within) == 0 {
			members[key] = e.changed(e.before.groupOf(key).Members, e.leave, nil)
		}
	}
	for key, ids := range more {
		members[key] = e.changed(members[key], nil, ids)
	}
	for _, key := range e.vicinal {
		if _, stays := is.standing.Get(key); !stays {
			st, _ := e.before.standing.Get(key)
			e.tieGroup(key, st, -1)
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
	e.move(d)
	return true
}

// changed are ascending ids without some and with others.
func (e *edit) changed(ids []string, without map[string]bool, with []string) []string {
	if slices.ContainsFunc(ids, func(id string) bool { return without[id] }) {
		ids = staying(ids, without, -1)
	}
	if len(with) == 0 {
		return ids
	}
	out := slices.Concat(ids, with)
	slices.Sort(out)
	return out
}

// move lists the workloads that left groups and came to some.
func (e *edit) move(d *Difference) {
	came := make(map[string]bool, len(e.came))
	for _, k := range e.came {
		for _, o := range append([]*known{k}, e.like[k.ID]...) {
			came[o.ID] = true
		}
	}
	list := func(p *Population, of []*known, gone bool, moved map[string]bool) {
		beside := make(map[*kind]*policy.Workload) // a kind is one group's
		for _, k := range of {
			st, _ := p.standing.Get(k.key)
			if _, known := beside[k.kind]; !known {
				beside[k.kind] = p.beside(k.key, k.kind, moved)
			}
			c := policy.Change{Workload: k.Workload, Group: st.subject.group.Identity, Gone: gone}
			if !gone || !slices.Contains(d.Gone, c.Group) {
				c.Beside = beside[k.kind]
			}
			d.Changes = append(d.Changes, c)
		}
	}
	list(e.before, e.left, true, e.leave)
	var all []*known
	for _, k := range e.came {
		all = append(append(all, k), e.like[k.ID]...)
	}
	list(e.Population, all, false, came)
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
				for _, o := range append([]*known{k}, e.like[id]...) {
					o.kind = of
					more[of] = append(more[of], o.ID)
				}
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
		c.ids = e.changed(old.of(c.kind), parted, more[c.kind])
	}
	e.standing.Set(key, st)
	if !st.tiedAs(old) {
		if old != nil {
			e.tieGroup(key, old, -1)
		}
		e.tieGroup(key, st, 1)
	}
	return true
}

// tiedAs reports whether a group has the ties that it had.
func (st *standing) tiedAs(old *standing) bool {
	return old != nil && slices.EqualFunc(st.kinds, old.kinds, func(a, b counted) bool { return a.kind == b.kind }) &&
		slices.Equal(st.projects(), old.projects())
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
	} else if !old.subject.isSelectedAs(st.subject) {
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
	groups, keys := roomy(e.before.Groups, len(e.regrouped)), roomy(e.before.keys, len(e.regrouped))
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

// roomy is a copy with room for so many more.
func roomy[T any](list []T, more int) []T { return append(make([]T, 0, len(list)+more), list...) }

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

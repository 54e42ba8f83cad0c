package models

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"gatehouse/policy"
)

// Transition is one workload as it was and as it is; nil where it was not there, or is
// there no more.
type Transition struct{ Before, After *policy.Workload }

// Difference is what follows from changes of workloads, as policy.Update and
// operator.Expansion take it.
type Difference struct {
	Changes []policy.Change
	// Groups that came and that are gone.
	Came []policy.Group
	Gone []policy.Identity
	// Statements of models and labels that are no more, and new ones, each sorted;
	// findings about services that were and that are.
	Removed, Added        []policy.Statement
	FoundBefore, FoundNow []Finding
	// Subjects that operators' statements may select, as they were and as they are:
	// those alone that differ.
	Were, Are []Subject
}

// OfWorkloads reports whether it is one of workloads alone: groups and statements stay.
func (d *Difference) OfWorkloads() bool {
	return len(d.Came)+len(d.Gone)+len(d.Removed)+len(d.Added)+len(d.Were)+len(d.Are) == 0
}

// Next is the population after changes, with what it shares untouched: it takes
// as long as what may have to do with those who changed takes to understand, however
// many workloads there are. It equals what Groups would make, and Generate would
// say of that what it said of p, but for the difference.
// Without ok the changes reach too far, and Groups must be asked. One goroutine at a
// time may ask of populations that follow from one another.
func (p *Population) Next(changes []Transition) (next *Population, d *Difference, ok bool) {
	if next, moved, ok := p.with(changes); ok {
		return next, &Difference{Changes: moved}, true
	}
	return p.edit(p.assembly, changes)
}

// NextUnder is Next where settings have other modes, or tell other variants apart, too.
// All workloads that this concerns are among the changes: of those that stay as they
// are both sides are the same.
func (p *Population) NextUnder(set Settings, changes []Transition) (next *Population, d *Difference, ok bool) {
	a := *p.assembly
	a.set.Modes, a.set.Variant = set.Modes, set.Variant
	return p.edit(&a, changes)
}

// with is Next for changes that leave all statements as they are.
//
// A workload's start or stop is such a change where another of its group, which is
// there before and after, has the same print: all that policy reads of a workload
// besides what is in its group's key.
func (p *Population) with(changes []Transition) (next *Population, moved []policy.Change, ok bool) {
	changed := *p
	next = &changed
	next.known, next.standing = p.known.Copy(), p.standing.Copy()
	owned := false // a copy of Groups
	own := func() {
		if !owned {
			next.Groups, owned = slices.Clone(p.Groups), true
		}
	}
	for _, now := range []func(Transition) bool{Transition.comes, Transition.stays, Transition.goes} { // who stops is nobody's other
		for _, c := range changes {
			if !now(c) {
				continue
			}
			if c.Before != nil {
				if moved, ok = next.leave(c.Before, own, moved); !ok {
					return nil, nil, false
				}
			}
			if c.After != nil {
				if moved, ok = next.enter(c.After, own, moved); !ok {
					return nil, nil, false
				}
			}
		}
	}
	return next, moved, true
}

func (c Transition) comes() bool { return c.Before == nil }
func (c Transition) stays() bool { return c.Before != nil && c.After != nil }
func (c Transition) goes() bool  { return c.After == nil }

// leave takes a workload out of its group, after own has made the groups p's own.
func (p *Population) leave(w *policy.Workload, own func(), moved []policy.Change) ([]policy.Change, bool) {
	k, ok := p.known.Get(w.ID)
	if !ok || k.kind.print == "" {
		return nil, false
	}
	g := p.groupOf(k.key)
	beside := p.beside(k.key, k.kind, map[string]bool{w.ID: true})
	if beside == nil || g.Members[0] == w.ID && p.kindOf(g.Members[1]) != k.kind {
		return nil, false
	}
	own()
	g = p.groupOf(k.key)
	g.Members = deleted(g.Members, w.ID)
	p.known.Delete(w.ID)
	p.count(k, deleted)
	return append(moved, policy.Change{Workload: k.Workload, Group: g.Identity, Gone: true, Beside: beside}), p.isReplicated(k)
}

func (p *Population) enter(w *policy.Workload, own func(), moved []policy.Change) ([]policy.Change, bool) {
	k := &known{Workload: w, match: p.match(w)}
	s, findings := p.assembly.alone(k)
	st, ok := p.standing.Get(s.key)
	if !ok {
		return nil, false
	}
	k.key, k.findings = s.key, findings
	print := p.print(k, st.subject)
	at := slices.IndexFunc(st.kinds, func(c counted) bool { return c.kind.print == print })
	if print == "" || at < 0 {
		return nil, false
	}
	k.kind = st.kinds[at].kind
	g := p.groupOf(s.key)
	beside := p.beside(s.key, k.kind, nil)
	if beside == nil || !p.isReplicated(k) {
		return nil, false
	}
	if at, _ = slices.BinarySearch(g.Members, w.ID); at == 0 && k.kind != p.kindOf(g.Members[0]) {
		return nil, false
	}
	own()
	g = p.groupOf(s.key)
	g.Members = inserted(g.Members, w.ID)
	p.known.Set(w.ID, k)
	p.count(k, inserted)
	return append(moved, policy.Change{Workload: w, Group: g.Identity, Beside: beside}), true
}

// count counts a workload of its kind in its group in or out.
func (p *Population) count(k *known, change func([]string, string) []string) {
	st, _ := p.standing.Get(k.key)
	next := &standing{st.subject, slices.Clone(st.kinds), st.said}
	at := next.find(k.kind)
	next.kinds[at].ids = change(next.kinds[at].ids, k.ID)
	p.standing.Set(k.key, next)
}

// alone is what policy knows of one workload by itself, and what is odd about it.
func (a *assembly) alone(k *known) (*subject, []Finding) {
	p := &Population{known: new(btree.Map[string, *known])}
	p.known.Set(k.ID, k)
	one := *a
	one.population = p
	ns := namespace{owner: k.Workload, all: []*policy.Workload{k.Workload}}
	s := one.subject(ns)
	one.report(ns, s)
	return s, p.findings
}

// beside is one of a group that is of that kind, and none of some.
func (p *Population) beside(key string, is *kind, some map[string]bool) *policy.Workload {
	st, ok := p.standing.Get(key)
	if !ok {
		return nil
	}
	for _, id := range staying(st.of(is), some, 1) {
		k, _ := p.known.Get(id)
		return k.Workload
	}
	return nil
}

func (p *Population) kindOf(id string) *kind {
	k, _ := p.known.Get(id)
	return k.kind
}

// groupOf is the one with that key, which there is.
func (p *Population) groupOf(key string) *policy.Group {
	st, _ := p.standing.Get(key)
	return &p.Groups[p.place(st.subject)]
}

// place is where a subject's group stands, or would stand, in Groups.
func (p *Population) place(s *subject) int {
	service := s.service.String()
	at, _ := slices.BinarySearchFunc(p.keys, s.key, func(key, want string) int {
		st, _ := p.standing.Get(key)
		return cmp.Or(cmp.Compare(st.subject.service.String(), service), cmp.Compare(key, want))
	})
	return at
}

// isReplicated is that of the index, by who is there now: whether a service has
// more than one workload is said in statements (R11).
func (p *Population) isReplicated(k *known) bool {
	n := 0
	for _, key := range p.keysOf(projectText(k.Service)) {
		st, _ := p.standing.Get(key)
		s := st.subject
		if s.group.Shut || s.service != k.Service && !slices.ContainsFunc(s.within, func(w *policy.Workload) bool { return w.Service == k.Service }) {
			continue
		}
		n += st.count() - len(s.within)
	}
	return n > 1 || k.Swarm
}

func isHostMode(w *policy.Workload) bool { return strings.HasPrefix(w.Uncovered, "network_mode host") }

// isLate reports whether somebody looks for a name or an address since all was made.
func (p *Population) isLate(what string) bool {
	_, is := p.late.Get(what)
	return is
}

// print is what statements, groups and others' references may depend on of a
// workload, besides the key of its identity: what it adds to its group, what the
// group takes from its first member, and the names and addresses that somebody
// looks for. Where it has to do with the namespaces of others or with the host's,
// or cannot be used, there is none.
func (p *Population) print(k *known, s *subject) string {
	sought, w := &p.sought, k.Workload
	if w.SharedWith != "" || p.isShared(w.ID) || len(s.within) > 0 || s.group.Shut || isHostMode(w) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%t %t %q %q %q\n", w.Compose, w.Swarm, w.Image.Repository, k.match.Confidence, k.match.Reasons)
	for _, r := range p.assembly.routes {
		if l, ok := deployerLabel(w, r.Enable); ok {
			fmt.Fprintf(&b, "%q=%q\n", r.Enable, l)
		}
	}
	name := func(where, n string) {
		if n = plainName(n); sought.names[n] || p.isLate(n) {
			fmt.Fprintf(&b, "name %q %q\n", where, n)
		}
	}
	for _, n := range append(swarmNames(w), w.Name, w.Service.Name) {
		name("", n)
	}
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		if !p.networks[e.Network] {
			continue
		}
		ipv6 := false
		for _, a := range e.Addresses {
			a = a.Unmap()
			ipv6 = ipv6 || a.Is6() && !a.IsLinkLocalUnicast()
			if sought.addresses[a] || p.isLate(a.String()) {
				fmt.Fprintf(&b, "at %s %s\n", e.Network, a)
			}
		}
		fmt.Fprintf(&b, "network %q %t\n", e.Network, ipv6)
		for _, alias := range e.Aliases {
			name(e.Network, alias)
		}
	}
	for _, r := range w.References {
		fmt.Fprintf(&b, "%q %q %d %q %t\n", r.Source, r.Host, r.Port, r.Scheme, r.Weak)
	}
	fmt.Fprintf(&b, "%q %v %v %v", w.DependsOn, w.DNS, w.Published, w.VIPs)
	return b.String()
}

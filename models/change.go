package models

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"gatehouse/policy"
)

// Transition is one workload as it was and as it is; nil where it was not there, or is
// there no more.
type Transition struct{ Before, After *policy.Workload }

// With is the population after changes that leave all statements as they are, with
// what it shares untouched: it takes microseconds, however many workloads there
// are. It equals what Groups would make, and Generate would say the same of both
// but for the findings (Findings). moved are the changes of groups, as
// policy.Table.With takes them.
//
// A workload's start or stop is such a change where another of its group, which is
// there before and after, has the same print: all that policy reads of a workload
// besides what is in its group's key. Without ok one of them is not, and Groups
// must be asked.
func (p *Population) With(changes []Transition) (next *Population, moved []policy.Change, ok bool) {
	changed := *p
	next = &changed
	next.Groups, next.known = slices.Clone(p.Groups), p.known.Copy()
	for _, now := range []func(Transition) bool{Transition.comes, Transition.stays, Transition.goes} { // who stops is nobody's other
		for _, c := range changes {
			if !now(c) {
				continue
			}
			if c.Before != nil {
				if moved, ok = next.leave(c.Before, moved); !ok {
					return nil, nil, false
				}
			}
			if c.After != nil {
				if moved, ok = next.join(c.After, moved); !ok {
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

func (p *Population) leave(w *policy.Workload, moved []policy.Change) ([]policy.Change, bool) {
	k, ok := p.known.Get(w.ID)
	if !ok || k.print == "" {
		return nil, false
	}
	g := &p.Groups[k.rank]
	members := slices.DeleteFunc(slices.Clone(g.Members), func(id string) bool { return id == w.ID })
	beside := p.beside(members, k.print)
	if beside == nil || p.printOf(members[0]) != p.printOf(g.Members[0]) {
		return nil, false
	}
	g.Members = members
	p.known.Delete(w.ID)
	return append(moved, policy.Change{Workload: k.Workload, Group: g.Identity, Gone: true, Beside: beside}), p.isReplicated(k)
}

func (p *Population) join(w *policy.Workload, moved []policy.Change) ([]policy.Change, bool) {
	k := &known{Workload: w, match: p.match(w)}
	s, findings := p.assembly.alone(k)
	rank, ok := p.ranks[s.key]
	if !ok {
		return nil, false
	}
	k.rank, k.findings = rank, findings
	k.print = p.print(k, p.index.subjects[rank])
	g := &p.Groups[rank]
	beside := p.beside(g.Members, k.print)
	if k.print == "" || beside == nil || !p.isReplicated(k) {
		return nil, false
	}
	at, _ := slices.BinarySearch(g.Members, w.ID)
	if at == 0 && k.print != p.printOf(g.Members[0]) {
		return nil, false
	}
	g.Members = slices.Insert(slices.Clone(g.Members), at, w.ID)
	p.known.Set(w.ID, k)
	return append(moved, policy.Change{Workload: w, Group: g.Identity, Beside: beside}), true
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

// beside is one of the members that has that print.
func (p *Population) beside(members []string, print string) *policy.Workload {
	for _, id := range members {
		if k, ok := p.known.Get(id); ok && k.print == print {
			return k.Workload
		}
	}
	return nil
}

func (p *Population) printOf(id string) string {
	k, _ := p.known.Get(id)
	return k.print
}

// isReplicated is that of the index, by who is there now: whether a service has
// more than one workload is said in statements (R11).
func (p *Population) isReplicated(k *known) bool {
	n := 0
	for _, s := range p.index.services[k.Service] {
		if !s.group.Shut {
			n += len(p.Groups[s.rank].Members) - len(s.within)
		}
	}
	return n > 1 || k.Swarm
}

// print is what statements, groups and others' references may depend on of a
// workload, besides the key of its identity: what it adds to its group, what the
// group takes from its first member, and the names and addresses that somebody
// looks for. Where it has to do with the namespaces of others or with the host's,
// or cannot be used, there is none.
func (p *Population) print(k *known, s *subject) string {
	x, w := p.index, k.Workload
	if w.SharedWith != "" || x.sought.owners[w.ID] || len(s.within) > 0 || s.group.Shut || strings.HasPrefix(w.Uncovered, "network_mode host") {
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
		if n = plainName(n); x.sought.names[n] {
			fmt.Fprintf(&b, "name %q %q\n", where, n)
		}
	}
	for _, n := range append(swarmNames(w), w.Name, w.Service.Name) {
		name("", n)
	}
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		if x.networks[e.Network] == nil {
			continue
		}
		ipv6 := false
		for _, a := range e.Addresses {
			a = a.Unmap()
			ipv6 = ipv6 || a.Is6() && !a.IsLinkLocalUnicast()
			if x.sought.addresses[a] {
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

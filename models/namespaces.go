package models

import (
	"slices"
	"strings"

	"gatehouse/policy"
)

// Workloads that live in one network namespace are one identity (I6): whoever comes to
// it or leaves it makes the others of it another one's.

// share notes in whose network namespace a workload lives, or forgets it.
func (p *Population) share(w *policy.Workload, change func([]string, string) []string) {
	if w.SharedWith == "" {
		return
	}
	ids, _ := p.sharing.Get(w.SharedWith)
	if ids = change(ids, w.ID); len(ids) == 0 {
		p.sharing.Delete(w.SharedWith)
		return
	}
	p.sharing.Set(w.SharedWith, ids)
}

// GroupsOf are the groups of a service, by its text ("shop/db"). The caller must not
// change them.
func (p *Population) GroupsOf(service string) []policy.Group {
	first, _ := slices.BinarySearchFunc(p.Groups, service, func(g policy.Group, text string) int { return strings.Compare(g.Service.String(), text) })
	end := first
	for end < len(p.Groups) && p.Groups[end].Service.Is(service) {
		end++
	}
	return p.Groups[first:end]
}

// OfService are the ids of all workloads of a service, by its text ("shop/db"), and of
// those that share network namespaces with such.
func (p *Population) OfService(service string) []string {
	var out []string
	for _, g := range p.GroupsOf(service) {
		out = append(out, g.Members...)
	}
	p.sharing.Scan(func(_ string, ids []string) bool {
		for _, id := range ids {
			if k, ok := p.known.Get(id); ok && k.Service.Is(service) {
				out = append(out, id)
			}
		}
		return true
	})
	return out
}

// isShared reports whether somebody lives in a workload's network namespace.
func (p *Population) isShared(id string) bool {
	_, is := p.sharing.Get(id)
	return is
}

// withNamespaces notes who shares namespaces after changes, and adds to those all who
// live together with who changes, before or after. It is false where they are too many.
func (p *Population) withNamespaces(changes []Transition) ([]Transition, bool) {
	changes = slices.Clip(changes)
	have := make(map[string]bool, len(changes))
	var met []string
	meet := func(t *Transition) {
		for _, w := range [...]*policy.Workload{t.Before, t.After} {
			if w == nil {
				continue
			}
			have[w.ID] = true
			if w.SharedWith != "" {
				met = append(met, w.SharedWith)
			}
			within, _ := p.sharing.Get(w.ID)
			met = append(met, within...) // those who come are changes themselves
		}
	}
	for i := range changes {
		meet(&changes[i])
		if w := changes[i].Before; w != nil {
			p.share(w, deleted)
		}
	}
	for i := range changes {
		if w := changes[i].After; w != nil {
			p.share(w, inserted)
		}
	}
	for len(met) > 0 {
		id := met[len(met)-1]
		met = met[:len(met)-1]
		k, there := p.known.Get(id)
		if have[id] || !there {
			continue
		}
		changes = append(changes, Transition{k.Workload, k.Workload})
		if len(changes) > maxVicinity {
			return nil, false
		}
		meet(&changes[len(changes)-1])
	}
	return changes, true
}

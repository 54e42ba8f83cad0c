package models

import (
	"fmt"
	"maps"
	"slices"

	"gatehouse/document"
)

// maxAncestors is how long a chain of extends may be.
const maxAncestors = 4

// inheritance resolves which model of a name counts, and what each inherits.
type inheritance struct {
	byName   map[string]*Model // as declared, the latest tier's
	replaced map[*Model]*Model // an override → the model that it replaces
	done     map[*Model]*Model // declared → resolved; nil where that failed
	faults   *document.Faults
}

func newInheritance(tiers [][]*Model, faults *document.Faults) *inheritance {
	in := &inheritance{
		byName:   make(map[string]*Model),
		replaced: make(map[*Model]*Model),
		done:     make(map[*Model]*Model),
		faults:   faults,
	}
	for _, tier := range tiers {
		checkNames(tier, faults)
		lower := maps.Clone(in.byName)
		for _, m := range tier {
			other, exists := lower[m.Name]
			switch {
			case exists && !m.Override:
				faults.Add(m.fault("model", "%s is also in %s; to replace that one, write override: true", m.Name, other.place("model")))
				continue
			case !exists && m.Override:
				faults.Add(m.fault("override", "there is no model %s to replace", m.Name))
			case exists:
				in.replaced[m] = other
			}
			in.byName[m.Name] = m
		}
	}
	return in
}

// parent is the model that m extends: an override that extends its own name
// means the model that it replaces.
func (in *inheritance) parent(m *Model) *Model {
	if m.Extends == m.Name {
		return in.replaced[m]
	}
	return in.byName[m.Extends]
}

// resolve returns m with all that it inherits, nil if its chain is broken;
// chain is the models that led here.
func (in *inheritance) resolve(m *Model, chain []*Model) *Model {
	if done, ok := in.done[m]; ok {
		return done
	}
	if m.Extends == "" {
		resolved := *m
		in.done[m] = &resolved
		return &resolved
	}
	in.done[m] = nil
	chain = append(chain, m)
	parent := in.parent(m)
	switch {
	case parent == nil && m.Extends == m.Name:
		in.faults.Add(m.fault("extends", "a model cannot extend itself"))
		return nil
	case parent == nil:
		in.faults.Add(m.fault("extends", "%s", noModel(m.Extends, in.byName)))
		return nil
	case slices.Contains(chain, parent):
		in.faults.Add(m.fault("extends", "%s extends %s in turn: a cycle", m.Extends, m.Name))
		return nil
	}
	from := in.resolve(parent, chain)
	if from == nil {
		return nil
	}
	if len(from.Ancestors) >= maxAncestors {
		in.faults.Add(m.fault("extends", "the chain of models that it extends is longer than %d", maxAncestors))
		return nil
	}
	in.checkRemove(m, from)
	resolved := inherit(m, from)
	in.done[m] = resolved
	return resolved
}

func (in *inheritance) checkRemove(m, from *Model) {
	for i, id := range m.Remove {
		if !hasEntry(from.Serves, id) && !hasEntry(from.Calls, id) {
			in.faults.Add(m.fault(fmt.Sprintf("remove[%d]", i), "%s has no entry %s", m.Extends, id))
		}
	}
}

// inherit returns child with parent's values where child gives none. Hints are
// not inherited, as one hint proposes one model, but by what replaces its parent.
func inherit(child, parent *Model) *Model {
	m := *child
	m.Extends, m.Remove = "", nil
	m.Ancestors = append([]string{parent.Name}, parent.Ancestors...)
	if !child.gives("title", child.Title != "") {
		m.Title = parent.Title
	}
	if !child.gives("docs", child.Docs != nil) {
		m.Docs = parent.Docs
	}
	if !child.gives("roles", child.Roles != nil) {
		m.Roles = parent.Roles
	}
	if !child.gives("match.images", child.Images != nil) {
		m.Images = parent.Images
	}
	if !child.gives("match.labels", child.Labels != nil) {
		m.Labels = parent.Labels
	}
	if !child.gives("match.clients", child.Clients != nil) {
		m.Clients = parent.Clients
	}
	if child.Name == parent.Name && !child.gives("match.hints", child.Hints.Env != nil || child.Hints.Commands != nil) {
		m.Hints = parent.Hints
	}
	if !child.gives("dns", child.DNS != DNSResolver) {
		m.DNS = parent.DNS
	}
	if !child.gives("routes", child.Routes != nil) {
		m.Routes = parent.Routes
	}
	m.Serves = inheritEntries(child.Serves, parent.Serves, child.Remove)
	m.Calls = inheritEntries(child.Calls, parent.Calls, child.Remove)
	if len(parent.Features) > 0 {
		m.Features = maps.Clone(parent.Features)
		maps.Copy(m.Features, child.Features)
	}
	return &m
}

// inheritEntries keeps the parent's order; the child's own entries replace
// those of the same id or come last.
func inheritEntries(child, parent []Entry, remove []string) []Entry {
	var out []Entry
	for _, e := range parent {
		if !slices.Contains(remove, e.ID) && !hasEntry(child, e.ID) {
			out = append(out, e)
			continue
		}
		for _, own := range child {
			if own.ID == e.ID {
				out = append(out, own)
			}
		}
	}
	for _, own := range child {
		if !hasEntry(parent, own.ID) {
			out = append(out, own)
		}
	}
	return out
}

package operator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

// Policy is the operator's statements and systems of record, checked together.
// The zero value says nothing.
type Policy struct {
	Statements []Statement
	Modes      map[string]policy.Mode // by the text of a service (V5)
	Sources    []Source
	Kinds      map[string]Kind // of all sources
	modesAt    map[string]place
	labels     []string // by which statements select, sorted
	categories []string // the same
	timely     []int    // statements with a condition, or an end
}

// reservedIDs begin the ids of statements that are not from files.
var reservedIDs = []string{"model-", "label-", "quarantine-"}

// Decode reads files with statements and with categories, and checks them whole
// and against the library of models. The error joins all faults, each with file
// and line.
func Decode(statements, categories []document.File, library *models.Library) (*Policy, error) {
	var faults document.Faults
	p := &Policy{Kinds: make(map[string]Kind), Modes: make(map[string]policy.Mode), modesAt: make(map[string]place)}
	p.Sources = decodeSources(categories, &faults)
	p.decodeStatements(statements, &faults)
	for _, s := range p.Sources {
		maps.Copy(p.Kinds, s.Kinds)
	}
	for i := range p.Statements {
		p.check(&p.Statements[i], library, &faults)
	}
	if len(faults) > 0 {
		return nil, faults.Err()
	}
	p.note()
	return p, nil
}

// note finds the labels and categories by which statements select, and which statements
// are not in force at all times.
func (p *Policy) note() {
	labels, categories := make(map[string]bool), make(map[string]bool)
	for i := range p.Statements {
		s := &p.Statements[i]
		if len(s.When.Threat) > 0 || s.When.Window != nil || !s.Expires.IsZero() {
			p.timely = append(p.timely, i)
		}
		for t := range s.terms {
			if key, _, ok := strings.Cut(t.Label, "="); ok {
				labels[key] = true
			}
			for _, c := range t.Categories {
				categories[c.Category] = true
			}
		}
	}
	p.labels, p.categories = slices.Sorted(maps.Keys(labels)), slices.Sorted(maps.Keys(categories))
}

// check holds what a statement says against the models and the categories.
func (p *Policy) check(s *Statement, library *models.Library, faults *document.Faults) {
	for _, prefix := range reservedIDs {
		if strings.HasPrefix(s.ID, prefix) {
			faults.Add(s.fault("id", "%s: ids that begin with %s are not for files", s.ID, prefix))
		}
	}
	unknown := make(map[string]bool) // told once a statement
	for t := range s.terms {
		if t.Model != "" && library.Model(t.Model) == nil {
			faults.Add(s.fault("model", "%s", library.NoModel(t.Model)))
		}
		for _, c := range t.Categories {
			kind, known := p.Kinds[c.Category]
			if !known && !unknown[c.Category] {
				unknown[c.Category] = true
				faults.Add(s.fault("category", "no category %q is declared: declare it in a file of categories (schema %s)", c.Category, CategoriesSchema))
			}
			if !known {
				continue
			}
			for _, problem := range kind.faults(c.Tests) {
				faults.Add(s.fault("category."+c.Category, "%s", problem))
			}
		}
	}
}

// terms calls yield for each term of the statement and its exceptions.
func (s *Statement) terms(yield func(*Term) bool) {
	for _, f := range append([]Flows{s.Flows}, s.Except...) {
		for _, terms := range [][]Term{f.From, f.To} {
			for i := range terms {
				if !yield(&terms[i]) {
					return
				}
			}
		}
	}
}

// SelectedLabels are the keys of labels by which statements select, sorted: they
// tell identities apart (I9). The caller must not change them.
func (p *Policy) SelectedLabels() []string { return p.labels }

// Variant returns what of a workload the statements select by category: it tells
// identities apart (I9).
func (p *Policy) Variant(c *Catalog) func(*policy.Workload) string {
	return func(w *policy.Workload) string {
		var b strings.Builder
		for _, name := range p.categories {
			for _, v := range c.ofWorkload(w, name, false) {
				fmt.Fprintf(&b, "%q%q%t", name, v.texts, v.proven)
			}
		}
		return b.String()
	}
}

// Active says of each statement whether it is in force.
func (p *Policy) Active(m Moment) []bool {
	out := slices.Repeat([]bool{true}, len(p.Statements))
	for _, i := range p.timely {
		out[i] = p.Statements[i].Active(m)
	}
	return out
}

// NextEdge is when time alone next begins or ends a statement; zero if never.
func (p *Policy) NextEdge(t time.Time) time.Time {
	var first time.Time
	for _, i := range p.timely {
		if edge := p.Statements[i].nextEdge(t); !edge.IsZero() && (first.IsZero() || edge.Before(first)) {
			first = edge
		}
	}
	return first
}

package operator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gatehouse/models"
	"gatehouse/policy"
)

// Nobody is what the operator's files name and what nobody has who runs: a typing
// mistake, or somebody who has not started.
type Nobody struct {
	What string // "service shop/wbe", "label tier=frnot", "category value=custmer-data"
	File string
	Line int      // where it is named first
	In   []string // ids of the statements that name it, "modes" for the file's modes
	Near []string // what there is of a like name, the nearest first
}

// Text says where it is named, and what may be meant.
func (n *Nobody) Text() string {
	const most = 3
	in := strings.Join(n.In[:min(len(n.In), most)], ", ")
	if len(n.In) > most {
		in += fmt.Sprintf(" and %d more", len(n.In)-most)
	}
	text := fmt.Sprintf("%s:%d, in %s: nobody who runs is that", n.File, n.Line, in)
	if len(n.Near) > 0 {
		return text + "; there is " + strings.Join(n.Near, ", ")
	}
	return text
}

// Nobodies lists what statements and modes name and nobody has who runs, in the
// order of file and line. What of a project that does not run at all is one item. A
// statement that has expired names nothing any more. Roles, models and levels, of
// which the reader knows all there are, may well be nobody's, and so may prefixes and
// names of DNS: they are not listed.
func (p *Policy) Nobodies(pop *models.Population, c *Catalog, now time.Time) []Nobody {
	s := &search{expansion: newExpansion(pop, c), found: make(map[string]*Nobody)}
	for i := range p.Statements {
		st := &p.Statements[i]
		if st.expired(now) {
			continue
		}
		for t := range st.terms {
			s.term(st, t)
		}
	}
	for service, at := range p.modesAt {
		if s.byService[service] == nil {
			s.service(service, at, "modes")
		}
	}
	out := make([]Nobody, 0, len(s.found))
	for _, n := range s.found {
		slices.Sort(n.In)
		n.In = slices.Compact(n.In)
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b Nobody) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.What, b.What))
	})
	return out
}

// place is a line of a file.
type place struct {
	file string
	line int
}

// search looks terms up among who runs.
type search struct {
	*expansion
	found    map[string]*Nobody  // by What
	services map[bool][]string   // servicesThere
	projects map[string]bool     // as fits reads them: of whose namespace it is
	labels   []string            // KEY=VALUE of deployers, of the same
	values   map[string][]string // of categories, that records give
}

func (s *search) add(n Nobody) {
	have := s.found[n.What]
	if have == nil {
		s.found[n.What] = &n
		return
	}
	have.In = append(have.In, n.In...)
	if cmp.Or(strings.Compare(n.File, have.File), cmp.Compare(n.Line, have.Line)) < 0 {
		have.File, have.Line = n.File, n.Line
	}
}

// term looks each key of a term up that may be mistyped. Where each is somebody's,
// all of it should be.
func (s *search) term(st *Statement, t *Term) {
	at, before := place{st.File, t.Line}, len(s.found)
	missing := false
	if t.Service != "" && s.byService[t.Service] == nil {
		s.service(t.Service, at, st.ID)
		missing = true
	}
	if t.Project != "" && !s.runs(t.Project) {
		s.add(Nobody{What: "project " + t.Project, File: at.file, Line: at.line, In: []string{st.ID}, Near: policy.Near(t.Project, slices.Collect(maps.Keys(s.projects)))})
		missing = true
	}
	if t.Label != "" && !slices.Contains(s.labelsThere(), t.Label) {
		s.add(Nobody{What: "label " + t.Label, File: at.file, Line: at.line, In: []string{st.ID}, Near: policy.Near(t.Label, s.labelsThere())})
		missing = true
	}
	for i := range t.Categories {
		missing = s.category(st, at, &t.Categories[i]) || missing
	}
	if missing || len(s.found) > before || !t.isJoint() {
		return
	}
	if sel := s.selection(t, false); len(sel.Identities)+len(sel.Prefixes) > 0 {
		return
	}
	for _, alone := range t.keys() {
		if sel := s.selection(&alone, false); len(sel.Identities)+len(sel.Prefixes) == 0 {
			return // a role or level that is nobody's
		}
	}
	s.add(Nobody{What: t.String() + ", all of it", File: at.file, Line: at.line, In: []string{st.ID}})
}

// isJoint reports whether several keys narrow who is meant.
func (t *Term) isJoint() bool { return len(t.keys()) > 1 }

// keys are terms of one key each, which together are the term but for how far it
// reaches.
func (t *Term) keys() []Term {
	var out []Term
	for _, k := range []Term{{Role: t.Role}, {Model: t.Model}, {Service: t.Service}, {Project: t.Project}, {Label: t.Label}, {Front: t.Front}} {
		if k.selectsWorkloads() {
			out = append(out, k)
		}
	}
	for i := range t.Categories {
		out = append(out, Term{Categories: t.Categories[i : i+1]})
	}
	return out
}

// service notes a service that does not run.
func (s *search) service(name string, at place, in string) {
	n := Nobody{What: "service " + name, File: at.file, Line: at.line, In: []string{in}, Near: policy.Near(name, s.servicesThere(strings.Contains(name, "/")))}
	if project, _, ok := strings.Cut(name, "/"); ok && len(n.Near) == 0 && !s.hasServices(project) {
		n.What = "any service of project " + project
	}
	s.add(n)
}

// servicesThere are those that run, by their whole names or by NAME alone.
func (s *search) servicesThere(whole bool) []string {
	if s.services == nil {
		s.services = make(map[bool][]string)
		for _, sub := range s.subjects {
			for _, k := range sub.Services {
				s.services[true], s.services[false] = append(s.services[true], k.String()), append(s.services[false], k.Name)
			}
		}
	}
	return s.services[whole]
}

// hasServices reports whether a service of a project runs, in whosever namespace.
func (s *search) hasServices(project string) bool {
	return slices.ContainsFunc(s.servicesThere(true), func(name string) bool { return strings.HasPrefix(name, project+"/") })
}

func (s *search) runs(project string) bool {
	if s.projects == nil {
		s.projects = make(map[string]bool)
		for _, sub := range s.subjects {
			s.projects[sub.Services[0].Project.Name] = true
		}
	}
	return s.projects[project]
}

func (s *search) labelsThere() []string {
	if s.labels != nil {
		return s.labels
	}
	there := make(map[string]bool)
	for _, sub := range s.subjects {
		for key, value := range sub.Labels {
			there[key+"="+value] = true
		}
	}
	s.labels = append([]string{}, slices.Collect(maps.Keys(there))...)
	return s.labels
}

// category notes texts that no record gives; levels are the reader's to know.
func (s *search) category(st *Statement, at place, c *Comparison) (missing bool) {
	if s.catalog.kinds[c.Category].Levels != nil {
		return false
	}
	given := s.valuesOf(c.Category)
	for _, t := range c.Tests {
		for _, v := range t.Values {
			if slices.Contains(given, v) {
				continue
			}
			missing = true
			s.add(Nobody{What: "category " + c.Category + "=" + v, File: at.file, Line: at.line, In: []string{st.ID}, Near: policy.Near(v, given)})
		}
	}
	return missing
}

func (s *search) valuesOf(category string) []string {
	if s.values == nil {
		s.values = s.catalog.values()
	}
	return s.values[category]
}

// values are the texts that records give, by category.
func (c *Catalog) values() map[string][]string {
	seen := make(map[string]map[string]bool)
	note := func(category string, texts []string) {
		if seen[category] == nil {
			seen[category] = make(map[string]bool)
		}
		for _, text := range texts {
			seen[category][text] = true
		}
	}
	for _, list := range c.records {
		for _, r := range list {
			for category, texts := range r.Set {
				note(category, texts)
			}
		}
	}
	for _, place := range c.places {
		for category, v := range place {
			note(category, v.texts)
		}
	}
	out := make(map[string][]string, len(seen))
	for category, texts := range seen {
		out[category] = slices.Collect(maps.Keys(texts))
	}
	return out
}

package operator

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gatehouse/models"
	"gatehouse/policy"
)

// Expand writes the statements for who runs at the moment, in the order of the
// files: a selector becomes the identities and prefixes that it means, each
// application a statement of its own. A statement whose condition does not hold is
// pending.
func (p *Policy) Expand(pop *models.Population, c *Catalog, m Moment) []policy.Statement {
	return p.NewExpansion(pop, c, m).Statements()
}

func newExpansion(pop *models.Population, c *Catalog) *expansion {
	subjects := pop.Subjects()
	x := &expansion{catalog: c, subjects: make([]*models.Subject, len(subjects)), match: pop.Match, byID: make(map[policy.Identity]*models.Subject),
		byService: make(map[string][]*models.Subject), meant: make(map[meaning]policy.Peer), said: make(map[saying][]value), texts: make(map[*Term]string)}
	for i := range subjects {
		s := &subjects[i]
		x.subjects[i], x.byID[s.Identity] = s, s
		for name := range namesOf(s) {
			x.byService[name] = append(x.byService[name], s)
		}
	}
	return x
}

// namesOf are those by which terms mean the services of a subject.
func namesOf(s *models.Subject) map[string]bool {
	out := make(map[string]bool)
	for _, k := range s.Services {
		out[k.Name], out[k.String()] = true, true
	}
	return out
}

type expansion struct {
	catalog  *Catalog
	subjects []*models.Subject // in the order of groups
	match    func(id string) (models.Match, bool)
	byID     map[policy.Identity]*models.Subject
	// byService is by NAME and by PROJECT/NAME.
	byService map[string][]*models.Subject
	meant     map[meaning]policy.Peer // statements have many terms in common
	said      map[saying][]value
	texts     map[*Term]string
}

// meaning is a term, of an allow or of a deny.
type meaning struct {
	term    string // as JSON: what String shows does not tell all terms apart
	loosens bool
}

// saying is one category of one identity.
type saying struct {
	id       policy.Identity
	category string
}

func (x *expansion) statement(s *Statement, m Moment) []policy.Statement {
	return x.statementOf(s, m, x.cells(&s.Flows, s.Verdict == policy.Allow))
}

// statementOf is a statement between the peers of some cells.
func (x *expansion) statementOf(s *Statement, m Moment, cells []cell) []policy.Statement {
	base := policy.Statement{
		ID: s.ID, Verdict: s.Verdict, Tier: policy.TierOperator, Ports: s.Ports, AnyPort: s.AnyPort, Speaks: policy.SpeaksBoth,
		EnforceAlways: s.Always, Origin: s.origin(),
	}
	if state := s.state(m); s.Active(m) {
		base.While = state
	} else {
		base.Pending = state
	}
	for i := range s.Except {
		base.Except = append(base.Except, x.exceptions(&s.Except[i])...)
	}
	var out []policy.Statement
	named := make(map[string]int)
	for _, c := range cells {
		named[c.name]++
		for _, app := range s.Apps {
			st := base
			st.From, st.To, st.App = c.from, c.to, app
			if c.name != "" {
				st.ID += "~" + c.name
			}
			if n := named[c.name]; n > 1 { // terms that reach differently meet in one project
				st.ID += "~" + strconv.Itoa(n)
			}
			if len(s.Apps) > 1 {
				st.ID += ":" + strings.Join(app.Texts(), "|")
			}
			out = append(out, st)
		}
	}
	return out
}

func (s *Statement) origin() []string {
	out := []string{s.place()}
	if s.Why != "" {
		out = append(out, s.Why)
	}
	if s.Owner != "" {
		out = append(out, "owner "+s.Owner)
	}
	return out
}

func (x *expansion) exceptions(f *Flows) []policy.Exception {
	var out []policy.Exception
	for _, c := range x.cells(f, true) {
		for _, app := range f.Apps {
			out = append(out, policy.Exception{From: c.from, To: c.to, App: app, Ports: f.Ports, AnyPort: f.AnyPort})
		}
	}
	return out
}

// cell is a part of a statement's peers between which all of it holds: those of
// one project, say, where a term reaches within the project.
type cell struct {
	name     string
	from, to []policy.Peer
}

// cells parts the peers by how far their terms reach. There is at least one, so
// that what selects nobody is listed too.
func (x *expansion) cells(f *Flows, loosens bool) []cell {
	from, to := byWithin(f.From), byWithin(f.To)
	var out []cell
	for _, fw := range slices.Sorted(maps.Keys(from)) {
		for _, tw := range slices.Sorted(maps.Keys(to)) {
			c := cell{from: x.peers(from[fw], loosens), to: x.peers(to[tw], loosens)}
			if fw == WithinAll && tw == WithinAll {
				out = append(out, c)
				continue
			}
			out = append(out, x.split(c, nil, fw, tw)...)
		}
	}
	if len(out) == 0 {
		out = append(out, cell{from: x.nobody(f.From), to: x.nobody(f.To)})
	}
	return out
}

func byWithin(terms []Term) map[Within][]*Term {
	out := make(map[Within][]*Term)
	for i := range terms {
		t := &terms[i]
		out[t.Within] = append(out[t.Within], t)
	}
	return out
}

// nobody names the terms without anyone in them.
func (x *expansion) nobody(terms []Term) []policy.Peer {
	out := []policy.Peer{}
	for i := range terms {
		out = append(out, policy.Peer{Kind: policy.PeerSelector, Name: terms[i].String(), Selected: &policy.Selection{}})
	}
	return out
}

// split makes a cell of each project, network, service or kin that has peers on
// both sides; of those of some names alone where only is not nil.
func (x *expansion) split(c cell, only map[string]bool, withins ...Within) []cell {
	parts := make(map[string]*cell)
	join := func(side func(*cell) *[]policy.Peer, peers []policy.Peer) {
		for _, p := range peers {
			for name, ids := range x.parted(p, only, withins) {
				if parts[name] == nil {
					parts[name] = &cell{name: name}
				}
				list := side(parts[name])
				*list = append(*list, policy.Peer{Kind: policy.PeerSelector, Name: p.String(), Selected: &policy.Selection{Identities: ids}})
			}
		}
	}
	join(func(c *cell) *[]policy.Peer { return &c.from }, c.from)
	join(func(c *cell) *[]policy.Peer { return &c.to }, c.to)
	var out []cell
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if part := parts[name]; len(part.from) > 0 && len(part.to) > 0 {
			out = append(out, *part)
		}
	}
	return out
}

// parted sorts the workloads that a peer means by what they must have in common
// with the other end. Who is no workload has nothing in common.
func (x *expansion) parted(p policy.Peer, only map[string]bool, withins []Within) map[string][]policy.Identity {
	var ids []policy.Identity
	switch {
	case p.Kind == policy.PeerSelector:
		ids = p.Selected.Identities
	case p.Kind == policy.PeerWorkload || p.Kind == policy.PeerAny:
		for i := range x.subjects {
			ids = append(ids, x.subjects[i].Identity)
		}
	}
	out := make(map[string][]policy.Identity)
	for _, id := range ids {
		for _, name := range cellsOf(x.byID[id], withins) {
			if only == nil || only[name] {
				out[name] = append(out[name], id)
			}
		}
	}
	return out
}

// cellsOf names the cells that a workload is in, where terms reach so far, some of them
// less than everywhere.
func cellsOf(s *models.Subject, withins []Within) []string {
	withins = slices.DeleteFunc(slices.Clone(withins), func(w Within) bool { return w == WithinAll })
	names := partsOf(s, withins[0])
	for _, w := range withins[1:] {
		var longer []string
		for _, name := range names {
			for _, part := range partsOf(s, w) {
				longer = append(longer, name+"~"+part)
			}
		}
		names = longer
	}
	return names
}

// partsOf names what a workload may have in common with another.
func partsOf(s *models.Subject, w Within) []string {
	key := s.Services[0]
	project := strings.TrimPrefix(key.Project.Domain+":"+key.Project.Name, ":")
	if key.Project.Name == "" {
		project = key.Project.Domain + ":/" + key.Name // a project of its own (I4)
	}
	switch w {
	case WithinProject:
		return []string{project}
	case WithinShared:
		return s.Networks
	case WithinService:
		return []string{project + "/" + key.Name}
	case WithinSiblings:
		return []string{s.Kin}
	}
	return nil
}

func (x *expansion) peers(terms []*Term, loosens bool) []policy.Peer {
	out := []policy.Peer{}
	for _, t := range terms {
		out = append(out, x.peer(t, loosens))
	}
	return out
}

func (x *expansion) peer(t *Term, loosens bool) policy.Peer {
	switch {
	case t.Name != "":
		return policy.Peer{Kind: policy.PeerName, Name: t.Name, Prefix: t.CIDR}
	case t.CIDR.IsValid():
		return policy.Peer{Kind: policy.PeerCIDR, Prefix: t.CIDR}
	case t.Peer != policy.PeerNone && len(t.Categories) == 0 && t.onlyPeer():
		return policy.Peer{Kind: t.Peer}
	}
	m := meaning{x.text(t), loosens}
	p, known := x.meant[m]
	if !known {
		p = policy.Peer{Kind: policy.PeerSelector, Name: t.String(), Selected: x.selection(t, loosens)}
		x.meant[m] = p
	}
	return p
}

func (x *expansion) text(t *Term) string {
	if text, known := x.texts[t]; known {
		return text
	}
	text, err := json.Marshal(t)
	if err != nil {
		panic(err) // a term is texts and numbers
	}
	x.texts[t] = string(text)
	return string(text)
}

// selection is who a term means.
func (x *expansion) selection(t *Term, loosens bool) *policy.Selection {
	sel := &policy.Selection{Identities: []policy.Identity{}}
	if t.Service != "" {
		for _, s := range x.byService[t.Service] {
			if x.fits(s, t, loosens) {
				sel.Identities = append(sel.Identities, s.Identity)
			}
		}
		return sel
	}
	for i := range x.subjects {
		if x.fits(x.subjects[i], t, loosens) {
			sel.Identities = append(sel.Identities, x.subjects[i].Identity)
		}
	}
	if len(t.Categories) > 0 && !t.selectsWorkloads() {
		sel.Prefixes = x.catalog.outside(t.Categories, loosens)
	}
	return sel
}

// onlyPeer: no other key narrows the workloads that peer: workload means.
func (t *Term) onlyPeer() bool {
	return t.Role == "" && t.Model == "" && t.Service == "" && t.Project == "" && t.Label == "" && !t.Front
}

// fits reports whether an identity has all that a term asks for but its service.
func (x *expansion) fits(s *models.Subject, t *Term, loosens bool) bool {
	if t.Role != "" && !slices.Contains(s.Roles, t.Role) || t.Model != "" && !slices.Contains(s.Models, t.Model) || t.Front && !s.Front {
		return false
	}
	if t.Project != "" && s.Services[0].Project.Name != t.Project {
		return false
	}
	if key, want, ok := strings.Cut(t.Label, "="); ok {
		if have, given := s.Labels[key]; !given || have != want {
			return false
		}
	}
	for i := range t.Categories {
		if !x.compares(s, &t.Categories[i], loosens) {
			return false
		}
	}
	return true
}

// compares joins what is said of all workloads of an identity.
func (x *expansion) compares(s *models.Subject, c *Comparison, loosens bool) bool {
	key := saying{s.Identity, c.Category}
	said, known := x.said[key]
	if !known {
		for _, w := range s.Members {
			m, _ := x.match(w.ID)
			said = append(said, x.catalog.ofWorkload(w, c.Category, m.Trust == policy.TrustRegistry || m.Trust == policy.TrustDigest)...)
		}
		x.said[key] = said
	}
	return x.catalog.compare(said, c, loosens)
}

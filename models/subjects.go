package models

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"gatehouse/policy"
)

// Subject is what an operator's statement can select an identity by.
type Subject struct {
	Identity policy.Identity
	Services []policy.ServiceKey // its own first, then those that live in its namespace (I6)
	Models   []string            // and those that they were made from
	Roles    []string
	Labels   map[string]string // the deployer's
	Networks []string          // ids, without the system's (I7)
	Front    bool              // R12
	Kin      string            // equal for siblings (R11)
	Members  []*policy.Workload
	key      string
}

// Compare orders subjects as groups are.
func (s *Subject) Compare(o *Subject) int {
	return cmp.Or(cmp.Compare(s.Services[0].String(), o.Services[0].String()), cmp.Compare(s.key, o.key))
}

// Subjects are the identities of the population, in the order of Groups. The
// caller must not change them.
func (p *Population) Subjects() []Subject {
	out := make([]Subject, 0, len(p.Groups))
	for i := range p.Groups {
		st, _ := p.standing.Get(p.keys[i])
		out = append(out, p.subjectOf(st.subject, p.Groups[i].Members))
	}
	return out
}

func (p *Population) subjectOf(s *subject, members []string) Subject {
	v := s.selected()
	v.Members = make([]*policy.Workload, 0, len(members))
	for _, id := range members {
		k, _ := p.known.Get(id)
		v.Members = append(v.Members, k.Workload)
	}
	return v
}

// selected is the subject without its members: what tells those apart is in
// identities.
func (s *subject) selected() Subject {
	v := Subject{
		key: s.key, Identity: s.group.Identity, Services: []policy.ServiceKey{s.service}, Roles: s.group.Roles, Labels: s.labels, Front: s.isFront(),
		Kin: fmt.Sprintf("%q %q %q %q", s.service.Project, s.group.Model, s.repository(), withoutNumber(s.service.Name)),
	}
	for _, w := range s.within {
		if !slices.Contains(v.Services, w.Service) {
			v.Services = append(v.Services, w.Service)
		}
	}
	for i := range s.parts {
		m := s.parts[i].model
		v.Models = append(append(v.Models, m.Name), m.Ancestors...)
	}
	for _, n := range s.networks {
		v.Networks = append(v.Networks, n.ID)
	}
	return v
}

// isSelectedAs reports whether selected is the same of two subjects of one key.
func (s *subject) isSelectedAs(o *subject) bool {
	return s.group.Identity == o.group.Identity && s.service == o.service && s.group.Model == o.group.Model && s.repository() == o.repository() &&
		s.isFront() == o.isFront() && slices.Equal(s.group.Roles, o.group.Roles) && maps.Equal(s.labels, o.labels) &&
		slices.EqualFunc(s.within, o.within, func(a, b *policy.Workload) bool { return a.Service == b.Service }) &&
		slices.EqualFunc(s.parts, o.parts, func(a, b part) bool { return a.model == b.model }) &&
		slices.EqualFunc(s.networks, o.networks, func(a, b *policy.Network) bool { return a.ID == b.ID })
}

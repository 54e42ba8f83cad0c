package control

import (
	"net/netip"
	"slices"
	"strings"

	"gatehouse/models"
	"gatehouse/policy"
)

// maxLoosened bounds the lines of one report: whoever starts many containers does
// not flood the log.
const maxLoosened = 50

// reportDeployers logs what loosens by what deployers wrote or removed (V10): new
// allows and vanished denies of labels, a model given by label, services that
// enforce or are guarded no more. d is what next differs in, nil where that is not known.
func (c *Control) reportDeployers(last, next *State, d *models.Difference) {
	lines := 0
	loosened := func(what string, args ...any) {
		if lines++; lines <= maxLoosened {
			c.cfg.Log.Warn("policy loosened: "+what, append(args, "by", "its deployer")...)
		}
	}
	ofLabel := func(s policy.Statement) bool { return s.Tier == policy.TierLabel }
	if d == nil || slices.ContainsFunc(d.Removed, ofLabel) || slices.ContainsFunc(d.Added, ofLabel) {
		reportLabels(last, next, loosened)
	}
	concerned := regrouped(d)
	old := services(last.Population.Groups, concerned)
	for i := range next.Population.Groups {
		g := &next.Population.Groups[i]
		if !concerned(g.Service) || next.IsAway(g) {
			continue
		}
		was := old[g.Service]
		if g.Trust == policy.TrustLabel && (was == nil || was.Trust != g.Trust || was.Model != g.Model) {
			loosened("a label gives the model", "service", g.Service, "model", g.Model)
		}
		switch {
		case was == nil:
		case was.Guarded && !g.Guarded:
			loosened("not guarded any more", "service", g.Service)
		case was.Guarded && was.Mode == policy.Enforce && g.Mode == policy.Observe:
			c.cfg.Log.Warn("policy loosened: observed only", "service", g.Service)
		}
	}
	if lines > maxLoosened {
		c.cfg.Log.Warn("policy loosened", "more", lines-maxLoosened)
	}
}

func reportLabels(last, next *State, loosened func(what string, args ...any)) {
	before, now := byLabel(last.statements), byLabel(next.statements)
	for _, s := range next.statements {
		if s.Tier == policy.TierLabel && s.Verdict == policy.Allow && !before[labelText(s)] {
			loosened("a label allows", "statement", s.Lines(false), "origin", s.Origin)
		}
	}
	alive := services(next.Population.Groups, anyService)
	for _, s := range last.statements {
		if s.Tier == policy.TierLabel && s.Verdict != policy.Allow && !now[labelText(s)] && slices.ContainsFunc(slices.Concat(s.From, s.To), func(p policy.Peer) bool { return alive[p.Service] != nil }) {
			loosened("a label denies no more", "statement", s.Lines(false), "origin", s.Origin)
		}
	}
}

// IsAway reports whether all that a group stands for runs on other nodes, whose
// gateways judge it.
func (s *State) IsAway(g *policy.Group) bool {
	return !g.Guarded && !slices.ContainsFunc(g.Members, func(id string) bool {
		w := s.View.Workload(id)
		return w == nil || w.Node == ""
	})
}

func anyService(policy.ServiceKey) bool { return true }

// regrouped reports of a service whether its groups may be others than before.
func regrouped(d *models.Difference) func(policy.ServiceKey) bool {
	if d == nil {
		return anyService
	}
	are := make(map[policy.ServiceKey]bool, len(d.Came)+len(d.Were))
	for i := range d.Came {
		are[d.Came[i].Service] = true
	}
	for i := range d.Were {
		are[d.Were[i].Services[0]] = true
	}
	return func(k policy.ServiceKey) bool { return are[k] }
}

// labelText tells statements of labels apart by what they say: their ids change
// with the identity of who has the label.
func labelText(s *policy.Statement) string { return strings.Join(s.Lines(true), "\n") }

func byLabel(ss []*policy.Statement) map[string]bool {
	out := make(map[string]bool)
	for _, s := range ss {
		if s.Tier == policy.TierLabel {
			out[labelText(s)] = true
		}
	}
	return out
}

// services are the groups by service, of several the strictest, of some services.
func services(groups []policy.Group, of func(policy.ServiceKey) bool) map[policy.ServiceKey]*policy.Group {
	out := make(map[policy.ServiceKey]*policy.Group)
	for i := range groups {
		g := &groups[i]
		if !of(g.Service) {
			continue
		}
		if had := out[g.Service]; had == nil || g.Guarded && (!had.Guarded || g.Mode == policy.Enforce) {
			out[g.Service] = g
		}
	}
	return out
}

// reportRecords logs what loosens because systems of record say something else:
// an allow that means more, or a deny that means less, of what there was before.
func (c *Control) reportRecords(last, next *State) {
	if last.catalog == next.catalog {
		return
	}
	before := meantBy(last)
	now := meantBy(next)
	old, alive := services(last.Population.Groups, anyService), services(next.Population.Groups, anyService)
	for _, s := range next.statements {
		was, ok := before[s.ID]
		if s.Tier != policy.TierOperator || !ok || s.Pending != "" {
			continue
		}
		is := now[s.ID]
		more, than, there := is, was, old
		if s.Verdict != policy.Allow {
			more, than, there = was, is, alive
		}
		if gained := more.without(than, there); len(gained) > 0 {
			c.cfg.Log.Warn("policy loosened: what systems of record say", "statement", s.ID, "concerns", gained, "by", "a system of record", "why", s.Origin)
		}
	}
}

// meant is whom a statement's selectors mean.
type meant struct {
	services map[policy.ServiceKey]bool
	prefixes []netip.Prefix
}

func meantBy(s *State) map[string]meant {
	named := make(map[policy.Identity]policy.ServiceKey)
	for _, g := range s.Population.Groups {
		named[g.Identity] = g.Service
	}
	out := make(map[string]meant)
	for _, st := range s.statements {
		if st.Tier != policy.TierOperator {
			continue
		}
		m := meant{services: make(map[policy.ServiceKey]bool)}
		for _, p := range slices.Concat(st.From, st.To) {
			if p.Kind != policy.PeerSelector || p.Selected == nil {
				continue
			}
			for _, id := range p.Selected.Identities {
				m.services[named[id]] = true
			}
			m.prefixes = append(m.prefixes, p.Selected.Prefixes...)
		}
		out[st.ID] = m
	}
	return out
}

// without lists whom m means and other does not, of the services that there are.
func (m meant) without(other meant, there map[policy.ServiceKey]*policy.Group) []string {
	var out []string
	for k := range m.services {
		if !other.services[k] && there[k] != nil {
			out = append(out, k.String())
		}
	}
	for _, p := range m.prefixes {
		held := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
		if !slices.ContainsFunc(other.prefixes, held) {
			out = append(out, p.String())
		}
	}
	slices.Sort(out)
	if len(out) > maxLoosened {
		out = append(out[:maxLoosened], "...")
	}
	return out
}

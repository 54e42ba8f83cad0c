package models

import (
	"slices"

	"gatehouse/policy"
)

// Generate makes the statements that follow from the models and the metadata
// of a population, sorted, and the findings about both. It is deterministic:
// equal populations give equal statements with equal IDs.
func Generate(p *Population) ([]policy.Statement, []Finding) {
	out, findings := p.Statements()
	return out, p.Findings(findings)
}

// Statements are those that Generate makes, with the findings about services. They
// are of populations that Groups made, not of those that followed (Next).
//
// The order of events, for each subject:
//
//	name servers (R18)
//	each call: candidates, then each pair of call and offer that both entries
//	allow (R25), the entries that mean "whatever the deployer named" last
//	what its calls and references say of peers outside
//	what it serves to peers outside, and its published ports (R13)
//
// then the fronts by which a service reaches itself (R12), then one statement
// per application, ports and pair.
func (p *Population) Statements() ([]policy.Statement, []Finding) {
	g := generator{index: p.index, drafts: make(map[pair]*[]draft), findings: slices.Clone(p.findings)}
	for _, s := range p.index.subjects {
		if s.group.Shut {
			continue
		}
		g.lookups(s)
		g.callsOf(s)
		g.outsideOf(s)
		g.servedOutside(s)
		g.published(s)
	}
	for _, s := range p.index.subjects {
		if s.group.Shut {
			continue
		}
		g.fronts(s)
		g.unanswered(s)
	}
	out := g.statements()
	for _, s := range p.index.subjects {
		out = append(out, g.labelled(s)...)
	}
	policy.SortStatements(out)
	return out, sortFindings(g.findings)
}

type generator struct {
	index    *index
	drafts   map[pair]*[]draft
	findings []Finding
}

// end is one end of a draft: a subject, or a peer that is no workload.
type end struct {
	subject *subject
	peer    policy.Peer
}

type pair struct{ from, to end }

// draft is a statement in the making, between two ends.
type draft struct {
	app   policy.AppMatch
	ports []policy.PortRange
	// namesOnly: of lookups, those of names that statements allow (R18).
	namesOnly bool
	origin    []string
}

// propose adds a draft. What an earlier one between the same ends already says
// is not said again: of equals the origins are joined, and of two the wider
// one stays.
func (g *generator) propose(from, to end, d draft) {
	d.app = plainForms(d.app)
	if len(d.ports) == 0 || !d.app.Any && d.app.Forms == 0 {
		return
	}
	k := pair{from, to}
	list := g.drafts[k]
	if list == nil {
		list = new([]draft)
		g.drafts[k] = list
	}
	for i := range *list {
		old := &(*list)[i]
		if old.namesOnly && !d.namesOnly {
			continue
		}
		if old.app == d.app && old.namesOnly == d.namesOnly && slices.Equal(old.ports, d.ports) {
			for _, o := range d.origin {
				if !slices.Contains(old.origin, o) {
					old.origin = append(old.origin, o)
				}
			}
			return
		}
		if coversApp(old.app, d.app) && coversPorts(old.ports, d.ports) {
			return
		}
	}
	*list = append(slices.DeleteFunc(*list, func(old draft) bool {
		return (old.namesOnly || !d.namesOnly) && coversApp(d.app, old.app) && coversPorts(d.ports, old.ports)
	}), d)
}

// plainForms drops the upgraded form where the protocol has no upgrade.
func plainForms(m policy.AppMatch) policy.AppMatch {
	if m.Any {
		return policy.AnyApp
	}
	if !m.App.CanStartTLS() {
		m.Forms &^= policy.TLSUpgraded
	}
	return m
}

func coversApp(a, b policy.AppMatch) bool {
	switch {
	case a.Any:
		return true
	case b.Any:
		return false
	}
	return b.App.Is(a.App) && b.Forms&^a.Forms == 0
}

// intersectApps is what both sides' entries allow (R25): any with x is x, of
// two names the one that is spoken inside the other.
func intersectApps(a, b policy.AppMatch) (policy.AppMatch, bool) {
	switch {
	case a.Any:
		return b, true
	case b.Any:
		return a, true
	}
	out := policy.AppMatch{App: a.App, Forms: a.Forms & b.Forms}
	switch {
	case a.App.Is(b.App):
	case b.App.Is(a.App):
		out.App = b.App
	default:
		return out, false
	}
	return out, plainForms(out).Forms != 0
}

func (e *Entry) appMatch() policy.AppMatch {
	if e.AnyApp {
		return policy.AnyApp
	}
	return policy.AppMatch{App: e.App, Forms: e.TLS}
}

func (g *generator) find(kind FindingKind, s *subject, text string) {
	g.findings = append(g.findings, Finding{Kind: kind, Service: s.service, Text: text})
}

func subjectEnd(s *subject) end      { return end{subject: s} }
func peerEnd(p policy.Peer) end      { return end{peer: p} }
func kindEnd(k policy.PeerKind) end  { return peerEnd(policy.Peer{Kind: k}) }
func (g *generator) has(k pair) bool { return g.drafts[k] != nil && len(*g.drafts[k]) > 0 }

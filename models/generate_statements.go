package models

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"gatehouse/policy"
)

// bundle is equal drafts between identities of the same two ends.
type bundle struct {
	draft
	from, to side
	pairs    map[[2]*subject]bool
}

// side is one end of a bundle: a service, or a peer that is none.
type side struct {
	service policy.ServiceKey
	peer    policy.Peer
}

func (e end) side() side {
	if e.subject == nil {
		return side{peer: e.peer}
	}
	return side{service: e.subject.service, peer: policy.Peer{Kind: policy.PeerService}}
}

// statements writes the drafts out, sorted. What all identities of a service
// have in common is said of the service.
func (g *generator) statements() []policy.Statement {
	type key struct {
		from, to side
		app      policy.AppMatch
		ports    string
		names    bool
	}
	bundles := make(map[key]*bundle)
	var order []*bundle
	for _, k := range g.pairsInOrder() {
		for _, d := range *g.drafts[k] {
			id := key{k.from.side(), k.to.side(), d.app, policy.PortsText(d.ports), d.namesOnly}
			b := bundles[id]
			if b == nil {
				b = &bundle{draft: d, from: id.from, to: id.to, pairs: make(map[[2]*subject]bool)}
				bundles[id] = b
				order = append(order, b)
			}
			b.pairs[[2]*subject{k.from.subject, k.to.subject}] = true
		}
	}
	var out []policy.Statement
	for _, b := range order {
		out = append(out, g.write(b)...)
	}
	policy.SortStatements(out)
	return out
}

func (g *generator) pairsInOrder() []pair {
	keys := make([]pair, 0, len(g.drafts))
	for k := range g.drafts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b pair) int { return cmp.Or(compareEnds(a.from, b.from), compareEnds(a.to, b.to)) })
	return keys
}

// compareEnds sorts peers that are no service first.
func compareEnds(a, b end) int {
	switch {
	case a.subject != nil && b.subject != nil:
		return cmp.Compare(a.subject.rank, b.subject.rank)
	case a.subject != nil:
		return 1
	case b.subject != nil:
		return -1
	}
	return cmp.Compare(a.peer.String(), b.peer.String())
}

// write makes one statement of a bundle whose pairs are all pairs of the two
// services' identities, else one for each identity of one side that has all of
// the other, else one for each pair.
func (g *generator) write(b *bundle) []policy.Statement {
	from, to := g.identities(b.from), g.identities(b.to)
	if len(b.pairs) == len(from)*len(to) {
		return []policy.Statement{b.statement(nil, nil)}
	}
	full := func(f *subject, i int, others []*subject) bool {
		for _, o := range others {
			k := [2]*subject{f, o}
			if i == 1 {
				k = [2]*subject{o, f}
			}
			if !b.pairs[k] {
				return false
			}
		}
		return true
	}
	var out []policy.Statement
	rest := make(map[[2]*subject]bool)
	for k := range b.pairs {
		rest[k] = true
	}
	for _, f := range from {
		if full(f, 0, to) {
			out = append(out, b.statement(f, nil))
			for _, t := range to {
				delete(rest, [2]*subject{f, t})
			}
		}
	}
	for _, t := range to {
		if len(rest) > 0 && full(t, 1, from) {
			out = append(out, b.statement(nil, t))
			for _, f := range from {
				delete(rest, [2]*subject{f, t})
			}
		}
	}
	for _, f := range from {
		for _, t := range to {
			if rest[[2]*subject{f, t}] {
				out = append(out, b.statement(f, t))
			}
		}
	}
	return out
}

// identities are all subjects of a service that statements mean; a peer that is
// none has one, nil.
func (g *generator) identities(s side) []*subject {
	if s.peer.Kind != policy.PeerService {
		return []*subject{nil}
	}
	return slices.DeleteFunc(slices.Clone(g.index.services[s.service]), func(o *subject) bool { return o.service != s.service || o.group.Shut })
}

// statement writes the bundle for one identity of a side, or for all where it is nil.
func (b *bundle) statement(from, to *subject) policy.Statement {
	s := policy.Statement{
		Verdict: policy.Allow, Tier: policy.TierModel, Speaks: policy.SpeaksBoth,
		From: []policy.Peer{b.from.of(from)}, To: []policy.Peer{b.to.of(to)},
		App: b.app, Ports: slices.Clone(b.ports), Origin: slices.Clone(b.origin), NamesOnly: b.namesOnly,
	}
	s.ID = statementID(&s, b.from.text(from), b.to.text(to))
	return s
}

func (s side) of(one *subject) policy.Peer {
	p := s.peer
	if p.Kind == policy.PeerService {
		p.Service = s.service
	}
	if one != nil {
		p.Identity = one.group.Identity
	}
	return p
}

// text tells sides apart without the numbers of identities, which do not
// outlive the process.
func (s side) text(one *subject) string {
	if s.peer.Kind != policy.PeerService {
		return s.peer.String()
	}
	text := fmt.Sprintf("%q %q %q", s.service.Project.Domain, s.service.Project.Name, s.service.Name)
	if one != nil {
		text += fmt.Sprintf(" %q", one.key)
	}
	return text
}

// statementID is the same as long as the statement says the same.
func statementID(s *policy.Statement, from, to string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%v %v\n%s\n%s\n%v %s %v\n%s\n", s.Verdict, s.Tier, from, to, s.App, policy.PortsText(s.Ports), s.Speaks, s.Pending)
	return "model-" + hex.EncodeToString(h.Sum(nil)[:8])
}

// Text writes statements as people read them, one line each, with their
// origins: "allow shop/a -> shop/b : mysql+starttls tcp/3306  # why". A line
// whose reasons are those of the line before says "the same".
func Text(ss []policy.Statement) []string {
	var out []string
	last := ""
	for _, s := range ss {
		origin := strings.Join(s.Origin, "; ")
		for _, l := range s.Lines(false) {
			why := origin
			if len(s.Origin) > 1 && origin == last {
				why = "the same"
			}
			last = origin
			out = append(out, l+"  # "+why)
		}
	}
	return out
}

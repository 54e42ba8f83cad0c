package models

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gatehouse/policy"
)

// bundle is equal drafts between identities of the same two ends.
type bundle struct {
	draft
	from, to side
	pairs    [][2]*subject
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
		from, to int // sides, as they are numbered
		app      policy.AppMatch
		ports    string
		names    bool
	}
	numbers := make(map[side]int)
	numberOf := func(s side) int {
		n, known := numbers[s]
		if !known {
			n = len(numbers)
			numbers[s] = n
		}
		return n
	}
	bundles := make(map[key]*bundle)
	var order []*bundle
	for _, k := range g.pairsInOrder() {
		from, to := k.from.side(), k.to.side()
		id := key{from: numberOf(from), to: numberOf(to)}
		for _, d := range *g.drafts[k] {
			id.app, id.ports, id.names = d.app, policy.PortsText(d.ports), d.namesOnly
			b := bundles[id]
			if b == nil {
				b = &bundle{draft: d, from: from, to: to}
				bundles[id] = b
				order = append(order, b)
			}
			if pair := [2]*subject{k.from.subject, k.to.subject}; len(b.pairs) == 0 || b.pairs[len(b.pairs)-1] != pair {
				b.pairs = append(b.pairs, pair)
			}
		}
	}
	out := make([]policy.Statement, 0, len(order))
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
	said := make(map[[2]*subject]bool, len(b.pairs))
	for _, k := range b.pairs {
		said[k] = true
	}
	full := func(f *subject, i int, others []*subject) bool {
		for _, o := range others {
			k := [2]*subject{f, o}
			if i == 1 {
				k = [2]*subject{o, f}
			}
			if !said[k] {
				return false
			}
		}
		return true
	}
	var out []policy.Statement
	rest := maps.Clone(said)
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
	text := strconv.Quote(s.service.Project.Domain) + " " + strconv.Quote(s.service.Project.Name) + " " + strconv.Quote(s.service.Name)
	if one != nil {
		text += " " + strconv.Quote(one.key)
	}
	return text
}

// statementID is the same as long as the statement says the same.
func statementID(s *policy.Statement, from, to string) string {
	text := strings.Join([]string{s.Verdict.String() + " " + s.Tier.String(), from, to, s.App.String() + " " + policy.PortsText(s.Ports) + " " + s.Speaks.String(), s.Pending, ""}, "\n")
	h := sha256.Sum256([]byte(text))
	return "model-" + hex.EncodeToString(h[:8])
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

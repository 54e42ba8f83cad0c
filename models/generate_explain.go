package models

import (
	"fmt"
	"slices"
	"strings"

	"gatehouse/policy"
)

// WhyNot says why models and metadata give no statement from one peer to
// another on a port, one reason a line: "hfs@1#files serves app-server,
// management; peer @site". A port with protocol 0 stands for every port.
// It does not say that there is a statement; ask the table for that first.
func (p *Population) WhyNot(from, to policy.Peer, port policy.PortRange) []string {
	p = p.near([]policy.ServiceKey{from.Service, to.Service})
	callers, callees := p.index.of(from), p.index.of(to)
	var out []string
	add := func(lines ...string) {
		for _, l := range lines {
			if !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	for _, callee := range callees {
		if len(callers) == 0 {
			add(p.index.whyNotServed(callee, nil, peerText(from, nil), port)...)
		}
		for _, caller := range callers {
			add(p.index.whyNoWay(caller, callee)...)
			add(p.index.whyNotServed(callee, caller, peerText(from, caller), port)...)
		}
	}
	for _, caller := range callers {
		if to.Kind == policy.PeerResolver && caller.dns() == DNSNone {
			add(fmt.Sprintf("%s@%d calls no name server (dns: none); peer %s", caller.group.Model, caller.group.Revision, to))
			continue
		}
		if len(callees) == 0 {
			add(whyNotCalled(caller, nil, p.index, to.String(), port)...)
		}
		for _, callee := range callees {
			add(whyNotCalled(caller, callee, p.index, peerText(to, callee), port)...)
		}
	}
	return out
}

// Spoken are the applications that the models of a service have it serve on a port,
// to whomever: entries of one application are one, in the forms of all. A service
// that is not here, as a record of another host may name it or a plan, is the only one
// that is shown as it is; where there are several it is none of them.
func (p *Population) Spoken(service policy.ServiceKey, port policy.PortRange) []policy.AppMatch {
	key, ok := p.serviceLike(service)
	if !ok {
		return nil
	}
	var out []policy.AppMatch
	for _, s := range p.near([]policy.ServiceKey{key}).index.services[key] {
		for _, o := range s.offersOn(port) {
			m := plainForms(o.entry.appMatch())
			i := slices.IndexFunc(out, func(b policy.AppMatch) bool { return b.Any == m.Any && b.App == m.App })
			if i < 0 {
				out = append(out, m)
			} else {
				out[i].Forms |= m.Forms
			}
		}
	}
	return out
}

func (p *Population) serviceLike(service policy.ServiceKey) (like policy.ServiceKey, ok bool) {
	text, several := service.String(), false
	for i := range p.Groups {
		k := p.Groups[i].Service
		switch {
		case k == service:
			return k, true
		case !k.Is(text), k == like:
		case like != policy.ServiceKey{}:
			several = true
		default:
			like = k
		}
	}
	return like, like != policy.ServiceKey{} && !several
}

// of are the subjects that a peer of a statement means; none if it is no service.
func (x *index) of(p policy.Peer) []*subject {
	if p.Kind != policy.PeerService {
		return nil
	}
	var out []*subject
	for _, s := range x.services[p.Service] {
		if p.Identity == 0 || p.Identity == s.group.Identity {
			out = append(out, s)
		}
	}
	return out
}

func peerText(p policy.Peer, s *subject) string {
	if s == nil || len(s.group.Roles) == 0 {
		return p.String()
	}
	return p.String() + " (" + strings.Join(s.group.Roles, ", ") + ")"
}

// whyNoWay says what keeps two subjects apart whatever their entries say.
func (x *index) whyNoWay(caller, callee *subject) []string {
	r := x.relate(caller, callee)
	switch {
	case len(r.ways) > 0:
		return nil
	case len(r.path) == 0:
		return []string{fmt.Sprintf("no path: %s and %s share no network", caller.service, callee.service)}
	case len(r.hits) == 0:
		return []string{fmt.Sprintf("%s is of another project, and no reference of %s names it (R7)", callee.service, caller.service)}
	}
	return []string{fmt.Sprintf("%s is of another project, and %s meets it only on network %s, which is neither its own nor nobody's (R7)",
		callee.service, caller.service, r.path[0].Name)}
}

// whyNotServed is the callee's side. caller is nil where the peer is no workload.
func (x *index) whyNotServed(callee, caller *subject, peer string, port policy.PortRange) []string {
	var out, all []string
	for i := range callee.parts {
		for j := range callee.parts[i].serves {
			o := &callee.parts[i].serves[j]
			if ports := o.ports(); len(ports) > 0 {
				all = append(all, policy.PortsText(ports))
			}
			if port.Proto != 0 && !portsOverlap(o.ports(), []policy.PortRange{port}) {
				continue
			}
			if caller != nil && x.isServed(caller, callee, o) {
				continue
			}
			out = append(out, fmt.Sprintf("%s serves %s; peer %s", o.origin, termsText(o.entry.To), peer))
			if caller == nil && len(callee.publishedPorts()) > 0 {
				out = append(out, fmt.Sprintf("%s publish %s", o.origin, o.part.model.PublishOf(o.entry)))
			}
		}
	}
	if len(out) > 0 || port.Proto == 0 || callee.offersPort(port) {
		return out
	}
	what := "nothing"
	if len(all) > 0 {
		what = strings.Join(slices.Compact(all), ", ")
	}
	return []string{fmt.Sprintf("%s@%d does not serve %s; it serves %s", callee.group.Model, callee.group.Revision, port, what)}
}

func (s *subject) offersPort(port policy.PortRange) bool { return len(s.offersOn(port)) > 0 }

func (x *index) isServed(caller, callee *subject, o *offer) bool {
	r := x.relate(caller, callee)
	return slices.ContainsFunc(r.ways, func(w way) bool { return r.admits(o, w) != nil }) || r.consents(o)
}

// whyNotCalled is the caller's side. callee is nil where the peer is no workload.
func whyNotCalled(caller, callee *subject, x *index, peer string, port policy.PortRange) []string {
	var calls []string
	for i := range caller.parts {
		for j := range caller.parts[i].calls {
			c := &caller.parts[i].calls[j]
			if callee != nil && x.isCalled(caller, callee, c) && (c.callee || port.Proto == 0 || portsOverlap(c.fixed, []policy.PortRange{port})) {
				return nil
			}
			calls = append(calls, fmt.Sprintf("%s calls %s", c.origin, termsText(c.entry.To)))
		}
	}
	if len(calls) > 0 {
		return []string{strings.Join(calls, ", ") + "; peer " + peer}
	}
	lookups := ""
	if caller.dns() == DNSNone {
		lookups = ", not even dns"
	}
	return []string{fmt.Sprintf("%s@%d calls nobody%s; peer %s", caller.group.Model, caller.group.Revision, lookups, peer)}
}

func (x *index) isCalled(caller, callee *subject, c *call) bool {
	r := x.relate(caller, callee)
	return slices.ContainsFunc(r.ways, func(w way) bool { return r.calls(c, w, false) != nil || r.calls(c, w, true) != nil })
}

// termsText lists whom an entry means.
func termsText(terms []PeerTerm) string {
	if len(terms) == 0 {
		return "nobody"
	}
	var out []string
	for i := range terms {
		text := terms[i].text()
		if text == "" {
			text = "whom its deployer names"
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return strings.Join(out, ", ")
}

// unanswered reports references of the deployer that lead to a service but to
// no statement (R10).
func (g *generator) unanswered(s *subject) {
	for callee, hits := range s.named {
		var said []draft
		if list := g.drafts[pair{subjectEnd(s), subjectEnd(callee)}]; list != nil {
			said = *list
		}
		for _, h := range hits {
			if h.weak || h.lookup || answered(said, h.port) {
				continue
			}
			if h.port != 0 && !callee.offers(h.port) {
				g.find(FindingPortNotInModel, s, fmt.Sprintf("%s names port %d of %s, which %s does not serve", h.source, h.port, callee.service, callee.group.Model))
				continue
			}
			why := g.index.whyNot(s, callee, h.port)
			g.find(FindingNotAdmitted, s, fmt.Sprintf("%s names %s: %s", h.source, callee.service, why))
		}
	}
}

func answered(said []draft, port uint16) bool {
	return slices.ContainsFunc(said, func(d draft) bool { return port == 0 || hasPort(d.ports, port) })
}

func (x *index) whyNot(caller, callee *subject, port uint16) string {
	var r policy.PortRange
	if port != 0 {
		r = policy.Port(policy.ProtoTCP, port)
	}
	lines := x.whyNoWay(caller, callee)
	if len(lines) == 0 {
		lines = append(lines, x.whyNotServed(callee, caller, peerText(policy.ServicePeer(caller.service), caller), r)...)
		lines = append(lines, whyNotCalled(caller, callee, x, callee.service.String(), r)...)
	}
	if len(lines) == 0 {
		return "their entries have no application in common"
	}
	return strings.Join(lines, "; ")
}

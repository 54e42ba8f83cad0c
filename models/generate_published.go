package models

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gatehouse/policy"
)

// exposure is one target port as the deployer published it (R13).
type exposure struct {
	port     policy.PortRange
	bindings []policy.Published
	loopback bool // only bound to loopback addresses
	hidden   bool // docker-proxy relays IPv6 clients under the host's address (R14)
	ingress  bool // only by the routing mesh, which hides every client (A4, R14)
}

// exposures are the published ports of all members, by target port.
func (s *subject) exposures() []exposure {
	var out []exposure
	of := make(map[policy.PortRange]int)
	for _, p := range s.publishedPorts() {
		target := policy.Port(p.Proto, p.Port)
		i, known := of[target]
		if !known {
			i = len(out)
			of[target] = i
			out = append(out, exposure{port: target, loopback: true, ingress: true})
		}
		e := &out[i]
		e.bindings = append(e.bindings, p)
		e.loopback = e.loopback && p.HostIP.IsLoopback()
		e.ingress = e.ingress && p.Ingress
		e.hidden = e.hidden || !s.ipv6 && !p.Ingress && !p.HostIP.IsLoopback() && (!p.HostIP.IsValid() || p.HostIP.Unmap().Is6())
	}
	slices.SortFunc(out, func(a, b exposure) int {
		return cmp.Or(cmp.Compare(a.port.Proto, b.port.Proto), cmp.Compare(a.port.Lo, b.port.Lo))
	})
	return out
}

// published proposes the deployer's offers: each published port to those whom
// the entry on it lets it reach, at most (R13).
func (g *generator) published(s *subject) {
	type line struct {
		offer *offer
		from  policy.PeerKind
	}
	var lines []line
	ports := make(map[line][]policy.PortRange)
	bindings := make(map[line][]policy.Published)
	for _, e := range s.exposures() {
		offers := s.offersOn(e.port)
		if len(offers) == 0 {
			g.find(FindingPortNotInModel, s, fmt.Sprintf("published %s leads to %s, which %s does not serve", bindingsText(e.bindings), e.port, s.group.Model))
			continue
		}
		open := false
		for _, o := range offers {
			for _, from := range e.reach(o.part.model.PublishOf(o.entry)) {
				l := line{o, from}
				if ports[l] == nil {
					lines = append(lines, l)
				}
				ports[l] = append(ports[l], e.port)
				bindings[l] = append(bindings[l], e.bindings...)
				open = true
			}
		}
		g.findPublished(s, e, offers, open)
	}
	for _, l := range lines {
		g.propose(kindEnd(l.from), subjectEnd(s), draft{
			app: l.offer.entry.appMatch(), ports: joinRuns(ports[l]),
			origin: []string{"published " + bindingsText(bindings[l]), l.offer.origin + " publish " + l.offer.part.model.PublishOf(l.offer.entry).String()},
		})
	}
}

// reach is who may come by a published port. Where the engine hides clients
// from outside behind the host's address, entries below any refuse the host
// too; where it hides all, they refuse everybody (R14).
func (e *exposure) reach(p Publish) []policy.PeerKind {
	switch {
	case p == PublishNone:
		return nil
	case e.loopback:
		return []policy.PeerKind{policy.PeerHost}
	case p == PublishAny:
		return []policy.PeerKind{policy.PeerExternal, policy.PeerHost}
	case e.ingress:
		return nil
	case e.hidden && p == PublishSite:
		return []policy.PeerKind{policy.PeerSite}
	case e.hidden:
		return nil
	case p == PublishSite:
		return []policy.PeerKind{policy.PeerSite, policy.PeerHost}
	}
	return []policy.PeerKind{policy.PeerHost}
}

func (g *generator) findPublished(s *subject, e exposure, offers []*offer, open bool) {
	widest := PublishNone
	for _, o := range offers {
		widest = max(widest, o.part.model.PublishOf(o.entry))
	}
	text := bindingsText(e.bindings)
	switch {
	case widest == PublishNone:
		g.find(FindingNotPublished, s, fmt.Sprintf("published %s: %s publishes %s to nobody", text, offers[0].origin, e.port))
	case e.loopback || widest == PublishAny:
	case e.ingress, e.hidden:
		g.find(FindingSourceHidden, s, e.whyHidden())
	case !open:
		g.find(FindingNotPublished, s, fmt.Sprintf("published %s: %s publishes %s to nobody there", text, offers[0].origin, e.port))
	}
}

// whyHidden says how the engine hides who calls, and what that comes to (R14).
func (e *exposure) whyHidden() string {
	if e.ingress {
		return fmt.Sprintf("published %s by the routing mesh, which hides who calls: nobody may come; publish it with mode=host", bindingsText(e.bindings))
	}
	return fmt.Sprintf("published %s: on IPv6 the engine relays clients from outside under the host's own address, so the host may not come in either; publish on 127.0.0.1 or 0.0.0.0 only, or give the network IPv6", bindingsText(e.bindings))
}

// HiddenSource says, of a caller whose address may hide others (the host, the
// routing mesh), why it does so at that port of a service, and what shows who
// calls (R14); "" where it hides nobody. Where the port is published to everybody
// nobody is refused for it.
func (p *Population) HiddenSource(from, to policy.Peer, port policy.PortRange) string {
	if from.Kind != policy.PeerHost && from.Kind != policy.PeerIngress {
		return ""
	}
	p = p.near([]policy.ServiceKey{to.Service})
	for _, s := range p.index.of(to) {
		for _, e := range s.exposures() {
			byMesh := from.Kind == policy.PeerIngress
			if !portsOverlap([]policy.PortRange{e.port}, []policy.PortRange{port}) || byMesh && !e.ingress || !byMesh && !e.hidden {
				continue
			}
			open := slices.ContainsFunc(s.offersOn(e.port), func(o *offer) bool { return o.part.model.PublishOf(o.entry) == PublishAny })
			switch {
			case !open:
				return e.whyHidden()
			case byMesh:
				return fmt.Sprintf("published %s by the routing mesh: whoever calls there counts as the internet", bindingsText(e.bindings))
			default:
				return fmt.Sprintf("published %s: clients from outside by IPv6 come under the host's own address too", bindingsText(e.bindings))
			}
		}
	}
	return ""
}

// offersOn are the offers that hold the port, those that an entry names before
// those by a word.
func (s *subject) offersOn(port policy.PortRange) []*offer {
	var out []*offer
	for i := range s.parts {
		for j := range s.parts[i].serves {
			o := &s.parts[i].serves[j]
			if portsOverlap(o.ports(), []policy.PortRange{port}) {
				out = append(out, o)
			}
		}
	}
	return out
}

// bindingsText lists "0.0.0.0:8080, [::]:8080", IPv4 first.
func bindingsText(ps []policy.Published) string {
	ps = slices.Clone(ps)
	slices.SortFunc(ps, func(a, b policy.Published) int {
		return cmp.Or(cmp.Compare(a.HostIP.Unmap().BitLen(), b.HostIP.Unmap().BitLen()), a.HostIP.Compare(b.HostIP),
			cmp.Compare(a.HostPort, b.HostPort), cmp.Compare(a.Proto, b.Proto))
	})
	var runs []bindingRun
	last := make(map[policy.Published]int) // of runs, by what all of a run have
	for _, p := range ps {
		like := policy.Published{HostIP: p.HostIP, Proto: p.Proto, Ingress: p.Ingress}
		i, known := last[like]
		if !known || int(p.HostPort) > int(runs[i].hi)+1 {
			i, last[like] = len(runs), len(runs)
			runs = append(runs, bindingRun{p, p.HostPort})
		}
		runs[i].hi = p.HostPort
	}
	out := make([]string, 0, len(runs))
	for _, r := range runs {
		out = append(out, r.String())
	}
	return strings.Join(out, ", ")
}

// bindingRun are published ports of the host that follow one another.
type bindingRun struct {
	policy.Published
	hi uint16
}

func (r bindingRun) String() string {
	text := fmt.Sprint(r.HostPort)
	if r.hi > r.HostPort {
		text += fmt.Sprint("-", r.hi)
	}
	if r.HostIP.IsValid() {
		text = hostOf(r.HostIP.Unmap()) + ":" + text
	}
	if r.Proto != policy.ProtoTCP {
		text += "/" + r.Proto.String()
	}
	if r.Ingress {
		text += " (ingress)"
	}
	return text
}

// servedOutside proposes entries that name peers which are no workload as
// callers. From outside there is only the way over a published port (R1); the
// host reaches its containers directly.
func (g *generator) servedOutside(s *subject) {
	for i := range s.parts {
		p := &s.parts[i]
		if p.clipped {
			continue
		}
		for j := range p.serves {
			o := &p.serves[j]
			for k := range o.entry.To {
				t := &o.entry.To[k]
				peer, ok := t.outsidePeer()
				if !ok || peer.Kind == policy.PeerName {
					continue
				}
				ports := o.ports()
				if peer.Kind != policy.PeerHost && peer.Kind != policy.PeerMulticast && peer.Kind != policy.PeerBroadcast {
					ports = intersectPorts(ports, s.reachable())
				}
				g.propose(peerEnd(peer), subjectEnd(s), draft{app: o.entry.appMatch(), ports: ports,
					origin: []string{o.origin + " serves " + t.text()}})
			}
		}
	}
}

// fronts proposes that a service calls itself, and the rest of its project, by
// the public address that a front publishes, and by the names that lead there (R12).
func (g *generator) fronts(s *subject) {
	for i := range s.parts {
		for j := range s.parts[i].calls {
			c := &s.parts[i].calls[j]
			if !slices.ContainsFunc(c.entry.To, func(t PeerTerm) bool { return t.Peer == "front" }) {
				continue
			}
			for _, f := range g.frontsOf(s) {
				g.front(s, c, f)
			}
		}
	}
}

// frontsOf are the published proxies of other services that may call s or
// another service of its project.
func (g *generator) frontsOf(s *subject) []*subject {
	var out []*subject
	for _, f := range g.index.fronts {
		calls := func(o *subject) bool { return f.service != o.service && g.has(pair{subjectEnd(f), subjectEnd(o)}) }
		if f != s && slices.ContainsFunc(s.project.subjects, calls) {
			out = append(out, f)
		}
	}
	return out
}

func (g *generator) front(s *subject, c *call, f *subject) {
	var plain, direct []policy.PortRange // host ports of HTTP, in clear and by TLS
	for i := range f.parts {
		for j := range f.parts[i].serves {
			o := &f.parts[i].serves[j]
			if o.entry.Kind != KindData || o.part.model.PublishOf(o.entry) != PublishAny {
				continue
			}
			app, ok := intersectApps(c.appFor(o), o.entry.appMatch())
			if !ok {
				continue
			}
			ports := intersectPorts(o.ports(), f.reachable())
			g.propose(subjectEnd(s), subjectEnd(f), draft{app: app, ports: ports,
				origin: []string{c.origin + " calls front", "host address (A5)"}})
			if app.Forms&policy.TLSDirect != 0 {
				direct = append(direct, f.hostPorts(ports)...)
			} else {
				plain = append(plain, f.hostPorts(ports)...)
			}
		}
	}
	app := policy.AppMatch{App: policy.AppHTTP, Forms: policy.TLSOnly}
	if len(direct) == 0 {
		app.Forms, direct = policy.TLSNone, plain
	}
	app, ok := intersectApps(c.appFor(&offer{entry: frontEntry}), app)
	if !ok {
		return
	}
	for _, host := range s.project.hosts(f) {
		term := PeerTerm{Name: host.name}
		peer, ok := term.outsidePeer()
		if !ok {
			continue
		}
		g.propose(subjectEnd(s), peerEnd(peer), draft{app: app, ports: joinPorts(direct),
			origin: []string{c.origin + " calls front", host.source + " (R12)"}})
	}
}

// frontEntry is what a front speaks at its public address.
var frontEntry = &Entry{App: policy.AppHTTP, TLS: policy.TLSOptional}

// hostPorts are the ports of the host that lead to these TCP ports of s.
func (s *subject) hostPorts(ports []policy.PortRange) []policy.PortRange {
	var out []policy.PortRange
	for _, p := range s.publishedPorts() {
		if p.Proto == policy.ProtoTCP && !p.HostIP.IsLoopback() && portsOverlap(ports, []policy.PortRange{policy.Port(p.Proto, p.Port)}) {
			out = append(out, policy.Port(p.Proto, p.HostPort))
		}
	}
	return out
}

// routedHost is a DNS name that leads to a project by way of a front.
type routedHost struct{ name, source string }

// hosts are the names in the project's own routes for a front.
func (p *project) hosts(front *subject) []routedHost {
	var out []routedHost
	for _, s := range p.subjects {
		for _, rt := range front.routesTo(s) {
			for _, name := range rt.hosts {
				if !slices.ContainsFunc(out, func(h routedHost) bool { return h.name == name }) {
					out = append(out, routedHost{name, rt.source})
				}
			}
		}
	}
	return out
}

package models

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/policy"
)

// callsOf proposes what s may say to other subjects.
func (g *generator) callsOf(s *subject) {
	for _, callee := range g.candidates(s) {
		r := g.index.relate(s, callee)
		if len(r.ways) == 0 {
			continue
		}
		g.pairs(r)
	}
}

// candidates are the subjects that some call of s could mean, in the order of
// the index. Roles and models narrow them, so that the work does not grow with
// the square of a project.
func (g *generator) candidates(s *subject) []*subject {
	set := make(map[*subject]bool, len(s.named))
	add := func(list []*subject) {
		for _, o := range list {
			set[o] = true
		}
	}
	shared := false
	for i := range s.parts {
		for _, c := range s.parts[i].calls {
			for j := range c.entry.To {
				t := &c.entry.To[j]
				shared = shared || t.Shared
				switch {
				case t.bareRef():
				case t.Peer == "self":
					add(g.index.services[s.service])
				case t.Peer != "" && t.Peer != "siblings" && t.Peer != "cluster" && t.Peer != "workload":
				case t.Role != "":
					add(s.project.roles[t.Role])
				case t.Model != "":
					add(s.project.models[t.Model])
				default:
					add(s.project.subjects)
				}
			}
		}
	}
	for o := range s.named {
		set[o] = true
	}
	if shared && (s.isFront() || s.watches()) {
		for _, n := range s.networks {
			add(g.index.networks[n.ID].subjects)
		}
	}
	out := make([]*subject, 0, len(set))
	for o := range set {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *subject) int { return cmp.Compare(a.rank, b.rank) })
	return out
}

// pairs proposes each pair of a call and an offer. Calls of whatever the
// deployer named come last and add nothing to an offer that a more particular
// call has reached.
func (g *generator) pairs(r *relation) {
	reached := make(map[*offer]bool)
	for _, bare := range []bool{false, true} {
		for i := range r.caller.parts {
			for j := range r.caller.parts[i].calls {
				g.pairsOfCall(r, &r.caller.parts[i].calls[j], bare, reached)
			}
		}
	}
}

func (g *generator) pairsOfCall(r *relation, c *call, bare bool, reached map[*offer]bool) {
	for i := range r.callee.parts {
		for j := range r.callee.parts[i].serves {
			o := &r.callee.parts[i].serves[j]
			if bare && reached[o] {
				continue
			}
			for _, w := range r.ways {
				if g.pair(r, c, o, w, bare) {
					reached[o] = reached[o] || !bare
					break
				}
			}
		}
	}
}

// pair proposes what call and offer both allow, if they admit each other that way.
func (g *generator) pair(r *relation, c *call, o *offer, w way, bare bool) bool {
	t := r.calls(c, w, bare)
	if t == nil || !kindsMeet(c.entry.Kind, o.entry.Kind, w) {
		return false
	}
	if c.isRouted() && len(r.hits) == 0 && r.callee.refusesFronts(r.caller) {
		return false
	}
	admitted := r.admits(o, w)
	follows := w == wayFront || w == wayProject && c.isRouted() && len(r.routes) > 0
	if admitted != nil || !follows || !r.offersByRoute(o) {
		byHost := w == wayHost || admitted == nil
		if byHost && !r.consents(o) {
			return false
		}
		if byHost || !follows {
			sel := r.selected(c, o, w)
			if byHost {
				sel = r.publishedOnly(sel, o)
			}
			return g.proposeSelection(r, c, t, o, admitted, w, sel)
		}
	}
	found := false
	for _, sel := range r.routed(c, o) {
		found = g.proposeSelection(r, c, t, o, admitted, w, sel) || found
	}
	return found
}

// proposeSelection proposes what was selected, as far as the call's own ports go.
func (g *generator) proposeSelection(r *relation, c *call, t *PeerTerm, o *offer, admitted *PeerTerm, w way, sel selection) bool {
	if len(r.path) == 0 && !r.callee.onHost && !r.linked() {
		sel.ports = intersectPorts(sel.ports, r.callee.reachable())
	}
	ports := sel.ports
	if !c.callee {
		ports = intersectPorts(ports, c.fixed)
	}
	if len(ports) == 0 {
		return false
	}
	for _, app := range sel.apps {
		g.propose(subjectEnd(r.caller), subjectEnd(r.callee), draft{app: app, ports: ports, namesOnly: c.namesOnly, origin: r.origin(c, t, o, admitted, w, sel)})
	}
	return len(sel.apps) > 0
}

// calls is the first term of the call that means the callee; a term that means
// whatever was named counts only in the bare round. References narrow roles (R8).
func (r *relation) calls(c *call, w way, bare bool) *PeerTerm {
	for i := range c.entry.To {
		t := &c.entry.To[i]
		if t.bareRef() != bare || !r.fits(t, r.caller, r.callee, w) {
			continue
		}
		if t.Role != "" && !t.Ref && w == wayProject && r.caller.namesOther(t.Role, r.callee) {
			continue
		}
		return t
	}
	return nil
}

// namesOther reports whether the references of s name services of a role, and
// this one is not among them (R8).
func (s *subject) namesOther(role string, one *subject) bool {
	if len(s.named[one]) > 0 {
		return false
	}
	for o, hits := range s.named {
		lookupsOnly := !slices.ContainsFunc(hits, func(h hit) bool { return !h.lookup })
		if o.service != s.service && o.hasRole(role) && !lookupsOnly {
			return true
		}
	}
	return false
}

// kindsMeet: metrics and cluster calls are for entries of their kind alone;
// which others a call gets, its references say (R10).
func kindsMeet(call, offer Kind, w way) bool {
	switch {
	case w == wayWatcher:
		return call == KindMetrics && offer == KindMetrics
	case call == KindCluster || call == KindMetrics:
		return call == offer
	}
	return true
}

// admits is the first term of the offer that means the caller.
func (r *relation) admits(o *offer, w way) *PeerTerm {
	for i := range o.entry.To {
		t := &o.entry.To[i]
		if w == wayFront && t.Role != "proxy" {
			continue
		}
		if r.fits(t, r.callee, r.caller, w) {
			return t
		}
	}
	return nil
}

// consents: the port is published to every workload, and the caller names the
// host's address (R13, R15).
func (r *relation) consents(o *offer) bool {
	return r.byHost() && o.part.model.PublishOf(o.entry) == PublishAny
}

// publishedOnly keeps what references by the host's address select.
func (r *relation) publishedOnly(sel selection, o *offer) selection {
	var ports []policy.PortRange
	for _, h := range r.hits {
		if h.host {
			ports = append(ports, withNumber(o.ports(), h.port)...)
		}
	}
	sel.ports = intersectPorts(sel.ports, joinPorts(ports))
	return sel
}

func (r *relation) linked() bool {
	return slices.ContainsFunc(r.hits, func(h hit) bool { return h.link })
}

// reachable are the ports published on an address that containers can reach.
func (s *subject) reachable() []policy.PortRange {
	var open []policy.Published
	for _, p := range s.publishedPorts() {
		if !p.HostIP.IsLoopback() {
			open = append(open, p)
		}
	}
	return publishedTargets(open)
}

// publishedPorts are those of all members.
func (s *subject) publishedPorts() []policy.Published {
	var out []policy.Published
	for _, w := range slices.Concat(s.members, s.within) {
		out = append(out, w.Published...)
	}
	return out
}

// selection is what the caller's references pick out of an offer (R10).
type selection struct {
	ports []policy.PortRange
	apps  []policy.AppMatch
	hits  []hit  // that picked it, and those that only name the callee
	route string // the route that did (R9)
}

// selected: a reference with a port picks the entry on that port, whatever its
// kind; without any, or by one without a port, data entries are meant.
func (r *relation) selected(c *call, o *offer, w way) selection {
	if w == wayFront || w == wayWatcher || c.entry.Kind == KindCluster || c.entry.Kind == KindMetrics {
		return r.whole(c, o, r.hits)
	}
	var sel selection
	strong := false
	for _, h := range r.hits {
		if h.weak {
			sel.hits = append(sel.hits, h)
			continue
		}
		strong = true
		ports, app, ok := pick(c, o, h)
		if !ok {
			continue
		}
		sel.hits = append(sel.hits, h)
		sel.ports = joinPorts(sel.ports, ports)
		if !slices.Contains(sel.apps, app) {
			sel.apps = append(sel.apps, app)
		}
	}
	if strong {
		return sel
	}
	if o.entry.Kind != KindData && o.entry.Kind != c.entry.Kind {
		return selection{}
	}
	return r.whole(c, o, r.hits)
}

// whole is all of the offer that the call allows.
func (r *relation) whole(c *call, o *offer, hits []hit) selection {
	sel := selection{ports: o.ports(), hits: hits}
	if app, ok := intersectApps(c.appFor(o), o.entry.appMatch()); ok {
		sel.apps = []policy.AppMatch{app}
	}
	return sel
}

// appFor is the call's application towards an offer: "callee" is the offer's,
// in the call's forms of TLS.
func (c *call) appFor(o *offer) policy.AppMatch {
	if !c.entry.Callee {
		return c.entry.appMatch()
	}
	app := o.entry.appMatch()
	if !app.Any {
		app.Forms &= c.entry.TLS
	}
	return app
}

// pick is what one reference means of an offer. The scheme of its URL says the
// application where the call leaves that to the callee.
func pick(c *call, o *offer, h hit) (ports []policy.PortRange, app policy.AppMatch, ok bool) {
	switch {
	case h.port == 0 && (o.entry.Kind == KindData || o.entry.Kind == c.entry.Kind):
		ports = o.ports()
	case h.port == 0:
		return nil, app, false
	case hasPort(o.fixed, h.port):
		ports = o.fixed
	default:
		ports = withNumber(o.declared, h.port)
	}
	if len(ports) == 0 {
		return nil, app, false
	}
	want := c.appFor(o)
	if sc, known := schemeOf(h.scheme); known && c.entry.Callee {
		want = policy.AppMatch{App: sc.app, Forms: c.entry.TLS}
		if sc.forms != 0 {
			want.Forms &= sc.forms
		}
	}
	app, ok = intersectApps(want, o.entry.appMatch())
	return ports, app, ok
}

// origin says why, in the order: the caller's entry, the callee's, what the
// deployer said.
func (r *relation) origin(c *call, t *PeerTerm, o *offer, admitted *PeerTerm, w way, sel selection) []string {
	caller := c.origin
	if text := t.text(); text != "" && w != wayFront {
		caller += " calls " + text
	}
	if w == wayFront {
		caller = "front (R5): " + caller
	}
	out := []string{caller}
	if !r.self() {
		callee := o.origin
		if admitted == nil && sel.route != "" {
			callee += " routed"
		} else if admitted == nil {
			callee += " published"
		} else if text := admitted.text(); text != "" {
			callee += " serves " + text
		}
		out = append(out, callee)
	}
	if text := sources(sel.hits); text != "" {
		out = append(out, text)
	}
	switch w {
	case wayNeighbour:
		out = append(out, "neighbour (R7)"+networkText(r.path))
	case wayFront:
		out = append(out, strings.TrimPrefix(networkText(r.path), ", "))
	}
	if sel.route != "" {
		out = append(out, sel.route+" (R9)")
	}
	if r.self() {
		if text := r.callee.hostText(sel.ports); text != "" {
			out = append(out, "also by host:"+text+" (A5)")
		}
	} else if slices.ContainsFunc(sel.hits, func(h hit) bool { return h.host }) {
		out = append(out, "host address (A5)")
	}
	return out
}

// networkText names the first network of a path and whose it is.
func networkText(path []*policy.Network) string {
	if len(path) == 0 {
		return ""
	}
	text := ", network " + path[0].Name
	if owner := path[0].Owner.Name; owner != "" {
		text += " of " + owner
	}
	return text
}

// sources lists where the deployer named the callee, once each.
func sources(hits []hit) string {
	var out []string
	for _, h := range hits {
		if !slices.Contains(out, h.source) {
			out = append(out, h.source)
		}
	}
	return strings.Join(out, ", ")
}

// hostText lists the host ports that lead to these ports of s.
func (s *subject) hostText(ports []policy.PortRange) string {
	var numbers []int
	for _, p := range s.publishedPorts() {
		if !p.HostIP.IsLoopback() && portsOverlap(ports, []policy.PortRange{policy.Port(p.Proto, p.Port)}) {
			numbers = append(numbers, int(p.HostPort))
		}
	}
	slices.Sort(numbers)
	var out []string
	for _, n := range slices.Compact(numbers) {
		out = append(out, fmt.Sprint(n))
	}
	return strings.Join(out, ",")
}

// dnsEntry is the call that R18 gives to every workload that looks up names.
var dnsEntry = &Entry{
	ID: "dns", App: policy.AppDNS, TLS: policy.TLSNone,
	Ports: []PortTerm{{Range: policy.Port(policy.ProtoTCP, 53)}, {Range: policy.Port(policy.ProtoUDP, 53)}},
	To:    []PeerTerm{{Ref: true, Shared: true}},
}

// lookups proposes name lookups (R18): to the resolver, and to those name
// servers that are workloads.
func (g *generator) lookups(s *subject) {
	dns := s.dns()
	if dns == DNSNone {
		return
	}
	c := call{entry: dnsEntry, part: &s.parts[0], origin: "dns " + dns.String(), namesOnly: dns == DNSNames}
	for _, t := range dnsEntry.Ports {
		c.fixed = append(c.fixed, t.Range)
	}
	if s.asksResolver {
		g.propose(subjectEnd(s), kindEnd(policy.PeerResolver), draft{
			app: dnsEntry.appMatch(), ports: c.fixed, namesOnly: c.namesOnly, origin: []string{c.origin},
		})
	}
	for callee, hits := range s.named {
		servers := slices.DeleteFunc(slices.Clone(hits), func(h hit) bool { return !h.lookup })
		if len(servers) > 0 {
			g.pairsOfCall(g.index.relateBy(s, callee, servers), &c, true, make(map[*offer]bool))
		}
	}
}

// dns is the widest of the parts'.
func (s *subject) dns() DNS {
	out := DNSNone
	for i := range s.parts {
		out = min(out, s.parts[i].model.DNS)
	}
	return out
}

// outsideOf proposes what s may say to peers that are no workload: those that
// its entries name, and those that its deployer's references do.
func (g *generator) outsideOf(s *subject) {
	for i := range s.parts {
		p := &s.parts[i]
		for j := range p.calls {
			if !p.clipped {
				g.outsideCalls(s, &p.calls[j])
			}
		}
	}
	for i := range s.outside {
		g.outsideReference(s, &s.outside[i])
	}
}

func (g *generator) outsideCalls(s *subject, c *call) {
	for i := range c.entry.To {
		t := &c.entry.To[i]
		peer, ok := t.outsidePeer()
		if !ok || c.entry.Callee {
			continue
		}
		origin := c.origin
		if c.what == "" {
			origin += " calls " + t.text()
		}
		g.propose(subjectEnd(s), peerEnd(peer), draft{app: c.entry.appMatch(), ports: c.fixed, origin: []string{origin}})
	}
}

// outsideReference gives the one name or address that the deployer wrote down,
// by the first call that means whatever he names.
func (g *generator) outsideReference(s *subject, o *outsider) {
	if o.weak {
		return
	}
	for i := range s.parts {
		for j := range s.parts[i].calls {
			c := &s.parts[i].calls[j]
			if !slices.ContainsFunc(c.entry.To, func(t PeerTerm) bool { return t.bareRef() }) {
				continue
			}
			app, ports, ok := c.outside(o)
			if !ok {
				continue
			}
			g.propose(subjectEnd(s), peerEnd(o.peer), draft{app: app, ports: ports, origin: []string{c.origin, o.source}})
			return
		}
	}
	g.find(FindingNotAdmitted, s, fmt.Sprintf("%s names %s: %s", o.source, o.peer, outsideReason(o)))
}

func outsideReason(o *outsider) string {
	if sc, _ := schemeOf(o.scheme); o.port == 0 && sc.port == 0 {
		return "it says no port"
	}
	return "no entry of its model calls what its deployer names on that port"
}

// outside is what a call says to a peer of which no model is known: the
// application of the URL's scheme or of the usual port.
func (c *call) outside(o *outsider) (app policy.AppMatch, ports []policy.PortRange, ok bool) {
	sc, known := schemeOf(o.scheme)
	port := cmp.Or(o.port, sc.port)
	if port == 0 {
		return app, nil, false
	}
	if !known {
		sc, known = schemes[usualSchemes[port]]
	}
	ports = []policy.PortRange{policy.Port(policy.ProtoTCP, port)}
	if !c.callee {
		ports = intersectPorts(ports, c.fixed)
	}
	switch {
	case len(ports) == 0:
		return app, nil, false
	case !known && c.entry.Callee:
		return policy.AnyApp, ports, true
	case !known:
		return c.entry.appMatch(), ports, true
	case c.entry.Callee:
		return policy.AppMatch{App: sc.app, Forms: cmp.Or(sc.forms, c.entry.TLS)}, ports, true
	}
	app, ok = intersectApps(c.entry.appMatch(), policy.AppMatch{App: sc.app, Forms: cmp.Or(sc.forms, policy.TLSOptional)})
	return app, ports, ok
}

// hostOf is an address as Docker writes it before a port.
func hostOf(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

package models

import (
	"net/netip"
	"slices"
	"strings"

	"gatehouse/policy"
)

// way is by which rule one subject may reach another at all (R1, R2).
type way uint8

const (
	noWay        way = iota
	wayProject       // the same project, and a path
	wayNeighbour     // R7: another project's service that the caller's deployer names
	wayHost          // R15: by the host's address and a published port
	wayFront         // R5
	wayWatcher       // R6
)

// relation is a caller and a callee with all that lies between them.
type relation struct {
	caller, callee *subject
	hits           []hit // the caller's references to the callee, strong ones first; no name servers
	path           []*policy.Network
	ways           []way   // in the order in which they are tried
	routes         []route // that the callee's deployer wrote for the caller (R9)
	// replicated: caller and callee are one service of more than one workload.
	// What a workload says to its own address stays in its namespace.
	replicated bool
}

// relate finds the ways from one subject to another; none is no relation.
func (x *index) relate(caller, callee *subject) *relation {
	hits := slices.DeleteFunc(slices.Clone(caller.named[callee]), func(h hit) bool { return h.lookup })
	return x.relateBy(caller, callee, hits)
}

// relateBy is relate with references of the caller's choosing.
func (x *index) relateBy(caller, callee *subject, hits []hit) *relation {
	r := &relation{caller: caller, callee: callee, hits: hits, path: commonNetworks(caller, callee), routes: caller.routesTo(callee)}
	if caller.project == callee.project {
		r.replicated = r.self() && x.isReplicated(caller)
		if len(r.path) > 0 || callee.onHost || r.byHost() || r.self() && callee.isPublished() {
			r.ways = append(r.ways, wayProject)
		}
		return r
	}
	if r.isNeighbour() {
		r.ways = append(r.ways, wayNeighbour)
	}
	if r.byHost() {
		r.ways = append(r.ways, wayHost)
	}
	if x.isFrontOf(r) {
		r.ways = append(r.ways, wayFront)
	}
	if len(r.path) > 0 && caller.watches() {
		r.ways = append(r.ways, wayWatcher)
	}
	return r
}

// isReplicated: a Swarm service may have tasks on other hosts.
func (x *index) isReplicated(s *subject) bool {
	n := 0
	for _, o := range x.services[s.service] {
		if !o.group.Shut {
			n += len(o.members)
		}
	}
	return n > 1 || s.members[0].Swarm
}

func commonNetworks(a, b *subject) []*policy.Network {
	var out []*policy.Network
	for i, j := 0, 0; i < len(a.networks) && j < len(b.networks); {
		switch x, y := a.networks[i], b.networks[j]; {
		case x.ID < y.ID:
			i++
		case x.ID > y.ID:
			j++
		default:
			out = append(out, x)
			i++
			j++
		}
	}
	return out
}

func (r *relation) self() bool { return r.caller.service == r.callee.service }

// clustered: one names the other, or each some third of their project and model
// (R11). Who follows whom changes while a cluster runs, and what its deployer wrote
// does not, so that a name holds in both directions.
func (r *relation) clustered() bool {
	return !r.self() && r.caller.project == r.callee.project && r.caller.memberOf() == r.callee.memberOf()
}

// siblings are equal but for a trailing number of their names (R11).
func (r *relation) siblings() bool {
	return r.self() || r.caller.project == r.callee.project && r.caller.group.Model == r.callee.group.Model &&
		r.caller.repository() == r.callee.repository() &&
		withoutNumber(r.caller.service.Name) == withoutNumber(r.callee.service.Name)
}

func (s *subject) repository() string { return s.members[0].Image.Repository }

func withoutNumber(name string) string { return strings.TrimRight(name, "0123456789") }

func (r *relation) byHost() bool {
	return slices.ContainsFunc(r.hits, func(h hit) bool { return h.host })
}

// isNeighbour is R7: the callee's deployer joined a network that is nobody's
// or the caller's own, and the caller's names the callee there. Links reach
// over the default bridge too (I7), software on the host's network by A6.
func (r *relation) isNeighbour() bool {
	direct := slices.ContainsFunc(r.hits, func(h hit) bool { return !h.host })
	if !direct {
		return false
	}
	open := func(n *policy.Network) bool {
		return n.Owner == policy.ProjectKey{} || n.Owner == r.caller.service.Project
	}
	if slices.ContainsFunc(r.path, open) || r.callee.onHost {
		return true
	}
	linked := slices.ContainsFunc(r.hits, func(h hit) bool { return h.link })
	return linked && slices.ContainsFunc(r.caller.system, func(n *policy.Network) bool { return slices.Contains(r.callee.system, n) })
}

// isFrontOf is R5: a proxy that publishes a port reaches across a network that
// either project owns, and across an unowned one if it is the only front there
// or the callee carries a route for it.
func (x *index) isFrontOf(r *relation) bool {
	if !r.caller.isFront() || r.callee.refusesFronts(r.caller) {
		return false
	}
	return slices.ContainsFunc(r.path, func(n *policy.Network) bool {
		switch n.Owner {
		case r.caller.service.Project, r.callee.service.Project:
			return true
		case policy.ProjectKey{}:
			return x.onlyFront(n, r.caller) || len(r.routes) > 0
		}
		return false
	})
}

func (s *subject) isFront() bool { return s.hasRole("proxy") && !s.isClipped() && s.isPublished() }

func (s *subject) watches() bool { return s.hasRole("monitoring") && !s.isClipped() }

// isClipped reports whether some part is (T4).
func (s *subject) isClipped() bool {
	return slices.ContainsFunc(s.parts, func(p part) bool { return p.clipped })
}

// isPublished reports whether a port is offered on an address of the host that
// is not loopback.
func (s *subject) isPublished() bool {
	for _, w := range slices.Concat(s.members, s.within) {
		if slices.ContainsFunc(w.Published, func(p policy.Published) bool { return !p.HostIP.IsLoopback() }) {
			return true
		}
	}
	return false
}

// refusesFronts: the callee's deployer switched this proxy off for it.
func (s *subject) refusesFronts(front *subject) bool {
	for i := range front.parts {
		if r := front.parts[i].model.Routes; r != nil && r.Enable != "" && s.labels[r.Enable] == "false" {
			return true
		}
	}
	return false
}

func (x *index) onlyFront(n *policy.Network, front *subject) bool {
	return !slices.ContainsFunc(x.networks[n.ID].fronts, func(s *subject) bool { return s.service != front.service })
}

// fits reports whether a peer term of an entry of me means other. The
// references are the caller's in both directions.
func (r *relation) fits(t *PeerTerm, me, other *subject, w way) bool {
	switch w {
	case wayProject:
	case wayWatcher, wayFront, wayNeighbour, wayHost:
		if !t.Shared {
			return false
		}
	default:
		return false
	}
	if t.Routed {
		return len(r.routes) > 0 && (w == wayProject || w == wayFront)
	}
	if t.Name != "" || t.CIDR != "" || t.Ref && len(r.hits) == 0 {
		return false
	}
	switch t.Peer {
	case "":
	case "self":
		return r.self() && (r.replicated || r.callee.isPublished())
	case "siblings":
		return r.siblings() && (!r.self() || r.replicated)
	case "cluster":
		return r.clustered()
	case "workload":
		return true
	default:
		return false
	}
	if t.kind() != 0 && r.self() && !t.Ref && t.Service == "" && t.Project == "" {
		return false // what one's own replicas are is said by self (R11)
	}
	switch {
	case t.kind() == 0 && !t.Ref,
		t.Role != "" && !other.hasRole(t.Role),
		t.Model != "" && !other.is(t.Model),
		t.Service != "" && !isService(t.Service, me, other),
		t.Project != "" && !isProject(t.Project, me, other),
		t.Label != "" && !hasLabel(t.Label, other):
		return false
	}
	return true
}

// kind counts the keys by which a term selects services.
func (t *PeerTerm) kind() int {
	n := 0
	for _, v := range []string{t.Role, t.Model, t.Service, t.Project, t.Label} {
		if v != "" {
			n++
		}
	}
	return n
}

// bareRef: the term means whatever the deployer named.
func (t *PeerTerm) bareRef() bool { return t.Ref && t.kind() == 0 && t.Peer == "" }

func isService(name string, me, other *subject) bool {
	if strings.Contains(name, "/") {
		return other.service.String() == name
	}
	return other.project == me.project && other.service.Name == name
}

func isProject(name string, me, other *subject) bool {
	if name == "same" {
		return other.project == me.project
	}
	return other.service.Project.Name == name
}

func hasLabel(want string, other *subject) bool {
	k, v, _ := strings.Cut(want, "=")
	have, ok := other.labels[k]
	return ok && have == v
}

// text is how a term reads in an origin; "" for what the deployer named.
func (t *PeerTerm) text() string {
	var words []string
	add := func(prefix, v string) {
		if v != "" {
			words = append(words, prefix+v)
		}
	}
	add("", t.Role)
	add("model ", t.Model)
	add("service ", t.Service)
	add("project ", t.Project)
	add("label ", t.Label)
	add("", t.Peer)
	add("name:", t.Name)
	add("cidr:", t.CIDR)
	if t.Routed {
		words = append(words, "routed")
	}
	return strings.Join(words, " ")
}

// outsidePeers are the values of peer that mean no workload.
var outsidePeers = map[string]policy.PeerKind{
	"host": policy.PeerHost, "node": policy.PeerNode, "site": policy.PeerSite, "internet": policy.PeerInternet,
	"external": policy.PeerExternal, "resolver": policy.PeerResolver, "metadata": policy.PeerMetadata,
	"orchestrator": policy.PeerOrchestrator, "multicast": policy.PeerMulticast, "broadcast": policy.PeerBroadcast,
	"ingress": policy.PeerIngress,
}

// outsidePeer is the peer that a term names where that is no workload.
func (t *PeerTerm) outsidePeer() (p policy.Peer, ok bool) {
	if t.Name != "" {
		name, err := policy.ParseName(t.Name)
		return policy.Peer{Kind: policy.PeerName, Name: name}, err == nil
	}
	if t.CIDR != "" {
		prefix, err := netip.ParsePrefix(t.CIDR)
		return policy.Peer{Kind: policy.PeerCIDR, Prefix: prefix}, err == nil
	}
	kind, ok := outsidePeers[t.Peer]
	return policy.Peer{Kind: kind}, ok
}

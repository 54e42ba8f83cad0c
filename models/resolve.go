package models

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/policy"
)

// How a reference is resolved (R4), in this order; the first that fits counts:
//
//	the project's own service, alias or container name
//	the one owner of that name on a network that caller and owner share
//	a DNS name, if it has a dot
//
// and an address as section 1 does: an endpoint on a shared network (A1), a
// published port of this host (A5), host-network software (A6), this host
// (A10), another node, an address outside.
//
// What is left is unresolved until something of that name appears.

// hit is one reference that resolved to a service.
type hit struct {
	source string // "env DATABASE_URL"
	port   uint16 // of the service itself; 0 = not said
	scheme string
	weak   bool
	host   bool // reached by the host's address and a published port (A5)
	link   bool // reaches over a system network too (I7)
	lookup bool // its name server, not something that its environment names
}

// outsider is a reference that leads out of all projects.
type outsider struct {
	hit
	peer policy.Peer // PeerName, PeerCIDR or PeerHost
}

// project is what groups services (I1); a workload without one is its own.
type project struct {
	key      policy.ProjectKey
	subjects []*subject
	names    map[string][]*subject // services, aliases, container names
	roles    map[string][]*subject
	models   map[string][]*subject // ancestors of models too
}

// network is who is on one network, and under which names and addresses.
type network struct {
	*policy.Network
	subjects  []*subject
	fronts    []*subject
	names     map[string][]*subject
	addresses map[netip.Addr][]*subject
}

type projectID struct {
	key  policy.ProjectKey
	solo string // the service, where it has no project
}

type frontendKey struct {
	proto policy.Proto
	port  uint16
}

// frontend is one published port (A5).
type frontend struct {
	subject *subject
	policy.Published
}

// index finds subjects by what references and entries name.
type index struct {
	host      policy.Host
	around    []policy.Network // all there are
	subjects  []*subject
	projects  map[projectID]*project
	services  map[policy.ServiceKey][]*subject
	networks  map[string]*network // those that somebody is on
	frontends map[frontendKey][]frontend
	fronts    []*subject
}

// sought is what somebody looks for: whoever comes or goes under such a name,
// address or id may change what others' references mean.
type sought struct {
	names     map[string]bool
	addresses map[netip.Addr]bool
}

func newSought(snap *policy.Snapshot) sought {
	a := sought{make(map[string]bool), make(map[netip.Addr]bool)}
	for _, addr := range snap.Host.Resolvers {
		a.addresses[addr.Unmap()] = true
	}
	for i := range snap.Workloads {
		a.by(&snap.Workloads[i])
	}
	return a
}

// by adds what a workload looks for.
func (a *sought) by(w *policy.Workload) {
	for _, addr := range w.DNS {
		a.addresses[addr.Unmap()] = true
	}
	for _, name := range w.DependsOn {
		a.names[plainName(name)] = true
	}
	for _, r := range w.References {
		a.add(r.Host)
	}
}

// add takes "NAME.NETWORK" for NAME too, whatever the networks are called.
func (a *sought) add(host string) {
	name := strings.Trim(plainName(host), "[]")
	if addr, err := netip.ParseAddr(name); err == nil {
		a.addresses[addr.Unmap().WithZone("")] = true
		return
	}
	a.names[name] = true
	for i := range name {
		if name[i] == '.' {
			a.names[name[:i]] = true
		}
	}
}

func newIndex(snap *policy.Snapshot, subjects []*subject) *index {
	x := &index{
		host: snap.Host, around: snap.Networks, subjects: subjects,
		projects:  make(map[projectID]*project),
		services:  make(map[policy.ServiceKey][]*subject),
		networks:  make(map[string]*network),
		frontends: make(map[frontendKey][]frontend),
	}
	used := networksOf(snap.Workloads)
	for i := range snap.Networks {
		if n := &snap.Networks[i]; used[n.ID] {
			x.networks[n.ID] = &network{Network: n, names: make(map[string][]*subject), addresses: make(map[netip.Addr][]*subject)}
		}
	}
	for _, s := range subjects {
		x.add(s)
		if !s.isFront() {
			continue
		}
		x.fronts = append(x.fronts, s)
		for _, n := range s.networks {
			x.networks[n.ID].fronts = append(x.networks[n.ID].fronts, s)
		}
	}
	return x
}

// networksOf are the ids of the networks that somebody is on, or has a virtual address on.
func networksOf(workloads []policy.Workload) map[string]bool {
	out := make(map[string]bool)
	for i := range workloads {
		w := &workloads[i]
		for j := range w.Endpoints {
			out[w.Endpoints[j].Network] = true
		}
		for id := range w.VIPs {
			out[id] = true
		}
	}
	return out
}

func (x *index) add(s *subject) {
	s.named, s.absent, s.cluster = make(map[*subject][]hit), nil, nil
	x.services[s.service] = append(x.services[s.service], s)
	x.joinProject(s)
	for _, w := range s.members {
		x.addNames(s, w)
		for _, e := range w.Endpoints {
			x.addEndpoint(s, w, e)
		}
		for net, vips := range w.VIPs {
			if n := x.networks[net]; n != nil {
				for _, a := range vips {
					n.addresses[a.Unmap()] = appendRun(n.addresses[a.Unmap()], s)
				}
			}
		}
		s.onHost = s.onHost || strings.HasPrefix(w.Uncovered, "network_mode host")
		x.addFrontends(s, w)
	}
	for _, w := range s.within {
		x.addNames(s, w)
		x.services[w.Service] = appendRun(x.services[w.Service], s)
		x.addFrontends(s, w)
	}
	s.networks, s.system = networkSet(s.networks), networkSet(s.system)
}

// networkSet sorts by id and drops repetitions.
func networkSet(ns []*policy.Network) []*policy.Network {
	slices.SortFunc(ns, func(a, b *policy.Network) int { return cmp.Compare(a.ID, b.ID) })
	return slices.Compact(ns)
}

func (x *index) joinProject(s *subject) {
	id := projectID{key: s.service.Project}
	if id.key.Name == "" {
		id.solo = s.service.Name
	}
	p := x.projects[id]
	if p == nil {
		p = &project{key: id.key, names: make(map[string][]*subject), roles: make(map[string][]*subject), models: make(map[string][]*subject)}
		x.projects[id] = p
	}
	s.project = p
	p.subjects = append(p.subjects, s)
	for _, r := range s.group.Roles {
		p.roles[r] = append(p.roles[r], s)
	}
	for i := range s.parts {
		m := s.parts[i].model
		for _, name := range append([]string{m.Name}, m.Ancestors...) {
			p.models[name] = appendRun(p.models[name], s)
		}
	}
}

// addNames are the names by which s is known in its own project.
func (x *index) addNames(s *subject, w *policy.Workload) {
	names := append([]string{w.Service.Name, w.Name}, swarmNames(w)...)
	for _, e := range w.Endpoints {
		names = append(names, e.Aliases...)
	}
	for _, n := range names {
		addName(s.project.names, n, s)
	}
}

// swarmNames are STACK_service, and with tasks. before it.
func swarmNames(w *policy.Workload) []string {
	if !w.Swarm {
		return nil
	}
	names := []string{"tasks." + w.Service.Name}
	if p := w.Service.Project.Name; p != "" {
		names = append(names, p+"_"+w.Service.Name, "tasks."+p+"_"+w.Service.Name)
	}
	return names
}

func (x *index) addEndpoint(s *subject, w *policy.Workload, e policy.Endpoint) {
	n := x.networks[e.Network]
	if n == nil {
		return
	}
	switch {
	case n.Driver == "host":
		s.onHost = true
		return
	case n.System:
		s.system = append(s.system, n.Network)
	default:
		s.networks = append(s.networks, n.Network)
	}
	n.subjects = appendRun(n.subjects, s)
	names := append([]string{w.Name}, e.Aliases...)
	if w.Compose || w.Swarm {
		names = append(append(names, w.Service.Name), swarmNames(w)...)
	}
	for _, name := range names {
		addName(n.names, name, s)
	}
	for _, a := range e.Addresses {
		a = a.Unmap()
		s.ipv6 = s.ipv6 || a.Is6() && !a.IsLinkLocalUnicast()
		n.addresses[a] = appendRun(n.addresses[a], s)
	}
}

func (x *index) addFrontends(s *subject, w *policy.Workload) {
	for _, p := range w.Published {
		k := frontendKey{p.Proto, p.HostPort}
		x.frontends[k] = append(x.frontends[k], frontend{s, p})
	}
}

func addName(names map[string][]*subject, name string, s *subject) {
	if name == "" {
		return
	}
	name = plainName(name)
	names[name] = appendRun(names[name], s)
}

// plainName makes names comparable as DNS does.
func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// appendRun appends s unless it is the last element: subjects are indexed one
// after the other, so that all of one stand together.
func appendRun(list []*subject, s *subject) []*subject {
	if n := len(list); n > 0 && list[n-1] == s {
		return list
	}
	return append(list, s)
}

// resolveAll resolves the references of all subjects, then gives callees the
// ports by which their own project's references name them (R10).
func (x *index) resolveAll(p *Population) {
	for _, s := range x.subjects {
		for _, ref := range references(s) {
			if !p.offers[ref.Source] {
				x.resolve(p, s, ref)
			}
		}
		x.resolveLookups(s)
		sortHits(s)
	}
	for _, s := range x.subjects {
		for callee, hits := range s.named {
			if callee.project == s.project {
				callee.addReferenced(hits)
			}
		}
	}
	for _, s := range x.subjects {
		for i := range s.parts {
			s.parts[i].settleReferenced()
		}
	}
	x.joinClusters()
	x.joinSiblings()
	x.nameClusters()
	x.addRoutes(p)
}

// absentee is a name that nobody who runs has.
type absentee struct {
	name string
	hit
}

// joinClusters makes one cluster of those of one project and model that name each
// other, where the model has clusters of that kind (R11). A cluster outlives the member
// that all others name, which is when they need each other most: a name of nobody joins
// those that name it as their like.
func (x *index) joinClusters() {
	type place struct {
		project     *project
		model, name string
	}
	absent := make(map[place]*subject)
	for _, s := range x.subjects {
		if !s.mayCluster() {
			continue
		}
		for o, hits := range s.named {
			if o.project == s.project && o.group.Model == s.group.Model && slices.ContainsFunc(hits, func(h hit) bool { return !h.lookup && !h.weak }) {
				unite(s, o)
			}
		}
		for _, a := range s.absent {
			if !s.meansItsLike(a.hit) {
				continue
			}
			at := place{s.project, s.group.Model, a.name}
			if first, ok := absent[at]; ok {
				unite(first, s)
			} else {
				absent[at] = s
			}
		}
	}
}

// joinSiblings makes one cluster of siblings whose settings say that they are of one: a
// variable or an option that switches an entry for clusters on.
func (x *index) joinSiblings() {
	type kin struct {
		project                 *project
		model, repository, name string
	}
	first := make(map[kin]*subject)
	for _, s := range x.subjects {
		if !s.isSetUpAsMember() {
			continue
		}
		of := kin{s.project, s.group.Model, s.repository(), withoutNumber(s.service.Name)}
		if o, ok := first[of]; ok {
			unite(o, s)
		} else {
			first[of] = s
		}
	}
}

func (s *subject) isSetUpAsMember() bool {
	return slices.ContainsFunc(s.parts, func(p part) bool { return slices.ContainsFunc(p.serves, p.setsUp) })
}

// setsUp reports whether settings of the part switch an entry for clusters on.
func (p *part) setsUp(o offer) bool { return isForClusters(o.entry) && p.facts.isSet(o.entry.When) }

// isForClusters reports whether the entry is open to members that name each other.
func isForClusters(e *Entry) bool {
	return slices.ContainsFunc(e.To, func(t PeerTerm) bool { return t.Peer == "cluster" })
}

func unite(a, b *subject) {
	a, b = a.memberOf(), b.memberOf()
	switch {
	case a.rank < b.rank:
		b.cluster = a
	case b.rank < a.rank:
		a.cluster = b
	}
}

// clusterWords are what keys of settings say that name another member.
var clusterWords = []string{"MASTER", "PRIMARY", "REPLICA", "CLUSTER", "PARTNER", "JOIN", "SEED", "PEER", "SOURCE"}

// meansItsLike: the reference is to a port that members have, or under a key that is
// about them.
func (s *subject) meansItsLike(h hit) bool {
	if h.weak {
		return false
	}
	if h.port != 0 {
		return slices.ContainsFunc(s.parts, func(p part) bool {
			return slices.ContainsFunc(p.model.Serves, func(e Entry) bool {
				fixed, _ := p.facts.ports(&e)
				return e.Kind == KindCluster && hasPort(fixed, h.port)
			})
		})
	}
	return slices.ContainsFunc(clusterWords, func(word string) bool { return strings.Contains(strings.ToUpper(h.source), word) })
}

// nameClusters: who names a member of a cluster in its own project names them all, as
// far as their entries go (R8). Clients learn from the member, a Sentinel or one of a
// replica set, who else there is and whom to write to.
func (x *index) nameClusters() {
	members := make(map[*subject][]*subject)
	for _, s := range x.subjects {
		if first := s.memberOf(); first != s {
			members[first] = append(members[first], s)
		}
	}
	if len(members) == 0 {
		return
	}
	for _, s := range x.subjects {
		for first, via := range s.clustersNamed() {
			for _, o := range append(members[first], first) {
				if len(s.named[o]) == 0 {
					s.named[o] = via
				}
			}
		}
	}
}

// clustersNamed are the first members of the clusters of its project that s names and
// is not of, and where it does.
func (s *subject) clustersNamed() map[*subject][]hit {
	out := make(map[*subject][]hit)
	for o, hits := range s.named {
		first := o.memberOf()
		if o.project != s.project || first == s.memberOf() {
			continue
		}
		for _, h := range hits {
			if !h.lookup {
				out[first] = append(out[first], hit{source: h.source, weak: true})
			}
		}
	}
	for first, hits := range out {
		slices.SortFunc(hits, compareHits)
		out[first] = slices.Compact(hits)
	}
	return out
}

func (s *subject) mayCluster() bool {
	return slices.ContainsFunc(s.parts, func(p part) bool {
		return slices.ContainsFunc(p.model.Serves, func(e Entry) bool { return isForClusters(&e) })
	})
}

// memberOf is the first of the cluster of s: s itself where it is in none.
func (s *subject) memberOf() *subject {
	for s.cluster != nil {
		s = s.cluster
	}
	return s
}

// references are those of the subject's workloads, each once, depends_on too.
func references(s *subject) []policy.Reference {
	var out []policy.Reference
	for _, w := range slices.Concat(s.members, s.within) {
		for _, r := range w.References {
			if r.Source != "dns" { // name servers are resolveLookups'
				out = append(out, r)
			}
		}
		for _, d := range w.DependsOn {
			out = append(out, policy.Reference{Source: "depends_on", Host: d, Weak: true})
		}
	}
	slices.SortFunc(out, func(a, b policy.Reference) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Scheme, b.Scheme))
	})
	return slices.Compact(out)
}

// compareHits puts strong ones first.
func compareHits(a, b hit) int {
	if a.weak != b.weak {
		if b.weak {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.source, b.source), cmp.Compare(a.port, b.port), cmp.Compare(a.scheme, b.scheme))
}

func sortHits(s *subject) {
	for k, hits := range s.named {
		slices.SortFunc(hits, compareHits)
		s.named[k] = slices.Compact(hits)
	}
	slices.SortFunc(s.outside, func(a, b outsider) int {
		return cmp.Or(cmp.Compare(a.peer.String(), b.peer.String()), compareHits(a.hit, b.hit))
	})
}

func (x *index) resolve(p *Population, s *subject, ref policy.Reference) {
	if ref.Source == "depends_on" { // Compose knows its own services only
		for _, o := range s.project.names[plainName(ref.Host)] {
			s.named[o] = append(s.named[o], hit{source: ref.Source, weak: true})
		}
		return
	}
	h := hit{source: ref.Source, port: ref.Port, scheme: ref.Scheme, weak: ref.Weak, link: strings.HasPrefix(ref.Source, "link")}
	host := strings.Trim(plainName(ref.Host), "[]")
	if host == "" || host == "localhost" {
		return
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		x.resolveAddress(p, s, addr.Unmap().WithZone(""), h)
		return
	}
	if owners := x.ownersOf(p, s, host, h); len(owners) > 0 {
		for _, o := range owners {
			s.named[o] = append(s.named[o], h)
		}
		return
	}
	name, err := policy.ParseName(host)
	switch {
	case isDockerHost(host):
		x.resolveHost(p, s, netip.Addr{}, h)
	case err == nil && strings.Contains(name, ".") && !strings.HasPrefix(name, "*"):
		s.outside = append(s.outside, outsider{h, policy.Peer{Kind: policy.PeerName, Name: name}})
	default:
		s.absent = append(s.absent, absentee{host, h})
		p.find(FindingUnresolved, s, "%s names %s, which is nobody that it can reach", h.source, host)
	}
}

// isDockerHost are the names that Docker gives to the host itself.
func isDockerHost(name string) bool {
	return name == "host.docker.internal" || name == "gateway.docker.internal" || name == "host-gateway"
}

// ownersOf are the subjects that a name stands for: those of the own project,
// else the one service that owns it on a shared network.
func (x *index) ownersOf(p *Population, s *subject, name string, h hit) []*subject {
	others := x.foreignOwners(s, name, h)
	if own := s.project.names[name]; len(own) > 0 {
		if len(others) > 0 {
			p.find(FindingAliasCollision, s, "%s names %s: taken as %s, but %s has that name on a network of both",
				h.source, name, own[0].service, serviceList(others))
		}
		return own
	}
	if len(services(others)) > 1 {
		p.find(FindingAliasCollision, s, "%s names %s, which several have: %s; none is taken", h.source, name, serviceList(others))
		return nil
	}
	return others
}

// foreignOwners are the subjects of other projects with that name on a network
// that s is on; a link counts on system networks too. "NAME.NETWORK" is a name
// that Docker's resolver knows.
func (x *index) foreignOwners(s *subject, name string, h hit) []*subject {
	nets := s.networks
	if h.link {
		nets = slices.Concat(nets, s.system)
	}
	var out []*subject
	for _, n := range nets {
		short := strings.TrimSuffix(name, "."+strings.ToLower(n.Name))
		for _, o := range x.networks[n.ID].names[short] {
			if o.project != s.project && !slices.Contains(out, o) {
				out = append(out, o)
			}
		}
	}
	return out
}

func services(subjects []*subject) []policy.ServiceKey {
	var out []policy.ServiceKey
	for _, s := range subjects {
		if !slices.Contains(out, s.service) {
			out = append(out, s.service)
		}
	}
	return out
}

func serviceList(subjects []*subject) string {
	var names []string
	for _, k := range services(subjects) {
		names = append(names, k.String())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// resolveAddress is section 1 for an address that a deployer wrote down.
func (x *index) resolveAddress(p *Population, s *subject, addr netip.Addr, h hit) {
	if !addr.IsValid() || addr.IsLoopback() || addr.IsUnspecified() {
		return
	}
	if owners := x.atAddress(s, addr); len(owners) > 0 {
		for _, o := range owners {
			s.named[o] = append(s.named[o], h)
		}
		return
	}
	switch {
	case x.isHost(addr):
		x.resolveHost(p, s, addr, h)
	case slices.Contains(x.host.Nodes, addr):
		s.outside = append(s.outside, outsider{h, policy.Peer{Kind: policy.PeerNode}})
	case isSpecial(addr):
		p.find(FindingUnresolved, s, "%s names %s: metadata and multicast addresses are only reached by a statement", h.source, addr)
	case x.inContainerSubnet(addr):
		p.find(FindingUnresolved, s, "%s names %s, which is in a container network but nobody's that it can reach", h.source, addr)
	default:
		s.outside = append(s.outside, outsider{h, policy.Peer{Kind: policy.PeerCIDR, Prefix: netip.PrefixFrom(addr, addr.BitLen())}})
	}
}

func (x *index) atAddress(s *subject, addr netip.Addr) []*subject {
	for _, n := range s.networks {
		if owners := x.networks[n.ID].addresses[addr]; len(owners) > 0 {
			return owners
		}
	}
	return nil
}

func (x *index) isHost(addr netip.Addr) bool {
	return slices.ContainsFunc(x.host.Addresses, func(p netip.Prefix) bool { return p.Addr().Unmap() == addr })
}

func (x *index) inContainerSubnet(addr netip.Addr) bool {
	for i := range x.around {
		if slices.ContainsFunc(x.around[i].Subnets, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return true
		}
	}
	return false
}

var metadataAddresses = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.170.23"),
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd00:ec2::23"), netip.MustParseAddr("fd20:ce::254"),
	netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"),
}

// isSpecial are the addresses that only a statement which names them reaches (A8, A11, R20).
func isSpecial(addr netip.Addr) bool {
	return addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || slices.Contains(metadataAddresses, addr)
}

// resolveHost is a reference to the host itself: a published port is the
// service behind it (A5), a port of host-network software that software (A6),
// the orchestrator's needs a statement (A9), any other is the host's own.
func (x *index) resolveHost(p *Population, s *subject, addr netip.Addr, h hit) {
	if h.port == 0 {
		sc, _ := schemeOf(h.scheme)
		h.port = sc.port
	}
	if h.port == 0 {
		p.find(FindingUnresolved, s, "%s names the host without a port", h.source)
		return
	}
	found := false
	for _, proto := range []policy.Proto{policy.ProtoTCP, policy.ProtoUDP} {
		for _, f := range x.frontends[frontendKey{proto, h.port}] {
			if !f.reachedAt(addr) {
				continue
			}
			found = true
			behind := h
			behind.port, behind.host = f.Port, true
			s.named[f.subject] = append(s.named[f.subject], behind)
		}
	}
	if found {
		return
	}
	for _, o := range x.subjects {
		if o.onHost && o.offers(h.port) {
			found = true
			s.named[o] = append(s.named[o], h)
		}
	}
	switch {
	case found:
	case x.isOrchestrator(addr, h.port):
		p.find(FindingUnresolved, s, "%s names the orchestrator's port %d: it is only reached by a statement", h.source, h.port)
	default:
		s.outside = append(s.outside, outsider{h, policy.Peer{Kind: policy.PeerHost}})
	}
}

// reachedAt reports whether a container that calls this address of the host,
// or an unknown one of its addresses, meets the published port.
func (f frontend) reachedAt(addr netip.Addr) bool {
	bound := f.HostIP.Unmap()
	switch {
	case bound.IsLoopback():
		return false
	case !addr.IsValid() || !bound.IsValid():
		return true
	case bound.IsUnspecified():
		return bound.Is4() == addr.Is4()
	}
	return bound == addr
}

func (x *index) isOrchestrator(addr netip.Addr, port uint16) bool {
	switch {
	case port >= 2375 && port <= 2377, port == 7946, port == 4789, port == 6443, port == 10250:
		return true
	}
	return slices.ContainsFunc(x.host.EngineAPI, func(ap netip.AddrPort) bool {
		return ap.Port() == port && (!addr.IsValid() || ap.Addr().IsUnspecified() || ap.Addr().Unmap() == addr)
	})
}

func (s *subject) offers(port uint16) bool {
	for i := range s.parts {
		for j := range s.parts[i].serves {
			if hasPort(s.parts[i].serves[j].ports(), port) {
				return true
			}
		}
	}
	return false
}

// resolveLookups finds name servers that are workloads: A1 and A5 come before
// A7. The others are @resolver.
func (x *index) resolveLookups(s *subject) {
	servers := s.nameServers(x.host)
	s.asksResolver = len(servers) == 0
	for _, addr := range servers {
		found := x.lookupAt(s, addr)
		s.asksResolver = s.asksResolver || !found
	}
}

func (x *index) lookupAt(s *subject, addr netip.Addr) (found bool) {
	h := hit{source: "dns " + addr.String(), port: 53, scheme: "dns", lookup: true}
	for _, o := range x.atAddress(s, addr) {
		s.named[o] = append(s.named[o], h)
		found = true
	}
	if found || addr.IsLoopback() || !x.isHost(addr) {
		return found
	}
	for _, f := range x.frontends[frontendKey{policy.ProtoUDP, 53}] {
		if f.reachedAt(addr) {
			h.port, h.host = f.Port, true
			s.named[f.subject] = append(s.named[f.subject], h)
			found = true
		}
	}
	return found
}

// nameServers are those that the engine's resolver in the subject's namespace
// asks (A7).
func (s *subject) nameServers(host policy.Host) []netip.Addr {
	var out []netip.Addr
	for _, w := range s.members {
		servers := w.DNS
		if len(servers) == 0 {
			servers = host.Resolvers
		}
		for _, a := range servers {
			if a = a.Unmap(); !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// addReferenced gives entries with the word "referenced" the ports that
// references of the same project name.
func (s *subject) addReferenced(hits []hit) {
	for _, h := range hits {
		if h.port == 0 || h.lookup {
			continue
		}
		for i := range s.parts {
			for j := range s.parts[i].serves {
				o := &s.parts[i].serves[j]
				if o.referenced && !hasPort(o.ports(), h.port) {
					o.declared = append(o.declared, policy.Port(policy.ProtoTCP, h.port))
				}
			}
		}
	}
}

// settleReferenced takes out what earlier entries name (R25).
func (p *part) settleReferenced() {
	for i := range p.serves {
		o := &p.serves[i]
		if o.referenced {
			o.declared = joinPorts(subtractPorts(o.declared, joinPorts(o.reserved, o.fixed)))
		}
	}
}

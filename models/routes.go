package models

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gatehouse/policy"
)

// route is one way in which a deployer offered a service to a proxy (R9).
type route struct {
	port   uint16 // 0 = not said: the lowest exposed one
	proto  policy.Proto
	http   bool     // else it relays connections of any kind
	hosts  []string // DNS names that lead to the service by way of the proxy (R12)
	source string   // "label traefik.enable"
}

// routesBy are the routes that the subject's deployer wrote for a proxy that
// reads these keys, sorted by source.
func (s *subject) routesBy(r *Routes) []route {
	var out []route
	if r.Env != "" {
		out = s.envRoutes(r)
	} else {
		out = s.labelRoutes(r)
	}
	slices.SortFunc(out, func(a, b route) int { return cmp.Or(cmp.Compare(a.source, b.source), cmp.Compare(a.port, b.port)) })
	return slices.CompactFunc(out, func(a, b route) bool {
		return a.source == b.source && a.port == b.port && slices.Equal(a.hosts, b.hosts)
	})
}

func (s *subject) envRoutes(r *Routes) []route {
	var out []route
	for _, w := range slices.Concat(s.members, s.within) {
		hosts, ok := w.Env[r.Env]
		if !ok {
			continue
		}
		port, _ := routePort(w.Env[r.Port])
		out = append(out, route{port: port, proto: policy.ProtoTCP, http: true, hosts: routeHosts(hosts), source: "env " + r.Env})
	}
	return out
}

// maxRoutes is how many routes of one service for one kind of proxy count.
const maxRoutes = 256

func (s *subject) labelRoutes(r *Routes) []route {
	var keys []string
	for key := range s.labels {
		if key == r.Enable || isRouteKey(r.Port, key) || isRouteKey(r.Host, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var out []route
	for _, key := range keys[:min(len(keys), maxRoutes)] {
		value := s.labels[key]
		switch {
		case isRouteKey(r.Port, key):
			port, ok := routePort(value)
			if !ok {
				continue
			}
			http, proto := routeKind(r.Port, key)
			out = append(out, route{port: port, proto: proto, http: http, source: "label " + key + "=" + value})
		case isRouteKey(r.Host, key):
			http, proto := routeKind(r.Host, key)
			out = append(out, route{proto: proto, http: http, hosts: routeHosts(value), source: "label " + key})
		case r.Enable != "" && key == r.Enable && value == "true":
			out = append(out, route{proto: policy.ProtoTCP, http: true, source: "label " + key})
		}
	}
	return out
}

// routeKind reads "tcp" or "udp" where the pattern has its first '*'; anything
// else is a route by HTTP.
func routeKind(pattern, key string) (http bool, proto policy.Proto) {
	want, have := strings.Split(pattern, "."), strings.Split(key, ".")
	switch i := slices.Index(want, "*"); {
	case i >= 0 && have[i] == "tcp":
		return false, policy.ProtoTCP
	case i >= 0 && have[i] == "udp":
		return false, policy.ProtoUDP
	}
	return true, policy.ProtoTCP
}

var (
	numberPattern = regexp.MustCompile(`\b[0-9]{1,5}\b`)
	// ruleHosts is Traefik's matcher; HostRegexp and HostSNI are others.
	ruleHosts = regexp.MustCompile(`\bHost\(([^)]*)\)`)
)

// routePort is the number in "3000" or "{{upstreams 3000}}".
func routePort(value string) (uint16, bool) {
	n, err := strconv.ParseUint(numberPattern.FindString(value), 10, 16)
	if err != nil {
		return 0, false
	}
	return uint16(n), n != 0
}

// maxRouteHosts bounds what one label may add to policy.
const maxRouteHosts = 64

// routeHosts are the DNS names in a rule such as Host(`a.example.com`) or in a
// list of names and URLs.
func routeHosts(value string) []string {
	lists := []string{value}
	if strings.Contains(value, "(") {
		lists = nil
		for _, m := range ruleHosts.FindAllStringSubmatch(value, maxRouteHosts) {
			lists = append(lists, m[1])
		}
	}
	var out []string
	for _, list := range lists {
		for _, item := range splitList(list) {
			_, host, found := strings.Cut(item, "://")
			if !found {
				host = item
			}
			host, _, _ = strings.Cut(strings.Trim(host, "`\"'"), "/")
			host, _, _ = strings.Cut(plainName(host), ":")
			if IsHostName(host) && !strings.HasPrefix(host, "*") && !slices.Contains(out, host) && len(out) < maxRouteHosts {
				out = append(out, host)
			}
		}
	}
	return out
}

// isRouteKey compares a label key with a pattern in which '*' stands for one
// key part.
func isRouteKey(pattern, key string) bool {
	if pattern == "" {
		return false
	}
	for {
		want, restOfPattern, more := strings.Cut(pattern, ".")
		have, restOfKey, moreKey := strings.Cut(key, ".")
		if want != "*" && want != have || more != moreKey {
			return false
		}
		if !more {
			return true
		}
		pattern, key = restOfPattern, restOfKey
	}
}

// addRoutes finds what each subject's deployer wrote for the proxies that may
// reach it, and gives entries with the word "routed" those ports.
func (x *index) addRoutes(p *Population) {
	for _, router := range x.subjects {
		for i := range router.parts {
			r := router.parts[i].model.Routes
			if r == nil {
				continue
			}
			for _, s := range x.near(router) {
				if s != router {
					x.addRoutesOf(p, s, r)
				}
			}
		}
	}
}

// near are the subjects of s's project and of its networks.
func (x *index) near(s *subject) []*subject {
	out := slices.Clone(s.project.subjects)
	for _, n := range s.networks {
		out = append(out, x.networks[n.ID].subjects...)
	}
	slices.SortFunc(out, func(a, b *subject) int { return cmp.Compare(a.rank, b.rank) })
	return slices.Compact(out)
}

func (x *index) addRoutesOf(p *Population, s *subject, r *Routes) {
	if _, done := s.routes[r]; done {
		return
	}
	if s.routes == nil {
		s.routes = make(map[*Routes][]route)
	}
	routes := s.routesBy(r)
	s.routes[r] = routes
	for _, rt := range routes {
		if rt.port == 0 {
			continue
		}
		for i := range s.parts {
			for j := range s.parts[i].serves {
				if o := &s.parts[i].serves[j]; o.routed && !hasPort(o.ports(), rt.port) {
					own := joinPorts(o.reserved, o.fixed)
					o.declared = joinPorts(subtractPorts(append(o.declared, policy.Port(rt.proto, rt.port)), own))
				}
			}
		}
		if !s.offers(rt.port) {
			p.find(FindingPortNotInModel, s, "%s names port %d, which %s does not serve", rt.source, rt.port, s.group.Model)
		}
	}
}

// routesTo are the callee's routes for the caller's own kinds of proxy.
func (s *subject) routesTo(callee *subject) []route {
	var out []route
	for i := range s.parts {
		if r := s.parts[i].model.Routes; r != nil {
			out = append(out, callee.routes[r]...)
		}
	}
	return out
}

// isRouted: the call is one that follows routes.
func (c *call) isRouted() bool {
	return slices.ContainsFunc(c.entry.To, func(t PeerTerm) bool { return t.Routed }) ||
		slices.ContainsFunc(c.entry.Ports, func(t PortTerm) bool { return t.Word == "routed" })
}

// offersByRoute: a route of the callee's deployer names a port of the offer,
// which is his offer to this proxy whatever the entry says.
func (r *relation) offersByRoute(o *offer) bool {
	return o.entry.Kind != KindCluster && slices.ContainsFunc(r.routes, func(rt route) bool { return rt.port != 0 && hasPort(o.ports(), rt.port) })
}

// routed is what a front, or a proxy of the same project, reaches of an offer
// (R5, R9): the ports of routes, without any in them the lowest one that was
// declared, and by HTTP where nothing says another application.
func (r *relation) routed(c *call, o *offer) []selection {
	whole := r.whole(c, o, r.hits)
	var out []selection
	explicit := false
	for _, rt := range r.routes {
		if rt.port == 0 {
			continue
		}
		explicit = true
		ports := intersectPorts(o.ports(), []policy.PortRange{policy.Port(rt.proto, rt.port)})
		if len(ports) > 0 {
			out = append(out, selection{ports: ports, apps: narrowed(whole.apps, rt.http), hits: r.hits, route: rt.source})
		}
	}
	if explicit {
		return out
	}
	whole.apps = narrowed(whole.apps, true)
	if len(o.fixed) == 0 && c.part.model.Routes != nil {
		whole.ports = lowest(whole.ports)
	}
	if len(r.routes) > 0 {
		whole.route = r.routes[0].source
	}
	return []selection{whole}
}

// narrowed makes http of any application where the route is one by HTTP.
func narrowed(apps []policy.AppMatch, http bool) []policy.AppMatch {
	out := slices.Clone(apps)
	for i := range out {
		if out[i].Any && http {
			out[i] = policy.AppMatch{App: policy.AppHTTP, Forms: policy.TLSNone}
		}
	}
	return out
}

// lowest is the first TCP port, which is what proxies take of several.
func lowest(ports []policy.PortRange) []policy.PortRange {
	for _, p := range joinPorts(ports) {
		if p.Proto == policy.ProtoTCP {
			return []policy.PortRange{policy.Port(p.Proto, p.Lo)}
		}
	}
	return nil
}

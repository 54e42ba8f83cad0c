package policy

import (
	"fmt"
	"slices"
	"strings"
)

// object is a part of a Kubernetes object.
type object = map[string]any

// lets is what one side of a service lets by, to or from one end.
type lets struct {
	end   *exportEnd
	ports []PortRange
	all   bool // every port and protocol
}

// ExportNetworkPolicy makes a NetworkPolicy (networking.k8s.io/v1) of each
// service that enforces: a project is a namespace, a service the pods that have
// the label app.kubernetes.io/name. A peer or a port that would be an empty list,
// which there means all, is never written.
func ExportNetworkPolicy(t *Table) (objects []map[string]any, losses []Loss) {
	x := newExporter(t.Whole())
	x.loseNames()
	x.loseICMP()
	x.loseRejects()
	for _, g := range x.enforcing() {
		spec := object{"podSelector": object{"matchLabels": podLabels(g.Service)}, "policyTypes": []string{"Ingress", "Egress"}}
		for side, key := range [...]string{SideOut: "egress", SideIn: "ingress"} {
			peers := [...]string{SideOut: "to", SideIn: "from"}[side]
			rules := []any{}
			for _, r := range x.reaches(g, Side(side)) {
				rules = append(rules, x.networkRule(g, peers, &r)...)
			}
			spec[key] = rules
		}
		objects = append(objects, object{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadataOf(g.Service), "spec": spec})
	}
	return objects, x.losses
}

// ExportCilium makes a CiliumNetworkPolicy (cilium.io/v2) of each service that
// enforces, with the same labels.
func ExportCilium(t *Table) (objects []map[string]any, losses []Loss) {
	x := newExporter(t.Whole())
	x.loseRejects()
	for _, g := range x.enforcing() {
		spec := object{"endpointSelector": object{"matchLabels": podLabels(g.Service)}}
		for side, key := range [...]string{SideOut: "egress", SideIn: "ingress"} {
			rules := []any{}
			for _, r := range x.reaches(g, Side(side)) {
				rules = append(rules, x.ciliumRules(Side(side), &r)...)
			}
			if Side(side) == SideOut {
				rules = append(rules, x.ciliumNames(g)...)
			}
			if len(rules) == 0 { // an empty rule selects nothing and turns the default deny on
				rules = append(rules, object{})
			}
			spec[key] = rules
		}
		objects = append(objects, object{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadataOf(g.Service), "spec": spec})
	}
	return objects, x.losses
}

func (x *exporter) loseICMP() {
	for _, s := range x.t.statements {
		if s.Pending == "" && slices.ContainsFunc(s.Ports, func(p PortRange) bool { return p.Proto.normal() == ProtoICMP }) {
			x.lose(s.toldAs(), "ICMP cannot be expressed: what becomes of echo is up to the network plugin")
		}
	}
}

func (x *exporter) loseRejects() {
	for _, s := range x.t.statements {
		if s.Pending == "" && s.Verdict == Reject {
			x.lose(s.toldAs(), "reject is written as drop")
		}
	}
}

// enforcing lists the groups of which policies are written; what only observes
// would be cut off by one.
func (x *exporter) enforcing() []*Group {
	var out []*Group
	seen := make(map[ServiceKey]bool)
	for i := range x.t.groups {
		g := &x.t.groups[i]
		switch {
		case !g.Guarded:
			x.lose(g.Service.String(), "it is not guarded, so that no policy is written for it")
		case g.Mode == Observe:
			x.lose(g.Service.String(), "it is in observe mode, which cannot be expressed: no policy is written for it")
		case seen[g.Service]:
			x.lose(g.Service.String(), "it has several identities, which labels of pods do not tell apart: the first one's policy is written")
		default:
			seen[g.Service] = true
			out = append(out, g)
		}
	}
	return out
}

// reaches lists what one side of a group lets by.
func (x *exporter) reaches(g *Group, side Side) []lets {
	var out []lets
	services := make(map[ServiceKey]bool)
	own := x.endOf(g)
	for i := range x.ends {
		e := &x.ends[i]
		if peer, ok := x.t.Group(x.t.ids[e.who]); ok {
			if services[peer.Service] {
				continue
			}
			services[peer.Service] = true
		}
		from, to := own, e.who
		if side == SideIn {
			from, to = e.who, own
		}
		list, other := x.between(from, to, func(d *Decision) Verdict { return sideAllows(d, side) })
		r := lets{end: e, all: other == Allow}
		for _, p := range list {
			if p.verdict == Allow {
				r.ports = append(r.ports, p.ports)
			} else if r.all {
				x.lose(g.Service.String(), "%s %s is denied on %s and allowed on all else, which lists of what is allowed cannot say: it is shut", e.name, side, p.ports)
				r.all = false
			}
		}
		if r.all || len(r.ports) > 0 {
			out = append(out, r)
		}
	}
	if side == SideOut {
		out = append(out, x.resolverReach(g)...)
	}
	return out
}

func (x *exporter) endOf(g *Group) uint32 {
	for i := range x.ends {
		if x.t.ids[x.ends[i].who] == g.Identity {
			return x.ends[i].who
		}
	}
	return x.t.denseOf(g.Identity)
}

// resolverEnd stands for the cluster's name servers.
var resolverEnd = exportEnd{name: "@resolver", who: uint32(IDResolver)}

func (x *exporter) resolverReach(g *Group) []lets {
	list, _ := x.between(x.t.denseOf(g.Identity), x.t.somewhere(uint32(IDResolver)), func(d *Decision) Verdict { return sideAllows(d, SideOut) })
	r := lets{end: &resolverEnd}
	for _, p := range list {
		if p.verdict == Allow {
			r.ports = append(r.ports, p.ports)
		}
	}
	if len(r.ports) == 0 {
		return nil
	}
	x.lose("@resolver", "it is written as the pods of kube-system with the label k8s-app: kube-dns")
	return []lets{r}
}

// sideAllows is allows for one side, by policy's own answer.
func sideAllows(d *Decision, side Side) Verdict {
	alone := Decision{out: d.out}
	if side == SideIn {
		alone = Decision{in: d.in}
	}
	return allows(&alone)
}

func podLabels(k ServiceKey) object { return object{"app.kubernetes.io/name": kubeName(k.Name)} }

func metadataOf(k ServiceKey) object {
	return object{"name": "gatehouse-" + kubeName(k.Name), "namespace": namespaceOf(k)}
}

func namespaceOf(k ServiceKey) string {
	if k.Project.Name == "" {
		return "default"
	}
	return kubeName(k.Project.Name)
}

// kubeName is a name as Kubernetes allows it (RFC 1123 label).
func kubeName(name string) string {
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	out = strings.Trim(out[:min(len(out), 50)], "-")
	if out == "" {
		return "unnamed"
	}
	return out
}

// networkRule is one rule of a NetworkPolicy; none where the peer or the ports
// cannot be said.
func (x *exporter) networkRule(g *Group, key string, r *lets) []any {
	peers := x.networkPeers(r.end)
	if len(peers) == 0 {
		return nil
	}
	rule := object{key: peers}
	if r.all {
		return []any{rule} // without ports it is every port
	}
	ports := []any{}
	for _, p := range r.ports {
		if p.Proto == ProtoICMP {
			continue
		}
		port := object{"protocol": strings.ToUpper(p.Proto.String()), "port": max(int(p.Lo), 1)}
		if p.Hi > p.Lo {
			port["endPort"] = int(p.Hi)
		}
		ports = append(ports, port)
	}
	if len(ports) == 0 {
		return nil
	}
	rule["ports"] = ports
	return []any{rule}
}

func (x *exporter) networkPeers(e *exportEnd) []any {
	if peer := x.selectorOf(e); peer != nil {
		return []any{object{"podSelector": peer["pod"], "namespaceSelector": object{"matchLabels": object{"kubernetes.io/metadata.name": peer["namespace"]}}}}
	}
	out := []any{}
	for _, b := range x.blocks(e) {
		block := object{"cidr": b.cidr}
		if len(b.except) > 0 {
			block["except"] = b.except
		}
		out = append(out, object{"ipBlock": block})
	}
	return out
}

// selectorOf is a service or the resolver by labels; nil for what has addresses.
func (x *exporter) selectorOf(e *exportEnd) object {
	if e == &resolverEnd {
		return object{"pod": object{"matchLabels": object{"k8s-app": "kube-dns"}}, "namespace": "kube-system"}
	}
	if g, ok := x.t.Group(x.t.ids[e.who]); ok {
		return object{"pod": object{"matchLabels": podLabels(g.Service)}, "namespace": namespaceOf(g.Service)}
	}
	return nil
}

type block struct {
	cidr   string
	except []string
}

// blocks are the addresses of an end, without those of ends that come before it.
func (x *exporter) blocks(e *exportEnd) []block {
	var out []block
	for _, p := range e.prefixes {
		b := block{cidr: p.String()}
		for i := range x.ends {
			if &x.ends[i] == e {
				break
			}
			if x.ends[i].who >= uint32(FirstWorkloadIdentity) {
				if _, ok := x.t.Group(x.t.ids[x.ends[i].who]); ok {
					continue // pods have other addresses there
				}
			}
			for _, q := range x.ends[i].prefixes {
				if q.Bits() > p.Bits() && p.Contains(q.Addr()) && !slices.Contains(b.except, q.String()) {
					b.except = append(b.except, q.String())
				}
			}
		}
		slices.Sort(b.except)
		out = append(out, b)
	}
	return out
}

// ciliumRules are the rules of one peer: ports and ICMP do not stand in one.
func (x *exporter) ciliumRules(side Side, r *lets) []any {
	peer := x.ciliumPeer(side, r.end)
	if peer == nil {
		return nil
	}
	if r.all {
		return []any{peer}
	}
	var ports, icmp []any
	for _, p := range r.ports {
		if p.Proto == ProtoICMP {
			icmp = []any{object{"fields": []any{object{"type": 8, "family": "IPv4"}, object{"type": 128, "family": "IPv6"}}}}
			continue
		}
		port := object{"port": fmt.Sprint(p.Lo), "protocol": strings.ToUpper(p.Proto.String())}
		if p.Hi > p.Lo {
			port["endPort"] = int(p.Hi)
		}
		ports = append(ports, port)
	}
	var out []any
	if len(ports) > 0 {
		rule := object{"toPorts": []any{object{"ports": ports}}}
		for k, v := range peer {
			rule[k] = v
		}
		out = append(out, rule)
	}
	if len(icmp) > 0 {
		rule := object{"icmps": icmp}
		for k, v := range peer {
			rule[k] = v
		}
		out = append(out, rule)
	}
	return out
}

func (x *exporter) ciliumPeer(side Side, e *exportEnd) object {
	direction := [...]string{SideOut: "to", SideIn: "from"}[side]
	if peer := x.selectorOf(e); peer != nil {
		labels := object{"k8s:io.kubernetes.pod.namespace": peer["namespace"]}
		for k, v := range peer["pod"].(object)["matchLabels"].(object) {
			labels[k] = v
		}
		return object{direction + "Endpoints": []any{object{"matchLabels": labels}}}
	}
	switch x.t.ids[e.who] {
	case IDHost:
		return object{direction + "Entities": []string{"host"}}
	case IDNode:
		return object{direction + "Entities": []string{"remote-node"}}
	case IDMulticast, IDBroadcast, IDUnknown:
		x.lose(e.name, "it cannot be selected")
		return nil
	}
	set := []any{}
	for _, b := range x.blocks(e) {
		item := object{"cidr": b.cidr}
		if len(b.except) > 0 {
			item["except"] = b.except
		}
		set = append(set, item)
	}
	if len(set) == 0 {
		return nil
	}
	return object{direction + "CIDRSet": set}
}

// ciliumNames are the rules of statements to names.
func (x *exporter) ciliumNames(g *Group) []any {
	var out []any
	for _, s := range x.t.statements {
		if s.Pending != "" || s.Verdict != Allow || !x.t.mayMean(s.From, x.t.denseOf(g.Identity)) {
			continue
		}
		fqdns, ports := []any{}, []any{}
		for _, p := range s.To {
			switch {
			case p.Kind != PeerName:
			case strings.HasPrefix(p.Name, "*."):
				fqdns = append(fqdns, object{"matchPattern": "**." + p.Name[2:]})
			default:
				fqdns = append(fqdns, object{"matchName": p.Name})
			}
		}
		for _, p := range s.Ports {
			if p.Proto == ProtoTCP || p.Proto == ProtoUDP {
				port := object{"port": fmt.Sprint(p.Lo), "protocol": strings.ToUpper(p.Proto.String())}
				if p.Hi > p.Lo {
					port["endPort"] = int(p.Hi)
				}
				ports = append(ports, port)
			}
		}
		if len(fqdns) == 0 || len(ports) == 0 {
			continue
		}
		x.lose(s.toldAs(), "names need Cilium's DNS proxy: the way to kube-dns must have a rule of dns, and the server name is not compared")
		out = append(out, object{"toFQDNs": fqdns, "toPorts": []any{object{"ports": ports}}})
	}
	return out
}

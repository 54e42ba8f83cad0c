package models

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/document"
	"gatehouse/policy"
)

// Schema is the value of a model file's schema key.
const Schema = "gatehouse.model/v1"

// Custom is the model of software that no model knows, ClientProgram that of a
// server's image in which only its client programs run.
const (
	Custom        = "custom"
	ClientProgram = "client-program"
)

var roleNames = []string{"database", "cache", "message-broker", "search", "web-server", "app-server", "proxy", "file-server",
	"object-store", "directory", "dns-server", "mail", "media", "monitoring", "management", "ci", "vpn", "client"}

// peerNames are the values of a peer's peer key; "any" is known and refused.
var peerNames = []string{"self", "siblings", "cluster", "front", "workload", "host", "node", "site", "internet", "external", "resolver",
	"metadata", "orchestrator", "multicast", "broadcast", "ingress", "any"}

var (
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,127}$`)
	hostPattern = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// secretPattern: the engine's client keeps the values of keys that models
	// ask for, so models may not ask for these.
	secretPattern = regexp.MustCompile(`(?i)(PASS|SECRET|TOKEN|CREDENTIAL|PRIVATE|_KEY$)`)
)

// maxWhen bounds nested conditions.
const maxWhen = 8

// decoder turns one YAML document into a Model, strictly.
type decoder struct{ *document.Decoder }

// decodeModel returns nil where the document is not even a model.
func decodeModel(doc *yaml.Node, file string, operator bool, faults *document.Faults) *Model {
	d := &decoder{document.NewDecoder(file, faults)}
	n := d.Root(doc)
	if n == nil {
		return nil
	}
	m := &Model{File: file, Operator: operator, decl: &declaration{lines: d.Lines}}
	ok := d.Object(n, "", map[string]document.Reader{
		"schema":   d.schema,
		"model":    d.Identifier(&m.Name),
		"revision": d.revision(&m.Revision),
		"title":    d.Text(&m.Title),
		"docs":     d.List(&m.Docs, d.document),
		"roles":    d.List(&m.Roles, d.role),
		"match":    func(n *yaml.Node, key string) { d.match(n, key, m) },
		"extends":  d.Identifier(&m.Extends),
		"remove":   d.List(&m.Remove, d.ID),
		"override": d.Boolean(&m.Override),
		"dns":      document.Choice(d.Decoder, &m.DNS, dnsNames[:]),
		"routes":   func(n *yaml.Node, key string) { m.Routes = d.routes(n, key) },
		"features": func(n *yaml.Node, key string) { m.Features = d.features(n, key) },
		"serves":   d.entries(&m.Serves, true),
		"calls":    d.entries(&m.Calls, false),
	}, "schema", "model", "revision")
	if !ok {
		return nil
	}
	d.checkModel(n, m)
	return m
}

// checkModel holds the rules that span a model's keys.
func (d *decoder) checkModel(n *yaml.Node, m *Model) {
	root := m.Extends == ""
	given := func(key string) bool { return m.gives(key, false) }
	if root && !given("title") {
		d.Fault(n, "title", "is required")
	}
	if !m.Operator && (!given("docs") || m.Docs != nil && len(m.Docs) == 0) {
		d.Fault(n, "docs", "the library's models name the software's own documentation")
	}
	if !m.Operator && m.Override {
		d.Fault(n, "override", "only for the operator's models, which replace the library's")
	}
	if root && len(m.Remove) > 0 {
		d.Fault(n, "remove", "nothing to remove from: the model has no extends")
	}
	if matches := len(m.Images) > 0 || len(m.Labels) > 0; matches && m.Name == Custom {
		d.Fault(n, "match", "custom is what fits when no model does; it matches nothing itself")
	} else if matches && m.Name == ClientProgram {
		d.Fault(n, "match", "client-program is what fits where a model's match.clients run; it matches nothing itself")
	}
	for i, id := range m.Remove {
		if hasEntry(m.Serves, id) || hasEntry(m.Calls, id) {
			d.Fault(n, fmt.Sprintf("remove[%d]", i), "%s is given below: an entry of the same id replaces, leave it out here", id)
		}
	}
}

func hasEntry(entries []Entry, id string) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.ID == id })
}

func (d *decoder) role(n *yaml.Node, key string) (string, bool) {
	s, ok := d.Scalar(n, key)
	if ok && !slices.Contains(roleNames, s) {
		d.Fault(n, key, "unknown role %q; known are %s", s, strings.Join(roleNames, ", "))
		return "", false
	}
	return s, ok
}

func (d *decoder) document(n *yaml.Node, key string) (string, bool) {
	s, ok := d.Scalar(n, key)
	if !ok {
		return "", false
	}
	u, err := url.Parse(s)
	if err != nil || strings.ContainsAny(s, " \n") || u.Scheme != "" && (u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		d.Fault(n, key, "%q: want a URL or the path of a document", s)
		return "", false
	}
	return s, true
}

func (d *decoder) schema(n *yaml.Node, key string) {
	if s, ok := d.Scalar(n, key); ok && s != Schema {
		d.Fault(n, key, "%q: want %s", s, Schema)
	}
}

func (d *decoder) revision(dst *int) document.Reader {
	return func(n *yaml.Node, key string) {
		i, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || i < 1 {
			d.Fault(n, key, "want a whole number from 1")
			return
		}
		*dst = i
	}
}

func (d *decoder) match(n *yaml.Node, key string, m *Model) {
	d.Object(n, key, map[string]document.Reader{
		"images":  d.List(&m.Images, d.image),
		"labels":  func(n *yaml.Node, key string) { m.Labels = d.labels(n, key) },
		"clients": d.List(&m.Clients, d.program),
		"hints": func(n *yaml.Node, key string) {
			d.Object(n, key, map[string]document.Reader{
				"env":      d.List(&m.Hints.Env, d.env),
				"commands": d.List(&m.Hints.Commands, d.Scalar),
			})
		},
	})
}

func (d *decoder) program(n *yaml.Node, key string) (string, bool) {
	s, ok := d.Scalar(n, key)
	if ok && (s == "" || strings.ContainsAny(s, "/ \n")) {
		d.Fault(n, key, "%q: want the base name of a program", s)
		return "", false
	}
	return s, ok
}

func (d *decoder) image(n *yaml.Node, key string) (string, bool) {
	s, ok := d.Scalar(n, key)
	if !ok {
		return "", false
	}
	repository, tag, digest, err := policy.NormalizeImage(s)
	if err != nil {
		d.Fault(n, key, "%s", err)
		return "", false
	}
	if tag != "" || digest != "" {
		d.Fault(n, key, "%q: want a repository without tag and digest", s)
		return "", false
	}
	return repository, true
}

func (d *decoder) labels(n *yaml.Node, key string) map[string]string {
	out := make(map[string]string, len(n.Content)/2)
	d.Named(n, key, func(name string, n *yaml.Node, key string) {
		if value, ok := d.Scalar(n, key); ok {
			out[name] = value
		}
	})
	return out
}

func (d *decoder) env(n *yaml.Node, key string) (string, bool) {
	s, ok := d.Scalar(n, key)
	if !ok {
		return "", false
	}
	name, _, _ := strings.Cut(s, "=")
	if !envPattern.MatchString(name) {
		d.Fault(n, key, "%q: want the name of an environment variable", s)
		return "", false
	}
	if secretPattern.MatchString(name) {
		d.Fault(n, key, "%s may hold a secret: models do not ask for it", name)
		return "", false
	}
	return s, true
}

func (d *decoder) routes(n *yaml.Node, key string) *Routes {
	r := &Routes{}
	valid := func(s string) bool { return !strings.ContainsAny(s, " \n=,") }
	name := func(dst *string) document.Reader {
		return d.Matching(dst, "the key of a label or of an environment variable, '*' for one part", valid)
	}
	d.Object(n, key, map[string]document.Reader{
		"enable": name(&r.Enable), "port": name(&r.Port), "host": name(&r.Host), "network": name(&r.Network), "env": name(&r.Env),
	})
	if *r == (Routes{}) {
		d.Fault(n, key, "names no key")
	}
	return r
}

func (d *decoder) features(n *yaml.Node, key string) map[string]Feature {
	if n.Kind != yaml.MappingNode {
		d.Fault(n, key, "want a map of features")
		return nil
	}
	out := make(map[string]Feature, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, ok := d.ID(n.Content[i], key)
		if !ok {
			continue
		}
		path := document.Join(key, name)
		if _, twice := out[name]; twice {
			d.Fault(n.Content[i], path, "is in the map twice")
		}
		d.Lines[path] = n.Content[i].Line
		var f Feature
		d.Object(n.Content[i+1], path, map[string]document.Reader{
			"default": d.Boolean(&f.Default),
			"serves":  d.entries(&f.Serves, true),
			"calls":   d.entries(&f.Calls, false),
		}, "default")
		out[name] = f
	}
	return out
}

// entries reads serves or calls.
func (d *decoder) entries(dst *[]Entry, serves bool) document.Reader {
	return func(n *yaml.Node, key string) {
		d.Sequence(n, key, func(n *yaml.Node, key string) {
			e := d.entry(n, key, serves)
			if e.ID != "" && hasEntry(*dst, e.ID) {
				d.Fault(n, key+".id", "%s is already the id of another entry of this list", e.ID)
			}
			*dst = append(*dst, e)
		})
	}
}

func (d *decoder) entry(n *yaml.Node, key string, serves bool) Entry {
	e := Entry{TLS: policy.TLSNone}
	d.Object(n, key, map[string]document.Reader{
		"id":        d.Identifier(&e.ID),
		"kind":      document.Choice(d.Decoder, &e.Kind, kindNames[:]),
		"app":       d.app(&e),
		"tls":       d.tls(&e.TLS),
		"ports":     d.ports(&e.Ports, serves),
		"port_from": d.portSources(&e.PortFrom),
		"to":        d.peers(&e.To),
		"publish":   document.Choice(d.Decoder, &e.Publish, publishNames[:]),
		"when":      func(n *yaml.Node, key string) { e.When = d.when(n, key, 0) },
		"note":      d.Text(&e.Note),
	}, "id", "app", "ports", "to")
	d.checkEntry(n, key, &e, serves)
	return e
}

// checkEntry holds the rules that span an entry's keys.
func (d *decoder) checkEntry(n *yaml.Node, key string, e *Entry, serves bool) {
	if !serves && e.Publish != PublishDefault {
		d.Fault(n, key+".publish", "only for serves")
	}
	if serves && e.Callee {
		d.Fault(n, key+".app", "callee is only for calls")
	}
	_, tls := d.Lines[key+".tls"]
	if e.AnyApp && tls {
		d.Fault(n, key+".tls", "says nothing with app any, which includes every form of TLS; leave it out")
	}
	if e.TLS == policy.TLSStart && e.App != policy.AppNone && !e.App.CanStartTLS() {
		d.Fault(n, key+".tls", "%s has no upgrade to TLS in the protocol; want none, optional or only", e.App)
	}
	for i, p := range e.To {
		d.checkPeer(n, fmt.Sprintf("%s.to[%d]", key, i), e, p, serves)
	}
}

func (d *decoder) checkPeer(n *yaml.Node, key string, e *Entry, p PeerTerm, serves bool) {
	switch {
	case (p.Peer == "internet" || p.Peer == "external") && e.Note == "":
		d.Fault(n, key, "%s needs a note that says why", p.Peer)
	case p.Peer == "workload" && e.Kind != KindMetrics:
		d.Fault(n, key, "peer workload is only for entries of kind metrics")
	case p.Peer == "cluster" && e.Kind != KindCluster:
		d.Fault(n, key, "peer cluster is only for entries of kind cluster")
	case serves && e.Kind == KindCluster && p.Peer != "self" && p.Peer != "siblings" && p.Peer != "cluster" && (p.Model == "" || !p.Ref):
		d.Fault(n, key, "cluster entries serve only {peer: self}, {peer: siblings}, {peer: cluster} and {model: NAME, ref: true}")
	}
}

func (d *decoder) app(e *Entry) document.Reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.Scalar(n, key)
		if !ok {
			return
		}
		switch s {
		case "any":
			e.AnyApp = true
			return
		case "callee":
			e.Callee = true
			return
		}
		if e.App, ok = policy.ParseApp(s); !ok {
			d.Fault(n, key, "%v", policy.UnknownApp(s))
		}
	}
}

func (d *decoder) tls(dst *policy.TLSForms) document.Reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.Scalar(n, key)
		if !ok {
			return
		}
		forms, ok := policy.ParseTLSForms(s)
		if !ok {
			d.Fault(n, key, "%q: want none, starttls, optional, only", s)
			return
		}
		*dst = forms
	}
}

func (d *decoder) ports(dst *[]PortTerm, serves bool) document.Reader {
	words := []string{"published", "exposed", "routed", "referenced"}
	if !serves {
		words = []string{"callee", "routed", "referenced"}
	}
	return func(n *yaml.Node, key string) {
		d.Sequence(n, key, func(n *yaml.Node, key string) {
			s, ok := d.Scalar(n, key)
			if !ok {
				return
			}
			term := PortTerm{Word: s}
			if !slices.Contains(words, s) {
				r, err := policy.ParsePortRange(s)
				if err != nil {
					d.Fault(n, key, "%s, or one of %s", err, strings.Join(words, ", "))
					return
				}
				term = PortTerm{Range: r}
			}
			if slices.Contains(*dst, term) {
				d.Fault(n, key, "%s is in the list twice", s)
				return
			}
			*dst = append(*dst, term)
		})
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			d.Fault(n, key, "want at least one port")
		}
	}
}

func (d *decoder) portSources(dst *[]PortSource) document.Reader {
	return func(n *yaml.Node, key string) {
		d.Sequence(n, key, func(n *yaml.Node, key string) {
			var src PortSource
			d.Object(n, key, map[string]document.Reader{
				"env": func(n *yaml.Node, key string) { src.Env, _ = d.env(n, key) },
				"arg": func(n *yaml.Node, key string) { src.Arg, _ = d.flag(n, key) },
				"parse": d.Matching(&src.Parse, "listeners", func(s string) bool {
					return s == "listeners"
				}),
				"add":  d.portOffset(&src.Add),
				"when": func(n *yaml.Node, key string) { src.When = d.when(n, key, 0) },
			})
			if strings.Contains(src.Env, "=") || (src.Env == "") == (src.Arg == "") {
				d.Fault(n, key, "want one of env: KEY and arg: --flag")
				return
			}
			*dst = append(*dst, src)
		})
	}
}

func (d *decoder) portOffset(dst *uint16) document.Reader {
	return func(n *yaml.Node, key string) {
		i, err := strconv.ParseUint(n.Value, 10, 16)
		if n.Kind != yaml.ScalarNode || err != nil || i == 0 {
			d.Fault(n, key, "want a whole number from 1 to 65535")
			return
		}
		*dst = uint16(i)
	}
}

func (d *decoder) flag(n *yaml.Node, key string) (string, bool) {
	var s string
	d.Matching(&s, "a flag such as --port, and none that may hold a secret", func(s string) bool {
		return len(s) > 1 && !strings.ContainsAny(s, " =\n") && !secretPattern.MatchString(s)
	})(n, key)
	return s, s != ""
}

// flagIs reads --flag, or --flag=VALUE with a value that is kept.
func (d *decoder) flagIs(n *yaml.Node, key string) string {
	name, value, withValue := strings.Cut(n.Value, "=")
	if n.Kind != yaml.ScalarNode || !withValue {
		s, _ := d.flag(n, key)
		return s
	}
	if _, err := strconv.ParseUint(value, 10, 16); err != nil && !slices.Contains(switchWords, strings.ToLower(value)) {
		d.Fault(n, key, "%q: of an argument's value only a port's number and %s are known", value, strings.Join(switchWords, ", "))
		return ""
	}
	flag := *n
	flag.Value = name
	if s, ok := d.flag(&flag, key); !ok || s == "" {
		return ""
	}
	return n.Value
}

// switchWords are the values of arguments that are kept, beside ports.
var switchWords = []string{"yes", "no", "on", "off", "true", "false"}

func (d *decoder) when(n *yaml.Node, key string, depth int) *When {
	if depth > maxWhen {
		d.Fault(n, key, "conditions nested more than %d deep", maxWhen)
		return nil
	}
	w := &When{}
	several := func(dst *[]When) document.Reader {
		return func(n *yaml.Node, key string) {
			d.Sequence(n, key, func(n *yaml.Node, key string) {
				if c := d.when(n, key, depth+1); c != nil {
					*dst = append(*dst, *c)
				}
			})
			if len(*dst) == 0 {
				d.Fault(n, key, "want at least one condition")
			}
		}
	}
	d.Object(n, key, map[string]document.Reader{
		"exposed":   d.port(&w.Exposed),
		"published": d.port(&w.Published),
		"env":       func(n *yaml.Node, key string) { w.Env, _ = d.env(n, key) },
		"arg":       func(n *yaml.Node, key string) { w.Arg = d.flagIs(n, key) },
		"command":   d.Text(&w.Command),
		"tag":       d.Text(&w.Tag),
		"any":       several(&w.Any),
		"all":       several(&w.All),
		"not":       func(n *yaml.Node, key string) { w.Not = d.when(n, key, depth+1) },
	})
	if n.Kind == yaml.MappingNode && len(n.Content) != 2 {
		d.Fault(n, key, "want exactly one condition; join several with any: or all:")
	}
	return w
}

func (d *decoder) port(dst **policy.PortRange) document.Reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.Scalar(n, key)
		if !ok {
			return
		}
		r, err := policy.ParsePortRange(s)
		if err != nil {
			d.Fault(n, key, "%s", err)
			return
		}
		*dst = &r
	}
}

func (d *decoder) peers(dst *[]PeerTerm) document.Reader {
	return func(n *yaml.Node, key string) {
		*dst = []PeerTerm{}
		d.Sequence(n, key, func(n *yaml.Node, key string) { *dst = append(*dst, d.peer(n, key)) })
	}
}

func (d *decoder) peer(n *yaml.Node, key string) PeerTerm {
	var p PeerTerm
	var within string
	isTrue := func(dst *bool) document.Reader {
		return func(n *yaml.Node, key string) {
			if n.Value == "false" {
				d.Fault(n, key, "write true, or leave the key out")
				return
			}
			d.Boolean(dst)(n, key)
		}
	}
	ok := d.Object(n, key, map[string]document.Reader{
		"role":    func(n *yaml.Node, key string) { p.Role, _ = d.role(n, key) },
		"model":   d.Identifier(&p.Model),
		"service": d.Matching(&p.Service, "NAME or PROJECT/NAME", IsServiceName),
		"project": d.Text(&p.Project),
		"label":   d.Matching(&p.Label, "KEY=VALUE", func(s string) bool { return strings.Index(s, "=") > 0 }),
		"category": func(n *yaml.Node, key string) {
			d.Fault(n, key, "categories are for the operator's statements, not for models")
		},
		"ref":    isTrue(&p.Ref),
		"routed": isTrue(&p.Routed),
		"within": d.Matching(&within, "project or shared", func(s string) bool { return s == "project" || s == "shared" }),
		"name":   d.Matching(&p.Name, "a DNS name such as a.example.com or *.example.com", IsHostName),
		"cidr":   d.Matching(&p.CIDR, "a prefix such as 192.0.2.0/24, without host bits", IsPrefix),
		"peer": d.Matching(&p.Peer, "one of "+strings.Join(peerNames[:len(peerNames)-1], ", "), func(s string) bool {
			return slices.Contains(peerNames, s)
		}),
	})
	if !ok {
		return p
	}
	p.Shared = within == "shared"
	d.checkTerm(n, key, p, within != "")
	return p
}

// checkTerm holds the rules that span a peer's keys.
func (d *decoder) checkTerm(n *yaml.Node, key string, p PeerTerm, within bool) {
	outside := p.Name != "" || p.CIDR != "" || p.Peer != ""
	workload := p.Role != "" || p.Model != "" || p.Service != "" || p.Project != "" || p.Label != "" || p.Ref || p.Routed
	switch {
	case p.Peer == "any":
		d.Fault(n, key, "models never say any; name the roles or models that are meant")
	case len(n.Content) == 0, within && len(n.Content) == 2:
		d.Fault(n, key, "selects nobody in particular; name a role, a model or another key")
	case outside && workload, p.Name != "" && p.CIDR != "", p.Peer != "" && (p.Name != "" || p.CIDR != ""):
		d.Fault(n, key, "no peer is all of this at once; write several peers")
	case within && outside && p.Peer != "workload":
		d.Fault(n, key, "within is for peers that are workloads of other services")
	}
}

// RoleNames are the roles that models and labels may give.
func RoleNames() []string { return slices.Clone(roleNames) }

// IsServiceName reports whether s is NAME or PROJECT/NAME.
func IsServiceName(s string) bool {
	project, name, both := strings.Cut(s, "/")
	if !both {
		name = project
	}
	return project != "" && name != "" && !strings.ContainsAny(name, "/ *") && !strings.ContainsAny(project, " *")
}

// IsHostName reports whether s is a DNS name in lower case, maybe with "*." before it.
func IsHostName(s string) bool {
	return len(s) <= 253 && hostPattern.MatchString(strings.TrimPrefix(s, "*."))
}

// IsPrefix reports whether s is a prefix without host bits.
func IsPrefix(s string) bool {
	p, err := netip.ParsePrefix(s)
	return err == nil && p == p.Masked()
}

package models

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/policy"
)

// Schema is the value of a model file's schema key.
const Schema = "gatehouse.model/v1"

// Custom is the model of software that no model knows.
const Custom = "custom"

var roleNames = []string{"database", "cache", "message-broker", "search", "web-server", "app-server", "proxy", "file-server",
	"object-store", "directory", "dns-server", "mail", "media", "monitoring", "management", "ci", "vpn", "client"}

// peerNames are the values of a peer's peer key; "any" is known and refused.
var peerNames = []string{"self", "siblings", "front", "workload", "host", "node", "site", "internet", "external", "resolver",
	"metadata", "orchestrator", "multicast", "broadcast", "ingress", "any"}

var (
	idPattern   = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,127}$`)
	hostPattern = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// secretPattern: the engine's client keeps the values of keys that models
	// ask for, so models may not ask for these.
	secretPattern = regexp.MustCompile(`(?i)(PASS|SECRET|TOKEN|CREDENTIAL|PRIVATE|_KEY$)`)
)

// maxDepth bounds nested collections, maxWhen nested conditions.
const (
	maxDepth = 32
	maxWhen  = 8
)

// reader decodes one value; key is its path in the document.
type reader func(n *yaml.Node, key string)

// decoder turns one YAML document into a Model, strictly.
type decoder struct {
	file   string
	lines  map[string]int
	faults *faultList
}

func (d *decoder) fault(n *yaml.Node, key, format string, args ...any) {
	// n may be the map that should have had the key, or that has it further down.
	line := max(n.Line, d.lines[key])
	d.faults.add(&Fault{File: d.file, Line: line, Key: key, Text: fmt.Sprintf(format, args...)})
}

// decodeModel returns nil where the document is not even a model.
func decodeModel(doc *yaml.Node, file string, operator bool, faults *faultList) *Model {
	d := &decoder{file: file, lines: make(map[string]int), faults: faults}
	if len(doc.Content) != 1 || !d.plain(doc, 0) {
		return nil
	}
	n := doc.Content[0]
	m := &Model{File: file, Operator: operator, decl: &declaration{lines: d.lines}}
	ok := d.object(n, "", map[string]reader{
		"schema":   d.schema,
		"model":    d.identifier(&m.Name),
		"revision": d.revision(&m.Revision),
		"title":    d.text(&m.Title),
		"docs":     d.list(&m.Docs, d.document),
		"roles":    d.list(&m.Roles, d.role),
		"match":    func(n *yaml.Node, key string) { d.match(n, key, m) },
		"extends":  d.identifier(&m.Extends),
		"remove":   d.list(&m.Remove, d.id),
		"override": d.boolean(&m.Override),
		"dns":      choice(d, &m.DNS, dnsNames[:]),
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
		d.fault(n, "title", "is required")
	}
	if !m.Operator && (!given("docs") || m.Docs != nil && len(m.Docs) == 0) {
		d.fault(n, "docs", "the library's models name the software's own documentation")
	}
	if !m.Operator && m.Override {
		d.fault(n, "override", "only for the operator's models, which replace the library's")
	}
	if root && len(m.Remove) > 0 {
		d.fault(n, "remove", "nothing to remove from: the model has no extends")
	}
	if m.Name == Custom && (len(m.Images) > 0 || len(m.Labels) > 0) {
		d.fault(n, "match", "custom is what fits when no model does; it matches nothing itself")
	}
	for i, id := range m.Remove {
		if hasEntry(m.Serves, id) || hasEntry(m.Calls, id) {
			d.fault(n, fmt.Sprintf("remove[%d]", i), "%s is given below: an entry of the same id replaces, leave it out here", id)
		}
	}
}

func hasEntry(entries []Entry, id string) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.ID == id })
}

// plain refuses what a model file has no use for and a reader could be hurt
// by: anchors, aliases, tags of its own, depth.
func (d *decoder) plain(n *yaml.Node, depth int) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fault(n, "", "anchors and aliases are not allowed; write the value out")
		return false
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n, "", "tags such as %s are not allowed", n.Tag)
		return false
	case depth > maxDepth:
		d.fault(n, "", "nested more than %d deep", maxDepth)
		return false
	}
	for _, c := range n.Content {
		if !d.plain(c, depth+1) {
			return false
		}
	}
	return true
}

// object reads a mapping with exactly the keys of fields.
func (d *decoder) object(n *yaml.Node, key string, fields map[string]reader, required ...string) bool {
	if n.Kind != yaml.MappingNode {
		d.fault(n, key, "want a map with the keys %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		return false
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		path := join(key, name.Value)
		read, known := fields[name.Value]
		switch line, twice := seen[name.Value]; {
		case name.Kind != yaml.ScalarNode || !known:
			d.fault(name, path, "unknown key; known are %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			continue
		case twice:
			d.fault(name, path, "is also in line %d", line)
			continue
		}
		seen[name.Value] = name.Line
		d.lines[path] = name.Line
		if value.ShortTag() == "!!null" {
			d.fault(name, path, "has no value; leave the key out, or write [] for an empty list")
			continue
		}
		read(value, path)
	}
	for _, name := range required {
		if _, ok := seen[name]; !ok {
			d.fault(n, join(key, name), "is required")
		}
	}
	return true
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// sequence calls read for each item.
func (d *decoder) sequence(n *yaml.Node, key string, read reader) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n, key, "want a list")
		return
	}
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", key, i)
		d.lines[path] = item.Line
		read(item, path)
	}
}

// scalar returns a text value; numbers, truth values and nothing are not text.
func (d *decoder) scalar(n *yaml.Node, key string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		d.fault(n, key, "want text; put %q in quotes if it is meant", n.Value)
		return "", false
	}
	if strings.TrimSpace(n.Value) == "" || strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
		d.fault(n, key, "want text without control characters, not %q", n.Value)
		return "", false
	}
	return n.Value, true
}

func (d *decoder) text(dst *string) reader {
	return func(n *yaml.Node, key string) { *dst, _ = d.scalar(n, key) }
}

// matching is text that ok accepts; want says what that is.
func (d *decoder) matching(dst *string, want string, ok func(string) bool) reader {
	return func(n *yaml.Node, key string) {
		s, isText := d.scalar(n, key)
		if !isText {
			return
		}
		if !ok(s) {
			d.fault(n, key, "%q: want %s", s, want)
			return
		}
		*dst = s
	}
}

func (d *decoder) identifier(dst *string) reader {
	return d.matching(dst, "lower-case letters, digits and '-', at most 63", idPattern.MatchString)
}

func (d *decoder) boolean(dst *bool) reader {
	return func(n *yaml.Node, key string) {
		if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" {
			d.fault(n, key, "want true or false")
			return
		}
		*dst = n.Value == "true"
	}
}

// choice reads one of names, of which the index is the value. A "default" in
// names stands for an absent key and cannot be written.
func choice[T ~uint8](d *decoder, dst *T, names []string) reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.scalar(n, key)
		if !ok {
			return
		}
		i := slices.Index(names, s)
		if i < 0 || s == "default" {
			d.fault(n, key, "%q: want %s", s, strings.Join(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "default" }), ", "))
			return
		}
		*dst = T(i)
	}
}

// list reads a list of texts without repetition.
func (d *decoder) list(dst *[]string, item func(n *yaml.Node, key string) (string, bool)) reader {
	return func(n *yaml.Node, key string) {
		out := []string{}
		d.sequence(n, key, func(n *yaml.Node, key string) {
			s, ok := item(n, key)
			if !ok {
				return
			}
			if slices.Contains(out, s) {
				d.fault(n, key, "%s is in the list twice", s)
				return
			}
			out = append(out, s)
		})
		*dst = out
	}
}

func (d *decoder) id(n *yaml.Node, key string) (string, bool) {
	var s string
	d.identifier(&s)(n, key)
	return s, s != ""
}

func (d *decoder) role(n *yaml.Node, key string) (string, bool) {
	s, ok := d.scalar(n, key)
	if ok && !slices.Contains(roleNames, s) {
		d.fault(n, key, "unknown role %q; known are %s", s, strings.Join(roleNames, ", "))
		return "", false
	}
	return s, ok
}

func (d *decoder) document(n *yaml.Node, key string) (string, bool) {
	s, ok := d.scalar(n, key)
	if !ok {
		return "", false
	}
	u, err := url.Parse(s)
	if err != nil || strings.ContainsAny(s, " \n") || u.Scheme != "" && (u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		d.fault(n, key, "%q: want a URL or the path of a document", s)
		return "", false
	}
	return s, true
}

func (d *decoder) schema(n *yaml.Node, key string) {
	if s, ok := d.scalar(n, key); ok && s != Schema {
		d.fault(n, key, "%q: want %s", s, Schema)
	}
}

func (d *decoder) revision(dst *int) reader {
	return func(n *yaml.Node, key string) {
		i, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || i < 1 {
			d.fault(n, key, "want a whole number from 1")
			return
		}
		*dst = i
	}
}

func (d *decoder) match(n *yaml.Node, key string, m *Model) {
	d.object(n, key, map[string]reader{
		"images": d.list(&m.Images, d.image),
		"labels": func(n *yaml.Node, key string) { m.Labels = d.labels(n, key) },
		"hints": func(n *yaml.Node, key string) {
			d.object(n, key, map[string]reader{
				"env":      d.list(&m.Hints.Env, d.env),
				"commands": d.list(&m.Hints.Commands, d.scalar),
			})
		},
	})
}

func (d *decoder) image(n *yaml.Node, key string) (string, bool) {
	s, ok := d.scalar(n, key)
	if !ok {
		return "", false
	}
	repository, tag, digest, err := policy.NormalizeImage(s)
	if err != nil {
		d.fault(n, key, "%s", err)
		return "", false
	}
	if tag != "" || digest != "" {
		d.fault(n, key, "%q: want a repository without tag and digest", s)
		return "", false
	}
	return repository, true
}

func (d *decoder) labels(n *yaml.Node, key string) map[string]string {
	if n.Kind != yaml.MappingNode {
		d.fault(n, key, "want a map of labels and their values")
		return nil
	}
	out := make(map[string]string, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, okName := d.scalar(n.Content[i], key)
		value, okValue := d.scalar(n.Content[i+1], join(key, n.Content[i].Value))
		if !okName || !okValue {
			continue
		}
		if _, twice := out[name]; twice {
			d.fault(n.Content[i], join(key, name), "is in the map twice")
		}
		out[name] = value
	}
	return out
}

func (d *decoder) env(n *yaml.Node, key string) (string, bool) {
	s, ok := d.scalar(n, key)
	if !ok {
		return "", false
	}
	name, _, _ := strings.Cut(s, "=")
	if !envPattern.MatchString(name) {
		d.fault(n, key, "%q: want the name of an environment variable", s)
		return "", false
	}
	if secretPattern.MatchString(name) {
		d.fault(n, key, "%s may hold a secret: models do not ask for it", name)
		return "", false
	}
	return s, true
}

func (d *decoder) routes(n *yaml.Node, key string) *Routes {
	r := &Routes{}
	valid := func(s string) bool { return !strings.ContainsAny(s, " \n=,") }
	name := func(dst *string) reader {
		return d.matching(dst, "the key of a label or of an environment variable, '*' for one part", valid)
	}
	d.object(n, key, map[string]reader{
		"enable": name(&r.Enable), "port": name(&r.Port), "host": name(&r.Host), "network": name(&r.Network), "env": name(&r.Env),
	})
	if *r == (Routes{}) {
		d.fault(n, key, "names no key")
	}
	return r
}

func (d *decoder) features(n *yaml.Node, key string) map[string]Feature {
	if n.Kind != yaml.MappingNode {
		d.fault(n, key, "want a map of features")
		return nil
	}
	out := make(map[string]Feature, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, ok := d.id(n.Content[i], key)
		if !ok {
			continue
		}
		path := join(key, name)
		if _, twice := out[name]; twice {
			d.fault(n.Content[i], path, "is in the map twice")
		}
		d.lines[path] = n.Content[i].Line
		var f Feature
		d.object(n.Content[i+1], path, map[string]reader{
			"default": d.boolean(&f.Default),
			"serves":  d.entries(&f.Serves, true),
			"calls":   d.entries(&f.Calls, false),
		}, "default")
		out[name] = f
	}
	return out
}

// entries reads serves or calls.
func (d *decoder) entries(dst *[]Entry, serves bool) reader {
	return func(n *yaml.Node, key string) {
		d.sequence(n, key, func(n *yaml.Node, key string) {
			e := d.entry(n, key, serves)
			if e.ID != "" && hasEntry(*dst, e.ID) {
				d.fault(n, key+".id", "%s is already the id of another entry of this list", e.ID)
			}
			*dst = append(*dst, e)
		})
	}
}

func (d *decoder) entry(n *yaml.Node, key string, serves bool) Entry {
	e := Entry{TLS: policy.TLSNone}
	d.object(n, key, map[string]reader{
		"id":        d.identifier(&e.ID),
		"kind":      choice(d, &e.Kind, kindNames[:]),
		"app":       d.app(&e),
		"tls":       d.tls(&e.TLS),
		"ports":     d.ports(&e.Ports, serves),
		"port_from": d.portSources(&e.PortFrom),
		"to":        d.peers(&e.To),
		"publish":   choice(d, &e.Publish, publishNames[:]),
		"when":      func(n *yaml.Node, key string) { e.When = d.when(n, key, 0) },
		"note":      d.text(&e.Note),
	}, "id", "app", "ports", "to")
	d.checkEntry(n, key, &e, serves)
	return e
}

// checkEntry holds the rules that span an entry's keys.
func (d *decoder) checkEntry(n *yaml.Node, key string, e *Entry, serves bool) {
	if !serves && e.Publish != PublishDefault {
		d.fault(n, key+".publish", "only for serves")
	}
	if serves && e.Callee {
		d.fault(n, key+".app", "callee is only for calls")
	}
	_, tls := d.lines[key+".tls"]
	if e.AnyApp && tls {
		d.fault(n, key+".tls", "says nothing with app any, which includes every form of TLS; leave it out")
	}
	if e.TLS == policy.TLSStart && e.App != policy.AppNone && !e.App.CanStartTLS() {
		d.fault(n, key+".tls", "%s has no upgrade to TLS in the protocol; want none, optional or only", e.App)
	}
	for i, p := range e.To {
		d.checkPeer(n, fmt.Sprintf("%s.to[%d]", key, i), e, p, serves)
	}
}

func (d *decoder) checkPeer(n *yaml.Node, key string, e *Entry, p PeerTerm, serves bool) {
	switch {
	case (p.Peer == "internet" || p.Peer == "external") && e.Note == "":
		d.fault(n, key, "%s needs a note that says why", p.Peer)
	case p.Peer == "workload" && e.Kind != KindMetrics:
		d.fault(n, key, "peer workload is only for entries of kind metrics")
	case serves && e.Kind == KindCluster && p.Peer != "self" && p.Peer != "siblings" && (p.Model == "" || !p.Ref):
		d.fault(n, key, "cluster entries serve only {peer: self}, {peer: siblings} and {model: NAME, ref: true}")
	}
}

func (d *decoder) app(e *Entry) reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.scalar(n, key)
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
			d.fault(n, key, "unknown application %q", s)
		}
	}
}

func (d *decoder) tls(dst *policy.TLSForms) reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.scalar(n, key)
		if !ok {
			return
		}
		forms, ok := policy.ParseTLSForms(s)
		if !ok {
			d.fault(n, key, "%q: want none, starttls, optional, only", s)
			return
		}
		*dst = forms
	}
}

func (d *decoder) ports(dst *[]PortTerm, serves bool) reader {
	words := []string{"published", "exposed", "routed", "referenced"}
	if !serves {
		words = []string{"callee", "routed", "referenced"}
	}
	return func(n *yaml.Node, key string) {
		d.sequence(n, key, func(n *yaml.Node, key string) {
			s, ok := d.scalar(n, key)
			if !ok {
				return
			}
			term := PortTerm{Word: s}
			if !slices.Contains(words, s) {
				r, err := policy.ParsePortRange(s)
				if err != nil {
					d.fault(n, key, "%s, or one of %s", err, strings.Join(words, ", "))
					return
				}
				term = PortTerm{Range: r}
			}
			if slices.Contains(*dst, term) {
				d.fault(n, key, "%s is in the list twice", s)
				return
			}
			*dst = append(*dst, term)
		})
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			d.fault(n, key, "want at least one port")
		}
	}
}

func (d *decoder) portSources(dst *[]PortSource) reader {
	return func(n *yaml.Node, key string) {
		d.sequence(n, key, func(n *yaml.Node, key string) {
			var src PortSource
			d.object(n, key, map[string]reader{
				"env": func(n *yaml.Node, key string) { src.Env, _ = d.env(n, key) },
				"arg": func(n *yaml.Node, key string) { src.Arg, _ = d.flag(n, key) },
				"parse": d.matching(&src.Parse, "listeners", func(s string) bool {
					return s == "listeners"
				}),
			})
			if strings.Contains(src.Env, "=") || (src.Env == "") == (src.Arg == "") {
				d.fault(n, key, "want one of env: KEY and arg: --flag")
				return
			}
			*dst = append(*dst, src)
		})
	}
}

func (d *decoder) flag(n *yaml.Node, key string) (string, bool) {
	var s string
	d.matching(&s, "a flag such as --port, and none that may hold a secret", func(s string) bool {
		return len(s) > 1 && !strings.ContainsAny(s, " =\n") && !secretPattern.MatchString(s)
	})(n, key)
	return s, s != ""
}

func (d *decoder) when(n *yaml.Node, key string, depth int) *When {
	if depth > maxWhen {
		d.fault(n, key, "conditions nested more than %d deep", maxWhen)
		return nil
	}
	w := &When{}
	several := func(dst *[]When) reader {
		return func(n *yaml.Node, key string) {
			d.sequence(n, key, func(n *yaml.Node, key string) {
				if c := d.when(n, key, depth+1); c != nil {
					*dst = append(*dst, *c)
				}
			})
			if len(*dst) == 0 {
				d.fault(n, key, "want at least one condition")
			}
		}
	}
	d.object(n, key, map[string]reader{
		"exposed":   d.port(&w.Exposed),
		"published": d.port(&w.Published),
		"env":       func(n *yaml.Node, key string) { w.Env, _ = d.env(n, key) },
		"arg":       func(n *yaml.Node, key string) { w.Arg, _ = d.flag(n, key) },
		"command":   d.text(&w.Command),
		"tag":       d.text(&w.Tag),
		"any":       several(&w.Any),
		"all":       several(&w.All),
		"not":       func(n *yaml.Node, key string) { w.Not = d.when(n, key, depth+1) },
	})
	if n.Kind == yaml.MappingNode && len(n.Content) != 2 {
		d.fault(n, key, "want exactly one condition; join several with any: or all:")
	}
	return w
}

func (d *decoder) port(dst **policy.PortRange) reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.scalar(n, key)
		if !ok {
			return
		}
		r, err := policy.ParsePortRange(s)
		if err != nil {
			d.fault(n, key, "%s", err)
			return
		}
		*dst = &r
	}
}

func (d *decoder) peers(dst *[]PeerTerm) reader {
	return func(n *yaml.Node, key string) {
		*dst = []PeerTerm{}
		d.sequence(n, key, func(n *yaml.Node, key string) { *dst = append(*dst, d.peer(n, key)) })
	}
}

func (d *decoder) peer(n *yaml.Node, key string) PeerTerm {
	var p PeerTerm
	var within string
	isTrue := func(dst *bool) reader {
		return func(n *yaml.Node, key string) {
			if n.Value == "false" {
				d.fault(n, key, "write true, or leave the key out")
				return
			}
			d.boolean(dst)(n, key)
		}
	}
	ok := d.object(n, key, map[string]reader{
		"role":    func(n *yaml.Node, key string) { p.Role, _ = d.role(n, key) },
		"model":   d.identifier(&p.Model),
		"service": d.matching(&p.Service, "NAME or PROJECT/NAME", isServiceName),
		"project": d.text(&p.Project),
		"label":   d.matching(&p.Label, "KEY=VALUE", func(s string) bool { return strings.Index(s, "=") > 0 }),
		"category": func(n *yaml.Node, key string) {
			d.fault(n, key, "categories are for the operator's statements, not for models")
		},
		"ref":    isTrue(&p.Ref),
		"routed": isTrue(&p.Routed),
		"within": d.matching(&within, "project or shared", func(s string) bool { return s == "project" || s == "shared" }),
		"name":   d.matching(&p.Name, "a DNS name such as a.example.com or *.example.com", isHostName),
		"cidr":   d.matching(&p.CIDR, "a prefix such as 192.0.2.0/24, without host bits", isPrefix),
		"peer": d.matching(&p.Peer, "one of "+strings.Join(peerNames[:len(peerNames)-1], ", "), func(s string) bool {
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
		d.fault(n, key, "models never say any; name the roles or models that are meant")
	case len(n.Content) == 0, within && len(n.Content) == 2:
		d.fault(n, key, "selects nobody in particular; name a role, a model or another key")
	case outside && workload, p.Name != "" && p.CIDR != "", p.Peer != "" && (p.Name != "" || p.CIDR != ""):
		d.fault(n, key, "no peer is all of this at once; write several peers")
	case within && outside && p.Peer != "workload":
		d.fault(n, key, "within is for peers that are workloads of other services")
	}
}

func isServiceName(s string) bool {
	project, name, both := strings.Cut(s, "/")
	if !both {
		name = project
	}
	return project != "" && name != "" && !strings.ContainsAny(name, "/ *") && !strings.ContainsAny(project, " *")
}

func isHostName(s string) bool {
	return len(s) <= 253 && hostPattern.MatchString(strings.TrimPrefix(s, "*."))
}

func isPrefix(s string) bool {
	p, err := netip.ParsePrefix(s)
	return err == nil && p == p.Masked()
}

package models

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/policy"
)

// YAML is the model in the form that Load reads. Of a Library's model it is
// the whole, with what it inherits written out.
func (m *Model) YAML() ([]byte, error) {
	n, err := m.MarshalYAML()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return nil, fmt.Errorf("model %s: %w", m.Name, err)
	}
	return buf.Bytes(), enc.Close()
}

// MarshalYAML implements yaml.Marshaler.
func (m *Model) MarshalYAML() (any, error) {
	o := object()
	o.put("schema", scalar(Schema))
	o.put("model", scalar(m.Name))
	o.put("revision", number(m.Revision))
	o.text("title", m.Title)
	o.text("extends", m.Extends)
	o.flag("override", m.Override)
	o.words("docs", m.Docs, 0)
	o.words("roles", m.Roles, yaml.FlowStyle)
	match := object()
	match.words("images", familiar(m.Images), 0)
	if m.Labels != nil {
		match.put("labels", labelsNode(m.Labels))
	}
	match.words("clients", m.Clients, yaml.FlowStyle)
	hints := object()
	hints.words("env", m.Hints.Env, yaml.FlowStyle)
	hints.words("commands", m.Hints.Commands, yaml.FlowStyle)
	match.object("hints", hints)
	o.object("match", match)
	o.words("remove", m.Remove, yaml.FlowStyle)
	if m.DNS != DNSResolver {
		o.text("dns", m.DNS.String())
	}
	if r := m.Routes; r != nil {
		routes := object()
		routes.text("enable", r.Enable)
		routes.text("port", r.Port)
		routes.text("host", r.Host)
		routes.text("network", r.Network)
		routes.text("env", r.Env)
		o.object("routes", routes)
	}
	o.entries("serves", m.Serves)
	o.entries("calls", m.Calls)
	features := object()
	for _, name := range slices.Sorted(maps.Keys(m.Features)) {
		f := object()
		f.put("default", truth(m.Features[name].Default))
		f.entries("serves", m.Features[name].Serves)
		f.entries("calls", m.Features[name].Calls)
		features.object(name, f)
	}
	o.object("features", features)
	n := o.Node
	if len(m.Ancestors) > 0 {
		n.HeadComment = "with what it inherits from " + strings.Join(m.Ancestors, ", ")
	}
	return n, nil
}

// MarshalJSON has the same keys as the YAML.
func (m *Model) MarshalJSON() ([]byte, error) {
	data, err := m.YAML()
	if err != nil {
		return nil, err
	}
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("model %s: %w", m.Name, err)
	}
	return json.Marshal(v)
}

// mapping builds a YAML map in the order of its puts; the methods named for a
// kind of value leave empty ones out.
type mapping struct{ *yaml.Node }

func object() mapping { return mapping{&yaml.Node{Kind: yaml.MappingNode}} }

func (o mapping) put(key string, n *yaml.Node) { o.Content = append(o.Content, scalar(key), n) }

func (o mapping) text(key, value string) {
	if value != "" {
		o.put(key, scalar(value))
	}
}

func (o mapping) flag(key string, value bool) {
	if value {
		o.put(key, truth(true))
	}
}

func (o mapping) object(key string, value mapping) {
	if len(value.Content) > 0 {
		o.put(key, value.Node)
	}
}

// words tells an empty list from an absent one.
func (o mapping) words(key string, values []string, style yaml.Style) {
	if values != nil {
		o.put(key, list(values, scalar, style))
	}
}

func (o mapping) entries(key string, entries []Entry) {
	if len(entries) > 0 {
		o.put(key, list(entries, entryNode, 0))
	}
}

func scalar(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

func number(n int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(n)}
}

func truth(b bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(b)}
}

func list[T any](items []T, node func(T) *yaml.Node, style yaml.Style) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: style}
	if len(items) == 0 {
		n.Style = yaml.FlowStyle
	}
	for _, item := range items {
		n.Content = append(n.Content, node(item))
	}
	return n
}

func labelsNode(labels map[string]string) *yaml.Node {
	o := object()
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		o.put(k, scalar(labels[k]))
	}
	return o.Node
}

// familiar leaves out the registry that Docker implies.
func familiar(images []string) []string {
	out := slices.Clone(images)
	for i, image := range out {
		for _, implied := range []string{"docker.io/library/", "docker.io/"} {
			short, ok := strings.CutPrefix(image, implied)
			if again, _, _, err := policy.NormalizeImage(short); ok && err == nil && again == image {
				out[i] = short
				break
			}
		}
	}
	return out
}

func entryNode(e Entry) *yaml.Node {
	o := object()
	o.put("id", scalar(e.ID))
	if e.Kind != KindData {
		o.text("kind", e.Kind.String())
	}
	o.put("app", scalar(appText(e)))
	switch {
	case e.AnyApp:
	case e.TLS == policy.TLSStart:
		o.text("tls", "starttls")
	case e.TLS == policy.TLSOptional:
		o.text("tls", "optional")
	case e.TLS == policy.TLSOnly:
		o.text("tls", "only")
	}
	o.put("ports", list(e.Ports, func(p PortTerm) *yaml.Node { return scalar(p.String()) }, yaml.FlowStyle))
	if len(e.PortFrom) > 0 {
		o.put("port_from", list(e.PortFrom, func(s PortSource) *yaml.Node {
			src := object()
			src.text("env", s.Env)
			src.text("arg", s.Arg)
			src.text("parse", s.Parse)
			if s.Add != 0 {
				src.put("add", number(int(s.Add)))
			}
			if s.When != nil {
				src.put("when", whenNode(*s.When))
			}
			return src.Node
		}, 0))
	}
	o.put("to", list(e.To, peerNode, 0))
	if e.Publish != PublishDefault {
		o.text("publish", e.Publish.String())
	}
	if e.When != nil {
		o.put("when", whenNode(*e.When))
	}
	o.text("note", e.Note)
	return o.Node
}

func appText(e Entry) string {
	switch {
	case e.AnyApp:
		return "any"
	case e.Callee:
		return "callee"
	}
	return e.App.String()
}

// String is the term as a model file writes it.
func (p PortTerm) String() string {
	if p.Word != "" {
		return p.Word
	}
	return p.Range.String()
}

func peerNode(p PeerTerm) *yaml.Node {
	o := object()
	o.text("role", p.Role)
	o.text("model", p.Model)
	o.text("service", p.Service)
	o.text("project", p.Project)
	o.text("label", p.Label)
	o.flag("ref", p.Ref)
	o.flag("routed", p.Routed)
	o.text("name", p.Name)
	o.text("cidr", p.CIDR)
	o.text("peer", p.Peer)
	if p.Shared {
		o.text("within", "shared")
	}
	return o.Node
}

func whenNode(w When) *yaml.Node {
	o := object()
	switch {
	case w.Exposed != nil:
		o.text("exposed", w.Exposed.String())
	case w.Published != nil:
		o.text("published", w.Published.String())
	case w.Not != nil:
		o.put("not", whenNode(*w.Not))
	case len(w.Any) > 0:
		o.put("any", list(w.Any, whenNode, 0))
	case len(w.All) > 0:
		o.put("all", list(w.All, whenNode, 0))
	}
	o.text("env", w.Env)
	o.text("arg", w.Arg)
	o.text("command", w.Command)
	o.text("tag", w.Tag)
	return o.Node
}

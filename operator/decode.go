package operator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

type decoder struct{ *document.Decoder }

// decodeStatements reads the files with statements; an id is there once among
// all, and so is the mode of a service.
func (p *Policy) decodeStatements(files []document.File, faults *document.Faults) {
	document.Split(files, faults, func(doc *yaml.Node, file string) {
		d := &decoder{document.NewDecoder(file, faults)}
		if root := d.Root(doc); root != nil {
			d.statements(root, p)
		}
	})
	first := make(map[string]*Statement)
	for i := range p.Statements {
		s := &p.Statements[i]
		if other := first[s.ID]; other != nil && s.ID != "" {
			faults.Add(s.fault("id", "%s is also in %s", s.ID, other.place()))
			continue
		}
		first[s.ID] = s
	}
}

func (s *Statement) fault(key, format string, args ...any) *document.Fault {
	return &document.Fault{File: s.File, Line: s.Line, Key: key, Text: fmt.Sprintf(format, args...)}
}

func (d *decoder) statements(n *yaml.Node, p *Policy) {
	d.Object(n, "", map[string]document.Reader{
		"schema": d.schema(StatementsSchema),
		"statements": func(n *yaml.Node, key string) {
			d.Sequence(n, key, func(n *yaml.Node, key string) { p.Statements = append(p.Statements, d.statement(n, key)) })
		},
		"modes": func(n *yaml.Node, key string) {
			d.Named(n, key, func(service string, n *yaml.Node, key string) { d.mode(n, key, service, p) })
		},
	}, "schema", "statements")
}

func (d *decoder) mode(n *yaml.Node, key, service string, p *Policy) {
	var word string
	d.oneOf(&word, "observe", "enforce")(n, key)
	if !models.IsServiceName(service) {
		d.Fault(n, key, "want the name of a service, such as shop/db")
	}
	if _, twice := p.Modes[service]; twice {
		d.Fault(n, key, "another file gives this service a mode too")
	}
	p.Modes[service], _ = policy.ParseMode(word)
	p.modesAt[service] = place{d.File, n.Line}
}

func (d *decoder) schema(want string) document.Reader {
	return func(n *yaml.Node, key string) {
		if s, ok := d.Scalar(n, key); ok && s != want {
			d.Fault(n, key, "%q: want %s", s, want)
		}
	}
}

// oneOf reads one of the words.
func (d *decoder) oneOf(dst *string, words ...string) document.Reader {
	return d.Matching(dst, "one of "+strings.Join(words, ", "), func(s string) bool { return slices.Contains(words, s) })
}

func (d *decoder) statement(n *yaml.Node, key string) Statement {
	s := Statement{File: d.File, Line: n.Line}
	var verdict, action, enforce string
	fields := d.flows(&s.Flows)
	fields["id"] = d.Identifier(&s.ID)
	fields["verdict"] = d.oneOf(&verdict, "allow", "deny")
	fields["action"] = d.oneOf(&action, "drop", "reject")
	fields["enforce"] = d.oneOf(&enforce, "mode", "always")
	fields["why"] = d.Text(&s.Why)
	fields["owner"] = d.Text(&s.Owner)
	fields["expires"] = d.moment(&s.Expires)
	fields["when"] = func(n *yaml.Node, key string) { s.When = d.when(n, key) }
	fields["except"] = func(*yaml.Node, string) {} // read once the rest is known
	if !d.Object(n, key, fields, "id", "verdict", "from", "to", "app", "ports") {
		return s
	}
	s.Always = enforce == "always"
	s.Verdict = policy.Drop
	switch {
	case verdict == "allow":
		s.Verdict = policy.Allow
	case action == "reject":
		s.Verdict = policy.Reject
	}
	d.checkFlows(n, key, &s.Flows, s.Verdict == policy.Allow)
	d.checkStatement(n, key, &s)
	d.exceptions(n, key, &s)
	return s
}

// checkStatement holds the rules that span a statement's keys.
func (d *decoder) checkStatement(n *yaml.Node, key string, s *Statement) {
	if s.Verdict != policy.Allow {
		return
	}
	if d.Lines[key+".why"] == 0 {
		d.Fault(n, key+".why", "is required for an allow: say what it is for")
	}
	for _, name := range []string{"action", "enforce", "except"} {
		if d.Lines[key+"."+name] > 0 {
			d.Fault(n, key+"."+name, "only for deny")
		}
	}
	if s.AnyPort {
		d.Fault(n, key+".ports", "any is only for deny: name the ports")
	}
}

// valueOf is the value of a map's key, nil where it has none.
func valueOf(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// exceptions reads what a deny excepts. A key that an exception does not give is
// as in the deny.
func (d *decoder) exceptions(n *yaml.Node, key string, s *Statement) {
	list := valueOf(n, "except")
	if list == nil || s.Verdict == policy.Allow || list.ShortTag() == "!!null" {
		return
	}
	d.Sequence(list, key+".except", func(n *yaml.Node, key string) {
		e := s.Flows
		e.Apps = slices.Clone(e.Apps)
		if !d.Object(n, key, d.flows(&e)) {
			return
		}
		if len(n.Content) == 0 {
			d.Fault(n, key, "would except all of the statement; name from, to, app or ports")
		}
		d.checkFlows(n, key, &e, true)
		s.Except = append(s.Except, e)
	})
}

// flows are the keys that statements and exceptions share.
func (d *decoder) flows(f *Flows) map[string]document.Reader {
	return map[string]document.Reader{
		"from":  d.terms(&f.From),
		"to":    d.terms(&f.To),
		"app":   d.apps(&f.Apps),
		"tls":   func(*yaml.Node, string) {}, // read with app
		"ports": d.ports(f),
	}
}

// checkFlows holds the rules that span the keys of flows. loosens: of an allow,
// or of an exception.
func (d *decoder) checkFlows(n *yaml.Node, key string, f *Flows, loosens bool) {
	d.tls(n, key, f)
	check := func(side string, terms []Term) {
		if valueOf(n, side) == nil {
			return // as in the deny, which was checked for itself
		}
		for i := range terms {
			path := fmt.Sprintf("%s.%s[%d]", key, side, i)
			for _, c := range terms[i].Categories {
				if c.Unknown && loosens {
					d.Fault(n, path+".category."+c.Category, "unknown: true is only for a deny: what is not known allows nothing")
				}
			}
			switch {
			case terms[i].Name == "":
			case side == "from":
				d.Fault(n, path, "a name says where to, not where from: move it to 'to', or write a cidr")
			case !loosens:
				d.Fault(n, path, "a deny by name would not deny: whoever knows the address need not ask for the name; deny {peer: internet} except the names that may be reached")
			}
		}
	}
	check("from", f.From)
	check("to", f.To)
	if side := f.misplaced(); side != "" {
		d.Fault(n, key+"."+side, "within, self and siblings say what a workload has in common with another; write a statement of its own for addresses, names and peers outside")
	}
}

// misplaced is the side of flows with a term that is no workload where one of the
// other side reaches by what both have in common; "" if there is none.
func (f *Flows) misplaced() string {
	near := func(t Term) bool { return t.Within != WithinAll }
	if slices.ContainsFunc(f.From, near) && slices.ContainsFunc(f.To, Term.isOutside) {
		return "to"
	}
	if slices.ContainsFunc(f.To, near) && slices.ContainsFunc(f.From, Term.isOutside) {
		return "from"
	}
	return ""
}

// isOutside reports whether the term names addresses, or peers that are no
// workloads.
func (t Term) isOutside() bool {
	return t.Name != "" || t.CIDR.IsValid() || t.Peer != policy.PeerNone && t.Peer != policy.PeerWorkload && t.Peer != policy.PeerAny
}

func (d *decoder) apps(dst *[]policy.AppMatch) document.Reader {
	return func(n *yaml.Node, key string) {
		*dst = []policy.AppMatch{}
		d.Sequence(n, key, func(n *yaml.Node, key string) {
			name, ok := d.Scalar(n, key)
			if !ok {
				return
			}
			m := policy.AnyApp
			if name != "any" {
				app, known := policy.ParseApp(name)
				if !known {
					d.Fault(n, key, "%v", policy.UnknownApp(name))
					return
				}
				m = policy.AppMatch{App: app, Forms: policy.TLSNone}
			}
			if slices.Contains(*dst, m) {
				d.Fault(n, key, "%s is in the list twice", name)
				return
			}
			*dst = append(*dst, m)
		})
		if slices.Contains(*dst, policy.AnyApp) && len(*dst) > 1 {
			d.Fault(n, key, "any includes the others; leave them out")
		}
	}
}

// tls gives the applications of f the forms that the map's tls key says.
func (d *decoder) tls(n *yaml.Node, key string, f *Flows) {
	value := valueOf(n, "tls")
	if value == nil || value.ShortTag() == "!!null" {
		return
	}
	key += ".tls"
	word, ok := d.Scalar(value, key)
	if !ok {
		return
	}
	forms, ok := policy.ParseTLSForms(word)
	if !ok {
		d.Fault(value, key, "%q: want none, starttls, optional, only", word)
		return
	}
	for i := range f.Apps {
		m := &f.Apps[i]
		switch {
		case m.Any:
			d.Fault(value, key, "says nothing with app any, which includes every form of TLS; leave it out")
		case forms == policy.TLSStart && !m.App.CanStartTLS():
			d.Fault(value, key, "%s has no upgrade to TLS in the protocol; want none, optional or only", m.App)
		default:
			m.Forms = forms
		}
	}
}

func (d *decoder) ports(f *Flows) document.Reader {
	return func(n *yaml.Node, key string) {
		f.Ports, f.AnyPort = []policy.PortRange{}, false
		d.Sequence(n, key, func(n *yaml.Node, key string) {
			s, ok := d.Scalar(n, key)
			if !ok {
				return
			}
			if s == "any" {
				f.AnyPort = true
				return
			}
			r, err := policy.ParsePortRange(s)
			switch {
			case err != nil:
				d.Fault(n, key, "%s, or any", err)
			case slices.Contains(f.Ports, r):
				d.Fault(n, key, "%s is in the list twice", s)
			default:
				f.Ports = append(f.Ports, r)
			}
		})
		if f.AnyPort && len(n.Content) > 1 {
			d.Fault(n, key, "any includes the others; leave them out")
		}
	}
}

func (d *decoder) terms(dst *[]Term) document.Reader {
	return func(n *yaml.Node, key string) {
		*dst = []Term{}
		d.Sequence(n, key, func(n *yaml.Node, key string) { *dst = append(*dst, d.term(n, key)) })
	}
}

// peerKinds are the words of a term's peer key that are kinds of peers.
var peerKinds = map[string]policy.PeerKind{
	"workload": policy.PeerWorkload, "host": policy.PeerHost, "node": policy.PeerNode, "site": policy.PeerSite, "internet": policy.PeerInternet,
	"external": policy.PeerExternal, "resolver": policy.PeerResolver, "metadata": policy.PeerMetadata, "orchestrator": policy.PeerOrchestrator,
	"multicast": policy.PeerMulticast, "broadcast": policy.PeerBroadcast, "ingress": policy.PeerIngress, "lb": policy.PeerLB, "any": policy.PeerAny,
}

// peerWords are all words of the peer key.
var peerWords = []string{"self", "siblings", "front", "workload", "host", "node", "site", "internet", "external", "resolver",
	"metadata", "orchestrator", "multicast", "broadcast", "ingress", "lb", "any"}

func (d *decoder) term(n *yaml.Node, key string) Term {
	t := Term{Line: n.Line}
	var within, cidr, word string
	notHere := func(text string) document.Reader {
		return func(n *yaml.Node, key string) { d.Fault(n, key, "%s", text) }
	}
	ok := d.Object(n, key, map[string]document.Reader{
		"role":     d.oneOf(&t.Role, models.RoleNames()...),
		"model":    d.Identifier(&t.Model),
		"service":  d.Matching(&t.Service, "NAME or PROJECT/NAME", models.IsServiceName),
		"project":  d.Text(&t.Project),
		"label":    d.Matching(&t.Label, "KEY=VALUE", func(s string) bool { return strings.Index(s, "=") > 0 }),
		"category": func(n *yaml.Node, key string) { t.Categories = d.comparisons(n, key) },
		"within":   d.oneOf(&within, "project", "shared"),
		"name": d.Matching(&t.Name, "a DNS name such as a.example.com or *.example.com, in lower case", func(s string) bool {
			name, err := policy.ParseName(s)
			return err == nil && name == s
		}),
		"cidr":   d.Matching(&cidr, "a prefix such as 192.0.2.0/24, without host bits", models.IsPrefix),
		"peer":   d.oneOf(&word, peerWords...),
		"ref":    notHere("references are for models; name the service"),
		"routed": notHere("routes are for models; name the service"),
	})
	if !ok {
		return t
	}
	t.setWord(word)
	switch {
	case within == "project" || t.Project == "same":
		t.Within = WithinProject
	case within == "shared":
		t.Within = WithinShared
	}
	if t.Project == "same" {
		t.Project = ""
	}
	if cidr != "" {
		t.CIDR = netip.MustParsePrefix(cidr) // IsPrefix read it
	}
	d.checkTerm(n, key, &t, word)
	return t
}

func (t *Term) setWord(word string) {
	switch word {
	case "self":
		t.Within = WithinService
	case "siblings":
		t.Within = WithinSiblings
	case "front":
		t.Front = true
	default:
		t.Peer = peerKinds[word]
	}
}

// checkTerm holds the rules that span a peer's keys.
func (d *decoder) checkTerm(n *yaml.Node, key string, t *Term, word string) {
	outside := 0
	for _, is := range []bool{t.Name != "" || t.CIDR.IsValid(), t.Peer != policy.PeerNone && t.Peer != policy.PeerWorkload} {
		if is {
			outside++
		}
	}
	switch {
	case len(n.Content) == 0:
		d.Fault(n, key, "selects nobody in particular; write {peer: any} where everybody is meant")
	case outside > 1, outside == 1 && (t.selectsWorkloads() || len(t.Categories) > 0):
		d.Fault(n, key, "no peer is all of this at once; write several peers")
	case (word == "self" || word == "siblings") && len(n.Content) > 2:
		d.Fault(n, key, "%s says who already; leave the other keys out", word)
	}
}

func (d *decoder) moment(dst *time.Time) document.Reader {
	return func(n *yaml.Node, key string) {
		t, err := time.Parse(time.RFC3339, n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			d.Fault(n, key, "%q: want a time as RFC 3339 writes it, such as 2027-01-31T18:00:00+01:00", n.Value)
			return
		}
		*dst = t
	}
}

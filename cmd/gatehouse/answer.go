package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"gatehouse/control"
	"gatehouse/control/history"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

func (g *gateway) explain(req ExplainRequest) (*ExplainAnswer, error) {
	st := g.control.State()
	if st == nil {
		return nil, errNoState
	}
	if req.ID != "" {
		return g.explainViolation(st, req.ID)
	}
	return explainFlow(st, req, g.namesAt(req.From, req.To))
}

// explainFlow answers for a flow between two peers that a state knows.
func explainFlow(st *control.State, req ExplainRequest, names []NameView) (*ExplainAnswer, error) {
	ports, err := policy.ParsePortRange(req.Port)
	if err != nil {
		return nil, badRequest{err}
	}
	app := policy.AppNone
	if req.App != "" {
		var ok bool
		if app, ok = policy.ParseApp(req.App); !ok {
			return nil, badRequest{policy.UnknownApp(req.App)}
		}
	}
	x, err := policy.Explain(st.Table, req.From, req.To, ports, app)
	if name, ok := nameOf(req.To); err != nil && ok {
		x, err = policy.ExplainName(st.Table, req.From, name, ports, policy.Spoken{App: app}, true)
	}
	if err != nil {
		return nil, badRequest{err}
	}
	return answerOf(st, &x, names), nil
}

// nameOf is the DNS name that the end of a flow is: name:api.example.com, or what
// has a dot and is nothing else.
func nameOf(to string) (string, bool) {
	text, said := strings.CutPrefix(to, "name:")
	name, err := policy.ParseName(text)
	return name, err == nil && !strings.HasPrefix(name, "*") && (said || strings.Contains(name, "."))
}

func (g *gateway) explainViolation(st *control.State, id string) (*ExplainAnswer, error) {
	r, ok := g.recorder.store.ByID(id)
	if !ok {
		return nil, badRequest{fmt.Errorf("no violation %q: `gatehouse get violations` lists them", id)}
	}
	view := g.violationView(r)
	if !r.Src.IsValid() || !r.Dst.IsValid() {
		return &ExplainAnswer{Violation: &view, Lines: append([]ExplainLine{{"why", view.Why}}, senderOf(r, &view)...)}, nil
	}
	if r.Reason == policy.ReasonNameRefused {
		return explainLookup(st, r, &view), nil
	}
	x := policy.ExplainFlow(st.Table, policy.Query{Zone: r.Zone, Src: r.Src.As16(), Dst: r.Dst.As16(), Proto: r.Proto, DstPort: r.DstPort}, r.Spoken, serverOf(r))
	a := answerOf(st, &x, g.namesAt(view.From, r.Dst.String()))
	a.Violation = &view
	if r.Spoken.App == policy.AppNone && (r.Proto == policy.ProtoTCP || r.Proto == policy.ProtoUDP) {
		a.Lines = append([]ExplainLine{{"application", unreadApp + ": it was decided before any byte of what is spoken; \"may speak\" is what passes there now"}}, a.Lines...)
	}
	if r.Reason != x.Reason {
		a.Lines = append([]ExplainLine{{"why then", view.Why}}, a.Lines...)
	}
	return a, nil
}

// senderOf tells what is known of who sent a packet whose addresses nobody kept.
func senderOf(r *history.Record, view *ViolationView) []ExplainLine {
	switch {
	case view.Direction != dataplane.ToEndpoint.String() || r.Summed:
		return nil
	case r.Reason == policy.ReasonSourceInterface:
		return []ExplainLine{{"sender", "not known, but that it is not the interface whose address it says it has"}}
	}
	return []ExplainLine{{"sender", fmt.Sprintf("not known: its addresses were not kept; what was judged meanwhile: gatehouse observe --kind all --to %s --since %s",
		view.To, r.First.UTC().Format(time.RFC3339))}}
}

// serverOf is what the flow of a record said of the server that it was for.
func serverOf(r *history.Record) policy.ServerName {
	switch {
	case r.Reason == policy.ReasonNameMismatch && r.Name == "":
		return policy.ServerName{State: policy.NameNone}
	case r.Reason == policy.ReasonNameMismatch:
		return policy.ServerName{State: policy.NameGiven, Text: []byte(r.Name)}
	}
	return policy.ServerName{}
}

// explainLookup answers for a query that was refused for its name: whether the
// workload may look it up by now, what it may look up, and what lets it.
func explainLookup(st *control.State, r *history.Record, view *ViolationView) *ExplainAnswer {
	asker := st.Table.AskerOf(r.Workload[0])
	may := st.Table.NamesFor(asker)
	a := &ExplainAnswer{Violation: view, Allowed: st.Table.MayAsk(asker, r.Name)}
	a.Lines = []ExplainLine{{"looked up", r.Name}, {"may look up", cmp.Or(strings.Join(may, ", "), "nothing")}}
	a.Detail = map[string]any{"lookedUp": r.Name, "mayLookUp": append([]string{}, may...), "allowed": a.Allowed}
	if a.Allowed {
		a.Lines = append([]ExplainLine{{"why then", view.Why}}, a.Lines...)
		return a
	}
	a.Lines = append(a.Lines, ExplainLine{"to change", fmt.Sprintf(
		"%s may look up only names that statements let it reach (dns: names, R18): if it should reach %s, allow it, on the port that it needs; for HTTPS that is", r.From.Name, r.Name)})
	x, err := policy.ExplainName(st.Table, r.From.Name, r.Name, policy.Port(policy.ProtoTCP, 443), policy.Spoken{App: policy.AppTLS, ALPN: policy.AppHTTP}, false)
	if err == nil {
		a.Lines = append(a.Lines, fixes(st, &x)...)
	}
	return a
}

// chosenBy is the evidence on which a service's model was chosen, and what
// suggests another.
func chosenBy(st *control.State, id policy.Identity) []ExplainLine {
	g, ok := st.Table.Group(id)
	if !ok || len(g.Members) == 0 {
		return nil
	}
	out := []ExplainLine{{"who " + g.Service.String() + " is", fmt.Sprintf("identity %d, containers %d, trust %s, roles %s",
		g.Identity, len(g.Members), g.Trust, cmp.Or(strings.Join(g.Roles, ", "), "none"))}}
	for _, e := range st.Population.Evidence(g.Members[0]) {
		choosing := e.Counts && e.Kind != "role" || e.Kind == "hint"
		switch e.Kind {
		case "label", "digest", "origin", "name", "hint", "role":
		default:
			choosing = false
		}
		if !choosing {
			continue
		}
		text := fmt.Sprintf("%s %s: %s", e.Kind, e.What, e.Why)
		if !e.Counts && e.Change != "" {
			text += "; " + e.Change
		}
		out = append(out, ExplainLine{"  evidence", text})
	}
	return out
}

// answerOf adds to the table's explanation why the models make no statement.
func answerOf(st *control.State, x *policy.Explanation, names []NameView) *ExplainAnswer {
	a := &ExplainAnswer{Allowed: x.Verdict == policy.Allow && !x.Denied || x.Verdict == policy.Undecided, Detail: x}
	for _, l := range x.Lines() {
		a.Lines = append(a.Lines, ExplainLine{l.What, l.Text})
	}
	for _, known := range names {
		a.Lines = append(a.Lines, ExplainLine{"name", known.text()})
	}
	from, to := peerOf(st, x.FromIdentity), peerOf(st, x.ToIdentity)
	a.Lines = append(a.Lines, chosenBy(st, x.FromIdentity)...)
	if x.ToIdentity != x.FromIdentity {
		a.Lines = append(a.Lines, chosenBy(st, x.ToIdentity)...)
	}
	if hidden := st.Population.HiddenSource(from, to, x.Port); hidden != "" {
		a.Lines = append(a.Lines, ExplainLine{"hidden source", hidden})
	}
	if a.Allowed {
		return a
	}
	for _, why := range st.Population.WhyNot(from, to, x.Port) {
		a.Lines = append(a.Lines, ExplainLine{"models", why})
	}
	a.Lines = append(a.Lines, fixes(st, x)...)
	return a
}

// peerOf is the peer of a statement that an identity is.
func peerOf(st *control.State, id policy.Identity) policy.Peer {
	if grp, ok := st.Table.Group(id); ok {
		return policy.Peer{Kind: policy.PeerService, Service: grp.Service, Identity: id}
	}
	name := strings.TrimPrefix(st.Table.IdentityName(id), "@")
	for k := policy.PeerNone; k <= policy.PeerCIDR; k++ {
		if k.String() == name {
			return policy.Peer{Kind: k}
		}
	}
	return policy.Peer{}
}

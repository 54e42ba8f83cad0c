package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Explanation says what a table answers for one flow, and why: packet -> rule
// -> statement -> model -> the metadata that chose it.
type Explanation struct {
	Epoch        uint32    `json:"epoch"`
	From         string    `json:"from"`
	FromIdentity Identity  `json:"fromIdentity"`
	To           string    `json:"to"`
	ToIdentity   Identity  `json:"toIdentity"`
	Asked        PortRange `json:"asked"`         // the port that was asked for
	Port         PortRange `json:"port"`          // the responder's own, behind any publishing
	App          string    `json:"app,omitempty"` // the form in which the application was judged: "http", "tls(http)"; "" = none was named
	Verdict      Verdict   `json:"verdict"`
	Denied       bool      `json:"denied"` // policy's own no; with verdict allow it is only recorded
	Reason       Reason    `json:"reason"`
	Allowed      []string  `json:"allowed"`          // what may be spoken there
	Server       string    `json:"server,omitempty"` // the name that it asks the server for
	Names        []string  `json:"names,omitempty"`  // the names by which statements let it go there
	Sides        []SideSay `json:"sides"`            // the initiator's, then the responder's
	Pending      []string  `json:"pending"`          // statements between these two that wait for something
	Change       []string  `json:"change"`           // what a person can do about it
}

// SideSay is one side's answer in an Explanation.
type SideSay struct {
	Side      Side          `json:"side"`
	Peer      string        `json:"peer"`
	Guarded   bool          `json:"guarded"`
	Mode      Mode          `json:"mode"`
	Answer    string        `json:"answer"` // "yes", "no", or "depends on the application"
	Reason    Reason        `json:"reason"`
	Rule      int32         `json:"rule"` // index into Table.Rules, -1 = none
	Statement *StatementSay `json:"statement,omitempty"`
	Model     string        `json:"model,omitempty"`   // "mariadb@1"
	Reasons   []string      `json:"reasons,omitempty"` // why this model
}

// StatementSay is the statement behind a side's answer.
type StatementSay struct {
	ID     string   `json:"id"`
	Tier   Tier     `json:"tier"`
	Text   []string `json:"text"`
	Origin []string `json:"origin"`
	While  string   `json:"while,omitempty"` // the condition that keeps it in force
}

// Line is one labelled line of an explanation's text.
type Line struct {
	What string `json:"what"`
	Text string `json:"text"`
}

// Explain answers for a flow from one peer to another on one port. A peer is a
// service ("shop/db", or "db" where one service has that name), a container's
// name or id, an identity ("#64"), a peer of section 1 ("@internet") or an
// address. With an application, the first of its forms that passes is judged
// (plain, upgraded, inside TLS), else the plain one; with AppNone the answer
// says what may be spoken. The error says what could not be found.
func Explain(t *Table, from, to string, port PortRange, app App) (Explanation, error) {
	return ExplainAs(t, from, to, port, Spoken{App: app}, true)
}

// ExplainName is Explain for a flow to an address outside that a name leads to,
// and that says it is for that name. Nobody else may use the table meanwhile.
func ExplainName(t *Table, from, name string, port PortRange, s Spoken, anyForm bool) (Explanation, error) {
	t = t.Whole()
	x, err := newQuestion(t, from, "@internet", port)
	if err != nil {
		return Explanation{}, err
	}
	d := at(t.spansToName(x.from, x.to, x.proto, name), x.own)
	if d == nil {
		d = t.unruled[t.peers[x.from].class][t.peers[x.to].class]
	}
	out := x.answer(d, s, anyForm, ServerName{State: NameGiven, Text: []byte(name)})
	out.To = "name:" + name
	return out, nil
}

// ExplainAs is Explain for a flow that speaks s; with anyForm, in whichever of
// the forms of its application passes.
func ExplainAs(t *Table, from, to string, port PortRange, s Spoken, anyForm bool) (Explanation, error) {
	t = t.Whole()
	x, err := newQuestion(t, from, to, port)
	if err != nil {
		return Explanation{}, err
	}
	return x.answer(t.decide(x.from, x.to, x.proto, x.own), s, anyForm, ServerName{}), nil
}

// question is a flow between two peers as people name them.
type question struct {
	table      *Table
	from, to   uint32
	proto      Proto
	asked, own uint16
}

func (x *question) answer(d *Decision, s Spoken, anyForm bool, server ServerName) Explanation {
	if anyForm && s.App != AppNone {
		s = d.likeliest(s.App, server)
	}
	return x.table.explain(x.from, x.to, x.proto, x.asked, x.own, d, s, server)
}

func newQuestion(t *Table, from, to string, port PortRange) (*question, error) {
	if problem := port.problem(); problem != "" {
		return nil, fmt.Errorf("port %s: %s", port, problem)
	}
	if port.Lo != port.Hi {
		return nil, fmt.Errorf("port %s: explain one port at a time", port)
	}
	f, err := t.find(from)
	if err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	d, err := t.find(to)
	if err != nil {
		return nil, fmt.Errorf("to: %w", err)
	}
	q := Query{Proto: port.Proto.normal(), DstPort: port.Lo}
	q.Zone, q.Src = t.standIn(f, d)
	if f.ip.IsValid() {
		f.who, _ = t.resolver.source(q.Zone, addressOf(&q.Src))
	}
	own := port.Lo
	if d.ip.IsValid() {
		q.Dst = d.ip.As16()
		_, d.who, own = t.resolver.peers(&q)
	} else if at := t.sightings(d); len(at) > 0 {
		d.who = t.placed(d.who, at[0].ip)
	}
	if q.Src != ([16]byte{}) {
		f.who = t.placed(f.who, netip.AddrFrom16(q.Src))
	}
	f.who, d.who = t.somewhere(f.who), t.somewhere(d.who)
	return &question{t, f.who, d.who, q.Proto, port.Lo, own}, nil
}

// ExplainFlow answers for a flow as it was seen at a hook, with what it said of
// the server that it is for.
func ExplainFlow(t *Table, q Query, s Spoken, server ServerName) Explanation {
	q.Proto = q.Proto.normal()
	if t.NameUse(q) == nil { // else what was learned is t's
		t = t.Whole()
	}
	from, to, port := t.resolver.peers(&q)
	return t.explain(from, to, q.Proto, q.DstPort, port, t.lookup(&q, nil), s, server)
}

// CutsHost reports whether a statement of the operator's denies the host a call, in some
// network that the address is in. It takes no longer than a few lookups.
func (t *Table) CutsHost(at netip.AddrPort) bool {
	r, a := &t.resolver, addressFrom(at.Addr())
	host := t.somewhere(uint32(IDHost))
	cuts := func(zone Zone) bool {
		to, port := r.destination(&Query{Zone: zone, Proto: ProtoTCP, DstPort: at.Port()}, a, 0)
		d := t.decide(host, t.somewhere(to), ProtoTCP, port)
		j := d.Judge(d.likeliest(AppHTTP, ServerName{}))
		return j.Denied && j.Rule >= 0 && t.rules[j.Rule].Tier == TierOperator
	}
	if cuts(0) {
		return true
	}
	return slices.ContainsFunc(t.compiled.Networks, func(n Network) bool { return r.local.get(uint32(n.Zone), a) != 0 && cuts(n.Zone) })
}

// placed is the peer where prefixes of statements hold that address of it.
func (t *Table) placed(who uint32, ip netip.Addr) uint32 {
	return t.resolver.placed(who, addressFrom(ip))
}

// somewhere is a peer that is no workload and was named without an address: at an
// address that no prefix of a statement holds but one that holds all.
func (t *Table) somewhere(who uint32) uint32 {
	r := &t.resolver
	if r.regions == nil || who >= uint32(FirstWorkloadIdentity) {
		return who
	}
	region, ok := r.regions.longest.Get(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	if v := r.variants.get(variantKey{who, region}); ok && v != 0 {
		return v
	}
	return who
}

// likeliest is the first form of an application in which the flow passes, else
// the plain one.
func (d *Decision) likeliest(a App, server ServerName) Spoken {
	for _, s := range forms(a) {
		if _, tunnel := s.Tunnelled(); tunnel {
			continue
		}
		if !d.JudgeServer(s, server).Denied {
			return s
		}
	}
	return Spoken{App: a}
}

// found is what a name stands for: a dense number, or an address to resolve.
type found struct {
	who      uint32
	workload *Workload // where a container was named
	ip       netip.Addr
}

func (t *Table) find(name string) (found, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return found{ip: ip.WithZone("")}, nil
	}
	if strings.HasPrefix(name, "@") {
		for id, n := range identityNames {
			if n == name && id < IDEverybody {
				return found{who: uint32(id)}, nil
			}
		}
		return found{}, fmt.Errorf("%s is not one peer: want @host, @node, @resolver, @metadata, @orchestrator, @multicast, @broadcast, @site, @internet, @lb or @ingress", name)
	}
	if i := strings.LastIndexByte(name, '#'); i >= 0 {
		n, err := strconv.ParseUint(name[i+1:], 10, 32)
		if dense, ok := t.byIdentity.Get(Identity(n)); ok && err == nil {
			return found{who: dense}, nil
		}
		return found{}, fmt.Errorf("no service has the identity %s", name[i:])
	}
	return t.findWorkload(name)
}

func (t *Table) findWorkload(name string) (found, error) {
	var byKey, byName []uint32
	for i := range t.groups {
		k, dense := t.groups[i].Service, uint32(FirstWorkloadIdentity)+uint32(i)
		switch name {
		case k.String():
			byKey = append(byKey, dense)
		case k.Name:
			byName = append(byName, dense)
		}
	}
	if len(byKey) == 0 {
		byKey = byName
	}
	switch {
	case len(byKey) == 1:
		return found{who: byKey[0]}, nil
	case len(byKey) > 1:
		var names []string
		for _, d := range byKey {
			names = append(names, fmt.Sprintf("%s#%d", t.groups[d-uint32(FirstWorkloadIdentity)].Service, t.ids[d]))
		}
		return found{}, fmt.Errorf("%q is several: say which of %s", name, strings.Join(names, ", "))
	}
	const shortID = 12 // characters of an id that the engine prints
	snapshot := t.snapshot()
	for i := range snapshot.Workloads {
		w := &snapshot.Workloads[i]
		if w.Name == name || len(name) >= shortID && strings.HasPrefix(w.ID, name) {
			for d, g := range t.groups {
				if slices.Contains(g.Members, w.ID) {
					return found{who: uint32(FirstWorkloadIdentity) + uint32(d), workload: w}, nil
				}
			}
		}
	}
	var there []string
	for i := range t.groups {
		there = append(there, t.groups[i].Service.String())
	}
	return found{}, fmt.Errorf("no service, container, peer or address is called %q%s", name, Meant(name, there))
}

// standIn picks where the flow would be seen: the zone, and an address of the
// initiator, on the network that it has in common with the responder if there
// is one.
func (t *Table) standIn(from, to found) (Zone, [16]byte) {
	var first *sighting
	for _, s := range t.sightings(from) {
		if first == nil {
			first = &s
		}
		if !to.ip.IsValid() {
			break
		}
		for _, p := range s.network.Subnets {
			if p.Contains(to.ip) {
				return s.network.Zone, s.ip.As16()
			}
		}
	}
	if first != nil {
		return first.network.Zone, first.ip.As16()
	}
	var src [16]byte
	if from.ip.IsValid() {
		src = from.ip.As16()
	}
	if s := t.sightings(to); len(s) > 0 {
		return s[0].network.Zone, src
	}
	return 0, src
}

type sighting struct {
	network *Network
	ip      netip.Addr
}

// sightings lists where the endpoints of what was found are.
func (t *Table) sightings(f found) []sighting {
	snapshot := t.snapshot()
	networks := make(map[string]*Network, len(snapshot.Networks))
	for i := range snapshot.Networks {
		networks[snapshot.Networks[i].ID] = &snapshot.Networks[i]
	}
	var members []string
	if f.who >= uint32(FirstWorkloadIdentity) {
		members = t.groups[f.who-uint32(FirstWorkloadIdentity)].Members
	}
	var out []sighting
	for i := range snapshot.Workloads {
		w := &snapshot.Workloads[i]
		if w.SharedWith != "" || f.workload != nil && f.workload != w || !f.ip.IsValid() && !slices.Contains(members, w.ID) {
			continue
		}
		for _, e := range w.Endpoints {
			for _, ip := range e.Addresses {
				if n := networks[e.Network]; n != nil && (!f.ip.IsValid() || ip.Unmap() == f.ip.Unmap()) {
					out = append(out, sighting{n, ip})
				}
			}
		}
	}
	return out
}

func (t *Table) explain(from, to uint32, proto Proto, asked, own uint16, d *Decision, s Spoken, server ServerName) Explanation {
	j := d.JudgeServer(s, server)
	x := Explanation{
		Epoch: t.epoch,
		From:  t.IdentityName(t.ids[from]), FromIdentity: t.ids[from],
		To: t.IdentityName(t.ids[to]), ToIdentity: t.ids[to],
		Asked: Port(proto, asked), Port: Port(proto, own),
		Verdict: j.Verdict, Denied: j.Denied, Reason: j.Reason,
		Allowed: []string{}, Pending: t.pendingBetween(from, to), Change: []string{},
	}
	if s.App != AppNone {
		x.App = s.String()
	} else if d.Verdict() == Undecided {
		x.Verdict, x.Denied, x.Reason = Undecided, false, ReasonNone
	}
	for _, m := range d.Apps() {
		for _, text := range m.Texts() {
			if !slices.Contains(x.Allowed, text) {
				x.Allowed = append(x.Allowed, text)
			}
		}
	}
	if server.State == NameGiven {
		x.Server = string(server.Text)
	}
	x.Names = d.names()
	x.Sides = []SideSay{
		t.sideSay(SideOut, from, &d.out, d, s, server),
		t.sideSay(SideIn, to, &d.in, d, s, server),
	}
	x.Change = t.changes(&x, from, to)
	return x
}

// String is how the form is written in statements; of a tunnel it is both
// protocols, as in "http+ssh".
func (s Spoken) String() string {
	name := s.App.String()
	if s.Sub != AppNone {
		name = s.Sub.String()
	}
	_, tunnel := s.Tunnelled()
	switch {
	case tunnel:
		return name + "+" + s.Inner.String()
	case s.Inner == AppTLS:
		return name + "+starttls"
	case (s.App == AppTLS || s.App == AppDTLS) && s.ALPN != AppNone:
		return name + "(" + s.ALPN.String() + ")"
	}
	return name
}

func (t *Table) sideSay(side Side, who uint32, sd *sideDecision, d *Decision, s Spoken, server ServerName) SideSay {
	a := sd.ask(s, server)
	say := SideSay{Side: side, Peer: t.IdentityName(t.ids[who]), Guarded: sd.guarded, Mode: sd.mode, Answer: "yes", Reason: a.reason, Rule: a.rule}
	if a.no {
		say.Answer = "no"
	}
	if s.App == AppNone {
		for _, other := range d.spoken() {
			if sd.ask(other, server).no != a.no {
				say.Answer, say.Reason, say.Rule = "depends on the application", ReasonNone, -1
				break
			}
		}
	}
	if g, ok := t.Group(t.ids[who]); ok {
		say.Model, say.Reasons, say.Mode = fmt.Sprintf("%s@%d", g.Model, g.Revision), g.Reasons, g.Mode
	}
	if say.Rule < 0 && say.Answer != "no" {
		for _, tm := range sd.terms { // what an application would have to fit
			if tm.verdict == Allow {
				say.Rule = tm.rule
				break
			}
		}
	}
	if say.Rule >= 0 {
		st := t.statements[t.rules[say.Rule].Statement]
		say.Statement = &StatementSay{st.ID, st.Tier, st.Lines(false), append([]string{}, st.Origin...), st.While}
	}
	return say
}

// pendingBetween lists pending statements that name one of these two, and
// whose other end is the other or not compiled yet.
func (t *Table) pendingBetween(from, to uint32) []string {
	out := []string{}
	for _, s := range t.statements {
		if s.Pending != "" && t.mayMean(s.From, from) && t.mayMean(s.To, to) {
			for _, line := range s.Lines(false) {
				out = append(out, line+"  (waits for "+s.Pending+")")
			}
		}
	}
	return out
}

// mayMean reports whether one of the peers is, or may turn out to be, who.
func (t *Table) mayMean(peers []Peer, who uint32) bool {
	id := t.ids[who]
	outside := id == IDSite || id == IDInternet
	for _, p := range peers {
		switch p.Kind {
		case PeerService:
			if g, ok := t.Group(id); ok && g.Service == p.Service && (p.Identity == 0 || p.Identity == id) {
				return true
			}
		case PeerSelector:
			if p.Selected != nil && (slices.Contains(p.Selected.Identities, id) || outside && len(p.Selected.Prefixes) > 0) {
				return true
			}
		case PeerName, PeerCIDR, PeerExternal:
			if outside {
				return true
			}
		case PeerWorkload, PeerAny, PeerEverybody:
			if t.peers[who].class.isIn(uint32(peerIdentity[p.Kind])) {
				return true
			}
		default:
			if p.Kind != PeerNone && int(p.Kind) < len(peerIdentity) && peerIdentity[p.Kind] == id {
				return true
			}
		}
	}
	return false
}

// changes says what a person can do to get the other answer.
func (t *Table) changes(x *Explanation, from, to uint32) []string {
	out := []string{}
	for i := range x.Sides {
		say := &x.Sides[i]
		if say.Answer != "no" {
			continue
		}
		out = append(out, t.changeOf(x, say, from, to))
		switch {
		case say.Mode == Observe && x.Verdict == Allow:
			out = append(out, fmt.Sprintf("%s is in observe mode, so this is only recorded; `gatehouse mode %s enforce` drops it", say.Peer, say.Peer))
		case say.Mode == Enforce && say.Guarded:
			out = append(out, fmt.Sprintf("until then `gatehouse mode %s observe` records it instead of dropping it", say.Peer))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (t *Table) changeOf(x *Explanation, say *SideSay, from, to uint32) string {
	switch say.Reason {
	case ReasonDenied:
		if subject, ok := quarantineOf(say.Statement.ID); ok {
			return fmt.Sprintf("%s is in quarantine: `gatehouse release %s` ends it", subject, subject)
		}
		return fmt.Sprintf("statement %q (%s) denies it: change or remove that statement", say.Statement.ID, strings.Join(say.Statement.Origin, "; "))
	case ReasonApp, ReasonAppUnknown:
		return fmt.Sprintf("on %s %s and %s may speak only %s: let them speak that, or give %s a model that serves what they speak", x.Port, x.From, x.To, orNothing(x.Allowed), x.To)
	case ReasonNameMismatch:
		asks := "does not say which server it is for"
		if x.Server != "" {
			asks = "asks the server for " + x.Server
		}
		return fmt.Sprintf("%s may go there as %s, and %s: let a statement name that too if it is wanted", x.From, strings.Join(x.Names, ", "), asks)
	case ReasonUnknownPeer:
		return "an address in a container network that no known container has: see with `gatehouse get workloads` whether the engine has told of it"
	case ReasonMulticast:
		return "multicast and broadcast pass only where a statement names them"
	}
	return t.changeRelation(x, from, to)
}

// quarantineOf is who is cut off by a statement of that id.
func quarantineOf(id string) (string, bool) {
	way, ok := strings.CutPrefix(id, "quarantine-")
	_, subject, _ := strings.Cut(way, "-")
	return subject, ok
}

// changeRelation is the advice where no statement relates the two at all.
func (t *Table) changeRelation(x *Explanation, from, to uint32) string {
	caller, isCaller := t.Group(t.ids[from])
	callee, isCallee := t.Group(t.ids[to])
	switch {
	case isCaller && isCallee && caller.Service.Project != callee.Service.Project:
		return fmt.Sprintf("%s and %s are of different projects: have both on one network, and name %s in an environment variable of %s, such as SERVICE_URL", x.From, x.To, x.To, x.From)
	case isCaller && isCallee:
		return fmt.Sprintf("nothing says that %s calls %s on %s: name it in the environment, the command or the depends_on of %s, which counts as far as the models of both let it (%s has to serve %s to it); else it needs a label or a statement", x.From, x.To, x.Port, x.From, callee.Model, x.Port)
	case isCallee:
		return fmt.Sprintf("%s is not offered to %s: publish %s of %s on the host, as far as the model %s lets it be published", x.Port, x.From, x.Port, x.To, callee.Model)
	case isCaller && (t.ids[to] == IDSite || t.ids[to] == IDInternet):
		return fmt.Sprintf("nothing says that %s (model %s) calls %s: name the host in an environment variable of %s, such as SERVICE_URL", x.From, caller.Model, x.To, x.From)
	}
	return fmt.Sprintf("nothing implies a way from %s to %s: it needs a statement that names both", x.From, x.To)
}

func orNothing(texts []string) string {
	if len(texts) == 0 {
		return "nothing"
	}
	return strings.Join(texts, ", ")
}

// Lines is the explanation as labelled lines, most important first.
func (x *Explanation) Lines() []Line {
	var out []Line
	add := func(what, format string, args ...any) { out = append(out, Line{what, fmt.Sprintf(format, args...)}) }
	flow := fmt.Sprintf("%s -> %s : %s", x.From, x.To, x.Port)
	if x.App != "" {
		flow = fmt.Sprintf("%s -> %s : %s %s", x.From, x.To, x.App, x.Port)
	}
	if x.Asked != x.Port {
		flow += fmt.Sprintf(" (behind %s)", x.Asked)
	}
	add("flow", "%s", flow)
	switch {
	case x.Verdict == Undecided:
		add("verdict", "depends on the application")
	case x.Denied && x.Verdict == Allow:
		add("verdict", "recorded only (%s)", x.Reason)
	case x.Denied:
		add("verdict", "%s (%s)", x.Verdict, x.Reason)
	default:
		add("verdict", "%s", x.Verdict)
	}
	add("may speak", "%s", orNothing(x.Allowed))
	if len(x.Names) > 0 {
		add("by the name", "%s", strings.Join(x.Names, ", "))
	}
	if x.Server != "" && x.To != "name:"+x.Server {
		add("asks for", "%s", x.Server)
	}
	for _, s := range x.Sides {
		s.lines(add)
	}
	for _, p := range x.Pending {
		add("pending", "%s", p)
	}
	for _, c := range x.Change {
		add("to change", "%s", c)
	}
	return out
}

func (s *SideSay) lines(add func(what, format string, args ...any)) {
	what := s.Side.String() + " of " + s.Peer
	if !s.Guarded {
		add(what, "yes: it is not guarded")
		return
	}
	text := fmt.Sprintf("%s, mode %s", s.Answer, s.Mode)
	if s.Reason != ReasonNone {
		text += ", " + s.Reason.String()
	}
	add(what, "%s", text)
	if s.Statement != nil {
		for _, line := range s.Statement.Text {
			add("  statement", "%s  # %s (%s)", line, strings.Join(s.Statement.Origin, "; "), s.Statement.Tier)
		}
	}
	if s.Statement != nil && s.Statement.While != "" {
		add("  while", "%s", s.Statement.While)
	}
	add("  model", "%s: %s", s.Model, strings.Join(s.Reasons, "; "))
}

// Text is the explanation as people read it.
func (x *Explanation) Text() string {
	var b strings.Builder
	for _, l := range x.Lines() {
		fmt.Fprintf(&b, "%-24s %s\n", l.What, l.Text)
	}
	return b.String()
}

// Package suggest turns recorded flows that policy does not allow into
// statements that a person may accept, and names statements that nothing used.
// It applies nothing. Pure: no I/O, no goroutines; cmd asks it, with records of
// the history and a compiled table.
package suggest

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/control/history"
	"gatehouse/policy"
)

// Peer is one end as the file of statements writes it: exactly one key is set.
type Peer struct {
	Service string `json:"service,omitempty" yaml:"service,omitempty"`
	Name    string `json:"name,omitempty" yaml:"name,omitempty"`
	CIDR    string `json:"cidr,omitempty" yaml:"cidr,omitempty"`
	Peer    string `json:"peer,omitempty" yaml:"peer,omitempty"`
}

func (p Peer) String() string {
	return cmp.Or(p.Service, prefixed("name:", p.Name), prefixed("cidr:", p.CIDR), prefixed("@", p.Peer))
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// Statement is one of schema gatehouse.statements/v1.
type Statement struct {
	ID      string   `json:"id" yaml:"id"`
	Verdict string   `json:"verdict" yaml:"verdict"`
	From    []Peer   `json:"from" yaml:"from"`
	To      []Peer   `json:"to" yaml:"to"`
	App     []string `json:"app" yaml:"app"`
	TLS     string   `json:"tls,omitempty" yaml:"tls,omitempty"`
	Ports   []string `json:"ports" yaml:"ports"`
	Why     string   `json:"why" yaml:"why"`
}

// Suggestion is a statement that would let recorded flows pass.
type Suggestion struct {
	Statement Statement `json:"statement"`
	// Doubts say why a person should look twice; one with doubts is not to be
	// offered by default.
	Doubts []string  `json:"doubts"`
	Flows  uint64    `json:"flows"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Unused is a statement that no recorded flow needed.
type Unused struct {
	ID     string   `json:"id"`
	Text   []string `json:"text"`
	Origin []string `json:"origin"`
}

// Answer is what Make found.
type Answer struct {
	Suggestions []Suggestion `json:"suggestions"` // those without doubts first, then by flows
	Unused      []Unused     `json:"unused"`
	// Inexpressible counts flows that no statement can allow: an end that is
	// nobody's, packets that cannot be judged.
	Inexpressible uint64 `json:"inexpressible"`
}

// Bounds of what passes without doubts.
const (
	manyTargets  = 16 // addresses and ports that one caller tries in vain
	manyPorts    = 4  // in one statement
	manySources  = 16 // outside addresses in one statement
	scanPackets  = 4  // a conversation of fewer packets has said nothing
	idCharacters = 60
)

// Make reads records of flows by today's table. service, if not "", keeps only
// what it takes part in. speaks are the applications that models have a service
// serve on a port (models.Population.Spoken): one alone stands for what was not read
// there.
func Make(t *policy.Table, records []*history.Record, service string, speaks func(service policy.ServiceKey, port policy.PortRange) []policy.AppMatch) Answer {
	t = t.Whole()
	m := maker{replayer: policy.NewReplayer(t), table: t, used: make(map[int]bool), groups: make(map[groupKey]*group), targets: make(map[string]map[target]bool), ids: make(map[string]bool),
		speaks: speaks, spoken: make(map[spot]policy.AppMatch)}
	for _, s := range t.Statements() {
		m.ids[s.ID] = true
	}
	m.served = servedBy(t)
	for _, r := range records {
		m.add(r, service)
	}
	return Answer{Suggestions: m.suggestions(), Unused: m.unused(service), Inexpressible: m.inexpressible}
}

type maker struct {
	table         *policy.Table
	replayer      *policy.Replayer
	used          map[int]bool // statements, by index
	groups        map[groupKey]*group
	targets       map[string]map[target]bool // what a caller tries in vain
	ids           map[string]bool
	served        map[string][]*policy.Rule // what is allowed to each service
	speaks        func(service policy.ServiceKey, port policy.PortRange) []policy.AppMatch
	spoken        map[spot]policy.AppMatch // its answers; AppNone where it is not one application
	inexpressible uint64
}

// spot is a port of a service.
type spot struct {
	service policy.ServiceKey
	port    policy.PortRange
}

type target struct {
	addr netip.Addr
	port uint16
}

// groupKey is what one statement is about; outside callers share one.
type groupKey struct {
	from, to Peer
	app      policy.App // AppNone = never seen
	outside  bool       // from is an address
}

type group struct {
	key         groupKey
	callers     map[string]bool // for targets
	sources     []Peer          // of outside callers
	forms       policy.TLSForms
	ports       []policy.PortRange
	doubts      map[string]bool
	flows       uint64
	packets     uint64
	unread      uint64 // of flows: that they speak app is the model's word
	passed      bool   // some of it was let by
	answered    bool
	first, last time.Time
}

func (m *maker) add(r *history.Record, service string) {
	f := Recorded(r)
	j := m.replayer.Judge(&f)
	if j.Unknown != "" {
		return // who it was is not here now
	}
	if r.Reason == policy.ReasonNameRefused {
		m.addLookup(r, service)
		return
	}
	side, _ := j.Deciding(nil)
	for _, s := range j.Sides {
		if s.Statement >= 0 && !s.No {
			m.used[s.Statement] = true
		}
	}
	if j.Depends(nil) { // it may be allowed by now
		return
	}
	if side == nil || service != "" && r.From.Name != service && r.To.Name != service {
		return
	}
	from, okFrom := peerOf(&r.From, r.Src, "")
	to, okTo := peerOf(&r.To, r.Dst, r.Name)
	if !okFrom || !okTo || r.Summed || portless(r) {
		m.inexpressible += f.Flows
		return
	}
	caller := cmp.Or(r.From.Service.String(), r.Src.String())
	if m.targets[caller] == nil {
		m.targets[caller] = make(map[target]bool)
	}
	if f.Packets < scanPackets*f.Flows {
		m.targets[caller][target{r.Dst, r.DstPort}] = true
	}
	app, form := appOf(r.Spoken)
	unread := uint64(0)
	if r.Spoken.App == policy.AppNone {
		if only := m.onlySpoken(r); only.App != policy.AppNone {
			app, form, unread = only.App, only.Forms, f.Flows
		}
	}
	k := groupKey{from: from, to: to, app: app, outside: from.CIDR != ""}
	if k.outside {
		k.from = Peer{}
	}
	g := m.groupOf(k, r)
	g.add(r, &f, from, caller, form)
	g.unread += unread
	m.doubt(g, r, side)
}

// onlySpoken is the one application that the callee's models have it serve on the
// port of r; AppNone where they name none, several, or any.
func (m *maker) onlySpoken(r *history.Record) policy.AppMatch {
	if r.To.Service.Name == "" {
		return policy.AppMatch{}
	}
	at := spot{r.To.Service, policy.Port(normal(r.Proto), r.Port)}
	only, known := m.spoken[at]
	if !known {
		if all := m.speaks(at.service, at.port); len(all) == 1 && !all[0].Any {
			only = all[0]
		}
		m.spoken[at] = only
	}
	return only
}

func (m *maker) groupOf(k groupKey, r *history.Record) *group {
	g := m.groups[k]
	if g == nil {
		g = &group{key: k, callers: make(map[string]bool), doubts: make(map[string]bool), first: r.First, last: r.Last}
		m.groups[k] = g
	}
	return g
}

// addLookup is for a query of a name that no statement lets the workload reach
// (R18). What it would have spoken there is not known.
func (m *maker) addLookup(r *history.Record, service string) {
	asker := m.table.AskerOf(r.Workload[0])
	if asker >= 0 && m.table.MayAsk(asker, r.Name) || service != "" && r.From.Name != service {
		return
	}
	from, ok := peerOf(&r.From, r.Src, "")
	if !ok || !isHostName(r.Name) {
		m.inexpressible += max(r.Flows, 1)
		return
	}
	https := *r
	https.Proto, https.Port = policy.ProtoTCP, 443
	app, form := appOf(policy.Spoken{App: policy.AppTLS, ALPN: policy.AppHTTP})
	f := Recorded(&https)
	g := m.groupOf(groupKey{from: from, to: Peer{Name: strings.ToLower(strings.TrimSuffix(r.Name, "."))}, app: app}, r)
	g.add(&https, &f, from, r.From.Name, form)
	g.doubts["only its lookup was seen: that it wants HTTPS there is a guess"] = true
}

// portless reports whether no statement can name r's port: those of TCP and UDP
// begin at 1.
func portless(r *history.Record) bool { return r.Port == 0 && normal(r.Proto) != policy.ProtoICMP }

func (g *group) add(r *history.Record, f *policy.Recorded, from Peer, caller string, form policy.TLSForms) {
	g.callers[caller] = true
	g.forms |= form
	if p := policy.Port(normal(r.Proto), r.Port); !slices.Contains(g.ports, p) {
		g.ports = append(g.ports, p)
	}
	if g.key.outside && !slices.Contains(g.sources, from) {
		g.sources = append(g.sources, from)
	}
	g.flows += f.Flows
	g.packets += f.Packets
	g.passed = g.passed || f.Passed
	g.answered = g.answered || r.Packets[1] > 0
	if r.First.Before(g.first) {
		g.first = r.First
	}
	if r.Last.After(g.last) {
		g.last = r.Last
	}
}

// normal is the protocol that statements name for both families.
func normal(p policy.Proto) policy.Proto {
	if p == policy.ProtoICMPv6 {
		return policy.ProtoICMP
	}
	return p
}

// doubt notes what one record casts on its group.
func (m *maker) doubt(g *group, r *history.Record, side *policy.ReplayedSide) {
	switch side.Reason {
	case policy.ReasonDenied:
		g.doubts["a statement denies it, and an allow does not beat that: "+m.textOf(side.Statement)] = true
	case policy.ReasonApp, policy.ReasonAppUnknown:
		g.doubts["something else is allowed there: what is spoken does not fit"] = true
	case policy.ReasonUnknownPeer, policy.ReasonMulticast:
		g.doubts["nothing needs this by default: "+side.Reason.String()] = true
	}
	switch r.Reason {
	case policy.ReasonProtocolMismatch, policy.ReasonConflict:
		g.doubts["its two sides did not speak one protocol: "+r.Reason.String()] = true
	}
	if _, tunnel := r.Spoken.Tunnelled(); tunnel {
		g.doubts["a tunnel: what it carries is what a statement must name"] = true
	}
	if from, to := r.From.Service, r.To.Service; from.Name != "" && to.Name != "" && from.Project != to.Project {
		g.doubts["its ends are of two projects: a stranger that calls looks the same"] = true
	}
	if len(g.ports) > manyPorts {
		g.doubts["many ports"] = true
	}
	for _, p := range [...]Peer{g.key.from, g.key.to} {
		switch p.Peer {
		case "metadata", "orchestrator", "host", "node", "multicast", "broadcast":
			g.doubts["@"+p.Peer+" is not for containers as a rule"] = true
		}
	}
}

func (m *maker) textOf(statement int) string {
	if statement < 0 {
		return "?"
	}
	return strings.Join(m.table.Statements()[statement].Lines(false), "; ")
}

// peerOf is the narrowest peer that a statement can name for an end. A private
// address is proposed as itself: a name leads to one only where a person says so
// (N4), so that a statement to the name would not let the flow pass.
func peerOf(p *history.Party, a netip.Addr, name string) (Peer, bool) {
	if p.Service.Name != "" {
		return Peer{Service: p.Service.String()}, true
	}
	switch p.Name {
	case "@internet", "@site":
		switch {
		case p.Name == "@internet" && isHostName(name):
			return Peer{Name: strings.ToLower(strings.TrimSuffix(name, "."))}, true
		case a.IsValid():
			return Peer{CIDR: netip.PrefixFrom(a, a.BitLen()).String()}, true
		}
		return Peer{}, false
	case "@host", "@node", "@resolver", "@metadata", "@orchestrator", "@multicast", "@broadcast", "@ingress":
		return Peer{Peer: p.Name[1:]}, true
	}
	return Peer{}, false
}

// isHostName: letters, digits, hyphens, and a dot; what a flow says of itself
// may be anything.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		ok := label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		if !ok || strings.IndexFunc(label, func(r rune) bool {
			return (r|0x20 < 'a' || r|0x20 > 'z') && (r < '0' || r > '9') && r != '-'
		}) >= 0 {
			return false
		}
	}
	return true
}

// appOf is what a statement must name for a flow that speaks s, and in which
// form; AppNone where app-ID has no name.
func appOf(s policy.Spoken) (policy.App, policy.TLSForms) {
	if inner, ok := s.Tunnelled(); ok {
		s = inner
	}
	switch {
	case s.App == policy.AppNone || s.App == policy.AppUnknown:
		return policy.AppNone, 0
	case (s.App == policy.AppTLS || s.App == policy.AppDTLS) && s.ALPN != policy.AppNone && s.ALPN != policy.AppUnknown:
		return httpOf(s.ALPN), policy.TLSDirect
	case s.Inner == policy.AppTLS:
		return s.App, policy.TLSUpgraded
	case s.Sub != policy.AppNone:
		return s.Sub, policy.TLSPlain
	}
	return httpOf(s.App), policy.TLSPlain
}

// httpOf takes the versions of HTTP for one: clients choose anew each time.
func httpOf(a policy.App) policy.App {
	if a == policy.AppHTTP2 {
		return policy.AppHTTP
	}
	return a
}

// tlsWord is the schema's word for the forms that were seen, the narrowest that
// holds them.
func tlsWord(forms policy.TLSForms) string {
	switch {
	case forms == policy.TLSDirect:
		return "only"
	case forms&policy.TLSDirect != 0:
		return "optional"
	case forms&policy.TLSUpgraded != 0:
		return "starttls"
	}
	return ""
}

func (m *maker) suggestions() []Suggestion {
	out := []Suggestion{}
	for _, g := range m.groups {
		out = append(out, m.suggestion(g))
	}
	slices.SortFunc(out, func(a, b Suggestion) int {
		return cmp.Or(cmp.Compare(min(len(a.Doubts), 1), min(len(b.Doubts), 1)), cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.base(), b.base()), cmp.Compare(a.Statement.Why, b.Statement.Why))
	})
	for i := range out {
		out[i].Statement.ID = m.unique(out[i].base())
	}
	return out
}

func (m *maker) suggestion(g *group) Suggestion {
	for caller := range g.callers {
		if n := len(m.targets[caller]); n > manyTargets {
			g.doubts[fmt.Sprintf("%s tried %d addresses and ports in vain: a scan looks like that", caller, n)] = true
		}
	}
	switch {
	case g.passed && !g.answered:
		g.doubts["it was let by, and never answered"] = true
	case !g.passed:
		g.doubts["it was dropped, and so never answered: that it was tried shows nothing"] = true
	}
	if others := m.spokenThere(g); len(others) > 0 {
		g.doubts[fmt.Sprintf("others may speak %s there, and this is %s", strings.Join(others, ", "), g.key.app)] = true
	}
	s := Statement{Verdict: "allow", From: []Peer{g.key.from}, To: []Peer{g.key.to}, Why: g.why()}
	if g.key.outside {
		s.From = g.sources
		slices.SortFunc(s.From, func(a, b Peer) int { return cmp.Compare(a.CIDR, b.CIDR) })
		if len(s.From) > manySources {
			g.doubts["many addresses outside call: publish the port as its model says, or allow {peer: internet}"] = true
		}
	}
	if g.key.app == policy.AppNone {
		g.doubts["what is spoken there was not seen: app any would let everything pass"] = true
		s.App = []string{"any"}
	} else {
		s.App, s.TLS = []string{g.key.app.String()}, tlsWord(g.forms)
	}
	slices.SortFunc(g.ports, func(a, b policy.PortRange) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Lo, b.Lo))
	})
	for _, p := range g.ports {
		s.Ports = append(s.Ports, p.String())
	}
	out := Suggestion{Statement: s, Doubts: []string{}, Flows: g.flows, First: g.first, Last: g.last}
	for d := range g.doubts {
		out.Doubts = append(out.Doubts, d)
	}
	slices.Sort(out.Doubts)
	return out
}

// servedBy is what is allowed to each service by name.
func servedBy(t *policy.Table) map[string][]*policy.Rule {
	out := make(map[string][]*policy.Rule)
	rules := t.Rules()
	for i := range rules {
		r := &rules[i]
		if g, ok := t.Group(r.To); ok && r.Verdict == policy.Allow {
			out[g.Service.String()] = append(out[g.Service.String()], r)
		}
	}
	return out
}

// spokenThere is what others may speak with the callee on the group's ports; none
// where that is nothing, or what the group speaks, or TLS hides it.
func (m *maker) spokenThere(g *group) []string {
	app := g.key.app
	if app == policy.AppNone || app == policy.AppTLS || app == policy.AppDTLS {
		return nil
	}
	var out []string
	for _, r := range m.served[g.key.to.Service] {
		if !slices.ContainsFunc(g.ports, func(p policy.PortRange) bool {
			return p.Proto == r.Ports.Proto && p.Lo >= r.Ports.Lo && p.Hi <= r.Ports.Hi
		}) {
			continue
		}
		if r.App.Any || app.Is(r.App.App) || r.App.App.Is(app) {
			return nil
		}
		out = append(out, r.App.App.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (g *group) why() string {
	what := "dropped"
	if g.passed {
		what = "recorded, not dropped"
	}
	if g.unread > 0 && g.unread == g.flows {
		what += fmt.Sprintf("; not read, %s is what %s serves there", g.key.app, g.key.to)
	}
	day := "2006-01-02"
	first, last := g.first.UTC().Format(day), g.last.UTC().Format(day)
	when := fmt.Sprintf("%d times from %s to %s", g.flows, first, last)
	switch {
	case g.flows == 1:
		when = "once, on " + last
	case first == last:
		when = fmt.Sprintf("%d times on %s", g.flows, last)
	}
	return fmt.Sprintf("seen %s, %s: say what it is for", when, what)
}

// base is an id that says what the statement is about.
func (s *Suggestion) base() string {
	st := &s.Statement
	from := st.From[0].String()
	if len(st.From) > 1 {
		from = "outside"
	}
	id := "seen-" + strings.Join([]string{from, "to", st.To[0].String(), st.App[0], st.Ports[0]}, "-")
	id = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r | 0x20
		}
		return '-'
	}, id)
	for strings.Contains(id, "--") {
		id = strings.ReplaceAll(id, "--", "-")
	}
	return strings.Trim(id[:min(len(id), idCharacters)], "-")
}

// Line is the statement's text form.
func (s *Suggestion) Line() string {
	st := &s.Statement
	from := make([]string, len(st.From))
	for i, p := range st.From {
		from[i] = p.String()
	}
	app := strings.Join(st.App, ",")
	if st.TLS != "" {
		app += " tls " + st.TLS
	}
	return fmt.Sprintf("allow %s -> %s : %s %s", strings.Join(from, ","), st.To[0], app, strings.Join(st.Ports, ","))
}

func (m *maker) unique(base string) string {
	id := base
	for n := 2; m.ids[id]; n++ {
		id = base + "-" + strconv.Itoa(n)
	}
	m.ids[id] = true
	return id
}

func (m *maker) unused(service string) []Unused {
	out := []Unused{}
	for i, s := range m.table.Statements() {
		if m.used[i] || s.Pending != "" || s.Verdict != policy.Allow || service != "" && !names(s, service) {
			continue
		}
		out = append(out, Unused{ID: s.ID, Text: s.Lines(false), Origin: append([]string{}, s.Origin...)})
	}
	slices.SortStableFunc(out, func(a, b Unused) int { return cmp.Compare(strings.Join(a.Text, "\n"), strings.Join(b.Text, "\n")) })
	return out
}

// names reports whether a service is an end of the statement.
func names(s *policy.Statement, service string) bool {
	return slices.ContainsFunc(slices.Concat(s.From, s.To), func(p policy.Peer) bool { return p.Kind == policy.PeerService && p.Service.String() == service })
}

// Recorded is a record as policy judges it.
func Recorded(r *history.Record) policy.Recorded {
	return policy.Recorded{
		From: policy.RecordedEnd{Name: r.From.Name, Model: r.From.Model, Addr: r.Src}, To: policy.RecordedEnd{Name: r.To.Name, Model: r.To.Model, Addr: r.Dst},
		Zone: r.Zone, Proto: r.Proto, DstPort: cmp.Or(r.ControlPort, r.DstPort), Port: r.Port, Spoken: r.Spoken, Name: r.Name,
		Passed: r.Verdict == policy.Allow, Flows: max(r.Flows, 1), Packets: r.Packets[0] + r.Packets[1], First: r.First, Last: r.Last,
	}
}

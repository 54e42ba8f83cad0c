package operator

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

// slowLabel is what one label of a workload says: of its own flows to, or from, the
// peer.
type slowLabel struct {
	allow, egress bool
	peer          Term
	sameProject   bool // the peer is a service of the workload's project
	app           policy.AppMatch
	ports         policy.PortRange
	anyPort       bool
}

// slowTold is an address that a workload was told of a name.
type slowTold struct {
	workload, name string
	ip             netip.Addr
}

func slowNameFits(pattern, name string) bool {
	if domain, below := strings.CutPrefix(pattern, "*"); below {
		return strings.HasSuffix(name, domain) && name != domain
	}
	return pattern == name
}

// named: the caller knows the address by a name that the pattern means, the address
// may have names, and the server that the flow names is one of them.
func (r *slow) named(pattern string, within netip.Prefix, apps []policy.AppMatch, from, to slowEnd, spoken policy.Spoken) bool {
	known := from.w != nil && to.w == nil && slices.ContainsFunc(r.told, func(k slowTold) bool {
		return k.workload == from.w.ID && k.ip == to.ip && slowNameFits(pattern, k.name)
	})
	if !known || within.IsValid() && !within.Contains(to.ip) || !within.IsValid() && slowIsSite(to.ip) {
		return false
	}
	return slices.ContainsFunc(apps, func(m policy.AppMatch) bool {
		switch {
		case !m.Matches(spoken):
			return false
		case r.server.State == policy.NameGiven:
			return slowNameFits(pattern, string(r.server.Text))
		case r.server.State == policy.NameNone && m.Any:
			return !spoken.App.Is(policy.AppHTTP)
		case r.server.State == policy.NameNone:
			return !m.App.Is(policy.AppHTTP)
		}
		return r.server.State == policy.NameUnread
	})
}

// labelled: a label of either end speaks for that side (V2).
func (r *slow) labelled(allow, out bool, from, to slowEnd, port policy.PortRange, spoken policy.Spoken) bool {
	for _, egress := range []bool{true, false} {
		own, other := from, to
		if !egress {
			own, other = to, from
		}
		if own.w == nil {
			continue
		}
		for _, l := range r.labels[own.w.ID] {
			if l.allow != allow || l.egress != egress || out != egress && !l.sameProject || !l.anyPort && !l.ports.Contains(port.Proto, port.Lo) {
				continue
			}
			if l.peer.Name != "" {
				if r.named(l.peer.Name, netip.Prefix{}, []policy.AppMatch{l.app}, from, to, spoken) {
					return true
				}
				continue
			}
			if l.app.Matches(spoken) && r.fits(&l.peer, other, allow) {
				return true
			}
		}
	}
	return false
}

// modelled: a statement of a model allows it. Those are taken as they are: what
// models make of workloads is compared elsewhere.
func (r *slow) modelled(from, to slowEnd, port policy.PortRange, spoken policy.Spoken) bool {
	is := func(p policy.Peer, e slowEnd) bool {
		switch p.Kind {
		case policy.PeerService:
			return e.w != nil && e.w.Service == p.Service && (p.Identity == 0 || r.is[e.w.ID] == p.Identity)
		case policy.PeerSite, policy.PeerInternet, policy.PeerExternal, policy.PeerWorkload, policy.PeerAny:
			return r.fits(&Term{Peer: p.Kind}, e, true)
		case policy.PeerCIDR:
			return e.w == nil && p.Prefix.Contains(e.ip)
		}
		return false // of those no flow is
	}
	return slices.ContainsFunc(r.models, func(s policy.Statement) bool {
		onPort := slices.ContainsFunc(s.Ports, func(p policy.PortRange) bool { return p.Contains(port.Proto, port.Lo) })
		if !onPort || !is(s.From[0], from) {
			return false
		}
		if s.To[0].Kind == policy.PeerName {
			return r.named(s.To[0].Name, s.To[0].Prefix, []policy.AppMatch{s.App}, from, to, spoken)
		}
		return s.App.Matches(spoken) && is(s.To[0], to)
	})
}

var jointNames = []string{"api.example.com", "a.b.example.com", "example.com", "x.example.org"}

// jointName is a term that is a name.
func (d dice) jointName() Term {
	t := Term{Name: one(d, "api.example.com", "*.example.com", "example.com", "x.example.org")}
	if d.chance(20) {
		t.CIDR = netip.MustParsePrefix(one(d, "10.9.0.0/28", "198.51.100.0/29", "fd09::/120"))
	}
	return t
}

// jointStatement is a statement as a file may have it, some of them of names.
func (d dice) jointStatement(i int, now time.Time) Statement {
	s := d.statement(i, now)
	s.Why = "a test"
	switch {
	case s.Verdict == policy.Allow && d.chance(40):
		s.To = append(slices.Clone(s.To), d.jointName())
	case s.Verdict != policy.Allow && len(s.Except) > 0 && d.chance(50):
		s.Except[0].To = append(slices.Clone(s.Except[0].To), d.jointName())
	}
	s.Flows = s.Flows.written(s.Verdict == policy.Allow).decodable()
	for i := range s.Except {
		s.Except[i] = s.Except[i].written(true).decodable()
	}
	if w := s.When.Window; w != nil {
		w.To %= 24 * 60
		if w.Days[time.Monday] = true; w.From == w.To {
			s.When.Window = nil
		}
	}
	return s
}

// written takes out what a file cannot say: who is self and more, and an allow, or
// an exception, of who is not known.
func (f Flows) written(loosens bool) Flows {
	for _, terms := range []*[]Term{&f.From, &f.To} {
		*terms = slices.Clone(*terms)
		for i, t := range *terms {
			if t.Within == WithinService {
				(*terms)[i] = Term{Within: WithinService}
			}
			(*terms)[i].Categories = slices.Clone((*terms)[i].Categories)
			for j := range (*terms)[i].Categories {
				c := &(*terms)[i].Categories[j]
				c.Unknown = c.Unknown && !loosens
			}
		}
	}
	return f
}

// jointSnapshot has models that talk to each other, of services that their
// deployers labelled.
func (d dice) jointSnapshot(r *slow) {
	r.snap, r.labels = d.snapshot(), make(map[string][]slowLabel)
	alone := d.chance(30)
	off := make(map[policy.ServiceKey]bool)
	r.enabled = func(w *policy.Workload) bool { return !off[w.Service] }
	mode, replica := make(map[policy.ServiceKey]string), make(map[policy.ServiceKey]*policy.Workload)
	for i := range r.snap.Workloads {
		w := &r.snap.Workloads[i]
		if d.chance(50) { // most projects have a network of their own
			n := map[string]int{"a": 0, "b": 1}[w.Service.Project.Name]
			w.Endpoints[0].Network = r.snap.Networks[n].ID
			w.Endpoints[0].Addresses = []netip.Addr{netip.AddrFrom4([4]byte{172, 30, byte(n), byte(i + 2)}), netip.AddrFrom16([16]byte{0xfd, 0, 0x30, byte(n), 15: byte(i + 2)})}
		}
		if first := replica[w.Service]; first == nil {
			replica[w.Service] = w
			mode[w.Service], off[w.Service] = one(d, "", "", "enforce", "observe"), d.chance(7)
		} else if d.chance(50) {
			w.Image = first.Image
		}
		w.Exposed = []policy.PortRange{policy.Port(policy.ProtoTCP, 80)}
		if strings.HasSuffix(w.Image.Repository, "postgres") {
			w.Exposed[0] = policy.Port(policy.ProtoTCP, 5432)
		}
		if strings.HasSuffix(w.Image.Repository, "busybox") && d.chance(40) {
			w.References = append(w.References, policy.Reference{Source: "env API_URL", Host: one(d, jointNames...), Port: 443, Scheme: "https"})
		}
		if d.chance(50) {
			w.References = append(w.References, one(d, policy.Reference{Source: "env DB_URL", Host: one(d, "x", "y", "z"), Port: 5432, Scheme: "postgresql"},
				policy.Reference{Source: "env BACKEND", Host: one(d, "x", "y", "z"), Port: 80, Scheme: "http"}))
		}
		if text := mode[w.Service]; text != "" {
			w.Labels[models.LabelMode] = policy.Label{Value: text, By: policy.SetByDeployer}
		}
		if off[w.Service] {
			w.Labels[models.LabelEnable] = policy.Label{Value: "false", By: policy.SetByDeployer}
		}
		for n := range d.IntN(4) {
			if !alone {
				d.jointLabel(r, w, n)
			}
		}
	}
	for k, w := range replica {
		text := k.String()
		switch {
		case d.chance(50):
			r.modes[text] = one(d, policy.Enforce, policy.Enforce, policy.Observe)
		case w.Labels[models.LabelMode].Value == "observe":
			r.modes[text] = policy.Observe
		}
	}
}

// jointLabel gives a workload the nth statement of its own. An image's count if
// they deny.
func (d dice) jointLabel(r *slow, w *policy.Workload, n int) {
	l := slowLabel{allow: d.chance(60), egress: d.chance(60), app: policy.AnyApp}
	var peer, port, app string
	switch d.IntN(4) {
	case 0:
		l.peer.Service = one(d, "x", "y", "a/x", "b/y")
		project, _, given := strings.Cut(l.peer.Service, "/")
		if peer = l.peer.Service; !given {
			l.peer.Service = w.Service.Project.Name + "/" + peer
		}
		l.sameProject = !given || project == w.Service.Project.Name
	case 1:
		l.peer.CIDR = d.prefix()
		if peer = l.peer.CIDR.String(); l.peer.CIDR.Addr().Is6() {
			peer = fmt.Sprintf("[%s]", peer)
		}
	case 2:
		l.peer.Peer = one(d, policy.PeerAny, policy.PeerExternal, policy.PeerSite, policy.PeerInternet, policy.PeerWorkload)
		peer = policy.Peer{Kind: l.peer.Peer}.String()
	default:
		l.allow, l.egress, l.peer.Name = true, true, one(d, "api.example.com", "*.example.com")
		peer = l.peer.Name
	}
	switch {
	case !l.allow && d.chance(40):
		l.anyPort, port = true, "any"
	case d.chance(60):
		l.ports, port = policy.Port(policy.ProtoTCP, 443), "443"
	default:
		l.ports, port = policy.PortRange{Proto: policy.ProtoTCP, Lo: 1, Hi: 100}, "1-100"
	}
	switch app = one(d, "any", "http", "ssh"); app {
	case "http":
		l.app = policy.AppMatch{App: policy.AppHTTP, Forms: policy.TLSOptional}
	case "ssh":
		l.app = policy.AppMatch{App: policy.AppSSH, Forms: policy.TLSOptional}
	}
	verb, way := map[bool]string{true: "allow", false: "deny"}[l.allow], map[bool]string{true: "egress", false: "ingress"}[l.egress]
	by := policy.SetByDeployer
	if d.chance(15) {
		by = policy.SetByImage
	}
	w.Labels[fmt.Sprintf("gatehouse.%s.%s.%d", verb, way, n)] = policy.Label{Value: fmt.Sprintf("%s:%s %s", peer, port, app), By: by}
	if by == policy.SetByDeployer || !l.allow {
		r.labels[w.ID] = append(r.labels[w.ID], l)
	}
}

// TestFilesEqualReference compares the verdicts of random files of statements and
// categories, decoded, expanded and compiled with what models and labels of random
// workloads say, with the reference: all tiers, names, categories, conditions,
// exceptions, reach, quarantine, enrolment and modes together, in both families.
// 100,000 cases, or as many as GATEHOUSE_TEST_CASES says; a tenth with -short.
func TestFilesEqualReference(t *testing.T) {
	wanted := wantedCases()
	spoken := []policy.Spoken{{App: policy.AppHTTP}, {App: policy.AppTLS, ALPN: policy.AppHTTP}, {App: policy.AppSSH}, {App: policy.AppPostgreSQL}, {App: policy.AppUnknown}}
	servers := []policy.ServerName{{}, {State: policy.NameNone}, {State: policy.NameHidden}, {State: policy.NameGiven, Text: []byte("evil.net")}}
	for _, n := range jointNames {
		servers = append(servers, policy.ServerName{State: policy.NameGiven, Text: []byte(n)})
	}
	seed := rand.Uint64()
	seen, byTier := map[string]int{}, map[string]int{}
	lib := library(t)
	cases := 0
	uncovered := func() (which []string) {
		for _, outcome := range []string{"allow false", "allow true", "drop true", "reject true"} {
			if seen[outcome] < wanted/500 {
				which = append(which, fmt.Sprintf("%s came out %d times", outcome, seen[outcome]))
			}
		}
		for _, by := range []string{"operator", "label", "model", "name"} {
			if byTier[by] < wanted/500 {
				which = append(which, fmt.Sprintf("%s decided %d times", by, byTier[by]))
			}
		}
		return which
	}
	for n := uint64(0); cases < wanted || cases < patience*wanted && uncovered() != nil; n++ {
		d := dice{rand.New(rand.NewPCG(seed, n))}
		now := time.Date(2026, 11, 23+d.IntN(7), d.IntN(24), d.IntN(60), 0, 0, time.UTC)
		r := &slow{records: d.records(), modes: map[string]policy.Mode{}, moment: Moment{now, Threat(d.IntN(4))}}
		d.jointSnapshot(r)
		for i := range d.IntN(one(d, 1, 3, 7)) {
			r.statements = append(r.statements, d.jointStatement(i, now))
		}
		for i := range r.statements {
			r.active = append(r.active, r.inForce(&r.statements[i]))
		}
		if d.chance(10) {
			r.quarantined = r.snap.Workloads[0].Service.String()
		}
		statements, records := statementsText(r.statements), recordsText(r.records)
		table := r.fromFiles(t, lib, statements, records, one(d, 0, 1))
		r.learn(d, table, now)
		for range 40 {
			from, to, q := d.flow(r.snap)
			q.DstPort = one[uint16](d, 80, 80, 80, 22, 443, 443, 5432)
			if len(r.told) > 0 && d.chance(30) {
				from, to, q = d.flowTo(r.snap, one(d, r.told...), q)
			} else if len(r.models) > 0 && d.chance(30) {
				from, to, q = d.flowOf(r.snap, one(d, r.models...), from, to, q)
			}
			port := policy.PortRange{Proto: q.Proto, Lo: q.DstPort, Hi: q.DstPort}
			decision := table.Lookup(q)
			for _, s := range spoken {
				r.server = one(d, servers...)
				got := decision.JudgeServer(s, r.server)
				verdict, denied := r.judge(from, to, port, s)
				by := "nothing"
				if got.Rule >= 0 {
					st := table.Statements()[table.Rules()[got.Rule].Statement]
					by = st.ID
					byTier[st.Tier.String()]++
					if slices.ContainsFunc(st.To, func(p policy.Peer) bool { return p.Kind == policy.PeerName }) {
						byTier["name"]++
					}
				}
				if got.Verdict != verdict || got.Denied != denied {
					t.Fatalf("seed %d world %d: %s -> %s %v/%d %v server %d %q: %v denied %v by %s; want %v, %v\n%s%s\nworkloads %+v\nlabels %+v\nmodels %q\nmodes %v told %+v at %+v quarantined %q", seed, n,
						from.ip, to.ip, q.Proto, q.DstPort, s, r.server.State, r.server.Text, got.Verdict, got.Denied, by, verdict, denied,
						statements, records, r.snap.Workloads, r.labels, models.Text(r.models), r.modes, r.told, r.moment, r.quarantined)
				}
				seen[fmt.Sprint(verdict, denied)]++
				cases++
			}
		}
	}
	for _, what := range uncovered() {
		t.Errorf("%s: the worlds are too plain", what)
	}
	t.Log(cases, seen, byTier)
}

// fromFiles is the table of files, with what models and labels say.
func (r *slow) fromFiles(t *testing.T, lib *models.Library, statements, records string, pairsAhead int) *policy.Table {
	t.Helper()
	p, err := Decode([]document.File{{Name: "s.yaml", Data: []byte(statements)}}, []document.File{{Name: "c.yaml", Data: []byte(records)}}, lib)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, statements, records)
	}
	catalog := NewCatalog(p.Kinds, []Records{p.Sources[0].Records})
	categories := p.Variant(catalog)
	belongs := func(w *policy.Workload) bool { return w.Service.String() == r.quarantined }
	pop := models.Groups(lib, r.snap, models.Settings{SelectedLabels: p.SelectedLabels(), Modes: r.modes,
		Variant: func(w *policy.Workload) string { return fmt.Sprint(categories(w), belongs(w)) }}, policy.NewIdentities())
	said, _ := models.Generate(pop)
	r.models, r.is = nil, make(map[string]policy.Identity)
	for _, s := range said {
		if s.Tier == policy.TierModel {
			r.models = append(r.models, s)
		}
	}
	for i := range r.snap.Workloads {
		r.is[r.snap.Workloads[i].ID] = pop.Group(r.snap.Workloads[i].ID).Identity
	}
	said = append(said, p.Expand(pop, catalog, r.moment)...)
	if r.quarantined != "" {
		said = append(said, Quarantine(r.quarantined, Belonging(pop.Subjects(), belongs), nil)...)
	}
	table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: r.snap, Groups: pop.Groups, Statements: said, PairsAhead: pairsAhead})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// learn tells workloads of names.
func (r *slow) learn(d dice, table *policy.Table, now time.Time) {
	names := policy.NewNames(policy.NameLimits{})
	names.Attach(table, now)
	for range d.IntN(12) {
		i := d.IntN(len(r.snap.Workloads))
		k := slowTold{r.snap.Workloads[i].ID, one(d, jointNames...), d.outsideAddress(d.chance(50))}
		r.told = append(r.told, k)
		names.Note(table, int32(i), &policy.Answer{Name: k.name, Addresses: []policy.AnswerAddress{{IP: k.ip, TTL: time.Hour}}}, now)
	}
}

// flowTo is from a workload, mostly the one that was told, to the address.
func (d dice) flowTo(snap *policy.Snapshot, k slowTold, q policy.Query) (slowEnd, slowEnd, policy.Query) {
	w := &snap.Workloads[slices.IndexFunc(snap.Workloads, func(w policy.Workload) bool { return w.ID == k.workload })]
	if d.chance(20) {
		w = &snap.Workloads[d.IntN(len(snap.Workloads))]
	}
	family := 0
	if k.ip.Is6() {
		family = 1
	}
	from, to := slowEnd{w, w.Endpoints[0].Addresses[family]}, slowEnd{ip: k.ip}
	return from, to, between(snap, from, to, q.DstPort)
}

// flowOf is one that a model's statement means, if some workloads are its ends, else
// the other.
func (d dice) flowOf(snap *policy.Snapshot, s policy.Statement, from, to slowEnd, q policy.Query) (slowEnd, slowEnd, policy.Query) {
	find := func(p policy.Peer, network string) *policy.Workload {
		i := slices.IndexFunc(snap.Workloads, func(w policy.Workload) bool {
			return p.Kind == policy.PeerService && w.Service == p.Service && (network == "" || w.Endpoints[0].Network == network)
		})
		if i < 0 {
			return nil
		}
		return &snap.Workloads[i]
	}
	a := find(s.From[0], "")
	if a == nil {
		return from, to, q
	}
	b := find(s.To[0], a.Endpoints[0].Network)
	if b == nil || a == b {
		return from, to, q
	}
	family := d.IntN(2)
	from, to = slowEnd{a, a.Endpoints[0].Addresses[family]}, slowEnd{b, b.Endpoints[0].Addresses[family]}
	return from, to, between(snap, from, to, s.Ports[0].Lo)
}

// between is a packet of TCP from a workload.
func between(snap *policy.Snapshot, from, to slowEnd, port uint16) policy.Query {
	i := slices.IndexFunc(snap.Networks, func(n policy.Network) bool { return n.ID == from.w.Endpoints[0].Network })
	return policy.Query{Zone: snap.Networks[i].Zone, Src: from.ip.As16(), Dst: to.ip.As16(), Proto: policy.ProtoTCP, DstPort: port}
}

// statementsText is a file of statements.
func statementsText(list []Statement) string {
	var b strings.Builder
	b.WriteString("schema: gatehouse.statements/v1\nstatements:")
	if len(list) == 0 {
		b.WriteString(" []")
	}
	b.WriteString("\n")
	for i := range list {
		s := &list[i]
		verdict := map[policy.Verdict]string{policy.Allow: "allow, why: a test", policy.Drop: "deny", policy.Reject: "deny, action: reject"}[s.Verdict]
		fmt.Fprintf(&b, "  - {id: %s, verdict: %s, %s", s.ID, verdict, flowsText(&s.Flows))
		if s.Always {
			b.WriteString(", enforce: always")
		}
		if !s.Expires.IsZero() {
			fmt.Fprintf(&b, ", expires: %s", s.Expires.Format(time.RFC3339))
		}
		if when := whenText(&s.When); when != "" {
			fmt.Fprintf(&b, ", when: {%s}", when)
		}
		var excepted []string
		for j := range s.Except {
			excepted = append(excepted, "{"+flowsText(&s.Except[j])+"}")
		}
		if len(excepted) > 0 {
			fmt.Fprintf(&b, ", except: [%s]", strings.Join(excepted, ", "))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func whenText(c *When) string {
	var out []string
	for _, t := range c.Threat {
		out = append(out, "threat: {"+testText(t)+"}")
	}
	if w := c.Window; w != nil {
		var days []string
		for day, name := range []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} {
			if w.Days[day] {
				days = append(days, name)
			}
		}
		out = append(out, fmt.Sprintf(`time: {days: [%s], from: "%02d:%02d", to: "%02d:%02d", zone: UTC}`, strings.Join(days, ", "), w.From/60, w.From%60, w.To/60, w.To%60))
	}
	return strings.Join(out, ", ")
}

func flowsText(f *Flows) string {
	terms := func(list []Term) string {
		var out []string
		for i := range list {
			out = append(out, "{"+termText(&list[i])+"}")
		}
		return strings.Join(out, ", ")
	}
	apps, tls := []string{}, ""
	for _, m := range f.Apps {
		if m.Any {
			apps = append(apps, "any")
			continue
		}
		apps = append(apps, m.App.String())
		if m.Forms == policy.TLSOptional {
			tls = ", tls: optional"
		}
	}
	ports := policy.PortsText(f.Ports)
	if f.AnyPort {
		ports = "any"
	}
	return fmt.Sprintf("from: [%s], to: [%s], app: [%s], ports: [%s]%s", terms(f.From), terms(f.To), strings.Join(apps, ", "), ports, tls)
}

func termText(t *Term) string {
	var out []string
	add := func(key, value string) {
		if value != "" {
			out = append(out, fmt.Sprintf("%s: %q", key, value))
		}
	}
	add("role", t.Role)
	add("model", t.Model)
	add("service", t.Service)
	add("project", t.Project)
	add("label", t.Label)
	add("name", t.Name)
	if t.CIDR.IsValid() {
		add("cidr", t.CIDR.String())
	}
	if t.Within == WithinService {
		add("peer", "self")
	} else {
		add("within", map[Within]string{WithinProject: "project", WithinShared: "shared"}[t.Within])
		if t.Peer != policy.PeerNone {
			add("peer", strings.TrimPrefix(policy.Peer{Kind: t.Peer}.String(), "@"))
		}
	}
	for _, c := range t.Categories {
		var tests []string
		for _, test := range c.Tests {
			tests = append(tests, testText(test))
		}
		if c.Unknown {
			tests = append(tests, "unknown: true")
		}
		out = append(out, fmt.Sprintf("category: {%s: {%s}}", c.Category, strings.Join(tests, ", ")))
	}
	return strings.Join(out, ", ")
}

func testText(t Test) string {
	if t.Op == OpIn {
		return fmt.Sprintf("in: [%s]", strings.Join(t.Values, ", "))
	}
	return fmt.Sprintf("%s: %s", t.Op, t.Values[0])
}

// recordsText is a file of categories.
func recordsText(list []Record) string {
	var b strings.Builder
	b.WriteString("schema: gatehouse.categories/v1\nsource: cmdb\ncategories: {risk: {ordered: [low, medium, high]}, value: {set: true}}\nrecords:")
	if len(list) == 0 {
		b.WriteString(" []")
	}
	b.WriteString("\n")
	for _, r := range list {
		var match, set []string
		add := func(key, value string) {
			if value != "" {
				match = append(match, fmt.Sprintf("%s: %q", key, value))
			}
		}
		add("image", r.Image)
		add("service", r.Service)
		add("label", r.Label)
		if r.CIDR.IsValid() {
			add("cidr", r.CIDR.String())
		}
		for category, values := range r.Set {
			text := strings.Join(values, ", ")
			if category == "value" {
				text = "[" + text + "]"
			}
			set = append(set, category+": "+text)
		}
		fmt.Fprintf(&b, "  - {match: {%s}, set: {%s}}\n", strings.Join(match, ", "), strings.Join(set, ", "))
	}
	return b.String()
}

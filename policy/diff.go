package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Outcome is what becomes of a flow, in one word.
type Outcome string

const (
	OutcomePasses   Outcome = "passes"
	OutcomeRecorded Outcome = "recorded" // policy says no, a mode lets it by
	OutcomeDropped  Outcome = "dropped"
	OutcomeRejected Outcome = "rejected"
)

// Outcome of a judgement.
func (j *Judgement) Outcome() Outcome {
	switch {
	case !j.Denied:
		return OutcomePasses
	case j.Verdict == Allow:
		return OutcomeRecorded
	case j.Verdict == Reject:
		return OutcomeRejected
	}
	return OutcomeDropped
}

// Difference is what one table says of flows between two peers and another does
// not.
type Difference struct {
	From   string      `json:"from"`
	To     string      `json:"to"`
	Apps   []string    `json:"apps"`  // forms in which an application may be seen; "any" where it makes no difference
	Ports  []PortRange `json:"ports"` // the responder's own, or the host's
	Before Outcome     `json:"before"`
	After  Outcome     `json:"after"`
	Why    string      `json:"why"`
	// Statement is the id of what decides now or, where nothing does any more, of
	// what did.
	Statement string `json:"statement,omitempty"`
	// HostPorts: Ports are the host's, and lead to another service or another port
	// of it than before. To names who is there now and, where that differs, who was.
	HostPorts bool `json:"hostPorts,omitempty"`
}

// String is the difference in words.
func (d *Difference) String() string {
	apps := strings.Join(d.Apps, ", ")
	if apps == "any" {
		apps = "anything"
	}
	ports := PortsText(d.Ports)
	if d.HostPorts {
		ports = "the host's " + ports
	}
	var text string
	switch {
	case d.Before == OutcomePasses:
		text = fmt.Sprintf("%s may no longer reach %s with %s on %s", d.From, d.To, apps, ports)
		if d.After != OutcomeDropped {
			text += " (" + string(d.After) + ")"
		}
	case d.After == OutcomePasses:
		text = fmt.Sprintf("%s may now reach %s with %s on %s", d.From, d.To, apps, ports)
	default:
		text = fmt.Sprintf("%s to %s with %s on %s: %s before, %s now", d.From, d.To, apps, ports, d.Before, d.After)
	}
	return text + ": " + d.Why
}

// Comparison is what differs between two tables, by their verdicts.
type Comparison struct {
	Differences []Difference `json:"differences"`
	// Modes are services whose mode or guard differs: what policy does not allow
	// there is dropped now, or only recorded.
	Modes []string `json:"modes"`
	// Came and Left are services that only one of the tables knows; they are not
	// compared.
	Came []string `json:"came"`
	Left []string `json:"left"`
}

// Same reports whether nothing differs.
func (c *Comparison) Same() bool {
	return len(c.Differences)+len(c.Modes)+len(c.Came)+len(c.Left) == 0
}

// Diff compares what two tables say of every pair of peers that both know, every
// port and every application that either can tell apart. Workloads are the same
// if they have one id, else if their services have one name. Where statements name
// prefixes, workloads are compared at their own addresses, and what is outside in
// every stretch of addresses that the prefixes of both policies cut. Only who begins
// flows at some address, and who is called at one, is compared; an endpoint of which
// no address is told is taken to have one, and so are peers such as @lb of which none is
// known, where statements may differ. A port of the host that leads to one
// service in one table and to another, or to the host itself, in the other is
// compared as what it leads to in each, but for callers at nobody's addresses, at a
// metadata service's or at none. Neither table may be in use by others
// meanwhile.
func Diff(before, after *Table) Comparison {
	before, after = before.Whole(), after.Whole()
	d := differ{tables: [2]*Table{before, after}, paired: make(map[[2]uint32]bool), judged: make(map[[2]*Decision][]change), found: make(map[string]*Difference)}
	d.statements[0], d.statements[1] = byID(before), byID(after)
	d.pairUp()
	for i := range d.ends {
		from := &d.ends[i]
		if !from.calls {
			continue
		}
		for i := range d.ends {
			to := &d.ends[i]
			if !d.isGuarded(from) && !d.isGuarded(to) || from.rare && to.leads != "" {
				continue
			}
			for _, proto := range nameProtos {
				d.compare(from, to, proto)
			}
		}
		d.compareNames(from)
	}
	return d.comparison()
}

func byID(t *Table) map[string]*Statement {
	out := make(map[string]*Statement, len(t.statements))
	for i := range t.statements {
		out[t.statements[i].ID] = t.statements[i]
	}
	return out
}

type differ struct {
	tables     [2]*Table
	statements [2]map[string]*Statement
	ends       []bothEnds
	came, left []string
	paired     map[[2]uint32]bool    // workloads, without what prefixes tell apart
	ownPorts   map[Proto][]PortRange // all ports, cut where those of the host or a node may change hands
	judged     map[[2]*Decision][]change
	found      map[string]*Difference
	order      []string
}

// change is applications of which two decisions say different things for one
// cause.
type change struct {
	apps      []string
	outcomes  [2]Outcome
	rules     [2]int32
	onlyModes bool
}

// pairUp finds the peers that both tables know, at each address that prefixes of
// statements tell apart.
func (d *differ) pairUp() {
	d.findOwnPorts()
	s := &endSet{differ: d, by: make(map[endKey]int)}
	s.findZones()
	s.pairWorkloads()
	s.pairOutside()
	for i := range d.ends {
		if e := &d.ends[i]; len(e.called) > 0 {
			e.called = joined(e.called)
		}
	}
}

// memberGroups is the dense number of each workload.
func memberGroups(t *Table) map[string]uint32 {
	out := make(map[string]uint32)
	for i := range t.groups {
		for _, id := range t.groups[i].Members {
			out[id] = uint32(FirstWorkloadIdentity) + uint32(i)
		}
	}
	return out
}

// lastIn is the last address of a prefix.
func lastIn(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}

// isGuarded reports whether an end is a workload in either table.
func (d *differ) isGuarded(e *bothEnds) bool {
	return max(d.tables[0].ids[e.at[0]], d.tables[1].ids[e.at[1]]) >= FirstWorkloadIdentity
}

func (d *differ) compare(from, to *bothEnds, proto Proto) {
	var spans [2][]span
	for i, t := range d.tables {
		spans[i] = t.spansBetween(from.at[i], to.at[i], proto)
	}
	if len(spans[0])+len(spans[1]) == 0 && to.leads == "" {
		return // where no rule speaks only modes can differ
	}
	d.merge(from, to, proto, spans, d.unruled(from, to))
}

func (d *differ) unruled(from, to *bothEnds) [2]*Decision {
	var out [2]*Decision
	for i, t := range d.tables {
		out[i] = t.unruled[t.peers[from.at[i]].class][t.peers[to.at[i]].class]
	}
	return out
}

// merge compares port by port, in pieces in which neither table changes its mind.
func (d *differ) merge(from, to *bothEnds, proto Proto, spans [2][]span, unruled [2]*Decision) {
	edges := map[int]bool{0: true}
	cut := func(lo, hi uint16, own int) {
		edges[max(0, int(lo)-own)], edges[max(0, int(hi)+1-own)] = true, true
	}
	for i, list := range spans {
		for _, s := range list {
			cut(s.lo, s.hi, to.own[i])
		}
	}
	for _, p := range to.called {
		if p.Proto == proto {
			cut(p.Lo, p.Hi, 0)
		}
	}
	sorted := slices.Sorted(maps.Keys(edges))
	for i, lo := range sorted {
		hi := 65535
		if i+1 < len(sorted) {
			hi = min(hi, sorted[i+1]-1)
		}
		if lo > 65535 || proto == ProtoICMP && lo > 0 {
			break
		}
		if !to.isCalled(proto, uint16(lo)) {
			continue
		}
		ports := PortRange{proto, uint16(lo), uint16(hi)}
		if proto == ProtoICMP {
			ports.Hi = 0
		}
		pair := unruled
		for side, list := range spans {
			if found := at(list, uint16(lo+to.own[side])); found != nil {
				pair[side] = found
			}
		}
		d.judge(from, to, ports, pair)
	}
}

// compareNames compares what a peer may reach by name.
func (d *differ) compareNames(from *bothEnds) {
	names := make(map[string]bool)
	for _, t := range d.tables {
		for _, p := range t.names.patterns {
			names[p.text] = true
		}
	}
	internet := &bothEnds{called: anyCalled, at: [2]uint32{d.tables[0].somewhere(uint32(IDInternet)), d.tables[1].somewhere(uint32(IDInternet))}}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for _, proto := range nameProtos {
			var spans [2][]span
			for i, t := range d.tables {
				spans[i] = t.spansToName(from.at[i], internet.at[i], proto, name)
			}
			internet.name = "name:" + name
			d.merge(from, internet, proto, spans, d.unruled(from, internet))
		}
	}
}

// spansToName is spansBetween for a destination that a name or a pattern leads
// to.
func (t *Table) spansToName(from, internet uint32, proto Proto, name string) []span {
	if t.names.compiler == nil {
		return t.spansBetween(from, internet, proto)
	}
	var ends []uint32
	for i, p := range t.names.patterns {
		if p.text == name || nameFits(p.text, strings.TrimPrefix(name, "*.")) && strings.HasPrefix(p.text, "*.") {
			ends = append(ends, firstName+uint32(i))
		}
	}
	return t.names.compiler.spans(keyOf(from, internet, proto), ends...)
}

func (d *differ) judge(from, to *bothEnds, ports PortRange, pair [2]*Decision) {
	changes, known := d.judged[pair]
	if !known {
		changes = d.changes(pair)
		d.judged[pair] = changes
	}
	for i := range changes {
		c := &changes[i]
		if c.onlyModes && to.leads == "" {
			continue
		}
		d.add(from.name, to, ports, c)
	}
}

func (d *differ) add(from string, to *bothEnds, ports PortRange, c *change) {
	why, statement := d.why(c)
	why = cmp.Or(to.leads, why)
	key := fmt.Sprint(from, "\x00", to.name, "\x00", c.apps, c.outcomes, why)
	have := d.found[key]
	if have == nil {
		have = &Difference{From: from, To: to.name, HostPorts: to.leads != "", Apps: c.apps, Before: c.outcomes[0], After: c.outcomes[1], Why: why, Statement: statement}
		d.found[key] = have
		d.order = append(d.order, key)
	}
	if !slices.Contains(have.Ports, ports) {
		have.Ports = append(have.Ports, ports)
	}
}

// joined are ranges in order, those that meet as one.
func joined(ranges []PortRange) []PortRange {
	slices.SortFunc(ranges, func(a, b PortRange) int {
		return cmp.Or(cmp.Compare(protoPlace(a.Proto), protoPlace(b.Proto)), cmp.Compare(a.Lo, b.Lo))
	})
	out := ranges[:1]
	for _, r := range ranges[1:] {
		last := &out[len(out)-1]
		if r.Proto != last.Proto || uint32(r.Lo) > uint32(last.Hi)+1 {
			out = append(out, r)
			continue
		}
		last.Hi = max(last.Hi, r.Hi)
	}
	return out
}

func protoPlace(p Proto) int { return slices.Index(nameProtos[:], p) }

// changes lists what two decisions say differently, by cause.
func (d *differ) changes(pair [2]*Decision) []change {
	if pair[0] == pair[1] {
		return nil
	}
	asked := make(map[Spoken]bool)
	var out []change
	all := true
	for _, s := range slices.Concat([]Spoken{{App: AppUnknown}}, pair[0].spoken(), pair[1].spoken()) {
		if asked[s] || s.App == AppDTLS || s.ALPN == AppUnknown {
			continue
		}
		asked[s] = true
		c := changeOf(pair, s)
		if c.outcomes[0] == c.outcomes[1] {
			all = false
			continue
		}
		i := slices.IndexFunc(out, func(o change) bool { return o.outcomes == c.outcomes && o.rules == c.rules })
		if i < 0 {
			out, i = append(out, c), len(out)
		}
		out[i].apps = append(out[i].apps, appOf(s))
	}
	if all && len(out) == 1 {
		out[0].apps = []string{"any"}
	}
	return out
}

// changeOf is what two decisions say of a flow. Its cause is the side that says
// another thing now; where none does, what decides, or only the modes.
func changeOf(pair [2]*Decision, s Spoken) change {
	unread := ServerName{State: NameUnread}
	before, after := pair[0].JudgeServer(s, unread), pair[1].JudgeServer(s, unread)
	c := change{outcomes: [2]Outcome{before.Outcome(), after.Outcome()}, rules: [2]int32{before.Rule, after.Rule}}
	sides := [2][2]answer{{pair[0].out.ask(s, unread), pair[0].in.ask(s, unread)}, {pair[1].out.ask(s, unread), pair[1].in.ask(s, unread)}}
	for side := range sides[0] {
		if was, is := sides[0][side], sides[1][side]; was.no != is.no {
			c.rules = [2]int32{was.rule, is.rule}
			return c
		}
	}
	c.onlyModes = before.Rule < 0 && after.Rule < 0
	return c
}

func appOf(s Spoken) string {
	if s.App == AppUnknown {
		return "an unknown application"
	}
	return s.String()
}

// why says which statement made the difference.
func (d *differ) why(c *change) (text, statement string) {
	before, after := d.behind(0, c.rules[0]), d.behind(1, c.rules[1])
	switch {
	case after != nil && d.statements[0][after.ID] == nil:
		return fmt.Sprintf("statement %s%s is new", after.ID, originText(after)), after.ID
	case before != nil && d.statements[1][before.ID] == nil:
		return fmt.Sprintf("statement %s%s is gone", before.ID, originText(before)), before.ID
	case after != nil && (before == nil || before.ID != after.ID):
		return fmt.Sprintf("statement %s%s decides now", after.ID, originText(after)), after.ID
	case before != nil:
		now := d.statements[1][before.ID]
		if now.Pending != "" {
			return fmt.Sprintf("statement %s%s is not in force: %s", now.ID, originText(now), now.Pending), now.ID
		}
		return fmt.Sprintf("statement %s%s is another now", now.ID, originText(now)), now.ID
	}
	return "who is guarded there changed", ""
}

func (d *differ) behind(table int, rule int32) *Statement {
	if rule < 0 {
		return nil
	}
	t := d.tables[table]
	return t.statements[t.rules[rule].Statement]
}

func (d *differ) comparison() Comparison {
	out := Comparison{Differences: []Difference{}, Modes: []string{}, Came: append([]string{}, d.came...), Left: append([]string{}, d.left...)}
	for _, key := range d.order {
		found := d.found[key]
		found.Ports = joined(found.Ports)
		out.Differences = append(out.Differences, *found)
	}
	slices.SortStableFunc(out.Differences, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	for _, e := range d.ends {
		before, isBefore := d.tables[0].Group(d.tables[0].ids[e.at[0]])
		after, isAfter := d.tables[1].Group(d.tables[1].ids[e.at[1]])
		if !isBefore || !isAfter {
			continue
		}
		if a, b := modeText(&before), modeText(&after); a != b {
			text := fmt.Sprintf("%s: %s before, %s now", e.name, a, b)
			if !slices.Contains(out.Modes, text) {
				out.Modes = append(out.Modes, text)
			}
		}
	}
	slices.Sort(out.Modes)
	slices.Sort(out.Came)
	slices.Sort(out.Left)
	return out
}

func modeText(g *Group) string {
	if !g.Guarded {
		return "not guarded"
	}
	return g.Mode.String()
}

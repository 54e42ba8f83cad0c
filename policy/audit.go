package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// FlawKind is what is odd about a statement that a person wrote.
type FlawKind string

const (
	// FlawShadowed: wherever it could act, statements that say the opposite
	// decide. An error: the policy does not do what is written there.
	FlawShadowed FlawKind = "shadowed"
	// FlawOverBroad: of peers that stand side by side one swallows another, so
	// that the narrower one means nothing. An error: who wrote it meant less.
	FlawOverBroad FlawKind = "over-broad"
	// FlawSwallows: it makes narrower statements of other people redundant.
	FlawSwallows FlawKind = "swallows"
	// FlawRedundant: other statements say the same everywhere.
	FlawRedundant FlawKind = "redundant"
	// FlawConflict: here and there a deny takes away what this allows.
	FlawConflict FlawKind = "conflicting"
	// FlawUnmatched: nobody is meant, on one side or both.
	FlawUnmatched FlawKind = "unmatched"
	// FlawNoPath: nobody whom it allows to call is on a network with whom it
	// lets be called.
	FlawNoPath FlawKind = "no-path"
)

// IsError reports whether what is written means something else than it says.
func (k FlawKind) IsError() bool { return k == FlawShadowed || k == FlawOverBroad }

// Flaw is one finding about a statement of the operator or of a label.
type Flaw struct {
	Kind      FlawKind `json:"kind"`
	Error     bool     `json:"error"`
	Statement string   `json:"statement"` // its id
	Origin    []string `json:"origin"`    // file and line, or the label
	Text      string   `json:"text"`
	Others    []string `json:"others,omitempty"` // ids of the other statements in it
}

// Audit is what there is to say of a compiled table, by the index of each
// statement.
type Audit struct {
	Table *Table
	Costs []Cost
	Flaws []Flaw // by statement, then kind
}

// MakeAudit compiles, and looks at every place of the table for what each
// statement does there. It takes several times as long as Compile. Where prefixes
// make more pairs than Input.PairsAhead, it does not say which statements never
// act.
func MakeAudit(in Input) (*Audit, error) {
	c, err := compile(in)
	if err != nil {
		return nil, err
	}
	a := auditor{compiler: c, audit: &Audit{Table: c.table, Costs: c.costs},
		acts: make([]bool, len(c.table.statements)), present: make([]bool, len(c.table.statements)), by: make([]map[int]bool, len(c.table.statements)),
		seen: make(map[seenAt]bool), pairs: make([][][2]uint32, len(c.table.statements))}
	a.pairRules()
	a.walk()
	for i := range c.table.statements {
		a.judge(i)
	}
	a.swallowing()
	slices.SortStableFunc(a.audit.Flaws, func(x, y Flaw) int {
		return cmp.Or(-boolCompare(x.Error, y.Error), cmp.Compare(x.Statement, y.Statement), cmp.Compare(x.Kind, y.Kind))
	})
	return a.audit, nil
}

func boolCompare(a, b bool) int { return -boolOrder(a, b) }

type auditor struct {
	*compiler
	audit   *Audit
	acts    []bool         // the statement decides somewhere
	present []bool         // it has a say somewhere, for a side that is guarded
	by      []map[int]bool // which decide where it has a say and would have said otherwise or the same
	seen    map[seenAt]bool
	pairs   [][][2]uint32 // the ends of the statement's rules to peers
}

// seenAt spares looking at equal places again.
type seenAt struct {
	decision *Decision
	rule     int32
}

func (a *auditor) flaw(kind FlawKind, statement int, others []string, format string, args ...any) {
	s := a.table.statements[statement]
	a.audit.Flaws = append(a.audit.Flaws, Flaw{kind, kind.IsError(), s.ID, append([]string{}, s.Origin...), fmt.Sprintf(format, args...), others})
}

func (a *auditor) pairRules() {
	for k, from := range a.buckets {
		for f, rules := range from {
			ends := [2]uint32{f, k.to}
			for _, r := range rules {
				i := a.table.rules[r].Statement
				if n := len(a.pairs[i]); n == 0 || a.pairs[i][n-1] != ends {
					a.pairs[i] = append(a.pairs[i], ends)
				}
			}
		}
	}
}

// walk looks at every place between peers that there are.
func (a *auditor) walk() {
	for i := range a.laid {
		a.laidCells(&a.laid[i], a.look)
	}
	internet := a.parties[IDInternet]
	for k := range a.toNames {
		var callers []party
		if isWildcard(k.from()) {
			callers = []party{{wildcards, classEnforcing}, {wildcards, classObserving}}
		} else {
			for _, f := range a.peersOf(k.from()) {
				callers = append(callers, a.parties[f])
			}
		}
		for _, caller := range callers {
			a.cells(pairing{caller, internet, k.proto()}, []uint32{k.to()}, a.look)
		}
	}
}

func (a *auditor) look(_, _ uint16, rules []int32, d *Decision) {
	var last = -1
	for _, r := range rules { // ascending, so that those of one statement stand together
		rule := &a.table.rules[r]
		i := rule.Statement
		if rule.Except {
			continue
		}
		if a.table.statements[i].Tier != TierModel && !a.seen[seenAt{d, r}] {
			a.seen[seenAt{d, r}] = true
			a.ask(i, rule, d)
		}
		if i == last {
			continue
		}
		last = i
		if d.verdict == Undecided && rule.Verdict != Allow && !rule.App.Any {
			a.audit.Costs[i].Undecided++
		}
	}
}

// ask finds what decides of the flows that the rule speaks of.
func (a *auditor) ask(statement int, rule *Rule, d *Decision) {
	sides := [...]*sideDecision{&d.out, &d.in}
	for side, s := range sides {
		if !s.guarded || rule.Speaks == SpeaksOut && side == 1 || rule.Speaks == SpeaksIn && side == 0 {
			continue
		}
		a.present[statement] = true
		for _, spoken := range append(append([]Spoken{{}, {App: AppUnknown}}, forms(rule.App.App)...), d.spoken()...) {
			if rule.App.Matches(spoken) {
				a.note(statement, s, spoken)
			}
		}
	}
}

func (a *auditor) note(statement int, s *sideDecision, spoken Spoken) {
	for i := range s.terms {
		t := &s.terms[i]
		if ok, _ := t.matches(spoken, ServerName{State: NameUnread}); !ok {
			continue
		}
		by := a.table.rules[t.rule].Statement
		if by == statement {
			a.acts[statement] = true
		} else if a.by[statement] == nil {
			a.by[statement] = map[int]bool{by: true}
		} else {
			a.by[statement][by] = true
		}
		if t.name == "" {
			return
		}
	}
}

// judge finds the flaws of one statement.
func (a *auditor) judge(i int) {
	s := a.table.statements[i]
	if s.Tier == TierModel || s.Pending != "" || strings.HasPrefix(s.ID, "quarantine-") {
		return
	}
	a.swallowed(i, s)
	if a.audit.Costs[i].Rules == 0 {
		a.flaw(FlawUnmatched, i, nil, "it matches nothing: %s", a.whyNobody(s))
		return
	}
	if s.Verdict == Allow && !a.hasPath(i) {
		a.flaw(FlawNoPath, i, nil, "no network has both who may call and who is called; connect them to one, or publish a port")
	}
	if !a.present[i] || a.onMeeting != metNobodys { // what it does at places of prefixes was not looked at
		return
	}
	var same, other []string
	for _, by := range slices.Sorted(maps.Keys(a.by[i])) {
		b := a.table.statements[by]
		if (b.Verdict == Allow) == (s.Verdict == Allow) {
			same = append(same, b.ID)
		} else {
			other = append(other, b.ID)
		}
	}
	switch {
	case !a.acts[i] && len(other) > 0 && len(same) == 0:
		a.flaw(FlawShadowed, i, other, "it never acts: %s %s", a.named(other), decides(other))
	case !a.acts[i] && len(other) > 0:
		a.flaw(FlawShadowed, i, append(other, same...), "it never acts: where %s does not say the opposite, %s says the same", a.named(other), a.named(same))
	case !a.acts[i] && len(same) > 0:
		a.flaw(FlawRedundant, i, same, "it adds nothing: %s already says the same", a.named(same))
	case s.Verdict == Allow && len(other) > 0:
		a.flaw(FlawConflict, i, other, "a part of it is denied: where both hold, %s %s", a.named(other), decides(other))
	}
}

func decides(ids []string) string {
	if len(ids) == 1 {
		return "decides"
	}
	return "decide"
}

// named lists statements with where they stand.
func (a *auditor) named(ids []string) string {
	const most = 3
	var out []string
	for _, id := range ids[:min(len(ids), most)] {
		at := slices.IndexFunc(a.table.statements, func(s *Statement) bool { return s.ID == id })
		out = append(out, id+originText(&Statement{Origin: a.table.statements[at].Origin[:min(1, len(a.table.statements[at].Origin))]}))
	}
	if len(ids) > most {
		out = append(out, fmt.Sprintf("%d more", len(ids)-most))
	}
	return strings.Join(out, ", ")
}

func (a *auditor) whyNobody(s *Statement) string {
	r := Rule{Tier: s.Tier, Verdict: s.Verdict, Speaks: s.Speaks}
	var out []string
	for _, end := range []struct {
		word  string
		peers []Peer
		side  Side
	}{{"from", s.From, SideOut}, {"to", s.To, SideIn}} {
		if len(a.terms(end.peers, end.side, &r)) == 0 {
			out = append(out, "nobody is "+end.word+" "+peersText(end.peers))
		}
	}
	if len(s.Ports) == 0 && !s.AnyPort {
		out = append(out, "no port is given")
	}
	if len(out) == 0 {
		out = append(out, "no application is given")
	}
	return strings.Join(out, "; ")
}

func peersText(peers []Peer) string {
	texts := make([]string, len(peers))
	for i, p := range peers {
		texts[i] = p.String()
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// swallowed finds peers of one list that another of the same list holds.
func (a *auditor) swallowed(i int, s *Statement) {
	for _, end := range []struct {
		word  string
		peers []Peer
	}{{"from", s.From}, {"to", s.To}} {
		for x := range end.peers {
			for y := range end.peers {
				if x != y && holdsPeer(&end.peers[x], &end.peers[y]) && !(x > y && holdsPeer(&end.peers[y], &end.peers[x])) {
					a.flaw(FlawOverBroad, i, nil, "%s has %s beside %s, which means all of it: leave one of the two out", end.word, end.peers[y], end.peers[x])
				}
			}
		}
	}
}

// holdsPeer reports whether wide means all that narrow means, whoever runs.
func holdsPeer(wide, narrow *Peer) bool {
	isWorkload := narrow.Kind == PeerService || narrow.Kind == PeerWorkload ||
		narrow.Kind == PeerSelector && narrow.Selected != nil && len(narrow.Selected.Identities) > 0 && len(narrow.Selected.Prefixes) == 0
	switch wide.Kind {
	case PeerEverybody:
		return narrow.Kind != PeerEverybody
	case PeerAny:
		switch narrow.Kind {
		case PeerHost, PeerNode, PeerResolver, PeerSite, PeerInternet, PeerExternal, PeerLB, PeerIngress:
			return true
		}
		return isWorkload
	case PeerWorkload:
		return isWorkload && narrow.Kind != PeerWorkload
	case PeerExternal:
		return narrow.Kind == PeerSite || narrow.Kind == PeerInternet
	case PeerCIDR:
		return narrow.Kind == PeerCIDR && wide.Prefix.Bits() <= narrow.Prefix.Bits() && wide.Prefix.Overlaps(narrow.Prefix)
	case PeerService:
		return narrow.Kind == PeerService && wide.Service == narrow.Service && (wide.Identity == 0 || wide.Identity == narrow.Identity)
	case PeerName:
		return narrow.Kind == PeerName && nameFits(wide.Name, narrow.Name) && wide.Prefix == narrow.Prefix
	case PeerSelector:
		return narrow.Kind == PeerSelector && wide.Name == narrow.Name
	}
	return false
}

// hasPath reports whether some pair that the statement means can meet: on a
// network, by a published port or a VIP, or because one end is no workload.
func (a *auditor) hasPath(statement int) bool {
	ends := func(end uint32) []uint32 {
		if isWildcard(end) {
			return nil
		}
		return a.peersOf(end)
	}
	for _, pair := range a.pairs[statement] {
		froms, tos := ends(pair[0]), ends(pair[1])
		if froms == nil || tos == nil {
			return true
		}
		for _, f := range froms {
			for _, t := range tos {
				if a.meet(f, t) {
					return true
				}
			}
		}
	}
	return len(a.toNames) > 0 && slices.ContainsFunc(a.table.statements[statement].To, func(p Peer) bool { return p.Kind == PeerName })
}

func (a *auditor) meet(from, to uint32) bool {
	f, isCaller := a.table.Group(a.table.ids[from])
	t, isCallee := a.table.Group(a.table.ids[to])
	if !isCaller || !isCallee {
		return true
	}
	on := make(map[string]bool)
	for _, w := range a.workloads(f) {
		for _, e := range w.Endpoints {
			on[e.Network] = true
		}
	}
	for _, w := range a.workloads(t) {
		if len(w.Published) > 0 || w.isHostNetwork() || slices.ContainsFunc(w.Endpoints, func(e Endpoint) bool { return on[e.Network] }) {
			return true
		}
	}
	return false
}

func (a *auditor) workloads(g Group) []*Workload {
	var out []*Workload
	snapshot := a.table.snapshot()
	for _, id := range g.Members {
		if i, ok := slices.BinarySearchFunc(snapshot.Workloads, id, func(w Workload, id string) int { return cmp.Compare(w.ID, id) }); ok {
			out = append(out, &snapshot.Workloads[i])
		}
	}
	return out
}

// swallowing turns what is redundant around: the wide statement is told of.
func (a *auditor) swallowing() {
	narrow := make(map[string][]string)
	for _, f := range a.audit.Flaws {
		if f.Kind == FlawRedundant && len(f.Others) == 1 {
			narrow[f.Others[0]] = append(narrow[f.Others[0]], f.Statement)
		}
	}
	for i, s := range a.table.statements {
		if ids := narrow[s.ID]; len(ids) > 0 && s.Tier != TierModel && slices.ContainsFunc(slices.Concat(s.From, s.To), isWide) {
			a.flaw(FlawSwallows, i, ids, "it covers what narrower statements say: %s", a.named(ids))
		}
	}
}

func isWide(p Peer) bool {
	return p.Kind == PeerAny || p.Kind == PeerEverybody || p.Kind == PeerWorkload || p.Kind == PeerExternal || p.Kind == PeerInternet || p.Kind == PeerSite || p.Kind == PeerCIDR
}

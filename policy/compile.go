package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/btree"
)

// Input is all that a table is compiled from.
type Input struct {
	Epoch      uint32
	Snapshot   *Snapshot
	Groups     []Group
	Statements []Statement
	// ExtraSite counts as site besides the private prefixes, NotSite does not
	// (A13); of two that hold an address the longer prefix counts.
	ExtraSite, NotSite []netip.Prefix
	// ExtraMetadata are metadata addresses besides the known ones (A8).
	ExtraMetadata []netip.Addr
	// PrivateNames are those site addresses that names may have besides what
	// their statements say (Peer.Prefix).
	PrivateNames []netip.Prefix
	// Transit is for a gateway between others: neither end of a flow need be a
	// workload, so every peer is guarded, whoever it is, in the mode TransitMode,
	// and nothing passes that no statement lets pass.
	Transit     bool
	TransitMode Mode
	// PairsAhead is how many pairs of peers at places that prefixes of statements
	// tell apart are laid before the table is used; 0 = 65,536. Of more, each is
	// laid when a flow first meets it (see prefixes.go).
	PairsAhead int
	// MemoryBudget is how many bytes compiling may take, and what it makes of the
	// statements; 0 = 256 MiB. Of more rules than fit no table is made. Where the
	// rules fit and their places in the table do not, places are laid when a flow
	// first meets them (see met.go), and those that stand take what is left of the
	// budget, an eighth of it at least.
	MemoryBudget int

	few         int // up to how many peers an end of a rule is not large; 0 = fewEnds
	placesAhead int // how many places that no rule names by itself are laid ahead; 0 = as many as is good
}

// These stand in a Rule for the peers that Compile does not write out; no
// address resolves to them.
const (
	IDEverybody Identity = 58 // every peer there is
	IDSet       Identity = 59 // the peers of Rule.FromSet or Rule.ToSet
	IDName      Identity = 60 // the addresses of Rule.Name
	IDPrefix    Identity = 61 // the addresses of Rule.FromPrefix or Rule.ToPrefix
	IDWorkload  Identity = 62 // any workload
	IDAny       Identity = 63 // every peer but unknown, metadata, orchestrator, multicast, broadcast
)

// Rule is one line of the compiled table: one statement makes one for each
// pair of its peers and each of its port ranges. Many peers of one side are one
// end together: Table.Flat takes such rules apart.
type Rule struct {
	Statement     int          `json:"statement"` // index into Table.Statements
	From          Identity     `json:"from"`
	To            Identity     `json:"to"`
	FromPrefix    netip.Prefix `json:"fromPrefix,omitzero"`
	ToPrefix      netip.Prefix `json:"toPrefix,omitzero"`
	FromSet       int          `json:"fromSet,omitempty"` // of IDSet: which
	ToSet         int          `json:"toSet,omitempty"`
	Ports         PortRange    `json:"ports"` // all ports of a protocol where the statement says any
	App           AppMatch     `json:"app"`
	Verdict       Verdict      `json:"verdict"`
	Tier          Tier         `json:"tier"`
	Speaks        Speaks       `json:"speaks"`
	EnforceAlways bool         `json:"enforceAlways,omitempty"`
	// Except: what this covers is taken out of the statement's other rules.
	Except bool   `json:"except,omitempty"`
	Name   string `json:"name,omitempty"` // where To is IDName
}

// Compile makes a table. The error joins every fault of the input, each naming
// what is at fault; there is no table then, and the caller keeps its last.
//
// Peers are compiled as pairs of dense numbers. Where statements name prefixes, a
// peer has a number of its own for each set of them that holds an address of it
// (see prefixes.go). What means many peers stays whole (see layers.go), so that a
// statement with large sides costs about as much as both have peers.
func Compile(in Input) (*Table, error) {
	c, err := compile(in)
	if err != nil {
		return nil, err
	}
	c.laid = nil
	c.table.updater = c.newUpdater()
	if c.table.updater == nil {
		c.costs = nil
	}
	return c.table, nil
}

// compile is Compile with what it worked by.
func compile(in Input) (*compiler, error) {
	if in.Snapshot == nil {
		return nil, errors.New("compile: no snapshot")
	}
	c := &compiler{in: &in, costs: make([]Cost, len(in.Statements)), table: &Table{epoch: in.Epoch, statements: Pointers(slices.Clone(in.Statements)), groups: slices.Clone(in.Groups), compiled: in.Snapshot, now: func() *Snapshot { return in.Snapshot }, names: new(nameTable)}}
	c.numberGroups()
	c.numberRegions()
	res, err := newResolver(&in, c.member, c.regions)
	if err != nil {
		c.errs = append(c.errs, err)
	}
	c.callers = res.callers
	c.numberVariants(res)
	c.writeRules()
	if err := errors.Join(c.errs...); err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	c.table.resolver = *res
	callers := c.nameCallers()
	if err := c.overBudget(); err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	c.layRules()
	c.layNames(callers)
	c.inUse = true
	return c, nil
}

type compiler struct {
	in        *Input
	table     *Table
	member    map[string]uint32 // workload id -> dense number
	byService map[ServiceKey][]uint32
	balanced  []uint32        // dense numbers of services with a VIP (A2)
	regions   *regions        // nil where no statement names a prefix
	callers   map[uint32]bool // regions from which workloads call
	placed    placement
	onMeeting whoseMet
	buckets   map[toward]map[uint32][]int32 // rules by where to, then where from
	ruleEnds  []ruleEnds                    // by rule
	orders    []uint64                      // of statements, by number, once some came after others that were compiled before them
	toNames   map[pairKey][]int32           // of rules to names
	selected  map[selecting][]uint32
	patterns  map[namePattern]uint32
	parties   []party // by dense number
	wide      wideEnds
	mu        sync.Mutex // guards decisions: they are made while the table is in use
	decisions decisions
	laid      []laidPlace
	costs     []Cost // by statement
	spent     int    // bytes
	expanding int    // the statement whose rules are written
	inUse     bool   // the table is: nothing is charged to statements any more
	errs      []error
}

// ruleEnds are the numbers of a rule's ends.
type ruleEnds struct{ from, to uint32 }

// toward is where rules lead.
type toward struct {
	to    uint32
	proto Proto
}

// selecting is a selection that an end of a rule is, and how far its prefixes reach.
type selecting struct {
	*Selection
	reach
}

func (c *compiler) fault(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// class is what peers have in common that no rule names.
type class uint8

const (
	classEnforcing class = iota // guarded workloads
	classObserving
	classUnguarded // workloads that say yes
	classOther     // host, node, resolver, site, internet, lb, ingress
	classSpecial   // metadata, orchestrator: matched only by name
	classMulticast // and broadcast: the same
	classUnknown   // matched by nothing
	classShut      // enforcing workloads that no statement means
	classShutObserving
	classCount
)

// isIn reports whether a wildcard matches the class.
func (k class) isIn(wildcard uint32) bool {
	switch Identity(wildcard) {
	case IDEverybody:
		return true
	case IDAny:
		return k <= classOther
	case IDWorkload:
		return k <= classUnguarded
	}
	return false
}

func (k class) isGuarded() bool {
	return k <= classObserving || k == classShut || k == classShutObserving
}

// wildcards are the ends of rules that mean classes of peers, ascending.
var wildcards = []uint32{uint32(IDEverybody), uint32(IDWorkload), uint32(IDAny)}

func isWildcard(dense uint32) bool { return slices.Contains(wildcards, dense) }

func classOf(id Identity) class {
	switch id {
	case IDHost, IDNode, IDResolver, IDSite, IDInternet, IDLB, IDIngress:
		return classOther
	case IDMetadata, IDOrchestrator:
		return classSpecial
	case IDMulticast, IDBroadcast:
		return classMulticast
	}
	return classUnknown
}

func classOfGroup(g *Group) class {
	switch {
	case !g.Guarded:
		return classUnguarded
	case g.Shut && g.Mode == Observe:
		return classShutObserving
	case g.Shut:
		return classShut
	case g.Mode == Observe:
		return classObserving
	}
	return classEnforcing
}

// numberGroups gives each group its dense number, FirstWorkloadIdentity plus
// its index, and notes who is in it.
func (c *compiler) numberGroups() {
	t := c.table
	t.ids = make([]Identity, FirstWorkloadIdentity, int(FirstWorkloadIdentity)+len(t.groups))
	t.peers = make([]peerInfo, FirstWorkloadIdentity, cap(t.ids))
	for i := range t.ids {
		t.ids[i], t.peers[i].class = Identity(i), classOf(Identity(i))
	}
	t.byIdentity = new(btree.Map[Identity, uint32])
	c.member = make(map[string]uint32)
	c.byService = make(map[ServiceKey][]uint32)
	for i := range t.groups {
		g := &t.groups[i]
		dense := uint32(len(t.ids))
		t.ids, t.peers = append(t.ids, g.Identity), append(t.peers, peerInfo{class: classOfGroup(g)})
		if g.Identity < FirstWorkloadIdentity {
			c.fault("group %s: identity %d is reserved", g.Service, g.Identity)
		}
		if _, dup := t.byIdentity.Get(g.Identity); dup {
			c.fault("group %s: identity %d is another group's too", g.Service, g.Identity)
		}
		if g.Mode > Observe {
			c.fault("group %s: mode %d is neither enforce nor observe", g.Service, g.Mode)
		}
		t.byIdentity.Set(g.Identity, dense)
		if !g.Shut {
			c.byService[g.Service] = append(c.byService[g.Service], dense)
		}
		for _, id := range g.Members {
			if other, dup := c.member[id]; dup && other != dense {
				c.fault("workload %s is in two groups: %s and %s", id, t.groups[other-uint32(FirstWorkloadIdentity)].Service, g.Service)
			}
			c.member[id] = dense
		}
	}
	t.groupOf = make([]uint32, len(c.in.Snapshot.Workloads))
	for i := range c.in.Snapshot.Workloads {
		w := &c.in.Snapshot.Workloads[i]
		t.groupOf[i] = c.member[w.ID]
		if dense := c.member[w.ID]; dense != 0 && len(w.VIPs) > 0 && !slices.Contains(c.balanced, dense) {
			c.balanced = append(c.balanced, dense)
		}
	}
}

// writeRules expands every statement; faults name the statement.
func (c *compiler) writeRules() {
	ids := make(map[string]bool, len(c.table.statements))
	for i, s := range c.table.statements {
		faults := len(c.errs)
		switch {
		case s.ID == "":
			c.fault("statement %d%s: it has no id", i, originText(s))
		case ids[s.ID]:
			c.fault("statement %q%s: another statement has this id", s.ID, originText(s))
		}
		ids[s.ID] = true
		if s.Pending != "" {
			continue
		}
		for _, problem := range statementFaults(s) {
			c.fault("statement %q%s: %s", s.ID, originText(s), problem)
		}
		if len(c.errs) > faults {
			continue
		}
		c.writeStatement(i, s)
		if err := c.overBudget(); err != nil {
			c.errs = append(c.errs, err)
			return
		}
	}
}

func originText(s *Statement) string {
	if len(s.Origin) == 0 {
		return ""
	}
	return " (" + strings.Join(s.Origin, "; ") + ")"
}

// statementFaults lists what no statement may say. Empty sets are no fault:
// they match nothing.
func statementFaults(s *Statement) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch {
	case s.Verdict != Allow && s.Verdict != Drop && s.Verdict != Reject:
		add("verdict %s: want allow, drop or reject", s.Verdict)
	case s.Tier > TierOperator:
		add("tier %d does not exist", s.Tier)
	case s.Tier == TierModel && s.Verdict != Allow:
		add("models only allow; a deny is the operator's or a label's")
	}
	if s.Speaks > SpeaksIn {
		add("speaks %d: want both, out or in", s.Speaks)
	}
	if s.AnyPort && s.Verdict == Allow {
		add("ports any is for deny only: name the ports")
	}
	if s.App.App >= AppCount {
		add("application %d does not exist", s.App.App)
	}
	for _, p := range s.To {
		if p.Kind == PeerName && s.Verdict != Allow {
			add("peer %s: a deny by name would not deny: whoever knows the address need not ask for the name; deny @internet except the names that may be reached", p)
		}
	}
	froms := slices.Clone(s.From)
	for _, e := range s.Except {
		froms = append(froms, e.From...)
	}
	for _, p := range froms {
		if p.Kind == PeerName {
			add("peer %s: a name says where to, not where from", p)
		}
	}
	out = append(out, peerFaults(slices.Concat(s.From, s.To))...)
	out = append(out, portFaults(s.Ports)...)
	if s.Verdict == Allow && slices.ContainsFunc(slices.Concat(s.From, s.To), isEverybody) {
		add("peer @everybody is for deny only: name who must be named")
	}
	if len(s.Except) > 0 && s.Verdict == Allow {
		add("except is for deny only: write another allow")
	}
	for i, e := range s.Except {
		if e.App.App >= AppCount {
			add("except %d: application %d does not exist", i, e.App.App)
		}
		for _, problem := range slices.Concat(peerFaults(slices.Concat(e.From, e.To)), portFaults(e.Ports)) {
			add("except %d: %s", i, problem)
		}
		if slices.ContainsFunc(slices.Concat(e.From, e.To), isEverybody) {
			add("except %d: peer @everybody is for deny only: name who must be named", i)
		}
	}
	return out
}

func isEverybody(p Peer) bool { return p.Kind == PeerEverybody }

func peerFaults(peers []Peer) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, p := range peers {
		switch {
		case p.Kind > PeerSelector:
			add("peer kind %d does not exist", p.Kind)
		case p.Kind == PeerCIDR && !p.Prefix.IsValid():
			add("peer %s: no prefix", p)
		case p.Kind == PeerSelector && p.Selected != nil && !allValid(p.Selected.Prefixes):
			add("peer %s: an empty prefix", p)
		case p.Kind == PeerName:
			if text, err := ParseName(p.Name); err != nil {
				add("peer %s: %v", p, err)
			} else if text != p.Name {
				add("peer %s: write the name as DNS has it, %s", p, text)
			}
		}
	}
	return out
}

func allValid(ps []netip.Prefix) bool {
	return !slices.ContainsFunc(ps, func(p netip.Prefix) bool { return !p.IsValid() })
}

func portFaults(ports []PortRange) []string {
	var out []string
	for _, r := range ports {
		if problem := r.problem(); problem != "" {
			out = append(out, fmt.Sprintf("ports %s: %s", r, problem))
		}
	}
	return out
}

// problem says what is wrong with a range that a statement uses, or "".
func (r PortRange) problem() string {
	switch r.Proto {
	case ProtoTCP, ProtoUDP:
		if r.Lo == 0 || r.Hi < r.Lo {
			return "want numbers from 1 to 65535, the lower first"
		}
	case ProtoICMP, ProtoICMPv6:
		if r.Lo != 0 || r.Hi != 0 {
			return "icmp has no ports"
		}
	default:
		return "want tcp, udp or icmp"
	}
	return ""
}

// normal is the protocol under which queries and rules meet: echo is
// ProtoICMP in both families.
func (p Proto) normal() Proto {
	if p == ProtoICMPv6 {
		return ProtoICMP
	}
	return p
}

// everyPort is what AnyPort stands for.
var everyPort = []PortRange{{ProtoTCP, 0, 65535}, {ProtoUDP, 0, 65535}, {ProtoICMP, 0, 65535}}

func (c *compiler) writeStatement(i int, s *Statement) {
	c.expanding = i
	for n, x := range s.clauses() {
		r := ruleOf(s, n, &x)
		r.Statement = i
		c.expand(r, &x)
	}
}

// ruleOf is what the rules of a statement's clause have in common.
func ruleOf(s *Statement, clause int, x *Exception) Rule {
	return Rule{App: x.App, Verdict: s.Verdict, Tier: s.Tier, Speaks: s.Speaks, EnforceAlways: s.EnforceAlways, Except: clause > 0}
}

// expand writes r for each pair of peers and each range of ports.
func (c *compiler) expand(r Rule, x *Exception) {
	if !x.speaks() {
		return
	}
	callers, callees := c.gathered(c.terms(x.From, SideOut, &r)), c.gathered(c.terms(x.To, SideIn, &r))
	c.expandEnds(r, x, clause{callers, callees}, func(uint32, uint32) bool { return true }, nil)
}

// speaks reports whether some application fits.
func (x *Exception) speaks() bool {
	return x.App.Any || x.App.App != AppNone && x.App.Forms != 0
}

// expandEnds is expand for those of the ends of a clause that are new, where the callees
// of before admit balancers already.
func (c *compiler) expandEnds(r Rule, x *Exception, ends clause, isNew func(from, to uint32) bool, before []uint32) {
	ports := x.Ports
	if x.AnyPort {
		ports = everyPort
	}
	for _, f := range ends[SideOut] {
		for _, t := range ends[SideIn] {
			if isNew(f, t) {
				c.writePorts(f, t, r, ports)
			}
		}
	}
	behind := c.behindBalancer(&r, ends[SideOut], ends[SideIn])
	r.Speaks = SpeaksIn
	for _, t := range behind {
		if !slices.Contains(before, t) {
			c.writePorts(uint32(IDLB), t, r, ports)
		}
	}
}

func (c *compiler) writePorts(from, to uint32, r Rule, ports []PortRange) {
	r.From, r.FromPrefix, r.FromSet = c.nameEnd(from)
	if isNameEnd(to) {
		r.To, r.Name = IDName, c.table.names.patterns[to-firstName].text
	} else {
		r.To, r.ToPrefix, r.ToSet = c.nameEnd(to)
	}
	c.chargeRules(&r, len(ports))
	if c.isSpent() { // what is left is only counted
		return
	}
	c.table.rules = slices.Grow(c.table.rules, len(ports))
	for _, p := range ports {
		p.Proto = p.Proto.normal()
		r.Ports = p
		c.writeRule(from, to, r)
	}
}

func (c *compiler) writeRule(from, to uint32, r Rule) {
	if c.buckets == nil {
		c.buckets, c.toNames = make(map[toward]map[uint32][]int32), make(map[pairKey][]int32)
	}
	index := int32(len(c.table.rules))
	c.table.rules, c.ruleEnds = append(c.table.rules, r), append(c.ruleEnds, ruleEnds{from, to})
	if isNameEnd(to) {
		k := keyOf(from, to, r.Ports.Proto)
		c.toNames[k] = append(c.toNames[k], index)
		return
	}
	k := toward{to, r.Ports.Proto}
	if c.buckets[k] == nil {
		c.buckets[k] = make(map[uint32][]int32)
	}
	c.buckets[k][from] = append(c.buckets[k][from], index)
}

// behindBalancer lists the services whose own hook sees callers of their VIP
// as the network's lb: it admits lb where any workload may call (R16), as the
// caller's hook has judged who really called. So do exceptions of a deny.
func (c *compiler) behindBalancer(r *Rule, from, to []uint32) []uint32 {
	if r.Verdict != Allow && !r.Except || r.Speaks == SpeaksOut || !slices.ContainsFunc(from, c.callsAsWorkload) || slices.Contains(from, uint32(IDAny)) {
		return nil
	}
	if slices.ContainsFunc(to, isWildcard) {
		return c.balanced
	}
	if len(c.balanced) == 0 {
		return nil
	}
	var out []uint32
	for _, t := range to {
		switch {
		case slices.Contains(c.balanced, t):
			out = append(out, t)
		case isCollective(t):
			for _, v := range c.peersOf(t) {
				if slices.Contains(c.balanced, c.placed.base[v]) && !slices.Contains(out, v) {
					out = append(out, v)
				}
			}
		}
	}
	return out
}

// callsAsWorkload reports whether a caller that this end of a rule means may be
// a workload.
func (c *compiler) callsAsWorkload(end uint32) bool {
	if isCollective(end) {
		return c.holdsCaller(end)
	}
	return end >= uint32(FirstWorkloadIdentity) || end == uint32(IDWorkload)
}

var peerIdentity = [...]Identity{PeerHost: IDHost, PeerNode: IDNode, PeerResolver: IDResolver, PeerMetadata: IDMetadata,
	PeerOrchestrator: IDOrchestrator, PeerMulticast: IDMulticast, PeerBroadcast: IDBroadcast, PeerSite: IDSite,
	PeerInternet: IDInternet, PeerLB: IDLB, PeerIngress: IDIngress, PeerWorkload: IDWorkload, PeerAny: IDAny, PeerEverybody: IDEverybody}

// terms expands the peers of a rule to dense numbers, wildcards and prefixes,
// each once.
func (c *compiler) terms(peers []Peer, side Side, r *Rule) []uint32 {
	var out []uint32
	have := make(map[uint32]bool)
	add := func(d uint32) {
		if !have[d] {
			have[d] = true
			out = append(out, d)
		}
	}
	for i := range peers {
		p := &peers[i]
		switch p.Kind {
		case PeerNone:
		case PeerName:
			if side == SideIn {
				add(firstName + c.pattern(p))
			}
		case PeerCIDR:
			add(c.rangeEnd(p.Prefix, reachOf(r, r.Tier == TierModel)))
		case PeerSelector:
			for _, d := range c.selection(p.Selected, reachOf(r, true)) {
				add(d)
			}
		case PeerService:
			for _, d := range c.byService[p.Service] {
				if p.Identity == 0 || c.table.ids[d] == p.Identity {
					add(d)
				}
			}
		case PeerInternet, PeerExternal:
			if p.Kind == PeerExternal {
				add(uint32(IDSite))
			}
			add(uint32(IDInternet))
			if side == SideOut { // R14: clients hidden by the routing mesh
				add(uint32(IDIngress))
			}
		default:
			add(uint32(peerIdentity[p.Kind]))
		}
	}
	return out
}

// selection expands a selection, which many statements may share.
func (c *compiler) selection(s *Selection, r reach) []uint32 {
	if s == nil {
		return nil
	}
	if out, known := c.selected[selecting{s, r}]; known {
		return out
	}
	var out []uint32
	for _, id := range s.Identities {
		if d, ok := c.table.byIdentity.Get(id); ok {
			out = append(out, d)
		}
	}
	for _, p := range s.Prefixes {
		out = append(out, c.rangeEnd(p, r))
	}
	out = c.gathered(distinct(out))
	if c.selected == nil {
		c.selected = make(map[selecting][]uint32)
	}
	c.selected[selecting{s, r}] = out
	return out
}

// distinct leaves each number out but its first time.
func distinct(numbers []uint32) []uint32 {
	have := make(map[uint32]bool, len(numbers))
	return slices.DeleteFunc(numbers, func(n uint32) bool {
		again := have[n]
		have[n] = true
		return again
	})
}

// spans cuts the ports of one pair at the edges of all rules that apply there.
// names are patterns, as ends of rules, that the destination's name fits.
func (c *compiler) spans(k pairKey, names ...uint32) []span {
	var out []span
	c.cells(c.pairing(k), names, func(lo, hi uint16, _ []int32, d *Decision) { out = appendSpan(out, span{lo, hi, d}) })
	return out
}

// appendSpan joins what stands side by side and comes to the same.
func appendSpan(out []span, s span) []span {
	if n := len(out); n > 0 && out[n-1].decision == s.decision && out[n-1].hi+1 == s.lo {
		out[n-1].hi = s.hi
		return out
	}
	return append(out, s)
}

// cells is spans with the rules that apply in each; emit must not keep them.
func (c *compiler) cells(p pairing, names []uint32, emit func(lo, hi uint16, rules []int32, d *Decision)) {
	c.cellsNaming(p, names, 0, emit)
}

// cellsNaming is cells where, of the rules that apply, all of needs is named by some.
func (c *compiler) cellsNaming(p pairing, patterns []uint32, needs names, emit func(lo, hi uint16, rules []int32, d *Decision)) {
	rules := c.rulesOf(nil, p, patterns)
	c.sortRules(rules)
	var here []int32
	sweep(len(rules),
		func(i int) (lo, hi uint16) { r := c.table.rules[rules[i]].Ports; return r.Lo, r.Hi },
		func(lo, hi uint16, of []int32) {
			here = here[:0] // ascending as rules are
			var named names
			for _, i := range of {
				here = append(here, rules[i])
				named |= c.wide.ofRule[rules[i]]
			}
			if named&needs == needs {
				emit(lo, hi, here, c.decision(p.caller.class, p.callee.class, here))
			}
		})
}

// sortRules puts rules in the order of their statements, those of one statement as
// they were written, and its exception's behind.
func (c *compiler) sortRules(rules []int32) {
	if c.orders == nil {
		slices.Sort(rules)
		return
	}
	slices.SortFunc(rules, func(a, b int32) int {
		r, o := &c.table.rules[a], &c.table.rules[b]
		if r.Statement == o.Statement && r.Except != o.Except {
			if o.Except {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(c.orders[r.Statement], c.orders[o.Statement]), cmp.Compare(a, b))
	})
}

// rulesOf appends the rules that apply at a place, in no order.
func (c *compiler) rulesOf(rules []int32, p pairing, names []uint32) []int32 {
	callers := p.caller.ends
	for _, t := range p.callee.ends {
		from := c.buckets[toward{t, p.proto}]
		if len(from) < len(callers) {
			for f, of := range from {
				if _, is := slices.BinarySearch(callers, f); is {
					rules = append(rules, of...)
				}
			}
			continue
		}
		for _, f := range callers {
			rules = append(rules, from[f]...)
		}
	}
	for _, name := range names {
		for _, f := range callers {
			rules = append(rules, c.toNames[keyOf(f, name, p.proto)]...)
		}
	}
	return rules
}

// decision returns the one Decision for these rules, as sortRules has them, between
// peers of these classes.
func (c *compiler) decision(from, to class, rules []int32) *Decision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.decisions.get(c, from, to, rules)
}

package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
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
}

// These stand in a Rule for the peers that Compile does not write out; no
// address resolves to them.
const (
	IDName     Identity = 60 // the addresses of Rule.Name
	IDPrefix   Identity = 61 // the addresses of Rule.FromPrefix or Rule.ToPrefix
	IDWorkload Identity = 62 // any workload
	IDAny      Identity = 63 // every peer but unknown, metadata, orchestrator, multicast, broadcast
)

// Rule is one line of the compiled table: one statement makes one for each
// pair of its peers and each of its port ranges.
type Rule struct {
	Statement     int          `json:"statement"` // index into Table.Statements
	From          Identity     `json:"from"`
	To            Identity     `json:"to"`
	FromPrefix    netip.Prefix `json:"fromPrefix,omitzero"`
	ToPrefix      netip.Prefix `json:"toPrefix,omitzero"`
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
// Peers are compiled as pairs of dense numbers. Wildcards (any, workload) stay
// wildcards in four layers: (from, to), (class, to), (from, class), (class,
// class), where a class is all peers that the same wildcards match and that are
// guarded alike. Each layer's spans hold everything of the layers below, so
// that a lookup takes the first layer that has its key. A pair gets a key of
// its own where a rule names both ends, and where one rule names its from and
// another its to. Where statements name prefixes, a peer has a number of its own
// for each set of them that holds an address of it (see prefixes.go).
func Compile(in Input) (*Table, error) {
	c, err := compile(in)
	if err != nil {
		return nil, err
	}
	return c.table, nil
}

// compile is Compile with what it worked by.
func compile(in Input) (*compiler, error) {
	if in.Snapshot == nil {
		return nil, errors.New("compile: no snapshot")
	}
	c := &compiler{in: &in, interned: make(map[string]*Decision), table: &Table{epoch: in.Epoch, statements: slices.Clone(in.Statements), groups: slices.Clone(in.Groups), snapshot: in.Snapshot}}
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
	c.layRules()
	c.layNames()
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
	onMeeting bool // pairs of variants are laid when they are met
	buckets   map[pairKey][]int32
	toNames   map[pairKey][]int32 // the same, of rules to names
	patterns  map[namePattern]uint32
	mu        sync.Mutex // guards interned: decisions are made while the table is in use
	interned  map[string]*Decision
	errs      []error
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

// firstClass makes classes look like dense numbers that no peer has.
const firstClass = 32

func (k class) dense() uint32 { return firstClass + uint32(k) }

func isClass(dense uint32) bool {
	return dense >= firstClass && dense < firstClass+uint32(classCount)
}

// isIn reports whether a wildcard matches the class.
func (k class) isIn(wildcard uint32) bool {
	switch Identity(wildcard) {
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

func isWildcard(dense uint32) bool {
	return dense == uint32(IDAny) || dense == uint32(IDWorkload)
}

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
	t.byIdentity = make(map[Identity]uint32, len(t.groups))
	c.member = make(map[string]uint32)
	c.byService = make(map[ServiceKey][]uint32)
	for i := range t.groups {
		g := &t.groups[i]
		dense := uint32(len(t.ids))
		t.ids, t.peers = append(t.ids, g.Identity), append(t.peers, peerInfo{class: classOfGroup(g)})
		if g.Identity < FirstWorkloadIdentity {
			c.fault("group %s: identity %d is reserved", g.Service, g.Identity)
		}
		if _, dup := t.byIdentity[g.Identity]; dup {
			c.fault("group %s: identity %d is another group's too", g.Service, g.Identity)
		}
		if g.Mode > Observe {
			c.fault("group %s: mode %d is neither enforce nor observe", g.Service, g.Mode)
		}
		t.byIdentity[g.Identity] = dense
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
	for i := range c.table.statements {
		s := &c.table.statements[i]
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
		if len(c.errs) == faults {
			c.writeStatement(i, s)
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
	}
	return out
}

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
	r := Rule{Statement: i, App: s.App, Verdict: s.Verdict, Tier: s.Tier, Speaks: s.Speaks, EnforceAlways: s.EnforceAlways}
	c.expand(r, s.From, s.To, s.Ports, s.AnyPort)
	for _, e := range s.Except {
		r.App, r.Except = e.App, true
		c.expand(r, e.From, e.To, e.Ports, e.AnyPort)
	}
}

// expand writes r for each pair of peers and each range of ports.
func (c *compiler) expand(r Rule, from, to []Peer, ports []PortRange, anyPort bool) {
	if !r.App.Any && (r.App.App == AppNone || r.App.Forms == 0) {
		return
	}
	if anyPort {
		ports = everyPort
	}
	callers, callees := c.terms(from, SideOut, &r), c.terms(to, SideIn, &r)
	for _, f := range callers {
		for _, t := range callees {
			c.writePorts(f, t, r, ports)
		}
	}
	behind := c.behindBalancer(&r, callers, callees)
	r.Speaks = SpeaksIn
	for _, t := range behind {
		c.writePorts(uint32(IDLB), t, r, ports)
	}
}

func (c *compiler) writePorts(from, to uint32, r Rule, ports []PortRange) {
	r.From, r.FromPrefix = c.nameEnd(from)
	if isNameEnd(to) {
		r.To, r.Name = IDName, c.table.names.patterns[to-firstName].text
	} else {
		r.To, r.ToPrefix = c.nameEnd(to)
	}
	for _, p := range ports {
		p.Proto = p.Proto.normal()
		r.Ports = p
		c.writeRule(from, to, r)
	}
}

func (c *compiler) writeRule(from, to uint32, r Rule) {
	if c.buckets == nil {
		c.buckets, c.toNames = make(map[pairKey][]int32), make(map[pairKey][]int32)
	}
	k, buckets := keyOf(from, to, r.Ports.Proto), c.buckets
	if isNameEnd(to) {
		buckets = c.toNames
	}
	buckets[k] = append(buckets[k], int32(len(c.table.rules)))
	c.table.rules = append(c.table.rules, r)
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
	var out []uint32
	for _, t := range to {
		switch {
		case slices.Contains(c.balanced, t):
			out = append(out, t)
		case isRange(t):
			for _, v := range c.placed.variants[t] {
				if slices.Contains(c.balanced, c.placed.base[v]) {
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
	if isRange(end) {
		return c.rangeHoldsCaller(end)
	}
	return end >= uint32(FirstWorkloadIdentity) || end == uint32(IDWorkload)
}

var peerIdentity = [...]Identity{PeerHost: IDHost, PeerNode: IDNode, PeerResolver: IDResolver, PeerMetadata: IDMetadata,
	PeerOrchestrator: IDOrchestrator, PeerMulticast: IDMulticast, PeerBroadcast: IDBroadcast, PeerSite: IDSite,
	PeerInternet: IDInternet, PeerLB: IDLB, PeerIngress: IDIngress, PeerWorkload: IDWorkload, PeerAny: IDAny}

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
			c.selected(p.Selected, r, add)
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

func (c *compiler) selected(s *Selection, r *Rule, add func(uint32)) {
	if s == nil {
		return
	}
	for _, id := range s.Identities {
		if d, ok := c.table.byIdentity[id]; ok {
			add(d)
		}
	}
	for _, p := range s.Prefixes {
		add(c.rangeEnd(p, reachOf(r, true)))
	}
}

// layRules turns the buckets into the spans of the four layers.
func (c *compiler) layRules() {
	for f := range classCount {
		for t := range classCount {
			c.table.unruled[f][t] = c.decision(f, t, nil)
		}
	}
	if c.table.met = c.metPairs(); c.table.met != nil {
		c.onMeeting = true
	}
	byKey := make(map[pairKey][]span)
	for k := range c.keys() {
		if spans := c.spans(k); len(spans) > 0 {
			byKey[k] = spans
			c.noteLayers(k.from(), k.to())
		}
	}
	c.table.pairs = newPairTable(byKey)
}

func (c *compiler) noteLayers(from, to uint32) {
	peers := c.table.peers
	switch {
	case isClass(from) && isClass(to):
		c.table.classes = true
	case isClass(from):
		peers[to].layers |= classFrom
	case isClass(to):
		peers[from].layers |= classTo
	default:
		peers[from].layers |= pairFrom
		peers[to].layers |= pairTo
	}
}

// keys lists the keys of all layers, but of pairs that are laid when they are
// met, and of those that nobody guards: whatever rules say, they pass.
func (c *compiler) keys() map[pairKey]bool {
	keys := make(map[pairKey]bool, 2*len(c.buckets))
	halves := make(map[Proto]*[2]map[uint32]bool) // peers that a rule names whose other end is a wildcard, by side
	for k := range c.buckets {
		f, t, p := k.from(), k.to(), k.proto()
		if halves[p] == nil {
			halves[p] = &[2]map[uint32]bool{{}, {}}
		}
		switch {
		case isWildcard(f) && isWildcard(t):
			c.addKeys(keys, everyClass, everyClass, p)
		case isWildcard(f):
			tos := c.laidAhead(t)
			for _, t := range tos {
				halves[p][SideIn][t] = true
			}
			c.addKeys(keys, everyClass, tos, p)
		case isWildcard(t):
			froms := c.laidAhead(f)
			for _, f := range froms {
				halves[p][SideOut][f] = true
			}
			c.addKeys(keys, froms, everyClass, p)
		default:
			c.addKeys(keys, c.laidAhead(f), c.laidAhead(t), p)
		}
	}
	for p, h := range halves {
		c.addKeys(keys, slices.Collect(maps.Keys(h[SideOut])), slices.Collect(maps.Keys(h[SideIn])), p)
	}
	return keys
}

// everyClass are the classes that wildcards may match, as they stand in keys.
var everyClass = func() (out []uint32) {
	for k := range classUnknown {
		out = append(out, k.dense())
	}
	return out
}()

func (c *compiler) addKeys(keys map[pairKey]bool, froms, tos []uint32, p Proto) {
	guarded := slices.DeleteFunc(slices.Clone(tos), func(t uint32) bool { return !c.isGuarded(t) })
	for _, f := range froms {
		tos := tos
		if !c.isGuarded(f) {
			tos = guarded
		}
		for _, t := range tos {
			keys[keyOf(f, t, p)] = true
		}
	}
}

// isGuarded reports whether a peer or a class has a say.
func (c *compiler) isGuarded(dense uint32) bool {
	k := c.classAt(dense)
	return c.table.unruled[k][k].out.guarded
}

// laidAhead lists those of peersOf that have keys in the table.
func (c *compiler) laidAhead(end uint32) []uint32 {
	switch {
	case !c.onMeeting:
		return c.peersOf(end)
	case isRange(end):
		return nil
	}
	return []uint32{end}
}

// classAt is the class behind a dense number, which may stand for a class.
func (c *compiler) classAt(dense uint32) class {
	if isClass(dense) {
		return class(dense - firstClass)
	}
	return c.table.peers[dense].class
}

// spans cuts the ports of one key at the edges of all rules that apply there.
// names are patterns, as ends of rules, that the destination's name fits.
func (c *compiler) spans(k pairKey, names ...uint32) []span {
	var out []span
	c.cells(k, names, func(lo, hi uint16, _ []int32, d *Decision) {
		if n := len(out); n > 0 && out[n-1].decision == d && out[n-1].hi+1 == lo {
			out[n-1].hi = hi
			return
		}
		out = append(out, span{lo, hi, d})
	})
	return out
}

// cells is spans with the rules that apply in each; emit must not keep them.
func (c *compiler) cells(k pairKey, names []uint32, emit func(lo, hi uint16, rules []int32, d *Decision)) {
	cf, ct := c.classAt(k.from()), c.classAt(k.to())
	rules := c.rulesOf(k, names)
	slices.Sort(rules)
	var here []int32
	sweep(len(rules),
		func(i int) (lo, hi uint16) { r := c.table.rules[rules[i]].Ports; return r.Lo, r.Hi },
		func(lo, hi uint16, of []int32) {
			here = here[:0]
			for _, i := range of {
				here = append(here, rules[i])
			}
			emit(lo, hi, here, c.decision(cf, ct, here))
		})
}

// rulesOf lists the rules that apply to a key, in no order.
func (c *compiler) rulesOf(k pairKey, names []uint32) []int32 {
	cf, ct := c.classAt(k.from()), c.classAt(k.to())
	var rules []int32
	callees := c.endsOf(k.to(), ct)
	for _, f := range c.endsOf(k.from(), cf) {
		for _, t := range callees {
			rules = append(rules, c.buckets[keyOf(f, t, k.proto())]...)
		}
		for _, name := range names {
			rules = append(rules, c.toNames[keyOf(f, name, k.proto())]...)
		}
	}
	return rules
}

// spanAt is the widest span round port in which the same rules apply.
func (c *compiler) spanAt(k pairKey, port uint16) span {
	s := span{lo: 0, hi: 65535}
	rules := slices.DeleteFunc(c.rulesOf(k, nil), func(i int32) bool {
		r := &c.table.rules[i].Ports
		switch {
		case r.Hi < port:
			s.lo = max(s.lo, r.Hi+1)
		case r.Lo > port:
			s.hi = min(s.hi, r.Lo-1)
		default:
			s.lo, s.hi = max(s.lo, r.Lo), min(s.hi, r.Hi)
			return false
		}
		return true
	})
	slices.Sort(rules)
	s.decision = c.decision(c.classAt(k.from()), c.classAt(k.to()), rules)
	return s
}

// decision returns the one Decision for these rules, ascending, between peers
// of these classes.
func (c *compiler) decision(from, to class, rules []int32) *Decision {
	sig := make([]byte, 2, 2+4*len(rules))
	sig[0], sig[1] = byte(from), byte(to)
	for _, r := range rules {
		sig = binary.LittleEndian.AppendUint32(sig, uint32(r))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.interned[string(sig)]; d != nil {
		return d
	}
	reason := ReasonNoRule
	switch {
	case from == classUnknown || to == classUnknown:
		reason = ReasonUnknownPeer
	case from == classMulticast || to == classMulticast:
		reason = ReasonMulticast
	}
	d := &Decision{
		named: slices.ContainsFunc(rules, func(i int32) bool { return c.table.rules[i].Name != "" }),
		out:   c.sideDecision(from, SpeaksOut, reason, rules),
		in:    c.sideDecision(to, SpeaksIn, reason, rules),
	}
	d.settle()
	c.interned[string(sig)] = d
	return d
}

func (c *compiler) sideDecision(k class, side Speaks, reason Reason, rules []int32) sideDecision {
	mode := Enforce
	switch {
	case c.in.Transit && k > classObserving:
		mode = c.in.TransitMode
	case k == classObserving || k == classShutObserving:
		mode = Observe
	}
	except := c.excepted(rules)
	terms := make([]term, 0, len(rules))
	for _, i := range rules {
		r := &c.table.rules[i]
		if r.Except || r.Speaks != SpeaksBoth && r.Speaks != side || slices.Contains(except[r.Statement], excepted{app: AnyApp}) {
			continue
		}
		terms = append(terms, term{r.App, r.Name, except[r.Statement], rankOf(r.Tier, r.Verdict), r.Verdict, r.EnforceAlways && r.Verdict != Allow, i})
	}
	return newSideDecision(k.isGuarded() || c.in.Transit, mode, reason, terms)
}

// excepted collects, by statement, the applications that these rules take out of
// it.
func (c *compiler) excepted(rules []int32) map[int][]excepted {
	var out map[int][]excepted
	for _, i := range rules {
		r := &c.table.rules[i]
		e := excepted{r.App, r.Name}
		if !r.Except || slices.Contains(out[r.Statement], e) {
			continue
		}
		if out == nil {
			out = make(map[int][]excepted)
		}
		out[r.Statement] = append(out[r.Statement], e)
	}
	return out
}

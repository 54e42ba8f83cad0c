package policy

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/tidwall/btree"
)

// Query is one flow to look up: addresses as they are at the hook, in the
// zone of the endpoint that the packet was seen at; IPv4 v4-mapped. ICMP echo
// has DstPort 0 and ProtoICMP in both families.
type Query struct {
	Zone     Zone
	Src, Dst [16]byte
	Proto    Proto
	DstPort  uint16
}

// Judgement is the answer for a flow whose application is known, or cannot be.
type Judgement struct {
	Verdict Verdict // what to do, modes applied
	// Denied is policy's own answer before modes: true and Verdict Allow is a
	// violation that is only recorded.
	Denied bool
	Side   Side  // whose no it is
	Rule   int32 // index into Table.Rules of what decided, -1 = no rule
	Reason Reason
}

// Table is what statements compile to, with the snapshot that it was compiled
// for. It is immutable and safe for concurrent use; Lookup, Resolve and
// Initiator allocate nothing.
type Table struct {
	epoch      uint32
	resolver   resolver
	pairs      pairTable
	late       *latePairs // what differs from pairs since Compile; nil = nothing
	parts      []uint32   // see layers.go
	crowds     []uint32   // by crowd of callees: its division of callers, an index into parts
	unruled    [classCount][classCount]*Decision
	ids        []Identity // by dense number
	peers      []peerInfo // by dense number
	byIdentity *btree.Map[Identity, uint32]
	rules      []Rule
	sets       [][]RuleEnd // by Rule.FromSet and ToSet, from 1 on
	statements []*Statement
	updater    *updater // nil where nothing but workloads can change
	edited     *edited  // nil as Compile made it, but for workloads
	groups     []Group
	compiled   *Snapshot        // what Compile saw
	now        func() *Snapshot // what there is since then: other workloads, the same networks and host
	groupOf    []uint32         // dense number by index into compiled.Workloads
	met        *metPairs        // nil where all pairs are in pairs
	names      *nameTable
}

// peerInfo is what decide must know of an end before it looks for its rules.
type peerInfo struct {
	class    class
	layers   layers
	asCaller sideInfo
	asCallee sideInfo
}

// sideInfo is a peer as one end of flows: the crowd that it is of, and how the
// other end's crowds are divided for it, an index into Table.parts, 0 = not at all.
type sideInfo struct{ crowd, division uint32 }

// layers says in which of the keys of Table.pairs a peer occurs, so that a
// lookup skips layers that cannot have its key.
type layers uint8

const (
	pairFrom layers = 1 << iota // (this, a peer)
	pairTo                      // (a peer, this)
	nameFrom                    // (this, a name)
	lately                      // some key with this is in Table.late
)

// AskingTable lets everything pass, and asks of every flow what it speaks: for
// reading captures, where nobody is guarded.
func AskingTable(epoch uint32) *Table {
	t, err := Compile(Input{Epoch: epoch, Snapshot: &Snapshot{}})
	if err != nil {
		panic(err) // nothing is in it that could be wrong
	}
	for from := range t.unruled {
		for to := range t.unruled[from] {
			t.unruled[from][to] = &Decision{verdict: Undecided}
		}
	}
	return t
}

// snapshot is what the table holds for. It may be put together for this call.
func (t *Table) snapshot() *Snapshot { return t.now() }

// Epoch is the table's number.
func (t *Table) Epoch() uint32 { return t.epoch }

// Lookup returns what policy says of that flow, never nil. The initiator is
// Src.
func (t *Table) Lookup(q Query) *Decision { return t.lookup(&q, nil) }

func (t *Table) lookup(q *Query, held *NameUse) *Decision {
	q.Proto = q.Proto.normal()
	from, to, port := t.resolver.peers(q)
	if t.peers[from].layers&nameFrom != 0 {
		if d := t.atName(from, to, q, port, held); d != nil {
			return d
		}
	}
	return t.decide(from, to, q.Proto, port)
}

// decide looks through the layers, the most particular first (see layers.go).
func (t *Table) decide(from, to uint32, proto Proto, port uint16) *Decision {
	if t.met != nil && (from >= t.met.first || to >= t.met.first) {
		return t.met.decide(keyOf(from, to, proto), port)
	}
	caller, callee := &t.peers[from], &t.peers[to]
	if caller.layers&pairFrom != 0 && callee.layers&pairTo != 0 {
		if d := t.ofPair(keyOf(from, to, proto), caller.layers&callee.layers&lately != 0, port); d != nil {
			return d
		}
	}
	if callee.asCallee.division != 0 {
		if d := at(t.ofPartFrom(caller, callee.asCallee.division, to, proto), port); d != nil {
			return d
		}
	}
	if caller.asCaller.division != 0 {
		if d := at(t.ofPartTo(from, caller, callee, proto), port); d != nil {
			return d
		}
	}
	if t.crowds != nil {
		if d := at(t.ofCrowd(caller, callee, proto), port); d != nil {
			return d
		}
	}
	return t.unruled[caller.class][callee.class]
}

func (t *Table) ofPair(k pairKey, lately bool, port uint16) *Decision {
	if lately {
		if spans, found := t.late.get(k); found {
			return at(spans, port)
		}
	}
	return t.pairs.at(k, port)
}

// spansOf are the spans of a key of any layer.
func (t *Table) spansOf(k pairKey) []span {
	if t.late != nil {
		if spans, found := t.late.get(k); found {
			return spans
		}
	}
	return t.pairs.get(k)
}

// ofPartFrom are the spans of (a part of the callers' crowds, to).
func (t *Table) ofPartFrom(caller *peerInfo, division, to uint32, proto Proto) []span {
	part := t.parts[division+caller.asCaller.crowd]
	if part == 0 {
		return nil
	}
	return t.spansOf(keyOf(firstPart+part, to, proto))
}

// ofPartTo are the spans of (from, a part of the callees' crowds).
func (t *Table) ofPartTo(from uint32, caller, callee *peerInfo, proto Proto) []span {
	part := t.parts[caller.asCaller.division+callee.asCallee.crowd]
	if part == 0 {
		return nil
	}
	return t.spansOf(keyOf(from, firstPart+part, proto))
}

// ofCrowd are the spans of (a part of the callers' crowds, the callee's crowd).
func (t *Table) ofCrowd(caller, callee *peerInfo, proto Proto) []span {
	crowd := callee.asCallee.crowd
	if t.crowds[crowd] == 0 {
		return nil
	}
	return t.ofPartFrom(caller, t.crowds[crowd], firstCrowd+crowd, proto)
}

// spansBetween are those in which any rule applies between two peers, in order.
func (t *Table) spansBetween(from, to uint32, proto Proto) []span {
	if t.met != nil && (from >= t.met.first || to >= t.met.first) {
		return t.met.compiler.spans(keyOf(from, to, proto))
	}
	caller, callee := &t.peers[from], &t.peers[to]
	layers := [][]span{t.spansOf(keyOf(from, to, proto))}
	if division := callee.asCallee.division; division != 0 {
		layers = append(layers, t.ofPartFrom(caller, division, to, proto))
	}
	if caller.asCaller.division != 0 {
		layers = append(layers, t.ofPartTo(from, caller, callee, proto))
	}
	if t.crowds != nil {
		layers = append(layers, t.ofCrowd(caller, callee, proto))
	}
	all := slices.Concat(layers...)
	var out []span
	sweep(len(all), func(i int) (lo, hi uint16) { return all[i].lo, all[i].hi }, func(lo, hi uint16, of []int32) {
		out = appendSpan(out, span{lo, hi, all[of[0]].decision}) // those of the first layer come first
	})
	return out
}

// Resolve returns who is at both ends of that flow (section 1), and the
// responder's own port, which differs from DstPort behind a published port.
func (t *Table) Resolve(q Query) (from, to Identity, port uint16) {
	q.Proto = q.Proto.normal()
	f, d, port := t.resolver.peers(&q)
	return t.ids[f], t.ids[d], port
}

// Initiator says who began the flow of a segment that no flow knows (V9), from
// q.Src and srcPort to q.Dst. Where policy lets the sender begin it, reversed
// is false; where it lets the receiver call the sender's port, the segment is
// the reply of an old flow, reversed is true, and the decision is that flow's.
// What is only recorded counts after what is allowed. Without ok neither may.
func (t *Table) Initiator(q Query, srcPort uint16) (d *Decision, reversed, ok bool) {
	forward := t.Lookup(q)
	if forward.mayPass() {
		return forward, false, true
	}
	q.Src, q.Dst, q.DstPort = q.Dst, q.Src, srcPort
	back := t.Lookup(q)
	switch {
	case back.mayPass():
		return back, true, true
	case forward.verdict == Allow:
		return forward, false, true
	case back.verdict == Allow:
		return back, true, true
	}
	return forward, false, false
}

// mayPass reports whether policy, before modes, lets it pass with some
// application.
func (d *Decision) mayPass() bool { return !d.denied && (d.verdict == Allow || d.verdict == Undecided) }

// Rules returns rules by number; Judgement.Rule is an index into them. After With
// some may be none any more, which Whole does not have. Do not change them.
func (t *Table) Rules() []Rule { return t.rules }

// RuleEnd is one peer, or one prefix, of a rule's end.
type RuleEnd struct {
	Identity Identity
	Prefix   netip.Prefix // of IDPrefix
}

// Flat lists the rules with one peer or prefix on each side, each with the index
// of the rule that it is part of, of a table as it is Whole.
func (t *Table) Flat() iter.Seq2[int, Rule] {
	t = t.Whole()
	return func(yield func(int, Rule) bool) {
		for i := range t.rules {
			for r := range t.flat(&t.rules[i]) {
				if !yield(i, r) {
					return
				}
			}
		}
	}
}

func (t *Table) flat(r *Rule) iter.Seq[Rule] {
	return func(yield func(Rule) bool) {
		one := *r
		one.FromSet, one.ToSet = 0, 0
		for _, from := range t.ends(r.From, r.FromPrefix, r.FromSet) {
			one.From, one.FromPrefix = from.Identity, from.Prefix
			for _, to := range t.ends(r.To, r.ToPrefix, r.ToSet) {
				one.To, one.ToPrefix = to.Identity, to.Prefix
				if !yield(one) {
					return
				}
			}
		}
	}
}

// FlatCount is how many rules Flat lists. Of a table that With made it may differ:
// a workload counts once for each region of prefixes that it is in, and those of
// statements that are gone stay until Compile is asked. Who joined two selections of
// one statement counts once.
func (t *Table) FlatCount() int {
	if t.edited != nil {
		return t.edited.flat
	}
	n := 0
	for i := range t.rules {
		n += t.flatCount(&t.rules[i])
	}
	return n
}

func (t *Table) flatCount(r *Rule) int {
	return len(t.ends(r.From, r.FromPrefix, r.FromSet)) * len(t.ends(r.To, r.ToPrefix, r.ToSet))
}

func (t *Table) ends(id Identity, prefix netip.Prefix, set int) []RuleEnd {
	if id == IDSet {
		return t.sets[set]
	}
	return []RuleEnd{{id, prefix}}
}

// namedPrefixes calls yield for every prefix that rules name, some more than once.
func (t *Table) namedPrefixes(yield func(netip.Prefix) bool) {
	for i := range t.rules {
		r := &t.rules[i]
		for _, p := range [...]netip.Prefix{r.FromPrefix, r.ToPrefix} {
			if p.IsValid() && !yield(p) {
				return
			}
		}
	}
	for _, set := range t.sets {
		for _, e := range set {
			if e.Prefix.IsValid() && !yield(e.Prefix) {
				return
			}
		}
	}
}

// Statements returns what was compiled, pending ones included; Rule.Statement
// is an index into them. After With they are in no order, and some may be none any
// more: Whole has them as they are. Do not change them.
func (t *Table) Statements() []*Statement { return t.statements }

// Groups returns the groups that were compiled in. Do not change them.
func (t *Table) Groups() []Group { return t.groups }

// denseOf is the dense number of a group, 0 where there is none.
func (t *Table) denseOf(id Identity) uint32 {
	if t.byIdentity == nil {
		return 0
	}
	dense, _ := t.byIdentity.Get(id)
	return dense
}

// Group returns the group of a workload identity.
func (t *Table) Group(id Identity) (Group, bool) {
	dense := t.denseOf(id)
	if dense == 0 {
		return Group{}, false
	}
	at := int(dense - uint32(FirstWorkloadIdentity))
	if t.edited != nil {
		at = slices.IndexFunc(t.groups, func(g Group) bool { return g.Identity == id })
	}
	return t.groups[at], true
}

var identityNames = map[Identity]string{
	IDUnknown: "@unknown", IDHost: "@host", IDNode: "@node", IDResolver: "@resolver", IDMetadata: "@metadata",
	IDOrchestrator: "@orchestrator", IDMulticast: "@multicast", IDBroadcast: "@broadcast", IDSite: "@site",
	IDInternet: "@internet", IDLB: "@lb", IDIngress: "@ingress", IDPrefix: "@prefix", IDWorkload: "@workload", IDAny: "@any", IDEverybody: "@everybody",
}

// PeerNames are what people call the peers that are no workload, sorted: the ends of
// flows, as records have them.
func PeerNames() []string {
	var out []string
	for id, name := range identityNames {
		if id < IDEverybody {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// IdentityName is what people call an identity: "shop/db", "@internet".
func (t *Table) IdentityName(id Identity) string {
	if g, ok := t.Group(id); ok {
		return g.Service.String()
	}
	if name, ok := identityNames[id]; ok {
		return name
	}
	return "@unknown"
}

// RuleEnds is what people call the ends of a rule that Flat lists: "shop/db",
// "@internet", "cidr:10.9.0.0/24".
func (t *Table) RuleEnds(r *Rule) (from, to string) {
	name := func(id Identity, p netip.Prefix) string {
		if id == IDPrefix {
			return Peer{Kind: PeerCIDR, Prefix: p}.String()
		}
		return t.IdentityName(id)
	}
	return name(r.From, r.FromPrefix), name(r.To, r.ToPrefix)
}

// Identities returns the identities of a service, in the order of Groups.
func (t *Table) Identities(k ServiceKey) []Identity {
	var out []Identity
	for _, g := range t.groups {
		if g.Service == k {
			out = append(out, g.Identity)
		}
	}
	return slices.Clip(out)
}

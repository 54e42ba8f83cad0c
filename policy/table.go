package policy

import (
	"net/netip"
	"slices"
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
	classes    bool // some of pairs are of two classes
	unruled    [classCount][classCount]*Decision
	ids        []Identity // by dense number
	peers      []peerInfo // by dense number
	byIdentity map[Identity]uint32
	rules      []Rule
	statements []Statement
	groups     []Group
	snapshot   *Snapshot
	groupOf    []uint32  // dense number by index into snapshot.Workloads
	met        *metPairs // nil where all pairs are in pairs
	names      nameTable
}

// peerInfo is what decide must know of an end before it looks for its rules.
type peerInfo struct {
	class  class
	layers layers
}

// layers says in which of the keys of Table.pairs a peer occurs, so that a
// lookup skips layers that cannot have its key.
type layers uint8

const (
	pairFrom  layers = 1 << iota // (this, a peer)
	pairTo                       // (a peer, this)
	classTo                      // (this, a class)
	classFrom                    // (a class, this)
	nameFrom                     // (this, a name)
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

// decide looks through the layers, the most particular first (see Compile).
func (t *Table) decide(from, to uint32, proto Proto, port uint16) *Decision {
	if t.met != nil && (from >= t.met.first || to >= t.met.first) {
		return t.met.decide(keyOf(from, to, proto), port)
	}
	if d := at(t.spansBetween(from, to, proto), port); d != nil {
		return d
	}
	return t.unruled[t.peers[from].class][t.peers[to].class]
}

// spansBetween are those of the most particular layer that has any.
func (t *Table) spansBetween(from, to uint32, proto Proto) []span {
	caller, callee := t.peers[from], t.peers[to]
	if t.met != nil && (from >= t.met.first || to >= t.met.first) {
		return t.met.compiler.spans(keyOf(from, to, proto))
	}
	var spans []span
	if caller.layers&pairFrom != 0 && callee.layers&pairTo != 0 {
		spans = t.pairs.get(keyOf(from, to, proto))
	}
	if spans == nil && callee.layers&classFrom != 0 {
		spans = t.pairs.get(keyOf(caller.class.dense(), to, proto))
	}
	if spans == nil && caller.layers&classTo != 0 {
		spans = t.pairs.get(keyOf(from, callee.class.dense(), proto))
	}
	if spans == nil && t.classes {
		spans = t.pairs.get(keyOf(caller.class.dense(), callee.class.dense(), proto))
	}
	return spans
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

// Rules returns all rules; Judgement.Rule is an index into them. Do not change
// them.
func (t *Table) Rules() []Rule { return t.rules }

// Statements returns what was compiled, pending ones included; Rule.Statement
// is an index into them. Do not change them.
func (t *Table) Statements() []Statement { return t.statements }

// Groups returns the groups that were compiled in. Do not change them.
func (t *Table) Groups() []Group { return t.groups }

// Group returns the group of a workload identity.
func (t *Table) Group(id Identity) (Group, bool) {
	dense, ok := t.byIdentity[id]
	if !ok {
		return Group{}, false
	}
	return t.groups[dense-uint32(FirstWorkloadIdentity)], true
}

var identityNames = map[Identity]string{
	IDUnknown: "@unknown", IDHost: "@host", IDNode: "@node", IDResolver: "@resolver", IDMetadata: "@metadata",
	IDOrchestrator: "@orchestrator", IDMulticast: "@multicast", IDBroadcast: "@broadcast", IDSite: "@site",
	IDInternet: "@internet", IDLB: "@lb", IDIngress: "@ingress", IDPrefix: "@prefix", IDWorkload: "@workload", IDAny: "@any",
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

// RuleEnds is what people call the ends of a rule: "shop/db", "@internet",
// "cidr:10.9.0.0/24".
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

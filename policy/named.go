package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/btree"
)

// How names reach a verdict. A name's rules are laid out when an answer is
// noted, not when the table is compiled: which rules meet at an address depends
// on which names lead there. They are found by workload and address, and hold
// where the address is the internet's or the site's; whatever section 1 finds
// at an address before that is who it is.

// nameRules is what policy says of one group, a set of patterns and what is at
// the address without them, for each number that the caller has (see prefixes.go).
type nameRules []callerRules

type callerRules struct {
	from, to uint32 // to: site or internet, in their region
	spans    [3][]span
}

// nameProtos are those of callerRules.spans.
var nameProtos = [3]Proto{ProtoTCP, ProtoUDP, ProtoICMP}

// firstName numbers the first pattern as the end of a rule, below the prefixes;
// no peer has such a number.
const firstName = 1 << (pairBits - 2)

func isNameEnd(end uint32) bool { return end >= firstName && end < firstCollective }

// named is what a workload's flows to one address may do. all holds for those
// that live, of names whose time is over too.
type named struct {
	use       *NameUse
	live, all nameRules // nil = nothing
}

// namedAddresses finds named by the workload's number and address.
type namedAddresses struct {
	mu sync.RWMutex
	m  map[addrKey]*named
}

func (n *namedAddresses) get(workload int32, a address) *named {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.m[addrKey{uint32(workload), a}]
}

func (n *namedAddresses) set(workload int32, a address, v *named) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if v == nil {
		delete(n.m, addrKey{uint32(workload), a})
		return
	}
	n.m[addrKey{uint32(workload), a}] = v
}

// nameTable is a table's part in names; immutable, but for found and for what the
// compilers and made keep, which Names.mu guards. Tables that follow from one another
// share those: whoever comes to ask gets a number that nobody had, and what was
// laid for him stands until he is gone.
type nameTable struct {
	patterns []namePattern
	of       map[uint32][]uint32 // patterns by caller
	indexOf  map[string]int32    // workload id -> index, of those that might ask when the table was compiled
	private  []netip.Prefix      // site addresses that names may have
	found    *namedAddresses     // nil where nobody ever might ask
	compiler *compiler           // lays what those asked for whom Compile knew
	made     map[string]nameRules

	came    []asker                   // who came since, numbered from len(Table.groupOf) on
	numbers *btree.Map[string, int32] // by workload id, before indexOf; nobody = it is gone
	apart   map[uint32]*compiler      // what lays what groups asked that came since
	left    []numbered                // who is gone since the table before
}

type numbered struct {
	id     string
	number int32
}

// asker is a workload that came since its table was compiled.
type asker struct {
	id    string
	group uint32
}

// maxCame bounds who came since all was compiled, be they there or gone.
const maxCame = 1 << 12

// next is a copy for a table that follows.
func (n *nameTable) next() *nameTable {
	o := *n
	o.patterns, o.came, o.left = slices.Clip(o.patterns), slices.Clip(o.came), nil
	if o.numbers == nil {
		o.numbers = new(btree.Map[string, int32])
	} else {
		o.numbers = o.numbers.Copy()
	}
	return &o
}

// part takes the number of a workload that is gone.
func (n *nameTable) part(id string) {
	number, is := n.numbers.Get(id)
	if !is {
		if number, is = n.indexOf[id]; !is {
			return // it never might ask
		}
	}
	n.left = append(n.left, numbered{id, number})
	if _, compiled := n.indexOf[id]; compiled {
		n.numbers.Set(id, nobody)
	} else {
		n.numbers.Delete(id)
	}
}

// asks reports whether a group may reach names, or look up nothing else.
func (n *nameTable) asks(group uint32) bool {
	_, asks := n.of[group]
	return asks
}

// groupAt is the group of a numbered workload.
func (t *Table) groupAt(workload int32) (group uint32, ok bool) {
	if workload < 0 {
		return 0, false
	}
	if int(workload) < len(t.groupOf) {
		return t.groupOf[workload], true
	}
	if i := int(workload) - len(t.groupOf); i < len(t.names.came) {
		return t.names.came[i].group, true
	}
	return 0, false
}

// number is a workload's that may ask.
func (t *Table) number(id string) (workload int32, ok bool) {
	if t.names.numbers != nil {
		if workload, ok = t.names.numbers.Get(id); ok {
			return workload, workload != nobody
		}
	}
	workload, ok = t.names.indexOf[id]
	return workload, ok
}

func (t *Table) idAt(workload int32) string {
	if int(workload) < len(t.groupOf) {
		return t.compiled.Workloads[workload].ID
	}
	return t.names.came[int(workload)-len(t.groupOf)].id
}

// enlist numbers a workload that came and may ask. It is false where too many came
// since all was compiled.
func (t *Table) enlist(id string, group uint32) (workload int32, ok bool) {
	n := t.names
	if len(n.came) >= maxCame {
		return 0, false
	}
	workload = int32(len(t.groupOf) + len(n.came))
	n.came = append(n.came, asker{id, group})
	n.numbers.Set(id, workload)
	return workload, true
}

// atName is the decision for a flow to an outside address, or nil.
func (t *Table) atName(from, to uint32, q *Query, port uint16, held *NameUse) *Decision {
	if id := t.ids[to]; id != IDInternet && id != IDSite {
		return nil
	}
	_, workload := t.resolver.callerAt(q.Zone, addressOf(&q.Src))
	if workload == nobody {
		return nil
	}
	if t.names.found == nil {
		return nil
	}
	n := t.names.found.get(workload, addressOf(&q.Dst))
	if n == nil {
		return nil
	}
	rules := n.live
	if held != nil && held == n.use {
		rules = n.all
	}
	proto := slices.Index(nameProtos[:], q.Proto)
	for i := range rules {
		r := &rules[i]
		if r.from != from || r.to != to || proto < 0 {
			continue
		}
		if d := at(r.spans[proto], port); d != nil {
			return d
		}
		return t.unruled[t.peers[from].class][t.peers[to].class]
	}
	return nil
}

// NameUse returns the address of q as its sender knows it by names, nil where
// it does not.
func (t *Table) NameUse(q Query) *NameUse {
	_, workload := t.resolver.callerAt(q.Zone, addressOf(&q.Src))
	if workload == nobody || t.names.found == nil {
		return nil
	}
	if n := t.names.found.get(workload, addressOf(&q.Dst)); n != nil {
		return n.use
	}
	return nil
}

// LookupHeld is Lookup for a flow that holds the address: names whose time is
// over count too.
func (t *Table) LookupHeld(q Query, held *NameUse) *Decision { return t.lookup(&q, held) }

// Asker says whose DNS queries a flow carries, if they are of interest: q goes
// to a name server of the sending workload, and some statement lets that
// workload reach names, or look up nothing but such names. The workload is the
// number that the tables which follow from one another know it by.
func (t *Table) Asker(q Query) (workload int32, ok bool) {
	if q.DstPort != 53 || t.names.of == nil || q.Proto != ProtoUDP && q.Proto != ProtoTCP {
		return nobody, false
	}
	dns, workload := t.resolver.callerAt(q.Zone, addressOf(&q.Src))
	if workload == nobody || !slices.Contains(t.resolver.dns[dns], addressOf(&q.Dst)) {
		return nobody, false
	}
	group, ok := t.groupAt(workload)
	if !ok || !t.names.asks(group) {
		return nobody, false
	}
	return workload, true
}

// AskerOf is the number of a workload that statements let reach names, as Asker
// tells it; -1 for others.
func (t *Table) AskerOf(id string) int32 {
	if workload, ok := t.number(id); ok {
		return workload
	}
	return nobody
}

// MayAsk reports whether some statement lets that workload reach the name.
func (t *Table) MayAsk(workload int32, name string) bool {
	group, ok := t.groupAt(workload)
	if !ok {
		return false
	}
	for _, p := range t.names.of[group] {
		if nameFits(t.names.patterns[p].text, name) {
			return true
		}
	}
	return false
}

// NamesFor lists the names that statements let that workload reach, and so look
// up where it may look up nothing else.
func (t *Table) NamesFor(workload int32) []string {
	var out []string
	group, ok := t.groupAt(workload)
	if !ok {
		return out
	}
	for _, p := range t.names.of[group] {
		if text := t.names.patterns[p].text; !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

// nameVerdict is whether an address may be learned by a name.
type nameVerdict uint8

const (
	notAName nameVerdict = iota // no pattern fits
	notThere                    // the address must not be the name's
	isNamed
)

func (t *Table) nameMayBe(who uint32, name string, a address) nameVerdict {
	v := notAName
	for _, p := range t.names.of[who] {
		pattern := &t.names.patterns[p]
		if !nameFits(pattern.text, name) {
			continue
		}
		if _, ok := t.nameAt(pattern, a); ok {
			return isNamed
		}
		v = notThere
	}
	return v
}

// nameAt is what is at an address that a name leads to, and whether it may be
// the name's: the internet's always, the site's only where the statement or a
// setting says so, what is a container's, the host's or nobody's never.
func (t *Table) nameAt(p *namePattern, a address) (to uint32, ok bool) {
	s := t.resolver.spotAt(a)
	if s.endpoint != nobody || s.host || s.node || s.metadata || s.broadcast {
		return 0, false
	}
	to = t.resolver.elsewhere(0, a, s)
	who, ip := t.ids[to], a.netip()
	switch {
	case who != IDInternet && who != IDSite:
		return to, false
	case p.within.IsValid():
		return to, p.within.Contains(ip)
	case who == IDInternet:
		return to, true
	}
	return to, slices.ContainsFunc(t.names.private, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// bind writes down what an address stands for, for a workload.
func (t *Table) bind(id string, u *NameUse, now time.Time) {
	workload, ok := t.number(id)
	if !ok {
		return
	}
	n := &named{use: u,
		live: t.nameRules(workload, u, func(k *knownAddress) bool { return k.until.After(now) }),
		all:  t.nameRules(workload, u, func(*knownAddress) bool { return true })}
	if n.all == nil {
		n = nil
	}
	t.names.found.set(workload, u.address, n)
}

func (t *Table) unbind(id string, u *NameUse) {
	if workload, ok := t.number(id); ok {
		t.names.found.set(workload, u.address, nil)
	}
}

// nameRules lays the rules of all patterns that the address's names fit; nil
// where none does.
func (t *Table) nameRules(workload int32, u *NameUse, counts func(*knownAddress) bool) nameRules {
	group, _ := t.groupAt(workload)
	var fit []uint32
	to := uint32(IDUnknown)
	for _, p := range t.names.of[group] {
		pattern := &t.names.patterns[p]
		if !slices.ContainsFunc(u.names, func(k *knownAddress) bool { return counts(k) && nameFits(pattern.text, k.name) }) {
			continue
		}
		if at, ok := t.nameAt(pattern, u.address); ok {
			fit, to = append(fit, p), at
		}
	}
	if len(fit) == 0 {
		return nil
	}
	key := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, group), to)
	for _, p := range fit {
		key = binary.LittleEndian.AppendUint32(key, p)
	}
	if r := t.names.made[string(key)]; r != nil {
		return r
	}
	for i := range fit {
		fit[i] += firstName
	}
	var out nameRules
	c, froms := t.names.apart[group], []uint32{group}
	if c == nil {
		c = t.names.compiler
		froms = c.peersOf(group)
	}
	for _, from := range froms {
		r := callerRules{from: from, to: to}
		for i, proto := range nameProtos {
			r.spans[i] = c.spans(keyOf(from, to, proto), fit...)
		}
		out = append(out, r)
	}
	t.names.made[string(key)] = out
	return out
}

// pattern numbers the patterns of names.
func (c *compiler) pattern(p *Peer) uint32 {
	k := namePattern{text: p.Name}
	if p.Prefix.IsValid() {
		k.within = plain(p.Prefix)
	}
	i, ok := c.patterns[k]
	if !ok {
		if c.patterns == nil {
			c.patterns = make(map[namePattern]uint32)
		}
		i = uint32(len(c.table.names.patterns))
		c.patterns[k] = i
		c.table.names.patterns = append(c.table.names.patterns, k)
	}
	return i
}

// asksNames reports whether s is about names: then the workload at an address
// counts, not its group alone.
func asksNames(s Statement) bool {
	return s.NamesOnly || slices.ContainsFunc(s.To, func(p Peer) bool { return p.Kind == PeerName })
}

// layNames notes who may reach which names, and keeps what their rules are laid
// from when an answer comes. of are the patterns that each group may reach.
func (c *compiler) layNames(of map[uint32][]uint32) {
	t := c.table
	for group, patterns := range of {
		slices.Sort(patterns)
		of[group] = slices.Compact(patterns)
		for _, dense := range c.peersOf(group) {
			t.peers[dense].layers |= nameFrom
		}
	}
	c.noteLookups(of)
	if len(of) == 0 {
		return
	}
	t.names.of, t.names.made, t.names.compiler = of, make(map[string]nameRules), c
	t.names.private = c.in.PrivateNames
	t.names.found = &namedAddresses{m: make(map[addrKey]*named)}
	t.names.indexOf = make(map[string]int32)
	for i, group := range t.groupOf {
		if _, asks := of[group]; asks {
			t.names.indexOf[c.in.Snapshot.Workloads[i].ID] = int32(i)
		}
	}
}

// nameCallers lists the patterns that each group may reach, as far as the memory
// budget goes.
func (c *compiler) nameCallers() map[uint32][]uint32 {
	of := make(map[uint32][]uint32)
	for k, rules := range c.toNames {
		if c.isSpent() {
			break
		}
		pattern := k.to() - firstName
		callers := len(c.table.groups)
		if !isWildcard(k.from()) {
			callers = len(c.peersOf(k.from()))
		}
		c.charge(rules, 12*callers, 0) // as the lists grow
		if isWildcard(k.from()) {
			for i := range c.table.groups {
				group := uint32(FirstWorkloadIdentity) + uint32(i)
				of[group] = append(of[group], pattern)
			}
			continue
		}
		for _, dense := range c.peersOf(k.from()) {
			if dense = c.placed.base[dense]; dense >= uint32(FirstWorkloadIdentity) {
				of[dense] = append(of[dense], pattern)
			}
		}
	}
	return of
}

// noteLookups adds those who may look up names only, be there none (R18).
func (c *compiler) noteLookups(of map[uint32][]uint32) {
	for i := range c.table.rules {
		r := &c.table.rules[i]
		if !c.table.statements[r.Statement].NamesOnly {
			continue
		}
		for _, from := range c.table.ends(r.From, r.FromPrefix, r.FromSet) {
			if group, ok := c.table.byIdentity.Get(from.Identity); ok && of[group] == nil {
				of[group] = []uint32{}
			}
		}
	}
}

// NameStatements lists the statements, as indices into Statements, that let an
// identity reach a name.
func (t *Table) NameStatements(id Identity, name string) []int {
	dense, ok := t.byIdentity.Get(id)
	if !ok {
		return nil
	}
	var out []int
	c := t.names.apart[dense]
	if c == nil {
		c = t.names.compiler
	}
	if c == nil || !t.names.asks(dense) {
		return nil
	}
	for k, rules := range c.toNames {
		if !nameFits(t.names.patterns[k.to()-firstName].text, name) || k.from() != dense && !c.means(k.from(), dense) {
			continue
		}
		for _, i := range rules {
			out = append(out, t.rules[i].Statement)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// means reports whether a rule's end means a group, at some of its addresses.
func (c *compiler) means(end, group uint32) bool {
	if isWildcard(end) {
		return c.parties[group].class.isIn(end)
	}
	return slices.ContainsFunc(c.peersOf(end), func(dense uint32) bool { return c.placed.base[dense] == group })
}

// Blind is a service whose DNS cannot be read, though statements let it reach
// names.
type Blind struct {
	Service ServiceKey
	Why     string
}

// NamesBlind lists services whose containers have no name server but the
// loopback's: the engine may ask those from the host's own namespace, where no
// hook of the container sees query or answer.
func (t *Table) NamesBlind() []Blind {
	var out []Blind
	if len(t.names.of) == 0 {
		return nil
	}
	snapshot := t.snapshot()
	for i := range snapshot.Workloads {
		w := &snapshot.Workloads[i]
		group := uint32(0)
		if workload, numbered := t.number(w.ID); numbered {
			group, _ = t.groupAt(workload)
		}
		patterns, asks := t.names.of[group]
		servers := w.DNS
		if len(servers) == 0 {
			servers = snapshot.Host.Resolvers
		}
		seen := slices.ContainsFunc(servers, func(a netip.Addr) bool { return !a.IsLoopback() }) && (len(w.DNS) > 0 || !snapshot.Host.LoopbackDNS)
		if !asks || seen || w.SharedWith != "" {
			continue
		}
		b := Blind{Service: w.Service, Why: "the engine may reach its name servers from the host's namespace: then names of statements are not learned, and so not allowed; give it a dns: that is no loopback address"}
		if len(patterns) == 0 {
			b.Why = "the engine may reach its name servers from the host's namespace: then what it looks up is not seen, and dns: names does not bind; give it a dns: that is no loopback address"
		}
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

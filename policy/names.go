package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Names is what workloads were told of names: which addresses a name that some
// statement allows had in an answer to that very workload's own query. It is
// the one thing of this package that changes after it was made, and outlives
// tables: each table that is attached finds there what it may.
//
// What one workload was told counts for no other, so that one which has its own
// name servers or names in hand opens nothing for its neighbours. An address
// counts until its time is over, and for the flows that live on it as long as
// they do. All methods are safe for concurrent use; Note and Sweep allocate and
// lock, a table's Lookup only reads.
type Names struct {
	limits  NameLimits
	refused [nameRefusalCount]atomic.Uint64

	mu        sync.Mutex
	workloads map[string]*knownNames // by Workload.ID
	total     int                    // addresses
	// tables are the last two attached: the one in force, and the one that is
	// about to be.
	tables  [2]*Table
	changed uint64
}

// NameLimits bound what Names keeps; zero fields mean the defaults.
type NameLimits struct {
	// Floor and Ceiling bound how long an answer counts, whatever its TTL says;
	// 0 = 60 s and 24 h. The floor carries programs over that connect a little
	// later than they asked.
	Floor, Ceiling time.Duration
	PerWorkload    int // names; 0 = 256
	PerName        int // addresses; 0 = 128
	Addresses      int // of one workload; 0 = 1,024
	Total          int // addresses of all; 0 = 65,536
}

func (l *NameLimits) setDefaults() {
	def := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	if l.Floor <= 0 {
		l.Floor = 60 * time.Second
	}
	if l.Ceiling <= 0 {
		l.Ceiling = 24 * time.Hour
	}
	def(&l.PerWorkload, 256)
	def(&l.PerName, 128)
	def(&l.Addresses, 1024)
	def(&l.Total, 1<<16)
}

// NameRefusal says why part of an answer was not learned.
type NameRefusal uint8

const (
	NamePrivate      NameRefusal = iota // an address that is not the internet's, and that neither setting nor statement lets names have
	NameTooMany                         // the workload's names are used up
	NameAddresses                       // all addresses of the name, or of the workload, have live flows
	NameTotal                           // all addresses there is room for have live flows
	NameUnasked                         // an answer to no question that was let through
	NameMalformed                       // it could not be read
	NameInPieces                        // in more than one packet, and the names behind the first
	NameBusy                            // too many questions, or DNS connections, at once
	nameRefusalCount                    // not a refusal
)

var nameRefusalNames = [nameRefusalCount]string{"private", "names", "addresses", "total", "unasked", "malformed", "fragments", "busy"}

func (r NameRefusal) String() string { return nameOf(nameRefusalNames[:], int(r)) }

// Answer is what a resolver said to one question.
type Answer struct {
	Name     string   // of the question, as CanonicalName has it
	Chain    []string // the names that it leads to (CNAME, DNAME), in order
	Resolver netip.Addr
	// Addresses of the name the chain ends with, each with the least TTL on the
	// way to it.
	Addresses []AnswerAddress
}

// AnswerAddress is one address of an Answer.
type AnswerAddress struct {
	IP  netip.Addr
	TTL time.Duration
}

// NameUse is one address as one workload knows it by names. A flow that was let
// pass by it holds it.
type NameUse struct {
	address address
	flows   atomic.Int32
	names   []*knownAddress // guarded by Names.mu
	// keep is until when it stays without a flow: a gateway that begins again
	// has its flows to take over first.
	keep time.Time
}

// Hold keeps the address for a flow until Release.
func (u *NameUse) Hold() { u.flows.Add(1) }

// Release ends a Hold.
func (u *NameUse) Release() { u.flows.Add(-1) }

type knownNames struct {
	names     map[string]*knownName
	addresses map[address]*NameUse
}

type knownName struct {
	name      string
	chain     []string
	resolver  netip.Addr
	at        time.Time // of the last answer
	addresses int
}

type knownAddress struct {
	*knownName
	until time.Time
}

// NewNames returns a store that knows nothing yet.
func NewNames(l NameLimits) *Names {
	l.setDefaults()
	return &Names{limits: l, workloads: make(map[string]*knownNames)}
}

// Refuse counts a refusal that was found before Note.
func (n *Names) Refuse(r NameRefusal) { n.refused[r].Add(1) }

// Refused are the refusals since the start, by name.
func (n *Names) Refused() map[string]uint64 {
	out := make(map[string]uint64, nameRefusalCount)
	for r := range nameRefusalCount {
		if k := n.refused[r].Load(); k > 0 {
			out[r.String()] = k
		}
	}
	return out
}

// Note learns an answer to a workload, which is its number in t (Table.Asker). When it returns, tables let pass what follows.
func (n *Names) Note(t *Table, workload int32, a *Answer, now time.Time) {
	who, ok := t.groupAt(workload)
	if !ok {
		return
	}
	id := t.idAt(workload)
	n.mu.Lock()
	defer n.mu.Unlock()
	asker := n.workloads[id]
	for _, x := range a.Addresses {
		ip := addressFrom(x.IP)
		switch t.nameMayBe(who, a.Name, ip) {
		case notAName:
			return // no statement is about it
		case notThere:
			n.refused[NamePrivate].Add(1)
			continue
		}
		if asker == nil {
			asker = &knownNames{names: make(map[string]*knownName), addresses: make(map[address]*NameUse)}
			n.workloads[id] = asker
		}
		n.learn(id, asker, a, ip, now, now.Add(min(max(x.TTL, n.limits.Floor), n.limits.Ceiling)))
	}
	n.forgetEmpty(id, asker)
}

// learn puts one address into the truth and into the tables.
func (n *Names) learn(id string, w *knownNames, a *Answer, ip address, now, until time.Time) {
	name := w.names[a.Name]
	if name == nil {
		if len(w.names) >= n.limits.PerWorkload && !n.dropName(id, w, now) {
			n.refused[NameTooMany].Add(1)
			return
		}
		name = &knownName{name: a.Name}
	}
	defer func() {
		if name.addresses == 0 {
			delete(w.names, name.name)
			return
		}
		w.names[name.name] = name
	}()
	name.chain, name.resolver, name.at = a.Chain, a.Resolver, now
	n.changed++
	use := w.addresses[ip]
	if use != nil {
		if k := use.of(name); k != nil {
			lapsed := !k.until.After(now)
			k.until = laterOf(k.until, until)
			if lapsed {
				n.bind(id, use, now)
			}
			return
		}
	}
	if name.addresses >= n.limits.PerName && !n.dropOne(id, w, name, now) ||
		use == nil && len(w.addresses) >= n.limits.Addresses && !n.dropOne(id, w, nil, now) {
		n.refused[NameAddresses].Add(1)
		return
	}
	if use = w.addresses[ip]; use == nil {
		if n.total >= n.limits.Total && !n.dropFromLargest(now) {
			n.refused[NameTotal].Add(1)
			return
		}
		use = &NameUse{address: ip}
		w.addresses[ip] = use
		n.total++
	}
	use.names = append(use.names, &knownAddress{name, until})
	name.addresses++
	n.bind(id, use, now)
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (u *NameUse) of(name *knownName) *knownAddress {
	for _, k := range u.names {
		if k.knownName == name {
			return k
		}
	}
	return nil
}

// until is when the last of its names is over.
func (u *NameUse) until() (t time.Time) {
	for _, k := range u.names {
		t = laterOf(t, k.until)
	}
	return t
}

// dropSample is of how many addresses that may go one goes.
const dropSample = 16

// dropOne makes room: an address of that name, or of any, without flows goes. Of a
// few that come to hand, as maps give them, it is the one whose time is over first:
// whoever has many answered does not make the gateway look through all for each.
func (n *Names) dropOne(id string, w *knownNames, name *knownName, now time.Time) bool {
	var first *NameUse
	var least time.Time
	seen := 0
	for _, u := range w.addresses {
		if u.flows.Load() > 0 || name != nil && u.of(name) == nil {
			continue
		}
		if until := u.until(); first == nil || until.Before(least) {
			first, least = u, until
		}
		if seen++; seen == dropSample {
			break
		}
	}
	if first == nil {
		return false
	}
	if name == nil {
		n.remove(id, w, first)
		return true
	}
	n.unname(id, w, first, now, func(k *knownAddress) bool { return k.knownName == name })
	return true
}

// dropName makes room for a name: the one answered longest ago that no flow
// lives on goes.
func (n *Names) dropName(id string, w *knownNames, now time.Time) bool {
	busy := make(map[*knownName]bool)
	for _, u := range w.addresses {
		for _, k := range u.names {
			busy[k.knownName] = busy[k.knownName] || u.flows.Load() > 0
		}
	}
	var oldest *knownName
	for _, name := range w.names {
		if !busy[name] && (oldest == nil || name.at.Before(oldest.at)) {
			oldest = name
		}
	}
	if oldest == nil {
		return false
	}
	for _, u := range w.addresses {
		if u.of(oldest) != nil {
			n.unname(id, w, u, now, func(k *knownAddress) bool { return k.knownName == oldest })
		}
	}
	return true
}

// dropFromLargest makes room for all: the workload that has most gives.
func (n *Names) dropFromLargest(now time.Time) bool {
	var most string
	for id, w := range n.workloads {
		if m := n.workloads[most]; m == nil || len(w.addresses) > len(m.addresses) {
			most = id
		}
	}
	w := n.workloads[most]
	return w != nil && n.dropOne(most, w, nil, now)
}

// unname takes names from an address, and forgets it with the last.
func (n *Names) unname(id string, w *knownNames, u *NameUse, now time.Time, which func(*knownAddress) bool) {
	u.names = slices.DeleteFunc(u.names, func(k *knownAddress) bool {
		if which(k) {
			w.lose(k)
			return true
		}
		return false
	})
	n.changed++
	if len(u.names) == 0 {
		n.remove(id, w, u)
		return
	}
	n.bind(id, u, now)
}

func (n *Names) remove(id string, w *knownNames, u *NameUse) {
	for _, k := range u.names {
		w.lose(k)
	}
	u.names = nil
	delete(w.addresses, u.address)
	n.total--
	n.changed++
	for _, t := range n.tables {
		if t != nil {
			t.unbind(id, u)
		}
	}
}

func (w *knownNames) lose(k *knownAddress) {
	if k.addresses--; k.addresses == 0 {
		delete(w.names, k.name)
	}
}

func (n *Names) forgetEmpty(id string, w *knownNames) {
	if w != nil && len(w.addresses) == 0 {
		delete(n.workloads, id)
	}
}

// bind tells the tables what an address stands for now.
func (n *Names) bind(id string, u *NameUse, now time.Time) {
	for _, t := range n.tables {
		if t != nil {
			t.bind(id, u, now)
		}
	}
}

// Sweep ends what is over: an address counts for new flows no longer than until
// the first Sweep after its time, and is forgotten once no flow lives on it.
// Workloads that are gone take theirs with them.
func (n *Names) Sweep(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	here := n.here()
	for id, w := range n.workloads {
		gone := here != nil && !here[id]
		for _, u := range w.addresses {
			idle := u.flows.Load() == 0 && now.After(u.keep)
			switch {
			case gone && idle, idle && !u.until().After(now):
				n.remove(id, w, u)
			case slices.ContainsFunc(u.names, func(k *knownAddress) bool { return !k.until.After(now) }):
				if idle {
					n.unname(id, w, u, now, func(k *knownAddress) bool { return !k.until.After(now) })
					continue
				}
				n.bind(id, u, now)
			}
		}
		n.forgetEmpty(id, w)
	}
}

// here is who runs, by the last table; nil where there is none.
func (n *Names) here() map[string]bool {
	t := n.tables[1]
	if t == nil {
		return nil
	}
	snapshot := t.snapshot()
	here := make(map[string]bool, len(snapshot.Workloads))
	for i := range snapshot.Workloads {
		here[snapshot.Workloads[i].ID] = true
	}
	return here
}

// Attach lets t know what is known, now and from now on; until then its
// statements to names match nothing. It is to be the next table in force: the one
// before the last that was attached learns nothing any more.
func (n *Names) Attach(t *Table, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := n.tables[1]
	n.tables = [2]*Table{last, t}
	if last != nil && last.names.found == t.names.found { // it follows (Table.With)
		for _, gone := range last.names.left { // the table that knew them is not in force any more
			if w := n.workloads[gone.id]; w != nil {
				for a := range w.addresses {
					t.names.found.set(gone.number, a, nil)
				}
			}
		}
		for i := len(last.names.came); i < len(t.names.came); i++ {
			id := t.names.came[i].id
			if w := n.workloads[id]; w != nil {
				for _, u := range w.addresses {
					t.bind(id, u, now)
				}
			}
		}
		return
	}
	for id, w := range n.workloads {
		for _, u := range w.addresses {
			t.bind(id, u, now)
		}
	}
}

// KnownName is one address that a workload knows by one name.
type KnownName struct {
	Workload string     `json:"workload"` // Workload.ID
	Name     string     `json:"name"`     // that it asked for
	Chain    []string   `json:"chain,omitempty"`
	Address  netip.Addr `json:"address"`
	Resolver netip.Addr `json:"resolver"`
	At       time.Time  `json:"at"`    // of the last answer
	Until    time.Time  `json:"until"` // for new flows
	Flows    int        `json:"flows"` // that live on the address
}

// List returns all that is known, sorted.
func (n *Names) List() []KnownName {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]KnownName, 0, n.total)
	for id, w := range n.workloads {
		for a, u := range w.addresses {
			for _, k := range u.names {
				out = append(out, KnownName{id, k.name, k.chain, a.netip(), k.resolver, k.at, k.until, int(u.flows.Load())})
			}
		}
	}
	slices.SortFunc(out, func(a, b KnownName) int {
		return cmp.Or(strings.Compare(a.Workload, b.Workload), strings.Compare(a.Name, b.Name), a.Address.Compare(b.Address))
	})
	return out
}

// Changed grows with whatever List shows but the number of flows.
func (n *Names) Changed() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// restored is how long what Load took over waits for the flows that live on it.
const restored = time.Minute

// Load takes over what an earlier List has shown: of it what is still valid, or
// had a flow. What cannot be is left out. It returns how much it took.
func (n *Names) Load(list []KnownName, now time.Time) (taken int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range list {
		k := &list[i]
		name, ok := CanonicalName(k.Name)
		until := k.Until
		if latest := now.Add(n.limits.Ceiling); until.After(latest) {
			until = latest
		}
		if !ok || !k.Address.IsValid() || k.Workload == "" || k.At.After(now) || !until.After(now) && k.Flows <= 0 {
			continue
		}
		w := n.workloads[k.Workload]
		if w == nil {
			w = &knownNames{names: make(map[string]*knownName), addresses: make(map[address]*NameUse)}
			n.workloads[k.Workload] = w
		}
		ip := addressFrom(k.Address)
		n.learn(k.Workload, w, &Answer{Name: name, Chain: k.Chain, Resolver: k.Resolver}, ip, k.At, until)
		if u := w.addresses[ip]; u != nil {
			u.keep = now.Add(restored)
			taken++
		}
		n.forgetEmpty(k.Workload, w)
	}
	return taken
}

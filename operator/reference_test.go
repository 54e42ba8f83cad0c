package operator

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse/models"
	"gatehouse/policy"
)

// slow says what the specification says of the operator's side, workload by
// workload and record by record, and shares no code with Expand and Compile.
type slow struct {
	statements  []Statement
	records     []Record
	snap        *policy.Snapshot
	modes       map[string]policy.Mode
	quarantined string // a service
	moment      Moment
	active      []bool // by statement

	labels  map[string][]slowLabel // by workload
	models  []policy.Statement     // of the model tier
	is      map[string]policy.Identity
	enabled func(*policy.Workload) bool
	told    []slowTold
	server  policy.ServerName // what the flow says its server is
}

// slowEnd is an end of a flow: a workload, or nobody of them.
type slowEnd struct {
	w  *policy.Workload
	ip netip.Addr
}

var slowModels = map[string]struct {
	model string
	roles []string
}{
	"docker.io/library/postgres": {"postgresql", []string{"database"}},
	"docker.io/library/nginx":    {"nginx", []string{"web-server", "proxy"}},
	"docker.io/library/busybox":  {"custom", []string{"app-server"}},
}

func slowIsSite(ip netip.Addr) bool {
	return ip.Is4() && ip.As4()[0] == 10 || ip.Is6() && ip.As16()[0] == 0xfd
}

// values are what records say of one category of an end, and whether each is
// proven. An empty set is said too.
func (r *slow) values(e slowEnd, category string) (texts []string, proven []bool, said bool) {
	say := func(rec *Record, sure bool) {
		if _, says := rec.Set[category]; says {
			said = true
		}
		for _, text := range rec.Set[category] {
			texts, proven = append(texts, text), append(proven, sure)
		}
	}
	at := []netip.Addr{e.ip}
	if e.w != nil {
		at = e.w.Endpoints[0].Addresses
	}
	for i := range r.records {
		rec := &r.records[i]
		if e.w == nil || rec.Image == "" && rec.Service == "" && rec.Label == "" {
			continue
		}
		k, v, _ := strings.Cut(rec.Label, "=")
		fits := (rec.Image == "" || rec.Image == e.w.Image.Repository) &&
			(rec.Service == "" || rec.Service == e.w.Service.Name || rec.Service == e.w.Service.Project.Name+"/"+e.w.Service.Name) &&
			(rec.Label == "" || e.w.Labels[k].Value == v && e.w.Labels[k].By == policy.SetByDeployer) &&
			(!rec.CIDR.IsValid() || slices.ContainsFunc(at, rec.CIDR.Contains))
		if fits {
			say(rec, rec.Image == "" || len(e.w.Image.PulledFrom) > 0)
		}
	}
	for _, ip := range at {
		longest := -1
		place := func(rec *Record) bool {
			_, says := rec.Set[category]
			return says && rec.Image == "" && rec.Service == "" && rec.Label == "" && rec.CIDR.Contains(ip)
		}
		for i := range r.records {
			if place(&r.records[i]) {
				longest = max(longest, r.records[i].CIDR.Bits())
			}
		}
		for i := range r.records {
			if place(&r.records[i]) && r.records[i].CIDR.Bits() == longest {
				say(&r.records[i], true)
			}
		}
	}
	return texts, proven, said
}

var slowLevels = []string{"low", "medium", "high"}

func slowHolds(t Test, text string) bool {
	at, want := slices.Index(slowLevels, text), slices.Index(slowLevels, t.Values[0])
	switch t.Op {
	case OpEq, OpIn:
		return slices.Contains(t.Values, text)
	case OpNe:
		return text != t.Values[0]
	case OpGte:
		return at >= want
	}
	return at <= want
}

func (r *slow) compares(e slowEnd, c Comparison, loosens bool) bool {
	texts, proven, said := r.values(e, c.Category)
	if !said {
		return !loosens && c.Unknown
	}
	if c.Category == "value" { // a set
		for _, t := range c.Tests {
			has := false
			for i, text := range texts {
				has = has || text == t.Values[0] && (proven[i] || !loosens)
			}
			if !has {
				return false
			}
		}
		return !loosens || slices.Contains(proven, true)
	}
	all, some := true, false
	for _, text := range texts {
		passes := true
		for _, t := range c.Tests {
			passes = passes && slowHolds(t, text)
		}
		all, some = all && passes, some || passes
	}
	if loosens {
		return all && slices.Contains(proven, true)
	}
	return some
}

func (r *slow) fits(t *Term, e slowEnd, loosens bool) bool {
	if t.CIDR.IsValid() {
		return t.CIDR.Contains(e.ip)
	}
	switch t.Peer {
	case policy.PeerAny:
		return true
	case policy.PeerSite:
		return e.w == nil && slowIsSite(e.ip)
	case policy.PeerInternet:
		return e.w == nil && !slowIsSite(e.ip)
	case policy.PeerExternal:
		return e.w == nil
	}
	onlyWorkloads := t.Service != "" || t.Role != "" || t.Model != "" || t.Project != "" || t.Label != "" || t.Within != WithinAll || t.Peer == policy.PeerWorkload
	if e.w == nil && onlyWorkloads {
		return false
	}
	if e.w != nil {
		is := slowModels[e.w.Image.Repository]
		k, v, _ := strings.Cut(t.Label, "=")
		if t.Service != "" && t.Service != e.w.Service.Name && t.Service != e.w.Service.Project.Name+"/"+e.w.Service.Name ||
			t.Role != "" && !slices.Contains(is.roles, t.Role) || t.Model != "" && is.model != t.Model ||
			t.Project != "" && t.Project != e.w.Service.Project.Name ||
			t.Label != "" && (e.w.Labels[k].Value != v || e.w.Labels[k].By != policy.SetByDeployer) {
			return false
		}
	}
	return !slices.ContainsFunc(t.Categories, func(c Comparison) bool { return !r.compares(e, c, loosens) })
}

func slowTogether(w Within, a, b slowEnd) bool {
	if w == WithinAll {
		return true
	}
	if a.w == nil || b.w == nil {
		return false
	}
	switch w {
	case WithinProject:
		return a.w.Service.Project == b.w.Service.Project
	case WithinService:
		return a.w.Service == b.w.Service
	}
	return a.w.Endpoints[0].Network == b.w.Endpoints[0].Network
}

// covers: some pair of terms, the port, and what is spoken.
func (r *slow) covers(f *Flows, from, to slowEnd, port policy.PortRange, spoken policy.Spoken, loosens bool) bool {
	onPort := f.AnyPort || slices.ContainsFunc(f.Ports, func(p policy.PortRange) bool { return p.Contains(port.Proto, port.Lo) })
	if !onPort || !slices.ContainsFunc(f.Apps, func(m policy.AppMatch) bool { return m.Matches(spoken) }) {
		return false
	}
	for i := range f.From {
		for j := range f.To {
			a, b := &f.From[i], &f.To[j]
			if b.Name != "" {
				if r.fits(a, from, loosens) && r.named(b.Name, b.CIDR, f.Apps, from, to, spoken) {
					return true
				}
				continue
			}
			if r.fits(a, from, loosens) && r.fits(b, to, loosens) && slowTogether(a.Within, from, to) && slowTogether(b.Within, from, to) {
				return true
			}
		}
	}
	return false
}

// inForce walks the wall clock back from now to the window's last beginning.
func (r *slow) inForce(s *Statement) bool {
	now := r.moment.Time
	if !s.Expires.IsZero() && !now.Before(s.Expires) {
		return false
	}
	levels := []string{"normal", "elevated", "high", "critical"}
	for _, t := range s.When.Threat {
		at, want := int(r.moment.Threat), slices.Index(levels, t.Values[0])
		if t.Op == OpGte && at < want || t.Op == OpLte && at > want || t.Op == OpEq && at != want {
			return false
		}
	}
	w := s.When.Window
	if w == nil {
		return true
	}
	length := (w.To - w.From + 24*60) % (24 * 60)
	if length == 0 {
		length = 24 * 60
	}
	for back := range length {
		t := now.Add(-time.Duration(back) * time.Minute)
		if t.Hour()*60+t.Minute() == w.From && w.Days[t.Weekday()] {
			return true
		}
	}
	return false
}

// side says whether an end lets the flow pass, and else whether that is enforced
// and by which verdict.
func (r *slow) side(e slowEnd, from, to slowEnd, port policy.PortRange, spoken policy.Spoken) (no, enforced bool, v policy.Verdict) {
	if e.w == nil || r.enabled != nil && !r.enabled(e.w) {
		return false, false, policy.Allow
	}
	enforced = r.modes[e.w.Service.String()] == policy.Enforce
	for _, always := range []bool{true, false} {
		for i := range r.statements {
			s := &r.statements[i]
			if s.Verdict == policy.Allow || s.Always != always || !r.active[i] || !r.covers(&s.Flows, from, to, port, spoken, false) {
				continue
			}
			if !slices.ContainsFunc(s.Except, func(x Flows) bool { return r.covers(&x, from, to, port, spoken, true) }) {
				return true, enforced || always, s.Verdict
			}
		}
		isIt := func(e slowEnd) bool { return e.w != nil && e.w.Service.String() == r.quarantined }
		if always && (isIt(from) || isIt(to)) {
			return true, true, policy.Drop
		}
	}
	for i := range r.statements {
		if s := &r.statements[i]; s.Verdict == policy.Allow && r.active[i] && r.covers(&s.Flows, from, to, port, spoken, true) {
			return false, false, policy.Allow
		}
	}
	out := e == from
	switch {
	case r.labelled(false, out, from, to, port, spoken):
		return true, enforced, policy.Drop
	case r.labelled(true, out, from, to, port, spoken) || r.modelled(from, to, port, spoken):
		return false, false, policy.Allow
	}
	return true, enforced, policy.Drop
}

func (r *slow) judge(from, to slowEnd, port policy.PortRange, spoken policy.Spoken) (v policy.Verdict, denied bool) {
	for _, e := range []slowEnd{from, to} {
		no, enforced, verdict := r.side(e, from, to, port, spoken)
		denied = denied || no
		if no && enforced {
			return verdict, true
		}
	}
	return policy.Allow, denied
}

// dice make random inputs out of small pools.
type dice struct{ *rand.Rand }

func one[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

func (d dice) snapshot() *policy.Snapshot {
	snap := &policy.Snapshot{}
	for n := range 2 {
		snap.Networks = append(snap.Networks, policy.Network{ID: fmt.Sprint("n", n), Name: fmt.Sprint("n", n), Zone: policy.Zone(n + 1), Driver: "bridge",
			Subnets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(n), 0}), 24), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0x30, byte(n)}), 64)}})
	}
	for i := range 8 {
		image, n := "docker.io/library/"+one(d, "postgres", "nginx", "busybox"), d.IntN(2)
		w := policy.Workload{ID: fmt.Sprint("w", i), Name: fmt.Sprint("w", i), Compose: true, Labels: map[string]policy.Label{},
			Service: policy.ServiceKey{Project: policy.ProjectKey{Domain: "d", Name: one(d, "a", "b")}, Name: one(d, "x", "y", "z")},
			Image:   policy.Image{Ref: image, Repository: image},
			Endpoints: []policy.Endpoint{{ID: fmt.Sprint("e", i), Network: snap.Networks[n].ID,
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, byte(n), byte(i + 2)}), netip.AddrFrom16([16]byte{0xfd, 0, 0x30, byte(n), 15: byte(i + 2)})}}}}
		if d.chance(70) {
			w.Image.PulledFrom = []string{image}
		}
		if d.chance(40) {
			w.Labels["tier"] = policy.Label{Value: one(d, "in", "out"), By: one(d, policy.SetByDeployer, policy.SetByImage)}
		}
		snap.Workloads = append(snap.Workloads, w)
	}
	return snap
}

// outsideAddress is of the site or the internet.
func (d dice) outsideAddress(six bool) netip.Addr {
	last := byte(d.IntN(16))
	if six {
		return netip.AddrFrom16(one(d, [16]byte{0xfd, 9, 15: last}, [16]byte{0x20, 1, 0x0d, 0xb8, 15: last}))
	}
	return netip.AddrFrom4(one(d, [4]byte{10, 9, 0, last}, [4]byte{198, 51, 100, last}))
}

func (d dice) prefix() netip.Prefix {
	six := d.chance(50)
	ip := d.outsideAddress(six)
	if d.chance(30) {
		ip = netip.AddrFrom4([4]byte{172, 30, byte(d.IntN(2)), byte(d.IntN(10))})
	} else if six && d.chance(30) {
		ip = netip.AddrFrom16([16]byte{0xfd, 0, 0x30, byte(d.IntN(2)), 15: byte(d.IntN(10))})
	}
	return netip.PrefixFrom(ip, one(d, 0, ip.BitLen()-8, ip.BitLen()-3, ip.BitLen()-1, ip.BitLen())).Masked()
}

func (d dice) records() []Record {
	var out []Record
	for range d.IntN(10) {
		r := Record{Set: map[string][]string{}}
		switch d.IntN(5) {
		case 0:
			r.Image = "docker.io/library/" + one(d, "postgres", "nginx", "busybox")
		case 1:
			r.Service = one(d, "x", "a/x", "b/y")
		case 2:
			r.Label = one(d, "tier=in", "tier=out")
		default:
			r.CIDR = d.prefix()
		}
		if d.chance(15) {
			r.CIDR = d.prefix()
		}
		if d.chance(70) {
			r.Set["risk"] = []string{one(d, slowLevels...)}
		} else {
			r.Set["value"] = one(d, []string{"money"}, []string{"money", "data"}, []string{})
		}
		out = append(out, r)
	}
	return out
}

func (d dice) comparison(loosens bool) Comparison {
	if d.chance(30) {
		return Comparison{Category: "value", Tests: []Test{{OpHas, []string{one(d, "money", "data")}}}, Unknown: !loosens && d.chance(30)}
	}
	t := Test{one(d, OpEq, OpNe, OpGte, OpLte), []string{one(d, slowLevels...)}}
	if d.chance(20) {
		t = Test{OpIn, []string{"low", one(d, "medium", "high")}}
	}
	return Comparison{Category: "risk", Tests: []Test{t}, Unknown: !loosens && d.chance(40)}
}

func (d dice) terms(loosens bool) []Term {
	out := []Term{}
	for range 1 + d.IntN(2) {
		var t Term
		switch d.IntN(9) {
		case 0:
			t.Service = one(d, "x", "a/x", "b/y", "z")
		case 1:
			t.Role = one(d, "database", "web-server", "app-server")
		case 2:
			t.Label = one(d, "tier=in", "tier=out")
		case 3:
			t.Peer = one(d, policy.PeerAny, policy.PeerExternal, policy.PeerSite, policy.PeerInternet)
		case 4:
			t.CIDR = d.prefix()
		case 5:
			t.Model = one(d, "nginx", "custom")
			t.Project = one(d, "", "a")
		case 6:
			t.Peer = policy.PeerWorkload
		default:
			t.Categories = []Comparison{d.comparison(loosens)}
			if d.chance(30) {
				t.Peer = policy.PeerWorkload
			}
		}
		if !t.CIDR.IsValid() && (t.Peer == policy.PeerNone || t.Peer == policy.PeerWorkload) && d.chance(25) {
			t.Within = one(d, WithinProject, WithinShared, WithinService)
		}
		out = append(out, t)
	}
	if d.chance(4) {
		out = out[:0]
	}
	return out
}

func (d dice) flows(loosens bool) Flows {
	return Flows{From: d.terms(loosens), To: d.terms(loosens),
		Apps:  one(d, []policy.AppMatch{policy.AnyApp}, []policy.AppMatch{{App: policy.AppHTTP, Forms: policy.TLSOptional}}, []policy.AppMatch{{App: policy.AppSSH, Forms: policy.TLSNone}, {App: policy.AppHTTP, Forms: policy.TLSNone}}),
		Ports: one(d, []policy.PortRange{policy.Port(policy.ProtoTCP, 80)}, []policy.PortRange{{Proto: policy.ProtoTCP, Lo: 1, Hi: 100}, policy.Port(policy.ProtoUDP, 80)})}
}

// decodable takes out what Decode refuses.
func (f Flows) decodable() Flows {
	if f.misplaced() != "" {
		for _, terms := range []*[]Term{&f.From, &f.To} {
			*terms = slices.Clone(*terms)
			for i := range *terms {
				(*terms)[i].Within = WithinAll
				if (*terms)[i].String() == "" {
					(*terms)[i].Peer = policy.PeerAny
				}
			}
		}
	}
	return f
}

func (d dice) statement(i int, now time.Time) Statement {
	s := Statement{ID: fmt.Sprint("s", i), Verdict: policy.Allow, File: "f", Line: i}
	if d.chance(45) {
		s.Verdict, s.Always = one(d, policy.Drop, policy.Reject), d.chance(40)
	}
	s.Flows = d.flows(s.Verdict == policy.Allow).decodable()
	if s.Verdict != policy.Allow {
		s.AnyPort = d.chance(40)
		for range d.IntN(3) {
			x := d.flows(true)
			if d.chance(50) {
				x.From = s.From
			}
			if d.chance(50) {
				x.To = s.To
			}
			s.Except = append(s.Except, x.decodable())
		}
	}
	if d.chance(25) {
		s.When.Threat = []Test{{one(d, OpGte, OpLte, OpEq), []string{one(d, threatNames...)}}}
	}
	if d.chance(25) {
		w := &Window{From: d.IntN(24 * 60), To: 1 + d.IntN(24*60), Zone: time.UTC}
		for day := range w.Days {
			w.Days[day] = d.chance(60)
		}
		if w.From != w.To {
			s.When.Window = w
		}
	}
	if d.chance(10) {
		s.Expires = now.Add(time.Duration(d.IntN(5)-2) * time.Hour)
	}
	return s
}

// TestPolicyEqualsReference compares the verdicts of the operator's statements,
// expanded and compiled, with the reference: categories of workloads and places,
// conditions, exceptions, reach, quarantine and modes together, in both families.
// 100,000 cases, or as many as GATEHOUSE_TEST_CASES says; a tenth with -short.
func TestPolicyEqualsReference(t *testing.T) {
	wanted := wantedCases()
	kinds := map[string]Kind{"risk": {Levels: slowLevels}, "value": {Set: true}}
	spoken := []policy.Spoken{{App: policy.AppHTTP}, {App: policy.AppTLS, ALPN: policy.AppHTTP}, {App: policy.AppSSH}, {App: policy.AppUnknown}}
	seed := rand.Uint64()
	seen := map[string]int{}
	lib := library(t)
	cases := 0
	uncovered := func() (which []string) {
		for _, outcome := range []string{"allow false", "allow true", "drop true", "reject true"} {
			if seen[outcome] < wanted/100 {
				which = append(which, fmt.Sprintf("%s came out %d times", outcome, seen[outcome]))
			}
		}
		return which
	}
	for n := uint64(0); cases < wanted || cases < patience*wanted && uncovered() != nil; n++ {
		d := dice{rand.New(rand.NewPCG(seed, n))}
		now := time.Date(2026, 11, 23+d.IntN(7), d.IntN(24), d.IntN(60), 0, 0, time.UTC)
		r := &slow{snap: d.snapshot(), records: d.records(), modes: map[string]policy.Mode{}, moment: Moment{now, Threat(d.IntN(4))}}
		for i := range 1 + d.IntN(8) {
			r.statements = append(r.statements, d.statement(i, now))
		}
		for i := range r.statements {
			r.active = append(r.active, r.inForce(&r.statements[i]))
		}
		for _, w := range r.snap.Workloads {
			r.modes[w.Service.String()] = one(d, policy.Enforce, policy.Enforce, policy.Observe)
		}
		if d.chance(10) {
			r.quarantined = r.snap.Workloads[0].Service.String()
		}
		table := r.compiled(t, lib, kinds)
		for range 60 {
			from, to, q := d.flow(r.snap)
			decision := table.Lookup(q)
			port := policy.PortRange{Proto: q.Proto, Lo: q.DstPort, Hi: q.DstPort}
			for _, s := range spoken {
				got := decision.Judge(s)
				verdict, denied := r.judge(from, to, port, s)
				if got.Verdict != verdict || got.Denied != denied {
					by := "nothing"
					if got.Rule >= 0 {
						by = table.Statements()[table.Rules()[got.Rule].Statement].ID
					}
					t.Fatalf("seed %d world %d: %s -> %s %d %v: %v denied %v by "+by+"; want %v, %v\nstatements %+v\nrecords %+v\nat %+v quarantined %q", seed, n, from.ip, to.ip, q.DstPort, s,
						got.Verdict, got.Denied, verdict, denied, r.statements, r.records, r.moment, r.quarantined)
				}
				seen[fmt.Sprint(verdict, denied)]++
				cases++
			}
		}
	}
	for _, what := range uncovered() {
		t.Errorf("%s: the worlds are too plain", what)
	}
	t.Log(cases, seen)
}

// wantedCases is how many cases a comparison makes. The race detector, which has
// nothing to find in one goroutine, looks on at a tenth.
func wantedCases() int {
	if n, err := strconv.Atoi(os.Getenv("GATEHOUSE_TEST_CASES")); err == nil {
		return n
	}
	if testing.Short() {
		return 10_000
	}
	return 100_000
}

// patience is how many times as many cases as it wants a comparison makes before it
// says that they do not cover what they are to cover: by chance that hardly ever happens.
const patience = 20

func (r *slow) compiled(t *testing.T, lib *models.Library, kinds map[string]Kind) *policy.Table {
	t.Helper()
	p := &Policy{Statements: r.statements, Kinds: kinds}
	p.note()
	catalog := NewCatalog(kinds, []Records{{Records: r.records}})
	categories := p.Variant(catalog)
	belongs := func(w *policy.Workload) bool { return w.Service.String() == r.quarantined }
	pop := models.Groups(lib, r.snap, models.Settings{SelectedLabels: p.SelectedLabels(), Modes: r.modes,
		Variant: func(w *policy.Workload) string { return fmt.Sprint(categories(w), belongs(w)) }}, policy.NewIdentities())
	statements := p.Expand(pop, catalog, r.moment)
	if r.quarantined != "" {
		statements = append(statements, Quarantine(r.quarantined, Belonging(pop.Subjects(), belongs), nil)...)
	}
	table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: r.snap, Groups: pop.Groups, Statements: statements})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// flow is between two workloads of a network, or one and the outside.
func (d dice) flow(snap *policy.Snapshot) (from, to slowEnd, q policy.Query) {
	family := d.IntN(2)
	w := &snap.Workloads[d.IntN(len(snap.Workloads))]
	from = slowEnd{w, w.Endpoints[0].Addresses[family]}
	to = slowEnd{ip: d.outsideAddress(family == 1)}
	other := &snap.Workloads[d.IntN(len(snap.Workloads))]
	if other != w && other.Endpoints[0].Network == w.Endpoints[0].Network {
		to = slowEnd{other, other.Endpoints[0].Addresses[family]}
	}
	if to.w == nil && d.chance(40) {
		from, to = to, from
	}
	zone := policy.Zone(1)
	if w.Endpoints[0].Network == "n1" {
		zone = 2
	}
	return from, to, policy.Query{Zone: zone, Src: from.ip.As16(), Dst: to.ip.As16(), Proto: one(d, policy.ProtoTCP, policy.ProtoTCP, policy.ProtoUDP), DstPort: one[uint16](d, 80, 22, 443)}
}

package control

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/control/inventory"
	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// town is a random world that changes: services of three projects, with what
// deployers say of them.
type town struct {
	*rand.Rand
	*loop
	born     int
	oddity   int // percent of containers that differ from their equals
	running  map[string]policy.Workload
	networks []policy.Network
}

func newTown(t *testing.T, seed, n uint64) *town {
	w := &town{Rand: rand.New(rand.NewPCG(seed, n)), loop: newLoop(t, filepath.Join(t.TempDir(), "modes.json")), running: map[string]policy.Workload{}}
	for i, name := range []string{"a_default", "b_default", "c_default", "proxy"} {
		net := policy.Network{ID: "n-" + name, Name: name, Driver: "bridge", Zone: policy.Zone(i + 1), Guarded: true, ICC: true,
			Subnets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)}}
		if i < 3 {
			net.Owner = policy.ProjectKey{Domain: "n1", Name: name[:1]}
		} else {
			net.Driver, net.NetNS, net.LB = "overlay", "/ns", []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i), 255, 254})}
		}
		w.networks = append(w.networks, net)
		w.inv.PutNetwork(net)
	}
	w.inv.PutHost(policy.Host{Name: "h", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.5/24")}, Resolvers: []netip.Addr{netip.MustParseAddr("192.168.1.1")}})
	return w
}

var townImages = []string{"postgres", "wordpress", "nginx", "redis", "traefik", "prom/prometheus", "mariadb", "acme/app"}

func pick[T any](w *town, of []T) T { return of[w.IntN(len(of))] }

func (w *town) chance(percent int) bool { return w.IntN(100) < percent }

// townStatements select by all that services can be selected by, and hold at times.
const townStatements = `schema: gatehouse.statements/v1
statements:
  - {id: by-label, verdict: allow, from: [{label: tier=odd}], to: [{service: s1}], app: [any], ports: [tcp/3306, tcp/9090], why: a test}
  - {id: by-service, verdict: deny, from: [{service: a/s0}, {service: s5}], to: [{service: s3}, {project: c}], app: [any], ports: [tcp/6379], why: a test}
  - {id: by-model, verdict: allow, from: [{model: wordpress}, {label: tier=even}], to: [{service: s7}], app: [http], ports: [tcp/80-90], why: a test}
  - {id: within-project, verdict: allow, from: [{service: s7, within: project}], to: [{service: s0, within: project}], app: [any], ports: [tcp/5432], why: a test}
  - {id: within-shared, verdict: deny, from: [{peer: workload, within: shared}], to: [{service: s6, within: shared}], app: [redis], ports: [any]}
  - {id: siblings, verdict: deny, from: [{peer: siblings}], to: [{peer: workload}], app: [any], ports: [tcp/9090]}
  - {id: front, verdict: deny, from: [{peer: internet}], to: [{peer: front}], app: [any], ports: [tcp/443]}
  - {id: by-category, verdict: deny, from: [{category: {risk: {gte: medium, unknown: true}}, peer: workload}], to: [{service: s2}], app: [any], ports: [tcp/80],
     except: [{from: [{label: tier=odd}], app: [http]}]}
  - {id: under-threat, verdict: deny, from: [{peer: any}], to: [{service: s0}], app: [any], ports: [any], when: {threat: {gte: elevated}}}
  - {id: in-peace, verdict: allow, from: [{project: b}], to: [{service: c/s7}], app: [any], ports: [tcp/80], why: a test, when: {threat: {lte: normal}}}
`

const townCategories = `schema: gatehouse.categories/v1
source: cmdb
categories: {risk: {ordered: [low, medium, high]}}
records:
  - {match: {image: redis}, set: {risk: low}}
  - {match: {service: a/s1}, set: {risk: high}}
  - {match: {label: tier=odd}, set: {risk: medium}}
`

// rule puts an operator's statements in force, of which each town has others.
func (w *town) rule(t *testing.T) {
	t.Helper()
	head, rest, _ := strings.Cut(townStatements, "  - ")
	text := head
	for _, s := range strings.Split(rest, "\n  - ") {
		if w.chance(20) || strings.HasPrefix(s, "{id: by-category") && w.chance(50) {
			text += "  - " + strings.TrimSuffix(s, "\n") + "\n"
		}
	}
	if text == head {
		return
	}
	of := func(name, text string) []document.File { return []document.File{{Name: name, Data: []byte(text)}} }
	rules, err := Sources{Statements: of("s.yaml", text), Categories: of("c.yaml", townCategories)}.Rules()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetRules(rules); err != nil {
		t.Fatal(err)
	}
}

// hold changes the threat level, or who is in quarantine.
func (w *town) hold(t *testing.T) {
	t.Helper()
	if err := w.cfg.Holds.change(func(h *held) {
		subject := fmt.Sprintf("%s/s%d", pick(w, []string{"a", "b", "c"}), w.IntN(8))
		if w.chance(40) {
			subject = w.running[pick(w, slices.Sorted(maps.Keys(w.running)))].Name
		}
		switch {
		case w.chance(40):
			h.Threat = ThreatHold{operator.Threat(w.IntN(4)), Hold{By: "test"}}
		case len(h.Quarantines) > w.IntN(4):
			delete(h.Quarantines, pick(w, slices.Sorted(maps.Keys(h.Quarantines))))
		default:
			h.Quarantines[subject] = Hold{By: pick(w, []string{"one", "another"})}
		}
	})(); err != nil {
		t.Fatal(err)
	}
}

// record has the system of record, where there is one, say something else of a service, an
// image, or whoever has a label.
func (w *town) record() (what string) {
	store := w.cfg.Records
	st := store.sources["cmdb"]
	if st == nil {
		return "nothing"
	}
	running := w.running[pick(w, slices.Sorted(maps.Keys(w.running)))]
	r := operator.Record{Set: map[string][]string{"risk": {pick(w, []string{"low", "medium", "high"})}}}
	switch w.IntN(4) {
	case 0:
		r.Service = running.Service.String()
	case 1:
		r.Image = running.Image.Repository
	case 2:
		r.Label = pick(w, []string{"tier=odd", "tier=even"})
	case 3:
		r.Label = "asset=" + running.ID
	}
	records := slices.Clone(st.records.Records)
	if len(records) > w.IntN(8) {
		at := w.IntN(len(records))
		records = slices.Delete(records, at, at+1)
	} else {
		records = append(records, r)
	}
	store.mu.Lock()
	st.records.Records = records
	store.mu.Unlock()
	w.mu.Lock()
	w.readRecords()
	w.mu.Unlock()
	return fmt.Sprintf("record of %+v", r)
}

// start is one more container of a service, most of which are equal.
func (w *town) start() policy.Workload {
	w.born++
	project, kind := w.IntN(3), w.IntN(len(townImages))
	p := policy.ProjectKey{Domain: "n1", Name: w.networks[project].Name[:1]}
	id := fmt.Sprintf("%04x%04d", w.IntN(1<<16), w.born)
	x := policy.Workload{ID: id, Name: fmt.Sprintf("%s-s%d-%d", p.Name, kind, w.born), Compose: true,
		Service: policy.ServiceKey{Project: p, Name: fmt.Sprint("s", kind)}, Image: policy.Image{Ref: townImages[kind], Repository: "docker.io/library/" + townImages[kind]}}
	x.Endpoints = []policy.Endpoint{w.endpoint(&x, project)}
	x.Labels = map[string]policy.Label{"asset": {Value: id, By: policy.SetByDeployer}}
	x.References = []policy.Reference{{Source: "env DB_HOST", Host: fmt.Sprint("s", kind/2), Port: 5432 * uint16(kind%2)}}
	if kind%3 == 0 {
		x.Endpoints = append(x.Endpoints, w.endpoint(&x, 3))
		x.DependsOn = []string{"s1"}
	}
	if kind == 4 {
		x.Published = []policy.Published{{HostIP: netip.IPv4Unspecified(), HostPort: uint16(8000 + project), Port: 80, Proto: policy.ProtoTCP}}
	}
	switch kind {
	case 1: // a sidecar, or none
		if ids := slices.Sorted(maps.Keys(w.running)); w.chance(15) && len(ids) > 0 {
			x.SharedWith, x.Endpoints = pick(w, ids), nil
		}
	case 3: // a Swarm service
		x.Swarm, x.Compose = true, false
		x.VIPs = map[string][]netip.Addr{w.networks[3].ID: {netip.AddrFrom4([4]byte{10, 3, 255, byte(project)})}}
	case 5: // an exporter
		if w.chance(30) {
			x.Uncovered, x.Endpoints, x.Exposed = "network_mode host", nil, []policy.PortRange{policy.Port(policy.ProtoTCP, 9090)}
		}
	case 6: // who reaches names
		x.Labels["gatehouse.allow.egress"] = policy.Label{Value: "api.example.com:443", By: policy.SetByDeployer}
	case 7:
		x.References = append(x.References, policy.Reference{Source: "env SMTP_SERVER", Host: "smtp.example.com", Port: 587})
	}
	if w.chance(w.oddity) {
		w.odd(&x)
	}
	return x
}

func (w *town) endpoint(x *policy.Workload, network int) policy.Endpoint {
	w.born++
	return policy.Endpoint{ID: fmt.Sprint("e", w.born), Network: w.networks[network].ID, MAC: policy.MAC{2, 0, 0, 0, byte(w.born >> 8), byte(w.born)},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(network), byte(w.born >> 8), byte(w.born)})}, Aliases: []string{x.Service.Name, x.ID}}
}

// soon is an address that somebody will have before long, or has.
func (w *town) soon() netip.Addr {
	n := max(0, w.born+w.IntN(16)-4)
	return netip.AddrFrom4([4]byte{10, byte(w.IntN(4)), byte(n >> 8), byte(n)})
}

// odd makes something of a container differ from its equals.
func (w *town) odd(x *policy.Workload) {
	label := func(key, value string) {
		labels := map[string]policy.Label{}
		maps.Copy(labels, x.Labels)
		labels[key] = policy.Label{Value: value, By: pick(w, []policy.Setter{policy.SetByDeployer, policy.SetByDeployer, policy.SetByImage})}
		x.Labels = labels
	}
	var other policy.Workload // some other container
	for _, other = range w.running {
		break
	}
	x.Endpoints = slices.Clone(x.Endpoints)
	switch w.IntN(20) {
	case 0:
		x.Name = fmt.Sprint("renamed", w.IntN(3))
	case 1:
		x.References = append(slices.Clone(x.References), policy.Reference{Source: "env PEER", Host: fmt.Sprint("renamed", w.IntN(3))})
	case 2:
		x.References = append(slices.Clone(x.References), policy.Reference{Source: "env PEER", Host: w.soon().String()})
	case 3:
		if n := w.IntN(4); !slices.ContainsFunc(x.Endpoints, func(e policy.Endpoint) bool { return e.Network == w.networks[n].ID }) {
			x.Endpoints = append(x.Endpoints, w.endpoint(x, n))
		}
	case 4:
		x.Endpoints = x.Endpoints[:max(0, len(x.Endpoints)-1)]
	case 5:
		label(models.LabelMode, pick(w, []string{"enforce", "observe", "nonsense"}))
	case 6:
		label("traefik.enable", pick(w, []string{"true", "false"}))
	case 7:
		label("gatehouse.allow.egress", pick(w, []string{"api.example.com:443", "b/s1:3306", "@internet:443"}))
	case 8:
		label("gatehouse.enable", "false")
	case 9:
		x.DNS = []netip.Addr{w.soon()}
	case 10:
		if other.SharedWith == "" {
			x.SharedWith, x.Endpoints = other.ID, nil
		}
	case 11: // what cannot be
		x.Endpoints = append(x.Endpoints, policy.Endpoint{ID: "x" + x.ID, Network: "nowhere", Addresses: []netip.Addr{netip.MustParseAddr("10.9.9.9")}})
	case 12:
		x.Exposed = []policy.PortRange{{Proto: policy.ProtoTCP, Lo: 90, Hi: 80}}
	case 13:
		if len(other.Endpoints) > 0 && len(x.Endpoints) > 0 {
			x.Endpoints[0].Addresses = other.Endpoints[0].Addresses // a thief
		}
	case 14:
		x.Image.Repository = pick(w, []string{"registry.example.com/acme/app", "docker.io/acme/app", "docker.io/acme/other"})
	case 15:
		x.Swarm, x.Compose = true, false
		x.VIPs = map[string][]netip.Addr{w.networks[3].ID: {netip.AddrFrom4([4]byte{10, 3, 255, byte(w.IntN(4))})}}
	case 16:
		x.Uncovered, x.Endpoints = "network_mode host", nil
	case 17:
		label("tier", pick(w, []string{"odd", "even"}))
	case 18:
		label(pick(w, []string{"gatehouse.deny.egress", "gatehouse.deny.ingress"}), pick(w, []string{"b/s1:3306", "s3:80", "c/s7:5432"}))
	case 19:
		x.Service.Project.Domain = "swarm"
	}
}

// step changes the inventory at random, mostly by one thing.
func (w *town) step(t *testing.T) (what string) {
	ids := slices.Sorted(maps.Keys(w.running))
	put := func(x policy.Workload) { w.running[x.ID] = x; w.inv.Put(x) }
	switch n := w.IntN(100); {
	case len(ids) < 20 || n < 35:
		x := w.start()
		put(x)
		return "start " + x.ID
	case n < 65:
		id := pick(w, ids)
		delete(w.running, id)
		w.inv.Delete(id)
		return "stop " + id
	case n < 72: // a restart under another id, as one change
		id := pick(w, ids)
		x := w.running[id]
		delete(w.running, id)
		w.inv.Delete(id)
		w.born++
		x.ID = fmt.Sprintf("%04x%04d", w.IntN(1<<16), w.born)
		put(x)
		return "replace " + id + " by " + x.ID
	case n < 85:
		x := w.running[pick(w, ids)]
		w.odd(&x)
		put(x)
		return "change " + x.ID
	case n < 90: // a service is scaled
		for range 3 {
			put(w.start())
		}
		return "three start"
	case n < 94:
		w.hold(t)
		return "hold"
	case n < 96:
		return w.record()
	case n < 98:
		services, mode := []string{w.running[pick(w, ids)].Service.String()}, policy.Mode(w.IntN(2))
		if w.State() != nil && w.chance(30) { // it leaves nothing behind
			path := w.cfg.Modes.path
			w.cfg.Modes.path = filepath.Join(path, "absent")
			if err := w.SetModes(services, mode); err == nil || !strings.Contains(err.Error(), "absent") {
				t.Fatal(err)
			}
			w.cfg.Modes.path = path
			return "unstored mode"
		}
		if err := w.cfg.Modes.set(services, mode)(); err != nil {
			t.Fatal(err)
		}
		return "mode"
	}
	net := pick(w, w.networks)
	net.Newcomer = w.chance(50)
	w.inv.PutNetwork(net)
	return "newcomer"
}

// TestChangesEqualWhole: whatever sequence of changes a state has come through, it
// is the state that is made whole of what there is. Eight worlds, and on until they
// have come through what is to be covered; two with -short, as the race detector has
// nothing to find in one goroutine.
func TestChangesEqualWhole(t *testing.T) {
	seed := rand.Uint64()
	taken, whole, named := map[string]int{}, map[string]int{}, 0
	worlds := uint64(8)
	if testing.Short() {
		worlds = 2
	}
	uncovered := func() (which []string) {
		if testing.Short() {
			return nil
		}
		for _, kind := range []string{"start", "stop", "replace", "change", "mode"} {
			if taken[kind] == 0 {
				which = append(which, kind)
			}
		}
		if taken["record"] < 5 {
			which = append(which, fmt.Sprintf("%d records that say something else of somebody by themselves", taken["record"]))
		}
		if taken["hold"] < 10 {
			which = append(which, fmt.Sprintf("%d quarantines and threat levels by themselves", taken["hold"]))
		}
		for _, kind := range []string{"VIPs", "shared", "host"} {
			if taken[kind] < 10 {
				which = append(which, fmt.Sprintf("%d changes of %s by themselves", taken[kind], kind))
			}
		}
		if len(whole) == 0 {
			which = append(which, "anything whole")
		}
		if n := taken["under the operator's statements"]; n < 5 {
			which = append(which, fmt.Sprintf("%d changes of services by themselves under the operator's statements", n))
		}
		if named < 10 {
			which = append(which, fmt.Sprintf("%d statements to names that came and went by themselves", named))
		}
		return which
	}
	n := uint64(0)
	for ; n < worlds || n < 60 && uncovered() != nil; n++ {
		w := newTown(t, seed, n)
		w.oddity = pick(w, []int{0, 5, 25})
		if n%2 == 1 {
			w.rule(t)
		}
		for range 60 {
			w.step(t)
		}
		for i := range 100 {
			before := w.inv.View()
			what := w.step(t)
			got := w.refresh(t)
			view := w.inv.View()
			want := w.basis(view).derive(w.ids, w.catalog)
			fail := func(name string, a, b any) {
				if !reflect.DeepEqual(a, b) {
					t.Errorf("%s: %s", name, cmp.Diff(a, b, cmp.Exporter(func(reflect.Type) bool { return true })))
				}
			}
			fail("snapshot", got.Snapshot(), view.Snapshot())
			fail("groups", got.Population.Groups, want.Population.Groups)
			fail("statements", got.Statements(), want.Statements())
			fail("findings", got.Findings(), want.Findings())
			id := pick(w, slices.Sorted(maps.Keys(w.running)))
			fail("evidence of "+id, got.Population.Evidence(id), want.Population.Evidence(id))
			if err := (&Control{cfg: w.cfg, epoch: got.Table.Epoch() - 1}).compile(want); err != nil {
				t.Fatal(err)
			}
			w.compareTables(t, got.Table, want.Table, view)
			if i%5 == 0 { // each compiles a table
				w.compareExplanations(t, got.Table, want.Table)
			}
			if a, b := got.Table.FlatCount(), want.Table.FlatCount(); a != b && n%2 == 0 { // who is in two selections may count once
				t.Errorf("%d rules, want %d", a, b)
			}
			if t.Failed() {
				t.Fatalf("seed %d world %d step %d: %s; workloads %+v", seed, n, i, what, got.Changes)
			}
			kind, _, _ := strings.Cut(what, " ")
			if kind == "record" && got.Changes != nil && (got.edited == nil || len(got.edited.Changes) == 0) {
				kind = "record of nobody"
			}
			if got.Changes != nil && got.edited != nil {
				for _, s := range slices.Concat(got.edited.Removed, got.edited.Added) {
					if slices.ContainsFunc(s.To, func(p policy.Peer) bool { return p.Kind == policy.PeerName }) {
						named++
					}
				}
			}
			how := whole
			if got.Changes != nil {
				how = taken
			}
			for what, is := range standsFor(before, view) {
				if is {
					how[what]++
				}
			}
			if got.Changes != nil {
				taken[kind]++
				if n%2 == 1 && got.edited != nil {
					taken["under the operator's statements"]++
				}
			} else {
				whole[kind]++
			}
		}
	}
	t.Logf("%d worlds: by themselves %v, whole %v; %d statements to names", n, taken, whole, named)
	for _, what := range uncovered() {
		t.Errorf("seed %d: hardly covered in %d worlds: %s", seed, n, what)
	}
}

// standsFor says of whom, that was there or is, a change is.
func standsFor(before, after *inventory.View) map[string]bool {
	out := map[string]bool{}
	note := func(x, y *inventory.View) {
		for w := range x.Workloads {
			if o := y.Workload(w.ID); o != nil && reflect.DeepEqual(o, w) {
				continue
			}
			out["VIPs"] = out["VIPs"] || len(w.VIPs) > 0
			out["shared"] = out["shared"] || w.SharedWith != ""
			out["host"] = out["host"] || w.Uncovered != ""
		}
	}
	note(before, after)
	note(after, before)
	return out
}

// TestNameOfOneReplicaIsFoundLater: a container's own name that somebody looks for
// elsewhere first, and then where that container is.
func TestNameOfOneReplicaIsFoundLater(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.put("db", "172.30.0.9")
	l.inv.PutNetwork(policy.Network{ID: "far", Name: "mon_default", Driver: "bridge", Zone: 4, Owner: policy.ProjectKey{Domain: "n1", Name: "mon"}, Guarded: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/24")}})
	l.inv.PutNetwork(policy.Network{ID: "shared", Name: "shared", Driver: "bridge", Zone: 5, Guarded: true, Subnets: []netip.Prefix{netip.MustParsePrefix("172.32.0.0/24")}})
	shared := func(id, address string) policy.Endpoint {
		return policy.Endpoint{ID: id, Network: "shared", Addresses: []netip.Addr{netip.MustParseAddr(address)}}
	}
	for i := range 3 {
		w := l.workload("web", fmt.Sprint("172.30.0.", i+2))
		w.ID, w.Name, w.Endpoints[0].ID, w.Exposed = fmt.Sprint("web", i), fmt.Sprint("shop-web-", i), fmt.Sprint("e", i), []policy.PortRange{policy.Port(policy.ProtoTCP, 80)}
		w.Endpoints = append(w.Endpoints, shared(fmt.Sprint("s", i), fmt.Sprint("172.32.0.", i+2)))
		l.inv.Put(w)
	}
	l.refresh(t)
	mon := l.workload("mon", "172.31.0.2")
	mon.Service.Project.Name, mon.Endpoints[0].Network = "mon", "far"
	mon.References = []policy.Reference{{Source: "env URL", Scheme: "http", Host: "shop-web-2", Port: 80}}
	l.inv.Put(mon)
	l.refresh(t)
	mon.Endpoints = append(slices.Clone(mon.Endpoints), shared("near", "172.32.0.20"))
	l.inv.Put(mon)
	got := l.refresh(t).Statements()
	whole := New(l.cfg)
	if err := whole.Refresh(); err != nil {
		t.Fatal(err)
	}
	want := whole.State().Statements()
	if !slices.ContainsFunc(want, func(s policy.Statement) bool {
		return slices.ContainsFunc(s.From, func(p policy.Peer) bool { return p.Service.Name == "mon" }) && slices.ContainsFunc(s.To, func(p policy.Peer) bool { return p.Service.Name == "web" })
	}) {
		t.Errorf("nothing follows from the name: %v", want)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error(cmp.Diff(got, want, cmp.Exporter(func(reflect.Type) bool { return true })))
	}
}

// TestBakedDenyFollowsWhoComes: a deny that an image bakes, which counts (I3), means
// the service of that name in whichever domain it comes.
func TestBakedDenyFollowsWhoComes(t *testing.T) {
	w := newTown(t, 1, 1)
	project := func(domain, name string) policy.ServiceKey {
		return policy.ServiceKey{Project: policy.ProjectKey{Domain: domain, Name: name}, Name: "s1"}
	}
	put := func(id string, service policy.ServiceKey, network int, labels map[string]policy.Label) {
		x := policy.Workload{ID: id, Name: id, Compose: true, Service: service, Labels: labels, Image: policy.Image{Ref: "acme/app", Repository: "docker.io/acme/app"}}
		x.Endpoints = []policy.Endpoint{w.endpoint(&x, network)}
		w.inv.Put(x)
	}
	put("caller", project("n1", "a"), 0, map[string]policy.Label{"gatehouse.deny.egress": {Value: "b/s1:3306", By: policy.SetByImage}})
	put("other", project("n1", "c"), 2, nil)
	w.refresh(t)
	for _, step := range []func(){
		func() { put("callee", project("swarm", "b"), 1, nil) },
		func() { w.inv.Delete("callee") },
	} {
		step()
		got := w.refresh(t)
		want := w.basis(w.inv.View()).derive(w.ids, w.catalog)
		if got.Changes == nil {
			t.Error("the change was not made by itself")
		}
		if !reflect.DeepEqual(got.Statements(), want.Statements()) {
			t.Errorf("statements: %s", cmp.Diff(got.Statements(), want.Statements(), cmp.Exporter(func(reflect.Type) bool { return true })))
		}
	}
}

// newSettled is a town of services of which none reaches names, under all statements;
// put starts one more container.
func newSettled(t *testing.T, seed uint64) (w *town, put func()) {
	t.Helper()
	w = newTown(t, seed, 0)
	w.cfg.Own = func() map[string]netip.AddrPort {
		return map[string]netip.AddrPort{"Docker": netip.MustParseAddrPort("192.168.1.5:2375")}
	}
	of := func(name, text string) []document.File { return []document.File{{Name: name, Data: []byte(text)}} }
	few := strings.Replace(townStatements, "from: [{project: b}]", "from: [{service: b/s1}]", 1) // of more, a set may be made
	rules, err := Sources{Statements: of("s.yaml", few), Categories: of("c.yaml", townCategories)}.Rules()
	if err != nil {
		t.Fatal(err)
	}
	published := make(map[policy.ServiceKey]bool)
	put = func() {
		x := w.start()
		for x.Published != nil && published[x.Service] || slices.Contains([]string{"s6", "s7"}, x.Service.Name) { // a port of the host is one container's; who reaches names is made whole
			x = w.start()
		}
		published[x.Service] = x.Published != nil
		w.running[x.ID] = x
		w.inv.Put(x)
	}
	for range 40 {
		put()
	}
	w.refresh(t)
	if err := w.SetRules(rules); err != nil {
		t.Fatal(err)
	}
	return w, put
}

// byItself makes a change, which is not to be made whole: it says what is said of what is
// made whole, and the table before says what it said.
func (w *town) byItself(t *testing.T, what string, change func() error) {
	t.Helper()
	before := w.State()
	was := []policy.Judgement{}
	queries := w.queries(before.View)
	for _, q := range queries {
		was = append(was, before.Table.Lookup(q).Judge(policy.Spoken{App: policy.AppHTTP}))
	}
	if err := change(); err != nil {
		t.Fatal(err)
	}
	got := w.State()
	if got == before || got.Changes == nil {
		t.Errorf("%s: made whole", what)
	}
	want := w.basis(w.inv.View()).derive(w.ids, w.catalog)
	if !reflect.DeepEqual(got.Statements(), want.Statements()) {
		t.Errorf("%s: %s", what, cmp.Diff(got.Statements(), want.Statements(), cmp.Exporter(func(reflect.Type) bool { return true })))
	}
	if err := (&Control{cfg: w.cfg, epoch: got.Table.Epoch() - 1}).compile(want); err != nil {
		t.Fatal(err)
	}
	w.compareTables(t, got.Table, want.Table, got.View)
	w.compareExplanations(t, got.Table, want.Table)
	for i, q := range queries {
		if j := before.Table.Lookup(q).Judge(policy.Spoken{App: policy.AppHTTP}); j != was[i] {
			t.Errorf("%s: %v was %+v before, and is %+v in the table before", what, q, was[i], j)
		}
	}
}

// TestRecordsAreMadeByThemselves: what a system of record says of some does not wait
// until all is compiled.
func TestRecordsAreMadeByThemselves(t *testing.T) {
	seed := rand.Uint64()
	w, _ := newSettled(t, seed)
	for range 30 {
		what := ""
		w.byItself(t, "a record", func() error { what = w.record(); return w.Refresh() })
		if t.Failed() {
			t.Fatalf("seed %d: %s", seed, what)
		}
	}
}

// TestHoldsAreMadeByThemselves: a quarantine, its release and a threat level do not
// wait until all is compiled, whoever it is that is cut off.
func TestHoldsAreMadeByThemselves(t *testing.T) {
	seed := rand.Uint64()
	w, put := newSettled(t, seed)
	step := func(what string, change func() error) {
		t.Helper()
		if w.byItself(t, what, change); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	services := make(map[string]bool)
	for _, id := range slices.Sorted(maps.Keys(w.running)) {
		subject := w.running[id].Name // one container, or all of a service
		if s := w.running[id].Service.String(); !services[s] && w.chance(50) {
			services[s], subject = true, s
		}
		step("quarantine of "+subject, func() error { return w.Quarantine(subject, Hold{By: "one"}) })
		step("the same of another", func() error { return w.Quarantine(subject, Hold{By: "another", Why: "why"}) })
		if w.chance(30) {
			step("a start under it", func() error { put(); return w.Refresh() })
		}
		if w.chance(60) {
			step("release of "+subject, func() error { _, err := w.Release(subject, "one", ""); return err })
		}
		if len(w.State().Situation.Quarantines) > 3 {
			break
		}
	}
	for _, level := range []operator.Threat{operator.ThreatElevated, operator.ThreatHigh, operator.ThreatNormal} {
		step("threat "+level.String(), func() error { return w.SetThreat(level, Hold{By: "one"}) })
	}
}

// decider is the statement that decided, and the name that it did by.
func decider(t *policy.Table, j *policy.Judgement) string {
	if j.Rule < 0 {
		return ""
	}
	r := &t.Rules()[j.Rule]
	return t.Statements()[r.Statement].ID + " " + r.Name
}

// compareExplanations asks for reasons in both.
func (w *town) compareExplanations(t *testing.T, got, want *policy.Table) {
	t.Helper()
	ids := append(slices.Sorted(maps.Keys(w.running)), "@internet", "@site", "@host", "8.8.8.8", "nobody")
	for range 5 {
		from, to, port := pick(w, ids), pick(w, ids), policy.Port(policy.ProtoTCP, pick(w, []uint16{80, 3306, 5432, 6379}))
		has, err := policy.Explain(got, from, to, port, policy.AppNone)
		wants, wantErr := policy.Explain(want, from, to, port, policy.AppNone)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || has.Text() != wants.Text() {
			t.Errorf("%s to %s %s:\n%v\n%s\nwant %v\n%s", from, to, port, err, has.Text(), wantErr, wants.Text())
		}
	}
}

// compareTables looks flows between all sorts of addresses up in both.
func (w *town) compareTables(t *testing.T, got, want *policy.Table, view *inventory.View) {
	t.Helper()
	for _, q := range w.queries(view) {
		f, d, p := got.Resolve(q)
		f2, d2, p2 := want.Resolve(q)
		if f != f2 || d != d2 || p != p2 {
			t.Errorf("%v: %d calls %d:%d, want %d, %d:%d", q, f, d, p, f2, d2, p2)
		}
		has, wants := got.Lookup(q), want.Lookup(q)
		for _, app := range []policy.App{policy.AppNone, policy.AppHTTP, policy.AppDNS, policy.AppPostgreSQL, policy.AppRedis} {
			s := policy.Spoken{App: app}
			a, b := has.Judge(s), wants.Judge(s)
			by, wantBy := decider(got, &a), decider(want, &b)
			if a.Rule, b.Rule = 0, 0; a != b || by != wantBy {
				t.Errorf("%v %v: %+v by %s, want %+v by %s", q, s, a, by, b, wantBy)
			}
		}
	}
}

// queries are flows between all sorts of addresses.
func (w *town) queries(view *inventory.View) []policy.Query {
	addresses := []netip.Addr{netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("10.0.0.77"),
		netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("224.0.0.251")}
	for x := range view.Workloads {
		for _, e := range x.Endpoints {
			addresses = append(addresses, e.Addresses...)
			addresses = append(addresses, e.MAC.LinkLocal())
		}
		for _, vips := range x.VIPs {
			addresses = append(addresses, vips...)
		}
	}
	for _, n := range w.networks {
		addresses = append(addresses, n.LB...)
	}
	out := make([]policy.Query, 300)
	for i := range out {
		out[i] = policy.Query{Zone: policy.Zone(w.IntN(6)), Src: pick(w, addresses).As16(), Dst: pick(w, addresses).As16(),
			Proto: pick(w, []policy.Proto{policy.ProtoTCP, policy.ProtoUDP}), DstPort: pick(w, []uint16{53, 80, 443, 3306, 5432, 6379, 8000, 9090})}
	}
	return out
}

// TestStatesBesideReaders: whoever asks a state while the next ones are made of it
// is told of its own. The race detector looks on.
func TestStatesBesideReaders(t *testing.T) {
	w := newTown(t, rand.Uint64(), 1)
	w.oddity = 5
	w.rule(t)
	for range 40 {
		w.step(t)
	}
	w.refresh(t)
	var over atomic.Bool
	var readers sync.WaitGroup
	for r := range 2 {
		readers.Go(func() {
			own := rand.New(rand.NewPCG(1, uint64(r)))
			for !over.Load() {
				s := w.State()
				workloads := s.Snapshot().Workloads
				x, y := workloads[own.IntN(len(workloads))].ID, workloads[own.IntN(len(workloads))].ID
				from, to := s.Population.Group(x), s.Population.Group(y)
				if from == nil || to == nil || !slices.Contains(from.Members, x) {
					t.Errorf("%s is of group %v, %s of %v", x, from, y, to)
					return
				}
				s.Population.Evidence(x)
				s.Findings()
				port := policy.Port(policy.ProtoTCP, 5432)
				a := policy.Peer{Kind: policy.PeerService, Service: from.Service, Identity: from.Identity}
				b := policy.Peer{Kind: policy.PeerService, Service: to.Service, Identity: to.Identity}
				s.Population.WhyNot(a, b, port)
				s.Population.HiddenSource(policy.Peer{Kind: policy.PeerHost}, b, port)
				_, _ = policy.Explain(s.Table, x, y, port, policy.AppNone) // who shares a namespace cannot be asked for
			}
		})
	}
	by := 0
	for range 150 {
		w.step(t)
		if w.refresh(t).Changes != nil {
			by++
		}
	}
	over.Store(true)
	readers.Wait()
	if by == 0 {
		t.Error("all was made whole: nothing was shared")
	}
}

// TestFirstMemberSaysWhetherItIsSetUp: one container whose settings say that it is of a
// cluster (R11), among others of its service that serve the same without saying so,
// comes and goes as it would be compiled, whichever of them is first.
func TestFirstMemberSaysWhetherItIsSetUp(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	rules, err := Sources{Models: []document.File{{Name: "m.yaml", Data: []byte(`schema: gatehouse.model/v1
model: own
revision: 1
title: a test
roles: [database]
match: {images: [acme/own]}
serves:
  - id: bus
    kind: cluster
    app: any
    ports: [tcp/7000]
    to: [{peer: cluster}]
    when: {any: [{exposed: tcp/7000}, {env: CLUSTER}]}
calls:
  - id: bus
    kind: cluster
    app: any
    ports: [callee]
    to: [{peer: cluster}]
`)}}}.Rules()
	if err != nil {
		t.Fatal(err)
	}
	put := func(id, service, address string, set bool) {
		w := l.workload(service, address)
		w.ID, w.Name, w.Endpoints[0].ID = id, id, "e"+id
		w.Image = policy.Image{Ref: "acme/own", Repository: "docker.io/acme/own"}
		w.Exposed = []policy.PortRange{policy.Port(policy.ProtoTCP, 7000)}
		if set {
			w.EnvKeys, w.Env = []string{"CLUSTER"}, map[string]string{"CLUSTER": "yes"}
		}
		l.inv.Put(w)
	}
	put("m1", "node1", "172.30.0.2", false)
	put("m2", "node1", "172.30.0.3", false)
	put("n1", "node2", "172.30.0.4", true)
	l.put("db", "172.30.0.9")
	l.refresh(t)
	if err := l.SetRules(rules); err != nil {
		t.Fatal(err)
	}
	for i, step := range []func(){func() { put("a1", "node1", "172.30.0.5", true) }, func() { l.inv.PutHost(policy.Host{Name: "renamed"}) }, func() { l.inv.Delete("a1") }} {
		step()
		got := l.refresh(t)
		want := l.basis(l.inv.View()).derive(l.ids, l.catalog)
		if !reflect.DeepEqual(got.Statements(), want.Statements()) {
			t.Errorf("step %d: %s", i, cmp.Diff(got.Statements(), want.Statements(), cmp.Exporter(func(reflect.Type) bool { return true })))
		}
	}
}

// TestComerThatCutsControl: somebody who comes to the address by which the gateway
// works, where a statement that names nobody cuts it, is refused as a whole compile
// refuses it, and the state before stays.
func TestComerThatCutsControl(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.cfg.Own = func() map[string]netip.AddrPort {
		return map[string]netip.AddrPort{"Docker": netip.MustParseAddrPort("172.30.0.9:2375"), "records": netip.MustParseAddrPort("192.168.1.5:9376")}
	}
	rules, err := Sources{Statements: []document.File{{Name: "s.yaml", Data: []byte(`schema: gatehouse.statements/v1
statements: [{id: shut, verdict: deny, from: [{peer: any}], to: [{peer: workload}], app: [any], ports: [any]}]
`)}}}.Rules()
	if err != nil {
		t.Fatal(err)
	}
	l.inv.PutHost(policy.Host{Name: "h", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.5/24")}})
	l.put("web", "172.30.0.2")
	l.refresh(t)
	if err := l.SetRules(rules); err != nil {
		t.Fatal(err)
	}
	l.put("web", "172.30.0.3")
	last := l.refresh(t)
	at := func(change func(*policy.Workload)) policy.Workload {
		w := l.workload("proxy", "172.30.0.4")
		change(&w)
		return w
	}
	for what, w := range map[string]policy.Workload{
		"a container at its address": at(func(w *policy.Workload) { w.Endpoints[0].Addresses = []netip.Addr{netip.MustParseAddr("172.30.0.9")} }),
		"a port that is published": at(func(w *policy.Workload) {
			w.Published = []policy.Published{{HostPort: 9376, Port: 80, Proto: policy.ProtoTCP}}
		}),
	} {
		l.inv.Put(w)
		if err := l.Refresh(); err == nil || !strings.Contains(err.Error(), "would cut the gateway off from") || l.State() != last {
			t.Errorf("%s: %v", what, err)
		}
		l.inv.Delete(w.ID)
		last = l.refresh(t)
	}
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse/control"
	"gatehouse/control/inventory"
	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

// ChangesConfig says what Changes measures.
type ChangesConfig struct {
	Rounds    int
	Workloads []int // sizes; none = 10,000 and 100,000
	Progress  io.Writer
}

// Changes measures how long one container's start or stop takes from the
// inventory's being told until the table that follows is published, through the
// gateway's own loop: inventory, models, operator's statements, policy.
func Changes(ctx context.Context, cfg ChangesConfig) (*Comparison, error) {
	c := newComparison("One container's start or stop", "", cfg.Rounds)
	c.Notes = append(c.Notes,
		"From the call that tells the inventory until the table that follows is published; in the first row a replica of a service that has others starts or stops. The running gateway also lets go of, or admits, the container's interfaces in the kernel, which is not in these figures.",
		"Made whole is what the first state takes, and every change that reaches too far to be made by itself: of networks, of the operator's files. What a mode or a quarantine takes begins with its being written to the disk, what a record takes with its file's being written.")
	if len(cfg.Workloads) == 0 {
		cfg.Workloads = []int{10_000, 100_000}
	}
	for _, n := range cfg.Workloads {
		if n < 1000 || n > 200_000 {
			return nil, fmt.Errorf("workloads: %d is not between 1,000 and 200,000", n)
		}
		for i := range changingPolicies {
			if err := measureChanges(ctx, c, n, &changingPolicies[i], cfg.Progress); err != nil {
				return nil, fmt.Errorf("%d workloads: %w", n, err)
			}
		}
	}
	return c, nil
}

// changingPolicy is what the operator says beside statements of services, and what
// changes under that.
type changingPolicy struct {
	name       string
	statements string
	recorded   bool // there is a system of record
	proxied    int  // how many projects have a service on one network for all
	kinds      []changeKind
}

var changingPolicies = []changingPolicy{
	{kinds: changeKinds},
	{name: ", under statements of siblings, networks, fronts and roles", statements: wideStatements, kinds: wideKinds},
	{name: ", with a system of record", statements: recordedStatements, recorded: true, kinds: recordedKinds},
	{name: ", of all projects one service on a proxy's network", proxied: changingServices / len(changingKinds), kinds: []changeKind{alwaysAlone}},
}

// recordedStatements select by what a system of record says.
const recordedStatements = `
  - {id: risky, verdict: deny, from: [{category: {risk: {gte: high}}, peer: workload}], to: [{role: database}], app: [any], ports: [tcp/9300], why: bench}
`

const recordedCategories = `schema: gatehouse.categories/v1
source: {name: cmdb, file: %q}
categories: {risk: {ordered: [low, medium, high]}}
`

// wideStatements mean services by what those have in common, each many.
const wideStatements = `
  - {id: siblings, verdict: deny, from: [{peer: siblings}], to: [{peer: workload}], app: [any], ports: [tcp/9090], why: bench}
  - {id: network, verdict: deny, from: [{peer: workload, within: shared}], to: [{role: cache, within: shared}], app: [any], ports: [tcp/9100], why: bench}
  - {id: front, verdict: deny, from: [{peer: internet}], to: [{peer: front}], app: [any], ports: [tcp/8443], why: bench}
  - {id: roles, verdict: deny, from: [{role: app-server}, {role: cache}], to: [{role: database}], app: [any], ports: [tcp/9200], why: bench}
`

func measureChanges(ctx context.Context, c *Comparison, n int, under *changingPolicy, progress io.Writer) error {
	w, err := newChangingWorld(n, under)
	if err != nil {
		return err
	}
	defer w.close()
	begin := time.Now()
	if err := w.control.Refresh(); err != nil {
		return err
	}
	<-w.published
	whole := float64(time.Since(begin).Microseconds()) / 1000
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.control.Run(ctx)
	}()
	kinds := under.kinds
	took := make([][]float64, len(kinds))
	wholes := make([]int, len(kinds))
	for range c.Rounds {
		for i := range kinds {
			if err = w.round(ctx, &kinds[i], &took[i], &wholes[i]); err != nil {
				return err
			}
		}
	}
	stop()
	<-done
	state := w.control.State()
	k := Case{Name: fmt.Sprintf("%d workloads, %d services, %d statements%s", n, len(state.Population.Groups), len(state.Statements()), under.name), Size: n}
	for i := range kinds {
		slices.Sort(took[i])
		r := latencies(kinds[i].variant, took[i])
		if wholes[i] > 0 {
			r.Note += fmt.Sprintf(", %d of them made whole", wholes[i])
		}
		k.Results = append(k.Results, r)
	}
	k.Results = append(k.Results, Result{Variant: "made whole", Unit: "ms", Min: whole, Median: whole, Max: whole})
	c.Cases = append(c.Cases, k)
	fmt.Fprintf(progress, "%d workloads: measured\n", n)
	return nil
}

const publishedVariant = "one container's start or stop, event to table published"

// changeKind is what changes in one row: steps are taken one after the other, of
// which those that are not the measured ones make the world ready or tidy it.
type changeKind struct {
	variant  string
	perRound int // measured changes
	steps    func(*changingWorld) []changeStep
	mustStay bool // none may be made whole
}

type changeStep struct {
	change   func()
	measured bool
}

var firstOrLast = changeKind{"a service's first or last container starts or stops", 100, func(w *changingWorld) []changeStep {
	return w.comesAndGoes(w.alone(0))
}, false}

var alwaysAlone = changeKind{firstOrLast.variant, 20, firstOrLast.steps, true}

// comesAndGoes is a container's start and stop, both measured.
func (w *changingWorld) comesAndGoes(x policy.Workload) []changeStep {
	return []changeStep{{func() { w.inventory.Put(x) }, true}, {func() { w.inventory.Delete(x.ID) }, true}}
}

// wideKinds change who is meant by statements that mean many.
var wideKinds = []changeKind{
	firstOrLast,
	{"the same of a database, which those statements mean", 100, func(w *changingWorld) []changeStep {
		x := w.alone(0)
		x.Image, x.References = policy.Image{Ref: "mariadb", Repository: "docker.io/library/mariadb"}, nil
		return w.comesAndGoes(x)
	}, false},
}

// recordedKinds change what is said of somebody.
var recordedKinds = []changeKind{
	firstOrLast,
	{"a record says something else of one container", 100, func(w *changingWorld) []changeStep {
		number := changingWorkload(w.IntN(w.workloads)).Labels[containerNumber].Value
		return []changeStep{{func() { w.record("," + containerNumber + "=" + number + ",high\n") }, true}, {func() { w.record("") }, true}}
	}, true},
}

// record has the system of record say a line more than what it says of some services.
func (w *changingWorld) record(line string) {
	text := "service,label,risk\np0/web,,high\n"
	for p := range changingServices / len(changingKinds) {
		text += fmt.Sprintf("p%d/db,,medium\n", p)
	}
	text += line
	source := &w.rules.Policy.Sources[0]
	w.recorded += time.Second
	at := time.Unix(0, 0).Add(w.recorded) // a file that is just written may not be whole
	w.fault = errors.Join(os.WriteFile(source.Path, []byte(text), 0o600), os.Chtimes(source.Path, at, at))
	w.records.Ask(context.Background(), *source)
	if s := w.records.Status()[0]; s.Fault != "" {
		w.fault = errors.New(s.Fault)
	}
}

var changeKinds = []changeKind{
	{publishedVariant, 500, func(w *changingWorld) []changeStep {
		x := changingWorkload(w.IntN(w.workloads))
		return []changeStep{{func() { w.inventory.Delete(x.ID) }, true}, {func() { w.inventory.Put(x) }, true}}
	}, true},
	firstOrLast,
	{"the same with a published port", 100, func(w *changingWorld) []changeStep {
		x := w.alone(0)
		x.Published = []policy.Published{{HostIP: netip.IPv4Unspecified(), HostPort: 8080, Port: 8080, Proto: policy.ProtoTCP}}
		return w.comesAndGoes(x)
	}, false},
	{"a service goes from one container to two, or back", 100, func(w *changingWorld) []changeStep {
		x, y := w.alone(0), w.alone(1)
		y.Service, y.Image, y.References = x.Service, x.Image, x.References
		y.Endpoints[0].Network, y.Endpoints[0].Addresses = x.Endpoints[0].Network, []netip.Addr{x.Endpoints[0].Addresses[0].Next()}
		return []changeStep{{func() { w.inventory.Put(x) }, false}, {func() { w.inventory.Put(y) }, true},
			{func() { w.inventory.Delete(y.ID) }, true}, {func() { w.inventory.Delete(x.ID) }, false}}
	}, false},
	{"a label changes one container's mode", 100, func(w *changingWorld) []changeStep {
		x := changingWorkload(w.IntN(w.workloads))
		y := x
		y.Labels = maps.Clone(x.Labels)
		y.Labels[models.LabelMode] = policy.Label{Value: "enforce", By: policy.SetByDeployer}
		return []changeStep{{func() { w.inventory.Put(y) }, true}, {func() { w.inventory.Put(x) }, true}}
	}, false},
	{"a label moves a container to another service", 100, func(w *changingWorld) []changeStep {
		x := changingWorkload(w.IntN(w.workloads))
		y := x
		y.Service.Name = "moved"
		return []changeStep{{func() { w.inventory.Put(y) }, true}, {func() { w.inventory.Put(x) }, true}}
	}, false},
	{"a service that reaches a DNS name starts or stops", 2, func(w *changingWorld) []changeStep {
		x := w.alone(0)
		x.Labels = map[string]policy.Label{"gatehouse.allow.egress": {Value: "api.example.com:443", By: policy.SetByDeployer}}
		return w.comesAndGoes(x)
	}, false},
	{"a Swarm service with a virtual address starts or stops", 100, func(w *changingWorld) []changeStep {
		return w.comesAndGoes(w.balanced(2))
	}, true},
	{"a Swarm service's virtual address changes", 100, func(w *changingWorld) []changeStep {
		x, y := w.balanced(2), w.balanced(4)
		y.ID, y.Endpoints, y.References, y.Service = x.ID, x.Endpoints, x.References, x.Service
		return []changeStep{{func() { w.inventory.Put(x) }, false}, {func() { w.inventory.Put(y) }, true}, {func() { w.inventory.Put(x) }, true},
			{func() { w.inventory.Delete(x.ID) }, false}}
	}, true},
	{"a mode is set by hand", 100, func(w *changingWorld) []changeStep {
		services := []string{changingWorkload(w.IntN(changingServices)).Service.String()}
		return []changeStep{{func() { w.fault = w.control.SetModes(services, policy.Enforce) }, true}, {func() { w.fault = w.control.SetModes(services, policy.Observe) }, true}}
	}, false},
	{"a service is put in quarantine or released", 100, func(w *changingWorld) []changeStep {
		service := changingWorkload(w.IntN(changingServices)).Service.String()
		return []changeStep{{func() { w.fault = w.control.Quarantine(service, control.Hold{By: "bench"}) }, true}, {func() { _, w.fault = w.control.Release(service, "bench", "") }, true}}
	}, false},
	{"a container in another's network namespace starts or stops", 100, func(w *changingWorld) []changeStep {
		x := w.alone(0)
		x.SharedWith, x.Endpoints = changingWorkload(w.IntN(w.workloads)).ID, nil
		return w.comesAndGoes(x)
	}, true},
	{"a container in the host's network namespace starts or stops", 100, func(w *changingWorld) []changeStep {
		x := w.alone(0)
		x.Uncovered, x.Endpoints = "network_mode host", nil
		return w.comesAndGoes(x)
	}, true},
}

// alone is the only container of a service of its own, in some project, at an address
// that nobody else has.
func (w *changingWorld) alone(n int) policy.Workload {
	x := changingWorkload(w.IntN(changingServices))
	x.ID, x.Name, x.Service.Name = fmt.Sprintf("ff%06x%s", n, x.ID), "alone", "alone"
	e := &x.Endpoints[0]
	e.ID, e.MAC[1], e.MAC[5] = "e"+x.ID, 1, byte(n)
	e.Addresses = []netip.Addr{changingAddr(int(e.Addresses[0].As4()[1]), 60_000)}
	e.Aliases = []string{"alone", x.ID[:12]}
	return x
}

// balanced is the only task of a Swarm service, with a virtual address.
func (w *changingWorld) balanced(vip int) policy.Workload {
	x := w.alone(0)
	x.Swarm, x.Compose = true, false
	x.Endpoints[0].Network, x.Endpoints[0].Addresses = "overlay", []netip.Addr{changingAddr(200, 3)}
	x.VIPs = map[string][]netip.Addr{"overlay": {changingAddr(200, vip)}}
	return x
}

// changingWorld is a gateway's loop over projects of five services each.
type changingWorld struct {
	*rand.Rand
	inventory *inventory.Inventory
	control   *control.Control
	rules     *control.Rules
	records   *control.RecordStore
	recorded  time.Duration // since 1970: when the records' file was written last
	published chan publication
	workloads int
	dir       string
	table     atomic.Pointer[policy.Table]
	fault     error // of the step that was taken last
}

type publication struct {
	at    time.Time
	whole bool
}

const (
	changingServices   = 500
	changingStatements = 5000
)

// changingKinds are the services of a project: what each runs, and whom its
// environment names.
var changingKinds = []struct {
	name, image string
	names       []string
}{
	{"web", "nginx", []string{"app"}}, {"app", "acme/app", []string{"db", "cache"}}, {"worker", "acme/worker", []string{"db", "cache"}},
	{"db", "mariadb", nil}, {"cache", "redis", nil},
}

func newChangingWorld(n int, under *changingPolicy) (*changingWorld, error) {
	dir, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return nil, err
	}
	w := &changingWorld{Rand: rand.New(rand.NewPCG(uint64(n), 1)), inventory: inventory.New(), workloads: n, published: make(chan publication, 1), dir: dir}
	snap := &policy.Snapshot{Host: policy.Host{Name: "host"}}
	for p := range changingServices / len(changingKinds) {
		snap.Networks = append(snap.Networks, policy.Network{ID: fmt.Sprintf("n%04d", p), Name: fmt.Sprintf("p%d_default", p), Driver: "bridge", Zone: policy.Zone(p + 1),
			Owner: policy.ProjectKey{Name: fmt.Sprint("p", p)}, Guarded: true, ICC: true, Subnets: []netip.Prefix{netip.PrefixFrom(changingAddr(p, 0), 16)}})
	}
	snap.Networks = append(snap.Networks, policy.Network{ID: "overlay", Name: "overlay", Driver: "overlay", NetNS: "/run/docker/netns/1-overlay", Zone: 1000, Guarded: true, ICC: true,
		Subnets: []netip.Prefix{netip.PrefixFrom(changingAddr(200, 0), 16)}, LB: []netip.Addr{changingAddr(200, 250)}})
	snap.Networks = append(snap.Networks, policy.Network{ID: "proxy", Name: "proxy", Driver: "bridge", Zone: 1001, Guarded: true, ICC: true, Subnets: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}})
	for i := range n {
		x := changingWorkload(i)
		if service := i % changingServices; service%len(changingKinds) == 0 && service/len(changingKinds) < under.proxied {
			x.Endpoints = append(x.Endpoints, policy.Endpoint{ID: "p" + x.ID, Network: "proxy", MAC: policy.MAC{2, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)},
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 16 | byte(i>>16), byte(i >> 8), byte(i)})}, Aliases: x.Endpoints[0].Aliases})
		}
		snap.Workloads = append(snap.Workloads, x)
	}
	w.inventory.Replace(snap)
	modes, holds, err := w.inputs(under)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	log := slog.New(slog.DiscardHandler)
	w.records = control.NewRecordStore("", log)
	if w.records.Follow(w.rules.Policy.Sources); under.recorded {
		w.record("")
	}
	w.control = control.New(control.Config{Inventory: w.inventory, Rules: w.rules, Modes: modes, Holds: holds, Records: w.records, Log: log,
		Settings: models.Settings{DefaultMode: policy.Observe}, Publish: func(s *control.State) {
			w.table.Store(s.Table)
			w.published <- publication{time.Now(), s.Changes == nil}
		}})
	return w, nil
}

func (w *changingWorld) close() { _ = os.RemoveAll(w.dir) }

// inputs are the operator's statements, as many as make the figure full with
// those of the models, and no modes and holds.
func (w *changingWorld) inputs(under *changingPolicy) (modes *control.Modes, holds *control.Holds, err error) {
	const ofModels = 9 * changingServices / 5 // nine of a project
	var text strings.Builder
	text.WriteString("schema: gatehouse.statements/v1\nstatements:" + strings.TrimSuffix(under.statements, "\n") + "\n")
	for i := range changingStatements - ofModels {
		fmt.Fprintf(&text, "  - {id: s%d, verdict: allow, from: [{service: p%d/%s}], to: [{service: p%d/%s}], app: [any], ports: [tcp/%d], why: bench}\n",
			i, w.IntN(100), changingKinds[w.IntN(5)].name, w.IntN(100), changingKinds[w.IntN(5)].name, 1+w.IntN(60_000))
	}
	sources := control.Sources{Statements: []document.File{{Name: "statements.yaml", Data: []byte(text.String())}}}
	if under.recorded {
		categories := fmt.Sprintf(recordedCategories, filepath.Join(w.dir, "records.csv"))
		sources.Categories = []document.File{{Name: "categories.yaml", Data: []byte(categories)}}
	}
	if w.rules, err = sources.Rules(); err != nil {
		return nil, nil, err
	}
	if modes, err = control.OpenModes(filepath.Join(w.dir, "modes.json")); err != nil {
		return nil, nil, err
	}
	holds, err = control.OpenHolds(filepath.Join(w.dir, "holds.json"))
	return modes, holds, err
}

const containerNumber = "com.docker.compose.container-number"

// changingWorkload is the i-th container, a replica of service i % 500.
func changingWorkload(i int) policy.Workload {
	service := i % changingServices
	p, kind := service/len(changingKinds), &changingKinds[service%len(changingKinds)]
	id := fmt.Sprintf("%08x%08d", uint32(i)*2654435761, i) // in no order, as the engine's are
	project := policy.ProjectKey{Name: fmt.Sprint("p", p)}
	x := policy.Workload{ID: id, Name: fmt.Sprintf("p%d-%s-%d", p, kind.name, i/changingServices), Compose: true, Service: policy.ServiceKey{Project: project, Name: kind.name},
		Image:   policy.Image{Ref: kind.image, Repository: "docker.io/library/" + kind.image},
		Exposed: []policy.PortRange{policy.Port(policy.ProtoTCP, 8080)},
		Labels: map[string]policy.Label{
			"com.docker.compose.project": {Value: project.Name, By: policy.SetByDeployer},
			"com.docker.compose.service": {Value: kind.name, By: policy.SetByDeployer},
			containerNumber:              {Value: fmt.Sprint(i), By: policy.SetByDeployer}},
		Endpoints: []policy.Endpoint{{ID: "e" + id, Network: fmt.Sprintf("n%04d", p), MAC: policy.MAC{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)},
			Addresses: []netip.Addr{changingAddr(p, 2+i/changingServices*len(changingKinds)+service%len(changingKinds))}, Aliases: []string{kind.name, id[:12]}}},
	}
	for _, name := range kind.names {
		x.References = append(x.References, policy.Reference{Source: "env " + strings.ToUpper(name) + "_HOST", Host: name})
	}
	return x
}

func changingAddr(project, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(project), byte(i >> 8), byte(i)})
}

// round makes changes of one kind, one at a time, and adds how long each took, in
// microseconds, and how many were made whole.
func (w *changingWorld) round(ctx context.Context, kind *changeKind, took *[]float64, wholes *int) error {
	for n := 0; n < kind.perRound; {
		for _, step := range kind.steps(w) {
			time.Sleep(20 * time.Millisecond) // longer than the loop rests after a publication
			begin := time.Now()
			if step.change(); w.fault != nil {
				return w.fault
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case p := <-w.published:
				switch {
				case !step.measured:
					continue
				case p.whole && kind.mustStay:
					return fmt.Errorf("%s: made whole", kind.variant)
				case p.whole:
					*wholes++
				}
				n++
				*took = append(*took, float64(p.at.Sub(begin).Nanoseconds())/1000)
			}
		}
	}
	return nil
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
		"A replica of a service that has others starts or stops: from the call that tells the inventory until the table that follows is published. The running gateway also lets go of, or admits, the container's interfaces in the kernel, which is not in these figures.",
		"Made whole is what every other change takes: a new service, another mode, another network.")
	if len(cfg.Workloads) == 0 {
		cfg.Workloads = []int{10_000, 100_000}
	}
	for _, n := range cfg.Workloads {
		if n < 1000 || n > 200_000 {
			return nil, fmt.Errorf("workloads: %d is not between 1,000 and 200,000", n)
		}
		if err := measureChanges(ctx, c, n, cfg.Progress); err != nil {
			return nil, fmt.Errorf("%d workloads: %w", n, err)
		}
	}
	return c, nil
}

// changesPerRound starts and stops are measured in a round, half of them each.
const changesPerRound = 500

func measureChanges(ctx context.Context, c *Comparison, n int, progress io.Writer) error {
	w, err := newChangingWorld(n)
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
	var took []float64
	for range c.Rounds {
		if took, err = w.round(ctx, took); err != nil {
			return err
		}
	}
	stop()
	<-done
	slices.Sort(took)
	state := w.control.State()
	c.Cases = append(c.Cases, Case{
		Name: fmt.Sprintf("%d workloads, %d services, %d statements", n, len(state.Population.Groups), len(state.Statements)),
		Size: n,
		Results: []Result{
			latencies(publishedVariant, took),
			{Variant: "made whole", Unit: "ms", Min: whole, Median: whole, Max: whole},
		},
	})
	fmt.Fprintf(progress, "%d workloads: measured\n", n)
	return nil
}

const publishedVariant = "one container's start or stop, event to table published"

// changingWorld is a gateway's loop over projects of five services each.
type changingWorld struct {
	*rand.Rand
	inventory *inventory.Inventory
	control   *control.Control
	published chan publication
	workloads int
	dir       string
	table     atomic.Pointer[policy.Table]
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

func newChangingWorld(n int) (*changingWorld, error) {
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
	for i := range n {
		snap.Workloads = append(snap.Workloads, changingWorkload(i))
	}
	w.inventory.Replace(snap)
	rules, modes, holds, err := w.inputs()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	log := slog.New(slog.DiscardHandler)
	w.control = control.New(control.Config{Inventory: w.inventory, Rules: rules, Modes: modes, Holds: holds, Records: control.NewRecordStore("", log), Log: log,
		Settings: models.Settings{DefaultMode: policy.Observe}, Publish: func(s *control.State) {
			w.table.Store(s.Table)
			w.published <- publication{time.Now(), s.Changes == nil}
		}})
	return w, nil
}

func (w *changingWorld) close() { _ = os.RemoveAll(w.dir) }

// inputs are the operator's statements, as many as make the figure full with
// those of the models, and no modes and holds.
func (w *changingWorld) inputs() (rules *control.Rules, modes *control.Modes, holds *control.Holds, err error) {
	const ofModels = 9 * changingServices / 5 // nine of a project
	var text strings.Builder
	text.WriteString("schema: gatehouse.statements/v1\nstatements:\n")
	for i := range changingStatements - ofModels {
		fmt.Fprintf(&text, "  - {id: s%d, verdict: allow, from: [{service: p%d/%s}], to: [{service: p%d/%s}], app: [any], ports: [tcp/%d], why: bench}\n",
			i, w.IntN(100), changingKinds[w.IntN(5)].name, w.IntN(100), changingKinds[w.IntN(5)].name, 1+w.IntN(60_000))
	}
	rules, err = control.Sources{Statements: []document.File{{Name: "statements.yaml", Data: []byte(text.String())}}}.Rules()
	if err != nil {
		return nil, nil, nil, err
	}
	if modes, err = control.OpenModes(filepath.Join(w.dir, "modes.json")); err != nil {
		return nil, nil, nil, err
	}
	holds, err = control.OpenHolds(filepath.Join(w.dir, "holds.json"))
	return rules, modes, holds, err
}

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
			"com.docker.compose.project":          {Value: project.Name, By: policy.SetByDeployer},
			"com.docker.compose.service":          {Value: kind.name, By: policy.SetByDeployer},
			"com.docker.compose.container-number": {Value: fmt.Sprint(i), By: policy.SetByDeployer}},
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

// round stops and starts random containers one at a time, and adds how long each
// took, in microseconds.
func (w *changingWorld) round(ctx context.Context, took []float64) ([]float64, error) {
	for range changesPerRound / 2 {
		x := changingWorkload(w.IntN(w.workloads))
		for _, change := range []func(){func() { w.inventory.Delete(x.ID) }, func() { w.inventory.Put(x) }} {
			time.Sleep(20 * time.Millisecond) // longer than the loop rests after a publication
			begin := time.Now()
			change()
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case p := <-w.published:
				if p.whole {
					return nil, errors.New("a replica's start or stop made the state whole")
				}
				took = append(took, float64(p.at.Sub(begin).Nanoseconds())/1000)
			}
		}
	}
	return took, nil
}

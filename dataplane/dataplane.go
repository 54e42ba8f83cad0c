package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"gatehouse/policy"
)

// Config says what a Dataplane is made of.
type Config struct {
	Workers int // one per queue of the ports; 0 = 1
	// Flows is how many conversations each worker knows at once; 0 = 131,072,
	// which take 27 MB.
	Flows int
	// PerEndpoint is how many of them one endpoint gets, 0 = a quarter.
	PerEndpoint int
	FlowMap     FlowMap
	// Beat, if not nil, is called from each worker's own loop at least every
	// 50 ms with the time on CLOCK_MONOTONIC in nanoseconds. It must not block.
	Beat func(queue int, now int64)
	// PortFailed, if not nil, is told in a goroutine of its own that the kernel
	// has taken a port away. The port is closed; the others go on.
	PortFailed func(space, queue int, err error)
	// WatchEvery is classify.Config's: how often a flow of the same addresses and
	// port is read although policy does not ask what it speaks; 0 = never.
	WatchEvery time.Duration
	// Ended, if not nil, gets the flows that have ended, and how many were lost
	// before them because it did not keep up. It is called from one goroutine,
	// off the packet path; the slice is the caller's again afterwards.
	Ended func(flows []Flow, lost uint64)
	// Violated, if not nil, gets each violation as it is now, and the packets
	// that it has grown by; lost are events that found no room before it (v is
	// nil then). It is called off the packet path, by several goroutines.
	Violated func(v *Violation, packets, lost uint64)
	// Names, if not nil, learns what names stand for from the DNS answers that pass
	// here; tables compiled with it let pass what follows.
	Names *policy.Names
	// RejectOwn tells an endpoint that enforces at once what no statement lets it
	// begin: TCP by a reset, the rest by ICMP, where else it waits. Lookups are
	// answered in any case.
	RejectOwn bool
	// RefusedAbsent answers a lookup of an address that policy refuses as if there
	// were no such name: NXDOMAIN, not REFUSED.
	RefusedAbsent bool
	Logger        *slog.Logger // nil = slog.Default
}

// Dataplane is all workers with what they share. All methods are safe for
// concurrent use.
type Dataplane struct {
	config     Config
	table      atomic.Pointer[policy.Table]
	endpoints  atomic.Pointer[endpoints]
	workers    []*worker
	events     *mailbox[event]
	violations *Violations
	told       *mailbox[told] // nil where nobody wants to know
	hosts      *hosts
	sweeper    *sweeper
	clock      clock

	mu    sync.Mutex // orders SetEndpoints; guards what follows
	ports map[portKey]Port
	lost  uint64 // what ports that are gone had dropped themselves
}

type portKey struct{ space, queue int }

// eventsKept is how many violations may wait for the log.
const eventsKept = 4096

// New returns a Dataplane that drops everything until it has a table and
// endpoints. Run serves; ports may be added before.
func New(c Config) (*Dataplane, error) {
	if c.FlowMap == nil {
		return nil, errors.New("dataplane: no flow map")
	}
	if c.Workers <= 0 {
		c.Workers = 1
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Flows == 0 {
		c.Flows = 1 << 17
	}
	if c.Violated == nil {
		c.Violated = func(*Violation, uint64, uint64) {}
	}
	if c.Beat == nil {
		c.Beat = func(int, int64) {}
	}
	if c.PortFailed == nil {
		c.PortFailed = func(int, int, error) {}
	}
	d := &Dataplane{
		config: c,
		events: newMailbox[event](eventsKept),
		clock:  newClock(),
		ports:  make(map[portKey]Port),
	}
	d.hosts = newHosts()
	d.endpoints.Store(noEndpoints())
	d.violations = newViolations(d.clock, c.Violated)
	if c.Ended != nil {
		d.told = newMailbox[told](endedKept)
	}
	d.sweeper = newSweeper(c.FlowMap, &d.endpoints, d.violations, d.touch, d.offloads, c.Logger, d.clock)
	for queue := range c.Workers {
		w, err := newWorker(d, queue)
		if err != nil {
			return nil, fmt.Errorf("worker %d: %w", queue, err)
		}
		d.workers = append(d.workers, w)
	}
	return d, nil
}

// Run serves until ctx ends, then closes all ports. Call it once.
func (d *Dataplane) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range d.workers {
		g.Go(func() error { return w.run(ctx) })
	}
	g.Go(func() error { d.violations.run(ctx, d.events); return nil })
	if d.told != nil {
		g.Go(func() error { d.runEnded(ctx); return nil })
	}
	g.Go(func() error { d.sweeper.run(ctx); return nil })
	g.Go(func() error { d.sweepNames(ctx); return nil })
	return g.Wait()
}

// AddPort gives a space's port on one queue to the worker of that queue, which
// owns and closes it from now on, whatever AddPort returns.
func (d *Dataplane) AddPort(space, queue int, p Port) error {
	if queue < 0 || queue >= len(d.workers) {
		return errors.Join(fmt.Errorf("add port: queue %d, there are %d workers", queue, len(d.workers)), p.Close())
	}
	d.mu.Lock()
	if gone := d.ports[portKey{space, queue}]; gone != nil { // given up
		d.lost += gone.Stats().lost()
	}
	d.ports[portKey{space, queue}] = p
	d.mu.Unlock()
	if !d.workers[queue].ask(func(w *worker) { w.addPort(space, p) }) {
		return errors.Join(errors.New("add port: the dataplane has stopped"), p.Close())
	}
	return nil
}

// RemoveSpace closes the ports of a space.
func (d *Dataplane) RemoveSpace(space int) error {
	d.mu.Lock()
	for k, p := range d.ports {
		if k.space == space {
			d.lost += p.Stats().lost()
			delete(d.ports, k)
		}
	}
	d.mu.Unlock()
	var mu sync.Mutex
	var errs []error
	for _, w := range d.workers {
		w.ask(func(w *worker) {
			err := w.removePorts(space)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(errs...)
}

// SetEndpoints replaces the set of admitted endpoints, those that are not guarded
// included: frames of their neighbours are addressed to them. When it returns, no
// frame is judged by the old set any more, and the flows of endpoints that are
// gone have ended. So call it when the steering side has let an endpoint go,
// before its slot or address is used again, and when it has admitted one: until
// then frames of that one are dropped.
func (d *Dataplane) SetEndpoints(list []Endpoint) {
	d.mu.Lock()
	old := d.endpoints.Load()
	d.endpoints.Store(newEndpoints(list, old))
	d.mu.Unlock()
	d.settle()
	if gone := old.without(list); len(gone) > 0 {
		d.violations.part(gone)
	}
}

// SetTable makes t the policy. When it returns, no frame is judged by the old
// table any more.
func (d *Dataplane) SetTable(t *policy.Table) {
	if d.config.Names != nil {
		d.config.Names.Attach(t, time.Now())
	}
	d.table.Store(t)
	d.settle()
}

// Table returns the present table, nil before the first.
func (d *Dataplane) Table() *policy.Table { return d.table.Load() }

// settle waits until each worker has begun another turn.
func (d *Dataplane) settle() {
	for _, w := range d.workers {
		w.ask(func(*worker) {})
	}
}

// Adopt takes over the flows that a former process left in the kernel's map:
// they keep their direction and application. Call it after SetTable and
// SetEndpoints, before frames come. It returns how many were taken; the others
// are met mid-stream.
func (d *Dataplane) Adopt(entries []FlowEntry) int {
	var adopted atomic.Int64
	for _, w := range d.workers {
		w.ask(func(w *worker) { adopted.Store(max(adopted.Load(), int64(w.adopt(entries)))) })
	}
	return int(adopted.Load())
}

// Violations returns the log of violations.
func (d *Dataplane) Violations() *Violations { return d.violations }

// Flows returns all conversations that the workers know, in no order. What the
// kernel carried is counted up to the last sweep, some seconds ago at most.
func (d *Dataplane) Flows() []Flow {
	var mu sync.Mutex
	var out []Flow
	for _, w := range d.workers {
		w.ask(func(w *worker) {
			list := w.flows()
			mu.Lock()
			defer mu.Unlock()
			out = append(out, list...)
		})
	}
	mu.Lock()
	defer mu.Unlock()
	return out
}

// Counters returns the totals of all workers.
func (d *Dataplane) Counters() Counters {
	var c Counters
	for _, w := range d.workers {
		c.add(&w.counters)
	}
	c.LostViolations = d.violations.Lost()
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Reasons[Neither][policy.ReasonInternal] += d.lost
	for _, p := range d.ports {
		c.Reasons[Neither][policy.ReasonInternal] += p.Stats().lost()
	}
	return c
}

// PortStats returns the sums over the ports that are open, by space.
func (d *Dataplane) PortStats() map[int]PortStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[int]PortStats)
	for k, p := range d.ports {
		s := out[k.space]
		s.add(p.Stats())
		out[k.space] = s
	}
	return out
}

// touch tells every worker what the kernel carried; each knows its own flows.
func (d *Dataplane) touch(ts []touch) {
	for _, w := range d.workers {
		w.do(func(w *worker) { w.touch(ts) })
	}
}

// offloads is how many entries were written so far.
func (d *Dataplane) offloads() (n uint64) {
	for _, w := range d.workers {
		n += w.counters.offloaded.Load() + w.counters.opened.Load()
	}
	return n
}

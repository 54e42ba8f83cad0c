// Package control keeps the table true: a change of the inventory, of a mode, of
// the operator's files, of what systems of record say, or of a condition leads to
// groups, statements, a compiled table, and a publication. Whoever publishes (cmd)
// hands the result to the dataplane.
package control

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/control/inventory"
	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// State is one publication: what the orchestrator told, what the operator says,
// what follows from both and the table it compiled to. Immutable.
type State struct {
	View       *inventory.View
	Rules      *Rules
	Situation  Situation
	Population *models.Population
	Table      *policy.Table
	Compiled   time.Time
	// Changes are the workloads by which it differs from the state published
	// before, and by what follows from them, with the same host and networks, but for
	// newcomers on those. nil where it was made whole.
	Changes []models.Transition
	Around  bool // networks or the host may be others than before
	// statements are in their order; states share those that stay.
	statements []*policy.Statement
	findings   []models.Finding // of services
	ofModels   int              // how many statements are of models and labels; they come first
	expansion  *operator.Expansion
	edited     *models.Difference // by which groups or statements are others than before; nil = by none
	modes      map[string]policy.Mode
	catalog    *operator.Catalog
}

// Snapshot is what the orchestrator told, in one piece. The first call after a
// change takes time in proportion to what there is.
func (s *State) Snapshot() *policy.Snapshot { return s.View.Snapshot() }

// Statements are all in force, in their order. It takes time in proportion to how
// many there are.
func (s *State) Statements() []policy.Statement { return policy.Listed(s.statements) }

// Findings are those about metadata and models.
func (s *State) Findings() []models.Finding { return s.Population.Findings(s.findings) }

// Nobodies is what the operator's files name and nobody has who runs. It takes time
// in proportion to how many workloads and statements there are.
func (s *State) Nobodies() []operator.Nobody {
	return s.Rules.Policy.Nobodies(s.Population, s.catalog, s.Situation.Moment.Time)
}

// Config is what a Control works on. All fields but Own are required.
type Config struct {
	Inventory *inventory.Inventory
	Rules     *Rules
	Settings  models.Settings // what the operator's files and Modes say is filled in
	Modes     *Modes
	Holds     *Holds
	Records   *RecordStore
	// Own are the addresses by which the gateway itself works, by what they are:
	// no statement may cut them. Nil is none.
	Own     func() map[string]netip.AddrPort
	Compile policy.Input // the settings in it; Epoch is the last one used before
	// Publish is called with each new state, one at a time; when it returns
	// the state is in force.
	Publish func(*State)
	Log     *slog.Logger
}

// Control runs the loop. Its methods are safe for concurrent use.
type Control struct {
	cfg   Config
	ids   *policy.Identities
	state atomic.Pointer[State]
	fault atomic.Pointer[string]

	mu      sync.Mutex // held while a state is made and published
	epoch   uint32
	rules   *Rules
	catalog *operator.Catalog
	news    map[string]bool // ids of workloads that changed since the last state
	around  bool            // so did networks or the host
}

// New returns a Control that has published nothing yet.
func New(cfg Config) *Control {
	c := &Control{cfg: cfg, ids: policy.NewIdentities(), epoch: cfg.Compile.Epoch, rules: cfg.Rules, news: make(map[string]bool)}
	cfg.Records.Follow(cfg.Rules.Policy.Sources)
	c.readRecords()
	return c
}

// State is the last one published; nil before the first.
func (c *Control) State() *State { return c.state.Load() }

// Fault says why the last compile failed and the state before it still
// stands; "" if it did not.
func (c *Control) Fault() string {
	if p := c.fault.Load(); p != nil {
		return *p
	}
	return ""
}

// apart is how long after a publication the next one comes at the earliest: a
// burst of changes is gathered, as each publication has every live flow judged
// again. A container's first packet comes some 170 ms after the engine tells of
// its address.
const apart = 15 * time.Millisecond

// Run publishes a state for each change of the inventory, of what systems of
// record say, and of a statement's condition, until ctx ends.
func (c *Control) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(c.untilEdge())
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			if c.flipped() {
				_ = c.Refresh() // Fault tells
			}
			continue
		case <-c.cfg.Inventory.Changed():
		case <-c.cfg.Records.Changed():
			c.mu.Lock()
			c.readRecords()
			c.mu.Unlock()
		}
		_ = c.Refresh() // Fault tells
		select {
		case <-ctx.Done():
			return
		case <-time.After(apart):
		}
	}
}

// SetModes stores the mode of services and publishes what follows before it
// returns. An error says which of the two failed.
func (c *Control) SetModes(services []string, mode policy.Mode) error {
	stored, err := c.store(func() func() error { return c.cfg.Modes.set(services, mode) })
	if !stored {
		return err
	}
	return notInForce("the mode", err)
}

// store makes the state that follows from a change while that is being stored, and
// publishes it when both are done. Where it cannot be stored nothing changes.
func (c *Control) store(change func() (stored func() error)) (stored bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := sync.OnceValue(change())
	err = c.refresh(wait)
	if fault := wait(); fault != nil {
		return false, fault
	}
	return true, c.tell(err)
}

// SetRules puts what the operator's files say in force. Where that cannot be, the
// error says why and nothing changes.
func (c *Control) SetRules(r *Rules) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.rules
	follow := func(r *Rules) {
		c.rules = r
		c.cfg.Records.Follow(r.Policy.Sources)
		c.readRecords()
	}
	follow(r)
	if c.state.Load() == nil { // the first state is Refresh's
		return nil
	}
	err := c.refresh(isStored)
	if err != nil {
		follow(old)
	}
	return err
}

// Refresh makes and publishes a state from what is known now. Of a table that
// does not compile it returns and reports the faults, and the last good one
// stays (V11).
func (c *Control) Refresh() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tell(c.refresh(isStored))
}

// tell makes the error of a refresh the fault that Fault tells, and returns it.
func (c *Control) tell(err error) error {
	if err != nil {
		what := "policy does not compile, the last good table stays"
		if c.state.Load() == nil {
			what = "policy does not compile, and no table was in force before"
		}
		text := what + ": " + err.Error()
		if old := c.fault.Swap(&text); old == nil || *old != text {
			c.cfg.Log.Error(what, "error", err)
		}
		return err
	}
	c.fault.Store(nil)
	return nil
}

// isStored is refresh's stored where what the state follows from is on disk.
func isStored() error { return nil }

// refresh makes a state, and publishes it after stored returned nil.
func (c *Control) refresh(stored func() error) error {
	view, news, around := c.cfg.Inventory.Take()
	for _, id := range news {
		c.news[id] = true
	}
	c.around = c.around || around
	last := c.state.Load()
	basis := c.basis(view)
	if last != nil && (!c.around || sameAround(last.View, view)) && last.Rules == basis.Rules {
		if next, ok := c.changed(last, basis); ok {
			if err := stored(); err != nil {
				return err
			}
			c.put(next, next.Table != last.Table || next != last && next.Around)
			if next != last && next.edited != nil {
				c.report(last, next, next.edited)
			}
			return nil
		}
	}
	c.cfg.Log.Debug("policy is made whole", "workloads changed", len(c.news), "networks or host", c.around)
	if err := stored(); err != nil {
		return err
	}
	next := basis.derive(c.ids, c.catalog)
	if last != nil && same(last, next) {
		next.Table, next.Compiled = last.Table, last.Compiled
		c.put(next, false) // the threat level or the files may still be others
		c.report(last, next, nil)
		return nil
	}
	if err := c.compile(next); err != nil {
		return err
	}
	c.put(next, true)
	c.ids.Keep(next.Population.Live)
	c.report(last, next, nil)
	return nil
}

// put makes s the state, and in force where it is news.
func (c *Control) put(s *State, news bool) {
	c.news = make(map[string]bool) // a burst leaves a map that takes long to walk
	c.around = false
	c.state.Store(s)
	if news {
		c.cfg.Publish(s)
	}
}

// changedModes are the services, by their texts, of which modes are set that were not.
func (s *State) changedModes(b *Basis) map[string]bool {
	if maps.Equal(s.modes, b.Modes) {
		return nil
	}
	out := make(map[string]bool)
	note := func(some, others map[string]policy.Mode) {
		for service, mode := range some {
			if other, set := others[service]; !set || other != mode {
				out[service] = true
			}
		}
	}
	note(s.modes, b.Modes)
	note(b.Modes, s.modes)
	return out
}

// sameAround reports whether host and networks are equal, but for newcomers on
// those, of which statements and tables know nothing.
func sameAround(a, b *inventory.View) bool {
	return reflect.DeepEqual(a.Host, b.Host) && slices.EqualFunc(a.Networks, b.Networks, func(x, y policy.Network) bool {
		x.Newcomer = y.Newcomer
		return reflect.DeepEqual(x, y)
	})
}

// maxChanges bounds how many workloads are changed one by one.
const maxChanges = 256

// changed is the state after the news of workloads, of modes, of records and of the
// situation, where those do not reach too far: last itself where there are none.
func (c *Control) changed(last *State, b *Basis) (next *State, ok bool) {
	changes, regarded, ok := c.transitions(last, b)
	if !ok {
		return nil, false
	}
	stays := last.Situation.same(&b.Situation)
	if len(changes) == 0 && !c.around && stays && !regarded {
		return last, true
	}
	s := *last
	s.View, s.Changes, s.Around, s.Compiled = b.View, changes, c.around, time.Now()
	var d *models.Difference
	if !regarded {
		s.Population, d, ok = last.Population.Next(changes)
	} else {
		s.modes, s.catalog = b.Modes, c.catalog
		s.Population, d, ok = last.Population.NextUnder(b.settings(c.catalog), changes)
	}
	if !ok {
		return nil, false
	}
	if !stays {
		s.Situation = b.Situation
	}
	u := &policy.Update{Epoch: c.epoch + 1, Snapshot: b.View.Snapshot, Groups: s.Population.Groups, Came: d.Came, Gone: d.Gone, Changes: d.Changes}
	if !s.edit(last, d, u) {
		return nil, false
	}
	if len(changes)+len(u.Removed)+len(u.Added) == 0 {
		return &s, true
	}
	if s.Table, ok = last.Table.With(u); !ok || c.cutsOwn(s.Table) {
		return nil, false
	}
	c.epoch++
	return &s, true
}

// transitions are the workloads that changed, or that are regarded otherwise: those of
// services of which the mode is set, those that are put in quarantine or released, and
// those of whom systems of record say something else. It is false where they are too
// many, where a mode is said of nobody, or where records differ in too much.
func (c *Control) transitions(last *State, b *Basis) (changes []models.Transition, regarded, ok bool) {
	modes, quarantines := last.changedModes(b), last.Situation.changedQuarantines(&b.Situation)
	var recorded func(*policy.Workload) bool
	if last.catalog != c.catalog {
		if recorded, ok = last.catalog.Differ(c.catalog); !ok {
			return nil, false, false
		}
	}
	regarded = modes != nil || quarantines != nil || last.catalog != c.catalog
	changes = []models.Transition{}
	concerned := make(map[string]bool, len(c.news)) // whether it is regarded otherwise
	for id := range c.news {
		concerned[id] = false
	}
	for service := range modes {
		for _, g := range last.Population.GroupsOf(service) {
			for _, id := range g.Members {
				concerned[id] = true
			}
		}
	}
	for _, subject := range quarantines {
		for w := range last.belonging(subject) {
			concerned[w.ID] = true
		}
	}
	if last.catalog != c.catalog {
		for w := range last.View.Workloads {
			if recorded(w) {
				concerned[w.ID] = true
			}
		}
	}
	if len(concerned) > maxChanges {
		return nil, false, false
	}
	for _, id := range slices.Sorted(maps.Keys(concerned)) {
		t := models.Transition{Before: last.View.Workload(id), After: b.View.Workload(id)}
		if concerned[id] || !reflect.DeepEqual(t.Before, t.After) {
			changes = append(changes, t)
		}
	}
	return changes, regarded, modes == nil || len(changes) > 0
}

// basis is what the next state follows from.
func (c *Control) basis(view *inventory.View) *Basis {
	return &Basis{View: view, Rules: c.rules, Situation: c.situation(time.Now()),
		Modes: c.cfg.Modes.All(), Settings: c.cfg.Settings, Compile: c.cfg.Compile}
}

// Basis is what a state made now would follow from.
func (c *Control) Basis() *Basis {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.basis(c.cfg.Inventory.View())
	b.Records = c.cfg.Records.All()
	return b
}

func (c *Control) compile(s *State) error {
	in := c.cfg.Compile
	in.Epoch = c.epoch + 1
	in.Snapshot, in.Groups, in.Statements = s.Snapshot(), s.Population.Groups, s.Statements()
	table, err := policy.Compile(in)
	if err != nil {
		return err
	}
	if err := c.keepsControl(table); err != nil {
		return err
	}
	c.epoch = in.Epoch
	s.Table = table
	return nil
}

// same spares a publication where a resync found nothing new: each epoch makes
// every live flow pass the slow path once.
func same(a, b *State) bool {
	return reflect.DeepEqual(a.Snapshot(), b.Snapshot()) &&
		reflect.DeepEqual(a.Population.Groups, b.Population.Groups) &&
		reflect.DeepEqual(a.statements, b.statements)
}

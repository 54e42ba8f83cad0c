// Package control keeps the table true: a change of the inventory or of a mode
// leads to groups, statements, a compiled table, and a publication. Whoever
// publishes (cmd) hands the result to the dataplane.
package control

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/control/inventory"
	"gatehouse/models"
	"gatehouse/policy"
)

// State is one publication: what the orchestrator told, what follows from it
// and the table it compiled to. Immutable.
type State struct {
	Snapshot   *policy.Snapshot
	Population *models.Population
	Statements []policy.Statement
	Findings   []models.Finding
	Table      *policy.Table
	Compiled   time.Time
}

// Config is what a Control works on. All fields are required.
type Config struct {
	Inventory *inventory.Inventory
	Library   *models.Library
	Settings  models.Settings // Modes is filled in from Modes
	Modes     *Modes
	Compile   policy.Input // the settings in it; Epoch is the last one used before
	// Publish is called with each new state, one at a time; when it returns
	// the state is in force.
	Publish func(*State)
	Log     *slog.Logger
}

// Control runs the loop. State and SetModes are safe for concurrent use.
type Control struct {
	cfg   Config
	ids   *policy.Identities
	state atomic.Pointer[State]

	mu    sync.Mutex // held while a state is made and published
	epoch uint32
	fault atomic.Pointer[string]
}

// New returns a Control that has published nothing yet.
func New(cfg Config) *Control {
	return &Control{cfg: cfg, ids: policy.NewIdentities(), epoch: cfg.Compile.Epoch}
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

// gather is how long changes are collected before they are published: each
// publication has every live flow judged again. A container's first packet
// comes some 170 ms after the engine tells of its address.
const gather = 15 * time.Millisecond

// Run publishes a state for each change of the inventory until ctx ends.
func (c *Control) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.cfg.Inventory.Changed():
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gather):
			_ = c.Refresh() // Fault tells
		}
	}
}

// SetModes stores the mode of services and publishes what follows before it
// returns. An error says which of the two failed.
func (c *Control) SetModes(services []string, mode policy.Mode) error {
	if err := c.cfg.Modes.Set(services, mode); err != nil {
		return err
	}
	if err := c.Refresh(); err != nil {
		return fmt.Errorf("the mode is stored, but not in force: %w", err)
	}
	return nil
}

// Refresh makes and publishes a state from what is known now. Of a table that
// does not compile it returns and reports the faults, and the last good one
// stays (V11).
func (c *Control) Refresh() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.make()
	if last := c.state.Load(); last != nil && same(last, next) {
		c.fault.Store(nil)
		return nil
	}
	if err := c.compile(next); err != nil {
		text := err.Error()
		c.fault.Store(&text)
		c.cfg.Log.Error("policy does not compile; the last good table stays", "error", err)
		return err
	}
	c.fault.Store(nil)
	c.state.Store(next)
	c.cfg.Publish(next)
	c.ids.Keep(next.Population.Live)
	return nil
}

func (c *Control) make() *State {
	set := c.cfg.Settings
	set.Modes = c.cfg.Modes.All()
	s := &State{Snapshot: c.cfg.Inventory.Snapshot(), Compiled: time.Now()}
	s.Population = models.Groups(c.cfg.Library, s.Snapshot, set, c.ids)
	s.Statements, s.Findings = models.Generate(s.Population)
	return s
}

func (c *Control) compile(s *State) error {
	in := c.cfg.Compile
	in.Epoch = c.epoch + 1
	in.Snapshot, in.Groups, in.Statements = s.Snapshot, s.Population.Groups, s.Statements
	table, err := policy.Compile(in)
	if err != nil {
		return err
	}
	c.epoch = in.Epoch
	s.Table = table
	return nil
}

// same spares a publication where a resync found nothing new: each epoch makes
// every live flow pass the slow path once.
func same(a, b *State) bool {
	return reflect.DeepEqual(a.Snapshot, b.Snapshot) &&
		reflect.DeepEqual(a.Population.Groups, b.Population.Groups) &&
		reflect.DeepEqual(a.Statements, b.Statements)
}

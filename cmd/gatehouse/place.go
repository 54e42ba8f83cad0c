package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gatehouse/control"
	"gatehouse/control/inventory"
	"gatehouse/dataplane"
	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/steer"
	"gatehouse/dataplane/tun"
	"gatehouse/policy"
)

// place is where a gateway stands that guards no containers: between two
// interfaces as a bump in the wire, or between those that the host routes
// between.
type place struct {
	name   string
	legs   []string    // what the port's slots are
	wire   *steer.Wire // what the kernel carries of a pair; nil for a route
	mode   policy.Mode
	open   func() (dataplane.Port, []string, error)
	hold   func() (notes []string, err error)           // puts back what others took away
	watch  func(context.Context, chan<- struct{}) error // hints when hold has something to look at; may be nil
	drops  func() (uint64, error)                       // what a route's device had no room for; nil for a pair
	remove func() (found bool, err error)

	indexes [2]int // of a pair's interfaces, as the port has them
	lost    chan error
	mu      sync.Mutex
	fault   string // why the port is not open
}

func (s *Settings) isPlace() bool { return len(s.Pair) > 0 || len(s.Route) > 0 }

func (s *Settings) checkPlace() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	twice := func(list []string) bool { return len(slices.Compact(slices.Sorted(slices.Values(list)))) < len(list) }
	if len(s.Pair) > 0 && len(s.Route) > 0 {
		fault("settings pair and route: one gateway is at one place; run another, with --socket, --state and --devices of its own")
	}
	if len(s.Pair) > 0 && (len(s.Pair) != 2 || twice(s.Pair)) {
		fault("setting pair: %s: want two interfaces, such as eth1,eth2", strings.Join(s.Pair, ","))
	}
	if len(s.Route) == 1 || twice(s.Route) {
		fault("setting route: %s: want all interfaces by which the traffic enters and leaves, each once and at least two, or replies would not come through the gateway", strings.Join(s.Route, ","))
	}
	for _, name := range slices.Concat(s.Pair, s.Route) {
		if name == "" || len(name) > 15 || strings.ContainsAny(name, "/ ") {
			fault("%q is no name of an interface", name)
		}
	}
	if s.isPlace() && s.Workers > 1 {
		fault("setting workers: %d: a pair or a route is served by one, as network cards spread the two directions of a flow over different queues", s.Workers)
	}
	return errors.Join(errs...)
}

func newPlace(set Settings) (*place, error) {
	p := &place{mode: set.defaultMode(), lost: make(chan error, 1)}
	if len(set.Pair) > 0 {
		return p, p.bePair(set)
	}
	r := routeOf(set)
	p.name, p.legs = "route "+strings.Join(set.Route, ", "), []string{r.Device}
	p.open = func() (dataplane.Port, []string, error) {
		port, notes, err := tun.OpenRoute(r)
		return port, notes, err
	}
	p.hold = func() (notes []string, err error) {
		mended, err := tun.HoldRoute(r)
		if mended {
			notes = []string{"what closes the sides was gone; put back"}
		}
		return notes, err
	}
	p.drops = func() (uint64, error) { return tun.RouteDrops(r) }
	p.remove = func() (bool, error) { return tun.RemoveRoute(r) }
	return p, nil
}

func routeOf(set Settings) tun.Route {
	return tun.Route{Interfaces: set.Route, Device: set.Devices + "-route", Table: steer.StandingTable(set.Devices) + "-route"}
}

// bePair makes it a bump in the wire.
func (p *place) bePair(set Settings) (err error) {
	if p.wire, err = steer.OpenWire(uint32(set.Flows)); err != nil {
		return err
	}
	c := afxdp.PairConfig{Interfaces: [2]string(set.Pair), Load: p.wire.Load}
	p.name, p.legs = "pair "+set.Pair[0]+", "+set.Pair[1], set.Pair
	var pair *afxdp.Pair // that is open
	p.open = func() (_ dataplane.Port, notes []string, err error) {
		if pair, notes, err = afxdp.OpenPair(c); err != nil {
			return nil, nil, err
		}
		p.indexes = pair.Indexes()
		why, _, err := p.carry(pair)
		if err != nil {
			return nil, nil, errors.Join(err, pair.Close())
		}
		if why != "" {
			notes = append(notes, why)
		}
		return pair, notes, nil
	}
	p.watch = func(ctx context.Context, hints chan<- struct{}) error { return afxdp.WatchPair(ctx, c, hints) }
	p.hold = func() ([]string, error) {
		if err := pair.Check(); err != nil {
			return nil, err
		}
		why, changed, err := p.carry(pair)
		switch {
		case !changed:
			return nil, err
		case why == "":
			why = "decided flows pass in the kernel again"
		}
		return []string{why}, err
	}
	p.remove = func() (bool, error) { return afxdp.RemovePair(c) }
	return nil
}

// carry lets the kernel carry decided flows where the interfaces can, and says
// why it does not.
func (p *place) carry(pair *afxdp.Pair) (why string, changed bool, err error) {
	if why, err = pair.Carries(); err != nil {
		return "", false, err
	}
	able := why == ""
	if !able {
		why += ": every packet goes through user space"
	}
	if p.wire.Carries() == able {
		return why, false, nil
	}
	return why, true, p.wire.Carry(able)
}

// endpoints are the legs as the packet path knows them. Of a pair they have the
// interface's index, by which the kernel knows from where a frame comes.
func (p *place) endpoints() []dataplane.Endpoint {
	var out []dataplane.Endpoint
	for i, leg := range p.legs {
		e := dataplane.Endpoint{ID: leg, Slot: uint16(i), Mode: p.mode, Transit: true}
		if p.wire != nil {
			e.Ifindex = uint32(p.indexes[i])
		}
		out = append(out, e)
	}
	return out
}

// flowMap is that of what the kernel carries.
func (p *place) flowMap() dataplane.FlowMap {
	if p.wire == nil {
		return dataplane.NoFlowMap{}
	}
	return p.wire.Flows()
}

// setEpoch ends what the kernel carries by an older table.
func (p *place) setEpoch(epoch uint32) error {
	if p.wire == nil {
		return nil
	}
	return p.wire.SetEpoch(epoch)
}

func (p *place) report() guarding {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := guarding{devices: map[string]string{}}
	if p.fault != "" {
		r.faults = []string{p.name + ": " + p.fault}
	}
	return r
}

// setFault records why the port is not open, and reports whether that is news.
func (p *place) setFault(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := p.fault != text
	p.fault = text
	return news
}

// close lets the kernel's side go; the interfaces stay shut.
func (p *place) close() error {
	if p.wire == nil {
		return nil
	}
	return p.wire.Close()
}

// failed is dataplane.Config.PortFailed.
func (p *place) failed(_, _ int, err error) {
	select {
	case p.lost <- err:
	default:
	}
}

const (
	// reopenEvery is how often a place whose port was lost is tried again without an
	// event, reopenPause what comes between: to try makes events too.
	reopenEvery = time.Second
	reopenPause = 100 * time.Millisecond
	// holdEvery is how often an open place is looked after without an event.
	holdEvery = 3 * time.Second
	// watchPause comes before events are asked for again that were lost.
	watchPause = 100 * time.Millisecond
)

// keep opens the port again whenever the kernel has taken it away, and puts back
// what others took away around it.
func (p *place) keep(ctx context.Context, plane *dataplane.Dataplane, log *slog.Logger) {
	tick := time.NewTicker(holdEvery)
	defer tick.Stop()
	hints := make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { p.follow(ctx, hints, log) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-hints:
			if p.lookAfter(log) {
				continue
			}
		case <-tick.C:
			if p.lookAfter(log) {
				continue
			}
		case err := <-p.lost:
			p.setFault(err.Error())
		}
		for err := p.reopen(plane, log); err != nil; err = p.reopen(plane, log) {
			if p.setFault(err.Error()) {
				log.Error("nothing passes until this is mended", "place", p.name, "error", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(reopenPause):
			}
			select {
			case <-ctx.Done():
				return
			case <-hints:
			case <-time.After(reopenEvery):
			}
		}
		p.setFault("")
		log.Info("passing again", "place", p.name)
	}
}

// follow hints at what happens around the place until ctx ends.
func (p *place) follow(ctx context.Context, hints chan<- struct{}, log *slog.Logger) {
	if p.watch == nil {
		return
	}
	for {
		err := p.watch(ctx, hints)
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchPause):
			log.Warn("events are asked for again", "place", p.name, "error", err)
		}
	}
}

// lookAfter reports whether all is well; else the place wants to be opened anew.
func (p *place) lookAfter(log *slog.Logger) bool {
	notes, err := p.hold()
	for _, n := range notes {
		log.Warn(n, "place", p.name)
	}
	if err == nil {
		return true
	}
	p.setFault(err.Error())
	log.Error("the place is opened anew", "place", p.name, "error", err)
	return false
}

// reopen closes what may still be open, and forgets that it was lost.
func (p *place) reopen(plane *dataplane.Dataplane, log *slog.Logger) error {
	if err := plane.RemoveSpace(0); err != nil {
		log.Warn("the port did not close in order", "place", p.name, "error", err)
	}
	select {
	case <-p.lost:
	default:
	}
	return p.add(plane, log)
}

// add opens the port and gives it to the worker.
func (p *place) add(plane *dataplane.Dataplane, log *slog.Logger) error {
	port, notes, err := p.open()
	if err != nil {
		return err
	}
	for _, n := range notes {
		log.Warn(n)
	}
	plane.SetEndpoints(p.endpoints())
	return plane.AddPort(0, 0, port)
}

// runPlace is runGateway for a gateway that guards no containers.
func runPlace(ctx context.Context, set Settings, socket string, log *slog.Logger) (err error) {
	f, err := openFront(set, socket, log)
	if err != nil {
		return err
	}
	defer f.listener.Close()
	gw, err := newPlaceGateway(set, f.in, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gw.place.close()) }()
	f.api.gw = gw
	if err := gw.control.Refresh(); err != nil {
		return &exitError{exitUsage, err}
	}
	if err := gw.place.add(gw.dataplane, log); err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	f.run(ctx, g, set, gw)
	g.Go(func() error { gw.place.keep(ctx, gw.dataplane, log); return nil })
	g.Go(func() error { gw.control.Run(ctx); return nil })
	log.Info("running", "version", buildVersion(), "place", gw.place.name, "socket", socket, "mode", set.Mode)
	if set.defaultMode() == policy.Observe {
		log.Warn("what no statement allows is recorded, not dropped; --mode enforce drops it")
	} else if len(f.in.rules.Policy.Statements) == 0 {
		log.Warn("there are no statements, so nothing passes; --statements names a file or folder")
	}
	return g.Wait()
}

// newPlaceGateway builds all but the port. No workload is ever in its inventory.
func newPlaceGateway(set Settings, in inputs, log *slog.Logger) (*gateway, error) {
	known, err := openNames(set, log)
	if err != nil {
		return nil, err
	}
	stand, err := newPlace(set)
	if err != nil {
		return nil, err
	}
	gw := &gateway{settings: set, names: known, inputs: in, place: stand, recorder: newRecorder(set, log), started: time.Now()}
	plane, err := dataplane.New(dataplane.Config{
		Flows: set.Flows, PerEndpoint: set.Flows / len(gw.place.legs), FlowMap: stand.flowMap(), Logger: log,
		PortFailed: gw.place.failed,
		WatchEvery: watchEvery,
		Ended:      gw.recorder.ended,
		Violated:   gw.recorder.violated,
	})
	if err != nil {
		return nil, err
	}
	gw.dataplane, gw.recorder.plane = plane, plane
	gw.control = control.New(control.Config{
		Inventory: inventory.New(), Rules: in.rules, Modes: in.modes, Holds: in.holds, Records: in.records, Log: log,
		Settings: modelSettings(set), Compile: compileSettings(set, 0),
		Publish: func(s *control.State) {
			gw.recorder.names.follow(s)
			plane.SetTable(s.Table)
			if err := stand.setEpoch(s.Table.Epoch()); err != nil {
				log.Error("decided flows keep the old policy", "place", stand.name, "error", err)
			}
		},
	})
	return gw, nil
}

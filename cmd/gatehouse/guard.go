package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/control"
	"gatehouse/control/docker"
	"gatehouse/dataplane"
	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/steer"
	"gatehouse/dataplane/tun"
	"gatehouse/policy"
)

// guard makes the kernel and the dataplane follow what control publishes:
// networks guarded, interfaces admitted, tables in force. The order keeps shut
// what is not known: what ended is removed first, the table comes before the
// interfaces that it is for, a network is closed once all in it are admitted.
type guard struct {
	steer     *steer.Steer
	dataplane *dataplane.Dataplane
	settings  Settings
	ranBefore func(policy.Workload) bool
	told      func() bool // the engine is there, and has told of all it has
	log       *slog.Logger

	mu        sync.Mutex
	wanted    map[string]*waiting // all that should be admitted, by endpoint id
	inhabited inhabitants
	deserted  map[string]time.Time // networks that are closed, by id: since when nobody enforces there, zero while somebody does
	networks  map[policy.Zone]guarded
	spaces    map[int]string        // slow-path pairs in use: number → namespace
	admitted  map[string]*admission // by endpoint id
	waiting   map[string]*waiting
	faults    map[string]string // what could not be done, by object
	swept     bool              // leftovers of an earlier gateway are gone
}

type guarded struct {
	steer.Network
	name string
}

func (n guarded) object() string { return "network " + n.name }

type admission struct {
	spec     steer.Spec
	veth     steer.Veth
	endpoint dataplane.Endpoint
	device   string
}

type waiting struct {
	spec    steer.Spec
	sandbox string
	since   time.Time
	why     string
}

func newGuard(s *steer.Steer, dp *dataplane.Dataplane, set Settings, watcher *docker.Watcher, log *slog.Logger) *guard {
	return &guard{
		steer: s, dataplane: dp, settings: set, log: log,
		ranBefore: func(w policy.Workload) bool { return watcher.Status().RanBefore(w) },
		told:      func() bool { s := watcher.Status(); return s.Connected && s.Synced },
		deserted:  map[string]time.Time{}, networks: map[policy.Zone]guarded{}, spaces: map[int]string{},
		admitted: map[string]*admission{}, waiting: map[string]*waiting{}, faults: map[string]string{},
	}
}

// publish puts a state in force. It returns when that is done, except for
// interfaces that are not wired yet: retry admits those.
func (g *guard) publish(s *control.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	news, moved := g.want(s)
	lost := g.notice()
	g.removeGone()
	if s.Around || lost || moved {
		g.guardNetworks(s, nil)
	}
	g.dataplane.SetTable(s.Table)
	if g.swept {
		g.fault("epoch", g.steer.SetEpoch(s.Table.Epoch()))
	}
	fresh := !g.swept && g.firstStart()
	for _, id := range news {
		w := *g.wanted[id]
		// They talked before, and go on while they become known one by one.
		w.spec.Unguarded = w.spec.Unguarded || fresh
		g.adjust(id, &w)
	}
	g.admitWaiting()
	if !g.swept {
		g.takeOver(s)
	}
	if fresh {
		for _, id := range news {
			w := *g.wanted[id]
			g.adjust(id, &w)
		}
	}
}

// want takes over which endpoints a state wants admitted and which networks
// closed, and returns the endpoints that it may want otherwise than before, and
// whether it may want so of networks.
func (g *guard) want(s *control.State) (news []string, moved bool) {
	if s.Changes == nil {
		g.inhabited = inhabited(s)
		g.wanted = wantedBy(s, &g.inhabited, g.ranBefore)
		return slices.Collect(maps.Keys(g.wanted)), true
	}
	fronts := map[string]bool{}
	for _, c := range s.Changes {
		if c.Before != nil {
			moved = g.inhabited.set(c.Before.ID, dwelling{}) || moved
			g.inhabited.countVIPs(c.Before, -1, fronts)
		}
		if c.After != nil {
			moved = g.inhabited.set(c.After.ID, dwellingOf(s, c.After)) || moved
			g.inhabited.countVIPs(c.After, 1, fronts)
		}
	}
	for _, c := range s.Changes {
		if c.Before != nil {
			for _, e := range c.Before.Endpoints {
				delete(g.wanted, e.ID)
			}
		}
	}
	for _, c := range s.Changes {
		if c.After == nil {
			continue
		}
		for id, w := range wantedOf(s, c.After, g.ranBefore) {
			g.wanted[id] = w
			news = append(news, id)
		}
	}
	for id := range fronts {
		n := s.View.Network(id)
		if n == nil || !n.Guarded {
			continue
		}
		for id, w := range g.inhabited.balancers(n) {
			g.wanted[id] = w
			news = append(news, id)
		}
	}
	return news, moved
}

// adjust makes an endpoint be as it is wanted, or wait for that.
func (g *guard) adjust(id string, w *waiting) {
	if a := g.admitted[id]; a != nil {
		g.change(id, withIfindex(w.spec, a.spec.Ifindex))
		return
	}
	if old := g.waiting[id]; old != nil {
		w.since = old.since
	}
	g.waiting[id] = w
}

// firstStart: no gateway has been here before, so there is nothing shut that
// must stay shut.
func (g *guard) firstStart() bool {
	epoch, err := g.steer.Epoch()
	g.fault("epoch", err)
	return err == nil && epoch == 0 && !g.steer.Replaces()
}

// change gives an admitted endpoint another spec, on the port that it has.
func (g *guard) change(id string, spec steer.Spec) {
	a := g.admitted[id]
	if reflect.DeepEqual(spec, a.spec) {
		return
	}
	endpoint, err := g.steer.Admit(spec)
	g.fault("endpoint "+id, err)
	if err != nil {
		return
	}
	a.spec, a.endpoint = spec, endpoint
	g.dataplane.SetEndpoints(g.endpoints())
}

// takeOver ends the first publication. Until here the flows that an earlier
// gateway decided went on in the kernel by its table; now that the workers know
// them and their endpoints, they are judged by the new one. What runs has been
// admitted: what is not may be shut out.
func (g *guard) takeOver(s *control.State) {
	g.swept = true
	entries, err := allFlows(g.steer.Flows())
	g.fault("takeover", err)
	if n := g.dataplane.Adopt(entries); n > 0 {
		g.log.Info("took over flows", "count", n)
	}
	g.fault("epoch", g.steer.SetEpoch(s.Table.Epoch()))
	g.guardNetworks(s, nil)
	g.fault("leftovers", g.steer.Sweep())
}

func allFlows(m dataplane.FlowMap) ([]dataplane.FlowEntry, error) {
	var all []dataplane.FlowEntry
	slice := make([]dataplane.FlowEntry, 4096)
	for {
		n, end, err := m.Scan(slice)
		all = append(all, slice[:n]...)
		if err != nil || end {
			return all, err
		}
	}
}

func withIfindex(s steer.Spec, ifindex uint32) steer.Spec {
	s.Ifindex = ifindex
	return s
}

// wantedBy are the endpoints that should be admitted, by id.
func wantedBy(s *control.State, in *inhabitants, ranBefore func(policy.Workload) bool) map[string]*waiting {
	wanted := map[string]*waiting{}
	for i := range s.View.Networks {
		if n := &s.View.Networks[i]; n.Guarded {
			maps.Copy(wanted, in.balancers(n))
		}
	}
	for w := range s.View.Workloads {
		maps.Copy(wanted, wantedOf(s, w, ranBefore))
	}
	return wanted
}

// wantedOf are those of one workload.
func wantedOf(s *control.State, w *policy.Workload, ranBefore func(policy.Workload) bool) map[string]*waiting {
	group := s.Population.Group(w.ID)
	if w.SharedWith != "" || w.Node != "" || group == nil {
		return nil
	}
	wanted := map[string]*waiting{}
	for _, e := range w.Endpoints {
		n := s.View.Network(e.Network)
		if n == nil || !n.Guarded || len(e.Addresses) == 0 {
			continue
		}
		wanted[e.ID] = &waiting{sandbox: e.Sandbox, since: time.Now(), spec: steer.Spec{
			ID: e.ID, Workload: w.ID, Zone: n.Zone, MAC: e.MAC, Addrs: e.Addresses,
			ICC: n.ICC, Overlay: n.Driver == "overlay", Mode: group.Mode,
			Open:      group.Mode == policy.Observe,
			Unguarded: !group.Guarded, RanBefore: ranBefore(*w),
		}}
	}
	return wanted
}

// balancers lets Swarm's load balancer of a network talk, and the routing mesh: it
// stands for every service's virtual address there (A2, A3, A4), and what it forwards
// is judged at the task.
func (in *inhabitants) balancers(n *policy.Network) map[string]*waiting {
	wanted := map[string]*waiting{}
	vips := slices.SortedFunc(maps.Keys(in.vips[n.ID]), netip.Addr.Compare)
	for _, e := range n.Balancers {
		addrs := slices.Clone(e.Addresses)
		for _, vip := range vips {
			if !slices.Contains(addrs, vip) {
				addrs = append(addrs, vip)
			}
		}
		wanted[e.ID] = &waiting{since: time.Now(), spec: steer.Spec{
			ID: e.ID, Workload: "lb-" + n.Name, Zone: n.Zone, MAC: e.MAC, Addrs: addrs, ICC: n.ICC, Overlay: n.Driver == "overlay", Unguarded: true,
		}}
	}
	return wanted
}

// inhabitants tells on which networks somebody is, on which somebody enforces, and
// which virtual addresses services have there.
type inhabitants struct {
	dwellings      map[string]dwelling           // by workload
	all, enforcing map[string]int                // how many are there, by network
	vips           map[string]map[netip.Addr]int // of how many workloads, by network
}

// dwelling is on which networks a workload is.
type dwelling struct {
	networks []string
	enforces bool
}

func dwellingOf(s *control.State, w *policy.Workload) dwelling {
	if w.Node != "" {
		return dwelling{}
	}
	g := s.Population.Group(w.ID)
	d := dwelling{enforces: g != nil && g.Guarded && g.Mode == policy.Enforce}
	for _, e := range w.Endpoints {
		d.networks = append(d.networks, e.Network)
	}
	return d
}

func inhabited(s *control.State) inhabitants {
	in := newInhabitants()
	for w := range s.View.Workloads {
		in.set(w.ID, dwellingOf(s, w))
		in.countVIPs(w, 1, map[string]bool{})
	}
	return in
}

func newInhabitants() inhabitants {
	return inhabitants{map[string]dwelling{}, map[string]int{}, map[string]int{}, map[string]map[netip.Addr]int{}}
}

// countVIPs counts the virtual addresses of a workload in, or out where by is negative,
// and notes the networks that have others than before.
func (in *inhabitants) countVIPs(w *policy.Workload, by int, differ map[string]bool) {
	for network, vips := range w.VIPs {
		if in.vips[network] == nil {
			in.vips[network] = map[netip.Addr]int{}
		}
		of := in.vips[network]
		for _, vip := range vips {
			of[vip] += by
			switch of[vip] {
			case 0:
				delete(of, vip)
				differ[network] = true
			case by:
				differ[network] = true
			}
		}
	}
}

// set notes where a workload is now, the zero dwelling where it is no more, and
// reports whether that makes a network one where somebody is, or enforces, or where
// nobody does.
func (in *inhabitants) set(id string, now dwelling) (moved bool) {
	count := func(d dwelling, n int) {
		for _, network := range d.networks {
			in.all[network] += n
			moved = moved || in.all[network] == max(n, 0)
			if d.enforces {
				in.enforcing[network] += n
				moved = moved || in.enforcing[network] == max(n, 0)
			}
		}
	}
	count(in.dwellings[id], -1)
	count(now, 1)
	if in.dwellings[id] = now; len(now.networks) == 0 {
		delete(in.dwellings, id)
	}
	return moved
}

// isClosed: somebody enforces on the network, or a newcomer would, so that its
// ports stay shut until admitted. Who enforced and is gone may come back without
// being told of: an engine that restarts ends its containers, and starts them
// before it answers. So a closed network opens when desertedFor is over.
func (g *guard) isClosed(n *policy.Network) bool {
	if g.settings.defaultMode() == policy.Enforce || g.inhabited.enforcing[n.ID] > 0 || n.Newcomer {
		g.deserted[n.ID] = time.Time{}
		return true
	}
	since, was := g.deserted[n.ID]
	switch {
	case was && since.IsZero():
		g.deserted[n.ID] = time.Now()
	case time.Since(since) >= desertedFor:
		delete(g.deserted, n.ID)
		was = false
	}
	return was
}

// desertedFor is longer than an engine takes to end its containers (15 s) and to be
// gone itself.
const desertedFor = time.Minute

// mayOpen reports whether a closed network is to be looked at again. While the
// engine is away no time passes.
func (g *guard) mayOpen() (open bool) {
	told := g.told()
	for id, since := range g.deserted {
		switch {
		case since.IsZero():
		case !told:
			g.deserted[id] = time.Now()
		default:
			open = open || time.Since(since) >= desertedFor
		}
	}
	return open
}

func (g *guard) removeGone() {
	var gone bool
	for id, a := range g.admitted {
		w := g.wanted[id]
		if w != nil && w.spec.Zone == a.spec.Zone && w.spec.MAC == a.spec.MAC && (w.sandbox == "" || a.veth.Sandbox == w.sandbox) {
			continue
		}
		g.recordDropsAt(id)
		g.fault("endpoint "+id, g.steer.Remove(id))
		delete(g.admitted, id)
		delete(g.faults, "drops at "+id)
		gone = true
	}
	for id := range g.waiting {
		if g.wanted[id] == nil {
			g.content(id)
		}
	}
	if gone {
		g.dataplane.SetEndpoints(g.endpoints())
	}
}

// content ends the waiting of an endpoint.
func (g *guard) content(id string) {
	delete(g.waiting, id)
	delete(g.faults, "endpoint "+id)
}

// notice finds out what ended without being asked to: with a namespace, or the
// slow path's devices there, its networks and their endpoints are gone. Those
// that are wanted still wait again.
func (g *guard) notice() (lost bool) {
	for zone := range g.networks {
		if !g.steer.Guarded(zone) {
			delete(g.networks, zone)
			lost = true
		}
	}
	for id, a := range g.admitted {
		if g.steer.Admitted(id) {
			continue
		}
		delete(g.admitted, id)
		g.waiting[id] = &waiting{spec: a.spec, sandbox: a.veth.Sandbox, since: time.Now()}
		lost = true
	}
	if lost {
		g.dataplane.SetEndpoints(g.endpoints())
	}
	return lost
}

// guardNetworks guards the bridges that exist and lets go of those that do not;
// again are zones that may have been made anew since they were guarded.
func (g *guard) guardNetworks(s *control.State, again map[policy.Zone]bool) {
	first := !g.swept && g.firstStart()
	present := map[policy.Zone]bool{}
	objects := map[string]bool{}
	for i := range s.View.Networks {
		n := &s.View.Networks[i]
		if !n.Guarded || n.Bridge == "" || n.Zone == 0 {
			continue
		}
		want := guarded{steer.Network{Zone: n.Zone, Bridge: n.Bridge, NetNS: n.NetNS, Closed: g.isClosed(n), Unrouted: n.Driver == "overlay"}, n.Name}
		if first {
			want.Closed = false // a first start cuts nobody off while it admits
		}
		present[n.Zone], objects[want.object()] = true, true
		g.guardNetwork(want, again[n.Zone], g.inhabited.all[n.ID] > 0)
	}
	for zone, n := range g.networks {
		if !present[zone] {
			objects[n.object()] = true
			g.fault(n.object(), g.steer.Unguard(zone))
			delete(g.networks, zone)
		}
	}
	maps.DeleteFunc(g.deserted, func(id string, _ time.Time) bool { return s.View.Network(id) == nil })
	for object := range g.faults {
		if strings.HasPrefix(object, "network ") && !objects[object] {
			delete(g.faults, object)
		}
	}
	g.dropSpaces()
}

func (g *guard) guardNetwork(n guarded, again, inhabited bool) {
	if have, ok := g.networks[n.Zone]; ok && have == n && !again && g.faults[n.object()] == "" {
		return
	}
	err := g.carry(n.NetNS)
	if err == nil {
		err = g.steer.Guard(n.Network)
	}
	if err == nil {
		g.networks[n.Zone] = n
	}
	if !inhabited && n.NetNS != "" && errors.Is(err, fs.ErrNotExist) {
		err = nil // the engine makes an overlay's namespace with the first container here
	}
	g.fault(n.object(), err)
}

// carry opens the slow path of a namespace, one port a worker.
func (g *guard) carry(path string) error {
	space, err := g.steer.Space(path)
	if err != nil {
		return err
	}
	if _, ok := g.spaces[space.Number]; ok {
		return nil
	}
	ports, err := g.openPorts(path, space.User)
	if err != nil {
		return err
	}
	for queue, p := range ports {
		// AddPort owns a port from here on, also one that it refuses.
		err = errors.Join(err, g.dataplane.AddPort(space.Number, queue, p))
	}
	if err != nil {
		return errors.Join(err, g.dataplane.RemoveSpace(space.Number))
	}
	g.spaces[space.Number] = path
	return nil
}

// openPorts opens the device on which a namespace's slow path reaches user space.
func (g *guard) openPorts(path, device string) (ports []dataplane.Port, err error) {
	if g.settings.IO == "tap" {
		taps, err := tun.OpenTAP(tun.Config{NetNS: path, Interface: device, Queues: g.settings.Workers})
		for _, p := range taps {
			ports = append(ports, p)
		}
		return ports, err
	}
	sockets, err := afxdp.Open(afxdp.Config{NetNS: path, Interface: device, Queues: g.settings.Workers})
	for _, p := range sockets {
		ports = append(ports, p)
	}
	return ports, err
}

// dropSpaces ends the slow path of namespaces that no network uses.
func (g *guard) dropSpaces() {
	used := map[int]bool{}
	for _, n := range g.networks {
		if space, err := g.steer.Space(n.NetNS); err == nil {
			used[space.Number] = true
		}
	}
	for number, path := range g.spaces {
		if !used[number] {
			g.fault("slow path in "+hostOr(path), g.dataplane.RemoveSpace(number))
			delete(g.spaces, number)
		}
	}
}

// admitWaiting admits whatever is wired by now.
func (g *guard) admitWaiting() {
	search := g.steer.Search()
	for _, id := range slices.Sorted(maps.Keys(g.waiting)) {
		w := g.waiting[id]
		veth, err := search.FindVeth(w.spec.Zone, w.spec.MAC, w.sandbox)
		if err != nil {
			w.why = err.Error() // not wired yet, or gone
			continue
		}
		a, err := g.admit(w.spec, veth)
		if err != nil {
			w.why = err.Error()
			g.fault("endpoint "+id, err)
			continue
		}
		g.admitted[id] = a
		g.content(id)
		// At once: what it sends meanwhile finds no endpoint in user space.
		g.dataplane.SetEndpoints(g.endpoints())
	}
}

func (g *guard) admit(spec steer.Spec, veth steer.Veth) (*admission, error) {
	spec = withIfindex(spec, veth.Ifindex)
	endpoint, err := g.steer.Admit(spec)
	if err != nil {
		return nil, err
	}
	device := veth.Name
	if n := g.networks[spec.Zone]; n.NetNS != "" {
		device = fmt.Sprintf("%s in %s", veth.Name, n.NetNS)
	}
	return &admission{spec: spec, veth: veth, endpoint: endpoint, device: device}, nil
}

func (g *guard) endpoints() []dataplane.Endpoint {
	list := make([]dataplane.Endpoint, 0, len(g.admitted))
	// Unguarded ones too: frames of guarded neighbours are addressed to them.
	for _, a := range g.admitted {
		list = append(list, a.endpoint)
	}
	return list
}

// follow admits interfaces as they get wired, until ctx ends.
func (g *guard) follow(ctx context.Context, hints <-chan struct{}, state func() *control.State) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hints:
			g.retry(state(), false)
		case <-tick.C:
			g.retry(state(), true)
			g.recordDrops()
		}
	}
}

// recordDrops turns what the kernel's programs dropped since the last time into
// violations of the endpoint that sent it, or that it was sent to.
func (g *guard) recordDrops() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range g.admitted {
		g.recordDropsAt(id)
	}
}

func (g *guard) recordDropsAt(id string) {
	fresh, ok, err := g.steer.NewDrops(id)
	g.fault("drops at "+id, err)
	if !ok {
		return
	}
	for dir := range fresh {
		for r, n := range fresh[dir] {
			if !quiet[r] {
				g.dataplane.AddUnjudged(id, dataplane.Direction(dir), policy.Reason(r), n)
			}
		}
	}
}

// quiet are drops that every container has now and then, or that no endpoint has to do
// with; they are counted only.
var quiet = [policy.ReasonCount]bool{
	policy.ReasonRouterSolicitation: true,
	policy.ReasonMulticast:          true,
	policy.ReasonInternal:           true,
}

// retry admits what waits. First it guards again what was lost, and with all
// what could not be guarded, or may have been made anew by the engine.
func (g *guard) retry(s *control.State, all bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	lost := g.notice()
	open := all && g.mayOpen()
	if s != nil && (lost || open || all && len(g.waiting)+len(g.faults) > 0) {
		again := map[policy.Zone]bool{}
		for _, w := range g.waiting {
			again[w.spec.Zone] = true
		}
		g.guardNetworks(s, again)
		g.notice()
	}
	g.admitWaiting()
}

// slowPathLost says that somebody took a slow-path device away: undecided
// packets of that namespace are dropped until retry has made it anew. A
// namespace that went as a whole is no loss.
func (g *guard) slowPathLost(space int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if path, ok := g.spaces[space]; ok {
		g.fault("slow path in "+hostOr(path), fmt.Errorf("%w: if this stays, restart the gateway", err))
	}
}

func hostOr(netns string) string {
	if netns == "" {
		return "the host"
	}
	return netns
}

// fault records what could not be done, or that it was.
func (g *guard) fault(object string, err error) {
	if err == nil {
		delete(g.faults, object)
		return
	}
	if g.faults[object] != err.Error() {
		g.log.Error("cannot guard", "what", object, "error", err)
	}
	g.faults[object] = err.Error()
}

// guarding is what guard tells of itself.
type guarding struct {
	devices map[string]string // admitted endpoints: id → interface
	waiting int
	late    []string // endpoints that have waited for long
	faults  []string
	closed  []string // bridges
}

func (g *guard) report() guarding {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := guarding{devices: map[string]string{}, waiting: len(g.waiting)}
	for id, a := range g.admitted {
		r.devices[id] = a.device
	}
	for id, w := range g.waiting {
		if time.Since(w.since) > 5*time.Second {
			r.late = append(r.late, fmt.Sprintf("endpoint %.12s of container %.12s: %s", id, w.spec.Workload, w.why))
		}
	}
	for object, text := range g.faults {
		r.faults = append(r.faults, object+": "+text)
	}
	for _, n := range g.networks {
		if n.Closed {
			r.closed = append(r.closed, n.Bridge)
		}
	}
	slices.Sort(r.late)
	slices.Sort(r.faults)
	slices.Sort(r.closed)
	return r
}

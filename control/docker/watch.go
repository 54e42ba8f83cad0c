package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	dockerclient "github.com/fsouza/go-dockerclient"
	"github.com/vishvananda/netlink"

	"gatehouse/policy"
)

// The life of a container, and what is known when:
//
//	create      container inspect: image, labels, variables, ports asked for
//	connect     network inspect: addresses, MAC, endpoint; the workload is
//	            published now, some 175 ms before its first packet
//	start       container inspect again: sandbox, ports bound, start time. In
//	            between, inspecting the container blocks, so nobody waits for it
//	disconnect  the endpoint is withdrawn
//	die         all are
//	destroy     it is forgotten
//
// Requests run beside the loop, one at a time for each object; what they bring
// is applied by the loop, which alone touches the state.

// state is what the loop knows.
type state struct {
	zones      *zones
	keep       kept
	engineID   string
	hostName   string
	classic    bool
	addresses  []netip.Prefix
	devices    map[string][]netip.Prefix
	swarm      swarmState
	swarmAsk   request
	remotes    map[string]*overlay // members of networks on other nodes, by network
	remotesAsk request
	remoteIDs  map[string]bool // workloads of other nodes that are published
	strangers  map[string]bool // services of which a manager was asked on their account
	// remotesMoved: they are to be published again.
	remotesMoved bool
	containers   map[string]*container
	networks     map[string]*network
	described    map[string]policy.Network
	names        map[string]string // nil after a change
	hold         bool              // collecting a first state: nothing is published singly
	open         int               // requests under way
	retry        bool              // list again soon
	reinspect    bool              // and inspect everything
	noted        map[string]bool   // texts that were logged
}

// request lets one request for an object be under way; another one asked for
// meanwhile follows it.
type request struct{ busy, again bool }

type container struct {
	id         string
	request    request
	summary    string                  // its line in the list, at the last inspect
	inspected  *dockerclient.Container // nil = not yet
	image      *image
	running    bool
	down       bool // it died, and no start was seen since
	deaths     int
	askedSwarm bool // a manager was asked since it appeared
	// service is what was told last of a task's service, which may be gone while
	// the task still stops.
	service *swarmService
	// enforces: a label at its creation asks for it. Whoever set the label, it
	// may tighten.
	enforces  bool
	uncovered string
}

type network struct {
	id      string
	request request
	info    *dockerclient.Network // nil = not yet
	members map[string]dockerclient.Endpoint
	// barred left while a request was under way, whose answer may be older.
	barred map[string]bool
}

func newState(z *zones, keep kept) state {
	return state{
		zones: z, keep: keep,
		containers: map[string]*container{}, networks: map[string]*network{}, described: map[string]policy.Network{},
		remotes: map[string]*overlay{}, noted: map[string]bool{},
	}
}

// session is one connection: from the subscription to the end of the stream.
type session struct {
	*Watcher
	ctx     context.Context // ends with the session; its requests carry it
	arrived chan func()     // what requests brought, to be run by the loop
	slots   chan struct{}
	wg      sync.WaitGroup
	// askedRemotes: the first state waits for what runs on other nodes, or flows
	// with it would end when a gateway restarts.
	askedRemotes bool
}

// session subscribes, lists and follows until the stream or ctx ends.
func (w *Watcher) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{Watcher: w, ctx: ctx, arrived: make(chan func()), slots: make(chan struct{}, 32)}
	defer s.wg.Wait()
	defer cancel()
	w.state.forgetRequests()

	stream, err := w.subscribe(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	events, ended := make(chan event, 256), make(chan error, 1)
	s.wg.Go(func() { ended <- readEvents(ctx, stream, events) })

	addresses := s.watchAddresses()
	defer func() {
		cancel()
		for range addresses {
		}
	}()

	w.state.hold = true
	if err := s.list(true); err != nil {
		return err
	}
	w.note(func(st *Status) { st.Connected, st.Since, st.Connects = true, time.Now(), st.Connects+1 })
	return s.follow(events, ended, addresses)
}

func (s *session) follow(events <-chan event, ended <-chan error, addresses <-chan netlink.AddrUpdate) error {
	resync := time.NewTicker(resyncEvery)
	defer resync.Stop()
	settle := time.NewTimer(settleAtMost)
	defer settle.Stop()
	remotes := time.NewTicker(askRemotesEvery)
	defer remotes.Stop()
	var soon, hostSoon <-chan time.Time
	for {
		if s.state.hold && s.state.open == 0 && !s.askedRemotes {
			s.askedRemotes = true
			s.askRemotes()
		}
		if s.state.hold && s.state.open == 0 {
			s.publishAll()
		}
		if s.state.remotesMoved {
			s.publishRemotes()
		}
		if s.state.retry && soon == nil {
			soon = time.After(retryAfter)
		}
		select {
		case e := <-events:
			s.note(func(st *Status) { st.Events++ })
			s.apply(e)
		case f := <-s.arrived:
			s.state.open--
			f()
		case _, ok := <-addresses:
			if !ok {
				addresses = nil
			} else if hostSoon == nil {
				hostSoon = time.After(hostAfter)
			}
		case <-hostSoon:
			hostSoon = nil
			s.readHost()
		case <-settle.C:
			if s.state.hold {
				s.publishAll()
			}
		case s.state.keep = <-s.keeps:
			if err := s.list(true); err != nil {
				return err
			}
		case <-remotes.C:
			s.askRemotes()
		case <-resync.C:
			if err := s.list(false); err != nil {
				return err
			}
		case <-soon:
			soon = nil
			if err := s.list(s.state.reinspect); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// watchAddresses tells of changes of the host's addresses until the session
// ends, and then closes the channel. Without them each list looks anyway.
func (s *session) watchAddresses() <-chan netlink.AddrUpdate {
	updates := make(chan netlink.AddrUpdate, 64)
	if err := netlink.AddrSubscribe(updates, s.ctx.Done()); err != nil {
		s.once("changes of the host's addresses are seen once a minute only: " + err.Error())
		close(updates)
	}
	return updates
}

func (st *state) forgetRequests() {
	st.open = 0
	st.swarmAsk, st.remotesAsk = request{}, request{}
	for _, c := range st.containers {
		c.request = request{}
	}
	for _, n := range st.networks {
		n.request = request{}
		n.barred = nil
	}
}

// ask runs a request beside the loop and hands what it brings to the loop.
func (s *session) ask(r *request, fetch func() (apply func())) {
	if r.busy {
		r.again = true
		return
	}
	r.busy, r.again = true, false
	s.state.open++
	s.wg.Go(func() {
		apply := fetch()
		select {
		case s.arrived <- apply:
		case <-s.ctx.Done():
		}
	})
}

// answered ends a request and reports whether it is to be repeated.
func (r *request) answered() (again bool) {
	r.busy = false
	return r.again
}

// list asks for everything and applies the difference. Whatever is not new is
// inspected only if its line in the list changed, or if all is set.
func (s *session) list(all bool) error {
	st := &s.state
	st.retry, st.reinspect = false, false
	asked := time.Now()
	info, err := s.engine.Info()
	if err != nil {
		return fmt.Errorf("engine info: %w", err)
	}
	networks, err := s.engine.ListNetworks()
	if err != nil {
		return fmt.Errorf("list of networks: %w", err)
	}
	containers, err := s.engine.ListContainers(dockerclient.ListContainersOptions{All: true, Context: s.ctx})
	if err != nil {
		return fmt.Errorf("list of containers: %w", err)
	}
	st.engineID, st.hostName, st.classic = info.ID, info.Name, classicStore(info)
	s.readHost()
	s.askSwarm(info.Swarm.NodeID != "")
	s.listedNetworks(networks)
	s.listedContainers(containers, all)
	s.note(func(status *Status) {
		if status.FirstList.IsZero() {
			status.FirstList = asked
		}
		status.LastList, status.Lists, status.Error = asked, status.Lists+1, ""
	})
	return nil
}

// classicStore reports whether images are kept by the engine's own store; the
// containerd store names its snapshotter here (moby daemon/info.go).
func classicStore(info *dockerclient.DockerInfo) bool {
	return !slices.Contains(info.DriverStatus, [2]string{"driver-type", "io.containerd.snapshotter.v1"})
}

func (s *session) readHost() {
	addresses, devices, err := hostAddresses()
	if err != nil {
		s.once("addresses of the host's interfaces: " + err.Error())
		return
	}
	s.state.addresses, s.state.devices = addresses, devices
	if !s.state.hold {
		s.inv.PutHost(s.host())
	}
}

func (s *session) host() policy.Host {
	nodes := slices.Concat(s.state.swarm.nodes, s.state.remoteNodes())
	slices.SortFunc(nodes, netip.Addr.Compare)
	return describeHost(s.state.hostName, s.state.addresses, s.config, slices.Compact(nodes))
}

// once logs a warning the first time that it is met.
func (s *session) once(text string) {
	if s.state.noted[text] || len(s.state.noted) > 1000 {
		return
	}
	s.state.noted[text] = true
	s.log.Warn("docker: " + text)
}

func (s *session) listedNetworks(list []dockerclient.Network) {
	present := map[string]bool{}
	slices.SortFunc(list, func(a, b dockerclient.Network) int { return strings.Compare(a.ID, b.ID) })
	for _, n := range list {
		present[n.ID] = true
		s.zone(n.ID, n.Driver) // in the order of IDs, whatever answers first
		s.askNetwork(n.ID)
	}
	for id := range s.state.networks {
		if !present[id] {
			s.dropNetwork(id)
		}
	}
	s.state.zones.keep(present)
}

func (s *session) listedContainers(list []dockerclient.APIContainers, all bool) {
	present := map[string]bool{}
	for i := range list {
		line := &list[i]
		present[line.ID] = true
		c := s.container(line.ID)
		c.running = line.State == "running" || line.State == "paused"
		if c.running {
			c.down = false
		}
		if summary := summarise(line); all || c.inspected == nil || c.summary != summary {
			c.summary = summary
			s.askContainer(c)
		} else {
			s.publish(c)
		}
	}
	for id := range s.state.containers {
		if !present[id] {
			s.dropContainer(id)
		}
	}
}

// summarise is what of a container's line tells that an inspect would differ.
func summarise(line *dockerclient.APIContainers) string {
	var nets []string
	for name, n := range line.Networks.Networks {
		nets = append(nets, name+" "+n.EndpointID)
	}
	slices.Sort(nets)
	return fmt.Sprint(line.Names, line.Image, line.State, nets)
}

// apply acts on one event.
func (s *session) apply(e event) {
	switch e.Type {
	case "container":
		s.applyContainer(e)
	case "network":
		s.applyNetwork(e)
	case "service", "node":
		s.askSwarm(true)
	case "image":
		// Names and digests may have moved; image IDs stay what they were.
		s.images.Purge()
		s.state.retry, s.state.reinspect = true, true
	case "daemon":
		s.state.retry = true
	}
}

func (s *session) applyContainer(e event) {
	id := e.Actor.ID
	switch e.Action {
	case "create":
		c := s.container(id)
		c.enforces = e.Actor.Attributes["gatehouse.mode"] == "enforce"
		s.askContainer(c)
		if e.Actor.Attributes[swarmServiceID] != "" {
			s.askSwarm(true)
		}
	case "start":
		c := s.container(id)
		c.running, c.down = true, false
		s.askContainer(c)
		s.publish(c)
		if s.onOverlay(id) {
			s.askGateway()
		}
	case "die":
		c := s.container(id)
		c.running, c.down = false, true
		c.deaths++
		if c.inspected != nil {
			c.inspected.State.Running = false // its sandbox and host ports are not the next life's
		}
		for _, n := range s.state.networks {
			n.leave(id)
		}
		s.publish(c)
	case "rename":
		s.askContainer(s.container(id))
	case "destroy":
		s.dropContainer(id)
	}
}

func (s *session) applyNetwork(e event) {
	id := e.Actor.Attributes["container"]
	switch e.Action {
	case "connect":
		if !isContainer(id) { // Swarm's balancer or routing mesh
			break
		}
		c := s.container(id)
		c.down = false
		if c.running || c.inspected == nil {
			s.askContainer(c)
		}
	case "disconnect":
		if n := s.state.networks[e.Actor.ID]; n != nil {
			n.leave(id)
		}
		if c := s.state.containers[id]; c != nil {
			if c.running {
				s.askContainer(c)
			}
			s.publish(c)
		}
	}
	s.askNetwork(e.Actor.ID)
	if e.Actor.Attributes["type"] == "overlay" {
		s.askGateway()
	}
}

func (s *session) onOverlay(container string) bool {
	for _, n := range s.state.networks {
		if _, member := n.members[container]; member && n.info != nil && n.info.Driver == "overlay" {
			return true
		}
	}
	return false
}

// askGateway looks at docker_gwbridge again: of the legs that containers get and
// lose there with their overlay networks, and of the bridge itself, the engine
// sends no event.
func (s *session) askGateway() {
	for id, n := range s.state.networks {
		if n.info != nil && n.info.Name == gatewayBridge {
			s.askNetwork(id)
			return
		}
	}
	s.state.retry = true
}

// leave ends a membership at once, also in an answer that is still to come.
func (n *network) leave(id string) {
	delete(n.members, id)
	if n.request.busy {
		if n.barred == nil {
			n.barred = map[string]bool{}
		}
		n.barred[id] = true
	}
}

func (s *session) container(id string) *container {
	c, ok := s.state.containers[id]
	if !ok {
		c = &container{id: id}
		s.state.containers[id] = c
	}
	return c
}

func (s *session) dropContainer(id string) {
	delete(s.state.containers, id)
	s.state.names = nil
	s.moveRemotes()
	for _, n := range s.state.networks {
		n.leave(id)
	}
	if !s.state.hold {
		s.inv.Delete(id)
	}
}

func (s *session) askContainer(c *container) {
	deaths := c.deaths
	s.ask(&c.request, func() func() {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-s.ctx.Done():
		}
		info, err := s.engine.InspectContainerWithOptions(dockerclient.InspectContainerOptions{ID: c.id, Context: s.ctx})
		var img *image
		if err == nil {
			img, err = s.image(info.Image)
		}
		return func() {
			if err == nil && c.deaths != deaths {
				info.State.Running = false // it is of a life before
			}
			s.inspected(c, info, img, err)
		}
	})
}

// image returns the config of an image, nil for one that is gone.
func (s *session) image(id string) (*image, error) {
	if img, ok := s.images.Get(id); ok {
		return img, nil
	}
	i, err := s.engine.InspectImage(id)
	if errors.Is(err, dockerclient.ErrNoSuchImage) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	img := newImage(i)
	img.pulled = s.pulledFrom(id)
	s.images.Add(id, img)
	return img, nil
}

// pulledFrom are the repositories that the engine itself remembers having
// pulled the image from, normalised (T3). Engines before 29 do not tell.
func (s *session) pulledFrom(id string) []string {
	i, err := s.swarm.ImageInspect(s.ctx, id)
	if err != nil || i.Identity == nil {
		return nil
	}
	var from []string
	for _, pull := range i.Identity.Pull {
		if repo, _ := repository(pull.Repository); repo != "" {
			from = append(from, repo)
		}
	}
	return from
}

func (s *session) inspected(c *container, info *dockerclient.Container, img *image, err error) {
	again := c.request.answered()
	if s.state.containers[c.id] != c {
		return
	}
	switch {
	case errors.As(err, new(*dockerclient.NoSuchContainer)):
		s.dropContainer(c.id)
		return
	case err != nil:
		s.log.Debug("docker: container inspect", "container", c.id, "error", err)
		s.state.retry = true
		c.summary = ""
	default:
		c.inspected, c.image = info, img
		s.state.names = nil
		s.publish(c)
		s.known(c)
	}
	if again {
		s.askContainer(c)
	}
}

func (s *session) askNetwork(id string) {
	n, ok := s.state.networks[id]
	if !ok {
		n = &network{id: id}
		s.state.networks[id] = n
	}
	if !n.request.busy {
		n.barred = nil
	}
	s.ask(&n.request, func() func() {
		info, err := s.engine.NetworkInfo(id)
		return func() { s.networkArrived(n, info, err) }
	})
}

func (s *session) networkArrived(n *network, info *dockerclient.Network, err error) {
	again := n.request.answered()
	if s.state.networks[n.id] != n {
		return
	}
	switch {
	case isGone(err):
		s.dropNetwork(n.id)
		return
	case err != nil:
		s.log.Debug("docker: network inspect", "network", n.id, "error", err)
		s.state.retry = true
	default:
		s.updateNetwork(n, info)
	}
	if again {
		s.askNetwork(n.id)
	}
}

func isGone(err error) bool {
	var gone *dockerclient.NoSuchNetwork
	if errors.As(err, &gone) {
		return true
	}
	var api *dockerclient.Error
	return errors.As(err, &api) && api.Status == http.StatusNotFound
}

func (s *session) updateNetwork(n *network, info *dockerclient.Network) {
	n.info = info
	if s.state.remotes[n.id] != nil {
		s.moveRemotes()
	}
	if info.Driver == "bridge" && len(s.state.devices[bridgeDevice(info)]) == 0 {
		s.readHost() // a new bridge has new addresses
	}
	if !s.describe(n) {
		return
	}
	if !s.state.hold {
		s.inv.PutNetwork(s.state.described[n.id])
	}
	touched := map[string]bool{}
	for id := range n.members {
		touched[id] = true
	}
	n.members = map[string]dockerclient.Endpoint{}
	for id, e := range info.Containers {
		if !isContainer(id) || n.barred[id] || e.ID == "" {
			continue
		}
		c := s.container(id)
		if c.down {
			continue
		}
		if c.inspected == nil {
			s.askContainer(c)
		}
		n.members[id] = e
		touched[id] = true
	}
	for id := range touched {
		if c := s.state.containers[id]; c != nil {
			s.publish(c)
		}
	}
}

// expects reports whether a container has joined that asks to be enforced and of
// which nothing else is known yet: its inspect may block until it runs.
func (s *session) expects(n *network) bool {
	for id := range n.info.Containers {
		if c := s.state.containers[id]; c != nil && c.enforces && c.inspected == nil && !c.down {
			return true
		}
	}
	return false
}

// known ends what c's networks expected of it.
func (s *session) known(c *container) {
	if !c.enforces {
		return
	}
	for _, n := range s.state.networks {
		if s.state.described[n.id].Newcomer && s.describe(n) && !s.state.hold {
			s.inv.PutNetwork(s.state.described[n.id])
		}
	}
}

// describe brings a network's description up to date, and reports whether it has
// one: without a zone it gets none, and its containers stay unknown.
func (s *session) describe(n *network) bool {
	if n.info == nil {
		return false
	}
	zone, err := s.zone(n.id, n.info.Driver)
	if err == nil {
		err = s.state.zones.save()
	}
	if err != nil {
		s.once(fmt.Sprintf("network %s stays closed: %v", n.info.Name, err))
		return false
	}
	d := describeNetwork(n.info, s.state.swarm.ingress[n.id], s.domains(), s.config.NetNSDir, s.state.devices)
	d.Zone, d.Newcomer = zone, s.expects(n)
	// Behind the routing mesh all that is no task is A4.
	if o := s.state.remotes[n.id]; o != nil && !d.Ingress && len(o.balancers) > 0 {
		d.LB = slices.Concat(d.LB, o.balancers)
		slices.SortFunc(d.LB, netip.Addr.Compare)
		d.LB = slices.Compact(d.LB)
	}
	if old, ok := s.state.described[n.id]; !ok || old.Name != d.Name {
		s.state.names = nil
	}
	s.state.described[n.id] = d
	return true
}

// zone is 0 for the networks that have no addresses of their own.
func (s *session) zone(id, driver string) (policy.Zone, error) {
	if driver == "host" || driver == "null" {
		return 0, nil
	}
	return s.state.zones.of(id)
}

func (s *session) dropNetwork(id string) {
	n := s.state.networks[id]
	delete(s.state.networks, id)
	delete(s.state.described, id)
	if s.state.remotes[id] != nil {
		delete(s.state.remotes, id)
		s.state.remotesMoved = true
	}
	s.state.names = nil
	if n != nil {
		for id := range n.members {
			if c := s.state.containers[id]; c != nil {
				s.publish(c)
			}
		}
	}
	if !s.state.hold {
		s.inv.DeleteNetwork(id)
	}
}

// askSwarm asks a manager for services and nodes; a node outside any swarm is
// not asked.
func (s *session) askSwarm(active bool) {
	if !active {
		if s.state.swarm.active {
			s.state.swarm = swarmState{}
			clear(s.state.remotes)
			s.redescribe()
		}
		return
	}
	s.ask(&s.state.swarmAsk, func() func() {
		got, err := fetchSwarm(s.ctx, s.swarm, s.manager)
		return func() { s.swarmArrived(got, err) }
	})
}

func (s *session) swarmArrived(got swarmState, err error) {
	if s.state.swarmAsk.answered() {
		s.askSwarm(true)
	}
	if err != nil {
		s.once(err.Error())
		if !got.active || got.manager { // another node's engine is asked again with the next list
			s.state.retry = true
		}
		if got.active && !s.state.swarm.active {
			s.state.swarm = got
		}
	} else {
		got.keepUntold(s.state.swarm.named, s.state.gossiped())
		s.state.swarm = got
	}
	if !s.state.swarmAsk.busy {
		for _, c := range s.state.containers {
			c.askedSwarm = true
		}
	}
	s.redescribe()
}

// redescribe follows a change that may touch everything.
func (s *session) redescribe() {
	swarm := ""
	if s.state.swarm.active {
		swarm = "worker"
	}
	if s.state.swarm.manager {
		swarm = "manager"
	}
	s.note(func(st *Status) { st.Swarm = swarm })
	if s.state.hold {
		return
	}
	s.inv.PutHost(s.host())
	for _, n := range s.state.networks {
		if s.describe(n) {
			s.inv.PutNetwork(s.state.described[n.id])
		}
	}
	for _, c := range s.state.containers {
		s.publish(c)
	}
	s.publishRemotes()
}

func (s *session) domains() domains {
	engine := s.config.Domain
	if engine == "" {
		engine = s.state.engineID
	}
	return domains{engine: engine, swarm: s.state.swarm.cluster}
}

// publish brings one workload in the inventory up to date. Until a first state
// is complete, publishAll does it for all at once.
func (s *session) publish(c *container) {
	if s.state.hold {
		return
	}
	s.moveRemotes()
	w, ok := s.workload(c)
	if !ok {
		s.inv.Delete(c.id)
		return
	}
	s.inv.Put(w)
}

// moveRemotes: an address or a service may be here now that was another node's, or
// not be here any more.
func (s *session) moveRemotes() {
	if len(s.state.remotes) > 0 {
		s.state.remotesMoved = true
	}
}

// publishAll makes the inventory equal to the state, as one change.
func (s *session) publishAll() {
	s.state.hold = false
	for _, n := range s.state.networks {
		s.describe(n)
	}
	snap := &policy.Snapshot{Host: s.host(), Networks: slices.Collect(maps.Values(s.state.described))}
	for _, c := range s.state.containers {
		if w, ok := s.workload(c); ok {
			snap.Workloads = append(snap.Workloads, w)
		}
	}
	away := s.remoteWorkloads()
	s.state.remoteIDs = make(map[string]bool, len(away))
	for _, w := range away {
		s.state.remoteIDs[w.ID] = true
	}
	snap.Workloads = append(snap.Workloads, away...)
	s.inv.Replace(snap)
	s.note(func(st *Status) { st.Synced = true })
	s.log.Info("docker: connected", "host", s.config.Host, "workloads", len(snap.Workloads), "networks", len(snap.Networks))
}

// workload derives a container's workload; ok is false while it is none: not
// running and without endpoints, or not known well enough to judge it by.
func (s *session) workload(c *container) (w policy.Workload, ok bool) {
	if c.inspected == nil {
		return w, false
	}
	see := sight{
		container: c.inspected, image: c.image, networks: s.state.described, byName: s.names(),
		manager: s.state.swarm.told, classic: s.state.classic, domains: s.domains(), running: c.running && c.inspected.State.Running,
		keep: s.state.keep,
	}
	for _, n := range s.state.networks {
		if e, member := n.members[c.id]; member {
			see.endpoints = append(see.endpoints, endpoint{n.id, e})
		}
	}
	if !c.running && len(see.endpoints) == 0 {
		return w, false
	}
	if id := swarmServiceOf(c.inspected); id != "" {
		told := s.state.swarm.services[id]
		if told == nil && c.service == nil && s.state.swarm.told && !c.askedSwarm {
			s.askSwarm(true)
			return w, false
		}
		if told == nil {
			told = c.service.untold()
		}
		c.service, see.service = told, told
	}
	w = describeWorkload(see)
	if w.Swarm && see.service == nil {
		w.VIPs = s.state.toldVIPs(c.inspected.Config.Labels[swarmServiceName], w.Endpoints)
	}
	if owner := s.state.containers[w.SharedWith]; owner != nil && owner.inspected != nil && owner.inspected.HostConfig != nil && owner.inspected.HostConfig.NetworkMode == "host" {
		w.Uncovered = "shares the namespace of " + strings.TrimPrefix(owner.inspected.Name, "/") + ": network_mode host"
	}
	if w.Uncovered != c.uncovered && w.Uncovered != "" {
		s.log.Warn("docker: a workload cannot be guarded", "workload", w.Service.String(), "container", w.Name, "why", w.Uncovered)
	}
	c.uncovered = w.Uncovered
	return w, true
}

func swarmServiceOf(c *dockerclient.Container) string {
	if c.Config == nil {
		return ""
	}
	return c.Config.Labels[swarmServiceID]
}

func (s *session) names() map[string]string {
	if s.state.names != nil {
		return s.state.names
	}
	names := make(map[string]string, len(s.state.containers)+len(s.state.described))
	for id, c := range s.state.containers {
		if c.inspected != nil {
			names[strings.TrimPrefix(c.inspected.Name, "/")] = id
		}
	}
	for id, n := range s.state.described {
		names[networkName(n.Name)] = id
	}
	s.state.names = names
	return names
}

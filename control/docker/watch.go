package docker

import (
	"context"
	"fmt"
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
		s.publishComplete()
		if s.state.retry && soon == nil {
			soon = time.After(retryAfter)
		}
		select {
		case e := <-events:
			s.apply(e)
			s.note(func(st *Status) { st.Events++ })
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

// publishComplete publishes what is known whole by now: a first state once nothing is
// asked for any more, what runs on other nodes whenever it has changed.
func (s *session) publishComplete() {
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

package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	dockerclient "github.com/fsouza/go-dockerclient"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gatehouse/policy"
)

// What runs on other nodes of a swarm is told by the engine's own gossip, to
// workers too, of the overlay networks on which somebody runs here: whose name is
// at which address on which node. What the services of those names are, a manager
// tells; on workers a task of the same service that runs here does.
//
// Of changes there is no event. The gossip is asked every second, which is a
// reading of the engine's own memory.
//
// Tasks with a health check get into the gossip once they are healthy, and leave it
// before they stop; the network's load balancers of other nodes are never in it. The
// overlay's own neighbour table has all of them, without names.

// remote is a member of an overlay network that runs on another node.
type remote struct {
	service  string // name of the Swarm service, "" = no task of one
	name     string // of the task or container
	node     string // the node's address
	endpoint string
	address  netip.Addr
}

// gossip is what is known of one overlay network's members on other nodes.
type gossip struct {
	members []remote
	vips    map[string]netip.Addr // by service name
	nodes   []netip.Addr
	peers   []tunnelled // as the kernel knows them
	blind   error       // why it could not be asked
}

// tunnelled is an address behind another node's end of an overlay's tunnel.
type tunnelled struct{ address, node netip.Addr }

// Bounds of the gossip.
const (
	askRemotesEvery = time.Second
	maxGossip       = 64 << 20
	maxStrangers    = 10_000
	// balancerAfter is how long a nameless address is nobody's: a task has a name by
	// then, or waits to be healthy.
	balancerAfter = 10 * time.Second
	// forgetAfter is how long what a network's gossip told last stands while it does
	// not answer and the engine else does.
	forgetAfter = time.Minute
)

// gossipJSON is what of GET /networks/{id}?verbose=true matters; the client
// libraries refuse or drop its services.
type gossipJSON struct {
	Name     string
	Peers    []struct{ IP string }
	Services map[string]struct {
		VIP   string
		Tasks []struct {
			Name, EndpointID, EndpointIP string
			Info                         map[string]string
		}
	}
}

// decodeGossip reads an engine's answer about a network. own are this node's
// addresses: of what runs here the engine tells better.
func decodeGossip(r io.Reader, own func(netip.Addr) bool) (gossip, error) {
	var told gossipJSON
	if err := json.NewDecoder(io.LimitReader(r, maxGossip)).Decode(&told); err != nil {
		return gossip{}, err
	}
	var g gossip
	for _, p := range told.Peers {
		if a, ok := parseAddress(p.IP); ok && !own(a) && !slices.Contains(g.nodes, a) {
			g.nodes = append(g.nodes, a)
		}
	}
	for service, s := range told.Services {
		if vip, ok := parseAddress(s.VIP); ok && service != "" {
			if g.vips == nil {
				g.vips = map[string]netip.Addr{}
			}
			g.vips[service] = vip
		}
		for _, t := range s.Tasks {
			node, known := parseAddress(t.Info["Host IP"])
			address, ok := parseAddress(t.EndpointIP)
			if !known || !ok || own(node) || t.Name == "" || t.EndpointID == "" || service == "" && t.Name == told.Name+"-endpoint" {
				continue // what balances has no name of its own
			}
			g.members = append(g.members, remote{service: service, name: t.Name, node: node.String(), endpoint: t.EndpointID, address: address})
		}
	}
	slices.SortFunc(g.nodes, netip.Addr.Compare)
	slices.SortFunc(g.members, func(a, b remote) int { return cmp.Or(cmp.Compare(a.endpoint, b.endpoint), cmp.Compare(a.name, b.name)) })
	return g, nil
}

// fetchGossip asks the engine of one network; gone says that there is none.
func (w *Watcher) fetchGossip(ctx context.Context, network string, own func(netip.Addr) bool) (g gossip, gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+"/networks/"+url.PathEscape(network)+"?verbose=true", nil)
	if err != nil {
		return g, false, err
	}
	resp, err := w.events.Do(req)
	if err != nil {
		return g, false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return g, true, nil
	}
	if resp.StatusCode != http.StatusOK {
		return g, false, fmt.Errorf("network %s: %s", network, resp.Status)
	}
	g, err = decodeGossip(resp.Body, own)
	return g, false, err
}

// kernelPeers are the addresses that the engine has entered into an overlay's
// namespace as those of members on other nodes: a neighbour each, and of its MAC
// which node's end of the tunnel it is behind.
func kernelPeers(path string) ([]tunnelled, error) {
	if path == "" {
		return nil, nil
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	forwarded, err := h.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return nil, err
	}
	nodes := map[string]netip.Addr{}
	for _, n := range forwarded {
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			nodes[n.HardwareAddr.String()] = a.Unmap()
		}
	}
	list, err := h.NeighList(0, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	var out []tunnelled
	for _, n := range list {
		a, ok := netip.AddrFromSlice(n.IP.To4())
		node := nodes[n.HardwareAddr.String()]
		if ok && node.IsValid() && n.State&netlink.NUD_PERMANENT != 0 && !isGroup(n.HardwareAddr) {
			out = append(out, tunnelled{a, node})
		}
	}
	return out, nil
}

func isGroup(mac net.HardwareAddr) bool { return len(mac) > 0 && mac[0]&1 != 0 }

// overlay is what the loop keeps of one network's members on other nodes.
type overlay struct {
	gossip
	told      time.Time // the last answer
	nameless  []tunnelled
	since     map[netip.Addr]time.Time // nameless addresses
	balancers []netip.Addr             // A3, of other nodes
}

// follow takes over a new answer. Where the kernel could not be asked, its last one
// stands.
func (o *overlay) follow(g gossip, now time.Time) {
	if g.blind != nil {
		g.peers = o.peers
	}
	o.nameless = g.withoutNames()
	since := make(map[netip.Addr]time.Time, len(o.nameless))
	for _, n := range o.nameless {
		since[n.address] = now
		if seen, ok := o.since[n.address]; ok {
			since[n.address] = seen
		}
	}
	o.gossip, o.since, o.told = g, since, now
	o.balancers = o.longestNameless(now)
}

// withoutNames are the members that the kernel knows and the gossip does not name.
// Where no service has a virtual address nobody hides behind a balancer.
func (g *gossip) withoutNames() (out []tunnelled) {
	if len(g.vips) == 0 {
		return nil
	}
	named := make(map[netip.Addr]bool, len(g.members))
	for _, m := range g.members {
		named[m.address] = true
	}
	for _, p := range g.peers {
		if !named[p.address] {
			out = append(out, p)
		}
	}
	return out
}

// longestNameless are the load balancers of other nodes. Each has one for a network,
// from before its first task there: of what has no name behind one end of the tunnel
// it is the one that is known for longest, and none where two are known for as long,
// for the other one may be a task that is not healthy.
func (o *overlay) longestNameless(now time.Time) (out []netip.Addr) {
	since := map[netip.Addr]time.Time{} // by node
	for _, n := range o.nameless {
		if first, ok := since[n.node]; !ok || o.since[n.address].Before(first) {
			since[n.node] = o.since[n.address]
		}
	}
	of := map[netip.Addr][]netip.Addr{}
	for _, n := range o.nameless {
		if o.since[n.address].Equal(since[n.node]) {
			of[n.node] = append(of[n.node], n.address)
		}
	}
	for node, known := range of {
		if len(known) == 1 && now.Sub(since[node]) >= balancerAfter {
			out = append(out, known[0])
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// askRemotes asks the gossip of all overlay networks that have members here.
func (s *session) askRemotes() {
	if !s.state.swarm.active {
		return
	}
	var ids []string
	for id, n := range s.state.networks {
		if n.info != nil && n.info.Driver == "overlay" && len(n.info.Containers) > 0 {
			ids = append(ids, id)
		}
	}
	for id := range s.state.remotes {
		if !slices.Contains(ids, id) {
			s.forgetRemotes(id)
		}
	}
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	paths := map[string]string{}
	for _, id := range ids {
		paths[id] = s.state.described[id].NetNS
	}
	own := ownNode(s.state.swarm.address)
	s.ask(&s.state.remotesAsk, func() func() {
		answers := map[string]gossip{}
		unanswered := map[string]error{}
		for _, id := range ids {
			g, none, err := s.fetchGossip(s.ctx, id, own)
			switch {
			case err != nil:
				unanswered[id] = err
			case !none:
				g.peers, g.blind = kernelPeers(paths[id])
				answers[id] = g
			}
		}
		return func() { s.remotesArrived(ids, answers, unanswered) }
	})
}

func ownNode(own netip.Addr) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return a == own }
}

// remotesArrived takes over the answers about networks. Of one that has none while
// the engine answers otherwise, what was told last stands for forgetAfter; one that is
// in neither is gone.
func (s *session) remotesArrived(asked []string, answers map[string]gossip, unanswered map[string]error) {
	s.state.remotesAsk.answered() // the next one is a second away
	now := time.Now()
	nodes := s.state.remoteNodes()
	for _, id := range asked {
		g, told := answers[id]
		err := unanswered[id]
		switch {
		case s.state.networks[id] == nil:
		case err != nil:
			s.once("tasks on other nodes: " + err.Error())
			if o := s.state.remotes[id]; o != nil && now.Sub(o.told) > forgetAfter {
				s.forgetRemotes(id)
			}
		case told:
			s.followRemotes(id, g, now)
		default:
			s.forgetRemotes(id)
		}
	}
	if !slices.Equal(nodes, s.state.remoteNodes()) && !s.state.hold {
		s.inv.PutHost(s.host())
	}
	s.state.remotesMoved = true
	s.askOfStrangers()
}

func (s *session) followRemotes(id string, g gossip, now time.Time) {
	o := s.state.remotes[id]
	if o == nil {
		o = &overlay{}
		s.state.remotes[id] = o
	}
	balancers, vips := o.balancers, o.vips
	if g.blind != nil {
		s.once(fmt.Sprintf("balancers of other nodes: neighbours in %s: %v", s.state.described[id].NetNS, g.blind))
	}
	o.follow(g, now)
	if !maps.Equal(vips, o.vips) {
		s.republishTasks()
	}
	if !slices.Equal(balancers, o.balancers) {
		s.redescribeNetwork(id)
	}
}

// forgetRemotes lets go of all that is known of a network's members on other nodes.
func (s *session) forgetRemotes(id string) {
	o := s.state.remotes[id]
	if o == nil {
		return
	}
	delete(s.state.remotes, id)
	s.state.remotesMoved = true
	if len(o.vips) > 0 {
		s.republishTasks()
	}
	if len(o.balancers) > 0 {
		s.redescribeNetwork(id)
	}
}

func (s *session) redescribeNetwork(id string) {
	if n := s.state.networks[id]; n != nil && s.describe(n) && !s.state.hold {
		s.inv.PutNetwork(s.state.described[id])
	}
}

// askOfStrangers asks a manager again where the gossip names services that it has not
// told of. A name is asked about once.
func (s *session) askOfStrangers() {
	if !s.state.swarm.told {
		return
	}
	for _, o := range s.state.remotes {
		for _, m := range o.members {
			if m.service == "" || s.state.swarm.byName(m.service) != nil || s.state.strangers[m.service] {
				continue
			}
			if s.state.strangers == nil || len(s.state.strangers) > maxStrangers {
				s.state.strangers = map[string]bool{}
			}
			s.state.strangers[m.service] = true
			s.askSwarm(true)
		}
	}
}

// republishTasks follows a change of virtual addresses, which workers are told of
// by the gossip alone.
func (s *session) republishTasks() {
	for _, c := range s.state.containers {
		if c.inspected != nil && swarmServiceOf(c.inspected) != "" {
			s.publish(c)
		}
	}
}

// toldVIPs are a service's virtual addresses on the networks of those endpoints.
func (st *state) toldVIPs(service string, on []policy.Endpoint) map[string][]netip.Addr {
	var out map[string][]netip.Addr
	for _, e := range on {
		o := st.remotes[e.Network]
		if o == nil || !st.mayBeAway(e.Network)(o.vips[service]) {
			continue
		}
		if out == nil {
			out = map[string][]netip.Addr{}
		}
		out[e.Network] = []netip.Addr{o.vips[service]}
	}
	return out
}

// mayBeAway tells of which addresses of a network other nodes are believed: not of
// those that are not of the network, or are somebody's here.
func (st *state) mayBeAway(network string) func(netip.Addr) bool {
	d, n := st.described[network], st.networks[network]
	if n == nil || n.info == nil {
		return func(netip.Addr) bool { return false }
	}
	taken := map[netip.Addr]bool{}
	for _, e := range n.info.Containers {
		for _, a := range endpointAddresses(e) {
			taken[a] = true
		}
	}
	for _, a := range d.Gateways {
		taken[a] = true
	}
	return func(a netip.Addr) bool {
		return !taken[a] && slices.ContainsFunc(d.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
	}
}

// gossiped are the names of services that have tasks on other nodes.
func (st *state) gossiped() map[string]bool {
	out := map[string]bool{}
	for _, o := range st.remotes {
		for _, m := range o.members {
			out[m.service] = true
		}
	}
	return out
}

// remoteNodes are the nodes of which the gossip tells: a worker is told of no others.
func (st *state) remoteNodes() []netip.Addr {
	var out []netip.Addr
	for _, o := range st.remotes {
		out = append(out, o.nodes...)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// publishRemotes makes the inventory's workloads of other nodes those that are known.
func (s *session) publishRemotes() {
	s.state.remotesMoved = false
	if s.state.hold {
		return
	}
	present := map[string]bool{}
	for _, w := range s.remoteWorkloads() {
		present[w.ID] = true
		s.inv.Put(w)
	}
	for id := range s.state.remoteIDs {
		if !present[id] {
			s.inv.Delete(id)
		}
	}
	s.state.remoteIDs = present
}

// remoteWorkloads derives them. What another node says is at an address that is
// not of the network, or is somebody's here, does not count.
func (s *session) remoteWorkloads() []policy.Workload {
	byID := map[string]*policy.Workload{}
	here := s.localServices()
	for _, network := range slices.Sorted(maps.Keys(s.state.remotes)) {
		o, d := s.state.remotes[network], s.state.described[network]
		if d.ID == "" {
			continue
		}
		believed := s.state.mayBeAway(network)
		for _, m := range o.members {
			if !believed(m.address) {
				continue
			}
			id := m.node + "/" + m.name
			w := byID[id]
			if w == nil {
				made := s.describeRemote(m, d, here[m.service])
				w = &made
				w.ID = id
				byID[id] = w
			}
			w.Endpoints = append(w.Endpoints, policy.Endpoint{ID: m.endpoint, Network: network, Addresses: []netip.Addr{m.address}, Aliases: s.remoteAliases(m.service, network)})
			if vip := o.vips[m.service]; here[m.service] == nil && believed(vip) {
				if w.VIPs == nil {
					w.VIPs = map[string][]netip.Addr{}
				}
				w.VIPs[network] = []netip.Addr{vip}
			}
		}
	}
	out := make([]policy.Workload, 0, len(byID))
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		out = append(out, *byID[id])
	}
	return out
}

// localServices are containers of Swarm services that run here, one by each name. What
// an image says of itself proves none, and where a manager tells of another service
// of that name, it knows.
func (s *session) localServices() map[string]*container {
	here := map[string]*container{}
	for _, c := range s.state.containers {
		if c.inspected == nil || !c.running || swarmServiceOf(c.inspected) == "" {
			continue
		}
		name := c.inspected.Config.Labels[swarmServiceName]
		if old := here[name]; name == "" || old != nil && c.id > old.id {
			continue
		}
		if told := s.state.swarm.byName(name); told != nil && told.id != swarmServiceOf(c.inspected) {
			continue
		}
		if labels, _ := tellLabels(c.inspected.Config.Labels, c.image); isSwarm(labels) {
			here[name] = c
		}
	}
	return here
}

func (s *session) remoteAliases(service, network string) []string {
	if told := s.state.swarm.byName(service); told != nil {
		return slices.Compact(slices.Sorted(slices.Values(told.aliases[network])))
	}
	return nil
}

// describeRemote derives a workload from what tells best what it is: a task of the
// same service that runs here, what a manager tells of the service, or its name.
func (s *session) describeRemote(m remote, n policy.Network, here *container) policy.Workload {
	see := sight{networks: s.state.described, byName: map[string]string{}, manager: s.state.swarm.told, domains: s.domains(), keep: s.state.keep}
	told := s.state.swarm.byName(m.service)
	var w policy.Workload
	switch {
	case here != nil:
		see.container = &dockerclient.Container{Name: m.name, Image: here.inspected.Image, Config: here.inspected.Config}
		see.image, see.service, see.classic = here.image, here.service, s.state.classic
		w = describeWorkload(see)
	case told != nil:
		see.container, see.image, see.service, see.classic = told.container(m), told.image(), told, true
		w = describeWorkload(see)
	default:
		w = policy.Workload{Name: m.name, Service: remoteService(m, n, s.domains()), Swarm: m.service != ""}
		if w.Swarm {
			why := "no manager told of it"
			if !s.state.swarm.told {
				why = "this node is no manager (setting swarm.manager names one to ask)"
			}
			w.Notes = []string{"runs on another node, and is known by its name and address only: " + why}
		}
	}
	w.Node = m.node
	w.VIPs = nil // by network, where nobody here has them
	if here != nil {
		w.Published = nil
	}
	return w
}

// remoteService names a service of which only the name is known. A stack's services
// are named after it, and so is the owner of the networks that it makes.
func remoteService(m remote, n policy.Network, d domains) policy.ServiceKey {
	if m.service == "" {
		if isHandMade(n) {
			return policy.ServiceKey{Project: policy.ProjectKey{Domain: d.engine, Name: "net:" + n.Name}, Name: m.name}
		}
		return policy.ServiceKey{Project: policy.ProjectKey{Domain: d.engine}, Name: m.name}
	}
	if name, ok := strings.CutPrefix(m.service, n.Owner.Name+"_"); ok && n.Owner.Name != "" && n.Owner.Domain == d.ofSwarm() {
		return policy.ServiceKey{Project: n.Owner, Name: name}
	}
	return policy.ServiceKey{Project: policy.ProjectKey{Domain: d.ofSwarm()}, Name: m.service}
}

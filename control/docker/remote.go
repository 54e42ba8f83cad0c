package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
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
// reading of the engine's own memory; an answer that says what the one before said is
// not read.
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
}

// tunnelled is an address behind another node's end of an overlay's tunnel.
type tunnelled struct {
	address, node netip.Addr
	since         time.Time // that the kernel has it there, or ageWraps later, or twice
	aged          bool      // it may be more than since then
}

// question is what an answer about a network is compared with.
type question struct {
	network, netns string
	sum            uint64 // of the answer before, 0 = none
	hidden         bool   // its members may hide behind balancers
	looked         time.Time
}

// answer is what an engine and its kernel tell of a network.
type answer struct {
	gossip
	sum    uint64
	same   bool // as the one before: the gossip was not read
	gone   bool // there is no such network
	err    error
	looked time.Time // zero = the kernel was not asked
	peers  []tunnelled
	blind  error // why it could not be asked
}

// Bounds of the gossip.
const (
	askRemotesEvery = time.Second
	maxGossip       = 64 << 20
	maxStrangers    = 10_000
	// balancerAfter is how long a nameless address is nobody's, and how much longer
	// than all others behind its node a balancer's is known: news of members that came
	// together, or before this node joined their network, arrive in any order.
	balancerAfter = 10 * time.Second
	// renewed is what the kernel's word of since when differs by from one time to the
	// next, at most: more is another entry.
	renewed = time.Second
	// lookEvery is when the kernel is asked although the gossip is what it was. It
	// tells since when it knows what it tells.
	lookEvery = 5 * time.Second
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

// decodeGossip reads an engine's answer about a network. own is this node's
// address: of what runs here the engine tells better.
func decodeGossip(text []byte, own netip.Addr) (gossip, error) {
	var told gossipJSON
	if err := json.Unmarshal(text, &told); err != nil {
		return gossip{}, err
	}
	var g gossip
	for _, p := range told.Peers {
		if a, ok := parseAddress(p.IP); ok && a != own && !slices.Contains(g.nodes, a) {
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
			if !known || !ok || node == own || t.Name == "" || t.EndpointID == "" || service == "" && t.Name == told.Name+"-endpoint" {
				continue // what balances has no name of its own
			}
			g.members = append(g.members, remote{service: service, name: t.Name, node: node.String(), endpoint: t.EndpointID, address: address})
		}
	}
	slices.SortFunc(g.nodes, netip.Addr.Compare)
	slices.SortFunc(g.members, func(a, b remote) int { return cmp.Or(cmp.Compare(a.endpoint, b.endpoint), cmp.Compare(a.name, b.name)) })
	return g, nil
}

// fetchGossip asks the engine of one network, and the kernel where its members may
// hide behind balancers. One at a time: the text is read into the same memory.
func (w *Watcher) fetchGossip(ctx context.Context, q question, own netip.Addr) (a answer) {
	text, gone, err := w.fetchNetwork(ctx, q.network)
	if gone || err != nil {
		return answer{gone: gone, err: err}
	}
	if sum, ok := sumJSON(text); ok {
		a.sum = maphash.Comparable(sumSeed, heard{sum, own})
	}
	a.same = a.sum == q.sum && q.sum != 0
	hidden := q.hidden
	if !a.same {
		a.gossip, a.err = decodeGossip(text, own)
		hidden = len(a.vips) > 0
	}
	if now := time.Now(); hidden && a.err == nil && (!a.same || now.Sub(q.looked) >= lookEvery) {
		a.looked = now
		a.peers, a.blind = kernelPeers(q.netns, now)
		if took := time.Since(now); a.blind == nil && took > renewed {
			a.blind = fmt.Errorf("they took %v", took)
		}
	}
	return a
}

// heard is an answer as the node at that address reads it.
type heard struct {
	sum uint64
	own netip.Addr
}

// fetchNetwork returns an engine's answer about a network, until the next one.
func (w *Watcher) fetchNetwork(ctx context.Context, network string) (text []byte, gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+"/networks/"+url.PathEscape(network)+"?verbose=true", nil)
	if err != nil {
		return nil, false, err
	}
	resp, err := w.events.Do(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, true, nil
	}
	if resp.StatusCode != http.StatusOK {
		return nil, false, fmt.Errorf("network %s: %s", network, resp.Status)
	}
	w.gossip.Reset()
	if _, err := w.gossip.ReadFrom(io.LimitReader(resp.Body, maxGossip+1)); err != nil {
		return nil, false, fmt.Errorf("network %s: %w", network, err)
	}
	if w.gossip.Len() > maxGossip {
		return nil, false, fmt.Errorf("network %s: an answer of more than %d bytes", network, maxGossip)
	}
	return w.gossip.Bytes(), false, nil
}

// kernelPeers are the addresses that the engine has entered into an overlay's
// namespace as those of members on other nodes: a neighbour each, and of its MAC
// which node's end of the tunnel it is behind.
func kernelPeers(path string, now time.Time) ([]tunnelled, error) {
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
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, err
	}
	aged := time.Duration(up.Nano()) >= ageWraps
	var out []tunnelled
	for _, n := range list {
		a, ok := netip.AddrFromSlice(n.IP.To4())
		node := nodes[n.HardwareAddr.String()]
		if ok && node.IsValid() && n.State&netlink.NUD_PERMANENT != 0 && !isGroup(n.HardwareAddr) {
			out = append(out, tunnelled{a, node, now.Add(-time.Duration(n.Updated) * clockTick), aged})
		}
	}
	return out, nil
}

const (
	// clockTick is what the kernel tells user space times in (USER_HZ,
	// include/asm-generic/param.h).
	clockTick = time.Second / 100
	// ageWraps is when the age of a neighbour begins at 0 again, 497 days: the kernel
	// has it whole and tells 32 bits of it (ndm_updated of struct nda_cacheinfo,
	// net/core/neighbour.c).
	ageWraps = clockTick << 32
)

func isGroup(mac net.HardwareAddr) bool { return len(mac) > 0 && mac[0]&1 != 0 }

// overlay is what the loop keeps of one network's members on other nodes.
type overlay struct {
	gossip
	sum       uint64
	told      time.Time   // the last answer
	looked    time.Time   // the last one of the kernel
	peers     []tunnelled // as the kernel knows them
	nameless  []tunnelled
	dated     map[netip.Addr]dated // nameless addresses
	began     time.Time            // since when they are, without a gap
	balancers []netip.Addr         // A3, of other nodes
}

// dated is what is known of a nameless address.
type dated struct {
	since time.Time // that the kernel has it
	aged  bool      // or for ageWraps longer, or twice that
	task  bool      // it had a name since then
}

// follow takes over a new answer. Where the kernel could not be asked, its last one
// stands.
func (o *overlay) follow(a answer, now time.Time) {
	named := o.gossip
	if !a.same {
		o.gossip, o.sum = a.gossip, a.sum
	}
	o.told = now
	if !a.looked.IsZero() && a.blind == nil {
		o.peers = a.peers
	}
	if !a.looked.IsZero() {
		o.looked = a.looked
	}
	if !a.same || !a.looked.IsZero() {
		o.nameless = o.withoutNames()
		o.date(&named, now)
	}
	o.balancers = o.longestNameless(now)
}

// date says since when the kernel has each nameless address, and which of them had a
// name: those are tasks', as long as the kernel keeps them. An age that begins at 0 again
// is still the same entry's; of one that was there before anybody looked it may have.
func (o *overlay) date(named *gossip, now time.Time) {
	if len(o.vips) == 0 || o.began.IsZero() {
		o.began = now
	}
	next := make(map[netip.Addr]dated, len(o.nameless))
	for _, n := range o.nameless {
		d, seen := o.dated[n.address]
		if !seen || isAnother(n.since.Sub(d.since)) {
			d = dated{n.since, n.aged && n.since.Before(o.began), slices.ContainsFunc(named.members, func(m remote) bool { return m.address == n.address })}
		}
		next[n.address] = d
	}
	o.dated = next
}

// isAnother reports whether a neighbour that is known since so much later than before
// is another one, and not the same whose age began at 0 again meanwhile.
func isAnother(later time.Duration) bool {
	return later > renewed && (later+renewed)%ageWraps > 2*renewed
}

// withoutNames are the members that the kernel knows and the gossip does not name.
// Where no service has a virtual address nobody hides behind a balancer.
func (o *overlay) withoutNames() (out []tunnelled) {
	if len(o.vips) == 0 {
		return nil
	}
	named := make(map[netip.Addr]bool, len(o.members))
	for _, m := range o.members {
		named[m.address] = true
	}
	for _, p := range o.peers {
		if !named[p.address] {
			out = append(out, p)
		}
	}
	return out
}

// longestNameless are the load balancers of other nodes. Each has one for a network,
// from before its first task there: of what has no name behind one end of the tunnel
// it is the one that is known for longest, and none where another one is known for
// about as long, or may be by an age that began at 0 again, for that may be a task that
// is not healthy.
func (o *overlay) longestNameless(now time.Time) (out []netip.Addr) {
	of := map[netip.Addr][]tunnelled{}
	for _, n := range o.nameless {
		if d := o.dated[n.address]; !d.task {
			of[n.node] = append(of[n.node], tunnelled{n.address, n.node, d.since, d.aged})
		}
	}
	for _, known := range of {
		slices.SortFunc(known, func(a, b tunnelled) int { return a.since.Compare(b.since) })
		next := now
		if len(known) > 1 {
			next = known[1].since
		}
		if slices.ContainsFunc(known[1:], func(n tunnelled) bool { return n.aged }) {
			continue
		}
		if next.Sub(known[0].since) >= balancerAfter {
			out = append(out, known[0].address)
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
	questions := make([]question, 0, len(ids))
	for _, id := range ids {
		q := question{network: id, netns: s.state.described[id].NetNS}
		if o := s.state.remotes[id]; o != nil {
			q.sum, q.hidden, q.looked = o.sum, len(o.vips) > 0, o.looked
		}
		questions = append(questions, q)
	}
	own := s.state.swarm.address
	s.ask(&s.state.remotesAsk, func() func() {
		answers := make(map[string]answer, len(questions))
		for _, q := range questions {
			answers[q.network] = s.fetchGossip(s.ctx, q, own)
		}
		return func() { s.remotesArrived(answers) }
	})
}

// remotesArrived takes over the answers about networks. Of one that has none while
// the engine answers otherwise, what was told last stands for forgetAfter; one that is
// gone is forgotten.
func (s *session) remotesArrived(answers map[string]answer) {
	s.state.remotesAsk.answered() // the next one is a second away
	now := time.Now()
	nodes := s.state.remoteNodes()
	for id, a := range answers {
		switch {
		case s.state.networks[id] == nil:
		case a.err != nil:
			s.once("tasks on other nodes: " + a.err.Error())
			if o := s.state.remotes[id]; o != nil && now.Sub(o.told) > forgetAfter {
				s.forgetRemotes(id)
			}
		case a.gone:
			s.forgetRemotes(id)
		default:
			s.followRemotes(id, a, now)
		}
	}
	if !slices.Equal(nodes, s.state.remoteNodes()) && !s.state.hold {
		s.inv.PutHost(s.host())
	}
	if s.state.remotesMoved {
		s.askOfStrangers()
	}
}

func (s *session) followRemotes(id string, a answer, now time.Time) {
	o := s.state.remotes[id]
	switch {
	case o == nil && a.same: // it was forgotten while it was asked
		return
	case o == nil:
		o = &overlay{}
		s.state.remotes[id] = o
	}
	balancers, vips := o.balancers, o.vips
	if a.blind != nil {
		s.once(fmt.Sprintf("balancers of other nodes: neighbours in %s: %v", s.state.described[id].NetNS, a.blind))
	}
	o.follow(a, now)
	if !a.same {
		s.state.remotesMoved = true
	}
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

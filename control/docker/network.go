package docker

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	dockerclient "github.com/fsouza/go-dockerclient"

	"gatehouse/policy"
)

// Options of the engine's bridge driver.
const (
	optionBridgeName = "com.docker.network.bridge.name"
	optionICC        = "com.docker.network.bridge.enable_icc"
	optionDefault    = "com.docker.network.bridge.default_bridge"
)

// gatewayBridge is the bridge through which containers of overlay networks
// reach the world; each has a leg on it in the host's namespace.
const gatewayBridge = "docker_gwbridge"

type network struct {
	id      string
	request request
	info    *dockerclient.Network // nil = not yet
	members map[string]dockerclient.Endpoint
	// barred left while a request was under way, whose answer may be older.
	barred map[string]bool
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
	if err != nil {
		s.once(fmt.Sprintf("network %s is not guarded: %v", n.info.Name, err))
		return false
	}
	s.saveZones()
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

// saveZones keeps the zones for a restart. Where the disk takes nothing, networks are
// guarded by those that they have: a successor that gives them others judges anew
// whatever flow it takes over, and a network without a zone would be open. The next
// description of any network tries again.
func (s *session) saveZones() {
	text := ""
	if err := s.state.zones.save(); err != nil {
		text = err.Error()
	}
	was := s.Status().Unkept
	if text != "" && was == "" {
		s.log.Error("docker: the numbers of networks cannot be kept for a restart", "error", text)
	}
	if text != was {
		s.note(func(st *Status) { st.Unkept = text })
	}
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

// describeNetwork makes the vocabulary's network; its zone is not set here.
func describeNetwork(n *dockerclient.Network, ingress bool, d domains, netnsDir string, devices map[string][]netip.Prefix) policy.Network {
	out := policy.Network{
		ID: n.ID, Name: n.Name, Driver: n.Driver,
		Ingress:  ingress,
		Internal: n.Internal,
		ICC:      n.Options[optionICC] != "false",
		System:   isSystem(n, ingress),
		Guarded:  n.Driver == "bridge" || n.Driver == "overlay",
	}
	if !out.System {
		out.Owner = networkOwner(n.Labels, d)
	}
	switch n.Driver {
	case "bridge":
		out.Bridge = bridgeDevice(n)
	case "overlay":
		out.Bridge = "br0" // moby libnetwork/drivers/overlay: the bridge inside the namespace
		out.NetNS = filepath.Join(netnsDir, "1-"+n.ID[:min(10, len(n.ID))])
	}
	for _, c := range n.IPAM.Config {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil {
			out.Subnets = append(out.Subnets, p.Masked())
		}
		if gateway, ok := parseAddress(c.Gateway); ok {
			out.Gateways = append(out.Gateways, gateway)
		}
	}
	if n.Driver == "bridge" { // the engine does not always tell the gateway that it chose
		for _, p := range devices[out.Bridge] {
			if slices.ContainsFunc(out.Subnets, func(s netip.Prefix) bool { return s.Contains(p.Addr()) }) {
				out.Gateways = append(out.Gateways, p.Addr())
			}
		}
	}
	slices.SortFunc(out.Subnets, comparePrefixes)
	out.Subnets = slices.Compact(out.Subnets)
	slices.SortFunc(out.Gateways, netip.Addr.Compare)
	out.Gateways = slices.Compact(out.Gateways)
	for key, e := range n.Containers {
		switch {
		case isBalancer(key):
			out.LB = append(out.LB, endpointAddresses(e)...)
			out.Balancers = append(out.Balancers, balancer(n.ID, e))
		case key == routingMesh: // on ingress it is A4, on docker_gwbridge nobody
			out.Balancers = append(out.Balancers, balancer(n.ID, e))
		}
	}
	slices.SortFunc(out.LB, netip.Addr.Compare)
	slices.SortFunc(out.Balancers, func(a, b policy.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func bridgeDevice(n *dockerclient.Network) string {
	if name := n.Options[optionBridgeName]; name != "" {
		return name
	}
	return "br-" + n.ID[:min(12, len(n.ID))]
}

// isSystem reports the networks that relate nobody (I7).
func isSystem(n *dockerclient.Network, ingress bool) bool {
	switch n.Driver {
	case "host", "null":
		return true
	case "bridge":
		return n.Options[optionDefault] == "true" || n.Name == "bridge" || n.Name == gatewayBridge
	}
	return ingress
}

// isHandMade reports whether a network may make a project of its containers (I4).
func isHandMade(n policy.Network) bool {
	return !n.System && n.Owner == policy.ProjectKey{}
}

// isBalancer reports whether a member of a network is Swarm's load balancer
// ("lb-NETWORK") and not a container.
func isBalancer(key string) bool { return strings.HasPrefix(key, "lb-") }

func balancer(network string, e dockerclient.Endpoint) policy.Endpoint {
	return policy.Endpoint{ID: e.ID, Network: network, MAC: macOf(e), Addresses: endpointAddresses(e)}
}

// macOf is zero where the engine tells none.
func macOf(e dockerclient.Endpoint) (m policy.MAC) {
	if mac, err := net.ParseMAC(e.MacAddress); err == nil && len(mac) == len(m) {
		m = policy.MAC(mac)
	}
	return m
}

// routingMesh is the member of ingress and of docker_gwbridge through which
// what is published in ingress mode comes.
const routingMesh = "ingress-sbox"

// isContainer reports whether a member's key is a container's ID.
func isContainer(key string) bool {
	return len(key) == 64 && strings.Trim(key, "0123456789abcdef") == ""
}

// endpointAddresses are IPv4 before IPv6.
func endpointAddresses(e dockerclient.Endpoint) []netip.Addr {
	var out []netip.Addr
	for _, text := range []string{e.IPv4Address, e.IPv6Address} {
		if a, ok := parseAddress(text); ok {
			out = append(out, a)
		}
	}
	return out
}

// parseAddress reads an address with or without its prefix length.
func parseAddress(text string) (netip.Addr, bool) {
	text, _, _ = strings.Cut(text, "/")
	a, err := netip.ParseAddr(text)
	return a.Unmap(), err == nil && !a.IsUnspecified()
}

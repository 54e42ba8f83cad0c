package docker

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/distribution/reference"
	dockerclient "github.com/fsouza/go-dockerclient"
	"github.com/moby/moby/api/types/swarm"
	mobyclient "github.com/moby/moby/client"

	"gatehouse/policy"
)

// swarmService is what a manager tells of a service and its tasks do not carry.
type swarmService struct {
	labels    map[string]string
	vips      map[string][]netip.Addr
	aliases   map[string][]string // by network
	published []policy.Published
	gone      bool // no manager tells of it any more
	id, name  string
	spec      *swarm.ContainerSpec // nil where it runs no containers
}

// container is what inspecting a task of the service would tell.
func (s *swarmService) container(m remote) *dockerclient.Container {
	config := &dockerclient.Config{Labels: map[string]string{}}
	host := &dockerclient.HostConfig{}
	if c := s.spec; c != nil {
		maps.Copy(config.Labels, c.Labels)
		config.Image, config.Env, config.Entrypoint, config.Cmd = c.Image, c.Env, c.Command, c.Args
		if c.DNSConfig != nil {
			for _, a := range c.DNSConfig.Nameservers {
				host.DNS = append(host.DNS, a.String())
			}
		}
	}
	config.Labels[swarmServiceID], config.Labels[swarmServiceName], config.Labels[swarmTaskID] = s.id, s.name, m.name
	return &dockerclient.Container{Name: m.name, Config: config, HostConfig: host}
}

// image is what the spec proves of the image: a digest in it is the registry's.
// What is baked into it is not known here.
func (s *swarmService) image() *image {
	img := &image{}
	if s.spec == nil {
		return img
	}
	if named, err := reference.ParseNormalizedNamed(s.spec.Image); err == nil {
		if d, ok := named.(reference.Digested); ok {
			img.digests = []string{named.Name() + "@" + d.Digest().String()}
		}
	}
	return img
}

// untold is what stays of a service of which no manager tells any more: labels and
// aliases, as its tasks may run on, and what is lost must widen nothing (V11). Its
// virtual addresses and ports may be another's by now.
func (s *swarmService) untold() *swarmService {
	if s == nil || s.gone {
		return s
	}
	return &swarmService{labels: s.labels, aliases: s.aliases, gone: true, id: s.id, name: s.name, spec: s.spec}
}

// swarmState is what this node knows of its cluster. The zero value is a node
// outside any.
type swarmState struct {
	active   bool
	manager  bool
	told     bool   // a manager was asked: this one, or the one that Config.Manager names
	cluster  string // cluster's ID; "" on workers, which are not told
	node     string
	address  netip.Addr   // this node's, as the others see it
	nodes    []netip.Addr // other nodes
	ingress  map[string]bool
	services map[string]*swarmService
	named    map[string]*swarmService // the same, by name
}

// byName is the service of that name, nil where no manager tells of one.
func (s *swarmState) byName(name string) *swarmService {
	if name == "" {
		return nil
	}
	return s.named[name]
}

// keepUntold keeps of services of which no manager tells any more what was told last,
// while the gossip names them: their tasks run on, and policy is what it was for them.
func (s *swarmState) keepUntold(last map[string]*swarmService, gossiped map[string]bool) {
	for name, service := range last {
		if s.named[name] != nil || !gossiped[name] {
			continue
		}
		if s.named == nil {
			s.named = map[string]*swarmService{}
		}
		s.named[name] = service.untold()
	}
}

// fetchSwarm asks for all of it. A worker is refused services and nodes; that is
// no error. Where a manager does not answer, the state beside the error is what this
// node's own engine told.
//
// manager, where it is not nil, is another node's engine that a worker asks instead.
func fetchSwarm(ctx context.Context, api, manager *mobyclient.Client) (swarmState, error) {
	info, err := api.Info(ctx, mobyclient.InfoOptions{})
	if err != nil {
		return swarmState{}, fmt.Errorf("engine info: %w", err)
	}
	s := info.Info.Swarm
	if s.LocalNodeState != swarm.LocalNodeStateActive {
		return swarmState{}, nil
	}
	state := swarmState{active: true, manager: s.ControlAvailable, node: s.NodeID}
	if s.Cluster != nil {
		state.cluster = s.Cluster.ID
	}
	own, _ := parseAddress(s.NodeAddr)
	state.address = own
	if state.ingress, err = ingressNetworks(ctx, api); err != nil {
		return swarmState{}, err
	}
	if !state.manager {
		for _, m := range s.RemoteManagers {
			state.addNode(m.Addr, own)
		}
		if manager == nil {
			return state, nil
		}
		api = manager
	}
	services, err := api.ServiceList(ctx, mobyclient.ServiceListOptions{})
	if err != nil {
		return state, fmt.Errorf("swarm services: %w", err)
	}
	nodes, err := api.NodeList(ctx, mobyclient.NodeListOptions{})
	if err != nil {
		return state, fmt.Errorf("swarm nodes: %w", err)
	}
	state.told = true
	state.services = describeServices(services.Items)
	state.named = make(map[string]*swarmService, len(state.services))
	for _, s := range state.services {
		state.named[s.name] = s
	}
	for _, n := range nodes.Items {
		if n.ID != state.node {
			state.addNode(n.Status.Addr, own)
		}
	}
	return state, nil
}

func ingressNetworks(ctx context.Context, api *mobyclient.Client) (map[string]bool, error) {
	list, err := api.NetworkList(ctx, mobyclient.NetworkListOptions{})
	if err != nil {
		return nil, fmt.Errorf("swarm networks: %w", err)
	}
	ingress := map[string]bool{}
	for _, n := range list.Items {
		if n.Ingress {
			ingress[n.ID] = true
		}
	}
	return ingress, nil
}

// addNode notes another node's address, given with or without a port.
func (s *swarmState) addNode(text string, own netip.Addr) {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	a, ok := parseAddress(strings.Trim(text, "[]"))
	if !ok || a == own || slices.Contains(s.nodes, a) {
		return
	}
	s.nodes = append(s.nodes, a)
	slices.SortFunc(s.nodes, netip.Addr.Compare)
}

// describeServices keeps of services what policy asks for.
func describeServices(items []swarm.Service) map[string]*swarmService {
	out := make(map[string]*swarmService, len(items))
	for _, item := range items {
		s := &swarmService{id: item.ID, name: item.Spec.Name, labels: item.Spec.Labels, aliases: map[string][]string{}, spec: item.Spec.TaskTemplate.ContainerSpec}
		for _, n := range item.Spec.TaskTemplate.Networks {
			s.aliases[n.Target] = n.Aliases
		}
		for _, vip := range item.Endpoint.VirtualIPs {
			if !vip.Addr.IsValid() {
				continue
			}
			if s.vips == nil {
				s.vips = map[string][]netip.Addr{}
			}
			s.vips[vip.NetworkID] = append(s.vips[vip.NetworkID], vip.Addr.Addr())
		}
		for _, p := range item.Endpoint.Ports {
			s.addIngressPort(p)
		}
		out[item.ID] = s
	}
	return out
}

// addIngressPort adds a port of the routing mesh, which is IPv4 only (moby
// libnetwork programs it into IPVS and iptables). Ports of mode host are on the
// task's container.
func (s *swarmService) addIngressPort(p swarm.PortConfig) {
	if p.PublishMode == swarm.PortConfigPublishModeHost || p.PublishedPort == 0 || p.PublishedPort > 65535 || p.TargetPort > 65535 {
		return
	}
	proto := policy.ProtoTCP
	switch p.Protocol {
	case "udp":
		proto = policy.ProtoUDP
	case "sctp":
		return
	}
	s.published = append(s.published, policy.Published{
		HostIP: netip.IPv4Unspecified(), HostPort: uint16(p.PublishedPort), Port: uint16(p.TargetPort), Proto: proto, Ingress: true,
	})
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

package docker

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

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
}

// untold is what stays of a service of which no manager tells any more: labels and
// aliases, as its tasks may run on, and what is lost must widen nothing (V11). Its
// virtual addresses and ports may be another's by now.
func (s *swarmService) untold() *swarmService {
	if s == nil || s.gone {
		return s
	}
	return &swarmService{labels: s.labels, aliases: s.aliases, gone: true}
}

// swarmState is what this node knows of its cluster. The zero value is a node
// outside any.
type swarmState struct {
	active   bool
	manager  bool
	cluster  string // cluster's ID; "" on workers, which are not told
	node     string
	nodes    []netip.Addr // other nodes
	ingress  map[string]bool
	services map[string]*swarmService
}

// fetchSwarm asks for all of it. A worker is refused services and nodes; that is
// no error. ok is false where a manager did not answer: what was known stays.
func fetchSwarm(ctx context.Context, api *mobyclient.Client) (swarmState, error) {
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
	if state.ingress, err = ingressNetworks(ctx, api); err != nil {
		return swarmState{}, err
	}
	if !state.manager {
		for _, m := range s.RemoteManagers {
			state.addNode(m.Addr, own)
		}
		return state, nil
	}
	services, err := api.ServiceList(ctx, mobyclient.ServiceListOptions{})
	if err != nil {
		return swarmState{}, fmt.Errorf("swarm services: %w", err)
	}
	state.services = describeServices(services.Items)
	nodes, err := api.NodeList(ctx, mobyclient.NodeListOptions{})
	if err != nil {
		return swarmState{}, fmt.Errorf("swarm nodes: %w", err)
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
		s := &swarmService{labels: item.Spec.Labels, aliases: map[string][]string{}}
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

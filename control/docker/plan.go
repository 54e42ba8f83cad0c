package docker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	dockerclient "github.com/fsouza/go-dockerclient"

	"gatehouse/policy"
)

// Plan is containers and networks that an engine does not run yet, as a Compose
// or stack file declares them: Snapshot derives from it what a Watcher would
// from an engine that ran it.
type Plan struct {
	Domain     string // of projects, stacks too (I1)
	Host       policy.Host
	Networks   []PlannedNetwork
	Containers []PlannedContainer
	Images     map[string]PlannedImage // by the reference that containers are of
	Keep       Keep
}

// Keep is what models ask for of environments and commands.
type Keep struct{ Env, Args, Words []string }

// PlannedNetwork is a network with what the engine would choose for it.
type PlannedNetwork struct {
	ID, Name, Driver string
	Labels           map[string]string
	Subnets          []netip.Prefix
	Gateways         []netip.Addr
	LB               []netip.Addr // of the load balancer on this node
	Internal         bool
	Ingress          bool
}

// PlannedContainer is a container as its deployer declares it.
type PlannedContainer struct {
	ID, Name, Image     string
	Labels              map[string]string
	Env                 []string
	Entrypoint, Command []string // nil = the image's
	Links, DNS          []string
	Expose              []string // "80/tcp"
	Ports               []PlannedPort
	NetworkMode         string // "", "host", "none", "container:ID"
	Endpoints           []PlannedEndpoint
	Service             *PlannedService // of a Swarm task
}

// PlannedPort is a published port; HostIP "" is all addresses.
type PlannedPort struct {
	HostIP         string
	HostPort, Port uint16
	Proto          string // "tcp", "udp"
}

// PlannedEndpoint is a container's place on a network.
type PlannedEndpoint struct {
	Network   string // ID
	MAC       policy.MAC
	Addresses []netip.Addr
	Aliases   []string
}

// PlannedService is what a Swarm manager tells of a task's service.
type PlannedService struct {
	Labels    map[string]string
	VIPs      map[string][]netip.Addr // by network ID; none with dnsrr
	Published []policy.Published      // by the routing mesh
}

// PlannedImage is what is known of an image without an engine.
type PlannedImage struct {
	Labels          map[string]string
	Env             []string // KEY=VALUE
	Entrypoint, Cmd []string
	Expose          []string // "80/tcp"
	PulledFrom      []string // repositories; none where it is built
}

// Snapshot derives the workloads and networks of the plan.
func (p *Plan) Snapshot() policy.Snapshot {
	keep := kept{env: set(p.Keep.Env), args: set(p.Keep.Args), words: set(p.Keep.Words)}
	d := domains{engine: p.Domain}
	out := policy.Snapshot{Host: p.Host}
	described := make(map[string]policy.Network, len(p.Networks))
	byName := make(map[string]string)
	for i := range p.Networks {
		n := describeNetwork(p.Networks[i].told(), p.Networks[i].Ingress, d, "", nil)
		n.Zone = policy.Zone(i + 1)
		n.LB = p.Networks[i].LB
		described[n.ID] = n
		byName[networkName(n.Name)] = n.ID
		out.Networks = append(out.Networks, n)
	}
	for i := range p.Containers {
		byName[p.Containers[i].Name] = p.Containers[i].ID
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		img := p.imageOf(c.Image)
		see := sight{container: c.told(described, img), image: img, networks: described, byName: byName,
			manager: true, domains: d, running: true, keep: keep, service: c.Service.told(c.Endpoints)}
		for _, e := range c.Endpoints {
			see.endpoints = append(see.endpoints, endpoint{e.Network, e.told(c.ID)})
		}
		out.Workloads = append(out.Workloads, describeWorkload(see))
	}
	slices.SortFunc(out.Networks, func(a, b policy.Network) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(out.Workloads, func(a, b policy.Workload) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (n *PlannedNetwork) told() *dockerclient.Network {
	out := &dockerclient.Network{ID: n.ID, Name: n.Name, Driver: n.Driver, Labels: n.Labels, Internal: n.Internal}
	for i, s := range n.Subnets {
		c := dockerclient.IPAMConfig{Subnet: s.String()}
		if i < len(n.Gateways) {
			c.Gateway = n.Gateways[i].String()
		}
		out.IPAM.Config = append(out.IPAM.Config, c)
	}
	return out
}

func (p *Plan) imageOf(ref string) *image {
	i := p.Images[ref]
	return &image{id: "planned " + ref, labels: i.Labels, env: i.Env, entrypoint: i.Entrypoint, cmd: i.Cmd,
		pulled: i.PulledFrom, exposed: ports(i.Expose)}
}

func ports(list []string) map[dockerclient.Port]struct{} {
	out := make(map[dockerclient.Port]struct{}, len(list))
	for _, p := range list {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		out[dockerclient.Port(p)] = struct{}{}
	}
	return out
}

// told is what inspecting the container would tell: the engine merges the
// image's labels, environment, command and ports into the container's.
func (c *PlannedContainer) told(networks map[string]policy.Network, img *image) *dockerclient.Container {
	config := &dockerclient.Config{Image: c.Image, Labels: maps.Clone(img.labels), Env: mergeEnv(img.env, c.Env),
		Entrypoint: c.Entrypoint, Cmd: c.Command, ExposedPorts: ports(c.Expose)}
	if config.Labels == nil {
		config.Labels = make(map[string]string, len(c.Labels))
	}
	maps.Copy(config.Labels, c.Labels)
	maps.Copy(config.ExposedPorts, img.exposed)
	if c.Entrypoint == nil { // with an entrypoint of its own the image's command is not used
		config.Entrypoint = img.entrypoint
		if c.Command == nil {
			config.Cmd = img.cmd
		}
	}
	host := &dockerclient.HostConfig{NetworkMode: c.NetworkMode, Links: c.Links, DNS: c.DNS, PortBindings: make(map[dockerclient.Port][]dockerclient.PortBinding)}
	for _, p := range c.Ports {
		port := dockerclient.Port(fmt.Sprintf("%d/%s", p.Port, cmp.Or(p.Proto, "tcp")))
		config.ExposedPorts[port] = struct{}{}
		host.PortBindings[port] = append(host.PortBindings[port], dockerclient.PortBinding{HostIP: p.HostIP, HostPort: strconv.Itoa(int(p.HostPort))})
	}
	out := &dockerclient.Container{ID: c.ID, Name: "/" + c.Name, Image: img.id, Config: config, HostConfig: host,
		NetworkSettings: &dockerclient.NetworkSettings{Networks: make(map[string]dockerclient.ContainerNetwork)}}
	for _, e := range c.Endpoints {
		out.NetworkSettings.Networks[networks[e.Network].Name] = dockerclient.ContainerNetwork{Aliases: e.Aliases}
	}
	return out
}

// mergeEnv lays the container's variables over the image's.
func mergeEnv(image, container []string) []string {
	own := make(map[string]bool, len(container))
	for _, kv := range container {
		key, _, _ := strings.Cut(kv, "=")
		own[key] = true
	}
	var out []string
	for _, kv := range image {
		if key, _, _ := strings.Cut(kv, "="); !own[key] {
			out = append(out, kv)
		}
	}
	return append(out, container...)
}

func (e *PlannedEndpoint) told(container string) dockerclient.Endpoint {
	out := dockerclient.Endpoint{ID: e.Network[:min(12, len(e.Network))] + container[:min(12, len(container))],
		MacAddress: fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", e.MAC[0], e.MAC[1], e.MAC[2], e.MAC[3], e.MAC[4], e.MAC[5])}
	for _, a := range e.Addresses {
		if a.Is4() {
			out.IPv4Address = a.String()
		} else {
			out.IPv6Address = a.String()
		}
	}
	return out
}

func (s *PlannedService) told(endpoints []PlannedEndpoint) *swarmService {
	if s == nil {
		return nil
	}
	out := &swarmService{labels: s.Labels, vips: s.VIPs, published: s.Published, aliases: make(map[string][]string)}
	for _, e := range endpoints {
		out.aliases[e.Network] = e.Aliases
	}
	return out
}

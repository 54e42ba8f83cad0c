package docker

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	dockerclient "github.com/fsouza/go-dockerclient"

	"gatehouse/policy"
)

// sight is all that a workload is derived from.
type sight struct {
	container *dockerclient.Container
	image     *image
	endpoints []endpoint
	networks  map[string]policy.Network // by ID
	byName    map[string]string         // names of containers and networks to their IDs
	service   *swarmService             // of a Swarm task, where known
	manager   bool                      // this node can ask for services
	classic   bool                      // image store
	domains   domains
	running   bool
	keep      kept
}

// endpoint is a container's membership of one network, as the network tells it.
type endpoint struct {
	network string
	dockerclient.Endpoint
}

// describeWorkload derives the vocabulary's workload. It is pure.
func describeWorkload(s sight) policy.Workload {
	c := s.container
	config, host := c.Config, c.HostConfig
	if config == nil {
		config = &dockerclient.Config{}
	}
	if host == nil {
		host = &dockerclient.HostConfig{}
	}
	w := policy.Workload{
		ID:    c.ID,
		Name:  strings.TrimPrefix(c.Name, "/"),
		Image: s.image.describe(config.Image, c.Image, s.classic),
		DNS:   parseAddrs(host.DNS),
	}
	if s.running {
		w.Started = c.State.StartedAt
	}
	w.Labels, w.Notes = tellLabels(config.Labels, s.image)
	if s.image == nil {
		w.Notes = append(w.Notes, "the engine no longer has the image: labels, environment and command cannot be told apart from the image's and are ignored")
	}
	w.Service, w.Compose, w.Swarm = serviceKey(w.Name, w.Labels, s.domains, s.handMade(host.NetworkMode))
	s.addSwarm(&w)
	s.addSpoken(&w, config, host)
	w.Exposed = exposedPorts(config.ExposedPorts, host.PortBindings, s.image)
	w.Published = append(w.Published, publishedPorts(c.NetworkSettings, host, s.running)...)
	slices.SortFunc(w.Published, comparePublished)
	w.Published = slices.Compact(w.Published)
	if w.Compose && s.image != nil {
		w.Image.Built = s.image.labels[composeProject] == w.Service.Project.Name && s.image.labels[composeService] != ""
	}
	if repo, tag := w.Image.Repository, w.Image.Tag; repo == "docker.io/library/docker" && strings.Contains(tag, "dind") {
		w.Notes = append(w.Notes, "nested-engine: containers inside share this workload's identity")
	}
	s.addNetworks(&w, host.NetworkMode)
	slices.Sort(w.Notes)
	w.Notes = slices.Compact(w.Notes)
	return w
}

// handMade is the name of the hand-made network that the container was started
// on. One that it was connected to later does not change its project.
func (s *sight) handMade(mode string) string {
	n, ok := s.networks[mode]
	if !ok {
		n, ok = s.networks[s.byName[networkName(mode)]]
	}
	if !ok || !isHandMade(n) {
		return ""
	}
	return n.Name
}

// networkName is a key of byName: networks and containers may share names.
func networkName(name string) string { return "network/" + name }

func (s *sight) addSwarm(w *policy.Workload) {
	if !w.Swarm {
		return
	}
	if s.service == nil {
		why := "this node is no manager"
		if s.manager {
			why = "no manager told of it"
		}
		w.Notes = append(w.Notes, "labels and ingress ports of the Swarm service are unknown: "+why)
		return
	}
	if s.service.gone {
		w.Notes = append(w.Notes, "no manager tells of the Swarm service any more: its labels are those told last")
	}
	w.Labels = addServiceLabels(w.Labels, s.service.labels)
	w.VIPs = s.service.vips
	w.Published = append(w.Published, s.service.published...)
}

// addSpoken adds what the deployer said: variables, command, references.
func (s *sight) addSpoken(w *policy.Workload, config *dockerclient.Config, host *dockerclient.HostConfig) {
	spoken := Spoken{Links: host.Links, DNS: host.DNS}
	if w.Compose && setByDeployer(w.Labels, composeDependsOn) {
		spoken.DependsOn = w.Labels[composeDependsOn].Value
		w.DependsOn = ParseDependsOn(spoken.DependsOn)
	}
	if s.image != nil {
		spoken.Env, w.EnvKeys = deployerEnv(config.Env, s.image.env)
		w.Env = keptEnv(spoken.Env, s.keep.env)
		if !slices.Equal(config.Entrypoint, s.image.entrypoint) {
			spoken.Entrypoint = config.Entrypoint
		}
		if !slices.Equal(config.Cmd, s.image.cmd) {
			spoken.Command = config.Cmd
		}
	}
	program := len(config.Entrypoint) == 0 || len(spoken.Entrypoint) > 0
	args := slices.Concat(spoken.Entrypoint, spoken.Command)
	w.Command = redactCommand(args, program, s.keep)
	w.Programs = programs(args, s.keep.words)
	w.References = ParseReferences(spoken)
}

// addNetworks adds endpoints and says what cannot be guarded.
func (s *sight) addNetworks(w *policy.Workload, mode string) {
	if owner, ok := strings.CutPrefix(mode, "container:"); ok {
		w.SharedWith = owner
		if id := s.byName[owner]; id != "" {
			w.SharedWith = id
		}
		return
	}
	if mode == "host" {
		w.Uncovered = "network_mode host"
		return
	}
	var uncovered []string
	for _, e := range s.endpoints {
		n, ok := s.networks[e.network]
		if !ok {
			continue
		}
		switch {
		case n.Driver == "host":
			w.Uncovered = "network_mode host"
			return
		case n.Driver == "null":
			continue
		case !n.Guarded:
			uncovered = append(uncovered, n.Driver+" network "+n.Name)
		}
		w.Endpoints = append(w.Endpoints, s.describeEndpoint(e, n.Name))
	}
	slices.SortFunc(w.Endpoints, func(a, b policy.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(uncovered)
	switch {
	case len(uncovered) == 0:
	case len(uncovered) == len(w.Endpoints):
		w.Uncovered = strings.Join(uncovered, ", ")
	default:
		for _, u := range uncovered {
			w.Notes = append(w.Notes, "endpoint not covered: "+u)
		}
	}
}

func (s *sight) describeEndpoint(e endpoint, network string) policy.Endpoint {
	out := policy.Endpoint{ID: e.ID, Network: e.network, MAC: macOf(e.Endpoint), Addresses: endpointAddresses(e.Endpoint)}
	var names []string
	if s.service != nil {
		names = append(names, s.service.aliases[e.network]...)
	}
	if settings := s.container.NetworkSettings; settings != nil {
		if s.running {
			out.Sandbox = settings.SandboxKey
		}
		known := settings.Networks[network]
		names = slices.Concat(names, known.Aliases, known.DNSNames)
	}
	for _, name := range names {
		if name != "" && !strings.HasPrefix(s.container.ID, name) { // the short ID is an alias of every container
			out.Aliases = append(out.Aliases, name)
		}
	}
	slices.Sort(out.Aliases)
	out.Aliases = slices.Compact(out.Aliases)
	return out
}

// exposedPorts are the image's EXPOSE and the deployer's expose. Clients put
// published ports among the exposed ones; those alone are not exposed.
func exposedPorts(container map[dockerclient.Port]struct{}, bound map[dockerclient.Port][]dockerclient.PortBinding, img *image) []policy.PortRange {
	var out []policy.PortRange
	for port := range container {
		if _, published := bound[port]; published && !img.exposes(port) {
			continue
		}
		if r, ok := parsePort(port); ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, comparePorts)
	return slices.Compact(out)
}

func (i *image) exposes(p dockerclient.Port) bool {
	if i == nil {
		return false
	}
	_, ok := i.exposed[p]
	return ok
}

// parsePort reads "80/tcp" and "8000-8010/udp"; SCTP has no place in policy.
func parsePort(p dockerclient.Port) (policy.PortRange, bool) {
	ports, proto, _ := strings.Cut(string(p), "/")
	if proto == "" {
		proto = "tcp"
	}
	r, err := policy.ParsePortRange(proto + "/" + ports)
	return r, err == nil && r.Proto != policy.ProtoICMP
}

func comparePorts(a, b policy.PortRange) int {
	return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Lo, b.Lo), cmp.Compare(a.Hi, b.Hi))
}

func comparePublished(a, b policy.Published) int {
	return cmp.Or(a.HostIP.Compare(b.HostIP), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort), cmp.Compare(a.Port, b.Port))
}

// publishedPorts are the ports of a running container as the engine bound them,
// and of one that starts as its deployer asked for them: host ports that the
// engine will choose are not known yet.
func publishedPorts(settings *dockerclient.NetworkSettings, host *dockerclient.HostConfig, running bool) []policy.Published {
	bindings := host.PortBindings
	if running && settings != nil && len(settings.Ports) > 0 {
		bindings = settings.Ports
	}
	var out []policy.Published
	for port, bound := range bindings {
		r, ok := parsePort(port)
		if !ok || r.Lo != r.Hi {
			continue
		}
		for _, b := range bound {
			hostPort, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil || hostPort == 0 {
				continue
			}
			for _, ip := range hostIPs(b.HostIP) {
				out = append(out, policy.Published{HostIP: ip, HostPort: uint16(hostPort), Port: r.Lo, Proto: r.Proto})
			}
		}
	}
	return out
}

// hostIPs reads a binding's address; none means all of both families.
func hostIPs(text string) []netip.Addr {
	if text == "" {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return nil
	}
	return []netip.Addr{a.Unmap()}
}

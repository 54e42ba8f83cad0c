// Package compose reads Compose files and Swarm stack files and derives the
// workloads that an engine would tell of if it ran them, so that policy can be
// seen and tested before anything starts. cmd and tests call it. It reads files
// only, and is safe for concurrent use.
//
// What only an engine knows is assumed: addresses are chosen in order, images
// come from where their names say, and what images bake in is what
// Options.Images says of them.
package compose

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"gatehouse/control/docker"
	"gatehouse/policy"
)

// File is one Compose project or one Swarm stack.
type File struct {
	Paths []string // the first one and those that are laid over it
	Name  string   // of the project; "" = as Compose finds it. A stack needs one
	Stack bool     // deployed by Swarm
}

// Options say what no file does. The zero value is a plain engine.
type Options struct {
	Images   map[string]Image // by reference or, for all of its tags, repository as it is written in the files
	Keep     docker.Keep
	Host     policy.Host // default: one address on a LAN, and its resolver
	Env      []string    // KEY=VALUE for ${KEY}, besides the project's .env
	Profiles []string
}

// Image is what an image bakes in.
type Image struct {
	Expose []string          `yaml:"expose"` // "80/tcp"
	Env    map[string]string `yaml:"env"`
	Labels map[string]string `yaml:"labels"`
}

// DefaultHost stands for the machine on which a plan would run.
var DefaultHost = policy.Host{
	Name:      "planned",
	Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.9/24")},
	Resolvers: []netip.Addr{netip.MustParseAddr("192.168.1.1")},
}

const domain = "planned"

// Load reads the files as projects of one engine. The error names the file.
func Load(ctx context.Context, files []File, o Options) (policy.Snapshot, error) {
	p := planner{options: o, networks: make(map[string]*docker.PlannedNetwork), next: make(map[string]int),
		plan: docker.Plan{Domain: domain, Host: o.Host, Keep: o.Keep, Images: make(map[string]docker.PlannedImage)}}
	if o.Host.Name == "" && len(o.Host.Addresses) == 0 {
		p.plan.Host = DefaultHost
	}
	p.bridge()
	var projects []loaded
	for _, f := range files {
		project, err := read(ctx, f, o)
		if err != nil {
			return policy.Snapshot{}, err
		}
		projects = append(projects, loaded{project, f.Stack})
		if f.Stack {
			p.swarm()
		}
	}
	// Networks first: a project may join one of a project that comes later.
	for _, l := range projects {
		p.addNetworks(l)
	}
	for _, l := range projects {
		for _, name := range l.ServiceNames() {
			if err := p.addService(l, l.Services[name]); err != nil {
				return policy.Snapshot{}, fmt.Errorf("%s: service %s: %w", l.ComposeFiles[0], name, err)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.networks)) {
		p.plan.Networks = append(p.plan.Networks, *p.networks[id])
	}
	return p.plan.Snapshot(), nil
}

type loaded struct {
	*types.Project
	stack bool
}

func read(ctx context.Context, f File, o Options) (*types.Project, error) {
	if len(f.Paths) == 0 {
		return nil, errors.New("compose: no file")
	}
	if f.Stack && f.Name == "" {
		return nil, fmt.Errorf("%s: a stack has the name that it is deployed under: say it", f.Paths[0])
	}
	options := []cli.ProjectOptionsFn{
		cli.WithWorkingDirectory(filepath.Dir(f.Paths[0])), cli.WithEnv(o.Env), cli.WithEnvFiles(), cli.WithDotEnv, cli.WithProfiles(o.Profiles),
	}
	if f.Name != "" {
		options = append(options, cli.WithName(f.Name))
	}
	opts, err := cli.NewProjectOptions(f.Paths, options...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Paths[0], err)
	}
	project, err := opts.LoadProject(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Paths[0], err)
	}
	if len(project.ComposeFiles) == 0 {
		project.ComposeFiles = f.Paths
	}
	return project, nil
}

type planner struct {
	options  Options
	plan     docker.Plan
	networks map[string]*docker.PlannedNetwork // by ID
	next     map[string]int                    // addresses given, by network ID
	subnets  int
	overlays int
}

// Names and IDs that an engine has without being asked.
const (
	bridgeID  = "bridge"
	gwbridge  = "docker_gwbridge"
	ingressID = "ingress"
)

func (p *planner) bridge() {
	p.networks[bridgeID] = &docker.PlannedNetwork{ID: bridgeID, Name: bridgeID, Driver: "bridge",
		Subnets: prefixes("172.17.0.0/16"), Gateways: addresses("172.17.0.1")}
}

// swarm adds the networks that every node of a Swarm has.
func (p *planner) swarm() {
	p.networks[gwbridge] = &docker.PlannedNetwork{ID: gwbridge, Name: gwbridge, Driver: "bridge",
		Subnets: prefixes("172.31.0.0/16"), Gateways: addresses("172.31.0.1")}
	p.networks[ingressID] = &docker.PlannedNetwork{ID: ingressID, Name: ingressID, Driver: "overlay", Ingress: true,
		Subnets: prefixes("10.255.0.0/16"), LB: addresses("10.255.0.2")}
}

func prefixes(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
func addresses(s string) []netip.Addr  { return []netip.Addr{netip.MustParseAddr(s)} }

// addNetworks plans the project's networks. An external one that no project
// declares is one made by hand (I8).
func (p *planner) addNetworks(l loaded) {
	for _, key := range l.NetworkNames() {
		n := l.Networks[key]
		labels := map[string]string(n.Labels)
		if !n.External {
			labels = withLabels(labels, ownerLabels(l, key))
		}
		id := identifier("network", n.Name)
		if old := p.networks[id]; old != nil {
			if !n.External {
				old.Labels = labels
			}
			continue
		}
		out := &docker.PlannedNetwork{ID: id, Name: n.Name, Driver: n.Driver, Labels: labels, Internal: n.Internal}
		if out.Driver == "" {
			out.Driver = "bridge"
			if l.stack {
				out.Driver = "overlay"
			}
		}
		p.address(out, n)
		p.networks[id] = out
	}
}

func ownerLabels(l loaded, key string) map[string]string {
	if l.stack {
		return map[string]string{"com.docker.stack.namespace": l.Name}
	}
	return map[string]string{"com.docker.compose.project": l.Name, "com.docker.compose.network": key}
}

func withLabels(a, b map[string]string) map[string]string {
	out := make(map[string]string, len(a)+len(b))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// address gives the network the subnets that its file names, else the next
// that an engine would take.
func (p *planner) address(out *docker.PlannedNetwork, n types.NetworkConfig) {
	for _, pool := range n.Ipam.Config {
		subnet, err := netip.ParsePrefix(pool.Subnet)
		if err != nil {
			continue
		}
		gateway, err := netip.ParseAddr(pool.Gateway)
		if err != nil {
			gateway = subnet.Masked().Addr().Next()
		}
		out.Subnets, out.Gateways = append(out.Subnets, subnet.Masked()), append(out.Gateways, gateway)
	}
	has := func(is4 bool) bool {
		return slices.ContainsFunc(out.Subnets, func(s netip.Prefix) bool { return s.Addr().Is4() == is4 })
	}
	add := func(subnet netip.Prefix) {
		out.Subnets, out.Gateways = append(out.Subnets, subnet), append(out.Gateways, subnet.Addr().Next())
	}
	if !has(true) {
		if out.Driver == "overlay" {
			p.overlays++
			add(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(p.overlays), 0}), 24))
		} else {
			p.subnets++
			add(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(18 + p.subnets/256), byte(p.subnets), 0}), 24))
		}
	}
	if n.EnableIPv6 != nil && *n.EnableIPv6 && !has(false) {
		p.subnets++
		add(netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, byte(p.subnets >> 8), 0, byte(p.subnets)}), 64))
	}
	if out.Driver == "overlay" {
		out.LB = []netip.Addr{nth(out.Subnets[0], 254)}
	}
}

func nth(s netip.Prefix, n int) netip.Addr {
	a := s.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// identifier is a stable 64-digit ID.
func identifier(words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:])
}

// addService plans the containers of one service.
func (p *planner) addService(l loaded, s types.ServiceConfig) error {
	image := s.Image
	if image == "" && s.Build == nil {
		return errors.New("it has neither image nor build")
	}
	if image == "" {
		image = l.Name + "-" + s.Name
	}
	p.addImage(l, s, image)
	var service *docker.PlannedService
	if l.stack {
		service = p.plannedService(l, s)
	}
	for n := 1; n <= s.GetScale(); n++ {
		c, err := p.container(l, s, image, n)
		if err != nil {
			return err
		}
		c.Service = service
		p.plan.Containers = append(p.plan.Containers, c)
	}
	return nil
}

func (p *planner) addImage(l loaded, s types.ServiceConfig, image string) {
	facts, ok := p.options.Images[image]
	if !ok {
		facts = p.options.Images[withoutTag(image)]
	}
	out := docker.PlannedImage{Expose: facts.Expose, Labels: maps.Clone(facts.Labels)}
	for _, key := range slices.Sorted(maps.Keys(facts.Env)) {
		out.Env = append(out.Env, key+"="+facts.Env[key])
	}
	repository, _, _, err := policy.NormalizeImage(image)
	switch {
	case s.Build != nil: // Compose notes on what it builds for whom it did
		out.Labels = withLabels(out.Labels, map[string]string{"com.docker.compose.project": l.Name, "com.docker.compose.service": s.Name})
	case err == nil:
		out.PulledFrom = []string{repository}
	}
	p.plan.Images[image] = out
}

func withoutTag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		return image[:i]
	}
	return image
}

func (p *planner) container(l loaded, s types.ServiceConfig, image string, number int) (docker.PlannedContainer, error) {
	c := docker.PlannedContainer{
		ID: identifier(l.Name, s.Name, strconv.Itoa(number)), Name: containerName(l, s, number), Image: image,
		Entrypoint: s.Entrypoint, Command: s.Command, DNS: s.DNS, Expose: s.Expose,
	}
	for _, key := range slices.Sorted(maps.Keys(s.Environment)) {
		if v := s.Environment[key]; v != nil {
			c.Env = append(c.Env, key+"="+*v)
		}
	}
	var err error
	if c.Labels, err = containerLabels(l, s, number); err != nil {
		return c, err
	}
	for _, link := range s.Links {
		name, _, _ := strings.Cut(link, ":")
		c.Links = append(c.Links, "/"+name+":/"+c.Name+"/"+name)
	}
	if err := p.publish(l, s, &c); err != nil {
		return c, err
	}
	return c, p.join(l, s, &c, number)
}

func containerName(l loaded, s types.ServiceConfig, number int) string {
	switch {
	case l.stack:
		return fmt.Sprintf("%s_%s.%d.%s", l.Name, s.Name, number, identifier(l.Name, s.Name, strconv.Itoa(number))[:25])
	case s.ContainerName != "":
		return s.ContainerName
	}
	return fmt.Sprintf("%s-%s-%d", l.Name, s.Name, number)
}

// containerLabels are the deployer's and those of Compose or Swarm.
func containerLabels(l loaded, s types.ServiceConfig, number int) (map[string]string, error) {
	labels := withLabels(s.Labels, nil)
	if l.stack {
		labels["com.docker.stack.namespace"] = l.Name
		labels["com.docker.swarm.service.id"] = identifier("service", l.Name, s.Name)[:25]
		labels["com.docker.swarm.service.name"] = l.Name + "_" + s.Name
		labels["com.docker.swarm.task.id"] = identifier("task", l.Name, s.Name, strconv.Itoa(number))[:25]
		labels["com.docker.swarm.task.name"] = containerName(l, s, number)
		return labels, nil
	}
	hash, err := configHash(s)
	if err != nil {
		return nil, err
	}
	labels["com.docker.compose.project"] = l.Name
	labels["com.docker.compose.service"] = s.Name
	labels["com.docker.compose.config-hash"] = hash
	labels["com.docker.compose.container-number"] = strconv.Itoa(number)
	labels["com.docker.compose.oneoff"] = "False"
	labels["com.docker.compose.depends_on"] = dependsOn(s)
	return labels, nil
}

// configHash is a digest of what the service's containers are made of, as
// Compose keeps it to see whether they must be made again.
func configHash(s types.ServiceConfig) (string, error) {
	s.Build, s.PullPolicy, s.Scale, s.Deploy, s.DependsOn = nil, "", nil, nil, nil
	data, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// dependsOn is written as Compose does: "db:service_healthy:false,...".
func dependsOn(s types.ServiceConfig) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.DependsOn)) {
		d := s.DependsOn[name]
		out = append(out, fmt.Sprintf("%s:%s:%t", name, cmp.Or(d.Condition, types.ServiceConditionStarted), d.Restart))
	}
	return strings.Join(out, ",")
}

// publish plans the ports of mode host, which are the container's own; those of
// the routing mesh are the service's.
func (p *planner) publish(l loaded, s types.ServiceConfig, c *docker.PlannedContainer) error {
	for _, port := range s.Ports {
		if l.stack && port.Mode != "host" {
			continue
		}
		if port.Published == "" {
			c.Expose = append(c.Expose, fmt.Sprintf("%d/%s", port.Target, cmp.Or(port.Protocol, "tcp")))
			continue // the engine chooses the host's port
		}
		host, err := firstPort(port.Published)
		if err != nil {
			return err
		}
		c.Ports = append(c.Ports, docker.PlannedPort{HostIP: port.HostIP, HostPort: host, Port: uint16(port.Target), Proto: port.Protocol})
	}
	return nil
}

// firstPort reads "8080" and "8080-8090", of which the engine takes the first
// that is free.
func firstPort(published string) (uint16, error) {
	first, _, _ := strings.Cut(published, "-")
	n, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("published port %q: want a number", published)
	}
	return uint16(n), nil
}

// join gives the container its places on networks.
func (p *planner) join(l loaded, s types.ServiceConfig, c *docker.PlannedContainer, number int) error {
	mode := s.NetworkMode
	switch owner, isService := strings.CutPrefix(mode, "service:"); {
	case isService:
		c.NetworkMode = "container:" + identifier(l.Name, owner, "1")
		return nil
	case mode == "host" || mode == "none" || strings.HasPrefix(mode, "container:"):
		c.NetworkMode = mode
		return nil
	case mode == "bridge":
		c.NetworkMode = bridgeID
		c.Endpoints = append(c.Endpoints, p.endpoint(bridgeID, nil, nil))
		return nil
	}
	for _, key := range s.NetworksByPriority() {
		n, ok := l.Networks[key]
		if !ok {
			return fmt.Errorf("network %s is not declared", key)
		}
		id := identifier("network", n.Name)
		if p.networks[id] == nil {
			continue // host and none, under a name of the file's
		}
		if c.NetworkMode == "" {
			c.NetworkMode = n.Name
		}
		aliases := []string{s.Name}
		if !l.stack {
			aliases = append(aliases, c.Name)
		}
		if config := s.Networks[key]; config != nil {
			aliases = append(aliases, config.Aliases...)
		}
		c.Endpoints = append(c.Endpoints, p.endpoint(id, aliases, s.Networks[key]))
	}
	if !l.stack {
		return nil
	}
	if len(c.Endpoints) > 0 {
		c.Endpoints = append(c.Endpoints, p.endpoint(gwbridge, nil, nil))
	}
	if slices.ContainsFunc(s.Ports, func(port types.ServicePortConfig) bool { return port.Mode != "host" }) {
		c.Endpoints = append(c.Endpoints, p.endpoint(ingressID, nil, nil))
	}
	return nil
}

// endpoint takes the next addresses of the network, or those that the file names.
func (p *planner) endpoint(id string, aliases []string, config *types.ServiceNetworkConfig) docker.PlannedEndpoint {
	n := p.networks[id]
	p.next[id]++
	e := docker.PlannedEndpoint{Network: id, Aliases: aliases}
	for _, subnet := range n.Subnets {
		a := nth(subnet, p.next[id]+2)
		if config != nil {
			for _, fixed := range []string{config.Ipv4Address, config.Ipv6Address} {
				if f, err := netip.ParseAddr(fixed); err == nil && subnet.Contains(f) {
					a = f
				}
			}
		}
		if a.Is4() { // as the engine makes it of the address
			b := a.As4()
			e.MAC = policy.MAC{2, 0x42, b[0], b[1], b[2], b[3]}
		}
		e.Addresses = append(e.Addresses, a)
	}
	return e
}

// plannedService is what a manager would tell: labels of deploy, VIPs, ports of
// the routing mesh.
func (p *planner) plannedService(l loaded, s types.ServiceConfig) *docker.PlannedService {
	out := &docker.PlannedService{VIPs: make(map[string][]netip.Addr)}
	dnsrr := false
	if s.Deploy != nil {
		out.Labels = s.Deploy.Labels
		dnsrr = s.Deploy.EndpointMode == "dnsrr"
	}
	for _, key := range s.NetworksByPriority() {
		id := identifier("network", l.Networks[key].Name)
		if n := p.networks[id]; n != nil && n.Driver == "overlay" && !dnsrr {
			p.next[id]++
			out.VIPs[id] = []netip.Addr{nth(n.Subnets[0], p.next[id]+2)}
		}
	}
	for _, port := range s.Ports {
		host, err := firstPort(port.Published)
		if port.Mode == "host" || err != nil {
			continue
		}
		proto := policy.ProtoTCP
		if port.Protocol == "udp" {
			proto = policy.ProtoUDP
		}
		out.Published = append(out.Published, policy.Published{HostIP: netip.IPv4Unspecified(), HostPort: host, Port: uint16(port.Target), Proto: proto, Ingress: true})
	}
	return out
}

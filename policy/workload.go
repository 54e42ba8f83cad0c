package policy

import (
	"net/netip"
	"strings"
	"time"
)

// Zone numbers a network whose addresses are unique in it. Zone 0 is no
// container network: the host and all outside.
type Zone uint32

// MAC is an Ethernet address.
type MAC [6]byte

// ProjectKey names what groups services (I1): the domain is the Swarm cluster
// or the engine; Name is the Compose project, the stack, "net:NAME" for a
// hand-made network, or "" for a workload on its own.
type ProjectKey struct {
	Domain string `json:"domain,omitempty"`
	Name   string `json:"name"`
}

// ServiceKey names equal workloads of one project (I5).
type ServiceKey struct {
	Project ProjectKey `json:"project"`
	Name    string     `json:"name"`
}

func (k ServiceKey) String() string {
	if k.Project.Name == "" {
		return k.Name
	}
	return k.Project.Name + "/" + k.Name
}

// Is reports whether text is the key's, as String writes it.
func (k ServiceKey) Is(text string) bool {
	if k.Project.Name == "" {
		return text == k.Name
	}
	rest, ok := strings.CutPrefix(text, k.Project.Name)
	return ok && strings.HasPrefix(rest, "/") && rest[1:] == k.Name
}

// Setter says who set a label (I3).
type Setter uint8

const (
	SetByImage    Setter = iota // baked into the image: proves nothing
	SetByDeployer               // on the container or in the service's spec, and not the image's value
)

// Label is one label with its setter.
type Label struct {
	Value string `json:"value"`
	By    Setter `json:"by"`
}

// Image is what is known of a workload's image.
type Image struct {
	Ref          string   `json:"ref"`               // as the deployer wrote it: "wordpress:6-apache"
	Repository   string   `json:"repository"`        // normalised, no tag: "docker.io/library/wordpress"
	Tag          string   `json:"tag,omitempty"`     // "6-apache"; "" with a bare digest
	ID           string   `json:"id,omitempty"`      // the engine's image id, sha256:...
	RepoDigests  []string `json:"digests,omitempty"` // "docker.io/library/wordpress@sha256:..." as the engine lists them
	ClassicStore bool     `json:"classicStore"`      // RepoDigests are proof of origin only with the classic image store (T3)
	// PulledFrom are the repositories, normalised, from which the engine's own
	// image identity says this image was pulled; a retag does not change them
	// (T3). Empty with engines that keep no identity.
	PulledFrom []string          `json:"pulledFrom,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	EnvKeys    []string          `json:"envKeys,omitempty"` // keys of the image's own environment in its order, the base image's first; hints only (T5)
	Built      bool              `json:"built,omitempty"`   // built by this workload's own Compose project
}

// Published is a port that the deployer offers on the host's addresses (R13).
type Published struct {
	HostIP   netip.Addr `json:"hostIP"` // unspecified = all of that family
	HostPort uint16     `json:"hostPort"`
	Port     uint16     `json:"port"` // the container's own
	Proto    Proto      `json:"proto"`
	Ingress  bool       `json:"ingress,omitempty"` // Swarm routing mesh, else on this host
}

// Reference is one place in which a workload's deployer named another host
// (R3). Values that may be secret are never kept.
type Reference struct {
	Source string `json:"source"`           // "env WORDPRESS_DB_HOST", "arg --broker_api", "depends_on", "link", "dns"
	Host   string `json:"host"`             // name or address, never empty
	Port   uint16 `json:"port,omitempty"`   // 0 = not said
	Scheme string `json:"scheme,omitempty"` // "postgresql", "" = not said
	// Weak marks a reference that only orders or links (depends_on): it says
	// who, not how.
	Weak bool `json:"weak,omitempty"`
}

// Endpoint is one network interface of a workload.
type Endpoint struct {
	ID        string       `json:"id"`      // the engine's endpoint id; unique on this host
	Network   string       `json:"network"` // Network.ID
	MAC       MAC          `json:"mac"`
	Addresses []netip.Addr `json:"addresses"`         // IPv4 and IPv6, without the link-local one that follows from MAC
	Aliases   []string     `json:"aliases,omitempty"` // DNS names on that network
	Sandbox   string       `json:"sandbox,omitempty"` // path of the network namespace, "" before it is known
}

// Workload is a running container that the orchestrator told us of.
type Workload struct {
	ID         string            `json:"id"`   // container id
	Name       string            `json:"name"` // container name, without the slash
	Service    ServiceKey        `json:"service"`
	Compose    bool              `json:"compose,omitempty"` // membership proven by I2
	Swarm      bool              `json:"swarm,omitempty"`
	Image      Image             `json:"image"`
	Labels     map[string]Label  `json:"labels,omitempty"`
	Exposed    []PortRange       `json:"exposed,omitempty"` // image EXPOSE and deployer's expose
	Published  []Published       `json:"published,omitempty"`
	Command    []string          `json:"command,omitempty"`  // deployer-set entrypoint and arguments; values of flags only where a model asks
	Programs   []string          `json:"programs,omitempty"` // that Command starts, scripts of a shell included; *** for those that no model asks for
	EnvKeys    []string          `json:"envKeys,omitempty"`  // deployer-set
	Env        map[string]string `json:"env,omitempty"`      // values only of keys that models ask for
	References []Reference       `json:"references,omitempty"`
	DependsOn  []string          `json:"dependsOn,omitempty"` // Compose service names
	DNS        []netip.Addr      `json:"dns,omitempty"`       // the deployer's dns:, else empty
	Endpoints  []Endpoint        `json:"endpoints,omitempty"`
	// SharedWith is the owner's container id where this one lives in another
	// container's network namespace (I6).
	SharedWith string `json:"sharedWith,omitempty"`
	// Node is the address of the cluster node on which the workload runs, "" for
	// this one. Of what runs on another node no interface is here: it is a peer of
	// those that are, and its own node's gateway judges its side.
	Node string `json:"node,omitempty"`
	// Uncovered says why this workload cannot be guarded ("network_mode host",
	// "macvlan network lan"); empty if it can.
	Uncovered string    `json:"uncovered,omitempty"`
	Started   time.Time `json:"started"`
	// VIPs are the virtual addresses of the workload's Swarm service, by network id (A2).
	VIPs  map[string][]netip.Addr `json:"vips,omitempty"`
	Notes []string                `json:"notes,omitempty"` // findings: ignored labels, nested-engine, ...
}

// Network is one network of the engine.
type Network struct {
	ID       string         `json:"id"`
	Name     string         `json:"name"`
	Driver   string         `json:"driver"`
	Zone     Zone           `json:"zone"`
	Subnets  []netip.Prefix `json:"subnets,omitempty"`
	Gateways []netip.Addr   `json:"gateways,omitempty"`
	Owner    ProjectKey     `json:"owner"`            // I8; zero = unowned
	System   bool           `json:"system,omitempty"` // I7: bridge, docker_gwbridge, ingress, host, none
	Ingress  bool           `json:"ingress,omitempty"`
	Internal bool           `json:"internal,omitempty"`
	ICC      bool           `json:"icc"`              // containers of it may talk directly
	Bridge   string         `json:"bridge,omitempty"` // the bridge device's name, in the host's namespace or in NetNS
	NetNS    string         `json:"netns,omitempty"`  // path of the overlay's own namespace; "" = the host's
	LB       []netip.Addr   `json:"lb,omitempty"`     // A3: this network's load-balancer addresses
	// Balancers are the endpoints of LB on this host, and of the routing mesh: no
	// containers, yet ports of the bridge.
	Balancers []Endpoint `json:"balancers,omitempty"`
	// Newcomer: a container has joined that asks to be enforced, and nothing else
	// is known of it yet.
	Newcomer bool `json:"newcomer,omitempty"`
	Guarded  bool `json:"guarded"` // bridge and overlay networks
}

// Host is what resolution needs to know of this machine (A5-A10).
type Host struct {
	Name      string         `json:"name"`
	Addresses []netip.Prefix `json:"addresses"`           // of its own interfaces, container bridges included, with their prefixes
	Resolvers []netip.Addr   `json:"resolvers,omitempty"` // what containers without a dns: of their own use
	// LoopbackDNS: the host itself asks name servers on a loopback address only,
	// which engines from version 25 on ask from the host's namespace.
	LoopbackDNS bool             `json:"loopbackDNS,omitempty"`
	EngineAPI   []netip.AddrPort `json:"engineAPI,omitempty"` // where the engine listens on TCP
	Nodes       []netip.Addr     `json:"nodes,omitempty"`     // addresses of other cluster nodes
}

// Snapshot is all that the orchestrator told, at one moment. Workloads are
// sorted by id, networks by id.
type Snapshot struct {
	Host      Host       `json:"host"`
	Networks  []Network  `json:"networks"`
	Workloads []Workload `json:"workloads"`
}

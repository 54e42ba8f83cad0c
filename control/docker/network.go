package docker

import (
	"net"
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

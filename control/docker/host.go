package docker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"gatehouse/policy"
)

// hostAddresses returns the addresses of this namespace's interfaces, sorted,
// and by interface. Loopback addresses never cross a veth; the link-local
// addresses of bridge ports are left out too: a port takes no IP packets, and
// each container's start would look like a change of the host.
func hostAddresses() (all []netip.Prefix, byDevice map[string][]netip.Prefix, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, nil, err
	}
	byDevice = map[string][]netip.Prefix{}
	devices := map[int]string{}
	ports := map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		devices[a.Index] = a.Name
		ports[a.Index] = a.MasterIndex != 0
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range addrs {
		if a.IPNet == nil {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		ones, _ := a.Mask.Size()
		p := netip.PrefixFrom(ip.Unmap(), ones)
		if p.Addr().IsLoopback() || (p.Addr().IsLinkLocalUnicast() && ports[a.LinkIndex]) {
			continue
		}
		all = append(all, p)
		byDevice[devices[a.LinkIndex]] = append(byDevice[devices[a.LinkIndex]], p)
	}
	slices.SortFunc(all, comparePrefixes)
	return slices.Compact(all), byDevice, nil
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// daemonConfig is what matters of dockerd's daemon.json.
type daemonConfig struct {
	DNS   []string `json:"dns"`
	Hosts []string `json:"hosts"`
}

// readDaemonConfig reads daemon.json; a missing or broken one is an empty one,
// as the engine would not have started with it.
func readDaemonConfig(path string) daemonConfig {
	var c daemonConfig
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &c) != nil {
		return daemonConfig{}
	}
	return c
}

// defaultResolvers are what the engine gives containers when the host has none
// that they could reach (moby libnetwork/resolvconf, defaultIPv4Dns and
// defaultIPv6Dns).
var defaultResolvers = []netip.Addr{
	netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("8.8.4.4"),
	netip.MustParseAddr("2001:4860:4860::8888"), netip.MustParseAddr("2001:4860:4860::8844"),
}

// resolvers returns the name servers of containers without a dns: of their own:
// the daemon's, else the host's, else the engine's defaults. As the engine does,
// it goes past systemd-resolved's stub to the servers behind it, and leaves out
// loopback addresses: those are asked from the host's namespace. loopback: the
// host has no others.
func resolvers(daemonDNS []string, resolvConf, resolvedConf string) (servers []netip.Addr, loopback bool) {
	if addrs := parseAddrs(daemonDNS); len(addrs) > 0 {
		return addrs, false
	}
	servers = nameservers(resolvConf)
	if len(servers) == 1 && servers[0] == netip.AddrFrom4([4]byte{127, 0, 0, 53}) {
		servers = nameservers(resolvedConf)
	}
	some := len(servers) > 0
	servers = slices.DeleteFunc(servers, func(a netip.Addr) bool { return a.IsLoopback() })
	if len(servers) == 0 {
		return slices.Clone(defaultResolvers), some
	}
	return servers, false
}

func nameservers(path string) []netip.Addr {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var texts []string
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			texts = append(texts, fields[1])
		}
	}
	return parseAddrs(texts)
}

func parseAddrs(texts []string) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range texts {
		if a, err := netip.ParseAddr(s); err == nil {
			addrs = append(addrs, a.Unmap().WithZone(""))
		}
	}
	return addrs
}

// engineAPI returns the TCP addresses among the engine's own listeners. An
// unspecified address stands for every address of the host.
func engineAPI(hosts []string, own []netip.Prefix) []netip.AddrPort {
	var out []netip.AddrPort
	for _, h := range hosts {
		rest, ok := strings.CutPrefix(h, "tcp://")
		if !ok {
			continue
		}
		host, portText, err := net.SplitHostPort(rest)
		if err != nil {
			continue
		}
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil {
			continue
		}
		addr, err := netip.ParseAddr(host)
		if host == "" {
			addr, err = netip.IPv4Unspecified(), nil
		}
		if err != nil {
			continue
		}
		if !addr.IsUnspecified() {
			out = append(out, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
			continue
		}
		for _, p := range own {
			out = append(out, netip.AddrPortFrom(p.Addr(), uint16(port)))
		}
	}
	return out
}

// describeHost is the snapshot's view of this machine.
func describeHost(name string, addresses []netip.Prefix, c Config, nodes []netip.Addr) policy.Host {
	daemon := readDaemonConfig(c.DaemonConfig)
	servers, loopback := resolvers(daemon.DNS, c.ResolvConf, resolvedConf)
	return policy.Host{
		Name:      name,
		Addresses: addresses,
		Resolvers: servers, LoopbackDNS: loopback,
		EngineAPI: engineAPI(append([]string{c.Host}, daemon.Hosts...), addresses),
		Nodes:     nodes,
	}
}

// resolvedConf lists the servers behind systemd-resolved's stub.
const resolvedConf = "/run/systemd/resolve/resolv.conf"

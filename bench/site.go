package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane/namespace"
)

// The addresses are the same in every site; each has namespaces of its own.
var (
	addrA      = netip.MustParseAddr("10.99.0.1")
	addrB      = netip.MustParseAddr("10.99.0.2")
	addrA6     = netip.MustParseAddr("2001:db8:99::1")
	addrB6     = netip.MustParseAddr("2001:db8:99::2")
	bridgeAddr = netip.MustParsePrefix("10.99.0.254/24")
	macA       = net.HardwareAddr{0x02, 0x42, 0, 0, 0, 0x0a}
	macB       = net.HardwareAddr{0x02, 0x42, 0, 0, 0, 0x0b}
	macBr      = net.HardwareAddr{0x02, 0x42, 0, 0, 0, 0xfe}
)

const (
	bridgeName = "br0"
	vethA      = "vetha" // the host's ends
	vethB      = "vethb"
)

// site is a host in a namespace of its own with two "containers" on one bridge,
// wired as Docker wires them.
type site struct {
	name          string
	host, a, b    string // paths of the namespaces
	ifindexA      int    // host ends of the veths
	ifindexB      int
	bridgeIfindex int
	gateway       *gatewayProcess // nil = none
	sinkPath      string          // where packets from A are counted
	sinkDevice    string
	database      string // PostgreSQL's folder, once it was needed
	load          load
	teardown      []func() error
}

// alone waits until no other process has sites: their names and pins are the same
// for all. The lock ends with the process, whatever ends that.
func alone() (release func() error, err error) {
	const name = "/run/gatehouse-bench.lock"
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f.Close, nil
}

// newSite builds the three namespaces of one variant.
func newSite(name string) (s *site, err error) {
	s = &site{name: name}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("site %s: %w", name, err), s.close())
		}
	}()
	for _, n := range []struct {
		suffix string
		path   *string
	}{{"h", &s.host}, {"a", &s.a}, {"b", &s.b}} {
		full := "ghb-" + name + "-" + n.suffix
		if err := newNamespace(full); err != nil {
			return s, err
		}
		s.teardown = append(s.teardown, func() error { return netns.DeleteNamed(full) })
		*n.path = "/var/run/netns/" + full
	}
	s.sinkPath, s.sinkDevice = s.b, "eth0"
	if err := namespace.Run(s.host, s.makeHost); err != nil {
		return s, err
	}
	if err := namespace.Run(s.a, func() error { return configure(macA, addrA, addrA6, macB, addrB, addrB6) }); err != nil {
		return s, err
	}
	return s, namespace.Run(s.b, func() error { return configure(macB, addrB, addrB6, macA, addrA, addrA6) })
}

func (s *site) makeHost() error {
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name, br.HardwareAddr = bridgeName, macBr
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := netlink.AddrAdd(br, &netlink.Addr{IPNet: &net.IPNet{IP: bridgeAddr.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
		return err
	}
	l, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	s.bridgeIfindex = l.Attrs().Index
	if err := bridgeNetfilter("0"); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	if s.ifindexA, err = addLeg(l, vethA, s.a, macA); err != nil {
		return err
	}
	s.ifindexB, err = addLeg(l, vethB, s.b, macB)
	return err
}

// bridgeNetfilter switches iptables for bridged packets, in the namespace of the
// calling thread. Where br_netfilter is loaded every new namespace begins with
// "1", which costs a plain bridge two thirds of its packet rate.
func bridgeNetfilter(value string) error {
	for _, family := range []string{"iptables", "ip6tables", "arptables"} {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+family, []byte(value), 0)
		if err != nil && (value != "0" || !errors.Is(err, os.ErrNotExist)) {
			return fmt.Errorf("br_netfilter: %w", err)
		}
	}
	return nil
}

// addLeg makes one veth pair: host end on the bridge, the other end eth0 in target.
func addLeg(bridge netlink.Link, name, target string, mac net.HardwareAddr) (int, error) {
	ns, err := netns.GetFromPath(target)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = "eth0", mac, netlink.NsFd(ns)
	if err := netlink.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("veth %s: %w", name, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	if err := netlink.LinkSetMaster(l, bridge); err != nil {
		return 0, err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return 0, err
	}
	// The generator talks one way: the bridge must know both ports at once.
	return l.Attrs().Index, netlink.NeighAppend(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE,
		Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: mac})
}

// configure runs inside a container's namespace.
func configure(mac net.HardwareAddr, v4, v6 netip.Addr, peerMAC net.HardwareAddr, peer4, peer6 netip.Addr) error {
	for _, name := range []string{"lo", "eth0"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		if name == "lo" {
			continue
		}
		for _, a := range []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)} {
			ipnet := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipnet, Flags: unix.IFA_F_NODAD}); err != nil {
				return err
			}
		}
		for _, ip := range []netip.Addr{peer4, peer6} {
			n := &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: peerMAC}
			if err := netlink.NeighSet(n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *site) close() error {
	var errs []error
	for i := len(s.teardown) - 1; i >= 0; i-- {
		errs = append(errs, s.teardown[i]())
	}
	s.teardown = nil
	return errors.Join(errs...)
}

// command runs a program inside the site's host namespace.
func (s *site) command(stdin string, name string, args ...string) error {
	return command(s.host, stdin, name, args...)
}

// command runs a program inside the namespace at path.
func command(path, stdin, name string, args ...string) error {
	cmd := exec.Command("nsenter", append([]string{"--net=" + path, name}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// newNamespace makes a named namespace and comes back; a left-over of an
// earlier run is replaced.
func newNamespace(name string) error {
	_ = netns.DeleteNamed(name) // there may be none
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		ns, err := netns.NewNamed(name)
		if err != nil {
			done <- fmt.Errorf("namespace %s: %w", name, err)
			return
		}
		ns.Close()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- nil
	}()
	return <-done
}

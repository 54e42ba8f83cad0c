package tun

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane/namespace"
)

// How routed traffic comes through the gateway. A rule for each interface sends
// what enters by it and is not for the host itself (the local table comes first)
// to a table of ours, whose default route is the TUN. What the worker writes back
// enters by the TUN, for which there is no rule, and so is routed on as if
// nothing had been.
//
// Closed: the table has a second default route, unreachable, which counts as
// soon as the first went with the TUN, that is with the process. And an nftables
// chain drops what the kernel would forward between one of the interfaces and
// anything but the TUN, so that nothing reaches them by others either.

// Route says what comes through the gateway.
type Route struct {
	NetNS      string   // path of the network namespace that routes; "" = the caller's own
	Interfaces []string // all that the traffic enters and leaves by
	Device     string   // name of the TUN
	Table      string   // name of the nftables table
	Frames     int      // that may wait; 0 = 4 * DefaultFrames
}

const (
	// routeTable and rulePriority are numbers that no distribution uses; rules of
	// others that come before rulePriority go before ours.
	routeTable   = 18280
	rulePriority = 18280
	// throughTUN goes before closedMetric, the last that IPv4 and IPv6 both have.
	throughTUN   = 1
	closedMetric = math.MaxInt32
)

var families = []struct {
	family int
	all    *net.IPNet
	text   string
}{
	{unix.AF_INET, &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, "IPv4"},
	{unix.AF_INET6, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, "IPv6"},
}

// OpenRoute closes the interfaces for what is routed, opens the TUN and leads
// traffic through it. It puts in place what is missing of an earlier run's, and
// takes rules away that are for interfaces no longer named. notes are for the
// log. An error names what is at fault and what to do; then nothing is routed
// between the interfaces.
func OpenRoute(r Route) (p *Port, notes []string, err error) {
	err = namespace.Run(r.NetNS, func() (err error) {
		p, notes, err = r.open()
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("route %s: %w", strings.Join(r.Interfaces, ", "), err)
	}
	return p, notes, nil
}

func (r Route) open() (*Port, []string, error) {
	mtu, notes, err := r.fit()
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(r.putChain(), r.close()); err != nil {
		return nil, nil, err
	}
	p, err := r.openTUN(mtu)
	if err != nil {
		return nil, nil, err
	}
	if err := r.lead(); err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	return p, notes, nil
}

// FitRoute says what stands in the way of OpenRoute, and changes nothing.
func FitRoute(r Route) (notes []string, err error) {
	err = namespace.Run(r.NetNS, func() (err error) {
		_, notes, err = r.fit()
		return err
	})
	return notes, errors.Join(err, Available())
}

// Available says what keeps this host from having TUN and TAP devices.
func Available() error {
	f, err := os.OpenFile(devicePath, os.O_RDWR, 0) // which makes none
	if err != nil {
		return fmt.Errorf("%w: modprobe tun, as root; in a container give it the device", err)
	}
	return f.Close()
}

const devicePath = "/dev/net/tun"

// RoutesLeft lists the interfaces, of the caller's network namespace, whose routed
// traffic is led to a TUN that is not there: none of it passes.
func RoutesLeft() (names []string, err error) {
	for _, f := range families {
		rules, err := ownRules(f.family)
		if err != nil {
			return nil, err
		}
		routes, err := netlink.RouteListFiltered(f.family, &netlink.Route{Table: routeTable}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Priority == throughTUN }) {
			continue
		}
		for name := range rules {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// HoldRoute puts back what somebody took away of an open route's rules, routes
// and nftables table; mended says that the table was not whole, so that the sides
// were open to other interfaces.
func HoldRoute(r Route) (mended bool, err error) {
	err = namespace.Run(r.NetNS, func() error {
		whole, err := r.chainIsWhole()
		if err == nil && !whole {
			mended, err = true, r.putChain()
		}
		return errors.Join(err, r.close(), r.lead())
	})
	return mended, err
}

// fit checks what the kernel must be set to. mtu is the largest of the interfaces'.
func (r Route) fit() (mtu int, notes []string, err error) {
	var faults []error
	for _, name := range r.Interfaces {
		link, err := netlink.LinkByName(name)
		switch {
		case errors.As(err, new(netlink.LinkNotFoundError)):
			faults = append(faults, fmt.Errorf("there is no interface %s: `ip link` lists them", name))
			continue
		case err != nil:
			return 0, nil, fmt.Errorf("%s: %w", name, err)
		case link.Attrs().RawFlags&unix.IFF_UP == 0:
			faults = append(faults, fmt.Errorf("%s is down: ip link set %s up", name, name))
		}
		mtu = max(mtu, link.Attrs().MTU)
		if sysctl("ipv4/conf", name, "forwarding") == "0" {
			notes = append(notes, fmt.Sprintf("IPv4 is not routed from %s: sysctl net.ipv4.conf.%s.forwarding is 0", name, name))
		}
	}
	four, six := sysctl("ipv4", "ip_forward"), sysctl("ipv6/conf/all/forwarding")
	switch {
	case four != "1" && six != "1":
		faults = append(faults, errors.New("this host routes nothing: sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1, or one of them"))
	case four != "1":
		notes = append(notes, "IPv4 is not routed: sysctl net.ipv4.ip_forward is 0")
	case six != "1":
		notes = append(notes, "IPv6 is not routed: sysctl net.ipv6.conf.all.forwarding is 0")
	}
	return mtu, notes, errors.Join(faults...)
}

// sysctl reads a setting of net; "" where there is none.
func sysctl(path ...string) string {
	text, _ := os.ReadFile(sysctlFile(path...)) // what is not there says nothing
	return strings.TrimSpace(string(text))
}

// sysctlFile: the folder shows the network namespace of the thread that opens it.
func sysctlFile(path ...string) string {
	return filepath.Join(append([]string{"/proc/sys/net"}, path...)...)
}

// close leads what is routed from the interfaces into the table, where it ends
// unless there is a TUN.
func (r Route) close() error {
	for _, f := range families {
		unreachable := &netlink.Route{Family: f.family, Dst: f.all, Table: routeTable, Priority: closedMetric, Type: unix.RTN_UNREACHABLE}
		if err := netlink.RouteReplace(unreachable); err != nil {
			if f.family == unix.AF_INET6 && sysctl("ipv6/conf/all/disable_ipv6") != "0" {
				continue
			}
			return fmt.Errorf("%s, the default route of table %d: %w", f.text, routeTable, err)
		}
		if err := r.putRules(f.family); err != nil {
			return fmt.Errorf("%s, rules of table %d: %w", f.text, routeTable, err)
		}
	}
	return nil
}

// putRules adds the rules that are missing and then deletes those that are not
// wanted.
func (r Route) putRules(family int) error {
	there, err := ownRules(family)
	if err != nil {
		return err
	}
	for _, name := range r.Interfaces {
		if _, ok := there[name]; ok {
			delete(there, name)
			continue
		}
		if err := netlink.RuleAdd(ruleFor(family, name)); err != nil {
			return fmt.Errorf("add that for %s: %w", name, err)
		}
	}
	var errs []error
	for _, rule := range there {
		errs = append(errs, netlink.RuleDel(&rule))
	}
	return errors.Join(errs...)
}

func ruleFor(family int, name string) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.IifName, rule.Table, rule.Priority = family, name, routeTable, rulePriority
	return rule
}

// ownRules finds our rules by interface.
func ownRules(family int) (map[string]netlink.Rule, error) {
	all, err := netlink.RuleList(family)
	if err != nil {
		return nil, err
	}
	out := make(map[string]netlink.Rule)
	for _, rule := range all {
		if rule.Table == routeTable && rule.Priority == rulePriority {
			rule.Family = family
			out[rule.IifName] = rule
		}
	}
	return out, nil
}

// putChain replaces the nftables table in one transaction.
func (r Route) putChain() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Name: r.Table, Family: nftables.TableFamilyINet}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	forward := c.AddChain(&nftables.Chain{
		Name: forwardChain, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, name := range r.Interfaces {
		for _, way := range [2][2]expr.MetaKey{{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME}, {expr.MetaKeyOIFNAME, expr.MetaKeyIIFNAME}} {
			c.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: []expr.Any{
				&expr.Meta{Key: way[0], Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: interfaceName(name)},
				&expr.Meta{Key: way[1], Register: 1},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: interfaceName(r.Device)},
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictDrop},
			}})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables, table inet %s: %w", r.Table, err)
	}
	return nil
}

const forwardChain = "forward"

// chainIsWhole reports whether the table is there with all its rules.
func (r Route) chainIsWhole() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name == r.Table && chain.Name == forwardChain {
			rules, err := c.GetRules(chain.Table, chain)
			return err == nil && len(rules) == 2*len(r.Interfaces), err
		}
	}
	return false, nil
}

// interfaceName is a name as nftables compares it.
func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func (r Route) openTUN(mtu int) (*Port, error) {
	device, err := water.New(water.Config{DeviceType: water.TUN, PlatformSpecificParams: water.PlatformSpecificParams{Name: r.Device}})
	if err != nil {
		return nil, fmt.Errorf("TUN %s: %w: another gateway may have it", r.Device, err)
	}
	frames := r.Frames
	if frames == 0 {
		frames = 4 * DefaultFrames
	}
	p, err := newPort(device, 0, mtu, frames)
	if err != nil {
		return nil, fmt.Errorf("TUN %s: %w", r.Device, err)
	}
	if err := r.setUp(mtu); err != nil {
		return nil, errors.Join(fmt.Errorf("TUN %s: %w", r.Device, err), p.Close())
	}
	return p, nil
}

// setUp makes the TUN one that the kernel routes from, whatever its addresses:
// loose reverse path filtering accepts there what came in by the interfaces, and
// of two settings the kernel takes the looser.
func (r Route) setUp(mtu int) error {
	link, err := netlink.LinkByName(r.Device)
	if err != nil {
		return err
	}
	for _, s := range [][2]string{
		{"ipv4/conf/" + r.Device + "/forwarding", "1"},
		{"ipv4/conf/" + r.Device + "/rp_filter", "2"},
		{"ipv6/conf/" + r.Device + "/addr_gen_mode", "1"}, // none: it would speak in the gateway's own name
		{"ipv6/conf/" + r.Device + "/accept_ra", "0"},
	} {
		err := os.WriteFile(sysctlFile(s[0]), []byte(s[1]), 0)
		if err != nil && !(errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s[0], "ipv6")) {
			return fmt.Errorf("sysctl: %w", err)
		}
	}
	return errors.Join(netlink.LinkSetMTU(link, mtu), netlink.LinkSetTxQLen(link, 4*DefaultFrames), netlink.LinkSetUp(link))
}

// lead makes the TUN the way.
func (r Route) lead() error {
	link, err := netlink.LinkByName(r.Device)
	if err != nil {
		return err
	}
	for _, f := range families {
		through := &netlink.Route{Family: f.family, Dst: f.all, Table: routeTable, Priority: throughTUN, LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}
		if f.family == unix.AF_INET6 {
			if sysctl("ipv6/conf/"+r.Device+"/disable_ipv6") != "0" {
				continue
			}
			through.Scope = netlink.SCOPE_UNIVERSE
		}
		if err := netlink.RouteReplace(through); err != nil {
			return fmt.Errorf("%s, route through %s: %w", f.text, r.Device, err)
		}
	}
	return nil
}

// RouteDrops is how many packets the TUN had no room for since it was opened: they came
// faster than they were read. 0 while there is none.
func RouteDrops(r Route) (n uint64, err error) {
	err = namespace.Run(r.NetNS, func() error {
		link, err := netlink.LinkByName(r.Device)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("counters of %s: %w", r.Device, err)
		}
		if s := link.Attrs().Statistics; s != nil {
			n = s.TxDropped
		}
		return nil
	})
	return n, err
}

// RemoveRoute takes rules, routes and the nftables table away: the kernel routes
// again as if nothing had been. found reports whether there was any of it.
func RemoveRoute(r Route) (found bool, err error) {
	err = namespace.Run(r.NetNS, func() error {
		var errs []error
		for _, f := range families {
			some, err := removeRouting(f.family)
			found, errs = found || some, append(errs, err)
		}
		some, err := r.removeChain()
		found = found || some
		return errors.Join(append(errs, err)...)
	})
	return found, err
}

func removeRouting(family int) (found bool, err error) {
	rules, err := ownRules(family)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, rule := range rules {
		errs = append(errs, netlink.RuleDel(&rule))
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: routeTable}, netlink.RT_FILTER_TABLE)
	errs = append(errs, err)
	for i := range routes {
		errs = append(errs, netlink.RouteDel(&routes[i]))
	}
	return len(rules)+len(routes) > 0, errors.Join(errs...)
}

func (r Route) removeChain() (found bool, err error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("nftables, list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == r.Table {
			found = true
			c.DelTable(t)
		}
	}
	if err := c.Flush(); err != nil {
		return found, fmt.Errorf("nftables, table inet %s: %w", r.Table, err)
	}
	return found, nil
}

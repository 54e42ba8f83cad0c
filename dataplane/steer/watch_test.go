package steer

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/policy"
)

// watch runs Watch until the test ends.
func (h *host) watch() <-chan struct{} {
	hints := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s := h.s
	go func() {
		defer close(done)
		if err := s.Watch(ctx, hints); !errors.Is(err, context.Canceled) {
			h.t.Errorf("watch: %v", err)
		}
	}()
	h.t.Cleanup(func() {
		cancel()
		<-done
	})
	return hints
}

// spaces are the namespaces that hold guarded networks.
func (h *host) spaces() []*Space {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	return slices.Collect(maps.Values(h.s.spaces))
}

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func (h *host) standingRules() int {
	h.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(h.ns.file.Fd())))
	must(h.t, err)
	table := &nftables.Table{Name: StandingTable(h.cfg.Prefix), Family: nftables.TableFamilyBridge}
	n := 0
	for _, ch := range standingChains {
		rules, err := c.GetRules(table, &nftables.Chain{Name: ch.name, Table: table})
		if err == nil {
			n += len(rules)
		}
	}
	return n
}

func TestFindVeth(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	path := func(c *container) string { return filepath.Join(h.cfg.NetNSDir, c.name) }

	// A double of b, on another bridge: the same MAC, the same indexes.
	other := anotherHost(t)
	double := other.run("double", 3)
	h.show(double.ns, "0-double")
	// A file that is no namespace.
	must(t, os.WriteFile(filepath.Join(h.cfg.NetNSDir, "1-empty"), nil, 0o600))

	for _, c := range []struct {
		name    string
		mac     policy.MAC
		sandbox string
		want    uint32 // 0 = none
	}{
		{"by MAC", a.mac, "", a.ifindex},
		{"by MAC, with a double elsewhere", b.mac, "", b.ifindex},
		{"by sandbox", b.mac, path(b), b.ifindex},
		{"in another's sandbox", b.mac, path(a), 0},
		{"in the double's sandbox", b.mac, double.ns.path, 0},
		{"nobody's MAC", policy.MAC{2, 1, 2, 3, 4, 5}, "", 0},
		{"the bridge's MAC", h.bridge, "", 0},
		{"no sandbox", b.mac, "/nonexistent", 0},
	} {
		v, err := h.s.FindVeth(testZone, c.mac, c.sandbox)
		if v.Ifindex != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: %+v, %v, want interface %d", c.name, v, err, c.want)
		}
	}
	if _, err := h.s.FindVeth(testZone+1, a.mac, ""); err == nil {
		t.Error("a zone that is not guarded has ports")
	}
	// Somebody takes the MAC of a container that is not admitted yet: which is
	// which, only the sandbox tells.
	thief := h.run("thief", 4)
	must(t, thief.ns.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, a.mac[:])
	}))
	if v, err := h.s.FindVeth(testZone, a.mac, ""); !errors.Is(err, ErrNoVeth) {
		t.Errorf("of two with one MAC: %+v, %v", v, err)
	}
	if v, err := h.s.FindVeth(testZone, a.mac, path(a)); err != nil || v.Ifindex != a.ifindex {
		t.Errorf("by sandbox, beside a thief: %+v, %v", v, err)
	}
	_, err := h.s.Admit(h.spec(thief))
	must(t, err)
	if v, err := h.s.FindVeth(testZone, a.mac, ""); err != nil || v.Ifindex != a.ifindex {
		t.Errorf("the thief's port is taken: %+v, %v", v, err)
	}
	must(t, h.ns.do(func() error {
		l, err := netlink.LinkByIndex(int(a.ifindex))
		if err != nil {
			return err
		}
		return netlink.LinkSetNoMaster(l)
	}))
	if v, err := h.s.FindVeth(testZone, a.mac, path(a)); !errors.Is(err, ErrNoVeth) {
		t.Errorf("after it left the bridge: %+v, %v", v, err)
	}
}

func TestAdmitRefuses(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a := h.run("a", 2)
	spec := h.spec(a)
	for name, f := range map[string]func(*Spec){
		"zone that is not guarded": func(s *Spec) { s.Zone++ },
		"no such interface":        func(s *Spec) { s.Ifindex = 9999 },
		"no port of the bridge":    func(s *Spec) { s.Ifindex = h.s.networks[testZone].bridge },
	} {
		s := spec
		f(&s)
		if _, err := h.s.Admit(s); err == nil {
			t.Errorf("%s: admitted", name)
		}
	}
	must(t, h.ns.do(func() error {
		l, err := netlink.LinkByIndex(int(a.ifindex))
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, MaxEndpointMTU+1)
	}))
	if _, err := h.s.Admit(spec); err == nil {
		t.Error("an endpoint whose frames cannot reach user space was admitted")
	}
	if err := h.s.Guard(Network{Zone: 1 << 16, Bridge: "br0", NetNS: h.ns.path}); err == nil {
		t.Error("a zone that does not fit was guarded")
	}
	if err := h.s.Guard(Network{Zone: 8, Bridge: "sttest0", NetNS: h.ns.path}); err == nil {
		t.Error("a veth was guarded as a bridge")
	}
}

// A new port meets the programs and a hint before anyone admits it.
func TestWatchMeetsNewPorts(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	hints := h.watch()
	a, b := h.run("a", 2), h.run("b", 3)
	<-hints
	bound := func(c *container) bool {
		v, err := h.s.FindVeth(testZone, c.mac, "")
		return err == nil && v.Ifindex == c.ifindex
	}
	eventually(t, "the container is found", func() bool { return bound(a) && bound(b) })
	eventually(t, "the programs are there", func() bool {
		hooks, err := h.s.pinnedHooks()
		return err == nil && len(hooks) == 5 // two each, and gh0's
	})
	// The programs alone hold it.
	must(t, h.s.defaults[h.ns.cookie].remove())
	before := h.counters().Drops.Of(policy.ReasonNotAdmitted)
	a.end.send(datagram(t, a, b, false, 1, 2, "x"))
	eventually(t, "the programs drop", func() bool { return h.counters().Drops.Of(policy.ReasonNotAdmitted) > before })

	must(t, a.ns.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	eventually(t, "the pins of a port that is gone are removed", func() bool {
		hooks, err := h.s.pinnedHooks()
		return err == nil && len(hooks) == 3
	})
}

// What others remove is put back, with the ports that were admitted.
func TestStandingDefaultIsMended(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b, c := h.run("a", 2), h.run("b", 3), h.run("c", 4)
	h.admit(a)
	h.admit(b)
	h.watch()
	whole := h.standingRules()
	if whole == 0 {
		t.Fatal("no standing default")
	}
	for name, remove := range map[string]func(*nftables.Conn){
		"flush ruleset": func(c *nftables.Conn) { c.FlushRuleset() },
		"a chain": func(n *nftables.Conn) {
			n.FlushChain(&nftables.Chain{Name: "input", Table: h.s.defaults[h.ns.cookie].table})
		},
	} {
		conn, err := nftables.New(nftables.WithNetNSFd(int(h.ns.file.Fd())))
		must(t, err)
		remove(conn)
		must(t, conn.Flush())
		eventually(t, name+": it is reported", func() bool { return len(h.s.Reports()) > 0 })
		if r := <-h.s.Reports(); r.Err != nil || r.NetNS != h.ns.path {
			t.Errorf("%s: reported %+v", name, r)
		}
		if n := h.standingRules(); n != whole {
			t.Errorf("%s: %d rules are back, of %d", name, n, whole)
		}
	}
	// arp goes without the flow map.
	h.arrives(a, b, "of a", padded(arp(t, a.mac, a.mac, 1, a.v4, b.v4), "of a"))
	h.quiet(c, b, a, "of c", padded(arp(t, c.mac, c.mac, 1, c.v4, b.v4), "of c"))
}

// Where the kernel cannot tell bridges apart, ports of others are let by as
// they come, and a network that opens is no longer held.
func TestOpenPortsAreLetBy(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	h.watch()
	a, b := h.run("a", 2), h.run("b", 3)
	must(t, h.ns.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br1"
		attrs.HardwareAddr = net.HardwareAddr{2, 0x42, 0xaa, 0, 0, 2}
		br := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(br); err != nil {
			return err
		}
		for _, c := range []*container{a, b} {
			l, err := netlink.LinkByIndex(int(c.ifindex))
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(l, br); err != nil {
				return err
			}
		}
		return nil
	}))
	d := h.s.defaults[h.ns.cookie]
	admitted := func(c *container) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.admitted[c.ifindex]
	}
	eventually(t, "ports of an unguarded bridge are let by", func() bool { return admitted(a) && admitted(b) })

	h.guard(false)
	if n := h.standingRules(); n != 0 {
		t.Errorf("%d rules are left where no network is closed", n)
	}
	c, e := h.run("c", 4), h.run("e", 5)
	h.arrives(c, e, "open", datagram(t, c, e, false, 1, 2, "open"))
}

// A namespace that the engine removed is let go: held open it would live on.
func TestNamespaceGone(t *testing.T) {
	h := newHost(t)
	inner := h.show(h.ns, "1-overlay")
	must(t, h.s.Guard(Network{Zone: testZone, Bridge: "br0", NetNS: inner, Closed: true}))
	a := h.run("a", 2)
	h.admit(a)
	h.watch()
	sp := h.spaces()[0]
	must(t, os.Remove(inner))
	<-sp.Gone()
	eventually(t, "nothing of it is left", func() bool {
		hooks, err := h.s.pinnedHooks()
		return err == nil && len(hooks) == 0 && len(h.s.Endpoints()) == 0 && len(h.spaces()) == 0
	})
	// It comes back under the same path.
	must(t, os.Symlink(h.ns.path, inner))
	must(t, h.s.Guard(Network{Zone: testZone, Bridge: "br0", NetNS: inner, Closed: true}))
	h.admit(a)
	if n := len(h.s.Endpoints()); n != 1 {
		t.Errorf("%d endpoints, want 1", n)
	}
}

// Without its slow path a closed network stays closed, and guarding it again
// mends it.
func TestPairRemoved(t *testing.T) {
	h, a, b := newPeers(t)
	h.watch()
	sp := h.spaces()[0]
	must(t, h.ns.do(func() error { return removePair(h.cfg.Prefix) }))
	<-sp.Gone()
	eventually(t, "it is reported", func() bool { return len(h.s.Reports()) > 0 })
	a.end.send(datagram(t, a, b, false, 1, 2, "no slow path"))
	h.guard(true)
	h.admit(a)
	h.admit(b)
	h.quiet(a, b, a, "no slow path")
	h.hairpin(func([]byte) bool { return true })
	h.arrives(a, b, "mended", datagram(t, a, b, false, 1, 2, "mended"))
}

// A host that forwards IPv6 listens for routers on whatever comes up, and reports it
// there: not on the slow path, where it would count as what that could not carry.
func TestSlowPathHearsNoHost(t *testing.T) {
	h := newHost(t)
	must(t, h.ns.do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0) }))
	h.guard(true)
	again := func(name string) {
		must(t, h.ns.do(func() error {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetUp(l))
		}))
	}
	again(h.cfg.Prefix + "1") // with the program attached
	time.Sleep(100 * time.Millisecond)
	c, err := h.s.Counters()
	if must(t, err); c.Drops.Of(policy.ReasonInternal) != 0 {
		t.Errorf("%d frames of the host on the slow path", c.Drops.Of(policy.ReasonInternal))
	}
}

// What a gateway left in namespaces that its successor does not guard goes too.
func TestUninstallAfterRestart(t *testing.T) {
	h := newHost(t)
	h.show(h.ns, "1-overlay")
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	must(t, h.s.Close())
	h.open()
	must(t, h.s.Uninstall())
	h.arrives(a, b, "free", datagram(t, a, b, false, 1, 2, "free"))
	if n := h.standingRules(); n != 0 {
		t.Errorf("%d rules are left", n)
	}
}

// TestFiltersArePutBack: attached by clsact, the programs can be taken off by
// anybody's tc; they come back, and it is said. In the end no clsact is left.
func TestFiltersArePutBack(t *testing.T) {
	h := newHost(t)
	h.s.cfg.Attach = AttachClsact
	h.guard(true)
	h.watch()
	a, b := h.run("a", 2), h.run("b", 3)
	h.admit(a)
	h.admit(b)
	h.quiet(a, b, a, "held", datagram(t, a, b, false, 1, 2, "held"))
	take := func(what func() error) { must(t, h.ns.do(what)) }
	in := hook{h.ns.cookie, a.ifindex, ebpf.AttachTCXIngress}
	for _, way := range []struct {
		name string
		take func() error
	}{
		{"filter", func() error { return netlink.FilterDel(h.s.filter(in)) }},
		{"clsact", func() error { return netlink.QdiscDel(clsact(a.ifindex)) }},
	} {
		take(way.take)
		eventually(t, way.name+" is back", func() (back bool) {
			take(func() error { back = h.s.hasFilter(in); return nil })
			return back
		})
		if r := <-h.s.Reports(); !strings.Contains(r.Text, "removed by others") || r.Err != nil {
			t.Errorf("%s: report %+v", way.name, r)
		}
	}
	h.quiet(a, b, a, "held again", datagram(t, a, b, false, 1, 2, "held again"))
	must(t, h.s.Uninstall())
	take(func() error {
		qdiscs, err := netlink.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(a.ifindex)}})
		for _, q := range qdiscs {
			if q.Type() == "clsact" {
				t.Error("clsact is left")
			}
		}
		return err
	})
}

// TestForeignFilterStays: a filter of somebody else at our place is not
// overwritten, and the error says what to do.
func TestForeignFilterStays(t *testing.T) {
	h := newHost(t)
	h.s.cfg.Attach = AttachClsact
	h.guard(true)
	a := h.run("a", 2)
	must(t, h.ns.do(func() error {
		if err := netlink.QdiscAdd(clsact(a.ifindex)); err != nil {
			return err
		}
		foreign := h.s.filter(hook{h.ns.cookie, a.ifindex, ebpf.AttachTCXIngress})
		foreign.Name, foreign.Fd = "somebody", h.s.networks[testZone].from.FD()
		return netlink.FilterAdd(foreign)
	}))
	_, err := h.s.Admit(h.spec(a))
	if err == nil || !strings.Contains(err.Error(), "somebody else has priority 1") {
		t.Errorf("admitted beside a foreign filter: %v", err)
	}
}

// TestChangeOfAttachment: a gateway that attaches the other way takes over, and
// leaves nothing of the first.
func TestChangeOfAttachment(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	for _, way := range []Attach{AttachClsact, AttachTCX, AttachClsact} {
		must(t, h.s.Close())
		h.cfg.Attach = way
		h.open()
		h.guard(true)
		h.admit(a)
		h.admit(b)
		h.quiet(a, b, a, "held by "+way.String(), datagram(t, a, b, false, 1, 2, "held by "+way.String()))
		pins, err := os.ReadDir(h.s.links)
		must(t, err)
		for _, p := range pins {
			if strings.HasSuffix(p.Name(), filterSuffix) != (way == AttachClsact) {
				t.Errorf("attached by %v: pin %s", way, p.Name())
			}
		}
	}
}

// TestUninstallLeavesOthers: of a gateway with other pins and devices in the same
// namespace nothing is taken away.
func TestUninstallLeavesOthers(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	h.show(h.ns, "host")
	rules := h.standingRules()
	cfg := h.cfg
	cfg.PinDir, cfg.Prefix = cfg.PinDir+"-other", "stother"
	other, err := Open(cfg)
	must(t, err)
	must(t, other.Uninstall())
	other.Close()
	if got := h.standingRules(); got != rules || rules == 0 {
		t.Errorf("%d of %d rules of the standing default are left", got, rules)
	}
	must(t, h.ns.do(func() error {
		_, err := netlink.LinkByName(h.cfg.Prefix + "0")
		return err
	}))
}

// TestSlowPathDrops: what the slow path's device has no room for is counted, and stays so
// when the device is gone.
func TestSlowPathDrops(t *testing.T) {
	h := newHost(t)
	must(t, h.s.Close())
	h.cfg.TAP = true
	h.open()
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	h.admit(a)
	h.admit(b)
	sp, err := h.s.Space(h.ns.path)
	must(t, err)
	must(t, h.ns.do(func() error { // somebody has it open, and does not read
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		req, err := unix.NewIfreq(sp.Kernel)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}))
	eventually(t, sp.Kernel+" is up", func() bool { return isUp(t, h.ns, sp.Kernel) })
	drops := func() uint64 {
		n, err := h.s.SlowPathDrops()
		must(t, err)
		return n
	}
	if n := drops(); n != 0 {
		t.Fatalf("%d before anything was sent", n)
	}
	const sent = 1500 // a TAP's queue holds a thousand
	frame := datagram(t, a, b, true, 1, 2, "x")
	for range sent {
		a.end.send(frame)
	}
	eventually(t, "all were steered", func() bool { return h.counters().Steered >= sent })
	n := drops()
	if n < sent-1000 || n > h.counters().Steered {
		t.Errorf("%d of %d counted", n, sent)
	}
	must(t, h.ns.do(func() error {
		l, err := netlink.LinkByName(sp.Kernel)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	if after := drops(); after < n {
		t.Errorf("%d, and %d once the device was gone", n, after)
	}
	h.s.pairGone(sp)
	if after := drops(); after < n {
		t.Errorf("%d, and %d once its namespace was given up", n, after)
	}
}

package steer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

// needKernel skips where the programs cannot run.
func needKernel(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: 46}) // BPF_TCX_INGRESS of lo
	if err != nil && !errors.Is(err, unix.ENODEV) {
		t.Skipf("missing capability: tcx (Linux 6.6): %v", err)
	}
}

// newNetNS makes a namespace that ends with the test.
func newNetNS(t *testing.T) *netns {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		t.Skipf("missing capability: network namespaces: %v", r.err)
	}
	t.Cleanup(func() { r.file.Close() })
	ns, err := openNetNS(fmt.Sprintf("/proc/self/fd/%d", r.file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.close() })
	must(t, ns.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	return ns
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a namespace with a bridge and containers on it, and a Steer.
type host struct {
	t          *testing.T
	ns         *netns
	bridge     policy.MAC
	cfg        Config
	s          *Steer
	containers map[string]*container
	probes     int
}

type container struct {
	name    string
	ns      *netns
	mac     policy.MAC
	v4, v6  netip.Addr
	ifindex uint32 // host end
	via     uint32 // the device that received what is run at this port, 0 = the host sent it
	end     *wire
	ep      dataplane.Endpoint
}

const testZone policy.Zone = 7

// newHost makes a test's host. Such tests run beside each other: they wait for
// the kernel most of the time.
func newHost(t *testing.T) *host {
	t.Helper()
	needKernel(t)
	t.Parallel()
	return anotherHost(t)
}

var hosts atomic.Int32

func anotherHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, ns: newNetNS(t), containers: make(map[string]*container)}
	must(t, h.ns.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		attrs.HardwareAddr = net.HardwareAddr{2, 0x42, 0xaa, 0, 0, 1}
		br := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		if err := netlink.AddrAdd(br, &netlink.Addr{IPNet: ipnet("172.30.9.1/24")}); err != nil {
			return err
		}
		if err := netlink.AddrAdd(br, &netlink.Addr{IPNet: ipnet("2001:db8:9::1/64"), Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	}))
	h.bridge = policy.MAC{2, 0x42, 0xaa, 0, 0, 1}
	h.cfg = Config{
		PinDir:      fmt.Sprintf("/sys/fs/bpf/sttest-%d-%d", os.Getpid(), hosts.Add(1)),
		NetNSDir:    t.TempDir(),
		Prefix:      "sttest",
		FlowEntries: 4096,
	}
	// The whole of this package's tests holds for both ways to attach.
	if way := os.Getenv("GATEHOUSE_TEST_ATTACH"); way != "" {
		var ok bool
		if h.cfg.Attach, ok = ParseAttach(way); !ok {
			t.Fatalf("GATEHOUSE_TEST_ATTACH: %q", way)
		}
	}
	h.open()
	t.Cleanup(func() {
		if err := h.s.Uninstall(); err != nil {
			t.Errorf("uninstall: %v", err)
		}
		h.s.Close()
	})
	return h
}

// newPeers is a host whose closed network has two admitted containers.
func newPeers(t *testing.T) (h *host, a, b *container) {
	t.Helper()
	h = newHost(t)
	h.guard(true)
	a, b = h.run("a", 2), h.run("b", 3)
	h.admit(a)
	h.admit(b)
	return h, a, b
}

func ipnet(s string) *net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	n.IP = ip
	return n
}

func (h *host) open() {
	h.t.Helper()
	s, err := Open(h.cfg)
	must(h.t, err)
	h.s = s
	must(h.t, s.SetEpoch(1))
	for q := range max(h.cfg.Queues, 1) {
		h.beat(q, time.Hour)
	}
}

// beat sets a worker's last beat to a moment before (or after) now.
func (h *host) beat(queue int, ahead time.Duration) {
	must(h.t, h.s.Beat(queue, int64(monotonic())+int64(ahead)))
}

func (h *host) guard(closed bool) {
	h.t.Helper()
	must(h.t, h.s.Guard(Network{Zone: testZone, Bridge: "br0", NetNS: h.ns.path, Closed: closed}))
}

// run adds a container n to the bridge; its addresses end with n.
func (h *host) run(name string, n byte) *container {
	h.t.Helper()
	c := &container{
		name: name,
		ns:   newNetNS(h.t),
		mac:  policy.MAC{2, 0x42, 172, 30, 9, n},
		v4:   netip.AddrFrom4([4]byte{172, 30, 9, n}),
		v6:   netip.MustParseAddr(fmt.Sprintf("2001:db8:9::%x", n)),
	}
	h.wire(c)
	h.containers[name] = c
	h.show(c.ns, name)
	return c
}

// show puts a namespace where the engine would. It is gone before the
// namespace is: its path names a descriptor, which is another's then.
func (h *host) show(ns *netns, name string) string {
	h.t.Helper()
	path := filepath.Join(h.cfg.NetNSDir, name)
	must(h.t, os.Symlink(ns.path, path))
	h.t.Cleanup(func() { os.Remove(path) })
	return path
}

func (h *host) wire(c *container) {
	h.t.Helper()
	outer := "veth" + c.name
	must(h.t, c.ns.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		attrs.HardwareAddr = c.mac[:]
		pair := netlink.NewVeth(attrs)
		pair.PeerName = outer
		pair.PeerNamespace = netlink.NsFd(h.ns.file.Fd())
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipnet(c.v4.String() + "/24")}); err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipnet(c.v6.String() + "/64"), Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	must(h.t, h.ns.do(func() error {
		l, err := netlink.LinkByName(outer)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		c.ifindex = uint32(l.Attrs().Index)
		if err := netlink.LinkSetMaster(l, br); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	// Until the kernel has seen the carrier it drops what is sent.
	eventually(h.t, c.name+"'s link is up", func() bool { return isUp(h.t, c.ns, "eth0") && isUp(h.t, h.ns, outer) })
	c.end = tap(h.t, c.ns, "eth0")
}

func isUp(t *testing.T, ns *netns, name string) (up bool) {
	must(t, ns.do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			up = l.Attrs().OperState == netlink.OperUp
		}
		return err
	}))
	return up
}

func (h *host) spec(c *container) Spec {
	return Spec{
		ID:      "endpoint-" + c.name,
		Zone:    testZone,
		Ifindex: c.ifindex,
		MAC:     c.mac,
		Addrs:   []netip.Addr{c.v4, c.v6},
		ICC:     true,
	}
}

func (h *host) admit(c *container, change ...func(*Spec)) {
	h.t.Helper()
	spec := h.spec(c)
	for _, f := range change {
		f(&spec)
	}
	ep, err := h.s.Admit(spec)
	must(h.t, err)
	c.ep = ep
}

// wire is a raw socket at an interface: what is sent leaves by it, what arrives
// is captured.
type wire struct {
	t  *testing.T
	fd int

	answer func(frame []byte) // nil = only captured

	mu     sync.Mutex
	frames [][]byte
}

func tap(t *testing.T, ns *netns, name string) *wire { return answering(t, ns, name, nil) }

func answering(t *testing.T, ns *netns, name string, answer func(w *wire, frame []byte)) *wire {
	t.Helper()
	w := &wire{t: t}
	if answer != nil {
		w.answer = func(frame []byte) { answer(w, frame) }
	}
	must(t, ns.do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: l.Attrs().Index}) // ETH_P_ALL, big-endian
	}))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		w.capture(stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		unix.Close(w.fd)
	})
	return w
}

func (w *wire) capture(stop <-chan struct{}) {
	buf, oob := make([]byte, 65536), make([]byte, 256)
	for {
		select {
		case <-stop:
			return
		default:
		}
		p := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(p, 20); n == 0 {
			continue
		}
		n, oobn, _, from, err := unix.Recvmsg(w.fd, buf, oob, unix.MSG_DONTWAIT)
		if err != nil {
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		frame := withTag(slices.Clone(buf[:n]), oob[:oobn])
		w.mu.Lock()
		w.frames = append(w.frames, frame)
		w.mu.Unlock()
		if w.answer != nil {
			w.answer(frame)
		}
	}
}

// withTag puts the VLAN tag back that the kernel took out of the frame.
func withTag(frame, oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return frame
	}
	for _, m := range messages {
		if m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, binary.NativeEndian.Uint16(m.Data[16:]))
		return slices.Insert(frame, 12, tag...)
	}
	return frame
}

func (w *wire) send(frame []byte) {
	w.t.Helper()
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{}); err != nil && !errors.Is(err, unix.ENOTCONN) {
		if _, err := unix.Write(w.fd, frame); err != nil {
			w.t.Fatalf("send: %v", err)
		}
	}
}

// hairpin stands in for the worker: what it lets pass goes back unchanged.
func (h *host) hairpin(pass func(frame []byte) bool) *wire {
	h.t.Helper()
	sp, err := h.s.Space(h.ns.path)
	must(h.t, err)
	return answering(h.t, h.ns, sp.User, func(w *wire, frame []byte) {
		if pass(frame) {
			w.send(frame)
		}
	})
}

// got is how many captured frames hold mark.
func (w *wire) got(mark string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, f := range w.frames {
		if bytes.Contains(f, []byte(mark)) {
			n++
		}
	}
	return n
}

// gotFrom is how many of them mac sent: a port unreachable quotes the mark.
func (w *wire) gotFrom(mac policy.MAC, mark string) int { return len(w.from(mac, mark)) }

// last is the last frame that holds mark and mac sent, nil if there is none.
func (w *wire) last(mac policy.MAC, mark string) []byte {
	frames := w.from(mac, mark)
	if len(frames) == 0 {
		return nil
	}
	return frames[len(frames)-1]
}

func (w *wire) from(mac policy.MAC, mark string) (frames [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.frames {
		if bytes.Contains(f, []byte(mark)) && bytes.Equal(f[6:12], mac[:]) {
			frames = append(frames, f)
		}
	}
	return frames
}

// wait waits for a captured frame that holds mark.
func (w *wire) wait(mark string) bool {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if w.got(mark) > 0 {
			return true
		}
		time.Sleep(2 * time.Millisecond)
	}
	return false
}

// quiet fails if one of the frames that from sends arrives at to. The frame that
// witness sends after them does: what had not arrived before it never will.
func (h *host) quiet(from, to, witness *container, mark string, frames ...[]byte) {
	h.t.Helper()
	h.probes++
	last := fmt.Sprintf("probe %d", h.probes)
	before := to.end.got(mark)
	for _, f := range frames {
		from.end.send(f)
	}
	witness.end.send(padded(arp(h.t, witness.mac, witness.mac, 1, witness.v4, to.v4), last))
	if !to.end.wait(last) {
		h.t.Fatalf("%s: the probe sent after it did not arrive either: %+v", mark, h.counters())
	}
	if n := to.end.got(mark) - before; n != 0 {
		h.t.Errorf("%s: %d frames arrived", mark, n)
	}
}

// padded is an ARP frame with mark in the padding that Ethernet asks for; more
// would not pass.
func padded(frame []byte, mark string) []byte {
	b := slices.Clone(frame)
	copy(b[42:], mark)
	return b
}

// arrives fails if the frame that from sends does not arrive at to.
func (h *host) arrives(from, to *container, mark string, frame []byte) {
	h.t.Helper()
	from.end.send(frame)
	if !to.end.wait(mark) {
		h.t.Errorf("%s did not arrive: %+v", mark, h.counters())
	}
}

// build makes a frame of these layers with lengths and checksums.
func build(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	for _, x := range l {
		if n, ok := x.(gopacket.NetworkLayer); ok {
			network = n
		}
		if c, ok := x.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			c.SetNetworkLayerForChecksum(network)
		}
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...)
	if err != nil {
		t.Fatal(err)
	}
	frame := buf.Bytes()
	if len(frame) < 60 {
		frame = append(frame, make([]byte, 60-len(frame))...)
	}
	return frame
}

func eth(src, dst policy.MAC, typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: src[:], DstMAC: dst[:], EthernetType: typ}
}

func ip4(src, dst netip.Addr, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

func ip6(src, dst netip.Addr, proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

// datagram is a UDP packet of a family between two containers.
func datagram(t testing.TB, from, to *container, v6 bool, sport, dport uint16, payload string) []byte {
	udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	if v6 {
		ip := ip6(from.v6, to.v6, layers.IPProtocolUDP)
		return build(t, eth(from.mac, to.mac, layers.EthernetTypeIPv6), ip, udp, gopacket.Payload(payload))
	}
	ip := ip4(from.v4, to.v4, layers.IPProtocolUDP)
	return build(t, eth(from.mac, to.mac, layers.EthernetTypeIPv4), ip, udp, gopacket.Payload(payload))
}

// flowEntry is an allow entry of the flow that from opened to to.
func flowEntry(from, to *container, v6 bool, proto policy.Proto, sport, dport uint16) dataplane.FlowEntry {
	src, dst := from.v4.As16(), to.v4.As16()
	if v6 {
		src, dst = from.v6.As16(), to.v6.As16()
	}
	e := dataplane.FlowEntry{
		Key:     classify.FlowKey{AddrA: src, AddrB: dst, PortA: sport, PortB: dport, Zone: uint16(testZone), Proto: proto},
		Epoch:   1,
		Ifindex: [2]uint32{from.ifindex, to.ifindex},
		MAC:     [2]policy.MAC{from.mac, to.mac},
		Verdict: policy.Allow,
		Peer:    true,
	}
	if c := bytes.Compare(src[:], dst[:]); c > 0 || c == 0 && sport > dport {
		k := &e.Key
		k.AddrA, k.AddrB, k.PortA, k.PortB = dst, src, dport, sport
		e.Ifindex = [2]uint32{to.ifindex, from.ifindex}
		e.MAC = [2]policy.MAC{to.mac, from.mac}
		e.Initiator = 1
	}
	return e
}

func (h *host) counters() Counters {
	h.t.Helper()
	c, err := h.s.Counters()
	must(h.t, err)
	return c
}

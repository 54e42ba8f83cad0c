package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// site is two hosts in namespaces of their own, and the gateway between them
// in a third. Only its statements file says what may pass.
type site struct {
	t           *testing.T
	mid         string // namespaces, by name
	left, right host
	flag        string // --pair or --route
	uplink      string // the gateway's interface towards right
	gateway     *process
	binary      string
	statements  string // the file
}

// host is one of the two, behind eth0 of its namespace.
type host struct {
	name   string
	v4, v6 netip.Addr
}

func (h host) path() string { return "/var/run/netns/" + h.name }

func (h host) addr(v6 bool) netip.Addr {
	if v6 {
		return h.v6
	}
	return h.v4
}

var (
	placeBinary string
	placeErr    error
	placeOnce   sync.Once
)

// newSite lays the cables. Addresses are with the length of their prefix.
func newSite(t *testing.T, flag string, mtu int, left, right [2]string) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("short")
	}
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	placeOnce.Do(func() {
		var dir string
		if dir, placeErr = os.MkdirTemp("", "ghe-place"); placeErr != nil {
			return
		}
		rigClean = append(rigClean, func() { os.RemoveAll(dir) })
		placeBinary = filepath.Join(dir, "gatehouse")
		_, placeErr = command("go", "build", "-o", placeBinary, ".")
	})
	if placeErr != nil {
		t.Fatal(placeErr)
	}
	x := &site{t: t, flag: flag, uplink: "eth2", binary: placeBinary}
	prefix := fmt.Sprintf("ghx-%d-%d-", os.Getpid(), time.Now().UnixNano()%1e6)
	x.mid, x.left.name, x.right.name = prefix+"mid", prefix+"left", prefix+"right"
	for _, ns := range []string{x.mid, x.left.name, x.right.name} {
		mustRun(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		x.ip(ns, "link set lo up")
	}
	x.lay(&x.left, "eth1", mtu, left)
	x.lay(&x.right, "eth2", mtu, right)
	return x
}

func (x *site) lay(h *host, uplink string, mtu int, addrs [2]string) {
	x.t.Helper()
	x.ip(x.mid, fmt.Sprintf("link add %s mtu %d type veth peer name eth0 netns %s mtu %d", uplink, mtu, h.name, mtu))
	for i, a := range addrs {
		p := netip.MustParsePrefix(a)
		if i == 0 {
			h.v4 = p.Addr()
		} else {
			h.v6 = p.Addr()
		}
		x.ip(h.name, "addr add "+a+" dev eth0"+[2]string{"", " nodad"}[i])
	}
	x.ip(h.name, "link set eth0 up")
	// A veth leaves checksums and tags to a card that is not there.
	mustRun(x.t, "ip", "netns", "exec", h.name, "ethtool", "-K", "eth0", "tx", "off", "txvlan", "off")
	x.ip(x.mid, "link set "+uplink+" up")
}

func (x *site) ip(ns, line string) {
	x.t.Helper()
	mustRun(x.t, "ip", append([]string{"-n", ns}, strings.Fields(line)...)...)
}

// start runs the gateway in its namespace, with the statement that left may
// speak HTTP to right's port 80, anything on UDP 5000, and nothing else passes.
func (x *site) start(args ...string) {
	x.t.Helper()
	dir := x.t.TempDir()
	script := filepath.Join(dir, "gatehouse")
	text := fmt.Sprintf("#!/bin/sh\nexec ip netns exec %s %s \"$@\"\n", x.mid, x.binary)
	x.statements = filepath.Join(dir, "statements.yaml")
	statements := fmt.Sprintf(`schema: gatehouse.statements/v1
statements:
  - {id: web, verdict: allow, from: [{cidr: %s/32}, {cidr: "%s/128"}], to: [{cidr: %s/32}, {cidr: "%s/128"}], app: [http], ports: [tcp/80], why: test}
  - {id: any, verdict: allow, from: [{cidr: %[1]s/32}, {cidr: "%[2]s/128"}], to: [{cidr: %[3]s/32}, {cidr: "%[4]s/128"}], app: [any], ports: [udp/5000], why: test}
`, x.left.v4, x.left.v6, x.right.v4, x.right.v6)
	if err := errors.Join(os.WriteFile(script, []byte(text), 0o700), os.WriteFile(x.statements, []byte(statements), 0o600)); err != nil {
		x.t.Fatal(err)
	}
	p := newProcess(x.t, &rig{binary: script}, append([]string{x.flag, "eth1,eth2", "--statements", x.statements}, args...)...)
	x.gateway = p
	x.t.Cleanup(func() {
		if p.child.cmd != nil {
			if err := p.stop(); err != nil {
				x.t.Errorf("stop: %v\n%s", err, p.log())
			}
		}
	})
	p.start()
}

// uninstall returns what it said.
func (x *site) uninstall() string {
	x.t.Helper()
	return mustRun(x.t, "ip", "netns", "exec", x.mid, x.binary, "uninstall", x.flag, "eth1,eth2",
		"--config", x.gateway.file("absent.yaml"), "--socket", x.gateway.socket(), "--devices", livePrefix)
}

const bulk = 2 << 20

// serve answers HTTP requests on a port of h with bulk bytes, and with the
// digest of what it was sent.
func (x *site) serve(h host, port int) {
	x.t.Helper()
	content := make([]byte, bulk)
	_, _ = rand.Read(content)
	sum := sha256.Sum256(content)
	l := listen(x.t, h.path(), "tcp", fmt.Sprintf(":%d", port))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := sha256.New()
		_, _ = io.Copy(sent, r.Body)
		w.Header().Set("Sent", fmt.Sprintf("%x", sent.Sum(nil)))
		w.Header().Set("Sum", fmt.Sprintf("%x", sum))
		_, _ = w.Write(content)
	})}
	go func() { _ = srv.Serve(l) }()
	x.t.Cleanup(func() { srv.Close() })
}

// fetch posts bulk bytes to a server of serve and gets as many; both must be
// whole.
func (x *site) fetch(from, to host, v6 bool, port int, patience time.Duration) error {
	content := make([]byte, bulk)
	_, _ = rand.Read(content)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
		return dial(from.path(), network, address, patience)
	}}}
	answer, err := client.Post("http://"+netip.AddrPortFrom(to.addr(v6), uint16(port)).String()+"/", "application/octet-stream", bytes.NewReader(content))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got := sha256.New()
	if n, err := io.Copy(got, answer.Body); err != nil || n != bulk {
		return fmt.Errorf("%d bytes came: %w", n, err)
	}
	if want := answer.Header.Get("Sum"); fmt.Sprintf("%x", got.Sum(nil)) != want {
		return errors.New("other bytes came than were sent")
	}
	if fmt.Sprintf("%x", sha256.Sum256(content)) != answer.Header.Get("Sent") {
		return errors.New("other bytes arrived than were sent")
	}
	return nil
}

// passes fails unless HTTP goes through in both families.
func (x *site) passes(when string) {
	x.t.Helper()
	for _, v6 := range []bool{false, true} {
		if err := x.fetch(x.left, x.right, v6, 80, livePatience); err != nil {
			x.t.Fatalf("%s, IPv6 %v: %v\n%s\n%+v", when, v6, err, x.gateway.log(), x.gateway.status())
		}
	}
}

// isClosed fails if anything that left sends arrives at right.
func (x *site) isClosed(when string) {
	x.t.Helper()
	w := x.watch(x.right, func(f seen) bool { return f.packet.NetworkLayer() != nil })
	for _, v6 := range []bool{false, true} {
		if conn, err := dial(x.left.path(), "tcp", netip.AddrPortFrom(x.right.addr(v6), 80).String(), 300*time.Millisecond); err == nil {
			conn.Close()
			x.t.Errorf("%s, IPv6 %v: connected", when, v6)
		}
	}
	w.none(when)
}

// watch sees what reaches h from the other host.
func (x *site) watch(h host, fits func(seen) bool) *witness {
	other := x.left
	if h == x.left {
		other = x.right
	}
	return watch(x.t, h.path(), func(f seen) bool {
		src, _ := f.ends()
		return (src == other.v4 || src == other.v6) && fits(f)
	})
}

// crossing is what holds at every place.
func (x *site) crossing() {
	x.serve(x.right, 80)
	x.serve(x.right, 81)
	x.serve(x.left, 80)
	x.passes("at first")

	for _, v6 := range []bool{false, true} {
		x.forbidden(v6)
		x.otherApplication(v6)
		x.datagrams(v6)
	}

	x.gateway.kill()
	x.isClosed("after kill -9")
	x.gateway.start()
	x.passes("after a restart")
	if err := x.gateway.stop(); err != nil {
		x.t.Errorf("stop: %v", err)
	}
	x.isClosed("after a stop")
	x.gateway.start()
	x.passes("after another start")
}

// forbidden: another port, and the allowed port by the other side, do not
// arrive.
func (x *site) forbidden(v6 bool) {
	x.t.Helper()
	syn := func(f seen) bool { return f.tcp() != nil && f.tcp().SYN && !f.tcp().ACK }
	right := x.watch(x.right, syn)
	left := x.watch(x.left, syn)
	if err := x.fetch(x.left, x.right, v6, 81, 300*time.Millisecond); err == nil {
		x.t.Errorf("IPv6 %v: a port that no statement names was reached", v6)
	}
	if err := x.fetch(x.right, x.left, v6, 80, 300*time.Millisecond); err == nil {
		x.t.Errorf("IPv6 %v: the other side began", v6)
	}
	right.none("a port that no statement names")
	left.none("a connection that the other side began")
	x.gateway.violation("a record of it", func(v ViolationView) bool {
		return v.Dest == netip.AddrPortFrom(x.right.addr(v6), 81).String() && v.Verdict == "dropped" && v.Reason == "no-rule"
	})
}

// otherApplication: what is no HTTP does not arrive on its port.
func (x *site) otherApplication(v6 bool) {
	x.t.Helper()
	const hello = "SSH-2.0-OpenSSH_9.2\r\n"
	w := x.watch(x.right, func(f seen) bool { return bytes.Contains(f.packet.Data(), []byte("SSH-2.0")) })
	conn, err := dial(x.left.path(), "tcp", netip.AddrPortFrom(x.right.addr(v6), 80).String(), livePatience)
	if err != nil {
		x.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, hello); err != nil {
		x.t.Fatal(err)
	}
	x.gateway.violation("SSH on the port of HTTP", func(v ViolationView) bool {
		return v.App == "ssh" && strings.HasPrefix(v.Dest, netip.AddrPortFrom(x.right.addr(v6), 80).String()) && v.Reason == "app"
	})
	w.none("SSH on the port of HTTP")
}

// datagrams: the first packets of a flow keep their order, and what is too long
// for a packet arrives whole.
func (x *site) datagrams(v6 bool) {
	x.t.Helper()
	var server net.PacketConn
	if err := inside(x.right.path(), func() (err error) {
		server, err = net.ListenPacket("udp", netip.AddrPortFrom(x.right.addr(v6), 5000).String())
		return err
	}); err != nil {
		x.t.Fatal(err)
	}
	defer server.Close()
	conn, err := dial(x.left.path(), "udp", netip.AddrPortFrom(x.right.addr(v6), 5000).String(), livePatience)
	if err != nil {
		x.t.Fatal(err)
	}
	defer conn.Close()
	if err := sayWhole(conn, server, []byte("so that neighbours know each other")); err != nil {
		x.t.Fatal(err)
	}
	fresh, err := dial(x.left.path(), "udp", netip.AddrPortFrom(x.right.addr(v6), 5000).String(), livePatience)
	if err != nil {
		x.t.Fatal(err)
	}
	defer fresh.Close()
	const burst = 100
	for i := range burst {
		if _, err := fresh.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
			x.t.Fatal(err)
		}
	}
	buf := make([]byte, 64<<10)
	_ = server.SetReadDeadline(time.Now().Add(livePatience))
	for i := range burst {
		n, _, err := server.ReadFrom(buf)
		if err != nil || n != 4 || binary.BigEndian.Uint32(buf) != uint32(i) {
			x.t.Fatalf("IPv6 %v: datagram %d: %d bytes, %x, %v", v6, i, n, buf[:min(n, 4)], err)
		}
	}
	long := make([]byte, 8000)
	_, _ = rand.Read(long)
	if err := sayWhole(conn, server, long); err != nil {
		x.t.Fatalf("IPv6 %v: in fragments: %v\n%v", v6, err, x.gateway.status().Drops)
	}
}

// sayWhole sends a datagram and gets it back.
func sayWhole(conn net.Conn, server net.PacketConn, data []byte) error {
	_ = conn.SetDeadline(time.Now().Add(livePatience))
	_ = server.SetDeadline(time.Now().Add(livePatience))
	if _, err := conn.Write(data); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	n, from, err := server.ReadFrom(buf)
	if err != nil {
		return err
	}
	if _, err := server.WriteTo(buf[:n], from); err != nil {
		return err
	}
	n, err = conn.Read(buf)
	if err == nil && !bytes.Equal(buf[:n], data) {
		err = errors.New("other bytes came back")
	}
	return err
}

func newPairSite(t *testing.T, mtu int) *site {
	return newSite(t, "--pair", mtu, [2]string{"198.51.100.1/24", "2001:db8::1/64"}, [2]string{"198.51.100.2/24", "2001:db8::2/64"})
}

func TestPair(t *testing.T) {
	for _, mtu := range []int{1500, 3400} {
		t.Run(fmt.Sprint("MTU ", mtu), func(t *testing.T) {
			x := newPairSite(t, mtu)
			x.start()
			if log := x.gateway.log(); !strings.Contains(log, "every packet goes through user space") {
				t.Errorf("the log does not say why the kernel carries nothing:\n%s", log)
			}
			x.crossing()
			if n := x.gateway.status().Packets["decided"]; n != 0 {
				t.Errorf("%d packets were sent to where nothing takes them from XDP", n)
			}
		})
	}
}

// Interfaces go down, vanish and come back: closed meanwhile, and said.
func TestPairLosesAnInterface(t *testing.T) {
	x := newPairSite(t, 1500)
	x.start()
	x.serve(x.right, 80)
	x.passes("at first")
	for _, c := range []struct {
		what string
		do   func()
		undo func()
		says string
	}{
		{"down", func() { x.ip(x.mid, "link set eth2 down") }, func() { x.ip(x.mid, "link set eth2 up") }, "eth2 is down"},
		{"without its program", func() { x.ip(x.mid, "link set eth2 xdp off") }, func() {}, ""},
		{"gone", func() { x.ip(x.mid, "link del eth2") }, func() {
			x.lay(&x.right, "eth2", 1500, [2]string{"198.51.100.2/24", "2001:db8::2/64"})
			x.ip(x.left.name, "neigh flush dev eth0") // another card, another MAC
		}, "no interface eth2"},
	} {
		t.Run(c.what, func(t *testing.T) {
			c.do()
			x.gateway.as(t).eventually("the loss is told", func() bool {
				_, _ = dial(x.left.path(), "tcp", netip.AddrPortFrom(x.right.v4, 80).String(), 50*time.Millisecond)
				s := x.gateway.status()
				if c.says == "" { // mended at once
					return strings.Contains(x.gateway.log(), "took the XDP program off eth2")
				}
				return !s.Ready && strings.Contains(strings.Join(s.Problems, " "), c.says)
			}, x.gateway.log)
			c.undo()
			x.gateway.as(t).waitReady()
			x.passes("when it is back")
		})
	}
}

// What a bump in the wire has no business to carry does not arrive, and is
// counted by name.
func TestPairRawFrames(t *testing.T) {
	x := newPairSite(t, 1500)
	x.start()
	x.serve(x.right, 80)
	x.passes("at first")
	own, to := x.leg(x.left), x.leg(x.right)
	udp := func(port uint16) *layers.UDP { return &layers.UDP{SrcPort: forgedPort, DstPort: layers.UDPPort(port)} }
	good := frameOf(t, own, to, udp(5000), "fine")
	tagged := append(append(bytes.Clone(good[:12]), 0x81, 0, 0, 5), good[12:]...)
	other := append(bytes.Clone(good[:12]), append([]byte{0x88, 0xb5}, good[14:]...)...)
	broadcast := bytes.Clone(good)
	copy(broadcast, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	arp := append(append(bytes.Clone(good[:12]), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1), own.mac...)
	arp = append(append(append(arp, own.v4.AsSlice()...), make([]byte, 6)...), to.v4.AsSlice()...)
	longARP := append(bytes.Clone(arp), make([]byte, 60)...)
	copy(longARP[len(arp):], leakMark)
	icmp6 := func(kind uint8, dst netip.Addr, body ...byte) []byte {
		l4 := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
		return craft(t, ether(own.mac, to.mac, layers.EthernetTypeIPv6), ipv6(own.v6, dst, l4), l4, gopacket.Payload(body))
	}
	advert := icmp6(layers.ICMPv6TypeRouterAdvertisement, to.v6, append(make([]byte, 12), leakMark...)...)
	redirect := icmp6(layers.ICMPv6TypeRedirect, to.v6, append(make([]byte, 36), leakMark...)...)
	solicit := icmp6(layers.ICMPv6TypeNeighborSolicitation, to.v6, append(append(make([]byte, 4), to.v6.AsSlice()...), append([]byte{1, 1}, own.mac...)...)...)
	longSolicit := icmp6(layers.ICMPv6TypeNeighborSolicitation, to.v6, append(append(make([]byte, 4), to.v6.AsSlice()...), append([]byte{1, 2, 0, 0, 0, 0, 0, 0}, leakMark...)...)...)
	truncated := frameOf(t, own, to, udp(5000), strings.Repeat(leakMark, 10)) // longer than any padding
	truncated = truncated[:len(truncated)-4]
	send := rawSocket(t, x.left)
	for _, c := range []struct {
		name, reason string // no reason: it passes
		frame        []byte
	}{
		{"UDP that policy allows", "", good},
		{"ARP", "", arp},
		{"neighbour solicitation", "", solicit},
		{"VLAN tag", "vlan", tagged},
		{"other EtherType", "ethertype", other},
		{"broadcast MAC, unicast address", "destination-mac", broadcast},
		{"ARP with data behind it", "arp-sender", longARP},
		{"router advertisement", "router-advertisement", advert},
		{"redirect", "router-advertisement", redirect},
		{"neighbour solicitation with a long option", "nd-sender", longSolicit},
		{"cut short", "truncated", truncated},
		{"forbidden port", "no-rule", frameOf(t, own, to, udp(5001), leakMark)},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := watch(t, x.right.path(), func(f seen) bool { return bytes.HasPrefix(f.packet.Data(), c.frame) || f.tagged })
			before := x.gateway.status().Drops
			send(c.frame)
			if c.reason == "" {
				eventually(t, "it arrives", func() bool { return w.count() > 0 }, func() string { return fmt.Sprint(x.gateway.status().Drops) })
				w.close()
				return
			}
			x.gateway.as(t).eventually("a count of "+c.reason, func() bool {
				return x.gateway.status().Drops[c.reason] > before[c.reason]
			}, func() string { return fmt.Sprintf("before %v\nnow    %v", before, x.gateway.status().Drops) })
			w.none(c.name)
		})
	}
}

// leg is a host as its frames tell.
func (x *site) leg(h host) leg {
	x.t.Helper()
	l := leg{v4: h.v4, v6: h.v6}
	if err := inside(h.path(), func() error {
		i, err := net.InterfaceByName("eth0")
		if err == nil {
			l.mac = i.HardwareAddr
		}
		return err
	}); err != nil {
		x.t.Fatal(err)
	}
	return l
}

// rawSocket sends frames from a host's eth0.
func rawSocket(t *testing.T, h host) func([]byte) {
	t.Helper()
	var fd int
	if err := inside(h.path(), func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: i.Index})
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) {
		t.Helper()
		if _, err := unix.Write(fd, frame); err != nil {
			t.Fatal(err)
		}
	}
}

// Bad interfaces are refused by name, with what to do; what others put there
// stays.
func TestPairRefuses(t *testing.T) {
	x := newPairSite(t, 1500)
	run := func(t *testing.T, want ...string) {
		t.Helper()
		dir := t.TempDir()
		out, err := exec.Command("ip", "netns", "exec", x.mid, x.binary, "run", "--pair", "eth1,eth2", "--socket", filepath.Join(dir, "s"), "--state", dir, "--metrics", "").CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != exitReach {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, w := range want {
			if !strings.Contains(string(out), w) {
				t.Errorf("%s\nwant it to say %q", out, w)
			}
		}
	}
	t.Run("MTU", func(t *testing.T) {
		x.ip(x.mid, "link set eth2 mtu 1400")
		defer x.ip(x.mid, "link set eth2 mtu 1500")
		run(t, "eth1 has an MTU of 1500, eth2 of 1400", "ip link set eth2 mtu 1500")
	})
	t.Run("large MTU", func(t *testing.T) {
		for _, eth := range []string{"eth1", "eth2"} {
			x.ip(x.mid, "link set "+eth+" mtu 9000")
			defer x.ip(x.mid, "link set "+eth+" mtu 1500")
		}
		run(t, "eth1 and eth2: MTU 9000 is too large for one frame: at most 3822: ip link set DEVICE mtu 3822")
	})
	t.Run("down", func(t *testing.T) {
		x.ip(x.mid, "link set eth2 down")
		defer x.ip(x.mid, "link set eth2 up")
		run(t, "eth2 is down: ip link set eth2 up")
	})
	t.Run("port of a bridge", func(t *testing.T) {
		x.ip(x.mid, "link add br0 type bridge")
		x.ip(x.mid, "link set eth1 master br0")
		defer x.ip(x.mid, "link del br0")
		run(t, "eth1 is a port of", "ip link set eth1 nomaster")
	})
	t.Run("another's XDP program", func(t *testing.T) {
		attachXDP(t, x, "eth1")
		run(t, "eth1 has an XDP program of somebody else's", `"others"`, "ip link set eth1 xdp off")
		if out := mustRun(t, "ip", "-n", x.mid, "link", "show", "eth1"); !strings.Contains(out, "prog/xdp") {
			t.Errorf("it is gone:\n%s", out)
		}
		x.ip(x.mid, "link set eth1 xdp off")
	})
	t.Run("missing", func(t *testing.T) {
		x.ip(x.mid, "link set eth1 down")
		x.ip(x.mid, "link set eth1 name lan1")
		defer x.ip(x.mid, "link set eth1 up")
		defer x.ip(x.mid, "link set lan1 name eth1")
		run(t, "there is no interface eth1")
	})
}

// attachXDP attaches a program that is not the gateway's.
func attachXDP(t *testing.T, x *site, name string) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "others", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if err := inside("/var/run/netns/"+x.mid, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFdWithFlags(link, program.FD(), unix.XDP_FLAGS_DRV_MODE)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestPairUninstall(t *testing.T) {
	x := newPairSite(t, 1500)
	x.start()
	xdp := func() string { return mustRun(t, "ip", "-n", x.mid, "link", "show") }
	if err := x.gateway.stop(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(xdp(), "prog/xdp"); got != 2 {
		t.Errorf("%d XDP programs after a stop, want 2:\n%s", got, xdp())
	}
	if text := x.uninstall(); !strings.Contains(text, "pair eth1, eth2: removed") {
		t.Error(text)
	}
	if text := x.uninstall(); !strings.Contains(text, "nothing of a gateway is there") { // once more changes nothing
		t.Error(text)
	}
	if got := strings.Count(xdp(), "prog/xdp"); got != 0 {
		t.Errorf("XDP programs are left:\n%s", xdp())
	}
}

func newRouteSite(t *testing.T, mtu int) *site {
	x := newSite(t, "--route", mtu, [2]string{"198.51.100.2/24", "2001:db8:1::2/64"}, [2]string{"203.0.113.2/24", "2001:db8:2::2/64"})
	x.ip(x.mid, "addr add 198.51.100.1/24 dev eth1")
	x.ip(x.mid, "addr add 2001:db8:1::1/64 dev eth1 nodad")
	x.ip(x.mid, "addr add 203.0.113.1/24 dev eth2")
	x.ip(x.mid, "addr add 2001:db8:2::1/64 dev eth2 nodad")
	mustRun(t, "ip", "netns", "exec", x.mid, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=1")
	for _, h := range []struct{ ns, v4, v6 string }{{x.left.name, "198.51.100.1", "2001:db8:1::1"}, {x.right.name, "203.0.113.1", "2001:db8:2::1"}} {
		x.ip(h.ns, "route add default via "+h.v4)
		x.ip(h.ns, "-6 route add default via "+h.v6)
	}
	return x
}

func TestRoute(t *testing.T) {
	x := newRouteSite(t, 1500)
	before := x.routing()
	x.start()
	x.crossing()
	if err := x.gateway.stop(); err != nil {
		t.Fatal(err)
	}
	if text := x.uninstall(); !strings.Contains(text, "route eth1, eth2: removed") {
		t.Error(text)
	}
	if text := x.uninstall(); !strings.Contains(text, "nothing of a gateway is there") { // once more changes nothing
		t.Error(text)
	}
	if now := x.routing(); now != before {
		t.Errorf("routing before\n%s\nand after\n%s", before, now)
	}
	for _, v6 := range []bool{false, true} {
		if err := x.fetch(x.left, x.right, v6, 81, livePatience); err != nil {
			t.Errorf("IPv6 %v: routed as ever after uninstall: %v", v6, err)
		}
	}
}

// routing is what the gateway must leave as it was.
func (x *site) routing() string {
	x.t.Helper()
	out := []string{mustRun(x.t, "ip", "netns", "exec", x.mid, "nft", "list", "tables")}
	for _, line := range []string{"rule", "-6 rule", "route show table all", "-6 route show table all"} {
		text := mustRun(x.t, "ip", append([]string{"-n", x.mid}, strings.Fields(line)...)...)
		for route := range strings.Lines(text) { // those of the interfaces come and go
			if !strings.Contains(route, " dev eth") {
				out = append(out, route)
			}
		}
	}
	return strings.Join(out, "\n")
}

// An interface that is not named reaches none that is, and the host itself is
// reached as ever.
func TestRouteClosesTheSides(t *testing.T) {
	x := newRouteSite(t, 9000)
	third := host{name: strings.TrimSuffix(x.mid, "mid") + "third"}
	mustRun(t, "ip", "netns", "add", third.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", third.name).Run() })
	x.lay(&third, "eth3", 1500, [2]string{"192.0.2.2/24", "2001:db8:3::2/64"})
	x.ip(x.mid, "addr add 192.0.2.1/24 dev eth3")
	x.ip(third.name, "route add default via 192.0.2.1")
	x.serve(x.right, 80)
	if err := x.fetch(third, x.right, false, 80, livePatience); err != nil {
		t.Fatalf("before the gateway: %v", err)
	}
	x.start()
	x.passes("between the sides")
	if err := x.fetch(third, x.right, false, 80, 300*time.Millisecond); err == nil {
		t.Error("an interface that is not named went past the gateway")
	}
	mustRun(t, "ip", "netns", "exec", x.mid, "nft", "flush", "ruleset")
	x.ip(x.mid, "rule del priority 18280")
	x.ip(x.mid, "-6 route flush table 18280")
	x.gateway.eventually("what was flushed is put back", func() bool {
		tables := mustRun(t, "ip", "netns", "exec", x.mid, "nft", "list", "tables")
		rules := mustRun(t, "ip", "-n", x.mid, "rule")
		routes := mustRun(t, "ip", "-n", x.mid, "-6", "route", "show", "table", "all")
		return strings.Contains(tables, "-route") && strings.Count(rules, "18280:") == 2 && strings.Contains(routes, "default dev "+livePrefix+"-route table 18280")
	}, x.gateway.log)
	x.passes("after others have meddled")
	if err := x.fetch(third, x.right, false, 80, 300*time.Millisecond); err == nil {
		t.Error("an interface that is not named went past the gateway, after others have meddled")
	}
	l := listen(t, "/var/run/netns/"+x.mid, "tcp", "198.51.100.1:7777")
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	conn, err := dial(x.left.path(), "tcp", "198.51.100.1:7777", livePatience)
	if err != nil {
		t.Fatalf("the host itself: %v", err)
	}
	conn.Close()
}

func TestRouteRefuses(t *testing.T) {
	x := newRouteSite(t, 1500)
	mustRun(t, "ip", "netns", "exec", x.mid, "sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
	dir := t.TempDir()
	out, code := new(bytes.Buffer), 0
	cmd := exec.Command("ip", "netns", "exec", x.mid, x.binary, "run", "--route", "eth1,eth9", "--socket", filepath.Join(dir, "s"), "--state", dir, "--metrics", "")
	cmd.Stdout, cmd.Stderr = out, out
	if exit := (*exec.ExitError)(nil); errors.As(cmd.Run(), &exit) {
		code = exit.ExitCode()
	}
	if text := out.String(); code != exitReach || !strings.Contains(text, "there is no interface eth9") || !strings.Contains(text, "net.ipv4.ip_forward=1") {
		t.Errorf("exit code %d\n%s", code, text)
	}
}

// doctor's lines about the place, each as "LEVEL TEXT".
func (x *site) doctor() (lines []string, code int) {
	x.t.Helper()
	dir := x.t.TempDir()
	config := filepath.Join(dir, "empty.yaml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		x.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", x.mid, x.binary, "doctor", x.flag, "eth1,eth2", "-o", "json",
		"--config", config, "--socket", filepath.Join(dir, "s"), "--state", dir, "--devices", livePrefix)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		x.t.Fatal(err)
	}
	for _, c := range checksOf(x.t, out) {
		if c.Name == "docker" || c.Name == "pins" {
			x.t.Errorf("what a place does not need is asked for: %+v", c)
		}
	}
	var list []Check
	if err := json.Unmarshal(out, &list); err != nil {
		x.t.Fatal(err)
	}
	for _, c := range list {
		if c.Name == "place" || c.Name == "places" {
			lines = append(lines, c.Level+" "+c.Text+" "+c.Do)
		}
	}
	return lines, cmd.ProcessState.ExitCode()
}

// finds fails unless doctor says that, with the exit code of a failure or of none.
func (x *site) finds(when, want string) {
	x.t.Helper()
	lines, code := x.doctor()
	if !strings.Contains(strings.Join(lines, "\n"), want) {
		x.t.Errorf("%s: no %q in %q", when, want, lines)
	}
	if fails := strings.HasPrefix(want, levelFail); fails != (code == exitNo) {
		x.t.Errorf("%s: exit code %d", when, code)
	}
}

// doctor knows what a place needs, what is in the way and what was left behind, and
// touches none of it.
func TestDoctorAtAPair(t *testing.T) {
	x := newPairSite(t, 1500)
	x.finds("at first", "warn pair eth1, eth2: eth1 takes no frames from XDP programs")
	for _, h := range []host{x.left, x.right} {
		mustRun(t, "ip", "netns", "exec", h.name, "ethtool", "-K", "eth0", "gro", "on")
	}
	x.finds("with what XDP needs", "ok pair eth1, eth2")
	x.ip(x.mid, "link set eth2 down")
	x.finds("down", "fail pair eth1, eth2: eth2 is down: ip link set eth2 up")
	x.ip(x.mid, "link set eth2 up")
	x.ip(x.mid, "link set eth2 mtu 1400")
	x.finds("another MTU", "fail pair eth1, eth2: not fit for a pair: eth1 has an MTU of 1500")
	x.ip(x.mid, "link set eth2 mtu 1500")
	attachXDP(t, x, "eth1")
	x.finds("another's program", "fail pair eth1, eth2: not fit for a pair: eth1 has an XDP program of somebody else's")
	x.ip(x.mid, "link set eth1 xdp off")
	if links := mustRun(t, "ip", "-n", x.mid, "link", "show"); strings.Contains(links, "prog/xdp") {
		t.Errorf("a program was attached:\n%s", links)
	}
	x.start()
	if lines, _ := x.doctor(); len(lines) != 1 || lines[0] != "ok pair eth1, eth2 " {
		t.Errorf("beside a running gateway: %q", lines)
	}
	if err := x.gateway.stop(); err != nil {
		t.Fatal(err)
	}
	x.finds("after a stop", "warn nothing passes eth1, eth2: what a gateway with --pair left is there, and no gateway runs start")
	x.uninstall()
	if lines, _ := x.doctor(); len(lines) != 1 {
		t.Errorf("uninstalled: %q", lines)
	}
}

func TestDoctorAtARoute(t *testing.T) {
	x := newRouteSite(t, 1500)
	x.finds("at first", "ok route eth1, eth2")
	mustRun(t, "ip", "netns", "exec", x.mid, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
	x.finds("one family", "warn route eth1, eth2: IPv6 is not routed")
	mustRun(t, "ip", "netns", "exec", x.mid, "sysctl", "-qw", "net.ipv4.ip_forward=0")
	x.finds("no family", "fail route eth1, eth2: this host routes nothing")
	mustRun(t, "ip", "netns", "exec", x.mid, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	x.ip(x.mid, "link set eth2 down")
	x.finds("down", "fail route eth1, eth2: eth2 is down: ip link set eth2 up")
	x.ip(x.mid, "link set eth2 up")
	x.start()
	if lines, _ := x.doctor(); len(lines) != 1 {
		t.Errorf("beside a running gateway: %q", lines)
	}
	x.gateway.kill()
	x.finds("after kill -9", "warn nothing passes eth1, eth2: what a gateway with --route left is there")
}

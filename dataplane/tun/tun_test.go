package tun

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
	"gatehouse/dataplane/dataplanetest"
	"gatehouse/dataplane/namespace"
)

const (
	testFrames = 64
	testMTU    = 3000
	testTag    = 5<<1 | uint16(dataplane.ToEndpoint) // of slot 5
	patience   = 20 * time.Second
)

var far = map[bool]netip.Addr{false: netip.MustParseAddr("198.51.100.2"), true: netip.MustParseAddr("2001:db8::2")}

// room is a network namespace.
type room struct{ name, path string }

func newRoom(t *testing.T) room {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	name := fmt.Sprintf("ghx-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", name) })
	return room{name, "/var/run/netns/" + name}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (r room) ip(t *testing.T, line string) {
	t.Helper()
	run(t, "ip", append([]string{"-n", r.name}, strings.Fields(line)...)...)
}

// newTAP is a TAP as steer makes it, and what the kernel sends and gets by it.
func newTAP(t *testing.T) (r room, p *Port, w *dataplanetest.Wire) {
	t.Helper()
	r = newRoom(t)
	r.ip(t, "tuntap add gh0 mode tap")
	run(t, "ip", "netns", "exec", r.name, "sysctl", "-qw", "net.ipv6.conf.gh0.disable_ipv6=1")
	r.ip(t, fmt.Sprintf("link set gh0 up mtu %d", testMTU))
	ports, err := OpenTAP(Config{NetNS: r.path, Interface: "gh0", Frames: testFrames})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ports[0].Close() })
	if err := namespace.Run(r.path, func() (err error) {
		w, err = dataplanetest.NewWire("gh0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	r.waitUp(t, "gh0")
	return r, ports[0], w
}

// waitUp: until then the kernel drops what is sent out of the device.
func (r room) waitUp(t *testing.T, dev string) {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		up := false
		if err := namespace.Run(r.path, func() error {
			link, err := netlink.LinkByName(dev)
			up = err == nil && link.Attrs().OperState == netlink.OperUp
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if up {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s does not come up", dev)
		}
	}
}

// newTUN is a TUN as Route makes it.
func newTUN(t *testing.T) (room, *Port) {
	t.Helper()
	r := newRoom(t)
	var p *Port
	if err := namespace.Run(r.path, func() (err error) {
		device, err := water.New(water.Config{DeviceType: water.TUN, PlatformSpecificParams: water.PlatformSpecificParams{Name: "tun0"}})
		if err != nil {
			return err
		}
		p, err = newPort(device, 0, testMTU, testFrames)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	r.ip(t, fmt.Sprintf("link set tun0 up mtu %d", testMTU))
	r.ip(t, "addr add 198.51.100.1/24 dev tun0")
	r.ip(t, "addr add 2001:db8::1/64 dev tun0 nodad")
	r.waitLocal(t, net.ParseIP("2001:db8::1"))
	return r, p
}

// waitLocal: the kernel adds an address of IPv6 in its own time, and drops what is sent
// there until then.
func (r room) waitLocal(t *testing.T, ip net.IP) {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		local := false
		if err := namespace.Run(r.path, func() error {
			routes, err := netlink.RouteGet(ip)
			local = err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
			return nil // of an address that is not there yet it may be any
		}); err != nil {
			t.Fatal(err)
		}
		if local {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s does not become local", ip)
		}
	}
}

// take receives n frames; of a TUN those of UDP.
func (p *Port) take(t *testing.T, n int) []dataplane.Frame {
	t.Helper()
	frames := make([]dataplane.Frame, n)
	for got := 0; got < n; {
		fds := []unix.PollFd{{Fd: int32(p.FD()), Events: unix.POLLIN}}
		if ready, err := unix.Poll(fds, int(patience/time.Millisecond)); ready == 0 && !errors.Is(err, unix.EINTR) {
			t.Fatalf("%d of %d frames came: %+v", got, n, p.Stats())
		}
		var f [1]dataplane.Frame
		if p.Recv(f[:]) == 0 {
			continue
		}
		if p.header == 0 && !isUDP(&f[0]) { // what the kernel itself has to say to neighbours
			p.Release(f[:])
			continue
		}
		frames[got], got = f[0], got+1
	}
	return frames
}

func isUDP(f *dataplane.Frame) bool {
	ip := f.Data
	return ip[0]>>4 == 4 && ip[9] == unix.IPPROTO_UDP || ip[0]>>4 == 6 && ip[6] == unix.IPPROTO_UDP
}

// turn makes of a datagram its answer: no checksum changes.
func turn(f *dataplane.Frame) {
	swap := func(b []byte, n int) {
		first := bytes.Clone(b[:n])
		copy(b, b[n:2*n])
		copy(b[n:], first)
	}
	ip := f.Data
	if ip[0]>>4 == 4 {
		swap(ip[12:], 4)
		swap(ip[20:], 2)
		return
	}
	swap(ip[8:], 16)
	swap(ip[40:], 2)
}

// balance fails unless the port has all its frames.
func (p *Port) balance(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) != testFrames || len(p.queued) != 0 {
		t.Errorf("%d of %d frames are free, %d queued", len(p.free), testFrames, len(p.queued))
	}
}

func (r room) dial(t *testing.T, addr netip.Addr) net.Conn {
	t.Helper()
	var c net.Conn
	if err := namespace.Run(r.path, func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(addr, 5000).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// tagged is a frame for slot 5's egress hook.
func tagged(n int) []byte {
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, byte(testTag), 8, 0}, make([]byte, n)...)
	for i := range frame[taggedHeader:] {
		frame[taggedHeader+i] = byte(i * n)
	}
	return frame
}

// A TAP's frames come whole and in order, with the tag's meaning, and go back
// with it.
func TestTAPCarries(t *testing.T) {
	_, p, w := newTAP(t)
	for i := range 10 * testFrames {
		want := tagged(46 + i*40%(testMTU-46))
		if err := w.Write(want); err != nil {
			t.Fatal(err)
		}
		f := p.take(t, 1)
		if f[0].L3 != taggedHeader || f[0].Slot != testTag>>1 || f[0].Dir != dataplane.ToEndpoint || !bytes.Equal(f[0].Data, want) {
			t.Fatalf("frame %d of %d bytes: %+v", i, len(want), f[0])
		}
		f[0].Slot, f[0].Dir = 9, dataplane.FromEndpoint
		p.Send(f)
		if err := p.Flush(); err != nil || p.Pending() != 0 {
			t.Fatal(err, p.Pending())
		}
		want[15] = 9 << 1
		got, err := w.Read()
		for end := time.Now().Add(patience); got == nil && err == nil && time.Now().Before(end); {
			got, err = w.Read()
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("frame %d of %d bytes came back as %x: %v", i, len(want), got, err)
		}
	}
	p.balance(t)
}

// What is routed to a TUN comes whole, and what it sends enters by it.
func TestTUNCarries(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprint("IPv6 ", v6), func(t *testing.T) {
			r, p := newTUN(t)
			conn := r.dial(t, far[v6])
			_ = conn.SetDeadline(time.Now().Add(4 * patience))
			for i := range 10 * testFrames {
				said := bytes.Repeat([]byte{byte(i)}, 1+i*40%(testMTU-48))
				if _, err := conn.Write(said); err != nil {
					t.Fatal(err)
				}
				f := p.take(t, 1)
				if f[0].L3 != 0 || !bytes.HasSuffix(f[0].Data, said) {
					t.Fatalf("datagram %d of %d bytes: %+v", i, len(said), f[0])
				}
				turn(&f[0])
				p.Send(f)
				if err := p.Flush(); err != nil || p.Pending() != 0 {
					t.Fatal(err, p.Pending())
				}
				heard := make([]byte, testMTU)
				if n, err := conn.Read(heard); err != nil || !bytes.Equal(heard[:n], said) {
					t.Fatalf("datagram %d of %d bytes came back as %d: %v", i, len(said), n, err)
				}
			}
			p.balance(t)
		})
	}
}

// A burst that is longer than there are frames waits in the device, and keeps its order.
func TestBurst(t *testing.T) {
	r, p := newTUN(t)
	conn := r.dial(t, far[false])
	for i := range 2 * testFrames {
		if _, err := conn.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	held := p.take(t, testFrames)
	var more [8]dataplane.Frame
	if n := p.Recv(more[:]); n != 0 {
		t.Fatalf("%d frames more than there are", n)
	}
	if _, ok := p.Alloc(); ok {
		t.Error("a frame more than there are")
	}
	p.Release(held)
	for i, f := range append(held[:0:0], p.take(t, testFrames)...) {
		if got, want := f.Data[len(f.Data)-1], byte(testFrames+i); got != want {
			t.Fatalf("datagram %d where %d was due", got, want)
		}
		p.Release([]dataplane.Frame{f})
	}
	p.balance(t)
}

// What comes while the device's queue is full is counted.
func TestRouteDrops(t *testing.T) {
	r, p := newTUN(t)
	conn := r.dial(t, far[false])
	const sent = 2000 // a TUN's queue holds 500
	for range sent {
		if _, err := conn.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	route := Route{NetNS: r.path, Device: "tun0"}
	if n, err := RouteDrops(route); err != nil || n == 0 || n >= sent {
		t.Errorf("%d of %d are counted, %v", n, sent, err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := RouteDrops(route); err != nil || n != 0 {
		t.Errorf("%d are counted of a device that is gone, %v", n, err)
	}
}

// A frame without the steering tag is nobody's, and neither is one that ends in it.
func TestUntagged(t *testing.T) {
	_, p, w := newTAP(t)
	good := tagged(100)
	bad := [][]byte{append(bytes.Clone(good[:12]), good[16:]...), good[:16]}
	for _, frame := range append(bad, good) {
		if err := w.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	f := p.take(t, 1)
	if !bytes.Equal(f[0].Data, good) || p.Stats().Malformed != uint64(len(bad)) {
		t.Errorf("%x, %+v", f[0].Data, p.Stats())
	}
	p.Release(f)
	p.balance(t)
}

// A reject starts from an empty frame.
func TestAlloc(t *testing.T) {
	_, p, _ := newTAP(t)
	f, ok := p.Alloc()
	if !ok || len(f.Data) != testMTU+taggedHeader || f.L3 != taggedHeader {
		t.Fatalf("%v, %d bytes, IP at %d", ok, len(f.Data), f.L3)
	}
	f.Data, f.Slot, f.Dir = f.Data[:60], 77, dataplane.ToEndpoint
	p.Send([]dataplane.Frame{f})
	if !bytes.Equal(f.Data[12:16], []byte{0x81, 0, 0, 155}) {
		t.Errorf("tag %x", f.Data[12:16])
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	p.balance(t)
}

// A device that is gone or down is told, by a port that sends and by one that
// has nothing to send.
func TestLost(t *testing.T) {
	for _, c := range []struct {
		name, line string
		sends      bool
	}{
		{"gone, nothing to send", "link del gh0", false},
		{"gone", "link del gh0", true},
		{"down", "link set gh0 down", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, p, _ := newTAP(t)
			if err := p.Flush(); err != nil {
				t.Fatalf("while it is there: %v", err)
			}
			r.ip(t, c.line)
			if c.sends {
				f, _ := p.Alloc()
				f.Data = f.Data[:60]
				p.Send([]dataplane.Frame{f})
			}
			if err := p.Flush(); err == nil {
				t.Error("nothing is said")
			}
			var f [8]dataplane.Frame
			p.Release(f[:p.Recv(f[:])])
		})
	}
}

func TestClose(t *testing.T) {
	r, p, _ := newTAP(t)
	f, _ := p.Alloc()
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p.Send([]dataplane.Frame{f})
	if err := p.Flush(); err != nil {
		t.Error(err)
	}
	var more [1]dataplane.Frame
	if _, ok := p.Alloc(); ok || p.Recv(more[:]) != 0 {
		t.Error("a closed port gives frames")
	}
	ports, err := OpenTAP(Config{NetNS: r.path, Interface: "gh0"})
	if err != nil {
		t.Fatalf("the next gateway cannot have it: %v", err)
	}
	if _, err := OpenTAP(Config{NetNS: r.path, Interface: "gh0"}); err == nil {
		t.Error("two gateways have one device")
	}
	if err := ports[0].Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenTAP(Config{NetNS: r.path, Interface: "absent"}); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a device that is missing: %v", err)
	}
}

// The packet path allocates nothing.
func TestAllocatesNothing(t *testing.T) {
	_, p, _ := newTAP(t)
	frames := make([]dataplane.Frame, 1)
	if n := testing.AllocsPerRun(200, func() {
		f, ok := p.Alloc()
		if !ok {
			t.Fatal("no frame")
		}
		f.Data = f.Data[:60]
		frames[0] = f
		p.Send(frames)
		_ = p.Flush()
		p.Release(frames[:p.Recv(frames)])
	}); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

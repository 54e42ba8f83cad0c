package afxdp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
	"gatehouse/dataplane/dataplanetest"
	"gatehouse/dataplane/namespace"
)

// helperNetNS makes the test binary serve the port in that namespace until it
// is killed.
const helperNetNS = "GATEHOUSE_TEST_SERVE_NETNS"

func TestMain(m *testing.M) {
	if ns := os.Getenv(helperNetNS); ns != "" {
		serveForever(ns)
	}
	os.Exit(m.Run())
}

func serveForever(ns string) {
	ports, err := Open(Config{NetNS: ns, Interface: "gh1", Frames: 512})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("serving")
	for {
		hairpin(ports[0])
	}
}

// hairpin sends back what comes within half a second.
func hairpin(p *Port) int {
	fds := []unix.PollFd{{Fd: int32(p.FD()), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 500)
	for errors.Is(err, unix.EINTR) {
		_, err = unix.Poll(fds, 500)
	}
	if err != nil {
		return 0
	}
	var frames [64]dataplane.Frame
	n := p.Recv(frames[:])
	p.Send(frames[:n])
	_ = p.Flush()
	return n
}

// patience is how long what must happen may take, on a machine however busy.
const patience = 20 * time.Second

// within polls for what the kernel does in the background.
func within(done func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if done() {
			return true
		}
	}
	return false
}

// served is what hairpin sends back of something that must come.
func served(p *Port) (n int) {
	within(func() bool { n = hairpin(p); return n > 0 })
	return n
}

// lane is a slow-path pair gh0-gh1 in a namespace of its own.
type lane struct {
	ns   string // path
	name string
}

func newLane(t *testing.T, mtu int) lane {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	name := fmt.Sprintf("ghx-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", name) })
	l := lane{ns: "/var/run/netns/" + name, name: name}
	l.ip(t, "link", "add", "gh0", "mtu", fmt.Sprint(mtu), "type", "veth", "peer", "name", "gh1", "mtu", fmt.Sprint(mtu))
	l.up(t, "gh0", "gh1")
	return l
}

// up brings devices up and waits until they transmit: the kernel says that they
// are up before its worker has given them queues, and drops until then.
func (l lane) up(t *testing.T, devices ...string) {
	t.Helper()
	for _, dev := range devices {
		run(t, "ip", "netns", "exec", l.name, "sysctl", "-qw", "net.ipv6.conf."+dev+".disable_ipv6=1")
		l.ip(t, "link", "set", dev, "up")
	}
	for _, dev := range devices {
		for state := netlink.LinkOperState(netlink.OperUnknown); state != netlink.OperUp; time.Sleep(time.Millisecond) {
			must(t, namespace.Run(l.ns, func() error {
				link, err := netlink.LinkByName(dev)
				if err == nil {
					state = link.Attrs().OperState
				}
				return err
			}))
		}
	}
}

func (l lane) ip(t *testing.T, args ...string) {
	t.Helper()
	run(t, "ip", append([]string{"-n", l.name}, args...)...)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("missing capability: %s", name)
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// wire is a packet socket on one device of the lane.
type wire struct{ *dataplanetest.Wire }

func (l lane) wire(t *testing.T, dev string) (w wire) {
	t.Helper()
	must(t, namespace.Run(l.ns, func() (err error) {
		w.Wire, err = dataplanetest.NewWire(dev)
		return err
	}))
	t.Cleanup(func() { must(t, w.Close()) })
	return w
}

func (w wire) write(t *testing.T, frame []byte) {
	t.Helper()
	must(t, w.Write(frame))
}

// read is nil when nothing came for a while.
func (w wire) read(t *testing.T) []byte {
	t.Helper()
	frame, err := w.Read()
	must(t, err)
	return frame
}

// arrives reads what must come.
func (w wire) arrives(t *testing.T) (frame []byte) {
	t.Helper()
	within(func() bool { frame = w.read(t); return frame != nil })
	return frame
}

func packet(t *testing.T, tci uint16, v6 bool, payload int) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeDot1Q}
	tag := &layers.Dot1Q{VLANIdentifier: tci & 0xfff, Priority: uint8(tci >> 13), DropEligible: tci&0x1000 != 0}
	tcp := &layers.TCP{SrcPort: 40000, DstPort: 80, ACK: true, Window: 100}
	var ip gopacket.SerializableLayer
	if v6 {
		tag.Type = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolTCP, HopLimit: 64, SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2")}
		ip = l
		must(t, tcp.SetNetworkLayerForChecksum(l))
	} else {
		tag.Type = layers.EthernetTypeIPv4
		l := &layers.IPv4{Version: 4, IHL: 5, Protocol: layers.IPProtocolTCP, TTL: 64, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}
		ip = l
		must(t, tcp.SetNetworkLayerForChecksum(l))
	}
	b := gopacket.NewSerializeBuffer()
	data := bytes.Repeat([]byte{0xa5, 0x17}, payload)[:payload]
	must(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, tag, ip, tcp, gopacket.Payload(data)))
	return bytes.Clone(b.Bytes())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open1(t *testing.T, l lane, frames int) *Port {
	t.Helper()
	ports, err := Open(Config{NetNS: l.ns, Interface: "gh1", Frames: frames})
	if err != nil {
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPERM) {
			t.Skipf("missing capability: AF_XDP: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, ports[0].Close()) })
	return ports[0]
}

func (p *Port) checkFrames(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if sum := len(p.free) + p.filled + p.held + p.inFlight; sum != p.frames || p.held != 0 {
		t.Fatalf("%d free + %d filled + %d held + %d in flight = %d, want %d and none held",
			len(p.free), p.filled, p.held, p.inFlight, sum, p.frames)
	}
	if p.closed {
		return
	}
	seen := make(map[uint64]bool)
	for _, a := range p.free {
		if seen[a] || a%p.frameSize != 0 {
			t.Fatalf("frame %#x twice on the free list, or no frame", a)
		}
		seen[a] = true
	}
}

func TestHairpin(t *testing.T) {
	for _, tc := range []struct {
		name         string
		mtu, payload int
		v6           bool
		tci          uint16
	}{
		{"IPv4 empty", 1500, 0, false, 1 << 1},
		{"IPv6 empty", 1500, 0, true, 1<<1 | 1},
		{"IPv4 full", 1500, 1460, false, 77 << 1},
		{"IPv6 full", 1500, 1440, true, 2047<<1 | 1},
		{"IPv4 jumbo", 3400, 3360, false, 5 << 1},
		{"slot above 2047", 1500, 100, false, 20000<<1 | 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLane(t, tc.mtu)
			p := open1(t, l, 512)
			w := l.wire(t, "gh0")
			want := packet(t, tc.tci, tc.v6, tc.payload)
			for range 100 {
				w.write(t, want)
			}
			for done := 0; done < 100; {
				n := served(p)
				if n == 0 {
					t.Fatalf("%d of 100 frames came", done)
				}
				done += n
			}
			for i := range 100 {
				if got := w.arrives(t); !bytes.Equal(got, want) {
					t.Fatalf("frame %d came back as %d bytes, want the %d that were sent", i, len(got), len(want))
				}
			}
			p.Recv(nil)
			p.checkFrames(t)
			if s := p.Stats(); s.Received != 100 || s.Sent != 100 || s.NoFrame != 0 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

func TestRecvReadsTag(t *testing.T) {
	l := newLane(t, 1500)
	p := open1(t, l, 512)
	w := l.wire(t, "gh0")
	untagged := packet(t, 3, false, 20)
	untagged = append(untagged[:12:12], untagged[16:]...)
	w.write(t, untagged)
	w.write(t, packet(t, 9<<1|1, false, 20))
	var frames [8]dataplane.Frame
	n := 0
	within(func() bool { n = p.Recv(frames[:]); return n > 0 })
	if n != 1 || frames[0].Slot != 9 || frames[0].Dir != dataplane.ToEndpoint || frames[0].L3 != 18 {
		t.Fatalf("got %d frames, first %+v", n, frames[0])
	}
	p.Release(frames[:n])
	if s := p.Stats(); s.Malformed != 1 {
		t.Errorf("malformed %d, want 1", s.Malformed)
	}
	p.checkFrames(t)
}

func TestAllocSend(t *testing.T) {
	l := newLane(t, 1500)
	p := open1(t, l, 512)
	w := l.wire(t, "gh0")
	f, ok := p.Alloc()
	if !ok {
		t.Fatal("no frame")
	}
	want := packet(t, 6<<1, true, 40)
	f.Slot, f.Data = 6, f.Data[:copy(f.Data, want)]
	p.Send([]dataplane.Frame{f})
	if got := w.read(t); got != nil {
		t.Fatalf("a frame left before Flush: %x", got)
	}
	must(t, p.Flush())
	if got := w.arrives(t); !bytes.Equal(got, want) {
		t.Fatalf("got %x, want %x", got, want)
	}
	p.Recv(nil)
	p.checkFrames(t)

	var held []dataplane.Frame
	for {
		f, ok := p.Alloc()
		if !ok {
			break
		}
		held = append(held, f)
	}
	if len(held) < reserve {
		t.Errorf("%d frames to be had, want at least %d", len(held), reserve)
	}
	p.Release(held)
	p.checkFrames(t)
}

// flood writes frames until stop is set; the device may go away meanwhile.
func (w wire) flood(frame []byte, stop *atomic.Bool) {
	for !stop.Load() {
		if err := w.Write(frame); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

func TestNoLeakWhenDeviceGoes(t *testing.T) {
	l := newLane(t, 1500)
	p := open1(t, l, 512)
	w := l.wire(t, "gh0")
	var stop atomic.Bool
	flooded := make(chan struct{})
	go func() { defer close(flooded); w.flood(packet(t, 3<<1, false, 200), &stop) }()
	var frames [64]dataplane.Frame
	var failed error
	for round := 0; failed == nil && round < 100_000; round++ {
		if round == 500 {
			l.ip(t, "link", "del", "gh0")
		}
		n := p.Recv(frames[:])
		if n == 0 && round > 500 {
			f, ok := p.Alloc()
			if !ok {
				break
			}
			frames[0], n = f, 1
		}
		p.Release(frames[:n/2])
		p.Send(frames[n/2 : n])
		failed = p.Flush()
	}
	stop.Store(true)
	<-flooded
	if failed == nil {
		t.Error("Flush never said that the device is gone")
	}
	p.checkFrames(t)
	if s := p.Stats(); s.Received == 0 {
		t.Error("nothing was received before the device went")
	}
}

func TestIdlePortSaysThatItsDeviceIsGone(t *testing.T) {
	l := newLane(t, 1500)
	p := open1(t, l, 256)
	must(t, p.Flush())
	l.ip(t, "link", "del", "gh1")
	if err := p.Flush(); !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("Flush: %v, want ENETDOWN", err)
	}
}

func TestOverloadIsCounted(t *testing.T) {
	l := newLane(t, 1500)
	p := open1(t, l, 256)
	w := l.wire(t, "gh0")
	frame := packet(t, 3<<1, false, 0)
	for range 1000 {
		w.write(t, frame)
	}
	if !within(func() bool { s := p.Stats(); return s.NoFrame+s.RingFull > 0 }) {
		t.Errorf("1000 frames into 128: stats %+v", p.Stats())
	}
	for hairpin(p) > 0 {
	}
	w.write(t, frame)
	if served(p) != 1 {
		t.Error("does not receive after an overload")
	}
	p.Recv(nil)
	p.checkFrames(t)
}

// TestTakeover has a second Open wait for the first one's socket, under load;
// no frame may reach the device's own stack at any time.
func TestTakeover(t *testing.T) {
	l := newLane(t, 1500)
	stack := l.wire(t, "gh1")
	first := open1(t, l, 512)
	w := l.wire(t, "gh0")
	var stop atomic.Bool
	flooded := make(chan struct{})
	go func() { defer close(flooded); w.flood(packet(t, 3<<1, false, 100), &stop) }()
	go func() {
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
			hairpin(first)
		}
		_ = first.Close()
	}()
	second := open1(t, l, 512)
	if served(second) == 0 {
		t.Error("the second port gets nothing")
	}
	stop.Store(true)
	<-flooded
	if got := stack.read(t); got != nil {
		t.Errorf("a frame was passed to the device's own stack: %x", got)
	}
	first.checkFrames(t)
}

func TestBusyQueueIsRefused(t *testing.T) {
	l := newLane(t, 1500)
	p := open1(t, l, 512)
	if _, err := Open(Config{NetNS: l.ns, Interface: "gh1", Frames: 512}); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("second Open: %v, want EBUSY", err)
	}
	w := l.wire(t, "gh0")
	w.write(t, packet(t, 3<<1, false, 0))
	if served(p) != 1 {
		t.Error("the refused Open took the queue away")
	}
}

func TestKilledProcessDrops(t *testing.T) {
	l := newLane(t, 1500)
	stack, w := l.wire(t, "gh1"), l.wire(t, "gh0")
	frame := packet(t, 3<<1, true, 64)

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperNetNS+"="+l.ns)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	said := make([]byte, 7)
	if _, err := io.ReadFull(out, said); err != nil || string(said) != "serving" {
		t.Fatalf("the helper said %q, %v", said, err)
	}
	w.write(t, frame)
	if got := w.arrives(t); !bytes.Equal(got, frame) {
		t.Fatalf("the helper does not serve: %x", got)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for range 20 {
		w.write(t, frame)
	}
	if got := w.read(t); got != nil {
		t.Errorf("a frame came back with nobody serving: %x", got)
	}
	if got := stack.read(t); got != nil {
		t.Errorf("a frame reached the device's own stack with nobody serving: %x", got)
	}
	p := open1(t, l, 512)
	w.write(t, frame)
	if served(p) == 0 {
		t.Error("the next process gets nothing")
	}
}

func TestOpenErrors(t *testing.T) {
	l := newLane(t, 1500)
	for _, tc := range []struct {
		name string
		c    Config
		want string
	}{
		{"no such device", Config{NetNS: l.ns, Interface: "gh9"}, "gh9"},
		{"no such namespace", Config{NetNS: "/var/run/netns/ghx-none", Interface: "gh1"}, "no such file"},
		{"frames", Config{NetNS: l.ns, Interface: "gh1", Frames: 1000}, "power of two"},
		{"no such queue", Config{NetNS: l.ns, Interface: "gh1", Queues: 3, Frames: 256}, "there is no queue 1"},
	} {
		if _, err := Open(tc.c); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want a word of %q", tc.name, err, tc.want)
		}
	}
}

// A kernel without AF_XDP is told by what it lacks.
func TestKernelWithoutAFXDP(t *testing.T) {
	if err := Available(); err != nil {
		t.Skipf("missing capability: %v", err)
	}
	if err := dataplanetest.WithoutAFXDP(func() {
		if err := Available(); !errors.Is(err, unix.EAFNOSUPPORT) || !strings.Contains(err.Error(), "CONFIG_XDP_SOCKETS") {
			t.Errorf("%v", err)
		}
		if _, err := newQueue(newUMEM(256, 2048), true); !errors.Is(err, unix.EAFNOSUPPORT) {
			t.Errorf("a queue: %v", err)
		}
	}); err != nil {
		t.Skipf("missing capability: %v", err)
	}
}

func TestPortDoesNotAllocate(t *testing.T) {
	l := newLane(t, 1500)
	p := open1(t, l, 512)
	w := l.wire(t, "gh0")
	frame := packet(t, 3<<1, false, 0)
	var frames [64]dataplane.Frame
	allocs := testing.AllocsPerRun(200, func() {
		_ = w.Write(frame)
		n := p.Recv(frames[:])
		if f, ok := p.Alloc(); ok {
			p.Release([]dataplane.Frame{f})
		}
		p.Send(frames[:n])
		_ = p.Flush()
	})
	if allocs != 0 {
		t.Errorf("%v allocations a batch", allocs)
	}
}

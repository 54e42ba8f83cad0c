package dataplane_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/steer"
	"gatehouse/dataplane/tun"
	"gatehouse/policy"
)

// site is a host of three namespaces: H with the bridge, A and B as the
// containers web and db, and one more as the outside, routed by H.
type site struct {
	t        *testing.T
	names    map[string]string
	s        *steer.Steer
	cfg      steer.Config
	d        *dataplane.Dataplane
	stop     func()
	space    *steer.Space
	queues   []dataplane.Port
	admitted []dataplane.Endpoint
	epoch    uint32
}

// patience is how long what must happen may take, on a machine however busy.
const patience = 20 * time.Second

// ways are the slow paths that the tests below hold for.
func ways(t *testing.T, test func(t *testing.T, tap bool)) {
	t.Run("AF_XDP", func(t *testing.T) { test(t, false) })
	t.Run("TAP", func(t *testing.T) { test(t, true) })
}

func newSite(t *testing.T, queues int, tap bool) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	x := &site{t: t, names: make(map[string]string)}
	for _, n := range []string{"H", "web", "db", "outside"} {
		x.names[n] = fmt.Sprintf("ghx-%d-%d-%s", os.Getpid(), time.Now().UnixNano()%1e6, n)
		x.run("ip", "netns", "add", x.names[n])
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", x.names[n]).Run() })
		x.ip(n, "link set lo up")
	}
	x.sysctl("H", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	x.ip("H", "link add br0 address 02:00:00:00:00:fe type bridge")
	x.ip("H", "addr add 172.18.0.1/24 dev br0")
	x.ip("H", "addr add fd00:18::1/64 dev br0 nodad")
	x.ip("H", "link set br0 up")
	for _, p := range []party{web, db} {
		mac := net.HardwareAddr(p.mac[:]).String()
		x.ip("H", "link add v"+p.name+" type veth peer name eth0 netns "+x.names[p.name]+" address "+mac)
		x.ip("H", "link set v"+p.name+" master br0 up")
		x.ip(p.name, "addr add "+p.v4.String()+"/24 dev eth0")
		x.ip(p.name, "addr add "+p.v6.String()+"/64 dev eth0 nodad")
		x.ip(p.name, "link set eth0 up")
		x.ip(p.name, "route add default via 172.18.0.1")
		x.ip(p.name, "-6 route add default via fd00:18::1")
	}
	x.ip("H", "link add up0 type veth peer name eth0 netns "+x.names["outside"])
	x.ip("H", "addr add 198.51.100.1/24 dev up0")
	x.ip("H", "addr add 2001:db8::1/64 dev up0 nodad")
	x.ip("H", "link set up0 up")
	x.ip("outside", "addr add 198.51.100.2/24 dev eth0")
	x.ip("outside", "addr add 2001:db8::2/64 dev eth0 nodad")
	x.ip("outside", "link set eth0 up")
	x.ip("outside", "route add default via 198.51.100.1")
	x.ip("outside", "-6 route add default via 2001:db8::1")
	if tap { // jumbo frames fit
		for _, p := range []party{web, db} {
			x.ip("H", "link set v"+p.name+" mtu 9000")
			x.ip(p.name, "link set eth0 mtu 9000")
		}
	}
	x.cfg = steer.Config{
		Prefix: "ghe2e", TAP: tap, PinDir: "/sys/fs/bpf/" + x.names["H"],
		NetNSDir: t.TempDir(), FlowEntries: 4096, Queues: queues,
	}
	x.openSteer()
	t.Cleanup(func() {
		if err := x.s.Uninstall(); err != nil {
			t.Errorf("uninstall: %v", err)
		}
		x.s.Close()
	})
	t.Cleanup(func() { x.stop() })
	x.start()
	return x
}

func (x *site) run(name string, args ...string) {
	x.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		x.t.Skipf("missing capability: %s", name)
	}
	if err != nil {
		x.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (x *site) ip(ns, line string) {
	x.t.Helper()
	x.run("ip", append([]string{"-n", x.names[ns]}, strings.Fields(line)...)...)
}

func (x *site) sysctl(ns string, settings ...string) {
	x.t.Helper()
	x.run("ip", append([]string{"netns", "exec", x.names[ns], "sysctl", "-qw"}, settings...)...)
}

func (x *site) path(ns string) string { return "/var/run/netns/" + x.names[ns] }

// in runs f on a thread inside a namespace; sockets that f makes belong there.
func (x *site) in(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		fd, err := unix.Open(x.path(ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (x *site) openSteer() {
	x.t.Helper()
	s, err := steer.Open(x.cfg)
	if err != nil {
		x.t.Skipf("missing capability: steering programs: %v", err)
	}
	x.s = s
	x.stop = func() {}
}

// start brings up a gateway, as a process would.
func (x *site) start() {
	x.t.Helper()
	h := x.path("H")
	if err := x.s.Guard(steer.Network{Zone: zone, Bridge: "br0", NetNS: h, Closed: true}); err != nil {
		x.t.Fatal(err)
	}
	var err error
	if x.space, err = x.s.Space(h); err != nil {
		x.t.Fatal(err)
	}
	s := x.s
	x.d, err = dataplane.New(dataplane.Config{
		Workers: x.cfg.Queues,
		FlowMap: s.Flows(),
		Beat:    func(q int, now int64) { _ = s.Beat(q, now) },
		PortFailed: func(space, queue int, err error) {
			x.t.Errorf("port of space %d queue %d: %v", space, queue, err)
		},
	})
	if err != nil {
		x.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d := x.d
	go func() { done <- d.Run(ctx) }()
	x.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			x.t.Error(err)
		}
	})
	x.admitted = nil
	for _, p := range []party{web, db} {
		var ifindex uint32
		if err := x.in("H", func() error {
			i, err := net.InterfaceByName("v" + p.name)
			if err == nil {
				ifindex = uint32(i.Index)
			}
			return err
		}); err != nil {
			x.t.Fatal(err)
		}
		ep, err := x.s.Admit(steer.Spec{ID: p.name + "-ep", Workload: p.name, Zone: zone, Ifindex: ifindex, MAC: p.mac,
			Addrs: []netip.Addr{p.v4, p.v6}, ICC: true})
		if err != nil {
			x.t.Fatal(err)
		}
		x.admitted = append(x.admitted, ep)
	}
	x.d.SetEndpoints(x.admitted)
	x.enforce(lines...)
	x.adopt()
	x.queues = x.ports()
	for q, p := range x.queues {
		if err := x.d.AddPort(x.space.Number, q, p); err != nil {
			x.t.Fatal(err)
		}
	}
}

// ports opens the slow path.
func (x *site) ports() (ports []dataplane.Port) {
	x.t.Helper()
	h := x.path("H")
	if x.cfg.TAP {
		taps, err := tun.OpenTAP(tun.Config{NetNS: h, Interface: x.space.User, Queues: x.cfg.Queues})
		if err != nil {
			x.t.Fatal(err)
		}
		for _, p := range taps {
			ports = append(ports, p)
		}
		return ports
	}
	sockets, err := afxdp.Open(afxdp.Config{NetNS: h, Interface: x.space.User, Queues: x.cfg.Queues, Frames: 2048})
	if err != nil {
		x.t.Fatal(err)
	}
	for _, p := range sockets {
		ports = append(ports, p)
	}
	return ports
}

// enforce publishes a new table.
func (x *site) enforce(statements ...policy.Statement) {
	x.t.Helper()
	x.epoch++
	x.d.SetTable(table(x.t, x.epoch, policy.Enforce, statements...))
	if err := x.s.SetEpoch(x.epoch); err != nil {
		x.t.Fatal(err)
	}
}

func (x *site) adopt() {
	x.t.Helper()
	entries := make([]dataplane.FlowEntry, 1024)
	for end := false; !end; {
		n, last, err := x.s.Flows().Scan(entries)
		if err != nil {
			x.t.Fatal(err)
		}
		x.d.Adopt(entries[:n])
		end = last
	}
}

func (x *site) listen(p party, v6 bool, port uint16) net.Listener {
	x.t.Helper()
	var l net.Listener
	err := x.in(p.name, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(p.addr(v6), port).String())
		return err
	})
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { l.Close() })
	return l
}

func (x *site) dial(from party, network string, to party, v6 bool, port uint16, within time.Duration) (net.Conn, error) {
	var c net.Conn
	err := x.in(from.name, func() (err error) {
		d := net.Dialer{Timeout: within}
		c, err = d.Dial(network, netip.AddrPortFrom(to.addr(v6), port).String())
		return err
	})
	if err == nil {
		x.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (x *site) mustDial(from party, network string, to party, v6 bool, port uint16) net.Conn {
	x.t.Helper()
	c, err := x.dial(from, network, to, v6, port, patience)
	if err != nil {
		x.t.Fatalf("%s to %s port %d: %v; counters %+v", from.name, to.name, port, err, x.d.Counters())
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// echo serves connections that get back what they send, and counts what came.
func echo(l net.Listener, got *atomic.Int64) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 32<<10)
			for {
				n, err := c.Read(buf)
				got.Add(int64(n))
				if err != nil {
					return
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// exchange sends n random bytes over c and expects them back.
func exchange(c net.Conn, n int) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	want := make([]byte, n)
	_, _ = rand.Read(want)
	sent := make(chan error, 1)
	go func() { _, err := c.Write(want); sent <- err }()
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("the bytes came back changed")
	}
	return <-sent
}

func TestEndToEnd(t *testing.T) { ways(t, endToEnd) }

func endToEnd(t *testing.T, tap bool) {
	x := newSite(t, 1, tap)
	families(t, func(t *testing.T, v6 bool) {
		x.t = t
		t.Run("application", func(t *testing.T) { x.t = t; x.application(v6) })
		t.Run("upload", func(t *testing.T) { x.t = t; x.upload(v6) })
		t.Run("bulk", func(t *testing.T) { x.t = t; x.bulk(v6) })
		t.Run("datagrams", func(t *testing.T) { x.t = t; x.datagrams(v6) })
		t.Run("rejects", func(t *testing.T) { x.t = t; x.rejects(v6) })
		t.Run("outside", func(t *testing.T) { x.t = t; x.outside(v6) })
		t.Run("restart", func(t *testing.T) { x.t = t; x.restart(v6) })
	})
	x.t = t
}

// TestTwoWorkers: both directions of a conversation meet one worker, and so do
// all conversations of the same two ends, whichever that is.
func TestTwoWorkers(t *testing.T) { ways(t, twoWorkers) }

func twoWorkers(t *testing.T, tap bool) {
	x := newSite(t, 2, tap)
	families(t, func(t *testing.T, v6 bool) {
		x.t = t
		x.application(v6)
		x.rejects(v6)
		before := x.received()
		x.datagrams(v6)
		var got atomic.Int64
		go echo(x.listen(db, v6, 9000), &got)
		for range 50 {
			c := x.mustDial(web, "tcp", db, v6, 9000)
			if err := exchange(c, 100); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		after := x.received() // a few may be of others, as neighbour discovery is
		if by := []uint64{after[0] - before[0], after[1] - before[1]}; max(by[0], by[1]) < 50 || min(by[0], by[1]) > max(by[0], by[1])/10 {
			t.Errorf("frames of two ends came by both queues: %v", by)
		}
		x.outside(v6)
	})
	x.t = t
	for _, f := range x.d.Flows() {
		if f.Proto == policy.ProtoTCP && f.Dst.Port() == 9000 && f.MidStream {
			t.Errorf("met from its middle: %+v", f)
		}
	}
}

// received is how many frames each of two queues has had.
func (x *site) received() (n [2]uint64) {
	for q, p := range x.queues {
		n[q] = p.Stats().Received
	}
	return n
}

// application: http passes on its port, ssh's first bytes do not arrive there.
func (x *site) application(v6 bool) {
	t := x.t
	l := x.listen(db, v6, 80)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("hello ", 5000)) })}
	go srv.Serve(l)
	c := x.mustDial(web, "tcp", db, v6, 80)
	client := http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
	for range 3 {
		resp, err := client.Get("http://db/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(body) != 30000 {
			t.Fatalf("%d bytes, %v", len(body), err)
		}
	}
	client.CloseIdleConnections()
	srv.Close()

	l = x.listen(db, v6, 80)
	var got atomic.Int64
	go echo(l, &got)
	bad := x.mustDial(web, "tcp", db, v6, 80)
	if _, err := bad.Write([]byte("SSH-2.0-OpenSSH_9.2p1\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = bad.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, err := bad.Read(make([]byte, 1)); err == nil {
		t.Errorf("ssh was answered on the http port: %d", n)
	}
	if n := got.Load(); n != 0 {
		t.Errorf("%d bytes of ssh arrived at the http port", n)
	}
	bad.Close()
	l.Close()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, v := range x.d.Violations().List() {
			if v.Reason == policy.ReasonApp && v.Spoken.App == policy.AppSSH && v.Src.Addr() == web.addr(v6) {
				return
			}
		}
	}
	t.Errorf("no violation says ssh: %+v", x.d.Violations().List())
}

// upload: a server that says nothing before it has read everything has at least
// acknowledged the request, which is what the answer waits for.
func (x *site) upload(v6 bool) {
	t := x.t
	before, err := x.s.Counters()
	if err != nil {
		t.Fatal(err)
	}
	l := x.listen(db, v6, 80)
	const size = 16 << 20
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})}
	go srv.Serve(l)
	defer srv.Close()
	c := x.mustDial(web, "tcp", db, v6, 80)
	client := http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
	resp, err := client.Post("http://db/", "text/plain", bytes.NewReader(make([]byte, size)))
	if err != nil {
		t.Fatalf("%v; flows %+v", err, x.d.Flows())
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != fmt.Sprint(size, " <nil>") {
		t.Errorf("%q, %v", body, err)
	}
	k, err := x.s.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if n := k.Steered - before.Steered; n > 500 {
		t.Errorf("%d frames of the upload went through user space", n)
	}
}

func (x *site) bulk(v6 bool) {
	var got atomic.Int64
	go echo(x.listen(db, v6, 9000), &got)
	c := x.mustDial(web, "tcp", db, v6, 9000)
	for range 3 {
		if err := exchange(c, 4<<20); err != nil {
			x.t.Fatalf("%v; flows %+v", err, x.d.Flows())
		}
	}
	k, err := x.s.Counters()
	if err != nil {
		x.t.Fatal(err)
	}
	if k.Peer == 0 || k.Steered > 1000 {
		x.t.Errorf("the bulk of a decided flow did not take the short way: %+v", k)
	}
	c.Close()
}

func (x *site) datagrams(v6 bool) {
	t := x.t
	serve := func(port uint16) (*atomic.Int64, net.PacketConn) {
		var pc net.PacketConn
		err := x.in("db", func() (err error) {
			pc, err = net.ListenPacket("udp", netip.AddrPortFrom(db.addr(v6), port).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		n := new(atomic.Int64)
		go func() {
			buf := make([]byte, 65536)
			for {
				m, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				n.Add(1)
				_, _ = pc.WriteTo(buf[:m], from)
			}
		}()
		return n, pc
	}
	_, open := serve(9000)
	defer open.Close()
	for _, size := range []int{1, 1400, 8000} {
		if err := x.comesBack(v6, size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	got, shut := serve(1234)
	defer shut.Close()
	c := x.mustDial(web, "udp", db, v6, 1234)
	for range 20 {
		_, _ = c.Write([]byte("x"))
	}
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, _ = c.Read(make([]byte, 10))
	if n := got.Load(); n != 0 {
		t.Errorf("%d datagrams arrived at a port that nobody may call", n)
	}
}

// comesBack sends a datagram that the echo server gives back. One may be lost where
// the machine is so busy that a worker's heartbeat is late.
func (x *site) comesBack(v6 bool, size int) error {
	c := x.mustDial(web, "udp", db, v6, 9000)
	want, got := make([]byte, size), make([]byte, size+1)
	_, _ = rand.Read(want)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := c.Write(want); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(got)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err == nil && !bytes.Equal(got[:n], want) {
			err = errors.New("the bytes came back changed")
		}
		return err
	}
	return os.ErrDeadlineExceeded
}

func (x *site) rejects(v6 bool) {
	t := x.t
	if _, err := x.dial(web, "tcp", db, v6, 7000, patience); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("rejected connect: %v", err)
	}
	if _, err := x.dial(outside, "tcp", web, v6, 7000, patience); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("rejected connect from outside: %v", err)
	}
	for port, want := range map[uint16]error{7000: unix.EHOSTUNREACH, 53: unix.ECONNREFUSED} {
		if v6 && port == 7000 {
			want = unix.EACCES
		}
		if err := answer(x.mustDial(web, "udp", db, v6, port)); !errors.Is(err, want) {
			t.Errorf("datagram to port %d: %v, want %v", port, err, want)
		}
	}
}

// answer is the error that datagrams meet. One may be lost where the machine is
// so busy that a worker's heartbeat is late.
func answer(c net.Conn) (err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, _ = c.Write([]byte("x"))
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err = c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return err
}

func (x *site) outside(v6 bool) {
	t := x.t
	var got atomic.Int64
	go echo(x.listen(outside, v6, 443), &got)
	if err := exchange(x.mustDial(web, "tcp", outside, v6, 443), 1<<20); err != nil {
		t.Errorf("to outside: %v", err)
	}
	go echo(x.listen(web, v6, 8080), &got)
	if err := exchange(x.mustDial(outside, "tcp", web, v6, 8080), 1<<20); err != nil {
		t.Errorf("from outside: %v", err)
	}
	go echo(x.listen(db, v6, 8081), &got)
	if _, err := x.dial(outside, "tcp", db, v6, 8081, 300*time.Millisecond); err == nil {
		t.Error("outside reached a port that nobody may call")
	}
}

// restart: a decided connection lives on without a gateway, a new one does not
// come about, and the next gateway takes over.
func (x *site) restart(v6 bool) {
	t := x.t
	var got atomic.Int64
	go echo(x.listen(db, v6, 9000), &got)
	go echo(x.listen(db, v6, 80), &got)
	old := x.mustDial(web, "tcp", db, v6, 9000)
	if err := exchange(old, 1000); err != nil {
		t.Fatal(err)
	}
	x.stop()
	if err := x.s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := exchange(old, 100000); err != nil {
		t.Errorf("without a gateway: %v", err)
	}
	if _, err := x.dial(web, "tcp", db, v6, 9000, 300*time.Millisecond); err == nil {
		t.Error("a new connection came about without a gateway")
	}
	x.openSteer()
	x.start()
	if err := exchange(old, 100000); err != nil {
		t.Errorf("with the next gateway: %v", err)
	}
	if err := exchange(x.mustDial(web, "tcp", db, v6, 9000), 1000); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	// A table that forbids it ends it: silently, or with a reset.
	second := x.mustDial(web, "tcp", db, v6, 9000)
	if err := exchange(second, 1000); err != nil {
		t.Fatal(err)
	}
	x.enforce()
	_ = old.SetDeadline(time.Now().Add(300 * time.Millisecond))
	_, _ = old.Write([]byte("x"))
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("against the new table: %v", err)
	}
	x.enforce(line(policy.Reject, "web", "db", "any", "tcp/9000"))
	if err := exchange(second, 1); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("against a table that rejects: %v", err)
	}
	x.enforce(lines...)
}

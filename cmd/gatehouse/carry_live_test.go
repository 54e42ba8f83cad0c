package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
)

// newCarryingSite is a pair whose far ends take frames from XDP programs.
func newCarryingSite(t *testing.T) *site {
	x := newPairSite(t, 1500)
	for _, h := range []host{x.left, x.right} {
		mustRun(t, "ip", "netns", "exec", h.name, "ethtool", "-K", "eth0", "gro", "on")
	}
	return x
}

func (x *site) decided() uint64 { return x.gateway.status().Packets["decided"] }

// Decided flows pass a pair in the kernel, and all that holds in user space holds
// there.
func TestPairCarries(t *testing.T) {
	x := newCarryingSite(t)
	x.start()
	x.crossing()
	before := x.decided()
	x.passes("once more")
	if n := x.decided() - before; n < 4*bulk/1500 { // to and fro, both families
		t.Errorf("the kernel carried %d packets of %d bytes", n, 4*bulk)
	}
}

// speech is a UDP conversation that policy allows and the kernel carries.
type speech struct {
	x      *site
	v6     bool
	server net.PacketConn
	client net.Conn
	said   uint32
}

func (x *site) speak(v6 bool) *speech {
	x.t.Helper()
	s := &speech{x: x, v6: v6}
	at := netip.AddrPortFrom(x.right.addr(v6), 5000).String()
	err := inside(x.right.path(), func() (err error) {
		s.server, err = net.ListenPacket("udp", at)
		return err
	})
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { s.server.Close() })
	if s.client, err = dial(x.left.path(), "udp", at, livePatience); err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { s.client.Close() })
	return s
}

// arrives reports whether what the client says arrives.
func (s *speech) arrives() bool {
	s.x.t.Helper()
	s.said++
	if _, err := s.client.Write(binary.BigEndian.AppendUint32(nil, s.said)); err != nil {
		return false
	}
	buf := make([]byte, 16)
	_ = s.server.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		n, _, err := s.server.ReadFrom(buf)
		if err != nil {
			return false
		}
		if n == 4 && binary.BigEndian.Uint32(buf) == s.said {
			return true
		}
	}
}

// isCarried waits until the kernel carries it.
func (s *speech) isCarried(when string) {
	s.x.t.Helper()
	s.x.gateway.eventually("the kernel carries a decided flow "+when, func() bool {
		before := s.x.decided()
		return s.arrives() && s.x.decided() > before
	}, func() string {
		return fmt.Sprintf("IPv6 %v: %v\n%s", s.v6, s.x.gateway.status().Packets, s.x.gateway.log())
	})
}

// What the kernel carries ends with the policy that allowed it, with the gateway,
// and with the interfaces' ability; it carries a flow only from where that comes.
func TestPairCarriesNoMore(t *testing.T) {
	x := newCarryingSite(t)
	x.start()
	speeches := []*speech{x.speak(false), x.speak(true)}
	for _, s := range speeches {
		s.isCarried("at first")
	}

	left, right := x.leg(x.left), x.leg(x.right)
	stranger := left
	stranger.mac = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	datagram := &layers.UDP{SrcPort: layers.UDPPort(speeches[0].client.LocalAddr().(*net.UDPAddr).Port), DstPort: 5000}
	for _, c := range []struct {
		what string
		by   host
		as   leg
	}{
		{"left's, from behind right's interface", x.right, left},
		{"left's, from another MAC", x.left, stranger},
	} {
		t.Run(c.what, func(t *testing.T) {
			before := x.gateway.status().Packets
			rawSocket(t, c.by)(frameOf(t, c.as, right, datagram, leakMark))
			x.gateway.as(t).eventually("user space gets it", func() bool { return x.gateway.status().Packets["forwarded"] > before["forwarded"] }, x.gateway.log)
			if n := x.decided() - before["decided"]; n != 0 {
				t.Errorf("the kernel carried %d frames", n)
			}
		})
	}
	t.Run("the far end takes nothing from XDP any more", func(t *testing.T) {
		mustRun(t, "ip", "netns", "exec", x.right.name, "ethtool", "-K", "eth0", "gro", "off")
		for _, s := range speeches {
			x.gateway.as(t).eventually("it goes through user space", s.arrives, x.gateway.log)
		}
		before := x.decided()
		if !speeches[0].arrives() || x.decided() != before {
			t.Error("lost, or carried to where nothing takes it")
		}
		if !strings.Contains(x.gateway.log(), "every packet goes through user space") {
			t.Errorf("the log does not say so:\n%s", x.gateway.log())
		}
		mustRun(t, "ip", "netns", "exec", x.right.name, "ethtool", "-K", "eth0", "gro", "on")
		for _, s := range speeches {
			s.isCarried("again")
		}
	})
	t.Run("another policy", func(t *testing.T) {
		text, err := os.ReadFile(x.statements)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(x.statements, []byte(strings.ReplaceAll(string(text), "udp/5000", "udp/5001")), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, s := range speeches {
			x.gateway.as(t).eventually("it is dropped", func() bool { return !s.arrives() }, x.gateway.log)
		}
		for _, s := range speeches {
			for range 3 {
				if s.arrives() {
					t.Errorf("IPv6 %v: it arrives although policy forbids it", s.v6)
				}
			}
		}
		if err := os.WriteFile(x.statements, text, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, s := range speeches {
			s.isCarried("as policy allows it again")
		}
	})
	t.Run("no gateway", func(t *testing.T) {
		x.gateway.kill()
		for _, s := range speeches {
			if s.arrives() {
				t.Errorf("IPv6 %v: a decided flow passes without a gateway", s.v6)
			}
		}
		x.gateway.start()
		for _, s := range speeches {
			s.isCarried("when it is back")
		}
	})
}

// An interface that is replaced is found by events, and nothing is carried to
// another that is given its index, not even while the gateway cannot look.
func TestPairInterfaceReplaced(t *testing.T) {
	x := newCarryingSite(t)
	x.start()
	speeches := []*speech{x.speak(false), x.speak(true)}
	for _, s := range speeches {
		s.isCarried("at first")
	}
	decoy := host{name: strings.TrimSuffix(x.mid, "mid") + "decoy"}
	mustRun(t, "ip", "netns", "add", decoy.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", decoy.name).Run() })
	lay := func() {
		x.lay(&x.right, "eth2", 1500, [2]string{"198.51.100.2/24", "2001:db8::2/64"})
		mustRun(t, "ip", "netns", "exec", x.right.name, "ethtool", "-K", "eth0", "gro", "on")
		x.ip(x.left.name, "neigh flush dev eth0") // another card, another MAC
	}
	carriedAgain := func(t *testing.T) {
		t.Helper()
		for _, s := range speeches {
			s.isCarried("by the new interface")
		}
	}
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := x.gateway.child.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("another with its index", func(t *testing.T) {
		var index int
		if err := inside("/var/run/netns/"+x.mid, func() error {
			i, err := net.InterfaceByName("eth2")
			if err == nil {
				index = i.Index
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		signal(syscall.SIGSTOP)
		x.ip(x.mid, "link del eth2")
		x.ip(x.mid, fmt.Sprintf("link add decoy index %d type veth peer name eth0 netns %s", index, decoy.name))
		x.ip(x.mid, "link set decoy up")
		x.ip(decoy.name, "link set eth0 up")
		mustRun(t, "ip", "netns", "exec", decoy.name, "ethtool", "-K", "eth0", "gro", "on")
		w := x.watch(decoy, func(seen) bool { return true })
		for _, s := range speeches {
			if s.arrives() {
				t.Errorf("IPv6 %v: it arrives behind an interface that is gone", s.v6)
			}
		}
		signal(syscall.SIGCONT)
		x.gateway.as(t).eventually("the loss is told", func() bool { return !x.gateway.status().Ready }, x.gateway.log)
		for _, s := range speeches {
			_ = s.arrives()
		}
		w.none("frames of a flow whose interface is gone, at another of its index")
		lay()
		carriedAgain(t)
	})
	t.Run("another with its name, at once", func(t *testing.T) {
		signal(syscall.SIGSTOP)
		x.ip(x.mid, "link del eth2")
		lay()
		signal(syscall.SIGCONT)
		carriedAgain(t)
	})
	t.Run("another with its name, the first one still there", func(t *testing.T) {
		signal(syscall.SIGSTOP)
		x.ip(x.mid, "link set eth2 name was2")
		x.ip(x.right.name, "link set eth0 name was0")
		x.ip(x.right.name, "addr flush dev was0")
		lay()
		signal(syscall.SIGCONT)
		carriedAgain(t)
		if log := x.gateway.log(); !strings.Contains(log, "eth2 is another interface now") {
			t.Errorf("the log does not say so:\n%s", log)
		}
	})
}

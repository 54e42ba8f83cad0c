package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
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

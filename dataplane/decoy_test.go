package dataplane_test

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// TestDecoys: segments that the server's kernel throws away, since they
// acknowledge what was never sent, do not name a connection whose real bytes,
// in the same place, are another application's (threat 15).
func TestDecoys(t *testing.T) {
	x := newSite(t, 1, false)
	families(t, func(t *testing.T, v6 bool) {
		x.t = t
		var got atomic.Int64
		l := x.listen(db, v6, 80)
		go echo(l, &got)
		raw := x.rawSocket(web)
		defer unix.Close(raw)
		c := x.mustDial(web, "tcp", db, v6, 80)
		template := handshakeEnd(t, raw)
		decoy := func(off uint32, payload string) {
			f := resend(t, template, off, payload)
			if err := unix.Send(raw, f, 0); err != nil {
				t.Fatal(err)
			}
		}
		const get = "GET / HTTP/1.1\r\nHost: db\r\n\r\n"
		decoy(0, get)
		for i := range uint32(30) {
			decoy(uint32(len(get))+i*100, string(make([]byte, 100)))
		}
		time.Sleep(200 * time.Millisecond)
		if _, err := c.Write([]byte("SSH-2.0-OpenSSH_9.2p1\r\n")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(make([]byte, 64)); err == nil {
			t.Errorf("%d bytes were answered", n)
		}
		if n := got.Load(); n != 0 {
			t.Errorf("%d bytes of ssh arrived at the http port; flows %+v", n, x.d.Flows())
		}
		l.Close()
	})
	x.t = t
}

// rawSocket is a packet socket on the party's eth0.
func (x *site) rawSocket(p party) (fd int) {
	x.t.Helper()
	err := x.in(p.name, func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("eth0")
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(ifr.Uint32())})
	})
	if err != nil {
		x.t.Fatal(err)
	}
	wait := unix.NsecToTimeval(int64(patience))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	return fd
}

// handshakeEnd is the client's first bare acknowledgement on the wire.
func handshakeEnd(t *testing.T, fd int) gopacket.Packet {
	t.Helper()
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(append([]byte(nil), buf[:n]...), layers.LayerTypeEthernet, gopacket.Default)
		if tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok && tcp.DstPort == 80 && tcp.ACK && !tcp.SYN && len(tcp.Payload) == 0 {
			return p
		}
	}
}

// resend is p with another payload off bytes later, and an acknowledgement of
// bytes that its receiver never sent.
func resend(t *testing.T, p gopacket.Packet, off uint32, payload string) []byte {
	t.Helper()
	tcp := *p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	tcp.Seq += off
	tcp.Ack += 1 << 20
	if err := tcp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		p.LinkLayer().(gopacket.SerializableLayer), p.NetworkLayer().(gopacket.SerializableLayer), &tcp, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

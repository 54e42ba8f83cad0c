package dataplane

import (
	"bytes"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
)

// frame builds an Ethernet frame of the given layers, with checksums, between
// macA and macB.
func frame(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: layers.EthernetTypeIPv4}
	var network gopacket.NetworkLayer
	for _, l := range ls {
		switch l := l.(type) {
		case *layers.IPv4:
			network = l
		case *layers.IPv6:
			network, eth.EthernetType = l, layers.EthernetTypeIPv6
		case *layers.TCP:
			must(t, l.SetNetworkLayerForChecksum(network))
		case *layers.UDP:
			must(t, l.SetNetworkLayerForChecksum(network))
		case *layers.ICMPv6:
			must(t, l.SetNetworkLayerForChecksum(network))
		}
	}
	b := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	must(t, gopacket.SerializeLayers(b, opts, append([]gopacket.SerializableLayer{eth}, ls...)...))
	return bytes.Clone(b.Bytes())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ipLayer makes the header of either family from 192.0.2.1 or 2001:db8::1 to
// .2 or ::2.
func ipLayer(v6 bool, proto layers.IPProtocol) gopacket.SerializableLayer {
	if v6 {
		return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2")}
	}
	return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: proto, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}
}

// checksummed fails the test if serialising the decoded packet again, with
// fresh lengths and checksums, gives other bytes.
func checksummed(t *testing.T, b []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("%v in %x", e.Error(), b)
	}
	var ls []gopacket.SerializableLayer
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.TCP:
			must(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		case *layers.UDP:
			must(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		case *layers.DNS: // its bytes as they are
			ls = append(ls, gopacket.Payload(l.Contents))
			continue
		case *layers.ICMPv6:
			must(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		}
		if s, ok := l.(gopacket.SerializableLayer); ok {
			ls = append(ls, s)
		}
	}
	again := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(again, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...))
	want := again.Bytes()
	if len(b) < 60 {
		want = want[:len(b)] // gopacket pads
	}
	if !bytes.Equal(want, b) {
		t.Fatalf("lengths or checksums are wrong:\n%x, want\n%x", b, want)
	}
	return p
}

func TestResetAnswersSegment(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, tc := range []struct {
			name     string
			tcp      layers.TCP
			payload  int
			seq, ack uint32
			hasACK   bool
		}{
			{"SYN", layers.TCP{Seq: 1000, SYN: true}, 0, 0, 1001, true},
			{"SYN with data", layers.TCP{Seq: 1000, SYN: true}, 10, 0, 1011, true},
			{"SYN at the end of the numbers", layers.TCP{Seq: 1<<32 - 1, SYN: true}, 0, 0, 0, true},
			{"ACK", layers.TCP{Seq: 1000, Ack: 77, ACK: true}, 0, 77, 0, false},
			{"data", layers.TCP{Seq: 1000, Ack: 78, ACK: true, PSH: true}, 501, 78, 0, false},
			{"SYN-ACK", layers.TCP{Seq: 5, Ack: 9, ACK: true, SYN: true}, 0, 9, 0, false},
		} {
			tc.tcp.SrcPort, tc.tcp.DstPort = 40000, 22
			in := frame(t, ipLayer(v6, layers.IPProtocolTCP), &tc.tcp, gopacket.Payload(make([]byte, tc.payload)))
			out := make([]byte, 2048)
			n := writeReject(out, in, ethHeader, adminProhibited)
			if n == 0 {
				t.Errorf("%s v6=%v: no answer", tc.name, v6)
				continue
			}
			p := checksummed(t, out[:n])
			eth := p.LinkLayer().(*layers.Ethernet)
			if !bytes.Equal(eth.SrcMAC, macB) || !bytes.Equal(eth.DstMAC, macA) {
				t.Errorf("%s: from %v to %v", tc.name, eth.SrcMAC, eth.DstMAC)
			}
			flow := gopacket.NewPacket(in, layers.LayerTypeEthernet, gopacket.Default).NetworkLayer().NetworkFlow()
			if p.NetworkLayer().NetworkFlow() != flow.Reverse() {
				t.Errorf("%s: from and to %v", tc.name, p.NetworkLayer().NetworkFlow())
			}
			r := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if !r.RST || r.SYN || r.ACK != tc.hasACK || r.Seq != tc.seq || r.Ack != tc.ack || r.SrcPort != 22 || r.DstPort != 40000 {
				t.Errorf("%s v6=%v: %+v, want seq %d ack %d", tc.name, v6, r, tc.seq, tc.ack)
			}
		}
	}
}

func TestUnreachableAnswersDatagram(t *testing.T) {
	for _, size := range []int{0, 1, 511, 1400} {
		for _, why := range []unreachable{adminProhibited, portUnreachable} {
			in4 := frame(t, ipLayer(false, layers.IPProtocolUDP), &layers.UDP{SrcPort: 5000, DstPort: 53}, gopacket.Payload(make([]byte, size)))
			out := make([]byte, 2048)
			p := checksummed(t, out[:writeReject(out, in4, ethHeader, why)])
			icmp4 := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
			want4 := layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, why.code4())
			if icmp4.TypeCode != want4 || !bytes.HasPrefix(in4[ethHeader:], icmp4.Payload) || len(icmp4.Payload) < 28 {
				t.Errorf("IPv4 %d bytes: %v, quotes %d bytes", size, icmp4.TypeCode, len(icmp4.Payload))
			}
			if total := len(p.Data()) - ethHeader; total > 576 {
				t.Errorf("IPv4 error of %d bytes", total)
			}

			in6 := frame(t, ipLayer(true, layers.IPProtocolUDP), &layers.UDP{SrcPort: 5000, DstPort: 53}, gopacket.Payload(make([]byte, size)))
			p = checksummed(t, out[:writeReject(out, in6, ethHeader, why)])
			icmp6 := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
			want6 := layers.CreateICMPv6TypeCode(layers.ICMPv6TypeDestinationUnreachable, why.code6())
			quoted := icmp6.Payload
			if icmp6.TypeCode != want6 || len(quoted) < 4 {
				t.Errorf("IPv6 %d bytes: %v, quotes %d bytes", size, icmp6.TypeCode, len(quoted))
			}
			if total := len(p.Data()) - ethHeader; total > 1280 || total < min(1280, ipv6Header+icmpHeader+len(in6)-ethHeader) {
				t.Errorf("IPv6 error of %d bytes for a packet of %d", total, len(in6)-ethHeader)
			}
		}
	}
}

func TestNoAnswer(t *testing.T) {
	udp := func() *layers.UDP { return &layers.UDP{SrcPort: 1, DstPort: 2} }
	multicastMAC := frame(t, ipLayer(false, layers.IPProtocolUDP), udp())
	copy(multicastMAC, []byte{1, 0, 0x5e, 0, 0, 1})
	later := ipLayer(false, layers.IPProtocolUDP).(*layers.IPv4)
	later.FragOffset = 100
	group := ipLayer(false, layers.IPProtocolUDP).(*layers.IPv4)
	group.DstIP = net.IP{224, 0, 0, 251}
	group6 := ipLayer(true, layers.IPProtocolUDP).(*layers.IPv6)
	group6.DstIP = net.ParseIP("ff02::fb")
	unspecified := ipLayer(false, layers.IPProtocolUDP).(*layers.IPv4)
	unspecified.SrcIP = net.IP{0, 0, 0, 0}
	for name, in := range map[string][]byte{
		"reset":         frame(t, ipLayer(false, layers.IPProtocolTCP), &layers.TCP{RST: true}),
		"reset 6":       frame(t, ipLayer(true, layers.IPProtocolTCP), &layers.TCP{RST: true}),
		"ICMP error":    frame(t, ipLayer(false, layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(make([]byte, 28))),
		"ICMPv6 error":  frame(t, ipLayer(true, layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 1)}, gopacket.Payload(make([]byte, 60))),
		"later part":    frame(t, later, gopacket.Payload(make([]byte, 64))),
		"group":         frame(t, group, udp()),
		"group 6":       frame(t, group6, udp()),
		"no source":     frame(t, unspecified, udp()),
		"multicast MAC": multicastMAC,
	} {
		out := make([]byte, 2048)
		if n := writeReject(out, in, ethHeader, adminProhibited); n != 0 {
			t.Errorf("%s was answered with %x", name, out[:n])
		}
	}
}

// A lookup that was sent to many, or from nowhere, has no answer: it would be a
// flood of them, or somebody else's.
func TestNoRefusal(t *testing.T) {
	const query = "\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05redis\x00\x00\x01\x00\x01"
	for _, v6 := range []bool{false, true} {
		lookup := func(src, dst string) []byte {
			ip := ipLayer(v6, layers.IPProtocolUDP)
			switch ip := ip.(type) {
			case *layers.IPv4:
				ip.SrcIP, ip.DstIP = net.ParseIP(src), net.ParseIP(dst)
			case *layers.IPv6:
				ip.SrcIP, ip.DstIP = net.ParseIP(src), net.ParseIP(dst)
			}
			return frame(t, ip, &layers.UDP{SrcPort: 5000, DstPort: 53}, gopacket.Payload(query))
		}
		one, other, group, none := "192.0.2.1", "192.0.2.2", "224.0.0.251", "0.0.0.0"
		if v6 {
			one, other, group, none = "2001:db8::1", "2001:db8::2", "ff02::fb", "::"
		}
		many := lookup(one, other)
		copy(many, []byte{1, 0, 0x5e, 0, 0, 1})
		out := make([]byte, 2048)
		for name, in := range map[string][]byte{"group": lookup(one, group), "from a group": lookup(group, one), "from nowhere": lookup(none, one), "frame to many": many} {
			if n := writeRefusal(out, in, ethHeader, []byte(query), false); n != 0 {
				t.Errorf("%s was answered with %x", name, out[:n])
			}
		}
		in := lookup(one, other)
		p := checksummed(t, out[:writeRefusal(out, in, ethHeader, []byte(query), false)])
		if u := p.Layer(layers.LayerTypeUDP).(*layers.UDP); u.SrcPort != 53 || u.DstPort != 5000 {
			t.Errorf("%+v", u)
		}
		bare := make([]byte, 2048)
		if n := writeRefusal(bare, in[ethHeader:], 0, []byte(query), false); !bytes.Equal(bare[:n], p.Data()[ethHeader:]) {
			t.Errorf("without a link header: %x", bare[:n])
		}
	}
}

func TestCutTurnsSegmentIntoReset(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		b := frame(t, ipLayer(v6, layers.IPProtocolTCP), &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 500, Ack: 600, ACK: true, PSH: true, Window: 9}, gopacket.Payload("GET / HTTP/1.1"))
		n := cutTo(b, ethHeader)
		p := checksummed(t, b[:n])
		r := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !r.RST || !r.ACK || r.Seq != 500 || r.Ack != 600 || r.SrcPort != 40000 || len(r.Payload) != 0 {
			t.Errorf("v6=%v: %+v", v6, r)
		}
		if cutTo(b[:n], ethHeader) != 0 {
			t.Errorf("v6=%v: a reset was cut again", v6)
		}
	}
}

func FuzzReject(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		f.Add(frame(f, ipLayer(v6, layers.IPProtocolTCP), &layers.TCP{SYN: true}))
		f.Add(frame(f, ipLayer(v6, layers.IPProtocolUDP), &layers.UDP{}, gopacket.Payload("x")))
		f.Add(frame(f, ipLayer(v6, layers.IPProtocolUDP), &layers.UDP{DstPort: 53}, gopacket.Payload("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05redis\x00\x00\x01\x00\x01")))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out := make([]byte, 2048)
		for _, l3 := range []int{0, 14, 18} {
			if n := writeReject(out, in, l3, portUnreachable); n < 0 || n > len(out) {
				t.Fatalf("%d bytes", n)
			}
			if n := writeRefusal(out, in, l3, in[min(len(in), l3+ipv4Header+udpHeader):], false); n < 0 || n > len(out) {
				t.Fatalf("%d bytes", n)
			}
			if n := cutTo(bytes.Clone(in), l3); n > len(in) {
				t.Fatalf("cut to %d of %d", n, len(in))
			}
		}
	})
}

func TestRateLimit(t *testing.T) {
	for _, c := range []struct {
		pace          pace
		atOnce, later int // at once, and in the second after it
	}{{rejectPace, 64, 200}, {refusalPace, 512, 2000}} {
		var r rateLimit
		now := int64(1e15)
		taken := 0
		for range 10_000 {
			if r.take(now, c.pace) {
				taken++
			}
		}
		if taken != c.atOnce {
			t.Errorf("%d at once, want %d", taken, c.atOnce)
		}
		taken = 0
		for range 10_000 {
			now += 1e5
			if r.take(now, c.pace) {
				taken++
			}
		}
		if taken < c.later-1 || taken > c.later+1 {
			t.Errorf("%d in a second, want %d", taken, c.later)
		}
	}
}

package classify

import (
	"bytes"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"gatehouse/policy"
)

var (
	neighbourMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	othersMAC    = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

func arpFrame(t testing.TB, change func(*layers.ARP)) []byte {
	t.Helper()
	arp := &layers.ARP{AddrType: 1, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
		SourceHwAddress: neighbourMAC, SourceProtAddress: []byte{192, 0, 2, 1}, DstHwAddress: make([]byte, 6), DstProtAddress: []byte{192, 0, 2, 2}}
	change(arp)
	return neighbourFrame(t, &layers.Ethernet{SrcMAC: neighbourMAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP}, arp)
}

func neighbourFrame(t testing.TB, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

// nd is an ICMPv6 packet of that type and code, whose body is what follows the
// first 4 bytes of its header.
func nd(t testing.TB, src string, hops, kind, code uint8, body ...byte) []byte {
	t.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.ParseIP(src), DstIP: net.ParseIP("ff02::1:ff00:2")}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
	_ = icmp.SetNetworkLayerForChecksum(ip)
	return neighbourFrame(t, &layers.Ethernet{SrcMAC: neighbourMAC, DstMAC: othersMAC, EthernetType: layers.EthernetTypeIPv6}, ip, icmp, gopacket.Payload(body))
}

func target(options ...byte) []byte {
	return append(append(make([]byte, 4), net.ParseIP("fe80::2")...), options...)
}

// R22 where packets are decoded: what passes unasked, and what drops with which reason.
func TestNeighbours(t *testing.T) {
	own := append([]byte{1, 1}, neighbourMAC...)
	others := append([]byte{2, 1}, othersMAC...)
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6}
	plain := func(*layers.ARP) {}
	solicit := nd(t, "fe80::1", 255, 135, 0, target(own...)...)
	for _, c := range []struct {
		name  string
		frame []byte
		is    bool
		want  policy.Reason
	}{
		{"ARP request", arpFrame(t, plain), true, policy.ReasonNone},
		{"ARP reply", arpFrame(t, func(a *layers.ARP) { a.Operation = 2 }), true, policy.ReasonNone},
		{"ARP without padding", arpFrame(t, plain)[:etherHead+arpSize], true, policy.ReasonNone},
		{"ARP with a byte more", append(arpFrame(t, plain), 0), true, policy.ReasonARPSender},
		{"ARP cut short", arpFrame(t, plain)[:41], true, policy.ReasonARPSender},
		{"RARP", arpFrame(t, func(a *layers.ARP) { a.Operation = 3 }), true, policy.ReasonARPSender},
		{"ARP of other hardware", arpFrame(t, func(a *layers.ARP) { a.AddrType = 6 }), true, policy.ReasonARPSender},
		{"ARP in another's name", arpFrame(t, func(a *layers.ARP) { a.SourceHwAddress = othersMAC }), true, policy.ReasonARPSender},
		{"solicitation", solicit, true, policy.ReasonNone},
		{"solicitation with a nonce", nd(t, "fe80::1", 255, 135, 0, target(append(own, nonce...)...)...), true, policy.ReasonNone},
		{"duplicate address detection", nd(t, "::", 255, 135, 0, target(nonce...)...), true, policy.ReasonNone},
		{"that with an address", nd(t, "::", 255, 135, 0, target(own...)...), true, policy.ReasonNDSender},
		{"advertisement", nd(t, "fe80::1", 255, 136, 0, target(append([]byte{2, 1}, neighbourMAC...)...)...), true, policy.ReasonNone},
		{"advertisement by nobody", nd(t, "::", 255, 136, 0, target()...), true, policy.ReasonNDSender},
		{"advertisement of another's address", nd(t, "fe80::1", 255, 136, 0, target(others...)...), true, policy.ReasonNDSender},
		{"routed", nd(t, "fe80::1", 254, 135, 0, target(own...)...), true, policy.ReasonNDSender},
		{"code", nd(t, "fe80::1", 255, 135, 1, target(own...)...), true, policy.ReasonNDSender},
		{"short", nd(t, "fe80::1", 255, 135, 0, target()[:19]...), true, policy.ReasonNDSender},
		{"half an option", nd(t, "fe80::1", 255, 135, 0, target(own[:4]...)...), true, policy.ReasonNDSender},
		{"long option", nd(t, "fe80::1", 255, 135, 0, target(append([]byte{1, 2}, make([]byte, 14)...)...)...), true, policy.ReasonNDSender},
		{"empty option", nd(t, "fe80::1", 255, 135, 0, target(append([]byte{1, 0}, make([]byte, 6)...)...)...), true, policy.ReasonNDSender},
		{"unknown option", nd(t, "fe80::1", 255, 135, 0, target(append([]byte{99, 1}, make([]byte, 6)...)...)...), true, policy.ReasonNDSender},
		{"five options", nd(t, "fe80::1", 255, 135, 0, target(bytes.Repeat(nonce, 5)...)...), true, policy.ReasonNDSender},
		{"data behind it", append(bytes.Clone(solicit), 'x'), true, policy.ReasonNDSender},
		{"router solicitation", nd(t, "fe80::1", 255, 133, 0, make([]byte, 4)...), true, policy.ReasonRouterSolicitation},
		{"router advertisement", nd(t, "fe80::1", 255, 134, 0, make([]byte, 12)...), true, policy.ReasonRouterAdvertisement},
		{"redirect", nd(t, "fe80::1", 255, 137, 0, make([]byte, 36)...), true, policy.ReasonRouterAdvertisement},
		{"echo", nd(t, "fe80::1", 255, 128, 0, make([]byte, 4)...), false, policy.ReasonNone},
	} {
		var p Packet
		if r := Decode(c.frame, etherHead, &p); r != policy.ReasonNone {
			t.Errorf("%s: decoded as %v", c.name, r)
			continue
		}
		if is, got := Neighbours(c.frame, &p); is != c.is || got != c.want {
			t.Errorf("%s: %v, %v, want %v, %v", c.name, is, got, c.is, c.want)
		}
	}
	var p Packet
	if r := Decode(solicit[etherHead:], 0, &p); r != policy.ReasonNone {
		t.Fatal(r)
	}
	if is, r := Neighbours(solicit[etherHead:], &p); !is || r != policy.ReasonNDSender {
		t.Errorf("a solicitation that was routed: %v, %v", is, r)
	}
}

// FuzzNeighbours: whatever passes unjudged has no room for anything else.
func FuzzNeighbours(f *testing.F) {
	f.Add(arpFrame(f, func(*layers.ARP) {}))
	f.Add(nd(f, "fe80::1", 255, 135, 0, target(append([]byte{1, 1}, neighbourMAC...)...)...))
	f.Add(nd(f, "fe80::1", 255, 134, 0, make([]byte, 12)...))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p Packet
		if Decode(frame, etherHead, &p) != policy.ReasonNone {
			return
		}
		is, r := Neighbours(frame, &p)
		if is && r == policy.ReasonNone && len(frame) > etherHead+ipv6Head+ndSize+8*ndOptions {
			t.Errorf("%d bytes pass unjudged: %x", len(frame), frame)
		}
	})
}

// TestDecodeBare: what has no link header is read as what has one.
func TestDecodeBare(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		frame := wire{v6, webIdx, dbIdx}.tcp(t, 1000, 80, SYN, 1, 0, "payload")
		var with, without Packet
		if r := Decode(frame, etherHead, &with); r != policy.ReasonNone {
			t.Fatal(r)
		}
		if r := Decode(frame[etherHead:], 0, &without); r != policy.ReasonNone {
			t.Fatal(r)
		}
		if with.Key != without.Key || with.L4 != without.L4+etherHead || string(with.Payload) != string(without.Payload) || without.V6 != v6 {
			t.Errorf("%+v\n%+v", with, without)
		}
	}
	var p Packet
	for _, odd := range []struct {
		frame []byte
		want  policy.Reason
	}{{nil, policy.ReasonTruncated}, {[]byte{0x45}, policy.ReasonTruncated}, {make([]byte, 64), policy.ReasonEtherType}} {
		if r := Decode(odd.frame, 0, &p); r != odd.want {
			t.Errorf("%x: %v, want %v", odd.frame, r, odd.want)
		}
	}
}

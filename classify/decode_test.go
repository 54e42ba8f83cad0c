package classify

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"gatehouse/policy"
)

// patch returns a copy of the frame b with bytes written at off, and the
// checksum of an IPv4 header made right again.
func patch(b []byte, off int, bytes ...byte) []byte {
	out := append([]byte(nil), b...)
	copy(out[off:], bytes)
	sumHeader(out)
	return out
}

// sumHeader makes the checksum of an IPv4 header without options right.
func sumHeader(frame []byte) {
	if len(frame) < l3+ipv4Head || be.Uint16(frame[12:]) != etherIPv4 {
		return
	}
	ip := frame[l3 : l3+ipv4Head]
	ip[10], ip[11] = 0, 0
	sum := sumWords(ip, 0)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	be.PutUint16(ip[10:], ^uint16(sum))
}

// damaged returns a copy of an IPv4 frame whose header checksum is wrong.
func damaged(frame []byte) []byte {
	out := append([]byte(nil), frame...)
	out[l3+10] ^= 1
	return out
}

// TestOddFrames: what cannot be parsed, or hides what follows, is dropped by
// name (threats 5 to 11 and 14).
func TestOddFrames(t *testing.T) {
	v4, v6 := wire{false, webIdx, dbIdx}, wire{true, webIdx, dbIdx}
	tcp4, tcp6 := v4.tcp(t, 1000, 80, SYN, 1, 0, ""), v6.tcp(t, 1000, 80, SYN, 1, 0, "")
	udp4, udp6 := v4.udp(t, 1000, 53, "x"), v6.udp(t, 1000, 53, "x")
	flags4 := func(f byte) []byte { return patch(tcp4, 14+20+13, f) }
	flags6 := func(f byte) []byte { return patch(tcp6, 14+40+13, f) }
	// ext puts an extension header of 8 bytes before TCP.
	ext := func(kind byte) []byte {
		out := append([]byte(nil), tcp6[:54]...)
		out = append(out, 6, 0, 1, 4, 0, 0, 0, 0)
		out = append(out, tcp6[54:]...)
		out[14+6] = kind
		binary.BigEndian.PutUint16(out[14+4:], uint16(len(out)-54))
		return out
	}
	options := func() []byte {
		out := append([]byte(nil), tcp4[:34]...)
		out = append(out, 0x83, 7, 4, 10, 0, 0, 1, 0) // loose source route
		out = append(out, tcp4[34:]...)
		out[14] = 0x47
		binary.BigEndian.PutUint16(out[16:], uint16(len(out)-14))
		return out
	}
	vlan := func(kinds ...uint16) []byte {
		out := append([]byte(nil), tcp4[:12]...)
		for _, k := range kinds {
			out = binary.BigEndian.AppendUint16(out, k)
			out = append(out, 0, 0)
		}
		return append(out, tcp4[12:]...)
	}
	mapped := func(off int) []byte {
		return patch(tcp6, off, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 172, 18, 0, 3)
	}
	tests := []struct {
		name  string
		frame []byte
		want  policy.Reason
	}{
		{"whole ipv4", tcp4, policy.ReasonNone},
		{"whole ipv6", tcp6, policy.ReasonNone},
		{"vlan 0", vlan(0x8100), policy.ReasonVLAN},
		{"three vlan tags", vlan(0x8100, 0x8100, 0x8100), policy.ReasonVLAN},
		{"802.1ad", vlan(0x88a8, 0x8100), policy.ReasonVLAN},
		{"llc length", patch(tcp4, 12, 0, 40), policy.ReasonEtherType},
		{"snap", patch(tcp4, 12, 0, 40, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0), policy.ReasonEtherType},
		{"mpls", patch(tcp4, 12, 0x88, 0x47), policy.ReasonEtherType},
		{"eapol", patch(tcp4, 12, 0x88, 0x8e), policy.ReasonEtherType},
		{"pppoe", patch(tcp4, 12, 0x88, 0x64), policy.ReasonEtherType},
		{"ipv6 called ipv4", patch(tcp6, 12, 8, 0), policy.ReasonBadHeader},
		{"ipv4 called ipv6", append(patch(tcp4, 12, 0x86, 0xdd), make([]byte, 20)...), policy.ReasonBadHeader},
		{"ihl 4", patch(tcp4, 14, 0x44), policy.ReasonBadHeader},
		{"options: source route", options(), policy.ReasonIPOptions},
		{"total length below header", patch(tcp4, 16, 0, 19), policy.ReasonBadHeader},
		{"total length past frame", patch(tcp4, 16, 1, 0), policy.ReasonTruncated},
		{"payload length past frame", patch(tcp6, 18, 1, 0), policy.ReasonTruncated},
		{"header checksum", damaged(tcp4), policy.ReasonBadHeader},
		{"header checksum of a datagram", damaged(udp4), policy.ReasonBadHeader},
		{"reserved ip flag", patch(tcp4, 20, 0x80), policy.ReasonBadHeader},
		{"source is a group", patch(tcp4, 26, 224), policy.ReasonBadHeader},
		{"source is loopback", patch(tcp4, 26, 127), policy.ReasonBadHeader},
		{"destination is loopback", patch(tcp4, 30, 127), policy.ReasonBadHeader},
		{"source is destination", patch(tcp4, 26, 172, 18, 0, 3, 172, 18, 0, 3), policy.ReasonBadHeader},
		{"ipv6 source is a group", patch(tcp6, 22, 0xff), policy.ReasonBadHeader},
		{"mapped source", mapped(22), policy.ReasonBadHeader},
		{"mapped destination", mapped(38), policy.ReasonBadHeader},
		{"compatible destination", patch(tcp6, 38, make([]byte, 12)...), policy.ReasonBadHeader},
		{"hop-by-hop", ext(0), policy.ReasonExtensionHeader},
		{"routing", ext(43), policy.ReasonExtensionHeader},
		{"destination options", ext(60), policy.ReasonExtensionHeader},
		{"authentication", ext(51), policy.ReasonExtensionHeader},
		{"mobility", ext(135), policy.ReasonExtensionHeader},
		{"hip", ext(139), policy.ReasonExtensionHeader},
		{"shim6", ext(140), policy.ReasonExtensionHeader},
		{"atomic fragment", ext(44)[:54+8+20], policy.ReasonNone}, // patched below
		{"tcp head too short", patch(tcp4, 14+20+12, 0x40), policy.ReasonBadHeader},
		{"tcp head past packet", patch(tcp4, 14+20+12, 0xf0), policy.ReasonTruncated},
		{"tcp cut", patch(tcp4, 16, 0, 30), policy.ReasonTruncated},
		{"tcp port 0", patch(tcp4, 36, 0, 0), policy.ReasonBadHeader},
		{"udp cut", patch(udp4, 16, 0, 24), policy.ReasonTruncated},
		{"udp length below head", patch(udp4, 38, 0, 7), policy.ReasonBadHeader},
		{"udp length past packet", patch(udp6, 58, 0, 99), policy.ReasonTruncated},
		{"icmp in ipv6", patch(udp6, 20, 1), policy.ReasonBadHeader},
		{"icmpv6 in ipv4", patch(udp4, 23, 58), policy.ReasonBadHeader},
		{"arp", patch(tcp4, 12, 8, 6), policy.ReasonNone},
		{"empty", nil, policy.ReasonTruncated},
		{"ethernet only", tcp4[:14], policy.ReasonTruncated},
	}
	for i := range tests {
		if tests[i].name == "atomic fragment" {
			f := patch(ext(44), 54, 6, 0, 0, 0)
			tests[i].frame, tests[i].want = f, policy.ReasonFragment
		}
	}
	for _, f := range []byte{0, byte(SYN | FIN), byte(SYN | RST), byte(FIN), byte(FIN | PSH | URG), byte(PSH), byte(RST | FIN), byte(SYN | FIN | RST | PSH | ACK | URG)} {
		tests = append(tests,
			struct {
				name  string
				frame []byte
				want  policy.Reason
			}{"flags ipv4", flags4(f), policy.ReasonBadHeader},
			struct {
				name  string
				frame []byte
				want  policy.Reason
			}{"flags ipv6", flags6(f), policy.ReasonBadHeader})
	}
	var p Packet
	for _, tt := range tests {
		if got := Decode(tt.frame, l3, &p); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestPadding: what follows the IP packet in the frame is not its payload.
func TestPadding(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		w := wire{v6, webIdx, dbIdx}
		var p Packet
		frame := append(w.tcp(t, 1000, 80, ACK, 1, 1, ""), make([]byte, 10)...)
		if r := Decode(frame, l3, &p); r != policy.ReasonNone || len(p.Payload) != 0 {
			t.Errorf("%v, %d bytes of payload", r, len(p.Payload))
		}
		frame = append(w.udp(t, 1000, 80, "abc"), "padding"...)
		if r := Decode(frame, l3, &p); r != policy.ReasonNone || string(p.Payload) != "abc" {
			t.Errorf("%v, payload %q", r, p.Payload)
		}
	})
}

// TestSteeringTag: the network header may stand further in.
func TestSteeringTag(t *testing.T) {
	w := wire{false, webIdx, dbIdx}
	frame := w.tcp(t, 1000, 80, SYN, 1, 0, "")
	tagged := append(append(append([]byte(nil), frame[:12]...), 0x81, 0, 0, 5), frame[12:]...)
	var p, q Packet
	if r := Decode(tagged, 18, &p); r != policy.ReasonNone {
		t.Fatal(r)
	}
	Decode(frame, 14, &q)
	if p.Key != q.Key || p.L3 != 18 || p.L4 != 38 {
		t.Errorf("%+v", p)
	}
}

// TestKey: both directions have one key, and no two conversations share one.
func TestKey(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		var a, b [16]byte
		for i := range a {
			a[i], b[i] = byte(rng.Uint32N(3)), byte(rng.Uint32N(3))
		}
		ap, bp := uint16(rng.Uint32N(3)), uint16(rng.Uint32N(3))
		k, r := MakeKey(1, policy.ProtoTCP, a, b, ap, bp)
		k2, r2 := MakeKey(1, policy.ProtoTCP, b, a, bp, ap)
		if k != k2 || r == r2 && !(a == b && ap == bp) {
			t.Fatalf("%v:%d %v:%d: %+v %v, %+v %v", a, ap, b, bp, k, r, k2, r2)
		}
		want := bytes.Compare(binary.BigEndian.AppendUint16(a[:], ap), binary.BigEndian.AppendUint16(b[:], bp)) > 0
		if r != want {
			t.Fatalf("%v:%d %v:%d reversed %v", a, ap, b, bp, r)
		}
	}
}

// TestDecodeAgainstGopacket compares with a decoder that others wrote, on
// random packets that are valid.
func TestDecodeAgainstGopacket(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	var p Packet
	for range 3000 {
		w := wire{rng.IntN(2) == 0, 1 + rng.IntN(4), 1}
		if w.to = 1 + rng.IntN(4); w.to == w.from {
			w.to = w.from%4 + 1
		}
		sport, dport := uint16(1+rng.Uint32N(65535)), uint16(1+rng.Uint32N(65535))
		payload := string(random(rng.IntN(1400)))
		var frame []byte
		kind := rng.IntN(3)
		flags := []TCPFlags{SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, URG | ACK}[rng.IntN(8)]
		seq, ack := rng.Uint32(), rng.Uint32()
		switch kind {
		case 0:
			frame = w.tcp(t, sport, dport, flags, seq, ack, payload)
		case 1:
			frame = w.udp(t, sport, dport, payload)
		case 2:
			frame = w.icmp(t, 8, 128, sport, payload)
		}
		if r := Decode(frame, l3, &p); r != policy.ReasonNone {
			t.Fatalf("%v on %x", r, frame)
		}
		g := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
		var src, dst netip.Addr
		if ip := g.Layer(layers.LayerTypeIPv4); ip != nil {
			src, _ = netip.AddrFromSlice(ip.(*layers.IPv4).SrcIP)
			dst, _ = netip.AddrFromSlice(ip.(*layers.IPv4).DstIP)
		} else {
			ip := g.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
			src, _ = netip.AddrFromSlice(ip.SrcIP)
			dst, _ = netip.AddrFromSlice(ip.DstIP)
		}
		if p.Src != src.As16() || p.Dst != dst.As16() {
			t.Fatalf("addresses of %x: %v %v", frame, p.Src, p.Dst)
		}
		switch kind {
		case 0:
			l := g.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if p.SrcPort != uint16(l.SrcPort) || p.DstPort != uint16(l.DstPort) || p.Seq != l.Seq || p.Ack != l.Ack || !bytes.Equal(p.Payload, l.Payload) || p.Flags != flags {
				t.Fatalf("%+v, want %+v", p, l)
			}
		case 1:
			l := g.Layer(layers.LayerTypeUDP).(*layers.UDP)
			if p.SrcPort != uint16(l.SrcPort) || p.DstPort != uint16(l.DstPort) || !bytes.Equal(p.Payload, l.Payload) {
				t.Fatalf("%+v, want %+v", p, l)
			}
		case 2:
			if p.SrcPort != sport || p.DstPort != sport || p.Key.Proto != policy.ProtoICMP || string(p.Payload[len(p.Payload)-len(payload):]) != payload {
				t.Fatalf("%+v", p)
			}
		}
		if kind < 2 && !p.checksumOK() {
			t.Fatalf("checksum of %x", frame)
		}
		if kind < 2 && len(p.Payload) > 0 {
			p.Payload[len(p.Payload)-1] ^= 0x10
			if p.checksumOK() {
				t.Fatalf("damage not seen in %x", frame)
			}
		}
	}
}

// fragment cuts an IP packet's payload; b is a whole frame of proto.
func fragment(t testing.TB, frame []byte, id uint32, off, size int, more bool) []byte {
	t.Helper()
	out := append([]byte(nil), frame[:l3]...)
	if frame[l3]>>4 == 4 {
		body := frame[l3+20:]
		h := append([]byte(nil), frame[l3:l3+20]...)
		binary.BigEndian.PutUint16(h[2:], uint16(20+size))
		binary.BigEndian.PutUint16(h[4:], uint16(id))
		v := uint16(off / 8)
		if more {
			v |= 0x2000
		}
		binary.BigEndian.PutUint16(h[6:], v)
		out = append(append(out, h...), body[off:off+size]...)
		sumHeader(out)
		return out
	}
	body := frame[l3+40:]
	h := append([]byte(nil), frame[l3:l3+40]...)
	binary.BigEndian.PutUint16(h[4:], uint16(8+size))
	fh := []byte{h[6], 0, 0, 0, 0, 0, 0, 0}
	h[6] = 44
	v := uint16(off)
	if more {
		v |= 1
	}
	binary.BigEndian.PutUint16(fh[2:], v)
	binary.BigEndian.PutUint32(fh[4:], id)
	out = append(append(out, h...), fh...)
	return append(out, body[off:off+size]...)
}

func TestFragmentHeaders(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		w := wire{v6, webIdx, dbIdx}
		udp := w.udp(t, 1000, 53, string(make([]byte, 400)))
		tcp := w.tcp(t, 1000, 80, ACK, 1, 1, string(make([]byte, 400)))
		tests := []struct {
			name  string
			frame []byte
			want  policy.Reason
			kind  FragmentKind
		}{
			{"first", fragment(t, udp, 7, 0, 200, true), policy.ReasonNone, FirstFragment},
			{"middle", fragment(t, udp, 7, 200, 200, true), policy.ReasonNone, LaterFragment},
			{"last", fragment(t, udp, 7, 400, 8, false), policy.ReasonNone, LaterFragment},
			{"tcp first", fragment(t, tcp, 7, 0, 200, true), policy.ReasonNone, FirstFragment},
			{"tiny tcp first", fragment(t, tcp, 7, 0, 16, true), policy.ReasonFragment, FirstFragment},
			{"over the tcp header", fragment(t, tcp, 7, 8, 16, true), policy.ReasonFragment, LaterFragment},
			{"odd size in the middle", fragment(t, udp, 7, 200, 100, true), policy.ReasonFragment, LaterFragment},
		}
		for _, tt := range tests {
			var p Packet
			if r := Decode(tt.frame, l3, &p); r != tt.want || r == policy.ReasonNone && (p.Fragment != tt.kind || p.FragmentID != 7) {
				t.Errorf("%s: %v, %+v", tt.name, r, p)
			}
		}
		past := fragment(t, udp, 7, 400, 8, false)
		if v6 {
			binary.BigEndian.PutUint16(past[l3+40+2:], 0xfff8)
		} else {
			past = patch(past, l3+6, 0x1f, 0xff)
		}
		var p Packet
		if r := Decode(past, l3, &p); r != policy.ReasonFragment {
			t.Errorf("past 65,535 bytes: %v", r)
		}
	})
}

// TestReuse: a Packet that held another one decodes as a fresh one does, in all
// that counts.
func TestReuse(t *testing.T) {
	var frames [][]byte
	for _, v6 := range []bool{false, true} {
		w := wire{v6, webIdx, dbIdx}
		udp := w.back().udp(t, 5, 6, string(make([]byte, 200)))
		frames = append(frames, w.tcp(t, 1, 2, SYN, 3, 4, "x"), udp, w.icmp(t, 8, 128, 9, "y"), icmpError(t, w, 3, 1, udp), w.icmp(t, 13, 130, 9, "y"),
			fragment(t, udp, 3, 0, 64, true), fragment(t, udp, 3, 64, 144, false), patch(udp, 12, 8, 6), patch(udp, map[bool]int{false: l3 + 9, true: l3 + 6}[v6], 47))
	}
	for i, a := range frames {
		for j, b := range frames {
			var used, fresh Packet
			Decode(a, l3, &used)
			if r, q := Decode(b, l3, &used), Decode(b, l3, &fresh); r != q {
				t.Fatalf("%d after %d: %v, %v", j, i, r, q)
			}
			keep := func(p *Packet) {
				if p.ARP {
					*p = Packet{ARP: true, L3: p.L3}
					return
				}
				isTCP, isICMP := p.Proto == policy.ProtoTCP, p.Proto == policy.ProtoICMP || p.Proto == policy.ProtoICMPv6
				if p.Fragment == LaterFragment || !isTCP && p.Proto != policy.ProtoUDP && !(isICMP && p.isEcho()) {
					p.Key = FlowKey{}
				}
				if !isTCP || p.Fragment == LaterFragment {
					p.Seq, p.Ack = 0, 0
				}
				if !isICMP || p.Fragment == LaterFragment {
					p.ICMPType, p.ICMPCode = 0, 0
				}
				if !p.HasInner {
					p.Inner, p.InnerReversed, p.InnerSrc = FlowKey{}, false, [16]byte{}
				}
				if p.Fragment == Whole {
					p.FragmentID, p.FragmentOff, p.FragmentSize = 0, 0, 0
				}
			}
			keep(&used)
			keep(&fresh)
			if !reflect.DeepEqual(used, fresh) {
				t.Fatalf("%d after %d:\n%+v\n%+v", j, i, used, fresh)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		w := wire{v6, webIdx, dbIdx}
		f.Add(w.tcp(f, 1, 2, SYN, 1, 2, "x"), 14)
		f.Add(w.udp(f, 1, 2, "x"), 14)
		f.Add(w.icmp(f, 8, 128, 5, "x"), 14)
		f.Add(icmpError(f, w.back(), 3, 1, w.udp(f, 1, 2, "x")), 14)
		f.Add(fragment(f, w.udp(f, 1, 2, string(make([]byte, 100))), 3, 0, 64, true), 14)
		f.Add(fragment(f, w.udp(f, 1, 2, string(make([]byte, 100))), 3, 64, 44, false), 14)
		f.Add(append(make([]byte, 4), w.tcp(f, 1, 2, ACK, 1, 2, "")...), 18)
	}
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		var p Packet
		// A slice without spare room: a read past the frame panics.
		frame := bytes.Clone(b)
		frame = frame[:len(frame):len(frame)]
		check := func() {
			if p.L4 > len(frame) || len(p.Payload) > len(frame) {
				t.Fatalf("%+v of %d bytes", p, len(frame))
			}
			if p.segment != nil && p.Fragment == Whole && (p.Proto == policy.ProtoTCP || p.Proto == policy.ProtoUDP) {
				p.checksumOK()
			}
		}
		live := Decode(frame, at, &p)
		if live != policy.ReasonNone || p.ARP {
			if at >= 0 && at <= len(frame) && DecodeCaptured(frame[at:], &p) == policy.ReasonNone {
				check()
			}
			return
		}
		check()
		// What live traffic may be is the same in a capture.
		key, length := p.Key, p.Length
		if DecodeCaptured(frame[at:], &p) != policy.ReasonNone || p.segment != nil && p.Key != key || p.Length != length {
			t.Fatalf("live %+v, captured %+v", key, p)
		}
		check()
		// One bit of a header is enough for its receiver to throw it away.
		if at >= l3 && frame[at]>>4 == 4 {
			bit := len(frame) * 7 % (8 * ipv4Head)
			other := append([]byte(nil), frame...)
			if other[at+bit/8] ^= 1 << (bit % 8); Decode(other, at, &p) == policy.ReasonNone {
				t.Fatalf("bit %d of a header does not matter", bit)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, v6 := range []bool{false, true} {
		w := wire{v6, webIdx, dbIdx}
		frame := w.tcp(b, 1000, 80, ACK, 1, 1, "0123456789")
		b.Run(map[bool]string{false: "ipv4", true: "ipv6"}[v6], func(b *testing.B) {
			var p Packet
			for b.Loop() {
				Decode(frame, l3, &p)
			}
		})
	}
}

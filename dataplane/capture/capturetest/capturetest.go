// Package capturetest makes captures for tests: conversations as IP packets,
// the headers of each link type before them, and the file formats around.
package capturetest

import (
	"bytes"
	"encoding/binary"
	"net"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Start is when the first packet of a conversation was captured; the others
// follow at Step.
var (
	Start = time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC)
	Step  = 1500 * time.Microsecond
)

// Conversation is HTTP over TCP with its handshake and end, DNS over UDP, and
// an echo, as IP packets; client and server are .1 and .2, or ::1 and ::2.
func Conversation(v6 bool) [][]byte {
	c := pair{v6: v6}
	s := pair{v6: v6, back: true}
	const get, ok = "GET /stock?id=7 HTTP/1.1\r\nHost: shop.example\r\n\r\n", "HTTP/1.1 204 No Content\r\nServer: till/2.1\r\n\r\n"
	tcp := func(p pair, flags string, seq, ack int, payload string) []byte {
		return p.packet(p.tcp(flags, uint32(seq), uint32(ack)), payload)
	}
	question := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x07example\x00\x00\x01\x00\x01"
	answer := "\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + question[12:] + "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc6\x33\x64\x07"
	return [][]byte{
		tcp(c, "S", 999, 0, ""), tcp(s, "SA", 4999, 1000, ""), tcp(c, "A", 1000, 5000, ""),
		tcp(c, "PA", 1000, 5000, get), tcp(s, "PA", 5000, 1000+len(get), ok),
		tcp(c, "FA", 1000+len(get), 5000+len(ok), ""), tcp(s, "FA", 5000+len(ok), 1001+len(get), ""), tcp(c, "A", 1001+len(get), 5001+len(ok), ""),
		c.packet(c.udp(), question), s.packet(s.udp(), answer),
		c.echo(), s.echo(),
	}
}

// pair is the two ends; back: from the server.
type pair struct{ v6, back bool }

func (p pair) addresses() (src, dst net.IP) {
	src, dst = net.IP{192, 0, 2, 1}, net.IP{192, 0, 2, 2}
	if p.v6 {
		src, dst = net.ParseIP("2001:db8::1"), net.ParseIP("2001:db8::2")
	}
	if p.back {
		src, dst = dst, src
	}
	return src, dst
}

func (p pair) ports(server uint16) (src, dst uint16) {
	if p.back {
		return server, 40000
	}
	return 40000, server
}

func (p pair) tcp(flags string, seq, ack uint32) *layers.TCP {
	src, dst := p.ports(8080)
	t := &layers.TCP{SrcPort: layers.TCPPort(src), DstPort: layers.TCPPort(dst), Seq: seq, Ack: ack, Window: 65535}
	for _, f := range flags {
		switch f {
		case 'S':
			t.SYN = true
		case 'A':
			t.ACK = true
		case 'P':
			t.PSH = true
		case 'F':
			t.FIN = true
		}
	}
	return t
}

func (p pair) udp() *layers.UDP {
	src, dst := p.ports(53)
	return &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
}

func (p pair) echo() []byte {
	if p.v6 {
		kind := uint8(layers.ICMPv6TypeEchoRequest)
		if p.back {
			kind = layers.ICMPv6TypeEchoReply
		}
		return p.packet(&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}, "\x00\x07\x00\x01ping")
	}
	kind := uint8(layers.ICMPv4TypeEchoRequest)
	if p.back {
		kind = layers.ICMPv4TypeEchoReply
	}
	return p.packet(&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: 7, Seq: 1}, "ping")
}

// packet puts an IP header before a transport header and its payload.
func (p pair) packet(transport gopacket.SerializableLayer, payload string) []byte {
	src, dst := p.addresses()
	proto := layers.IPProtocolTCP
	switch transport.(type) {
	case *layers.UDP:
		proto = layers.IPProtocolUDP
	case *layers.ICMPv4:
		proto = layers.IPProtocolICMPv4
	case *layers.ICMPv6:
		proto = layers.IPProtocolICMPv6
	}
	var ip gopacket.SerializableLayer = &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: src, DstIP: dst}
	if p.v6 {
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src, DstIP: dst}
	}
	if t, ok := transport.(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		must(t.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	}
	b := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, transport, gopacket.Payload(payload)))
	return bytes.Clone(b.Bytes())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Link is a link type and the bytes that it puts before an IP packet.
type Link struct {
	Name   string
	Number uint32
	Head   func(v6 bool) []byte
}

// Links are the link types that a capture reader knows, some in several forms.
func Links() []Link {
	const macs = "\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01"
	ether := func(before string) func(bool) []byte {
		return func(v6 bool) []byte { return append([]byte(before), etherType(v6)...) }
	}
	fixed := func(v4, v6 string) func(bool) []byte {
		return func(is6 bool) []byte {
			if is6 {
				return []byte(v6)
			}
			return []byte(v4)
		}
	}
	none := fixed("", "")
	const vlan, qinq = "\x81\x00\x00\x64", "\x88\xa8\x00\x0a\x81\x00\x00\x64"
	return []Link{
		{"ethernet", 1, ether(macs)},
		{"ethernet-vlan", 1, ether(macs + vlan)},
		{"ethernet-qinq", 1, ether(macs + qinq)},
		{"ethernet-old-qinq", 1, ether(macs + "\x91\x00\x00\x0a" + vlan)},
		{"ethernet-pppoe", 1, fixed(macs+"\x88\x64\x11\x00\x00\x01\x00\x40\x00\x21", macs+"\x88\x64\x11\x00\x00\x01\x00\x40\x00\x57")},
		{"ethernet-mpls", 1, fixed(macs+"\x88\x47\x00\x01\x00\x40\x00\x02\x01\x40", macs+"\x88\x47\x00\x01\x00\x40\x00\x02\x01\x40")},
		{"null", 0, fixed("\x02\x00\x00\x00", "\x1e\x00\x00\x00")},
		{"null-bsd-big-endian", 0, fixed("\x00\x00\x00\x02", "\x00\x00\x00\x1c")},
		{"loop", 108, fixed("\x00\x00\x00\x02", "\x00\x00\x00\x18")},
		{"raw-12", 12, none}, {"raw-14", 14, none}, {"raw", 101, none}, {"ipv4-or-6", 228, none}, {"ipv6-or-4", 229, none},
		{"sll", 113, ether("\x00\x00\x00\x01\x00\x06\x02\x00\x00\x00\x00\x01\x00\x00")},
		{"sll-vlan", 113, ether("\x00\x00\x00\x01\x00\x06\x02\x00\x00\x00\x00\x01\x00\x00" + vlan)},
		{"sll2", 276, func(v6 bool) []byte {
			return append(etherType(v6), "\x00\x00\x00\x00\x00\x02\x00\x01\x00\x06\x02\x00\x00\x00\x00\x01\x00\x00"...)
		}},
		{"ppp", 9, fixed("\x00\x21", "\x00\x57")},
		{"ppp-short", 9, fixed("\x21", "\x57")},
		{"ppp-hdlc", 9, fixed("\xff\x03\x00\x21", "\xff\x03\x00\x57")},
		{"ppp-serial", 50, fixed("\xff\x03\x00\x21", "\xff\x03\x00\x57")},
		{"ppp-ether", 51, fixed("\x11\x00\x00\x01\x00\x40\x00\x21", "\x11\x00\x00\x01\x00\x40\x00\x57")},
		{"c-hdlc", 104, ether("\x0f\x00")},
	}
}

func etherType(v6 bool) []byte {
	if v6 {
		return []byte{0x86, 0xdd}
	}
	return []byte{0x08, 0x00}
}

// Frames are the packets of a conversation on a link.
func (l Link) Frames(v6 bool) [][]byte {
	var out [][]byte
	for _, p := range Conversation(v6) {
		out = append(out, append(l.Head(v6), p...))
	}
	return out
}

// Classic magic numbers.
const (
	Micro     = 0xa1b2c3d4
	Nano      = 0xa1b23c4d
	Kuznetzov = 0xa1b2cd34
)

// Pcap is a classic capture of frames, from Start on.
func Pcap(order binary.AppendByteOrder, magic, link uint32, frames [][]byte) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = order.AppendUint32(b, 65535)
	b = order.AppendUint32(b, link)
	for i, f := range frames {
		at := Start.Add(time.Duration(i) * Step)
		fraction := uint32(at.Nanosecond())
		if magic != Nano {
			fraction /= 1000
		}
		b = order.AppendUint32(b, uint32(at.Unix()))
		b = order.AppendUint32(b, fraction)
		b = order.AppendUint32(b, uint32(len(f)))
		b = order.AppendUint32(b, uint32(len(f)))
		if magic == Kuznetzov {
			b = append(b, make([]byte, 8)...)
		}
		b = append(b, f...)
	}
	return b
}

// NG builds a pcapng capture block by block.
type NG struct {
	Order binary.AppendByteOrder
	bytes.Buffer
}

// Block appends a block.
func (n *NG) Block(kind uint32, body []byte) {
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	b := n.Order.AppendUint32(nil, kind)
	b = n.Order.AppendUint32(b, uint32(len(body)+12))
	b = append(b, body...)
	n.Write(n.Order.AppendUint32(b, uint32(len(body)+12)))
}

// Section begins a section.
func (n *NG) Section() {
	b := n.Order.AppendUint32(nil, 0x1a2b3c4d)
	b = n.Order.AppendUint16(b, 1)
	b = n.Order.AppendUint16(b, 0)
	n.Block(0x0a0d0d0a, append(b, bytes.Repeat([]byte{0xff}, 8)...))
}

// Interface describes an interface. Options come encoded.
func (n *NG) Interface(link uint16, options []byte) {
	b := n.Order.AppendUint16(nil, link)
	n.Block(1, append(append(b, 0, 0, 0, 0, 0, 0), options...))
}

// Option encodes one option.
func (n *NG) Option(code uint16, value []byte) []byte {
	b := n.Order.AppendUint16(nil, code)
	b = n.Order.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Enhanced appends an enhanced packet block.
func (n *NG) Enhanced(iface uint32, ticks uint64, frame, options []byte) {
	b := n.Order.AppendUint32(nil, iface)
	n.Block(6, append(n.packet(b, ticks, frame), options...))
}

// Obsolete appends the packet block that the enhanced one took the place of.
func (n *NG) Obsolete(iface uint16, ticks uint64, frame []byte) {
	b := n.Order.AppendUint16(nil, iface)
	b = n.Order.AppendUint16(b, 0xffff)
	n.Block(2, n.packet(b, ticks, frame))
}

func (n *NG) packet(b []byte, ticks uint64, frame []byte) []byte {
	b = n.Order.AppendUint32(b, uint32(ticks>>32))
	b = n.Order.AppendUint32(b, uint32(ticks))
	b = n.Order.AppendUint32(b, uint32(len(frame)))
	b = n.Order.AppendUint32(b, uint32(len(frame)))
	b = append(b, frame...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Simple appends a simple packet block, which has no time.
func (n *NG) Simple(frame []byte) {
	n.Block(3, append(n.Order.AppendUint32(nil, uint32(len(frame))), frame...))
}

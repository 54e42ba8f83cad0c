package classify

import (
	"encoding/binary"
	"math/bits"

	"gatehouse/policy"
)

var be = binary.BigEndian

// TCPFlags are byte 13 of the TCP header (RFC 9293 3.1).
type TCPFlags uint8

const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// FragmentKind says which part of an IP datagram a packet carries.
type FragmentKind uint8

const (
	Whole         FragmentKind = iota
	FirstFragment              // with the whole transport header
	LaterFragment              // without it: no ports, no key
)

// Packet is one decoded frame. Payload aliases the frame. Fields that do not
// apply to a packet may hold an earlier one's.
type Packet struct {
	// Key is valid for TCP, UDP and ICMP echo that is no later fragment. Its
	// Zone is set by a Classifier.
	Key      FlowKey
	Reversed bool // the source is Key's side B

	ARP      bool // nothing else is valid then
	V6       bool
	Proto    policy.Proto // as on the wire
	Src, Dst [16]byte     // IPv4 v4-mapped
	// SrcPort and DstPort are host order; ICMP echo has its identifier in both.
	SrcPort, DstPort uint16
	L3, L4           int // offsets into the frame
	Length           int // of the IP packet
	TTL              uint8

	// TCP only.
	Flags    TCPFlags
	Seq, Ack uint32

	// ICMP and ICMPv6 only.
	ICMPType, ICMPCode uint8
	// Inner is the flow that an ICMP error quotes a packet of; HasInner says
	// that there is one. InnerReversed: that packet came from Inner's side B.
	// InnerSrc sent it.
	HasInner, InnerReversed bool
	Inner                   FlowKey
	InnerSrc                [16]byte

	Fragment     FragmentKind
	FragmentID   uint32
	FragmentOff  int // bytes
	MoreFollow   bool
	FragmentSize int // bytes of the datagram's payload in this fragment

	// Payload is what follows the transport header (of ICMP: the 8 bytes of
	// header), without link padding.
	Payload []byte

	segment  []byte // transport header and payload
	captured bool   // read by DecodeCaptured
	cut      bool   // the capture ends before the packet does
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	ipv4Head = 20
	ipv6Head = 40
	tcpHead  = 20
	udpHead  = 8
	icmpHead = 8
	fragHead = 8

	ipMax = 65535

	// ICMP types (RFC 792) and ICMPv6 types (RFC 4443).
	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11
	icmpParameter    = 12
	icmp6ErrorFirst  = 1
	icmp6ErrorLast   = 4
	icmp6Echo        = 128
	icmp6EchoReply   = 129
)

// v4prefix is ::ffff:0:0/96, under which IPv4 addresses stand in keys.
var v4prefix = [12]byte{10: 0xff, 11: 0xff}

// MakeKey builds the key of a conversation from the addresses and ports of one
// of its packets. reversed says that src became side B.
func MakeKey(zone uint16, proto policy.Proto, src, dst [16]byte, sport, dport uint16) (k FlowKey, reversed bool) {
	k.Zone, k.Proto = zone, proto
	if before(&src, &dst, sport, dport) {
		k.AddrA, k.AddrB, k.PortA, k.PortB = src, dst, sport, dport
		return k, false
	}
	k.AddrA, k.AddrB, k.PortA, k.PortB = dst, src, dport, sport
	return k, true
}

// before: a sorts first; of equal ends the source is A.
func before(a, b *[16]byte, aport, bport uint16) bool {
	if x, y := be.Uint64(a[:8]), be.Uint64(b[:8]); x != y {
		return x < y
	}
	if x, y := be.Uint64(a[8:]), be.Uint64(b[8:]); x != y {
		return x < y
	}
	return aport <= bport
}

// Decode reads the frame whose network header is at l3; the EtherType stands in
// the two bytes before, where l3 is 0 the version in IP's header is all there is.
// It fills p (which may hold anything) and returns
// ReasonNone, or why the frame must be dropped; p is then incomplete. Nothing
// is read past the frame and nothing allocated.
func Decode(frame []byte, l3 int, p *Packet) policy.Reason {
	p.clear()
	p.L3 = l3
	if l3 == 0 {
		return p.decodeBare(frame)
	}
	if l3 < 14 || l3 > len(frame) {
		return policy.ReasonTruncated
	}
	switch t := be.Uint16(frame[l3-2:]); t {
	case etherIPv4:
		return p.decode4(frame)
	case etherIPv6:
		return p.decode6(frame)
	case etherARP:
		p.ARP = true
		return policy.ReasonNone
	case 0x8100, 0x88a8, 0x9100:
		return policy.ReasonVLAN
	}
	return policy.ReasonEtherType
}

func (p *Packet) decodeBare(ip []byte) policy.Reason {
	switch {
	case len(ip) == 0:
		return policy.ReasonTruncated
	case ip[0]>>4 == 4:
		return p.decode4(ip)
	case ip[0]>>4 == 6:
		return p.decode6(ip)
	}
	return policy.ReasonEtherType
}

// DecodeCaptured reads a packet of a capture, which begins with its IP header.
// It takes what Decode refuses because no container has a reason to send it or
// no receiver takes it as it stands: options, extension headers, addresses and
// flags that are never on a wire. Of packets cut short it reads what there is.
func DecodeCaptured(ip []byte, p *Packet) policy.Reason {
	p.clear()
	p.L3, p.captured = 0, true
	if len(ip) > 0 && ip[0]>>4 == 6 {
		return p.decode6(ip)
	}
	return p.decode4(ip)
}

// clear resets what not every packet sets. Addresses and keys keep what they
// held: they count only where the fields here say so.
func (p *Packet) clear() {
	p.Reversed, p.ARP, p.V6, p.HasInner, p.MoreFollow = false, false, false, false, false
	p.captured, p.cut = false, false
	p.Fragment, p.Flags, p.Proto = Whole, 0, 0
	p.SrcPort, p.DstPort = 0, 0
	p.Payload, p.segment = nil, nil
}

func (p *Packet) decode4(frame []byte) policy.Reason {
	b := frame[p.L3:]
	if len(b) < ipv4Head {
		return policy.ReasonTruncated
	}
	if b[0]>>4 != 4 || b[0]&15 < 5 {
		return policy.ReasonBadHeader
	}
	head := int(b[0]&15) * 4
	if head > ipv4Head && !p.captured {
		return policy.ReasonIPOptions
	}
	if !p.captured && !headerSumOK(b) {
		return policy.ReasonBadHeader // its receiver throws it away
	}
	p.Length = int(be.Uint16(b[2:]))
	if p.Length == 0 && p.captured { // left to the network card (segmentation offload)
		p.Length = len(b)
	}
	if p.Length < head {
		return policy.ReasonBadHeader
	}
	if p.Length > len(b) {
		if !p.captured || head > len(b) {
			return policy.ReasonTruncated
		}
		p.cut = true
	}
	b = b[:min(p.Length, len(b))]
	p.TTL, p.Proto = b[8], policy.Proto(b[9])
	put4(&p.Src, be.Uint32(b[12:]))
	put4(&p.Dst, be.Uint32(b[16:]))
	// An address that talks to itself is never on a wire. RFC 1122 3.2.1.3: nor are
	// these sources and destinations.
	src, dst := b[12], b[16]
	if !p.captured && (src >= 224 || src == 127 || dst == 127 || dst == 0 || be.Uint32(b[12:]) == be.Uint32(b[16:])) {
		return policy.ReasonBadHeader
	}
	p.L4 = p.L3 + head
	// Reserved bit, don't fragment, more fragments, offset in words of 8 bytes.
	if frag := be.Uint16(b[6:]); frag&0x8000 != 0 && !p.captured {
		return policy.ReasonBadHeader
	} else if frag&0x3fff != 0 {
		p.FragmentID = uint32(be.Uint16(b[4:]))
		if r := p.fragment(int(frag&0x1fff)*8, frag&0x2000 != 0, p.Length-head); r != policy.ReasonNone {
			return r
		}
	}
	return p.transport(b[head:])
}

func (p *Packet) decode6(frame []byte) policy.Reason {
	b := frame[p.L3:]
	if len(b) < ipv6Head {
		return policy.ReasonTruncated
	}
	if b[0]>>4 != 6 {
		return policy.ReasonBadHeader
	}
	p.V6 = true
	p.Length = ipv6Head + int(be.Uint16(b[4:]))
	if p.Length == ipv6Head && p.captured && (b[6] == 0 || b[6] == byte(policy.ProtoTCP)) { // jumbo (RFC 2675), or segmentation offload
		p.Length = len(b)
	}
	if p.Length > len(b) {
		if !p.captured {
			return policy.ReasonTruncated
		}
		p.cut = true
	}
	b = b[:min(p.Length, len(b))]
	p.TTL, p.Proto = b[7], policy.Proto(b[6])
	p.Src, p.Dst = [16]byte(b[8:24]), [16]byte(b[24:40])
	// The same, a multicast source, loopback, an unspecified destination, and addresses
	// that would alias IPv4's keys.
	if !p.captured && (p.Src[0] == 0xff || embeds4(&p.Src) && p.Src != [16]byte{} || embeds4(&p.Dst) || p.Src == p.Dst) {
		return policy.ReasonBadHeader
	}
	p.L4 = p.L3 + ipv6Head
	b = b[ipv6Head:]
	if p.captured {
		b = p.skipExtensions(b)
	}
	if p.Proto != 44 {
		return p.transport(b)
	}
	if len(b) < fragHead {
		return policy.ReasonTruncated
	}
	frag := be.Uint16(b[2:])
	p.Proto, p.FragmentID = policy.Proto(b[0]), be.Uint32(b[4:])
	p.L4 += fragHead
	b = b[fragHead:]
	// An atomic fragment (RFC 6946) is whole, and nothing that a stack still sends (RFC 8021).
	if frag&^6 == 0 {
		if p.captured {
			return p.transport(p.skipExtensions(b))
		}
		return policy.ReasonFragment
	}
	if r := p.fragment(int(frag&^7), frag&1 != 0, p.Length-(p.L4-p.L3)); r != policy.ReasonNone {
		return r
	}
	return p.transport(b)
}

// skipExtensions goes past the extension headers that have the common layout
// (RFC 8200 4; RFC 4302 2.2 counts in other units), up to a fragment's.
func (p *Packet) skipExtensions(b []byte) []byte {
	for len(b) >= 8 {
		n := (int(b[1]) + 1) * 8
		switch p.Proto {
		case 51:
			n = (int(b[1]) + 2) * 4
		case 0, 43, 60, 135, 139, 140:
		default:
			return b
		}
		if n > len(b) {
			return b
		}
		p.Proto = policy.Proto(b[0])
		p.L4 += n
		b = b[n:]
	}
	return b
}

// embeds4 reports ::/96 and ::ffff:0:0/96: unspecified, loopback,
// IPv4-compatible and IPv4-mapped addresses.
func embeds4(a *[16]byte) bool {
	if be.Uint64(a[:8]) != 0 {
		return false
	}
	mid := be.Uint32(a[8:12])
	return mid == 0 || mid == 0xffff
}

// minFirst is what a first fragment must carry: the transport header that the
// verdict rests on (RFC 1858, RFC 7112).
func minFirst(proto policy.Proto) int {
	switch proto {
	case policy.ProtoTCP:
		return tcpHead
	case policy.ProtoUDP:
		return udpHead
	}
	return icmpHead
}

func (p *Packet) fragment(off int, more bool, size int) policy.Reason {
	p.FragmentOff, p.MoreFollow, p.FragmentSize = off, more, size
	p.Fragment = LaterFragment
	if off == 0 {
		p.Fragment = FirstFragment
	}
	switch {
	case size == 0, off+size > ipMax:
		return policy.ReasonFragment
	case more && size%8 != 0: // RFC 8200 4.5; RFC 791 the same
		return policy.ReasonFragment
	case off == 0 && size < minFirst(p.Proto):
		return policy.ReasonFragment
	case off > 0 && off < tcpHead+4 && !p.captured: // would overlay the transport header
		return policy.ReasonFragment
	}
	return policy.ReasonNone
}

// transport reads the header after IP's.
func (p *Packet) transport(b []byte) policy.Reason {
	if p.Fragment == LaterFragment {
		if isExtension(p.Proto) && p.V6 {
			return policy.ReasonExtensionHeader
		}
		p.Payload = b
		return policy.ReasonNone
	}
	switch p.Proto {
	case policy.ProtoTCP:
		return p.tcp(b)
	case policy.ProtoUDP:
		return p.udp(b)
	case policy.ProtoICMP:
		if p.V6 {
			return policy.ReasonBadHeader
		}
		return p.icmp(b)
	case policy.ProtoICMPv6:
		if !p.V6 {
			return policy.ReasonBadHeader
		}
		return p.icmp(b)
	}
	if p.V6 && isExtension(p.Proto) {
		return policy.ReasonExtensionHeader
	}
	p.Payload = b
	return policy.ReasonNone
}

// isExtension: IANA IPv6 extension header types, without ESP, which hides all
// that follows and is a protocol to us.
func isExtension(p policy.Proto) bool {
	switch p {
	case 0, 43, 44, 51, 60, 135, 139, 140, 253, 254:
		return true
	}
	return false
}

func (p *Packet) setKey() {
	k := &p.Key
	k.Proto = p.Proto
	if k.Proto == policy.ProtoICMPv6 {
		k.Proto = policy.ProtoICMP
	}
	if !p.V6 {
		// Whole words: reading back what was just written in parts stalls.
		src, dst := be.Uint32(p.Src[12:]), be.Uint32(p.Dst[12:])
		k.PortA, k.PortB = p.SrcPort, p.DstPort
		if src > dst || src == dst && p.SrcPort > p.DstPort {
			src, dst, k.PortA, k.PortB, p.Reversed = dst, src, p.DstPort, p.SrcPort, true
		}
		put4(&k.AddrA, src)
		put4(&k.AddrB, dst)
		return
	}
	if before(&p.Src, &p.Dst, p.SrcPort, p.DstPort) {
		k.AddrA, k.AddrB, k.PortA, k.PortB = p.Src, p.Dst, p.SrcPort, p.DstPort
		return
	}
	k.AddrA, k.AddrB, k.PortA, k.PortB, p.Reversed = p.Dst, p.Src, p.DstPort, p.SrcPort, true
}

// put4 writes an IPv4 address v4-mapped.
func put4(a *[16]byte, ip uint32) {
	le := binary.LittleEndian
	le.PutUint64(a[:8], 0)
	le.PutUint64(a[8:], 0xffff0000|uint64(bits.ReverseBytes32(ip))<<32)
}

func (p *Packet) tcp(b []byte) policy.Reason {
	if len(b) < tcpHead {
		return policy.ReasonTruncated
	}
	head := int(b[12]>>4) * 4
	if head < tcpHead {
		return policy.ReasonBadHeader
	}
	if head > len(b) {
		if p.Fragment == FirstFragment {
			return policy.ReasonFragment
		}
		return policy.ReasonTruncated
	}
	p.SrcPort, p.DstPort = be.Uint16(b), be.Uint16(b[2:])
	p.Seq, p.Ack, p.Flags = be.Uint32(b[4:]), be.Uint32(b[8:]), TCPFlags(b[13])
	if !p.captured && (p.SrcPort == 0 || p.DstPort == 0 || !p.Flags.sane()) {
		return policy.ReasonBadHeader
	}
	if p.Fragment == FirstFragment && p.Flags&SYN != 0 && !p.captured {
		// No stack sends one, and its last piece says when the connection begins.
		return policy.ReasonFragment
	}
	p.Payload, p.segment = b[head:], b
	p.setKey()
	return policy.ReasonNone
}

// sane: RFC 9293 3.10. SYN goes with neither FIN nor RST, RST not with FIN, and
// everything else but SYN and RST carries ACK.
func (f TCPFlags) sane() bool {
	switch {
	case f&SYN != 0:
		return f&(FIN|RST) == 0
	case f&RST != 0:
		return f&FIN == 0
	}
	return f&ACK != 0
}

func (p *Packet) udp(b []byte) policy.Reason {
	if len(b) < udpHead {
		return policy.ReasonTruncated
	}
	n := int(be.Uint16(b[4:]))
	if n < udpHead {
		return policy.ReasonBadHeader
	}
	if n > len(b) {
		if p.Fragment != FirstFragment && !p.cut {
			return policy.ReasonTruncated
		}
		n = len(b)
	}
	p.SrcPort, p.DstPort = be.Uint16(b), be.Uint16(b[2:])
	if p.DstPort == 0 && !p.captured {
		return policy.ReasonBadHeader
	}
	p.Payload, p.segment = b[udpHead:n], b[:n]
	p.setKey()
	return policy.ReasonNone
}

func (p *Packet) icmp(b []byte) policy.Reason {
	if len(b) < icmpHead {
		return policy.ReasonTruncated
	}
	p.ICMPType, p.ICMPCode = b[0], b[1]
	p.Payload, p.segment = b[icmpHead:], b
	switch {
	case p.isEcho():
		p.SrcPort = be.Uint16(b[4:])
		p.DstPort = p.SrcPort
		p.setKey()
	case p.isICMPError():
		p.quoted(p.Payload)
	}
	return policy.ReasonNone
}

// isEcho reports an echo request or reply.
func (p *Packet) isEcho() bool {
	if p.V6 {
		return p.ICMPType == icmp6Echo || p.ICMPType == icmp6EchoReply
	}
	return p.ICMPType == icmpEcho || p.ICMPType == icmpEchoReply
}

// isICMPError reports the errors that belong to a flow; redirects and source
// quench are none that a container may send.
func (p *Packet) isICMPError() bool {
	if p.V6 {
		return p.ICMPType >= icmp6ErrorFirst && p.ICMPType <= icmp6ErrorLast
	}
	return p.ICMPType == icmpUnreachable || p.ICMPType == icmpTimeExceeded || p.ICMPType == icmpParameter
}

// quoted reads the packet inside an ICMP error: its IP header and at least the
// 8 bytes after (RFC 792, RFC 4443 3.1). What does not fit leaves HasInner false.
func (p *Packet) quoted(b []byte) {
	var src, dst [16]byte
	var proto policy.Proto
	if p.V6 {
		if len(b) < ipv6Head+8 || b[0]>>4 != 6 {
			return
		}
		src, dst, proto = [16]byte(b[8:24]), [16]byte(b[24:40]), policy.Proto(b[6])
		if embeds4(&src) || embeds4(&dst) {
			return
		}
		b = b[ipv6Head:]
	} else {
		if len(b) < ipv4Head+8 || b[0]>>4 != 4 {
			return
		}
		head := int(b[0]&15) * 4
		// A quoted later fragment has no ports.
		if head < ipv4Head || len(b) < head+8 || be.Uint16(b[6:])&0x1fff != 0 {
			return
		}
		put4(&src, be.Uint32(b[12:]))
		put4(&dst, be.Uint32(b[16:]))
		proto = policy.Proto(b[9])
		b = b[head:]
	}
	var sport, dport uint16
	switch {
	case proto == policy.ProtoTCP || proto == policy.ProtoUDP:
		sport, dport = be.Uint16(b), be.Uint16(b[2:])
	case proto == policy.ProtoICMP && !p.V6 && (b[0] == icmpEcho || b[0] == icmpEchoReply),
		proto == policy.ProtoICMPv6 && p.V6 && (b[0] == icmp6Echo || b[0] == icmp6EchoReply):
		sport = be.Uint16(b[4:])
		dport, proto = sport, policy.ProtoICMP
	default:
		return
	}
	p.Inner, p.InnerReversed = MakeKey(0, proto, src, dst, sport, dport)
	p.InnerSrc, p.HasInner = src, true
}

// checksumOK reports whether the transport checksum is right, as the receiver
// will find: a segment that it throws away must not count as seen. An IPv4 UDP
// datagram without one counts as right. Only for whole packets.
func (p *Packet) checksumOK() bool {
	segment := p.segment
	if p.Proto == policy.ProtoUDP && be.Uint16(segment[6:]) == 0 {
		return !p.V6
	}
	// The prefix of mapped addresses adds 0xffff, which is zero in this sum.
	sum := sumWords(p.Src[:], 0)
	sum = sumWords(p.Dst[:], sum)
	sum += uint64(len(segment)) + uint64(p.Proto)
	sum = sumWords(segment, sum)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum == 0xffff
}

// headerSumOK reports whether the checksum of an IPv4 header without options is
// right (RFC 791 3.1, RFC 1071: the order of bytes does not matter to the sum).
func headerSumOK(b []byte) bool {
	le := binary.LittleEndian
	b = b[:ipv4Head]
	sum := uint64(le.Uint32(b)) + uint64(le.Uint32(b[4:])) + uint64(le.Uint32(b[8:])) + uint64(le.Uint32(b[12:])) + uint64(le.Uint32(b[16:]))
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return sum>>16+sum&0xffff == 0xffff
}

// sumWords adds b to a one's complement sum (RFC 1071).
func sumWords(b []byte, sum uint64) uint64 {
	var carry uint64
	acc := uint64(0)
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, be.Uint64(b), carry)
		b = b[8:]
	}
	acc, carry = bits.Add64(acc, 0, carry)
	acc += carry
	sum += acc>>48 + acc>>32&0xffff + acc>>16&0xffff + acc&0xffff
	for len(b) >= 2 {
		sum += uint64(be.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

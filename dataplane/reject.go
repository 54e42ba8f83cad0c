package dataplane

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"time"

	"gatehouse/policy"
)

// The answer to a rejected packet is written by hand into a borrowed frame: a
// TCP reset (RFC 9293 3.5.2) or an ICMP destination unreachable (RFC 792, RFC
// 4443), from the address that the packet was for.

const (
	ethHeader  = 14
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	icmpHeader = 8
	answerTTL  = 64

	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10

	// icmpQuote is how much of a packet an ICMP error carries: all that leaves
	// the error below the 576 bytes that every host takes (RFC 1812 4.3.2.3).
	icmpQuote = 576 - ipv4Header - icmpHeader
	// icmpv6Quote leaves the error at the minimum MTU of 1280 (RFC 4443 2.4 c).
	icmpv6Quote = 1280 - ipv6Header - icmpHeader
)

// unreachable says why, in an ICMP error.
type unreachable uint8

const (
	adminProhibited unreachable = iota
	portUnreachable
)

func (u unreachable) code4() byte {
	if u == portUnreachable {
		return 3
	}
	return 13
}

func (u unreachable) code6() byte {
	if u == portUnreachable {
		return 4
	}
	return 1
}

// writeReject writes the answer to packet, whose network header is at l3, into
// out and returns its length; 0 where none may be sent: to a reset, to an ICMP
// error, for a fragment that is not the first, or to and from addresses that
// are not one host's (RFC 1122 3.2.2). The link header up to l3 is the packet's
// with the addresses swapped; where l3 is 0 there is none. packet has been decoded before: its headers are
// whole and free of options.
func writeReject(out, packet []byte, l3 int, why unreachable) int {
	if len(packet) <= l3 || !isToOne(packet, l3) {
		return 0
	}
	var n int
	switch packet[l3] >> 4 {
	case 4:
		n = reject4(out[l3:], packet[l3:], why)
	case 6:
		n = reject6(out[l3:], packet[l3:], why)
	}
	if n == 0 {
		return 0
	}
	answerLink(out, packet, l3)
	return l3 + n
}

// isToOne reports whether a frame goes from one interface to one; where l3 is 0
// there is no link header to ask.
func isToOne(packet []byte, l3 int) bool {
	return l3 == 0 || l3 >= ethHeader && packet[0]&1 == 0 && packet[6]&1 == 0
}

// answerLink writes the link header of the answer to packet.
func answerLink(out, packet []byte, l3 int) {
	if l3 == 0 {
		return
	}
	copy(out[0:6], packet[6:12])
	copy(out[6:12], packet[0:6])
	copy(out[12:l3], packet[12:l3])
}

// areHosts4 reports whether an answer from dst to src may be sent: both are one
// host's (RFC 1122 3.2.2).
func areHosts4(src, dst []byte) bool { return src[0] != 0 && src[0] < 224 && dst[0] < 224 }

// areHosts6 is areHosts4 of IPv6 (RFC 4443 2.4 e).
func areHosts6(src, dst []byte) bool { return src[0] != 0xff && dst[0] != 0xff && !isZero(src) }

// reject4 answers the IPv4 packet ip.
func reject4(out, ip []byte, why unreachable) int {
	if len(ip) < ipv4Header || ip[0] != 0x45 {
		return 0
	}
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if total < ipv4Header || total > len(ip) || binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
		return 0
	}
	ip = ip[:total]
	l4 := ip[ipv4Header:]
	src, dst := ip[12:16], ip[16:20]
	if !areHosts4(src, dst) {
		return 0
	}
	n := 0
	var proto policy.Proto
	switch policy.Proto(ip[9]) {
	case policy.ProtoTCP:
		proto = policy.ProtoTCP
		if n = resetFor(out[ipv4Header:], l4); n == 0 {
			return 0
		}
		sum := pseudo(dst, src, policy.ProtoTCP, n)
		putChecksum(out[ipv4Header:ipv4Header+n], 16, sum)
	case policy.ProtoICMP:
		if len(l4) == 0 || icmpIsError4(l4[0]) {
			return 0
		}
		fallthrough
	default:
		proto = policy.ProtoICMP
		n = icmpHeader + copy(out[ipv4Header+icmpHeader:], ip[:min(len(ip), icmpQuote)])
		icmp := out[ipv4Header : ipv4Header+n]
		clear(icmp[:icmpHeader])
		icmp[0], icmp[1] = 3, why.code4()
		putChecksum(icmp, 2, 0)
	}
	h := out[:ipv4Header]
	clear(h)
	h[0], h[8], h[9] = 0x45, answerTTL, byte(proto)
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Header+n))
	h[6] = 0x40 // do not fragment, and so no identification
	copy(h[12:], dst)
	copy(h[16:], src)
	putChecksum(h, 10, 0)
	return ipv4Header + n
}

// reject6 answers the IPv6 packet ip, which has no extension headers.
func reject6(out, ip []byte, why unreachable) int {
	if len(ip) < ipv6Header {
		return 0
	}
	total := ipv6Header + int(binary.BigEndian.Uint16(ip[4:]))
	if total > len(ip) {
		return 0
	}
	ip = ip[:total]
	l4 := ip[ipv6Header:]
	src, dst := ip[8:24], ip[24:40]
	if !areHosts6(src, dst) {
		return 0
	}
	n := 0
	proto := policy.ProtoICMPv6
	switch policy.Proto(ip[6]) {
	case policy.ProtoTCP:
		proto = policy.ProtoTCP
		if n = resetFor(out[ipv6Header:], l4); n == 0 {
			return 0
		}
		putChecksum(out[ipv6Header:ipv6Header+n], 16, pseudo(dst, src, proto, n))
	case policy.ProtoICMPv6:
		if len(l4) == 0 || l4[0] < 128 {
			return 0
		}
		fallthrough
	default:
		n = icmpHeader + copy(out[ipv6Header+icmpHeader:], ip[:min(len(ip), icmpv6Quote)])
		icmp := out[ipv6Header : ipv6Header+n]
		clear(icmp[:icmpHeader])
		icmp[0], icmp[1] = 1, why.code6()
		putChecksum(icmp, 2, pseudo(dst, src, proto, n))
	}
	h := out[:ipv6Header]
	clear(h[:8])
	h[0], h[6], h[7] = 0x60, byte(proto), answerTTL
	binary.BigEndian.PutUint16(h[4:], uint16(n))
	copy(h[8:], dst)
	copy(h[24:], src)
	return ipv6Header + n
}

// resetFor writes the reset that answers the TCP segment seg, without its
// checksum; 0 when seg is a reset itself or cut short.
func resetFor(out, seg []byte) int {
	if len(seg) < tcpHeader {
		return 0
	}
	flags, header := seg[13], int(seg[12]>>4)*4
	if flags&tcpRST != 0 || header < tcpHeader || header > len(seg) {
		return 0
	}
	h := out[:tcpHeader]
	clear(h)
	copy(h[0:2], seg[2:4])
	copy(h[2:4], seg[0:2])
	h[12] = tcpHeader / 4 << 4
	if flags&tcpACK != 0 {
		copy(h[4:8], seg[8:12])
		h[13] = tcpRST
		return tcpHeader
	}
	length := uint32(len(seg)-header) + uint32(flags&tcpSYN>>1) + uint32(flags&tcpFIN)
	binary.BigEndian.PutUint32(h[8:], binary.BigEndian.Uint32(seg[4:])+length)
	h[13] = tcpRST | tcpACK
	return tcpHeader
}

// cutTo turns a TCP packet of a live flow into a reset from the same sender to
// the same receiver, in place, and returns its new length; 0 if it is not TCP
// or a reset already. The sequence number is the segment's own, which is the
// one that the receiver waits for.
func cutTo(packet []byte, l3 int) int {
	if len(packet) <= l3 {
		return 0
	}
	ip := packet[l3:]
	header, proto := ipv4Header, 9
	if ip[0]>>4 == 6 {
		header, proto = ipv6Header, 6
	}
	if len(ip) < header+tcpHeader || policy.Proto(ip[proto]) != policy.ProtoTCP {
		return 0
	}
	seg := ip[header : header+tcpHeader]
	if seg[13]&tcpRST != 0 {
		return 0
	}
	seg[12] = tcpHeader / 4 << 4
	seg[13] = seg[13]&tcpACK | tcpRST
	clear(seg[14:20])
	if header == ipv6Header {
		binary.BigEndian.PutUint16(ip[4:], tcpHeader)
		putChecksum(seg, 16, pseudo(ip[8:24], ip[24:40], policy.ProtoTCP, tcpHeader))
		return l3 + header + tcpHeader
	}
	if ip[0] != 0x45 || binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
		return 0
	}
	binary.BigEndian.PutUint16(ip[2:], ipv4Header+tcpHeader)
	putChecksum(ip[:ipv4Header], 10, 0)
	putChecksum(seg, 16, pseudo(ip[12:16], ip[16:20], policy.ProtoTCP, tcpHeader))
	return l3 + header + tcpHeader
}

// icmpIsError4 reports the types that quote another packet (RFC 792).
func icmpIsError4(t byte) bool {
	switch t {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// pseudo is the sum over the pseudo-header, the same for both families.
func pseudo(src, dst []byte, proto policy.Proto, length int) uint64 {
	return sum(src, 0) + sum(dst, 0) + uint64(proto) + uint64(length)
}

// putChecksum writes the Internet checksum (RFC 1071) of b and what start
// already holds into the two bytes at offset at.
func putChecksum(b []byte, at int, start uint64) {
	b[at], b[at+1] = 0, 0
	s := sum(b, start)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(b[at:], ^uint16(s))
}

// sum adds b as 16-bit words; 64 bits carry any packet.
func sum(b []byte, s uint64) uint64 {
	for len(b) >= 8 {
		var carry uint64
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b), 0)
		s += carry
		b = b[8:]
	}
	for len(b) >= 2 {
		s = fold(s) + uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s = fold(s) + uint64(b[0])<<8
	}
	return fold(s)
}

func fold(s uint64) uint64 {
	s = s>>32 + s&0xffffffff
	return s>>16 + s&0xffff
}

// pace is how often something may happen.
type pace struct {
	each  int64 // nanoseconds
	burst int64 // that may happen at once
}

// rejectPace is how many answers an endpoint may cause: enough for every program
// on it to fail at once, too few to make an amplifier or a load of it.
// refusalPace is that of lookups, which fail by the hundred where a server looks
// up each of its clients, and wait for seconds when nobody answers; the answer is
// hardly longer than the query, and its asker's alone.
var (
	rejectPace  = pace{int64(time.Second) / 200, 64}
	refusalPace = pace{int64(time.Second) / 2000, 512}
)

// rateLimit is a token bucket in one word: the time at which the bucket would
// be full again. Safe for concurrent use.
type rateLimit struct{ full atomic.Int64 }

// take reports whether one more fits at now, nanoseconds of any steady clock.
func (r *rateLimit) take(now int64, p pace) bool {
	for {
		full := r.full.Load()
		next := max(full, now) + p.each
		if next-now > p.each*p.burst {
			return false
		}
		if r.full.CompareAndSwap(full, next) {
			return true
		}
	}
}

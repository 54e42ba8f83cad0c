package appid

import "gatehouse/policy"

// DNS: RFC 1035 section 4, EDNS RFC 6891, over TCP RFC 7766; mDNS RFC 6762 has
// the same messages on port 5353. A message must parse to its exact end. Off
// the wire alone a query is no proof: the reply must fit too.
var dnsUDPProtocol = protocol{
	app: policy.AppDNS, udp: true,
	client:       func(v *view) match { return dnsMessage(v.c, false, v.cFull, v.port) },
	server:       func(v *view) match { return dnsMessage(v.s, true, v.sFull, v.port) },
	clientFirsts: anyByte(), serverFirsts: anyByte(),
	refine: dnsRefine,
}

var dnsTCPProtocol = protocol{
	app: policy.AppDNS, tcp: true,
	client:       func(v *view) match { return dnsStream(v.c, false, v.cFull) },
	server:       func(v *view) match { return dnsStream(v.s, true, v.sFull) },
	clientFirsts: between(0, 16), serverFirsts: anyByte(),
}

const (
	portMDNS = 5353
	dnsHead  = 12
)

func dnsRefine(v *view) policy.App {
	if v.port == portMDNS {
		return policy.AppMDNS
	}
	return policy.AppDNS
}

// dnsStream: messages after two bytes of length.
func dnsStream(b []byte, reply, full bool) match {
	if len(b) < 2 {
		return until(full)
	}
	n := int(be.Uint16(b))
	if n < dnsHead+5 {
		return no
	}
	b = b[2:]
	if len(b) >= n {
		return dnsMessage(b[:n], reply, false, 0)
	}
	if len(b) >= dnsHead && !dnsHeader(b, reply, false) {
		return no
	}
	if full {
		return dnsMessage(b, reply, true, 0)
	}
	return more
}

// dnsHeader checks flags and counts. mDNS answers without a question.
func dnsHeader(b []byte, reply, mdns bool) bool {
	flags := be.Uint16(b[2:])
	qd, an, ns, ar := be.Uint16(b[4:]), be.Uint16(b[6:]), be.Uint16(b[8:]), be.Uint16(b[10:])
	opcode := flags >> 11 & 15
	if opcode > 6 || opcode == 1 || opcode == 3 || flags&0x40 != 0 {
		return false
	}
	if mdns {
		return opcode == 0 && flags&15 == 0 && int(qd)+int(an)+int(ns)+int(ar) > 0
	}
	if flags&0x8000 != 0 != reply {
		return false
	}
	if reply {
		return flags&15 <= 11 && qd <= 1 && (qd == 1 || flags&15 != 0 || an > 0)
	}
	// An update (opcode 5) and a notification (4) carry records in a query.
	return flags&15 == 0 && qd == 1 && (opcode >= 4 || an == 0 && ns == 0) && an <= 100 && ns <= 100 && ar <= 2+ns
}

// dnsMessage parses one message; cut says that its end is not kept.
func dnsMessage(b []byte, reply, cut bool, port uint16) match {
	mdns := port == portMDNS
	if len(b) < dnsHead || !dnsHeader(b, reply, mdns) {
		return no
	}
	if !mdns && !reply && len(b) < dnsHead+5 {
		return no
	}
	pos := dnsHead
	ok := true
	for range be.Uint16(b[4:]) {
		if pos, ok = dnsName(b, pos); !ok || pos+4 > len(b) {
			return dnsEnd(cut, ok)
		}
		class := be.Uint16(b[pos+2:]) &^ 0x8000
		if class != 1 && class != 3 && class != 4 && class != 255 && class != 254 {
			return no
		}
		pos += 4
	}
	records := int(be.Uint16(b[6:])) + int(be.Uint16(b[8:])) + int(be.Uint16(b[10:]))
	for range records {
		if pos, ok = dnsName(b, pos); !ok || pos+10 > len(b) {
			return dnsEnd(cut, ok)
		}
		pos += 10 + int(be.Uint16(b[pos+8:]))
		if pos > len(b) {
			return dnsEnd(cut, true)
		}
	}
	if pos != len(b) {
		return no
	}
	return fits
}

// dnsEnd: running out of bytes is an error only where all bytes are there.
func dnsEnd(cut, wellFormed bool) match {
	if cut && wellFormed {
		return fits
	}
	return no
}

// dnsName steps over a name: labels of 1 to 63 bytes, at most 255 in all, ended
// by the root or by a pointer back. ok is false for what no name looks like; a
// name that the buffer cuts leaves pos past its end.
func dnsName(b []byte, pos int) (next int, ok bool) {
	start := pos
	for pos < len(b) {
		n := int(b[pos])
		switch {
		case n == 0:
			return pos + 1, true
		case n >= 0xc0:
			if pos+1 < len(b) && int(be.Uint16(b[pos:])&0x3fff) >= start {
				return 0, false
			}
			return pos + 2, true
		case n > 63:
			return 0, false
		}
		pos += 1 + n
		if pos-start > 255 {
			return 0, false
		}
	}
	return len(b) + 1, true
}

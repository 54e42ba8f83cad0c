package appid

import "gatehouse/policy"

// DNS: RFC 1035 section 4, EDNS RFC 6891, over TCP RFC 7766. A message must
// parse to its exact end. A query for a known type by a name of letters is proof,
// and so is a reply with answers. LLMNR (RFC 4795) has the same messages on a
// port of its own and is another application.
var dnsUDPProtocol = protocol{
	app: policy.AppDNS, udp: true,
	client:       func(v *view) match { return dnsDatagram(v.c, dnsQuestion, v) },
	server:       func(v *view) match { return dnsDatagram(v.s, dnsReply, v) },
	clientFirsts: anyByte(), serverFirsts: anyByte(),
	attrs: func(v *view, a *Attrs) { dnsAttrs(v.c, v.s, a) },
}

// mDNS: RFC 6762. The same messages, to a group, so that no reply comes back;
// their id should be 0 (section 18.1). The port only parts the name from DNS's.
var mdnsProtocol = protocol{
	app: policy.AppMDNS, udp: true,
	client:       func(v *view) match { return mdnsMessage(v.c, v.port, v.cFull) },
	server:       func(v *view) match { return mdnsMessage(v.s, v.port, v.sFull) },
	clientFirsts: anyByte(), serverFirsts: anyByte(),
	attrs: func(v *view, a *Attrs) { dnsAttrs(v.c, v.s, a) },
}

func dnsDatagram(b []byte, kind dnsKind, v *view) match {
	if v.port == portLLMNR {
		return no
	}
	m := dnsMessage(b, kind, v.cFull && kind == dnsQuestion || v.sFull && kind == dnsReply)
	if m != fits || !dnsPlainName(b) {
		return m
	}
	if kind == dnsQuestion && (be.Uint16(b[2:])&^0x0130 != 0 || be.Uint32(b[6:]) != 0 || be.Uint16(b[10:]) > 1) {
		return m
	}
	return yes
}

// dnsPlainName: one question, for a type in use, by a name of letters, digits,
// hyphens and underscores.
func dnsPlainName(b []byte) bool {
	if be.Uint16(b[4:]) != 1 {
		return false
	}
	at, letters := dnsHead, 0
	for at < len(b) && b[at] != 0 {
		n := int(b[at])
		if n > 63 || at+1+n > len(b) {
			return false
		}
		for _, c := range b[at+1 : at+1+n] {
			if !alpha(c) && !digit(c) && c != '-' && c != '_' {
				return false
			}
			letters++
		}
		at += 1 + n
	}
	if at+5 > len(b) || letters < 2 {
		return false
	}
	switch kind := be.Uint16(b[at+1:]); kind {
	case 1, 2, 5, 6, 10, 12, 13, 15, 16, 17, 24, 25, 28, 29, 33, 35, 37, 39, 43, 44, 46, 47, 48, 50, 52, 59, 60, 61, 64, 65, 99, 108, 109, 251, 252, 255, 256, 257:
	default:
		return false
	}
	return be.Uint16(b[at+3:]) == 1
}

// dnsLocal reports whether the first name asked for ends in "local".
func dnsLocal(b []byte) bool {
	const end = "\x05local\x00"
	at := dnsHead
	for at < len(b) && b[at] != 0 && b[at] < 64 {
		if begins(b[at:], end) == yes {
			return true
		}
		at += 1 + int(b[at])
	}
	return false
}

func mdnsMessage(b []byte, port uint16, cut bool) match {
	if port != portMDNS || len(b) < dnsHead || be.Uint16(b) != 0 && !dnsLocal(b) {
		return no
	}
	if dnsMessage(b, dnsMulticast, cut) == no {
		return no
	}
	return yes
}

var dnsTCPProtocol = protocol{
	app: policy.AppDNS, tcp: true,
	client:       func(v *view) match { return dnsStream(v.c, dnsQuestion, v.cFull) },
	server:       func(v *view) match { return dnsStream(v.s, dnsReply, v.sFull) },
	clientFirsts: between(0, 16), serverFirsts: anyByte(),
	attrs: func(v *view, a *Attrs) { dnsAttrs(v.c[min(2, len(v.c)):], v.s[min(2, len(v.s)):], a) },
}

const (
	portMDNS  = 5353
	portLLMNR = 5355
	dnsHead   = 12
	typeIXFR  = 251 // RFC 1995 section 3
)

// dnsKind is what a message is expected to be.
type dnsKind uint8

const (
	dnsQuestion dnsKind = iota
	dnsReply
	dnsMulticast
)

// dnsStream: messages after two bytes of length.
func dnsStream(b []byte, kind dnsKind, full bool) match {
	if len(b) < 2 {
		return until(full)
	}
	n := int(be.Uint16(b))
	if n < dnsHead+5 {
		return no
	}
	b = b[2:]
	if len(b) >= n {
		return dnsMessage(b[:n], kind, false)
	}
	if len(b) >= dnsHead && !dnsHeader(b, kind) {
		return no
	}
	if full {
		return dnsMessage(b, kind, true)
	}
	return more
}

// dnsHeader checks flags and counts. mDNS answers without a question.
func dnsHeader(b []byte, kind dnsKind) bool {
	flags := be.Uint16(b[2:])
	qd, an, ns, ar := be.Uint16(b[4:]), be.Uint16(b[6:]), be.Uint16(b[8:]), be.Uint16(b[10:])
	opcode := flags >> 11 & 15
	if opcode > 6 || opcode == 3 || flags&0x40 != 0 {
		return false
	}
	if kind == dnsMulticast {
		return opcode == 0 && flags&15 == 0 && int(qd)+int(an)+int(ns)+int(ar) > 0
	}
	if flags&0x8000 != 0 != (kind == dnsReply) {
		return false
	}
	if kind == dnsReply {
		return flags&15 <= 11 && qd <= 1 && (qd == 1 || flags&15 != 0 || an > 0)
	}
	if opcode == 1 { // inverse, obsolete: an answer looks for its question
		return flags&15 == 0 && qd == 0 && an == 1 && ns == 0 && ar == 0
	}
	// An update (opcode 5) and a notification (4) carry records in a query, and a query
	// for what changed in a zone the SOA that the asker has.
	return flags&15 == 0 && qd == 1 && (opcode >= 4 || an == 0 && ns <= 1) && an <= 100 && ns <= 100 && ar <= 2+ns
}

// dnsMessage parses one message; cut says that its end is not kept.
func dnsMessage(b []byte, kind dnsKind, cut bool) match {
	if len(b) < dnsHead || !dnsHeader(b, kind) || netbiosName(b[dnsHead:]) {
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
	if kind == dnsQuestion && be.Uint16(b[2:])>>11&15 == 0 && be.Uint16(b[8:]) == 1 && be.Uint16(b[pos-4:]) != typeIXFR {
		return no
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
	if kind == dnsReply && be.Uint16(b[6:]) > 0 {
		return yes
	}
	return fits
}

// netbiosName: NetBIOS name service (RFC 1002 4.1) has DNS's format, with names
// of 16 bytes written as 32 letters from A to P.
func netbiosName(b []byte) bool {
	if len(b) < 33 || b[0] != 32 {
		return false
	}
	for _, c := range b[1:33] {
		if c < 'A' || c > 'P' {
			return false
		}
	}
	return true
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

// dnsAttrs: the name that is asked for, of the question or, where only that was
// seen, of the reply.
func dnsAttrs(question, reply []byte, a *Attrs) {
	b := question
	if len(b) < dnsHead+5 {
		if b = reply; len(b) < dnsHead+5 {
			return
		}
	}
	var name [253]byte
	n := 0
	for at := dnsHead; at < len(b) && b[at] != 0 && b[at] < 64 && at+1+int(b[at]) <= len(b); at += 1 + int(b[at]) {
		if n > 0 && n < len(name) {
			name[n] = '.'
			n++
		}
		n += copy(name[n:], b[at+1:at+1+int(b[at])])
	}
	a.Set(AttrHost, name[:n])
}

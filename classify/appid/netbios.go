package appid

import "gatehouse/policy"

// NetBIOS name and datagram services: RFC 1002 sections 4.2 and 4.4. Names of 16
// bytes are written as 32 letters from A to P.
var netbiosProtocol = protocol{
	app: policy.AppNetBIOS, udp: true,
	client:       func(v *view) match { return netbiosMessage(v.c) },
	server:       func(v *view) match { return netbiosMessage(v.s) },
	clientFirsts: anyByte(), serverFirsts: anyByte(),
}

func netbiosMessage(b []byte) match {
	// Datagram: type, flags, id, source address and port, length, offset, name.
	if len(b) > 14+34 && b[0] >= 0x10 && b[0] <= 0x12 && b[1]&0xf0 == 0 && netbiosName(b[14:]) {
		return yes
	}
	if len(b) < dnsHead+34 || !netbiosName(b[dnsHead:]) || b[dnsHead+33] != 0 {
		return no
	}
	// Name service: one question or one answer, of type NB or NBSTAT.
	qd, an := be.Uint16(b[4:]), be.Uint16(b[6:])
	if qd+an != 1 || len(b) < dnsHead+34+4 {
		return no
	}
	if kind := be.Uint16(b[dnsHead+34:]); kind != 0x20 && kind != 0x21 && kind != 0x0a {
		return no
	}
	return yes
}

package appid

import "gatehouse/policy"

// NetBIOS name and datagram services: RFC 1002 sections 4.2 and 4.4. Names of 16
// bytes are written as 32 letters from A to P; a scope may follow them.
var netbiosProtocol = protocol{
	app: policy.AppNetBIOS, udp: true,
	client:       func(v *view) match { return netbiosMessage(v.c) },
	server:       func(v *view) match { return netbiosMessage(v.s) },
	clientFirsts: anyByte(), serverFirsts: anyByte(),
}

// NetBIOS session service: RFC 1002 section 4.3. What follows a session request
// names the application (SMB); the request alone is named only where no more of
// the flow's beginning is there to be seen.
var netbiosSessionProtocol = protocol{
	app: policy.AppNetBIOS, tcp: true,
	client: func(*view) match { return no }, server: func(*view) match { return no },
	mid: netbiosSession,
}

func netbiosSession(b []byte) match {
	const request, size = 0x81, 4 + 34 + 34
	if len(b) >= size && b[0] == request && b[1] == 0 && be.Uint16(b[2:]) == size-4 && netbiosName(b[4:]) && netbiosName(b[4+34:]) {
		return yes
	}
	return no
}

// netbiosEnd steps over the labels of a scope; 0 where there is no end.
func netbiosEnd(b []byte, at int) int {
	for at += 33; at < len(b) && b[at] < 64; at += 1 + int(b[at]) {
		if b[at] == 0 {
			return at + 1
		}
	}
	return 0
}

func netbiosMessage(b []byte) match {
	// Datagram: type, flags, id, source address and port, length, offset, name;
	// of an error the code alone, of a query the name alone.
	if len(b) > 14+34 && b[0] >= 0x10 && b[0] <= 0x12 && b[1]&0xf0 == 0 && netbiosName(b[14:]) {
		return yes
	}
	if len(b) > 10+34 && b[0] >= 0x14 && b[0] <= 0x16 && b[1]&0xf0 == 0 && netbiosName(b[10:]) {
		return yes
	}
	if len(b) < dnsHead+34 || !netbiosName(b[dnsHead:]) {
		return no
	}
	// Name service: one question or one answer, of type NB, NBSTAT, NULL, NS or A.
	end := netbiosEnd(b, dnsHead)
	if end == 0 || be.Uint16(b[4:])+be.Uint16(b[6:]) > 2 || be.Uint16(b[4:])|be.Uint16(b[6:])|be.Uint16(b[8:]) == 0 || len(b) < end+4 {
		return no
	}
	switch be.Uint16(b[end:]) {
	case 0x20, 0x21, 0x0a, 0x02, 0x01:
		return yes
	}
	return no
}

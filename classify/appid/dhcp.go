package appid

import "gatehouse/policy"

// DHCP: RFC 2131 section 2 and RFC 2132 section 9.6; BOOTP, with RFC 1497's
// options or none: RFC 951 section 3; DHCPv6: RFC 8415 sections
// 8, 9 and 21. Most messages are to groups and have no answer in the flow.
var (
	dhcpProtocol = protocol{
		app: policy.AppDHCP, udp: true,
		client: func(v *view) match { return dhcpMessage(v.c) }, server: func(v *view) match { return dhcpMessage(v.s) },
		clientFirsts: oneOf("\x01\x02"), serverFirsts: oneOf("\x01\x02"),
		attrs: dhcpAttrs,
	}
	dhcpv6Protocol = protocol{
		app: policy.AppDHCPv6, udp: true,
		client: func(v *view) match { return dhcpv6Message(v.c) }, server: func(v *view) match { return dhcpv6Message(v.s) },
		clientFirsts: between(1, 13), serverFirsts: between(1, 13),
	}
)

func dhcpMessage(b []byte) match {
	const cookie = 236
	if len(b) < cookie+4 || b[2] > 16 || b[3] > 16 {
		return no
	}
	// The padding of the address; a server's name and a file's are text.
	if !zero(b[28+int(b[2]):44]) && b[2] == 6 {
		return no
	}
	if be.Uint32(b[cookie:]) == 0x63825363 {
		return yes
	}
	if len(b) >= 300 && b[1] == 1 && b[2] == 6 && zero(b[44:108]) && zero(b[cookie:min(len(b), cookie+16)]) {
		return yes
	}
	return no
}

func dhcpv6Message(b []byte) match {
	head := 4
	if b[0] == 12 || b[0] == 13 { // relayed: hop count, link and peer address
		head = 34
	}
	if len(b) < head+4 {
		return no
	}
	// Of the options some must be there: client or server id, relayed message.
	named := false
	for b = b[head:]; len(b) > 0; {
		if len(b) < 4 {
			return no
		}
		kind, n := be.Uint16(b), 4+int(be.Uint16(b[2:]))
		if n > len(b) || kind == 0 || kind > 200 {
			return no
		}
		// A DUID has a type of 1 to 4.
		named = named || kind == 9 || (kind == 1 || kind == 2) && n >= 4+4 && b[4] == 0 && b[5] >= 1 && b[5] <= 4
		b = b[n:]
	}
	if named {
		return yes
	}
	return no
}

// dhcpAttrs: host name and vendor class (RFC 2132 sections 3.14 and 9.13).
func dhcpAttrs(v *view, a *Attrs) {
	const options = 240
	for b := v.c[min(len(v.c), options):]; len(b) >= 2 && b[0] != 255; {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		value := short(b[1:])
		if value == nil {
			return
		}
		switch b[0] {
		case 12:
			a.Set(AttrHost, value)
		case 60:
			a.Set(AttrAgent, value)
		}
		b = b[2+len(value):]
	}
}

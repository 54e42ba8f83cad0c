package appid

import "gatehouse/policy"

// RDP: MS-RDPBCGR 2.2.1.1 and 2.2.1.2, an X.224 connection request (ITU-T X.224
// 13.3) in TPKT (RFC 1006). TPKT alone is other protocols' too: the cookie, the
// negotiation request or the MCS connect that follows (2.2.1.3) tells.
var rdpProtocol = protocol{
	app: policy.AppRDP, tcp: true,
	client: rdpRequest, server: rdpConfirm,
	clientFirsts: oneOf("\x03"), serverFirsts: oneOf("\x03"),
	mid: rdpChannel,
	attrs: func(v *view, a *Attrs) {
		if rest, ok := after(v.c[:min(len(v.c), 256)], "Cookie: mstshash="); ok {
			a.Set(AttrUser, upTo(rest, "\r\n"))
		}
	},
	upgraded: func(v *view) match {
		n := 0
		if len(v.c) >= 4 {
			n = int(be.Uint16(v.c[2:]))
		}
		if n == 0 || len(v.c) <= n {
			return more
		}
		return startsTLS(v.c[n:])
	},
}

const x224Head = 11 // TPKT 4, length, code, references 4, class

func x224(b []byte, code byte, full bool) match {
	for i, c := range b[:min(len(b), x224Head)] {
		if i == 1 && c != 0 || i == 5 && c&0xf0 != code || i == 10 && c != 0 {
			return no
		}
	}
	if len(b) < x224Head {
		return until(full)
	}
	if n := int(be.Uint16(b[2:])); n < x224Head || int(b[4]) != n-5 {
		return no
	}
	return yes
}

func rdpRequest(v *view) match {
	if m := x224(v.c, 0xe0, v.cFull); m != yes {
		return m
	}
	n := int(be.Uint16(v.c[2:]))
	if len(v.c) < n {
		return until(v.cFull)
	}
	b := v.c[x224Head:n]
	if begins(b, "Cookie: mstshash=") == yes || begins(b, "Cookie: msts=") == yes {
		return yes
	}
	if len(b) == 0 {
		// The oldest clients ask for nothing.
		switch m := begins(v.c[n:], "\x03\x00"); m {
		case yes:
			if len(v.c) < n+9 {
				return until(v.cFull)
			}
			if string(v.c[n+4:n+9]) == "\x02\xf0\x80\x7f\x65" {
				return yes
			}
			return no
		case more:
			return until(v.cFull)
		}
		return no
	}
	// Negotiation request: type 1, flags, length 8.
	if len(b) >= 8 && b[0] == 1 && le.Uint16(b[2:]) == 8 { // others may follow it
		return yes
	}
	if len(b) >= 8 && b[len(b)-8] == 1 && le.Uint16(b[len(b)-6:]) == 8 {
		return yes
	}
	return no
}

func rdpConfirm(v *view) match {
	if m := x224(v.s, 0xd0, v.sFull); m != yes {
		return m
	}
	return fits
}

// rdpChannel: X.224 data that is an MCS send on a channel from 1003 on (T.125
// section 7, 2.2.8), or the connect.
func rdpChannel(b []byte) match {
	if len(b) < 13 || b[0] != 3 || b[1] != 0 || b[4] != 2 || b[5] != 0xf0 || b[6] != 0x80 {
		return no
	}
	if int(be.Uint16(b[2:])) < 13 || int(be.Uint16(b[2:])) > 1<<14 {
		return no
	}
	if (b[7] == 0x64 || b[7] == 0x68) && be.Uint16(b[10:]) >= 1003 && be.Uint16(b[10:]) < 1100 && b[12]&0x0f == 0 {
		return yes
	}
	return no
}

// RDP over UDP: MS-RDPEUDP 2.2.2.1: the SYN acknowledges -1, and is padded to the
// size of what is to come; the answer acknowledges the number it had.
var rdpUDPProtocol = protocol{
	app: policy.AppRDP, udp: true,
	client: func(v *view) match {
		const syn = 1
		if len(v.c) < 1132 || len(v.c) > 1232 || be.Uint32(v.c) != 0xffffffff || be.Uint16(v.c[6:])&^0x1601 != 0 || be.Uint16(v.c[6:])&syn == 0 {
			return no
		}
		return fits
	},
	server: func(v *view) match {
		const synAck = 5
		if len(v.s) < 16 || be.Uint16(v.s[6:])&synAck != synAck || len(v.c) >= 12 && be.Uint32(v.s) != be.Uint32(v.c[8:]) {
			return no
		}
		return fits
	},
	clientFirsts: oneOf("\xff"), serverFirsts: anyByte(),
}

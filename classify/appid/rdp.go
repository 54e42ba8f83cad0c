package appid

import "gatehouse/policy"

// RDP: MS-RDPBCGR 2.2.1.1 and 2.2.1.2, an X.224 connection request (ITU-T X.224
// 13.3) in TPKT (RFC 1006). TPKT alone is other protocols' too: the cookie or
// the negotiation request tells.
var rdpProtocol = protocol{
	app: policy.AppRDP, tcp: true,
	client: rdpRequest, server: rdpConfirm,
	clientFirsts: oneOf("\x03"), serverFirsts: oneOf("\x03"),
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
	// Negotiation request: type 1, flags, length 8.
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

package appid

import (
	"bytes"

	"gatehouse/policy"
)

// OpenVPN: openvpn.net "OpenVPN Protocol" wire format (ssl_pkt.h). A reset, and
// the server's reset that acknowledges the client's session.
var (
	openvpnProtocol = protocol{
		app: policy.AppOpenVPN, udp: true,
		client: func(v *view) match { return openvpnReset(v.c, true) }, server: func(v *view) match { return openvpnAnswer(v.c, v.s, true) },
		clientFirsts: oneOf("\x38\x50"), serverFirsts: oneOf("\x40"),
	}
	openvpnTCPProtocol = protocol{
		app: policy.AppOpenVPN, tcp: true,
		client: func(v *view) match {
			if len(v.c) < 3 {
				return until(v.cFull)
			}
			if n := be.Uint16(v.c); n < 14 || n > 2000 {
				return no
			}
			return openvpnReset(v.c[2:], v.cFull)
		},
		server: func(v *view) match {
			if len(v.s) < 3 || len(v.c) < 3 {
				return until(v.sFull)
			}
			return openvpnAnswer(v.c[2:], v.s[2:], v.sFull)
		},
		clientFirsts: between(0, 7), serverFirsts: between(0, 7),
	}
)

func openvpnReset(b []byte, full bool) match {
	if b[0] != 0x38 && b[0] != 0x50 {
		return no
	}
	if len(b) < 14 {
		return until(full)
	}
	return fits
}

func openvpnAnswer(c, s []byte, full bool) match {
	if s[0] != 0x40 {
		return no
	}
	if len(s) < 26 || len(c) < 9 {
		return until(full)
	}
	if bytes.Contains(s[9:], c[1:9]) {
		return fits
	}
	return no
}

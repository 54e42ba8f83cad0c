package appid

import (
	"bytes"

	"gatehouse/policy"
)

// OpenVPN: openvpn.net "OpenVPN network protocol" and ssl_pkt.h: an opcode with a
// key's number, the session's id, then acknowledgements and a packet number; with
// tls-auth an HMAC, a number and the time stand before those, with tls-crypt the
// number and the time before an HMAC of 32 bytes and all else is encrypted. A
// reset, and the server's reset that acknowledges the client's session.
var (
	openvpnProtocol = protocol{
		app: policy.AppOpenVPN, udp: true,
		client:       func(v *view) match { return openvpnReset(v.c, true) },
		server:       func(v *view) match { return openvpnAnswer(v.c, v.s, true) },
		clientFirsts: oneOf("\x08\x20\x28\x38\x50"), serverFirsts: oneOf("\x10\x20\x28\x40"),
	}
	openvpnTCPProtocol = protocol{
		app: policy.AppOpenVPN, tcp: true,
		client: func(v *view) match {
			if len(v.c) < 3 {
				return until(v.cFull)
			}
			n := int(be.Uint16(v.c))
			if n < 14 || n > 2000 {
				return no
			}
			return openvpnReset(v.c[2:min(len(v.c), 2+n)], v.cFull || len(v.c) >= 2+n)
		},
		server: func(v *view) match {
			if len(v.s) < 3 || len(v.c) < 3 {
				return until(v.sFull)
			}
			n := int(be.Uint16(v.s))
			if n < 14 || n > 2000 {
				return no
			}
			return openvpnAnswer(v.c[2:], v.s[2:min(len(v.s), 2+n)], v.sFull || len(v.s) >= 2+n)
		},
		clientFirsts: between(0, 7), serverFirsts: between(0, 7),
	}
)

const (
	openvpnResetV1  = 1 << 3 // opcodes stand above the key's number
	openvpnServerV1 = 2 << 3
	openvpnResetV2  = 7 << 3
	openvpnServerV2 = 8 << 3
	openvpnResetV3  = 10 << 3
	openvpnControl  = 4 << 3
	openvpnACK      = 5 << 3

	openvpnBare = 14 // opcode, session, no acknowledgements, packet number
)

// openvpnHMACs are the sizes of MD5 to SHA-512.
var openvpnHMACs = [...]int{16, 20, 28, 32, 48, 64}

// openvpnStamp: the first packet's number, and a time from 2001 on.
func openvpnStamp(b []byte) bool {
	return len(b) >= 8 && be.Uint32(b) >= 1 && be.Uint32(b) <= 16 && be.Uint32(b[4:]) >= 1_000_000_000 && be.Uint32(b[4:]) < 1<<32-1
}

func openvpnReset(b []byte, full bool) match {
	if len(b) < openvpnBare {
		if b[0] != openvpnResetV1 && b[0] != openvpnResetV2 && b[0] != openvpnResetV3 && b[0] != openvpnControl && b[0] != openvpnACK {
			return no
		}
		return until(full)
	}
	switch b[0] {
	case openvpnResetV1, openvpnResetV2, openvpnResetV3:
	case openvpnControl, openvpnACK:
		return fits
	default:
		return no
	}
	if !full {
		return more
	}
	switch {
	case len(b) == openvpnBare && b[9] == 0 && be.Uint32(b[10:]) == 0 && scrambled(b[1:9]):
		return yes
	case len(b) >= 9+8+32+5 && openvpnStamp(b[9:]) && scrambled(b[17:17+32]): // tls-crypt, with a wrapped key after it in version 2
		return yes
	}
	for _, n := range openvpnHMACs {
		if len(b) == openvpnBare+n+8 && openvpnStamp(b[9+n:]) && b[len(b)-5] == 0 {
			return yes
		}
	}
	// Signed or scrambled in another way.
	if len(b) <= 1500 {
		return fits
	}
	return no
}

func openvpnAnswer(c, s []byte, full bool) match {
	if s[0] != openvpnServerV2 && s[0] != openvpnServerV1 && s[0] != openvpnControl && s[0] != openvpnACK {
		return no
	}
	if len(s) < openvpnBare || len(c) < 9 {
		return until(full)
	}
	if len(s) >= 26 && distinct(c[1:9]) > 4 && bytes.Contains(s[9:], c[1:9]) {
		return fits
	}
	// tls-crypt hides what is acknowledged.
	if len(s) >= 9+8+32+5 && openvpnStamp(s[9:]) && openvpnStamp(c[9:]) {
		return fits
	}
	if !full {
		return more
	}
	return no
}

package appid

import (
	"bytes"

	"gatehouse/policy"
)

// SOCKS 5: RFC 1928 section 3, method negotiation of both sides; SOCKS 4 and 4a
// (Lee, "SOCKS: A protocol for TCP proxy across firewalls"): one request, one reply.
var socksProtocol = protocol{
	app: policy.AppSOCKS, tcp: true,
	client: socksMethods, server: socksMethod,
	clientFirsts: oneOf("\x04\x05"), serverFirsts: oneOf("\x00\x05"),
	tunnel: socksTunnel,
	attrs: func(v *view, a *Attrs) {
		if len(v.c) == 0 || v.c[0] == 4 {
			return
		}
		if c, _, m := socksRequest(v); m == yes {
			if n, ok := socksAddress(c); ok && c[3] == socksName {
				a.Set(AttrTarget, c[5:n-2])
			}
		}
	},
}

// socks4Request: version, command, port, address, user, NUL; of 4a a name follows.
func socks4Request(b []byte, full bool) match {
	if len(b) > 1 && b[1] != 1 && b[1] != 2 {
		return no
	}
	if len(b) < 9 {
		return until(full)
	}
	i := bytes.IndexByte(b[8:], 0)
	if be.Uint16(b[2:]) == 0 || be.Uint32(b[4:]) == 0 || i > 255 || !printable(b[8:8+max(i, 0)]) || i < 0 && len(b) > 8+255 {
		return no
	}
	if i < 0 {
		return until(full)
	}
	return fits
}

func socksMethods(v *view) match {
	if v.c[0] == 4 {
		return socks4Request(v.c, v.cFull)
	}
	if len(v.c) < 2 {
		return until(v.cFull)
	}
	n := int(v.c[1])
	if n == 0 || n > 10 {
		return no
	}
	for i, c := range v.c[2:min(len(v.c), 2+n)] {
		// None, GSSAPI, password, the assigned up to 9, private ones.
		if c > 9 && c < 0x80 || i > 0 && c == v.c[1+i] {
			return no
		}
	}
	if len(v.c) < 2+n {
		return until(v.cFull)
	}
	return fits
}

func socksMethod(v *view) match {
	if v.s[0] == 0 {
		if len(v.c) > 0 && v.c[0] != 4 || len(v.s) > 1 && (v.s[1] < 90 || v.s[1] > 93) || len(v.s) > 8 && len(v.c) < 9 {
			return no
		}
		if len(v.s) < 8 {
			return until(v.sFull)
		}
		return fits
	}
	if len(v.c) > 0 && v.c[0] != 5 {
		return no
	}
	if len(v.s) < 2 {
		return until(v.sFull)
	}
	if len(v.c) < 3 || v.s[1] != 0xff && !offered(v.c[2:min(len(v.c), 2+int(v.c[1]))], v.s[1]) {
		return no
	}
	return fits
}

func offered(methods []byte, m byte) bool {
	for _, c := range methods {
		if c == m {
			return true
		}
	}
	return false
}

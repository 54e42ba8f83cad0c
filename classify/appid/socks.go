package appid

import "gatehouse/policy"

// SOCKS 5: RFC 1928 section 3, method negotiation of both sides.
var socksProtocol = protocol{
	app: policy.AppSOCKS, tcp: true,
	client: socksMethods, server: socksMethod,
	clientFirsts: oneOf("\x05"), serverFirsts: oneOf("\x05"),
	tunnel: socksTunnel,
	attrs: func(v *view, a *Attrs) {
		if c, _, m := socksRequest(v); m == yes {
			if n, ok := socksAddress(c); ok && c[3] == socksName {
				a.Set(AttrTarget, c[5:n-2])
			}
		}
	},
}

func socksMethods(v *view) match {
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

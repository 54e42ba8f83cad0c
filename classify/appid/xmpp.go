package appid

import "gatehouse/policy"

// XMPP: RFC 6120 section 4. The stream's head names the jabber namespace.
var xmppProtocol = protocol{
	app: policy.AppXMPP, tcp: true,
	client: func(v *view) match { return xmppStream(v.c, v.cFull) }, server: func(v *view) match { return xmppStream(v.s, v.sFull) },
	clientFirsts: oneOf("<"), serverFirsts: oneOf("<"),
	upgraded: func(v *view) match {
		// Stanzas end with '>', and the hello follows one.
		for i := 1; i < len(v.c); i++ {
			if v.c[i] == recordHandshake && v.c[i-1] == '>' {
				return startsTLS(v.c[i:])
			}
		}
		return until(v.cFull)
	},
}

func xmppStream(b []byte, full bool) match {
	m := begins(b, "<stream:stream")
	if m == no {
		m = begins(b, "<?xml")
	}
	if m != yes {
		return m
	}
	if contains(b, "<stream:stream") && (contains(b, "jabber:client") || contains(b, "jabber:server") || contains(b, "etherx.jabber.org")) {
		return yes
	}
	if !text(b) || len(b) > 1024 {
		return no
	}
	return until(full)
}

package appid

import (
	"bytes"

	"gatehouse/policy"
)

// XMPP: RFC 6120 section 4. The stream's head names the jabber namespace.
var xmppProtocol = protocol{
	app: policy.AppXMPP, tcp: true,
	client: func(v *view) match { return xmppStream(v.c, v.cFull) }, server: func(v *view) match { return xmppStream(v.s, v.sFull) },
	clientFirsts: oneOf("<"), serverFirsts: oneOf("<"),
	upgraded: xmppUpgraded,
	holds:    func(v *view) bool { return xmppUpgraded(v) != yes || contains(v.c, "<starttls") },
}

func xmppStream(b []byte, full bool) match {
	m := begins(b, "<stream:stream")
	if m == no {
		m = begins(b, "<?xml")
	}
	if m != yes {
		return m
	}
	// The head ends with the first '>' after the stream's name.
	head := b
	if i := bytes.Index(b, []byte("<stream:stream")); i >= 0 {
		if j := bytes.IndexByte(b[i:], '>'); j >= 0 {
			head = b[:i+j]
		}
	}
	if !text(head) || len(head) > 1024 {
		return no
	}
	if contains(head, "<stream:stream") && (contains(head, "jabber:client") || contains(head, "jabber:server") || contains(head, "etherx.jabber.org")) {
		return yes
	}
	if len(head) < len(b) {
		return no
	}
	return until(full)
}

// xmppUpgraded: stanzas end with '>', and the hello follows one.
func xmppUpgraded(v *view) match {
	for i := 1; i < len(v.c); i++ {
		if v.c[i] == recordHandshake && v.c[i-1] == '>' {
			return startsTLS(v.c[i:])
		}
	}
	return until(v.cFull)
}

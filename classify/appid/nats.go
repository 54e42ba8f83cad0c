package appid

import (
	"bytes"

	"gatehouse/policy"
)

// NATS client protocol: "Client Protocol" of the NATS documentation. The server
// speaks first, and its INFO is proof; the client answers with CONNECT, or
// with TLS where INFO asks for it. Messages carry their length in decimal.
var natsProtocol = protocol{
	app: policy.AppNATS, tcp: true,
	client: natsClient, server: natsInfo,
	clientFirsts: oneOf("CPSUHcpsuh\x16"), serverFirsts: oneOf("I"),
	mid: natsMid,
	attrs: func(v *view, a *Attrs) {
		a.Set(AttrVersion, quoted(v.s, `"version"`))
		a.Set(AttrUser, quoted(v.c, `"user"`))
		a.Set(AttrAgent, quoted(v.c, `"lang"`))
	},
	upgraded: func(v *view) match {
		if len(v.c) == 0 {
			return more
		}
		return startsTLS(v.c)
	},
}

var natsVerbs = []string{"CONNECT", "PING", "PONG", "PUB", "SUB", "UNSUB", "HPUB"}

func natsInfo(v *view) match {
	if m := begins(v.s, "INFO {"); m != yes {
		return m
	}
	l, _, ok := line(v.s)
	if contains(v.s, `"server_id"`) {
		return yes
	}
	if ok && !contains(l, `"version"`) {
		return no
	}
	return until(v.sFull)
}

func natsClient(v *view) match {
	if v.c[0] == recordHandshake {
		// Proof of TLS as well: only with what INFO says it is this.
		if !contains(v.s, `"tls_required"`) && !contains(v.s, `"tls_available"`) && !contains(v.s, `"ssl_required"`) {
			return until(v.sFull)
		}
		return startsTLS(v.c)
	}
	if m := word(v.c, natsVerbs); m != yes {
		return m
	}
	if beginsFold(v.c, "CONNECT {") == yes {
		if l, _, ok := line(v.c); ok && (contains(l, `"verbose"`) || contains(l, `"pedantic"`) || contains(l, `"lang"`)) {
			return yes
		}
	}
	return fits
}

// natsMid: a message whose payload has the length that its line says, or what
// either side says first.
func natsMid(b []byte) match {
	l, rest, ok := line(b)
	if !ok {
		return no
	}
	switch {
	case begins(l, "INFO {") == yes:
		if contains(l, `"server_id"`) {
			return yes
		}
	case begins(l, "CONNECT {") == yes:
		if contains(l, `"verbose"`) || contains(l, `"lang"`) {
			return yes
		}
	case begins(l, "PUB ") == yes, begins(l, "MSG ") == yes, begins(l, "HPUB ") == yes, begins(l, "HMSG ") == yes:
		i := bytes.LastIndexByte(l, ' ')
		size, n := number(l[i+1:])
		if !printable(l) || n == 0 || i+1+n != len(l) {
			return no
		}
		if len(rest) >= size+2 && rest[size] == '\r' && rest[size+1] == '\n' {
			return yes
		}
		return more
	}
	return no
}

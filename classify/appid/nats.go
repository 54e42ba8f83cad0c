package appid

import "gatehouse/policy"

// NATS client protocol: "Client Protocol" of the NATS documentation. The server
// speaks first, and its INFO is proof; the client answers with CONNECT, or
// with TLS where INFO asks for it.
var natsProtocol = protocol{
	app: policy.AppNATS, tcp: true,
	client: natsClient, server: natsInfo,
	clientFirsts: oneOf("CPSUHcpsuh\x16"), serverFirsts: oneOf("I"),
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
	return fits
}

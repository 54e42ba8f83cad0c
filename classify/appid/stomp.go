package appid

import (
	"bytes"

	"gatehouse/policy"
)

// STOMP: stomp.github.io specification 1.2, "Augmented BNF" and "Connecting". A
// command alone on its line, then headers; HTTP's CONNECT has a space.
var stompProtocol = protocol{
	app: policy.AppSTOMP, tcp: true,
	client: stompConnect, server: stompConnected,
	clientFirsts: oneOf("CS\n\r"), serverFirsts: oneOf("CE\n\r"),
	attrs: func(v *view, a *Attrs) {
		a.setField(AttrUser, v.c, "LOGIN")
		a.setField(AttrHost, v.c, "HOST")
		a.setField(AttrVersion, v.s, "VERSION")
		a.setField(AttrServer, v.s, "SERVER")
	},
	mid: func(b []byte) match {
		return stompFrame(b, false, "SEND", "SUBSCRIBE", "MESSAGE", "RECEIPT", "ACK", "NACK")
	},
}

func stompConnect(v *view) match { return stompFrame(v.c, v.cFull, "CONNECT", "STOMP") }

func stompConnected(v *view) match { return stompFrame(v.s, v.sFull, "CONNECTED", "ERROR") }

func stompFrame(b []byte, full bool, commands ...string) match {
	best := no
	b = bytes.TrimLeft(b, "\r\n") // between frames these are heart-beats
	if len(b) == 0 {
		return until(full)
	}
	for _, c := range commands {
		switch begins(b, c) {
		case more:
			best = until(full)
		case yes:
			l, rest, ok := line(b)
			if !ok {
				if len(b) <= len(c)+1 && (len(b) == len(c) || b[len(c)] == '\r') {
					best = until(full)
				}
				continue
			}
			if len(l) != len(c) {
				continue
			}
			h, _, ok := line(rest)
			if !ok {
				if !text(rest) {
					return no
				}
				return until(full)
			}
			// Header names are lower case; the first ones are well known.
			for _, name := range [...]string{"accept-version:", "host:", "login:", "passcode:", "heart-beat:", "version:", "server:", "session:", "message:", "content-type:", "content-length:", "client-id:", "receipt-id:", "destination:", "id:", "ack:", "subscription:", "message-id:", "receipt:"} {
				if begins(h, name) == yes {
					return yes
				}
			}
			return no
		}
	}
	return best
}

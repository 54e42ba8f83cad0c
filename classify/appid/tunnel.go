package appid

import (
	"bytes"

	"gatehouse/policy"
)

// Tunnels: what opens one, and where what it carries begins.

// httpTunnel: CONNECT and a 2xx answer (RFC 9110 9.3.6), or Upgrade and 101
// (7.8). An answer that refuses is followed by another attempt on the same
// connection, as proxies that want a password have it: its body ends where the
// client speaks again. WebSocket is no tunnel, once a first frame of it was seen,
// nor is the raw stream that the APIs of container engines switch to. Where a
// head is too long to be read, a tunnel is taken to begin behind it.
func httpTunnel(v *view) (m match, client, server int) {
	c, s := v.c, v.s
	for range 8 {
		head, rest, ok := httpHead(c)
		switch {
		case len(v.c) == 0 && !v.refused: // met mid-stream
			return no, 0, 0
		case !ok && len(c) == 0: // what the server says belongs to its refusal
			return more, len(v.c), len(v.s)
		case !ok && v.cFull && (begins(c, "CONNECT ") == yes || begins(s, httpSwitching) == yes):
			return yes, len(v.c), len(v.s)
		case !ok && (v.cFull || !httpMethod(c)):
			return no, 0, 0
		case !ok:
			return more, len(v.c) - len(c), len(v.s) - len(s)
		case !asksForTunnel(head):
			if n := tunnelBehind(rest); n > 0 { // whose answer it is cannot be told
				return yes, len(v.c) - len(rest) + n, len(v.s)
			}
			return no, 0, 0
		}
		const status = "HTTP/1.1 200"
		if begins(s, "HTTP/1.") == no {
			return yes, len(v.c) - len(rest), len(v.s) - len(s)
		}
		if len(s) < len(status) {
			return more, len(v.c) - len(c), len(v.s) - len(s)
		}
		connect := begins(head, "CONNECT ") == yes
		code, _ := number(s[len("HTTP/1.1 "):])
		reply, after, ok := httpHead(s)
		switch {
		case code/100 != 1 && !connect:
			return no, 0, 0
		case code/100 > 2:
			c, s = rest, s[len(s):]
			continue
		case !ok && !v.sFull:
			return more, len(v.c) - len(c), len(v.s) - len(s)
		case !ok: // what of it is kept
			reply, after = s, nil
		}
		switch {
		case code == 101:
			return httpSwitched(v, reply, rest, after)
		case code/100 == 1:
			s = after
		default:
			return yes, len(v.c) - len(rest), len(v.s) - len(after)
		}
	}
	return more, len(v.c) - len(c), len(v.s) - len(s)
}

// asksForTunnel: the request may turn the connection into something else.
func asksForTunnel(head []byte) bool {
	return begins(head, "CONNECT ") == yes || header(head, "UPGRADE") != nil
}

// httpMethod reports whether b begins as a request does.
func httpMethod(b []byte) bool {
	n := 0
	for n < len(b) && n <= 20 && ('A' <= b[n] && b[n] <= 'Z' || b[n] == '-' || b[n] == '_') {
		n++
	}
	return n > 0 && n <= 20 && (n == len(b) || b[n] == ' ')
}

// tunnelBehind is where, among the requests that b holds, one that asks for a
// tunnel ends; 0 if none does.
func tunnelBehind(b []byte) int {
	at := 0
	for at < len(b) {
		head, rest, ok := httpHead(b[at:])
		if begins(b[at:], "CONNECT ") == yes || ok && asksForTunnel(head) {
			return len(b) - len(rest)
		}
		n := httpNext(b[at:])
		if n <= 0 {
			return 0
		}
		at += n
	}
	return 0
}

// httpSwitched: what a 101 switches to.
func httpSwitched(v *view, reply, client, server []byte) (m match, c, s int) {
	to := bytes.TrimSpace(header(reply, "UPGRADE"))
	c, s = len(v.c)-len(client), len(v.s)-len(server)
	is := func(name string) bool { return len(to) == len(name) && beginsFold(to, name) == yes }
	switch {
	case is("WEBSOCKET") && v.sFull && len(server) == 0: // its head was too long to see the frames
		return no, 0, 0
	case is("WEBSOCKET"):
		if len(client) == 0 && len(server) == 0 {
			return until(v.cFull || v.sFull), 0, 0
		}
		if webSocketFrame(client, true) && webSocketFrame(server, false) {
			return no, 0, 0
		}
	case v.sub == policy.AppDocker && is("TCP"), v.sub == policy.AppKubernetes && is("SPDY/3.1"):
		return no, 0, 0
	}
	return yes, c, s
}

// webSocketFrame: RFC 6455 5.2, an opcode that is assigned, and the mask that
// clients set and servers do not. Nothing is one, too.
func webSocketFrame(b []byte, masked bool) bool {
	if len(b) > 0 && (b[0]&0x0f > 2 && b[0]&0x0f < 8 || b[0]&0x0f > 10 || b[0]&0x30 != 0) {
		return false
	}
	return len(b) < 2 || b[1]&0x80 != 0 == masked
}

// httpHead cuts b after the empty line that ends a head.
func httpHead(b []byte) (head, rest []byte, ok bool) {
	i := bytes.Index(b, []byte("\r\n\r\n"))
	if i < 0 {
		return nil, nil, false
	}
	return b[:i+4], b[i+4:], true
}

const (
	socksAssociate = 3 // command UDP ASSOCIATE
	socksName      = 3 // address type
)

// socksTunnel: RFC 1928 sections 3 to 6, and SOCKS 4. A command other than UDP
// ASSOCIATE that is granted opens it. Where more was sent than is kept before
// that could be read, it is taken to begin there.
func socksTunnel(v *view) (m match, client, server int) {
	wait := func() (match, int, int) {
		if v.cFull || v.sFull {
			return yes, len(v.c), len(v.s)
		}
		return more, 0, 0
	}
	if len(v.c) > 0 && v.c[0] == 4 {
		n, ok := socks4Size(v.c)
		switch {
		case !ok || len(v.s) < socks4Reply:
			return wait()
		case v.s[1] != socks4Granted:
			return no, 0, 0
		}
		return yes, n, socks4Reply
	}
	c, s, m := socksRequest(v)
	switch m {
	case no:
		return no, 0, 0
	case more:
		return wait()
	case fits:
		return yes, len(v.c) - len(c), len(v.s) - len(s)
	}
	asked, okC := socksAddress(c)
	granted, okS := socksAddress(s)
	if !okC || !okS {
		return wait()
	}
	if c[1] == socksAssociate || s[1] != 0 {
		return no, 0, 0
	}
	return yes, len(v.c) - len(c) + asked, len(v.s) - len(s) + granted
}

const (
	socks4Head    = 8 // version, command, port, address
	socks4Reply   = 8
	socks4Granted = 90
)

// socks4Size is the length of a request of SOCKS 4 or 4a, which end with a user's
// name and, where the address is 0.0.0.x, a host's; ok once it is all there.
func socks4Size(b []byte) (n int, ok bool) {
	if len(b) < socks4Head {
		return 0, false
	}
	n = socks4Head
	names := 1
	if be.Uint32(b[4:]) < 256 {
		names = 2
	}
	for range names {
		i := bytes.IndexByte(b[n:], 0)
		if i < 0 {
			return 0, false
		}
		n += i + 1
	}
	return n, true
}

// socksRequest passes over the choice of a method and a password (RFC 1929), to
// where the request and the reply begin: yes. fits: what comes there belongs to
// a method whose messages cannot be told from what comes after. no: refused.
func socksRequest(v *view) (c, s []byte, m match) {
	c, s = v.c, v.s
	if len(c) < 2 || len(c) < 2+int(c[1]) || len(s) < 2 {
		return c, s, more
	}
	method := s[1]
	c, s = c[2+int(c[1]):], s[2:]
	switch method {
	case 0:
		return c, s, yes
	case 0xff:
		return c, s, no
	case 2:
		if len(c) < 2 || len(c) < 3+int(c[1]) {
			return c, s, more
		}
		name := 2 + int(c[1])
		end := name + 1 + int(c[name])
		if len(c) < end || len(s) < 2 {
			return c, s, more
		}
		return c[end:], s[2:], yes
	}
	return c, s, fits
}

// socksAddress is the length of a request or a reply, which end with an address
// and a port; ok once it is all there.
func socksAddress(b []byte) (n int, ok bool) {
	if len(b) < 5 {
		return 0, false
	}
	n = 4
	switch b[3] {
	case 1:
		n = 4 + 4 + 2
	case socksName:
		n = 4 + 1 + int(b[4]) + 2
	case 4:
		n = 4 + 16 + 2
	}
	return n, len(b) >= n
}

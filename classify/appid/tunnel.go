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
// nor is the raw stream that the APIs of container engines switch to.
func httpTunnel(v *view) (m match, client, server int) {
	c, s := v.c, v.s
	for range 8 {
		head, rest, ok := httpHead(c)
		if !ok {
			if len(c) == 0 && len(s) > 0 {
				s = s[len(s):] // more of the refusal's body
			}
			return until(v.cFull), len(v.c) - len(c), len(v.s) - len(s)
		}
		connect := begins(head, "CONNECT ") == yes
		if !connect && header(head, "UPGRADE") == nil {
			return no, 0, 0
		}
		reply, after, ok := httpHead(s)
		if !ok {
			if len(s) >= len("HTTP/1.") && begins(s, "HTTP/1.") == no {
				return yes, len(v.c) - len(rest), len(v.s) - len(s)
			}
			return until(v.sFull), len(v.c) - len(c), len(v.s) - len(s)
		}
		code, _ := number(reply[min(len(reply), len("HTTP/1.1 ")):])
		switch {
		case code == 101 && !connect:
			return httpSwitched(v, head, reply, rest, after)
		case code/100 == 1:
			s = after
		case code/100 == 2 && connect:
			return yes, len(v.c) - len(rest), len(v.s) - len(after)
		case connect:
			c, s = rest, s[len(s):]
		default:
			return no, 0, 0
		}
	}
	return no, 0, 0
}

// httpSwitched: what a 101 switches to.
func httpSwitched(v *view, head, reply, client, server []byte) (m match, c, s int) {
	to := bytes.TrimSpace(header(reply, "UPGRADE"))
	c, s = len(v.c)-len(client), len(v.s)-len(server)
	is := func(name string) bool { return len(to) == len(name) && beginsFold(to, name) == yes }
	switch {
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

// socksTunnel: RFC 1928 sections 3 to 6. A command other than UDP ASSOCIATE that
// is granted opens it.
func socksTunnel(v *view) (m match, client, server int) {
	c, s, m := socksRequest(v)
	switch m {
	case no:
		return no, 0, 0
	case more:
		return until(v.cFull || v.sFull), 0, 0
	case fits:
		return yes, len(v.c) - len(c), len(v.s) - len(s)
	}
	asked, okC := socksAddress(c)
	granted, okS := socksAddress(s)
	if !okC || !okS {
		return until(v.cFull || v.sFull), 0, 0
	}
	if c[1] == socksAssociate || s[1] != 0 {
		return no, 0, 0
	}
	return yes, len(v.c) - len(c) + asked, len(v.s) - len(s) + granted
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

package appid

import (
	"bytes"

	"gatehouse/policy"
)

// HTTP/1.x: RFC 9112 sections 3 and 4. The request line is "method SP target SP
// HTTP/1.x"; SIP, RTSP and ICAP have the same shape and another version. One
// side's line is proof. WebSocket (RFC 6455 section 4) is named once the server
// has switched.
var httpProtocol = protocol{
	app: policy.AppHTTP, tcp: true,
	client: httpRequest, server: httpStatus,
	clientFirsts: between('A', 'Z').or(oneOf("\r\n")), serverFirsts: oneOf("H"),
	refine: httpRefine, attrs: httpAttrs, tunnel: httpTunnel, next: httpNext,
}

func httpRequest(v *view) match {
	b := v.c
	// RFC 9112 2.2: a server ignores an empty line before the request.
	for range 2 {
		if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
			b = b[2:]
		}
	}
	if len(b) == 0 || len(b) == 1 && b[0] == '\r' {
		return until(v.cFull)
	}
	method := 0
	for method < len(b) && (('A' <= b[method] && b[method] <= 'Z') || b[method] == '-' || b[method] == '_') {
		if method++; method > 20 {
			return no
		}
	}
	if method == len(b) {
		return until(v.cFull)
	}
	if method == 0 || b[method] != ' ' {
		return no
	}
	target := b[method+1:]
	i := bytes.IndexByte(target, '\n')
	if i < 0 {
		if !httpTarget(target) {
			return no
		}
		// Proof once the version is there, though its line has not ended.
		if n := len(target) - len("HTTP/1.1\r"); n > 1 && target[n-1] == ' ' && httpVersion(target[n:]) {
			return yes
		}
		if v.cFull {
			return fits // a target longer than what is kept: the reply must prove it
		}
		return more
	}
	l := bytes.TrimSuffix(target[:i], []byte{'\r'})
	n := len(l) - len("HTTP/1.1")
	if n < 2 || l[n-1] != ' ' || !httpVersion(l[n:]) || !httpTarget(l) {
		return no
	}
	return yes
}

func httpVersion(b []byte) bool { return len(b) >= 8 && string(b[:7]) == "HTTP/1." && digit(b[7]) }

// httpTarget: the rest of a request line. Blanks have no place in a target, but
// some clients leave them in, and servers let them pass.
func httpTarget(b []byte) bool {
	if len(b) > 0 && b[0] == ' ' {
		return false
	}
	for i, c := range b {
		if c < ' ' && c != '\t' && (c != '\r' || i != len(b)-1) || c == 0x7f {
			return false
		}
	}
	return true
}

func httpStatus(v *view) match {
	b := v.s
	if m := begins(b, "HTTP/1."); m != yes {
		return m
	}
	const shape = "HTTP/1.d ddd"
	for i := len("HTTP/1."); i < len(shape); i++ {
		if i == len(b) {
			return until(v.sFull)
		}
		if shape[i] == 'd' && !digit(b[i]) || shape[i] == ' ' && b[i] != ' ' {
			return no
		}
	}
	// What the connection switches to stands in the head.
	if begins(b, httpSwitching) == yes && !v.sFull && !contains(b, "\r\n\r\n") {
		return more
	}
	return yes
}

const httpSwitching = "HTTP/1.1 101"

func httpRefine(v *view) policy.App {
	if begins(v.s, httpSwitching) != yes {
		return policy.AppHTTP
	}
	up := bytes.TrimSpace(header(v.s, "UPGRADE"))
	if len(up) == len("websocket") && beginsFold(up, "WEBSOCKET") == yes {
		return policy.AppWebSocket
	}
	return policy.AppHTTP
}

func httpAttrs(v *view, a *Attrs) {
	if b := v.c; begins(b, "CONNECT ") == yes {
		b = b[len("CONNECT "):]
		a.Set(AttrTarget, b[:max(0, bytes.IndexByte(b, ' '))])
	}
	if s := header(v.s, "SERVER"); len(s) > 0 {
		a.Set(AttrServer, bytes.TrimSpace(s))
	}
}

// header returns the value of a header field of an HTTP-like head; name is upper case.
func header(b []byte, name string) []byte {
	_, b, ok := line(b)
	for ok {
		var l []byte
		if l, b, ok = line(b); !ok || len(l) == 0 {
			return nil
		}
		if len(l) > len(name) && l[len(name)] == ':' && beginsFold(l, name) == yes {
			return l[len(name)+1:]
		}
	}
	return nil
}

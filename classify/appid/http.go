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
	clientFirsts: between('A', 'Z').or(oneOf("\r\n")), serverFirsts: oneOf("Hh\r\n\t "),
	refine: httpRefine, sub: httpAPI, attrs: httpAttrs, tunnel: httpTunnel, next: httpNext,
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
		return httpSloppy(v, m)
	}
	const shape = "HTTP/1.d ddd"
	for i := len("HTTP/1."); i < len(shape); i++ {
		if i == len(b) {
			return until(v.sFull)
		}
		if shape[i] == 'd' && !digit(b[i]) || shape[i] == ' ' && b[i] != ' ' {
			return httpSloppy(v, no)
		}
	}
	// What the connection switches to stands in the head.
	if begins(b, httpSwitching) == yes && !v.sFull && !contains(b, "\r\n\r\n") {
		return more
	}
	return yes
}

// httpSloppy: servers that write their status line in a way of their own are
// still HTTP to a client that is.
func httpSloppy(v *view, m match) match {
	if m == no && len(v.c) > 0 && httpRequest(v) == yes {
		return min(fits, beginsFold(bytes.TrimLeft(v.s[:min(len(v.s), 16)], "\r\n\t "), "HTTP"))
	}
	return m
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

// httpAPI is the API on top: by the request's path and client, and by what the
// reply's head says.
func httpAPI(v *view) (policy.App, match) {
	var app policy.App
	var path []byte
	m := more
	if l, _, ok := line(trimLines(v.c)); ok {
		_, path = requestTarget(l)
		app, m = webAPI(path, bytes.TrimSpace(header(v.c, "USER-AGENT")))
		if m != yes && headNames(v.c) == policy.AppEtcd { // its peers say so in requests
			return policy.AppEtcd, yes
		}
	}
	switch {
	case m == yes:
		return app, yes
	case len(v.s) == 0:
		return app, more
	}
	named := headNames(v.s)
	if named == policy.AppNone && !v.sFull && !contains(v.s, "\r\n\r\n") {
		return app, more
	}
	if named == policy.AppNone && beginsFold(bytes.TrimSpace(header(v.s, "SERVER")), "DOCKER/") == yes {
		named = policy.AppDocker
	}
	if named == policy.AppNone && string(path) == "/" {
		switch body, _ := after(v.s, "\r\n\r\n"); {
		case contains(body, `"distribution" : "opensearch"`), contains(body, `"distribution":"opensearch"`):
			named = policy.AppOpenSearch
		case contains(body, `"You Know, for Search"`):
			named = policy.AppElasticsearch
		}
	}
	return settledAPI(app, m, named)
}

// headNames is the API that a field of an HTTP head gives away.
func headNames(b []byte) policy.App {
	_, b, ok := line(b)
	for ok {
		var l []byte
		if l, b, ok = line(b); !ok || len(l) == 0 {
			break
		}
		if i := bytes.IndexByte(l, ':'); i > 0 {
			if app := headerAPI(l[:i]); app != policy.AppNone {
				return app
			}
		}
	}
	return policy.AppNone
}

// trimLines removes the empty lines that may come before a request.
func trimLines(b []byte) []byte {
	for len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		b = b[2:]
	}
	return b
}

// requestTarget cuts a request line into its method and target, of which only
// the path is kept if it is absolute.
func requestTarget(l []byte) (method, target []byte) {
	i, j := bytes.IndexByte(l, ' '), bytes.LastIndexByte(l, ' ')
	if i <= 0 || j <= i {
		return nil, nil
	}
	method, target = l[:i], l[i+1:j]
	if begins(target, "http://") == yes {
		if k := bytes.IndexByte(target[len("http://"):], '/'); k >= 0 {
			target = target[len("http://")+k:]
		}
	}
	return method, target
}

func httpAttrs(v *view, a *Attrs) {
	c := trimLines(v.c)
	if l, _, ok := line(c); ok {
		method, target := requestTarget(l)
		a.Set(AttrMethod, method)
		a.Set(AttrPath, target)
		if string(method) == "CONNECT" {
			a.Set(AttrTarget, target)
		}
		a.Set(AttrHost, bytes.TrimSpace(header(c, "HOST")))
		a.Set(AttrAgent, bytes.TrimSpace(header(c, "USER-AGENT")))
	}
	if begins(v.s, "HTTP/1.") == yes && len(v.s) >= 8 {
		a.Set(AttrVersion, v.s[5:8])
	}
	a.Set(AttrServer, bytes.TrimSpace(header(v.s, "SERVER")))
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

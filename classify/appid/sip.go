package appid

import (
	"bytes"

	"gatehouse/policy"
)

// SIP: RFC 3261 section 7. A request line has a sip:, sips: or tel: URI and
// SIP/2.0; keep-alives of line ends (RFC 5626 4.4.1) may come before.
var (
	sipProtocol = protocol{
		attrs: sipAttrs,
		app:   policy.AppSIP, tcp: true,
		client: func(v *view) match { return sipStart(v.c, v.cFull) }, server: func(v *view) match { return sipStart(v.s, v.sFull) },
		clientFirsts: between('A', 'Z').or(oneOf("\r\n")), serverFirsts: between('A', 'Z').or(oneOf("\r\n")),
	}
	sipUDPProtocol = protocol{
		attrs: sipAttrs,
		app:   policy.AppSIP, udp: true,
		client: func(v *view) match { return sipDatagram(v.c) }, server: func(v *view) match { return sipDatagram(v.s) },
		clientFirsts: between('A', 'Z').or(oneOf("\r\n\x00")), serverFirsts: between('A', 'Z').or(oneOf("\r\n\x00")),
	}
)

func sipDatagram(b []byte) match {
	if len(bytes.Trim(b, "\r\n\x00")) == 0 && len(b) <= 8 {
		return more
	}
	return sipStart(b, true)
}

func sipStart(b []byte, full bool) match {
	b = bytes.TrimLeft(b, "\r\n")
	if len(b) == 0 {
		return until(full)
	}
	if m := begins(b, "SIP/2.0 "); m != no {
		if m == yes && len(b) >= 11 && !(digit(b[8]) && digit(b[9]) && digit(b[10])) {
			return no
		}
		if m == more {
			return until(full)
		}
		return m
	}
	return requestLine(b, full, "SIP/2.0", "sip:", "sips:", "tel:")
}

// requestLine is METHOD SP URI SP version, with a URI of one of these schemes.
func requestLine(b []byte, full bool, version string, schemes ...string) match {
	n := 0
	for n < len(b) && ('A' <= b[n] && b[n] <= 'Z' || b[n] == '_' || b[n] == '-') {
		if n++; n > 20 {
			return no
		}
	}
	if n == len(b) {
		return until(full)
	}
	if n < 3 || b[n] != ' ' {
		return no
	}
	b = b[n+1:]
	best := no
	for _, s := range schemes {
		if m := begins(b, s); m == yes || m == more && best == no {
			best = m
		}
	}
	if best != yes {
		if best == more {
			return until(full)
		}
		return no
	}
	l, _, ok := line(b)
	if !ok {
		if !text(b) {
			return no
		}
		return until(full)
	}
	if i := bytes.LastIndexByte(l, ' '); i < 0 || string(l[i+1:]) != version {
		return no
	}
	return yes
}

func sipAttrs(v *view, a *Attrs) {
	c := bytes.TrimLeft(v.c, "\r\n")
	if l, _, ok := line(c); ok && begins(l, "SIP/") != yes {
		method, target := requestTarget(l)
		a.Set(AttrMethod, method)
		a.Set(AttrPath, target)
	}
	a.setField(AttrAgent, c, "USER-AGENT")
	a.setField(AttrServer, v.s, "SERVER")
}

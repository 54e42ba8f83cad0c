package appid

import (
	"bytes"

	"gatehouse/policy"
)

// SSH: RFC 4253 section 4.2. Either side's identification line is proof; a
// server may send other lines before it.
var sshProtocol = protocol{
	app: policy.AppSSH, tcp: true,
	client:       func(v *view) match { return sshIdent(v.c, v.cFull) },
	server:       sshServer,
	clientFirsts: oneOf("S"), serverFirsts: between(' ', '~').or(oneOf("\r\n\t")),
	attrs: func(v *view, a *Attrs) {
		for rest := v.s; ; {
			l, r, ok := line(rest)
			if !ok {
				return
			}
			if begins(l, "SSH-") == yes {
				a.Set(AttrBanner, l)
				return
			}
			rest = r
		}
	},
}

const sshIdentMax = 255

func sshIdent(b []byte, full bool) match {
	m := begins(b, "SSH-2.0-")
	if m == no {
		m = begins(b, "SSH-1.")
	}
	if m != yes {
		return m
	}
	i := bytes.IndexByte(b, '\n')
	if i > sshIdentMax || i < 0 && len(b) > sshIdentMax {
		return no
	}
	if i < 0 {
		i = len(b)
	}
	if !text(b[:i]) {
		return no
	}
	return yes
}

func sshServer(v *view) match {
	const maxLines = 50
	b := v.s
	for range maxLines {
		if m := sshIdent(b, v.sFull); m == yes || m == more {
			return m
		}
		_, rest, ok := line(b)
		switch {
		case !text(b[:len(b)-len(rest)]):
			return no
		case ok && len(rest) > 0:
			b = rest
			continue
		case v.sFull && sshIdent(v.c, v.cFull) == yes:
			return fits // lines longer than what is kept
		}
		return until(v.sFull)
	}
	return no
}

package appid

import (
	"bytes"

	"gatehouse/policy"
)

// SSH: RFC 4253 section 4.2. Either side's identification line is proof; a
// server may send other lines before it.
var sshProtocol = protocol{
	app: policy.AppSSH, tcp: true,
	client:       sshClient,
	server:       sshServer,
	clientFirsts: oneOf("S\r\n"), serverFirsts: between(' ', '~').or(oneOf("\r\n\t")),
	mid:   sshKeyExchange,
	holds: sshHolds,
	attrs: func(v *view, a *Attrs) {
		if l, _, ok := line(bytes.TrimLeft(v.c, "\r\n")); ok && begins(l, "SSH-") == yes {
			a.Set(AttrAgent, l)
		}
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

// sshClient: some press return before they say who they are.
func sshClient(v *view) match {
	b := bytes.TrimLeft(v.c, "\r\n")
	if len(b) == 0 && len(v.c) <= 4 {
		return until(v.cFull)
	}
	if len(v.c)-len(b) > 4 || len(b) == 0 {
		return no
	}
	return sshIdent(b, v.cFull)
}

// sshKeyExchange: RFC 4253 section 6 and 7.1: length, padding, KEXINIT, a cookie of
// 16 bytes, and lists of names, of which the first is of key exchange methods.
func sshKeyExchange(b []byte) match {
	const head, kexinit = 6 + 16, 20
	if len(b) < head+4+8 {
		return no
	}
	size, list := int(be.Uint32(b)), int(be.Uint32(b[head:]))
	if size > 35000 || b[5] != kexinit || int(b[4]) < 4 || int(b[4]) > size || list < 8 || head+list > size {
		return no
	}
	names := b[head+4 : min(len(b), head+4+list)]
	if !printable(names) || !contains(names, "diffie-hellman-group") && !contains(names, "curve25519-") && !contains(names, "ecdh-sha2-") {
		return no
	}
	return yes
}

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

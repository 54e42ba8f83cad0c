package appid

import (
	"bytes"
	"math/bits"
)

// What follows a beginning that fits: bytes that the protocol does not have there
// are another conversation behind a borrowed first line.

// borrowed reports whether behind one of the client's messages begins another
// protocol's conversation.
func (e *Engine) borrowed(s *State, p *protocol, v *view) bool {
	if p.next == nil || v.udp {
		return false
	}
	const messages = 32
	b := v.c
	for range messages {
		n := p.next(b)
		if n <= 0 || n >= len(b) {
			return false
		}
		if b = b[n:]; e.begins(s, p, b) {
			return true
		}
	}
	return false
}

// begins reports whether b is proof of another protocol than p.
func (e *Engine) begins(s *State, p *protocol, b []byte) bool {
	if startsTLS(b) == yes {
		return true
	}
	v := &s.ahead
	*v = view{c: b}
	possible := e.first[0][FromClient][b[0]]
	if p.client(v) != no {
		return false
	}
	for m := possible.lo; m != 0; m &= m - 1 {
		if protocols[bits.TrailingZeros64(m)].client(v) == yes {
			return true
		}
	}
	for m := possible.hi; m != 0; m &= m - 1 {
		if protocols[64+bits.TrailingZeros64(m)].client(v) == yes {
			return true
		}
	}
	return false
}

// asksForTLS: the line is a command after which the client may begin with TLS:
// STARTTLS (RFC 3207, RFC 9051), STLS (RFC 2595), AUTH TLS (RFC 4217).
func asksForTLS(l []byte) bool {
	if i := bytes.IndexByte(l, ' '); i > 0 && beginsFold(l[i+1:], "STARTTLS") == yes {
		return true
	}
	for _, c := range [...]string{"STARTTLS", "STLS", "AUTH TLS", "AUTH SSL"} {
		if beginsFold(l, c) == yes {
			return true
		}
	}
	return false
}

// textUpgrade serves the line protocols that go over to TLS after a command:
// the client's next bytes are a ClientHello.
func textUpgrade(v *view) match {
	asked := false
	for b := v.c; len(b) > 0; {
		if asked {
			if m := startsTLS(b); m == yes || m == more && !v.cFull {
				return m
			}
		}
		l, rest, ok := line(b)
		if !ok {
			break
		}
		asked, b = asksForTLS(l), rest
	}
	return until(v.cFull)
}

// textNext is the end of the line, where the next may be expected to be a
// command: not after one that goes over to TLS, nor where a mail begins.
func textNext(b []byte) int {
	l, rest, ok := line(b)
	if !ok || asksForTLS(l) || beginsFold(l, "DATA") == yes || beginsFold(l, "BDAT") == yes || len(l) > 0 && l[len(l)-1] == '}' {
		return 0
	}
	return len(b) - len(rest)
}

// httpNext is the end of a request, where it is known.
func httpNext(b []byte) int {
	head, rest, ok := httpHead(b)
	if !ok || begins(head, "CONNECT ") == yes || header(head, "UPGRADE") != nil || header(head, "TRANSFER-ENCODING") != nil {
		return 0
	}
	body, _ := number(bytes.TrimSpace(header(head, "CONTENT-LENGTH")))
	return len(b) - len(rest) + body
}

// tlsHolds: both sides' records follow each other (RFC 8446 5.1).
func tlsHolds(v *view) bool { return recordsChain(v.c) && recordsChain(v.s) }

func recordsChain(b []byte) bool {
	if len(b) > 0 && b[0] >= 0x80 { // an SSLv2 hello
		return true
	}
	for len(b) > 0 {
		if b[0] < recordChangeCipher || b[0] > recordData || len(b) > 1 && b[1] != 3 || len(b) > 2 && b[2] > 4 {
			return false
		}
		if len(b) < recordHead {
			return true
		}
		b = b[min(len(b), recordHead+int(be.Uint16(b[3:]))):]
	}
	return true
}

// sshHolds: behind the client's identification line comes a packet (RFC 4253
// section 6), and the first is a key exchange or one that may be ignored.
func sshHolds(v *view) bool {
	const packetMax, kexInit = 1 << 18, 20
	if begins(v.c, "SSH-2.0-") != yes {
		return true
	}
	_, b, ok := line(v.c)
	if !ok || len(b) < 6 {
		return true
	}
	n := be.Uint32(b)
	return n >= 8 && n <= packetMax && b[4] >= 4 && (b[5] == kexInit || b[5] >= 1 && b[5] <= 4)
}

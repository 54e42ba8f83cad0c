package appid

import "gatehouse/policy"

// WebSocket: RFC 6455 section 5.2. A flow whose opening handshake was seen is
// named by it (http); the frames alone are known by the mask of the client and
// the text under it.
var websocketProtocol = protocol{
	app: policy.AppWebSocket, tcp: true,
	client: func(*view) match { return no }, server: func(*view) match { return no },
	mid: websocketFrame,
}

// websocketFrame: a final text frame of a client, masked, whose length is the
// segment's, or that others follow; its text is ASCII or UTF-8 without control
// characters.
func websocketFrame(b []byte) match {
	const text, masked, least = 0x81, 0x80, 6
	if len(b) < 6 || b[0] != text || b[1]&masked == 0 {
		return no
	}
	head, n := 2, int(b[1]&0x7f)
	switch n {
	case 127:
		return no
	case 126:
		if head, n = 4, int(be.Uint16(b[2:])); n < 126 || len(b) < 8 {
			return no
		}
	}
	if n < least {
		return no
	}
	mask, body := b[head:head+4], b[head+4:]
	if len(body) > n && body[n]&0x70 != 0 {
		return no
	}
	if len(body) < n {
		if len(body) < 64 {
			return more
		}
	} else {
		body = body[:n]
	}
	letters := 0
	for i, c := range body[:min(len(body), 64)] {
		c ^= mask[i&3]
		if c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f || c >= 0xf8 {
			return no
		}
		if c < 0x7f {
			letters++
		}
	}
	if letters < least {
		return no
	}
	return yes
}

package appid

import (
	"bytes"

	"gatehouse/policy"
)

// HTTP/2 in clear with prior knowledge: RFC 9113 sections 3.4, 4.1, 6.2 and 6.5.
// The client's preface and its SETTINGS frame are proof; the server's first frame
// is SETTINGS too. gRPC ("gRPC over HTTP2") is named where a request or its
// answer has its content type.
var http2Protocol = protocol{
	app: policy.AppHTTP2, tcp: true,
	client: http2Preface, server: http2Settings,
	clientFirsts: oneOf("P"), serverFirsts: oneOf("\x00H"),
	refine: http2Refine, sub: http2API, attrs: http2Attrs, mid: http2Mid,
}

const (
	http2Magic         = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	http2FrameHead     = 9
	http2FrameMax      = 1 << 14 // until SETTINGS say otherwise
	http2FrameData     = 0
	http2FrameHeaders  = 1
	http2FrameSettings = 4
	http2FramePing     = 6
	http2FrameWindow   = 8
)

func http2Preface(v *view) match {
	if m := begins(v.c, http2Magic); m != yes {
		return m
	}
	return http2FirstFrame(v.c[len(http2Magic):], v.cFull)
}

func http2FirstFrame(b []byte, full bool) match {
	if len(b) < http2FrameHead {
		return until(full)
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if b[3] == http2FrameSettings && n%6 == 0 && n <= 6*64 && be.Uint32(b[5:]) == 0 {
		return yes
	}
	return no
}

func http2Settings(v *view) match {
	// A server that knows no HTTP/2 says so in HTTP/1.
	if v.s[0] == 'H' {
		if begins(v.s, "HTTP/1.") == yes && begins(v.c, http2Magic) == yes {
			return fits
		}
		return no
	}
	if m := http2FirstFrame(v.s, v.sFull); m != yes {
		return m
	}
	return fits
}

// http2Frame cuts the first frame off b; ok is false where its head is cut.
func http2Frame(b []byte) (kind, flags byte, body, rest []byte, ok bool) {
	if len(b) < http2FrameHead {
		return 0, 0, nil, nil, false
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	body = b[http2FrameHead:min(len(b), http2FrameHead+n)]
	return b[3], b[4], body, b[http2FrameHead+len(body):], true
}

// http2Block is the header block of a HEADERS frame (section 6.2), without
// padding and priority.
func http2Block(flags byte, body []byte) []byte {
	const padded, priority = 8, 0x20
	if flags&padded != 0 && len(body) > 0 {
		pad := int(body[0])
		if body = body[1:]; pad > len(body) {
			return nil
		}
		body = body[:len(body)-pad]
	}
	if flags&priority != 0 {
		if len(body) < 5 {
			return nil
		}
		body = body[5:]
	}
	return body
}

// http2Headers reads one side's header blocks until one has the field; how many
// there were.
func http2Headers(b []byte, h *headerBlock, until webField) (blocks int) {
	if begins(b, http2Magic) == yes {
		b = b[len(http2Magic):]
	}
	for {
		kind, flags, body, rest, ok := http2Frame(b)
		if !ok {
			return blocks
		}
		if kind == http2FrameHeaders {
			blocks++
			*h = headerBlock{}
			if h.decode(http2Block(flags, body)); h.size[until] > 0 {
				return blocks
			}
		}
		b = rest
	}
}

func http2Refine(v *view) policy.App {
	var h headerBlock
	for _, b := range [...][]byte{v.c, v.s} {
		if http2Headers(b, &h, fieldContentType) > 0 && beginsFold(h.get(fieldContentType), "APPLICATION/GRPC") == yes {
			return policy.AppGRPC
		}
	}
	return policy.AppHTTP2
}

func http2API(v *view) (policy.App, match) {
	var h headerBlock
	if http2Headers(v.c, &h, fieldPath) == 0 {
		return policy.AppNone, until(v.cFull)
	}
	app, m := webAPI(h.get(fieldPath), h.get(fieldAgent))
	if m == yes {
		return app, yes
	}
	// A request that no API has: whoever waits for gRPC has waited long enough.
	if app == policy.AppNone {
		return app, no
	}
	if http2Headers(v.s, &h, fieldStatus) == 0 {
		return app, until(v.sFull)
	}
	return settledAPI(app, m, h.api)
}

func http2Attrs(v *view, a *Attrs) {
	var h headerBlock
	if http2Headers(v.c, &h, fieldPath) > 0 {
		a.Set(AttrMethod, h.get(fieldMethod))
		a.Set(AttrPath, h.get(fieldPath))
		a.Set(AttrHost, h.get(fieldAuthority))
		a.Set(AttrAgent, h.get(fieldAgent))
		if beginsFold(h.get(fieldContentType), "APPLICATION/GRPC") == yes {
			// The path is /package.Service/Method.
			if i := bytes.LastIndexByte(h.get(fieldPath), '/'); i > 1 {
				a.Set(AttrService, h.get(fieldPath)[1:i])
			}
		}
	}
	if http2Headers(v.s, &h, fieldStatus) > 0 {
		a.Set(AttrServer, h.get(fieldServer))
	}
}

// http2Mid: a HEADERS frame whose block is one of a request or an answer, or
// frames of fixed sizes to the end of the bytes.
func http2Mid(b []byte) match {
	for n := 0; n < 16; n++ {
		kind, flags, body, rest, ok := http2Frame(b)
		if !ok || kind > 9 {
			return no
		}
		size, stream := int(b[0])<<16|int(b[1])<<8|int(b[2]), be.Uint32(b[5:])
		if size > http2FrameMax || stream>>31 != 0 {
			return no
		}
		switch kind {
		case http2FrameHeaders:
			var h headerBlock
			if stream == 0 || flags&^0x2d != 0 || len(body) < size {
				return no
			}
			if !h.decode(http2Block(flags, body)) || h.size[fieldStatus] == 0 && (h.size[fieldMethod] == 0 || h.size[fieldPath] == 0) {
				return no
			}
			return yes
		case http2FramePing:
			if size != 8 || stream != 0 || flags > 1 || len(body) < size {
				return no
			}
		case http2FrameWindow:
			if size != 4 || flags != 0 || len(body) < size || be.Uint32(body) == 0 {
				return no
			}
		case http2FrameSettings:
			if size%6 != 0 || stream != 0 || flags > 1 || size > 6*64 || len(body) < size {
				return no
			}
		case http2FrameData:
			if flags&^0x9 != 0 || stream == 0 || len(body) < size {
				return no
			}
		default:
			return no
		}
		if len(rest) == 0 {
			if n > 0 || kind == http2FramePing {
				return yes
			}
			return more
		}
		b = rest
	}
	return no
}

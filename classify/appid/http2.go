package appid

import "gatehouse/policy"

// HTTP/2 in clear with prior knowledge: RFC 9113 sections 3.4, 4.1 and 6.5. The
// client's preface and its SETTINGS frame are proof; the server's first frame
// is SETTINGS too. gRPC is named where the first request's header block says so.
var http2Protocol = protocol{
	app: policy.AppHTTP2, tcp: true,
	client: http2Preface, server: http2Settings,
	clientFirsts: oneOf("P"), serverFirsts: oneOf("\x00H"),
	refine: http2Refine,
}

const (
	http2Magic         = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	http2FrameHead     = 9
	http2FrameSettings = 4
	http2FrameHeaders  = 1
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

// grpcTypes are "application/grpc" as a header block may carry it: literal, and
// with the Huffman code of RFC 7541 appendix B.
var grpcTypes = [2]string{"application/grpc", "\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64"}

func http2Refine(v *view) policy.App {
	b := v.c
	if begins(b, http2Magic) != yes {
		return policy.AppHTTP2
	}
	b = b[len(http2Magic):]
	for len(b) >= http2FrameHead {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		kind := b[3]
		b = b[http2FrameHead:]
		block := b[:min(n, len(b))]
		if kind == http2FrameHeaders {
			for _, t := range grpcTypes {
				if contains(block, t) {
					return policy.AppGRPC
				}
			}
		}
		b = b[len(block):]
	}
	return policy.AppHTTP2
}

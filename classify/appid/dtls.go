package appid

import "gatehouse/policy"

// DTLS: RFC 6347 section 4, RFC 9147. A handshake record of epoch 0 with a hello
// is proof.
var dtlsProtocol = protocol{
	app: policy.AppDTLS, udp: true,
	client:       func(v *view) match { return dtlsRecord(v.c, helloClient, helloClient) },
	server:       func(v *view) match { return dtlsRecord(v.s, helloServer, dtlsVerify) },
	clientFirsts: between(20, 23).or(between(0x20, 0x3f)), serverFirsts: between(20, 23).or(between(0x20, 0x3f)),
	mid:   func(b []byte) match { return dtlsRecord(b, 0, 0) },
	alpn:  func(v *view) policy.App { return dtlsHello(v.c, nil) },
	attrs: func(v *view, a *Attrs) { dtlsHello(v.c, a) },
}

const (
	dtlsHead   = 13
	dtlsVerify = 3 // HelloVerifyRequest
)

func dtlsRecord(b []byte, hello, other byte) match {
	if len(b) < dtlsHead+1 || b[0] > 23 {
		return no
	}
	version, n := be.Uint16(b[1:]), int(be.Uint16(b[11:]))
	if version != 0xfeff && version != 0xfefd && version != 0x0100 || n == 0 || n > recordMax || dtlsHead+n > len(b) && len(b) < clientKeep && len(b) < serverKeep {
		return no
	}
	epoch := be.Uint16(b[3:])
	if epoch == 0 && b[0] == recordHandshake && len(b) >= dtlsHead+12 {
		kind, size := b[dtlsHead], int(b[dtlsHead+1])<<16|int(be.Uint16(b[dtlsHead+2:]))
		frag := int(b[dtlsHead+9])<<16 | int(be.Uint16(b[dtlsHead+10:]))
		if frag > size || frag+12 > n {
			return no
		}
		if kind == hello || kind == other {
			return yes
		}
		if kind <= 24 {
			return fits
		}
		return no
	}
	// Later records: encrypted, or an alert, or change of cipher.
	if hello == 0 {
		if epoch > 0 && epoch < 16 && b[0] >= recordChangeCipher {
			return yes
		}
		return no
	}
	return fits
}

// dtlsHello reads the names of a ClientHello that is in one piece.
func dtlsHello(b []byte, a *Attrs) policy.App {
	if len(b) < dtlsHead+12 || b[0] != recordHandshake || b[dtlsHead] != helloClient {
		return policy.AppNone
	}
	h := hello{b: b[dtlsHead:], rec: bareHandshake, left: 4}
	return h.client(a, true)
}

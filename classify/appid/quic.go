package appid

import "gatehouse/policy"

// QUIC: RFC 8999 sections 5.1 and 6, RFC 9000 sections 14.1 and 17.2, version 2
// RFC 9369. The client's first datagram is long, and names a version; what is
// inside is not read.
var quicProtocol = protocol{
	app: policy.AppQUIC, udp: true,
	client: quicInitial, server: quicAnswer,
	clientFirsts: between(0x40, 0xff), serverFirsts: between(0x40, 0xff),
}

const (
	quicMinimum = 1200
	quicQ046    = 0x51303436
)

// quicVersion reports the versions in use: 1, 2, the IETF's drafts and
// Facebook's; Google's from Q046 on, which have the same long header.
func quicVersion(v uint32) bool {
	switch {
	case v == 1, v == 0x6b3343cf, v>>8 == 0xff0000, v>>8 == 0xfaceb0:
		return true
	case v == quicQ046 || v == 0x51303530 || v == 0x54303530 || v == 0x54303531: // Q046, Q050, T050, T051
		return true
	case v&0x0f0f0f0f == 0x0a0a0a0a: // forces version negotiation
		return true
	}
	return false
}

func quicLong(b []byte) (version uint32, ok bool) {
	if len(b) < 7 || b[0]&0x80 == 0 {
		return 0, false
	}
	version = be.Uint32(b[1:])
	if version == quicQ046 {
		return version, true // packs both lengths into one byte
	}
	if b[5] > 20 {
		return 0, false
	}
	at := 6 + int(b[5])
	if at >= len(b) || b[at] > 20 {
		return version, false
	}
	return version, true
}

func quicInitial(v *view) match {
	version, ok := quicLong(v.c)
	if !ok {
		// Short headers come only after the server has answered.
		if v.c[0]&0x80 == 0 && len(v.s) > 0 && v.c[0]&0x40 != 0 {
			return fits
		}
		return no
	}
	if !quicVersion(version) {
		return no
	}
	if len(v.c) >= quicMinimum || v.cFull {
		return yes
	}
	return fits
}

func quicAnswer(v *view) match {
	version, ok := quicLong(v.s)
	if !ok {
		if v.s[0]&0xc0 == 0x40 && len(v.c) > 0 {
			return fits
		}
		return no
	}
	if version == 0 {
		// Version negotiation: versions to the end.
		if n := len(v.s) - 7 - int(v.s[5]); n > 0 {
			return fits
		}
		return no
	}
	if quicVersion(version) {
		return fits
	}
	return no
}

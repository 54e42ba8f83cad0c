package appid

import (
	"gatehouse/policy"
)

// QUIC: RFC 8999 sections 5.1 and 6, RFC 9000 sections 14.1 and 17.2, version 2
// RFC 9369; Google's before the IETF's: "QUIC Wire Layout Specification". The
// client's first datagram is long, and names a version. The names of its hello
// are read where its Initial packets can be (quic_initial.go).
var quicProtocol = protocol{
	app: policy.AppQUIC, udp: true,
	client: quicClient, server: quicAnswer,
	clientFirsts: between(0x40, 0xff).or(quicPublicFlags), serverFirsts: anyByte(),
	alpn: quicALPN, attrs: quicAttrs,
}

const (
	quicMinimum = 1200

	quicFlagVersion = 0x01 // Google's public flags
	quicFlagReset   = 0x02
	quicFlagID      = 0x08
)

// quicPublicFlags: a version or none, a connection id of 8 bytes (its bits 2 and 3, or bit
// 3 alone), a packet number of 1 to 6 bytes.
var quicPublicFlags = oneOf("\x08\x09\x0c\x0d\x18\x19\x1c\x1d\x28\x29\x2c\x2d\x38\x39\x3c\x3d")

// quicVersion reports the versions in use: 1, 2, the IETF's drafts and
// Facebook's; Google's from Q046 on, which have the same long header.
func quicVersion(v uint32) bool {
	switch {
	case v == 1, v == quicVersion2, v>>8 == 0xff0000, v>>8 == 0xfaceb0:
		return true
	case quicPacked(v) || v == quicQ050 || v == quicT050 || v == quicT051:
		return true
	case v&0x0f0f0f0f == 0x0a0a0a0a: // forces version negotiation
		return true
	}
	return false
}

// quicPacked: Q044 to Q049 pack both connection ids' lengths into one byte.
func quicPacked(v uint32) bool { return v >= 0x51303434 && v <= 0x51303439 }

func quicLong(b []byte) (version uint32, ok bool) {
	if len(b) < 7 || b[0]&0x80 == 0 {
		return 0, false
	}
	version = be.Uint32(b[1:])
	if quicPacked(version) {
		return version, true
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

// quicPublic: flags, connection id, version "Q0" and two digits, packet number.
func quicPublic(b []byte) bool {
	return len(b) >= 14 && b[0]&quicFlagVersion != 0 && b[0]&quicFlagReset == 0 && b[0]&quicFlagID != 0 && b[0] < 0x40 &&
		(b[9] == 'Q' || b[9] == 'T') && b[10] == '0' && digit(b[11]) && digit(b[12])
}

func quicClient(v *view) match {
	if v.c[0] < 0x40 {
		switch {
		case quicPublic(v.c):
			return yes
		case v.c[0]&quicFlagID != 0 && v.c[0]&(quicFlagVersion|quicFlagReset) == 0 && len(v.s) == 0:
			return fits // later ones name no version
		}
		return no
	}
	version, ok := quicLong(v.c)
	if !ok {
		// Short headers come only after the server has answered, or a hello.
		if v.c[0]&0x80 == 0 && (len(v.s) > 0 || v.hello != nil && v.hello.n > 0) && v.c[0]&0x40 != 0 {
			return fits
		}
		return no
	}
	if !quicVersion(version) {
		// Others' versions: as long as a first datagram is, and the server must
		// answer in kind.
		if version != 0 && len(v.c) >= quicMinimum && v.c[0]&0x40 != 0 && v.c[5] >= 8 {
			return fits
		}
		return no
	}
	if v.hello != nil {
		quicRead(v.c, v.hello)
	}
	if len(v.c) >= quicMinimum || v.cFull {
		return yes
	}
	return fits
}

func quicAnswer(v *view) match {
	if len(v.c) > 0 && v.c[0] < 0x40 {
		return quicPublicAnswer(v.c, v.s)
	}
	version, ok := quicLong(v.s)
	switch {
	case !ok && v.s[0]&0xc0 == 0x40 && v.hello != nil && v.hello.answered:
		return fits
	case !ok || !quicAddressed(v.c, v.s):
		return no
	case version == 0:
		// Version negotiation: versions to the end.
		if n := len(v.s) - 7 - int(v.s[5]); n > 0 {
			return fits
		}
		return no
	case quicVersion(version) || len(v.c) > 5 && v.c[0]&0x80 != 0 && be.Uint32(v.c[1:]) == version:
		if v.hello != nil && len(v.c) > 0 {
			v.hello.answered = true
		}
		return fits
	}
	return no
}

// quicAddressed: a server's long header is for the connection id that the client
// calls itself by (RFC 9000 section 7.2), as far as that can be seen: what it
// answers names both ids, and is not a format that only repeats a number.
func quicAddressed(c, s []byte) bool {
	version, ok := quicLong(c)
	if !ok || quicPacked(version) || quicPacked(be.Uint32(s[1:])) {
		return len(c) == 0 || c[0]&0x80 == 0 || quicPacked(version)
	}
	at := 6 + int(c[5])
	id := c[at+1:]
	n := int(c[at])
	return n <= len(id) && n == int(s[5]) && string(id[:n]) == string(s[6:6+n])
}

// quicPublicAnswer: with the client's connection id or without one.
func quicPublicAnswer(c, s []byte) match {
	if !quicPublic(c) || len(s) < 9 || s[0] >= 0x40 {
		return no
	}
	if s[0]&quicFlagID != 0 && string(s[1:9]) != string(c[1:9]) {
		return no
	}
	return fits
}

func quicALPN(v *view) policy.App {
	if v.hello == nil {
		return policy.AppNone
	}
	h := hello{b: v.hello.bytes(), rec: bareHandshake, left: 4}
	return h.client(nil, false)
}

func quicAttrs(v *view, a *Attrs) {
	if v.hello == nil {
		return
	}
	if b := v.hello.bytes(); begins(b, "CHLO") == yes {
		quicTags(b, a)
	} else {
		h := hello{b: b, rec: bareHandshake, left: 4}
		h.client(a, false)
	}
	if quicPublic(v.c) {
		a.Set(AttrVersion, v.c[9:13])
		for at := 13; at < min(len(v.c)-4, 64); at++ {
			if begins(v.c[at:], "CHLO") == yes {
				quicTags(v.c[at:], a)
			}
		}
	}
}

// quicTags reads the hello of Google's handshake ("QUIC Crypto"): CHLO, how many
// tags, then tags with the end of their value; values follow.
func quicTags(b []byte, a *Attrs) {
	if len(b) < 8 {
		return
	}
	n, last := int(le.Uint16(b[4:])), 0
	if n > 128 || len(b) < 8+8*n {
		return
	}
	values := b[8+8*n:]
	for i := range n {
		tag, end := b[8+8*i:12+8*i], int(le.Uint32(b[12+8*i:]))
		if end < last || end > len(values) {
			return
		}
		switch string(tag) {
		case "SNI\x00":
			a.Set(AttrSNI, values[last:end])
		case "UAID":
			a.Set(AttrAgent, values[last:end])
		}
		last = end
	}
}

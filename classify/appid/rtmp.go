package appid

import (
	"bytes"

	"gatehouse/policy"
)

// RTMP: Adobe's RTMP specification 1.0, section 5.2 (handshake): version 3, then
// 1536 bytes: time, zero (or a version, where the handshake has digests), random.
// The client's echo of the server's random bytes is proof, and so is its first
// command, "connect".
var rtmpProtocol = protocol{
	app: policy.AppRTMP, tcp: true,
	client: rtmpClient, server: rtmpServer,
	clientFirsts: oneOf("\x03\x06"), serverFirsts: oneOf("\x03\x06"),
}

const rtmpBlock = 1536

// rtmpHello: C0 and C1, or S0 and S1, as far as they are there.
func rtmpHello(b []byte, full bool) match {
	if len(b) < 9 {
		// TPKT begins with 03 00 too, and then has a length.
		return until(full)
	}
	if v := be.Uint32(b[5:]); v != 0 && (b[5] == 0 || b[5] > 0x80) {
		return no
	}
	if len(b) < 9+32 {
		return until(full)
	}
	if !scrambled(b[9 : 9+32]) {
		return no
	}
	return fits
}

func rtmpClient(v *view) match {
	m := rtmpHello(v.c, v.cFull)
	if m != fits {
		return m
	}
	const c2, first = 1 + rtmpBlock, 1 + 2*rtmpBlock
	if len(v.c) >= c2+8+32 && len(v.s) >= 9+32 && bytes.Equal(v.c[c2+8:c2+8+32], v.s[9:9+32]) {
		return yes
	}
	if len(v.c) > first+16 && contains(v.c[first:], "\x02\x00\x07connect") {
		return yes
	}
	if len(v.c) < 1+rtmpBlock && !v.cFull {
		return more
	}
	return fits
}

func rtmpServer(v *view) match {
	m := rtmpHello(v.s, v.sFull)
	if m == fits && len(v.s) < rtmpBlock && !v.sFull {
		return more
	}
	return m
}

package appid

import (
	"bytes"

	"gatehouse/policy"
)

// NTP: RFC 5905 section 7.3; control messages (mode 6) RFC 9327 section 2; the
// private messages of ntpd (mode 7) its ntp_request.h. A packet whose fields are
// all plausible is proof. A server's reply must have the client's transmit
// timestamp as its origin.
var ntpProtocol = protocol{
	app: policy.AppNTP, udp: true,
	client: ntpRequest, server: ntpReply,
	clientFirsts: anyByte(), serverFirsts: anyByte(),
	attrs: func(v *view, a *Attrs) {
		if len(v.c) > 0 {
			a.setVersion(int(v.c[0] >> 3 & 7))
		}
	},
}

const (
	ntpSize      = 48
	ntpOrigin    = 24
	ntpTransmit  = 40
	ntpNoMode    = 0 // of version 1
	ntpSymActive = 1
	ntpSymPass   = 2
	ntpClient    = 3
	ntpServer    = 4
	ntpBroadcast = 5
	ntpControl   = 6
	ntpPrivate   = 7

	ntpControlHead = 12
	ntpPrivateHead = 8
)

func ntpMessage(b []byte) match {
	version := b[0] >> 3 & 7
	if version > 4 {
		return no
	}
	switch mode := b[0] & 7; {
	case mode == ntpControl && version > 0:
		return ntpControlMessage(b)
	case mode == ntpPrivate && version > 0:
		return ntpPrivateMessage(b)
	case mode == ntpNoMode && version != 1 || mode > ntpBroadcast || version == 0: // version 1 has no modes
		return no
	}
	// The header alone, with a MAC (key 4, digest 16 to 32) or with extension
	// fields, which are words.
	if len(b) < ntpSize || len(b)%4 != 0 || len(b) > 1024 || b[1] > 16 {
		return no
	}
	if ntpPlausible(b) {
		return yes
	}
	return fits
}

// ntpPlausible: poll interval and precision in their ranges, delay and
// dispersion below 16 s, timestamps of this era or none. A client may write
// anything for its own transmit timestamp where all others are zero.
func ntpPlausible(b []byte) bool {
	if p := int8(b[2]); p > 17 || p < -6 {
		return false
	}
	if p := int8(b[3]); (p > 0 || p < -36) && !ntpMinimal(b) {
		return false
	}
	const most = 16 << 16
	if be.Uint32(b[4:]) >= most || be.Uint32(b[8:]) >= most {
		return false
	}
	others := be.Uint64(b[16:]) | be.Uint64(b[24:]) | be.Uint64(b[32:])
	if others == 0 {
		return be.Uint64(b[ntpTransmit:]) != 0
	}
	const year1995, year2036 = 0xb2400000, 0xffffffff
	dated := 0
	for at := 16; at < ntpSize; at += 8 {
		t := be.Uint32(b[at:])
		if t != 0 && (t < year1995 || t > year2036) {
			return false
		}
		if t != 0 {
			dated++
		}
	}
	return dated > 0
}

// ntpMinimal: a client that tells nothing of itself (draft-ietf-ntp-data-minimization
// section 4): all zero but its own transmit timestamp, and a precision of 32.
func ntpMinimal(b []byte) bool {
	return b[0]&7 == ntpClient && b[1] == 0 && b[3] == 32 && len(b) == ntpSize && zero(b[4:ntpTransmit])
}

// ntpControlMessage: response, error and more bits with the operation, sequence,
// status, association, offset, count.
func ntpControlMessage(b []byte) match {
	if len(b) < ntpControlHead || len(b) > ntpControlHead+468+28 {
		return no
	}
	op, count := b[1]&0x1f, int(be.Uint16(b[10:]))
	if op > 12 && op != 31 || b[0]&0xc0 != 0 || ntpControlHead+count > len(b) || len(b) > ntpControlHead+count+3+28 {
		return no
	}
	if b[1]&0x80 == 0 {
		// A request has neither status nor offset.
		if b[1]&0x60 != 0 || be.Uint16(b[4:]) != 0 || be.Uint16(b[8:]) != 0 || !printable(b[ntpControlHead:ntpControlHead+count]) {
			return no
		}
		return yes
	}
	if count >= 8 && op == 2 && text(b[ntpControlHead:ntpControlHead+count]) && bytes.IndexByte(b[ntpControlHead:], '=') > 0 {
		return yes
	}
	return fits
}

// ntpPrivateMessage: authenticated bit and sequence, implementation, request,
// error and number of items, size of one.
func ntpPrivateMessage(b []byte) match {
	if len(b) < ntpPrivateHead || len(b) > 512+28+ntpPrivateHead {
		return no
	}
	items, size := int(be.Uint16(b[4:])&0xfff), int(be.Uint16(b[6:]))
	if b[2] != 0 && b[2] != 2 && b[2] != 3 || b[3] > 45 || be.Uint16(b[6:])&0xf000 != 0 || ntpPrivateHead+items*size > len(b) {
		return no
	}
	if b[0]&0x80 == 0 {
		if b[0]&0x40 != 0 || be.Uint16(b[4:])&0xf000 != 0 {
			return no
		}
		if b[2] != 0 && (len(b) == 8 || len(b) == 48 || len(b) == 72 || len(b) == 160 || len(b) == 192 || len(b) == 216) {
			return yes
		}
		return fits
	}
	if items > 0 && size >= 8 && ntpPrivateHead+items*size == len(b) {
		return yes
	}
	return fits
}

// ntpAnswers reports whether a control or private message has its response bit.
func ntpAnswers(b []byte) bool {
	if b[0]&7 == ntpControl {
		return b[1]&0x80 != 0
	}
	return b[0]&0x80 != 0
}

func ntpRequest(v *view) match {
	m := ntpMessage(v.c)
	if m != no && v.c[0]&7 >= ntpControl && ntpAnswers(v.c) {
		return no
	}
	return m
}

func ntpReply(v *view) match {
	m := ntpMessage(v.s)
	if m != no && v.s[0]&7 >= ntpControl && !ntpAnswers(v.s) {
		return no
	}
	if m == no || len(v.c) == 0 {
		return m
	}
	asked := v.c[0] & 7
	switch v.s[0] & 7 {
	case ntpServer:
		switch {
		case len(v.c) < ntpSize:
			return m
		case asked != ntpClient && asked != ntpSymActive && asked != ntpNoMode:
			return no
		case be.Uint64(v.s[ntpOrigin:]) == be.Uint64(v.c[ntpTransmit:]):
			return yes
		case m == yes: // an old reply may come after a newer request
			return fits
		}
		return no
	case ntpControl:
		if len(v.c) < 4 || be.Uint16(v.c[2:]) != be.Uint16(v.s[2:]) {
			return fits
		}
	case ntpNoMode, ntpSymActive, ntpSymPass, ntpClient, ntpBroadcast:
		// Formats whose answers begin as the questions do have one mode for both.
		if m != yes {
			return no
		}
	}
	return m
}

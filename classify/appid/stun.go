package appid

import "gatehouse/policy"

// STUN and TURN: RFC 8489 section 5, RFC 8656. The magic cookie and attributes
// that end with the message are proof.
var (
	stunProtocol = protocol{
		app: policy.AppSTUN, udp: true,
		client:       func(v *view) match { return stunDatagram(v.c, v.cFull) },
		server:       func(v *view) match { return stunDatagram(v.s, v.sFull) },
		clientFirsts: between(0, 0x3f), serverFirsts: between(0, 0x3f),
	}
	stunTCPProtocol = protocol{
		app: policy.AppSTUN, tcp: true,
		client:       func(v *view) match { return stunStream(v.c, v.cFull) },
		server:       func(v *view) match { return stunStream(v.s, v.sFull) },
		clientFirsts: between(0, 0x3f), serverFirsts: between(0, 0x3f),
	}
)

const (
	stunHead   = 20
	stunCookie = 0x2112a442
)

// stunDatagram: with the cookie, the length that fits is enough (some write
// attributes without padding); without it (RFC 3489) a known type and
// attributes that end with the message, on both sides.
func stunDatagram(b []byte, cut bool) match {
	if len(b) < stunHead {
		return no
	}
	if n := int(be.Uint16(b[2:])); stunHead+n != len(b) && !cut {
		return no
	}
	if be.Uint32(b[4:]) == stunCookie {
		return yes
	}
	if kind := be.Uint16(b); kind != 0x0001 && kind != 0x0101 && kind != 0x0111 || len(b) == stunHead {
		return no
	}
	for b = b[stunHead:]; len(b) > 0; {
		if len(b) < 4 {
			return no
		}
		kind, size := be.Uint16(b), int(be.Uint16(b[2:]))
		if size%4 != 0 || 4+size > len(b) || kind == 0 || kind > 0x0b && kind < 0x8000 {
			return no
		}
		b = b[4+size:]
	}
	return fits
}

func stunStream(b []byte, full bool) match {
	if len(b) >= 4 && be.Uint16(b[2:])%4 != 0 {
		return no
	}
	if len(b) < stunHead {
		return until(full)
	}
	if be.Uint32(b[4:]) != stunCookie {
		return no
	}
	return yes
}

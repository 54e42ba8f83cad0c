package appid

import "gatehouse/policy"

// STUN and TURN: RFC 8489 section 5, RFC 8656 section 12 (channels), RFC 3489
// section 11.1 (before the cookie), over TCP also framed as RFC 4571. The magic
// cookie and a length that fits are proof, and so are attributes that end with
// the message.
var (
	stunProtocol = protocol{
		app: policy.AppSTUN, udp: true,
		client:       func(v *view) match { return stunDatagram(v.c, v.s, v.cFull) },
		server:       func(v *view) match { return stunDatagram(v.s, v.c, v.sFull) },
		clientFirsts: between(0, 0x7f), serverFirsts: between(0, 0x7f),
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
// attributes without padding); without it a known type, and either attributes
// that end with the message or the transaction of the other side.
func stunDatagram(b, other []byte, cut bool) match {
	if len(b) < stunHead {
		return no
	}
	kind, n := be.Uint16(b), int(be.Uint16(b[2:]))
	if kind >= 0x4000 {
		// ChannelData: only where the flow has bound a channel.
		if len(other) >= stunHead && be.Uint32(other[4:]) == stunCookie && 4+n <= len(b) && len(b) <= 4+n+3 {
			return fits
		}
		return no
	}
	if stunHead+n != len(b) && !cut {
		return no
	}
	if be.Uint32(b[4:]) == stunCookie {
		return yes
	}
	switch kind {
	case 0x0001, 0x0101, 0x0111, 0x0002, 0x0102, 0x0112: // Binding, SharedSecret
	case 0x0003, 0x0103, 0x0113, 0x0004, 0x0104, 0x0115, 0x0006: // TURN before the cookie
	default:
		return no
	}
	if n == 0 {
		return fits
	}
	last := uint16(0)
	for b := b[stunHead:]; len(b) > 0; {
		if len(b) < 4 {
			return no
		}
		attr, size := be.Uint16(b), int(be.Uint16(b[2:]))
		if size%4 != 0 || 4+size > len(b) || attr == 0 || attr == last || attr > 0x30 && attr < 0x8000 && attr>>8 != 0x01 {
			return no
		}
		last, b = attr, b[4+size:]
	}
	return yes
}

func stunStream(b []byte, full bool) match {
	if len(b) < 4 {
		return until(full)
	}
	// RFC 4571: a length of two bytes that is the message's plus its head.
	if n := int(be.Uint16(b)); n >= stunHead && len(b) >= 6 && int(be.Uint16(b[4:]))+stunHead == n && be.Uint16(b[2:]) < 0x4000 {
		b = b[2:]
	}
	if be.Uint16(b[2:])%4 != 0 {
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

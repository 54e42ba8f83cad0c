package appid

import "gatehouse/policy"

// NTP: RFC 5905 section 7.3; control messages (mode 6) RFC 9327. A request is
// no proof; the reply's origin timestamp must be the request's transmit
// timestamp.
var ntpProtocol = protocol{
	app: policy.AppNTP, udp: true,
	client: ntpRequest, server: ntpReply,
	clientFirsts: anyByte(), serverFirsts: anyByte(),
}

const (
	ntpSize      = 48
	ntpOrigin    = 24
	ntpTransmit  = 40
	ntpSymActive = 1
	ntpSymPass   = 2
	ntpClient    = 3
	ntpServer    = 4
	ntpControl   = 6
)

// ntpPacket: version 1 to 4, and a length of the header alone, with a MAC (4,
// 20 or 24 bytes) or with extension fields, which are words.
func ntpPacket(b []byte) (mode byte, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	version := b[0] >> 3 & 7
	mode = b[0] & 7
	if version < 1 || version > 4 {
		return 0, false
	}
	if mode == ntpControl {
		return mode, len(b) >= 12 && len(b) <= 12+468+24 && b[1]&0x1f <= 31 && be.Uint16(b[10:])+12 <= uint16(len(b)) && be.Uint16(b[8:]) == 0
	}
	return mode, len(b) >= ntpSize && len(b)%4 == 0 && len(b) <= 1024 && b[1] <= 16
}

func ntpRequest(v *view) match {
	mode, ok := ntpPacket(v.c)
	if !ok {
		return no
	}
	switch mode {
	case ntpSymActive, ntpSymPass, ntpClient:
		return fits
	case ntpControl:
		if v.c[1]&0x80 == 0 {
			return fits
		}
	}
	return no
}

func ntpReply(v *view) match {
	mode, ok := ntpPacket(v.s)
	if !ok {
		return no
	}
	switch mode {
	case ntpServer, ntpSymActive, ntpSymPass:
		if len(v.c) < ntpSize {
			return fits
		}
		if be.Uint64(v.s[ntpOrigin:]) == be.Uint64(v.c[ntpTransmit:]) {
			return yes
		}
		// An old reply may come after a newer request.
		if be.Uint64(v.s[ntpTransmit:]) != 0 && mode != ntpServer {
			return fits
		}
		return no
	case ntpControl:
		if v.s[1]&0x80 != 0 && (len(v.c) < 4 || be.Uint16(v.c[2:]) == be.Uint16(v.s[2:])) {
			return fits
		}
	}
	return no
}

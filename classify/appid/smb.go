package appid

import "gatehouse/policy"

// SMB over TCP: MS-SMB2 2.1 and 2.2.1, MS-CIFS 2.2.3; on the NetBIOS session
// service (RFC 1002 section 4.3) a session request comes first.
var smbProtocol = protocol{
	app: policy.AppSMB, tcp: true,
	client:       func(v *view) match { return smbMessage(v.c, 0x81, v.cFull) },
	server:       func(v *view) match { return smbMessage(v.s, 0x82, v.sFull) },
	clientFirsts: oneOf("\x00\x81"), serverFirsts: oneOf("\x00\x82"),
	mid: func(b []byte) match {
		if begins(b, "\x85\x00\x00\x00") == yes && len(b) > 4 { // session keep-alive
			b = b[4:]
		}
		return smbMessage(b, 0x81, false)
	},
}

// smbMessage reads a direct-TCP or session-service message; session is the type
// of the session service's own message that may come before.
func smbMessage(b []byte, session byte, full bool) match {
	if b[0] == session {
		if len(b) < 4 {
			return until(full)
		}
		n := int(be.Uint16(b[2:]))
		if b[1]&0xfe != 0 || session == 0x81 && (n < 60 || n > 256) || session == 0x82 && n != 0 {
			return no
		}
		if len(b) <= 4+n {
			return until(full)
		}
		b = b[4+n:]
	}
	if b[0] != 0 {
		return no
	}
	if len(b) < 8 {
		if len(b) > 4 && b[4] < 0xfc {
			return no
		}
		return until(full)
	}
	n := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	if b[4] < 0xfc || string(b[5:8]) != "SMB" || n < 32 {
		return no
	}
	if b[4] != 0xfe {
		return yes
	}
	if len(b) < 18 {
		return until(full)
	}
	// Structure size 64; command up to OPLOCK_BREAK.
	if le.Uint16(b[8:]) != 64 || le.Uint16(b[16:]) > 0x13 {
		return no
	}
	return yes
}

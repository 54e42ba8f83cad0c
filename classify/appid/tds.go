package appid

import "gatehouse/policy"

// TDS (Microsoft SQL Server): MS-TDS 2.2.3.1 and 2.2.6.5, PRELOGIN. TLS is
// carried inside its packets. TDS 8 is direct TLS with ALPN.
var tdsProtocol = protocol{
	app: policy.AppTDS, tcp: true,
	client:       func(v *view) match { return tdsPrelogin(v.c, 0x12, v.cFull) },
	server:       func(v *view) match { return tdsPrelogin(v.s, 0x04, v.sFull) },
	clientFirsts: oneOf("\x12"), serverFirsts: oneOf("\x04"),
	mid: tdsPacket,
}

func tdsPrelogin(b []byte, kind byte, full bool) match {
	const head = 8
	if len(b) < head {
		if len(b) > 1 && b[1] > 1 {
			return no
		}
		return until(full)
	}
	n := int(be.Uint16(b[2:]))
	if b[0] != kind || b[1] > 1 || n < head+6 || n > 32767 || b[7] != 0 {
		return no
	}
	body := b[head:min(n, len(b))]
	size := n - head
	// Options of token, offset, length; VERSION comes first and has 6 bytes.
	for i := 0; ; i++ {
		if len(body) < i*5+1 {
			return until(full)
		}
		if body[i*5] == 0xff {
			break
		}
		if len(body) < i*5+5 {
			return until(full)
		}
		off, l := int(be.Uint16(body[i*5+1:])), int(be.Uint16(body[i*5+3:]))
		if off+l > size || i == 0 && (body[0] != 0 || l != 6) || i > 16 {
			return no
		}
	}
	return yes
}

// tdsPacket: 2.2.3.1, a batch, call, answer or transaction request whose length
// is the segment's.
func tdsPacket(b []byte) match {
	if len(b) < 9 || b[1] > 1 || int(be.Uint16(b[2:])) != len(b) || b[7] != 0 {
		return no
	}
	switch b[0] {
	case 0x01, 0x03, 0x04, 0x0e:
		return yes
	}
	return no
}

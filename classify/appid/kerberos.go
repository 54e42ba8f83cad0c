package appid

import "gatehouse/policy"

// Kerberos 5: RFC 4120 sections 5.4 to 5.9 and 7.2; changing passwords RFC 3244
// section 2. The application tag and the message type inside say the same number.
var (
	kerberosProtocol = protocol{
		app: policy.AppKerberos, udp: true,
		client:       func(v *view) match { return kerberosMessage(kerberosPassword(v.c), kerberosRequests, true) },
		server:       func(v *view) match { return kerberosMessage(kerberosPassword(v.s), kerberosReplies, true) },
		clientFirsts: oneOf(kerberosRequests).or(between(0, 8)), serverFirsts: oneOf(kerberosReplies).or(between(0, 8)),
	}
	kerberosTCPProtocol = protocol{
		app: policy.AppKerberos, tcp: true,
		client:       func(v *view) match { return kerberosStream(v.c, kerberosRequests, v.cFull) },
		server:       func(v *view) match { return kerberosStream(v.s, kerberosReplies, v.sFull) },
		clientFirsts: oneOf("\x00"), serverFirsts: oneOf("\x00"),
	}
)

const (
	kerberosRequests = "\x6a\x6c\x6e\x74" // AS-REQ, TGS-REQ, AP-REQ, KRB-SAFE
	kerberosReplies  = "\x6b\x6d\x6f\x7e" // AS-REP, TGS-REP, AP-REP, KRB-ERROR
)

// kerberosPassword steps over the head of a message about a password: its
// length, version 1 or ff80, length of the ticket that comes first.
func kerberosPassword(b []byte) []byte {
	if len(b) > 16 && int(be.Uint16(b)) == len(b) && (be.Uint16(b[2:]) == 1 || be.Uint16(b[2:]) == 0xff80) && int(be.Uint16(b[4:])) <= len(b)-6 {
		return b[6:]
	}
	return b
}

func kerberosStream(b []byte, tags string, full bool) match {
	if len(b) < 5 {
		return until(full)
	}
	if n := be.Uint32(b); n < 20 || n > 1<<20 {
		return no
	}
	return kerberosMessage(kerberosPassword(b[4:]), tags, full)
}

func kerberosMessage(b []byte, tags string, full bool) match {
	known := false
	for i := range len(tags) {
		known = known || b[0] == tags[i]
	}
	if !known {
		return no
	}
	number := b[0] & 0x1f
	_, head, _, ok, short := tlv(b)
	if ok && !short {
		b = b[head:]
		var tag byte
		tag, head, _, ok, short = tlv(b)
		ok = ok && (short || tag == 0x30)
	}
	if !ok {
		return no
	}
	if short || len(b) < head+10 {
		return until(full)
	}
	b = b[head:]
	// [0] or [1] INTEGER 5, then the next field INTEGER message type.
	if (b[0] != 0xa0 && b[0] != 0xa1) || b[1] != 3 || b[2] != 2 || b[3] != 1 || b[4] != 5 ||
		b[5] != b[0]+1 || b[6] != 3 || b[7] != 2 || b[8] != 1 || b[9] != number {
		return no
	}
	return yes
}

package appid

import "gatehouse/policy"

// LDAP: RFC 4511 section 4 and 5.1, CLDAP (RFC 1798, MS-ADTS 3.1.1.3.1). A
// bind request is proof; StartTLS is the extended operation of RFC 4511 4.14.
var (
	ldapProtocol = protocol{
		app: policy.AppLDAP, tcp: true,
		client:       func(v *view) match { return ldapMessage(v.c, ldapRequests, v.cFull) },
		server:       func(v *view) match { return ldapMessage(v.s, ldapResponses, v.sFull) },
		clientFirsts: oneOf("0"), serverFirsts: oneOf("0"),
		upgraded: ldapUpgraded,
	}
	cldapProtocol = protocol{
		app: policy.AppLDAP, udp: true,
		client:       func(v *view) match { return ldapMessage(v.c, ldapRequests, true) },
		server:       func(v *view) match { return ldapMessage(v.s, ldapResponses, true) },
		clientFirsts: oneOf("0"), serverFirsts: oneOf("0"),
	}
)

const (
	ldapRequests  = "\x60\x42\x63\x66\x68\x4a\x6c\x6e\x50\x77"
	ldapResponses = "\x61\x64\x65\x67\x69\x6b\x6d\x6f\x73\x78\x79"
	ldapBind      = 0x60
	ldapStartTLS  = "1.3.6.1.4.1.1466.20037"
)

func ldapMessage(b []byte, ops string, full bool) match {
	tag, head, size, ok, short := tlv(b)
	switch {
	case !ok || !short && (tag != 0x30 || size < 5):
		return no
	case short:
		return until(full)
	}
	outer := size
	b = b[head:]
	tag, head, size, ok, short = tlv(b)
	switch {
	case short:
		return until(full)
	case !ok || tag != 2 || size < 1 || size > 4:
		return no
	case len(b) < head+size+2:
		return until(full)
	case b[head]&0x80 != 0: // message ids are not negative
		return no
	}
	outer -= head + size
	b = b[head+size:]
	tag, head, size, ok, short = tlv(b)
	switch {
	case !ok:
		return no
	case short:
		return until(full)
	}
	known := false
	for i := range len(ops) {
		known = known || ops[i] == tag
	}
	if !known || head+size > outer {
		return no
	}
	if tag != ldapBind {
		return fits
	}
	if len(b) < head+3 {
		return until(full)
	}
	if b[head] == 2 && b[head+1] == 1 && (b[head+2] == 2 || b[head+2] == 3) {
		return yes
	}
	return no
}

func ldapUpgraded(v *view) match {
	b := v.c
	asked := false
	for len(b) > 0 {
		if asked {
			if m := startsTLS(b); m != no {
				return m
			}
		}
		tag, head, size, ok, short := tlv(b)
		if !ok || !short && tag != 0x30 {
			return no
		}
		if short || head+size > len(b) {
			break
		}
		if contains(b[:head+size], ldapStartTLS) {
			asked = true
		}
		b = b[head+size:]
	}
	return until(v.cFull)
}

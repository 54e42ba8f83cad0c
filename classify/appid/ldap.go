package appid

import "gatehouse/policy"

// LDAP: RFC 4511 sections 4 and 5.1, CLDAP (RFC 1798, MS-ADTS 3.1.1.3.1). Binds,
// searches, unbinds and results are proof by their fields; StartTLS is the
// extended operation of RFC 4511 4.14.
var (
	ldapProtocol = protocol{
		app: policy.AppLDAP, tcp: true,
		client:       func(v *view) match { return ldapMessage(v.c, ldapRequests, v.cFull) },
		server:       func(v *view) match { return ldapMessage(v.s, ldapResponses, v.sFull) },
		clientFirsts: oneOf("0"), serverFirsts: oneOf("0"),
		upgraded: ldapUpgraded, mid: ldapMid, attrs: ldapAttrs,
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
	ldapUnbind    = 0x42
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
	body := b[head:min(len(b), head+size)]
	if tag == ldapUnbind {
		if size == 0 && outer == head {
			return yes
		}
		return no
	}
	if m := ldapFields(tag, body); m != more || len(body) == size {
		return m
	}
	return until(full)
}

// ldapFields looks into the operation: yes, no, more, or fits for one that is
// not looked into.
func ldapFields(tag byte, b []byte) match {
	switch tag {
	case ldapBind: // version, name
		if len(b) < 3 {
			return more
		}
		if b[0] == 2 && b[1] == 1 && (b[2] == 2 || b[2] == 3) {
			return yes
		}
		return no
	case 0x61, 0x65, 0x69, 0x6b, 0x6d, 0x6f, 0x78: // results: code, matched name, message
		if len(b) < 4 {
			return more
		}
		if b[0] != 0x0a || b[1] != 1 || b[2] > 123 || b[3] != 0x04 {
			return no
		}
		if _, head, n, ok, short := tlv(b[3:]); !ok {
			return no
		} else if short || len(b) <= 3+head+n {
			return more
		} else if b[3+head+n] != 0x04 {
			return no
		}
		return yes
	case 0x63: // search: base, scope, aliases, limits
		return ldapSearch(b)
	case 0x77: // extended: the operation's number
		if len(b) < 5 {
			return more
		}
		if b[0] == 0x80 && b[1] >= 5 && b[1] < 64 && digit(b[2]) && b[3] == '.' && digit(b[4]) {
			return yes
		}
		return no
	case 0x64: // entry: name, attributes
		if _, head, n, ok, short := tlv(b); !ok || !short && b[0] != 0x04 {
			return no
		} else if short || len(b) <= head+n {
			return more
		} else if b[head+n] == 0x30 {
			return yes
		}
		return no
	}
	return fits
}

func ldapSearch(b []byte) match {
	_, head, n, ok, short := tlv(b)
	switch {
	case !ok || !short && b[0] != 0x04:
		return no
	case short || len(b) < head+n+9:
		return more
	}
	b = b[head+n:]
	if b[0] != 0x0a || b[1] != 1 || b[2] > 3 || b[3] != 0x0a || b[4] != 1 || b[5] > 3 || b[6] != 2 || b[7] == 0 || b[7] > 4 {
		return no
	}
	return yes
}

// ldapMid: any message that is proof, from either side.
func ldapMid(b []byte) match {
	if m := ldapMessage(b, ldapRequests, false); m >= more {
		return m
	}
	return ldapMessage(b, ldapResponses, false)
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

// ldapAttrs: the name of a simple bind (RFC 4511 section 4.2).
func ldapAttrs(v *view, a *Attrs) {
	b := v.c
	_, head, _, ok, short := tlv(b)
	if !ok || short {
		return
	}
	b = b[head:]
	_, head, n, ok, short := tlv(b)
	if !ok || short || head+n >= len(b) {
		return
	}
	b = b[head+n:]
	tag, head, _, ok, short := tlv(b)
	if !ok || short || tag != ldapBind || len(b) < head+3 {
		return
	}
	a.setVersion(int(b[head+2]))
	b = b[head+3:]
	if _, head, n, ok, short = tlv(b); ok && !short && head+n <= len(b) && b[0] == 4 {
		a.Set(AttrUser, b[head:head+n])
	}
}

package appid

import "gatehouse/policy"

// Oracle TNS: no public specification by its vendor; the header and the CONNECT
// and DATA packets as Wireshark's documentation of TNS describes them.
var tnsProtocol = protocol{
	app: policy.AppTNS, tcp: true,
	client: tnsConnect, server: tnsAnswer,
	clientFirsts: between(0, 4), serverFirsts: between(0, 4),
	mid: tnsPacket, attrs: tnsAttrs,
}

func tnsConnect(v *view) match {
	b := v.c
	if len(b) < 28 {
		if len(b) > 4 && b[4] != 1 {
			return no
		}
		return until(v.cFull)
	}
	n, version := int(be.Uint16(b)), int(be.Uint16(b[8:]))
	size, off := int(be.Uint16(b[24:])), int(be.Uint16(b[26:]))
	if be.Uint16(b[2:]) != 0 || b[4] != 1 || n < 34 || version < 300 || version > 350 || off < 34 || off > 100 || off > n || size == 0 {
		return no
	}
	if off+size == n || off == n {
		return yes
	}
	return fits
}

func tnsAnswer(v *view) match {
	b := v.s
	if len(b) < 8 {
		return until(v.sFull)
	}
	if n := be.Uint16(b); n < 8 || be.Uint16(b[2:]) != 0 {
		return no
	}
	switch b[4] {
	case 2, 4, 5, 11: // accept, refuse, redirect, resend
		return fits
	}
	return no
}

// tnsPacket: any packet: length, no checksum, type, no flags, no checksum; of
// DATA the flags of the data follow. From version 315 on lengths have four bytes.
func tnsPacket(b []byte) match {
	const data = 6
	if len(b) < 12 || b[6]|b[7] != 0 || b[5]&^0x24 != 0 {
		return no
	}
	n := int(be.Uint16(b))
	if n == 0 {
		n = int(be.Uint32(b))
	} else if be.Uint16(b[2:]) != 0 {
		return no
	}
	if n != len(b) && (n < len(b) || len(b) < 256 || b[4] != data) {
		return no
	}
	switch b[4] {
	case data:
		if flags := be.Uint16(b[8:]); flags&^0x2061 == 0 && b[10] != 0 && (b[10] <= 0x11 || begins(b[10:], "\xde\xad") == yes || b[10] == 0x1d) {
			return yes
		}
	case 1:
		if len(b) > 30 && be.Uint16(b[8:]) >= 300 && be.Uint16(b[8:]) <= 350 && contains(b, "(") {
			return yes
		}
	case 2:
		if len(b) >= 24 && be.Uint16(b[8:]) >= 300 && be.Uint16(b[8:]) <= 350 && be.Uint16(b[20:]) >= 24 && be.Uint16(b[20:]) <= 64 {
			return yes
		}
	case 4, 5:
		if contains(b, "(DESCRIPTION=") || contains(b, "(ADDRESS=") {
			return yes
		}
	}
	return no
}

// tnsAttrs: the connect descriptor's service or SID, and who connects.
func tnsAttrs(v *view, a *Attrs) {
	for _, f := range [...]struct {
		name string
		key  Attr
	}{{"(SERVICE_NAME=", AttrDatabase}, {"(SID=", AttrDatabase}, {"(USER=", AttrUser}, {"(PROGRAM=", AttrAgent}} {
		if rest, ok := after(v.c, f.name); ok {
			a.Set(f.key, upTo(rest, ")"))
		}
	}
}

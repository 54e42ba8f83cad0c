package appid

import "gatehouse/policy"

// Oracle TNS: no public specification by its vendor; the header and the CONNECT
// packet as Wireshark's documentation of TNS describes them.
var tnsProtocol = protocol{
	app: policy.AppTNS, tcp: true,
	client: tnsConnect, server: tnsAnswer,
	clientFirsts: between(0, 4), serverFirsts: between(0, 4),
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
	if be.Uint16(b[2:]) != 0 || b[4] != 1 || n < 34 || version < 300 || version > 330 || off < 34 || off > 100 || off > n || size == 0 {
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

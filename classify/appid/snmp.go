package appid

import "gatehouse/policy"

// SNMP: RFC 1157 section 4, RFC 3416 section 3, RFC 3412 section 6; number 2 is the
// user-based SNMPv2 of RFC 1910. Traps are requests too. The message's lengths
// must nest to its exact end.
var snmpProtocol = protocol{
	app: policy.AppSNMP, udp: true,
	client:       func(v *view) match { return snmpMessage(v.c, v.cFull) },
	server:       func(v *view) match { return snmpMessage(v.s, v.sFull) },
	clientFirsts: oneOf("0"), serverFirsts: oneOf("0"),
}

func snmpMessage(b []byte, cut bool) match {
	tag, head, size, ok, short := tlv(b)
	if !ok || short || tag != 0x30 || head+size != len(b) && !cut {
		return no
	}
	b = b[head:]
	if len(b) < 5 || b[0] != 2 || b[1] != 1 {
		return no
	}
	version := b[2]
	b = b[3:]
	tag, head, size, ok, short = tlv(b)
	if !ok || short || head+size > len(b) {
		return no
	}
	switch {
	case version <= 2 && tag == 0x04: // community, then a PDU
		b = b[head+size:]
		tag, head, size, ok, short = tlv(b)
		if ok && !short && tag >= 0xa0 && tag <= 0xa8 && (head+size == len(b) || cut) {
			return yes
		}
	case version == 3 && tag == 0x30 && size >= 9 && b[head] == 2: // header data begins with an integer
		return yes
	}
	return no
}

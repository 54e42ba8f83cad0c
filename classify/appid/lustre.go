package appid

import "gatehouse/policy"

// Lustre networking over sockets: lnet/socklnd.h and lnet/lib-types.h of Lustre's
// sources: the acceptor's request, the socket driver's hello, and messages
// between network ids of process id 12345.
var lustreProtocol = protocol{
	app: policy.AppLustre, tcp: true,
	client: func(v *view) match { return lustreHello(v.c, v.cFull) }, server: func(v *view) match { return lustreHello(v.s, v.sFull) },
	clientFirsts: oneOf("\x00\xac\x63\x45"), serverFirsts: oneOf("\x00\xac\x63\x45"),
	mid: lustreMessage,
}

const (
	lustreAcceptor = 0xacce7100
	lustreSocket   = 0x45726963
	lustreProcess  = 12345
)

// lustreHello: magic and version 1 to 4, in the sender's byte order.
func lustreHello(b []byte, full bool) match {
	if len(b) < 8 {
		for _, magic := range [...]string{"\x00\x71\xce\xac", "\xac\xce\x71\x00", "\x63\x69\x72\x45", "\x45\x72\x69\x63"} {
			if begins(b, magic) != no {
				return until(full)
			}
		}
		return no
	}
	for _, order := range [...]uint32{le.Uint32(b), be.Uint32(b)} {
		if order != lustreAcceptor && order != lustreSocket {
			continue
		}
		version := le.Uint32(b[4:])
		if order == be.Uint32(b) {
			version = be.Uint32(b[4:])
		}
		if version >= 1 && version <= 4 {
			return yes
		}
	}
	return no
}

// lustreMessage: type C0 (nothing) or C1, checksum, two cookies, then the ids of
// destination and source, their processes and the kind of message, 0 to 3.
func lustreMessage(b []byte) match {
	if m := lustreHello(b, true); m == yes {
		return yes
	}
	const head = 24
	if len(b) < head+32 || le.Uint32(b) != 0xc1 {
		return no
	}
	if b := b[head:]; le.Uint32(b[16:]) == lustreProcess && le.Uint32(b[20:]) == lustreProcess && le.Uint32(b[24:]) <= 3 {
		return yes
	}
	return no
}

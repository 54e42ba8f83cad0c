package appid

import "gatehouse/policy"

// WireGuard: wireguard.com/protocol and the paper's section 5.4. Messages of
// fixed sizes; the answer names the initiator's index. Some services append
// bytes of their own, or use the reserved bytes.
var wireguardProtocol = protocol{
	app: policy.AppWireGuard, udp: true,
	client:       func(v *view) match { return wireguardMessage(v.c, v.s) },
	server:       func(v *view) match { return wireguardMessage(v.s, v.c) },
	clientFirsts: between(1, 4), serverFirsts: between(1, 4),
}

const (
	wireguardInitiation = 148
	wireguardResponse   = 92
	wireguardCookie     = 64
)

func wireguardMessage(b, other []byte) match {
	if len(b) < 32 {
		return no
	}
	reserved := b[1]|b[2]|b[3] != 0
	asked := len(other) >= wireguardInitiation && other[0] == 1
	switch b[0] {
	case 1:
		if len(b) < wireguardInitiation || len(b) > wireguardInitiation && (reserved || len(other) > 0) || !scrambled(b[8:40]) {
			return no
		}
		// Without a cookie the second MAC is zero.
		if len(b) == wireguardInitiation && !reserved && zero(b[wireguardInitiation-16:]) {
			return yes
		}
		return fits
	case 2:
		if len(b) < wireguardResponse || asked && le.Uint32(b[8:]) != le.Uint32(other[4:]) || !asked && (reserved || len(b) != wireguardResponse) || !scrambled(b[12:44]) {
			return no
		}
		return fits
	case 3:
		if len(b) != wireguardCookie || reserved || asked && le.Uint32(b[4:]) != le.Uint32(other[4:]) || !scrambled(b[8:32]) {
			return no
		}
		return fits
	}
	// Data: the receiver's index, a counter that is far from its end, whole blocks
	// and a tag, all of it scrambled.
	if len(b)%16 != 0 || !scrambled(b[len(b)-16:]) {
		return no
	}
	if !reserved && b[13]|b[14]|b[15] == 0 && le.Uint32(b[4:]) != 0 {
		return yes
	}
	if len(other) > 0 && other[0] <= 4 {
		return fits
	}
	return no
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// scrambled reports whether b could be the output of a cipher: few of its bytes
// are equal, and not all are text.
func scrambled(b []byte) bool {
	letters := 0
	for _, c := range b {
		if ' ' <= c && c <= '~' {
			letters++
		}
	}
	return letters < len(b)*7/8 && distinct(b) >= len(b)*3/4
}

// distinct is how many different bytes b has.
func distinct(b []byte) (n int) {
	var seen firsts
	for _, c := range b {
		if !seen.has(c) {
			seen.add(c)
			n++
		}
	}
	return n
}

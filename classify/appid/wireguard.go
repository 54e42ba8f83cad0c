package appid

import "gatehouse/policy"

// WireGuard: wireguard.com/protocol and the paper's section 5.4. Messages of
// fixed sizes; the answer names the initiator's index.
var wireguardProtocol = protocol{
	app: policy.AppWireGuard, udp: true,
	client: wireguardClient, server: wireguardServer,
	clientFirsts: between(1, 4), serverFirsts: between(1, 4),
}

const (
	wireguardInitiation = 148
	wireguardResponse   = 92
	wireguardCookie     = 64
)

func wireguardClient(v *view) match {
	if len(v.c) < 32 || v.c[1]|v.c[2]|v.c[3] != 0 {
		return no
	}
	switch {
	case v.c[0] == 1 && len(v.c) == wireguardInitiation:
		return fits
	case v.c[0] == 4 && len(v.c)%16 == 0 && len(v.s) > 0:
		return fits
	}
	return no
}

func wireguardServer(v *view) match {
	if len(v.s) < 32 || v.s[1]|v.s[2]|v.s[3] != 0 {
		return no
	}
	asked := len(v.c) == wireguardInitiation && v.c[0] == 1
	switch {
	case v.s[0] == 2 && len(v.s) == wireguardResponse:
		if asked && le.Uint32(v.s[8:]) != le.Uint32(v.c[4:]) {
			return no
		}
		return fits
	case v.s[0] == 3 && len(v.s) == wireguardCookie:
		if asked && le.Uint32(v.s[4:]) != le.Uint32(v.c[4:]) {
			return no
		}
		return fits
	case v.s[0] == 4 && len(v.s)%16 == 0 && len(v.c) > 0:
		return fits
	}
	return no
}

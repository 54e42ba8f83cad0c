package appid

import "gatehouse/policy"

// ONC RPC: RFC 5531 sections 8, 9 and 11; NFS is its program 100003 (RFC 7530,
// RFC 1813, RFC 1094). A call is proof; the reply has the same transaction number.
var (
	sunrpcProtocol = protocol{
		app: policy.AppSunRPC, tcp: true,
		client: func(v *view) match {
			b, m := rpcRecord(v.c, v.cFull)
			if m != yes {
				return m
			}
			return rpcCall(b, v.cFull)
		},
		server: func(v *view) match {
			b, m := rpcRecord(v.s, v.sFull)
			if m != yes {
				return m
			}
			var call []byte
			if len(v.c) > 4 {
				call = v.c[4:]
			}
			return rpcReply(call, b, v.sFull)
		},
		clientFirsts: between(0x80, 0x8f), serverFirsts: between(0x80, 0x8f),
		refine: func(v *view) policy.App { return rpcProgram(v.c, 4) },
		attrs:  func(v *view, a *Attrs) { rpcAttrs(v.c[min(4, len(v.c)):], a) },
		mid:    rpcMid,
	}
	sunrpcUDPProtocol = protocol{
		app: policy.AppSunRPC, udp: true,
		client:       func(v *view) match { return rpcCall(v.c, true) },
		server:       func(v *view) match { return rpcReply(v.c, v.s, true) },
		clientFirsts: anyByte(), serverFirsts: anyByte(),
		refine: func(v *view) policy.App { return rpcProgram(v.c, 0) },
		attrs:  func(v *view, a *Attrs) { rpcAttrs(v.c, a) },
	}
)

const rpcNFS = 100003

// rpcRecord strips the record mark of TCP.
func rpcRecord(b []byte, full bool) ([]byte, match) {
	if len(b) < 5 {
		return nil, until(full)
	}
	if n := be.Uint32(b) &^ (1 << 31); n < 24 || n > 1<<24 {
		return nil, no
	}
	return b[4:], yes
}

func rpcCall(b []byte, full bool) match {
	// XID, CALL, version 2, program, its version, procedure, credentials.
	if len(b) >= 12 && (be.Uint32(b[4:]) != 0 || be.Uint32(b[8:]) != 2) {
		return no
	}
	if len(b) < 32 {
		return until(full)
	}
	program, version, proc, flavour, size := be.Uint32(b[12:]), be.Uint32(b[16:]), be.Uint32(b[20:]), be.Uint32(b[24:]), be.Uint32(b[28:])
	if program < 100000 || program >= 0x60000000 || version > 20 || proc > 200 || flavour != 0 && flavour != 1 && flavour != 2 && flavour != 3 && flavour != 6 && flavour != 7 || size > 400 {
		return no
	}
	return yes
}

func rpcReply(call, b []byte, full bool) match {
	if len(b) < 12 {
		return until(full)
	}
	if be.Uint32(b[4:]) != 1 || be.Uint32(b[8:]) > 1 {
		return no
	}
	if len(call) >= 4 && be.Uint32(call) != be.Uint32(b) {
		return no
	}
	return fits
}

func rpcProgram(b []byte, at int) policy.App {
	if len(b) >= at+16 && be.Uint32(b[at+12:]) == rpcNFS {
		return policy.AppNFS
	}
	return policy.AppSunRPC
}

// rpcMid: of a stream a call, or a reply that was accepted without a verifier,
// in one record that ends with the bytes or reaches beyond.
func rpcMid(b []byte) match {
	if len(b) < 28 || be.Uint32(b)>>31 == 0 {
		return no
	}
	n := int(be.Uint32(b) &^ (1 << 31))
	if n < 24 || n > 1<<21 {
		return no
	}
	if m := rpcCall(b[4:], true); m == yes {
		return yes
	}
	if be.Uint32(b[8:]) == 1 && be.Uint32(b[12:]) == 0 && be.Uint64(b[16:]) == 0 && be.Uint32(b[24:]) <= 5 && b[4]|b[5]|b[6]|b[7] != 0 && 4+n >= len(b) {
		return yes
	}
	return no
}

// rpcAttrs: the program's number and its version.
func rpcAttrs(call []byte, a *Attrs) {
	if rpcCall(call, true) == yes {
		a.setNumber(AttrService, int(be.Uint32(call[12:])))
		a.setVersion(int(be.Uint32(call[16:])))
	}
}

package appid

import (
	"hash/crc32"

	"gatehouse/policy"
)

// Consul's own protocols. Servers' RPC port: agent/pool/conn.go of its sources:
// a byte for what follows, and for multiplexed RPC the frames of yamux
// (hashicorp/yamux spec.md). Gossip: hashicorp/memberlist net.go: a message type,
// mostly within a checksum, then MessagePack with fields of known names.
// Encrypted gossip stays unknown.
var (
	consulProtocol = protocol{
		app: policy.AppConsul, tcp: true,
		client: consulClient, server: consulServer,
		clientFirsts: between(0, 9).or(oneOf("\xf4")), serverFirsts: between(0, 9).or(oneOf("\x80\x81\x82\x83\x84\x85\x86\xf4")),
	}
	consulGossipProtocol = protocol{
		app: policy.AppConsul, udp: true,
		client:       func(v *view) match { return consulGossip(v.c) },
		server:       func(v *view) match { return consulGossip(v.s) },
		clientFirsts: between(0, 13).or(oneOf("\xf4")), serverFirsts: between(0, 13).or(oneOf("\xf4")),
	}
)

const (
	consulMultiplex   = 2
	consulMultiplexV2 = 4

	gossipCompound = 7
	gossipChecksum = 12
	gossipLabel    = 244

	yamuxHead = 12
)

func consulClient(v *view) match {
	b := v.c
	if b[0] == consulMultiplex || b[0] == consulMultiplexV2 {
		if m := yamuxFrame(b[1:], v.cFull); m != no {
			return m
		}
	}
	return gossipStream(b, v.cFull)
}

func consulServer(v *view) match {
	if m := yamuxFrame(v.s, v.sFull); m == yes {
		return fits
	} else if m == more {
		return m
	}
	return gossipStream(v.s, v.sFull)
}

// yamuxFrame: version 0, a window update or a ping that opens stream 1: type,
// flags, stream, length.
func yamuxFrame(b []byte, full bool) match {
	if len(b) > 1 && (b[0] != 0 || b[1] > 2) {
		return no
	}
	if len(b) < yamuxHead {
		return until(full)
	}
	flags, stream := be.Uint16(b[2:]), be.Uint32(b[4:])
	switch {
	case b[1] == 2 && stream == 0 && (flags == 1 || flags == 2): // ping
		return yes
	case b[1] == 1 && stream >= 1 && stream < 1<<16 && (flags == 1 || flags == 2) && be.Uint32(b[8:]) <= 1<<24:
		return yes
	}
	return no
}

// gossipStream: over TCP: pings, compressed messages, and type 6, push and pull,
// whose map begins with its number of nodes.
func gossipStream(b []byte, full bool) match {
	if b[0] != 0 && b[0] != 6 && b[0] != 9 || len(b) > 1 && b[1]&0xf0 != 0x80 {
		return no
	}
	if len(b) < 10 {
		return until(full)
	}
	return gossipMessage(b)
}

func consulGossip(b []byte) match {
	if b[0] == gossipLabel && len(b) > 2 && len(b) > 2+int(b[1]) && printable(b[2:2+int(b[1])]) {
		b = b[2+int(b[1]):]
	}
	if b[0] == gossipChecksum && len(b) > 6 {
		if crc32.ChecksumIEEE(b[5:]) == be.Uint32(b[1:]) {
			return yes
		}
		return no
	}
	return gossipMessage(b)
}

// gossipMessage: of the simple types those whose map begins with a field that
// all of them have, and compounds of them: a count, lengths, messages.
func gossipMessage(b []byte) match {
	if len(b) < 10 {
		return no
	}
	if b[0] == gossipCompound {
		n := int(b[1])
		if at := 2 + 2*n; n > 0 && len(b) > at+10 && int(be.Uint16(b[2:])) <= len(b)-at {
			return gossipMessage(b[at:min(len(b), at+int(be.Uint16(b[2:])))])
		}
		return no
	}
	if b[0] > 11 || b[1]&0xf0 != 0x80 {
		return no
	}
	for _, field := range [...]string{"\xa5SeqNo", "\xa4Node", "\xabIncarnation", "\xa4Addr", "\xa4Algo", "\xa4From", "\xa7Payload", "\xa5Nodes", "\xa4Join"} {
		if begins(b[2:], field) == yes {
			return yes
		}
	}
	return no
}

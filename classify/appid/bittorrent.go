package appid

import "gatehouse/policy"

// BitTorrent: BEP 3 (handshake and peer messages), BEP 5 (DHT), BEP 14 (local
// discovery), BEP 15 (UDP tracker), BEP 29 (uTP). Encrypted streams stay unknown.
var (
	bittorrentProtocol = protocol{
		app: policy.AppBitTorrent, tcp: true,
		client: func(v *view) match { return begins(v.c, bittorrentHello) }, server: func(v *view) match { return begins(v.s, bittorrentHello) },
		clientFirsts: oneOf("\x13"), serverFirsts: oneOf("\x13"),
		mid: bittorrentMessages,
	}
	bittorrentUDPProtocol = protocol{
		app: policy.AppBitTorrent, udp: true,
		client:       func(v *view) match { return bittorrentDatagram(v.c, v.s) },
		server:       func(v *view) match { return bittorrentDatagram(v.s, v.c) },
		clientFirsts: oneOf("dB\x00\x01\x11\x21\x31\x41"), serverFirsts: oneOf("dB\x00\x01\x11\x21\x31\x41"),
	}
)

const (
	bittorrentHello   = "\x13BitTorrent protocol"
	bittorrentTracker = "\x00\x00\x04\x17\x27\x10\x19\x80\x00\x00\x00\x00"
	utpHead           = 20
)

func bittorrentDatagram(b, other []byte) match {
	switch b[0] {
	case 'd':
		return bittorrentDHT(b)
	case 'B':
		if begins(b, "BT-SEARCH * HTTP/1.") == yes {
			return yes
		}
		return no
	}
	if m := bittorrentTrack(b, other); m != no {
		return m
	}
	return bittorrentUTP(b, other)
}

// bittorrentTrack: connect, with a number that all know, and its answer: action,
// transaction, connection id.
func bittorrentTrack(b, other []byte) match {
	if len(b) == 16 && begins(b, bittorrentTracker) == yes {
		return yes
	}
	if len(b) >= 16 && begins(other, bittorrentTracker) == yes && len(other) == 16 && be.Uint32(b) == 0 && be.Uint32(b[4:]) == be.Uint32(other[12:]) {
		return yes
	}
	// Announce: the connection id, action 1, transaction, hash, "-XX1234-" of the peer id.
	if len(b) >= 98 && be.Uint32(b[8:]) == 1 && b[36] == '-' && b[43] == '-' && printable(b[37:43]) {
		return yes
	}
	return no
}

// bittorrentUTP: type and version, extension, connection id, time, difference,
// window, sequence, acknowledgement. The two sides' ids differ by one at most and
// each acknowledges what the other sent.
func bittorrentUTP(b, other []byte) match {
	// Ids and times are random: the small ones are left to formats that are full of zeros.
	if len(b) < utpHead || b[1] > 3 || b[2] < 4 || b[4]|b[5] == 0 {
		return no
	}
	if b[0] == 0x41 && len(other) == 0 {
		if be.Uint16(b[18:]) != 0 || be.Uint32(b[12:]) == 0 || len(b) > 64 {
			return no
		}
		return fits
	}
	if len(other) < utpHead {
		return fits
	}
	if be.Uint32(b[4:]) == be.Uint32(other[4:]) { // a number that is only repeated
		return no
	}
	if d := be.Uint16(b[2:]) - be.Uint16(other[2:]); d > 1 && d != 0xffff || other[0]&0xf != 1 || other[0] > 0x41 {
		return no
	}
	const window = 512
	if be.Uint16(other[16:])-be.Uint16(b[18:])+window > 2*window {
		return no
	}
	return fits
}

func bittorrentDHT(b []byte) match {
	if begins(b, "d1:ad2:id20:") == yes || begins(b, "d1:rd2:id20:") == yes {
		return yes
	}
	if begins(b, "d2:ip6:") == yes && contains(b, "1:rd2:id20:") {
		return yes
	}
	if begins(b, "d1:eli20") == yes && contains(b, "1:y1:e") {
		return yes
	}
	if begins(b, "d1:eli") == yes || begins(b, "d2:ip") == yes && contains(b, "2:id20:") {
		return fits
	}
	return no
}

// bittorrentMessages: requests and pieces of 16 KiB as clients make them.
func bittorrentMessages(b []byte) match {
	if begins(b, bittorrentHello) == yes {
		return yes
	}
	for n := 0; ; n++ {
		if len(b) < 17 {
			if n >= 2 && len(b) == 0 {
				return yes
			}
			return no
		}
		switch size := be.Uint32(b); {
		case size == 13 && b[4] == 6 && be.Uint32(b[9:])%(1<<14) == 0 && be.Uint32(b[13:]) > 0 && be.Uint32(b[13:]) <= 1<<14:
			if be.Uint32(b[13:]) == 1<<14 {
				return yes
			}
			b = b[17:]
		case size == 9+1<<14 && b[4] == 7 && be.Uint32(b[9:])%(1<<14) == 0:
			return yes
		default:
			return no
		}
	}
}

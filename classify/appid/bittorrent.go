package appid

import "gatehouse/policy"

// BitTorrent: BEP 3 (handshake) and BEP 5 (DHT). Encrypted streams stay unknown.
var (
	bittorrentProtocol = protocol{
		app: policy.AppBitTorrent, tcp: true,
		client: func(v *view) match { return begins(v.c, bittorrentHello) }, server: func(v *view) match { return begins(v.s, bittorrentHello) },
		clientFirsts: oneOf("\x13"), serverFirsts: oneOf("\x13"),
	}
	bittorrentDHTProtocol = protocol{
		app: policy.AppBitTorrent, udp: true,
		client: func(v *view) match { return bittorrentDHT(v.c) }, server: func(v *view) match { return bittorrentDHT(v.s) },
		clientFirsts: oneOf("d"), serverFirsts: oneOf("d"),
	}
)

const bittorrentHello = "\x13BitTorrent protocol"

func bittorrentDHT(b []byte) match {
	if begins(b, "d1:ad2:id20:") == yes || begins(b, "d1:rd2:id20:") == yes {
		return yes
	}
	if begins(b, "d1:eli") == yes || begins(b, "d2:ip") == yes && contains(b, "2:id20:") {
		return fits
	}
	return no
}

package appid

import "gatehouse/policy"

// Consul's own protocol is that of its servers' RPC port (agent/pool/conn.go of
// its sources): a byte for what follows, and then either a request or the frames
// of yamux (hashicorp/yamux spec.md) with one. A request begins with the header of
// net/rpc in MessagePack (hashicorp/net-rpc-msgpackrpc): the method, and a number.
// Only the methods tell it: Nomad has the same frames. Gossip is hashicorp's
// memberlist, which Serf, Alertmanager and Loki speak in the same words: it has
// no name of its own, and stays unknown.
var consulProtocol = protocol{
	app: policy.AppConsul, tcp: true,
	client: consulClient, server: consulServer,
	clientFirsts: oneOf("\x00\x04"), serverFirsts: oneOf("\x00\x83"),
}

const (
	consulRequest   = 0
	consulMultiplex = 4

	yamuxHead = 12

	// What yamux's client opens stream 1 with: version 0, a window update, the flag
	// that opens, the stream, no more window than there is by default.
	yamuxOpen = "\x00\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00"
	// Data of stream 1, to its length.
	yamuxData = "\x00\x00\x00\x00\x00\x00\x00\x01"
)

// consulServices are what methods belong to (agent/consul, registerEndpoint),
// without those that Nomad has too: ACL, Operator, Status.
var consulServices = [...]string{
	"AutoConfig.", "AutoEncrypt.", "Catalog.", "ConfigEntry.", "ConnectCA.", "Coordinate.", "DiscoveryChain.",
	"FederationState.", "Health.", "Intention.", "Internal.", "KVS.", "PreparedQuery.", "Session.", "Txn.",
}

func consulClient(v *view) match {
	b := v.c[1:]
	if v.c[0] == consulRequest {
		return consulMethod(b, v.cFull)
	}
	if m := begins(b, yamuxOpen+yamuxData); m != yes {
		return m
	}
	if b = b[2*yamuxHead-4:]; len(b) < 4 {
		return until(v.cFull)
	}
	size := be.Uint32(b)
	if b = b[4:]; uint64(size) < uint64(len(b)) {
		b = b[:size]
	}
	return consulMethod(b, v.cFull)
}

// consulMethod: a map of two with the method's name, before or after the number.
func consulMethod(b []byte, full bool) match {
	if m := begins(b, "\x82"); m != yes {
		return m
	}
	b = b[1:]
	const number = "\xa3Seq"
	switch begins(b, number) {
	case yes:
		if len(b) == len(number) {
			return until(full)
		}
		b = b[len(number)+1:]
	case more:
		return until(full)
	}
	const method = "\xadServiceMethod"
	if m := begins(b, method); m != yes {
		return m
	}
	b = b[len(method):]
	if len(b) == 0 {
		return until(full)
	}
	if b[0]&0xe0 != 0xa0 { // a string of fewer than 32 bytes
		return no
	}
	size := int(b[0] & 0x1f)
	b = b[1:]
	best := no
	for _, s := range consulServices {
		if len(s) >= size {
			continue
		}
		if m := begins(b, s); m == yes && len(b) >= size {
			return yes
		} else if m != no {
			best = until(full)
		}
	}
	return best
}

// consulServer: the reply's header, which has an error besides; of yamux the
// stream is taken, or data comes with that, or a ping.
func consulServer(v *view) match {
	b := v.s
	if b[0] == 0x83 {
		for _, s := range [...]string{"\x83\xadServiceMethod", "\x83\xa3Seq", "\x83\xa5Error"} {
			if m := begins(b, s); m == yes {
				return fits
			} else if m == more {
				return until(v.sFull)
			}
		}
		return no
	}
	if len(b) < yamuxHead {
		if len(b) > 1 && b[1] > 2 {
			return no
		}
		return until(v.sFull)
	}
	const ping = 2
	kind, flags, stream := b[1], be.Uint16(b[2:]), be.Uint32(b[4:])
	if kind == ping && stream == 0 && (flags == 1 || flags == 2) || kind < ping && stream == 1 && flags <= 2 {
		return fits
	}
	return no
}

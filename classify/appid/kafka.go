package appid

import "gatehouse/policy"

// Apache Kafka protocol: "Protocol Primitive Types" and "Request Header" of the
// Kafka documentation. A request alone is no proof: the response must carry its
// correlation id.
var kafkaProtocol = protocol{
	app: policy.AppKafka, tcp: true,
	client: kafkaRequest, server: kafkaResponse,
	clientFirsts: between(0, 6), serverFirsts: between(0, 6),
}

const (
	kafkaMax        = 100 << 20 // socket.request.max.bytes
	kafkaKeys       = 100
	kafkaVersions   = 20
	kafkaRequestMin = 10 // key, version, correlation id, client id's length
)

func kafkaRequest(v *view) match {
	b := v.c
	if len(b) < 4+kafkaRequestMin {
		return until(v.cFull)
	}
	n := int(be.Uint32(b))
	id := int(int16(be.Uint16(b[12:])))
	if n < kafkaRequestMin || n > kafkaMax || be.Uint16(b[4:]) > kafkaKeys || be.Uint16(b[6:]) > kafkaVersions ||
		id < -1 || id > 255 || kafkaRequestMin+id > n {
		return no
	}
	if id > 0 {
		name := b[14:min(14+id, len(b))]
		if !printable(name) {
			return no
		}
		if len(name) < id {
			return until(v.cFull)
		}
	}
	return fits
}

func kafkaResponse(v *view) match {
	b := v.s
	if len(b) < 8 {
		return until(v.sFull)
	}
	if n := be.Uint32(b); n < 4 || n > kafkaMax {
		return no
	}
	if len(v.c) < 12 {
		return more
	}
	if be.Uint32(b[4:]) != be.Uint32(v.c[8:]) {
		return no
	}
	return fits
}

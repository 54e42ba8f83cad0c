package appid

import "gatehouse/policy"

// Cassandra native protocol: native_protocol_v3.spec to v5.spec sections 2 and
// 4.1 (versions 1 and 2 have a stream number of one byte); nodes greet each
// other with a magic number of their own (MessagingService).
var cassandraProtocol = protocol{
	app: policy.AppCassandra, tcp: true,
	client: cassandraRequest, server: cassandraResponse,
	clientFirsts: between(1, 5).or(oneOf("\x41\x42\xca")), serverFirsts: between(0x81, 0x85).or(oneOf("\xc1\xc2\xca")),
	mid: cassandraFrame,
	attrs: func(v *view, a *Attrs) {
		if rest, ok := after(v.c, "CQL_VERSION"); ok {
			a.Set(AttrVersion, short16(rest))
		}
		if rest, ok := after(v.c, "DRIVER_NAME"); ok {
			a.Set(AttrAgent, short16(rest))
		}
	},
}

const (
	cassandraError     = 0x00
	cassandraStartup   = 0x01
	cassandraReady     = 0x02
	cassandraAuth      = 0x03
	cassandraOptions   = 0x05
	cassandraSupported = 0x06
	cassandraQuery     = 0x07
	cassandraResult    = 0x08
	cassandraPrepare   = 0x09
	cassandraRegister  = 0x0b
	cassandraEvent     = 0x0c
	cassandraGossip    = "\xca\x55\x2d\xfa"
)

// cassandraHeader reads opcode and body length; short while the header is cut.
func cassandraHeader(b []byte) (opcode byte, size int, body []byte, short bool) {
	op := 4
	if b[0]&0x7f < 3 {
		op = 3
	}
	if len(b) < op+5 {
		return 0, 0, nil, true
	}
	return b[op], int(be.Uint32(b[op+1:])), b[op+5:], false
}

func cassandraRequest(v *view) match {
	b := v.c
	if b[0] == cassandraGossip[0] {
		return begins(b, cassandraGossip)
	}
	if len(b) > 1 && b[1]&^0x1f != 0 {
		return no
	}
	opcode, size, body, short := cassandraHeader(b)
	if short {
		return until(v.cFull)
	}
	switch {
	case opcode == cassandraOptions && size == 0:
		return fits
	case opcode == cassandraStartup && size >= 18 && size < 4096:
		// A map of strings that must hold the version of the language.
		if contains(body, "CQL_VERSION") {
			return yes
		}
		if len(body) >= size {
			return no
		}
		return until(v.cFull)
	}
	return no
}

func cassandraResponse(v *view) match {
	b := v.s
	if b[0] == cassandraGossip[0] {
		return begins(b, cassandraGossip)
	}
	if len(b) > 1 && b[1]&^0x1f != 0 {
		return no
	}
	opcode, size, body, short := cassandraHeader(b)
	if short {
		return until(v.sFull)
	}
	switch {
	case opcode == cassandraReady && size == 0,
		opcode == cassandraError && size >= 6 && size < 1<<16, // code and message
		opcode == cassandraAuth && size >= 2 && size < 1<<10,
		opcode == cassandraSupported && size >= 2 && size < 1<<16:
		if opcode == cassandraSupported && contains(body, "CQL_VERSION") || opcode == cassandraAuth && contains(body, "org.apache.cassandra.auth.") {
			return yes
		}
		return fits
	}
	return no
}

// cassandraFrame: sections 4.1.4, 4.1.5 and 4.2.5: a statement as a long string,
// or a result of a known kind, of a length that is the frame's.
func cassandraFrame(b []byte) match {
	v := b[0] & 0x7f
	if v == 0 || v > 5 && v != 0x41 && v != 0x42 || len(b) > 1 && b[1]&^0x1f != 0 {
		return no
	}
	opcode, size, body, short := cassandraHeader(b)
	if short {
		return no
	}
	request := b[0]&0x80 == 0
	switch {
	case request && (opcode == cassandraQuery || opcode == cassandraPrepare):
		if len(body) < 4+6 || size > 1<<26 {
			return no
		}
		n := int(be.Uint32(body))
		if n < 6 || 4+n > size || !alpha(body[4]) || !text(body[4:min(len(body), 4+n)]) {
			return no
		}
		return yes
	case request && opcode == cassandraStartup, request && opcode == cassandraRegister:
		if contains(body, "CQL_VERSION") || contains(body, "_CHANGE") {
			return yes
		}
	case !request && opcode == cassandraResult && len(body) >= 4 && size >= 4 && size < 1<<28:
		if kind := be.Uint32(body); kind >= 1 && kind <= 5 && (len(body) == size || len(body) < size && len(body) > 64) {
			return yes
		}
	case !request && opcode == cassandraSupported, !request && opcode == cassandraEvent:
		if contains(body, "CQL_VERSION") || contains(body, "_CHANGE") {
			return yes
		}
	}
	return no
}

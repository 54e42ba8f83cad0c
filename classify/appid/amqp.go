package appid

import (
	"bytes"

	"gatehouse/policy"
)

// AMQP 0-9-1 (section 4.2.2, protocol header), 0-8, 0-9, 0-10 and 1.0 (OASIS
// 1.0 part 2 section 2.2; TLS and SASL headers in part 5). The header is proof;
// a 0-9-1 server answers with the method connection.start.
var amqpProtocol = protocol{
	app: policy.AppAMQP, tcp: true,
	client: func(v *view) match { return amqpHeader(v.c, v.cFull) }, server: amqpServer,
	clientFirsts: oneOf("A"), serverFirsts: oneOf("A\x01"),
	upgraded: amqpUpgraded, mid: amqpMid, attrs: amqpAttrs, sub: amqpLoginAwaited,
}

const amqpHeaderSize = 8

func amqpHeader(b []byte, full bool) match {
	if m := begins(b, "AMQP"); m != yes {
		return m
	}
	if len(b) < amqpHeaderSize {
		return until(full)
	}
	switch [4]byte(b[4:8]) {
	case [4]byte{0, 0, 9, 1}, // 0-9-1
		[4]byte{1, 1, 0, 10},                     // 0-10
		[4]byte{1, 1, 8, 0}, [4]byte{1, 1, 0, 8}, // 0-8
		[4]byte{1, 1, 0, 9}, [4]byte{1, 1, 9, 0}, [4]byte{1, 1, 9, 1}, // 0-9
		[4]byte{0, 1, 0, 0}, [4]byte{2, 1, 0, 0}, [4]byte{3, 1, 0, 0}: // 1.0, its TLS, its SASL
		return yes
	}
	return no
}

func amqpServer(v *view) match {
	b := v.s
	if b[0] == 'A' {
		if m := amqpHeader(b, v.sFull); m != yes {
			return m
		}
		return fits
	}
	// Frame type 1, channel 0, size, class 10 (connection), method 10 (start), versions.
	const head = "\x01\x00\x00"
	if m := begins(b, head); m != yes {
		return m
	}
	if len(b) < 13 {
		return until(v.sFull)
	}
	if n := be.Uint32(b[3:]); n < 8 || n > 1<<17 || be.Uint32(b[7:]) != 0x000a000a || b[11] > 1 {
		return no
	}
	return yes
}

func amqpUpgraded(v *view) match {
	if len(v.c) < amqpHeaderSize {
		return more
	}
	if v.c[4] != 2 { // protocol id 2: TLS
		return no
	}
	if len(v.c) == amqpHeaderSize {
		return more
	}
	return startsTLS(v.c[amqpHeaderSize:])
}

func amqpMid(b []byte) match {
	if b[0] == 'A' {
		return amqpHeader(b, false)
	}
	if m := amqp1Frame(b); m != no {
		return m
	}
	return amqpFrames(b)
}

// amqp1Frame: 1.0 part 2 section 2.3: size, offset of the body in words, type
// (AMQP or SASL), and a described list whose descriptor is a performative's.
func amqp1Frame(b []byte) match {
	if len(b) < 12 || len(b) == 8 {
		return no
	}
	size, at := int(be.Uint32(b)), int(b[4])*4
	if size < 12 || size > 1<<24 || at != 8 || b[5] > 1 || b[8] != 0 || b[9] != 0x53 {
		return no
	}
	if b[5] == 0 && (b[10] < 0x10 || b[10] > 0x18) || b[5] == 1 && (b[10] < 0x40 || b[10] > 0x44) {
		return no
	}
	if b[11] != 0x45 && b[11] != 0xc0 && b[11] != 0xd0 {
		return no
	}
	return yes
}

// amqpFrames: 0-9-1 section 4.2.3, frames of type, channel, size, payload and
// the octet CE, to the end of the bytes.
func amqpFrames(b []byte) match {
	const head, end = 7, 0xce
	for n := 0; ; n++ {
		if len(b) < head+1 {
			if n > 0 && len(b) == 0 {
				return yes
			}
			return no
		}
		size := int(be.Uint32(b[3:]))
		if b[0] != 1 && b[0] != 2 && b[0] != 3 && b[0] != 8 || size > 1<<20 || b[0] == 8 && size != 0 {
			return no
		}
		// Classes are 10 (connection) to 90 (tx); methods and headers begin with one.
		if b[0] <= 2 && (size < 4 || len(b) < head+2 || be.Uint16(b[head:]) < 10 || be.Uint16(b[head:]) > 90) {
			return no
		}
		if head+size+1 > len(b) {
			if n > 1 {
				return yes
			}
			return more
		}
		if b[head+size] != end {
			return no
		}
		b = b[head+size+1:]
	}
}

// amqpLoginAwaited: there is no API on top, but who logs in shows after the
// headers: for those who have time to wait.
func amqpLoginAwaited(v *view) (policy.App, match) {
	if len(v.c) > amqpHeaderSize && v.c[4] != 2 && !contains(v.c, "\x00\x0a\x00\x28") && !contains(v.c, "\x00\x53\x10") || len(v.c) == amqpHeaderSize {
		return policy.AppNone, until(v.cFull)
	}
	return policy.AppNone, no
}

// amqpAttrs: version, and of 0-9-1 the server's product, the client's, the user of
// PLAIN and the virtual host; of 1.0 the container and the host of open.
func amqpAttrs(v *view, a *Attrs) {
	if amqpHeader(v.c, true) == yes {
		if v.c[5] == 0 && v.c[6] == 9 {
			a.setVersion(0, int(v.c[6]), int(v.c[7]))
		} else {
			a.setVersion(int(v.c[5]), int(v.c[6]))
		}
	}
	a.Set(AttrServer, amqpProperty(v.s, "\x07productS"))
	a.Set(AttrAgent, amqpProperty(v.c, "\x07productS"))
	if rest, ok := after(v.c, "\x05PLAIN"); ok {
		a.Set(AttrUser, plainUser(rest))
	}
	if rest, ok := after(v.c, "\x00\x0a\x00\x28"); ok {
		a.Set(AttrService, short(rest))
	}
	if rest, ok := after(v.c, "\x00\x53\x10"); ok && len(rest) > 10 {
		if i := bytes.IndexByte(rest[:10], 0xa1); i >= 0 {
			id := short(rest[i+1:])
			a.Set(AttrAgent, id)
			if rest = rest[i+2+len(id):]; id != nil && len(rest) > 1 && rest[0] == 0xa1 {
				a.Set(AttrHost, short(rest[1:]))
			}
		}
	}
}

// plainUser is the name in a PLAIN response (RFC 4616), which begins after the
// head of its binary value; the password behind it is not read.
func plainUser(b []byte) []byte {
	for i := 1; i < min(len(b), 6); i++ {
		if b[i] == 0 && i+1 < len(b) && b[i+1] > ' ' {
			return upTo(b[i+1:], "\x00")
		}
	}
	return nil
}

// amqpProperty is a long string of a field table.
func amqpProperty(b []byte, name string) []byte {
	rest, ok := after(b, name)
	if !ok || len(rest) < 4 || rest[0] != 0 || rest[1] != 0 {
		return nil
	}
	return short16(rest[2:])
}

package appid

import "gatehouse/policy"

// MQTT: OASIS MQTT 3.1.1 and 5.0 sections 2.1 (fixed header), 3.1 to 3.15; 3.1 of
// IBM and Eurotech has another name and the same shape. CONNECT is proof, and
// so is any chain of packets in which one carries a topic.
var mqttProtocol = protocol{
	app: policy.AppMQTT, tcp: true,
	client: mqttClient, server: mqttServer,
	clientFirsts: oneOf("\x10\x82\xc0"), serverFirsts: oneOf("\x20\xd0\xf0"),
	mid: mqttMid, attrs: mqttAttrs,
}

const (
	mqttConnectHead = 0x10
	mqttAck         = 0x20
	mqttPingAnswer  = 0xd0
	mqttAuth        = 0xf0
)

// mqttLength reads the variable-length remaining length (section 2.2.3).
func mqttLength(b []byte) (size, n int, m match) {
	for n < 4 {
		if n == len(b) {
			return 0, 0, more
		}
		size |= int(b[n]&0x7f) << (7 * n)
		n++
		if b[n-1] < 0x80 {
			return size, n, yes
		}
	}
	return 0, 0, no
}

func mqttClient(v *view) match {
	if v.c[0] == mqttConnectHead {
		return mqttConnect(v.c, v.cFull)
	}
	if v.c[0] == 0xc0 { // PINGREQ: mid-stream only
		if m := begins(v.c, "\xc0\x00"); m != yes {
			return m
		}
		return fits
	}
	// A broker that needs no CONNECT is not one, but some begin so.
	m, _ := mqttPacket(v.c, v.cFull)
	if m == yes {
		return fits
	}
	return m
}

func mqttConnect(b []byte, full bool) match {
	size, n, m := mqttLength(b[1:])
	if m != yes {
		return m
	}
	b = b[1+n:]
	for _, name := range [...]string{"\x00\x04MQTT", "\x00\x06MQIsdp"} {
		switch begins(b, name) {
		case more:
			return until(full)
		case yes:
			if size < len(name)+6 {
				return no
			}
			if b = b[len(name):]; len(b) < 2 {
				return until(full)
			}
			// Level (bridges set the top bit), flags whose lowest bit is reserved.
			if level := b[0] & 0x7f; level < 3 || level > 5 || b[1]&1 != 0 {
				return no
			}
			return yes
		}
	}
	return no
}

func mqttServer(v *view) match {
	b := v.s
	if b[0] == mqttPingAnswer {
		if m := begins(b, "\xd0\x00"); m != yes {
			return m
		}
		return fits
	}
	size, n, m := mqttLength(b[1:])
	if m != yes {
		return m
	}
	if size < 2 || size > 1<<16 {
		return no
	}
	// CONNACK: session present or nothing, and a code.
	if b[0] == mqttAck {
		if b = b[1+n:]; len(b) < 2 {
			return until(v.sFull)
		}
		if b[0] > 1 {
			return no
		}
	}
	return fits
}

// mqttPacket checks the packet at b's start. It says yes to one that carries a
// topic, fits to an acknowledgement; size is how long it is.
func mqttPacket(b []byte, full bool) (m match, size int) {
	size, n, m := mqttLength(b[min(1, len(b)):])
	if m != yes {
		return m, 0
	}
	if len(b) == 0 {
		return more, 0
	}
	body := b[1+n:]
	whole := 1 + n + size
	if len(body) > size {
		body = body[:size]
	}
	short := func() (match, int) {
		if len(body) < size {
			return until(full), whole
		}
		return no, whole
	}
	switch kind := b[0] >> 4; {
	case kind == 3 && b[0]&6 != 6: // PUBLISH
		if len(body) < 2 {
			return short()
		}
		l := int(be.Uint16(body))
		if 2+l > size || l == 0 || !mqttTopic(body[2:min(2+l, len(body))]) {
			return no, 0
		}
		if len(body) < 2+l {
			return short()
		}
		if l >= 3 {
			return yes, whole
		}
		return fits, whole
	case (b[0] == 0x82 || b[0] == 0xa2) && size >= 5: // SUBSCRIBE, UNSUBSCRIBE
		if len(body) < 5 {
			return short()
		}
		// An identifier, from version 5 on properties, and filters.
		at := 2
		if int(be.Uint16(body[at:])) == 0 || int(be.Uint16(body[at:])) > size-4 {
			at = 3 + int(body[2])
		}
		if at+2 >= len(body) {
			return short()
		}
		l := int(be.Uint16(body[at:]))
		if l == 0 || at+2+l > size || !mqttTopic(body[at+2:min(at+2+l, len(body))]) {
			return no, 0
		}
		return yes, whole
	case (b[0] == 0x40 || b[0] == 0x50 || b[0] == 0x62 || b[0] == 0x70) && size == 2, // PUBACK and its like
		b[0] == 0x90 && size >= 3 && size < 256, b[0] == 0xb0 && size >= 2 && size < 256, // SUBACK, UNSUBACK
		(b[0] == 0xc0 || b[0] == 0xd0 || b[0] == 0xe0) && size == 0,
		b[0] == 0x20 && size >= 2 && size < 256:
		return fits, whole
	case b[0] == mqttConnectHead:
		return mqttConnect(b, full), whole
	}
	return no, 0
}

func mqttTopic(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == 0x7f || c == 0xff {
			return false
		}
	}
	return true
}

// mqttMid: packets to the end of the bytes, of which one carries a topic. One
// alone must end there.
func mqttMid(b []byte) match {
	topic := false
	for n := 0; n < 64; n++ {
		m, size := mqttPacket(b, false)
		if m < fits {
			return m
		}
		topic = topic || m == yes
		if size == len(b) || size > len(b) && n > 0 {
			if topic {
				return yes
			}
			return more
		}
		if size > len(b) {
			return more
		}
		b = b[size:]
	}
	return no
}

// mqttAttrs: of CONNECT level, client id and user (section 3.1.3); the topic of a
// packet that is met mid-stream.
func mqttAttrs(v *view, a *Attrs) {
	b := v.c
	if len(b) == 0 || b[0] != mqttConnectHead {
		return
	}
	_, n, m := mqttLength(b[1:])
	if m != yes {
		return
	}
	b = b[1+n:]
	name := short16(b)
	if name == nil || len(b) < 2+len(name)+4 {
		return
	}
	b = b[2+len(name):]
	level, flags := b[0]&0x7f, b[1]
	a.setVersion(int(level))
	properties := func() bool {
		if level < 5 {
			return true
		}
		size, n, m := mqttLength(b)
		if m != yes || n+size > len(b) {
			return false
		}
		b = b[n+size:]
		return true
	}
	b = b[4:]
	if !properties() {
		return
	}
	id := short16(b)
	if id == nil {
		return
	}
	a.Set(AttrAgent, id)
	b = b[2+len(id):]
	const will, user = 4, 0x80
	if flags&will != 0 {
		if !properties() {
			return
		}
		for range 2 {
			part := short16(b)
			if part == nil {
				return
			}
			b = b[2+len(part):]
		}
	}
	if flags&user != 0 {
		a.Set(AttrUser, short16(b))
	}
}

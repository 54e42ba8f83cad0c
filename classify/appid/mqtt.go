package appid

import "gatehouse/policy"

// MQTT: OASIS MQTT 3.1.1 and 5.0 sections 2.1, 3.1 and 3.2. CONNECT is proof.
var mqttProtocol = protocol{
	app: policy.AppMQTT, tcp: true,
	client: mqttConnect, server: mqttAck,
	clientFirsts: oneOf("\x10"), serverFirsts: oneOf("\x20\xf0"),
}

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

func mqttConnect(v *view) match {
	size, n, m := mqttLength(v.c[1:])
	if m != yes {
		return m
	}
	b := v.c[1+n:]
	for _, name := range [...]string{"\x00\x04MQTT", "\x00\x06MQIsdp"} {
		switch begins(b, name) {
		case more:
			return until(v.cFull)
		case yes:
			if size < len(name)+6 {
				return no
			}
			if b = b[len(name):]; len(b) < 2 {
				return until(v.cFull)
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

func mqttAck(v *view) match {
	size, _, m := mqttLength(v.s[1:])
	if m != yes {
		return m
	}
	if size < 2 || size > 1<<16 {
		return no
	}
	return fits
}

package appid

import "gatehouse/policy"

// Telnet: RFC 854 and 855, option negotiation. At least two commands from each
// side that negotiates; the options' numbers stand in IANA's registry.
var telnetProtocol = protocol{
	app: policy.AppTelnet, tcp: true,
	client:       func(v *view) match { return telnetSide(v.c, v.s, v.cFull) },
	server:       func(v *view) match { return telnetSide(v.s, v.c, v.sFull) },
	clientFirsts: oneOf("\xff\r\n").or(between(' ', '~')), serverFirsts: oneOf("\xff\r\n").or(between(' ', '~')),
	mid: func(b []byte) match {
		if b[0] == 0xff && telnetCommands(b) >= 2 {
			return yes
		}
		return no
	},
}

// telnetCommands counts the complete negotiations at b's start; of those with a
// body counts two, as it has an end of its own.
func telnetCommands(b []byte) (n int) {
	const iac, sb, se, will, dont = 0xff, 0xfa, 0xf0, 0xfb, 0xfe
	for len(b) >= 3 && b[0] == iac && b[2] <= telnetLastOption {
		switch {
		case b[1] >= will && b[1] <= dont:
			n++
			b = b[3:]
		case b[1] == sb:
			i := 3
			for i+1 < len(b) && (b[i] != iac || b[i+1] != se) {
				i++
			}
			if i+1 >= len(b) {
				return n
			}
			n += 2
			b = b[i+2:]
		default:
			return n
		}
	}
	return n
}

// telnetLastOption: 49 options are assigned, then 138 to 140; 255 extends the list.
const telnetLastOption = 49

// telnetTyped is how much one side types before the other has said anything.
const telnetTyped = 64

// telnetSide: one side may negotiate and the other only type.
func telnetSide(b, other []byte, full bool) match {
	if b[0] == 0xff {
		return telnetOptions(b, full)
	}
	switch {
	case !text(b):
		return no
	case len(other) == 0:
		return until(full || len(b) > telnetTyped)
	case other[0] != 0xff:
		return no
	case telnetCommands(other) >= 3:
		return fits
	}
	return until(full)
}

func telnetOptions(b []byte, full bool) match {
	const iac, sb = 0xff, 0xfa
	if len(b) >= 2 && b[1] < sb || len(b) >= 3 && (b[2] > telnetLastOption || b[1] == sb) {
		return no
	}
	switch n := telnetCommands(b); {
	case n >= 3:
		return yes
	case n >= 2:
		return fits
	case len(b) >= 4 && b[3] != iac || len(b) >= 5 && b[4] < sb && b[4] != 0xf1:
		return no
	}
	return until(full)
}

package appid

import "gatehouse/policy"

// Telnet: RFC 854 and 855, option negotiation. At least two commands from each
// side that negotiates; the options' numbers stand in IANA's registry.
var telnetProtocol = protocol{
	app: policy.AppTelnet, tcp: true,
	client:       func(v *view) match { return telnetOptions(v.c, v.cFull) },
	server:       func(v *view) match { return telnetOptions(v.s, v.sFull) },
	clientFirsts: oneOf("\xff"), serverFirsts: oneOf("\xff"),
}

func telnetOptions(b []byte, full bool) match {
	const (
		iac, sb, se = 0xff, 0xfa, 0xf0
		will, dont  = 0xfb, 0xfe
		// 49 options are assigned, then 138 to 140; 255 extends the list.
		lastOption = 49
	)
	n := 0
	for len(b) >= 3 && b[0] == iac {
		switch {
		case b[1] >= will && b[1] <= dont && b[2] <= lastOption:
			n++
			b = b[3:]
		case b[1] == sb && b[2] <= lastOption && n > 0:
			i := 3
			for i+1 < len(b) && (b[i] != iac || b[i+1] != se) {
				i++
			}
			if i+1 >= len(b) {
				return fits
			}
			n++
			b = b[i+2:]
		default:
			return no
		}
	}
	switch {
	case n >= 4:
		return yes
	case n >= 2:
		return fits
	case len(b) > 0 && b[0] != iac:
		return no
	case len(b) > 1 && b[1] < sb:
		return no
	}
	return until(full)
}

package appid

import "gatehouse/policy"

// syslog: RFC 5424 section 6, RFC 3164 section 4.1, over TCP RFC 6587. Nobody
// answers, so that the message is proof by itself: priority, then version and
// date or a date of the old form. RFC 3164 4.3 and practice have more: a year, an
// ISO date (RFC 3339), a sequence number before the date, no date at all.
var (
	syslogProtocol = protocol{
		app: policy.AppSyslog, udp: true,
		client: func(v *view) match { return syslogMessage(v.c, true) }, server: func(*view) match { return no },
		clientFirsts: oneOf("<"),
	}
	syslogTCPProtocol = protocol{
		app: policy.AppSyslog, tcp: true,
		client: syslogStream, server: func(*view) match { return no },
		clientFirsts: oneOf("<").or(between('1', '9')),
	}
)

func syslogStream(v *view) match {
	b := v.c
	if digit(b[0]) {
		// Octet counting: the length, a space, the message.
		_, n := number(b)
		if n > 5 {
			return no
		}
		if n == len(b) {
			return until(v.cFull)
		}
		if b[n] != ' ' {
			return no
		}
		if b = b[n+1:]; len(b) == 0 {
			return until(v.cFull)
		}
	}
	return syslogMessage(b, v.cFull)
}

var syslogMonths = [...]string{"Jan ", "Feb ", "Mar ", "Apr ", "May ", "Jun ", "Jul ", "Aug ", "Sep ", "Oct ", "Nov ", "Dec "}

func syslogMessage(b []byte, full bool) match {
	if b[0] != '<' {
		return no
	}
	b = b[1:]
	pri, n := number(b)
	if n > 3 || pri > 191 {
		return no
	}
	if n == len(b) {
		return until(full)
	}
	if n == 0 || b[n] != '>' {
		return no
	}
	b = b[n+1:]
	const shape = "1 dddd-dd-ddT" // version 1 and a date
	if m := shaped(b, shape); m != no {
		if m == more {
			return until(full)
		}
		return yes
	}
	if m := begins(b, "1 - "); m != no {
		if m == more {
			return until(full)
		}
		return yes
	}
	// The routers' "123: " and "*" before the date.
	if _, n := number(b); n > 0 && begins(b[n:], ": ") == yes {
		b = b[n+2:]
		if len(b) > 0 && (b[0] == '*' || b[0] == '.') {
			b = b[1:]
		}
		if len(b) == 0 {
			return until(full)
		}
	}
	if m := shaped(b, "dddd-dd-dd"); m != no {
		if m == more {
			return until(full)
		}
		if len(b) > 10 && b[10] != 'T' && b[10] != ' ' {
			return no
		}
		return yes
	}
	for _, mon := range syslogMonths {
		switch begins(b, mon) {
		case more:
			return until(full)
		case yes:
			for _, shape := range [...]string{"sd dd:dd:dd", "sd dddd dd:dd:dd", "d dd:dd:dd"} {
				switch shaped(b[4:], shape) {
				case yes:
					return yes
				case more:
					return until(full)
				}
			}
			return no
		}
	}
	return syslogTag(b, full)
}

// syslogTag: a message without a date: a tag in letters, perhaps a number in
// brackets, a colon.
func syslogTag(b []byte, full bool) match {
	i := 0
	for i < len(b) && i < 48 && (alpha(b[i]) || i > 0 && (digit(b[i]) || b[i] == '_' || b[i] == '-' || b[i] == '.' || b[i] == '/' || b[i] == '%')) {
		i++
	}
	if i == len(b) {
		return until(full)
	}
	if i < 2 || i == 48 {
		return no
	}
	if b[i] == '[' {
		_, n := number(b[i+1:])
		if i+1+n >= len(b) {
			return until(full)
		}
		if n == 0 || b[i+1+n] != ']' {
			return no
		}
		if i += n + 2; i == len(b) {
			return until(full)
		}
	}
	if b[i] != ':' || !text(b[i:]) {
		return no
	}
	if len(b) < i+2 {
		return until(full)
	}
	if b[i+1] != ' ' {
		return no
	}
	return yes
}

// shaped compares b with a shape: d is a digit, s a digit or a space.
func shaped(b []byte, shape string) match {
	for i := range len(shape) {
		if i == len(b) {
			return more
		}
		c := b[i]
		switch shape[i] {
		case 'd':
			if !digit(c) {
				return no
			}
		case 's':
			if !digit(c) && c != ' ' {
				return no
			}
		default:
			if c != shape[i] {
				return no
			}
		}
	}
	return yes
}

package appid

import "gatehouse/policy"

// syslog: RFC 5424 section 6, RFC 3164 section 4.1, over TCP RFC 6587. Nobody
// answers, so that the message is proof by itself: priority, then version and
// date or a date of the old form.
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
	for _, mon := range syslogMonths {
		switch begins(b, mon) {
		case more:
			return until(full)
		case yes:
			if m := shaped(b[4:], "sd dd:dd:dd"); m != more {
				return m
			}
			return until(full)
		}
	}
	return no
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

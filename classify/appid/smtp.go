package appid

import "gatehouse/policy"

// SMTP: RFC 5321 sections 3.1 and 4.1.1.1, LMTP RFC 2033, STARTTLS RFC 3207.
// A greeting 220 alone is FTP too: the client's verb tells, or the greeting where
// it says SMTP. Envelope commands are proof.
var smtpProtocol = protocol{
	app: policy.AppSMTP, tcp: true,
	client: smtpHello, server: smtpGreeting,
	clientFirsts: oneOf("EeHhLlAaQqNnRrVvSsMm"), serverFirsts: oneOf("245"),
	upgraded: textUpgrade, next: textNext, lines: true, attrs: smtpAttrs, mid: smtpMid,
}

var smtpVerbs = []string{"EHLO", "HELO", "LHLO", "AUTH LOGIN", "AUTH PLAIN", "AUTH CRAM-MD5"}

// smtpCommands may come first too; FTP has some of them, so that the greeting must
// say what it is.
var smtpCommands = []string{"QUIT", "NOOP", "RSET", "HELP", "VRFY", "EXPN", "STARTTLS", "MAIL", "RCPT", "ETRN", "AUTH"}

func smtpHello(v *view) match {
	m, rest := firstCommand(v, smtpVerbs, smtpCommands, smtpGreeting)
	if m == fits && beginsFold(rest, "MAIL FROM:") == yes {
		return yes
	}
	return m
}

// firstCommand says whether the client's first line is one of the verbs, or where
// the greeting is known one of the commands, as SMTP and FTP have them; rest is
// what follows the line.
func firstCommand(v *view, verbs, commands []string, greeting func(*view) match) (m match, rest []byte) {
	m = word(v.c, verbs)
	if m != yes && len(v.s) > 0 && greeting(v) == yes {
		m = max(m, word(v.c, commands))
	}
	if m != yes {
		return m, nil
	}
	l, rest, ok := line(v.c)
	switch {
	case !ok && (!text(v.c) || len(v.c) > 512):
		return no, nil
	case !ok:
		return until(v.cFull), nil
	case !text(l):
		return no, nil
	}
	return fits, rest
}

func smtpGreeting(v *view) match {
	m := replyCode(v.s, v.sFull, "220", "554", "421")
	if m == fits {
		if l, _, _ := line(v.s); saysSMTP(l) && begins(l, "220") == yes {
			return yes
		}
		switch {
		case len(v.c) == 0 && !v.sFull:
			return more
		case word(v.c, smtpVerbs) == yes:
			return saidReply(v.s, v.sFull, smtpAgrees)
		}
	}
	return m
}

// smtpAgrees: the answer to a hello (RFC 5321 4.1.1.1) or to the start of a login.
func smtpAgrees(code int) bool { return code == 250 || code == 334 || code == 235 || code == 535 }

// saidReply says whether one of a server's replies after its greeting has a code
// that agrees. Greetings of FTP and SMTP may be alike; what they do not know, both
// refuse with one of the codes 500 to 504, and wait for another command.
func saidReply(b []byte, full bool, agrees func(code int) bool) match {
	greeting := true
	for {
		l, rest, ok := line(b)
		if !ok {
			return until(full)
		}
		code, n := number(l)
		last := len(l) == 3 || len(l) > 3 && l[3] != '-'
		if b = rest; n != 3 || greeting || !last {
			greeting = greeting && !(n == 3 && last)
			continue
		}
		if agrees(code) {
			return fits
		}
	}
}

// saysSMTP: the word SMTP, ESMTP or LMTP stands in a greeting.
func saysSMTP(l []byte) bool {
	for _, w := range [...]string{" ESMTP", " SMTP", " LMTP"} {
		if contains(l, w) {
			return true
		}
	}
	return false
}

// smtpMid: envelope commands of a client, and the extensions of a server.
func smtpMid(b []byte) match {
	l, rest, ok := line(b)
	if !ok || !text(l) {
		return no
	}
	switch {
	case beginsFold(l, "MAIL FROM:") == yes, beginsFold(l, "RCPT TO:") == yes:
		return yes
	case beginsFold(l, "EHLO ") == yes, beginsFold(l, "LHLO ") == yes, beginsFold(l, "BDAT ") == yes && len(l) > 5 && digit(l[5]):
		return yes
	case begins(l, "220 ") == yes && saysSMTP(l):
		return yes
	case begins(l, "250-") == yes:
		for n := 0; ok && n < 16; n++ {
			if l, rest, ok = line(rest); !ok || len(l) < 4 {
				return no
			}
			for _, w := range [...]string{"PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "STARTTLS"} {
				if beginsFold(l[4:], w) == yes {
					return yes
				}
			}
		}
	case begins(l, "354 ") == yes && contains(l, "."):
		return yes
	}
	return no
}

// replyCode says whether b begins with a reply line of one of these codes, as
// SMTP and FTP have them: the code, space or hyphen, text.
func replyCode(b []byte, full bool, codes ...string) match {
	best := no
	for _, c := range codes {
		switch begins(b, c) {
		case more:
			best = until(full)
		case yes:
			if len(b) > 3 && b[3] != ' ' && b[3] != '-' && b[3] != '\r' {
				return no
			}
			l, _, ok := line(b)
			if !ok {
				if !text(b) {
					return no
				}
				return until(full)
			}
			if !text(l) {
				return no
			}
			return fits
		}
	}
	return best
}

func greetingAttrs(v *view, a *Attrs) {
	if l, _, ok := line(v.s); ok && len(l) > 4 {
		a.Set(AttrBanner, l[4:])
	}
}

func smtpAttrs(v *view, a *Attrs) {
	greetingAttrs(v, a)
	if l, _, ok := line(v.c); ok && word(v.c, smtpVerbs[:3]) == yes && len(l) > 5 {
		a.Set(AttrAgent, l[5:])
	}
}

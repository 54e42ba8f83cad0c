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
	m := word(v.c, smtpVerbs)
	if m != yes && len(v.s) > 0 && smtpGreeting(v) == yes {
		m = max(m, word(v.c, smtpCommands))
	}
	if m != yes {
		return m
	}
	l, rest, ok := line(v.c)
	if !ok {
		if !text(v.c) || len(v.c) > 512 {
			return no
		}
		return until(v.cFull)
	}
	if !text(l) {
		return no
	}
	if beginsFold(rest, "MAIL FROM:") == yes {
		return yes
	}
	return fits
}

func smtpGreeting(v *view) match {
	m := replyCode(v.s, v.sFull, "220", "554", "421")
	if m == fits {
		if l, _, _ := line(v.s); saysSMTP(l) && begins(l, "220") == yes {
			return yes
		}
	}
	return m
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

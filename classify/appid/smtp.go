package appid

import "gatehouse/policy"

// SMTP: RFC 5321 sections 3.1 and 4.1.1.1, LMTP RFC 2033, STARTTLS RFC 3207.
// A greeting 220 alone is FTP too: the client's verb tells.
var smtpProtocol = protocol{
	app: policy.AppSMTP, tcp: true,
	client: smtpHello, server: smtpGreeting,
	clientFirsts: oneOf("EeHhLlAa"), serverFirsts: oneOf("245"),
	upgraded: textUpgrade, attrs: greetingAttrs,
}

var smtpVerbs = []string{"EHLO", "HELO", "LHLO", "AUTH LOGIN", "AUTH PLAIN", "AUTH CRAM-MD5"}

func smtpHello(v *view) match {
	m := word(v.c, smtpVerbs)
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

func smtpGreeting(v *view) match { return replyCode(v.s, v.sFull, "220", "554", "421") }

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

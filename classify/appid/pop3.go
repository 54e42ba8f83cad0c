package appid

import "gatehouse/policy"

// POP3: RFC 1939 sections 3 and 4, CAPA RFC 2449, STLS RFC 2595. The server
// greets first with +OK, which Redis says too, but never first.
var pop3Protocol = protocol{
	app: policy.AppPOP3, tcp: true,
	client: pop3Command, server: pop3Greeting,
	clientFirsts: oneOf("UuCcAaSsQqRrTtPpNnLl"), serverFirsts: oneOf("+-"),
	upgraded: textUpgrade, next: textNext, lines: true,
	attrs: func(v *view, a *Attrs) {
		if l, _, ok := line(v.s); ok && len(l) > 4 {
			a.Set(AttrBanner, l[4:])
		}
	},
}

var pop3Verbs = []string{"USER", "CAPA", "APOP", "AUTH", "STLS", "QUIT", "PASS", "NOOP", "STAT", "LANG", "UTF8"}

// pop3OwnVerbs are in no other protocol that answers +OK: a client may be met with
// them whose greeting was not.
var pop3OwnVerbs = []string{"CAPA", "APOP", "STLS", "UIDL", "RETR", "TOP", "USER", "PASS"}

func pop3Command(v *view) match {
	verbs := pop3Verbs
	if !v.serverFirst {
		verbs = pop3OwnVerbs
	}
	m := word(v.c, verbs)
	if m == yes {
		return fits
	}
	return m
}

func pop3Greeting(v *view) match {
	if !v.serverFirst && len(v.c) > 0 && word(v.c, pop3OwnVerbs) == no {
		return no
	}
	m := begins(v.s, "+OK")
	if m == no {
		m = begins(v.s, "-ERR")
	}
	if m != yes {
		return m
	}
	l, _, ok := line(v.s)
	if !ok {
		return until(v.sFull)
	}
	if !text(l) {
		return no
	}
	return fits
}

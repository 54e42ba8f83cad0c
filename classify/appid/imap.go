package appid

import (
	"bytes"

	"gatehouse/policy"
)

// IMAP: RFC 9051 sections 2.2 and 7.1. The server greets first with an untagged
// status; the client's lines begin with a tag.
var imapProtocol = protocol{
	app: policy.AppIMAP, tcp: true,
	client: imapCommand, server: imapGreeting,
	clientFirsts: between('!', '~'), serverFirsts: oneOf("*"),
	upgraded: textUpgrade, next: textNext, lines: true, mid: imapMid,
	attrs: func(v *view, a *Attrs) {
		if l, _, ok := line(v.s); ok && len(l) > 5 {
			a.Set(AttrBanner, l[5:])
		}
	},
}

var imapVerbs = []string{"CAPABILITY", "NOOP", "LOGOUT", "STARTTLS", "AUTHENTICATE", "LOGIN", "ID", "SELECT", "EXAMINE", "ENABLE", "NAMESPACE", "LIST", "STATUS", "IDLE"}

func imapCommand(v *view) match {
	i := bytes.IndexByte(v.c[:min(len(v.c), 33)], ' ')
	if i < 0 {
		if len(v.c) > 32 || !printable(v.c) {
			return no
		}
		return until(v.cFull)
	}
	if i == 0 || !printable(v.c[:i]) {
		return no
	}
	m := word(v.c[i+1:], imapVerbs)
	if m == yes {
		return fits
	}
	// Extensions have verbs of their own.
	if l, _, ok := line(v.c); len(v.s) > 0 && imapGreeting(v) == yes && (!ok || text(l) && len(l) > i+1 && alpha(l[i+1])) {
		if ok {
			return fits
		}
		return until(v.cFull)
	}
	return m
}

// imapMid: responses and commands that only this protocol has.
func imapMid(b []byte) match {
	l, _, ok := line(b)
	if !ok || !text(l) || len(l) < 8 {
		return no
	}
	for _, s := range [...]string{"* CAPABILITY IMAP4", "* FLAGS (", "* LIST (", "* LSUB (", "* OK [", "* STATUS ", "* SEARCH ", "* OK IMAP"} {
		if begins(l, s) == yes {
			return yes
		}
	}
	if begins(l, "* ") == yes {
		if _, n := number(l[2:]); n > 0 {
			for _, s := range [...]string{" FETCH (", " EXISTS", " RECENT", " EXPUNGE"} {
				if begins(l[2+n:], s) == yes {
					return yes
				}
			}
		}
		return no
	}
	i := bytes.IndexByte(l[:min(len(l), 16)], ' ')
	if i <= 0 || !printable(l[:i]) || !digit(l[i-1]) {
		return no
	}
	for _, s := range [...]string{"UID FETCH ", "UID STORE ", "UID SEARCH ", "FETCH ", "SELECT ", "EXAMINE ", "CAPABILITY", "NAMESPACE", "AUTHENTICATE "} {
		if beginsFold(l[i+1:], s) == yes {
			return yes
		}
	}
	return no
}

func imapGreeting(v *view) match {
	best := begins(v.s, "* CAPABILITY IMAP4") // the greeting was not met
	if best == yes {
		return yes
	}
	best = min(best, until(v.sFull))
	for _, s := range [...]string{"* OK", "* PREAUTH", "* BYE"} {
		switch begins(v.s, s) {
		case more:
			best = until(v.sFull)
		case yes:
			l, _, ok := line(v.s)
			if !ok {
				return until(v.sFull)
			}
			if len(l) > len(s) && l[len(s)] != ' ' || !text(l) {
				return no
			}
			return yes
		}
	}
	return best
}

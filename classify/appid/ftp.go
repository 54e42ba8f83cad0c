package appid

import "gatehouse/policy"

// FTP control connection: RFC 959 sections 4 and 5, FEAT RFC 2389, AUTH RFC
// 4217. The server greets first; the client's verb tells it from SMTP.
var ftpProtocol = protocol{
	app: policy.AppFTP, tcp: true,
	client: ftpCommand, server: ftpGreeting,
	clientFirsts: between('A', 'Z').or(between('a', 'z')), serverFirsts: oneOf("1245"),
	upgraded: textUpgrade, attrs: greetingAttrs,
}

var ftpVerbs = []string{"USER", "AUTH TLS", "AUTH SSL", "AUTH GSSAPI", "FEAT", "SYST", "OPTS", "CLNT", "PASS", "ACCT", "PBSZ", "REIN"}

func ftpCommand(v *view) match {
	m := word(v.c, ftpVerbs)
	if m != yes {
		return m
	}
	l, _, ok := line(v.c)
	if !ok {
		if !text(v.c) || len(v.c) > 512 {
			return no
		}
		return until(v.cFull)
	}
	if !text(l) {
		return no
	}
	return fits
}

func ftpGreeting(v *view) match { return replyCode(v.s, v.sFull, "220", "120", "421", "530") }

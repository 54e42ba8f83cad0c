package appid

import "gatehouse/policy"

// FTP control connection: RFC 959 sections 4 and 5, FEAT RFC 2389, AUTH RFC
// 4217. The server greets first; the client's verb tells it from SMTP.
var ftpProtocol = protocol{
	app: policy.AppFTP, tcp: true,
	client: ftpCommand, server: ftpGreeting,
	clientFirsts: between('A', 'Z').or(between('a', 'z')), serverFirsts: oneOf("1245"),
	upgraded: textUpgrade, next: textNext, lines: true, attrs: ftpAttrs, mid: ftpMid,
}

var ftpVerbs = []string{"USER", "AUTH TLS", "AUTH SSL", "AUTH GSSAPI", "FEAT", "SYST", "OPTS", "CLNT", "PASS", "ACCT", "PBSZ", "REIN", "HOST", "PWD", "PASV", "TYPE"}

// ftpCommands may come first too; SMTP has some of them, so that the greeting must
// say what it is.
var ftpCommands = []string{"QUIT", "NOOP", "HELP", "STAT", "SITE", "MODE", "STRU", "PORT", "EPSV", "EPRT", "LANG", "CWD", "XPWD", "LIST", "SIZE", "ADAT", "PROT", "CCC", "ALLO", "REST", "ABOR"}

func ftpCommand(v *view) match {
	m, _ := firstCommand(v, ftpVerbs, ftpCommands, ftpGreeting)
	return m
}

func ftpGreeting(v *view) match {
	m := replyCode(v.s, v.sFull, "220", "120", "421", "530")
	if m == fits {
		if l, _, _ := line(v.s); begins(l, "220") == yes && contains(l, "FTP") && !saysSMTP(l) {
			return yes
		}
		switch {
		case len(v.c) == 0 && !v.sFull:
			return more
		case word(v.c, ftpVerbs) == yes:
			return saidReply(v.s, v.sFull, ftpAgrees)
		}
	}
	return m
}

// ftpAgrees: replies to first commands that SMTP does not have: to a user's name
// and password, to AUTH, FEAT, SYST, PWD and settings (RFC 959 5.4, RFC 4217 4).
func ftpAgrees(code int) bool {
	switch code {
	case 200, 202, 211, 215, 227, 230, 232, 234, 257, 331, 332, 334, 530, 534:
		return true
	}
	return false
}

// ftpMid: commands and replies that only this protocol has: ports in six
// numbers, transfers.
func ftpMid(b []byte) match {
	l, _, ok := line(b)
	if !ok || !text(l) {
		return no
	}
	switch {
	case begins(l, "227 ") == yes && contains(l, "("), begins(l, "229 ") == yes && contains(l, "(|||"):
		return yes
	case begins(l, "150 ") == yes && contains(l, "connection"), begins(l, "226 ") == yes && contains(l, "ransfer"):
		return yes
	case beginsFold(l, "PORT ") == yes && commas(l[5:]) == 5, beginsFold(l, "EPRT |") == yes:
		return yes
	case begins(l, "220 ") == yes && contains(l, "FTP") && !saysSMTP(l):
		return yes
	}
	return no
}

func commas(b []byte) int {
	n := 0
	for _, c := range b {
		switch {
		case c == ',':
			n++
		case !digit(c):
			return -1
		}
	}
	return n
}

func ftpAttrs(v *view, a *Attrs) {
	greetingAttrs(v, a)
	if rest, ok := after(v.c, "USER "); ok {
		a.Set(AttrUser, upTo(rest, "\r\n"))
	}
}

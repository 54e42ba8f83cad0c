package appid

import (
	"bytes"

	"gatehouse/policy"
)

// MySQL and MariaDB client/server protocol: "Connection Phase" of the MySQL
// internals documentation (HandshakeV10, ERR_Packet, HandshakeResponse41,
// SSLRequest). The server speaks first, and its greeting is proof.
var mysqlProtocol = protocol{
	app: policy.AppMySQL, tcp: true,
	client: mysqlLogin, server: mysqlGreeting,
	clientFirsts: anyByte(), serverFirsts: anyByte(),
	upgraded: mysqlUpgraded, attrs: mysqlAttrs,
}

const (
	mysqlHead        = 4 // LE24 length, sequence number
	mysqlProtocol10  = 10
	mysqlError       = 0xff
	mysqlSSLBody     = 32
	mysqlClientSSL   = 0x800
	mysqlProtocol41  = 0x200
	mysqlPacketLimit = 1 << 16 // of a login; far below the protocol's own 16 MiB
)

func le24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

func mysqlGreeting(v *view) match {
	b := v.s
	for i, c := range b[:min(len(b), 5)] {
		if i == 2 && c != 0 || i == 3 && c > 1 || i == 4 && c != mysqlProtocol10 && c != mysqlError {
			return no
		}
	}
	if len(b) < 7 {
		return until(v.sFull)
	}
	n := le24(b)
	body := b[mysqlHead:min(mysqlHead+n, len(b))]
	if n < 7 || n > 1024 {
		return no
	}
	if b[4] == mysqlError {
		// Refused before the greeting: "Host is blocked", "Too many connections".
		if code := le.Uint16(b[5:]); code < 1040 || code > 1159 || !text(body[3:]) {
			return no
		}
		if len(body) < n {
			return until(v.sFull)
		}
		return yes
	}
	if b[3] != 0 || !digit(b[5]) {
		return no
	}
	end := bytes.IndexByte(body, 0)
	if end < 0 {
		if !printable(body[1:]) {
			return no
		}
		return until(v.sFull)
	}
	if end < 4 || !printable(body[1:end]) {
		return no
	}
	// Connection id 4, first part of the challenge 8, NUL.
	nul := end + 1 + 4 + 8
	if nul >= n {
		return no
	}
	if nul >= len(body) {
		return until(v.sFull)
	}
	if body[nul] != 0 {
		return no
	}
	return yes
}

func mysqlLogin(v *view) match {
	b := v.c
	if len(b) < mysqlHead {
		return until(v.cFull)
	}
	n := le24(b)
	if b[3] != 1 || n < 5 || n > mysqlPacketLimit {
		return no
	}
	if len(b) < mysqlHead+4 {
		return until(v.cFull)
	}
	if le.Uint32(b[mysqlHead:])&mysqlProtocol41 == 0 && n < 6 {
		return no
	}
	return fits
}

func mysqlUpgraded(v *view) match {
	if len(v.c) < mysqlHead+mysqlSSLBody {
		return more
	}
	if le24(v.c) != mysqlSSLBody || le.Uint32(v.c[mysqlHead:])&mysqlClientSSL == 0 {
		return no
	}
	rest := v.c[mysqlHead+mysqlSSLBody:]
	if len(rest) == 0 {
		return more
	}
	return startsTLS(rest)
}

func mysqlAttrs(v *view, a *Attrs) {
	if len(v.s) < 6 || v.s[4] != mysqlProtocol10 {
		return
	}
	if end := bytes.IndexByte(v.s[5:], 0); end > 0 {
		a.Set(AttrVersion, v.s[5:5+end])
	}
}

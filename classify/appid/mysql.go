package appid

import (
	"bytes"

	"gatehouse/policy"
)

// MySQL and MariaDB client/server protocol: "Connection Phase" of the MySQL
// internals documentation (HandshakeV10, ERR_Packet, HandshakeResponse41 and 320,
// SSLRequest), "Text Protocol" for queries. The server speaks first, and its
// greeting is proof; so is a login with its filler of zeros. The X protocol
// (mysqlx.proto) begins with a notice of the server.
var mysqlProtocol = protocol{
	app: policy.AppMySQL, tcp: true,
	client: mysqlLogin, server: mysqlGreeting,
	clientFirsts: anyByte(), serverFirsts: anyByte(),
	upgraded: mysqlUpgraded, attrs: mysqlAttrs, mid: mysqlMid,
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

// mysqlXHello: length 5, type NOTICE, a frame of type 5 (server hello).
const mysqlXHello = "\x05\x00\x00\x00\x0b\x08\x05\x1a\x00"

func le24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

func mysqlGreeting(v *view) match {
	b := v.s
	if m := begins(b, mysqlXHello); m == yes || m == more && len(b) > 3 {
		return m
	}
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
	if begins(v.s, mysqlXHello) == yes {
		// Length, type: capabilities, or authentication.
		if len(b) < 5 {
			return until(v.cFull)
		}
		if n := le.Uint32(b); n >= 1 && n < 1<<16 && b[4] >= 1 && b[4] <= 4 {
			return fits
		}
		return no
	}
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
	if le.Uint32(b[mysqlHead:])&mysqlProtocol41 == 0 {
		if n < 6 {
			return no
		}
		return fits
	}
	body := b[mysqlHead:min(mysqlHead+n, len(b))]
	if len(body) < mysqlSSLBody {
		if len(v.s) > 0 || len(body) == n {
			return fits
		}
		return until(v.cFull)
	}
	// Capabilities, packet limit, character set, filler (MariaDB has capabilities
	// of its own in its last four bytes), user.
	if zero(body[9:9+19]) && le.Uint32(body[4:]) <= 1<<30 && body[8] != 0 {
		return yes
	}
	return fits
}

// mysqlVerbs begin statements.
var mysqlVerbs = []string{"SELECT", "INSERT", "UPDATE", "DELETE", "SHOW", "SET", "BEGIN", "COMMIT", "ROLLBACK", "CREATE", "DROP", "ALTER", "USE", "WITH", "CALL", "OPTIMIZE", "ANALYZE", "PREPARE", "EXECUTE", "SAVEPOINT", "XA", "DO", "REPLACE", "START TRANSACTION", "EXPLAIN", "DESCRIBE", "DESC", "LOAD DATA", "TRUNCATE", "LOCK TABLES", "UNLOCK TABLES", "KILL", "GRANT", "FLUSH"}

// mysqlMid: commands, and answers with the first numbers of their sequence.
func mysqlMid(b []byte) match {
	// Compressed packets that are not: both lengths, then the packet.
	if len(b) > 11 && b[3] == 0 && b[4]|b[5]|b[6] == 0 && le24(b) == le24(b[7:])+mysqlHead {
		b = b[7:]
	}
	if len(b) < 9 {
		return no
	}
	n, body := le24(b), b[mysqlHead:]
	switch b[3] {
	case 0:
		if mysqlCommand(n, body) {
			return yes
		}
	case 1:
		if mysqlAnswer(n, body) {
			return yes
		}
	}
	return no
}

// mysqlCommand: a query or a statement to prepare, of text that is SQL; the
// execution of one, once.
func mysqlCommand(n int, body []byte) bool {
	const query, prepare, execute = 3, 0x16, 0x17
	if n < len(body) {
		return false
	}
	switch body[0] {
	case query, prepare:
		sql := body[1:]
		if body[1] == 0 && body[2] == 1 { // query attributes: none, one set
			sql = sql[2:]
		}
		if begins(sql, "/*") == yes {
			if rest, ok := after(sql, "*/"); ok {
				sql = rest
			}
		}
		for len(sql) > 0 && (sql[0] == ' ' || sql[0] == '\n' || sql[0] == '\r' || sql[0] == '\t' || sql[0] == '(') {
			sql = sql[1:]
		}
		return word(sql, mysqlVerbs) == yes && text(sql[:min(len(sql), 64)])
	case execute:
		return n >= 10 && len(body) >= 10 && body[5] <= 4 && le.Uint32(body[6:]) == 1 && le.Uint32(body[1:]) < 1<<24
	}
	return false
}

// mysqlAnswer: OK (affected rows, id, status, warnings), an error with its state,
// or a result: how many columns, and the first one's definition, whose catalog
// is "def".
func mysqlAnswer(n int, body []byte) bool {
	switch {
	case body[0] == 0 && n == 7 && len(body) >= 7:
		return le.Uint16(body[3:])&^0x7fff == 0 && le.Uint16(body[3:])&0x3 != 0 && le.Uint16(body[5:]) == 0 && len(body) == 7
	case body[0] == mysqlError && n >= 9 && len(body) >= 9:
		return body[3] == '#' && printable(body[4:9])
	case n == 1 && body[0] > 0 && body[0] < 0xfb && len(body) >= 9:
		return body[4] == 2 && string(body[5:9]) == "\x03def"
	}
	return false
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
	if len(v.s) >= 6 && v.s[4] == mysqlProtocol10 {
		if end := bytes.IndexByte(v.s[5:], 0); end > 0 {
			a.Set(AttrVersion, v.s[5:5+end])
		}
	}
	const connectWithDB, secure, lengthCoded = 8, 0x8000, 0x200000
	if len(v.c) <= mysqlHead+mysqlSSLBody || v.c[3] != 1 {
		return
	}
	caps, b := le.Uint32(v.c[mysqlHead:]), v.c[mysqlHead+mysqlSSLBody:]
	if caps&mysqlProtocol41 == 0 || le24(v.c) <= mysqlSSLBody {
		return
	}
	user := upTo(b, "\x00")
	if user == nil {
		return
	}
	a.Set(AttrUser, user)
	b = b[len(user)+1:]
	switch {
	case caps&connectWithDB == 0 || len(b) == 0:
		return
	case caps&(secure|lengthCoded) != 0:
		b = b[min(len(b), 1+int(b[0])):]
	default:
		b = b[min(len(b), 1+len(upTo(b, "\x00"))):]
	}
	a.Set(AttrDatabase, upTo(b, "\x00"))
}

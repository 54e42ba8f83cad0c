package appid

import "gatehouse/policy"

// TDS, Microsoft SQL Server's and Sybase's: MS-TDS 2.2.3.1 (packet header),
// 2.2.6.5 (PRELOGIN), 2.2.6.4 (LOGIN7), 2.2.5.3 (ALL_HEADERS) and 2.2.7 (tokens);
// the login record of 4.2 and 5.0 is in Sybase's "TDS 5.0 Functional
// Specification". TLS is carried inside its packets; TDS 8 is direct TLS with ALPN.
var tdsProtocol = protocol{
	app: policy.AppTDS, tcp: true,
	client: tdsClient, server: tdsServer,
	clientFirsts: oneOf("\x12\x10\x02"), serverFirsts: oneOf("\x04"),
	mid: tdsPacket, upgraded: tdsUpgraded, attrs: tdsAttrs, sub: tdsLoginAwaited,
}

// The browser of SQL Server: MC-SQLR 2.2. One request, one answer.
var tdsBrowserProtocol = protocol{
	app: policy.AppTDS, udp: true,
	client:       func(v *view) match { return tdsBrowserRequest(v.c) },
	server:       func(v *view) match { return tdsBrowserAnswer(v.s) },
	clientFirsts: oneOf("\x02\x03\x04\x0f"), serverFirsts: oneOf("\x05"),
}

const (
	tdsHead     = 8
	tdsBatch    = 0x01
	tdsLogin    = 0x02 // 4.2 and 5.0
	tdsRPC      = 0x03
	tdsReply    = 0x04
	tdsCancel   = 0x06
	tdsBulk     = 0x07
	tdsTrans    = 0x0e
	tdsQuery5   = 0x0f // 5.0
	tdsLogin7   = 0x10
	tdsSSPI     = 0x11
	tdsPrelogin = 0x12
	tdsSizeMax  = 32767
)

// tdsHeader reads a packet's header: type, status, length, SPID, packet id, window.
func tdsHeader(b []byte, full bool) (size int, m match) {
	if len(b) < tdsHead {
		if len(b) > 1 && b[1]&^0x1f != 0 {
			return 0, no
		}
		return 0, until(full)
	}
	size = int(be.Uint16(b[2:]))
	if b[1]&^0x1f != 0 || size < tdsHead || size > tdsSizeMax || b[7] != 0 {
		return 0, no
	}
	return size, yes
}

func tdsClient(v *view) match {
	b := v.c
	n, m := tdsHeader(b, v.cFull)
	if m != yes {
		return m
	}
	body := b[tdsHead:min(n, len(b))]
	switch b[0] {
	case tdsPrelogin:
		return tdsOptions(body, n-tdsHead, v.cFull)
	case tdsLogin7:
		// Length of the whole record, then the version: 7.0 to 7.4.
		if len(body) < 8 {
			return until(v.cFull)
		}
		if size := le.Uint32(body); size < 94 || size > 1<<17 || b[1]&1 != 0 && int(size) != n-tdsHead || !tdsVersion7(le.Uint32(body[4:])) {
			return no
		}
		return yes
	}
	// Names of host, user, password and process, each of 30 bytes and its length.
	const fields = 4 * 31
	if n < 512 && n < tdsHead+fields {
		return no
	}
	if len(body) < fields {
		return until(v.cFull)
	}
	for i := 0; i < fields; i += 31 {
		used := int(body[i+30])
		if used > 30 || !printable(body[i:i+used]) {
			return no
		}
	}
	if body[30] == 0 && body[61] == 0 {
		return no
	}
	return yes
}

func tdsVersion7(v uint32) bool {
	switch v {
	case 0x70000000, 0x70000001, 0x00000070, 0x00000071, 0x71000000, 0x71000001, 0x72090002, 0x730a0003, 0x730b0003, 0x74000004, 0x08000000:
		return true
	}
	return v>>24 == 0x07 && v&0xffff == 0
}

func tdsServer(v *view) match {
	b := v.s
	n, m := tdsHeader(b, v.sFull)
	if m != yes {
		return m
	}
	body := b[tdsHead:min(n, len(b))]
	if len(body) == 0 {
		return until(v.sFull)
	}
	if body[0] == 0 {
		return tdsOptions(body, n-tdsHead, v.sFull)
	}
	// Refused or answered without PRELOGIN.
	if tdsTokens(body, n-tdsHead) {
		return fits
	}
	return no
}

// tdsOptions reads PRELOGIN's list of token, offset, length; VERSION comes first
// and has 6 bytes.
func tdsOptions(body []byte, size int, full bool) match {
	for i := 0; ; i++ {
		if len(body) < i*5+1 {
			return until(full)
		}
		if body[i*5] == 0xff {
			if i == 0 {
				return no
			}
			return yes
		}
		if len(body) < i*5+5 {
			return until(full)
		}
		off, l := int(be.Uint16(body[i*5+1:])), int(be.Uint16(body[i*5+3:]))
		if off+l > size || i == 0 && (body[0] != 0 || l != 6) || i > 16 {
			return no
		}
	}
}

// tdsPacket: any packet of a session: a batch, call, answer, bulk load,
// transaction request or attention.
func tdsPacket(b []byte) match {
	n, m := tdsHeader(b, false)
	if m != yes {
		return m
	}
	if n < len(b) && b[0] != tdsReply && b[0] != b[n] {
		return no
	}
	body := b[tdsHead:min(n, len(b))]
	ok := false
	switch b[0] {
	case tdsCancel:
		ok = n == tdsHead && b[1] == 1 && len(b) == n && b[6] == 1
	case tdsReply:
		ok = tdsTokens(body, n-tdsHead)
	case tdsRPC:
		ok = tdsCall(tdsSkipHeaders(body))
	case tdsBatch, tdsTrans:
		rest := tdsSkipHeaders(body)
		ok = len(rest) < len(body) && (b[0] == tdsTrans && len(rest) >= 2 && rest[1] == 0 && rest[0] <= 9 || utf16Text(rest)) || b[0] == tdsBatch && utf16Text(body)
	}
	if ok {
		return yes
	}
	if len(body) < 32 && len(body) < n-tdsHead {
		return more
	}
	return no
}

// tdsSkipHeaders steps over ALL_HEADERS (7.2 and later): its length, and
// headers of length and type 1 to 3.
func tdsSkipHeaders(b []byte) []byte {
	if len(b) < 10 {
		return b
	}
	total, size, kind := le.Uint32(b), le.Uint32(b[4:]), le.Uint16(b[8:])
	if total < 10 || total > 1024 || int(total) > len(b) || size > total-4 || kind < 1 || kind > 3 {
		return b
	}
	return b[total:]
}

// tdsCall: a procedure's name, or ffff and the number of a well-known one.
func tdsCall(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	n := int(le.Uint16(b))
	if n == 0xffff {
		return le.Uint16(b[2:]) >= 1 && le.Uint16(b[2:]) <= 15 && len(b) >= 6 && le.Uint16(b[4:]) <= 0x1f
	}
	return n >= 1 && n <= 523 && len(b) >= 2+min(2*n, 8) && utf16Text(b[2:min(len(b), 2+2*n)])
}

// utf16Text: the first characters are of Latin script, little-endian.
func utf16Text(b []byte) bool {
	b = b[:min(len(b), 32)]
	for i := 0; i+1 < len(b); i += 2 {
		if b[i+1] > 1 || b[i+1] == 0 && (b[i] < ' ' && b[i] != '\t' && b[i] != '\r' && b[i] != '\n' || b[i] == 0x7f) {
			return false
		}
	}
	return len(b) >= 6
}

// tdsTokens walks a tabular result as far as its tokens give their length
// (2.2.7); the last one of a whole answer is DONE.
func tdsTokens(b []byte, size int) bool {
	whole := len(b) == size
	for n := 0; len(b) > 0; n++ {
		switch kind := b[0]; kind {
		case 0xaa, 0xab, 0xad, 0xe3, 0xed, 0xa4, 0xa5, 0xa9, 0xe2, 0xe5: // error, info, login, change, SSPI, names, order
			if len(b) < 3 {
				return n > 0
			}
			l := 3 + int(le.Uint16(b[1:]))
			if l > size || l < 4 {
				return false
			}
			if l > len(b) {
				return n > 0 || kind == 0xaa || kind == 0xab || kind == 0xe3
			}
			b = b[l:]
		case 0x79: // return status
			if len(b) < 5 {
				return n > 0
			}
			b = b[5:]
		case 0xfd, 0xfe, 0xff: // done: status, command, rows of 8 or of 4 bytes
			if len(b) < 5 || le.Uint16(b[1:])&^0x1ff != 0 || le.Uint16(b[3:]) > 0x1ff {
				return false
			}
			return len(b) == 9 || len(b) >= 13
		case 0x81: // columns
			return len(b) >= 3 && (le.Uint16(b[1:]) == 0xffff || le.Uint16(b[1:]) >= 1 && le.Uint16(b[1:]) <= 1024) && tdsEndsDone(b, whole)
		default:
			return false
		}
	}
	return true
}

// tdsEndsDone: a whole answer ends with DONE, DONEPROC or DONEINPROC.
func tdsEndsDone(b []byte, whole bool) bool {
	if !whole {
		return true
	}
	for _, l := range [...]int{13, 9} {
		if len(b) >= l && b[len(b)-l] >= 0xfd && le.Uint16(b[len(b)-l+1:])&^0x1ff == 0 {
			return true
		}
	}
	return false
}

func tdsBrowserRequest(b []byte) match {
	switch {
	case len(b) == 1 && (b[0] == 2 || b[0] == 3):
		return fits
	case b[0] == 4, b[0] == 0x0f && len(b) > 2 && b[1] == 1:
		name := b[1:]
		if b[0] == 0x0f {
			name = b[2:]
		}
		// An instance's name of at most 32 bytes and NUL.
		if n := len(name) - 1; n >= 1 && n <= 32 && name[n] == 0 && printable(name[:n]) {
			return fits
		}
	}
	return no
}

func tdsBrowserAnswer(b []byte) match {
	if len(b) == 6 && le.Uint16(b[1:]) == 6 && b[3] == 1 {
		return fits // the port of the dedicated administrator connection
	}
	if len(b) > 14 && int(le.Uint16(b[1:])) == len(b)-3 && begins(b[3:], "ServerName;") == yes {
		return yes
	}
	return no
}

// tdsUpgraded: 2.2.6.5, option ENCRYPTION. What the server answers counts: 1 and 3
// are for the whole connection, with 0 only the login is encrypted. The handshake
// is carried in packets of the prelogin's type.
func tdsUpgraded(v *view) match {
	n, m := tdsHeader(v.c, v.cFull)
	if m != yes || v.c[0] != tdsPrelogin {
		return no
	}
	answer, m := tdsEncryption(v.s, v.sFull)
	switch {
	case m != yes:
		return m
	case answer != 1 && answer != 3:
		return no
	case len(v.c) <= n+tdsHead:
		return until(v.cFull)
	case v.c[n] != tdsPrelogin:
		return no
	}
	return startsTLS(v.c[n+tdsHead:])
}

// tdsEncryption is the option's value in a prelogin answer; yes once it is there.
func tdsEncryption(b []byte, full bool) (value byte, m match) {
	const token, end = 1, 0xff
	if len(b) < tdsHead {
		return 0, until(full)
	}
	b = b[tdsHead:]
	for i := 0; i+5 <= len(b) && b[i] != end; i += 5 {
		if b[i] != token {
			continue
		}
		at := int(be.Uint16(b[i+1:]))
		if at >= len(b) {
			return 0, until(full)
		}
		return b[at], yes
	}
	return 0, until(full)
}

// tdsLoginAwaited: there is no API on top, but who logs in shows after PRELOGIN
// where it is in clear: for those who have time to wait.
func tdsLoginAwaited(v *view) (policy.App, match) {
	if n, m := tdsHeader(v.c, v.cFull); m == yes && v.c[0] == tdsPrelogin && len(v.c) <= n {
		return policy.AppNone, until(v.cFull)
	}
	return policy.AppNone, no
}

// tdsAttrs: the server's version in its PRELOGIN, and what LOGIN7 (or the login of
// 4.2 and 5.0) says in clear; never the password.
func tdsAttrs(v *view, a *Attrs) {
	if len(v.s) > tdsHead+5 && v.s[0] == tdsReply && v.s[tdsHead] == 0 {
		if at := tdsHead + int(be.Uint16(v.s[tdsHead+1:])); at+6 <= len(v.s) {
			a.setVersion(int(v.s[at]), int(v.s[at+1]), int(be.Uint16(v.s[at+2:])))
		}
	}
	for b := v.c; len(b) > tdsHead; {
		n := int(be.Uint16(b[2:]))
		body := b[tdsHead:min(len(b), max(tdsHead, n))]
		switch b[0] {
		case tdsLogin7:
			for _, f := range [...]struct {
				at  int
				key Attr
			}{{40, AttrUser}, {48, AttrAgent}, {68, AttrDatabase}} {
				if len(body) < f.at+4 {
					return
				}
				at, size := int(le.Uint16(body[f.at:])), 2*int(le.Uint16(body[f.at+2:]))
				if at+size <= len(body) {
					a.setUTF16(f.key, body[at:at+size])
				}
			}
			return
		case tdsLogin:
			if len(body) >= 62 && body[61] <= 30 {
				a.Set(AttrUser, body[31:31+body[61]])
			}
			return
		}
		if n < tdsHead || n > len(b) {
			return
		}
		b = b[n:]
	}
}

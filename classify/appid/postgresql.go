package appid

import (
	"bytes"

	"gatehouse/policy"
)

// PostgreSQL frontend/backend protocol 3: "Message Formats" of the PostgreSQL
// documentation (StartupMessage, SSLRequest, GSSENCRequest, CancelRequest,
// AuthenticationXXX, ErrorResponse, NegotiateProtocolVersion). The client's
// first message is proof.
var postgresqlProtocol = protocol{
	app: policy.AppPostgreSQL, tcp: true,
	client: postgresqlStartup, server: postgresqlReply,
	clientFirsts: oneOf("\x00"), serverFirsts: oneOf("RSNEvG"),
	upgraded: postgresqlUpgraded, attrs: postgresqlAttrs, mid: postgresqlMessages,
}

const (
	postgresqlCancel = 80877102
	postgresqlSSL    = 80877103
	postgresqlGSS    = 80877104
)

func postgresqlStartup(v *view) match {
	b := v.c
	if len(b) < 8 {
		// The length is small and the code's first byte is 0 (version 3) or 4.
		if len(b) >= 2 && b[1] != 0 || len(b) >= 5 && b[4] != 0 && b[4] != 4 {
			return no
		}
		return until(v.cFull)
	}
	n, code := int(be.Uint32(b)), be.Uint32(b[4:])
	switch code {
	case postgresqlSSL, postgresqlGSS:
		if n == 8 {
			return yes
		}
		return no
	case postgresqlCancel:
		if n >= 16 && n <= 268 {
			return yes
		}
		return no
	}
	if code>>16 != 3 || code&0xffff > 9999 || n < 9 || n > 10000 {
		return no
	}
	// Names and values, each ended by NUL, and an empty name at the end.
	body := b[8:min(n, len(b))]
	for i := 0; len(body) > 0; i++ {
		if i == 0 && body[0] == 0 {
			return no
		}
		end := bytes.IndexByte(body, 0)
		if end < 0 {
			if !text(body) {
				return no
			}
			return until(v.cFull)
		}
		if !text(body[:end]) {
			return no
		}
		if i == 1 {
			return yes
		}
		body = body[end+1:]
	}
	if len(b) >= n {
		return no
	}
	return until(v.cFull)
}

func postgresqlReply(v *view) match {
	b := v.s
	// One letter answers a request for encryption, or begins an error.
	if len(v.c) >= 8 && b[0] != 'E' {
		switch be.Uint32(v.c[4:]) {
		case postgresqlSSL, postgresqlGSS:
			if b[0] == 'S' || b[0] == 'N' || b[0] == 'G' {
				return fits
			}
			return no
		}
	}
	if len(b) < 5 {
		return until(v.sFull)
	}
	n := int(be.Uint32(b[1:]))
	switch b[0] {
	case 'R':
		if n < 8 || n > 1<<16 {
			return no
		}
		if len(b) < 9 {
			return until(v.sFull)
		}
		if postgresqlAuth(be.Uint32(b[5:]), n) {
			return yes
		}
	case 'E', 'N':
		if n < 5 || n > 1<<16 {
			return no
		}
		if postgresqlFields(b[5:min(len(b), 1+n)]) {
			return yes
		}
		return fits
	case 'v', 'S':
		if n >= 5 && n <= 1<<16 {
			return fits
		}
	}
	return no
}

// postgresqlAuth: the requests for authentication and their lengths.
func postgresqlAuth(code uint32, n int) bool {
	switch code {
	case 0, 2, 3, 6, 7, 9: // ok, Kerberos, password, SCM, GSS, SSPI
		return n == 8
	case 4: // crypt
		return n == 10
	case 5: // MD5
		return n == 12
	case 8, 10, 11, 12: // GSS and SASL
		return true
	}
	return false
}

// postgresqlFields: of an error or a notice: severity, in words, then others.
func postgresqlFields(b []byte) bool {
	if len(b) < 6 || b[0] != 'S' {
		return false
	}
	end := bytes.IndexByte(b, 0)
	return end > 3 && end < 24 && text(b[1:end]) && end+1 < len(b) && (b[end+1] == 'V' || b[end+1] == 'C')
}

// postgresqlUpgraded: after SSLRequest and the server's S comes a ClientHello,
// or after its N the startup message in clear.
func postgresqlUpgraded(v *view) match {
	if len(v.c) < 8 {
		return more
	}
	if c := be.Uint32(v.c[4:]); c != postgresqlSSL && c != postgresqlGSS {
		return no
	}
	rest := v.c[8:]
	// A GSS request may be refused and an SSL request follow, and the other way.
	if len(rest) >= 8 && (be.Uint32(rest[4:]) == postgresqlSSL || be.Uint32(rest[4:]) == postgresqlGSS) {
		rest = rest[8:]
	}
	if len(rest) == 0 {
		return more
	}
	return startsTLS(rest)
}

// postgresqlMessages: messages of type, length and body. At the end of the bytes
// stands what ends a turn (Query, Sync, Terminate, ReadyForQuery), or they are
// cut in a message after others.
func postgresqlMessages(b []byte) match {
	for seen := 0; ; seen++ {
		if len(b) < 5 {
			if seen >= 4 {
				return yes
			}
			return no
		}
		n := int(be.Uint32(b[1:]))
		if n < 4 || n > 1<<24 || !postgresqlBody(b[0], n, b[5:min(len(b), 1+max(n, 4))]) {
			return no
		}
		if 1+n < len(b) {
			b = b[1+n:]
			continue
		}
		if 1+n > len(b) {
			if seen >= 3 {
				return yes
			}
			return more
		}
		switch b[0] {
		case 'Q':
			if n > 5 && b[n] == 0 && text(b[5:n]) {
				return yes
			}
		case 'S', 'X':
			if n == 4 {
				return yes
			}
		case 'Z':
			return yes
		case 'E':
			if postgresqlFields(b[5:]) {
				return yes
			}
		}
		if seen >= 3 {
			return yes
		}
		return more
	}
}

// postgresqlBody checks what types have in their body; body may be cut.
func postgresqlBody(kind byte, n int, body []byte) bool {
	switch kind {
	case 'Z':
		return n == 5 && len(body) > 0 && (body[0] == 'I' || body[0] == 'T' || body[0] == 'E')
	case '1', '2', '3', 'n', 's', 'I', 'c', 'H', 'X': // complete, no data, suspended, empty, done, flush, terminate
		return n == 4
	case 'T', 'D', 't': // rows: how many columns or parameters
		return n >= 6 && len(body) >= 2 && be.Uint16(body) <= 1664
	case 'C': // complete, or close
		return n >= 6 && n < 128 && len(body) > 0 && (body[0] >= 'A' && body[0] <= 'Z')
	case 'Q', 'P', 'B', 'E', 'N', 'S', 'K', 'A', 'd', 'f', 'p', 'R', 'W', 'G', 'V':
		return true
	}
	return false
}

func postgresqlAttrs(v *view, a *Attrs) {
	b := v.c
	for len(b) >= 16 && (be.Uint32(b[4:]) == postgresqlSSL || be.Uint32(b[4:]) == postgresqlGSS) {
		b = b[8:]
	}
	if len(b) >= 9 && be.Uint32(b[4:])>>16 == 3 {
		for b = b[8:min(len(b), max(8, int(be.Uint32(b))))]; ; {
			name := upTo(b, "\x00")
			if len(name) == 0 {
				break
			}
			b = b[len(name)+1:]
			value := upTo(b, "\x00")
			if value == nil {
				break
			}
			switch string(name) {
			case "user":
				a.Set(AttrUser, value)
			case "database":
				a.Set(AttrDatabase, value)
			case "application_name":
				a.Set(AttrAgent, value)
			}
			b = b[len(value)+1:]
		}
	}
	if rest, ok := after(v.s, "server_version\x00"); ok {
		a.Set(AttrVersion, upTo(rest, "\x00"))
	}
}

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
	upgraded: postgresqlUpgraded, mid: postgresqlMessages,
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
		if be.Uint32(b[5:]) <= 12 {
			return fits
		}
	case 'E', 'v', 'N', 'S':
		if n >= 5 && n <= 1<<16 {
			return fits
		}
	}
	return no
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

// postgresqlMessages: messages of type, length and body to the end of the
// bytes, of which the last is what ends a client's or server's turn: Query,
// Sync, ReadyForQuery.
func postgresqlMessages(b []byte) match {
	for {
		if len(b) < 5 {
			return no
		}
		n := int(be.Uint32(b[1:]))
		if !alpha(b[0]) && !digit(b[0]) || n < 4 || n > 1<<24 {
			return no
		}
		if 1+n < len(b) {
			b = b[1+n:]
			continue
		}
		if 1+n > len(b) {
			return no
		}
		switch b[0] {
		case 'Q':
			if n > 5 && b[n] == 0 && text(b[5:n]) {
				return yes
			}
		case 'S':
			if n == 4 {
				return yes
			}
		case 'Z':
			if n == 5 && (b[5] == 'I' || b[5] == 'T' || b[5] == 'E') {
				return yes
			}
		}
		return no
	}
}

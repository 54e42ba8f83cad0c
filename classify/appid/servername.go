package appid

import (
	"bytes"

	"gatehouse/policy"
)

// ServerName is what the client's side says of the server that it is for: the
// server name of a TLS hello, the host of an HTTP request. Without ok it may
// still come. The text is borrowed from what is kept, or from room, which is
// overwritten. An encrypted hello says the name on its outside; the inner one
// nobody sees. A stream that was met in its middle says none any more.
func (s *State) ServerName(room *Attrs) (name policy.ServerName, ok bool) {
	app := s.outcome.Spoken.App
	switch {
	case s.mid || s.depth > 0:
		return policy.ServerName{}, true
	case app == policy.AppQUIC: // its clients say it, but for those that do not want it read
		return s.attrName(AttrSNI, policy.NameHidden, room)
	case app == policy.AppDTLS:
		return s.attrName(AttrSNI, policy.NameUnread, room)
	case app == policy.AppTLS:
		return tlsServerName(s.look(s.reversed), room)
	case app.Is(policy.AppHTTP2):
		return s.attrName(AttrHost, policy.NameHidden, room)
	case app.Is(policy.AppHTTP):
		return httpServerName(s.look(s.reversed))
	case app == policy.AppUnknown && !s.udp && mayNameServer(s.look(false).c):
		return policy.ServerName{State: policy.NameHidden}, true
	}
	return policy.ServerName{}, true
}

// mayNameServer reports whether what a client has sent of an unknown stream is the
// beginning of a hello or of a request that was never finished here: the rest, which
// says the name, may come when nobody reads it any more.
func mayNameServer(c []byte) bool {
	if len(c) > 0 && c[0] == recordHandshake {
		return len(c) < 2 || c[1] == 3
	}
	c = bytes.TrimLeft(c, "\r\n")
	first, _, whole := line(c)
	if whole {
		return bytes.Contains(first, []byte(" HTTP/"))
	}
	method, _, _ := bytes.Cut(c, []byte{' '})
	for _, b := range method {
		if b < 'A' || b > 'Z' {
			return false
		}
	}
	return len(method) > 0
}

// attrName is a name that the protocol's own reader found; otherwise, for now, what
// the absence means.
func (s *State) attrName(k Attr, absent policy.NameState, room *Attrs) (name policy.ServerName, ok bool) {
	s.Attrs(room)
	if host := room.Get(k); len(host) > 0 {
		return policy.ServerName{State: policy.NameGiven, Text: withoutPort(host)}, true
	}
	return policy.ServerName{State: absent}, false
}

func tlsServerName(v *view, room *Attrs) (name policy.ServerName, ok bool) {
	*room = Attrs{}
	h, _ := clientHello(v.c, room)
	sni := room.Get(AttrSNI)
	switch {
	case h.short && !v.cFull:
		return policy.ServerName{State: policy.NameHidden}, false
	case h.short || h.bad || len(v.c) > 0 && v.c[0] >= 0x80 && len(sni) == 0:
		return policy.ServerName{State: policy.NameHidden}, true
	case len(sni) == 0:
		return policy.ServerName{State: policy.NameNone}, true
	}
	return policy.ServerName{State: policy.NameGiven, Text: sni}, true
}

// httpServerName reads the head of the first request (RFC 9112 3.2): a target
// with a host of its own goes before the Host field, and must not differ from it.
func httpServerName(v *view) (name policy.ServerName, ok bool) {
	hidden := policy.ServerName{State: policy.NameHidden}
	first, rest, ok := line(bytes.TrimLeft(v.c, "\r\n"))
	if !ok {
		return hidden, v.cFull
	}
	host, given := targetHost(first)
	for {
		var l []byte
		if l, rest, ok = line(rest); !ok {
			return hidden, v.cFull
		}
		if len(l) == 0 {
			break
		}
		if l[0] == ' ' || l[0] == '\t' { // a field that goes on, which some read and some do not
			return hidden, true
		}
		key, value, _ := bytes.Cut(l, []byte{':'})
		if !bytes.EqualFold(bytes.TrimSpace(key), []byte("host")) {
			continue
		}
		value = withoutPort(bytes.TrimSpace(value))
		if given && !bytes.EqualFold(host, value) {
			return hidden, true
		}
		host, given = value, true
	}
	if !given || len(host) == 0 {
		return policy.ServerName{State: policy.NameNone}, true
	}
	return policy.ServerName{State: policy.NameGiven, Text: host}, true
}

// targetHost is the host of a request line whose target has one: of the form
// http://HOST/..., or of CONNECT HOST:PORT.
func targetHost(l []byte) (host []byte, ok bool) {
	method, target, _ := bytes.Cut(l, []byte{' '})
	target, _, _ = bytes.Cut(target, []byte{' '})
	if bytes.Equal(method, []byte("CONNECT")) {
		return withoutPort(target), true
	}
	_, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok || target[0] == '/' {
		return nil, false
	}
	if i := bytes.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	return withoutPort(rest[bytes.LastIndexByte(rest, '@')+1:]), true
}

func withoutPort(b []byte) []byte {
	if i := bytes.LastIndexByte(b, ':'); i >= 0 && bytes.IndexByte(b, ']') < i {
		return b[:i]
	}
	return b
}

package appid

import (
	"iter"

	"gatehouse/policy"
)

// Attr names one thing that may be shown of a flow beside its application.
type Attr uint8

const (
	AttrSNI      Attr = iota // server name of a TLS hello
	AttrALPN                 // application protocols of a TLS hello, comma separated
	AttrECH                  // there is an encrypted ClientHello: "outer" is all that SNI is
	AttrHost                 // host that is asked for: HTTP's Host or :authority, a name that is looked up
	AttrMethod               // request method or command
	AttrPath                 // request target
	AttrVersion              // of the protocol or the server
	AttrServer               // server software
	AttrAgent                // client software
	AttrUser                 // login name, where it is in clear
	AttrDatabase             // that the login asks for
	AttrService              // gRPC service, share, topic, queue: what is called within the application
	AttrBanner               // greeting, as the server wrote it
	AttrTarget               // where a tunnel leads (CONNECT, SOCKS)
	AttrEntropy              // of what is unknown: bits a byte
	attrCount
)

var attrNames = [attrCount]string{
	"sni", "alpn", "ech", "host", "method", "path", "version", "server", "agent", "user", "database", "service", "banner", "target", "entropy",
}

// String is the key under which the value is shown.
func (k Attr) String() string {
	if k < attrCount {
		return attrNames[k]
	}
	return "unknown"
}

const (
	attrMax   = 255  // bytes of one value
	attrsRoom = 1024 // of all
)

// Attrs are what may be shown of a flow beside its application: bounded copies,
// as the peers wrote them; escape before printing. The zero value is empty.
// Nothing allocates.
type Attrs struct {
	buf  [attrsRoom]byte
	used uint16
	at   [attrCount]uint16
	size [attrCount]uint8
}

// Get is the value of k, nil if there is none; valid until a changes.
func (a *Attrs) Get(k Attr) []byte {
	if k >= attrCount || a.size[k] == 0 {
		return nil
	}
	return a.buf[a.at[k]:][:a.size[k]]
}

// All yields the keys that have a value, with it.
func (a *Attrs) All() iter.Seq2[Attr, []byte] {
	return func(yield func(Attr, []byte) bool) {
		for k := range attrCount {
			if a.size[k] > 0 && !yield(k, a.Get(k)) {
				return
			}
		}
	}
}

// Set gives k a value, cut to what there is room for; the first one stays.
func (a *Attrs) Set(k Attr, value []byte) {
	if k >= attrCount || a.size[k] != 0 {
		return
	}
	n := copy(a.buf[a.used:], value[:min(len(value), attrMax)])
	a.at[k], a.size[k] = a.used, uint8(n)
	a.used += uint16(n)
}

// add appends to a comma separated list. Only the key that was set last grows.
func (a *Attrs) add(k Attr, value []byte) {
	if a.size[k] == 0 {
		a.Set(k, value)
		return
	}
	if int(a.at[k])+int(a.size[k]) != int(a.used) || int(a.used) == len(a.buf) {
		return
	}
	room := a.buf[a.used:min(len(a.buf), int(a.at[k])+attrMax)]
	if len(room) < 2 {
		return
	}
	room[0] = ','
	n := 1 + copy(room[1:], value)
	a.size[k] += uint8(n)
	a.used += uint16(n)
}

// Sub is what runs on top of the protocol, as it is printed: the API that
// statements can name, else the gRPC service, else the HTTP server's product.
func (a *Attrs) Sub(s policy.Spoken) string {
	switch {
	case s.Sub != policy.AppNone:
		return s.Sub.String()
	case s.App == policy.AppGRPC:
		return string(a.Get(AttrService))
	case s.App.Is(policy.AppHTTP):
		return string(a.Get(AttrServer))
	}
	return ""
}

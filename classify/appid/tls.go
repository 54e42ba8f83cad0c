package appid

import "gatehouse/policy"

// TLS: RFC 8446 sections 4.1, 4.2 and 5.1, RFC 5246, SNI RFC 6066 section 3,
// ALPN RFC 7301; the SSLv2 form of a hello RFC 5246 appendix E.2. A ClientHello
// is proof and so is a ServerHello. Hellos are read across records and
// segments: those with post-quantum key shares never fit one segment.
var tlsProtocol = protocol{
	app: policy.AppTLS, tcp: true,
	client: tlsClient, server: tlsServer,
	clientFirsts: oneOf("\x16").or(between(0x80, 0x82)), serverFirsts: oneOf("\x15\x16\x80\x81\x82\x83\x84\x85\x86\x87"),
	mid: tlsRecords, alpn: tlsALPN, attrs: tlsAttrs, holds: tlsHolds,
}

const (
	recordChangeCipher = 20
	recordAlert        = 21
	recordHandshake    = 22
	recordData         = 23
	recordHead         = 5
	recordMax          = 1<<14 + 2048 // RFC 5246 6.2.3: ciphertext

	helloRequest = 0
	helloClient  = 1
	helloServer  = 2

	extServerName = 0
	extALPN       = 16
	extECH        = 0xfe0d
)

var echOuter = []byte("outer")

// hello reads a handshake message across its records. A read past what is there
// makes it short; one past a bound that the message itself gives makes it bad.
type hello struct {
	b          []byte
	rec        int // bytes left in this record
	left       int // bytes left in the message
	short, bad bool
}

func (h *hello) u8() int {
	if h.short || h.bad {
		return 0
	}
	for h.rec == 0 {
		if len(h.b) < recordHead {
			h.short = true
			return 0
		}
		n := int(be.Uint16(h.b[3:]))
		if h.b[0] != recordHandshake || h.b[1] != 3 || h.b[2] > 4 || n == 0 || n > recordMax {
			h.bad = true
			return 0
		}
		h.b, h.rec = h.b[recordHead:], n
	}
	if h.left == 0 {
		h.bad = true
		return 0
	}
	if len(h.b) == 0 {
		h.short = true
		return 0
	}
	c := h.b[0]
	h.b = h.b[1:]
	h.rec--
	h.left--
	return int(c)
}

func (h *hello) u16() int { return h.u8()<<8 | h.u8() }
func (h *hello) u24() int { return h.u16()<<8 | h.u8() }

func (h *hello) skip(n int) {
	for n > 0 && !h.short && !h.bad {
		if step := min(n, h.rec, h.left, len(h.b)); step > 0 {
			h.b = h.b[step:]
			h.rec -= step
			h.left -= step
			n -= step
			continue
		}
		h.u8()
		n--
	}
}

func (h *hello) result(full bool) match {
	switch {
	case h.bad:
		return no
	case h.short && !full:
		return more
	}
	// A hello longer than what is kept has been consistent all the way.
	return yes
}

// clientHello walks a ClientHello. It copies names into a (if not nil), and
// returns the application that ALPN announces: AppNone without that extension.
func clientHello(b []byte, a *Attrs) (h hello, app policy.App) {
	h = hello{b: b, left: 4}
	app = h.client(a, false)
	return h, app
}

// bareHandshake is the length of the record that a handshake without records is in.
const bareHandshake = 1 << 30

// client walks a ClientHello from its message's head on. In DTLS the message has
// numbers of its own after its length and a cookie after the session.
func (h *hello) client(a *Attrs, datagrams bool) (app policy.App) {
	if kind := h.u8(); kind != helloClient && !h.short {
		h.bad = true
	}
	n := h.u24()
	if h.short || h.bad {
		return app
	}
	if h.left = n; datagrams {
		h.left += 8
		h.skip(8)
	}
	major, minor := h.u8(), h.u8()
	if !datagrams && !h.short && (major != 3 || minor > 4) {
		h.bad = true
	}
	h.skip(32)
	session := h.u8()
	if session > 32 {
		h.bad = true
	}
	h.skip(session)
	if datagrams {
		h.skip(h.u8())
	}
	suites := h.u16()
	if !h.short && (suites == 0 || suites%2 != 0) {
		h.bad = true
	}
	h.skip(suites)
	methods := h.u8()
	if !h.short && methods == 0 {
		h.bad = true
	}
	h.skip(methods)
	if h.left == 0 || h.short || h.bad {
		return app
	}
	if total := h.u16(); !h.short && total != h.left {
		h.bad = true
	}
	for h.left > 0 && !h.short && !h.bad {
		kind, size := h.u16(), h.u16()
		if size > h.left && !h.short {
			h.bad = true
		}
		if h.short || h.bad {
			break
		}
		end := h.left - size
		switch {
		case kind == extServerName && a != nil && size >= 5:
			h.serverName(size, a)
		case kind == extALPN && size >= 3:
			app = h.alpn(size, a)
		case kind == extECH && a != nil:
			a.Set(AttrECH, echOuter)
		}
		if h.left > end {
			h.skip(h.left - end)
		}
	}
	return app
}

// serverName reads the extension's body: list length 2, type 0 (host name), name length 2.
func (h *hello) serverName(size int, a *Attrs) {
	h.u16()
	if h.u8() != 0 {
		return
	}
	n := h.u16()
	var name [253]byte
	if n > size-5 || n > len(name) {
		return
	}
	for i := range n {
		name[i] = byte(h.u8())
	}
	if !h.short && !h.bad {
		a.Set(AttrSNI, name[:n])
	}
}

// alpn reads the extension's body. The answer is the first name that app-ID
// knows; a list without one announces something else than any of them.
func (h *hello) alpn(size int, a *Attrs) policy.App {
	app := policy.AppUnknown
	var name [32]byte
	for left := min(h.u16(), size-2); left > 0; {
		n := h.u8()
		if left -= 1 + n; left < 0 {
			break
		}
		for i := range n {
			if c := h.u8(); i < len(name) {
				name[i] = byte(c)
			}
		}
		if h.short || h.bad || n == 0 || n > len(name) {
			continue
		}
		if known, ok := alpnApps[string(name[:n])]; ok && app == policy.AppUnknown {
			app = known
		}
		if a != nil {
			a.add(AttrALPN, name[:n])
		}
	}
	return app
}

func tlsClient(v *view) match {
	b := v.c
	if b[0] >= 0x80 {
		return sslv2Hello(b, v.cFull)
	}
	for i, c := range b[:min(len(b), 6)] {
		if i == 1 && c != 3 || i == 2 && c > 4 || i == 5 && c != helloClient {
			return no
		}
	}
	h, _ := clientHello(b, nil)
	return h.result(v.cFull)
}

// sslv2Hello: two-byte length with the top bit set, type 1, version 3.x, or
// 2.0, which a server must still answer, cipher specs in threes, session id 0 or 16, challenge 16 to 32.
func sslv2Hello(b []byte, full bool) match {
	if len(b) >= 3 && b[2] != helloClient || len(b) >= 4 && b[3] != 3 && b[3] != 0 || len(b) >= 5 && b[4] > 3 || len(b) >= 5 && b[3] == 0 && b[4] != 2 {
		return no
	}
	if len(b) < 11 {
		return until(full)
	}
	n := int(be.Uint16(b)&0x7fff) - 9
	specs, session, challenge := int(be.Uint16(b[5:])), int(be.Uint16(b[7:])), int(be.Uint16(b[9:]))
	if specs == 0 || specs%3 != 0 || session != 0 && session != 16 || challenge < 16 || challenge > 32 || specs+session+challenge != n {
		return no
	}
	if b[3] == 0 {
		return fits
	}
	return yes
}

func tlsServer(v *view) match {
	b := v.s
	if b[0] >= 0x80 {
		// An SSLv2 ServerHello answers only an SSLv2 hello.
		if len(v.c) > 0 && v.c[0] >= 0x80 && (len(b) < 3 || b[2] == 4) {
			return fits
		}
		return no
	}
	if len(b) >= 2 && b[1] != 3 || len(b) >= 3 && b[2] > 4 {
		return no
	}
	if b[0] == recordAlert {
		if len(b) < 7 {
			return until(v.sFull)
		}
		if be.Uint16(b[3:]) != 2 || b[5] != 1 && b[5] != 2 {
			return no
		}
		return fits
	}
	if len(b) < 6 {
		return until(v.sFull)
	}
	if b[5] == helloRequest {
		return fits
	}
	if b[5] != helloServer {
		return no
	}
	h := hello{b: b, left: 4}
	h.u8()
	h.left = h.u24()
	if major := h.u8(); major != 3 && !h.short {
		h.bad = true
	}
	h.u8()
	h.skip(32)
	if session := h.u8(); session > 32 {
		h.bad = true
	} else {
		h.skip(session)
	}
	h.skip(3)
	return h.result(v.sFull)
}

// tlsRecords: records of an established session, one that ends where the bytes
// end or several that follow each other.
func tlsRecords(b []byte) match {
	for n := 0; ; n++ {
		if len(b) < recordHead {
			if n > 0 && len(b) == 0 || n > 1 {
				return yes
			}
			return more
		}
		size := int(be.Uint16(b[3:]))
		if b[0] < recordChangeCipher || b[0] > recordData || b[1] != 3 || b[2] > 3 || size == 0 || size > recordMax {
			return no
		}
		if recordHead+size > len(b) {
			if n > 0 || b[0] == recordData && b[2] == 3 || tlsHandshakes(b, size) {
				return yes
			}
			return more
		}
		b = b[recordHead+size:]
	}
}

// tlsHandshakes: a record that is cut begins with a handshake message of a known
// type that is not longer than some certificates' chains are.
func tlsHandshakes(b []byte, size int) bool {
	if b[0] != recordHandshake || len(b) < recordHead+64 || size < 64 {
		return false
	}
	switch b[5] {
	case helloClient, helloServer, 11, 12, 16, 22: // certificate, key exchanges, status
		return b[6] == 0 && int(be.Uint16(b[7:])) >= 32
	}
	return false
}

// alpnApps are the registered names (IANA, TLS ALPN protocol ids) of what app-ID knows.
var alpnApps = map[string]policy.App{
	"http/1.1": policy.AppHTTP, "http/1.0": policy.AppHTTP, "http/0.9": policy.AppHTTP, "h2": policy.AppHTTP2, "h2c": policy.AppHTTP2,
	"h3": policy.AppQUIC, "doq": policy.AppDNS, "grpc-exp": policy.AppGRPC, "spdy/3.1": policy.AppHTTP2, "spdy/3": policy.AppHTTP2, "spdy/2": policy.AppHTTP2,
	"imap": policy.AppIMAP, "pop3": policy.AppPOP3, "ftp": policy.AppFTP, "smtp": policy.AppSMTP, "mqtt": policy.AppMQTT, "x-amzn-mqtt-ca": policy.AppMQTT,
	"postgresql": policy.AppPostgreSQL, "tds/8.0": policy.AppTDS, "dot": policy.AppDNS, "sip/2": policy.AppSIP,
	"stun.turn": policy.AppSTUN, "stun.nat-discovery": policy.AppSTUN, "xmpp-client": policy.AppXMPP, "xmpp-server": policy.AppXMPP,
	"smb": policy.AppSMB, "amqp": policy.AppAMQP, "ldap": policy.AppLDAP,
}

func tlsALPN(v *view) policy.App {
	_, app := clientHello(v.c, nil)
	return app
}

func tlsAttrs(v *view, a *Attrs) { clientHello(v.c, a) }

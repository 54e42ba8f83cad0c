package appid

import (
	"bytes"
	"net/netip"

	"gatehouse/policy"
)

// Announcement is a flow that a control conversation says will come: towards its
// announcer, from the other side.
type Announcement struct {
	By    Dir        // whose port it is
	Addr  netip.Addr // that the announcer named; invalid if it named none
	Port  uint16
	Proto policy.Proto
	App   policy.App // ftp-data, rtp or rtcp
}

// Announcer reads the lines of a control conversation (FTP, SIP, RTSP) for what
// they announce. It keeps the unfinished line of each direction and nothing
// else. For one flow and one goroutine; nothing allocates.
type Announcer struct {
	app   policy.App
	udp   bool
	lines [2]lineReader
	media [2]sdpMedia
	found [announceMax]Announcement
	n     int
}

// announceMax is how many announcements one packet may make; more are not heard.
const announceMax = 8

// lineMax is the longest line that is read.
const lineMax = 512

// lineReader puts the lines of one direction together, in order.
type lineReader struct {
	next   uint32 // sequence number of the byte to come
	based  bool
	skip   bool // up to the next line's beginning
	n      uint16
	unread [lineMax]byte
}

// sdpMedia is where the session description being read has come (RFC 8866).
type sdpMedia struct {
	addr netip.Addr // of the session
	port uint16     // of the current media, 0 = none
}

// Announces reports whether conversations of app may announce others.
func Announces(app policy.App) bool {
	return app == policy.AppFTP || app == policy.AppSIP || app == policy.AppRTSP
}

// Reset makes a ready for a new control conversation.
func (a *Announcer) Reset(app policy.App, proto policy.Proto) {
	a.app, a.udp = app, proto == policy.ProtoUDP
	for d := range a.lines {
		a.lines[d].based, a.lines[d].skip, a.lines[d].n = false, false, 0
		a.media[d] = sdpMedia{}
	}
}

// Adopt reads what s has kept of a flow that was named.
func (a *Announcer) Adopt(s *State) []Announcement {
	a.n = 0
	for d := range s.dir {
		a.read(Dir(d), s.dir[d].base, s.kept(Dir(d))[:s.dir[d].n])
	}
	return a.found[:a.n]
}

// Feed reads one packet's payload; seq is its TCP sequence number. What comes
// out of order is not read, up to the line after it. The result is valid until
// the next call.
func (a *Announcer) Feed(dir Dir, seq uint32, payload []byte) []Announcement {
	a.n = 0
	a.read(dir, seq, payload)
	return a.found[:a.n]
}

func (a *Announcer) read(dir Dir, seq uint32, payload []byte) {
	r := &a.lines[dir]
	if a.udp {
		r.n, r.skip = 0, false
		a.media[dir] = sdpMedia{}
	} else if payload = r.inOrder(seq, payload); len(payload) == 0 {
		return
	}
	for len(payload) > 0 {
		l, rest, ok := line(payload)
		switch {
		case !ok:
			if len(payload) > lineMax-int(r.n) {
				r.n, r.skip = 0, true
				return
			}
			r.n += uint16(copy(r.unread[r.n:], payload))
			return
		case r.skip:
			r.skip = false
		case r.n == 0:
			a.line(dir, l)
		case len(l) <= lineMax-int(r.n):
			n := int(r.n) + copy(r.unread[r.n:], l)
			a.line(dir, bytes.TrimSuffix(r.unread[:n], []byte("\r")))
		}
		r.n, payload = 0, rest
	}
}

// inOrder cuts off what was read before.
func (r *lineReader) inOrder(seq uint32, payload []byte) []byte {
	if !r.based {
		r.next, r.based = seq, true
	}
	ahead := int(int32(seq - r.next))
	switch {
	case ahead > 0:
		r.n, r.skip = 0, true
	case -ahead >= len(payload):
		return nil
	default:
		payload = payload[-ahead:]
		seq -= uint32(ahead)
	}
	r.next = seq + uint32(len(payload))
	return payload
}

func (a *Announcer) line(dir Dir, l []byte) {
	switch a.app {
	case policy.AppFTP:
		a.ftp(dir, l)
	case policy.AppSIP:
		a.sdp(dir, l)
	case policy.AppRTSP:
		a.rtsp(dir, l)
	}
}

// announce notes a flow to a port that no well-known service has: what opens
// those is no data connection.
func (a *Announcer) announce(by Dir, addr netip.Addr, port int, proto policy.Proto, app policy.App) {
	const lowest = 1024
	if port < lowest || port > 0xffff || a.n == len(a.found) {
		return
	}
	a.found[a.n] = Announcement{by, addr, uint16(port), proto, app}
	a.n++
}

// ftp: PORT and the answer 227 to PASV (RFC 959 4.1.2), EPRT and the answer 229 to
// EPSV (RFC 2428). What address the server names does not matter: clients are
// told not to believe it.
func (a *Announcer) ftp(dir Dir, l []byte) {
	data := func(by Dir, addr netip.Addr, port int) {
		a.announce(by, addr, port, policy.ProtoTCP, policy.AppFTPData)
	}
	switch {
	case dir == FromServer && begins(l, "227 ") == yes:
		if _, port, ok := hostPort(l[4:]); ok {
			data(dir, netip.Addr{}, port)
		}
	case dir == FromServer && begins(l, "229 ") == yes:
		if i := bytes.IndexByte(l, '('); i >= 0 {
			if _, port, ok := extendedPort(l[i+1:]); ok {
				data(dir, netip.Addr{}, port)
			}
		}
	case dir == FromClient && beginsFold(l, "PORT ") == yes:
		if addr, port, ok := hostPort(l[5:]); ok {
			data(dir, addr, port)
		}
	case dir == FromClient && beginsFold(l, "EPRT ") == yes:
		if addr, port, ok := extendedPort(bytes.TrimLeft(l[5:], " ")); ok && addr.IsValid() {
			data(dir, addr, port)
		}
	}
}

// hostPort reads h1,h2,h3,h4,p1,p2, wherever in the line it begins.
func hostPort(b []byte) (addr netip.Addr, port int, ok bool) {
	for len(b) > 0 && !digit(b[0]) {
		b = b[1:]
	}
	var v [6]byte
	for i := range v {
		x, n := number(b)
		if n == 0 || x > 255 || i < 5 && (len(b) == n || b[n] != ',') {
			return addr, 0, false
		}
		v[i] = byte(x)
		b = b[min(n+1, len(b)):]
	}
	return netip.AddrFrom4([4]byte(v[:4])), int(v[4])<<8 | int(v[5]), true
}

// extendedPort reads |family|address|port|, of which the first two may be empty;
// the bar may be any printable character.
func extendedPort(b []byte) (addr netip.Addr, port int, ok bool) {
	if len(b) == 0 {
		return addr, 0, false
	}
	bar := b[0]
	_, b, ok1 := cut(b[1:], bar)
	host, b, ok2 := cut(b, bar)
	digits, _, ok3 := cut(b, bar)
	port, n := number(digits)
	if !ok1 || !ok2 || !ok3 || n == 0 || n != len(digits) {
		return addr, 0, false
	}
	addr, ok = address(host)
	return addr, port, ok || len(host) == 0
}

// sdp: the connection address and the ports of media over RTP (RFC 8866 5.7 and
// 5.14; a=rtcp RFC 3605; rtcp-mux needs nothing more).
func (a *Announcer) sdp(dir Dir, l []byte) {
	m := &a.media[dir]
	switch {
	case begins(l, "v=0") == yes:
		*m = sdpMedia{}
	case begins(l, "c=IN IP4 ") == yes, begins(l, "c=IN IP6 ") == yes:
		host, _, _ := cut(l[len("c=IN IP4 "):], '/')
		addr, ok := address(bytes.TrimSpace(host))
		switch {
		case !ok:
		case m.port == 0:
			m.addr = addr
		default:
			a.stream(dir, addr, m.port)
		}
	case begins(l, "m=") == yes:
		m.port = 0
		_, b, _ := cut(l, ' ')
		port, n := number(b)
		if n > 0 && port <= 0xffff && contains(b, "RTP/") {
			m.port = uint16(port)
			a.stream(dir, m.addr, m.port)
		}
	case begins(l, "a=rtcp:") == yes && m.port != 0:
		if port, n := number(l[len("a=rtcp:"):]); n > 0 {
			a.announce(dir, m.addr, port, policy.ProtoUDP, policy.AppRTCP)
		}
	}
}

// stream is a port of RTP and the one above it of RTCP (RFC 3550 11).
func (a *Announcer) stream(by Dir, addr netip.Addr, port uint16) {
	if !addr.IsValid() {
		return
	}
	a.announce(by, addr, int(port), policy.ProtoUDP, policy.AppRTP)
	a.announce(by, addr, int(port)+1, policy.ProtoUDP, policy.AppRTCP)
}

// rtsp: Transport of SETUP and its answer (RFC 2326 12.39). What is interleaved or
// goes over TCP announces nothing, nor does another destination.
func (a *Announcer) rtsp(dir Dir, l []byte) {
	if beginsFold(l, "TRANSPORT:") != yes || !contains(l, "RTP/AVP") || contains(l, "/TCP") || contains(l, "destination=") {
		return
	}
	name := "client_port="
	if dir == FromServer {
		name = "server_port="
	}
	i := bytes.Index(l, []byte(name))
	if i < 0 {
		return
	}
	b := l[i+len(name):]
	port, n := number(b)
	if n == 0 {
		return
	}
	a.announce(dir, netip.Addr{}, port, policy.ProtoUDP, policy.AppRTP)
	if b = b[n:]; len(b) > 0 && b[0] == '-' {
		port, _ = number(b[1:])
		a.announce(dir, netip.Addr{}, port, policy.ProtoUDP, policy.AppRTCP)
	}
}

// cut is bytes.Cut for one byte; without it before is all of b.
func cut(b []byte, sep byte) (before, after []byte, ok bool) {
	if i := bytes.IndexByte(b, sep); i >= 0 {
		return b[:i], b[i+1:], true
	}
	return b, nil, false
}

// address parses b; netip's own parser makes a string of it.
func address(b []byte) (addr netip.Addr, ok bool) {
	if bytes.IndexByte(b, ':') < 0 {
		v, ok := dotted(b)
		return netip.AddrFrom4(v), ok
	}
	var v [16]byte
	gap, n := -1, 0
	for len(b) > 0 {
		if begins(b, "::") == yes && gap < 0 {
			gap, b = n, b[2:]
			continue
		}
		if n > 0 && n != gap && b[0] == ':' {
			b = b[1:]
		}
		group, rest, _ := cut(b, ':')
		if tail, ok := dotted(group); ok && len(rest) == 0 && n <= 12 {
			copy(v[n:], tail[:])
			n, b = n+4, nil
			break
		}
		x, ok := hexadecimal(group)
		if !ok || n > 14 {
			return addr, false
		}
		be.PutUint16(v[n:], x)
		n, b = n+2, b[len(group):]
	}
	if gap < 0 && n != 16 || gap >= 0 && n > 14 {
		return addr, false
	}
	if gap >= 0 {
		copy(v[16-(n-gap):], v[gap:n])
		clear(v[gap : 16-(n-gap)])
	}
	return netip.AddrFrom16(v).Unmap(), true
}

func dotted(b []byte) (v [4]byte, ok bool) {
	for i := range v {
		x, n := number(b)
		if n == 0 || n > 3 || n > 1 && b[0] == '0' || x > 255 || (i < 3) != (n < len(b)) || i < 3 && b[n] != '.' {
			return v, false
		}
		v[i] = byte(x)
		b = b[min(n+1, len(b)):]
	}
	return v, true
}

func hexadecimal(b []byte) (x uint16, ok bool) {
	if len(b) == 0 || len(b) > 4 {
		return 0, false
	}
	for _, c := range b {
		switch {
		case digit(c):
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		x = x<<4 | uint16(c)
	}
	return x, true
}

// Media reports whether a datagram could be of a stream that was announced: RTP
// or RTCP, which app says (RFC 5761 4), or the STUN and DTLS that go before (RFC
// 7983 7).
func Media(payload []byte, announced policy.App) (app policy.App, ok bool) {
	if len(payload) < 8 {
		return announced, false
	}
	switch b := payload[0]; {
	case b>>6 == 2 && payload[1] >= 192 && payload[1] <= 223:
		return policy.AppRTCP, true
	case b>>6 == 2:
		return policy.AppRTP, true
	}
	return announced, payload[0] < 4 || payload[0] >= 20 && payload[0] <= 63
}

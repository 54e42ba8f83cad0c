package classify

import (
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"gatehouse/policy"
)

const (
	connect    = "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n"
	connected  = "HTTP/1.1 200 Connection established\r\n\r\n"
	denied407  = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 5\r\n\r\n"
	wsAsk      = "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	wsSwitched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
	wsMasked   = "\x81\x85\x01\x02\x03\x04abcde"
	h2cAsk     = "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
	h2cSwitch  = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
	h2Settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	h2Preface  = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2Settings
	socksHello = "\x05\x02\x00\x02"
	socksAsk   = "\x05\x01\x00\x03\x02db\x15\x38"
	socksGrant = "\x05\x00\x00\x01\x0a\x00\x00\x01\x15\x38"
)

// TestTunnels: what a tunnel carries is judged before it is delivered; a
// statement for the tunnel's own protocol covers TLS and HTTP inside, and
// nothing else (V13).
func TestTunnels(t *testing.T) {
	statements := []policy.Statement{
		allow(webIdx, dbIdx, plain(policy.AppHTTP), tcpPort(3128)),
		allow(webIdx, dbIdx, plain(policy.AppHTTP), tcpPort(3129)),
		allow(webIdx, dbIdx, plain(policy.AppSSH), tcpPort(3129)),
		allow(webIdx, dbIdx, plain(policy.AppSOCKS), tcpPort(1080)),
		allow(webIdx, dbIdx, plain(policy.AppSOCKS), tcpPort(1081)),
		allow(webIdx, dbIdx, plain(policy.AppMySQL), tcpPort(1081)),
		allow(webIdx, dbIdx, plain(policy.AppWebSocket), tcpPort(8080)),
	}
	longConnect := "CONNECT db:22 HTTP/1.1\r\nA: " + strings.Repeat("a", 3980) + "\r\n\r\n"
	inside := func(outer, inner policy.App) policy.Spoken { return policy.Spoken{App: outer, Inner: inner} }
	tests := []struct {
		name   string
		port   uint16
		spoken policy.Spoken
		steps  []step
	}{
		{"connect to https", 3128, policy.Spoken{App: policy.AppHTTP, Inner: policy.AppTLS, ALPN: policy.AppHTTP},
			[]step{c(connect), s(connected), c(clientHello), s(serverHello).ok()}},
		{"connect to http", 3128, inside(policy.AppHTTP, policy.AppHTTP),
			[]step{c(connect), s(connected), c(httpGet), s(httpOK).ok()}},
		{"connect to a database", 3128, inside(policy.AppHTTP, policy.AppPostgreSQL),
			[]step{c(connect), s(connected), c(pgStartup).no(policy.ReasonApp), s(pgAuth).no(policy.ReasonApp)}},
		{"connect to a server that speaks first", 3128, inside(policy.AppHTTP, policy.AppMySQL),
			[]step{c(connect), s(connected), s(mysqlHello).no(policy.ReasonApp)}},
		{"its greeting behind the reply's head", 3128, inside(policy.AppHTTP, policy.AppMySQL),
			[]step{c(connect), s(connected + mysqlHello).no(policy.ReasonApp)}},
		{"ssh without waiting for the reply", 3128, inside(policy.AppHTTP, policy.AppSSH),
			[]step{c(connect + sshBanner), s(connected).no(policy.ReasonApp)}},
		{"ssh by connect", 3128, inside(policy.AppHTTP, policy.AppSSH),
			[]step{c(connect), s(connected), c(sshBanner).no(policy.ReasonApp)}},
		{"ssh byte by byte", 3128, inside(policy.AppHTTP, policy.AppSSH),
			[]step{c(connect), s(connected), c("S"), c("S"), c("H-2."), c("0-x\r\n").no(policy.ReasonApp)}},
		{"ssh by connect where ssh is allowed", 3129, inside(policy.AppHTTP, policy.AppSSH),
			[]step{c(connect), s(connected), s(sshBanner), c(sshBanner), s("x").ok()}},
		{"the unknown by connect", 3128, inside(policy.AppHTTP, policy.AppUnknown),
			[]step{c(connect), s(connected), c("\xee\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10").no(policy.ReasonApp)}},
		{"a password first", 3128, inside(policy.AppHTTP, policy.AppSSH),
			[]step{c(connect), s(denied407), s("sorry"), c(connect), s(connected), c(sshBanner).no(policy.ReasonApp)}},
		{"a password first, and a long refusal", 3128, inside(policy.AppHTTP, policy.AppSSH),
			[]step{c(connect), s(denied407), s(strings.Repeat("sorry", 280)), s(strings.Repeat("sorry", 280)), s(strings.Repeat("sorry", 280)), s(strings.Repeat("sorry", 280)),
				c(connect), s(connected), c(sshBanner).no(policy.ReasonApp)}},
		{"an answer drop by drop", 3128, inside(policy.AppHTTP, policy.AppUnknown),
			[]step{c(connect), s("HTTP/1.1 200 OK\r\n"), s("A: aaaaaaaaa\r\n"), s("A: aaaaaaaaa\r\n"), s("A: aaaaaaaaa\r\n"), s("A: aaaaaaaaa\r\n"), s("A: aaaaaaaaa\r\n"), s("A: aaaaaaaaa\r\n"),
				s("A: aaaaaaaaa\r\n"), s("A: aaaaaaaaa\r\n"), s("A: aaaaaaaaa\r\n"), s("A: aaaaaaaaa\r\n").no(policy.ReasonApp)}},
		{"connect within connect", 3128, inside(policy.AppHTTP, policy.AppSSH),
			[]step{c(connect), s(connected), c(connect), s(connected), c(sshBanner).no(policy.ReasonApp)}},
		{"refused for good", 3128, policy.Spoken{App: policy.AppHTTP},
			[]step{c(connect), s("HTTP/1.1 403 Forbidden\r\n\r\n"), c(httpGet), s(httpOK).ok()}},
		{"websocket, and only that", 8080, policy.Spoken{App: policy.AppHTTP},
			[]step{c(wsAsk).no(policy.ReasonApp)}},
		{"websocket on http", 3128, policy.Spoken{App: policy.AppWebSocket},
			[]step{c(wsAsk), s(wsSwitched), c(wsMasked), s("\x81\x02ok").ok()}},
		{"ssh behind a websocket's beginning", 3128, inside(policy.AppWebSocket, policy.AppSSH),
			[]step{c(wsAsk), s(wsSwitched), c(sshBanner).no(policy.ReasonApp)}},
		{"h2c", 3128, inside(policy.AppHTTP, policy.AppHTTP2),
			[]step{c(h2cAsk), s(h2cSwitch + h2Settings), c(h2Preface), s("x").ok()}},
		{"an upgrade to nobody knows what", 3128, inside(policy.AppHTTP, policy.AppMySQL),
			[]step{c("GET / HTTP/1.1\r\nUpgrade: db\r\n\r\n"), s("HTTP/1.1 101 Go\r\nUpgrade: db\r\n\r\n"), s(mysqlHello).no(policy.ReasonApp)}},
		{"connect behind another request", 3128, inside(policy.AppHTTP, policy.AppUnknown),
			[]step{c(httpGet + connect), s(httpOK), s(connected), c(sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"connect with a head that is too long", 3128, inside(policy.AppHTTP, policy.AppUnknown),
			[]step{c(longConnect[:1400]), c(longConnect[1400:2800]), c(longConnect[2800:]), s(connected).no(policy.ReasonApp)}},
		{"an answer with a head that is too long", 3128, inside(policy.AppHTTP, policy.AppUnknown),
			[]step{c(connect), s("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 1400)), s(strings.Repeat("a", 1000) + "\r\n\r\n").no(policy.ReasonApp)}},
		{"no upgrade after all, with a head that is too long", 3128, policy.Spoken{App: policy.AppHTTP},
			[]step{c(h2cAsk), s("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 1400)).ok()}},
		{"websocket with a head that is too long", 3128, policy.Spoken{App: policy.AppWebSocket},
			[]step{c(wsAsk), s(wsSwitched[:len(wsSwitched)-2] + "A: " + strings.Repeat("a", 1400)), s(strings.Repeat("a", 1000) + "\r\n\r\n").ok()}},
		{"socks 4 to ssh", 1080, inside(policy.AppSOCKS, policy.AppSSH),
			[]step{c("\x04\x01\x00\x16\x0a\x00\x00\x01user\x00"), s("\x00\x5a\x00\x00\x00\x00\x00\x00"), c(sshBanner).no(policy.ReasonApp)}},
		{"socks 4a to http", 1080, inside(policy.AppSOCKS, policy.AppHTTP),
			[]step{c("\x04\x01\x00\x50\x00\x00\x00\x01\x00db\x00"), s("\x00\x5a\x00\x00\x00\x00\x00\x00"), c(httpGet), s(httpOK).ok()}},
		{"socks to https", 1080, policy.Spoken{App: policy.AppSOCKS, Inner: policy.AppTLS, ALPN: policy.AppHTTP},
			[]step{c(socksHello), s("\x05\x00"), c(socksAsk), s(socksGrant), c(clientHello), s(serverHello).ok()}},
		{"socks with a password to ssh", 1080, inside(policy.AppSOCKS, policy.AppSSH),
			[]step{c(socksHello), s("\x05\x02"), c("\x01\x01u\x01p"), s("\x01\x00"), c(socksAsk), s(socksGrant), c(sshBanner).no(policy.ReasonApp)}},
		{"socks to mysql where that is allowed", 1081, inside(policy.AppSOCKS, policy.AppMySQL),
			[]step{c(socksHello), s("\x05\x00"), c(socksAsk), s(socksGrant), s(mysqlHello), c(mysqlAnswer), s("\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00").ok()}},
	}
	families(t, func(t *testing.T, v6 bool) {
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				b := newBench(t, world{statements: statements}, Config{})
				k := b.conn(wire{v6, webIdx, dbIdx}, uint16(40000+i), tt.port)
				k.open()
				k.play(t, tt.steps)
				if f := b.out.Flow; f.Spoken != tt.spoken {
					t.Errorf("spoken %v, want %v", f.Spoken, tt.spoken)
				}
			})
		}
	})
}

// play sends the steps and checks what becomes of each.
func (k *conn) play(t *testing.T, steps []step) {
	t.Helper()
	for n, st := range steps {
		send := k.client
		if st.server {
			send = k.server
		}
		r := send(st.payload)
		if r.Forward != st.forward || r.Reason != st.reason || r.Verdict != st.verdict {
			t.Fatalf("payload %d: forward %v, reason %v, verdict %v; want %v, %v, %v", n, r.Forward, r.Reason, r.Verdict, st.forward, st.reason, st.verdict)
		}
	}
}

// TestMasquerades: a valid beginning of what is allowed, and then something
// else: the foreign bytes are not delivered (V14).
func TestMasquerades(t *testing.T) {
	text := policy.AppMatch{App: policy.AppSMTP, Forms: policy.TLSOptional}
	statements := append(statements(),
		allow(webIdx, dbIdx, text, tcpPort(26)),
		allow(webIdx, dbIdx, plain(policy.AppSSH), tcpPort(22)),
	)
	tests := []struct {
		name  string
		port  uint16
		steps []step
	}{
		{"http, then ssh", 80, []step{c("GET / HTTP/1.1\r\n\r\n"), c(sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"http, then ssh, in one", 80, []step{c("GET / HTTP/1.1\r\n\r\n" + sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"http with a body, then ssh", 80, []step{c("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"), c(sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"http, then tls", 80, []step{c("GET / HTTP/1.1\r\n\r\n"), c(clientHello).no(policy.ReasonProtocolMismatch)}},
		{"http, then postgresql", 80, []step{c("GET / HTTP/1.1\r\n\r\n"), c(pgStartup).no(policy.ReasonProtocolMismatch)}},
		{"http, and an ssh server", 80, []step{c(httpGet), s(sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"http, and a mysql server", 80, []step{c(httpGet), s(mysqlHello).no(policy.ReasonProtocolMismatch)}},
		{"ssh on 443", 443, []step{s(sshBanner).no(policy.ReasonApp)}},
		{"tls that is none, behind a hello", 443, []step{c(clientHello), c(sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"tls, and an ssh server", 443, []step{c(clientHello), s(sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"smtp, then tls unasked", 26, []step{s("220 a ESMTP\r\n"), c("EHLO a\r\n"), s("250 STARTTLS\r\n"), c(clientHello).no(policy.ReasonProtocolMismatch)}},
		{"smtp, then ssh", 26, []step{s("220 a ESMTP\r\n"), c("EHLO a\r\n"), s("250 a\r\n"), c(sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"smtp, then http", 26, []step{s("220 a ESMTP\r\n"), c("EHLO a\r\n"), s("250 a\r\n"), c(httpGet).no(policy.ReasonProtocolMismatch)}},
		{"smtp, tls asked for", 26, []step{s("220 a ESMTP\r\n"), c("EHLO a\r\n"), s("250 STARTTLS\r\n"), c("STARTTLS\r\n"), s("220 go\r\n"), c(clientHello), s(serverHello).ok()}},
		{"a mail about http", 26, []step{s("220 a ESMTP\r\n"), c("EHLO a\r\n"), s("250 a\r\n"), c("MAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n"), s("354\r\n"), c("see\r\n" + httpGet)}},
		{"mysql greeting, then ssh", 3306, []step{s(mysqlHello), c(sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"mysql greeting, then tls unasked", 3306, []step{s(mysqlHello), c(clientHello).no(policy.ReasonProtocolMismatch)}},
		{"redis, and an http server", 6379, []step{c(redisPing), s(httpOK).no(policy.ReasonProtocolMismatch)}},
		{"ssh line, then http", 22, []step{c(sshBanner), c(httpGet).no(policy.ReasonProtocolMismatch)}},
	}
	families(t, func(t *testing.T, v6 bool) {
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				b := newBench(t, world{statements: statements}, Config{})
				k := b.conn(wire{v6, webIdx, dbIdx}, uint16(40000+i), tt.port)
				k.open()
				k.play(t, tt.steps)
				if last := tt.steps[len(tt.steps)-1]; !last.forward {
					for range 3 {
						if k.client(strings.Repeat("x", 100)).Forward || k.server("y").Forward {
							t.Error("goes on")
						}
					}
				}
			})
		}
	})
}

// TestUpgrades: every protocol that goes over to TLS in-band is told from itself
// in clear, before anything of the other form is delivered.
func TestUpgrades(t *testing.T) {
	tdsPacket := func(kind, body string) string {
		return kind + "\x01\x00" + string(rune(8+len(body))) + "\x00\x00\x01\x00" + body
	}
	tdsOptions := func(encryption string) string {
		return "\x00\x00\x0b\x00\x06\x01\x00\x11\x00\x01\xff" + "\x0e\x00\x0c\xd1\x00\x00" + encryption
	}
	const (
		ldapStart   = "\x30\x1d\x02\x01\x01\x77\x18\x80\x16" + "1.3.6.1.4.1.1466.20037"
		ldapGo      = "\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"
		rdpAsk      = "\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x01\x00\x00\x00"
		rdpGo       = "\x03\x00\x00\x13\x0e\xd0\x00\x00\x12\x34\x00\x02\x00\x08\x00\x01\x00\x00\x00"
		natsInfo    = `INFO {"server_id":"N1","version":"2.10","tls_required":true}` + "\r\n"
		xmppOpen    = "<?xml version='1.0'?><stream:stream to='a' xmlns='jabber:client'>"
		xmppStart   = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
		xmppProceed = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
	)
	mysqlSSL := "\x20\x00\x00\x01\x05\xae\x3f\x00\x00\x00\x00\x01\x21" + strings.Repeat("\x00", 23)
	tests := []struct {
		app   policy.App
		steps []step // the last is the client's hello
	}{
		{policy.AppSMTP, []step{s("220 a ESMTP\r\n"), c("EHLO a\r\n"), s("250 STARTTLS\r\n"), c("STARTTLS\r\n"), s("220 go\r\n"), c(clientHello)}},
		{policy.AppIMAP, []step{s("* OK ready\r\n"), c("a CAPABILITY\r\n"), s("a OK\r\n"), c("b STARTTLS\r\n"), s("b OK\r\n"), c(clientHello)}},
		{policy.AppPOP3, []step{s("+OK ready\r\n"), c("CAPA\r\n"), s("+OK\r\nSTLS\r\n.\r\n"), c("STLS\r\n"), s("+OK\r\n"), c(clientHello)}},
		{policy.AppFTP, []step{s("220 ready\r\n"), c("AUTH TLS\r\n"), s("234 go\r\n"), c(clientHello)}},
		{policy.AppLDAP, []step{c(ldapStart), s(ldapGo), c(clientHello)}},
		{policy.AppPostgreSQL, []step{c(pgSSL), s("S"), c(clientHello)}},
		{policy.AppMySQL, []step{s(mysqlHello), c(mysqlSSL), c(clientHello)}},
		{policy.AppXMPP, []step{c(xmppOpen), s(xmppOpen + "<stream:features>"), c(xmppStart), s(xmppProceed), c(clientHello)}},
		{policy.AppAMQP, []step{c("AMQP\x02\x01\x00\x00"), s("AMQP\x02\x01\x00\x00"), c(clientHello)}},
		{policy.AppNATS, []step{s(natsInfo), c(clientHello)}},
		{policy.AppTDS, []step{c(tdsPacket("\x12", tdsOptions("\x01"))), s(tdsPacket("\x04", tdsOptions("\x01"))), c(tdsPacket("\x12", clientHello))}},
		{policy.AppRDP, []step{c(rdpAsk), s(rdpGo), c(clientHello)}},
	}
	families(t, func(t *testing.T, v6 bool) {
		for i, tt := range tests {
			for form, last := range map[policy.TLSForms]func(step) step{
				policy.TLSPlain:    func(st step) step { return st.no(policy.ReasonApp) },
				policy.TLSUpgraded: func(st step) step { return st },
			} {
				t.Run(tt.app.String()+" allowed as "+policy.AppMatch{App: tt.app, Forms: form}.String(), func(t *testing.T) {
					m := policy.AppMatch{App: tt.app, Forms: form}
					b := newBench(t, world{statements: []policy.Statement{allow(webIdx, dbIdx, m, tcpPort(7000))}}, Config{})
					k := b.conn(wire{v6, webIdx, dbIdx}, uint16(40000+i), 7000)
					k.open()
					end := len(tt.steps) - 1
					k.play(t, append(append([]step{}, tt.steps[:end]...), last(tt.steps[end])))
					if form == policy.TLSUpgraded {
						k.play(t, []step{s(serverHello).ok()})
					}
					if f := b.out.Flow; f.Spoken != (policy.Spoken{App: tt.app, Inner: policy.AppTLS}) {
						t.Errorf("spoken %v", f.Spoken)
					}
				})
			}
		}
	})
}

// TestOldDownload: a connection met in the middle, of which only the server
// speaks, waits for no tunnel.
func TestOldDownload(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{})
		seq, body := uint32(5000), httpOK
		for range 20 {
			r := b.send(out.back().tcp(t, 80, 40000, ACK, seq, 1, body))
			if !r.Forward {
				t.Fatalf("%+v", r)
			}
			seq, body = seq+uint32(len(body)), strings.Repeat("x", 1000)
		}
		if r := b.out; r.Verdict != policy.Allow {
			t.Errorf("%+v", r)
		}
	})
}

// inIP puts what a frame carries into an IP packet of that protocol, behind head.
func (w wire) inIP(t testing.TB, proto layers.IPProtocol, head string, inner []byte) []byte {
	et, ip := w.network(proto)
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, byte(w.from)}, DstMAC: []byte{2, 0, 0, 0, 0, byte(w.to)}, EthernetType: et}
	return serialize(t, eth, ip, gopacket.Payload(head+string(inner[l3:])))
}

// TestIPInIP: no statement, not even one for everything, lets through an IP
// packet that carries another, whatever that would be allowed to be.
func TestIPInIP(t *testing.T) {
	everything := []policy.Statement{allow(webIdx, dbIdx, policy.AnyApp, policy.PortRange{Proto: policy.ProtoTCP, Lo: 1, Hi: 65535}, policy.PortRange{Proto: policy.ProtoUDP, Lo: 1, Hi: 65535}, echoRange)}
	tests := []struct {
		name  string
		proto layers.IPProtocol
		head  string
		in6   bool // the inner packet is IPv6
	}{
		{"ipip", 4, "", false},
		{"6in4", 41, "", true},
		{"gre of ipv4", 47, "\x00\x00\x08\x00", false},
		{"gre of ipv6, with a key", 47, "\x20\x00\x86\xdd\x00\x00\x00\x07", true},
		{"pptp's gre", 47, "\x30\x01\x88\x0b\x00\x20\x00\x01\x00\x00\x00\x00", false},
		{"etherip", 97, "\x30\x00", false},
		{"encap", 98, "", false},
		{"l2tp", 115, "\x00\x00\x00\x01", false},
		{"mpls in ip", 137, "\x00\x01\x01\x40", false},
		{"esp", 50, "\x00\x00\x00\x01\x00\x00\x00\x01", false},
	}
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		for _, tt := range tests {
			b := newBench(t, world{statements: everything}, Config{})
			inner := wire{tt.in6, webIdx, dbIdx}
			for _, frame := range [][]byte{inner.tcp(t, 40000, 80, SYN, 1, 0, ""), inner.tcp(t, 40000, 80, ACK, 1, 1, httpGet), inner.udp(t, 40000, 53, dnsQuery)} {
				r := b.send(out.inIP(t, tt.proto, tt.head, frame))
				if r.Offload || r.Verdict == policy.Allow {
					t.Errorf("%s: %+v", tt.name, r)
				}
				want(t, tt.name, r, false, policy.ReasonProtocol)
			}
			if f := b.out.Flow; f != nil && f.Spoken.App != policy.AppNone {
				t.Errorf("%s: spoken %v", tt.name, f.Spoken)
			}
			want(t, tt.name+", the inner alone", b.send(inner.udp(t, 40000, 53, dnsQuery)), true, policy.ReasonNone)
		}
	})
}

// TestOverlays: a network within UDP has no name of what is in it, needs a
// statement of its own for any application, and passes no other.
func TestOverlays(t *testing.T) {
	const (
		vxlan  = "\x08\x00\x00\x00\x00\x00\x2a\x00"                     // RFC 7348 section 5
		geneve = "\x00\x00\x65\x58\x00\x00\x2a\x00"                     // RFC 8926 section 3.4
		option = "\x02\x00\x65\x58\x00\x00\x2a\x00\x01\x02\x03\x01abcd" // the same with an option
	)
	tests := []struct {
		name string
		port uint16
		head string
	}{
		{"vxlan", 4789, vxlan},
		{"linux's first vxlan", 8472, vxlan},
		{"geneve", 6081, geneve},
		{"geneve with an option", 6081, option},
		{"vxlan on the port of dns", 53, vxlan},
		{"geneve on the port of dns", 53, geneve},
	}
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		for _, tt := range tests {
			for _, inner := range []struct {
				app   policy.App
				frame []byte
			}{
				{policy.AppDNS, out.udp(t, 40000, 53, dnsQuery)},
				{policy.AppHTTP, out.tcp(t, 40000, 80, PSH|ACK, 1, 1, httpGet)},
				{policy.AppTLS, out.tcp(t, 40000, 443, PSH|ACK, 1, 1, clientHello)},
				{policy.AppICMP, wire{false, webIdx, dbIdx}.icmp(t, 8, 128, 7, "ping")},
			} {
				name := tt.name + " of " + inner.app.String()
				ask, answer := tt.head+string(inner.frame), tt.head+string(inner.frame)

				b := newBench(t, world{statements: []policy.Statement{allow(webIdx, dbIdx, policy.AnyApp, udpPort(9))}}, Config{})
				want(t, name+", no statement", b.send(out.udp(t, 40000, tt.port, ask)), false, policy.ReasonNoRule)

				b = newBench(t, world{statements: []policy.Statement{allow(webIdx, dbIdx, policy.AnyApp, udpPort(tt.port))}}, Config{})
				if r := b.send(out.udp(t, 40000, tt.port, ask)); !r.Forward || r.Verdict != policy.Allow {
					t.Errorf("%s, allowed as anything: %+v", name, r)
				}

				b = newBench(t, world{statements: []policy.Statement{allow(webIdx, dbIdx, plain(inner.app), udpPort(tt.port))}}, Config{})
				if inner.app == policy.AppICMP {
					b = newBench(t, world{statements: []policy.Statement{allow(webIdx, dbIdx, plain(policy.AppDNS), udpPort(tt.port))}}, Config{})
				}
				var r Result
				for range 8 {
					if r = b.send(out.udp(t, 40000, tt.port, ask)); r.Verdict == policy.Drop {
						break
					}
					b.send(out.back().udp(t, tt.port, 40000, answer))
				}
				if r.Forward || r.Verdict != policy.Drop || r.Reason != policy.ReasonAppUnknown || r.Flow == nil || r.Flow.Spoken.App != policy.AppUnknown {
					t.Errorf("%s, allowed as what is in it: %+v", name, r)
				}
			}
		}
	})
}

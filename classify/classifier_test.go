package classify

import (
	"strings"
	"testing"

	"gatehouse/policy"
)

const (
	httpGet     = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	httpOK      = "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\n\r\n"
	sshBanner   = "SSH-2.0-OpenSSH_9.2\r\n"
	redisPing   = "*1\r\n$4\r\nPING\r\n"
	pgStartup   = "\x00\x00\x00\x12\x00\x03\x00\x00user\x00root\x00\x00"
	pgSSL       = "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	pgAuth      = "R\x00\x00\x00\x08\x00\x00\x00\x00"
	mysqlHello  = "\x3c\x00\x00\x00\x0a8.0.36\x00\x01\x00\x00\x00abcdefgh\x00\xff\xff\x21\x02\x00\xff\xdf\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00abcdefghijkl\x00mys"
	mysqlAnswer = "\x20\x00\x00\x01\x05\xa6\x3f\x00\x00\x00\x00\x01\x21\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	dnsQuery    = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x00\x00\x01\x00\x01"
	dnsAnswer   = "\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x02db\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xac\x12\x00\x03"
)

// clientHello is a TLS 1.2 hello with SNI "a" and ALPN "http/1.1".
var clientHello = func() string {
	ext := "\x00\x00\x00\x06\x00\x04\x00\x00\x01a" + "\x00\x10\x00\x0b\x00\x09\x08http/1.1"
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x13\x01" + "\x01\x00" + "\x00" + string(rune(len(ext))) + ext
	hs := "\x01\x00\x00" + string(rune(len(body))) + body
	return "\x16\x03\x01\x00" + string(rune(len(hs))) + hs
}()

const serverHello = "\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03" + "rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr" + "\x00\x13\x01\x00"

func statements() []policy.Statement {
	return []policy.Statement{
		allow(webIdx, dbIdx, plain(policy.AppHTTP), tcpPort(80)),
		allow(webIdx, dbIdx, policy.AppMatch{App: policy.AppPostgreSQL, Forms: policy.TLSOptional}, tcpPort(5432)),
		allow(webIdx, dbIdx, plain(policy.AppMySQL), tcpPort(3306)),
		allow(webIdx, dbIdx, plain(policy.AppRedis), tcpPort(6379)),
		allow(webIdx, dbIdx, policy.AnyApp, tcpPort(9000), udpPort(9000)),
		allow(webIdx, dbIdx, plain(policy.AppDNS), tcpPort(53), udpPort(53)),
		allow(webIdx, dbIdx, policy.AppMatch{App: policy.AppHTTP, Forms: policy.TLSOnly}, tcpPort(443)),
		allow(webIdx, dbIdx, policy.AppMatch{App: policy.AppSMTP, Forms: policy.TLSPlain}, tcpPort(25)),
		allow(webIdx, dbIdx, policy.AppMatch{App: policy.AppSMTP, Forms: policy.TLSUpgraded}, tcpPort(587)),
		allow(webIdx, dbIdx, plain(policy.AppICMP), echoRange),
	}
}

// step is one payload and what must become of it.
type step struct {
	server  bool
	payload string
	forward bool
	reason  policy.Reason
	verdict policy.Verdict
}

func c(payload string) step { return step{payload: payload, forward: true, verdict: policy.Undecided} }
func s(payload string) step {
	return step{server: true, payload: payload, forward: true, verdict: policy.Undecided}
}

// ok: with this payload the flow is allowed.
func (s step) ok() step { s.verdict = policy.Allow; return s }

// no: this payload does not get through.
func (s step) no(r policy.Reason) step {
	s.forward, s.reason, s.verdict = false, r, policy.Drop
	return s
}

func TestApplications(t *testing.T) {
	tests := []struct {
		name  string
		port  uint16
		app   policy.App
		steps []step
	}{
		{"http", 80, policy.AppHTTP, []step{c(httpGet), s(httpOK).ok(), c(httpGet).ok()}},
		{"ssh client on http port", 80, policy.AppSSH, []step{c(sshBanner).no(policy.ReasonApp), s(sshBanner).no(policy.ReasonApp)}},
		{"ssh server on http port", 80, policy.AppSSH, []step{s(sshBanner).no(policy.ReasonApp)}},
		{"ssh server behind a request line", 80, policy.AppUnknown, []step{c("GET / HTTP/1.1\r\n\r\n" + sshBanner).no(policy.ReasonProtocolMismatch)}},
		{"request line to an unknown server", 80, policy.AppUnknown, []step{c(httpGet), s("\x00\x01\x02\x03").no(policy.ReasonProtocolMismatch)}},
		{"postgresql", 5432, policy.AppPostgreSQL, []step{c(pgStartup), s(pgAuth).ok()}},
		{"postgresql over tls", 5432, policy.AppPostgreSQL, []step{c(pgSSL), s("S").ok()}},
		{"http on the postgresql port", 5432, policy.AppHTTP, []step{c(httpGet).no(policy.ReasonApp)}},
		{"direct tls where the rule has it, alpn of another", 5432, policy.AppTLS, []step{c(clientHello).no(policy.ReasonApp)}},
		{"mysql, server first", 3306, policy.AppMySQL, []step{s(mysqlHello), c(mysqlAnswer), s("\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00").ok()}},
		{"redis", 6379, policy.AppRedis, []step{c(redisPing), s("+PONG\r\n").ok()}},
		{"http to redis", 6379, policy.AppHTTP, []step{c(httpGet).no(policy.ReasonApp)}},
		{"tls with alpn", 443, policy.AppTLS, []step{c(clientHello), s(serverHello).ok()}},
		{"plain http where tls is asked", 443, policy.AppHTTP, []step{c(httpGet).no(policy.ReasonApp)}},
		{"any application", 9000, policy.AppNone, []step{c("\x01\x02\x03").ok()}},
		{"unknown bytes", 80, policy.AppUnknown, []step{c("\xee\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10").no(policy.ReasonAppUnknown)}},
		{"dns over tcp", 53, policy.AppDNS, []step{c("\x00\x14" + dnsQuery), s("\x00\x24" + dnsAnswer).ok()}},
		{"smtp in clear", 25, policy.AppSMTP, []step{s("220 a ESMTP\r\n"), c("EHLO a\r\n"), s("250 STARTTLS\r\n"), c("STARTTLS\r\n"), s("220 go\r\n"), c(clientHello).no(policy.ReasonApp)}},
		{"smtp upgraded", 587, policy.AppSMTP, []step{s("220 a ESMTP\r\n"), c("EHLO a\r\n"), s("250 STARTTLS\r\n"), c("STARTTLS\r\n"), s("220 go\r\n"), c(clientHello), s(serverHello).ok()}},
	}
	families(t, func(t *testing.T, v6 bool) {
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				b := newBench(t, world{statements: statements()}, Config{})
				k := b.conn(wire{v6, webIdx, dbIdx}, uint16(40000+i), tt.port)
				if r := k.open(); !r.Forward || !r.New {
					t.Fatalf("SYN: forward %v, %v", r.Forward, r.Reason)
				}
				for n, st := range tt.steps {
					send := k.client
					if st.server {
						send = k.server
					}
					r := send(st.payload)
					if r.Forward != st.forward || r.Reason != st.reason || r.Verdict != st.verdict {
						t.Fatalf("payload %d: forward %v, reason %v, verdict %v; want %v, %v, %v", n, r.Forward, r.Reason, r.Verdict, st.forward, st.reason, st.verdict)
					}
					if r.Offload != r.Decided && tt.port != 9000 {
						t.Errorf("payload %d: decided %v, offload %v", n, r.Decided, r.Offload)
					}
				}
				if f := b.out.Flow; f.Spoken.App != tt.app {
					t.Errorf("application %v, want %v", f.Spoken.App, tt.app)
				}
				if free := len(b.c.freeStates); b.out.Flow.Verdict != policy.Undecided && free != 32 {
					t.Errorf("%d states free, want all 32", free)
				}
			})
		}
	})
}

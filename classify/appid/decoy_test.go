package appid

import (
	"strings"
	"testing"

	"gatehouse/policy"
)

// TestDecoyDatagrams: a server throws away a datagram that is none of its protocol.
// A client that begins with one is not named by it: what server and client say
// then is another protocol, also where the client may choose how its messages
// and the answers to them begin.
func TestDecoyDatagrams(t *testing.T) {
	zero := func(n int) string { return strings.Repeat("\x00", n) }
	call := be32(0) + be32(2) + be32(100003) + be32(3) + be32(6) + be32(0) + be32(0) + be32(0) + be32(0)
	tests := []struct {
		name        string
		ask, answer func(id string) string
	}{
		{"sunrpc", func(id string) string { return id + call }, func(id string) string { return id + be32(1) + zero(16) }},
		{"sunrpc of 92 bytes", func(id string) string { return id + call + zero(92-40) }, func(id string) string { return id + be32(1) + zero(92-8) }},
		{"sunrpc of 148 bytes", func(id string) string { return id + call + noiseOf(148-40) }, func(id string) string { return id + be32(1) + zero(16) + noiseOf(148-24) }},
		{"sunrpc of 160 bytes", func(id string) string { return id + call + noiseOf(160-40) }, func(id string) string { return id + be32(1) + zero(16) + noiseOf(160-24) }},
		{"memcached", func(id string) string { return id[:2] + "\x00\x00\x00\x01\x00\x00get a\r\n" }, func(id string) string { return id[:2] + "\x00\x00\x00\x01\x00\x00VALUE a 0 1\r\nx\r\nEND\r\n" }},
		{"memcached of many bytes", func(id string) string {
			return id[:2] + "\x00\x00\x00\x01\x00\x00get " + strings.Repeat("a", 34) + "\r\n"
		}, func(id string) string {
			return id[:2] + "\x00\x00\x00\x01\x00\x00VALUE a 0 30\r\n" + strings.Repeat("x", 30) + "\r\nEND\r\n"
		}},
		{"kerberos", func(string) string { return "\x6a\x1e\x30\x1c\xa1\x03\x02\x01\x05\xa2\x03\x02\x01\x0a" + zero(18) }, func(string) string {
			return "\x7e\x1e\x30\x1c\xa0\x03\x02\x01\x05\xa1\x03\x02\x01\x1e" + zero(18)
		}},
		{"sip", func(string) string { return "OPTIONS sip:a@b SIP/2.0\r\n\r\n" }, func(string) string { return "SIP/2.0 200 OK\r\n\r\n" }},
		{"dns", func(id string) string {
			return id[:2] + "\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01"
		}, func(id string) string {
			return id[:2] + "\x81\x83\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01"
		}},
		{"ike", func(id string) string {
			return id + id + zero(8) + "\x21\x20\x22\x08" + zero(4) + be32(1200) + noiseOf(1200-28)
		}, func(id string) string {
			return id + id + noiseOf(8) + "\x21\x20\x22\x20" + zero(4) + be32(148) + noiseOf(120)
		}},
	}
	rests := []string{"\x00\x00\x00", "\x11\x22\x33", "\x00\x04\x01", "\x00\x00\x01", "\x01\x00\x04"}
	for _, sm := range samples() {
		if !sm.udp || sm.app == policy.AppRTP {
			continue
		}
		for _, tt := range tests {
			for first := range 256 {
				for _, rest := range rests {
					id := string([]byte{byte(first)}) + rest
					var s State
					s.Reset(policy.ProtoUDP, 9999, false)
					testEngine.Feed(&s, FromClient, 0, []byte(sm.turns[0]))
					var o Outcome
					for range 3 {
						testEngine.Feed(&s, FromClient, 0, []byte(tt.ask(id)))
						o = testEngine.Feed(&s, FromServer, 0, []byte(tt.answer(id)))
					}
					if o.Decided && o.Spoken.App == sm.app && !strings.HasPrefix(tt.name, sm.app.String()) && !(sm.name == "portmapper" && strings.HasPrefix(tt.name, "sunrpc")) {
						t.Errorf("%s, then %s with %x: %+v", sm.name, tt.name, id, o)
						break
					}
				}
			}
		}
	}
	// Without a decoy, an IKE whose number reads as a header of QUIC.
	var s State
	s.Reset(policy.ProtoUDP, 9999, false)
	spi := "\xc0\x00\x00\x00\x01\x08ab"
	testEngine.Feed(&s, FromClient, 0, []byte(spi+zero(8)+"\x21\x20\x22\x08"+zero(4)+be32(1200)+noiseOf(1200-28)))
	if o := testEngine.Feed(&s, FromServer, 0, []byte(spi+noiseOf(8)+"\x21\x20\x22\x20"+zero(4)+be32(148)+noiseOf(120))); o.Decided && o.Spoken.App == policy.AppQUIC {
		t.Errorf("ike: %+v", o)
	}
}

// TestBlandGreetings: servers of FTP and of mail that greet alike are told by what
// they answer, since a client may say what it likes to either.
func TestBlandGreetings(t *testing.T) {
	for _, tt := range []struct {
		name  string
		turns []string // server, client, ...
		app   policy.App
	}{
		{"mail", []string{"220 welcome\r\n", "EHLO a\r\n", "250-a\r\n250 SIZE\r\n"}, policy.AppSMTP},
		{"mail of old", []string{"220-welcome\r\n220 here\r\n", "EHLO a\r\n", "502 what\r\n", "HELO a\r\n", "250 a\r\n"}, policy.AppSMTP},
		{"files", []string{"220 welcome\r\n", "USER a\r\n", "331 password\r\n"}, policy.AppFTP},
		{"files, with AUTH refused", []string{"220 welcome\r\n", "AUTH TLS\r\n", "502 what\r\n", "USER a\r\n", "230-in\r\n 250 files\r\n230 now\r\n"}, policy.AppFTP},
		{"files, asked as mail", []string{"220 welcome\r\n", "EHLO a\r\n", "530 log in\r\n", "USER a\r\n", "331 password\r\n", "PASS a\r\n", "230 in\r\n"}, policy.AppUnknown},
		{"mail, asked as files", []string{"220 welcome\r\n", "USER a\r\n", "500 what\r\n", "HELO a\r\n", "250 a\r\n", "MAIL FROM:<a>\r\n", "250 yes\r\n"}, policy.AppUnknown},
	} {
		k := newTalk(&sample{})
		for i, b := range tt.turns {
			k.turn(Dir(1-i%2), b)
		}
		if o := testEngine.Finish(&k.s); o.Spoken.App != tt.app {
			t.Errorf("%s: %+v", tt.name, o)
		}
	}
}

package appid

import (
	"strings"
	"testing"
	"unsafe"

	"gatehouse/policy"
)

// talk is one flow under test.
type talk struct {
	e    *Engine
	s    State
	next [2]uint32
	out  Outcome
}

var testEngine = New()

func newTalk(sm *sample) *talk {
	k := &talk{e: testEngine, next: [2]uint32{0xffffff00, 0x7fffff80}} // both wrap early
	proto := policy.ProtoTCP
	if sm.udp {
		proto = policy.ProtoUDP
	}
	k.s.Reset(proto, sm.port, false)
	k.s.Open(FromClient, k.next[0])
	k.s.Open(FromServer, k.next[1])
	return k
}

func (k *talk) put(d Dir, off int, b string) Outcome {
	k.out = k.e.Feed(&k.s, d, k.next[d]+uint32(off), []byte(b))
	return k.out
}

func (k *talk) turn(d Dir, b string) Outcome {
	o := k.put(d, 0, b)
	k.next[d] += uint32(len(b))
	return o
}

func (sm *sample) dir(i int) Dir {
	if (i%2 == 1) != sm.serverFirst {
		return FromServer
	}
	return FromClient
}

func TestSamples(t *testing.T) {
	for _, sm := range samples() {
		t.Run(sm.name, func(t *testing.T) {
			k := newTalk(&sm)
			for i, b := range sm.turns {
				if k.out.Decided {
					t.Fatalf("decided before turn %d", i)
				}
				k.turn(sm.dir(i), b)
			}
			if k.out.Spoken.App != sm.app || !k.out.Decided && len(sm.turns) > 1 || k.out.Anomaly != AnomalyNone {
				t.Errorf("got %+v, want %v", k.out, sm.app)
			}
			if len(sm.turns) > 1 && k.out.Confidence != ConfidenceBothSides {
				t.Errorf("confidence %v, want both sides", k.out.Confidence)
			}
		})
	}
}

// TestArrival: however the wire cuts, orders and repeats a conversation, its
// name is the same.
func TestArrival(t *testing.T) {
	ways := []struct {
		name string
		send func(k *talk, d Dir, b string)
	}{
		{"single bytes", func(k *talk, d Dir, b string) {
			for i := range len(b) {
				k.put(d, i, b[i:i+1])
			}
		}},
		{"two bytes", func(k *talk, d Dir, b string) {
			for i := 0; i < len(b); i += 2 {
				k.put(d, i, b[i:min(i+2, len(b))])
			}
		}},
		{"three bytes backwards in groups of five", func(k *talk, d Dir, b string) {
			for g := 0; g < len(b); g += 15 {
				for i := min(g+12, (len(b)-1)/3*3); i >= g; i -= 3 {
					k.put(d, i, b[i:min(i+3, len(b))])
				}
			}
		}},
		{"halves swapped", func(k *talk, d Dir, b string) {
			h := len(b) / 2
			k.put(d, h, b[h:])
			k.put(d, 0, b[:h])
		}},
		{"everything twice", func(k *talk, d Dir, b string) {
			h := len(b) / 2
			k.put(d, 0, b[:h])
			k.put(d, 0, b[:h])
			k.put(d, h, b[h:])
			k.put(d, 0, b)
		}},
		{"overlap by one", func(k *talk, d Dir, b string) {
			h := len(b) / 2
			k.put(d, 0, b[:h+1])
			k.put(d, h, b[h:])
		}},
		{"altered retransmissions after", func(k *talk, d Dir, b string) {
			h := len(b) / 2
			k.put(d, 0, b[:h])
			if o := k.put(d, 0, altered(b[:h])); !o.Decided && o.Anomaly != AnomalyConflict {
				panic("conflict not seen")
			}
			k.put(d, h, b[h:])
		}},
		{"altered piece ahead of the gap", func(k *talk, d Dir, b string) {
			h := len(b) / 2
			k.put(d, h, b[h:])
			if o := k.put(d, h, altered(b[h:])); !o.Decided && o.Anomaly != AnomalyConflict {
				panic("conflict not seen")
			}
			k.put(d, 0, b[:h])
		}},
		{"keep-alives", func(k *talk, d Dir, b string) {
			for range 60 {
				k.put(d, -1, "\x00")
			}
			h := len(b) / 2
			k.put(d, 0, b[:h])
			for range 60 {
				k.put(d, h-1, b[h-1:h])
			}
			k.put(d, h, b[h:])
		}},
	}
	for _, sm := range samples() {
		if sm.udp {
			continue
		}
		for _, w := range ways {
			t.Run(sm.name+"/"+w.name, func(t *testing.T) {
				k := newTalk(&sm)
				for i, b := range sm.turns {
					if k.out.Decided {
						break // proof needs no more of this turn
					}
					d := sm.dir(i)
					w.send(k, d, b)
					k.next[d] += uint32(len(b))
				}
				if k.out.Spoken.App != sm.app {
					t.Errorf("got %+v, want %v", k.out, sm.app)
				}
			})
		}
	}
}

func altered(b string) string {
	out := []byte(b)
	for i := range out {
		out[i] ^= 0x55
	}
	return string(out)
}

// alike: clients whose first words a server of the other kind could be
// answering: inline redis commands are memcached's, +OK is a redis reply, PING is
// NATS's, USER is POP3's, and the first replies of SMTP and FTP are the same.
var alike = map[[2]policy.App]bool{
	{policy.AppMemcached, policy.AppRedis}: true, {policy.AppSMTP, policy.AppFTP}: true, {policy.AppFTP, policy.AppSMTP}: true,
	{policy.AppFTP, policy.AppPOP3}: true, {policy.AppRedis, policy.AppPOP3}: true, {policy.AppMemcached, policy.AppPOP3}: true, {policy.AppRedis, policy.AppNATS}: true,
}

// TestForeignBytes: each protocol against every other one's server. The true
// label would be the client's or the server's alone; both together are an
// anomaly or unknown, never a name that only one of them earned.
func TestForeignBytes(t *testing.T) {
	all := samples()
	for _, a := range all {
		for _, b := range all {
			if a.app == b.app || a.udp || b.udp || len(a.turns) < 2 || len(b.turns) < 2 || alike[[2]policy.App{a.app, b.app}] || a.app.Is(policy.AppHTTP) && b.app.Is(policy.AppHTTP) {
				continue
			}
			client, server := a.turns[0], b.turns[1]
			if a.serverFirst {
				client = a.turns[1]
			}
			if b.serverFirst {
				server = b.turns[0]
			}
			k := newTalk(&a)
			k.turn(FromClient, client)
			k.turn(FromServer, server)
			for range 12 {
				k.turn(FromClient, "\x00some more bytes that mean nothing\r\n")
			}
			if k.out.Spoken.App != policy.AppUnknown {
				t.Errorf("client %s, server %s: %+v", a.name, b.name, k.out)
			}
		}
	}
}

func TestUpgrades(t *testing.T) {
	hello := records(tlsHello("db", "", 0), 1<<14)
	tests := []struct {
		name  string
		app   policy.App
		turns []string // server, client, ... ; "" is skipped
		inner policy.App
	}{
		{"smtp starttls", policy.AppSMTP, []string{"220 a ESMTP\r\n", "EHLO a\r\n", "250-a\r\n250 STARTTLS\r\n", "STARTTLS\r\n", "220 go\r\n", hello}, policy.AppTLS},
		{"smtp starttls, hello in two", policy.AppSMTP, []string{"220 a ESMTP\r\n", "EHLO a\r\n", "250 STARTTLS\r\n", "STARTTLS\r\n", "220 go\r\n", hello[:3], "", hello[3:]}, policy.AppTLS},
		{"smtp stays plain", policy.AppSMTP, []string{"220 a ESMTP\r\n", "EHLO a\r\n", "250 a\r\n", "MAIL FROM:<a>\r\n"}, policy.AppNone},
		{"ftp auth tls", policy.AppFTP, []string{"220 a\r\n", "AUTH TLS\r\n", "234 go\r\n", hello}, policy.AppTLS},
		{"mysql ssl", policy.AppMySQL, []string{mysqlGreetingBytes, mysqlSSLBytes + hello}, policy.AppTLS},
		{"mysql ssl in two", policy.AppMySQL, []string{mysqlGreetingBytes, mysqlSSLBytes, "", hello}, policy.AppTLS},
		{"mysql plain", policy.AppMySQL, []string{mysqlGreetingBytes, mysqlLoginBytes}, policy.AppNone},
		{"postgresql ssl", policy.AppPostgreSQL, []string{"", be32(8) + be32(postgresqlSSL), "S", hello}, policy.AppTLS},
		{"postgresql ssl refused", policy.AppPostgreSQL, []string{"", be32(8) + be32(postgresqlSSL), "N", be32(18) + be32(3<<16) + "user\x00root\x00\x00"}, policy.AppNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newTalk(&sample{})
			for i, b := range tt.turns {
				if b == "" {
					continue
				}
				k.turn(Dir(1-i%2), b)
				if k.s.MayUpgrade() {
					k.out = k.e.Watch(&k.s)
				}
			}
			if k.out.Spoken.App != tt.app || k.out.Spoken.Inner != tt.inner {
				t.Errorf("got %+v, want %v inside %v", k.out.Spoken, tt.inner, tt.app)
			}
		})
	}
}

func TestTLSAttributes(t *testing.T) {
	for _, pad := range []int{0, 1500, 3000} {
		k := newTalk(&sample{})
		hello := records(tlsHello("db.shop.example", "weird,h2,http/1.1", pad), 500)
		for len(hello) > 0 {
			n := min(len(hello), 1400)
			k.turn(FromClient, hello[:n])
			hello = hello[n:]
		}
		var a Attrs
		k.s.Attrs(&a)
		if string(a.Get(AttrSNI)) != "db.shop.example" || string(a.Get(AttrALPN)) != "weird,h2,http/1.1" || k.out.Spoken != (policy.Spoken{App: policy.AppTLS, ALPN: policy.AppHTTP2}) {
			t.Errorf("pad %d: sni %q, alpn %q, %+v", pad, a.Get(AttrSNI), a.Get(AttrALPN), k.out)
		}
	}
}

func TestBudget(t *testing.T) {
	t.Run("unknown chatter ends", func(t *testing.T) {
		k := newTalk(&sample{})
		packets := 0
		// Looks like Kafka forever, and never gets its reply.
		for !k.out.Decided && packets < 1000 {
			k.turn(FromClient, be32(10)+be16(18)+be16(3)+be32(7)+"\xff\xff")
			packets++
		}
		if packets > 10 || k.out.Spoken.App != policy.AppUnknown {
			t.Errorf("decided %v after %d packets", k.out.Spoken.App, packets)
		}
	})
	t.Run("endless hello ends", func(t *testing.T) {
		k := newTalk(&sample{})
		k.turn(FromClient, "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03")
		packets := 0
		for !k.out.Decided && packets < 10000 {
			k.turn(FromClient, "\x00")
			packets++
		}
		if packets > 2600 {
			t.Errorf("%d packets", packets)
		}
	})
	t.Run("gap never filled", func(t *testing.T) {
		k := newTalk(&sample{})
		packets := 0
		for !k.out.Decided && packets < 1000 {
			k.put(FromClient, 100+packets*100, strings.Repeat("a", 50))
			packets++
		}
		if packets > 10 || k.out.Spoken.App != policy.AppUnknown {
			t.Errorf("decided %v after %d packets", k.out.Spoken.App, packets)
		}
	})
	t.Run("one side's proof counts at the end", func(t *testing.T) {
		k := newTalk(&sample{})
		o := k.turn(FromClient, "POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n")
		if o.Decided || o.Spoken.App != policy.AppHTTP || o.Confidence != ConfidenceOneSide {
			t.Fatalf("got %+v", o)
		}
		for i := 0; !k.out.Decided; i++ {
			if i > 10 {
				t.Fatal("never decided")
			}
			k.turn(FromClient, strings.Repeat("x", 1400))
		}
		if k.out.Spoken.App != policy.AppHTTP {
			t.Errorf("got %+v", k.out)
		}
	})
}

// TestMidStream: a flow whose beginning nobody saw, in both orientations.
func TestMidStream(t *testing.T) {
	tests := []struct {
		name, payload string
		app           policy.App
	}{
		{"http request", "GET / HTTP/1.1\r\n\r\n", policy.AppHTTP},
		{"http reply", "HTTP/1.1 200 OK\r\n\r\n", policy.AppHTTP},
		{"tls data", "\x17\x03\x03\x00\x40" + strings.Repeat("x", 64), policy.AppTLS},
		{"redis", "*1\r\n$4\r\nPING\r\n", policy.AppRedis},
		{"postgresql query", "Q" + be32(13) + "SELECT 1\x00", policy.AppPostgreSQL},
		{"amqp heartbeat", "\x08\x00\x00\x00\x00\x00\x00\xce", policy.AppAMQP},
	}
	for _, tt := range tests {
		for dir := FromClient; dir <= FromServer; dir++ {
			var s State
			s.Reset(policy.ProtoTCP, 80, true)
			if o := testEngine.Feed(&s, dir, 12345, []byte(tt.payload)); o.Spoken.App != tt.app {
				t.Errorf("%s from side %d: %+v", tt.name, dir, o)
			}
		}
	}
}

func TestStateSize(t *testing.T) {
	if n := unsafe.Sizeof(State{}); n > 6<<10 {
		t.Errorf("State is %d bytes, want at most 6 KiB", n)
	}
	if len(protocols) > setSize {
		t.Errorf("%d protocols do not fit a set", len(protocols))
	}
}

func TestNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("allocations are counted without the race detector")
	}
	var s State
	var a Attrs
	for _, sm := range samples() {
		proto := policy.ProtoTCP
		if sm.udp {
			proto = policy.ProtoUDP
		}
		turns := make([][]byte, len(sm.turns))
		for i := range turns {
			turns[i] = []byte(sm.turns[i])
		}
		if n := testing.AllocsPerRun(20, func() {
			s.Reset(proto, sm.port, false)
			var seq [2]uint32
			for i, b := range turns {
				d := sm.dir(i)
				testEngine.Feed(&s, d, seq[d], b)
				seq[d] += uint32(len(b))
			}
			s.Attrs(&a)
		}); n != 0 {
			t.Errorf("%s: %v allocations", sm.name, n)
		}
	}
}

func BenchmarkFeed(b *testing.B) {
	for _, sm := range samples() {
		b.Run(sm.name, func(b *testing.B) {
			proto := policy.ProtoTCP
			if sm.udp {
				proto = policy.ProtoUDP
			}
			turns := make([][]byte, len(sm.turns))
			for i := range turns {
				turns[i] = []byte(sm.turns[i])
			}
			var s State
			for b.Loop() {
				s.Reset(proto, sm.port, false)
				var seq [2]uint32
				for i, p := range turns {
					d := sm.dir(i)
					testEngine.Feed(&s, d, seq[d], p)
					seq[d] += uint32(len(p))
				}
			}
		})
	}
}

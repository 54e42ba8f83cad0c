package classify

import (
	"strings"
	"testing"
	"time"

	"gatehouse/policy"
)

// talk is a conversation that should be named, whatever the wire makes of it.
type talk struct {
	app   policy.App
	turns []step
}

func talks() []talk {
	tlsPieces := "" // a hello over three records
	hs := clientHello[5:]
	for len(hs) > 0 {
		n := min(30, len(hs))
		tlsPieces += "\x16\x03\x01\x00" + string(rune(n)) + hs[:n]
		hs = hs[n:]
	}
	return []talk{
		{policy.AppHTTP, []step{c(httpGet), s(httpOK)}},
		{policy.AppTLS, []step{c(clientHello), s(serverHello)}},
		{policy.AppTLS, []step{c(tlsPieces), s(serverHello)}},
		{policy.AppSSH, []step{s(sshBanner), c(sshBanner)}},
		{policy.AppMySQL, []step{s(mysqlHello), c(mysqlAnswer)}},
		{policy.AppPostgreSQL, []step{c(pgStartup), s(pgAuth)}},
		{policy.AppRedis, []step{c(redisPing), s("+PONG\r\n")}},
		{policy.AppDNS, []step{c("\x00\x14" + dnsQuery), s("\x00\x24" + dnsAnswer)}},
	}
}

// anyPort allows a from web to db on every port.
func anyPort(a policy.App) []policy.Statement {
	return []policy.Statement{allow(webIdx, dbIdx, plain(a), policy.PortRange{Proto: policy.ProtoTCP, Lo: 1, Hi: 65535})}
}

// TestHardCases: each way in which a conversation can arrive gives its name, or
// nothing; never another's.
func TestHardCases(t *testing.T) {
	ways := []struct {
		name        string
		port, sport uint16
		send        func(k *conn, st step)
	}{
		{"on a database's port", 3306, 40000, (*conn).say},
		{"on the port of HTTPS", 443, 40000, (*conn).say},
		{"on the port of mDNS", 5353, 40000, (*conn).say},
		{"from the port of DNS", 7000, 53, (*conn).say},
		{"from the port of HTTP", 7000, 80, (*conn).say},
		{"single bytes", 7000, 40000, func(k *conn, st step) {
			for i := range st.payload {
				k.say(step{server: st.server, payload: st.payload[i : i+1]})
			}
		}},
		{"one byte, and the rest", 7000, 40000, func(k *conn, st step) {
			k.say(step{server: st.server, payload: st.payload[:1]})
			k.say(step{server: st.server, payload: st.payload[1:]})
		}},
		{"two bytes, and the rest", 7000, 40000, func(k *conn, st step) {
			k.say(step{server: st.server, payload: st.payload[:2]})
			k.say(step{server: st.server, payload: st.payload[2:]})
		}},
		{"segments swapped", 7000, 40000, func(k *conn, st step) {
			h := len(st.payload) / 2
			k.at(st, h, st.payload[h:])
			k.at(st, 0, st.payload[:h])
			k.pass(st)
		}},
		{"everything twice", 7000, 40000, func(k *conn, st step) {
			k.at(st, 0, st.payload)
			k.at(st, 0, st.payload)
			k.pass(st)
		}},
		{"overlap by one", 7000, 40000, func(k *conn, st step) {
			h := len(st.payload) / 2
			k.at(st, 0, st.payload[:h+1])
			k.at(st, h, st.payload[h:])
			k.pass(st)
		}},
		{"sixty packets without payload before", 7000, 40000, func(k *conn, st step) {
			for range 60 {
				k.at(st, 0, "")
			}
			k.say(st)
		}},
		{"probes of a closed window", 7000, 40000, func(k *conn, st step) {
			for range 40 {
				k.at(st, -1, "\x00")
			}
			k.say(st)
		}},
		{"a minute of silence", 7000, 40000, func(k *conn, st step) {
			if k.find().Allowed() { // what is refused is forgotten by then
				k.b.now += int64(time.Minute)
				k.b.c.Sweep(k.b.now, 1000)
			}
			k.say(st)
		}},
		{"other bytes sent again", 7000, 40000, func(k *conn, st step) {
			h := len(st.payload) / 2
			k.at(st, 0, st.payload[:h])
			if r := k.at(st, 0, strings.Repeat("\x55", h)); r.Verdict == policy.Undecided && r.Reason != policy.ReasonConflict {
				k.b.t.Errorf("other bytes in the same place: %+v", r)
			}
			k.at(st, h, st.payload[h:])
			k.pass(st)
		}},
		{"a reset with data from nowhere", 7000, 40000, func(k *conn, st step) {
			k.b.send(k.w.tcp(k.b.t, k.sport, k.dport, RST, k.seq+100_000, 0, "reset"))
			k.say(st)
		}},
	}
	families(t, func(t *testing.T, v6 bool) {
		for _, tk := range talks() {
			for _, way := range ways {
				t.Run(tk.app.String()+"/"+way.name, func(t *testing.T) {
					for _, allowed := range []policy.App{tk.app, policy.AppMongoDB} {
						b := newBench(t, world{statements: anyPort(allowed)}, Config{})
						k := b.conn(wire{v6, webIdx, dbIdx}, way.sport, way.port)
						k.open()
						for _, st := range tk.turns {
							way.send(k, st)
						}
						// Who spoke first hears that it was received.
						k.at(step{server: true}, 0, "")
						f := k.find()
						if f == nil || f.Spoken.App != tk.app || (f.Verdict == policy.Allow) != (allowed == tk.app) || f.Verdict == policy.Undecided {
							t.Errorf("where %v is allowed: %+v", allowed, f)
						}
					}
				})
			}
		}
	})
}

// at sends a payload off bytes from where st's sender is.
func (k *conn) at(st step, off int, payload string) Result {
	w, sport, dport, seq, ack := k.w, k.sport, k.dport, k.seq, k.ack
	if st.server {
		w, sport, dport, seq, ack = w.back(), dport, sport, ack, seq
	}
	return k.b.send(w.tcp(k.b.t, sport, dport, ACK, seq+uint32(off), ack, payload))
}

// pass goes on behind st's payload.
func (k *conn) pass(st step) {
	if st.server {
		k.ack += uint32(len(st.payload))
	} else {
		k.seq += uint32(len(st.payload))
	}
}

func (k *conn) say(st step) {
	k.at(st, 0, st.payload)
	k.pass(st)
}

// TestOneSidedAndEmpty: a connection of which nothing is said, or one side only,
// gets no name that it did not earn.
func TestOneSidedAndEmpty(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		b := newBench(t, world{statements: anyPort(policy.AppSMTP)}, Config{})
		k := b.conn(wire{v6, webIdx, dbIdx}, 40000, 25)
		k.open()
		k.server("220 mail ready\r\n") // FTP would say the same
		b.now += int64(3 * time.Minute)
		b.c.Sweep(b.now, 1000)
		if f := k.find(); f.Verdict == policy.Allow || f.Spoken.App > policy.AppUnknown {
			t.Errorf("a greeting alone: %+v", f)
		}

		b = newBench(t, world{statements: anyPort(policy.AppHTTP)}, Config{})
		k = b.conn(wire{v6, webIdx, dbIdx}, 40000, 80)
		k.open()
		for range 100 {
			k.at(step{}, 0, "")
			k.at(step{server: true}, 0, "")
		}
		if f := k.find(); f.Verdict != policy.Undecided || f.Spoken.App != policy.AppNone {
			t.Errorf("nothing said: %+v", f)
		}
	})
}

// TestDamage: what its receiver throws away does not count as said.
func TestDamage(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		checksum := l3 + ipv4Head + 6
		if v6 {
			checksum = l3 + ipv6Head + 6
		}
		b := newBench(t, world{statements: statements()}, Config{})
		r := b.send(patch(out.udp(t, 40000, 53, dnsQuery), checksum, 0x5a))
		if want(t, "damaged query", r, false, policy.ReasonBadHeader); r.Violation || r.Verdict != policy.Undecided {
			t.Errorf("%+v", r)
		}
		want(t, "damaged query, then the answer", b.send(out.back().udp(t, 53, 40000, "hello")), false, policy.ReasonAppUnknown)

		none := patch(patch(out.udp(t, 40001, 53, dnsQuery), checksum, 0), checksum+1, 0)
		if v6 { // RFC 8200 section 8.1: receivers discard it
			want(t, "no checksum", b.send(none), false, policy.ReasonBadHeader)
		} else {
			want(t, "no checksum", b.send(none), true, policy.ReasonNone)
		}
	})
}

// TestResetWithData: no receiver keeps what a reset carries; it allows nothing,
// also where the connection goes on.
func TestResetWithData(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, goesOn := range []struct {
			name string
			send func(k *conn) Result
		}{
			{"the server", func(k *conn) Result { return k.server("\x00\x01\x02\x03\x00\x01\x02\x03") }},
			{"ssh in its place", func(k *conn) Result { return k.client(sshBanner) }},
			{"ssh behind it", func(k *conn) Result { k.seq += uint32(len(httpGet)); return k.client(sshBanner) }},
		} {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(wire{v6, webIdx, dbIdx}, 40000, 80)
			k.open()
			if r := b.send(k.w.tcp(t, k.sport, k.dport, RST, k.seq, 0, httpGet)); r.Verdict == policy.Allow {
				t.Errorf("allowed by a reset: %+v", r)
			}
			if r := goesOn.send(k); r.Forward || r.Verdict == policy.Allow {
				t.Errorf("%s: %+v", goesOn.name, r)
			}
		}
	})
}

// TestSamePorts: a transport's flow says nothing of the other's on the same
// ports, and one that was refused says nothing once it is forgotten.
func TestSamePorts(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{})
		b.send(out.udp(t, 40000, 53, dnsQuery))
		if r := b.send(out.back().udp(t, 53, 40000, dnsAnswer)); r.Verdict != policy.Allow {
			t.Fatalf("%+v", r)
		}
		k := b.conn(out, 40000, 53)
		k.open()
		want(t, "http over tcp", k.client(httpGet), false, policy.ReasonApp)

		want(t, "unknown bytes", b.send(out.udp(t, 40001, 53, "hello")), false, policy.ReasonAppUnknown)
		if r := b.send(out.udp(t, 40001, 53, dnsQuery)); r.Forward {
			t.Errorf("dns where something else was refused: %+v", r)
		}
		b.now += idleOpening + 1
		b.c.Sweep(b.now, 1000)
		want(t, "dns, afterwards", b.send(out.udp(t, 40001, 53, dnsQuery)), true, policy.ReasonNone)
	})
}

// TestFullTable: with no room for another flow new ones are refused by name,
// nothing that lives is lost, and what ends makes room.
func TestFullTable(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{Flows: 64, Undecided: 64, PerEndpoint: 1 << 16})
		k := b.conn(out, 30000, 80)
		k.open()
		full := false
		for i := range 1000 {
			b.in.Slot = uint16(1 + i%50)
			r := b.send(out.tcp(t, uint16(40000+i), 80, SYN, 1, 0, ""))
			if full = !r.Forward; full {
				if want(t, "one more", r, false, policy.ReasonFlowQuota); !r.Violation || r.Offload {
					t.Errorf("%+v", r)
				}
				break
			}
		}
		if !full {
			t.Fatalf("%d flows", b.c.Len())
		}
		b.in.Slot = 1
		want(t, "one that lives", k.client(httpGet), true, policy.ReasonNone)
		if r := k.server(httpOK); r.Verdict != policy.Allow {
			t.Errorf("%+v", r)
		}
		b.now += idleOpening + 1
		for range 10 {
			b.c.Sweep(b.now, 100)
		}
		want(t, "after expiry", b.send(out.tcp(t, 50001, 80, SYN, 1, 0, "")), true, policy.ReasonNone)
	})
}

package classify

import (
	"strings"
	"testing"
	"time"

	"gatehouse/policy"
)

// want checks what became of a packet.
func want(t *testing.T, what string, r Result, forward bool, reason policy.Reason) {
	t.Helper()
	if r.Forward != forward || r.Reason != reason {
		t.Errorf("%s: forward %v, reason %v; want %v, %v", what, r.Forward, r.Reason, forward, reason)
	}
}

// TestWhoMayBegin holds threat 14: the verdict is on who initiates, and nothing
// that the other side sends opens a flow.
func TestWhoMayBegin(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx} // web may call db:80
		fresh := func() *bench { return newBench(t, world{statements: statements()}, Config{}) }
		none := policy.ReasonNone

		t.Run("responder may not begin", func(t *testing.T) {
			b := fresh()
			want(t, "SYN from db's port 80", b.send(out.back().tcp(t, 80, 40000, SYN, 1, 0, "")), false, policy.ReasonNoRule)
		})
		t.Run("SYN-ACK of no flow", func(t *testing.T) {
			b := fresh()
			want(t, "from the server", b.send(out.back().tcp(t, 80, 40000, SYN|ACK, 1, 1, "")), false, policy.ReasonNoFlow)
			want(t, "from the client", b.send(out.tcp(t, 40000, 80, SYN|ACK, 1, 1, "")), false, policy.ReasonNoFlow)
		})
		t.Run("ACK first where nothing is allowed", func(t *testing.T) {
			b := fresh()
			want(t, "ACK", b.send(out.tcp(t, 40000, 8080, ACK, 1, 1, "x")), false, policy.ReasonNoFlow)
			want(t, "FIN", b.send(out.tcp(t, 40000, 8080, FIN|ACK, 1, 1, "")), false, policy.ReasonNoFlow)
			r := b.send(out.tcp(t, 40000, 8080, RST, 1, 0, ""))
			want(t, "RST", r, false, policy.ReasonNoFlow)
			if r.Violation {
				t.Error("a stray RST is no violation")
			}
			if b.c.Len() != 0 {
				t.Errorf("%d flows", b.c.Len())
			}
		})
		t.Run("simultaneous open", func(t *testing.T) {
			b := fresh()
			want(t, "SYN", b.send(out.tcp(t, 40000, 80, SYN, 1, 0, "")), true, none)
			want(t, "SYN back", b.send(out.back().tcp(t, 80, 40000, SYN, 9, 0, "")), false, policy.ReasonBadHeader)
			want(t, "SYN-ACK of the initiator", b.send(out.tcp(t, 40000, 80, SYN|ACK, 1, 10, "")), false, policy.ReasonBadHeader)
		})
		t.Run("split handshake", func(t *testing.T) {
			b := fresh()
			b.send(out.tcp(t, 40000, 80, SYN, 1, 0, ""))
			want(t, "ACK", b.send(out.back().tcp(t, 80, 40000, ACK, 9, 2, "")), true, none)
			want(t, "SYN of the server", b.send(out.back().tcp(t, 80, 40000, SYN, 9, 0, "")), false, policy.ReasonBadHeader)
		})
		t.Run("SYN retransmitted", func(t *testing.T) {
			b := fresh()
			b.send(out.tcp(t, 40000, 80, SYN, 1, 0, ""))
			r := b.send(out.tcp(t, 40000, 80, SYN, 1, 0, ""))
			want(t, "again", r, true, none)
			if r.New || r.Retract {
				t.Error("a retransmitted SYN is no new flow")
			}
		})
		t.Run("data in SYN", func(t *testing.T) {
			b := fresh()
			r := b.send(out.tcp(t, 40000, 80, SYN, 1, 0, sshBanner))
			want(t, "ssh in the SYN", r, false, policy.ReasonApp)
			b = fresh()
			want(t, "http in the SYN", b.send(out.tcp(t, 40000, 80, SYN, 100, 0, httpGet)), true, none)
			b.send(out.back().tcp(t, 80, 40000, SYN|ACK, 500, 101+uint32(len(httpGet)), ""))
			r = b.send(out.back().tcp(t, 80, 40000, ACK, 501, 101+uint32(len(httpGet)), httpOK))
			if want(t, "reply", r, true, none); r.Verdict != policy.Allow || !r.Offload {
				t.Errorf("%+v", r)
			}
		})
		t.Run("urgent data while undecided", func(t *testing.T) {
			b := fresh()
			k := b.conn(out, 40000, 80)
			k.open()
			want(t, "URG", b.send(out.tcp(t, 40000, 80, ACK|URG, k.seq, k.ack, "GX")), false, policy.ReasonBadHeader)
			want(t, "plain", k.client(httpGet), true, none)
		})
		t.Run("damaged segment does not count as seen", func(t *testing.T) {
			b := fresh()
			k := b.conn(out, 40000, 80)
			k.open()
			bad := out.tcp(t, 40000, 80, ACK, k.seq, k.ack, httpGet)
			bad[len(bad)-1] ^= 1
			r := b.send(bad)
			want(t, "damaged", r, false, policy.ReasonBadHeader)
			if r.Violation {
				t.Error("damage is no violation")
			}
			want(t, "ssh in its place", k.client(sshBanner), false, policy.ReasonApp)
		})
		t.Run("conflicting retransmission", func(t *testing.T) {
			b := fresh()
			k := b.conn(out, 40000, 80)
			k.open()
			seq := k.seq
			want(t, "first", k.client("GET / HT"), true, none)
			r := b.send(out.tcp(t, 40000, 80, ACK, seq, k.ack, sshBanner[:8]))
			want(t, "other bytes", r, false, policy.ReasonConflict)
			if !r.Violation || r.Verdict != policy.Undecided {
				t.Errorf("%+v", r)
			}
			want(t, "the rest", k.client("TP/1.1\r\n\r\n"), true, none)
			if r := k.server(httpOK); r.Verdict != policy.Allow {
				t.Errorf("%+v", r)
			}
		})
	})
}

// TestNewConversation: a SYN on a known key begins anew, with app-ID from
// scratch, and the kernel's entry must go.
func TestNewConversation(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		for _, end := range []string{"rst", "fin", "none"} {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			k.client(httpGet)
			if r := k.server(httpOK); r.Verdict != policy.Allow {
				t.Fatalf("%+v", r)
			}
			switch end {
			case "rst":
				b.send(out.tcp(t, 40000, 80, RST, k.seq, 0, ""))
			case "fin":
				b.send(out.tcp(t, 40000, 80, FIN|ACK, k.seq, k.ack, ""))
				b.send(out.back().tcp(t, 80, 40000, FIN|ACK, k.ack, k.seq+1, ""))
			}
			k.seq += 100_000
			r := b.send(out.tcp(t, 40000, 80, SYN, k.seq, 0, ""))
			if !r.Forward || !r.Retract || r.Offload {
				t.Errorf("SYN after %s: %+v", end, r)
			}
			k.seq, k.ack = k.seq+1, k.ack+5000
			if end == "fin" && !r.New {
				t.Errorf("SYN after %s: %+v", end, r)
			}
			r = b.send(out.back().tcp(t, 80, 40000, SYN|ACK, k.ack, k.seq, ""))
			if k.ack++; !r.Forward || r.Verdict != policy.Undecided {
				t.Errorf("SYN-ACK after %s: %+v", end, r)
			}
			want(t, "ssh after "+end, k.client(sshBanner), false, policy.ReasonApp)
			if b.c.Len() != 1 {
				t.Errorf("%d flows", b.c.Len())
			}
		}
		// Once closed, the other side may begin if policy lets it: here it does not.
		b := newBench(t, world{statements: statements()}, Config{})
		k := b.conn(out, 40000, 80)
		k.open()
		b.send(out.tcp(t, 40000, 80, FIN|ACK, k.seq, k.ack, ""))
		b.send(out.back().tcp(t, 80, 40000, FIN|ACK, k.ack, k.seq+1, ""))
		want(t, "responder on a closed key", b.send(out.back().tcp(t, 80, 40000, SYN, 5, 0, "")), false, policy.ReasonNoRule)
	})
}

// TestForgery: SYN and RST from somebody who only knows the ports end nothing
// (threat 14).
func TestForgery(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		for _, flags := range []TCPFlags{SYN, RST, RST | ACK} {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			k.client(httpGet)
			k.server(httpOK)
			b.send(out.tcp(t, 40000, 80, flags, 0xdeadbeef, 0, ""))
			b.now += int64(time.Second)
			// The responder's challenge ACK (RFC 5961), then both go on.
			want(t, "challenge", b.send(out.back().tcp(t, 80, 40000, ACK, k.ack, k.seq, "")), true, policy.ReasonNone)
			r := k.client(httpGet)
			if want(t, "request", r, true, policy.ReasonNone); r.Verdict != policy.Allow {
				t.Errorf("%+v", r)
			}
			b.now += int64(time.Minute)
			b.c.Sweep(b.now, 1000)
			r = k.server(httpOK)
			if want(t, "reply", r, true, policy.ReasonNone); r.Verdict != policy.Allow || r.New || !r.Offload {
				t.Errorf("%+v", r)
			}
			want(t, "SYN with data", b.send(out.tcp(t, 40000, 80, SYN, 77, 0, sshBanner)), false, policy.ReasonBadHeader)
		}
	})
}

// TestEvasion: bytes that get through before the verdict are bounded, whatever
// their split (threat 15).
func TestEvasion(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		start := func() *conn {
			k := newBench(t, world{statements: statements()}, Config{}).conn(out, 40000, 80)
			k.open()
			return k
		}
		passed := func(k *conn, piece func(i int) string) (n int) {
			for i := range 2000 {
				p := piece(i)
				r := k.client(p)
				if r.Forward {
					n += len(p)
				}
				if r.Verdict == policy.Allow {
					t.Fatal("allowed")
				}
			}
			return n
		}
		if n := passed(start(), func(i int) string { return sshBanner[i%len(sshBanner):][:1] }); n > 8 {
			t.Errorf("ssh byte by byte: %d bytes passed", n)
		}
		if n := passed(start(), func(int) string { return "A" }); n > 256 {
			t.Errorf("a method without end: %d bytes passed", n)
		}
		if n := passed(start(), func(int) string { return "\x00" }); n > 1024 {
			t.Errorf("zeros: %d bytes passed", n)
		}
		k := start()
		n := 0
		for i := range 2000 { // never the first byte: nothing can be read
			p := strings.Repeat("x", 1000)
			r := k.b.send(out.tcp(t, 40000, 80, ACK, k.seq+1+uint32(i)*1000, k.ack, p))
			if r.Forward {
				n += len(p)
			}
		}
		if n > 5000 {
			t.Errorf("behind a gap: %d bytes passed", n)
		}
		// Packets without payload cost nothing.
		k = start()
		for range 500 {
			want(t, "ACK", k.client(""), true, policy.ReasonNone)
		}
		k.client(httpGet)
		if r := k.server(httpOK); r.Verdict != policy.Allow {
			t.Errorf("after 500 ACKs: %+v", r)
		}
	})
}

func TestUDP(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{})
		r := b.send(out.udp(t, 40000, 53, dnsQuery))
		want(t, "query", r, true, policy.ReasonNone)
		if r.Verdict != policy.Undecided || r.Offload {
			t.Errorf("%+v", r)
		}
		r = b.send(out.back().udp(t, 53, 40000, dnsAnswer))
		if want(t, "answer", r, true, policy.ReasonNone); r.Verdict != policy.Allow || !r.Offload || r.Flow.Spoken.App != policy.AppDNS {
			t.Errorf("%+v", r)
		}
		want(t, "unknown bytes on 53", b.send(out.udp(t, 40001, 53, "hello")), false, policy.ReasonAppUnknown)
		want(t, "any", b.send(out.udp(t, 40001, 9000, "hello")), true, policy.ReasonNone)
		want(t, "server begins", b.send(out.back().udp(t, 53, 40002, dnsAnswer)), false, policy.ReasonNoRule)
		r = b.send(out.udp(t, 40003, 54, dnsQuery))
		if want(t, "other port", r, false, policy.ReasonNoRule); !r.Offload || !r.Violation || r.Verdict != policy.Drop {
			t.Errorf("%+v", r)
		}
		r = b.send(out.udp(t, 40003, 54, dnsQuery))
		if want(t, "again", r, false, policy.ReasonNoRule); r.Offload || r.Violation || r.Flow.Violations != 2 {
			t.Errorf("%+v", r)
		}
	})
}

// TestOldFlows holds V9.
func TestOldFlows(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		start := func(ran bool) *bench {
			b := newBench(t, world{statements: statements()}, Config{})
			b.in.RanBefore, b.in.Attached = ran, b.now-int64(10*time.Second)
			return b
		}
		t.Run("reply of an old flow", func(t *testing.T) {
			b := start(true)
			r := b.send(out.back().tcp(t, 6379, 40000, PSH|ACK, 5, 5, "$3\r\nfoo\r\n"))
			want(t, "push", r, true, policy.ReasonNone)
			if r.Flow == nil || !r.Flow.MidStream || r.Flow.Query().DstPort != 6379 {
				t.Errorf("%+v", r.Flow)
			}
		})
		t.Run("an old flow that cannot show what it is goes on", func(t *testing.T) {
			b := start(true)
			for i := range 30 {
				r := b.send(out.tcp(t, 40000, 3306, PSH|ACK, 5+uint32(i)*100, 5, "\x03"+strings.Repeat("\xee", 99)))
				want(t, "bytes", r, true, policy.ReasonNone)
			}
			if b.out.Verdict != policy.Allow {
				t.Errorf("verdict %v", b.out.Verdict)
			}
		})
		t.Run("an old flow that shows something else ends", func(t *testing.T) {
			b := start(true)
			want(t, "http on 3306", b.send(out.tcp(t, 40000, 3306, PSH|ACK, 5, 5, httpGet)), false, policy.ReasonApp)
		})
		t.Run("not so where nothing ran before", func(t *testing.T) {
			b := start(false)
			var last Result
			for i := range 30 {
				last = b.send(out.tcp(t, 40000, 3306, PSH|ACK, 5+uint32(i)*100, 5, "\x03"+strings.Repeat("\xee", 99)))
			}
			want(t, "unknown", last, false, policy.ReasonAppUnknown)
		})
		t.Run("udp reply within a minute", func(t *testing.T) {
			b := start(true)
			want(t, "answer", b.send(out.back().udp(t, 53, 40000, dnsAnswer)), true, policy.ReasonNone)
			b = start(true)
			b.in.Attached = b.now - int64(61*time.Second)
			want(t, "too late", b.send(out.back().udp(t, 53, 40000, dnsAnswer)), false, policy.ReasonNoRule)
			b = start(false)
			want(t, "not before us", b.send(out.back().udp(t, 53, 40000, dnsAnswer)), false, policy.ReasonNoRule)
		})
	})
}

// TestNewTable holds V8.
func TestNewTable(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		established := func(port uint16) (*bench, *conn) {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, port)
			k.open()
			k.client(httpGet)
			k.server(httpOK)
			if b.out.Verdict != policy.Allow {
				t.Fatalf("%+v", b.out)
			}
			return b, k
		}
		same := world{statements: statements(), epoch: 2}
		nothing := world{epoch: 2}
		other := world{epoch: 2, statements: []policy.Statement{allow(webIdx, dbIdx, plain(policy.AppRedis), tcpPort(80), tcpPort(9000))}}

		b, k := established(80)
		b.c.SetTable(same.table(t))
		if r := k.client(httpGet); !r.Forward || !r.Offload || r.Violation {
			t.Errorf("same policy: %+v", r)
		}
		b, k = established(80)
		b.c.SetTable(nothing.table(t))
		r := k.client(httpGet)
		want(t, "forbidden now", r, false, policy.ReasonPolicyChanged)
		if !r.Offload || !r.Violation || r.Verdict != policy.Drop {
			t.Errorf("%+v", r)
		}
		b.c.SetTable(world{statements: statements(), epoch: 3}.table(t))
		want(t, "allowed again", k.client(httpGet), true, policy.ReasonNone)

		b, k = established(80)
		b.c.SetTable(other.table(t))
		want(t, "other application now", k.client(httpGet), false, policy.ReasonPolicyChanged)

		// Policy had not asked for the application and does now.
		b, k = established(9000)
		b.c.SetTable(other.table(t))
		want(t, "http where redis is asked", k.client(httpGet), false, policy.ReasonApp)
		b, k = established(9000)
		b.c.SetTable(other.table(t))
		want(t, "redis", k.client(redisPing), true, policy.ReasonNone)

		// Undecided flows go on under the new table.
		b = newBench(t, world{statements: statements()}, Config{})
		k = b.conn(out, 40000, 80)
		k.open()
		b.c.SetTable(nothing.table(t))
		want(t, "undecided", k.client(httpGet), false, policy.ReasonPolicyChanged)
	})
}

// TestObserve holds V4: a no is only recorded where the side whose it is observes.
func TestObserve(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		both := world{statements: statements(), observe: []int{webIdx, dbIdx}}
		b := newBench(t, both, Config{})
		b.in.Mode = policy.Observe
		r := b.send(out.tcp(t, 40000, 8080, SYN, 1, 0, ""))
		want(t, "no rule", r, true, policy.ReasonNone)
		if !r.Violation || !r.Judgement.Denied || r.Judgement.Reason != policy.ReasonNoRule || !r.Offload || r.Verdict != policy.Allow {
			t.Errorf("%+v", r)
		}
		k := b.conn(out, 40001, 80)
		k.open()
		// At once: a server that does not speak it hangs up without a word.
		r = k.client(sshBanner)
		if want(t, "ssh", r, true, policy.ReasonNone); !r.Violation || r.Judgement.Reason != policy.ReasonApp || r.Verdict != policy.Allow {
			t.Errorf("%+v", r)
		}
		r = k.server(sshBanner)
		if want(t, "ssh", r, true, policy.ReasonNone); r.Violation || r.Verdict != policy.Allow {
			t.Errorf("recorded once: %+v", r)
		}
		k = b.conn(out, 40002, 80)
		k.open()
		seq := k.seq
		k.client("GET / HT")
		r = b.send(out.tcp(t, 40002, 80, ACK, seq, k.ack, "SSH-2.0-"))
		if want(t, "conflict", r, true, policy.ReasonNone); !r.Violation || r.Judgement.Reason != policy.ReasonConflict {
			t.Errorf("%+v", r)
		}
		want(t, "mid-stream", b.send(out.tcp(t, 40003, 8080, ACK, 1, 1, "x")), true, policy.ReasonNone)

		// The observed side lets it out, the enforcing one does not let it in.
		b = newBench(t, world{statements: statements(), observe: []int{webIdx}}, Config{})
		b.in.Mode = policy.Observe
		want(t, "enforced by the other side", b.send(out.tcp(t, 40000, 8080, SYN, 1, 0, "")), false, policy.ReasonNoRule)
		want(t, "mid-stream, the same", b.send(out.tcp(t, 40003, 8080, ACK, 1, 1, "x")), false, policy.ReasonNoFlow)
		want(t, "icmp type, the same", b.send(out.icmp(t, 13, 130, 1, "x")), false, policy.ReasonICMPType)
	})
}

// TestFragments holds threat 9.
func TestFragments(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		none := policy.ReasonNone
		big := out.udp(t, 40000, 9000, strings.Repeat("x", 992)) // 1,000 bytes of UDP
		denied := out.udp(t, 40000, 9001, strings.Repeat("x", 992))
		start := func() *bench { return newBench(t, world{statements: statements()}, Config{}) }

		b := start()
		want(t, "first", b.send(fragment(t, big, 1, 0, 400, true)), true, none)
		want(t, "second", b.send(fragment(t, big, 1, 400, 400, true)), true, none)
		r := b.send(fragment(t, big, 1, 800, 200, false))
		want(t, "last", r, true, none)
		if r.Offload {
			t.Error("a fragment offloads")
		}
		b = start()
		want(t, "denied first", b.send(fragment(t, denied, 1, 0, 400, true)), false, policy.ReasonNoRule)
		want(t, "denied second", b.send(fragment(t, denied, 1, 400, 400, true)), false, policy.ReasonNoRule)

		b = start()
		want(t, "without first", b.send(fragment(t, big, 1, 400, 400, true)), false, policy.ReasonFragment)
		b.send(fragment(t, big, 2, 0, 400, true))
		want(t, "of another datagram", b.send(fragment(t, big, 3, 400, 400, true)), false, policy.ReasonFragment)

		b = start()
		b.send(fragment(t, big, 1, 0, 400, true))
		want(t, "overlap", b.send(fragment(t, big, 1, 392, 400, true)), false, policy.ReasonFragment)
		want(t, "after the overlap", b.send(fragment(t, big, 1, 800, 200, false)), false, policy.ReasonFragment)

		b = start()
		b.send(fragment(t, big, 1, 0, 400, true))
		want(t, "second first", b.send(fragment(t, big, 1, 0, 400, true)), false, policy.ReasonFragment)
		want(t, "after it", b.send(fragment(t, big, 1, 400, 400, true)), false, policy.ReasonFragment)

		b = start()
		b.send(fragment(t, big, 1, 0, 400, true))
		b.send(fragment(t, big, 1, 400, 200, false))
		want(t, "past the end", b.send(fragment(t, big, 1, 600, 200, true)), false, policy.ReasonFragment)

		b = start()
		b.send(fragment(t, big, 1, 0, 400, true))
		b.now += fragmentLife
		want(t, "too late", b.send(fragment(t, big, 1, 400, 400, true)), false, policy.ReasonFragment)

		// TCP of an undecided flow must not come in pieces; of an allowed one it may.
		b = start()
		k := b.conn(out, 40000, 80)
		k.open()
		seg := out.tcp(t, 40000, 80, ACK, k.seq, k.ack, "GET / HTTP/1.1\r\nHost: "+strings.Repeat("a", 500)+"\r\n\r\n")
		want(t, "tcp undecided", b.send(fragment(t, seg, 4, 0, 200, true)), false, policy.ReasonFragment)
		k = b.conn(out, 40001, 9000)
		k.open()
		seg = out.tcp(t, 40001, 9000, ACK, k.seq, k.ack, strings.Repeat("a", 500))
		want(t, "tcp allowed", b.send(fragment(t, seg, 5, 0, 200, true)), true, none)
		want(t, "tcp allowed, second", b.send(fragment(t, seg, 5, 200, 320, false)), true, none)

		// Pieces count against the budget of an undecided flow.
		b = start()
		ask := out.udp(t, 40000, 53, dnsQuery+strings.Repeat("\x00", 60_000))
		n := 0
		for id := range uint32(40) {
			for off := 0; off+1400 <= 60_000; off += 1400 {
				f := fragment(t, ask, id, off, 1400, true)
				if b.send(f).Forward {
					n += 1400
				}
			}
		}
		if n > 20_000 {
			t.Errorf("%d bytes of an undecided flow passed in fragments", n)
		}
		// A reply that is too long for one packet is read in its first part.
		b = start()
		b.send(out.udp(t, 40000, 53, dnsQuery))
		long := out.back().udp(t, 53, 40000, dnsAnswer[:6]+"\x00\x02"+dnsAnswer[8:]+"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x03\xe8"+strings.Repeat("t", 1000))
		r = b.send(fragment(t, long, 9, 0, 800, true))
		if want(t, "first part of a reply", r, true, none); r.Verdict != policy.Allow {
			t.Errorf("%+v", r)
		}
		// The cache is bounded.
		for id := range uint32(20_000) {
			b.send(fragment(t, big, id+100, 0, 400, true))
		}
		if l := b.c.fragments.of(b.in.Slot).Len(); l > 1<<8 {
			t.Errorf("%d datagrams are remembered", l)
		}
	})
}

// TestOtherProtocols holds threats 7 and 8: what no statement names does not pass.
func TestOtherProtocols(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		at := map[bool]int{false: l3 + 9, true: l3 + 6}[v6]
		udp := wire{v6, webIdx, dbIdx}.udp(t, 1000, 53, strings.Repeat("x", 100))
		b := newBench(t, world{statements: statements()}, Config{Flows: 4096, Undecided: 8})
		for proto := range 256 {
			switch policy.Proto(proto) {
			case policy.ProtoTCP, policy.ProtoUDP, policy.ProtoICMP, policy.ProtoICMPv6:
				continue
			}
			r := b.send(patch(udp, at, byte(proto)))
			if r.Forward || r.Offload || r.Reason != policy.ReasonProtocol && r.Reason != policy.ReasonExtensionHeader && proto != 44 {
				t.Errorf("protocol %d: %+v", proto, r)
			}
		}
	})
}

func TestQuota(t *testing.T) {
	w := wire{false, webIdx, dbIdx}
	b := newBench(t, world{statements: statements()}, Config{Flows: 100, Undecided: 100, PerEndpoint: 40})
	k := b.conn(w, 30000, 80)
	k.open()
	for i := range 200 {
		r := b.send(w.tcp(t, uint16(40000+i), 80, SYN, 1, 0, ""))
		if i >= 39 {
			want(t, "over quota", r, false, policy.ReasonFlowQuota)
		}
	}
	want(t, "established", k.client(httpGet), true, policy.ReasonNone)
	b.in.Slot = 2
	want(t, "another endpoint", b.send(w.tcp(t, 50000, 80, SYN, 1, 0, "")), true, policy.ReasonNone)
	b.in.Slot = 1
	for i := range 100 {
		want(t, "refused by policy", b.send(w.tcp(t, uint16(40000+i), 8080, SYN, 1, 0, "")), false, policy.ReasonNoRule)
	}
	b.now += idleOpening + 1
	for range 10 {
		b.c.Sweep(b.now, 10)
	}
	want(t, "after expiry", b.send(w.tcp(t, 50001, 80, SYN, 1, 0, "")), true, policy.ReasonNone)

	// App-ID's states are shared out the same way.
	b = newBench(t, world{statements: statements()}, Config{Flows: 100, Undecided: 10, PerEndpoint: 40})
	passed := 0
	for i := range 20 {
		k := b.conn(w, uint16(40000+i), 80)
		k.open()
		if r := k.client("GET /"); r.Forward {
			passed++
		} else if r.Reason != policy.ReasonMissBudget {
			t.Errorf("%+v", r)
		}
	}
	if passed != 4 {
		t.Errorf("%d flows of one endpoint are read, want 4", passed)
	}
}

func TestExpiry(t *testing.T) {
	tests := []struct {
		name string
		make func(b *bench, w wire)
		idle time.Duration
	}{
		{"tcp opening", func(b *bench, w wire) { b.send(w.tcp(b.t, 40000, 80, SYN, 1, 0, "")) }, 30 * time.Second},
		{"tcp lasting", func(b *bench, w wire) { b.conn(w, 40000, 80).open() }, 2 * time.Hour},
		{"tcp half closed", func(b *bench, w wire) {
			k := b.conn(w, 40000, 80)
			k.open()
			b.send(w.tcp(b.t, 40000, 80, FIN|ACK, k.seq, k.ack, ""))
		}, 2 * time.Minute},
		{"tcp reset", func(b *bench, w wire) {
			k := b.conn(w, 40000, 80)
			k.open()
			b.send(w.tcp(b.t, 40000, 80, RST, k.seq, 0, ""))
		}, 10 * time.Second},
		{"udp asked", func(b *bench, w wire) { b.send(w.udp(b.t, 40000, 53, dnsQuery)) }, 30 * time.Second},
		{"udp answered", func(b *bench, w wire) {
			b.send(w.udp(b.t, 40000, 53, dnsQuery))
			b.send(w.back().udp(b.t, 53, 40000, dnsAnswer))
		}, 180 * time.Second},
		{"echo", func(b *bench, w wire) { b.send(w.icmp(b.t, 8, 128, 1, "x")) }, 30 * time.Second},
		{"dropped", func(b *bench, w wire) { b.send(w.tcp(b.t, 40000, 8080, SYN, 1, 0, "")) }, 5 * time.Second},
		{"dropped by application", func(b *bench, w wire) {
			k := b.conn(w, 40000, 80)
			k.open()
			k.client(sshBanner)
		}, 5 * time.Second},
	}
	families(t, func(t *testing.T, v6 bool) {
		for _, tt := range tests {
			ended := 0
			b := newBench(t, world{statements: statements()}, Config{Ended: func(*Flow) { ended++ }})
			tt.make(b, wire{v6, webIdx, dbIdx})
			last := b.now
			if n := b.c.Sweep(last+int64(tt.idle)-1e9, 1000); n != 0 || b.c.Len() != 1 {
				t.Errorf("%s: gone a second too early", tt.name)
			}
			if n := b.c.Sweep(last+int64(tt.idle)+1e9, 1000); n != 1 || b.c.Len() != 0 || ended != 1 {
				t.Errorf("%s: still there after %v", tt.name, tt.idle)
			}
			if len(b.c.freeStates) != len(b.c.states) {
				t.Errorf("%s: a state is lost", tt.name)
			}
		}
	})
}

// TestSilence: a flow that fell silent before it showed what it is gives its
// state back, and is judged by what is known.
func TestSilence(t *testing.T) {
	w := wire{false, webIdx, dbIdx}
	b := newBench(t, world{statements: statements()}, Config{})
	k, q := b.conn(w, 40000, 3306), b.conn(w, 40001, 80)
	k.open()
	k.server(mysqlHello)
	q.open()
	q.client("GET ")
	b.now += int64(time.Minute)
	b.c.Sweep(b.now, 1000)
	if len(b.c.freeStates) != 30 {
		t.Errorf("%d states free, want 30", len(b.c.freeStates))
	}
	b.now += int64(2 * time.Minute)
	b.c.Sweep(b.now, 1000)
	if len(b.c.freeStates) != 32 {
		t.Errorf("%d states free, want 32", len(b.c.freeStates))
	}
	want(t, "mysql", k.client(mysqlAnswer), true, policy.ReasonNone)
	r := q.client("/ HTTP/1.1\r\n\r\n")
	if want(t, "half a request line", r, false, policy.ReasonAppUnknown); !r.Violation {
		t.Error("not reported")
	}
}

func TestLifecycle(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		k1, _ := MakeKey(zone, policy.ProtoTCP, addr(webIdx, v6).As16(), addr(dbIdx, v6).As16(), 40000, 80)
		e := Entry{Key: k1, Epoch: 1, Slot: 1, Verdict: policy.Allow, Spoken: policy.Spoken{App: policy.AppHTTP}}
		t.Run("adopt", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{})
			if !b.c.Adopt(e, b.now) || b.c.Adopt(e, b.now) {
				t.Fatal("adopted twice or not at all")
			}
			want(t, "goes on", b.send(out.tcp(t, 40000, 80, ACK, 1, 1, "\x01\x02")), true, policy.ReasonNone)
			want(t, "its error", b.send(icmpError(t, out.back(), 3, 1, out.tcp(t, 40000, 80, ACK, 1, 1, ""))), true, policy.ReasonNone)
		})
		t.Run("adopt what policy forbids now", func(t *testing.T) {
			b := newBench(t, world{epoch: 2}, Config{})
			b.c.Adopt(e, b.now)
			want(t, "ends", b.send(out.tcp(t, 40000, 80, ACK, 1, 1, "")), false, policy.ReasonPolicyChanged)
		})
		t.Run("touch", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{})
			b.c.Adopt(e, b.now)
			later := b.now + int64(time.Hour)
			f := b.c.Find(k1)
			if f == nil {
				t.Fatal("no flow")
			}
			b.c.Touch(f, [2]uint64{5, 6}, [2]uint64{50, 60}, 0, later)
			if f.Packets != [2]uint64{5, 6} || f.Bytes != [2]uint64{50, 60} || f.Seen != later || f.State != Lasting {
				t.Errorf("%+v", f)
			}
			b.c.Touch(f, [2]uint64{}, [2]uint64{}, 3, later)
			if f.State != Closed {
				t.Errorf("%+v", f)
			}
		})
	})
}

func TestNoTable(t *testing.T) {
	b := &bench{t: t, c: New(Config{Flows: 16, Undecided: 2}), in: Ingress{Zone: zone}}
	w := wire{false, webIdx, dbIdx}
	want(t, "before the first table", b.send(w.tcp(t, 1, 80, SYN, 1, 0, "")), false, policy.ReasonNotAdmitted)
}

// TestZones: the same addresses in two networks are two conversations.
func TestZones(t *testing.T) {
	b := newBench(t, world{statements: statements()}, Config{})
	w := wire{false, webIdx, dbIdx}
	b.conn(w, 40000, 80).open()
	b.in.Zone = 8
	r := b.send(w.tcp(t, 40000, 80, ACK, 1, 1, ""))
	if !r.New || r.Flow.Key.Zone != 8 || b.c.Len() != 2 {
		t.Errorf("%+v", r)
	}
}

// TestNoAllocs: every kind of packet, both families, both directions, decided
// and undecided.
func TestNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("allocations are counted without the race detector")
	}
	families(t, func(t *testing.T, v6 bool) {
		out, stranger := wire{v6, webIdx, dbIdx}, wire{v6, strangerIdx, dbIdx}
		udp := out.udp(t, 40000, 9000, strings.Repeat("x", 992))
		syn := out.tcp(t, 40000, 80, SYN, 1, 0, "")
		conversation := func(port uint16, turns ...step) [][]byte {
			seq, ack := uint32(1), uint32(1)
			frames := [][]byte{
				out.tcp(t, 40000, port, RST, 0, 0, ""), out.tcp(t, 40000, port, SYN, 0, 0, ""),
				out.back().tcp(t, port, 40000, SYN|ACK, 0, 1, ""), out.tcp(t, 40000, port, ACK, 1, 1, ""),
			}
			for _, s := range turns {
				if s.server {
					frames = append(frames, out.back().tcp(t, port, 40000, ACK, ack, seq, s.payload))
					ack += uint32(len(s.payload))
				} else {
					frames = append(frames, out.tcp(t, 40000, port, ACK, seq, ack, s.payload))
					seq += uint32(len(s.payload))
				}
			}
			return append(frames, out.tcp(t, 40000, port, FIN|ACK, seq, ack, ""), out.back().tcp(t, port, 40000, FIN|ACK, ack, seq+1, ""))
		}
		kinds := map[string][][]byte{
			"http":              conversation(80, c(httpGet), s(httpOK), c(httpGet), s(httpOK)),
			"ssh on http":       conversation(80, c(sshBanner), s(sshBanner)),
			"tls":               conversation(443, c(clientHello), s(serverHello)),
			"mysql":             conversation(3306, s(mysqlHello), c(mysqlAnswer)),
			"smtp upgraded":     conversation(587, s("220 a\r\n"), c("EHLO a\r\n"), s("250 a\r\n"), c("STARTTLS\r\n"), s("220 a\r\n"), c(clientHello)),
			"mismatch":          conversation(80, c(httpGet), s(sshBanner)),
			"any":               conversation(9000, c("x"), s("y")),
			"dns":               {out.udp(t, 40000, 53, dnsQuery), out.back().udp(t, 53, 40000, dnsAnswer)},
			"unknown udp":       {out.udp(t, 40001, 53, "junk")},
			"denied tcp":        {stranger.tcp(t, 40000, 80, SYN, 1, 0, "")},
			"denied udp":        {stranger.udp(t, 40000, 80, "x")},
			"no flow":           {out.tcp(t, 41000, 8080, ACK, 1, 1, "x"), out.tcp(t, 41000, 8080, SYN|ACK, 1, 1, "")},
			"mid-stream":        {out.tcp(t, 42000, 80, ACK, 1, 1, "x"), out.back().tcp(t, 80, 42001, ACK, 1, 1, "x")},
			"echo":              {out.icmp(t, 8, 128, 1, "x"), out.back().icmp(t, 0, 129, 1, "x"), stranger.icmp(t, 8, 128, 2, "x")},
			"icmp error":        {syn, icmpError(t, out.back(), 3, 1, syn), icmpError(t, out, 3, 1, syn)},
			"icmp other":        {out.icmp(t, 13, 130, 1, "x")},
			"other protocol":    {patch(udp, map[bool]int{false: l3 + 9, true: l3 + 6}[v6], 47)},
			"known fragments":   {fragment(t, udp, 1, 0, 400, true), fragment(t, udp, 1, 400, 400, true), fragment(t, udp, 1, 800, 200, false)},
			"unknown fragments": {fragment(t, udp, 2, 400, 400, true)},
			"vlan":              {patch(syn, 12, 0x81, 0)},
			"bad flags":         {patch(syn, len(syn)-7, 0)},
		}
		for name, frames := range kinds {
			b := newBench(t, world{statements: statements()}, Config{})
			var p Packet
			var out Result
			if n := testing.AllocsPerRun(50, func() {
				for _, f := range frames {
					if Decode(f, l3, &p) == policy.ReasonNone {
						b.c.Packet(&p, &b.in, b.now, &out)
					}
					b.now += 1e6
				}
				b.c.Sweep(b.now, 64)
			}); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	})
}

// FuzzClassifier sends frames of any shape into one classifier: it must hold
// its invariants whatever comes.
func FuzzClassifier(f *testing.F) {
	join := func(frames ...[]byte) (out []byte) {
		for _, b := range frames {
			out = append(append(out, byte(len(b)>>8), byte(len(b))), b...)
		}
		return out
	}
	for _, v6 := range []bool{false, true} {
		w := wire{v6, webIdx, dbIdx}
		udp := w.udp(f, 40000, 53, dnsQuery)
		f.Add(join(w.tcp(f, 40000, 80, SYN, 1, 0, ""), w.back().tcp(f, 80, 40000, SYN|ACK, 1, 2, ""), w.tcp(f, 40000, 80, ACK, 2, 2, httpGet), w.tcp(f, 40000, 80, RST, 9, 0, "")))
		f.Add(join(udp, w.back().udp(f, 53, 40000, dnsAnswer), fragment(f, udp, 1, 0, 16, true), fragment(f, udp, 1, 16, 8, false)))
		f.Add(join(w.icmp(f, 8, 128, 1, "x"), icmpError(f, w.back(), 3, 1, udp)))
	}
	table := world{statements: statements()}.table(f)
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := New(Config{Flows: 8, Undecided: 4, PerEndpoint: 6, Fragments: 4, Capture: true})
		c.SetTable(table)
		in := Ingress{Zone: zone, Slot: 1}
		var p Packet
		var out Result
		for now := int64(1); len(stream) >= 2; now += 1e9 {
			n := min(int(stream[0])<<8|int(stream[1]), len(stream)-2)
			frame := stream[2 : 2+n]
			stream = stream[2+n:]
			if Decode(frame, l3, &p) != policy.ReasonNone {
				continue
			}
			c.Packet(&p, &in, now, &out)
			if out.Forward && out.Reason != policy.ReasonNone || !out.Forward && out.Reason == policy.ReasonNone {
				t.Fatalf("forward %v with reason %v", out.Forward, out.Reason)
			}
			if out.Forward && out.Flow != nil && !out.Flow.Allowed() {
				t.Fatalf("forwarded for a flow that is %v", out.Flow.Verdict)
			}
			c.Sweep(now, 2)
		}
		used := 0
		c.Each(func(f *Flow) bool {
			if f.app >= 0 {
				used++
			}
			return true
		})
		if used+len(c.freeStates) != len(c.states) || int(c.count[1]) != c.Len() {
			t.Fatalf("%d states used, %d free; %d flows counted, %d known", used, len(c.freeStates), c.count[1], c.Len())
		}
	})
}

func BenchmarkPacket(b *testing.B) {
	w := wire{false, webIdx, dbIdx}
	for name, frame := range map[string][]byte{
		"allowed": w.tcp(b, 40000, 9000, ACK, 2, 2, "x"), "denied": w.udp(b, 40000, 8080, "x"),
	} {
		b.Run(name, func(b *testing.B) {
			k := newBench(b, world{statements: statements()}, Config{})
			k.send(w.tcp(b, 40000, 9000, SYN, 1, 0, ""))
			for b.Loop() {
				if Decode(frame, l3, &k.p) == policy.ReasonNone {
					k.c.Packet(&k.p, &k.in, k.now, &k.out)
				}
			}
		})
	}
}

package classify

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/policy"
)

// deny is a statement of the operator against one application.
func deny(from, to int, app policy.AppMatch, ports ...policy.PortRange) policy.Statement {
	s := allow(from, to, app, ports...)
	s.ID, s.Verdict, s.Tier = "deny "+s.ID, policy.Drop, policy.TierOperator
	return s
}

// TestOldFlowsUnderNewTables: an old flow that cannot show what it is outlives the
// next change of the table, and a restart (V9); it ends where policy lets its two
// ends have nothing any more.
func TestOldFlowsUnderNewTables(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		unread := func(i int) []byte {
			return out.tcp(t, 40000, 3306, PSH|ACK, 5+uint32(i)*100, 5, "\x03"+strings.Repeat("\xee", 99))
		}
		b := newBench(t, world{statements: statements()}, Config{})
		b.in.RanBefore = true
		for i := range 30 {
			want(t, "bytes", b.send(unread(i)), true, policy.ReasonNone)
		}
		b.c.SetTable(world{statements: statements(), epoch: 2}.table(t))
		if r := b.send(unread(30)); !r.Forward || r.Verdict != policy.Allow || r.Violation || !r.Offload {
			t.Errorf("a container came: %+v", r)
		}
		e := Entry{Key: b.out.Flow.Key, Epoch: 2, Initiator: b.out.Flow.Initiator, Slot: 1, Verdict: policy.Allow, Spoken: b.out.Flow.Spoken}
		if !b.out.Flow.IsOld() {
			t.Error("it is not said to be old")
		}
		b.c.SetTable(world{epoch: 3}.table(t))
		want(t, "forbidden", b.send(unread(31)), false, policy.ReasonPolicyChanged)

		for _, old := range []bool{false, true} { // all workloads ran before a gateway that is started anew
			b = newBench(t, world{statements: statements(), epoch: 3}, Config{})
			b.in.RanBefore = true
			e.Old = old
			if !b.c.Adopt(e, b.now) {
				t.Fatal("not adopted")
			}
			if r := b.send(unread(32)); r.Forward != old {
				t.Errorf("after a restart, old %v: %+v", old, r)
			}
		}
	})
}

// TestLikelyUnderNewTables: what a flow behaves like may be denied by a newer table
// too, and is never what a newer table allows it by (V15).
func TestLikelyUnderNewTables(t *testing.T) {
	port := udpPort(40000)
	all, only := allow(webIdx, dbIdx, policy.AnyApp, port), allow(webIdx, dbIdx, plain(policy.AppRTP), port)
	noDNS, noRTP := deny(webIdx, dbIdx, plain(policy.AppDNS), port), deny(webIdx, dbIdx, plain(policy.AppRTP), port)
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		for _, c := range []struct {
			what    string
			before  []policy.Statement
			passes  bool
			after   []policy.Statement
			forward bool
			reason  policy.Reason
		}{
			{"denied later", []policy.Statement{all, noDNS}, true, []policy.Statement{all, noRTP}, false, policy.ReasonPolicyChanged},
			{"denied no more", []policy.Statement{all, noRTP}, false, []policy.Statement{all, noDNS}, true, policy.ReasonNone},
			{"never by a statement for it", []policy.Statement{all, noRTP}, false, []policy.Statement{only}, false, policy.ReasonAppUnknown},
		} {
			b := newBench(t, world{statements: c.before}, Config{})
			var r Result
			for seq := range 12 {
				r = b.send(out.udp(t, 50000, 40000, rtp(seq)))
			}
			if r.Forward != c.passes || r.Flow.Likely != policy.AppRTP {
				t.Fatalf("%s: %+v", c.what, r.Flow)
			}
			b.c.SetTable(world{statements: c.after, epoch: 2}.table(t))
			want(t, c.what, b.send(out.udp(t, 50000, 40000, rtp(12))), c.forward, c.reason)
		}
	})
}

// TestDeniedStaysDenied: a connection that was dropped for what it speaks, or whose
// end was feigned before it had shown that, is no old flow once it is forgotten,
// although policy would let an unknown one pass.
func TestDeniedStaysDenied(t *testing.T) {
	w := world{statements: append(statements(), deny(webIdx, dbIdx, plain(policy.AppSSH), tcpPort(9000)))}
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		for name, meanwhile := range map[string]func(k *conn){
			"dropped": func(k *conn) {
				want(t, "ssh", k.b.send(out.tcp(t, 40000, 9000, PSH|ACK, k.seq, k.ack, sshBanner[1:])), false, policy.ReasonDenied)
			},
			"feigned end": func(k *conn) { k.b.send(out.tcp(t, 40000, 9000, RST, 0xdeadbeef, 0, "")) },
		} {
			b := newBench(t, w, Config{})
			k := b.conn(out, 40000, 9000)
			k.open()
			want(t, name+": a first byte", k.client(sshBanner[:1]), true, policy.ReasonNone)
			meanwhile(k)
			b.now += int64(15 * time.Second)
			b.c.Sweep(b.now, 1000)
			if b.c.Len() != 0 {
				t.Fatalf("%s: %d flows", name, b.c.Len())
			}
			want(t, name+": sent again", k.client(sshBanner[1:]), false, policy.ReasonNoFlow)
		}
	})
}

// TestCutOffByTable: of a connection that a table forbade while it was read, the
// beginning is lost: the next table that allows it (V8) must not take the rest for an
// old flow's.
func TestCutOffByTable(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{})
		k := b.conn(out, 40000, 80)
		k.open()
		k.client("GET /")
		b.c.SetTable(world{epoch: 2}.table(t))
		want(t, "forbidden", b.send(out.tcp(t, 40000, 80, PSH|ACK, k.seq, k.ack, "x")), false, policy.ReasonPolicyChanged)
		b.c.SetTable(world{statements: statements(), epoch: 3}.table(t))
		want(t, "allowed again", k.client(httpGet), false, policy.ReasonAppUnknown)
	})
}

// TestSeveralSYNs: whoever sends more than one SYN on the same ports, of which the
// server takes one and the gateway saw another last, has its bytes read from where
// the server reads them, and under no older verdict.
func TestSeveralSYNs(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		const isn, server = 40_000_000, 999
		answer := func(b *bench) Result {
			return b.send(out.back().tcp(t, 80, 40000, SYN|ACK, server, isn+1, ""))
		}
		data := func(b *bench, seq uint32, payload string) Result {
			return b.send(out.tcp(t, 40000, 80, PSH|ACK, seq, server+1, payload))
		}
		for _, other := range []uint32{isn - uint32(len(httpGet)), isn + 1000} {
			b := newBench(t, world{statements: statements()}, Config{})
			for _, n := range []uint32{isn, other} {
				want(t, "SYN", b.send(out.tcp(t, 40000, 80, SYN, n, 0, "")), true, policy.ReasonNone)
			}
			want(t, "answer to the first", answer(b), true, policy.ReasonNone)
			// The server has this already, or has no room for it.
			data(b, other+1, httpGet)
			b.send(out.back().tcp(t, 80, 40000, ACK, server+1, isn+1, ""))
			want(t, fmt.Sprintf("ssh as the server reads it, other SYN %d", int32(other-isn)), data(b, isn+1, sshBanner), false, policy.ReasonApp)
		}

		// An answer that somebody else has forged is the first, not the last.
		b := newBench(t, world{statements: statements()}, Config{})
		b.send(out.tcp(t, 40000, 80, SYN, isn, 0, ""))
		b.send(out.back().tcp(t, 80, 40000, SYN|ACK, 5, 6, ""))
		want(t, "answer", answer(b), true, policy.ReasonNone)
		data(b, isn+1, httpGet)
		if r := b.send(out.back().tcp(t, 80, 40000, PSH|ACK, server+1, isn+1+uint32(len(httpGet)), httpOK)); r.Verdict != policy.Allow {
			t.Errorf("behind a forged answer: %+v", r)
		}

		// Data of a SYN that the server does not take.
		fake := out.tcp(t, 40000, 80, SYN, isn-uint32(len(httpGet)), 0, httpGet)
		b = newBench(t, world{statements: statements()}, Config{})
		b.send(out.tcp(t, 40000, 80, SYN, isn, 0, ""))
		want(t, "data in another SYN", b.send(fake), false, policy.ReasonBadHeader)
		want(t, "answer", answer(b), true, policy.ReasonNone)
		want(t, "ssh", data(b, isn+1, sshBanner), false, policy.ReasonApp)

		for name, forget := range map[string]func(b *bench){
			"reset before the answer": func(b *bench) {
				b.send(out.tcp(t, 40000, 80, RST, isn+1, 0, ""))
				b.now += int64(11 * time.Second)
			},
			"reset after the answer": func(b *bench) {
				answer(b)
				b.send(out.tcp(t, 40000, 80, RST, isn+1, 0, ""))
				b.now += int64(time.Minute)
			},
			"refused": func(b *bench) {
				answer(b)
				want(t, "ssh", data(b, isn+1, sshBanner), false, policy.ReasonApp)
			},
			"refused and forgotten": func(b *bench) {
				answer(b)
				data(b, isn+1, sshBanner)
				b.now += int64(time.Minute)
			},
		} {
			b := newBench(t, world{statements: statements()}, Config{})
			b.send(out.tcp(t, 40000, 80, SYN, isn, 0, ""))
			forget(b)
			b.c.Sweep(b.now, 1000)
			want(t, name+", data in another SYN", b.send(fake), false, policy.ReasonBadHeader)
		}

		// A conversation that was allowed, and is over for its server alone.
		for _, reset := range []bool{false, true} {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			k.client(httpGet)
			if r := k.server(httpOK); r.Verdict != policy.Allow {
				t.Fatalf("%+v", r)
			}
			if reset {
				b.send(out.tcp(t, 40000, 80, RST, k.seq, 0, ""))
			}
			for _, n := range []uint32{isn, isn + 5000} {
				want(t, "SYN", b.send(out.tcp(t, 40000, 80, SYN, n, 0, "")), true, policy.ReasonNone)
			}
			if r := answer(b); !r.Forward || r.Verdict != policy.Undecided || !r.Retract {
				t.Errorf("answer to the first of two SYNs, reset %v: %+v", reset, r)
			}
			want(t, "ssh", data(b, isn+1, sshBanner), false, policy.ReasonApp)
		}
		// An answer to nothing that was asked.
		b = newBench(t, world{statements: statements()}, Config{})
		k := b.conn(out, 40000, 80)
		k.open()
		want(t, "stray", b.send(out.back().tcp(t, 80, 40000, SYN|ACK, 5, k.seq+5000, "")), false, policy.ReasonBadHeader)
		want(t, "the same once more", b.send(out.back().tcp(t, 80, 40000, SYN|ACK, k.ack-1, k.seq, "")), true, policy.ReasonNone)
		k.client(httpGet)
		if r := k.server(httpOK); r.Verdict != policy.Allow {
			t.Errorf("%+v", r)
		}
	})
}

// TestWhoBeganStays: bytes met mid-stream that look like a server's do not make it
// the other side's conversation, which a newer table would judge by another rule.
func TestWhoBeganStays(t *testing.T) {
	lines := []policy.Statement{allow(webIdx, dbIdx, policy.AnyApp, tcpPort(9000)), deny(webIdx, dbIdx, plain(policy.AppSSH), tcpPort(9000))}
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: lines}, Config{})
		response := func(i int) Result {
			return b.send(out.tcp(t, 40000, 9000, PSH|ACK, 5+uint32(i*len(httpOK)), 5, httpOK))
		}
		b.send(out.back().tcp(t, 9000, 40000, PSH|ACK, 5, 5, httpGet))
		r := response(0)
		if r.Verdict != policy.Allow {
			t.Fatalf("%+v", r)
		}
		b.c.SetTable(world{statements: lines, epoch: 2}.table(t))
		want(t, "a container came", response(1), true, policy.ReasonNone)
	})
}

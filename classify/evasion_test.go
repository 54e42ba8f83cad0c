package classify

import (
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"gatehouse/policy"
)

// TestDecoys: what the client sends and its server throws away, as a segment
// with an old timestamp, names nothing (threat 15).
func TestDecoys(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		t.Run("never acknowledged", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			start := k.seq
			k.client(httpGet)
			n := 0
			for range 200 {
				r := k.client(strings.Repeat("x", 1000))
				if r.Verdict == policy.Allow || r.Offload && r.Verdict != policy.Drop {
					t.Fatalf("%+v", r)
				}
				if r.Forward {
					n += 1000
				}
				b.send(out.back().tcp(t, 80, 40000, ACK, k.ack, start, "")) // the server has nothing
			}
			if n > 70_000 {
				t.Errorf("%d bytes passed", n)
			}
		})
		t.Run("sent again, as news of its receipt is late", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			first := k.seq
			k.client(httpGet)
			for range 62 { // a window full
				k.client(strings.Repeat("x", 1000))
			}
			last := k.seq - 1000
			for i := range 8 {
				if r := b.send(out.tcp(t, 40000, 80, ACK, last, k.ack, strings.Repeat("x", 1000))); !r.Forward {
					t.Fatalf("time %d: %+v", i, r)
				}
			}
			if r := b.send(out.back().tcp(t, 80, 40000, ACK, k.ack, k.seq, "")); r.Verdict != policy.Allow {
				t.Errorf("once received: %+v", r)
			}
			b = newBench(t, world{statements: statements()}, Config{})
			k = b.conn(out, 40000, 80)
			k.open()
			k.client(httpGet)
			n := 0
			for range 400 { // for ever it is not
				if r := b.send(out.tcp(t, 40000, 80, ACK, first+5000, k.ack, strings.Repeat("x", 1000))); r.Forward {
					n += 1000
				}
			}
			if n < 100_000 || n > 140_000 {
				t.Errorf("%d bytes passed", n)
			}
		})
		t.Run("other bytes in their place", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			start := k.seq
			k.client(httpGet)
			for range 20 {
				k.client("x")
			}
			want(t, "ssh", b.send(out.tcp(t, 40000, 80, ACK, start, k.ack, sshBanner)), false, policy.ReasonConflict)
		})
		t.Run("received after all", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			k.client(httpGet)
			for range 10 {
				k.client(strings.Repeat("x", 100))
			}
			if !b.out.Retract && b.out.Verdict == policy.Undecided {
				// The kernel may not swallow the acknowledgement that is waited for.
				r := b.send(out.back().tcp(t, 80, 40000, ACK, k.ack, k.seq, ""))
				if r.Verdict != policy.Allow || !r.Offload {
					t.Errorf("%+v", r)
				}
			}
		})
		t.Run("a piece beyond what is kept", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			for i := range uint32(8) {
				r := b.send(out.tcp(t, 40000, 80, ACK, k.seq+100+i*10, k.ack, "x"))
				if keep := i < 6; r.Forward != keep {
					t.Errorf("piece %d: %+v", i, r)
				}
			}
		})
	})
}

// TestOldSocket: the two ends still have a connection that was refused, or that
// a forged packet ended for the gateway alone.
func TestOldSocket(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		const bytes = "\xee\xee\xee\xee"
		for name, end := range map[string]func(b *bench, k *conn){
			"refused": func(b *bench, k *conn) {
				want(t, "ssh", k.client(sshBanner), false, policy.ReasonApp)
			},
			"forged reset": func(b *bench, k *conn) {
				b.send(out.tcp(t, 40000, 80, RST, 0xdeadbeef, 0, ""))
			},
			"forged end after a beginning": func(b *bench, k *conn) {
				k.client("GET /")
				b.send(out.tcp(t, 40000, 80, RST|ACK, 0xdeadbeef, 0, ""))
			},
		} {
			for _, ran := range []bool{false, true} {
				b := newBench(t, world{statements: statements()}, Config{})
				b.in.RanBefore = ran
				k := b.conn(out, 40000, 80)
				k.open()
				end(b, k)
				b.now += int64(time.Hour)
				b.c.Sweep(b.now, 1000)
				if b.c.Len() != 0 {
					t.Fatalf("%s: %d flows", name, b.c.Len())
				}
				want(t, name+", data", k.client(bytes), false, policy.ReasonNoFlow)
				want(t, name+", reply", k.server(bytes), false, policy.ReasonNoFlow)

				// A SYN alone changes nothing: the responder does not answer it.
				want(t, name+", SYN", b.send(out.tcp(t, 40000, 80, SYN, k.seq-1, 0, "")), true, policy.ReasonNone)
				want(t, name+", data behind a SYN", k.client(bytes), false, policy.ReasonNoFlow)
				want(t, name+", reply behind a SYN", k.server(bytes), false, policy.ReasonNoFlow)
				want(t, name+", FIN", b.send(out.tcp(t, 40000, 80, FIN|ACK, k.seq, k.ack, "")), true, policy.ReasonNone)
				want(t, name+", data behind a FIN", k.client(bytes), false, policy.ReasonNoFlow)
				b.send(out.tcp(t, 40000, 80, RST, k.seq, 0, ""))
				b.now += int64(time.Minute)
				b.c.Sweep(b.now, 1000)
				want(t, name+", data after all that", k.client(bytes), false, policy.ReasonNoFlow)

				// One that is answered is a new connection.
				k.open()
				k.client(httpGet)
				if r := k.server(httpOK); r.Verdict != policy.Allow {
					t.Errorf("%s: a new connection: %+v", name, r)
				}
			}
		}
	})
}

// TestOldVerdict: a conversation's application says nothing about the next one
// on its ports, however its beginning is dressed up.
func TestOldVerdict(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		start := func() *conn {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			k.client(httpGet)
			k.server(httpOK)
			return k
		}
		t.Run("the same sequence number", func(t *testing.T) {
			k := start()
			isn := 1000 * uint32(40000)
			r := k.b.send(out.tcp(t, 40000, 80, SYN, isn, 0, ""))
			if want(t, "SYN", r, true, policy.ReasonNone); !r.Retract {
				t.Error("the kernel would carry the answer")
			}
			r = k.b.send(out.back().tcp(t, 80, 40000, SYN|ACK, 999, isn+1, ""))
			if r.Verdict != policy.Undecided {
				t.Errorf("%+v", r)
			}
		})
		t.Run("a reset or an acknowledgement of the old one before the answer", func(t *testing.T) {
			for _, flags := range []TCPFlags{RST, RST | ACK, ACK} {
				k := start()
				k.b.send(out.tcp(t, 40000, 80, SYN, 5000, 0, ""))
				r := k.b.send(out.back().tcp(t, 80, 40000, flags, k.ack, k.seq, ""))
				if r.Offload {
					t.Errorf("offered while a SYN is open: %+v", r)
				}
				r = k.b.send(out.back().tcp(t, 80, 40000, SYN|ACK, 999, 5001, ""))
				if r.Verdict != policy.Undecided {
					t.Errorf("%+v", r)
				}
			}
		})
	})
}

// TestUnaskedFirst: what one side sent without leave does not stand in the way
// of the other's own conversation on the same ports.
func TestUnaskedFirst(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{})
		want(t, "unasked", b.send(out.back().udp(t, 9000, 40000, "x")), false, policy.ReasonNoRule)
		r := b.send(out.udp(t, 40000, 9000, "y"))
		if want(t, "own", r, true, policy.ReasonNone); !r.Retract || !r.New {
			t.Errorf("%+v", r)
		}
		want(t, "reply", b.send(out.back().udp(t, 9000, 40000, "z")), true, policy.ReasonNone)

		want(t, "unasked SYN", b.send(out.back().tcp(t, 9000, 40000, SYN, 1, 0, "")), false, policy.ReasonNoRule)
		want(t, "own SYN", b.send(out.tcp(t, 40000, 9000, SYN, 1, 0, "")), true, policy.ReasonNone)
	})
}

// TestPiecesOfHeaders: a first fragment that is all header brings no unread
// payload behind it.
func TestPiecesOfHeaders(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{})
		k := b.conn(out, 40000, 80)
		k.open()
		h := &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: k.seq, Ack: k.ack, ACK: true, Window: 65535,
			Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop}}}
		seg := out.frame(t, layers.IPProtocolTCP, h, []byte(strings.Repeat("x", 200)))
		want(t, "header", b.send(fragment(t, seg, 1, 0, 24, true)), false, policy.ReasonFragment)
		want(t, "payload", b.send(fragment(t, seg, 1, 24, 200, false)), false, policy.ReasonFragment)

		// Nor does its last piece begin a connection when that suits its sender.
		h.SYN, h.ACK, h.Ack = true, false, 0
		seg = out.frame(t, layers.IPProtocolTCP, h, []byte(strings.Repeat("x", 200)))
		want(t, "SYN", b.send(fragment(t, seg, 9, 0, 24, true)), false, policy.ReasonFragment)

		// Nor does a UDP length that ends before it: what follows is counted.
		big := out.udp(t, 40000, 53, strings.Repeat("x", 60_000))
		l4, n := l3+20, 0
		if v6 {
			l4 = l3 + 48
		}
		for id := range uint32(20) {
			head := fragment(t, big, 2+id, 0, 400, true)
			head[l4+4], head[l4+5] = 0, 8
			b.send(head)
			for off := 400; off < 40_000; off += 400 {
				if b.send(fragment(t, big, 2+id, off, 400, true)).Forward {
					n += 400
				}
			}
		}
		if n > 10_000 {
			t.Errorf("%d bytes passed", n)
		}
	})
}

// TestFragmentFlood: one endpoint's datagrams in pieces do not make another's unknown.
func TestFragmentFlood(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{})
		big := out.udp(t, 40000, 9000, strings.Repeat("x", 992))
		want(t, "first", b.send(fragment(t, big, 1, 0, 400, true)), true, policy.ReasonNone)
		b.in.Slot = 2
		flood := wire{v6, strangerIdx, dbIdx}.udp(t, 40000, 9000, strings.Repeat("x", 992))
		for id := range uint32(20_000) {
			b.send(fragment(t, flood, id, 0, 400, true))
		}
		b.in.Slot = 1
		want(t, "last", b.send(fragment(t, big, 1, 400, 600, false)), true, policy.ReasonNone)
	})
}

// TestNeighboursErrors: an endpoint that may not talk to another sends it no
// ICMP error about a third one's flow either (threat 13).
func TestNeighboursErrors(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: statements()}, Config{})
		syn := out.tcp(t, 40000, 80, SYN, 1, 0, "")
		b.send(syn)
		forged := icmpError(t, wire{v6, strangerIdx, webIdx}, 3, 1, syn)
		want(t, "a neighbour's", b.send(forged), false, policy.ReasonICMPUnrelated)
		b.in.FromEndpoint = false
		want(t, "a router's", b.send(forged), true, policy.ReasonNone)
	})
}

// TestEchoTunnel: replies, and requests on another's identifier, are as slow as
// requests (threat 12).
func TestEchoTunnel(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		both := append(statements(), allow(dbIdx, webIdx, plain(policy.AppICMP), echoRange))
		for name, frame := range map[string][]byte{
			"replies":          out.back().icmp(t, 0, 129, 7, "x"),
			"another's number": out.back().icmp(t, 8, 128, 7, "x"),
		} {
			b := newBench(t, world{statements: both}, Config{})
			b.send(out.icmp(t, 8, 128, 7, "x"))
			passed := 0
			for range 1000 {
				b.now -= 1e6
				if b.send(frame).Forward {
					passed++
				}
			}
			if passed < 95 || passed > 105 {
				t.Errorf("%d %s of a burst of 1,000 passed, want 100", passed, name)
			}
		}
	})
}

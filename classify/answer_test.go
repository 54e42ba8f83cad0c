package classify

import (
	"testing"
	"time"

	"gatehouse/policy"
)

// TestAnswerInTheKernel: the kernel carries the SYN-ACK, and what comes here next
// is judged as if it had come here.
func TestAnswerInTheKernel(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		out := wire{v6, webIdx, dbIdx}
		start := func(t *testing.T) (*bench, *conn, *[]Flow) {
			var ended []Flow
			var b *bench
			cfg := Config{
				Flows: 256, Undecided: 32,
				Answer: func(k *FlowKey) (uint32, int, bool) { return b.answer(k) },
				Ended:  func(f *Flow) { ended = append(ended, *f) },
			}
			b = newBench(t, world{statements: statements()}, cfg)
			b.kernel = make(map[FlowKey]*opening)
			k := b.conn(out, 40000, 80)
			r := b.send(out.tcp(t, 40000, 80, SYN, k.seq, 0, ""))
			if !r.Opening || r.Awaited != k.seq+1 || r.Opened || r.Offload {
				t.Fatalf("SYN: %+v", r)
			}
			k.seq++
			return b, k, &ended
		}
		answer := func(t *testing.T, b *bench, k *conn) {
			n := b.c.Find(b.p.Key).Packets
			b.send(out.back().tcp(t, 80, 40000, SYN|ACK, k.ack, k.seq, ""))
			if b.c.Find(b.p.Key).Packets != n {
				t.Fatal("the SYN-ACK was judged here")
			}
			k.ack++
		}
		t.Run("named and counted", func(t *testing.T) {
			b, k, _ := start(t)
			answer(t, b, k)
			k.client(httpGet)
			if r := k.server(httpOK); r.Verdict != policy.Allow || !r.Offload {
				t.Fatalf("%+v", r)
			}
			f := b.out.Flow
			if i := f.Initiator; f.Packets[i] != 2 || f.Packets[1-i] != 2 {
				t.Errorf("packets %v, want 2 of each side", f.Packets)
			}
		})
		t.Run("data before it", func(t *testing.T) {
			b, k, _ := start(t)
			want(t, "before", b.send(out.tcp(t, 40000, 80, ACK, k.seq, k.ack+1, httpGet)), false, policy.ReasonNoFlow)
			answer(t, b, k)
			want(t, "after", k.client(httpGet), true, policy.ReasonNone)
		})
		t.Run("the responder's bytes are read by its number", func(t *testing.T) {
			b, k, _ := start(t)
			answer(t, b, k)
			k.client(httpGet)
			// A whole answer that lies elsewhere in the stream proves nothing.
			r := b.send(out.back().tcp(t, 80, 40000, ACK, k.ack+5000, k.seq, httpOK))
			if r.Verdict == policy.Allow {
				t.Errorf("%+v", r)
			}
		})
		t.Run("a handshake and nothing more", func(t *testing.T) {
			b, k, ended := start(t)
			answer(t, b, k)
			b.now += int64(time.Minute)
			b.c.Sweep(b.now, 1000)
			if len(*ended) != 0 {
				t.Fatal("forgotten as if nobody had answered")
			}
			b.now += 2 * int64(time.Hour)
			b.c.Sweep(b.now, 1000)
			if len(*ended) != 1 || (*ended)[0].State != Answered || (*ended)[0].Packets != [2]uint64{1, 1} {
				t.Fatalf("ended: %+v", *ended)
			}
			delete(b.kernel, b.p.Key)
			want(t, "data of the old connection", k.client("\xee\xee"), false, policy.ReasonNoFlow)
		})
		t.Run("retired before anything else came", func(t *testing.T) {
			b, k, ended := start(t)
			answer(t, b, k)
			b.c.Retire(b.p.Key)
			if len(*ended) != 1 || (*ended)[0].State != Answered {
				t.Fatalf("ended: %+v", *ended)
			}
			want(t, "data of the old connection", k.client("\xee\xee"), false, policy.ReasonNoFlow)
		})
		t.Run("listed and touched", func(t *testing.T) {
			b, k, _ := start(t)
			answer(t, b, k)
			var state FlowState
			b.c.Each(func(f *Flow) bool { state = f.State; return true })
			if state != Answered {
				t.Errorf("state %v", state)
			}
			b, k, _ = start(t)
			answer(t, b, k)
			f := b.c.Find(b.p.Key)
			b.c.Touch(f, [2]uint64{1, 1}, [2]uint64{40, 40}, 0, b.now)
			if f.State != Lasting {
				t.Errorf("touched: state %v", f.State)
			}
		})
		t.Run("another SYN", func(t *testing.T) {
			b, k, _ := start(t)
			// Unanswered: it begins anew, and only its own answer counts.
			if r := b.send(out.tcp(t, 40000, 80, SYN, k.seq+500, 0, "")); !r.Retract || !r.Opening || r.Awaited != k.seq+501 {
				t.Fatalf("%+v", r)
			}
			if r := b.send(out.back().tcp(t, 80, 40000, SYN|ACK, k.ack, k.seq, "")); !r.Forward || b.c.Find(b.p.Key).State != Answered {
				t.Fatalf("an answer to the first comes here: %+v", r)
			}
			b, k, _ = start(t)
			answer(t, b, k)
			// Answered: the kernel carries nothing of either until it is clear which.
			if r := b.send(out.tcp(t, 40000, 80, SYN, k.seq+500, 0, "")); !r.Retract || r.Opening {
				t.Fatalf("%+v", r)
			}
		})
		t.Run("no plain SYN", func(t *testing.T) {
			for flags, payload := range map[TCPFlags]string{SYN: "x", SYN | URG: "", SYN | FIN: "", SYN | RST: ""} {
				b := newBench(t, world{statements: statements()}, Config{Answer: func(*FlowKey) (uint32, int, bool) { return 0, 0, false }})
				if r := b.send(out.tcp(t, 40000, 80, flags, 1, 0, payload)); r.Opening {
					t.Errorf("flags %v, payload %q: %+v", flags, payload, r)
				}
			}
		})
		t.Run("what is not undecided", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{Answer: func(*FlowKey) (uint32, int, bool) { return 0, 0, false }})
			if r := b.send(out.tcp(t, 40000, 9999, SYN, 1, 0, "")); r.Opening || r.Forward {
				t.Errorf("refused: %+v", r)
			}
		})
		t.Run("a flood of SYNs", func(t *testing.T) {
			b := newBench(t, world{statements: statements()}, Config{Flows: 256, PerEndpoint: 64, Answer: func(*FlowKey) (uint32, int, bool) { return 0, 0, false }})
			n := 0
			for port := range uint16(64) {
				if b.send(out.tcp(t, 40000+port, 80, SYN, 1, 0, "")).Opening {
					n++
				}
			}
			if n != 32 {
				t.Errorf("%d of the kernel's entries for one endpoint's SYNs, want half of its share", n)
			}
		})
	}
}

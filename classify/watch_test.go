package classify

import (
	"math/rand/v2"
	"testing"
	"time"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

// anyApp lets web speak what it likes on tcp/9000 and udp/9000 of db.
func anyApp() []policy.Statement {
	return []policy.Statement{allow(webIdx, dbIdx, policy.AnyApp, tcpPort(9000), udpPort(9000))}
}

// A flow about which policy does not ask is read, passes meanwhile, and comes
// to the kernel once it is known, or has had its time.
func TestWatch(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		host := ""
		b := newBench(t, world{statements: anyApp()}, Config{WatchEvery: time.Minute, Decided: func(_ *Flow, a *appid.Attrs) { host = string(a.Get(appid.AttrHost)) }})
		k := b.conn(out, 40000, 9000)
		if r := k.open(); !r.Forward || r.Verdict != policy.Allow || r.Offload {
			t.Fatalf("%+v", r)
		}
		k.client("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
		r := k.server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if f := r.Flow; !r.Forward || !r.Offload || f.Spoken.App != policy.AppHTTP || host != "shop.example" || f.Verdict != policy.Allow {
			t.Errorf("%+v %+v host %q", r, r.Flow, host)
		}
		k = b.conn(out, 40001, 9000)
		if r := k.open(); !r.Offload {
			t.Error("the next of the same pair within a minute is watched too")
		}
		b.now += int64(61 * time.Second)
		k = b.conn(out, 40002, 9000)
		if r := k.open(); r.Offload {
			t.Error("none of the next minute is watched")
		}
		for range watchPackets {
			r = k.client("\x00\x01nothing that anybody knows\xff")
			if !r.Forward || r.Verdict != policy.Allow {
				t.Fatalf("%+v", r)
			}
		}
		if !r.Offload && r.Flow.offered == 0 || r.Flow.Spoken.App != policy.AppNone {
			t.Errorf("after its time: %+v %+v", r, r.Flow)
		}
		// Recorded flows too, and their verdict stays.
		b = newBench(t, world{observe: []int{webIdx, dbIdx}}, Config{WatchEvery: time.Minute})
		b.in.Mode = policy.Observe
		k = b.conn(out, 40003, 9000)
		if r := k.open(); !r.Violation || r.Judgement.Reason != policy.ReasonNoRule {
			t.Errorf("%+v", r)
		}
		k.client(sshBanner)
		if r := k.server(sshBanner); !r.Forward || r.Flow.Spoken.App != policy.AppSSH || r.Flow.Reason != policy.ReasonNoRule || !r.Flow.Judgement.Denied {
			t.Errorf("%+v %+v", r, r.Flow)
		}
		// One that falls silent gives its place back.
		k = b.conn(out, 40004, 9001)
		k.open()
		k.client("GE")
		b.now += idleSearch + 1
		b.c.Sweep(b.now, 1000)
		if n := b.c.reading[1]; n != 0 {
			t.Errorf("%d flows are read still", n)
		}
	})
}

// Watching changes no packet's fate: the same packets, odd ones too, through a
// classifier that watches and one that does not.
func TestWatchChangesNoVerdict(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	payloads := []string{"", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", sshBanner, "HTTP/1.1 200 OK\r\n\r\n", "\x00\x01\x02", "x"}
	for round := range 60 {
		w := world{statements: statements(), epoch: 1}
		if round%2 == 0 {
			w.observe = []int{webIdx, dbIdx}
		}
		plainly, watching := newBench(t, w, Config{}), newBench(t, w, Config{WatchEvery: 1})
		for i := range 150 {
			out := wire{rnd.IntN(2) == 0, webIdx, dbIdx}
			sport, dport := uint16(40000+rnd.IntN(3)), []uint16{9000, 80, 8080}[rnd.IntN(3)]
			if rnd.IntN(2) == 0 {
				out, sport, dport = out.back(), dport, sport
			}
			flags := []TCPFlags{SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, ACK | URG}[rnd.IntN(7)]
			payload := payloads[rnd.IntN(len(payloads))]
			frame := out.tcp(t, sport, dport, flags, uint32(1000+rnd.IntN(3)), uint32(1000+rnd.IntN(3)), payload)
			if rnd.IntN(4) == 0 {
				frame = out.udp(t, sport, dport, payload)
			}
			a, b := plainly.send(frame), watching.send(frame)
			if a.Forward != b.Forward || a.Verdict != b.Verdict || a.Reason != b.Reason || a.Violation != b.Violation || a.Judgement != b.Judgement {
				t.Fatalf("round %d packet %d: %+v, watched %+v", round, i, a, b)
			}
			if rnd.IntN(40) == 0 {
				w.epoch++
				plainly.c.SetTable(w.table(t))
				watching.c.SetTable(w.table(t))
			}
		}
	}
}

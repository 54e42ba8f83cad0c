package classify

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

func noise(n int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	b[0] = 0xee // no protocol begins so
	return string(b)
}

// rtp is one packet of a stream.
func rtp(seq int) string {
	return "\x80\x00" + string([]byte{byte(seq >> 8), byte(seq)}) + "\x00\x00\x00\x01\x00\x00\x00\x07payload"
}

// TestLikely: a stream of RTP that nobody announced is called that, and no
// statement for rtp lets it pass; one that denies rtp stops it (V15).
func TestLikely(t *testing.T) {
	no := allow(webIdx, dbIdx, plain(policy.AppRTP), udpPort(40002))
	no.Verdict, no.Tier = policy.Drop, policy.TierOperator
	statements := []policy.Statement{
		allow(webIdx, dbIdx, plain(policy.AppRTP), udpPort(40000)),
		allow(webIdx, dbIdx, policy.AnyApp, udpPort(40002)), no,
	}
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		for port, want := range map[uint16]policy.Reason{40000: policy.ReasonAppUnknown, 40002: policy.ReasonDenied} {
			b := newBench(t, world{statements: statements}, Config{})
			var r Result
			for seq := range 3 {
				if r = b.send(out.udp(t, 50000, port, rtp(0xfffe+seq))); r.Forward != (seq < 2) {
					t.Fatalf("port %d, datagram %d: %+v", port, seq, r)
				}
			}
			if f := r.Flow; r.Reason != want || f.Likely != policy.AppRTP || f.Confidence != appid.ConfidenceBehaviour {
				t.Errorf("port %d: %v, %+v", port, r.Reason, r.Flow)
			}
		}
		// Numbers that do not follow each other are no stream.
		b := newBench(t, world{statements: statements}, Config{})
		var r Result
		for seq := range 8 {
			r = b.send(out.udp(t, 50000, 40000, rtp(seq*1000)))
		}
		if r.Flow.Likely != policy.AppNone || r.Forward {
			t.Errorf("%+v", r.Flow)
		}
	})
}

// TestFindings: what a tunnel does marks its flow, and what is usual does not.
func TestFindings(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		ping := func(answer func(i int) string) appid.Finding {
			b := newBench(t, world{statements: statements()}, Config{})
			for i := range 10 {
				b.send(out.icmp(t, 8, 128, 7, fmt.Sprint("request ", i)))
				b.now += 1e9
				b.send(out.back().icmp(t, 0, 129, 7, answer(i)))
			}
			return b.out.Flow.Findings
		}
		if f := ping(func(i int) string { return fmt.Sprint("request ", i) }); f != 0 {
			t.Errorf("a ping: %v", f)
		}
		if f := ping(func(i int) string { return fmt.Sprint("answer ", i) }); f != appid.FindingICMPTunnel {
			t.Errorf("a tunnel: %v", f)
		}

		lookup := func(labels ...string) appid.Finding {
			name := ""
			for _, l := range labels {
				name += string(rune(len(l))) + l
			}
			ask := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x00\x01\x00\x01"
			say := "\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + name + "\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xac\x12\x00\x03"
			b := newBench(t, world{statements: statements()}, Config{})
			b.send(out.udp(t, 40000, 53, ask))
			r := b.send(out.back().udp(t, 53, 40000, say))
			if r.Verdict != policy.Allow {
				t.Fatalf("%+v", r)
			}
			return r.Flow.Findings
		}
		if f := lookup("www", "shop", "example"); f != 0 {
			t.Errorf("a name: %v", f)
		}
		if f := lookup(strings.Repeat("a", 60), strings.Repeat("b", 60), "example"); f != 0 {
			t.Errorf("a long name without information: %v", f)
		}
		const data = "mzxw6ytboi2dknrxgq3tmojzgi4tgmjrhe4teobvg4ydcmrug43tsobx"
		if f := lookup(data, data[7:]+data[:7], "t", "example"); f != appid.FindingDNSTunnel {
			t.Errorf("data in a name: %v", f)
		}

		unknown := func(payload string) (appid.Finding, string) {
			b := newBench(t, world{statements: statements()}, Config{})
			k := b.conn(out, 40000, 80)
			k.open()
			r := k.client(payload)
			if r.Attrs == nil {
				t.Fatalf("%+v", r)
			}
			return r.Flow.Findings, string(r.Attrs.Get(appid.AttrEntropy))
		}
		if f, bits := unknown(noise(1000)); f != appid.FindingEncrypted || bits < "7.7" {
			t.Errorf("noise: %v, %s", f, bits)
		}
		if f, bits := unknown("\xee" + strings.Repeat("text ", 200)); f != 0 || bits > "3.0" {
			t.Errorf("text: %v, %s", f, bits)
		}
	})
}

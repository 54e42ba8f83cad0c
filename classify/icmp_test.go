package classify

import (
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"gatehouse/policy"
)

// icmpError is an error of that type about a packet (a whole frame), sent along w.
func icmpError(t testing.TB, w wire, t4, t6 uint8, quoted []byte) []byte {
	t.Helper()
	body := append(make([]byte, 4), quoted[l3:]...)
	if w.v6 {
		return w.frame(t, layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(t6, 4)}, body)
	}
	return w.frame(t, layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(t4, 3)}, quoted[l3:])
}

// TestICMP holds R21 (threats 12 and 13).
func TestICMP(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		fresh := func() *bench { return newBench(t, world{statements: statements()}, Config{}) }
		out, stranger := wire{v6, webIdx, dbIdx}, wire{v6, strangerIdx, dbIdx}

		t.Run("echo and its reply", func(t *testing.T) {
			b := fresh()
			if r := b.send(out.icmp(t, 8, 128, 7, "ping")); !r.Forward || r.Offload {
				t.Errorf("request: %+v", r)
			}
			if r := b.send(out.back().icmp(t, 0, 129, 7, "ping")); !r.Forward || r.Offload {
				t.Errorf("reply: %+v", r)
			}
		})
		t.Run("echo that nobody allows", func(t *testing.T) {
			b := fresh()
			if r := b.send(stranger.icmp(t, 8, 128, 7, "ping")); r.Forward || r.Reason != policy.ReasonNoRule || !r.Violation {
				t.Errorf("%+v", r)
			}
		})
		t.Run("reply without request", func(t *testing.T) {
			if r := fresh().send(out.icmp(t, 0, 129, 7, "ping")); r.Forward || r.Reason != policy.ReasonICMPUnrelated {
				t.Errorf("%+v", r)
			}
		})
		t.Run("request against the flow's direction", func(t *testing.T) {
			b := fresh()
			b.send(out.icmp(t, 8, 128, 7, "ping"))
			if r := b.send(out.back().icmp(t, 8, 128, 7, "ping")); r.Forward || r.Reason != policy.ReasonNoRule {
				t.Errorf("%+v", r)
			}
		})
		t.Run("size", func(t *testing.T) {
			b := fresh()
			if r := b.send(out.icmp(t, 8, 128, 7, string(make([]byte, echoMax)))); !r.Forward {
				t.Errorf("1,472 bytes: %v", r.Reason)
			}
			if r := b.send(out.icmp(t, 8, 128, 7, string(make([]byte, echoMax+1)))); r.Forward || r.Reason != policy.ReasonICMPSize {
				t.Errorf("1,473 bytes: %+v", r)
			}
		})
		t.Run("rate", func(t *testing.T) {
			b := fresh()
			frame, passed := out.icmp(t, 8, 128, 7, "x"), 0
			for range 1000 {
				b.now -= 1e6 // all at one moment
				if b.send(frame).Forward {
					passed++
				}
			}
			if passed < 95 || passed > 105 {
				t.Errorf("%d of a burst of 1,000 passed, want 100", passed)
			}
			b.now += int64(time.Second)
			if !b.send(frame).Forward {
				t.Error("nothing passes a second later")
			}
		})
		t.Run("error for a live flow", func(t *testing.T) {
			b := fresh()
			syn := out.tcp(t, 40000, 80, SYN, 1, 0, "")
			b.send(syn)
			if r := b.send(icmpError(t, out.back(), 3, 1, syn)); !r.Forward {
				t.Errorf("unreachable: %v", r.Reason)
			}
			if r := b.send(icmpError(t, out.back(), 11, 3, syn)); !r.Forward {
				t.Errorf("time exceeded: %v", r.Reason)
			}
		})
		t.Run("errors that are nobody's", func(t *testing.T) {
			b := fresh()
			syn := out.tcp(t, 40000, 80, SYN, 1, 0, "")
			b.send(syn)
			other := out.tcp(t, 40001, 80, SYN, 1, 0, "")
			denied := stranger.tcp(t, 40000, 80, SYN, 1, 0, "")
			b.send(denied)
			for name, frame := range map[string][]byte{
				"unknown flow":          icmpError(t, out.back(), 3, 1, other),
				"flow that was refused": icmpError(t, stranger.back(), 3, 1, denied),
				"not to its sender":     icmpError(t, wire{v6, dbIdx, strangerIdx}, 3, 1, syn),
				"quote cut":             icmpError(t, out.back(), 3, 1, syn)[:l3+20+8+20+4],
			} {
				if r := b.send(frame); r.Forward || r.Reason != policy.ReasonICMPUnrelated && r.Reason != policy.ReasonTruncated {
					t.Errorf("%s: %+v", name, r)
				}
			}
		})
		t.Run("other types", func(t *testing.T) {
			b := fresh()
			for _, pair := range [][2]uint8{{5, 137}, {9, 134}, {13, 130}, {17, 133}, {10, 135}, {4, 136}} {
				if r := b.send(out.icmp(t, pair[0], pair[1], 7, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")); r.Forward || r.Reason != policy.ReasonICMPType {
					t.Errorf("type %v: %+v", pair, r)
				}
			}
		})
		t.Run("error for a flow that lives elsewhere", func(t *testing.T) {
			asked := 0
			b := newBench(t, world{statements: statements()}, Config{Live: func(FlowKey) bool { asked++; return true }})
			if r := b.send(icmpError(t, out.back(), 3, 1, out.tcp(t, 1, 80, SYN, 1, 0, ""))); !r.Forward || asked != 1 {
				t.Errorf("%+v", r)
			}
		})
	})
}

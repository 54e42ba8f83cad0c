package classify

import (
	"strings"
	"testing"

	"gatehouse/policy"
)

// quicGarbage has the head of a QUIC Initial packet, and nothing that its key
// opens: what costs as much as a whole one.
var quicGarbage = "\xc0\x00\x00\x00\x01\x08dddddddd\x00\x00\x44\xa0" + strings.Repeat("g", 1184)

// TestInitialsAreBounded: a flood of QUIC packets that want decryption is read as
// far as its endpoint's budget goes, and all endpoints' as far as the worker's;
// what costs nothing is read all the while (threat 38).
func TestInitialsAreBounded(t *testing.T) {
	const burst = int(initialsPerEndpoint * initialsBurst / second)
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		quic := append(statements(), allow(webIdx, dbIdx, plain(policy.AppQUIC), udpPort(443)))
		b := newBench(t, world{statements: quic}, Config{Flows: 4096, PerEndpoint: 4096, Undecided: 4096})
		port := uint16(10_000)
		flood := func(slot uint16, n int) (passed int) {
			b.in.Slot = slot
			for range n {
				now := b.now
				port++
				r := b.send(out.udp(t, port, 443, quicGarbage))
				b.now = now
				switch {
				case r.Forward:
					passed++
				case r.Reason != policy.ReasonMissBudget:
					t.Fatalf("endpoint %d: %+v", slot, r)
				}
			}
			return passed
		}
		for slot := range uint16(4) {
			if n := flood(slot, burst+100); n != burst {
				t.Errorf("endpoint %d: %d packets read at once, want %d", slot, n, burst)
			}
		}
		if n := flood(4, 10); n != 0 {
			t.Errorf("%d packets read above what all endpoints may have", n)
		}
		unread := port
		want(t, "dns meanwhile", b.send(out.udp(t, 5000, 53, dnsQuery)), true, policy.ReasonNone)
		b.now += second / 10
		if n := flood(0, burst); n < burst/5 || n > burst/2 {
			t.Errorf("%d packets read a tenth of a second later", n)
		}
		b.now += second
		b.in.Slot = 4
		want(t, "sent again", b.send(out.udp(t, unread, 443, quicGarbage)), true, policy.ReasonNone)
	})
}

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
// far as its workload's budget goes, by however many networks it comes, and all
// workloads' as far as the worker's; who takes part in no flood is read all the
// while, and so is what costs nothing (threat 38).
func TestInitialsAreBounded(t *testing.T) {
	const (
		burst   = int(initialsPerWorkload * initialsBurst / second)
		reserve = int(initialsReserve * initialsBurst / second)
		floods  = initialsTotal / initialsPerWorkload // that use up the total
	)
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		quic := append(statements(), allow(webIdx, dbIdx, plain(policy.AppQUIC), udpPort(443)))
		b := newBench(t, world{statements: quic}, Config{Flows: 8192, PerEndpoint: 8192, Undecided: 8192})
		port := uint16(10_000)
		flood := func(workload, slot uint16, n int) (passed int) {
			b.in.Workload, b.in.Slot = workload, slot
			for range n {
				now := b.now
				port++
				r := b.send(out.udp(t, port, 443, quicGarbage))
				b.now = now
				switch {
				case r.Forward:
					passed++
				case r.Reason != policy.ReasonMissBudget:
					t.Fatalf("workload %d: %+v", workload, r)
				}
			}
			return passed
		}
		n := 0
		for network := range uint16(8) {
			n += flood(1, 100+network, burst/2)
		}
		if n != burst {
			t.Errorf("one workload on eight networks: %d packets read at once, want %d", n, burst)
		}
		for workload := range uint16(floods - 1) {
			if n := flood(2+workload, 2+workload, burst+100); n != burst {
				t.Errorf("workload %d: %d packets read at once, want %d", 2+workload, n, burst)
			}
		}
		for _, late := range []uint16{30, 31} {
			if n := flood(late, late, 100); n != reserve {
				t.Errorf("workload %d after the total was used up: %d packets read, want its own %d", late, n, reserve)
			}
		}
		if n := flood(1, 108, 10); n != 0 {
			t.Errorf("%d packets read of one that had its share", n)
		}
		unread := port
		want(t, "dns meanwhile", b.send(out.udp(t, 5000, 53, dnsQuery)), true, policy.ReasonNone)
		b.now += second / 10
		if n := flood(1, 100, burst); n < burst/5 || n > burst/2 {
			t.Errorf("%d packets read a tenth of a second later", n)
		}
		b.now += second
		b.in.Slot, b.in.Workload = 108, 1
		want(t, "sent again", b.send(out.udp(t, unread, 443, quicGarbage)), true, policy.ReasonNone)
	})
}

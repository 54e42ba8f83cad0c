package steer

import (
	"testing"

	"gatehouse/dataplane"
)

// families runs f for IPv4 and IPv6.
func families(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Helper()
	for name, v6 := range map[string]bool{"ipv4": false, "ipv6": true} {
		t.Run(name, func(t *testing.T) { f(t, v6) })
	}
}

func TestDecidedFlowPasses(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h := newHost(t)
		h.guard(true)
		a, b := h.run("a", 2), h.run("b", 3)
		h.admit(a)
		h.admit(b)
		must(t, h.s.Flows().Put([]dataplane.FlowEntry{flowEntry(a, b, v6, 17, 1000, 53)}))
		a.end.send(datagram(t, a, b, v6, 1000, 53, "question"))
		if !b.end.wait("question") {
			t.Fatalf("an allowed datagram did not arrive: %+v", h.counters())
		}
		b.end.send(datagram(t, b, a, v6, 53, 1000, "answer"))
		if !a.end.wait("answer") {
			t.Fatalf("an allowed answer did not arrive: %+v", h.counters())
		}
	})
}

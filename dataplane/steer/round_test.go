package steer

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// unmark attaches a program of somebody else before ours at c's port: it takes off
// every mark.
func (h *host) unmark(c *container, attach ebpf.AttachType) {
	h.t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.R1, 8, 0, asm.Word), // __sk_buff.mark
		asm.Mov.Imm(asm.R0, -1),
		asm.Return(),
	}})
	must(h.t, err)
	defer prog.Close()
	must(h.t, h.ns.do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: int(c.ifindex), Program: prog, Attach: attach, Anchor: link.Head()})
		if err == nil {
			h.t.Cleanup(func() { l.Close() })
		}
		return err
	}))
}

// TestNoFrameGoesRound: a frame that user space let pass and that has lost its mark
// on the way is dropped where it was judged before, and does not go there again.
func TestNoFrameGoesRound(t *testing.T) {
	for name, attach := range map[string]ebpf.AttachType{"at its sender": ebpf.AttachTCXIngress, "at its receiver": ebpf.AttachTCXEgress} {
		t.Run(name, func(t *testing.T) {
			h, a, b := newPeers(t)
			user, bridge := h.hairpin(func([]byte) bool { return true }), tap(t, h.ns, "br0")
			host := &container{mac: h.bridge, v4: netip.MustParseAddr("172.30.9.1"), end: bridge}
			from, to, at := a, host, a
			if attach == ebpf.AttachTCXEgress {
				from, to, at = host, b, b
			}
			h.arrives(from, to, "before", datagram(t, from, to, false, 1, 2, "before"))
			h.unmark(at, attach)
			dropped := func() uint64 {
				d := h.counters().Drops
				return d[dataplane.FromEndpoint][policy.ReasonInternal] + d[dataplane.ToEndpoint][policy.ReasonInternal]
			}
			from.end.send(datagram(t, from, to, false, 1, 2, "round"))
			eventually(t, "the frame is dropped", func() bool { return dropped() == 1 })
			if n := user.got("round"); n != 1 {
				t.Errorf("judged %d times", n)
			}
			if n := to.end.got("round"); n != 0 {
				t.Errorf("%d arrived", n)
			}
		})
	}
}

// TestTwoGateways: two on one host do not hand each other's frames round for ever.
func TestTwoGateways(t *testing.T) {
	h, a, b := newPeers(t)
	other := *h
	other.cfg.PinDir += "-other"
	other.cfg.Prefix = "stother"
	other.open()
	t.Cleanup(func() {
		if err := other.s.Uninstall(); err != nil {
			t.Errorf("uninstall: %v", err)
		}
		other.s.Close()
	})
	other.guard(true)
	for _, c := range []*container{a, b} {
		_, err := other.s.Admit(other.spec(c))
		if h.cfg.Attach == AttachClsact { // there is one place for a filter, and it is taken
			if err == nil {
				t.Error("two gateways have one filter")
			}
			return
		}
		must(t, err)
	}
	all := func([]byte) bool { return true }
	one, two, bridge := h.hairpin(all), other.hairpin(all), tap(t, h.ns, "br0")
	host := &container{mac: h.bridge, v4: netip.MustParseAddr("172.30.9.1"), end: bridge}
	for _, ends := range [][2]*container{{a, b}, {a, host}, {host, b}} {
		mark := fmt.Sprint(ends[0].mac, ends[1].mac)
		for port := range uint16(8) {
			ends[0].end.send(datagram(t, ends[0], ends[1], false, 1, 2+port, mark))
		}
		time.Sleep(100 * time.Millisecond) // what goes round is seen thousands of times in it
		if n := one.got(mark) + two.got(mark); n == 0 || n > 8*4 {
			t.Errorf("%v to %v: 8 frames judged %d times", ends[0].mac, ends[1].mac, n)
		}
	}
}

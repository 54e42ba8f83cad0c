package steer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// families runs f for IPv4 and IPv6.
func families(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Helper()
	for name, v6 := range map[string]bool{"ipv4": false, "ipv6": true} {
		t.Run(name, func(t *testing.T) { f(t, v6) })
	}
}

// noted is a mark in options of neighbour discovery that nobody knows; bytes
// after the packet would not cross the bridge.
func noted(mark string) (options []option) {
	for b := []byte(mark); len(b) > 0; b = b[min(6, len(b)):] {
		var o option
		o.kind = 200
		copy(o.mac[:], b)
		options = append(options, o)
	}
	return options
}

func allow(t *testing.T, h *host, e dataplane.FlowEntry) {
	t.Helper()
	must(t, h.s.Flows().Put([]dataplane.FlowEntry{e}))
}

func TestDecidedFlowPasses(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		h.quiet(a, b, a, "undecided", datagram(t, a, b, v6, 1000, 53, "undecided"))
		allow(t, h, flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53))
		h.arrives(a, b, "question", datagram(t, a, b, v6, 1000, 53, "question"))
		h.arrives(b, a, "answer", datagram(t, b, a, v6, 53, 1000, "answer"))
	})
}

// Every frame here reaches b where nothing guards it, and none does once a is
// guarded, whatever the flow map allows.
func TestForgedFramesDoNotArrive(t *testing.T) {
	h := newHost(t)
	a, b, c := h.run("a", 2), h.run("b", 3), h.run("c", 4)
	spoofed, cloned := *a, *a
	spoofed.v4, spoofed.v6 = c.v4, c.v6
	cloned.mac = c.mac
	payload := func(mark string) gopacket.Payload { return gopacket.Payload(mark) }
	udp := &layers.UDP{SrcPort: 1000, DstPort: 53}
	type attack struct {
		mark  string
		frame []byte
	}
	var attacks []attack
	add := func(mark string, f func(mark string) []byte) {
		mark += ";"
		attacks = append(attacks, attack{mark, f(mark)})
	}
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: " 4", true: " 6"}[v6]
		add("source address"+family, func(m string) []byte { return datagram(t, &spoofed, b, v6, 1000, 53, m) })
		add("source MAC"+family, func(m string) []byte { return datagram(t, &cloned, b, v6, 1000, 53, m) })
		add("VLAN"+family, func(m string) []byte { return tagged(datagram(t, a, b, v6, 1000, 53, m), 0x8100, 5) })
		add("QinQ"+family, func(m string) []byte {
			return tagged(tagged(datagram(t, a, b, v6, 1000, 53, m), 0x8100, 5), 0x88a8, 6)
		})
	}
	add("ethertype", func(m string) []byte { return build(t, eth(a.mac, b.mac, 0x88b5), payload(m)) })
	add("LLC", func(m string) []byte {
		return build(t, &layers.Ethernet{SrcMAC: a.mac[:], DstMAC: b.mac[:], Length: uint16(len(m))}, payload(m))
	})
	add("ARP another", func(m string) []byte { return padded(arp(t, a.mac, a.mac, 2, c.v4, b.v4), m) })
	add("ARP gateway", func(m string) []byte {
		return padded(arp(t, a.mac, a.mac, 2, netip.MustParseAddr("172.30.9.1"), b.v4), m)
	})
	add("NA x", func(m string) []byte {
		return advertisement(t, a.mac, a.v6, c.v6, append(noted(m), option{layers.ICMPv6OptTargetAddress, a.mac})...)
	})
	add("NS x", func(m string) []byte { return solicitation(t, a.mac, c.v6, b.v6, noted(m)...) })
	add("RA x", func(m string) []byte {
		return icmp6(t, a.mac, linkLocal(a.mac), allNodes, 134, &layers.ICMPv6RouterAdvertisement{RouterLifetime: 1800, Options: ndOptions(noted(m))})
	})
	add("options", func(m string) []byte {
		return build(t, eth(a.mac, b.mac, 0x0800), &layers.IPv4{Version: 4, IHL: 6, TTL: 64, Protocol: 17, SrcIP: a.v4.AsSlice(), DstIP: b.v4.AsSlice(),
			Options: []layers.IPv4Option{{OptionType: 1}}}, udp, payload(m))
	})
	add("extension header", func(m string) []byte {
		return build(t, eth(a.mac, b.mac, 0x86dd), ip6(a.v6, b.v6, layers.IPProtocolIPv6Destination), payload(string([]byte{17, 0, 1, 4, 0, 0, 0, 0})+m))
	})
	add("fragment", func(m string) []byte {
		return build(t, eth(a.mac, b.mac, 0x0800), &layers.IPv4{Version: 4, TTL: 64, Protocol: 17, FragOffset: 9, SrcIP: a.v4.AsSlice(), DstIP: b.v4.AsSlice()}, payload(m))
	})
	add("SCTP", func(m string) []byte { return build(t, eth(a.mac, b.mac, 0x0800), ip4(a.v4, b.v4, 132), payload(m)) })

	for _, x := range attacks {
		h.arrives(a, b, x.mark, x.frame)
	}
	h.guard(true)
	h.admit(a)
	h.admit(b)
	h.admit(c)
	for _, v6 := range []bool{false, true} {
		allow(t, h, flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53))
		allow(t, h, flowEntry(c, b, v6, policy.ProtoUDP, 1000, 53))
	}
	for _, x := range attacks {
		h.quiet(a, b, c, x.mark, x.frame)
	}
}

// A port that nobody has admitted is closed both ways, by the programs alone
// and by the standing default alone.
func TestUnadmittedIsClosed(t *testing.T) {
	h := newHost(t)
	a, b, c := h.run("a", 2), h.run("b", 3), h.run("c", 4)
	frames := func(from, to *container, mark string) [][]byte {
		return [][]byte{
			datagram(t, from, to, false, 1, 2, mark), datagram(t, from, to, true, 1, 2, mark),
			append(arp(t, from.mac, from.mac, 1, from.v4, to.v4), mark...),
			tagged(datagram(t, from, to, false, 1, 2, mark), 0x8100, 5),
			build(t, eth(from.mac, to.mac, 0x88b5), gopacket.Payload(mark)),
		}
	}
	for _, f := range frames(a, b, "control") {
		a.end.send(f)
	}
	if !b.end.wait("control") {
		t.Fatal("nothing arrives where nothing guards")
	}
	check := func(t *testing.T) {
		t.Helper()
		h.quiet(a, b, c, "from it", frames(a, b, "from it")...)
		// Nothing reaches a, so that nothing can be awaited there.
		for _, f := range frames(b, a, "to it") {
			b.end.send(f)
		}
		h.quiet(a, b, c, "from it", frames(a, b, "from it")...)
		if n := a.end.got("to it"); n != 0 {
			t.Errorf("to it: %d frames arrived", n)
		}
	}
	h.guard(true)
	h.admit(b, func(s *Spec) { s.Unguarded = true })
	h.admit(c)
	t.Run("standing default", func(t *testing.T) { check(t) })
	t.Run("programs", func(t *testing.T) {
		must(t, h.s.prepare(h.s.networks[testZone].space, a.ifindex, h.s.networks[testZone].bridge))
		must(t, h.s.defaults[h.ns.cookie].remove())
		check(t)
	})
}

// Undecided frames reach user space with the tag that says where from, and come
// back to where they came from.
func TestSlowPath(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		user := h.hairpin(func(f []byte) bool { return !bytes.Contains(f, []byte("forbidden")) })
		h.quiet(a, b, a, "forbidden", datagram(t, a, b, v6, 1, 2, "forbidden"))
		h.arrives(a, b, "permitted", datagram(t, a, b, v6, 1, 2, "permitted"))
		f := user.last(a.mac, "permitted")
		if len(f) < 18 || binary.BigEndian.Uint16(f[12:]) != 0x8100 || binary.BigEndian.Uint16(f[14:]) != a.ep.Slot<<1 {
			t.Errorf("user space got % x, want a tag with slot %d, direction 0", f[:18], a.ep.Slot)
		}
		if n := user.gotFrom(a.mac, "permitted"); n != 1 {
			t.Errorf("user space saw the frame %d times: the other hook did not take its mark", n)
		}

		// From the host to a container only the egress hook speaks.
		outsider := &container{mac: h.bridge, v4: outside4, v6: outside6}
		host := tap(t, h.ns, "br0")
		host.send(datagram(t, outsider, b, v6, 5, 6, "from outside"))
		if !b.end.wait("from outside") {
			t.Fatalf("a frame of the host did not arrive: %+v", h.counters())
		}
		if f := user.last(h.bridge, "from outside"); binary.BigEndian.Uint16(f[14:]) != b.ep.Slot<<1|1 {
			t.Errorf("tag %#x, want slot %d, direction 1", f[14:16], b.ep.Slot)
		}
		host.send(datagram(t, outsider, b, v6, 5, 6, "forbidden to b"))
		h.quiet(a, b, a, "forbidden to b")
	})
}

// Past the bridge only what the bridge itself delivers.
func TestPeerNeedsDelivery(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		e := flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53)
		allow(t, h, e)
		peered := func() uint64 { return h.counters().Peer }

		h.arrives(a, b, "first", datagram(t, a, b, v6, 1000, 53, "first"))
		if n := peered(); n != 0 {
			t.Fatalf("the first frame went past the bridge")
		}
		h.arrives(a, b, "second", datagram(t, a, b, v6, 1000, 53, "second"))
		if n := peered(); n != 1 {
			t.Errorf("%d frames past the bridge after the first was delivered by it, want 1", n)
		}
		h.arrives(b, a, "reply", datagram(t, b, a, v6, 53, 1000, "reply"))
		if n := peered(); n != 1 {
			t.Errorf("the first reply went past the bridge: it had not proved its own direction")
		}

		// The bridge no longer lets a's frames to b.
		isolate(t, h, a, b)
		allow(t, h, e) // judged anew
		h.quiet(a, b, h.run("w", 9).admitted(h), "isolated", datagram(t, a, b, v6, 1000, 53, "isolated"), datagram(t, a, b, v6, 1000, 53, "isolated"))
		if n := peered(); n != 1 {
			t.Errorf("%d frames went past a bridge that does not deliver them", n-1)
		}

		e.Peer = false
		allow(t, h, e)
		for i := range 3 {
			mark := fmt.Sprintf("isolated %d", i)
			h.quiet(a, b, h.containers["w"], mark, datagram(t, a, b, v6, 1000, 53, mark))
		}
	})
}

// What user space judges and lets pass goes past the bridge by the same proof, if
// user space says that the flow was handed over.
func TestStayingFlow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		var handedOver atomic.Bool
		user := h.hairpin(func(f []byte) bool {
			if handedOver.Load() {
				f[14] |= 0x80
			}
			return !bytes.Contains(f, []byte("forbidden"))
		})
		e := flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53)
		e.Stays = true
		handOver := func(epoch uint32) {
			must(t, h.s.SetEpoch(epoch))
			e.Epoch = epoch
			allow(t, h, e)
		}
		// sent says whether the frame went past the bridge.
		sent := func(from, to *container, mark string, sport, dport uint16) bool {
			t.Helper()
			before := h.counters().Peer
			h.arrives(from, to, mark, datagram(t, from, to, v6, sport, dport, mark))
			if n := user.gotFrom(from.mac, mark); n != 1 {
				t.Errorf("%s: user space saw it %d times", mark, n)
			}
			return h.counters().Peer > before
		}
		expect := func(past bool, mark string) {
			t.Helper()
			if got := sent(a, b, mark, 1000, 53); got != past {
				t.Errorf("%s: past the bridge %v, want %v", mark, got, past)
			}
		}

		allow(t, h, e)
		expect(false, "not said to be handed over")
		handedOver.Store(true)
		expect(false, "first")
		expect(true, "second")
		allow(t, h, e)
		expect(true, "handed over again")
		if sent(b, a, "reply", 53, 1000) {
			t.Error("the first reply went past the bridge: it had not proved its own direction")
		}
		if !sent(b, a, "next reply", 53, 1000) {
			t.Error("the next reply took the bridge")
		}
		if sent(a, b, "of another flow", 1001, 53) || sent(a, b, "of that flow again", 1001, 53) {
			t.Error("a flow without a line went past the bridge")
		}
		h.quiet(a, b, a, "forbidden", datagram(t, a, b, v6, 1000, 53, "forbidden"))
		if h.s.Flows().Has(&e.Key) {
			t.Error("the kernel is said to carry it")
		}

		must(t, h.s.SetEpoch(2))
		expect(false, "under a new table")
		expect(false, "under a new table, again")
		handOver(2)
		expect(false, "judged anew")
		expect(true, "judged anew and delivered")
		e.Peer = false
		allow(t, h, e)
		expect(false, "no peer")
		expect(false, "no peer, again")
		e.Peer = true

		handOver(3)
		isolate(t, h, a, b) // the bridge no longer lets a's frames to b
		w := h.run("w", 9).admitted(h)
		before := h.counters().Peer
		h.quiet(a, b, w, "isolated", datagram(t, a, b, v6, 1000, 53, "isolated"), datagram(t, a, b, v6, 1000, 53, "isolated"))
		if h.counters().Peer != before {
			t.Error("went past a bridge that does not deliver")
		}
	})
}

func (c *container) admitted(h *host) *container { h.admit(c); return c }

// isolate makes ports unable to talk to each other, as icc=false does.
func isolate(t *testing.T, h *host, ports ...*container) {
	t.Helper()
	must(t, h.ns.do(func() error {
		for _, c := range ports {
			l, err := netlink.LinkByIndex(int(c.ifindex))
			if err != nil {
				return err
			}
			if err := netlink.LinkSetIsolated(l, true); err != nil {
				return err
			}
		}
		return nil
	}))
}

// The next container with the same address and MAC inherits nothing.
func TestRecycledAddress(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		allow(t, h, flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53))
		h.arrives(a, b, "first", datagram(t, a, b, v6, 1000, 53, "first"))
		h.arrives(a, b, "second", datagram(t, a, b, v6, 1000, 53, "second"))

		must(t, b.ns.do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		}))
		heir := &container{name: "h", ns: newNetNS(t), mac: b.mac, v4: b.v4, v6: b.v6}
		h.wire(heir)
		// Its predecessor's removal has not been told yet.
		h.admit(heir)
		h.quiet(a, heir, a, "inherited", datagram(t, a, heir, v6, 1000, 53, "inherited"))
		must(t, h.s.Remove("endpoint-b"))
		allow(t, h, flowEntry(a, heir, v6, policy.ProtoUDP, 1000, 53))
		h.arrives(a, heir, "its own", datagram(t, a, heir, v6, 1000, 53, "its own"))
		h.arrives(heir, a, "its answer", datagram(t, heir, a, v6, 53, 1000, "its answer"))

		must(t, h.s.Remove("endpoint-h"))
		var left [8]dataplane.FlowEntry
		if n, _, err := h.s.Flows().Scan(left[:]); n != 0 || err != nil {
			t.Errorf("%d flows left, %v", n, err)
		}
	})
}

// A table that forbids ends the flow at its next packet.
func TestEpoch(t *testing.T) {
	h, a, b := newPeers(t)
	allow(t, h, flowEntry(a, b, false, policy.ProtoUDP, 1000, 53))
	h.arrives(a, b, "before", datagram(t, a, b, false, 1000, 53, "before"))
	must(t, h.s.SetEpoch(2))
	h.quiet(a, b, a, "after", datagram(t, a, b, false, 1000, 53, "after"))
	if err := h.s.SetEpoch(1); err == nil {
		t.Error("the epoch went back")
	}
}

// The process ends: decided flows go on, what is closed stays closed, and the
// next one takes over without a gap.
func TestTakeover(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b, c := h.run("a", 2), h.run("b", 3), h.run("c", 4)
	h.admit(a)
	h.admit(b)
	h.admit(c)
	late := h.run("d", 5)
	allow(t, h, flowEntry(a, b, false, policy.ProtoUDP, 1000, 53))
	first := a.ep
	h.beat(0, -time.Second)
	must(t, h.s.Close())

	h.arrives(a, b, "meanwhile", datagram(t, a, b, false, 1000, 53, "meanwhile"))
	for _, f := range [][]byte{datagram(t, a, b, false, 7, 8, "new flow"), datagram(t, a, b, true, 1000, 53, "new flow")} {
		a.end.send(f)
	}
	late.end.send(datagram(t, late, b, false, 7, 8, "new container"))

	h.open()
	h.guard(true)
	h.admit(a)
	if a.ep.Slot != first.Slot || a.ep.Space != first.Space || a.ep.Attached != first.Attached {
		t.Errorf("taken over as %+v, was %+v", a.ep, first)
	}
	h.arrives(a, b, "after", datagram(t, a, b, false, 1000, 53, "after"))
	h.admit(b)
	// c is gone for the new process.
	must(t, h.s.Sweep())
	h.quiet(a, b, a, "new flow")
	h.quiet(a, b, a, "new container")
	h.quiet(c, b, a, "from c", datagram(t, c, b, false, 1, 2, "from c"), padded(arp(t, c.mac, c.mac, 1, c.v4, b.v4), "from c"))
}

func TestBothDirectionsMeetOneQueue(t *testing.T) {
	h := newHost(t)
	must(t, h.s.Uninstall())
	h.s.Close()
	h.cfg.Queues = 4
	h.open()
	h.guard(true)
	sp, err := h.s.Space(h.ns.path)
	must(t, err)
	seen := h.queueMap(sp.User)
	var all [5]*container
	for i := range all {
		all[i] = h.run(fmt.Sprintf("q%d", i), byte(10+7*i))
		h.admit(all[i])
	}
	used := make(map[int]bool)
	for i, a := range all {
		for _, b := range all[i+1:] {
			for _, v6 := range []bool{false, true} {
				out := queueOf(t, seen, func() { a.end.send(datagram(t, a, b, v6, 1, 2, "x")) })
				back := queueOf(t, seen, func() { b.end.send(datagram(t, b, a, v6, 2, 1, "x")) })
				if out != back {
					t.Errorf("%s to %s: queue %d, and %d back", a.name, b.name, out, back)
				}
				used[out] = true
			}
		}
	}
	if len(used) < 2 {
		t.Errorf("of four queues only %v were used", used)
	}
}

// queueMap counts what arrives at an interface by its queues.
func (h *host) queueMap(name string) *ebpf.Map {
	h.t.Helper()
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 8})
	must(h.t, err)
	h.t.Cleanup(func() { seen.Close() })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:    ebpf.SchedCLS,
		License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R0, asm.R1, 12, asm.Word), // queue_mapping
			asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
			asm.LoadMapPtr(asm.R1, seen.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, shot).WithSymbol("out"),
			asm.Return(),
		},
	})
	must(h.t, err)
	defer prog.Close()
	must(h.t, h.ns.do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		at, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: prog, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return err
		}
		h.t.Cleanup(func() { at.Close() })
		return nil
	}))
	return seen
}

// queueOf is the one queue that what send sends arrives by.
func queueOf(t *testing.T, seen *ebpf.Map, send func()) int {
	t.Helper()
	read := func() (n [8]uint64) {
		for i := range n {
			must(t, seen.Lookup(uint32(i), &n[i]))
		}
		return n
	}
	before := read()
	send()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for i, n := range read() {
			if n > before[i] {
				return i
			}
		}
	}
	t.Fatal("nothing came to user space")
	return 0
}

// TestOneGatewayAtATime: a second one does not touch the first one's tables.
func TestOneGatewayAtATime(t *testing.T) {
	h := newHost(t)
	// Another version's pins are a running gateway's too.
	other := filepath.Join(h.cfg.PinDir, "v2")
	must(t, os.Mkdir(other, 0o700))
	if s, err := Open(h.cfg); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("a second gateway: %v", err)
		s.Close()
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the second gateway removed the first one's pins: %v", err)
	}
}

// What could not be pinned is refused by name.
func TestPinsElsewhere(t *testing.T) {
	needKernel(t)
	dir := t.TempDir()
	s, err := Open(Config{PinDir: dir})
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), dir+" is in no BPF file system") {
		t.Errorf("pins in an ordinary folder: %v", err)
	}
}

// otherVersion is a host whose closed network has two containers, of a gateway with
// another layout that has ended, attached that way: one flow between them it had
// decided.
func otherVersion(t *testing.T, way Attach, v6 bool) (h *host, a, b *container) {
	t.Helper()
	h = newHost(t)
	must(t, h.s.Close())
	h.cfg.Attach = way
	h.open()
	h.guard(true)
	a, b = h.run("a", 2), h.run("b", 3)
	h.admit(a)
	h.admit(b)
	must(t, h.s.Flows().Put([]dataplane.FlowEntry{flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53)}))
	h.beat(0, 0)
	must(t, h.s.Close())
	must(t, os.Rename(filepath.Join(h.cfg.PinDir, layout), filepath.Join(h.cfg.PinDir, "v2")))
	h.show(h.ns, "host")
	return h, a, b
}

// TestOtherVersion: what a gateway with another layout has shut stays shut, and what it
// decided goes on, until the programs here are in place of its own; of those nothing
// stays then, whichever way they were attached.
func TestOtherVersion(t *testing.T) {
	for _, way := range []Attach{AttachTCX, AttachClsact} {
		for _, next := range []Attach{AttachTCX, AttachClsact} {
			t.Run(way.String()+" to "+next.String(), func(t *testing.T) {
				families(t, func(t *testing.T, v6 bool) {
					h, a, b := otherVersion(t, way, v6)
					decided, other := datagram(t, a, b, v6, 1000, 53, "decided"), datagram(t, a, b, v6, 1, 2, "other")
					h.cfg.Attach = next
					h.open()
					if !h.s.Replaces() {
						t.Error("nobody is said to have been here")
					}
					h.arrives(a, b, "decided", decided)
					h.quiet(a, b, a, "other", other)

					h.guard(true)
					before := h.counters().Steered
					h.admit(a)
					h.admit(b)
					h.quiet(a, b, a, "other", other)
					if n := h.counters().Steered - before; n == 0 {
						t.Error("the programs of this layout saw nothing")
					}
					must(t, h.s.Sweep())
					if entries, err := os.ReadDir(h.cfg.PinDir); err != nil || len(entries) != 1 || entries[0].Name() != layout {
						t.Errorf("pins of %v, %v; want those of %s", entries, err, layout)
					}
					must(t, h.s.Flows().Put([]dataplane.FlowEntry{flowEntry(a, b, v6, policy.ProtoUDP, 1, 2)}))
					h.arrives(a, b, "other", other) // the old programs would not have let it
				})
			})
		}
	}
}

// TestOtherVersionLeaves: where this one does not guard what another layout's gateway did,
// nothing of that stays attached; nor does it where this one is uninstalled at once.
func TestOtherVersionLeaves(t *testing.T) {
	for _, way := range []Attach{AttachTCX, AttachClsact} {
		for what, end := range map[string]func(*Steer) error{"sweep": (*Steer).Sweep, "uninstall": (*Steer).Uninstall} {
			t.Run(way.String()+" "+what, func(t *testing.T) {
				h, a, b := otherVersion(t, way, false)
				h.open()
				if what == "sweep" {
					h.guard(false)
				}
				must(t, end(h.s))
				h.arrives(a, b, "by nobody's hook", datagram(t, a, b, false, 1, 2, "by nobody's hook"))
			})
		}
	}
}

// TestOtherSize: tables of another size have ends of their own, for the
// programs that are still attached read the old ones.
func TestOtherSize(t *testing.T) {
	h := newHost(t)
	id := func() ebpf.MapID {
		info, err := h.s.maps.Ends.Info()
		must(t, err)
		n, _ := info.ID()
		return n
	}
	first := id()
	must(t, h.s.Close())
	h.open()
	if id() != first {
		t.Error("a restart made other ends")
	}
	must(t, h.s.Close())
	h.cfg.FlowEntries *= 2
	h.open()
	if id() == first {
		t.Error("tables of another size share the ends of the old ones")
	}
}

func TestUninstallLeavesNothing(t *testing.T) {
	h, a, b := newPeers(t)
	h.quiet(a, b, a, "held", datagram(t, a, b, false, 1, 2, "held"))
	must(t, h.s.Uninstall())
	h.arrives(a, b, "free", datagram(t, a, b, false, 1, 2, "free"))
	h.arrives(a, b, "tagged", tagged(datagram(t, a, b, false, 1, 2, "tagged"), 0x8100, 5))
	must(t, h.ns.do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, h.cfg.Prefix) {
				t.Errorf("%s is left", l.Attrs().Name)
			}
		}
		return err
	}))
}

// Two real stacks talk through the slow path alone and then through the flow
// map: neighbours are found, checksums are whole, super-packets get through.
func TestStacksTalk(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		h.hairpin(func([]byte) bool { return true })
		addr := netip.AddrPortFrom(b.v4, 80)
		if v6 {
			addr = netip.AddrPortFrom(b.v6, 80)
		}
		var listener net.Listener
		must(t, b.ns.do(func() (err error) {
			listener, err = net.Listen("tcp", addr.String())
			return err
		}))
		defer listener.Close()
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				io.Copy(c, c)
				c.Close()
			}
		}()
		var c net.Conn
		must(t, a.ns.do(func() (err error) {
			c, err = net.DialTimeout("tcp", addr.String(), 5*time.Second)
			return err
		}))
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		exchange := func(n int) {
			t.Helper()
			data := bytes.Repeat([]byte("gatehouse "), n/10)
			go c.Write(data)
			got := make([]byte, len(data))
			if _, err := io.ReadFull(c, got); err != nil {
				t.Fatalf("after %+v: %v", h.counters(), err)
			}
			if !bytes.Equal(got, data) {
				t.Fatal("what came back differs")
			}
		}
		exchange(100_000)
		if n := h.counters(); n.Hits != 0 || n.Returned == 0 {
			t.Errorf("through the slow path: %+v", n)
		}
		port := c.LocalAddr().(*net.TCPAddr).AddrPort().Port()
		allow(t, h, flowEntry(a, b, v6, policy.ProtoTCP, port, 80))
		steered := h.counters().Steered
		exchange(4_000_000)
		n := h.counters()
		if n.Hits == 0 || n.Peer == 0 {
			t.Errorf("through the flow map: %+v", n)
		}
		if more := n.Steered - steered; more > 8 {
			t.Errorf("%d more frames took the slow path", more)
		}
		var entry [1]dataplane.FlowEntry
		if _, _, err := h.s.Flows().Scan(entry[:]); err != nil || entry[0].Bytes[0] < 4_000_000 || entry[0].Bytes[1] < 4_000_000 || entry[0].Closed != 0 {
			t.Errorf("the flow's entry: %+v, %v", entry[0], err)
		}
		must(t, c.Close())
		eventually(t, "both sides' FIN is seen", func() bool {
			must(t, drain(h.s.Flows(), entry[:]))
			return entry[0].Closed&3 == 3
		})
	})
}

// drain reads the map's only entry.
func drain(f *FlowMap, one []dataplane.FlowEntry) error {
	for {
		n, end, err := f.Scan(one)
		if err != nil || end || n == 0 {
			return err
		}
	}
}

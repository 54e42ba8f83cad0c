package dataplane_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

// TestOffloadOrder: nothing may overtake the packet that decided its flow; the
// answer to a SYN needs not come here.
func TestOffloadOrder(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for name, tc := range map[string]struct {
			frame []byte
			want  []string
		}{
			"SYN":      {newConn(t, web, db, v6, 40000, 9000).segment(false, "S", ""), []string{"recv", "put", "flush"}},
			"datagram": {udp(t, web, db, v6, 40000, 9000, "x"), []string{"recv", "flush", "put"}},
		} {
			l := newLane(t)
			l.passes(web, db, tc.frame)
			steps := l.port.Order.Steps()
			if i := slices.Index(steps, "recv"); !slices.Equal(steps[i:], tc.want) {
				t.Errorf("%s: steps %v, want %v", name, steps, tc.want)
			}
		}
	})
}

func TestAllowedFlowIsOffloaded(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, db, v6, 40000, 9000)
		l.passes(web, db, c.segment(false, "S", ""))
		e, ok := l.m.Get(c.key())
		if !ok {
			t.Fatal("not offloaded")
		}
		from := 0
		if e.Key.PortA == 9000 {
			from = 1
		}
		if e.Verdict != policy.Allow || e.Epoch != 1 || !e.Peer || int(e.Initiator) != from ||
			e.Ifindex[from] != 101 || e.Ifindex[1-from] != 102 || e.MAC[from] != web.mac || e.MAC[1-from] != db.mac {
			t.Errorf("entry %+v", e)
		}
	})
}

func TestFlowToOutsideHasOneLocalEnd(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, outside, v6, 40000, 443)
		l.passes(web, outside, c.segment(false, "S", ""))
		e, ok := l.m.Get(c.key())
		if !ok {
			t.Fatal("not offloaded")
		}
		i := e.Initiator
		if e.Peer || e.Ifindex[i] != 101 || e.Ifindex[1-i] != 0 || e.MAC[1-i] != gatewayMAC {
			t.Errorf("entry %+v", e)
		}
		in := newConn(t, outside, web, v6, 50000, 8080)
		l.passes(outside, web, in.segment(false, "S", ""))
		l.passes(web, outside, in.segment(true, "SA", ""))
		if e, ok := l.m.Get(in.key()); !ok || e.Peer || e.Ifindex[e.Initiator] != 0 || e.Ifindex[1-e.Initiator] != 101 {
			t.Errorf("entry of an incoming flow %+v, %v", e, ok)
		}
	})
}

// What the worker looks at as long as a flow lasts is offered for the proof that the
// bridge delivers it, once it has lasted for some packets.
func TestStayingFlow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		key := func() (k classify.FlowKey, ok bool) {
			entries := make([]dataplane.FlowEntry, 2)
			n, _, err := l.m.Scan(entries)
			if err != nil || n > 1 {
				t.Fatalf("%d entries, %v", n, err)
			}
			return entries[0].Key, n == 1
		}
		// round sends an echo and its answer and says whether both were sent as
		// a flow's that was handed over.
		round := func() bool {
			t.Helper()
			asked := l.send(web, db, echoFrame(t, web, db, v6, true))
			answered := l.send(db, web, echoFrame(t, db, web, v6, false))
			if len(asked) != 1 || len(answered) != 1 {
				t.Fatalf("%d and %d frames left, want one each", len(asked), len(answered))
			}
			return asked[0].Line && answered[0].Line
		}
		for range 3 {
			if round() {
				t.Fatal("a short flow was handed over")
			}
		}
		if _, ok := key(); ok {
			t.Fatal("a short flow was offloaded")
		}
		round()
		k, ok := key()
		if !ok || !round() {
			t.Fatalf("entry %v: a long flow was not handed over", ok)
		}
		e, _ := l.m.Get(k)
		if !e.Stays || !e.Peer || e.Verdict != policy.Allow || e.Epoch != 1 || e.Ifindex[e.Initiator] != 101 || e.Ifindex[1-e.Initiator] != 102 {
			t.Errorf("entry %+v", e)
		}
		if fs := l.d.ListFlows(); len(fs) != 1 || fs[0].Packets != [2]uint64{5, 5} {
			t.Errorf("flows %+v", fs)
		}

		// A new table: what is known of its delivery ends with the old one.
		l.d.SetTable(table(t, 2, policy.Enforce, lines...))
		round()
		if e, ok := l.m.Get(k); !ok || e.Epoch != 2 || !e.Stays {
			t.Errorf("under a new table: entry %+v, %v", e, ok)
		}
		l.d.SetTable(table(t, 3, policy.Enforce, lines[0]))
		l.send(web, db, echoFrame(t, web, db, v6, true))
		if e, ok := l.m.Get(k); ok && e.Verdict == policy.Allow {
			t.Errorf("refused by a new table: entry %+v", e)
		}

		l.d.SetEndpoints([]dataplane.Endpoint{web.endpoint()})
		l.d.Turn(0)
		if _, ok := key(); ok {
			t.Error("the entry outlived its endpoint")
		}
	})
}

func TestPeerOnlyWhereTheBridgeDelivers(t *testing.T) {
	for name, change := range map[string]func(*dataplane.Endpoint){
		"other bridge":         func(e *dataplane.Endpoint) { e.Bridge = 51 },
		"no icc":               func(e *dataplane.Endpoint) { e.ICC = false },
		"the bridge's own MAC": func(e *dataplane.Endpoint) { e.Gateway = e.MAC },
	} {
		l := newLane(t)
		e := db.endpoint()
		change(&e)
		l.d.SetEndpoints([]dataplane.Endpoint{web.endpoint(), e})
		c := newConn(t, web, db, false, 40000, 9000)
		l.passes(web, db, c.segment(false, "S", ""))
		if e, ok := l.m.Get(c.key()); !ok || e.Peer {
			t.Errorf("%s: entry %+v, %v", name, e, ok)
		}
	}
}

// TestUndecidedInTheKernel: the kernel learns of an undecided connection with its
// SYN, before that is transmitted, and again where the answer came here; it forgets
// it where the decision stays in user space, where it ends, and where its reader is
// gone.
func TestUndecidedInTheKernel(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t, append([]policy.Statement{line(policy.Reject, "web", "db", "ssh", "tcp/80")}, lines...)...)
		c := newConn(t, web, db, v6, 40000, 80)
		var e dataplane.FlowEntry
		var ok bool
		for _, opening := range []bool{true, false} {
			if opening {
				l.passes(web, db, c.segment(false, "S", ""))
			} else {
				l.passes(db, web, c.segment(true, "SA", ""))
			}
			steps := l.port.Order.Steps()
			if n := len(steps); n < 2 || !slices.Equal(steps[n-2:], []string{"put", "flush"}) {
				t.Errorf("steps %v, want the entry before the transmit", steps)
			}
			e, ok = l.m.Get(c.key())
			if i := e.Initiator; !ok || e.Verdict != policy.Undecided || e.Peer || e.Ifindex[i] != web.endpoint().Ifindex || e.Ifindex[1-i] != db.endpoint().Ifindex {
				t.Errorf("entry %+v, %v", e, ok)
			}
			if e.Opening != opening || opening && e.Awaited != c.seq[0] {
				t.Errorf("entry %+v, opening %v", e, opening)
			}
		}
		if flows := l.d.ListFlows(); len(flows) != 1 || flows[0].Offloaded {
			t.Errorf("flows %+v", flows)
		}

		if got := l.send(web, db, c.segment(false, "A", "SSH-2.0-OpenSSH_9.2\r\n")); len(got) != 2 {
			t.Fatalf("%d frames, want a reset for each end", len(got))
		}
		if e, ok := l.m.Get(c.key()); ok {
			t.Errorf("rejected, and the kernel has %+v", e)
		}

		ended := newConn(t, web, db, v6, 40001, 80)
		ended.open(l)
		l.passes(web, db, ended.segment(false, "RA", ""))
		l.d.Elapse(time.Second)
		l.d.Turn(0)
		if e, ok := l.m.Get(ended.key()); ok {
			t.Errorf("reset, and the kernel has %+v", e)
		}

		// Its answer passes in the kernel, and nothing more comes.
		silent := newConn(t, web, db, v6, 40003, 80)
		l.passes(web, db, silent.segment(false, "S", ""))
		l.m.NoteAnswer(silent.key(), silent.seq[1], 60)
		if flows := l.d.ListFlows(); !slices.ContainsFunc(flows, func(f dataplane.Flow) bool {
			return f.Src.Port() == 40003 && f.Packets == [2]uint64{1, 1}
		}) {
			t.Errorf("flows %+v, want the one that the kernel saw answered", flows)
		}
		// One that is never answered leaves the map when it is given up.
		unanswered := newConn(t, web, db, v6, 40004, 80)
		l.passes(web, db, unanswered.segment(false, "S", ""))
		l.passes(db, web, unanswered.segment(true, "RA", ""))
		l.d.Elapse(time.Second)
		l.d.Turn(0)
		if e, ok := l.m.Get(unanswered.key()); ok {
			t.Errorf("refused by its responder, and the kernel has %+v", e)
		}

		left := newConn(t, web, db, v6, 40002, 80)
		left.open(l)
		e, ok = l.m.Get(left.key())
		if !ok {
			t.Fatal("no entry")
		}
		next := newLane(t)
		if err := next.m.Put([]dataplane.FlowEntry{e}); err != nil {
			t.Fatal(err)
		}
		if n := next.d.Adopt([]dataplane.FlowEntry{e}); n != 0 {
			t.Errorf("%d undecided flows adopted", n)
		}
		next.d.Turn(0)
		if next.m.Len() != 0 || len(next.d.ListFlows()) != 0 {
			t.Error("a new process keeps what the old one had not decided")
		}
	})
}

func TestAdoptedFlowGoesOn(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		old := newLane(t)
		c := newConn(t, web, db, v6, 40000, 80)
		c.open(old)
		old.passes(web, db, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
		old.passes(db, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\n\r\n"))
		entries := make([]dataplane.FlowEntry, 10)
		n, _, err := old.m.Scan(entries)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}

		l := newLane(t)
		l.d.SetTable(table(t, 9, policy.Enforce, lines...))
		l.d.Adopt(entries[:n])
		l.d.Turn(0)
		l.passes(db, web, c.segment(true, "A", "in the middle of a body"))
		if e, ok := l.m.Get(c.key()); !ok || e.Epoch != 9 || e.App != policy.AppHTTP || e.Verdict != policy.Allow {
			t.Errorf("entry %+v, %v", e, ok)
		}
		l.d.SetTable(table(t, 10, policy.Enforce))
		l.isDropped(db, web, c.segment(true, "A", "more"), policy.ReasonPolicyChanged)
	})
}

func TestFullMapKeepsFlowsHere(t *testing.T) {
	l := newLane(t)
	l.m.Max = 1
	a, b := newConn(t, web, db, false, 40000, 9000), newConn(t, web, db, false, 40001, 9000)
	a.open(l)
	b.open(l)
	if c := l.d.Counters(); c.NotOffloaded == 0 {
		t.Errorf("counters %+v", c)
	}
	l.passes(web, db, b.segment(false, "A", "x"))
}

func TestKernelsCountsReachTheFlow(t *testing.T) {
	l := newLane(t)
	c := newConn(t, web, db, false, 40000, 9000)
	c.open(l)
	k := c.key()
	for round := range uint32(2) {
		l.m.Update(k, func(e *dataplane.FlowEntry) {
			i := e.Initiator
			e.Packets[i], e.Bytes[i] = 100*(round+1), 50000*uint64(round+1)
			e.Seen = uint32(l.d.Now() / 1e9)
		})
		l.d.Settle()
	}
	fs := l.d.ListFlows()
	if len(fs) != 1 {
		t.Fatalf("flows %+v", fs)
	}
	f := fs[0]
	if !f.Offloaded || f.Packets[0] < 200 || f.Bytes[0] < 100000 || f.Src.Addr() != web.v4 || f.Workload != [2]string{"web", "db"} {
		t.Errorf("flow %+v", f)
	}
}

// TestClosedConnectionsDoNotPileUp: more connections than an endpoint's share of
// the table, one after the other, closed in the kernel's sight only.
func TestClosedConnectionsDoNotPileUp(t *testing.T) {
	for name, bits := range map[string]uint8{"fin": 3, "rst": 4} {
		l := newLane(t)
		for i := range 1000 {
			c := newConn(t, web, db, i%2 == 0, uint16(10000+i), 9000)
			l.passes(web, db, c.segment(false, "S", ""))
			l.m.Update(c.key(), func(e *dataplane.FlowEntry) { e.Closed, e.Bytes[0] = bits, 100 })
			if i%50 == 0 {
				l.d.Settle()
				l.d.Elapse(time.Second)
				l.d.Turn(0)
			}
		}
		if n := l.m.Len(); n > 100 {
			t.Errorf("%s: %d entries are left in the kernel's map", name, n)
		}
	}
}

func TestAnsweredLookupsDoNotPileUp(t *testing.T) {
	l := newLane(t, line(policy.Allow, "web", "db", "any", "udp/53"))
	for i := range 1000 {
		q := udp(t, web, db, i%2 == 0, uint16(10000+i), 53, "query")
		l.passes(web, db, q)
		l.passes(db, web, udp(t, db, web, i%2 == 0, 53, uint16(10000+i), "answer"))
		if i%50 == 0 {
			l.d.Elapse(4 * time.Second)
			l.d.Turn(0)
		}
	}
	if n := l.m.Len(); n > 100 {
		t.Errorf("%d entries are left in the kernel's map", n)
	}
}

func TestEntriesOfNobodyAreSwept(t *testing.T) {
	l := newLane(t)
	k, _ := classify.MakeKey(zone, policy.ProtoTCP, netip.MustParseAddr("172.18.0.77").As16(), db.v4.As16(), 1, 2)
	now := uint32(l.d.Now() / 1e9)
	if err := l.m.Put([]dataplane.FlowEntry{{Key: k, Ifindex: [2]uint32{9, 9}, Verdict: policy.Allow, Seen: now}}); err != nil {
		t.Fatal(err)
	}
	old, _ := classify.MakeKey(zone, policy.ProtoUDP, web.v4.As16(), db.v4.As16(), 1, 2)
	if err := l.m.Put([]dataplane.FlowEntry{{Key: old, Ifindex: [2]uint32{101, 102}, Verdict: policy.Allow, Seen: now - 1000}}); err != nil {
		t.Fatal(err)
	}
	l.d.Settle()
	if n := l.m.Len(); n != 0 {
		t.Errorf("%d entries left", n)
	}
}

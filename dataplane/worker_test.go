package dataplane_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/dns/dnsmessage"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/dataplane/dataplanetest"
	"gatehouse/policy"
)

func TestWrongApplicationDoesNotArrive(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		good := newConn(t, web, db, v6, 40000, 80)
		good.open(l)
		if e, ok := l.m.Get(good.key()); !ok || e.Verdict != policy.Undecided || e.Peer {
			t.Fatalf("entry before the application is known %+v, %v", e, ok)
		}
		l.passes(web, db, good.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
		l.passes(db, web, good.segment(true, "A", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
		if e, ok := l.m.Get(good.key()); !ok || e.Verdict != policy.Allow || e.App != policy.AppHTTP {
			t.Errorf("entry %+v, %v", e, ok)
		}

		bad := newConn(t, web, db, v6, 40001, 80)
		bad.open(l)
		l.isDropped(web, db, bad.segment(false, "A", "SSH-2.0-OpenSSH_9.2\r\n"), policy.ReasonApp)
		if e, ok := l.m.Get(bad.key()); !ok || e.Verdict != policy.Drop || e.Reason != policy.ReasonApp {
			t.Errorf("entry %+v, %v", e, ok)
		}
		l.isDropped(db, web, bad.segment(true, "A", "SSH-2.0-x\r\n"), policy.ReasonApp)

		if c := l.d.Counters(); c.Offloaded != 2 {
			t.Errorf("%d flows offloaded, want those two that were decided", c.Offloaded)
		}
		l.d.Settle()
		vs := l.d.Violations().List()
		if len(vs) != 1 {
			t.Fatalf("%d violations of one connection: %+v", len(vs), vs)
		}
		v := vs[0]
		if v.Reason != policy.ReasonApp || v.Spoken.App != policy.AppSSH || v.Mode != policy.Enforce || v.Workload != "web" ||
			v.Src.Addr() != web.addr(v6) || v.Dst != netip.AddrPortFrom(db.addr(v6), 80) || v.FromName != "shop/web" || v.ToName != "shop/db" {
			t.Errorf("violation %+v", v)
		}
	})
}

// What the ends of a refused connection still send is of its violation, at either end,
// also once the flow is forgotten.
func TestLateSegmentsAreOfTheirConnection(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		bad := newConn(t, web, db, v6, 40001, 80)
		bad.open(l)
		l.isDropped(web, db, bad.segment(false, "A", "SSH-2.0-OpenSSH_9.2\r\n"), policy.ReasonApp)
		l.isDropped(db, web, bad.segment(true, "A", "SSH-2.0-x\r\n"), policy.ReasonApp)
		l.d.Elapse(10 * time.Second)
		l.d.Turn(0)
		if fs := l.d.ListFlows(); len(fs) != 0 {
			t.Fatalf("it is not forgotten: %+v", fs)
		}
		l.isDropped(db, web, bad.segment(true, "FA", ""), policy.ReasonNoFlow)
		l.isDropped(web, db, bad.segment(false, "A", "SSH-2.0-OpenSSH_9.2\r\n"), policy.ReasonNoFlow)
		l.isDropped(web, db, newConn(t, web, db, v6, 40002, 1234).segment(false, "A", "x"), policy.ReasonNoFlow)
		l.d.Settle()
		vs := l.d.Violations().List()
		if len(vs) != 2 || vs[0].Reason != policy.ReasonNoFlow || vs[0].Src.Port() != 40002 || vs[0].Packets != 1 {
			t.Fatalf("%+v", vs)
		}
		if v := vs[1]; v.Reason != policy.ReasonApp || v.Spoken.App != policy.AppSSH || v.Packets != 4 || v.Count != 4 || v.Src.Port() != 40001 {
			t.Errorf("%+v", v)
		}
	})
}

// Who has an address, and a port, after another is told to have sent what it sent.
func TestViolationsOfAnHeir(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		syn := func() []byte { return newConn(t, web, db, v6, 40000, 22).segment(false, "S", "") }
		l.isDropped(web, db, syn(), policy.ReasonNoRule)
		l.d.Settle()
		heir := web.endpoint()
		heir.ID, heir.Workload = "heir-ep", "heir"
		l.d.SetEndpoints([]dataplane.Endpoint{db.endpoint()})
		l.d.Turn(0)
		l.d.Elapse(time.Minute)
		l.d.SetEndpoints([]dataplane.Endpoint{heir, db.endpoint()})
		l.d.Turn(0)
		l.isDropped(web, db, syn(), policy.ReasonNoRule)
		l.d.Settle()
		vs := l.d.Violations().List()
		if len(vs) != 2 || vs[0].Workload != "heir" {
			t.Errorf("%+v", vs)
		}
	})
}

// A connection in the other direction, on the same ports, is another's violation.
func TestViolationsOfTheOtherEnd(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		l.isDropped(web, db, newConn(t, web, db, v6, 40000, 22).segment(false, "S", ""), policy.ReasonNoRule)
		l.d.Elapse(time.Minute)
		l.d.Turn(0)
		l.d.Turn(0)
		l.isDropped(db, web, newConn(t, db, web, v6, 22, 40000).segment(false, "S", ""), policy.ReasonNoRule)
		l.d.Settle()
		vs := l.d.Violations().List()
		if len(vs) != 2 || vs[0].Workload != "db" || vs[0].Src.Port() != 22 {
			t.Errorf("%+v", vs)
		}
	})
}

func TestUnmatchedFlowIsDroppedAndCountedOnce(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		for range 5 {
			l.isDropped(web, db, udp(t, web, db, v6, 5000, 1234, "x"), policy.ReasonNoRule)
		}
		l.d.Settle()
		vs := l.d.Violations().List()
		if len(vs) != 1 || vs[0].Packets != 5 || vs[0].Count != 5 || vs[0].Reason != policy.ReasonNoRule || vs[0].Rule != -1 {
			t.Fatalf("violations %+v", vs)
		}
		// The kernel goes on dropping.
		k, _ := classify.MakeKey(zone, policy.ProtoUDP, web.addr(v6).As16(), db.addr(v6).As16(), 5000, 1234)
		l.m.Update(k, func(e *dataplane.FlowEntry) {
			side := e.Initiator
			e.Packets[side], e.Bytes[side] = 40, 4000
		})
		l.d.Settle()
		if vs := l.d.Violations().List(); len(vs) != 1 || vs[0].Packets != 45 || l.d.Violations().Made() != 1 {
			t.Fatalf("with the kernel's: %+v", vs)
		}
	})
}

func TestObserveRecordsAndPasses(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		l.d.SetTable(table(t, 2, policy.Observe, lines...))
		observed := []dataplane.Endpoint{web.endpoint(), db.endpoint()}
		for i := range observed {
			observed[i].Mode = policy.Observe
		}
		l.d.SetEndpoints(observed)
		l.passes(web, db, udp(t, web, db, v6, 5000, 1234, "x"))
		// A neighbour that routes for others is no violation of an observer's peace.
		f := udp(t, web, outside, v6, 5000, 1234, "x")
		copy(f, db.mac[:])
		l.passes(web, outside, f)
		l.d.Settle()
		got := map[policy.Reason]policy.Mode{}
		for _, v := range l.d.Violations().List() {
			got[v.Reason] = v.Mode
		}
		for _, r := range []policy.Reason{policy.ReasonNoRule, policy.ReasonDestinationMAC} {
			if mode, ok := got[r]; !ok || mode != policy.Observe {
				t.Errorf("%v: recorded %v as %v", r, ok, mode)
			}
		}
	})
}

func TestDestinationMAC(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		toGateway := db
		toGateway.mac = gatewayMAC
		stranger := outside
		stranger.mac = policy.MAC{2, 0, 0, 0, 0, 0x77}
		viaNeighbour := outside
		viaNeighbour.mac = db.mac
		everybody := db
		everybody.mac = policy.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		outsideToAll := outside
		outsideToAll.mac = everybody.mac
		for _, to := range []party{toGateway, stranger, viaNeighbour, everybody, outsideToAll} {
			l.isDropped(web, to, udp(t, web, to, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		}
		for _, to := range []party{{mac: everybody.mac, v4: netip.MustParseAddr("172.18.255.255"), v6: db.v6}, {mac: everybody.mac, v4: netip.MustParseAddr("255.255.255.255"), v6: db.v6}} {
			if !v6 { // the right frame for a broadcast, which policy does not allow
				l.isDropped(web, to, udp(t, web, to, v6, 5000, 9000, "x"), policy.ReasonMulticast)
			}
		}
		over := web.endpoint()
		over.Overlay = true
		l.d.SetEndpoints([]dataplane.Endpoint{over, db.endpoint()})
		c := newConn(t, web, stranger, v6, 40000, 443)
		l.passes(web, stranger, c.segment(false, "S", ""))
		l.isDropped(web, viaNeighbour, udp(t, web, viaNeighbour, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
	})
}

// What goes on to a neighbour that was stopped is dropped and counted; a violation is
// only what is for a MAC that somebody has, or for somebody's address at another MAC.
func TestGoneNeighbour(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		gone := party{"gone", 0, policy.MAC{2, 0, 0, 0, 0, 0x77}, netip.MustParseAddr("172.18.0.77"), netip.MustParseAddr("fd00:18::77")}
		violations := func() int {
			l.d.Settle()
			n := 0
			for _, v := range l.d.Violations().List() {
				if v.Reason == policy.ReasonDestinationMAC {
					n++
				}
			}
			return n
		}
		l.isDropped(web, gone, udp(t, web, gone, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		if n := violations(); n != 0 {
			t.Errorf("%d violations of a neighbour that is gone", n)
		}
		poisoned := gone
		poisoned.mac = db.mac
		l.isDropped(web, poisoned, udp(t, web, poisoned, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		if n := violations(); n != 1 {
			t.Errorf("%d violations of a neighbour that has another's address", n)
		}
		moved := db
		moved.mac = gone.mac
		l.isDropped(web, moved, udp(t, web, moved, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		if n := violations(); n == 0 {
			t.Error("no violation of an address at another MAC")
		}
	})
}

// TestForeignAddressAtAnEndpoint: a neighbour that nobody stops (not guarded,
// or only observed) cannot reach an endpoint under an address that policy lets
// it talk to.
func TestForeignAddressAtAnEndpoint(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		neighbour := party{"neighbour", 0, policy.MAC{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("172.18.0.9"), netip.MustParseAddr("fd00:18::9")}
		for _, dst := range [][2]string{
			{"198.51.100.2", "2001:db8::2"}, {"172.18.0.77", "fd00:18::77"}, {"224.0.0.251", "ff02::fb"}, {"255.255.255.255", "ff02::1"}, {"172.18.0.255", "fe80::1"},
		} {
			l := newLane(t)
			to := db
			to.slot, to.v4, to.v6 = db.slot, netip.MustParseAddr(dst[0]), netip.MustParseAddr(dst[1])
			l.isDropped(neighbour, to, udp(t, neighbour, to, v6, 5000, 9000, "x"), policy.ReasonDestinationMAC)
		}
	})
}

func TestRejectAnswersTheSender(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, db, v6, 40000, 7000)
		got := l.send(web, db, c.segment(false, "S", ""))
		if len(got) != 1 || got[0].Slot != web.slot || got[0].Dir != dataplane.ToEndpoint {
			t.Fatalf("sent %+v", got)
		}
		rst := decode(t, got[0]).Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !rst.RST || rst.Ack != 1001 || rst.DstPort != 40000 {
			t.Errorf("answer %+v", rst)
		}
		got = l.send(web, db, udp(t, web, db, v6, 5000, 7000, "x"))
		if len(got) != 1 || got[0].Dir != dataplane.ToEndpoint {
			t.Fatalf("sent %+v", got)
		}
		in := newConn(t, outside, web, v6, 40000, 7000)
		got = l.send(outside, web, in.segment(false, "S", ""))
		if len(got) != 1 || got[0].Slot != web.slot || got[0].Dir != dataplane.FromEndpoint {
			t.Fatalf("answer to outside: %+v", got)
		}
		if l.m.Len() != 0 {
			t.Error("a rejected flow was offloaded: its next packet would have no answer")
		}
	})
}

// A lookup that policy does not allow fails at once: by DNS where it is a query
// over UDP, else as a closed port. Nobody else is told, and nothing leaves.
func TestRefusedLookupIsAnswered(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		answerTo := func(payload string) gopacket.Packet {
			t.Helper()
			got := l.send(web, outside, udp(t, web, outside, v6, 5000, 53, payload))
			if len(got) != 1 || got[0].Dir != dataplane.ToEndpoint || got[0].Slot != web.slot {
				t.Fatalf("sent %+v", got)
			}
			p := decode(t, got[0])
			if f := p.NetworkLayer().NetworkFlow(); f.Src().String() != outside.addr(v6).String() || f.Dst().String() != web.addr(v6).String() {
				t.Errorf("an answer of %v", f)
			}
			return p
		}
		for name, want := range map[string]dnsmessage.RCode{"ldap.example.com.": dnsmessage.RCodeRefused, "redis.": dnsmessage.RCodeNameError} {
			for id := range uint16(3) { // each try, not the first alone
				query := message(t, id, false, name)
				u, ok := answerTo(query[:len(query)-4] + "\x00\x01\x00\x01").Layer(layers.LayerTypeUDP).(*layers.UDP)
				var m dnsmessage.Message
				if !ok || u.SrcPort != 53 || u.DstPort != 5000 || m.Unpack(u.Payload) != nil || m.ID != id || !m.Response || m.RCode != want {
					t.Errorf("%s: %+v", name, m)
				}
			}
		}
		plain := l
		l = newLaneOf(t, dataplane.Config{Flows: 1024, RefusedAbsent: true})
		query := message(t, 7, false, "ldap.example.com.")
		var m dnsmessage.Message
		if u, ok := answerTo(query[:len(query)-4] + "\x00\x01\x00\x01").Layer(layers.LayerTypeUDP).(*layers.UDP); !ok || m.Unpack(u.Payload) != nil || m.RCode != dnsmessage.RCodeNameError {
			t.Errorf("with RefusedAbsent: %+v", m)
		}
		l = plain
		for _, payload := range []string{"query", message(t, 7, true, "redis.")} {
			p := answerTo(payload)
			if v6 {
				if m := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); m.TypeCode != layers.CreateICMPv6TypeCode(1, 4) {
					t.Errorf("answer %v", m.TypeCode)
				}
			} else if m := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); m.TypeCode != layers.CreateICMPv4TypeCode(3, 3) {
				t.Errorf("answer %v", m.TypeCode)
			}
		}
		c := newConn(t, web, outside, v6, 40000, 53)
		got := l.send(web, outside, c.segment(false, "S", ""))
		if len(got) != 1 || !decode(t, got[0]).Layer(layers.LayerTypeTCP).(*layers.TCP).RST {
			t.Fatalf("sent %+v", got)
		}
		l.isDropped(outside, web, udp(t, outside, web, v6, 5000, 53, message(t, 7, false, "redis.")), policy.ReasonNoRule)
	})
}

// Lookups fail by the hundred where a server looks up each of its clients, and what
// else is refused meanwhile takes nothing of their answers.
func TestManyLookupsAreAnswered(t *testing.T) {
	l := newLane(t)
	answers := func(n int, to party, port uint16) (told int) {
		for i := range n {
			told += len(l.send(web, to, udp(t, web, to, false, uint16(1000+i), port, message(t, 7, false, "redis."))))
		}
		return told
	}
	answers(300, db, 7000)
	if told := answers(400, outside, 53); told != 400 {
		t.Errorf("%d of 400 lookups are answered", told)
	}
}

// What a container that enforces begins and no statement lets pass fails at once
// where that is asked for. Nobody else is told: who is outside, who only observes,
// and who is denied by a statement that says drop.
func TestRejectOwn(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLaneOf(t, dataplane.Config{Flows: 1024, RejectOwn: true}, append(slices.Clone(lines), line(policy.Drop, "web", "db", "any", "tcp/6000"))...)
		toSender := func(frame []byte) gopacket.Packet {
			t.Helper()
			got := l.send(web, outside, frame)
			if len(got) != 1 || got[0].Dir != dataplane.ToEndpoint || got[0].Slot != web.slot {
				t.Fatalf("sent %+v", got)
			}
			return decode(t, got[0])
		}
		for range 2 {
			rst, _ := toSender(newConn(t, web, outside, v6, 40000, 25).segment(false, "S", "")).Layer(layers.LayerTypeTCP).(*layers.TCP)
			if rst == nil || !rst.RST || rst.Ack != 1001 || rst.DstPort != 40000 {
				t.Errorf("answer %+v", rst)
			}
		}
		datagram := udp(t, web, outside, v6, 5000, 9000, "x")
		p := toSender(datagram)
		if v6 {
			if m, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); !ok || m.TypeCode != layers.CreateICMPv6TypeCode(1, 1) {
				t.Errorf("answer %v", p)
			}
		} else if m, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); !ok || m.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
			t.Errorf("answer %v", p)
		}
		if l.m.Len() != 1 {
			t.Errorf("%d flows in the kernel's map, want the datagrams': a flood of them would stay in user space", l.m.Len())
		}

		l.isDropped(outside, web, newConn(t, outside, web, v6, 40000, 25).segment(false, "S", ""), policy.ReasonNoRule)
		l.isDropped(outside, web, udp(t, outside, web, v6, 5000, 9000, "x"), policy.ReasonNoRule)
		l.isDropped(web, db, newConn(t, web, db, v6, 40001, 6000).segment(false, "S", ""), policy.ReasonDenied)
		observing := web.endpoint()
		observing.Mode = policy.Observe
		l.d.SetEndpoints([]dataplane.Endpoint{observing, db.endpoint()})
		for _, s := range l.send(web, db, newConn(t, web, db, v6, 40002, 25).segment(false, "S", "")) {
			if s.Dir == dataplane.ToEndpoint {
				t.Errorf("who only observes is told: %v", decode(t, s))
			}
		}
	})
}

func TestRejectsAreRateLimited(t *testing.T) {
	l := newLane(t)
	answers := 0
	for i := range 500 {
		answers += len(l.send(web, db, udp(t, web, db, false, uint16(1000+i), 7000, "x")))
	}
	if answers == 0 || answers > 300 {
		t.Errorf("%d answers to 500 packets", answers)
	}
}

// TestPolicyChangeCutsLiveFlow: both ends are told where the new table rejects,
// and one drops silently where it denies.
func TestPolicyChangeCutsLiveFlow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, db, v6, 40000, 9000)
		c.open(l)
		l.d.SetTable(table(t, 2, policy.Enforce, line(policy.Reject, "web", "db", "any", "tcp/9000")))
		got := l.send(web, db, c.segment(false, "A", "more"))
		if len(got) != 2 {
			t.Fatalf("%d frames, want a reset for each end", len(got))
		}
		back, on := decode(t, got[0]).Layer(layers.LayerTypeTCP).(*layers.TCP), decode(t, got[1]).Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !back.RST || back.SrcPort != 9000 || got[0].Dir != dataplane.ToEndpoint || back.Seq != 9001 {
			t.Errorf("to the sender: %+v", back)
		}
		if !on.RST || on.SrcPort != 40000 || got[1].Dir != dataplane.FromEndpoint || on.Seq != 1001 || len(on.Payload) != 0 {
			t.Errorf("to the receiver: %+v", on)
		}

		l = newLane(t)
		c = newConn(t, web, db, v6, 40000, 9000)
		c.open(l)
		l.d.SetTable(table(t, 2, policy.Enforce))
		l.isDropped(web, db, c.segment(false, "A", "more"), policy.ReasonPolicyChanged)
		if e, ok := l.m.Get(c.key()); !ok || e.Verdict != policy.Drop || e.Epoch != 2 {
			t.Errorf("entry %+v, %v", e, ok)
		}
	})
}

func TestPolicyChangeKeepsAllowedFlow(t *testing.T) {
	l := newLane(t)
	c := newConn(t, web, db, false, 40000, 80)
	c.open(l)
	l.passes(web, db, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
	l.passes(db, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\n\r\n"))
	l.d.SetTable(table(t, 2, policy.Enforce, lines...))
	l.passes(db, web, c.segment(true, "A", "more"))
	if e, ok := l.m.Get(c.key()); !ok || e.Epoch != 2 || e.Verdict != policy.Allow {
		t.Errorf("entry %+v, %v", e, ok)
	}
}

// TestNewConversationOnOldKey: what the kernel knew of a key must not speak for
// the next connection on it.
func TestNewConversationOnOldKey(t *testing.T) {
	l := newLane(t)
	c := newConn(t, web, db, false, 40000, 80)
	c.open(l)
	l.passes(web, db, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
	l.passes(db, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\n\r\n"))
	if l.m.Len() != 1 {
		t.Fatal("not offloaded")
	}
	again := newConn(t, web, db, false, 40000, 80)
	again.seq[0] = 777777
	l.passes(web, db, again.segment(false, "S", ""))
	if l.m.Len() != 0 {
		t.Error("the old entry carries the new connection")
	}
}

func TestStaleFramesAreDropped(t *testing.T) {
	l := newLane(t)
	c := newConn(t, web, db, false, 40000, 9000)
	syn := c.segment(false, "S", "")
	for range 100 {
		l.port.Steer(web.slot, dataplane.FromEndpoint, syn)
	}
	l.d.Stop(0, 300*time.Millisecond)
	l.d.Turn(0)
	if got := l.port.Take(); len(got) != 0 {
		t.Errorf("%d frames were delivered late", len(got))
	}
	if n := l.d.Counters().Reasons.Of(policy.ReasonStale); n != 100 {
		t.Errorf("%d counted as stale", n)
	}
	l.passes(web, db, syn)
}

// TestNoRoomIsCounted: what a port had no room for is a drop too, also once the port is
// gone, and once another has its place.
func TestNoRoomIsCounted(t *testing.T) {
	l := newLane(t)
	frame := udp(t, web, db, false, 5000, 9000, "x")
	fill := func(p *dataplanetest.Port) (refused uint64) {
		for range 300 {
			if !p.Steer(web.slot, dataplane.FromEndpoint, frame) {
				refused++
			}
		}
		return refused
	}
	want := fill(l.port)
	is := func(when string) {
		t.Helper()
		if n := l.d.Counters().Reasons[dataplane.Neither][policy.ReasonInternal]; n != want || n == 0 {
			t.Errorf("%s: %d counted, want %d", when, n, want)
		}
	}
	is("open")
	for range 2 { // the second takes the place of one that was given up
		next, err := dataplanetest.NewPort(4)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = next.Close() })
		if err := l.d.AddPort(0, 0, next); err != nil {
			t.Fatal(err)
		}
		want += fill(next)
		is("another in its place")
	}
	if err := l.d.RemoveSpace(0); err != nil {
		t.Fatal(err)
	}
	is("removed")
}

func TestUnknownSlotIsDropped(t *testing.T) {
	l := newLane(t)
	for _, slot := range []uint16{0, 3, 2047} {
		p := web
		p.slot = slot
		before := l.d.Counters().Dropped
		l.port.Steer(slot, dataplane.FromEndpoint, udp(t, p, db, false, 5000, 9000, "x"))
		l.d.Turn(0)
		if got := l.port.Take(); len(got) != 0 || l.d.Counters().Dropped != before+1 {
			t.Errorf("slot %d: %d frames left", slot, len(got))
		}
	}
}

func TestMalformedIsDropped(t *testing.T) {
	l := newLane(t)
	short := udp(t, web, db, false, 5000, 9000, "x")[:30]
	l.isDropped(web, db, short, policy.ReasonTruncated)
	options := udp(t, web, db, false, 5000, 9000, "0123456789")
	options[14] = 0x46
	l.isDropped(web, db, options, policy.ReasonIPOptions)
	l.d.Settle()
	if vs := l.d.Violations().List(); len(vs) != 2 || vs[0].Endpoint != "web-ep" || vs[0].Src.IsValid() {
		t.Errorf("violations %+v", vs)
	}
}

// TestUnjudged: what the kernel's programs drop is told of the endpoint at whose hook they
// do, as sent by it or to it, each by itself.
func TestUnjudged(t *testing.T) {
	l := newLane(t)
	const reason = policy.ReasonMissBudget
	for range 2 {
		l.d.AddUnjudged("web-ep", dataplane.FromEndpoint, reason, 3)
		l.d.AddUnjudged("web-ep", dataplane.ToEndpoint, reason, 50)
		l.d.AddUnjudged("nobody", dataplane.FromEndpoint, reason, 3)
		l.d.AddUnjudged("db-ep", dataplane.ToEndpoint, reason, 0)
	}
	l.d.Settle()
	l.areBothWays(reason, 6, 100)
}

// areBothWays fails unless the only violations are web's own of so many packets and those
// of so many that were sent to it.
func (l *lane) areBothWays(reason policy.Reason, sent, received uint64) {
	l.t.Helper()
	vs := l.d.Violations().List()
	want := map[bool]uint64{true: sent, false: received}
	for _, v := range vs {
		if v.Endpoint != "web-ep" || v.Reason != reason || v.Initiator != v.Outgoing || v.Src.IsValid() || v.Packets != want[v.Outgoing] {
			l.t.Errorf("%+v", v)
		}
	}
	if len(vs) != 2 || vs[0].Outgoing == vs[1].Outgoing {
		l.t.Errorf("%d violations, want one of what was sent and one of what was received", len(vs))
	}
}

// TestUnreadBothWays: the same of what the worker cannot read.
func TestUnreadBothWays(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		short := udp(t, web, db, v6, 5000, 9000, "x")
		short = short[:14+20+6]
		before := l.d.Counters().Reasons
		for range 4 {
			l.port.Steer(web.slot, dataplane.FromEndpoint, short)
			l.port.Steer(web.slot, dataplane.ToEndpoint, short)
			l.port.Steer(web.slot, dataplane.ToEndpoint, short)
		}
		l.d.Turn(0)
		l.d.Settle()
		l.areBothWays(policy.ReasonTruncated, 4, 8)
		after := l.d.Counters().Reasons
		for dir, want := range []uint64{dataplane.FromEndpoint: 4, dataplane.ToEndpoint: 8, dataplane.Neither: 0} {
			if n := after[dir][policy.ReasonTruncated] - before[dir][policy.ReasonTruncated]; n != want {
				t.Errorf("%d counted as %s, want %d", n, dataplane.Direction(dir), want)
			}
		}
	})
}

// TestEndpointsFlowsEndWithIt: whoever has the address next inherits nothing.
func TestEndpointsFlowsEndWithIt(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := newLane(t)
		c := newConn(t, web, db, v6, 40000, 9000)
		c.open(l)
		next := db.endpoint()
		next.Ifindex, next.Attached = 200, 5
		l.d.SetEndpoints([]dataplane.Endpoint{web.endpoint(), next})
		l.d.Turn(0)
		if l.m.Len() != 0 {
			t.Error("the kernel still carries the old endpoint's flow")
		}
		if fs := l.d.ListFlows(); len(fs) != 0 {
			t.Errorf("flows %+v", fs)
		}
	})
}

func TestFailedPortIsClosedAndReported(t *testing.T) {
	var mu sync.Mutex
	failed := make(chan error, 1)
	var text bytes.Buffer
	d, err := dataplane.New(dataplane.Config{FlowMap: &dataplanetest.FlowMap{}, Flows: 64, Logger: slog.New(slog.NewTextHandler(&text, nil)), PortFailed: func(space, queue int, err error) {
		mu.Lock()
		defer mu.Unlock()
		failed <- fmt.Errorf("%d/%d: %w", space, queue, err)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	bad, _ := dataplanetest.NewPort(4)
	good, _ := dataplanetest.NewPort(4)
	if err := errors.Join(d.AddPort(3, 0, bad), d.AddPort(4, 0, good)); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("device gone")
	bad.Steer(1, dataplane.FromEndpoint, make([]byte, 60))
	bad.Fail(gone)
	if err := <-failed; !errors.Is(err, gone) || !strings.HasPrefix(err.Error(), "3/0") {
		t.Errorf("reported %v", err)
	}
	if !bad.Closed() || good.Closed() {
		t.Errorf("closed: the bad one %v, the good one %v", bad.Closed(), good.Closed())
	}
	again, _ := dataplanetest.NewPort(4)
	if err := d.AddPort(3, 0, again); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if !good.Closed() {
		t.Error("a port is open after Run")
	}
	if log := text.String(); strings.Count(log, "the slow path is gone") != 1 || strings.Count(log, "level=INFO msg=\"the slow path is back") != 1 || !strings.Contains(log, "space=3") {
		t.Errorf("logged:\n%s", log)
	}
	late, _ := dataplanetest.NewPort(4)
	if err := d.AddPort(5, 0, late); err == nil || !late.Closed() {
		t.Errorf("a port was added after Run: %v", err)
	}
}

func TestRunServesAndSleeps(t *testing.T) {
	beats := make(chan int64, 1000)
	records, ended := make(chan dataplane.Violation, 16), make(chan dataplane.Flow, 16)
	d, err := dataplane.New(dataplane.Config{
		FlowMap: &dataplanetest.FlowMap{}, Flows: 64,
		Beat: func(_ int, now int64) {
			select {
			case beats <- now:
			default:
			}
		},
		Violated: func(v *dataplane.Violation, packets, lost uint64) {
			if packets != 1 || lost != 0 {
				t.Errorf("%d packets, %d lost", packets, lost)
			}
			records <- *v
		},
		Ended: func(flows []dataplane.Flow, lost uint64) {
			for _, f := range flows {
				ended <- f
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	port, _ := dataplanetest.NewPort(16)
	if err := d.AddPort(0, 0, port); err != nil {
		t.Fatal(err)
	}
	d.SetTable(table(t, 1, policy.Enforce, lines...))
	d.SetEndpoints([]dataplane.Endpoint{web.endpoint(), db.endpoint()})
	port.Steer(web.slot, dataplane.FromEndpoint, udp(t, web, db, true, 5000, 1234, "x"))
	if v := <-records; v.Reason != policy.ReasonNoRule || v.Src.Addr() != web.v6 {
		t.Errorf("violation %+v", v)
	}
	if fs := d.Flows(); len(fs) != 1 || fs[0].Verdict != policy.Drop {
		t.Errorf("flows %+v", fs)
	}
	d.SetEndpoints([]dataplane.Endpoint{db.endpoint()})
	if f := <-ended; f.Src.Addr() != web.v6 || f.Packets != [2]uint64{1, 0} || f.Workload != [2]string{"web", "db"} {
		t.Errorf("ended flow %+v", f)
	}
	if err := d.RemoveSpace(0); err != nil || !port.Closed() {
		t.Errorf("RemoveSpace: %v, closed %v", err, port.Closed())
	}
	first := <-beats
	for second := first; second == first; {
		second = <-beats
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What an ended flow to the outside asked for is told with it; of one between
// containers it is not.
func TestHostOfEndedFlow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		var ended []dataplane.Flow
		l := newLaneOf(t, dataplane.Config{Flows: 64, WatchEvery: time.Hour, Ended: func(flows []dataplane.Flow, _ uint64) { ended = append(ended, flows...) }})
		l.d.SetTable(table(t, 2, policy.Observe, lines...))
		for i, to := range []party{outside, db} {
			c := newConn(t, web, to, v6, uint16(40000+i), 80)
			c.open(l)
			l.passes(web, to, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: API.example.com:8080\r\n\r\n"))
			l.passes(to, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			l.d.Told()
			if live := l.d.ListFlows(); i == 0 && (len(live) != 1 || live[0].Host != "api.example.com") {
				t.Errorf("live: %+v", live)
			}
			l.passes(web, to, c.segment(false, "RA", ""))
		}
		l.d.Elapse(time.Second)
		l.d.Turn(0)
		l.d.Told()
		hosts := map[netip.Addr]string{}
		for _, f := range ended {
			if f.Spoken.App != policy.AppHTTP {
				t.Errorf("%+v", f)
			}
			hosts[f.Dst.Addr()] = f.Host
		}
		if len(ended) != 2 || hosts[outside.addr(v6)] != "api.example.com" || hosts[db.addr(v6)] != "" {
			t.Errorf("hosts %v of %d flows", hosts, len(ended))
		}
	})
}

func TestFloodLosesAndNobodyWaits(t *testing.T) {
	l := newLane(t)
	l.d.Gather(60000)
	l.d.Settle()
	if l.d.Counters().LostViolations == 0 {
		t.Error("60000 violations at once, none lost: the mailbox is not bounded")
	}
	if n := len(l.d.Violations().List()); n == 0 || n > 8192 {
		t.Errorf("%d records kept", n)
	}
}

// TestDamagedHeaderIsNoDecoy: a datagram that its receiver's stack throws away
// opens no flow and names none (threat 11).
func TestDamagedHeaderIsNoDecoy(t *testing.T) {
	l := newLane(t)
	whole := udp(t, web, db, false, 40000, 9000, "x")
	decoy := slices.Clone(whole)
	decoy[14+10] ^= 0x40
	l.isDropped(web, db, decoy, policy.ReasonBadHeader)
	if flows := l.d.ListFlows(); len(flows) != 0 {
		t.Fatalf("flows %+v", flows)
	}
	l.passes(web, db, whole)
	l.isDropped(web, db, decoy, policy.ReasonBadHeader)
	if flows := l.d.ListFlows(); len(flows) != 1 || flows[0].Packets[0] != 1 {
		t.Fatalf("flows %+v", flows)
	}
}

package dataplane_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// transit is a lane between web and db, as two interfaces of a bump in the wire.
func transit(t *testing.T) *lane {
	l := newLane(t)
	cidr := func(p party) []policy.Peer {
		return []policy.Peer{
			{Kind: policy.PeerCIDR, Prefix: netip.PrefixFrom(p.v4, 32)}, {Kind: policy.PeerCIDR, Prefix: netip.PrefixFrom(p.v6, 128)},
		}
	}
	line := func(v policy.Verdict, app policy.AppMatch, port policy.PortRange) policy.Statement {
		return policy.Statement{ID: port.String(), Verdict: v, Tier: policy.TierOperator, From: cidr(web), To: cidr(db), App: app, Ports: []policy.PortRange{port}}
	}
	table, err := policy.Compile(policy.Input{Epoch: 2, Snapshot: &policy.Snapshot{}, Transit: true, Statements: []policy.Statement{
		line(policy.Allow, policy.AppMatch{App: policy.AppHTTP, Forms: policy.TLSPlain}, policy.Port(policy.ProtoTCP, 80)),
		line(policy.Allow, policy.AnyApp, policy.Port(policy.ProtoUDP, 9000)),
		line(policy.Reject, policy.AnyApp, policy.Port(policy.ProtoTCP, 7000)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	l.d.SetEndpoints([]dataplane.Endpoint{{ID: "eth1", Slot: web.slot, Transit: true}, {ID: "eth2", Slot: db.slot, Transit: true}})
	l.d.SetTable(table)
	l.d.Turn(0)
	return l
}

func TestTransitPassesWhatAStatementAllows(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := transit(t)
		c := newConn(t, web, db, v6, 40000, 80)
		c.open(l)
		l.passes(web, db, c.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n"))
		l.passes(db, web, c.segment(true, "A", "HTTP/1.1 200 OK\r\n\r\n"))
		l.passes(web, db, udp(t, web, db, v6, 5000, 9000, "x"))
		l.passes(db, web, udp(t, db, web, v6, 9000, 5000, "its answer"))
		if n := l.d.Counters().Offloaded; n != 0 {
			t.Errorf("%d flows were given to a kernel that never sees them", n)
		}

		ssh := newConn(t, web, db, v6, 40001, 80)
		ssh.open(l)
		l.isDropped(web, db, ssh.segment(false, "A", "SSH-2.0-OpenSSH_9.2\r\n"), policy.ReasonApp)
		l.isDropped(db, web, newConn(t, db, web, v6, 40002, 80).segment(false, "S", ""), policy.ReasonNoRule)
		l.isDropped(web, db, udp(t, web, db, v6, 5000, 9001, "x"), policy.ReasonNoRule)
		l.isDropped(web, db, newConn(t, web, db, v6, 40003, 80).segment(true, "SA", ""), policy.ReasonNoFlow)
	})
}

func TestTransitRejectsToTheSender(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := transit(t)
		got := l.send(web, db, newConn(t, web, db, v6, 40000, 7000).segment(false, "S", ""))
		if len(got) != 1 || got[0].Slot != web.slot || got[0].Dir != dataplane.ToEndpoint {
			t.Fatalf("%+v", got)
		}
		if mac := policy.MAC(got[0].Data[0:6]); mac != web.mac {
			t.Errorf("to %v, want the sender", mac)
		}
	})
}

func TestTransitMACs(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := transit(t)
		frame := udp(t, web, db, v6, 5000, 9000, "x")
		unknown := bytes.Clone(frame)
		copy(unknown, []byte{2, 9, 9, 9, 9, 9})
		l.passes(web, db, unknown)
		for _, mac := range [][]byte{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {1, 0, 0x5e, 0, 0, 1}, {0x33, 0x33, 0, 0, 0, 1}} {
			group := bytes.Clone(frame)
			copy(group, mac)
			l.isDropped(web, db, group, policy.ReasonDestinationMAC)
		}
	})
}

// A router behind an interface speaks of what it cannot deliver.
func TestTransitTakesErrorsOfRouters(t *testing.T) {
	l := transit(t)
	l.passes(web, db, udp(t, web, db, false, 5000, 9000, "x"))
	router := db
	router.v4 = netip.MustParseAddr("192.0.2.77")
	quoted := udp(t, web, db, false, 5000, 9000, "x")
	l.passes(db, web, unreachable(t, router, web, quoted))
	other := udp(t, web, db, false, 5001, 9000, "x")
	l.isDropped(db, web, unreachable(t, router, web, other), policy.ReasonICMPUnrelated)
}

// unreachable is a router's complaint about an IPv4 frame.
func unreachable(t *testing.T, from, to party, frame []byte) []byte {
	t.Helper()
	icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeHost)}
	return serialize(t, from, to, false, layers.IPProtocolICMPv4, icmp, string(frame[14:42]))
}

//go:build !race

package dataplane_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// TestWorkerDoesNotAllocate turns the worker over every kind of packet: allowed,
// undecided, refused by policy, by application, by its header, answered, to and
// from outside, in both families.
func TestWorkerDoesNotAllocate(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		l := newLaneOf(t, dataplane.Config{Flows: 1024, WatchEvery: 1, Ended: func([]dataplane.Flow, uint64) {}})
		l.port.Discard, l.port.Order, l.m.Order = true, nil, nil
		wrongMAC := db
		wrongMAC.mac = gatewayMAC
		spoofed := web
		spoofed.v4, spoofed.v6 = netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8:9::9")
		http := newConn(t, web, db, v6, 40000, 80)
		ssh := newConn(t, web, db, v6, 40001, 80)
		reject := newConn(t, web, db, v6, 40002, 7000)
		any := newConn(t, web, db, v6, 40003, 9000)
		in := newConn(t, outside, web, v6, 40004, 8080)
		midStream := newConn(t, web, db, v6, 40005, 9000)
		echo := serialize(t, web, db, false, layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 7}, "ping")
		truncated := udp(t, web, db, v6, 5000, 9000, "more than the least frame holds, so that none of it is padding")
		type steered struct {
			from, to party
			frame    []byte
		}
		packets := []steered{
			{web, db, http.segment(false, "S", "")}, {db, web, http.segment(true, "SA", "")}, {web, db, http.segment(false, "A", "")},
			{web, db, http.segment(false, "A", "GET / HTTP/1.1\r\nHost: db\r\n\r\n")}, {db, web, http.segment(true, "A", "HTTP/1.1 200 OK\r\n\r\n")},
			{web, db, http.segment(false, "FA", "")}, {db, web, http.segment(true, "FA", "")},
			{web, db, ssh.segment(false, "S", "")}, {db, web, ssh.segment(true, "SA", "")}, {web, db, ssh.segment(false, "A", "SSH-2.0-OpenSSH_9.2\r\n")},
			{web, db, reject.segment(false, "S", "")},
			{web, db, any.segment(false, "S", "")}, {web, db, any.segment(false, "R", "")},
			{outside, web, in.segment(false, "S", "")}, {web, outside, in.segment(true, "SA", "")},
			{web, db, midStream.segment(false, "A", "x")},
			{web, db, udp(t, web, db, v6, 5000, 9000, "x")}, {web, db, udp(t, web, db, v6, 5001, 1, "x")}, {web, db, udp(t, web, db, v6, 5002, 7000, "x")},
			{web, outside, udp(t, web, outside, v6, 5003, 53, "x")},
			{web, outside, udp(t, web, outside, v6, 5006, 53, message(t, 7, false, "ldap.example.com."))}, {web, outside, udp(t, web, outside, v6, 5007, 53, message(t, 7, false, "redis."))},
			{web, wrongMAC, udp(t, web, wrongMAC, v6, 5004, 9000, "x")},
			{web, db, udp(t, spoofed, db, v6, 5005, 9000, "x")},
			{web, db, echo}, {web, db, truncated[:len(truncated)-1]}, {outside, web, udp(t, outside, web, v6, 1, 2, "x")},
		}
		round := func() {
			for _, p := range packets {
				slot, dir := p.from.slot, dataplane.FromEndpoint
				if slot == 0 {
					slot, dir = p.to.slot, dataplane.ToEndpoint
				}
				if !l.port.Steer(slot, dir, p.frame) {
					l.d.Turn(0)
					l.port.Steer(slot, dir, p.frame)
				}
			}
			l.d.Pass()
			l.d.Turn(0)
		}
		round()
		if n := testing.AllocsPerRun(50, round); n != 0 {
			t.Errorf("v6 %v: %v allocations in %d packets", v6, n, len(packets))
		}
		c := l.d.Counters()
		if c.Forwarded == 0 || c.Rejected == 0 || c.Offloaded == 0 || c.Reasons.Of(policy.ReasonApp) == 0 || c.Reasons.Of(policy.ReasonTruncated) == 0 {
			t.Errorf("not every kind was met: %+v", c)
		}
	}
}

// TestTransitDoesNotAllocate turns the worker over what only a place meets.
func TestTransitDoesNotAllocate(t *testing.T) {
	l := transit(t)
	l.port.Discard, l.port.Order = true, nil
	arp := append(append(bytes.Clone(udp(t, web, db, false, 1, 2, "x")[:12]), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1), web.mac[:]...)
	arp = append(arp, make([]byte, 14)...)
	frames := [][]byte{arp, append(bytes.Clone(arp), make([]byte, 40)...), udp(t, web, db, true, 5000, 9000, "x"), udp(t, web, db, false, 5000, 9001, "x")}
	round := func() {
		for _, f := range frames {
			l.port.Steer(web.slot, dataplane.FromEndpoint, f)
		}
		l.d.Pass()
		l.d.Turn(0)
	}
	round()
	if n := testing.AllocsPerRun(50, round); n != 0 {
		t.Errorf("%v allocations in %d packets", n, len(frames))
	}
	if c := l.d.Counters(); c.Forwarded == 0 || c.Reasons.Of(policy.ReasonARPSender) == 0 {
		t.Errorf("not every kind was met: %+v", c)
	}
}

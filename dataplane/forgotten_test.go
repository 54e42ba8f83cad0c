package dataplane_test

import (
	"strings"
	"testing"
	"time"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// anyApp lets the statement of the name pass whatever is spoken.
func anyApp(s *policy.Statement) { s.App = policy.AnyApp }

// A connection that asked for another name than it was let pass by (N6) does not go
// on when its flow is forgotten or judged anew, however that comes about.
func TestNameMismatchIsNotForgotten(t *testing.T) {
	const evil = "evil.example.net"
	lines := func(edit func(*policy.Statement)) []policy.Statement {
		all := nameLines(false)
		if edit != nil {
			edit(&all[1])
		}
		return all
	}
	newTable := func(l *lane, epoch uint32, lines []policy.Statement) {
		l.d.SetTable(namesTable(t, epoch, policy.Enforce, lines))
		l.d.Turn(0)
	}
	wait := func(l *lane, by time.Duration) {
		for range 2 {
			l.d.Elapse(by / 2)
			l.d.Turn(0)
		}
	}
	for _, edit := range []func(*policy.Statement){nil, anyApp} {
		families(t, func(t *testing.T, v6 bool) {
			fresh := func() *lane {
				l, _ := namesLane(t, policy.Enforce, false, func(s *policy.Statement) {
					if edit != nil {
						edit(s)
					}
				})
				resolveAPI(t, l)
				return l
			}
			start := func() (*lane, *conn) {
				l := fresh()
				c := newConn(t, web, api, v6, 40000, 443)
				c.open(l)
				return l, c
			}
			h := hello(evil)

			l, c := start()
			segment := c.segment(false, "A", h)
			l.isDropped(web, api, segment, policy.ReasonNameMismatch)
			wait(l, 12*time.Second) // the pauses between retransmissions grow
			l.isDropped(web, api, segment, policy.ReasonNoFlow)

			l, c = start()
			l.send(web, api, c.segment(false, "R", ""))
			wait(l, 22*time.Second)
			l.isDropped(web, api, segment, policy.ReasonNoFlow)

			for _, change := range []bool{false, true} {
				for _, cut := range []int{1, 5, 20} {
					l, c = start()
					l.passes(web, api, c.segment(false, "A", h[:cut]))
					wait(l, 5*time.Minute)
					if change {
						newTable(l, 3, lines(edit))
					}
					if got := l.send(web, api, c.segment(false, "A", h[cut:])); len(got) != 0 {
						t.Errorf("a hello with a pause after %d bytes passes, change of the table %v", cut, change)
					}
				}
			}

			l, c = start()
			l.passes(web, api, c.segment(false, "A", h[:20]))
			newTable(l, 3, nameLines(false)[:1])
			rest := c.segment(false, "A", h[20:])
			l.isDropped(web, api, rest, policy.ReasonPolicyChanged)
			newTable(l, 4, lines(edit))
			if got := l.send(web, api, rest); len(got) != 0 {
				t.Error("passes once policy allows the name again")
			}

			l, c = start()
			l.isDropped(web, api, c.segment(false, "A", h), policy.ReasonNameMismatch)
			entry, ok := l.m.Get(c.key())
			if !ok {
				t.Fatal("not handed over")
			}
			l = fresh() // the next gateway
			before := len(l.d.ListFlows())
			l.d.Adopt([]dataplane.FlowEntry{entry})
			l.d.Turn(0)
			if n := len(l.d.ListFlows()) - before; n != 1 {
				t.Fatalf("%d adopted", n)
			}
			newTable(l, 3, lines(edit))
			l.isDropped(web, api, segment, policy.ReasonNameMismatch)
		})
	}
}

// A QUIC hello that was dropped before its name was known (N6) is read like any other
// when a newer table lets its flow pass.
func TestNameMismatchOfEarlyDatagram(t *testing.T) {
	quic := func(s *policy.Statement) {
		s.App, s.Ports = policy.AppMatch{App: policy.AppQUIC, Forms: policy.TLSNone}, []policy.PortRange{policy.Port(policy.ProtoUDP, 443)}
	}
	lines := nameLines(false)
	quic(&lines[1])
	families(t, func(t *testing.T, v6 bool) {
		for name, passes := range map[string]bool{"api.example.com": true, "evil.example.net": false} {
			l, _ := namesLane(t, policy.Enforce, false, quic)
			datagram := udp(t, web, api, v6, 40000, 443, initial(t, 1, handshake(name)))
			l.isDropped(web, api, datagram, policy.ReasonNoRule)
			resolveAPI(t, l)
			l.d.SetTable(namesTable(t, 3, policy.Enforce, lines))
			l.d.Turn(0)
			if passes {
				l.passes(web, api, datagram)
			} else {
				l.isDropped(web, api, datagram, policy.ReasonNameMismatch)
			}
		}
	})
}

// A connection that was read from its beginning ends when a newer table forbids what
// it speaks, also where the gateway was started anew meanwhile: then all workloads ran
// before it.
func TestForbiddenAfterRestart(t *testing.T) {
	before := []policy.Statement{line(policy.Allow, "web", "db", "any", "tcp/9000"), line(policy.Drop, "web", "db", "ssh", "tcp/9000")}
	after := []policy.Statement{line(policy.Allow, "web", "db", "http", "tcp/9000")}
	families(t, func(t *testing.T, v6 bool) {
		for _, restart := range []bool{false, true} {
			l := newLane(t, before...)
			c := newConn(t, web, db, v6, 40000, 9000)
			c.open(l)
			for range 30 {
				l.send(web, db, c.segment(false, "A", "\x03"+strings.Repeat("\xee", 99)))
				l.send(db, web, c.segment(true, "A", "\x07"+strings.Repeat("\xdd", 99)))
			}
			entry, ok := l.m.Get(c.key())
			if !ok || entry.Verdict != policy.Allow || entry.App != policy.AppUnknown {
				t.Fatalf("%+v", entry)
			}
			if restart {
				l = newLane(t, before...)
				eps := []dataplane.Endpoint{web.endpoint(), db.endpoint()}
				for i := range eps {
					eps[i].RanBefore = true
				}
				l.d.SetEndpoints(eps)
				l.d.Turn(0)
				l.d.Adopt([]dataplane.FlowEntry{entry})
				l.d.Turn(0)
			}
			l.d.SetTable(table(t, 2, policy.Enforce, after...))
			l.d.Turn(0)
			if got := l.send(web, db, c.segment(false, "A", "\x03"+strings.Repeat("\xee", 99))); len(got) != 0 {
				t.Errorf("restart %v: what is forbidden passes", restart)
			}
		}
	})
}

package policy

import (
	"net/netip"
	"testing"
)

// TestTransit: where neither end is a workload nothing passes but what a
// statement of the operator's lets pass, in one direction.
func TestTransit(t *testing.T) {
	statement := func(id string, v Verdict, from, to Peer, ports ...PortRange) Statement {
		return Statement{ID: id, Verdict: v, Tier: TierOperator, From: []Peer{from}, To: []Peer{to}, App: AnyApp, Ports: ports}
	}
	cidr := func(p string) Peer { return Peer{Kind: PeerCIDR, Prefix: netip.MustParsePrefix(p)} }
	web := Port(ProtoTCP, 80)
	in := Input{Epoch: 1, Snapshot: &Snapshot{}, Transit: true, Statements: []Statement{
		statement("four", Allow, cidr("10.1.0.0/16"), cidr("198.51.100.0/24"), web),
		statement("six", Allow, cidr("fd00:1::/64"), cidr("2001:db8::/32"), web),
		statement("not that one", Drop, cidr("10.1.6.6/32"), Peer{Kind: PeerAny}, web),
		statement("dhcp", Allow, Peer{Kind: PeerSite}, Peer{Kind: PeerBroadcast}, Port(ProtoUDP, 67)),
		statement("out", Allow, Peer{Kind: PeerSite}, Peer{Kind: PeerInternet}, Port(ProtoTCP, 443)),
	}}
	for _, mode := range []Mode{Enforce, Observe} {
		in.TransitMode = mode
		table := mustCompile(t, in)
		for _, c := range []struct {
			src, dst string
			proto    Proto
			port     uint16
			allowed  bool
			reason   Reason
		}{
			{"10.1.2.3", "198.51.100.7", ProtoTCP, 80, true, ReasonNone},
			{"198.51.100.7", "10.1.2.3", ProtoTCP, 80, false, ReasonNoRule},
			{"10.1.2.3", "198.51.100.7", ProtoTCP, 81, false, ReasonNoRule},
			{"10.1.2.3", "198.51.100.7", ProtoUDP, 80, false, ReasonNoRule},
			{"10.2.2.3", "198.51.100.7", ProtoTCP, 80, false, ReasonNoRule},
			{"10.1.6.6", "198.51.100.7", ProtoTCP, 80, false, ReasonDenied},
			{"fd00:1::2", "2001:db8::9", ProtoTCP, 80, true, ReasonNone},
			{"2001:db8::9", "fd00:1::2", ProtoTCP, 80, false, ReasonNoRule},
			{"fd00:2::2", "2001:db8::9", ProtoTCP, 80, false, ReasonNoRule},
			{"192.168.9.9", "255.255.255.255", ProtoUDP, 67, true, ReasonNone},
			{"192.168.9.9", "255.255.255.255", ProtoUDP, 68, false, ReasonMulticast},
			{"192.168.9.9", "239.1.2.3", ProtoUDP, 67, false, ReasonMulticast},
			{"fe80::1", "ff02::fb", ProtoUDP, 5353, false, ReasonMulticast},
			{"192.168.9.9", "203.0.113.4", ProtoTCP, 443, true, ReasonNone},
			{"203.0.113.4", "192.168.9.9", ProtoTCP, 443, false, ReasonNoRule},
			{"203.0.113.4", "203.0.113.5", ProtoTCP, 443, false, ReasonNoRule},
			{"10.1.2.3", "169.254.169.254", ProtoTCP, 80, false, ReasonNoRule},
			{"0.0.0.0", "198.51.100.7", ProtoTCP, 80, false, ReasonUnknownPeer},
		} {
			q := Query{Src: netip.MustParseAddr(c.src).As16(), Dst: netip.MustParseAddr(c.dst).As16(), Proto: c.proto, DstPort: c.port}
			j := table.Lookup(q).Judge(Spoken{App: AppUnknown})
			if j.Denied == c.allowed || j.Reason != c.reason || (j.Verdict == Allow) != (c.allowed || mode == Observe) {
				t.Errorf("%v: %s to %s %v/%d: %+v", mode, c.src, c.dst, c.proto, c.port, j)
			}
		}
	}
}

package policy

import (
	"testing"
	"time"
)

// TestNoAllocs: the packet path allocates nothing, in either family, for each
// line of section 1 and each layer of the table; TestFirstFlows is about pairs that
// are laid when flows meet them.
func TestNoAllocs(t *testing.T) {
	for _, ahead := range []int{0, 1} {
		noAllocs(t, ahead)
	}
}

func noAllocs(t *testing.T, ahead int) {
	in := town()
	in.PairsAhead = ahead
	in.Statements = []Statement{
		webToDB(),
		{ID: "out", Verdict: Allow, From: peersOf(PeerWorkload), To: peersOf(PeerExternal), App: AnyApp, Ports: tcp(443)},
		{ID: "prefix", Verdict: Reject, Tier: TierOperator, From: peersOf(PeerWorkload), To: []Peer{cidr("172.18.0.0/16"), cidr("2606:4700::/32")}, App: AnyApp, AnyPort: true,
			Except: []Exception{{From: peersOf(PeerAny), To: peersOf(PeerAny), App: app(AppMySQL), AnyPort: true}}},
		{ID: "deny", Verdict: Reject, Tier: TierOperator, From: peersOf(PeerAny), To: peersOf(PeerAny), App: app(AppTelnet), AnyPort: true},
	}
	in.Statements = append(in.Statements, Statement{ID: "name", Verdict: Allow, From: peersOf(PeerWorkload), To: []Peer{{Kind: PeerName, Name: "*.example.com"}}, App: app(AppHTTP), Ports: tcp(80)})
	names := NewNames(NameLimits{})
	table := names.compiled(t, in, time.Now())
	if (table.met != nil) != (ahead == 1) {
		t.Fatalf("with %d pairs laid ahead: the rest is met %v", ahead, table.met != nil)
	}
	names.Note(table, indexOf(t, in, "web"), answered("a.example.com", time.Minute, "1.1.1.1", "2606:4700::1"), time.Now())
	named := ServerName{State: NameGiven, Text: []byte("A.example.com")}
	for _, q := range []Query{
		query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, 3306), query(1, "fd00:18::2", "fd00:18::3", ProtoTCP, 3306),
		query(1, "172.18.0.3", "172.18.0.2", ProtoTCP, 3306), query(1, "fd00:18::3", "fd00:18::2", ProtoUDP, 9),
		query(2, "172.19.0.3", "192.168.1.9", ProtoTCP, 8080), query(2, "fd00:19::3", "2001:db8:1::9", ProtoTCP, 8080),
		query(2, "172.19.0.3", "172.18.0.3", ProtoTCP, 1), query(2, "fd00:19::3", "fd00:18::3", ProtoTCP, 1),
		query(1, "172.18.0.2", "172.18.0.1", ProtoTCP, 9100), query(1, "fd00:18::2", "fd00:18::1", ProtoTCP, 9101),
		query(1, "172.18.0.2", "192.168.1.1", ProtoUDP, 53), query(1, "fd00:18::2", "2001:db8:1::53", ProtoUDP, 53),
		query(1, "172.18.0.2", "169.254.169.254", ProtoTCP, 80), query(1, "fd00:18::2", "64:ff9b::a9fe:a9fe", ProtoTCP, 80),
		query(1, "172.18.0.2", "1.1.1.1", ProtoTCP, 443), query(1, "fd00:18::2", "2606:4700::1", ProtoTCP, 443),
		query(1, "172.18.0.2", "224.0.0.251", ProtoUDP, 5353), query(1, "fd00:18::2", "ff02::fb", ProtoUDP, 5353),
		query(1, "172.18.0.200", "172.18.0.2", ProtoICMP, 0), query(1, "fe80::99", "fd00:18::2", ProtoICMPv6, 0),
		query(4, "10.0.0.2", "10.0.0.6", ProtoTCP, 80), query(3, "10.0.1.4", "10.0.1.5", ProtoTCP, 80),
	} {
		allocs := testing.AllocsPerRun(50, func() {
			d := table.Lookup(q)
			_ = d.Verdict()
			for _, s := range []Spoken{{}, {App: AppUnknown}, {App: AppMySQL}, {App: AppMySQL, Inner: AppTLS}, {App: AppTLS, ALPN: AppHTTP2}, {App: AppTelnet}} {
				d.Judge(s)
				d.JudgeServer(s, named)
			}
			table.Resolve(q)
			table.Initiator(q, 3306)
			table.LookupHeld(q, table.NameUse(q))
			table.Asker(q)
		})
		if allocs != 0 {
			t.Errorf("%+v: %v allocations", q, allocs)
		}
	}
}

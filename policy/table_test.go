package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// key is the service PROJECT/NAME.
func key(project, name string) ServiceKey {
	return ServiceKey{ProjectKey{Name: project}, name}
}

func ip16(s string) [16]byte { return netip.MustParseAddr(s).As16() }

func tcp(n uint16) []PortRange { return []PortRange{Port(ProtoTCP, n)} }

func app(a App) AppMatch { return AppMatch{App: a, Forms: TLSNone} }

func query(zone Zone, src, dst string, p Proto, port uint16) Query {
	return Query{zone, ip16(src), ip16(dst), p, port}
}

func mustCompile(t testing.TB, in Input) *Table {
	t.Helper()
	table, err := Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// largeInput is n workloads of n services on one network, each allowed to call
// the next, and published, a deny for everybody on top.
func largeInput(n int) Input {
	snap := &Snapshot{Networks: []Network{{ID: "net", Zone: 1, Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("fd00:18::/64")}}}}
	in := Input{Epoch: 1, Snapshot: snap}
	service := func(i int) ServiceKey { return key("p", fmt.Sprint("s", i)) }
	for i := range n {
		id := fmt.Sprintf("%064d", i)
		snap.Workloads = append(snap.Workloads, Workload{
			ID: id, Name: fmt.Sprint("c", i), Service: service(i),
			Endpoints: []Endpoint{{
				ID: id, Network: "net", MAC: MAC{2, 0x42, 0, 0, byte(i >> 8), byte(i)},
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 18, byte(i>>8) + 1, byte(i)}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x18, 14: byte(i>>8) + 1, 15: byte(i)})},
			}},
		})
		in.Groups = append(in.Groups, Group{Identity: FirstWorkloadIdentity + Identity(i), Service: service(i), Guarded: true, Members: []string{id}})
		s := Statement{ID: fmt.Sprint("st", i), Verdict: Allow, From: []Peer{ServicePeer(service(i))}, To: []Peer{ServicePeer(service((i + 1) % n))}, App: app(AppPostgreSQL), Ports: tcp(5432)}
		if i%10 == 0 {
			s.From = []Peer{{Kind: PeerExternal}, {Kind: PeerHost}, {Kind: PeerWorkload}}
		}
		in.Statements = append(in.Statements, s)
	}
	in.Statements[n/2] = Statement{ID: "deny", Verdict: Drop, Tier: TierOperator, From: []Peer{{Kind: PeerAny}}, To: []Peer{{Kind: PeerAny}}, App: app(AppTelnet), AnyPort: true}
	return in
}

// TestPeerNames: those that stand in rules for many are nobody's in a flow.
func TestPeerNames(t *testing.T) {
	want := []string{"@broadcast", "@host", "@ingress", "@internet", "@lb", "@metadata", "@multicast", "@node", "@orchestrator", "@resolver", "@site", "@unknown"}
	if got := PeerNames(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func BenchmarkCompile(b *testing.B) {
	in := largeInput(1000)
	for b.Loop() {
		mustCompile(b, in)
	}
}

func BenchmarkLookup(b *testing.B) {
	table := mustCompile(b, largeInput(1000))
	for name, q := range map[string]Query{
		"rule v4":     query(1, "172.18.1.7", "172.18.1.8", ProtoTCP, 5432),
		"rule v6":     query(1, "fd00:18::107", "fd00:18::108", ProtoTCP, 5432),
		"no rule":     query(1, "172.18.1.7", "172.18.3.8", ProtoUDP, 53),
		"to internet": query(1, "172.18.1.7", "198.51.100.7", ProtoTCP, 443),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				table.Lookup(q)
			}
		})
	}
	names := NewNames(NameLimits{})
	in := largeInput(1000)
	in.Statements = append(in.Statements, Statement{ID: "name", Verdict: Allow, From: []Peer{ServicePeer(key("p", "s7"))}, To: []Peer{{Kind: PeerName, Name: "*.example.com"}}, App: app(AppHTTP), Ports: tcp(443)})
	withNames := names.compiled(b, in, time.Now())
	names.Note(withNames, 7, answered("a.example.com", time.Minute, "198.51.100.7"), time.Now())
	for name, q := range map[string]Query{
		"by name":             query(1, "172.18.1.7", "198.51.100.7", ProtoTCP, 443),
		"names of others":     query(1, "172.18.1.8", "198.51.100.7", ProtoTCP, 443),
		"no such name":        query(1, "172.18.1.7", "198.51.100.8", ProtoTCP, 443),
		"rule v4, with names": query(1, "172.18.1.7", "172.18.1.8", ProtoTCP, 5432),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				withNames.Lookup(q)
			}
		})
	}
	d := table.Lookup(query(1, "172.18.1.7", "172.18.1.8", ProtoTCP, 5432))
	b.Run("judge", func(b *testing.B) {
		for b.Loop() {
			d.Judge(Spoken{App: AppPostgreSQL})
		}
	})
}

// More statements than 16 bits count: the last denies hold against the first
// allows, and each is told by its own name.
func TestMoreStatementsThan16Bits(t *testing.T) {
	const many = 1<<16 + 1000
	in := town()
	web, db := []Peer{peerWeb}, []Peer{peerDB}
	for i := range many {
		s := Statement{ID: fmt.Sprint("s", i), Verdict: Allow, Tier: TierOperator, From: web, To: db, App: AnyApp, Ports: tcp(uint16(i%60_000 + 1))}
		if i >= many-1000 {
			s.Verdict = Drop
		}
		in.Statements = append(in.Statements, s)
	}
	table := mustCompile(t, in)
	denied := make(map[uint16]bool)
	for i := many - 1000; i < many; i++ {
		denied[uint16(i%60_000+1)] = true
	}
	for port := uint16(1); port < 20_000; port++ {
		j := table.Lookup(query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, port)).Judge(Spoken{})
		if j.Denied != denied[port] || j.Rule < 0 {
			t.Fatalf("port %d: %+v, want denied %v", port, j, denied[port])
		}
		r := table.Rules()[j.Rule]
		if s := table.Statements()[r.Statement]; (s.Verdict == Drop) != j.Denied || s.Ports[0].Lo != port {
			t.Fatalf("port %d is told by %+v", port, s)
		}
	}
}

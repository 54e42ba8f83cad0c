package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// site is n workloads of so many services on one network, with an address of each
// family.
func site(n, services int) Input {
	snap := &Snapshot{Networks: []Network{{ID: "net", Zone: 1, Driver: "bridge", Subnets: prefixes("172.16.0.0/12", "fd00:18::/64")}}}
	in := Input{Epoch: 1, Snapshot: snap}
	for s := range services {
		in.Groups = append(in.Groups, Group{Identity: FirstWorkloadIdentity + Identity(s), Service: key("p", fmt.Sprint("s", s)), Guarded: true})
	}
	for i := range n {
		id, g := fmt.Sprintf("w%06d", i), &in.Groups[i%services]
		snap.Workloads = append(snap.Workloads, Workload{ID: id, Name: id, Service: g.Service, Endpoints: []Endpoint{{ID: id, Network: "net",
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 18, byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x18, 14: byte(i >> 8), 15: byte(i)})}}}})
		g.Members = append(g.Members, id)
	}
	return in
}

// half is a selection of about half of the groups.
func half(in Input, rnd *rand.Rand) Peer {
	sel := &Selection{}
	for _, g := range in.Groups {
		if rnd.IntN(2) == 0 {
			sel.Identities = append(sel.Identities, g.Identity)
		}
	}
	return Peer{Kind: PeerSelector, Name: "category/risk=high", Selected: sel}
}

// halves is so many services of which n statements each let a random half call a
// random half, on a port of its own.
func halves(services, n int) Input {
	in, rnd := site(services, services), rand.New(rand.NewPCG(1, uint64(n)))
	for i := range n {
		in.Statements = append(in.Statements, Statement{ID: fmt.Sprint("half-", i), Verdict: Allow, Tier: TierOperator, From: []Peer{half(in, rnd)}, To: []Peer{half(in, rnd)},
			App: AnyApp, Ports: tcp(uint16(1000 + i%3)), Origin: []string{fmt.Sprintf("ops.yaml:%d", 10+i)}})
	}
	return in
}

// kinds are statements by what their ends are: i numbers them.
var kinds = []struct {
	name     string
	from, to func(in Input, i int, rnd *rand.Rand) Peer
}{
	{"service to service", anyService, anyService},
	{"prefix to prefix", anyPrefix, anyPrefix},
	{"prefix to service", anyPrefix, anyService},
	{"service to prefix", anyService, anyPrefix},
	{"part to part", anyPart, anyPart},
	{"part to service", anyPart, anyService},
	{"part to prefix", anyPart, anyPrefix},
	{"service to internet", anyService, func(Input, int, *rand.Rand) Peer { return Peer{Kind: PeerInternet} }},
}

func anyService(in Input, _ int, rnd *rand.Rand) Peer {
	return ServicePeer(in.Groups[rnd.IntN(len(in.Groups))].Service)
}

// anyPrefix is of the site, of the workloads or of the internet, and holds others.
func anyPrefix(_ Input, _ int, rnd *rand.Rand) Peer {
	first := []byte{10, 172, 40}[rnd.IntN(3)]
	return Peer{Kind: PeerCIDR, Prefix: prefixFrom4([4]byte{first, byte(16 + rnd.IntN(16)), byte(rnd.IntN(64)), byte(rnd.IntN(256))}, 12+rnd.IntN(21))}
}

// anyPart is one of twenty categories, each of a tenth of the groups.
func anyPart(in Input, _ int, rnd *rand.Rand) Peer {
	part := rnd.IntN(20)
	sel := &Selection{}
	for i, g := range in.Groups {
		if (i*7+part*3)%20 < 2 {
			sel.Identities = append(sel.Identities, g.Identity)
		}
	}
	return Peer{Kind: PeerSelector, Name: fmt.Sprint("category/part=", part), Selected: sel}
}

func ofKind(kind, workloads, services, statements int) Input {
	in, rnd := site(workloads, services), rand.New(rand.NewPCG(2, uint64(kind)))
	for i := range statements {
		s := Statement{ID: fmt.Sprint("st-", i), Verdict: Allow, Tier: TierOperator, App: app(AppHTTP), Ports: tcp(uint16(1000 + i%3000))}
		if i%5 == 0 {
			s.Verdict = Drop
		}
		s.From, s.To = []Peer{kinds[kind].from(in, i, rnd)}, []Peer{kinds[kind].to(in, i, rnd)}
		in.Statements = append(in.Statements, s)
	}
	return in
}

// BenchmarkCompileKinds: 10,000 workloads, 500 services, 5,000 statements of one
// kind.
func BenchmarkCompileKinds(b *testing.B) {
	for kind := range kinds {
		b.Run(kinds[kind].name, func(b *testing.B) {
			in := ofKind(kind, 10_000, 500, 5000)
			b.ReportAllocs()
			for b.Loop() {
				mustCompile(b, in)
			}
		})
	}
	b.Run("halves of services", func(b *testing.B) {
		in := halves(4000, 24)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Compile(in); err != nil {
				b.Log(err)
			}
		}
	})
}

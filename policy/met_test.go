package policy

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
)

// TestMetPairs: pairs that flows meet come to what they come to when they are
// laid ahead, whoever meets them first, and however often all are forgotten.
func TestMetPairs(t *testing.T) {
	seed := rand.Uint64()
	spoken := everySpoken(worldApps)
	met, all := 0, 0
	isRich := func() bool { return met >= 30 && all >= 10 && met-all >= 10 }
	for n := 0; n < 100 || n < 100*patience && !isRich(); n++ {
		w := world{rand.New(rand.NewPCG(seed, uint64(n)))}
		in := w.input()
		in.PairsAhead, in.placesAhead = 1<<30, 1<<30
		ahead := mustCompile(t, in)
		in.PairsAhead, in.placesAhead = 1, 1<<30*w.IntN(2)+1
		table := mustCompile(t, in)
		if table.met == nil {
			continue
		}
		met++
		if table.met.first == 0 {
			all++
		}
		table.met.most = 1 + w.IntN(6)
		if w.chance(30) {
			table.met.bytes = w.IntN(2000)
		}
		queries := make([]Query, 60)
		for i := range queries {
			queries[i] = w.query(in.Snapshot)
		}
		var flows sync.WaitGroup
		for range 3 {
			flows.Go(func() {
				for _, q := range queries {
					got, want := table.Lookup(q), ahead.Lookup(q)
					if got.Verdict() != want.Verdict() || got.Denied() != want.Denied() {
						t.Errorf("seed %d world %d: %+v: %v, laid ahead %v", seed, n, q, got.Verdict(), want.Verdict())
					}
					for _, s := range spoken {
						if g, w := got.Judge(s), want.Judge(s); g != w {
							t.Errorf("seed %d world %d: %+v %+v: %+v, laid ahead %+v", seed, n, q, s, g, w)
						}
					}
				}
			})
		}
		flows.Wait()
		if table.met.count > table.met.most {
			t.Errorf("%d spans stand, the most is %d", table.met.count, table.met.most)
		}
	}
	if !isRich() {
		t.Errorf("in %d worlds flows met pairs, in %d of all peers: the worlds are too plain", met, all)
	}
}

// TestManyPrefixes: 10,000 statements between prefixes that hold each other
// compile to a table of their own size.
func TestManyPrefixes(t *testing.T) {
	in := town()
	for i := range rounds(10_000) {
		in.Statements = append(in.Statements, Statement{ID: string(rune(i + 0x10000)), Verdict: Drop, Tier: TierOperator, App: AnyApp, AnyPort: true,
			From: []Peer{cidr("172.16.0.0/12")}, To: []Peer{prefixNumber(i)}})
	}
	table := mustCompile(t, in)
	if table.met == nil || len(table.pairs.slots) > 1<<12 {
		t.Fatalf("%d pairs are laid ahead", len(table.pairs.slots))
	}
	for i := range rounds(10_000) {
		in := prefixNumber(i).Prefix.Addr().As16()
		q := Query{Zone: 1, Src: query(1, "172.18.0.2", "1.1.1.1", ProtoTCP, 1).Src, Dst: in, Proto: ProtoTCP, DstPort: 1}
		j := table.Lookup(q).Judge(Spoken{})
		if !j.Denied || j.Rule < 0 {
			t.Fatalf("%v is not denied: %+v", prefixNumber(i), j)
		}
	}
}

func prefixNumber(i int) Peer {
	p := cidr("40.0.0.0/32")
	a := p.Prefix.Addr().As4()
	a[1], a[2] = byte(i>>8), byte(i)
	p.Prefix = prefixFrom4(a, 8+i%17)
	return p
}

func prefixFrom4(a [4]byte, bits int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4(a), bits).Masked()
}

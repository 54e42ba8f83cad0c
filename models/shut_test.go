package models

import (
	"net/netip"
	"testing"

	"gatehouse/policy"
)

// One workload whose metadata contradicts itself is shut and reported; the
// others, its own replicas too, go on (V11).
func TestUnusableMetadataShutsOneWorkload(t *testing.T) {
	b := newTown(t).network("shop_default", "shop")
	b.run("shop/db", "t/db", "shop_default")
	b.run("shop/app", "t/app", "shop_default")
	bad := b.run("shop/app", "t/app", "shop_default", publish("8000:8000"))
	bad.Endpoints[0].Addresses = append(bad.Endpoints[0].Addresses, netip.Addr{})
	ss, fs := b.generate(loadModels(t, testModels)...)
	expect(t, between(ss), []string{"shop/app -> shop/db : postgresql+starttls tcp/5432"})
	if !hasFinding(fs, FindingUnusable, "empty address; until that is mended it may talk to nobody") {
		t.Error(fs)
	}
	p := b.groups(Settings{DefaultMode: policy.Enforce}, loadModels(t, testModels)...)
	ss, _ = Generate(p)
	table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: &b.snap, Groups: p.Groups, Statements: ss})
	if err != nil {
		t.Fatal(err)
	}
	db := b.snap.Workloads[0].Endpoints[0].Addresses[0]
	for i, want := range map[int]policy.Verdict{1: policy.Allow, 2: policy.Drop} {
		from := b.snap.Workloads[i].Endpoints[0].Addresses[0]
		q := policy.Query{Zone: 1, Src: from.As16(), Dst: db.As16(), Proto: policy.ProtoTCP, DstPort: 5432}
		if got := table.Lookup(q).Judge(policy.Spoken{App: policy.AppPostgreSQL}); got.Verdict != want {
			t.Errorf("replica %d: %v, want %v", i, got.Verdict, want)
		}
	}
}

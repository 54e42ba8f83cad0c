package main

import (
	"testing"

	"gatehouse/control"
	"gatehouse/control/inventory"
	"gatehouse/models"
	"gatehouse/policy"
)

// Networks are shut to newcomers where somebody enforces, or may be about to.
func TestClosedNetworks(t *testing.T) {
	labels := func(kv ...string) map[string]policy.Label {
		return map[string]policy.Label{kv[0]: {Value: kv[1], By: policy.SetByDeployer}}
	}
	on := func(id, network string, labels map[string]policy.Label) policy.Workload {
		return policy.Workload{ID: id, Name: id, Service: policy.ServiceKey{Name: id}, Labels: labels, Endpoints: []policy.Endpoint{{ID: id, Network: network}}}
	}
	snap := &policy.Snapshot{
		Networks: []policy.Network{{ID: "expecting", Newcomer: true}, {ID: "opted-out"}, {ID: "quiet"}, {ID: "strict"}},
		Workloads: []policy.Workload{
			on("enforced", "strict", labels(models.LabelMode, "enforce")),
			on("unguarded", "opted-out", labels(models.LabelEnable, "false")),
			on("watched", "quiet", labels(models.LabelMode, "observe")),
		},
	}
	rules, err := control.Files{}.Check()
	if err != nil {
		t.Fatal(err)
	}
	b := control.Basis{View: inventory.ViewOf(snap), Rules: rules}
	state, err := b.State()
	if err != nil {
		t.Fatal(err)
	}
	for byDefault, want := range map[string][4]bool{
		"observe": {true, false, false, true},
		"enforce": {true, true, true, true},
	} {
		g := &guard{settings: Settings{Mode: byDefault}}
		g.want(state)
		for i, w := range want {
			if n := &snap.Networks[i]; g.isClosed(n) != w {
				t.Errorf("default %s: network %s closed = %v", byDefault, n.ID, !w)
			}
		}
	}
}

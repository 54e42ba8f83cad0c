package main

import (
	"testing"

	"gatehouse/control"
	"gatehouse/models"
	"gatehouse/policy"
)

// Networks are shut to newcomers where somebody enforces, or may be about to.
func TestClosedZones(t *testing.T) {
	state := &control.State{
		Snapshot: &policy.Snapshot{
			Networks: []policy.Network{{ID: "quiet", Zone: 1}, {ID: "strict", Zone: 2}, {ID: "expecting", Zone: 3, Newcomer: true}, {ID: "opted-out", Zone: 4}},
			Workloads: []policy.Workload{
				{ID: "watched", Endpoints: []policy.Endpoint{{Network: "quiet"}}},
				{ID: "enforced", Endpoints: []policy.Endpoint{{Network: "strict"}}},
				{ID: "unguarded", Endpoints: []policy.Endpoint{{Network: "opted-out"}}},
			},
		},
		Population: &models.Population{Groups: []policy.Group{
			{Members: []string{"watched"}, Guarded: true, Mode: policy.Observe},
			{Members: []string{"enforced"}, Guarded: true, Mode: policy.Enforce},
			{Members: []string{"unguarded"}, Mode: policy.Enforce},
		}},
	}
	for byDefault, want := range map[policy.Mode][4]bool{
		policy.Observe: {false, true, true, false},
		policy.Enforce: {true, true, true, true},
	} {
		closed := closedZones(state, byDefault)
		for i, w := range want {
			if zone := policy.Zone(i + 1); closed[zone] != w {
				t.Errorf("default %s: network %s closed = %v", byDefault, state.Snapshot.Networks[i].ID, closed[zone])
			}
		}
	}
}

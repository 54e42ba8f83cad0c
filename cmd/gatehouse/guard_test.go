package main

import (
	"testing"
	"testing/synctest"
	"time"

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
		g := &guard{settings: Settings{Mode: byDefault}, deserted: map[string]time.Time{}}
		g.want(state)
		for i, w := range want {
			if n := &snap.Networks[i]; g.isClosed(n) != w {
				t.Errorf("default %s: network %s closed = %v", byDefault, n.ID, !w)
			}
		}
	}
}

// A network whose last enforcing container ended stays closed for a while in which
// the engine is there: one that restarts ends its containers before it goes, and
// starts them again before it answers.
func TestDesertedNetworkStaysClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := true
		g := &guard{settings: Settings{Mode: "observe"}, deserted: map[string]time.Time{}, told: func() bool { return told }}
		n := &policy.Network{ID: "net"}
		g.inhabited = inhabitants{map[string]dwelling{}, map[string]int{}, map[string]int{}}
		closed := func(want bool, when string) {
			t.Helper()
			if g.isClosed(n) != want {
				t.Errorf("%s: closed = %v", when, !want)
			}
		}
		pass := func(d time.Duration) { // as guard.follow does
			for range d / time.Second {
				time.Sleep(time.Second)
				g.mayOpen()
			}
		}
		closed(false, "nobody ever enforced")
		g.inhabited.set("c", dwelling{[]string{"net"}, true})
		closed(true, "somebody enforces")
		pass(time.Hour)
		g.inhabited.set("c", dwelling{})
		closed(true, "just gone")
		told = false
		pass(time.Hour)
		closed(true, "the engine is away")
		told = true
		pass(desertedFor / 2)
		closed(true, "it is back")
		g.inhabited.set("c", dwelling{[]string{"net"}, true})
		closed(true, "so is the container")
		g.inhabited.set("c", dwelling{})
		closed(true, "gone again")
		pass(desertedFor / 2)
		if g.mayOpen() {
			t.Error("it opens at half the time")
		}
		pass(desertedFor / 2)
		if !g.mayOpen() {
			t.Error("nobody looks at it when its time is over")
		}
		closed(false, "its time is over")
		closed(false, "and later")
		if g.mayOpen() {
			t.Error("an open one is looked at again")
		}
	})
}

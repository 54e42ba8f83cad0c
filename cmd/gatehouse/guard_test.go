package main

import (
	"net/netip"
	"slices"
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
		g.inhabited = newInhabitants()
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

// Swarm's balancer of a network speaks from the virtual addresses of services: it has
// those of services that come, as long as some task of theirs is there.
func TestBalancerHasVirtualAddresses(t *testing.T) {
	rules, err := control.Files{}.Check()
	if err != nil {
		t.Fatal(err)
	}
	own, vip := netip.MustParseAddr("10.0.1.4"), netip.MustParseAddr("10.0.1.2")
	net := policy.Network{ID: "net", Driver: "overlay", NetNS: "/ns", Guarded: true, Balancers: []policy.Endpoint{{ID: "lb", Network: "net", Addresses: []netip.Addr{own}}}}
	state := func(changes []models.Transition, ids ...string) *control.State {
		snap := &policy.Snapshot{Networks: []policy.Network{net}}
		for _, id := range ids {
			snap.Workloads = append(snap.Workloads, *vipTask(id, vip))
		}
		b := control.Basis{View: inventory.ViewOf(snap), Rules: rules}
		s, err := b.State()
		if err != nil {
			t.Fatal(err)
		}
		s.Changes = changes
		return s
	}
	g := &guard{deserted: map[string]time.Time{}, ranBefore: func(policy.Workload) bool { return false }}
	g.want(state(nil))
	for _, step := range []struct {
		what  string
		state *control.State
		news  bool
		addrs []netip.Addr
	}{
		{"the first task", state([]models.Transition{{After: vipTask("a", vip)}}, "a"), true, []netip.Addr{own, vip}},
		{"another", state([]models.Transition{{After: vipTask("b", vip)}}, "a", "b"), false, []netip.Addr{own, vip}},
		{"one stops", state([]models.Transition{{Before: vipTask("a", vip)}}, "b"), false, []netip.Addr{own, vip}},
		{"all is read again", state(nil, "b"), true, []netip.Addr{own, vip}},
		{"the last stops", state([]models.Transition{{Before: vipTask("b", vip)}}), true, []netip.Addr{own}},
	} {
		news, _ := g.want(step.state)
		if slices.Contains(news, "lb") != step.news || !slices.Equal(g.wanted["lb"].spec.Addrs, step.addrs) {
			t.Errorf("%s: news of %v, the balancer is at %v, want %v", step.what, news, g.wanted["lb"].spec.Addrs, step.addrs)
		}
	}
}

func vipTask(id string, vip netip.Addr) *policy.Workload {
	return &policy.Workload{ID: id, Name: id, Swarm: true, Service: policy.ServiceKey{Name: "web"}, VIPs: map[string][]netip.Addr{"net": {vip}}}
}

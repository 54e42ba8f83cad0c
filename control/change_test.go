package control

import (
	"net/netip"
	"slices"
	"testing"

	"gatehouse/models"
	"gatehouse/policy"
)

func changeState(change func(*policy.Snapshot, []policy.Group) []policy.Group) *State {
	at := func(id, ip string) policy.Workload {
		return policy.Workload{ID: id, Endpoints: []policy.Endpoint{{Network: "n", Addresses: []netip.Addr{netip.MustParseAddr(ip)}}}}
	}
	snap := &policy.Snapshot{
		Networks:  []policy.Network{{ID: "n", Zone: 1, Driver: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")}}},
		Workloads: []policy.Workload{at("a", "172.18.0.2"), at("c", "172.18.0.3"), at("e", "172.18.0.4")},
	}
	groups := []policy.Group{{Identity: 64, Service: policy.ServiceKey{Name: "web"}, Guarded: true, Members: []string{"a", "c"}}, {Identity: 65, Service: policy.ServiceKey{Name: "db"}, Guarded: true, Members: []string{"e"}}}
	if change != nil {
		groups = change(snap, groups)
	}
	return &State{Snapshot: snap, Population: &models.Population{Groups: groups}}
}

func TestOnlyChange(t *testing.T) {
	came := policy.Workload{ID: "b"}
	insert := func(s *policy.Snapshot, at int, w policy.Workload) {
		s.Workloads = slices.Insert(s.Workloads, at, w)
	}
	for _, tc := range []struct {
		name   string
		change func(*policy.Snapshot, []policy.Group) []policy.Group
		group  policy.Identity
		id     string
		gone   bool
	}{
		{"nothing", nil, 0, "", false},
		{"one starts", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			insert(s, 1, came)
			g[0].Members = []string{"a", "b", "c"}
			return g
		}, 64, "b", false},
		{"one starts at the end", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			insert(s, 3, policy.Workload{ID: "z"})
			g[1].Members = []string{"e", "z"}
			return g
		}, 65, "z", false},
		{"one stops", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			s.Workloads = slices.Delete(s.Workloads, 1, 2)
			g[0].Members = []string{"a"}
			return g
		}, 64, "c", true},
		{"one starts in no group", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			insert(s, 1, came)
			return g
		}, 0, "", false},
		{"one starts in a group of its own", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			insert(s, 1, came)
			return append(g, policy.Group{Identity: 66, Members: []string{"b"}})
		}, 0, "", false},
		{"one starts, another changes its address", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			s.Workloads[2].Endpoints[0].Addresses[0] = netip.MustParseAddr("172.18.0.9")
			insert(s, 1, came)
			g[0].Members = []string{"a", "b", "c"}
			return g
		}, 0, "", false},
		{"one starts, another changes its group", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			insert(s, 1, came)
			g[0].Members, g[1].Members = []string{"a", "b"}, []string{"c", "e"}
			return g
		}, 0, "", false},
		{"one starts, its group's mode changes", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			insert(s, 1, came)
			g[0].Members, g[0].Mode = []string{"a", "b", "c"}, policy.Observe
			return g
		}, 0, "", false},
		{"one starts on a new network", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			insert(s, 1, came)
			s.Networks = append(s.Networks, policy.Network{ID: "o", Zone: 2})
			g[0].Members = []string{"a", "b", "c"}
			return g
		}, 0, "", false},
		{"one starts, another stops", func(s *policy.Snapshot, g []policy.Group) []policy.Group {
			s.Workloads[1] = came
			g[0].Members = []string{"a", "b"}
			return g
		}, 0, "", false},
	} {
		change, ok := onlyChange(changeState(nil), changeState(tc.change))
		if ok != (tc.group != 0) {
			t.Errorf("%s: %v, want %v", tc.name, ok, tc.group != 0)
			continue
		}
		if ok && (change.Group != tc.group || change.Workload.ID != tc.id || change.Gone != tc.gone) {
			t.Errorf("%s: %+v", tc.name, change)
		}
	}
}

// TestReplicaChangesTheTable: a replica's start is in force without a compile,
// which would have refused the settings by then.
func TestReplicaChangesTheTable(t *testing.T) {
	a := changeState(nil)
	in := policy.Input{Epoch: 1, Snapshot: a.Snapshot, Groups: a.Population.Groups}
	var err error
	if a.Table, err = policy.Compile(in); err != nil {
		t.Fatal(err)
	}
	b := changeState(func(s *policy.Snapshot, g []policy.Group) []policy.Group {
		w := policy.Workload{ID: "b", Endpoints: []policy.Endpoint{{Network: "n", Addresses: []netip.Addr{netip.MustParseAddr("172.18.0.77")}}}}
		s.Workloads = slices.Insert(s.Workloads, 1, w)
		g[0].Members = []string{"a", "b", "c"}
		return g
	})
	var c Control
	c.state.Store(a)
	in.Epoch, in.Snapshot, in.Groups = 2, b.Snapshot, b.Population.Groups
	in.ExtraSite = make([]netip.Prefix, 1) // not a prefix
	table, err := c.table(in, b)
	if err != nil {
		t.Fatal(err)
	}
	q := policy.Query{Zone: 1, Src: netip.MustParseAddr("172.18.0.77").As16(), Dst: netip.MustParseAddr("172.18.0.4").As16(), Proto: policy.ProtoTCP, DstPort: 80}
	if from, to, _ := table.Resolve(q); from != 64 || to != 65 || table.Epoch() != 2 {
		t.Errorf("%d calls %d at epoch %d", from, to, table.Epoch())
	}
	if from, _, _ := a.Table.Resolve(q); from != policy.IDUnknown {
		t.Errorf("the table before has %d there", from)
	}
}

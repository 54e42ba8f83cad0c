package models

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gatehouse/policy"
)

// replicas are three containers of p/app and one of p/web, whose deployer names
// what the tests say.
func replicas(names ...string) *policy.Snapshot {
	s := &policy.Snapshot{Networks: []policy.Network{
		{ID: "n", Name: "p_default", Driver: "bridge", Zone: 1, Owner: policy.ProjectKey{Name: "p"}, Guarded: true},
		{ID: "o", Name: "other", Driver: "bridge", Zone: 2, Guarded: true},
	}}
	for i := range 3 {
		s.Workloads = append(s.Workloads, *replica(i + 2))
	}
	web := replica(9)
	web.ID, web.Name, web.Service.Name, web.Image.Repository = "z", "web", "web", "docker.io/library/nginx"
	web.Endpoints[0].Aliases = []string{"web"}
	for _, n := range names {
		web.References = append(web.References, policy.Reference{Source: "env " + n, Host: n})
	}
	s.Workloads = append(s.Workloads, *web)
	return s
}

func replica(i int, change ...func(*policy.Workload)) *policy.Workload {
	w := &policy.Workload{ID: fmt.Sprint("app", i), Name: fmt.Sprint("p-app-", i), Compose: true, Service: policy.ServiceKey{Project: policy.ProjectKey{Name: "p"}, Name: "app"},
		Image: policy.Image{Repository: "docker.io/acme/app"}, Exposed: []policy.PortRange{policy.Port(policy.ProtoTCP, 8080)},
		Endpoints: []policy.Endpoint{{ID: fmt.Sprint("e", i), Network: "n", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, Aliases: []string{"app", fmt.Sprint("app", i)}}}}
	for _, c := range change {
		c(w)
	}
	return w
}

// TestWith: which starts and stops leave all else as it is.
func TestWith(t *testing.T) {
	comes := func(ws ...*policy.Workload) (out []Transition) {
		for _, w := range ws {
			out = append(out, Transition{After: w})
		}
		return out
	}
	goes := func(is ...int) (out []Transition) {
		for _, i := range is {
			out = append(out, Transition{Before: replica(i)})
		}
		return out
	}
	becomes := func(i int, change func(*policy.Workload)) []Transition {
		return []Transition{{replica(i), replica(i, change)}}
	}
	label := func(k, v string) func(*policy.Workload) {
		return func(w *policy.Workload) { w.Labels = map[string]policy.Label{k: {Value: v, By: policy.SetByDeployer}} }
	}
	for _, tc := range []struct {
		name    string
		names   []string // that p/web's deployer names
		changes []Transition
		want    bool
	}{
		{"a replica starts", []string{"app"}, comes(replica(7)), true},
		{"before all others", nil, comes(replica(1)), true},
		{"two start", nil, comes(replica(7), replica(8)), true},
		{"a replica stops", []string{"app"}, goes(3), true},
		{"the first stops", nil, goes(2), true},
		{"one is replaced", nil, append(goes(3), comes(replica(7))...), true},
		{"one is renamed", nil, becomes(3, func(w *policy.Workload) { w.Name = "x" }), true},
		{"one gets another address", nil, becomes(3, func(w *policy.Workload) { w.Endpoints[0].Addresses = replica(40).Endpoints[0].Addresses }), true},
		{"all but one are stopped", nil, goes(2, 3), false},
		{"all are stopped", nil, goes(2, 3, 4), false},
		{"all are replaced", nil, append(goes(2, 3, 4), comes(replica(7), replica(8), replica(9))...), true},
		{"the second of a service", nil, comes(func() *policy.Workload { w := *replica(7); w.Service.Name = "web"; return &w }()), false},
		{"under a name that somebody looks for", []string{"p-app-7"}, comes(replica(7)), false},
		{"under an alias that somebody looks for", []string{"app7"}, comes(replica(7)), false},
		{"the same with the network's name", []string{"app7.p_default"}, comes(replica(7)), false},
		{"at an address that somebody looks for", []string{"10.0.0.7"}, comes(replica(7)), false},
		{"one that somebody looks for stops", []string{"p-app-3"}, goes(3), false},
		{"one whose address somebody looks for stops", []string{"10.0.0.3"}, goes(3), false},
		{"with a reference of its own", nil, comes(replica(7, func(w *policy.Workload) { w.References = []policy.Reference{{Source: "env X", Host: "web"}} })), false},
		{"with a name server of its own", nil, comes(replica(7, func(w *policy.Workload) { w.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.2")} })), false},
		{"on another network", nil, comes(replica(7, func(w *policy.Workload) { w.Endpoints[0].Network = "o" })), false},
		{"on a network that is not listed", nil, comes(replica(7, func(w *policy.Workload) { w.Endpoints[0].Network = "x" })), false},
		{"with IPv6", nil, comes(replica(7, func(w *policy.Workload) {
			w.Endpoints[0].Addresses = append(w.Endpoints[0].Addresses, netip.MustParseAddr("fd00::7"))
		})), false},
		{"published", nil, comes(replica(7, func(w *policy.Workload) {
			w.Published = []policy.Published{{HostPort: 80, Port: 8080, Proto: policy.ProtoTCP}}
		})), false},
		{"in another's namespace", nil, comes(replica(7, func(w *policy.Workload) { w.SharedWith = "app2" })), false},
		{"of an image of another name, first", nil, comes(replica(1, func(w *policy.Workload) { w.Image.Repository = "docker.io/acme/other" })), false},
		{"of another mode", nil, comes(replica(7, label(LabelMode, "enforce"))), false},
		{"with a statement of its own", nil, comes(replica(7, label("gatehouse.allow.egress", "@internet:443"))), false},
		{"a new service", nil, comes(replica(7, func(w *policy.Workload) { w.Service.Name = "new" })), false},
		{"who is not there stops", nil, goes(30), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			snap := replicas(tc.names...)
			ids := policy.NewIdentities()
			set := Settings{DefaultMode: policy.Observe}
			lib := library(t)
			before := Groups(lib, snap, set, ids)
			was := slices.Clone(before.Groups)
			got, moved, ok := before.with(tc.changes)
			if ok != tc.want {
				t.Fatalf("%v, want %v", ok, tc.want)
			}
			if !ok {
				return
			}
			if len(moved) < len(tc.changes) {
				t.Errorf("of %d changes %d are told", len(tc.changes), len(moved))
			}
			after := *snap
			for _, c := range tc.changes {
				after.Workloads = slices.DeleteFunc(slices.Clone(after.Workloads), func(w policy.Workload) bool { return c.Before != nil && w.ID == c.Before.ID })
				if c.After != nil {
					after.Workloads = append(after.Workloads, *c.After)
				}
			}
			slices.SortFunc(after.Workloads, func(a, b policy.Workload) int { return strings.Compare(a.ID, b.ID) })
			want := Groups(lib, &after, set, ids)
			equal := func(a, b any) {
				t.Helper()
				if !reflect.DeepEqual(a, b) {
					t.Errorf("%+v\nwant %+v", a, b)
				}
			}
			equal(got.Groups, want.Groups)
			equal(before.Groups, was)
			said, found := Generate(want)
			old, oldFound := Generate(before)
			equal(old, said)
			equal(got.Findings(oldFound), found)
		})
	}
}

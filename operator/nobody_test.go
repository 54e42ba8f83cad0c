package operator

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/policy"
)

func nobodies(w *world, now time.Time) []string {
	var out []string
	for _, n := range w.Nobodies(w.pop, w.catalog, now) {
		out = append(out, n.What+": "+n.Text())
	}
	return out
}

func TestNobodies(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		peer string
		want []string
		deny bool
	}{
		{"{service: shop/web}", nil, false},
		{"{service: web}", nil, false},
		{"{service: shop/wbe}", []string{"service shop/wbe: s.yaml:5, in one: nobody who runs is that; there is shop/web"}, false},
		{"{service: wbe}", []string{"service wbe: s.yaml:5, in one: nobody who runs is that; there is web"}, false},
		{"{service: shop/web}, {service: shop/jbo}", []string{"service shop/jbo: s.yaml:5, in one: nobody who runs is that; there is shop/job"}, false},
		{"{service: store/web}", []string{"service store/web: s.yaml:5, in one: nobody who runs is that; there is blog/web, shop/web"}, false},
		{"{service: batch}", []string{"service batch: s.yaml:5, in one: nobody who runs is that"}, false},
		// All of a project that does not run is one line.
		{"{service: mail/smtp}, {service: mail/imap}", []string{"any service of project mail: s.yaml:5, in one: nobody who runs is that"}, false},
		{"{project: shpo}", []string{"project shpo: s.yaml:5, in one: nobody who runs is that; there is shop"}, false},
		{"{label: tier=od}", []string{"label tier=od: s.yaml:5, in one: nobody who runs is that; there is tier=odd"}, false},
		{"{label: tier=odd}", nil, false},
		// Of what the reader knows all names, nobody may well be one.
		{"{role: mail}", nil, false},
		{"{model: mongodb}", nil, false},
		{"{model: mongodb, project: shop}", nil, false},
		{"{peer: internet}", nil, false},
		{"{cidr: 192.0.2.0/24}", nil, false},
		{"{category: {risk: {eq: medium}}}", nil, false},
		{"{service: shop/web, role: database}", []string{"role/database,service/shop/web, all of it: s.yaml:5, in one: nobody who runs is that"}, false},
		{"{service: shop/wbe, role: database}", []string{"service shop/wbe: s.yaml:5, in one: nobody who runs is that; there is shop/web"}, false},
		{"{category: {value: {has: custmer-data}}}", []string{"category value=custmer-data: s.yaml:5, in one: nobody who runs is that; there is customer-data"}, true},
		{"{category: {value: {has: money}}}", nil, true},
		// A mistake in ne means everybody.
		{"{category: {device: {ne: offise}}}", []string{"category device=offise: s.yaml:5, in one: nobody who runs is that; there is office"}, true},
	} {
		text := strings.Replace(allowing(""), "{service: shop/web}", c.peer, 1)
		if c.deny {
			text = strings.Replace(denying(""), "{peer: any}", c.peer, 1)
		}
		if got := nobodies(newWorld(t, town(), text, catalogText), now); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.peer, got, c.want)
		}
	}
}

// What is named in an exception, for another mode, or in a statement that waits
// counts too; what has expired does not.
func TestNobodiesElsewhere(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	text := "schema: gatehouse.statements/v1\nmodes: {shop/dbb: enforce, shop/web: observe}\nstatements:\n" +
		"  - {id: a, verdict: deny, from: [{peer: any}], to: [{service: shop/db}], app: [any], ports: [any], except: [{from: [{service: shop/jobb}]}]}\n" +
		"  - {id: b, verdict: deny, from: [{service: shop/jobb}], to: [{service: shop/db}], app: [any], ports: [any], when: {threat: {gte: high}}}\n" +
		"  - {id: c, verdict: deny, from: [{service: shop/gone}], to: [{service: shop/db}], app: [any], ports: [any], expires: 2026-01-01T00:00:00Z}\n"
	want := []string{
		"service shop/dbb: s.yaml:2, in modes: nobody who runs is that; there is shop/db",
		"service shop/jobb: s.yaml:4, in a, b: nobody who runs is that; there is shop/job",
	}
	if got := nobodies(newWorld(t, town(), text, ""), now); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// It is over when somebody of the name runs.
func TestNobodiesGone(t *testing.T) {
	snap := town()
	text := strings.Replace(allowing(""), "shop/web", "mail/smtp", 1)
	if got := nobodies(newWorld(t, snap, text, ""), time.Now()); len(got) != 1 {
		t.Fatalf("%q", got)
	}
	w := snap.Workloads[0]
	w.ID, w.Name, w.Service, w.Endpoints = "zmail", "zmail", policy.ServiceKey{Project: policy.ProjectKey{Domain: "d", Name: "mail"}, Name: "smtp"}, nil
	snap.Workloads = append(snap.Workloads, w)
	if got := nobodies(newWorld(t, snap, text, ""), time.Now()); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// Who lives in another's namespace is meant by its service, and else by what its host
// is (I6): its own project and labels mean nobody.
func TestNobodiesOfSidecars(t *testing.T) {
	snap := town()
	snap.Workloads = append(snap.Workloads, policy.Workload{ID: "side", Name: "side", Compose: true, SharedWith: "web", Image: snap.Workloads[0].Image,
		Service: policy.ServiceKey{Project: policy.ProjectKey{Domain: "d", Name: "mesh"}, Name: "side"}, Labels: map[string]policy.Label{"tier": {Value: "side", By: policy.SetByDeployer}}})
	for _, c := range []struct {
		peer string
		want []string
	}{
		{"{service: mesh/side}", nil},
		{"{service: mesh/other}", []string{"service mesh/other: s.yaml:5, in one: nobody who runs is that"}},
		{"{project: mesh}", []string{"project mesh: s.yaml:5, in one: nobody who runs is that"}},
		{"{label: tier=side}", []string{"label tier=side: s.yaml:5, in one: nobody who runs is that; there is tier=odd"}},
	} {
		if got := nobodies(newWorld(t, snap, strings.Replace(allowing(""), "{service: shop/web}", c.peer, 1), ""), time.Now()); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.peer, got, c.want)
		}
	}
}

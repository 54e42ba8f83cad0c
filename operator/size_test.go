package operator

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gatehouse/models"
	"gatehouse/policy"
)

// atSize is a large site: 10,000 workloads of 500 services in 50 projects and
// 5,000 statements of the operator, of which a part speaks of prefixes, of names
// and of categories, with 2,000 places in the record.
func atSize(tb testing.TB) (*world, []policy.Statement) {
	tb.Helper()
	snap := &policy.Snapshot{}
	images := []string{"postgres", "redis", "nginx", "wordpress", "busybox", "busybox", "rabbitmq", "busybox", "node", "mariadb"}
	for p := range 50 {
		net := fmt.Sprint("n", p)
		snap.Networks = append(snap.Networks, policy.Network{ID: net, Name: net, Zone: policy.Zone(p + 1), Driver: "bridge",
			Subnets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(p * 4), 0}), 22)}})
		for s := range 10 {
			for r := range 20 {
				n := s*20 + r
				id := fmt.Sprintf("%02d-%d-%02d", p, s, r)
				snap.Workloads = append(snap.Workloads, policy.Workload{ID: id, Name: id, Compose: true,
					Service: policy.ServiceKey{Project: policy.ProjectKey{Domain: "d", Name: fmt.Sprint("p", p)}, Name: fmt.Sprint("s", s)},
					Image:   policy.Image{Ref: images[s], Repository: "docker.io/library/" + images[s], PulledFrom: []string{"docker.io/library/" + images[s]}},
					Endpoints: []policy.Endpoint{{ID: id, Network: net, MAC: policy.MAC{2, 0x42, byte(p), 0, 0, byte(n)},
						Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, byte(p*4 + n/200), byte(n%200 + 10)})}}}})
			}
		}
	}
	var text, records strings.Builder
	text.WriteString(head)
	for i := range 5000 {
		from := fmt.Sprintf("{service: p%d/s%d}", i%50, i/50%10)
		to, verdict, more := fmt.Sprintf("{service: p%d/s%d}", (i+7)%50, i/7%10), "allow", "why: a ticket"
		switch i % 10 {
		case 0:
			to = fmt.Sprintf("{cidr: 10.%d.%d.0/24}", i/10%8, i/10%250)
		case 1:
			to = fmt.Sprintf("{cidr: 10.%d.0.0/16}", i/10%8)
		case 2:
			to = fmt.Sprintf("{name: api%d.example.com}", i)
		case 3:
			from = "{category: {risk: {gte: high}}}"
		case 4:
			from, verdict, more = "{category: {risk: {gte: high, unknown: true}}, peer: workload}", "deny", "enforce: always"
		case 5:
			to = fmt.Sprintf("{category: {device: {eq: d%d}}}", i/10%20)
		case 6:
			to = "{peer: internet}"
		}
		fmt.Fprintf(&text, "  - {id: st-%d, verdict: %s, from: [%s], to: [%s], app: [http], ports: [tcp/%d], %s}\n", i, verdict, from, to, 1000+i%3000, more)
	}
	records.WriteString("schema: gatehouse.categories/v1\nsource: cmdb\ncategories: {risk: {ordered: [low, medium, high]}, device: {text: true}}\nrecords:\n")
	for p := range 50 {
		fmt.Fprintf(&records, "  - {match: {service: p%d/s4}, set: {risk: high}}\n  - {match: {service: p%d/s1}, set: {risk: low}}\n", p, p)
	}
	for i := range 2000 {
		fmt.Fprintf(&records, "  - {match: {cidr: 10.%d.%d.%d/32}, set: {device: d%d}}\n", 32+i/250, i%250, i%200, i%20)
	}
	w := newWorld(tb, snap, text.String(), records.String())
	statements, _ := models.Generate(w.pop)
	return w, append(statements, w.Expand(w.pop, w.catalog, Moment{})...)
}

// BenchmarkAtSize: what a change of the operator's files costs.
func BenchmarkAtSize(b *testing.B) {
	w, statements := atSize(b)
	b.Run("expand", func(b *testing.B) {
		for b.Loop() {
			w.Expand(w.pop, w.catalog, Moment{})
		}
	})
	b.Run("compile", func(b *testing.B) {
		b.ReportAllocs()
		rules := 0
		for b.Loop() {
			table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: w.snap, Groups: w.pop.Groups, Statements: statements})
			if err != nil {
				b.Fatal(err)
			}
			rules = table.FlatCount()
		}
		b.ReportMetric(float64(len(statements)), "statements")
		b.ReportMetric(float64(rules), "rules")
	})
}

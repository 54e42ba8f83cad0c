package bench

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// saved writes results as the command does.
func saved(t *testing.T, dir, name string, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".json"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// reportOf is a topic's report of one round in which every variant has its value.
func reportOf(t *testing.T, topic string, value func(measure, variant string) float64) *Report {
	t.Helper()
	wanted, err := chooseMeasures(Config{Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := choose(topic, nil)
	if err != nil {
		t.Fatal(err)
	}
	samples := map[sample][]reading{}
	for n, m := range wanted {
		for _, v := range chosen {
			var values []float64
			for _, name := range m.names {
				values = append(values, value(name, v.name))
			}
			samples[sample{n, v.name}] = []reading{{values: values}}
		}
	}
	r := newReport(Config{Topic: topic, Rounds: 1})
	r.Command = "gatehouse bench " + topic
	r.figures(wanted, chosen, samples)
	return r
}

// goalOf finds a goal by the beginning of what it says.
func goalOf(t *testing.T, o *Overview, what string) Goal {
	t.Helper()
	for _, g := range o.Goals {
		if strings.HasPrefix(g.What, what) {
			return g
		}
	}
	t.Fatalf("no goal %q", what)
	return Goal{}
}

func TestOverview(t *testing.T) {
	dir := t.TempDir()
	rates := map[string]float64{"gatehouse": 140, "gatehouse10": 141, "gatehouse1000": 140, "gatehouse10000": 138, "userspace": 50, "iptables10000": 1}
	saved(t, dir, "packets", reportOf(t, "packets", func(_, variant string) float64 { return cmp.Or(rates[variant], 100) }))
	saved(t, dir, "flows", reportOf(t, "flows", func(measure, variant string) float64 {
		switch {
		case measure == newFlowsMeasure:
			return 300_000
		case measure == calmMeasure:
			return 1000
		case variant == limitedVariant:
			return 990
		}
		return 800
	}))
	saved(t, dir, "classify", &Comparison{Baseline: acl1, Cases: []Case{
		{Name: "small", Size: 1000, Results: []Result{{Variant: ours, Unit: "ns", Median: 10, Ratio: 0.25}, {Variant: changeVariant, Unit: "µs", P99: 900, Max: 90000}}},
		{Name: "large", Size: 9900, Results: []Result{{Variant: ours, Unit: "ns", Median: 40, Ratio: 1}, {Variant: changeVariant, Unit: "µs", P99: 50, Max: 6000}, {Variant: ownVariant, Unit: "µs", P99: 40, Max: 400}, {Variant: idleVariant, Unit: "µs", P99: 1, Max: 5900}}},
	}})
	saved(t, dir, "table", &Comparison{Baseline: lruPeer, Cases: []Case{{Name: "x", Size: 1_000_000, Results: []Result{
		{Variant: lruPeer, Unit: "ns a hit", Median: 500}, {Variant: ours, Unit: "ns a hit", Median: 100}, {Variant: oursBatched, Unit: "ns a hit", Median: 50},
		{Variant: ours, Unit: "bytes a flow, key and index", Median: 51}}}}})
	saved(t, dir, "memory", &Footprints{States: []Footprint{{}, {RSS: 100 << 20, RSSAfter: 119 << 20, Busy: 20 * time.Millisecond, Over: 10 * time.Second}}})
	if err := os.WriteFile(filepath.Join(dir, "slow-path.md"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := WriteOverview(dir, "gatehouse bench all", []string{"tcp: the bridge is down"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		what     string
		value    float64
		measured bool
		reached  bool
	}{
		{"64-byte packets of decided", 1.4, true, true},
		{"64-byte packets, every one", 0.5, true, false},
		{"1,000 flows with 10", 138. / 141, true, true},
		{"TCP bulk", 0, false, false},
		{"new flows a second", 300_000, true, true},
		{"what is left", 0.8, true, false},
		{"the same with the budget", 0.99, true, true},
		{"classify, published sets: geo", 0, false, false},
		{"classify, generated sets, dense ones too: geo", 0.5, true, true},
		{"classify, generated sets, dense ones too: the worst", 1, true, true},
		{"insert or delete of a rule at 10,000 or more: p99", 50, true, true}, // the small set does not count
		{"insert or delete of a rule at 10,000 or more: the longest", 6000, true, false},
		{"the same without what other processes", 400, true, true},
		{"flow table, 1,000,000 flows, a hit", 0.2, true, false},
		{"the same in batches", 0.1, true, true},
		{"flow table, 1,000,000 flows, key", 51, true, true},
		{"gateway memory", 119, true, true},
		{"gateway at rest", 0.2, true, false},
	} {
		g := goalOf(t, o, want.what)
		if fmt.Sprintf("%.6f", g.Value) != fmt.Sprintf("%.6f", want.value) || g.Measured != want.measured || g.Reached != want.reached && g.Limit != 0 {
			t.Errorf("%s: %+v, want %v, measured %v, reached %v", want.what, g, want.value, want.measured, want.reached)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "RESULTS.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"`gatehouse bench all`", "**Not measured**: tcp: the bridge is down.",
		"| 64-byte packets of decided flows, 1,000 flows | 140 / 140 / 140 kpps | 1.40 | plain bridge | ≥ 1.35 | yes |\n",
		"(with as many iptables rules 0.010)", "| TCP bulk, one stream | not measured | | | ≥ 1.00 | |\n",
		"| [flows](flows.md) |", "![64-byte packets, 1,000 flows](packets.svg)", "(statements.svg)",
		"floods](slow-path.md)",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if strings.Contains(string(page), "latency.svg") {
		t.Error("the page shows a chart of what was not measured")
	}
	var summary strings.Builder
	if err := o.Summary(&summary); err != nil || !strings.Contains(summary.String(), "not measured: TCP bulk") {
		t.Errorf("%v: %s", err, &summary)
	}
	for _, name := range []string{"packets.svg", "statements.svg"} {
		wellFormed(t, filepath.Join(dir, name))
	}
}

// wellFormed reads a chart to its end.
func wellFormed(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	shapes := 0
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if e, ok := token.(xml.StartElement); ok && (e.Name.Local == "rect" || e.Name.Local == "circle") {
			shapes++
			for _, a := range e.Attr {
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") || strings.HasPrefix(a.Value, "-") {
					t.Errorf("%s: %s is %s", path, a.Name.Local, a.Value)
				}
			}
		}
	}
	if shapes < 6 {
		t.Errorf("%s: %d shapes", path, shapes)
	}
}

// TestOverviewOfNothing: a folder without results makes a page that says so; one
// with results that nothing reads is an error that names them.
func TestOverviewOfNothing(t *testing.T) {
	dir := t.TempDir()
	o, err := WriteOverview(dir, "gatehouse bench all", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range o.Goals {
		if g.Measured || g.Reached {
			t.Errorf("%+v", g)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "table.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if page, err := os.ReadFile(filepath.Join(dir, "RESULTS.md")); err != nil || strings.Contains(string(page), "slow-path.md") {
		t.Errorf("%v: a page that is not there is named:\n%s", err, page)
	}
	if _, err := WriteOverview(dir, "gatehouse bench all", nil); err == nil || !strings.Contains(err.Error(), "results of table") {
		t.Errorf("broken results: %v", err)
	}
}

func TestEstimate(t *testing.T) {
	for _, topic := range Topics() {
		if one, five := Estimate(topic, 1), Estimate(topic, 5); one <= 0 || five <= one || five >= 5*one {
			t.Errorf("%s: %v for a round, %v for five", topic, one, five)
		}
	}
}

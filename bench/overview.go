package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Overview is what the results in a folder say of the goals.
type Overview struct {
	When    time.Time `json:"when"`
	Kernel  string    `json:"kernel"`
	CPU     string    `json:"cpu"`
	Cores   int       `json:"cores"`
	Go      string    `json:"go"`
	Command string    `json:"command"`
	Goals   []Goal    `json:"goals"`
	Topics  []Topic   `json:"topics"`
	// Faults are topics and variants that could not be measured, and why.
	Faults []string `json:"faults,omitempty"`
}

// Goal is one, with what was measured.
type Goal struct {
	What    string  `json:"what"`
	Unit    string  `json:"unit,omitempty"`
	Min     float64 `json:"min"`
	Median  float64 `json:"median"`
	Max     float64 `json:"max"`
	Peer    string  `json:"peer,omitempty"` // what value is a ratio to; none = value is the median itself
	Value   float64 `json:"value"`          // that the goal is about
	AtLeast bool    `json:"atLeast"`        // else at most
	Limit   float64 `json:"limit"`          // 0 = no goal, a figure
	// Measured is false where the topic has no results yet.
	Measured bool   `json:"measured"`
	Reached  bool   `json:"reached"`
	Note     string `json:"note,omitempty"`
}

// Topic is a run that the folder holds the results of.
type Topic struct {
	Name    string    `json:"name"`
	When    time.Time `json:"when"`
	Kernel  string    `json:"kernel"`
	Command string    `json:"command,omitempty"`
}

// results are those of a folder; nil or missing = not measured.
type results struct {
	reports     map[string]*Report
	comparisons map[string]*Comparison
	memory      *Footprints
	topics      []Topic
}

// PublishedClassify is the name under which Classify's results on published sets
// are kept, beside those on generated ones.
const PublishedClassify = "classify-published"

func readResults(dir string) (*results, error) {
	r := &results{reports: map[string]*Report{}, comparisons: map[string]*Comparison{}}
	for _, topic := range Topics() {
		x := &Report{}
		if there, err := readJSON(dir, topic, x); err != nil {
			return nil, err
		} else if there {
			r.reports[topic] = x
			r.topics = append(r.topics, Topic{topic, x.When, x.Kernel, x.Command})
		}
	}
	for _, name := range []string{"classify", PublishedClassify, "table", "changes", "appid"} {
		x := &Comparison{}
		if there, err := readJSON(dir, name, x); err != nil {
			return nil, err
		} else if there {
			r.comparisons[name] = x
			r.topics = append(r.topics, Topic{name, x.When, x.Kernel, x.Command})
		}
	}
	x := &Footprints{}
	if there, err := readJSON(dir, "memory", x); err != nil {
		return nil, err
	} else if there {
		r.memory = x
		r.topics = append(r.topics, Topic{"memory", x.When, x.Kernel, x.Command})
	}
	return r, nil
}

func readJSON(dir, name string, v any) (there bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, name+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return false, fmt.Errorf("results of %s: %w", name, err)
	}
	return true, nil
}

// WriteOverview reads the results of all topics in a folder and writes RESULTS.md
// and results.json beside them, and the charts.
func WriteOverview(dir, command string, faults []string) (*Overview, error) {
	r, err := readResults(dir)
	if err != nil {
		return nil, err
	}
	o := &Overview{When: time.Now().UTC().Truncate(time.Second), Kernel: kernel(), CPU: cpuModel(), Cores: runtime.NumCPU(), Go: runtime.Version(),
		Command: command, Topics: r.topics, Faults: faults}
	for _, g := range goals {
		o.Goals = append(o.Goals, g.judge(r))
	}
	charts := r.charts()
	for name, svg := range charts {
		if err := os.WriteFile(filepath.Join(dir, name), svg, 0o644); err != nil {
			return nil, err
		}
	}
	data, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "results.json"), append(data, '\n'), 0o644); err != nil {
		return nil, err
	}
	page, err := os.Create(filepath.Join(dir, "RESULTS.md"))
	if err != nil {
		return nil, err
	}
	_, err = os.Stat(filepath.Join(dir, "slow-path.md"))
	return o, errors.Join(o.markdown(page, charts, err == nil), page.Close())
}

// limits are where it stands what misses its goal, and why: for a folder that has
// the first of them.
const limits = `
Why goals are missed, with profiles, what was tried and where the limit is: [packets in user space, new flows and floods](slow-path.md);
[connections](../docs/profiles.md#what-a-connection-costs), [a hit in the flow table](../docs/profiles.md#what-a-flow-of-a-million-costs-to-find),
[a change of rules](../docs/profiles.md#what-a-rule-change-waits-for).
`

// goal is what is to be reached, and how it is read from results.
type goal struct {
	what    string
	atLeast bool
	limit   float64
	take    func(*results) (Goal, bool)
}

func (g *goal) judge(r *results) Goal {
	got, ok := g.take(r)
	got.What, got.AtLeast, got.Measured = g.what, g.atLeast, ok
	if got.Limit == 0 {
		got.Limit = g.limit
	}
	if g.atLeast {
		got.Reached = ok && got.Value >= got.Limit
	} else {
		got.Reached = ok && got.Value <= got.Limit
	}
	return got
}

// goals are in the order of the page. A limit of 0 is none: a figure to know.
var goals = []goal{
	{"64-byte packets of decided flows, 1,000 flows", true, 1.35, ofPackets(Traffic{Flows: 1000, Size: smallFrame}, gatehouseVariant)},
	{"the same over IPv6", true, 1.35, ofPackets(Traffic{Flows: 1000, Size: smallFrame, IPv6: true}, gatehouseVariant)},
	{"the same, 60,000 flows in bursts of 8", true, 1.2, ofPackets(Traffic{Flows: 60000, Size: smallFrame, Order: InBursts}, gatehouseVariant)},
	{"the same, 60,000 flows in random order", true, 1.0, ofPackets(Traffic{Flows: 60000, Size: smallFrame, Order: InRandomOrder}, gatehouseVariant)},
	{"1,000 flows with 10, 1,000 and 10,000 statements: the slowest", true, 0.95, flatness},
	{"TCP bulk, one stream", true, 1.0, bulk},
	{"request-response p50", false, 1.0, ofReport("latency", p50Measure, gatehouseVariant, Baseline)},
	{"request-response p99", false, 1.1, ofReport("latency", p99Measure, gatehouseVariant, Baseline)},
	{"HTTP connections a second, app-ID on", true, 1.0, ofReport("connections", httpMeasure, gatehouseVariant, iptables10Variant)},
	{"Redis connections a second, app-ID on", true, 1.0, ofReport("connections", redisMeasure, gatehouseVariant, iptables10Variant)},
	{"PostgreSQL connections a second, app-ID on", true, 1.0, ofReport("connections", postgresqlMeasure, gatehouseVariant, iptables10Variant)},
	{"64-byte packets between two interfaces, 1,000 flows", true, 0, ofPackets(Traffic{Flows: 1000, Size: smallFrame}, pairVariant)},
	{"64-byte packets, every one through user space, 1,000 flows", true, 0.56, ofPackets(Traffic{Flows: 1000, Size: smallFrame}, userspaceVariant)},
	{"new flows a second, every packet a new flow", true, 280_000, ofReport("flows", newFlowsMeasure, gatehouseVariant, "")},
	{"what is left of 1,000 flows' rate during a flood of new ones", true, 0.95, underFlood(gatehouseVariant, calmMeasure, floodMeasure)},
	{"the same with the budget of misses that run has", true, 0.95, underFlood(limitedVariant, calmMeasure, floodMeasure)},
	{"the same by second of the sender's processor time", true, 0.95, underFlood(limitedVariant, calmUsedMeasure, floodUsedMeasure)},
	{"arrived of 1,000 flows at half the pace that A can send, during such a flood", true, 95, ofReport("flows", pacedMeasure, limitedVariant, "")},
	{"classify, published sets: geometric mean", false, 0.7, lookups(PublishedClassify, geometricMean)},
	{"classify, published sets: the worst", false, 1.0, lookups(PublishedClassify, slices.Max[[]float64])},
	{"classify, generated sets, dense ones too: geometric mean", false, 0.7, lookups("classify", geometricMean)},
	{"classify, generated sets, dense ones too: the worst", false, 1.0, lookups("classify", slices.Max[[]float64])},
	{"insert or delete of a rule at 10,000 or more: p99", false, 100, changes(changeVariant, func(r *Result) float64 { return r.P99 })},
	{"insert or delete of a rule at 10,000 or more: the longest", false, 5000, changes(changeVariant, func(r *Result) float64 { return r.Max })},
	{"the same without what other processes ran", false, 5000, changes(ownVariant, func(r *Result) float64 { return r.Max })},
	{"identity verdict, 100,000 workloads", false, 0.5, ofTable(100_000, ours, "ns a verdict", goMaps)},
	{"identity verdict, 1,000,000 workloads", false, 0.5, ofTable(1_000_000, ours, "ns a verdict", goMaps)},
	{"one container's start or stop at 100,000 workloads, table to table: p99", false, 1000, startOrStop},
	{"the same from event to table published, 10,000 workloads: p99", false, 1000, published(10_000)},
	{"the same from event to table published, 100,000 workloads: p99", false, 1000, published(100_000)},
	{"flow table, 1,000,000 flows, a hit", false, 0.12, ofTable(1_000_000, ours, "ns a hit", lruPeer)},
	{"the same in batches of 64", false, 0.12, ofTable(1_000_000, oursBatched, "ns a hit", lruPeer)},
	{"flow table, 1,000,000 flows, key and index", false, 64, ofTable(1_000_000, ours, "bytes a flow, key and index", "")},
	{"gateway memory, 200 endpoints, 100,000 live flows", false, 120, resident},
	{"gateway at rest, the same", false, 0, atRest},
	{"application identification, one thread", true, 0, identification},
}

func (r *results) figure(topic, measure, name string) (*Figure, bool) {
	if r.reports[topic] == nil {
		return nil, false
	}
	all := r.reports[topic].Figures
	i := slices.IndexFunc(all, func(f Figure) bool { return f.Measure == measure && f.Name == name })
	if i < 0 {
		return nil, false
	}
	return &all[i], true
}

// unitOf is what a measure's name says after its last comma.
func unitOf(measure string) string {
	switch {
	case strings.HasSuffix(measure, ", app-ID on"), measure == newFlowsMeasure:
		return "/s"
	}
	return measure[strings.LastIndex(measure, ", ")+2:]
}

func (f *Figure) goal() Goal {
	return Goal{Unit: unitOf(f.Measure), Min: f.Min, Median: f.Median, Max: f.Max, Value: f.Median}
}

// ofReport is a variant's figure beside a peer's; without a peer by itself.
func ofReport(topic, measure, name, peer string) func(*results) (Goal, bool) {
	return func(r *results) (Goal, bool) {
		f, ok := r.figure(topic, measure, name)
		if !ok {
			return Goal{}, false
		}
		g := f.goal()
		if peer == "" {
			return g, true
		}
		p, ok := r.figure(topic, measure, peer)
		if !ok || p.Median == 0 {
			return g, false
		}
		g.Peer, g.Value = p.Variant, f.Median/p.Median
		return g, true
	}
}

func ofPackets(t Traffic, name string) func(*results) (Goal, bool) {
	return ofReport("packets", t.String()+", kpps", name, Baseline)
}

// statementVariants are those with more statements, and with as many rules of iptables.
var statementVariants = []struct {
	n              float64
	ours, iptables string
}{{10, "gatehouse10", iptables10Variant}, {1000, "gatehouse1000", "iptables1000"}, {10000, "gatehouse10000", "iptables10000"}}

// flatness is the slowest beside the fastest of the numbers of statements.
func flatness(r *results) (g Goal, ok bool) {
	var medians, rules []float64
	for _, v := range statementVariants {
		f, ok := r.figure("packets", flatMeasure.names[0], v.ours)
		if !ok || f.Median <= 0 {
			return g, false
		}
		if len(medians) == 0 || f.Median < g.Median {
			g = f.goal()
		}
		medians = append(medians, f.Median)
		if f, ok := r.figure("packets", flatMeasure.names[0], v.iptables); ok {
			rules = append(rules, f.Median)
		}
	}
	g.Peer, g.Value = "the fastest of them", slices.Min(medians)/slices.Max(medians)
	if len(rules) == len(medians) {
		g.Note = fmt.Sprintf("with as many iptables rules %.3f", slices.Min(rules)/slices.Max(rules))
	}
	return g, true
}

// bulk may fall short of the plain bridge by as much as its own rounds do.
func bulk(r *results) (Goal, bool) {
	g, ok := ofReport("tcp", bulkMeasure, gatehouseVariant, Baseline)(r)
	base, there := r.figure("tcp", bulkMeasure, Baseline)
	if !ok || !there {
		return g, false
	}
	g.Limit = min(1, base.Min/base.Median)
	g.Note = "1.00 less the noise: the bridge's own lowest round"
	return g, true
}

// underFlood is the rate during a flood beside the rate before it, round by round.
func underFlood(name, before, during string) func(*results) (Goal, bool) {
	return func(r *results) (Goal, bool) {
		left, f, ok := r.leftUnderFlood(name, before, during)
		if !ok {
			return Goal{}, false
		}
		g := f.goal()
		g.Peer, g.Value = "before the flood", left
		if bridge, _, ok := r.leftUnderFlood(Baseline, before, during); ok {
			g.Note = fmt.Sprintf("the plain bridge keeps %.2f", bridge)
		}
		return g, true
	}
}

func (r *results) leftUnderFlood(name, before, during string) (float64, *Figure, bool) {
	calm, ok := r.figure("flows", before, name)
	flooded, also := r.figure("flows", during, name)
	if !ok || !also || len(calm.Rounds) != len(flooded.Rounds) {
		return 0, nil, false
	}
	var left []float64
	for i := range calm.Rounds {
		if calm.Rounds[i] > 0 {
			left = append(left, flooded.Rounds[i]/calm.Rounds[i])
		}
	}
	return median(left), flooded, len(left) > 0
}

// lookups sums the ratios to librte_acl up.
func lookups(name string, sum func([]float64) float64) func(*results) (Goal, bool) {
	return func(r *results) (g Goal, ok bool) {
		c := r.comparisons[name]
		if c == nil {
			return g, false
		}
		var ratios, ns []float64
		for _, k := range c.Cases {
			if x := k.result(ours, "ns"); x != nil && x.Ratio > 0 {
				ratios, ns = append(ratios, x.Ratio), append(ns, x.Median)
			}
		}
		if len(ratios) == 0 {
			return g, false
		}
		return Goal{Unit: "ns", Min: slices.Min(ns), Median: median(ns), Max: slices.Max(ns), Peer: c.Baseline, Value: sum(ratios),
			Note: fmt.Sprintf("%d sets", len(ns))}, true
	}
}

func geometricMean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += math.Log(x)
	}
	return math.Exp(sum / float64(len(v)))
}

func (k *Case) result(variant, unit string) *Result {
	for i := range k.Results {
		if r := &k.Results[i]; r.Variant == variant && r.Unit == unit {
			return r
		}
	}
	return nil
}

// changes is the worst of all sets of a size that counts.
func changes(variant string, figure func(*Result) float64) func(*results) (Goal, bool) {
	return func(r *results) (g Goal, ok bool) {
		for _, name := range []string{"classify", PublishedClassify} {
			c := r.comparisons[name]
			if c == nil {
				continue
			}
			for _, k := range c.Cases {
				// A set of 10,000 has a little less without those that are there twice.
				x := k.result(variant, "µs")
				if x == nil || k.Size < 9000 || x.P99 == 0 {
					continue
				}
				if v := figure(x); !ok || v > g.Value {
					g, ok = Goal{Unit: "µs", Min: x.Min, Median: x.Median, Max: x.Max, Value: v, Note: k.Name}, true
					if idle := k.result(idleVariant, "µs"); idle != nil {
						g.Note += fmt.Sprintf("; %s: %.0f µs", idleVariant, figure(idle))
					}
				}
			}
		}
		return g, ok
	}
}

// ofTable is a figure of bench table; with a peer its ratio to that.
func ofTable(size int, variant, unit, peer string) func(*results) (Goal, bool) {
	return func(r *results) (Goal, bool) {
		k, x := r.tableResult(size, variant, unit)
		if x == nil {
			return Goal{}, false
		}
		g := Goal{Unit: unit, Min: x.Min, Median: x.Median, Max: x.Max, Value: x.Median}
		if peer == "" {
			return g, true
		}
		p := k.result(peer, unit)
		if p == nil || p.Median == 0 {
			return g, false
		}
		g.Peer, g.Value = peer, x.Median/p.Median
		return g, true
	}
}

func (r *results) tableResult(size int, variant, unit string) (*Case, *Result) {
	c := r.comparisons["table"]
	if c == nil {
		return nil, nil
	}
	for i := range c.Cases {
		if k := &c.Cases[i]; k.Size == size {
			if x := k.result(variant, unit); x != nil {
				return k, x
			}
		}
	}
	return nil, nil
}

// published is how long a start or stop takes from event to table.
func published(size int) func(*results) (Goal, bool) {
	return func(r *results) (Goal, bool) {
		c := r.comparisons["changes"]
		if c == nil {
			return Goal{}, false
		}
		for i := range c.Cases {
			if x := c.Cases[i].result(publishedVariant, "µs"); c.Cases[i].Size == size && x != nil && x.P99 > 0 {
				return Goal{Unit: "µs", Min: x.Min, Median: x.Median, Max: x.Max, Value: x.P99}, true
			}
		}
		return Goal{}, false
	}
}

func startOrStop(r *results) (Goal, bool) {
	_, x := r.tableResult(100_000, startVariant, "µs")
	if x == nil || x.P99 == 0 {
		return Goal{}, false
	}
	return Goal{Unit: "µs", Min: x.Min, Median: x.Median, Max: x.Max, Value: x.P99}, true
}

// crowded is the gateway with all its flows.
func (r *results) crowded() *Footprint {
	if r.memory == nil || len(r.memory.States) == 0 {
		return nil
	}
	return &r.memory.States[len(r.memory.States)-1]
}

func resident(r *results) (Goal, bool) {
	f := r.crowded()
	if f == nil {
		return Goal{}, false
	}
	least, most := mib(min(f.RSS, f.RSSAfter)), mib(max(f.RSS, f.RSSAfter))
	return Goal{Unit: "MiB", Min: least, Median: (least + most) / 2, Max: most, Value: most,
		Note: fmt.Sprintf("the least before, the most after %v at rest, or the other way", f.Over.Round(time.Second))}, true
}

func atRest(r *results) (Goal, bool) {
	f := r.crowded()
	if f == nil || f.Over == 0 {
		return Goal{}, false
	}
	share := 100 * f.Busy.Seconds() / f.Over.Seconds()
	return Goal{Unit: "% of a core", Min: share, Median: share, Max: share, Value: share}, true
}

func identification(r *results) (Goal, bool) {
	c := r.comparisons["appid"]
	if c == nil || len(c.Cases) == 0 {
		return Goal{}, false
	}
	x := c.Cases[0].result(replayVariant, "kpps")
	if x == nil {
		return Goal{}, false
	}
	return Goal{Unit: x.Unit, Min: x.Min, Median: x.Median, Max: x.Max, Peer: c.Baseline, Value: x.Ratio, Note: c.Cases[0].About}, true
}

func (o *Overview) markdown(w io.Writer, charts map[string][]byte, explained bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Results\n\nWritten by `%s` on %s: kernel %s, %d cores (%s), %s.\n", o.Command, o.When.Format(time.DateOnly), o.Kernel, o.Cores, o.CPU, o.Go)
	b.WriteString("\nA ratio is of medians to the peer's in the same run, its rounds interleaved with ours: believe it, and no figure by itself, for a machine that others use. Each topic's page has all variants, the generator's own limit, the frames lost, and the plain bridge measured twice, which shows the noise.\n")
	for _, f := range o.Faults {
		fmt.Fprintf(&b, "\n**Not measured**: %s. What stands below of it, if anything, is of an earlier run.\n", f)
	}
	b.WriteString("\n| | min / median / max | ratio | to | goal | reached |\n|---|---|---:|---|---:|---|\n")
	for i := range o.Goals {
		o.Goals[i].row(&b)
	}
	if explained {
		b.WriteString(limits)
	}
	for _, c := range chartTexts {
		if charts[c.name] != nil {
			fmt.Fprintf(&b, "\n![%s](%s)\n", c.title, c.name)
		}
	}
	b.WriteString("\n| topic | measured | kernel | command |\n|---|---|---|---|\n")
	for _, t := range o.Topics {
		command := "`" + t.Command + "`"
		if t.Command == "" {
			command = ""
		}
		fmt.Fprintf(&b, "| [%s](%[1]s.md) | %s | %s | %s |\n", t.Name, t.When.Format("2006-01-02 15:04"), t.Kernel, command)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Summary says how many goals are reached, and names the others.
func (o *Overview) Summary(w io.Writer) error {
	var missed []string
	goals, reached := 0, 0
	for i := range o.Goals {
		g := &o.Goals[i]
		switch {
		case g.Limit == 0:
			continue
		case g.Reached:
			reached++
		case g.Measured:
			missed = append(missed, "not reached: "+g.What)
		default:
			missed = append(missed, "not measured: "+g.What)
		}
		goals++
	}
	_, err := fmt.Fprintf(w, "%d of %d goals reached\n", reached, goals)
	for _, what := range missed {
		if err == nil {
			_, err = fmt.Fprintln(w, what)
		}
	}
	return err
}

func (g *Goal) row(b *strings.Builder) {
	what := g.What
	if g.Note != "" {
		what += " (" + g.Note + ")"
	}
	limit, reached := "", ""
	if g.Limit != 0 {
		limit = "≤ " + short(g.Limit)
		if g.AtLeast {
			limit = "≥ " + short(g.Limit)
		}
		reached = "no"
		if g.Reached {
			reached = "yes"
		}
	}
	if !g.Measured {
		fmt.Fprintf(b, "| %s | not measured | | | %s | |\n", what, limit)
		return
	}
	ratio := ""
	if g.Peer != "" {
		ratio = fmt.Sprintf("%.2f", g.Value)
	} else if g.Value != g.Median {
		ratio = short(g.Value) + " " + g.Unit
	}
	fmt.Fprintf(b, "| %s | %s / %s / %s %s | %s | %s | %s | %s |\n", what, short(g.Min), short(g.Median), short(g.Max), g.Unit, ratio, g.Peer, limit, reached)
}

// chartTexts name the charts, in the order of the page.
var chartTexts = []struct{ name, title string }{
	{"packets.svg", "64-byte packets, 1,000 flows"},
	{"statements.svg", "Packet rate by number of statements or rules"},
	{"latency.svg", "Request-response"},
	{"connections.svg", "Connections a second"},
}

// charts draws what has been measured, by file.
func (r *results) charts() map[string][]byte {
	out := map[string][]byte{}
	add := func(name, topic string, titles map[string]string, measures ...string) {
		var panels []panel
		for _, m := range measures {
			if p := r.panel(topic, m); len(p.bars) > 0 {
				p.title = titles[m]
				panels = append(panels, p)
			}
		}
		if len(panels) > 0 {
			out[name] = barChart(panels)
		}
	}
	flat := flatMeasure.names[0]
	add("packets.svg", "packets", map[string]string{flat: "64-byte UDP, 1,000 flows, thousand packets a second (more is better)"}, flat)
	add("latency.svg", "latency", map[string]string{p50Measure: "Request-response, median, µs (less is better)", p99Measure: "Request-response, 99th percentile, µs (less is better)"}, p50Measure, p99Measure)
	add("connections.svg", "connections", map[string]string{httpMeasure: "HTTP, connections a second (more is better)", redisMeasure: "Redis, connections a second (more is better)",
		postgresqlMeasure: "PostgreSQL, connections a second (more is better)"}, httpMeasure, redisMeasure, postgresqlMeasure)
	if svg := r.statementChart(); svg != nil {
		out["statements.svg"] = svg
	}
	return out
}

func (r *results) panel(topic, measure string) (p panel) {
	if r.reports[topic] == nil {
		return p
	}
	for _, f := range r.reports[topic].Figures {
		if f.Measure == measure {
			p.bars = append(p.bars, bar{f.Variant, f.Min, f.Median, f.Max, strings.HasPrefix(f.Variant, ours)})
		}
	}
	return p
}

func (r *results) statementChart() []byte {
	flat := flatMeasure.names[0]
	gatehouse, rules := line{label: "Gatehouse, statements", ours: true}, line{label: "iptables, rules"}
	for _, v := range statementVariants {
		for name, l := range map[string]*line{v.ours: &gatehouse, v.iptables: &rules} {
			if f, ok := r.figure("packets", flat, name); ok {
				l.points = append(l.points, point{v.n, f.Min, f.Median, f.Max})
			}
		}
	}
	if len(gatehouse.points) == 0 || len(rules.points) == 0 {
		return nil
	}
	var levels []level
	for _, l := range []struct{ name, label string }{{Baseline, "plain bridge"}, {"nftmap", "nftables, map of 10,000"}} {
		if f, ok := r.figure("packets", flat, l.name); ok {
			levels = append(levels, level{l.label, f.Median})
		}
	}
	return lineChart("64-byte UDP, 1,000 flows, thousand packets a second", "statements or rules", []line{gatehouse, rules}, levels)
}

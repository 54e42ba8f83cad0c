// Package bench measures Gatehouse beside its peers: two "containers" in
// namespaces of their own for each variant, all variants standing side by side,
// the measurements interleaved round by round so that a noisy machine is noisy
// for all of them. What counts is the ratio to the plain bridge in the same run;
// a second plain bridge shows how far two of the same are apart.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane/namespace"
	"gatehouse/dataplane/steer"
)

// Config says what to run.
type Config struct {
	Rounds   int       // at least 1
	Topic    string    // one of Topics
	Variants []string  // names from Variants; empty = all that the topic measures
	Traffic  *Traffic  // for the topic packets: this in place of its own
	Progress io.Writer // one line a round; nil = silent
	// Gateway gives the arguments with which this very program calls
	// ServeGateway for a variant.
	Gateway func(variant string) []string
}

// Baseline is the variant that ratios are against.
const Baseline = "bridge"

// The variants that the overview names.
const (
	iptables10Variant = "iptables10"
	gatehouseVariant  = "gatehouse"
	limitedVariant    = "limited"
	userspaceVariant  = "userspace"
	pairVariant       = "pair"
)

// Variants are the ways from A to B that are measured, and the generator alone.
func Variants() []string {
	out := make([]string, len(variants))
	for i, v := range variants {
		out[i] = v.name
	}
	return out
}

// Topics are the groups of measures.
func Topics() []string {
	var out []string
	for _, m := range measures {
		if !slices.Contains(out, m.topic) {
			out = append(out, m.topic)
		}
	}
	return out
}

type variant struct {
	name, title string
	prepare     func(*site) error // after the site stands
	gateway     *gatewayRequest   // its settings; nil = none
	topics      []string          // nil = all
}

// inUserSpace are the topics of ways that take every packet to a process: of new
// flows they have nothing to tell.
var inUserSpace = []string{"packets", "tcp", "latency", "connections"}

var variants = []variant{
	{name: Baseline, title: "plain bridge"},
	{name: "bridge2", title: "plain bridge once more"},
	{name: "generator", title: "generator alone", prepare: func(s *site) error { s.sinkPath, s.sinkDevice = s.host, vethA; return nil }, topics: []string{"packets"}},
	{name: iptables10Variant, title: "bridge + conntrack + 10 iptables rules", prepare: func(s *site) error { return iptables(s, 10) }},
	{name: "iptables1000", title: "bridge + conntrack + 1,000 iptables rules", prepare: func(s *site) error { return iptables(s, 1000) }},
	{name: "iptables10000", title: "bridge + conntrack + 10,000 iptables rules", prepare: func(s *site) error { return iptables(s, 10000) }},
	{name: "nftmap", title: "bridge + conntrack + nftables verdict map of 10,000", prepare: func(s *site) error { return nftMap(s, 10000) }},
	{name: "suricata", title: "bridge + Suricata, inline by NFQUEUE", prepare: suricata, topics: inUserSpace},
	{name: gatehouseVariant, title: "Gatehouse, decided flows in the kernel", gateway: &gatewayRequest{Offload: true}},
	{name: "gatehouse10", title: "Gatehouse with 10 statements more", gateway: &gatewayRequest{Offload: true, Statements: 10}, topics: []string{"packets", "flows"}},
	{name: "gatehouse1000", title: "Gatehouse with 1,000 statements more", gateway: &gatewayRequest{Offload: true, Statements: 1000}, topics: []string{"packets", "flows"}},
	{name: "gatehouse10000", title: "Gatehouse with 10,000 statements more", gateway: &gatewayRequest{Offload: true, Statements: 10000}, topics: []string{"packets", "flows"}},
	{name: limitedVariant, title: "Gatehouse, 50,000 misses a second and endpoint", gateway: &gatewayRequest{Offload: true, MissBudget: steer.DefaultMissBudget}, topics: []string{"flows"}},
	{name: userspaceVariant, title: "Gatehouse, every packet in user space", gateway: &gatewayRequest{}, topics: inUserSpace},
	{name: "tap", title: "Gatehouse, every packet in user space, by a TAP", gateway: &gatewayRequest{TAP: true}, topics: inUserSpace},
	{name: pairVariant, title: "Gatehouse between two interfaces, decided flows in XDP", prepare: unbridge, gateway: &gatewayRequest{Offload: true, Pair: true}, topics: []string{"packets"}},
}

// mainVariants are those that more than the packet rate of small packets is
// asked of.
var mainVariants = []string{Baseline, "bridge2", "generator", iptables10Variant, "nftmap", gatehouseVariant, userspaceVariant, pairVariant}

// connectionVariants are those that are asked for a server that takes a process for
// each connection.
var connectionVariants = []string{Baseline, "bridge2", iptables10Variant, gatehouseVariant, userspaceVariant}

// iptables makes the host side what Docker's users run: bridged packets meet
// iptables with conntrack, established flows are accepted first, new ones walk
// n rules before the one that fits; IPv6 alike.
func iptables(s *site, n int) error {
	err := namespace.Run(s.host, func() error { return bridgeNetfilter("1") })
	for _, family := range []struct{ program, other, ours string }{
		{"iptables-restore", "10.98.%d.%d/32", "10.99.0.0/24"},
		{"ip6tables-restore", "2001:db8:98::%x:%x/128", "2001:db8:99::/64"},
	} {
		var rules strings.Builder
		rules.WriteString("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n")
		for i := range n {
			fmt.Fprintf(&rules, "-A FORWARD -s "+family.other+" -p tcp --dport %d -j ACCEPT\n", i/250, i%250+1, 1000+i)
		}
		fmt.Fprintf(&rules, "-A FORWARD -s %s -d %[1]s -j ACCEPT\nCOMMIT\n", family.ours)
		err = errors.Join(err, s.command(rules.String(), family.program))
	}
	return err
}

// nftMap is the same with a verdict map in place of the list: one lookup
// whatever its size.
func nftMap(s *site, n int) error {
	var rules strings.Builder
	for _, family := range []struct{ name, addr, other, a, b string }{
		{"ip", "ipv4_addr", "10.98.%d.%d", addrA.String(), addrB.String()},
		{"ip6", "ipv6_addr", "2001:db8:98::%x:%x", addrA6.String(), addrB6.String()},
	} {
		fmt.Fprintf(&rules, "table %s bench {\n map verdicts { type %s . %[2]s . inet_proto . inet_service : verdict; flags interval; elements = {\n", family.name, family.addr)
		for i := range n {
			fmt.Fprintf(&rules, family.other+" . %s . tcp . %d : accept,\n", i/250, i%250+1, family.b, 1000+i)
		}
		for _, proto := range []string{"tcp", "udp"} {
			fmt.Fprintf(&rules, "%s . %s . %s . 1-65535 : accept, %[2]s . %[1]s . %[3]s . 1-65535 : accept,\n", family.a, family.b, proto)
		}
		fmt.Fprintf(&rules, " } }\n chain forward { type filter hook forward priority 0; policy drop;\n ct state established,related accept\n %s saddr . %[1]s daddr . meta l4proto . th dport vmap @verdicts\n }\n}\n", family.name)
	}
	return errors.Join(namespace.Run(s.host, func() error { return bridgeNetfilter("1") }), s.command(rules.String(), "nft", "-f", "-"))
}

// measure is one figure, or two that one run gives.
type measure struct {
	topic string
	names []string     // with the unit
	only  []string     // variants; nil = all of the topic
	need  func() error // what the machine must have; nil = nothing
	run   func(*site) (reading, error)
}

// reading is what one run of a measure gives.
type reading struct {
	values []float64 // in the order of the measure's names
	lost   float64   // of the frames sent, in percent
}

func one(f func(*site) (float64, error)) func(*site) (reading, error) {
	return func(s *site) (reading, error) {
		v, err := f(s)
		return reading{values: []float64{v}}, err
	}
}

func packets(only []string, t Traffic) measure {
	return measure{"packets", []string{t.String() + ", kpps"}, only, nil, func(s *site) (reading, error) { return packetRate(s, t) }}
}

// connections are asked of a server, each with one request; beside the rate stands
// the time that all processors together were busy for each.
func connections(srv server, name string, only []string, need func() error) measure {
	app, _, _ := strings.Cut(name, " ")
	return measure{"connections", []string{name, app + ": processor time of the whole machine a connection, µs"}, only, need,
		func(s *site) (reading, error) { return connectionRate(s, srv) }}
}

// flatMeasure is where the number of statements and rules is varied.
var flatMeasure = packets(nil, Traffic{Flows: 1000, Size: smallFrame})

var measures = []measure{
	packets(mainVariants, Traffic{Flows: 1, Size: smallFrame}),
	flatMeasure,
	packets(mainVariants, Traffic{Flows: 1000, Size: smallFrame, IPv6: true}),
	packets(mainVariants, Traffic{Flows: 60000, Size: smallFrame, Order: InBursts}),
	packets(mainVariants, Traffic{Flows: 60000, Size: smallFrame, Order: InRandomOrder}),
	packets(mainVariants, Traffic{Flows: 1000}),
	packets(mainVariants, Traffic{Flows: 1000, Size: largeFrame}),
	{"tcp", []string{bulkMeasure}, nil, nil, one(bulkRate)},
	{"latency", []string{p50Measure, p99Measure}, nil, nil, func(s *site) (reading, error) {
		p50, p99, err := roundTrips(s)
		return reading{values: []float64{p50, p99}}, err
	}},
	connections(httpServer, httpMeasure, nil, nil),
	connections(redisServer, redisMeasure, nil, nil),
	connections(postgresql, postgresqlMeasure, connectionVariants, needPostgreSQL),
	{"flows", []string{newFlowsMeasure}, nil, nil, newFlowRate},
	{"flows", []string{calmMeasure, floodMeasure, calmUsedMeasure, floodUsedMeasure}, nil, nil, rateUnderFlood},
	{"flows", []string{pacedMeasure}, nil, nil, arrivalUnderFlood},
}

const (
	bulkMeasure  = "TCP bulk, Mbit/s"
	p50Measure   = "request-response p50, µs"
	p99Measure   = "request-response p99, µs"
	httpMeasure  = "HTTP connections/s, app-ID on"
	redisMeasure = "Redis connections/s, app-ID on"
	// PostgreSQL takes most of the machine for itself: what the way costs is a small part.
	postgresqlMeasure = "PostgreSQL connections/s, app-ID on"
	newFlowsMeasure   = "new flows/s, every packet a new flow"
	calmMeasure       = "1,000 flows from A to B, kpps"
	floodMeasure      = "the same while B floods A with new flows, kpps"
	// By second of the sender's processor time: what it does not get of its core,
	// because the flood's sender and the gateway want it too, is left out.
	calmUsedMeasure  = "1,000 flows from A to B, by second of the sender's processor time, kpps"
	floodUsedMeasure = "the same while B floods A with new flows, by second of the sender's processor time, kpps"
	pacedMeasure     = "arrived of 1,000 flows at half the pace that A can send, while B floods A, %"
)

// Figure is one measure of one variant over all rounds.
type Figure struct {
	Measure string    `json:"measure"`
	Variant string    `json:"variant"`
	Name    string    `json:"name"` // of the variant, from Variants
	Min     float64   `json:"min"`
	Median  float64   `json:"median"`
	Max     float64   `json:"max"`
	Ratio   float64   `json:"ratio"`          // of medians, to the plain bridge; of latencies too, so there less is better
	Lost    float64   `json:"lost,omitempty"` // of the frames sent, in percent, the median
	Rounds  []float64 `json:"rounds"`
}

// Report is one run of a topic.
type Report struct {
	Topic   string    `json:"topic"`
	When    time.Time `json:"when"`
	Kernel  string    `json:"kernel"`
	CPU     string    `json:"cpu"`
	Cores   int       `json:"cores"`
	Go      string    `json:"go"`
	Command string    `json:"command"`
	Rounds  int       `json:"rounds"`
	Figures []Figure  `json:"figures"`
	// Gateways says by variant what its gateway did.
	Gateways map[string]GatewayCounts `json:"gateways"`
	// Skipped are variants that this machine does not have, and why.
	Skipped []string `json:"skipped,omitempty"`
	// Faults are variants that failed, and why; a figure of theirs has fewer
	// rounds than the others, or is missing.
	Faults []string `json:"faults,omitempty"`
}

// Run builds the sites of a topic, measures, and takes everything down again. It
// needs root. A variant that fails is left out from there on, and named in the
// report; without the plain bridge there is none. Cancelling ctx ends it after
// the measurement under way.
func Run(ctx context.Context, cfg Config) (r *Report, err error) { return run(ctx, cfg, fullLoad) }

// load is how long each measurement takes.
type load struct {
	warmUp, packets, bulk, http time.Duration
	echoes                      int
	flows                       int // at most
}

var fullLoad = load{
	warmUp:  200 * time.Millisecond,
	packets: 600 * time.Millisecond,
	bulk:    time.Second,
	http:    time.Second,
	echoes:  8000,
	flows:   MaxFlows,
}

// a run of one topic.
type benchRun struct {
	cfg     Config
	chosen  []variant
	sites   []*site // in the order of chosen; nil = left out
	samples map[sample][]reading
	report  *Report
}

type sample struct {
	measure int // of the wanted
	variant string
}

func run(ctx context.Context, cfg Config, size load) (r *Report, err error) {
	chosen, err := choose(cfg.Topic, cfg.Variants)
	if err != nil {
		return nil, err
	}
	wanted, err := chooseMeasures(cfg)
	if err != nil {
		return nil, err
	}
	wanted, lacking := available(wanted)
	release, err := alone()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	b := &benchRun{cfg: cfg, chosen: chosen, sites: make([]*site, len(chosen)), samples: map[sample][]reading{}, report: newReport(cfg)}
	b.report.Skipped = lacking
	defer func() {
		for i, s := range b.sites {
			if s != nil {
				b.drop(i)
			}
		}
	}()
	for i := range chosen {
		if err := b.build(i, size); err != nil {
			return nil, err
		}
	}
	for round := range cfg.Rounds {
		if err := b.round(ctx, round, wanted); err != nil {
			return nil, err
		}
		if cfg.Progress != nil {
			fmt.Fprintf(cfg.Progress, "%s: round %d of %d\n", cfg.Topic, round+1, cfg.Rounds)
		}
	}
	b.report.figures(wanted, chosen, b.samples)
	return b.report, b.countGateways()
}

// build makes the site of the i-th variant, or leaves it out and says why.
func (b *benchRun) build(i int, size load) error {
	v := &b.chosen[i]
	s, err := newSite(v.name)
	if err != nil {
		return err
	}
	b.sites[i] = s
	s.load = size
	err = v.begin(s, b.cfg)
	if errors.Is(err, exec.ErrNotFound) {
		b.report.Skipped = append(b.report.Skipped, fmt.Sprintf("%s: %v", v.title, err))
		b.drop(i)
		return nil
	}
	return b.judge(i, err)
}

// judge leaves a variant out that failed. Ratios need the plain bridge.
func (b *benchRun) judge(i int, err error) error {
	if err == nil {
		return nil
	}
	fault := fmt.Errorf("%s: %w", b.chosen[i].title, err)
	if b.chosen[i].name == Baseline {
		return fault
	}
	b.report.Faults = append(b.report.Faults, fault.Error())
	b.drop(i)
	return nil
}

// drop takes a site down. What was measured on it stays.
func (b *benchRun) drop(i int) {
	s := b.sites[i]
	b.sites[i] = nil
	if err := s.close(); err != nil {
		b.report.Faults = append(b.report.Faults, fmt.Sprintf("%s, taken down: %v", b.chosen[i].title, err))
	}
}

// round measures everything once. Each round begins with another variant, so
// that none always follows the same.
func (b *benchRun) round(ctx context.Context, round int, wanted []measure) error {
	for n, m := range wanted {
		for turn := range b.chosen {
			i := (turn + round) % len(b.chosen)
			name := b.chosen[i].name
			if b.sites[i] == nil || m.only != nil && !slices.Contains(m.only, name) {
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			got, err := m.run(b.sites[i])
			if err != nil {
				if err := b.judge(i, fmt.Errorf("%s: %w", m.names[0], err)); err != nil {
					return err
				}
				continue
			}
			b.samples[sample{n, name}] = append(b.samples[sample{n, name}], got)
		}
	}
	return nil
}

func (b *benchRun) countGateways() (err error) {
	for i, v := range b.chosen {
		if s := b.sites[i]; s != nil && s.gateway != nil {
			if b.report.Gateways[v.name], err = s.gateway.counts(); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin makes a site the variant.
func (v *variant) begin(s *site, cfg Config) (err error) {
	if v.prepare != nil {
		err = v.prepare(s)
	}
	if err != nil || v.gateway == nil {
		return err
	}
	r := *v.gateway
	r.Site, r.Host, r.VethA, r.VethB = s.name, s.host, s.ifindexA, s.ifindexB
	if cfg.Traffic != nil {
		r.Flows = cfg.Traffic.Flows
	}
	s.gateway, err = startGateway(cfg.Gateway(v.name), r)
	if err == nil {
		s.teardown = append(s.teardown, s.gateway.stop)
	}
	return err
}

func (v *variant) measures(topic string) bool {
	return v.topics == nil || slices.Contains(v.topics, topic)
}

func chooseMeasures(cfg Config) ([]measure, error) {
	if cfg.Traffic != nil {
		if cfg.Topic != "packets" {
			return nil, fmt.Errorf("topic %s has no traffic to choose: packets has", cfg.Topic)
		}
		if err := cfg.Traffic.Check(); err != nil {
			return nil, err
		}
		return []measure{packets(nil, *cfg.Traffic)}, nil
	}
	var out []measure
	for _, m := range measures {
		if m.topic == cfg.Topic {
			out = append(out, m)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("topic %q is none of %s", cfg.Topic, strings.Join(Topics(), ", "))
	}
	return out, nil
}

// choose returns the named variants, or all, that measure a topic.
func choose(topic string, names []string) (out []variant, err error) {
	for _, name := range names {
		if !slices.ContainsFunc(variants, func(v variant) bool { return v.name == name }) {
			return nil, fmt.Errorf("variant %q is none of %s", name, strings.Join(Variants(), ", "))
		}
	}
	for _, v := range variants {
		if v.measures(topic) && (len(names) == 0 || slices.Contains(names, v.name)) {
			out = append(out, v)
		}
	}
	return out, nil
}

// Estimate is how long a topic takes here, but for a machine that is slower or
// busier than the one that the figures are of.
func Estimate(topic string, rounds int) time.Duration {
	const (
		standUp = 700 * time.Millisecond // a site or gateway, and down again
		around  = 600 * time.Millisecond // a measurement's own sink, generator and the flows' beginning
	)
	chosen, _ := choose(topic, nil)
	total := time.Duration(len(chosen)) * standUp
	for _, m := range measures {
		if m.topic != topic {
			continue
		}
		for _, v := range chosen {
			if m.only == nil || slices.Contains(m.only, v.name) {
				total += time.Duration(rounds) * (around + fullLoad.of(topic))
			}
		}
	}
	return total
}

// of is how long one measurement of a topic lasts, at most.
func (l *load) of(topic string) time.Duration {
	switch topic {
	case "tcp":
		return l.bulk
	case "connections":
		return l.http
	case "latency":
		return 0
	}
	return l.warmUp + l.packets
}

// available leaves measures out that the machine cannot do, and says why.
func available(wanted []measure) (out []measure, lacking []string) {
	for _, m := range wanted {
		if m.need != nil {
			if err := m.need(); err != nil {
				lacking = append(lacking, fmt.Sprintf("%s: %v", m.names[0], err))
				continue
			}
		}
		out = append(out, m)
	}
	return out, lacking
}

func newReport(cfg Config) *Report {
	return &Report{Topic: cfg.Topic, When: time.Now().UTC().Truncate(time.Second), Kernel: kernel(), CPU: cpuModel(), Cores: runtime.NumCPU(),
		Go: runtime.Version(), Rounds: cfg.Rounds, Gateways: map[string]GatewayCounts{}}
}

// figures fills in what the readings come to.
func (r *Report) figures(wanted []measure, chosen []variant, samples map[sample][]reading) {
	for n, m := range wanted {
		for j, name := range m.names {
			base := median(valuesOf(samples[sample{n, Baseline}], j))
			for _, v := range chosen {
				readings := samples[sample{n, v.name}]
				if len(readings) == 0 {
					continue
				}
				got := valuesOf(readings, j)
				f := Figure{Measure: name, Variant: v.title, Name: v.name, Min: slices.Min(got), Median: median(got), Max: slices.Max(got), Lost: medianLoss(readings), Rounds: got}
				if base > 0 {
					f.Ratio = f.Median / base
				}
				r.Figures = append(r.Figures, f)
			}
		}
	}
}

func valuesOf(readings []reading, j int) (out []float64) {
	for _, x := range readings {
		out = append(out, x.values[j])
	}
	return out
}

func medianLoss(readings []reading) float64 {
	var lost []float64
	for _, x := range readings {
		lost = append(lost, x.lost)
	}
	return median(lost)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.SplitSeq(string(data), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// Markdown writes the report as a page: one table a measure.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n`%s` on %s: kernel %s, %d cores (%s), %s. %d interleaved rounds; ratios of medians to the plain bridge of the same run.\n",
		topicTitles[r.Topic], r.Command, r.When.Format(time.DateOnly), r.Kernel, r.Cores, r.CPU, r.Go, r.Rounds)
	fmt.Fprintf(&b, "\n%s %s\n", howSites, howMeasured[r.Topic])
	for _, v := range variants {
		if g, ok := r.Gateways[v.name]; ok {
			fmt.Fprintf(&b, "\n%s: %d packets went to user space (%d more found no room), %d were carried by the flow map; %d in all went past the bridge; %d flows were decided and handed over.\n",
				v.title, g.Steered-min(g.Steered, g.NoFrame), g.NoFrame, g.Hits, g.Peer, g.Offloaded)
		}
	}
	for _, text := range r.Skipped {
		fmt.Fprintf(&b, "\nNot on this machine: %s.\n", text)
	}
	for _, text := range r.Faults {
		fmt.Fprintf(&b, "\nFailed: %s.\n", text)
	}
	counted := r.Topic == "packets" || r.Topic == "flows"
	last := ""
	for _, f := range r.Figures {
		if f.Measure != last {
			fmt.Fprintf(&b, "\n## %s\n\n| variant | min | median | max | ratio |%s\n|---|---:|---:|---:|---:|%s\n", f.Measure, onlyIf(counted, " lost |"), onlyIf(counted, "---:|"))
			last = f.Measure
		}
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %.2f |%s\n", f.Variant, f.Min, f.Median, f.Max, f.Ratio, onlyIf(counted, fmt.Sprintf(" %.1f %% |", f.Lost)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func onlyIf(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

var topicTitles = map[string]string{"packets": "Packets", "tcp": "TCP bulk", "latency": "Latency", "connections": "Connections", "flows": "New flows"}

const howSites = "Each variant is two containers, A and B, on a bridge of its own, in namespaces, with the offloads that Docker leaves them; bridged packets meet iptables in the variants that name conntrack or Suricata alone. Each gateway is a process of its own with all checks on: sources (MAC and address), epoch, counters, TCP state, the standing default of the bridge. The plain bridge once more is the same as the plain bridge: what its ratio is away from 1.00 is this machine's noise."

// howMeasured says of each topic where its figures come from.
var howMeasured = map[string]string{
	"packets":     "Packets are real socket buffers that an AF_XDP generator makes in A and a tcx program counts and drops at B's eth0, generator, bridge and sink on core 0; between two interfaces there is no bridge, and XDP sends from the one to the other; the generator alone has its packets counted and dropped at the host's end of A's veth, and is as fast as anything here can be. Lost is the share of the packets sent that had not arrived 20 ms after the last; a packet that goes to user space is lost where the worker does not keep up. Where every packet is to go there, all flows are handed over as those are whose packets the classifier wants to see: each packet is judged, and goes past the bridge once that has proved to deliver them. One-way UDP stays new to conntrack, so each packet walks the list of rules; an established flow meets its first rule alone.",
	"tcp":         "One stream, the client on core 0, the server on core 1, system calls that block.",
	"latency":     "64 bytes each way on one connection, client and server on core 0, system calls that block. Across cores the wake-up of a sleeping core is most of what a guest would measure.",
	"connections": "Eight dialers, a connection for each request, closed with RST; clients and servers are one Go program on all cores, and so is the gateway's worker; PostgreSQL is Debian's server, a process for each connection, which is asked for one row. Processor time is what all cores together were not idle (/proc/stat, so with all else that runs on the machine) by connection; less is better. Gatehouse allows the port to its application alone, which it finds in each flow; Suricata drops what is not HTTP on the port of HTTP, and has no parser for Redis; iptables and nftables look at addresses and ports.",
	"flows":       "A generator in B sends 64-byte UDP to A, each packet a flow of its own; new flows are those whose packet arrived. A plain way carries every packet. Lost are new flows that found the worker busy, or the endpoint's budget of misses used up. In the others the flood comes from core 1 and meets 1,000 flows that A sends from core 0, as fast as it can, before the flood and during it. On two cores the flood's sender and the gateway's worker take time of core 0 from A: by second of A's own processor time, the way's share in what flows of others lose is left. The last is what arrives of packets that A sends at half that pace, by the clock; what a way loses is lost there, what A could not send in time is not there either.",
}

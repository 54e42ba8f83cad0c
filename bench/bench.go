// Package bench measures Gatehouse beside its peers: two "containers" in
// namespaces of their own for each variant, all variants standing side by side,
// the measurements interleaved round by round so that a noisy machine is noisy
// for all of them. What counts is the ratio to the plain bridge in the same run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane/steer"
)

// Config says what to run.
type Config struct {
	Rounds   int       // at least 1
	Topics   []string  // names from Topics; empty = all
	Variants []string  // names from Variants; empty = all
	Progress io.Writer // one line a round; nil = silent
	// Gateway are the arguments with which this very program calls ServeGateway.
	Gateway []string
}

// Baseline is the variant that ratios are against.
const Baseline = "bridge"

// Variants are the ways from A to B that are measured.
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

var variants = []variant{
	{name: Baseline, title: "plain bridge"},
	{name: "iptables10", title: "bridge + conntrack + 10 iptables rules", prepare: func(s *site) error { return iptables(s, 10) }},
	{name: "iptables1000", title: "bridge + conntrack + 1,000 iptables rules", prepare: func(s *site) error { return iptables(s, 1000) }},
	{name: "iptables10000", title: "bridge + conntrack + 10,000 iptables rules", prepare: func(s *site) error { return iptables(s, 10000) }},
	{name: "nftmap", title: "bridge + conntrack + nftables verdict map of 10,000", prepare: func(s *site) error { return nftMap(s, 10000) }},
	{name: "gatehouse", title: "Gatehouse, decided flows in the kernel", gateway: &gatewayRequest{Offload: true}},
	{name: "gatehouse10", title: "Gatehouse with 10 statements more", gateway: &gatewayRequest{Offload: true, Statements: 10}, topics: []string{"packets", "flows"}},
	{name: "gatehouse1000", title: "Gatehouse with 1,000 statements more", gateway: &gatewayRequest{Offload: true, Statements: 1000}, topics: []string{"packets", "flows"}},
	{name: "gatehouse10000", title: "Gatehouse with 10,000 statements more", gateway: &gatewayRequest{Offload: true, Statements: 10000}, topics: []string{"packets", "flows"}},
	{name: "limited", title: "Gatehouse, 50,000 misses a second and endpoint", gateway: &gatewayRequest{Offload: true, MissBudget: steer.DefaultMissBudget}, topics: []string{"flows"}},
	{name: "userspace", title: "Gatehouse, every packet in user space", gateway: &gatewayRequest{}, topics: []string{"packets", "tcp", "latency", "connections"}},
	{name: "tap", title: "Gatehouse, every packet in user space, by a TAP", gateway: &gatewayRequest{TAP: true}, topics: []string{"packets", "tcp", "latency", "connections"}},
}

// iptables makes the host side what Docker's users run: bridged packets meet
// iptables with conntrack, established flows are accepted first, new ones walk
// n rules before the one that fits.
func iptables(s *site, n int) error {
	var rules strings.Builder
	rules.WriteString("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n")
	for i := range n {
		fmt.Fprintf(&rules, "-A FORWARD -s 10.98.%d.%d/32 -p tcp --dport %d -j ACCEPT\n", i/250, i%250+1, 1000+i)
	}
	rules.WriteString("-A FORWARD -s 10.99.0.0/24 -d 10.99.0.0/24 -j ACCEPT\nCOMMIT\n")
	return errors.Join(inside(s.host, func() error { return bridgeNetfilter("1") }), s.command(rules.String(), "iptables-restore"))
}

// nftMap is the same with a verdict map in place of the list: one lookup
// whatever its size.
func nftMap(s *site, n int) error {
	var rules strings.Builder
	rules.WriteString("table ip bench {\n map verdicts { type ipv4_addr . ipv4_addr . inet_proto . inet_service : verdict; flags interval; elements = {\n")
	for i := range n {
		fmt.Fprintf(&rules, "10.98.%d.%d . 10.99.0.2 . tcp . %d : accept,\n", i/250, i%250+1, 1000+i)
	}
	rules.WriteString("10.99.0.1 . 10.99.0.2 . tcp . 1-65535 : accept, 10.99.0.1 . 10.99.0.2 . udp . 1-65535 : accept } }\n" +
		" chain forward { type filter hook forward priority 0; policy drop;\n ct state established,related accept\n ip saddr . ip daddr . meta l4proto . th dport vmap @verdicts\n }\n}\n")
	return errors.Join(inside(s.host, func() error { return bridgeNetfilter("1") }), s.command(rules.String(), "nft", "-f", "-"))
}

// measure is one figure, or two that one run gives.
type measure struct {
	topic string
	names []string // with the unit
	run   func(*site) ([]float64, error)
}

func one(f func(*site) (float64, error)) func(*site) ([]float64, error) {
	return func(s *site) ([]float64, error) {
		v, err := f(s)
		return []float64{v}, err
	}
}

func packets(name string, t traffic) measure {
	return measure{"packets", []string{name}, one(func(s *site) (float64, error) { return packetRate(s, t) })}
}

var small = []int{smallFrame}

var measures = []measure{
	packets("64-byte UDP, 1 flow, kpps", traffic{flows: 1, sizes: small}),
	packets("64-byte UDP, 1,000 flows, kpps", traffic{flows: 1000, sizes: small}),
	packets("64-byte UDP over IPv6, 1,000 flows, kpps", traffic{flows: 1000, v6: true, sizes: []int{62}}),
	packets("64-byte UDP, 60,000 flows in bursts of 8, kpps", traffic{flows: 60000, order: inBursts, sizes: small}),
	packets("64-byte UDP, 60,000 flows in random order, kpps", traffic{flows: 60000, order: shuffled, sizes: small}),
	packets("IMIX, 1,000 flows, kpps", traffic{flows: 1000, sizes: imix[:]}),
	packets("1,518-byte UDP, 1,000 flows, kpps", traffic{flows: 1000, sizes: []int{largeFrame}}),
	{"tcp", []string{"TCP bulk, Mbit/s"}, one(bulkRate)},
	{"latency", []string{"request-response p50, µs", "request-response p99, µs"}, func(s *site) ([]float64, error) {
		p50, p99, err := roundTrips(s)
		return []float64{p50, p99}, err
	}},
	{"connections", []string{"HTTP connections/s, app-ID on"}, one(func(s *site) (float64, error) { return connectionRate(s, httpServer) })},
	{"connections", []string{"Redis connections/s, app-ID on"}, one(func(s *site) (float64, error) { return connectionRate(s, redisServer) })},
	{"flows", []string{"new flows/s, every packet a new flow"}, one(newFlowRate)},
	{"flows", []string{"1,000 flows from A to B while B floods A with new flows, kpps"}, one(rateUnderFlood)},
}

// Figure is one measure of one variant over all rounds.
type Figure struct {
	Measure string    `json:"measure"`
	Variant string    `json:"variant"`
	Min     float64   `json:"min"`
	Median  float64   `json:"median"`
	Max     float64   `json:"max"`
	Ratio   float64   `json:"ratio"` // of medians, to the plain bridge; of latencies too, so there less is better
	Rounds  []float64 `json:"rounds"`
}

// Report is one run.
type Report struct {
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
}

// Run builds the sites, measures, and takes everything down again. It needs
// root. Cancelling ctx ends it after the measurement under way.
func Run(ctx context.Context, cfg Config) (r *Report, err error) { return run(ctx, cfg, fullLoad) }

// load is how long each measurement takes.
type load struct {
	warmUp, packets, bulk, http time.Duration
	echoes                      int
	flows                       int // at most
}

var fullLoad = load{
	warmUp:  300 * time.Millisecond,
	packets: time.Second,
	bulk:    1500 * time.Millisecond,
	http:    1500 * time.Millisecond,
	echoes:  8000,
	flows:   portsPerTurn * packetPorts,
}

func run(ctx context.Context, cfg Config, size load) (r *Report, err error) {
	chosen, err := choose(cfg.Variants)
	if err != nil {
		return nil, err
	}
	wanted, err := chooseMeasures(cfg.Topics)
	if err != nil {
		return nil, err
	}
	sites := make([]*site, len(chosen))
	defer func() {
		for _, s := range sites {
			if s != nil {
				err = errors.Join(err, s.close())
			}
		}
	}()
	for i, v := range chosen {
		if sites[i], err = newSite(v.name); err != nil {
			return nil, err
		}
		sites[i].load = size
		if err = v.begin(sites[i], cfg.Gateway); err != nil {
			return nil, fmt.Errorf("variant %s: %w", v.name, err)
		}
	}
	samples := map[[2]string][]float64{}
	for round := range cfg.Rounds {
		for _, m := range wanted {
			for i, v := range chosen {
				if !v.measures(m.topic) {
					continue
				}
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				values, err := m.run(sites[i])
				if err != nil {
					return nil, fmt.Errorf("variant %s, %s: %w", v.name, m.names[0], err)
				}
				for j, name := range m.names {
					samples[[2]string{name, v.name}] = append(samples[[2]string{name, v.name}], values[j])
				}
			}
		}
		if cfg.Progress != nil {
			fmt.Fprintf(cfg.Progress, "round %d of %d\n", round+1, cfg.Rounds)
		}
	}
	r = report(cfg.Rounds, wanted, chosen, samples)
	r.Gateways = map[string]GatewayCounts{}
	for i, v := range chosen {
		if p := sites[i].gateway; p != nil {
			if r.Gateways[v.name], err = p.counts(); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// begin makes a site the variant.
func (v *variant) begin(s *site, gateway []string) (err error) {
	if v.prepare != nil {
		return v.prepare(s)
	}
	if v.gateway == nil {
		return nil
	}
	r := *v.gateway
	r.Site, r.Host, r.VethA, r.VethB = s.name, s.host, s.ifindexA, s.ifindexB
	s.gateway, err = startGateway(gateway, r)
	if err == nil {
		s.teardown = append(s.teardown, s.gateway.stop)
	}
	return err
}

func (v *variant) measures(topic string) bool {
	return v.topics == nil || slices.Contains(v.topics, topic)
}

func chooseMeasures(topics []string) ([]measure, error) {
	for _, t := range topics {
		if !slices.Contains(Topics(), t) {
			return nil, fmt.Errorf("topic %q is none of %s", t, strings.Join(Topics(), ", "))
		}
	}
	var out []measure
	for _, m := range measures {
		if len(topics) == 0 || slices.Contains(topics, m.topic) {
			out = append(out, m)
		}
	}
	return out, nil
}

func choose(names []string) ([]variant, error) {
	if len(names) == 0 {
		return variants, nil
	}
	var out []variant
	for _, name := range names {
		i := slices.IndexFunc(variants, func(v variant) bool { return v.name == name })
		if i < 0 {
			return nil, fmt.Errorf("variant %q is none of %s", name, strings.Join(Variants(), ", "))
		}
		out = append(out, variants[i])
	}
	return out, nil
}

func report(rounds int, measures []measure, chosen []variant, samples map[[2]string][]float64) *Report {
	r := &Report{When: time.Now().UTC().Truncate(time.Second), Kernel: kernel(), CPU: cpuModel(), Cores: runtime.NumCPU(), Go: runtime.Version(), Rounds: rounds}
	for _, m := range measures {
		for _, name := range m.names {
			base := median(samples[[2]string{name, Baseline}])
			for _, v := range chosen {
				got := samples[[2]string{name, v.name}]
				if len(got) == 0 {
					continue
				}
				f := Figure{Measure: name, Variant: v.title, Min: slices.Min(got), Median: median(got), Max: slices.Max(got), Rounds: got}
				if base > 0 {
					f.Ratio = f.Median / base
				}
				r.Figures = append(r.Figures, f)
			}
		}
	}
	return r
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
	fmt.Fprintf(&b, "# Results\n\n`%s` on %s: kernel %s, %d cores (%s), %s. %d interleaved rounds; ratios of medians to the plain bridge of the same run.\n",
		r.Command, r.When.Format(time.DateOnly), r.Kernel, r.Cores, r.CPU, r.Go, r.Rounds)
	b.WriteString("\nEach variant is two containers on a bridge of its own, in namespaces; bridged packets meet iptables in the iptables variants alone, and each gateway is a process of its own. Packets are real socket buffers that an AF_XDP generator makes in A and a tcx program counts at B's eth0, both on core 0; the streams are Go clients and servers.\n")
	for _, v := range variants {
		if g, ok := r.Gateways[v.name]; ok {
			fmt.Fprintf(&b, "\n%s: %d packets went to user space (%d more found no room), %d were carried by the flow map, %d of them past the bridge; %d flows were decided and handed over.\n",
				v.title, g.Steered-min(g.Steered, g.NoFrame), g.NoFrame, g.Hits, g.Peer, g.Offloaded)
		}
	}
	last := ""
	for _, f := range r.Figures {
		if f.Measure != last {
			fmt.Fprintf(&b, "\n## %s\n\n| variant | min | median | max | ratio |\n|---|---:|---:|---:|---:|\n", f.Measure)
			last = f.Measure
		}
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %.2f |\n", f.Variant, f.Min, f.Median, f.Max, f.Ratio)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

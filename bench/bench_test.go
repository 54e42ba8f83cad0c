package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// gatewayArgument makes the test binary a gateway.
const gatewayArgument = "bench-gateway"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == gatewayArgument {
		if err := ServeGateway(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		in   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		in := slices.Clone(tc.in)
		if got := median(in); got != tc.want || !slices.Equal(in, tc.in) {
			t.Errorf("median of %v is %v, want %v; left %v", tc.in, got, tc.want, in)
		}
	}
}

func TestPassage(t *testing.T) {
	for _, tc := range []struct {
		name                string
		p                   passage
		kpps, used, percent float64
	}{
		{"all arrived", passage{sent: 1000, arrived: 1000, elapsed: time.Second, used: time.Second}, 1, 1, 0},
		{"the core was another's for half the time", passage{sent: 1000, arrived: 1000, elapsed: time.Second, used: time.Second / 2}, 1, 2, 0},
		{"some were late", passage{sent: 1000, arrived: 900, late: 100, elapsed: time.Second, used: time.Second}, 0.9, 0.9, 0},
		{"some were lost", passage{sent: 1000, arrived: 700, late: 50, elapsed: time.Second, used: time.Second}, 0.7, 0.7, 25},
		{"others' frames arrived too", passage{sent: 1000, arrived: 1010, elapsed: time.Second, used: time.Second}, 1.01, 1.01, 0},
	} {
		if kpps, used, percent := tc.p.kpps(), tc.p.kppsUsed(), tc.p.lost(); kpps != tc.kpps || used != tc.used || percent != tc.percent {
			t.Errorf("%s: %v kpps, %v by processor time, %v %% lost; want %v, %v and %v", tc.name, kpps, used, percent, tc.kpps, tc.used, tc.percent)
		}
	}
}

func TestChoose(t *testing.T) {
	for _, tc := range []struct {
		topic string
		names []string
		want  string
	}{
		{"tcp", []string{"userspace", "bridge"}, "bridge userspace"},
		{"packets", []string{"generator", "limited", "pair", "tap"}, "generator tap pair"},
		{"flows", nil, "bridge bridge2 iptables10 iptables1000 iptables10000 nftmap gatehouse gatehouse10 gatehouse1000 gatehouse10000 limited"},
	} {
		chosen, err := choose(tc.topic, tc.names)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range chosen {
			got = append(got, v.name)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s of %v: got %v, want %s", tc.topic, tc.names, got, tc.want)
		}
	}
	if _, err := choose("tcp", []string{"bridge", "nftables"}); err == nil || !strings.Contains(err.Error(), `"nftables"`) {
		t.Errorf("unknown variant: %v", err)
	}
	if _, err := chooseMeasures(Config{Topic: "speed"}); err == nil || !strings.Contains(err.Error(), `"speed"`) {
		t.Errorf("unknown topic: %v", err)
	}
}

func TestTraffic(t *testing.T) {
	for _, tc := range []struct {
		traffic Traffic
		want    string
		frames  string // the first three
	}{
		{Traffic{Flows: 1, Size: 64}, "64-byte UDP, 1 flow", "[60 60 60]"},
		{Traffic{Flows: 1_000_000, Size: 64, IPv6: true, Order: InRandomOrder}, "64-byte UDP over IPv6, 1,000,000 flows in random order", "[62 62 62]"},
		{Traffic{Flows: 1600, Size: 1518, Order: InBursts}, "1,518-byte UDP, 1,600 flows in bursts of 8", "[1514 1514 1514]"},
		{Traffic{Flows: 2}, "IMIX, 2 flows", "[60 590 60]"},
	} {
		frames := fmt.Sprint([]int{tc.traffic.frame(0), tc.traffic.frame(1), tc.traffic.frame(2)})
		if got := tc.traffic.String(); got != tc.want || frames != tc.frames || tc.traffic.Check() != nil {
			t.Errorf("%+v is %q of %s: %v; want %q of %s", tc.traffic, got, frames, tc.traffic.Check(), tc.want, tc.frames)
		}
	}
	for _, bad := range []Traffic{{Flows: 0}, {Flows: MaxFlows + 1}, {Flows: 1, Size: 63}, {Flows: 1, Size: 1519}, {Flows: 1, Order: "reverse"}} {
		if bad.Check() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, err := chooseMeasures(Config{Topic: "tcp", Traffic: &Traffic{Flows: 1}}); err == nil {
		t.Error("TCP took a choice of packets")
	}
}

// alike gives every measure the readings of two variants.
func alike(wanted []measure, byVariant map[string][]float64) map[sample][]reading {
	samples := map[sample][]reading{}
	for n, m := range wanted {
		for name, values := range byVariant {
			for _, v := range values {
				samples[sample{n, name}] = append(samples[sample{n, name}], reading{values: slices.Repeat([]float64{v}, len(m.names)), lost: v / 10})
			}
		}
	}
	return samples
}

func TestReport(t *testing.T) {
	chosen, err := choose("packets", []string{"bridge", "gatehouse"})
	if err != nil {
		t.Fatal(err)
	}
	r := newReport(Config{Topic: "packets", Rounds: 3})
	r.figures(measures, chosen, alike(measures, map[string][]float64{"bridge": {10, 30, 20}, "gatehouse": {28, 24, 26}}))
	r.Command = "gatehouse bench packets"
	r.Gateways = map[string]GatewayCounts{"gatehouse": {Steered: 50, NoFrame: 8, Hits: 900, Peer: 700, Offloaded: 12}}
	r.Skipped, r.Faults = []string{"bridge + Suricata: not found"}, []string{"a TAP: broke"}
	for i, f := range r.Figures {
		want := Figure{Measure: f.Measure, Variant: chosen[i%2].title, Name: chosen[i%2].name, Min: 10, Median: 20, Max: 30, Ratio: 1, Lost: 2}
		if i%2 == 1 {
			want.Min, want.Median, want.Max, want.Ratio, want.Lost = 24, 26, 28, 1.3, 2.6
		}
		f.Rounds = nil
		if fmt.Sprint(f) != fmt.Sprint(want) {
			t.Errorf("figure %d: %+v, want %+v", i, f, want)
		}
	}
	var page bytes.Buffer
	if err := r.Markdown(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Packets\n", "`gatehouse bench packets`", "3 interleaved rounds", "kernel: 42 packets went to user space (8 more found no room), 900 were carried",
		"Not on this machine: bridge + Suricata: not found.", "Failed: a TAP: broke.",
		"## IMIX, 1,000 flows, kpps\n", "| plain bridge | 10.0 | 20.0 | 30.0 | 1.00 | 2.0 % |\n", "| 24.0 | 26.0 | 28.0 | 1.30 | 2.6 % |\n"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, &page)
		}
	}
}

// TestWithoutBaseline: a run that leaves the plain bridge out has no ratios.
func TestWithoutBaseline(t *testing.T) {
	chosen, err := choose("packets", []string{"gatehouse"})
	if err != nil {
		t.Fatal(err)
	}
	r := newReport(Config{Topic: "packets", Rounds: 1})
	r.figures(measures, chosen, alike(measures, map[string][]float64{"gatehouse": {5}}))
	for _, f := range r.Figures {
		if f.Ratio != 0 || f.Median != 5 {
			t.Errorf("%+v", f)
		}
	}
}

// TestRound runs every measurement once, briefly: the gateways must have
// carried what was measured.
func TestRound(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	brief := load{warmUp: 200 * time.Millisecond, packets: 300 * time.Millisecond, bulk: 100 * time.Millisecond, http: 200 * time.Millisecond, echoes: 100, flows: 2000}
	for _, topic := range Topics() {
		t.Run(topic, func(t *testing.T) { testRound(t, topic, brief) })
	}
}

func testRound(t *testing.T, topic string, brief load) {
	faults := roundFaults(t, topic, brief)
	if len(faults) > 0 { // a busy machine may leave a process no time within so short a window
		t.Logf("measured again, for longer: %s", strings.Join(faults, "; "))
		long := brief
		long.warmUp, long.packets, long.bulk, long.http = 5*brief.warmUp, 10*brief.packets, 10*brief.bulk, 10*brief.http
		faults = roundFaults(t, topic, long)
	}
	for _, f := range faults {
		t.Error(f)
	}
	if left, err := os.ReadDir("/sys/fs/bpf/ghb-gatehouse"); err == nil {
		t.Errorf("pins were left behind: %v", left)
	}
}

// roundFaults measures once, and says what is wrong with the figures and counters.
func roundFaults(t *testing.T, topic string, l load) (faults []string) {
	t.Helper()
	r, err := run(context.Background(), Config{
		Rounds:   1,
		Topic:    topic,
		Variants: []string{"bridge", "generator", "suricata", "gatehouse", "userspace", "pair"},
		Gateway:  func(string) []string { return []string{gatewayArgument} },
	}, l)
	if err != nil {
		t.Fatal(err)
	}
	fault := func(format string, of ...any) { faults = append(faults, fmt.Sprintf(format, of...)) }
	if len(r.Faults) > 0 {
		fault("failed: %v", r.Faults)
	}
	if len(r.Skipped) > 0 {
		t.Logf("left out: %v", r.Skipped)
	}
	for _, f := range r.Figures {
		// The counters below tell that the worker worked.
		if strings.HasSuffix(f.Measure, "kpps") && slices.Contains([]string{"userspace", "suricata"}, f.Name) {
			continue
		}
		if f.Median <= 0 || f.Ratio <= 0 {
			fault("%s, %s: %+v", f.Measure, f.Variant, f)
		}
	}
	if topic != "packets" {
		return faults
	}
	if g := r.Gateways["gatehouse"]; g.Hits == 0 || g.Peer == 0 || g.Offloaded < 1000 || g.Steered == 0 || g.Steered > g.Hits {
		fault("decided flows in the kernel: %+v", g)
	}
	if g := r.Gateways["pair"]; g.Hits == 0 || g.Offloaded < 1000 || g.Steered == 0 || g.Steered > g.Hits {
		fault("decided flows in XDP: %+v", g)
	}
	if g := r.Gateways["userspace"]; g.Hits != 0 || g.Steered < 1000 || g.Peer == 0 || g.Returned < g.Peer {
		fault("every packet in user space: %+v", g)
	}
	return faults
}

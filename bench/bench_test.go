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

func TestChoose(t *testing.T) {
	for _, tc := range []struct {
		names []string
		want  string
	}{
		{nil, strings.Join(Variants(), " ")},
		{[]string{"userspace", "bridge"}, "userspace bridge"},
	} {
		chosen, err := choose(tc.names)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range chosen {
			got = append(got, v.name)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%v: got %v, want %s", tc.names, got, tc.want)
		}
	}
	if _, err := choose([]string{"bridge", "nftables"}); err == nil || !strings.Contains(err.Error(), `"nftables"`) {
		t.Errorf("unknown variant: %v", err)
	}
}

func TestReport(t *testing.T) {
	chosen, err := choose([]string{"bridge", "gatehouse"})
	if err != nil {
		t.Fatal(err)
	}
	samples := map[[2]string][]float64{}
	for _, m := range measures {
		for _, name := range m.names {
			samples[[2]string{name, "bridge"}] = []float64{10, 30, 20}
			samples[[2]string{name, "gatehouse"}] = []float64{28, 24, 26}
		}
	}
	r := report(3, measures, chosen, samples)
	r.Command = "gatehouse bench"
	r.Gateways = map[string]GatewayCounts{"gatehouse": {Steered: 50, NoFrame: 8, Hits: 900, Peer: 700, Offloaded: 12}}
	for i, f := range r.Figures {
		want := Figure{Measure: f.Measure, Variant: chosen[i%2].title, Min: 10, Median: 20, Max: 30, Ratio: 1}
		if i%2 == 1 {
			want.Min, want.Median, want.Max, want.Ratio = 24, 26, 28, 1.3
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
	for _, want := range []string{"`gatehouse bench`", "3 interleaved rounds", "kernel: 42 packets went to user space (8 more found no room), 900 were carried", "## TCP bulk, Mbit/s\n", "| plain bridge | 10.0 | 20.0 | 30.0 | 1.00 |\n", "| 24.0 | 26.0 | 28.0 | 1.30 |\n"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, &page)
		}
	}
}

// TestWithoutBaseline: a run that leaves the plain bridge out has no ratios.
func TestWithoutBaseline(t *testing.T) {
	chosen, err := choose([]string{"gatehouse"})
	if err != nil {
		t.Fatal(err)
	}
	samples := map[[2]string][]float64{}
	for _, m := range measures {
		for _, name := range m.names {
			samples[[2]string{name, "gatehouse"}] = []float64{5}
		}
	}
	for _, f := range report(1, measures, chosen, samples).Figures {
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
	r, err := run(context.Background(), Config{
		Rounds:   1,
		Variants: []string{"bridge", "gatehouse", "userspace"},
		Gateway:  []string{gatewayArgument},
	}, brief)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Figures {
		// A busy machine may leave the worker no time within so short a window;
		// its counters below tell that it worked.
		if strings.HasSuffix(f.Measure, "kpps") && f.Variant == "Gatehouse, every packet in user space" {
			continue
		}
		if f.Median <= 0 || f.Ratio <= 0 {
			t.Errorf("%s, %s: %+v", f.Measure, f.Variant, f)
		}
	}
	if g := r.Gateways["gatehouse"]; g.Hits == 0 || g.Peer == 0 || g.Offloaded < 1000 || g.Steered == 0 || g.Steered > g.Hits {
		t.Errorf("decided flows in the kernel: %+v", g)
	}
	if g := r.Gateways["userspace"]; g.Hits != 0 || g.Steered < 1000 || g.Returned == 0 {
		t.Errorf("every packet in user space: %+v", g)
	}
	if left, err := os.ReadDir("/sys/fs/bpf/ghb-gatehouse"); err == nil {
		t.Errorf("pins were left behind: %v", left)
	}
}

package bench

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Comparison is one run of lookups in memory: ours beside its peers, case by
// case, the measurements interleaved round by round.
type Comparison struct {
	Title    string    `json:"title"`
	When     time.Time `json:"when"`
	Kernel   string    `json:"kernel"`
	CPU      string    `json:"cpu"`
	Cores    int       `json:"cores"`
	Go       string    `json:"go"`
	Command  string    `json:"command"`
	Rounds   int       `json:"rounds"`
	Baseline string    `json:"baseline"` // the peer that ratios are against
	Cases    []Case    `json:"cases"`
	// Notes are what was left out, and what the figures count.
	Notes []string `json:"notes,omitempty"`
}

// Case is one size or set.
type Case struct {
	Name    string   `json:"name"`
	Size    int      `json:"size,omitempty"`  // rules, flows or workloads
	About   string   `json:"about,omitempty"` // what makes it hard or easy
	Results []Result `json:"results"`
}

// Result is one variant's figures in one case.
type Result struct {
	Variant string    `json:"variant"`
	Unit    string    `json:"unit"`
	Min     float64   `json:"min"`
	Median  float64   `json:"median"`
	Max     float64   `json:"max"`
	P99     float64   `json:"p99,omitempty"`   // where a result is of many events
	Ratio   float64   `json:"ratio,omitempty"` // of medians, to the baseline of the same case and unit
	Note    string    `json:"note,omitempty"`
	Rounds  []float64 `json:"rounds,omitempty"`
}

// contender is one variant of a case: run gives one round's figure.
type contender struct {
	name, unit, note string
	run              func() (float64, error)
}

func newComparison(title, baseline string, rounds int) *Comparison {
	return &Comparison{Title: title, Baseline: baseline, Rounds: rounds, When: time.Now().UTC().Truncate(time.Second),
		Kernel: kernel(), CPU: cpuModel(), Cores: runtime.NumCPU(), Go: runtime.Version()}
}

// measure runs all contenders of a case, interleaved, and the first once more
// under another name: how far the two are apart is the machine's noise.
func (c *Comparison) measure(ctx context.Context, name, about string, size int, contenders []contender, progress io.Writer) error {
	again := contenders[0]
	again.name, again.note = again.name+", once more", ""
	contenders = append(contenders, again)
	samples := make([][]float64, len(contenders))
	for range c.Rounds {
		for i, x := range contenders {
			if err := ctx.Err(); err != nil {
				return err
			}
			v, err := x.run()
			if err != nil {
				return fmt.Errorf("%s, %s: %w", name, x.name, err)
			}
			samples[i] = append(samples[i], v)
		}
	}
	out := Case{Name: name, Size: size, About: about}
	for i, x := range contenders {
		s := samples[i]
		out.Results = append(out.Results, Result{Variant: x.name, Unit: x.unit, Note: x.note, Min: slices.Min(s), Median: median(s), Max: slices.Max(s), Rounds: s})
	}
	out.compare(c.Baseline)
	c.Cases = append(c.Cases, out)
	if progress != nil {
		fmt.Fprintf(progress, "%s: done\n", name)
	}
	return nil
}

// latencies is a result of many events, sorted.
func latencies(variant string, sorted []float64) Result {
	p99 := sorted[len(sorted)*99/100]
	return Result{Variant: variant, Unit: "µs", Min: sorted[0], Median: sorted[len(sorted)/2], Max: sorted[len(sorted)-1], P99: p99,
		Note: fmt.Sprintf("p99 %.1f µs of %d", p99, len(sorted))}
}

// compare fills in the ratios to the baseline's figure of the same unit, where
// there is one.
func (k *Case) compare(baseline string) {
	for i := range k.Results {
		r := &k.Results[i]
		for _, b := range k.Results {
			if b.Variant == baseline && b.Unit == r.Unit && b.Median > 0 {
				r.Ratio = r.Median / b.Median
			}
		}
	}
}

// Markdown writes the comparison as a page: one table a case.
func (c *Comparison) Markdown(w io.Writer) error {
	var b strings.Builder
	against := ""
	if c.Baseline != "" {
		against = "; ratios of medians to " + c.Baseline + " in the same run. What is there once more is the same again, and how far the two are apart is this machine's noise"
	}
	fmt.Fprintf(&b, "# %s\n\n`%s` on %s: kernel %s, %d cores (%s), %s. %d interleaved rounds%s.\n",
		c.Title, c.Command, c.When.Format(time.DateOnly), c.Kernel, c.Cores, c.CPU, c.Go, c.Rounds, against)
	for _, n := range c.Notes {
		fmt.Fprintf(&b, "\n%s\n", n)
	}
	for _, k := range c.Cases {
		fmt.Fprintf(&b, "\n## %s\n\n", k.Name)
		if k.About != "" {
			fmt.Fprintf(&b, "%s.\n\n", k.About)
		}
		b.WriteString("| variant | unit | min | median | max | ratio | |\n|---|---|---:|---:|---:|---:|---|\n")
		for _, r := range k.Results {
			ratio := ""
			if r.Ratio > 0 {
				ratio = fmt.Sprintf("%.2f", r.Ratio)
			}
			fmt.Fprintf(&b, "| %s | %s | %.1f | %.1f | %.1f | %s | %s |\n", r.Variant, r.Unit, r.Min, r.Median, r.Max, ratio, r.Note)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// perOp runs f, which does n operations, until a round has taken long enough to
// be told from noise, and returns nanoseconds of processor time an operation:
// what others run beside us at most cools the caches.
func perOp(n int, f func()) float64 {
	const enough = 40 * time.Millisecond
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	done := 0
	begin := threadTime()
	for {
		f()
		done += n
		if took := threadTime() - begin; took >= enough {
			return float64(took.Nanoseconds()) / float64(done)
		}
	}
}

// threadTime is the processor time of this thread.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return time.Duration(time.Now().UnixNano()) // every Linux has that clock
	}
	return time.Duration(t.Nano())
}

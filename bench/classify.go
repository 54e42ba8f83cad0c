package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/policy/ruleset"
	"gatehouse/policy/ruleset/rulesettest"
)

// ClassifyConfig says what Classify measures.
type ClassifyConfig struct {
	Rounds int
	// Rules and Traces are files in ClassBench's format, in pairs; none = sets of
	// our own generator. A name that ends in .xz is unpacked with xz.
	Rules, Traces []string
	Progress      io.Writer
}

// PublishedSets are the pairs NAME.rules and NAME_mix.trace in a folder, with
// .xz behind both or not.
func PublishedSets(dir string) (rules, traces []string, err error) {
	for _, packed := range []string{"", ".xz"} {
		found, err := filepath.Glob(filepath.Join(dir, "*.rules"+packed))
		if err != nil {
			return nil, nil, err
		}
		for _, name := range found {
			rules = append(rules, name)
			traces = append(traces, strings.TrimSuffix(name, ".rules"+packed)+"_mix.trace"+packed)
		}
	}
	if len(rules) == 0 {
		return nil, nil, fmt.Errorf("%s has no NAME.rules or NAME.rules.xz", dir)
	}
	return rules, traces, nil
}

// rulesCase is one set of rules with the headers that look it up.
type rulesCase struct {
	name    string
	rules   []ruleset.Rule
	headers []ruleset.Header
}

const (
	acl1  = "librte_acl, one packet a call"
	acl64 = "librte_acl, batches of 64"
	ours  = "Gatehouse"
	// changeVariant is what measureChanges adds.
	changeVariant = ours + ": insert or delete beside a reader"
	ownVariant    = changeVariant + ", without what other processes ran"
	idleVariant   = "a loop of a microsecond that does nothing, between those"
	linearScan    = "linear scan"
	// headersPerSet is as many as the published traces have.
	headersPerSet = 50_000
	// engineMemory is what each engine may have to be measured by itself.
	engineMemory = 512 << 20
)

// Classify measures the classifier for rules of the operator's kind beside
// librte_acl and a linear scan.
func Classify(ctx context.Context, cfg ClassifyConfig) (*Comparison, error) {
	cases, err := cfg.cases()
	if err != nil {
		return nil, err
	}
	c := newComparison("Classifier", acl1, cfg.Rounds)
	dir, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	peer, err := buildACL(ctx, dir)
	if err != nil {
		c.Notes = append(c.Notes, fmt.Sprintf("Skipped: librte_acl (%v).", err))
	}
	for _, k := range cases {
		if err := k.measure(ctx, c, peer, cfg.Progress); err != nil {
			return nil, err
		}
	}
	c.summarise()
	return c, nil
}

func (cfg *ClassifyConfig) cases() (out []rulesCase, err error) {
	if len(cfg.Rules) != len(cfg.Traces) {
		return nil, fmt.Errorf("%d rule files, %d trace files: want one trace for each", len(cfg.Rules), len(cfg.Traces))
	}
	for i, name := range cfg.Rules {
		k := rulesCase{name: strings.TrimSuffix(strings.TrimSuffix(filepath.Base(name), ".xz"), ".rules")}
		if k.rules, err = readFile(name, rulesettest.ReadRules); err != nil {
			return nil, err
		}
		if k.headers, err = readFile(cfg.Traces[i], rulesettest.ReadTrace); err != nil {
			return nil, err
		}
		if len(k.headers) == 0 {
			return nil, fmt.Errorf("%s: no headers", cfg.Traces[i])
		}
		out = append(out, k)
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, kind := range rulesettest.Kinds {
		for _, n := range []int{1000, 10_000} {
			out = append(out, generated(kind, n, false))
		}
	}
	return append(out, generated(rulesettest.Dense, 20_000, false), generated(rulesettest.Access, 10_000, true), generated(rulesettest.Dense, 10_000, true)), nil
}

func generated(kind rulesettest.Kind, n int, v6 bool) rulesCase {
	rules := rulesettest.Generate(kind, n, v6, 1)
	name := fmt.Sprintf("%s, %d rules", kind, n)
	if v6 {
		name += ", IPv6"
	}
	return rulesCase{name, rules, rulesettest.Headers(rules, headersPerSet, 7)}
}

func readFile[T any](name string, read func(io.Reader) ([]T, error)) ([]T, error) {
	data, err := os.ReadFile(name)
	if err == nil && strings.HasSuffix(name, ".xz") {
		data, err = unpack(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out, err := read(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

func unpack(data []byte) ([]byte, error) {
	cmd := exec.Command("xz", "-dc")
	cmd.Stdin = bytes.NewReader(data)
	return cmd.Output()
}

// measure adds a case to c.
func (k *rulesCase) measure(ctx context.Context, c *Comparison, peer string, progress io.Writer) error {
	var contenders []contender
	if peer != "" {
		p, err := startACL(ctx, peer, k.rules, k.headers)
		if err != nil {
			return fmt.Errorf("%s: librte_acl: %w", k.name, err)
		}
		defer p.stop()
		if err := k.agrees(p); err != nil {
			return err
		}
		contenders = append(contenders,
			contender{name: acl1, unit: "ns", run: func() (float64, error) { return p.time('1') }},
			contender{name: acl64, unit: "ns", run: func() (float64, error) { return p.time('b') }})
	}
	for _, e := range []ruleset.Engine{"", ruleset.Tables, ruleset.Tree, ruleset.Vectors} {
		begin := time.Now()
		opts := ruleset.Options{Engine: e}
		if e != "" {
			opts.Memory = engineMemory
		}
		s, err := ruleset.New(k.rules, opts)
		var tooSmall *ruleset.MemoryError
		if e != "" && errors.As(err, &tooSmall) {
			c.Notes = append(c.Notes, fmt.Sprintf("%s: %s left out: it needs more than %d MiB.", k.name, e, engineMemory>>20))
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		x := contender{name: "of them, " + string(e), unit: "ns", run: func() (float64, error) { return k.lookups(s), nil }}
		if e == "" {
			v4, v6 := s.View().Engines()
			x.name = ours
			x.note = fmt.Sprintf("%s%s; %d bytes a rule; built in %d ms", v4, v6, s.View().Bytes()/max(1, len(k.rules)), time.Since(begin).Milliseconds())
		}
		contenders = append(contenders, x)
	}
	contenders = append(contenders, contender{name: linearScan, unit: "ns", run: func() (float64, error) { return k.scan(), nil }})
	if err := c.measure(ctx, k.name, rulesettest.Describe(k.rules), len(k.rules), contenders, progress); err != nil {
		return err
	}
	return k.measureChanges(c)
}

// agrees compares with what librte_acl finds: figures of lookups that differ
// would compare nothing.
func (k *rulesCase) agrees(p *aclPeer) error {
	theirs, err := p.rules()
	if err != nil {
		return fmt.Errorf("%s: librte_acl: %w", k.name, err)
	}
	s, err := ruleset.New(k.rules, ruleset.Options{})
	if err != nil {
		return fmt.Errorf("%s: %w", k.name, err)
	}
	for i := range k.headers {
		if got := s.Lookup(&k.headers[i]); got != theirs[i] {
			return fmt.Errorf("%s: header %d: rule %d, librte_acl finds %d", k.name, i, int32(got), int32(theirs[i]))
		}
	}
	return nil
}

func (k *rulesCase) lookups(s *ruleset.Set) float64 {
	sum := uint32(0)
	defer func() { runtime.KeepAlive(sum) }()
	return perOp(len(k.headers), func() {
		for i := range k.headers {
			sum += s.Lookup(&k.headers[i])
		}
	})
}

func (k *rulesCase) scan() float64 {
	few := k.headers[:min(len(k.headers), 200)]
	sum := uint32(0)
	defer func() { runtime.KeepAlive(sum) }()
	return perOp(len(few), func() {
		for i := range few {
			sum += scanned(k.rules, &few[i])
		}
	})
}

// scanned is the first rule that matches; rules are in order.
func scanned(rules []ruleset.Rule, h *ruleset.Header) uint32 {
	for i := range rules {
		if rules[i].Matches(h) {
			return rules[i].ID
		}
	}
	return ruleset.NoRule
}

// timings are of many events of one kind, in microseconds.
type timings struct {
	took   []float64 // by the clock
	own    []float64 // by the clock if the thread gave the processor up by itself, else of the processor
	waited []float64 // by the clock, of those that did
}

// add times f, whose goroutine is locked to its thread.
func (t *timings) add(f func() error) error {
	waits, ran := gaveUp(), threadTime()
	begin := time.Now()
	err := f()
	took, own := micros(time.Since(begin)), micros(threadTime()-ran)
	if gaveUp() != waits {
		own = took
		t.waited = append(t.waited, took)
	}
	t.took, t.own = append(t.took, took), append(t.own, own)
	return err
}

// measureChanges deletes and inserts random rules while another goroutine looks
// up, and adds the latencies to the last case of c: as the clock has them; without
// the time in which the kernel let other processes run in the midst of one; and by
// the clock those of a loop between the changes that does nothing, which only
// others can hold up.
func (k *rulesCase) measureChanges(c *Comparison) error {
	s, err := ruleset.New(k.rules, ruleset.Options{})
	if err != nil {
		return err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				s.Lookup(&k.headers[i%len(k.headers)])
			}
		}
	}()
	rnd := rand.New(rand.NewPCG(1, 1))
	const changes = 10_000
	changed, idle := newTimings(2*changes), newTimings(2*changes)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range changes {
		if i%10 == 0 { // some 10,000 a second, so that many rebuilds are met
			time.Sleep(time.Millisecond)
		}
		r := k.rules[rnd.IntN(len(k.rules))]
		err = errors.Join(err, changed.add(func() error { return s.Delete(r.ID) }), idle.add(nothing),
			changed.add(func() error { return s.Insert(r) }), idle.add(nothing))
	}
	close(stop)
	<-stopped
	s.Settle()
	last := &c.Cases[len(c.Cases)-1]
	last.Results = append(last.Results, changed.result(changeVariant), latencies(ownVariant, sorted(changed.own)), idle.result(idleVariant))
	return err
}

// newTimings has room for n events, so that none is timed with the growth.
func newTimings(n int) timings {
	return timings{make([]float64, 0, n), make([]float64, 0, n), make([]float64, 0, n)}
}

// result is by the clock.
func (t *timings) result(variant string) Result {
	r := latencies(variant, sorted(t.took))
	if len(t.waited) == 0 {
		r.Note += "; none gave the processor up"
	} else {
		r.Note += fmt.Sprintf("; %d gave the processor up, at most %.1f µs", len(t.waited), slices.Max(t.waited))
	}
	return r
}

func sorted(us []float64) []float64 {
	slices.Sort(us)
	return us
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// gaveUp is how often this thread has let others run because it waited for
// something: not how often it was made to.
func gaveUp() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &u) != nil {
		return 0
	}
	return int64(u.Nvcsw)
}

// nothing passes a microsecond.
func nothing() error {
	for begin := time.Now(); time.Since(begin) < time.Microsecond; {
	}
	return nil
}

// summarise notes the geometric mean of our ratios, and the worst.
func (c *Comparison) summarise() {
	sum, n, worst := 0.0, 0, 0.0
	for _, k := range c.Cases {
		for _, r := range k.Results {
			if r.Variant == ours && r.Ratio > 0 {
				sum += math.Log(r.Ratio)
				worst = max(worst, r.Ratio)
				n++
			}
		}
	}
	if n > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("Gatehouse takes %.2f times as long as %s (geometric mean of %d sets; the worst %.2f).", math.Exp(sum/float64(n)), c.Baseline, n, worst))
	}
}

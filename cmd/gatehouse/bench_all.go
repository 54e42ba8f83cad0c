package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bench"
)

// benchStep is a topic of bench all: a process of its own, so that one that
// fails takes no other with it, and none measures what another left in memory.
type benchStep struct {
	name     string // of its results
	args     []string
	estimate time.Duration
}

func newBenchAllCommand() *cobra.Command {
	var captures []string
	var sets string
	var keep time.Duration
	cmd := &cobra.Command{
		Use:   "all",
		Short: "Measure every topic, one after the other, and write RESULTS.md. Needs root",
		Long: "Measure every topic, one after the other, and write the page and JSON of each, the charts and RESULTS.md. Needs root.\n" +
			"A topic that cannot be measured is named, and the next goes on; the exit code is 3 then. `--keep 2h` takes up a run\n" +
			"that was broken off: what was measured in the last two hours stays.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rounds, err := benchRounds(cmd)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return fail(exitReach, "bench needs root: it makes network namespaces")
			}
			if keep < 0 {
				return fail(exitUsage, "keep: %v is not a time that has passed", keep)
			}
			return runBenchAll(cmd, benchSteps(rounds, captures, sets), keep)
		},
	}
	cmd.Flags().String("out", "bench", "folder for the pages, their JSON, the charts and RESULTS.md")
	cmd.Flags().StringSliceVar(&captures, "captures", []string{"classify/appid/testdata/captures"}, "capture files, or folders of them, for appid")
	cmd.Flags().StringVar(&sets, "classbench", "", "folder of NAME.rules and NAME_mix.trace, packed with xz or not: classify measures these too")
	cmd.Flags().DurationVar(&keep, "keep", 0, "leave out topics whose results in the folder are not older")
	addRounds(cmd)
	addProfileFlags(cmd)
	return cmd
}

// benchSteps are the topics, in their order: first those that a busy machine
// disturbs the most.
func benchSteps(rounds int, captures []string, sets string) []benchStep {
	n := []string{"--rounds", strconv.Itoa(rounds)}
	step := func(name string, estimate time.Duration, args ...string) benchStep {
		return benchStep{name, append(append([]string{"bench"}, args...), n...), estimate}
	}
	// Of the others most is building what is measured.
	took := func(once, each time.Duration) time.Duration { return once + time.Duration(rounds)*each }
	var steps []benchStep
	for _, topic := range bench.Topics() {
		steps = append(steps, step(topic, bench.Estimate(topic, rounds), topic))
	}
	steps = append(steps,
		step("table", took(tableOnce, tableRound), "table"),
		step("changes", took(changesOnce, changesRound), "changes"),
		step("classify", took(classifyOnce, classifyRound), "classify"))
	if sets != "" {
		steps = append(steps, benchStep{bench.PublishedClassify, append([]string{"bench", "classify", "--classbench", sets}, n...), took(classifyOnce, classifyRound)})
	}
	return append(steps,
		step("appid", took(appidOnce, appidRound), append([]string{"appid"}, captures...)...),
		benchStep{"memory", []string{"bench", "memory", "--watch", memoryWatch.String()}, memoryOnce})
}

// What the topics that make no sites took on a guest of two cores.
const (
	tableOnce, tableRound       = 25 * time.Second, 12 * time.Second
	changesOnce, changesRound   = 20 * time.Second, 100 * time.Second
	classifyOnce, classifyRound = 40 * time.Second, 15 * time.Second
	appidOnce, appidRound       = 3 * time.Second, 5 * time.Second
	memoryWatch, memoryOnce     = 15 * time.Second, 50 * time.Second
)

func runBenchAll(cmd *cobra.Command, steps []benchStep, keep time.Duration) error {
	dir, _ := cmd.Flags().GetString("out")
	out := cmd.ErrOrStderr()
	var wanted []benchStep
	total := time.Duration(0)
	for _, s := range steps {
		if keep > 0 && measuredSince(dir, s.name, time.Now().Add(-keep)) {
			fmt.Fprintf(out, "%s: kept\n", s.name)
			continue
		}
		wanted = append(wanted, s)
		total += s.estimate
	}
	fmt.Fprintf(out, "%d topics, about %s\n", len(wanted), minutes(total))
	begin := time.Now()
	var faults []string
	for i, s := range wanted {
		fmt.Fprintf(out, "%d of %d, %s: about %s\n", i+1, len(wanted), s.name, minutes(s.estimate))
		if err := s.run(cmd, dir); err != nil {
			if cmd.Context().Err() != nil {
				return &exitError{exitReach, fmt.Errorf("%s: broken off", s.name)}
			}
			fmt.Fprintf(out, "%s: %v\n", s.name, err)
			faults = append(faults, fmt.Sprintf("%s: %v", s.name, err))
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	o, err := bench.WriteOverview(dir, commandLine(), faults)
	if err != nil {
		return &exitError{exitReach, err}
	}
	fmt.Fprintf(out, "took %s; %s\n", minutes(time.Since(begin)), filepath.Join(dir, "RESULTS.md"))
	if err := o.Summary(cmd.OutOrStdout()); err != nil {
		return err
	}
	if len(faults) > 0 {
		return fail(exitReach, "not all was measured: %s", strings.Join(faults, "; "))
	}
	return nil
}

// run measures one topic in a process of its own. What it says goes on; its last
// line is the error.
func (s *benchStep) run(cmd *cobra.Command, dir string) error {
	limit := 3*s.estimate + 2*time.Minute
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	args := append(s.args, "--out", dir)
	if kind, _ := cmd.Flags().GetString("profile"); kind != "" {
		profiles, _ := cmd.Flags().GetString("profile-dir")
		args = append(args, "--profile", kind, "--profile-dir", filepath.Join(profiles, s.name))
	}
	p := exec.CommandContext(ctx, "/proc/self/exe", args...)
	p.Cancel = func() error { return p.Process.Signal(os.Interrupt) } // it takes its sites down
	p.WaitDelay = 30 * time.Second
	var said bytes.Buffer
	p.Stdout, p.Stderr = cmd.OutOrStdout(), io.MultiWriter(cmd.ErrOrStderr(), &said)
	err := p.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("not done after %v", limit.Round(time.Second))
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	if last := strings.TrimPrefix(lines[len(lines)-1], "gatehouse: "); last != "" {
		return errors.New(last)
	}
	return err
}

func measuredSince(dir, name string, since time.Time) bool {
	data, err := os.ReadFile(filepath.Join(dir, name+".json"))
	var r struct {
		When   time.Time `json:"when"`
		Faults []string  `json:"faults"`
	}
	return err == nil && json.Unmarshal(data, &r) == nil && r.When.After(since) && len(r.Faults) == 0
}

func minutes(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
}

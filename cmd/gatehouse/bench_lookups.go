package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/bench"
)

func newBenchClassifyCommand() *cobra.Command {
	var cfg bench.ClassifyConfig
	cmd := &cobra.Command{
		Use:   "classify",
		Short: "Measure the classifier for prefix and port rules beside librte_acl and a linear scan",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runComparison(cmd, "classify", func(rounds int) (*bench.Comparison, error) {
				cfg.Rounds, cfg.Progress = rounds, cmd.ErrOrStderr()
				return bench.Classify(cmd.Context(), cfg)
			})
		},
	}
	cmd.Flags().StringArrayVar(&cfg.Rules, "rules", nil, "a rule set in ClassBench's format, instead of generated ones; may be repeated")
	cmd.Flags().StringArrayVar(&cfg.Traces, "trace", nil, "headers for the rule set in the same place: src dst sport dport proto, decimals")
	addComparisonFlags(cmd)
	return cmd
}

func addComparisonFlags(cmd *cobra.Command) {
	cmd.Flags().Int("rounds", 5, "interleaved rounds")
	cmd.Flags().String("out", "", "folder for the page and its JSON; without it the page goes to standard output")
	addProfileFlags(cmd)
}

// runComparison measures, and writes NAME.md and NAME.json, or the page alone.
func runComparison(cmd *cobra.Command, name string, run func(rounds int) (*bench.Comparison, error)) error {
	rounds, _ := cmd.Flags().GetInt("rounds")
	if rounds < 1 || rounds > 1000 {
		return fail(exitUsage, "rounds: %d is not between 1 and 1000", rounds)
	}
	stop, err := startProfile(cmd)
	if err != nil {
		return err
	}
	defer stop()
	c, err := run(rounds)
	if err != nil {
		return &exitError{exitReach, err}
	}
	c.Command = "gatehouse " + strings.Join(os.Args[1:], " ")
	dir, _ := cmd.Flags().GetString("out")
	if dir == "" {
		return c.Markdown(cmd.OutOrStdout())
	}
	page, err := os.Create(filepath.Join(dir, name+".md"))
	if err != nil {
		return err
	}
	defer page.Close()
	if err := c.Markdown(page); err != nil {
		return err
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), append(data, '\n'), 0o644)
}

func newBenchTableCommand() *cobra.Command {
	var cfg bench.TableConfig
	cmd := &cobra.Command{
		Use:   "table",
		Short: "Measure the flow table and the policy table beside golang-lru and Go maps",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runComparison(cmd, "table", func(rounds int) (*bench.Comparison, error) {
				cfg.Rounds, cfg.Progress = rounds, cmd.ErrOrStderr()
				return bench.Table(cmd.Context(), cfg)
			})
		},
	}
	cmd.Flags().IntSliceVar(&cfg.Flows, "flows", nil, "how many flows (default 1,000, 100,000 and 1,000,000)")
	cmd.Flags().IntSliceVar(&cfg.Workloads, "workloads", nil, "how many workloads (default 10,000, 100,000 and 1,000,000)")
	addComparisonFlags(cmd)
	return cmd
}

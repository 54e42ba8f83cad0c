package main

import (
	"github.com/spf13/cobra"

	"gatehouse/bench"
)

func newBenchClassifyCommand() *cobra.Command {
	var cfg bench.ClassifyConfig
	var sets string
	cmd := &cobra.Command{
		Use:   "classify",
		Short: "Measure the classifier for prefix and port rules beside librte_acl and a linear scan",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name := "classify"
			if sets != "" {
				rules, traces, err := bench.PublishedSets(sets)
				if err != nil {
					return &exitError{exitUsage, err}
				}
				cfg.Rules, cfg.Traces = append(cfg.Rules, rules...), append(cfg.Traces, traces...)
			}
			if len(cfg.Rules) > 0 {
				name = bench.PublishedClassify
			}
			return runBench(cmd, name, func(rounds int) (benchPage, error) { return runClassify(cmd, cfg, rounds) })
		},
	}
	cmd.Flags().StringArrayVar(&cfg.Rules, "rules", nil, "a rule set in ClassBench's format, packed with xz or not, instead of generated ones; may be repeated")
	cmd.Flags().StringArrayVar(&cfg.Traces, "trace", nil, "headers for the rule set in the same place: src dst sport dport proto, decimals")
	cmd.Flags().StringVar(&sets, "classbench", "", "folder of such sets: NAME.rules and NAME_mix.trace, packed or not")
	addRounds(cmd)
	addBenchFlags(cmd)
	return cmd
}

func runClassify(cmd *cobra.Command, cfg bench.ClassifyConfig, rounds int) (benchPage, error) {
	cfg.Rounds, cfg.Progress = rounds, cmd.ErrOrStderr()
	return withCommand(bench.Classify(cmd.Context(), cfg))
}

// withCommand notes how a comparison was called.
func withCommand(c *bench.Comparison, err error) (benchPage, error) {
	if err != nil {
		return nil, err
	}
	c.Command = commandLine()
	return c, nil
}

func newBenchTableCommand() *cobra.Command {
	var cfg bench.TableConfig
	cmd := &cobra.Command{
		Use:   "table",
		Short: "Measure the flow table and the policy table beside golang-lru and Go maps",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBench(cmd, "table", func(rounds int) (benchPage, error) { return runTable(cmd, cfg, rounds) })
		},
	}
	cmd.Flags().IntSliceVar(&cfg.Flows, "flows", nil, "how many flows (default 1,000, 100,000 and 1,000,000)")
	cmd.Flags().IntSliceVar(&cfg.Workloads, "workloads", nil, "how many workloads (default 10,000, 100,000 and 1,000,000)")
	addRounds(cmd)
	addBenchFlags(cmd)
	return cmd
}

func runTable(cmd *cobra.Command, cfg bench.TableConfig, rounds int) (benchPage, error) {
	cfg.Rounds, cfg.Progress = rounds, cmd.ErrOrStderr()
	return withCommand(bench.Table(cmd.Context(), cfg))
}

func newBenchChangesCommand() *cobra.Command {
	var cfg bench.ChangesConfig
	cmd := &cobra.Command{
		Use:   "changes",
		Short: "Measure one container's start or stop, from the event to the table that is published",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBench(cmd, "changes", func(rounds int) (benchPage, error) { return runChanges(cmd, cfg, rounds) })
		},
	}
	cmd.Flags().IntSliceVar(&cfg.Workloads, "workloads", nil, "how many workloads (default 10,000 and 100,000)")
	addRounds(cmd)
	addBenchFlags(cmd)
	return cmd
}

func runChanges(cmd *cobra.Command, cfg bench.ChangesConfig, rounds int) (benchPage, error) {
	cfg.Rounds, cfg.Progress = rounds, cmd.ErrOrStderr()
	return withCommand(bench.Changes(cmd.Context(), cfg))
}

func newBenchAppIDCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "appid CAPTURE...",
		Short: "Measure application identification beside nDPI (ndpiReader -d) on captures merged into one",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, captures []string) error {
			return runBench(cmd, "appid", func(rounds int) (benchPage, error) { return runAppID(cmd, captures, rounds) })
		},
	}
	addRounds(cmd)
	addBenchFlags(cmd)
	return cmd
}

func runAppID(cmd *cobra.Command, captures []string, rounds int) (benchPage, error) {
	return withCommand(bench.AppID(cmd.Context(), bench.AppIDConfig{Captures: captures, Rounds: rounds, Progress: cmd.ErrOrStderr()}))
}

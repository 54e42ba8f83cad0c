package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/bench"
)

func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:       "bench [TOPIC]...",
		Short:     "Measure the gateway beside plain bridge, iptables and nftables, in namespaces of its own. Needs root",
		Long:      "Measure the gateway beside plain bridge, iptables and nftables, in namespaces of its own. Needs root.\nTopics: " + strings.Join(bench.Topics(), ", ") + "; all of them without one.",
		ValidArgs: bench.Topics(),
		RunE:      runBench,
	}
	cmd.Flags().Int("rounds", 5, "interleaved rounds")
	cmd.Flags().StringSlice("variants", nil, "only these: "+strings.Join(bench.Variants(), ", "))
	cmd.Flags().String("out", "", "folder for RESULTS.md and results.json; without it the page goes to standard output")
	addProfileFlags(cmd)
	cmd.AddCommand(newBenchGatewayCommand(), newBenchClassifyCommand(), newBenchTableCommand(), newBenchAppIDCommand(), newBenchMemoryCommand())
	return cmd
}

// newBenchGatewayCommand is what bench starts itself.
func newBenchGatewayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "gateway",
		Short:  "A gateway under measurement",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stop, err := startProfile(cmd)
			if err != nil {
				return err
			}
			defer stop()
			return bench.ServeGateway(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	addProfileFlags(cmd)
	return cmd
}

func runBench(cmd *cobra.Command, topics []string) error {
	rounds, _ := cmd.Flags().GetInt("rounds")
	if rounds < 1 || rounds > 1000 {
		return fail(exitUsage, "rounds: %d is not between 1 and 1000", rounds)
	}
	if os.Geteuid() != 0 {
		return fail(exitReach, "bench needs root: it makes network namespaces")
	}
	stop, err := startProfile(cmd)
	if err != nil {
		return err
	}
	defer stop()
	names, _ := cmd.Flags().GetStringSlice("variants")
	report, err := bench.Run(cmd.Context(), bench.Config{Rounds: rounds, Topics: topics, Variants: names, Progress: cmd.ErrOrStderr(), Gateway: []string{"bench", "gateway"}})
	if err != nil {
		return &exitError{exitReach, err}
	}
	report.Command = "gatehouse " + strings.Join(os.Args[1:], " ")
	dir, _ := cmd.Flags().GetString("out")
	if dir == "" {
		return report.Markdown(cmd.OutOrStdout())
	}
	return writeReport(dir, report)
}

func writeReport(dir string, report *bench.Report) error {
	page, err := os.Create(filepath.Join(dir, "RESULTS.md"))
	if err != nil {
		return err
	}
	defer page.Close()
	if err := report.Markdown(page); err != nil {
		return err
	}
	data, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.json"), append(data, '\n'), 0o644)
}

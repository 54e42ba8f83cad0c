package main

import (
	"github.com/spf13/cobra"

	"gatehouse/bench"
)

func newBenchAppIDCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "appid CAPTURE...",
		Short: "Measure application identification beside nDPI (ndpiReader -d) on captures merged into one",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, captures []string) error {
			return runComparison(cmd, "appid", func(rounds int) (*bench.Comparison, error) {
				return bench.AppID(cmd.Context(), bench.AppIDConfig{Captures: captures, Rounds: rounds, Progress: cmd.ErrOrStderr()})
			})
		},
	}
	addComparisonFlags(cmd)
	return cmd
}

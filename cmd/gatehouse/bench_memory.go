package main

import (
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bench"
)

func newBenchMemoryCommand() *cobra.Command {
	var watch time.Duration
	cmd := &cobra.Command{
		Use:   "memory",
		Short: "Measure what a gateway of 200 endpoints takes at rest, without a flow and with 100,000 live ones. Needs root",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch < time.Second || watch > time.Hour {
				return fail(exitUsage, "watch: %v is not between 1s and 1h", watch)
			}
			return runBench(cmd, "memory", func(int) (benchPage, error) { return runMemory(cmd, watch) })
		},
	}
	cmd.Flags().DurationVar(&watch, "watch", 30*time.Second, "how long each state is watched")
	addBenchFlags(cmd)
	return cmd
}

func runMemory(cmd *cobra.Command, watch time.Duration) (benchPage, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root: it makes network namespaces")
	}
	boundHeap()
	report, err := bench.Memory(cmd.Context(), watch)
	if err != nil {
		return nil, err
	}
	report.Command = commandLine()
	return report, nil
}

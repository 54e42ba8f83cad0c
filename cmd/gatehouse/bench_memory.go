package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bench"
)

func newBenchMemoryCommand() *cobra.Command {
	var watch time.Duration
	cmd := &cobra.Command{
		Use:   "memory",
		Short: "Measure what a gateway of 200 endpoints takes at rest, without a flow and with 100,000 live ones",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return fail(exitReach, "bench needs root: it makes network namespaces")
			}
			if watch < time.Second || watch > time.Hour {
				return fail(exitUsage, "watch: %v is not between 1s and 1h", watch)
			}
			stop, err := startProfile(cmd)
			if err != nil {
				return err
			}
			defer stop()
			boundHeap()
			report, err := bench.Memory(cmd.Context(), watch)
			if err != nil {
				return &exitError{exitReach, err}
			}
			dir, _ := cmd.Flags().GetString("out")
			if dir == "" {
				return report.Markdown(cmd.OutOrStdout())
			}
			return writeFootprints(dir, report)
		},
	}
	cmd.Flags().DurationVar(&watch, "watch", 30*time.Second, "how long each state is watched")
	cmd.Flags().String("out", "", "directory for memory.md and memory.json; without it the page goes to standard output")
	addProfileFlags(cmd)
	return cmd
}

func writeFootprints(dir string, report *bench.Footprints) error {
	data, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.json"), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	f, err := os.Create(filepath.Join(dir, "memory.md"))
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := report.Markdown(io.Writer(f)); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

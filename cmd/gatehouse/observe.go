package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

func newObserveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Print violations as they happen, one a line",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			follow, _ := cmd.Flags().GetBool("follow")
			format, _ := cmd.Flags().GetString("output")
			if format != "table" && format != "json" {
				return fail(exitUsage, "output %q is none of table, json", format)
			}
			return observe(cmd, follow, format == "json")
		},
	}
	cmd.Flags().BoolP("follow", "f", false, "go on until interrupted")
	cmd.Flags().StringP("output", "o", "table", "table, or json: one object a line")
	return cmd
}

func observe(cmd *cobra.Command, follow, asJSON bool) error {
	path := "/v1/observe"
	if follow {
		path += "?follow=true"
	}
	stream, err := newClient(cmd).open(cmd.Context(), http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer stream.Close()
	out := cmd.OutOrStdout()
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if asJSON {
			if err := writeJSON(out, append(lines.Bytes(), '\n')); err != nil {
				return err
			}
			continue
		}
		var v ViolationView
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return fail(exitReach, "the gateway's stream is broken: %w", err)
		}
		row(out, fmt.Sprintf("%s %s %s -> %s %s %s app=%s %s (%s) %s", v.Last.Format("15:04:05.000"), v.ID, v.From, v.To, v.Proto, v.Dest, v.App, v.Verdict, v.Reason, v.Why))
	}
	if err := lines.Err(); err != nil && cmd.Context().Err() == nil {
		return fail(exitReach, "the gateway's stream ended: %w", err)
	}
	return nil
}

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gatehouse/dataplane/replay"
)

func newReplayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay FILE...",
		Short: "Name the applications of the flows in captures. Works without a gateway",
		Long: "Reads pcap and pcapng files, also compressed with gzip, through the decode, flow table and application identification of live traffic, " +
			"and prints the flows as they end. FILE may be - for standard input. A capture that is cut off or corrupt is read as far as it goes; " +
			"the error names file and byte, the other files are still read, and the exit code is 1.",
		Example: "  gatehouse replay -o json trace.pcap\n  tcpdump -w - -c 1000 | gatehouse replay -",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fail(exitUsage, "usage: gatehouse replay FILE...")
			}
			return nil
		},
		RunE: runReplay,
	}
	addFormats(cmd, "table, or json: one object a line", "table", "json")
	addProfileFlags(cmd)
	return cmd
}

func runReplay(cmd *cobra.Command, files []string) error {
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 1<<16)
	write, flush := jsonFlows(out), out.Flush
	if format, _ := cmd.Flags().GetString("output"); format == "table" {
		t := newFlowTable(out)
		write, flush = t.write, func() error { return errors.Join(t.columns.Flush(), out.Flush()) }
	}
	stop, err := startProfile(cmd)
	if err != nil {
		return err
	}
	defer stop()
	r := replay.New(write)
	var errs []error
	for _, name := range files {
		errs = append(errs, replayFile(cmd, r, name))
	}
	errs = append(errs, flush())
	if err := errors.Join(errs...); err != nil {
		return &exitError{exitNo, err}
	}
	return nil
}

func replayFile(cmd *cobra.Command, r *replay.Replay, name string) error {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	_, err := r.File(name, in)
	return err
}

func jsonFlows(out io.Writer) func(*replay.Flow) {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	return func(f *replay.Flow) {
		line.Reset()
		_ = enc.Encode(f) // only words and numbers
		_ = writeJSON(out, line.Bytes())
	}
}

// flowTable aligns the flows of a screen or two at a time, so that captures of
// any size need no more memory.
type flowTable struct {
	columns *tabwriter.Writer
	rows    int
}

const tableRows = 200

func newFlowTable(out io.Writer) *flowTable {
	return &flowTable{columns: tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)}
}

func (t *flowTable) write(f *replay.Flow) {
	if t.rows%tableRows == 0 {
		_ = t.columns.Flush()
		row(t.columns, "FILE", "FIRST SEEN", "SECONDS", "PROTO", "SOURCE", "DESTINATION", "APP", "CONFIDENCE", "PACKETS", "BYTES", "WHAT")
	}
	t.rows++
	row(t.columns, f.File, f.FirstSeen.Format("2006-01-02 15:04:05.000"), fmt.Sprintf("%.3f", f.LastSeen.Sub(f.FirstSeen).Seconds()), f.Proto,
		end(f, f.Src, f.Sport), end(f, f.Dst, f.Dport), appText(f), f.Confidence, f.Packets, f.Bytes, whatText(f))
}

func end(f *replay.Flow, a netip.Addr, port uint16) string {
	if f.Proto == "tcp" || f.Proto == "udp" {
		return netip.AddrPortFrom(a, port).String()
	}
	return a.String()
}

// appText is "http/docker", "smtp+tls", "tls(http2)".
func appText(f *replay.Flow) string {
	text := f.App
	if f.Sub != "" {
		text += "/" + f.Sub
	}
	if f.Inner != "" {
		text += "+" + f.Inner
	}
	if f.ALPN != "" {
		text += "(" + f.ALPN + ")"
	}
	return text
}

// whatText is the anomaly and the attributes, in a fixed order.
func whatText(f *replay.Flow) string {
	var parts []string
	if f.Anomaly != "" {
		parts = append(parts, "anomaly="+f.Anomaly)
	}
	if f.Findings != "" {
		parts = append(parts, "findings="+f.Findings)
	}
	for _, k := range slices.Sorted(maps.Keys(f.Attrs)) {
		parts = append(parts, fmt.Sprintf("%s=%q", k, f.Attrs[k]))
	}
	return strings.Join(parts, " ")
}

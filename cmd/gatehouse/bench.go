package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/bench"
)

func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench TOPIC",
		Short: "Measure the gateway and its tables beside their peers",
		Long: "Measure the gateway and its tables beside their peers, the measurements interleaved round by round.\n" +
			"With --out each topic's page and JSON go to a folder, and RESULTS.md there is written anew from all that are in it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fail(exitUsage, "unknown topic %q: all, or one of %s, classify, table, changes, appid, memory", args[0], strings.Join(bench.Topics(), ", "))
			}
			return cmd.Help()
		},
	}
	for _, topic := range bench.Topics() {
		cmd.AddCommand(newBenchNetworkCommand(topic))
	}
	cmd.AddCommand(newBenchAllCommand(), newBenchGatewayCommand(), newBenchClassifyCommand(), newBenchTableCommand(), newBenchChangesCommand(), newBenchAppIDCommand(), newBenchMemoryCommand())
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
			boundHeap()
			return bench.ServeGateway(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	addProfileFlags(cmd)
	return cmd
}

var networkTopics = map[string]string{
	"packets":     "Measure packets a second from container to container beside plain bridge, iptables, nftables and Suricata. Needs root",
	"tcp":         "Measure one TCP stream beside the same peers. Needs root",
	"latency":     "Measure requests and answers on one connection beside the same peers. Needs root",
	"connections": "Measure connections a second of HTTP, Redis and PostgreSQL beside the same peers. Needs root",
	"flows":       "Measure new flows a second, and what a flood of them leaves of others. Needs root",
}

func newBenchNetworkCommand(topic string) *cobra.Command {
	traffic := func() (*bench.Traffic, error) { return nil, nil }
	cmd := &cobra.Command{
		Use:   topic,
		Short: networkTopics[topic],
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := traffic()
			if err != nil {
				return &exitError{exitUsage, err}
			}
			name := topic
			if t != nil {
				name = "traffic" // no topic's usual results
			}
			return runBench(cmd, name, func(rounds int) (benchPage, error) { return runNetworkTopic(cmd, topic, rounds, t) })
		},
	}
	if topic == "packets" {
		traffic = addTrafficFlags(cmd)
	}
	cmd.Flags().StringSlice("variants", nil, "only these: "+strings.Join(bench.Variants(), ", "))
	addRounds(cmd)
	addBenchFlags(cmd)
	return cmd
}

// addTrafficFlags returns what gives the traffic that the flags choose, nil
// where none is given.
func addTrafficFlags(cmd *cobra.Command) func() (*bench.Traffic, error) {
	flags := cmd.Flags()
	flows := flags.Int("flows", 1000, "one measurement in place of the usual ones: with so many flows, to "+fmt.Sprint(bench.MaxFlows))
	size := flags.String("size", "64", "the same: bytes of a frame with its FCS, 64 to 1518, or imix")
	order := flags.String("order", "turn", "the same: turn, bursts (eight packets of a flow at a time) or random")
	v6 := flags.Bool("ipv6", false, "the same: over IPv6")
	return func() (*bench.Traffic, error) {
		chosen := false
		for _, name := range []string{"flows", "size", "order", "ipv6"} {
			chosen = chosen || flags.Changed(name)
		}
		if !chosen {
			return nil, nil
		}
		t := &bench.Traffic{Flows: *flows, Order: bench.Order(*order), IPv6: *v6}
		if *order == "turn" {
			t.Order = bench.InTurn
		}
		if *size != "imix" {
			n, err := strconv.Atoi(*size)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("size: %q is neither a number of bytes nor imix", *size)
			}
			t.Size = n
		}
		return t, t.Check()
	}
}

func runNetworkTopic(cmd *cobra.Command, topic string, rounds int, t *bench.Traffic) (benchPage, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root: it makes network namespaces")
	}
	names, _ := cmd.Flags().GetStringSlice("variants") // bench all has none
	kind, _ := cmd.Flags().GetString("profile")
	dir, _ := cmd.Flags().GetString("profile-dir")
	r, err := bench.Run(cmd.Context(), bench.Config{Rounds: rounds, Topic: topic, Variants: names, Traffic: t, Progress: cmd.ErrOrStderr(),
		Gateway: func(variant string) []string {
			args := []string{"bench", "gateway"}
			if kind != "" {
				args = append(args, "--profile", kind, "--profile-dir", filepath.Join(dir, topic+"-"+variant))
			}
			return args
		}})
	if err != nil {
		return nil, err
	}
	r.Command = commandLine()
	return r, nil
}

func commandLine() string { return "gatehouse " + strings.Join(os.Args[1:], " ") }

// benchPage is what measuring a topic gives.
type benchPage interface{ Markdown(io.Writer) error }

func addRounds(cmd *cobra.Command) { cmd.Flags().Int("rounds", 5, "interleaved rounds") }

func addBenchFlags(cmd *cobra.Command) {
	cmd.Flags().String("out", "", "folder for the page, its JSON and RESULTS.md; without it the page goes to standard output")
	addProfileFlags(cmd)
}

func benchRounds(cmd *cobra.Command) (int, error) {
	rounds, _ := cmd.Flags().GetInt("rounds") // memory has none
	if cmd.Flags().Lookup("rounds") != nil && (rounds < 1 || rounds > 1000) {
		return 0, fail(exitUsage, "rounds: %d is not between 1 and 1000", rounds)
	}
	return rounds, nil
}

// runBench measures one topic and writes its page: to the folder of --out as
// NAME.md and NAME.json, where RESULTS.md is then written anew, or alone.
func runBench(cmd *cobra.Command, name string, run func(rounds int) (benchPage, error)) error {
	rounds, err := benchRounds(cmd)
	if err != nil {
		return err
	}
	stop, err := startProfile(cmd)
	if err != nil {
		return err
	}
	defer stop()
	page, err := run(rounds)
	if err != nil {
		return &exitError{exitReach, fmt.Errorf("%s: %w", name, err)}
	}
	faults := benchFaults(name, page)
	if dir, _ := cmd.Flags().GetString("out"); dir == "" {
		err = page.Markdown(cmd.OutOrStdout())
	} else if err = writeBenchPage(dir, name, page); err == nil {
		_, err = bench.WriteOverview(dir, commandLine(), faults)
	}
	if err != nil {
		return &exitError{exitReach, err}
	}
	if len(faults) > 0 {
		return fail(exitReach, "not measured: %s", strings.Join(faults, "; "))
	}
	return nil
}

// benchFaults are the variants that failed within a topic.
func benchFaults(name string, page benchPage) (out []string) {
	if r, ok := page.(*bench.Report); ok {
		for _, f := range r.Faults {
			out = append(out, name+", "+f)
		}
	}
	return out
}

func writeBenchPage(dir, name string, page benchPage) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, name+".md"))
	if err != nil {
		return err
	}
	if err := errors.Join(page.Markdown(f), f.Close()); err != nil {
		return err
	}
	data, err := json.MarshalIndent(page, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), append(data, '\n'), 0o644)
}

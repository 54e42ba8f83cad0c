package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gatehouse/control"
	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

func newPolicyDiffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "What changes for whom between two policies, in words; exit code 1 if anything",
		Long: "Diff compiles both policies and compares their verdicts: for every pair of peers, every port and every application that either can\n" +
			"tell apart; what is outside in every stretch of addresses that prefixes of either cut. A port of the host that leads to another service\n" +
			"than before, or to none, is compared as what it leads to. OLD and NEW are each one of\n" +
			"  live       the running gateway's policy\n" +
			"  FOLDER     statements, with categories and models if they are there, for the workloads of --workloads, --compose or the gateway\n" +
			"  FILE       the same, or a snapshot that `get snapshot` printed, or a library that `models show --all` printed",
		Example: "  gatehouse policy diff live ./policy\n" +
			"  gatehouse policy diff old/ new/ --workloads host.yaml\n" +
			"  gatehouse policy diff yesterday.yaml today.yaml\n" +
			"  gatehouse models show --all > before.yaml; gatehouse policy diff before.yaml live   # after an upgrade",
		Args: usageArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := thereAre(args); err != nil {
				return err
			}
			var states [2]*control.State
			var errs []error
			for i, arg := range args {
				st, err := stateNamed(cmd, arg)
				if err != nil && exitCodeOf(err) == exitReach {
					return err
				}
				states[i] = st
				errs = append(errs, err)
			}
			if err := errors.Join(errs...); err != nil {
				return &exitError{exitUsage, err}
			}
			c := policy.Diff(states[0].Table, states[1].Table)
			if err := show(cmd, c, func(w io.Writer) { comparisonRows(w, &c) }); err != nil {
				return err
			}
			if !c.Same() {
				return &exitError{exitNo, nil}
			}
			return nil
		},
	}
	addBasisFlags(cmd)
	addOutputFlag(cmd)
	return cmd
}

func exitCodeOf(err error) int {
	if coded := (*exitError)(nil); errors.As(err, &coded) {
		return coded.code
	}
	return exitUsage
}

// thereAre reports which arguments of diff are neither live nor a file nor a folder,
// before anything is asked of a gateway.
func thereAre(args []string) error {
	var errs []error
	for _, arg := range args {
		if arg == "live" {
			continue
		}
		if _, err := schemaAt(arg); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return &exitError{exitUsage, errors.Join(errs...)}
	}
	return nil
}

// stateNamed is the state that an argument of diff means.
func stateNamed(cmd *cobra.Command, arg string) (*control.State, error) {
	if arg == "live" {
		return stateOf(cmd)
	}
	b, err := basisNamed(cmd, arg)
	if err != nil {
		return nil, err
	}
	st, err := b.State()
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return st, nil
}

func basisNamed(cmd *cobra.Command, path string) (*control.Basis, error) {
	schema, err := schemaAt(path)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	if schema == snapshotSchema {
		s, err := readSnapshot(nil, path)
		if err != nil {
			return nil, err
		}
		b, err := s.basis()
		if err != nil {
			return nil, fail(exitUsage, "%s: %w", path, err)
		}
		own, err := givenOf(cmd)
		if err != nil {
			return nil, err
		}
		own.situate(b)
		return b, nil
	}
	b, err := basisOf(cmd)
	if err != nil {
		return nil, err
	}
	if schema == models.Schema {
		return b, useLibrary(b, path)
	}
	given, err := control.ReadSources(path)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	if len(given.Categories) == 0 {
		given.Categories = b.Rules.Sources.Categories
	}
	if len(given.Models) == 0 {
		given.Models = b.Rules.Sources.Models
	}
	return b, useSources(cmd, b, given)
}

// useLibrary lets the basis follow from a whole library of models.
func useLibrary(b *control.Basis, path string) error {
	library, err := models.OpenAlone(path)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	rules, err := b.Rules.Sources.Over(library)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	b.Rules = rules
	return nil
}

// schemaAt is the schema of a file; "" of a folder.
func schemaAt(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%w (want live, a folder or a file)", err)
	}
	if info.IsDir() {
		return "", nil
	}
	data, _, err := readInput(nil, path, mostSnapshotBytes)
	if err != nil {
		return "", err
	}
	if begin := bytes.TrimLeft(data, " \t\r\n"); bytes.HasPrefix(begin, []byte("- ")) || bytes.HasPrefix(begin, []byte("[")) {
		return "", fmt.Errorf("%s: a list, as get workloads prints it, has neither statements nor the host: take `gatehouse get snapshot -o yaml`, or name it with --workloads", path)
	}
	f := document.File{Name: path, Data: data}
	return f.Schema(), nil
}

func comparisonRows(w io.Writer, c *policy.Comparison) {
	if c.Same() {
		row(w, "nothing differs")
	}
	for _, name := range c.Came {
		row(w, name+" is new")
	}
	for _, name := range c.Left {
		row(w, name+" is gone")
	}
	for _, text := range c.Modes {
		row(w, text)
	}
	for i := range c.Differences {
		row(w, c.Differences[i].String())
	}
}

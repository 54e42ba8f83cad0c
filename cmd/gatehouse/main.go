// Command gatehouse is the container firewall: the gateway of a host (run) and
// the verbs by which people see and steer it. main wires and exits; each verb
// has a file of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	_ "time/tzdata" // conditions name zones of the IANA database

	"github.com/spf13/cobra"

	"gatehouse/policy"
)

// Exit codes of every verb.
const (
	exitGood  = 0
	exitNo    = 1 // policy says no, or something differs
	exitUsage = 2
	exitReach = 3 // cannot reach the gateway, Docker or the kernel feature
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program as a function: arguments in, exit code out.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitGood
	}
	var coded *exitError
	if !errors.As(err, &coded) {
		coded = &exitError{exitUsage, err}
	}
	if coded.err != nil {
		for line := range strings.SplitSeq(fmt.Sprint("gatehouse: ", coded.err), "\n") {
			row(errOut, line)
		}
	}
	return coded.code
}

// exitError carries an exit code up to run. A nil err says nothing more.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }
func (e *exitError) Unwrap() error { return e.err }

func fail(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

// choices has a verb that only holds others say which there are.
func choices(cmd *cobra.Command) {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	want := fmt.Sprintf("want one of %s; `%s --help` tells what each does", strings.Join(names, ", "), cmd.CommandPath())
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		if meant := meantVerb(cmd, args[0], names); meant != "" {
			return fail(exitUsage, "%s has no %q%s %s", cmd.CommandPath(), args[0], meant, want)
		}
		return fail(exitUsage, "%s has no %q: %s", cmd.CommandPath(), args[0], want)
	}
	if cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			if cmd.HasParent() {
				return fail(exitUsage, "%s what? %s", cmd.Name(), want)
			}
			return cmd.Help()
		}
	}
}

// meantVerb is policy.Meant of the verbs there are, and of what those take.
func meantVerb(cmd *cobra.Command, word string, names []string) string {
	for _, sub := range cmd.Commands() {
		if near := policy.Near(word, sub.ValidArgs); len(near) > 0 {
			return fmt.Sprintf(": is `%s %s` meant?", sub.CommandPath(), near[0])
		}
	}
	return policy.Meant(word, names)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "gatehouse",
		Short:         "A container firewall that writes its own policy",
		SilenceErrors: true,
		SilenceUsage:  true,

		PersistentPreRunE: checkOutput,
	}
	root.PersistentFlags().String("socket", defaultSocket, "the gateway's Unix socket")
	root.AddCommand(
		newRunCommand(), newUninstallCommand(), newStatusCommand(), newGetCommand(), newObserveCommand(),
		newExplainCommand(), newPolicyCommand(), newModelsCommand(), newModeCommand(), newDoctorCommand(), newThreatCommand(), newQuarantineCommand(), newReleaseCommand(), newReplayCommand(), newSchemaCommand(), newBenchCommand(), newVersionCommand(),
	)
	root.InitDefaultCompletionCmd()
	for _, cmd := range []*cobra.Command{root, verb(root, "get"), verb(root, "policy"), verb(root, "models"), verb(root, "threat"), verb(root, "completion")} {
		choices(cmd)
	}
	addCompletions(root)
	return root
}

func verb(root *cobra.Command, name string) *cobra.Command {
	at := slices.IndexFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
	return root.Commands()[at]
}

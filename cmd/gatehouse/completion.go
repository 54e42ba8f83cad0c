package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// completionPatience bounds a question that somebody's shell waits for.
const completionPatience = 2 * time.Second

// flagWords are what flags of these names may be, whichever verb has them.
var flagWords = map[string][]string{
	"verdict": {"allow", "drop", "reject", "undecided", "recorded"},
	"kind":    {"violations", "flows", "all"},
	"threat":  {"normal", "elevated", "high", "critical"},
	"profile": {"cpu", "mem", "block", "mutex", "trace"},
	"mode":    {"observe", "enforce"}, "mode-floor": {"observe", "enforce"},
	"enroll": {"all", "none"}, "trust-local": {"name", "full"}, "refusal": {"drop", "reject"},
	"attach": {"auto", "tcx", "clsact"}, "io": {"auto", "afxdp", "tap"},
}

// serviceFlags take services that run.
var serviceFlags = []string{"from", "to", "service", "enforce"}

// addCompletions has the shell complete, for cmd and all below it, what flags may
// be, and offer nothing where a verb takes no argument.
func addCompletions(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, own := cmd.GetFlagCompletionFunc(f.Name); own {
			return
		}
		if words := flagWords[f.Name]; words != nil {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
		} else if slices.Contains(serviceFlags, f.Name) {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, completeServices)
		}
	})
	takesNone := cmd.Args != nil && cmd.Args(cmd, nil) == nil && cmd.Args(cmd, []string{"word"}) != nil
	if takesNone && cmd.ValidArgsFunction == nil && cmd.ValidArgs == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for _, sub := range cmd.Commands() {
		addCompletions(sub)
	}
}

// runningServices are the names of the services that run; none where no gateway
// answers.
func runningServices(cmd *cobra.Command) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	var services []ServiceView
	if newClient(cmd).get(ctx, "/v1/services", &services) != nil {
		return nil
	}
	var names []string
	for _, s := range services {
		if isPlainWord(s.Service) {
			names = append(names, s.Service)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// isPlainWord: a shell takes it as it stands. Names come from labels that anybody
// may have chosen, and what is completed lands on a command line.
func isPlainWord(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/:@", r)
	})
}

func completeServices(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return runningServices(cmd), cobra.ShellCompDirectiveNoFileComp
}

// completeService is completeServices of a verb that takes one.
func completeService(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeServices(cmd, args, word)
}

func completeMode(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return append([]string{"all"}, runningServices(cmd)...), cobra.ShellCompDirectiveNoFileComp
	case 1:
		return flagWords["mode"], cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeQuarantined offers what is cut off now.
func completeQuarantined(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	var s Status
	if len(args) > 0 || newClient(cmd).get(ctx, "/v1/status", &s) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var subjects []string
	for _, q := range s.Situation.Quarantines {
		if isPlainWord(q.Subject) {
			subjects = append(subjects, q.Subject)
		}
	}
	return subjects, cobra.ShellCompDirectiveNoFileComp
}

// completeModel offers the models of the library, and of --dir.
func completeModel(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	lib, err := libraryOfFlag(cmd)
	if len(args) > 0 || err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, m := range lib.Models() {
		names = append(names, m.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeViolation offers the latest violations, each with what it was.
func completeViolation(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	var latest []ViolationView
	if len(args) > 0 || newClient(cmd).get(ctx, "/v1/violations?limit=20", &latest) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, v := range latest {
		ids = append(ids, cobra.CompletionWithDesc(v.ID, strings.Map(printable, v.From+" to "+v.To+", "+v.Reason)))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

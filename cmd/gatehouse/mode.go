package main

import (
	"github.com/spf13/cobra"

	"gatehouse/policy"
)

func newModeCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "mode SERVICE observe|enforce",
		Short:             "Set what a service's no becomes: a record or a drop. Durable",
		Example:           "  gatehouse mode shop/db enforce\n  gatehouse mode all enforce",
		Args:              usageArgs(2),
		ValidArgsFunction: completeMode,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, ok := policy.ParseMode(args[1]); !ok {
				return fail(exitUsage, "mode %q is none of observe, enforce", args[1])
			}
			var set []string
			if err := newClient(cmd).post(cmd.Context(), "/v1/mode", ModeRequest{args[0], args[1]}, &set); err != nil {
				return err
			}
			for _, service := range set {
				row(cmd.OutOrStdout(), service+": "+args[1])
			}
			return nil
		},
	}
}

func completeMode(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return []string{"observe", "enforce"}, cobra.ShellCompDirectiveNoFileComp
	}
	var services []ServiceView
	if newClient(cmd).get(cmd.Context(), "/v1/services", &services) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := []string{"all"}
	for _, s := range services {
		names = append(names, s.Service)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// usageArgs is cobra.ExactArgs with the usage line in the error.
func usageArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fail(exitUsage, "usage: gatehouse %s", cmd.Use)
		}
		return nil
	}
}

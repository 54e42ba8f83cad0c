package main

import (
	"github.com/spf13/cobra"

	"gatehouse/policy"
)

func newModeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mode SERVICE observe|enforce",
		Short: "Set what a service's no becomes: a record or a drop. Durable",
		Long: "Mode shows which flows of the last 24 hours an enforcing service would have dropped. If there are any, nothing is set and\n" +
			"the exit code is 1, unless --yes says that they may be dropped.\n\n" +
			"With --workloads, --compose, --stack or another of the flags that say what policy follows from, nothing is set: the verb shows what\n" +
			"it would change and, with --flows or --history, which of those flows it would drop; exit code 1 if any.",
		Example: "  gatehouse mode shop/db enforce --dry-run\n  gatehouse mode all enforce --yes\n" +
			"  gatehouse mode all enforce --workloads host.yaml --flows flows.json",
		Args:              usageArgs(2),
		ValidArgsFunction: completeMode,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, ok := policy.ParseMode(args[1]); !ok {
				return fail(exitUsage, "mode %q is none of observe, enforce", args[1])
			}
			if ownBasis(cmd) {
				return previewMode(cmd, ModeRequest{args[0], args[1]})
			}
			for _, name := range []string{"flows", "history"} {
				if cmd.Flags().Changed(name) {
					return fail(exitUsage, "--%s is for a preview: the running gateway judges its own record", name)
				}
			}
			return setMode(cmd, ModeRequest{args[0], args[1]})
		},
	}
	cmd.Flags().Bool("yes", false, "set it although flows of the last 24 hours would have been dropped")
	cmd.Flags().Bool("dry-run", false, "only show what would be dropped; exit code 1 if anything would")
	cmd.Flags().String("flows", "", "judge this file of flows, as get flows -o json prints them, or this capture")
	addHistoryFlag(cmd)
	addPreviewFlags(cmd)
	return cmd
}

func setMode(cmd *cobra.Command, req ModeRequest) error {
	yes, _ := cmd.Flags().GetBool("yes")
	dry, _ := cmd.Flags().GetBool("dry-run")
	c := newClient(cmd)
	if dry || !yes && req.Mode == policy.Enforce.String() {
		var p ModePreview
		if err := c.post(cmd.Context(), "/v1/mode/preview", req, &p); err != nil {
			return err
		}
		if dry || len(p.Drops)+len(p.Depends) > 0 {
			if err := writeTable(cmd.OutOrStdout(), p.write); err != nil {
				return err
			}
		}
		if len(p.Drops) > 0 && !dry {
			return fail(exitNo, "nothing was changed: these flows would be dropped. Allow them (`gatehouse policy suggest`), or say --yes")
		}
		if len(p.Drops) > 0 {
			return &exitError{exitNo, nil}
		}
		if dry {
			return nil
		}
	}
	var set []string
	if err := c.post(cmd.Context(), "/v1/mode", req, &set); err != nil {
		return err
	}
	lacks := map[string]string{}
	if req.Mode == policy.Enforce.String() {
		lacks = unguarded(cmd)
	}
	for _, service := range set {
		text := service + ": " + req.Mode
		if why := lacks[service]; why != "" {
			text += ", but it is not guarded: " + why
		}
		row(cmd.OutOrStdout(), text)
	}
	return nil
}

// unguarded says of services, a workload of which runs here and is not guarded, why.
func unguarded(cmd *cobra.Command) map[string]string {
	var workloads []WorkloadView
	if newClient(cmd).get(cmd.Context(), "/v1/workloads", &workloads) != nil {
		return nil // the mode is set all the same
	}
	why := map[string]string{}
	for _, w := range workloads {
		switch {
		case w.Uncovered != "":
			why[w.Service] = w.Uncovered
		case !w.Guarded && w.Node == "" && why[w.Service] == "":
			why[w.Service] = "it is not enrolled"
		}
	}
	return why
}

// usageArgs is cobra.ExactArgs with the usage line in the error.
func usageArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fail(exitUsage, "usage: %s %s", cmd.Parent().CommandPath(), cmd.Use)
		}
		return nil
	}
}

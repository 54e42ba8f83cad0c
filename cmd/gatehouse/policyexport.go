package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gatehouse/policy"
)

func newPolicyExportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export --to nftables|networkpolicy|cilium",
		Short: "Policy written for another enforcer, with a list of what that cannot express",
		Long: "Export writes the verdicts of the policy for nftables (a file for `nft -f`), as Kubernetes NetworkPolicy or as CiliumNetworkPolicy.\n" +
			"What the target cannot express is listed in comments at the top, and with --losses as JSON in a file. An allow that names an\n" +
			"application is written as an allow of its ports; a deny of an application cannot be written. Modes are worked in: add\n" +
			"--mode enforce for what an enforcing host would do.",
		Example: "  gatehouse policy export --to nftables > policy.nft && nft -c -f policy.nft\n" +
			"  gatehouse policy export --to networkpolicy --workloads host.yaml --mode enforce",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, _ := cmd.Flags().GetString("to")
			if to != "nftables" && to != "networkpolicy" && to != "cilium" {
				return fail(exitUsage, "--to %q is none of nftables, networkpolicy, cilium", to)
			}
			st, err := stateOf(cmd)
			if err != nil {
				return err
			}
			losses, err := export(cmd.OutOrStdout(), st.Table, to)
			if err != nil {
				return err
			}
			path, _ := cmd.Flags().GetString("losses")
			if path == "" {
				return nil
			}
			data, err := json.MarshalIndent(listed(losses), "", "  ")
			if err != nil {
				return err
			}
			if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
				return &exitError{exitUsage, err}
			}
			return nil
		},
	}
	addBasisFlags(cmd)
	cmd.Flags().String("to", "", "nftables, networkpolicy or cilium")
	cmd.Flags().String("losses", "", "write what cannot be expressed to this file, as JSON")
	_ = cmd.MarkFlagRequired("to")
	_ = cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{"nftables", "networkpolicy", "cilium"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// export writes the table for a target, after what is lost.
func export(w io.Writer, t *policy.Table, to string) ([]policy.Loss, error) {
	if to == "nftables" {
		text, losses := policy.ExportNFTables(t)
		lossRows(w, losses)
		_, err := io.WriteString(w, text)
		return losses, err
	}
	objects, losses := policy.ExportNetworkPolicy(t)
	if to == "cilium" {
		objects, losses = policy.ExportCilium(t)
	}
	lossRows(w, losses)
	for _, o := range objects {
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return losses, err
		}
		if err := writeYAML(w, o); err != nil {
			return losses, err
		}
	}
	return losses, nil
}

func lossRows(w io.Writer, losses []policy.Loss) {
	for _, l := range losses {
		row(w, fmt.Sprintf("# not the same: %s: %s", l.What, l.Text))
	}
}

package main

import (
	"github.com/spf13/cobra"

	"gatehouse/operator"
	"gatehouse/policy"
)

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "schema models|statements|categories|tests",
		Short:     "The JSON Schema of a kind of file, for editors and CI. Works without a gateway",
		Example:   "  gatehouse schema statements > statements.schema.json",
		Args:      usageArgs(1),
		ValidArgs: []string{"models", "statements", "categories", "tests"},
		RunE: func(cmd *cobra.Command, args []string) error {
			data, ok := operator.Schema(args[0])
			if !ok {
				return fail(exitUsage, "schema of %q: want models, statements, categories or tests%s", args[0], policy.Meant(args[0], cmd.ValidArgs))
			}
			_, err := cmd.OutOrStdout().Write(data)
			return err
		},
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/models"
	"gatehouse/policy"
)

func newModelsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "models",
		Short: "The library of software models: list, show, match, validate, diff. Works without a gateway",
	}
	cmd.PersistentFlags().String("dir", "", "folder with the operator's own models, laid over the library")
	cmd.AddCommand(newModelsList(), newModelsShow(), newModelsMatch(), newModelsValidate(), newModelsDiff())
	return cmd
}

func libraryOfFlag(cmd *cobra.Command) (*models.Library, error) {
	dir, _ := cmd.Flags().GetString("dir")
	lib, err := models.Open(dir)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return lib, nil
}

func newModelsList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "All models",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lib, err := libraryOfFlag(cmd)
			if err != nil {
				return err
			}
			views := modelViews(lib)
			return show(cmd, views, func(w io.Writer) { modelRows(w, views) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func modelRows(w io.Writer, items []ModelView) {
	row(w, "MODEL", "REV", "TITLE", "ROLES", "IMAGES", "SOURCE")
	for _, m := range items {
		row(w, m.Model, m.Revision, m.Title, strings.Join(m.Roles, ","), strings.Join(m.Images, " "), m.Source)
	}
}

func newModelsShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show MODEL | --all",
		Short: "One model, or all, with what they inherit, as YAML",
		Args:  cobra.MaximumNArgs(1),

		ValidArgsFunction: completeModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, _ := cmd.Flags().GetBool("all")
			if all == (len(args) == 1) {
				return fail(exitUsage, "usage: gatehouse models show MODEL, or --all")
			}
			lib, err := libraryOfFlag(cmd)
			if err != nil {
				return err
			}
			shown := lib.Models()
			if !all {
				m := lib.Model(args[0])
				if m == nil {
					var names []string
					for _, m := range shown {
						names = append(names, m.Name)
					}
					if meant := policy.Meant(args[0], names); meant != "" {
						return fail(exitUsage, "no model %q%s", args[0], meant)
					}
					return fail(exitUsage, "no model %q: `gatehouse models list` names them", args[0])
				}
				shown = []*models.Model{m}
			}
			for i, m := range shown {
				data, err := m.YAML()
				if err != nil {
					return err
				}
				if i > 0 {
					data = append([]byte("---\n"), data...)
				}
				if _, err := cmd.OutOrStdout().Write(data); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().Bool("all", false, "all models, as one file that models diff reads")
	return cmd
}

func newModelsValidate() *cobra.Command {
	return &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check model files or folders whole; every fault with file and line; exit code 1 if there is one, 2 if a path leads nowhere",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, path := range args {
				if _, err := os.Stat(path); err != nil {
					return &exitError{exitUsage, err}
				}
				errs = append(errs, models.Validate(path))
			}
			if err := errors.Join(errs...); err != nil {
				return &exitError{exitNo, err}
			}
			fmt.Fprintln(cmd.OutOrStdout(), "good")
			return nil
		},
	}
}

func newModelsDiff() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [OLD [NEW]]",
		Short: "What an upgrade of the library, or models of your own, change for whom; exit code 1 if anything",
		Long: `Without arguments: what the models below --dir change of the library.
With OLD: what changed from it to the library with --dir. With OLD and NEW: from the one to the other.
OLD and NEW are files that "gatehouse models show --all" wrote.

Exit code 0 says that nothing differs, 1 that something does, whether it may allow more or less.`,
		Example: "  gatehouse models show --all > before.yaml   # then upgrade\n  gatehouse models diff before.yaml",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := models.Embedded()
			if len(args) > 0 {
				from, err = models.OpenAlone(args[0])
			}
			if err != nil {
				return &exitError{exitUsage, err}
			}
			to, err := libraryOfFlag(cmd)
			if len(args) == 2 {
				to, err = models.OpenAlone(args[1])
			}
			if err != nil {
				return &exitError{exitUsage, err}
			}
			changes := append([]models.Change{}, models.Diff(from, to)...)
			err = show(cmd, changes, func(w io.Writer) {
				for _, c := range changes {
					mark := ""
					if c.Widens() {
						mark = "may allow more"
					}
					row(w, c, mark)
				}
			})
			if err == nil && len(changes) > 0 {
				err = &exitError{exitNo, nil}
			}
			return err
		},
	}
	addOutputFlag(cmd)
	return cmd
}

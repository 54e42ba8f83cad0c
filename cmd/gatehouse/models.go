package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/models"
	"gatehouse/policy"
)

func newModelsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "models",
		Short: "The library of software models: list, show, match, validate. Works without a gateway",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fail(exitUsage, "models what? one of list, show, match, validate")
		},
	}
	cmd.PersistentFlags().String("dir", "", "folder with the operator's own models, laid over the library")
	cmd.AddCommand(newModelsList(), newModelsShow(), newModelsMatch(), newModelsValidate())
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
	return &cobra.Command{
		Use:   "show MODEL",
		Short: "One model, with what it inherits, as YAML",
		Args:  usageArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := libraryOfFlag(cmd)
			if err != nil {
				return err
			}
			m := lib.Model(args[0])
			if m == nil {
				return fail(exitNo, "no model %q: `gatehouse models list` names them", args[0])
			}
			data, err := m.YAML()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
}

func newModelsMatch() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "match IMAGE",
		Short:   "Which model an image reference leads to, and why",
		Example: "  gatehouse models match bitnami/postgresql:16",
		Args:    usageArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := libraryOfFlag(cmd)
			if err != nil {
				return err
			}
			repository, tag, _, err := policy.NormalizeImage(args[0])
			if err != nil {
				return &exitError{exitUsage, err}
			}
			w := policy.Workload{Image: policy.Image{Ref: args[0], Repository: repository, Tag: tag}}
			m := lib.Match(&w, models.TrustSettings{})
			view := map[string]any{"model": m.Model.Name, "trust": m.Trust, "confidence": m.Confidence, "reasons": m.Reasons, "proposed": m.Proposed}
			err = show(cmd, view, func(out io.Writer) {
				row(out, "model", m.Model.Name)
				row(out, "trust", fmt.Sprintf("%s (a pulled image's digest, or the label gatehouse.model, would raise it)", m.Trust))
				row(out, "confidence", m.Confidence)
				for _, reason := range m.Reasons {
					row(out, "because", reason)
				}
				if m.Proposed != "" {
					row(out, "proposed", m.Proposed)
				}
			})
			if err == nil && m.Model.Name == "custom" {
				err = &exitError{exitNo, nil}
			}
			return err
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func newModelsValidate() *cobra.Command {
	return &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check model files or folders whole; every fault with file and line",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, path := range args {
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

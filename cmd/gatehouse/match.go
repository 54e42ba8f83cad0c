package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/control/compose"
	"gatehouse/control/docker"
	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

// MatchView is what `models match` says of one workload or image.
type MatchView struct {
	Workload   string            `json:"workload,omitempty"`
	Image      string            `json:"image"`
	Model      string            `json:"model"`
	Trust      string            `json:"trust"`
	Confidence string            `json:"confidence"`
	Reasons    []string          `json:"reasons"`
	Proposed   string            `json:"proposed,omitempty"`
	Evidence   []models.Evidence `json:"evidence"`
}

func newModelsMatch() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "match IMAGE | SERVICE",
		Short: "Which model an image, a running service or one of a Compose file is of; what counted for it, what did not, and what would",
		Long: "Match says which model an image, a running service or one of a Compose file is of; what counted for it, what did not, and what would.\n\n" +
			"Exit code 1 says that no model fits what was asked about, which is then of the model custom, or that the files have no service of that\n" +
			"name. A list of several services exits with 0, whatever is in it.",
		Example: "  gatehouse models match bitnami/postgresql:16\n" +
			"  gatehouse models match shop/web\n" +
			"  gatehouse models match --compose compose.yaml\n" +
			"  gatehouse models match --workloads host.yaml shop/web\n" +
			"  gatehouse models match --stack shop=stack.yaml shop/web",
		Args: cobra.MaximumNArgs(1),

		ValidArgsFunction: completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			lib, err := libraryOfFlag(cmd)
			if err != nil {
				return err
			}
			files, err := plannedFiles(cmd)
			snapshot, _ := cmd.Flags().GetString("workloads")
			switch {
			case err != nil:
				return err
			case snapshot != "" && len(files) > 0:
				return fail(exitUsage, "--workloads or --compose and --stack: one of the two")
			case snapshot != "":
				views, err := matchSnapshot(cmd, snapshot)
				if err != nil {
					return err
				}
				return showMatches(cmd, views, args)
			case len(files) > 0:
				views, err := matchPlanned(cmd, lib, files)
				if err != nil {
					return err
				}
				return showMatches(cmd, views, args)
			case len(args) == 0:
				return fail(exitUsage, "match what? an image, a running service, or --compose FILE")
			}
			if views := matchRunning(cmd, args[0]); len(views) > 0 {
				return showMatches(cmd, views, args)
			}
			view, err := matchImage(lib, args[0])
			if err != nil {
				return &exitError{exitUsage, err}
			}
			return showMatches(cmd, []MatchView{view}, nil)
		},
	}
	cmd.Flags().String("workloads", "", "match what is in this `file`, which get snapshot or get workloads printed, by the models and settings that are in it")
	cmd.Flags().StringArray("compose", nil, "match what `[PROJECT=]FILE`, a Compose file, would run; may be repeated")
	cmd.Flags().StringArray("stack", nil, "match what `NAME=FILE`, a Swarm stack, would run; may be repeated")
	addOutputFlag(cmd)
	return cmd
}

// plannedFiles reads --compose and --stack.
func plannedFiles(cmd *cobra.Command) ([]compose.File, error) {
	var out []compose.File
	projects, _ := cmd.Flags().GetStringArray("compose")
	for _, p := range projects {
		name, path, named := strings.Cut(p, "=")
		if !named {
			name, path = "", p
		}
		out = append(out, compose.File{Paths: []string{path}, Name: name})
	}
	stacks, _ := cmd.Flags().GetStringArray("stack")
	for _, s := range stacks {
		name, path, named := strings.Cut(s, "=")
		if !named {
			return nil, fail(exitUsage, "--stack %s: want NAME=FILE", s)
		}
		out = append(out, compose.File{Paths: []string{path}, Name: name, Stack: true})
	}
	return out, nil
}

func matchPlanned(cmd *cobra.Command, lib *models.Library, files []compose.File) ([]MatchView, error) {
	snap, err := compose.Load(cmd.Context(), files, compose.Options{
		Keep: docker.Keep{Env: lib.EnvKeys(), Args: lib.ArgKeys(), Words: lib.CommandWords()}})
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	noteAssumed(cmd, &snap)
	return populationViews(&snap, models.Groups(lib, &snap, models.Settings{}, policy.NewIdentities())), nil
}

// assumedOf is under which a command has what noteAssumed has said.
const assumedOf = "gatehouse_assumed"

// noteAssumed says what files cannot tell and was taken for granted, once: where
// images come from (T3, T4).
func noteAssumed(cmd *cobra.Command, snap *policy.Snapshot) {
	const most = 3
	var pulled []string
	for i := range snap.Workloads {
		if image := &snap.Workloads[i].Image; len(image.PulledFrom) > 0 && !slices.Contains(pulled, image.Ref) {
			pulled = append(pulled, image.Ref)
		}
	}
	if len(pulled) == 0 {
		return
	}
	slices.Sort(pulled)
	text := strings.Join(pulled[:min(len(pulled), most)], ", ")
	if len(pulled) > most {
		text += fmt.Sprintf(" and %d more", len(pulled)-most)
	}
	if cmd.Annotations[assumedOf] == text {
		return // of the other side of a comparison
	}
	cmd.Annotations = map[string]string{assumedOf: text}
	row(cmd.ErrOrStderr(), fmt.Sprintf("gatehouse: assumed that the engine pulls %s from the registry named; of an image that was built, loaded or tagged there only the name "+
		"would count, and its model be clipped to its own project", text))
}

func matchSnapshot(cmd *cobra.Command, path string) ([]MatchView, error) {
	s, err := readSnapshot(cmd.InOrStdin(), path)
	if err != nil {
		return nil, err
	}
	b, err := s.basis()
	if err != nil {
		return nil, fail(exitUsage, "%s: %w", path, err)
	}
	if own, _ := cmd.Flags().GetString("dir"); own != "" {
		var faults document.Faults
		sources := b.Rules.Sources
		sources.Models = document.Collect(own, &faults)
		if err := faults.Err(); err != nil {
			return nil, &exitError{exitUsage, err}
		}
		if err := useSources(cmd, b, sources); err != nil {
			return nil, err
		}
	}
	p := models.Groups(b.Rules.Library, b.View.Snapshot(), b.Settings, policy.NewIdentities())
	return populationViews(b.View.Snapshot(), p), nil
}

func populationViews(snap *policy.Snapshot, p *models.Population) []MatchView {
	var out []MatchView
	for i := range snap.Workloads {
		w := &snap.Workloads[i]
		if m, ok := p.Match(w.ID); ok {
			out = append(out, matchView(w.Service.String(), w.Image.Ref, m, p.Evidence(w.ID)))
		}
	}
	slices.SortFunc(out, func(a, b MatchView) int { return strings.Compare(a.Workload, b.Workload) })
	return out
}

func matchView(workload, image string, m models.Match, evidence []models.Evidence) MatchView {
	return MatchView{Workload: workload, Image: image, Model: m.Model.Name, Trust: m.Trust.String(), Confidence: m.Confidence,
		Reasons: append([]string{}, m.Reasons...), Proposed: m.Proposed, Evidence: append([]models.Evidence{}, evidence...)}
}

// matchRunning asks the gateway for a service or container of that name; none
// if it has none, or does not answer.
func matchRunning(cmd *cobra.Command, name string) []MatchView {
	var views []WorkloadView
	if err := newClient(cmd).get(cmd.Context(), "/v1/workloads", &views); err != nil {
		return nil
	}
	var out []MatchView
	for _, v := range views {
		if v.Service == name || v.Name == name || strings.HasPrefix(v.ID, name) && len(name) >= 12 {
			out = append(out, MatchView{Workload: v.Service, Image: v.Image, Model: v.Model, Trust: v.Trust, Confidence: v.Confidence,
				Reasons: v.Reasons, Proposed: v.Proposed, Evidence: v.Evidence})
		}
	}
	return out
}

func matchImage(lib *models.Library, ref string) (MatchView, error) {
	repository, tag, _, err := policy.NormalizeImage(ref)
	if err != nil {
		return MatchView{}, err
	}
	w := policy.Workload{Image: policy.Image{Ref: ref, Repository: repository, Tag: tag}}
	return matchView("", ref, lib.Match(&w, models.TrustSettings{}), lib.Evidence(&w, models.TrustSettings{})), nil
}

// showMatches shows one in full and several as a list; names picks of the
// services of files.
func showMatches(cmd *cobra.Command, views []MatchView, names []string) error {
	if len(names) > 0 {
		views = slices.DeleteFunc(views, func(v MatchView) bool {
			return v.Workload != names[0] && !strings.HasSuffix(v.Workload, "/"+names[0])
		})
		if len(views) == 0 {
			return fail(exitNo, "no service %q in these files", names[0])
		}
		views = views[:1]
	}
	err := show(cmd, views, func(w io.Writer) {
		if len(views) == 1 {
			matchRows(w, &views[0])
			return
		}
		row(w, "SERVICE", "MODEL", "TRUST", "CONFIDENCE", "IMAGE")
		for _, v := range views {
			row(w, v.Workload, v.Model, v.Trust, v.Confidence, v.Image)
		}
	})
	if err == nil && len(views) == 1 && views[0].Model == models.Custom {
		err = &exitError{exitNo, nil}
	}
	return err
}

func matchRows(w io.Writer, v *MatchView) {
	if v.Workload != "" {
		row(w, "service", v.Workload)
	}
	row(w, "image", v.Image)
	row(w, "model", v.Model)
	row(w, "trust", v.Trust)
	row(w, "confidence", v.Confidence)
	for _, reason := range v.Reasons {
		row(w, "because", reason)
	}
	if v.Proposed != "" {
		row(w, "proposed", v.Proposed)
	}
	for _, e := range v.Evidence {
		mark := "ignored"
		if e.Counts {
			mark = "counts"
		}
		text := fmt.Sprintf("%s %s: %s", e.Kind, e.What, e.Why)
		if e.Change != "" {
			text += " [to change it: " + e.Change + "]"
		}
		row(w, mark, text)
	}
}

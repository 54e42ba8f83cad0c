package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/control"
	"gatehouse/operator"
	"gatehouse/policy"
)

// previewNote is in the help of verbs that set something.
const previewNote = "With --workloads, --compose, --stack or another of the flags that say what policy follows from, nothing is set: the verb shows what it\n" +
	"would change, as `policy diff` does, and exits with 1 if that is anything."

// PreviewView is what setting something would come to.
type PreviewView struct {
	Notes   []string           `json:"notes"`
	Changes *policy.Comparison `json:"changes"`
}

// preview shows what a change of the basis that the flags name would come to. What
// change returns is shown before it.
func preview(cmd *cobra.Command, change func(after *control.Basis, now *control.State) (notes []string, err error)) (before *control.State, v *PreviewView, err error) {
	b, err := basisOf(cmd)
	if err != nil {
		return nil, nil, err
	}
	if before, err = b.State(); err != nil {
		return nil, nil, &exitError{exitUsage, err}
	}
	next := *b
	next.Modes, next.Situation.Quarantines = cloned(b.Modes), cloned(b.Situation.Quarantines)
	notes, err := change(&next, before)
	if err != nil {
		return nil, nil, &exitError{exitUsage, err}
	}
	after, err := next.State()
	if err != nil {
		return nil, nil, &exitError{exitUsage, err}
	}
	c := policy.Diff(before.Table, after.Table)
	return before, &PreviewView{Notes: append([]string{}, notes...), Changes: &c}, nil
}

func cloned[V any](m map[string]V) map[string]V {
	out := make(map[string]V, len(m))
	maps.Copy(out, m)
	return out
}

func (v *PreviewView) write(w io.Writer) {
	row(w, "nothing is set; it would change:")
	comparisonRows(w, v.Changes)
	for _, n := range v.Notes {
		row(w, "note: "+n)
	}
}

// showPreview is preview for a verb that sets one thing.
func showPreview(cmd *cobra.Command, change func(after *control.Basis, now *control.State) ([]string, error)) error {
	_, v, err := preview(cmd, change)
	if err != nil {
		return err
	}
	if err := writeTable(cmd.OutOrStdout(), v.write); err != nil {
		return err
	}
	if !v.Changes.Same() {
		return &exitError{exitNo, nil}
	}
	return nil
}

func previewQuarantine(cmd *cobra.Command, subject, why string) error {
	return showPreview(cmd, func(b *control.Basis, now *control.State) ([]string, error) {
		affected, unguarded := affectedBy(now, subject)
		if len(affected) == 0 {
			return nil, noSuchSubject(subject)
		}
		b.Situation.Quarantines[subject] = control.Hold{By: "a preview", Why: why, Since: b.Situation.Time.Truncate(time.Second)}
		return unguardedNotes(unguarded), nil
	})
}

func previewRelease(cmd *cobra.Command, subject string) error {
	return showPreview(cmd, func(b *control.Basis, _ *control.State) ([]string, error) {
		if _, ok := b.Situation.Quarantines[subject]; !ok {
			return nil, notHeld(subject)
		}
		delete(b.Situation.Quarantines, subject)
		return nil, nil
	})
}

func previewThreat(cmd *cobra.Command, level operator.Threat) error {
	return showPreview(cmd, func(b *control.Basis, _ *control.State) (notes []string, err error) {
		b.Situation.Moment.Threat = level
		for _, r := range b.Records {
			b.Situation.Moment.Threat = max(b.Situation.Moment.Threat, r.Threat)
		}
		if b.Situation.Moment.Threat > level {
			notes = append(notes, higherThreat(b.Situation.Moment.Threat))
		}
		return notes, nil
	})
}

// previewMode shows what a mode would change, and which of the flows that --flows
// or --history name it would drop; only those decide the exit code.
func previewMode(cmd *cobra.Command, req ModeRequest) error {
	var services []string
	mode, _ := policy.ParseMode(req.Mode) // the verb did
	st, v, err := preview(cmd, func(b *control.Basis, now *control.State) (notes []string, err error) {
		if services, err = modeServices(now, req); err != nil {
			return nil, err
		}
		for _, s := range services {
			b.Modes[s] = mode
		}
		return nil, modeOfFile(now, services, mode)
	})
	if err != nil {
		return err
	}
	if err := writeTable(cmd.OutOrStdout(), v.write); err != nil {
		return err
	}
	var args []string
	if path, _ := cmd.Flags().GetString("flows"); path != "" {
		args = []string{path}
	}
	src, err := sourceOf(cmd, args)
	if err != nil || !src.isFile() {
		return err
	}
	records, since, truncated, err := src.records(cmd, st)
	if err != nil {
		return err
	}
	p := &ModePreview{Services: services, Since: since, Truncated: truncated, Drops: []policy.ReplayedGroup{}}
	if mode == policy.Enforce {
		p.judge(policy.Replay(st.Table, recordedOf(records), func(s string) bool { return slices.Contains(services, s) }))
	}
	if err := writeTable(cmd.OutOrStdout(), p.write); err != nil {
		return err
	}
	if len(p.Drops) > 0 {
		return &exitError{exitNo, nil}
	}
	return nil
}

func noSuchSubject(subject string) error {
	return badRequest{fmt.Errorf("no service and no container is called %q: `gatehouse get workloads` names them", subject)}
}

func notHeld(subject string) error {
	return badRequest{fmt.Errorf("%q is not in quarantine: `gatehouse status` lists what is", subject)}
}

func higherThreat(level operator.Threat) string {
	return fmt.Sprintf("a system of record says %s, and the higher one counts", level)
}

func unguardedNotes(names []string) []string {
	out := []string{}
	for _, name := range names {
		out = append(out, name+" is not guarded: only what its peers' own guard sees is dropped")
	}
	return out
}

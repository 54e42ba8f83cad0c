package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/control"
	"gatehouse/operator"
	"gatehouse/policy"
)

// previewNote is in the help of verbs that set something.
const previewNote = "With --workloads, --compose, --stack or another of the flags that say what policy follows from, nothing is set: the verb shows what it\n" +
	"would change, a few changes in words and the rest by count (--all: all, as `policy diff` does), and exits with 1 if that is anything."

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

// mostPreviewed bounds the changes that a preview lists without --all.
const mostPreviewed = 5

// write says first what would happen and how much that is, then gives all changes
// or, unless all are wanted, a few.
func (v *PreviewView) write(w io.Writer, what string, all bool) {
	c := *v.Changes
	row(w, "nothing is set; "+what+":")
	if !c.Same() {
		row(w, previewSum(&c))
	}
	for _, n := range v.Notes {
		row(w, "note: "+n)
	}
	left := 0
	if n := len(c.Came) + len(c.Left) + len(c.Modes) + len(c.Differences); !all && n > mostPreviewed+1 {
		left = n - mostPreviewed
		room := mostPreviewed
		for _, list := range []*[]string{&c.Came, &c.Left, &c.Modes} {
			*list = (*list)[:min(len(*list), room)]
			room -= len(*list)
		}
		c.Differences = telling(c.Differences)[:min(len(c.Differences), room)]
	}
	comparisonRows(w, &c)
	if left > 0 {
		row(w, fmt.Sprintf("and %d more: --all lists them", left))
	}
}

// telling puts what stops or begins to pass before what is refused in another way,
// and differences between two services before those with what is outside.
func telling(all []policy.Difference) []policy.Difference {
	out := slices.Clone(all)
	rank := func(d policy.Difference) int {
		n := strings.Count(d.From, "@") + strings.Count(d.To, "@")
		if d.Before != policy.OutcomePasses && d.After != policy.OutcomePasses {
			n += 2
		}
		return n
	}
	slices.SortStableFunc(out, func(a, b policy.Difference) int { return cmp.Compare(rank(a), rank(b)) })
	return out
}

// previewSum is in one line how much changes, and for whom.
func previewSum(c *policy.Comparison) string {
	shut, opened, dropped := 0, 0, 0
	peers := make(map[string]bool)
	for i := range c.Differences {
		d := &c.Differences[i]
		switch {
		case d.Before == policy.OutcomePasses:
			shut++
		case d.After == policy.OutcomePasses:
			opened++
		case d.Before == policy.OutcomeRecorded:
			dropped++
		}
		peers[d.From], peers[d.To] = true, true
	}
	var parts []string
	for _, p := range []struct {
		n    int
		text string
	}{
		{shut, "%d would no longer pass"}, {opened, "%d would pass"}, {dropped, "%d that are only recorded would be dropped"},
		{len(c.Differences) - shut - opened - dropped, "%d would be refused in another way"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf(p.text, p.n))
		}
	}
	out := fmt.Sprintf("of the kinds of flows between %d peers, %s", len(peers), strings.Join(parts, ", "))
	if len(c.Differences) == 0 {
		out = "what policy allows stays the same"
	}
	if len(c.Modes) > 0 {
		out += fmt.Sprintf("; services with another mode, which drop what it does not allow or only record it: %d", len(c.Modes))
	}
	return out
}

func (v *PreviewView) show(cmd *cobra.Command, what string) error {
	all, _ := cmd.Flags().GetBool("all")
	return writeTable(cmd.OutOrStdout(), func(w io.Writer) { v.write(w, what, all) })
}

// addPreviewFlags declares those of a verb that shows what it would change.
func addPreviewFlags(cmd *cobra.Command) {
	addBasisFlags(cmd)
	cmd.Flags().Bool("all", false, "list every change of a preview, and not a few of them")
}

// showPreview is preview for a verb that sets one thing.
func showPreview(cmd *cobra.Command, what string, change func(after *control.Basis, now *control.State) ([]string, error)) error {
	_, v, err := preview(cmd, change)
	if err != nil {
		return err
	}
	if err := v.show(cmd, what); err != nil {
		return err
	}
	if !v.Changes.Same() {
		return &exitError{exitNo, nil}
	}
	return nil
}

func previewQuarantine(cmd *cobra.Command, subject, why string) error {
	return showPreview(cmd, subject+" would be cut off from everybody, in every mode", func(b *control.Basis, now *control.State) ([]string, error) {
		affected, unguarded := affectedBy(now, subject)
		if len(affected) == 0 {
			return nil, noSuchSubject(now, subject)
		}
		b.Situation.Quarantines[subject] = control.Hold{By: "a preview", Why: why, Since: b.Situation.Time.Truncate(time.Second)}
		return unguardedNotes(unguarded), nil
	})
}

func previewRelease(cmd *cobra.Command, subject string) error {
	return showPreview(cmd, subject+" would be under policy alone again", func(b *control.Basis, _ *control.State) ([]string, error) {
		if _, ok := b.Situation.Quarantines[subject]; !ok {
			return nil, notHeld(subject)
		}
		delete(b.Situation.Quarantines, subject)
		return nil, nil
	})
}

func previewThreat(cmd *cobra.Command, level operator.Threat) error {
	return showPreview(cmd, "the threat level would be "+level.String(), func(b *control.Basis, _ *control.State) (notes []string, err error) {
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
	if err := v.show(cmd, fmt.Sprintf("%s would be in mode %s", servicesText(services), mode)); err != nil {
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
	p := &ModePreview{Services: services, Since: since, Truncated: truncated, Drops: []policy.ReplayedGroup{}, Depends: []policy.ReplayedGroup{}}
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

func servicesText(names []string) string {
	const most = 3
	if len(names) > most {
		return fmt.Sprintf("%d services", len(names))
	}
	return strings.Join(names, ", ")
}

func noSuchSubject(st *control.State, subject string) error {
	there := servicesOf(st)
	for w := range st.View.Workloads {
		there = append(there, w.Name)
	}
	if meant := policy.Meant(subject, there); meant != "" {
		return badRequest{fmt.Errorf("no service and no container is called %q%s", subject, meant)}
	}
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

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/control"
	"gatehouse/models"
	"gatehouse/policy"
)

// CompileView is what `policy compile` prints.
type CompileView struct {
	Statements []CompiledStatement `json:"statements"`
	Rules      int                 `json:"rules"`
	Bytes      int                 `json:"bytes"` // of rules and their places in the table
	// BytesAStatement and BytesARule are Bytes by the statements that have rules,
	// and by the rules.
	BytesAStatement int           `json:"bytesAStatement"`
	BytesARule      float64       `json:"bytesARule"`
	Undecided       int           `json:"undecided"` // places in which flows wait for their application because of a deny (V7)
	Flaws           []policy.Flaw `json:"flaws"`     // of statements that people wrote
	Findings        []Finding     `json:"findings"`  // of the metadata, and of names in files
}

// CompiledStatement is one statement with what it compiles to.
type CompiledStatement struct {
	ID      string       `json:"id"`
	Tier    policy.Tier  `json:"tier"`
	Text    []string     `json:"text"`
	Origin  []string     `json:"origin"` // model entry and metadata, or file and line
	Pending string       `json:"pending,omitempty"`
	While   string       `json:"while,omitempty"`
	Models  []ModelOf    `json:"models"` // of the services that it names
	Cost    policy.Cost  `json:"cost"`
	Rules   []RuleOfView `json:"rules"`
}

// ModelOf is a service's model, and why it has that.
type ModelOf struct {
	Service string   `json:"service"`
	Model   string   `json:"model"`
	Reasons []string `json:"reasons"`
}

// RuleOfView is one rule under its statement.
type RuleOfView struct {
	From    string `json:"from"`
	To      string `json:"to"`
	App     string `json:"app"`
	Ports   string `json:"ports"`
	Verdict string `json:"verdict"`
	Speaks  string `json:"speaks"`
}

func newPolicyCompileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compile",
		Short: "What statements follow and compile to, what they cost, and what is wrong with those that people wrote",
		Long: "Compile works out the policy of the running gateway, of a snapshot (--workloads) or of what files would run (--compose, --stack), with\n" +
			"--policy and --models in place of the gateway's. Each statement is shown with its rules, the models and metadata behind it, and its\n" +
			"cost. Exit code 1 if a statement means something else than it says: shadowed (statements that say the opposite decide wherever it\n" +
			"could) or over-broad (one of its peers swallows another). Redundant, conflicting, unmatched and no-path are told, and are no errors.",
		Example: "  gatehouse policy compile --policy ./policy\n" +
			"  gatehouse policy compile --compose compose.yaml --flat\n" +
			"  gatehouse policy compile --workloads host.yaml --policy ./policy -o json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := basisOf(cmd)
			if err != nil {
				return err
			}
			view, err := compileView(b)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			flat, _ := cmd.Flags().GetBool("flat")
			if err := show(cmd, view, func(w io.Writer) { view.rows(w, flat) }); err != nil {
				return err
			}
			if slices.ContainsFunc(view.Flaws, func(f policy.Flaw) bool { return f.Error }) {
				return &exitError{exitNo, nil}
			}
			return nil
		},
	}
	addBasisFlags(cmd)
	cmd.Flags().Bool("flat", false, "a line a rule, in place of a line a statement")
	addOutputFlag(cmd)
	return cmd
}

func compileView(b *control.Basis) (*CompileView, error) {
	st, err := b.State()
	if err != nil {
		return nil, err
	}
	audit, err := policy.MakeAudit(b.Input(st))
	if err != nil {
		return nil, err
	}
	v := &CompileView{Flaws: append([]policy.Flaw{}, audit.Flaws...), Findings: append(findingsOf(st.Findings()), nobodyFindings(st)...), Rules: audit.Table.FlatCount()}
	statements := st.Statements()
	rules := make([][]RuleOfView, len(statements))
	for _, r := range audit.Table.Flat() {
		from, to := audit.Table.RuleEnds(&r)
		rules[r.Statement] = append(rules[r.Statement], RuleOfView{from, to, r.App.String(), r.Ports.String(), ruleVerdict(&r), r.Speaks.String()})
	}
	groups := make(map[policy.ServiceKey]*policy.Group)
	for i := range st.Population.Groups {
		groups[st.Population.Groups[i].Service] = &st.Population.Groups[i]
	}
	for i := range statements {
		s := &statements[i]
		v.Bytes += audit.Costs[i].Bytes
		v.Undecided += audit.Costs[i].Undecided
		v.Statements = append(v.Statements, CompiledStatement{ID: s.ID, Tier: s.Tier, Text: append([]string{}, s.Lines(false)...), Origin: listed(s.Origin), Pending: s.Pending,
			While: s.While, Models: modelsOf(s, groups), Cost: audit.Costs[i], Rules: listed(rules[i])})
	}
	v.share()
	slices.SortStableFunc(v.Statements, func(a, b CompiledStatement) int {
		return strings.Compare(strings.Join(a.Text, "\n"), strings.Join(b.Text, "\n"))
	})
	return v, nil
}

// share works out what a statement and a rule take in the mean.
func (v *CompileView) share() {
	ruled := 0
	for i := range v.Statements {
		if v.Statements[i].Cost.Rules > 0 {
			ruled++
		}
	}
	v.BytesAStatement, v.BytesARule = v.Bytes/max(ruled, 1), float64(v.Bytes)/float64(max(v.Rules, 1))
}

func ruleVerdict(r *policy.Rule) string {
	if r.Except {
		return "except"
	}
	return r.Verdict.String()
}

func findingsOf(findings []models.Finding) []Finding {
	out := []Finding{}
	for _, f := range findings {
		out = append(out, Finding{Kind: string(f.Kind), Subject: f.Service.String(), Text: f.Text})
	}
	return out
}

// modelsOf are the models of the services that a statement names.
func modelsOf(s *policy.Statement, groups map[policy.ServiceKey]*policy.Group) []ModelOf {
	out := []ModelOf{}
	for _, p := range slices.Concat(s.From, s.To) {
		g := groups[p.Service]
		if p.Kind != policy.PeerService || g == nil || slices.ContainsFunc(out, func(m ModelOf) bool { return m.Service == g.Service.String() }) {
			continue
		}
		out = append(out, ModelOf{g.Service.String(), fmt.Sprintf("%s@%d", g.Model, g.Revision), listed(g.Reasons)})
	}
	return out
}

func (v *CompileView) rows(w io.Writer, flat bool) {
	for i := range v.Statements {
		s := &v.Statements[i]
		note := "# " + strings.Join(s.Origin, "; ")
		if s.Pending != "" {
			note += "  [pending: " + s.Pending + "]"
		}
		if s.While != "" {
			note += "  [while " + s.While + "]"
		}
		if flat {
			for _, r := range s.Rules {
				row(w, r.Verdict, r.From, r.To, r.App, r.Ports, r.Speaks, s.ID, note)
			}
			continue
		}
		cost := quantity(s.Cost.Rules, "rule")
		if s.Cost.Undecided > 0 {
			cost += fmt.Sprintf(", where flows wait for their application: %s", quantity(s.Cost.Undecided, "place"))
		}
		for _, text := range s.Text {
			row(w, text, cost, note)
		}
	}
	row(w, fmt.Sprintf("%s, %s, about %d KiB: %d bytes a statement, %.1f a rule", quantity(len(v.Statements), "statement"), quantity(v.Rules, "rule"), (v.Bytes+1023)/1024, v.BytesAStatement, v.BytesARule))
	for _, f := range v.Findings {
		row(w, fmt.Sprintf("finding %s: %s: %s", f.Kind, f.Subject, f.Text))
	}
	for _, f := range v.Flaws {
		row(w, flawText(&f))
	}
}

func flawText(f *policy.Flaw) string {
	level := "warning"
	if f.Error {
		level = "error"
	}
	where := ""
	if len(f.Origin) > 0 {
		where = f.Origin[0] + ": "
	}
	return fmt.Sprintf("%s%s: %s: %s: %s", where, level, f.Kind, f.Statement, f.Text)
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"gatehouse/control/history"
	"gatehouse/control/suggest"
	"gatehouse/policy"
)

func newPolicySuggestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "suggest [FLOWS|CAPTURE]",
		Short: "Statements that would allow what was seen and is not allowed, ready to accept",
		Long: "Suggest compares the flows on record with policy, and prints a file of statements (gatehouse.statements/v1) for those that it\n" +
			"does not allow, as narrow as they were seen. It applies nothing. What looks like an attack, was not understood, was only ever\n" +
			"dropped, or joins two projects is listed as doubtful, in comments; so are statements that nothing used.\n\n" +
			"Without a gateway the flows are those of a file of `get flows --since 24h -o json`, of a capture, or of the history.db that a\n" +
			"gateway left (--history), and the policy is what --workloads, --compose, --stack, --policy and --models say.",
		Example: "  gatehouse policy suggest --since 7d --service shop/web > suggested.yaml\n" +
			"  gatehouse policy suggest flows.json --workloads host.yaml --policy ./policy\n" +
			"  gatehouse policy suggest --history /var/lib/gatehouse/history.db --workloads host.yaml",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			doubtful, _ := cmd.Flags().GetBool("doubtful")
			answer, err := suggested(cmd, args)
			if err != nil {
				return err
			}
			if format, _ := cmd.Flags().GetString("output"); format != "yaml" {
				return show(cmd, answer, func(w io.Writer) { suggestRows(w, answer) })
			}
			text, err := answer.file(doubtful)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().String("since", "", "flows last seen since then: a time, or how long ago (default 24h)")
	cmd.Flags().String("service", "", "only what this service takes part in")
	cmd.Flags().Bool("doubtful", false, "put doubtful statements into the file too")
	cmd.Flags().String("network", "", "the network on which a capture was taken")
	addHistoryFlag(cmd)
	addBasisFlags(cmd)
	addFormats(cmd, "yaml: the file of statements; json: all that is known; table", "yaml", "json", "table")
	return cmd
}

// suggested asks the gateway or, where flags say what policy is or where the flows
// are, works it out here.
func suggested(cmd *cobra.Command, args []string) (*SuggestAnswer, error) {
	src, err := sourceOf(cmd, args)
	if err != nil {
		return nil, err
	}
	req := SuggestRequest{Since: src.since}
	req.Service, _ = cmd.Flags().GetString("service")
	if !src.isFile() && !ownBasis(cmd) {
		answer := new(SuggestAnswer)
		return answer, newClient(cmd).post(cmd.Context(), "/v1/suggest", req, answer)
	}
	st, err := stateOf(cmd)
	if err != nil {
		return nil, err
	}
	if req.Service != "" && !knowsService(st, req.Service) {
		return nil, &exitError{exitUsage, noSuchService(st, req.Service)}
	}
	src.lookups = true
	records, since, truncated, err := src.records(cmd, st)
	if err != nil {
		return nil, err
	}
	answer := &SuggestAnswer{Answer: suggest.Make(st.Table, records, req.Service, st.Population.Spoken), Since: since, Truncated: truncated}
	if src.isFile() {
		answer.Until = latest(records)
	}
	return answer, nil
}

// SuggestRequest is POST /v1/suggest.
type SuggestRequest struct {
	Since   string `json:"since,omitempty"`
	Service string `json:"service,omitempty"`
}

// SuggestAnswer is its answer.
type SuggestAnswer struct {
	suggest.Answer
	Since     time.Time `json:"since"`          // from when on the record is whole
	Until     time.Time `json:"until,omitzero"` // when it ends; absent = now
	Truncated bool      `json:"truncated,omitempty"`
}

func (g *gateway) suggest(req SuggestRequest) (*SuggestAnswer, error) {
	st := g.control.State()
	if st == nil {
		return nil, errNoState
	}
	if req.Service != "" && !knowsService(st, req.Service) {
		return nil, noSuchService(st, req.Service)
	}
	records, q, truncated, err := g.flowRecords(req.Since, "")
	if err != nil {
		return nil, err
	}
	lookups, more, err := refusedLookups(g.recorder.store, q.Filter)
	if err != nil {
		return nil, err
	}
	return &SuggestAnswer{Answer: suggest.Make(st.Table, append(records, lookups...), req.Service, st.Population.Spoken), Since: g.knownSince(q.Since), Truncated: truncated || more}, nil
}

// refusedLookups are the queries that were refused for their names, of which flows
// do not tell.
func refusedLookups(s *history.Store, f history.Filter) (records []*history.Record, truncated bool, err error) {
	f.Kinds, f.Reason = []history.Kind{history.Violation}, policy.ReasonNameRefused.String()
	return s.Rollup(f, 0)
}

// file is the answer as a file of statements; what is not in it stands in
// comments.
func (a *SuggestAnswer) file(doubtful bool) ([]byte, error) {
	doc := struct {
		Schema     string              `yaml:"schema"`
		Statements []suggest.Statement `yaml:"statements"`
	}{"gatehouse.statements/v1", []suggest.Statement{}}
	var notes []string
	for i := range a.Suggestions {
		s := &a.Suggestions[i]
		if len(s.Doubts) == 0 || doubtful {
			doc.Statements = append(doc.Statements, s.Statement)
		}
		if len(s.Doubts) > 0 {
			notes = append(notes, "doubtful: "+s.Line()+": "+strings.Join(s.Doubts, "; "))
		}
	}
	if a.Inexpressible > 0 {
		notes = append(notes, fmt.Sprintf("%d flows that no statement can allow", a.Inexpressible))
	}
	if a.Truncated {
		notes = append(notes, "there were more flows than are looked at once: ask for a shorter time; what nothing used is not known")
	} else {
		for _, u := range a.Unused {
			notes = append(notes, fmt.Sprintf("never seen in %s: %s  (%s)", a.watched(), strings.Join(u.Text, "; "), strings.Join(u.Origin, "; ")))
		}
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# From the flows since %s. Nothing here is in force: read, change, and put it into the statements' folder.\n", a.Since.UTC().Format(time.RFC3339))
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	for _, n := range notes {
		fmt.Fprintf(&out, "# %s\n", strings.Map(printable, n))
	}
	return out.Bytes(), nil
}

// watched is how long the record is, in words.
func (a *SuggestAnswer) watched() string {
	if a.Since.IsZero() {
		return "these flows" // a file that names no times
	}
	until := a.Until
	if until.IsZero() {
		until = time.Now()
	}
	switch d := until.Sub(a.Since); {
	case d < 2*time.Minute:
		return quantity(int(d.Seconds()), "second")
	case d < 2*time.Hour:
		return quantity(int(d.Minutes()), "minute")
	case d < 48*time.Hour:
		return quantity(int(d.Hours()), "hour")
	default:
		return quantity(int(d.Hours()/24), "day")
	}
}

func suggestRows(w io.Writer, a *SuggestAnswer) {
	row(w, "ID", "STATEMENT", "FLOWS", "LAST", "DOUBTS")
	for i := range a.Suggestions {
		s := &a.Suggestions[i]
		row(w, s.Statement.ID, s.Line(), s.Flows, ago(s.Last), strings.Join(s.Doubts, "; "))
	}
	for _, u := range a.Unused {
		row(w, u.ID, strings.Join(u.Text, "; "), 0, "never in "+a.watched(), "")
	}
}

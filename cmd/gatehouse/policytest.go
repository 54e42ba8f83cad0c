package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/control"
	"gatehouse/document"
	"gatehouse/operator"
	"gatehouse/policy"
)

// TestView is what `policy test` says of one case.
type TestView struct {
	Case      string  `json:"case"`
	File      string  `json:"file"`
	Line      int     `json:"line"`
	Pass      bool    `json:"pass"`
	Want      string  `json:"want"`
	Got       string  `json:"got"`
	Statement string  `json:"statement,omitempty"` // that decides
	Text      string  `json:"text,omitempty"`      // what is wrong
	Seconds   float64 `json:"seconds"`
}

func newPolicyTestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Hold policy against cases: from, to, port, application, time, categories -> verdict and statement",
		Long: "Test reads cases (gatehouse.tests/v1; `gatehouse schema tests` has the form) and asks policy each: the running gateway's, or that of\n" +
			"--workloads, --compose and --policy. FILE may be a folder. Exit code 1 if a case fails, 2 if a file is at fault.",
		Example: "  gatehouse policy test tests.yaml --compose compose.yaml --policy ./policy --junit report.xml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fail(exitUsage, "usage: gatehouse policy test FILE...")
			}
			return nil
		},
		RunE: runPolicyTest,
	}
	addBasisFlags(cmd)
	cmd.Flags().String("junit", "", "write a JUnit report to this file too")
	addFormats(cmd, "table, json, yaml or junit", "table", "json", "yaml", "junit")
	return cmd
}

func runPolicyTest(cmd *cobra.Command, args []string) error {
	var faults document.Faults
	var files []document.File
	for _, path := range args {
		files = append(files, document.Collect(path, &faults)...)
	}
	if err := faults.Err(); err != nil {
		return &exitError{exitUsage, err}
	}
	cases, err := operator.DecodeCases(files)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	b, err := basisOf(cmd)
	if err != nil {
		return err
	}
	views, err := testCases(b, cases)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if err := showTests(cmd, views); err != nil {
		return err
	}
	for i := range views {
		if !views[i].Pass {
			return &exitError{exitNo, nil}
		}
	}
	return nil
}

// testCases asks policy each case; those of one situation share a table. The
// error joins what cannot be asked.
func testCases(b *control.Basis, cases []operator.Case) ([]TestView, error) {
	states := make(map[string]*control.State)
	var views []TestView
	var errs []error
	for i := range cases {
		c := &cases[i]
		if err := b.Rules.Policy.CheckCategories(c); err != nil {
			errs = append(errs, err)
			continue
		}
		began := time.Now()
		key := fmt.Sprint(c.Time.UnixNano(), c.Threat, c.ThreatSet, c.Categories)
		if states[key] == nil {
			st, err := stateFor(b, c)
			if err != nil {
				return nil, err
			}
			states[key] = st
		}
		view, err := testCase(states[key].Table, c)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Place(), err))
			continue
		}
		view.Seconds = time.Since(began).Seconds()
		views = append(views, view)
	}
	return views, errors.Join(errs...)
}

// stateFor is the state in the situation of a case.
func stateFor(b *control.Basis, c *operator.Case) (*control.State, error) {
	own := *b
	if !c.Time.IsZero() {
		own.Situation.Moment.Time = c.Time
	}
	if c.ThreatSet {
		own.Situation.Moment.Threat = c.Threat
	}
	own.Instead = c.Categories
	return own.State()
}

func testCase(t *policy.Table, c *operator.Case) (TestView, error) {
	v := TestView{Case: c.Name, File: c.File, Line: c.Line, Want: c.Want}
	s, anyForm := spokenIn(c)
	var x policy.Explanation
	var err error
	if c.Host != "" {
		x, err = policy.ExplainName(t, c.From, c.Host, c.Port, s, anyForm)
	} else {
		x, err = policy.ExplainAs(t, c.From, c.To, c.Port, s, anyForm)
	}
	if err != nil {
		return v, err
	}
	v.Got, v.Statement = gotOf(&x), decider(&x)
	v.Pass = matchesWant(c.Want, &x) && (c.Statement == "" || c.Statement == v.Statement)
	if !v.Pass {
		v.Text = fmt.Sprintf("want %s, got %s", wanted(c.Want, c.Statement), wanted(v.Got, v.Statement))
		if x.Reason != policy.ReasonNone {
			v.Text += " (" + x.Reason.String() + ")"
		}
	}
	return v, nil
}

func wanted(verdict, statement string) string {
	if statement == "" {
		return verdict
	}
	return verdict + " by " + statement
}

// spokenIn is what the flow of a case speaks.
func spokenIn(c *operator.Case) (s policy.Spoken, anyForm bool) {
	s = policy.Spoken{App: c.App, Sub: c.Sub}
	switch c.TLS {
	case "starttls":
		s.Inner = policy.AppTLS
	case "only":
		s = policy.Spoken{App: policy.AppTLS, ALPN: c.App, Sub: c.Sub}
		if c.Port.Proto == policy.ProtoUDP {
			s.App = policy.AppDTLS
		}
	}
	return s, c.TLS == "" && c.Sub == policy.AppNone
}

func gotOf(x *policy.Explanation) string {
	switch {
	case x.Verdict == policy.Undecided:
		return "depends on the application"
	case x.Denied && x.Verdict == policy.Allow:
		return "record"
	case x.Denied:
		return x.Verdict.String()
	}
	return "allow"
}

func matchesWant(want string, x *policy.Explanation) bool {
	if want == "deny" {
		return x.Denied
	}
	return gotOf(x) == want
}

// decider is the id of the statement behind a verdict: behind the no, else behind
// the yes of the side that is guarded.
func decider(x *policy.Explanation) string {
	for _, say := range x.Sides {
		if x.Denied && say.Answer == "no" && say.Statement != nil {
			return say.Statement.ID
		}
	}
	for _, say := range x.Sides {
		if !x.Denied && say.Statement != nil {
			return say.Statement.ID
		}
	}
	return ""
}

func showTests(cmd *cobra.Command, views []TestView) error {
	if path, _ := cmd.Flags().GetString("junit"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		if err := errors.Join(writeJUnit(f, views), f.Close()); err != nil {
			return &exitError{exitUsage, fmt.Errorf("%s: %w", path, err)}
		}
	}
	if format, _ := cmd.Flags().GetString("output"); format == "junit" {
		return writeJUnit(cmd.OutOrStdout(), views)
	}
	return show(cmd, views, func(w io.Writer) {
		failed := 0
		for i := range views {
			v := &views[i]
			if v.Pass {
				row(w, "ok", v.Case, "", v.Statement)
				continue
			}
			failed++
			row(w, "FAIL", v.Case, fmt.Sprintf("%s:%d: %s", v.File, v.Line, v.Text))
		}
		row(w, fmt.Sprintf("%s, %d failed", quantity(len(views), "case"), failed))
	})
}

// The report in the form that CI servers read as JUnit's.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    int           `xml:"line,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func writeJUnit(w io.Writer, views []TestView) error {
	suite := junitSuite{Name: "gatehouse policy", Tests: len(views)}
	total := 0.0
	for i := range views {
		v := &views[i]
		total += v.Seconds
		c := junitCase{Name: v.Case, Class: strings.TrimSuffix(v.File, ".yaml"), File: v.File, Line: v.Line, Time: fmt.Sprintf("%.6f", v.Seconds)}
		if !v.Pass {
			suite.Failures++
			c.Failure = &junitFailure{v.Text, fmt.Sprintf("%s:%d: %s", v.File, v.Line, v.Text)}
		}
		suite.Cases = append(suite.Cases, c)
	}
	suite.Time = fmt.Sprintf("%.6f", total)
	data, err := xml.MarshalIndent(suite, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, data)
	return err
}

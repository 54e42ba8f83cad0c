package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/control/history"
	"gatehouse/control/suggest"
	"gatehouse/policy"
)

// newPolicyCommand gathers the verbs that work on policy as a whole.
func newPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Work on policy as a whole: what it is, what changes, whether it does what it should, what recorded flows say of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fail(exitUsage, "policy what? one of compile, diff, test, replay, suggest, export")
		},
	}
	cmd.AddCommand(newPolicyCompileCommand(), newPolicyDiffCommand(), newPolicyReplayCommand(), newPolicySuggestCommand())
	return cmd
}

func newPolicyReplayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay [FLOWS]",
		Short: "Which recorded flows the present policy would drop, by whom and why",
		Long: "Replay judges flows that were recorded by the policy of now, and exits 1 if it would drop any that passed. FLOWS is a file of\n" +
			"what `gatehouse get flows --since 24h -o json` prints, or - for standard input; without it the gateway's own record is asked.",
		Example: "  gatehouse policy replay --since 24h\n" +
			"  gatehouse policy replay --since 24h --enforce all\n" +
			"  gatehouse policy replay flows.json",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var req ReplayRequest
			req.Since, _ = cmd.Flags().GetString("since")
			req.Until, _ = cmd.Flags().GetString("until")
			req.Enforce, _ = cmd.Flags().GetStringSlice("enforce")
			if len(args) == 1 {
				if req.Since != "" || req.Until != "" {
					return fail(exitUsage, "a file of flows has its own time: leave out --since and --until")
				}
				flows, err := readFlows(cmd.InOrStdin(), args[0])
				if err != nil {
					return err
				}
				req.Flows = &flows
			}
			var report ReplayAnswer
			if err := newClient(cmd).post(cmd.Context(), "/v1/replay", req, &report); err != nil {
				return err
			}
			if err := show(cmd, report, func(w io.Writer) { replayRows(w, &report) }); err != nil {
				return err
			}
			if slices.ContainsFunc(report.Dropped, func(g policy.ReplayedGroup) bool { return g.Passed }) {
				return &exitError{exitNo, nil}
			}
			return nil
		},
	}
	cmd.Flags().String("since", "", "flows last seen since then: a time, or how long ago (default 24h)")
	cmd.Flags().String("until", "", "flows begun before then")
	cmd.Flags().StringSlice("enforce", nil, "judge as if these services enforced; all = every one")
	addOutputFlag(cmd)
	return cmd
}

// ReplayRequest is POST /v1/replay.
type ReplayRequest struct {
	Since   string   `json:"since,omitempty"`
	Until   string   `json:"until,omitempty"`
	Enforce []string `json:"enforce,omitempty"`
	// Flows are judged instead of what is on record; absent and empty differ.
	Flows *[]FlowView `json:"flows,omitempty"`
}

// ReplayAnswer is its answer.
type ReplayAnswer struct {
	policy.ReplayReport
	Epoch     uint32    `json:"epoch"` // of the table that judged
	Since     time.Time `json:"since,omitzero"`
	Truncated bool      `json:"truncated,omitempty"` // there were more flows than are judged at once
}

// mostFlowsBytes bounds a file of flows, and the request that carries it.
const mostFlowsBytes = 256 << 20

// readFlows reads what `get flows -o json` prints: an array, or objects one
// after the other.
func readFlows(in io.Reader, path string) ([]FlowView, error) {
	name := path
	if path == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, fail(exitUsage, "flows: %w", err)
		}
		defer f.Close()
		in = f
	}
	flows, err := decodeFlows(in)
	if err != nil {
		return nil, fail(exitUsage, "flows: %s: %w (want what `gatehouse get flows --since 24h -o json` prints)", name, err)
	}
	return flows, nil
}

func decodeFlows(in io.Reader) ([]FlowView, error) {
	r := bufio.NewReader(io.LimitReader(in, mostFlowsBytes))
	dec := json.NewDecoder(r)
	flows := []FlowView{}
	for {
		var raw json.RawMessage
		switch err := dec.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return flows, nil
		case err != nil:
			return nil, fmt.Errorf("after %d flows: %w", len(flows), err)
		}
		if bytes.HasPrefix(raw, []byte("[")) {
			var list []FlowView
			if err := json.Unmarshal(raw, &list); err != nil {
				return nil, err
			}
			flows = append(flows, list...)
			continue
		}
		var f FlowView
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, fmt.Errorf("after %d flows: %w", len(flows), err)
		}
		flows = append(flows, f)
	}
}

func replayRows(w io.Writer, r *ReplayAnswer) {
	row(w, fmt.Sprintf("%d flows judged by table %d, %d pass, %d groups would be dropped, %d only recorded", r.Judged, r.Epoch, r.Passed, len(r.Dropped), len(r.Recorded)))
	if r.Truncated {
		row(w, "there were more flows than are judged at once: ask for a shorter time")
	}
	groupRows(w, "drop", r.Dropped)
	groupRows(w, "record", r.Recorded)
	for _, u := range r.Unknown {
		row(w, fmt.Sprintf("not judged: %d flows of %s, which is not here now", u.Flows, u.Name))
	}
}

func groupRows(w io.Writer, what string, groups []policy.ReplayedGroup) {
	if len(groups) > 0 {
		row(w, "WOULD", "FLOWS", "FROM", "TO", "APP", "PORT", "BY", "REASON", "LAST")
	}
	for _, g := range groups {
		to, reason := g.To, g.Reason.String()
		if g.Name != "" {
			to += " (" + g.Name + ")"
		}
		if g.Statement != "" {
			reason += ": " + g.Statement
		}
		row(w, what, g.Flows, g.From, to, g.App, g.Port, g.By+" "+g.Side.String(), reason, ago(g.Last))
	}
}

// replay answers POST /v1/replay.
func (g *gateway) replay(req ReplayRequest) (*ReplayAnswer, error) {
	st := g.control.State()
	if st == nil {
		return nil, errNoState
	}
	enforce, err := g.enforcing(req.Enforce)
	if err != nil {
		return nil, err
	}
	answer := &ReplayAnswer{Epoch: st.Table.Epoch()}
	var flows []policy.Recorded
	if req.Flows != nil {
		flows, err = recordedFlows(*req.Flows)
	} else {
		flows, answer.Since, answer.Truncated, err = g.recordedSince(req.Since, req.Until)
	}
	if err != nil {
		return nil, err
	}
	answer.ReplayReport = policy.Replay(st.Table, flows, enforce)
	return answer, nil
}

// enforcing is the func that says whether a service counts as enforcing.
func (g *gateway) enforcing(services []string) (func(string) bool, error) {
	switch {
	case len(services) == 0:
		return nil, nil
	case slices.Contains(services, "all"):
		return func(string) bool { return true }, nil
	}
	for _, s := range services {
		if !g.knowsService(s) {
			return nil, noSuchService(s)
		}
	}
	return func(s string) bool { return slices.Contains(services, s) }, nil
}

func (g *gateway) knowsService(name string) bool {
	st := g.control.State()
	return st != nil && slices.ContainsFunc(st.Population.Groups, func(grp policy.Group) bool { return grp.Service.String() == name })
}

func noSuchService(name string) error {
	return badRequest{fmt.Errorf("no service %q: `gatehouse get services` names them", name)}
}

// recordedSince are the flows on record, live ones included.
func (g *gateway) recordedSince(since, until string) (flows []policy.Recorded, from time.Time, truncated bool, err error) {
	records, q, truncated, err := g.flowRecords(since, until)
	flows = make([]policy.Recorded, len(records))
	for i, r := range records {
		flows[i] = suggest.Recorded(r)
	}
	return flows, q.Since, truncated, err
}

func (g *gateway) flowRecords(since, until string) (records []*history.Record, q recordQuery, truncated bool, err error) {
	v := url.Values{}
	for key, text := range map[string]string{"since": since, "until": until} {
		if text != "" {
			v.Set(key, text)
		}
	}
	if q, err = parseRecordQuery(v, time.Now()); err != nil {
		return nil, q, false, err
	}
	q.Kinds = []history.Kind{history.Flow}
	g.recorder.catchUp()
	records, truncated, err = g.recorder.store.Rollup(q.Filter, 0)
	return records, q, truncated, err
}

// recordedFlows reads flows as the API shows them; the error names the first
// that cannot be.
func recordedFlows(views []FlowView) ([]policy.Recorded, error) {
	out := make([]policy.Recorded, len(views))
	for i := range views {
		f, err := recordedView(&views[i])
		if err != nil {
			return nil, badRequest{fmt.Errorf("flow %d (%s -> %s): %w", i+1, views[i].From, views[i].To, err)}
		}
		out[i] = f
	}
	return out, nil
}

func recordedView(v *FlowView) (f policy.Recorded, err error) {
	f = policy.Recorded{
		From: policy.RecordedEnd{Name: v.From}, To: policy.RecordedEnd{Name: v.To}, Zone: v.Zone, Port: v.Port, Name: v.Name,
		Passed: v.Verdict == "allow" || v.Verdict == "recorded" || v.Verdict == "undecided", Flows: max(v.Flows, 1), Packets: v.Packets, First: v.First, Last: v.Last,
	}
	if v.From == "" || v.To == "" {
		return f, errors.New("it has no from or no to")
	}
	if v.FromIs != nil {
		f.From.Model = v.FromIs.Model
	}
	if v.ToIs != nil {
		f.To.Model = v.ToIs.Model
	}
	if err := f.Proto.UnmarshalText([]byte(v.Proto)); err != nil {
		return f, err
	}
	if f.From.Addr, _, err = parseEnd(v.Source); err != nil {
		return f, fmt.Errorf("source: %w", err)
	}
	if f.To.Addr, f.DstPort, err = parseEnd(v.Dest); err != nil {
		return f, fmt.Errorf("destination: %w", err)
	}
	f.DstPort = cmp.Or(v.ControlPort, f.DstPort)
	if f.Port == 0 {
		f.Port = f.DstPort
	}
	for _, word := range []struct {
		text string
		app  *policy.App
	}{{v.App, &f.Spoken.App}, {v.Sub, &f.Spoken.Sub}, {v.Inner, &f.Spoken.Inner}, {v.ALPN, &f.Spoken.ALPN}} {
		if word.text == "" {
			continue
		}
		if err := word.app.UnmarshalText([]byte(word.text)); err != nil {
			return f, err
		}
	}
	return f, nil
}

// parseEnd reads address:port; "-" is neither.
func parseEnd(text string) (a netip.Addr, port uint16, err error) {
	if text == "-" || text == "" {
		return a, 0, nil
	}
	ap, err := netip.ParseAddrPort(text)
	return ap.Addr().Unmap(), ap.Port(), err
}

// previewMode says what services would drop of the flows of the last 24 hours if
// they enforced (V6).
func (g *gateway) previewMode(req ModeRequest) (*ModePreview, error) {
	services, err := g.modeServices(req)
	if err != nil {
		return nil, err
	}
	p := &ModePreview{Services: services, Drops: []policy.ReplayedGroup{}}
	if req.Mode != policy.Enforce.String() {
		return p, nil
	}
	r, err := g.replay(ReplayRequest{Enforce: services})
	if err != nil {
		return nil, err
	}
	p.Since, p.Judged, p.Truncated = g.knownSince(r.Since), r.Judged, r.Truncated
	for _, group := range r.Dropped {
		if !group.Already && slices.Contains(services, group.By) {
			p.Drops = append(p.Drops, group)
		}
	}
	return p, nil
}

// knownSince is from when on the record is whole.
func (g *gateway) knownSince(since time.Time) time.Time {
	if began := g.recorder.store.Began(); began.After(since) {
		return began
	}
	return since
}

// ModePreview is the answer of POST /v1/mode/preview.
type ModePreview struct {
	Services  []string               `json:"services"`
	Since     time.Time              `json:"since,omitzero"` // what was before is not known
	Judged    uint64                 `json:"judged"`         // flows
	Drops     []policy.ReplayedGroup `json:"drops"`
	Truncated bool                   `json:"truncated,omitempty"`
}

func (p *ModePreview) write(w io.Writer) {
	row(w, fmt.Sprintf("of %d flows since %s, %s would drop:", p.Judged, p.Since.Format(time.RFC3339), strings.Join(p.Services, ", ")))
	if p.Truncated {
		row(w, "there were more flows than are judged at once; these are the latest")
	}
	if len(p.Drops) == 0 {
		row(w, "none")
	}
	groupRows(w, "drop", p.Drops)
}

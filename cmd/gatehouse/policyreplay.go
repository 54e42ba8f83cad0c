package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
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

	"gatehouse/control"
	"gatehouse/control/history"
	"gatehouse/control/suggest"
	"gatehouse/dataplane/replay"
	"gatehouse/policy"
)

// newPolicyCommand gathers the verbs that work on policy as a whole.
func newPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Work on policy as a whole: what it is, what changes, whether it does what it should, what recorded flows say of it",
	}
	cmd.AddCommand(newPolicyCompileCommand(), newPolicyDiffCommand(), newPolicyTestCommand(), newPolicyReplayCommand(), newPolicySuggestCommand(), newPolicyExportCommand())
	return cmd
}

func newPolicyReplayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay [FLOWS|CAPTURE]",
		Short: "Which recorded flows a policy would drop, by whom and why",
		Long: "Replay judges recorded flows by a policy, and exits with 1 if that would drop any which passed. The policy is the running gateway's present\n" +
			"one, or what --policy, --models, --workloads, --compose and --stack say in its place.\n\n" +
			"FLOWS is a file of what `gatehouse get flows --since 24h -o json` prints, CAPTURE one in pcap or pcapng; - is standard input; without\n" +
			"either the gateway's own record is asked. A capture does not say on which network it was taken: --network names it where addresses are\n" +
			"not unique.\n\n" +
			"Of flows that their port alone decided, and of those that carried nothing, no byte was read: where their application would make the\n" +
			"difference, it says with which they pass, and they do not count for the exit code.",
		Example: "  gatehouse policy replay --since 24h\n" +
			"  gatehouse policy replay --since 24h --enforce all --policy ./policy\n" +
			"  gatehouse policy replay flows.json\n" +
			"  gatehouse policy replay trace.pcap --workloads host.yaml --policy ./policy",
		Args: cobra.MaximumNArgs(1),
		RunE: runPolicyReplay,
	}
	cmd.Flags().String("since", "", "flows last seen since then: a time, or how long ago (default 24h)")
	cmd.Flags().String("until", "", "flows begun before then")
	cmd.Flags().StringSlice("enforce", nil, "judge as if these services enforced; all = every one")
	cmd.Flags().String("network", "", "the network on which a capture was taken")
	addHistoryFlag(cmd)
	addBasisFlags(cmd)
	addOutputFlag(cmd)
	return cmd
}

func runPolicyReplay(cmd *cobra.Command, args []string) error {
	var req ReplayRequest
	req.Enforce, _ = cmd.Flags().GetStringSlice("enforce")
	src, err := sourceOf(cmd, args)
	if err != nil {
		return err
	}
	req.Since, req.Until = src.since, src.until
	own := ownBasis(cmd)
	var flows recordedInput
	switch {
	case src.history != "":
		own = true
		records, _, truncated, err := src.fromHistory()
		if err != nil {
			return err
		}
		if truncated {
			row(cmd.ErrOrStderr(), "gatehouse: there were more flows than are judged at once: ask for a shorter time")
		}
		flows.judged = recordedOf(records)
	case src.path != "":
		if flows, err = readRecorded(cmd.InOrStdin(), args[0]); err != nil {
			return err
		}
		req.Flows = &flows.views
	}
	report, err := replayed(cmd, req, flows, own)
	if err != nil {
		return err
	}
	if err := show(cmd, report, func(w io.Writer) { replayRows(w, report) }); err != nil {
		return err
	}
	if slices.ContainsFunc(report.Dropped, func(g policy.ReplayedGroup) bool { return g.Passed }) {
		return &exitError{exitNo, nil}
	}
	return nil
}

// ownBasis reports whether the flags name another policy than the gateway's.
func ownBasis(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"workloads", "compose", "stack", "policy", "models", "settings", "mode", "threat", "at"},
		func(name string) bool { return cmd.Flags().Changed(name) })
}

// replayed asks the gateway or, where flags say what policy is or flows are of a
// capture, works it out here.
func replayed(cmd *cobra.Command, req ReplayRequest, in recordedInput, own bool) (*ReplayAnswer, error) {
	captured := in.capture
	if !own && captured == nil {
		var report ReplayAnswer
		return &report, newClient(cmd).post(cmd.Context(), "/v1/replay", req, &report)
	}
	st, err := stateOf(cmd)
	if err != nil {
		return nil, err
	}
	enforce, err := enforcing(st, req.Enforce)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	switch {
	case captured != nil:
		if err := onNetwork(cmd, st, captured); err != nil {
			return nil, err
		}
	case in.judged != nil:
		captured = in.judged
	default:
		views := req.Flows
		if views == nil {
			if views, err = flowsOnRecord(cmd, &req); err != nil {
				return nil, err
			}
		}
		if captured, err = recordedFlows(*views); err != nil {
			return nil, &exitError{exitUsage, err}
		}
	}
	return &ReplayAnswer{ReplayReport: policy.Replay(st.Table, captured, enforce), Epoch: st.Table.Epoch()}, nil
}

// flowsOnRecord asks the gateway for what it has on record.
func flowsOnRecord(cmd *cobra.Command, req *ReplayRequest) (*[]FlowView, error) {
	v := url.Values{"since": {cmp.Or(req.Since, "24h")}, "limit": {"0"}}
	if req.Until != "" {
		v.Set("until", req.Until)
	}
	views := []FlowView{}
	header, err := newClient(cmd).list(cmd.Context(), withQuery("/v1/flows", v), &views)
	if header.Get(truncatedHeader) != "" {
		row(cmd.ErrOrStderr(), "gatehouse: there were more flows than are judged at once: ask for a shorter time")
	}
	return &views, err
}

// recordedInput is a file of flows, or a capture.
type recordedInput struct {
	views   []FlowView
	capture []policy.Recorded // nil = it was no capture
	judged  []policy.Recorded // of a history, nil = it was none
	replies []uint64          // of the capture's flows: packets of those who answered
}

// readRecorded tells a capture from flows by how it begins.
func readRecorded(in io.Reader, path string) (out recordedInput, err error) {
	name := path
	if path == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return out, fail(exitUsage, "flows: %w", err)
		}
		defer f.Close()
		in = f
	}
	r := bufio.NewReader(in)
	if begin, _ := r.Peek(4); !isCapture(begin) {
		out.views, err = readFlows(r, name)
		return out, err
	}
	out.capture = []policy.Recorded{}
	reader := replay.New(func(f *replay.Flow) {
		if r, ok := recordedCapture(f); ok {
			out.capture, out.replies = append(out.capture, r), append(out.replies, f.Replies)
		}
	})
	if _, err := reader.File(name, r); err != nil {
		return out, fail(exitUsage, "capture: %w", err)
	}
	return out, nil
}

// isCapture knows the magic numbers of pcap, in both byte orders and both
// resolutions, of pcapng, and of gzip.
func isCapture(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	switch binary.BigEndian.Uint32(b) {
	case 0xa1b2c3d4, 0xd4c3b2a1, 0xa1b23c4d, 0x4d3cb2a1, 0x0a0d0d0a:
		return true
	}
	return b[0] == 0x1f && b[1] == 0x8b
}

// recordedCapture is a flow of a capture as history has it; false for protocols
// that policy has no ports of.
func recordedCapture(f *replay.Flow) (r policy.Recorded, ok bool) {
	r = policy.Recorded{From: policy.RecordedEnd{Name: "@unknown", Addr: f.Src}, To: policy.RecordedEnd{Name: "@unknown", Addr: f.Dst}, DstPort: f.Dport, Port: f.Dport,
		Passed: true, Flows: 1, Packets: f.Packets, First: f.FirstSeen, Last: f.LastSeen}
	r.Name = cmp.Or(f.Attrs["sni"], f.Attrs["host"])
	if r.Proto.UnmarshalText([]byte(f.Proto)) != nil {
		return r, false
	}
	for _, word := range []struct {
		text string
		app  *policy.App
	}{{f.App, &r.Spoken.App}, {f.Sub, &r.Spoken.Sub}, {f.Inner, &r.Spoken.Inner}, {f.ALPN, &r.Spoken.ALPN}} {
		if word.text != "" {
			_ = word.app.UnmarshalText([]byte(word.text)) // a product that policy does not name is none
		}
	}
	return r, true
}

// onNetwork puts the flows of a capture where their addresses are: on the network
// that was named, else on that whose subnet holds the sender or the receiver.
func onNetwork(cmd *cobra.Command, st *control.State, flows []policy.Recorded) error {
	var named *policy.Network
	if name, _ := cmd.Flags().GetString("network"); name != "" {
		for i := range st.View.Networks {
			if n := &st.View.Networks[i]; n.Name == name || n.ID == name {
				named = n
			}
		}
		if named == nil {
			return fail(exitUsage, "no network %q among the workloads'", name)
		}
	}
	for i := range flows {
		f := &flows[i]
		if named != nil {
			f.Zone = named.Zone
			continue
		}
		f.Zone = zoneOf(st.Snapshot(), f.From.Addr, f.To.Addr)
	}
	return nil
}

func zoneOf(s *policy.Snapshot, ends ...netip.Addr) policy.Zone {
	for _, ip := range ends {
		for i := range s.Networks {
			n := &s.Networks[i]
			if slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(ip) }) {
				return n.Zone
			}
		}
	}
	return 0
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
func readFlows(in io.Reader, name string) ([]FlowView, error) {
	flows, err := decodeFlows(in)
	if err != nil {
		return nil, fail(exitUsage, "flows: %s: %w (want what `gatehouse get flows --since 24h -o json` prints, or a capture)", name, err)
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
	row(w, fmt.Sprintf("%s judged by table %d: %d pass, %d would be dropped, %d only recorded, %d depend on their application", quantity(r.Judged, "flow"), r.Epoch, r.Passed,
		flowsOf(r.Dropped), flowsOf(r.Recorded), flowsOf(r.Depends)))
	if r.Truncated {
		row(w, "there were more flows than are judged at once: ask for a shorter time")
	}
	groupRows(w, "drop", r.Dropped)
	groupRows(w, "record", r.Recorded)
	dependRows(w, r.Depends)
	for _, u := range r.Unknown {
		row(w, fmt.Sprintf("not judged: %s of %s, which is not here now", quantity(u.Flows, "flow"), u.Name))
	}
}

func flowsOf(groups []policy.ReplayedGroup) (n uint64) {
	for _, g := range groups {
		n += g.Flows
	}
	return n
}

// unreadApp is the application of a flow of which no byte was read, in tables.
const unreadApp = "not read"

// spokenText is an application in tables.
func spokenText(app string) string {
	if app == policy.AppNone.String() {
		return unreadApp
	}
	return app
}

func groupRows(w io.Writer, what string, groups []policy.ReplayedGroup) {
	if len(groups) > 0 {
		row(w, "WOULD", "FLOWS", "FROM", "TO", "APP", "PORT", "BY", "REASON", "LAST")
	}
	for i := range groups {
		g := &groups[i]
		reason := g.Reason.String()
		if g.Statement != "" {
			reason += ": " + g.Statement
		}
		row(w, what, g.Flows, g.From, calleeText(g), spokenText(g.App), g.Port, g.By+" "+g.Side.String(), reason, ago(g.Last))
	}
}

// calleeText is who would have answered, and by which name.
func calleeText(g *policy.ReplayedGroup) string {
	if g.Name != "" {
		return g.To + " (" + g.Name + ")"
	}
	return g.To
}

// dependRows are about flows of which no byte was read.
func dependRows(w io.Writer, groups []policy.ReplayedGroup) {
	if len(groups) == 0 {
		return
	}
	row(w, "of these no byte was read, as their port decided or as they carried nothing; by what they were,")
	row(w, "WOULD", "FLOWS", "FROM", "TO", "PASS AS", "PORT", "BY", "REASON", "LAST")
	for i := range groups {
		g := &groups[i]
		row(w, "pass or "+g.Else, g.Flows, g.From, calleeText(g), g.Passes, g.Port, g.By+" "+g.Side.String(), g.Reason, ago(g.Last))
	}
}

// replay answers POST /v1/replay.
func (g *gateway) replay(req ReplayRequest) (*ReplayAnswer, error) {
	st := g.control.State()
	if st == nil {
		return nil, errNoState
	}
	enforce, err := enforcing(st, req.Enforce)
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
func enforcing(st *control.State, services []string) (func(string) bool, error) {
	switch {
	case len(services) == 0:
		return nil, nil
	case slices.Contains(services, "all"):
		return func(string) bool { return true }, nil
	}
	for _, s := range services {
		if !knowsService(st, s) {
			return nil, noSuchService(st, s)
		}
	}
	return func(s string) bool { return slices.Contains(services, s) }, nil
}

func knowsService(st *control.State, name string) bool {
	return slices.ContainsFunc(st.Population.Groups, func(grp policy.Group) bool { return grp.Service.String() == name })
}

func noSuchService(st *control.State, name string) error {
	if meant := policy.Meant(name, servicesOf(st)); meant != "" {
		return badRequest{fmt.Errorf("no service %q%s", name, meant)}
	}
	return badRequest{fmt.Errorf("no service %q: `gatehouse get services` names them", name)}
}

func servicesOf(st *control.State) []string {
	var out []string
	for i := range st.Population.Groups {
		out = append(out, st.Population.Groups[i].Service.String())
	}
	return out
}

// recordedSince are the flows on record, live ones included.
func (g *gateway) recordedSince(since, until string) (flows []policy.Recorded, from time.Time, truncated bool, err error) {
	records, q, truncated, err := g.flowRecords(since, until)
	return recordedOf(records), q.Since, truncated, err
}

func recordedOf(records []*history.Record) []policy.Recorded {
	flows := make([]policy.Recorded, len(records))
	for i, r := range records {
		flows[i] = suggest.Recorded(r)
	}
	return flows
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
	st := g.control.State()
	if st == nil {
		return nil, errNoState
	}
	services, err := modeServices(st, req)
	if err != nil {
		return nil, err
	}
	p := &ModePreview{Services: services, Drops: []policy.ReplayedGroup{}, Depends: []policy.ReplayedGroup{}}
	if req.Mode != policy.Enforce.String() {
		return p, nil
	}
	r, err := g.replay(ReplayRequest{Enforce: services})
	if err != nil {
		return nil, err
	}
	p.Since, p.Truncated = g.knownSince(r.Since), r.Truncated
	p.judge(r.ReplayReport)
	return p, nil
}

// judge keeps of what would be dropped what only the services' mode makes so.
func (p *ModePreview) judge(r policy.ReplayReport) {
	p.Judged = r.Judged
	for _, group := range r.Dropped {
		if !group.Already && slices.Contains(p.Services, group.By) {
			p.Drops = append(p.Drops, group)
		}
	}
	for _, group := range r.Depends {
		if !group.Already && group.Else == "drop" && slices.Contains(p.Services, group.By) {
			p.Depends = append(p.Depends, group)
		}
	}
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
	Services []string               `json:"services"`
	Since    time.Time              `json:"since,omitzero"` // what was before is not known
	Judged   uint64                 `json:"judged"`         // flows
	Drops    []policy.ReplayedGroup `json:"drops"`
	// Depends would be dropped or not by what was spoken, of which no byte was read.
	Depends   []policy.ReplayedGroup `json:"depends"`
	Truncated bool                   `json:"truncated,omitempty"`
}

func (p *ModePreview) write(w io.Writer) {
	judged := fmt.Sprintf("of %s since %s, %s would drop", quantity(p.Judged, "flow"), p.Since.Format(time.RFC3339), strings.Join(p.Services, ", "))
	if len(p.Drops) == 0 {
		row(w, judged+" none that policy does not drop already")
	} else {
		row(w, judged+":")
	}
	if p.Truncated {
		row(w, "there were more flows than are judged at once; these are the latest")
	}
	groupRows(w, "drop", p.Drops)
	dependRows(w, p.Depends)
}

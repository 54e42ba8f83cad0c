package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"gatehouse/control/history"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

// recordQuery is what the API and the verbs ask the history for.
type recordQuery struct {
	history.Filter
	limit  int
	follow bool
	live   bool // only what lives now: neither since nor until was given
}

// Bounds of an answer where the request names none.
const (
	defaultLimit = 1000
	defaultSince = 24 * time.Hour
)

// parseRecordQuery reads the parameters of a request; a word that means nothing
// is an error that names it.
func parseRecordQuery(v url.Values, now time.Time) (q recordQuery, err error) {
	q.limit = defaultLimit
	for key := range v {
		text := v.Get(key)
		switch key {
		case "since":
			q.Since, err = parseWhen(text, now)
		case "until":
			q.Until, err = parseWhen(text, now)
		case "from":
			q.From = text
		case "to":
			q.To = text
		case "verdict":
			q.Verdict = text
		case "app":
			q.App = text
		case "reason":
			q.Reason = text
		case "limit":
			if q.limit, err = strconv.Atoi(text); err != nil || q.limit < 0 {
				err = fmt.Errorf("%q: want a number, 0 = as many as there are", text)
			}
		case "follow":
			q.follow, err = strconv.ParseBool(text)
		case "kind":
			q.Kinds, err = parseKinds(text)
		default:
			err = fmt.Errorf("there is no such parameter")
		}
		if err != nil {
			return q, badRequest{fmt.Errorf("%s: %w", key, err)}
		}
	}
	if err := q.Check(); err != nil {
		return q, badRequest{err}
	}
	if q.live = q.Since.IsZero() && q.Until.IsZero(); q.Since.IsZero() {
		q.Since = now.Add(-defaultSince)
		if !q.Until.IsZero() {
			q.Since = q.Until.Add(-defaultSince)
		}
	}
	return q, nil
}

func parseKinds(text string) ([]history.Kind, error) {
	switch text {
	case "violations", "":
		return []history.Kind{history.Violation}, nil
	case "flows":
		return []history.Kind{history.Flow}, nil
	case "all":
		return nil, nil
	}
	return nil, fmt.Errorf("%q is none of violations, flows, all", text)
}

// parseWhen reads a moment: RFC 3339, or how long ago (90m, 24h, 7d).
func parseWhen(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	age, err := parseAge(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither a time such as %s nor a duration such as 90m, 24h or 7d", text, now.UTC().Format(time.RFC3339))
	}
	return now.Add(-age), nil
}

// flows answers GET /v1/flows: what lives now, or with since or until what was.
func (g *gateway) flows(q recordQuery) (views []FlowView, truncated bool, err error) {
	q.Kinds = []history.Kind{history.Flow}
	if q.live {
		q.Since = time.Time{}
		views, truncated = g.liveFlows(&q)
		return views, truncated, nil
	}
	g.recorder.catchUp()
	records, truncated, err := g.recorder.store.Rollup(q.Filter, q.limit)
	views = make([]FlowView, len(records))
	for i, r := range records {
		views[i] = flowView(r, "history")
		views[i].Flows = max(views[i].Flows, 1) // one that began before `since` has no beginning in it
	}
	return views, truncated, err
}

func (g *gateway) liveFlows(q *recordQuery) (views []FlowView, truncated bool) {
	live := g.dataplane.Flows()
	slices.SortFunc(live, func(a, b dataplane.Flow) int { return b.Last.Compare(a.Last) })
	views = []FlowView{}
	for i := range live {
		r := g.recorder.recordOf(&live[i])
		if !q.Match(&r) {
			continue
		}
		if q.limit > 0 && len(views) == q.limit {
			return views, true
		}
		where := "worker"
		if live[i].Offloaded {
			where = "kernel"
		}
		views = append(views, flowView(&r, where))
	}
	return views, false
}

// violations answers GET /v1/violations.
func (g *gateway) violations(q recordQuery) (views []ViolationView, truncated bool, err error) {
	q.Kinds = []history.Kind{history.Violation}
	records, truncated, err := g.recorder.store.Rollup(q.Filter, q.limit)
	views = make([]ViolationView, len(records))
	for i, r := range records {
		views[i] = g.violationView(r)
	}
	return views, truncated, err
}

// recordView is one line of GET /v1/observe.
func (g *gateway) recordView(r *history.Record) any {
	if r.Kind == history.Flow {
		return flowView(r, "history")
	}
	return g.violationView(r)
}

// recordOf is a live flow as a record of its own.
func (r *recorder) recordOf(f *dataplane.Flow) history.Record {
	s := flowSample(f)
	out := history.Record{Key: s.Key, First: s.First, Last: s.Last, SrcPort: s.SrcPort, Packets: s.Packets, Bytes: s.Bytes, Flows: 1}
	out.SetID()
	r.names.describe(&out)
	return out
}

func flowView(r *history.Record, where string) FlowView {
	v := FlowView{
		ID: r.ID, From: r.From.Name, To: r.To.Name, Source: endText(r.Src, r.SrcPort), Dest: endText(r.Dst, r.DstPort), Proto: r.Proto.String(),
		App: r.Spoken.App.String(), Verdict: r.Verdict.String(), Where: where, Flows: r.Flows,
		Packets: r.Packets[0] + r.Packets[1], Replies: r.Packets[1], Bytes: r.Bytes[0] + r.Bytes[1], First: r.First, Last: r.Last, Zone: r.Zone, Port: r.Port, ControlPort: r.ControlPort,
		FromIs: partyView(&r.From), ToIs: partyView(&r.To), Statement: r.Statement, Text: r.StatementText, Epoch: r.Epoch, Summed: r.Summed, Name: r.Name,
	}
	if r.IsRecorded() {
		v.Verdict = "recorded"
	}
	if r.Reason != policy.ReasonNone {
		v.Reason = r.Reason.String()
	}
	v.Sub, v.Inner, v.ALPN = appWord(r.Spoken.Sub), appWord(r.Spoken.Inner), appWord(r.Spoken.ALPN)
	if v.ALPN != "" {
		v.Detail = "alpn " + v.ALPN
	}
	return v
}

func appWord(a policy.App) string {
	if a == policy.AppNone {
		return ""
	}
	return a.String()
}

func partyView(p *history.Party) *history.Party {
	if *p == (history.Party{}) {
		return nil
	}
	return p
}

func (g *gateway) violationView(r *history.Record) ViolationView {
	v := ViolationView{
		ID: r.ID, First: r.First, Last: r.Last, Count: r.Packets[0] + r.Packets[1], From: r.From.Name, To: r.To.Name,
		Source: endText(r.Src, r.SrcPort), Dest: endText(r.Dst, r.DstPort), Proto: r.Proto.String(), App: r.Spoken.String(),
		Verdict: "dropped", Reason: r.Reason.String(), Why: why(r), Zone: r.Zone, Port: r.Port, FromIs: partyView(&r.From), ToIs: partyView(&r.To),
		Statement: r.Statement, Text: r.StatementText, Epoch: r.Epoch, Summed: r.Summed,
	}
	v.Workload = r.From.Name
	if r.Workload[0] == "" {
		v.Workload = r.To.Name
	}
	if g.place == nil {
		v.Direction = directionOf(r).String()
	}
	if r.IsRecorded() {
		v.Verdict = "recorded"
	}
	switch r.Reason {
	case policy.ReasonNoRule, policy.ReasonDenied, policy.ReasonApp, policy.ReasonAppUnknown:
		v.Side = r.Side.String()
		whose := r.From.Name
		if r.Side == policy.SideIn {
			whose = r.To.Name
		}
		v.Why = fmt.Sprintf("%s's %s side: %s", whose, v.Side, v.Why)
	}
	if r.Name != "" {
		v.Name = r.Name
		v.Why += ": " + r.Name
	}
	if v.From == "" { // the packets were dropped before anybody read who sends them
		v.From = "@unknown"
	}
	return v
}

// directionOf is the hook at which the packet that gave a violation's reason was met.
func directionOf(r *history.Record) dataplane.Direction {
	if r.Outgoing {
		return dataplane.FromEndpoint
	}
	return dataplane.ToEndpoint
}

func endText(a netip.Addr, port uint16) string {
	if !a.IsValid() {
		return "-"
	}
	return netip.AddrPortFrom(a, port).String()
}

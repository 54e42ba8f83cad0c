package main

import (
	"cmp"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/control"
	"gatehouse/control/history"
	"gatehouse/policy"
)

// flowSource is where a verb that works without a gateway takes flows from: a file
// of flows or a capture, the history that a gateway left, else the running
// gateway's record.
type flowSource struct {
	path         string // of flows or a capture; "-" = standard input
	history      string
	since, until string
	lookups      bool // a history's refused lookups too
}

func addHistoryFlag(cmd *cobra.Command) {
	cmd.Flags().String("history", "", "take the flows from this history.db, which no gateway has open")
}

// sourceOf reads the arguments and flags that say where flows come from.
func sourceOf(cmd *cobra.Command, args []string) (src flowSource, err error) {
	src.since, _ = cmd.Flags().GetString("since")
	if f := cmd.Flags().Lookup("until"); f != nil {
		src.until = f.Value.String()
	}
	src.history, _ = cmd.Flags().GetString("history")
	if len(args) == 1 {
		src.path = args[0]
	}
	switch {
	case src.path != "" && src.history != "":
		return src, fail(exitUsage, "a file of flows or --history: one of the two")
	case src.path != "" && (src.since != "" || src.until != ""):
		return src, fail(exitUsage, "a file of flows has its own time: leave out --since and --until")
	}
	return src, nil
}

// isFile reports whether no gateway is asked for flows.
func (src *flowSource) isFile() bool { return src.path != "" || src.history != "" }

// records are the flows, under the names that st has for those that have none;
// since is from when on they are whole.
func (src *flowSource) records(cmd *cobra.Command, st *control.State) (records []*history.Record, since time.Time, truncated bool, err error) {
	switch {
	case src.history != "":
		return src.fromHistory()
	case src.path == "":
		var views *[]FlowView
		if views, err = flowsOnRecord(cmd, &ReplayRequest{Since: src.since, Until: src.until}); err != nil {
			return nil, since, false, err
		}
		records, err = recordsOfViews(*views)
		return records, earliest(records), false, err
	}
	in, err := readRecorded(cmd.InOrStdin(), src.path)
	if err != nil {
		return nil, since, false, err
	}
	if in.capture == nil {
		records, err = recordsOfViews(in.views)
		return records, earliest(records), false, err
	}
	if err := onNetwork(cmd, st, in.capture); err != nil {
		return nil, since, false, err
	}
	var who names
	who.init()
	who.follow(st)
	for i := range in.capture {
		r := recordFrom(&in.capture[i])
		r.Packets = [2]uint64{in.capture[i].Packets - in.replies[i], in.replies[i]}
		who.describe(r)
		records = append(records, r)
	}
	return records, earliest(records), false, nil
}

func (src *flowSource) fromHistory() (records []*history.Record, since time.Time, truncated bool, err error) {
	v := url.Values{"since": {cmp.Or(src.since, "24h")}}
	if src.until != "" {
		v.Set("until", src.until)
	}
	q, err := parseRecordQuery(v, time.Now())
	if err != nil {
		return nil, since, false, &exitError{exitUsage, err}
	}
	q.Kinds = []history.Kind{history.Flow}
	err = history.Read(src.history, func(s *history.Store) error {
		var err error
		if records, truncated, err = s.Rollup(q.Filter, 0); err != nil {
			return err
		}
		since = s.Began()
		if src.lookups {
			lookups, more, err := refusedLookups(s, q.Filter)
			records, truncated = append(records, lookups...), truncated || more
			return err
		}
		return nil
	})
	if err != nil {
		return nil, since, false, &exitError{exitUsage, err}
	}
	if since.Before(q.Since) {
		since = q.Since
	}
	return records, since, truncated, nil
}

func earliest(records []*history.Record) time.Time {
	var first time.Time
	for _, r := range records {
		if first.IsZero() || !r.First.IsZero() && r.First.Before(first) {
			first = r.First
		}
	}
	return first
}

func latest(records []*history.Record) time.Time {
	var last time.Time
	for _, r := range records {
		if r.Last.After(last) {
			last = r.Last
		}
	}
	return last
}

// recordsOfViews reads flows as the API shows them; the error names the first that
// cannot be.
func recordsOfViews(views []FlowView) ([]*history.Record, error) {
	flows, err := recordedFlows(views)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	out := make([]*history.Record, len(views))
	for i := range flows {
		v, f := &views[i], &flows[i]
		r := recordFrom(f)
		r.ControlPort, r.Summed = v.ControlPort, v.Summed
		r.Packets = [2]uint64{v.Packets - min(v.Replies, v.Packets), v.Replies}
		r.From, r.To = partyOfView(v.FromIs, v.From), partyOfView(v.ToIs, v.To)
		_ = r.Reason.UnmarshalText([]byte(v.Reason)) // another version's is none
		out[i] = r
	}
	return out, nil
}

// recordFrom is a flow that policy can judge as the history would have it.
func recordFrom(f *policy.Recorded) *history.Record {
	r := &history.Record{Key: history.Key{Kind: history.Flow, Zone: f.Zone, Proto: f.Proto, Src: f.From.Addr, Dst: f.To.Addr, DstPort: f.DstPort,
		Spoken: f.Spoken, Name: f.Name}, Port: f.Port, First: f.First, Last: f.Last, Flows: f.Flows}
	if f.Passed {
		r.Verdict = policy.Allow
	}
	return r
}

func partyOfView(is *history.Party, name string) history.Party {
	p := history.Party{Name: name}
	if is != nil {
		p = *is
		p.Name = name
	}
	if p.Service.Name == "" && name != "" && name[0] != '@' {
		project, service, ok := strings.Cut(name, "/")
		if !ok {
			project, service = "", name
		}
		p.Service = policy.ServiceKey{Project: policy.ProjectKey{Name: project}, Name: service}
	}
	return p
}

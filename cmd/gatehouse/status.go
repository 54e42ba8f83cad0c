package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/dataplane"
	"gatehouse/models"
	"gatehouse/policy"
)

func newStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "What the gateway guards, what it cannot guard, and what it dropped",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s Status
			if err := newClient(cmd).get(cmd.Context(), "/v1/status", &s); err != nil {
				return err
			}
			if err := show(cmd, s, func(w io.Writer) { s.write(w) }); err != nil {
				return err
			}
			if !s.Ready {
				return &exitError{exitNo, nil}
			}
			return nil
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func (s *Status) write(w io.Writer) {
	state := "ready"
	if !s.Ready {
		state = "NOT READY"
	}
	row(w, "gateway", fmt.Sprintf("%s, %s, up %s, table %d", state, s.Version, time.Since(s.Started).Truncate(time.Second), s.Epoch))
	if s.Place != "" {
		row(w, "place", s.Place+", "+s.Mode.String())
		s.Situation.write(w)
	} else {
		s.writeGuarded(w)
	}
	row(w, "flows", s.Flows)
	s.History.write(w)
	for _, name := range slices.Sorted(maps.Keys(s.Packets)) {
		text := fmt.Sprint(s.Packets[name])
		if words := wayText[name]; words != "" {
			text += ", " + words
		}
		row(w, "packets "+name, text)
	}
	for _, reason := range slices.Sorted(maps.Keys(s.Drops)) {
		text := fmt.Sprint(s.Drops[reason])
		if n := s.DropsBy[dataplane.ToEndpoint.String()][reason]; n > 0 {
			text += fmt.Sprintf(", %d of them sent to an interface here", n)
		}
		if words := reasonText(reason); words != "" {
			text += ": " + words
		}
		row(w, "dropped "+reason, text)
	}
	for _, n := range s.Closed {
		row(w, "closed by default", n)
	}
	for _, u := range s.Uncovered {
		row(w, "UNCOVERED", u.Workload+": "+u.Why)
	}
	for _, p := range s.Problems {
		for line := range strings.SplitSeq(p, "\n") {
			row(w, "PROBLEM", line)
		}
	}
	s.writeFindings(w)
}

func (s *Status) writeFindings(w io.Writer) {
	findings, absent := absent(s.Findings)
	findings, clipped := clipped(findings)
	for _, f := range findings {
		said := func(u Uncovered) bool { return u.Workload == f.Subject }
		if f.Kind == string(models.FindingUncovered) && slices.ContainsFunc(s.Uncovered, said) {
			continue
		}
		row(w, "finding "+f.Kind, f.Subject+": "+f.Text)
	}
	if clipped != "" {
		row(w, "finding "+string(models.FindingClipped), clipped)
	}
	if absent != "" {
		row(w, "finding "+findingNobody, absent)
	}
}

// clipped parts those whose model is clipped from the other findings, and says it of
// all in one line; "" where they are few. Where images are built on the host it is
// everybody.
func clipped(findings []Finding) (others []Finding, text string) {
	const most = 3
	var names []string
	for _, f := range findings {
		if f.Kind == string(models.FindingClipped) {
			names = append(names, f.Subject)
		} else {
			others = append(others, f)
		}
	}
	if len(names) <= most {
		return findings, ""
	}
	return others, fmt.Sprintf("%s and %d more, which -o json lists: only the names of their images say what they are: their models reach their own projects only; "+
		"label gatehouse.model=MODEL trusts it", strings.Join(names[:most], ", "), len(names)-most)
}

// wayText says of each count of packets which they are.
var wayText = map[string]string{
	"decided":   "by the kernel's flow table",
	"peered":    "of those decided or returned: straight into the other container",
	"steered":   "to the gateway, to be judged",
	"returned":  "passed on from there",
	"forwarded": "passed on by the gateway",
	"recorded":  "let by though policy says no: a mode observes",
	"unguarded": "between ends of which neither is guarded: not judged",
	"unjudged":  "let by while the gateway could not judge: the endpoint is open then",
}

// reasonText is a reason of drops in words.
func reasonText(name string) string {
	var r policy.Reason
	if r.UnmarshalText([]byte(name)) != nil {
		return ""
	}
	return whyText[r]
}

// writeGuarded is about the containers.
func (s *Status) writeGuarded(w io.Writer) {
	docker := "connected, last full sync " + ago(s.Docker.LastSync)
	if !s.Docker.Connected {
		docker = "NOT CONNECTED, last full sync " + ago(s.Docker.LastSync) + ": " + s.Docker.Error
	}
	row(w, "docker", docker)
	row(w, "services", fmt.Sprintf("%d enforce, %d observe, %d not guarded; default mode %s", s.Services.Enforce, s.Services.Observe, s.Services.Unenrolled, s.Mode))
	if s.Services.Away > 0 {
		row(w, "", fmt.Sprintf("%d on other nodes, whose own gateways judge them", s.Services.Away))
	}
	if s.Services.Observe > 0 {
		row(w, "", "observe lets pass what policy does not allow: `gatehouse mode SERVICE enforce` drops it")
	}
	s.Situation.write(w)
	row(w, "interfaces", fmt.Sprintf("%d guarded, %d waiting", s.Endpoints.Admitted, s.Endpoints.Waiting))
}

func (h *HistoryStatus) write(w io.Writer) {
	if h.File == "" {
		return
	}
	text := fmt.Sprintf("since %s, %d MB in %s", h.Since.Format(time.RFC3339), h.Bytes>>20, h.File)
	for _, c := range []struct {
		n    uint64
		what string
	}{{h.LostFlows, "flows lost"}, {h.LostViolations, "violations lost"}, {h.Summed, "kept without addresses"}, {h.Damaged, "unreadable"}} {
		if c.n > 0 {
			text += fmt.Sprintf(", %d %s", c.n, c.what)
		}
	}
	row(w, "history", text)
	if h.Problem != "" {
		row(w, "PROBLEM", h.Problem)
	}
}

func (s *SituationStatus) write(w io.Writer) {
	if s.ThreatSet != "" {
		row(w, "threat level", s.Threat.String()+", "+s.ThreatSet)
	} else {
		row(w, "threat level", s.Threat)
	}
	for _, q := range s.Quarantines {
		row(w, "QUARANTINE", q.Subject+" "+q.String())
	}
	for _, r := range s.Records {
		row(w, "record "+r.Name, fmt.Sprintf("%s of %s, %s", quantity(r.Records, "record"), r.From, ago(r.Good)))
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gatehouse/control"
	"gatehouse/operator"
	"gatehouse/policy"
)

// HoldRequest is the body of POST /v1/threat, /v1/quarantine and /v1/release.
type HoldRequest struct {
	Subject string `json:"subject,omitempty"` // service or container
	Level   string `json:"level,omitempty"`   // of a threat
	For     string `json:"for,omitempty"`     // a duration; "" = until it is taken back
	Why     string `json:"why"`
}

// HoldAnswer says what is in force now.
type HoldAnswer struct {
	Text  string   `json:"text"`
	Notes []string `json:"notes"`
}

// SituationStatus is the part of Status on what people and systems of record set.
type SituationStatus struct {
	Threat      operator.Threat        `json:"threat"`
	ThreatSet   string                 `json:"threatSet,omitempty"` // by whom, since when, why
	Quarantines []QuarantineStatus     `json:"quarantines"`
	Records     []control.SourceStatus `json:"records"`
	Files       string                 `json:"files,omitempty"` // faults of the operator's files
	FilesSince  time.Time              `json:"filesSince,omitzero"`
}

// QuarantineStatus is one service or container that is cut off.
type QuarantineStatus struct {
	Subject string `json:"subject"`
	control.Hold
}

func newThreatCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "threat",
		Short: "The threat level, by which statements can hold: normal, elevated, high or critical",
	}
	set := &cobra.Command{
		Use:       "set LEVEL",
		Short:     "Set the threat level. Durable, or for a time",
		Long:      "Statements with a condition on the threat level come into force, or go out of it, at once.\n\n" + previewNote,
		Example:   "  gatehouse threat set high --for 2h --why 'incident 12'\n  gatehouse threat set high --workloads host.yaml --policy ./policy",
		Args:      usageArgs(1),
		ValidArgs: flagWords["threat"],
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := operator.ParseThreat(args[0])
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if ownBasis(cmd) {
				return previewThreat(cmd, level)
			}
			return hold(cmd, "/v1/threat", HoldRequest{Level: args[0]})
		},
	}
	holdFlags(set, false)
	addPreviewFlags(set)
	cmd.AddCommand(set)
	return cmd
}

func newQuarantineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "quarantine SERVICE|CONTAINER",
		Short:             "Cut a service or a container off from everybody, in every mode. Durable, or for a time",
		Long:              "Quarantine is a deny of all that goes to the subject and all that comes from it, in observe mode too; live flows end.\n\n" + previewNote,
		Example:           "  gatehouse quarantine shop/web --for 1h --why 'incident 12'\n  gatehouse quarantine shop/web --why drill --workloads host.yaml",
		Args:              usageArgs(1),
		ValidArgsFunction: completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			if ownBasis(cmd) {
				return previewQuarantine(cmd, args[0], cmd.Flag("why").Value.String())
			}
			return hold(cmd, "/v1/quarantine", HoldRequest{Subject: args[0]})
		},
	}
	holdFlags(cmd, true)
	addPreviewFlags(cmd)
	return cmd
}

func newReleaseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "release SERVICE|CONTAINER",
		Short:             "End a quarantine",
		Long:              previewNote,
		Example:           "  gatehouse release shop/web --why 'incident 12 is over'\n  gatehouse release shop/web --workloads host.yaml",
		Args:              usageArgs(1),
		ValidArgsFunction: completeQuarantined,
		RunE: func(cmd *cobra.Command, args []string) error {
			if ownBasis(cmd) {
				return previewRelease(cmd, args[0])
			}
			return hold(cmd, "/v1/release", HoldRequest{Subject: args[0]})
		},
	}
	cmd.Flags().String("why", "", "the reason, for the log")
	addPreviewFlags(cmd)
	return cmd
}

func holdFlags(cmd *cobra.Command, whyRequired bool) {
	cmd.Flags().String("for", "", "how long, such as 2h; without it until it is taken back")
	cmd.Flags().String("why", "", "the reason, for status, explain and the log")
	if whyRequired {
		_ = cmd.MarkFlagRequired("why")
	}
}

func hold(cmd *cobra.Command, path string, req HoldRequest) error {
	req.Why, _ = cmd.Flags().GetString("why")
	if f := cmd.Flags().Lookup("for"); f != nil {
		req.For = f.Value.String()
	}
	var answer HoldAnswer
	if err := newClient(cmd).post(cmd.Context(), path, req, &answer); err != nil {
		return err
	}
	row(cmd.OutOrStdout(), answer.Text)
	for _, note := range answer.Notes {
		row(cmd.OutOrStdout(), "note: "+note)
	}
	return nil
}

// callerKey is under which a request's context has its caller.
type callerKey struct{}

// withCaller notes who is at the other end of a Unix socket, as the kernel says.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	who := "somebody"
	if u, ok := c.(*net.UnixConn); ok {
		if raw, err := u.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
					who = fmt.Sprintf("uid %d", cred.Uid)
				}
			})
		}
	}
	return context.WithValue(ctx, callerKey{}, who)
}

// longestHold bounds --for.
const longestHold = 366 * 24 * time.Hour

func (req *HoldRequest) hold(r *http.Request) (control.Hold, error) {
	by, _ := r.Context().Value(callerKey{}).(string)
	h := control.Hold{By: by, Why: req.Why, Since: time.Now().Truncate(time.Second)}
	if req.For == "" {
		return h, nil
	}
	d, err := time.ParseDuration(req.For)
	if err != nil || d <= 0 || d > longestHold {
		return h, badRequest{fmt.Errorf("for %q: want a duration up to a year, such as 2h or 90m", req.For)}
	}
	h.Until = time.Now().Add(d)
	return h, nil
}

func (s *server) threat(r *http.Request) (any, error) {
	var req HoldRequest
	if err := decodeBody(r, &req); err != nil {
		return nil, err
	}
	level, err := operator.ParseThreat(req.Level)
	if err != nil {
		return nil, badRequest{err}
	}
	h, err := req.hold(r)
	if err != nil {
		return nil, err
	}
	if err := s.gw.control.SetThreat(level, h); err != nil {
		return nil, err
	}
	answer := HoldAnswer{Text: fmt.Sprintf("threat level %s, %s", level, h), Notes: []string{}}
	if st := s.gw.control.State(); st != nil && st.Situation.Moment.Threat > level {
		answer.Notes = append(answer.Notes, higherThreat(st.Situation.Moment.Threat))
	}
	return answer, nil
}

func (s *server) quarantine(r *http.Request) (any, error) {
	var req HoldRequest
	if err := decodeBody(r, &req); err != nil {
		return nil, err
	}
	h, err := req.hold(r)
	if err != nil {
		return nil, err
	}
	if req.Why == "" {
		return nil, badRequest{errors.New("say why: --why TEXT")}
	}
	st := s.gw.control.State()
	if st == nil {
		return nil, errNoState
	}
	affected, unguarded := affectedBy(st, req.Subject)
	if len(affected) == 0 {
		return nil, noSuchSubject(st, req.Subject)
	}
	if err := s.gw.control.Quarantine(req.Subject, h); err != nil {
		return nil, err
	}
	return HoldAnswer{Text: fmt.Sprintf("%s is cut off: %s", req.Subject, h), Notes: unguardedNotes(unguarded)}, nil
}

// affectedBy lists the services of which containers would be cut off, and those
// of them that are not guarded.
func affectedBy(st *control.State, subject string) (affected, unguarded []string) {
	for w := range st.View.Workloads {
		if !control.Belongs(subject, w) {
			continue
		}
		affected = append(affected, w.Service.String())
		if g := st.Population.Group(w.ID); g == nil || !g.Guarded {
			unguarded = append(unguarded, w.Name)
		}
	}
	return affected, unguarded
}

func (s *server) release(r *http.Request) (any, error) {
	var req HoldRequest
	if err := decodeBody(r, &req); err != nil {
		return nil, err
	}
	h, err := req.hold(r)
	if err != nil {
		return nil, err
	}
	found, err := s.gw.control.Release(req.Subject, h.By, h.Why)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, notHeld(req.Subject)
	}
	return HoldAnswer{Text: req.Subject + " is released", Notes: []string{}}, nil
}

// situation tells what people and systems of record set.
func (g *gateway) situation(st *control.State) SituationStatus {
	s := SituationStatus{Quarantines: []QuarantineStatus{}, Records: g.inputs.records.Status()}
	s.Files, s.FilesSince = g.inputs.files.Fault()
	if st == nil {
		return s
	}
	s.Threat = st.Situation.Moment.Threat
	if h := st.Situation.Threat; h.By != "" {
		s.ThreatSet = h.String()
	}
	for subject, h := range st.Situation.Quarantines {
		s.Quarantines = append(s.Quarantines, QuarantineStatus{subject, h})
	}
	return s
}

// modeOfFile is the mode that the operator's file gives a service: no verb
// changes that (V5).
func modeOfFile(st *control.State, services []string, mode policy.Mode) error {
	for _, name := range services {
		if m, ok := st.Rules.Policy.Modes[name]; ok && m != mode {
			return badRequest{fmt.Errorf("%s: the operator's file of statements says %s: change it there", name, m)}
		}
	}
	return nil
}

// problems are what needs a person, though the last good policy is in force.
func (s *SituationStatus) problems() []string {
	var out []string
	if s.Files != "" {
		out = append(out, fmt.Sprintf("the operator's files have faults since %s, the last good policy stays:\n%s", s.FilesSince.Format(time.RFC3339), s.Files))
	}
	for _, r := range s.Records {
		if r.Fault != "" {
			stays := "and has said nothing yet"
			if !r.Good.IsZero() {
				stays = "what it said " + ago(r.Good) + " stays"
			}
			out = append(out, fmt.Sprintf("system of record %s fails since %s, %s: %s", r.Name, r.Since.Format(time.RFC3339), stays, r.Fault))
		}
		if r.Unkept != "" {
			out = append(out, fmt.Sprintf("what system of record %s says is in force, and cannot be kept for a restart: %s", r.Name, r.Unkept))
		}
	}
	return out
}

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newObserveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Print violations, or flows, as they happened and happen, one a line",
		Long: "Observe prints what is on record, in the order of when it was last seen, and with -f goes on with what comes: violations, or with --kind flows\n" +
			"or all what passed too. A line sums up one minute of what is equal but for the source port; a conversation is counted in the minute in\n" +
			"which it was first seen, and goes on in those that follow.",
		Example: "  gatehouse observe -f --to shop/db\n" +
			"  gatehouse observe --since 24h --kind all --app ssh -o json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, _ := cmd.Flags().GetString("output")
			q := filterQuery(cmd)
			for _, name := range []string{"follow", "kind"} {
				if f := cmd.Flags().Lookup(name); f.Changed {
					q.Set(name, f.Value.String())
				}
			}
			return observe(cmd, "/v1/observe", q, format == "json")
		},
	}
	cmd.Flags().BoolP("follow", "f", false, "go on until interrupted")
	cmd.Flags().String("kind", "violations", "violations, flows or all; --verdict allow means all")
	addFilterFlags(cmd)
	addFormats(cmd, "table, or json: one object a line", "table", "json")
	return cmd
}

// addFilterFlags declares what chooses flows and violations.
func addFilterFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("since", "", "last seen since then: a time (2026-03-01T12:00:00Z) or how long ago (90m, 24h, 7d)")
	f.String("until", "", "begun before then: a time, or how long ago")
	f.String("from", "", "who began: a service, PROJECT/, @peer, address or prefix")
	f.String("to", "", "who answered: the same, or the host that was asked for")
	f.String("verdict", "", "allow, drop, reject, undecided or recorded")
	f.String("app", "", "application")
	f.String("reason", "", "why it was not allowed: no-rule, app, ...")
	f.Int("limit", defaultLimit, "the latest so many; 0 = all")
}

// filterQuery is the request's form of the filter flags that were given; the
// gateway checks them.
func filterQuery(cmd *cobra.Command) url.Values {
	q := url.Values{}
	for _, name := range []string{"since", "until", "from", "to", "verdict", "app", "reason", "limit"} {
		if f := cmd.Flags().Lookup(name); f.Changed {
			q.Set(name, f.Value.String())
		}
	}
	return q
}

func withQuery(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

func observe(cmd *cobra.Command, path string, q url.Values, asJSON bool) error {
	answer, err := newClient(cmd).ask(cmd.Context(), http.MethodGet, withQuery(path, q), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	notes(cmd, answer.Header)
	out := cmd.OutOrStdout()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if asJSON {
			if err := writeJSON(out, append(lines.Bytes(), '\n')); err != nil {
				return err
			}
			continue
		}
		if err := observedRow(out, lines.Bytes()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil && cmd.Context().Err() == nil {
		return fail(exitReach, "the gateway's stream ended: %w", err)
	}
	return nil
}

// notes shows what the gateway has to say of what was asked for.
func notes(cmd *cobra.Command, header http.Header) {
	for _, text := range header.Values(noteHeader) {
		row(cmd.ErrOrStderr(), "gatehouse: "+text)
	}
}

// observedRow shows one line of the stream; violations say why.
func observedRow(out io.Writer, line []byte) error {
	var v struct {
		ViolationView
		Packets uint64 `json:"packets"`
		Flows   uint64 `json:"flows"`
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return fail(exitReach, "the gateway's stream is broken: %w", err)
	}
	text := fmt.Sprintf("%s %s %s -> %s %s %s %s", clockText(v.Last, time.Now()), v.ID, partyText(v.From), partyText(v.To), destinationText(v.Proto, v.Dest), saidText(v.App), v.Verdict)
	switch {
	case v.Why != "":
		text += fmt.Sprintf(" (%s) %s", v.Reason, v.Why)
	case v.Flows == 0: // it was counted in the minute in which it began
		text += fmt.Sprintf(" goes on, %s", quantity(v.Packets, "packet"))
	default:
		text += fmt.Sprintf(" %s, %s", quantity(v.Flows, "flow"), quantity(v.Packets, "packet"))
	}
	row(out, text)
	return nil
}

// clockText is the time of day, after its date where that is not today's.
func clockText(t, now time.Time) string {
	t = t.In(now.Location())
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04:05.000")
	}
	return t.Format("2006-01-02 15:04:05.000")
}

// saidText is spokenText as one word.
func saidText(app string) string { return "app=" + strings.ReplaceAll(spokenText(app), " ", "-") }

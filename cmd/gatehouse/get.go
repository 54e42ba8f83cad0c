package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newGetCommand() *cobra.Command {
	get := &cobra.Command{
		Use:   "get",
		Short: "List workloads, services, statements, rules, models, flows or violations",
	}
	get.AddCommand(
		listCommand("workloads", "Running containers: model, trust, mode, and why", workloadRows),
		listCommand("services", "Identities: equal workloads of one service", serviceRows),
		listCommand("statements", "Who may talk to whom, and the metadata it follows from", statementRows),
		listCommand("rules", "What statements compile to, with the statement behind each", ruleRows),
		listCommand("names", "What names stand for, by the DNS answers that workloads were given", nameRows),
		listCommand("models", "Models in use by the gateway", modelRows),
		recordsCommand("flows", "Live conversations, or with --since those on record", flowRows),
		recordsCommand("violations", "What policy did not allow in the last 24 hours, dropped or only recorded", violationRows),
		newGetSnapshot(),
	)
	return get
}

// listCommand is `get NAME`: GET /v1/NAME, shown as table, JSON or YAML.
func listCommand[T any](name, short string, rows func(io.Writer, []T)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items := []T{}
			if err := newClient(cmd).get(cmd.Context(), "/v1/"+name, &items); err != nil {
				return err
			}
			return show(cmd, items, func(w io.Writer) { rows(w, items) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// recordsCommand is listCommand with filters.
func recordsCommand[T any](name, short string, rows func(io.Writer, []T)) *cobra.Command {
	cmd := listCommand[T](name, short, rows)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		items := []T{}
		header, err := newClient(cmd).list(cmd.Context(), withQuery("/v1/"+name, filterQuery(cmd)), &items)
		if err != nil {
			return err
		}
		notes(cmd, header)
		if header.Get(truncatedHeader) != "" {
			row(cmd.ErrOrStderr(), fmt.Sprintf("gatehouse: these are the latest %d; there are more (--limit 0 for all)", len(items)))
		}
		return show(cmd, items, func(w io.Writer) { rows(w, items) })
	}
	addFilterFlags(cmd)
	return cmd
}

func workloadRows(w io.Writer, items []WorkloadView) {
	row(w, "SERVICE", "CONTAINER", "IMAGE", "MODEL", "TRUST", "MODE", "INTERFACES", "WHY")
	for _, i := range items {
		state := i.Mode.String()
		switch {
		case i.Uncovered != "":
			state = "UNCOVERED"
		case i.Node != "":
			state = "on " + i.Node
		case !i.Guarded:
			state = "not enrolled"
		}
		admitted := 0
		for _, e := range i.Endpoints {
			if e.Admitted {
				admitted++
			}
		}
		why := strings.Join(i.Reasons, "; ")
		if i.Uncovered != "" {
			why = i.Uncovered
		}
		if len(i.Drift) > 0 {
			why += "; " + strings.Join(i.Drift, "; ")
		}
		row(w, i.Service, i.Name, i.Image, i.Model, i.Trust, state, fmt.Sprintf("%d/%d", admitted, len(i.Endpoints)), why)
	}
}

func serviceRows(w io.Writer, items []ServiceView) {
	row(w, "SERVICE", "ID", "MODEL", "TRUST", "ROLES", "MODE", "MEMBERS")
	for _, i := range items {
		mode := i.Mode.String()
		switch {
		case i.Away:
			mode = "on other nodes"
		case !i.Guarded:
			mode = "not guarded"
		}
		row(w, i.Service, i.Identity, i.Model, i.Trust, strings.Join(i.Roles, ","), mode, i.Members)
	}
}

func statementRows(w io.Writer, items []StatementView) {
	for _, i := range items {
		for _, text := range i.Text {
			note := "# " + strings.Join(i.Origin, "; ")
			if i.Pending != "" {
				note += "  [pending: " + i.Pending + "]"
			}
			if i.What.While != "" {
				note += "  [while " + i.What.While + "]"
			}
			row(w, text, note)
		}
	}
}

func ruleRows(w io.Writer, items []RuleView) {
	row(w, "VERDICT", "FROM", "TO", "APP", "PORTS", "TIER", "STATEMENT", "ORIGIN")
	for _, i := range items {
		row(w, i.Verdict, i.From, i.To, i.App, i.Ports, i.Tier, i.Statement, i.Origin)
	}
}

func flowRows(w io.Writer, items []FlowView) {
	row(w, "FROM", "TO", "SOURCE", "DESTINATION", "APP", "VERDICT", "WHERE", "FLOWS", "PACKETS", "BYTES", "LAST")
	for _, i := range items {
		app := spokenText(i.App)
		if i.Sub != "" {
			app += "/" + i.Sub
		}
		if i.Inner != "" {
			app += "+" + i.Inner
		}
		row(w, i.From, i.To, i.Source, i.Proto+" "+i.Dest, app, i.Verdict, i.Where, i.Flows, i.Packets, i.Bytes, ago(i.Last))
	}
}

func violationRows(w io.Writer, items []ViolationView) {
	row(w, "ID", "LAST", "COUNT", "FROM", "TO", "DESTINATION", "APP", "VERDICT", "REASON", "WHY")
	for _, i := range items {
		row(w, i.ID, ago(i.Last), i.Count, partyText(i.From), partyText(i.To), destinationText(i.Proto, i.Dest), spokenText(i.App), i.Verdict, i.Reason, i.Why)
	}
}

// noDestination is the destination of what has no addresses: of frames that nobody
// could judge only one end is known.
const noDestination = "-"

func partyText(name string) string { return cmp.Or(name, "-") }

func destinationText(proto, dest string) string {
	if dest == noDestination {
		return dest
	}
	return proto + " " + dest
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return time.Since(t).Truncate(time.Second).String() + " ago"
}

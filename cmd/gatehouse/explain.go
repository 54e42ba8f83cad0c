package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// ExplainAnswer is the body of POST /v1/explain.
type ExplainAnswer struct {
	Allowed   bool           `json:"allowed"`
	Violation *ViolationView `json:"violation,omitempty"`
	Lines     []ExplainLine  `json:"lines"`
	Detail    any            `json:"detail"`
}

// ExplainLine is one labelled line of an explanation.
type ExplainLine struct {
	What string `json:"what"`
	Text string `json:"text"`
}

func newExplainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [VIOLATION]",
		Short: "Why a flow passes or not: verdict, rule, statement, model, metadata, and what to change",
		Example: "  gatehouse explain 2f1c0a9b77e3\n" +
			"  gatehouse explain --from shop/web --to shop/db --port tcp/3306 --app mysql",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var req ExplainRequest
			req.From, _ = cmd.Flags().GetString("from")
			req.To, _ = cmd.Flags().GetString("to")
			req.Port, _ = cmd.Flags().GetString("port")
			req.App, _ = cmd.Flags().GetString("app")
			if len(args) == 1 {
				req.ID = args[0]
			}
			byFlow := req.From != "" || req.To != "" || req.Port != ""
			if (req.ID == "") == !byFlow || byFlow && (req.From == "" || req.To == "" || req.Port == "") {
				return fail(exitUsage, "explain a violation's id, or --from A --to B --port tcp/N [--app NAME]")
			}
			var answer ExplainAnswer
			if err := newClient(cmd).post(cmd.Context(), "/v1/explain", req, &answer); err != nil {
				return err
			}
			if err := show(cmd, answer, func(w io.Writer) { explainRows(w, &answer) }); err != nil {
				return err
			}
			if !answer.Allowed {
				return &exitError{exitNo, nil}
			}
			return nil
		},
	}
	cmd.Flags().String("from", "", "who starts: service, address or @peer")
	cmd.Flags().String("to", "", "who answers: service, address or @peer")
	cmd.Flags().String("port", "", "tcp/N, udp/N or icmp")
	cmd.Flags().String("app", "", "application; without it, what would be allowed is named")
	addOutputFlag(cmd)
	return cmd
}

func explainRows(w io.Writer, a *ExplainAnswer) {
	if v := a.Violation; v != nil {
		row(w, "violation", fmt.Sprintf("%s: %s -> %s, %s %s, app %s, %d packets, %s (%s)", v.ID, v.From, v.To, v.Proto, v.Dest, v.App, v.Count, v.Verdict, v.Reason))
	}
	for _, l := range a.Lines {
		row(w, l.What, l.Text)
	}
}

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/control"
	"gatehouse/models"
	"gatehouse/policy"
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
			"  gatehouse explain --from shop/web --to shop/db --port tcp/3306 --app mysql\n" +
			"  gatehouse explain --from shop/web --to shop/db --port tcp/3306 --app mysql --compose compose.yaml",
		Args: cobra.MaximumNArgs(1),

		ValidArgsFunction: completeViolation,
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
			answer, err := explained(cmd, req)
			if err != nil {
				return err
			}
			if err := show(cmd, answer, func(w io.Writer) { explainRows(w, answer) }); err != nil {
				return err
			}
			if !answer.Allowed {
				return &exitError{exitNo, nil}
			}
			return nil
		},
	}
	cmd.Flags().String("from", "", "who starts: service, address or @peer")
	cmd.Flags().String("to", "", "who answers: service, address, DNS name or @peer")
	cmd.Flags().String("port", "", "tcp/N, udp/N or icmp")
	cmd.Flags().String("app", "", "application; without it, what would be allowed is named")
	addBasisFlags(cmd)
	addOutputFlag(cmd)
	return cmd
}

// explained asks the gateway or, where flags say what policy is, works it out here.
func explained(cmd *cobra.Command, req ExplainRequest) (*ExplainAnswer, error) {
	if !ownBasis(cmd) {
		answer := new(ExplainAnswer)
		return answer, newClient(cmd).post(cmd.Context(), "/v1/explain", req, answer)
	}
	if req.ID != "" {
		return nil, fail(exitUsage, "a violation is on the gateway's record: name the flow by --from, --to and --port")
	}
	st, err := stateOf(cmd)
	if err != nil {
		return nil, err
	}
	answer, err := explainFlow(st, req, nil)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return answer, nil
}

// fixes are what would allow a flow that nothing allows, as narrow as it was
// asked: a statement of the operator, ready for a file, and labels of the deployer
// where they can say it. None where none should: somebody denies it, or an end must
// not be opened so. Where no application is named, it is how to name one.
func fixes(st *control.State, x *policy.Explanation) []ExplainLine {
	switch x.Reason {
	case policy.ReasonNoRule, policy.ReasonApp, policy.ReasonNameMismatch:
	default:
		return nil
	}
	from, to := filePeer(st, x.FromIdentity), filePeer(st, x.ToIdentity)
	toText := x.To
	switch name, named := strings.CutPrefix(x.To, "name:"); {
	case named:
		toText, to = name, "{name: "+name+"}"
	case x.Server != "":
		toText, to = x.Server, "{name: "+x.Server+"}"
	}
	plain, tls := plainForm(x.App)
	app, known := policy.ParseApp(plain)
	switch {
	case !x.Denied || from == "" || to == "" || toText == "":
		return nil
	case x.App == "":
		known, app := "", "APP"
		if g, ok := st.Table.Group(x.ToIdentity); ok {
			if all := st.Population.Spoken(g.Service, x.Port); len(all) == 1 && !all[0].Any {
				app = all[0].App.String()
				known = fmt.Sprintf(" but what %s serves there, %s", g.Service, app)
			}
		}
		return []ExplainLine{{"statement that allows it",
			fmt.Sprintf("it names an application, and none is known here%s: gatehouse explain --from %s --to %s --port %s --app %s", known, x.From, toText, x.Port, app)}}
	case !known:
		return nil
	}
	id := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(fmt.Sprintf("allow-%s-%s-%s", strings.TrimPrefix(x.From, "@"), strings.TrimPrefix(toText, "@"), plain)))
	if tls != "" {
		tls = ", tls: " + tls
	}
	return append([]ExplainLine{{"statement that allows it",
		fmt.Sprintf("- {id: %s, verdict: allow, from: [%s], to: [%s], app: [%s]%s, ports: [%s], why: \"...\"}", id[:min(len(id), 63)], from, to, plain, tls, x.Port)}},
		labelFixes(st, x, toText, app)...)
}

// plainForm is the application of a form, and how statements name its TLS.
func plainForm(form string) (app, tls string) {
	if inner, ok := strings.CutPrefix(form, "tls("); ok {
		return strings.TrimSuffix(inner, ")"), "only"
	}
	if plain, ok := strings.CutSuffix(form, "+starttls"); ok {
		return plain, "starttls"
	}
	return form, ""
}

// labelFixes are the labels that allow it together: a label speaks for the service
// that carries it, and for the other end where that is of the same project (V2).
func labelFixes(st *control.State, x *policy.Explanation, to string, app policy.App) []ExplainLine {
	caller, isCaller := st.Table.Group(x.FromIdentity)
	callee, isCallee := st.Table.Group(x.ToIdentity)
	related := isCaller && isCallee && caller.Service.Project == callee.Service.Project && caller.Service.Project.Name != ""
	var out []ExplainLine
	for _, side := range x.Sides {
		egress := side.Side == policy.SideOut || related
		own, peer := caller.Service, to
		if !egress {
			own, peer = callee.Service, x.From
		}
		if side.Answer != "no" || related && len(out) > 0 {
			continue
		}
		label := models.StatementLabel(egress, peer, x.Port, app)
		if label == "" {
			return nil
		}
		out = append(out, ExplainLine{"label that allows it", label + "  # on " + own.String()})
	}
	if len(out) == 2 {
		for i := range out {
			out[i].What = "labels that allow it"
		}
	}
	return out
}

// filePeer is an identity as a file of statements names it; "" for those that no
// advice should open, such as metadata services and the orchestrator.
func filePeer(st *control.State, id policy.Identity) string {
	if g, ok := st.Table.Group(id); ok {
		name := g.Service.String()
		if strings.ContainsFunc(name, func(r rune) bool { return r < '!' || r > '~' || strings.ContainsRune("{}[],:#\"'", r) }) {
			return fmt.Sprintf("{service: %q}", name)
		}
		return "{service: " + name + "}"
	}
	switch id {
	case policy.IDHost, policy.IDSite, policy.IDInternet, policy.IDResolver:
		return "{peer: " + strings.TrimPrefix(st.Table.IdentityName(id), "@") + "}"
	}
	return ""
}

func explainRows(w io.Writer, a *ExplainAnswer) {
	if v := a.Violation; v != nil {
		row(w, "violation", fmt.Sprintf("%s: %s -> %s, %s, app %s, %s, %s (%s)", v.ID, partyText(v.From), partyText(v.To), destinationText(v.Proto, v.Dest), spokenText(v.App), quantity(v.Count, "packet"), v.Verdict, v.Reason))
	}
	for _, l := range a.Lines {
		row(w, l.What, l.Text)
	}
}

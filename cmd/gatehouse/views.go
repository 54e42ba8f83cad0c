package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/control"
	"gatehouse/models"
	"gatehouse/policy"
)

// Views are what the API shows of a control.State: names instead of numbers.

func workloadViews(s *control.State, admitted map[string]string) []WorkloadView {
	networks := networksByID(s.View.Networks)
	out := []WorkloadView{}
	for w := range s.View.Workloads {
		v := WorkloadView{ID: w.ID, Name: w.Name, Service: w.Service.String(), Image: w.Image.Ref,
			Uncovered: w.Uncovered, SharedWith: w.SharedWith, Node: w.Node, Metadata: w, Endpoints: []EndpointView{}, Reasons: []string{}, Evidence: []models.Evidence{}}
		if m, ok := s.Population.Match(w.ID); ok && m.Model != nil {
			v.Model, v.Trust, v.Confidence, v.Proposed = m.Model.Name, m.Trust.String(), m.Confidence, m.Proposed
			v.Reasons = append(v.Reasons, m.Reasons...)
			v.Evidence = append(v.Evidence, s.Population.Evidence(w.ID)...)
		}
		if g := s.Population.Group(w.ID); g != nil {
			v.Mode, v.Guarded, v.Identity = g.Mode, g.Guarded, g.Identity
			v.Service = g.Service.String()
		}
		for _, e := range w.Endpoints {
			device, ok := admitted[e.ID]
			view := EndpointView{ID: e.ID, MAC: macText(e.MAC), Addresses: addressTexts(e.Addresses), Admitted: ok, Interface: device, On: networks[e.Network]}
			if view.On != nil {
				view.Network = view.On.Name
			}
			v.Endpoints = append(v.Endpoints, view)
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b WorkloadView) int {
		return strings.Compare(a.Service+"\x00"+a.Name, b.Service+"\x00"+b.Name)
	})
	return out
}

func networksByID(networks []policy.Network) map[string]*policy.Network {
	by := map[string]*policy.Network{}
	for i := range networks {
		by[networks[i].ID] = &networks[i]
	}
	return by
}

func serviceViews(s *control.State) []ServiceView {
	out := make([]ServiceView, 0, len(s.Population.Groups))
	for i := range s.Population.Groups {
		g := &s.Population.Groups[i]
		out = append(out, ServiceView{Away: s.IsAway(g), Service: g.Service.String(), Identity: g.Identity, Model: g.Model, Trust: g.Trust.String(),
			Roles: append([]string{}, g.Roles...), Mode: g.Mode, Guarded: g.Guarded, Members: len(g.Members), Reasons: append([]string{}, g.Reasons...)})
	}
	slices.SortFunc(out, func(a, b ServiceView) int { return strings.Compare(a.Service, b.Service) })
	return out
}

func statementViews(s *control.State) []StatementView {
	ss := s.Statements()
	policy.SortStatements(ss)
	out := make([]StatementView, 0, len(ss))
	for _, st := range ss {
		out = append(out, StatementView{Text: st.Lines(false), Pending: st.Pending, Origin: st.Origin, What: st})
	}
	return out
}

func ruleViews(s *control.State) []RuleView {
	t := s.Table.Whole()
	statements := t.Statements()
	out := make([]RuleView, 0, len(t.Rules()))
	for _, r := range t.Flat() {
		st := statements[r.Statement]
		from, to := t.RuleEnds(&r)
		verdict := r.Verdict.String()
		if r.Except {
			verdict = "except"
		}
		out = append(out, RuleView{From: from, To: to, App: r.App.String(),
			Ports: r.Ports.String(), Verdict: verdict, Tier: r.Tier.String(), Speaks: r.Speaks.String(),
			Statement: st.ID, Text: strings.Join(st.Lines(false), "; "), Origin: strings.Join(st.Origin, "; ")})
	}
	return out
}

// ModelView is one item of GET /v1/models.
type ModelView struct {
	Model    string   `json:"model"`
	Revision int      `json:"revision"`
	Title    string   `json:"title"`
	Roles    []string `json:"roles"`
	Images   []string `json:"images"`
	Docs     []string `json:"docs"`
	Source   string   `json:"source"`
}

func modelViews(lib *models.Library) []ModelView {
	all := lib.Models()
	out := make([]ModelView, 0, len(all))
	for _, m := range all {
		source := "library"
		if m.Operator {
			source = m.File
		}
		out = append(out, ModelView{Model: m.Name, Revision: m.Revision, Title: m.Title, Roles: append([]string{}, m.Roles...),
			Images: append([]string{}, m.Images...), Docs: append([]string{}, m.Docs...), Source: source})
	}
	slices.SortFunc(out, func(a, b ModelView) int { return strings.Compare(a.Model, b.Model) })
	return out
}

func macText(m policy.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func addressTexts(as []netip.Addr) []string {
	out := make([]string, len(as))
	for i, a := range as {
		out[i] = a.String()
	}
	return out
}

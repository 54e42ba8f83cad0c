package models

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"gatehouse/policy"
)

// The labels by which a deployer says what a workload is.
const (
	LabelModel = "gatehouse.model"
	LabelRole  = "gatehouse.role"
)

// LabelBaseName is where image builders note what an image was built from
// (OCI image specification, annotations).
const LabelBaseName = "org.opencontainers.image.base.name"

// Match says which model a workload is of and how far that is believed: the
// deployer's label, else the image by digest, origin or name, else hints, else
// custom. Model is never nil.
func (l *Library) Match(w *policy.Workload, t TrustSettings) Match {
	var notes []string
	switch label, ok := w.Labels[LabelModel]; {
	case ok && label.By != policy.SetByDeployer:
		notes = append(notes, fmt.Sprintf("label %s=%s is the image's own and ignored", LabelModel, label.Value))
	case ok && l.byName[label.Value] == nil:
		notes = append(notes, fmt.Sprintf("label %s=%s: no such model; gatehouse models list shows them", LabelModel, label.Value))
		m := l.custom(t.origins(&w.Image), "the label names a model that does not exist")
		m.Notes = notes
		return m
	case ok:
		return Match{Model: l.byName[label.Value], Trust: policy.TrustLabel, Confidence: "high",
			Reasons: []string{fmt.Sprintf("label %s=%s, set by the deployer", LabelModel, label.Value)}}
	}
	m := l.matchImage(w, t)
	m.Notes = notes
	return m
}

func (l *Library) matchImage(w *policy.Workload, t TrustSettings) Match {
	origins := t.origins(&w.Image)
	for _, o := range origins {
		m := l.fit(o.repository, w)
		if m == nil {
			continue
		}
		out := Match{Model: m, Trust: o.trust, Confidence: "high", Reasons: []string{"image " + o.repository, o.reason}}
		if m.startsClients(w) {
			out.Model = l.byName[ClientProgram]
			out.Reasons = append(out.Reasons, clientsReason(w))
		}
		if o.trust <= policy.TrustName {
			out.Confidence = "medium"
		}
		for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
			out.Reasons = append(out.Reasons, fmt.Sprintf("label %s=%s", k, m.Labels[k]))
		}
		return out
	}
	hinted, why := l.hinted(w, t)
	switch {
	case hinted == nil:
		return l.custom(origins, "no model knows the image")
	case w.Image.Built && hinted.startsClients(w):
		return Match{Model: l.byName[ClientProgram], Trust: policy.TrustName, Confidence: "low",
			Reasons: []string{why, "its own project built the image", clientsReason(w)}}
	case w.Image.Built:
		return Match{Model: hinted, Trust: policy.TrustName, Confidence: "low", Reasons: []string{why, "its own project built the image"}}
	}
	m := l.custom(origins, "no model knows the image")
	m.Proposed = hinted.Name
	m.Reasons = append(m.Reasons, fmt.Sprintf("%s: if this is %s, label the service %s=%s", why, hinted.Title, LabelModel, hinted.Name))
	return m
}

// startsClients reports whether all that the workload's command starts are clients of
// the model, or fetch pages: a backup, an import, what waits for the server. It then
// serves nobody, and is of no cluster.
func (m *Model) startsClients(w *policy.Workload) bool {
	if len(m.Clients) == 0 || len(w.Programs) == 0 {
		return false
	}
	return !slices.ContainsFunc(w.Programs, func(p string) bool {
		return p != "curl" && p != "wget" && !slices.Contains(m.Clients, p)
	})
}

func clientsReason(w *policy.Workload) string {
	return fmt.Sprintf("it starts %s, and no server", strings.Join(w.Programs, ", "))
}

// fit is the model whose image and labels the workload has: of several the one
// with most labels, of equals the first by name.
func (l *Library) fit(repository string, w *policy.Workload) *Model {
	labelled := func(m *Model) bool {
		for k, v := range m.Labels {
			if have, ok := w.Labels[k]; !ok || have.By != policy.SetByDeployer || have.Value != v {
				return false
			}
		}
		return true
	}
	var best *Model
	for _, m := range slices.Concat(l.byImage[repository], l.byLabels) {
		if labelled(m) && (best == nil || len(m.Labels) > len(best.Labels)) {
			best = m
		}
	}
	return best
}

// hinted is the model that signs in the image point to, nil if there are none.
func (l *Library) hinted(w *policy.Workload, t TrustSettings) (m *Model, why string) {
	if base := w.Image.Labels[LabelBaseName]; base != "" {
		if repository, _, _, err := policy.NormalizeImage(base); err == nil {
			meant, _ := t.canonical(repository)
			if m := l.fit(meant, w); m != nil {
				return m, "the image says that it was built from " + repository
			}
		}
	}
	// The image's own keys come after those of its base.
	for _, key := range slices.Backward(w.Image.EnvKeys) {
		if m := l.byEnv[key]; m != nil {
			return m, "the image sets " + key
		}
	}
	if len(w.Command) > 0 {
		if program := path.Base(w.Command[0]); l.byCommand[program] != nil {
			return l.byCommand[program], "it runs " + program
		}
	}
	return nil, ""
}

// custom is the answer where nothing fits. What custom gives is the deployer's
// own saying, but its image is believed no further than its origin.
func (l *Library) custom(origins []origin, why string) Match {
	m := Match{Model: l.byName[Custom], Trust: policy.TrustName, Confidence: "low", Reasons: []string{why}}
	if len(origins) > 0 {
		m.Trust = origins[0].trust
		m.Reasons = []string{why + ": " + origins[0].repository}
	}
	return m
}

// Roles are a workload's roles: its model's, and those that its deployer adds
// with the label gatehouse.role (a list with commas). notes says which words
// of it are no roles.
func Roles(w *policy.Workload, m Match) (roles, notes []string) {
	roles = slices.Clone(m.Model.Roles)
	label, ok := w.Labels[LabelRole]
	if !ok {
		return roles, nil
	}
	if label.By != policy.SetByDeployer {
		return roles, []string{fmt.Sprintf("label %s=%s is the image's own and ignored", LabelRole, label.Value)}
	}
	for role := range strings.SplitSeq(label.Value, ",") {
		role = strings.TrimSpace(role)
		switch {
		case !slices.Contains(roleNames, role):
			notes = append(notes, fmt.Sprintf("label %s: unknown role %q; known are %s", LabelRole, role, strings.Join(roleNames, ", ")))
		case !slices.Contains(roles, role):
			roles = append(roles, role)
		}
	}
	return roles, notes
}

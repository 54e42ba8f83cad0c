package models

import (
	"cmp"
	"slices"
	"strings"

	"gatehouse/policy"
)

// FindingKind names what is worth telling about the metadata or about what
// could not be made of it.
type FindingKind string

const (
	FindingAliasCollision  FindingKind = "alias-collision"   // a name has owners in several projects of one network (R4)
	FindingUnresolved      FindingKind = "unresolved"        // a reference leads nowhere yet (R4)
	FindingPortNotInModel  FindingKind = "port-not-in-model" // a reference or a published port that the model does not serve (R10, R13)
	FindingNotAdmitted     FindingKind = "not-admitted"      // the deployer names a service that does not serve this caller
	FindingNotPublished    FindingKind = "not-published"     // a published port that the model offers to nobody (R13)
	FindingSourceHidden    FindingKind = "source-hidden"     // the engine hides who calls (R14)
	FindingIgnoredLabel    FindingKind = "ignored-label"     // baked into an image (I3), malformed, or below the operator's floor
	FindingSharedNamespace FindingKind = "shared-namespace"  // several workloads behind one endpoint (I6)
	FindingNestedEngine    FindingKind = "nested-engine"     // docker-in-docker (R24)
	FindingUncovered       FindingKind = "uncovered"         // cannot be guarded
	FindingUnknownModel    FindingKind = "unknown-model"     // gatehouse.model names none
	FindingProposedModel   FindingKind = "proposed-model"    // a hint suggests a model (T5)
	FindingClipped         FindingKind = "clipped"           // only the image's name fits: its model reaches its own project only (T4)
	FindingUnusable        FindingKind = "unusable"          // its metadata contradicts itself: it is shut (V11)
	FindingNote            FindingKind = "note"
)

// Finding is one thing that a person should know. Findings change no verdict.
type Finding struct {
	Kind     FindingKind       `json:"kind"`
	Service  policy.ServiceKey `json:"service"`
	Workload string            `json:"workload,omitempty"` // container id; "" = all of the service
	Text     string            `json:"text"`
}

func (f Finding) String() string { return string(f.Kind) + " " + f.Service.String() + ": " + f.Text }

// sortFindings orders findings and drops repetitions.
func sortFindings(fs []Finding) []Finding {
	slices.SortFunc(fs, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Service.String(), b.Service.String()),
			cmp.Compare(a.Service.Project.Domain, b.Service.Project.Domain),
			cmp.Compare(a.Workload, b.Workload),
			cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(fs)
}

// report tells what is odd about one namespace and its workloads.
func (a *assembly) report(ns namespace, s *subject) {
	p := a.population
	for _, w := range ns.all {
		a.reportLabels(w)
		reportNotes(p, w)
		m := a.match(w)
		if m.Proposed != "" {
			p.findWorkload(FindingProposedModel, w, "looks like %s; say label %s=%s if it is", m.Proposed, LabelModel, m.Proposed)
		}
		for _, problem := range a.problems(w) {
			p.findWorkload(FindingUnusable, w, "%s; until that is mended it may talk to nobody", problem)
		}
		if w.Uncovered != "" {
			p.findWorkload(FindingUncovered, w, "not guarded: %s", w.Uncovered)
		}
		if w.SharedWith != "" && ns.owner == w {
			p.findWorkload(FindingSharedNamespace, w, "lives in the namespace of container %.12s, which is not known", w.SharedWith)
		}
	}
	for i := range s.parts {
		if s.parts[i].clipped {
			p.findWorkload(FindingClipped, s.parts[i].facts.workload,
				"only the name of its image says %s: the model reaches its own project only; label %s=%s trusts it",
				s.parts[i].model.Name, LabelModel, s.parts[i].model.Name)
		}
	}
	if len(ns.all) > 1 {
		var names []string
		for _, w := range ns.all[1:] {
			names = append(names, w.Service.String()+" ("+a.match(w).Model.Name+")")
		}
		p.findWorkload(FindingSharedNamespace, ns.owner, "one endpoint with %s: it has all their rights", strings.Join(names, ", "))
	}
}

// maxReported is of how many of its gatehouse labels one workload makes findings.
const maxReported = 64

// reportLabels tells which of the workload's gatehouse labels do not count.
func (a *assembly) reportLabels(w *policy.Workload) {
	var keys []string
	for key := range w.Labels {
		if strings.HasPrefix(key, labelPrefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	if more := len(keys) - maxReported; more > 0 {
		keys = keys[:maxReported]
		a.population.findWorkload(FindingIgnoredLabel, w, "%d more %s labels are not told of", more, labelPrefix+"*")
	}
	for _, key := range keys {
		l := w.Labels[key]
		if !counts(key, l) {
			a.population.findWorkload(FindingIgnoredLabel, w, "label %s is baked into the image and does not count", key)
			continue
		}
		if l.By != policy.SetByDeployer {
			a.population.findWorkload(FindingNote, w, "label %s is baked into the image, and counts all the same: it only tightens", key)
		}
		a.reportLabel(w, key, l.Value)
	}
}

func (a *assembly) reportLabel(w *policy.Workload, key, value string) {
	p := a.population
	switch {
	case key == LabelModel:
		if m := a.match(w); m.Model.Name != value && m.Trust != policy.TrustLabel {
			p.findWorkload(FindingUnknownModel, w, "label %s=%s: no such model; treated as %s", LabelModel, value, m.Model.Name)
		}
	case key == LabelRole:
		for _, r := range splitList(value) {
			if !slices.Contains(roleNames, r) {
				p.findWorkload(FindingIgnoredLabel, w, "label %s: %q is not a role", LabelRole, r)
			}
		}
	case isStatementLabel(key):
		if _, err := parseStatementLabel(key, value); err != nil {
			p.findWorkload(FindingIgnoredLabel, w, "label %s gives nothing: %v", key, err)
		}
	case key != LabelEnable && key != LabelMode && key != LabelFeatures:
		p.findWorkload(FindingIgnoredLabel, w, "label %s is not one that Gatehouse knows", key)
	}
}

// reportNotes passes on what the reader of the orchestrator noticed, under the
// kind that its words show.
func reportNotes(p *Population, w *policy.Workload) {
	for _, n := range w.Notes {
		switch {
		case strings.HasPrefix(n, "label "+labelPrefix): // reportLabels tells that
		case strings.HasPrefix(n, "label "):
			p.findWorkload(FindingIgnoredLabel, w, "%s", n)
		case strings.HasPrefix(n, string(FindingNestedEngine)):
			p.findWorkload(FindingNestedEngine, w, "%s", strings.TrimPrefix(n, string(FindingNestedEngine)+": "))
		case strings.HasPrefix(n, "endpoint not covered"):
			p.findWorkload(FindingUncovered, w, "%s", n)
		default:
			p.findWorkload(FindingNote, w, "%s", n)
		}
	}
}

package models

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"gatehouse/policy"
)

// Evidence is one thing that was looked at to say what a workload is and what
// it may do, for people who want to follow or correct it.
type Evidence struct {
	Kind   string `json:"kind"`             // label, digest, origin, name, hint, role, exposed, published, reference, depends_on, network, swarm
	What   string `json:"what"`             // as it was found
	Counts bool   `json:"counts"`           // it decided, or gave something
	Why    string `json:"why"`              // what came of it, or why nothing did
	Change string `json:"change,omitempty"` // the label or setting that would make it otherwise
}

// maxEvidence bounds each kind: a workload may carry 100,000 labels.
const maxEvidence = 64

// evidenceList collects evidence of one workload.
type evidenceList struct {
	items   []Evidence
	perKind map[string]int
}

func (l *evidenceList) add(e Evidence) {
	if l.perKind == nil {
		l.perKind = make(map[string]int)
	}
	l.perKind[e.Kind]++
	if l.perKind[e.Kind] <= maxEvidence {
		l.items = append(l.items, e)
	}
}

// all is what was collected, and how much was left out.
func (l *evidenceList) all() []Evidence {
	for _, kind := range slices.Sorted(maps.Keys(l.perKind)) {
		if n := l.perKind[kind]; n > maxEvidence {
			l.items = append(l.items, Evidence{Kind: kind, What: fmt.Sprintf("%d more", n-maxEvidence), Why: "not listed"})
		}
	}
	return l.items
}

// Evidence lists what Match looks at for a workload, in the order in which it
// counts, and what each piece came to.
func (l *Library) Evidence(w *policy.Workload, t TrustSettings) []Evidence {
	var out evidenceList
	l.identify(&out, w, t, l.Match(w, t))
	return out.all()
}

func (l *Library) identify(out *evidenceList, w *policy.Workload, t TrustSettings, m Match) {
	l.labelEvidence(out, w, m)
	named := m.Trust == policy.TrustLabel
	for _, o := range t.origins(&w.Image) {
		e := Evidence{Kind: originKind(o.trust), What: o.repository, Change: trustChange(o.trust, m.Model)}
		fit := l.fit(o.repository, w)
		meant := fit
		if fit != nil && fit.startsClients(w) {
			meant = l.byName[ClientProgram]
		}
		switch {
		case named:
			e.Why, e.Change = "not asked: the label says the model", ""
		case fit == nil:
			e.Why = "no model names this image"
			e.Change = fmt.Sprintf("label %s=MODEL, or a model of your own with match.images", LabelModel)
		case meant != m.Model || o.trust != m.Trust:
			e.Why, e.Change = "a better proof came first", ""
		case meant != fit:
			e.Counts, e.Why = true, fmt.Sprintf("model %s: %s, and %s", meant.Name, o.reason, clientsReason(w))
			e.Change = fmt.Sprintf("label %s=%s, if it is a server after all", LabelModel, fit.Name)
		default:
			e.Counts, e.Why = true, fmt.Sprintf("model %s: %s", fit.Name, o.reason)
		}
		out.add(e)
	}
	if w.Image.Repository == "" && w.Image.Ref != "" {
		out.add(Evidence{Kind: "name", What: w.Image.Ref, Why: "no name of a repository: the container was made from an image's ID, or of what is no reference"})
	}
	l.hintEvidence(out, w, t, m)
}

func originKind(t policy.Trust) string {
	switch t {
	case policy.TrustDigest:
		return "digest"
	case policy.TrustRegistry:
		return "origin"
	}
	return "name"
}

// trustChange says what would raise the trust in an image.
func trustChange(t policy.Trust, m *Model) string {
	if t > policy.TrustName || m.Name == Custom {
		return ""
	}
	return fmt.Sprintf("label %s=%s, its digest in trust.digests, its registry in trust.registries, or trust.local: full", LabelModel, m.Name)
}

// labelEvidence tells of the labels that say or narrow the model.
func (l *Library) labelEvidence(out *evidenceList, w *policy.Workload, m Match) {
	label, ok := w.Labels[LabelModel]
	e := Evidence{Kind: "label", What: LabelModel + "=" + label.Value}
	switch {
	case !ok:
		out.add(Evidence{Kind: "label", What: LabelModel, Why: "not set", Change: "set it to say the model yourself"})
	case label.By != policy.SetByDeployer:
		e.Why, e.Change = "baked into the image, which proves nothing (I3)", "set it on the container or service"
		out.add(e)
	case l.byName[label.Value] == nil:
		e.Why, e.Change = "there is no such model", "gatehouse models list names them"
		out.add(e)
	default:
		e.Counts, e.Why = true, "the deployer said so (T1)"
		out.add(e)
	}
	for _, key := range slices.Sorted(maps.Keys(w.Labels)) {
		baked := w.Labels[key]
		if key != LabelModel && strings.HasPrefix(key, labelPrefix) && !counts(key, baked) {
			out.add(Evidence{Kind: "label", What: key + "=" + baked.Value, Why: "baked into the image, which proves nothing (I3)", Change: "set it on the container or service"})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.Model.Labels)) {
		if key != LabelModel {
			out.add(Evidence{Kind: "label", What: key + "=" + m.Model.Labels[key], Counts: true, Why: fmt.Sprintf("model %s is for what carries it", m.Model.Name)})
		}
	}
	for _, other := range l.finer(w, m) {
		key, want := other.missing(w)
		out.add(Evidence{Kind: "label", What: key + "=" + want, Why: fmt.Sprintf("not set by the deployer: it would make this %s (%s)", other.Name, other.Title)})
	}
}

// finer are the models of the same image that ask for labels which the
// workload does not carry.
func (l *Library) finer(w *policy.Workload, m Match) []*Model {
	var out []*Model
	for _, o := range l.byImage[w.Image.Repository] {
		if o != m.Model && len(o.Labels) > 0 {
			if key, _ := o.missing(w); key != "" {
				out = append(out, o)
			}
		}
	}
	return out
}

// missing is the first label that the model asks for and the workload lacks.
func (m *Model) missing(w *policy.Workload) (key, value string) {
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		if have := w.Labels[k]; have.By != policy.SetByDeployer || have.Value != m.Labels[k] {
			return k, m.Labels[k]
		}
	}
	return "", ""
}

// hintEvidence tells of signs that prove nothing (T5).
func (l *Library) hintEvidence(out *evidenceList, w *policy.Workload, t TrustSettings, m Match) {
	add := func(what string, hinted *Model) {
		e := Evidence{Kind: "hint", What: what, Why: "suggests " + hinted.Name}
		switch {
		case m.Proposed == hinted.Name:
			e.Why += ", and proves nothing: only proposed (T5)"
			e.Change = fmt.Sprintf("label %s=%s", LabelModel, hinted.Name)
		case m.Model == hinted && m.Confidence == "low":
			e.Counts = true
			e.Why += "; its own project built the image (T5)"
			e.Change = fmt.Sprintf("label %s=%s trusts it beyond its own project", LabelModel, hinted.Name)
		case m.Model == hinted:
			e.Why += ", which is known already"
		default:
			e.Why += ", and better evidence says " + m.Model.Name
		}
		out.add(e)
	}
	if base := w.Image.Labels[LabelBaseName]; base != "" {
		if repository, _, _, err := policy.NormalizeImage(base); err == nil {
			meant, _ := t.canonical(repository)
			if hinted := l.fit(meant, w); hinted != nil {
				add("image label "+LabelBaseName+"="+base, hinted)
			}
		}
	}
	for _, key := range w.Image.EnvKeys {
		if hinted := l.byEnv[key]; hinted != nil {
			add("image environment "+key, hinted)
		}
	}
	if len(w.Command) > 0 {
		if hinted := l.byCommand[path.Base(w.Command[0])]; hinted != nil {
			add("command "+path.Base(w.Command[0]), hinted)
		}
	}
}

// Evidence lists all that was looked at for one workload: what says which model
// it is of, then what its metadata gave. nil if the population has no such
// workload. id is Workload.ID.
func (p *Population) Evidence(id string) []Evidence {
	k, ok := p.known.Get(id)
	if !ok {
		return nil
	}
	p = p.near([]policy.ServiceKey{k.Service}, k.Workload)
	st, _ := p.standing.Get(k.key)
	s, w := st.subject, k.Workload
	var out evidenceList
	if p.identify != nil {
		p.identify(&out, w, k.match)
	}
	roleEvidence(&out, w, k.match)
	p.index.portEvidence(&out, s, w)
	p.index.referenceEvidence(&out, s, w)
	p.index.networkEvidence(&out, w)
	return out.all()
}

func roleEvidence(out *evidenceList, w *policy.Workload, m Match) {
	out.add(Evidence{Kind: "role", What: strings.Join(m.Model.Roles, ", "), Counts: true, Why: "of model " + m.Model.Name,
		Change: "label " + LabelRole + " adds others"})
	label, ok := w.Labels[LabelRole]
	if !ok {
		return
	}
	_, notes := Roles(w, m)
	e := Evidence{Kind: "role", What: LabelRole + "=" + label.Value, Counts: len(notes) == 0, Why: "set by the deployer"}
	if len(notes) > 0 {
		e.Why = strings.Join(notes, "; ")
	}
	out.add(e)
}

// portEvidence tells which entry stands behind each port that the deployer or
// the image named.
func (x *index) portEvidence(out *evidenceList, s *subject, w *policy.Workload) {
	offered := func(kind, what string, port policy.PortRange) {
		e := Evidence{Kind: kind, What: what}
		if offers := s.offersOn(port); len(offers) > 0 {
			e.Counts, e.Why = true, fmt.Sprintf("%s serves %s", offers[0].origin, termsText(offers[0].entry.To))
			if kind == "published" {
				e.Why = fmt.Sprintf("%s, publish %s", offers[0].origin, offers[0].part.model.PublishOf(offers[0].entry))
			}
		} else {
			e.Why = fmt.Sprintf("%s serves nothing on %s", s.group.Model, port)
			e.Change = "a model of your own, or a statement"
		}
		out.add(e)
	}
	for _, r := range usablePorts(w.Exposed) {
		offered("exposed", r.String(), r)
	}
	for _, p := range w.Published {
		offered("published", bindingsText([]policy.Published{p})+" to "+policy.Port(p.Proto, p.Port).String(), policy.Port(p.Proto, p.Port))
	}
}

// referenceEvidence tells whom each reference of the deployer means.
func (x *index) referenceEvidence(out *evidenceList, s *subject, w *policy.Workload) {
	for _, r := range w.References {
		if r.Source == "dns" || r.Source == "depends_on" {
			continue
		}
		what := r.Source + ": " + r.Host
		if r.Port != 0 {
			what = fmt.Sprintf("%s:%d", what, r.Port)
		}
		x.meant(out, "reference", what, s, r.Source, r.Host)
	}
	for _, name := range w.DependsOn {
		x.meant(out, "depends_on", name, s, "depends_on", name)
	}
}

func (x *index) meant(out *evidenceList, kind, what string, s *subject, source, host string) {
	var found []string
	for o, hits := range s.named {
		named := slices.ContainsFunc(hits, func(h hit) bool { return h.source == source && !h.lookup })
		if named && (source != "depends_on" || o.service.Name == host) && !slices.Contains(found, o.service.String()) {
			found = append(found, o.service.String())
		}
	}
	for i := range s.outside {
		if s.outside[i].source == source {
			found = append(found, s.outside[i].peer.String())
		}
	}
	slices.Sort(found)
	e := Evidence{Kind: kind, What: what, Counts: len(found) > 0, Why: "means " + strings.Join(found, ", ")}
	if len(found) == 0 {
		e.Why, e.Change = "nobody that it can reach has that name (R4)", "a network that both are on, or a statement"
	}
	out.add(e)
}

func (x *index) networkEvidence(out *evidenceList, w *policy.Workload) {
	for _, e := range w.Endpoints {
		n := x.networks[e.Network]
		switch {
		case n == nil:
			out.add(Evidence{Kind: "network", What: e.Network, Why: "the engine does not list it"})
		case n.System:
			out.add(Evidence{Kind: "network", What: n.Name, Why: "a system network relates nobody (I7)", Change: "a network of the project"})
		default:
			owner := cmp.Or(n.Owner.Name, "nobody")
			out.add(Evidence{Kind: "network", What: n.Name, Counts: true, Why: fmt.Sprintf("owned by %s, %d services on it", owner, len(services(n.subjects)))})
		}
	}
	if !w.Swarm {
		return
	}
	why := "no virtual address (dnsrr)"
	if len(w.VIPs) > 0 {
		why = "reached by virtual addresses too (A2)"
	}
	out.add(Evidence{Kind: "swarm", What: "service " + w.Service.String(), Counts: true, Why: why})
}

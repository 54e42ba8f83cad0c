package models

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"gatehouse/policy"
)

// The labels by which a deployer says how a workload is guarded (V5).
const (
	LabelEnable   = "gatehouse.enable"
	LabelMode     = "gatehouse.mode"
	LabelFeatures = "gatehouse.features"
	labelPrefix   = "gatehouse."
)

// Settings are the operator's choices that groups and statements depend on.
type Settings struct {
	Trust TrustSettings
	// DefaultMode is the mode of a service for which nobody said anything. Its
	// zero value enforces; a fresh install sets Observe.
	DefaultMode policy.Mode
	// EnrollNone guards only what a deployer enrolled by gatehouse.enable=true.
	EnrollNone bool
	// ModeFloorEnforce stops labels from loosening to observe.
	ModeFloorEnforce bool
	// Modes is what `gatehouse mode` set, by the text of the service ("shop/db").
	Modes map[string]policy.Mode
	// Features are switched on or off for every model; they beat the label.
	Features map[string]bool
	// SelectedLabels are the keys of the deployers' labels by which the operator's
	// statements select; Variant is whatever else of a workload they select by.
	// Both are part of an identity (I9).
	SelectedLabels []string
	Variant        func(*policy.Workload) string
}

// Population is a snapshot as policy sees it: every workload matched to its
// model, grouped into identities, its references resolved. It is immutable;
// Generate and WhyNot read it.
type Population struct {
	Groups []policy.Group // sorted by service, then by what tells them apart

	keys     []string                      // of Groups, what tells them apart
	known    *btree.Map[string, *known]    // by Workload.ID; those of shared namespaces too
	standing *btree.Map[string, *standing] // of groups, by key
	findings []Finding                     // of services
	offers   map[string]bool               // sources of references that are none: what callees offer themselves to proxies by (R9)
	match    func(*policy.Workload) Match
	identify func(*evidenceList, *policy.Workload, Match) // what its models were matched by
	number   func(key string) policy.Identity
	assembly *assembly
	around   *policy.Snapshot             // host and networks
	networks map[string]bool              // by id
	sought   sought                       // by whom there was when all was made
	sharing  *btree.Map[string, []string] // who lives in the network namespace of a workload, be it there or not: ids by the owner's
	late     *btree.Map[string, bool]     // and what others look for since
	ties     *btree.Map[string, int]
	index    *index // nil where it followed from another (Next)
}

// known is one workload of a population.
type known struct {
	*policy.Workload
	match    Match
	key      string // of its group
	kind     *kind
	findings []Finding
}

// Match says of which model a workload is; ok is false where there is none of
// that id.
func (p *Population) Match(id string) (m Match, ok bool) {
	k, ok := p.known.Get(id)
	if !ok {
		return m, false
	}
	return k.match, true
}

// Groups matches each workload, resolves its mode and joins workloads that are
// equal in policy into one identity (I9). ids gives each identity its number;
// the same key always gets the same number. A workload that lives in another
// one's network namespace is part of that one's identity (I6).
func Groups(lib *Library, snap *policy.Snapshot, set Settings, ids interface {
	Get(key string) policy.Identity
}) *Population {
	match := func(w *policy.Workload) Match { return lib.Match(w, set.Trust) }
	p := populate(match, lib.offers(), snap, set, ids.Get)
	p.identify = func(out *evidenceList, w *policy.Workload, m Match) { lib.identify(out, w, set.Trust, m) }
	return p
}

func populate(match func(*policy.Workload) Match, offers map[string]bool, snap *policy.Snapshot, set Settings, number func(string) policy.Identity) *Population {
	p := &Population{offers: offers, match: match, number: number, around: &policy.Snapshot{Host: snap.Host, Networks: snap.Networks}}
	p.known, p.late, p.networks, p.sought = new(btree.Map[string, *known]), new(btree.Map[string, bool]), make(map[string]bool), newSought(snap)
	p.sharing = new(btree.Map[string, []string])
	for i := range snap.Networks {
		p.networks[snap.Networks[i].ID] = true
	}
	models := make(map[*Model]bool)
	for i := range snap.Workloads {
		w := &snap.Workloads[i]
		k := &known{Workload: w, match: match(w)}
		models[k.match.Model] = true
		p.known.Set(w.ID, k)
		p.share(w, inserted)
	}
	a := &assembly{population: p, set: set, problems: snap.Check(), selected: selectedLabels(models, set.SelectedLabels), routes: routesInUse(models)}
	p.join(a, snap)
	p.tie()
	return p
}

// join makes groups of a snapshot's workloads, which are known, and resolves what
// they name.
func (p *Population) join(a *assembly, snap *policy.Snapshot) {
	p.assembly = a
	subjects := a.subjects(a.namespaces(snap))
	p.Groups, p.keys = make([]policy.Group, len(subjects)), make([]string, len(subjects))
	p.standing = new(btree.Map[string, *standing])
	for i, s := range subjects {
		s.rank, s.group.Identity = i, p.number(s.key)
		p.Groups[i], p.keys[i] = s.group, s.key
	}
	p.index = newIndex(snap, subjects)
	p.index.resolveAll(p)
	p.settle()
}

// Group is the one that a workload is in, nil where there is no such workload.
func (p *Population) Group(id string) *policy.Group {
	k, ok := p.known.Get(id)
	if !ok {
		return nil
	}
	return p.groupOf(k.key)
}

// settle hands the findings of single workloads over to those, and notes what
// others may depend on of each.
func (p *Population) settle() {
	of := make(map[string][]Finding)
	var services []Finding
	for _, f := range p.findings {
		if f.Workload == "" {
			services = append(services, f)
		} else {
			of[f.Workload] = append(of[f.Workload], f)
		}
	}
	p.findings = sortFindings(services)
	for _, s := range p.index.subjects {
		st := &standing{subject: s}
		for _, w := range slices.Concat(s.members, s.within) {
			k, _ := p.known.Get(w.ID)
			k.key, k.findings = s.key, of[w.ID]
			if was := k.kind; was != nil {
				k.kind = st.kindOf(w.ID, was.print, func() []string { return was.ties })
			} else {
				k.kind = st.kindOf(w.ID, p.print(k, s), func() []string { return p.tiesOf(k.Workload) })
			}
		}
		p.standing.Set(s.key, st)
	}
}

// Findings are those that Generate returned of this population, or of the one
// that it was made from by With, with those of its workloads as they are.
func (p *Population) Findings(generated []Finding) []Finding {
	out := slices.DeleteFunc(slices.Clone(generated), func(f Finding) bool { return f.Workload != "" })
	return sortFindings(p.ownFindings(out))
}

func (p *Population) ownFindings(out []Finding) []Finding {
	p.known.Scan(func(_ string, k *known) bool {
		out = append(out, k.findings...)
		return true
	})
	return out
}

// Live reports whether some identity of the population has that key: what
// policy.Identities.Keep asks.
func (p *Population) Live(key string) bool {
	_, ok := p.standing.Get(key)
	return ok
}

func (p *Population) find(kind FindingKind, s *subject, format string, args ...any) {
	p.findings = append(p.findings, Finding{Kind: kind, Service: s.service, Text: fmt.Sprintf(format, args...)})
}

func (p *Population) findWorkload(kind FindingKind, w *policy.Workload, format string, args ...any) {
	p.findings = append(p.findings, Finding{Kind: kind, Service: w.Service, Workload: w.ID, Text: fmt.Sprintf(format, args...)})
}

// subject is one identity as the generator sees it. Its members are equal in
// everything but addresses and networks; of those it has the union.
type subject struct {
	key      string // what its identity stands for, stable over restarts
	rank     int    // its place among all
	group    policy.Group
	service  policy.ServiceKey
	members  []*policy.Workload // sorted by id: the owners of the namespaces
	within   []*policy.Workload // and those that live in them (I6)
	parts    []part
	labels   map[string]string // the deployer's
	project  *project
	networks []*policy.Network // not the system's, sorted by id (I7)
	system   []*policy.Network
	onHost   bool // lives in the host's network namespace (A6)
	ipv6     bool // some endpoint has a routable IPv6 address

	routes  map[*Routes][]route // what its deployer wrote for proxies (R9)
	named   map[*subject][]hit  // references that resolved to a service
	outside []outsider          // and those that lead out of all projects
	absent  []absentee          // and those that name nobody who runs
	// cluster leads to the first of those that are one cluster with it (R11), nil at
	// that one itself; see memberOf.
	cluster *subject
	// asksResolver: some name server of it is no workload (A7).
	asksResolver bool
}

// part is one model of a subject: a namespace shared by several workloads has
// one for each kind of software in it.
type part struct {
	model   *Model
	roles   []string
	clipped bool // T4: its own project only
	serves  []offer
	calls   []call
	facts   facts
}

func (p *part) origin(entry string) string {
	return fmt.Sprintf("%s@%d#%s", p.model.Name, p.model.Revision, entry)
}

// is reports whether some part of s is of that model or was made from it.
func (s *subject) is(model string) bool {
	return slices.ContainsFunc(s.parts, func(p part) bool {
		return p.model.Name == model || slices.Contains(p.model.Ancestors, model)
	})
}

func (s *subject) hasRole(role string) bool { return slices.Contains(s.group.Roles, role) }

// namespace is one network namespace: the workload that owns it, and those
// that joined it.
type namespace struct {
	owner *policy.Workload
	all   []*policy.Workload // owner first, the others by id
}

type assembly struct {
	population *Population
	set        Settings
	selected   []string                        // label keys that entries select by, sorted
	routes     []*Routes                       // that proxies among the models read (R9)
	problems   func(*policy.Workload) []string // what of its metadata cannot be used
}

func (a *assembly) match(w *policy.Workload) Match {
	m, _ := a.population.Match(w.ID)
	return m
}

// namespaces joins each workload to the owner of its network namespace. One
// whose owner is not there stays on its own and is reported.
func (a *assembly) namespaces(snap *policy.Snapshot) []namespace {
	byID := make(map[string]*policy.Workload, len(snap.Workloads))
	for i := range snap.Workloads {
		byID[snap.Workloads[i].ID] = &snap.Workloads[i]
	}
	joined := make(map[string][]*policy.Workload)
	var owners []*policy.Workload
	for i := range snap.Workloads {
		w := &snap.Workloads[i]
		owner := ownerOf(w, byID)
		if owner == w {
			owners = append(owners, w)
			continue
		}
		joined[owner.ID] = append(joined[owner.ID], w)
	}
	byWorkloadID := func(x, y *policy.Workload) int { return cmp.Compare(x.ID, y.ID) }
	slices.SortFunc(owners, byWorkloadID)
	out := make([]namespace, len(owners))
	for i, w := range owners {
		others := joined[w.ID]
		slices.SortFunc(others, byWorkloadID)
		out[i] = namespace{owner: w, all: append([]*policy.Workload{w}, others...)}
	}
	return out
}

// ownerOf follows SharedWith; a loop or a missing owner ends at w itself.
func ownerOf(w *policy.Workload, byID map[string]*policy.Workload) *policy.Workload {
	at := w
	for range 8 {
		if at.SharedWith == "" {
			return at
		}
		next, ok := byID[at.SharedWith]
		if !ok {
			return w
		}
		at = next
	}
	return w
}

// subjects groups namespaces by key; the result is sorted by key. Of workloads that stay
// what they were the findings stay, and the first stands for the others.
func (a *assembly) subjects(spaces []namespace) []*subject {
	byKey := make(map[string]*subject)
	var out []*subject
	p := a.population
	for _, ns := range spaces {
		k, _ := p.known.Get(ns.owner.ID)
		stays := len(ns.all) == 1 && k.key != ""
		if first := byKey[k.key]; stays && first != nil {
			first.members = append(first.members, ns.owner)
			first.group.Members = append(first.group.Members, ns.owner.ID)
			p.findings = append(p.findings, k.findings...)
			continue
		}
		found := len(p.findings)
		s := a.subject(ns)
		if stays {
			p.findings = append(p.findings[:found], k.findings...)
		} else {
			a.report(ns, s)
		}
		first, ok := byKey[s.key]
		if !ok {
			byKey[s.key] = s
			out = append(out, s)
			continue
		}
		first.members = append(first.members, s.members...)
		first.within = append(first.within, s.within...)
		first.group.Members = append(first.group.Members, s.group.Members...)
	}
	slices.SortFunc(out, func(x, y *subject) int {
		return cmp.Or(cmp.Compare(x.service.String(), y.service.String()), cmp.Compare(x.key, y.key))
	})
	return out
}

// subject is what policy knows of one namespace, before it is joined with its equals.
func (a *assembly) subject(ns namespace) *subject {
	w := ns.owner
	s := &subject{service: w.Service, members: []*policy.Workload{w}, within: ns.all[1:], labels: make(map[string]string)}
	for k, l := range w.Labels {
		if l.By == policy.SetByDeployer {
			s.labels[k] = l.Value
		}
	}
	s.parts = a.parts(ns)
	g := policy.Group{
		Service:    w.Service,
		Model:      modelNames(s.parts),
		Revision:   s.parts[0].model.Revision,
		Trust:      policy.TrustLabel,
		Mode:       a.mode(w),
		Guarded:    w.Uncovered == "" && w.Node == "" && !a.disabled(w),
		Confidence: a.match(w).Confidence,
	}
	for _, p := range s.parts {
		m := a.match(p.facts.workload)
		g.Trust = min(g.Trust, m.Trust)
		g.Reasons = append(g.Reasons, m.Reasons...)
		g.Roles = append(g.Roles, p.roles...)
	}
	for _, member := range ns.all {
		g.Members = append(g.Members, member.ID)
	}
	slices.Sort(g.Roles)
	g.Roles = slices.Compact(g.Roles)
	for _, member := range ns.all {
		g.Shut = g.Shut || len(a.problems(member)) > 0
	}
	s.group = g
	if g.Shut {
		s.shut()
	}
	if k, _ := a.population.known.Get(w.ID); len(ns.all) == 1 && k.key != "" {
		s.key = k.key
	} else {
		s.key = a.key(s)
	}
	return s
}

// shut takes all that its models give from a subject whose metadata cannot be used.
func (s *subject) shut() {
	for i := range s.parts {
		s.parts[i].serves, s.parts[i].calls = nil, nil
	}
}

func modelNames(parts []part) string {
	var names []string
	for _, p := range parts {
		if !slices.Contains(names, p.model.Name) {
			names = append(names, p.model.Name)
		}
	}
	return strings.Join(names, "+")
}

// parts resolves the entries of each workload of the namespace. Ports that the
// models of the others name are theirs, not taken by a word such as
// "published" (R25).
func (a *assembly) parts(ns namespace) []part {
	published := make([]policy.Published, 0, len(ns.owner.Published))
	for _, w := range ns.all {
		published = append(published, w.Published...)
	}
	out := make([]part, len(ns.all))
	for i, w := range ns.all {
		m := a.match(w)
		roles, _ := Roles(w, m)
		out[i] = part{
			model:   m.Model,
			roles:   roles,
			clipped: m.Trust <= policy.TrustName && m.Model.Name != Custom,
			facts:   facts{workload: w, published: published, features: a.features(w, m.Model)},
		}
	}
	for i := range out {
		var others []policy.PortRange
		for j := range out {
			if j != i {
				others = append(others, out[j].fixedPorts()...)
			}
		}
		out[i].resolve(others)
	}
	return out
}

// deployerLabel is the value of a label that the deployer set (I3).
func deployerLabel(w *policy.Workload, key string) (string, bool) {
	l, ok := w.Labels[key]
	if !ok || l.By != policy.SetByDeployer {
		return "", false
	}
	return l.Value, true
}

// labelThatCounts is the value of a label that the deployer set, or that tightens (I3).
func labelThatCounts(w *policy.Workload, key string) (string, bool) {
	l, ok := w.Labels[key]
	if !ok || !counts(key, l) {
		return "", false
	}
	return l.Value, true
}

// counts reports whether a label of Gatehouse's own has a say (I3). The engine
// does not tell apart what the deployer set and what an image bakes with the same
// value: if such a label gave nothing, an image could undo what its deployer
// tightened by baking it.
func counts(key string, l policy.Label) bool {
	return l.By == policy.SetByDeployer || tightens(key, l.Value)
}

// tightens reports whether a label can only take away, whatever it stands beside.
func tightens(key, value string) bool {
	switch {
	case key == LabelMode:
		return value == policy.Enforce.String()
	case key == LabelEnable:
		return value == "true"
	case key == LabelFeatures:
		return !slices.ContainsFunc(splitList(value), func(name string) bool { return !strings.HasPrefix(name, "-") })
	}
	return strings.HasPrefix(key, "gatehouse.deny.")
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// mode is V5: `gatehouse mode`, then the deployer's label, then the default.
func (a *assembly) mode(w *policy.Workload) policy.Mode {
	if m, ok := a.set.Modes[w.Service.String()]; ok {
		return m
	}
	v, ok := labelThatCounts(w, LabelMode)
	if !ok {
		return a.set.DefaultMode
	}
	m, ok := policy.ParseMode(v)
	switch {
	case !ok:
		a.population.findWorkload(FindingIgnoredLabel, w, "label %s=%s: want enforce or observe", LabelMode, v)
		return a.set.DefaultMode
	case m == policy.Observe && a.set.ModeFloorEnforce:
		a.population.findWorkload(FindingIgnoredLabel, w, "label %s=observe: the operator's mode.floor is enforce", LabelMode)
		return a.set.DefaultMode
	}
	return m
}

// disabled reports whether the deployer took this workload out (V5).
func (a *assembly) disabled(w *policy.Workload) bool {
	v, ok := labelThatCounts(w, LabelEnable)
	if !ok {
		return a.set.EnrollNone
	}
	if v == "true" {
		return false
	}
	if v != "false" {
		a.population.findWorkload(FindingIgnoredLabel, w, "label %s=%s: want true or false", LabelEnable, v)
		return false
	}
	return true
}

// features says which of the model's features are on: the model's default,
// the deployer's label, the operator's setting; the later beats the earlier.
func (a *assembly) features(w *policy.Workload, m *Model) map[string]bool {
	on := make(map[string]bool, len(m.Features))
	for name, f := range m.Features {
		on[name] = f.Default
	}
	if v, ok := labelThatCounts(w, LabelFeatures); ok {
		for _, item := range splitList(v) {
			name, off := strings.CutPrefix(item, "-")
			if _, known := m.Features[name]; !known {
				a.population.findWorkload(FindingIgnoredLabel, w, "label %s: model %s has no feature %q", LabelFeatures, m.Name, name)
				continue
			}
			on[name] = !off
		}
	}
	for name, v := range a.set.Features {
		if _, known := m.Features[name]; known {
			on[name] = v
		}
	}
	return on
}

// key says what the identity stands for (I9). The last field is a digest of
// the model's variant: which of its entries hold for this workload, with which
// ports.
func (a *assembly) key(s *subject) string {
	fields := []string{s.service.Project.Domain, s.service.Project.Name, s.service.Name,
		s.group.Model, s.group.Trust.String(), strings.Join(s.group.Roles, ","), s.group.Mode.String(), fmt.Sprint(s.group.Guarded, s.group.Shut)}
	for _, k := range a.selected {
		if v, ok := s.labels[k]; ok {
			fields = append(fields, k+"="+v)
		}
	}
	fields = append(fields, s.statementLabels()...)
	for _, r := range a.routes {
		for _, rt := range s.routesBy(r) {
			fields = append(fields, fmt.Sprint(rt))
		}
	}
	h := sha256.New()
	for i := range s.parts {
		s.parts[i].describe(h)
	}
	if a.set.Variant != nil {
		for _, w := range slices.Concat(s.members, s.within) {
			fmt.Fprintf(h, "%q", a.set.Variant(w))
		}
	}
	return strings.Join(append(fields, hex.EncodeToString(h.Sum(nil)[:16])), "\x1f")
}

// selectedLabels are the label keys by which the operator or entries of the
// models in use select peers; only those are part of an identity.
func selectedLabels(models map[*Model]bool, more []string) []string {
	keys := make(map[string]bool)
	for _, k := range more {
		keys[k] = true
	}
	for m := range models {
		m.lists(func(_ string, entries []Entry) {
			for _, e := range entries {
				for _, t := range e.To {
					if k, _, ok := strings.Cut(t.Label, "="); ok {
						keys[k] = true
					}
				}
			}
		})
	}
	return sortedKeys(keys)
}

// routesInUse are the route keys of the proxies among the models in use, by
// the models' names.
func routesInUse(models map[*Model]bool) []*Routes {
	byName := make(map[string]*Routes)
	for m := range models {
		if m.Routes != nil {
			byName[m.Name] = m.Routes
		}
	}
	var out []*Routes
	for _, name := range sortedKeys(byName) {
		out = append(out, byName[name])
	}
	return out
}

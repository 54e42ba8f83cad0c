package models

import (
	"cmp"
	"embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"gatehouse/document"
	"gatehouse/policy"
)

//go:embed library/*.yaml
var libraryFiles embed.FS

// Library is the models of all tiers with what they inherit written out.
type Library struct {
	models    []*Model // by name
	byName    map[string]*Model
	byImage   map[string][]*Model // normalised repository → models, those with more labels first
	byLabels  []*Model            // models that name no image
	byEnv     map[string]*Model   // hints
	byCommand map[string]*Model
	envKeys   []string
	argKeys   []string
	words     []string
}

// Builtin returns the models that come with Gatehouse, as declared: the first
// tier of a Library.
func Builtin() ([]*Model, error) { return builtin() }

var builtin = sync.OnceValues(func() ([]*Model, error) { return Load(libraryFiles, false) })

// Embedded returns the Library of the models that come with Gatehouse.
func Embedded() (*Library, error) { return embedded() }

var embedded = sync.OnceValues(func() (*Library, error) {
	tier, err := Builtin()
	if err != nil {
		return nil, err
	}
	return NewLibrary(tier)
})

// Open returns the Library of the models that come with Gatehouse and the
// operator's own below the given file or folder; "" is none.
func Open(operator string) (*Library, error) {
	if operator == "" {
		return Embedded()
	}
	own, err := LoadPath(operator)
	if err != nil {
		return nil, err
	}
	return WithOwn(own)
}

// WithOwn returns the Library of the models that come with Gatehouse and the
// operator's own.
func WithOwn(own []*Model) (*Library, error) {
	builtin, err := Builtin()
	if err != nil {
		return nil, err
	}
	return NewLibrary(builtin, own)
}

// OpenAlone returns the Library of one file or folder that holds whole models,
// as `models show --all` writes them, without those that come with Gatehouse.
func OpenAlone(name string) (*Library, error) {
	own, err := LoadPath(name)
	if err != nil {
		return nil, err
	}
	return NewLibrary(own)
}

// NewLibrary joins tiers of loaded models, Gatehouse's own first: a model of a
// later tier with override replaces the earlier one of its name. It resolves
// what models inherit and whom they name; the error joins all faults. The
// models given are not changed.
func NewLibrary(tiers ...[]*Model) (*Library, error) {
	var faults document.Faults
	in := newInheritance(tiers, &faults)
	l := &Library{
		byName:    make(map[string]*Model, len(in.byName)),
		byImage:   make(map[string][]*Model),
		byEnv:     make(map[string]*Model),
		byCommand: make(map[string]*Model),
	}
	for _, name := range slices.Sorted(maps.Keys(in.byName)) {
		declared := in.byName[name]
		checkModelPeers(declared, in.byName, &faults)
		if m := in.resolve(declared, nil); m != nil {
			l.models = append(l.models, m)
			l.byName[name] = m
		}
	}
	if in.byName[Custom] == nil {
		faults.Add(&Fault{Text: "no model named custom, which is what fits when no other does"})
	}
	for _, m := range l.models {
		if len(m.Clients) > 0 && in.byName[ClientProgram] == nil {
			faults.Add(m.fault("match.clients", "no model named %s, which is that of these programs", ClientProgram))
		}
	}
	l.index(&faults)
	if len(faults) > 0 {
		return nil, faults.Err()
	}
	return l, nil
}

// Models returns all models by name. The caller must not change them.
func (l *Library) Models() []*Model { return slices.Clone(l.models) }

// Model returns the model of that name, nil if there is none.
func (l *Library) Model(name string) *Model { return l.byName[name] }

// NoModel is what an error says of a name that no model has.
func (l *Library) NoModel(name string) string { return noModel(name, l.byName) }

func noModel(name string, byName map[string]*Model) string {
	return "no model named " + name + policy.Meant(name, slices.Collect(maps.Keys(byName)))
}

// EnvKeys are the environment keys whose deployer-set values models ask for,
// sorted. No other value need be kept.
func (l *Library) EnvKeys() []string { return slices.Clone(l.envKeys) }

// ArgKeys are the flags, such as --port, that models ask for, sorted.
func (l *Library) ArgKeys() []string { return slices.Clone(l.argKeys) }

// CommandWords are the words of commands that models ask for, sorted.
func (l *Library) CommandWords() []string { return slices.Clone(l.words) }

// index fills the maps, and finds models that fit the same workloads.
func (l *Library) index(faults *document.Faults) {
	type claim struct{ image, labels string }
	claims := make(map[claim]*Model)
	take := func(m *Model, image, key string) {
		c := claim{image, labelsText(m.Labels)}
		if other, ok := claims[c]; ok {
			faults.Add(m.fault(key, "%s is also matched by model %s (%s) with equal labels; give one of them match.labels, or replace it with override: true",
				cmp.Or(image, "match"), other.Name, other.place("match")))
			return
		}
		claims[c] = m
	}
	all := asked{env: make(map[string]bool), args: make(map[string]bool), words: make(map[string]bool)}
	for _, m := range l.models {
		if m.Name != Custom && m.Name != ClientProgram && len(m.Images) == 0 && len(m.Labels) == 0 {
			faults.Add(m.fault("match", "empty: the model would fit nothing; name images or labels"))
		}
		for i, image := range m.Images {
			take(m, image, fmt.Sprintf("match.images[%d]", i))
			l.byImage[image] = append(l.byImage[image], m)
		}
		if len(m.Images) == 0 && len(m.Labels) > 0 {
			take(m, "", "match.labels")
			l.byLabels = append(l.byLabels, m)
		}
		l.hint(m, faults)
		m.asks(all)
	}
	// Stable: equal numbers of labels stay in the order of names.
	narrowest := func(a, b *Model) int { return cmp.Compare(len(b.Labels), len(a.Labels)) }
	for _, ms := range l.byImage {
		slices.SortStableFunc(ms, narrowest)
	}
	slices.SortStableFunc(l.byLabels, narrowest)
	for _, keys := range []map[string]bool{all.env, all.args, all.words} {
		delete(keys, "")
	}
	l.envKeys, l.argKeys, l.words = sortedKeys(all.env), sortedKeys(all.args), sortedKeys(all.words)
}

func (l *Library) hint(m *Model, faults *document.Faults) {
	take := func(to map[string]*Model, sign, key string) {
		if other, ok := to[sign]; ok {
			faults.Add(m.fault(key, "%s is already a hint of model %s (%s)", sign, other.Name, other.place(key)))
			return
		}
		to[sign] = m
	}
	for i, sign := range m.Hints.Env {
		take(l.byEnv, sign, fmt.Sprintf("match.hints.env[%d]", i))
	}
	for i, sign := range m.Hints.Commands {
		take(l.byCommand, sign, fmt.Sprintf("match.hints.commands[%d]", i))
	}
}

func labelsText(labels map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "%q=%q ", k, labels[k])
	}
	return b.String()
}

// lists calls f for each list of entries of the model, with its key.
func (m *Model) lists(f func(key string, entries []Entry)) {
	f("serves", m.Serves)
	f("calls", m.Calls)
	for _, name := range slices.Sorted(maps.Keys(m.Features)) {
		f("features."+name+".serves", m.Features[name].Serves)
		f("features."+name+".calls", m.Features[name].Calls)
	}
}

// checkModelPeers finds peers that name models which do not exist.
func checkModelPeers(m *Model, byName map[string]*Model, faults *document.Faults) {
	m.lists(func(key string, entries []Entry) {
		for i, e := range entries {
			for j, p := range e.To {
				if p.Model != "" && byName[p.Model] == nil {
					faults.Add(m.fault(fmt.Sprintf("%s[%d].to[%d].model", key, i, j), "%s", noModel(p.Model, byName)))
				}
			}
		}
	})
}

// asked is what models want to know of a workload's metadata.
type asked struct{ env, args, words map[string]bool }

// asks adds the environment keys and flags that the model's entries ask for.
func (m *Model) asks(a asked) {
	for _, program := range slices.Concat(m.Hints.Commands, m.Clients) {
		a.words[program] = true
	}
	m.lists(func(_ string, entries []Entry) {
		for _, e := range entries {
			for _, src := range e.PortFrom {
				a.env[src.Env], a.args[src.Arg] = true, true
				src.When.asks(a)
			}
			e.When.asks(a)
		}
	})
	if r := m.Routes; r != nil && r.Env != "" {
		a.env[r.Env], a.env[r.Port], a.env[r.Host] = true, true, true
	}
}

func (w *When) asks(a asked) {
	if w == nil {
		return
	}
	key, _, _ := strings.Cut(w.Env, "=")
	flag, _, _ := strings.Cut(w.Arg, "=")
	a.env[key], a.args[flag], a.words[w.Command] = true, true, true
	for _, c := range w.Any {
		c.asks(a)
	}
	for _, c := range w.All {
		c.asks(a)
	}
	w.Not.asks(a)
}

// offers are the sources of what looks like a reference and is an offer: the
// environment keys by which a callee tells proxies its name and port (R9).
func (l *Library) offers() map[string]bool {
	out := make(map[string]bool)
	for _, m := range l.models {
		if r := m.Routes; r != nil && r.Env != "" {
			for _, key := range []string{r.Env, r.Host, r.Port} {
				out["env "+key] = true
			}
		}
	}
	return out
}

package control

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatehouse/control/inventory"
	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// Basis is all that a State follows from: what a gateway works by at a moment, or
// what files say in its place. Two with one part exchanged show what that part
// changes.
type Basis struct {
	View      *inventory.View
	Rules     *Rules
	Records   []operator.Records // what systems of record say
	Instead   []operator.Record  // says more than Records of what it names
	Situation Situation
	Modes     map[string]policy.Mode // that people set by hand
	Settings  models.Settings
	Compile   policy.Input // the settings in it
}

// State makes the state that follows, with a table of epoch 1. The error joins
// what does not compile.
func (b *Basis) State() (*State, error) {
	b.Situation.Active = b.Rules.Policy.Active(b.Situation.Moment)
	catalog := operator.NewCatalog(b.Rules.Policy.Kinds, b.Records)
	catalog.Instead(b.Instead)
	s := b.derive(policy.NewIdentities(), catalog)
	table, err := policy.Compile(b.Input(s))
	s.Table = table
	return s, err
}

// Input is what the table of a state of the basis is compiled from.
func (b *Basis) Input(s *State) policy.Input {
	in := b.Compile
	in.Epoch, in.Snapshot, in.Groups, in.Statements = 1, s.Snapshot(), s.Population.Groups, s.Statements()
	return in
}

// derive is all of a state but its table.
func (b *Basis) derive(ids *policy.Identities, catalog *operator.Catalog) *State {
	p := b.Rules.Policy
	s := &State{View: b.View, Rules: b.Rules, Situation: b.Situation, Compiled: time.Now(), Around: true, modes: b.Modes, catalog: catalog}
	s.Population = models.Groups(b.Rules.Library, b.View.Snapshot(), b.settings(catalog), ids)
	statements, findings := s.Population.Statements()
	s.findings, s.ofModels = findings, len(statements)
	s.expansion = p.NewExpansion(s.Population, catalog, s.Situation.Moment)
	statements = append(statements, s.expansion.Statements()...)
	for _, subject := range slices.Sorted(maps.Keys(s.Situation.Quarantines)) {
		statements = append(statements, s.Situation.quarantine(subject, belonging(subject, s.Population.Subjects()))...)
	}
	s.statements = policy.Pointers(statements)
	return s
}

// settings are those of the models, with what else tells identities apart.
func (b *Basis) settings(catalog *operator.Catalog) models.Settings {
	p, set := b.Rules.Policy, b.Settings
	set.Modes = b.allModes()
	set.SelectedLabels = p.SelectedLabels()
	categories := p.Variant(catalog)
	set.Variant = func(w *policy.Workload) string {
		return categories(w) + quarantined(b.Situation.Quarantines, w)
	}
	return set
}

// allModes are those set by hand and by the operator's file, which goes first (V5).
func (b *Basis) allModes() map[string]policy.Mode {
	out := maps.Clone(b.Modes)
	if out == nil {
		out = make(map[string]policy.Mode)
	}
	maps.Copy(out, b.Rules.Policy.Modes)
	return out
}

// ReadSources reads a file or a folder in which models, statements and categories
// may lie side by side; each file's first document says what it is.
func ReadSources(path string) (Sources, error) {
	var faults document.Faults
	c := Sources{}
	for _, f := range document.Collect(path, &faults) {
		switch f.Schema() {
		case models.Schema:
			c.Models = append(c.Models, f)
		case operator.CategoriesSchema:
			c.Categories = append(c.Categories, f)
		default: // what is none of the three is a fault of statements
			c.Statements = append(c.Statements, f)
		}
	}
	return c, faults.Err()
}

// ReadRecords reads what the sources' own files say. unread names the sources that
// are endpoints: those are not asked.
func ReadRecords(sources []operator.Source) (all []operator.Records, unread []string, err error) {
	for _, src := range sources {
		all = append(all, src.Records)
		switch {
		case src.URL != "":
			unread = append(unread, src.Name)
		case src.Path != "":
			records, err := readRecordFile(&src)
			if err != nil {
				return nil, nil, fmt.Errorf("%s:%d: system of record %s: %w", src.File, src.Line, src.Name, err)
			}
			all = append(all, records)
		}
	}
	return all, unread, nil
}

func readRecordFile(src *operator.Source) (operator.Records, error) {
	f, err := os.Open(src.Path)
	if err != nil {
		return operator.Records{}, err
	}
	defer f.Close()
	body, err := readAtMost(f, src.MaxBytes)
	if err != nil {
		return operator.Records{}, err
	}
	return operator.ParseRecords(body, src.Path, strings.EqualFold(filepath.Ext(src.Path), ".csv"), src.Kinds)
}

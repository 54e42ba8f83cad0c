package control

import (
	"cmp"
	"maps"
	"slices"

	"gatehouse/models"
	"gatehouse/policy"
)

// splice is how a list of statements differs from the one before it at one place.
type splice struct {
	at      int // of the list before
	removed int
	added   []*policy.Statement
}

// edit makes the statements of s, which are still those of last, what they are after a
// difference, and tells the table. It is false where that cannot be told.
func (s *State) edit(last *State, d *models.Difference, u *policy.Update) bool {
	u.Statements, s.edited = s.statements, nil
	s.findings = changedFindings(s.findings, d)
	if d.OfWorkloads() && s.Situation.same(&last.Situation) && s.catalog == last.catalog {
		return true
	}
	splices, ok := s.ofModelsEdited(d)
	if !ok {
		return false
	}
	expansion, edits, ok := s.expansion.Next(s.Population, s.catalog, s.Situation.Moment, d.Were, d.Are)
	if !ok {
		return false
	}
	for _, e := range edits {
		splices = append(splices, splice{s.ofModels + e.At, e.Removed, policy.Pointers(e.Added)})
	}
	splices = append(splices, s.quarantinesEdited(last, d)...)
	s.expansion, s.edited = expansion, d
	s.ofModels += len(d.Added) - len(d.Removed)
	if len(splices) > 0 {
		s.statements, u.Removed, u.Added = spliced(s.statements, splices)
		u.Statements = s.statements
	}
	return true
}

// ofModelsEdited is how the statements of models and labels differ.
func (s *State) ofModelsEdited(d *models.Difference) ([]splice, bool) {
	splices := make([]splice, 0, len(d.Removed)+len(d.Added))
	ofModels := s.statements[:s.ofModels]
	for i := range d.Removed {
		at := policy.FindStatement(ofModels, &d.Removed[i])
		if at == len(ofModels) || ofModels[at].ID != d.Removed[i].ID {
			return nil, false
		}
		splices = append(splices, splice{at: at, removed: 1})
	}
	for i := range d.Added {
		splices = append(splices, splice{at: policy.FindStatement(ofModels, &d.Added[i]), added: policy.Pointers(d.Added[i : i+1])})
	}
	slices.SortStableFunc(splices, func(a, b splice) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.removed, b.removed)) })
	return splices, true
}

// quarantinesEdited is how the statements of quarantines differ. Who is in one is in
// groups of their own (I9), so that those alone can be others that came or are gone.
func (s *State) quarantinesEdited(last *State, d *models.Difference) []splice {
	var splices []splice
	before, now := last.Situation.Quarantines, s.Situation.Quarantines
	subjects := slices.AppendSeq(slices.Collect(maps.Keys(before)), maps.Keys(now))
	slices.Sort(subjects)
	subjects = slices.Compact(subjects)
	at := len(last.statements)
	for _, subject := range subjects {
		if _, was := before[subject]; was {
			at -= ofQuarantine
		}
	}
	for _, subject := range subjects {
		hold, was := before[subject]
		had := []policy.Identity{}
		removed := 0
		if was {
			had, removed = last.statements[at].From[0].Selected.Identities, ofQuarantine
		}
		again, is := now[subject]
		of := s.cutOff(subject, had, d)
		if was != is || again != hold || !slices.Equal(of, had) {
			sp := splice{at: at, removed: removed}
			if is {
				sp.added = policy.Pointers(s.Situation.quarantine(subject, of))
			}
			splices = append(splices, sp)
		}
		at += removed
	}
	return splices
}

// cutOff are who is in a quarantine after a difference, in the order of groups.
func (s *State) cutOff(subject string, had []policy.Identity, d *models.Difference) []policy.Identity {
	come := belonging(subject, d.Are)
	goes := func(id policy.Identity) bool {
		return slices.ContainsFunc(d.Were, func(o models.Subject) bool { return o.Identity == id })
	}
	if len(come) == 0 && !slices.ContainsFunc(had, goes) {
		return had
	}
	is := make(map[policy.Identity]bool)
	for _, id := range append(slices.DeleteFunc(slices.Clone(had), goes), come...) {
		is[id] = true
	}
	out := make([]policy.Identity, 0, len(is))
	for i := range s.Population.Groups {
		if id := s.Population.Groups[i].Identity; is[id] {
			out = append(out, id)
		}
	}
	return out
}

// spliced is the list after splices, which come in order, and where those removed
// stood and those added stand.
func spliced(before []*policy.Statement, splices []splice) (after []*policy.Statement, removed, added []int) {
	n := len(before)
	for _, s := range splices {
		n += len(s.added) - s.removed
	}
	after = make([]*policy.Statement, 0, n)
	last := 0
	for _, s := range splices {
		after = append(after, before[last:s.at]...)
		last = s.at + s.removed
		for i := range s.removed {
			removed = append(removed, s.at+i)
		}
		for i := range s.added {
			added = append(added, len(after)+i)
		}
		after = append(after, s.added...)
	}
	return append(after, before[last:]...), removed, added
}

// changedFindings are those of services after a difference.
func changedFindings(before []models.Finding, d *models.Difference) []models.Finding {
	if slices.Equal(d.FoundBefore, d.FoundNow) {
		return before
	}
	gone := make(map[models.Finding]bool, len(d.FoundBefore))
	for _, f := range d.FoundBefore {
		gone[f] = true
	}
	out := slices.DeleteFunc(slices.Clone(before), func(f models.Finding) bool { return gone[f] })
	return append(out, d.FoundNow...)
}

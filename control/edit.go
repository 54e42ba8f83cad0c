package control

import (
	"cmp"
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

// edit makes the statements of s, which are still those of the state before, what
// they are after a difference, and tells the table. It is false where that cannot be
// told, or where the gateway's own control is to be looked after.
func (c *Control) edit(s *State, d *models.Difference, u *policy.Update) bool {
	u.Statements, s.edited = s.statements, nil
	s.findings = changedFindings(s.findings, d)
	if len(d.Came)+len(d.Gone)+len(d.Removed)+len(d.Added)+len(d.Were)+len(d.Are) == 0 {
		return true
	}
	if len(s.Situation.Quarantines) > 0 {
		return false
	}
	splices := make([]splice, 0, len(d.Removed)+len(d.Added))
	ofModels := s.statements[:s.ofModels]
	for i := range d.Removed {
		at := policy.FindStatement(ofModels, &d.Removed[i])
		if at == len(ofModels) || ofModels[at].ID != d.Removed[i].ID {
			return false
		}
		splices = append(splices, splice{at: at, removed: 1})
	}
	for i := range d.Added {
		splices = append(splices, splice{at: policy.FindStatement(ofModels, &d.Added[i]), added: policy.Pointers(d.Added[i : i+1])})
	}
	slices.SortStableFunc(splices, func(a, b splice) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.removed, b.removed)) })
	expansion, edits, ok := s.expansion.Next(s.Population, d.Were, d.Are)
	if !ok {
		return false
	}
	for _, e := range edits {
		at := s.ofModels + e.At
		added := policy.Pointers(e.Added)
		if c.concernsControl(s.statements[at:at+e.Removed]) || c.concernsControl(added) {
			return false
		}
		splices = append(splices, splice{at, e.Removed, added})
	}
	s.expansion, s.edited = expansion, d
	s.ofModels += len(d.Added) - len(d.Removed)
	if len(splices) > 0 {
		s.statements, u.Removed, u.Added = spliced(s.statements, splices)
		u.Statements = s.statements
	}
	return true
}

// concernsControl reports whether what statements say of the gateway's own
// addresses must be looked at.
func (c *Control) concernsControl(ss []*policy.Statement) bool {
	if c.cfg.Own == nil {
		return false
	}
	ofHost := func(p policy.Peer) bool {
		return p.Kind != policy.PeerService && (p.Kind != policy.PeerSelector || p.Selected != nil && len(p.Selected.Prefixes) > 0)
	}
	return slices.ContainsFunc(ss, func(s *policy.Statement) bool { return slices.ContainsFunc(s.From, ofHost) })
}

// meetsOwn reports whether somebody comes to an address, or publishes a port, by which
// the gateway itself works: statements that were about nobody there may cut it now.
func (c *Control) meetsOwn(changes []models.Transition) bool {
	if c.cfg.Own == nil {
		return false
	}
	for _, own := range c.cfg.Own() {
		for _, t := range changes {
			if t.After == nil {
				continue
			}
			if slices.ContainsFunc(t.After.Published, func(p policy.Published) bool { return p.HostPort == own.Port() }) ||
				slices.ContainsFunc(t.After.Endpoints, func(e policy.Endpoint) bool { return slices.Contains(e.Addresses, own.Addr()) }) {
				return true
			}
		}
	}
	return false
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

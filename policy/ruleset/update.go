package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
)

// How many changes a View carries before a rebuild folds them in, and how many
// it may carry where a rebuild was refused.
const (
	foldAt     = 64
	overlayMax = 1024
)

func maskOf(p netip.Prefix) uint128 {
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	m := uint128{^uint64(0), ^uint64(0)}
	if n <= 64 {
		return uint128{m.hi << (64 - n), 0}
	}
	m.lo <<= 128 - n
	return m
}

// Insert adds a rule. It is found by every lookup that begins after Insert
// returns. After an error nothing has changed; a *MemoryError says that the
// rules do not fit any more.
func (s *Set) Insert(r Rule) error {
	if p := r.problem(); p != "" {
		return fmt.Errorf("rule %d: %s", r.ID, p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.view.Load()
	if s.has(v, r.ID) {
		return fmt.Errorf("rule %d: another rule has this id", r.ID)
	}
	if s.refused != nil && len(v.overlay) >= overlayMax {
		return s.refused
	}
	n := *v
	n.insert(&r, s.recent)
	s.publish(&n, change{rule: r})
	return nil
}

// Delete removes a rule. No lookup that begins after Delete returns finds it.
func (s *Set) Delete(id uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.view.Load()
	if !s.has(v, id) {
		return fmt.Errorf("rule %d: there is none", id)
	}
	n := *v
	if _, ok := s.recent[id]; ok {
		n.gone = slices.Clone(v.gone)
	} else {
		for f := range n.dead {
			n.dead[f] = slices.Clone(v.dead[f])
		}
	}
	n.delete(id, s.recent)
	s.publish(&n, change{rule: Rule{ID: id}, gone: true})
	return nil
}

// has reports whether the rule is in v, the latest View.
func (s *Set) has(v *View, id uint32) bool {
	if _, ok := s.recent[id]; ok {
		return true
	}
	at, ok := v.base.at[id]
	return ok && !v.isDead(at)
}

func (s *Set) publish(v *View, c change) {
	s.view.Store(v)
	if s.rebuild != nil {
		s.log = append(s.log, c)
		return
	}
	s.foldIfDue(v)
}

// foldIfDue starts a rebuild of the base where v carries many changes. s.mu is
// held. After a refusal it waits for deletes.
func (s *Set) foldIfDue(v *View) {
	changes := len(v.overlay) + v.buried
	if changes < max(foldAt, len(v.base.rules)/256) || s.refused != nil && v.Len() > len(v.base.rules) {
		return
	}
	s.rebuild = make(chan struct{})
	go s.fold(v, s.rebuild)
}

// fold builds a new base out of v, and publishes it with what changed meanwhile.
func (s *Set) fold(v *View, done chan struct{}) {
	defer close(done)
	b, err := newBase(v.Rules(), s.opts, v.base)
	var n *View
	recent := map[uint32]int{}
	if err == nil {
		n = b.view()
	}
	for n != nil && s.catchUp(n, recent, finishAt) {
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n != nil {
		n.apply(s.log, recent)
		s.recent = recent
		s.view.Store(n)
	}
	s.log, s.rebuild, s.refused = nil, nil, err
	if n != nil {
		s.foldIfDue(n)
	}
}

// finishAt is how many changes are applied while writers wait.
const finishAt = 64

// catchUp applies to n what has been logged, if it is more than few changes.
func (s *Set) catchUp(n *View, recent map[uint32]int, few int) bool {
	s.mu.Lock()
	log := s.log
	if len(log) <= few {
		s.mu.Unlock()
		return false
	}
	s.log = nil
	s.mu.Unlock()
	n.apply(log, recent)
	return true
}

// Settle waits until no rebuild is under way.
func (s *Set) Settle() {
	for {
		s.mu.Lock()
		done := s.rebuild
		s.mu.Unlock()
		if done == nil {
			return
		}
		<-done
	}
}

// isDead reports whether a rule of the base was deleted.
func (v *View) isDead(at uint32) bool {
	for f := range v.dead {
		if i := v.base.families[f].boxOf[at]; i != none {
			return marked(v.dead[f], int(i))
		}
	}
	return false
}

// apply makes changes to a View that nobody else has yet.
func (v *View) apply(log []change, recent map[uint32]int) {
	for i := range log {
		if c := &log[i]; c.gone {
			v.delete(c.rule.ID, recent)
		} else {
			v.insert(&c.rule, recent)
		}
	}
}

// insert adds a rule to a View that nobody else has yet. The overlay's memory is
// shared with the View it grew from, whose readers do not look behind its end;
// only the latest View grows.
func (v *View) insert(r *Rule, recent map[uint32]int) {
	recent[r.ID] = len(v.overlay)
	v.overlay, v.added = append(v.overlay, newRecent(r)), append(v.added, *r)
}

// delete marks a rule of a View whose marks nobody else has yet.
func (v *View) delete(id uint32, recent map[uint32]int) {
	if i, ok := recent[id]; ok {
		delete(recent, id)
		for i>>6 >= len(v.gone) {
			v.gone = append(v.gone, 0)
		}
		v.gone[i>>6] |= 1 << (i & 63)
		v.lost++
		return
	}
	at := v.base.at[id]
	v.buried++
	for f := range v.dead {
		if i := v.base.families[f].boxOf[at]; i != none {
			v.dead[f][i>>6] |= 1 << (i & 63)
		}
	}
}

// Rules returns the rules of v in no particular order.
func (v *View) Rules() []Rule {
	out := make([]Rule, 0, v.Len())
	for i := range v.base.rules {
		if !v.isDead(uint32(i)) {
			out = append(out, v.base.rules[i])
		}
	}
	for i := range v.added {
		if !marked(v.gone, i) {
			out = append(out, v.added[i])
		}
	}
	return out
}

// Len is how many rules v has.
func (v *View) Len() int { return len(v.base.rules) - v.buried + len(v.overlay) - v.lost }

// Bytes is the memory of the compiled rules; changes that are not folded in yet
// are left out.
func (v *View) Bytes() int { return v.base.bytes }

// Engines names the engine of each family; "" where no rule is of it.
func (v *View) Engines() (v4, v6 Engine) {
	name := func(f family) Engine {
		if c := &v.base.families[f]; c.space != nil {
			return c.engine.name()
		}
		return ""
	}
	return name(family4), name(family6)
}

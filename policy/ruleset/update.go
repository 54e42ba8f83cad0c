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
// returns. After a *MemoryError nothing has changed.
func (s *Set) Insert(r Rule) error {
	if p := r.problem(); p != "" {
		return fmt.Errorf("rule %d: %s", r.ID, p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.view.Load()
	if v.has(r.ID) {
		return fmt.Errorf("rule %d: another rule has this id", r.ID)
	}
	if s.refused != nil && len(v.overlay) >= overlayMax {
		return s.refused
	}
	n := v.inserted(&r)
	s.publish(n, change{rule: r})
	return nil
}

// Delete removes a rule. No lookup that begins after Delete returns finds it.
func (s *Set) Delete(id uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.view.Load()
	if !v.has(id) {
		return fmt.Errorf("rule %d: there is none", id)
	}
	s.publish(v.deleted(id), change{rule: Rule{ID: id}, gone: true})
	return nil
}

func (s *Set) publish(v *View, c change) {
	s.view.Store(v)
	if s.rebuild != nil {
		s.log = append(s.log, c)
		return
	}
	s.foldIfDue(v)
}

// foldIfDue starts a rebuild of the base where v carries many changes. s.mu is held.
func (s *Set) foldIfDue(v *View) {
	if len(v.overlay)+v.buried < max(foldAt, len(v.base.rules)/256) || s.refused != nil && len(v.overlay) > 0 && v.buried < len(v.overlay) {
		return
	}
	s.rebuild = make(chan struct{})
	go s.fold(v, s.rebuild)
}

// fold builds a new base out of v, and publishes it with what changed meanwhile.
func (s *Set) fold(v *View, done chan struct{}) {
	defer close(done)
	b, err := newBase(v.Rules(), s.opts)
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log, s.rebuild, s.refused = nil, nil, err
	if err != nil {
		return
	}
	n := b.view()
	for i := range log {
		if c := &log[i]; c.gone {
			n.bury(c.rule.ID)
		} else {
			n.overlay = append(n.overlay, newRecent(&c.rule))
			n.added = append(n.added, c.rule)
		}
	}
	s.view.Store(n)
	s.foldIfDue(n)
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

// has reports whether the rule is in v.
func (v *View) has(id uint32) bool {
	if slices.ContainsFunc(v.overlay, func(r recent) bool { return uint32(r.key) == id }) {
		return true
	}
	at, ok := v.base.at[id]
	return ok && !v.isDead(at)
}

// isDead reports whether a rule of the base was deleted.
func (v *View) isDead(at uint32) bool {
	for f := range v.dead {
		if i := v.base.families[f].boxOf[at]; i != none {
			return v.dead[f][i>>6]>>(i&63)&1 != 0
		}
	}
	return false
}

// inserted is v with one more rule. The overlay's memory is shared: those who
// have v do not look behind its end, and only the latest View grows.
func (v *View) inserted(r *Rule) *View {
	n := *v
	n.overlay, n.added = append(n.overlay, newRecent(r)), append(n.added, *r)
	return &n
}

// deleted is v without one rule, which it has.
func (v *View) deleted(id uint32) *View {
	n := *v
	if i := slices.IndexFunc(v.overlay, func(r recent) bool { return uint32(r.key) == id }); i >= 0 {
		n.overlay, n.added = without(v.overlay, i), without(v.added, i)
		return &n
	}
	for f := range n.dead {
		n.dead[f] = slices.Clone(v.dead[f])
	}
	n.bury(id)
	return &n
}

func without[T any](s []T, i int) []T {
	return append(append(make([]T, 0, len(s)), s[:i]...), s[i+1:]...)
}

// bury deletes a rule from a View that nobody else has yet.
func (v *View) bury(id uint32) {
	if i := slices.IndexFunc(v.overlay, func(r recent) bool { return uint32(r.key) == id }); i >= 0 {
		v.overlay, v.added = slices.Delete(v.overlay, i, i+1), slices.Delete(v.added, i, i+1)
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
	out := make([]Rule, 0, len(v.base.rules)+len(v.added))
	for i := range v.base.rules {
		if !v.isDead(uint32(i)) {
			out = append(out, v.base.rules[i])
		}
	}
	return append(out, v.added...)
}

// Len is how many rules v has.
func (v *View) Len() int { return len(v.base.rules) - v.buried + len(v.overlay) }

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

package ruleset

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
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
	for {
		v := s.view.Load()
		if v.has(r.ID) {
			return fmt.Errorf("rule %d: another rule has this id", r.ID)
		}
		if refused := s.refused.Load(); refused != nil && len(v.overlay) >= overlayMax {
			return *refused
		}
		n := v.copied()
		n.insert(&r)
		if s.publish(v, n) {
			return nil
		}
	}
}

// Delete removes a rule. No lookup that begins after Delete returns finds it.
func (s *Set) Delete(id uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		v := s.view.Load()
		if !v.has(id) {
			return fmt.Errorf("rule %d: there is none", id)
		}
		n := v.copied()
		n.delete(id)
		if s.publish(v, n) {
			return nil
		}
	}
}

// publish makes n, which is v with a change, the latest View. It does not if a
// rebuild has published its own meanwhile: then the change is to be made to that.
// s.mu is held.
func (s *Set) publish(v, n *View) bool {
	if !s.view.CompareAndSwap(v, n) {
		return false
	}
	s.foldIfDue()
	return true
}

// foldIfDue begins a rebuild of the latest View, which need not be the one that was
// just published: a rebuild may have ended since, and have published its own over it.
// s.mu is held.
func (s *Set) foldIfDue() {
	if s.rebuild.Load() != nil {
		return
	}
	if v := s.view.Load(); s.isDue(v) {
		r := &rebuild{make(chan struct{})}
		s.rebuild.Store(r)
		go s.fold(v, r)
	}
}

// rebuild is one or several in a row.
type rebuild struct {
	done chan struct{} // closed when it is over
}

// isDue reports whether v carries so many changes that its base is to be built
// anew. After a refusal that waits for deletes.
func (s *Set) isDue(v *View) bool {
	return len(v.overlay)+v.buried >= max(foldAt, len(v.base.rules)/256) && (s.refused.Load() == nil || v.Len() <= len(v.base.rules))
}

// fold builds a base out of v, and out of what that has become until none is due.
// What is due a moment later begins with the next change.
func (s *Set) fold(v *View, r *rebuild) {
	defer close(r.done)
	defer s.rebuild.Store(nil)
	p := &pace{}
	for again := true; again; again = s.isDue(v) {
		b, err := newBase(v.Rules(), s.opts, v.base, p)
		if err != nil {
			s.refused.Store(&err)
			return
		}
		v = s.install(b.view(v.seq), v)
		s.refused.Store(nil)
	}
}

// A rebuild works for a turn, then gives way; after some turns it rests.
const (
	turn        = 200 * time.Microsecond
	turnsToRest = 10
	// rest takes a millisecond where the core has nothing else to do: an idle one
	// waits no shorter (epoll_wait).
	rest = time.Microsecond
)

// pace is how a rebuild leaves the processor to others, and above all to writers.
// After each turn those run that wait for its core or for any. A writer that waits
// for the core of a busy reader would wait for the reader's whole time slice, 10 ms,
// unless another core has nothing to do and fetches it: therefore the rests.
type pace struct {
	since time.Time // the turn began
	turns int
	steps int
}

// giveWay lets others run if it is time to. Without a pace it does nothing: New has
// a caller who waits.
func (p *pace) giveWay() {
	if p == nil || time.Since(p.since) < turn {
		return
	}
	if p.turns++; p.turns%turnsToRest == 0 {
		time.Sleep(rest)
	} else {
		runtime.Gosched()
	}
	p.since = time.Now()
}

// step is giveWay for steps that are shorter than a look at the clock.
func (p *pace) step() {
	if p == nil {
		return
	}
	if p.steps++; p.steps%64 == 0 {
		p.giveWay()
	}
}

// install publishes n, which is built out of v, once it has what changed since,
// and returns it. Writers do not wait for it, whatever it waits for: it follows
// them.
func (s *Set) install(n, v *View) *View {
	log := v.since.after(v.seq)
	for {
		for c := log.next(); c != nil; c = log.next() {
			n.apply(c)
		}
		if v := s.view.Load(); v.seq == n.seq && s.view.CompareAndSwap(v, n) {
			return n
		}
		runtime.Gosched()
	}
}

// change is a rule that came, or the id of one that went.
type change struct {
	rule Rule
	gone bool
}

// changes are a part of a list that one goroutine appends to while others read.
type changes struct {
	n    atomic.Uint32
	list []change
	next atomic.Pointer[changes]
}

// note appends a change.
func (h *history) note(c change) {
	n := h.last.n.Load()
	if int(n) == len(h.last.list) {
		next := &changes{list: make([]change, foldAt)}
		h.last.next.Store(next)
		h.last, n = next, 0
	}
	h.last.list[n] = c
	h.last.n.Store(n + 1)
}

// logCursor is where somebody reads a list of changes.
type logCursor struct {
	at   *changes
	read uint32 // of those
}

// after is where the changes that followed that one begin.
func (h *history) after(seq uint64) logCursor {
	c := logCursor{at: h.first}
	for range seq - h.begin {
		c.next()
	}
	return c
}

// next is the change at the cursor, which it passes, or nil if there is none yet.
func (c *logCursor) next() *change {
	if int(c.read) == len(c.at.list) {
		next := c.at.next.Load()
		if next == nil {
			return nil
		}
		c.at, c.read = next, 0
	}
	if c.read == c.at.n.Load() {
		return nil
	}
	c.read++
	return &c.at.list[c.read-1]
}

// Settle waits until no rebuild is under way.
func (s *Set) Settle() {
	for r := s.rebuild.Load(); r != nil; r = s.rebuild.Load() {
		<-r.done
	}
}

// has reports whether the rule is in v, the latest View. It is for writers.
func (v *View) has(id uint32) bool {
	if _, ok := v.since.place[id]; ok {
		return true
	}
	at, ok := v.base.at[id]
	return ok && !v.isDead(at)
}

// isDead reports whether a rule of the base was deleted.
func (v *View) isDead(at uint32) bool {
	for f := range v.since.dead {
		if i := v.base.families[f].boxOf[at]; i != none {
			return v.since.dead[f].holds(i, v.seq)
		}
	}
	return false
}

// apply makes a change to a View that nobody else has yet.
func (v *View) apply(c *change) {
	if c.gone {
		v.delete(c.rule.ID)
	} else {
		v.insert(&c.rule)
	}
}

// copied is a View to make a change to, after v, the latest.
func (v *View) copied() *View {
	h := v.since
	if len(h.views) == 0 {
		h.views = make([]View, foldAt)
	}
	n := &h.views[0]
	h.views = h.views[1:]
	*n = *v
	return n
}

// insert adds a rule to a View that nobody else has yet. The overlay's memory is
// shared with the View it grew from, whose readers do not look behind its end;
// only the latest View grows.
func (v *View) insert(r *Rule) {
	v.seq++
	v.since.note(change{rule: *r})
	v.since.place[r.ID] = len(v.overlay)
	v.overlay, v.added = append(v.overlay, newRecent(r)), append(v.added, *r)
}

// delete marks a rule for a View that nobody else has yet, and those that follow.
func (v *View) delete(id uint32) {
	v.seq++
	v.since.note(change{rule: Rule{ID: id}, gone: true})
	if i, ok := v.since.place[id]; ok {
		delete(v.since.place, id)
		atomic.StoreUint64(&v.overlay[i].gone, v.seq)
		v.lost++
		return
	}
	at := v.base.at[id]
	v.buried++
	for f := range v.since.dead {
		if i := v.base.families[f].boxOf[at]; i != none {
			v.since.dead[f].add(i, v.seq)
		}
	}
}

// Rules returns the rules of v in the order in which they match.
func (v *View) Rules() []Rule {
	var added []Rule
	for i := range v.added {
		if !v.overlay[i].isGone(v.seq) {
			added = append(added, v.added[i])
		}
	}
	slices.SortFunc(added, inOrder)
	out := make([]Rule, 0, v.Len())
	for i := range v.base.rules {
		if v.isDead(uint32(i)) {
			continue
		}
		for len(added) > 0 && inOrder(added[0], v.base.rules[i]) < 0 {
			out, added = append(out, added[0]), added[1:]
		}
		out = append(out, v.base.rules[i])
	}
	return append(out, added...)
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

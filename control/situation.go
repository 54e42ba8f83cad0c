package control

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// Situation is what the operator's statements hold by at a moment: what of them
// is in force, the threat level and the quarantines.
type Situation struct {
	operator.Moment
	Threat      ThreatHold // by hand; the level in force may be a record's
	Quarantines map[string]Hold
	Active      []bool // by the statements of Rules.Policy
}

// same reports whether the same statements are in force.
func (s *Situation) same(other *Situation) bool {
	return s.Moment.Threat == other.Moment.Threat && s.Threat == other.Threat &&
		maps.Equal(s.Quarantines, other.Quarantines) && slices.Equal(s.Active, other.Active)
}

// changedQuarantines are those of which one of two situations has no hold.
func (s *Situation) changedQuarantines(other *Situation) []string {
	var out []string
	for _, of := range [2][2]map[string]Hold{{s.Quarantines, other.Quarantines}, {other.Quarantines, s.Quarantines}} {
		for subject := range of[0] {
			if _, both := of[1][subject]; !both {
				out = append(out, subject)
			}
		}
	}
	return out
}

func (c *Control) situation(now time.Time) Situation {
	s := Situation{Moment: operator.Moment{Time: now}, Threat: c.cfg.Holds.Threat(now), Quarantines: c.cfg.Holds.Quarantines(now)}
	s.Moment.Threat = s.Threat.Level
	for _, r := range c.cfg.Records.All() {
		s.Moment.Threat = max(s.Moment.Threat, r.Threat)
	}
	s.Active = c.rules.Policy.Active(s.Moment)
	return s
}

// readRecords takes over what systems of record say.
func (c *Control) readRecords() {
	c.catalog = operator.NewCatalog(c.rules.Policy.Kinds, c.cfg.Records.All())
}

// lookAgain is how often conditions are judged at the latest: the clock may be
// set while a timer runs.
const lookAgain = 10 * time.Second

// untilEdge is how long the clock changes no condition.
func (c *Control) untilEdge() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	wait := lookAgain
	for _, edge := range []time.Time{c.rules.Policy.NextEdge(now), c.cfg.Holds.nextEdge(now)} {
		if !edge.IsZero() {
			wait = min(wait, edge.Sub(now))
		}
	}
	return max(wait, time.Millisecond)
}

// flipped reports whether a condition holds now that did not in the last state,
// or the other way round.
func (c *Control) flipped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.state.Load()
	now := c.situation(time.Now())
	return last != nil && !now.same(&last.Situation)
}

// SetThreat sets the level and puts what follows in force before it returns.
func (c *Control) SetThreat(level operator.Threat, hold Hold) error {
	stored, err := c.hold(func(h *held) { h.Threat = ThreatHold{level, hold} })
	if !stored {
		return err
	}
	c.cfg.Log.Warn("threat level set", append([]any{"level", level}, hold.attrs()...)...)
	return notInForce("the threat level", err)
}

// hold changes holds, and puts what follows in force once they are on disk.
func (c *Control) hold(edit func(*held)) (stored bool, err error) {
	return c.store(func() func() error { return c.cfg.Holds.change(edit) })
}

// Quarantine cuts a service or a container off and returns once that is in force.
// What cannot be in force is taken back, and a hold from before stays.
func (c *Control) Quarantine(subject string, hold Hold) error {
	var earlier Hold
	was := false
	stored, err := c.hold(func(h *held) {
		earlier, was = h.Quarantines[subject]
		h.Quarantines[subject] = hold
	})
	switch {
	case !stored:
		return err
	case err != nil:
		_, undo := c.hold(func(h *held) {
			switch {
			case h.Quarantines[subject] != hold: // somebody else's by now
			case was:
				h.Quarantines[subject] = earlier
			default:
				delete(h.Quarantines, subject)
			}
		})
		return errors.Join(err, undo)
	}
	c.cfg.Log.Warn("quarantine", append([]any{"of", subject}, hold.attrs()...)...)
	return nil
}

// Release ends a quarantine; false where there is none.
func (c *Control) Release(subject, by, why string) (bool, error) {
	if _, ok := c.cfg.Holds.Quarantines(time.Now())[subject]; !ok {
		return false, nil
	}
	stored, err := c.hold(func(h *held) { delete(h.Quarantines, subject) })
	if !stored {
		return false, err
	}
	c.cfg.Log.Warn("policy loosened: quarantine ended", "of", subject, "by", by, "why", why)
	return true, notInForce("the release", err)
}

func notInForce(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s is stored, but not in force: %w", what, err)
}

// keepsControl refuses a table in which an operator's statement cuts the gateway
// off from what it works by.
func (c *Control) keepsControl(t *policy.Table) error {
	if c.cfg.Own == nil {
		return nil
	}
	var errs []error
	own := c.cfg.Own()
	for _, what := range slices.Sorted(maps.Keys(own)) {
		at := own[what]
		if !at.IsValid() || at.Addr().IsLoopback() {
			continue // never crosses a hook
		}
		x, err := policy.Explain(t, "@host", at.Addr().String(), policy.Port(policy.ProtoTCP, at.Port()), policy.AppHTTP)
		if err != nil || !x.Denied {
			continue
		}
		for _, side := range x.Sides {
			if st := side.Statement; st != nil && side.Answer == "no" && st.Tier == policy.TierOperator {
				errs = append(errs, fmt.Errorf("statement %q (%s) would cut the gateway off from %s at %s: except @host there", st.ID, st.Origin[0], what, at))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// cutsOwn reports whether keepsControl may refuse a table.
func (c *Control) cutsOwn(t *policy.Table) bool {
	if c.cfg.Own == nil {
		return false
	}
	for _, at := range c.cfg.Own() {
		if at.IsValid() && !at.Addr().IsLoopback() && t.CutsHost(at) {
			return true
		}
	}
	return false
}

// report logs which statements began and ended, who or what did it, and whether
// that loosens. d is what next differs in, nil where that is not known.
func (c *Control) report(last, next *State, d *models.Difference) {
	if last == nil {
		return
	}
	c.reportConditions(last, next)
	c.reportDeployers(last, next, d)
	if last.Rules == next.Rules {
		c.reportRecords(last, next)
	} else {
		c.cfg.Log.Info("the operator's files are in force", "statements", len(next.Rules.Policy.Statements), "before", len(last.Rules.Policy.Statements))
	}
	for subject, hold := range last.Situation.Quarantines {
		if hold.over(next.Situation.Time) {
			c.cfg.Log.Warn("policy loosened: quarantine is over", "of", subject, "by", "the clock", "set", hold.String())
		}
	}
}

// reportConditions logs the statements that began and ended.
func (c *Control) reportConditions(last, next *State) {
	if last.Rules == next.Rules && slices.Equal(last.Situation.Active, next.Situation.Active) {
		return
	}
	by := c.cause(&last.Situation, &next.Situation)
	before := make(map[string]bool)
	for i, s := range last.Rules.Policy.Statements {
		before[s.ID] = last.Situation.Active[i]
	}
	for i, s := range next.Rules.Policy.Statements {
		now := next.Situation.Active[i]
		was, known := before[s.ID]
		if !known || was == now {
			continue
		}
		text := "policy tightened"
		if (s.Verdict == policy.Allow) == now {
			text = "policy loosened"
		}
		c.cfg.Log.Warn(text, "statement", s.ID, "file", s.File, "inForce", now, "by", by, "owner", s.Owner, "why", s.Why)
	}
}

// cause says who or what changed the situation.
func (c *Control) cause(last, next *Situation) string {
	switch {
	case last.Moment.Threat == next.Moment.Threat:
		return "the clock, or the files"
	case next.Threat != last.Threat && next.Threat.By != "":
		return "threat level " + next.Threat.Level.String() + " " + next.Threat.String()
	case next.Threat != last.Threat:
		return "the clock: the threat level " + last.Threat.Level.String() + " set " + last.Threat.String() + " is over"
	}
	return "a system of record: threat level " + next.Moment.Threat.String()
}

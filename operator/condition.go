package operator

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/document"
	"gatehouse/policy"
)

// Threat is the level of threat that the operator, or a system of record, sees.
type Threat uint8

// The levels in their order; the zero value is the usual state.
const (
	ThreatNormal Threat = iota
	ThreatElevated
	ThreatHigh
	ThreatCritical
)

var threatNames = []string{"normal", "elevated", "high", "critical"}

func (t Threat) String() string { return threatNames[t] }

// MarshalText makes levels words in JSON.
func (t Threat) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a level's word.
func (t *Threat) UnmarshalText(text []byte) error {
	level, err := ParseThreat(string(text))
	if err == nil {
		*t = level
	}
	return err
}

// ParseThreat reads a level's name.
func ParseThreat(s string) (Threat, error) {
	i := slices.Index(threatNames, s)
	if i < 0 {
		return 0, fmt.Errorf("threat level %q: want one of %s%s", s, strings.Join(threatNames, ", "), policy.Meant(s, threatNames))
	}
	return Threat(i), nil
}

// When is the condition of a statement: all that it gives must hold. The zero
// value holds always.
type When struct {
	Threat []Test
	Window *Window
}

// Test compares a value with others.
type Test struct {
	Op     Op
	Values []string // one, but for OpIn
}

// Op is a comparison's operator.
type Op uint8

// The operators. Has is for sets alone, Gte and Lte for what is ordered.
const (
	OpEq Op = iota
	OpNe
	OpIn
	OpHas
	OpGte
	OpLte
)

var opNames = []string{"eq", "ne", "in", "has", "gte", "lte"}

func (o Op) String() string { return opNames[o] }

// String is the test as statements show it, behind what it compares: "=high".
func (t Test) String() string {
	return [...]string{"=", "!=", "=", "=", ">=", "<="}[t.Op] + strings.Join(t.Values, "|")
}

// holds compares a value that is no set; levels is its order, nil for text.
func (t Test) holds(value string, levels []string) bool {
	switch t.Op {
	case OpEq, OpIn:
		return slices.Contains(t.Values, value)
	case OpNe:
		return !slices.Contains(t.Values, value)
	}
	order := cmp.Compare(slices.Index(levels, value), slices.Index(levels, t.Values[0]))
	return t.Op == OpGte && order >= 0 || t.Op == OpLte && order <= 0
}

// Window is a time of the week in a zone. A window over midnight belongs to the
// day on which it begins.
type Window struct {
	Days     [7]bool // by time.Weekday
	From, To int     // minutes of the day; To may be 24:00, and is not in it
	Zone     *time.Location
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (w *Window) String() string {
	var days []string
	for i := range dayNames {
		if day := (i + 1) % 7; w.Days[day] {
			days = append(days, dayNames[day])
		}
	}
	clock := func(minutes int) string { return fmt.Sprintf("%02d:%02d", minutes/60, minutes%60) }
	return fmt.Sprintf("%s %s-%s %s", strings.Join(days, ","), clock(w.From), clock(w.To), w.Zone)
}

// Holds reports whether the wall clock of the zone is in the window: an hour that
// a change to summer time skips never comes, one that is repeated counts twice.
func (w *Window) Holds(t time.Time) bool {
	t = t.In(w.Zone)
	minute, day := t.Hour()*60+t.Minute(), t.Weekday()
	if w.From < w.To {
		return w.Days[day] && w.From <= minute && minute < w.To
	}
	return w.Days[day] && minute >= w.From || w.Days[(day+6)%7] && minute < w.To
}

// horizon is as far as the next edge of a window can be: a week, and what
// changes of the clock add.
const horizon = 9 * 24 * time.Hour

// NextEdge is the first moment after t at which Holds changes; zero if it never
// does.
func (w *Window) NextEdge(t time.Time) time.Time {
	now := w.Holds(t)
	limit := t.Add(horizon)
	for at := t.In(w.Zone); at.Before(limit); {
		_, end := at.ZoneBounds() // the offset stays until then
		if end.IsZero() || end.After(limit) {
			end = limit
		}
		if edge := w.edgeBetween(at, end, now); !edge.IsZero() {
			return edge
		}
		at = end.In(w.Zone)
	}
	return time.Time{}
}

// edgeBetween is the first change after from and up to to, between which the
// zone's offset stays: at one of the minutes of the wall clock at which a window
// can begin or end, or as the offset changes.
func (w *Window) edgeBetween(from, to time.Time, now bool) time.Time {
	_, offset := from.Zone()
	minutes := []int{0, w.From, w.To}
	slices.Sort(minutes)
	day := time.Date(from.Year(), from.Month(), from.Day(), 0, 0, 0, 0, time.FixedZone("", offset))
	for ; day.Before(to); day = day.Add(24 * time.Hour) {
		for _, m := range minutes {
			edge := day.Add(time.Duration(m) * time.Minute)
			if edge.After(from) && edge.Before(to) && w.Holds(edge) != now {
				return edge.In(w.Zone)
			}
		}
	}
	if w.Holds(to) != now {
		return to.In(w.Zone)
	}
	return time.Time{}
}

// Moment is what conditions are judged by.
type Moment struct {
	Time   time.Time
	Threat Threat
}

func (w *When) holds(m Moment) bool {
	for _, t := range w.Threat {
		if !t.holds(m.Threat.String(), threatNames) {
			return false
		}
	}
	return w.Window == nil || w.Window.Holds(m.Time)
}

func (w *When) String() string {
	var parts []string
	for _, t := range w.Threat {
		parts = append(parts, "threat"+t.String())
	}
	if w.Window != nil {
		parts = append(parts, w.Window.String())
	}
	return strings.Join(parts, " and ")
}

// Active reports whether the statement is in force at m.
func (s *Statement) Active(m Moment) bool { return !s.expired(m.Time) && s.When.holds(m) }

func (s *Statement) expired(t time.Time) bool { return !s.Expires.IsZero() && !t.Before(s.Expires) }

// state is what keeps the statement in force, or what it waits for, and until
// when as far as the clock says; "" where there is no condition.
func (s *Statement) state(m Moment) string {
	if s.expired(m.Time) {
		return "nothing: it expired " + s.Expires.Format(time.RFC3339)
	}
	text := s.When.String()
	if edge := s.nextEdge(m.Time); !edge.IsZero() {
		word := "not before "
		if s.Active(m) {
			word = "until "
		}
		text = strings.TrimPrefix(text+", "+word+edge.Format(time.RFC3339), ", ")
	}
	return text
}

// nextEdge is when time alone next begins or ends the statement; zero if never.
func (s *Statement) nextEdge(t time.Time) time.Time {
	var edge time.Time
	if s.When.Window != nil {
		edge = s.When.Window.NextEdge(t)
	}
	if s.Expires.After(t) && (edge.IsZero() || s.Expires.Before(edge)) {
		edge = s.Expires
	}
	return edge
}

func (d *decoder) when(n *yaml.Node, key string) When {
	var w When
	d.Object(n, key, map[string]document.Reader{
		"threat": func(n *yaml.Node, key string) { w.Threat = d.tests(n, key, nil) },
		"time":   func(n *yaml.Node, key string) { w.Window = d.window(n, key) },
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		d.Fault(n, key, "says nothing; leave it out, or give threat or time")
	}
	for _, problem := range ordered(threatNames).faults(w.Threat) {
		d.Fault(n, key+".threat", "%s", problem)
	}
	return w
}

// tests reads a map of operators, and unknown where that is not nil.
func (d *decoder) tests(n *yaml.Node, key string, unknown *bool) []Test {
	var out []Test
	one := func(op Op) document.Reader {
		return func(n *yaml.Node, key string) {
			if s, ok := d.Scalar(n, key); ok {
				out = append(out, Test{op, []string{s}})
			}
		}
	}
	fields := map[string]document.Reader{
		"eq": one(OpEq), "ne": one(OpNe), "has": one(OpHas), "gte": one(OpGte), "lte": one(OpLte),
		"in": func(n *yaml.Node, key string) {
			t := Test{Op: OpIn}
			d.List(&t.Values, d.Scalar)(n, key)
			out = append(out, t)
		},
	}
	if unknown != nil {
		fields["unknown"] = d.Boolean(unknown)
	}
	if d.Object(n, key, fields) && len(out) == 0 {
		d.Fault(n, key, "want a comparison: eq, ne, in, has, gte or lte")
	}
	return out
}

func (d *decoder) window(n *yaml.Node, key string) *Window {
	w := &Window{To: 24 * 60}
	var days []string
	var from, to string
	d.Object(n, key, map[string]document.Reader{
		"days": d.List(&days, func(n *yaml.Node, key string) (string, bool) {
			var day string
			d.oneOf(&day, dayNames...)(n, key)
			return day, day != ""
		}),
		"from": d.Text(&from),
		"to":   d.Text(&to),
		"zone": func(n *yaml.Node, key string) { w.Zone = d.zone(n, key) },
	}, "zone")
	given := func(name string) bool { return d.Lines[key+"."+name] > 0 }
	for i, name := range dayNames {
		w.Days[i] = !given("days") || slices.Contains(days, name)
	}
	if given("from") || given("to") {
		var okFrom, okTo bool
		w.From, okFrom = minutesOf(from)
		w.To, okTo = minutesOf(to)
		if !okFrom || !okTo || w.From == 24*60 || w.From == w.To {
			d.Fault(n, key, `from %q to %q: want two different times such as "07:00" and "19:00", or neither for the whole day`, from, to)
			return nil
		}
	}
	if w.Zone == nil {
		return nil // a fault says so
	}
	return w
}

func minutesOf(s string) (int, bool) {
	if s == "24:00" {
		return 24 * 60, true
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil && len(s) == len("15:04")
}

// zone reads a name of the IANA time zone database.
func (d *decoder) zone(n *yaml.Node, key string) *time.Location {
	s, ok := d.Scalar(n, key)
	if !ok {
		return nil
	}
	z, err := time.LoadLocation(s)
	if err != nil || s == "Local" {
		d.Fault(n, key, "%q: want a time zone of the IANA database, such as Europe/Berlin or UTC", s)
		return nil
	}
	return z
}

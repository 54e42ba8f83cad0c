package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// Hold is what a person set by hand, for a while or until it is taken back.
type Hold struct {
	By    string    `json:"by"`
	Why   string    `json:"why,omitempty"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"` // zero = until it is taken back
}

func (h Hold) over(t time.Time) bool { return !h.Until.IsZero() && !t.Before(h.Until) }

// String is the hold as people read it.
func (h Hold) String() string {
	text := fmt.Sprintf("by %s since %s", h.By, h.Since.Format(time.RFC3339))
	if !h.Until.IsZero() {
		text += " until " + h.Until.Format(time.RFC3339)
	}
	if h.Why != "" {
		text += ": " + h.Why
	}
	return text
}

// attrs are the hold as the log tells it; one without an end has no until.
func (h Hold) attrs() []any {
	out := []any{"by", h.By, "why", h.Why}
	if !h.Until.IsZero() {
		out = append(out, "until", h.Until)
	}
	return out
}

// ThreatHold is a threat level that somebody set.
type ThreatHold struct {
	Level operator.Threat `json:"level"`
	Hold
}

// Holds are the threat level and the quarantines that people set. They outlive
// restarts: each change is on disk before it is in force. Safe for concurrent use, but
// for changes, of which one is made at a time.
type Holds struct {
	mu   sync.Mutex
	path string
	held held
}

type held struct {
	Threat      ThreatHold      `json:"threat"`
	Quarantines map[string]Hold `json:"quarantines"` // by service or container
}

// OpenHolds reads the file at path; a missing one is no hold. A file that cannot
// be read is an error: to go on without it could release what somebody locked up.
func OpenHolds(path string) (*Holds, error) {
	h := &Holds{path: path, held: held{Quarantines: map[string]Hold{}}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &h.held)
	}
	if err != nil {
		return nil, fmt.Errorf("threat level and quarantines: %s: %w (restore the file, or remove it to begin without any)", path, err)
	}
	if h.held.Quarantines == nil {
		h.held.Quarantines = map[string]Hold{}
	}
	return h, nil
}

// change makes of the holds what edit does, and begins to store that.
func (h *Holds) change(edit func(*held)) (stored func() error) {
	h.mu.Lock()
	before := h.held
	next := held{before.Threat, maps.Clone(before.Quarantines)}
	edit(&next)
	h.held = next
	h.mu.Unlock()
	return storing("threat level and quarantines", h.path, next, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.held = before
	})
}

// Threat is the level that is set at t, the usual one where none is.
func (h *Holds) Threat(t time.Time) ThreatHold {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held.Threat.over(t) {
		return ThreatHold{}
	}
	return h.held.Threat
}

// Quarantines are those in force at t.
func (h *Holds) Quarantines(t time.Time) map[string]Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := maps.Clone(h.held.Quarantines)
	maps.DeleteFunc(out, func(_ string, q Hold) bool { return q.over(t) })
	return out
}

// nextEdge is when the next hold ends; zero if none does.
func (h *Holds) nextEdge(t time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	var first time.Time
	for _, hold := range append(slices.Collect(maps.Values(h.held.Quarantines)), h.held.Threat.Hold) {
		if hold.Until.After(t) && (first.IsZero() || hold.Until.Before(first)) {
			first = hold.Until
		}
	}
	return first
}

// Belongs reports whether a workload is what a quarantine names: a service
// ("shop/db"), or, where there is no slash in it, a container's name or the beginning
// of its id.
func Belongs(subject string, w *policy.Workload) bool {
	const shortID = 12 // characters of an id that the engine prints
	if w.Service.Is(subject) {
		return true
	}
	return !namesProject(subject) && (w.Name == subject || len(subject) >= shortID && strings.HasPrefix(w.ID, subject))
}

// namesProject: it can be nothing but a service.
func namesProject(subject string) bool { return strings.Contains(subject, "/") }

// belonging calls yield for each workload that a quarantine names. A service's are found
// however many others there are.
func (s *State) belonging(subject string) iter.Seq[*policy.Workload] {
	return func(yield func(*policy.Workload) bool) {
		if !namesProject(subject) {
			for w := range s.View.Workloads {
				if Belongs(subject, w) && !yield(w) {
					return
				}
			}
			return
		}
		for _, id := range s.Population.OfService(subject) {
			if w := s.View.Workload(id); w != nil && Belongs(subject, w) && !yield(w) {
				return
			}
		}
	}
}

// belonging are those that have somebody whom a quarantine names.
func belonging(subject string, among []models.Subject) []policy.Identity {
	return operator.Belonging(among, func(w *policy.Workload) bool { return Belongs(subject, w) })
}

// ofQuarantine is how many statements a quarantine has.
const ofQuarantine = 2

// quarantine are the statements of a quarantine that is in force.
func (s *Situation) quarantine(subject string, of []policy.Identity) []policy.Statement {
	return operator.Quarantine(subject, of, []string{"quarantine " + s.Quarantines[subject].String()})
}

// quarantined is what of a workload the quarantines in force select by (I9).
func quarantined(holds map[string]Hold, w *policy.Workload) string {
	var out []string
	for _, subject := range slices.Sorted(maps.Keys(holds)) {
		if Belongs(subject, w) {
			out = append(out, subject)
		}
	}
	return strings.Join(out, "\x00")
}

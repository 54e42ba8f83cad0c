package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"

	"gatehouse/control/statefile"
	"gatehouse/policy"
)

// Modes are the modes that `gatehouse mode` set, by the text of the service
// (V5). They outlive restarts: each change is on disk before it counts. Safe
// for concurrent use.
type Modes struct {
	mu     sync.Mutex
	path   string
	byName map[string]policy.Mode
}

// OpenModes reads the file at path; a missing one is an empty set. A file that
// cannot be read is an error: to go on without it could loosen what somebody
// enforced.
func OpenModes(path string) (*Modes, error) {
	m := &Modes{path: path, byName: map[string]policy.Mode{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("modes: %w", err)
	}
	var words map[string]string
	if err := json.Unmarshal(data, &words); err != nil {
		return nil, fmt.Errorf("modes: %s: %w (restore the file, or remove it to fall back to the default mode)", path, err)
	}
	for service, word := range words {
		mode, ok := policy.ParseMode(word)
		if !ok {
			return nil, fmt.Errorf("modes: %s: service %q: mode %q is none of observe, enforce", path, service, word)
		}
		m.byName[service] = mode
	}
	return m, nil
}

// Set stores the mode of services durably, of all or of none.
func (m *Modes) Set(services []string, mode policy.Mode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := maps.Clone(m.byName)
	for _, s := range services {
		next[s] = mode
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := statefile.Write(m.path, append(data, '\n')); err != nil {
		return fmt.Errorf("modes: %w", err)
	}
	m.byName = next
	return nil
}

// All returns a copy.
func (m *Modes) All() map[string]policy.Mode {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.byName)
}

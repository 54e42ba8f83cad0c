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
// (V5). They outlive restarts: each change is on disk before it is in force. Safe
// for concurrent use, but for changes, of which one is made at a time.
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

// set gives services a mode, all or none, and begins to store that.
func (m *Modes) set(services []string, mode policy.Mode) (stored func() error) {
	before := m.All()
	next := maps.Clone(before)
	for _, s := range services {
		next[s] = mode
	}
	become := func(is map[string]policy.Mode) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.byName = is
	}
	become(next)
	return storing("modes", m.path, next, func() { become(before) })
}

// storing writes v to a state file and returns at once. stored waits until it is on
// disk; where that cannot be, it undoes what v has changed. It must be called, once.
func storing(what, path string, v any, undo func()) (stored func() error) {
	done := make(chan error, 1)
	go func() {
		data, err := json.MarshalIndent(v, "", "  ")
		if err == nil {
			err = statefile.Write(path, append(data, '\n'))
		}
		done <- err
	}()
	return func() error {
		err := <-done
		if err == nil {
			return nil
		}
		undo()
		return fmt.Errorf("%s: %w", what, err)
	}
}

// All returns a copy.
func (m *Modes) All() map[string]policy.Mode {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.byName)
}

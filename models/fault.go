package models

import (
	"fmt"

	"gatehouse/document"
)

// Fault is one thing wrong with a model file. Errors of this package join all
// faults that they found; errors.As finds the first.
type Fault = document.Fault

// declaration remembers which keys a model's file gives, and where.
type declaration struct {
	lines map[string]int // "serves[1].ports[0]" → line
}

// gives reports whether the model's own text has the key, else was as given.
func (m *Model) gives(key string, was bool) bool {
	if m.decl == nil {
		return was
	}
	_, ok := m.decl.lines[key]
	return ok
}

// fault is a fault of a loaded model at one of its keys.
func (m *Model) fault(key, format string, args ...any) *Fault {
	f := &Fault{File: m.File, Key: key, Text: fmt.Sprintf(format, args...)}
	if f.File == "" {
		f.File = "model " + m.Name
	}
	if m.decl != nil {
		f.Line = m.decl.lines[key]
	}
	return f
}

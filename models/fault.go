package models

import (
	"errors"
	"fmt"
	"strings"
)

// Fault is one thing wrong with a model file. Errors of this package join all
// faults that they found; errors.As finds the first.
type Fault struct {
	File string
	Line int    // 0 = the file as a whole
	Key  string // "serves[1].ports[0]"; "" = the document as a whole
	Text string // what is wrong and what to write instead
}

func (f *Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		b.WriteString(": ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Text)
	return b.String()
}

// faultList collects what is wrong, bounded so that a file of garbage gives a
// readable error.
type faultList []error

const maxFaults = 100

func (l *faultList) add(f *Fault) {
	switch {
	case len(*l) < maxFaults:
		*l = append(*l, f)
	case len(*l) == maxFaults:
		*l = append(*l, errors.New("more faults are not shown"))
	}
}

func (l faultList) err() error { return errors.Join(l...) }

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

package main

import (
	"fmt"
	"strings"
	"sync"

	"gatehouse/control"
)

// findingNobody is the kind of finding about names in the operator's files.
const findingNobody = "names-nobody"

// nobodies keeps what was found of the last state that was asked about: status and
// metrics ask more often than states change.
type nobodies struct {
	mu    sync.Mutex
	of    *control.State
	found []Finding
}

func (n *nobodies) findings(st *control.State) []Finding {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of != st {
		n.of, n.found = st, nobodyFindings(st)
	}
	return n.found
}

// nobodyFindings are about names in the operator's files that nobody has who runs.
func nobodyFindings(st *control.State) []Finding {
	var out []Finding
	for _, n := range st.Nobodies() {
		out = append(out, Finding{Kind: findingNobody, Subject: n.What, Text: n.Text(), File: n.File, Line: n.Line, Near: n.Near})
	}
	return out
}

// absent parts what merely does not run here from the other findings, and says it
// in one line; "" where there is none.
func absent(findings []Finding) (others []Finding, text string) {
	const most = 4
	var names []string
	for _, f := range findings {
		if f.Kind != findingNobody || len(f.Near) > 0 {
			others = append(others, f)
			continue
		}
		names = append(names, fmt.Sprintf("%s (%s:%d)", f.Subject, f.File, f.Line))
	}
	if len(names) == 0 {
		return others, ""
	}
	text = strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more, which -o json lists", len(names)-most)
	}
	return others, "the operator's files name what nobody here is, and nobody has a like name: " + text
}

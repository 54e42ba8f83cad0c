package main

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"gatehouse/control"
	"gatehouse/policy"
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

// namesNobody notes the ends that a query chooses by and that nobody has who runs.
func (g *gateway) namesNobody(q *recordQuery) []string {
	st := g.control.State()
	if st == nil {
		return nil
	}
	var out []string
	for _, end := range []struct{ flag, name string }{{"from", q.From}, {"to", q.To}} {
		if end.name == "" || strings.HasPrefix(end.name, "@") || isAddress(end.name) {
			continue
		}
		if text := unnamed(st, end.name); text != "" {
			out = append(out, fmt.Sprintf("--%s %s: %s", end.flag, end.name, text))
		}
	}
	return out
}

func isAddress(text string) bool {
	_, errAddr := netip.ParseAddr(text)
	_, errPrefix := netip.ParsePrefix(text)
	return errAddr == nil || errPrefix == nil
}

// unnamed says that no service, and no project where it ends in a slash, has the name;
// "" where one has.
func unnamed(st *control.State, name string) string {
	var there []string
	project, isProject := strings.CutSuffix(name, "/")
	for i := range st.Population.Groups {
		k := st.Population.Groups[i].Service
		switch {
		case isProject && k.Project.Name == project, k.String() == name, k.Name == name:
			return ""
		case isProject:
			there = append(there, k.Project.Name)
		default:
			there = append(there, k.String())
		}
	}
	for w := range st.View.Workloads {
		if w.Name == name {
			return fmt.Sprintf("that is a container: name its service, %s", w.Service)
		}
	}
	if isProject {
		return "no project that runs is called that, and nothing was found" + policy.Meant(project, there)
	}
	return "no service that runs is called that, and nothing was found" + policy.Meant(name, there)
}

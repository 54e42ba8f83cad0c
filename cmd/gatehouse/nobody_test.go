package main

import (
	"bytes"
	"strings"
	"testing"
)

// Names that a mistake may have made stand each in its own line; what merely does
// not run here is one line.
func TestStatusTellsNobodies(t *testing.T) {
	s := Status{Findings: []Finding{
		{Kind: "clipped", Subject: "shop/proxy", Text: "only its image's name fits"},
		{Kind: findingNobody, Subject: "service shop/wbe", Text: "s.yaml:5, in one: nobody who runs is that; there is shop/web", File: "s.yaml", Line: 5, Near: []string{"shop/web"}},
		{Kind: findingNobody, Subject: "service shop/batch", Text: "s.yaml:6, in one: nobody who runs is that", File: "s.yaml", Line: 6},
		{Kind: findingNobody, Subject: "any service of project mail", Text: "s.yaml:7, in one: nobody who runs is that", File: "s.yaml", Line: 7},
	}}
	var out bytes.Buffer
	if err := writeTable(&out, s.write); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "finding") {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
	}
	want := []string{
		"finding clipped shop/proxy: only its image's name fits",
		"finding names-nobody service shop/wbe: s.yaml:5, in one: nobody who runs is that; there is shop/web",
		"finding names-nobody the operator's files name what nobody here is, and nobody has a like name: service shop/batch (s.yaml:6), any service of project mail (s.yaml:7)",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

package models

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gatehouse/policy"
)

var update = flag.Bool("update", false, "write testdata/golden from what is generated")

// golden compares the text of the statements, and after a "--" line of the
// pending ones and the findings, with testdata/golden/NAME.txt.
func golden(t *testing.T, name string, ss []policy.Statement, fs []Finding) {
	t.Helper()
	got := strings.Join(Text(ss), "\n") + "\n-- pending\n"
	for _, s := range ss {
		if s.Pending != "" {
			got += strings.Join(s.Lines(false), "\n") + "  # " + s.Pending + "\n"
		}
	}
	got += "-- findings\n"
	for _, f := range fs {
		got += f.String() + "\n"
	}
	file := filepath.Join("testdata", "golden", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// Comments may be aligned in the file.
	if padded.ReplaceAllString(string(want), "  #") != got {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

var padded = regexp.MustCompile(` +#`)

func TestGoldenA(t *testing.T) {
	ss, fs := shop(t).generate()
	golden(t, "a-shop", ss, fs)
}

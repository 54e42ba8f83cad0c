package replay

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// recordedDir has captures of real servers and clients, which its record
// program makes, and what they must be called.
const recordedDir = "../../classify/appid/testdata/captures"

type recorded struct {
	proto string
	port  uint16
}

// TestRecorded holds every flow of the recorded captures to its label.
func TestRecorded(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(recordedDir, "labels.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	type want struct{ app, sub string }
	labels := map[string]map[recorded]want{}
	for i, line := range strings.Split(strings.TrimSpace(string(page)), "\n") {
		c := strings.Split(line, "\t")
		if strings.HasPrefix(line, "#") || c[0] == "file" {
			continue
		}
		if len(c) != 6 {
			t.Fatalf("labels.tsv:%d: %d columns", i+1, len(c))
		}
		port, err := strconv.ParseUint(c[2], 10, 16)
		if err != nil {
			t.Fatalf("labels.tsv:%d: %v", i+1, err)
		}
		if labels[c[0]] == nil {
			labels[c[0]] = map[recorded]want{}
		}
		labels[c[0]][recorded{c[1], uint16(port)}] = want{c[3], c[4]}
	}
	files, err := filepath.Glob(filepath.Join(recordedDir, "*.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(labels) {
		t.Errorf("%d captures, %d of them labelled", len(files), len(labels))
	}
	for _, path := range files {
		name := filepath.Base(path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[recorded]bool{}
		for _, f := range flowsOf(t, b) {
			k := recorded{f.Proto, f.Dport}
			w, ok := labels[name][k]
			if !ok || f.App != w.app || f.Sub != w.sub || f.Anomaly != "" {
				t.Errorf("%s: want %+v\n%s", name, w, lines(t, []Flow{f}))
			}
			seen[k] = true
		}
		for k := range labels[name] {
			if !seen[k] {
				t.Errorf("%s: no flow to %v", name, k)
			}
		}
	}
}

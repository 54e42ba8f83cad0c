package bench

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestClassify runs every contender once over a small set; where librte_acl can
// be had, it must find the same rules.
func TestClassify(t *testing.T) {
	dir := t.TempDir()
	rules, trace := filepath.Join(dir, "small.rules"), filepath.Join(dir, "small.trace")
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(rules, "@192.0.2.0/24\t198.51.100.7/32\t0 : 65535\t80 : 443\t0x06/0xFF\n@0.0.0.0/0\t198.51.100.0/24\t1024 : 65535\t53 : 53\t0x00/0x00\n")
	write(trace, "3221225985 3325256711 1024 80 6\n3221225985 3325256704 1024 53 17\n3221225985 3325256704 1023 53 17\n")
	c, err := Classify(context.Background(), ClassifyConfig{Rounds: 1, Rules: []string{rules}, Traces: []string{trace}})
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := c.Markdown(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## small", "2 rules, 2 sources, 2 destinations", "| Gatehouse | ns |", "of them, tables", "of them, tree", "of them, vectors", "linear scan", "insert or delete beside a reader"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, &page)
		}
	}
	if !strings.Contains(page.String(), "librte_acl, batches of 64") && !strings.Contains(page.String(), "Skipped: librte_acl") {
		t.Errorf("nothing is said of librte_acl:\n%s", &page)
	}
	write(trace, "1 2 3\n")
	if _, err := Classify(context.Background(), ClassifyConfig{Rounds: 1, Rules: []string{rules}, Traces: []string{trace}}); err == nil || !strings.Contains(err.Error(), "small.trace: line 1") {
		t.Errorf("a bad trace: %v", err)
	}
	if _, err := Classify(context.Background(), ClassifyConfig{Rounds: 1, Rules: []string{rules}}); err == nil || !strings.Contains(err.Error(), "1 rule files, 0 trace files") {
		t.Errorf("no trace: %v", err)
	}
}

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Each rule of docs/policy.md is named by a test: "TestR8", "(I3)", "A2-A4".
func TestEveryRuleIsTested(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile(`(?m)^\| ([AITRV][0-9]+)\b`).FindAllStringSubmatch(string(page), -1)
	if len(rules) < 60 {
		t.Fatalf("%d rules: their tables are no longer read", len(rules))
	}
	named := rulesInTests(t)
	for _, r := range rules {
		if !named[r[1]] {
			t.Errorf("rule %s: no test names it", r[1])
		}
	}
}

var (
	ruleName  = regexp.MustCompile(`(?:^|[^A-Za-z0-9]|Test)([AITRV][0-9]+)`)
	ruleRange = regexp.MustCompile(`\b([AITRV])([0-9]+)-[AITRV]?([0-9]+)\b`)
)

func rulesInTests(t *testing.T) map[string]bool {
	t.Helper()
	named := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || d.Name() == "rules_test.go" && strings.Contains(path, "gatehouse/") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range ruleName.FindAllSubmatch(text, -1) {
			named[string(m[1])] = true
		}
		for _, m := range ruleRange.FindAllSubmatch(text, -1) {
			from, _ := strconv.Atoi(string(m[2]))
			to, _ := strconv.Atoi(string(m[3]))
			for n := from; n <= min(to, from+50); n++ {
				named[string(m[1])+strconv.Itoa(n)] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return named
}

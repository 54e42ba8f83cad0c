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

// Each test that docs/threats.md names is there.
func TestEveryThreatIsTested(t *testing.T) {
	page, err := os.ReadFile("../../docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| [0-9]+ \|.*\| ([^|]*) \|$`).FindAllStringSubmatch(string(page), -1)
	if len(rows) < 40 {
		t.Fatalf("%d rows: the table is no longer read", len(rows))
	}
	there := testsByName(t)
	for _, row := range rows {
		names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(row[1], -1)
		if len(names) == 0 {
			t.Errorf("no test: %s", row[0])
		}
		for _, name := range names {
			if !there[name[1]] {
				t.Errorf("no test is called %s: %s", name[1], row[0])
			}
		}
	}
}

func testsByName(t *testing.T) map[string]bool {
	t.Helper()
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`)
	eachTestFile(t, func(text []byte) {
		for _, m := range declared.FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
	})
	return there
}

// eachTestFile calls f with every test file but this one.
func eachTestFile(t *testing.T, f func(text []byte)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || d.Name() == "rules_test.go" && strings.Contains(path, "gatehouse/") {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil {
			f(text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	ruleName  = regexp.MustCompile(`(?:^|[^A-Za-z0-9]|Test)([AITRV][0-9]+)`)
	ruleRange = regexp.MustCompile(`\b([AITRV])([0-9]+)-[AITRV]?([0-9]+)\b`)
)

func rulesInTests(t *testing.T) map[string]bool {
	t.Helper()
	named := map[string]bool{}
	eachTestFile(t, func(text []byte) {
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
	})
	return named
}

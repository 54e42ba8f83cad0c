package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Each rule of docs/policy.md is held by a test that names it, in its own name, its
// comment or its cases: "TestR8", "(I3)", "A2-A4". The page's index has at least one
// for each, and none that does not; -write-docs writes it with all.
func TestEveryRuleIsTested(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, indexed, _ := strings.Cut(string(page), "<!-- tests -->")
	rows := regexp.MustCompile(`(?m)^\| ([AITRVN][0-9]+)\b`).FindAllStringSubmatch(rules, -1)
	if len(rows) < 70 {
		t.Fatalf("%d rules: their tables are no longer read", len(rows))
	}
	by := testsByRule(t)
	var index strings.Builder
	index.WriteString("| rule | tests |\n|---|---|\n")
	for _, r := range rows {
		names := slices.Sorted(maps.Keys(by[r[1]]))
		if len(names) == 0 {
			t.Errorf("rule %s: no test names it", r[1])
			continue
		}
		fmt.Fprintf(&index, "| %s | `%s` |\n", r[1], strings.Join(names, "`, `"))
	}
	if *writeDocs {
		generated(t, "policy.md", "tests", index.String())
		return
	}
	told := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| ([AITRVN][0-9]+) \\| `(.+)` \\|$").FindAllStringSubmatch(indexed, -1) {
		told[row[1]] = true
		for _, name := range strings.Split(row[2], "`, `") {
			if !by[row[1]][name] {
				t.Errorf("the index has %s at rule %s, which it does not name", name, row[1])
			}
		}
	}
	for _, r := range rows {
		if !told[r[1]] {
			t.Errorf("the index does not have rule %s", r[1])
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
	eachTest(t, func(name string, _ []byte) { there[name] = true })
	return there
}

// eachTest calls f with the name and the text of every test but those here, its
// comment included.
func eachTest(t *testing.T, f func(name string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || d.Name() == "rules_test.go" && strings.Contains(path, "gatehouse/") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") {
				continue
			}
			from := fn.Pos()
			if fn.Doc != nil {
				from = fn.Doc.Pos()
			}
			f(fn.Name.Name, text[files.Position(from).Offset:files.Position(fn.End()).Offset])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	ruleName  = regexp.MustCompile(`(?:^|[^A-Za-z0-9.":]|[^:]"|Test)([AITRVN][0-9]+)\b`)
	ruleRange = regexp.MustCompile(`\b([AITRVN])([0-9]+)-[AITRVN]?([0-9]+)\b`)
)

// testsByRule are the tests that name a rule, by the rule.
func testsByRule(t *testing.T) map[string]map[string]bool {
	t.Helper()
	by := map[string]map[string]bool{}
	eachTest(t, func(name string, text []byte) {
		note := func(rule string) {
			if by[rule] == nil {
				by[rule] = map[string]bool{}
			}
			by[rule][name] = true
		}
		for _, m := range ruleName.FindAllSubmatch(text, -1) {
			note(string(m[1]))
		}
		for _, m := range ruleRange.FindAllSubmatch(text, -1) {
			from, _ := strconv.Atoi(string(m[2]))
			to, _ := strconv.Atoi(string(m[3]))
			for n := from; n <= min(to, from+50); n++ {
				note(string(m[1]) + strconv.Itoa(n))
			}
		}
	})
	return by
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	stdflag "flag"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"gatehouse/control"
	"gatehouse/control/compose"
	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// writeDocs has the tests write what they would compare:
// go test ./cmd/gatehouse -run TestDocs -write-docs
var writeDocs = stdflag.Bool("write-docs", false, "write the generated parts of docs")

const docsFolder = "../../docs"

// docPages are README.md and the pages of docs, by path.
func docPages(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(docsFolder, "*.md"))
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d pages, %v: they are no longer read", len(paths), err)
	}
	for _, path := range append(paths, "../../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pages[path] = string(text)
	}
	return pages
}

// generated holds a page of docs to want between its lines <!-- name --> and
// <!-- end -->.
func generated(t *testing.T, page, name, want string) {
	t.Helper()
	path := filepath.Join(docsFolder, page)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open, closing := "<!-- "+name+" -->\n", "<!-- end -->"
	before, rest, found := strings.Cut(string(text), open)
	is, after, closed := strings.Cut(rest, closing)
	if !found || !closed {
		t.Fatalf("%s: no lines %s and %s", page, strings.TrimSpace(open), closing)
	}
	if is == want {
		return
	}
	if *writeDocs {
		if err := os.WriteFile(path, []byte(before+open+want+closing+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s is not what the program says: run the test with -write-docs\n%s\nwant\n%s", page, is, want)
}

// cell is text inside a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func TestDocsSettings(t *testing.T) {
	var b strings.Builder
	b.WriteString("| key | flag | environment | default | |\n|---|---|---|---|---|\n")
	set := defaultsOf()
	eachSetting(&set, func(key, help string, v reflect.Value) {
		value := fmt.Sprint(v.Interface())
		if v.Kind() == reflect.Slice {
			value = "[]"
		}
		if value == "" {
			value = `""`
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | `GATEHOUSE_%s` | `%s` | %s |\n", key, strings.ReplaceAll(key, ".", "-"),
			strings.ToUpper(strings.ReplaceAll(key, ".", "_")), value, cell(help))
	})
	generated(t, "settings.md", "settings", b.String())
}

// docs/verbs.md is what --help says, but for the settings, which have a page.
func TestDocsVerbs(t *testing.T) {
	settings := map[string]bool{"config": true}
	set := defaultsOf()
	eachSetting(&set, func(key, _ string, _ reflect.Value) { settings[strings.ReplaceAll(key, ".", "-")] = true })
	var b strings.Builder
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" && sub.Name() != "completion" {
				describeVerb(&b, sub, settings)
				walk(sub)
			}
		}
	}
	walk(newRoot())
	generated(t, "verbs.md", "verbs", strings.TrimPrefix(b.String(), "\n"))
}

func describeVerb(b *strings.Builder, cmd *cobra.Command, settings map[string]bool) {
	fmt.Fprintf(b, "\n%s %s\n\n", strings.Repeat("#", 1+strings.Count(cmd.CommandPath(), " ")), cmd.CommandPath())
	if !cmd.HasSubCommands() || cmd.Args == nil {
		fmt.Fprintf(b, "    %s\n\n", strings.TrimSuffix(cmd.UseLine(), " [flags]"))
	}
	fmt.Fprintln(b, strings.TrimSuffix(cmp.Or(cmd.Long, cmd.Short), ".")+".")
	if cmd.Example != "" {
		fmt.Fprintf(b, "\n```\n%s\n```\n", strings.ReplaceAll(strings.TrimSpace(cmd.Example), "\n  ", "\n"))
	}
	var rows strings.Builder
	takesSettings := false
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		switch own := cmd.Flags().Lookup("config") != nil; {
		case f.Name == "help":
		case own && settings[f.Name]:
			takesSettings = true
		default:
			short := ""
			if f.Shorthand != "" {
				short = "`-" + f.Shorthand + "`, "
			}
			kind, help := pflag.UnquoteUsage(f)
			name := strings.TrimSpace("--" + f.Name + " " + kind)
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
				help += " (default " + f.DefValue + ")"
			}
			fmt.Fprintf(&rows, "| %s`%s` | %s |\n", short, name, cell(help))
		}
	})
	if rows.Len() > 0 {
		fmt.Fprintf(b, "\n| flag | |\n|---|---|\n%s", rows.String())
	}
	if takesSettings {
		b.WriteString("\nTakes the [settings](settings.md) as flags too.\n")
	}
}

func TestDocsModels(t *testing.T) {
	lib, err := models.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| model | software | roles |\n|---|---|---|\n")
	for _, m := range lib.Models() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", m.Name, cell(m.Title), strings.Join(m.Roles, ", "))
	}
	generated(t, "library.md", "library", b.String())
}

func TestDocsMetrics(t *testing.T) {
	form := regexp.MustCompile(`fqName: "([^"]+)", help: "([^"]*)".*variableLabels: \{([^}]*)\}`)
	rows := map[string]string{}
	for _, desc := range described {
		m := form.FindStringSubmatch(desc.String())
		if m == nil {
			t.Fatalf("%s: not read", desc)
		}
		rows[m[1]] = fmt.Sprintf("| `%s` | %s | %s |\n", m[1], m[3], cell(m[2]))
	}
	var b strings.Builder
	b.WriteString("| metric | labels | |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		b.WriteString(rows[name])
	}
	generated(t, "metrics.md", "metrics", b.String())
}

// rowsOf are the names in the first column of a page's tables.
func rowsOf(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(docsFolder, page))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z][a-z0-9-]*)`").FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	return names
}

func sameNames(t *testing.T, page string, documented, want []string) {
	t.Helper()
	for _, name := range want {
		if !slices.Contains(documented, name) {
			t.Errorf("%s does not tell of %s", page, name)
		}
	}
	for i, name := range documented {
		if !slices.Contains(want, name) {
			t.Errorf("%s tells of %s, which there is not", page, name)
		}
		if slices.Contains(documented[:i], name) {
			t.Errorf("%s tells of %s twice", page, name)
		}
	}
}

// Each reason of a drop or a record is explained, and no other.
func TestDocsReasons(t *testing.T) {
	var want []string
	for r := policy.ReasonNone + 1; r < policy.ReasonCount; r++ {
		want = append(want, r.String())
	}
	sameNames(t, "reasons.md", rowsOf(t, "reasons.md"), want)
}

// Each kind of finding that the sources name is explained, and no other.
func TestDocsFindings(t *testing.T) {
	forms := map[string]*regexp.Regexp{
		"../../models/*.go": regexp.MustCompile(`(?m)^\s*Finding\w+\s+FindingKind = "([a-z-]+)"`),
		"*.go":              regexp.MustCompile(`\bFinding\{Kind: "([a-z-]+)"|(?m)^\s*(?:const )?finding[A-Z]\w*\s*= "([a-z-]+)"`),
	}
	var want []string
	for glob, form := range forms {
		paths, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			source, err := os.ReadFile(path)
			if err != nil || strings.HasSuffix(path, "_test.go") {
				continue
			}
			for _, m := range form.FindAllStringSubmatch(string(source), -1) {
				want = append(want, strings.Join(m[1:], ""))
			}
		}
	}
	if len(want) < 16 {
		t.Fatalf("%d kinds of findings: the sources are no longer read", len(want))
	}
	sameNames(t, "findings.md", rowsOf(t, "findings.md"), want)
}

// Each key that the readers of people's files take is told of, by the JSON
// Schemas, which a test of package operator holds to the readers.
func TestDocsKeys(t *testing.T) {
	for kind, page := range map[string]string{"models": "models.md", "statements": "statements.md", "categories": "statements.md"} {
		text, err := os.ReadFile(filepath.Join(docsFolder, page))
		if err != nil {
			t.Fatal(err)
		}
		data, _ := operator.Schema(kind)
		var schema any
		if err := json.Unmarshal(data, &schema); err != nil {
			t.Fatal(err)
		}
		keys := map[string]bool{}
		properties(schema, keys)
		if len(keys) < 10 {
			t.Fatalf("%s: %d keys: the schema is no longer read", kind, len(keys))
		}
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			if !regexp.MustCompile(`\b` + key + `\b`).Match(text) {
				t.Errorf("%s does not tell of %s", page, key)
			}
		}
	}
}

// properties gathers the names of properties anywhere in a JSON Schema.
func properties(schema any, into map[string]bool) {
	switch v := schema.(type) {
	case []any:
		for _, item := range v {
			properties(item, into)
		}
	case map[string]any:
		named, _ := v["properties"].(map[string]any)
		for key := range named {
			into[key] = true
		}
		for _, item := range v {
			properties(item, into)
		}
	}
}

var (
	codeSpan  = regexp.MustCompile("`([^`\n]+)`")
	fence     = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	cellsPipe = strings.NewReplacer(`\|`, "/")
)

// commandLines are the command lines of gatehouse that a page shows: in its
// blocks of code, and between backquotes.
func commandLines(page string) []string {
	var lines []string
	add := func(line string) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
		for _, prefix := range []string{"sudo ", "bin/", "watch "} {
			line = strings.TrimPrefix(line, prefix)
		}
		if strings.HasPrefix(line, "gatehouse ") {
			lines = append(lines, line)
		}
	}
	for _, m := range fence.FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(strings.ReplaceAll(m[2], "\\\n", " ")) {
			if m[1] != "yaml" {
				add(line)
			}
		}
	}
	rest := fence.ReplaceAllString(page, "")
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "    ") {
			add(line)
			continue
		}
		for _, m := range codeSpan.FindAllStringSubmatch(cellsPipe.Replace(line), -1) {
			add(m[1])
		}
	}
	return lines
}

// words splits a command line as a shell does, up to a comment, a pipe or a
// redirection. "[--flag X]" of a synopsis counts as given.
func words(line string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`'([^']*)'|"([^"]*)"|(\S+)`).FindAllStringSubmatch(line, -1) {
		word := m[1] + m[2] + m[3]
		if m[3] != "" && strings.ContainsAny(m[3][:1], "#|>&;") {
			break
		}
		out = append(out, strings.Trim(word, "[]"))
	}
	return out
}

// Each command line in README.md and docs is one that the program takes: its
// verbs and flags exist, its flags' values can be read, its arguments fit.
func TestDocsCommandLines(t *testing.T) {
	n := 0
	for path, page := range docPages(t) {
		for _, line := range commandLines(page) {
			n++
			if err := takes(words(line)[1:]); err != nil {
				t.Errorf("%s: %s: %v", path, line, err)
			}
		}
	}
	if n < 60 {
		t.Errorf("%d command lines: they are no longer read", n)
	}
}

func takes(args []string) error {
	root := newRoot()
	root.InitDefaultCompletionCmd(args...)
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	left := cmd.Flags().Args()
	if cmd.HasSubCommands() && len(left) > 0 && left[0] == strings.ToLower(left[0]) {
		return fmt.Errorf("%s has no %s", cmd.Name(), left[0])
	}
	if help, _ := cmd.Flags().GetBool("help"); help || len(left) == 0 || strings.HasSuffix(left[len(left)-1], "...") {
		return nil
	}
	return cmd.ValidateArgs(left)
}

// Flags, settings, variables, labels and metrics that the pages name exist.
func TestDocsNames(t *testing.T) {
	known := namesThatExist(t)
	forms := []*regexp.Regexp{
		regexp.MustCompile("`(--[a-z][a-z-]+)[` =]"),
		regexp.MustCompile(`\b(GATEHOUSE_[A-Z_]+)\b`),
		regexp.MustCompile("`(gatehouse\\.[a-z]+(?:\\.[a-z]+)?)[`=:]"),
		regexp.MustCompile(`\b(gatehouse_[a-z_]+)\b`),
	}
	n := 0
	for path, page := range docPages(t) {
		for _, form := range forms {
			for _, m := range form.FindAllStringSubmatch(page, -1) {
				n++
				if !known[m[1]] {
					t.Errorf("%s: there is no %s", path, m[1])
				}
			}
		}
	}
	if n < 80 {
		t.Errorf("%d names: they are no longer read", n)
	}
}

func namesThatExist(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{"--privileged": true, "--network": true, "--user": true, "GATEHOUSE_TEST_CASES": true}
	for _, label := range []string{models.LabelEnable, models.LabelMode, models.LabelModel, models.LabelRole, models.LabelFeatures,
		"gatehouse.allow.egress", "gatehouse.allow.ingress", "gatehouse.deny.egress", "gatehouse.deny.ingress", "gatehouse.sock", "gatehouse.yaml"} {
		known[label] = true
	}
	set := defaultsOf()
	eachSetting(&set, func(key, _ string, _ reflect.Value) {
		known["GATEHOUSE_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = true
	})
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.InitDefaultHelpFlag()
		for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
			flags.VisitAll(func(f *pflag.Flag) { known["--"+f.Name] = true })
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	for _, desc := range described {
		known[regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(desc.String())[1]] = true
	}
	return known
}

// Links between pages lead to files and headings that are there.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	n := 0
	for path, page := range docPages(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			n++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			text, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); statErr != nil || err != nil && !info.IsDir() {
				t.Errorf("%s: %s leads nowhere", path, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(text)), anchor) {
				t.Errorf("%s: %s: no such heading", path, m[1])
			}
		}
	}
	if n < 30 {
		t.Errorf("%d links: they are no longer read", n)
	}
	index, err := os.ReadFile(filepath.Join(docsFolder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for path := range docPages(t) {
		if name := filepath.Base(path); name != "README.md" && !strings.Contains(string(index), "("+name) {
			t.Errorf("docs/README.md does not lead to %s", name)
		}
	}
}

// anchors are those that the usual renderers give to headings.
func anchors(page string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(page, -1) {
		kept := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		out = append(out, kept)
	}
	return out
}

// The YAML in the pages and in docs/examples is taken by the readers of such
// files: models, statements, categories, settings, Compose files. What one page
// or folder has belongs together.
func TestDocsExamples(t *testing.T) {
	kinds := map[string]int{}
	for path, page := range docPages(t) {
		e := examples{t: t, name: path, folder: t.TempDir(), kinds: kinds}
		for _, m := range fence.FindAllStringSubmatch(page, -1) {
			if m[1] == "yaml" {
				e.read([]byte(m[2]), "")
			}
		}
		e.open()
	}
	folders, err := filepath.Glob(filepath.Join(docsFolder, "examples", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		e := examples{t: t, name: folder, folder: t.TempDir(), kinds: kinds}
		err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".yaml" {
				return err
			}
			data, err := os.ReadFile(path)
			e.read(data, path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		e.open()
	}
	for _, kind := range []string{"model", "statements", "categories", "settings", "compose"} {
		if kinds[kind] == 0 {
			t.Errorf("no example of %s: %v", kind, kinds)
		}
	}
}

// examples are the YAML documents of one page or folder.
type examples struct {
	t      *testing.T
	name   string
	folder string
	kinds  map[string]int // of all
	files  int
}

// read takes one document of whatever kind it is; path is where a Compose file
// stands, if anywhere.
func (e *examples) read(data []byte, path string) {
	e.t.Helper()
	e.files++
	var top map[string]any
	if err := yaml.Unmarshal(data, &top); err != nil {
		e.t.Errorf("%s, example %d: %v", e.name, e.files, err)
		return
	}
	schema, _ := top["schema"].(string)
	kind := strings.TrimSuffix(strings.TrimPrefix(schema, "gatehouse."), "/v1")
	var err error
	switch {
	case kind != "":
		e.write(kind, data)
	case top["services"] != nil:
		kind = "compose"
		if path == "" {
			path = e.write(kind, data)
		}
		_, err = compose.Load(context.Background(), []compose.File{{Paths: []string{path}, Name: "example"}}, compose.Options{})
	default:
		kind = "settings"
		dec, set := yaml.NewDecoder(bytes.NewReader(data)), defaultsOf()
		dec.KnownFields(true)
		if err = dec.Decode(&set); err == nil {
			err = set.check()
		}
	}
	e.kinds[kind]++
	if err != nil {
		e.t.Errorf("%s, example %d: %v", e.name, e.files, err)
	}
}

func (e *examples) write(kind string, data []byte) string {
	e.t.Helper()
	path := filepath.Join(e.folder, kind, fmt.Sprintf("%d.yaml", e.files))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		e.t.Fatal(err)
	}
	return path
}

// open reads what the gateway would: all of its kinds of files at once.
func (e *examples) open() {
	e.t.Helper()
	of := func(kind string) string {
		path := filepath.Join(e.folder, kind)
		if _, err := os.Stat(path); err != nil {
			return ""
		}
		return path
	}
	files := control.Files{Models: of("model"), Statements: of("statements"), Categories: of("categories")}
	if _, _, err := control.OpenFiles(files, slog.New(slog.DiscardHandler)); err != nil {
		e.t.Errorf("%s: %v", e.name, err)
	}
}

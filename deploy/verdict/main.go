// Command verdict reads `go test -json` and prints what a person wants of it:
// a line per package, the whole output of what failed, every skip with its
// reason, and the count. It exits non-zero if a test or a build failed, if
// nothing ran, or, with -strict, if a test was skipped for a missing
// capability.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// missing begins the reason of a skip that a machine with everything does not have.
const missing = "missing capability"

// event is one line of `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64
	Output     string
}

type tally struct {
	passed, failed, skipped, lacking int
	output                           map[string][]string // by package and test, until it ends
	skips                            []string
}

func main() {
	strict := flag.Bool("strict", false, "a skip for a missing capability is a failure")
	flag.Parse()
	t := &tally{output: map[string][]string{}}
	if err := t.read(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "verdict:", err)
		os.Exit(2)
	}
	t.close(os.Stdout)
	if t.failed > 0 || t.passed == 0 || *strict && t.lacking > 0 {
		os.Exit(1)
	}
}

func (t *tally) read(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text()) // what the go command says outside of JSON
			continue
		}
		t.take(out, e)
	}
	return lines.Err()
}

func (t *tally) take(out io.Writer, e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(out, e.Output)
	case "build-fail":
		t.failed++
	case "output":
		t.output[key] = append(t.output[key], e.Output)
	case "pass", "fail", "skip":
		t.end(out, e, t.output[key])
		delete(t.output, key)
	}
}

// end is told of a test, or of a package where e.Test is empty.
func (t *tally) end(out io.Writer, e event, output []string) {
	text := strings.Join(output, "")
	switch {
	case e.Test == "" && e.Action == "pass":
		fmt.Fprintf(out, "ok    %6.1fs  %s\n", e.Elapsed, e.Package)
	case e.Test == "" && e.Action == "fail":
		fmt.Fprintf(out, "FAIL  %6.1fs  %s\n%s", e.Elapsed, e.Package, text)
		t.unfinished(out, e.Package)
		if t.failed == 0 {
			t.failed++ // it ended outside a test
		}
	case e.Test == "":
		// no test files
	case e.Action == "pass":
		t.passed++
	case e.Action == "fail":
		t.failed++
		fmt.Fprintf(out, "--- %s %s\n%s", e.Package, e.Test, text)
	default:
		t.skipped++
		reason := reasonOf(text)
		t.skips = append(t.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason))
		if strings.Contains(reason, missing) {
			t.lacking++
		}
	}
}

// traceLines is how many lines are shown of a test that did not end.
const traceLines = 1000

// unfinished shows the end of what tests of a package printed that did not end, or
// that was printed after one had: the traces of a panic in a goroutine, of a
// timeout and of SIGQUIT are among it.
func (t *tally) unfinished(out io.Writer, pkg string) {
	for _, key := range slices.Sorted(maps.Keys(t.output)) {
		if !strings.HasPrefix(key, pkg+" ") || key == pkg+" " {
			continue
		}
		lines := t.output[key]
		if n := len(lines) - traceLines; n > 0 {
			lines = append([]string{fmt.Sprintf("... %d lines before\n", n)}, lines[n:]...)
		}
		fmt.Fprintf(out, "--- did not end: %s\n%s", key, strings.Join(lines, ""))
		delete(t.output, key)
	}
}

// reasonOf is what t.Skip said, without the file and line before it.
func reasonOf(output string) string {
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		if _, reason, ok := strings.Cut(line, ".go:"); ok {
			_, reason, _ = strings.Cut(reason, ": ")
			return reason
		}
	}
	return "no reason given"
}

func (t *tally) close(out io.Writer) {
	if len(t.skips) > 0 {
		fmt.Fprintln(out, "\nskipped:")
		for _, s := range t.skips {
			fmt.Fprintln(out, "  ", s)
		}
	}
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	if t.lacking > 0 {
		fmt.Fprintf(out, "%d of the skipped for a missing capability\n", t.lacking)
	}
}

package main

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// act prints the headline of one act.
func act(title, note string) {
	fmt.Printf("\n── %s ──  %s\n", title, note)
}

// report collects what did not go as policy says.
type report struct {
	checks int
	wrong  []string
}

// check counts; it prints only what is wrong.
func (r *report) check(ok bool, format string, args ...any) {
	r.checks++
	if ok {
		return
	}
	text := fmt.Sprintf(format, args...)
	r.wrong = append(r.wrong, text)
	fmt.Println("  ✗", text)
}

// line is check that prints what is right, too.
func (r *report) line(ok bool, format string, args ...any) {
	if ok {
		fmt.Printf("  ✓ "+format+"\n", args...)
	}
	r.check(ok, format, args...)
}

func (r *report) summary() string {
	if len(r.wrong) == 0 {
		return fmt.Sprintf("%d checks, all as policy says,", r.checks)
	}
	return fmt.Sprintf("%d checks, %d NOT as policy says,", r.checks, len(r.wrong))
}

func (r *report) verdict() error {
	if len(r.wrong) == 0 {
		return nil
	}
	return errors.New("not as policy says:\n  - " + strings.Join(r.wrong, "\n  - "))
}

// table is the demo's last word.
func (r *report) table(attempts []attempt) {
	rows := [][]string{{"", "FROM", "TRIED", "WITHOUT", "WITH", "VERDICT", "REASON"}}
	for _, a := range attempts {
		mark := "✓"
		if a.after.arrived() || a.violation.Verdict == "" || !a.before.arrived() {
			mark = "✗"
		}
		rows = append(rows, []string{mark, a.from, a.what, a.before.String(), a.after.String(), orDash(a.violation.Verdict), orDash(a.violation.Reason)})
	}
	columns(rows)
}

// columns prints rows, each cell padded to its column's width but the last.
func columns(rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString("  " + cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)))
			}
		}
		fmt.Println(line.String())
	}
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}

func orError(err error) string {
	if err == nil {
		return ""
	}
	return "; " + err.Error()
}

// counted is "none", "all" or the number.
func counted(n, of int) string {
	switch n {
	case 0:
		return "none"
	case of:
		return "all"
	}
	return fmt.Sprint(n)
}

package main

import (
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	const head = `{"Action":"start","Package":"p"}` + "\n"
	tests := []struct {
		name, in                         string
		passed, failed, skipped, lacking int
		says                             string
	}{
		{"pass", head + `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"p","Elapsed":1.5}`, 1, 0, 0, 0, "ok       1.5s  p"},
		{"failure shows its output", `{"Action":"output","Package":"p","Test":"TestA","Output":"a_test.go:3: no\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"TestA"}`, 0, 1, 0, 0, "a_test.go:3: no"},
		{"skip with its reason", `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: not today\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"TestA"}`, 0, 0, 1, 0, "p TestA: not today"},
		{"missing capability", `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: missing capability: root\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"TestA"}`, 0, 0, 1, 1, "1 of the skipped"},
		{"build failure", `{"Action":"build-output","ImportPath":"p","Output":"a.go:1: syntax\n"}` + "\n" + `{"Action":"build-fail","ImportPath":"p"}` + "\n" + `{"Action":"fail","Package":"p"}`, 0, 1, 0, 0, "a.go:1: syntax"},
		{"crash outside a test", `{"Action":"output","Package":"p","Output":"panic: x\n"}` + "\n" + `{"Action":"fail","Package":"p"}`, 0, 1, 0, 0, "panic: x"},
		{"trace of a test that did not end", `{"Action":"run","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}` + "\n" +
			`{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out after 1s\n"}` + "\n" + `{"Action":"fail","Package":"p"}`, 0, 1, 0, 0, "did not end: p TestA\n=== RUN   TestA\npanic: test timed out after 1s\n"},
		{"trace after a test's end", `{"Action":"output","Package":"p","Test":"TestA","Output":"--- FAIL: TestA\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"TestA"}` + "\n" +
			`{"Action":"output","Package":"p","Test":"TestA","Output":"panic: x\n"}` + "\n" + `{"Action":"fail","Package":"p"}`, 0, 1, 0, 0, "panic: x"},
		{"the end of a long trace", strings.Repeat(`{"Action":"output","Package":"p","Test":"TestA","Output":"goroutine 1\n"}`+"\n", 1500) + `{"Action":"fail","Package":"p"}`, 0, 1, 0, 0, "... 500 lines before\ngoroutine 1\n"},
		{"what is no JSON is passed on", "go: no such module\n", 0, 0, 0, 0, "go: no such module"},
		{"closing line", head, 0, 0, 0, 0, "\n0 passed, 0 failed, 0 skipped\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := &tally{output: map[string][]string{}}
			var out strings.Builder
			if err := got.read(strings.NewReader(tt.in), &out); err != nil {
				t.Fatal(err)
			}
			got.close(&out)
			if got.passed != tt.passed || got.failed != tt.failed || got.skipped != tt.skipped || got.lacking != tt.lacking {
				t.Errorf("passed %d failed %d skipped %d lacking %d, want %d %d %d %d", got.passed, got.failed, got.skipped, got.lacking, tt.passed, tt.failed, tt.skipped, tt.lacking)
			}
			if !strings.Contains(out.String(), tt.says) {
				t.Errorf("output %q lacks %q", out.String(), tt.says)
			}
		})
	}
}

package rulesettest_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/policy/ruleset"
	"gatehouse/policy/ruleset/rulesettest"
)

const published = "@192.0.2.0/24\t198.51.100.7/32\t0 : 65535\t80 : 443\t0x06/0xFF\t0x0000/0x0000\t\n" +
	"@0.0.0.0/0\t198.51.100.0/24\t1024 : 65535\t53 : 53\t0x00/0x00\t0x1000/0x1000\t\n"

func TestReadRules(t *testing.T) {
	rules, err := rulesettest.ReadRules(strings.NewReader(published))
	if err != nil {
		t.Fatal(err)
	}
	want := "[{0 0 192.0.2.0/24 198.51.100.7/32 {0 65535} {80 443} 6 false} {1 1 0.0.0.0/0 198.51.100.0/24 {1024 65535} {53 53} 0 true}]"
	if got := fmt.Sprint(rules); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, tc := range []struct{ in, want string }{
		{"@192.0.2.0/24\t198.51.100.7/32\t0 : 65535\n", "line 1: 3 fields"},
		{published + "@192.0.2.0\t198.51.100.7/32\t0 : 1\t0 : 1\t0x06/0xFF\n", "line 3: "},
		{"@192.0.2.0/24\t198.51.100.7/32\t0 : 65536\t0 : 1\t0x06/0xFF\n", "line 1: ports"},
		{"@192.0.2.0/24\t198.51.100.7/32\t0 : 1\t0 : 1\t0x06/0x0F\n", "want mask 0x00 or 0xFF"},
	} {
		if _, err := rulesettest.ReadRules(strings.NewReader(tc.in)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %s", tc.in, err, tc.want)
		}
	}
}

func TestReadTrace(t *testing.T) {
	rules, err := rulesettest.ReadRules(strings.NewReader(published))
	if err != nil {
		t.Fatal(err)
	}
	trace, err := rulesettest.ReadTrace(strings.NewReader("3221225985 3325256711 1024 80 6\n3221225985 3325256704 1024 53 17 9 9\n3221225985 3325256704 1023 53 17\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ruleset.New(rules, ruleset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint32{0, 1, ruleset.NoRule} {
		if got := s.Lookup(&trace[i]); got != want {
			t.Errorf("header %d: rule %d, want %d", i, int32(got), int32(want))
		}
	}
	if _, err := rulesettest.ReadTrace(strings.NewReader("1 2 3 4 5\n1 2 3 four 5\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a bad trace: %v", err)
	}
}

// TestOracles compares with what others found for published rules, where those
// lie beside the repository.
func TestOracles(t *testing.T) {
	names, _ := filepath.Glob("../../../../shared/data/classbench/*.rules.xz")
	if len(names) == 0 {
		t.Skip("left out: no published rule sets beside the repository")
	}
	for _, name := range names {
		set := strings.TrimSuffix(name, ".rules.xz")
		rules, err := rulesettest.ReadRules(unpacked(t, name))
		if err != nil {
			t.Fatal(err)
		}
		trace, err := rulesettest.ReadTrace(unpacked(t, set+"_mix.trace.xz"))
		if err != nil {
			t.Fatal(err)
		}
		var want []int32
		for sc := bufio.NewScanner(unpacked(t, set+"_mix.oracle.xz")); sc.Scan(); {
			var n int32
			if _, err := fmt.Sscan(sc.Text(), &n); err != nil {
				t.Fatal(err)
			}
			want = append(want, n)
		}
		for _, e := range []ruleset.Engine{"", ruleset.Tables, ruleset.Tree, ruleset.Vectors} {
			s, err := ruleset.New(rules, ruleset.Options{Engine: e})
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if got := int32(s.Lookup(&trace[i])); got != want[i] {
					t.Fatalf("%s, %s: header %d: rule %d, want %d", filepath.Base(set), e, i, got, want[i])
				}
			}
		}
	}
}

func unpacked(t *testing.T, name string) *bytes.Reader {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("xz", "-dc")
	cmd.Stdin = f
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("left out: xz: %v", err)
	}
	return bytes.NewReader(out)
}

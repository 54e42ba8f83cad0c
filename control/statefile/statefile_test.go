package statefile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.json")
	for _, text := range []string{"a long first content", "short"} {
		if err := Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q, %v, want %q", got, err, text)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := Write(filepath.Join(dir, "absent", "x"), nil); err == nil {
		t.Error("a folder that is not there was written to")
	}
	if err := Write(dir, []byte("x")); err == nil {
		t.Error("a folder was replaced")
	}
	if names, _ := filepath.Glob(dir + "*/*"); len(names) != 1 {
		t.Errorf("left behind: %q", names)
	}
}

package document_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gatehouse/document"
)

// TestCollectRegularFiles: a pipe or a device among the operator's files, where
// opening or reading would wait without end, is a fault of its own.
func TestCollectRegularFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "good.yaml"), []byte("a: b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("good.yaml", filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	var faults document.Faults
	if files := document.Collect(dir, &faults); len(files) != 2 || faults.Err() != nil {
		t.Fatalf("%d files, %v", len(files), faults.Err())
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "device.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "folder.yaml")); err != nil {
		t.Fatal(err)
	}
	files := document.Collect(dir, &faults)
	if len(files) != 2 || faults.Err() == nil {
		t.Fatalf("%d files, %v", len(files), faults.Err())
	}
	for _, name := range []string{"pipe.yaml", "device.yaml", "folder.yaml"} {
		if !strings.Contains(faults.Err().Error(), name+": no regular file") {
			t.Errorf("%s is not told of: %v", name, faults.Err())
		}
	}
}

package history

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Read has what a gateway wrote, changes nothing of it, and leaves one alone that a
// gateway has open.
func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	c := &clock{t: noon}
	s := openAt(t, path, c)
	s.Add([]Sample{conversation(Flow, 3, 443, c.now()), conversation(Flow, 4, 443, c.now()), conversation(Violation, 3, 22, c.now())})
	if err := Read(path, func(*Store) error { return nil }); err == nil || !strings.Contains(err.Error(), "a gateway has it open") {
		t.Errorf("open elsewhere: %v", err)
	}
	s.Close()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	err = Read(path, func(s *Store) error {
		records, truncated, err := s.Rollup(Filter{Kinds: []Kind{Flow}}, 0)
		if len(records) != 2 || truncated || err != nil || records[0].From.Name != "shop/web" || records[0].Packets != [2]uint64{2, 1} {
			t.Errorf("%d records, %v: %+v", len(records), err, records)
		}
		if _, ok := s.ByID(records[0].ID); ok {
			t.Error("a flow is found as a violation")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed: %v", err)
	}

	other := filepath.Join(t.TempDir(), "other.db")
	for _, content := range []string{"", "not a database", strings.Repeat("x", 1<<16)} {
		if err := os.WriteFile(other, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Read(other, func(*Store) error { t.Error("was read"); return nil }); err == nil || !strings.Contains(err.Error(), other) {
			t.Errorf("%.20q: %v", content, err)
		}
		if got, _ := os.ReadFile(other); string(got) != content {
			t.Errorf("%.20q was written to", content)
		}
	}
	if err := Read(filepath.Join(t.TempDir(), "none"), func(*Store) error { return nil }); err == nil {
		t.Error("a missing file was read")
	}
}

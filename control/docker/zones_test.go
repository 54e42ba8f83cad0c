package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/control/inventory"
	"gatehouse/policy"
)

func mustZone(t *testing.T, z *zones, network string) policy.Zone {
	t.Helper()
	n, err := z.of(network)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestZonesLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "zones.json")
	z, err := loadZones(path)
	if err != nil {
		t.Fatal(err)
	}
	a, b := mustZone(t, z, "a"), mustZone(t, z, "b")
	if a == b || a == 0 || mustZone(t, z, "a") != a {
		t.Fatalf("zones %d, %d", a, b)
	}
	if err := z.save(); err != nil {
		t.Fatal(err)
	}
	z.keep(map[string]bool{"b": true})
	if err := z.save(); err != nil {
		t.Fatal(err)
	}
	again, err := loadZones(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := mustZone(t, again, "b"); got != b {
		t.Errorf("after a restart b is %d, was %d", got, b)
	}
	if got := mustZone(t, again, "c"); got == a || got == b {
		t.Errorf("c got %d, which flows of a or b may still hold", got)
	}
	if got := mustZone(t, again, "a"); got == a {
		t.Error("a came back under its old number")
	}
}

func TestZonesAreNotReusedInARun(t *testing.T) {
	z, err := loadZones("")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[policy.Zone]bool{}
	for i := range maxZone {
		n := mustZone(t, z, fmt.Sprint(i))
		if seen[n] || n == 0 || n > maxZone {
			t.Fatalf("network %d got zone %d", i, n)
		}
		seen[n] = true
		z.keep(nil)
	}
	if _, err := z.of("one more"); err == nil || !strings.Contains(err.Error(), "restart the gateway") {
		t.Errorf("one more: %v", err)
	}
}

func TestBrokenZoneFile(t *testing.T) {
	for _, text := range []string{"{", `{"zones":{"a":0}}`, `{"zones":{"a":65535}}`, `{"zones":{"a":7,"b":7}}`, `{"zones":[]}`} {
		path := filepath.Join(t.TempDir(), "zones.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{ZoneFile: path}, inventory.New()); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzZoneFile(f *testing.F) {
	f.Add([]byte(`{"next":5,"zones":{"a":1,"b":4}}`))
	f.Add([]byte(`{"next":65534,"zones":{"a":65534}}`))
	f.Add([]byte(`{"next":-1}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "zones.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		z, err := loadZones(path)
		if err != nil {
			return
		}
		n, err := z.of("new network")
		if err != nil || n == 0 || n > maxZone {
			t.Fatalf("zone %d, %v", n, err)
		}
		for net, other := range z.byNet {
			if other == n && net != "new network" {
				t.Fatalf("zone %d is %q's too", n, net)
			}
		}
	})
}

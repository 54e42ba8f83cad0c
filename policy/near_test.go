package policy

import (
	"slices"
	"testing"
)

func TestNear(t *testing.T) {
	services := []string{"shop/web", "shop/db", "shop/worker", "blog/web", "lonely", "shop/backend"}
	for word, want := range map[string][]string{
		"shop/wbe":     {"shop/web"},
		"shpo/web":     {"shop/web", "blog/web"},
		"store/web":    {"blog/web", "shop/web"}, // another project's
		"web":          {"blog/web", "shop/web"},
		"Shop/Web":     {"shop/web", "blog/web"},
		"shop/bakcned": {"shop/backend"},
		"shop/dbb":     {"shop/db"},
		"lonly":        {"lonely"},
		"workre":       {"shop/worker"},
		"shop/cache":   nil,
		"x":            nil,
		"":             nil,
	} {
		if got := Near(word, services); !slices.Equal(got, want) {
			t.Errorf("near %q: %q, want %q", word, got, want)
		}
	}
	labels := []string{"tier=front", "tier=back", "team=red"}
	for word, want := range map[string][]string{
		"tier=frnot": {"tier=front", "tier=back"},
		"teir=front": {"tier=front"},
		"stage=test": nil,
	} {
		if got := Near(word, labels); !slices.Equal(got, want) {
			t.Errorf("near %q: %q, want %q", word, got, want)
		}
	}
}

// Long names, as an attacker may give a container, take no long time.
func TestNearLong(t *testing.T) {
	long := make([]byte, 1<<20)
	for i := range long {
		long[i] = 'a'
	}
	if got := Near("shop/web", []string{string(long), "shop/webs"}); !slices.Equal(got, []string{"shop/webs"}) {
		t.Error(got)
	}
	if got := Near(string(long), []string{string(long[1:])}); got != nil {
		t.Errorf("%d names are near a megabyte", len(got))
	}
}

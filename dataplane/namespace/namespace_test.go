package namespace

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// here is the namespace of the calling thread.
func here(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	const name = "gh-namespace-test"
	made := make(chan error, 1)
	go func() { // its thread stays in the new namespace, and ends
		runtime.LockOSThread()
		_, err := netns.NewNamed(name)
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	defer netns.DeleteNamed(name)
	outside := here(t)
	failed := errors.New("failed inside")
	var inside string
	if err := Run("/var/run/netns/"+name, func() error { inside = here(t); return failed }); err != failed {
		t.Errorf("the function's error came back as %v", err)
	}
	if inside == outside || here(t) != outside {
		t.Errorf("outside %s, inside %s, afterwards %s", outside, inside, here(t))
	}
	if err := Run("", func() error { inside = here(t); return nil }); err != nil || inside != outside {
		t.Errorf("no path: %v, ran in %s", err, inside)
	}
	ran := false
	for path, want := range map[string]error{"/var/run/netns/gh-none": os.ErrNotExist, "/proc/self/ns/mnt": unix.EINVAL} {
		if err := Run(path, func() error { ran = true; return nil }); !errors.Is(err, want) || !strings.Contains(err.Error(), path) || ran {
			t.Errorf("%s: %v, ran %v", path, err, ran)
		}
	}
}

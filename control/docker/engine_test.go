package docker

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/control/inventory"
	"gatehouse/policy"
)

// prefix marks everything that these tests make in the shared engine.
const prefix = "ghd-"

// needEngine skips unless a Docker engine answers.
func needEngine(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("missing capability: docker command")
	}
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Skipf("missing capability: docker engine: %s", out)
	}
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// packIdle writes a root file system that holds only the idle program.
func packIdle(t *testing.T, tarball string) {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "idle"), "./testdata/idle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if out, err := exec.Command("tar", "-C", dir, "-cf", tarball, "idle").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
}

// makeImage imports an image that holds only the idle program, with those
// Dockerfile instructions.
func makeImage(t *testing.T, name string, changes ...string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root.tar")
	packIdle(t, root)
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	docker(t, append(args, root, name)...)
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", name).Run() })
}

// run starts a container and removes it in the end.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	t.Cleanup(func() { exec.Command("docker", "rm", "-f", name).Run() })
	return docker(t, append([]string{"run", "-d", "--name", name}, args...)...)
}

func makeNetwork(t *testing.T, name string, args ...string) string {
	t.Helper()
	t.Cleanup(func() { exec.Command("docker", "network", "rm", name).Run() })
	return docker(t, append(append([]string{"network", "create"}, args...), name)...)
}

// start runs a watcher until the test ends.
func start(t *testing.T, c Config) (*Watcher, *inventory.Inventory) {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	inv := inventory.New()
	w, err := New(c, inv)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w, inv
}

// await waits until the inventory is as ok wants it.
func await(t *testing.T, inv *inventory.Inventory, what string, ok func(*policy.Snapshot) bool) *policy.Snapshot {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if s := inv.Snapshot(); ok(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never saw: %s\nlast: %+v", what, inv.Snapshot().Workloads)
		}
	}
}

func awaitSynced(t *testing.T, w *Watcher, inv *inventory.Inventory) *policy.Snapshot {
	t.Helper()
	return await(t, inv, "a first list", func(*policy.Snapshot) bool { return w.Ready() == nil })
}

func workloadNamed(s *policy.Snapshot, name string) *policy.Workload {
	for i := range s.Workloads {
		if s.Workloads[i].Name == name {
			return &s.Workloads[i]
		}
	}
	return nil
}

func networkNamed(s *policy.Snapshot, name string) *policy.Network {
	for i := range s.Networks {
		if s.Networks[i].Name == name {
			return &s.Networks[i]
		}
	}
	return nil
}

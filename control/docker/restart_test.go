package docker

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/policy"
)

// privateEngine is a dockerd of the test's own, beside the machine's. It lives in
// a network namespace of its own: in the machine's, a second dockerd would take
// or, with --bridge=none, delete the docker0 that the first one uses.
type privateEngine struct {
	dir string
	cmd *exec.Cmd
}

func newPrivateEngine(t *testing.T) *privateEngine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("missing capability: dockerd")
	}
	netns := prefix + "engine"
	if out, err := exec.Command("ip", "netns", "add", netns).CombinedOutput(); err != nil {
		t.Skipf("missing capability: network namespaces: %s", out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", netns).Run() })
	dir, err := os.MkdirTemp("", "ghd") // short: dockerd makes sockets below it
	if err != nil {
		t.Fatal(err)
	}
	e := &privateEngine{dir: dir}
	if err := os.WriteFile(filepath.Join(dir, "daemon.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.stop()
		exec.Command("umount", filepath.Join(dir, "exec", "netns", "default")).Run()
		if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
	})
	return e
}

func (e *privateEngine) host() string { return "unix://" + filepath.Join(e.dir, "s") }

func (e *privateEngine) start(t *testing.T) {
	t.Helper()
	// nsenter, as ip netns exec would hide the cgroup mounts. It becomes dockerd.
	e.cmd = exec.Command("nsenter", "--net=/run/netns/"+prefix+"engine", "dockerd", "--config-file="+filepath.Join(e.dir, "daemon.json"), "--data-root="+filepath.Join(e.dir, "data"), "--exec-root="+filepath.Join(e.dir, "exec"),
		"--pidfile="+filepath.Join(e.dir, "pid"), "-H", e.host())
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		if c, err := net.Dial("unix", filepath.Join(e.dir, "s")); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	text, _ := os.ReadFile(filepath.Join(e.dir, "log"))
	t.Skipf("missing capability: a second dockerd does not start:\n%s", text)
}

func (e *privateEngine) stop() {
	if e.cmd == nil {
		return
	}
	e.cmd.Process.Signal(syscall.SIGTERM)
	e.cmd.Wait()
	e.cmd = nil
}

// TestEngineRestart holds that a restart of dockerd loses nothing: networks keep
// their zones, and containers that come back are there again.
func TestEngineRestart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a dockerd of its own")
	}
	e := newPrivateEngine(t)
	e.start(t)
	in := func(args ...string) string {
		return docker(t, append([]string{"-H", e.host()}, args...)...)
	}
	root := filepath.Join(t.TempDir(), "root.tar")
	packIdle(t, root)
	in("import", "--change", `CMD ["/idle"]`, root, prefix+"img:1")
	in("network", "create", "--subnet", "172.31.82.0/24", prefix+"net")
	t.Cleanup(func() { exec.Command("docker", "-H", e.host(), "network", "rm", prefix+"net").Run() })
	in("run", "-d", "--restart", "always", "--name", prefix+"stays", "--network", prefix+"net", prefix+"img:1")
	t.Cleanup(func() { exec.Command("docker", "-H", e.host(), "rm", "-f", prefix+"stays").Run() })

	w, inv := start(t, Config{Host: e.host()})
	s := awaitSynced(t, w, inv)
	first := workloadNamed(s, prefix+"stays")
	if first == nil || len(first.Endpoints) != 1 || !strings.HasPrefix(first.Endpoints[0].Sandbox, e.dir) {
		t.Fatalf("before: %+v", first)
	}
	zone := networkNamed(s, prefix+"net").Zone

	e.stop()
	await(t, inv, "the loss of the engine", func(*policy.Snapshot) bool { return w.Ready() != nil })
	if networkNamed(inv.Snapshot(), prefix+"net") == nil {
		t.Error("the network is forgotten")
	}
	e.start(t)
	s = await(t, inv, "the workload again", func(s *policy.Snapshot) bool {
		got := workloadNamed(s, prefix+"stays")
		return w.Ready() == nil && got != nil && got.Started.After(first.Started) && len(got.Endpoints) == 1
	})
	if got := networkNamed(s, prefix+"net").Zone; got != zone {
		t.Errorf("the zone went from %d to %d", zone, got)
	}
	if got := workloadNamed(s, prefix+"stays").Endpoints[0].ID; got == first.Endpoints[0].ID {
		t.Error("a restarted container has its old endpoint")
	}
}

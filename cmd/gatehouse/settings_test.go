package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// load is what the gateway would run with.
func load(t *testing.T, file string, env map[string]string, args ...string) (Settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gatehouse.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	var s Settings
	var failed error
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, _ []string) error {
		s, failed = loadSettings(cmd, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
		return nil
	}}
	addSettingFlags(cmd.Flags())
	cmd.SetArgs(append([]string{"--config", path}, args...))
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	return s, failed
}

func TestSettingsPrecedence(t *testing.T) {
	file := "mode: enforce\nworkers: 2\ntrust.digests: []\nsite: [203.0.113.0/24]\n"
	env := map[string]string{"GATEHOUSE_WORKERS": "3", "GATEHOUSE_SITE": "198.51.100.0/24, 2001:db8::/32"}
	s, err := load(t, file, env, "--workers", "4")
	if err != nil || s.Mode != "enforce" || s.Workers != 4 || len(s.Site) != 2 || s.Enroll != "all" {
		t.Errorf("%+v, %v", s, err)
	}
}

// Where statements are all there is, what they do not allow is dropped unless
// somebody says otherwise.
func TestModeOfAPlace(t *testing.T) {
	for _, c := range []struct {
		file string
		args []string
		want string
	}{
		{"", nil, "observe"},
		{"", []string{"--pair", "eth1,eth2"}, "enforce"},
		{"route: [eth1, eth2]", nil, "enforce"},
		{"mode: observe", []string{"--pair", "eth1,eth2"}, "observe"},
		{"pair: [eth1, eth2]", []string{"--mode", "observe"}, "observe"},
	} {
		if s, err := load(t, c.file, nil, c.args...); err != nil || s.Mode != c.want {
			t.Errorf("%q %v: %q, %v, want %q", c.file, c.args, s.Mode, err, c.want)
		}
	}
}

func TestBadSettings(t *testing.T) {
	for file, want := range map[string]string{
		"mod: enforce":                     "gatehouse.yaml:1: mod: unknown key; known are attach, categories, devices",
		"mode: enforce\nflows: many":       "gatehouse.yaml:2: flows: want a number",
		"mode: enforce\nsite: 10.0.0.0/8":  "gatehouse.yaml:2: site: want a list",
		"state: 7":                         "gatehouse.yaml:1: state: want text",
		"- mode: enforce":                  "gatehouse.yaml:1: want a map",
		"mode: [":                          "gatehouse.yaml: yaml: line 1",
		"mode: off":                        "setting mode",
		"workers: 0":                       "setting workers",
		"site: [10.0.0.0/40]":              "setting site",
		"metrics: 0.0.0.0:9477":            "loopback",
		"trust.digests: [sha256:abc]":      "trust.digests",
		"trust.registries: [acme]":         "trust.registries",
		"trust.registries: ['r.x:5000=?']": "trust.registries",
		"trust.local: yes please":          "trust.local",
		"mode: enforce\nmode: observe":     "gatehouse.yaml:2: mode: is also in line 1",
	} {
		if _, err := load(t, file, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want it to name %q", file, err, want)
		}
	}
	if _, err := load(t, "", map[string]string{"GATEHOUSE_WORKERS": "two"}); err == nil || !strings.Contains(err.Error(), "GATEHOUSE_WORKERS") {
		t.Errorf("environment: %v", err)
	}
	for _, empty := range []string{"", "# all by default\n", "---\n"} {
		if s, err := load(t, empty, nil); err != nil || s.Mode != "observe" {
			t.Errorf("%q: %+v, %v", empty, s, err)
		}
	}
	if s, err := load(t, "metrics: ''", nil); err != nil || s.Metrics != "" {
		t.Errorf("metrics off: %q, %v", s.Metrics, err)
	}
	if _, err := load(t, "trust.registries: [registry.example:5000/=docker.io/, docker.io/acme]", nil); err != nil {
		t.Errorf("good registries: %v", err)
	}
}

func TestSocketIsNotTakenFromOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := new(server).listen(path); err == nil {
		l.Close()
		t.Error("a file was taken for a socket")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "x" {
		t.Errorf("the file is gone: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := new(server).listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if other, err := new(server).listen(path); err == nil {
		other.Close()
		t.Error("two gateways on one socket")
	}
}

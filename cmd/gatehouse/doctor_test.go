package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/dataplanetest"
	"gatehouse/dataplane/tun"
)

// machine is a root with the files that doctor reads.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestDoctorReadsTheMachine(t *testing.T) {
	good := map[string]string{"proc/sys/kernel/osrelease": "6.6.1-amd64\n", "sys/kernel/btf/vmlinux": "x", "etc/resolv.conf": "nameserver 192.0.2.1\n"}
	with := func(name, text string) map[string]string {
		out := map[string]string{name: text}
		for n, t := range good {
			if n != name {
				out[n] = t
			}
		}
		return out
	}
	for _, tt := range []struct {
		files             map[string]string
		level, name, text string
	}{
		{good, levelOK, "kernel", "6.6.1"},
		{with("proc/sys/kernel/osrelease", "6.5.13-1\n"), levelWarn, "kernel", "6.5.13"},
		{with("proc/sys/kernel/osrelease", "5.10.0\n"), levelFail, "kernel", "5.10"},
		{with("proc/sys/kernel/osrelease", "5.11.22\n"), levelFail, "kernel", "5.11"},
		{with("proc/sys/kernel/osrelease", "10.1.0\n"), levelOK, "kernel", "10.1"},
		{with("proc/sys/kernel/osrelease", "odd\n"), levelWarn, "kernel", "odd"},
		{with("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n"), levelWarn, "br_netfilter", "conntrack"},
		{good, levelOK, "br_netfilter", ""},
		{with("etc/resolv.conf", "# x\nnameserver 127.0.0.53\n"), levelWarn, "names", "127.0.0.53"},
		{with("etc/resolv.conf", "nameserver ::1\n"), levelWarn, "names", "::1"},
		{good, levelOK, "names", ""},
	} {
		d := doctor{root: machine(t, tt.files), cmd: new(cobra.Command)}
		d.kernel(Settings{})
		d.forwarding()
		d.resolvers()
		found := false
		for _, c := range d.checks {
			found = found || c.Level == tt.level && c.Name == tt.name && strings.Contains(c.Text, tt.text)
		}
		if !found {
			t.Errorf("no %s %s %q in %+v", tt.level, tt.name, tt.text, d.checks)
		}
	}
	d := doctor{root: machine(t, map[string]string{"proc/12/comm": "docker-proxy\n", "proc/13/comm": "init\n"})}
	if !d.hasProcess("docker-proxy") || d.hasProcess("nothing") {
		t.Error("processes")
	}
}

// What a kernel lacks counts where it is needed.
func TestDoctorKernel(t *testing.T) {
	pair, route := Settings{Pair: []string{"a", "b"}}, Settings{Route: []string{"a", "b"}}
	for _, tt := range []struct {
		set                  Settings
		release, level, text string
	}{
		{Settings{Attach: "auto"}, "6.5.0", levelWarn, "clsact"},
		{Settings{Attach: "clsact"}, "6.5.0", levelWarn, "clsact"},
		{Settings{Attach: "tcx"}, "6.5.0", levelFail, "no tcx"},
		{Settings{Attach: "tcx"}, "6.6.0", levelOK, ""},
		{Settings{}, "5.11.0", levelFail, "instructions"},
		{Settings{}, "5.13.0", levelFail, "cookies"},
		{Settings{}, "5.14.0", levelWarn, "clsact"},
		{pair, "5.11.0", levelFail, "instructions"},
		{pair, "5.13.0", levelWarn, "through user space"},
		{pair, "6.2.0", levelWarn, "through user space"},
		{pair, "6.3.0", levelOK, ""},
		{route, "5.4.0", levelOK, ""},
	} {
		d := doctor{root: machine(t, map[string]string{"proc/sys/kernel/osrelease": tt.release + "\n"}), cmd: new(cobra.Command)}
		d.release(tt.set)
		if c := d.checks[0]; len(d.checks) != 1 || c.Level != tt.level || !strings.Contains(c.Text, tt.text) || c.Level != levelOK && c.Do == "" {
			t.Errorf("%+v on %s: %+v", tt.set, tt.release, d.checks)
		}
	}
}

// Where the kernel has no AF_XDP a TAP takes its place, unless a setting wants that
// it does not.
func TestKernelWithoutAFXDP(t *testing.T) {
	lines := func(set Settings) []Check {
		d := doctor{cmd: new(cobra.Command)}
		d.slowPath(set)
		return d.checks
	}
	var log bytes.Buffer
	settled := func(io string) string {
		set := Settings{IO: io}
		set.settleIO(slog.New(slog.NewTextHandler(&log, nil)))
		return set.IO
	}
	if err := dataplanetest.WithoutAFXDP(func() {
		for io, want := range map[string]string{"auto": "tap", "afxdp": "afxdp", "tap": "tap"} {
			if got := settled(io); got != want {
				t.Errorf("io %s becomes %s, want %s", io, got, want)
			}
		}
		if !strings.Contains(log.String(), "CONFIG_XDP_SOCKETS") {
			t.Errorf("the log does not say why: %q", log.String())
		}
		for _, c := range lines(Settings{IO: "afxdp"}) {
			if c.Level != levelFail || !strings.Contains(c.Do, "--io tap") {
				t.Errorf("io afxdp: %+v", c)
			}
		}
		if tun.Available() != nil {
			return
		}
		for io, want := range map[string]string{"auto": levelWarn, "tap": levelOK} {
			if got := lines(Settings{IO: io}); len(got) != 1 || got[0].Level != want || !strings.Contains(got[0].Text, "TAP") {
				t.Errorf("io %s: %+v", io, got)
			}
		}
	}); err != nil {
		t.Skipf("missing capability: %v", err)
	}
	if afxdp.Available() == nil {
		if got := settled("auto"); got != "afxdp" {
			t.Errorf("with AF_XDP io auto becomes %s", got)
		}
	}
}

// doctor works with nothing running, says what to do, and its exit code tells.
func TestDoctorAlone(t *testing.T) {
	dir := t.TempDir()
	var out, errs bytes.Buffer
	args := []string{"doctor", "-o", "json", "--state", dir, "--socket", filepath.Join(dir, "none.sock"), "--docker", filepath.Join(dir, "none-either.sock"), "--pins", filepath.Join(dir, "pins")}
	if code := run(args, strings.NewReader(""), &out, &errs); code != exitNo {
		t.Errorf("without Docker: %d %s", code, errs.String())
	}
	byName := checksOf(t, out.Bytes())
	if c := byName["docker"]; c.Level != levelFail || c.Do == "" {
		t.Errorf("docker: %+v", c)
	}
	if c := byName["gateway"]; c.Level != levelWarn || !strings.Contains(c.Text, "none.sock") {
		t.Errorf("gateway: %+v", c)
	}
	out.Reset()
	if code := run(append(args, "--mode", "off"), strings.NewReader(""), &out, &errs); code != exitNo || checksOf(t, out.Bytes())["settings"].Level != levelFail {
		t.Errorf("bad settings: %d %s", code, out.String())
	}
}

func checksOf(t *testing.T, data []byte) map[string]Check {
	t.Helper()
	var list []Check
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	out := map[string]Check{}
	for _, c := range list {
		if c.Level != levelOK && c.Level != levelWarn && c.Level != levelFail || c.Text == "" {
			t.Errorf("%+v", c)
		}
		out[c.Name] = c
	}
	return out
}

func TestDoctorAsksDocker(t *testing.T) {
	dir, err := os.MkdirTemp("", "ghd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "d.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	version := "20.10.5+dfsg1"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"Version": version, "ApiVersion": "1.41"})
	})
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],"Swarm":{"LocalNodeState":"active"}}`))
	})
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	for v, want := range map[string]string{"20.10.5+dfsg1": levelOK, "19.03.1": levelFail, "28.5.2": levelOK} {
		version = v
		d := doctor{root: t.TempDir()}
		d.docker(t.Context(), Settings{Docker: socket})
		if d.checks[0].Level != want || !strings.Contains(d.checks[0].Text, v) {
			t.Errorf("%s: %+v", v, d.checks)
		}
		if clipped := len(d.checks) > 1 && d.checks[1].Name == "image store"; clipped == strings.HasPrefix(v, "28.") {
			t.Errorf("%s: %+v", v, d.checks)
		}
	}
}

// Each fault of a file has a line of its own.
func TestDoctorShowsEveryLine(t *testing.T) {
	var out bytes.Buffer
	checks := []Check{{Level: levelFail, Name: "files", Text: "a.yaml:4: verdict\na.yaml:5: from", Do: "mend it"}}
	if err := writeTable(&out, func(w io.Writer) { checkRows(w, checks) }); err != nil {
		t.Fatal(err)
	}
	if want := "fail  files  a.yaml:4: verdict\n             a.yaml:5: from\n             -> mend it\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The live tests run the real binary on the engine at hand, with names of
// their own so that it may have other containers: everything is ghe-something
// or carries the label.
const (
	liveLabel  = "ghe=live"
	livePins   = "/sys/fs/bpf/ghe-live"
	livePrefix = "ghe"
	probeImage = "ghe/probe:1"
)

// rig is what all live tests share: the binary, the image of the probe, and
// where the engine is.
type rig struct {
	binary string
	docker string // API socket
	netns  string // folder of network namespaces
}

var (
	theRig   *rig
	rigSkip  string
	rigErr   error
	rigOnce  sync.Once
	rigClean []func()
)

func TestMain(m *testing.M) {
	testscript.Main(cleaned{m}, map[string]func(){"gatehouse": main})
}

// cleaned takes away, after all tests, what they share.
type cleaned struct{ tests *testing.M }

func (c cleaned) Run() int {
	code := c.tests.Run()
	for _, f := range slices.Backward(rigClean) {
		f()
	}
	return code
}

// live returns the rig, or skips where a live test cannot be.
func live(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("short")
	}
	rigOnce.Do(func() { theRig, rigSkip, rigErr = newRig() })
	if rigSkip != "" {
		t.Skip("missing capability: " + rigSkip)
	}
	if rigErr != nil {
		t.Fatal(rigErr)
	}
	return theRig
}

func newRig() (r *rig, skip string, err error) {
	if os.Geteuid() != 0 {
		return nil, "root", nil
	}
	if _, err := command("docker", "version"); err != nil {
		return nil, "Docker engine", nil
	}
	// Two of these at a time would clean up each other's.
	lock, err := os.Create(filepath.Join(os.TempDir(), "ghe-live.lock"))
	if err != nil {
		return nil, "", err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, "", err
	}
	rigClean = append(rigClean, func() { lock.Close() })
	dir, err := os.MkdirTemp("", "ghe-rig")
	if err != nil {
		return nil, "", err
	}
	rigClean = append(rigClean, func() { os.RemoveAll(dir) })
	r = &rig{binary: filepath.Join(dir, "gatehouse"), docker: "/var/run/docker.sock", netns: "/var/run/docker/netns"}
	if host, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		r.docker = host
	}
	if err := r.build(dir); err != nil {
		return nil, "", err
	}
	if err := r.sweep(); err != nil {
		return nil, "", err
	}
	rigClean = append(rigClean, func() { _ = r.sweep() })
	return r, "", r.findNetNS()
}

func (r *rig) build(dir string) error {
	probe := filepath.Join(dir, "probe")
	for out, pkg := range map[string]string{r.binary: ".", probe: "./testdata/probe"} {
		cmd := exec.Command("go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
		}
	}
	return importImage(dir, probeImage, "EXPOSE 8000", "CMD [\"/probe\",\"idle\"]")
}

// importImage makes an image of the probe in dir.
func importImage(dir, tag string, changes ...string) error {
	tar, err := exec.Command("tar", "-C", dir, "-c", "probe").Output()
	if err != nil {
		return err
	}
	args := []string{"import"}
	for _, c := range append(changes, "LABEL "+strings.ReplaceAll(liveLabel, "=", ".image=")) {
		args = append(args, "--change", c)
	}
	cmd := exec.Command("docker", append(args, "-", tag)...)
	cmd.Stdin = bytes.NewReader(tar)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %w\n%s", err, text)
	}
	return nil
}

// findNetNS learns from a container where the engine keeps its namespaces.
func (r *rig) findNetNS() error {
	id, err := command("docker", "run", "-d", "--network", "none", "--label", liveLabel, probeImage)
	if err != nil {
		return err
	}
	defer command("docker", "rm", "-f", id)
	key, err := command("docker", "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", id)
	if err != nil {
		return err
	}
	r.netns = filepath.Dir(key)
	return nil
}

// sweep removes what a test that could not clean up left.
func (r *rig) sweep() error {
	var errs []error
	if out, err := command("docker", "service", "ls", "-q", "--filter", "label="+liveLabel); err == nil { // an error: no Swarm
		for _, id := range strings.Fields(out) {
			_, err := command("docker", "service", "rm", id)
			errs = append(errs, err)
		}
	}
	if out, err := command("docker", "ps", "-aq", "--filter", "label="+liveLabel); err == nil && out != "" {
		_, err := command("docker", append([]string{"rm", "-f"}, strings.Fields(out)...)...)
		errs = append(errs, err)
	}
	if out, err := command("docker", "network", "ls", "-q", "--filter", "label="+liveLabel); err == nil {
		for _, id := range strings.Fields(out) {
			if _, err := command("docker", "network", "rm", id); !miscounted(id, err) {
				errs = append(errs, err)
			}
		}
	}
	if _, err := os.Stat(livePins); err == nil {
		_, err := command(r.binary, "uninstall", "--socket", filepath.Join(filepath.Dir(r.binary), "none.sock"),
			"--pins", livePins, "--devices", livePrefix, "--netns", r.netns)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// command runs a program and returns what it prints, trimmed.
func command(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(out.String()), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

func mustRun(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := command(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// process is a running `gatehouse run` with its own folder, socket, pins,
// devices and probes' address.
type process struct {
	t       *testing.T
	rig     *rig
	dir     string
	args    []string
	metrics string
	child   *child
	http    http.Client
}

// child is the process that runs now; nil commands run none.
type child struct {
	cmd   *exec.Cmd
	ended chan error
}

// startGateway starts one and waits until it guards every endpoint. When the
// test ends it is stopped and uninstalled, and nothing of it may be left.
func startGateway(t *testing.T, args ...string) *process {
	t.Helper()
	r := live(t)
	p := newProcess(t, r, args...)
	t.Cleanup(p.remove)
	p.start()
	return p
}

func newProcess(t *testing.T, r *rig, args ...string) *process {
	p := &process{t: t, rig: r, child: &child{}, dir: t.TempDir(), metrics: freeAddress(t)}
	p.args = append([]string{"run", "--socket", p.socket(), "--config", p.file("absent.yaml"), "--state", p.file("state"), "--pins", livePins,
		"--devices", livePrefix, "--metrics", p.metrics, "--docker", r.docker, "--netns", r.netns}, args...)
	if slices.Contains(args, "--config") {
		p.args = slices.Delete(p.args, 3, 5)
	} else if err := os.WriteFile(p.file("absent.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.socket())
	}}
	return p
}

// as is the process for a subtest, which fails in its place.
func (p *process) as(t *testing.T) *process {
	c := *p
	c.t = t
	return &c
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (p *process) file(name string) string { return filepath.Join(p.dir, name) }
func (p *process) socket() string          { return p.file("g.sock") }

func (p *process) log() string {
	data, _ := os.ReadFile(p.file("log"))
	return string(data)
}

// launch starts the process and returns at once.
func (p *process) launch() {
	p.t.Helper()
	log, err := os.OpenFile(p.file("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.child.cmd = exec.Command(p.rig.binary, p.args...)
	p.child.cmd.Stdout, p.child.cmd.Stderr = log, log
	if err := p.child.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	p.child.ended = ended
	go func(cmd *exec.Cmd) { ended <- cmd.Wait() }(p.child.cmd)
}

func (p *process) start() {
	p.t.Helper()
	p.launch()
	p.waitReady()
}

func (p *process) waitReady() {
	p.t.Helper()
	var s Status
	p.eventually("gateway ready", func() bool {
		select {
		case err := <-p.child.ended:
			p.child.cmd = nil
			p.t.Fatalf("gatehouse run ended: %v\n%s", err, p.log())
		default:
		}
		s = Status{}
		return p.get("/v1/status", &s) == nil && s.Ready && s.Endpoints.Waiting == 0
	}, func() string { return fmt.Sprintf("%v, %d waiting\n%s", s.Problems, s.Endpoints.Waiting, p.log()) })
}

// livePatience is how long what must happen may take, on a machine however busy;
// inVain how long a test tries what must not.
const (
	livePatience = 30 * time.Second
	inVain       = 700 * time.Millisecond
)

// eventually polls until done; say tells more of a failure.
func (p *process) eventually(what string, done func() bool, say func() string) {
	p.t.Helper()
	eventually(p.t, what, done, say)
}

func eventually(t testing.TB, what string, done func() bool, say func() string) {
	t.Helper()
	for until := time.Now().Add(livePatience); !done(); time.Sleep(25 * time.Millisecond) {
		if time.Now().After(until) {
			more := ""
			if say != nil {
				more = say()
			}
			t.Fatalf("not within %v: %s\n%s", livePatience, what, more)
		}
	}
}

// get decodes GET path of the API.
func (p *process) get(path string, v any) error {
	answer, err := p.http.Get("http://gatehouse" + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(v)
}

func (p *process) mustGet(path string, v any) {
	p.t.Helper()
	if err := p.get(path, v); err != nil {
		p.t.Fatalf("%v\n%s", err, p.log())
	}
}

func (p *process) status() Status {
	p.t.Helper()
	var s Status
	p.mustGet("/v1/status", &s)
	return s
}

func (p *process) workload(name string) (WorkloadView, bool) {
	p.t.Helper()
	var all []WorkloadView
	p.mustGet("/v1/workloads", &all)
	i := slices.IndexFunc(all, func(w WorkloadView) bool { return w.Name == name })
	if i < 0 {
		return WorkloadView{}, false
	}
	return all[i], true
}

// admitted waits until every interface of these containers is guarded.
func (p *process) admitted(containers ...*container) {
	p.t.Helper()
	for _, c := range containers {
		var w WorkloadView
		p.eventually("guarded: "+c.name, func() bool {
			var ok bool
			if w, ok = p.workload(c.name); !ok || len(w.Endpoints) == 0 {
				return false
			}
			return !slices.ContainsFunc(w.Endpoints, func(e EndpointView) bool { return !e.Admitted })
		}, func() string { return fmt.Sprintf("%+v\n%s", w, p.log()) })
	}
}

// cli runs a verb of the binary and returns its output and exit code.
func (p *process) cli(args ...string) (out string, code int) {
	p.t.Helper()
	cmd := exec.Command(p.rig.binary, append(args, "--socket", p.socket())...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return o.String() + e.String(), cmd.ProcessState.ExitCode()
}

func (p *process) enforce(services ...string) {
	p.t.Helper()
	for _, s := range services {
		if out, code := p.cli("mode", s, "enforce", "--yes"); code != exitGood {
			p.t.Fatalf("mode %s enforce: %d %s", s, code, out)
		}
	}
}

// violation waits for the one record that fits.
func (p *process) violation(what string, fits func(ViolationView) bool) ViolationView {
	p.t.Helper()
	var all, found []ViolationView
	p.eventually("a violation: "+what, func() bool {
		p.mustGet("/v1/violations", &all)
		found = found[:0]
		for _, v := range all {
			if fits(v) {
				found = append(found, v)
			}
		}
		return len(found) > 0
	}, func() string {
		var flows []FlowView
		_ = p.get("/v1/flows", &flows)
		return violationLines(all) + fmt.Sprintf("%+v %+v", flows, p.status().Drops)
	})
	if len(found) > 1 {
		p.t.Errorf("%s: %d records for one flow:\n%s", what, len(found), violationLines(found))
	}
	return found[0]
}

func violationLines(vs []ViolationView) string {
	var b strings.Builder
	for _, v := range vs {
		fmt.Fprintf(&b, "  %s %s -> %s %s %s->%s app %s %s (%s) x%d at %s: %s\n", v.ID, v.From, v.To, v.Proto, v.Source, v.Dest, v.App, v.Verdict, v.Reason, v.Count, v.Workload, v.Why)
	}
	return b.String()
}

// kill ends the gateway without a chance to tidy up.
func (p *process) kill() {
	p.t.Helper()
	if err := p.child.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.child.ended
	p.child.cmd = nil
}

// stop ends it in order.
func (p *process) stop() error {
	if p.child.cmd == nil {
		return nil
	}
	process := p.child.cmd.Process
	p.child.cmd = nil
	if err := process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-p.child.ended:
		return err
	case <-time.After(livePatience):
		_ = process.Signal(syscall.SIGQUIT)
		<-p.child.ended
		return fmt.Errorf("gatehouse run did not end on SIGTERM\n%s", p.log())
	}
}

// remove stops and uninstalls, and checks that the host is as it was found.
func (p *process) remove() {
	if err := p.stop(); err != nil {
		p.t.Errorf("stop: %v\n%s", err, p.log())
	}
	if out, code := p.cli("uninstall", "--pins", livePins, "--devices", livePrefix, "--netns", p.rig.netns); code != exitGood {
		p.t.Errorf("uninstall: %d %s", code, out)
	}
	for _, thing := range leftOf() {
		p.t.Errorf("uninstall left %s", thing)
	}
	if p.t.Failed() {
		p.t.Logf("log of the gateway:\n%s", p.log())
	}
}

func leftOf() (left []string) {
	links, _ := command("ip", "-o", "link", "show")
	for line := range strings.Lines(links) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], livePrefix) && !strings.HasPrefix(f[1], "ghe-") {
			left = append(left, "link "+f[1])
		}
	}
	tables, _ := command("nft", "list", "tables")
	if strings.Contains(tables, "gatehouse-"+livePrefix) {
		left = append(left, tables)
	}
	if _, err := os.Stat(livePins); err == nil {
		left = append(left, livePins)
	}
	return left
}

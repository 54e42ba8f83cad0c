package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gatehouse/control"
	"gatehouse/control/history"
	"gatehouse/dataplane/steer"
)

// Check is one line of `gatehouse doctor`.
type Check struct {
	Level string `json:"level"` // ok, warn, fail
	Name  string `json:"name"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"` // what a person can do about it
}

const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "fail"
)

func newDoctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the kernel, Docker, settings and the gateway; what is wrong, and what to do",
		Long: "Doctor changes nothing and works without a running gateway. Each line is ok, warn or fail; the exit code is 1 if any fails.\n" +
			"With --pair or --route it looks at what that place needs in place of Docker. Some checks need root.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := doctor{root: "/", cmd: cmd}
			checks := d.examine(cmd.Context())
			if err := show(cmd, checks, func(w io.Writer) { checkRows(w, checks) }); err != nil {
				return err
			}
			for _, c := range checks {
				if c.Level == levelFail {
					return &exitError{exitNo, nil}
				}
			}
			return nil
		},
	}
	addSettingFlags(cmd.Flags())
	addOutputFlag(cmd)
	return cmd
}

func checkRows(w io.Writer, checks []Check) {
	for _, c := range checks {
		first, more, _ := strings.Cut(c.Text, "\n")
		row(w, c.Level, c.Name, first)
		for line := range strings.Lines(more) {
			row(w, "", "", strings.TrimSuffix(line, "\n"))
		}
		if c.Do != "" {
			row(w, "", "", "-> "+c.Do)
		}
	}
}

// doctor gathers checks; root is where /proc, /sys and /etc are.
type doctor struct {
	root   string
	cmd    *cobra.Command
	checks []Check
	pinned bool // a gateway is here, or was
}

func (d *doctor) say(level, name, do, format string, args ...any) {
	d.checks = append(d.checks, Check{Level: level, Name: name, Text: fmt.Sprintf(format, args...), Do: do})
}

func (d *doctor) examine(ctx context.Context) []Check {
	set, err := loadSettings(d.cmd, os.LookupEnv)
	d.kernel(set)
	if !set.isPlace() {
		d.forwarding()
		d.resolvers()
	}
	d.clock()
	if err != nil {
		d.say(levelFail, "settings", "mend the setting; `gatehouse run --help` lists them", "%v", err)
		return d.checks
	}
	d.say(levelOK, "settings", "", "good")
	d.files(set)
	switch {
	case len(set.Pair) > 0:
		d.pair(set)
	case len(set.Route) > 0:
		d.route(set)
	default:
		d.slowPath(set)
		d.pins(set)
		d.docker(ctx, set)
	}
	d.leftBehind()
	d.gateway(ctx, set)
	return d.checks
}

func (d *doctor) read(path string) string {
	data, _ := os.ReadFile(filepath.Join(d.root, path))
	return strings.TrimSpace(string(data))
}

func (d *doctor) kernel(set Settings) {
	if os.Geteuid() != 0 {
		d.say(levelWarn, "root", "run it with sudo", "not root: pins, the standing rule and the history's file cannot be checked")
	}
	d.release(set)
	if len(set.Route) > 0 { // which has no programs
		return
	}
	if _, err := os.Stat(filepath.Join(d.root, "sys/kernel/btf/vmlinux")); err != nil {
		d.say(levelFail, "kernel BTF", "use a kernel with CONFIG_DEBUG_INFO_BTF", "no /sys/kernel/btf/vmlinux")
	}
	if v := d.read("proc/sys/kernel/unprivileged_bpf_disabled"); v == "0" {
		d.say(levelWarn, "kernel BPF", "sysctl -w kernel.unprivileged_bpf_disabled=1", "programs without privileges may load BPF")
	}
}

// parseRelease reads the first two numbers of a kernel's release.
func parseRelease(release string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	second, _, _ = strings.Cut(second, "-")
	major, errMajor := strconv.Atoi(first)
	minor, errMinor := strconv.Atoi(second)
	return major, minor, errMajor == nil && errMinor == nil
}

// forwarding looks at what stands beside Gatehouse on the same packets.
func (d *doctor) forwarding() {
	if d.read("proc/sys/net/bridge/bridge-nf-call-iptables") == "1" {
		d.say(levelWarn, "br_netfilter", "where nothing else needs it: sysctl -w net.bridge.bridge-nf-call-iptables=0",
			"bridged packets also pass iptables and conntrack, which costs speed where the kernel carries them on its own path")
		if d.read("proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal") == "0" {
			d.say(levelWarn, "nf_conntrack", "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1",
				"packets that go straight into the peer are not seen by conntrack: later ones of that connection may count as invalid")
		}
		return
	}
	d.say(levelOK, "br_netfilter", "", "not in the way of bridged packets")
}

// resolvers tells of name servers whose answers no container's interface sees.
func (d *doctor) resolvers() {
	for line := range strings.Lines(d.read("etc/resolv.conf")) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && a.IsLoopback() {
			d.say(levelWarn, "names", "give the daemon name servers of its own (\"dns\" in daemon.json), or containers `dns:`",
				"the host's resolver %s is on its loopback: Docker may ask it from the host, where no hook sees query or answer", a)
			return
		}
	}
	d.say(levelOK, "names", "", "no resolver on the host's loopback")
}

func (d *doctor) clock() {
	state, err := unix.Adjtimex(&unix.Timex{})
	switch {
	case time.Now().Year() < 2025:
		d.say(levelFail, "clock", "set the clock", "it is %s here", time.Now().Format(time.RFC3339))
	case err == nil && state == unix.TIME_ERROR:
		d.say(levelWarn, "clock", "run a time service", "not synchronised: records and time windows follow it")
	default:
		d.say(levelOK, "clock", "", "%s", time.Now().UTC().Format(time.RFC3339))
	}
}

// leastFree is what the state folder's file system should have free.
const leastFree = 64 << 20

func (d *doctor) files(set Settings) {
	files := control.Files{Models: set.ModelDir, Statements: set.Statements, Categories: set.Categories}
	if _, rules, err := control.OpenFiles(files, slog.New(slog.DiscardHandler)); err != nil {
		d.say(levelFail, "files", "mend the file: until then the last good content is in force", "%v", err)
	} else {
		d.say(levelOK, "files", "", "%s, %s of the operator's", quantity(len(rules.Library.Models()), "model"), quantity(len(rules.Policy.Statements), "statement"))
	}
	if _, err := control.OpenModes(filepath.Join(set.State, "modes.json")); err != nil && !errors.Is(err, fs.ErrPermission) {
		d.say(levelFail, "modes", "restore the file, or remove it to fall back to the default mode", "%v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(set.State, &st); err == nil {
		if free := st.Bavail * uint64(st.Bsize); free < leastFree {
			d.say(levelWarn, "state folder", "make room", "%s has %d MB free: the history cannot be written when it is full", set.State, free>>20)
		}
	}
}

func (d *doctor) pins(set Settings) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Join(d.root, "sys/fs/bpf"), &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		d.say(levelWarn, "bpffs", "mount -t bpf bpf /sys/fs/bpf (run does so itself)", "/sys/fs/bpf is no bpf file system")
		return
	}
	pinned := 0
	err := filepath.WalkDir(set.Pins, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			pinned++
		}
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.say(levelOK, "pins", "", "none: no gateway has been here, or it was uninstalled")
	case err != nil:
		d.say(levelWarn, "pins", "run it with sudo", "%v", err)
	default:
		d.say(levelOK, "pins", "", "%d in %s", pinned, set.Pins)
	}
	d.pinned = pinned > 0
}

// standing looks for the rule that holds networks shut on which somebody enforces,
// where there may be any.
func (d *doctor) standing(set Settings) {
	if set.isPlace() || !d.pinned || os.Geteuid() != 0 {
		return
	}
	if out, err := exec.Command("nft", "list", "tables", "bridge").Output(); err == nil && !slices.Contains(strings.Split(string(out), "\n"), "table bridge "+steer.StandingTable(set.Devices)) {
		d.say(levelWarn, "standing rule", "a running gateway puts it back; `nft flush ruleset` removes it", "there is no table bridge %s: networks on which somebody enforces are not held shut by it", steer.StandingTable(set.Devices))
	}
}

// dockerNeeds is the first engine that tells all that control/docker asks.
var dockerNeeds = [2]int{20, 10}

func (d *doctor) docker(ctx context.Context, set Settings) {
	var version struct{ Version, ApiVersion string }
	if err := askDocker(ctx, set.Docker, "/version", &version); err != nil {
		change := "start Docker, or name its socket with --docker"
		if errors.Is(err, fs.ErrPermission) {
			change = "run it with sudo"
		}
		d.say(levelFail, "docker", change, "%v", err)
		return
	}
	major, minor, ok := parseRelease(version.Version)
	if ok && (major < dockerNeeds[0] || major == dockerNeeds[0] && minor < dockerNeeds[1]) {
		d.say(levelFail, "docker", "use Docker 20.10 or later", "version %s", version.Version)
	} else {
		d.say(levelOK, "docker", "", "version %s, API %s", version.Version, version.ApiVersion)
	}
	var info struct {
		LiveRestoreEnabled bool
		DriverStatus       [][2]string
		Swarm              struct{ LocalNodeState string }
	}
	if err := askDocker(ctx, set.Docker, "/info", &info); err != nil {
		d.say(levelWarn, "docker info", "", "%v", err)
		return
	}
	for _, s := range info.DriverStatus {
		if strings.HasPrefix(s[1], "io.containerd.snapshotter") && !(major > 28 || major == 28 && minor >= 2) {
			d.say(levelWarn, "image store", "label containers with gatehouse.model, or use an engine that keeps image identities",
				"with the containerd store of this engine, digests prove no origin: models of pulled images are clipped to their own project")
		}
	}
	if info.Swarm.LocalNodeState == "active" {
		d.say(levelOK, "swarm", "", "active")
	}
	if d.hasProcess("docker-proxy") {
		d.say(levelWarn, "userland-proxy", "\"userland-proxy\": false in daemon.json",
			"docker-proxy relays published ports: it hides who calls, and the caller is judged at its own interface only")
	}
}

func (d *doctor) hasProcess(name string) bool {
	found, _ := filepath.Glob(filepath.Join(d.root, "proc/[0-9]*/comm"))
	for _, path := range found {
		if data, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(data)) == name {
			return true
		}
	}
	return false
}

// dockerPatience bounds a question to an engine that may hang.
const dockerPatience = 5 * time.Second

func askDocker(ctx context.Context, host, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, dockerPatience)
	defer cancel()
	network, address, _ := strings.Cut(dockerHost(host), "://")
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	answer, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("the engine does not answer at %s: %w", host, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine at %s answers %s to %s", host, answer.Status, path)
	}
	return json.NewDecoder(io.LimitReader(answer.Body, 4<<20)).Decode(v)
}

// gateway asks the running one; without it the history's file is looked at.
func (d *doctor) gateway(ctx context.Context, set Settings) {
	ctx, cancel := context.WithTimeout(ctx, dockerPatience)
	defer cancel()
	var s Status
	if err := newClient(d.cmd).get(ctx, "/v1/status", &s); err != nil {
		d.say(levelWarn, "gateway", "start `gatehouse run`", "%v", err)
		d.standing(set)
		d.history(set)
		return
	}
	if s.Ready {
		d.say(levelOK, "gateway", "", "%s, table %d, %d interfaces", s.Version, s.Epoch, s.Endpoints.Admitted)
	}
	if len(s.Closed) > 0 {
		d.standing(set)
	}
	for _, p := range s.Problems {
		d.say(levelFail, "gateway", "see `gatehouse status` and its log", "%s", p)
	}
	for _, u := range s.Uncovered {
		d.say(levelWarn, "coverage", "put it on a bridge or overlay network, or accept that it is not guarded", "%s is not guarded: %s", u.Workload, u.Why)
	}
	if s.Endpoints.Waiting > 0 {
		d.say(levelWarn, "coverage", "see `gatehouse get workloads`", "%d interfaces are known to Docker and not found on the host", s.Endpoints.Waiting)
	}
	if s.Services.Observe > 0 {
		d.say(levelWarn, "mode", "gatehouse mode SERVICE enforce --dry-run shows what it would drop", "%d services are only observed", s.Services.Observe)
	}
	switch h := s.History; {
	case h.Problem != "":
		d.say(levelFail, "history", "make room, or mend the folder", "%s", h.Problem)
	case h.LostViolations > 0 || h.LostFlows > 0:
		d.say(levelWarn, "history", "see who floods: `gatehouse get violations`", "%d flows and %d violations were lost", h.LostFlows, h.LostViolations)
	default:
		d.say(levelOK, "history", "", "since %s, %d MB", h.Since.UTC().Format(time.RFC3339), h.Bytes>>20)
	}
	findings, absent := absent(s.Findings)
	if absent != "" {
		d.say(levelOK, findingNobody, "", "%s", absent)
	}
	for _, f := range findings {
		if f.Kind == findingNobody {
			d.say(levelWarn, f.Kind, "mend the name in the file, if it is mistyped", "%s: %s", f.Subject, f.Text)
		}
		if f.Kind == findingDrift || f.Kind == "proposed-model" {
			d.say(levelWarn, f.Kind, "gatehouse explain, or the label gatehouse.model", "%s: %s", f.Subject, f.Text)
		}
	}
}

func (d *doctor) history(set Settings) {
	if os.Geteuid() != 0 {
		return
	}
	switch flows, violations, err := history.Check(set.historyFile()); {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, history.ErrHeld):
		d.say(levelWarn, "history", "`gatehouse doctor --socket` with that gateway's", "%s: a gateway has it open, and none answers here", set.historyFile())
	case err != nil:
		d.say(levelWarn, "history", "the gateway moves a damaged file aside and begins a new one", "%v", err)
	default:
		d.say(levelOK, "history", "", "%d records of flows, %d of violations", flows, violations)
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	readyPatience     = 30 * time.Second
	violationPatience = 3 * time.Second
	stopPatience      = 15 * time.Second

	pins      = "/sys/fs/bpf/gatehouse-demo"
	otherPins = "/sys/fs/bpf/gatehouse"
)

// gateway is the real binary, run as anyone would run it, with a folder of its
// own for what it keeps.
type gateway struct {
	binary, folder string
	env            []string
	process        *exec.Cmd
	ended          chan error
	before         []string // what the host had before: links, tables, pins
}

// newGateway prepares. Its pins and devices have names of their own, so that it
// never takes over what another gateway left; the engine's socket and
// namespaces are named only where they are not at their default places.
func newGateway(binary string) (*gateway, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "gatehouse-demo")
	if err != nil {
		return nil, err
	}
	return &gateway{binary: binary, folder: folder, env: append(os.Environ(),
		"GATEHOUSE_STATE="+filepath.Join(folder, "state"), "GATEHOUSE_PINS="+pins, "GATEHOUSE_DEVICES=ghdemo")}, nil
}

// useEngine names the engine that the stage is on.
func (g *gateway) useEngine(s *stage) {
	if socket, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		g.env = append(g.env, "GATEHOUSE_DOCKER="+socket, "GATEHOUSE_NETNS="+filepath.Dir(s.containers["shop/app"].netns))
	}
}

// alone fails where another gateway guards this host; what a demo that was
// killed left in the kernel is removed.
func (g *gateway) alone(ctx context.Context) error {
	if _, err := os.Stat(otherPins); err == nil {
		return fmt.Errorf("%s is there: a gateway guards this host, or did; stop it and run gatehouse uninstall first", otherPins)
	}
	if _, err := os.Stat(pins); err != nil {
		return nil
	}
	_, err := g.run(ctx, "uninstall")
	return err
}

func (g *gateway) socket() string { return filepath.Join(g.folder, "gatehouse.sock") }
func (g *gateway) log() string    { return filepath.Join(g.folder, "gatehouse.log") }

// start runs the gateway and waits until it guards every endpoint.
func (g *gateway) start(ctx context.Context) error {
	if g.before == nil {
		g.before = hostState(ctx)
	}
	log, err := os.OpenFile(g.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(g.binary, "run", "--socket", g.socket())
	cmd.Env, cmd.Stdout, cmd.Stderr = g.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	g.process, g.ended = cmd, make(chan error, 1)
	go func() { g.ended <- cmd.Wait() }()
	for {
		waiting, err := g.ready(ctx)
		if err == nil && waiting == "" {
			break
		}
		select {
		case err := <-g.ended:
			g.process = nil
			return fmt.Errorf("gatehouse run ended: %w\n%s", err, g.lastLog())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
		if time.Since(began) > readyPatience {
			return fmt.Errorf("gatehouse is not ready after %v: %s %w\n%s", readyPatience, waiting, err, g.lastLog())
		}
	}
	fmt.Printf("  gatehouse run: ready in %d ms\n", time.Since(began).Milliseconds())
	return nil
}

// drops are the gateway's counters of dropped packets, by reason.
func (g *gateway) drops(ctx context.Context) (map[string]uint64, error) {
	var status struct {
		Drops map[string]uint64 `json:"drops"`
	}
	err := g.ask(ctx, &status, "status")
	return status.Drops, err
}

// ready says what the gateway still waits for, "" for nothing.
func (g *gateway) ready(ctx context.Context) (string, error) {
	var status struct {
		Ready     bool     `json:"ready"`
		Problems  []string `json:"problems"`
		Endpoints struct {
			Admitted, Waiting int
		} `json:"endpoints"`
	}
	if err := g.ask(ctx, &status, "status"); err != nil {
		return "", err
	}
	if !status.Ready || status.Endpoints.Waiting > 0 || status.Endpoints.Admitted == 0 {
		return fmt.Sprintf("%d endpoints guarded, %d waiting; %s", status.Endpoints.Admitted, status.Endpoints.Waiting, strings.Join(status.Problems, "; ")), nil
	}
	return "", nil
}

func (g *gateway) lastLog() string {
	data, _ := os.ReadFile(g.log())
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// run is one verb of the CLI. An exit code of 1 means that policy says no.
func (g *gateway) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, g.binary, append(args, "--socket", g.socket())...)
	cmd.Env = g.env
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 && complaint.Len() == 0 {
		err = nil
	}
	if err != nil {
		return "", fmt.Errorf("gatehouse %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return string(out), nil
}

func (g *gateway) ask(ctx context.Context, answer any, args ...string) error {
	out, err := g.run(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		return fmt.Errorf("gatehouse %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// tellStatements shows what the gateway wrote, and why.
func (g *gateway) tellStatements(ctx context.Context) error {
	var statements []struct {
		Text    []string `json:"text"`
		Pending string   `json:"pending"`
		Origin  []string `json:"origin"`
	}
	if err := g.ask(ctx, &statements, "get", "statements"); err != nil {
		return err
	}
	var rows [][]string
	for _, s := range statements {
		why := strings.Join(s.Origin, "; ")
		if s.Pending != "" {
			why += " [pending: " + s.Pending + "]"
		}
		for _, line := range s.Text {
			rows = append(rows, []string{line, "# " + why})
		}
	}
	columns(rows)
	if len(rows) == 0 {
		return errors.New("the gateway wrote no statement")
	}
	return nil
}

// violation is what the gateway says of a flow that policy did not allow.
type violation struct {
	ID       string    `json:"id"`
	Last     time.Time `json:"last"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	Dest     string    `json:"destination"`
	Proto    string    `json:"proto"`
	App      string    `json:"app"`
	Verdict  string    `json:"verdict"`
	Reason   string    `json:"reason"`
	Why      string    `json:"why"`
	Workload string    `json:"workload"`
}

func (g *gateway) violations(ctx context.Context) ([]violation, error) {
	var all []violation
	err := g.ask(ctx, &all, "get", "violations")
	return all, err
}

// violationOf is the record of an attempt. What the kernel drops before it is
// a flow (a forged source, a tag) may have no record, and is known from the
// counters; without a verdict there is neither.
func (g *gateway) violationOf(ctx context.Context, a *attempt, since time.Time, before map[string]uint64) (violation, error) {
	for until := time.Now().Add(violationPatience); ; {
		all, err := g.violations(ctx)
		if err != nil {
			return violation{}, err
		}
		for _, v := range all {
			if a.isOf(v) && v.Last.After(since.Add(-time.Second)) {
				return v, nil
			}
		}
		now, err := g.drops(ctx)
		if err != nil {
			return violation{}, err
		}
		for _, reason := range a.reasons {
			if a.frames && now[reason] > before[reason] {
				return violation{Verdict: "dropped", Reason: reason}, nil
			}
		}
		if time.Now().After(until) {
			return violation{}, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return violation{}, err
		}
	}
}

// isOf reports whether v was dropped at the intruder's own interface, for a
// reason that policy has for the attempt.
func (a *attempt) isOf(v violation) bool {
	by := v.From == a.from || v.Workload == a.from || v.Workload == a.inside
	return by && v.Verdict != "recorded" && slices.Contains(a.reasons, v.Reason)
}

// quiet checks that ordinary traffic of the stage, observed since then, left no
// violation.
func (g *gateway) quiet(ctx context.Context, s *stage, since time.Time, r *report) error {
	all, err := g.violations(ctx)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, v := range all {
		ours := s.containers[v.From] != nil || s.containers[v.To] != nil
		if ours && v.Last.After(since) {
			rows = append(rows, []string{v.From + " -> " + v.To, v.Proto + " " + v.Dest, v.App, v.Verdict, v.Reason})
		}
	}
	r.line(len(rows) == 0, "violations by ordinary traffic: %s", counted(len(rows), -1))
	columns(rows)
	return nil
}

// enforce switches the stage's own services, and nobody else's on this host.
func (g *gateway) enforce(ctx context.Context, s *stage) error {
	services := slices.Sorted(maps.Keys(s.containers))
	for _, service := range services {
		if _, err := g.run(ctx, "mode", service, "enforce", "--yes"); err != nil {
			return err
		}
	}
	fmt.Printf("  %s\n", strings.Join(services, ", "))
	return nil
}

// explain shows the gateway's own words on a violation.
func (g *gateway) explain(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	out, err := g.run(ctx, "explain", id)
	if err != nil {
		return err
	}
	fmt.Printf("  gatehouse explain %s\n", id)
	for line := range strings.Lines(out) {
		// The rest says what each model of the two would let through.
		if strings.HasPrefix(line, "models ") {
			break
		}
		fmt.Print("    ", line)
	}
	return nil
}

// kill ends the gateway without a chance to tidy up.
func (g *gateway) kill() error {
	if err := g.process.Process.Kill(); err != nil {
		return err
	}
	<-g.ended
	g.process = nil
	return nil
}

// stop ends it in order.
func (g *gateway) stop() error {
	if g.process == nil {
		return nil
	}
	process := g.process.Process
	g.process = nil
	if err := process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-g.ended:
		return err
	case <-time.After(stopPatience):
		process.Kill()
		<-g.ended
		return fmt.Errorf("gatehouse did not end within %v of SIGTERM", stopPatience)
	}
}

// uninstall also checks that the host is as it was.
func (g *gateway) uninstall(ctx context.Context, r *report) error {
	if err := g.stop(); err != nil {
		return fmt.Errorf("stop: %w\n%s", err, g.lastLog())
	}
	if _, err := g.run(ctx, "uninstall"); err != nil {
		return err
	}
	var left []string
	for _, thing := range hostState(ctx) {
		if !slices.Contains(g.before, thing) {
			left = append(left, thing)
		}
	}
	r.line(len(left) == 0, "left behind: %s", orNothing(strings.Join(left, ", ")))
	g.before = nil
	return nil
}

// hostState lists links (without the containers' own), tables and pins.
func hostState(ctx context.Context) []string {
	state := []string{}
	links, _ := command(ctx, "ip", "-o", "link", "show")
	for line := range strings.Lines(links) {
		if f := strings.Fields(line); len(f) > 1 && !strings.HasPrefix(f[1], "veth") {
			state = append(state, "link "+strings.TrimSuffix(f[1], ":"))
		}
	}
	tables, _ := command(ctx, "nft", "list", "tables")
	for line := range strings.Lines(tables) {
		state = append(state, strings.TrimSpace(line))
	}
	pins, _ := filepath.Glob("/sys/fs/bpf/gatehouse*")
	for _, p := range pins {
		state = append(state, "pin "+p)
	}
	return state
}

// remove takes away what a run that failed half-way left.
func (g *gateway) remove(ctx context.Context) error {
	var errs []error
	if g.before != nil {
		g.stop() // why it failed has been said
		_, err := g.run(ctx, "uninstall")
		errs = append(errs, err)
	}
	if keep := os.Getenv("DEMO_LOG"); keep != "" {
		errs = append(errs, copyFile(g.log(), keep))
	}
	return errors.Join(append(errs, os.RemoveAll(g.folder))...)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

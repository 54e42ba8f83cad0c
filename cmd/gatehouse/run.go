package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"gatehouse/control"
	"gatehouse/control/docker"
	"gatehouse/control/inventory"
	"gatehouse/dataplane"
	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/steer"
	"gatehouse/models"
	"gatehouse/policy"
)

func newRunCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway of this host. Needs root",
		Long: "Run guards the containers of this host until it is stopped. What it put in the kernel stays when it stops: decided\n" +
			"flows go on, new ones wait for the next run where a service enforces. `gatehouse uninstall` removes everything.\n\n" +
			"With --pair or --route it guards what passes between interfaces instead, by the operator's statements alone; nothing\n" +
			"passes there while it does not run. `gatehouse uninstall`, with the same flag, ends that.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := loadSettings(cmd, os.LookupEnv)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if os.Geteuid() != 0 {
				return fail(exitReach, "run needs root: it loads eBPF programs and enters network namespaces")
			}
			stop, err := startProfile(cmd)
			if err != nil {
				return err
			}
			defer stop()
			socket, _ := cmd.Flags().GetString("socket")
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			run := runGateway
			if set.isPlace() {
				run = runPlace
			}
			if err := run(cmd.Context(), set, socket, log); err != nil {
				if errors.As(err, new(*exitError)) {
					return err
				}
				return &exitError{exitReach, err}
			}
			return nil
		},
	}
	addSettingFlags(cmd.Flags())
	addProfileFlags(cmd)
	return cmd
}

// front is what a gateway has towards people, wherever it stands: state folder,
// files and API.
type front struct {
	in       inputs
	api      *server
	listener net.Listener
}

func openFront(set Settings, socket string, log *slog.Logger) (*front, error) {
	if err := os.MkdirAll(set.State, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	in, err := openInputs(set, log)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	f := &front{in: in, api: &server{log: log}}
	if f.listener, err = f.api.listen(socket); err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	return f, nil
}

// run starts in g what a gateway runs wherever it stands.
func (f *front) run(ctx context.Context, g *errgroup.Group, set Settings, gw *gateway) {
	g.Go(func() error { return gw.dataplane.Run(ctx) })
	g.Go(func() error { gw.recorder.run(ctx); return nil })
	g.Go(func() error { f.in.files.Run(ctx, gw.applyRules); return nil })
	g.Go(func() error { f.in.records.Run(ctx); return nil })
	g.Go(func() error { return f.api.serve(ctx, f.listener) })
	g.Go(func() error { return serveProbes(ctx, set.Metrics, gw) })
}

// runGateway wires the parts and runs them until ctx ends.
func runGateway(ctx context.Context, set Settings, socket string, log *slog.Logger) (err error) {
	boundHeap()
	f, err := openFront(set, socket, log)
	if err != nil {
		return err
	}
	defer f.listener.Close()
	set.settleIO(log)
	kernel, err := steer.Open(steerConfig(set))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kernel.Close()) }()
	gw, inv, err := newGateway(set, f.in, kernel, log)
	if err != nil {
		return err
	}
	f.api.gw = gw

	g, ctx := errgroup.WithContext(ctx)
	f.run(ctx, g, set, gw)
	hints := make(chan struct{}, 1)
	g.Go(func() error { gw.names.keep(ctx); return nil })
	g.Go(func() error { return ignoreCancel(kernel.Watch(ctx, hints)) })
	g.Go(func() error { gw.guard.logReports(ctx, kernel.Reports()); return nil })
	g.Go(func() error { return gw.watcher.Run(ctx) })
	g.Go(func() error {
		gw.firstState(ctx, inv)
		debug.FreeOSMemory() // what reading models and the first compile took
		g.Go(func() error { gw.guard.follow(ctx, hints, gw.control.State); return nil })
		gw.control.Run(ctx)
		return nil
	})
	log.Info("running", "version", buildVersion(), "docker", set.Docker, "socket", socket, "mode", set.Mode)
	if set.defaultMode() == policy.Observe {
		log.Warn("services that nobody set to enforce are observed: what policy does not allow is recorded, not dropped; gatehouse mode SERVICE enforce drops it")
	}
	return g.Wait()
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func steerConfig(set Settings) steer.Config {
	attach, _ := steer.ParseAttach(set.Attach) // checked by Settings.check
	return steer.Config{
		PinDir: set.Pins, Prefix: set.Devices, NetNSDir: set.NetNS, FlowEntries: uint32(set.Flows),
		Attach: attach, TAP: set.IO == "tap", Queues: set.Workers, MissBudget: uint32(set.Misses),
	}
}

// settleIO makes of auto what the kernel has.
func (s *Settings) settleIO(log *slog.Logger) {
	if s.IO != "auto" {
		return
	}
	s.IO = "afxdp"
	if err := afxdp.Available(); err != nil {
		s.IO = "tap"
		log.Warn("undecided packets go through a TAP, at two thirds of the rate", "error", err)
	}
}

// inputs is what people say to the gateway: by files, by verbs before the last
// restart, by systems of record.
type inputs struct {
	files   *control.FileWatch
	rules   *control.Rules // as the files say at the start
	modes   *control.Modes
	holds   *control.Holds
	records *control.RecordStore
}

func openInputs(set Settings, log *slog.Logger) (in inputs, err error) {
	kept := func(name string) string { return filepath.Join(set.State, name) }
	in.files, in.rules, err = control.OpenFiles(control.Files{
		Models: set.ModelDir, Statements: set.Statements, Categories: set.Categories, LastGood: kept("files.json"),
	}, log)
	if err != nil {
		return in, err
	}
	if in.modes, err = control.OpenModes(kept("modes.json")); err != nil {
		return in, err
	}
	in.holds, err = control.OpenHolds(kept("holds.json"))
	in.records = control.NewRecordStore(set.State, log)
	return in, err
}

// applyRules puts what the operator's files say in force.
func (g *gateway) applyRules(r *control.Rules) error {
	if err := g.control.SetRules(r); err != nil {
		return err
	}
	if g.place != nil {
		return nil
	}
	g.watcher.Keep(r.Library.EnvKeys(), r.Library.ArgKeys(), r.Library.CommandWords())
	return nil
}

// own are the addresses by which the gateway itself works, beside Unix sockets.
func (g *gateway) own() map[string]netip.AddrPort {
	out := map[string]netip.AddrPort{}
	for name, at := range g.inputs.records.Remotes() {
		out["the system of record "+name] = at
	}
	if host, ok := strings.CutPrefix(dockerHost(g.settings.Docker), "tcp://"); ok {
		if at, err := netip.ParseAddrPort(host); err == nil {
			out["Docker"] = at
		}
	}
	return out
}

// newGateway builds what takes its cue from the kernel's side.
func newGateway(set Settings, in inputs, kernel *steer.Steer, log *slog.Logger) (*gateway, *inventory.Inventory, error) {
	epoch, err := kernel.Epoch()
	if err != nil {
		return nil, nil, err
	}
	inv, library := inventory.New(), in.rules.Library
	watcher, err := docker.New(docker.Config{
		Host: dockerHost(set.Docker), NetNSDir: set.NetNS, Manager: set.SwarmManager, ManagerTLS: set.SwarmTLS,
		KeepEnv: library.EnvKeys(), KeepArgs: library.ArgKeys(), KeepWords: library.CommandWords(),
		ZoneFile: filepath.Join(set.State, "zones.json"), Logger: log,
	}, inv)
	if err != nil {
		return nil, nil, err
	}
	known, err := openNames(set, log)
	if err != nil {
		return nil, nil, err
	}
	gw := &gateway{settings: set, names: known, inputs: in, watcher: watcher, steer: kernel, recorder: newRecorder(set, log), started: time.Now()}
	plane, err := dataplane.New(dataplane.Config{
		Workers: set.Workers, FlowMap: kernel.Flows(), Logger: log,
		Beat:       func(queue int, now int64) { _ = kernel.Beat(queue, now) }, // fails only after Close
		PortFailed: func(space, queue int, err error) { gw.guard.slowPathLost(space, err) },
		WatchEvery: watchEvery,
		Ended:      gw.recorder.ended,
		Names:      known.Names,
		Violated:   gw.recorder.violated,
		RejectOwn:  set.Refusal == "reject",

		RefusedAbsent: set.RefusalLookups == "nxdomain",
	})
	if err != nil {
		return nil, nil, err
	}
	gw.dataplane, gw.recorder.plane = plane, plane
	gw.guard = newGuard(kernel, plane, set, watcher, log)
	gw.control = control.New(control.Config{
		Inventory: inv, Rules: in.rules, Modes: in.modes, Holds: in.holds, Records: in.records, Own: gw.own, Log: log,
		Settings: modelSettings(set), Compile: compileSettings(set, epoch),
		Publish: func(s *control.State) {
			gw.recorder.names.follow(s)
			gw.guard.publish(s)
		},
	})
	return gw, inv, nil
}

// watchEvery: what is spoken where policy does not ask is looked at once a
// minute for each pair and port, as the history has a record a minute.
const watchEvery = time.Minute

func dockerHost(s string) string {
	if strings.Contains(s, "://") {
		return s
	}
	return "unix://" + s
}

func modelSettings(set Settings) models.Settings {
	out := models.Settings{
		DefaultMode: set.defaultMode(), ModeFloorEnforce: set.Floor == "enforce", EnrollNone: set.Enroll == "none",
		Trust: models.TrustSettings{Digests: set.TrustDigests, LocalFull: set.TrustLocal == "full"},
	}
	for _, r := range set.TrustRegistries {
		prefix, as, _ := strings.Cut(r, "=")
		out.Trust.Registries = append(out.Trust.Registries, models.Registry{Prefix: withSlash(prefix), As: withSlash(as)})
	}
	return out
}

func withSlash(prefix string) string {
	if prefix == "" || strings.HasSuffix(prefix, "/") {
		return prefix
	}
	return prefix + "/"
}

// compileSettings carries on with the kernel's epoch: it never goes back.
func compileSettings(set Settings, epoch uint32) policy.Input {
	in := policy.Input{Epoch: epoch, Transit: set.isPlace(), TransitMode: set.defaultMode(), MemoryBudget: set.PolicyMemory << 20}
	for _, p := range set.Site {
		in.ExtraSite = append(in.ExtraSite, netip.MustParsePrefix(p)) // checked by Settings.check
	}
	for _, p := range set.NamesPrivate {
		in.PrivateNames = append(in.PrivateNames, netip.MustParsePrefix(p))
	}
	for _, a := range set.Metadata {
		in.ExtraMetadata = append(in.ExtraMetadata, netip.MustParseAddr(a))
	}
	return in
}

// firstState publishes once Docker has answered whole, and takes over the flows
// that an earlier gateway left in the kernel. Until then nothing changes there.
func (g *gateway) firstState(ctx context.Context, inv *inventory.Inventory) {
	for !g.watcher.Status().Synced {
		select {
		case <-ctx.Done():
			return
		case <-inv.Changed():
		case <-time.After(20 * time.Millisecond):
		}
	}
	_ = g.control.Refresh() // a fault is shown by status; the next change tries again
}

// logReports logs what the kernel's side had to mend.
func (g *guard) logReports(ctx context.Context, reports <-chan steer.Report) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-reports:
			if r.Err != nil {
				g.log.Error(r.Text, "netns", r.NetNS, "error", r.Err)
			} else {
				g.log.Warn(r.Text+"; put back", "netns", r.NetNS)
			}
		}
	}
}

func serveProbes(ctx context.Context, address string, gw *gateway) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("metrics: %w (--metrics names another loopback address, or none)", err)
	}
	return serveHTTP(ctx, l, probes(gw))
}

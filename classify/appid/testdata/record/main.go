// Command record makes the captures in ../captures: for each scenario a server
// and a client in network namespaces of their own speak over a veth pair, and
// the first packets of each of their flows are kept. It needs root and the
// Debian packages that versions names.
//
//	go run . [SCENARIO...]
//
// serve and call are what it starts itself inside the namespaces.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The two ends, and where clients find the server.
const (
	serverNS, clientNS = "record-server", "record-client"
	serverIP, clientIP = "198.51.100.2", "198.51.100.1"
	device             = "eth0"
)

// scenario is one capture.
type scenario struct {
	name   string
	labels []label
	// ports must be open before the client begins.
	ports []int
	// serve runs until ctx ends; dir is empty and its own. call speaks once.
	serve func(ctx context.Context, dir string) error
	call  func(ctx context.Context) error
	// made are the modules and Debian packages on both sides.
	made []string
	note string
}

// label is what replay must say of the flows to a port.
type label struct {
	proto    string
	port     int
	app, sub string
}

func scenarios() []scenario {
	return slices.Concat(coordination(), brokers(), stores(), apis(), logs())
}

func main() {
	log.SetFlags(0)
	args := os.Args[1:]
	var err error
	switch {
	case len(args) == 2 && (args[0] == "serve" || args[0] == "call"):
		err = inside(args[0], args[1])
	default:
		err = record(args)
	}
	if err != nil {
		log.Fatal("record: ", err)
	}
}

func inside(what, name string) error {
	for _, s := range scenarios() {
		if s.name != name {
			continue
		}
		if what == "call" {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			return s.call(ctx)
		}
		return s.serve(context.Background(), os.Getenv("RECORD_DIR"))
	}
	return fmt.Errorf("no scenario %q", name)
}

func record(names []string) error {
	if err := namespaces(); err != nil {
		return err
	}
	defer func() { _ = run("ip", "netns", "del", serverNS); _ = run("ip", "netns", "del", clientNS) }()
	var errs []error
	for _, s := range scenarios() {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		if err := s.record(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		log.Print(s.name)
	}
	return errors.Join(append(errs, writeLabels())...)
}

const out = "../captures"

func run(name string, args ...string) error {
	if text, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return nil
}

func namespaces() error {
	_ = run("ip", "netns", "del", serverNS)
	_ = run("ip", "netns", "del", clientNS)
	for _, c := range []string{
		"netns add " + serverNS, "netns add " + clientNS,
		"-n " + serverNS + " link add " + device + " type veth peer name " + device + " netns " + clientNS,
		"-n " + serverNS + " addr add " + serverIP + "/24 dev " + device, "-n " + clientNS + " addr add " + clientIP + "/24 dev " + device,
		"-n " + serverNS + " link set " + device + " up gso_max_segs 1", "-n " + clientNS + " link set " + device + " up gso_max_segs 1",
		"-n " + serverNS + " link set lo up", "-n " + clientNS + " link set lo up",
	} {
		if err := run("ip", strings.Fields(c)...); err != nil {
			return err
		}
	}
	return nil
}

// command is this program inside a namespace.
func command(ns, what, name string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Not ip netns exec, which mounts /sys anew: dockerd needs its cgroups.
	c := exec.Command("nsenter", "--net=/run/netns/"+ns, self, what, name)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	return c, nil
}

func (s *scenario) record() (err error) {
	dir, err := os.MkdirTemp("", "record")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := command(serverNS, "serve", s.name)
	if err != nil {
		return err
	}
	server.Env = append(os.Environ(), "RECORD_DIR="+dir, "HOME="+dir)
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { // all that it started, daemons too
		text, _ := exec.Command("ip", "netns", "pids", serverNS).Output()
		for id := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(id); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		_ = server.Wait()
	}()
	for _, port := range s.ports {
		if err := s.await(port); err != nil {
			return err
		}
	}
	time.Sleep(300 * time.Millisecond)
	tap, err := openTap()
	if err != nil {
		return err
	}
	client, err := command(clientNS, "call", s.name)
	if err != nil {
		return err
	}
	err = client.Run()
	time.Sleep(200 * time.Millisecond)
	packets := tap.close()
	if err != nil {
		return err
	}
	return s.write(filepath.Join(out, s.name+".pcap"), packets)
}

// await waits for a listener inside the server's namespace.
func (s *scenario) await(port int) error {
	what := fmt.Sprintf(":%04X ", port)
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		text, err := exec.Command("ip", "netns", "exec", serverNS, "cat", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6").Output()
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[1]+" ", what) && (f[3] == "0A" || f[3] == "07") {
				return nil
			}
		}
	}
	return fmt.Errorf("port %d does not open", port)
}

// writeLabels writes what is expected of every capture that there is, and how it
// was made.
func writeLabels() error {
	page := "# Written by ../record. Flows are found by the server's port. sub is empty where nothing runs on top that has a name.\n" +
		"file\tproto\tport\tapp\tsub\tmade\n"
	for _, s := range scenarios() {
		if _, err := os.Stat(filepath.Join(out, s.name+".pcap")); err != nil {
			continue
		}
		for _, l := range s.labels {
			page += fmt.Sprintf("%s.pcap\t%s\t%d\t%s\t%s\t%s\n", s.name, l.proto, l.port, l.app, l.sub, strings.Join(versions(s.made, s.note), "; "))
		}
	}
	return os.WriteFile(filepath.Join(out, "labels.tsv"), []byte(page), 0o644)
}

// versions adds the version to each name of a module or a Debian package.
func versions(made []string, note string) (out []string) {
	info, _ := debug.ReadBuildInfo()
	for _, name := range made {
		version := ""
		for _, d := range info.Deps {
			if d.Path == name {
				version = d.Version
			}
		}
		if version == "" {
			if text, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output(); err == nil {
				version = string(text)
			}
		}
		out = append(out, strings.TrimSpace(name+" "+version))
	}
	if note != "" {
		out = append(out, note)
	}
	return out
}

// execute runs a server program until ctx ends.
func execute(ctx context.Context, dir string, env []string, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	return c.Run()
}

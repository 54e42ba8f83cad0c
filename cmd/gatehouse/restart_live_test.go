package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// pair is a project of two: a client that refers to its server. Policy lets the
// one call the other at 8000, and nothing else.
type pair struct {
	network        string
	server, client *container
}

func makePair(t *testing.T, project string, labels ...string) *pair {
	t.Helper()
	p := &pair{network: makeNetwork(t, project+"_default", ofProject(project)...)}
	p.server = perform(t, play{project: project, service: "server", network: p.network, labels: labels})
	p.client = perform(t, play{project: project, service: "client", network: p.network, labels: labels,
		env: []string{"SERVER_HOST=server", "SERVER_PORT=8000"}})
	echo(t, p.server, 8000)
	return p
}

func (p *pair) at(family, n int) netip.AddrPort { return port(p.server.leg().at(family), n) }

// call is a new conversation that policy allows.
func (p *pair) call(family int, patience time.Duration) error {
	return says(p.client, p.at(family, 8000), "hello", patience)
}

// forbidden is true of what the client sends to the server besides.
func (p *pair) forbidden(f seen) bool {
	return towards(p.server.leg().v4, 9000)(f) || towards(p.server.leg().v6, 9000)(f)
}

// trespass tries what policy forbids, in both families.
func (p *pair) trespass(t *testing.T) {
	t.Helper()
	var wait sync.WaitGroup
	for _, family := range []int{4, 6} {
		wait.Go(func() {
			if conn, err := dial(p.client.netns, "udp", p.at(family, 9000).String(), time.Second); err == nil {
				_, _ = conn.Write([]byte("leak"))
				conn.Close()
			}
			if conn, err := dial(p.client.netns, "tcp", p.at(family, 9000).String(), 300*time.Millisecond); err == nil {
				t.Errorf("a connection to %v", p.at(family, 9000))
				conn.Close()
			}
		})
	}
	wait.Wait()
}

// stream sends numbers without a pause to the pair's echo server and checks
// that they all come back, in order.
type stream struct {
	count  atomic.Uint64
	failed atomic.Pointer[error]
	ended  sync.WaitGroup
	conn   net.Conn
}

func startStream(t *testing.T, p *pair, family int) *stream {
	t.Helper()
	conn, err := dial(p.client.netns, "tcp", p.at(family, 8000).String(), livePatience)
	if err != nil {
		t.Fatalf("stream over IPv%d: %v", family, err)
	}
	s := &stream{conn: conn}
	go s.send()
	s.ended.Go(func() { s.receive() })
	t.Cleanup(func() { conn.Close(); s.ended.Wait() })
	return s
}

func (s *stream) send() {
	block := make([]byte, 32<<10)
	for next := uint64(0); ; {
		for i := 0; i < len(block); i += 8 {
			binary.BigEndian.PutUint64(block[i:], next)
			next++
		}
		if _, err := s.conn.Write(block); err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.fail(fmt.Errorf("send: %w", err))
			}
			return
		}
		time.Sleep(100 * time.Microsecond) // leave the witnesses some time
	}
}

func (s *stream) receive() {
	block := make([]byte, 32<<10)
	for want := uint64(0); ; {
		if _, err := io.ReadFull(s.conn, block); err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.fail(fmt.Errorf("receive: %w", err))
			}
			return
		}
		for i := 0; i < len(block); i += 8 {
			if got := binary.BigEndian.Uint64(block[i:]); got != want {
				s.fail(fmt.Errorf("%d in place of %d", got, want))
				return
			}
			want++
		}
		s.count.Store(want)
	}
}

func (s *stream) fail(err error) { s.failed.CompareAndSwap(nil, &err) }

// flowing waits until each stream has moved on, and fails if it broke.
func flowing(t *testing.T, when string, streams ...*stream) {
	t.Helper()
	for i, s := range streams {
		before := s.count.Load()
		eventually(t, fmt.Sprintf("stream %d goes on %s", i, when), func() bool {
			if err := s.failed.Load(); err != nil {
				t.Fatalf("stream %d %s: %v", i, when, *err)
			}
			return s.count.Load() > before+100_000
		}, nil)
	}
}

const beatStale = 400 * time.Millisecond // after which the kernel's programs know that nobody decides

// TestKillAndRestart holds threat 21: the gateway's death opens nothing and ends
// nothing that lives.
func TestKillAndRestart(t *testing.T) {
	gw := startGateway(t)
	closed, open := makePair(t, "ghe-closed", "gatehouse.mode=enforce"), makePair(t, "ghe-open", "gatehouse.mode=observe")
	gw.admitted(closed.server, closed.client, open.server, open.client)
	streams := []*stream{startStream(t, closed, 4), startStream(t, closed, 6)}
	flowing(t, "at first", streams...)

	w := watch(t, closed.server.netns, closed.forbidden)
	gw.kill()
	time.Sleep(beatStale)
	flowing(t, "without a gateway", streams...)
	closed.trespass(t)
	for _, family := range []int{4, 6} {
		if err := open.call(family, livePatience); err != nil {
			t.Errorf("a new conversation of services that are observed, over IPv%d: %v", family, err)
		}
		if closed.call(family, 500*time.Millisecond) == nil {
			t.Errorf("a new conversation of services that enforce, with nobody to decide, over IPv%d", family)
		}
	}
	flowing(t, "still", streams...)

	gw.start()
	flowing(t, "after the restart", streams...)
	for _, family := range []int{4, 6} {
		if err := closed.call(family, livePatience); err != nil {
			t.Errorf("a new conversation after the restart, over IPv%d: %v", family, err)
		}
		if err := open.call(family, livePatience); err != nil {
			t.Errorf("observed, after the restart, over IPv%d: %v", family, err)
		}
	}
	closed.trespass(t)

	// Stopped, not dead: what waits is not delivered late.
	process := gw.child.cmd.Process
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(beatStale)
	closed.trespass(t)
	flowing(t, "while the gateway is stopped", streams...)
	if err := process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := closed.call(4, livePatience); err != nil {
		t.Errorf("after SIGCONT: %v", err)
	}
	flowing(t, "in the end", streams...)
	w.none("a forbidden conversation")
	if v := gw.violation("what nobody decided", func(v ViolationView) bool { return v.Reason == "gateway-down" && v.From == "ghe-closed/client" }); v.Direction != "egress" {
		t.Errorf("what nobody decided: %+v", v)
	}
	var vs []ViolationView
	gw.mustGet("/v1/violations", &vs)
	for _, v := range vs {
		if strings.HasSuffix(v.Dest, ":8000") && strings.Contains(v.From, "ghe-closed") {
			t.Errorf("an allowed conversation is a violation:\n%s", violationLines([]ViolationView{v}))
		}
	}
}

func TestModeDurable(t *testing.T) {
	r := live(t)
	dir := filepath.Dir(r.binary)
	const baked = "ghe/baked:1"
	if err := importImage(dir, baked, "EXPOSE 8000", "CMD [\"/probe\",\"idle\"]", "LABEL gatehouse.mode=enforce"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = command("docker", "rmi", baked) })
	network := makeNetwork(t, "ghe-mode_default", ofProject("ghe-mode")...)
	all := []*container{
		perform(t, play{project: "ghe-mode", service: "plain", network: network}),
		perform(t, play{project: "ghe-mode", service: "labelled", network: network, labels: []string{"gatehouse.mode=enforce"}}),
		perform(t, play{project: "ghe-mode", service: "loose", network: network, labels: []string{"gatehouse.mode=observe"}}),
		perform(t, play{project: "ghe-mode", service: "baked", network: network, image: baked}),
	}
	gw := startGateway(t)
	gw.admitted(all...)
	modes := func(want ...string) {
		t.Helper()
		for i, c := range all {
			w, ok := gw.workload(c.name)
			if !ok || w.Mode.String() != want[i] {
				t.Errorf("%s: mode %s, want %s", c.name, w.Mode, want[i])
			}
		}
	}
	modes("observe", "enforce", "observe", "enforce") // what an image bakes may tighten
	if !slices.ContainsFunc(gw.status().Findings, func(f Finding) bool {
		return strings.Contains(f.Subject, "ghe-mode/baked") && strings.Contains(f.Text, "gatehouse.mode")
	}) {
		t.Errorf("no finding names the label that the image baked: %+v", gw.status().Findings)
	}
	gw.enforce("ghe-mode/plain", "ghe-mode/loose")
	modes("enforce", "enforce", "enforce", "enforce")
	gw.kill()
	gw.start()
	modes("enforce", "enforce", "enforce", "enforce")

	if err := gw.stop(); err != nil {
		t.Fatal(err)
	}
	file := gw.file("state/modes.json")
	for _, bad := range []string{"{", `{"ghe-mode/plain": "off"}`, `["x"]`} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		gw.launch()
		select {
		case err := <-gw.child.ended:
			gw.child.cmd = nil
			if err == nil || !strings.Contains(gw.log(), file) {
				t.Errorf("%s: %v, and the log does not name %s\n%s", bad, err, file, gw.log())
			}
		case <-time.After(livePatience):
			t.Fatalf("%s: the gateway runs on", bad)
		}
	}
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	gw.args = append(gw.args, "--mode", "enforce", "--mode-floor", "enforce", "--enroll", "all")
	// With the default to enforce every container of the machine would be: only ours.
	if others(t, all) {
		t.Log("other containers run here: the floor is left to the unit tests")
		return
	}
	gw.start()
	modes("enforce", "enforce", "enforce", "enforce")
}

// others reports containers that are not this test's.
func others(t *testing.T, ours []*container) bool {
	return len(strings.Fields(mustRun(t, "docker", "ps", "-q"))) > len(ours)
}

// TestNftFlush holds that the standing default comes back, and that the second
// layer holds meanwhile.
func TestNftFlush(t *testing.T) {
	s := newSiege(t)
	w := s.besieged()
	table := "gatehouse-" + livePrefix
	for range 3 {
		mustRun(t, "nft", "delete", "table", "bridge", table)
		s.lay([]newcomer{s.stranger(), s.stranger()})
		s.gw.eventually("the table is back", func() bool {
			_, err := command("nft", "list", "table", "bridge", table)
			return err == nil
		}, s.gw.log)
	}
	w.none("a first act while the standing default was gone")
	s.gw.eventually("the log says so", func() bool { return strings.Contains(s.gw.log(), "put back") }, s.gw.log)
	s.lay([]newcomer{s.caller()})
	s.gw.eventually("a caller is let in", func() bool { return len(s.arrivals.sorted()) == 1 }, s.gw.log)
}

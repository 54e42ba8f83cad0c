package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

const (
	callers   = 10 // containers whose first act is allowed
	leakBatch = 8  // starts at a time
	leakLife  = 1500 * time.Millisecond

	callersNet = "10.213.77." // where callers are, for the witness
)

// leakers is how many containers there are whose first act is forbidden: 80, or with
// GATEHOUSE_TEST_CASES, which asks for a long run, 200.
func leakers() int {
	if os.Getenv("GATEHOUSE_TEST_CASES") != "" {
		return 200
	}
	return 80
}

// engine speaks the engine's API: hundreds of processes of the docker command
// would be most of the test's work.
type engine struct{ http http.Client }

func newEngine(socket string) *engine {
	e := &engine{}
	e.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	return e
}

func (e *engine) ask(method, path string, body, answer any) error {
	var data bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&data).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequest(method, "http://docker/v1.41/containers/"+path, &data)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	reply, err := e.http.Do(req)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode/100 != 2 {
		text, _ := io.ReadAll(reply.Body)
		return fmt.Errorf("%s %s: %s: %s", method, path, reply.Status, text)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(reply.Body).Decode(answer)
}

// newcomer is a container whose first act is the test.
type newcomer struct {
	name        string
	labels, env []string
	command     []string
	ip          string // "" = any
}

func (e *engine) start(n newcomer, network string) (id string, err error) {
	labels := map[string]string{}
	for _, l := range append([]string{liveLabel}, n.labels...) {
		k, v, _ := strings.Cut(l, "=")
		labels[k] = v
	}
	endpoint := map[string]any{}
	if n.ip != "" {
		endpoint["IPAMConfig"] = map[string]any{"IPv4Address": n.ip}
	}
	var made struct {
		ID string `json:"Id"`
	}
	err = e.ask(http.MethodPost, "create?name="+n.name, map[string]any{
		"Image": probeImage, "Cmd": append([]string{"/probe"}, n.command...), "Labels": labels, "Env": n.env,
		"HostConfig":       map[string]any{"NetworkMode": network},
		"NetworkingConfig": map[string]any{"EndpointsConfig": map[string]any{network: endpoint}},
	}, &made)
	if err != nil {
		return "", err
	}
	return made.ID, e.ask(http.MethodPost, made.ID+"/start", nil, nil)
}

func (e *engine) remove(id string) { _ = e.ask(http.MethodDelete, id+"?force=true", nil, nil) }

// arrivals is a server that notes how long each caller's first connection took.
type arrivals struct {
	mu    sync.Mutex
	after []time.Duration
}

func (a *arrivals) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(livePatience))
			text := make([]byte, 64)
			n, _ := conn.Read(text)
			if began, err := strconv.ParseInt(strings.TrimSpace(string(text[:n])), 10, 64); err == nil {
				a.mu.Lock()
				a.after = append(a.after, time.Since(time.Unix(0, began)))
				a.mu.Unlock()
			}
		}()
	}
}

func (a *arrivals) sorted() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := slices.Clone(a.after)
	slices.Sort(got)
	return got
}

// siege is an enforcing network with one server, to which callers of its
// project may connect and strangers may not.
type siege struct {
	t        *testing.T
	gw       *process
	engine   *engine
	network  string
	server   *container
	arrivals arrivals
	number   int
}

func newSiege(t *testing.T) *siege {
	r := live(t)
	s := &siege{t: t, engine: newEngine(r.docker)}
	s.network = makeNetwork(t, "ghe-siege_default", append(ofProject("ghe-siege"), "--subnet", "10.213.0.0/16")...)
	s.server = perform(t, play{project: "ghe-siege", service: "server", network: s.network, labels: []string{"gatehouse.mode=enforce"}})
	w := s.besieged()
	s.lay([]newcomer{s.stranger()})
	if len(w.close()) == 0 {
		t.Fatal("without a gateway the witness sees nothing: it would prove nothing")
	}
	s.gw = startGateway(t)
	s.gw.admitted(s.server)
	s.gw.eventually("the network is closed", func() bool { return len(s.gw.status().Closed) > 0 }, s.gw.log)
	go s.arrivals.serve(listen(t, s.server.netns, "tcp", ":8000"))
	return s
}

// stranger tries the port that its own project may use, by TCP and UDP in both
// families; every other one is enforced itself.
func (s *siege) stranger() newcomer {
	s.number++
	n := newcomer{name: fmt.Sprintf("ghe-stranger-%d", s.number),
		command: []string{"first", "1", port(s.server.leg().v4, 8000).String(), port(s.server.leg().v6, 8000).String()}}
	if s.number%2 == 0 {
		n.labels = []string{"gatehouse.mode=enforce"}
	}
	return n
}

func (s *siege) caller() newcomer {
	s.number++ // below 256: the number is part of the address
	return newcomer{name: fmt.Sprintf("ghe-caller-%d", s.number), ip: fmt.Sprint(callersNet, s.number), labels: append(composeLabels("ghe-siege", "caller"), "gatehouse.mode=enforce"),
		env: []string{"SERVER_HOST=server", "SERVER_PORT=8000"}, command: []string{"call", port(s.server.leg().v4, 8000).String()}}
}

// lay starts them, a few at a time. Strangers are removed when they have had
// their time, callers when the test ends.
func (s *siege) lay(all []newcomer) {
	s.t.Helper()
	var wait sync.WaitGroup
	starts := make(chan struct{}, leakBatch)
	var lives sync.WaitGroup
	for _, n := range all {
		starts <- struct{}{}
		wait.Go(func() {
			id, err := s.engine.start(n, s.network)
			<-starts
			if id != "" {
				s.t.Cleanup(func() { s.engine.remove(id) })
			}
			if err != nil {
				s.t.Error(err)
				return
			}
			if n.command[0] == "first" {
				lives.Go(func() { time.Sleep(leakLife); s.engine.remove(id) })
			}
		})
	}
	wait.Wait()
	lives.Wait()
}

// besieged starts a witness of everything that comes to the server from
// strangers. Neighbour discovery is not it: an admitted stranger may ask.
func (s *siege) besieged() *witness {
	leg := s.server.leg()
	return watch(s.t, s.server.netns, func(f seen) bool {
		src, dst := f.ends()
		if dst != leg.v4 && dst != leg.v6 {
			return false
		}
		for _, ask := range []gopacket.LayerType{layers.LayerTypeICMPv6NeighborSolicitation, layers.LayerTypeICMPv6NeighborAdvertisement} {
			if f.packet.Layer(ask) != nil {
				return false
			}
		}
		return f.tcp() == nil || !strings.HasPrefix(src.String(), callersNet)
	})
}

// TestStartLeak holds that a container sends nothing that policy forbids, from
// its first act on, whether or not a gateway runs.
func TestStartLeak(t *testing.T) {
	s := newSiege(t)
	w := s.besieged()
	var all []newcomer
	each := leakers() / callers
	for i := range leakers() {
		all = append(all, s.stranger())
		if i%each == each/2 {
			all = append(all, s.caller())
		}
	}
	began := time.Now()
	s.lay(all)
	s.gw.eventually("all callers are let in", func() bool { return len(s.arrivals.sorted()) == callers }, func() string {
		return fmt.Sprintf("%d of %d\n%s", len(s.arrivals.sorted()), callers, s.gw.log())
	})
	w.none("a forbidden first act")
	after := s.arrivals.sorted()
	t.Logf("%d containers in %v; an allowed first connection took %v, median %v, at most %v",
		len(all), time.Since(began).Round(time.Second), after[0], after[len(after)/2], after[len(after)-1])
	t.Run("GatewayDead", func(t *testing.T) { s.withoutGateway(t) })
}

// withoutGateway holds the standing default: nobody decides, nobody gets in.
// A new gateway lets in whom policy allows.
func (s *siege) withoutGateway(t *testing.T) {
	s.t, s.gw = t, s.gw.as(t)
	s.gw.kill()
	w := s.besieged()
	caller := s.caller()
	all := []newcomer{caller}
	for range leakers() / 5 {
		all = append(all, s.stranger())
	}
	s.lay(all)
	w.none("a first act while no gateway runs")
	if n := len(s.arrivals.sorted()); n != callers {
		t.Errorf("%d connections of a caller that nobody admitted", n-callers)
	}
	s.gw.start()
	s.gw.eventually("the caller that waited is let in", func() bool { return len(s.arrivals.sorted()) == callers+1 }, s.gw.log)
	w = s.besieged()
	s.lay([]newcomer{s.stranger(), s.stranger()})
	w.none("a first act after the restart")
}

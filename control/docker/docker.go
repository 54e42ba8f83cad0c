// Package docker keeps an inventory true to one Docker engine and, where the
// engine is part of one, its Swarm. Watcher.Run is its only loop; cmd starts it
// and the control loop reads the inventory that it fills.
//
// Events are hints, lists are the truth: Run subscribes to events first, then
// lists everything, and lists again at each reconnect and every minute. While
// the engine cannot be reached the inventory keeps its last state, so nothing is
// lost and nothing opens.
//
// A Watcher's Run is called once; Status and Ready are safe at any time from any
// goroutine. Everything else in the package is pure.
package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	dockerclient "github.com/fsouza/go-dockerclient"
	lru "github.com/hashicorp/golang-lru/v2"
	mobyclient "github.com/moby/moby/client"

	"gatehouse/control/inventory"
	"gatehouse/policy"
)

// Config says which engine to watch and what to keep of its containers. The zero
// value watches the local engine.
type Config struct {
	// Host is where the engine listens: "unix:///var/run/docker.sock", the
	// default, or "tcp://address:port".
	Host string
	// Manager is where a Swarm manager's engine listens, for a worker to ask what
	// services there are: "unix:///path", or "tcp://address:port", by TLS unless the
	// address is a loopback one. "" asks nobody.
	Manager string
	// ManagerTLS is the folder with ca.pem, cert.pem and key.pem for it.
	ManagerTLS string
	// Domain is the name space of this engine's projects (I1); default is the
	// engine's ID.
	Domain string
	// KeepEnv are the variables whose values models ask for. Values of keys that
	// look secret are never kept.
	KeepEnv []string
	// KeepArgs are the flags whose values models ask for, with their dashes.
	KeepArgs []string
	// KeepWords are the words of commands, such as names of programs, that models
	// ask for. Of other words nothing is kept.
	KeepWords []string
	// NetNSDir is where the engine keeps network namespaces; default
	// /var/run/docker/netns.
	NetNSDir string
	// ZoneFile keeps the zones of networks over restarts. It must last as long as
	// the pinned flow map does, whose keys hold zones; "" keeps them in memory.
	ZoneFile string
	// DaemonConfig is the engine's own file, read for its dns and hosts; default
	// /etc/docker/daemon.json.
	DaemonConfig string
	// ResolvConf is the host's; default /etc/resolv.conf.
	ResolvConf string
	Logger     *slog.Logger
}

// The pace of the watch.
const (
	requestTimeout = 5 * time.Second
	resyncEvery    = time.Minute
	firstBackoff   = 50 * time.Millisecond
	lastBackoff    = 5 * time.Second
	// settleAtMost bounds how long the first state waits for slow answers.
	settleAtMost = 10 * time.Second
	// retryAfter is when a failed request, or a change of images, leads to a list.
	retryAfter = time.Second
	// hostAfter collects a burst of changes of the host's addresses.
	hostAfter = 100 * time.Millisecond
	// staleAfter is the age of the last list at which Ready says no.
	staleAfter = 3 * resyncEvery
	imageCache = 4096
)

// Watcher watches one engine.
type Watcher struct {
	config  Config
	inv     *inventory.Inventory
	log     *slog.Logger
	engine  *dockerclient.Client
	swarm   *mobyclient.Client
	manager *mobyclient.Client // nil where a worker asks nobody
	events  *http.Client       // the engine's transport without a deadline
	base    string             // URL before the path of /events
	images  *lru.Cache[string, *image]
	gossip  bytes.Buffer // the answer that is being read
	state   state        // Run's own

	mu     sync.Mutex
	status Status
	keeps  chan kept // what is to be kept from now on
}

// Status is what the watcher knows of its own work.
type Status struct {
	Connected bool      `json:"connected"`          // the event stream is open
	Since     time.Time `json:"since,omitzero"`     // of the present connection, or of its loss
	FirstList time.Time `json:"firstList,omitzero"` // when the first full list was asked for; zero = not yet
	LastList  time.Time `json:"lastList,omitzero"`  // the last one that was answered
	Synced    bool      `json:"synced"`             // the inventory holds what this connection listed
	Error     string    `json:"error,omitempty"`    // what fails at present, "" if nothing
	Swarm     string    `json:"swarm,omitempty"`    // "", "worker" or "manager"
	Unkept    string    `json:"unkept,omitempty"`   // why zones of networks are not kept for a restart, "" if they are
	Connects  uint64    `json:"connects"`
	Lists     uint64    `json:"lists"`
	Events    uint64    `json:"events"`
}

// RanBefore reports whether a workload ran before the watcher's first list: its
// flows may be older than the gateway (V9).
func (s Status) RanBefore(w policy.Workload) bool {
	return !w.Started.IsZero() && !s.FirstList.IsZero() && w.Started.Before(s.FirstList)
}

// New prepares a watcher that fills inv. It does not talk to the engine yet; it
// fails on a host that cannot be parsed and on a broken zone file.
func New(c Config, inv *inventory.Inventory) (*Watcher, error) {
	if c.Host == "" {
		c.Host = "unix:///var/run/docker.sock"
	}
	if c.NetNSDir == "" {
		c.NetNSDir = "/var/run/docker/netns"
	}
	if c.DaemonConfig == "" {
		c.DaemonConfig = "/etc/docker/daemon.json"
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	u, err := url.Parse(c.Host)
	if err != nil || (u.Scheme != "unix" && u.Scheme != "tcp") || (u.Scheme == "unix" && u.Path == "") || (u.Scheme == "tcp" && u.Port() == "") {
		return nil, fmt.Errorf("docker host %q: want unix:///path/to/socket or tcp://address:port", c.Host)
	}
	engine, err := dockerclient.NewClient(c.Host)
	if err != nil {
		return nil, fmt.Errorf("docker host %q: %w", c.Host, err)
	}
	swarm, err := mobyclient.New(mobyclient.WithHost(c.Host), mobyclient.WithTimeout(requestTimeout))
	if err != nil {
		return nil, fmt.Errorf("docker host %q: %w", c.Host, err)
	}
	manager, err := managerClient(c.Manager, c.ManagerTLS)
	if err != nil {
		return nil, err
	}
	zones, err := loadZones(c.ZoneFile)
	if err != nil {
		return nil, err
	}
	images, err := lru.New[string, *image](imageCache)
	if err != nil {
		return nil, err
	}
	w := &Watcher{
		config: c, inv: inv, log: c.Logger, engine: engine, swarm: swarm, manager: manager, images: images,
		events: &http.Client{Transport: engine.HTTPClient.Transport},
		base:   "http://engine",
		state:  newState(zones, kept{set(c.KeepEnv), set(c.KeepArgs), set(c.KeepWords)}),
		keeps:  make(chan kept, 1),
	}
	if u.Scheme == "tcp" {
		w.base = "http://" + u.Host
	}
	engine.SetTimeout(requestTimeout)
	return w, nil
}

// managerClient prepares to ask another node's engine; nil where host is "". What it
// tells decides who may talk to whom, so it is not taken from a network without TLS.
func managerClient(host, certs string) (*mobyclient.Client, error) {
	if host == "" {
		return nil, nil
	}
	u, err := url.Parse(host)
	if err != nil || (u.Scheme != "unix" && u.Scheme != "tcp") || (u.Scheme == "unix" && u.Path == "") || (u.Scheme == "tcp" && u.Port() == "") {
		return nil, fmt.Errorf("swarm manager %q: want unix:///path/to/socket or tcp://address:port", host)
	}
	options := []mobyclient.Opt{mobyclient.WithHost(host), mobyclient.WithTimeout(requestTimeout)}
	switch a, err := netip.ParseAddr(u.Hostname()); {
	case u.Scheme == "unix":
	case certs != "":
		options = append(options, mobyclient.WithTLSClientConfig(filepath.Join(certs, "ca.pem"), filepath.Join(certs, "cert.pem"), filepath.Join(certs, "key.pem")))
	case err != nil || !a.IsLoopback():
		return nil, fmt.Errorf("swarm manager %q: without TLS anybody on the way could say what policy follows from: name a folder with ca.pem, cert.pem and key.pem, or a tunnel's end on this host", host)
	}
	client, err := mobyclient.New(options...)
	if err != nil {
		return nil, fmt.Errorf("swarm manager %q: %w", host, err)
	}
	return client, nil
}

// Keep changes which values are kept, as Config's KeepEnv, KeepArgs and KeepWords
// say, and has all containers read again. It is for one caller at a time.
func (w *Watcher) Keep(env, args, words []string) {
	select {
	case <-w.keeps: // nobody has taken it yet
	default:
	}
	w.keeps <- kept{set(env), set(args), set(words)}
}

// Status returns what the watcher knows of its own work.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Ready returns nil while the inventory is true: connected, listed, and not long
// ago. Else it says what is wrong and what to do.
func (w *Watcher) Ready() error {
	s := w.Status()
	switch {
	case s.Error != "" && !s.LastList.IsZero():
		return fmt.Errorf("%s (the last known state of %s stays in force)", s.Error, s.LastList.Format(time.RFC3339))
	case s.Error != "":
		return errors.New(s.Error)
	case !s.Connected:
		return fmt.Errorf("docker: not connected to %s yet", w.config.Host)
	case !s.Synced:
		return fmt.Errorf("docker: the list of %s is not complete yet", w.config.Host)
	case time.Since(s.LastList) > staleAfter:
		return fmt.Errorf("docker: %s has not answered a full list since %s", w.config.Host, s.LastList.Format(time.RFC3339))
	}
	return nil
}

func (w *Watcher) note(change func(*Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.status)
}

// Run watches until ctx ends and then returns nil: an engine that cannot be
// reached is tried again, 50 ms to 5 s apart, and reported by Status and one log
// line.
func (w *Watcher) Run(ctx context.Context) error {
	backoff := firstBackoff
	for {
		before := w.Status().Lists
		err := w.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.lost(err)
		if w.Status().Lists > before {
			backoff = firstBackoff
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// lost records why there is no connection, and logs it when it is news.
func (w *Watcher) lost(err error) {
	text := explain(w.config.Host, err)
	news := false
	w.note(func(s *Status) {
		news = s.Error != text
		if s.Connected {
			s.Since = time.Now()
		}
		s.Connected, s.Synced, s.Error = false, false, text
	})
	if news {
		w.log.Warn(text, "keeps", "the last known state")
	}
}

// explain says what failed at which socket, and what to do about it.
func explain(host string, err error) string {
	path, unix := strings.CutPrefix(host, "unix://")
	hint := ""
	switch {
	case errors.Is(err, fs.ErrNotExist) && unix:
		hint = "no such socket: start the engine (systemctl start docker), or name its socket by --docker"
	case errors.Is(err, fs.ErrPermission):
		hint = "permission denied: run the gateway as root, or give it access to the socket"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, dockerclient.ErrConnectionRefused):
		hint = "nobody listens there: start the engine (systemctl start docker)"
	}
	if hint == "" {
		return fmt.Sprintf("docker: %s: %v", host, err)
	}
	if !unix {
		path = host
	}
	return fmt.Sprintf("docker: cannot reach the engine at %s: %s", path, hint)
}

package docker

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeEngine serves recorded replies of an engine on a Unix socket, and what a
// test makes of them.
type fakeEngine struct {
	socket string
	server *httptest.Server

	mu         sync.Mutex
	info       map[string]any
	containers map[string]map[string]any // inspect form; the list is made of it
	networks   map[string]map[string]any
	images     map[string]map[string]any
	services   json.RawMessage
	nodes      json.RawMessage
	worker     bool
	deaf       bool // what asks for the gossip gets a 500
	broken     bool // every request but events gets a 500
	blocked    map[string]chan struct{}
	inspects   map[string]int
	streams    map[chan string]bool
}

func newFakeEngine(t *testing.T, dir string) *fakeEngine {
	t.Helper()
	f := &fakeEngine{
		info: readJSON[map[string]any](t, dir, "info.json"), containers: map[string]map[string]any{}, networks: map[string]map[string]any{}, images: map[string]map[string]any{},
		blocked: map[string]chan struct{}{}, inspects: map[string]int{}, streams: map[chan string]bool{},
	}
	for pattern, into := range map[string]map[string]map[string]any{"container-*.json": f.containers, "network-*.json": f.networks, "image-*.json": f.images} {
		files, err := filepath.Glob(filepath.Join("testdata", dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			v := readJSON[map[string]any](t, dir, filepath.Base(file))
			into[v["Id"].(string)] = v
		}
	}
	if swarm := f.info["Swarm"].(map[string]any); swarm["LocalNodeState"] == "active" {
		f.worker = swarm["ControlAvailable"] != true
		f.services = readJSON[json.RawMessage](t, dir, "services.json")
		f.nodes = readJSON[json.RawMessage](t, dir, "nodes.json")
	}
	tmp, err := os.MkdirTemp("", "ghd") // short: a socket's path has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	f.socket = filepath.Join(tmp, "s")
	f.listen(t)
	t.Cleanup(func() { f.stop() })
	return f
}

func readJSON[T any](t *testing.T, dir, name string) (v T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

func (f *fakeEngine) listen(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Listener.Close()
	f.server.Listener = l
	f.server.Start()
}

// stop ends the engine as a crash does: all its connections break.
func (f *fakeEngine) stop() {
	f.endStreams()
	f.server.CloseClientConnections()
	f.server.Close()
}

func (f *fakeEngine) host() string { return "unix://" + f.socket }

// change alters the truth that lists tell, without an event.
func (f *fakeEngine) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// send sends an event to whoever listens.
func (f *fakeEngine) send(kind, action, id string, attributes map[string]string) {
	line, err := json.Marshal(map[string]any{"Type": kind, "Action": action, "Actor": map[string]any{"ID": id, "Attributes": attributes}})
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for stream := range f.streams {
		stream <- string(line)
	}
}

// endStreams ends every stream of events, as an engine does that goes down.
func (f *fakeEngine) endStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for stream := range f.streams {
		close(stream)
		delete(f.streams, stream)
	}
}

// block makes the inspect of a container wait until the returned func is called.
func (f *fakeEngine) block(id string) (release func()) {
	ch := make(chan struct{})
	f.change(func() { f.blocked[id] = ch })
	return func() {
		f.change(func() { delete(f.blocked, id) })
		close(ch)
	}
}

var versionPath = regexp.MustCompile(`^/v1\.\d+`)

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := versionPath.ReplaceAllString(r.URL.Path, "")
	if path == "/events" {
		f.serveEvents(w, r)
		return
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if len(parts) == 3 && parts[0] == "containers" {
		f.mu.Lock()
		f.inspects[parts[1]]++
		wait := f.blocked[parts[1]]
		f.mu.Unlock()
		if wait != nil {
			select {
			case <-wait:
			case <-r.Context().Done():
				return
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken || f.deaf && r.URL.Query().Get("verbose") != "" {
		http.Error(w, `{"message":"broken"}`, http.StatusInternalServerError)
		return
	}
	switch {
	case path == "/_ping":
		w.Header().Set("API-Version", "1.41")
	case path == "/info":
		reply(w, f.info)
	case path == "/networks":
		reply(w, slices.Collect(maps.Values(f.networks)))
	case path == "/containers/json":
		reply(w, f.list())
	case path == "/services" || path == "/nodes":
		f.serveSwarm(w, path)
	case parts[0] == "containers":
		f.serveOne(w, f.containers, parts[1])
	case parts[0] == "networks" && r.URL.Query().Get("verbose") != "" && f.networks[parts[1]] != nil:
		reply(w, disordered(f.networks[parts[1]])) // as the engine does, from its Go maps
	case parts[0] == "networks":
		f.serveOne(w, f.networks, parts[1])
	case parts[0] == "images":
		f.serveOne(w, f.images, parts[1])
	default:
		http.NotFound(w, r)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func (f *fakeEngine) serveOne(w http.ResponseWriter, from map[string]map[string]any, id string) {
	v, ok := from[id]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		reply(w, map[string]string{"message": "no such object: " + id})
		return
	}
	reply(w, v)
}

func (f *fakeEngine) serveSwarm(w http.ResponseWriter, path string) {
	body := f.nodes
	if path == "/services" {
		body = f.services
	}
	if f.worker {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	w.Write(body)
}

func (f *fakeEngine) serveEvents(w http.ResponseWriter, r *http.Request) {
	stream := make(chan string, 4096)
	f.mu.Lock()
	f.streams[stream] = true
	f.mu.Unlock()
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case line, ok := <-stream:
			if !ok {
				return
			}
			fmt.Fprintln(w, line)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			f.mu.Lock()
			delete(f.streams, stream)
			f.mu.Unlock()
			return
		}
	}
}

// list makes the engine's list of containers from their inspect form.
func (f *fakeEngine) list() []map[string]any {
	out := []map[string]any{}
	for id, c := range f.containers {
		config, state := c["Config"].(map[string]any), c["State"].(map[string]any)
		out = append(out, map[string]any{
			"Id": id, "Names": []any{c["Name"]}, "Image": config["Image"], "ImageID": c["Image"], "Labels": config["Labels"], "State": state["Status"],
			"NetworkSettings": map[string]any{"Networks": c["NetworkSettings"].(map[string]any)["Networks"]},
		})
	}
	return out
}

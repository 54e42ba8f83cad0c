package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gatehouse/control"
	"gatehouse/control/compose"
	"gatehouse/control/docker"
	"gatehouse/control/inventory"
	"gatehouse/dataplane/capture/capturetest"
	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

// TestScripts runs the verbs as a person would; $SOCKET is a gateway that knows
// one denied flow, and answers what canned says.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "raw": raw, "capture": writeCapture},
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "ghe") // a socket's path is short
			if err != nil {
				return err
			}
			socket := filepath.Join(dir, "g.sock")
			l, err := net.Listen("unix", socket)
			if err != nil {
				return err
			}
			env.Setenv("SOCKET", socket)
			srv := &http.Server{Handler: canned()}
			go func() { _ = srv.Serve(l) }()
			env.Defer(func() { srv.Close(); os.RemoveAll(dir) })
			return nil
		},
	})
}

// exits CODE PROGRAM ARG...: the program ends with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(ts.Exec(args[1], args[2:]...), &exit) {
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// raw FILE fails if there is anything in it that a terminal would act on.
func raw(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && printable(r) != r }); i >= 0 {
		ts.Fatalf("a control character: %q", text[i:min(len(text), i+20)])
	}
}

// writeCapture FILE [BYTES] writes a capture of a conversation, cut to so many
// bytes; what its server calls itself is nasty.
func writeCapture(ts *testscript.TestScript, _ bool, args []string) {
	packets := capturetest.Conversation(false)
	for i, p := range packets {
		packets[i] = bytes.Replace(p, []byte("till/2.1"), []byte("\x1b[2J\xff\x9b."), 1)
	}
	b := capturetest.Pcap(binary.BigEndian, capturetest.Nano, 101, packets)
	if len(args) == 2 {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		b = b[:n]
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// nasty is a name as an attacker would choose it: it clears the screen, moves
// the cursor, turns the text around and ends the line.
const nasty = "evil\x1b[2J\r\n\u202ename\u009b"

// canned is a gateway that is not ready, for verbs that only need its answers.
func canned() http.Handler {
	status := Status{Version: "v0", Started: time.Now(), Problems: []string{"no policy yet"}, Closed: []string{}, Uncovered: []Uncovered{{nasty, "network_mode host"}},
		Findings: cannedFindings(), Packets: map[string]uint64{"decided": 7}, Drops: map[string]uint64{},
		Situation: SituationStatus{Quarantines: []QuarantineStatus{{Subject: "shop/web"}, {Subject: nasty}}}}
	workload := WorkloadView{ID: "1", Name: nasty, Service: "shop/web", Image: "nginx:1", Model: "nginx", Reasons: []string{}, Guarded: true,
		Endpoints: []EndpointView{}, Metadata: &policy.Workload{},
		Evidence: []models.Evidence{{Kind: "origin", What: "docker.io/library/nginx", Counts: true, Why: "known"}}}
	violation := ViolationView{ID: "v-1", Count: 3, From: "shop/" + nasty, To: "shop/db", Source: "10.0.0.2:1", Dest: "10.0.0.3:5432", Proto: "tcp",
		App: "ssh", Verdict: "dropped", Side: "out", Reason: "app", Why: "another application"}
	mux := http.NewServeMux()
	reply := func(pattern string, v any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
	}
	refuse := func(w http.ResponseWriter, code int, text string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(apiError{text})
	}
	reply("GET /v1/status", status)
	reply("GET /v1/snapshot", cannedSnapshot())
	reply("GET /v1/workloads", []WorkloadView{workload, {Service: "shop/host", Uncovered: "network_mode host", Metadata: &policy.Workload{}}})
	reply("GET /v1/services", []ServiceView{{Service: "shop/db", Roles: []string{}, Reasons: []string{}}, {Service: "shop/web", Roles: []string{"proxy"}, Reasons: []string{}},
		{Service: "shop/$(reboot)", Roles: []string{}, Reasons: []string{}}})
	reply("GET /v1/flows", []FlowView{})
	reply("GET /v1/violations", []ViolationView{violation})
	reply("GET /v1/observe", violation)
	mux.HandleFunc("GET /v1/rules", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusInternalServerError, "out of rules")
	})
	mux.HandleFunc("GET /v1/statements", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("[{")) })
	mux.HandleFunc("POST /v1/explain", func(w http.ResponseWriter, r *http.Request) {
		var req ExplainRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		switch {
		case req.ID == "v-1":
			_ = json.NewEncoder(w).Encode(ExplainAnswer{Violation: &violation, Lines: []ExplainLine{{"verdict", "drop " + nasty}}})
		case req.ID != "":
			refuse(w, http.StatusBadRequest, "no violation")
		default:
			_ = json.NewEncoder(w).Encode(ExplainAnswer{Allowed: true, Lines: []ExplainLine{{"verdict", "allow"}}})
		}
	})
	reply("POST /v1/mode/preview", ModePreview{Services: []string{"shop/db"}, Drops: []policy.ReplayedGroup{}, Depends: []policy.ReplayedGroup{}})
	mux.HandleFunc("POST /v1/mode", func(w http.ResponseWriter, r *http.Request) {
		var req ModeRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		if req.Service != "shop/db" && req.Service != "shop/host" {
			refuse(w, http.StatusBadRequest, "no service "+req.Service)
			return
		}
		_ = json.NewEncoder(w).Encode([]string{req.Service})
	})
	return mux
}

// cannedFindings are more clipped services than are listed, and of two workloads that
// cannot be guarded whole one that status has a line of already.
func cannedFindings() []Finding {
	out := []Finding{{Kind: "uncovered", Subject: nasty, Text: "not guarded: network_mode host"},
		{Kind: "uncovered", Subject: "shop/both", Text: "endpoint not covered: macvlan network lan"}}
	for _, name := range []string{"shop/a", "shop/b", "shop/c", "shop/d", "shop/e"} {
		out = append(out, Finding{Kind: "clipped", Subject: name, Text: "only the name of its image says nginx"})
	}
	return out
}

// cannedSnapshot is a gateway's that runs the shop with a statement of the
// operator.
func cannedSnapshot() *SnapshotFile {
	snap, err := compose.Load(context.Background(), []compose.File{{Paths: []string{"testdata/shop.yaml"}, Name: "shop"}}, compose.Options{
		Keep: docker.Keep{Env: []string{"WORDPRESS_DB_HOST"}}})
	if err != nil {
		panic(err)
	}
	rules, err := control.Sources{Statements: []document.File{{Name: "ops.yaml", Data: []byte(cannedStatements)}}}.Rules()
	if err != nil {
		panic(err)
	}
	return snapshotOf(&control.Basis{View: inventory.ViewOf(&snap), Rules: rules, Situation: control.Situation{Quarantines: map[string]control.Hold{}},
		Modes: map[string]policy.Mode{"shop/db": policy.Enforce}}, defaultsOf())
}

const cannedStatements = `schema: gatehouse.statements/v1
statements:
  - {id: backup, verdict: allow, from: [{service: shop/redis}], to: [{service: shop/db}], app: [mysql], ports: [tcp/3306], why: backups}
`

// docs/api.md lists exactly what the gateway answers.
func TestDocumentedRoutes(t *testing.T) {
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, routes []string
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:GET|POST|PUT|DELETE) /v1/[^ `?]*)").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1])
	}
	for pattern := range new(server).routes() {
		routes = append(routes, pattern)
	}
	slices.Sort(documented)
	slices.Sort(routes)
	if !slices.Equal(documented, routes) {
		t.Errorf("docs/api.md lists\n%s\nthe server has\n%s", strings.Join(documented, "\n"), strings.Join(routes, "\n"))
	}
}

// Each setting can be set from all three places, and the nearer one counts.
func TestSettingsTable(t *testing.T) {
	for _, c := range []struct {
		key, file, env, flag string
		get                  func(Settings) any
	}{
		{"mode", "enforce", "observe", "enforce", func(s Settings) any { return s.Mode }},
		{"mode.floor", "enforce", "observe", "enforce", func(s Settings) any { return s.Floor }},
		{"enroll", "none", "all", "none", func(s Settings) any { return s.Enroll }},
		{"trust.local", "full", "name", "full", func(s Settings) any { return s.TrustLocal }},
		{"trust.registries", "a.example/", "b.example/", "c.example/", func(s Settings) any { return strings.Join(s.TrustRegistries, ",") }},
		{"models", "/a", "/b", "/c", func(s Settings) any { return s.ModelDir }},
		{"metadata", "192.0.2.1", "192.0.2.2", "192.0.2.3", func(s Settings) any { return strings.Join(s.Metadata, ",") }},
		{"refusal", "reject", "drop", "reject", func(s Settings) any { return s.Refusal }},
		{"refusal.lookups", "nxdomain", "refused", "nxdomain", func(s Settings) any { return s.RefusalLookups }},
		{"state", "/a", "/b", "/c", func(s Settings) any { return s.State }},
		{"devices", "a", "b", "c", func(s Settings) any { return s.Devices }},
		{"docker", "/a", "/b", "/c", func(s Settings) any { return s.Docker }},
		{"metrics", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", func(s Settings) any { return s.Metrics }},
	} {
		t.Run(c.key, func(t *testing.T) {
			text := c.file
			if strings.HasPrefix(c.key, "trust.reg") || c.key == "metadata" {
				text = "[" + c.file + "]"
			}
			file := c.key + ": " + text + "\n"
			env := map[string]string{"GATEHOUSE_" + strings.ToUpper(strings.ReplaceAll(c.key, ".", "_")): c.env}
			flag := []string{"--" + strings.ReplaceAll(c.key, ".", "-"), c.flag}
			for want, s := range map[string]func() (Settings, error){
				"file " + c.file: func() (Settings, error) { return load(t, file, nil) },
				"env " + c.env:   func() (Settings, error) { return load(t, file, env) },
				"flag " + c.flag: func() (Settings, error) { return load(t, file, env, flag...) },
			} {
				set, err := s()
				if _, value, _ := strings.Cut(want, " "); err != nil || c.get(set) != any(value) {
					t.Errorf("want the %s, got %v, %v", want, c.get(set), err)
				}
			}
		})
	}
}

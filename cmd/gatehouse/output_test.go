package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/policy"
)

// Names come from labels that anybody may write: none of them steers a terminal.
func TestNamesDoNotSteerTheTerminal(t *testing.T) {
	const evil = "shop/\x1b]0;x\x07\u009b2J\u202edb"
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/mode", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode([]string{evil}) })
	mux.HandleFunc("POST /v1/mode/preview", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(ModePreview{Services: []string{evil}, Drops: []policy.ReplayedGroup{{From: evil, To: evil, Port: policy.Port(policy.ProtoTCP, 80)}}})
	})
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode([]ServiceView{{Service: evil}})
	})
	mux.HandleFunc("GET /v1/observe", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(ViolationView{From: evil})
	})
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(apiError{evil + "\nand more"})
	})
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	for _, c := range []struct {
		verb string
		code int
	}{{"mode all enforce", exitNo}, {"mode all enforce --yes", exitGood}, {"get services", exitGood}, {"observe", exitGood}, {"status", exitReach}} {
		var out bytes.Buffer
		code := run(append(strings.Fields(c.verb), "--socket", socket), strings.NewReader(""), &out, &out)
		if code != c.code || !strings.Contains(out.String(), "shop/") || strings.ContainsAny(out.String(), "\x1b\x07\u009b\u202e") {
			t.Errorf("%s: %d %q", c.verb, code, out.String())
		}
	}
}

// A line of observe has the day where it is not today's, and tells a conversation
// that began before its minute from one that is new.
func TestObservedRow(t *testing.T) {
	now := time.Now()
	at := time.Date(now.Year(), now.Month(), now.Day(), 12, 0, 0, 0, now.Location())
	flow := FlowView{ID: "1", From: "shop/web", To: "shop/db", Proto: "tcp", Dest: "10.0.0.3:5432", App: "postgresql", Verdict: "allow", Last: at, Flows: 1, Packets: 12}
	old, goesOn, unread := flow, flow, flow
	old.Last, old.Flows = at.AddDate(0, 0, -40), 3
	goesOn.Flows, goesOn.Packets = 0, 1
	unread.App = "none"
	for _, c := range []struct {
		flow FlowView
		want string
	}{
		{flow, "12:00:00.000 1 shop/web -> shop/db tcp 10.0.0.3:5432 app=postgresql allow 1 flow, 12 packets\n"},
		{old, at.AddDate(0, 0, -40).Format("2006-01-02") + " 12:00:00.000 1 shop/web -> shop/db tcp 10.0.0.3:5432 app=postgresql allow 3 flows, 12 packets\n"},
		{goesOn, "12:00:00.000 1 shop/web -> shop/db tcp 10.0.0.3:5432 app=postgresql allow goes on, 1 packet\n"},
		{unread, "12:00:00.000 1 shop/web -> shop/db tcp 10.0.0.3:5432 app=not-read allow 1 flow, 12 packets\n"},
	} {
		line, err := json.Marshal(c.flow)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := observedRow(&out, line); err != nil || out.String() != c.want {
			t.Errorf("%v: %q, want %q", err, out.String(), c.want)
		}
	}
}

// Of frames that nobody could judge only one end is known: the rows say no more.
func TestUnjudgedRows(t *testing.T) {
	v := ViolationView{ID: "v-2", To: "shop/web", Dest: noDestination, Proto: "proto-0", App: "none", Verdict: "dropped", Reason: "miss-budget", Why: "too many"}
	var table, stream, explained strings.Builder
	violationRows(&table, []ViolationView{v})
	line, err := json.Marshal(v)
	if err == nil {
		err = observedRow(&stream, line)
	}
	if err != nil {
		t.Fatal(err)
	}
	explainRows(&explained, &ExplainAnswer{Violation: &v})
	for _, c := range []struct{ text, want string }{
		{table.String(), "\t-\tshop/web\t-\t"}, {stream.String(), " v-2 - -> shop/web - app=not-read dropped"}, {explained.String(), "v-2: - -> shop/web, -, app"},
	} {
		if !strings.Contains(c.text, c.want) || strings.Contains(c.text, "proto-0") {
			t.Errorf("%q, want %q", c.text, c.want)
		}
	}
}

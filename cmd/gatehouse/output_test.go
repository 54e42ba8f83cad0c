package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

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

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gatehouse/control/history"
)

// server answers the API on the Unix socket.
type server struct {
	gw  *gateway
	log *slog.Logger
}

// routes are all of v1; docs/api.md lists the same, and a test compares them.
func (s *server) routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /v1/status":        answer(func(*http.Request) (any, error) { return s.gw.status(), nil }),
		"GET /v1/workloads":     answer(func(*http.Request) (any, error) { return s.gw.workloads(), nil }),
		"GET /v1/snapshot":      answer(func(*http.Request) (any, error) { return s.gw.snapshot() }),
		"GET /v1/services":      answer(func(*http.Request) (any, error) { return s.gw.services(), nil }),
		"GET /v1/statements":    answer(func(*http.Request) (any, error) { return s.gw.statements(), nil }),
		"GET /v1/rules":         answer(func(*http.Request) (any, error) { return s.gw.rules(), nil }),
		"GET /v1/names":         answer(func(*http.Request) (any, error) { return s.gw.knownNames(), nil }),
		"GET /v1/models":        answer(func(*http.Request) (any, error) { return modelViews(s.gw.library()), nil }),
		"GET /v1/flows":         s.records(func(q recordQuery) (any, int, bool, error) { return cut(s.gw.flows(q)) }),
		"GET /v1/violations":    s.records(func(q recordQuery) (any, int, bool, error) { return cut(s.gw.violations(q)) }),
		"GET /v1/observe":       s.observe,
		"POST /v1/explain":      answer(s.explain),
		"POST /v1/mode":         answer(s.mode),
		"POST /v1/mode/preview": answer(s.previewMode),
		"POST /v1/replay":       answer(s.replay),
		"POST /v1/suggest":      answer(s.suggest),
		"POST /v1/threat":       answer(s.threat),
		"POST /v1/quarantine":   answer(s.quarantine),
		"POST /v1/release":      answer(s.release),
	}
}

// badRequest is an error that the caller can mend.
type badRequest struct{ error }

func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			code := http.StatusInternalServerError
			if errors.As(err, new(badRequest)) {
				code = http.StatusBadRequest
			}
			w.WriteHeader(code)
			v = apiError{err.Error()}
		}
		_ = json.NewEncoder(w).Encode(v) // the caller hung up
	}
}

func decodeBody(r *http.Request, v any) error { return decodeLarge(r, v, 1<<20) }

func decodeLarge(r *http.Request, v any, most int64) error {
	dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, most))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badRequest{fmt.Errorf("request body: %w", err)}
	}
	return nil
}

func (s *server) explain(r *http.Request) (any, error) {
	var req ExplainRequest
	if err := decodeBody(r, &req); err != nil {
		return nil, err
	}
	return s.gw.explain(req)
}

func (s *server) mode(r *http.Request) (any, error) {
	var req ModeRequest
	if err := decodeBody(r, &req); err != nil {
		return nil, err
	}
	return s.gw.setMode(req)
}

func (s *server) previewMode(r *http.Request) (any, error) {
	var req ModeRequest
	if err := decodeBody(r, &req); err != nil {
		return nil, err
	}
	return s.gw.previewMode(req)
}

func (s *server) replay(r *http.Request) (any, error) {
	var req ReplayRequest
	if err := decodeLarge(r, &req, mostFlowsBytes); err != nil {
		return nil, err
	}
	return s.gw.replay(req)
}

func (s *server) suggest(r *http.Request) (any, error) {
	var req SuggestRequest
	if err := decodeBody(r, &req); err != nil {
		return nil, err
	}
	return s.gw.suggest(req)
}

// truncatedHeader says that there is more than the limit let through.
const truncatedHeader = "Gatehouse-Truncated"

// noteHeader says, once a note, what is odd about what was asked for.
const noteHeader = "Gatehouse-Note"

// records answers with what the request's parameters choose.
func (s *server) records(list func(recordQuery) (items any, n int, truncated bool, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer(func(r *http.Request) (any, error) {
			q, err := parseRecordQuery(r.URL.Query(), time.Now())
			if err != nil {
				return nil, err
			}
			v, n, truncated, err := list(q)
			if truncated {
				w.Header().Set(truncatedHeader, "true")
			}
			if n == 0 {
				s.note(w, &q)
			}
			return v, err
		})(w, r)
	}
}

// note says of a query that found nothing whether it names nobody.
func (s *server) note(w http.ResponseWriter, q *recordQuery) {
	for _, text := range s.gw.namesNobody(q) {
		w.Header().Add(noteHeader, text)
	}
}

// cut forgets the type of a list.
func cut[T any](list []T, truncated bool, err error) (any, int, bool, error) {
	return list, len(list), truncated, err
}

// observe streams records, one JSON object a line: the latest on record, the
// oldest of them first, then, with follow=true, new ones as they come.
func (s *server) observe(w http.ResponseWriter, r *http.Request) {
	q, err := parseRecordQuery(r.URL.Query(), time.Now())
	if err != nil {
		answer(func(*http.Request) (any, error) { return nil, err })(w, r)
		return
	}
	if !r.URL.Query().Has("kind") && q.Verdict != "allow" && q.Verdict != "undecided" {
		q.Kinds = []history.Kind{history.Violation}
	}
	if !slices.Equal(q.Kinds, []history.Kind{history.Violation}) {
		s.gw.recorder.catchUp()
	}
	news, stop := s.gw.recorder.store.Subscribe(q.Filter)
	defer stop()
	records, err := s.gw.recorder.store.Latest(q.Filter, q.limit)
	if err != nil {
		answer(func(*http.Request) (any, error) { return nil, err })(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if len(records) == 0 {
		s.note(w, &q)
	}
	enc := json.NewEncoder(w)
	for _, v := range records {
		if enc.Encode(s.gw.recordView(v)) != nil {
			return
		}
	}
	flush := http.NewResponseController(w)
	for q.follow {
		if flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case v := <-news:
			if enc.Encode(s.gw.recordView(&v)) != nil {
				return
			}
		}
	}
}

// listen opens the socket for root and its group only. A socket that a dead
// gateway left is replaced; one that answers is an error.
func (s *server) listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("a gateway answers on %s already: stop it, or name another --socket", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%s is there and is no socket: name another --socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o660)
}

// serve answers until ctx ends.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	for pattern, h := range s.routes() {
		mux.HandleFunc(pattern, h)
	}
	return serveHTTP(ctx, l, mux)
}

// serveHTTP serves until ctx ends; streams end with it.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: withCaller}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

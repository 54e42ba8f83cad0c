package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/operator"
)

// A source that the operator moves is asked there at once, though the old place is
// asked once an hour and hangs.
func TestMovedSourceIsAskedAtOnce(t *testing.T) {
	hangs := make(chan struct{}, 1)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			hangs <- struct{}{}
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, `{"records": [{"match": {"service": "shop/web"}, "set": {"risk": "high"}}]}`)
	}))
	t.Cleanup(endpoint.Close)
	at := func(path string) []operator.Source {
		return []operator.Source{{Name: "cmdb", URL: endpoint.URL + path, Every: time.Hour, Timeout: time.Hour, MaxBytes: 1 << 20,
			Kinds: map[string]operator.Kind{"risk": {Levels: []string{"low", "high"}}}}}
	}
	s := NewRecordStore(t.TempDir(), slog.New(slog.DiscardHandler))
	s.Follow(at("/old"))
	ctx := t.Context()
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	t.Cleanup(func() { <-ended })
	<-hangs
	s.Follow(at("/new"))
	for until := time.Now().Add(time.Minute); s.Status()[0].Records != 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%+v", s.Status())
		}
	}
}

// What a source said stands when it moves, also over a restart, until the new place
// answers.
func TestMovedSourceSaysWhatItSaid(t *testing.T) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/new" || r.Header.Get("If-None-Match") != "" {
			http.Error(w, "not now", http.StatusInternalServerError)
			return
		}
		w.Header().Set("ETag", "x")
		fmt.Fprint(w, `{"threat": "critical", "records": [{"match": {"service": "shop/web"}, "set": {"risk": "high"}}]}`)
	}))
	t.Cleanup(endpoint.Close)
	at := func(path string) operator.Source {
		return operator.Source{Name: "cmdb", URL: endpoint.URL + path, Every: time.Hour, Timeout: time.Minute, MaxBytes: 1 << 20,
			Kinds: map[string]operator.Kind{"risk": {Levels: []string{"low", "high"}}}}
	}
	dir := t.TempDir()
	s := NewRecordStore(dir, slog.New(slog.DiscardHandler))
	said := func(when string) {
		t.Helper()
		if st := s.Status()[0]; st.Records != 1 || s.All()[0].Threat != operator.ThreatCritical {
			t.Errorf("%s: %+v, threat %v", when, st, s.All()[0].Threat)
		}
	}
	s.Follow([]operator.Source{at("/old")})
	s.Ask(t.Context(), at("/old"))
	said("asked")
	s.Follow([]operator.Source{at("/new")})
	said("moved")
	s.Ask(t.Context(), at("/new"))
	said("the new place fails")
	if s.Status()[0].Fault == "" {
		t.Error("that it fails is not told")
	}
	s = NewRecordStore(dir, slog.New(slog.DiscardHandler))
	s.Follow([]operator.Source{at("/new")})
	said("restarted")
}

// What a source said while the disk took nothing is stored once it does, though the
// source has nothing new to say.
func TestRecordsOnAFullDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cmdb.json")
	src := operator.Source{Name: "cmdb", Path: file, Timeout: time.Minute, MaxBytes: 1 << 20}
	say := func(threat string, age time.Duration) {
		t.Helper()
		err := os.WriteFile(file, []byte(`{"records": [], "threat": "`+threat+`"}`), 0o600)
		if then := time.Now().Add(-age); err == nil {
			err = os.Chtimes(file, then, then)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(t.TempDir(), "state")
	s := NewRecordStore(state, slog.New(slog.DiscardHandler))
	s.Follow([]operator.Source{src})
	say("critical", time.Hour)
	s.Ask(t.Context(), src)
	if s.Status()[0].Unkept == "" {
		t.Error("it is not told")
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Ask(t.Context(), src)
	if text := s.Status()[0].Unkept; text != "" {
		t.Error(text)
	}
	s = NewRecordStore(state, slog.New(slog.DiscardHandler))
	s.Follow([]operator.Source{src})
	if got := s.All()[0].Threat; got != operator.ThreatCritical {
		t.Errorf("after a restart: %v", got)
	}
}

// What no longer fits the kinds of its source counts no more, and the source's fault
// says so, until it has answered by them.
func TestRecordsThatFitNoMore(t *testing.T) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"records": [{"match": {"service": "shop/web"}, "set": {"risk": "high"}}]}`)
	}))
	t.Cleanup(endpoint.Close)
	of := func(levels ...string) operator.Source {
		return operator.Source{Name: "cmdb", URL: endpoint.URL, Every: time.Hour, Timeout: time.Minute, MaxBytes: 1 << 20,
			Kinds: map[string]operator.Kind{"risk": {Levels: levels}}}
	}
	s := NewRecordStore(t.TempDir(), slog.New(slog.DiscardHandler))
	s.Follow([]operator.Source{of("low", "high")})
	s.Ask(t.Context(), of("low", "high"))
	s.Follow([]operator.Source{of("minor", "major")})
	if st := s.Status()[0]; st.Records != 0 || !strings.Contains(st.Fault, "high") {
		t.Errorf("%+v", st)
	}
	s.Follow([]operator.Source{of("low", "high")})
	if st := s.Status()[0]; st.Records != 1 || st.Fault != "" {
		t.Errorf("as before: %+v", st)
	}
}

// A source whose kinds change so that what it said fits them no more is asked at once,
// though it is asked once an hour, and again where it is being asked then.
func TestSourceIsAskedForNewKinds(t *testing.T) {
	for _, busy := range []bool{false, true} {
		asked, level := make(chan struct{}), make(chan string)
		endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked <- struct{}{}
			fmt.Fprintf(w, `{"records": [{"match": {"service": "shop/web"}, "set": {"risk": %q}}]}`, <-level)
		}))
		t.Cleanup(endpoint.Close)
		s := NewRecordStore(t.TempDir(), slog.New(slog.DiscardHandler))
		follow := func(every time.Duration, levels ...string) {
			s.Follow([]operator.Source{{Name: "cmdb", URL: endpoint.URL, Every: every, Timeout: time.Hour, MaxBytes: 1 << 20,
				Kinds: map[string]operator.Kind{"risk": {Levels: levels}}}})
		}
		isAsked := func() {
			t.Helper()
			select {
			case <-asked:
			case <-time.After(time.Minute):
				t.Fatal("it is not asked")
			}
		}
		says := func(l string) {
			t.Helper()
			level <- l
			for until := time.Now().Add(time.Minute); s.Status()[0].Records != 1 || s.Status()[0].Fault != ""; time.Sleep(time.Millisecond) {
				if time.Now().After(until) {
					t.Fatalf("%+v", s.Status())
				}
			}
		}
		every := time.Hour
		if busy {
			every = time.Nanosecond
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		follow(every, "low", "high")
		go func() { s.Run(ctx); close(ended) }()
		t.Cleanup(func() { cancel(); <-ended })
		isAsked()
		says("high")
		if busy {
			isAsked()
		}
		follow(time.Hour, "minor", "major")
		if busy {
			level <- "high"
		}
		isAsked()
		says("major")
	}
}

// A record file from a host whose clock is ahead is read.
func TestRecordFileOfTheFuture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts.json")
	if err := os.WriteFile(path, []byte(`{"records": [{"match": {"service": "shop/web"}, "set": {"risk": "high"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	src := operator.Source{Name: "cmdb", Path: path, MaxBytes: 1 << 20, Kinds: map[string]operator.Kind{"risk": {Levels: []string{"low", "high"}}}}
	s := NewRecordStore(t.TempDir(), slog.New(slog.DiscardHandler))
	s.Follow([]operator.Source{src})
	s.Ask(t.Context(), src)
	if st := s.Status()[0]; st.Records != 1 || st.Fault != "" {
		t.Errorf("%+v", st)
	}
}

// What a source answered while the operator changed its kinds of categories is read as
// those say: a level that there is no more is below all others, and an allow might hold.
func TestKindsChangeWhileAsking(t *testing.T) {
	arrived, goOn, done := make(chan bool, 1), make(chan bool), make(chan bool)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-goOn
		fmt.Fprint(w, `{"records": [{"match": {"service": "shop/web"}, "set": {"risk": "high"}}]}`)
	}))
	t.Cleanup(endpoint.Close)
	src := func(levels ...string) operator.Source {
		return operator.Source{Name: "cmdb", URL: endpoint.URL, Every: time.Hour, Timeout: time.Minute, MaxBytes: 1 << 20, Kinds: map[string]operator.Kind{"risk": {Levels: levels}}}
	}
	s := NewRecordStore(t.TempDir(), slog.New(slog.DiscardHandler))
	s.Follow([]operator.Source{src("low", "high")})
	go func() { s.Ask(t.Context(), src("low", "high")); close(done) }()
	<-arrived
	next := src("minor", "major")
	s.Follow([]operator.Source{next})
	close(goOn)
	<-done
	for _, r := range s.All() {
		if !operator.Fits(r, next.Kinds) {
			t.Errorf("in force is %+v", r)
		}
	}
	if s.Status()[0].Fault == "" {
		t.Error("nothing is said of what does not fit")
	}
}

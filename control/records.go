package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/control/statefile"
	"gatehouse/operator"
)

// RecordStore holds what systems of record said last. What a source that is down,
// hangs or lies said before stays, also over a restart. Safe for concurrent use.
type RecordStore struct {
	dir     string // "" = nothing outlives the process
	changed chan struct{}
	log     *slog.Logger

	mu      sync.Mutex
	sources map[string]*sourceState
}

// sourceState is what is known of one source.
type sourceState struct {
	source  operator.Source
	records operator.Records
	unfit   bool // what it said last counts no more, by its kinds
	anew    bool // it is to be asked whenever it was asked last
	etag    string
	good    time.Time // of the last answer that counted
	fault   string    // what is wrong at present, and since when
	since   time.Time
	remote  netip.AddrPort // where the answer came from
	unkept  string         // why the last answer that counted is not on disk
	pending *saved         // it, while unkept says something
}

// SourceStatus tells how a source does.
type SourceStatus struct {
	Name    string    `json:"name"`
	From    string    `json:"from"`
	Records int       `json:"records"`
	Good    time.Time `json:"good,omitzero"` // when what counts was said
	Fault   string    `json:"fault,omitempty"`
	Since   time.Time `json:"since,omitzero"`   // of the fault
	Unkept  string    `json:"unkept,omitempty"` // why what counts is not kept for a restart
}

// NewRecordStore returns a store that keeps copies in the folder dir.
func NewRecordStore(dir string, log *slog.Logger) *RecordStore {
	return &RecordStore{dir: dir, changed: make(chan struct{}, 1), log: log, sources: map[string]*sourceState{}}
}

// Changed is written to after what a source says has changed.
func (s *RecordStore) Changed() <-chan struct{} { return s.changed }

// Follow makes these the sources. What an earlier one of the same name said
// counts as far as it still fits.
func (s *RecordStore) Follow(sources []operator.Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[string]*sourceState, len(sources))
	for _, src := range sources {
		st := &sourceState{source: src}
		old := s.sources[src.Name]
		switch {
		case src.Path == "" && src.URL == "":
			st.records, st.good = src.Records, time.Now()
		case old != nil && !old.unfit && operator.Fits(old.records, src.Kinds):
			*st = *old
			if askingOf(&old.source) != askingOf(&src) {
				st.etag, st.remote = "", netip.AddrPort{} // what it said stands until the new place answers
			}
			st.source = src
		default:
			st.anew = true
			s.restore(st)
		}
		next[src.Name] = st
	}
	s.sources = next
}

// copyOf names the file with the last answer of a source.
func (s *RecordStore) copyOf(src *operator.Source) string {
	return filepath.Join(s.dir, "records-"+src.Name+".json")
}

// saved is the last good answer of a source.
type saved struct {
	From string    `json:"from"`
	CSV  bool      `json:"csv"`
	ETag string    `json:"etag"`
	Good time.Time `json:"good"`
	Body []byte    `json:"body"`
}

// restore reads what the source said before the restart.
func (s *RecordStore) restore(st *sourceState) {
	if s.dir == "" {
		return
	}
	data, err := os.ReadFile(s.copyOf(&st.source))
	var old saved
	if err != nil || json.Unmarshal(data, &old) != nil {
		return
	}
	if old.From != st.source.Path+st.source.URL {
		old.ETag = "" // the new place's own
	}
	records, err := operator.ParseRecords(old.Body, cmp.Or(st.source.Path, st.source.Name), old.CSV, st.source.Kinds)
	if err != nil {
		st.unfit, st.fault, st.since = true, "what it said last counts no more: "+err.Error(), time.Now()
		s.log.Warn("what a system of record said last counts no more", "source", st.source.Name, "error", err)
		return
	}
	st.records, st.etag, st.good = records, old.ETag, old.Good
}

// All is what the sources say at present, with what their own files say of
// records beside it.
func (s *RecordStore) All() []operator.Records {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []operator.Records
	for _, name := range slices.Sorted(maps.Keys(s.sources)) { // what follows is told apart by the order too
		st := s.sources[name]
		out = append(out, st.records)
		if st.source.Path != "" || st.source.URL != "" {
			out = append(out, st.source.Records)
		}
	}
	return out
}

// Status lists the sources.
func (s *RecordStore) Status() []SourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []SourceStatus{}
	for _, st := range s.sources {
		from := st.source.File
		if st.source.Path+st.source.URL != "" {
			from = st.source.Path + st.source.URL
		}
		out = append(out, SourceStatus{st.source.Name, from, len(st.records.Records), st.good, st.fault, st.since, st.unkept})
	}
	return out
}

// Remotes are the addresses at which sources answered last.
func (s *RecordStore) Remotes() map[string]netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]netip.AddrPort{}
	for name, st := range s.sources {
		if st.remote.IsValid() {
			out[name] = st.remote
		}
	}
	return out
}

// Run asks the sources when it is time to, until ctx ends. Each is asked on its
// own: one that hangs holds up no other.
func (s *RecordStore) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	asked := map[asking]time.Time{}
	busy := map[asking]bool{}
	done := make(chan asking)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, src := range s.due(asked, busy) {
			at := askingOf(&src)
			maps.DeleteFunc(asked, func(was asking, _ time.Time) bool { return was.name == at.name })
			asked[at], busy[at] = time.Now(), true
			running.Go(func() {
				s.Ask(ctx, src)
				select {
				case done <- at:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case at := <-done:
			delete(busy, at)
		case <-tick.C:
		}
	}
}

// asking is a source and where it is asked: one that moves is asked anew at once, as is
// one whose last word its kinds do not fit.
type asking struct{ name, from string }

func askingOf(src *operator.Source) asking { return asking{src.Name, src.Path + src.URL} }

// fileEvery is how often a record's own file is looked at.
const fileEvery = 2 * time.Second

func (s *RecordStore) due(asked map[asking]time.Time, busy map[asking]bool) []operator.Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []operator.Source
	for _, st := range s.sources {
		every, at := st.source.Every, askingOf(&st.source)
		switch {
		case st.source.Path != "":
			every = fileEvery
		case st.source.URL == "":
			continue
		}
		if !busy[at] && (st.anew || time.Since(asked[at]) >= every) {
			st.anew = false
			out = append(out, st.source)
		}
	}
	return out
}

// Ask reads one source, whenever it was read last, and stores what it says.
func (s *RecordStore) Ask(ctx context.Context, src operator.Source) {
	answer, err := s.read(ctx, src)
	var records operator.Records
	if err == nil && answer != nil {
		records, err = operator.ParseRecords(answer.Body, cmp.Or(src.Path, src.Name), answer.CSV, src.Kinds)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.sources[src.Name]
	if st == nil || st.source.URL != src.URL || st.source.Path != src.Path {
		return // no longer wanted
	}
	if err == nil && answer != nil && !operator.Fits(records, st.source.Kinds) { // the kinds changed while it was asked
		records, err = operator.ParseRecords(answer.Body, cmp.Or(src.Path, src.Name), answer.CSV, st.source.Kinds)
	}
	if err == nil && answer == nil && st.unfit {
		return // it says what it said last, which counts no more since it was asked
	}
	s.note(st, err)
	if st.pending != nil && (err != nil || answer == nil) {
		s.save(st, st.pending)
	}
	if err != nil || answer == nil {
		return
	}
	st.records, st.unfit, st.etag, st.good = records, false, answer.ETag, answer.Good
	s.save(st, answer)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// note records how it went, and logs what is news.
func (s *RecordStore) note(st *sourceState, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text != "" && st.fault == "":
		st.since = time.Now()
		s.log.Warn("a system of record fails; what it said last stays", "source", st.source.Name, "error", text, "said", st.good)
	case text == "" && st.fault != "":
		s.log.Info("a system of record answers again", "source", st.source.Name)
		st.since = time.Time{}
	}
	st.fault = text
	if text == "" {
		st.good = time.Now()
	}
}

// save has an answer outlive a restart. Where that cannot be, each asking tries again,
// be there news or not.
func (s *RecordStore) save(st *sourceState, answer *saved) {
	if s.dir == "" {
		return
	}
	data, err := json.Marshal(answer)
	if err == nil {
		err = statefile.Write(s.copyOf(&st.source), data)
	}
	if err == nil {
		st.unkept, st.pending = "", nil
		return
	}
	if st.unkept == "" {
		s.log.Error("what a system of record says cannot be kept for the next start", "source", st.source.Name, "error", err)
	}
	st.unkept, st.pending = err.Error(), answer
}

// read returns what the source says, nil where that is what it said last.
func (s *RecordStore) read(ctx context.Context, src operator.Source) (*saved, error) {
	if src.Path != "" {
		return s.readFile(src)
	}
	return s.fetch(ctx, src)
}

func (s *RecordStore) readFile(src operator.Source) (*saved, error) {
	f, err := os.Open(src.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", src.Path)
	}
	if age := time.Since(info.ModTime()); age >= 0 && age < settle {
		return nil, nil // maybe still being written
	}
	tag := fmt.Sprintf("%d %d %d", info.Size(), info.ModTime().UnixNano(), inode(info))
	if tag == s.etag(src.Name) {
		return nil, nil
	}
	body, err := readAtMost(f, src.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.Path, err)
	}
	return &saved{From: src.Path, CSV: strings.EqualFold(filepath.Ext(src.Path), ".csv"), ETag: tag, Good: time.Now(), Body: body}, nil
}

func (s *RecordStore) etag(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.sources[name]; st != nil {
		return st.etag
	}
	return ""
}

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(body)) > limit {
		return nil, fmt.Errorf("more than max_bytes, %d bytes", limit)
	}
	return body, err
}

const maxRedirects = 3

// fetch asks an endpoint. The source's timeout holds for all of it, the body too.
func (s *RecordStore) fetch(ctx context.Context, src operator.Source) (*saved, error) {
	ctx, cancel := context.WithTimeout(ctx, src.Timeout)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { s.met(src.Name, i.Conn.RemoteAddr()) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, src.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/yaml;q=0.9, text/csv;q=0.8")
	if tag := s.etag(src.Name); tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	client := http.Client{CheckRedirect: checkRedirect}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotModified:
		return nil, nil
	case http.StatusOK:
	default:
		return nil, fmt.Errorf("%s: status %s", src.URL, resp.Status)
	}
	body, err := readAtMost(resp.Body, src.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.URL, err)
	}
	return &saved{From: src.URL, CSV: isCSV(resp, src.URL), ETag: resp.Header.Get("ETag"), Good: time.Now(), Body: body}, nil
}

// checkRedirect follows a few, to the same host only: a record does not choose
// whom the gateway talks to.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch first := via[0].URL; {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case req.URL.Host != first.Host, first.Scheme == "https" && req.URL.Scheme != "https":
		return errors.New("redirected to another host, or out of TLS")
	}
	return nil
}

func isCSV(resp *http.Response, from string) bool {
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && kind == "text/csv" {
		return true
	}
	u, err := url.Parse(from)
	return err == nil && strings.HasSuffix(u.Path, ".csv")
}

func (s *RecordStore) met(name string, remote net.Addr) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.sources[name]; st != nil {
		st.remote = netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), tcp.AddrPort().Port())
	}
}

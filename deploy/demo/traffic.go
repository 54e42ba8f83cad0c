package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	visitPatience = 4 * time.Second
	freshPatience = 6 * time.Second // a worker's next line: its round is twice a second
)

// fromOutside is a client whose connections start in the outside namespace.
func fromOutside(connect time.Duration) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
			err = inNetns(outsidePath(), func() (err error) {
				conn, err = net.DialTimeout(network, address, connect)
				return err
			})
			return conn, err
		},
	}}
}

func front(path string) string { return "http://" + net.JoinHostPort(outsideHost, frontPort) + path }

// visit asks the shop's front page from outside: web, app, database and cache
// all take part in the answer.
func (s *stage) visit(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, visitPatience)
	defer cancel()
	body, err := get(ctx, front("/"), visitPatience)
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, 1<<16))
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(string(text), "ok ") {
		return "", fmt.Errorf("the shop says %q", text)
	}
	return strings.TrimSpace(string(text)), nil
}

func get(ctx context.Context, url string, connect time.Duration) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	reply, err := fromOutside(connect).Do(req)
	if err != nil {
		return nil, err
	}
	if reply.StatusCode != http.StatusOK {
		defer reply.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(reply.Body, 512))
		return nil, fmt.Errorf("%s: %s: %s", url, reply.Status, strings.TrimSpace(string(text)))
	}
	return reply.Body, nil
}

// ordinary checks that what the services are there for works.
func (s *stage) ordinary(ctx context.Context, r *report) error {
	said, err := s.visit(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		said = err.Error()
	}
	r.line(err == nil, "outside -> shop/web -> shop/app -> shop/db, shop/cache: %s", said)
	for _, worker := range []struct{ service, path string }{
		{"shop/worker", "shop/worker -> shop/cache"},
		{"blog/site", "blog/site -> blog/db"},
		{"media/client", "media/client -> media/web"},
	} {
		said, err := s.fresh(ctx, worker.service)
		if err != nil {
			return err
		}
		r.line(strings.HasPrefix(said, "ok"), "%s: %s", worker.path, said)
	}
	return nil
}

// fresh returns the last line that a worker logs from now on: the first good
// one, or what it said when patience ended.
func (s *stage) fresh(ctx context.Context, service string) (string, error) {
	id := s.containers[service].id
	since := time.Now()
	last := "it says nothing"
	for time.Since(since) < freshPatience {
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return "", err
		}
		out, err := docker(ctx, "logs", "--since", since.Format(time.RFC3339Nano), id)
		if err != nil {
			return "", err
		}
		if out == "" {
			continue
		}
		lines := strings.Split(out, "\n")
		last = lines[len(lines)-1]
		if strings.HasPrefix(last, "ok") {
			break
		}
	}
	return last, nil
}

// stream is a long-lived conversation through the front: outside to web, web
// to app, and app's one connection to the database, each line a query.
type stream struct {
	lines  atomic.Int64
	broken atomic.Pointer[error]
	gap    atomic.Int64 // longest time between two lines, nanoseconds
}

// bulk counts the bytes of one that flows as fast as it can.
type bulk struct{ bytes atomic.Int64 }

// load is what goes on while the gateway is killed.
type load struct {
	streams []*stream
	bulk    bulk
	cancel  context.CancelFunc
	wait    sync.WaitGroup
}

const streamCount = 4

func startLoad(ctx context.Context) (*load, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	for range streamCount {
		body, err := get(ctx, front("/stream"), visitPatience)
		if err != nil {
			l.stop()
			return nil, err
		}
		st := &stream{}
		l.streams = append(l.streams, st)
		l.wait.Go(func() { defer body.Close(); st.follow(ctx, body) })
	}
	body, err := get(ctx, front("/bulk"), visitPatience)
	if err != nil {
		l.stop()
		return nil, err
	}
	l.wait.Go(func() { defer body.Close(); l.bulk.follow(body) })
	return l, nil
}

func (l *load) stop() {
	l.cancel()
	l.wait.Wait()
}

// follow checks that each line has the number after the one before.
func (s *stream) follow(ctx context.Context, body io.Reader) {
	in := bufio.NewScanner(body)
	last := time.Now()
	for in.Scan() {
		if want := fmt.Sprint(s.lines.Load()+1, " 42"); in.Text() != want {
			s.fail(fmt.Errorf("%q in place of %q", in.Text(), want))
			return
		}
		s.lines.Add(1)
		s.gap.Store(max(s.gap.Load(), int64(time.Since(last))))
		last = time.Now()
	}
	if ctx.Err() == nil {
		s.fail(errors.Join(errors.New("the stream ended"), in.Err()))
	}
}

func (s *stream) fail(err error) { s.broken.Store(&err) }

func (b *bulk) follow(body io.Reader) {
	buffer := make([]byte, 256<<10)
	for {
		n, err := body.Read(buffer)
		b.bytes.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// marks are the counters of a load at one moment.
type marks struct {
	lines []int64
	bytes int64
}

func (l *load) marks() marks {
	m := marks{bytes: l.bulk.bytes.Load()}
	for _, s := range l.streams {
		m.lines = append(m.lines, s.lines.Load())
		s.gap.Store(0)
	}
	return m
}

// since returns what the slowest stream and the bulk did since m, and the
// first stream's failure.
func (l *load) since(m marks) (lines, bytes int64, gap time.Duration, err error) {
	lines = -1
	for i, s := range l.streams {
		if n := s.lines.Load() - m.lines[i]; lines < 0 || n < lines {
			lines = n
		}
		gap = max(gap, time.Duration(s.gap.Load()))
		if broken := s.broken.Load(); broken != nil && err == nil {
			err = *broken
		}
	}
	return lines, l.bulk.bytes.Load() - m.bytes, gap, err
}

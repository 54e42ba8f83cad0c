// Command app is the application of the demo and of the Docker tests: a web
// service that counts visits in Redis, writes orders to PostgreSQL, reads from
// MariaDB or asks another web service, whichever its environment names, as
// such applications do.
//
//	DATABASE_URL  postgresql://user@host[:port]/name or mysql://user@host[:port]/name
//	REDIS_URL     redis://host[:port]
//	API_URL       http://host[:port]/path
//	ROUND_EVERY   do a round that often and log what came of it, as workers do
//
// GET / does one round of all of them. GET /stream sends a numbered line each
// 50 ms, made with one connection to the database that is kept. GET /bulk
// sends as much as the client takes.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	listen   = ":8000"
	patience = 2 * time.Second // for one dependency
	tick     = 50 * time.Millisecond
)

// database is one open connection to a server that answers a query with one value.
type database interface {
	Query(sql string) (string, error)
	Close() error
}

type app struct {
	database, redis, api *url.URL
	client               http.Client
}

func main() {
	a, err := newApp(os.Getenv)
	if err != nil {
		log.Fatal(err)
	}
	every, err := time.ParseDuration(cmp.Or(os.Getenv("ROUND_EVERY"), "0s"))
	if err != nil {
		log.Fatal("ROUND_EVERY: ", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if every > 0 {
		go a.work(ctx, every)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.serveRound)
	mux.HandleFunc("GET /stream", a.serveStream)
	mux.HandleFunc("GET /bulk", serveBulk)
	server := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: patience}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func newApp(getenv func(string) string) (*app, error) {
	a := &app{client: http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}}
	for key, to := range map[string]**url.URL{"DATABASE_URL": &a.database, "REDIS_URL": &a.redis, "API_URL": &a.api} {
		value := getenv(key)
		if value == "" {
			continue
		}
		u, err := url.Parse(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		*to = u
	}
	return a, nil
}

// open connects to the database, logged in.
func (a *app) open() (database, error) {
	user, name := a.database.User.Username(), strings.TrimPrefix(a.database.Path, "/")
	switch a.database.Scheme {
	case "postgresql":
		conn, err := dial(a.database, "5432")
		if err != nil {
			return nil, err
		}
		return startPostgres(conn, user, name)
	case "mysql":
		conn, err := dial(a.database, "3306")
		if err != nil {
			return nil, err
		}
		return startMySQL(conn, user, name)
	}
	return nil, fmt.Errorf("DATABASE_URL: unknown scheme %q", a.database.Scheme)
}

func dial(u *url.URL, port string) (net.Conn, error) {
	if u.Port() != "" {
		port = u.Port()
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), patience)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// query is what one visit asks the database, in its own dialect.
func (a *app) query() string {
	if a.database.Scheme == "postgresql" {
		return "CREATE TABLE IF NOT EXISTS orders(at timestamptz); INSERT INTO orders VALUES (now()); SELECT count(*) FROM orders"
	}
	return "SELECT 6*7"
}

// round uses each dependency once and returns what they said.
func (a *app) round() (string, error) {
	var said []string
	if a.redis != nil {
		n, err := increment(a.redis, "visits")
		if err != nil {
			return "", fmt.Errorf("redis: %w", err)
		}
		said = append(said, fmt.Sprintf("visits=%d", n))
	}
	if a.database != nil {
		db, err := a.open()
		if err != nil {
			return "", fmt.Errorf("database: %w", err)
		}
		defer db.Close()
		v, err := db.Query(a.query())
		if err != nil {
			return "", fmt.Errorf("database: %w", err)
		}
		said = append(said, "rows="+v)
	}
	if a.api != nil {
		reply, err := a.client.Get(a.api.String())
		if err != nil {
			return "", fmt.Errorf("api: %w", err)
		}
		defer reply.Body.Close()
		n, err := io.Copy(io.Discard, reply.Body)
		if err != nil {
			return "", fmt.Errorf("api: %w", err)
		}
		said = append(said, fmt.Sprintf("api=%d/%d", reply.StatusCode, n))
	}
	return strings.Join(said, " "), nil
}

// work logs one line a round until ctx ends.
func (a *app) work(ctx context.Context, every time.Duration) {
	for {
		said, err := a.round()
		if err != nil {
			fmt.Println("failed", err)
		} else {
			fmt.Println("ok", said)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

func (a *app) serveRound(w http.ResponseWriter, _ *http.Request) {
	said, err := a.round()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprintln(w, "ok", said)
}

// serveStream ends with an error line when its database connection fails.
func (a *app) serveStream(w http.ResponseWriter, r *http.Request) {
	if a.database == nil {
		http.Error(w, "no DATABASE_URL", http.StatusNotImplemented)
		return
	}
	db, err := a.open()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer db.Close()
	flush := http.NewResponseController(w)
	every := time.NewTicker(tick)
	defer every.Stop()
	for n := 1; ; n++ {
		v, err := db.Query("SELECT 6*7")
		if err != nil {
			fmt.Fprintln(w, "error", err)
			return
		}
		if _, err := fmt.Fprintln(w, n, v); err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-every.C:
		}
	}
}

func serveBulk(w http.ResponseWriter, _ *http.Request) {
	block := make([]byte, 64<<10)
	for {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

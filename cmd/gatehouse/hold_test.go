package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/control"
	"gatehouse/policy"
)

// explained asks the desk whether web may call db.
func (d *desk) explained(app string) (string, int) {
	out, errs, code := d.verb("explain", "--from", "shop/web", "--to", "shop/db", "--port", "tcp/5432", "--app", app)
	return out + errs, code
}

// set is what status says that people and systems of record set.
func (d *desk) set() SituationStatus { return d.situation(d.control.State()) }

// shown is the same as status shows it.
func (d *desk) shown() string {
	var b strings.Builder
	s := d.set()
	s.write(&b)
	return b.String() + strings.Join(s.problems(), "\n")
}

// follow has the desk's files followed as `run` does, until the test ends.
func (d *desk) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { d.inputs.files.Run(ctx, d.control.SetRules) })
	done.Go(func() { d.inputs.records.Run(ctx) })
	done.Go(func() { d.control.Run(ctx) })
	d.t.Cleanup(func() { cancel(); done.Wait() })
}

// eventually waits for what other goroutines do.
func (d *desk) eventually(what string, is func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("%s: not so after a minute", what)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const denyWeb = `schema: gatehouse.statements/v1
statements:
  - id: no-web
    verdict: deny
    enforce: always
    from: [{service: shop/web}]
    to: [{role: database}]
    app: [postgresql]
    ports: [any]
    why: ticket 12
    owner: the database team
`

// Statements in a folder take effect and go again; a file with a fault, or half
// of one, changes nothing but status.
func TestStatementFiles(t *testing.T) {
	dir := t.TempDir()
	d := openDesk(t, t.TempDir(), func(s *Settings) { s.Statements = dir })
	d.follow()
	if out, _ := d.explained("postgresql"); strings.Contains(out, "no-web") {
		t.Fatal(out)
	}
	path := filepath.Join(dir, "db.yaml")
	write(t, path, denyWeb)
	denied := func() bool { out, _ := d.explained("postgresql"); return strings.Contains(out, `statement "no-web"`) }
	d.eventually("the statement is in force", denied)
	out, code := d.explained("postgresql")
	for _, want := range []string{path + ":3", "ticket 12", "owner the database team", "deny shop/web -> role/database : postgresql any", "change or remove"} {
		if code != exitNo || !strings.Contains(out, want) {
			t.Errorf("explain lacks %q:\n%s", want, out)
		}
	}
	for _, broken := range []string{denyWeb[:len(denyWeb)/2], strings.Replace(denyWeb, "role: database", "role: databse", 1), "", "\x00\x01"} {
		write(t, path, broken)
		d.eventually("status tells", func() bool { return d.set().Files != "" })
		if s := d.set(); !strings.Contains(s.Files, path) || !denied() {
			t.Errorf("%q: fault %q, still denied %t", broken, s.Files, denied())
		}
		write(t, path, denyWeb)
		d.eventually("good again", func() bool { return d.set().Files == "" })
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	d.eventually("the statement is gone", func() bool { return !denied() })
}

// A restart with a fault in the files goes on with the last good ones.
func TestLastGoodFiles(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "db.yaml")
	write(t, path, denyWeb)
	openDesk(t, state, func(s *Settings) { s.Statements = dir })
	write(t, path, denyWeb[:90])
	d := openDesk(t, state, func(s *Settings) { s.Statements = dir })
	if out, code := d.explained("postgresql"); code != exitNo || !strings.Contains(out, "no-web") || d.set().Files == "" {
		t.Errorf("%d %q\n%s", code, d.set().Files, out)
	}
	if _, _, err := control.OpenFiles(control.Files{Statements: dir, LastGood: filepath.Join(t.TempDir(), "none")}, nil); err == nil || !strings.Contains(err.Error(), path+":") {
		t.Errorf("a first start with a fault: %v", err)
	}
}

// A state folder that takes nothing keeps no gateway from starting, nor files from
// taking effect: it is told, and what is in force is kept as soon as it can be.
func TestFilesOnAFullDisk(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	path, kept := filepath.Join(dir, "db.yaml"), filepath.Join(state, "last")
	files := control.Files{Statements: dir, LastGood: filepath.Join(kept, "files.json")}
	open := func() *control.FileWatch {
		t.Helper()
		w, rules, err := control.OpenFiles(files, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if len(rules.Policy.Statements) != 1 {
			t.Fatalf("%d statements", len(rules.Policy.Statements))
		}
		return w
	}
	write(t, path, denyWeb)
	w := open()
	if text := w.Unkept(); !strings.Contains(text, kept) {
		t.Errorf("where nothing can be written: %q", text)
	}
	if text, _ := w.Fault(); text != "" {
		t.Errorf("the files have no fault: %q", text)
	}
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { w.Run(ctx, func(*control.Rules) error { return nil }) })
	t.Cleanup(func() { cancel(); done.Wait() })
	(&desk{t: t}).eventually("it is kept", func() bool { return w.Unkept() == "" })
	write(t, path, "half")
	if text, _ := open().Fault(); !strings.Contains(text, path) {
		t.Errorf("the last good files stand in, and the fault is %q", text)
	}
}

// The mode in a file goes before the verb (V5).
func TestModeByFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "m.yaml"), "schema: gatehouse.statements/v1\nstatements: []\nmodes: {shop/db: enforce}\n")
	d := openDesk(t, t.TempDir(), func(s *Settings) { s.Statements = dir })
	_, errs, code := d.verb("mode", "shop/db", "observe")
	if code != exitUsage || !strings.Contains(errs, "change it there") {
		t.Errorf("%d %s", code, errs)
	}
	for _, s := range d.services() {
		if s.Service == "shop/db" && s.Mode != policy.Enforce {
			t.Errorf("%s is %s", s.Service, s.Mode)
		}
	}
}

func TestQuarantine(t *testing.T) {
	state := t.TempDir()
	d := openDesk(t, state)
	cut := func(d *desk, what string) bool {
		out, _ := d.explained("postgresql")
		return strings.Contains(out, what+" is in quarantine")
	}
	if _, errs, code := d.verb("quarantine", "shop/nobody", "--why", "x"); code != exitUsage || !strings.Contains(errs, "no service") {
		t.Errorf("%d %s", code, errs)
	}
	if _, _, code := d.verb("quarantine", "shop/db"); code != exitUsage {
		t.Errorf("without why: %d", code)
	}
	for _, subject := range []string{"shop/db", "shop-db-1"} {
		if out, errs, code := d.verb("quarantine", subject, "--for", "1h", "--why", "incident 12"); code != exitGood || !strings.Contains(out, "incident 12") {
			t.Fatalf("%d %s%s", code, out, errs)
		}
		if !cut(d, subject) {
			out, _ := d.explained("postgresql")
			t.Errorf("%s is not cut off, in observe mode:\n%s", subject, out)
		}
		again := openDesk(t, state)
		if q := again.set().Quarantines; !cut(again, subject) || len(q) != 1 || q[0].Subject != subject || q[0].Why != "incident 12" {
			t.Errorf("after a restart: %v", q)
		}
		if _, errs, code := d.verb("release", subject); code != exitGood || cut(d, subject) {
			t.Errorf("release: %d %s", code, errs)
		}
		if _, _, code := d.verb("release", subject); code != exitUsage {
			t.Errorf("released twice: %d", code)
		}
	}
	d.follow()
	if _, errs, code := d.verb("quarantine", "shop/db", "--for", "300ms", "--why", "short"); code != exitGood {
		t.Fatal(errs)
	}
	d.eventually("it ends by itself", func() bool { return !cut(d, "shop/db") })
}

// Cutting one of two equal containers off leaves the other.
func TestQuarantineOfOneContainer(t *testing.T) {
	d := openDesk(t, t.TempDir())
	d.put("web", "docker.io/library/nginx", "172.30.0.2")
	second := policy.Workload{ID: "web-two", Name: "shop-web-2", Compose: true, Service: policy.ServiceKey{Project: shopProject, Name: "web"},
		Image: policy.Image{Ref: "web:1", Repository: "docker.io/library/nginx"}}
	d.inv.Put(second)
	d.refresh()
	if _, errs, code := d.verb("quarantine", "shop-web-2", "--why", "x"); code != exitGood {
		t.Fatal(errs)
	}
	groups := d.control.State().Population.Groups
	var web [][]string
	for _, g := range groups {
		if g.Service.Name == "web" {
			web = append(web, g.Members)
		}
	}
	if len(web) != 2 {
		t.Fatalf("identities of shop/web: %v", web)
	}
	for _, s := range d.control.State().Statements() {
		if strings.HasPrefix(s.ID, "quarantine-out") && len(s.From[0].Selected.Identities) != 1 {
			t.Errorf("%v", s.From[0].Selected)
		}
	}
}

// A threat level brings a statement in force at once, outlives a restart, and
// ends.
func TestThreat(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "s.yaml"), denyWeb+"    when: {threat: {gte: elevated}}\n")
	d := openDesk(t, state, func(s *Settings) { s.Statements = dir })
	denied := func(d *desk) bool {
		out, _ := d.explained("postgresql")
		return strings.Contains(out, `statement "no-web"`)
	}
	if denied(d) {
		t.Fatal("denied while all is calm")
	}
	if out, _, _ := d.verb("get", "statements"); !strings.Contains(out, "[pending: threat>=elevated]") {
		t.Errorf("the condition is not shown:\n%s", out)
	}
	if _, errs, code := d.verb("threat", "set", "orange"); code != exitUsage || !strings.Contains(errs, "normal, elevated, high, critical") {
		t.Errorf("%d %s", code, errs)
	}
	if out, errs, code := d.verb("threat", "set", "high", "--why", "incident 12"); code != exitGood || !denied(d) {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if out, _ := d.explained("postgresql"); !strings.Contains(out, "threat>=elevated") {
		t.Errorf("explain does not say by which condition:\n%s", out)
	}
	if out := d.shown(); !strings.Contains(out, "high, by uid") || !strings.Contains(out, "incident 12") {
		t.Errorf("status:\n%s", out)
	}
	if !denied(openDesk(t, state, func(s *Settings) { s.Statements = dir })) {
		t.Error("the level did not outlive a restart")
	}
	epoch := d.control.State().Table.Epoch()
	d.follow()
	if _, _, code := d.verb("threat", "set", "critical", "--for", "400ms"); code != exitGood || !denied(d) {
		t.Error("critical does not count as elevated")
	}
	d.eventually("the level ends", func() bool { return !denied(d) })
	if now := d.control.State().Table.Epoch(); now > epoch+2 {
		t.Errorf("%d tables for one change of the level and back", now-epoch)
	}
}

const records = `schema: gatehouse.categories/v1
source: {name: cmdb, url: %q, every: 10s, timeout: 1s, max_bytes: 4096}
categories: {risk: {ordered: [low, high]}}
`

// A system of record that lies, hangs, or never ends changes nothing, and status
// says since when; so it is over a restart.
func TestRecordEndpoint(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	var mu sync.Mutex
	answer := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, `{"records": [{"match": {"service": "shop/web"}, "set": {"risk": "high"}}]}`)
	}
	asked := 0
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		f := answer
		asked++
		mu.Unlock()
		f(w, r)
	}))
	defer endpoint.Close()
	write(t, filepath.Join(dir, "c.yaml"), fmt.Sprintf(records, endpoint.URL+"/r"))
	statements := t.TempDir()
	write(t, filepath.Join(statements, "s.yaml"), strings.Replace(denyWeb, "{service: shop/web}", "{category: {risk: {eq: high}}}", 1))
	set := func(s *Settings) { s.Statements, s.Categories = statements, dir }
	d := openDesk(t, state, set)
	d.follow()
	denied := func(d *desk) bool {
		out, _ := d.explained("postgresql")
		return strings.Contains(out, `statement "no-web"`)
	}
	d.eventually("the record counts", func() bool { return denied(d) })

	sources := d.control.State().Rules.Policy.Sources
	for name, f := range map[string]http.HandlerFunc{
		"lies": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"records": [{"match": {}, "set": {"risk": "low"}}]}`)
		},
		"is no record": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>maintenance</html>") },
		"is down":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"hangs":        func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"hangs midway": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "{")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"never ends": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				fmt.Fprint(w, strings.Repeat(" ", 1024))
			}
		},
		"leads away": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
		},
		"leads in rings": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/r", http.StatusFound) },
	} {
		mu.Lock()
		answer = f
		mu.Unlock()
		d.inputs.records.Ask(context.Background(), sources[0])
		if s := d.inputs.records.Status()[0]; s.Fault == "" || s.Since.IsZero() || s.Records != 1 || !denied(d) {
			t.Errorf("an endpoint that %s: %+v, still denied %t", name, s, denied(d))
		}
	}
	if out := d.shown(); !strings.Contains(out, "system of record cmdb fails since") {
		t.Errorf("status does not tell:\n%s", out)
	}
	again := openDesk(t, state, set)
	if !denied(again) {
		t.Error("what the source said did not outlive a restart")
	}
}

// What would cut the gateway off from what it works by is refused, with the
// reason.
func TestOwnControlStays(t *testing.T) {
	dir := t.TempDir()
	d := openDesk(t, t.TempDir(), func(s *Settings) { s.Statements = dir; s.Docker = "tcp://172.30.0.3:2375" })
	d.follow()
	cut := strings.NewReplacer("{service: shop/web}", "{peer: host}", "{role: database}", "{service: shop/db}", "[postgresql]", "[any]").Replace(denyWeb)
	write(t, filepath.Join(dir, "s.yaml"), cut)
	d.eventually("it is refused", func() bool { return d.set().Files != "" })
	if got := d.set().Files; !strings.Contains(got, "would cut the gateway off from Docker at 172.30.0.3:2375") || !strings.Contains(got, "no-web") {
		t.Error(got)
	}
	if _, errs, code := d.verb("quarantine", "shop/db", "--why", "x"); code == exitGood || !strings.Contains(errs, "would cut the gateway off") || len(d.set().Quarantines) != 0 {
		t.Errorf("%d %s", code, errs)
	}
	write(t, filepath.Join(dir, "s.yaml"), cut+"    except: [{ports: [tcp/2375]}]\n")
	d.eventually("with an exception it counts", func() bool { return d.set().Files == "" })
}

// A threat level that no statement asks for is in force and shown, and so are
// files that change nothing of the table; no flow is judged again for that.
func TestThreatThatNothingAsksFor(t *testing.T) {
	d := openDesk(t, t.TempDir())
	epoch := d.control.State().Table.Epoch()
	if _, errs, code := d.verb("threat", "set", "high", "--why", "advisory 7"); code != exitGood {
		t.Fatal(errs)
	}
	if shown := d.shown(); !strings.Contains(shown, "high, by uid") || !strings.Contains(shown, "advisory 7") {
		t.Errorf("status shows %q", shown)
	}
	if now := d.control.State().Table.Epoch(); now != epoch {
		t.Errorf("table %d, was %d", now, epoch)
	}
}

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/control/history"
	"gatehouse/control/statefile"
	"gatehouse/models"
	"gatehouse/policy"
)

// findingDrift is a finding about what a service was seen to serve.
const findingDrift = "drift"

// drift compares what workloads are seen to serve with what their models say.
// It makes findings, and widens no policy. It is asked once for each record that
// begins, so a flood of flows costs it nothing more.
type drift struct {
	path string
	log  *slog.Logger
	now  func() time.Time

	mu    sync.Mutex
	seen  map[served]*sighting
	dirty bool
}

// served is one application on one port of one service.
type served struct {
	Service string     `json:"service"`
	Proto   string     `json:"proto"`
	Port    uint16     `json:"port"`
	App     policy.App `json:"app"`
	Model   string     `json:"model"`  // that the service has: mariadb@1
	Denied  bool       `json:"denied"` // not what is allowed there
}

// sighting is what is known of it; clients are names or addresses.
type sighting struct {
	Served  served    `json:"served"`
	Clients []string  `json:"clients"` // the first few
	Records int       `json:"records"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

// Bounds: beyond them the longest unseen goes first.
const (
	sightingsKept    = 512
	sightingsOfOne   = 16 // of one service: a client that speaks all it knows must not fill the list
	clientsKept      = 8
	driftClients     = 3 // that many must agree
	driftForget      = 7 * 24 * time.Hour
	driftWriteEvery  = 30 * time.Second
	driftFileMaximum = 1 << 20
)

func openDrift(path string, log *slog.Logger) *drift {
	d := &drift{path: path, log: log, now: time.Now, seen: make(map[served]*sighting)}
	data, err := os.ReadFile(path)
	if err != nil {
		return d // none yet
	}
	var list []*sighting
	if len(data) > driftFileMaximum || json.Unmarshal(data, &list) != nil {
		log.Warn("what services were seen to serve cannot be read, and is gathered anew", "file", path)
		return d
	}
	for _, s := range list {
		if s != nil && len(d.seen) < sightingsKept && len(s.Clients) <= clientsKept {
			d.seen[s.Served] = s
		}
	}
	return d
}

// observe takes a record that begins. Only what was let by, and answered, shows
// what is served.
func (d *drift) observe(r *history.Record) {
	app := r.Spoken.App
	if r.Spoken.Sub != policy.AppNone {
		app = r.Spoken.Sub
	}
	if r.Kind != history.Flow || r.To.Service.Name == "" || r.Summed || r.ControlPort != 0 || r.Verdict != policy.Allow || r.Packets[1] == 0 ||
		app == policy.AppNone || app == policy.AppUnknown || app == policy.AppTLS || app == policy.AppDTLS || app == policy.AppICMP || app == policy.AppICMPv6 {
		return
	}
	misfit := r.Denied && (r.Reason == policy.ReasonApp || r.Reason == policy.ReasonProtocolMismatch)
	if model, _, _ := strings.Cut(r.To.Model, "@"); !misfit && model != "custom" {
		return
	}
	k := served{Service: r.To.Service.String(), Proto: r.Proto.String(), Port: r.Port, App: app, Model: r.To.Model, Denied: misfit}
	client := r.From.Name
	if strings.HasPrefix(client, "@") && r.Src.IsValid() {
		client = r.Src.String()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty = true
	s := d.seen[k]
	if s == nil {
		d.makeRoom(k.Service)
		s = &sighting{Served: k, First: r.First}
		d.seen[k] = s
	}
	s.Records++
	s.Last = r.Last
	if len(s.Clients) < clientsKept && !slices.Contains(s.Clients, client) {
		s.Clients = append(s.Clients, client)
	}
}

// makeRoom forgets the longest unseen of a service that has its share, or of
// all.
func (d *drift) makeRoom(service string) {
	var oldest, own *sighting
	n := 0
	older := func(a, b *sighting) *sighting {
		if a == nil || b.Last.Before(a.Last) {
			return b
		}
		return a
	}
	for _, s := range d.seen {
		oldest = older(oldest, s)
		if s.Served.Service == service {
			own = older(own, s)
			n++
		}
	}
	switch {
	case n >= sightingsOfOne:
		delete(d.seen, own.Served)
	case len(d.seen) >= sightingsKept:
		delete(d.seen, oldest.Served)
	}
}

// findings are those that enough clients agree on, of the last week, of
// services that still have the model that they had then.
func (d *drift) findings(library *models.Library, groups []policy.Group) []Finding {
	type named struct{ service, model string }
	present := make(map[named]bool, len(groups))
	for i := range groups {
		present[named{groups[i].Service.String(), modelText(&groups[i])}] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []Finding{}
	for k, s := range d.seen {
		if len(s.Clients) < driftClients || d.now().Sub(s.Last) > driftForget || !present[named{k.Service, k.Model}] {
			continue
		}
		where := fmt.Sprintf("serves %s on %s/%d to %d or more clients (%s)", k.App, k.Proto, k.Port, len(s.Clients), strings.Join(s.Clients, ", "))
		if k.Denied {
			out = append(out, Finding{Kind: findingDrift, Subject: k.Service, Text: fmt.Sprintf("%s, which is not what its model %s says: policy stays as it is", where, k.Model)})
			continue
		}
		if model := proposal(library, k); model != "" {
			out = append(out, Finding{Kind: string(models.FindingProposedModel), Subject: k.Service, Text: fmt.Sprintf("%s: looks like %s; say label %s=%s if it is", where, model, models.LabelModel, model)})
		}
	}
	slices.SortFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Text, b.Text))
	})
	return out
}

// proposal is the model that serves an application on a port, "" where none
// does or the application is everybody's.
func proposal(library *models.Library, k served) string {
	if k.App.Is(policy.AppHTTP) && k.App != policy.AppElasticsearch {
		return ""
	}
	best := ""
	for _, m := range library.Models() {
		serves := slices.ContainsFunc(m.Serves, func(e models.Entry) bool { return e.App == k.App && e.Kind == models.KindData })
		switch {
		case !serves || m.Name == "custom":
		case m.Name == k.App.String():
			return m.Name
		case best == "" || m.Name < best:
			best = m.Name
		}
	}
	return best
}

// save writes what is new; a failure is tried again at the next.
func (d *drift) save() {
	d.mu.Lock()
	if !d.dirty {
		d.mu.Unlock()
		return
	}
	list := make([]*sighting, 0, len(d.seen))
	for _, s := range d.seen {
		if d.now().Sub(s.Last) <= driftForget {
			list = append(list, s)
		}
	}
	data, err := json.Marshal(list)
	d.dirty = false
	d.mu.Unlock()
	if err == nil {
		err = statefile.Write(d.path, data)
	}
	if err != nil {
		d.mu.Lock()
		d.dirty = true
		d.mu.Unlock()
	}
}

func driftFile(set Settings) string { return filepath.Join(set.State, "drift.json") }

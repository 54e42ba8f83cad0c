package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/control/history"
	"gatehouse/models"
	"gatehouse/policy"
)

func TestDrift(t *testing.T) {
	library, err := models.Open("")
	if err != nil {
		t.Fatal(err)
	}
	key := func(name string) policy.ServiceKey {
		return policy.ServiceKey{Project: policy.ProjectKey{Name: "shop"}, Name: name}
	}
	groups := []policy.Group{{Service: key("own"), Model: "custom", Revision: 1}, {Service: key("db"), Model: "postgresql", Revision: 1}}
	now := time.Now()
	served := func(service, model string, app policy.App, client int, edit ...func(*history.Record)) *history.Record {
		r := &history.Record{First: now, Last: now, Port: 5432, Packets: [2]uint64{9, 9}, Flows: 1,
			From: history.Party{Name: "@site"}, To: history.Party{Name: "shop/" + service, Service: key(service), Model: model},
			Key: history.Key{Proto: policy.ProtoTCP, Verdict: policy.Allow, Spoken: policy.Spoken{App: app}, Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(client)})}}
		for _, e := range edit {
			e(r)
		}
		return r
	}
	misfit := func(r *history.Record) { r.Denied, r.Reason = true, policy.ReasonApp }
	for _, tt := range []struct {
		name   string
		record func(client int) *history.Record
		want   string // "" = nothing to tell
	}{
		{"own software that serves a database", func(i int) *history.Record { return served("own", "custom@1", policy.AppPostgreSQL, i) }, "proposed-model shop/own: serves postgresql on tcp/5432"},
		{"own software that serves the web", func(i int) *history.Record { return served("own", "custom@1", policy.AppHTTP, i) }, ""},
		{"a database as its model says", func(i int) *history.Record { return served("db", "postgresql@1", policy.AppPostgreSQL, i) }, ""},
		{"a database that speaks ssh", func(i int) *history.Record { return served("db", "postgresql@1", policy.AppSSH, i, misfit) }, "drift shop/db: serves ssh"},
		{"one client alone", func(int) *history.Record { return served("own", "custom@1", policy.AppPostgreSQL, 1) }, ""},
		{"never answered", func(i int) *history.Record {
			return served("own", "custom@1", policy.AppPostgreSQL, i, func(r *history.Record) { r.Packets[1] = 0 })
		}, ""},
		{"dropped", func(i int) *history.Record {
			return served("db", "postgresql@1", policy.AppSSH, i, misfit, func(r *history.Record) { r.Verdict = policy.Drop })
		}, ""},
		{"a model that it has no more", func(i int) *history.Record { return served("db", "custom@1", policy.AppMySQL, i) }, ""},
		{"long ago", func(i int) *history.Record {
			return served("own", "custom@1", policy.AppMySQL, i, func(r *history.Record) { r.Last = now.AddDate(0, 0, -8) })
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "drift.json")
			d := openDrift(path, slog.New(slog.DiscardHandler))
			for i := range 5 {
				d.observe(tt.record(i))
			}
			d.save()
			for _, d := range []*drift{d, openDrift(path, slog.New(slog.DiscardHandler))} { // and after a restart
				got := d.findings(library, groups)
				if (len(got) == 1) != (tt.want != "") || len(got) == 1 && !strings.HasPrefix(got[0].Kind+" "+got[0].Subject+": "+got[0].Text, tt.want) {
					t.Errorf("%+v", got)
				}
			}
		})
	}
	// Bounded, whatever is spoken, and a file that is none is no end.
	path := filepath.Join(t.TempDir(), "drift.json")
	_ = os.WriteFile(path, []byte("{"), 0o600)
	d := openDrift(path, slog.New(slog.DiscardHandler))
	for i := range 5000 {
		d.observe(served(fmt.Sprintf("s%d", i%100), "custom@1", policy.AppSSH, i, func(r *history.Record) { r.Port = uint16(i) }))
	}
	perService := map[string]int{}
	for k := range d.seen {
		perService[k.Service]++
		if perService[k.Service] > sightingsOfOne {
			t.Fatalf("%s has more than its share", k.Service)
		}
	}
	if len(d.seen) > sightingsKept {
		t.Errorf("%d kept", len(d.seen))
	}
}

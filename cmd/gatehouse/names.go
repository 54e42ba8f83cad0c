package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatehouse/control"
	"gatehouse/control/statefile"
	"gatehouse/policy"
)

// knownNames are what workloads know by name, kept over restarts.
type knownNames struct {
	*policy.Names
	path string
	log  *slog.Logger
}

// namesSave is how often what has changed is written.
const namesSave = 5 * time.Second

func openNames(set Settings, log *slog.Logger) (*knownNames, error) {
	n := &knownNames{path: filepath.Join(set.State, "names.json"), log: log, Names: policy.NewNames(policy.NameLimits{
		Floor: time.Duration(set.NamesFloor) * time.Second, Ceiling: time.Duration(set.NamesCeiling) * time.Second,
	})}
	data, err := os.ReadFile(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return nil, fmt.Errorf("names: %w", err)
	}
	var list []policy.KnownName
	if err := json.Unmarshal(data, &list); err != nil {
		// Nothing opens by it: workloads ask again.
		log.Warn("what names stand for is not readable and starts anew", "file", n.path, "error", err)
		return n, nil
	}
	n.Load(list, time.Now())
	return n, nil
}

// keep writes what has changed, until ctx ends, and then once more.
func (n *knownNames) keep(ctx context.Context) {
	t := time.NewTicker(namesSave)
	defer t.Stop()
	var saved uint64
	failed := false // told already
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-t.C:
		}
		now := n.Changed()
		if now == saved && running {
			continue
		}
		err := n.save()
		switch {
		case err == nil:
			saved = now
		case !failed:
			n.log.Error("cannot keep what names stand for over a restart", "error", err)
		}
		failed = err != nil
	}
}

func (n *knownNames) save() error {
	data, err := json.Marshal(n.List())
	if err != nil {
		return err
	}
	return statefile.Write(n.path, data)
}

// NameView is one item of GET /v1/names.
type NameView struct {
	Service    string     `json:"service"`
	Container  string     `json:"container"`
	Name       string     `json:"name"`
	Chain      []string   `json:"chain,omitempty"`
	Address    netip.Addr `json:"address"`
	Resolver   netip.Addr `json:"resolver"`
	At         time.Time  `json:"at"`
	Until      time.Time  `json:"until"`
	Flows      int        `json:"flows"`
	Statements []string   `json:"statements"`
}

func (v *NameView) text() string {
	via := ""
	if len(v.Chain) > 0 {
		via = " by " + strings.Join(v.Chain, ", ")
	}
	return fmt.Sprintf("%s is %s%s: %s said so to %s at %s; for new flows until %s", v.Name, v.Address, via, v.Resolver, v.Container,
		v.At.Format(time.RFC3339), v.Until.Format(time.RFC3339))
}

func (g *gateway) knownNames() []NameView {
	st := g.control.State()
	out := []NameView{}
	if st == nil {
		return out
	}
	for _, k := range g.names.List() {
		v := NameView{Name: k.Name, Chain: k.Chain, Address: k.Address, Resolver: k.Resolver,
			At: k.At, Until: k.Until, Flows: k.Flows, Statements: []string{}}
		if w := st.View.Workload(k.Workload); w != nil {
			v.Container = w.Name
		}
		if grp := st.Population.Group(k.Workload); grp != nil {
			v.Service = grp.Service.String()
			for _, i := range st.Table.NameStatements(grp.Identity, k.Name) {
				v.Statements = append(v.Statements, st.Table.Statements()[i].ID)
			}
		}
		out = append(out, v)
	}
	return out
}

// namesAt lists the names by which a service, or a container, knows an address.
func (g *gateway) namesAt(from, to string) []NameView {
	ip, err := netip.ParseAddr(to)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(g.knownNames(), func(v NameView) bool {
		_, short, _ := strings.Cut(v.Service, "/")
		return v.Address != ip.Unmap() || from != v.Service && from != v.Container && from != short
	})
}

func nameRows(w io.Writer, items []NameView) {
	row(w, "SERVICE", "CONTAINER", "NAME", "ADDRESS", "RESOLVER", "ASKED", "UNTIL", "FLOWS", "STATEMENT")
	for _, i := range items {
		until := "over"
		if left := time.Until(i.Until); left > 0 {
			until = "in " + left.Truncate(time.Second).String()
		}
		row(w, i.Service, i.Container, i.Name, i.Address, i.Resolver, ago(i.At), until, i.Flows, strings.Join(i.Statements, ", "))
	}
}

// nameFindings says whose names cannot be learned, and what answers were not
// taken.
func nameFindings(st *control.State, refused map[string]uint64) []Finding {
	var out []Finding
	for _, who := range st.Table.NamesBlind() {
		out = append(out, Finding{Kind: "names-blind", Subject: who.Service.String(), Text: who.Why})
	}
	for _, r := range slices.Sorted(maps.Keys(refused)) {
		out = append(out, Finding{Kind: "names-refused", Subject: "gateway", Text: fmt.Sprintf("%d times part of a DNS answer was not learned: %s", refused[r], r)})
	}
	return out
}

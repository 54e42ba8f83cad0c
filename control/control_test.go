package control

import (
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/control/inventory"
	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// loop is a Control with what it published.
type loop struct {
	*Control
	inv       *inventory.Inventory
	published []*State
}

func newLoop(t *testing.T, modeFile string) *loop {
	t.Helper()
	modes, err := OpenModes(modeFile)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := Files{}.Check()
	if err != nil {
		t.Fatal(err)
	}
	holds, err := OpenHolds(filepath.Join(t.TempDir(), "holds.json"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	l := &loop{inv: inventory.New()}
	l.Control = New(Config{
		Inventory: l.inv, Rules: rules, Modes: modes, Holds: holds, Records: NewRecordStore("", log), Log: log,
		Settings: models.Settings{DefaultMode: policy.Observe}, Compile: policy.Input{Epoch: 40},
		Publish: func(s *State) { l.published = append(l.published, s) },
	})
	return l
}

var project = policy.ProjectKey{Domain: "n1", Name: "shop"}

// put adds a container of service shop/NAME on the project's network.
func (l *loop) put(name string, address string) {
	l.inv.PutNetwork(policy.Network{ID: "net", Name: "shop_default", Driver: "bridge", Zone: 3, Owner: project, Guarded: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24")}})
	l.inv.Put(l.workload(name, address))
}

// workload is the container that put adds.
func (l *loop) workload(name, address string) policy.Workload {
	return policy.Workload{ID: name, Name: name, Compose: true, Service: policy.ServiceKey{Project: project, Name: name},
		Image:     policy.Image{Repository: "docker.io/library/" + name},
		Endpoints: []policy.Endpoint{{ID: "e" + name, Network: "net", Addresses: []netip.Addr{netip.MustParseAddr(address)}}}}
}

func (l *loop) refresh(t *testing.T) *State {
	t.Helper()
	if err := l.Refresh(); err != nil {
		t.Fatal(err)
	}
	return l.State()
}

func TestRefreshPublishesOnlyNews(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.put("db", "172.30.0.2")
	if s := l.refresh(t); s.Table.Epoch() != 41 || len(l.published) != 1 {
		t.Fatalf("epoch %d, %d published", s.Table.Epoch(), len(l.published))
	}
	l.put("db", "172.30.0.2")
	if s := l.refresh(t); s.Table.Epoch() != 41 || len(l.published) != 1 {
		t.Errorf("nothing new: epoch %d, %d published", s.Table.Epoch(), len(l.published))
	}
	l.put("db", "172.30.0.3")
	if s := l.refresh(t); s.Table.Epoch() != 42 || len(l.published) != 2 {
		t.Errorf("another address: epoch %d, %d published", s.Table.Epoch(), len(l.published))
	}
}

// A label that denies an address which another one allows is in force at once, and
// no longer than it is there.
func TestDenyOfAnAllowedAddress(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.put("db", "172.30.0.2")
	l.put("web", "172.30.0.3")
	label := func(text string) {
		w := l.workload("web", "172.30.0.3")
		w.Labels = map[string]policy.Label{"gatehouse.allow.egress": {Value: "172.30.0.2:8000", By: policy.SetByDeployer}}
		if text != "" {
			w.Labels["gatehouse.deny.egress"] = policy.Label{Value: text, By: policy.SetByDeployer}
		}
		l.inv.Put(w)
	}
	q := policy.Query{Zone: 3, Src: netip.MustParseAddr("172.30.0.3").As16(), Dst: netip.MustParseAddr("172.30.0.2").As16(), Proto: policy.ProtoTCP, DstPort: 8000}
	for _, deny := range []string{"", "172.30.0.2:any", "", "172.30.0.0/24:8000", "", "172.30.0.2:8000", "", "db:any", ""} {
		label(deny)
		j := l.refresh(t).Table.Lookup(q).Judge(policy.Spoken{App: policy.AppHTTP})
		if denied := j.Side == policy.SideOut && j.Reason == policy.ReasonDenied; denied != (deny != "") {
			t.Errorf("deny %q: %+v", deny, j)
		}
	}
}

// A workload of which the engine told what cannot be is its own trouble: it is
// reported, and the others' changes come into force.
func TestBadWorkloadIsItsOwnTrouble(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.put("db", "172.30.0.2")
	l.inv.Put(policy.Workload{ID: "bad", Name: "bad", Endpoints: []policy.Endpoint{{ID: "x", Network: "nowhere", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}})
	if err := l.SetModes([]string{"shop/db"}, policy.Enforce); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range l.State().Findings() {
		found = found || f.Kind == models.FindingUnusable && f.Workload == "bad"
	}
	if !found || l.Fault() != "" {
		t.Errorf("findings %v, fault %q", l.State().Findings(), l.Fault())
	}
}

// Settings that do not compile: the last state stays in force, and whoever
// sets a mode is told that it is not.
func TestFaultKeepsTheLastState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modes.json")
	l := newLoop(t, path)
	l.put("db", "172.30.0.2")
	good := l.refresh(t)
	l.inv.PutHost(policy.Host{Name: "renamed"}) // all is compiled
	l.cfg.Compile.ExtraSite = make([]netip.Prefix, 1)
	if err := l.SetModes([]string{"shop/db"}, policy.Enforce); err == nil || !strings.Contains(err.Error(), "not in force") {
		t.Errorf("a mode that is not in force: %v", err)
	}
	if l.State() != good || len(l.published) != 1 || !strings.Contains(l.Fault(), "the last good table stays") {
		t.Errorf("the last state does not stand: %d published, fault %q", len(l.published), l.Fault())
	}
	l.cfg.Compile.ExtraSite = nil
	if s := l.refresh(t); s.Population.Groups[0].Mode != policy.Enforce || l.Fault() != "" {
		t.Errorf("after the fault: mode %v, fault %q", s.Population.Groups[0].Mode, l.Fault())
	}
	first := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	first.cfg.Compile.ExtraSite = make([]netip.Prefix, 1)
	if err := first.Refresh(); err == nil || first.State() != nil || !strings.Contains(first.Fault(), "no table was in force before") {
		t.Errorf("at the start: %v, fault %q", err, first.Fault())
	}
	if s := newLoop(t, path); s.cfg.Modes.All()["shop/db"] != policy.Enforce {
		t.Error("the mode did not outlive a restart")
	}
}

func TestBrokenModeFile(t *testing.T) {
	for _, text := range []string{"", "{", `{"shop/db": "off"}`, `{"shop/db": 1}`, "[]"} {
		path := filepath.Join(t.TempDir(), "modes.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenModes(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A mode, a threat level or a quarantine that is in force outlives a crash: what is
// published is on disk by then.
func TestOnDiskBeforeInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modes.json")
	l := newLoop(t, path)
	l.put("db", "172.30.0.2")
	l.refresh(t)
	publish := l.cfg.Publish
	l.cfg.Publish = func(s *State) {
		publish(s)
		modes, err := OpenModes(path)
		if err != nil || modes.All()["shop/db"] != s.Population.Groups[0].Mode {
			t.Errorf("mode %v is in force, on disk %v (%v)", s.Population.Groups[0].Mode, modes.All(), err)
		}
		holds, err := OpenHolds(l.cfg.Holds.path)
		if _, is := holds.Quarantines(time.Now())["shop/db"]; err != nil || is != (len(s.Situation.Quarantines) == 1) {
			t.Errorf("quarantines %v are in force, on disk %t (%v)", s.Situation.Quarantines, is, err)
		}
	}
	for _, change := range []func() error{
		func() error { return l.SetModes([]string{"shop/db"}, policy.Enforce) },
		func() error { return l.SetModes([]string{"shop/db"}, policy.Observe) },
		func() error { return l.Quarantine("shop/db", Hold{By: "test"}) },
		func() error { _, err := l.Release("shop/db", "test", ""); return err },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.published) != 5 {
		t.Errorf("%d published", len(l.published))
	}
}

func TestHoldsThatCannotBeStoredDoNotCount(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.put("db", "172.30.0.2")
	good := l.refresh(t)
	l.cfg.Holds.path = filepath.Join(t.TempDir(), "absent", "holds.json")
	for what, err := range map[string]error{
		"quarantine": l.Quarantine("shop/db", Hold{By: "test"}),
		"threat":     l.SetThreat(operator.ThreatHigh, Hold{By: "test"}),
	} {
		if err == nil || strings.Contains(err.Error(), "not in force") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if l.State() != good || len(l.published) != 1 || l.Fault() != "" || len(l.Basis().Situation.Quarantines) > 0 || l.Basis().Situation.Threat.Level != 0 {
		t.Errorf("%d published, fault %q, holds %+v", len(l.published), l.Fault(), l.Basis().Situation)
	}
}

// A quarantine that cannot be in force is taken back, and the one before it is not.
func TestQuarantineThatCannotBeInForce(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.put("db", "172.30.0.2")
	l.put("web", "172.30.0.3")
	l.refresh(t)
	if err := l.Quarantine("shop/db", Hold{By: "first"}); err != nil {
		t.Fatal(err)
	}
	l.inv.PutHost(policy.Host{Name: "renamed"}) // all is compiled
	l.cfg.Compile.ExtraSite = make([]netip.Prefix, 1)
	for _, subject := range []string{"shop/db", "shop/web"} {
		if err := l.Quarantine(subject, Hold{By: "second"}); err == nil {
			t.Errorf("%s: no error", subject)
		}
	}
	l.cfg.Compile.ExtraSite = nil
	l.refresh(t)
	want := map[string]Hold{"shop/db": {By: "first"}}
	if got := l.State().Situation.Quarantines; !maps.Equal(got, want) {
		t.Errorf("%v is in force, want %v", got, want)
	}
	if holds, err := OpenHolds(l.cfg.Holds.path); err != nil || !maps.Equal(holds.Quarantines(time.Now()), want) {
		t.Errorf("%v on disk, %v", holds, err)
	}
}

func TestModesThatCannotBeStoredDoNotCount(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "absent", "modes.json"))
	l.put("db", "172.30.0.2")
	l.refresh(t)
	if err := l.SetModes([]string{"shop/db"}, policy.Enforce); err == nil {
		t.Error("no error")
	}
	if len(l.cfg.Modes.All()) != 0 || l.State().Population.Groups[0].Mode != policy.Observe {
		t.Error("the mode counts until the next restart only")
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/control"
	"gatehouse/control/history"
	"gatehouse/control/inventory"
	"gatehouse/dataplane"
	"gatehouse/dataplane/dataplanetest"
	"gatehouse/dataplane/steer"
	"gatehouse/models"
	"gatehouse/policy"
)

// desk is a gateway without a kernel: its API, its policy loop and its history
// are real, and the test plays the dataplane's part.
type desk struct {
	*gateway
	t      *testing.T
	socket string
	inv    *inventory.Inventory
}

// openDesk has a project shop of web (nginx), db (postgres) and stranger, on one
// network; state is its folder.
func openDesk(t *testing.T, state string, edit ...func(*Settings)) *desk {
	t.Helper()
	dir, err := os.MkdirTemp("", "ghd") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	set := defaultsOf()
	set.State = state
	for _, e := range edit {
		e(&set)
	}
	d := &desk{t: t, socket: filepath.Join(dir, "g.sock"), inv: inventory.New(),
		gateway: &gateway{settings: set, recorder: newRecorder(set, slog.New(slog.DiscardHandler)), started: time.Now()}}
	d.dataplane, err = dataplane.New(dataplane.Config{FlowMap: new(dataplanetest.FlowMap), Flows: 64})
	if err != nil {
		t.Fatal(err)
	}
	d.recorder.plane = d.dataplane
	if d.names, err = openNames(set, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	d.inputs, err = openInputs(set, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d.control = control.New(control.Config{
		Inventory: d.inv, Rules: d.inputs.rules, Modes: d.inputs.modes, Holds: d.inputs.holds, Records: d.inputs.records, Own: d.own, Log: slog.New(slog.DiscardHandler),
		Settings: models.Settings{DefaultMode: policy.Observe}, Publish: d.recorder.names.follow,
	})
	d.inv.PutHost(policy.Host{Name: "host", Addresses: []netip.Prefix{netip.MustParsePrefix("172.30.0.1/24")}})
	d.inv.PutNetwork(policy.Network{ID: "net", Name: "shop_default", Driver: "bridge", Zone: 3, Owner: shopProject, Guarded: true, ICC: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24")}})
	d.put("web", "docker.io/library/nginx", "172.30.0.2")
	d.put("db", "docker.io/library/postgres", "172.30.0.3")
	d.put("stranger", "docker.io/library/busybox", "172.30.0.4")
	d.refresh()

	api := &server{gw: d.gateway, log: slog.New(slog.DiscardHandler)}
	l, err := api.listen(d.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = d.dataplane.Run(ctx) })
	done.Go(func() { _ = api.serve(ctx, l) })
	done.Go(func() { d.recorder.run(ctx) })
	t.Cleanup(func() { cancel(); done.Wait() })
	return d
}

var shopProject = policy.ProjectKey{Domain: "n1", Name: "shop"}

func (d *desk) put(name, repository, address string) {
	d.inv.Put(policy.Workload{ID: name + "-container", Name: "shop-" + name + "-1", Compose: true, Service: policy.ServiceKey{Project: shopProject, Name: name},
		Image:     policy.Image{Ref: name + ":1", Repository: repository},
		Endpoints: []policy.Endpoint{{ID: "e" + name, Network: "net", Addresses: []netip.Addr{netip.MustParseAddr(address)}}}})
}

func (d *desk) refresh() {
	d.t.Helper()
	if err := d.control.Refresh(); err != nil {
		d.t.Fatal(err)
	}
}

// verb runs the program against the desk's socket.
func (d *desk) verb(args ...string) (out, errs string, code int) {
	var o, e bytes.Buffer
	code = run(append(args, "--socket", d.socket), strings.NewReader(""), &o, &e)
	return o.String(), e.String(), code
}

// conversed has a conversation end as the dataplane tells it.
func (d *desk) conversed(from, to string, port uint16, app policy.App, edit ...func(*dataplane.Flow)) {
	f := dataplane.Flow{
		Zone: 3, Proto: policy.ProtoTCP, Src: netip.AddrPortFrom(netip.MustParseAddr(from), 40000), Dst: netip.AddrPortFrom(netip.MustParseAddr(to), port),
		Verdict: policy.Allow, Spoken: policy.Spoken{App: app}, Rule: -1, Epoch: d.control.State().Table.Epoch(),
		Packets: [2]uint64{5, 4}, Bytes: [2]uint64{500, 4000}, First: time.Now(), Last: time.Now(),
	}
	for i, a := range [2]string{from, to} {
		f.Workload[i] = map[string]string{"172.30.0.2": "web-container", "172.30.0.3": "db-container", "172.30.0.4": "stranger-container"}[a]
	}
	for _, e := range edit {
		e(&f)
	}
	d.recorder.ended([]dataplane.Flow{f}, 0)
}

// violated has a violation be told.
func (d *desk) violated(from, to string, port uint16, reason policy.Reason, mode policy.Mode) {
	d.recorder.violated(&dataplane.Violation{
		First: time.Now(), Last: time.Now(), Zone: 3, Proto: policy.ProtoTCP, Src: netip.AddrPortFrom(netip.MustParseAddr(from), 40000),
		Dst: netip.AddrPortFrom(netip.MustParseAddr(to), port), Workload: "stranger-container", Initiator: true, Outgoing: true,
		Reason: reason, Rule: -1, Mode: mode, Packets: 2, Count: 1,
	}, 2, 0)
}

func TestRecordsByVerb(t *testing.T) {
	state := t.TempDir()
	d := openDesk(t, state)
	for range 20 {
		d.conversed("172.30.0.2", "172.30.0.3", 5432, policy.AppPostgreSQL)
	}
	d.conversed("172.30.0.2", "198.51.100.9", 443, policy.AppTLS)
	d.violated("172.30.0.4", "172.30.0.3", 5432, policy.ReasonNoRule, policy.Enforce)
	d.violated("172.30.0.4", "172.30.0.2", 22, policy.ReasonNoRule, policy.Observe)

	var flows []FlowView
	list := func(what string, into any, args ...string) {
		t.Helper()
		out, errs, code := d.verb(append([]string{"get", what, "-o", "json"}, args...)...)
		if err := json.Unmarshal([]byte(out), into); code != exitGood || err != nil {
			t.Fatalf("get %s %q: %d, %v\n%s%s", what, args, code, err, out, errs)
		}
	}
	list("flows", &flows, "--since", "1h")
	if len(flows) != 2 || flows[1].Flows+flows[0].Flows != 21 {
		t.Fatalf("%+v", flows)
	}
	list("flows", &flows, "--since", "1h", "--to", "shop/db")
	if f := flows[0]; len(flows) != 1 || f.From != "shop/web" || f.FromIs.Model != "nginx@1" || f.FromIs.Image != "web:1" || f.Packets != 180 ||
		f.App != "postgresql" || f.Dest != "172.30.0.3:5432" || f.Where != "history" {
		t.Errorf("%+v", flows)
	}
	list("flows", &flows, "--since", "1h", "--app", "tls")
	if len(flows) != 1 || flows[0].To != "@internet" {
		t.Errorf("%+v", flows)
	}
	if list("flows", &flows); len(flows) != 0 { // none lives
		t.Errorf("%+v", flows)
	}
	var violations []ViolationView
	list("violations", &violations, "--verdict", "recorded")
	if len(violations) != 1 || violations[0].Verdict != "recorded" || violations[0].From != "shop/stranger" || violations[0].Count != 2 {
		t.Errorf("%+v", violations)
	}
	for _, args := range [][]string{{"--since", "yesterday"}, {"--verdict", "maybe"}, {"--app", "gopher"}, {"--limit", "-1"}, {"--since", "1h", "--until", "2h"}} {
		if _, errs, code := d.verb(append([]string{"get", "violations"}, args...)...); code != exitUsage || !strings.Contains(errs, strings.TrimPrefix(args[0], "--")) {
			t.Errorf("%q: %d %s", args, code, errs)
		}
	}
	if out, errs, code := d.verb("get", "violations", "--limit", "1"); code != exitGood || !strings.Contains(errs, "there are more") || strings.Count(out, "\n") != 2 {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	out, _, code := d.verb("observe", "-o", "json", "--kind", "all")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != exitGood || len(lines) != 4 || !json.Valid([]byte(lines[0])) {
		t.Errorf("%d\n%s", code, out)
	}
	if out, _, _ := d.verb("observe", "--verdict", "allow", "--to", "172.30.0.0/24"); !strings.Contains(out, "20 flows, 180 packets") || strings.Count(out, "\n") != 1 {
		t.Errorf("observe:\n%s", out)
	}
	if out, _, code := d.verb("explain", violations[0].ID); code != exitNo || !strings.Contains(out, "shop/stranger") {
		t.Errorf("explain: %d\n%s", code, out)
	}

	// The stranger's container goes, and the gateway is another process: what it
	// did keeps its name.
	d.inv.Delete("stranger-container")
	d.refresh()
	id := violations[0].ID
	d.recorder.store.Close()
	again := openDesk(t, state)
	d = again
	again.inv.Delete("stranger-container")
	again.refresh()
	list("violations", &violations, "--from", "shop/stranger")
	if len(violations) != 2 {
		t.Errorf("%+v", violations)
	}
	if out, errs, _ := d.verb("explain", id); !strings.Contains(out, "shop/stranger") {
		t.Errorf("explain after a restart:\n%s%s", out, errs)
	}
}

// A flow that ends because its container does has the container's name, also
// where the state that knew it is two publications old.
func TestNamesOfTheGone(t *testing.T) {
	d := openDesk(t, t.TempDir())
	d.conversed("172.30.0.4", "172.30.0.2", 80, policy.AppHTTP)
	d.inv.Delete("stranger-container")
	d.refresh()
	d.conversed("172.30.0.4", "172.30.0.3", 80, policy.AppHTTP)
	d.put("another", "docker.io/library/redis", "172.30.0.4") // has its address now
	d.refresh()
	d.put("more", "docker.io/library/redis", "172.30.0.5")
	d.refresh()
	d.conversed("172.30.0.4", "172.30.0.3", 81, policy.AppHTTP)
	records, _, err := d.recorder.store.Rollup(history.Filter{From: "shop/stranger"}, 0)
	if err != nil || len(records) != 3 {
		t.Errorf("%d records, %v", len(records), err)
	}
}

// observe -f goes on with what comes, and its end leaves nothing behind.
func TestObserveFollows(t *testing.T) {
	d := openDesk(t, t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	body, err := clientAt(d.socket).open(ctx, "GET", withQuery("/v1/observe", url.Values{"follow": {"true"}, "to": {"shop/db"}}), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.violated("172.30.0.4", "172.30.0.2", 5432, policy.ReasonNoRule, policy.Enforce) // not asked for
	d.violated("172.30.0.4", "172.30.0.3", 5432, policy.ReasonNoRule, policy.Enforce)
	var v ViolationView
	if err := json.NewDecoder(body).Decode(&v); err != nil || v.To != "shop/db" || v.From != "shop/stranger" {
		t.Errorf("%+v, %v", v, err)
	}
	cancel()
	body.Close()
	eventually(t, "the subscription ends", func() bool { return d.recorder.store.Subscribers() == 0 }, nil)
}

// What a live flow has done is recorded before its end, and counted once.
func TestLiveFlowsAreCountedOnce(t *testing.T) {
	d := openDesk(t, t.TempDir())
	grow := func(n uint64) func(*dataplane.Flow) {
		return func(f *dataplane.Flow) {
			f.First, f.Packets, f.Bytes = d.started.Add(-time.Hour), [2]uint64{n, n}, [2]uint64{100 * n, 100 * n}
		}
	}
	// What look does with a flow that the plane lists.
	f := dataplane.Flow{}
	grow(10)(&f)
	f.Zone, f.Proto, f.Src, f.Dst = 3, policy.ProtoTCP, netip.MustParseAddrPort("172.30.0.2:40000"), netip.MustParseAddrPort("172.30.0.3:5432")
	f.Verdict, f.Workload = policy.Allow, [2]string{"web-container", "db-container"}
	d.recorder.record([]dataplane.Flow{f}, 0)
	grow(25)(&f)
	d.recorder.record([]dataplane.Flow{f}, 0)
	d.recorder.record([]dataplane.Flow{f}, 0) // nothing new
	grow(40)(&f)
	d.recorder.ended([]dataplane.Flow{f}, 0)
	// The same ports again, a conversation of its own.
	f.First, f.Packets, f.Bytes = time.Now(), [2]uint64{3, 3}, [2]uint64{300, 300}
	d.recorder.ended([]dataplane.Flow{f}, 0)
	records, _, err := d.recorder.store.Rollup(history.Filter{}, 0)
	if err != nil || len(records) != 1 || records[0].Packets != [2]uint64{43, 43} || records[0].Bytes != [2]uint64{4300, 4300} || records[0].Flows != 2 {
		t.Errorf("%+v, %v", records, err)
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestParseWhen(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"24h": now.Add(-24 * time.Hour), "7d": now.AddDate(0, 0, -7), "90m": now.Add(-90 * time.Minute),
		"2026-02-28T00:00:00Z": time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC), "2026-02-28T01:00:00+01:00": time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := parseWhen(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "yesterday", "-1h", "d", "-3d", "1.5d", "99999999d", "2026-02-28"} {
		if got, err := parseWhen(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// V6: what an enforcing service would have dropped stops the switch, until
// somebody says yes.
func TestModeAsks(t *testing.T) {
	d := openDesk(t, t.TempDir())
	recorded := func(f *dataplane.Flow) { f.Denied, f.Reason = true, policy.ReasonNoRule }
	d.conversed("172.30.0.4", "172.30.0.3", 5432, policy.AppPostgreSQL, recorded)
	d.conversed("172.30.0.4", "172.30.0.3", 5432, policy.AppPostgreSQL, recorded)
	modes := func() map[string]string {
		out := map[string]string{}
		for _, s := range d.services() {
			out[s.Service] = s.Mode.String()
		}
		return out
	}
	out, errs, code := d.verb("mode", "shop/db", "enforce")
	if code != exitNo || !strings.Contains(out, "shop/stranger") || !strings.Contains(out, "no-rule") || !strings.Contains(errs, "--yes") || modes()["shop/db"] != "observe" {
		t.Errorf("%d %v\n%s%s", code, modes(), out, errs)
	}
	if out, _, code := d.verb("mode", "shop/web", "enforce", "--dry-run"); code != exitGood || !strings.Contains(out, "none") || modes()["shop/web"] != "observe" {
		t.Errorf("%d %v\n%s", code, modes(), out)
	}
	if _, _, code := d.verb("mode", "shop/db", "enforce", "--dry-run", "--yes"); code != exitNo || modes()["shop/db"] != "observe" {
		t.Errorf("a dry run: %d %v", code, modes())
	}
	if out, errs, code := d.verb("mode", "shop/web", "enforce"); code != exitGood || modes()["shop/web"] != "enforce" {
		t.Errorf("%d %v\n%s%s", code, modes(), out, errs)
	}
	if out, errs, code := d.verb("mode", "shop/db", "enforce", "--yes"); code != exitGood || modes()["shop/db"] != "enforce" {
		t.Errorf("%d %v\n%s%s", code, modes(), out, errs)
	}
	// It enforces already: what it drops is nothing new.
	if out, errs, code := d.verb("mode", "shop/db", "enforce"); code != exitGood {
		t.Errorf("again: %d\n%s%s", code, out, errs)
	}
	if _, _, code := d.verb("mode", "shop/db", "observe"); code != exitGood || modes()["shop/db"] != "observe" {
		t.Errorf("back: %d %v", code, modes())
	}
	if _, errs, code := d.verb("mode", "shop/nobody", "enforce"); code != exitUsage || !strings.Contains(errs, "no service") {
		t.Errorf("%d %s", code, errs)
	}
}

func TestPolicyReplay(t *testing.T) {
	d := openDesk(t, t.TempDir())
	d.conversed("172.30.0.4", "172.30.0.3", 5432, policy.AppPostgreSQL)
	d.conversed("172.30.0.2", "172.30.0.4", 80, policy.AppHTTP)
	if out, errs, code := d.verb("policy", "replay", "--since", "1h"); code != exitGood || !strings.Contains(out, "only recorded") {
		t.Errorf("observing: %d\n%s%s", code, out, errs)
	}
	if out, _, code := d.verb("policy", "replay", "--enforce", "all"); code != exitNo || !strings.Contains(out, "shop/stranger") {
		t.Errorf("as if all enforced: %d\n%s", code, out)
	}
	// The list of the flows, taken elsewhere: as an array, and as lines.
	list, _, _ := d.verb("get", "flows", "--since", "1h", "-o", "json")
	lines, _, _ := d.verb("observe", "--kind", "flows", "-o", "json")
	for name, text := range map[string]string{"array": list, "lines": lines} {
		path := filepath.Join(t.TempDir(), "flows.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var fromFile, fromStore ReplayAnswer
		for what, into := range map[string]*ReplayAnswer{path: &fromFile, "": &fromStore} {
			args := []string{"policy", "replay", "-o", "json", "--enforce", "shop/db"}
			if what != "" {
				args = append(args, what)
			}
			out, errs, _ := d.verb(args...)
			if err := json.Unmarshal([]byte(out), into); err != nil {
				t.Fatalf("%v\n%s", err, errs)
			}
		}
		if fromFile.Judged != 2 || fromFile.Judged != fromStore.Judged || len(fromFile.Dropped) != len(fromStore.Dropped) || len(fromFile.Dropped) != 1 || fromFile.Dropped[0].App != "postgresql" {
			t.Errorf("%s: %+v, from the store %+v", name, fromFile, fromStore)
		}
	}
	for name, text := range map[string]string{"cut short": list[:len(list)/2], "no flows": `{"from": "a"}`, "another app": `{"from":"a","to":"b","proto":"tcp","app":"gopher"}`, "text": "hello", "an address": `{"from":"a","to":"b","proto":"tcp","source":"x"}`} {
		path := filepath.Join(t.TempDir(), "bad.json")
		_ = os.WriteFile(path, []byte(text), 0o600)
		if _, errs, code := d.verb("policy", "replay", path); code != exitUsage || errs == "" {
			t.Errorf("%s: %d %s", name, code, errs)
		}
	}
	if _, errs, code := d.verb("policy", "replay", "--enforce", "shop/nobody"); code != exitUsage || !strings.Contains(errs, "no service") {
		t.Errorf("%d %s", code, errs)
	}
	if _, _, code := d.verb("policy", "replay", "x.json", "--since", "1h"); code != exitUsage {
		t.Error("a file and a time")
	}
}

// Flows that were dropped at once have no application: what would pass is told, and
// nothing is claimed of them.
func TestUnreadFlows(t *testing.T) {
	d := openDesk(t, t.TempDir())
	dropped := func(f *dataplane.Flow) { f.Verdict, f.Denied, f.Reason = policy.Drop, true, policy.ReasonNoRule }
	d.conversed("172.30.0.4", "172.30.0.3", 5432, policy.AppNone, dropped)
	in, err := openInputs(Settings{State: t.TempDir(), Statements: writeFile(t, "s.yaml", "schema: gatehouse.statements/v1\nstatements:\n"+
		"  - {id: report, verdict: allow, from: [{service: shop/stranger}], to: [{service: shop/db}], app: [postgresql], ports: [tcp/5432], why: w}\n")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.control.SetRules(in.rules); err != nil {
		t.Fatal(err)
	}
	out, errs, code := d.verb("policy", "replay", "--enforce", "all")
	if code != exitGood || !regexp.MustCompile(`1 flow judged by table \d+: 0 pass, 0 would be dropped, 0 only recorded, 1 depend`).MatchString(out) ||
		!regexp.MustCompile(`pass or drop +1 +shop/stranger +shop/db +postgresql +tcp/5432 +shop/stranger out +app`).MatchString(out) {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if out, _, code := d.verb("mode", "shop/db", "enforce"); code != exitGood || !strings.Contains(out, "no byte was read") || !strings.Contains(out, "shop/db: enforce") {
		t.Errorf("%d\n%s", code, out)
	}
	if out, _, _ := d.verb("policy", "suggest", "--doubtful"); strings.Contains(out, "any tcp/5432") || strings.Contains(out, "- any") {
		t.Errorf("what may be allowed by now is suggested:\n%s", out)
	}
}

// What chooses by a name that nobody has is told so, with what may be meant.
func TestNamesNobody(t *testing.T) {
	d := openDesk(t, t.TempDir())
	d.conversed("172.30.0.4", "172.30.0.3", 5432, policy.AppPostgreSQL)
	for _, c := range []struct {
		args []string
		want string // "" = nothing is noted
	}{
		{[]string{"get", "flows", "--since", "1h", "--from", "shop/stranegr"}, "gatehouse: --from shop/stranegr: no service that runs is called that, and nothing was found: is shop/stranger meant?\n"},
		{[]string{"get", "flows", "--to", "shpo/"}, "--to shpo/: no project that runs is called that, and nothing was found: is shop meant?"},
		{[]string{"get", "violations", "--from", "shop-web-1"}, "that is a container: name its service, shop/web"},
		{[]string{"observe", "--to", "dbb"}, "is shop/db meant?"},
		{[]string{"observe", "--to", "nowhere"}, "--to nowhere: no service that runs is called that, and nothing was found\n"},
		{[]string{"get", "flows", "--from", "shop/web", "--app", "ssh"}, ""},
		{[]string{"get", "flows", "--from", "web", "--app", "ssh"}, ""},
		{[]string{"get", "flows", "--from", "@internet"}, ""},
		{[]string{"get", "flows", "--from", "192.0.2.0/24"}, ""},
		{[]string{"get", "flows", "--since", "1h", "--from", "shop/stranger"}, ""},
	} {
		_, errs, code := d.verb(c.args...)
		if code != exitGood || c.want == "" && errs != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%q: %d %q, want %q", c.args, code, errs, c.want)
		}
	}
	for _, c := range [][3]string{
		{"get flows --from @intrenet", "peer \"@intrenet\" is none of @broadcast, ", "is @internet meant?"},
		{"get violations --reason no-rlue", "reason \"no-rlue\" is none of no-rule, ", "is no-rule meant?"},
		{"mode shop/dbb enforce", "no service \"shop/dbb\"", "is shop/db meant?"},
		{"quarantine shop/wbe --why drill", "is called \"shop/wbe\"", "is shop/web meant?"},
		{"explain --from shop/wbe --to shop/db --port tcp/80", "is called \"shop/wbe\"", "is shop/web meant?"},
		{"policy replay --enforce shop/dbb", "no service \"shop/dbb\"", "is shop/db meant?"},
		{"policy suggest --service shop/dbb", "no service \"shop/dbb\"", "is shop/db meant?"},
	} {
		if _, errs, code := d.verb(strings.Fields(c[0])...); code != exitUsage || !strings.Contains(errs, c[1]) || !strings.Contains(errs, c[2]) {
			t.Errorf("%s: %d %s", c[0], code, errs)
		}
	}
}

func TestPolicySuggest(t *testing.T) {
	d := openDesk(t, t.TempDir())
	recorded := func(f *dataplane.Flow) { f.Denied, f.Reason = true, policy.ReasonNoRule }
	d.conversed("172.30.0.4", "172.30.0.3", 5432, policy.AppPostgreSQL, recorded)
	d.conversed("172.30.0.4", "172.30.0.3", 22, policy.AppNone, recorded)
	out, errs, code := d.verb("policy", "suggest")
	if code != exitGood {
		t.Fatalf("%d %s", code, errs)
	}
	for _, want := range []string{"schema: gatehouse.statements/v1", "id: seen-shop-stranger-to-shop-db-postgresql-tcp-5432", "- service: shop/stranger", "- tcp/5432", "# doubtful: allow shop/stranger -> shop/db : any tcp/22", "# never seen in "} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	// It is a file that the gateway reads, and what it says is in force then.
	in, err := openInputs(Settings{State: t.TempDir(), Statements: writeFile(t, "suggested.yaml", out)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("the file cannot be read: %v\n%s", err, out)
	}
	if err := d.control.SetRules(in.rules); err != nil {
		t.Fatal(err)
	}
	if out, _, _ := d.verb("policy", "suggest"); strings.Contains(out, "tcp-5432") {
		t.Errorf("accepted, and suggested again:\n%s", out)
	}
	if strings.Contains(out, "- any") {
		t.Errorf("an open statement by default:\n%s", out)
	}
	if out, _, _ := d.verb("policy", "suggest", "--doubtful"); !strings.Contains(out, "- any") {
		t.Errorf("asked for, and not there:\n%s", out)
	}
	if out, _, code := d.verb("policy", "suggest", "--service", "shop/web"); code != exitGood || strings.Contains(out, "id:") {
		t.Errorf("of another service:\n%s", out)
	}
	if _, errs, code := d.verb("policy", "suggest", "--service", "shop/nobody"); code != exitUsage || errs == "" {
		t.Errorf("%d %s", code, errs)
	}
}

// TestWhoSentItIsNotKnown: a record of packets whose addresses nobody kept blames who
// sent them, and the one that they were for with nothing.
func TestWhoSentItIsNotKnown(t *testing.T) {
	d := openDesk(t, t.TempDir())
	for _, c := range []struct {
		reason      policy.Reason
		sent        bool
		why, sender string
	}{
		{policy.ReasonMissBudget, true, "this interface sends too many", ""},
		{policy.ReasonMissBudget, false, "this interface is sent too many", "its addresses were not kept; what was judged meanwhile: gatehouse observe --kind all --to shop/web"},
		{policy.ReasonRouterAdvertisement, true, "a container must not", ""},
		{policy.ReasonRouterAdvertisement, false, "another than the network's gateway", "its addresses were not kept"},
		{policy.ReasonSourceInterface, false, "came by another way", "not the interface whose address"},
	} {
		d.recorder.violated(&dataplane.Violation{First: time.Now(), Last: time.Now(), Zone: 3, Workload: "web-container", Initiator: c.sent, Outgoing: c.sent,
			Reason: c.reason, Rule: -1, Mode: policy.Enforce, Packets: 7, Count: 7}, 7, 0)
		from, to, direction := "@unknown", "shop/web", "ingress"
		if c.sent {
			from, to, direction = "shop/web", "", "egress"
		}
		out, errs, code := d.verb("get", "violations", "--reason", c.reason.String(), "-o", "json")
		var all []ViolationView
		if err := json.Unmarshal([]byte(out), &all); err != nil || code != exitGood {
			t.Fatalf("%d, %v\n%s", code, err, errs)
		}
		all = slices.DeleteFunc(all, func(v ViolationView) bool { return v.Direction != direction })
		if len(all) != 1 || all[0].From != from || all[0].To != to || all[0].Workload != "shop/web" || all[0].Count != 7 || !strings.Contains(all[0].Why, c.why) {
			t.Fatalf("%s, %s: %+v", c.reason, direction, all)
		}
		out, _, _ = d.verb("explain", all[0].ID)
		if !strings.Contains(out, c.sender) || strings.Contains(out, "sender ") == c.sent {
			t.Errorf("%s, %s:\n%s", c.reason, direction, out)
		}
	}
}

// TestDropsByDirection: what the kernel and the workers count adds up, and status says how
// much of it was sent to somebody here.
func TestDropsByDirection(t *testing.T) {
	var kernel steer.Counters
	var worker dataplane.Counters
	kernel.Drops[dataplane.FromEndpoint][policy.ReasonMissBudget] = 5
	kernel.Drops[dataplane.ToEndpoint][policy.ReasonMissBudget] = 70
	worker.Reasons[dataplane.ToEndpoint][policy.ReasonMissBudget] = 600
	worker.Reasons[dataplane.Neither][policy.ReasonTruncated] = 3
	s := Status{Drops: map[string]uint64{}, DropsBy: map[string]map[string]uint64{}}
	s.countDrops(&kernel, &worker)
	if want := map[string]uint64{"miss-budget": 675, "truncated": 3}; !maps.Equal(s.Drops, want) {
		t.Errorf("%v, want %v", s.Drops, want)
	}
	want := map[string]map[string]uint64{"egress": {"miss-budget": 5}, "ingress": {"miss-budget": 670}, "": {"truncated": 3}}
	if !maps.EqualFunc(s.DropsBy, want, maps.Equal) {
		t.Errorf("%v, want %v", s.DropsBy, want)
	}
	var b strings.Builder
	s.write(&b)
	for _, line := range []string{`dropped miss-budget\s+675, 670 of them sent to an interface here: more`, `dropped truncated\s+3: `} {
		if !regexp.MustCompile(line).MatchString(b.String()) {
			t.Errorf("no %q in\n%s", line, b.String())
		}
	}
}

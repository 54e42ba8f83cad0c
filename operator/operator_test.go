package operator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

func library(t testing.TB) *models.Library {
	t.Helper()
	lib, err := models.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

func file(name, text string) []document.File {
	if text == "" {
		return nil
	}
	return []document.File{{Name: name, Data: []byte(text)}}
}

func decode(t testing.TB, statements, categories string) (*Policy, error) {
	t.Helper()
	return Decode(file("s.yaml", statements), file("c.yaml", categories), library(t))
}

func mustDecode(t testing.TB, statements, categories string) *Policy {
	t.Helper()
	p, err := decode(t, statements, categories)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const head = "schema: gatehouse.statements/v1\nstatements:\n"

// allowing is a statement whose keys begin in line 3; more is added to it.
func allowing(more string) string {
	return head + "  - id: one\n    verdict: allow\n    from: [{service: shop/web}]\n    to: [{peer: internet}]\n    app: [http]\n    ports: [tcp/80]\n    why: a test\n" + more
}

func denying(more string) string {
	return head + "  - id: one\n    verdict: deny\n    from: [{peer: any}]\n    to: [{peer: internet}]\n    app: [any]\n    ports: [any]\n" + more
}

const catalogText = `schema: gatehouse.categories/v1
source: cmdb
categories: {risk: {ordered: [low, medium, high]}, value: {set: true}, device: {text: true}}
records:
  - {match: {image: redis}, set: {risk: low}}
  - {match: {service: shop/db}, set: {value: [customer-data, money]}}
  - {match: {service: shop/web}, set: {risk: high}}
  - {match: {label: tier=odd}, set: {risk: medium}}
  - {match: {cidr: 10.9.0.0/16}, set: {device: office}}
  - {match: {cidr: 10.9.8.0/24}, set: {device: infra-management}}
  - {match: {cidr: 10.9.8.7/32}, set: {risk: high}}
`

func TestDecodeFaults(t *testing.T) {
	for name, c := range map[string]struct{ statements, want string }{
		"not YAML":             {"schema: [", "s.yaml:1: not YAML"},
		"half written":         {allowing("")[:60], "s.yaml:"},
		"empty":                {"\n", "s.yaml: no document"},
		"wrong schema":         {strings.Replace(allowing(""), "/v1", "/v9", 1), "s.yaml:1: schema"},
		"unknown key":          {allowing("    unless: x\n"), "s.yaml:10: statements[0].unless: unknown key"},
		"key twice":            {allowing("    why: b\n"), "s.yaml:10: statements[0].why: is also in line 9"},
		"no from":              {strings.Replace(allowing(""), "    from: [{service: shop/web}]\n", "", 1), "statements[0].from: is required"},
		"no ports":             {strings.Replace(allowing(""), "    ports: [tcp/80]\n", "", 1), "statements[0].ports: is required"},
		"null from":            {strings.Replace(allowing(""), "[{service: shop/web}]", "", 1), "from: has no value"},
		"no why":               {strings.Replace(allowing(""), "    why: a test\n", "", 1), "why: is required for an allow"},
		"any port of an allow": {strings.Replace(allowing(""), "[tcp/80]", "[any]", 1), "ports: any is only for deny"},
		"bad port":             {strings.Replace(allowing(""), "tcp/80", "tcp/99999", 1), `s.yaml:8: statements[0].ports[0]: port "tcp/99999"`},
		"any and more":         {strings.Replace(denying(""), "ports: [any]", "ports: [any, tcp/1]", 1), "any includes the others"},
		"unknown app":          {strings.Replace(allowing(""), "[http]", "[htp]", 1), `unknown application "htp"`},
		"any app and more":     {strings.Replace(denying(""), "app: [any]", "app: [any, ssh]", 1), "any includes the others"},
		"tls with any":         {denying("    tls: only\n"), "tls: says nothing with app any"},
		"starttls without":     {allowing("    tls: starttls\n"), "http has no upgrade"},
		"unknown peer key":     {strings.Replace(allowing(""), "service: shop/web", "servce: shop/web", 1), "servce: unknown key"},
		"empty peer":           {strings.Replace(allowing(""), "{service: shop/web}", "{}", 1), "selects nobody in particular"},
		"two kinds":            {strings.Replace(allowing(""), "{peer: internet}", "{peer: internet, role: proxy}", 1), "no peer is all of this at once"},
		"bad role":             {strings.Replace(allowing(""), "{peer: internet}", "{role: databse}", 1), "databse"},
		"mistyped model":       {strings.Replace(allowing(""), "{peer: internet}", "{model: rediss}", 1), "s.yaml:3: model: no model named rediss: is redis meant?"},
		"bad model":            {strings.Replace(allowing(""), "{peer: internet}", "{model: no-such}", 1), "s.yaml:3: model: no model named no-such"},
		"host bits":            {strings.Replace(allowing(""), "{peer: internet}", "{cidr: 10.1.2.3/8}", 1), "without host bits"},
		"impossible prefix":    {strings.Replace(allowing(""), "{peer: internet}", "{cidr: 10.1.2.0/33}", 1), "want a prefix"},
		"bad name":             {strings.Replace(allowing(""), "{peer: internet}", "{name: 'a b.example'}", 1), "want a DNS name"},
		"name as caller":       {strings.Replace(allowing(""), "{service: shop/web}", "{name: a.example.com}", 1), "says where to"},
		"deny by name":         {strings.Replace(denying(""), "{peer: internet}", "{name: a.example.com}", 1), "a deny by name would not deny"},
		"control characters":   {strings.Replace(allowing(""), "a test", `"a\x1b[2J"`, 1), "without control characters"},
		"control in a service": {strings.Replace(allowing(""), "shop/web", `"shop/\x07"`, 1), "without control characters"},
		"near to an address":   {strings.Replace(strings.Replace(denying(""), "{peer: any}", "{role: proxy, within: project}", 1), "{peer: internet}", "{cidr: 172.30.0.0/24}", 1), "s.yaml:6: statements[0].to: within, self and siblings"},
		"near to a name":       {strings.Replace(allowing(""), "{service: shop/web}", "{peer: self}", 1), "statements[0].to: within"},
		"excepted near":        {strings.Replace(denying("    except: [{from: [{role: proxy, within: shared}]}]\n"), "{peer: any}", "{peer: site}", 1), "except[0].to: within"},
		"except of allow":      {allowing("    except: [{app: [ssh]}]\n"), "except: only for deny"},
		"empty exception":      {denying("    except: [{}]\n"), "would except all"},
		"id of others":         {strings.Replace(allowing(""), "id: one", "id: model-x", 1), "not for files"},
		"id twice":             {allowing("") + strings.TrimPrefix(allowing(""), head), "s.yaml:10: id: one is also in s.yaml:3"},
		"unknown category":     {strings.Replace(allowing(""), "{peer: internet}", "{category: {colour: {eq: red}}}", 1), `no category "colour"`},
		"unknown of allow":     {strings.Replace(allowing(""), "{peer: internet}", "{category: {risk: {eq: low, unknown: true}}}", 1), "unknown: true is only for a deny"},
		"unknown of exception": {denying("    except: [{from: [{category: {risk: {eq: low, unknown: true}}}]}]\n"), "unknown: true is only for a deny"},
		"level of category":    {strings.Replace(allowing(""), "{peer: internet}", "{category: {risk: {gte: huge}}}", 1), `"huge" is none of low, medium, high`},
		"order of text":        {strings.Replace(allowing(""), "{peer: internet}", "{category: {device: {gte: a}}}", 1), "gte is for what is ordered"},
		"has of ordered":       {strings.Replace(allowing(""), "{peer: internet}", "{category: {risk: {has: low}}}", 1), "has is for sets"},
		"eq of set":            {strings.Replace(allowing(""), "{peer: internet}", "{category: {value: {eq: x}}}", 1), "eq is not for sets"},
		"no comparison":        {strings.Replace(allowing(""), "{peer: internet}", "{category: {risk: {}}}", 1), "want a comparison"},
		"threat level":         {denying("    when: {threat: {gte: orange}}\n"), `"orange" is none of normal, elevated, high, critical`},
		"zone":                 {denying("    when: {time: {zone: Mars/Olympus}}\n"), "IANA"},
		"local zone":           {denying("    when: {time: {zone: Local}}\n"), "IANA"},
		"no zone":              {denying("    when: {time: {days: [mon]}}\n"), "zone: is required"},
		"half a time":          {denying("    when: {time: {from: '07:00', zone: UTC}}\n"), "want two different times"},
		"equal times":          {denying("    when: {time: {from: '07:00', to: '07:00', zone: UTC}}\n"), "want two different times"},
		"empty when":           {denying("    when: {}\n"), "says nothing"},
		"expires":              {denying("    expires: tomorrow\n"), "RFC 3339"},
		"anchor":               {denying("    owner: &a x\n"), "anchors and aliases"},
		"mode":                 {denying("") + "modes: {shop/db: off}\n", "modes.shop/db"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decode(t, c.statements, catalogText)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestCategoryFaults(t *testing.T) {
	edit := func(old, new string) string { return strings.Replace(catalogText, old, new, 1) }
	for name, c := range map[string]struct{ categories, want string }{
		"no source":        {edit("source: cmdb\n", ""), "source: is required"},
		"kind":             {edit("{text: true}", "{}"), "want one of ordered"},
		"one level":        {edit("[low, medium, high]", "[low]"), "at least two levels"},
		"unknown category": {edit("{risk: low}", "{rsk: low}"), `c.yaml:5: records[0].set.rsk: no category "rsk"`},
		"unknown level":    {edit("{risk: low}", "{risk: none}"), `"none" is none of low, medium, high`},
		"list of ordered":  {edit("{risk: low}", "{risk: [low]}"), "want text"},
		"matches all":      {edit("{image: redis}", "{}"), "matches everything"},
		"tag":              {edit("{image: redis}", "{image: 'redis:7'}"), "without tag"},
		"cidr":             {edit("10.9.0.0/16", "10.9.0.1/16"), "host bits"},
		"url":              {edit("cmdb", "{url: 'file:///etc/passwd'}"), "http or https URL"},
		"url with user":    {edit("cmdb", "{url: 'https://a:b@cmdb.example/'}"), "without user"},
		"max_bytes":        {edit("cmdb", "{url: 'https://cmdb.example/', max_bytes: 9999999999}"), "want a number of bytes"},
		"timeout":          {edit("cmdb", "{url: 'https://cmdb.example/', timeout: 1h}"), "want a duration"},
		"neither":          {edit("cmdb", "{every: 1m}"), "want one of file and url"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := decode(t, "", c.categories); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// town has a project shop of web (nginx), db (postgres), cache (redis), two
// identical jobs of which one is labelled, and a project blog of web.
func town() *policy.Snapshot {
	nets := []policy.Network{
		{ID: "n1", Name: "shop_default", Driver: "bridge", Zone: 1, Guarded: true, ICC: true, Owner: policy.ProjectKey{Domain: "d", Name: "shop"}, Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24")}},
		{ID: "n2", Name: "blog_default", Driver: "bridge", Zone: 2, Guarded: true, ICC: true, Owner: policy.ProjectKey{Domain: "d", Name: "blog"}, Subnets: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/24")}},
	}
	snap := &policy.Snapshot{Networks: nets}
	add := func(net int, id, project, name, repository string, labels map[string]policy.Label) {
		last := byte(len(snap.Workloads) + 2)
		address := netip.AddrFrom4([4]byte{172, byte(29 + net), 0, last})
		snap.Workloads = append(snap.Workloads, policy.Workload{ID: id, Name: id, Compose: true, Service: policy.ServiceKey{Project: policy.ProjectKey{Domain: "d", Name: project}, Name: name},
			Image: policy.Image{Ref: repository, Repository: "docker.io/library/" + repository, PulledFrom: []string{"docker.io/library/" + repository}}, Labels: labels,
			Endpoints: []policy.Endpoint{{ID: id, Network: nets[net-1].ID, Addresses: []netip.Addr{address}}}})
	}
	add(1, "cache", "shop", "cache", "redis", nil)
	add(1, "db", "shop", "db", "postgres", nil)
	add(1, "job1", "shop", "job", "busybox", map[string]policy.Label{"tier": {Value: "odd", By: policy.SetByDeployer}})
	add(1, "job2", "shop", "job", "busybox", map[string]policy.Label{"tier": {Value: "odd", By: policy.SetByImage}})
	add(1, "web", "shop", "web", "nginx", nil)
	add(2, "blogweb", "blog", "web", "nginx", nil)
	return snap
}

// world is a policy in force in the town.
type world struct {
	*Policy
	catalog *Catalog
	snap    *policy.Snapshot
	pop     *models.Population
}

func newWorld(t testing.TB, snap *policy.Snapshot, statements, categories string) *world {
	t.Helper()
	p := mustDecode(t, statements, categories)
	var said []Records
	for _, s := range p.Sources {
		said = append(said, s.Records)
	}
	w := &world{Policy: p, catalog: NewCatalog(p.Kinds, said), snap: snap}
	w.pop = models.Groups(library(t), snap, models.Settings{SelectedLabels: p.SelectedLabels(), Variant: p.Variant(w.catalog)}, policy.NewIdentities())
	return w
}

// members are the containers that a peer of an expanded statement means, and its
// prefixes.
func (w *world) members(p policy.Peer) []string {
	out := []string{}
	if p.Kind != policy.PeerSelector {
		return []string{p.String()}
	}
	for _, g := range w.pop.Groups {
		if slices.Contains(p.Selected.Identities, g.Identity) {
			out = append(out, g.Members...)
		}
	}
	slices.Sort(out)
	for _, prefix := range p.Selected.Prefixes {
		out = append(out, prefix.String())
	}
	return out
}

func TestSelectors(t *testing.T) {
	for _, c := range []struct {
		peer, want string
		deny       bool
	}{
		{"{service: shop/web}", "web", false},
		{"{service: web}", "blogweb web", false},
		{"{service: shop/we}", "", false},
		{"{role: database}", "cache db", false},
		{"{model: nginx}", "blogweb web", false},
		{"{model: nginx, project: shop}", "web", false},
		{"{project: blog}", "blogweb", false},
		{"{label: tier=odd}", "job1", false},
		{"{label: tier=od}", "", false},
		{"{peer: workload}", "@workload", false},
		{"{category: {risk: {eq: low}}}", "cache", false},
		{"{category: {risk: {gte: medium}}}", "job1 web 10.9.8.7/32", false},
		{"{category: {risk: {lte: medium}}}", "cache job1", false},
		{"{category: {risk: {in: [low, high]}}}", "cache web 10.9.8.7/32", false},
		{"{category: {risk: {ne: high}}}", "cache job1", false},
		{"{category: {risk: {gte: medium}}, peer: workload}", "job1 web", false},
		{"{category: {value: {has: customer-data}}}", "db", true},
		{"{category: {value: {has: customer}}}", "", true},
		{"{category: {risk: {gte: high, unknown: true}}, peer: workload}", "blogweb db job2 web", true},
		{"{category: {device: {eq: infra-management}}}", "10.9.8.0/24", false},
	} {
		text := strings.Replace(allowing(""), "{service: shop/web}", c.peer, 1)
		if c.deny {
			text = strings.Replace(denying(""), "{peer: any}", c.peer, 1)
		}
		w := newWorld(t, town(), text, catalogText)
		ss := w.Expand(w.pop, w.catalog, Moment{})
		if len(ss) != 1 {
			t.Errorf("%s: %d statements", c.peer, len(ss))
			continue
		}
		got := w.members(ss[0].From[0])
		if want := strings.Fields(c.want); strings.HasPrefix(c.peer, "{category: {device") {
			got, want = covered(t, got), covered(t, want)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %d addresses, want %d, each once", c.peer, len(got), len(want))
			}
		} else if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", c.peer, got, want)
		}
	}
}

// covered lists which of some addresses the prefixes hold.
func covered(t *testing.T, prefixes []string) []string {
	t.Helper()
	var out []string
	for i := range 256 {
		a := netip.AddrFrom4([4]byte{10, 9, 8, byte(i)})
		for _, p := range prefixes {
			if netip.MustParsePrefix(p).Contains(a) {
				out = append(out, a.String())
			}
		}
	}
	return out
}

// What several records say differently counts against an allow and for a deny;
// what only an image's name proves allows nothing.
func TestCategoriesThatDisagree(t *testing.T) {
	records := catalogText + "  - {match: {image: nginx}, set: {risk: low}}\n"
	allow := strings.Replace(allowing(""), "{service: shop/web}", "{category: {risk: {eq: low}}, peer: workload}", 1)
	deny := strings.Replace(denying(""), "{peer: any}", "{category: {risk: {eq: low}}, peer: workload}", 1)
	snap := town()
	w := newWorld(t, snap, allow, records)
	if got := w.members(w.Expand(w.pop, w.catalog, Moment{})[0].From[0]); !slices.Equal(got, []string{"blogweb", "cache"}) {
		t.Errorf("an allow by risk=low: %v", got)
	}
	w = newWorld(t, snap, deny, records)
	if got := w.members(w.Expand(w.pop, w.catalog, Moment{})[0].From[0]); !slices.Equal(got, []string{"blogweb", "cache", "web"}) {
		t.Errorf("a deny by risk=low: %v", got)
	}
	for i := range snap.Workloads { // built or retagged here
		snap.Workloads[i].Image.PulledFrom = nil
	}
	w = newWorld(t, snap, allow, records)
	if got := w.members(w.Expand(w.pop, w.catalog, Moment{})[0].From[0]); len(got) != 0 {
		t.Errorf("an allow by the name of an image: %v", got)
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"{model: nginx}", "{role: database}", "one blogweb web -> cache db"},
		{"{model: nginx}", "{role: database, within: project}", "one~d:shop web -> cache db"},
		{"{model: nginx, within: shared}", "{role: database}", "one~n1 web -> cache db"},
		{"{peer: workload}", "{peer: self}", "one~d:blog/web blogweb -> blogweb|one~d:shop/cache cache -> cache|one~d:shop/db db -> db|one~d:shop/job job1 job2 -> job1 job2|one~d:shop/web web -> web"},
		{"{service: blog/web}", "{role: database, project: same}", "one  -> "},
		{"{service: shop/web}, {service: shop/web, within: project}", "{role: cache}, {role: cache, within: project}",
			"one web -> cache|one~d:shop web -> cache|one~d:shop~2 web -> cache|one~d:shop~d:shop web -> cache"},
	} {
		text := strings.Replace(strings.Replace(allowing(""), "{service: shop/web}", c.from, 1), "{peer: internet}", c.to, 1)
		w := newWorld(t, town(), text, "")
		var got []string
		for _, s := range w.Expand(w.pop, w.catalog, Moment{}) {
			got = append(got, fmt.Sprintf("%s %s -> %s", s.ID, strings.Join(w.members(s.From[0]), " "), strings.Join(w.members(s.To[0]), " ")))
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s -> %s: %s", c.from, c.to, strings.Join(got, "|"))
		}
	}
}

// One statement, hundreds of rules.
func TestOneStatementManyRules(t *testing.T) {
	snap := &policy.Snapshot{Networks: town().Networks[:1]}
	records := strings.Replace(catalogText, "records:\n", "records:\n  - {match: {label: k=risky}, set: {risk: high}}\n  - {match: {label: k=money}, set: {value: [customer-data]}}\n", 1)
	for i := range 40 {
		kind := []string{"risky", "money"}[i%2]
		snap.Workloads = append(snap.Workloads, policy.Workload{ID: fmt.Sprint("w", i), Name: fmt.Sprint("w", i), Compose: true,
			Service: policy.ServiceKey{Project: policy.ProjectKey{Domain: "d", Name: "shop"}, Name: fmt.Sprint("s", i)}, Labels: map[string]policy.Label{"k": {Value: kind, By: policy.SetByDeployer}},
			Endpoints: []policy.Endpoint{{ID: fmt.Sprint("e", i), Network: "n1", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, 0, byte(i + 2)})}}}})
	}
	text := strings.Replace(strings.Replace(denying(""), "{peer: any}", "{category: {risk: {eq: high}}}", 1), "{peer: internet}", "{category: {value: {has: customer-data}}}", 1)
	w := newWorld(t, snap, text, records)
	ss := w.Expand(w.pop, w.catalog, Moment{})
	if want := "deny category/risk=high -> category/value=customer-data : any any"; len(ss) != 1 || len(ss[0].Lines(false)) != 1 || ss[0].Lines(false)[0] != want {
		t.Fatalf("%v", ss)
	}
	table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: snap, Groups: w.pop.Groups, Statements: ss})
	if err != nil {
		t.Fatal(err)
	}
	if n := table.FlatCount(); n < 400 {
		t.Errorf("%d rules", n)
	}
}

// Empty lists match nobody, and stay so.
func TestEmptyMatchesNobody(t *testing.T) {
	for _, text := range []string{
		strings.Replace(denying(""), "from: [{peer: any}]", "from: []", 1),
		strings.Replace(denying(""), "app: [any]", "app: []", 1),
		strings.Replace(denying(""), "ports: [any]", "ports: []", 1),
	} {
		w := newWorld(t, town(), text, "")
		ss := w.Expand(w.pop, w.catalog, Moment{})
		table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: w.snap, Groups: w.pop.Groups, Statements: ss})
		if err != nil || len(table.Rules()) != 0 {
			t.Errorf("%d rules, %v of\n%s", len(table.Rules()), err, text)
		}
	}
}

func TestExceptionsInherit(t *testing.T) {
	w := newWorld(t, town(), denying("    except:\n      - {from: [{role: database}], app: [http], tls: optional}\n      - {ports: [tcp/80]}\n"), "")
	s := w.Expand(w.pop, w.catalog, Moment{})[0]
	if len(s.Except) != 2 {
		t.Fatalf("%+v", s.Except)
	}
	if got, want := s.Except[0].String(), "[role/database] -> [@internet] : http|tls(http) any"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := s.Except[1].String(), "[@any] -> [@internet] : any tcp/80"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestWindow(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	window := func(text string) *Window {
		return mustDecode(t, denying("    when: {time: "+text+"}\n"), "").Statements[0].When.Window
	}
	office := window(`{days: [mon, tue, wed, thu, fri], from: "07:00", to: "19:00", zone: Europe/Berlin}`)
	night := window(`{days: [fri], from: "22:00", to: "06:00", zone: Europe/Berlin}`)
	for _, c := range []struct {
		what string
		w    *Window
		at   string
		want bool
	}{
		{"Wednesday morning", office, "2026-11-25 07:00", true},
		{"before it", office, "2026-11-25 06:59", false},
		{"the end is out", office, "2026-11-25 19:00", false},
		{"Sunday", office, "2026-11-29 12:00", false},
		{"over midnight, begins Friday", night, "2026-11-27 23:00", true},
		{"over midnight, ends Saturday", night, "2026-11-28 05:59", true},
		{"over midnight, not Saturday night", night, "2026-11-28 23:00", false},
		{"over midnight, not Friday morning", night, "2026-11-27 05:00", false},
	} {
		if got := c.w.Holds(at(c.at)); got != c.want {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}

// TestNextEdge compares with a walk minute by minute, over both changes of the
// clock and in a zone that changes at midnight.
func TestNextEdge(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "UTC"} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []*Window{
			{Days: [7]bool{true, true, true, true, true, true, true}, From: 2*60 + 30, To: 3 * 60, Zone: loc},
			{Days: [7]bool{true, true, true, true, true, true, true}, From: 23 * 60, To: 2*60 + 15, Zone: loc},
			{Days: [7]bool{true}, From: 0, To: 24 * 60, Zone: loc},
			{Days: [7]bool{6: true}, From: 23*60 + 30, To: 30, Zone: loc},
		} {
			for _, day := range []time.Time{
				time.Date(2026, 3, 28, 20, 0, 0, 0, time.UTC), time.Date(2026, 10, 24, 20, 0, 0, 0, time.UTC),
				time.Date(2026, 4, 4, 10, 0, 0, 0, time.UTC), time.Date(2026, 9, 5, 10, 0, 0, 0, time.UTC), time.Date(2026, 10, 3, 10, 0, 0, 0, time.UTC),
			} {
				at := day
				for range 3 {
					want := at.Add(time.Minute)
					for w.Holds(want) == w.Holds(at) && want.Sub(at) < horizon {
						want = want.Add(time.Minute)
					}
					got := w.NextEdge(at)
					if !got.Equal(want) {
						t.Fatalf("%s after %s: %s, want %s", w, at, got.UTC(), want.UTC())
					}
					at = want
				}
			}
		}
	}
	never := &Window{Zone: time.UTC, To: 60}
	if edge := never.NextEdge(time.Unix(0, 0)); !edge.IsZero() {
		t.Errorf("a window of no day changes at %s", edge)
	}
}

// TestConditions: what does not hold is listed and pending, and says what it
// waits for and until when.
func TestConditions(t *testing.T) {
	text := denying("    when: {threat: {gte: elevated}, time: {from: '07:00', to: '19:00', zone: UTC}}\n    expires: 2026-12-01T00:00:00Z\n")
	noon := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what         string
		m            Moment
		while, waits string
		next         time.Time
	}{
		{"calm", Moment{noon, ThreatNormal}, "", "threat>=elevated and mon,tue,wed,thu,fri,sat,sun 07:00-19:00 UTC, not before 2026-11-25T19:00:00Z", noon.Add(7 * time.Hour)},
		{"elevated", Moment{noon, ThreatElevated}, "threat>=elevated and mon,tue,wed,thu,fri,sat,sun 07:00-19:00 UTC, until 2026-11-25T19:00:00Z", "", noon.Add(7 * time.Hour)},
		{"critical at night", Moment{noon.Add(9 * time.Hour), ThreatCritical}, "", "threat>=elevated and mon,tue,wed,thu,fri,sat,sun 07:00-19:00 UTC, not before 2026-11-26T07:00:00Z", noon.Add(19 * time.Hour)},
		{"expired", Moment{noon.AddDate(0, 0, 9), ThreatHigh}, "", "nothing: it expired 2026-12-01T00:00:00Z", noon.AddDate(0, 0, 9).Add(7 * time.Hour)},
	} {
		w := newWorld(t, town(), text, "")
		s := w.Expand(w.pop, w.catalog, c.m)[0]
		if s.While != c.while || s.Pending != c.waits {
			t.Errorf("%s: while %q, pending %q", c.what, s.While, s.Pending)
		}
		if got := w.NextEdge(c.m.Time); !got.Equal(c.next) {
			t.Errorf("%s: next edge %s, want %s", c.what, got, c.next)
		}
	}
}

func TestParseRecords(t *testing.T) {
	kinds := mustDecode(t, "", catalogText).Kinds
	want := []Record{
		{Service: "shop/db", Set: map[string][]string{"risk": {"high"}, "value": {"a", "b"}}},
		{CIDR: netip.MustParsePrefix("10.0.0.1/32"), Set: map[string][]string{"device": {"printer"}}},
	}
	for name, c := range map[string]struct {
		text string
		csv  bool
	}{
		"yaml": {"records:\n- {match: {service: shop/db}, set: {risk: high, value: [a, b]}}\n- {match: {cidr: 10.0.0.1}, set: {device: printer}}\nthreat: high\n", false},
		"json": {"{\n\t\"records\": [{\"match\": {\"service\": \"shop/db\"}, \"set\": {\"risk\": \"high\", \"value\": [\"a\", \"b\"]}},\n\t{\"match\": {\"cidr\": \"10.0.0.1/32\"}, \"set\": {\"device\": \"printer\"}}], \"threat\": \"high\"}", false},
		"csv":  {"service,cidr,risk,value,device\nshop/db,,high,a|b,\n,10.0.0.1,,,printer\n", true},
	} {
		got, err := ParseRecords([]byte(c.text), name, c.csv, kinds)
		if err != nil || fmt.Sprint(got.Records) != fmt.Sprint(want) || !c.csv && got.Threat != ThreatHigh {
			t.Errorf("%s: %v %v, want %v", name, got, err, want)
		}
	}
	for _, bad := range []struct {
		text string
		csv  bool
		want string
	}{
		{"<html>down for maintenance</html>", false, "want a map"},
		{"", false, "no document"},
		{"records: [{match: {}, set: {}}]", false, "matches everything"},
		{"records: []\ncategories: {risk: {text: true}}", false, "unknown key"},
		{"a,b\n1,2,3\n", true, "not CSV"},
		{"service,risk\nshop/db,high\nshop/web,none\n", true, "x:3: \"none\""},
		{"risk\nhigh\n", true, "matches everything"},
		{"{\n\t\"records\": [\n\t{\"match\": {\"service\": \"shop/db\"}, \"set\": {\"risk\": \"huge\"}}\n]}", false, "x:3: records[0].set.risk"},
		{"service,colour\nshop/db,red\n", true, `no category "colour"`},
		{"service,risk\n\"shop/\x1b\",high\n", true, "control characters"},
	} {
		if _, err := ParseRecords([]byte(bad.text), "x", bad.csv, kinds); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%q: %v, want %s", bad.text, err, bad.want)
		}
	}
}

func FuzzParseRecords(f *testing.F) {
	kinds := map[string]Kind{"risk": {Levels: []string{"low", "high"}}, "value": {Set: true}, "device": {}}
	f.Add([]byte("records: [{match: {cidr: 10.0.0.0/8}, set: {risk: low}}]"), false)
	f.Add([]byte("service,cidr,risk,value\nshop/db,,high,a|b\n"), true)
	f.Add([]byte(`{"records": [], "threat": "high"}`), false)
	f.Fuzz(func(t *testing.T, data []byte, isCSV bool) {
		got, err := ParseRecords(data, "x", isCSV, kinds)
		if err == nil && !Fits(got, kinds) {
			t.Errorf("%q: %v", data, got)
		}
	})
}

func FuzzDecodeStatements(f *testing.F) {
	f.Add([]byte(allowing("")))
	f.Add([]byte(denying("    when: {threat: {gte: high}, time: {days: [mon], from: '22:00', to: '06:00', zone: UTC}}\n    except: [{app: [http]}]\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decode(t, string(data), catalogText)
		if err != nil {
			return
		}
		w := newWorld(t, town(), string(data), catalogText)
		if _, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: w.snap, Groups: w.pop.Groups, Statements: p.Expand(w.pop, w.catalog, Moment{Time: time.Unix(1e9, 0)})}); err != nil {
			t.Errorf("what decodes does not compile: %v\n%s", err, data)
		}
	})
}

// What is read as a case can be asked, or is refused.
func FuzzDecodeCases(f *testing.F) {
	f.Add([]byte("schema: gatehouse.tests/v1\ntests:\n  - {name: a, from: shop/web, to: shop/db, port: tcp/5432, app: postgresql, verdict: allow, statement: s, time: '2026-03-01T12:00:00Z', threat: high}\n"))
	f.Add([]byte("schema: gatehouse.tests/v1\ntests:\n  - {from: '@site', name: api.example.com, port: icmp, verdict: deny, categories: [{match: {service: a/b}, set: {risk: high}}]}\n"))
	f.Add([]byte("schema: gatehouse.tests/v1\ntests: [{}, null, &a [*a]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cases, err := DecodeCases([]document.File{{Name: "f.yaml", Data: data}})
		for i := range cases {
			if c := &cases[i]; err == nil && (c.From == "" || (c.To == "") == (c.Host == "") || c.Port.Lo != c.Port.Hi || c.Line == 0) {
				t.Errorf("case %+v of %q", c, data)
			}
		}
	})
}

// What is read as categories fits what it declares, or is refused.
func FuzzDecodeCategories(f *testing.F) {
	f.Add([]byte(catalogText))
	f.Add([]byte("schema: gatehouse.categories/v1\nsource: cmdb\ncategories: {risk: {ordered: [low, high]}, value: {set: true}, device: {text: true}}\nrecords: [{match: {image: a}, set: {risk: low}}]\n"))
	f.Add([]byte("schema: gatehouse.categories/v1\nsource: {url: 'https://cmdb.example/', every: 1m, timeout: 5s, max_bytes: 1000}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decode(t, head[:len(head)-len("statements:\n")]+"statements: []\n", string(data))
		if err != nil {
			return
		}
		for i := range p.Sources {
			if !Fits(p.Sources[i].Records, p.Kinds) {
				t.Errorf("%q: %+v", data, p.Sources[i].Records)
			}
		}
	})
}

// TestGoldenCDevices: the specification's infrastructure devices, known by a
// record of the addresses outside, reach the file server by HTTP and SSH; a user's
// device does not, published or not, in either family.
func TestGoldenCDevices(t *testing.T) {
	statements := head + `  - {id: infra-http, verdict: allow, from: [{category: {device: {eq: infra-management}}}], to: [{model: hfs}], app: [http], tls: optional, ports: [tcp/80, tcp/443], why: maintenance}
  - {id: infra-ssh, verdict: allow, from: [{category: {device: {eq: infra-management}}}], to: [{model: hfs}], app: [ssh], ports: [tcp/22], why: maintenance}
`
	records := strings.Replace(catalogText, "records:\n", "records:\n  - {match: {cidr: 'fd09:8::/64'}, set: {device: infra-management}}\n", 1)
	for _, published := range []bool{false, true} {
		hfs := policy.Workload{ID: "hfs", Name: "hfs", Compose: true, Service: policy.ServiceKey{Project: policy.ProjectKey{Domain: "d", Name: "files"}, Name: "hfs"},
			Image:     policy.Image{Ref: "rejetto/hfs", Repository: "docker.io/rejetto/hfs", PulledFrom: []string{"docker.io/rejetto/hfs"}},
			Exposed:   []policy.PortRange{policy.Port(policy.ProtoTCP, 80)},
			Endpoints: []policy.Endpoint{{ID: "hfs", Network: "n", Addresses: []netip.Addr{netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("fd00:30::2")}}}}
		if published {
			hfs.Published = []policy.Published{{HostPort: 80, Port: 80, Proto: policy.ProtoTCP}}
		}
		snap := &policy.Snapshot{Workloads: []policy.Workload{hfs}, Networks: []policy.Network{{ID: "n", Name: "files_default", Driver: "bridge", Zone: 1,
			Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd00:30::/64")}}}}
		w := newWorld(t, snap, statements, records)
		generated, _ := models.Generate(w.pop)
		table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: snap, Groups: w.pop.Groups, Statements: append(generated, w.Expand(w.pop, w.catalog, Moment{})...)})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			from, to string
			port     uint16
			app      policy.App
			allow    bool
		}{
			{"10.9.8.9", "172.30.0.2", 80, policy.AppHTTP, true},
			{"10.9.8.9", "172.30.0.2", 22, policy.AppSSH, true},
			{"10.9.8.9", "172.30.0.2", 80, policy.AppSSH, false},
			{"10.9.8.9", "172.30.0.2", 22, policy.AppHTTP, false},
			{"fd09:8::9", "fd00:30::2", 443, policy.AppHTTP, true},
			{"fd09:8::9", "fd00:30::2", 22, policy.AppSSH, true},
			{"10.9.1.1", "172.30.0.2", 80, policy.AppHTTP, false},
			{"10.9.1.1", "172.30.0.2", 22, policy.AppSSH, false},
			{"fd09:9::9", "fd00:30::2", 80, policy.AppHTTP, false},
			{"198.51.100.7", "172.30.0.2", 80, policy.AppHTTP, false},
		} {
			q := policy.Query{Zone: 1, Src: netip.MustParseAddr(c.from).As16(), Dst: netip.MustParseAddr(c.to).As16(), Proto: policy.ProtoTCP, DstPort: c.port}
			if got := table.Lookup(q).Judge(policy.Spoken{App: c.app}); (got.Verdict == policy.Allow) != c.allow {
				t.Errorf("published %t: %s -> %s %d %s: %v, want allow %t", published, c.from, c.to, c.port, c.app, got.Verdict, c.allow)
			}
		}
	}
}

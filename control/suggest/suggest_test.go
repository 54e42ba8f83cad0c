package suggest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/control/history"
	"gatehouse/policy"
)

var services = []string{"db", "job", "web", "tool"}

func service(name string) policy.ServiceKey {
	if name == "tool" {
		return policy.ServiceKey{Project: policy.ProjectKey{Domain: "n1", Name: "evil"}, Name: name}
	}
	return policy.ServiceKey{Project: policy.ProjectKey{Domain: "n1", Name: "shop"}, Name: name}
}

// shop is web, db and job on one network of zone 3, with a tool of another project
// among them; job enforces.
func shop(t *testing.T, statements ...policy.Statement) *policy.Table {
	t.Helper()
	in := policy.Input{Epoch: 1, Statements: statements, Snapshot: &policy.Snapshot{Networks: []policy.Network{{ID: "net", Zone: 3, Driver: "bridge",
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd00:30::/64")}}}}}
	for i, name := range services {
		in.Snapshot.Workloads = append(in.Snapshot.Workloads, policy.Workload{ID: name, Service: service(name), Endpoints: []policy.Endpoint{{ID: name, Network: "net",
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, 0, byte(i + 2)})}}}})
		mode := policy.Observe
		if name == "job" {
			mode = policy.Enforce
		}
		in.Groups = append(in.Groups, policy.Group{Identity: policy.FirstWorkloadIdentity + policy.Identity(i), Service: service(name), Guarded: true,
			Mode: mode, Members: []string{name}})
	}
	table, err := policy.Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func ends(name string) (history.Party, netip.Addr) {
	i := slices.Index(services, name)
	if i < 0 {
		who := "@internet"
		a := netip.MustParseAddr(name)
		if a.IsPrivate() {
			who = "@site"
		}
		if a == netip.MustParseAddr("169.254.169.254") {
			who = "@metadata"
		}
		return history.Party{Name: who}, a
	}
	return history.Party{Name: service(name).String(), Service: service(name)}, netip.AddrFrom4([4]byte{172, 30, 0, byte(i + 2)})
}

func seen(from, to string, port uint16, s policy.Spoken, edit ...func(*history.Record)) *history.Record {
	r := &history.Record{First: day, Last: day.Add(3 * time.Hour), Port: port, Packets: [2]uint64{60, 50}, Flows: 6,
		Key: history.Key{Zone: 3, Proto: policy.ProtoTCP, DstPort: port, Spoken: s, Verdict: policy.Allow, Denied: true, Reason: policy.ReasonNoRule}}
	r.From, r.Src = ends(from)
	r.To, r.Dst = ends(to)
	for _, e := range edit {
		e(r)
	}
	return r
}

func named(host string) func(*history.Record) { return func(r *history.Record) { r.Name = host } }

// lookedUp is a query for a name that no statement allows.
func lookedUp(from, name string) *history.Record {
	return seen(from, "10.0.0.53", 53, policy.Spoken{App: policy.AppDNS}, func(r *history.Record) {
		r.Proto, r.Reason, r.Verdict, r.Packets = policy.ProtoUDP, policy.ReasonNameRefused, policy.Drop, [2]uint64{1, 0}
		r.Workload[0], r.Name, r.To.Name = from, name, "@resolver"
	})
}

func dropped(flows uint64) func(*history.Record) {
	return func(r *history.Record) { r.Verdict, r.Flows, r.Packets = policy.Drop, flows, [2]uint64{10 * flows, 0} }
}

var (
	pg   = policy.Spoken{App: policy.AppPostgreSQL}
	pgs  = policy.Spoken{App: policy.AppPostgreSQL, Inner: policy.AppTLS}
	tls  = policy.Spoken{App: policy.AppTLS}
	h2   = policy.Spoken{App: policy.AppTLS, ALPN: policy.AppHTTP2}
	http = policy.Spoken{App: policy.AppHTTP}
)

// speaks has the models of db and web say one application of a port each, and
// several of 9000.
func speaks(service policy.ServiceKey, p policy.PortRange) []policy.AppMatch {
	switch fmt.Sprint(service, " ", p) {
	case "shop/db tcp/5432":
		return []policy.AppMatch{{App: policy.AppPostgreSQL, Forms: policy.TLSStart}}
	case "shop/db tcp/9000":
		return []policy.AppMatch{{App: policy.AppHTTP, Forms: policy.TLSPlain}, {App: policy.AppSSH, Forms: policy.TLSPlain}}
	case "shop/web tcp/9000":
		return []policy.AppMatch{policy.AnyApp}
	}
	return nil
}

func allow(id, from, to string, app policy.AppMatch, port uint16) policy.Statement {
	return policy.Statement{ID: id, Verdict: policy.Allow, From: []policy.Peer{policy.ServicePeer(service(from))}, To: []policy.Peer{policy.ServicePeer(service(to))},
		App: app, Ports: []policy.PortRange{policy.Port(policy.ProtoTCP, port)}, Origin: []string{"test"}}
}

func TestMake(t *testing.T) {
	plain := policy.AppMatch{App: policy.AppPostgreSQL, Forms: policy.TLSPlain}
	for _, tt := range []struct {
		name       string
		statements []policy.Statement
		records    []*history.Record
		want       []string // lines; "?" before those with doubts
		doubt      string
	}{
		{"a service that calls another", nil, []*history.Record{seen("web", "db", 5432, pg)}, []string{"allow shop/web -> shop/db : postgresql tcp/5432"}, ""},
		{"both forms", nil, []*history.Record{seen("web", "db", 5432, pg), seen("web", "db", 5432, pgs)}, []string{"allow shop/web -> shop/db : postgresql tls starttls tcp/5432"}, ""},
		{"two ports", nil, []*history.Record{seen("web", "db", 5433, pg), seen("web", "db", 5432, pg)}, []string{"allow shop/web -> shop/db : postgresql tcp/5432,tcp/5433"}, ""},
		{"port 0, which no statement can name", nil, []*history.Record{seen("web", "db", 0, pg)}, nil, ""},
		{"what is allowed", []policy.Statement{allow("a", "web", "db", plain, 5432)}, []*history.Record{seen("web", "db", 5432, pg)}, nil, ""},
		{"outside by its name", nil, []*history.Record{seen("web", "198.51.100.7", 443, h2, named("API.example.com.")), seen("web", "198.51.100.8", 443, h2, named("api.example.com"))},
			[]string{"allow shop/web -> name:api.example.com : http tls only tcp/443"}, ""},
		{"outside without one", nil, []*history.Record{seen("web", "198.51.100.7", 443, tls), seen("web", "2001:db8::7", 443, tls)},
			[]string{"allow shop/web -> cidr:198.51.100.7/32 : tls tcp/443", "allow shop/web -> cidr:2001:db8::7/128 : tls tcp/443"}, ""},
		{"a private address by its name", nil, []*history.Record{seen("web", "10.1.1.1", 443, h2, named("nas.corp.example"))}, []string{"allow shop/web -> cidr:10.1.1.1/32 : http tls only tcp/443"}, ""},
		{"a name that is none", nil, []*history.Record{seen("web", "198.51.100.7", 443, tls, named("a b\n- id: x"))}, []string{"allow shop/web -> cidr:198.51.100.7/32 : tls tcp/443"}, ""},
		{"callers outside", nil, []*history.Record{seen("198.51.100.7", "web", 80, http), seen("10.1.1.1", "web", 80, http)}, []string{"allow cidr:10.1.1.1/32,cidr:198.51.100.7/32 -> shop/web : http tcp/80"}, ""},
		{"dropped, again and again", nil, []*history.Record{seen("job", "db", 5432, pg, dropped(9))}, []string{"?allow shop/job -> shop/db : postgresql tcp/5432"}, "that it was tried shows nothing"},
		{"dropped once", nil, []*history.Record{seen("job", "db", 5432, pg, dropped(1))}, []string{"?allow shop/job -> shop/db : postgresql tcp/5432"}, "never answered"},
		{"another project", nil, []*history.Record{seen("tool", "db", 5432, pg)}, []string{"?allow evil/tool -> shop/db : postgresql tcp/5432"}, "two projects"},
		{"an application unseen", nil, []*history.Record{seen("web", "db", 5432, policy.Spoken{App: policy.AppUnknown})}, []string{"?allow shop/web -> shop/db : any tcp/5432"}, "let everything pass"},
		{"what was not read, where the model knows one application", nil, []*history.Record{seen("web", "db", 5432, policy.Spoken{}), seen("web", "db", 5432, pg)},
			[]string{"allow shop/web -> shop/db : postgresql tls starttls tcp/5432"}, ""},
		{"where it knows several", nil, []*history.Record{seen("web", "db", 9000, policy.Spoken{})}, []string{"?allow shop/web -> shop/db : any tcp/9000"}, "let everything pass"},
		{"where it may be any", nil, []*history.Record{seen("db", "web", 9000, policy.Spoken{})}, []string{"?allow shop/db -> shop/web : any tcp/9000"}, "let everything pass"},
		{"where it knows none", nil, []*history.Record{seen("db", "web", 9001, policy.Spoken{})}, []string{"?allow shop/db -> shop/web : any tcp/9001"}, "let everything pass"},
		{"what was not read, dropped", nil, []*history.Record{seen("job", "db", 5432, policy.Spoken{}, dropped(1))}, []string{"?allow shop/job -> shop/db : postgresql tls starttls tcp/5432"}, "never answered"},
		{"another application", []policy.Statement{allow("a", "web", "db", plain, 5432)}, []*history.Record{seen("web", "db", 5432, policy.Spoken{App: policy.AppSSH})},
			[]string{"?allow shop/web -> shop/db : ssh tcp/5432"}, "does not fit"},
		{"another application than others speak there", []policy.Statement{allow("a", "job", "db", plain, 5432)}, []*history.Record{seen("web", "db", 5432, policy.Spoken{App: policy.AppSSH})},
			[]string{"?allow shop/web -> shop/db : ssh tcp/5432"}, "others may speak postgresql there, and this is ssh"},
		{"the same as others", []policy.Statement{allow("a", "job", "db", plain, 5432)}, []*history.Record{seen("web", "db", 5432, pgs)}, []string{"allow shop/web -> shop/db : postgresql tls starttls tcp/5432"}, ""},
		{"another port than others", []policy.Statement{allow("a", "job", "db", plain, 5432)}, []*history.Record{seen("web", "db", 22, policy.Spoken{App: policy.AppSSH})}, []string{"allow shop/web -> shop/db : ssh tcp/22"}, ""},
		{"a deny", []policy.Statement{{ID: "d", Tier: policy.TierOperator, Verdict: policy.Drop, From: []policy.Peer{{Kind: policy.PeerAny}}, To: []policy.Peer{{Kind: policy.PeerAny}}, App: policy.AnyApp, AnyPort: true, Origin: []string{"x"}}},
			[]*history.Record{seen("web", "db", 5432, pg)}, []string{"?allow shop/web -> shop/db : postgresql tcp/5432"}, "denies it"},
		{"never answered", nil, []*history.Record{seen("web", "db", 5432, pg, func(r *history.Record) { r.Packets[1] = 0 })}, []string{"?allow shop/web -> shop/db : postgresql tcp/5432"}, "never answered"},
		{"the metadata service", nil, []*history.Record{seen("web", "169.254.169.254", 80, http)}, []string{"?allow shop/web -> @metadata : http tcp/80"}, "not for containers"},
		{"a tunnel", nil, []*history.Record{seen("web", "db", 3128, policy.Spoken{App: policy.AppHTTP, Inner: policy.AppSSH})}, []string{"?allow shop/web -> shop/db : ssh tcp/3128"}, "tunnel"},
		{"a lookup that was refused", nil, []*history.Record{lookedUp("web", "API.example.com."), lookedUp("web", "api.example.com")}, []string{"?allow shop/web -> name:api.example.com : http tls only tcp/443"}, "only its lookup was seen"},
		{"one that is allowed by now", []policy.Statement{{ID: "n", Tier: policy.TierOperator, Verdict: policy.Allow, From: []policy.Peer{policy.ServicePeer(service("web"))}, To: []policy.Peer{{Kind: policy.PeerName, Name: "*.example.com"}},
			App: policy.AppMatch{App: policy.AppHTTP, Forms: policy.TLSDirect}, Ports: []policy.PortRange{policy.Port(policy.ProtoTCP, 443)}, Origin: []string{"x"}}}, []*history.Record{lookedUp("web", "api.example.com")}, nil, ""},
		{"a lookup of what is no host's name", nil, []*history.Record{lookedUp("web", "a b\n- id: x")}, nil, ""},
		{"who is gone", nil, []*history.Record{seen("web", "db", 5432, pg, func(r *history.Record) { r.From.Name = "shop/old" })}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := Make(shop(t, tt.statements...), tt.records, "", speaks)
			var got, doubts []string
			for _, s := range a.Suggestions {
				line := s.Line()
				if len(s.Doubts) > 0 {
					line = "?" + line
				}
				got, doubts = append(got, line), append(doubts, s.Doubts...)
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q (%q)", got, tt.want, doubts)
			}
			if tt.doubt != "" && !strings.Contains(strings.Join(doubts, "\n"), tt.doubt) {
				t.Errorf("doubts %q lack %q", doubts, tt.doubt)
			}
		})
	}
}

// A scan is doubtful, whatever it spoke.
func TestScanIsDoubtful(t *testing.T) {
	var records []*history.Record
	for i := range 40 {
		records = append(records, seen("web", "db", uint16(1000+i), http, func(r *history.Record) { r.Packets = [2]uint64{6, 6} }))
	}
	a := Make(shop(t), records, "", speaks)
	if len(a.Suggestions) != 1 || !strings.Contains(strings.Join(a.Suggestions[0].Doubts, " "), "scan") {
		t.Errorf("%+v", a.Suggestions)
	}
}

// What is suggested without doubts lets those flows pass, and nothing else of
// them; ids are unique; nothing is open.
func TestSuggestionsSuffice(t *testing.T) {
	records := []*history.Record{
		seen("web", "db", 5432, pg), seen("web", "db", 5432, pgs), seen("job", "web", 80, http), seen("web", "198.51.100.7", 443, tls), seen("web", "198.51.100.8", 443, tls),
		seen("198.51.100.9", "web", 443, h2), seen("db", "web", 8080, http), seen("db", "web", 8081, policy.Spoken{App: policy.AppHTTP2}),
	}
	a := Make(shop(t), records, "", speaks)
	var statements []policy.Statement
	ids := map[string]bool{}
	for _, s := range a.Suggestions {
		if ids[s.Statement.ID] || len(s.Doubts) > 0 || s.Statement.App[0] == "any" || s.Statement.Why == "" {
			t.Errorf("%+v", s)
		}
		ids[s.Statement.ID] = true
		statements = append(statements, compiled(t, &s.Statement))
	}
	table := shop(t, statements...)
	if again := Make(table, records, "", speaks); len(again.Suggestions) != 0 || len(again.Unused) != 0 {
		t.Errorf("accepted, and yet %+v", again)
	}
	other := []*history.Record{seen("job", "db", 5432, pg), seen("web", "db", 5432, policy.Spoken{App: policy.AppSSH}), seen("web", "198.51.100.10", 443, tls), seen("198.51.100.10", "web", 443, h2)}
	if again := Make(table, other, "", speaks); len(again.Suggestions) != len(other) {
		t.Errorf("more passes than was seen: %+v", again.Suggestions)
	}
}

// compiled is what the reader of statements makes of one.
func compiled(t *testing.T, s *Statement) policy.Statement {
	t.Helper()
	out := policy.Statement{ID: s.ID, Tier: policy.TierOperator, Verdict: policy.Allow, Origin: []string{s.Why}}
	peer := func(p Peer) policy.Peer {
		if p.CIDR != "" {
			return policy.Peer{Kind: policy.PeerCIDR, Prefix: netip.MustParsePrefix(p.CIDR)}
		}
		return policy.ServicePeer(service(strings.TrimPrefix(p.Service, "shop/")))
	}
	for _, p := range s.From {
		out.From = append(out.From, peer(p))
	}
	for _, p := range s.To {
		out.To = append(out.To, peer(p))
	}
	app, ok := policy.ParseApp(s.App[0])
	forms, okForms := policy.ParseTLSForms(s.TLS)
	if !ok || !okForms {
		t.Fatalf("%+v", s)
	}
	out.App = policy.AppMatch{App: app, Forms: forms}
	for _, text := range s.Ports {
		p, err := policy.ParsePortRange(text)
		if err != nil {
			t.Fatal(err)
		}
		out.Ports = append(out.Ports, p)
	}
	return out
}

func TestUnused(t *testing.T) {
	plain := policy.AppMatch{App: policy.AppPostgreSQL, Forms: policy.TLSPlain}
	out, in := allow("out", "web", "db", plain, 5432), allow("in", "web", "db", plain, 5432)
	out.Speaks, in.Speaks, out.Tier, in.Tier = policy.SpeaksOut, policy.SpeaksIn, policy.TierLabel, policy.TierLabel
	pending := allow("pending", "web", "job", plain, 5)
	pending.Pending = "names"
	table := shop(t, out, in, pending, allow("idle", "job", "db", plain, 5432))
	a := Make(table, []*history.Record{seen("web", "db", 5432, pg)}, "", speaks)
	if len(a.Unused) != 1 || a.Unused[0].ID != "idle" {
		t.Errorf("%+v: a side each was used, one waits", a.Unused)
	}
	if a := Make(table, nil, "shop/web", speaks); len(a.Unused) != 2 {
		t.Errorf("of web: %+v", a.Unused)
	}
	if text := fmt.Sprint(a.Suggestions); len(a.Suggestions) != 0 {
		t.Error(text)
	}
}

package policy

import (
	"encoding/json"
	"strings"
	"testing"
)

// explained is the town with one statement, a deny, and something pending;
// web enforces, blog/app observes.
func explained(t *testing.T) *Table {
	in := town()
	in.Groups[2].Mode = Observe
	in.Groups[1].Model, in.Groups[1].Reasons = "mariadb", []string{"image docker.io/library/mariadb"}
	in.Statements = []Statement{
		{ID: "sql", Verdict: Allow, From: one(peerWeb), To: one(peerDB), App: AppMatch{App: AppMySQL, Forms: TLSStart}, Ports: tcp(3306),
			Origin: []string{"wordpress@1#db calls database", "mariadb@1#sql serves app-server", "env WORDPRESS_DB_HOST"}},
		{ID: "no-telnet", Verdict: Drop, Tier: TierOperator, From: peersOf(PeerAny), To: one(peerDB), App: AnyApp, Ports: tcp(23), Origin: []string{"ticket 7"}},
		{ID: "published", Verdict: Allow, From: peersOf(PeerExternal), To: one(peerWeb), App: AppMatch{App: AppHTTP, Forms: TLSOnly}, Ports: tcp(80), Origin: []string{"published 8080"}},
		{ID: "updates", Verdict: Allow, From: one(peerWeb), To: []Peer{{Kind: PeerName, Name: "api.example.com"}}, App: AnyApp, Ports: tcp(443), Pending: "names"},
	}
	return mustCompile(t, in)
}

func TestExplain(t *testing.T) {
	table := explained(t)
	for _, c := range []struct {
		from, to string
		port     PortRange
		app      App
		verdict  Verdict
		says     []string
	}{
		{"shop/web", "shop/db", Port(ProtoTCP, 3306), AppMySQL, Allow, []string{"shop/web -> shop/db : mysql tcp/3306", "allow shop/web -> shop/db : mysql+starttls tcp/3306", "env WORDPRESS_DB_HOST", "mariadb@1: image docker.io/library/mariadb"}},
		{"web", "172.18.0.3", Port(ProtoTCP, 3306), AppSSH, Drop, []string{"drop (app)", "may speak only mysql+starttls", "gatehouse mode shop/web observe"}},
		{"web", "db", Port(ProtoTCP, 3306), AppNone, Undecided, []string{"depends on the application", "may speak", "mysql+starttls"}},
		{"fd00:18::2", "fd00:18::3", Port(ProtoTCP, 3306), AppMySQL, Allow, []string{"shop/web -> shop/db"}},
		{"db", "web", Port(ProtoTCP, 80), AppHTTP, Drop, []string{"drop (no-rule)", "depends_on of shop/db"}},
		{"app", "web", Port(ProtoTCP, 80), AppHTTP, Drop, []string{"different projects", "blog/app"}},
		{"app", "@site", Port(ProtoTCP, 80), AppNone, Allow, []string{"recorded only (no-rule)", "`gatehouse mode blog/app enforce` drops it"}},
		{"app", "192.168.1.9", Port(ProtoTCP, 8080), AppHTTP, Drop, []string{"shop/web : http tcp/80 (behind tcp/8080)"}},
		{"app", "1.1.1.1", Port(ProtoUDP, 53), AppDNS, Allow, []string{"blog/app -> @resolver"}},
		{"@internet", "shop/web", Port(ProtoTCP, 80), AppHTTP, Allow, []string{"tls(http)", "not guarded"}},
		{"1.1.1.1", "172.18.0.2", Port(ProtoTCP, 22), AppNone, Drop, []string{"@internet -> shop/web", "publish tcp/22 of shop/web"}},
		{"web", "shop/db#65", Port(ProtoTCP, 23), AppTelnet, Drop, []string{"drop (denied)", `statement "no-telnet" (ticket 7) denies it`, "(operator)"}},
		{"web", "@internet", Port(ProtoTCP, 443), AppHTTP, Drop, []string{"pending", "name:api.example.com", "waits for names", "environment variable of shop/web"}},
		{"web", "172.18.0.99", Port(ProtoTCP, 443), AppHTTP, Drop, []string{"unknown-peer", "gatehouse get workloads"}},
		{"web", "169.254.169.254", Port(ProtoTCP, 80), AppHTTP, Drop, []string{"@metadata", "needs a statement that names both"}},
		{"web", "224.0.0.251", Port(ProtoUDP, 5353), AppMDNS, Drop, []string{"multicast and broadcast pass only"}},
		{"loose", "exporter", Port(ProtoTCP, 1), AppNone, Allow, []string{"not guarded"}},
	} {
		x, err := Explain(table, c.from, c.to, c.port, c.app)
		if err != nil {
			t.Errorf("%s -> %s %s: %v", c.from, c.to, c.port, err)
			continue
		}
		if x.Verdict != c.verdict {
			t.Errorf("%s -> %s %s %s: %v, want %v", c.from, c.to, c.port, c.app, x.Verdict, c.verdict)
		}
		for _, want := range c.says {
			if !strings.Contains(x.Text(), want) {
				t.Errorf("%s -> %s %s %s: does not say %q:\n%s", c.from, c.to, c.port, c.app, want, x.Text())
			}
		}
		if text, err := json.Marshal(x); err != nil || strings.Contains(string(text), ":null") {
			t.Errorf("%s -> %s: JSON %s (%v)", c.from, c.to, text, err)
		}
	}
}

func TestExplainFaults(t *testing.T) {
	in := town()
	in.Groups = append(in.Groups, Group{Identity: 500, Service: key("shop", "db"), Guarded: true})
	table := mustCompile(t, in)
	for _, c := range []struct {
		from, to string
		port     PortRange
		want     string
	}{
		{"shop/db", "web", Port(ProtoTCP, 80), "shop/db#65, shop/db#500"},
		{"web", "nobody", Port(ProtoTCP, 80), `"nobody"`},
		{"namesake", "web", Port(ProtoTCP, 80), "no service, container, peer or address"}, // a container in no group
		{"@external", "web", Port(ProtoTCP, 80), "@site, @internet"},
		{"web", "#7", Port(ProtoTCP, 80), "identity #7"},
		{"web", "app", PortRange{ProtoTCP, 80, 90}, "one port"},
		{"web", "app", PortRange{}, "want tcp, udp or icmp"},
	} {
		if _, err := Explain(table, c.from, c.to, c.port, AppNone); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s %v: error %v does not say %q", c.from, c.to, c.port, err, c.want)
		}
	}
}

// TestExplainAgrees: an explanation says what the packet path does, for a flow
// as it was seen.
func TestExplainAgrees(t *testing.T) {
	table := explained(t)
	for _, q := range []Query{
		query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, 3306), query(2, "fd00:19::3", "2001:db8:1::9", ProtoTCP, 8080),
		query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, 23), query(1, "fd00:18::2", "64:ff9b::a9fe:a9fe", ProtoTCP, 80),
	} {
		for _, s := range []Spoken{{App: AppMySQL}, {App: AppUnknown}, {App: AppTLS, ALPN: AppHTTP}} {
			x, j := ExplainFlow(table, q, s, ServerName{}), table.Lookup(q).Judge(s)
			if x.Verdict != j.Verdict || x.Denied != j.Denied || x.Reason != j.Reason {
				t.Errorf("%+v %v: explained %v %v %v, judged %+v", q, s, x.Verdict, x.Denied, x.Reason, j)
			}
		}
	}
}

package models

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gatehouse/policy"
)

// TestStatementLabels: text form, and for which sides it speaks (V2).
func TestStatementLabels(t *testing.T) {
	for _, c := range []struct{ label, want string }{
		{"gatehouse.allow.egress=api.github.com:443", "allow p/x -> name:api.github.com : tls(http) tcp/443 out"},
		{"gatehouse.allow.egress.2=*.example.com:8443/tcp http", "allow p/x -> name:*.example.com : http|tls(http) tcp/8443 out"},
		{"gatehouse.allow.egress=1.2.3.4:80", "allow p/x -> cidr:1.2.3.4/32 : http tcp/80 out"},
		{"gatehouse.allow.egress=10.0.0.0/8:514/udp syslog", "allow p/x -> cidr:10.0.0.0/8 : syslog|tls(syslog) udp/514 out"},
		{"gatehouse.allow.egress=[2001:db8::1]:22", "allow p/x -> cidr:2001:db8::1/128 : ssh tcp/22 out"},
		{"gatehouse.allow.egress=[2001:db8::/32]:22", "allow p/x -> cidr:2001:db8::/32 : ssh tcp/22 out"},
		{"gatehouse.allow.egress=y:9999", "allow p/x -> p/y : any tcp/9999 both"},
		{"gatehouse.allow.egress=p/y:9999", "allow p/x -> p/y : any tcp/9999 both"},
		{"gatehouse.allow.egress=q/db:5432", "allow p/x -> q/db : postgresql+starttls tcp/5432 out"},
		{"gatehouse.allow.ingress=q/db:80", "allow q/db -> p/x : http tcp/80 in"},
		{"gatehouse.allow.ingress=@site:22 ssh", "allow @site -> p/x : ssh|tls(ssh) tcp/22 in"},
		{"gatehouse.deny.egress=@internet:any", "deny p/x -> @internet : any any out"},
		{"gatehouse.deny.ingress=y:80", "deny p/y -> p/x : any tcp/80 both"},
		{"gatehouse.allow.egress=@host:icmp", "allow p/x -> @host : any icmp out"},
		{"gatehouse.allow.egress=@site:1000-2000/udp,  @site:53", "allow p/x -> @site : any udp/1000-2000 out; allow p/x -> @site : dns tcp/53 out"},
	} {
		b := newTown(t).network("n", "p")
		b.run("p/x", "x/x", "n", label(c.label))
		b.run("p/y", "x/y", "n")
		p := b.groups(Settings{})
		ss, findings := Generate(p)
		var got []string
		for _, s := range ss {
			if s.Tier == policy.TierLabel {
				verb := "deny"
				if s.Verdict == policy.Allow {
					verb = "allow"
				}
				ports := policy.PortsText(s.Ports)
				if s.AnyPort {
					ports = "any"
				}
				got = append(got, fmt.Sprintf("%s %s -> %s : %s %s %s", verb, s.From[0], s.To[0], s.App, ports, s.Speaks))
			}
		}
		want := strings.Split(c.want, "; ")
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q; findings %v", c.label, got, want, findings)
		}
	}
}

func TestMalformedStatementLabels(t *testing.T) {
	for _, text := range []string{
		"gatehouse.allow.egress=", "gatehouse.allow.egress=a.example.com", "gatehouse.allow.egress=a.example.com:0", "gatehouse.allow.egress=a.example.com:70000",
		"gatehouse.allow.egress=a.example.com:443/sctp", "gatehouse.allow.egress=a.example.com:443 nonsense", "gatehouse.allow.egress=a.example.com:443 http more",
		"gatehouse.allow.egress=@nobody:1", "gatehouse.allow.egress=@site:any", "gatehouse.allow.ingress=a.example.com:443", "gatehouse.deny.egress=a.example.com:443",
		"gatehouse.allow.egress=10.0.0.1/8:80", "gatehouse.allow.egress=a/b/c:80", "gatehouse.allow.egress=a b:80", "gatehouse.allow.egress=*:80",
		"gatehouse.allow.egress=good.example.com:443,bad", "gatehouse.allow.outgress=1.2.3.4:80", "gatehouse.allow.egress.x=1.2.3.4:80",
		"gatehouse.allow.egress=" + strings.Repeat("1.2.3.4:80,", 100) + "1.2.3.4:80", "gatehouse.allow.egress=" + strings.Repeat("x", 10_000) + ":80",
	} {
		b := newTown(t).network("n", "p")
		b.run("p/x", "x/x", "n", label(text))
		ss, findings := Generate(b.groups(Settings{}))
		if slices.ContainsFunc(ss, func(s policy.Statement) bool { return s.Tier == policy.TierLabel }) {
			t.Errorf("%.60s gives a statement", text)
		}
		if !slices.ContainsFunc(findings, func(f Finding) bool {
			return f.Kind == FindingIgnoredLabel && strings.Contains(f.Text, "gives nothing")
		}) {
			t.Errorf("%.60s: no finding in %v", text, findings)
		}
	}
}

// What an image bakes gives nothing (I3), and 100,000 labels are bounded.
func TestStatementLabelsAreTheDeployers(t *testing.T) {
	b := newTown(t).network("n", "p")
	b.run("p/x", "x/x", "n", imageLabel("gatehouse.allow.egress=@internet:443"))
	b.run("p/y", "x/y", "n")
	w := &b.snap.Workloads[1]
	w.Labels = make(map[string]policy.Label)
	for i := range 100_000 {
		w.Labels[fmt.Sprintf("gatehouse.allow.egress.%d", i)] = policy.Label{Value: fmt.Sprintf("10.%d.%d.0/24:80", i/256%256, i%256), By: policy.SetByDeployer}
	}
	ss, findings := Generate(b.groups(Settings{}))
	byLabel := slices.DeleteFunc(ss, func(s policy.Statement) bool { return s.Tier != policy.TierLabel })
	if len(byLabel) != maxLabels || !slices.ContainsFunc(byLabel, func(s policy.Statement) bool { return s.From[0].Service.Name == "y" }) {
		t.Errorf("%d statements by label", len(byLabel))
	}
	if !slices.ContainsFunc(findings, func(f Finding) bool { return strings.Contains(f.Text, "more than 256 statements") }) {
		t.Errorf("%d findings do not tell", len(findings))
	}
}

// A deny counts whoever said it, and neither an image's denies nor allows push out
// the deployer's (I3).
func TestDenyLabels(t *testing.T) {
	b := newTown(t).network("n", "p")
	b.run("p/x", "x/x", "n", imageLabel("gatehouse.deny.egress=@internet:any"), label("gatehouse.deny.ingress=@site:any"))
	check := func(want ...string) {
		t.Helper()
		ss, _ := Generate(b.groups(Settings{}))
		said := lines(slices.DeleteFunc(ss, func(s policy.Statement) bool { return s.Tier != policy.TierLabel }))
		for _, w := range want {
			if !slices.Contains(said, w) {
				t.Errorf("no %q among %d: %q...", w, len(said), said[:min(3, len(said))])
			}
		}
	}
	check("deny @site -> p/x : any any", "deny p/x -> @internet : any any")
	w := &b.snap.Workloads[0]
	for i := range 2 * maxLabels {
		value := fmt.Sprintf("10.1.%d.%d:80", i/256, i%256)
		w.Labels[fmt.Sprintf("gatehouse.deny.egress.%d", i)] = policy.Label{Value: value, By: policy.SetByImage}
		w.Labels[fmt.Sprintf("gatehouse.allow.egress.%d", i)] = policy.Label{Value: value, By: policy.SetByDeployer}
	}
	check("deny @site -> p/x : any any")
}

func FuzzStatementLabel(f *testing.F) {
	f.Add("gatehouse.allow.egress", "api.example.com:443, [2001:db8::/32]:1-2/udp dns")
	f.Add("gatehouse.deny.ingress.7", "@any:any")
	f.Fuzz(func(t *testing.T, key, value string) {
		items, err := parseStatementLabel(key, value)
		if err == nil && (len(items) == 0 || len(items) > maxLabelItems) {
			t.Errorf("%q=%q: %d items", key, value, len(items))
		}
		for _, i := range items {
			if i.allow && i.anyPort || i.service == "" && i.peer.Kind == policy.PeerNone || !i.app.Any && i.app.App == policy.AppNone {
				t.Errorf("%q=%q: %+v", key, value, i)
			}
		}
	})
}

// A label that is offered means what was asked, and nothing is offered that labels
// cannot say.
func TestStatementLabel(t *testing.T) {
	for _, c := range []struct {
		egress bool
		peer   string
		port   string
		app    policy.App
		want   string
	}{
		{true, "shop/db", "tcp/5432", policy.AppPostgreSQL, "gatehouse.allow.egress=shop/db:5432 postgresql"},
		{false, "@site", "udp/53", policy.AppDNS, "gatehouse.allow.ingress=@site:53/udp dns"},
		{true, "api.example.com", "tcp/443", policy.AppHTTP, "gatehouse.allow.egress=api.example.com:443 http"},
		{true, "@internet", "icmp", policy.AppICMP, "gatehouse.allow.egress=@internet:icmp icmp"},
		{false, "api.example.com", "tcp/443", policy.AppHTTP, ""}, // a name says where to
		{true, "shop/a b", "tcp/1", policy.AppHTTP, ""},
		{true, "a,b", "tcp/1", policy.AppHTTP, ""},
		{true, "@unknown", "tcp/1", policy.AppHTTP, ""},
	} {
		port, err := policy.ParsePortRange(c.port)
		if err != nil {
			t.Fatal(err)
		}
		got := StatementLabel(c.egress, c.peer, port, c.app)
		if got != c.want {
			t.Errorf("%s %s %v: %q, want %q", c.peer, c.port, c.app, got, c.want)
		}
		key, value, _ := strings.Cut(got, "=")
		if items, err := parseStatementLabel(key, value); got != "" && (err != nil || len(items) != 1 || items[0].app.App != c.app || items[0].ports[0] != port) {
			t.Errorf("%q is read as %+v, %v", got, items, err)
		}
	}
}

package models

import (
	"slices"
	"testing"

	"gatehouse/policy"
)

func TestSpoken(t *testing.T) {
	b := newTown(t).network("n", "p")
	b.run("p/pg", "postgres:16", "n", expose("tcp/5432"))
	b.run("p/redis", "redis:7", "n", expose("tcp/6379"))
	b.run("p/own", "x/own", "n", expose("tcp/80"))
	p := b.groups(Settings{})
	for _, tt := range []struct {
		service string
		port    uint16
		want    []policy.AppMatch
	}{
		{"p/pg", 5432, []policy.AppMatch{{App: policy.AppPostgreSQL, Forms: policy.TLSOptional}}}, // two entries
		{"p/pg", 22, nil},
		{"p/redis", 6379, []policy.AppMatch{{App: policy.AppRedis, Forms: policy.TLSPlain}}},
		{"p/own", 80, []policy.AppMatch{policy.AnyApp}},
		{"p/none", 80, nil},
	} {
		if got := p.Spoken(serviceKey(tt.service), policy.Port(policy.ProtoTCP, tt.port)); !slices.Equal(got, tt.want) {
			t.Errorf("%s tcp/%d: %+v", tt.service, tt.port, got)
		}
	}
}

// A service is not taken for another engine's of the same text, and what neither knows
// is one of them only where there is one.
func TestSpokenByWhichService(t *testing.T) {
	b := newTown(t).network("n", "p")
	b.run("p/db", "postgres:16", "n", expose("tcp/5432"))
	b.run("p/one", "redis:7", "n", expose("tcp/6379"))
	of := func(engine, service string) policy.ServiceKey {
		k := serviceKey(service)
		k.Project.Domain = engine
		return k
	}
	b.run("p/db", "mysql:8", "n", expose("tcp/3306")).Service = of("e2", "p/db")
	p := b.groups(Settings{})
	for _, tt := range []struct {
		service policy.ServiceKey
		port    uint16
		want    policy.App
	}{
		{of("e1", "p/db"), 5432, policy.AppPostgreSQL}, {of("e1", "p/db"), 3306, policy.AppNone},
		{of("e2", "p/db"), 3306, policy.AppMySQL}, {of("e2", "p/db"), 5432, policy.AppNone},
		{of("", "p/db"), 5432, policy.AppNone}, {of("e3", "p/db"), 3306, policy.AppNone},
		{of("", "p/one"), 6379, policy.AppRedis}, {of("e3", "p/one"), 6379, policy.AppRedis},
	} {
		got := policy.AppNone
		if all := p.Spoken(tt.service, policy.Port(policy.ProtoTCP, tt.port)); len(all) == 1 {
			got = all[0].App
		}
		if got != tt.want {
			t.Errorf("%+v tcp/%d: %v, want %v", tt.service, tt.port, got, tt.want)
		}
	}
}

func TestWhyNot(t *testing.T) {
	b := newTown(t).network("n", "p").network("m", "p").network("hand", "").network("q_default", "q")
	b.run("p/app", "t/app", "n")
	b.run("p/db", "t/db", "n")
	b.run("p/mail", "t/mail", "m")
	b.run("q/app", "t/app", "hand q_default")
	b.run("r/db", "t/db", "hand")
	b.run("r/app", "t/app", "q_default", ref("env APP_HOST", "q-app-1"))
	p := b.groups(Settings{}, loadModels(t, testModels)...)
	service := func(s string) policy.Peer { return policy.ServicePeer(serviceKey(s)) }
	tcp := func(n uint16) policy.PortRange { return policy.Port(policy.ProtoTCP, n) }
	for _, tt := range []struct {
		name     string
		from, to policy.Peer
		port     policy.PortRange
		want     []string
	}{
		{"allowed", service("p/app"), service("p/db"), tcp(5432), nil},
		{"port", service("p/app"), service("p/db"), tcp(22), []string{"t-db@1 does not serve tcp/22; it serves tcp/5432, tcp/8081, tcp/9187, tcp/7000"}},
		{"role", service("p/app"), service("p/db"), tcp(9187), []string{"t-db@1#stats serves monitoring; peer p/app (app-server)"}},
		{"both sides", service("p/db"), service("p/app"), tcp(8000), []string{
			"t-app@1#web serves proxy, web-server, self; peer p/db (database)",
			"t-db@1#mesh calls siblings, model t-db; peer p/app (app-server)"}},
		{"path", service("p/app"), service("p/mail"), tcp(25), []string{
			"no path: p/app and p/mail share no network",
			"t-mail@1#smtp serves whom its deployer names; peer p/app (app-server)",
			"t-app@1#db calls database, t-app@1#own-url calls self, front, t-app@1#refs calls whom its deployer names; peer p/mail (mail)"}},
		{"project", service("q/app"), service("r/db"), tcp(5432), []string{
			"r/db is of another project, and no reference of q/app names it (R7)",
			"t-db@1#sql serves app-server, whom its deployer names; peer q/app (app-server)",
			"t-app@1#db calls database, t-app@1#own-url calls self, front, t-app@1#refs calls whom its deployer names; peer r/db (database)"}},
		{"named on the callee's own network", service("r/app"), service("q/app"), tcp(1), []string{
			"q/app is of another project, and r/app meets it only on network q_default, which is neither its own nor nobody's (R7)",
			"t-app@1 does not serve tcp/1; it serves tcp/8000",
			"t-app@1#db calls database, t-app@1#own-url calls self, front, t-app@1#refs calls whom its deployer names; peer q/app (app-server)"}},
		{"outside", service("p/app"), policy.Peer{Kind: policy.PeerInternet}, tcp(443), []string{
			"t-app@1#db calls database, t-app@1#own-url calls self, front, t-app@1#refs calls whom its deployer names; peer @internet"}},
		{"from outside, any port", policy.Peer{Kind: policy.PeerSite}, service("p/app"), policy.PortRange{}, []string{
			"t-app@1#web serves proxy, web-server, self; peer @site"}},
		{"nobody there", service("x/y"), service("x/z"), tcp(1), nil},
	} {
		t.Run(tt.name, func(t *testing.T) { expect(t, p.WhyNot(tt.from, tt.to, tt.port), tt.want) })
	}
}

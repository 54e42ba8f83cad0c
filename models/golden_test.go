package models

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gatehouse/policy"
)

var update = flag.Bool("update", false, "write testdata/golden from what is generated")

// golden compares the text of the statements, and after a "--" line of the
// pending ones and the findings, with testdata/golden/NAME.txt.
func golden(t *testing.T, name string, ss []policy.Statement, fs []Finding) {
	t.Helper()
	got := strings.Join(Text(ss), "\n") + "\n-- pending\n"
	for _, s := range ss {
		if s.Pending != "" {
			got += strings.Join(s.Lines(false), "\n") + "  # " + s.Pending + "\n"
		}
	}
	got += "-- findings\n"
	for _, f := range fs {
		got += f.String() + "\n"
	}
	file := filepath.Join("testdata", "golden", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// Comments may be aligned in the file.
	if padded.ReplaceAllString(string(want), "  #") != got {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

var padded = regexp.MustCompile(` +#`)

func TestGoldenA(t *testing.T) {
	ss, fs := shop(t).generate()
	golden(t, "a-shop", ss, fs)
}

// verdict asks the compiled table about one flow.
type verdict struct {
	from, to string // a service, or an address
	port     uint16
	app      policy.App
	allow    bool
}

// judge compiles what the town generates, all enforcing, and asks in IPv4 and,
// where both have it, IPv6.
func judge(t *testing.T, b *town, vs []verdict) {
	t.Helper()
	judgeBy(t, b, library(t), vs)
}

func judgeBy(t *testing.T, b *town, lib *Library, vs []verdict) {
	t.Helper()
	p := Groups(lib, &b.snap, Settings{DefaultMode: policy.Enforce}, policy.NewIdentities())
	ss, _ := Generate(p)
	table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: &b.snap, Groups: p.Groups, Statements: ss})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		for _, q := range b.queries(t, v) {
			d := table.Lookup(q)
			j := d.Judge(policy.Spoken{App: v.app})
			if (j.Verdict == policy.Allow) != v.allow {
				t.Errorf("%s -> %s : %s tcp/%d: %v (%v), want allow %v; %+v", v.from, v.to, v.app, v.port, j.Verdict, j.Reason, v.allow, q)
			}
		}
	}
}

// queries are the flow in each family and zone that both ends have.
func (b *town) queries(t *testing.T, v verdict) []policy.Query {
	t.Helper()
	var out []policy.Query
	from, to := b.placesOf(v.from), b.placesOf(v.to)
	for _, f := range from {
		for _, d := range to {
			if f.addr.Is4() != d.addr.Is4() {
				continue
			}
			zone := max(f.zone, d.zone)
			if f.zone != 0 && d.zone != 0 {
				zone = f.zone
			}
			out = append(out, policy.Query{Zone: zone, Src: f.addr.As16(), Dst: d.addr.As16(), Proto: policy.ProtoTCP, DstPort: v.port})
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s -> %s: no such flow", v.from, v.to)
	}
	return out
}

type place struct {
	zone policy.Zone
	addr netip.Addr
}

func (b *town) placesOf(who string) []place {
	if a, err := netip.ParseAddr(who); err == nil {
		return []place{{0, a}}
	}
	var out []place
	for _, w := range b.snap.Workloads {
		if w.Service.String() != who {
			continue
		}
		for _, e := range w.Endpoints {
			for _, a := range e.Addresses {
				out = append(out, place{b.snap.Networks[b.nets[strings.TrimPrefix(e.Network, "net-")]].Zone, a})
			}
		}
	}
	return out
}

func TestGoldenAVerdicts(t *testing.T) {
	b := newTown(t).network("shop_default+6", "shop")
	b.run("shop/db", "mariadb:11", "shop_default", expose("tcp/3306"))
	b.run("shop/redis", "redis:7", "shop_default", expose("tcp/6379"))
	b.run("shop/wordpress", "wordpress:6-apache", "shop_default", expose("tcp/80"), publish("8080:80"),
		ref("env WORDPRESS_DB_HOST", "db:3306"), dependsOn("db", "redis"))
	b.run("blog/x", "x/x", "shop_default", ref("env DB_HOST", "db"))
	const site, site6, out, out6, host = "192.168.1.50", "fd12::50", "198.51.100.7", "2001:db8::7", "172.18.0.1"
	judge(t, b, []verdict{
		{"shop/wordpress", "shop/db", 3306, policy.AppMySQL, true},
		{"shop/wordpress", "shop/redis", 6379, policy.AppRedis, true},
		{site, "shop/wordpress", 80, policy.AppHTTP, true},
		{out, "shop/wordpress", 80, policy.AppHTTP, true},
		{out6, "shop/wordpress", 80, policy.AppHTTP, true},
		{host, "shop/wordpress", 80, policy.AppHTTP, true},
		{"shop/wordpress", "shop/wordpress", 80, policy.AppHTTP, true},
		{"shop/redis", "shop/db", 3306, policy.AppMySQL, false},
		{"shop/db", out, 443, policy.AppTLS, false},
		{"shop/db", out6, 443, policy.AppTLS, false},
		{site, "shop/db", 3306, policy.AppMySQL, false},
		{site6, "shop/db", 3306, policy.AppMySQL, false},
		{"shop/wordpress", "shop/db", 3306, policy.AppHTTP, false},
		{host, "shop/db", 3306, policy.AppMySQL, false},
		{"blog/x", "shop/db", 3306, policy.AppMySQL, false},
		{"shop/wordpress", out, 443, policy.AppTLS, false}, // names wait
		{out, "shop/wordpress", 80, policy.AppSSH, false},
	})
}

func TestGoldenB(t *testing.T) {
	b := newTown(t).network("proxy", "edge").network("shop_default", "shop").network("cloud_default", "cloud")
	b.run("edge/traefik", "traefik:v3", "proxy", publish("80:80"), publish("443:443"), expose("tcp/80"))
	b.run("shop/web", "shop-web", "shop_default proxy", localImage, label("traefik.enable=true"),
		label("traefik.http.services.web.loadbalancer.server.port=3000"), ref("env DATABASE_URL", "postgresql://db"))
	b.run("shop/db", "postgres:16", "shop_default", expose("tcp/5432"))
	b.run("cloud/app", "nextcloud:apache", "cloud_default proxy", expose("tcp/80"), label("traefik.enable=true"),
		label("traefik.http.routers.cloud.rule=Host(`cloud.example.com`)"), ref("env MYSQL_HOST", "db"), ref("env REDIS_HOST", "redis"))
	b.run("cloud/cron", "nextcloud:apache", "cloud_default", expose("tcp/80"), ref("env MYSQL_HOST", "db"), ref("env REDIS_HOST", "redis"))
	b.run("cloud/db", "mariadb:11", "cloud_default", expose("tcp/3306"))
	b.run("cloud/redis", "redis:7", "cloud_default", expose("tcp/6379"))
	ss, fs := b.generate()
	golden(t, "b-edge-shop-cloud", ss, fs)
	judge(t, b, []verdict{
		{"shop/web", "shop/db", 5432, policy.AppPostgreSQL, true},
		{"cloud/cron", "cloud/db", 3306, policy.AppMySQL, true},
		{"shop/web", "cloud/app", 80, policy.AppHTTP, false},
		{"cloud/app", "shop/web", 3000, policy.AppHTTP, false},
		{"edge/traefik", "shop/db", 5432, policy.AppPostgreSQL, false},
		{"edge/traefik", "cloud/db", 3306, policy.AppMySQL, false},
		{"edge/traefik", "shop/web", 5432, policy.AppPostgreSQL, false},
		{"edge/traefik", "cloud/cron", 80, policy.AppHTTP, false},
		{"edge/traefik", "cloud/app", 80, policy.AppHTTP, true},
		{"edge/traefik", "cloud/app", 80, policy.AppSSH, false},
		{"edge/traefik", "shop/web", 3000, policy.AppHTTP, true},
		{"edge/traefik", "shop/web", 3000, policy.AppSSH, false},
	})
}

const hfsModel = `
schema: gatehouse.model/v1
model: hfs
revision: 1
title: HTTP File Server
roles: [file-server]
docs: ["https://github.com/rejetto/hfs"]
match: {images: [rejetto/hfs]}
dns: none
serves:
  - {id: files, app: http, tls: optional, ports: [exposed], publish: none, to: [{role: app-server}, {role: management}]}
  - {id: admin, kind: admin, app: ssh, ports: [tcp/22], publish: none, to: [{role: management}]}
`

func TestGoldenC(t *testing.T) {
	for _, published := range []bool{false, true} {
		b := newTown(t).network("files_default", "files")
		opts := []option{expose("tcp/80")}
		if published {
			opts = append(opts, publish("80:80"))
		}
		b.run("files/hfs", "rejetto/hfs", "files_default", opts...)
		p := b.groups(Settings{}, loadModels(t, hfsModel)...)
		ss, _ := Generate(p)
		if len(ss) > 0 {
			t.Errorf("published %v: %v", published, Text(ss))
		}
		why := p.WhyNot(policy.Peer{Kind: policy.PeerSite}, policy.ServicePeer(serviceKey("files/hfs")), policy.Port(policy.ProtoTCP, 80))
		want := []string{"hfs@1#files serves app-server, management; peer @site"}
		if published {
			want = append(want, "hfs@1#files publish none")
		}
		expect(t, why, want)
	}
}

// Web servers told apart by their deployers' label: those of the inside are not
// for the internet, though both publish.
func TestGoldenCTiers(t *testing.T) {
	const internal = `schema: gatehouse.model/v1
model: web-internal
revision: 1
title: internal web server
extends: nginx
docs: [docs/web-tiers.md]
match: {images: [nginx], labels: {tier: internal}}
serves:
  - {id: web, app: http, tls: optional, ports: [exposed, published], publish: site, to: [{role: app-server}, {role: web-server}, {role: management}]}
`
	b := newTown(t).network("shop_default+6", "shop")
	b.run("shop/inside", "nginx:1", "shop_default", expose("tcp/80"), publish("8081:80"), label("tier=internal"))
	b.run("shop/outside", "nginx:1", "shop_default", expose("tcp/80"), publish("8080:80"))
	b.run("shop/baked", "nginx:1", "shop_default", expose("tcp/80"), publish("8082:80"), func(w *policy.Workload) {
		w.Labels = map[string]policy.Label{"tier": {Value: "internal", By: policy.SetByImage}}
	})
	const site, site6, out, out6 = "192.168.1.50", "fd12::50", "198.51.100.7", "2001:db8::7"
	lib, err := WithOwn(loadModels(t, internal))
	if err != nil {
		t.Fatal(err)
	}
	judgeBy(t, b, lib, []verdict{
		{site, "shop/inside", 80, policy.AppHTTP, true},
		{site6, "shop/inside", 80, policy.AppHTTP, true},
		{out, "shop/inside", 80, policy.AppHTTP, false},
		{out6, "shop/inside", 80, policy.AppHTTP, false},
		{out, "shop/inside", 80, policy.AppSSH, false},
		{out, "shop/outside", 80, policy.AppHTTP, true},
		{out6, "shop/outside", 80, policy.AppHTTP, true},
		{out, "shop/baked", 80, policy.AppHTTP, true}, // an image says nothing of its tier (I3)
		{"shop/inside", out, 80, policy.AppHTTP, false},
	})
}

func TestGoldenCDatabase(t *testing.T) {
	b := newTown(t).network("shop_default+6", "shop")
	b.run("shop/db", "postgres:16", "shop_default", expose("tcp/5432"))
	b.run("shop/app", "shop-app", "shop_default", localImage, ref("env DATABASE_URL", "postgresql://db"))
	judge(t, b, []verdict{
		{"shop/app", "shop/db", 5432, policy.AppPostgreSQL, true},
		{"shop/app", "shop/db", 5432, policy.AppHTTP, false},
		{"shop/app", "shop/db", 80, policy.AppHTTP, false},
		{"shop/db", "198.51.100.7", 443, policy.AppTLS, false},
		{"shop/db", "2001:db8::7", 443, policy.AppTLS, false},
		{"shop/db", "192.168.1.1", 53, policy.AppDNS, false},
	})
	p := b.groups(Settings{})
	db, app := policy.ServicePeer(serviceKey("shop/db")), policy.ServicePeer(serviceKey("shop/app"))
	for _, tt := range []struct {
		from, to policy.Peer
		port     uint16
		want     string
	}{
		{app, db, 80, "postgresql@4 does not serve tcp/80; it serves tcp/5432"},
		{db, policy.Peer{Kind: policy.PeerResolver}, 53, "postgresql@4 calls no name server"},
		{db, policy.Peer{Kind: policy.PeerInternet}, 443, "peer @internet"},
		{policy.Peer{Kind: policy.PeerSite}, db, 5432, "postgresql@4#sql serves app-server, "},
		{db, app, 3000, "custom@1 does not serve tcp/3000; it serves nothing"},
	} {
		why := strings.Join(p.WhyNot(tt.from, tt.to, policy.Port(policy.ProtoTCP, tt.port)), "\n")
		if !strings.Contains(why, tt.want) {
			t.Errorf("%s -> %s %d: %q, want %q", tt.from, tt.to, tt.port, why, tt.want)
		}
	}
}

// The stacks below are listed with all that they give.
func TestGoldenStacks(t *testing.T) {
	stacks := map[string]func(b *town){
		"demo": func(b *town) {
			b.network("demo_default", "demo")
			b.run("demo/nginx", "nginx:1.27", "demo_default", expose("tcp/80"), publish("8080:80"), dependsOn("app"))
			b.run("demo/app", "demo-app", "demo_default", localImage, expose("tcp/3000"),
				ref("env DATABASE_URL", "postgresql://db"), ref("env REDIS_URL", "redis://cache:6379"), dependsOn("db", "cache"))
			b.run("demo/db", "postgres:16", "demo_default", expose("tcp/5432"))
			b.run("demo/cache", "redis:7", "demo_default", expose("tcp/6379"))
		},
		"two-databases": func(b *town) { // R8
			b.network("p_default", "p")
			for _, s := range []string{"blog", "shop"} {
				b.run("p/"+s, "wordpress", "p_default", expose("tcp/80"), ref("env WORDPRESS_DB_HOST", "db-"+s))
				b.run("p/db-"+s, "mariadb:11", "p_default", expose("tcp/3306"))
			}
		},
		"neighbour": func(b *town) { // R7
			b.network("dbnet", "").network("app_default", "app")
			b.run("net:dbnet/postgres", "postgres:16", "dbnet", expose("tcp/5432"))
			b.run("app/web", "app-web", "dbnet app_default", localImage, ref("env DATABASE_URL", "postgresql://postgres:5432"))
		},
		"stranger": func(b *town) { // I4
			b.network("shop_default", "shop")
			b.run("shop/db", "mariadb:11", "shop_default", expose("tcp/3306"))
			b.run("sh", "debian", "shop_default", ref("env DB_HOST", "db"))
		},
		"clipped": func(b *town) { // T4
			b.network("proxy", "").network("p_default", "p")
			b.run("p/traefik", "traefik", "proxy p_default", localImage, publish("80:80"))
			b.run("p/web", "wordpress", "proxy p_default", expose("tcp/80"))
			b.run("q/web", "wordpress", "proxy", expose("tcp/80"))
		},
		"loopback": func(b *town) { // R13
			b.network("m_default", "m")
			b.run("m/web", "m-web", "m_default", localImage, publish("127.0.0.1:3000:3000"))
		},
		"siblings": func(b *town) { // R11
			b.network("p_default", "p")
			for _, s := range []string{"es01", "es02"} {
				b.run("p/"+s, "docker.elastic.co/elasticsearch/elasticsearch:8.15.0", "p_default", expose("tcp/9200", "tcp/9300"))
			}
			for range 3 {
				b.run("p/rabbitmq", "rabbitmq:3", "p_default", expose("tcp/5672"))
			}
		},
		"swarm": func(b *town) {
			b.network("ingress", "").network("docker_gwbridge", "").network("shop_default", "shop")
			b.snap.Networks[1].System = true
			for range 2 {
				b.run("shop/web", "registry.example/web", "ingress docker_gwbridge shop_default", swarm, localImage, ingress(8080, 3000),
					ref("env DATABASE_URL", "postgresql://shop_db"), ref("env CACHE_URL", "redis://tasks.cache:6379"))
			}
			b.run("shop/db", "postgres:16", "shop_default docker_gwbridge", swarm, expose("tcp/5432"))
			b.run("shop/cache", "redis:7", "shop_default docker_gwbridge", swarm, expose("tcp/6379"))
			b.run("other/web", "registry.example/web", "ingress docker_gwbridge", swarm, localImage, ref("env DATABASE_URL", "postgresql://shop_db"))
		},
	}
	for name, build := range stacks {
		t.Run(name, func(t *testing.T) {
			b := newTown(t)
			build(b)
			ss, fs := b.generate()
			golden(t, name, ss, fs)
		})
	}
}

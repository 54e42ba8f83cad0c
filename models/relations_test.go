package models

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"gatehouse/policy"
)

// testModels are software that exists only here, so that the tests of rules do
// not hang on what the library says of real software.
const testModels = `
schema: gatehouse.model/v1
model: t-db
revision: 1
title: Test database
roles: [database]
dns: none
docs: ["https://example.org/db"]
match: {images: [t/db]}
serves:
  - {id: sql, app: postgresql, tls: optional, ports: [tcp/5432], port_from: [{env: T_PORT}], to: [{role: app-server}, {ref: true, within: shared}]}
  - {id: console, kind: admin, app: http, ports: [tcp/8081], publish: site, to: [{role: management}, {ref: true}]}
  - {id: stats, kind: metrics, app: http, ports: [tcp/9187], to: [{role: monitoring, within: shared}]}
  - {id: mesh, kind: cluster, app: any, ports: [tcp/7000], to: [{peer: siblings}, {model: t-db, ref: true}]}
calls:
  - {id: mesh, kind: cluster, app: any, ports: [tcp/7000], to: [{peer: siblings}, {model: t-db, ref: true}]}
---
schema: gatehouse.model/v1
model: t-app
revision: 1
title: Test application
roles: [app-server]
docs: ["https://example.org/app"]
match: {images: [t/app]}
serves:
  - {id: web, app: http, ports: [tcp/8000], to: [{role: proxy, within: shared}, {role: web-server}, {peer: self}]}
calls:
  - {id: db, app: postgresql, tls: starttls, ports: [callee], to: [{role: database}, {role: database, ref: true, within: shared}]}
  - {id: own-url, app: http, ports: [callee], to: [{peer: self}, {peer: front}]}
  - {id: refs, app: callee, tls: optional, ports: [callee], to: [{ref: true, within: shared}]}
---
schema: gatehouse.model/v1
model: t-front
revision: 1
title: Test front
roles: [proxy]
docs: ["https://example.org/front"]
match: {images: [t/front]}
routes: {enable: t.enable, port: "t.*.port", host: "t.*.rule"}
serves:
  - {id: web, app: http, ports: [tcp/80], publish: any, to: []}
  - {id: rest, app: any, ports: [published], publish: any, to: []}
calls:
  - {id: backend, app: callee, tls: optional, ports: [callee, routed], to: [{role: app-server, within: shared}, {routed: true, within: shared}]}
  - {id: relay, app: any, ports: [udp/5353], to: [{peer: multicast}]}
  - {id: ping, app: icmp, ports: [icmp], to: [{role: app-server}]}
---
schema: gatehouse.model/v1
model: t-other-front
revision: 1
extends: t-front
match: {images: [t/other-front]}
routes: {enable: o.enable}
---
schema: gatehouse.model/v1
model: t-watch
revision: 1
title: Test watcher
roles: [monitoring]
docs: ["https://example.org/watch"]
match: {images: [t/watch]}
serves: []
calls:
  - {id: scrape, kind: metrics, app: http, ports: [callee], to: [{peer: workload, within: shared}]}
---
schema: gatehouse.model/v1
model: t-mail
revision: 1
title: Test mail server
roles: [mail]
docs: ["https://example.org/mail"]
match: {images: [t/mail]}
serves:
  - {id: smtp, app: smtp, tls: starttls, ports: [tcp/25], to: [{ref: true, within: shared}]}
  - {id: node, app: any, ports: [tcp/9999], publish: none, to: [{peer: host}]}
calls:
  - {id: mx, app: smtp, tls: starttls, ports: [tcp/25], to: [{peer: internet}], note: mail goes anywhere}
  - {id: updates, app: http, tls: only, ports: [tcp/443], to: [{name: updates.example.org}]}
`

func loadModels(t testing.TB, text string) []*Model {
	t.Helper()
	ms, err := Load(fstest.MapFS{"test.yaml": {Data: []byte(text)}}, true)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

// scene is one town and the statements (name lookups apart) that it must give.
type scene struct {
	name     string
	build    func(b *town)
	want     []string
	findings []string // "kind words"
}

func play(t *testing.T, scenes []scene) {
	t.Helper()
	for _, sc := range scenes {
		t.Run(sc.name, func(t *testing.T) {
			b := newTown(t)
			sc.build(b)
			ss, fs := b.generate(loadModels(t, testModels)...)
			expect(t, between(ss), sc.want)
			for _, want := range sc.findings {
				kind, words, _ := strings.Cut(want, " ")
				if !hasFinding(fs, FindingKind(kind), words) {
					t.Errorf("no finding %q in %v", want, fs)
				}
			}
			if len(sc.findings) == 0 && len(fs) > 0 {
				t.Errorf("findings %v", fs)
			}
		})
	}
}

func TestR1(t *testing.T) {
	play(t, []scene{
		{"shared network", func(b *town) {
			b.network("back", "p")
			b.run("p/app", "t/app", "back")
			b.run("p/db", "t/db", "back")
		}, []string{"p/app -> p/db : postgresql+starttls tcp/5432"}, nil},
		{"no shared network", func(b *town) {
			b.network("front", "p").network("back", "p")
			b.run("p/app", "t/app", "front", ref("env DB_HOST", "db"))
			b.run("p/db", "t/db", "back")
		}, nil, []string{"not-admitted no path"}},
		{"system networks relate nobody", func(b *town) {
			b.network("bridge", "").network("p_default", "p")
			b.run("p/app", "t/app", "bridge", ref("env DB_HOST", "p-db-1"))
			b.run("p/db", "t/db", "bridge p_default")
		}, nil, []string{"not-admitted"}},
		{"links act on the default bridge", func(b *town) {
			b.network("bridge", "")
			b.run("app", "t/app", "bridge", link("db"))
			b.run("db", "t/db", "bridge")
		}, []string{"app -> db : postgresql+starttls tcp/5432"}, nil},
		{"host network is reached by A6", func(b *town) {
			b.network("p_default", "p")
			b.run("p/watch", "t/watch", "p_default")
			b.run("p/db", "t/db", "", onHost)
		}, []string{"p/watch -> p/db : http tcp/9187"}, []string{"uncovered network_mode host"}},
	})
}

func TestR2(t *testing.T) {
	play(t, []scene{
		{"models reach their own project", func(b *town) {
			b.network("proxy", "p").network("q_default", "q")
			b.run("p/app", "t/app", "proxy")
			b.run("q/db", "t/db", "proxy q_default")
		}, nil, nil},
		{"domains are told apart (I1)", func(b *town) {
			b.network("lan", "p")
			b.run("p/app", "t/app", "lan")
			b.run("p/db", "t/db", "lan").Service.Project.Domain = "e2"
		}, nil, nil},
	})
}

func TestR3(t *testing.T) {
	play(t, []scene{
		{"depends_on is from the caller to the named, never back", func(b *town) {
			b.network("n", "p")
			b.run("p/web", "x/one", "n", dependsOn("api"))
			b.run("p/api", "x/two", "n", expose("tcp/3000"))
			b.run("p/job", "x/three", "n", expose("tcp/4000"))
		}, []string{"p/web -> p/api : any tcp/3000"}, nil},
		{"depends_on never leaves the project", func(b *town) {
			b.network("hand", "")
			b.run("p/app", "t/app", "hand", dependsOn("db"))
			b.run("q/db", "t/db", "hand")
		}, nil, nil},
		{"localhost and loopback are no references", func(b *town) {
			b.network("n", "p")
			b.run("p/web", "x/one", "n", ref("env A_HOST", "localhost"), ref("env B_HOST", "127.0.0.1:5432"), ref("env C_HOST", "::1"))
		}, nil, nil},
		{"the scheme says the application", func(b *town) {
			b.network("n", "p")
			b.run("p/web", "x/one", "n", ref("env A_URL", "https://api:8443"), ref("env B_URL", "db+postgresql://store:5000"))
			b.run("p/api", "x/two", "n")
			b.run("p/store", "x/three", "n")
		}, []string{"p/web -> p/api : tls(http) tcp/8443", "p/web -> p/store : postgresql+starttls tcp/5000", "p/web -> p/store : tls(postgresql) tcp/5000"}, nil},
	})
}

func TestR4(t *testing.T) {
	play(t, []scene{
		{"own project's service wins", func(b *town) {
			b.network("proxy", "").network("p_default", "p")
			b.run("p/app", "x/app", "p_default proxy", ref("env DB_HOST", "db"))
			b.run("p/db", "t/db", "p_default")
			b.run("q/db", "t/db", "proxy")
		}, []string{"p/app -> p/db : postgresql+starttls tcp/5432", "p/app -> p/db : tls(postgresql) tcp/5432"},
			[]string{"alias-collision taken as p/db"}},
		{"alias and container name", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "x/app", "n", ref("env A_URL", "http://api.local:1"), ref("env B_URL", "http://p-two-1:2"))
			b.run("p/one", "x/one", "n", alias("n", "api.local"))
			b.run("p/two", "x/two", "n")
		}, []string{"p/app -> p/one : http tcp/1", "p/app -> p/one : tls(http) tcp/1", "p/app -> p/two : http tcp/2", "p/app -> p/two : tls(http) tcp/2"}, nil},
		{"two foreign owners", func(b *town) {
			b.network("dbnet", "")
			b.run("p/app", "x/app", "dbnet", ref("env DB_HOST", "db"))
			b.run("q/db", "t/db", "dbnet")
			b.run("r/db", "t/db", "dbnet")
		}, nil, []string{"alias-collision q/db, r/db"}},
		{"stack and task names", func(b *town) {
			b.network("dbnet", "")
			b.run("p/app", "x/app", "dbnet", swarm, ref("env A_URL", "postgresql://q_db"), ref("env B_URL", "postgresql://tasks.r_db"))
			b.run("q/db", "t/db", "dbnet", swarm)
			b.run("r/db", "t/db", "dbnet", swarm)
		}, []string{"p/app -> q/db : postgresql+starttls tcp/5432", "p/app -> q/db : tls(postgresql) tcp/5432",
			"p/app -> r/db : postgresql+starttls tcp/5432", "p/app -> r/db : tls(postgresql) tcp/5432",
			"q/db -> q/db : any tcp/7000", "r/db -> r/db : any tcp/7000"}, nil},
		{"a dotted name is a DNS name", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "x/app", "n", ref("env SMTP_SERVER", "smtp.example.com:587"), ref("env API_URL", "https://api.example.com"))
		}, []string{"p/app -> name:api.example.com : tls(http) tcp/443", "p/app -> name:smtp.example.com : smtp+starttls tcp/587"}, nil},
		{"unresolved until it appears", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "x/app", "n", ref("env DB_HOST", "db"))
		}, nil, []string{"unresolved env DB_HOST names db"}},
		{"an endpoint's address", func(b *town) {
			b.network("n", "p")
			db := b.run("p/db", "t/db", "n")
			b.run("p/app", "t/app", "n", ref("env DB_HOST", db.Endpoints[0].Addresses[0].String()+":5432"))
		}, []string{"p/app -> p/db : postgresql+starttls tcp/5432"}, nil},
		{"an address outside, the host, metadata", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "x/app", "n", ref("env A_URL", "redis://10.1.2.3:6379"), ref("env B_URL", "postgresql://host.docker.internal:5432"),
				ref("env C_URL", "http://169.254.169.254:80"), ref("env D_URL", "tcp://192.168.1.9:2375"), ref("env E_URL", "http://172.18.9.9:80"))
		}, []string{"p/app -> @host : postgresql+starttls tcp/5432", "p/app -> @host : tls(postgresql) tcp/5432",
			"p/app -> cidr:10.1.2.3/32 : redis tcp/6379", "p/app -> cidr:10.1.2.3/32 : tls(redis) tcp/6379"},
			[]string{"unresolved 169.254.169.254", "unresolved orchestrator", "unresolved 172.18.9.9"}},
	})
}

func TestR5(t *testing.T) {
	play(t, []scene{
		{"front of another project, and back by its public address (R12)", func(b *town) {
			b.network("proxy", "edge")
			b.run("edge/front", "t/front", "proxy", publish("80:80"))
			b.run("cloud/app", "t/app", "proxy")
		}, []string{"@external -> edge/front : http tcp/80", "@host -> edge/front : http tcp/80",
			"cloud/app -> edge/front : http tcp/80",
			"edge/front -> @multicast : any udp/5353", "edge/front -> cloud/app : http tcp/8000"}, nil},
		{"a network of a third project joins nobody", func(b *town) {
			b.network("proxy", "third")
			b.run("edge/front", "t/front", "proxy", publish("80:80"))
			b.run("cloud/app", "t/app", "proxy")
		}, []string{"@external -> edge/front : http tcp/80", "@host -> edge/front : http tcp/80", "edge/front -> @multicast : any udp/5353"}, nil},
		{"a proxy that publishes nothing is no front", func(b *town) {
			b.network("proxy", "edge")
			b.run("edge/front", "t/front", "proxy")
			b.run("cloud/app", "t/app", "proxy")
		}, []string{"edge/front -> @multicast : any udp/5353"}, nil},
		{"nor is one of which only the image's name says so (T4)", func(b *town) {
			b.network("proxy", "edge")
			b.run("edge/front", "t/front", "proxy", publish("80:80"), localImage)
			b.run("cloud/app", "t/app", "proxy", label("t.enable=true"))
		}, []string{"@external -> edge/front : http tcp/80", "@host -> edge/front : http tcp/80"}, []string{"clipped edge/front"}},
		{"a front reaches what is offered to proxies and nothing else", func(b *town) {
			b.network("proxy", "edge")
			b.run("edge/front", "t/front", "proxy", publish("80:80"))
			b.run("cloud/db", "t/db", "proxy")
		}, []string{"@external -> edge/front : http tcp/80", "@host -> edge/front : http tcp/80", "edge/front -> @multicast : any udp/5353"}, nil},
		{"off-labels forbid", func(b *town) {
			b.network("proxy", "edge")
			b.run("edge/front", "t/front", "proxy", publish("80:80"))
			b.run("cloud/app", "t/app", "proxy", label("t.enable=false"))
		}, []string{"@external -> edge/front : http tcp/80", "@host -> edge/front : http tcp/80",
			"edge/front -> @multicast : any udp/5353"}, nil},
		{"two fronts on an unowned network", func(b *town) {
			b.network("proxy", "")
			b.run("a/front", "t/front", "proxy", publish("80:80"))
			b.run("b/front", "t/front", "proxy", publish("81:80"))
			b.run("cloud/app", "t/app", "proxy")
		}, []string{"@external -> a/front : http tcp/80", "@external -> b/front : http tcp/80",
			"@host -> a/front : http tcp/80", "@host -> b/front : http tcp/80", "a/front -> @multicast : any udp/5353",
			"b/front -> @multicast : any udp/5353"}, nil},
		{"two fronts on an unowned network, and a route", func(b *town) {
			b.network("proxy", "")
			b.run("a/front", "t/front", "proxy", publish("80:80"))
			b.run("b/front", "t/other-front", "proxy", publish("81:80"))
			b.run("cloud/app", "t/app", "proxy", label("t.enable=true"))
		}, []string{"@external -> a/front : http tcp/80", "@external -> b/front : http tcp/80",
			"@host -> a/front : http tcp/80", "@host -> b/front : http tcp/80", "a/front -> @multicast : any udp/5353",
			"a/front -> cloud/app : http tcp/8000", "b/front -> @multicast : any udp/5353", "cloud/app -> a/front : http tcp/80"}, nil},
		{"in its own project a proxy needs no front rule", func(b *town) {
			b.network("n", "p")
			b.run("p/front", "t/front", "n")
			b.run("p/app", "t/app", "n")
		}, []string{"p/front -> @multicast : any udp/5353",
			"p/front -> p/app : http tcp/8000"}, nil},
	})
}

func TestR9(t *testing.T) {
	edge := func(b *town) {
		b.network("proxy", "edge").network("shop_default", "shop")
		b.run("edge/front", "t/front", "proxy", publish("80:80"))
	}
	always := []string{"@external -> edge/front : http tcp/80", "@host -> edge/front : http tcp/80", "edge/front -> @multicast : any udp/5353"}
	play(t, []scene{
		{"a route's port, by HTTP", func(b *town) {
			edge(b)
			b.run("shop/web", "x/web", "proxy", expose("tcp/3000", "tcp/9229"), label("t.web.port=3000"))
		}, append(always[:3:3], "edge/front -> shop/web : http tcp/3000"), nil},
		{"a port that nothing else says", func(b *town) {
			edge(b)
			b.run("shop/web", "x/web", "proxy", label("t.web.port=8123"))
		}, append(always[:3:3], "edge/front -> shop/web : http tcp/8123"), nil},
		{"without a port the lowest exposed one", func(b *town) {
			edge(b)
			b.run("shop/web", "x/web", "proxy", expose("tcp/9229", "tcp/3000"), label("t.web.rule=Host(`a.example.com`)"))
		}, append(always[:3:3], "edge/front -> shop/web : http tcp/3000"), nil},
		{"a tcp route is of any kind", func(b *town) {
			edge(b)
			b.run("shop/web", "x/web", "proxy", expose("tcp/3000"), label("t.tcp.port=3000"))
		}, append(always[:3:3], "edge/front -> shop/web : any tcp/3000"), nil},
		{"to what its entry offers to no proxy", func(b *town) {
			edge(b)
			b.run("shop/db", "t/db", "proxy", label("t.tcp.port=5432"))
		}, append(always[:3:3], "edge/front -> shop/db : postgresql+starttls tcp/5432", "edge/front -> shop/db : tls(postgresql) tcp/5432"), nil},
		{"a port that the model lacks", func(b *town) {
			edge(b)
			b.run("shop/app", "t/app", "proxy", label("t.web.port=9999"))
		}, always, []string{"port-not-in-model t.web.port=9999"}},
		{"the image's own label is none", func(b *town) {
			edge(b)
			b.run("shop/web", "x/web", "proxy", imageLabel("t.web.port=3000"))
		}, always, nil},
		{"not across a network that it is not on", func(b *town) {
			edge(b)
			b.run("shop/web", "x/web", "shop_default", label("t.web.port=3000"))
		}, always, nil},
		{"switched off in its own project", func(b *town) {
			b.network("n", "p")
			b.run("p/front", "t/front", "n")
			b.run("p/app", "t/app", "n", label("t.enable=false"))
		}, []string{"p/front -> @multicast : any udp/5353"}, nil},
		{"in its own project a route narrows too", func(b *town) {
			b.network("n", "p")
			b.run("p/front", "t/front", "n")
			b.run("p/web", "x/web", "n", expose("tcp/3000", "tcp/9229"), label("t.web.port=3000"))
		}, []string{"p/front -> @multicast : any udp/5353", "p/front -> p/web : http tcp/3000"}, nil},
	})
}

// A proxy that reads its routes from the environment of what it serves.
func TestR9Environment(t *testing.T) {
	b := newTown(t).network("proxy", "edge")
	b.run("edge/proxy", "nginxproxy/nginx-proxy", "proxy", publish("80:80"))
	b.run("shop/web", "x/web", "proxy", expose("tcp/3000", "tcp/8080"), env("VIRTUAL_HOST=shop.example.com"), env("VIRTUAL_PORT=8080"),
		ref("env VIRTUAL_HOST", "shop.example.com:8080"))
	ss, _ := b.generate()
	if lines := between(ss); !slices.Contains(lines, "edge/proxy -> shop/web : http tcp/8080") {
		t.Errorf("%v", lines)
	}
	for _, s := range ss {
		if line := s.Lines(false)[0]; strings.Contains(line, "shop/web -> name:") {
			t.Errorf("an offer is no call: %s", line)
		}
	}
}

// A service reaches the public name of its project by way of the front, with
// the ports that the front publishes.
func TestR12(t *testing.T) {
	play(t, []scene{
		{"the project's own name, for all of the project that call fronts", func(b *town) {
			b.network("proxy", "edge").network("cloud_default", "cloud")
			b.run("edge/front", "t/front", "proxy", publish("8080:80"))
			b.run("cloud/app", "t/app", "proxy cloud_default", label("t.a.rule=Host(`cloud.example.com`, `www.example.com`)"))
			b.run("cloud/cron", "t/app", "cloud_default")
			b.run("other/app", "t/app", "cloud_default")
		}, []string{"@external -> edge/front : http tcp/80", "@host -> edge/front : http tcp/80",
			"cloud/app -> edge/front : http tcp/80", "cloud/app -> name:cloud.example.com : http tcp/8080",
			"cloud/app -> name:www.example.com : http tcp/8080",
			"cloud/cron -> edge/front : http tcp/80", "cloud/cron -> name:cloud.example.com : http tcp/8080",
			"cloud/cron -> name:www.example.com : http tcp/8080",
			"edge/front -> @multicast : any udp/5353", "edge/front -> cloud/app : http tcp/8000"}, nil},
	})
}

func TestRouteHosts(t *testing.T) {
	for value, want := range map[string]string{
		"Host(`a.example.com`)": "a.example.com",
		"Host(`a.example.com`, `B.example.com`) && PathPrefix(`/x`)": "a.example.com b.example.com",
		"Host(`a.example.com`) || Host(\"c.example.com\")":           "a.example.com c.example.com",
		"HostRegexp(`.*\\.example\\.com`)":                           "",
		"HostSNI(`*`)":                                               "",
		"https://a.example.com:8443/x, b.example.com":                "a.example.com b.example.com",
		"*.example.com":                                              "",
		"localhost":                                                  "",
		"Host(`a..b`) || Host(``) || Host(":                          "",
		strings.Repeat("Host(`a.example.com`) || ", 10000):           "a.example.com",
	} {
		if got := strings.Join(routeHosts(value), " "); got != want {
			t.Errorf("%.60s: %q, want %q", value, got, want)
		}
	}
	for value, want := range map[string]uint16{"3000": 3000, "{{upstreams 8080}}": 8080, "": 0, "0": 0, "70000": 0, "http": 0, "123456": 0} {
		if got, _ := routePort(value); got != want {
			t.Errorf("%q: %d, want %d", value, got, want)
		}
	}
}

func TestR6(t *testing.T) {
	play(t, []scene{
		{"in the project and beyond it", func(b *town) {
			b.network("mon", "")
			b.run("p/watch", "t/watch", "mon")
			b.run("p/db", "t/db", "mon")
			b.run("q/db", "t/db", "mon")
			b.run("q/app", "t/app", "mon")
		}, []string{"p/watch -> p/db : http tcp/9187", "p/watch -> q/db : http tcp/9187",
			"q/app -> q/db : postgresql+starttls tcp/5432"}, nil},
		{"not by the image's name alone (T4), nor without a network", func(b *town) {
			b.network("mon", "").network("far", "")
			b.run("p/watch", "t/watch", "mon", localImage)
			b.run("q/db", "t/db", "mon")
			b.run("r/watch", "t/watch", "far")
		}, nil, []string{"clipped p/watch"}},
	})
}

func TestR7(t *testing.T) {
	app := func(b *town, nets string, o ...option) { b.run("p/app", "t/app", nets, o...) }
	play(t, []scene{
		{"named on a hand-made network", func(b *town) {
			b.network("dbnet", "")
			app(b, "dbnet", ref("env DB_HOST", "postgres"))
			b.run("net:dbnet/postgres", "t/db", "dbnet")
		}, []string{"p/app -> net:dbnet/postgres : postgresql+starttls tcp/5432"}, nil},
		{"named on the caller's own network", func(b *town) {
			b.network("p_default", "p")
			app(b, "p_default", ref("env DB_HOST", "postgres"))
			b.run("q/postgres", "t/db", "p_default")
		}, []string{"p/app -> q/postgres : postgresql+starttls tcp/5432"}, nil},
		{"not on the callee's own network", func(b *town) {
			b.network("q_default", "q")
			app(b, "q_default", ref("env DB_HOST", "postgres"))
			b.run("q/postgres", "t/db", "q_default")
		}, nil, []string{"not-admitted only on network q_default"}},
		{"not without a name", func(b *town) {
			b.network("dbnet", "")
			app(b, "dbnet")
			b.run("q/postgres", "t/db", "dbnet")
		}, nil, nil},
		{"only entries that reach beyond the project", func(b *town) {
			b.network("dbnet", "")
			app(b, "dbnet", ref("env ADMIN_URL", "http://postgres:8081"))
			b.run("q/postgres", "t/db", "dbnet")
		}, nil, []string{"not-admitted t-db@1#console"}},
		{"what is named wins over the project's own of that role (R8)", func(b *town) {
			b.network("dbnet", "").network("p_default", "p")
			app(b, "dbnet p_default", ref("env DB_HOST", "postgres"))
			b.run("p/db", "t/db", "p_default")
			b.run("q/postgres", "t/db", "dbnet")
		}, []string{"p/app -> q/postgres : postgresql+starttls tcp/5432"}, nil},
	})
}

func TestR8(t *testing.T) {
	two := func(b *town) {
		b.network("n", "p")
		b.run("p/db1", "t/db", "n")
		b.run("p/store", "t/db", "n")
	}
	play(t, []scene{
		{"references keep two databases apart", func(b *town) {
			two(b)
			b.run("p/app", "t/app", "n", ref("env DB_HOST", "db1"))
			b.run("p/shop", "t/app", "n", dependsOn("store"))
		}, []string{"p/app -> p/db1 : postgresql+starttls tcp/5432",
			"p/shop -> p/store : postgresql+starttls tcp/5432"}, nil},
		{"without one, every such service", func(b *town) {
			two(b)
			b.run("p/app", "t/app", "n")
		}, []string{"p/app -> p/db1 : postgresql+starttls tcp/5432", "p/app -> p/store : postgresql+starttls tcp/5432"}, nil},
		{"names of other roles narrow nothing", func(b *town) {
			two(b)
			b.run("p/app", "t/app", "n", ref("env MAIL_HOST", "mail:25"))
			b.run("p/mail", "t/mail", "n")
		}, []string{"@host -> p/mail : any tcp/9999", "p/app -> p/db1 : postgresql+starttls tcp/5432", "p/app -> p/mail : smtp+starttls tcp/25",
			"p/app -> p/store : postgresql+starttls tcp/5432", "p/mail -> @internet : smtp+starttls tcp/25", "p/mail -> name:updates.example.org : tls(http) tcp/443"}, nil},
	})
}

func TestR10(t *testing.T) {
	play(t, []scene{
		{"a port selects the entry on it, admin too", func(b *town) {
			b.network("n", "p")
			b.run("p/tool", "x/tool", "n", ref("arg --api", "http://db:8081"))
			b.run("p/db", "t/db", "n")
		}, []string{"p/tool -> p/db : http tcp/8081"}, nil},
		{"without one, the data entries", func(b *town) {
			b.network("n", "p")
			b.run("p/tool", "x/tool", "n", ref("env DB_HOST", "db"))
			b.run("p/db", "t/db", "n")
		}, []string{"p/tool -> p/db : postgresql+starttls tcp/5432", "p/tool -> p/db : tls(postgresql) tcp/5432"}, nil},
		{"a port that the model lacks", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "t/app", "n", ref("env DB_HOST", "db:3307"))
			b.run("p/db", "t/db", "n")
		}, nil, []string{"port-not-in-model env DB_HOST names port 3307 of p/db"}},
		{"a custom callee of the project serves it", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "x/app", "n", ref("env API_URL", "http://api:3000"))
			b.run("p/api", "x/api", "n", expose("tcp/9229"))
		}, []string{"p/app -> p/api : http tcp/3000", "p/app -> p/api : tls(http) tcp/3000"}, nil},
		{"one of another project does not", func(b *town) {
			b.network("hand", "")
			b.run("p/app", "x/app", "hand", ref("env API_URL", "http://api:3000"), ref("env B_URL", "http://api:9229"))
			b.run("q/api", "x/api", "hand", expose("tcp/9229"))
		}, []string{"p/app -> q/api : http tcp/9229", "p/app -> q/api : tls(http) tcp/9229"}, []string{"port-not-in-model port 3000"}},
		{"the callee's own setting moves the port", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "t/app", "n", ref("env DB_HOST", "db:6000"))
			b.run("p/db", "t/db", "n", env("T_PORT=6000"))
		}, []string{"p/app -> p/db : postgresql+starttls tcp/6000"}, nil},
	})
}

func TestR11(t *testing.T) {
	play(t, []scene{
		{"siblings differ by a trailing number", func(b *town) {
			b.network("n", "p")
			b.run("p/es01", "t/db", "n")
			b.run("p/es02", "t/db", "n")
		}, []string{"p/es01 -> p/es02 : any tcp/7000", "p/es02 -> p/es01 : any tcp/7000"}, nil},
		{"replicas are siblings of each other", func(b *town) {
			b.network("n", "p")
			b.run("p/es", "t/db", "n")
			b.run("p/es", "t/db", "n")
		}, []string{"p/es -> p/es : any tcp/7000"}, nil},
		{"other names are not", func(b *town) {
			b.network("n", "p")
			b.run("p/east", "t/db", "n")
			b.run("p/west", "t/db", "n")
		}, nil, nil},
		{"nor other projects", func(b *town) {
			b.network("n", "")
			b.run("p/es01", "t/db", "n")
			b.run("q/es02", "t/db", "n")
		}, nil, nil},
		{"named ones of the same model are let in", func(b *town) {
			b.network("n", "p")
			b.run("p/east", "t/db", "n", ref("env PEERS", "west:7000"))
			b.run("p/west", "t/db", "n")
		}, []string{"p/east -> p/west : any tcp/7000"}, nil},
		{"self is said where it leaves the namespace: replicas", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "t/app", "n")
			b.run("p/app", "t/app", "n")
			b.run("p/one", "t/app", "n")
		}, []string{"p/app -> p/app : http tcp/8000"}, nil},
		{"self by the published port alone", func(b *town) {
			b.network("bridge", "")
			b.run("app", "t/app", "bridge", publish("8080:8000"))
		}, []string{"@external -> app : http tcp/8000", "@host -> app : http tcp/8000", "app -> app : http tcp/8000"}, nil},
	})
}

func TestR20(t *testing.T) {
	b := newTown(t).network("n", "p")
	b.run("p/app", "t/app", "n")
	b.run("p/front", "t/front", "n")
	ss, _ := b.generate(loadModels(t, testModels)...)
	for _, s := range ss {
		switch s.To[0].Kind {
		case policy.PeerMetadata, policy.PeerOrchestrator, policy.PeerBroadcast:
			t.Errorf("nobody named %s", s.To[0])
		case policy.PeerMulticast:
			if s.From[0].Service.Name != "front" {
				t.Errorf("%s did not name multicast", s.From[0])
			}
		}
	}
}

// What a removed label gave ends with it at once, and what is only suggested
// gives nothing (V10).
func TestV10(t *testing.T) {
	build := func(labels ...option) *town {
		b := newTown(t).network("proxy", "edge")
		b.run("edge/front", "acme/front", "proxy", append(labels, publish("80:80"), func(w *policy.Workload) { w.Image.EnvKeys = []string{"T_FRONT"} })...)
		b.run("cloud/app", "t/app", "proxy")
		return b
	}
	own := loadModels(t, strings.Replace(testModels, "match: {images: [t/front]}", "match: {images: [t/front], hints: {env: [T_FRONT]}}", 1))
	has := func(b *town, want bool) {
		t.Helper()
		ss, fs := b.generate(own...)
		got := false
		for _, l := range between(ss) {
			got = got || l == "edge/front -> cloud/app : http tcp/8000"
		}
		if got != want {
			t.Errorf("reaches the application: %v, want %v", got, want)
		}
		if !want && !hasFinding(fs, FindingProposedModel, "looks like t-front") {
			t.Errorf("nothing is proposed: %v", fs)
		}
	}
	has(build(label("gatehouse.model=t-front")), true)
	has(build(), false)
}

package models

import (
	"fmt"
	"net/netip"
	"testing"

	"gatehouse/policy"
)

func TestR13(t *testing.T) {
	db := func(o ...option) func(b *town) {
		return func(b *town) {
			b.network("n+6", "p")
			b.run("p/db", "t/db", "n", o...)
		}
	}
	play(t, []scene{
		{"any: external and host", func(b *town) {
			b.network("n+6", "p")
			b.run("p/app", "x/app", "n", publish("8080:3000"), publish("9090:3001"))
		}, []string{"@external -> p/app : any tcp/3000-3001", "@host -> p/app : any tcp/3000-3001"}, nil},
		{"ten thousand are one range", func(b *town) {
			b.network("n+6", "p")
			var media []option
			for p := 10_000; p <= 20_000; p++ {
				media = append(media, publish(fmt.Sprintf("%d:%d/udp", p, p)))
			}
			b.run("p/app", "x/app", "n", media...)
		}, []string{"@external -> p/app : any udp/10000-20000", "@host -> p/app : any udp/10000-20000"}, nil},
		{"site: site and host", db(publish("5432:5432")),
			[]string{"@host -> p/db : postgresql+starttls tcp/5432", "@host -> p/db : tls(postgresql) tcp/5432",
				"@site -> p/db : postgresql+starttls tcp/5432", "@site -> p/db : tls(postgresql) tcp/5432"}, nil},
		{"an entry's own publish", db(publish("8081:8081")), []string{"@host -> p/db : http tcp/8081", "@site -> p/db : http tcp/8081"}, nil},
		{"metrics: host", db(publish("9187:9187")), []string{"@host -> p/db : http tcp/9187"}, nil},
		{"cluster: nobody", db(publish("7000:7000")), nil, []string{"not-published tcp/7000 to nobody"}},
		{"bound to loopback: host only", db(publish("127.0.0.1:5432:5432"), publish("[::1]:5432:5432")),
			[]string{"@host -> p/db : postgresql+starttls tcp/5432", "@host -> p/db : tls(postgresql) tcp/5432"}, nil},
		{"bound to loopback, any: host only", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "x/app", "n", publish("127.0.0.1:3000:3000"))
		}, []string{"@host -> p/app : any tcp/3000"}, nil},
		{"not in the model", db(publish("2222:22")), nil, []string{"port-not-in-model tcp/22"}},
		{"a protocol that is not in the model", db(publish("5432:5432/udp")), nil, []string{"port-not-in-model udp/5432"}},
	})
}

func TestBindingsText(t *testing.T) {
	at := func(ip string, port uint16, proto policy.Proto) policy.Published {
		p := policy.Published{HostPort: port, Port: 80, Proto: proto}
		if ip != "" {
			p.HostIP = netip.MustParseAddr(ip)
		}
		return p
	}
	tcp, udp := policy.ProtoTCP, policy.ProtoUDP
	got := bindingsText([]policy.Published{
		at("::", 7, udp), at("", 53, udp), at("", 53, tcp), at("", 54, udp), at("", 53, udp), at("", 56, udp), at("", 65535, tcp), at("192.0.2.1", 54, tcp), at("192.0.2.1", 55, tcp),
	})
	if want := "53, 53-54/udp, 56/udp, 65535, 192.0.2.1:54-55, [::]:7/udp"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestR14(t *testing.T) {
	play(t, []scene{
		{"relayed IPv6 of a network without it: the host may not come in", func(b *town) {
			b.network("n", "p")
			b.run("p/db", "t/db", "n", publish("5432:5432"))
		}, []string{"@site -> p/db : postgresql+starttls tcp/5432", "@site -> p/db : tls(postgresql) tcp/5432"},
			[]string{"source-hidden publish on 127.0.0.1 or 0.0.0.0"}},
		{"IPv4 only is not hidden", func(b *town) {
			b.network("n", "p")
			b.run("p/db", "t/db", "n", publish("0.0.0.0:9187:9187"))
		}, []string{"@host -> p/db : http tcp/9187"}, nil},
		{"host entries refuse everybody then", func(b *town) {
			b.network("n", "p")
			b.run("p/db", "t/db", "n", publish("9187:9187"))
		}, nil, []string{"source-hidden 9187"}},
		{"any counts hidden sources as internet", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "x/app", "n", publish("80:80"))
		}, []string{"@external -> p/app : any tcp/80", "@host -> p/app : any tcp/80"}, nil},
		{"the routing mesh hides all", func(b *town) {
			b.network("ingress", "").network("n", "p")
			b.run("p/db", "t/db", "n ingress", swarm, ingress(5432, 5432))
		}, []string{"p/db -> p/db : any tcp/7000"}, []string{"source-hidden mode=host"}},
	})
}

func TestR15(t *testing.T) {
	play(t, []scene{
		{"by the host's address to a port published to any", func(b *town) {
			b.network("p_default", "p").network("q_default", "q")
			b.run("p/app", "x/app", "p_default", ref("env API_URL", "http://192.168.1.9:8080"))
			b.run("q/api", "x/api", "q_default", publish("8080:3000"), publish("9090:4000"))
		}, []string{"@external -> q/api : any tcp/3000,tcp/4000", "@host -> q/api : any tcp/3000,tcp/4000",
			"p/app -> q/api : http tcp/3000", "p/app -> q/api : tls(http) tcp/3000"}, nil},
		{"by the bridge's gateway", func(b *town) {
			b.network("p_default", "p").network("q_default", "q")
			b.run("p/app", "x/app", "p_default", ref("env API_URL", "http://172.18.0.1:8080"))
			b.run("q/api", "x/api", "q_default", publish("8080:3000"))
		}, []string{"@external -> q/api : any tcp/3000", "@host -> q/api : any tcp/3000",
			"p/app -> q/api : http tcp/3000", "p/app -> q/api : tls(http) tcp/3000"}, nil},
		{"site is no consent to other workloads", func(b *town) {
			b.network("p_default+6", "p").network("q_default+6", "q")
			b.run("p/app", "t/app", "p_default", ref("env DB_URL", "postgresql://host.docker.internal:15432"))
			b.run("q/db", "t/db", "q_default", publish("15432:5432"))
		}, []string{"@host -> q/db : postgresql+starttls tcp/5432", "@host -> q/db : tls(postgresql) tcp/5432",
			"@site -> q/db : postgresql+starttls tcp/5432", "@site -> q/db : tls(postgresql) tcp/5432"},
			[]string{"not-admitted q/db"}},
		{"loopback is another container's own", func(b *town) {
			b.network("p_default", "p").network("q_default", "q")
			b.run("p/app", "x/app", "p_default", ref("env API_URL", "http://192.168.1.9:8080"))
			b.run("q/api", "x/api", "q_default", publish("127.0.0.1:8080:3000"))
		}, []string{"@host -> q/api : any tcp/3000", "p/app -> @host : http tcp/8080", "p/app -> @host : tls(http) tcp/8080"}, nil},
		{"without a reference nothing", func(b *town) {
			b.network("p_default", "p").network("q_default", "q")
			b.run("p/app", "x/app", "p_default")
			b.run("q/api", "x/api", "q_default", publish("8080:3000"))
		}, []string{"@external -> q/api : any tcp/3000", "@host -> q/api : any tcp/3000"}, nil},
	})
}

// A health check runs inside the container: no flow, and nothing for the host.
func TestR17(t *testing.T) {
	b := newTown(t).network("n", "p")
	b.run("p/app", "t/app", "n", command("serve", "--health-cmd", "curl localhost:8000"))
	ss, _ := b.generate(loadModels(t, testModels)...)
	expect(t, between(ss), nil)
}

func TestR18(t *testing.T) {
	const dnsModels = `
schema: gatehouse.model/v1
model: t-names
revision: 1
title: Names only
roles: [client]
dns: names
docs: ["https://example.org"]
match: {images: [t/names]}
---
schema: gatehouse.model/v1
model: t-dns
revision: 1
title: Name server
roles: [dns-server]
dns: none
docs: ["https://example.org"]
match: {images: [t/dns]}
serves: [{id: dns, app: dns, ports: [tcp/53, udp/53], to: [{ref: true, within: shared}]}]
`
	resolver := func(s string) option {
		return func(w *policy.Workload) { w.DNS = append(w.DNS, mustAddr(s)) }
	}
	for _, tt := range []struct {
		name  string
		build func(b *town)
		want  []string
	}{
		{"everybody asks the resolver", func(b *town) { b.run("p/x", "x/x", "n") }, []string{"p/x -> @resolver : dns tcp/53,udp/53"}},
		{"data stores do not", func(b *town) { b.run("p/x", "t/dns", "n") }, nil},
		{"names", func(b *town) { b.run("p/x", "t/names", "n") }, []string{"p/x -> @resolver : dns tcp/53,udp/53 names only"}},
		{"a name server that is a workload (A1 before A7)", func(b *town) {
			b.run("p/unbound", "t/dns", "n")
			b.run("p/x", "x/x", "n", resolver("172.18.0.2"))
		}, []string{"p/x -> p/unbound : dns tcp/53,udp/53"}},
		{"one that is published on the host (A5 before A7)", func(b *town) {
			b.network("m", "q")
			b.run("q/pihole", "x/pihole", "m", publish("53:53/udp"), publish("53:53"))
			b.run("p/x", "x/x", "n", resolver("192.168.1.9"), resolver("9.9.9.9"))
		}, []string{"@external -> q/pihole : any tcp/53,udp/53", "@host -> q/pihole : any tcp/53,udp/53",
			"p/x -> @resolver : dns tcp/53,udp/53", "p/x -> q/pihole : dns tcp/53,udp/53", "q/pihole -> @resolver : dns tcp/53,udp/53"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTown(t).network("n", "p")
			tt.build(b)
			ss, fs := b.generate(loadModels(t, dnsModels)...)
			expect(t, lines(ss), tt.want)
			if len(fs) > 0 {
				t.Error(fs)
			}
		})
	}
}

// Nobody calls a time server unless a model says so; ARP and neighbour discovery
// are no statements (R22).
func TestR19(t *testing.T) {
	ss, _ := shop(t).generate()
	for _, s := range ss {
		if s.App.App == policy.AppNTP || s.Ports[0].Proto == policy.ProtoICMPv6 {
			t.Error(s.Lines(true))
		}
	}
}

func TestR21(t *testing.T) {
	const ping = `
schema: gatehouse.model/v1
model: t-ping
revision: 1
title: Ping
roles: [monitoring]
dns: none
docs: ["https://example.org"]
match: {images: [t/ping]}
serves: [{id: echo, app: icmp, ports: [icmp], to: [{role: monitoring}]}]
calls: [{id: echo, app: icmp, ports: [icmp], to: [{role: monitoring}]}]
`
	b := newTown(t).network("n", "p")
	b.run("p/a", "t/ping", "n")
	b.run("p/b", "t/ping", "n")
	b.run("p/c", "x/x", "n")
	ss, _ := b.generate(loadModels(t, ping)...)
	expect(t, between(ss), []string{"p/a -> p/b : icmp icmp", "p/b -> p/a : icmp icmp"})
}

func TestR24(t *testing.T) {
	b := newTown(t).network("n", "ci")
	b.run("ci/dind", "x/dind", "n").Notes = []string{"nested-engine: docker-in-docker"}
	_, fs := b.generate(loadModels(t, testModels)...)
	if !hasFinding(fs, FindingNestedEngine, "ci/dind: docker-in-docker") {
		t.Error(fs)
	}
}

func TestR25(t *testing.T) {
	const overlaps = `
schema: gatehouse.model/v1
model: t-serve
revision: 1
title: Serves
roles: [web-server]
dns: none
docs: ["https://example.org"]
match: {images: [t/serve]}
serves:
  - {id: old, app: http, ports: [tcp/9999], when: {env: T_OLD}, publish: any, to: [{role: client}]}
  - {id: plain, app: http, ports: [tcp/80], publish: any, to: [{role: client}]}
  - {id: start, app: smtp, tls: starttls, ports: [tcp/25], to: [{role: client}]}
  - {id: range, app: any, ports: [tcp/100-200], to: [{role: client}]}
  - {id: rest, app: any, ports: [published, exposed], publish: any, to: []}
---
schema: gatehouse.model/v1
model: t-call
revision: 1
title: Calls
roles: [client]
dns: none
docs: ["https://example.org"]
match: {images: [t/call]}
serves: []
calls:
  - {id: web, app: http, tls: only, ports: [callee], to: [{role: web-server}]}
  - {id: grpc, app: grpc, ports: [tcp/80], to: [{role: web-server}]}
  - {id: mail, app: smtp, tls: optional, ports: [tcp/25, tcp/465], to: [{role: web-server}]}
  - {id: some, app: redis, ports: [tcp/150-300], to: [{role: web-server}]}
`
	b := newTown(t).network("n", "p")
	b.run("p/a", "t/call", "n")
	b.run("p/b", "t/serve", "n", publish("80:80"), publish("81:81"), expose("tcp/80", "tcp/150", "tcp/82"))
	ss, _ := b.generate(loadModels(t, overlaps)...)
	expect(t, lines(ss), []string{
		"@external -> p/b : any tcp/81",
		"@external -> p/b : http tcp/80",
		"@host -> p/b : any tcp/81",
		"@host -> p/b : http tcp/80",
		"p/a -> p/b : grpc tcp/80",           // of two names the inner one; none ∩ only has no form
		"p/a -> p/b : redis tcp/150-200",     // any ∩ redis = redis
		"p/a -> p/b : smtp+starttls tcp/25",  // optional ∩ starttls = starttls
		"p/a -> p/b : tls(http) tcp/100-200", // any ∩ tls(http) = tls(http)
	})
}

// R14: who may stand behind the host and the routing mesh.
func TestHiddenSource(t *testing.T) {
	b := newTown(t).network("ingress", "").network("n", "p").network("six+6", "p")
	b.run("p/db", "t/db", "n", publish("5432:5432"))
	b.run("p/app", "x/app", "n", publish("80:80"))
	b.run("p/six", "t/db", "six", publish("5432:5432"))
	b.run("p/mesh", "t/db", "n ingress", swarm, ingress(5432, 5432))
	b.run("p/web", "x/app", "n ingress", swarm, ingress(80, 80))
	p := b.groups(Settings{}, loadModels(t, testModels)...)
	for _, c := range []struct {
		from policy.PeerKind
		to   string
		port uint16
		want string
	}{
		{policy.PeerHost, "p/db", 5432, "published 0.0.0.0:5432, [::]:5432: on IPv6 the engine relays clients from outside under the host's own address, so the host may not come in either; publish on 127.0.0.1 or 0.0.0.0 only, or give the network IPv6"},
		{policy.PeerHost, "p/app", 80, "published 0.0.0.0:80, [::]:80: clients from outside by IPv6 come under the host's own address too"},
		{policy.PeerHost, "p/six", 5432, ""},
		{policy.PeerHost, "p/db", 7000, ""},
		{policy.PeerSite, "p/db", 5432, ""},
		{policy.PeerIngress, "p/mesh", 5432, "published 5432 (ingress) by the routing mesh, which hides who calls: nobody may come; publish it with mode=host"},
		{policy.PeerIngress, "p/web", 80, "published 80 (ingress) by the routing mesh: whoever calls there counts as the internet"},
		{policy.PeerHost, "p/mesh", 5432, ""},
	} {
		if got := p.HiddenSource(policy.Peer{Kind: c.from}, policy.ServicePeer(serviceKey(c.to)), policy.Port(policy.ProtoTCP, c.port)); got != c.want {
			t.Errorf("%v to %s:%d: %q, want %q", c.from, c.to, c.port, got, c.want)
		}
	}
}

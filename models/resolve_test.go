package models

import (
	"math/rand/v2"
	"slices"
	"testing"

	"gatehouse/policy"
)

func TestPortSettings(t *testing.T) {
	const moved = `
schema: gatehouse.model/v1
model: t-moved
revision: 1
title: Moved
roles: [database]
dns: none
docs: ["https://example.org"]
match: {images: [t/moved]}
serves:
  - {id: main, app: redis, ports: [tcp/6379], port_from: [{env: T_PORT}, {arg: --port}], publish: any, to: []}
  - {id: kafka, app: kafka, ports: [tcp/9092], port_from: [{env: T_LISTENERS, parse: listeners}], publish: any, to: []}
  - {id: bus, app: http, ports: [tcp/17379], port_from: [{arg: --tls, add: 10000, when: {any: [{arg: --over-tls=yes}, {arg: --data=0}]}}, {arg: --data, add: 10000}], when: {arg: --data}, to: []}
  - {id: rest, app: any, ports: [published], publish: any, to: []}
`
	for _, tt := range []struct {
		name string
		opts []option
		want []string
	}{
		{"its own", nil, []string{"redis tcp/6379", "kafka tcp/9092"}},
		{"env", []option{env("T_PORT=7000")}, []string{"redis tcp/7000", "kafka tcp/9092"}},
		{"env with an address", []option{env("T_PORT=0.0.0.0:7000")}, []string{"redis tcp/7000", "kafka tcp/9092"}},
		{"env that names no port", []option{env("T_PORT=/run/x.sock")}, []string{"redis tcp/6379", "kafka tcp/9092"}},
		{"flag and value", []option{command("redis-server", "--port", "7000")}, []string{"redis tcp/7000", "kafka tcp/9092"}},
		{"flag=value in a shell string", []option{command("sh", "-c", "exec redis-server --port=7000")}, []string{"redis tcp/7000", "kafka tcp/9092"}},
		{"the first setting counts", []option{env("T_PORT=1"), command("--port", "2")}, []string{"redis tcp/1", "kafka tcp/9092"}},
		{"port 0 serves nothing", []option{command("--port", "0")}, []string{"kafka tcp/9092"}},
		{"above another", []option{command("--data", "7000")}, []string{"redis tcp/6379", "kafka tcp/9092", "http tcp/17000"}},
		{"above what is off", []option{command("--data", "0")}, []string{"redis tcp/6379", "kafka tcp/9092"}},
		{"above the other, where one is off", []option{command("--data", "0", "--tls", "7001")}, []string{"redis tcp/6379", "kafka tcp/9092", "http tcp/17001"}},
		{"above the other, by a switch", []option{command("--data", "7000", "--over-tls", "YES", "--tls", "7001")}, []string{"redis tcp/6379", "kafka tcp/9092", "http tcp/17001"}},
		{"above the first, by a switch", []option{command("--tls=7001", "--over-tls=no", "--data=7000")}, []string{"redis tcp/6379", "kafka tcp/9092", "http tcp/17000"}},
		{"listeners", []option{env("T_LISTENERS=INSIDE://:9092,OUTSIDE://h:29092")}, []string{"redis tcp/6379", "kafka tcp/9092,tcp/29092"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTown(t).network("n", "p")
			b.run("p/x", "t/moved", "n", tt.opts...)
			p := b.groups(Settings{}, loadModels(t, moved)...)
			var got []string
			for _, o := range p.index.subjects[0].parts[0].serves {
				if len(o.ports()) > 0 {
					got = append(got, o.entry.App.String()+" "+policy.PortsText(o.ports()))
				}
			}
			expect(t, got, tt.want)
		})
	}
}

func TestWhen(t *testing.T) {
	tcp := func(n uint16) *policy.PortRange { r := policy.Port(policy.ProtoTCP, n); return &r }
	f := facts{
		workload: &policy.Workload{
			Exposed: []policy.PortRange{*tcp(9000)}, Env: map[string]string{"A": "1"}, EnvKeys: []string{"A", "B"},
			Command: []string{"/usr/bin/server", "--cluster-enabled", "yes"}, Image: policy.Image{Tag: "8-fpm-alpine"},
		},
		published: []policy.Published{{Proto: policy.ProtoTCP, Port: 80}},
	}
	for _, tt := range []struct {
		name string
		when *When
		want bool
	}{
		{"absent", nil, true},
		{"empty", &When{}, false},
		{"exposed", &When{Exposed: tcp(9000)}, true},
		{"not exposed", &When{Exposed: tcp(80)}, false},
		{"published", &When{Published: tcp(80)}, true},
		{"published elsewhere", &When{Published: tcp(9000)}, false},
		{"env set", &When{Env: "B"}, true},
		{"env value", &When{Env: "A=1"}, true},
		{"other value", &When{Env: "A=2"}, false},
		{"value not kept", &When{Env: "B=1"}, false},
		{"arg", &When{Arg: "--cluster-enabled"}, true},
		{"longer arg", &When{Arg: "--cluster"}, false},
		{"arg with its value", &When{Arg: "--cluster-enabled=YES"}, true},
		{"arg with another value", &When{Arg: "--cluster-enabled=no"}, false},
		{"no arg with that value", &When{Arg: "--cluster=yes"}, false},
		{"program", &When{Command: "server"}, true},
		{"other program", &When{Command: "worker"}, false},
		{"tag", &When{Tag: "*-fpm*"}, true},
		{"other tag", &When{Tag: "*-apache"}, false},
		{"not", &When{Not: &When{Env: "B"}}, false},
		{"any", &When{Any: []When{{Env: "C"}, {Env: "B"}}}, true},
		{"none of any", &When{Any: []When{}}, false},
		{"all", &When{All: []When{{Env: "A"}, {Env: "B"}}}, true},
		{"not all", &When{All: []When{{Env: "A"}, {Env: "C"}}}, false},
	} {
		if got := f.holds(tt.when); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// Sets of ports behave as sets of numbers.
func TestPortSets(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	random := func() []policy.PortRange {
		var out []policy.PortRange
		for range r.IntN(5) {
			lo := uint16(1 + r.IntN(20))
			out = append(out, policy.PortRange{Proto: []policy.Proto{policy.ProtoTCP, policy.ProtoUDP}[r.IntN(2)], Lo: lo, Hi: lo + uint16(r.IntN(6))})
		}
		return out
	}
	has := func(rs []policy.PortRange, p policy.Proto, n uint16) bool {
		return slices.ContainsFunc(rs, func(x policy.PortRange) bool { return x.Contains(p, n) })
	}
	for range 2000 {
		a, b := random(), random()
		join, both, less := joinPorts(a, b), intersectPorts(a, b), subtractPorts(a, b)
		for _, p := range []policy.Proto{policy.ProtoTCP, policy.ProtoUDP} {
			for n := range uint16(30) {
				inA, inB := has(a, p, n), has(b, p, n)
				if has(join, p, n) != (inA || inB) || has(both, p, n) != (inA && inB) || has(less, p, n) != (inA && !inB) {
					t.Fatalf("%v and %v at %v/%d: %v %v %v", a, b, p, n, join, both, less)
				}
			}
		}
		if coversPorts(joinPorts(a), joinPorts(b)) != (len(subtractPorts(b, a)) == 0) || !coversPorts(join, a) {
			t.Fatalf("%v covers %v", a, b)
		}
	}
}

func FuzzPortSetting(f *testing.F) {
	for _, s := range []string{"80", ":9090", "[::]:80", "A://h:1,B://:2", "0", "-1", "65536", "", ",", "x"} {
		f.Add(s, "*-fpm*")
	}
	f.Fuzz(func(t *testing.T, value, pattern string) {
		for _, parse := range []string{"", "listeners"} {
			ports, _ := parsePorts(value, parse)
			for _, p := range ports {
				if p == 0 {
					t.Errorf("%q: port 0", value)
				}
			}
		}
		likeTag(pattern, value)
		schemeOf(value)
		isRouteKey(pattern, value)
		if !likeTag("*", value) || !likeTag(value+"*", value) {
			t.Errorf("%q is not like itself", value)
		}
	})
}

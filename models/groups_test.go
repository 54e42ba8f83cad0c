package models

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse/policy"
)

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func groupOf(t *testing.T, p *Population, service string) policy.Group {
	t.Helper()
	var found []policy.Group
	for _, g := range p.Groups {
		if g.Service.String() == service {
			found = append(found, g)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s: %d groups", service, len(found))
	}
	return found[0]
}

func TestI4(t *testing.T) {
	play(t, []scene{
		{"a stranger on a project's network stays one", func(b *town) {
			b.network("shop_default", "shop")
			b.run("shop/db", "t/db", "shop_default")
			b.run("evil", "t/app", "shop_default", ref("env DB_HOST", "db"))
		}, nil, []string{"not-admitted only on network shop_default"}},
		{"containers on one hand-made network are a project", func(b *town) {
			b.network("lab", "")
			b.run("net:lab/db", "t/db", "lab")
			b.run("net:lab/app", "t/app", "lab")
		}, []string{"net:lab/app -> net:lab/db : postgresql+starttls tcp/5432"}, nil},
		{"without a project each is its own", func(b *town) {
			b.network("lab", "")
			b.run("db", "t/db", "lab")
			b.run("app", "t/app", "lab")
		}, nil, nil},
	})
}

func TestI6(t *testing.T) {
	b := newTown(t).network("n", "p")
	vpn := b.run("p/gluetun", "x/gluetun", "n", publish("8080:8000"), publish("8888:8888"))
	b.run("p/torrent", "t/app", "", sharedWith(vpn))
	b.run("p/db", "t/db", "n")
	b.run("p/web", "x/web", "n", ref("env APP_URL", "http://torrent:8000"), expose("tcp/1"))
	p := b.groups(Settings{DefaultMode: policy.Observe}, loadModels(t, testModels)...)
	g := groupOf(t, p, "p/gluetun")
	if g.Model != "custom+t-app" || len(g.Members) != 2 {
		t.Errorf("group %+v", g)
	}
	if m, _ := p.Match(g.Members[1]); len(p.Groups) != 3 || m.Model.Name != "t-app" {
		t.Errorf("groups %v", p.Groups)
	}
	ss, fs := Generate(p)
	expect(t, between(ss), []string{
		"@external -> p/gluetun : any tcp/8888", // what the other's model names is the other's
		"@external -> p/gluetun : http tcp/8000",
		"@host -> p/gluetun : any tcp/8888",
		"@host -> p/gluetun : http tcp/8000",
		"p/gluetun -> p/db : postgresql+starttls tcp/5432",
		"p/gluetun -> p/gluetun : http tcp/8000",
		"p/gluetun -> p/gluetun : http tcp/8888",
	})
	if !hasFinding(fs, FindingSharedNamespace, "p/torrent (t-app)") {
		t.Error(fs)
	}
}

func TestI9(t *testing.T) {
	const tiered = `
schema: gatehouse.model/v1
model: t-tier
revision: 1
title: Tiered
roles: [database]
dns: none
docs: ["https://example.org"]
match: {images: [t/tier]}
serves: [{id: sql, app: postgresql, ports: [tcp/5432], to: [{label: tier=gold}]}]
---
schema: gatehouse.model/v1
model: t-user
revision: 1
title: User
roles: [client]
dns: none
docs: ["https://example.org"]
match: {images: [t/user]}
calls: [{id: db, app: postgresql, ports: [callee], to: [{role: database}]}]
`
	b := newTown(t).network("n", "p")
	b.run("p/db", "t/tier", "n")
	b.run("p/user", "t/user", "n", label("tier=gold"), label("unused=1"))
	b.run("p/user", "t/user", "n", label("tier=gold"), label("unused=2"))
	b.run("p/user", "t/user", "n")
	b.run("p/user", "t/user", "n", imageLabel("tier=gold"))
	p := b.groups(Settings{}, loadModels(t, tiered)...)
	if len(p.Groups) != 3 {
		t.Fatalf("groups %v", p.Groups)
	}
	ss, _ := Generate(p)
	if len(ss) != 1 || ss[0].From[0].Identity == 0 || ss[0].To[0].Identity != 0 {
		t.Fatalf("statements %+v", ss)
	}
	for _, g := range p.Groups {
		if g.Identity == ss[0].From[0].Identity && !slices.Equal(g.Members, []string{"c000002", "c000003"}) {
			t.Errorf("gold are %v", g.Members)
		}
	}
}

// The identity of a service is the same for all its replicas, whatever their
// host ports, and outlives a restart.
func TestReplicasShareAnIdentity(t *testing.T) {
	b := newTown(t).network("n", "p")
	for i := range 3 {
		b.run("p/app", "x/app", "n", publish(fmt.Sprintf("%d:80", 8080+i)), ref("env A", fmt.Sprint("other", i)))
	}
	b.run("p/app", "x/app", "n", expose("tcp/9")) // another variant
	p := b.groups(Settings{})
	if len(p.Groups) != 2 || len(p.Groups[0].Members)+len(p.Groups[1].Members) != 4 {
		t.Fatalf("groups %v", p.Groups)
	}
}

func TestV5(t *testing.T) {
	for _, tt := range []struct {
		name    string
		set     Settings
		opts    []option
		mode    policy.Mode
		guarded bool
		finding FindingKind
	}{
		{"default", Settings{DefaultMode: policy.Observe}, nil, policy.Observe, true, ""},
		{"label", Settings{DefaultMode: policy.Observe}, []option{label("gatehouse.mode=enforce")}, policy.Enforce, true, ""},
		{"label loosens", Settings{DefaultMode: policy.Enforce}, []option{label("gatehouse.mode=observe")}, policy.Observe, true, ""},
		{"floor", Settings{DefaultMode: policy.Enforce, ModeFloorEnforce: true}, []option{label("gatehouse.mode=observe")}, policy.Enforce, true, FindingIgnoredLabel},
		{"floor lets labels tighten", Settings{DefaultMode: policy.Observe, ModeFloorEnforce: true}, []option{label("gatehouse.mode=enforce")}, policy.Enforce, true, ""},
		{"gatehouse mode beats the label", Settings{Modes: map[string]policy.Mode{"p/x": policy.Observe}}, []option{label("gatehouse.mode=enforce")}, policy.Observe, true, ""},
		{"baked label (I3)", Settings{DefaultMode: policy.Enforce}, []option{imageLabel("gatehouse.mode=observe")}, policy.Enforce, true, FindingIgnoredLabel},
		{"a baked label tightens (I3)", Settings{DefaultMode: policy.Observe}, []option{imageLabel("gatehouse.mode=enforce")}, policy.Enforce, true, FindingNote},
		{"gatehouse mode beats a baked label", Settings{Modes: map[string]policy.Mode{"p/x": policy.Observe}}, []option{imageLabel("gatehouse.mode=enforce")}, policy.Observe, true, FindingNote},
		{"malformed", Settings{DefaultMode: policy.Enforce}, []option{label("gatehouse.mode=off")}, policy.Enforce, true, FindingIgnoredLabel},
		{"not enrolled", Settings{}, []option{label("gatehouse.enable=false")}, policy.Enforce, false, ""},
		{"baked enable", Settings{}, []option{imageLabel("gatehouse.enable=false")}, policy.Enforce, true, FindingIgnoredLabel},
		{"a baked one enrolls (I3)", Settings{EnrollNone: true}, []option{imageLabel("gatehouse.enable=true")}, policy.Enforce, true, FindingNote},
		{"a baked one enrolls nothing", Settings{EnrollNone: true}, []option{imageLabel("gatehouse.enable=yes")}, policy.Enforce, false, FindingIgnoredLabel},
		{"malformed enable", Settings{}, []option{label("gatehouse.enable=no")}, policy.Enforce, true, FindingIgnoredLabel},
		{"uncovered", Settings{}, []option{onHost}, policy.Enforce, false, FindingUncovered},
		{"malformed statement label", Settings{}, []option{label("gatehouse.allow.egress=1.2.3.4")}, policy.Enforce, true, FindingIgnoredLabel},
		{"statement label", Settings{}, []option{label("gatehouse.allow.egress=1.2.3.4:80")}, policy.Enforce, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTown(t).network("n", "p")
			b.run("p/x", "x/x", "n", tt.opts...)
			p := b.groups(tt.set)
			g := groupOf(t, p, "p/x")
			if g.Mode != tt.mode || g.Guarded != tt.guarded {
				t.Errorf("mode %v guarded %v", g.Mode, g.Guarded)
			}
			_, fs := Generate(p)
			if tt.finding == "" && len(fs) > 0 || tt.finding != "" && !hasFinding(fs, tt.finding, "p/x") {
				t.Errorf("findings %v", fs)
			}
		})
	}
}

func TestT1(t *testing.T) {
	play(t, []scene{
		{"the label gives all of the model", func(b *town) {
			b.network("n", "p")
			b.run("p/own", "registry.example/own", "n", localImage, label("gatehouse.model=t-mail"))
		}, []string{"@host -> p/own : any tcp/9999", "p/own -> @internet : smtp+starttls tcp/25", "p/own -> name:updates.example.org : tls(http) tcp/443"}, nil},
		{"one that names no model is reported", func(b *town) {
			b.network("n", "p")
			b.run("p/own", "t/mail", "n", label("gatehouse.model=t-nail"))
		}, nil, []string{"unknown-model t-nail"}},
		{"a baked one does not count (I3)", func(b *town) {
			b.network("n", "p")
			b.run("p/own", "registry.example/own", "n", imageLabel("gatehouse.model=t-mail"))
		}, nil, []string{"ignored-label gatehouse.model"}},
	})
}

func TestT4(t *testing.T) {
	play(t, []scene{
		{"no outside, no names, no host", func(b *town) {
			b.network("n", "p")
			b.run("p/mail", "t/mail", "n", localImage)
			b.run("p/app", "x/app", "n", ref("env SMTP_HOST", "mail:25"))
		}, []string{"p/app -> p/mail : smtp+starttls tcp/25"}, []string{"clipped p/mail"}},
		{"its own project stays", func(b *town) {
			b.network("n", "p")
			b.run("p/app", "t/app", "n", localImage)
			b.run("p/db", "t/db", "n", localImage)
		}, []string{"p/app -> p/db : postgresql+starttls tcp/5432"}, []string{"clipped p/app"}},
		{"what the deployer said stays", func(b *town) {
			b.network("n", "p").network("hand", "")
			b.run("p/app", "t/app", "n hand", localImage, publish("80:8000"), ref("env DB_HOST", "pg"), ref("env SMTP_URL", "smtp://smtp.example.com"))
			b.run("q/pg", "t/db", "hand")
		}, []string{"@external -> p/app : http tcp/8000", "@host -> p/app : http tcp/8000",
			"p/app -> name:smtp.example.com : smtp+starttls tcp/587", "p/app -> p/app : http tcp/8000", "p/app -> q/pg : postgresql+starttls tcp/5432"},
			[]string{"clipped p/app"}},
		{"it never fronts nor watches", func(b *town) {
			b.network("hand", "")
			b.run("p/front", "t/front", "hand", localImage, publish("80:80"))
			b.run("p/watch", "t/watch", "hand", localImage)
			b.run("q/app", "t/app", "hand")
			b.run("q/db", "t/db", "hand")
		}, []string{"@external -> p/front : http tcp/80", "@host -> p/front : http tcp/80", "q/app -> q/db : postgresql+starttls tcp/5432"},
			[]string{"clipped p/front", "clipped p/watch"}},
	})
}

func TestGroupLabels(t *testing.T) {
	play(t, []scene{
		{"gatehouse.role adds a role", func(b *town) {
			b.network("n", "p")
			b.run("p/store", "x/store", "n", expose("tcp/5432"), label("gatehouse.role=database"))
			b.run("p/app", "t/app", "n")
		}, []string{"p/app -> p/store : postgresql+starttls tcp/5432"}, nil},
		{"words that are no roles are reported", func(b *town) {
			b.network("n", "p")
			b.run("p/store", "x/store", "n", label("gatehouse.role=databases"))
		}, nil, []string{"ignored-label databases"}},
	})
}

func TestFeatures(t *testing.T) {
	const updates = "p/wp -> name:api.wordpress.org : tls(http) tcp/443"
	for _, tt := range []struct {
		name string
		set  Settings
		opts []option
		want bool
	}{
		{"the model's default", Settings{}, nil, true},
		{"off by label", Settings{}, []option{label("gatehouse.features=-updates")}, false},
		{"a baked label takes away", Settings{}, []option{imageLabel("gatehouse.features=-updates")}, false},
		{"a baked label that gives does not count", Settings{Features: nil}, []option{imageLabel("gatehouse.features=-updates,acme")}, true},
		{"the operator beats the label", Settings{Features: map[string]bool{"updates": false}}, []option{label("gatehouse.features=updates")}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTown(t).network("n", "p")
			b.run("p/wp", "wordpress", "n", tt.opts...)
			ss, _ := Generate(b.groups(tt.set))
			if got := slices.Contains(lines(ss), updates); got != tt.want {
				t.Errorf("got %v in %v", got, lines(ss))
			}
		})
	}
}

// randomTown is a few projects of test software on own, common and system
// networks, with references of all kinds.
func randomTown(t testing.TB, r *rand.Rand, projects ...string) *town {
	b := newTown(t).network("bridge", "").network("hand", "").network("other+6", "")
	images := []string{"t/db", "t/app", "t/front", "t/watch", "t/mail", "x/one", "x/two"}
	services := []string{"db", "db1", "db2", "app", "web", "front"}
	for _, p := range projects {
		b.network(p+"_default", p)
	}
	for _, p := range projects {
		for _, s := range services {
			if r.IntN(4) == 0 {
				continue
			}
			nets := p + "_default"
			for _, n := range []string{"hand", "other", "bridge", projects[0] + "_default"} {
				if r.IntN(3) == 0 && !strings.Contains(nets, n) {
					nets += " " + n
				}
			}
			opts := []option{expose("tcp/80"), func(w *policy.Workload) {
				w.Exposed = append(w.Exposed, policy.PortRange{Proto: 132, Lo: 9, Hi: 9}) // SCTP
				w.Published = append(w.Published, policy.Published{Proto: 132, HostPort: 9, Port: 9})
			}}
			if r.IntN(3) == 0 {
				opts = append(opts, dependsOn(services[r.IntN(len(services))]))
			}
			if r.IntN(3) == 0 {
				opts = append(opts, publish(fmt.Sprintf("%d:%d", 1000+b.next, []int{80, 5432, 8000}[r.IntN(3)])))
			}
			if r.IntN(2) == 0 {
				opts = append(opts, ref("env A_URL", []string{"postgresql://", "", "http://"}[r.IntN(3)]+services[r.IntN(len(services))]+[]string{"", ":5432", ":80"}[r.IntN(3)]))
			}
			if r.IntN(5) == 0 {
				opts = append(opts, localImage)
			}
			image := images[r.IntN(len(images))]
			for range 1 + r.IntN(2) {
				b.run(p+"/"+s, image, nets, opts...)
			}
		}
	}
	return b
}

func TestGenerationIsDeterministic(t *testing.T) {
	own := loadModels(t, testModels)
	lib := library(t, own...)
	for seed := range uint64(30) {
		b := randomTown(t, rand.New(rand.NewPCG(seed, 1)), "p", "q", "r")
		want, wantFindings := Generate(Groups(lib, &b.snap, Settings{}, policy.NewIdentities()))
		p := Groups(lib, &b.snap, Settings{}, policy.NewIdentities())
		if _, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: &b.snap, Groups: p.Groups, Statements: want}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := range uint64(3) {
			snap := shuffled(b, seed*10+i)
			got, findings := Generate(Groups(lib, snap, Settings{}, policy.NewIdentities()))
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) || fmt.Sprint(findings) != fmt.Sprint(wantFindings) {
				t.Fatalf("seed %d: shuffled, got\n%s\nwant\n%s\n%v\n%v", seed, strings.Join(Text(got), "\n"), strings.Join(Text(want), "\n"), findings, wantFindings)
			}
		}
	}
}

// A project that shares no network adds nothing to another one's services.
func TestForeignProjectAddsNothing(t *testing.T) {
	lib := library(t, loadModels(t, testModels)...)
	for seed := range uint64(30) {
		b := randomTown(t, rand.New(rand.NewPCG(seed, 2)), "p", "q")
		before, _ := Generate(Groups(lib, &b.snap, Settings{}, policy.NewIdentities()))
		b.network("far_default", "far")
		for i, image := range []string{"t/db", "t/app", "t/front", "t/watch", "x/one"} {
			b.run(fmt.Sprintf("far/s%d", i), image, "far_default", alias("far_default", "db"), ref("env A_HOST", "db"), ref("env B_HOST", "app:80"), publish(fmt.Sprintf("%d:80", 7000+i)))
		}
		after, _ := Generate(Groups(lib, &b.snap, Settings{}, policy.NewIdentities()))
		rest := slices.DeleteFunc(lines(after), func(l string) bool {
			from, to, _ := strings.Cut(l, " -> ")
			return strings.HasPrefix(from, "far/") && strings.HasPrefix(to, "far/") ||
				strings.HasPrefix(from, "@") && strings.HasPrefix(to, "far/") || strings.HasPrefix(from, "far/") && !strings.Contains(to, "/s") && (strings.HasPrefix(to, "@") || strings.HasPrefix(to, "name:"))
		})
		expect(t, rest, lines(before))
	}
}

func BenchmarkGenerate(b *testing.B) {
	lib := library(b)
	tw := newTown(b).network("proxy", "").network("bridge", "")
	images := []string{"postgres:16", "redis:7", "nginx", "wordpress", "x/app", "x/worker", "prom/prometheus", "rabbitmq:3", "x/api", "mariadb"}
	for p := range 50 {
		project := fmt.Sprintf("p%d", p)
		tw.network(project+"_default", project)
		for s, image := range images {
			for range 10 {
				tw.run(fmt.Sprintf("%s/s%d", project, s), image, project+"_default proxy", expose("tcp/8000"),
					ref("env DATABASE_URL", "postgresql://s0"), ref("env CACHE_URL", "redis://s1:6379"), dependsOn("s7"))
			}
		}
	}
	b.ReportMetric(float64(len(tw.snap.Workloads)), "workloads")
	for b.Loop() {
		Generate(Groups(lib, &tw.snap, Settings{}, policy.NewIdentities()))
	}
}

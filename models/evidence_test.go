package models

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse/policy"
)

// lineOf is the evidence of that kind which says those words, "" if none does.
func lineOf(es []Evidence, kind, words string) string {
	for _, e := range es {
		line := fmt.Sprintf("%s %s | %v | %s | %s", e.Kind, e.What, e.Counts, e.Why, e.Change)
		if e.Kind == kind && strings.Contains(line, words) {
			return line
		}
	}
	return ""
}

// Each kind of evidence is told, with what came of it and what would change it.
func TestEvidence(t *testing.T) {
	b := newTown(t).network("shop_default", "shop").network("bridge", "")
	b.snap.Networks[1].System = true
	b.run("shop/db", "postgres:16", "shop_default", expose("tcp/5432", "tcp/9999"))
	web := b.run("shop/web", "nginx:1.27", "shop_default bridge", localImage, publish("8080:80"), expose("tcp/80"), dependsOn("db"),
		ref("env DB_HOST", "db:5432"), ref("env OTHER_HOST", "gone"), label("gatehouse.role=monitoring,king"), imageLabel("gatehouse.mode=observe"))
	labelled := b.run("shop/labelled", "acme/x", "shop_default", label("gatehouse.model=redis"))
	mistaken := b.run("shop/mistaken", "nginx", "shop_default", label("gatehouse.model=ngnix"))
	hinted := b.run("shop/hinted", "acme/y", "shop_default", func(w *policy.Workload) { w.Image.EnvKeys = []string{"NGINX_VERSION"} })
	built := b.run("shop/built", "shop-built", "shop_default", localImage, func(w *policy.Workload) {
		w.Image.Built, w.Image.Labels = true, map[string]string{LabelBaseName: "docker.io/library/node:22"}
	})
	task := b.run("stack/task", "redis:7", "shop_default", swarm)
	// run moves the workloads as the town grows: only their ids last.
	ids := map[string]string{}
	for _, w := range b.snap.Workloads {
		ids[w.Service.Name] = w.ID
	}
	_, _, _, _, _, _ = web, labelled, mistaken, hinted, built, task
	p := Groups(builtinLibrary(t), &b.snap, Settings{}, policy.NewIdentities())
	for _, c := range []struct{ service, kind, words string }{
		{"db", "origin", "docker.io/library/postgres | true | model postgresql: the engine pulled it"},
		{"db", "name", "false | a better proof came first"},
		{"db", "label", "gatehouse.model | false | not set | set it to say the model yourself"},
		{"db", "exposed", "tcp/5432 | true | postgresql@4#sql serves app-server"},
		{"db", "exposed", "tcp/9999 | false | postgresql serves nothing on tcp/9999 | a model of your own"},
		{"web", "name", "true | model nginx: only the name fits: built, loaded or tagged here | label gatehouse.model=nginx"},
		{"web", "label", "gatehouse.mode=observe | false | baked into the image"},
		{"web", "role", "gatehouse.role=monitoring,king | false | label gatehouse.role: unknown role"},
		{"web", "published", "0.0.0.0:8080 to tcp/80 | true | nginx@1#web, publish any"},
		{"web", "reference", "env DB_HOST: db:5432 | true | means shop/db"},
		{"web", "reference", "env OTHER_HOST: gone | false | nobody that it can reach has that name (R4)"},
		{"web", "depends_on", "db | true | means shop/db"},
		{"web", "network", "shop_default | true | owned by shop"},
		{"web", "network", "bridge | false | a system network relates nobody (I7)"},
		{"labelled", "label", "gatehouse.model=redis | true | the deployer said so (T1)"},
		{"labelled", "origin", "false | not asked: the label says the model"},
		{"mistaken", "label", "gatehouse.model=ngnix | false | there is no such model | gatehouse models list"},
		{"hinted", "hint", "image environment NGINX_VERSION | false | suggests nginx, and proves nothing: only proposed (T5) | label gatehouse.model=nginx"},
		{"built", "hint", "node:22 | true | suggests language-runtime; its own project built the image (T5)"},
		{"task", "swarm", "service stack/task | true"},
	} {
		if line := lineOf(p.Evidence(ids[c.service]), c.kind, c.words); line == "" {
			t.Errorf("%s: no %s with %q in\n%+v", c.service, c.kind, c.words, p.Evidence(ids[c.service]))
		}
	}
	if got := p.Evidence("nobody"); got != nil {
		t.Errorf("of nobody: %v", got)
	}
}

// A finer model that the deployer could ask for is named with its label.
func TestEvidenceNamesFinerModels(t *testing.T) {
	l := withOperator(t, "schema: gatehouse.model/v1\nmodel: web-internal\nrevision: 1\ntitle: internal web server\nextends: nginx\n"+
		"match: {images: [nginx], labels: {tier: internal}}\n")
	w := &policy.Workload{Image: policy.Image{Ref: "nginx", Repository: "docker.io/library/nginx"}}
	if line := lineOf(l.Evidence(w, TrustSettings{}), "label", "tier=internal | false | not set by the deployer: it would make this web-internal"); line == "" {
		t.Errorf("%+v", l.Evidence(w, TrustSettings{}))
	}
	w.Labels = map[string]policy.Label{"tier": {Value: "internal", By: policy.SetByDeployer}}
	if line := lineOf(l.Evidence(w, TrustSettings{}), "label", "tier=internal | true"); line == "" {
		t.Errorf("%+v", l.Evidence(w, TrustSettings{}))
	}
}

// A hundred thousand labels and variables of one workload cost it, and nobody
// else, a bounded answer.
func TestManyLabelsStayBounded(t *testing.T) {
	const many = 100_000
	b := newTown(t).network("proxy", "edge").network("p_default", "p")
	b.run("edge/traefik", "traefik:v3", "proxy", publish("80:80"))
	b.run("p/web", "acme/web", "proxy p_default", func(w *policy.Workload) {
		w.Labels = make(map[string]policy.Label, many)
		for i := range many {
			by := policy.Setter(i % 2)
			w.Labels[fmt.Sprintf("gatehouse.x%d", i)] = policy.Label{Value: "y", By: by}
			w.Labels[fmt.Sprintf("traefik.http.services.s%d.loadbalancer.server.port", i)] = policy.Label{Value: fmt.Sprint(i%60000 + 1), By: by}
			w.EnvKeys = append(w.EnvKeys, fmt.Sprintf("K%d", i))
		}
	})
	p := Groups(builtinLibrary(t), &b.snap, Settings{}, policy.NewIdentities())
	ss, fs := Generate(p)
	if len(ss) > 1000 || len(fs) > 1000 {
		t.Errorf("%d statements, %d findings", len(ss), len(fs))
	}
	if es := p.Evidence(b.snap.Workloads[1].ID); len(es) > 10*maxEvidence {
		t.Errorf("%d pieces of evidence", len(es))
	}
}

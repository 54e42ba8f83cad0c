package models

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"

	"gatehouse/policy"
)

const testDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func builtinLibrary(t testing.TB) *Library {
	t.Helper()
	l, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var mirrors = TrustSettings{Registries: []Registry{
	{Prefix: "127.0.0.1:5000/", As: "docker.io/"},
	{Prefix: "harbor.example/hub", As: "docker.io"},
	{Prefix: "registry.acme.example/"},
}}

// imageCase is one line of testdata/images.tsv.
type imageCase struct {
	ref       string
	labels    map[string]policy.Label // the deployer's
	model     string
	looksLike string // the model that a look-alike resembles; "" otherwise
}

func imageCases(t *testing.T) []imageCase {
	t.Helper()
	f, err := os.Open("testdata/images.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []imageCase
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) < 2 || len(fields) > 3 {
			t.Fatalf("%q: want a reference, a model, and of a look-alike whom it resembles", lines.Text())
		}
		c := imageCase{ref: fields[0], model: fields[1], labels: make(map[string]policy.Label)}
		if ref, labels, ok := strings.Cut(strings.TrimSpace(fields[0]), " "); ok && strings.Contains(labels, "=") {
			c.ref = ref
			for _, l := range strings.Fields(labels) {
				k, v, _ := strings.Cut(l, "=")
				c.labels[k] = policy.Label{Value: v, By: policy.SetByDeployer}
			}
		}
		if len(fields) == 3 {
			c.looksLike = fields[2]
		}
		out = append(out, c)
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return out
}

func (c imageCase) workload() *policy.Workload {
	w := &policy.Workload{Image: policy.Image{Ref: c.ref}, Labels: c.labels}
	if repository, tag, _, err := policy.NormalizeImage(c.ref); err == nil {
		w.Image.Repository, w.Image.Tag = repository, tag
	}
	return w
}

// Every model has images (or the label) that match and look-alikes that do not.
func TestMatchImages(t *testing.T) {
	l := builtinLibrary(t)
	matched, resembled := make(map[string]int), make(map[string]int)
	for _, c := range imageCases(t) {
		if got := l.Match(c.workload(), mirrors); got.Model.Name != c.model {
			t.Errorf("%q is %s (%s), want %s", c.ref, got.Model.Name, strings.Join(got.Reasons, "; "), c.model)
		}
		matched[c.model]++
		if c.looksLike != "" {
			resembled[c.looksLike]++
		}
	}
	for _, m := range l.Models() {
		if m.Name != Custom && m.Name != ClientProgram && (matched[m.Name] == 0 || resembled[m.Name] == 0) {
			t.Errorf("%s: %d images that match and %d look-alikes; want both", m.Name, matched[m.Name], resembled[m.Name])
		}
	}
}

// lookAlikes are names near an image's that are not it.
func lookAlikes(image string) []string {
	registry, path, _ := strings.Cut(image, "/")
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i+1], path[i+1:]
	}
	out := []string{
		"evil.example/" + image,
		registry + "/evil/" + base,
		registry + "/" + dir + "my" + base,
		registry + "/" + dir + base + "-exporter",
		registry + "/" + dir + base + "2",
		registry + "/" + path + "/" + base,
		registry + ".evil.example/" + path,
		registry + ":5000/" + path,
	}
	for i, r := range image {
		if strings.ContainsRune(".-_", r) { // no name is a pattern
			out = append(out, image[:i]+"x"+image[i+1:])
		}
	}
	return out
}

// Every model that names images is reached by one of them, and by no name near it.
func TestMatchOwnImages(t *testing.T) {
	l := builtinLibrary(t)
	named := make(map[string]bool)
	for _, m := range l.Models() {
		for _, image := range m.Images {
			named[image] = true
		}
	}
	for _, m := range l.Models() {
		for _, image := range m.Images {
			w := &policy.Workload{Image: policy.Image{Ref: image + ":1@" + testDigest}}
			if got := l.Match(w, TrustSettings{}); got.Model != m {
				t.Errorf("%s is %s, want %s", image, got.Model.Name, m.Name)
			}
			for _, other := range lookAlikes(image) {
				repository, _, _, err := policy.NormalizeImage(other)
				if err == nil && named[repository] {
					continue
				}
				w.Image.Ref = other
				if got := l.Match(w, TrustSettings{}); got.Model.Name != Custom {
					t.Errorf("%s is %s", other, got.Model.Name)
				}
			}
		}
	}
}

func TestMatchTrust(t *testing.T) {
	l := builtinLibrary(t)
	digestOf := func(repository string) []string { return []string{repository + "@" + testDigest} }
	deployer := func(k, v string) map[string]policy.Label {
		return map[string]policy.Label{k: {Value: v, By: policy.SetByDeployer}}
	}
	listed := TrustSettings{Digests: []string{"postgres@" + testDigest}}
	for name, c := range map[string]struct {
		workload   policy.Workload
		settings   TrustSettings
		model      string
		trust      policy.Trust
		confidence string
		reason     string // part of the reasons
		note       string // part of the notes
	}{
		"T1: the deployer's label": {
			workload: policy.Workload{Image: policy.Image{Ref: "acme/x"}, Labels: deployer(LabelModel, "traefik")},
			model:    "traefik", trust: policy.TrustLabel, confidence: "high", reason: "set by the deployer",
		},
		"I3: a label that the image bakes": {
			workload: policy.Workload{Image: policy.Image{Ref: "acme/x"}, Labels: map[string]policy.Label{LabelModel: {Value: "traefik"}}},
			model:    "custom", trust: policy.TrustName, confidence: "low", note: "the image's own and ignored",
		},
		"a label with an unknown model": {
			workload: policy.Workload{Image: policy.Image{Ref: "nginx"}, Labels: deployer(LabelModel, "ngnix")},
			model:    "custom", trust: policy.TrustName, confidence: "low", note: "no such model",
		},
		"T2: a listed digest": {
			workload: policy.Workload{Image: policy.Image{Ref: "postgres", RepoDigests: digestOf("docker.io/library/postgres")}},
			settings: listed, model: "postgresql", trust: policy.TrustDigest, confidence: "high", reason: "operator's list",
		},
		"T2: a listed digest under a foreign name is what was listed": {
			workload: policy.Workload{Image: policy.Image{Ref: "traefik", RepoDigests: digestOf("traefik")}},
			settings: listed, model: "postgresql", trust: policy.TrustDigest, confidence: "high", reason: "operator's list",
		},
		"T2: by image id": {
			workload: policy.Workload{Image: policy.Image{Ref: "postgres", ID: testDigest}},
			settings: listed, model: "postgresql", trust: policy.TrustDigest, confidence: "high", reason: "operator's list",
		},
		"T3: the engine's identity survives retagging": {
			workload: policy.Workload{Image: policy.Image{Ref: "traefik", PulledFrom: []string{"docker.io/library/redis"}}},
			model:    "redis", trust: policy.TrustRegistry, confidence: "high", reason: "pulled it from docker.io/library/redis",
		},
		"T4: retagged from another repository": {
			workload: policy.Workload{Image: policy.Image{Ref: "traefik", PulledFrom: []string{"docker.io/evil/x"}, ClassicStore: true, RepoDigests: digestOf("docker.io/library/traefik")}},
			model:    "traefik", trust: policy.TrustName, confidence: "medium", reason: "pulled it from docker.io/evil/x",
		},
		"T3: classic store, digest of that repository": {
			workload: policy.Workload{Image: policy.Image{Ref: "traefik:v3", ClassicStore: true, RepoDigests: digestOf("traefik")}},
			model:    "traefik", trust: policy.TrustRegistry, confidence: "high", reason: "a registry's digest for docker.io/library/traefik",
		},
		"T4: classic store, digest of another repository": {
			workload: policy.Workload{Image: policy.Image{Ref: "traefik:v3", ClassicStore: true, RepoDigests: digestOf("evil/traefik")}},
			model:    "traefik", trust: policy.TrustName, confidence: "medium", reason: "built, loaded or tagged here",
		},
		"T4: containerd store, digests prove nothing": {
			workload: policy.Workload{Image: policy.Image{Ref: "traefik:v3", RepoDigests: digestOf("docker.io/library/traefik")}},
			model:    "traefik", trust: policy.TrustName, confidence: "medium", reason: "containerd image store",
		},
		"T3: a mirror is trusted": {
			workload: policy.Workload{Image: policy.Image{Ref: "127.0.0.1:5000/library/nginx", ClassicStore: true, RepoDigests: digestOf("127.0.0.1:5000/library/nginx")}},
			settings: mirrors, model: "nginx", trust: policy.TrustRegistry, confidence: "high", reason: "image docker.io/library/nginx",
		},
		"T4: a mirror without digest": {
			workload: policy.Workload{Image: policy.Image{Ref: "127.0.0.1:5000/library/nginx", ClassicStore: true}},
			settings: mirrors, model: "nginx", trust: policy.TrustName, confidence: "medium",
		},
		"an untrusted registry has no models": {
			workload: policy.Workload{Image: policy.Image{Ref: "127.0.0.1:5000/library/nginx", ClassicStore: true, RepoDigests: digestOf("127.0.0.1:5000/library/nginx")}},
			model:    "custom", trust: policy.TrustName, confidence: "low", reason: "no model knows the image",
		},
		"custom from a trusted registry": {
			workload: policy.Workload{Image: policy.Image{Ref: "registry.acme.example/shop", ClassicStore: true, RepoDigests: digestOf("registry.acme.example/shop")}},
			settings: mirrors, model: "custom", trust: policy.TrustRegistry, confidence: "low", reason: "no model knows the image: registry.acme.example/shop",
		},
		"trust.local ends T4": {
			workload: policy.Workload{Image: policy.Image{Ref: "nginx"}},
			settings: TrustSettings{LocalFull: true}, model: "nginx", trust: policy.TrustRegistry, confidence: "high", reason: "trust.local is full",
		},
		"T5: base name, built by the project": {
			workload: policy.Workload{Image: policy.Image{Ref: "shop-web", Built: true, Labels: map[string]string{LabelBaseName: "docker.io/library/nginx:1.27"}}},
			model:    "nginx", trust: policy.TrustName, confidence: "low", reason: "built from docker.io/library/nginx",
		},
		"T5: environment, built by the project": {
			workload: policy.Workload{Image: policy.Image{Ref: "shop-web", Built: true, EnvKeys: []string{"PATH", "PHP_VERSION", "NEXTCLOUD_VERSION"}}},
			model:    "nextcloud", trust: policy.TrustName, confidence: "low", reason: "sets NEXTCLOUD_VERSION",
		},
		"an image id": {
			workload: policy.Workload{Image: policy.Image{Ref: testDigest, ID: testDigest}},
			model:    "custom", trust: policy.TrustName, confidence: "low",
		},
		"nothing known": {model: "custom", trust: policy.TrustName, confidence: "low"},
	} {
		t.Run(name, func(t *testing.T) {
			got := l.Match(&c.workload, c.settings)
			if got.Model.Name != c.model || got.Trust != c.trust || got.Confidence != c.confidence {
				t.Errorf("%s, %s, %s; want %s, %s, %s", got.Model.Name, got.Trust, got.Confidence, c.model, c.trust, c.confidence)
			}
			if !strings.Contains(strings.Join(got.Reasons, "; "), c.reason) {
				t.Errorf("reasons %q lack %q", got.Reasons, c.reason)
			}
			if !strings.Contains(strings.Join(got.Notes, "; "), c.note) || c.note == "" && len(got.Notes) > 0 {
				t.Errorf("notes %q, want %q", got.Notes, c.note)
			}
		})
	}
}

// A hint gives no model to an image from elsewhere: it only proposes one.
func TestMatchHintsPropose(t *testing.T) {
	l := builtinLibrary(t)
	for name, w := range map[string]policy.Workload{
		"base name":   {Image: policy.Image{Ref: "acme/web", Labels: map[string]string{LabelBaseName: "nginx"}}},
		"environment": {Image: policy.Image{Ref: "acme/web", EnvKeys: []string{"NGINX_VERSION"}}},
		"command":     {Image: policy.Image{Ref: "acme/web"}, Command: []string{"/usr/sbin/nginx", "-g", "daemon off;"}},
	} {
		got := l.Match(&w, TrustSettings{})
		if got.Model.Name != Custom || got.Proposed != "nginx" || got.Confidence != "low" {
			t.Errorf("%s: %s, proposed %q, %s", name, got.Model.Name, got.Proposed, got.Confidence)
		}
		if !strings.Contains(strings.Join(got.Reasons, "; "), "gatehouse.model=nginx") {
			t.Errorf("%s: reasons do not say what to do: %q", name, got.Reasons)
		}
	}
}

// The specification's example C: web servers told apart by the deployer's label.
func TestMatchLabelsBeatImages(t *testing.T) {
	l := withOperator(t, `
schema: gatehouse.model/v1
model: web-internal
revision: 1
title: internal web server
extends: nginx
docs: [docs/web-tiers.md]
match: {images: [nginx], labels: {tier: internal}}
serves:
  - {id: web, app: http, tls: optional, ports: [exposed, published], publish: site, to: [{role: app-server}, {role: web-server}, {role: management}]}
---
schema: gatehouse.model/v1
model: web-secret
revision: 1
extends: nginx
match: {labels: {tier: internal, zone: secret}}
---
schema: gatehouse.model/v1
model: batch
revision: 1
title: anything labelled so
match: {labels: {kind: batch}}
`)
	deployer := policy.SetByDeployer
	for name, c := range map[string]struct {
		image  string
		labels map[string]policy.Label
		want   string
	}{
		"without label":         {"nginx", nil, "nginx"},
		"with label":            {"nginx", map[string]policy.Label{"tier": {Value: "internal", By: deployer}}, "web-internal"},
		"label of another word": {"nginx", map[string]policy.Label{"tier": {Value: "external", By: deployer}}, "nginx"},
		"label of the image":    {"nginx", map[string]policy.Label{"tier": {Value: "internal"}}, "nginx"},
		"two labels":            {"nginx", map[string]policy.Label{"tier": {Value: "internal", By: deployer}, "zone": {Value: "secret", By: deployer}}, "web-secret"},
		"only one of two":       {"bitnami/nginx", map[string]policy.Label{"zone": {Value: "secret", By: deployer}}, "nginx"},
		"labels, any image":     {"acme/x", map[string]policy.Label{"kind": {Value: "batch", By: deployer}}, "batch"},
		"another image":         {"httpd", map[string]policy.Label{"tier": {Value: "internal", By: deployer}}, "httpd"},
	} {
		got := l.Match(&policy.Workload{Image: policy.Image{Ref: c.image}, Labels: c.labels}, TrustSettings{})
		if got.Model.Name != c.want {
			t.Errorf("%s: %s, want %s", name, got.Model.Name, c.want)
		}
	}
}

func TestRoles(t *testing.T) {
	l := builtinLibrary(t)
	m := Match{Model: l.Model("redis")}
	for name, c := range map[string]struct {
		label policy.Label
		want  []string
		notes int
	}{
		"added":        {policy.Label{Value: "message-broker, cache", By: policy.SetByDeployer}, []string{"cache", "database", "message-broker"}, 0},
		"unknown word": {policy.Label{Value: "queue,search", By: policy.SetByDeployer}, []string{"cache", "database", "search"}, 1},
		"image's own":  {policy.Label{Value: "proxy"}, []string{"cache", "database"}, 1},
	} {
		w := &policy.Workload{Labels: map[string]policy.Label{LabelRole: c.label}}
		roles, notes := Roles(w, m)
		if !slices.Equal(roles, c.want) || len(notes) != c.notes {
			t.Errorf("%s: %v, notes %q", name, roles, notes)
		}
	}
	if got := l.Model("redis").Roles; !slices.Equal(got, []string{"cache", "database"}) {
		t.Errorf("the model itself was changed: %v", got)
	}
}

func TestTrustSettingsValidate(t *testing.T) {
	if err := mirrors.Validate(); err != nil {
		t.Error(err)
	}
	for name, s := range map[string]TrustSettings{
		"no registry":     {Registries: []Registry{{Prefix: "nginx/"}}},
		"empty":           {Registries: []Registry{{}}},
		"everything":      {Registries: []Registry{{Prefix: "/"}}},
		"scheme":          {Registries: []Registry{{Prefix: "https://registry.example/"}}},
		"no target":       {Registries: []Registry{{Prefix: "127.0.0.1:5000/", As: "hub"}}},
		"bare digest":     {Digests: []string{testDigest}},
		"name only":       {Digests: []string{"postgres"}},
		"upper-case name": {Digests: []string{"Postgres@" + testDigest}},
	} {
		if err := s.Validate(); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzMatch(f *testing.F) {
	l := builtinLibrary(f)
	f.Add("nginx:1", "docker.io/library/nginx@"+testDigest, "traefik", "docker.io/library/redis", "nginx", true)
	f.Add("127.0.0.1:5000/x", "", "", "", "NGINX_VERSION", false)
	f.Fuzz(func(t *testing.T, ref, digest, label, base, env string, flag bool) {
		w := &policy.Workload{
			Image: policy.Image{Ref: ref, RepoDigests: []string{digest}, ClassicStore: flag, Built: flag,
				Labels: map[string]string{LabelBaseName: base}, EnvKeys: []string{env}},
			Labels:  map[string]policy.Label{LabelModel: {Value: label}, LabelRole: {Value: label, By: policy.SetByDeployer}},
			Command: []string{env},
		}
		m := l.Match(w, mirrors)
		if m.Model == nil || m.Confidence == "" || len(m.Reasons) == 0 {
			t.Fatalf("%+v", m)
		}
		if m.Trust >= policy.TrustDigest {
			t.Fatalf("neither label nor list, and %s", m.Trust)
		}
		Roles(w, m)
	})
}

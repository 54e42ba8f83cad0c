package docker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	dockerclient "github.com/fsouza/go-dockerclient"

	"gatehouse/policy"
)

// derive describes a container on one network; the zero parts are left out.
func derive(labels map[string]string, img *image, change func(*sight)) policy.Workload {
	s := sight{
		container: &dockerclient.Container{ID: strings.Repeat("a", 64), Name: "/c", Config: &dockerclient.Config{Image: "shop-web", Labels: labels}, HostConfig: &dockerclient.HostConfig{NetworkMode: "shop_default"}},
		image:     img, domains: domains{engine: "n1", swarm: "cluster"}, byName: map[string]string{},
		networks: map[string]policy.Network{
			"net1": {ID: "net1", Name: "shop_default", Driver: "bridge", Owner: policy.ProjectKey{Domain: "n1", Name: "shop"}, Guarded: true},
			"net2": {ID: "net2", Name: "dbnet", Driver: "bridge", Guarded: true},
			"net3": {ID: "net3", Name: "bridge", Driver: "bridge", System: true, Guarded: true},
			"net4": {ID: "net4", Name: "lan", Driver: "macvlan"},
		},
	}
	for id, n := range s.networks {
		s.byName[networkName(n.Name)] = id
	}
	if change != nil {
		change(&s)
	}
	return describeWorkload(s)
}

// Who belongs to which project and service (I2, I5), and what an image claims
// of it is no proof.
func TestMembership(t *testing.T) {
	composed := map[string]string{composeProject: "shop", composeService: "web", composeConfigHash: "h1", composeNumber: "1"}
	with := func(key, value string) map[string]string {
		m := map[string]string{key: value}
		for k, v := range composed {
			if _, ok := m[k]; !ok {
				m[k] = v
			}
		}
		return m
	}
	without := func(key string) map[string]string {
		m := with(key, "")
		delete(m, key)
		return m
	}
	oneOff := func(proof string) map[string]string {
		return map[string]string{composeProject: "shop", composeService: "web", composeOneOff: "True", proof: "f00d"}
	}
	swarmed := map[string]string{swarmServiceID: "s", swarmServiceName: "shop_web", swarmTaskID: "t", stackNamespace: "shop"}
	on := func(mode string) func(*sight) {
		return func(s *sight) { s.container.HostConfig.NetworkMode = mode }
	}
	for _, c := range []struct {
		name   string
		labels map[string]string
		baked  map[string]string
		change func(*sight)
		want   string // domain:service
	}{
		{"compose", composed, nil, nil, "n1:shop/web"},
		{"compose build: project, service and version are baked", composed, map[string]string{composeProject: "shop", composeService: "web"}, nil, "n1:shop/web"},
		{"docker run of what Compose built", map[string]string{composeProject: "shop", composeService: "web"}, map[string]string{composeProject: "shop", composeService: "web"}, nil, "n1:c"},
		{"all baked", composed, composed, nil, "n1:c"},
		{"no number", without(composeNumber), nil, nil, "n1:c"},
		{"no hash", without(composeConfigHash), nil, nil, "n1:c"},
		{"compose run", func() map[string]string {
			m := with(composeOneOff, "True")
			delete(m, composeNumber)
			return m
		}(), nil, nil, "n1:shop/web"},
		{"compose run, Compose 1", oneOff(composeSlug), nil, nil, "n1:shop/web"},
		{"compose run, Compose 1, baked", oneOff(composeSlug), oneOff(composeSlug), nil, "n1:c"},
		{"compose run, Compose 1, slug baked", oneOff(composeSlug), map[string]string{composeSlug: "f00d"}, nil, "n1:c"},
		{"one-off by its own word", oneOff(composeDependsOn), nil, nil, "n1:c"},
		{"no one-off, with a slug", map[string]string{composeProject: "shop", composeService: "web", composeOneOff: "False", composeSlug: "f00d"}, nil, nil, "n1:c"},
		{"swarm", swarmed, nil, nil, "cluster:shop/web"},
		{"swarm, baked", swarmed, swarmed, nil, "n1:c"},
		{"swarm without a stack", map[string]string{swarmServiceID: "s", swarmServiceName: "shop_web", swarmTaskID: "t"}, nil, nil, "cluster:shop_web"},
		{"swarm, stack baked", swarmed, map[string]string{stackNamespace: "shop"}, nil, "cluster:shop_web"},
		{"stranger on a project's network", nil, nil, nil, "n1:c"},
		{"hand-made network", nil, nil, on("dbnet"), "n1:net:dbnet/c"},
		{"hand-made network by ID", nil, nil, on("net2"), "n1:net:dbnet/c"},
		{"default bridge", nil, nil, on("default"), "n1:c"},
		{"default bridge by name", nil, nil, on("bridge"), "n1:c"},
	} {
		w := derive(c.labels, &image{labels: c.baked}, c.change)
		if got := w.Service.Project.Domain + ":" + w.Service.String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if w := derive(composed, nil, nil); w.Compose || w.Service.Project.Name != "" || len(w.Notes) == 0 {
		t.Errorf("image gone: %+v", w)
	}
}

func TestBakedLabels(t *testing.T) {
	img := &image{labels: map[string]string{"gatehouse.mode": "observe", "gatehouse.model": "nginx", "vendor": "x", swarmTaskID: "t", composeProject: "shop"}}
	w := derive(map[string]string{"gatehouse.mode": "observe", "gatehouse.model": "redis", "vendor": "x", swarmTaskID: "t", composeProject: "shop", "own": "1"}, img, nil)
	for key, by := range map[string]policy.Setter{"gatehouse.mode": policy.SetByImage, "gatehouse.model": policy.SetByDeployer, "vendor": policy.SetByImage, "own": policy.SetByDeployer} {
		if w.Labels[key].By != by {
			t.Errorf("%s: %+v", key, w.Labels[key])
		}
	}
	want := []string{"label com.docker.swarm.task.id is baked into the image: ignored"}
	if !slices.Equal(w.Notes, want) {
		t.Errorf("notes: %q", w.Notes)
	}
	merged := addServiceLabels(w.Labels, map[string]string{"gatehouse.mode": "enforce", "own": "2"})
	if merged["gatehouse.mode"] != (policy.Label{Value: "enforce", By: policy.SetByDeployer}) || merged["own"].Value != "1" {
		t.Errorf("service labels: %+v", merged)
	}
}

// Nothing of what a deployer or an image may have written as a secret is in the
// workload, which the API shows whole.
func TestWorkloadHoldsNoSecret(t *testing.T) {
	const secret = "zq7secretzq7"
	labels := map[string]string{
		"traefik.http.middlewares.a.basicauth.users":     "admin:" + secret,
		"caddy.basic_auth.bob":                           secret,
		"vendor.api-token":                               secret,
		"vendor.login.server":                            "admin:" + secret,
		"traefik.http.middlewares.a.forwardauth.address": "http://sso/verify?key=" + secret,
		"backup.target":                                  "postgres://u:" + secret + "@db/x",
		"backup.script":                                  "u:" + secret + "@host",
	}
	img := &image{labels: map[string]string{"build.token": secret}, env: []string{"IMAGE_PASSWORD=" + secret}, entrypoint: []string{"/entry"}}
	w := derive(labels, img, func(s *sight) {
		s.container.Config.Entrypoint = []string{"/entry"}
		s.container.Config.Cmd = []string{secret, "-p", secret, "-p" + secret, "db:5432", "--port", secret, "-x" + secret + "=db:1", "--db=postgres://u:" + secret + "@db/x", secret}
		s.container.Config.Env = []string{"IMAGE_PASSWORD=" + secret, "PORT=u:" + secret + "@h:1", "DB_PASSWORD=" + secret, "DATABASE_URL=postgres://u:" + secret + "@db/x", "ODD=" + secret}
		s.keep = kept{env: set([]string{"PORT", "DB_PASSWORD"}), args: set([]string{"-p", "--port"}), words: set([]string{"serve"})}
		s.service = &swarmService{labels: map[string]string{"vendor.key": secret}}
	})
	w.Labels = addServiceLabels(w.Labels, map[string]string{"vendor.key": secret})
	data, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	if i := strings.Index(string(data), secret); i >= 0 {
		t.Errorf("leaks: ...%s...", data[max(0, i-80):i+len(secret)])
	}
	if len(w.References) < 3 {
		t.Errorf("references were lost: %+v", w.References)
	}
}

func TestManyLabels(t *testing.T) {
	labels := map[string]string{}
	for i := range 100_000 {
		labels[fmt.Sprint("k", i)] = "v"
	}
	if w := derive(labels, &image{labels: labels}, nil); len(w.Labels) != 100_000 || w.Labels["k7"].By != policy.SetByImage {
		t.Error("labels were lost")
	}
}

func TestCoverage(t *testing.T) {
	join := func(networks ...string) func(*sight) {
		return func(s *sight) {
			for _, n := range networks {
				s.endpoints = append(s.endpoints, endpoint{n, dockerclient.Endpoint{ID: "e" + n, IPv4Address: "10.0.0.2/24"}})
			}
		}
	}
	mode := func(m string) func(*sight) {
		return func(s *sight) { s.container.HostConfig.NetworkMode = m; s.byName["web"] = "id-of-web" }
	}
	for _, c := range []struct {
		name, uncovered, shared, note string
		endpoints                     int
		change                        func(*sight)
	}{
		{"bridge", "", "", "", 1, join("net1")},
		{"macvlan only", "macvlan network lan", "", "", 1, join("net4")},
		{"macvlan and bridge", "", "", "endpoint not covered: macvlan network lan", 2, join("net4", "net1")},
		{"host", "network_mode host", "", "", 0, mode("host")},
		{"none", "", "", "", 0, mode("none")},
		{"another's by ID", "", "0123", "", 0, mode("container:0123")},
		{"another's by name", "", "id-of-web", "", 0, mode("container:web")},
	} {
		w := derive(nil, &image{}, c.change)
		if w.Uncovered != c.uncovered || w.SharedWith != c.shared || len(w.Endpoints) != c.endpoints || strings.Join(w.Notes, ";") != c.note {
			t.Errorf("%s: uncovered %q, shared with %q, %d endpoints, notes %q", c.name, w.Uncovered, w.SharedWith, len(w.Endpoints), w.Notes)
		}
	}
}

func TestPorts(t *testing.T) {
	bound := map[dockerclient.Port][]dockerclient.PortBinding{
		"80/tcp":   {{HostIP: "", HostPort: "8080"}},
		"443/tcp":  {{HostIP: "127.0.0.1", HostPort: "8443"}, {HostIP: "::1", HostPort: "8443"}},
		"53/udp":   {{HostIP: "0.0.0.0", HostPort: "0"}}, // the engine will choose
		"99/sctp":  {{HostPort: "99"}},
		"x/tcp":    {{HostPort: "1"}},
		"3000/tcp": {{HostIP: "bad", HostPort: "3000"}},
	}
	w := derive(nil, &image{exposed: map[dockerclient.Port]struct{}{"80/tcp": {}}}, func(s *sight) {
		s.container.HostConfig.PortBindings = bound
		s.container.Config.ExposedPorts = map[dockerclient.Port]struct{}{"80/tcp": {}, "443/tcp": {}, "8000-8010/udp": {}, "99/sctp": {}, "junk": {}}
	})
	var got []string
	for _, p := range w.Published {
		got = append(got, fmt.Sprintf("%s:%d->%s/%d", p.HostIP, p.HostPort, p.Proto, p.Port))
	}
	if want := []string{"0.0.0.0:8080->tcp/80", "127.0.0.1:8443->tcp/443", ":::8080->tcp/80", "::1:8443->tcp/443"}; !slices.Equal(got, want) {
		t.Errorf("published %q", got)
	}
	// 443 is published, not exposed: clients put it among the exposed ones.
	if got := policy.PortsText(w.Exposed); got != "tcp/80,udp/8000-8010" {
		t.Errorf("exposed %s", got)
	}
}

func TestImageDescription(t *testing.T) {
	pulled := newImage(&dockerclient.Image{ID: "sha256:aabbccdd", RepoTags: []string{"postgres:16"}, RepoDigests: []string{"postgres@sha256:" + strings.Repeat("1", 64)}})
	evil := newImage(&dockerclient.Image{ID: "sha256:eeeeffff", RepoTags: []string{"postgres:16", "evil:1"}, RepoDigests: []string{"evil@sha256:" + strings.Repeat("2", 64)}})
	for _, c := range []struct {
		ref                  string
		img                  *image
		id, repo, tag, proof string
	}{
		{"postgres", pulled, "sha256:aabbccdd", "docker.io/library/postgres", "latest", "docker.io/library/postgres"},
		{"postgres:16@sha256:" + strings.Repeat("1", 64), pulled, "sha256:aabbccdd", "docker.io/library/postgres", "16", "docker.io/library/postgres"},
		{"postgres@sha256:" + strings.Repeat("1", 64), pulled, "sha256:aabbccdd", "docker.io/library/postgres", "", "docker.io/library/postgres"},
		{"reg.example.com:5000/a/b:1", nil, "sha256:00", "reg.example.com:5000/a/b", "1", ""},
		{"sha256:aabbccdd", pulled, "sha256:aabbccdd", "docker.io/library/postgres", "", "docker.io/library/postgres"},
		{"aabbcc", pulled, "sha256:aabbccdd", "docker.io/library/postgres", "", "docker.io/library/postgres"},
		{"eeeeff", evil, "sha256:eeeeffff", "", "", "docker.io/library/evil"}, // two names: the deployer said neither
		{"postgres:16", evil, "sha256:eeeeffff", "docker.io/library/postgres", "16", "docker.io/library/evil"},
		{"Not A Reference", nil, "", "", "", ""},
	} {
		got := c.img.describe(c.ref, c.id, true)
		if got.Repository != c.repo || got.Tag != c.tag || got.Ref != c.ref {
			t.Errorf("%s: %+v", c.ref, got)
		}
		if c.proof != "" && (len(got.RepoDigests) != 1 || !strings.HasPrefix(got.RepoDigests[0], c.proof+"@sha256:")) {
			t.Errorf("%s: digests %q", c.ref, got.RepoDigests)
		}
	}
	if classicStore(&dockerclient.DockerInfo{DriverStatus: [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}}}) || !classicStore(&dockerclient.DockerInfo{}) {
		t.Error("image store")
	}
}

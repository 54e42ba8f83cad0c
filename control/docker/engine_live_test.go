package docker

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"gatehouse/policy"
)

// TestEngine watches a real engine through the life of containers of all kinds.
func TestEngine(t *testing.T) {
	needEngine(t)
	img := prefix + "img:1"
	makeImage(t, img, `CMD ["/idle","1h"]`, "EXPOSE 5432", "ENV BAKED_HOST=evil", "LABEL vendor=acme gatehouse.mode=observe com.docker.compose.project=shop tier=internal")
	front := makeNetwork(t, prefix+"front", "--ipv6", "--subnet", "172.31.77.0/24", "--subnet", "fd00:77::/64", "--label", "com.docker.compose.project=shop", "-o", "com.docker.network.bridge.enable_icc=false")
	back := makeNetwork(t, prefix+"back", "--subnet", "172.31.78.0/24")
	old := run(t, prefix+"old", "--network", prefix+"back", img)

	w, inv := start(t, Config{Domain: "n1", KeepEnv: []string{"PGPORT", "DB_PASSWORD"}, KeepArgs: []string{"--port"}})
	s := awaitSynced(t, w, inv)
	status := w.Status()

	before := workloadNamed(s, prefix+"old")
	if before == nil || before.ID != old || !status.RanBefore(*before) {
		t.Fatalf("the container that ran before: %+v", before)
	}
	n := networkNamed(s, prefix+"front")
	if n == nil || n.Owner != (policy.ProjectKey{Domain: "n1", Name: "shop"}) || n.ICC || !n.Guarded || n.System || n.Bridge != "br-"+front[:12] || len(n.Subnets) != 2 || len(n.Gateways) == 0 || n.Zone == 0 {
		t.Errorf("network front: %+v", n)
	}
	if n := networkNamed(s, "bridge"); n == nil || !n.System || n.Bridge != "docker0" {
		t.Errorf("network bridge: %+v", n)
	}
	if n := networkNamed(s, prefix+"back"); n == nil || n.Owner != (policy.ProjectKey{}) || !n.ICC {
		t.Errorf("network back: %+v", n)
	}
	if len(s.Host.Addresses) == 0 || len(s.Host.Resolvers) == 0 {
		t.Errorf("host: %+v", s.Host)
	}

	id := run(t, prefix+"web", "--network", prefix+"front", "--network-alias", "web", "-p", "127.0.0.1:18971:80", "-p", "18972:5432", "--label", "tier=internal", "--label", "vendor=mine",
		"-e", "PGPORT=5433", "-e", "DB_PASSWORD=hunter2", "-e", "DB_HOST=db", "-e", "DB_PORT=3306", "--dns", "192.0.2.53", img, "/idle", "1h", "--port", "7", "--password", "hunter2", "http://u:hunter2@api:80/")
	s = await(t, inv, "web, started", func(s *policy.Snapshot) bool {
		w := workloadNamed(s, prefix+"web")
		return w != nil && !w.Started.IsZero() && len(w.Published) == 3
	})
	web := workloadNamed(s, prefix+"web")
	if web.ID != id || len(web.Endpoints) != 1 || len(web.Endpoints[0].Addresses) != 2 || web.Endpoints[0].Network != front || web.Endpoints[0].MAC == (policy.MAC{}) || !strings.HasPrefix(web.Endpoints[0].Sandbox, "/") {
		t.Errorf("web's endpoints: %+v", web.Endpoints)
	}
	if !slices.Contains(web.Endpoints[0].Aliases, "web") {
		t.Errorf("web's aliases: %v", web.Endpoints[0].Aliases)
	}
	for key, by := range map[string]policy.Setter{"vendor": policy.SetByDeployer, "tier": policy.SetByImage, "gatehouse.mode": policy.SetByImage} {
		if l, ok := web.Labels[key]; !ok || l.By != by {
			t.Errorf("label %s: %+v", key, l)
		}
	}
	if web.Service != (policy.ServiceKey{Project: policy.ProjectKey{Domain: "n1"}, Name: prefix + "web"}) || web.Compose {
		t.Errorf("a stranger with a baked project label is %+v", web.Service)
	}
	if web.Image.Repository != "docker.io/library/"+prefix+"img" || web.Image.Tag != "1" || !web.Image.ClassicStore || len(web.Image.RepoDigests) != 0 {
		t.Errorf("image: %+v", web.Image)
	}
	if !slices.Equal(web.Exposed, []policy.PortRange{policy.Port(policy.ProtoTCP, 5432)}) {
		t.Errorf("exposed: %v", web.Exposed)
	}
	if len(web.DNS) != 1 || web.Env["PGPORT"] != "5433" || len(web.Env) != 1 {
		t.Errorf("dns %v env %v", web.DNS, web.Env)
	}
	if want := []string{"/idle", redacted, "--port", "7", "--password", redacted, redacted}; !slices.Equal(web.Command, want) {
		t.Errorf("command: %q", web.Command)
	}
	for _, want := range []policy.Reference{{Source: "env DB_HOST", Host: "db", Port: 3306}, {Source: "command", Host: "api", Port: 80, Scheme: "http"}, {Source: "dns", Host: "192.0.2.53", Port: 53, Scheme: "dns"}} {
		if !slices.Contains(web.References, want) {
			t.Errorf("no reference %+v in %+v", want, web.References)
		}
	}
	if w.Status().RanBefore(*web) {
		t.Error("web did not run before the watcher")
	}

	docker(t, "network", "connect", "--alias", "late", prefix+"back", prefix+"web")
	s = await(t, inv, "the second endpoint with its alias", func(s *policy.Snapshot) bool {
		w := workloadNamed(s, prefix+"web")
		return w != nil && slices.ContainsFunc(w.Endpoints, func(e policy.Endpoint) bool { return e.Network == back && slices.Contains(e.Aliases, "late") })
	})
	if got := workloadNamed(s, prefix+"web").Service.Project.Name; got != "" {
		t.Errorf("a later network changed the project to %q", got)
	}
	if got := workloadNamed(s, prefix+"old").Service; got.Project.Name != "net:"+prefix+"back" || got.Name != prefix+"old" {
		t.Errorf("old's service: %v", got)
	}
	docker(t, "network", "disconnect", prefix+"back", prefix+"web")
	await(t, inv, "one endpoint again", func(s *policy.Snapshot) bool {
		w := workloadNamed(s, prefix+"web")
		return w != nil && len(w.Endpoints) == 1
	})

	docker(t, "rename", prefix+"web", prefix+"web2")
	await(t, inv, "the new name", func(s *policy.Snapshot) bool { return workloadNamed(s, prefix+"web2") != nil })
	docker(t, "rename", prefix+"web2", prefix+"web")

	side := run(t, prefix+"side", "--network", "container:"+prefix+"web", img)
	run(t, prefix+"hostnet", "--network", "host", img)
	run(t, prefix+"none", "--network", "none", img)
	s = await(t, inv, "side, hostnet, none", func(s *policy.Snapshot) bool {
		return workloadNamed(s, prefix+"side") != nil && workloadNamed(s, prefix+"hostnet") != nil && workloadNamed(s, prefix+"none") != nil
	})
	if got := workloadNamed(s, prefix+"side"); got.ID != side || got.SharedWith != id || len(got.Endpoints) != 0 || got.Uncovered != "" {
		t.Errorf("side: %+v", got)
	}
	if got := workloadNamed(s, prefix+"hostnet"); got.Uncovered != "network_mode host" {
		t.Errorf("hostnet: %q", got.Uncovered)
	}
	if got := workloadNamed(s, prefix+"none"); got.Uncovered != "" || len(got.Endpoints) != 0 {
		t.Errorf("none: %+v", got)
	}

	docker(t, "stop", "-t", "0", prefix+"web")
	await(t, inv, "web gone", func(s *policy.Snapshot) bool { return workloadNamed(s, prefix+"web") == nil })
	docker(t, "start", prefix+"web")
	s = await(t, inv, "web back", func(s *policy.Snapshot) bool {
		w := workloadNamed(s, prefix+"web")
		return w != nil && !w.Started.IsZero()
	})
	if got := workloadNamed(s, prefix+"web"); got.Endpoints[0].Addresses[0] != netip.MustParseAddr("172.31.77.2") {
		t.Errorf("web's addresses: %v", got.Endpoints)
	}
	docker(t, "rm", "-f", prefix+"side", prefix+"web")
	await(t, inv, "web removed", func(s *policy.Snapshot) bool { return workloadNamed(s, prefix+"web") == nil })
	docker(t, "network", "rm", prefix+"front")
	await(t, inv, "front removed", func(s *policy.Snapshot) bool { return networkNamed(s, prefix+"front") == nil })
}

func TestUncoveredMacvlan(t *testing.T) {
	needEngine(t)
	img := prefix + "mv:1"
	makeImage(t, img, `CMD ["/idle"]`)
	t.Cleanup(func() { exec.Command("ip", "link", "del", prefix+"par").Run() })
	if out, err := exec.Command("ip", "link", "add", prefix+"par", "type", "veth", "peer", "name", prefix+"end").CombinedOutput(); err != nil {
		t.Skipf("missing capability: veth: %s", out)
	}
	if out, err := exec.Command("docker", "network", "create", "-d", "macvlan", "-o", "parent="+prefix+"par", "--subnet", "172.31.79.0/24", prefix+"lan").CombinedOutput(); err != nil {
		t.Skipf("missing capability: macvlan: %s", out)
	}
	t.Cleanup(func() { exec.Command("docker", "network", "rm", prefix+"lan").Run() })
	makeNetwork(t, prefix+"mvb")
	w, inv := start(t, Config{})
	awaitSynced(t, w, inv)
	run(t, prefix+"mv", "--network", prefix+"lan", img)
	s := await(t, inv, "a macvlan workload", func(s *policy.Snapshot) bool { return workloadNamed(s, prefix+"mv") != nil })
	if got := workloadNamed(s, prefix+"mv"); got.Uncovered != "macvlan network "+prefix+"lan" || len(got.Endpoints) != 1 {
		t.Errorf("mv: %+v", got)
	}
	docker(t, "network", "connect", prefix+"mvb", prefix+"mv")
	s = await(t, inv, "its bridge endpoint", func(s *policy.Snapshot) bool {
		w := workloadNamed(s, prefix+"mv")
		return w != nil && len(w.Endpoints) == 2
	})
	if got := workloadNamed(s, prefix+"mv"); got.Uncovered != "" || !slices.Contains(got.Notes, "endpoint not covered: macvlan network "+prefix+"lan") {
		t.Errorf("mv: uncovered %q notes %q", got.Uncovered, got.Notes)
	}
}

func TestShortLife(t *testing.T) {
	needEngine(t)
	img := prefix + "short:1"
	makeImage(t, img, `CMD ["/idle","10ms"]`)
	w, inv := start(t, Config{})
	awaitSynced(t, w, inv)
	for i := range 5 {
		out, err := exec.Command("docker", "run", "--rm", "--name", prefix+"short", img).CombinedOutput()
		if err != nil {
			t.Fatalf("run %d: %v %s", i, err, out)
		}
	}
	events := w.Status().Events
	run(t, prefix+"last", img, "/idle", "1h")
	await(t, inv, "only the container that lives", func(s *policy.Snapshot) bool {
		return w.Status().Events > events && workloadNamed(s, prefix+"last") != nil && workloadNamed(s, prefix+"short") == nil
	})
}

package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/control/inventory"
	"gatehouse/policy"
)

// startFake watches a fake engine without reading this machine's files.
func startFake(t *testing.T, f *fakeEngine) (*Watcher, *inventory.Inventory) {
	t.Helper()
	w, inv := start(t, Config{Host: f.host(), DaemonConfig: "testdata/none", ResolvConf: "testdata/none", NetNSDir: "/netns"})
	awaitSynced(t, w, inv)
	return w, inv
}

func service(s *policy.Snapshot, name string) *policy.Workload {
	for i := range s.Workloads {
		if s.Workloads[i].Service.String() == name {
			return &s.Workloads[i]
		}
	}
	return nil
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// Where the disk takes nothing, networks are guarded all the same, and it is told
// until it does.
func TestZonesOnAFullDisk(t *testing.T) {
	f := newFakeEngine(t, "compose")
	dir := t.TempDir()
	state, target := filepath.Join(dir, "state"), filepath.Join(dir, "target")
	if err := os.Symlink(target, state); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(state, "zones.json")
	w, inv := start(t, Config{Host: f.host(), DaemonConfig: "testdata/none", ResolvConf: "testdata/none", NetNSDir: "/netns", ZoneFile: file})
	awaitSynced(t, w, inv)
	n := networkNamed(inv.Snapshot(), "shop_default")
	if n == nil || n.Zone == 0 || !n.Guarded {
		t.Fatalf("the network is %+v", n)
	}
	if s := w.Status(); !strings.Contains(s.Unkept, state) || w.Ready() != nil {
		t.Errorf("told %q, ready: %v", s.Unkept, w.Ready())
	}
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	wp := service(inv.Snapshot(), "shop/wordpress")
	for deadline := time.Now().Add(time.Minute); w.Status().Unkept != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not kept after a minute")
		}
		f.send("network", "connect", n.ID, map[string]string{"container": wp.ID})
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestComposeRecorded(t *testing.T) {
	f := newFakeEngine(t, "compose")
	_, inv := startFake(t, f)
	s := inv.Snapshot()

	n := networkNamed(s, "shop_default")
	if n == nil {
		t.Fatal("no network shop_default")
	}
	want := policy.Network{
		ID: n.ID, Name: "shop_default", Driver: "bridge", Zone: n.Zone,
		Subnets: prefixes("172.31.80.0/24", "fd00:80::/64"), Gateways: addrs("172.31.80.1"),
		Owner: policy.ProjectKey{Domain: f.info["ID"].(string), Name: "shop"}, ICC: true, Bridge: "br-" + n.ID[:12], Guarded: true,
	}
	if d := cmp.Diff(want, *n, cmp.Comparer(equalPrefix), cmp.Comparer(equalAddr)); d != "" || n.Zone == 0 {
		t.Errorf("network: %s", d)
	}

	db, wp := service(s, "shop/db"), service(s, "shop/wordpress")
	if db == nil || wp == nil {
		t.Fatalf("workloads: %+v", s.Workloads)
	}
	for _, w := range []*policy.Workload{db, wp} {
		if !w.Compose || w.Swarm || w.Started.IsZero() || len(w.Notes) != 0 || len(w.Endpoints) != 1 || w.Endpoints[0].Network != n.ID {
			t.Errorf("%s: %+v", w.Name, w)
		}
	}
	if got := wp.Endpoints[0]; !slices.Equal(got.Addresses, addrs("172.31.80.3", "fd00:80::3")) || got.MAC != (policy.MAC{2, 0x42, 0xac, 0x1f, 0x50, 3}) || !slices.Equal(got.Aliases, []string{"wordpress"}) || !strings.HasPrefix(got.Sandbox, "/var/run/docker/netns/") {
		t.Errorf("endpoint: %+v", got)
	}
	if got := texts(wp.References); !slices.Equal(got, []string{"depends_on>db weak", "depends_on>redis weak", "env WORDPRESS_DB_HOST>db:3306"}) {
		t.Errorf("references: %q", got)
	}
	if !slices.Equal(wp.DependsOn, []string{"db", "redis"}) || !slices.Equal(wp.EnvKeys, []string{"WORDPRESS_DB_HOST", "WORDPRESS_DB_PASSWORD"}) {
		t.Errorf("depends on %q, variables %q", wp.DependsOn, wp.EnvKeys)
	}
	published := []policy.Published{
		{HostIP: netip.IPv4Unspecified(), HostPort: 8080, Port: 80, Proto: policy.ProtoTCP},
		{HostIP: netip.IPv6Unspecified(), HostPort: 8080, Port: 80, Proto: policy.ProtoTCP},
	}
	if !slices.Equal(wp.Published, published) || !slices.Equal(wp.Exposed, []policy.PortRange{policy.Port(policy.ProtoTCP, 80)}) {
		t.Errorf("published %v, exposed %v", wp.Published, wp.Exposed)
	}
	if wp.Image.Repository != "docker.io/library/wordpress" || wp.Image.Tag != "6-apache" || wp.Image.Built {
		t.Errorf("image: %+v", wp.Image)
	}
	if len(db.EnvKeys) != 1 || len(db.References) != 0 || len(db.Command) != 0 {
		t.Errorf("db: %+v", db)
	}
	if text, _ := json.Marshal(s); bytes.Contains(text, []byte("hunter2")) {
		t.Error("a password was kept")
	}
}

func equalPrefix(a, b netip.Prefix) bool { return a == b }
func equalAddr(a, b netip.Addr) bool     { return a == b }

func TestSwarmRecorded(t *testing.T) {
	for _, c := range []struct {
		dir, domain string
		manager     bool
	}{{"swarm-manager", "8e1q4rvwxprlcd4pmw96dhhc8", true}, {"swarm-worker", "XMYC:YI57:GNZN:D5SQ:E2US:P4UP:RVFO:YOPK:VA7D:GTJT:RYLS:TMPE", false}} {
		t.Run(c.dir, func(t *testing.T) {
			w, inv := startFake(t, newFakeEngine(t, c.dir))
			s := inv.Snapshot()
			web, db := service(s, "shop/web"), service(s, "shop/db")
			if web == nil || db == nil || !web.Swarm || web.Compose || web.Service.Project.Domain != c.domain {
				t.Fatalf("workloads: %+v", s.Workloads)
			}
			overlay, ingress, gw := networkNamed(s, "shop_default"), networkNamed(s, "ingress"), networkNamed(s, gatewayBridge)
			if overlay.NetNS != "/netns/1-7vsah5afql" || overlay.Bridge != "br0" || overlay.System || overlay.Owner.Name != "shop" || !overlay.Guarded || len(overlay.LB) != 1 {
				t.Errorf("overlay: %+v", overlay)
			}
			if !ingress.Ingress || !ingress.System || ingress.Owner != (policy.ProjectKey{}) {
				t.Errorf("ingress: %+v", ingress)
			}
			if !gw.System || gw.ICC || gw.Bridge != gatewayBridge || gw.NetNS != "" {
				t.Errorf("docker_gwbridge: %+v", gw)
			}
			// The routing mesh has ports to admit, and is no balancer that others hide behind.
			for _, n := range []*policy.Network{ingress, gw} {
				if len(n.Balancers) != 1 || len(n.Balancers[0].Addresses) != 1 || n.Balancers[0].MAC == (policy.MAC{}) || len(n.LB) != 0 {
					t.Errorf("%s: balancers %+v, LB %v", n.Name, n.Balancers, n.LB)
				}
			}
			legs := map[string]bool{}
			for _, e := range web.Endpoints {
				legs[e.Network] = true
			}
			if len(web.Endpoints) != 3 || !legs[overlay.ID] || !legs[ingress.ID] || !legs[gw.ID] || len(db.Endpoints) != 2 {
				t.Errorf("endpoints of web %+v, of db %+v", web.Endpoints, db.Endpoints)
			}
			if setByDeployer(web.Labels, "gatehouse.mode") != c.manager || !setByDeployer(web.Labels, "tier") {
				t.Errorf("labels: %+v", web.Labels)
			}
			host := []policy.Published{
				{HostIP: netip.IPv4Unspecified(), HostPort: 9000, Port: 9000, Proto: policy.ProtoUDP},
				{HostIP: netip.IPv6Unspecified(), HostPort: 9000, Port: 9000, Proto: policy.ProtoUDP},
			}
			if !c.manager {
				if !slices.Equal(web.Published, host) || len(web.VIPs) != 0 || len(web.Notes) != 1 || !strings.Contains(web.Notes[0], "no manager") {
					t.Errorf("a worker's web: published %v VIPs %v notes %q", web.Published, web.VIPs, web.Notes)
				}
				if got := w.Status().Swarm; got != "worker" {
					t.Errorf("status: %q", got)
				}
				return
			}
			mesh := policy.Published{HostIP: netip.IPv4Unspecified(), HostPort: 8080, Port: 80, Proto: policy.ProtoTCP, Ingress: true}
			if !slices.Equal(web.Published, append([]policy.Published{mesh}, host...)) {
				t.Errorf("published: %v", web.Published)
			}
			if got := web.VIPs[overlay.ID]; !slices.Equal(got, addrs("10.0.1.2")) || len(web.VIPs) != 2 || len(db.VIPs) != 0 || len(web.Notes) != 0 {
				t.Errorf("VIPs of web %v, of db %v, notes %q", web.VIPs, db.VIPs, web.Notes)
			}
			if !slices.Equal(s.Host.Nodes, addrs("10.77.0.2")) {
				t.Errorf("nodes: %v", s.Host.Nodes)
			}
		})
	}
}

// TestLostServiceWidensNothing: a task that still runs when its service is removed,
// or its node is no manager any more, keeps what the service was labelled with.
func TestLostServiceWidensNothing(t *testing.T) {
	for name, lose := range map[string]func(*fakeEngine){
		"removed": func(f *fakeEngine) { f.services = json.RawMessage("[]") },
		"demoted": func(f *fakeEngine) {
			f.worker = true
			info := cloneJSON(f.info)
			info["Swarm"].(map[string]any)["ControlAvailable"] = false
			f.info = info
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeEngine(t, "swarm-manager")
			_, inv := startFake(t, f)
			before := service(inv.Snapshot(), "shop/web")
			f.change(func() { lose(f) })
			f.send("service", "remove", "any", nil)
			s := await(t, inv, "the service is told of no more", func(s *policy.Snapshot) bool { return len(service(s, "shop/web").VIPs) == 0 })
			web := service(s, "shop/web")
			if !setByDeployer(before.Labels, "gatehouse.mode") || web.Labels["gatehouse.mode"] != before.Labels["gatehouse.mode"] {
				t.Errorf("labels went from %+v to %+v", before.Labels, web.Labels)
			}
			if slices.ContainsFunc(web.Published, func(p policy.Published) bool { return p.Ingress }) {
				t.Errorf("published: %v", web.Published)
			}
			if len(web.Notes) != 1 || !strings.Contains(web.Notes[0], "told last") {
				t.Errorf("notes: %q", web.Notes)
			}
		})
	}
}

// A fakeContainer is one whose life a test drives.
type fakeContainer struct {
	*fakeEngine
	id, network, endpoint string
}

// newContainer copies the recorded db container under another ID.
func (f *fakeEngine) newContainer(t *testing.T, n int) *fakeContainer {
	t.Helper()
	c := &fakeContainer{fakeEngine: f, id: fmt.Sprintf("%064x", 0xc0ffee000+n)}
	f.change(func() {
		for id, net := range f.networks {
			if net["Name"] == "shop_default" {
				c.network = id
			}
		}
		for _, from := range f.containers {
			if from["Name"] == "/shop-db-1" {
				v := cloneJSON(from)
				v["Id"], v["Name"] = c.id, fmt.Sprintf("/c%d", n)
				v["Config"].(map[string]any)["Labels"] = map[string]any{}
				f.containers[c.id] = v
			}
		}
		c.setState("created")
	})
	return c
}

func cloneJSON(v map[string]any) (out map[string]any) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		panic(err)
	}
	return out
}

func (c *fakeContainer) setState(status string) {
	v := cloneJSON(c.containers[c.id])
	started := "0001-01-01T00:00:00Z"
	if status == "running" {
		started = "2026-01-02T03:04:05Z"
	}
	v["State"] = map[string]any{"Status": status, "Running": status == "running", "StartedAt": started}
	c.containers[c.id] = v
}

// join and leave change the truth of the network; n makes the endpoint's ID and
// address unlike all others.
func (c *fakeContainer) join(n int) {
	c.endpoint = fmt.Sprintf("%064x", 0xe0000+n)
	net := cloneJSON(c.networks[c.network])
	net["Containers"].(map[string]any)[c.id] = map[string]any{
		"Name": "x", "EndpointID": c.endpoint, "MacAddress": "02:42:ac:1f:50:99", "IPv4Address": fmt.Sprintf("172.31.80.%d/24", 10+n%200), "IPv6Address": "",
	}
	c.networks[c.network] = net
}

func (c *fakeContainer) leave() {
	net := cloneJSON(c.networks[c.network])
	delete(net["Containers"].(map[string]any), c.id)
	c.networks[c.network] = net
	c.endpoint = ""
}

func (c *fakeContainer) workload(s *policy.Snapshot) *policy.Workload {
	for i := range s.Workloads {
		if s.Workloads[i].ID == c.id {
			return &s.Workloads[i]
		}
	}
	return nil
}

func (c *fakeContainer) sendNetwork(action string) {
	c.send("network", action, c.network, map[string]string{"container": c.id, "name": "shop_default", "type": "bridge"})
}

func TestPublishedBeforeFirstPacket(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	c := f.newContainer(t, 1)
	c.send("container", "create", c.id, nil)
	awaitInspect(t, f, c.id)

	release := f.block(c.id) // as the engine does from here to the end of the start
	defer release()
	f.change(func() { c.join(1) })
	c.sendNetwork("connect")
	s := await(t, inv, "the endpoint at network connect", func(s *policy.Snapshot) bool {
		w := c.workload(s)
		return w != nil && len(w.Endpoints) == 1
	})
	got := c.workload(s)
	if got.Image.Repository != "docker.io/library/mariadb" || len(got.EnvKeys) == 0 || !got.Started.IsZero() || w.Status().RanBefore(*got) {
		t.Errorf("published with %+v", got)
	}
}

func awaitInspect(t *testing.T, f *fakeEngine, id string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		n := 0
		f.change(func() { n = f.inspects[id] })
		if n > 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never inspected")
}

func TestUnknownMetadataPublishesNothing(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	c := f.newContainer(t, 1)
	release := f.block(c.id) // the start came before the inspect
	c.send("container", "create", c.id, nil)
	f.change(func() { c.join(1); c.setState("running") })
	before := w.Status().Events
	c.sendNetwork("connect")
	c.send("container", "start", c.id, nil)
	await(t, inv, "the events", func(*policy.Snapshot) bool { return w.Status().Events >= before+2 })
	if got := c.workload(inv.Snapshot()); got != nil {
		t.Errorf("published without its metadata: %+v", got)
	}
	release()
	await(t, inv, "the workload after all", func(s *policy.Snapshot) bool {
		w := c.workload(s)
		return w != nil && len(w.Endpoints) == 1 && !w.Started.IsZero()
	})
}

// A container that asks to be enforced shuts its network before anything else
// is known of it, and no longer than that.
func TestNewcomerThatEnforces(t *testing.T) {
	for mode, want := range map[string]bool{"enforce": true, "observe": false} {
		f := newFakeEngine(t, "compose")
		w, inv := startFake(t, f)
		c := f.newContainer(t, 1)
		release := f.block(c.id) // the start came before the inspect
		c.send("container", "create", c.id, map[string]string{"gatehouse.mode": mode})
		f.change(func() { c.join(1); c.setState("running") })
		before := w.Status().Events
		c.sendNetwork("connect")
		newcomer := func(s *policy.Snapshot) bool {
			i := slices.IndexFunc(s.Networks, func(n policy.Network) bool { return n.ID == c.network })
			return i >= 0 && s.Networks[i].Newcomer
		}
		if want {
			await(t, inv, "the network expects it", newcomer)
		} else {
			await(t, inv, "the event", func(*policy.Snapshot) bool { return w.Status().Events > before })
		}
		release()
		s := await(t, inv, "the workload, and nobody else expected", func(s *policy.Snapshot) bool {
			return c.workload(s) != nil && !newcomer(s)
		})
		if got := c.workload(s); len(got.Endpoints) != 1 {
			t.Errorf("%s: %+v", mode, got)
		}
	}
}

// The network still lists a container for a while after it died.
func TestDieWithdraws(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	c := f.newContainer(t, 1)
	f.change(func() { c.join(1); c.setState("running") })
	c.send("container", "create", c.id, nil)
	c.sendNetwork("connect")
	c.send("container", "start", c.id, nil)
	await(t, inv, "the workload", func(s *policy.Snapshot) bool { return c.workload(s) != nil })

	other := f.newContainer(t, 2)
	f.change(func() { c.setState("exited"); other.join(2); other.setState("running") })
	c.send("container", "die", c.id, nil)
	other.send("container", "create", other.id, nil)
	other.sendNetwork("connect") // has the network inspected while it lists the dead
	await(t, inv, "the other workload", func(s *policy.Snapshot) bool { return other.workload(s) != nil })
	if got := c.workload(inv.Snapshot()); got != nil {
		t.Errorf("a dead container has %+v", got.Endpoints)
	}
	f.change(func() { c.leave() })
	c.sendNetwork("disconnect")
	f.change(func() { c.join(3); c.setState("running") }) // restart: always
	c.sendNetwork("connect")
	c.send("container", "start", c.id, nil)
	await(t, inv, "the restarted workload", func(s *policy.Snapshot) bool {
		w := c.workload(s)
		return w != nil && len(w.Endpoints) == 1 && w.Endpoints[0].ID == c.endpoint
	})
	if err := w.Ready(); err != nil {
		t.Error(err)
	}
}

// What was told of a container's last life, such as its sandbox, is not told of
// the next: a port that is admitted there by then would be shut again.
func TestRestartForgetsTheSandbox(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	c := f.newContainer(t, 1)
	f.change(func() { c.join(1); c.setState("running") })
	c.send("container", "create", c.id, nil)
	c.sendNetwork("connect")
	c.send("container", "start", c.id, nil)
	sandbox := func(s *policy.Snapshot) string {
		if w := c.workload(s); w != nil && len(w.Endpoints) == 1 {
			return w.Endpoints[0].Sandbox
		}
		return ""
	}
	s := await(t, inv, "the sandbox", func(s *policy.Snapshot) bool { return sandbox(s) != "" })
	first := sandbox(s)

	late := f.block(c.id) // an answer of this life that comes in the next
	f.change(func() {
		f.inspects[c.id] = 0
		v := cloneJSON(f.containers[c.id])
		v["Name"] = "/renamed"
		f.containers[c.id] = v
	})
	c.send("container", "rename", c.id, nil)
	awaitInspect(t, f, c.id)
	f.change(func() { c.leave() })
	c.send("container", "die", c.id, nil)
	c.sendNetwork("disconnect")
	await(t, inv, "its end", func(s *policy.Snapshot) bool { return c.workload(s) == nil })
	f.change(func() { c.join(2) })
	c.sendNetwork("connect")
	await(t, inv, "the next life", func(s *policy.Snapshot) bool { w := c.workload(s); return w != nil && len(w.Endpoints) == 1 })
	late()
	await(t, inv, "the late answer", func(s *policy.Snapshot) bool { w := c.workload(s); return w != nil && w.Name == "renamed" })
	release := f.block(c.id)
	defer release()
	before := w.Status().Events
	c.send("container", "start", c.id, nil)
	await(t, inv, "the start", func(*policy.Snapshot) bool { return w.Status().Events > before })
	if got := c.workload(inv.Snapshot()); got == nil || len(got.Endpoints) != 1 || got.Endpoints[0].Sandbox != "" || !got.Started.IsZero() {
		t.Errorf("after the start, and before the inspect: %+v, was in %s", got, first)
	}
}

func TestHotConnectAndDisconnect(t *testing.T) {
	f := newFakeEngine(t, "compose")
	_, inv := startFake(t, f)
	wp := service(inv.Snapshot(), "shop/wordpress")
	bridge := networkNamed(inv.Snapshot(), "bridge").ID
	set := func(members map[string]any) {
		net := cloneJSON(f.networks[bridge])
		net["Containers"] = members
		f.networks[bridge] = net
	}
	f.change(func() {
		set(map[string]any{wp.ID: map[string]any{"EndpointID": "e2", "MacAddress": "02:42:ac:11:00:02", "IPv4Address": "172.17.0.2/16"}})
	})
	f.send("network", "connect", bridge, map[string]string{"container": wp.ID})
	await(t, inv, "a second endpoint", func(s *policy.Snapshot) bool { return len(service(s, "shop/wordpress").Endpoints) == 2 })
	f.change(func() { set(map[string]any{}) })
	f.send("network", "disconnect", bridge, map[string]string{"container": wp.ID})
	await(t, inv, "one endpoint", func(s *policy.Snapshot) bool { return len(service(s, "shop/wordpress").Endpoints) == 1 })
}

// A container of an overlay network gets its leg on docker_gwbridge without an event.
func TestGatewayLegWithoutEvent(t *testing.T) {
	f := newFakeEngine(t, "swarm-manager")
	_, inv := startFake(t, f)
	gateway, overlay, id := networkNamed(inv.Snapshot(), gatewayBridge).ID, "", ""
	for _, n := range inv.Snapshot().Networks {
		for _, w := range inv.Snapshot().Workloads {
			for _, e := range w.Endpoints {
				if e.Network == n.ID && n.Driver == "overlay" && !n.Ingress {
					overlay, id = n.ID, w.ID
				}
			}
		}
	}
	legs := func(want int) {
		t.Helper()
		await(t, inv, fmt.Sprint(want, " legs on ", gatewayBridge), func(s *policy.Snapshot) bool {
			n := 0
			for _, w := range s.Workloads {
				for _, e := range w.Endpoints {
					if w.ID == id && e.Network == gateway {
						n++
					}
				}
			}
			return n == want
		})
	}
	set := func(members any) (old any) {
		f.change(func() {
			net := cloneJSON(f.networks[gateway])
			old, net["Containers"] = net["Containers"], members
			f.networks[gateway] = net
		})
		return old
	}
	members := set(map[string]any{})
	f.send("network", "disconnect", overlay, map[string]string{"container": id, "type": "overlay"})
	legs(0)
	set(members)
	f.send("network", "connect", overlay, map[string]string{"container": id, "type": "overlay"})
	legs(1)
}

func TestEngineLostAndBack(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	before := inv.Snapshot()
	zone := networkNamed(before, "shop_default").Zone
	f.stop()
	os.Remove(f.socket)
	await(t, inv, "not ready", func(*policy.Snapshot) bool { return w.Ready() != nil && strings.Contains(w.Ready().Error(), f.socket) })
	if err := w.Ready().Error(); !strings.Contains(err, "stays in force") {
		t.Errorf("Ready: %s", err)
	}
	if inv.Snapshot() != before {
		t.Error("the inventory changed while the engine was away")
	}

	// While nobody looked, db went and another came.
	c := f.newContainer(t, 1)
	f.change(func() {
		db := service(before, "shop/db").ID
		net := cloneJSON(f.networks[c.network])
		delete(net["Containers"].(map[string]any), db)
		f.networks[c.network] = net
		delete(f.containers, db)
		c.join(1)
		c.setState("running")
	})
	f.listen(t)
	s := await(t, inv, "the new state", func(s *policy.Snapshot) bool { return c.workload(s) != nil && w.Ready() == nil })
	if service(s, "shop/db") != nil || service(s, "shop/wordpress") == nil {
		t.Errorf("workloads: %+v", s.Workloads)
	}
	if got := networkNamed(s, "shop_default").Zone; got != zone {
		t.Errorf("the zone went from %d to %d", zone, got)
	}
	if got := w.Status(); got.Connects != 2 || got.Error != "" {
		t.Errorf("status: %+v", got)
	}
}

func TestEngineFailsBehindItsSocket(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	before := inv.Snapshot()
	f.change(func() { f.broken = true })
	f.endStreams()
	await(t, inv, "not ready", func(*policy.Snapshot) bool { return w.Ready() != nil })
	if inv.Snapshot() != before {
		t.Error("the inventory changed")
	}
	f.change(func() { f.broken = false })
	await(t, inv, "ready", func(*policy.Snapshot) bool { return w.Ready() == nil })
}

func TestCannotReach(t *testing.T) {
	dir := t.TempDir()
	refused := dir + "/refused"
	if err := os.WriteFile(refused, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ host, want string }{
		{"unix://" + dir + "/none", dir + "/none: no such socket: start the engine"},
		{"unix://" + refused, refused + ": nobody listens there: start the engine"},
		{"tcp://127.0.0.1:1", "tcp://127.0.0.1:1: nobody listens there"},
	} {
		w, inv := start(t, Config{Host: c.host})
		await(t, inv, "an error", func(*policy.Snapshot) bool { return w.Status().Error != "" })
		if err := w.Ready().Error(); !strings.Contains(err, c.want) {
			t.Errorf("%s: %s", c.host, err)
		}
		if len(inv.Snapshot().Workloads) != 0 {
			t.Error("workloads out of nowhere")
		}
	}
	if got := explain("unix:///var/run/docker.sock", fmt.Errorf("dial: %w", os.ErrPermission)); !strings.Contains(got, "/var/run/docker.sock: permission denied: run the gateway as root") {
		t.Error(got)
	}
}

func TestBadHosts(t *testing.T) {
	for _, host := range []string{"/var/run/docker.sock", "unix://", "ftp://x:1", "tcp://127.0.0.1", "unix:\x00"} {
		if _, err := New(Config{Host: host}, inventory.New()); err == nil || !strings.Contains(err.Error(), "docker host") {
			t.Errorf("%q: %v", host, err)
		}
	}
}

// TestRandomLives drives containers through random lives, tells of them with
// events lost, doubled and out of order, and then lets the stream end: what the
// lists say counts.
func TestRandomLives(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	r := rand.New(rand.NewPCG(3, 4))
	lives := map[string]*fakeContainer{}
	for i := range 40 {
		c := f.newContainer(t, i)
		lives[c.id] = c
	}
	ids := slices.Sorted(maps.Keys(lives))
	var waiting []func()
	tell := func(do func()) {
		switch r.IntN(4) {
		case 0: // lost
		case 1:
			waiting = append(waiting, do) // later
		default:
			do()
		}
		if len(waiting) > 5 {
			i := r.IntN(len(waiting))
			waiting[i]()
			waiting = slices.Delete(waiting, i, i+1)
		}
	}
	for step := range 400 {
		c := lives[ids[r.IntN(len(ids))]]
		if c == nil {
			continue
		}
		switch r.IntN(4) {
		case 0, 1:
			f.change(func() { c.join(step); c.setState("running") })
			tell(func() { c.send("container", "create", c.id, nil) })
			tell(func() { c.sendNetwork("connect") })
			tell(func() { c.send("container", "start", c.id, nil) })
		case 2:
			f.change(func() { c.setState("exited") })
			tell(func() { c.send("container", "die", c.id, nil) })
			f.change(func() { c.leave() })
			tell(func() { c.sendNetwork("disconnect") })
		case 3:
			f.change(func() { c.leave(); delete(f.containers, c.id) })
			tell(func() { c.send("container", "destroy", c.id, nil) })
			delete(lives, c.id)
		}
	}
	lists := w.Status().Lists
	f.endStreams()
	want := map[string]string{}
	for id, c := range lives {
		if c.endpoint != "" {
			want[id] = c.endpoint
		}
	}
	await(t, inv, "the state of the lists", func(s *policy.Snapshot) bool {
		got := map[string]string{}
		for _, w := range s.Workloads {
			if lives[w.ID] != nil || strings.HasPrefix(w.Name, "c") {
				got[w.ID] = ""
				if len(w.Endpoints) > 0 {
					got[w.ID] = w.Endpoints[0].ID
				}
			}
		}
		return w.Status().Lists > lists && maps.Equal(got, want)
	})
}

func TestQuietResync(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	before := inv.Snapshot()
	lists := w.Status().Lists
	f.endStreams()
	await(t, inv, "another list", func(*policy.Snapshot) bool { return w.Status().Lists > lists && w.Ready() == nil })
	if inv.Snapshot() != before {
		t.Error("a list of the same things was a change")
	}
}

// What models ask for changes with the operator's files: then values that were
// left out are read, and those that nobody asks for any more are gone.
func TestKeepReadsAgain(t *testing.T) {
	f := newFakeEngine(t, "compose")
	w, inv := startFake(t, f)
	env := func(s *policy.Snapshot) map[string]string { return service(s, "shop/wordpress").Env }
	if got := env(inv.Snapshot()); len(got) != 0 {
		t.Fatalf("kept unasked: %v", got)
	}
	w.Keep([]string{"NOTHING"}, nil, nil)
	w.Keep([]string{"WORDPRESS_DB_HOST", "WORDPRESS_DB_PASSWORD"}, nil, nil) // the last one counts
	await(t, inv, "the value", func(s *policy.Snapshot) bool { return env(s)["WORDPRESS_DB_HOST"] == "db:3306" })
	if text, _ := json.Marshal(inv.Snapshot()); bytes.Contains(text, []byte("hunter2")) {
		t.Error("a password was kept because a model asked for it")
	}
	w.Keep(nil, nil, nil)
	await(t, inv, "the value's end", func(s *policy.Snapshot) bool { return len(env(s)) == 0 })
}

package docker

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dockerclient "github.com/fsouza/go-dockerclient"
	"github.com/google/go-cmp/cmp"

	"gatehouse/control/inventory"
	"gatehouse/policy"
)

// startNodes watches a recorded node of a Swarm of three; manager is whom it asks.
func startNodes(t *testing.T, f, manager *fakeEngine) (*Watcher, *inventory.Inventory) {
	t.Helper()
	c := Config{Host: f.host(), DaemonConfig: "testdata/none", ResolvConf: "testdata/none", NetNSDir: "/netns"}
	if manager != nil {
		c.Manager = manager.host()
	}
	w, inv := start(t, c)
	awaitSynced(t, w, inv)
	return w, inv
}

// away are the workloads of other nodes, by service and node: their addresses.
func away(s *policy.Snapshot) map[string]string {
	out := map[string]string{}
	for _, w := range s.Workloads {
		if w.Node == "" {
			continue
		}
		var on []string
		for _, e := range w.Endpoints {
			for _, a := range e.Addresses {
				on = append(on, a.String())
			}
		}
		out[w.Service.String()+" on "+w.Node] = strings.Join(on, " ")
	}
	return out
}

// TestOtherNodesRecorded: the first state already has what runs on other nodes, by
// name on a worker, and as a manager tells of it where one is asked.
func TestOtherNodesRecorded(t *testing.T) {
	onManager := map[string]string{"alone on 10.77.0.3": "10.0.1.10", "shop/client on 10.77.0.3": "10.0.1.8", "shop/vip on 10.77.0.2": "10.0.1.7", "shop/web on 10.77.0.2": "10.0.1.2"}
	onWorker := map[string]string{"shop/vip on 10.77.0.2": "10.0.1.7", "shop/web on 10.77.0.1": "10.0.1.3", "shop/web on 10.77.0.2": "10.0.1.2"}
	for name, c := range map[string]struct {
		dir   string
		ask   bool
		away  map[string]string
		image string // of shop/web on node 2
		nodes []netip.Addr
	}{
		"manager":             {dir: "swarm-nodes-manager", away: onManager, image: "localhost/demo/app:1", nodes: addrs("10.77.0.2", "10.77.0.3")},
		"worker":              {dir: "swarm-nodes-worker", away: onWorker, nodes: addrs("10.77.0.1", "10.77.0.2")},
		"worker that may ask": {dir: "swarm-nodes-worker", away: onWorker, ask: true, image: "localhost/demo/app:1", nodes: addrs("10.77.0.1", "10.77.0.2")},
	} {
		t.Run(name, func(t *testing.T) {
			var manager *fakeEngine
			if c.ask {
				manager = newFakeEngine(t, "swarm-nodes-manager")
			}
			_, inv := startNodes(t, newFakeEngine(t, c.dir), manager)
			s := inv.Snapshot()
			if diff := cmp.Diff(c.away, away(s)); diff != "" {
				t.Errorf("on other nodes:\n%s", diff)
			}
			var web *policy.Workload
			for i := range s.Workloads {
				if w := &s.Workloads[i]; w.Service.String() == "shop/web" && w.Node == "10.77.0.2" {
					web = w
				}
			}
			if web == nil || !web.Swarm || web.Image.Ref != c.image || len(web.Endpoints) != 1 || web.Endpoints[0].MAC != (policy.MAC{}) {
				t.Fatalf("shop/web on node 2: %+v", web)
			}
			if told := len(web.Notes) == 0; told != (c.image != "") {
				t.Errorf("notes: %q", web.Notes)
			}
			if !slices.Equal(s.Host.Nodes, c.nodes) {
				t.Errorf("nodes %v, want %v", s.Host.Nodes, c.nodes)
			}
			client := service(s, "shop/client")
			if client == nil || c.image != "" && len(client.References) != 1 {
				t.Errorf("shop/client, wherever it runs: %+v", client)
			}
			vip := service(s, "shop/vip")
			if overlay := networkNamed(s, "shop_default"); vip == nil || len(vip.VIPs[overlay.ID]) != 1 {
				t.Errorf("shop/vip: %+v", vip)
			}
		})
	}
}

// gossipOf edits what the fake's engine tells of shop_default's services.
func (f *fakeEngine) gossipOf(edit func(services map[string]any)) {
	f.change(func() {
		for id, n := range f.networks {
			if n["Name"] == "shop_default" {
				n = cloneJSON(n)
				edit(n["Services"].(map[string]any))
				f.networks[id] = n
			}
		}
	})
}

func taskAt(name, endpoint, address, node string) map[string]any {
	return map[string]any{"VIP": "<nil>", "Tasks": []any{map[string]any{"Name": name + ".1.x", "EndpointID": endpoint, "EndpointIP": address, "Info": map[string]any{"Host IP": node}}}}
}

// at are the services at an address, of all nodes.
func at(s *policy.Snapshot, address string) (out []string) {
	for _, w := range s.Workloads {
		for _, e := range w.Endpoints {
			if slices.Contains(e.Addresses, netip.MustParseAddr(address)) {
				out = append(out, w.Service.String())
			}
		}
	}
	return out
}

// TestRemoteAddressMoves: an address that another service's task has now is not the
// old one's any more, and one that is somebody's here is no other node's to claim.
func TestRemoteAddressMoves(t *testing.T) {
	f := newFakeEngine(t, "swarm-nodes-worker")
	_, inv := startNodes(t, f, nil)
	f.gossipOf(func(s map[string]any) {
		clear(s)
		s["shop_db"] = taskAt("shop_db", "e1", "10.0.1.77", "10.77.0.2")
		s["shop_cache"] = taskAt("shop_cache", "e2", "10.0.1.78", "10.77.0.2")
	})
	await(t, inv, "both are where they are", func(s *policy.Snapshot) bool {
		return slices.Equal(at(s, "10.0.1.77"), []string{"shop/db"}) && slices.Equal(at(s, "10.0.1.78"), []string{"shop/cache"}) && service(s, "shop/web") == nil
	})
	f.gossipOf(func(s map[string]any) {
		delete(s, "shop_db")
		s["shop_evil"] = taskAt("shop_evil", "e3", "10.0.1.77", "10.77.0.1")
	})
	await(t, inv, "the address is another's", func(s *policy.Snapshot) bool {
		return slices.Equal(at(s, "10.0.1.77"), []string{"shop/evil"}) && service(s, "shop/db") == nil
	})

	s := inv.Snapshot()
	mine := service(s, "shop/client")
	overlay := networkNamed(s, "shop_default")
	var own string
	for _, e := range mine.Endpoints {
		if e.Network == overlay.ID {
			own = e.Addresses[0].String()
		}
	}
	f.gossipOf(func(s map[string]any) {
		s["shop_thief"] = taskAt("shop_thief", "e4", own, "10.77.0.2")
		s["shop_router"] = taskAt("shop_router", "e5", "10.0.1.1", "10.77.0.2")
		s["shop_host"] = taskAt("shop_host", "e6", "10.77.0.1", "10.77.0.2")
		s["shop_nowhere"] = taskAt("shop_nowhere", "e7", "10.0.1.90", "")
		s["shop_mine"] = taskAt("shop_mine", "e8", "10.0.1.91", "10.77.0.3") // says to run here
		s["shop_last"] = taskAt("shop_last", "e9", "10.0.1.92", "10.77.0.2")
	})
	s = await(t, inv, "the last of them", func(s *policy.Snapshot) bool { return service(s, "shop/last") != nil })
	for _, name := range []string{"thief", "router", "host", "nowhere", "mine"} {
		if w := service(s, "shop/"+name); w != nil {
			t.Errorf("%s: %+v", name, w)
		}
	}
	if got := at(s, own); !slices.Equal(got, []string{"shop/client"}) {
		t.Errorf("at the client's address: %v", got)
	}
}

// TestCutOffNode: what an engine tells of nobody any more is nobody's; where it does
// not answer, what it told last stands.
func TestCutOffNode(t *testing.T) {
	f := newFakeEngine(t, "swarm-nodes-manager")
	_, inv := startNodes(t, f, nil)
	before := away(inv.Snapshot())
	if len(before) == 0 {
		t.Fatal("nobody is away")
	}
	f.change(func() { f.deaf = true })
	time.Sleep(2 * askRemotesEvery)
	if diff := cmp.Diff(before, away(inv.Snapshot())); diff != "" {
		t.Errorf("unanswered:\n%s", diff)
	}
	f.gossipOf(func(s map[string]any) { clear(s) })
	f.change(func() { f.deaf = false })
	await(t, inv, "nobody is away", func(s *policy.Snapshot) bool { return len(away(s)) == 0 })
}

// TestDemotedNodeKnowsOthers: a node that is no manager any more, or whose manager
// knows a service no more, keeps what it was told of tasks that still run elsewhere.
func TestDemotedNodeKnowsOthers(t *testing.T) {
	f := newFakeEngine(t, "swarm-nodes-manager")
	w, inv := startNodes(t, f, nil)
	before := service(inv.Snapshot(), "shop/client")
	f.change(func() {
		f.worker = true
		info := cloneJSON(f.info)
		info["Swarm"].(map[string]any)["ControlAvailable"] = false
		f.info = info
	})
	f.send("node", "update", "any", nil)
	await(t, inv, "no manager any more", func(*policy.Snapshot) bool { return w.Status().Swarm == "worker" })
	after := await(t, inv, "a task that is told of no more", func(s *policy.Snapshot) bool {
		c := service(s, "shop/client")
		return c != nil && len(c.Notes) > 0
	})
	if c := service(after, "shop/client"); c.Image.Ref != before.Image.Ref || len(c.References) != 1 || !strings.Contains(c.Notes[0], "told last") {
		t.Errorf("%+v", c)
	}
	f.gossipOf(func(s map[string]any) { delete(s, "shop_client") })
	await(t, inv, "its task is gone", func(s *policy.Snapshot) bool { return service(s, "shop/client") == nil })
}

// TestBalancersOfOtherNodes: of the addresses without a name behind one node's end of
// the tunnel the one that is known for longest is its balancer's. Whoever comes later,
// a task that is not healthy, is nobody, however long; so is who had a name, and where
// two came about together, both are.
func TestBalancersOfOtherNodes(t *testing.T) {
	near, far := netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")
	begin := time.Now()
	// at is an address behind a node, which the kernel has since so many seconds.
	at := func(address string, node netip.Addr, since time.Duration) tunnelled {
		return tunnelled{netip.MustParseAddr(address), node, begin.Add(since * time.Second), false}
	}
	aged := func(n tunnelled) tunnelled { n.aged = true; return n }
	const wraps = ageWraps / time.Second
	again := func(n tunnelled, times time.Duration) tunnelled { n.since = n.since.Add(times * ageWraps); return n }
	a, b, c := at("10.0.1.4", near, 0), at("10.0.1.5", near, 20), at("10.0.1.6", far, 20)
	task := remote{name: "shop_vip.1.x", address: b.address}
	type step struct {
		after time.Duration // the beginning, in seconds
		peers []tunnelled
		named []remote
		want  []netip.Addr
	}
	for name, steps := range map[string][]step{
		"one": {{9, []tunnelled{a}, nil, nil}, {10, []tunnelled{a}, nil, addrs("10.0.1.4")}},
		"a task that is not healthy comes, and stays": {
			{20, []tunnelled{a, b, c}, nil, addrs("10.0.1.4")}, {29, []tunnelled{c, b, a}, nil, addrs("10.0.1.4")},
			{3600, []tunnelled{a, b, c}, nil, addrs("10.0.1.4", "10.0.1.6")}, {3601, []tunnelled{b}, nil, addrs("10.0.1.5")}},
		"the gateway starts later":   {{3600, []tunnelled{b, a}, nil, addrs("10.0.1.4")}},
		"they came together":         {{3600, []tunnelled{at("10.0.1.4", near, 15), b}, nil, nil}, {3601, []tunnelled{at("10.0.1.4", near, 15), b}, []remote{task}, addrs("10.0.1.4")}},
		"one that had a name":        {{20, []tunnelled{at("10.0.1.4", near, 15), b}, []remote{task}, nil}, {3600, []tunnelled{at("10.0.1.4", near, 15), b}, nil, addrs("10.0.1.4")}, {7200, []tunnelled{at("10.0.1.4", near, 15), b}, nil, addrs("10.0.1.4")}},
		"one that had a name, alone": {{20, []tunnelled{b}, []remote{task}, nil}, {3600, []tunnelled{b}, nil, nil}, {7200, []tunnelled{b}, nil, nil}},
		"its age begins at 0 again": {
			{3600, []tunnelled{a, b}, nil, addrs("10.0.1.4")}, {wraps + 5, []tunnelled{again(a, 1), b}, nil, addrs("10.0.1.4")},
			{wraps + 3600, []tunnelled{again(a, 1), again(b, 1)}, nil, addrs("10.0.1.4")},
			{2*wraps + 5, []tunnelled{again(a, 2), again(b, 1)}, nil, addrs("10.0.1.4")}},
		"it did, perhaps, before the gateway started": {
			{3600, []tunnelled{aged(a), aged(b)}, nil, nil}, {3601, []tunnelled{aged(a), aged(b)}, []remote{task}, addrs("10.0.1.4")},
			{3700, []tunnelled{aged(a), aged(at("10.0.1.5", near, 3650))}, nil, addrs("10.0.1.4")}},
		"it did, perhaps, and is alone":   {{3600, []tunnelled{aged(a)}, nil, addrs("10.0.1.4")}},
		"the balancer goes, its heir not": {{3600, []tunnelled{a}, nil, addrs("10.0.1.4")}, {3700, []tunnelled{at("10.0.1.4", near, 3699)}, nil, nil}, {3710, []tunnelled{at("10.0.1.4", near, 3699)}, nil, addrs("10.0.1.4")}},
	} {
		o := &overlay{}
		for i, s := range steps {
			now := begin.Add(s.after * time.Second)
			o.follow(answer{gossip: gossip{members: s.named, vips: map[string]netip.Addr{"shop_vip": netip.MustParseAddr("10.0.1.3")}}, looked: now, peers: s.peers}, now)
			if !slices.Equal(o.balancers, s.want) {
				t.Errorf("%s, step %d: %v, want %v", name, i, o.balancers, s.want)
			}
		}
	}
}

// TestMeshOfOtherNodes: the routing mesh's ends on other nodes are no balancers, or what
// comes in by another node's published port would not be let in.
func TestMeshOfOtherNodes(t *testing.T) {
	w, err := New(Config{}, inventory.New())
	if err != nil {
		t.Fatal(err)
	}
	s := &session{Watcher: w}
	s.state.swarm = swarmState{active: true, ingress: map[string]bool{"ingress": true}}
	for id, want := range map[string][]netip.Addr{"shop_default": addrs("10.0.0.3"), "ingress": nil} {
		n := &network{id: id, info: &dockerclient.Network{ID: id, Name: id, Driver: "overlay"}}
		s.state.networks[id], s.state.remotes[id] = n, &overlay{balancers: addrs("10.0.0.3")}
		if !s.describe(n) || !slices.Equal(s.state.described[id].LB, want) {
			t.Errorf("%s: balancers %v, want %v", id, s.state.described[id].LB, want)
		}
	}
}

// TestKernelPeers: the overlay's tables as the engine fills them, read from the kernel.
func TestKernelPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces")
	}
	name := fmt.Sprintf("gh-peers-%d", os.Getpid())
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	ip("ip", "netns", "add", name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	in := func(args ...string) { t.Helper(); ip(append([]string{"ip", "netns", "exec", name}, args...)...) }
	in("ip", "link", "add", "vxlan0", "type", "vxlan", "id", "4097", "dstport", "4789", "proxy", "l2miss", "l3miss")
	in("ip", "link", "set", "vxlan0", "up")
	for i, at := range []string{"10.77.0.2", "10.77.0.1"} {
		mac := fmt.Sprintf("02:42:0a:00:01:%02x", 7-i)
		in("bridge", "fdb", "add", mac, "dev", "vxlan0", "dst", at, "self", "permanent")
		in("ip", "neigh", "add", fmt.Sprintf("10.0.1.%d", 7-i), "lladdr", mac, "dev", "vxlan0", "nud", "permanent")
	}
	in("ip", "neigh", "add", "10.0.1.9", "lladdr", "02:42:0a:00:01:09", "dev", "vxlan0", "nud", "permanent") // behind nobody's end

	got, err := kernelPeers("/var/run/netns/"+name, time.Now())
	slices.SortFunc(got, func(a, b tunnelled) int { return a.address.Compare(b.address) })
	want := [][2]netip.Addr{{netip.MustParseAddr("10.0.1.6"), netip.MustParseAddr("10.77.0.1")}, {netip.MustParseAddr("10.0.1.7"), netip.MustParseAddr("10.77.0.2")}}
	if err != nil || !slices.EqualFunc(got, want, func(p tunnelled, w [2]netip.Addr) bool { return p.address == w[0] && p.node == w[1] }) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	in("ip", "neigh", "del", "10.0.1.6", "dev", "vxlan0")
	time.Sleep(5 * clockTick)
	in("ip", "neigh", "add", "10.0.1.6", "lladdr", "02:42:0a:00:01:06", "dev", "vxlan0", "nud", "permanent")
	again, err := kernelPeers("/var/run/netns/"+name, time.Now())
	slices.SortFunc(again, func(a, b tunnelled) int { return a.address.Compare(b.address) })
	if err != nil || len(again) != 2 || again[0].since.Sub(again[1].since) < 3*clockTick || again[0].since.Sub(got[0].since) < 3*clockTick {
		t.Errorf("%v %v: one of them is there for less long", again, err)
	}
}

// TestManagerThatDoesNotAnswer: a worker whose manager is away knows what it would
// without one, and asks for no whole list again and again.
func TestManagerThatDoesNotAnswer(t *testing.T) {
	f := newFakeEngine(t, "swarm-nodes-worker")
	_, alone := startNodes(t, newFakeEngine(t, "swarm-nodes-worker"), nil)
	w, inv := start(t, Config{Host: f.host(), DaemonConfig: "testdata/none", ResolvConf: "testdata/none", NetNSDir: "/netns", Manager: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	awaitSynced(t, w, inv)
	want, got := alone.Snapshot(), inv.Snapshot()
	if diff := cmp.Diff(away(want), away(got)); diff != "" || len(away(got)) == 0 {
		t.Errorf("on other nodes:\n%s", diff)
	}
	if !slices.Equal(got.Host.Nodes, want.Host.Nodes) || w.Status().Swarm != "worker" {
		t.Errorf("nodes %v, %q", got.Host.Nodes, w.Status().Swarm)
	}
	lists := w.Status().Lists
	time.Sleep(2*retryAfter + time.Second/2)
	if again := w.Status().Lists; again > lists+1 {
		t.Errorf("%d lists, then %d", lists, again)
	}
}

// TestImageIsNoServiceElsewhere: a container whose image says that it is a task of a
// Swarm service tells nothing of that service's tasks on other nodes.
func TestImageIsNoServiceElsewhere(t *testing.T) {
	f := newFakeEngine(t, "swarm-nodes-worker")
	_, inv := startNodes(t, f, nil)
	before := service(inv.Snapshot(), "shop/web")
	id := strings.Repeat("0", 64)
	f.change(func() {
		for _, from := range slices.Collect(maps.Values(f.containers)) {
			if from["Name"] != "/alone" {
				continue
			}
			c, image := cloneJSON(from), cloneJSON(f.images[from["Image"].(string)])
			labels := map[string]any{swarmServiceID: "x", swarmServiceName: "shop_web", swarmTaskID: "t"}
			c["Id"], c["Name"], c["Image"], image["Id"] = id, "/evil", "sha256:"+id, "sha256:"+id
			c["Config"].(map[string]any)["Labels"], image["Config"].(map[string]any)["Labels"] = labels, labels
			f.containers[id], f.images["sha256:"+id] = c, image
		}
	})
	f.send("container", "create", id, nil)
	f.send("container", "start", id, nil)
	await(t, inv, "it runs", func(s *policy.Snapshot) bool {
		return slices.ContainsFunc(s.Workloads, func(w policy.Workload) bool { return w.Name == "evil" })
	})
	time.Sleep(2 * askRemotesEvery)
	if after := service(inv.Snapshot(), "shop/web"); after == nil || !cmp.Equal(before.Image, after.Image) || len(after.VIPs) != len(before.VIPs) {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
}

// TestUnchangedGossip: what other nodes' gossip names is described anew although it
// says what it said, in another order, when what tells of it here has changed.
func TestUnchangedGossip(t *testing.T) {
	f := newFakeEngine(t, "swarm-nodes-worker")
	_, inv := startNodes(t, f, nil)
	image := func(s *policy.Snapshot) string {
		for _, w := range s.Workloads {
			if w.Service.String() == "shop/web" && w.Node == "10.77.0.2" {
				return w.Image.Ref
			}
		}
		return "gone"
	}
	if got := image(inv.Snapshot()); got != "" {
		t.Fatalf("shop/web is known as %q", got)
	}
	id := strings.Repeat("0", 64)
	f.change(func() {
		for _, from := range slices.Collect(maps.Values(f.containers)) {
			if from["Name"] == "/alone" {
				c := cloneJSON(from)
				c["Id"], c["Name"] = id, "/shop_web.3.x"
				c["Config"].(map[string]any)["Labels"] = map[string]any{swarmServiceID: "x", swarmServiceName: "shop_web", swarmTaskID: "t", "com.docker.stack.namespace": "shop"}
				f.containers[id] = c
			}
		}
	})
	f.send("container", "create", id, nil)
	f.send("container", "start", id, nil)
	await(t, inv, "a task here tells what it is", func(s *policy.Snapshot) bool { return image(s) == "localhost/demo/app:1" })
	time.Sleep(2 * askRemotesEvery)
	f.change(func() { delete(f.containers, id) })
	f.send("container", "destroy", id, nil)
	await(t, inv, "nobody tells any more", func(s *policy.Snapshot) bool { return image(s) == "" })
}

// TestVIPsOfOtherNodes: a virtual address that other nodes tell of is not somebody's
// here, and of its network.
func TestVIPsOfOtherNodes(t *testing.T) {
	f := newFakeEngine(t, "swarm-nodes-worker")
	_, inv := startNodes(t, f, nil)
	s := inv.Snapshot()
	overlay := networkNamed(s, "shop_default")
	var own string
	for _, e := range service(s, "shop/client").Endpoints {
		if e.Network == overlay.ID {
			own = e.Addresses[0].String()
		}
	}
	told := func(name, vip string) map[string]any {
		at := taskAt(name, name, map[string]string{"shop_thief": "10.0.1.80", "shop_far": "10.0.1.81", "shop_good": "10.0.1.82"}[name], "10.77.0.2")
		at["VIP"] = vip
		return at
	}
	f.gossipOf(func(s map[string]any) {
		s["shop_thief"], s["shop_far"], s["shop_good"] = told("shop_thief", own), told("shop_far", "198.51.100.7"), told("shop_good", "10.0.1.99")
	})
	s = await(t, inv, "all are there", func(s *policy.Snapshot) bool {
		return service(s, "shop/thief") != nil && service(s, "shop/far") != nil && service(s, "shop/good") != nil
	})
	for name, want := range map[string]int{"shop/thief": 0, "shop/far": 0, "shop/good": 1} {
		if w := service(s, name); len(w.VIPs) != want {
			t.Errorf("%s: %v", name, w.VIPs)
		}
	}
}

func TestManagerClient(t *testing.T) {
	for host, ok := range map[string]bool{
		"": true, "unix:///run/manager.sock": true, "tcp://127.0.0.1:2375": true, "tcp://[::1]:2375": true,
		"tcp://10.77.0.1:2375": false, "tcp://manager:2375": false, "http://10.77.0.1": false, "unix://": false, "tcp://10.77.0.1": false,
	} {
		if _, err := managerClient(host, ""); (err == nil) != ok {
			t.Errorf("%q: %v", host, err)
		}
	}
	if _, err := managerClient("tcp://10.77.0.1:2376", t.TempDir()); err == nil {
		t.Error("no certificates, and no error")
	}
}

// FuzzGossip: an engine's answer, which other nodes have a say in, never panics, and
// nothing in it is taken for what runs here.
func FuzzGossip(f *testing.F) {
	files, err := filepath.Glob("testdata/swarm-nodes-*/network-*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"Services":{"a":{"VIP":"x","Tasks":[{"Name":"n","EndpointID":"e","EndpointIP":"::1","Info":null}]}},"Peers":[{"IP":"10.77.0.3"}]}`))
	own := netip.MustParseAddr("10.77.0.3")
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := decodeGossip(data, own)
		if err != nil {
			return
		}
		for _, m := range g.members {
			if !m.address.IsValid() || m.node == own.String() || m.name == "" || m.endpoint == "" {
				t.Fatalf("%+v", m)
			}
		}
		if slices.Contains(g.nodes, own) {
			t.Fatal("this node is another")
		}
		for _, vip := range maps.All(g.vips) {
			if !vip.IsValid() {
				t.Fatal("an empty VIP")
			}
		}
	})
}

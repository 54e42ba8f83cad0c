package models

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"gatehouse/control/compose"
	"gatehouse/control/docker"
	"gatehouse/policy"
)

// The stacks below testdata/stacks are Compose files ("NAME.compose.yaml", or
// compose.yaml for a project of the folder's name) and stack files
// ("NAME.stack.yaml") as their software's documentation has them. flows.txt lists
// what each needs, and what nobody may do; testdata/golden/stack-NAME.txt the
// statements that follow with nothing configured.
func TestStacks(t *testing.T) {
	dirs, err := os.ReadDir("testdata/stacks")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		n++
		t.Run(d.Name(), func(t *testing.T) {
			s := openStack(t, d.Name())
			golden(t, "stack-"+d.Name(), s.statements, s.findings)
			s.judgeFlows(t)
			s.judgeStrangers(t)
		})
	}
	if n < 11 {
		t.Errorf("%d stacks", n)
	}
}

// stack is one folder, generated and compiled with every service enforcing.
type stack struct {
	name       string
	snap       policy.Snapshot
	statements []policy.Statement
	findings   []Finding
	table      *policy.Table
}

func openStack(t *testing.T, name string) *stack {
	t.Helper()
	s := &stack{name: name, snap: loadStack(t, name)}
	s.compile(t)
	return s
}

func loadStack(t *testing.T, name string) policy.Snapshot {
	t.Helper()
	dir := filepath.Join("testdata", "stacks", name)
	var files []compose.File
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		switch base := filepath.Base(p); {
		case base == "compose.yaml":
			files = append(files, compose.File{Paths: []string{p}, Name: name})
		case strings.HasSuffix(base, ".compose.yaml"):
			files = append(files, compose.File{Paths: []string{p}, Name: strings.TrimSuffix(base, ".compose.yaml")})
		case strings.HasSuffix(base, ".stack.yaml"):
			files = append(files, compose.File{Paths: []string{p}, Name: strings.TrimSuffix(base, ".stack.yaml"), Stack: true})
		}
	}
	data, err := os.ReadFile("testdata/stacks/images.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var images map[string]compose.Image
	if err := yaml.Unmarshal(data, &images); err != nil {
		t.Fatal(err)
	}
	l := builtinLibrary(t)
	snap, err := compose.Load(context.Background(), files, compose.Options{
		Images: images, Keep: docker.Keep{Env: l.EnvKeys(), Args: l.ArgKeys(), Words: l.CommandWords()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func (s *stack) compile(t *testing.T) {
	t.Helper()
	p := Groups(builtinLibrary(t), &s.snap, Settings{DefaultMode: policy.Enforce}, policy.NewIdentities())
	s.statements, s.findings = Generate(p)
	var err error
	if s.table, err = policy.Compile(policy.Input{Epoch: 1, Snapshot: &s.snap, Groups: p.Groups, Statements: s.statements}); err != nil {
		t.Fatal(err)
	}
}

// flow is one line of flows.txt: "yes FROM -> TO PROTO/PORT APP".
type flow struct {
	line     string
	want     bool
	from, to string
	port     policy.PortRange
	app      policy.App
}

var flowPattern = regexp.MustCompile(`^(yes|no) (\S+) -> (\S+) (tcp|udp)/(\d+) (\S+)$`)

func (s *stack) flows(t *testing.T) []flow {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "stacks", s.name, "flows.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var out []flow
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := flowPattern.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("%q: want yes|no FROM -> TO PROTO/PORT APP", line)
		}
		port, err := policy.ParsePortRange(m[4] + "/" + m[5])
		if err != nil {
			t.Fatal(err)
		}
		app, ok := policy.ParseApp(m[6])
		if !ok && m[6] != "unknown" {
			t.Fatalf("%q: no application %s", line, m[6])
		}
		if !ok {
			app = policy.AppUnknown
		}
		out = append(out, flow{line, m[1] == "yes", m[2], m[3], port, app})
	}
	if len(out) == 0 {
		t.Fatal("no flows")
	}
	return out
}

func (s *stack) judgeFlows(t *testing.T) {
	t.Helper()
	needed := 0
	for _, f := range s.flows(t) {
		if f.want {
			needed++
		}
		if name, ok := strings.CutPrefix(f.to, "name:"); ok {
			if got := s.names(f, name); got != f.want {
				t.Errorf("%s: a statement for the name: %v", f.line, got)
			}
			continue
		}
		queries := s.queries(t, f)
		for _, q := range queries {
			if got := s.allows(q, f.app); got != f.want {
				t.Errorf("%s: allowed %v (%+v)", f.line, got, s.table.Lookup(q).Judge(policy.Spoken{App: f.app}))
			}
		}
	}
	if needed == 0 {
		t.Error("the stack needs nothing?")
	}
}

func (s *stack) allows(q policy.Query, app policy.App) bool {
	return s.table.Lookup(q).Judge(policy.Spoken{App: app}).Verdict == policy.Allow
}

// names reports whether a statement gives the service that name on that port.
// The address behind a name is nothing that a table without answers knows.
func (s *stack) names(f flow, name string) bool {
	spoken := policy.Spoken{App: f.app}
	return slices.ContainsFunc(s.statements, func(st policy.Statement) bool {
		return st.From[0].String() == f.from && st.To[0].Kind == policy.PeerName && st.To[0].Name == name &&
			portsOverlap(st.Ports, []policy.PortRange{f.port}) && st.App.Matches(spoken)
	})
}

// Addresses that stand for peers outside.
var outsideAddresses = map[string]string{
	"@internet": "198.51.100.7", "@site": "192.168.1.50", "@resolver": "192.168.1.1", "@metadata": "169.254.169.254",
	"@orchestrator": "192.168.1.9", "host": "192.168.1.9", "@ingress": "10.255.0.99",
}

// queries are the flow on each network that both ends share, else from the
// caller's to the callee's, as the kernel would route it.
func (s *stack) queries(t *testing.T, f flow) []policy.Query {
	t.Helper()
	from, to := s.places(f.from), s.places(f.to)
	var shared, routed []policy.Query
	for _, a := range from {
		for _, b := range to {
			if a.addr.Is4() != b.addr.Is4() || a.addr == b.addr {
				continue
			}
			q := policy.Query{Zone: max(a.zone, b.zone), Src: a.addr.As16(), Dst: b.addr.As16(), Proto: f.port.Proto, DstPort: f.port.Lo}
			if a.zone != 0 {
				q.Zone = a.zone
			}
			switch {
			case a.zone == b.zone || a.zone == 0 || b.zone == 0:
				shared = append(shared, q)
			default:
				routed = append(routed, q)
			}
		}
	}
	if len(shared) == 0 {
		shared = routed
	}
	if len(shared) == 0 {
		t.Fatalf("%s: no such flow", f.line)
	}
	return shared
}

// places are the addresses of a service (its virtual one with vip:), or of a
// peer outside.
func (s *stack) places(who string) []place {
	if who == "@host" { // as source: the gateway of each network
		return s.everyNetwork(func(n *policy.Network) []netip.Addr { return n.Gateways })
	}
	if who == "@lb" {
		return s.everyNetwork(func(n *policy.Network) []netip.Addr { return n.LB })
	}
	if a, ok := outsideAddresses[who]; ok {
		return []place{{s.ingressZone(who), netip.MustParseAddr(a)}}
	}
	service, vip := strings.CutPrefix(who, "vip:")
	var out []place
	for _, w := range s.snap.Workloads {
		if w.Service.String() != service {
			continue
		}
		for _, e := range w.Endpoints {
			addrs := e.Addresses
			if vip {
				addrs = w.VIPs[e.Network]
			}
			if n := s.network(e.Network); n.Name != "docker_gwbridge" {
				for _, a := range addrs {
					out = append(out, place{n.Zone, a})
				}
			}
		}
	}
	return out
}

func (s *stack) everyNetwork(of func(*policy.Network) []netip.Addr) []place {
	var out []place
	for i := range s.snap.Networks {
		n := &s.snap.Networks[i]
		if n.Ingress || n.System {
			continue
		}
		for _, a := range of(n) {
			out = append(out, place{n.Zone, a})
		}
	}
	return out
}

func (s *stack) ingressZone(who string) policy.Zone {
	for _, n := range s.snap.Networks {
		if n.Ingress && who == "@ingress" {
			return n.Zone
		}
	}
	return 0
}

func (s *stack) network(id string) *policy.Network {
	i := slices.IndexFunc(s.snap.Networks, func(n policy.Network) bool { return n.ID == id })
	return &s.snap.Networks[i]
}

// knock are the applications with which a stranger tries each port.
var knock = []policy.App{policy.AppHTTP, policy.AppTLS, policy.AppSSH, policy.AppMySQL, policy.AppPostgreSQL, policy.AppRedis,
	policy.AppAMQP, policy.AppKafka, policy.AppZooKeeper, policy.AppElasticsearch, policy.AppSMTP, policy.AppDNS, policy.AppUnknown}

// judgeStrangers puts a container of nobody's on every network of the stack,
// and another project beside it, both of which name every service in their
// environment: neither reaches any of them, nor is reached.
func (s *stack) judgeStrangers(t *testing.T) {
	t.Helper()
	ports := s.ports()
	own := slices.Clone(s.snap.Workloads)
	strangers := s.addStrangers(own, ports)
	s.compile(t)
	judged := 0
	for _, w := range own {
		for _, stranger := range strangers {
			for _, port := range ports {
				for _, app := range knock {
					there := s.between(t, &stranger, &w, port)
					back := s.between(t, &w, &stranger, port)
					judged++
					if there != nil && s.allows(*there, app) {
						t.Errorf("%s -> %s : %s %s", stranger.Service, w.Service, app, port)
					}
					if back != nil && s.allows(*back, app) && !s.isFrontOf(&w, app) {
						t.Errorf("%s -> %s : %s %s", w.Service, stranger.Service, app, port)
					}
				}
			}
		}
	}
	if judged == 0 {
		t.Error("nobody was tried")
	}
}

// isFrontOf: a front reaches, by HTTP, whoever joins its network (R5).
func (s *stack) isFrontOf(w *policy.Workload, app policy.App) bool {
	return app == policy.AppHTTP && w.Image.Repository == "docker.io/library/traefik"
}

// ports are all that statements of the stack name, and a few more.
func (s *stack) ports() []policy.PortRange {
	out := []policy.PortRange{policy.Port(policy.ProtoTCP, 22), policy.Port(policy.ProtoTCP, 80), policy.Port(policy.ProtoTCP, 443), policy.Port(policy.ProtoUDP, 53)}
	for _, st := range s.statements {
		for _, r := range st.Ports {
			out = append(out, policy.Port(r.Proto, r.Lo), policy.Port(r.Proto, r.Hi))
		}
	}
	return slices.Compact(slices.SortedFunc(slices.Values(out), func(a, b policy.PortRange) int {
		return strings.Compare(a.String(), b.String())
	}))
}

func (s *stack) addStrangers(own []policy.Workload, ports []policy.PortRange) []policy.Workload {
	var named []policy.Reference
	for _, w := range own {
		named = append(named, policy.Reference{Source: "env " + strings.ToUpper(w.Service.Name) + "_HOST", Host: w.Service.Name})
	}
	stranger := func(key policy.ServiceKey, e policy.Endpoint) policy.Workload {
		return policy.Workload{ID: "stranger " + e.Network, Name: key.Name, Service: key, Compose: key.Project.Name != "",
			Image:   policy.Image{Ref: "evil/tool", Repository: "docker.io/evil/tool", PulledFrom: []string{"docker.io/evil/tool"}},
			Exposed: ports, References: named, Endpoints: []policy.Endpoint{e}}
	}
	var out []policy.Workload
	for i, n := range slices.Clone(s.snap.Networks) {
		if n.System || len(n.Subnets) == 0 {
			continue
		}
		a := n.Subnets[0].Addr().As4()
		a[3] = 200
		out = append(out, stranger(policy.ServiceKey{Name: "stranger" + strconv.Itoa(i)},
			policy.Endpoint{ID: "s" + n.ID, Network: n.ID, Addresses: []netip.Addr{netip.AddrFrom4(a)}}))
	}
	foreign := policy.ProjectKey{Domain: "planned", Name: "foreign"}
	s.snap.Networks = append(s.snap.Networks, policy.Network{ID: "foreign", Name: "foreign_default", Driver: "bridge", Zone: 900, Owner: foreign,
		Guarded: true, ICC: true, Subnets: []netip.Prefix{netip.MustParsePrefix("172.29.0.0/24")}})
	out = append(out, stranger(policy.ServiceKey{Project: foreign, Name: "app"},
		policy.Endpoint{ID: "foreign", Network: "foreign", Addresses: []netip.Addr{netip.MustParseAddr("172.29.0.5")}}))
	s.snap.Workloads = append(s.snap.Workloads, out...)
	return out
}

// between is the flow from one workload to another on a shared network, else
// as routed between them; nil if there is none.
func (s *stack) between(t *testing.T, from, to *policy.Workload, port policy.PortRange) *policy.Query {
	t.Helper()
	var routed *policy.Query
	for _, a := range from.Endpoints {
		for _, b := range to.Endpoints {
			q := &policy.Query{Zone: s.network(a.Network).Zone, Src: a.Addresses[0].As16(), Dst: b.Addresses[0].As16(), Proto: port.Proto, DstPort: port.Lo}
			if a.Network == b.Network {
				return q
			}
			routed = q
		}
	}
	return routed
}

// Sentinel: clients ask the sentinels for the primary, sentinels talk to each
// other and to the servers that they watch; no server calls a sentinel.
func TestSentinel(t *testing.T) {
	b := newTown(t).network("n", "p")
	b.run("p/redis", "redis:7", "n", expose("tcp/6379"))
	for _, name := range []string{"sentinel1", "sentinel2"} {
		b.run("p/"+name, "redis:7", "n", expose("tcp/6379"), ref("arg", "redis:6379"), command("redis-sentinel", "/etc/sentinel.conf"))
	}
	b.run("p/app", "node:22", "n", ref("env REDIS_SENTINELS", "sentinel1:26379,sentinel2:26379"))
	judge(t, b, []verdict{
		{"p/app", "p/sentinel1", 26379, policy.AppRedis, true},
		{"p/app", "p/sentinel1", 26379, policy.AppHTTP, false},
		{"p/app", "p/redis", 26379, policy.AppRedis, false},
		{"p/sentinel1", "p/sentinel2", 26379, policy.AppRedis, true},
		{"p/sentinel2", "p/redis", 6379, policy.AppRedis, true},
		{"p/redis", "p/sentinel1", 26379, policy.AppRedis, false},
	})
}

// A cluster's members change places: the primary that all others name stops, the
// rest agree without it, and it comes back to follow another. Their clients come
// along, and who is of no cluster gets nothing by it.
func TestFailover(t *testing.T) {
	build := func(members ...string) *town {
		b := newTown(t).network("n+6", "p")
		for _, name := range members {
			switch name {
			case "redis-a":
				b.run("p/redis-a", "redis:7", "n", expose("tcp/6379"))
			case "redis-b":
				b.run("p/redis-b", "redis:7", "n", expose("tcp/6379"), ref("arg --replicaof", "redis-a:6379"))
			}
		}
		b.run("p/sentinel", "redis:7", "n", expose("tcp/6379"), ref("command sentinel", "redis-a:6379"), command("redis-sentinel", "/s.conf"))
		b.run("p/queue", "redis:7", "n", expose("tcp/6379"), ref("env METRICS_HOST", "nobody"))
		b.run("p/other", "redis:7", "n", expose("tcp/6379"), ref("env METRICS_HOST", "nobody"))
		b.run("p/app", "node:22", "n", ref("env REDIS_SENTINELS", "sentinel:26379"))
		b.run("p/own", "x/own", "n", ref("env REDIS_SENTINELS", "sentinel:26379"))
		return b
	}
	whole := build("redis-a", "redis-b")
	judge(t, whole, []verdict{
		{"p/redis-b", "p/redis-a", 6379, policy.AppRedis, true},
		{"p/redis-a", "p/redis-b", 6379, policy.AppRedis, true},
		{"p/redis-a", "p/redis-b", 6379, policy.AppSSH, false},
		{"p/sentinel", "p/redis-b", 6379, policy.AppRedis, true},
		{"p/redis-b", "p/sentinel", 26379, policy.AppRedis, false},
		{"p/redis-b", "p/sentinel", 6379, policy.AppRedis, false},
		{"p/app", "p/sentinel", 26379, policy.AppRedis, true},
		{"p/app", "p/redis-a", 6379, policy.AppRedis, true},
		{"p/app", "p/redis-b", 6379, policy.AppRedis, true},
		{"p/own", "p/redis-b", 6379, policy.AppRedis, true},
		{"p/own", "p/redis-b", 6379, policy.AppHTTP, false},
		{"p/app", "p/queue", 6379, policy.AppRedis, false},
		{"p/redis-a", "p/queue", 6379, policy.AppRedis, false},
		{"p/sentinel", "p/queue", 6379, policy.AppRedis, false},
		{"p/queue", "p/other", 6379, policy.AppRedis, false},
	})
	judge(t, build("redis-b"), []verdict{
		{"p/sentinel", "p/redis-b", 6379, policy.AppRedis, true},
		{"p/app", "p/redis-b", 6379, policy.AppRedis, true},
		{"p/own", "p/redis-b", 6379, policy.AppRedis, true},
		{"p/queue", "p/other", 6379, policy.AppRedis, false},
		{"p/app", "p/queue", 6379, policy.AppRedis, false},
	})
}

// A container of a database's own image that only runs its client programs is a
// client: it calls whom it names as the protocol has it, serves nobody and is of no
// cluster; one that goes on to start the server is a member.
func TestClientPrograms(t *testing.T) {
	b := newTown(t).network("n+6", "p").network("m", "q")
	b.run("p/db-a", "mariadb:11", "n", expose("tcp/3306"), ref("arg --wsrep_cluster_address", "db-b"))
	b.run("p/db-b", "mariadb:11", "n", expose("tcp/3306"), ref("arg --wsrep_cluster_address", "db-a"))
	b.run("p/other", "mariadb:11", "n", expose("tcp/3306"))
	b.run("p/backup", "mariadb:11", "n", expose("tcp/3306"), programs("mysqldump"), ref("arg -h", "mysql://db-a"))
	b.run("p/backup2", "mariadb:11", "n", expose("tcp/3306"), programs("mysqladmin", "mysqldump"), ref("depends_on", "db-b"))
	b.run("p/idle", "mariadb:11", "n", expose("tcp/3306"), programs("mariadb"))
	b.run("p/joiner", "mariadb:11", "n", expose("tcp/3306"), programs("mariadb", "mariadbd"), ref("arg -h", "mysql://db-a"))
	b.run("p/script", "mariadb:11", "n", expose("tcp/3306"), programs("mariadb", "***"), ref("arg -h", "mysql://db-a"))
	b.run("p/labelled", "mariadb:11", "n", expose("tcp/3306"), programs("mysqldump"), ref("arg -h", "mysql://db-a"), label("gatehouse.model=mariadb"))
	b.run("q/backup", "mariadb:11", "m", expose("tcp/3306"), programs("mysqldump"), ref("arg -h", "db.example.com"))
	judge(t, b, []verdict{
		{"p/backup", "p/db-a", 3306, policy.AppMySQL, true},
		{"p/backup", "p/db-a", 3306, policy.AppSSH, false},
		{"p/backup", "p/db-b", 3306, policy.AppMySQL, true}, // of the cluster that it names (R8)
		{"p/backup", "p/other", 3306, policy.AppMySQL, false},
		{"p/backup", "p/db-a", 4567, policy.AppUnknown, false},
		{"p/backup", "p/db-a", 4444, policy.AppUnknown, false},
		{"p/db-a", "p/backup", 3306, policy.AppMySQL, false},
		{"p/db-a", "p/backup", 4567, policy.AppUnknown, false},
		{"p/backup2", "p/db-b", 3306, policy.AppMySQL, true},
		{"p/db-b", "p/backup2", 4567, policy.AppUnknown, false},
		{"p/backup", "p/backup2", 3306, policy.AppMySQL, false},
		{"p/idle", "p/db-a", 3306, policy.AppMySQL, false},
		{"p/joiner", "p/db-a", 4567, policy.AppUnknown, true},
		{"p/db-b", "p/joiner", 4567, policy.AppUnknown, true},
		{"p/script", "p/db-a", 4567, policy.AppUnknown, true},
		{"p/labelled", "p/db-a", 4567, policy.AppUnknown, true},
	})
	p := Groups(library(t), &b.snap, Settings{DefaultMode: policy.Enforce}, policy.NewIdentities())
	for _, g := range p.Groups {
		switch g.Service.Name {
		case "backup", "backup2", "idle":
			if g.Model != ClientProgram || !slices.Equal(g.Roles, []string{"client"}) {
				t.Errorf("%s is %s with roles %v", g.Service, g.Model, g.Roles)
			}
		default:
			if g.Model != "mariadb" {
				t.Errorf("%s is %s", g.Service, g.Model)
			}
		}
	}
}

// Databases of many kinds have client programs in their images.
func TestLibraryClientPrograms(t *testing.T) {
	l := builtinLibrary(t)
	for _, c := range []struct{ image, program, model string }{
		{"postgres:15", "pg_dump", ClientProgram}, {"postgres:15", "postgres", "postgresql"}, {"postgis/postgis:16", "psql", ClientProgram},
		{"mysql:8", "mysqldump", ClientProgram}, {"mysql:8", "mysqld", "mysql"}, {"mariadb:11", "mariadb-dump", ClientProgram},
		{"redis:7", "redis-cli", ClientProgram}, {"redis:7", "redis-sentinel", "redis"}, {"valkey/valkey:8", "valkey-cli", ClientProgram},
		{"mongo:7", "mongodump", ClientProgram}, {"mongo:7", "mongod", "mongodb"}, {"quay.io/coreos/etcd:v3.5.0", "etcdctl", ClientProgram},
		{"elasticsearch:8.1.0", "curl", ClientProgram}, {"nginx:1", "curl", "nginx"},
		{"apache/kafka:4.0", "kafka-topics.sh", ClientProgram}, {"eclipse-mosquitto:2", "mosquitto_pub", ClientProgram},
		{"nginx:1", "pg_dump", "nginx"}, {"rabbitmq:4", "rabbitmqctl", "rabbitmq"}, {"acme/own", "pg_dump", Custom},
	} {
		w := imageCase{ref: c.image}.workload()
		w.Programs = []string{c.program}
		m := l.Match(w, mirrors)
		if m.Model.Name != c.model {
			t.Errorf("%s with %s is %s (%s)", c.image, c.program, m.Model.Name, strings.Join(m.Reasons, "; "))
		}
		if said := slices.ContainsFunc(m.Reasons, func(r string) bool { return strings.Contains(r, c.program+", and no server") }); said != (c.model == ClientProgram) {
			t.Errorf("%s with %s: %v", c.image, c.program, m.Reasons)
		}
	}
}

// A client of a database elsewhere has its name and the port of what it speaks.
func TestClientProgramsOutside(t *testing.T) {
	b := newTown(t).network("n", "p")
	b.run("p/backup", "postgres:15", "n", programs("pg_dump"), ref("arg -h", "postgresql://db.example.com"))
	ss, _ := Generate(Groups(library(t), &b.snap, Settings{DefaultMode: policy.Enforce}, policy.NewIdentities()))
	var got []string
	for _, s := range ss {
		got = append(got, s.Lines(false)...)
	}
	if !slices.ContainsFunc(got, func(s string) bool {
		return strings.Contains(s, "name:db.example.com : postgresql") && strings.Contains(s, "tcp/5432")
	}) {
		t.Errorf("%q", got)
	}
}

// Redis Cluster's bus is 10,000 above the data port, wherever that is.
func TestRedisCluster(t *testing.T) {
	b := newTown(t).network("n", "p")
	for _, name := range []string{"redis-1", "redis-2"} {
		b.run("p/"+name, "redis:7", "n", expose("tcp/6379"), command("redis-server", "--port", "7000", "--cluster-enabled", "***"))
	}
	for _, name := range []string{"cache1", "cache2"} {
		b.run("p/"+name, "redis:7", "n", expose("tcp/6379"), command("redis-server", "***", "--port", "7000"))
	}
	b.run("p/other", "node:22", "n", ref("env REDIS_HOST", "cache1"))
	b.run("p/create", "redis:7", "n", expose("tcp/6379"), programs("redis-cli"), ref("command", "redis-1:7000"), ref("command", "redis-2:7000"))
	b.run("p/app", "node:22", "n", ref("env REDIS_NODES", "redis-1:7000"))
	judge(t, b, []verdict{
		{"p/redis-1", "p/redis-2", 17000, policy.AppUnknown, true},
		{"p/redis-2", "p/redis-1", 17000, policy.AppUnknown, true},
		{"p/redis-2", "p/redis-1", 7000, policy.AppRedis, true},
		{"p/redis-2", "p/redis-1", 16379, policy.AppUnknown, false},
		{"p/create", "p/redis-2", 7000, policy.AppRedis, true},
		{"p/create", "p/redis-2", 17000, policy.AppUnknown, false},
		{"p/redis-1", "p/create", 17000, policy.AppUnknown, false},
		{"p/app", "p/redis-1", 7000, policy.AppRedis, true},
		{"p/app", "p/redis-2", 7000, policy.AppRedis, true}, // where the first sends it
		{"p/app", "p/cache2", 7000, policy.AppRedis, false},
		{"p/cache1", "p/cache2", 7000, policy.AppRedis, true}, // siblings; perhaps a cluster by their files
		{"p/cache1", "p/redis-2", 17000, policy.AppUnknown, false},
		{"p/other", "p/cache1", 7000, policy.AppRedis, true},
		{"p/other", "p/cache2", 7000, policy.AppRedis, false},
		{"p/app", "p/redis-1", 17000, policy.AppUnknown, false},
	})
}

// Redis Cluster over TLS alone has its bus above the TLS port, and replicates there.
func TestRedisClusterTLS(t *testing.T) {
	b := newTown(t).network("n", "p")
	for _, name := range []string{"redis-1", "redis-2"} {
		b.run("p/"+name, "redis:7", "n", expose("tcp/6379"), command("redis-server", "--port", "0", "--tls-port", "7000", "--cluster-enabled", "yes"))
	}
	judge(t, b, []verdict{
		{"p/redis-1", "p/redis-2", 17000, policy.AppUnknown, true},
		{"p/redis-2", "p/redis-1", 17000, policy.AppUnknown, true},
		{"p/redis-2", "p/redis-1", 7000, policy.AppTLS, true},
		{"p/redis-2", "p/redis-1", 7000, policy.AppRedis, false},
		{"p/redis-2", "p/redis-1", 10000, policy.AppUnknown, false},
		{"p/redis-2", "p/redis-1", 16379, policy.AppUnknown, false},
	})
}

// The bus is above the port that the cluster speaks on (cluster.c, defaultClientPort),
// and none is open where the cluster is off.
func TestRedisBus(t *testing.T) {
	for _, c := range []struct {
		args string
		bus  uint16 // 0 = none
	}{
		{"--cluster-enabled yes", 16379},
		{"--cluster-enabled no", 0},
		{"--cluster-enabled NO --port 7000", 0},
		{"--port 7000 --tls-port 7001 --cluster-enabled yes", 17000},
		{"--port 7000 --tls-port 7001 --tls-cluster yes --cluster-enabled yes", 17001},
		{"--tls-port 7001 --port 7000 --tls-cluster no --cluster-enabled yes", 17000},
		{"--tls-port 7001 --cluster-enabled yes", 16379},
		{"--port 0 --tls-port 7001 --cluster-enabled yes", 17001},
		{"--port 7000 --tls-port 7001 --tls-cluster yes --cluster-port 7002 --cluster-enabled yes", 7002},
		{"/etc/redis.conf --port 7000 --tls-port 7001 --tls-cluster yes", 17001}, // perhaps a cluster by its file
		{"/etc/redis.conf --cluster-enabled no", 0},
	} {
		for _, image := range []string{"redis:7", "valkey/valkey:8", "eqalpha/keydb"} {
			b := newTown(t).network("n", "p")
			for _, name := range []string{"redis-1", "redis-2"} {
				b.run("p/"+name, image, "n", command(append([]string{"redis-server"}, strings.Fields(c.args)...)...))
			}
			var vs []verdict
			for _, port := range []uint16{7002, 10000, 16379, 17000, 17001} {
				vs = append(vs, verdict{"p/redis-1", "p/redis-2", port, policy.AppUnknown, port == c.bus})
			}
			t.Run(image+" "+c.args, func(t *testing.T) { b.t = t; judge(t, b, vs) })
		}
	}
}

// That one starts before another, or that clusters are switched off, makes no cluster:
// who names one of them reaches that one.
func TestNoCluster(t *testing.T) {
	b := newTown(t).network("n+6", "p")
	for _, name := range []string{"cache1", "cache2"} {
		b.run("p/"+name, "redis:7", "n", expose("tcp/6379"), command("redis-server", "--cluster-enabled", "no"))
	}
	b.run("p/inner", "minio/minio", "n")
	b.run("p/outer", "minio/minio", "n", dependsOn("inner"))
	b.run("p/app", "wordpress:6", "n", ref("env WP_REDIS_HOST", "cache1"), ref("env S3_ENDPOINT", "http://outer:9000"))
	judge(t, b, []verdict{
		{"p/app", "p/cache1", 6379, policy.AppRedis, true},
		{"p/app", "p/cache2", 6379, policy.AppRedis, false},
		{"p/app", "p/outer", 9000, policy.AppHTTP, true},
		{"p/app", "p/inner", 9000, policy.AppHTTP, false},
		{"p/inner", "p/outer", 9000, policy.AppHTTP, false},
	})
}

// Members of a cluster that have names of their own and name only one that was there
// first are of one cluster, in both directions, and another of the same image is not.
func TestNamedClusters(t *testing.T) {
	for _, c := range []struct {
		image string
		port  uint16
		app   policy.App
	}{
		{"quay.io/coreos/etcd:v3.5.0", 2380, policy.AppHTTP}, {"zookeeper:3.9", 2888, policy.AppUnknown}, {"zookeeper:3.9", 3888, policy.AppUnknown},
		{"nats:2", 6222, policy.AppNATS}, {"rabbitmq:3", 25672, policy.AppUnknown}, {"rabbitmq:3", 4369, policy.AppUnknown},
		{"mariadb:11", 4567, policy.AppUnknown}, {"postgres:16", 5432, policy.AppPostgreSQL},
		{"mongo:7", 27017, policy.AppMongoDB}, {"prom/alertmanager:v0.27.0", 9094, policy.AppUnknown}, {"osixia/openldap:1.5.0", 389, policy.AppLDAP},
		{"cassandra:5", 7000, policy.AppUnknown}, {"apache/kafka:4.0.0", 9093, policy.AppKafka}, {"elasticsearch:8.1.0", 9300, policy.AppElasticsearch},
		{"clickhouse/clickhouse-server:24", 9009, policy.AppHTTP}, {"hashicorp/vault:1", 8201, policy.AppUnknown},
	} {
		b := newTown(t).network("n+6", "p")
		b.run("p/first", c.image, "n")
		b.run("p/second", c.image, "n", ref("env SEED_HOST", "first"))
		b.run("p/third", c.image, "n", ref("env SEED_HOST", "first"))
		b.run("p/lone", c.image, "n")
		b.run("p/app", "node:22", "n", ref("env X_HOST", "nobody"))
		var vs []verdict
		if c.app == policy.AppUnknown {
			vs = append(vs, verdict{"p/app", "p/first", c.port, c.app, false})
		}
		members := []string{"p/first", "p/second", "p/third"}
		for _, from := range members {
			for _, to := range members {
				if from != to {
					vs = append(vs, verdict{from, to, c.port, c.app, true})
				}
			}
			if c.app != policy.AppLDAP { // a directory may ask all others of its project
				vs = append(vs, verdict{from, "p/lone", c.port, c.app, false}, verdict{"p/lone", from, c.port, c.app, false})
			}
		}
		t.Run(c.image, func(t *testing.T) { judge(t, b, vs) })
	}
}

// What has its peers in a file reaches those of its kind in its own project, by the
// protocol of both.
func TestPeersInFiles(t *testing.T) {
	for _, c := range []struct {
		image string
		port  uint16
		app   policy.App
	}{
		{"internetsystemsconsortium/bind9:9.18", 53, policy.AppDNS}, {"powerdns/pdns-auth-49:4.9", 53, policy.AppDNS},
		{"osixia/openldap:1.5.0", 389, policy.AppLDAP}, {"eclipse-mosquitto:2", 1883, policy.AppMQTT},
	} {
		b := newTown(t).network("n", "p").network("m", "q")
		b.run("p/primary", c.image, "n")
		b.run("p/secondary", c.image, "n")
		b.run("q/other", c.image, "m")
		t.Run(c.image, func(t *testing.T) {
			judge(t, b, []verdict{
				{"p/secondary", "p/primary", c.port, c.app, true},
				{"p/primary", "p/secondary", c.port, c.app, true},
				{"p/secondary", "p/primary", c.port, policy.AppSSH, false},
				{"p/secondary", "p/primary", 22, policy.AppSSH, false},
			})
		})
	}
}

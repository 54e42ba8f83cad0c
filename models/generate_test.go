package models

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gatehouse/policy"
)

// town builds snapshots for tests: networks and workloads as Docker would
// tell of them, in the words of a Compose file.
type town struct {
	t    testing.TB
	snap policy.Snapshot
	nets map[string]int
	next int
}

func newTown(t testing.TB) *town {
	return &town{t: t, nets: make(map[string]int), snap: policy.Snapshot{Host: policy.Host{
		Name:      "n1",
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.9/24"), netip.MustParsePrefix("2001:db8:1::9/64"), netip.MustParsePrefix("127.0.0.1/8")},
		Resolvers: []netip.Addr{netip.MustParseAddr("192.168.1.1")},
	}}}
}

// network adds one; owner "" is hand-made. "+6" after the name gives it IPv6.
func (b *town) network(name, owner string) *town {
	name, six := strings.CutSuffix(name, "+6")
	i := len(b.snap.Networks)
	n := policy.Network{ID: "net-" + name, Name: name, Driver: "bridge", Zone: policy.Zone(i + 1), ICC: true, Guarded: true,
		Subnets:  []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("172.%d.0.0/16", 18+i))},
		Gateways: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.%d.0.1", 18+i))}}
	if six {
		n.Subnets = append(n.Subnets, netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", 18+i)))
		n.Gateways = append(n.Gateways, netip.MustParseAddr(fmt.Sprintf("fd00:%d::1", 18+i)))
	}
	if owner != "" {
		n.Owner = policy.ProjectKey{Domain: "e1", Name: owner}
	}
	if name == "bridge" || name == "ingress" {
		n.System, n.Ingress = true, name == "ingress"
	}
	b.snap.Networks = append(b.snap.Networks, n)
	b.nets[name] = i
	for _, g := range n.Gateways {
		b.snap.Host.Addresses = append(b.snap.Host.Addresses, netip.PrefixFrom(g, g.BitLen()))
	}
	return b
}

func serviceKey(text string) policy.ServiceKey {
	project, name, ok := strings.Cut(text, "/")
	if !ok {
		project, name = "", text
	}
	return policy.ServiceKey{Project: policy.ProjectKey{Domain: "e1", Name: project}, Name: name}
}

// run starts a workload: service "shop/db", image, networks by name, what the
// deployer said in opts.
func (b *town) run(service, image, nets string, opts ...option) *policy.Workload {
	b.next++
	repository, tag, _, err := policy.NormalizeImage(image)
	if err != nil {
		b.t.Fatal(err)
	}
	key := serviceKey(service)
	w := policy.Workload{
		ID: fmt.Sprintf("c%06d", b.next), Service: key, Compose: key.Project.Name != "",
		Name:  strings.ReplaceAll(service, "/", "-") + "-1",
		Image: policy.Image{Ref: image, Repository: repository, Tag: tag, PulledFrom: []string{repository}},
	}
	if key.Project.Name == "" || strings.HasPrefix(key.Project.Name, "net:") {
		w.Name, w.Compose = key.Name, false
	}
	for _, name := range strings.Fields(nets) {
		i, ok := b.nets[name]
		if !ok {
			b.t.Fatalf("no network %s", name)
		}
		e := policy.Endpoint{ID: fmt.Sprintf("%s-%s", w.ID, name), Network: "net-" + name, Aliases: []string{w.ID, key.Name},
			MAC: policy.MAC{2, 0x42, byte(i), 0, byte(b.next >> 8), byte(b.next)}}
		for _, p := range b.snap.Networks[i].Subnets {
			e.Addresses = append(e.Addresses, nth(p, b.next+1))
		}
		w.Endpoints = append(w.Endpoints, e)
	}
	for _, o := range opts {
		o(&w)
	}
	b.snap.Workloads = append(b.snap.Workloads, w)
	return &b.snap.Workloads[len(b.snap.Workloads)-1]
}

func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1], b[len(b)-2] = byte(n), byte(n>>8)
	a, _ := netip.AddrFromSlice(b)
	return a
}

type option func(*policy.Workload)

// ref is a reference as the reader of the orchestrator makes it: source,
// "host", "host:port" or "scheme://host:port".
func ref(source, value string) option {
	return func(w *policy.Workload) {
		r := policy.Reference{Source: source}
		if scheme, rest, ok := strings.Cut(value, "://"); ok {
			r.Scheme, value = scheme, rest
		}
		r.Host = value
		if ap, err := netip.ParseAddr(value); err != nil || !ap.Is6() {
			if i := strings.LastIndexByte(value, ':'); i >= 0 {
				n, _ := strconv.Atoi(value[i+1:])
				r.Host, r.Port = value[:i], uint16(n)
			}
		}
		w.References = append(w.References, r)
	}
}

func dependsOn(names ...string) option {
	return func(w *policy.Workload) { w.DependsOn = append(w.DependsOn, names...) }
}

func link(name string) option {
	return func(w *policy.Workload) {
		w.References = append(w.References, policy.Reference{Source: "link", Host: name, Weak: true})
	}
}

// publish reads "8080:80", "127.0.0.1:5432:5432", "53:53/udp"; without an
// address both families are published, as Docker does.
func publish(text string) option {
	return func(w *policy.Workload) {
		text, proto, _ := strings.Cut(text, "/")
		p := policy.Published{Proto: policy.ProtoTCP}
		if proto == "udp" {
			p.Proto = policy.ProtoUDP
		}
		parts := strings.Split(text, ":")
		host, port := parts[len(parts)-2], parts[len(parts)-1]
		n, _ := strconv.Atoi(host)
		m, _ := strconv.Atoi(port)
		p.HostPort, p.Port = uint16(n), uint16(m)
		on := []string{"0.0.0.0", "::"}
		if len(parts) > 2 {
			on = []string{strings.Trim(strings.Join(parts[:len(parts)-2], ":"), "[]")}
		}
		for _, a := range on {
			p.HostIP = netip.MustParseAddr(a)
			w.Published = append(w.Published, p)
		}
	}
}

func ingress(hostPort, port uint16) option {
	return func(w *policy.Workload) {
		w.Published = append(w.Published, policy.Published{HostPort: hostPort, Port: port, Proto: policy.ProtoTCP, Ingress: true})
	}
}

func expose(ports ...string) option {
	return func(w *policy.Workload) {
		for _, p := range ports {
			r, err := policy.ParsePortRange(p)
			if err != nil {
				panic(err)
			}
			w.Exposed = append(w.Exposed, r)
		}
	}
}

func label(kv string) option      { return labelBy(kv, policy.SetByDeployer) }
func imageLabel(kv string) option { return labelBy(kv, policy.SetByImage) }

func labelBy(kv string, by policy.Setter) option {
	return func(w *policy.Workload) {
		k, v, _ := strings.Cut(kv, "=")
		if w.Labels == nil {
			w.Labels = make(map[string]policy.Label)
		}
		w.Labels[k] = policy.Label{Value: v, By: by}
	}
}

func command(words ...string) option {
	return func(w *policy.Workload) { w.Command = words }
}

func programs(names ...string) option {
	return func(w *policy.Workload) { w.Programs = names }
}

func env(kv string) option {
	return func(w *policy.Workload) {
		k, v, _ := strings.Cut(kv, "=")
		w.EnvKeys = append(w.EnvKeys, k)
		if w.Env == nil {
			w.Env = make(map[string]string)
		}
		w.Env[k] = v
	}
}

func alias(network, name string) option {
	return func(w *policy.Workload) {
		for i := range w.Endpoints {
			if w.Endpoints[i].Network == "net-"+network {
				w.Endpoints[i].Aliases = append(w.Endpoints[i].Aliases, name)
			}
		}
	}
}

func sharedWith(owner *policy.Workload) option {
	id := owner.ID
	return func(w *policy.Workload) { w.SharedWith = id }
}

func swarm(w *policy.Workload)      { w.Swarm, w.Compose = true, false }
func localImage(w *policy.Workload) { w.Image.PulledFrom = nil } // T4
func onHost(w *policy.Workload)     { w.Uncovered, w.Endpoints = "network_mode host", nil }

// library are the models of Gatehouse, or custom and those that the test brings.
func library(t testing.TB, own ...*Model) *Library {
	t.Helper()
	models, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	if len(own) > 0 {
		models = slices.DeleteFunc(slices.Clone(models), func(m *Model) bool { return m.Name != Custom })
	}
	lib, err := NewLibrary(models, own)
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

// generate runs all of it with T3 trust and default settings.
func (b *town) generate(own ...*Model) ([]policy.Statement, []Finding) {
	b.t.Helper()
	return Generate(b.groups(Settings{DefaultMode: policy.Observe}, own...))
}

func (b *town) groups(set Settings, own ...*Model) *Population {
	b.t.Helper()
	return Groups(library(b.t, own...), &b.snap, set, policy.NewIdentities())
}

// lines are the statements' text without origins, those that wait marked.
func lines(ss []policy.Statement) []string {
	var out []string
	for _, s := range ss {
		for _, l := range s.Lines(false) {
			l = strings.TrimPrefix(l, "allow ")
			if s.Pending != "" {
				l += " "
			}
			out = append(out, l)
		}
	}
	return out
}

// between keeps the lines without name lookups and those of the given starts.
func between(ss []policy.Statement) []string {
	return slices.DeleteFunc(lines(ss), func(l string) bool { return strings.Contains(l, "-> @resolver") })
}

func expect(t *testing.T, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
}

func hasFinding(fs []Finding, kind FindingKind, words string) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Kind == kind && strings.Contains(f.String(), words) })
}

// shop is the stack of golden example A.
func shop(t testing.TB) *town {
	b := newTown(t).network("shop_default", "shop")
	b.run("shop/db", "mariadb:11", "shop_default", expose("tcp/3306"))
	b.run("shop/redis", "redis:7", "shop_default", expose("tcp/6379"))
	b.run("shop/wordpress", "wordpress:6-apache", "shop_default", expose("tcp/80"), publish("8080:80"),
		ref("env WORDPRESS_DB_HOST", "db:3306"), dependsOn("db", "redis"))
	return b
}

func shuffled(b *town, seed uint64) *policy.Snapshot {
	r := rand.New(rand.NewPCG(seed, 7))
	snap := b.snap
	snap.Workloads, snap.Networks = slices.Clone(snap.Workloads), slices.Clone(snap.Networks)
	r.Shuffle(len(snap.Workloads), func(i, j int) {
		snap.Workloads[i], snap.Workloads[j] = snap.Workloads[j], snap.Workloads[i]
	})
	r.Shuffle(len(snap.Networks), func(i, j int) { snap.Networks[i], snap.Networks[j] = snap.Networks[j], snap.Networks[i] })
	for i := range snap.Workloads {
		w := &snap.Workloads[i]
		w.References, w.DependsOn = slices.Clone(w.References), slices.Clone(w.DependsOn)
		r.Shuffle(len(w.References), func(i, j int) { w.References[i], w.References[j] = w.References[j], w.References[i] })
		r.Shuffle(len(w.DependsOn), func(i, j int) { w.DependsOn[i], w.DependsOn[j] = w.DependsOn[j], w.DependsOn[i] })
	}
	return &snap
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const webConfig = `server {
  listen 80; listen [::]:80;
  location / { proxy_pass http://app:8000; proxy_connect_timeout 2s; }
}
`

// outside is a stranger's machine: a namespace with documentation addresses,
// routed to this host, which forwards.
type outside struct {
	netns    string
	own, far map[int]netip.Addr // by family: the host's and the stranger's
}

func makeOutside(t *testing.T) *outside {
	t.Helper()
	const name, link = "ghe-outside", "ghe-out"
	o := &outside{netns: "/run/netns/" + name,
		own: map[int]netip.Addr{4: netip.MustParseAddr("198.51.100.129"), 6: netip.MustParseAddr("2001:db8:9e::1")},
		far: map[int]netip.Addr{4: netip.MustParseAddr("198.51.100.130"), 6: netip.MustParseAddr("2001:db8:9e::2")},
	}
	clear := func() {
		_, _ = command("ip", "link", "delete", link)
		_, _ = command("ip", "netns", "delete", name)
	}
	clear()
	t.Cleanup(clear)
	for _, line := range []string{
		"ip netns add " + name,
		"ip link add " + link + " type veth peer name eth0 netns " + name,
		"ip addr add 198.51.100.129/25 dev " + link,
		"ip addr add 2001:db8:9e::1/64 dev " + link + " nodad",
		"ip link set " + link + " up",
		"ip -n " + name + " link set lo up",
		"ip -n " + name + " link set eth0 up",
		"ip -n " + name + " addr add 198.51.100.130/25 dev eth0",
		"ip -n " + name + " addr add 2001:db8:9e::2/64 dev eth0 nodad",
		"ip -n " + name + " route add default via 198.51.100.129",
		"ip -n " + name + " -6 route add default via 2001:db8:9e::1",
	} {
		words := strings.Fields(line)
		mustRun(t, words[0], words[1:]...)
	}
	const forwarding = "/proc/sys/net/ipv6/conf/all/forwarding"
	if old, err := os.ReadFile(forwarding); err == nil && strings.TrimSpace(string(old)) != "1" {
		if err := os.WriteFile(forwarding, []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.WriteFile(forwarding, old, 0o644) })
	}
	return o
}

// fetch asks a web server from a namespace.
func fetch(netns, url string) (string, error) {
	answer, err := clientIn(netns).Get(url)
	if err != nil {
		return "", err
	}
	return bodyOf(answer)
}

// clientIn is a web client that lives in a namespace.
func clientIn(netns string) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return dial(netns, network, address, 4*time.Second)
		}}}
}

func bodyOf(answer *http.Response) (string, error) {
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// shop is the stack of the live tests: real servers and an application.
type shop struct {
	network               string
	web, app, db, cache   *container
	stranger              *container
	outside               *outside
	published, published6 string // addresses of the front
}

func makeShop(t *testing.T) *shop {
	t.Helper()
	needImages(t, "nginx:1", "postgres:15", "redis:7", "demo/app:1")
	s := &shop{outside: makeOutside(t)}
	s.network = makeNetwork(t, "ghe-shop_default", ofProject("ghe-shop")...)
	s.db = perform(t, play{project: "ghe-shop", service: "db", image: "postgres:15", network: s.network})
	s.cache = perform(t, play{project: "ghe-shop", service: "cache", image: "redis:7", network: s.network})
	s.app = perform(t, play{project: "ghe-shop", service: "app", image: "demo/app:1", network: s.network,
		env: []string{"DATABASE_URL=postgresql://postgres@db/shop", "REDIS_URL=redis://cache:6379"}})
	s.web = perform(t, play{project: "ghe-shop", service: "web", image: "nginx:1", network: s.network, options: []string{"-p", "80"},
		files: map[string]string{"/etc/nginx/conf.d/default.conf": webConfig}})
	s.stranger = perform(t, play{name: "ghe-stranger", network: s.network})
	s.published, s.published6 = publishedAt(t, s.web)
	return s
}

// publishedAt are the URLs under which the outside reaches a container's port 80.
func publishedAt(t *testing.T, c *container) (v4, v6 string) {
	t.Helper()
	ports := mustRun(t, "docker", "port", c.name, "80/tcp")
	_, p, _ := strings.Cut(strings.Split(ports, "\n")[0], ":")
	v4 = "http://198.51.100.129:" + p + "/"
	if _, p6, ok := strings.Cut(ports, "[::]:"); ok { // older engines publish one port for both
		p = strings.TrimSpace(p6)
	} else if _, p6, ok := strings.Cut(ports, ":::"); ok {
		p = strings.TrimSpace(p6)
	}
	return v4, "http://[2001:db8:9e::1]:" + p + "/"
}

func needImages(t *testing.T, images ...string) {
	t.Helper()
	for _, image := range images {
		if _, err := command("docker", "image", "inspect", image); err != nil {
			t.Skipf("missing capability: image %s (deploy/images/build.sh makes it)", image)
		}
	}
}

func (s *shop) services() []string {
	return []string{"ghe-shop/web", "ghe-shop/app", "ghe-shop/db", "ghe-shop/cache"}
}

// ordinary is what the stack is there for: outside → web → app → db, cache.
func (s *shop) ordinary(t *testing.T) {
	t.Helper()
	client := watch(t, s.web.netns, func(f seen) bool {
		src, _ := f.ends()
		return src == s.outside.far[4] && f.tcp() != nil && f.tcp().SYN
	})
	var said string
	var err error
	for range 20 { // servers start
		if said, err = fetch(s.outside.netns, s.published); err == nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err != nil || !strings.HasPrefix(said, "ok visits=") || !strings.Contains(said, "rows=") {
		t.Errorf("outside -> web -> app -> db, cache: %q %v", said, err)
	}
	if len(client.close()) == 0 {
		t.Errorf("web saw no connection from %s: the client's address is lost", s.outside.far[4])
	}
	if said, err := fetch(s.outside.netns, s.published6); err != nil || !strings.HasPrefix(said, "ok ") {
		t.Errorf("the same over IPv6: %q %v", said, err)
	}
	for _, family := range []int{4, 6} {
		if said, err := fetch(s.web.netns, "http://"+port(s.app.leg().at(family), 8000).String()+"/"); err != nil || !strings.HasPrefix(said, "ok ") {
			t.Errorf("web -> app over IPv%d: %q %v", family, said, err)
		}
	}
}

// attempt is one thing that policy forbids.
type attempt struct {
	name     string
	from     *container
	receiver *container // nil: the outside
	port     int
	say      string // then the connection is allowed, what is said on it is not
	side     string
}

func TestLiveStack(t *testing.T) {
	gw := startGateway(t)
	s := makeShop(t)
	gw.admitted(s.web, s.app, s.db, s.cache, s.stranger)
	t.Run("Statements", func(t *testing.T) { stackStatements(t, gw.as(t)) })
	t.Run("Observe", func(t *testing.T) {
		s.ordinary(t)
		var all []ViolationView
		gw.as(t).mustGet("/v1/violations", &all)
		all = slices.DeleteFunc(all, func(v ViolationView) bool { return !strings.Contains(v.From+v.To, "ghe-shop") })
		if len(all) > 0 {
			t.Errorf("ordinary traffic is recorded as violation:\n%s", violationLines(all))
		}
	})
	attempts := []attempt{
		{name: "another port", from: s.app, receiver: s.db, port: 5433},
		{name: "another service", from: s.web, receiver: s.db, port: 5432},
		{name: "another service's cache", from: s.web, receiver: s.cache, port: 6379},
		{name: "a database that calls", from: s.db, receiver: s.app, port: 8000},
		{name: "a stranger on the network", from: s.stranger, receiver: s.db, port: 5432, side: "in"},
		{name: "SSH on the database's port", from: s.app, receiver: s.db, port: 5432, say: "SSH-2.0-OpenSSH_9.2\r\n"},
		{name: "HTTP on the cache's port", from: s.app, receiver: s.cache, port: 6379, say: "GET /latest HTTP/1.1\r\nHost: cache\r\n\r\n"},
		{name: "the outside", from: s.app, port: 443},
		{name: "the outside, by the database", from: s.db, port: 80},
	}
	for _, mode := range []string{"observe", "enforce"} {
		if mode == "enforce" {
			gw.enforce(s.services()...)
			t.Run("Enforce", s.ordinary)
		}
		for _, family := range []int{4, 6} {
			for _, a := range attempts {
				t.Run(fmt.Sprintf("%s/IPv%d/%s", mode, family, a.name), func(t *testing.T) { a.try(t, gw.as(t), s, family, mode == "enforce") })
			}
		}
	}
	t.Run("Enforce/again", s.ordinary)
	t.Run("Output", func(t *testing.T) { outputs(t, gw.as(t)) })
}

// try makes the attempt under the eyes of a witness: observed it arrives and is
// recorded, enforced it does not.
func (a *attempt) try(t *testing.T, gw *process, s *shop, family int, enforced bool) {
	netns, to := s.outside.netns, port(s.outside.far[family], a.port)
	harm := func(f seen) bool { return f.tcp() != nil } // whatever address it has after NAT
	if a.receiver != nil {
		netns, to = a.receiver.netns, port(a.receiver.leg().at(family), a.port)
		harm = fromAny(a.from.leg().at(family))
	}
	if a.say != "" {
		harm = both(harm, func(f seen) bool { return f.tcp() != nil && strings.Contains(string(f.tcp().Payload), a.say[:4]) })
	}
	w := watch(t, netns, both(towards(to.Addr(), a.port), harm))
	source := a.act(t, to, enforced)
	if enforced {
		w.none(a.name)
	} else if len(w.close()) == 0 {
		t.Errorf("observed, and did not arrive")
	}
	src := a.from.leg().at(family)
	v := gw.violation(a.name, func(v ViolationView) bool {
		from, err := netip.ParseAddrPort(v.Source)
		return err == nil && from == port(src, int(source)) && v.Dest == to.String() && v.Reason != "no-flow"
	})
	a.check(t, v, enforced)
	if enforced {
		a.explained(t, gw, s, v)
	}
}

// act connects, says what there is to say, and returns the source port.
func (a *attempt) act(t *testing.T, to netip.AddrPort, enforced bool) (source uint16) {
	t.Helper()
	patience := livePatience
	if a.say == "" {
		patience = inVain
	}
	attemptPort++
	conn, err := dialFrom(a.from.netns, attemptPort, to, patience)
	if err != nil {
		if a.say != "" {
			t.Errorf("%s may connect to %s until it says what it is: %v", a.from.name, to, err)
		}
		return attemptPort
	}
	defer conn.Close()
	if a.say != "" {
		_ = sayOn(conn, a.say, inVain)
	} else if enforced {
		t.Errorf("%s connects to %s", a.from.name, to)
	}
	return attemptPort
}

var attemptPort uint16 = 61000 // each attempt has a flow of its own

func dialFrom(netns string, source uint16, to netip.AddrPort, patience time.Duration) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: int(source)}}
	err = inside(netns, func() (err error) {
		conn, err = dialer.Dial("tcp", to.String())
		return err
	})
	return conn, err
}

func (a *attempt) check(t *testing.T, v ViolationView, enforced bool) {
	t.Helper()
	verdict := "recorded"
	if enforced {
		verdict = "dropped"
	}
	if v.Verdict != verdict || v.Count == 0 {
		t.Errorf("the record says %s, count %d; want %s", v.Verdict, v.Count, verdict)
	}
	if side := cmp.Or(a.side, "out"); enforced && v.Side != side {
		t.Errorf("the record names the side %q, want %q\n%s", v.Side, side, violationLines([]ViolationView{v}))
	}
}

// explained checks that `explain` names side, model, and what to change.
func (a *attempt) explained(t *testing.T, gw *process, s *shop, v ViolationView) {
	out, code := gw.cli("explain", v.ID)
	if code != exitNo {
		t.Errorf("explain %s exits %d\n%s", v.ID, code, out)
	}
	for _, want := range []string{cmp.Or(a.side, "out"), "change"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain %s says nothing of %q:\n%s", v.ID, want, out)
		}
	}
	model := map[*container]string{s.app: "custom", s.web: "nginx", s.db: "postgresql", s.stranger: "postgresql"}[a.from]
	if !strings.Contains(out, model) {
		t.Errorf("explain %s does not name the model %s:\n%s", v.ID, model, out)
	}
}

func fromAny(src netip.Addr) func(seen) bool {
	return func(f seen) bool { from, _ := f.ends(); return from == src }
}

func stackStatements(t *testing.T, gw *process) {
	var all []StatementView
	gw.mustGet("/v1/statements", &all)
	var got []string
	for _, s := range all {
		if !strings.Contains(strings.Join(s.Text, " "), "ghe-shop/") {
			continue
		}
		if len(s.Origin) == 0 {
			t.Errorf("%v: no origin", s.Text)
		}
		for _, line := range s.Text {
			if s.Pending != "" {
				line += " [pending]"
			}
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
	}
	slices.Sort(got)
	want := []string{
		"allow @external -> ghe-shop/web : http tcp/80",
		"allow @external -> ghe-shop/web : tls(http) tcp/80",
		"allow @host -> ghe-shop/web : http tcp/80",
		"allow @host -> ghe-shop/web : tls(http) tcp/80",
		"allow ghe-shop/app -> @resolver : dns tcp/53,udp/53",
		"allow ghe-shop/app -> ghe-shop/cache : redis tcp/6379",
		"allow ghe-shop/app -> ghe-shop/db : postgresql+starttls tcp/5432",
		"allow ghe-shop/app -> ghe-shop/db : tls(postgresql) tcp/5432",
		"allow ghe-shop/web -> @resolver : dns tcp/53,udp/53",
		"allow ghe-shop/web -> ghe-shop/app : http tcp/8000",
		"allow ghe-shop/web -> ghe-shop/app : tls(http) tcp/8000",
	}
	if !slices.Equal(got, want) {
		t.Errorf("statements:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// outputs checks that every list is whole in both formats.
func outputs(t *testing.T, gw *process) {
	for _, what := range []string{"workloads", "services", "statements", "rules", "models", "flows", "violations"} {
		var fromJSON, fromYAML []map[string]any
		out, code := gw.cli("get", what, "-o", "json")
		if err := json.Unmarshal([]byte(out), &fromJSON); err != nil || code != exitGood || len(fromJSON) == 0 {
			t.Errorf("get %s -o json: %d, %d items, %v", what, code, len(fromJSON), err)
		}
		out, code = gw.cli("get", what, "-o", "yaml")
		if err := yaml.Unmarshal([]byte(out), &fromYAML); err != nil || code != exitGood || len(fromYAML) == 0 {
			t.Errorf("get %s -o yaml: %d, %d items, %v", what, code, len(fromYAML), err)
			continue
		}
		if what != "flows" && len(fromJSON) != len(fromYAML) {
			t.Errorf("get %s: %d items in JSON, %d in YAML", what, len(fromJSON), len(fromYAML))
		}
		for key := range fromJSON[0] {
			if _, ok := fromYAML[0][key]; !ok && what != "flows" {
				t.Errorf("get %s -o yaml lacks %s", what, key)
			}
		}
		if out, code := gw.cli("get", what); code != exitGood || strings.Count(out, "\n") < 2 {
			t.Errorf("get %s: %d\n%s", what, code, out)
		}
	}
	out, code := gw.cli("status", "-o", "yaml")
	var s map[string]any
	if err := yaml.Unmarshal([]byte(out), &s); err != nil || code != exitGood || s["ready"] != true {
		t.Errorf("status -o yaml: %d %v\n%s", code, err, out)
	}
	if out, code := gw.cli("explain", "--from", "ghe-shop/app", "--to", "ghe-shop/db", "--port", "tcp/5432", "--app", "postgresql"); code != exitGood {
		t.Errorf("explain of what is allowed exits %d\n%s", code, out)
	}
	for path, want := range map[string]string{"/metrics": "gatehouse_policy_epoch", "/livez": "alive", "/readyz": "ready"} {
		if said, err := fetch("", "http://"+gw.metrics+path); err != nil || !strings.Contains(said, want) {
			t.Errorf("%s: %q %v", path, said, err)
		}
	}
}

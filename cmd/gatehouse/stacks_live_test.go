package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// ensemble is a stack of the live tests: real servers that are enforced from
// their first packet, with nothing configured but what their deployer wrote.
type ensemble struct {
	project string // prefix of its projects
	network string // where the intruder joins
	members map[string]*container
	order   []string
	doors   []int // ports that an intruder tries at each member
	// futile is traffic of its own that cannot succeed, so that its drop harms nobody.
	futile func(ViolationView) bool
}

func newEnsemble(t *testing.T, project string, doors ...int) *ensemble {
	t.Helper()
	return &ensemble{project: project, members: map[string]*container{}, doors: doors,
		network: makeNetwork(t, project+"_default", ofProject(project)...)}
}

// enforced is the label by which a deployer asks for it.
const enforced = "gatehouse.mode=enforce"

// add runs a member of the ensemble; also are further networks that it joins
// before it starts.
func (e *ensemble) add(t *testing.T, p play, also ...string) *container {
	t.Helper()
	if p.project == "" {
		p.project = e.project
	}
	if p.network == "" {
		p.network = e.network
	}
	p.labels = append(p.labels, enforced)
	name := prepare(t, p)
	for _, n := range also {
		mustRun(t, "docker", "network", "connect", "--alias", p.service, n, name)
	}
	mustRun(t, "docker", "start", name)
	c := inspect(t, name)
	e.members[name] = c
	e.order = append(e.order, name)
	return c
}

// becomes waits until ask gives an answer that fits; servers take their time to start.
func becomes(t *testing.T, what string, ask func() (string, error), fits func(string) bool) string {
	t.Helper()
	var said string
	var err error
	for until := time.Now().Add(livePatience); time.Now().Before(until); time.Sleep(250 * time.Millisecond) {
		if said, err = ask(); err == nil && fits(said) {
			return said
		}
	}
	t.Errorf("%s: %.300q %v", what, said, err)
	return said
}

func holds(words string) func(string) bool {
	return func(said string) bool { return strings.Contains(said, words) }
}

// intrude puts a container of another project on the ensemble's network: it
// connects to no member, on no port, in neither family.
func (e *ensemble) intrude(t *testing.T, gw *process) {
	t.Helper()
	evil := perform(t, play{project: "ghe-evil", service: "tool", network: e.network})
	gw.admitted(evil)
	for _, name := range e.order {
		for legName, l := range e.members[name].legs {
			if legName != e.network {
				continue
			}
			for _, family := range []int{4, 6} {
				for _, door := range e.doors {
					to := netip.AddrPortFrom(l.at(family), uint16(door))
					attemptPort++
					if conn, err := dialFrom(evil.netns, attemptPort, to, 150*time.Millisecond); err == nil {
						conn.Close()
						t.Errorf("the intruder connects to %s on %s", name, to)
					}
				}
			}
		}
	}
}

// untroubled checks that nothing of the ensemble's own traffic was dropped or
// would have been.
func (e *ensemble) untroubled(t *testing.T, gw *process) {
	t.Helper()
	var all []ViolationView
	gw.mustGet("/v1/violations", &all)
	all = slices.DeleteFunc(all, func(v ViolationView) bool {
		ends := v.From + " " + v.To
		return !strings.Contains(ends, e.project) || strings.Contains(ends, "ghe-evil") || e.futile != nil && e.futile(v)
	})
	if len(all) > 0 {
		t.Errorf("the stack's own traffic:\n%s", violationLines(all))
	}
}

// Stacks of real servers, enforced from the first packet: what they are
// there for works, nothing of it is a violation, and a stranger among them gets
// nothing.
func TestLiveStacks(t *testing.T) {
	gw := startGateway(t)
	out, _ := makeInternet(t)
	for _, s := range []struct {
		name string
		run  func(*testing.T, *outside) *ensemble
	}{
		{"Front", liveFront}, {"Blog", liveBlog}, {"Monitoring", liveMonitoring}, {"Queue", liveQueue}, {"Mail", liveMail},
	} {
		t.Run(s.name, func(t *testing.T) {
			gw := gw.as(t)
			e := s.run(t, out)
			for _, name := range e.order {
				gw.admitted(e.members[name])
			}
			e.untroubled(t, gw)
			e.intrude(t, gw)
		})
	}
}

// liveFront: a proxy of one project, known as Traefik by its label, and an
// application of another that carries a route label (R5, R9).
func liveFront(t *testing.T, o *outside) *ensemble {
	needImages(t, "nginx:1", "postgres:15", "redis:7", "demo/app:1")
	e := newEnsemble(t, "ghe-front", 80, 8000, 5432, 6379)
	proxy := makeNetwork(t, "ghe-front-edge_proxy", ofProject("ghe-front-edge")...)
	e.add(t, play{service: "db", image: "postgres:15"})
	e.add(t, play{service: "cache", image: "redis:7"})
	e.add(t, play{service: "app", image: "demo/app:1", env: []string{"DATABASE_URL=postgresql://postgres@db/shop", "REDIS_URL=redis://cache:6379"},
		labels: []string{"traefik.enable=true", "traefik.http.services.app.loadbalancer.server.port=8000"}}, proxy)
	front := e.add(t, play{project: "ghe-front-edge", service: "traefik", image: "nginx:1", network: proxy, options: []string{"-p", "80"},
		labels: []string{"gatehouse.model=traefik"}, files: map[string]string{"/etc/nginx/conf.d/default.conf": webConfig}})
	v4, v6 := publishedAt(t, front)
	for _, at := range []string{v4, v6} {
		becomes(t, "outside -> front -> app -> db, cache at "+at, func() (string, error) { return fetch(o.netns, at) }, holds("rows="))
	}
	return e
}

// liveBlog: WordPress on MariaDB, with Redis beside it. It installs itself, is
// read, and calls its own public address (R11, R15).
func liveBlog(t *testing.T, o *outside) *ensemble {
	needImages(t, "wordpress:6-apache", "mariadb:10", "redis:7")
	e := newEnsemble(t, "ghe-blog", 80, 3306, 6379)
	e.add(t, play{service: "db", image: "mariadb:10"})
	e.add(t, play{service: "redis", image: "redis:7"})
	wordpress := e.add(t, play{service: "wordpress", image: "wordpress:6-apache", options: []string{"-p", "80"},
		env: []string{"WORDPRESS_DB_HOST=db", "WP_REDIS_HOST=redis"}})
	at, at6 := publishedAt(t, wordpress)
	becomes(t, "WordPress installs itself", func() (string, error) {
		answer, err := clientIn(o.netns).PostForm(at+"wp-admin/install.php?step=2", url.Values{"weblog_title": {"Gatehouse"}, "user_name": {"admin"},
			"admin_password": {"a long demo password"}, "admin_password2": {"a long demo password"}, "pw_weak": {"1"}, "admin_email": {"a@example.com"}})
		if err != nil {
			return "", err
		}
		return bodyOf(answer)
	}, func(said string) bool {
		return strings.Contains(said, "Success!") || strings.Contains(said, "Already Installed")
	})
	becomes(t, "the blog from outside", func() (string, error) { return fetch(o.netns, at) }, holds("Gatehouse"))
	becomes(t, "posts and visits", func() (string, error) { return fetch(o.netns, at+"counter.php") }, holds("ok posts="))
	becomes(t, "the same over IPv6", func() (string, error) { return fetch(o.netns, at6+"counter.php") }, holds("ok posts="))
	becomes(t, "its own public address", func() (string, error) { return fetch(wordpress.netns, at+"counter.php") }, holds("ok posts="))
	// WordPress asks its own URL by https, to see whether it could be moved
	// there; the port speaks plain HTTP, so that no answer would be one.
	e.futile = func(v ViolationView) bool {
		own := v.From == v.To || v.From == "@host"
		return v.To == "ghe-blog/wordpress" && own && v.Reason == "app" && strings.HasPrefix(v.App, "tls") && v.Port == 80
	}
	return e
}

const scrapeConfig = `global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [/etc/prometheus/rules.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ["alertmanager:9093"]}]}]}
scrape_configs:
  - {job_name: node, static_configs: [{targets: ["node-exporter:9100"]}]}
  - {job_name: alertmanager, static_configs: [{targets: ["alertmanager:9093"]}]}
`

const alertRules = "groups: [{name: g, rules: [{alert: AlwaysOn, expr: vector(1)}]}]\n"

const alertConfig = `route: {receiver: hook, group_wait: 0s}
receivers: [{name: hook, webhook_configs: [{url: "http://hook:8000/alert"}]}]
`

// liveMonitoring: Prometheus scrapes a node exporter and an Alertmanager of two
// replicas, which gossip; an alert comes to them and to their receiver.
func liveMonitoring(t *testing.T, _ *outside) *ensemble {
	needImages(t, "prom/prometheus:v2", "prom/alertmanager:v0", "prom/node-exporter:v1")
	e := newEnsemble(t, "ghe-mon", 9090, 9093, 9094, 9100)
	e.add(t, play{service: "node-exporter", image: "prom/node-exporter:v1"})
	hook := e.add(t, play{service: "hook"})
	var alerted atomic.Bool
	receiver := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		alerted.Store(alerted.Load() || strings.Contains(string(body), "AlwaysOn"))
	})}
	t.Cleanup(func() { receiver.Close() })
	go receiver.Serve(listen(t, hook.netns, "tcp", ":8000"))
	var alertmanagers [2]*container
	for n := range alertmanagers {
		alertmanagers[n] = e.add(t, play{name: fmt.Sprintf("ghe-mon-alertmanager-%d", n+1), service: "alertmanager", image: "prom/alertmanager:v0",
			command: []string{"--cluster.peer=alertmanager:9094"},
			files:   map[string]string{"/etc/prometheus/alertmanager.yml": alertConfig}})
	}
	// Prometheus knows its Alertmanagers some seconds after its start. What fires
	// before goes nowhere, and by default is sent again only after a minute.
	prometheus := e.add(t, play{service: "prometheus", image: "prom/prometheus:v2", command: []string{"--rules.alert.resend-delay=1s"},
		files: map[string]string{"/etc/prometheus/prometheus.yml": scrapeConfig, "/etc/prometheus/rules.yml": alertRules}})
	becomes(t, "both targets are up", func() (string, error) {
		return fetch(prometheus.netns, "http://127.0.0.1:9090/api/v1/query?query=sum(up)")
	}, holds(`"2"]`))
	becomes(t, "the replicas know each other", func() (string, error) {
		return fetch(alertmanagers[1].netns, "http://127.0.0.1:9093/api/v2/status")
	}, func(said string) bool {
		var s struct {
			Cluster struct{ Peers []any }
		}
		return json.Unmarshal([]byte(said), &s) == nil && len(s.Cluster.Peers) == 2
	})
	becomes(t, "the alert comes to one of them", func() (said string, err error) { // they do not pass alerts on
		for _, a := range alertmanagers {
			one, errOne := fetch(a.netns, "http://127.0.0.1:9093/api/v2/alerts")
			said, err = said+one, errors.Join(err, errOne)
		}
		return said, err
	}, holds("AlwaysOn"))
	eventually(t, "the alert comes to its receiver", alerted.Load, nil)
	return e
}

// liveQueue: Celery on RabbitMQ, results in PostgreSQL, and a reader of the
// broker's management API, all of one image with three commands (R3, R10).
func liveQueue(t *testing.T, _ *outside) *ensemble {
	needImages(t, "rabbitmq:3-management", "postgres:15", "demo/celery:1")
	e := newEnsemble(t, "ghe-queue", 5672, 15672, 25672, 4369, 5432, 8000, 5555)
	settings := []string{"CELERY_BROKER_URL=pyamqp://guest:guest@rabbitmq:5672//", "CELERY_RESULT_BACKEND=db+postgresql://postgres@db/shop"}
	e.add(t, play{service: "rabbitmq", image: "rabbitmq:3-management", options: []string{"--hostname", "rabbitmq"}})
	e.add(t, play{service: "db", image: "postgres:15"})
	e.add(t, play{service: "worker", image: "demo/celery:1", env: settings, options: []string{"--restart", "always"}})
	web := e.add(t, play{service: "web", image: "demo/celery:1", env: settings, command: []string{"python3", "web.py"}})
	reader := e.add(t, play{service: "flower", image: "demo/celery:1", env: settings,
		command: []string{"python3", "reader.py", "--broker_api=http://rabbitmq:15672/api/"}})
	becomes(t, "a task is done", func() (string, error) { return fetch(web.netns, "http://127.0.0.1:8000/") }, holds("sum=42"))
	becomes(t, "the reader sees the queue", func() (string, error) { return fetch(reader.netns, "http://127.0.0.1:5555/") }, holds("celery"))
	return e
}

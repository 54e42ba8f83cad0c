package models

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"gatehouse/policy"
)

// sameAfterYAML renders the model, reads it again and compares all that a file can say.
func sameAfterYAML(t *testing.T, m *Model) {
	t.Helper()
	text, err := m.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(fstest.MapFS{"again.yaml": {Data: text}}, m.Operator)
	if err != nil {
		t.Fatalf("%v\nof\n%s", err, text)
	}
	if len(again) != 1 {
		t.Fatalf("%d models of\n%s", len(again), text)
	}
	if got, want := said(again[0]), said(m); !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\nwas %+v\nby\n%s", got, want, text)
	}
}

// said leaves out where a model was read, and what a file does not tell apart.
func said(m *Model) Model {
	c := *m
	c.File, c.decl, c.Ancestors = "", nil, nil
	if len(c.Labels) == 0 {
		c.Labels = nil
	}
	if len(c.Features) == 0 {
		c.Features = nil
	}
	for _, list := range []*[]string{&c.Hints.Env, &c.Hints.Commands} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	return c
}

func TestYAMLRoundTrip(t *testing.T) {
	for _, m := range builtinLibrary(t).Models() {
		sameAfterYAML(t, m)
	}
	for name, text := range map[string]string{
		"nobody":   withServes(webKeys + "to: []"),
		"when":     withServes(webKeys + "to: []\nwhen: {any: [{all: [{env: A=1}, {arg: --a}]}, {not: {tag: \"*-fpm*\"}}, {published: udp/1-2}, {command: x}]}"),
		"peers":    withCalls(webKeys + "to: [{service: a/b}, {project: same}, {label: k=v, within: shared}, {name: \"*.example.com\"}, {cidr: \"2001:db8::/32\"}, {peer: ingress}]"),
		"icmp":     withCalls("id: ping\napp: icmp\nports: [icmp]\nto: [{peer: host}]"),
		"words":    strings.Replace(modelHead, "title: own", "title: \"true\"", 1),
		"extends":  modelHead + "extends: nginx\nremove: [web]\ndocs: []\nroles: []\n",
		"routes":   modelHead + "routes: {env: VIRTUAL_HOST, port: VIRTUAL_PORT}\n",
		"registry": strings.Replace(modelHead, "acme/own", "docker.io/localhost/x, docker.io/a.b/x, registry.example:5000/x", 1),
	} {
		ms, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(text)}}, true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sameAfterYAML(t, ms[0])
	}
}

// Nobody stays an empty list in JSON; a reader must not take it for "any".
func TestJSON(t *testing.T) {
	data, err := json.Marshal(builtinLibrary(t).Model("traefik"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Model  string
		Serves []map[string]any
	}
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	if to, ok := m.Serves[0]["to"].([]any); m.Model != "traefik" || !ok || len(to) != 0 {
		t.Errorf("%s: to of the first entry: %#v", m.Model, m.Serves[0]["to"])
	}
}

func TestLibraryContents(t *testing.T) {
	l := builtinLibrary(t)
	for _, name := range strings.Fields(`postgresql redis nginx traefik wordpress rabbitmq prometheus custom hfs
		httpd haproxy caddy envoy mysql mariadb mssql mongodb valkey memcached kafka zookeeper elasticsearch opensearch cassandra
		nats mosquitto etcd consul grafana alertmanager node-exporter cadvisor nextcloud gitlab gitea postfix dovecot openldap bind
		coredns openssh samba vsftpd minio registry php-fpm tomcat influxdb clickhouse vault keycloak`) {
		if l.Model(name) == nil {
			t.Errorf("no model %s", name)
		}
	}
	for _, m := range l.Models() {
		if len(m.Roles) == 0 {
			t.Errorf("%s has no role", m.Name)
		}
		if m.File != "library/"+m.Name+".yaml" {
			t.Errorf("%s is in %s", m.Name, m.File)
		}
		for _, doc := range m.Docs {
			if !strings.HasPrefix(doc, "https://") && !strings.HasPrefix(doc, "docs/") {
				t.Errorf("%s: docs %s", m.Name, doc)
			}
		}
	}
}

// What no model of the library may open: application "any" towards the outside
// without saying why, metadata and orchestrator addresses, data stores that
// call out.
func TestLibraryIsTight(t *testing.T) {
	outside := []string{"external", "internet", "site", "host", "node", "metadata", "orchestrator", "broadcast"}
	for _, m := range builtinLibrary(t).Models() {
		store := m.DNS == DNSNone
		m.lists(func(key string, entries []Entry) {
			for _, e := range entries {
				for _, p := range e.To {
					at := m.Name + " " + key + "#" + e.ID
					if p.Peer == "metadata" || p.Peer == "orchestrator" || p.Peer == "broadcast" {
						t.Errorf("%s names %s", at, p.Peer)
					}
					if strings.HasSuffix(key, "serves") && slices.Contains(outside, p.Peer) {
						t.Errorf("%s serves %s by itself; only a published port does that", at, p.Peer)
					}
					if store && strings.HasSuffix(key, "calls") && (slices.Contains(outside, p.Peer) || p.Name != "" || p.CIDR != "") {
						t.Errorf("%s calls outside without DNS", at)
					}
					if e.AnyApp && slices.Contains(outside, p.Peer) && e.Note == "" {
						t.Errorf("%s: any application to %s without a note", at, p.Peer)
					}
				}
			}
		})
	}
}

// A feature that is on by itself names no host where anybody may leave data.
func TestLibraryFeaturesCannotLeak(t *testing.T) {
	anybody := []string{"storage.googleapis.com", "api.github.com", "github.com", "s3.amazonaws.com", "*.amazonaws.com", "*.blob.core.windows.net", "huggingface.co", "*.hf.co"}
	for _, m := range builtinLibrary(t).Models() {
		for name, f := range m.Features {
			for _, e := range f.Calls {
				for _, p := range e.To {
					if f.Default && slices.Contains(anybody, p.Name) {
						t.Errorf("%s feature %s, on by default, names %s", m.Name, name, p.Name)
					}
				}
			}
		}
	}
}

// The golden example's database: a plain connection or an upgraded one.
func TestLibraryMariaDB(t *testing.T) {
	m := builtinLibrary(t).Model("mariadb")
	sql := m.Serves[0]
	if sql.ID != "sql" || sql.App != policy.AppMySQL || sql.TLS != policy.TLSStart || sql.To[0].Role != "app-server" || m.DNS != DNSNone {
		t.Errorf("%+v", sql)
	}
}

func TestPublishOf(t *testing.T) {
	l := builtinLibrary(t)
	for where, want := range map[string]Publish{
		"wordpress/web":         PublishAny,  // [app-server, web-server]
		"redis/resp":            PublishSite, // [cache, database]
		"nginx/web":             PublishAny,
		"gitlab/git":            PublishAny, // said, beside role ci
		"keycloak/web":          PublishAny, // said, beside role directory
		"postgresql/sql":        PublishSite,
		"postgresql/standby":    PublishNone, // cluster
		"postfix/smtp":          PublishAny,
		"jellyfin/web":          PublishAny,
		"wireguard/tunnel":      PublishAny,
		"bind/dns":              PublishAny,
		"pihole/dns":            PublishSite, // said
		"prometheus/api":        PublishSite,
		"node-exporter/metrics": PublishHost,
		"rabbitmq/management":   PublishSite, // said, of kind admin
		"mongodb/members":       PublishNone,
		"zookeeper/admin":       PublishHost,
		"hfs/files":             PublishNone,
		"custom/declared":       PublishAny,
		"immich/web":            PublishAny,
		"openssh/ssh":           PublishSite,
	} {
		model, id, _ := strings.Cut(where, "/")
		m := l.Model(model)
		i := slices.IndexFunc(m.Serves, func(e Entry) bool { return e.ID == id })
		if i < 0 {
			t.Errorf("no entry %s", where)
			continue
		}
		if got := m.PublishOf(&m.Serves[i]); got != want {
			t.Errorf("%s: %s, want %s", where, got, want)
		}
	}
	if got := (&Model{}).PublishOf(&Entry{}); got != PublishSite {
		t.Errorf("without roles: %s", got)
	}
}

// The engine's client keeps the values of these keys only, so none may be secret.
func TestEnvAndArgKeys(t *testing.T) {
	l := builtinLibrary(t)
	for _, want := range []string{"PGPORT", "KAFKA_ADVERTISED_LISTENERS", "MSSQL_TCP_PORT", "VIRTUAL_PORT"} {
		if !slices.Contains(l.EnvKeys(), want) {
			t.Errorf("no %s in %v", want, l.EnvKeys())
		}
	}
	for _, want := range []string{"--port", "--tls-port", "--sentinel"} {
		if !slices.Contains(l.ArgKeys(), want) {
			t.Errorf("no %s in %v", want, l.ArgKeys())
		}
	}
	for _, key := range slices.Concat(l.EnvKeys(), l.ArgKeys()) {
		if key == "" || secretPattern.MatchString(key) {
			t.Errorf("asks for %q", key)
		}
	}
	for _, want := range []string{"pg_dump", "redis-cli", "redis-server"} {
		if !slices.Contains(l.CommandWords(), want) {
			t.Errorf("no %s in %v", want, l.CommandWords())
		}
	}
	own := withOperator(t, withServes(webKeys+"to: []\nwhen: {all: [{env: MODE=proxy}, {not: {arg: --quiet}}]}"))
	if !slices.Contains(own.EnvKeys(), "MODE") || !slices.Contains(own.ArgKeys(), "--quiet") {
		t.Errorf("%v %v", own.EnvKeys(), own.ArgKeys())
	}
}

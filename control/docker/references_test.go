package docker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"gatehouse/policy"
)

// texts shows references as "SOURCE>HOST:PORT/SCHEME".
func texts(refs []policy.Reference) []string {
	var out []string
	for _, r := range refs {
		s := r.Source + ">" + r.Host
		if r.Port != 0 {
			s += fmt.Sprintf(":%d", r.Port)
		}
		if r.Scheme != "" {
			s += "/" + r.Scheme
		}
		if r.Weak {
			s += " weak"
		}
		out = append(out, s)
	}
	return out
}

func TestParseReferencesOfEnvironment(t *testing.T) {
	for _, c := range []struct {
		env  string // ; between variables would hide DSNs, so newlines
		want []string
	}{
		{"WORDPRESS_DB_HOST=db:3306", []string{"env WORDPRESS_DB_HOST>db:3306"}},
		{"DB_HOST=db\nDB_PORT=5433", []string{"env DB_HOST>db:5433"}},
		{"DBHOST=db\nDBPORT=5433", []string{"env DBHOST>db:5433"}},
		{"SMTP_SERVER=smtp.example.com\nSMTP_PORT=587", []string{"env SMTP_SERVER>smtp.example.com:587"}},
		{"DATABASE_URL=postgresql://u:p@db/shop", []string{"env DATABASE_URL>db/postgresql"}},
		{"DATABASE_URL=postgres://u:p@db:5433/shop?sslmode=disable", []string{"env DATABASE_URL>db:5433/postgresql"}},
		{"DATABASE_URL=postgresql+asyncpg://db/x", []string{"env DATABASE_URL>db/postgresql"}},
		{"CELERY_BROKER_URL=pyamqp://guest:guest@rabbitmq//", []string{"env CELERY_BROKER_URL>rabbitmq/amqp"}},
		{"CELERY_RESULT_BACKEND=db+postgresql://u:p@db/celery", []string{"env CELERY_RESULT_BACKEND>db/postgresql"}},
		{"JDBC=jdbc:postgresql://db:5432/x?user=a&password=b", []string{"env JDBC>db:5432/postgresql"}},
		{"SPRING_DATASOURCE_URL=jdbc:sqlserver://mssql:1433;databaseName=x;user=sa;password=Secret1", []string{"env SPRING_DATASOURCE_URL>mssql:1433/sqlserver"}},
		{"ORA=jdbc:oracle:thin:@ora:1521:XE", []string{"env ORA>ora:1521/oracle"}},
		{"MONGO=mongodb://u:p@m1:27017,m2:27018/x?replicaSet=rs", []string{"env MONGO>m1:27017/mongodb", "env MONGO>m2:27018/mongodb"}},
		{"KAFKA_LISTENERS=PLAINTEXT://k1:9092,SSL://k2:9093", []string{"env KAFKA_LISTENERS>k1:9092/plaintext", "env KAFKA_LISTENERS>k2:9093/ssl"}},
		{"BOOTSTRAP_SERVERS=k1:9092,k2:9092", []string{"env BOOTSTRAP_SERVERS>k1:9092", "env BOOTSTRAP_SERVERS>k2:9092"}},
		{"VOTERS=1@k1:9093,2@k2:9093", []string{"env VOTERS>k1:9093", "env VOTERS>k2:9093"}},
		{"ZOO_SERVERS=server.1=zoo1:2888:3888;2181 server.2=zoo2:2888:3888;2181", []string{"env ZOO_SERVERS>zoo1:2888", "env ZOO_SERVERS>zoo1:3888", "env ZOO_SERVERS>zoo2:2888", "env ZOO_SERVERS>zoo2:3888"}},
		{"discovery.seed_hosts=es02,es03", []string{"env discovery.seed_hosts>es02", "env discovery.seed_hosts>es03"}},
		{"discovery.type=single-node", nil},
		{"DSN=root:secret@tcp(db:3306)/shop?parseTime=true", []string{"env DSN>db:3306"}},
		{"CONN=host=db port=5432 user=x password=hunter2", []string{"env CONN>db:5432"}},
		{"CONN=Server=tcp:mssql,1433;Database=x;User Id=sa;Password=hunter2", []string{"env CONN>mssql:1433"}},
		{"CONN=Server=db;Port=3306;Uid=u;Pwd=hunter2", []string{"env CONN>db:3306"}},
		{"CONN=Data Source=mssql;Password=hunter2", []string{"env CONN>mssql"}},
		{"NODES=10.0.0.5:7000 10.0.0.6:7000", []string{"env NODES>10.0.0.5:7000", "env NODES>10.0.0.6:7000"}},
		{"DB_HOST=2001:db8::5", []string{"env DB_HOST>2001:db8::5"}},
		{"URL=http://[2001:db8::5]:8080/x", []string{"env URL>2001:db8::5:8080/http"}},
		{"DOCKER_HOST=tcp://docker:2376", []string{"env DOCKER_HOST>docker:2376/tcp"}},
		{"DOCKER_HOST=unix:///var/run/docker.sock", nil},
		{"LISTEN_HOST=0.0.0.0", nil},
		{"LISTEN_ADDR=127.0.0.1:80", nil},
		{"API_HOST=localhost", nil},
		{"API_HOST=true", nil},
		{"NAME=db", nil},
		{"IMAGE=redis:7", nil},
		{"START=10:30", nil},
		{"CONFIG_URL=/etc/app.yaml", nil},
		{"RABBITMQ_CLUSTER_NODE_NAME=rabbit@queue1", []string{"env RABBITMQ_CLUSTER_NODE_NAME>queue1"}},
		{"RABBITMQ_NODENAME=rabbit@queue1", []string{"env RABBITMQ_NODENAME>queue1"}},
		{"ERLANG_NODE_ARG=ejabberd@chat1", []string{"env ERLANG_NODE_ARG>chat1"}},
		{"ADMIN_EMAIL=admin@example", nil},
		{"NODE_ADMIN_EMAIL=admin@example", nil},
		{"NODE_PACKAGES=@acme/billing left-pad", nil},
		{"NODE_OPTIONS=--require @acme/billing", nil},
		{"NODE_LOGINSTRING=root:p@ssw0rd", nil},
		{"DB_HOST=DB.Example.COM.", []string{"env DB_HOST>db.example.com"}},
		{"DB_HOST=${OTHER}", nil},
		// Secrets: nothing of a password or a token may survive.
		{"DB_PASSWORD=foo:1234", nil},
		{"API_TOKEN=abc:99", nil},
		{"NEO4J_AUTH=neo4j:1234", nil},
		{"AUTH_SERVERS=ns1,ns2:5353", []string{"env AUTH_SERVERS>ns1", "env AUTH_SERVERS>ns2:5353"}},
		{"SESSION_REDIS_HOST=cache\nSESSION_REDIS_PORT=6380", []string{"env SESSION_REDIS_HOST>cache:6380"}},
		{"HOST_AUTH=neo4j:1234", nil},
		{"SERVER_SESSION=cache", nil},
		{"AUTH_TOKEN_HOST=cache", nil},
		{"SESSIONHOST_KEY=cache", nil},
		{"SECRET_KEY=http://secret/x", nil},
		{"OIDC_TOKEN_URL=https://idp/token", []string{"env OIDC_TOKEN_URL>idp/https"}},
		{"ADMIN_USER=admin:1234", nil},
		{"URL=postgres://user:pa/ss@db/x", nil},
		{"URL=postgres://user:12/ss@db/x", nil},
		{"URL=postgres://user:p?ss@db/x", nil},
		{"URL=postgres://user:p@ss@db/x", []string{"env URL>db/postgresql"}},
	} {
		got := texts(ParseReferences(Spoken{Env: strings.Split(c.env, "\n")}))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s\n got %q\nwant %q", c.env, got, c.want)
		}
	}
}

func TestParseReferencesOfCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"flower", "--broker_api=http://guest:guest@rabbitmq:15672/api/"}, []string{"arg --broker_api>rabbitmq:15672/http"}},
		{[]string{"app", "--db-host", "db"}, []string{"arg --db-host>db"}},
		{[]string{"app", "--name", "db"}, nil},
		{[]string{"wait-for-it.sh", "db:5432", "--", "app"}, []string{"command>db:5432"}},
		{[]string{"sh", "-c", "until curl -s -u elastic:1234 https://es01:9200; do sleep 30; done"}, []string{"command>es01:9200/https"}},
		{[]string{"bash", "-c", "psql \"host=db user=x password=y\""}, []string{"command host>db"}},
		{[]string{"mysqld", "--report-host=db2"}, []string{"arg --report-host>db2"}},
		{[]string{"curl", "--user", "admin:1234", "http://api"}, []string{"command>api/http"}},
		{[]string{"redis-server", "--requirepass", "foo:1234"}, nil},
		{[]string{"redis-server", "--replicaof", "primary", "6380", "--port", "1"}, []string{"arg --replicaof>primary:6380"}},
		{[]string{"redis-server", "--slaveof", "primary 6379"}, []string{"arg --slaveof>primary:6379"}},
		{[]string{"redis-server", "--replicaof", "no", "one"}, nil},
		{[]string{"sh", "-c", "echo 'sentinel monitor m primary 6379 2' > /s.conf; exec redis-sentinel /s.conf"}, []string{"command sentinel>primary:6379"}},
		{[]string{"sentinel", "monitor", "m"}, nil},
		{[]string{"sh", "-c", "redis-server --replicaof primary 6379"}, []string{"arg --replicaof>primary:6379"}},
		{[]string{"sh", "-c", "while true; do pg_dump -h db -U postgres shop > /b; sleep 3600; done"}, []string{"arg -h>db/postgresql"}},
		{[]string{"/usr/bin/mysqldump", "-hdb", "-uroot", "-phunter2"}, []string{"arg -h>db/mysql"}},
		{[]string{"redis-cli", "-h", "cache", "-a", "hunter2", "ping"}, []string{"arg -h>cache/redis"}},
		{[]string{"pg_dump", "--host=db", "--port", "5433"}, []string{"arg --host>db/postgresql"}},
		{[]string{"mongosh", "--host", "db1:27018"}, []string{"arg --host>db1:27018/mongodb"}},
		{[]string{"smbclient", "-U", "u", "//nas/share", "-c", "ls"}, []string{"command>nas/smb"}},
		{[]string{"smbclient", "-N", "//nas/share", "-c", "ls"}, []string{"command>nas/smb"}},
		{[]string{"smbclient", "-L", "//nas"}, []string{"command>nas/smb"}},
		{[]string{"app", "//nas/share"}, nil},
		{[]string{"sh", "-c", "rabbitmqctl stop_app; rabbitmqctl join_cluster rabbit@rabbit1"}, []string{"command join_cluster>rabbit1"}},
		{[]string{"nats-server", "--cluster", "nats://0.0.0.0:6222", "--routes=nats://u:p@nats:6222"}, []string{"arg --routes>nats:6222/nats"}},
		{[]string{"mariadbd", "--wsrep_cluster_address=gcomm://a,b"}, []string{"arg --wsrep_cluster_address>a/gcomm", "arg --wsrep_cluster_address>b/gcomm"}},
		{[]string{"etcd", "--initial-cluster", "a=http://a:2380,b=http://b:2380"}, []string{"arg --initial-cluster>a:2380/http", "arg --initial-cluster>b:2380/http"}},
		{[]string{"psql", "-hdb=1"}, nil},
		{[]string{"app", "-h", "db"}, nil},
		{[]string{"consul", "agent", "-retry-join=c1", "-retry-join", "c2"}, []string{"arg -r***>c1", "arg -r***>c2"}},
		{[]string{"cockroach", "start", "--join=r1,r2:26257"}, []string{"arg --join>r1", "arg --join>r2:26257"}},
		{[]string{"scylla", "--seeds=s1"}, []string{"arg --seeds>s1"}},
		{[]string{"app", "-a", "foo:1234"}, nil},
	} {
		for i := range c.args { // Docker runs the entry point with the command behind it
			got := texts(ParseReferences(Spoken{Entrypoint: c.args[:i], Command: c.args[i:]}))
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, %q\n got %q\nwant %q", c.args[:i], c.args[i:], got, c.want)
			}
		}
	}
}

func TestParseReferencesOfRelations(t *testing.T) {
	got := texts(ParseReferences(Spoken{
		Links: []string{"/db:/web/mysql"}, DependsOn: "db:service_healthy:false,redis:service_started:true", DNS: []string{"172.22.1.254"},
	}))
	want := []string{"depends_on>db weak", "depends_on>redis weak", "dns>172.22.1.254:53/dns", "link>db weak"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestReferencesAreBounded(t *testing.T) {
	var env []string
	for i := range 100_000 {
		env = append(env, fmt.Sprintf("K%d_HOST=h%d", i, i))
	}
	if got := len(ParseReferences(Spoken{Env: env})); got != maxReferences {
		t.Errorf("%d references", got)
	}
	big := "A_HOST=" + strings.Repeat("x://", 1<<18)
	if got := ParseReferences(Spoken{Env: []string{big}, Command: []string{strings.Repeat("a b ", 1<<20)}}); len(got) != 0 {
		t.Errorf("%d references of noise", len(got))
	}
}

func FuzzParseReferences(f *testing.F) {
	for _, s := range []string{
		"postgres://user:hunter2@db:5432/x", "user:hunter2@tcp(db:3306)/x", "host=db password=hunter2 port=1", "Server=tcp:db,1433;Password=hunter2",
		"http://[::1]:80", "a:1,b:2", "server.1=z:1:2;3", "jdbc:oracle:thin:@h:1:s", "://", "@", "[", "[]:", "x://]@", "a://b@[", "\xff://\x00",
		"--flag=http://h", "sh -c 'curl http://h'", ",,,;;;", "tcp(", "=", "::", "mongodb://a,b,,c:",
	} {
		f.Add("DATABASE_URL", s)
		f.Add("X", s)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		spoken := Spoken{Env: []string{key + "=" + value, "P_PORT=1"}, Entrypoint: []string{value}, Command: []string{"-x", value, key, value}, Links: []string{value}, DependsOn: value, DNS: []string{value}}
		refs := ParseReferences(spoken)
		if len(refs) > maxReferences || !slices.IsSortedFunc(refs, compareReferences) {
			t.Fatalf("%d references, or not sorted", len(refs))
		}
		for _, r := range refs {
			if !validHost(r.Host) || strings.ContainsAny(r.Host, "@/?# ") || !utf8.ValidString(r.Host) || len(r.Scheme) > 32 {
				t.Fatalf("reference %+v", r)
			}
		}
	})
}

// FuzzNoSecret holds that a password in a URL's user part never shows in what is
// kept, however it is written.
func FuzzNoSecret(f *testing.F) {
	for _, s := range []string{"", "/", "@", "#", "?x", ":", "12/", ",", "p:1", "[", "]", "%40", "://"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "zq7secretzq7"
		url := "postgres://user:" + before + secret + after + "@db:5432/x"
		if strings.ContainsAny(before+after, " \t\r\n\"'`<>|") || strings.Count(url, "://") != 1 {
			t.Skip() // ends the word that the URL is
		}
		for _, r := range ParseReferences(Spoken{Env: []string{"DATABASE_URL=" + url}, Command: []string{url, "--db=" + url, "--db", url}}) {
			if strings.Contains(r.Host, secret) || strings.Contains(r.Scheme, secret) || strings.Contains(r.Source, secret) {
				t.Fatalf("%q leaks as %+v", url, r)
			}
		}
		for _, kept := range redactCommand([]string{"app", url, "--db=" + url, "--db", url}, true, kept{args: set([]string{"--db"})}) {
			if strings.Contains(kept, secret) {
				t.Fatalf("%q leaks as %q", url, kept)
			}
		}
	})
}

func TestRedactCommand(t *testing.T) {
	keep := kept{args: set([]string{"--port", "-p", "-cluster", "--listen", "--requirepass"}), words: set([]string{"worker", "caddy"})}
	for _, c := range []struct{ args, want []string }{
		{[]string{"redis-server", "--port", "6380"}, []string{"redis-server", "--port", "6380"}},
		{[]string{"redis-server", "--port=6380", "--requirepass", "6380"}, []string{"redis-server", "--port=6380", "--requirepass", redacted}},
		{[]string{"app", "--port", "no", "--requirepass", "no"}, []string{"app", "--port", "no", "--requirepass", redacted}},
		{[]string{"app", "--port", "NO"}, []string{"app", "--port", "NO"}},
		{[]string{"celery", "-A", "proj", "worker"}, []string{"celery", "-A", redacted, "worker"}},
		{[]string{"mysql", "-phunter2", "-cluster"}, []string{"mysql", "-p" + redacted, "-cluster"}},
		{[]string{"memcached", "-p", "11212"}, []string{"memcached", "-p", "11212"}},
		{[]string{"mongosh", "-u", "root", "-p", "hunter2"}, []string{"mongosh", "-u", redacted, "-p", redacted}},
		{[]string{"etcd", "--listen=http://0.0.0.0:2379,http://[::]:2379"}, []string{"etcd", "--listen=http://0.0.0.0:2379,http://[::]:2379"}},
		{[]string{"etcd", "--listen=http://u:p@h:2379"}, []string{"etcd", "--listen=" + redacted}},
		{[]string{"sh", "-c", "echo $SECRET"}, []string{"sh", "-c", redacted, redacted}},
		{[]string{"/bin/sh", "-c", "PW=hunter2 exec caddy --port 6380 --requirepass hunter2 -phunter2"},
			[]string{"/bin/sh", "-c", "PW=" + redacted, redacted, "caddy", "--port", "6380", "--requirepass", redacted, "-p" + redacted}},
		{[]string{"-c", "caddy"}, []string{"-c", redacted}},
		{[]string{"app", "-c", "caddy --port 1"}, []string{"app", "-c", redacted}},
		{[]string{"htpasswd", "-Bbn", "admin", "hunter2"}, []string{"htpasswd", "-B" + redacted, redacted, redacted}},
		{[]string{"app", "password=hunter2", "http://u:p@h/x", "/usr/bin/caddy", "run"}, []string{"app", "password=" + redacted, redacted, "/usr/bin/caddy", redacted}},
		{[]string{"app", "--token=abc", "--name=x"}, []string{"app", "--token=" + redacted, "--name=" + redacted}},
	} {
		if got := redactCommand(c.args, true, keep); !slices.Equal(got, c.want) {
			t.Errorf("%q\n got %q\nwant %q", c.args, got, c.want)
		}
	}
	if got := redactCommand([]string{"hunter2", "worker"}, false, keep); !slices.Equal(got, []string{redacted, "worker"}) {
		t.Errorf("arguments of the image's entrypoint: %q", got)
	}
}

func TestKeptEnv(t *testing.T) {
	keep := set([]string{"PGPORT", "DB_PASSWORD", "URL"})
	got := keptEnv([]string{"PGPORT=1", "DB_PASSWORD=x", "OTHER=y", "URL=http://u:p@h"}, keep)
	if len(got) != 2 || got["PGPORT"] != "1" || got["URL"] != "http://h" {
		t.Errorf("%v", got)
	}
}

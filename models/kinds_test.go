package models

import (
	"slices"
	"strings"
	"testing"
)

// kinds is the software that the library knows at least, as people call it,
// with the model that stands for it.
const kinds = `
MS-SQL-Server=mssql MongoDB=mongodb MySQL=mysql MariaDB=mariadb PostgreSQL=postgresql Oracle=oracle Cassandra=cassandra
Redis=redis Valkey=valkey Memcached=memcached Elasticsearch=elasticsearch OpenSearch=opensearch InfluxDB=influxdb
ClickHouse=clickhouse CockroachDB=cockroachdb etcd=etcd Neo4j=neo4j CouchDB=couchdb
HDFS=hadoop NameNode=hdfs-namenode DataNode=hdfs-datanode
Sendmail=sendmail Postfix=postfix qmail=qmail Exchange=exchange Dovecot=dovecot
Qpid=qpid RabbitMQ=rabbitmq ActiveMQ=activemq Kafka=kafka NATS=nats Mosquitto=mosquitto Pulsar=pulsar
Apache=httpd IIS=iis Nginx=nginx Caddy=caddy Traefik=traefik HAProxy=haproxy Envoy=envoy Tomcat=tomcat
Kamailio=kamailio Asterisk=asterisk FreeSWITCH=freeswitch Avaya=avaya
Icecast=icecast nginx-rtmp=nginx-rtmp Jellyfin=jellyfin Janus=janus coturn=coturn
HFS=hfs Samba=samba NFS=nfs-server vsftpd=vsftpd SFTP=sftp Windows-file-server=windows-file-server
Lustre=lustre MinIO=minio Ceph-RGW=ceph-rgw Centera=centera Scality=scality
Active-Directory=active-directory Samba-AD=samba-ad OpenLDAP=openldap 389DS=389ds Keycloak=keycloak
BIND=bind CoreDNS=coredns PowerDNS=powerdns Unbound=unbound
Prometheus=prometheus Grafana=grafana Alertmanager=alertmanager node-exporter=node-exporter cAdvisor=cadvisor
Zabbix=zabbix Loki=loki Jaeger=jaeger OpenTelemetry-Collector=otel-collector Portainer=portainer Watchtower=watchtower
Vault=vault Consul=consul Nomad=nomad
GitLab=gitlab Gitea=gitea Jenkins=jenkins runners=gitlab-runner runners=gitea-runner runners=github-runner
registry=registry Harbor=harbor Nexus=nexus
WordPress=wordpress Nextcloud=nextcloud Ghost=ghost Drupal=drupal Mattermost=mattermost Odoo=odoo
Home-Assistant=home-assistant Vaultwarden=vaultwarden
node=language-runtime python=language-runtime golang=language-runtime php-fpm=php-fpm openjdk=language-runtime
dotnet=language-runtime ruby=language-runtime
agent-sandbox=agent-sandbox`

func TestLibraryKnowsKinds(t *testing.T) {
	l := builtinLibrary(t)
	for _, word := range strings.Fields(kinds) {
		kind, model, ok := strings.Cut(word, "=")
		if ok && l.Model(model) == nil {
			t.Errorf("%s: no model %s", kind, model)
		}
	}
	if n := len(l.Models()); n < 120 {
		t.Errorf("%d models, want at least 120", n)
	}
}

// clustered is software whose nodes talk to each other.
const clustered = `mssql mongodb mysql mariadb postgresql oracle cassandra redis valkey elasticsearch opensearch clickhouse
	cockroachdb etcd neo4j couchdb hadoop hdfs-namenode exchange qpid rabbitmq activemq kafka nats pulsar zookeeper kamailio
	ceph-rgw centera scality minio active-directory samba-ad openldap 389ds keycloak bind powerdns alertmanager loki vault
	consul nomad solr redpanda scylladb windows-file-server avaya`

// A cluster's nodes call what they serve each other, by the same model.
func TestLibraryKnowsClusters(t *testing.T) {
	l := builtinLibrary(t)
	of := func(entries []Entry) []Entry {
		var out []Entry
		for _, e := range entries {
			if e.Kind == KindCluster {
				out = append(out, e)
			}
		}
		return out
	}
	for _, name := range strings.Fields(clustered) {
		m := l.Model(name)
		if m == nil {
			t.Errorf("no model %s", name)
			continue
		}
		if len(of(m.Serves)) == 0 || len(of(m.Calls)) == 0 {
			t.Errorf("%s: nothing between its nodes", name)
		}
	}
	for _, m := range l.Models() {
		for _, s := range of(m.Serves) {
			if !isCalledBy(s, of(m.Calls)) {
				t.Errorf("%s@%d#%s: no entry of kind cluster calls it", m.Name, m.Revision, s.ID)
			}
		}
	}
}

func isCalledBy(s Entry, calls []Entry) bool {
	for _, c := range calls {
		if _, ok := intersectApps(c.appMatch(), s.appMatch()); !ok {
			continue
		}
		for _, ct := range c.Ports {
			for _, st := range s.Ports {
				if ct.Word == "callee" || st.Word != "" || ct.Word == "" && ct.Range.Proto == st.Range.Proto && ct.Range.Lo <= st.Range.Hi && st.Range.Lo <= ct.Range.Hi {
					return true
				}
			}
		}
	}
	return false
}

// What a model calls by role or model, some model of the library serves it: an
// entry that the other side has no answer to gives nothing, and what its note
// promises does not come about.
func TestLibraryCallsAreAnswered(t *testing.T) {
	l := builtinLibrary(t)
	for _, m := range l.Models() {
		m.lists(func(key string, entries []Entry) {
			if !strings.HasSuffix(key, "calls") {
				return
			}
			for _, call := range entries {
				for _, p := range call.To {
					if (p.Role != "" || p.Model != "") && p.Service == "" && p.Label == "" && p.Peer == "" && !isAnswered(l, m, &call, &p) {
						t.Errorf("%s@%d#%s: nobody of %s serves it", m.Name, m.Revision, call.ID, p.text())
					}
				}
			}
		})
	}
}

// isAnswered reports whether a model that p means has an entry for such a call by m.
func isAnswered(l *Library, m *Model, call *Entry, p *PeerTerm) bool {
	return slices.ContainsFunc(l.Models(), func(o *Model) bool {
		return (p.Role == "" || slices.Contains(o.Roles, p.Role)) && (p.Model == "" || isMeant(o, p.Model)) &&
			slices.ContainsFunc(o.Serves, func(s Entry) bool {
				return (call.Callee || isCalledBy(s, []Entry{*call})) && slices.ContainsFunc(s.To, func(q PeerTerm) bool {
					return q.Role != "" && slices.Contains(m.Roles, q.Role) || q.Model != "" && isMeant(m, q.Model) ||
						q.Project == "same" || q.Peer == "workload" || q.Routed || q.Ref && p.Ref
				})
			})
	})
}

func isMeant(m *Model, name string) bool { return m.Name == name || slices.Contains(m.Ancestors, name) }

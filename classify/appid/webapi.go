package appid

import (
	"bytes"

	"gatehouse/policy"
)

// APIs on top of HTTP are told by the paths that their documentation gives, and
// by header fields that only their servers send: Docker Engine API, OCI
// distribution specification, Kubernetes API concepts, etcd, Consul HTTP API,
// Elasticsearch and OpenSearch REST APIs, WebHDFS.

// webAPI judges a request: yes where no other API has such a path or client,
// more where the answer must tell.
func webAPI(path, agent []byte) (policy.App, match) {
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	switch {
	case begins(path, "/webhdfs/v1") == yes:
		return policy.AppHDFS, yes
	case begins(path, "/etcdserverpb.") == yes, begins(path, "/v3lockpb.") == yes, begins(path, "/v3electionpb.") == yes,
		begins(path, "/raft/stream/") == yes, string(path) == "/raft", begins(path, "/raft/probing") == yes, begins(path, "/raft/snapshot") == yes,
		begins(path, "/v2/keys") == yes, begins(path, "/v3/kv/") == yes, begins(path, "/v3/lease/") == yes, begins(path, "/v3/maintenance/") == yes, begins(path, "/v3/cluster/") == yes:
		return policy.AppEtcd, yes
	case dockerPath(path), begins(agent, "Docker-Client/") == yes:
		return policy.AppDocker, yes
	case registryPath(path):
		return policy.AppRegistry, yes
	case string(path) == "/v2/" || string(path) == "/v2":
		return policy.AppRegistry, more
	case kubernetesPath(path), begins(agent, "kubectl/") == yes, contains(agent, "kubernetes/"):
		return policy.AppKubernetes, yes
	case begins(path, "/v1/catalog/") == yes, begins(path, "/v1/health/service/") == yes, begins(path, "/v1/agent/service/") == yes, begins(path, "/v1/health/state/") == yes:
		return policy.AppConsul, yes
	case begins(path, "/_plugins/_") == yes, begins(path, "/_opendistro/") == yes, contains(agent, "opensearch"):
		return policy.AppOpenSearch, yes
	case elasticsearchPath(path):
		return policy.AppElasticsearch, more
	}
	return policy.AppNone, more
}

// settledAPI is the answer once the reply's head is there: what a field of it
// names, else what the path alone suggests where such a path is enough then.
func settledAPI(asked policy.App, m match, named policy.App) (policy.App, match) {
	switch {
	case named != policy.AppNone:
		return named, yes
	case m == yes, asked == policy.AppElasticsearch: // before 7.14 it does not say so
		return asked, yes
	}
	return policy.AppNone, no
}

// dockerPath: /v1.NN/ and a resource, or the ping.
func dockerPath(path []byte) bool {
	if string(path) == "/_ping" {
		return true
	}
	if begins(path, "/v") != yes {
		return false
	}
	_, n := number(path[2:])
	rest := path[2+n:]
	if n == 0 || len(rest) == 0 || rest[0] != '.' {
		return false
	}
	_, n = number(rest[1:])
	if rest = rest[1+n:]; n == 0 {
		return false
	}
	for _, r := range [...]string{"/_ping", "/containers", "/images", "/networks", "/volumes", "/info", "/version", "/events", "/exec", "/services", "/nodes", "/tasks", "/swarm", "/secrets", "/configs", "/plugins", "/build", "/auth", "/system", "/session", "/distribution", "/commit", "/grpc"} {
		if begins(rest, r) == yes {
			return true
		}
	}
	return false
}

// registryPath: /v2/ NAME / manifests, blobs, tags or referrers / reference.
func registryPath(path []byte) bool {
	if begins(path, "/v2/") != yes {
		return false
	}
	if string(path) == "/v2/_catalog" {
		return true
	}
	for _, r := range [...]string{"/manifests/", "/blobs/", "/tags/list", "/referrers/"} {
		if contains(path[3:], r) {
			return true
		}
	}
	return false
}

// kubernetesPath: resources of the core group, or of named groups.
func kubernetesPath(path []byte) bool {
	if begins(path, "/api/v1/") == yes {
		for _, r := range [...]string{"namespaces", "nodes", "pods", "services", "endpoints", "configmaps", "secrets", "events", "persistentvolume", "serviceaccounts", "componentstatuses", "replicationcontrollers", "limitranges", "resourcequotas"} {
			if begins(path[len("/api/v1/"):], r) == yes {
				return true
			}
		}
		return false
	}
	if begins(path, "/apis/") != yes {
		return string(path) == "/openapi/v2" || begins(path, "/openapi/v3") == yes
	}
	for _, g := range [...]string{"apps/v", "batch/v", "autoscaling/v", "policy/v", "extensions/v"} {
		if begins(path[len("/apis/"):], g) == yes {
			return true
		}
	}
	return contains(path, ".k8s.io/")
}

// elasticsearchPath: a path with an element that is one of its endpoints.
func elasticsearchPath(path []byte) bool {
	i := bytes.IndexByte(path, '_')
	if i < 1 || path[i-1] != '/' {
		return false
	}
	for _, e := range [...]string{"_search", "_bulk", "_cluster/", "_cat/", "_nodes", "_msearch", "_mget", "_doc/", "_create/", "_count", "_mapping", "_settings", "_aliases", "_alias", "_refresh", "_update", "_template", "_index_template", "_ingest/", "_snapshot", "_tasks", "_license", "_xpack", "_security/", "_sql", "_ilm/", "_stats", "_analyze", "_delete_by_query", "_reindex", "_field_caps"} {
		if begins(path[i:], e) == yes {
			return true
		}
	}
	return false
}

// headerAPI is the API whose servers, and no others, send a field of that name.
func headerAPI(name []byte) policy.App {
	if len(name) < 7 || name[0]|0x20 != 'x' && name[0]|0x20 != 'd' {
		return policy.AppNone
	}
	switch {
	case beginsFold(name, "X-ELASTIC-PRODUCT") == yes:
		return policy.AppElasticsearch
	case beginsFold(name, "X-OPENSEARCH-") == yes:
		return policy.AppOpenSearch
	case beginsFold(name, "DOCKER-DISTRIBUTION-API-VERSION") == yes:
		return policy.AppRegistry
	case beginsFold(name, "DOCKER-EXPERIMENTAL") == yes:
		return policy.AppDocker
	case beginsFold(name, "X-ETCD-") == yes:
		return policy.AppEtcd
	case beginsFold(name, "X-CONSUL-") == yes:
		return policy.AppConsul
	case beginsFold(name, "X-KUBERNETES-PF-") == yes:
		return policy.AppKubernetes
	}
	return policy.AppNone
}

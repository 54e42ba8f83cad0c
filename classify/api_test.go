package classify

import (
	"testing"

	"gatehouse/policy"
)

// TestAPIs: a statement for an API lets that pass, and of another on the same
// port not a byte of the request, or, where the path alone does not tell, of the
// reply; one for http is for all of them.
func TestAPIs(t *testing.T) {
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	reply := func(head string) string { return "HTTP/1.1 200 OK\r\n" + head + "Content-Length: 2\r\n\r\n{}" }
	talks := []struct {
		api   policy.App
		steps []step // the last is what settles it
	}{
		{policy.AppDocker, []step{c(get("/v1.43/containers/json")), s(reply("Api-Version: 1.43\r\n"))}},
		{policy.AppElasticsearch, []step{c(get("/logs/_search")), s(reply("X-elastic-product: Elasticsearch\r\n"))}},
		{policy.AppEtcd, []step{c(get("/v2/keys/a")), s(reply("X-Etcd-Index: 7\r\n"))}},
		{policy.AppKubernetes, []step{c(get("/api/v1/namespaces/default/pods")), s(reply("Audit-Id: 1\r\n"))}},
		{policy.AppRegistry, []step{c(get("/v2/")), s(reply("Docker-Distribution-Api-Version: registry/2.0\r\n"))}},
		{policy.AppConsul, []step{c(get("/v1/kv/a")), s(reply("X-Consul-Index: 7\r\n"))}},
		{policy.AppHTTP, []step{c(get("/index.html")), s(reply("Server: nginx\r\n"))}}, // none of them
	}
	// told are the APIs whose requests above say which they are.
	told := map[policy.App]bool{policy.AppDocker: true, policy.AppEtcd: true, policy.AppKubernetes: true}
	const port = 7000
	families(t, func(t *testing.T, v6 bool) {
		for _, allowed := range talks {
			for _, spoken := range talks {
				t.Run(allowed.api.String()+" allowed, "+spoken.api.String()+" spoken", func(t *testing.T) {
					b := newBench(t, world{statements: []policy.Statement{allow(webIdx, dbIdx, plain(allowed.api), tcpPort(port))}}, Config{})
					k := b.conn(wire{v6, webIdx, dbIdx}, 40000, port)
					k.open()
					steps := append([]step(nil), spoken.steps...)
					switch {
					case allowed.api == spoken.api || allowed.api == policy.AppHTTP:
						steps[1] = steps[1].ok()
					case told[spoken.api]:
						steps[0], steps[1] = steps[0].no(policy.ReasonApp), steps[1].no(policy.ReasonApp)
					default:
						steps[1] = steps[1].no(policy.ReasonApp)
					}
					k.play(t, steps)
					if last := steps[1]; last.verdict == policy.Drop && (k.client(get("/")).Forward || k.server("x").Forward) {
						t.Error("goes on after it was refused")
					}
				})
			}
		}
	})
}

// TestRequestsBeforeTheAPI: who never answers, or only in pieces, does not get more
// than the budget before a statement for an API refuses what could not be told.
func TestRequestsBeforeTheAPI(t *testing.T) {
	const port, most = 7000, 8 << 10
	families(t, func(t *testing.T, v6 bool) {
		b := newBench(t, world{statements: []policy.Statement{allow(webIdx, dbIdx, plain(policy.AppRegistry), tcpPort(port))}}, Config{})
		k := b.conn(wire{v6, webIdx, dbIdx}, 40000, port)
		k.open()
		passed, last := 0, Result{}
		for range 64 {
			const request = "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"
			if last = k.client(request); !last.Forward {
				break
			}
			passed += len(request)
		}
		if last.Forward || last.Verdict != policy.Drop || passed == 0 || passed > most {
			t.Errorf("%d bytes of requests passed: %+v", passed, last)
		}
	})
}

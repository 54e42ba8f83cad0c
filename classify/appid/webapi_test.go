package appid

import (
	"testing"

	"golang.org/x/net/http2/hpack"

	"gatehouse/policy"
)

func http2FrameOf(kind, flags byte, stream int, body string) string {
	return be32(len(body))[1:] + string([]byte{kind, flags}) + be32(stream) + body
}

// http2Fields encodes a header block with the library: names and values in turn.
func http2Fields(fields ...string) string {
	var out []byte
	for i := 0; i < len(fields); i += 2 {
		name, value := fields[i], fields[i+1]
		out = append(out, 0x40)
		for _, s := range [...]string{name, value} {
			n := hpack.HuffmanEncodeLength(s)
			out = append(out, 0x80|byte(n))
			out = hpack.AppendHuffmanString(out, s)
		}
	}
	return string(out)
}

// TestHuffman: the decoder undoes the library's encoder, on all bytes.
func TestHuffman(t *testing.T) {
	all := make([]byte, 512)
	for i := range all {
		all[i] = byte(i * 7)
	}
	dst := make([]byte, 512)
	n, ok := huffman.decode(dst, hpack.AppendHuffmanString(nil, string(all)))
	if !ok || string(dst[:n]) != string(all) {
		t.Fatalf("%v, %q", ok, dst[:n])
	}
	for _, bad := range []string{"\xff\xff\xff\xff", "\x00\x00"[:1] + "\x00"} {
		if n, ok := huffman.decode(dst, []byte(bad)); ok && n == 0 {
			t.Errorf("%x decoded to nothing", bad)
		}
	}
}

func TestWebAPIs(t *testing.T) {
	get := func(path, head string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n" + head + "\r\n" }
	ok := func(head, body string) string { return "HTTP/1.1 200 OK\r\n" + head + "\r\n" + body }
	tests := []struct {
		name, request, reply string
		sub                  policy.App
	}{
		{"docker by path", get("/v1.43/containers/json", ""), "", policy.AppDocker},
		{"docker by its server", get("/info", ""), ok("Server: Docker/24.0.5 (linux)\r\n", "{}"), policy.AppDocker},
		{"docker ping", get("/_ping", ""), "", policy.AppDocker},
		{"registry asked", get("/v2/", ""), ok("Docker-Distribution-Api-Version: registry/2.0\r\n", "{}"), policy.AppRegistry},
		{"registry manifest", get("/v2/library/nginx/manifests/latest", ""), "", policy.AppRegistry},
		{"another v2", get("/v2/", ""), ok("", "{}"), policy.AppNone},
		{"kubernetes", get("/api/v1/namespaces/default/pods?limit=500", ""), "", policy.AppKubernetes},
		{"kubernetes group", get("/apis/apps/v1/deployments", ""), "", policy.AppKubernetes},
		{"prometheus is none", get("/api/v1/query?query=up", ""), ok("", "{}"), policy.AppNone},
		{"etcd peer", get("/raft/stream/message/1", "X-Etcd-Cluster-Id: 1\r\n"), "", policy.AppEtcd},
		{"etcd v2", get("/v2/keys/a", ""), "", policy.AppEtcd},
		{"consul", get("/v1/kv/a", ""), ok("X-Consul-Index: 7\r\n", "[]"), policy.AppConsul},
		{"vault is not consul", get("/v1/kv/data/a", ""), ok("", "{}"), policy.AppNone},
		{"consul catalog", get("/v1/catalog/services", ""), "", policy.AppConsul},
		{"elasticsearch", get("/logs/_search", ""), ok("X-elastic-product: Elasticsearch\r\n", "{}"), policy.AppElasticsearch},
		{"elasticsearch 6", get("/_cluster/health", ""), ok("content-type: application/json\r\n", "{}"), policy.AppElasticsearch},
		{"elasticsearch root", get("/", ""), ok("", `{"name":"a","tagline" : "You Know, for Search"}`), policy.AppElasticsearch},
		{"opensearch root", get("/", ""), ok("", `{"version":{"distribution" : "opensearch"}}`), policy.AppOpenSearch},
		{"webhdfs", get("/webhdfs/v1/tmp?op=LISTSTATUS", ""), "", policy.AppHDFS},
		{"a page", get("/index.html", ""), ok("Server: nginx\r\n", "<html>"), policy.AppNone},
		{"couchdb", get("/db/_all_docs", ""), ok("Server: CouchDB/3.3\r\n", "{}"), policy.AppNone},
		{"etcd over grpc", http2Magic + http2FrameOf(4, 0, 0, "") + http2FrameOf(1, 4, 1, http2Fields(":method", "POST", ":path", "/etcdserverpb.KV/Range", "content-type", "application/grpc")), http2FrameOf(4, 0, 0, ""), policy.AppEtcd},
		{"kubernetes over http2", http2Magic + http2FrameOf(4, 0, 0, "") + http2FrameOf(1, 4, 1, http2Fields(":method", "GET", ":path", "/apis/batch/v1/jobs")), http2FrameOf(4, 0, 0, ""), policy.AppKubernetes},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newTalk(&sample{})
			k.turn(FromClient, tt.request)
			if tt.reply != "" {
				k.turn(FromServer, tt.reply)
			}
			if k.out.Spoken.Sub != tt.sub || !k.out.Spoken.App.Is(policy.AppHTTP) {
				t.Errorf("got %+v, want %v on top", k.out.Spoken, tt.sub)
			}
			if tt.reply != "" && tt.sub == policy.AppNone && k.s.MayName() {
				t.Error("still waits for a name")
			}
		})
	}
}

// TestLateRequest: a client that waits for the server's settings before it asks
// is known as grpc by its request, where policy wants to know.
func TestLateRequest(t *testing.T) {
	k := newTalk(&sample{})
	k.turn(FromClient, http2Magic+http2FrameOf(4, 0, 0, ""))
	k.turn(FromServer, http2FrameOf(4, 0, 0, ""))
	if k.out.Spoken.App != policy.AppHTTP2 || !k.out.Decided || !k.s.MayName() {
		t.Fatalf("got %+v", k.out)
	}
	k.s.AwaitSub()
	k.turn(FromClient, http2FrameOf(4, 1, 0, "")+http2FrameOf(1, 4, 1, http2Fields(":method", "POST", ":scheme", "http", ":path", "/shop.v1.Cart/Add", ":authority", "cart:50051", "content-type", "application/grpc+proto", "te", "trailers", "user-agent", "grpc-go/1.64")))
	if k.out.Spoken.App != policy.AppGRPC {
		t.Errorf("got %+v", k.out)
	}
	var a Attrs
	k.s.Attrs(&a)
	for key, want := range map[Attr]string{AttrService: "shop.v1.Cart", AttrHost: "cart:50051", AttrAgent: "grpc-go/1.64", AttrMethod: "POST", AttrPath: "/shop.v1.Cart/Add"} {
		if got := string(a.Get(key)); got != want {
			t.Errorf("%v: %q, want %q", key, got, want)
		}
	}
}

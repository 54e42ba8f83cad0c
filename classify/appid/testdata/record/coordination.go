package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-zookeeper/zk"
	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/memberlist"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func coordination() []scenario {
	return []scenario{
		{
			name: "zookeeper", ports: []int{2181}, labels: []label{{"tcp", 2181, "zookeeper", ""}},
			made: []string{"zookeeper", "github.com/go-zookeeper/zk"}, note: "a session, and the word srvr",
			serve: func(ctx context.Context, dir string) error {
				conf := filepath.Join(dir, "zoo.cfg")
				text := fmt.Sprintf("tickTime=2000\ndataDir=%s\nclientPort=2181\n4lw.commands.whitelist=*\nadmin.enableServer=false\n", dir)
				if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
					return err
				}
				return execute(ctx, dir, nil, "java", "-cp", "/usr/share/java/*", "org.apache.zookeeper.server.quorum.QuorumPeerMain", conf)
			},
			call: func(ctx context.Context) error {
				c, _, err := zk.Connect([]string{serverIP + ":2181"}, 5*time.Second)
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err := c.Create("/shop", []byte("open"), 0, zk.WorldACL(zk.PermAll)); err != nil {
					return err
				}
				if _, _, err := c.Get("/shop"); err != nil {
					return err
				}
				w, err := net.Dial("tcp", serverIP+":2181")
				if err != nil {
					return err
				}
				defer w.Close()
				_, _ = io.WriteString(w, "srvr")
				_, err = io.ReadAll(w)
				return err
			},
		},
		{
			name: "etcd", ports: []int{2379}, labels: []label{{"tcp", 2379, "grpc", "etcd"}},
			made: []string{"etcd-server", "go.etcd.io/etcd/client/v3"},
			serve: func(ctx context.Context, dir string) error {
				return execute(ctx, dir, nil, "etcd", "--data-dir", dir, "--listen-client-urls", "http://"+serverIP+":2379", "--advertise-client-urls", "http://"+serverIP+":2379")
			},
			call: func(ctx context.Context) error {
				c, err := clientv3.New(clientv3.Config{Endpoints: []string{serverIP + ":2379"}, DialTimeout: 5 * time.Second})
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err := c.Put(ctx, "shop", "open"); err != nil {
					return err
				}
				_, err = c.Get(ctx, "shop")
				return err
			},
		},
		{
			name: "etcd-gateway", ports: []int{2379}, labels: []label{{"tcp", 2379, "http", "etcd"}},
			made: []string{"etcd-server"}, note: "net/http to the JSON gateway",
			serve: func(ctx context.Context, dir string) error {
				return execute(ctx, dir, nil, "etcd", "--data-dir", dir, "--listen-client-urls", "http://"+serverIP+":2379", "--advertise-client-urls", "http://"+serverIP+":2379")
			},
			call: func(ctx context.Context) error {
				return post("http://"+serverIP+":2379/v3/kv/range", `{"key":"c2hvcA=="}`)
			},
		},
		{
			name: "consul", ports: []int{8500}, labels: []label{{"tcp", 8500, "http", "consul"}},
			made: []string{"github.com/hashicorp/consul/api"}, note: "the server is net/http with the replies of the API's documentation",
			serve: func(context.Context, string) error {
				return http.ListenAndServe(serverIP+":8500", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					h := w.Header()
					h.Set("Content-Type", "application/json")
					h.Set("Vary", "Accept-Encoding")
					h.Set("X-Consul-Default-Acl-Policy", "allow")
					h.Set("X-Consul-Index", "14")
					h.Set("X-Consul-Knownleader", "true")
					h.Set("X-Consul-Lastcontact", "0")
					switch r.URL.Path {
					case "/v1/kv/shop":
						_, _ = io.WriteString(w, `[{"LockIndex":0,"Key":"shop","Flags":0,"Value":"b3Blbg==","CreateIndex":14,"ModifyIndex":14}]`)
					case "/v1/catalog/services":
						_, _ = io.WriteString(w, `{"consul":[],"shop":["web"]}`)
					default:
						_, _ = io.WriteString(w, "true")
					}
				}))
			},
			call: func(context.Context) error {
				c, err := consul.NewClient(&consul.Config{Address: serverIP + ":8500"})
				if err != nil {
					return err
				}
				if _, _, err := c.KV().Get("shop", nil); err != nil {
					return err
				}
				_, _, err = c.Catalog().Services(nil)
				return err
			},
		},
		{
			name: "consul-gossip", ports: []int{8301}, labels: []label{{"tcp", 8301, "unknown", ""}, {"udp", 8301, "unknown", ""}},
			made: []string{"github.com/hashicorp/memberlist"},
			serve: func(ctx context.Context, _ string) error {
				if _, err := member(serverIP); err != nil {
					return err
				}
				<-ctx.Done()
				return nil
			},
			call: func(context.Context) error {
				m, err := member(clientIP)
				if err != nil {
					return err
				}
				if _, err := m.Join([]string{serverIP}); err != nil {
					return err
				}
				time.Sleep(3 * time.Second) // probes
				return m.Leave(time.Second)
			},
		},
	}
}

func member(addr string) (*memberlist.Memberlist, error) {
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort, c.AdvertisePort = "node-"+addr, addr, 8301, 8301
	return memberlist.Create(c)
}

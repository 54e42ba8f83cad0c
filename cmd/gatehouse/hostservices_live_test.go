package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHostServices holds threats 34 and 35: no container reaches the cloud's metadata
// service or the engine's API over TCP, in either family, by statements that do
// not name them, however wide; and the host reaches no container by being the
// host.
func TestHostServices(t *testing.T) {
	live(t)
	o := makeOutside(t)
	metadata := []string{"169.254.169.254", "fd00:ec2::254"}
	for _, a := range metadata {
		bits := netip.MustParseAddr(a).BitLen()
		args := []string{"-n", "ghe-outside", "addr", "add", fmt.Sprintf("%s/%d", a, bits), "dev", "eth0"}
		if bits == 128 {
			args = append(args, "nodad")
		}
		mustRun(t, "ip", args...)
		mustRun(t, "ip", "route", "replace", fmt.Sprintf("%s/%d", a, bits), "dev", "ghe-out") // goes with the device
		serveText(listen(t, o.netns, "tcp", net.JoinHostPort(a, "80")), "credentials")
	}
	for network, address := range map[string]string{"tcp4": "0.0.0.0", "tcp6": "[::]"} {
		api := listen(t, "", network, address+":2375")
		go forward(api, "/var/run/docker.sock")
		serveText(listen(t, "", network, address+":2380"), "plain")
	}
	statements := t.TempDir()
	if err := os.WriteFile(filepath.Join(statements, "wide.yaml"), []byte(`schema: gatehouse.statements/v1
statements:
  - id: wide
    verdict: allow
    from: [{project: ghe-host}]
    to: [{peer: any}, {peer: host}, {peer: external}, {cidr: 0.0.0.0/0}, {cidr: "::/0"}]
    app: [any]
    ports: [tcp/1-65535]
    why: as wide as it can be said
`), 0o600); err != nil {
		t.Fatal(err)
	}
	gw := startGateway(t, "--statements", statements)
	network := makeNetwork(t, "ghe-host_default", ofProject("ghe-host")...)
	app := perform(t, play{project: "ghe-host", service: "app", network: network})
	shut := perform(t, play{project: "ghe-shut", service: "app", network: makeNetwork(t, "ghe-shut_default", ofProject("ghe-shut")...)})
	echo(t, shut, 9000)
	gw.admitted(app, shut)

	bridge := netip.MustParseAddr(strings.Fields(mustRun(t, "docker", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}} {{(index .IPAM.Config 1).Gateway}}", network))[0])
	forbidden := map[string]string{}
	for _, a := range metadata {
		forbidden["http://"+net.JoinHostPort(a, "80")+"/"] = "@metadata"
	}
	hosts := []netip.Addr{bridge, o.own[4], o.own[6]}
	for _, a := range hosts {
		forbidden["http://"+port(a, 2375).String()+"/_ping"] = "@orchestrator"
	}
	// That there is something to protect. A new bridge has no IPv6 address to call
	// from until it knows that nobody else has it.
	var err error
	why := func() string { return err.Error() }
	for url := range forbidden {
		gw.eventually("observed, "+url, func() bool {
			_, err = fetch(app.netns, url)
			return err == nil
		}, why)
	}
	for _, family := range []int{4, 6} {
		gw.eventually(fmt.Sprintf("observed, host to container over IPv%d", family), func() bool {
			var conn net.Conn
			if conn, err = dial("", "tcp", port(shut.leg().at(family), 9000).String(), time.Second); err == nil {
				conn.Close()
			}
			return err == nil
		}, why)
	}

	gw.enforce("ghe-host/app", "ghe-shut/app")
	w := watch(t, shut.netns, func(f seen) bool { return f.tcp() != nil && f.tcp().SYN })
	for url, who := range forbidden {
		t.Run(who+" "+url, func(t *testing.T) {
			at, _, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
			if conn, err := dial(app.netns, "tcp", at, inVain); err == nil {
				conn.Close()
				t.Error("connected")
			}
			gw.as(t).eventually("a violation", func() bool {
				for _, v := range gw.violations() {
					if v.To == who && v.Verdict == "dropped" && strings.Contains(url, "//"+v.Dest+"/") {
						return true
					}
				}
				return false
			}, func() string { return violationLines(gw.violations()) })
		})
	}
	for _, a := range hosts { // what the statement does allow
		if said, err := fetch(app.netns, "http://"+port(a, 2380).String()+"/"); err != nil || said != "plain" {
			t.Errorf("the host's other port at %s: %q %v", a, said, err)
		}
	}
	for _, family := range []int{4, 6} {
		if conn, err := dial("", "tcp", port(shut.leg().at(family), 9000).String(), 500*time.Millisecond); err == nil {
			conn.Close()
			t.Errorf("IPv%d: the host connects to a container that nobody let it call", family)
		}
	}
	w.none("the host")
}

func serveText(l net.Listener, text string) {
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
	}()
}

// forward joins connections to a Unix socket, as an engine's API over TCP does.
func forward(l net.Listener, socket string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			api, err := net.Dial("unix", socket)
			if err != nil {
				return
			}
			defer api.Close()
			go func() { _, _ = io.Copy(api, conn) }()
			_, _ = io.Copy(conn, api)
		}()
	}
}

// TestEpochOutlivesTheState holds threat 43: what is in force is never replaced by
// something with a lower number, also where a gateway's files were lost or come
// from a backup, and flows that an older table allowed are judged by the new one.
func TestEpochOutlivesTheState(t *testing.T) {
	gw := startGateway(t)
	p := makePair(t, "ghe-epoch")
	gw.admitted(p.server, p.client)
	backup := filepath.Join(t.TempDir(), "state")
	mustRun(t, "cp", "-a", gw.file("state"), backup)
	gw.enforce("ghe-epoch/server", "ghe-epoch/client")
	epoch := gw.status().Epoch
	stream := startStream(t, p, 4)
	flowing(t, "at first", stream)
	for _, restore := range []bool{true, false} {
		gw.kill()
		if err := os.RemoveAll(gw.file("state")); err != nil {
			t.Fatal(err)
		}
		if restore {
			mustRun(t, "cp", "-a", backup, gw.file("state"))
		}
		gw.start()
		gw.admitted(p.server, p.client)
		now := gw.status().Epoch
		if now <= epoch {
			t.Errorf("restored %v: table %d after %d", restore, now, epoch)
		}
		epoch = now
		flowing(t, "after a start", stream)
	}
}

package main

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// sentinelOf is the command of a Sentinel that watches primary, with the
// configuration that its documentation gives for hosts with names.
const sentinelOf = `printf '%s\n' 'sentinel resolve-hostnames yes' 'sentinel monitor main primary 6379 2' 'sentinel down-after-milliseconds main 500' 'sentinel failover-timeout main 5000' >/sentinel.conf
exec redis-server /sentinel.conf --sentinel`

// TestFailover: a Redis, its replica and three Sentinels, all enforced from their
// first packet and nothing configured but what their deployer wrote. The primary
// stops, and so its name has no address any more: the replica takes over, and the
// name is asked for nowhere outside.
func TestFailover(t *testing.T) {
	live(t)
	needImages(t, "redis:7")
	o, dns := makeInternet(t)
	gw := startGateway(t)
	e := newEnsemble(t, "ghe-sentinel", 6379, 26379)
	asking := []string{"--dns", o.far[4].String()}
	server := []string{"redis-server", "--bind", "*", "-::*", "--protected-mode", "no", "--save", ""}
	primary := e.add(t, play{service: "primary", image: "redis:7", options: asking, command: server})
	replica := e.add(t, play{service: "replica", image: "redis:7", options: asking, command: append(server, "--replicaof", "primary", "6379")})
	for _, name := range []string{"sentinel1", "sentinel2", "sentinel3"} {
		e.add(t, play{service: name, image: "redis:7", options: asking, command: []string{"sh", "-c", sentinelOf}})
	}
	sentinel := func(words ...string) func() (string, error) {
		return func() (string, error) {
			return command("docker", append([]string{"exec", e.project + "-sentinel1-1", "redis-cli", "-p", "26379", "sentinel"}, words...)...)
		}
	}
	becomes(t, "the Sentinels know each other and the replica", sentinel("ckquorum", "main"), holds("OK 3 usable Sentinels"))
	becomes(t, "the replica is known", sentinel("replicas", "main"), holds("slave-repl-offset"))
	mustRun(t, "docker", "stop", "-t", "0", primary.id)
	becomes(t, "the replica takes over", sentinel("get-master-addr-by-name", "main"), func(said string) bool {
		return strings.Contains(said, replica.leg().v4.String()) || strings.Contains(said, replica.leg().v6.String())
	})
	if n := dns.count(""); n != 0 {
		t.Errorf("%d names were asked for outside", n)
	}
	gw.violation("the lookup of a name that nobody has", func(v ViolationView) bool {
		return v.From == "ghe-sentinel/sentinel1" && v.To == "@resolver" && v.Reason == "no-rule"
	})
}

// TestRefusedAtOnce: what policy does not let a container look up fails at once,
// whether it asks the engine's name server or another, and with the setting also
// what else it may not begin.
func TestRefusedAtOnce(t *testing.T) {
	live(t)
	o, dns := makeInternet(t)
	network := makeNetwork(t, "ghe-refuse_default", ofProject("ghe-refuse")...)
	store := perform(t, play{project: "ghe-refuse", service: "cache", network: network, options: []string{"--dns", o.far[4].String()},
		labels: []string{"gatehouse.model=redis", enforced}})
	gw := startGateway(t, "--refusal", "reject")
	gw.admitted(store)
	for _, server := range []string{"127.0.0.11:53", port(o.far[4], 53).String(), port(o.far[6], 53).String()} {
		for name, want := range map[string]dnsmessage.RCode{"gone": dnsmessage.RCodeNameError, "ldap.names.example": dnsmessage.RCodeRefused} {
			for _, kind := range kinds {
				// Newer engines hand on no refusal, but say SERVFAIL.
				m, err := store.query("udp", server, name, kind, livePatience)
				if err != nil || m.RCode != want && (server != "127.0.0.11:53" || m.RCode != dnsmessage.RCodeServerFailure) {
					t.Errorf("%s asked for %s: %v %v, want %v", server, name, m.RCode, err, want)
				}
			}
		}
	}
	if n := dns.count(""); n != 0 {
		t.Errorf("%d names were asked for outside", n)
	}
	for family, filtered := range map[int]error{4: unix.EHOSTUNREACH, 6: unix.EACCES} {
		for _, n := range []uint16{53, 443} {
			if _, err := dial(store.netns, "tcp", netip.AddrPortFrom(o.far[family], n).String(), livePatience); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("connection to %d over IPv%d: %v", n, family, err)
			}
		}
		conn, err := dial(store.netns, "udp", netip.AddrPortFrom(o.far[family], 443).String(), livePatience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("x"))
		_ = conn.SetReadDeadline(time.Now().Add(livePatience))
		if _, err := conn.Read(make([]byte, 8)); !errors.Is(err, filtered) {
			t.Errorf("datagram over IPv%d: %v", family, err)
		}
	}
}

package main

import (
	"strings"
	"testing"
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

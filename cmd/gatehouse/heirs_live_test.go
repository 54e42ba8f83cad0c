package main

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestHeirsOfTheDead holds threats 21 and 22 together: the gateway is killed under
// load, a client and a server end while there is none, and strangers get their
// addresses. Neither then nor after the takeover does a stranger get anything of
// what the dead were allowed, to send or to be sent, and nothing of it is told of
// the dead.
func TestHeirsOfTheDead(t *testing.T) {
	gw := startGateway(t)
	network := makeNetwork(t, "ghe-heir_default", append(ofProject("ghe-heir"), "--subnet", "10.216.0.0/16")...)
	fixed := func(last string) []string {
		return []string{"--ip", "10.216.9." + last, "--ip6", prefixOf(network) + "::9:" + last}
	}
	member := func(service, last, server string) *container {
		p := play{project: "ghe-heir", service: service, network: network, options: fixed(last), labels: []string{enforced}}
		if server != "" {
			p.env = []string{"SERVER_HOST=" + server, "SERVER_PORT=8000"}
		}
		return perform(t, p)
	}
	stays, dies := member("stays", "1", ""), member("dies", "2", "")
	dead := &pair{network: network, server: stays, client: member("dead", "3", "stays")}     // its client dies
	widowed := &pair{network: network, server: dies, client: member("widowed", "4", "dies")} // its server
	gw.admitted(stays, dies, dead.client, widowed.client)
	echo(t, stays, 8000)
	echo(t, dies, 8000)
	streams := []*stream{startStream(t, dead, 4), startStream(t, dead, 6), startStream(t, widowed, 4), startStream(t, widowed, 6)}
	flowing(t, "at first", streams...)
	var sources []netip.AddrPort
	for _, s := range streams {
		source := netip.MustParseAddrPort(s.conn.LocalAddr().String())
		sources = append(sources, source)
		gw.flow(source.String(), true)
	}

	gw.kill()
	flowing(t, "without a gateway", streams...)
	e := newEngine(gw.rig.docker)
	for _, c := range []*container{dead.client, dies} {
		if err := e.ask(http.MethodDelete, c.id+"?force=true", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	atServer := watch(t, stays.netns, func(f seen) bool {
		src, _ := f.ends()
		return f.tcp() != nil && (src == dead.client.leg().v4 || src == dead.client.leg().v6)
	})
	heir := func(name, last string) *container {
		return perform(t, play{name: name, network: network, options: fixed(last)})
	}
	caller, called := heir("ghe-heir-caller", "3"), heir("ghe-heir-called", "2")
	if caller.leg().mac.String() != dead.client.leg().mac.String() {
		t.Fatalf("the engine gave %v in place of %v", caller.leg().mac, dead.client.leg().mac)
	}
	echo(t, called, 8000)
	atHeir := watch(t, called.netns, func(f seen) bool { return f.tcp() != nil })

	trespass := func() {
		t.Helper()
		for until := time.Now().Add(500 * time.Millisecond); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
			for i, source := range sources[:2] { // the middle of what the dead had
				segment := &layers.TCP{SrcPort: layers.TCPPort(source.Port()), DstPort: 8000, Seq: 1000, Ack: 1000, ACK: true, PSH: true, Window: 1024}
				from, to := caller.leg(), stays.leg()
				frame := frameOf(t, from, to, segment, "leak")
				if i == 1 {
					frame = craft(t, ether(from.mac, to.mac, layers.EthernetTypeIPv6), ipv6(from.v6, to.v6, segment), segment, gopacket.Payload("leak"))
				}
				if err := sendRaw(caller.netns, "eth0", frame); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, family := range []int{4, 6} {
			for from, to := range map[*container]*container{caller: stays, widowed.client: called} {
				if conn, err := dial(from.netns, "tcp", port(to.leg().at(family), 8000).String(), 300*time.Millisecond); err == nil {
					conn.Close()
					t.Errorf("IPv%d: %s connects to %s", family, from.name, to.name)
				}
			}
		}
	}
	trespass()
	gw.start()
	gw.admitted(caller, called)
	trespass()
	atServer.none("an heir of a client's address")
	atHeir.none("sent to an heir of a server's address")
	for _, source := range sources {
		gw.flow(source.String(), false)
	}
	for _, v := range gw.violations() {
		if strings.Contains(v.From, "ghe-heir/dead") || strings.Contains(v.To, "ghe-heir/dies") {
			t.Errorf("told of the dead:\n%s", violationLines([]ViolationView{v}))
		}
	}
	if !slices.ContainsFunc(gw.violations(), func(v ViolationView) bool { return strings.Contains(v.From, "ghe-heir-caller") }) {
		t.Errorf("nothing is told of the heir:\n%s", violationLines(gw.violations()))
	}
	successor := perform(t, play{name: "ghe-heir-dead-2", project: "ghe-heir", service: "dead", network: network, labels: []string{enforced},
		env: []string{"SERVER_HOST=stays", "SERVER_PORT=8000"}})
	gw.admitted(successor)
	for _, family := range []int{4, 6} {
		if err := says(successor, port(stays.leg().at(family), 8000), "hello", livePatience); err != nil {
			t.Errorf("IPv%d: who is allowed does not pass: %v", family, err)
		}
	}
}

package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// kinds are the questions of the two families.
var kinds = map[int]dnsmessage.Type{4: dnsmessage.TypeA, 6: dnsmessage.TypeAAAA}

// zoneAddress is that of a host of zoneFile.
func zoneAddress(family int, host string) string {
	return map[int]string{4: "198.51.100.", 6: "2001:db8:9e::"}[family] + host
}

// oneSegment keeps a TLS hello so short that all of it is judged at once; of a
// longer one the segments before the last pass (N6).
var oneSegment = []tls.CurveID{tls.X25519}

// escape is a way out that a sandbox must not have.
type escape struct {
	what   string
	to     netip.AddrPort
	reason string
	app    string // that the record names
	// act is done on a connection that policy lets be made until it says what it is;
	// nil: there is none.
	act func(net.Conn)
}

// escapes are those of one family.
func escapes(o *outside, db *container, family int) []escape {
	at := func(host string, n uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(zoneAddress(family, host)), n)
	}
	hello := func(server string) func(net.Conn) {
		return func(c net.Conn) {
			_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
			_ = tls.Client(c, &tls.Config{ServerName: server, InsecureSkipVerify: true, CurvePreferences: oneSegment}).Handshake()
		}
	}
	out := []escape{
		{"an address that nobody named", at("132", 443), "no-rule", "", nil},
		{"another port of one that was named", at("134", 8443), "no-rule", "", nil},
		{"DNS over HTTPS at the name server", port(o.far[family], 443), "no-rule", "", nil},
		{"DNS over TLS at the name server", port(o.far[family], 853), "no-rule", "", nil},
		{"another name server over TCP", at("132", 53), "no-rule", "", nil},
		{"the host", port(o.own[family], 22), "no-rule", "", nil},
		{"the neighbour", port(db.leg().at(family), 5432), "no-rule", "", nil},
		{"another name at the same address", at("134", 443), "name-mismatch", "tls", hello("neighbour.names.example")},
		{"a TLS hello without a name", at("134", 443), "name-mismatch", "tls", hello("")},
		{"another host in plain HTTP", at("134", 443), "app", "http", func(c net.Conn) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: neighbour.names.example\r\n\r\n")) }},
		{"SSH at an address that was named", at("134", 443), "app", "ssh", func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n")) }},
	}
	if family == 4 {
		out = append(out, escape{"the metadata service", netip.MustParseAddrPort("169.254.169.254:80"), "no-rule", "", nil})
	}
	return out
}

// TestAgentSandbox: a container of that model reaches the hosts that its model
// and its deployer's label name, by the answers of its own name server, and has
// no other way out; each attempt is on record with its reason.
func TestAgentSandbox(t *testing.T) {
	live(t)
	o, dns := makeInternet(t)
	needImages(t, "mvance/unbound:1")
	network := makeNetwork(t, "ghe-agent_default", append(ofProject("ghe-agent"), "--subnet", "10.215.0.0/24")...)
	servers := []string{"--dns", o.far[4].String(), "--dns", o.far[6].String()}
	agent := perform(t, play{project: "ghe-agent", service: "agent", network: network, options: servers, labels: []string{
		"gatehouse.model=agent-sandbox", enforced, "gatehouse.allow.egress=api.names.example:443, *.cdn.names.example:443"}})
	plain := perform(t, play{project: "ghe-agent", service: "plain", network: network, options: servers, labels: []string{
		enforced, "gatehouse.allow.egress=*.cdn.names.example:443"}})
	db := perform(t, play{project: "ghe-agent", service: "db", network: network})
	const unbound = "10.215.0.53"
	resolver := perform(t, play{project: "ghe-agent", service: "resolver", image: "mvance/unbound:1", network: network,
		options: []string{"--ip", unbound}, labels: []string{"gatehouse.model=unbound", enforced},
		files: map[string]string{"/etc/unbound/conf.d/forward.conf": fmt.Sprintf("forward-zone:\n  name: \".\"\n  forward-addr: %s\n", o.far[4])}})
	inner := perform(t, play{project: "ghe-agent", service: "inner", network: network, options: []string{"--dns", unbound}, labels: []string{
		"gatehouse.model=agent-sandbox", enforced, "gatehouse.allow.egress=inner.names.example:443"}})
	p := startGateway(t)
	p.admitted(agent, plain, db, resolver, inner)

	for _, family := range []int{4, 6} {
		kind, server := kinds[family], port(o.far[family], 53).String()
		for _, name := range []string{"api.github.com", "api.names.example", "x.cdn.names.example"} {
			address := agent.lookup(t, name, kind)
			conn, err := agent.greet(address, name, livePatience)
			if err != nil {
				t.Fatalf("%s at %s: %v", name, address, err)
			}
			conn.Close()
		}
		for _, way := range []string{"udp", "tcp"} {
			if m, err := agent.query(way, server, "api.github.com", kind, livePatience); err != nil || addressIn(m) != zoneAddress(family, "134") {
				t.Errorf("a lookup over %s at %s: %v %v", way, server, addressIn(m), err)
			}
			if m, err := agent.query(way, server, way+".evil.names.example", kind, 300*time.Millisecond); err == nil && m.RCode != dnsmessage.RCodeRefused {
				t.Errorf("a lookup of another name over %s: %+v", way, m)
			}
		}
		tryEscapes(t, p, agent, o, db, family)
	}
	if n := dns.count("evil.names.example."); n > 0 {
		t.Errorf("%d names of no statement came to the name server", n)
	}
	refused := p.reasons("ghe-agent/agent")
	for _, r := range []string{"name-refused", "no-rule", "name-mismatch", "app"} {
		if refused[r] == "" {
			t.Errorf("no %s on record: %v", r, refused)
			continue
		}
		says := "agent-sandbox"
		if r == "name-refused" { // which names its model and labels have instead
			says = "api.github.com"
		}
		if out, _ := p.cli("explain", refused[r]); !strings.Contains(out, "("+r+")") || !strings.Contains(out, says) {
			t.Errorf("explain of %s:\n%s", r, out)
		}
	}
	suggested := func() string { out, _ := p.cli("policy", "suggest", "--service", "ghe-agent/agent"); return out }
	p.eventually("what it looked up in vain is suggested", func() bool {
		return strings.Contains(suggested(), "name:udp.evil.names.example : http tls only tcp/443")
	}, suggested)
	t.Run("ContainerAsNameServer", func(t *testing.T) { asksContainer(t, p.as(t), o, dns, inner, agent, unbound) })
	t.Run("Tunnel", func(t *testing.T) { tunnelled(t, p.as(t), o, dns, agent, plain) })
}

// tryEscapes makes the attempts at once, under the eyes of the outside.
func tryEscapes(t *testing.T, p *process, agent *container, o *outside, db *container, family int) {
	t.Helper()
	all := escapes(o, db, family)
	hello := zoneAddress(family, "134")
	isEscape := func(f seen) bool {
		_, dst := f.ends()
		if f.tcp() == nil || !f.tcp().SYN && len(f.tcp().Payload) == 0 { // a lookup's connection may end late
			return false
		}
		return dst.String() != hello || f.tcp().DstPort != 443 || len(f.tcp().Payload) > 0
	}
	far := watch(t, o.netns, isEscape)
	near := watch(t, db.netns, both(towards(db.leg().at(family), 0), fromAny(agent.leg().at(family))))
	var wait sync.WaitGroup
	for _, e := range all {
		attemptPort++
		source := attemptPort
		wait.Go(func() {
			patience := livePatience
			if e.act == nil {
				patience = inVain
			}
			conn, err := dialFrom(agent.netns, source, e.to, patience)
			switch {
			case err == nil && e.act == nil:
				t.Errorf("IPv%d, %s: connected to %s", family, e.what, e.to)
			case err != nil && e.act != nil:
				t.Errorf("IPv%d, %s: %v", family, e.what, err)
			}
			if err != nil {
				return
			}
			defer conn.Close()
			if e.act != nil {
				e.act(conn)
				time.Sleep(500 * time.Millisecond)
			}
		})
	}
	wait.Wait()
	far.none("an escape")
	near.none("an escape to the neighbour")
	for _, e := range all {
		p.eventually(e.what+" on record", func() bool {
			return slices.ContainsFunc(p.violations(), func(v ViolationView) bool { // those to one destination are summed up
				return v.From == "ghe-agent/agent" && v.Dest == e.to.String() && v.Reason == e.reason && v.Verdict == "dropped" && (e.app == "" || v.App == e.app)
			})
		}, func() string { return violationLines(p.violations()) })
	}
}

// reasons are those that observe tells of a service's drops, each with the ID of
// a violation.
func (p *process) reasons(service string) map[string]string {
	p.t.Helper()
	out, code := p.cli("observe", "--from", service, "--since", "5m", "-o", "json")
	if code != exitGood {
		p.t.Fatalf("observe: %d %s", code, out)
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		var v ViolationView
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			p.t.Fatalf("observe: %v: %s", err, line)
		}
		found[v.Reason] = v.ID
	}
	return found
}

// asksContainer: where the name server is a container, the answers that it gives
// count as any other's, only names of statements are asked of it, and whoever has
// another name server does not reach it, nor the sandbox another one.
func asksContainer(t *testing.T, p *process, o *outside, dns *nameServer, inner, agent *container, server string) {
	var all []StatementView
	p.mustGet("/v1/statements", &all)
	const want = "allow ghe-agent/inner -> ghe-agent/resolver : dns tcp/53,udp/53 names only"
	if !slices.ContainsFunc(all, func(s StatementView) bool { return strings.Contains(strings.Join(s.Text, "\n"), want) }) {
		t.Errorf("no statement %s", want)
	}
	for _, family := range []int{4, 6} {
		address := zoneAddress(family, "131")
		if _, err := inner.greet(address, "inner.names.example", inVain); err == nil {
			t.Errorf("%s is reached before any lookup", address)
		}
		if got := inner.lookup(t, "inner.names.example", kinds[family]); got != address {
			t.Fatalf("lookup at the container: %q", got)
		}
		conn, err := inner.greet(address, "inner.names.example", livePatience)
		if err != nil {
			t.Fatalf("%s after the lookup: %v\n%s", address, err, violationLines(p.violations()))
		}
		conn.Close()
		if _, err := inner.greet(address, "neighbour.names.example", inVain); err == nil {
			t.Error("another name at that address is reached")
		}
	}
	if got := inner.lookup(t, "by-container.evil.names.example", dnsmessage.TypeA); got != "" {
		t.Errorf("a name of no statement: %s", got)
	}
	for who, at := range map[*container]string{inner: o.far[4].String(), agent: server} {
		for _, way := range []string{"udp", "tcp"} {
			if m, err := who.query(way, at+":53", "direct.evil.names.example", dnsmessage.TypeA, 300*time.Millisecond); err == nil && m.RCode != dnsmessage.RCodeRefused {
				t.Errorf("%s asks %s over %s: %+v", who.name, at, way, m)
			}
		}
	}
	if n := dns.count("evil.names.example."); n > 0 {
		t.Errorf("%d names of no statement came to the outside", n)
	}
	if out, _ := p.cli("get", "names"); !strings.Contains(out, "inner.names.example") || !strings.Contains(out, server) {
		t.Errorf("get names: %s", out)
	}
}

func (p *process) violations() (all []ViolationView) {
	p.t.Helper()
	p.mustGet("/v1/violations", &all)
	return all
}

// tunnelled: below a name that is allowed as a whole, lookups carry no more than
// names need where dns: names binds; elsewhere they are recorded.
func tunnelled(t *testing.T, p *process, o *outside, dns *nameServer, agent, plain *container) {
	const queries = 60
	for _, family := range []int{4, 6} {
		for _, c := range []*container{agent, plain} {
			mark := fmt.Sprintf("%d%s", family, c.name[len("ghe-agent-"):])
			ask := func() (arrived int) {
				for i := range queries {
					name := fmt.Sprintf("%060d.%050d.%s.cdn.names.example", i, i, mark)
					_, _ = c.query("udp", port(o.far[family], 53).String(), name, dnsmessage.TypeTXT, 50*time.Millisecond)
				}
				return dns.count("." + mark + manyNames)
			}
			arrived := ask()
			for again := 0; c == plain && arrived < queries && again < 20; again++ { // a busy machine loses some
				arrived = ask()
			}
			verdict := "recorded"
			if c == agent {
				verdict = "dropped"
			}
			if c == agent && arrived > 40 || c == plain && arrived < queries {
				t.Errorf("IPv%d, %s: %d of %d lookups arrived", family, c.name, arrived, queries)
			}
			p.eventually("name-tunnel of "+c.name, func() bool {
				return slices.ContainsFunc(p.violations(), func(v ViolationView) bool {
					from, err := netip.ParseAddrPort(v.Source)
					return err == nil && from.Addr() == c.leg().at(family) && v.Reason == "name-tunnel" && v.Verdict == verdict
				})
			}, func() string { return violationLines(p.violations()) })
		}
	}
}

package dataplane_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/dns/dnsmessage"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

// The name server and a server behind a name, both outside.
var (
	resolver = party{"resolver", 0, gatewayMAC, netip.MustParseAddr("198.51.100.53"), netip.MustParseAddr("2001:db8::53")}
	api      = party{"api", 0, gatewayMAC, netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:7::7")}
)

// nameLines let web look up names and reach one, and all below another; only
// names where so.
func nameLines(only bool) []policy.Statement {
	lookups := line(policy.Allow, "web", "outside", "dns", "udp/53")
	lookups.ID, lookups.To, lookups.NamesOnly = "lookups", []policy.Peer{{Kind: policy.PeerResolver}}, only
	lookups.Ports = append(lookups.Ports, policy.Port(policy.ProtoTCP, 53))
	name := line(policy.Allow, "web", "outside", "http", "tcp/443")
	name.ID, name.App.Forms = "api", policy.TLSOptional
	name.To = []policy.Peer{{Kind: policy.PeerName, Name: "api.example.com"}, {Kind: policy.PeerName, Name: "*.cdn.example"}}
	return []policy.Statement{lookups, name}
}

func namesTable(t testing.TB, epoch uint32, mode policy.Mode, lines []policy.Statement) *policy.Table {
	t.Helper()
	in := tableInput(epoch, mode, lines...)
	in.Snapshot.Workloads[0].DNS = []netip.Addr{resolver.v4, resolver.v6}
	table, err := policy.Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// namesLane is a lane that learns names; edit changes the statement of the name.
func namesLane(t testing.TB, mode policy.Mode, only bool, edit ...func(*policy.Statement)) (*lane, *policy.Names) {
	t.Helper()
	names := policy.NewNames(policy.NameLimits{})
	l := newLane(t, line(policy.Allow, "db", "web", "any", "tcp/1"))
	d, err := dataplane.New(dataplane.Config{FlowMap: l.m, Flows: 1024, Names: names})
	if err != nil {
		t.Fatal(err)
	}
	lines := nameLines(only)
	for _, e := range edit {
		e(&lines[1])
	}
	l.d = d
	d.SetTable(namesTable(t, 2, mode, lines))
	from := web.endpoint()
	from.Mode = mode
	d.SetEndpoints([]dataplane.Endpoint{from, db.endpoint()})
	if err := d.AddPort(0, 0, l.port); err != nil {
		t.Fatal(err)
	}
	d.Turn(0)
	return l, names
}

func message(t testing.TB, id uint16, response bool, name string, addrs ...netip.Addr) string {
	t.Helper()
	n := dnsmessage.MustNewName(name)
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: response, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeALL, Class: dnsmessage.ClassINET}}}
	for _, a := range addrs {
		h := dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET, TTL: 60}
		if a.Is4() {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
			continue
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The first connection passes as soon as the answer has: the rule is there
// before it (N3). The lookup stays in user space (N8), the connection need not.
func TestNameIsLearnedBeforeItsAnswerPasses(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l, _ := namesLane(t, policy.Enforce, false)
		c := newConn(t, web, api, v6, 40000, 443)
		l.isDropped(web, api, c.segment(false, "S", ""), policy.ReasonNoRule)
		l.passes(web, resolver, udp(t, web, resolver, v6, 5353, 53, message(t, 7, false, "api.example.com.")))
		l.passes(resolver, web, udp(t, resolver, web, v6, 53, 5353, message(t, 7, true, "api.example.com.", api.v4, api.v6)))
		key, _ := classify.MakeKey(zone, policy.ProtoUDP, web.addr(v6).As16(), resolver.addr(v6).As16(), 5353, 53)
		if _, ok := l.m.Get(key); ok {
			t.Error("the lookup is offloaded")
		}
		newConn(t, web, api, v6, 40001, 443).open(l)
		l.isDropped(web, outside, newConn(t, web, outside, v6, 40002, 443).segment(false, "S", ""), policy.ReasonNoRule)
	})
}

// Answers that nobody asked for, or from elsewhere, open nothing (N2).
func TestForgedAnswers(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l, names := namesLane(t, policy.Enforce, false)
		l.passes(web, resolver, udp(t, web, resolver, v6, 5353, 53, message(t, 7, false, "api.example.com.")))
		l.send(resolver, web, udp(t, resolver, web, v6, 53, 5353, message(t, 8, true, "api.example.com.", api.v4, api.v6)))
		l.send(outside, web, udp(t, outside, web, v6, 53, 5353, message(t, 7, true, "api.example.com.", api.v4, api.v6)))
		l.send(resolver, web, udp(t, resolver, web, v6, 53, 5354, message(t, 7, true, "api.example.com.", api.v4, api.v6)))
		l.send(db, web, udp(t, db, web, v6, 53, 5353, message(t, 7, true, "api.example.com.", api.v4, api.v6)))
		if got := names.List(); len(got) != 0 {
			t.Errorf("learned %+v", got)
		}
		l.isDropped(web, api, newConn(t, web, api, v6, 40000, 443).segment(false, "S", ""), policy.ReasonNoRule)
	})
}

func resolveAPI(t testing.TB, l *lane) {
	t.Helper()
	l.passes(web, resolver, udp(t, web, resolver, false, 5353, 53, message(t, 7, false, "api.example.com.")))
	l.passes(resolver, web, udp(t, resolver, web, false, 53, 5353, message(t, 7, true, "api.example.com.", api.v4, api.v6)))
}

// hello is a TLS ClientHello (RFC 8446 4.1.2) with a server name, none where it is "".
func hello(name string) string {
	ext := []byte{0, 23, 0, 0}
	if name != "" {
		n := uint16(len(name))
		sni := binary.BigEndian.AppendUint16([]byte{0, 0}, n+5)
		sni = append(binary.BigEndian.AppendUint16(sni, n+3), 0)
		ext = append(ext, append(binary.BigEndian.AppendUint16(sni, n), name...)...)
	}
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(ext))), ext...)
	msg := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return string(append(binary.BigEndian.AppendUint16([]byte{22, 3, 1}, uint16(len(msg))), msg...))
}

// What a connection asks the server for must be the name that it was allowed by (N6).
func TestNameMismatch(t *testing.T) {
	for _, c := range []struct {
		what, payload string
		passes        bool
		name          string // that the violation shows
	}{
		{"the name", hello("api.example.com"), true, ""},
		{"in any case", hello("API.Example.COM"), true, ""},
		{"another name", hello("evil.example.net"), false, "evil.example.net"},
		{"a name below", hello("x.api.example.com"), false, "x.api.example.com"},
		{"no name", hello(""), false, ""},
		{"host", "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", true, ""},
		{"host and port", "GET / HTTP/1.1\r\nhost: Api.example.com:443\r\n\r\n", true, ""},
		{"another host", "GET / HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", false, "evil.example.net"},
		{"no host", "GET / HTTP/1.0\r\n\r\n", false, ""},
		{"the address", "GET / HTTP/1.1\r\nHost: 198.51.100.7\r\n\r\n", false, "198.51.100.7"},
		{"another target", "GET http://evil.example.net/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", false, ""},
		{"two hosts", "GET / HTTP/1.1\r\nHost: api.example.com\r\nHost : evil.example.net\r\n\r\n", false, ""},
		{"a host that goes on", "GET / HTTP/1.1\r\nHost: api.example.com\r\n .evil.example.net\r\n\r\n", false, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) {
				l, _ := namesLane(t, policy.Enforce, false)
				resolveAPI(t, l)
				conn := newConn(t, web, api, v6, 40000, 443)
				conn.open(l)
				cut := len(c.payload) / 2
				if c.passes { // in one piece and in two
					l.passes(web, api, conn.segment(false, "A", c.payload[:cut]))
					l.passes(web, api, conn.segment(false, "A", c.payload[cut:]))
					return
				}
				l.isDropped(web, api, conn.segment(false, "A", c.payload), policy.ReasonNameMismatch)
				l.isDropped(web, api, conn.segment(false, "A", c.payload), policy.ReasonNameMismatch)
				l.d.Settle()
				if vs := l.d.Violations().List(); len(vs) != 1 || vs[0].Packets != 2 || vs[0].Name != c.name {
					t.Errorf("violations %+v, want one that names %q", vs, c.name)
				}
				l.d.SetTable(namesTable(t, 3, policy.Enforce, nameLines(false))) // a container came, elsewhere
				l.d.Turn(0)
				l.isDropped(web, api, conn.segment(false, "A", c.payload), policy.ReasonNameMismatch)
				two := newConn(t, web, api, v6, 40001, 443)
				two.open(l)
				l.send(web, api, two.segment(false, "A", c.payload[:cut]))
				if got := l.send(web, api, two.segment(false, "A", c.payload[cut:])); len(got) != 0 {
					t.Error("in two pieces all of it passes")
				}
			})
		})
	}
}

// Where only names may be looked up (R18), another query is answered by REFUSED,
// and observed where the mode is observe.
func TestNamesOnly(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l, _ := namesLane(t, policy.Enforce, true)
		l.passes(web, resolver, udp(t, web, resolver, v6, 5353, 53, message(t, 7, false, "api.example.com.")))
		got := l.send(web, resolver, udp(t, web, resolver, v6, 5353, 53, message(t, 9, false, "c2.evil.example.net.")))
		if len(got) != 1 || got[0].Dir != dataplane.ToEndpoint {
			t.Fatalf("%d frames left", len(got))
		}
		p := gopacket.NewPacket(got[0].Data, layers.LayerTypeEthernet, gopacket.Default)
		u, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		var m dnsmessage.Message
		if u == nil || u.SrcPort != 53 || u.DstPort != 5353 || m.Unpack(u.Payload) != nil || m.ID != 9 || m.RCode != dnsmessage.RCodeRefused {
			t.Fatalf("%v", p)
		}
		var want gopacket.NetworkLayer = p.NetworkLayer()
		check := *u
		if err := check.SetNetworkLayerForChecksum(want); err != nil {
			t.Fatal(err)
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true}, &check, gopacket.Payload(u.Payload)); err != nil || check.Checksum != u.Checksum {
			t.Errorf("checksum %x, want %x", u.Checksum, check.Checksum)
		}
		if n := l.d.Counters().Reasons.Of(policy.ReasonNameRefused); n != 1 {
			t.Errorf("counted %d times", n)
		}
		l.send(web, resolver, udp(t, web, resolver, v6, 5353, 53, message(t, 10, false, "another.Example.NET.")))
		l.send(web, resolver, udp(t, web, resolver, v6, 5353, 53, message(t, 11, false, "c2.evil.example.net.")))
		l.d.Settle()
		var named []string
		for _, v := range l.d.Violations().List() {
			named = append(named, fmt.Sprint(v.Name, " ", v.Spoken, " ", v.Count))
		}
		slices.Sort(named)
		if want := []string{"another.example.net dns 1", "c2.evil.example.net dns 2"}; !slices.Equal(named, want) {
			t.Errorf("violations %q, want %q", named, want)
		}
		if got := l.send(web, resolver, udp(t, web, resolver, v6, 5353, 53, "not dns at all")); len(got) != 0 {
			t.Error("what is no query passes")
		}

		l, _ = namesLane(t, policy.Observe, true)
		l.passes(web, resolver, udp(t, web, resolver, v6, 5353, 53, message(t, 9, false, "c2.evil.example.net.")))
		if n := l.d.Counters().Observed; n != 1 {
			t.Errorf("%d recorded", n)
		}
	})
}

func isRefusal(frame []byte) bool {
	var m dnsmessage.Message
	u, ok := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeUDP).(*layers.UDP)
	return ok && m.Unpack(u.Payload) == nil && m.Response && m.RCode == dnsmessage.RCodeRefused
}

// Lookups that carry more than names need (N8) are answered by REFUSED where only
// names may be looked up, over UDP, and do not arrive over TCP; elsewhere, and
// where the mode is observe, they pass and are recorded. What is asked for again,
// or below another domain, stays free.
func TestNameTunnel(t *testing.T) {
	data := func(i int) string { return fmt.Sprintf("%060d.%060d.cdn.example.", i, i) }
	for _, c := range []struct {
		what    string
		mode    policy.Mode
		only    bool
		refused bool
	}{
		{"dns: names", policy.Enforce, true, true},
		{"dns: names, observed", policy.Observe, true, false},
		{"dns: resolver", policy.Enforce, false, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) {
				l, _ := namesLane(t, c.mode, c.only)
				query := func(name string) []byte { return udp(t, web, resolver, v6, 5353, 53, message(t, 7, false, name)) }
				passed, told := 0, 0
				for i := range 100 {
					got := l.send(web, resolver, query(data(i)))
					switch {
					case len(got) == 1 && got[0].Dir == dataplane.FromEndpoint:
						passed++
					case len(got) == 1 && isRefusal(got[0].Data):
						told++
					}
				}
				n := l.d.Counters()
				dropped, recorded := n.Reasons.Of(policy.ReasonNameTunnel), n.Observed
				if c.refused && (passed == 0 || passed > 40 || dropped != uint64(100-passed) || recorded != 0) {
					t.Errorf("%d of 100 passed, %d dropped, %d recorded", passed, dropped, recorded)
				}
				if !c.refused && (passed != 100 || dropped != 0 || recorded < 60) {
					t.Errorf("%d of 100 passed, %d dropped, %d recorded", passed, dropped, recorded)
				}
				l.passes(web, resolver, query("api.example.com."))
				if !c.refused {
					return
				}
				if told == 0 { // the rate of answers is limited
					t.Error("no query is answered by REFUSED")
				}
				tcp := newConn(t, web, resolver, v6, 40000, 53)
				tcp.open(l)
				text := message(t, 9, false, data(2000))
				for _, s := range l.send(web, resolver, tcp.segment(false, "A", string(binary.BigEndian.AppendUint16(nil, uint16(len(text))))+text)) {
					if s.Dir == dataplane.FromEndpoint {
						t.Error("over TCP it leaves")
					}
				}
			})
		})
	}
}

// The sweep ends addresses whose time is over, while the dataplane runs.
func TestNamesAreSwept(t *testing.T) {
	names := policy.NewNames(policy.NameLimits{Floor: time.Nanosecond})
	d, err := dataplane.New(dataplane.Config{FlowMap: newLane(t).m, Flows: 64, Names: names})
	if err != nil {
		t.Fatal(err)
	}
	table, err := policy.Compile(tableInput(1, policy.Enforce, nameLines(false)...))
	if err != nil {
		t.Fatal(err)
	}
	d.SetTable(table)
	names.Note(table, 0, &policy.Answer{Name: "api.example.com", Addresses: []policy.AnswerAddress{{IP: api.v4}}}, time.Now())
	if len(names.List()) != 1 {
		t.Fatal("nothing learned")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = d.Run(ctx) }()
	for len(names.List()) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-ended
}

// What a name server answers that policy does not let the workload ask makes no
// name, also where the mode only records that it was asked (N2).
func TestDeniedLookupsMakeNoNames(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l, names := namesLane(t, policy.Observe, false)
		in := tableInput(3, policy.Observe, nameLines(false)...)
		in.Snapshot.Workloads[0].DNS = []netip.Addr{resolver.v4, resolver.v6}
		deny := in.Statements[0]
		deny.ID, deny.Verdict = "no-lookups", policy.Drop
		in.Statements = append(in.Statements, deny)
		table, err := policy.Compile(in)
		if err != nil {
			t.Fatal(err)
		}
		allowing := l.d.Table()
		for _, c := range []struct {
			table   *policy.Table
			learned int
		}{{table, 0}, {allowing, 2}} {
			l.d.SetTable(c.table)
			l.passes(web, resolver, udp(t, web, resolver, v6, 5353, 53, message(t, 7, false, "api.example.com.")))
			l.passes(resolver, web, udp(t, resolver, web, v6, 53, 5353, message(t, 7, true, "api.example.com.", api.v4, api.v6)))
			if got := names.List(); len(got) != c.learned {
				t.Errorf("learned %+v, want %d", got, c.learned)
			}
		}
	})
}

package main

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// record is what the name server of the tests below knows of a name: the last
// characters of its addresses, in both families, and the TTL.
type record struct {
	host string
	ttl  uint32
}

var zoneFile = map[string]record{
	"api.names.example.": {"131", 1}, "evil.names.example.": {"132", 1}, "static.names.example.": {"133", 600},
	"api.github.com.": {"134", 600}, "neighbour.names.example.": {"134", 600}, "inner.names.example.": {"131", 600},
}

// manyNames is a zone that has every name.
const manyNames = ".cdn.names.example."

// edges is where the aliases of the zone's names are, "edge-" and the end of the
// address.
const edges = ".cdn.example."

// nameServer answers in the outside, by way of a CNAME, and remembers what it
// was asked.
type nameServer struct {
	mu    sync.Mutex
	asked map[string]int
}

// serveDNS answers over UDP and TCP, in both families, until the test ends.
func serveDNS(t *testing.T, o *outside) *nameServer {
	t.Helper()
	s := &nameServer{asked: map[string]int{}}
	for _, family := range []int{4, 6} {
		at := port(o.far[family], 53).String()
		var conn net.PacketConn
		if err := inside(o.netns, func() (err error) { conn, err = net.ListenPacket("udp", at); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go s.datagrams(conn)
		go s.connections(listen(t, o.netns, "tcp", at))
	}
	return s
}

func (s *nameServer) datagrams(conn net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if b := s.answer(buf[:n]); b != nil {
			_, _ = conn.WriteTo(b, from)
		}
	}
}

func (s *nameServer) connections(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for {
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				query, err := readFramed(conn)
				if err != nil || writeFramed(conn, s.answer(query)) != nil {
					return
				}
			}
		}()
	}
}

// readFramed and writeFramed are DNS over TCP (RFC 1035 4.2.2).
func readFramed(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeFramed(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

func (s *nameServer) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	s.mu.Lock()
	s.asked[strings.ToLower(m.Questions[0].Name.String())]++
	s.mu.Unlock()
	b, err := answerOfZone(&m).Pack()
	if err != nil {
		return nil
	}
	return b
}

// count is how many names with that end were asked for.
func (s *nameServer) count(end string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.asked {
		if strings.HasSuffix(name, end) {
			n++
		}
	}
	return n
}

func answerOfZone(m *dnsmessage.Message) *dnsmessage.Message {
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	name := strings.ToLower(q.Name.String())
	known, ok := zoneFile[name]
	host, isEdge := strings.CutPrefix(name, "edge-")
	switch {
	case isEdge:
		known.host, ok = strings.CutSuffix(host, edges)
		known.ttl = 60
	case strings.HasSuffix(name, manyNames):
		known, ok = record{"135", 60}, true
	}
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
		return m
	}
	edge := q.Name
	if !isEdge {
		edge = dnsmessage.MustNewName("edge-" + known.host + edges)
	}
	head := func(name dnsmessage.Name) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: known.ttl}
	}
	if !isEdge {
		m.Answers = []dnsmessage.Resource{{Header: head(q.Name), Body: &dnsmessage.CNAMEResource{CNAME: edge}}}
	}
	switch q.Type {
	case dnsmessage.TypeA:
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: head(edge), Body: &dnsmessage.AResource{A: netip.MustParseAddr("198.51.100." + known.host).As4()}})
	case dnsmessage.TypeAAAA:
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: head(edge), Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8:9e::" + known.host).As16()}})
	}
	return m
}

// lookup asks as a program in the container does: by the engine's server there.
func (c *container) lookup(t *testing.T, name string, kind dnsmessage.Type) string {
	t.Helper()
	m, err := c.query("udp", "127.0.0.11:53", name, kind, livePatience)
	if err != nil {
		t.Fatalf("lookup of %s: %v", name, err)
	}
	return addressIn(m)
}

// query asks a name server for a name.
func (c *container) query(network, server, name string, kind dnsmessage.Type, patience time.Duration) (m dnsmessage.Message, err error) {
	conn, err := dial(c.netns, network, server, patience)
	if err != nil {
		return m, err
	}
	defer conn.Close()
	m = dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		return m, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if network == "tcp" {
		if err := writeFramed(conn, b); err != nil {
			return m, err
		}
		if b, err = readFramed(conn); err != nil {
			return m, err
		}
		return m, m.Unpack(b)
	}
	if _, err := conn.Write(b); err != nil {
		return m, err
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return m, err
	}
	return m, m.Unpack(buf[:n])
}

// addressIn is the first address of an answer, "" where there is none.
func addressIn(m dnsmessage.Message) string {
	for _, a := range m.Answers {
		switch r := a.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(r.A).String()
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(r.AAAA).String()
		}
	}
	return ""
}

// greet opens a TLS connection for a server name and asks for a page on it.
func (c *container) greet(address, server string, patience time.Duration) (*tls.Conn, error) {
	raw, err := dial(c.netns, "tcp", net.JoinHostPort(address, "443"), patience)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{ServerName: server, InsecureSkipVerify: true})
	return conn, page(conn, patience)
}

func page(conn net.Conn, patience time.Duration) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 4096))
	return err
}

// makeInternet is an outside with a name server and, at the addresses of its zone,
// servers of TLS.
func makeInternet(t *testing.T) (*outside, *nameServer) {
	t.Helper()
	o := makeOutside(t)
	for _, host := range []string{"131", "132", "133", "134", "135"} {
		mustRun(t, "ip", "-n", "ghe-outside", "addr", "add", "198.51.100."+host+"/25", "dev", "eth0")
		mustRun(t, "ip", "-n", "ghe-outside", "addr", "add", "2001:db8:9e::"+host+"/64", "dev", "eth0", "nodad")
	}
	for _, address := range []string{"0.0.0.0:443", "[::]:443"} {
		network := "tcp4"
		if address[0] == '[' {
			network = "tcp6"
		}
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.Listener = listen(t, o.netns, network, address)
		srv.StartTLS()
		t.Cleanup(srv.Close)
	}
	return o, serveDNS(t, o)
}

// TestNames: a container reaches the names that its deployer wrote down, from the
// first connection after its lookup on, as long as the answer holds, and nothing
// else behind the same addresses.
func TestNames(t *testing.T) {
	live(t)
	makeInternet(t)
	network := makeNetwork(t, "ghe-names_default", ofProject("ghe-names")...)
	app := perform(t, play{project: "ghe-names", service: "app", network: network, options: []string{"--dns", "198.51.100.130"},
		env: []string{"API_URL=https://api.names.example", "STATIC_URL=https://static.names.example"}})
	other := perform(t, play{project: "ghe-names", service: "other", network: network, options: []string{"--dns", "198.51.100.130"}})
	p := startGateway(t, "--names-floor", "3")
	p.admitted(app, other)
	p.enforce("ghe-names/app", "ghe-names/other")

	for _, f := range []struct {
		kind          dnsmessage.Type
		api, evilHost string
	}{{dnsmessage.TypeA, "198.51.100.131", "198.51.100.132"}, {dnsmessage.TypeAAAA, "2001:db8:9e::131", "2001:db8:9e::132"}} {
		if _, err := app.greet(f.api, "api.names.example", inVain); err == nil {
			t.Fatalf("%s is reached before any lookup", f.api)
		}
		if got := app.lookup(t, "api.names.example", f.kind); got != f.api {
			t.Fatalf("lookup: %q", got)
		}
		long, err := app.greet(f.api, "api.names.example", livePatience)
		if err != nil {
			t.Fatalf("%s after the lookup: %v; %+v", f.api, err, p.status().Drops)
		}
		defer long.Close()
		if _, err := app.greet(f.api, "evil.names.example", inVain); err == nil {
			t.Error("the address is reached for another name")
		}
		if got := app.lookup(t, "evil.names.example", f.kind); got != f.evilHost {
			t.Errorf("lookup: %q", got)
		}
		if _, err := app.greet(f.evilHost, "evil.names.example", inVain); err == nil {
			t.Error("a name of no statement is reached")
		}
		if _, err := other.greet(f.api, "api.names.example", inVain); err == nil {
			t.Error("another container reaches what this one asked for")
		}
		p.violation("another name", func(v ViolationView) bool { return v.Reason == "name-mismatch" && strings.Contains(v.Dest, f.api) })
		if out, code := p.cli("explain", "--from", "ghe-names/app", "--to", f.api, "--port", "tcp/443"); !strings.Contains(out, "api.names.example is "+f.api) {
			t.Errorf("explain: %d %s", code, out)
		}
		p.eventually("the answer's time is over", func() bool {
			var names []NameView
			p.mustGet("/v1/names", &names)
			for _, n := range names {
				if n.Address.String() == f.api && time.Now().Before(n.Until.Add(time.Second)) {
					return false
				}
			}
			return true
		}, func() string { return "" })
		if _, err := app.greet(f.api, "api.names.example", inVain); err == nil {
			t.Error("a new connection passes after its time")
		}
		if err := page(long, livePatience); err != nil {
			t.Errorf("the old one does not: %v", err)
		}
	}

	if got := app.lookup(t, "static.names.example", dnsmessage.TypeA); got != "198.51.100.133" {
		t.Fatalf("lookup: %q", got)
	}
	old, err := app.greet("198.51.100.133", "static.names.example", livePatience)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.admitted(app, other)
	if err := page(old, livePatience); err != nil {
		t.Errorf("the connection does not outlive a restart: %v", err)
	}
	if _, err := app.greet("198.51.100.133", "static.names.example", livePatience); err != nil {
		t.Errorf("what is still valid is lost with a restart: %v", err)
	}
	if out, _ := p.cli("get", "names"); !strings.Contains(out, "static.names.example") {
		t.Errorf("get names: %s", out)
	}
}

package main

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// said has a violation with a name be told, and returns its id.
func (d *desk) said(reason policy.Reason, to string, port uint16, name string, spoken policy.Spoken) string {
	d.t.Helper()
	v := dataplane.Violation{First: time.Now(), Last: time.Now(), Zone: 3, Proto: policy.ProtoTCP, Src: netip.MustParseAddrPort("172.30.0.2:40000"), Dst: netip.AddrPortFrom(netip.MustParseAddr(to), port),
		Workload: "web-container", Initiator: true, Outgoing: true, Reason: reason, Rule: -1, Name: name, Spoken: spoken, Packets: 1, Count: 1}
	d.recorder.violated(&v, 1, 0)
	out, errs, code := d.verb("get", "violations", "--to", name)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != exitGood || len(lines) != 2 || !strings.Contains(lines[1], ": "+name) {
		d.t.Fatalf("get violations: %d\n%s%s", code, out, errs)
	}
	return strings.Fields(lines[1])[0]
}

// A refused query and another server's name are shown by their names, with what
// lets them, and that is taken.
func TestExplainNames(t *testing.T) {
	folder := t.TempDir()
	d := openDesk(t, t.TempDir(), func(s *Settings) { s.Statements = folder })
	d.follow()
	d.inv.PutHost(policy.Host{Name: "host", Resolvers: []netip.Addr{netip.MustParseAddr("192.168.1.1")}})
	d.refresh()
	lookup := d.said(policy.ReasonNameRefused, "192.168.1.1", 53, "c2.example.net", policy.Spoken{App: policy.AppDNS})
	other := d.said(policy.ReasonNameMismatch, "198.51.100.7", 443, "evil.example.net", policy.Spoken{App: policy.AppTLS, ALPN: policy.AppHTTP})

	out, errs, code := d.verb("explain", lookup)
	for _, want := range []string{"looked up", "c2.example.net", "may look up", "nothing", "to: [{name: c2.example.net}]", "gatehouse.allow.egress=c2.example.net:443 http  # on shop/web"} {
		if code != exitNo || !strings.Contains(out, want) {
			t.Errorf("explain of the query lacks %q: %d\n%s%s", want, code, out, errs)
		}
	}
	_, line, _ := strings.Cut(out, "statement that allows it")
	line, _, _ = strings.Cut(line, "\n")
	write(t, filepath.Join(folder, "taken.yaml"), "schema: gatehouse.statements/v1\nstatements:\n  "+strings.TrimSpace(line)+"\n")
	d.eventually("the offered statement lets it be looked up", func() bool { _, _, code := d.verb("explain", lookup); return code == exitGood })

	// The address is known by the name that web may reach.
	st := d.control.State()
	d.names.Attach(st.Table, time.Now())
	d.names.Note(st.Table, st.Table.AskerOf("web-container"), &policy.Answer{Name: "c2.example.net", Resolver: netip.MustParseAddr("192.168.1.1"), Addresses: []policy.AnswerAddress{{IP: netip.MustParseAddr("198.51.100.7"), TTL: 600}}}, time.Now())
	out, errs, code = d.verb("explain", other)
	for _, want := range []string{"shop/web may go there as c2.example.net, and asks the server for evil.example.net", "to: [{name: evil.example.net}]", "gatehouse.allow.egress=evil.example.net:443 http"} {
		if code != exitNo || !strings.Contains(out, want) {
			t.Errorf("explain of another name lacks %q: %d\n%s%s", want, code, out, errs)
		}
	}
}

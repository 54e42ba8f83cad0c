package policy

import (
	"net/netip"
	"testing"
)

func cidr(p string) Peer { return Peer{Kind: PeerCIDR, Prefix: netip.MustParsePrefix(p)} }

func placedBy(ps ...string) Peer {
	return Peer{Kind: PeerSelector, Name: "category/device=x", Selected: &Selection{Prefixes: prefixes(ps...)}}
}

// TestPrefixes: a prefix tells addresses of one kind apart and changes no kind.
func TestPrefixes(t *testing.T) {
	allow := func(to ...Peer) []Statement {
		return []Statement{{ID: "a", Verdict: Allow, Tier: TierOperator, From: peersOf(PeerWorkload), To: to, App: AnyApp, Ports: tcp(443)}}
	}
	// Everything is allowed by name, so that only the deny can forbid.
	deny := func(to ...Peer) []Statement {
		return []Statement{
			{ID: "all", Verdict: Allow, Tier: TierLabel, From: peersOf(PeerAny), To: peersOf(PeerAny, PeerMetadata, PeerOrchestrator, PeerMulticast), App: AnyApp, Ports: []PortRange{{ProtoTCP, 1, 65535}}},
			{ID: "d", Verdict: Drop, Tier: TierOperator, From: peersOf(PeerAny), To: to, App: AnyApp, AnyPort: true},
		}
	}
	for _, c := range []struct {
		what       string
		statements []Statement
		dst        string
		port       uint16
		want       Verdict
	}{
		{"inside", allow(cidr("198.51.100.0/24")), "198.51.100.7", 443, Allow},
		{"inside, IPv6", allow(cidr("2001:db8:7::/48")), "2001:db8:7::1", 443, Allow},
		{"outside", allow(cidr("198.51.100.0/24")), "198.51.101.7", 443, Drop},
		{"last address", allow(cidr("198.51.100.0/25")), "198.51.100.127", 443, Allow},
		{"one behind it", allow(cidr("198.51.100.0/25")), "198.51.100.128", 443, Drop},
		{"nested, the inner", allow(cidr("198.51.100.0/24"), cidr("198.51.100.8/29")), "198.51.100.9", 443, Allow},
		{"site", allow(cidr("10.9.0.0/16")), "10.9.1.1", 443, Allow},
		{"the host", allow(cidr("192.168.1.0/24")), "192.168.1.9", 443, Allow},
		{"a container", allow(cidr("172.18.0.0/16")), "172.18.0.3", 443, Allow},
		{"as NAT64", allow(cidr("198.51.100.0/24")), "64:ff9b::c633:6407", 443, Allow},
		{"written as NAT64", allow(cidr("64:ff9b::c633:6400/120")), "198.51.100.7", 443, Allow},
		{"metadata wants naming", allow(cidr("0.0.0.0/0"), cidr("169.254.169.254/32")), "169.254.169.254", 443, Drop},
		{"nobody's address", allow(cidr("172.18.0.0/16")), "172.18.0.200", 443, Drop},
		{"multicast", allow(cidr("0.0.0.0/0")), "224.0.0.251", 443, Drop},

		{"deny", deny(cidr("198.51.100.0/24")), "198.51.100.7", 443, Drop},
		{"deny, beside it", deny(cidr("198.51.100.0/24")), "198.51.101.7", 443, Allow},
		{"deny reaches metadata", deny(cidr("169.254.0.0/16")), "169.254.169.254", 443, Drop},
		{"deny reaches the orchestrator", deny(cidr("192.168.1.9/32")), "192.168.1.9", 2375, Drop},
		{"deny reaches a container", deny(cidr("172.18.0.3/32")), "172.18.0.3", 443, Drop},
		{"deny reaches a published port", deny(cidr("192.168.1.9/32")), "192.168.1.9", 8080, Drop},

		{"a record places outsiders", allow(placedBy("10.9.0.0/16")), "10.9.1.1", 443, Allow},
		{"a record makes no workload an outsider", allow(placedBy("172.18.0.0/16")), "172.18.0.3", 443, Drop},
		{"a record changes no kind", allow(placedBy("0.0.0.0/0")), "169.254.169.254", 443, Drop},
		{"a record denies outsiders", deny(placedBy("10.9.0.0/16")), "10.9.1.1", 443, Drop},
		{"a record denies no workload by address", deny(placedBy("172.18.0.0/16")), "172.18.0.3", 443, Allow},
		{"a record denies metadata", deny(placedBy("169.254.0.0/16")), "169.254.169.254", 443, Drop},
	} {
		in := town()
		in.Statements = c.statements
		src := "172.18.0.2"
		if netip.MustParseAddr(c.dst).Is6() {
			src = "fd00:18::2"
		}
		if got := mustCompile(t, in).Lookup(query(1, src, c.dst, ProtoTCP, c.port)).Verdict(); got != c.want {
			t.Errorf("%s: %s is %v, want %v", c.what, c.dst, got, c.want)
		}
	}
}

// TestExcept is V3: an exception is part of the deny, exact in peers, ports and
// applications, and leaves the flow to the other statements.
func TestExcept(t *testing.T) {
	plain := func(a App) AppMatch { return AppMatch{App: a, Forms: TLSOptional} }
	for _, c := range []struct {
		what   string
		except Exception
		http   Verdict // web -> 198.51.100.7:80
		ssh    Verdict
		other  Verdict // web -> 198.51.101.7:80
	}{
		{"nothing", Exception{}, Drop, Drop, Drop},
		{"nobody", Exception{To: peersOf(PeerAny), App: AnyApp, AnyPort: true}, Drop, Drop, Drop},
		{"a prefix", Exception{From: peersOf(PeerAny), To: []Peer{cidr("198.51.100.0/24")}, App: AnyApp, AnyPort: true}, Allow, Allow, Drop},
		{"an application", Exception{From: peersOf(PeerAny), To: peersOf(PeerAny), App: plain(AppHTTP), AnyPort: true}, Allow, Drop, Allow},
		{"both", Exception{From: []Peer{peerWeb}, To: []Peer{cidr("198.51.100.7/32")}, App: plain(AppHTTP), Ports: tcp(80)}, Allow, Drop, Drop},
		{"another port", Exception{From: []Peer{peerWeb}, To: peersOf(PeerAny), App: AnyApp, Ports: tcp(81)}, Drop, Drop, Drop},
		{"another caller", Exception{From: []Peer{peerDB}, To: peersOf(PeerAny), App: AnyApp, AnyPort: true}, Drop, Drop, Drop},
	} {
		in := town()
		in.Statements = []Statement{
			{ID: "all", Verdict: Allow, From: peersOf(PeerWorkload), To: peersOf(PeerAny), App: AnyApp, Ports: tcp(80)},
			{ID: "d", Verdict: Drop, Tier: TierOperator, From: peersOf(PeerWorkload), To: peersOf(PeerExternal), App: AnyApp, AnyPort: true, Except: []Exception{c.except}},
		}
		table := mustCompile(t, in)
		ask := func(dst string, a App) Verdict {
			return table.Lookup(query(1, "172.18.0.2", dst, ProtoTCP, 80)).Judge(Spoken{App: a}).Verdict
		}
		got := [3]Verdict{ask("198.51.100.7", AppHTTP), ask("198.51.100.7", AppSSH), ask("198.51.101.7", AppHTTP)}
		if want := [3]Verdict{c.http, c.ssh, c.other}; got != want {
			t.Errorf("%s: http, ssh, http elsewhere are %v, want %v", c.what, got, want)
		}
	}
}

// One line of the operator's is one statement, whatever it compiles to.
func TestSelectorText(t *testing.T) {
	s := Statement{ID: "s", Verdict: Drop, From: []Peer{{Kind: PeerSelector, Name: "category/risk=high"}}, To: []Peer{{Kind: PeerSelector, Name: "category/value=customer-data"}},
		App: AnyApp, AnyPort: true, Except: []Exception{{From: []Peer{peerWeb}, To: peersOf(PeerAny), App: AppMatch{App: AppHTTP, Forms: TLSNone}, Ports: tcp(80)}}}
	want := "deny category/risk=high -> category/value=customer-data : any any except [shop/web] -> [@any] : http tcp/80"
	if lines := s.Lines(false); len(lines) != 1 || lines[0] != want {
		t.Errorf("%q, want %q", lines, want)
	}
}

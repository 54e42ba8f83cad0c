package policy

import (
	"strconv"
	"strings"
	"testing"
)

// TestAppMatch: which flows a statement's application covers.
func TestAppMatch(t *testing.T) {
	plain := func(a App) AppMatch { return AppMatch{App: a, Forms: TLSNone} }
	start := func(a App) AppMatch { return AppMatch{App: a, Forms: TLSStart} }
	tls := func(a App) AppMatch { return AppMatch{App: a, Forms: TLSOnly} }
	tests := []struct {
		name string
		m    AppMatch
		s    Spoken
		want bool
	}{
		{"the protocol", plain(AppHTTP), Spoken{App: AppHTTP, Sub: AppElasticsearch}, true},
		{"a form of it", plain(AppHTTP), Spoken{App: AppGRPC, Sub: AppEtcd}, true},
		{"the API", plain(AppElasticsearch), Spoken{App: AppHTTP, Sub: AppElasticsearch}, true},
		{"the API's child", plain(AppElasticsearch), Spoken{App: AppHTTP, Sub: AppOpenSearch}, true},
		{"the API's own protocol", plain(AppElasticsearch), Spoken{App: AppElasticsearch}, true},
		{"docker", plain(AppDocker), Spoken{App: AppHTTP, Sub: AppDocker}, true},
		{"etcd", plain(AppEtcd), Spoken{App: AppGRPC, Sub: AppEtcd}, true},
		{"another API", plain(AppDocker), Spoken{App: AppHTTP, Sub: AppConsul}, false},
		{"no API", plain(AppDocker), Spoken{App: AppHTTP}, false},
		{"child only", plain(AppOpenSearch), Spoken{App: AppHTTP, Sub: AppElasticsearch}, false},
		{"in TLS", tls(AppDocker), Spoken{App: AppTLS}, true},
		{"in TLS, not in clear", tls(AppDocker), Spoken{App: AppHTTP, Sub: AppDocker}, false},
		{"upgraded", start(AppSMTP), Spoken{App: AppSMTP, Inner: AppTLS}, true},
		{"upgraded, only plain", plain(AppSMTP), Spoken{App: AppSMTP, Inner: AppTLS}, false},
		{"tunnel to TLS", plain(AppHTTP), Spoken{App: AppHTTP, Inner: AppTLS}, true},
		{"tunnel to HTTP", plain(AppHTTP), Spoken{App: AppHTTP, Inner: AppHTTP}, true},
		{"tunnel to a database", plain(AppHTTP), Spoken{App: AppHTTP, Inner: AppMySQL}, false},
		{"tunnel to the unknown", plain(AppHTTP), Spoken{App: AppHTTP, Inner: AppUnknown}, false},
		{"tunnel to ssh, by socks", plain(AppSOCKS), Spoken{App: AppSOCKS, Inner: AppSSH}, false},
		{"what the tunnel carries", plain(AppSSH), Spoken{App: AppHTTP, Inner: AppSSH}, true},
		{"TLS of something in a tunnel", tls(AppMySQL), Spoken{App: AppSOCKS, Inner: AppTLS}, true},
		{"anything", AnyApp, Spoken{App: AppHTTP, Inner: AppSSH}, true},
	}
	for _, tt := range tests {
		if got := tt.m.Matches(tt.s); got != tt.want {
			t.Errorf("%s: %v matches %v: %v, want %v", tt.name, tt.m, tt.s, got, tt.want)
		}
	}
}

// TestSubDecides: a statement for an API asks for the application, and an API
// that is still to be found can change the answer (V12).
func TestSubDecides(t *testing.T) {
	about := func(v Verdict, a App) term {
		return term{app: AppMatch{App: a, Forms: TLSPlain}, verdict: v, rank: rankOf(TierOperator, v)}
	}
	decision := func(terms ...term) *Decision {
		d := &Decision{in: sideDecision{guarded: true, reason: ReasonNoRule, allows: true, terms: deciding(terms)}}
		d.settle(nil)
		return d
	}
	http := Spoken{App: AppHTTP}
	tests := []struct {
		name    string
		d       *Decision
		verdict Verdict
		matters bool
	}{
		{"allow an API", decision(about(Allow, AppElasticsearch)), Undecided, true},
		{"deny an API in HTTP", decision(about(Drop, AppDocker), about(Allow, AppHTTP)), Undecided, true},
		{"HTTP with any API", decision(about(Allow, AppHTTP), about(Allow, AppDocker)), Undecided, false},
		{"no API named", decision(about(Allow, AppHTTP)), Undecided, false},
	}
	for _, tt := range tests {
		if v, m := tt.d.Verdict(), tt.d.SubMatters(http); v != tt.verdict || m != tt.matters {
			t.Errorf("%s: %v, matters %v; want %v, %v", tt.name, v, m, tt.verdict, tt.matters)
		}
	}
	if d := decision(about(Allow, AppGRPC)); !d.SubMatters(Spoken{App: AppHTTP2}) || d.SubMatters(http) {
		t.Error("only a connection of HTTP/2 may still turn out to be gRPC")
	}
}

// Whoever takes the wrong word for an application is told the right one.
func TestUnknownApp(t *testing.T) {
	for name, want := range map[string]string{
		"postgres": "is postgresql meant?", "mongo": "is mongodb meant?", "HTTPS": "is http meant?", "mariadb": "is mysql meant?",
		"redsi": "is redis meant?", "htp": "is http meant?", "httpp": "is http meant?", "ssj": "is ssh meant?", "smtps": "is smtp meant?",
		"frobnicate": "lists them", "h": "lists them", "": "lists them", "none": "lists them",
	} {
		if err := UnknownApp(name); !strings.HasSuffix(err.Error(), want) || !strings.Contains(err.Error(), strconv.Quote(name)) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	for a := AppUnknown + 1; a < AppCount; a++ {
		if word := a.String() + "x"; likeApp(word) == AppNone {
			t.Errorf("%q is like no application", word)
		}
	}
	for word, a := range usualWords {
		if _, taken := ParseApp(word); taken || a <= AppUnknown || a >= AppCount {
			t.Errorf("%q: %v", word, a)
		}
	}
}

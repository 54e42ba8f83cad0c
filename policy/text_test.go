package policy

import (
	"encoding"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// roundTrips are statements with everything set, nothing set, and every kind
// of empty set.
var roundTrips = []Statement{
	{ID: "full", Verdict: Reject, Tier: TierOperator, From: []Peer{peerWeb, {Kind: PeerService, Service: ServiceKey{ProjectKey{"n1", "shop"}, "db"}, Identity: 70}},
		To:  []Peer{{Kind: PeerName, Name: "a.example.com"}, {Kind: PeerCIDR, Prefix: netip.MustParsePrefix("2001:db8::/32")}, {Kind: PeerExternal}},
		App: AppMatch{App: AppMySQL, Forms: TLSOptional}, Ports: []PortRange{Port(ProtoTCP, 80), {ProtoUDP, 1000, 2000}, {Proto: ProtoICMP}},
		Speaks: SpeaksIn, EnforceAlways: true, Origin: []string{"a", "b"}, Pending: "names"},
	{ID: "zero"},
	{ID: "empty", From: []Peer{}, To: []Peer{}, Ports: []PortRange{}, Origin: []string{}},
	{ID: "selected", Verdict: Drop, Tier: TierOperator, From: []Peer{{Kind: PeerSelector, Name: "role/cache", Selected: &Selection{Identities: []Identity{64}, Prefixes: prefixes("10.0.0.0/8")}}},
		To: []Peer{{Kind: PeerSelector, Name: "category/risk=high", Selected: &Selection{}}, {Kind: PeerSelector, Name: "role/none"}}, App: AnyApp, AnyPort: true,
		Except: []Exception{{}, {From: peersOf(PeerAny), To: []Peer{}, App: AppMatch{App: AppHTTP, Forms: TLSNone}, Ports: tcp(80)}, {App: AnyApp, AnyPort: true}}, While: "threat is high"},
	{ID: "any", Verdict: Drop, Tier: TierLabel, From: []Peer{{Kind: PeerAny}}, To: []Peer{{Kind: PeerAny}}, App: AnyApp, AnyPort: true, Speaks: SpeaksOut},
}

// written makes nil sets empty ones, which YAML does not tell apart.
func written(s Statement) Statement {
	s.From, s.To = append([]Peer{}, s.From...), append([]Peer{}, s.To...)
	s.Ports, s.Origin = append([]PortRange{}, s.Ports...), append([]string{}, s.Origin...)
	s.Except = append([]Exception{}, s.Except...)
	for i := range s.Except {
		e := &s.Except[i]
		e.From, e.To, e.Ports = append([]Peer{}, e.From...), append([]Peer{}, e.To...), append([]PortRange{}, e.Ports...)
	}
	for i := range s.To {
		if sel := s.To[i].Selected; sel != nil {
			s.To[i].Selected = &Selection{append([]Identity{}, sel.Identities...), append([]netip.Prefix{}, sel.Prefixes...)}
		}
	}
	return s
}

// TestStatementRoundTrip: what was empty stays empty, through JSON and YAML,
// and never comes back as any.
func TestStatementRoundTrip(t *testing.T) {
	for name, codec := range map[string]struct {
		encode func(any) ([]byte, error)
		decode func([]byte, any) error
	}{"json": {json.Marshal, json.Unmarshal}, "yaml": {yaml.Marshal, yaml.Unmarshal}} {
		for _, s := range roundTrips {
			text, err := codec.encode(s)
			if err != nil {
				t.Fatalf("%s: %s: %v", name, s.ID, err)
			}
			var back Statement
			if err := codec.decode(text, &back); err != nil {
				t.Fatalf("%s: %v in\n%s", name, err, text)
			}
			if !reflect.DeepEqual(written(back), written(s)) {
				t.Errorf("%s: %+v came back as %+v from\n%s", name, s, back, text)
			}
		}
	}
}

// TestEmptySetsAfterDecoding: absent, null and empty sets all match nothing.
func TestEmptySetsAfterDecoding(t *testing.T) {
	for _, text := range []string{
		`{"id":"s","verdict":"allow","app":{"any":true}}`,
		`{"id":"s","verdict":"allow","from":null,"to":null,"ports":null,"app":{"any":true}}`,
		`{"id":"s","verdict":"allow","from":[],"to":[],"ports":[],"app":{"any":true}}`,
		`{"id":"s","verdict":"allow","from":[{}],"to":[{}],"ports":["tcp/1-65535"],"app":{"any":true}}`,
		`{"id":"s","verdict":"allow","from":[{"kind":"any"}],"to":[{"kind":"any"}],"ports":["tcp/1-65535"]}`,
		`{"id":"s","verdict":"allow","tier":"operator","from":[{"kind":"selector","name":"role/x"}],"to":[{"kind":"any"}],"ports":["tcp/1-65535"],"app":{"any":true}}`,
		`{"id":"s","verdict":"allow","tier":"operator","from":[{"kind":"selector","selected":{"identities":[],"prefixes":null}}],"to":[{"kind":"any"}],"ports":["tcp/1-65535"],"app":{"any":true}}`,
		`{"id":"s","verdict":"allow","tier":"operator","from":[{"kind":"selector","selected":{}}],"to":[{"kind":"any"}],"ports":["tcp/1-65535"],"app":{"any":true}}`,
		`{"id":"s","from":[{"kind":"any"}],"to":[{"kind":"any"}],"ports":["tcp/1-65535"],"app":{"any":true},"tier":"operator"}`,
	} {
		in := town()
		in.Statements = make([]Statement, 1)
		if err := json.Unmarshal([]byte(text), &in.Statements[0]); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if v := mustCompile(t, in).Lookup(query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, 80)).Verdict(); v != Drop {
			t.Errorf("%s gives %v", text, v)
		}
	}
}

func testWords[T encoding.TextMarshaler, P interface {
	*T
	encoding.TextUnmarshaler
}](t *testing.T, values ...T) {
	t.Helper()
	for _, v := range values {
		text, err := v.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back T
		if err := P(&back).UnmarshalText(text); err != nil || !reflect.DeepEqual(back, v) {
			t.Errorf("%T %q came back as %v (%v)", v, text, back, err)
		}
	}
	for _, text := range []string{"invalid", "no such word", " tcp/80", "tcp/80-", "proto-", "proto-256", "02:42"} {
		var back, zero T
		if err := P(&back).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%T: %q is read as %v", back, text, back)
		}
		if !reflect.DeepEqual(back, zero) {
			t.Errorf("%T: an error left %v", back, back)
		}
	}
}

// upTo lists the first n values of an enumeration.
func upTo[T ~uint8 | ~uint16](n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = T(i)
	}
	return out
}

func TestWords(t *testing.T) {
	testWords(t, upTo[Verdict](len(verdictNames))...)
	testWords(t, upTo[Mode](len(modeNames))...)
	testWords(t, upTo[Side](len(sideNames))...)
	testWords(t, upTo[Tier](len(tierNames))...)
	testWords(t, upTo[PeerKind](len(peerNames))...)
	testWords(t, upTo[Speaks](len(speaksNames))...)
	testWords(t, upTo[Trust](len(trustNames))...)
	testWords(t, upTo[Reason](int(ReasonCount))...)
	testWords(t, upTo[App](int(AppCount))...)
	testWords(t, upTo[TLSForms](8)...)
	testWords(t, upTo[Proto](256)...)
	testWords(t, Port(ProtoTCP, 80), PortRange{ProtoUDP, 5, 9}, PortRange{ProtoTCP, 0, 65535}, PortRange{ProtoUDP, 0, 65535}, PortRange{Proto: ProtoICMP}, PortRange{Proto: ProtoICMPv6})
	testWords(t, MAC{2, 0x42, 0xac, 0x12, 0, 3}, MAC{})
}

func FuzzParsePortRange(f *testing.F) {
	for _, s := range []string{"tcp/80", "udp/1000-2000", "icmp", "tcp/0", "tcp/9-8", "tcp/65536", "tcp/", "/", "", "tcp/80-", "tcp/1-2-3", "sctp/1", "tcp/+1", "tcp/0080"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParsePortRange(s)
		if err != nil {
			return
		}
		if problem := r.problem(); problem != "" {
			t.Fatalf("%q gives %v: %s", s, r, problem)
		}
		if again, err := ParsePortRange(r.String()); err != nil || again != r {
			t.Fatalf("%q gives %v, which reads as %v (%v)", s, r, again, err)
		}
	})
}

func FuzzStatementJSON(f *testing.F) {
	for _, s := range roundTrips {
		text, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s, again Statement
		if json.Unmarshal(text, &s) != nil {
			return
		}
		in := town()
		in.Statements = []Statement{s}
		if _, err := Compile(in); err != nil {
			return
		}
		text, err := json.Marshal(s)
		if err == nil {
			err = json.Unmarshal(text, &again)
		}
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("%+v came back as %+v (%v)", s, again, err)
		}
	})
}

func FuzzExplainNames(f *testing.F) {
	for _, s := range []string{"shop/web", "web", "@internet", "#64", "shop/web#64", "172.18.0.2", "fe80::1%eth0", "@any", "@", "#", "app", ""} {
		f.Add(s, "shop/db")
	}
	table := mustCompile(f, town())
	f.Fuzz(func(t *testing.T, from, to string) {
		x, err := Explain(table, from, to, Port(ProtoTCP, 80), AppHTTP)
		if err == nil && !strings.Contains(x.Text(), "verdict") {
			t.Fatalf("%q -> %q: %+v", from, to, x)
		}
	})
}

// FuzzWords: whatever a word's reader takes, it writes back the same.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"allow", "tcp", "proto-47", "plain+direct", "02:42:ac:12:00:03", "icmpv6", "tcp/0-65535", "http", "", "+"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var (
			p Proto
			r PortRange
			m MAC
			l TLSForms
			a App
		)
		for _, w := range []interface {
			encoding.TextMarshaler
			encoding.TextUnmarshaler
		}{&p, &r, &m, &l, &a} {
			if w.UnmarshalText([]byte(s)) != nil {
				continue
			}
			text, _ := w.MarshalText()
			if err := w.UnmarshalText(text); err != nil {
				t.Fatalf("%T reads %q, writes %q, and does not read that: %v", w, s, text, err)
			}
			if again, _ := w.MarshalText(); string(again) != string(text) {
				t.Fatalf("%T writes %q, then %q", w, text, again)
			}
		}
	})
}

func TestServiceKeyIsItsText(t *testing.T) {
	var keys []ServiceKey
	for _, project := range []string{"", "a", "a/b", "net:a"} {
		for _, name := range []string{"", "a", "b", "b/c", "a/b"} {
			keys = append(keys, ServiceKey{ProjectKey{"n1", project}, name})
		}
	}
	for _, k := range keys {
		for _, o := range keys {
			if text := o.String(); k.Is(text) != (k.String() == text) {
				t.Errorf("%+v is %q: %v", k, text, k.Is(text))
			}
		}
	}
}

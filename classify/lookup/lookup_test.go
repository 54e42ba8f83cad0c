package lookup

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"gatehouse/classify"
	"gatehouse/policy"
)

// dns builds a message about one name; answers are "OWNER TYPE TTL VALUE".
func dns(t testing.TB, id uint16, response bool, name string, kind dnsmessage.Type, answers ...string) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: response, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	for _, a := range answers {
		f := strings.Fields(a)
		var ttl uint32
		fmt.Sscan(f[2], &ttl)
		h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(f[0]), Class: dnsmessage.ClassINET, TTL: ttl}
		var body dnsmessage.ResourceBody
		switch f[1] {
		case "A":
			body = &dnsmessage.AResource{A: netip.MustParseAddr(f[3]).As4()}
		case "AAAA":
			body = &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(f[3]).As16()}
		case "CNAME":
			body = &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(f[3])}
		case "HTTPS":
			h.Type = dnsmessage.TypeHTTPS
			four, six := netip.MustParseAddr(f[3]).As4(), netip.MustParseAddr(f[4]).As16()
			r := dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{Priority: 1, Target: dnsmessage.MustNewName(".")}}
			r.SetParam(dnsmessage.SVCParamIPv4Hint, four[:])
			r.SetParam(dnsmessage.SVCParamIPv6Hint, six[:])
			body = &r
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body})
	}
	m.Additionals = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeOPT, Class: 1232}, Body: &dnsmessage.OPTResource{}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// listener is a Reader with what it told.
type listener struct {
	*Reader
	allowed []string // if not nil, other queries are stopped
	asked   []Query
	learned []string
	refused map[policy.NameRefusal]int
}

func listen() *listener {
	l := &listener{refused: map[policy.NameRefusal]int{}}
	l.Reader = New(Handlers{
		Ask: func(q *Query) (passes, wanted bool) {
			l.asked = append(l.asked, *q)
			return l.allowed == nil || slices.Contains(l.allowed, q.Name), q.Name != ""
		},
		Learn: func(a *policy.Answer) {
			for _, x := range a.Addresses {
				l.learned = append(l.learned, fmt.Sprint(a.Name, " ", strings.Join(a.Chain, ">"), " ", x.IP, " ", x.TTL))
			}
		},
		Refuse: func(r policy.NameRefusal) { l.refused[r]++ },
	})
	return l
}

var flow = classify.FlowKey{PortA: 40000, PortB: 53, Proto: policy.ProtoUDP}

func (l *listener) udp(fromAsker bool, b []byte) Outcome {
	return l.Read(&Packet{Key: flow, Owner: 1, FromAsker: fromAsker, Payload: b, Now: 1e9})
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		what    string
		kind    dnsmessage.Type
		answers []string
		want    []string
	}{
		{"both families", dnsmessage.TypeALL, []string{"Api.Example.com. A 60 198.51.100.7", "api.example.com. AAAA 30 2001:db8::7"},
			[]string{"api.example.com  198.51.100.7 1m0s", "api.example.com  2001:db8::7 30s"}},
		{"a chain, with its least TTL, in any order", dnsmessage.TypeA, []string{"b.cdn.net. A 600 198.51.100.7", "a.cdn.net. CNAME 20 b.cdn.net.", "api.example.com. CNAME 300 a.cdn.net."},
			[]string{"api.example.com a.cdn.net>b.cdn.net 198.51.100.7 20s"}},
		{"what the question does not lead to", dnsmessage.TypeA, []string{"api.example.com. A 60 198.51.100.7", "evil.example.net. A 60 198.51.100.66", "bank.example. CNAME 60 api.example.com."},
			[]string{"api.example.com  198.51.100.7 1m0s"}},
		{"a chain that goes round", dnsmessage.TypeA, []string{"api.example.com. CNAME 60 a.net.", "a.net. CNAME 60 api.example.com.", "a.net. A 60 198.51.100.7"},
			[]string{"api.example.com a.net 198.51.100.7 1m0s"}},
		{"hints", dnsmessage.TypeHTTPS, []string{"api.example.com. HTTPS 60 198.51.100.7 2001:db8::7"},
			[]string{"api.example.com  198.51.100.7 1m0s", "api.example.com  2001:db8::7 1m0s"}},
		{"TTL 0", dnsmessage.TypeA, []string{"api.example.com. A 0 198.51.100.7"}, []string{"api.example.com  198.51.100.7 0s"}},
		{"none", dnsmessage.TypeA, nil, nil},
	} {
		l := listen()
		l.udp(true, dns(t, 7, false, "API.example.com.", c.kind))
		l.udp(false, dns(t, 7, true, "api.EXAMPLE.com.", c.kind, c.answers...))
		if !slices.Equal(l.learned, c.want) {
			t.Errorf("%s: %q, want %q", c.what, l.learned, c.want)
		}
	}
}

// Only the answer to a query that has passed counts, in its flow, once, in time.
func TestUnaskedAnswers(t *testing.T) {
	a := "api.example.com. A 60 198.51.100.7"
	good := dns(t, 7, true, "api.example.com.", dnsmessage.TypeA, a)
	other := flow
	other.PortA++
	for what, p := range map[string]Packet{
		"another id":   {Key: flow, Payload: dns(t, 8, true, "api.example.com.", dnsmessage.TypeA, a), Now: 1e9},
		"another name": {Key: flow, Payload: dns(t, 7, true, "www.example.com.", dnsmessage.TypeA, "www.example.com. A 60 198.51.100.7"), Now: 1e9},
		"another type": {Key: flow, Payload: dns(t, 7, true, "api.example.com.", dnsmessage.TypeAAAA, a), Now: 1e9},
		"another flow": {Key: other, Payload: good, Now: 1e9},
		"too late":     {Key: flow, Payload: good, Now: 17e9},
		"from asker":   {Key: flow, FromAsker: true, Payload: good, Now: 1e9},
	} {
		l := listen()
		l.udp(true, dns(t, 7, false, "api.example.com.", dnsmessage.TypeA))
		l.Read(&p)
		if len(l.learned) != 0 {
			t.Errorf("%s: learned %q", what, l.learned)
		}
	}
	l := listen()
	l.udp(true, dns(t, 7, false, "api.example.com.", dnsmessage.TypeA))
	l.udp(false, good)
	l.udp(false, good)
	if len(l.learned) != 1 || l.refused[policy.NameUnasked] != 1 {
		t.Errorf("learned %q, refused %v", l.learned, l.refused)
	}
	l.allowed = []string{}
	if l.udp(true, dns(t, 9, false, "api.example.com.", dnsmessage.TypeA)) != Refused {
		t.Error("a query that policy does not want passes")
	}
	l.udp(false, dns(t, 9, true, "api.example.com.", dnsmessage.TypeA, a))
	if len(l.learned) != 1 {
		t.Error("the answer to a query that was stopped counts")
	}
}

func TestBadMessages(t *testing.T) {
	query := dns(t, 7, false, "api.example.com.", dnsmessage.TypeA)
	loop := append([]byte{0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, 0xc0, 12, 0, 1, 0, 1)
	two := slices.Clone(query)
	two[5] = 2
	for what, b := range map[string][]byte{"empty": {}, "a name that points at itself": loop, "two questions": two, "cut": query[:20], "noise": []byte("GET / HTTP/1.1\r\n\r\n")} {
		l := listen()
		l.allowed = []string{"api.example.com"}
		if l.udp(true, b) != Refused {
			t.Errorf("%s passes as a query for names", what)
		}
		l.udp(false, b)
		if len(l.learned) != 0 {
			t.Errorf("%s: learned %q", what, l.learned)
		}
	}
	l := listen()
	l.udp(true, query)
	whole := dns(t, 7, true, "api.example.com.", dnsmessage.TypeA, "api.example.com. A 60 198.51.100.7", "api.example.com. A 60 198.51.100.8")
	l.Read(&Packet{Key: flow, Payload: whole[:len(whole)-20], Part: true, Now: 1e9})
	if len(l.learned) != 1 || l.refused[policy.NameInPieces] != 1 {
		t.Errorf("of the first fragment: %q, %v", l.learned, l.refused)
	}
}

// framed is messages as TCP carries them.
func framed(ms ...[]byte) []byte {
	var out []byte
	for _, m := range ms {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(m))), m...)
	}
	return out
}

// TestTCP: however a conversation is cut, and whatever comes twice, it is read;
// what is out of order or differs from what has passed is held.
func TestTCP(t *testing.T) {
	asks := framed(dns(t, 7, false, "api.example.com.", dnsmessage.TypeA), dns(t, 8, false, "api.example.com.", dnsmessage.TypeAAAA))
	says := framed(dns(t, 8, true, "api.example.com.", dnsmessage.TypeAAAA, "api.example.com. AAAA 60 2001:db8::7"),
		dns(t, 7, true, "api.example.com.", dnsmessage.TypeA, "api.example.com. A 60 198.51.100.7"))
	key := flow
	key.Proto = policy.ProtoTCP
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		l := listen()
		send := func(fromAsker bool, all []byte, from, to int) Outcome {
			start := uint32(1<<32 - 5)
			return l.Read(&Packet{Key: key, Owner: 1, FromAsker: fromAsker, TCP: true, Payload: all[from:to], Seq: start + uint32(from), Start: start, Started: true, Now: 1e9})
		}
		for _, side := range []struct {
			fromAsker bool
			all       []byte
		}{{true, asks}, {false, says}} {
			for at := 0; at < len(side.all); {
				next := min(len(side.all), at+1+r.IntN(40))
				if next < len(side.all) && send(side.fromAsker, side.all, next, len(side.all)) != Held {
					t.Fatal("a segment out of order passes")
				}
				from := max(0, at-r.IntN(10))
				if send(side.fromAsker, side.all, from, next) != Pass {
					t.Fatal("a segment in order does not pass")
				}
				bad := slices.Clone(side.all)
				bad[next-1] ^= 0x55
				if send(side.fromAsker, bad, from, next) != Held {
					t.Fatal("other bytes than have passed pass")
				}
				at = next
			}
		}
		if len(l.learned) != 2 || len(l.asked) != 2 {
			t.Fatalf("asked %v, learned %q", l.asked, l.learned)
		}
		l.Forget(key)
		if len(l.streams) != 0 || len(l.streamsOf) != 0 {
			t.Fatal("the connection is kept")
		}
	}
}

// What waits is bounded, for each endpoint.
func TestReaderIsBounded(t *testing.T) {
	l := listen()
	for i := range 3 * questionsMax {
		k := flow
		k.PortA = uint16(i)
		l.Read(&Packet{Key: k, Owner: uint16(i % 2), FromAsker: true, Payload: dns(t, uint16(i), false, "api.example.com.", dnsmessage.TypeA), Now: 1e9})
		k.Proto = policy.ProtoTCP
		l.Read(&Packet{Key: k, Owner: uint16(i % 2), FromAsker: true, TCP: true, Payload: []byte{0}, Seq: 1, Start: 1, Started: true, Now: 1e9})
	}
	if len(l.questions) > 2*perOwner || len(l.streams) > 2*streamsOwner || l.refused[policy.NameBusy] == 0 {
		t.Errorf("%d questions, %d streams, refused %v", len(l.questions), len(l.streams), l.refused)
	}
	l.Read(&Packet{Key: flow, Owner: 1, FromAsker: true, Payload: dns(t, 1, false, "api.example.com.", dnsmessage.TypeA), Now: 30e9})
	if len(l.questions) != 1 || len(l.ofOwner) != 1 {
		t.Errorf("%d questions after their time", len(l.questions))
	}
}

// However much others ask without an answer, by datagrams or connections, an
// endpoint that asks little is read.
func TestFloodsLeaveRoom(t *testing.T) {
	l := listen()
	query, answer := dns(t, 7, false, "api.example.com.", dnsmessage.TypeA), dns(t, 7, true, "api.example.com.", dnsmessage.TypeA, "api.example.com. A 60 198.51.100.7")
	seq := uint32(1)
	tcp := func(k classify.FlowKey, owner uint16, fromAsker bool, b []byte) Outcome {
		k.Proto = policy.ProtoTCP
		return l.Read(&Packet{Key: k, Owner: owner, FromAsker: fromAsker, TCP: true, Payload: b, Seq: seq, Start: 1, Started: true, Now: 1e9})
	}
	for owner := range uint16(2 * max(questionsMax/perOwner, streamsMax/streamsOwner)) {
		for i := range uint16(perOwner) {
			k := flow
			k.PortA, k.AddrA[15] = i, byte(10+owner)
			l.Read(&Packet{Key: k, Owner: 10 + owner, FromAsker: true, Payload: query, Now: 1e9})
			tcp(k, 10+owner, true, framed(query)[:9])
		}
	}
	l.udp(true, query)
	l.udp(false, answer)
	tcp(flow, 1, true, framed(query))
	tcp(flow, 1, false, framed(answer))
	if len(l.learned) != 2 {
		t.Errorf("learned %q, refused %v", l.learned, l.refused)
	}
	if len(l.questions) > questionsMax || len(l.streams) > streamsMax {
		t.Errorf("%d questions, %d streams", len(l.questions), len(l.streams))
	}
	seq = 10 // connections that gave their room go on unread
	for key := range maps.Clone(l.ended) {
		if o := tcp(key, 10, true, framed(query)[9:]); o != Pass || len(l.streams) > streamsMax {
			t.Errorf("outcome %v, %d streams", o, len(l.streams))
		}
	}
	if len(l.ended) == 0 {
		t.Error("no connection gave its room")
	}
	for owner, of := range l.ofOwner {
		if len(of.order) > 2*perOwner || of.waiting > perOwner {
			t.Errorf("of %d: %d wait, %d are kept", owner, of.waiting, len(of.order))
		}
	}
}

// An endpoint that has many answers made for it is told of no more than its pace
// allows, others are told of all, and so is it when it has waited.
func TestAnswersKeepAPace(t *testing.T) {
	l := listen()
	var many []string
	for i := range addressesMax {
		many = append(many, fmt.Sprintf("api.example.com. A 60 198.51.100.%d", i))
	}
	query, answer := dns(t, 7, false, "api.example.com.", dnsmessage.TypeA), dns(t, 7, true, "api.example.com.", dnsmessage.TypeA, many...)
	learned := func(owner uint16, times int, now int64) int {
		l.learned = nil
		for i := range times {
			for _, fromAsker := range []bool{true, false} {
				l.Read(&Packet{Key: flow, Owner: owner, FromAsker: fromAsker, Payload: map[bool][]byte{true: query, false: answer}[fromAsker], Now: now + int64(i)*1e3})
			}
		}
		return len(l.learned)
	}
	if n := learned(1, 1000, 1e9); n < learnAtOnce || n > learnAtOnce+addressesMax {
		t.Errorf("of 64,000 addresses in a millisecond %d are learned", n)
	}
	if l.refused[policy.NameBusy] == 0 {
		t.Errorf("refused %v", l.refused)
	}
	if n := learned(2, 1, 1e9); n != addressesMax {
		t.Errorf("of another endpoint's %d", n)
	}
	if n := learned(1, 1000, 2e9); n < learnRate-addressesMax || n > learnRate+addressesMax {
		t.Errorf("a second later %d", n)
	}
}

// A message that comes by the byte is not copied with each: whoever sends one
// costs the gateway what its bytes cost.
func TestMessageByTheByte(t *testing.T) {
	l := listen()
	p := Packet{Key: flow, Owner: 1, FromAsker: true, TCP: true, Payload: []byte{0xff}, Start: 1, Started: true, Now: 1e9}
	send := func() {
		p.Seq++
		l.Read(&p)
	}
	for range 10000 {
		send()
	}
	if n := testing.AllocsPerRun(10000, send); n > 0.5 {
		t.Errorf("%v allocations a byte", n)
	}
}

// plain is a query of dns without its OPT record, which is its last.
func plain(query []byte) []byte {
	q := slices.Clone(query[:len(query)-11])
	q[11] = 0
	return q
}

func TestRefusal(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("a", 61) + "."
	for _, c := range []struct {
		name   string
		absent bool
		want   dnsmessage.RCode
	}{
		{"evil.example.net.", false, dnsmessage.RCodeRefused}, {"redis-primary.", false, dnsmessage.RCodeNameError}, {".", false, dnsmessage.RCodeRefused},
		{"1.0.18.172.in-addr.arpa.", false, dnsmessage.RCodeRefused}, {"a.b.", false, dnsmessage.RCodeRefused}, {long, false, dnsmessage.RCodeRefused},
		{"evil.example.net.", true, dnsmessage.RCodeNameError}, {"redis-primary.", true, dnsmessage.RCodeNameError}, {".", true, dnsmessage.RCodeRefused},
		{long, true, dnsmessage.RCodeNameError},
	} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypePTR, dnsmessage.TypeNS} {
			want := c.want
			if kind == dnsmessage.TypePTR || kind == dnsmessage.TypeNS { // a domain at the top has name servers
				want = dnsmessage.RCodeRefused
			}
			var out [512]byte
			query := dns(t, 0x1234, false, c.name, kind)
			query[3] |= 0x10            // checking disabled
			query[len(query)-4] |= 0x80 // wants DNSSEC
			n := Refusal(out[:], query, c.absent)
			var m dnsmessage.Message
			if err := m.Unpack(out[:n]); err != nil || !m.Response || m.ID != 0x1234 || m.RCode != want || !m.RecursionDesired || !m.RecursionAvailable ||
				!m.CheckingDisabled || m.Authoritative || len(m.Questions) != 1 || m.Questions[0].Name.String() != c.name || m.Questions[0].Type != kind ||
				len(m.Answers)+len(m.Authorities) != 0 || len(m.Additionals) != 1 {
				t.Errorf("%s: %v %+v", c.name, err, m)
				continue
			}
			opt, ok := m.Additionals[0].Body.(*dnsmessage.OPTResource)
			if !ok || !m.Additionals[0].Header.DNSSECAllowed() || len(opt.Options) != 1 || opt.Options[0].Code != 15 || string(opt.Options[0].Data) != "\x00\x12" {
				t.Errorf("%s: %+v", c.name, m.Additionals)
			}
			without := plain(query)
			if n := Refusal(out[:], without, c.absent); n != len(without) || m.Unpack(out[:n]) != nil || m.RCode != want || len(m.Additionals) != 0 {
				t.Errorf("%s without OPT: %+v", c.name, m)
			}
			for size := range len(without) {
				if n := Refusal(out[:size], without, c.absent); n != 0 {
					t.Errorf("%s: %d bytes for %d", c.name, n, size)
				}
				if n := Refusal(out[:], without[:size], c.absent); n != 0 {
					t.Errorf("%s: %d of its bytes are answered", c.name, size)
				}
			}
		}
	}
}

// What is no query with one question has no answer in DNS, or a peer that answers
// would be answered.
func TestNoRefusal(t *testing.T) {
	query := dns(t, 7, false, "evil.example.net.", dnsmessage.TypeA)
	with := func(change func(b []byte)) []byte { b := slices.Clone(query); change(b); return b }
	long := append(slices.Clone(query[:12]), strings.Repeat("\x3f"+strings.Repeat("a", 63), 4)+"\x00\x00\x01\x00\x01"...)
	for what, b := range map[string][]byte{
		"nothing": nil, "an answer": with(func(b []byte) { b[2] |= 0x80 }), "no question": with(func(b []byte) { b[5] = 0 }), "two questions": with(func(b []byte) { b[5] = 2 }),
		"a pointer": with(func(b []byte) { b[12], b[13] = 0xc0, 12 }), "a pointer to nothing": with(func(b []byte) { b[12], b[13] = 0xc0, 0 }), "a label of another kind": with(func(b []byte) { b[12] = 0x41 }), "a name of 257 bytes": long,
	} {
		if n := Refusal(make([]byte, 512), b, true); n != 0 {
			t.Errorf("%s is answered by %d bytes", what, n)
		}
	}
}

func TestRefusalDoesNotAllocate(t *testing.T) {
	var out [512]byte
	for _, b := range [][]byte{dns(t, 7, false, "evil.example.net.", dnsmessage.TypeA), plain(dns(t, 7, false, "redis.", dnsmessage.TypeA)), []byte("query")} {
		if n := testing.AllocsPerRun(100, func() { Refusal(out[:], b, false) }); n != 0 {
			t.Errorf("%v allocations for %q", n, b)
		}
	}
}

func TestVolume(t *testing.T) {
	v := NewVolume()
	now := int64(1e9)
	for i := range 2000 { // a busy program: few names, again and again
		if v.Add(1, fmt.Sprintf("host%d.example.com", i%20), now) {
			t.Fatal("names asked for again count")
		}
		now += int64(time.Millisecond)
	}
	over := 0
	for i := range 100 {
		if v.Add(1, fmt.Sprintf("%0100d.tunnel.example", i), now) {
			over++
		}
	}
	if over < 50 {
		t.Errorf("of 100 names of 100 bytes %d were too much", over)
	}
	if v.Add(2, fmt.Sprintf("%0100d.tunnel.example", 1), now) || v.Add(1, "www.example.org", now) {
		t.Error("another endpoint, or domain, suffers")
	}
	if v.Add(1, fmt.Sprintf("%0100d.tunnel.example", 9999), now+int64(time.Minute)) {
		t.Error("a minute later it is still too much")
	}
}

// checkRefusal fails where an answer to b is longer than its room, is no answer to
// b, or cannot be read where b can.
func checkRefusal(t *testing.T, out, b []byte) {
	t.Helper()
	n := Refusal(out, b, false)
	if n == 0 {
		return
	}
	if n > len(out) || n > len(b)+refusalOPT || string(out[:2]) != string(b[:2]) || out[2]&0x80 == 0 {
		t.Fatalf("%x answers %x", out[:n], b)
	}
	var query, answer dnsmessage.Parser
	if _, err := query.Start(b); err != nil {
		t.Fatal(err)
	}
	asked, err := query.Question()
	if err != nil { // a label with a dot in it
		return
	}
	if _, err := answer.Start(out[:n]); err != nil {
		t.Fatal(err)
	}
	if q, err := answer.Question(); err != nil || q != asked {
		t.Fatalf("%v %v, want %v", q, err, asked)
	}
	if err := answer.SkipAllQuestions(); err != nil {
		t.Fatal(err)
	}
	if a, err := answer.AllAnswers(); err != nil || len(a) != 0 {
		t.Fatalf("%v %v", a, err)
	}
	if a, err := answer.AllAuthorities(); err != nil || len(a) != 0 {
		t.Fatalf("%v %v", a, err)
	}
	if a, err := answer.AllAdditionals(); err != nil || len(a) > 1 {
		t.Fatalf("%v %v", a, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(dns(f, 7, false, "api.example.com.", dnsmessage.TypeA), dns(f, 7, true, "api.example.com.", dnsmessage.TypeA, "api.example.com. CNAME 1 a.net.", "a.net. A 1 198.51.100.7"), false, false)
	f.Add(framed(dns(f, 7, false, "api.example.com.", dnsmessage.TypeHTTPS)), framed(dns(f, 7, true, "api.example.com.", dnsmessage.TypeHTTPS, "api.example.com. HTTPS 1 198.51.100.7 2001:db8::7")), true, false)
	f.Add([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}, []byte{}, false, true)
	f.Fuzz(func(t *testing.T, query, answer []byte, tcp, part bool) {
		l := listen()
		var out [512]byte
		for i, b := range [][]byte{query, answer, answer} {
			l.Read(&Packet{Key: flow, Owner: 1, FromAsker: i == 0, Payload: b, TCP: tcp, Part: part, Seq: 1, Start: 1, Started: true, Now: 1e9})
			checkRefusal(t, out[:], b)
		}
		for _, s := range l.learned {
			name, _, _ := strings.Cut(s, " ")
			if _, ok := policy.CanonicalName(name); !ok {
				t.Errorf("learned %q", s)
			}
		}
		if len(l.learned) > 2*addressesMax*chainMax {
			t.Errorf("learned %d", len(l.learned))
		}
	})
}

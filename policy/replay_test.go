package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// record is a flow of the town as a store keeps it.
func record(t *Table, zone Zone, src, dst string, port uint16, s Spoken) Recorded {
	q := query(zone, src, dst, ProtoTCP, port)
	from, to, own := t.Resolve(q)
	return Recorded{
		From: RecordedEnd{Name: t.IdentityName(from), Addr: netip.MustParseAddr(src)}, To: RecordedEnd{Name: t.IdentityName(to), Addr: netip.MustParseAddr(dst)},
		Zone: zone, Proto: ProtoTCP, DstPort: port, Port: own, Spoken: s, Flows: 1, Packets: 3,
	}
}

var townEnds = []string{"172.18.0.2", "172.18.0.3", "172.18.0.9", "fd00:18::2", "fd00:18::3", "172.19.0.3", "198.51.100.7", "192.168.1.44", "2001:db8:9::1", "192.168.1.9", "172.18.0.200", "169.254.169.254"}

// randomTown is the table of the town under random modes and statements; nil where
// two of those do not go together.
func randomTown(rnd *rand.Rand) *Table {
	peers := []Peer{peerWeb, peerDB, peerApp, {Kind: PeerInternet}, {Kind: PeerAny}, {Kind: PeerSite}, {Kind: PeerHost}, {Kind: PeerWorkload}, {Kind: PeerCIDR, Prefix: netip.MustParsePrefix("198.51.100.0/24")}}
	in := town()
	for i := range in.Groups {
		in.Groups[i].Mode = Mode(rnd.IntN(2))
	}
	for i := range rnd.IntN(6) {
		s := webToDB(as([]Verdict{Allow, Allow, Drop, Reject}[rnd.IntN(4)], []Tier{TierModel, TierOperator}[rnd.IntN(2)], string(rune('a'+i))))
		s.From, s.To = one(peers[rnd.IntN(len(peers))]), one(peers[rnd.IntN(len(peers))])
		if rnd.IntN(3) == 0 {
			s.App = AnyApp
		}
		s.EnforceAlways = s.Verdict != Allow && rnd.IntN(3) == 0
		s.Ports = []PortRange{Port(ProtoTCP, []uint16{3306, 80, 5432}[rnd.IntN(3)])}
		if s.Verdict == Allow && s.Tier == TierModel {
			s.Speaks = Speaks(rnd.IntN(3))
		}
		in.Statements = append(in.Statements, s)
	}
	table, err := Compile(in)
	if err != nil {
		return nil
	}
	return table
}

// TestReplayAgrees: by the table that was in force, a recorded flow gets the
// answer that it got.
func TestReplayAgrees(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	spoken := []Spoken{{App: AppMySQL}, {App: AppSSH}, {App: AppUnknown}, {App: AppTLS}, {App: AppMySQL, Inner: AppTLS}, {App: AppHTTP}}
	n := 0
	for round := range 150 {
		table := randomTown(rnd)
		if table == nil {
			continue
		}
		r := NewReplayer(table)
		for range 60 {
			src, dst := townEnds[rnd.IntN(len(townEnds))], townEnds[rnd.IntN(len(townEnds))]
			if netip.MustParseAddr(src).Is4() != netip.MustParseAddr(dst).Is4() {
				continue
			}
			port, s := []uint16{3306, 80, 8080, 6000}[rnd.IntN(4)], spoken[rnd.IntN(len(spoken))]
			f := record(table, 1, src, dst, port, s)
			want := table.Lookup(query(1, src, dst, ProtoTCP, port)).Judge(s)
			j := r.Judge(&f)
			side, drops := j.Deciding(nil)
			if j.Unknown != "" || (side != nil) != want.Denied || drops != (want.Verdict != Allow) || side != nil && side.Reason != want.Reason {
				t.Fatalf("round %d: %s -> %s:%d %v: replayed %+v (%+v, drops %v), want %+v", round, src, dst, port, s, j, side, drops, want)
			}
			n++
		}
	}
	if n < 2000 {
		t.Errorf("only %d flows were compared", n)
	}
}

// Of a flow whose application was not read, the answer is certain exactly where it is
// the same for every application there is.
func TestReplayUnread(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	kinds := make(map[string]int)
	for round := 0; round < 20_000 && (kinds["depends"] < 40 || kinds["drop"] < 40 || kinds["pass"] < 40); round++ {
		table := randomTown(rnd)
		if table == nil {
			continue
		}
		r := NewReplayer(table)
		for range 20 {
			src, dst := townEnds[rnd.IntN(3)], townEnds[rnd.IntN(len(townEnds))]
			if netip.MustParseAddr(src).Is4() != netip.MustParseAddr(dst).Is4() {
				continue
			}
			port := []uint16{3306, 3306, 80, 8080}[rnd.IntN(4)]
			f := record(table, 1, src, dst, port, Spoken{})
			d := table.Lookup(query(1, src, dst, ProtoTCP, port))
			answers := make(map[string]bool)
			for a := AppUnknown; a < AppCount; a++ {
				for _, s := range forms(a) {
					j := d.Judge(s)
					switch {
					case !j.Denied:
						answers["pass"] = true
					case j.Verdict == Allow:
						answers["record"] = true
					default:
						answers["drop"] = true
					}
				}
			}
			j := r.Judge(&f)
			side, drops := j.Deciding(nil)
			got := "record"
			switch {
			case j.Depends(nil):
				got = "depends"
			case side == nil:
				got = "pass"
			case drops:
				got = "drop"
			}
			if (got == "depends") != (len(answers) > 1) || got != "depends" && !answers[got] {
				t.Fatalf("round %d: %s -> %s:%d: %s, the applications meet %v", round, src, dst, port, got, answers)
			}
			if got != "depends" && side != nil && side.Varies {
				t.Fatalf("round %d: %s -> %s:%d: %s by a side that could say yes", round, src, dst, port, got)
			}
			kinds[got]++
		}
	}
	if kinds["depends"] < 40 || kinds["drop"] < 40 || kinds["pass"] < 40 {
		t.Errorf("%v", kinds)
	}
}

// What would pass is told of it, and what becomes of the rest.
func TestReplayDepends(t *testing.T) {
	in := town()
	in.Groups[1].Mode = Observe
	deny := webToDB(as(Drop, TierOperator, "no-ssh"))
	deny.App, deny.Ports, deny.EnforceAlways = AppMatch{App: AppSSH, Forms: TLSPlain}, tcp(9000), true
	any := webToDB(as(Allow, TierOperator, "any"))
	any.App, any.Ports = AnyApp, tcp(9000)
	in.Statements = []Statement{webToDB(), deny, any}
	table := mustCompile(t, in)
	flow := func(port uint16) Recorded {
		return Recorded{From: RecordedEnd{Name: "shop/web"}, To: RecordedEnd{Name: "shop/db"}, Proto: ProtoTCP, DstPort: port, Port: port, Passed: true, Flows: 2, Packets: 6}
	}
	got := Replay(table, []Recorded{flow(3306), flow(3306), flow(9000), flow(9001)}, nil)
	if got.Judged != 8 || got.Passed != 0 || len(got.Depends) != 2 || len(got.Dropped)+len(got.Recorded) != 1 {
		t.Fatalf("%+v", got)
	}
	if g := got.Depends[0]; g.Port != Port(ProtoTCP, 3306) || g.Flows != 4 || g.App != "none" || g.Passes != "mysql" || g.Else != "drop" || g.Reason != ReasonApp {
		t.Errorf("%+v", g)
	}
	if g := got.Depends[1]; g.Port != Port(ProtoTCP, 9000) || g.Passes != "any but ssh" || g.Else != "drop" || g.Reason != ReasonDenied {
		t.Errorf("%+v", g)
	}
	// All would be dropped where the caller enforces and nothing is allowed: its port decides.
	if got = Replay(table, []Recorded{flow(9001)}, func(string) bool { return true }); len(got.Dropped) != 1 || len(got.Depends) != 0 {
		t.Errorf("%+v", got)
	}
}

// A workload is who it was called, wherever it is now; who is gone is not
// judged; what a switch to enforce adds is told from what is dropped already.
func TestReplay(t *testing.T) {
	in := town()
	for i := range in.Groups {
		in.Groups[i].Mode = Observe
	}
	in.Groups[1].Mode = Enforce // shop/db
	byName := Statement{ID: "out", Verdict: Allow, Tier: TierOperator, From: one(peerWeb), To: one(Peer{Kind: PeerName, Name: "*.example.com"}), App: AppMatch{App: AppHTTP, Forms: TLSDirect},
		Ports: tcp(443), Origin: []string{"operator"}}
	in.Statements = []Statement{webToDB(), byName}
	table := mustCompile(t, in)
	day := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	flow := func(from, to string, port uint16, s Spoken, edit ...func(*Recorded)) Recorded {
		f := Recorded{From: RecordedEnd{Name: from}, To: RecordedEnd{Name: to}, Proto: ProtoTCP, DstPort: port, Port: port, Spoken: s, Passed: true, Flows: 2, Packets: 10, First: day, Last: day.Add(time.Hour)}
		for _, e := range edit {
			e(&f)
		}
		return f
	}
	outside := func(name string) func(*Recorded) {
		return func(f *Recorded) { f.To.Addr, f.Name = netip.MustParseAddr("198.51.100.7"), name }
	}
	mysql, tls := Spoken{App: AppMySQL}, Spoken{App: AppTLS}
	elsewhere := flow("shop/web", "shop/db", 3306, mysql, func(f *Recorded) { f.From.Addr, f.Zone = netip.MustParseAddr("172.31.0.9"), 9 })
	flows := []Recorded{
		elsewhere,
		flow("shop/web", "shop/db", 3307, mysql),
		flow("shop/web", "shop/db", 3307, mysql, func(f *Recorded) { f.Last = day.Add(2 * time.Hour) }),
		flow("shop/web", "@internet", 443, tls, outside("api.example.com")),
		flow("shop/web", "@internet", 443, tls, outside("example.com")),
		flow("shop/web", "@internet", 443, tls, outside("")),
		flow("blog/old", "shop/db", 3306, mysql),
		flow("", "shop/db", 3306, mysql),
	}
	got := Replay(table, flows, nil)
	if got.Judged != 12 || got.Passed != 4 || len(got.Dropped) != 1 || len(got.Recorded) != 2 || len(got.Unknown) != 2 {
		t.Fatalf("%+v", got)
	}
	if g := got.Dropped[0]; g.By != "shop/db" || g.Side != SideIn || g.Reason != ReasonNoRule || g.Flows != 4 || g.Packets != 20 || !g.Already || !g.Last.Equal(day.Add(2*time.Hour)) || g.Port != Port(ProtoTCP, 3307) {
		t.Errorf("dropped %+v", g)
	}
	if got.Unknown[1].Name != "blog/old" && got.Unknown[0].Name != "blog/old" {
		t.Errorf("unknown %+v", got.Unknown)
	}
	got = Replay(table, flows, func(service string) bool { return service == "shop/web" })
	if len(got.Dropped) != 3 || len(got.Recorded) != 0 {
		t.Fatalf("enforced: %+v", got)
	}
	for _, g := range got.Dropped {
		if wasDropped := g.Port == Port(ProtoTCP, 3307); g.Already != wasDropped {
			t.Errorf("%+v", g)
		}
	}
}

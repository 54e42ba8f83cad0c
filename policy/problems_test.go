package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// What cannot be used of one workload is no fault of the others: they keep
// their table, and only that workload is shut (V11).
func TestProblemsAreConfined(t *testing.T) {
	for _, c := range []struct {
		what string
		edit func(*Snapshot)
		want string // of the problem
	}{
		{"network missing", func(s *Snapshot) { s.Workloads[1].Endpoints[0].Network = "gone" }, "on network gone, which the engine does not list"},
		{"empty address", func(s *Snapshot) { s.Workloads[1].Endpoints[0].Addresses[1] = netip.Addr{} }, "empty address"},
		{"ports backwards", func(s *Snapshot) { s.Workloads[1].Exposed = []PortRange{{ProtoTCP, 9, 8}} }, "the lower number comes first"},
	} {
		in := town()
		c.edit(in.Snapshot)
		problems := in.Snapshot.Problems()
		if len(problems) != 1 || !strings.Contains(strings.Join(problems["db"], " "), c.want) {
			t.Errorf("%s: %v", c.what, problems)
		}
		in.Statements = []Statement{
			webToDB(speak(AnyApp)),
			{ID: "out", Verdict: Allow, Tier: TierOperator, From: peersOf(PeerWorkload), To: peersOf(PeerInternet), App: AnyApp, Ports: tcp(443)},
		}
		for i := range in.Groups {
			in.Groups[i].Mode = Enforce
			in.Groups[i].Shut = len(problems[in.Groups[i].Members[0]]) > 0
		}
		table := mustCompile(t, in)
		if v := table.Lookup(query(1, "172.18.0.2", "198.51.100.7", ProtoTCP, 443)).Verdict(); v != Allow {
			t.Errorf("%s: another workload's flow: %v", c.what, v)
		}
		shut := []Query{
			query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, 3306),
			query(1, "172.18.0.3", "198.51.100.7", ProtoTCP, 443),
			query(1, "192.168.1.50", "172.18.0.3", ProtoTCP, 3306),
		}
		if c.what == "network missing" {
			shut = shut[:1] // nothing is admitted at nobody's address
		}
		for _, q := range shut {
			if v := table.Lookup(q).Verdict(); v == Allow {
				t.Errorf("%s: %v is allowed", c.what, q)
			}
		}
	}
	in := town()
	in.Snapshot.Networks[1].ID = "front"
	problems := in.Snapshot.Problems()
	if len(problems) == 0 || !strings.Contains(strings.Join(problems["db"], " "), "listed twice") {
		t.Errorf("network twice: %v", problems)
	}
	mustCompile(t, in)
}

// An observing workload that is shut is recorded, as everything of it is (V4).
func TestShutObserves(t *testing.T) {
	in := town()
	in.Statements = []Statement{webToDB(speak(AnyApp))}
	for i := range in.Groups {
		in.Groups[i].Mode, in.Groups[i].Shut = Observe, true
	}
	j := mustCompile(t, in).Lookup(query(1, "172.18.0.2", "172.18.0.3", ProtoTCP, 3306)).Judge(Spoken{App: AppMySQL})
	if j.Verdict != Allow || !j.Denied {
		t.Errorf("%+v", j)
	}
}

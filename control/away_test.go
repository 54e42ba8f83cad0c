package control

import (
	"net/netip"
	"path/filepath"
	"testing"

	"gatehouse/models"
	"gatehouse/policy"
)

// TestOtherNodesArePeers: what runs on another node is judged here for its peers on
// this one, never for itself, whatever its labels say: its own node's gateway does
// that. An address that moves to another service takes nothing with it.
func TestOtherNodesArePeers(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	enforce := map[string]policy.Label{models.LabelMode: {Value: "enforce", By: policy.SetByDeployer}}
	db := l.workload("db", "172.30.0.2")
	l.put("db", "172.30.0.2")
	db.Labels = map[string]policy.Label{models.LabelMode: enforce[models.LabelMode], "gatehouse.allow.ingress": {Value: "shop/web:5432", By: policy.SetByDeployer}}
	l.inv.Put(db)
	onNode := func(id, name, address string) policy.Workload {
		w := l.workload(name, address)
		w.ID, w.Node, w.Labels = id, "10.77.0.2", enforce
		w.Endpoints[0].ID = "e" + id
		return w
	}
	l.inv.Put(onNode("web-1", "web", "172.30.0.3"))
	l.inv.Put(onNode("evil-1", "evil", "172.30.0.4"))
	l.put("web", "172.30.0.5") // a replica of web is here, in observe mode

	verdict := func(from, to string, port uint16) policy.Verdict {
		t.Helper()
		s := l.refresh(t)
		spoken := policy.Spoken{App: policy.AppPostgreSQL}
		return s.Table.Lookup(policy.Query{Zone: 3, Src: as16(from), Dst: as16(to), Proto: policy.ProtoTCP, DstPort: port}).Judge(spoken).Verdict
	}
	for _, c := range []struct {
		what, from, to string
		port           uint16
		want           policy.Verdict
	}{
		{"what the callee here lets in", "172.30.0.3", "172.30.0.2", 5432, policy.Allow},
		{"the same from a replica here", "172.30.0.5", "172.30.0.2", 5432, policy.Allow},
		{"another port", "172.30.0.3", "172.30.0.2", 22, policy.Drop},
		{"another service of that node", "172.30.0.4", "172.30.0.2", 5432, policy.Drop},
		{"to the other node, from who enforces here", "172.30.0.2", "172.30.0.4", 80, policy.Drop},
		{"between two others", "172.30.0.3", "172.30.0.4", 80, policy.Allow},
	} {
		if got := verdict(c.from, c.to, c.port); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
	s := l.State()
	for i := range s.Population.Groups {
		g := &s.Population.Groups[i]
		if isAway := s.IsAway(g); isAway == g.Guarded || isAway != (g.Members[0] == "web-1" || g.Members[0] == "evil-1") {
			t.Errorf("%s %v: away %v, guarded %v", g.Service, g.Members, isAway, g.Guarded)
		}
	}
	l.inv.Delete("web-1")
	l.inv.Put(onNode("evil-2", "evil", "172.30.0.3"))
	if got := verdict("172.30.0.3", "172.30.0.2", 5432); got != policy.Drop {
		t.Errorf("the heir of web's address: %v", got)
	}
}

func as16(text string) [16]byte { return netip.MustParseAddr(text).As16() }

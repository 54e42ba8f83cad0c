package operator

import (
	"fmt"
	"net/netip"
	"slices"

	"gatehouse/models"
	"gatehouse/policy"
)

// everywhere is every address there is: a deny by prefix reaches those too who
// must be named.
var everywhere = []policy.Peer{
	{Kind: policy.PeerCIDR, Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)},
	{Kind: policy.PeerCIDR, Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
}

// Quarantine returns the statements that cut the identities of which belongs
// says so off from everybody, whatever their mode: who they are is named by
// subject.
func Quarantine(subject string, pop *models.Population, belongs func(*policy.Workload) bool, origin []string) []policy.Statement {
	sel := &policy.Selection{Identities: []policy.Identity{}}
	for _, s := range pop.Subjects() {
		if slices.ContainsFunc(s.Members, belongs) {
			sel.Identities = append(sel.Identities, s.Identity)
		}
	}
	it := []policy.Peer{{Kind: policy.PeerSelector, Name: subject, Selected: sel}}
	deny := func(way string, from, to []policy.Peer) policy.Statement {
		return policy.Statement{
			ID: fmt.Sprintf("quarantine-%s-%s", way, subject), Verdict: policy.Drop, Tier: policy.TierOperator, From: from, To: to,
			App: policy.AnyApp, AnyPort: true, Speaks: policy.SpeaksBoth, EnforceAlways: true, Origin: origin,
		}
	}
	return []policy.Statement{deny("out", it, everywhere), deny("in", everywhere, it)}
}

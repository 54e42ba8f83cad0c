package operator

import (
	"fmt"
	"slices"

	"gatehouse/models"
	"gatehouse/policy"
)

// Belonging are the identities of those that have somebody of whom belongs says so.
func Belonging(among []models.Subject, belongs func(*policy.Workload) bool) []policy.Identity {
	out := []policy.Identity{}
	for i := range among {
		if slices.ContainsFunc(among[i].Members, belongs) {
			out = append(out, among[i].Identity)
		}
	}
	return out
}

// Quarantine returns the statements that cut identities off from everybody, whatever
// their mode: who they are is named by subject.
func Quarantine(subject string, ids []policy.Identity, origin []string) []policy.Statement {
	it := []policy.Peer{{Kind: policy.PeerSelector, Name: subject, Selected: &policy.Selection{Identities: ids}}}
	everybody := []policy.Peer{{Kind: policy.PeerEverybody}}
	deny := func(way string, from, to []policy.Peer) policy.Statement {
		return policy.Statement{
			ID: fmt.Sprintf("quarantine-%s-%s", way, subject), Verdict: policy.Drop, Tier: policy.TierOperator, From: from, To: to,
			App: policy.AnyApp, AnyPort: true, Speaks: policy.SpeaksBoth, EnforceAlways: true, Origin: origin,
		}
	}
	return []policy.Statement{deny("out", it, everybody), deny("in", everybody, it)}
}

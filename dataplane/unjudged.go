package dataplane

import (
	"slices"

	"gatehouse/policy"
)

// AddUnjudged records packets that the kernel's programs dropped at an
// endpoint before anybody could judge them: another's source address, a VLAN
// tag, a header that cannot be parsed. They belong to no flow; there is one
// record for an endpoint and reason. An endpoint that is gone is passed over.
func (d *Dataplane) AddUnjudged(endpoint string, reason policy.Reason, packets uint32) {
	all := d.endpoints.Load().all
	i := slices.IndexFunc(all, func(l *localEndpoint) bool { return l.ID == endpoint })
	if i < 0 || packets == 0 {
		return
	}
	dir := FromEndpoint
	if reason == policy.ReasonSourceInterface { // who sent it is not known
		dir = ToEndpoint
	}
	now := d.clock.now()
	d.violations.record(&event{
		reason: reason, mode: policy.Enforce, dir: dir, rule: -1,
		endpoint: all[i], table: d.table.Load(), first: now, last: now, packets: packets, judgements: packets,
	})
}

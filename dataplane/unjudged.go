package dataplane

import (
	"slices"

	"gatehouse/policy"
)

// AddUnjudged records packets that the kernel's programs dropped at one of an
// endpoint's hooks before anybody could judge them: another's source address, a
// VLAN tag, a header that cannot be parsed, more than is judged a second. They
// belong to no flow; there is one record for an endpoint, direction and reason. Who
// sent what was for the endpoint is not known. An endpoint that is gone is passed
// over.
func (d *Dataplane) AddUnjudged(endpoint string, dir Direction, reason policy.Reason, packets uint32) {
	all := d.endpoints.Load().all
	i := slices.IndexFunc(all, func(l *localEndpoint) bool { return l.ID == endpoint })
	if i < 0 || packets == 0 {
		return
	}
	now := d.clock.now()
	d.violations.record(&event{
		reason: reason, mode: policy.Enforce, dir: dir, rule: -1,
		endpoint: all[i], table: d.table.Load(), first: now, last: now, packets: packets, judgements: packets,
	})
}

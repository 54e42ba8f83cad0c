package policy

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tidwall/btree"
)

// What stands for a group besides the addresses of its workloads is claimed by each of
// those alike: a virtual address, a published port, ports of the host. Claims are
// counted, so that it is known after any change who has what alone.

type frontKind uint8

const (
	frontVIP       frontKind = iota // at: zone and address
	frontPublished                  // at: protocol and port, and address
	frontHostPorts                  // at: protocol; lo and hi
	frontBalanced                   // that it has some virtual address
)

type front struct {
	kind   frontKind
	at     addrKey
	lo, hi uint16
}

// claim is a front of somebody; count is of how many workloads.
type claim struct {
	front
	target
	count int
}

func compareClaims(a, b claim) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.at.scope, b.at.scope), cmp.Compare(a.at.hi, b.at.hi), cmp.Compare(a.at.lo, b.at.lo),
		cmp.Compare(a.lo, b.lo), cmp.Compare(a.hi, b.hi), cmp.Compare(a.who, b.who), cmp.Compare(a.port, b.port))
}

// claims are those of all workloads. Tables that follow from one another share what
// does not differ.
type claims struct{ tree *btree.BTreeG[claim] }

func newClaims() claims {
	return claims{btree.NewBTreeGOptions(func(a, b claim) bool { return compareClaims(a, b) < 0 }, btree.Options{NoLocks: true})}
}

// add counts one claim in, or out where n is negative.
func (cs claims) add(c claim, n int) {
	old, _ := cs.tree.Get(c)
	if c.count = old.count + n; c.count == 0 {
		cs.tree.Delete(c)
		return
	}
	cs.tree.Set(c)
}

// of is who has a front: unknown where several do. port is what the front is
// known by itself.
func (cs claims) of(f front, port uint16) (t target, claimed bool) {
	cs.tree.Ascend(claim{front: f}, func(c claim) bool {
		if c.front != f {
			return false
		}
		if claimed {
			t = target{uint32(IDUnknown), port}
			return false
		}
		t, claimed = c.target, true
		return true
	})
	return t, claimed
}

// balanced is how many workloads of a group have virtual addresses.
func (cs claims) balanced(who uint32) int {
	c, _ := cs.tree.Get(claim{front: front{kind: frontBalanced}, target: target{who: who}})
	return c.count
}

// hostPorts are the ranges that workloads serve on the host's addresses.
func (cs claims) hostPorts(proto Proto) (out []portOwner) {
	first := front{kind: frontHostPorts, at: addrKey{scope: uint32(proto)}}
	cs.tree.Ascend(claim{front: first}, func(c claim) bool {
		if c.kind != frontHostPorts || c.at != first.at {
			return false
		}
		out = append(out, portOwner{c.lo, c.hi, c.who})
		return true
	})
	return out
}

// fronts calls yield for each that a workload claims.
func (w *Workload) fronts(zone func(network string) (Zone, bool), yield func(front, uint16)) {
	if len(w.VIPs) > 0 {
		yield(front{kind: frontBalanced}, 0)
	}
	if w.SharedWith != "" { // I6: the owner's endpoint is its own
		return
	}
	for network, vips := range w.VIPs {
		z, known := zone(network)
		for _, ip := range vips {
			if known && ip.IsValid() {
				yield(front{kind: frontVIP, at: addrKey{uint32(z), addressFrom(ip)}}, 0)
			}
		}
	}
	for i := range w.Published {
		p := &w.Published[i]
		for _, a := range p.boundTo() {
			yield(front{kind: frontPublished, at: addrKey{portScope(p.Proto, p.HostPort), a}}, p.Port)
		}
	}
	if !w.isHostNetwork() {
		return
	}
	for _, r := range w.Exposed {
		if r.Lo <= r.Hi { // Problems tells
			yield(front{kind: frontHostPorts, at: addrKey{scope: uint32(r.Proto)}, lo: r.Lo, hi: r.Hi}, 0)
		}
	}
}

// maxHostPorts bounds the ranges of ports of the host that are cut anew for one change.
const maxHostPorts = 1 << 10

// claimFor counts what a workload claims for its group in or out, and makes the tables
// say who has it. It is false where somebody is met in a region of prefixes in
// which he is not told apart.
func (r *resolver) claimFor(c *Change, dense uint32, s *Snapshot) bool {
	ok, n := true, 1
	if c.Gone {
		n = -1
	}
	zone := func(network string) (Zone, bool) {
		nw, _, found := s.network(network)
		if !found {
			return 0, false
		}
		return nw.Zone, true
	}
	c.Workload.fronts(zone, func(f front, port uint16) {
		r.claims.add(claim{front: f, target: target{dense, port}}, n)
		ok = ok && r.stand(f)
	})
	return ok
}

// stand makes the tables say who has a front.
func (r *resolver) stand(f front) bool {
	switch f.kind {
	case frontVIP:
		t, claimed := r.claims.of(f, 0)
		p := r.placeAt(Zone(f.at.scope), f.at.address)
		if p.vip = nobody; claimed {
			p.vip = int32(r.placed(t.who, f.at.address))
		}
		r.setPlace(f.at, p)
		return !claimed || r.isMetAt(t.who, f.at.address)
	case frontPublished:
		var cell uint32
		t, claimed := r.claims.of(f, uint16(f.at.scope))
		if claimed {
			r.targets, cell = r.targets.with(t)
		}
		r.published = r.published.with(f.at, cell)
		return !claimed || r.isMetAtHost(t.who)
	case frontHostPorts:
		proto := Proto(f.at.scope)
		owners := r.claims.hostPorts(proto)
		if len(owners) > maxHostPorts {
			return false
		}
		r.hostPorts = maps.Clone(r.hostPorts)
		r.hostPorts[proto] = disjoint(owners)
		return !slices.ContainsFunc(owners, func(o portOwner) bool { return !r.isMetAtHost(o.who) })
	}
	return true
}

// isMetAt reports whether the peer is told apart where prefixes hold the address.
func (r *resolver) isMetAt(who uint32, a address) bool {
	if r.regions == nil {
		return true
	}
	region := r.regions.at(a.netip())
	return region == 0 || r.variants.get(variantKey{who, region}) != 0
}

// isMetAtHost is isMetAt for all addresses of the host.
func (r *resolver) isMetAtHost(who uint32) bool {
	return !slices.ContainsFunc(r.hostRegions, func(region uint32) bool { return r.variants.get(variantKey{who, region}) == 0 })
}

// rebalanced are the groups that have virtual addresses after an update and had none
// before, and those with which it is the other way round. One that turned is both.
func (t *Table) rebalanced(u *Update, turned []turning) (gained, lost map[Identity]bool) {
	differ := make(map[Identity]int)
	for i := range u.Changes {
		c := &u.Changes[i]
		switch {
		case len(c.Workload.VIPs) == 0:
		case c.Gone:
			differ[c.Group]--
		default:
			differ[c.Group]++
		}
	}
	gained, lost = make(map[Identity]bool), make(map[Identity]bool)
	for id, n := range differ {
		before := 0
		if dense := t.denseOf(id); dense != 0 {
			before = t.resolver.claims.balanced(dense)
		}
		switch {
		case before == 0 && n > 0:
			gained[id] = true
		case before > 0 && before+n == 0:
			lost[id] = true
		}
	}
	for i := range turned {
		if g := &turned[i]; t.resolver.claims.balanced(g.dense) > 0 {
			gained[g.is.Identity], lost[g.was.Identity] = true, true
		}
	}
	return gained, lost
}

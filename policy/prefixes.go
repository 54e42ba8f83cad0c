package policy

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// How prefixes compile. Section 1 says which kind of peer is at an address, and
// no prefix changes that: it only tells addresses of one kind apart. All
// addresses that the same prefixes hold are one region: the longest prefix of an
// address names it, as prefixes nest. A peer gets, beside its own number, one for
// each region in which an address of it can be, its variants; rules that name the
// peer hold for its variants, and rules that name a prefix for the variants in
// its regions, as far as the prefix reaches.
//
// Where that makes too many pairs of variants, those are laid when a flow first
// meets them (see met.go).
//
// Who must be named is not named by a prefix that happens to hold his address:
// an allow by prefix never reaches unknown, metadata, orchestrator, multicast
// and broadcast. A deny by prefix holds for whoever is there. What a system of
// record places, and what models and references say of addresses outside, is
// never a workload.

// reach is how far a prefix goes.
type reach uint8

const (
	reachOrdinary  reach = iota // who need not be named
	reachOutsiders              // those of them that are no workloads
	reachStrangers              // all that are no workloads
	reachAll
)

func reachOf(r *Rule, outside bool) reach {
	loosens := r.Verdict == Allow || r.Except
	switch {
	case loosens && outside:
		return reachOutsiders
	case loosens:
		return reachOrdinary
	case outside:
		return reachStrangers
	}
	return reachAll
}

func (r reach) holds(k class) bool {
	switch r {
	case reachOrdinary:
		return k <= classOther
	case reachOutsiders:
		return k == classOther
	case reachStrangers:
		return k >= classOther
	}
	return true
}

// prefixEnd is a rule's end that is a prefix.
type prefixEnd struct {
	prefix netip.Prefix
	reach  reach
}

// regions are the prefixes that statements name. Region 0 is outside all.
type regions struct {
	longest bart.Fast[uint32]         // address -> region
	held    map[netip.Prefix][]uint32 // prefix -> the regions that it holds
	named   []netip.Prefix            // by region: the longest prefix of its addresses
	count   uint32                    // of regions, that outside all included
}

func (r *regions) at(ip netip.Addr) uint32 {
	region, _ := r.longest.Lookup(ip)
	return region
}

// plain is the masked prefix of the addresses as resolution sees them: as IPv4
// where it is inside ::ffff:0:0/96, 64:ff9b::/96 or 2002::/16.
func plain(p netip.Prefix) netip.Prefix {
	a, bits := p.Addr().WithZone(""), p.Bits()
	within := 0 // where the IPv4 prefix begins
	switch b := a.As16(); {
	case a.Is4():
		return netip.PrefixFrom(a, bits).Masked()
	case bits >= 96 && (a.Is4In6() || addressOf(&b).is4() && b[0] == 0):
		within = 96
	case bits >= 16 && b[0] == 0x20 && b[1] == 2:
		within = 16
	default:
		return netip.PrefixFrom(a, bits).Masked()
	}
	return netip.PrefixFrom(addressFrom(a).netip(), min(bits-within, 32)).Masked()
}

// numberRegions finds the prefixes of all statements.
func (c *compiler) numberRegions() {
	var all []netip.Prefix
	note := func(peers []Peer) {
		for i := range peers {
			p := &peers[i]
			switch {
			case p.Kind == PeerCIDR && p.Prefix.IsValid():
				all = append(all, plain(p.Prefix))
			case p.Kind == PeerSelector && p.Selected != nil && allValid(p.Selected.Prefixes):
				for _, prefix := range p.Selected.Prefixes {
					all = append(all, plain(prefix))
				}
			}
		}
	}
	for _, s := range c.table.statements {
		if s.Pending != "" {
			continue
		}
		note(s.From)
		note(s.To)
		for _, e := range s.Except {
			note(e.From)
			note(e.To)
		}
	}
	if len(all) > 0 {
		c.regions = newRegions(all)
	}
}

func newRegions(prefixes []netip.Prefix) *regions {
	// Those that hold a prefix come before it.
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	r := &regions{held: make(map[netip.Prefix][]uint32), named: make([]netip.Prefix, 1), count: 1}
	var open []netip.Prefix
	for _, p := range slices.Compact(prefixes) {
		for len(open) > 0 && !open[len(open)-1].Contains(p.Addr()) {
			open = open[:len(open)-1]
		}
		open = append(open, p)
		r.longest.Insert(p, r.count)
		for _, outer := range open {
			r.held[outer] = append(r.held[outer], r.count)
		}
		r.named = append(r.named, p)
		r.count++
	}
	return r
}

// variantKey is a peer in a region.
type variantKey struct{ who, region uint32 }

// variantTable finds the number of a peer in a region. Both are of those who send,
// so the hash is keyed.
type variantTable struct {
	seed  hashSeed
	slots []variantSlot // a power of two, at most half full
}

// variantSlot without a number is empty.
type variantSlot struct {
	variantKey
	dense uint32
}

// newVariantTable numbers the keys from first on.
func newVariantTable(keys []variantKey, first uint32) variantTable {
	size, _ := tableSize(len(keys))
	t := variantTable{newHashSeed(), make([]variantSlot, size)}
	for i, k := range keys {
		at := t.start(k)
		for t.slots[at].dense != 0 {
			at = (at + 1) & (len(t.slots) - 1)
		}
		t.slots[at] = variantSlot{k, first + uint32(i)}
	}
	return t
}

func (t *variantTable) start(k variantKey) int {
	return int(fold((uint64(k.who)<<32|uint64(k.region))^t.seed.a, t.seed.b)) & (len(t.slots) - 1)
}

// get returns the number, or 0.
func (t *variantTable) get(k variantKey) uint32 {
	for i := t.start(k); ; i = (i + 1) & (len(t.slots) - 1) {
		if s := &t.slots[i]; s.dense == 0 || s.variantKey == k {
			return s.dense
		}
	}
}

// placement is what the compiler knows of variants, and of ends of rules that mean
// several peers: prefixes and sets.
type placement struct {
	*regions
	base        []uint32   // by dense number: the peer of a variant, others themselves
	variants    [][]uint32 // by peer
	above       [][]uint32 // by dense number: the collective ends that mean it
	inRegion    [][]uint32 // by region: variants
	collectives []collective
	ofPrefix    map[prefixEnd]uint32
	ofEnds      map[string]uint32 // sets, by what they are made of
}

// collective is an end of rules that means several peers: those in the regions of
// a prefix, or those that other ends mean.
type collective struct {
	prefixEnd
	set   int // index into Table.sets; 0 = it is a prefix
	ends  []uint32
	peers []uint32
	ahead []uint32 // those of peers that are no variants, once they are asked for
}

// numberVariants gives numbers to peers in regions, as the survey met them.
func (c *compiler) numberVariants(res *resolver) {
	t, l := c.table, &c.placed
	plain := len(t.ids)
	l.regions, l.ofPrefix, l.ofEnds = c.regions, make(map[prefixEnd]uint32), make(map[string]uint32)
	for _, k := range res.met {
		t.ids, t.peers = append(t.ids, t.ids[k.who]), append(t.peers, peerInfo{class: t.peers[k.who].class})
	}
	l.base, l.variants, l.above = make([]uint32, len(t.ids)), make([][]uint32, len(t.ids)), make([][]uint32, len(t.ids))
	for i := range l.base {
		l.base[i] = uint32(i)
	}
	if c.regions == nil {
		return
	}
	l.inRegion = make([][]uint32, c.regions.count)
	for i, k := range res.met {
		dense := uint32(plain + i)
		l.base[dense] = k.who
		l.variants[k.who] = append(l.variants[k.who], dense)
		l.inRegion[k.region] = append(l.inRegion[k.region], dense)
	}
}

// firstCollective numbers the first end of rules that means several peers; no peer
// has such a number.
const firstCollective = 1 << (pairBits - 1)

func isCollective(end uint32) bool { return end >= firstCollective }

func (c *compiler) collective(end uint32) *collective {
	return &c.placed.collectives[end-firstCollective]
}

// addCollective numbers an end that means these peers.
func (c *compiler) addCollective(e collective) uint32 {
	end := firstCollective + uint32(len(c.placed.collectives))
	c.placed.collectives = append(c.placed.collectives, e)
	c.chargeSet(&e)
	for _, dense := range e.peers {
		c.placed.above[dense] = append(c.placed.above[dense], end)
	}
	return end
}

// rangeEnd is the number of a prefix as a rule's end.
func (c *compiler) rangeEnd(p netip.Prefix, r reach) uint32 {
	l := &c.placed
	e := prefixEnd{plain(p), r}
	if end, ok := l.ofPrefix[e]; ok {
		return end
	}
	var peers []uint32
	for _, region := range l.held[e.prefix] {
		for _, dense := range l.inRegion[region] {
			if r.holds(c.table.peers[dense].class) {
				peers = append(peers, dense)
			}
		}
	}
	end := c.addCollective(collective{prefixEnd: e, peers: peers})
	l.ofPrefix[e] = end
	return end
}

// setEnd is the number of the set of all that these ends mean.
func (c *compiler) setEnd(ends []uint32) uint32 {
	l, t := &c.placed, c.table
	key := make([]byte, 0, 4*len(ends))
	for _, e := range slices.Sorted(slices.Values(ends)) {
		key = binary.LittleEndian.AppendUint32(key, e)
	}
	if end, ok := l.ofEnds[string(key)]; ok {
		return end
	}
	var peers []uint32
	var named []RuleEnd
	for _, e := range ends {
		peers = append(peers, c.peersOf(e)...)
		if isCollective(e) && c.collective(e).set > 0 {
			named = append(named, t.sets[c.collective(e).set]...)
			continue
		}
		id, prefix, _ := c.nameEnd(e)
		named = append(named, RuleEnd{id, prefix})
	}
	if t.sets == nil {
		t.sets = make([][]RuleEnd, 1)
	}
	end := c.addCollective(collective{set: len(t.sets), ends: ends, peers: distinct(peers)})
	t.sets = append(t.sets, named)
	l.ofEnds[string(key)] = end
	return end
}

// holdsCaller reports whether a workload may call from where a collective end
// means.
func (c *compiler) holdsCaller(end uint32) bool {
	e := c.collective(end)
	if e.set > 0 {
		return slices.ContainsFunc(e.ends, c.callsAsWorkload)
	}
	return e.reach.holds(classEnforcing) && slices.ContainsFunc(c.placed.held[e.prefix], func(region uint32) bool {
		return c.callers[region]
	})
}

// nameEnd is how a rule names its end.
func (c *compiler) nameEnd(end uint32) (id Identity, prefix netip.Prefix, set int) {
	if !isCollective(end) {
		return c.table.ids[end], netip.Prefix{}, 0
	}
	if e := c.collective(end); e.set == 0 {
		return IDPrefix, e.prefix, 0
	}
	return IDSet, netip.Prefix{}, c.collective(end).set
}

// peersOf lists the peers that a rule's end, which is no wildcard, means.
func (c *compiler) peersOf(end uint32) []uint32 {
	if isCollective(end) {
		return c.collective(end).peers
	}
	return append([]uint32{end}, c.placed.variants[end]...)
}

// endsOf lists the rule ends that mean a peer, ascending.
func (c *compiler) endsOf(dense uint32) []uint32 {
	out := append([]uint32{dense}, c.placed.above[dense]...)
	if base := c.placed.base[dense]; base != dense {
		out = append(out, base)
	}
	for _, wildcard := range wildcards {
		if c.table.peers[dense].class.isIn(wildcard) {
			out = append(out, wildcard)
		}
	}
	slices.Sort(out)
	return out
}

package policy

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"net/netip"
	"slices"
)

// address is an IPv4 (v4-mapped) or IPv6 address as two big-endian words: what
// the tables of the packet path are keyed by.
type address struct{ hi, lo uint64 }

const mappedLo = 0xffff << 32 // the low word of ::ffff:0.0.0.0

// addressOf reads an address and unwraps the IPv4 one inside 64:ff9b::/96
// (RFC 6052) and 2002::/16 (RFC 3056); ::ffff:0:0/96 is how IPv4 is held.
func addressOf(b *[16]byte) address {
	a := address{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
	switch {
	case a.hi == 0x0064ff9b<<32 && a.lo>>32 == 0:
		return address{0, mappedLo | a.lo}
	case a.hi>>48 == 0x2002:
		return address{0, mappedLo | a.hi>>16&0xffffffff}
	}
	return a
}

func addressFrom(ip netip.Addr) address {
	b := ip.As16()
	return addressOf(&b)
}

func (a address) is4() bool { return a.hi == 0 && a.lo>>32 == 0xffff }

func (a address) v4() uint32 { return uint32(a.lo) }

func (a address) netip() netip.Addr {
	if a.is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], a.v4())
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b)
}

// isLinkLocal6 reports fe80::/10.
func (a address) isLinkLocal6() bool { return a.hi>>54 == 0xfe80>>6 }

// isLinkLocal reports fe80::/10 and 169.254/16.
func (a address) isLinkLocal() bool {
	return a.isLinkLocal6() || a.is4() && a.v4()>>16 == 169<<8|254
}

func (a address) isMulticast() bool { return a.hi>>56 == 0xff || a.is4() && a.v4()>>28 == 0xe }

// hashSeed keys the tables' hashes. It is drawn per table, so that nobody can
// prepare addresses that collide.
type hashSeed struct{ a, b, c uint64 }

func newHashSeed() hashSeed {
	word := func(s string) uint64 { return maphash.String(maphash.MakeSeed(), s) | 1 }
	return hashSeed{word("a"), word("b"), word("c")}
}

// fold multiplies to 128 bits and folds them to 64, the mixing step of wyhash.
func fold(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi ^ lo
}

func (s *hashSeed) words(x, y, z uint64) uint64 {
	return fold(fold(x^s.a, y^s.b)^z, s.c)
}

// addrTable maps (scope, address) to V. It is immutable, and a table that
// differs in one entry shares with it all but a few kilobytes: a hash chooses a
// group of shards, a shard, and two places in it. What is there stands in one of
// the two, so that a lookup waits for both at once and guesses nothing. Each
// shard is at most half full, and grows by itself.
type addrTable[V any] struct {
	seed   hashSeed
	groups []*shardGroup[V]
	shift  uint8 // 64 - log2(len(groups))
}

const (
	shardsPerGroup = 64
	shardAims      = 32 // entries of a shard when the table is made
)

type shardGroup[V any] [shardsPerGroup]shard[V]

// shard is a power of two of slots; without entries it has none.
type shard[V any] []addrSlot[V]

type addrSlot[V any] struct {
	address
	scope uint64 // the key's, plus one; 0 = empty
	value V
}

type addrKey struct {
	scope uint32
	address
}

func newAddrTable[V any](m map[addrKey]V) addrTable[V] {
	log := bits.Len(uint(len(m) / (shardAims * shardsPerGroup)))
	t := addrTable[V]{newHashSeed(), make([]*shardGroup[V], 1<<log), uint8(64 - log)}
	parts := make([][shardsPerGroup][]addrSlot[V], 1<<log)
	for k, v := range m {
		h := t.hash(k.scope, k.address)
		part := &parts[h>>t.shift][shardOf(h)]
		*part = append(*part, addrSlot[V]{k.address, uint64(k.scope) + 1, v})
	}
	for g := range t.groups {
		t.groups[g] = new(shardGroup[V])
		for i, entries := range parts[g] {
			t.groups[g][i] = t.shard(entries)
		}
		parts[g] = [shardsPerGroup][]addrSlot[V]{}
	}
	return t
}

// shard places entries, each in one of its two places.
func (t *addrTable[V]) shard(entries []addrSlot[V]) shard[V] {
	if len(entries) == 0 {
		return nil
	}
	size, _ := tableSize(len(entries))
	for ; ; size *= 2 {
		s := make(shard[V], size)
		if !slices.ContainsFunc(entries, func(e addrSlot[V]) bool { return !t.put(s, e) }) {
			return s
		}
	}
}

// put finds a place for e, pushing others to their second one. It gives up after
// as many pushes as there are slots.
func (t *addrTable[V]) put(s shard[V], e addrSlot[V]) bool {
	at, other := s.places(t.hash(uint32(e.scope-1), e.address))
	if s[at].scope != 0 {
		at = other
	}
	for range s {
		e, s[at] = s[at], e
		if e.scope == 0 {
			return true
		}
		first, second := s.places(t.hash(uint32(e.scope-1), e.address))
		at ^= first ^ second // the other one of the two
	}
	return false
}

// places are the two in which what has that hash may stand.
func (s shard[V]) places(h uint64) (first, second uint64) {
	mask := uint64(len(s) - 1)
	return h & mask, h >> 32 & mask
}

// tableSize is the power of two of at least twice n, and the shift that takes
// a hash's top bits as an index into it.
func tableSize(n int) (int, uint8) {
	log := max(bits.Len(uint(2*n)), 1)
	return 1 << log, uint8(64 - log)
}

func (t *addrTable[V]) hash(scope uint32, a address) uint64 {
	return t.seed.words(a.hi, a.lo, uint64(scope))
}

// shardOf takes bits that choose neither the group nor, but in huge shards, the
// place.
func shardOf(h uint64) uint64 { return h >> 26 % shardsPerGroup }

// get returns what is stored for the key, or nil. Do not change it.
func (t *addrTable[V]) get(scope uint32, a address) *V {
	h := t.hash(scope, a)
	s := t.groups[h>>t.shift][shardOf(h)]
	if len(s) == 0 {
		return nil
	}
	i, j := s.places(h)
	x, y := &s[i], &s[j]
	dx := (x.hi ^ a.hi) | (x.lo ^ a.lo) | (x.scope ^ (uint64(scope) + 1))
	dy := (y.hi ^ a.hi) | (y.lo ^ a.lo) | (y.scope ^ (uint64(scope) + 1))
	// Which of the two it is nobody can guess: no branch may depend on it.
	notX, notY := (dx|-dx)>>63, (dy|-dy)>>63
	if notX&notY != 0 {
		return nil
	}
	return &s[i^(i^j)&-notX].value
}

// with returns the table with that entry added or replaced; with v nil it is
// removed.
func (t *addrTable[V]) with(k addrKey, v *V) addrTable[V] {
	h := t.hash(k.scope, k.address)
	old := t.groups[h>>t.shift][shardOf(h)]
	entries := make([]addrSlot[V], 0, len(old)+1)
	for i := range old {
		if o := &old[i]; o.scope != 0 && (o.address != k.address || o.scope != uint64(k.scope)+1) {
			entries = append(entries, *o)
		}
	}
	if v != nil {
		entries = append(entries, addrSlot[V]{k.address, uint64(k.scope) + 1, *v})
	}
	group := *t.groups[h>>t.shift]
	group[shardOf(h)] = t.shard(entries)
	out := *t
	out.groups = append([]*shardGroup[V](nil), t.groups...)
	out.groups[h>>t.shift] = &group
	return out
}

// pairKey packs the dense numbers of both ends and the protocol.
type pairKey uint64

const pairBits = 28 // of each end's dense number

func keyOf(from, to uint32, proto Proto) pairKey {
	return pairKey(from)<<(pairBits+8) | pairKey(to)<<8 | pairKey(proto)
}

func (k pairKey) from() uint32 { return uint32(k >> (pairBits + 8)) }
func (k pairKey) to() uint32   { return uint32(k>>8) & (1<<pairBits - 1) }
func (k pairKey) proto() Proto { return Proto(k) }

// pairTable maps (from, to, protocol) to sorted disjoint port spans, in the
// same way as addrTable.
type pairTable struct {
	seed  hashSeed
	slots []pairSlot
	shift uint8
	spans []span
}

type pairSlot struct {
	key      pairKey
	first, n uint32 // spans[first:first+n]; n == 0 is empty
}

type span struct {
	lo, hi   uint16
	decision *Decision
}

// newPairTable places the slots, whose keys differ.
func newPairTable(slots []pairSlot, spans []span) pairTable {
	size, shift := tableSize(len(slots))
	t := pairTable{seed: newHashSeed(), slots: make([]pairSlot, size), shift: shift, spans: spans}
	for _, s := range slots {
		i := t.start(s.key)
		for t.slots[i].n != 0 {
			i = (i + 1) & (size - 1)
		}
		t.slots[i] = s
	}
	return t
}

func (t *pairTable) start(k pairKey) int {
	return int(fold(uint64(k)^t.seed.a, t.seed.b) >> t.shift)
}

// get returns the spans of that key; nil means that no rule is of that key.
func (t *pairTable) get(k pairKey) []span {
	for i := t.start(k); ; i = (i + 1) & (len(t.slots) - 1) {
		s := &t.slots[i]
		if s.n == 0 {
			return nil
		}
		if s.key == k {
			return t.spans[s.first : s.first+s.n]
		}
	}
}

// at returns the decision of the span that holds port, or nil.
func at(spans []span, port uint16) *Decision {
	for len(spans) > 4 {
		mid := len(spans) / 2
		if port < spans[mid].lo {
			spans = spans[:mid]
		} else {
			spans = spans[mid:]
		}
	}
	for i := range spans {
		if spans[i].lo <= port && port <= spans[i].hi {
			return spans[i].decision
		}
	}
	return nil
}

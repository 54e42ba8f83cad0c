package policy

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"net/netip"
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

// tableSize is the power of two of at least twice n, and the shift that takes
// a hash's top bits as an index into it.
func tableSize(n int) (int, uint8) {
	log := max(bits.Len(uint(2*n)), 1)
	return 1 << log, uint8(64 - log)
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

// pairTable maps (from, to, protocol) to sorted disjoint port spans.
type pairTable struct {
	seed  hashSeed
	slots []pairSlot
	shift uint8
	spans []span
}

type pairSlot struct {
	key      pairKey
	first, n uint32 // spans[first:first+n]; n == 0 is empty
	head     span   // the first of them, most often the only one
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
		s.head = spans[s.first]
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

// pairSet is a set of keys, none of which is 0.
type pairSet struct {
	seed  hashSeed
	slots []pairKey // a power of two, at most half full
	count int
}

func newPairSet() pairSet { return pairSet{seed: newHashSeed(), slots: make([]pairKey, 64)} }

// add reports whether the key is new.
func (s *pairSet) add(k pairKey) bool {
	at := s.slot(k)
	if *at == k {
		return false
	}
	*at = k
	if s.count++; 2*s.count > len(s.slots) {
		old := s.slots
		s.slots = make([]pairKey, 2*len(old))
		for _, k := range old {
			if k != 0 {
				*s.slot(k) = k
			}
		}
	}
	return true
}

func (s *pairSet) slot(k pairKey) *pairKey {
	mask := uint64(len(s.slots) - 1)
	for i := fold(uint64(k)^s.seed.a, s.seed.b) & mask; ; i = (i + 1) & mask {
		if at := &s.slots[i]; *at == 0 || *at == k {
			return at
		}
	}
}

// at returns the decision of that key's span that holds port, or nil.
func (t *pairTable) at(k pairKey, port uint16) *Decision {
	for i := t.start(k); ; i = (i + 1) & (len(t.slots) - 1) {
		s := &t.slots[i]
		switch {
		case s.n == 0:
			return nil
		case s.key != k:
		case s.head.lo <= port && port <= s.head.hi:
			return s.head.decision
		default:
			return at(t.spans[s.first+1:s.first+s.n], port)
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

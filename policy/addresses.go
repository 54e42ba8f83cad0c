package policy

import (
	"math/bits"
	"slices"
)

// addrIndex maps (scope, address) to a number that is not 0. It is immutable,
// and one that differs in one address shares with it all but a few kilobytes. A
// cache line holds eight neighbouring addresses, as those who give addresses out
// give one after another: a million of them, dense, take 16 MB. A hash chooses a
// group of shards, a shard, and two lines in it. What is there stands in one of
// the two, so that a lookup waits for both at once and guesses nothing. Each
// shard is less than half full, and grows by itself.
type addrIndex struct {
	seed   hashSeed
	groups []*shardGroup
	shift  uint8 // 64 - log2(len(groups))
}

const (
	shardBits      = 6
	shardsPerGroup = 1 << shardBits
	shardAims      = 32 // lines of a shard when the index is made
	perLine        = 8
)

type shardGroup [shardsPerGroup]shard

// shard is none or more lines.
type shard []addrLine

// addrLine is a cache line.
type addrLine struct {
	address        // the first of its eight
	scope   uint64 // the key's, plus one; 0 = empty
	cells   [perLine]uint32
	_       uint64
}

type addrKey struct {
	scope uint32
	address
}

// line is the key of the line that k's address stands in.
func (k addrKey) line() addrKey {
	return addrKey{k.scope, address{k.hi, k.lo &^ (perLine - 1)}}
}

func newAddrIndex(m map[addrKey]uint32) addrIndex {
	lines := make(map[addrKey]*addrLine, len(m)/perLine+1)
	for k, v := range m {
		first := k.line()
		l := lines[first]
		if l == nil {
			l = &addrLine{address: first.address, scope: uint64(k.scope) + 1}
			lines[first] = l
		}
		l.cells[k.lo%perLine] = v
	}
	log := bits.Len(uint(len(lines) / (shardAims * shardsPerGroup)))
	t := addrIndex{newHashSeed(), make([]*shardGroup, 1<<log), uint8(64 - log)}
	parts := make([][shardsPerGroup][]addrLine, 1<<log)
	for k, l := range lines {
		h := t.hash(k.scope, k.address)
		part := &parts[h>>t.shift][shardOf(h)]
		*part = append(*part, *l)
	}
	room := 0
	for g := range parts {
		for i := range parts[g] {
			room += shardSize(len(parts[g][i]))
		}
	}
	all := make([]addrLine, room) // in one piece, for huge pages
	WantHugePages(all)
	for g := range t.groups {
		t.groups[g] = new(shardGroup)
		for i, part := range parts[g] {
			size := shardSize(len(part))
			t.groups[g][i] = t.shard(part, all[:size:size])
			all = all[size:]
		}
		parts[g] = [shardsPerGroup][]addrLine{}
	}
	return t
}

// shardSize is how many lines a shard gets that n are to stand in: a little more
// than the half that two places a line can fill.
func shardSize(n int) int {
	if n == 0 {
		return 0
	}
	return n*9/4 + 1
}

// shard places lines, each in one of its two places, in s if they find room
// there; s is empty.
func (t *addrIndex) shard(lines []addrLine, s shard) shard {
	for slices.ContainsFunc(lines, func(l addrLine) bool { return !t.put(s, l) }) {
		s = make(shard, len(s)+len(s)/8+1)
	}
	return s
}

// put finds a place for l, pushing others to their second one. It gives up after
// as many pushes as there are places.
func (t *addrIndex) put(s shard, l addrLine) bool {
	at, other := t.places(s, t.hash(uint32(l.scope-1), l.address))
	if s[at].scope != 0 {
		at = other
	}
	for range s {
		l, s[at] = s[at], l
		if l.scope == 0 {
			return true
		}
		first, second := t.places(s, t.hash(uint32(l.scope-1), l.address))
		at ^= first ^ second // the other one of the two
	}
	return false
}

// places are the two of s in which what has that hash may stand. They take bits
// of it that choose neither the group nor the shard.
func (t *addrIndex) places(s shard, h uint64) (first, second uint64) {
	n := uint64(len(s))
	return uint64(uint32(h)<<shardBits) * n >> 32, uint64(uint32(h>>32)<<(64-t.shift)) * n >> 32
}

// hash is of a line's key.
func (t *addrIndex) hash(scope uint32, a address) uint64 {
	return t.seed.words(a.hi, a.lo, uint64(scope))
}

func shardOf(h uint64) uint64 { return uint64(uint32(h)) >> (32 - shardBits) }

// get returns the number of the key, or 0.
func (t *addrIndex) get(scope uint32, a address) uint32 {
	first := address{a.hi, a.lo &^ (perLine - 1)}
	h := t.hash(scope, first)
	s := t.groups[h>>t.shift][shardOf(h)]
	if len(s) == 0 {
		return 0
	}
	i, j := t.places(s, h)
	x, y := &s[i], &s[j]
	dx := (x.hi ^ first.hi) | (x.lo ^ first.lo) | (x.scope ^ (uint64(scope) + 1))
	dy := (y.hi ^ first.hi) | (y.lo ^ first.lo) | (y.scope ^ (uint64(scope) + 1))
	// Which of the two it is nobody can guess: no branch may depend on it.
	notX, notY := (dx|-dx)>>63, (dy|-dy)>>63
	return s[i^(i^j)&-notX].cells[a.lo%perLine] & (uint32(notX&notY) - 1)
}

// with returns the index with that number for the key, or without the key where
// v is 0.
func (t *addrIndex) with(k addrKey, v uint32) addrIndex {
	first := k.line()
	h := t.hash(first.scope, first.address)
	old := t.groups[h>>t.shift][shardOf(h)]
	lines := make([]addrLine, 0, len(old)+1)
	mine := addrLine{address: first.address, scope: uint64(k.scope) + 1}
	for i := range old {
		switch o := &old[i]; {
		case o.scope == mine.scope && o.address == mine.address:
			mine = *o
		case o.scope != 0:
			lines = append(lines, *o)
		}
	}
	mine.cells[k.lo%perLine] = v
	if mine.cells != [perLine]uint32{} {
		lines = append(lines, mine)
	}
	group := *t.groups[h>>t.shift]
	group[shardOf(h)] = t.shard(lines, make(shard, shardSize(len(lines))))
	out := *t
	out.groups = append([]*shardGroup(nil), t.groups...)
	out.groups[h>>t.shift] = &group
	return out
}

// each calls yield for every key and its number.
func (t *addrIndex) each(yield func(k addrKey, v uint32)) {
	for _, g := range t.groups {
		for i := range g {
			for j := range g[i] {
				l := &g[i][j]
				for n, v := range l.cells {
					if v != 0 {
						yield(addrKey{uint32(l.scope - 1), address{l.hi, l.lo + uint64(n)}}, v)
					}
				}
			}
		}
	}
}

// An endpoint's number and its name servers are all that most addresses say, and
// fit into the index itself: the number's 28 bits (pairBits), three for the set of
// name servers, and one that tells it from an index, plus one, of what is beside.
const (
	plainCell    = 1 << 31
	plainDNSBits = 3
)

// plainEnd is such a cell, or 0 where it does not fit.
func plainEnd(endpoint int32, dns uint16) uint32 {
	if endpoint == nobody || dns >= 1<<plainDNSBits {
		return 0
	}
	return plainCell | uint32(dns)<<pairBits | uint32(endpoint)
}

// endOf reads a plain cell.
func endOf(cell uint32) (endpoint uint32, dns uint16, ok bool) {
	return cell & (1<<pairBits - 1), uint16(cell >> pairBits & (1<<plainDNSBits - 1)), cell&plainCell != 0
}

// beside holds what does not fit into cells, each once. It grows by copies, as
// tables share it.
type beside[V comparable] []V

// of returns what a cell stands for that is not plain, or nil.
func (b beside[V]) of(cell uint32) *V {
	if cell == 0 {
		return nil
	}
	return &b[cell-1]
}

// with returns what stands beside together with v, and v's cell.
func (b beside[V]) with(v V) (beside[V], uint32) {
	at := slices.Index(b, v)
	if at < 0 {
		b, at = append(b[:len(b):len(b)], v), len(b)
	}
	return b, uint32(at + 1)
}

// newCells makes an index of what addresses mean. fits is what says it without
// anything beside, or 0.
func newCells[V comparable](m map[addrKey]V, fits func(V) uint32) (addrIndex, beside[V]) {
	cells, numbers := make(map[addrKey]uint32, len(m)), make(map[V]uint32)
	var all beside[V]
	for k, v := range m {
		c := fits(v)
		if c == 0 {
			if c = numbers[v]; c == 0 {
				all = append(all, v)
				c = uint32(len(all))
				numbers[v] = c
			}
		}
		cells[k] = c
	}
	return newAddrIndex(cells), all
}

package ruleset

import "math/bits"

// vectors answers by bit vectors: for each class of each axis, which rules take
// it, and for each word of that whether it is zero. The first bit that all five
// have is the rule.
type vectors struct {
	words, sums int            // per vector
	at          [axes][]uint32 // class -> vector
	bits        [axes][]uint64 // vector by vector: sums, then words
}

func (v *vectors) stride() int { return v.sums + v.words }

func (v *vectors) first(p *point) uint32 { return v.from(p, 0) }

func (v *vectors) next(p *point, after uint32) uint32 { return v.from(p, after+1) }

// from is the first match that is not before start.
func (v *vectors) from(p *point, start uint32) uint32 {
	a, b, c, d, e := v.vector(axisSrc, p), v.vector(axisDst, p), v.vector(axisSrcPort, p), v.vector(axisDstPort, p), v.vector(axisProto, p)
	word := int(start >> 6)
	mask := ^uint64(0) << (start & 63)
	for s := word >> 6; s < v.sums; s++ {
		sum := a[s] & b[s] & c[s] & d[s] & e[s]
		if s == word>>6 {
			sum &= ^uint64(0) << (word & 63)
		}
		for ; sum != 0; sum &= sum - 1 {
			w := s<<6 + bits.TrailingZeros64(sum)
			i := v.sums + w
			both := a[i] & b[i] & c[i] & d[i] & e[i]
			if w == word {
				both &= mask
			}
			if both != 0 {
				return uint32(w<<6 + bits.TrailingZeros64(both))
			}
		}
	}
	return none
}

func (v *vectors) vector(axis int, p *point) []uint64 {
	at := int(v.at[axis][p[axis]]) * v.stride()
	return v.bits[axis][at : at+v.stride()]
}

func (v *vectors) bytes() int {
	n := 0
	for i := range v.at {
		n += 4*len(v.at[i]) + 8*len(v.bits[i])
	}
	return n
}

// newVectors builds vectors for the space, or says what they need if that is
// more than budget.
func newVectors(s *space, budget int, p *pace) (v *vectors, need int) {
	v = &vectors{words: (len(s.boxes) + 63) / 64}
	v.sums = (v.words + 63) / 64
	for axis, size := range s.sizes() {
		v.lay(s, axis, int(size), budget, p)
		if need = v.bytes(); need > budget {
			return nil, need
		}
	}
	return v, need
}

// lay makes one axis' vectors, equal ones once. It stops where they pass budget.
func (v *vectors) lay(s *space, axis, size, budget int, p *pace) {
	enter, leave := make([][]uint32, size+1), make([][]uint32, size+1)
	for i := range s.boxes {
		b := &s.boxes[i]
		enter[b.lo[axis]] = append(enter[b.lo[axis]], uint32(i))
		leave[b.hi[axis]+1] = append(leave[b.hi[axis]+1], uint32(i))
	}
	seen := map[string]uint32{}
	now := make([]uint64, v.stride())
	v.at[axis] = make([]uint32, size)
	for c := range size {
		p.giveWay()
		for _, r := range leave[c] {
			now[v.sums+int(r>>6)] &^= 1 << (r & 63)
			if now[v.sums+int(r>>6)] == 0 {
				now[r>>12] &^= 1 << (r >> 6 & 63)
			}
		}
		for _, r := range enter[c] {
			now[v.sums+int(r>>6)] |= 1 << (r & 63)
			now[r>>12] |= 1 << (r >> 6 & 63)
		}
		at, ok := seen[text(now)]
		if !ok {
			at = uint32(len(seen))
			start := len(v.bits[axis])
			v.bits[axis] = append(v.bits[axis], now...)
			if 8*len(v.bits[axis]) > budget {
				return
			}
			seen[text(v.bits[axis][start:])] = at
		}
		v.at[axis][c] = at
	}
}

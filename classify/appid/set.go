package appid

import "math/bits"

// set is a set of protocols, by their index in protocols. Not an array, which
// the compiler would not keep in registers.
type set struct{ lo, hi uint64 }

const setSize = 128

// one is the set of protocol i alone; shifts by 64 and more give zero.
func one(i int) set { return set{1 << uint(i), 1 << uint(i-64)} }

func (s set) or(t set) set  { return set{s.lo | t.lo, s.hi | t.hi} }
func (s set) and(t set) set { return set{s.lo & t.lo, s.hi & t.hi} }
func (s set) not(t set) set { return set{s.lo &^ t.lo, s.hi &^ t.hi} }
func (s set) empty() bool   { return s.lo|s.hi == 0 }

// lowest is the first protocol of a set that is not empty.
func (s set) lowest() int {
	if s.lo != 0 {
		return bits.TrailingZeros64(s.lo)
	}
	return 64 + bits.TrailingZeros64(s.hi)
}

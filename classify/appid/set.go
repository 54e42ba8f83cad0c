package appid

import "math/bits"

// set is a set of protocols, by their index in protocols.
type set [2]uint64

const setSize = 128

func one(i int) (s set) { s[i>>6] = 1 << (i & 63); return s }

func (s set) or(t set) set   { return set{s[0] | t[0], s[1] | t[1]} }
func (s set) and(t set) set  { return set{s[0] & t[0], s[1] & t[1]} }
func (s set) not(t set) set  { return set{s[0] &^ t[0], s[1] &^ t[1]} }
func (s set) empty() bool    { return s[0]|s[1] == 0 }

// lowest is the first protocol of a set that is not empty.
func (s set) lowest() int {
	if s[0] != 0 {
		return bits.TrailingZeros64(s[0])
	}
	return 64 + bits.TrailingZeros64(s[1])
}

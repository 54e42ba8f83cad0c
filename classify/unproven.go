package classify

import "gatehouse/policy"

// unproven remembers TCP connections that were answered and forgotten before
// they showed an application that policy allows: refused, or ended as far as
// the packets said. Their two ends may still have them, since a forged FIN or
// RST ends nothing and a refused payload least of all. Met again without a SYN
// they are no old flows (V9), or each would get a new budget of unread bytes as
// often as it likes. Sums of keys in buckets; in a full one the oldest goes.
type unproven struct {
	sums []uint64
	mask uint64
}

const unprovenBucket = 8

func newUnproven(n int) *unproven {
	size := unprovenBucket
	for size < n {
		size *= 2
	}
	return &unproven{sums: make([]uint64, size), mask: uint64(size-1) &^ (unprovenBucket - 1)}
}

func (u *unproven) bucket(sum uint64) []uint64 {
	i := sum >> 16 & u.mask
	return u.sums[i : i+unprovenBucket]
}

func (u *unproven) has(sum uint64) bool {
	for _, s := range u.bucket(sum) {
		if s == sum {
			return true
		}
	}
	return false
}

// add puts sum last, in place of the oldest if need be.
func (u *unproven) add(sum uint64) {
	u.remove(sum)
	b := u.bucket(sum)
	copy(b, b[1:])
	b[unprovenBucket-1] = sum
}

// remove leaves its empty place first.
func (u *unproven) remove(sum uint64) {
	b := u.bucket(sum)
	for i, s := range b {
		if s == sum {
			copy(b[1:i+1], b[:i])
			b[0] = 0
			return
		}
	}
}

// isUnproven: policy asked f for its application, and had no answer that it liked;
// where there was none, and without one f would only have been recorded, it may go on.
func (f *Flow) isUnproven() bool {
	if f.Key.Proto != policy.ProtoTCP || f.Verdict == policy.Allow || f.Decision.Verdict() != policy.Undecided {
		return false
	}
	answered := f.hasISN[f.Initiator^1] ||
		f.MidStream && (f.Verdict != policy.Undecided || f.Packets[0] > 0 && f.Packets[1] > 0)
	j := f.Decision.Judge(policy.Spoken{App: policy.AppUnknown})
	return answered && (f.Verdict != policy.Undecided || j.Verdict != policy.Allow || !j.Denied)
}

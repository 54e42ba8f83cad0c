package classify

import (
	"hash/maphash"
	"math/bits"
	"unsafe"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

// FlowState is how far a conversation has come. The zero value is no flow.
type FlowState uint8

const (
	Free       FlowState = iota
	Opening              // only the initiator has been heard
	Answered             // the responder has answered
	Lasting              // TCP: the handshake is complete
	HalfClosed           // TCP: one side has sent FIN
	Closed               // TCP: both have, or one has reset
)

// Flow is one conversation. What a Classifier hands out is valid until its next
// call and must not be changed.
//
// What a lookup and a judgement read comes first, in one cache line: a Flow has
// four.
type Flow struct {
	Key      FlowKey
	Decision *policy.Decision
	Epoch    uint32
	Slot     uint16 // of the endpoint whose quota it counts against
	// Verdict is Undecided until app-ID is sure.
	Verdict   policy.Verdict
	State     FlowState
	Initiator uint8 // 0: Key's side A began, 1: B
	// Reason is why its packets are dropped, or what the last violation was.
	Reason    policy.Reason
	MidStream bool  // its beginning was not seen
	fins      uint8 // by side
	app       int32 // index of its app-ID state, -1 = none

	// Packets and Bytes (of IP) by side of Key, as far as they came here; what
	// the kernel carried is added by Touch.
	Packets, Bytes [2]uint64
	First, Seen    int64 // nanoseconds of the caller's clock
	offered        int64 // when it was last handed to the kernel; 0 = never

	// Spoken is what app-ID found; App is AppNone where policy did not ask.
	Spoken    policy.Spoken
	Judgement policy.Judgement
	// Confidence, Evidence and Status are app-ID's when the flow was decided.
	Confidence appid.Confidence
	Evidence   appid.Evidence
	Status     appid.Status
	Anomaly    appid.Anomaly // that app-ID met, the mismatch before others
	// Likely is what an unknown flow behaves like; Findings mark what is odd about
	// any. Both are to be shown, and nothing is allowed for them.
	Likely   policy.App
	Findings appid.Finding
	// Violations counts packets against policy, forwarded or not.
	Violations uint32
	// NamedAt counts packets with payload, from both sides, until app-ID said
	// what Spoken has; 0 where it said nothing.
	NamedAt  uint32
	payloads uint32     // packets that app-ID was given
	named    policy.App // what it said last

	lenient bool // mid-stream on an endpoint that ran before us (V9)
	again   bool // its initiator has sent a SYN at againAt that nobody answered yet
	watched bool // app-ID reads it although it is decided
	// Lookups: it carries DNS queries that policy is interested in (policy.Table.Asker).
	Lookups  bool
	synData  uint16   // bytes in its SYN
	reported uint64   // reasons already reported, one bit each
	rate     [2]int64 // echo, by side: theoretical arrival time of the next packet
	againAt  int64
	echoed   echoed
	isn      [2]uint32
	againISN uint32
	hasISN   [2]bool
	Awaits   bool // the kernel may carry the SYN-ACK, see Result.Opening
	// misnamed: it asked its server for another name than policy let it pass by. That
	// is read once, and holds under later tables too.
	misnamed bool
	// announcer is the index of what reads its announcements, -1 = none; control
	// is who announced it.
	announcer int32
	control   control
	name      *flowName // nil = it holds no address of a name
	bucket    uint32
	next      int32 // free list
}

// Query is the flow as policy sees it, from its initiator.
func (f *Flow) Query() policy.Query {
	q := policy.Query{Zone: policy.Zone(f.Key.Zone), Proto: f.Key.Proto, Src: f.Key.AddrA, Dst: f.Key.AddrB, DstPort: f.Key.PortB}
	if f.Initiator == 1 {
		q.Src, q.Dst, q.DstPort = f.Key.AddrB, f.Key.AddrA, f.Key.PortA
	}
	if q.Proto == policy.ProtoICMP {
		q.DstPort = 0
	}
	return q
}

// V6 reports whether it is IPv6.
func (f *Flow) V6() bool { return [12]byte(f.Key.AddrA[:12]) != v4prefix }

// IsOld: it was met in the middle of its life, and may not have shown what it is (V9).
func (f *Flow) IsOld() bool {
	return f.lenient && f.Key.Proto == policy.ProtoTCP && f.Confidence != appid.ConfidenceBothSides
}

// Allowed reports whether packets of f pass now.
func (f *Flow) Allowed() bool { return f.Verdict == policy.Allow || f.Verdict == policy.Undecided }

const bucketSize = 12

// bucket is a cache line: tags are compared, all at once, before keys are
// touched. It is filled from place 0 on.
type bucket struct {
	low  uint64 // tags of places 0 to 7, a byte each; 0 = empty
	high uint32 // of 8 to 11
	// spilled is how many flows that would stand here stand in their other bucket.
	spilled uint32
	at      [bucketSize]int32 // in the slab
}

// homely is how full a bucket gets before its flows may stand in their other one.
const homely = bucketSize - 1

const everyByte = 0x0101010101010101

// zeros has the high bit of each byte of x that is zero, and now and then of one
// behind such a byte that is 1.
func zeros(x uint64) uint64 { return (x - everyByte) &^ x & (everyByte << 7) }

func (b *bucket) tag(j int) uint8 {
	if j < 8 {
		return uint8(b.low >> (8 * j))
	}
	return uint8(b.high >> (8 * (j - 8)))
}

func (b *bucket) set(j int, tag uint8, at int32) {
	if j < 8 {
		b.low = b.low&^(0xff<<(8*j)) | uint64(tag)<<(8*j)
	} else {
		b.high = b.high&^(0xff<<(8*(j-8))) | uint32(tag)<<(8*(j-8))
	}
	b.at[j] = at
}

// flowTable finds flows by key: a bucket hash with two choices and tags over a
// slab that is allocated once, and touched as far as it was ever used. The hash
// is seeded, since those who are guarded choose the keys. A flow stands in its
// first bucket while there is room to spare, else in the emptier of two; most
// misses so look at one cache line. At most half of the places are ever used,
// so that both buckets of a key are full only by an improbable accident; such a
// flow is refused.
type flowTable struct {
	seed    keySeed
	buckets []bucket
	slab    []Flow
	fresh   int // slab[fresh:] was never used
	free    int32
	live    int
	cursor  int    // of the sweep
	early   uint64 // what findAll read ahead, and nobody reads
}

func newFlowTable(n int) *flowTable {
	t := &flowTable{seed: newKeySeed(), buckets: make([]bucket, 2*n/bucketSize+2), slab: make([]Flow, n), free: -1}
	policy.WantHugePages(t.buckets)
	policy.WantHugePages(t.slab)
	return t
}

// used is every place of the slab that may hold a flow; State tells.
func (t *flowTable) used() []Flow { return t.slab[:t.fresh] }

// keySeed keys the hash of flow keys.
type keySeed [8]uint64

func newKeySeed() (s keySeed) {
	for i := range s {
		s[i] = maphash.Comparable(maphash.MakeSeed(), i)
	}
	return s
}

// words are a key's. FlowKey has no padding but a byte that is always zero.
func (k *FlowKey) words() *[5]uint64 { return (*[5]uint64)(unsafe.Pointer(k)) }

// is reports whether both are the same, without a branch before it is known.
func (k *FlowKey) is(o *FlowKey) bool {
	a, b := k.words(), o.words()
	return (a[0]^b[0])|(a[1]^b[1])|(a[2]^b[2])|(a[3]^b[3])|(a[4]^b[4]) == 0
}

// sum is a key's hash, never zero: the products of NH (RFC 4418, section 5.2.2,
// with words of 64 bits), summed to 128 bits, by which two keys agree once in
// 2^64 seeds whoever chose them; and a last product, that mixes them to 64.
func (t *flowTable) sum(k *FlowKey) uint64 {
	w, s := k.words(), &t.seed
	h0, l0 := bits.Mul64(w[0]+s[0], w[1]+s[1])
	h1, l1 := bits.Mul64(w[2]+s[2], w[3]+s[3])
	h2, l2 := bits.Mul64(w[4]+s[4], s[5])
	l, carry := bits.Add64(l0, l1, 0)
	h, _ := bits.Add64(h0, h1, carry)
	l, carry = bits.Add64(l, l2, 0)
	h, _ = bits.Add64(h, h2, carry)
	h, l = bits.Mul64(h^s[6], l^s[7])
	return h ^ l | 1
}

// home is the first bucket of a sum, other its second.
func (t *flowTable) home(sum uint64) uint32 { return t.reduce(uint32(sum >> 32)) }

func (t *flowTable) other(sum uint64) uint32 { return t.reduce(uint32(sum) * 0x9e3779b1) }

// reduce maps h to a bucket.
func (t *flowTable) reduce(h uint32) uint32 {
	return uint32(uint64(h) * uint64(len(t.buckets)) >> 32)
}

// tagOf is a byte of the sum that is not 0.
func tagOf(sum uint64) uint8 { return uint8(max(sum>>8&0xff, 1)) }

func (t *flowTable) find(k *FlowKey) *Flow {
	sum := t.sum(k)
	b := &t.buckets[t.home(sum)]
	if f := &t.slab[b.likely(tagOf(sum))]; f.Key.is(k) {
		return f
	}
	return t.search(k, sum)
}

// search is find for whom the first look did not find.
func (t *flowTable) search(k *FlowKey, sum uint64) *Flow {
	b := &t.buckets[t.home(sum)]
	if f := t.in(b, tagOf(sum), k); f != nil || b.spilled == 0 {
		return f
	}
	return t.in(&t.buckets[t.other(sum)], tagOf(sum), k)
}

func (t *flowTable) in(b *bucket, tag uint8, k *FlowKey) *Flow {
	all := uint64(tag) * everyByte
	for m := zeros(b.low ^ all); m != 0; m &= m - 1 {
		if f := &t.slab[b.at[bits.TrailingZeros64(m)>>3]]; f.Key.is(k) {
			return f
		}
	}
	for m := zeros(uint64(b.high)^all) & 0xffffffff; m != 0; m &= m - 1 {
		if f := &t.slab[b.at[8+bits.TrailingZeros64(m)>>3]]; f.Key.is(k) {
			return f
		}
	}
	return nil
}

// lookahead is how many lookups findAll has under way at once.
const lookahead = 64

// findAll is find for many keys, at most as many as out has room for. What it
// waits for, it waits for at once: first the buckets, then the flows. The loops
// that wait do nothing else, so that a processor has all of their loads under way.
func (t *flowTable) findAll(keys []FlowKey, out []*Flow) {
	var sums [lookahead]uint64
	var at [lookahead]uint32
	for len(keys) > 0 {
		n := min(lookahead, len(keys))
		keysNow, outNow := keys[:n], out[:n]
		for i := range keysNow {
			sum := t.sum(&keysNow[i])
			sums[i%lookahead], at[i%lookahead] = sum, t.home(sum)
		}
		early := uint64(0)
		for i := range at[:n] {
			early |= t.buckets[at[i]].low
		}
		for i := range at[:n] {
			at[i] = uint32(t.buckets[at[i]].likely(tagOf(sums[i])))
		}
		for i := range at[:n] {
			early |= uint64(t.slab[at[i]].State)
		}
		t.early = early
		for i := range keysNow {
			f := &t.slab[at[i%lookahead]]
			if !f.Key.is(&keysNow[i]) {
				f = t.search(&keysNow[i], sums[i%lookahead])
			}
			outNow[i] = f
		}
		keys, out = keys[n:], out[n:]
	}
}

// likely is where a flow of that tag stands if it stands in b: some place of the
// slab in any case, so that its caller can load from there before it knows.
func (b *bucket) likely(tag uint8) int32 {
	all := uint64(tag) * everyByte
	low, high := zeros(b.low^all), zeros(uint64(b.high)^all)
	j := bits.TrailingZeros64(low) >> 3
	if k := 8 + bits.TrailingZeros64(high)>>3; low == 0 {
		j = k
	}
	return b.at[min(j, bucketSize-1)]
}

// add returns a cleared flow for a key that is not in the table, or nil.
func (t *flowTable) add(k *FlowKey) *Flow {
	if t.live == len(t.slab) {
		return nil
	}
	sum := t.sum(k)
	home := t.home(sum)
	i := home
	if n := t.buckets[home].len(); n >= homely {
		if other := t.other(sum); t.buckets[other].len() < n {
			i = other
		} else if n == bucketSize {
			return nil
		}
	}
	if i != home {
		t.buckets[home].spilled++
	}
	at := t.take()
	f := &t.slab[at]
	b := &t.buckets[i]
	j := b.empty()
	b.set(j, tagOf(sum), at)
	*f = Flow{Key: *k, bucket: i, app: -1, announcer: -1}
	t.live++
	return f
}

// take is a place in the slab; there is one.
func (t *flowTable) take() int32 {
	if at := t.free; at >= 0 {
		t.free = t.slab[at].next
		return at
	}
	t.fresh++
	return int32(t.fresh - 1)
}

func (b *bucket) len() (n int) {
	for j := range bucketSize {
		if b.tag(j) != 0 {
			n++
		}
	}
	return n
}

// empty is an empty place; there is one.
func (b *bucket) empty() int {
	j := 0
	for b.tag(j) != 0 {
		j++
	}
	return j
}

func (t *flowTable) remove(f *Flow) {
	b := &t.buckets[f.bucket]
	for j := range b.at {
		if b.tag(j) == 0 || &t.slab[b.at[j]] != f {
			continue
		}
		if home := t.home(t.sum(&f.Key)); home != f.bucket {
			t.buckets[home].spilled--
		}
		at := b.at[j]
		b.set(j, 0, 0)
		*f = Flow{next: t.free}
		t.free = at
		t.live--
		return
	}
}

package classify

import (
	"hash/maphash"
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
type Flow struct {
	Key      FlowKey
	Decision *policy.Decision
	// Spoken is what app-ID found; App is AppNone where policy did not ask.
	Spoken policy.Spoken
	// Confidence, Evidence and Status are app-ID's when the flow was decided.
	Confidence appid.Confidence
	Evidence   appid.Evidence
	Status     appid.Status
	// Likely is what an unknown flow behaves like; Findings mark what is odd about
	// any. Both are to be shown, and nothing is allowed for them.
	Likely    policy.App
	Findings  appid.Finding
	Judgement policy.Judgement
	// Verdict is Undecided until app-ID is sure.
	Verdict   policy.Verdict
	State     FlowState
	Initiator uint8 // 0: Key's side A began, 1: B
	// Reason is why its packets are dropped, or what the last violation was.
	Reason    policy.Reason
	MidStream bool // its beginning was not seen
	Epoch     uint32
	Slot      uint16 // of the endpoint whose quota it counts against
	// Violations counts packets against policy, forwarded or not.
	Violations uint32
	// Packets and Bytes (of IP) by side of Key, as far as they came here; what
	// the kernel carried is added by Touch.
	Packets, Bytes [2]uint64
	First, Seen    int64 // nanoseconds of the caller's clock
	// NamedAt counts packets with payload, from both sides, until app-ID said
	// what Spoken has; 0 where it said nothing.
	NamedAt uint32
	Anomaly appid.Anomaly // that app-ID met, the mismatch before others

	reported uint64   // reasons already reported, one bit each
	offered  int64    // when it was last handed to the kernel; 0 = never
	rate     [2]int64 // echo, by side: theoretical arrival time of the next packet
	isn      [2]uint32
	hasISN   [2]bool
	againISN uint32
	againAt  int64
	echoed   echoed
	again    bool // its initiator has sent a SYN at againAt that nobody answered yet
	fins     uint8
	lenient  bool       // mid-stream on an endpoint that ran before us (V9)
	payloads uint32     // packets that app-ID was given
	named    policy.App // what it said last
	app      int32      // index of its app-ID state, -1 = none
	// announcer is the index of what reads its announcements, -1 = none; control
	// is who announced it.
	announcer int32
	control   control
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

// Allowed reports whether packets of f pass now.
func (f *Flow) Allowed() bool { return f.Verdict == policy.Allow || f.Verdict == policy.Undecided }

const bucketSize = 8

// bucket is one cache line and a half: tags are compared before keys are touched.
type bucket struct {
	tags [bucketSize]uint16 // 0 = empty
	at   [bucketSize]int32
}

// flowTable finds flows by key: a bucket hash with two choices and tags over a
// slab that is allocated once. The hash is seeded, since those who are guarded
// choose the keys. At most half of the places are ever used, so that both
// buckets of a key are full only by an improbable accident; such a flow is
// refused.
type flowTable struct {
	seed    maphash.Seed
	mask    uint32
	buckets []bucket
	flows   []Flow
	free    int32
	live    int
	cursor  int // of the sweep
}

func newFlowTable(n int) *flowTable {
	buckets := 1
	for buckets*bucketSize < 2*n {
		buckets *= 2
	}
	t := &flowTable{seed: maphash.MakeSeed(), mask: uint32(buckets - 1), buckets: make([]bucket, buckets), flows: make([]Flow, n)}
	for i := range t.flows {
		t.flows[i].next = int32(i) - 1
	}
	t.free = int32(n) - 1
	return t
}

// hash returns both buckets of a key and its tag. FlowKey has no padding but a
// byte that is always zero.
func (t *flowTable) hash(k *FlowKey) (a, b uint32, tag uint16) {
	h := maphash.Bytes(t.seed, unsafe.Slice((*byte)(unsafe.Pointer(k)), unsafe.Sizeof(*k)))
	tag = uint16(h>>48) | 1
	a = uint32(h) & t.mask
	return a, (a ^ uint32(h>>32)*2 ^ 1) & t.mask, tag
}

// sum is a key's hash alone, never zero.
func (t *flowTable) sum(k *FlowKey) uint64 {
	return maphash.Bytes(t.seed, unsafe.Slice((*byte)(unsafe.Pointer(k)), unsafe.Sizeof(*k))) | 1
}

func (t *flowTable) find(k *FlowKey) *Flow {
	a, b, tag := t.hash(k)
	if f := t.in(a, tag, k); f != nil {
		return f
	}
	return t.in(b, tag, k)
}

func (t *flowTable) in(i uint32, tag uint16, k *FlowKey) *Flow {
	bk := &t.buckets[i]
	for j := range bk.tags {
		if bk.tags[j] == tag {
			if f := &t.flows[bk.at[j]]; f.Key == *k {
				return f
			}
		}
	}
	return nil
}

// add returns a cleared flow for a key that is not in the table, or nil.
func (t *flowTable) add(k *FlowKey) *Flow {
	if t.free < 0 {
		return nil
	}
	a, b, tag := t.hash(k)
	i, j := a, t.place(a)
	if k := t.place(b); j < 0 || k >= 0 && k < j {
		i, j = b, k
	}
	if j < 0 {
		return nil
	}
	at := t.free
	f := &t.flows[at]
	t.free = f.next
	t.buckets[i].tags[j], t.buckets[i].at[j] = tag, at
	*f = Flow{Key: *k, bucket: i, app: -1, announcer: -1}
	t.live++
	return f
}

// place is the lowest empty place of a bucket, -1 = full: the emptier bucket of
// two is the one with the lower place.
func (t *flowTable) place(i uint32) int {
	for j, tag := range t.buckets[i].tags {
		if tag == 0 {
			return j
		}
	}
	return -1
}

func (t *flowTable) remove(f *Flow) {
	bk := &t.buckets[f.bucket]
	for j := range bk.at {
		if bk.tags[j] != 0 && &t.flows[bk.at[j]] == f {
			at := bk.at[j]
			bk.tags[j] = 0
			*f = Flow{next: t.free}
			t.free = at
			t.live--
			return
		}
	}
}

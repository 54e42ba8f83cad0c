package dataplane

import (
	"net/netip"
	"time"
	"unsafe"

	"gatehouse/classify"
	"gatehouse/policy"
)

// Flow is one connection as people see it: 0 of the pairs is the initiator's
// side.
type Flow struct {
	Zone     policy.Zone    `json:"zone"`
	Proto    policy.Proto   `json:"proto"`
	Src      netip.AddrPort `json:"src"`      // the initiator
	Dst      netip.AddrPort `json:"dst"`      // the responder
	Endpoint [2]string      `json:"endpoint"` // of the local ends, "" = not here
	Workload [2]string      `json:"workload"`
	// Verdict is Undecided while app-ID still reads the flow.
	Verdict policy.Verdict `json:"verdict"`
	Reason  policy.Reason  `json:"reason"` // of a drop, or of a violation that was only recorded
	Denied  bool           `json:"denied"` // policy said no, whatever the modes made of it
	Spoken  policy.Spoken  `json:"spoken"`
	// Host is what a flow to the outside asked for, in lower case: the server
	// name of a TLS hello or HTTP's host; "" = not known.
	Host string `json:"host,omitempty"`
	// Confidence, Evidence and Status are how app-ID knows, "" where nobody asked
	// it. ControlPort is the responder's port of the flow that announced this one,
	// whose statement covers it; 0 = none did.
	Confidence  string `json:"confidence,omitempty"`
	Evidence    string `json:"evidence,omitempty"`
	Status      string `json:"status,omitempty"`
	ControlPort uint16 `json:"controlPort,omitempty"`
	// Likely is what an unknown flow behaves like; Findings are what is odd about it.
	Likely   string    `json:"likely,omitempty"`
	Findings string    `json:"findings,omitempty"`
	Rule     int32     `json:"rule"`  // in the table of Epoch, -1 = none
	Epoch    uint32    `json:"epoch"` // of the table that judged it last
	Packets  [2]uint64 `json:"packets"`
	Bytes    [2]uint64 `json:"bytes"` // of IP
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	// MidStream: its beginning was not seen.
	MidStream bool `json:"midStream,omitempty"`
	// Offloaded: the kernel carries it, as of the last sweep.
	Offloaded bool `json:"offloaded"`
}

// newFlow turns a worker's flow into one to show.
func newFlow(f *classify.Flow, c clock) Flow {
	a := netip.AddrPortFrom(netip.AddrFrom16(f.Key.AddrA).Unmap(), f.Key.PortA)
	b := netip.AddrPortFrom(netip.AddrFrom16(f.Key.AddrB).Unmap(), f.Key.PortB)
	out := Flow{
		Zone:      policy.Zone(f.Key.Zone),
		Proto:     f.Key.Proto,
		Src:       a,
		Dst:       b,
		Verdict:   f.Verdict,
		Reason:    f.Reason,
		Denied:    f.Judgement.Denied,
		Spoken:    f.Spoken,
		Rule:      f.Judgement.Rule,
		Epoch:     f.Epoch,
		Packets:   f.Packets,
		Bytes:     f.Bytes,
		First:     c.wall(f.First),
		Last:      c.wall(f.Seen),
		MidStream: f.MidStream,
	}
	if f.Spoken.App != policy.AppNone {
		out.Confidence, out.Evidence, out.Status = f.Confidence.String(), f.Evidence.String(), f.Status.String()
	}
	if f.Likely != policy.AppNone {
		out.Likely = f.Likely.String()
	}
	out.Findings = f.Findings.String()
	if q, ok := f.Control(); ok {
		out.ControlPort = q.DstPort
	}
	if f.Initiator == 1 {
		out.Src, out.Dst = b, a
		out.Packets[0], out.Packets[1] = f.Packets[1], f.Packets[0]
		out.Bytes[0], out.Bytes[1] = f.Bytes[1], f.Bytes[0]
	}
	return out
}

// setEndpoints names the local ends.
func (f *Flow) setEndpoints(e *endpoints) {
	for i, addr := range [2]netip.Addr{f.Src.Addr(), f.Dst.Addr()} {
		if l := e.byAddr[zoneAddr{f.Zone, addr.As16()}]; l != nil {
			f.Endpoint[i], f.Workload[i] = l.ID, l.Workload
		}
	}
}

// touch is what the kernel carried of a flow between two sweeps.
type touch struct {
	key            classify.FlowKey
	packets, bytes [2]uint64
	closed         uint8
	seen           int64
}

// carried is what the sweeper remembers of a line of the map between two visits.
type carried struct {
	bytes   [2]uint64
	packets [2]uint32
	seen    uint32
	// tag stands for the key of the entry that was there, above three bits of what
	// had closed. Two keys that share it cost a wrong count once.
	tag uint32
}

const closedBits = 7

func tagOf(k *classify.FlowKey) uint32 {
	w := (*[5]uint64)(unsafe.Pointer(k)) // the key is 40 bytes without a pointer
	h := uint64(0x9e3779b97f4a7c15)
	for _, x := range w {
		h = (h ^ x) * 0xd6e8feb86659fd93
		h ^= h >> 32
	}
	return uint32(h)&^closedBits | closedBits + 1
}

func (c *carried) is(k *classify.FlowKey) bool { return c.tag&^closedBits == tagOf(k) }

// begin is for an entry that was not there before.
func (c *carried) begin(k *classify.FlowKey) { *c = carried{tag: tagOf(k)} }

// carriedLines holds carried by line: one for each line that an entry was met
// in, found by an index in pages that are made when first used. What is resident
// so goes with the entries, and not with the map.
type carriedLines struct {
	index [][]uint32 // by line: place in kept, 0 = none
	kept  []carried  // kept[0] is nobody's
	// fresh is how many rounds a place is kept for without an entry met, by place.
	fresh []uint8
	free  []uint32 // places
}

const (
	carriedPage = 512
	// carriedRounds: others may scan the map too, and a round then misses lines
	// that they were given.
	carriedRounds = 2
)

// at is valid until the next call.
func (l *carriedLines) at(line uint32) *carried {
	page := int(line / carriedPage)
	for len(l.index) <= page {
		l.index = append(l.index, nil)
	}
	if l.index[page] == nil {
		l.index[page] = make([]uint32, carriedPage)
	}
	place := &l.index[page][line%carriedPage]
	if *place == 0 {
		*place = l.take()
	}
	l.fresh[*place] = carriedRounds
	return &l.kept[*place]
}

func (l *carriedLines) take() uint32 {
	if n := len(l.free); n > 0 {
		place := l.free[n-1]
		l.free = l.free[:n-1]
		return place
	}
	if len(l.kept) == 0 {
		l.kept, l.fresh = make([]carried, 1, carriedPage), make([]uint8, 1, carriedPage)
	}
	l.kept, l.fresh = append(l.kept, carried{}), append(l.fresh, 0)
	return uint32(len(l.kept) - 1)
}

// endRound gives back what belongs to lines in which no entry was met in the
// last rounds.
func (l *carriedLines) endRound() {
	for _, page := range l.index {
		for i, place := range page {
			switch {
			case place == 0:
			case l.fresh[place] > 0:
				l.fresh[place]--
			default:
				l.kept[place] = carried{}
				l.free = append(l.free, place)
				page[i] = 0
			}
		}
	}
}

// grown takes the entry as it is now and returns what it has counted since the
// last visit; false if nothing changed. An entry that was written anew counts
// from zero again.
func (c *carried) grown(e *FlowEntry) (t touch, changed bool) {
	for i := range e.Bytes {
		if e.Bytes[i] < c.bytes[i] || int32(e.Packets[i]-c.packets[i]) < 0 { // few large packets of the new one make more bytes
			c.bytes[i], c.packets[i] = 0, 0
		}
		t.bytes[i] = e.Bytes[i] - c.bytes[i]
		t.packets[i] = uint64(e.Packets[i] - c.packets[i]) // wraps as the count does
	}
	changed = e.Seen != c.seen || uint32(e.Closed) != c.tag&closedBits || t.bytes != [2]uint64{}
	t.key, t.closed, t.seen = e.Key, e.Closed, int64(e.Seen)*int64(time.Second)
	c.bytes, c.packets, c.seen, c.tag = e.Bytes, e.Packets, e.Seen, c.tag&^closedBits|uint32(e.Closed)
	return t, changed
}

// How long an entry that no worker knows may be silent, in seconds, before the
// sweeper takes it out. All are longer than the classifier's own patience,
// which takes out the others.
const (
	orphanTCP    = 2*60*60 + 60
	orphanClosed = 30
	orphanOther  = 240
	orphanDrop   = 30
)

// orphaned reports whether the entry is silent for longer than any worker would
// have kept it; now is in seconds of CLOCK_MONOTONIC.
func (e *FlowEntry) orphaned(now uint32) bool {
	limit := uint32(orphanOther)
	switch {
	case e.Verdict != policy.Allow:
		limit = orphanDrop
	case e.Key.Proto == policy.ProtoTCP && (e.Closed&4 != 0 || e.Closed&3 == 3):
		limit = orphanClosed
	case e.Key.Proto == policy.ProtoTCP:
		limit = orphanTCP
	}
	// The kernel's clock is coarse: Seen may be a little ahead.
	return now > e.Seen && now-e.Seen > limit
}

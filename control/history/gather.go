package history

import (
	"encoding/binary"
	"slices"
	"time"
)

// Bounds of what waits in memory, about 700 bytes a record.
const (
	period = time.Minute // what one record sums up
	// waitingFlows and waitingViolations bound the records of the present
	// minute and those that could not be written yet.
	waitingFlows      = 1 << 16
	waitingViolations = 1 << 14
	// peersOfOne is how many records of a kind one workload gets in a minute:
	// a scan must neither fill the memory nor push out what others did. What is
	// above becomes one record a reason, without addresses.
	peersOfOne = 512
)

// place is a record's key in the database: the minute, then a number, both big
// endian, so that the order of bytes is that of time.
type place [16]byte

func newPlace(minute time.Time, seq uint64) (p place) {
	binary.BigEndian.PutUint64(p[:], uint64(minute.UnixNano()))
	binary.BigEndian.PutUint64(p[8:], seq)
	return p
}

func (p *place) minute() time.Time { return numberTime(p[:8]) }

func numberTime(b []byte) time.Time { return time.Unix(0, int64(binary.BigEndian.Uint64(b))) }

// held is a record in memory.
type held struct {
	Record
	place place
	dirty bool // not in the database as it is
}

// gathering is the records of the present minute, and older ones that are not
// in the database yet. Not safe for concurrent use.
type gathering struct {
	minute  time.Time
	seq     uint64
	open    map[Key]*held
	owners  map[owner]int
	backlog []held // of minutes that are over
	waiting [kinds]int
}

type owner struct {
	kind     Kind
	workload string
}

func newGathering(now time.Time) *gathering {
	// The numbers of an earlier process in the same minute are lower.
	g := &gathering{seq: uint64(now.UnixNano()), open: make(map[Key]*held)}
	g.begin(now)
	return g
}

// begin starts a new minute; what is not written goes into the backlog.
func (g *gathering) begin(now time.Time) {
	for _, h := range g.open {
		if h.dirty {
			g.backlog = append(g.backlog, *h)
		} else {
			g.waiting[h.Kind]--
		}
	}
	g.minute = now.Truncate(period)
	clear(g.open)
	g.owners = make(map[owner]int)
}

func limitOf(k Kind) int {
	if k == Violation {
		return waitingViolations
	}
	return waitingFlows
}

// find returns the record that s belongs to; fresh says that it is new, nil
// that there is no room.
func (g *gathering) find(s *Sample, now time.Time) (h *held, fresh bool) {
	if minute := now.Truncate(period); !minute.Equal(g.minute) {
		g.begin(now)
	}
	if h := g.open[s.Key]; h != nil {
		return h, false
	}
	o := owner{s.Kind, s.local()}
	if g.owners[o] >= peersOfOne && !s.Summed {
		s.sum()
		return g.find(s, now)
	}
	if g.waiting[s.Kind] >= limitOf(s.Kind) {
		return nil, false
	}
	g.owners[o]++
	g.waiting[s.Kind]++
	g.seq++
	h = &held{Record: Record{Key: s.Key}, place: newPlace(g.minute, g.seq)}
	g.open[s.Key] = h
	return h, true
}

// local is the workload that a sample counts against: the initiator where it
// is here, else the responder.
func (k *Key) local() string {
	if k.Workload[0] != "" {
		return k.Workload[0]
	}
	return k.Workload[1]
}

// sum takes out what tells the peers of one workload apart.
func (s *Sample) sum() {
	k := Key{Kind: s.Kind, Zone: s.Zone, Verdict: s.Verdict, Denied: s.Denied, Reason: s.Reason, Side: s.Side,
		Rule: -1, Epoch: s.Epoch, Outgoing: s.Outgoing, Summed: true}
	if s.Workload[0] != "" {
		k.Workload[0] = s.Workload[0]
	} else {
		k.Workload[1] = s.Workload[1]
	}
	s.Key, s.SrcPort = k, 0
}

// unwritten returns copies of what the database does not have: violations
// first, then by age.
func (g *gathering) unwritten(openFlows bool) []held {
	out := slices.Clone(g.backlog)
	for _, h := range g.open {
		if h.dirty && (openFlows || h.Kind == Violation) {
			out = append(out, *h)
		}
	}
	slices.SortFunc(out, func(a, b held) int {
		if a.Kind != b.Kind {
			return int(b.Kind) - int(a.Kind)
		}
		return compare(a.place, b.place)
	})
	return out
}

func compare(a, b place) int { return slices.Compare(a[:], b[:]) }

// wrote marks those as written, in the state in which unwritten gave them.
func (g *gathering) wrote(written []held) {
	done := make(map[place]*held, len(written))
	for i := range written {
		done[written[i].place] = &written[i]
	}
	for _, h := range g.open {
		if w := done[h.place]; w != nil && w.Last.Equal(h.Last) && w.Packets == h.Packets && w.Flows == h.Flows {
			h.dirty = false
		}
	}
	g.backlog = slices.DeleteFunc(g.backlog, func(h held) bool {
		w := done[h.place]
		gone := w != nil && w.Last.Equal(h.Last) && w.Packets == h.Packets && w.Flows == h.Flows
		if gone {
			g.waiting[h.Kind]--
		}
		return gone
	})
}

// all returns copies of everything in memory.
func (g *gathering) all() []held {
	out := slices.Clone(g.backlog)
	for _, h := range g.open {
		out = append(out, *h)
	}
	slices.SortFunc(out, func(a, b held) int { return compare(a.place, b.place) })
	return out
}

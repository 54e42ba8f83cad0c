package classify

// To decrypt a QUIC Initial packet costs as much as to judge dozens of others
// (BenchmarkQUICInitial, BenchmarkPacket), and whoever sends one chooses that it
// be done: so it is bounded for each workload, on whatever networks it is, and for
// all of a worker. Beyond that each workload has a little that nobody else can use
// up. A client sends again what was dropped for it (RFC 9002 6.2).
const (
	initialsPerWorkload = 2000 // a second
	initialsTotal       = 8000
	initialsReserve     = 32 // of each workload, once the total is used up

	second = int64(1e9)
	// What a quarter of a second gives may come at once.
	initialsBurst = second / 4
)

// initials are token buckets, each kept as the time at which it is full again
// (GCRA). What one datagram took beyond what was there is owed.
type initials struct {
	owner   []uint16 // whose the flows of a slot are
	used    []int64  // by workload
	reserve []int64  // by workload
	total   int64
}

func newInitials() initials {
	return initials{owner: make([]uint16, 1<<16), used: make([]int64, 1<<16), reserve: make([]int64, 1<<16)}
}

// may reports whether Initial packets of a slot's flows may be decrypted now.
func (i *initials) may(slot uint16, now int64) bool {
	w := i.owner[slot]
	return i.used[w]-now < initialsBurst && (i.shared(now) || i.reserve[w]-now < initialsBurst)
}

// shared reports whether there is something left of what all have together.
func (i *initials) shared(now int64) bool { return i.total-now < initialsBurst }

// spend counts n that were.
func (i *initials) spend(slot uint16, n int, now int64) {
	w := i.owner[slot]
	i.used[w] = max(i.used[w], now) + int64(n)*(second/initialsPerWorkload)
	if i.shared(now) {
		i.total = max(i.total, now) + int64(n)*(second/initialsTotal)
	} else {
		i.reserve[w] = max(i.reserve[w], now) + int64(n)*(second/initialsReserve)
	}
}

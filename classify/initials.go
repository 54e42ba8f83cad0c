package classify

// To decrypt a QUIC Initial packet costs as much as to judge dozens of others
// (BenchmarkQUICInitial, BenchmarkPacket), and whoever sends one chooses that it
// be done: so it is bounded for each endpoint and for all of a worker. A client
// sends again what was dropped for it (RFC 9002 6.2).
const (
	initialsPerEndpoint = 2000 // a second
	initialsTotal       = 8000

	second = int64(1e9)
	// What a quarter of a second gives may come at once.
	initialsBurst = second / 4
)

// initials are two token buckets, each kept as the time at which it is full again
// (GCRA). What one datagram took beyond what was there is owed.
type initials struct {
	endpoint []int64 // by slot
	total    int64
}

func newInitials() initials { return initials{endpoint: make([]int64, 1<<16)} }

// may reports whether an endpoint's Initial packets may be decrypted now.
func (i *initials) may(slot uint16, now int64) bool {
	return max(i.endpoint[slot], i.total)-now < initialsBurst
}

// spend counts n that were.
func (i *initials) spend(slot uint16, n int, now int64) {
	i.endpoint[slot] = max(i.endpoint[slot], now) + int64(n)*(second/initialsPerEndpoint)
	i.total = max(i.total, now) + int64(n)*(second/initialsTotal)
}

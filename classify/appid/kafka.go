package appid

import "gatehouse/policy"

// Apache Kafka protocol: "Protocol Primitive Types", "Protocol API Keys" and
// "Request Header" (versions 0 to 2) of the Kafka documentation. A request that
// names its client, or whose body is looked into, is proof; others need the
// response with their correlation id.
var kafkaProtocol = protocol{
	app: policy.AppKafka, tcp: true,
	client: kafkaClient, server: kafkaServer,
	clientFirsts: between(0, 6), serverFirsts: between(0, 6),
	mid: kafkaMid, attrs: kafkaAttrs,
}

const (
	kafkaMax        = 100 << 20 // socket.request.max.bytes
	kafkaKeys       = 100
	kafkaVersions   = 20
	kafkaRequestMin = 8 // key, version, correlation id; version 0 of ControlledShutdown has no more

	kafkaProduce     = 0
	kafkaFetch       = 1
	kafkaListOffsets = 2
	kafkaMetadata    = 3
	kafkaSASL        = 17
	kafkaAPIVersions = 18
)

// kafkaLatest is the newest version of each API key (Kafka 4.1); two more are
// taken for what comes after.
var kafkaLatest = [...]uint8{
	13, 18, 11, 13, 7, 4, 8, 3, 10, 10, 6, 9, 4, 5, 5, 6, 5, 1, 5, 7,
	6, 2, 6, 4, 5, 4, 5, 2, 5, 3, 3, 3, 4, 2, 2, 5, 2, 3, 3, 2,
	2, 3, 2, 2, 1, 1, 0, 0, 1, 1, 0, 0, 2, 1, 1, 2, 3, 2, 0, 1,
	2, 0, 4, 1, 0, 0, 2, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 2, 2,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0,
}

// kafkaRequest reads the header of a request. strong: its key and version are
// known, and it names its client in the usual letters or its body fits.
func kafkaRequest(b []byte, full bool) (size int, m match, strong bool) {
	if len(b) < 4+kafkaRequestMin {
		return 0, until(full), false
	}
	n := int(be.Uint32(b))
	key, version := int(be.Uint16(b[4:])), int(be.Uint16(b[6:]))
	if n < kafkaRequestMin || n > kafkaMax || key > kafkaKeys || version > kafkaVersions {
		return 0, no, false
	}
	if n < 10 {
		if key == 7 && version == 0 {
			return 4 + n, fits, false
		}
		return 0, no, false
	}
	if len(b) < 14 {
		return 0, until(full), false
	}
	id := int(int16(be.Uint16(b[12:])))
	if id < -1 || id > 255 || 10+id > n {
		return 0, no, false
	}
	if id > 0 {
		name := b[14:min(14+id, len(b))]
		if !printable(name) {
			return 0, no, false
		}
		if len(name) < id {
			return 0, until(full), false
		}
	}
	known := key < len(kafkaLatest) && version <= int(kafkaLatest[key])+2
	body := b[min(14+max(id, 0), len(b)):min(4+n, len(b))]
	return 4 + n, fits, known && (id >= 3 || kafkaBody(key, version, body))
}

// kafkaBody looks into requests that are sent first, of the versions before
// flexible ones.
func kafkaBody(key, version int, b []byte) bool {
	array := func(b []byte) bool {
		if len(b) < 6 {
			return false
		}
		n, l := be.Uint32(b), int(be.Uint16(b[4:]))
		return n >= 1 && n < 1<<16 && l >= 1 && l <= 249 && printable(b[6:min(6+l, len(b))]) && len(b) >= 6+min(l, 3)
	}
	switch {
	case key == kafkaListOffsets && version == 0:
		return len(b) > 4 && be.Uint32(b) == 0xffffffff && array(b[4:])
	case key == kafkaFetch && version < 3:
		return len(b) > 12 && be.Uint32(b) == 0xffffffff && be.Uint32(b[4:]) <= 600_000 && array(b[12:])
	case key == kafkaProduce && version < 3:
		return len(b) > 6 && (be.Uint16(b) <= 1 || be.Uint16(b) == 0xffff) && be.Uint32(b[2:]) <= 600_000 && array(b[6:])
	case key == kafkaMetadata && version < 9:
		return array(b)
	case key == kafkaSASL && version < 2:
		if len(b) < 7 {
			return false
		}
		l := int(be.Uint16(b))
		return 2+l == len(b) && (begins(b[2:], "PLAIN") == yes || begins(b[2:], "SCRAM-SHA-") == yes || begins(b[2:], "GSSAPI") == yes || begins(b[2:], "OAUTHBEARER") == yes)
	}
	return false
}

func kafkaClient(v *view) match {
	n, m, strong := kafkaRequest(v.c, v.cFull)
	// Proof only where the length tells true: the request ends with the bytes, or
	// another one follows.
	if m == fits && strong && len(v.c) >= n && (len(v.c) == n || kafkaFollows(v.c[n:])) {
		return yes
	}
	if m == fits && !strong && len(v.c) < n {
		return until(v.cFull)
	}
	return m
}

func kafkaFollows(b []byte) bool {
	_, m, _ := kafkaRequest(b, false)
	return m != no
}

func kafkaServer(v *view) match {
	b := v.s
	if len(b) < 8 {
		return until(v.sFull)
	}
	if n := be.Uint32(b); n < 4 || n > kafkaMax {
		return no
	}
	if len(v.c) < 12 {
		if kafkaVersionList(b) {
			return fits
		}
		return more
	}
	// Answers come in the order of the requests; of flows met mid-stream the
	// first kept of each side need not belong together.
	for range 16 {
		if kafkaAsked(v.c, be.Uint32(b[4:])) {
			return fits
		}
		n := 4 + int(be.Uint32(b))
		if n > len(b)-8 {
			return no
		}
		b = b[n:]
		if be.Uint32(b) < 4 || be.Uint32(b) > kafkaMax {
			return no
		}
	}
	return no
}

// kafkaAsked reports whether one of the first requests has that correlation id.
func kafkaAsked(b []byte, id uint32) bool {
	for range 16 {
		n, m, _ := kafkaRequest(b, false)
		if m == no || m == more {
			return false
		}
		if be.Uint32(b[8:]) == id {
			return true
		}
		if n >= len(b) {
			return false
		}
		b = b[n:]
	}
	return false
}

// kafkaVersionList: the answer to ApiVersions before its version 3: an error
// code, and keys with their lowest and highest version.
func kafkaVersionList(b []byte) bool {
	if len(b) < 14+3*6 {
		return false
	}
	size, n := int(be.Uint32(b)), int(be.Uint32(b[10:]))
	if b[8] != 0 || n < 3 || n > kafkaKeys || size != 10+6*n && size != 14+6*n {
		return false
	}
	last := -1
	for at := 14; at+6 <= min(len(b), 14+6*n); at += 6 {
		key, lo, hi := int(be.Uint16(b[at:])), be.Uint16(b[at+2:]), be.Uint16(b[at+4:])
		if key == last || key > kafkaKeys || lo > hi || hi > kafkaVersions {
			return false
		}
		last = key
	}
	return true
}

func kafkaMid(b []byte) match {
	if kafkaVersionList(b) {
		return yes
	}
	n, m, strong := kafkaRequest(b, false)
	if m == fits && strong && (n == len(b) || n < len(b) && kafkaFollows(b[n:])) {
		return yes
	}
	return no
}

// kafkaNames are the requests that begin conversations, and the common ones.
var kafkaNames = [...]string{"Produce", "Fetch", "ListOffsets", "Metadata", "LeaderAndIsr", "StopReplica", "UpdateMetadata", "ControlledShutdown", "OffsetCommit", "OffsetFetch",
	"FindCoordinator", "JoinGroup", "Heartbeat", "LeaveGroup", "SyncGroup", "DescribeGroups", "ListGroups", "SaslHandshake", "ApiVersions", "CreateTopics", "DeleteTopics"}

func kafkaAttrs(v *view, a *Attrs) {
	if _, m, _ := kafkaRequest(v.c, true); m < fits || len(v.c) < 14 {
		return
	}
	if key := int(be.Uint16(v.c[4:])); key < len(kafkaNames) {
		var name [24]byte
		a.Set(AttrMethod, name[:copy(name[:], kafkaNames[key])])
	}
	a.setVersion(int(be.Uint16(v.c[6:])))
	a.Set(AttrAgent, short16(v.c[12:]))
}

package appid

import (
	"bytes"

	"gatehouse/policy"
)

// memcached: doc/protocol.txt (text and meta commands, UDP frame header) and
// the BinaryProtocolRevamped page of its wiki. A text command needs a reply that
// memcached gives, but one that stores carries its value in full; a binary one
// needs lengths that its operation has.
var memcachedProtocol = protocol{
	app: policy.AppMemcached, tcp: true,
	client:       func(v *view) match { return memcachedCommand(v.c, v.cFull) },
	server:       func(v *view) match { return memcachedReply(v.c, v.s, v.sFull) },
	clientFirsts: between('a', 'z').or(oneOf("\x80")), serverFirsts: between('A', 'Z').or(between('0', '9')).or(oneOf("\x81")),
	mid: memcachedMid,
}

var memcachedUDPProtocol = protocol{
	app: policy.AppMemcached, udp: true,
	client: func(v *view) match {
		if !memcachedFrame(v.c) {
			return no
		}
		return memcachedDatagram(v.c[memcachedFrameHead:], memcachedCommand(v.c[memcachedFrameHead:], true))
	},
	server: func(v *view) match {
		if !memcachedFrame(v.s) {
			return no
		}
		var request []byte
		if len(v.c) > memcachedFrameHead {
			request = v.c[memcachedFrameHead:]
		}
		return memcachedDatagram(v.s[memcachedFrameHead:], memcachedReply(request, v.s[memcachedFrameHead:], true))
	},
	clientFirsts: anyByte(), serverFirsts: anyByte(),
}

const (
	memcachedFrameHead = 8
	memcachedBinHead   = 24
	memcachedKeyMax    = 250
)

// memcachedDatagram: behind the frame's head one whole line, or values and
// statistics, are proof.
func memcachedDatagram(b []byte, m match) match {
	if m < fits {
		return m
	}
	l, rest, ok := line(b)
	if ok && len(l) >= 4 && printable(l) && (len(rest) == 0 || begins(b, "VALUE ") == yes || begins(b, "STAT ") == yes || memcachedValue(l, rest, 3)) {
		return yes
	}
	return fits
}

// memcachedFrame: request id, sequence 0, total at least 1, reserved 0.
func memcachedFrame(b []byte) bool {
	return len(b) > memcachedFrameHead && be.Uint16(b[2:]) == 0 && be.Uint16(b[4:]) >= 1 && be.Uint16(b[4:]) < 1024 && be.Uint16(b[6:]) == 0
}

// memcachedVerbs and how many words they have at least, the verb included.
var memcachedVerbs = []struct {
	verb  string
	words int
}{
	{"get", 2}, {"gets", 2}, {"gat", 3}, {"gats", 3}, {"set", 5}, {"add", 5}, {"replace", 5}, {"append", 5}, {"prepend", 5}, {"cas", 6},
	{"delete", 2}, {"incr", 3}, {"decr", 3}, {"touch", 3}, {"stats", 1}, {"version", 1}, {"flush_all", 1}, {"verbosity", 2}, {"quit", 1},
	{"mg", 2}, {"ms", 3}, {"md", 2}, {"ma", 2}, {"mn", 1}, {"me", 2}, {"lru_crawler", 2}, {"slabs", 2}, {"cache_memlimit", 2},
}

func memcachedCommand(b []byte, full bool) match {
	if b[0] == 0x80 {
		return memcachedBinary(b, full)
	}
	l, rest, ok := line(b)
	if !ok {
		l = bytes.TrimSuffix(b, []byte{'\r'})
	}
	end := bytes.IndexByte(l, ' ')
	if end < 0 {
		end = len(l)
	}
	for i := range memcachedVerbs {
		w := &memcachedVerbs[i]
		if !ok && end == len(l) && len(l) < len(w.verb) && w.verb[:len(l)] == string(l) {
			return until(full)
		}
		if string(l[:end]) != w.verb {
			continue
		}
		if !printable(l) || len(l) > 2048 {
			return no
		}
		if !ok {
			return until(full)
		}
		words := 1 + bytes.Count(l, []byte{' '})
		if words < w.words || w.words > 1 && memcachedWord(l[end+1:]) > memcachedKeyMax {
			return no
		}
		if words >= 5 && memcachedValue(l, rest, 3) {
			return yes
		}
		return fits
	}
	return no
}

// memcachedValue: the word at that place is the length of the data that
// follows the line, up to a line end or the end of the bytes.
func memcachedValue(l, rest []byte, at int) bool {
	for range at + 1 {
		i := bytes.IndexByte(l, ' ')
		if i < 0 {
			return false
		}
		l = l[i+1:]
	}
	size, n := number(l)
	if n == 0 || n < len(l) && l[n] != ' ' {
		return false
	}
	return len(rest) >= size+2 && rest[size] == '\r' && rest[size+1] == '\n'
}

// memcachedMid: values that are stored or returned, statistics, binary messages.
func memcachedMid(b []byte) match {
	switch b[0] {
	case 0x80:
		if memcachedBinary(b, false) == yes {
			return yes
		}
		return no
	case 0x81:
		if len(b) >= memcachedBinHead && b[5] == 0 && b[1] <= 0x48 && be.Uint16(b[6:]) <= 0x86 &&
			memcachedBinHead+int(be.Uint32(b[8:])) == len(b) && int(be.Uint32(b[8:])) >= int(be.Uint16(b[2:]))+int(b[4]) && b[4] <= 24 && be.Uint16(b[2:]) <= memcachedKeyMax {
			return yes
		}
		return no
	}
	l, rest, ok := line(b)
	if !ok {
		return no
	}
	switch {
	case begins(l, "VALUE ") == yes && memcachedValue(l, rest, 2):
		return yes
	case begins(l, "STAT ") == yes && begins(rest, "STAT ") == yes:
		return yes
	case memcachedCommand(b, false) == yes:
		return yes
	}
	return no
}

func memcachedWord(b []byte) int {
	if i := bytes.IndexByte(b, ' '); i >= 0 {
		return i
	}
	return len(b)
}

func memcachedBinary(b []byte, full bool) match {
	if len(b) < memcachedBinHead {
		return until(full)
	}
	// Opcode, key and extras within the total, data type 0.
	if b[1] > 0x48 || b[5] != 0 || b[4] > 20 || be.Uint16(b[2:]) > memcachedKeyMax ||
		be.Uint32(b[8:]) < uint32(be.Uint16(b[2:]))+uint32(b[4]) || be.Uint32(b[8:]) > 1<<27 {
		return no
	}
	// One whose extras and key are what the operation has, all of it there and
	// nothing or another one after it.
	n, key := memcachedBinHead+int(be.Uint32(b[8:])), int(be.Uint16(b[2:]))
	extras := memcachedExtras(b[1])
	if extras == int(b[4]) && key > 0 && len(b) >= n && (len(b) == n || b[n] == 0x80) && printable(b[memcachedBinHead+extras:memcachedBinHead+extras+key]) {
		return yes
	}
	return fits
}

// memcachedExtras is how many bytes of extras an operation with a key has; -1 for others.
func memcachedExtras(op byte) int {
	switch op {
	case 0x00, 0x04, 0x09, 0x0c, 0x0d, 0x0e, 0x0f, 0x14, 0x19, 0x1a, 0x20, 0x21, 0x22, 0x24: // get, delete, append and quiet ones, SASL
		return 0
	case 0x01, 0x02, 0x03, 0x11, 0x12, 0x13: // set, add, replace
		return 8
	case 0x05, 0x06, 0x15, 0x16: // increment, decrement
		return 20
	case 0x1c, 0x1d, 0x1e: // touch
		return 4
	}
	return -1
}

var memcachedReplies = []string{"VALUE ", "STORED\r\n", "NOT_STORED\r\n", "EXISTS\r\n", "NOT_FOUND\r\n", "DELETED\r\n", "TOUCHED\r\n", "OK\r\n", "END\r\n", "STAT ", "VERSION ",
	"ERROR\r\n", "CLIENT_ERROR ", "SERVER_ERROR ", "HD", "EN\r\n", "VA ", "NS", "EX", "NF", "MN\r\n", "ME "}

func memcachedReply(request, b []byte, full bool) match {
	if b[0] == 0x81 {
		if len(b) < memcachedBinHead {
			return until(full)
		}
		if b[5] != 0 || be.Uint32(b[8:]) < uint32(be.Uint16(b[2:]))+uint32(b[4]) ||
			len(request) >= memcachedBinHead && (request[0] != 0x80 || request[1] != b[1] || be.Uint32(request[12:]) != be.Uint32(b[12:])) {
			return no
		}
		return fits
	}
	if digit(b[0]) {
		// incr and decr answer with the bare number.
		if begins(request, "incr ") != yes && begins(request, "decr ") != yes {
			return no
		}
		_, n := number(b)
		if m := begins(b[n:], "\r\n"); m != yes {
			return m
		}
		return fits
	}
	best := no
	for _, s := range memcachedReplies {
		switch begins(b, s) {
		case yes:
			return fits
		case more:
			best = until(full)
		}
	}
	return best
}

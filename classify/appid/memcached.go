package appid

import (
	"bytes"

	"gatehouse/policy"
)

// memcached: doc/protocol.txt (text and meta commands, UDP frame header) and
// the BinaryProtocolRevamped page of its wiki. A text command needs a reply
// that memcached gives; the binary header is proof on the reply.
var memcachedProtocol = protocol{
	app: policy.AppMemcached, tcp: true,
	client:       func(v *view) match { return memcachedCommand(v.c, v.cFull) },
	server:       func(v *view) match { return memcachedReply(v.c, v.s, v.sFull) },
	clientFirsts: between('a', 'z').or(oneOf("\x80")), serverFirsts: between('A', 'Z').or(between('0', '9')).or(oneOf("\x81")),
}

var memcachedUDPProtocol = protocol{
	app: policy.AppMemcached, udp: true,
	client: func(v *view) match {
		if !memcachedFrame(v.c) {
			return no
		}
		return definite(memcachedCommand(v.c[memcachedFrameHead:], true))
	},
	server: func(v *view) match {
		if !memcachedFrame(v.s) {
			return no
		}
		var request []byte
		if len(v.c) > memcachedFrameHead {
			request = v.c[memcachedFrameHead:]
		}
		return definite(memcachedReply(request, v.s[memcachedFrameHead:], true))
	},
	clientFirsts: anyByte(), serverFirsts: anyByte(),
}

const (
	memcachedFrameHead = 8
	memcachedBinHead   = 24
	memcachedKeyMax    = 250
)

// definite turns the proof of a stream into what one datagram is worth.
func definite(m match) match {
	if m == yes {
		return fits
	}
	return m
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
	l, _, ok := line(b)
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
		return fits
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
	return fits
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

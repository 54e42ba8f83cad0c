package appid

import (
	"bytes"
	"encoding/binary"
)

var (
	be = binary.BigEndian
	le = binary.LittleEndian
)

// begins says whether b starts with s: yes, more (so far), or no.
func begins(b []byte, s string) match {
	n := min(len(b), len(s))
	if string(b[:n]) != s[:n] {
		return no
	}
	if n < len(s) {
		return more
	}
	return yes
}

// beginsFold is begins without regard to ASCII case; s is upper case.
func beginsFold(b []byte, s string) match {
	n := min(len(b), len(s))
	for i := range n {
		c := b[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != s[i] {
			return no
		}
	}
	if n < len(s) {
		return more
	}
	return yes
}

// word says whether the line b starts with one of words (upper case, any case
// on the wire) and then a space or the line's end.
func word(b []byte, words []string) match {
	best := no
	for _, w := range words {
		switch beginsFold(b, w) {
		case more:
			best = more
		case yes:
			if len(b) == len(w) {
				best = more
			} else if c := b[len(w)]; c == ' ' || c == '\r' || c == '\n' {
				return yes
			}
		}
	}
	return best
}

// line returns b's first line without its end, and what follows; ok is false
// while the line is incomplete.
func line(b []byte) (l, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil, false
	}
	l, rest = b[:i], b[i+1:]
	if i > 0 && l[i-1] == '\r' {
		l = l[:i-1]
	}
	return l, rest, true
}

// text reports whether all of b could stand in a line of text: no control
// bytes but tab; bytes above 127 are let pass.
func text(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f {
			return false
		}
	}
	return true
}

// printable reports whether all of b is ASCII that can be seen, or a space.
func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
func alpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// number reads decimal digits at b's start; n is how many there were.
func number(b []byte) (v, n int) {
	for n < len(b) && n < 9 && digit(b[n]) {
		v = v*10 + int(b[n]-'0')
		n++
	}
	return v, n
}

// until is more while bytes may still come, else no.
func until(full bool) match {
	if full {
		return no
	}
	return more
}

// startsTLS says whether b begins a TLS ClientHello in a record of its own.
func startsTLS(b []byte) match {
	for i, c := range b {
		ok := true
		switch i {
		case 0:
			ok = c == recordHandshake
		case 1:
			ok = c == 3
		case 2:
			ok = c <= 4
		case 3, 4:
		case 5:
			ok = c == helloClient
		default:
			return yes
		}
		if !ok {
			return no
		}
	}
	if len(b) >= 6 {
		return yes
	}
	return more
}

// contains is bytes.Contains for a constant.
func contains(b []byte, s string) bool {
	_, ok := after(b, s)
	return ok
}

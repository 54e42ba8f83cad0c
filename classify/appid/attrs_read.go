package appid

import (
	"bytes"
	"strconv"
)

// What the attributes of several protocols are read with.

// setNumber gives k a number in decimal.
func (a *Attrs) setNumber(k Attr, n int) {
	var b [20]byte
	a.Set(k, strconv.AppendInt(b[:0], int64(n), 10))
}

// setVersion gives AttrVersion numbers joined by dots.
func (a *Attrs) setVersion(parts ...int) {
	var b [48]byte
	out := b[:0]
	for i, n := range parts {
		if i > 0 {
			out = append(out, '.')
		}
		out = strconv.AppendInt(out, int64(n), 10)
	}
	a.Set(AttrVersion, out)
}

// setUTF16 gives k little-endian UTF-16 as Latin; what is not becomes '?'.
func (a *Attrs) setUTF16(k Attr, b []byte) {
	var out [128]byte
	n := 0
	for ; 2*n+1 < len(b) && n < len(out); n++ {
		if out[n] = b[2*n]; b[2*n+1] != 0 {
			out[n] = '?'
		}
	}
	a.Set(k, out[:n])
}

// setField gives k a header field's value; name is upper case.
func (a *Attrs) setField(k Attr, head []byte, name string) {
	a.Set(k, bytes.TrimSpace(header(head, name)))
}

// after is what follows the first s in b; ok is false if it is not there.
func after(b []byte, s string) (rest []byte, ok bool) {
	for len(b) >= len(s) {
		i := bytes.IndexByte(b[:len(b)-len(s)+1], s[0])
		if i < 0 {
			return nil, false
		}
		if string(b[i:i+len(s)]) == s {
			return b[i+len(s):], true
		}
		b = b[i+1:]
	}
	return nil, false
}

// upTo is b before the first of end's bytes, nil if none is there.
func upTo(b []byte, end string) []byte {
	for i, c := range b {
		for j := range len(end) {
			if c == end[j] {
				return b[:i]
			}
		}
	}
	return nil
}

// quoted is the value of a key in JSON that is a string.
func quoted(b []byte, key string) []byte {
	rest, ok := after(b, key)
	if !ok {
		return nil
	}
	rest = bytes.TrimLeft(rest, ": ")
	if len(rest) == 0 || rest[0] != '"' {
		return nil
	}
	return upTo(rest[1:], `"`)
}

// short is a string after one byte of length, nil where it is cut.
func short(b []byte) []byte {
	if len(b) < 1 || len(b) < 1+int(b[0]) {
		return nil
	}
	return b[1 : 1+int(b[0])]
}

// short16 is a string after two bytes of length, nil where it is cut.
func short16(b []byte) []byte {
	if len(b) < 2 || len(b) < 2+int(be.Uint16(b)) {
		return nil
	}
	return b[2 : 2+int(be.Uint16(b))]
}

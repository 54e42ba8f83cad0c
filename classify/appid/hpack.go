package appid

import (
	"golang.org/x/net/http2/hpack"

	"gatehouse/policy"
)

// HPACK: RFC 7541. Decoded is what names an application: a few fields of the first
// header blocks. There is no dynamic table: its entries stand for fields that
// an earlier block carried, and that block was read.

// webField is a header field that is kept.
type webField uint8

const (
	fieldNone webField = iota
	fieldMethod
	fieldPath
	fieldAuthority
	fieldStatus
	fieldContentType
	fieldAgent
	fieldServer
	fieldCount
)

// headerBlock is what a header block says. Nothing of it is on the heap.
type headerBlock struct {
	buf  [768]byte
	used int
	at   [fieldCount]uint16
	size [fieldCount]uint16
	api  policy.App // that a field's name gives away
}

func (h *headerBlock) get(f webField) []byte { return h.buf[h.at[f]:][:h.size[f]] }

// staticFields are the entries of the static table (appendix A) that matter, with
// their value where they have one.
var staticFields = [62]struct {
	field webField
	value string
}{
	1: {fieldAuthority, ""}, 2: {fieldMethod, "GET"}, 3: {fieldMethod, "POST"}, 4: {fieldPath, "/"}, 5: {fieldPath, "/index.html"},
	8: {fieldStatus, "200"}, 9: {fieldStatus, "204"}, 10: {fieldStatus, "206"}, 11: {fieldStatus, "304"}, 12: {fieldStatus, "400"}, 13: {fieldStatus, "404"}, 14: {fieldStatus, "500"},
	31: {fieldContentType, ""}, 38: {fieldAuthority, ""}, 54: {fieldServer, ""}, 58: {fieldAgent, ""},
}

// namedFields are those whose names may be written out.
var namedFields = []struct {
	name  string
	field webField
}{
	{":method", fieldMethod}, {":path", fieldPath}, {":authority", fieldAuthority}, {":status", fieldStatus},
	{"content-type", fieldContentType}, {"user-agent", fieldAgent}, {"server", fieldServer}, {"host", fieldAuthority},
}

// decode reads a whole header block; false where it is none.
func (h *headerBlock) decode(b []byte) bool {
	for len(b) > 0 {
		c := b[0]
		index, n := 0, 0
		switch {
		case c&0x80 != 0: // indexed field
			if index, n = hpackInt(b, 7); n == 0 || index == 0 {
				return false
			}
			if index < len(staticFields) {
				f := &staticFields[index]
				h.put(f.field, f.value)
			}
			b = b[n:]
			continue
		case c&0xe0 == 0x20: // size of the dynamic table
			if _, n = hpackInt(b, 5); n == 0 {
				return false
			}
			b = b[n:]
			continue
		case c&0xc0 == 0x40:
			index, n = hpackInt(b, 6)
		default:
			index, n = hpackInt(b, 4)
		}
		if n == 0 {
			return false
		}
		b = b[n:]
		field := fieldNone
		switch {
		case index == 0:
			var name [48]byte
			k, rest, ok := hpackString(b, name[:])
			if !ok || k == 0 {
				return false
			}
			b, field = rest, h.named(name[:k])
		case index < len(staticFields):
			field = staticFields[index].field
		}
		k, rest, ok := hpackString(b, h.buf[h.used:])
		if !ok {
			return false
		}
		b = rest
		if field != fieldNone && h.size[field] == 0 {
			h.at[field], h.size[field] = uint16(h.used), uint16(k)
			h.used += k
		}
	}
	return true
}

func (h *headerBlock) put(f webField, value string) {
	if f == fieldNone || h.size[f] != 0 {
		return
	}
	h.at[f], h.size[f] = uint16(h.used), uint16(copy(h.buf[h.used:], value))
	h.used += int(h.size[f])
}

func (h *headerBlock) named(name []byte) webField {
	if api := headerAPI(name); api != policy.AppNone {
		h.api = api
	}
	for i := range namedFields {
		if string(name) == namedFields[i].name {
			return namedFields[i].field
		}
	}
	return fieldNone
}

// hpackInt reads an integer with a prefix of that many bits (section 5.1); n is
// 0 where it is cut or absurd.
func hpackInt(b []byte, prefix uint) (v, n int) {
	most := 1<<prefix - 1
	if v = int(b[0]) & most; v < most {
		return v, 1
	}
	for i, c := range b[1:min(len(b), 4)] {
		v += int(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 2
		}
	}
	return 0, 0
}

// hpackString reads a string literal (section 5.2) into dst, as much as there
// is room for.
func hpackString(b, dst []byte) (n int, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	size, head := hpackInt(b, 7)
	if head == 0 || size > len(b)-head {
		return 0, nil, false
	}
	raw := b[head : head+size]
	if b[0]&0x80 == 0 {
		return copy(dst, raw), b[head+size:], true
	}
	n, ok = huffman.decode(dst, raw)
	return n, b[head+size:], ok
}

// huffmanTable decodes the canonical code of appendix B: of each length the first
// code, how many there are, and where its symbols stand.
type huffmanTable struct {
	first, count, at [huffmanLongest + 1]uint32
	symbols          [256]byte
}

const huffmanLongest = 30

var huffman = makeHuffman()

// makeHuffman learns the code from the library's encoder.
func makeHuffman() (t huffmanTable) {
	var code [256]uint32
	var length [256]int
	for s := range 256 {
		b := string([]byte{byte(s)})
		eight := b + b + b + b + b + b + b + b
		length[s] = int(hpack.HuffmanEncodeLength(eight)) // 8 symbols: as many bytes as one has bits
		enc := append(hpack.AppendHuffmanString(nil, b), 0, 0, 0, 0)
		code[s] = be.Uint32(enc) >> (32 - length[s])
	}
	next := uint32(0)
	for l := 1; l <= huffmanLongest; l++ {
		t.at[l], t.first[l] = next, 1<<32-1
		for s := range 256 {
			if length[s] == l {
				t.symbols[next] = byte(s)
				t.first[l] = min(t.first[l], code[s])
				t.count[l]++
				next++
			}
		}
	}
	return t
}

// decode fails on codes that there are not; padding is the beginning of the
// longest (section 5.2).
func (t *huffmanTable) decode(dst, src []byte) (n int, ok bool) {
	code, bits := uint32(0), 0
	for _, c := range src {
		for i := 7; i >= 0; i-- {
			code = code<<1 | uint32(c>>i&1)
			bits++
			if k := code - t.first[bits]; code >= t.first[bits] && k < t.count[bits] {
				if n < len(dst) {
					dst[n] = t.symbols[t.at[bits]+k]
					n++
				}
				code, bits = 0, 0
			} else if bits == huffmanLongest {
				return n, false
			}
		}
	}
	return n, bits < 8 && code == 1<<bits-1
}

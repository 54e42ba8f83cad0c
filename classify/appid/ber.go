package appid

// tlv reads the head of one BER element (X.690 section 8.1): a tag of one byte
// and a definite length. ok is false for other forms; short says that the head
// is cut.
func tlv(b []byte) (tag byte, head, size int, ok, short bool) {
	if len(b) < 2 {
		return 0, 0, 0, true, true
	}
	tag, n := b[0], int(b[1])
	if n < 0x80 {
		return tag, 2, n, true, false
	}
	n &= 0x7f
	if n == 0 || n > 4 {
		return 0, 0, 0, false, false
	}
	if len(b) < 2+n {
		return tag, 0, 0, true, true
	}
	for _, c := range b[2 : 2+n] {
		size = size<<8 | int(c)
	}
	return tag, 2 + n, size, size <= 1<<26, false
}

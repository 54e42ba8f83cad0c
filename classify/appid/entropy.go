package appid

import "math"

// entropy is how many bits of information a byte of b carries, from 0 to 8, as
// far as the frequencies of its bytes tell. Few bytes cannot carry much: n of
// them at most log2 n. No more than clientKeep are measured.
func entropy(b []byte) float64 {
	b = b[:min(len(b), clientKeep)]
	var count [256]uint16
	for _, c := range b {
		count[c]++
	}
	sum := 0.0
	for _, n := range count {
		sum += timesLog2[n]
	}
	if len(b) == 0 {
		return 0
	}
	return (timesLog2[len(b)] - sum) / float64(len(b))
}

// timesLog2 is n log2 n, for all that is kept of a direction.
var timesLog2 = func() (t [clientKeep + 1]float64) {
	for n := 2; n < len(t); n++ {
		t[n] = float64(n) * math.Log2(float64(n))
	}
	return t
}()

// looksEncrypted reports whether b is as even as a cipher's or a compressor's
// output. Of n random bytes the expected shortfall from 8 bits is about 184/n;
// text in base64 stays below 6 bits.
func looksEncrypted(b []byte) bool {
	const enough = 256
	return len(b) >= enough && entropy(b) > 8-370/float64(len(b))
}

// noteEntropy shows the bits a byte of what the client said, or the server if it
// said more, carries.
func (a *Attrs) noteEntropy(c, s []byte) {
	b := c
	if len(s) > len(c) {
		b = s
	}
	if len(b) < 32 {
		return
	}
	tenths := int(entropy(b)*10 + 0.5)
	text := [3]byte{'0' + byte(tenths/10), '.', '0' + byte(tenths%10)}
	a.Set(AttrEntropy, text[:])
}

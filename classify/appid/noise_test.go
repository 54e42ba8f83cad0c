package appid

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/base64"
	"math/rand/v2"
	"testing"

	"gatehouse/policy"
)

// noise fills flows with bytes that are no protocol, of one kind each.
type noise struct {
	name string
	fill func(rng *rand.Rand, b []byte)
}

func noises() []noise {
	random := func(rng *rand.Rand, b []byte) {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}
	// Compressing afresh for each flow would be slow: there are a few beginnings, and
	// the middle is as even as random bytes.
	var heads [][]byte
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 200 {
		var z bytes.Buffer
		text := bytes.Repeat([]byte(base64.StdEncoding.EncodeToString([]byte{byte(rng.Uint32()), byte(rng.Uint32()), byte(i)})), 200)
		if i%2 == 0 {
			w, _ := flate.NewWriter(&z, 1+i%9)
			w.Write(text[:rng.IntN(len(text))])
			w.Close()
		} else {
			w, _ := gzip.NewWriterLevel(&z, 1+i%9)
			w.Write(text[:rng.IntN(len(text))])
			w.Close()
		}
		heads = append(heads, z.Bytes())
	}
	return []noise{
		{"random", random},
		{"base64", func(rng *rand.Rand, b []byte) {
			raw := make([]byte, len(b))
			random(rng, raw)
			base64.StdEncoding.Encode(b, raw[:len(b)/4*3])
		}},
		{"zeros", func(rng *rand.Rand, b []byte) { clear(b) }},
		{"small numbers", func(rng *rand.Rand, b []byte) { // as binary formats have
			for i := range b {
				b[i] = byte(rng.Uint32N(4))
			}
		}},
		{"printable", func(rng *rand.Rand, b []byte) {
			for i := range b {
				b[i] = byte(' ' + rng.Uint32N(95))
			}
		}},
		{"compressed", func(rng *rand.Rand, b []byte) {
			random(rng, b)
			copy(b, heads[rng.IntN(len(heads))])
		}},
	}
}

// play sends turns of noise until the flow is decided, and returns the outcome.
func (n *noise) play(s *State, rng *rand.Rand, buf []byte) Outcome {
	var o Outcome
	seq := [2]uint32{}
	for turn := 0; turn < 8 && !o.Decided; turn++ {
		b := buf[:16+rng.IntN(len(buf)-16)]
		n.fill(rng, b)
		d := Dir(turn % 2)
		o = testEngine.Feed(s, d, seq[d], b)
		seq[d] += uint32(len(b))
	}
	return testEngine.Finish(s)
}

// TestNoise: a signature that is met by chance would let anything pass as what it
// names. One in 10,000 flows is too many, of each kind of noise by itself, over
// TCP, over UDP and mid-stream.
func TestNoise(t *testing.T) {
	flows := 100_000
	if testing.Short() || raceEnabled {
		flows = 10_000
	}
	for _, n := range noises() {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(1, 2))
			named, likely := map[policy.App]int{}, 0
			buf := make([]byte, 256)
			var s State
			for i := range flows {
				proto := policy.ProtoTCP
				if i%2 == 1 {
					proto = policy.ProtoUDP
				}
				s.Reset(proto, uint16(rng.Uint32()), i%3 == 0)
				o := n.play(&s, rng, buf)
				if o.Spoken.App > policy.AppUnknown {
					named[o.Spoken.App]++
				}
				if o.Likely != policy.AppNone {
					likely++
				}
			}
			for app, n := range named {
				if float64(n) >= 1e-4*float64(flows) {
					t.Errorf("%v: %d of %d flows", app, n, flows)
				}
			}
			if float64(likely) >= 1e-4*float64(flows) {
				t.Errorf("%d of %d flows behave like something", likely, flows)
			}
		})
	}
}

// TestCostOfTheUnknown counts calls of signatures, which is what a flow costs:
// one that nothing fits takes at most twice what one with a name takes.
func TestCostOfTheUnknown(t *testing.T) {
	known, flows := 0, 0
	for _, sm := range samples() {
		k := newTalk(&sm)
		for i, b := range sm.turns {
			k.turn(sm.dir(i), b)
		}
		known += int(k.s.asked)
		flows++
	}
	average := float64(known) / float64(flows)
	const each = 2000
	rng := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 256)
	var s State
	for _, n := range noises() {
		asked := 0
		for i := range each {
			s.Reset([...]policy.Proto{policy.ProtoTCP, policy.ProtoUDP}[i%2], uint16(rng.Uint32()), false)
			n.play(&s, rng, buf)
			asked += int(s.asked)
		}
		if got := float64(asked) / each; got > 2*average {
			t.Errorf("%s: %.1f calls a flow, of known ones %.1f", n.name, got, average)
		} else {
			t.Logf("%s: %.1f calls a flow, of known ones %.1f", n.name, got, average)
		}
	}
}

// BenchmarkUnknown is what a flow of each kind of noise costs until it is given up;
// compare BenchmarkFeed.
func BenchmarkUnknown(b *testing.B) {
	for _, n := range noises() {
		b.Run(n.name, func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			const pool = 256
			var turns [pool][256]byte
			for i := range turns {
				n.fill(rng, turns[i][:])
			}
			var s State
			for i := 0; b.Loop(); i++ {
				s.Reset(policy.ProtoTCP, 80, false)
				var seq [2]uint32
				for turn := range 8 {
					d := Dir(turn % 2)
					o := testEngine.Feed(&s, d, seq[d], turns[(i+turn)%pool][:])
					if seq[d] += 256; o.Decided {
						break
					}
				}
			}
		})
	}
}

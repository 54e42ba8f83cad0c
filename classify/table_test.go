package classify

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"unsafe"
)

func numbered(n uint64) (k FlowKey) {
	k.AddrA[10], k.AddrA[11] = 0xff, 0xff
	binary.BigEndian.PutUint32(k.AddrA[12:], uint32(n>>16))
	k.AddrB, k.PortB, k.PortA, k.Proto = k.AddrA, 443, uint16(n), 6
	k.AddrB[15] ^= 1
	return k
}

func TestBucketIsACacheLine(t *testing.T) {
	if n := unsafe.Sizeof(bucket{}); n != 64 {
		t.Errorf("a bucket has %d bytes", n)
	}
	// With the key, what finds a flow: at most 64 bytes.
	const n = 1 << 20
	if per := 40 + float64(len(newFlowTable(n).buckets)*64)/n; per > 64 {
		t.Errorf("%.1f bytes a flow", per)
	}
}

// TestTableAgainstMap: every step of a random sequence leaves the table as a
// plain map has it.
func TestTableAgainstMap(t *testing.T) {
	for _, size := range []int{1, 7, 300, 5000} {
		rnd := rand.New(rand.NewPCG(uint64(size), 1))
		table, plain := newFlowTable(size), map[FlowKey]*Flow{}
		for step := range 40_000 {
			k := numbered(uint64(rnd.IntN(2 * size)))
			f := table.find(&k)
			if f != plain[k] {
				t.Fatalf("size %d, step %d: found %p, want %p", size, step, f, plain[k])
			}
			switch {
			case f != nil && rnd.IntN(2) == 0:
				table.remove(f)
				delete(plain, k)
			case f == nil:
				sum := table.sum(&k)
				full := len(plain) == size || table.buckets[table.home(sum)].len() == bucketSize && table.buckets[table.other(sum)].len() == bucketSize
				f = table.add(&k)
				if (f == nil) != full {
					t.Fatalf("size %d, step %d: %d flows, added %p", size, step, len(plain), f)
				}
				if f != nil {
					f.State = Opening
					plain[k] = f
				}
			}
			if table.live != len(plain) {
				t.Fatalf("size %d, step %d: %d live, want %d", size, step, table.live, len(plain))
			}
		}
		for k, f := range plain {
			if table.find(&k) != f {
				t.Errorf("size %d: a flow was lost", size)
			}
			table.remove(f)
		}
		for i := range table.buckets {
			if b := &table.buckets[i]; b.len() != 0 || b.spilled != 0 {
				t.Fatalf("size %d: an empty table has bucket %+v", size, *b)
			}
		}
	}
}

// TestTableFills: it takes as many flows as it has room for.
func TestTableFills(t *testing.T) {
	for range 20 {
		const n = 1 << 14
		table := newFlowTable(n)
		for i := range uint64(n) {
			k := numbered(i * 7919)
			if table.add(&k) == nil {
				t.Fatalf("flow %d of %d was refused", i, n)
			}
		}
		k := numbered(1 << 40)
		if table.add(&k) != nil {
			t.Error("one more was not refused")
		}
	}
}

// TestChosenKeys: keys that fill one bucket of a table are spread over another,
// so that nobody outside can choose them.
func TestChosenKeys(t *testing.T) {
	const n = 4096
	known, other := newFlowTable(n), newFlowTable(n)
	var chosen []FlowKey
	for i := uint64(0); len(chosen) < 200; i++ {
		if k := numbered(i); known.home(known.sum(&k)) == 1 {
			chosen = append(chosen, k)
		}
	}
	refused := uint32(0)
	for i := range chosen {
		if known.add(&chosen[i]) == nil {
			refused++
		}
		if other.add(&chosen[i]) == nil {
			t.Fatalf("key %d was refused under another seed", i)
		}
	}
	if known.buckets[1].spilled+refused < uint32(len(chosen)-bucketSize) {
		t.Error("the chosen keys did not meet in one bucket")
	}
	for i := range other.buckets {
		if b := &other.buckets[i]; b.len() == bucketSize {
			t.Errorf("under another seed they filled bucket %d", i)
		}
	}
}

// TestUntouched: memory is used as flows come, not before.
func TestUntouched(t *testing.T) {
	table := newFlowTable(1000)
	for i := range uint64(10) {
		k := numbered(i)
		table.add(&k)
	}
	k := numbered(3)
	table.remove(table.find(&k))
	k = numbered(99)
	table.add(&k)
	if len(table.used()) != 10 {
		t.Errorf("%d places were used for 10 flows", len(table.used()))
	}
}

// TestFlowIsCacheLines: what a lookup reads of a flow lies in one cache line.
func TestFlowIsCacheLines(t *testing.T) {
	var f Flow
	if n := unsafe.Sizeof(f); n%64 != 0 {
		t.Errorf("a flow has %d bytes: fill them, or save some", n)
	}
	if end := unsafe.Offsetof(f.app) + unsafe.Sizeof(f.app); end > 64 {
		t.Errorf("the first line ends at byte %d", end)
	}
	if table := newFlowTable(1 << 12); uintptr(unsafe.Pointer(&table.slab[0]))%64 != 0 || uintptr(unsafe.Pointer(&table.buckets[0]))%64 != 0 {
		t.Error("the table does not begin at a cache line")
	}
}

// TestFindAll is find for each.
func TestFindAll(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	for _, size := range []int{1, 100, 3000} {
		table := newFlowTable(size)
		for i := range uint64(size) {
			k := numbered(i)
			table.add(&k)
		}
		for _, n := range []int{0, 1, lookahead, lookahead + 1, 100} {
			keys, out := make([]FlowKey, n), make([]*Flow, n)
			for i := range keys {
				keys[i] = numbered(uint64(rnd.IntN(2 * size)))
			}
			table.findAll(keys, out)
			for i := range keys {
				if want := table.find(&keys[i]); out[i] != want {
					t.Fatalf("%d of %d keys in %d flows: %p, want %p", i, n, size, out[i], want)
				}
			}
		}
	}
}

// TestKeysDifferInAnyBit: flows whose keys differ in one bit, whatever the others
// are, are two flows.
func TestKeysDifferInAnyBit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		var k FlowKey
		for i := range k.words() {
			k.words()[i] = r.Uint64() | r.Uint64()
		}
		for bit := range 64 * len(k.words()) {
			o := k
			if o.words()[bit/64] ^= 1 << (bit % 64); k.is(&o) || !k.is(&k) {
				t.Fatalf("bit %d of %+v does not count", bit, k)
			}
		}
	}
}

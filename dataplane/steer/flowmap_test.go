package steer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

func testFlowMap(t testing.TB, entries uint32) *FlowMap {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	return openTestMap(t, newTestMaps(t, entries), int(entries))
}

func newTestMaps(t testing.TB, entries uint32) flowMaps {
	t.Helper()
	spec, err := loadSteer()
	must(t, err)
	v4, v6 := tableSizes(entries)
	spec.Maps["flows"].MaxEntries, spec.Maps["flows6"].MaxEntries = v4, v6
	var maps [3]*ebpf.Map
	for i, name := range []string{"flows", "flows6", "ends"} {
		maps[i], err = ebpf.NewMap(spec.Maps[name])
		must(t, err)
		t.Cleanup(func() { maps[i].Close() })
	}
	return flowMaps{maps[0], maps[1], maps[2]}
}

func openTestMap(t testing.TB, m flowMaps, limit int) *FlowMap {
	t.Helper()
	f, err := openFlowMap(m, [3]uint64{11, 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93}, limit)
	must(t, err)
	t.Cleanup(func() { must(t, f.close()) })
	return f
}

func numbered(n int) dataplane.FlowEntry {
	return dataplane.FlowEntry{
		Key:     classify.FlowKey{AddrA: [16]byte{10: 0xff, 11: 0xff, 12: 10}, AddrB: [16]byte{10: 0xff, 11: 0xff, 12: 11}, PortA: uint16(n), PortB: uint16(n >> 16), Zone: 7, Proto: policy.ProtoTCP},
		Epoch:   1,
		Verdict: policy.Allow,
	}
}

func all(t *testing.T, f *FlowMap, slice int) map[classify.FlowKey]dataplane.FlowEntry {
	t.Helper()
	got := make(map[classify.FlowKey]dataplane.FlowEntry)
	buf := make([]dataplane.FlowEntry, slice)
	lines := make(map[uint32]bool)
	for {
		n, end, err := f.Scan(buf)
		must(t, err)
		for _, e := range buf[:n] {
			if lines[e.Line] || int(e.Line) >= (len(f.v4.used)+len(f.v6.used))*4 || f.Has(&e.Key) == e.Stays {
				t.Fatalf("line %d of %+v", e.Line, e.Key)
			}
			lines[e.Line], e.Line = true, 0
			got[e.Key] = e
		}
		if end {
			return got
		}
	}
}

func TestFlowEntryRoundTrip(t *testing.T) {
	f := testFlowMap(t, 64)
	e := dataplane.FlowEntry{
		Key:       numbered(5).Key,
		Epoch:     9,
		Ifindex:   [2]uint32{11, 12},
		MAC:       [2]policy.MAC{{1, 2, 3, 4, 5, 6}, {7, 8, 9, 10, 11, 12}},
		Initiator: 1,
		Verdict:   policy.Allow,
		Peer:      true,
		App:       policy.AppHTTP,
		Sub:       policy.AppDocker,
		Inner:     policy.AppTLS,
		ALPN:      policy.AppCount - 1,
		Closed:    7,
		Packets:   [2]uint32{13, 14},
		Bytes:     [2]uint64{15, 16},
	}
	denied := numbered(6)
	denied.Verdict, denied.Reason = policy.Drop, policy.ReasonApp
	undecided := numbered(7)
	undecided.Verdict = policy.Undecided
	opening := numbered(8)
	opening.Verdict, opening.Opening, opening.Awaited = policy.Undecided, true, 0xfedcba98
	stays := numbered(9)
	stays.Verdict, stays.Peer, stays.Stays, stays.Old = policy.Allow, true, true, true
	must(t, f.Put([]dataplane.FlowEntry{e, denied, undecided, opening, stays}))
	got := all(t, f, 1)
	if len(got) != 5 || got[stays.Key] != stays || got[opening.Key] != opening || got[undecided.Key] != undecided || got[e.Key] != e || got[denied.Key] != denied {
		t.Errorf("got %+v", got)
	}
	for _, seconds := range []uint32{0, 1, 2, 1000, 100_000_000} {
		if s := ticksToSeconds(secondsToTicks(seconds)); s < seconds || s > seconds+1 {
			t.Errorf("%d seconds come back as %d", seconds, s)
		}
	}
}

func TestFlowMapScanAndDelete(t *testing.T) {
	const n = 5000
	f := testFlowMap(t, 8192)
	entries := make([]dataplane.FlowEntry, n)
	for i := range entries {
		entries[i] = numbered(i)
	}
	must(t, f.Put(entries))
	must(t, f.Put(entries[:100])) // again
	for _, slice := range []int{1, 7, 1024, 10000} {
		if got := all(t, f, slice); len(got) != n {
			t.Errorf("scan by %d: %d entries, want %d", slice, len(got), n)
		}
	}
	var keys []classify.FlowKey
	for i := 0; i < n; i += 2 {
		keys = append(keys, numbered(i).Key, numbered(n+i).Key) // every other is not there
	}
	must(t, f.Delete(keys))
	if got := all(t, f, 512); len(got) != n/2 {
		t.Errorf("%d entries left, want %d", len(got), n/2)
	}
	must(t, f.Delete(nil))
	must(t, f.Put(nil))
}

func TestFlowMapFull(t *testing.T) {
	f := testFlowMap(t, 1000)
	entries := make([]dataplane.FlowEntry, 1500)
	for i := range entries {
		entries[i] = numbered(i)
	}
	err := f.Put(entries)
	if !errors.Is(err, ErrFull) {
		t.Fatalf("putting 1500 into 1000: %v", err)
	}
	left := len(all(t, f, 4096))
	if want := fmt.Sprintf("%v: %d entries refused", ErrFull, len(entries)-left); err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	changed := entries[0]
	changed.Epoch = 2
	must(t, f.Put([]dataplane.FlowEntry{changed}))
	if got := all(t, f, 4096)[changed.Key]; got.Epoch != 2 {
		t.Errorf("an entry of a full map was not replaced: %+v", got)
	}
}

func TestFlowMapPurge(t *testing.T) {
	f := testFlowMap(t, 4096)
	var entries []dataplane.FlowEntry
	for i := range 3000 {
		e := numbered(i)
		e.Ifindex = [2]uint32{uint32(i % 3), uint32(10 + i%5)}
		e.Key.Zone = uint16(7 + i%2)
		entries = append(entries, e)
	}
	must(t, f.Put(entries))
	must(t, f.purge(7, 1, 12))
	want := 0
	for _, e := range entries {
		if e.Key.Zone != 7 || e.Ifindex[0] != 1 && e.Ifindex[1] != 12 {
			want++
		}
	}
	got := all(t, f, 1000)
	if len(got) != want {
		t.Errorf("%d entries left, want %d", len(got), want)
	}
	for _, e := range got {
		if e.Key.Zone == 7 && (e.Ifindex[0] == 1 || e.Ifindex[1] == 12) {
			t.Errorf("left: %+v", e)
		}
	}
}

func TestPutAndAnswerDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := testFlowMap(t, 64)
	entries := []dataplane.FlowEntry{numbered(1), numbered(2), numbered(3)}
	entries[2].Verdict, entries[2].Opening = policy.Undecided, true
	if n := testing.AllocsPerRun(3, func() {
		if err := f.Put(entries); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := f.Answer(&entries[2].Key); ok {
			t.Fatal("answered")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// numbered6 is numbered in IPv6.
func numbered6(n int) dataplane.FlowEntry {
	e := numbered(n)
	e.Key.AddrA, e.Key.AddrB = [16]byte{0x20, 1, 15: 1}, [16]byte{0x20, 1, 14: byte(n >> 8), 15: byte(n)}
	return e
}

// TestFlowMapAgainstMap: any sequence of puts, deletions and purges leaves what
// it leaves in a plain map, and another FlowMap on the same memory finds it.
func TestFlowMapAgainstMap(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	const limit = 512
	maps := newTestMaps(t, limit)
	f := openTestMap(t, maps, limit)
	var now time.Duration
	f.now = func() time.Duration { return now }
	want := make(map[classify.FlowKey]dataplane.FlowEntry)
	rnd := rand.New(rand.NewPCG(3, 4))
	for step := range 60000 {
		n := rnd.IntN(400)
		e := numbered(n)
		if n%3 == 0 {
			e = numbered6(n)
		}
		e.Ifindex[1], e.MAC[0] = uint32(n%7), policy.MAC{5: byte(n % 5)}
		e.Packets[0] = uint32(step)
		switch rnd.IntN(40) {
		case 0:
			must(t, f.purge(7, 3))
			for k, e := range want {
				if e.Ifindex[0] == 3 || e.Ifindex[1] == 3 {
					delete(want, k)
				}
			}
		case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15:
			must(t, f.Delete([]classify.FlowKey{e.Key}))
			delete(want, e.Key)
		default:
			must(t, f.Put([]dataplane.FlowEntry{e}))
			want[e.Key] = e
		}
		now += time.Duration(rnd.IntN(int(restFor / 20)))
		if step%5000 == 4999 {
			must(t, f.close())
			f = openTestMap(t, maps, limit)
			f.now = func() time.Duration { return now }
		}
		if step%997 == 0 || step%5000 == 4999 {
			if got := all(t, f, 100); !reflect.DeepEqual(got, want) {
				t.Fatalf("step %d: %d entries, want %d", step, len(got), len(want))
			}
		}
	}
}

// TestFlowMapRests: a place that was given up is not used again while a program
// may still hold it, nor is the number of an end.
func TestFlowMapRests(t *testing.T) {
	f := testFlowMap(t, 64)
	var now time.Duration
	f.now = func() time.Duration { return now }
	e := numbered(1)
	e.MAC[0] = policy.MAC{1}
	must(t, f.Put([]dataplane.FlowEntry{e}))
	w := wordsOf(&e.Key)
	line, _ := f.find(&w)
	number := line.Ends[0]
	must(t, f.Delete([]classify.FlowKey{e.Key}))
	e.MAC[0] = policy.MAC{2}
	now = restFor - 1
	must(t, f.Put([]dataplane.FlowEntry{e}))
	again, _ := f.find(&w)
	if again == line || again.Ends[0] == number {
		t.Errorf("used again after %v: line %v, number %v", now, again == line, again.Ends[0] == number)
	}
	must(t, f.Delete([]classify.FlowKey{e.Key}))
	now += restFor
	e.MAC[0] = policy.MAC{3}
	must(t, f.Put([]dataplane.FlowEntry{e}))
	if third, _ := f.find(&w); third != line {
		t.Error("the place did not become free")
	}
}

// TestFlowMapEndsRunOut: more ends than numbers are refused, and nothing that is
// there changes.
func TestFlowMapEndsRunOut(t *testing.T) {
	f := testFlowMap(t, 131072)
	entries := make([]dataplane.FlowEntry, 70000)
	for i := range entries {
		entries[i] = numbered(i)
		entries[i].MAC[1] = policy.MAC{byte(i), byte(i >> 8), byte(i >> 16)}
	}
	err := f.Put(entries)
	if !errors.Is(err, ErrFull) {
		t.Fatalf("70,000 ends: %v", err)
	}
	got := all(t, f, 4096)
	if len(got) < 65000 || len(got) > 65536 {
		t.Errorf("%d entries", len(got))
	}
	for k, e := range got {
		if n := int(k.PortA) | int(k.PortB)<<16; e.MAC[1] != entries[n].MAC[1] {
			t.Fatalf("flow %d has %v", n, e.MAC[1])
		}
	}
	// No number is lost: with the flows gone all can be had again.
	now := time.Duration(0)
	f.now = func() time.Duration { return now }
	for _, e := range entries {
		must(t, f.Delete([]classify.FlowKey{e.Key}))
	}
	now += time.Hour
	must(t, f.Put(entries[:1]))
	if free := len(f.ends.free) + len(f.ends.byEnd); free != 65536 || len(f.ends.byEnd) != 1 {
		t.Errorf("%d ends are free, %d in use", len(f.ends.free), len(f.ends.byEnd))
	}
}

// TestFlowMapHalfFull: as many flows as it is made for all find a place.
func TestFlowMapHalfFull(t *testing.T) {
	for _, of := range []struct {
		name string
		flow func(int) dataplane.FlowEntry
		n    int
	}{{"IPv4", numbered, 65536}, {"IPv6", numbered6, 32768}} {
		f := testFlowMap(t, 65536)
		refused := 0
		for i := range of.n {
			if err := f.Put([]dataplane.FlowEntry{of.flow(i)}); err != nil {
				refused++
			}
		}
		if refused > of.n/1000 {
			t.Errorf("%s: %d of %d flows found no place", of.name, refused, of.n)
		}
	}
}

// BenchmarkPut inserts flows between two endpoints as a worker does: those of a
// batch at once.
func BenchmarkPut(b *testing.B) {
	const flows, batch = 1 << 17, 64
	f := testFlowMap(b, flows)
	entries, keys := make([]dataplane.FlowEntry, batch), make([]classify.FlowKey, 0, flows)
	n := 0
	for b.Loop() {
		for i := range entries {
			entries[i] = numbered(n)
			entries[i].Ifindex, entries[i].MAC = [2]uint32{3, 5}, [2]policy.MAC{{2, 1}, {2, 2}}
			keys = append(keys, entries[i].Key)
			n++
		}
		if err := f.Put(entries); err != nil {
			b.Fatal(err)
		}
		if len(keys) < flows {
			continue
		}
		b.StopTimer()
		if err := f.Delete(keys); err != nil {
			b.Fatal(err)
		}
		keys = keys[:0]
		time.Sleep(restFor) // until the lines are free again
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/flow")
}

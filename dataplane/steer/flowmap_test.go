package steer

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

func testFlowMap(t *testing.T, entries uint32) *FlowMap {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	spec, err := loadSteer()
	must(t, err)
	spec.Maps["flows"].MaxEntries = entries
	m, err := ebpf.NewMap(spec.Maps["flows"])
	must(t, err)
	t.Cleanup(func() { m.Close() })
	return newFlowMap(m)
}

func numbered(n int) dataplane.FlowEntry {
	return dataplane.FlowEntry{
		Key:     classify.FlowKey{AddrA: [16]byte{10: 0xff, 11: 0xff, 12: 10}, PortA: uint16(n), PortB: uint16(n >> 16), Zone: 7, Proto: policy.ProtoTCP},
		Epoch:   1,
		Verdict: policy.Allow,
	}
}

func all(t *testing.T, f *FlowMap, slice int) map[classify.FlowKey]dataplane.FlowEntry {
	t.Helper()
	got := make(map[classify.FlowKey]dataplane.FlowEntry)
	buf := make([]dataplane.FlowEntry, slice)
	for {
		n, end, err := f.Scan(buf)
		must(t, err)
		for _, e := range buf[:n] {
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
	must(t, f.Put([]dataplane.FlowEntry{e, denied, undecided}))
	got := all(t, f, 1)
	if len(got) != 3 || got[undecided.Key] != undecided || got[e.Key] != e || got[denied.Key] != denied {
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

func TestPutDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := testFlowMap(t, 64)
	entries := []dataplane.FlowEntry{numbered(1), numbered(2)}
	if n := testing.AllocsPerRun(100, func() {
		if err := f.Put(entries); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

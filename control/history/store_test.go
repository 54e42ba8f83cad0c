package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"gatehouse/policy"
)

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }

func (c *clock) step(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	return c.t
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func describe(r *Record) {
	r.From, r.To, r.Port = Party{Name: "shop/web", Model: "nginx@1"}, Party{Name: "shop/db"}, r.DstPort
}

func openAt(t testing.TB, path string, c *clock, edit ...func(*Config)) *Store {
	t.Helper()
	cfg := Config{Path: path, Describe: describe, Log: slog.New(slog.DiscardHandler)}
	for _, e := range edit {
		e(&cfg)
	}
	s := Open(cfg)
	s.now = c.now
	s.gather = newGathering(c.now())
	t.Cleanup(s.Close)
	return s
}

// conversation is the nth sample between two ends.
func conversation(k Kind, host byte, port uint16, at time.Time) Sample {
	s := Sample{Key: Key{Kind: k, Zone: 7, Proto: policy.ProtoTCP, Src: netip.AddrFrom4([4]byte{10, 0, 0, 2}), Dst: netip.AddrFrom4([4]byte{10, 0, 1, host}),
		DstPort: port, Workload: [2]string{"web-1", ""}, Spoken: policy.Spoken{App: policy.AppHTTP}, Verdict: policy.Allow, Rule: 3, Epoch: 9},
		SrcPort: 40000, First: at, Last: at, Packets: [2]uint64{2, 1}, Bytes: [2]uint64{200, 100}, Flows: 1}
	if k == Violation {
		s.Verdict, s.Denied, s.Reason, s.Rule = policy.Drop, true, policy.ReasonNoRule, -1
	}
	return s
}

func all(t testing.TB, s *Store, f Filter) []*Record {
	t.Helper()
	out, err := s.Latest(f, 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Equal conversations of a minute are one record; the next minute has its own;
// names are those of the time when a record began.
func TestGather(t *testing.T) {
	c := &clock{t: noon}
	s := openAt(t, filepath.Join(t.TempDir(), "h.db"), c)
	for i := range 1000 {
		x := conversation(Flow, 3, 80, c.step(time.Millisecond))
		x.SrcPort = uint16(i + 1)
		s.Add([]Sample{x})
	}
	s.Add([]Sample{conversation(Violation, 3, 22, c.now())})
	if err := s.flush(true); err != nil {
		t.Fatal(err)
	}
	s.Add([]Sample{conversation(Flow, 3, 80, c.step(time.Minute))})
	got := all(t, s, Filter{Kinds: []Kind{Flow}})
	if len(got) != 2 || got[0].Flows != 1000 || got[0].Packets != [2]uint64{2000, 1000} || got[0].SrcPort != 1000 || got[1].Flows != 1 {
		t.Fatalf("%+v", got)
	}
	if got[0].From.Name != "shop/web" || got[0].ID != got[1].ID || got[0].First.Equal(got[1].First) {
		t.Errorf("%+v", got[0])
	}
	rolled, more, err := s.Rollup(Filter{}, 0)
	if err != nil || more || len(rolled) != 2 || rolled[0].Flows != 1001 || !rolled[0].First.Equal(got[0].First) || !rolled[0].Last.Equal(got[1].Last) {
		t.Errorf("%+v %v %v", rolled, more, err)
	}
	v := all(t, s, Filter{Kinds: []Kind{Violation}})
	if r, ok := s.ByID(v[0].ID); !ok || r.DstPort != 22 {
		t.Errorf("by id: %+v %v", r, ok)
	}
	if _, ok := s.ByID("none"); ok {
		t.Error("an id that nobody has was found")
	}
}

// What was written is there after a restart, in memory and on disk alike, and
// growth after a write replaces the record.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.db")
	c := &clock{t: noon}
	s := openAt(t, path, c)
	for i := range 50 {
		s.Add([]Sample{conversation(Kind(i%2), byte(i), 80, c.step(10*time.Second))})
		if i%7 == 0 {
			if err := s.flush(true); err != nil {
				t.Fatal(err)
			}
			s.Add([]Sample{conversation(Kind(i%2), byte(i), 80, c.now())})
		}
	}
	want := all(t, s, Filter{})
	s.Close()
	again := openAt(t, path, c)
	got := all(t, again, Filter{})
	if len(want) != 50 || len(got) != len(want) {
		t.Fatalf("%d records, %d after a restart", len(want), len(got))
	}
	for i := range want {
		if !reflect.DeepEqual(plainTimes(got[i]), plainTimes(want[i])) {
			t.Errorf("record %d: %+v, want %+v", i, got[i], want[i])
		}
	}
	if again.Began().After(noon.Add(time.Minute)) && again.Began().Before(noon) {
		t.Errorf("began %v", again.Began())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: the file names who talks to whom", info.Mode(), err)
	}
}

func plainTimes(r *Record) Record {
	x := *r
	x.First, x.Last = x.First.UTC().Round(0), x.Last.UTC().Round(0)
	return x
}

// The filter against the obvious way to do it.
func TestFilter(t *testing.T) {
	c := &clock{t: noon}
	s := openAt(t, filepath.Join(t.TempDir(), "h.db"), c)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		x := conversation(Kind(rnd.IntN(2)), byte(rnd.IntN(5)), uint16(rnd.IntN(4)), c.step(time.Duration(rnd.IntN(30))*time.Second))
		x.Verdict, x.Denied = policy.Verdict(rnd.IntN(4)), rnd.IntN(2) == 0
		s.Add([]Sample{x})
		if rnd.IntN(20) == 0 {
			if err := s.flush(true); err != nil {
				t.Fatal(err)
			}
		}
	}
	everything := all(t, s, Filter{})
	for _, f := range []Filter{
		{Kinds: []Kind{Violation}}, {Since: noon.Add(20 * time.Minute)}, {Until: noon.Add(40 * time.Minute)}, {From: "shop/web"}, {From: "nobody"},
		{To: "10.0.1.3"}, {To: "10.0.1.0/30"}, {To: "shop/db", Verdict: "recorded"}, {Verdict: "dropped"}, {Verdict: "allow"}, {App: "http"}, {App: "tls"},
		{Reason: "no-rule"}, {Since: noon.Add(20 * time.Minute), Until: noon.Add(21 * time.Minute), To: "10.0.1.1"},
	} {
		if err := f.Check(); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		var want []string
		for _, r := range everything {
			if f.Match(r) {
				want = append(want, r.ID+r.Last.String())
			}
		}
		var got []string
		for _, r := range all(t, s, f) {
			got = append(got, r.ID+r.Last.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d records, want %d", f, len(got), len(want))
		}
		if n := len(want) / 2; n > 0 {
			last, err := s.Latest(f, n)
			if err != nil || len(last) != n || last[n-1].ID+last[n-1].Last.String() != want[len(want)-1] {
				t.Errorf("%+v: the last %d: %d, %v", f, n, len(last), err)
			}
		}
	}
	for _, f := range []Filter{{Verdict: "maybe"}, {App: "gopher"}, {Reason: "mood"}, {Since: noon, Until: noon.Add(-1)}} {
		if f.Check() == nil {
			t.Errorf("%+v: no error", f)
		}
	}
}

func TestRollupLimit(t *testing.T) {
	c := &clock{t: noon}
	s := openAt(t, filepath.Join(t.TempDir(), "h.db"), c)
	for i := range 30 {
		s.Add([]Sample{conversation(Flow, byte(i%10), 80, c.step(20*time.Second))})
	}
	got, more, err := s.Rollup(Filter{}, 4)
	if err != nil || !more || len(got) != 4 {
		t.Fatalf("%d records, more %v, %v", len(got), more, err)
	}
	for i, r := range got {
		if r.Flows != 3 || r.Dst != netip.AddrFrom4([4]byte{10, 0, 1, byte(9 - i)}) {
			t.Errorf("%d: %v %d flows, want the four latest with all they did", i, r.Dst, r.Flows)
		}
	}
}

// A million flow ends and a flood of violations: the memory is bounded, what is
// lost is counted, and violations of others than the flooder are all there.
func TestFlood(t *testing.T) {
	c := &clock{t: noon}
	s := openAt(t, filepath.Join(t.TempDir(), "h.db"), c, func(cfg *Config) { cfg.Bytes = 32 << 20 })
	before := heap()
	const offered = 1_000_000
	batch := make([]Sample, 0, 1000)
	for i := range offered {
		x := conversation(Flow, 0, uint16(i), c.now())
		// 4,000 workloads with 250 peers each: nobody is above his share, all are too many.
		x.Workload[0], x.Dst = "w"+strconv.Itoa(i%4000), netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if batch = append(batch, x); len(batch) == cap(batch) {
			s.Add(batch)
			batch = batch[:0]
		}
		if i%10_000 == 0 {
			v := conversation(Violation, 9, uint16(i/10_000), c.now())
			v.Workload[0] = "victim"
			s.Add([]Sample{v})
		}
	}
	if grown := heap() - before; grown > 120<<20 {
		t.Errorf("the heap grew by %d MB", grown>>20)
	}
	var flows uint64
	for _, r := range all(t, s, Filter{Kinds: []Kind{Flow}}) {
		flows += r.Flows
	}
	if lost := s.Stats().LostFlows; lost == 0 || flows+lost != offered {
		t.Errorf("%d kept and %d lost of %d", flows, lost, offered)
	}
	if n := len(all(t, s, Filter{Kinds: []Kind{Violation}})); n != 100 || s.Stats().LostViolations != 0 {
		t.Errorf("%d violations of 100, %d lost", n, s.Stats().LostViolations)
	}
	if err := s.flush(true); err != nil {
		t.Fatal(err)
	}
	if n := len(all(t, s, Filter{Kinds: []Kind{Violation}})); n != 100 {
		t.Errorf("on disk %d violations of 100: flows pushed them out", n)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// One workload that scans takes its share and no more; the rest is summed up.
func TestScanIsSummed(t *testing.T) {
	c := &clock{t: noon}
	s := openAt(t, filepath.Join(t.TempDir(), "h.db"), c)
	for i := range 100_000 {
		x := conversation(Violation, byte(i), uint16(i), c.now())
		x.Dst = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		s.Add([]Sample{x})
	}
	other := conversation(Violation, 1, 1, c.now())
	other.Workload[0] = "another"
	s.Add([]Sample{other})
	got := all(t, s, Filter{})
	var packets, summed uint64
	for _, r := range got {
		packets += r.Packets[0]
		if r.Summed {
			summed += r.Flows
		}
	}
	st := s.Stats()
	if len(got) > peersOfOne+2 || packets != 2*100_001 || st.Summed != summed || summed == 0 || st.LostViolations != 0 {
		t.Errorf("%d records, %d packets, %d summed (%d counted), %d lost", len(got), packets, summed, st.Summed, st.LostViolations)
	}
}

// Size and age bound the store: flows go before violations, and violations
// cannot take the flows' last quarter.
func TestBounds(t *testing.T) {
	for _, tt := range []struct {
		name              string
		flows, violations int
		wantV             func(int) bool
	}{
		{"flows alone", 12000, 0, func(n int) bool { return n == 0 }},
		{"many flows, some violations", 12000, 500, func(n int) bool { return n == 500 }},
		{"many of both", 6000, 9000, func(n int) bool { return n > 1000 && n < 9000 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "h.db")
			c := &clock{t: noon}
			const size = 2 << 20
			s := openAt(t, path, c, func(cfg *Config) { cfg.Bytes = size })
			for i := range max(tt.flows, tt.violations) {
				if i < tt.flows {
					s.Add([]Sample{conversation(Flow, byte(i), uint16(i), c.now())})
				}
				if i < tt.violations {
					s.Add([]Sample{conversation(Violation, byte(i), uint16(i), c.now())})
				}
				if i%200 == 199 {
					c.step(time.Minute)
					if err := s.flush(true); err != nil {
						t.Fatal(err)
					}
				}
			}
			flows, violations := all(t, s, Filter{Kinds: []Kind{Flow}}), all(t, s, Filter{Kinds: []Kind{Violation}})
			if len(flows) < 500 || len(flows) == tt.flows || !tt.wantV(len(violations)) {
				t.Errorf("%d flows and %d violations kept", len(flows), len(violations))
			}
			if newest := flows[len(flows)-1]; newest.Last.Before(noon.Add(25 * time.Minute)) {
				t.Errorf("the newest flow is of %v", newest.Last)
			}
			if info, _ := os.Stat(path); info.Size() > size*2 {
				t.Errorf("the file has %d bytes for %d of records", info.Size(), size)
			}
			for range 3 { // old records go, also where nothing new comes
				c.step(4 * 24 * time.Hour)
				if err := s.flush(true); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(all(t, s, Filter{})); n != 0 {
				t.Errorf("%d records are older than a week", n)
			}
			_ = s.view(func(tx *bbolt.Tx) error {
				if n := tx.Bucket(bucketIDs).Stats().KeyN; n != 0 || sizes(tx) != [kinds]int64{} {
					t.Errorf("%d ids and sizes %v are left", n, sizes(tx))
				}
				return nil
			})
		})
	}
}

// A file that cannot be used is moved aside whole, and a new one begun.
func TestUnusableFile(t *testing.T) {
	filled := func(t *testing.T) []byte {
		path := filepath.Join(t.TempDir(), "h.db")
		c := &clock{t: noon}
		s := openAt(t, path, c)
		for i := range 3000 {
			s.Add([]Sample{conversation(Flow, byte(i), uint16(i), c.step(time.Second/4))})
		}
		s.Close()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}(t)
	for _, tt := range []struct {
		name, suffix string
		data         func() []byte
	}{
		{"no database", "damaged", func() []byte { return bytes.Repeat([]byte("nonsense"), 4096) }},
		{"cut in half", "damaged", func() []byte { return filled[:len(filled)/2] }},
		{"zeros in the middle", "damaged", func() []byte {
			d := slices.Clone(filled)
			clear(d[len(d)/4 : len(d)*3/4])
			return d
		}},
		{"noise over all pages", "damaged", func() []byte {
			d := slices.Clone(filled)
			rnd := rand.New(rand.NewPCG(3, 4))
			for i := 8192; i < len(d)-8; i += 64 {
				binary.LittleEndian.PutUint64(d[i:], rnd.Uint64())
			}
			return d
		}},
		{"a later schema", "schema-2", func() []byte {
			path := filepath.Join(t.TempDir(), "later.db")
			_ = os.WriteFile(path, filled, 0o600)
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = db.Update(func(tx *bbolt.Tx) error { return putNumber(tx.Bucket(bucketMeta), keySchema, 2) })
			db.Close()
			d, _ := os.ReadFile(path)
			return d
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, data := filepath.Join(t.TempDir(), "h.db"), tt.data()
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			c := &clock{t: noon}
			s := openAt(t, path, c, func(cfg *Config) { cfg.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			s.Add([]Sample{conversation(Flow, 1, 1, c.now())})
			if err := s.flush(true); err != nil || s.Problem() != "" || len(all(t, s, Filter{})) != 1 {
				t.Errorf("not working: %v, %q", err, s.Problem())
			}
			aside, _ := filepath.Glob(path + "." + tt.suffix + "-*")
			if len(aside) != 1 || s.Stats().MovedAside != 1 {
				t.Fatalf("moved aside: %q, %d", aside, s.Stats().MovedAside)
			}
			if kept, _ := os.ReadFile(aside[0]); len(kept) < len(data)/2 {
				t.Errorf("%d of %d bytes kept", len(kept), len(data))
			}
			if !strings.Contains(log.String(), aside[0]) {
				t.Errorf("the log does not name the file: %s", log.String())
			}
		})
	}
}

// Damage to values shows only when they are read: those records are passed over
// and counted.
func TestDamagedRecord(t *testing.T) {
	c := &clock{t: noon}
	s := openAt(t, filepath.Join(t.TempDir(), "h.db"), c)
	for i := range 3 {
		s.Add([]Sample{conversation(Flow, byte(i), 80, c.now())})
	}
	if err := s.flush(true); err != nil {
		t.Fatal(err)
	}
	c.step(time.Minute)
	_ = s.flush(true) // nothing is left in memory
	err := s.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRecords[Flow])
		k, _ := b.Cursor().First()
		return b.Put(slices.Clone(k), []byte(`{"kind":"flo`))
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(all(t, s, Filter{})); n != 2 || s.Stats().Damaged != 1 {
		t.Errorf("%d records, %d damaged", n, s.Stats().Damaged)
	}
}

// Nowhere to write: the store works in memory and says so; when there is a
// place again, what waited is written.
func TestNoPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	c := &clock{t: noon}
	s := openAt(t, filepath.Join(dir, "h.db"), c)
	s.Add([]Sample{conversation(Violation, 1, 1, c.now())})
	if s.flush(true) == nil || !strings.Contains(s.Problem(), "memory only") || len(all(t, s, Filter{})) != 1 {
		t.Fatalf("%q", s.Problem())
	}
	c.step(5 * time.Minute)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.open()
	if err := s.flush(true); err != nil || s.Problem() != "" {
		t.Fatalf("%v %q", err, s.Problem())
	}
	s.Close()
	if n := len(all(t, openAt(t, filepath.Join(dir, "h.db"), c), Filter{})); n != 1 {
		t.Errorf("%d records", n)
	}
}

// A full disk is an error to tell, not an end; what waited is written once
// there is room.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("missing capability: mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	c := &clock{t: noon}
	path := filepath.Join(dir, "h.db")
	s := openAt(t, path, c)
	t.Cleanup(s.Close)
	for i := range 3000 {
		s.Add([]Sample{conversation(Violation, byte(i), uint16(i), c.now())})
		if i%500 == 499 {
			c.step(time.Minute)
			_ = s.flush(true)
		}
	}
	if !strings.Contains(s.Problem(), "cannot write") || s.Stats().Waiting == 0 {
		t.Fatalf("problem %q, %+v", s.Problem(), s.Stats())
	}
	if n := len(all(t, s, Filter{})); n != 3000 {
		t.Errorf("%d records of 3000 can be read while the disk is full", n)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if err := s.flush(true); err != nil || s.Problem() != "" {
		t.Fatalf("with room again: %v, %q", err, s.Problem())
	}
	if n := len(all(t, s, Filter{})); n != 3000 {
		t.Errorf("%d records of 3000", n)
	}
}

const writerEnv = "GATEHOUSE_TEST_HISTORY_WRITER"

// A writer that is killed in the middle of its work leaves a database that
// opens, with all that it said was written.
func TestPowerCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.db")
	total := 0
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestWriterProcess$")
		cmd.Env = append(os.Environ(), writerEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := readUntil(out, 3+2*round)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		total += said
		s := openAt(t, path, &clock{t: noon.Add(time.Hour)})
		if s.Stats().MovedAside != 0 || s.Problem() != "" {
			t.Fatalf("round %d: the database did not survive: %+v %q", round, s.Stats(), s.Problem())
		}
		if n := len(all(t, s, Filter{Kinds: []Kind{Violation}})); n < total {
			t.Fatalf("round %d: %d records, the writers said %d", round, n, total)
		}
		s.Close()
	}
}

// readUntil reads the writer's lines up to that many commits and returns how
// many records it said were written.
func readUntil(out interface{ Read([]byte) (int, error) }, commits int) (records int) {
	var n int
	for range commits {
		if _, err := fmt.Fscan(out, &n); err != nil {
			return records
		}
		records += n
	}
	return records
}

// TestWriterProcess is the child of TestPowerCut.
func TestWriterProcess(t *testing.T) {
	path := os.Getenv(writerEnv)
	if path == "" {
		return
	}
	c := &clock{t: noon.Add(time.Duration(os.Getpid()%1000) * time.Second)}
	s := openAt(t, path, c)
	for i := 0; ; i++ {
		for j := range 40 {
			s.Add([]Sample{conversation(Violation, byte(j), uint16(i), c.now())})
		}
		c.step(time.Minute)
		if err := s.flush(true); err != nil {
			t.Fatal(err)
		}
		fmt.Println(40)
	}
}

// Everybody at once; the race detector watches.
func TestConcurrent(t *testing.T) {
	s := Open(Config{Path: filepath.Join(t.TempDir(), "h.db"), Describe: describe, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var run, work sync.WaitGroup
	run.Go(func() { s.Run(ctx) })
	for g := range 4 {
		work.Go(func() {
			for i := range 300 {
				s.Add([]Sample{conversation(Kind(g%2), byte(i), uint16(g), time.Now())})
				if i%50 == 0 {
					_ = s.flush(i%100 == 0)
				}
			}
		})
	}
	for range 2 {
		work.Go(func() {
			news, stop := s.Subscribe(Filter{Kinds: []Kind{Violation}})
			defer stop()
			for range 20 {
				_, _, _ = s.Rollup(Filter{Verdict: "dropped"}, 10)
				_, _ = s.ByID("x")
				_ = s.Stats()
				select {
				case r := <-news:
					if r.Kind != Violation {
						t.Errorf("not asked for: %+v", r)
					}
				default:
				}
			}
		})
	}
	work.Wait()
	cancel()
	run.Wait()
	var flows uint64
	again := openAt(t, s.cfg.Path, &clock{t: time.Now()})
	for _, r := range all(t, again, Filter{}) {
		flows += r.Flows
	}
	if flows != 1200 {
		t.Errorf("%d conversations of 1200 on disk", flows)
	}
}

// An added sample costs no allocation where its record is there.
func TestAddAllocates(t *testing.T) {
	c := &clock{t: noon}
	s := openAt(t, filepath.Join(t.TempDir(), "h.db"), c)
	batch := []Sample{conversation(Flow, 1, 80, c.now()), conversation(Flow, 2, 80, c.now())}
	s.Add(batch)
	if n := testing.AllocsPerRun(100, func() { s.Add(batch) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	c := &clock{t: noon}
	s := openAt(b, filepath.Join(b.TempDir(), "h.db"), c)
	batch := make([]Sample, 1000)
	for i := range batch {
		batch[i] = conversation(Flow, byte(i%7), 80, c.now())
		batch[i].SrcPort = uint16(i)
	}
	for b.Loop() {
		s.Add(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch)), "ns/sample")
}

package history

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// schema is the number of the layout and of the records' encoding. Fields are
// only added within one.
const schema = 1

var (
	bucketMeta    = []byte("meta")
	bucketRecords = [kinds][]byte{[]byte("flows"), []byte("violations")}
	bucketIDs     = []byte("ids") // a violation's id → kind and place of its last record
	keySchema     = []byte("schema")
	keyBegan      = []byte("began") // when the first record was kept
	keySize       = [kinds][]byte{[]byte("size flows"), []byte("size violations")}
)

const (
	violationsEvery = 2 * time.Second  // at most this much is lost by a power cut
	flowsEvery      = 20 * time.Second // the same of flows
	reopenEvery     = 30 * time.Second
	batchRecords    = 2000 // in one transaction
	pruneMost       = 4 * batchRecords
)

// Config says what a Store keeps. Zero values mean the default.
type Config struct {
	Path  string // of the database file; its folder must be there
	Bytes int64  // of records, before the oldest go; 0 = 256 MiB. The file is up to half as large again
	// Age is how long a record is kept; 0 = 7 days.
	Age time.Duration
	// Describe fills in the names of a record that is new: From, To, Port and
	// Statement. It is called while the Store is locked and must not call it.
	Describe func(*Record)
	Log      *slog.Logger // nil = slog.Default
}

// Store keeps records. Add never waits for the disk.
type Store struct {
	cfg Config
	now func() time.Time

	mu      sync.Mutex
	gather  *gathering
	streams map[*stream]struct{}

	lost     [kinds]atomic.Uint64
	summed   atomic.Uint64
	damaged  atomic.Uint64
	problem  atomic.Pointer[string]
	asides   atomic.Uint64
	fileSize atomic.Int64

	dbMu sync.RWMutex // held for writing while db is exchanged
	db   *bbolt.DB    // nil while there is none
}

// Open returns a Store on the file at Config.Path. It always succeeds: a file
// that is damaged, or of another schema, is moved aside and a new one begun;
// where there can be none, records are kept in memory as far as they fit,
// Problem says why, and Run tries again.
func Open(cfg Config) *Store {
	if cfg.Bytes <= 0 {
		cfg.Bytes = 256 << 20
	}
	if cfg.Age <= 0 {
		cfg.Age = 7 * 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Describe == nil {
		cfg.Describe = func(*Record) {}
	}
	s := &Store{cfg: cfg, now: time.Now, streams: make(map[*stream]struct{})}
	s.gather = newGathering(s.now())
	s.open()
	return s
}

// Run writes to disk until ctx ends, then closes the database. Call it once.
func (s *Store) Run(ctx context.Context) {
	tick := time.NewTicker(violationsEvery)
	defer tick.Stop()
	var flows, opened time.Time
	for {
		select {
		case <-ctx.Done():
			s.Close()
			return
		case <-tick.C:
		}
		now := s.now()
		if !s.isOpen() && now.Sub(opened) >= reopenEvery {
			opened = now
			s.open()
		}
		all := now.Sub(flows) >= flowsEvery
		if all {
			flows = now
		}
		_ = s.flush(all) // Problem tells
	}
}

// Close writes what is in memory and closes the database. The Store keeps
// nothing on disk afterwards.
func (s *Store) Close() {
	_ = s.flush(true) // Problem tells
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	s.closeDB()
}

// Path is the database file.
func (s *Store) Path() string { return s.cfg.Path }

// Problem says why nothing is being written, "" while all is well.
func (s *Store) Problem() string {
	if p := s.problem.Load(); p != nil {
		return *p
	}
	return ""
}

// Stats are the store's counters since its start.
type Stats struct {
	LostFlows      uint64 // conversations that found no room
	LostViolations uint64
	Summed         uint64 // conversations and violations kept without their addresses
	Damaged        uint64 // records that could not be read back
	MovedAside     uint64 // database files that could not be used
	FileBytes      int64  // of the database, as of the last write
	Waiting        int    // records in memory that are not on disk
}

// Stats returns them.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	waiting := s.gather.waiting[Flow] + s.gather.waiting[Violation]
	s.mu.Unlock()
	return Stats{LostFlows: s.lost[Flow].Load(), LostViolations: s.lost[Violation].Load(), Summed: s.summed.Load(), Damaged: s.damaged.Load(),
		MovedAside: s.asides.Load(), FileBytes: s.fileSize.Load(), Waiting: waiting}
}

// Lose counts samples of a kind that were lost on their way here.
func (s *Store) Lose(k Kind, n uint64) { s.lost[k].Add(n) }

// Add counts samples into the records of this minute.
func (s *Store) Add(samples []Sample) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range samples {
		s.add(&samples[i], now)
	}
}

func (s *Store) add(sample *Sample, now time.Time) {
	wasSummed := sample.Summed
	h, fresh := s.gather.find(sample, now)
	if h == nil {
		s.lost[sample.Kind].Add(1)
		return
	}
	if sample.Summed && !wasSummed {
		s.summed.Add(1)
	}
	quiet := sample.Last.Sub(h.Last)
	h.add(sample)
	h.dirty = true
	if fresh {
		h.SetID()
		s.cfg.Describe(&h.Record)
	}
	if fresh || quiet > announcePause {
		s.announce(&h.Record)
	}
}

// flush writes what the database does not have; flows of the present minute
// only if asked to. What it cannot write stays.
func (s *Store) flush(openFlows bool) error {
	s.mu.Lock()
	if now := s.now(); !now.Truncate(period).Equal(s.gather.minute) {
		s.gather.begin(now)
	}
	if !s.isOpen() {
		s.mu.Unlock()
		return errNoDatabase
	}
	batch := s.gather.unwritten(openFlows)
	s.mu.Unlock()
	for len(batch) > 0 {
		n := min(len(batch), batchRecords)
		if err := s.write(batch[:n]); err != nil {
			return s.fail(err)
		}
		s.mu.Lock()
		s.gather.wrote(batch[:n])
		s.mu.Unlock()
		batch = batch[n:]
	}
	if err := s.prune(); err != nil {
		return s.fail(err)
	}
	s.problem.Store(nil)
	return nil
}

// fail remembers why nothing was written. A database that turns out to be
// damaged is replaced.
func (s *Store) fail(err error) error {
	if errors.Is(err, errDamaged) {
		s.replace(err)
		return err
	}
	text := fmt.Sprintf("history: cannot write %s: %v (records wait in memory as far as they fit)", s.cfg.Path, err)
	if s.Problem() != text {
		s.cfg.Log.Error("cannot write the history of flows; records wait in memory as far as they fit", "file", s.cfg.Path, "err", err)
	}
	s.problem.Store(&text)
	return err
}

var (
	errNoDatabase = errors.New("there is no database")
	errDamaged    = errors.New("the database is damaged")
)

// open opens or makes the database, moving aside what cannot be used.
func (s *Store) open() {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	err := s.openDB()
	var unusable *unusableError
	if errors.As(err, &unusable) {
		err = s.moveAside(unusable)
		if err == nil {
			err = s.openDB()
		}
	}
	if err != nil {
		text := fmt.Sprintf("history: cannot open %s: %v (flows and violations are kept in memory only)", s.cfg.Path, err)
		if s.Problem() != text {
			s.cfg.Log.Error("no history of flows on disk", "file", s.cfg.Path, "err", err)
		}
		s.problem.Store(&text)
		return
	}
	s.problem.Store(nil)
}

// unusableError says that the file is there and of no use.
type unusableError struct {
	suffix string
	err    error
}

func (e *unusableError) Error() string { return e.err.Error() }

func (s *Store) openDB() error {
	db, err := openBolt(s.cfg.Path)
	switch {
	case err == nil:
	case errors.Is(err, errDamaged):
		return &unusableError{"damaged", err}
	case isDamage(err):
		return &unusableError{"damaged", fmt.Errorf("%w: %w", errDamaged, err)}
	default:
		return err
	}
	err = sound(func() error { return prepare(db, s.now()) })
	if err == nil {
		s.db = db
		return nil
	}
	_ = sound(db.Close)
	if errors.Is(err, errDamaged) {
		return &unusableError{"damaged", err}
	}
	return err
}

func openBolt(path string) (db *bbolt.DB, err error) {
	err = sound(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, PreLoadFreelist: true})
		return err
	})
	return db, err
}

// isDamage tells a file that is no database of ours from one that cannot be
// reached.
func isDamage(err error) bool {
	for _, e := range []error{berrors.ErrInvalid, berrors.ErrChecksum, berrors.ErrVersionMismatch} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// prepare checks an open database and makes what it lacks.
func prepare(db *bbolt.DB, now time.Time) error {
	if err := db.View(check); err != nil {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketRecords[Flow], bucketRecords[Violation], bucketIDs} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if meta.Get(keyBegan) != nil {
			return nil
		}
		if err := putNumber(meta, keyBegan, uint64(now.UnixNano())); err != nil {
			return err
		}
		return putNumber(meta, keySchema, schema)
	})
}

// check looks whether the records are there whole, and of this program's schema.
func check(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return nil // new
	}
	v := meta.Get(keySchema)
	if len(v) != 8 {
		return fmt.Errorf("%w: it has no schema number", errDamaged)
	}
	if n := binary.BigEndian.Uint64(v); n != schema {
		return &unusableError{fmt.Sprintf("schema-%d", n), fmt.Errorf("its records are of schema %d, this program reads %d", n, schema)}
	}
	return walk(tx)
}

// walk touches every page that holds keys; what is damaged there shows.
func walk(tx *bbolt.Tx) error {
	return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		var last []byte
		return b.ForEach(func(k, _ []byte) error {
			if last != nil && string(last) >= string(k) {
				return fmt.Errorf("%w: keys out of order in %q", errDamaged, name)
			}
			last = append(last[:0], k...)
			return nil
		})
	})
}

// sound runs f, which works on the database, and turns its panics and faults
// into errDamaged: bbolt panics where pages contradict each other, and a page
// beyond the file's end is a fault.
func sound(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return f()
}

// moveAside renames the database file.
func (s *Store) moveAside(why *unusableError) error {
	aside := fmt.Sprintf("%s.%s-%s", s.cfg.Path, why.suffix, s.now().UTC().Format("20060102T150405"))
	if err := os.Rename(s.cfg.Path, aside); err != nil {
		return errors.Join(why, err)
	}
	s.asides.Add(1)
	s.cfg.Log.Error("the history of flows cannot be used: it was moved aside and a new one begun", "file", s.cfg.Path, "to", aside, "err", why.err)
	return nil
}

// replace closes a database that turned out to be damaged and begins a new one.
func (s *Store) replace(err error) {
	s.dbMu.Lock()
	if s.db == nil {
		s.dbMu.Unlock()
		return
	}
	s.closeDB()
	moved := s.moveAside(&unusableError{"damaged", err})
	s.dbMu.Unlock()
	if moved == nil {
		s.open()
	}
}

func (s *Store) closeDB() {
	if s.db != nil {
		if err := sound(s.db.Close); err != nil {
			s.cfg.Log.Error("history: close", "file", s.cfg.Path, "err", err)
		}
		s.db = nil
	}
}

func (s *Store) isOpen() bool {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	return s.db != nil
}

// view and update run f in a transaction of the database.
func (s *Store) view(f func(*bbolt.Tx) error) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return errNoDatabase
	}
	return sound(func() error { return s.db.View(f) })
}

func (s *Store) update(f func(*bbolt.Tx) error) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return errNoDatabase
	}
	return sound(func() error { return s.db.Update(f) })
}

func (s *Store) write(records []held) error {
	return s.update(func(tx *bbolt.Tx) error {
		size := sizes(tx)
		ids := tx.Bucket(bucketIDs)
		for i := range records {
			h := &records[i]
			data, err := json.Marshal(&h.Record)
			if err != nil {
				return fmt.Errorf("encode a record: %w", err)
			}
			b := tx.Bucket(bucketRecords[h.Kind])
			b.FillPercent = 0.9 // keys come in order
			if old := b.Get(h.place[:]); old != nil {
				size[h.Kind] -= recordSize(old)
			}
			size[h.Kind] += recordSize(data)
			if err := b.Put(h.place[:], data); err != nil {
				return err
			}
			if h.Kind != Violation {
				continue
			}
			if err := ids.Put([]byte(h.ID), h.place[:]); err != nil {
				return err
			}
		}
		s.fileSize.Store(tx.Size())
		return putSizes(tx, size)
	})
}

// recordSize is what a record takes: its value, its key, and the element header
// of a leaf page.
func recordSize(value []byte) int64 { return int64(len(value)) + 32 }

func sizes(tx *bbolt.Tx) (size [kinds]int64) {
	for k := range size {
		if v := tx.Bucket(bucketMeta).Get(keySize[k]); len(v) == 8 {
			size[k] = int64(binary.BigEndian.Uint64(v))
		}
	}
	return size
}

func putSizes(tx *bbolt.Tx, size [kinds]int64) error {
	for k := range size {
		if err := putNumber(tx.Bucket(bucketMeta), keySize[k], uint64(max(size[k], 0))); err != nil {
			return err
		}
	}
	return nil
}

func putNumber(b *bbolt.Bucket, key []byte, n uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, n))
}

// prune takes out what is too old or too much: flows before violations, which
// may have three quarters of the room.
func (s *Store) prune() error {
	for {
		more := false
		due := false
		err := s.view(func(tx *bbolt.Tx) error { due = s.isDue(tx); return nil })
		if err != nil || !due {
			return err
		}
		err = s.update(func(tx *bbolt.Tx) error {
			size := sizes(tx)
			for k := range kinds {
				if err := s.pruneKind(tx, k, &size); err != nil {
					return err
				}
			}
			if err := putSizes(tx, size); err != nil {
				return err
			}
			more = s.isDue(tx)
			return nil
		})
		if err != nil || !more {
			return err
		}
	}
}

func (s *Store) oldest() place { return newPlace(s.now().Add(-s.cfg.Age).Truncate(period), 0) }

func (s *Store) isDue(tx *bbolt.Tx) bool {
	size, old := sizes(tx), s.oldest()
	for k := range kinds {
		first, _ := tx.Bucket(bucketRecords[k]).Cursor().First()
		if first != nil && (s.tooMuch(k, size) || string(first) < string(old[:])) {
			return true
		}
	}
	return false
}

func (s *Store) tooMuch(k Kind, size [kinds]int64) bool {
	if k == Violation {
		return size[Violation] > s.cfg.Bytes/4*3
	}
	return size[Flow]+min(size[Violation], s.cfg.Bytes/4*3) > s.cfg.Bytes
}

func (s *Store) pruneKind(tx *bbolt.Tx, k Kind, size *[kinds]int64) error {
	b, ids := tx.Bucket(bucketRecords[k]), tx.Bucket(bucketIDs)
	old := s.oldest()
	var gone []place // copies: a write may move the pages
	c := b.Cursor()
	for key, v := c.First(); key != nil && len(gone) < pruneMost; key, v = c.Next() {
		if len(key) == len(old) && string(key) >= string(old[:]) && !s.tooMuch(k, *size) {
			break
		}
		size[k] -= recordSize(v)
		gone = append(gone, place(key))
		if k == Violation {
			if err := dropID(ids, key, v); err != nil {
				return err
			}
		}
	}
	for i := range gone {
		if err := b.Delete(gone[i][:]); err != nil {
			return err
		}
	}
	return nil
}

// dropID forgets an id whose last record goes.
func dropID(ids *bbolt.Bucket, key, value []byte) error {
	var r struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(value, &r) != nil || string(ids.Get([]byte(r.ID))) != string(key) {
		return nil
	}
	return ids.Delete([]byte(r.ID))
}

// Read has f ask a database that no gateway has open, and that is not written to.
// The Store ends with the call.
func Read(path string, f func(*Store) error) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	err := sound(func() error {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		if errors.Is(err, berrors.ErrTimeout) {
			return ErrHeld
		}
		if err != nil {
			return err
		}
		defer db.Close()
		if err := db.View(func(tx *bbolt.Tx) error {
			if tx.Bucket(bucketMeta) == nil {
				return errors.New("there are no records in it")
			}
			return check(tx)
		}); err != nil {
			return err
		}
		s := &Store{cfg: Config{Path: path, Age: math.MaxInt64, Describe: func(*Record) {}}, now: time.Now, gather: newGathering(time.Now()), db: db}
		return f(s)
	})
	if err != nil {
		return fmt.Errorf("history: %s: %w", path, err)
	}
	return nil
}

// ErrHeld is of Read and Check: another process writes the file.
var ErrHeld = errors.New("a gateway has it open, and answers for it itself")

// Check looks at a database that no gateway has open, and counts its records.
func Check(path string) (flows, violations int, err error) {
	if _, err := os.Stat(path); err != nil {
		return 0, 0, err
	}
	err = sound(func() error {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		if errors.Is(err, berrors.ErrTimeout) {
			return ErrHeld
		}
		if err != nil {
			return err
		}
		defer db.Close()
		return db.View(func(tx *bbolt.Tx) error {
			if err := walk(tx); err != nil {
				return err
			}
			for k, n := range [kinds]*int{&flows, &violations} {
				if b := tx.Bucket(bucketRecords[k]); b != nil {
					*n = b.Stats().KeyN
				}
			}
			return nil
		})
	})
	if err != nil {
		return 0, 0, fmt.Errorf("history: %s: %w", path, err)
	}
	return flows, violations, nil
}

package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"gatehouse/policy"
)

// Filter chooses records. Its zero value chooses all.
type Filter struct {
	Kinds []Kind // empty = both
	// Since and Until bound the time at which a record was last seen; zero = not.
	Since, Until time.Time
	// From and To are a service ("shop/db", "db"), a project ("shop/"), a peer
	// ("@internet"), an address, a prefix, or a DNS name.
	From, To string
	// Verdict is one of allow, drop, reject, undecided, recorded, dropped, rejected.
	Verdict string
	App     string // of the flow, inside its TLS, or announced by it
	Reason  string
}

// Check reports words that no record has.
func (f *Filter) Check() error {
	if f.Verdict != "" && !slices.Contains(verdictWords, f.Verdict) {
		return fmt.Errorf("verdict %q is none of %s", f.Verdict, strings.Join(verdictWords, ", "))
	}
	if f.App != "" && new(policy.App).UnmarshalText([]byte(f.App)) != nil {
		return policy.UnknownApp(f.App)
	}
	if f.Reason != "" && new(policy.Reason).UnmarshalText([]byte(f.Reason)) != nil {
		var all []string
		for r := policy.ReasonNone + 1; r < policy.ReasonCount; r++ {
			all = append(all, r.String())
		}
		return fmt.Errorf("reason %q is none of %s%s", f.Reason, strings.Join(all, ", "), policy.Meant(f.Reason, all))
	}
	for _, end := range []struct{ what, name string }{{"from", f.From}, {"to", f.To}} {
		if peers := policy.PeerNames(); strings.HasPrefix(end.name, "@") && !slices.Contains(peers, end.name) {
			return fmt.Errorf("%s: peer %q is none of %s%s", end.what, end.name, strings.Join(peers, ", "), policy.Meant(end.name, peers))
		}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && f.Until.Before(f.Since) {
		return fmt.Errorf("until %s is before since %s", f.Until.Format(time.RFC3339), f.Since.Format(time.RFC3339))
	}
	return nil
}

var verdictWords = []string{"allow", "drop", "reject", "undecided", "recorded", "dropped", "rejected"}

// Match reports whether r is chosen.
func (f *Filter) Match(r *Record) bool {
	switch {
	case len(f.Kinds) > 0 && !slices.Contains(f.Kinds, r.Kind),
		!f.Since.IsZero() && r.Last.Before(f.Since),
		!f.Until.IsZero() && r.First.After(f.Until),
		f.Verdict != "" && !r.isVerdict(f.Verdict),
		f.Reason != "" && r.Reason.String() != f.Reason,
		f.App != "" && !r.speaks(f.App),
		f.From != "" && !r.From.is(f.From, r.Src),
		f.To != "" && r.Name != f.To && !r.To.is(f.To, r.Dst):
		return false
	}
	return true
}

func (r *Record) isVerdict(word string) bool {
	if word == "recorded" {
		return r.IsRecorded()
	}
	if r.IsRecorded() {
		return false
	}
	switch word {
	case "dropped":
		word = "drop"
	case "rejected":
		word = "reject"
	}
	return r.Verdict.String() == word
}

// IsRecorded: policy said no, and a mode let it by.
func (r *Record) IsRecorded() bool { return r.Denied && r.Verdict == policy.Allow }

func (r *Record) speaks(app string) bool {
	return r.Spoken.App.String() == app || r.Spoken.Sub.String() == app && app != "none" || r.Spoken.Inner.String() == app && app != "none" || r.Spoken.ALPN.String() == app && app != "none"
}

// is reports whether a party is what a filter names.
func (p *Party) is(what string, a netip.Addr) bool {
	if p.Name == what || p.Service.Name == what && what != "" {
		return true
	}
	if project, ok := strings.CutSuffix(what, "/"); ok && project != "" && p.Service.Project.Name == project {
		return true
	}
	if !a.IsValid() {
		return false
	}
	if ip, err := netip.ParseAddr(what); err == nil {
		return ip.Unmap() == a
	}
	prefix, err := netip.ParsePrefix(what)
	return err == nil && prefix.Contains(a)
}

// readChunk is how many records are read in one transaction: a reader that
// holds one open keeps the file from growing, and so the writer waiting.
const readChunk = 1000

// Newest yields the chosen records, the newest first. Records that cannot be
// read are passed over and counted. The error is that of the database; what is
// in memory has been yielded then.
func (s *Store) Newest(f Filter) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		s.mu.Lock()
		memory := s.gather.all()
		s.mu.Unlock()
		inMemory := make(map[place]bool, len(memory))
		for i := range slices.Backward(memory) {
			inMemory[memory[i].place] = true
			if f.Match(&memory[i].Record) && !yield(&memory[i].Record, nil) {
				return
			}
		}
		from := [kinds]*place{}
		for {
			records, more, err := s.older(&f, &from, inMemory)
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
			}
			if errors.Is(err, errDamaged) {
				s.replace(err)
			}
			if err != nil && !errors.Is(err, errNoDatabase) {
				yield(nil, err)
			}
			if err != nil || !more {
				return
			}
		}
	}
}

// older reads the next chunk of each kind's bucket, before where the last one
// ended.
func (s *Store) older(f *Filter, from *[kinds]*place, except map[place]bool) (out []*Record, more bool, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		var cursors [kinds]walker
		for k := range kinds {
			if len(f.Kinds) == 0 || slices.Contains(f.Kinds, k) {
				cursors[k] = newWalker(tx.Bucket(bucketRecords[k]), from[k])
			}
		}
		for range readChunk {
			k := latest(&cursors)
			if k == kinds {
				return nil
			}
			c := &cursors[k]
			at := c.at()
			from[k] = &at
			// A record is written in its own minute or soon after.
			if !f.Since.IsZero() && at.minute().Add(2*period).Before(f.Since) {
				c.key = nil
				continue
			}
			if !except[at] {
				r := new(Record)
				if json.Unmarshal(c.value, r) != nil {
					s.damaged.Add(1)
				} else if f.Match(r) {
					out = append(out, r)
				}
			}
			c.back()
		}
		more = true
		return nil
	})
	return out, more, err
}

// walker goes through a bucket from the newest record to the oldest.
type walker struct {
	c          *bbolt.Cursor
	key, value []byte // nil at the end
}

func newWalker(b *bbolt.Bucket, before *place) (w walker) {
	w.c = b.Cursor()
	if before == nil {
		w.key, w.value = w.c.Last()
		return w
	}
	if w.key, w.value = w.c.Seek(before[:]); w.key == nil {
		w.key, w.value = w.c.Last()
		return w
	}
	w.back()
	return w
}

func (w *walker) back() { w.key, w.value = w.c.Prev() }

func (w *walker) at() place { return place(w.key) }

// latest is the kind whose record is the newest; kinds if all are at the end.
func latest(ws *[kinds]walker) Kind {
	best := kinds
	for k := range kinds {
		if ws[k].key != nil && (best == kinds || string(ws[k].key) > string(ws[best].key)) {
			best = k
		}
	}
	return best
}

// Rollup is the chosen records, those of equal ends, port, application and
// answer joined to one, the latest first. It keeps at most limit of them (0 =
// 100,000), the latest; truncated says that there were more.
func (s *Store) Rollup(f Filter, limit int) (records []*Record, truncated bool, err error) {
	const most = 100_000
	if limit <= 0 || limit > most {
		limit = most
	}
	byKey := make(map[Key]*Record)
	for r, err := range s.Newest(f) {
		if err != nil {
			return records, truncated, err
		}
		k := r.lasting()
		switch have := byKey[k]; {
		case have != nil:
			have.Merge(r)
		case len(records) == limit:
			truncated = true
		default:
			byKey[k] = r
			records = append(records, r)
		}
	}
	slices.SortStableFunc(records, func(a, b *Record) int { return b.Last.Compare(a.Last) })
	return records, truncated, nil
}

// Latest returns up to n chosen records (0 = all that fit in 100,000), in the
// order in which they were last seen.
func (s *Store) Latest(f Filter, n int) ([]*Record, error) {
	var out []*Record
	if n <= 0 {
		n = 100_000
	}
	for r, err := range s.Newest(f) {
		if err != nil {
			return out, err
		}
		if out = append(out, r); len(out) == n {
			break
		}
	}
	slices.Reverse(out)
	slices.SortStableFunc(out, func(a, b *Record) int { return a.Last.Compare(b.Last) })
	return out, nil
}

// ByID returns the last violation of that id.
func (s *Store) ByID(id string) (*Record, bool) {
	s.mu.Lock()
	for _, h := range slices.Backward(s.gather.all()) {
		if h.ID == id {
			s.mu.Unlock()
			return &h.Record, true
		}
	}
	s.mu.Unlock()
	var r *Record
	err := s.view(func(tx *bbolt.Tx) error {
		key := tx.Bucket(bucketIDs).Get([]byte(id))
		if key == nil {
			return nil
		}
		v := tx.Bucket(bucketRecords[Violation]).Get(key)
		if v == nil {
			return nil
		}
		found := new(Record)
		if err := json.Unmarshal(v, found); err != nil {
			s.damaged.Add(1)
			return nil
		}
		r = found
		return nil
	})
	return r, err == nil && r != nil
}

// Began is when the oldest record that may be there was kept: before it nothing
// is known.
func (s *Store) Began() time.Time {
	began := s.now()
	_ = s.view(func(tx *bbolt.Tx) error { // without a database nothing is known
		if v := tx.Bucket(bucketMeta).Get(keyBegan); len(v) == 8 {
			began = numberTime(v)
		}
		return nil
	})
	if first := s.now().Add(-s.cfg.Age); began.Before(first) {
		return first
	}
	return began
}

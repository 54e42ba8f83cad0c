package lookup

import (
	"hash/maphash"
	"strings"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Volume notices data that leaves by DNS queries. What counts is not how many
// queries there are but how much new they say: bytes of names that were not asked
// for lately, below one domain. A browser or an update does not need what a
// tunnel needs in seconds. Not safe for concurrent use.
type Volume struct {
	seed   maphash.Seed
	levels *simplelru.LRU[domain, *level]
}

type domain struct {
	owner uint16
	name  string
}

// level leaks volumeRate bytes a second.
type level struct {
	bytes  int64
	at     int64
	recent [64]uint64 // hashes of names
	next   int
}

const (
	volumeMax  = 4096                  // bytes below one domain at once
	volumeRate = volumeMax / int64(60) // and a second
	domainsMax = 1024                  // watched at once; the one asked longest ago goes
)

// NewVolume returns a Volume that has heard nothing.
func NewVolume() *Volume {
	v := &Volume{seed: maphash.MakeSeed()}
	v.levels, _ = simplelru.NewLRU[domain, *level](domainsMax, nil)
	return v
}

// Add counts a name asked for by an endpoint; true if that is too much. now is in
// nanoseconds.
func (v *Volume) Add(owner uint16, name string, now int64) (over bool) {
	d, below := parent(name)
	k := domain{owner, d}
	l, ok := v.levels.Get(k)
	if !ok {
		l = &level{at: now}
		v.levels.Add(k, l)
	}
	sum := maphash.String(v.seed, below) | 1
	for _, r := range l.recent {
		if r == sum {
			return false
		}
	}
	l.recent[l.next%len(l.recent)] = sum
	l.next++
	seconds := (now - l.at) / 1e9
	l.bytes = max(0, l.bytes-seconds*volumeRate)
	l.at += seconds * 1e9
	if l.bytes+int64(len(below)) > volumeMax {
		return true
	}
	l.bytes += int64(len(below))
	return false
}

// Domain is what Volume counts by: the last two labels of a name.
func Domain(name string) string {
	d, _ := parent(name)
	return d
}

// parent cuts a name before its last two labels.
func parent(name string) (domain, below string) {
	i := strings.LastIndexByte(name, '.')
	if i > 0 {
		i = strings.LastIndexByte(name[:i], '.')
	}
	if i < 0 {
		return name, ""
	}
	return name[i+1:], name[:i]
}

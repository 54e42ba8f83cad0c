package classify

import (
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

// Fragments carry no ports but in the first one. The first is judged like a
// whole packet, and the others share its fate; nothing is put together. Those
// that overlap, or come without their first, are dropped.

const (
	fragmentLife = int64(30 * time.Second) // RFC 791 3.2, RFC 8200 4.5 allows 60
	maxPieces    = 8                       // separate pieces known of one datagram
	// fragmenters is how many endpoints may have datagrams in pieces at once.
	fragmenters = 256
)

type fragmentKey struct {
	src, dst [16]byte
	id       uint32
	zone     uint16
	proto    policy.Proto
	v6       bool
}

type piece struct{ lo, hi uint16 }

// datagram is what is known of one datagram in pieces.
type datagram struct {
	pieces  [maxPieces]piece
	n       uint8
	forward bool
	reason  policy.Reason
	until   int64
	flow    FlowKey
	end     int // its payload's size, 0 = the last fragment has not come
}

// fragments keeps them apart by endpoint, so that none drives out another's.
type fragments struct {
	each  int
	slots *simplelru.LRU[uint16, *datagrams]
}

type datagrams = simplelru.LRU[fragmentKey, datagram]

func newFragments(each int) *fragments {
	return &fragments{each, newLRU[uint16, *datagrams](fragmenters)}
}

// newLRU panics on sizes below 1.
func newLRU[K comparable, V any](n int) *simplelru.LRU[K, V] {
	lru, err := simplelru.NewLRU[K, V](n, nil)
	if err != nil {
		panic(err)
	}
	return lru
}

// of returns the datagrams met at an endpoint.
func (f *fragments) of(slot uint16) *datagrams {
	d, ok := f.slots.Get(slot)
	if !ok {
		d = newLRU[fragmentKey, datagram](f.each)
		f.slots.Add(slot, d)
	}
	return d
}

func keyOfFragment(p *Packet, in *Ingress) fragmentKey {
	return fragmentKey{p.Src, p.Dst, p.FragmentID, uint16(in.Zone), p.Proto, p.V6}
}

// take notes that [lo, hi) has come and reports whether that is sound: new
// bytes only, within the datagram's end.
func (d *datagram) take(lo, hi int, last bool) bool {
	if d.end != 0 && (hi > d.end || last && hi != d.end) {
		return false
	}
	p := piece{uint16(lo), uint16(hi)}
	for i := 0; i < int(d.n); {
		q := d.pieces[i]
		if p.lo < q.hi && q.lo < p.hi {
			return false
		}
		if last && q.hi > p.hi {
			return false
		}
		if q.hi != p.lo && p.hi != q.lo {
			i++
			continue
		}
		p = piece{min(p.lo, q.lo), max(p.hi, q.hi)}
		d.n--
		d.pieces[i] = d.pieces[d.n]
		i = 0
	}
	if d.n == maxPieces {
		return false
	}
	d.pieces[d.n] = p
	d.n++
	if last {
		d.end = hi
	}
	return true
}

// firstFragment remembers the verdict on a first fragment for those that follow.
func (c *Classifier) firstFragment(p *Packet, in *Ingress, now int64, out *Result) {
	k, datagrams := keyOfFragment(p, in), c.fragments.of(in.Slot)
	d, known := datagrams.Get(k)
	if known && now < d.until {
		// A second first fragment overlaps by nature.
		d.forward, d.reason = false, policy.ReasonFragment
		datagrams.Add(k, d)
		out.Forward, out.Reason, out.Offload = false, policy.ReasonFragment, false
		return
	}
	d = datagram{forward: out.Forward, reason: out.Reason, until: now + fragmentLife}
	if out.Flow != nil {
		d.flow = out.Flow.Key
	}
	d.take(0, p.FragmentSize, false)
	datagrams.Add(k, d)
}

func (c *Classifier) laterFragment(p *Packet, in *Ingress, now int64, out *Result) {
	k, datagrams := keyOfFragment(p, in), c.fragments.of(in.Slot)
	d, known := datagrams.Get(k)
	if !known || now >= d.until {
		c.refuse(p, in, policy.ReasonFragment, out)
		return
	}
	if !d.take(p.FragmentOff, p.FragmentOff+p.FragmentSize, !p.MoreFollow) {
		d.forward, d.reason = false, policy.ReasonFragment
		out.Violation = true
	}
	datagrams.Add(k, d)
	out.Forward, out.Reason = d.forward, d.reason
	out.Verdict = policy.Drop
	if !d.forward {
		return
	}
	out.Verdict = policy.Allow
	f := c.flows.find(&d.flow)
	if f == nil {
		return
	}
	out.Flow, out.Verdict, out.Judgement = f, f.Verdict, f.Judgement
	if !f.Allowed() {
		out.Forward, out.Reason = false, f.Reason
		return
	}
	side := uint8(0)
	if p.Src != f.Key.AddrA {
		side = 1
	}
	f.Packets[side]++
	f.Bytes[side] += uint64(p.Length)
	f.Seen = now
	if f.Verdict != policy.Undecided {
		return
	}
	if f.Key.Proto == policy.ProtoTCP || f.app < 0 { // nothing of it was read
		c.object(f, policy.ReasonFragment, out)
		out.Forward = out.Reason == policy.ReasonNone
		return
	}
	s := &c.states[f.app]
	c.engine.Charge(s, direction(f, side), len(p.Payload))
	if o := s.Outcome(); o.Decided {
		c.weigh(f, s, o, out)
		out.Verdict, out.Judgement = f.Verdict, f.Judgement
		if out.Forward = f.Allowed(); !out.Forward {
			out.Reason = f.Reason
		}
	}
}

func direction(f *Flow, side uint8) appid.Dir {
	if side == f.Initiator {
		return appid.FromClient
	}
	return appid.FromServer
}

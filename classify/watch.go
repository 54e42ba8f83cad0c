package classify

import (
	"time"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

// Policy often decides without asking what is spoken: where it allows any
// application, or where a no is only recorded. What people are told of such
// flows, and what they could allow instead, needs the application all the same.
// So now and then one flow of a pair of addresses and a port is read beside its
// verdict, which stays what it is: a flow that is watched passes whatever it
// says, and only comes to the kernel's map a few packets later.

const (
	watchPackets = 24 // then the search has had its time
	watchPlaces  = 1 << 10
	// watchPause is how long a pair keeps its place from others with the same:
	// so many flows at most are watched at a time.
	watchPause = int64(time.Second)
)

// watchList remembers when flows of which pair were watched last.
type watchList struct {
	every int64 // nanoseconds; 0 = none is watched
	sums  [watchPlaces]uint64
	at    [watchPlaces]int64
}

// watches reports whether f, which begins now and is decided, is to be read.
func (c *Classifier) watches(f *Flow) bool {
	w := &c.watchList
	proto := f.Key.Proto
	if w.every == 0 || f.Verdict != policy.Allow || f.MidStream || proto != policy.ProtoTCP && proto != policy.ProtoUDP {
		return false
	}
	q := f.Query()
	sum := c.flows.sum(&FlowKey{AddrA: q.Src, AddrB: q.Dst, PortB: q.DstPort, Zone: f.Key.Zone, Proto: proto})
	i := sum >> 32 % watchPlaces
	pause := watchPause
	if w.sums[i] == sum {
		pause = w.every
	}
	if w.at[i] != 0 && f.First-w.at[i] < pause {
		return false
	}
	w.sums[i], w.at[i] = sum, f.First
	return true
}

// watch reads a packet of a flow that is watched.
func (c *Classifier) watch(f *Flow, p *Packet) {
	isTCP := p.Proto == policy.ProtoTCP
	switch {
	case f.Packets[0]+f.Packets[1] > watchPackets, f.State == Closed,
		p.Fragment != Whole, isTCP && p.Flags&URG != 0,
		len(p.Payload) > 0 && isTCP && p.Flags&SYN == 0 && !f.hasISN[f.Initiator^1]:
		c.unwatch(f)
		return
	case len(p.Payload) == 0 && (f.app < 0 || !isTCP || p.Flags&ACK == 0), !p.checksumOK():
		return
	}
	s := c.state(f)
	if s == nil {
		f.watched = false
		return
	}
	if isTCP && p.Flags&ACK != 0 {
		s.Acknowledged(direction(f, p.side()^1), p.Ack)
	}
	o := s.Outcome()
	if len(p.Payload) > 0 {
		seq := p.Seq
		if p.Flags&SYN != 0 {
			seq++
		}
		if !c.mayFeed(f, s, p) {
			return // its verdict does not wait for it
		}
		o = c.feed(f, s, direction(f, p.side()), seq, p)
	}
	if o.Decided && o.Anomaly == appid.AnomalyNone && s.MayUpgrade() {
		o = c.engine.Watch(s)
	}
	if o.Decided || o.Anomaly != appid.AnomalyNone {
		c.learn(f, s, o)
	}
}

// unwatch ends the watch with what is known.
func (c *Classifier) unwatch(f *Flow) {
	if f.app >= 0 {
		s := &c.states[f.app]
		c.learn(f, s, c.engine.Finish(s))
	}
	f.watched = false
}

// learn keeps what was found, if it is certain enough to be told. The verdict
// needs no other look: policy gives the same for every application.
func (c *Classifier) learn(f *Flow, s *appid.State, o appid.Outcome) {
	if o.Anomaly == appid.AnomalyNone && !o.Reversed && o.Spoken.App != policy.AppNone && o.Spoken.App != policy.AppUnknown {
		f.Spoken, f.Confidence, f.Evidence, f.Status = o.Spoken, o.Confidence, o.Evidence, o.Status
		if c.decided != nil {
			s.Attrs(&c.attrs)
			c.decided(f, &c.attrs)
		}
	}
	c.release(f)
	f.watched = false
}

// Attrs are what may be shown of a flow beside its application.
type Attrs = appid.Attrs

// Asked is the host that a flow asks for by its own words: the server name of a
// TLS hello, or HTTP's host. It is borrowed from a.
func (f *Flow) Asked(a *Attrs) []byte {
	if name := a.Get(appid.AttrSNI); len(name) > 0 {
		return name
	}
	if f.Spoken.App.Is(policy.AppHTTP) {
		return a.Get(appid.AttrHost)
	}
	return nil
}

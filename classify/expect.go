package classify

import (
	"hash/maphash"
	"net/netip"
	"time"
	"unsafe"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

// Announced flows (R23). The control conversations of FTP, SIP and RTSP stay in
// user space as long as they are in clear, since they may announce a flow at
// any time. What one announces is expected for a while: one flow, between the
// same two peers, to the announced port. It belongs to the control flow's
// statement, unless a statement of its own denies it. An address that is not
// the announcer's own is not believed, so nothing opens towards a third party.

const (
	announcersMax = 256
	expectedMax   = 1024
	expectTCP     = int64(30 * time.Second)
	expectMedia   = int64(2 * time.Minute) // a call may ring
)

// control is the flow that announced another one between the same two addresses.
type control struct {
	proto        policy.Proto // 0 = none
	initiator    uint8
	portA, portB uint16
	app          policy.App
}

// Control is the flow that announced f, as policy sees it; ok is false if none did.
func (f *Flow) Control() (q policy.Query, ok bool) {
	if f.control.proto == 0 {
		return q, false
	}
	parent := Flow{Key: f.Key, Initiator: f.control.initiator}
	parent.Key.PortA, parent.Key.PortB, parent.Key.Proto = f.control.portA, f.control.portB, f.control.proto
	return parent.Query(), true
}

// expected is one flow to come.
type expected struct {
	from, to [16]byte
	zone     uint16
	port     uint16
	proto    policy.Proto
	_        uint8
	app      policy.App
	slot     uint16
	control  control
	until    int64
}

// expectations is a small bucket hash, seeded, since peers choose what is in it;
// in a full bucket the oldest goes.
type expectations struct {
	seed maphash.Seed
	all  []expected
	live int
	of   []uint16 // by slot of the control flow's endpoint, a quarter of all at most
}

func newExpectations() expectations {
	return expectations{seed: maphash.MakeSeed(), all: make([]expected, expectedMax), of: make([]uint16, 1<<16)}
}

// keySize is how much of expected, from its beginning, names the flow.
const keySize = unsafe.Offsetof(expected{}.app)

func (x *expectations) bucket(e *expected) []expected {
	h := maphash.Bytes(x.seed, unsafe.Slice((*byte)(unsafe.Pointer(e)), keySize))
	i := int(h%(expectedMax/bucketSize)) * bucketSize
	return x.all[i : i+bucketSize]
}

func (e *expected) same(o *expected) bool {
	return e.from == o.from && e.to == o.to && e.zone == o.zone && e.port == o.port && e.proto == o.proto
}

func (x *expectations) add(e *expected) {
	b := x.bucket(e)
	at := &b[0] // the same, else the oldest
	for i := range b {
		if b[i].until != 0 && b[i].same(e) {
			at = &b[i]
			break
		}
		if b[i].until < at.until {
			at = &b[i]
		}
	}
	if at.until != 0 {
		x.remove(at)
	}
	if x.of[e.slot] >= expectedMax/4 {
		return
	}
	*at = *e
	x.live++
	x.of[e.slot]++
}

// find returns the expectation of a flow, nil if there is none any more.
func (x *expectations) find(q *policy.Query, now int64) *expected {
	if x.live == 0 {
		return nil
	}
	want := expected{from: q.Src, to: q.Dst, zone: uint16(q.Zone), port: q.DstPort, proto: q.Proto}
	b := x.bucket(&want)
	for i := range b {
		if b[i].until != 0 && b[i].same(&want) {
			if b[i].until < now {
				x.remove(&b[i])
				return nil
			}
			return &b[i]
		}
	}
	return nil
}

func (x *expectations) remove(e *expected) {
	x.of[e.slot]--
	x.live--
	*e = expected{}
}

// forget drops what a control flow announced: it is over.
func (x *expectations) forget(f *Flow) {
	if x.live == 0 {
		return
	}
	for i := range x.all {
		e := &x.all[i]
		if e.until != 0 && e.zone == f.Key.Zone && e.control.proto == f.Key.Proto && e.control.portA == f.Key.PortA && e.control.portB == f.Key.PortB &&
			(e.from == f.Key.AddrA && e.to == f.Key.AddrB || e.from == f.Key.AddrB && e.to == f.Key.AddrA) {
			x.remove(e)
		}
	}
}

// attend begins to read what an allowed control flow announces, from what
// app-ID has kept of it on, if it is not read yet.
func (c *Classifier) attend(f *Flow, s *appid.State, now int64) {
	n := len(c.freeAnnouncers)
	if f.announcer >= 0 || n == 0 || uint32(c.attending[f.Slot]) >= announcersMax/4 {
		return
	}
	f.announcer = c.freeAnnouncers[n-1]
	c.freeAnnouncers = c.freeAnnouncers[:n-1]
	c.attending[f.Slot]++
	a := &c.announcers[f.announcer]
	a.Reset(f.named, f.Key.Proto)
	c.expect(f, a.Adopt(s), now)
}

// announces: f is a control flow that may announce others.
func (f *Flow) announces() bool {
	return f.Verdict == policy.Allow && f.Spoken.Inner == policy.AppNone && appid.Announces(f.Spoken.App)
}

func (c *Classifier) unattend(f *Flow) {
	if f.announcer < 0 {
		return
	}
	c.expected.forget(f)
	c.freeAnnouncers = append(c.freeAnnouncers, f.announcer)
	c.attending[f.Slot]--
	f.announcer = -1
}

// hear reads a packet of a control flow.
func (c *Classifier) hear(f *Flow, p *Packet, now int64) {
	if p.Fragment != Whole || !c.capture && !p.checksumOK() {
		return
	}
	c.expect(f, c.announcers[f.announcer].Feed(direction(f, p.side()), p.Seq, p.Payload), now)
}

// expect notes what f announced.
func (c *Classifier) expect(f *Flow, found []appid.Announcement, now int64) {
	q := f.Query()
	for i := range found {
		a := &found[i]
		e := expected{
			from: q.Src, to: q.Dst, zone: f.Key.Zone, port: a.Port, proto: a.Proto, app: a.App, slot: f.Slot, until: now + expectMedia,
			control: control{f.Key.Proto, f.Initiator, f.Key.PortA, f.Key.PortB, f.named},
		}
		if a.By == appid.FromClient {
			e.from, e.to = q.Dst, q.Src
		}
		if a.Proto == policy.ProtoTCP {
			e.until = now + expectTCP
		}
		if !a.Addr.IsValid() || netip.AddrFrom16(e.to).Unmap() == a.Addr {
			c.expected.add(&e)
		}
	}
}

// admit lets the flow that p begins have what was announced of it: once.
func (c *Classifier) admit(f *Flow, p *Packet, q *policy.Query, now int64, out *Result) bool {
	e := c.expected.find(q, now)
	if e == nil {
		return false
	}
	app := e.app
	if app != policy.AppFTPData {
		ok := false
		if app, ok = appid.Media(p.Payload, app); !ok {
			return false
		}
	}
	f.control = e.control
	j, ok := c.judgeExpected(f, app)
	if !ok {
		f.control = control{}
		return false
	}
	c.expected.remove(e)
	f.Spoken, f.Judgement, f.Verdict, f.Reason = policy.Spoken{App: app}, j, j.Verdict, j.Reason
	f.Confidence, f.Evidence, f.Status = appid.ConfidenceExpected, appid.EvidenceExpectation, appid.StatusNamed
	out.Decided = true
	return true
}

// judgeExpected: a statement of the flow's own counts first, then that of the
// flow that announced it. Not ok: neither lets it pass.
func (c *Classifier) judgeExpected(f *Flow, app policy.App) (j policy.Judgement, ok bool) {
	own := f.Decision.Judge(policy.Spoken{App: app})
	if !own.Denied || own.Reason == policy.ReasonDenied {
		return own, !own.Denied
	}
	q, _ := f.Control()
	j = c.table.Lookup(q).Judge(policy.Spoken{App: f.control.app})
	return j, j.Verdict == policy.Allow
}

// rejudgeExpected applies a newer table to a flow that was announced.
func (c *Classifier) rejudgeExpected(f *Flow, why policy.Reason, out *Result) {
	j, ok := c.judgeExpected(f, f.Spoken.App)
	if !ok && why != policy.ReasonNone && j.Verdict != policy.Allow {
		j.Reason = why
	}
	f.Judgement, f.Verdict, f.Reason = j, j.Verdict, j.Reason
	out.Decided = true
}

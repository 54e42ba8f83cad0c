package dataplane

import (
	"cmp"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"gatehouse/classify"
	"gatehouse/policy"
)

// Violation is one flow that policy did not allow, for one reason; packets of
// no flow are recorded per endpoint, direction and reason, without addresses where
// they could not be read.
type Violation struct {
	First    time.Time      `json:"first"`
	Last     time.Time      `json:"last"`
	Zone     policy.Zone    `json:"zone"`
	Proto    policy.Proto   `json:"proto"`
	Src      netip.AddrPort `json:"src"`      // the flow's initiator
	Dst      netip.AddrPort `json:"dst"`      // its responder
	Endpoint string         `json:"endpoint"` // at whose interface it was seen
	Workload string         `json:"workload"`
	// Initiator: that endpoint is Src's, or sent what is no flow's. Who sent what is
	// no flow's to it is not known.
	Initiator bool `json:"initiator"`
	// Outgoing: that endpoint sent the packet which gave the reason.
	Outgoing bool            `json:"outgoing"`
	From     policy.Identity `json:"from"`
	FromName string          `json:"fromName"`
	To       policy.Identity `json:"to"`
	ToName   string          `json:"toName"`
	Side     policy.Side     `json:"side"` // whose no it was
	Reason   policy.Reason   `json:"reason"`
	Epoch    uint32          `json:"epoch"` // the table that said so
	Rule     int32           `json:"rule"`  // in that table; -1 = none
	// Statement is the ID of the rule's statement, "" where no rule decided.
	Statement string        `json:"statement,omitempty"`
	Spoken    policy.Spoken `json:"spoken"`
	// Name is what a refused query asked for or, where another was allowed, the
	// server that the flow was for, in lower case; "" where nothing said so.
	Name string `json:"name,omitempty"`
	// Mode says what became of it: enforce = dropped, observe = only recorded.
	Mode policy.Mode `json:"mode"`
	// Packets gave the reason, those that the kernel dropped or carried included; or
	// are of the same connection, and came later.
	Packets uint64 `json:"packets"`
	Count   uint64 `json:"count"` // how often user space judged it so
}

// event is what a worker knows of a violation; no pointers but to immutable
// values.
type event struct {
	key        classify.FlowKey // zero where there is no flow
	src, dst   [16]byte         // of the flow's initiator and responder
	sport      uint16
	dport      uint16
	proto      policy.Proto
	reason     policy.Reason
	side       policy.Side
	mode       policy.Mode
	dir        Direction
	rule       int32
	spoken     policy.Spoken
	name       string // Violation.Name; "" in further packets of the flow
	endpoint   *localEndpoint
	table      *policy.Table
	last       int64 // CLOCK_MONOTONIC
	first      int64
	packets    uint32
	judgements uint32
}

// same reports whether two events belong to one record.
func (e *event) same(o *event) bool {
	return e.reason == o.reason && e.key == o.key && e.endpoint == o.endpoint && e.mode == o.mode && e.hook() == o.hook() && (e.name == o.name || o.name == "")
}

// hook tells records of what is no flow's apart: its direction is all that is known of
// who sent it. A flow has one record for both.
func (e *event) hook() Direction {
	if e.key != (classify.FlowKey{}) {
		return Neither
	}
	return e.dir
}

// pendingSlots is how many violations a worker gathers before it hands them on:
// a flood of one flow's packets becomes one event.
const pendingSlots = 512

// pendingEvents gathers a worker's violations, in a table where each has one
// place; who finds it taken hands the holder on.
type pendingEvents struct {
	events [pendingSlots]event
	used   [pendingSlots]bool
	taken  []uint16 // places in use
	out    *mailbox[event]
}

func newPendingEvents(out *mailbox[event]) *pendingEvents {
	return &pendingEvents{taken: make([]uint16, 0, pendingSlots), out: out}
}

// add counts one packet.
func (p *pendingEvents) add(e *event) {
	k := &e.key
	h := binary.LittleEndian.Uint64(k.AddrA[8:])*0x9e3779b97f4a7c15 ^
		binary.LittleEndian.Uint64(k.AddrB[8:])*0xc2b2ae3d27d4eb4f ^
		(uint64(k.PortA)<<24|uint64(k.PortB)<<8|uint64(e.reason))*0x165667b19e3779f9
	if e.endpoint != nil {
		h ^= uint64(e.endpoint.Slot)<<40 | uint64(e.hook())<<56
	}
	i := uint16((h ^ h>>29) * 0xff51afd7ed558ccd >> 55)
	held := &p.events[i]
	switch {
	case !p.used[i]:
		p.used[i] = true
		p.taken = append(p.taken, i)
	case held.same(e):
		held.packets++
		held.judgements++
		held.last = e.last
		held.spoken = e.spoken
		return
	default:
		p.out.put(held)
	}
	*held = *e
	held.first, held.packets, held.judgements = e.last, 1, 1
}

// flush hands on all that is held.
func (p *pendingEvents) flush() {
	for _, i := range p.taken {
		p.out.put(&p.events[i])
		p.events[i] = event{}
		p.used[i] = false
	}
	p.taken = p.taken[:0]
}

// recordsKept bounds the log of violations; the one that was touched longest
// ago goes first.
const recordsKept = 8192

type recordKey struct {
	flow     classify.FlowKey
	reason   policy.Reason
	mode     policy.Mode
	endpoint string
	lookedUp string // of a refused query
	hook     Direction
}

// Violations is the log of violations: bounded, one record per flow and reason.
// Safe for concurrent use.
type Violations struct {
	mu      sync.Mutex
	records *simplelru.LRU[recordKey, *Violation]
	// offloaded finds the last record of a flow that the kernel may carry on.
	offloaded map[classify.FlowKey]recordKey
	made      atomic.Uint64
	lost      atomic.Uint64
	clock     clock
	told      func(v *Violation, packets, lost uint64) // Config.Violated
}

func newViolations(c clock, told func(*Violation, uint64, uint64)) *Violations {
	v := &Violations{
		offloaded: make(map[classify.FlowKey]recordKey),
		clock:     c,
		told:      told,
	}
	v.records, _ = simplelru.NewLRU(recordsKept, func(k recordKey, _ *Violation) {
		if v.offloaded[k.flow] == k {
			delete(v.offloaded, k.flow)
		}
	})
	return v
}

// List returns the records, the one last touched first.
func (v *Violations) List() []Violation {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]Violation, 0, v.records.Len())
	for _, r := range v.records.Values() {
		out = append(out, *r)
	}
	slices.Reverse(out)
	return out
}

// Made is how many records there have been, those that are kept no more included.
func (v *Violations) Made() uint64 { return v.made.Load() }

// Lost is how many events found no room on their way into the log: their
// packets were counted by reason, but have no record.
func (v *Violations) Lost() uint64 { return v.lost.Load() }

// run moves events from the workers' mailbox into the log until ctx ends.
func (v *Violations) run(ctx context.Context, in *mailbox[event]) {
	spare := make([]event, 0, eventsKept)
	for {
		select {
		case <-ctx.Done():
			return
		case <-in.full:
		}
		events, lost := in.take(spare)
		if lost > 0 {
			v.lost.Add(lost)
			v.told(nil, 0, lost)
		}
		for i := range events {
			v.record(&events[i])
		}
		full := len(events) > cap(events)/2
		clear(events)
		spare = events[:0]
		if !full {
			continue
		}
		// A flood of distinct violations loses some rather than take a core.
		select {
		case <-ctx.Done():
		case <-time.After(floodPause):
		}
	}
}

const floodPause = 50 * time.Millisecond

func (v *Violations) record(e *event) {
	r := v.update(e)
	v.told(&r, uint64(e.packets), 0)
}

func (v *Violations) update(e *event) Violation {
	k := recordKey{flow: e.key, reason: e.reason, mode: e.mode, hook: e.hook()}
	if e.endpoint != nil {
		k.endpoint = e.endpoint.ID
	}
	if ofLookup(e.reason) {
		k.lookedUp = e.name
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	last := v.clock.wall(e.last)
	r := v.connectionOf(e, last)
	if r == nil {
		r, _ = v.records.Get(k)
	}
	if r == nil {
		r = newRecord(k, e, v.clock.wall(e.first))
		v.made.Add(1)
		v.records.Add(k, r)
		if k.flow != (classify.FlowKey{}) {
			v.offloaded[k.flow] = k
		}
	}
	r.Last = last
	r.Packets += uint64(e.packets)
	r.Count += uint64(e.judgements)
	if e.reason == r.Reason {
		r.Spoken = e.spoken
	}
	r.Name = cmp.Or(e.name, r.Name)
	return *r
}

// lateMax is how long the ends of a connection send again what nobody answers:
// tcp_retries2 is 924.6 s (ip-sysctl).
const lateMax = 15*time.Minute + 30*time.Second

// connectionOf is the record of the TCP connection that e is of, if that was refused
// lately, at whichever end: what the other end sends then, and what both send once it is
// forgotten, is no violation of its own.
func (v *Violations) connectionOf(e *event, now time.Time) *Violation {
	if e.proto != policy.ProtoTCP || ofLookup(e.reason) {
		return nil
	}
	r, ok := v.kernelRecord(e.key)
	if !ok || e.reason != policy.ReasonNoFlow && r.Src != netip.AddrPortFrom(netip.AddrFrom16(e.src).Unmap(), e.sport) {
		return nil // the other end has begun one of its own
	}
	if r.Mode != e.mode || e.reason != r.Reason && e.reason != policy.ReasonNoFlow || now.Sub(r.Last) > lateMax {
		return nil
	}
	return r
}

// part forgets whose connections those of endpoints were that are gone: who has their
// addresses next has its own.
func (v *Violations) part(gone []*localEndpoint) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range v.offloaded {
		if slices.ContainsFunc(gone, func(l *localEndpoint) bool {
			return l.Zone == policy.Zone(key.Zone) && (l.has(key.AddrA) || l.has(key.AddrB))
		}) {
			delete(v.offloaded, key)
		}
	}
}

// ofLookup reports whether a query was refused for the name that it asked for.
func ofLookup(r policy.Reason) bool {
	return r == policy.ReasonNameRefused || r == policy.ReasonNameTunnel
}

// addKernel adds the packets that the kernel dropped, or let by in observe
// mode, since the last time for a flow that it was told of.
func (v *Violations) addKernel(key classify.FlowKey, packets uint64) {
	v.mu.Lock()
	r, ok := v.kernelRecord(key)
	if !ok {
		v.mu.Unlock()
		return
	}
	r.Packets += packets
	r.Last = time.Now()
	grown := *r
	v.mu.Unlock()
	v.told(&grown, packets, 0)
}

func (v *Violations) kernelRecord(key classify.FlowKey) (*Violation, bool) {
	k, ok := v.offloaded[key]
	if !ok {
		return nil, false
	}
	return v.records.Get(k)
}

func newRecord(k recordKey, e *event, first time.Time) *Violation {
	r := &Violation{
		First:    first,
		Last:     first,
		Zone:     policy.Zone(e.key.Zone),
		Proto:    e.proto,
		Endpoint: k.endpoint,
		Outgoing: e.dir == FromEndpoint, Initiator: e.dir == FromEndpoint,
		Side:   e.side,
		Reason: e.reason,
		Rule:   e.rule,
		Spoken: e.spoken,
		Mode:   e.mode,
	}
	if e.endpoint != nil {
		r.Workload, r.Zone = e.endpoint.Workload, e.endpoint.Zone
	}
	if e.proto != 0 {
		r.Src = netip.AddrPortFrom(netip.AddrFrom16(e.src).Unmap(), e.sport)
		r.Dst = netip.AddrPortFrom(netip.AddrFrom16(e.dst).Unmap(), e.dport)
		r.Initiator = e.endpoint != nil && (e.endpoint.has(e.src) || r.Outgoing && !e.endpoint.has(e.dst))
	}
	if e.table == nil {
		r.Rule = -1
		return r
	}
	r.Epoch = e.table.Epoch()
	if e.proto != 0 {
		q := policy.Query{Zone: r.Zone, Src: e.src, Dst: e.dst, Proto: e.proto, DstPort: e.dport}
		r.From, r.To, _ = e.table.Resolve(q)
		r.FromName, r.ToName = e.table.IdentityName(r.From), e.table.IdentityName(r.To)
	}
	if rules := e.table.Rules(); r.Rule >= 0 && int(r.Rule) < len(rules) {
		r.Statement = e.table.Statements()[rules[r.Rule].Statement].ID
	}
	return r
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"gatehouse/control"
	"gatehouse/control/history"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

// recorder takes what the dataplane tells of flows and violations into the
// history, under the names of the state that they were judged by. It also
// records, now and then, what long-living flows have done so far.
type recorder struct {
	store *history.Store
	plane *dataplane.Dataplane

	names names
	drift *drift

	mu     sync.Mutex
	live   map[liveFlow]*counted // flows that are recorded before their end
	round  uint32
	lately time.Time // of the last look at live flows
	buf    []history.Sample
}

type liveFlow struct {
	zone     policy.Zone
	proto    policy.Proto
	src, dst netip.AddrPort
}

// counted is what the history has of a live flow.
type counted struct {
	first          time.Time
	packets, bytes [2]uint64
	round          uint32
}

const (
	// lookEvery is how often live flows are recorded; longLiving how old they
	// must be.
	lookEvery  = time.Minute
	longLiving = time.Minute
)

func newRecorder(set Settings, log *slog.Logger) *recorder {
	r := &recorder{live: make(map[liveFlow]*counted), drift: openDrift(driftFile(set), log)}
	r.names.init()
	r.store = history.Open(history.Config{Path: set.historyFile(), Bytes: int64(set.HistorySize) << 20, Age: set.historyAge(), Log: log, Describe: func(rec *history.Record) {
		r.names.describe(rec)
		r.drift.observe(rec)
	}})
	return r
}

// run writes the history, and looks at live flows, until ctx ends.
func (r *recorder) run(ctx context.Context) {
	var looking sync.WaitGroup
	looking.Go(func() {
		tick, save := time.NewTicker(lookEvery), time.NewTicker(driftWriteEvery)
		defer tick.Stop()
		defer save.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				r.look(longLiving)
			case <-save.C:
				r.drift.save()
			}
		}
	})
	r.store.Run(ctx)
	looking.Wait()
	r.drift.save()
}

// ended is dataplane.Config.Ended.
func (r *recorder) ended(flows []dataplane.Flow, lost uint64) {
	if lost > 0 {
		r.store.Lose(history.Flow, lost)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = r.buf[:0]
	for i := range flows {
		f := &flows[i]
		s := flowSample(f)
		k := keyOfLive(f)
		if c := r.live[k]; c != nil {
			c.subtract(&s)
			delete(r.live, k)
		}
		r.buf = append(r.buf, s)
	}
	r.store.Add(r.buf)
}

// violated is dataplane.Config.Violated.
func (r *recorder) violated(v *dataplane.Violation, packets, lost uint64) {
	if lost > 0 {
		r.store.Lose(history.Violation, lost)
	}
	if v != nil {
		s := violationSample(v, packets)
		r.store.Add([]history.Sample{s})
	}
}

// look records what live flows of at least that age have done since the last
// look.
func (r *recorder) look(age time.Duration) { r.record(r.plane.Flows(), age) }

func (r *recorder) record(flows []dataplane.Flow, age time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.lately = now
	r.round++
	r.buf = r.buf[:0]
	for i := range flows {
		f := &flows[i]
		if now.Sub(f.First) < age || f.Verdict == policy.Undecided {
			continue
		}
		s, k := flowSample(f), keyOfLive(f)
		c := r.live[k]
		if c != nil {
			c.subtract(&s)
		} else {
			c = new(counted)
			r.live[k] = c
		}
		*c = counted{f.First, f.Packets, f.Bytes, r.round}
		if s.Packets != [2]uint64{} || s.Flows > 0 {
			r.buf = append(r.buf, s)
		}
	}
	for k, c := range r.live {
		if c.round+1 < r.round { // its end was told, or was lost
			delete(r.live, k)
		}
	}
	r.store.Add(r.buf)
}

// catchUp records live flows before somebody asks what has been.
func (r *recorder) catchUp() {
	r.mu.Lock()
	fresh := time.Since(r.lately) < time.Second
	r.mu.Unlock()
	if !fresh {
		r.look(0)
	}
}

// subtract takes out of a sample what the history has of its flow already.
func (c *counted) subtract(s *history.Sample) {
	another := s.First.Sub(c.first).Abs() > time.Second // it began at another time: other flow, same ports
	for i := range 2 {
		another = another || s.Packets[i] < c.packets[i]
	}
	if another {
		return
	}
	for i := range 2 {
		s.Packets[i] -= c.packets[i]
		s.Bytes[i] -= min(c.bytes[i], s.Bytes[i])
	}
	s.Flows = 0
}

func keyOfLive(f *dataplane.Flow) liveFlow { return liveFlow{f.Zone, f.Proto, f.Src, f.Dst} }

func flowSample(f *dataplane.Flow) history.Sample {
	s := history.Sample{
		Key: history.Key{
			Kind: history.Flow, Zone: f.Zone, Proto: f.Proto, Src: f.Src.Addr(), Dst: f.Dst.Addr(), DstPort: f.Dst.Port(), ControlPort: f.ControlPort,
			Workload: f.Workload, Spoken: f.Spoken, Name: f.Host, Verdict: f.Verdict, Denied: f.Denied, Reason: f.Reason, Rule: f.Rule, Epoch: f.Epoch,
		},
		SrcPort: f.Src.Port(), First: f.First, Last: f.Last, Packets: f.Packets, Bytes: f.Bytes, Flows: 1,
	}
	if f.Proto == policy.ProtoICMP || f.Proto == policy.ProtoICMPv6 { // the identifier is no port
		s.DstPort, s.SrcPort = 0, 0
	}
	return s
}

func violationSample(v *dataplane.Violation, packets uint64) history.Sample {
	s := history.Sample{
		Key: history.Key{
			Kind: history.Violation, Zone: v.Zone, Proto: v.Proto, Src: v.Src.Addr(), Dst: v.Dst.Addr(), DstPort: v.Dst.Port(), Spoken: v.Spoken, Name: v.Name,
			Denied: true, Reason: v.Reason, Side: v.Side, Outgoing: v.Outgoing, Rule: v.Rule, Epoch: v.Epoch,
		},
		SrcPort: v.Src.Port(), First: v.Last, Last: v.Last, Packets: [2]uint64{packets, 0},
	}
	if v.Count == 1 {
		s.First, s.Flows = v.First, 1
	}
	if v.Mode == policy.Observe {
		s.Verdict = policy.Allow
	}
	end := 0
	if !v.Initiator {
		end = 1
	}
	s.Workload[end] = v.Workload
	return s
}

// names knows who was who: the present state and the one before it, and the
// workloads that were asked for lately.
type names struct {
	mu     sync.Mutex
	states [2]*control.State // the present one first
	past   *simplelru.LRU[string, history.Party]
}

const pastWorkloads = 4096

func (n *names) init() { n.past, _ = simplelru.NewLRU[string, history.Party](pastWorkloads, nil) }

// follow makes s the present state.
func (n *names) follow(s *control.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.states[1] = n.states[0]
	n.states[0] = s
}

// describe is history.Config.Describe.
func (n *names) describe(r *history.Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r.Port = cmp.Or(r.ControlPort, r.DstPort)
	q := policy.Query{Zone: r.Zone, Src: as16(r.Src), Dst: as16(r.Dst), Proto: r.Proto, DstPort: r.Port}
	for _, s := range n.states {
		if s == nil {
			continue
		}
		from, to, port := policy.IDUnknown, policy.IDUnknown, r.Port
		if r.Src.IsValid() && r.Dst.IsValid() {
			from, to, port = s.Table.Resolve(q)
		}
		n.name(&r.From, s, r.Workload[0], from)
		if n.name(&r.To, s, r.Workload[1], to) {
			r.Port = port
		}
		if r.Epoch == s.Table.Epoch() {
			r.Statement, r.StatementText = statementOf(s.Table, r.Rule)
		}
	}
	for end, p := range [2]*history.Party{&r.From, &r.To} {
		if p.Name == "" && r.Workload[end] != "" {
			p.Name = fmt.Sprintf("%.12s", r.Workload[end])
		}
		if p.Name == "" && (r.Src.IsValid() || r.Dst.IsValid()) {
			p.Name = "@unknown"
		}
	}
}

// name fills in a party that has no name yet, by the workload that it was, else
// by who is at its address.
func (n *names) name(p *history.Party, s *control.State, workload string, id policy.Identity) bool {
	switch {
	case p.Name != "":
		return false
	case workload != "":
		if past, ok := n.past.Get(workload); ok {
			*p = past
			return true
		}
		g := s.Population.Group(workload)
		if g == nil {
			return false
		}
		*p = partyOf(s, g, workload)
		n.past.Add(workload, *p)
		return true
	}
	if g, ok := s.Table.Group(id); ok {
		*p = partyOf(s, &g, "")
		return true
	}
	if id == policy.IDUnknown {
		return false
	}
	*p = history.Party{Name: s.Table.IdentityName(id), Identity: id}
	return true
}

func partyOf(s *control.State, g *policy.Group, workload string) history.Party {
	p := history.Party{Name: g.Service.String(), Service: g.Service, Identity: g.Identity, Model: modelText(g)}
	if workload == "" && len(g.Members) > 0 {
		workload = g.Members[0]
	}
	if w := s.View.Workload(workload); w != nil {
		p.Image = w.Image.Ref
	}
	return p
}

func modelText(g *policy.Group) string { return fmt.Sprintf("%s@%d", g.Model, g.Revision) }

func statementOf(t *policy.Table, rule int32) (id, text string) {
	rules := t.Rules()
	if rule < 0 || int(rule) >= len(rules) {
		return "", ""
	}
	s := t.Statements()[rules[rule].Statement]
	return s.ID, strings.Join(s.Lines(false), "; ")
}

func as16(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

func (r *recorder) status() HistoryStatus {
	st := r.store.Stats()
	return HistoryStatus{File: r.store.Path(), Bytes: st.FileBytes, Since: r.store.Began(), LostFlows: st.LostFlows, LostViolations: st.LostViolations,
		Summed: st.Summed, Damaged: st.Damaged, Problem: r.store.Problem()}
}

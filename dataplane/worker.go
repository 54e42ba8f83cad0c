package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/classify"
	"gatehouse/policy"
)

// The way of a batch, in worker.serve:
//
//	Recv → decode → flows looked for
//	→ of each: endpoint of the steering tag → destination MAC → classify
//	→ Send, Release or reject → Flush → decided flows into the kernel's map
//
// The map is written after the transmit, so that the packets of a flow which
// the kernel then carries cannot overtake the one that decided it. Only for a
// connection that its SYN decides it is written before: nothing can overtake a
// SYN, and its answer is there before the transmit returns. So is that of an
// undecided one, with its SYN or, where the answer came here, with its SYN-ACK, for
// what answers it.

const (
	batchSize = 64
	// idleWait is how long a worker sleeps at most: a quarter of the age at
	// which the kernel programs take its heartbeat for stale.
	idleWait = 50 * time.Millisecond
	// beatEvery is how often a busy worker shows that it is alive.
	beatEvery = 25 * time.Millisecond
	// staleGap is the age of that heartbeat. A worker that finds itself
	// stopped for longer drops what waited meanwhile: the programs have begun
	// to answer for it.
	staleGap = 200 * time.Millisecond
	// lingering is how long a worker looks for more frames before it sleeps: the
	// next segment of a connection that opens is mostly nearer than a core needs
	// to fall asleep and wake up again.
	lingering = 50 * time.Microsecond
	// kickWait is the sleep while a port has frames that the kernel did not
	// take yet.
	kickWait = time.Millisecond
	// eventsEvery is how long violations are gathered before they are handed on.
	eventsEvery = 100 * time.Millisecond
	// checkEvery is how often an idle port is asked whether its device is there.
	checkEvery = time.Second
	// sweepFlows places of the classifier's table are looked at every sweepTurn.
	sweepTurn  = 100 * time.Millisecond
	sweepFlows = 1024
	// stalePasses bounds what is thrown away after a stop; a ring holds less.
	stalePasses = 1024
)

// worker serves one queue of every space's port on one locked thread. All
// fields after control belong to that thread.
type worker struct {
	queue     int
	table     *atomic.Pointer[policy.Table]
	endpoints *atomic.Pointer[endpoints]
	flowMap   FlowMap
	beat      func(queue int, now int64)
	failed    func(space, queue int, err error)
	told      *mailbox[told] // nil where nobody wants to know
	hosts     *hosts
	rejectOwn bool
	absent    bool // what a refused lookup asks for is said to be
	log       *slog.Logger
	clock     clock
	counters  counters

	control struct {
		sync.Mutex
		pending          []func(*worker)
		some             atomic.Bool
		running, stopped bool
		eventFD          int
	}

	ports      []*servedPort
	lost       map[int]bool  // spaces of which the port was given up, and none came since
	polled     []unix.PollFd // the control's eventfd, then ports in order
	classifier *classify.Classifier
	current    *policy.Table              // of this turn
	local      *endpoints                 // of this turn
	packets    [batchSize]classify.Packet // of the batch, as readAhead left them
	unread     [batchSize]policy.Reason   // why one could not be decoded
	keys       [batchSize]classify.FlowKey
	packet     *classify.Packet // the one at hand
	result     classify.Result
	events     *pendingEvents
	frames     [batchSize]Frame
	send, drop []Frame
	opening    []FlowEntry               // decided by a SYN, or undecided: its SYN, or the answer
	decided    []FlowEntry               // decided by any other packet
	over       []classify.FlowKey        // ended flows that the kernel may have
	touched    [touchTurn]*classify.Flow // what touch or readAhead has looked up
	closed     departures
	answered   departures
	lookups    *lookups // nil where nothing is learned of names
	now        int64    // of this turn
	lastTurn   int64
	lastBusy   int64 // when frames last came
	lastBeat   int64
	lastEvents int64
	lastSweep  int64
	lastCheck  int64
	lastFull   int64 // when a full flow map was last logged
}

func newWorker(d *Dataplane, queue int) (*worker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	w := &worker{
		queue:     queue,
		table:     &d.table,
		endpoints: &d.endpoints,
		flowMap:   d.config.FlowMap,
		beat:      d.config.Beat,
		failed:    d.config.PortFailed,
		told:      d.told,
		hosts:     d.hosts,
		rejectOwn: d.config.RejectOwn,
		absent:    d.config.RefusedAbsent,
		log:       d.config.Logger,
		clock:     d.clock,
		local:     d.endpoints.Load(),
		events:    newPendingEvents(d.events),
		// A frame can become three: the answer to its sender, and itself.
		send:     make([]Frame, 0, 2*batchSize),
		drop:     make([]Frame, 0, 2*batchSize),
		decided:  make([]FlowEntry, 0, batchSize),
		over:     make([]classify.FlowKey, 0, 2*sweepFlows),
		closed:   newDepartures(closedGrace),
		answered: newDepartures(answeredGrace),
	}
	w.control.eventFD = fd
	if d.config.Names != nil {
		w.lookups = newLookups(d.config.Names)
	}
	w.classifier = classify.New(classify.Config{Flows: d.config.Flows, PerEndpoint: d.config.PerEndpoint, WatchEvery: d.config.WatchEvery, Answer: w.flowMap.Answer, Ended: w.flowEnded, Decided: w.flowRead})
	w.setPolled()
	return w, nil
}

type servedPort struct {
	Port
	space int
}

// do runs f on the worker's thread before its next batch; false after the
// worker has stopped.
func (w *worker) do(f func(*worker)) bool {
	w.control.Lock()
	defer w.control.Unlock()
	if w.control.stopped {
		return false
	}
	w.control.pending = append(w.control.pending, f)
	w.control.some.Store(true)
	w.wake()
	return true
}

// ask is do, and waits until f has run if the worker is running.
func (w *worker) ask(f func(*worker)) bool {
	done := make(chan struct{})
	if !w.do(func(w *worker) { defer close(done); f(w) }) {
		return false
	}
	w.control.Lock()
	running := w.control.running
	w.control.Unlock()
	if running {
		<-done
	}
	return true
}

func (w *worker) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(w.control.eventFD, one[:])
}

// run serves until ctx ends, then closes the ports.
func (w *worker) run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.control.Lock()
	w.control.running = true
	w.control.Unlock()
	woken := make(chan struct{})
	context.AfterFunc(ctx, func() { defer close(woken); w.wake() })
	for ctx.Err() == nil {
		switch {
		case w.turn():
			w.lastBusy = w.now
		case w.now-w.lastBusy < int64(lingering):
			// Whoever else wants the core gets it.
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		default:
			w.sleep()
		}
	}
	w.runControl(true)
	w.events.flush()
	var errs []error
	for _, p := range w.ports {
		errs = append(errs, p.Close())
	}
	w.ports = nil
	<-woken
	return errors.Join(append(errs, unix.Close(w.control.eventFD))...)
}

// turn is one pass over all ports; false when there was nothing to do.
func (w *worker) turn() bool {
	w.now = w.clock.now()
	if w.lastTurn != 0 && w.now-w.lastTurn > int64(staleGap) {
		w.dropStale()
	}
	w.lastTurn = w.now
	if w.now-w.lastBeat >= int64(beatEvery) {
		w.beat(w.queue, w.now)
		w.lastBeat = w.now
	}
	if w.control.some.Load() {
		w.runControl(false)
	}
	w.follow()
	busy, check := false, w.now-w.lastCheck >= int64(checkEvery)
	if check {
		w.lastCheck = w.now
	}
	for i := 0; i < len(w.ports); i++ {
		p := w.ports[i]
		n := p.Recv(w.frames[:])
		if n == 0 && p.Pending() == 0 && !check {
			continue
		}
		busy = busy || n > 0
		if err := w.serve(p, w.frames[:n]); err != nil {
			w.giveUp(i, err)
			i--
		}
	}
	w.keepHouse()
	return busy
}

// follow takes over a new table and a new set of endpoints. Flows of endpoints
// that are gone end here, before a frame of whoever has their addresses next is
// judged.
func (w *worker) follow() {
	if t := w.table.Load(); t != w.current {
		w.current = t
		w.classifier.SetTable(t)
	}
	e := w.endpoints.Load()
	if e == w.local {
		return
	}
	if gone := w.local.gone(e); len(gone) > 0 && w.classifier.Len() > 0 {
		w.retireFlowsOf(gone) // they still have their names
	}
	w.local = e
}

func (w *worker) retireFlowsOf(gone []*localEndpoint) {
	addrs := make(map[zoneAddr]bool)
	for _, l := range gone {
		for _, a := range l.Addrs {
			addrs[zoneAddr{l.Zone, a}] = true
		}
	}
	var keys []classify.FlowKey
	w.classifier.Each(func(f *classify.Flow) bool {
		zone := policy.Zone(f.Key.Zone)
		if addrs[zoneAddr{zone, f.Key.AddrA}] || addrs[zoneAddr{zone, f.Key.AddrB}] {
			keys = append(keys, f.Key)
		}
		return true
	})
	for _, k := range keys {
		w.classifier.Retire(k)
	}
	w.forget()
}

// keepHouse does now and then what no packet asks for.
func (w *worker) keepHouse() {
	w.depart()
	if w.now-w.lastSweep >= int64(sweepTurn) && w.classifier.Len() > 0 {
		w.lastSweep = w.now
		w.classifier.Sweep(w.now, sweepFlows)
		w.forget()
	}
	if len(w.events.taken) > 0 && w.now-w.lastEvents >= int64(eventsEvery) {
		w.lastEvents = w.now
		w.events.flush()
	}
}

// flowEnded is called by the classifier for every flow that it forgets.
func (w *worker) flowEnded(f *classify.Flow) {
	w.tell(f, nil)
	if f.Lookups && w.lookups != nil {
		w.lookups.reader.Forget(f.Key)
	}
	if !offloads(f) {
		return
	}
	if len(w.over) == cap(w.over) {
		w.forget()
	}
	w.over = append(w.over, f.Key)
}

// forget takes ended flows out of the kernel's map.
func (w *worker) forget() {
	if len(w.over) == 0 {
		return
	}
	if err := w.flowMap.Delete(w.over); err != nil {
		w.log.Error("cannot delete ended flows", "queue", w.queue, "flows", len(w.over), "err", err)
	}
	w.over = w.over[:0]
}

// touchTurn is how many flows are looked up at once.
const touchTurn = batchSize

// touch tells the classifier what the kernel carried.
func (w *worker) touch(ts []touch) {
	var keys [touchTurn]classify.FlowKey
	for len(ts) > 0 {
		n := min(touchTurn, len(ts))
		for i := range n {
			keys[i] = ts[i].key
		}
		w.classifier.FindAll(keys[:n], w.touched[:n])
		for i, f := range w.touched[:n] {
			if f != nil {
				w.classifier.Touch(f, ts[i].packets, ts[i].bytes, ts[i].closed, ts[i].seen)
				w.seeOff(f)
			}
		}
		ts = ts[n:]
	}
}

// adopt takes over flows that a former process left in the kernel's map.
func (w *worker) adopt(entries []FlowEntry) (n int) {
	w.follow()
	defer w.forget()
	for i := range entries {
		e := &entries[i]
		if e.Verdict == policy.Undecided || e.Stays { // what was read of it is lost
			w.over = append(w.over, e.Key)
			continue
		}
		owner := w.local.charged(e)
		if owner == nil {
			continue
		}
		ok := w.classifier.Adopt(classify.Entry{
			Key:       e.Key,
			Epoch:     e.Epoch,
			Initiator: e.Initiator,
			Slot:      owner.number,
			Verdict:   e.Verdict,
			Reason:    e.Reason,
			Spoken:    policy.Spoken{App: e.App, Sub: e.Sub, Inner: e.Inner, ALPN: e.ALPN},
			Closed:    e.Closed,
			Old:       e.Old,
		}, w.clock.now())
		if ok {
			n++
		}
	}
	return n
}

// sleep waits for frames, for control, or for the next heartbeat.
func (w *worker) sleep() {
	wait := idleWait
	for _, p := range w.ports {
		if p.Pending() > 0 {
			wait = kickWait
			break
		}
	}
	n, err := unix.Poll(w.polled, int(wait/time.Millisecond))
	if err != nil || n == 0 || w.polled[0].Revents == 0 {
		return
	}
	var b [8]byte
	_, _ = unix.Read(w.control.eventFD, b[:])
}

func (w *worker) runControl(last bool) {
	w.control.Lock()
	pending := w.control.pending
	w.control.pending = nil
	w.control.some.Store(false)
	w.control.stopped = w.control.stopped || last
	w.control.Unlock()
	for _, f := range pending {
		f(w)
	}
}

func (w *worker) addPort(space int, p Port) {
	w.ports = append(w.ports, &servedPort{p, space})
	w.setPolled()
	if w.lost[space] {
		delete(w.lost, space)
		w.log.Info("the slow path is back: new flows of its endpoints are judged again", "space", space, "queue", w.queue)
	}
}

// removePorts closes the ports of a space.
func (w *worker) removePorts(space int) error {
	var errs []error
	kept := w.ports[:0]
	for _, p := range w.ports {
		if p.space == space {
			errs = append(errs, p.Close())
			continue
		}
		kept = append(kept, p)
	}
	clear(w.ports[len(kept):])
	w.ports = kept
	w.setPolled()
	delete(w.lost, space)
	return errors.Join(errs...)
}

// giveUp closes a port that the kernel has taken away. Its endpoints' new flows
// are dropped until somebody opens another.
func (w *worker) giveUp(i int, err error) {
	p := w.ports[i]
	w.ports = append(w.ports[:i], w.ports[i+1:]...)
	w.setPolled()
	err = errors.Join(err, p.Close())
	if w.lost == nil {
		w.lost = make(map[int]bool)
	}
	w.lost[p.space] = true
	w.log.Error("the slow path is gone: new flows of its endpoints are dropped until it is opened again",
		"space", p.space, "queue", w.queue, "err", err)
	go w.failed(p.space, w.queue, err)
}

func (w *worker) setPolled() {
	w.polled = append(w.polled[:0], unix.PollFd{Fd: int32(w.control.eventFD), Events: unix.POLLIN})
	for _, p := range w.ports {
		w.polled = append(w.polled, unix.PollFd{Fd: int32(p.FD()), Events: unix.POLLIN})
	}
}

// dropStale throws away what waited while the process was stopped.
func (w *worker) dropStale() {
	for _, p := range w.ports {
		for range stalePasses {
			n := p.Recv(w.frames[:])
			if n == 0 {
				break
			}
			for i := range n {
				f := &w.frames[i]
				w.count(f, at(w.local.slots[p.space], f.Slot), policy.ReasonStale)
			}
			p.Release(w.frames[:n])
			w.counters.dropped.Add(uint64(n))
		}
	}
}

// fewFrames are judged one after the other as fast as together.
const fewFrames = 2

// readAhead decodes a batch and looks for its flows, so that the memory that
// judging it will wait for is waited for at once.
func (w *worker) readAhead(frames []Frame, slots []*localEndpoint) {
	for i := range frames {
		p := &w.packets[i]
		w.unread[i] = classify.Decode(frames[i].Data, frames[i].L3, p)
		w.keys[i] = p.Key
		if ep := at(slots, frames[i].Slot); ep != nil {
			w.keys[i].Zone = uint16(ep.Zone)
		}
	}
	if n := len(frames); n > fewFrames {
		w.classifier.FindAll(w.keys[:n], w.touched[:n])
	}
}

// serve judges a batch and gives every frame back to the port. The error is the
// port's end.
func (w *worker) serve(p *servedPort, frames []Frame) error {
	slots := w.local.slots[p.space]
	w.send, w.drop, w.opening, w.decided = w.send[:0], w.drop[:0], w.opening[:0], w.decided[:0]
	w.readAhead(frames, slots)
	for i := range frames {
		w.packet = &w.packets[i]
		w.judge(p, &frames[i], at(slots, frames[i].Slot), w.unread[i])
	}
	// An entry of a conversation that is over must not speak for the one that
	// a frame of this batch begins on the same key.
	w.forget()
	w.offload(w.opening)
	if len(w.send) > 0 {
		p.Send(w.send)
		w.counters.forwarded.Add(uint64(len(w.send)))
	}
	if len(w.drop) > 0 {
		p.Release(w.drop)
		w.counters.dropped.Add(uint64(len(w.drop)))
	}
	if err := p.Flush(); err != nil {
		return fmt.Errorf("space %d queue %d: %w", p.space, w.queue, err)
	}
	w.offload(w.decided)
	return nil
}

// offload writes flows into the kernel's map.
func (w *worker) offload(entries []FlowEntry) {
	if len(entries) == 0 {
		return
	}
	opened := 0
	for i := range entries {
		if entries[i].Verdict == policy.Undecided {
			opened++
		}
	}
	err := w.flowMap.Put(entries)
	if err == nil {
		w.counters.opened.Add(uint64(opened))
		w.counters.offloaded.Add(uint64(len(entries) - opened))
		return
	}
	// Flows that are not in the map go on through user space.
	w.counters.notOffloaded.Add(uint64(len(entries)))
	if w.now-w.lastFull > int64(time.Minute) {
		w.lastFull = w.now
		w.log.Warn("flows stay in user space", "queue", w.queue, "err", err)
	}
}

// flows lists what the classifier knows.
func (w *worker) flows() []Flow {
	out := make([]Flow, 0, w.classifier.Len())
	w.classifier.Each(func(f *classify.Flow) bool {
		x := newFlow(f, w.clock)
		x.setEndpoints(w.local)
		x.Host = w.hosts.get(f.Key)
		x.Offloaded = f.Verdict != policy.Undecided && w.flowMap.Has(&f.Key)
		out = append(out, x)
		return true
	})
	return out
}

package afxdp

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
)

// newPairLane has eth1 and eth2 to pair, whose far ends are far1 and far2, all
// in one namespace.
func newPairLane(t *testing.T) (l lane, p *Pair) {
	l = newLane(t, 1500)
	for _, n := range []string{"1", "2"} {
		l.ip(t, "link", "add", "eth"+n, "numrxqueues", n, "numtxqueues", n, "type", "veth", "peer", "name", "far"+n, "numrxqueues", n, "numtxqueues", n)
		l.up(t, "eth"+n, "far"+n)
		run(t, "ip", "netns", "exec", l.name, "ethtool", "-K", "far"+n, "txvlan", "off")
	}
	p, notes, err := OpenPair(PairConfig{NetNS: l.ns, Interfaces: [2]string{"eth1", "eth2"}, Frames: 512})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPERM) {
		t.Skipf("missing capability: AF_XDP: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(notes) > 0 {
		t.Errorf("nothing is worth a note: %q", notes)
	}
	t.Cleanup(func() { must(t, p.Close()) })
	return l, p
}

// balance fails unless every frame is in one place, and the caller holds none.
func (p *Pair) balance(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reap()
	sum := len(p.free) + p.held
	for _, q := range p.queues {
		sum += q.filled + q.inFlight
	}
	if sum != p.frames || p.held != 0 {
		t.Errorf("%d of %d frames, %d held", sum, p.frames, p.held)
	}
}

// take receives n frames.
func (p *Pair) take(t *testing.T, n int) []dataplane.Frame {
	t.Helper()
	frames := make([]dataplane.Frame, n)
	for got := 0; got < n; {
		fds := []unix.PollFd{{Fd: int32(p.FD()), Events: unix.POLLIN}}
		if ready, err := unix.Poll(fds, int(patience.Milliseconds())); ready == 0 && !errors.Is(err, unix.EINTR) {
			t.Fatalf("%d of %d frames came", got, n)
		}
		got += p.Recv(frames[got:])
	}
	return frames
}

func TestPairCarries(t *testing.T) {
	l, p := newPairLane(t)
	far := [2]wire{l.wire(t, "far1"), l.wire(t, "far2")}
	for side := range far {
		for _, v6 := range []bool{false, true} {
			want := packet(t, 7, v6, 1400)
			want = append(want[:12:12], want[16:]...) // without the tag
			for range 3000 {                          // more than there are frames
				far[side].write(t, want)
				frames := p.take(t, 1)
				if f := frames[0]; f.L3 != 14 || int(f.Slot) != side || f.Dir != dataplane.FromEndpoint || !bytes.Equal(f.Data, want) {
					t.Fatalf("%+v", f)
				}
				p.Send(frames)
				must(t, p.Flush())
				if got := far[1-side].arrives(t); !bytes.Equal(got, want) {
					t.Fatalf("%d bytes came, want %d", len(got), len(want))
				}
			}
		}
	}
	p.balance(t)
	if s := p.Stats(); s.Received != 12000 || s.Sent != 12000 || s.Malformed+s.Invalid+s.NoFrame != 0 {
		t.Errorf("%+v", s)
	}
}

func TestPairAnswersAndReleases(t *testing.T) {
	l, p := newPairLane(t)
	far := [2]wire{l.wire(t, "far1"), l.wire(t, "far2")}
	frame := packet(t, 7, false, 100)
	for side := range far {
		far[side].write(t, frame)
		p.Release(p.take(t, 1))
		f, ok := p.Alloc()
		if !ok || f.L3 != 14 || len(f.Data) < 1514 {
			t.Fatalf("%v %+v", ok, f)
		}
		f.Data = f.Data[:copy(f.Data, frame)]
		f.Slot, f.Dir = uint16(side), dataplane.ToEndpoint
		p.Send([]dataplane.Frame{f})
		must(t, p.Flush())
		if got := far[side].arrives(t); !bytes.Equal(got, frame) {
			t.Errorf("the answer came as %x", got)
		}
		if got := far[1-side].read(t); got != nil {
			t.Errorf("the other side got %x", got)
		}
	}
	p.balance(t)
}

// A flood on one side leaves the other its frames.
func TestPairFlood(t *testing.T) {
	l, p := newPairLane(t)
	far := [2]wire{l.wire(t, "far1"), l.wire(t, "far2")}
	frame := packet(t, 7, false, 100)
	for range 5000 {
		far[0].write(t, frame)
	}
	far[1].write(t, frame)
	var fromOther int
	var frames [64]dataplane.Frame
	within(func() bool {
		for n := p.Recv(frames[:]); n > 0; n = p.Recv(frames[:]) {
			for _, f := range frames[:n] {
				fromOther += int(f.Slot)
			}
			p.Release(frames[:n])
		}
		return fromOther > 0
	})
	if fromOther != 1 {
		t.Errorf("%d frames of the quiet side, want the one", fromOther)
	}
	if s := p.Stats(); s.NoFrame == 0 {
		t.Errorf("the flood was not more than there was room for: %+v", s)
	}
	p.balance(t)
}

func TestPairDoesNotAllocate(t *testing.T) {
	_, p := newPairLane(t)
	var frames [64]dataplane.Frame
	if n := testing.AllocsPerRun(100, func() {
		f, _ := p.Alloc()
		f.Data = f.Data[:60]
		frames[0] = f
		p.Send(frames[:1])
		_ = p.Flush()
		p.Release(frames[:p.Recv(frames[:])])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPairConfig(t *testing.T) {
	for frames, want := range map[int]string{100: "power of two", 300: "power of two"} {
		if _, _, err := OpenPair(PairConfig{Interfaces: [2]string{"a", "b"}, Frames: frames}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d frames: %v", frames, err)
		}
	}
	if _, _, err := OpenPair(PairConfig{Interfaces: [2]string{"ghx-a", "ghx-b"}}); err == nil ||
		!strings.Contains(err.Error(), "no interface ghx-a") || !strings.Contains(err.Error(), "no interface ghx-b") {
		t.Errorf("%v: want it to name both", err)
	}
	if _, err := RemovePair(PairConfig{Interfaces: [2]string{"ghx-a", "ghx-b"}}); err != nil {
		t.Errorf("what is gone needs no removal: %v", err)
	}
}

// What happens to an interface without the sockets' noticing is told when it
// happens, and said.
func TestPairCheck(t *testing.T) {
	l, p := newPairLane(t)
	config := PairConfig{NetNS: l.ns, Interfaces: [2]string{"eth1", "eth2"}}
	hints := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { _ = WatchPair(ctx, config, hints) })
	t.Cleanup(func() { cancel(); watching.Wait() })
	told := func(what, want string) {
		t.Helper()
		for range 100 {
			<-hints
			err := p.Check()
			if err == nil && want == "" || err != nil && want != "" && strings.Contains(err.Error(), want) {
				return
			}
		}
		t.Fatalf("%s: %v, want %q", what, p.Check(), want)
	}
	told("at first", "")
	l.ip(t, "link", "set", "eth2", "down")
	told("down", "eth2 is down")
	l.ip(t, "link", "set", "eth2", "up")
	told("up", "")
	l.ip(t, "link", "set", "eth1", "name", "was1")
	told("renamed", "interface eth1 is gone")
	l.ip(t, "link", "add", "eth1", "type", "veth", "peer", "name", "other1")
	told("another in its place", "eth1 is another interface now")
	l.ip(t, "link", "del", "eth1")
	l.ip(t, "link", "set", "was1", "name", "eth1")
	told("as before", "")
	l.ip(t, "link", "set", "eth2", "xdp", "off")
	told("without its program", "took the XDP program off eth2")
	l.ip(t, "link", "del", "eth2")
	told("gone", "interface eth2 is gone")
}

package ruleset

import (
	"net/netip"
	"slices"
	"testing"
)

// to is a rule for one address.
func to(id uint32, addr string) Rule {
	return Rule{ID: id, Dst: netip.PrefixFrom(netip.MustParseAddr(addr), 32), SrcPorts: AnyPort, DstPorts: AnyPort, AnyProto: true}
}

func headerTo(addr string) *Header {
	return &Header{Src: netip.MustParseAddr("10.0.0.1").As16(), Dst: netip.MustParseAddr(addr).As16()}
}

// TestRebuildBetween: a change that a rebuild overtakes is not lost, nor is one
// that the rebuild has read before it was published.
func TestRebuildBetween(t *testing.T) {
	s, err := New([]Rule{to(1, "10.1.0.1"), to(2, "10.1.0.2")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	rebuilt := func(from *View) *View {
		b, err := newBase(from.Rules(), s.opts, from.base, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b.view(from.seq)
	}
	if err := s.Insert(to(3, "10.1.0.3")); err != nil {
		t.Fatal(err)
	}
	// A rebuild publishes between a writer's copy and its own publishing.
	v := s.View()
	late := v.copied()
	fresh := s.install(rebuilt(v), v)
	late.delete(1)
	if s.publish(v, late) || s.View() != fresh {
		t.Fatal("a View of the old base was published over the new one")
	}
	if s.Lookup(headerTo("10.1.0.1")) != 1 || v.First(headerTo("10.1.0.1")).ID != 1 {
		t.Error("a change that was not published shows")
	}
	if err := s.Delete(1); err != nil {
		t.Fatal(err)
	}
	// A rebuild reads a change that its writer has not published yet.
	v = s.View()
	early := v.copied()
	early.insert(&Rule{ID: 4, Dst: to(4, "10.1.0.4").Dst, SrcPorts: AnyPort, DstPorts: AnyPort, AnyProto: true})
	n, published := rebuilt(v), make(chan *View)
	go func() { published <- s.install(n, v) }()
	if !s.publish(v, early) {
		t.Fatal("nobody had published, and the writer was refused")
	}
	if got := <-published; got != s.View() || got.seq != early.seq || len(got.overlay) != 1 {
		t.Errorf("the rebuild published %d changes of %d", got.seq, early.seq)
	}
	for addr, want := range map[string]uint32{"10.1.0.1": NoRule, "10.1.0.2": 2, "10.1.0.3": 3, "10.1.0.4": 4} {
		if got := s.Lookup(headerTo(addr)); got != want {
			t.Errorf("%s: rule %d, want %d", addr, int32(got), int32(want))
		}
	}
}

// TestRebuildEndsBetween: a rebuild that ends after a writer has published, and before
// the writer looks whether one is due, leaves nothing due. One of the View that is over
// would follow changes that nobody tells it of, and never end.
func TestRebuildEndsBetween(t *testing.T) {
	s, err := New([]Rule{to(1000, "10.2.0.1")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.rebuild.Store(&rebuild{}) // under way
	for i := range uint32(foldAt) {
		if err := s.Insert(to(i, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}).String())); err != nil {
			t.Fatal(err)
		}
	}
	over := s.View()
	if !s.isDue(over) {
		t.Fatal("none is due: the test shows nothing")
	}
	b, err := newBase(over.Rules(), s.opts, over.base, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.install(b.view(over.seq), over)
	s.rebuild.Store(nil)
	s.foldIfDue()
	if s.rebuild.Load() != nil {
		t.Fatal("a rebuild of what was just built")
	}
}

// TestChangesNoAllocs: until a rebuild is due a change allocates nothing, so that
// no garbage collection makes it wait.
func TestChangesNoAllocs(t *testing.T) {
	rules := make([]Rule, 100)
	for i := range rules {
		rules[i] = to(uint32(i), netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}).String())
	}
	s, err := New(rules, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(foldAt/4-2, func() {
		if err := s.Delete(7); err != nil {
			t.Fatal(err)
		}
		if err := s.Insert(rules[7]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s.View().since.begin != 0 {
		t.Error("it was rebuilt: the test shows nothing")
	}
}

// TestLog: a cursor finds every change that follows, over the parts of the list.
func TestLog(t *testing.T) {
	h := &history{begin: 10, first: &changes{list: make([]change, 3)}}
	h.last = h.first
	const n = 3 + 2*foldAt + 5
	for i := range uint32(n) {
		h.note(change{rule: Rule{ID: i}})
	}
	for _, from := range []uint32{0, 2, 3, 4, 3 + foldAt, n} {
		c := h.after(10 + uint64(from))
		for i := from; i < n; i++ {
			if got := c.next(); got == nil || got.rule.ID != i {
				t.Fatalf("from %d: %+v, want change %d", from, got, i)
			}
		}
		if c.next() != nil {
			t.Errorf("from %d: one too many", from)
		}
	}
}

// TestRulesInOrder: a View has its rules in the order in which they match, those
// that came among those that were there.
func TestRulesInOrder(t *testing.T) {
	at := func(id, priority uint32) Rule {
		r := to(id, netip.AddrFrom4([4]byte{10, 3, 0, byte(id)}).String())
		r.Priority = priority
		return r
	}
	s, err := New([]Rule{at(1, 40), at(2, 20), at(3, 20), at(4, 30)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.Insert(at(7, 25)), s.Insert(at(0, 20)), s.Insert(at(6, 50)), s.Insert(at(8, 10)),
		s.Delete(4), s.Delete(6), s.Insert(at(4, 45))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var got []uint32
	for _, r := range s.View().Rules() {
		got = append(got, r.ID)
	}
	if want := []uint32{8, 0, 2, 3, 7, 1, 4}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestBlockIndex: a block is found where it was stored, over all growth.
func TestBlockIndex(t *testing.T) {
	x := newBlockIndex(0)
	var places []uint16
	block := make([]uint16, blockSize)
	for pass := range 2 {
		for i := range uint32(1000) {
			block[0], block[blockSize-1] = uint16(i), uint16(i/7)
			at, ok := x.find(block, places)
			if at != i || ok != (pass == 1) {
				t.Fatalf("block %d: at %d, known %v", i, at, ok)
			}
			if !ok {
				places = append(places, block...)
			}
		}
	}
}

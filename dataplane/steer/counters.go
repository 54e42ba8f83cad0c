package steer

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// Counters is what the programs have counted since they were first loaded, over
// all namespaces and restarts.
type Counters struct {
	Drops dataplane.Drops // frames dropped in the kernel

	Hits      uint64 // packets carried by the flow map; a super-packet is one
	Peer      uint64 // of those and of Returned, put straight into the peer's namespace
	Steered   uint64 // packets handed to user space
	Returned  uint64 // frames that came back from it
	Open      uint64 // passed unjudged: the gateway was down or too busy and the endpoint is open then
	Unguarded uint64 // passed: the port is not guarded, or not admitted yet in an open network
	Noise     uint64 // the host's own multicast chatter, dropped
}

// Counters reads the counters of all CPUs.
func (s *Steer) Counters() (Counters, error) { return readCounters(s.maps.Counters) }

// reasonsRoom is the program's REASONS.
const reasonsRoom = uint32(steerCounterCOUNT_HIT) / uint32(dataplane.Directions)

func readCounters(m *ebpf.Map) (c Counters, err error) {
	for dir := range dataplane.Directions {
		for r := range policy.ReasonCount {
			if err := readCounter(m, uint32(dir)*reasonsRoom+uint32(r), &c.Drops[dir][r]); err != nil {
				return c, err
			}
		}
	}
	for i, to := range map[steerCounter]*uint64{
		steerCounterCOUNT_HIT:       &c.Hits,
		steerCounterCOUNT_PEER:      &c.Peer,
		steerCounterCOUNT_STEERED:   &c.Steered,
		steerCounterCOUNT_RETURNED:  &c.Returned,
		steerCounterCOUNT_OPEN:      &c.Open,
		steerCounterCOUNT_UNGUARDED: &c.Unguarded,
		steerCounterCOUNT_NOISE:     &c.Noise,
	} {
		if err := readCounter(m, uint32(i), to); err != nil {
			return c, err
		}
	}
	return c, nil
}

func readCounter(m *ebpf.Map, i uint32, to *uint64) error {
	var perCPU []uint64
	if err := m.Lookup(i, &perCPU); err != nil {
		return fmt.Errorf("read counter %d: %w", i, err)
	}
	for _, n := range perCPU {
		*to += n
	}
	return nil
}

// SlowPathDrops is how many frames the devices of the slow path had no room for, on
// their way to user space, which was slower than they came, or back. Whose they were
// is not known.
func (s *Steer) SlowPathDrops() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := s.lost
	for _, sp := range s.spaces {
		if err := sp.readLost(); err != nil {
			return 0, fmt.Errorf("counters of the slow path in %s: %w", nsName(sp.NetNS), err)
		}
		total += sp.lost
	}
	return total, nil
}

// readLost reads what the devices refused to send: a veth whose other end's queue is
// full, a TAP's own. A device that is gone has what was read of it last.
func (sp *Space) readLost() error {
	return sp.ns.do(func() error {
		var lost uint64
		for _, ifindex := range slices.Compact([]uint32{sp.gh0, sp.gh1}) {
			l, err := netlink.LinkByIndex(int(ifindex))
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				return nil
			}
			if err != nil {
				return err
			}
			if n := l.Attrs().Statistics; n != nil {
				lost += n.TxDropped
			}
		}
		sp.lost = lost
		return nil
	})
}

// EndpointDrops is what one endpoint's two hooks dropped before anybody judged it, by
// dataplane.Direction: of what it sent, and of what was sent to it.
type EndpointDrops [2][policy.ReasonCount]uint32

// NewDrops returns what the hooks of an admitted endpoint have dropped since it was
// last asked, by this gateway or an earlier one; false if there is none of that id.
func (s *Steer) NewDrops(id string) (fresh EndpointDrops, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.endpoints[id]
	if e == nil {
		return fresh, false, nil
	}
	var p steerPort
	told := p.Dropped
	if err := s.maps.Ports.Lookup(e.portKey(), &p); err != nil {
		return fresh, false, fmt.Errorf("drops at endpoint %s: %w", id, err)
	}
	if err := s.maps.Told.Lookup(e.portKey(), &told); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fresh, false, fmt.Errorf("drops told of endpoint %s: %w", id, err)
	}
	if told == p.Dropped {
		return fresh, true, nil
	}
	for dir := range fresh {
		for r := range fresh[dir] {
			// It wraps, and an update may take a few back.
			fresh[dir][r] = uint32(max(int32(p.Dropped[dir][r]-told[dir][r]), 0))
		}
	}
	if err := s.maps.Told.Put(e.portKey(), p.Dropped); err != nil {
		return EndpointDrops{}, false, fmt.Errorf("note the drops told of endpoint %s: %w", id, err)
	}
	return fresh, true, nil
}

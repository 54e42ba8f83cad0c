package steer

import (
	"fmt"

	"github.com/cilium/ebpf"

	"gatehouse/policy"
)

// Counters is what the programs have counted since they were first loaded, over
// all namespaces and restarts.
type Counters struct {
	Drops [policy.ReasonCount]uint64 // frames dropped in the kernel, by reason

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

func readCounters(m *ebpf.Map) (c Counters, err error) {
	for r := range policy.ReasonCount {
		if err := readCounter(m, uint32(r), &c.Drops[r]); err != nil {
			return c, err
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

// EndpointCounters is what one endpoint's hooks have counted since it was
// admitted.
type EndpointCounters struct {
	Drops   [policy.ReasonCount]uint32 // frames dropped before anybody judged them; wraps
	Steered uint64
}

// EndpointCounters reads the counters of an admitted endpoint; false if there
// is none of that id.
func (s *Steer) EndpointCounters(id string) (EndpointCounters, bool) {
	s.mu.Lock()
	e := s.endpoints[id]
	s.mu.Unlock()
	var p steerPort
	if e == nil || s.maps.Ports.Lookup(e.portKey(), &p) != nil {
		return EndpointCounters{}, false
	}
	c := EndpointCounters{Steered: p.Steered}
	copy(c.Drops[:], p.Dropped[:])
	return c, true
}

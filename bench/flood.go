package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"gatehouse/dataplane/afxdp"
)

const (
	floodPort = 20000 // the lowest in A that B floods
	// floodFlows is how many a flood has before it begins anew: by then their
	// entries are gone from no table, but more than any holds have been offered.
	floodFlows = 1 << 24
)

// newFlowRate is how many flows a second can be opened where every packet opens
// one: those that A received. Plain ways carry every packet.
func newFlowRate(s *site) (r reading, err error) {
	if err := s.forget(); err != nil {
		return r, err
	}
	sink, err := newSink(s.a, "eth0")
	if err != nil {
		return r, err
	}
	defer sink.close()
	g, err := newFlood(s)
	if err != nil {
		return r, err
	}
	defer g.Close()
	err = pinned(0, func() (err error) {
		r, err = sink.rate(s.load.packets/2, g) // no longer than the tables have room
		return err
	})
	if err != nil {
		return r, fmt.Errorf("new flows: %w", err)
	}
	r.values[0] *= 1000
	return r, nil
}

// rateUnderFlood is the packet rate of 1,000 established flows on core 0 before
// and while B floods A with new flows from core 1, and both by second of the
// sender's processor time.
func rateUnderFlood(s *site) (r reading, err error) {
	err = s.withFlood(func(sink *sink, g *source, flooded func(func() error) error) error {
		calm, err := sink.watch(g, func() error { return g.sendFor(s.load.packets / 2) })
		if err != nil {
			return err
		}
		return flooded(func() error {
			during, err := sink.watch(g, func() error { return g.sendFor(s.load.packets) })
			r = reading{values: []float64{calm.kpps(), during.kpps(), calm.kppsUsed(), during.kppsUsed()}, lost: during.lost()}
			return err
		})
	})
	return r, err
}

// arrivalUnderFlood is what arrives of 1,000 established flows' packets, in percent
// of those that were due, where A sends half as many a second as it can while B
// floods it.
func arrivalUnderFlood(s *site) (r reading, err error) {
	err = s.withFlood(func(sink *sink, g *source, flooded func(func() error) error) error {
		calm, err := sink.watch(g, func() error { return g.sendFor(s.load.packets / 2) })
		if err != nil {
			return err
		}
		return flooded(func() error {
			pace := 1000 * calm.kpps() / 2
			p, err := sink.watch(g, func() error { return g.sendPaced(s.load.packets, pace) })
			r = reading{values: []float64{100 * float64(p.arrived+p.late) / (pace * s.load.packets.Seconds())}, lost: p.lost()}
			return err
		})
	})
	return r, err
}

// withFlood calls measure on core 0 with 1,000 flows from A to B that the gateway
// has decided; flooded runs what it is given while B floods A from core 1.
func (s *site) withFlood(measure func(to *sink, from *source, flooded func(func() error) error) error) error {
	if err := s.forget(); err != nil {
		return err
	}
	sinkA, err := newSink(s.a, "eth0")
	if err != nil {
		return err
	}
	defer sinkA.close()
	flood, err := newFlood(s)
	if err != nil {
		return err
	}
	defer flood.Close()
	flooded := func(f func() error) error {
		var over atomic.Bool
		ended := make(chan error, 1)
		go func() { ended <- pinned(1, func() error { return flood.sendUntil(&over) }) }()
		time.Sleep(20 * time.Millisecond) // until it is there
		err := f()
		over.Store(true)
		return errors.Join(err, <-ended)
	}
	return Traffic{Flows: 1000, Size: smallFrame}.send(s, func(to *sink, from *source) error { return measure(to, from, flooded) })
}

func (g *source) sendUntil(over *atomic.Bool) error {
	for !over.Load() {
		if err := g.sendFor(10 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// newFlood sends 64-byte UDP from B to A, each packet a flow of its own.
func newFlood(s *site) (*source, error) {
	n := uint32(time.Now().UnixNano()) % floodFlows
	change := func(frame []byte) {
		n = (n + 1) % floodFlows
		udp := frame[34:]
		binary.BigEndian.PutUint16(udp, uint16(1024+n%50000))
		binary.BigEndian.PutUint16(udp[2:], uint16(floodPort+n/50000))
	}
	g, err := afxdp.NewGenerator(afxdp.Config{NetNS: s.b, Interface: "eth0", Frames: packetFrames}, func(_ int, frame []byte) int {
		frame = frame[:smallFrame-frameCheck]
		writeUDP(frame, false)
		copy(frame, macA)
		copy(frame[6:], macB)
		a, b := addrA.As4(), addrB.As4()
		copy(frame[26:], b[:])
		copy(frame[30:], a[:])
		return len(frame)
	})
	if err != nil {
		return nil, err
	}
	return &source{Generator: g, change: change}, nil
}

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
// and while B floods A with new flows from core 1.
func rateUnderFlood(s *site) (r reading, err error) {
	sinkA, err := newSink(s.a, "eth0")
	if err != nil {
		return r, err
	}
	defer sinkA.close()
	flood, err := newFlood(s)
	if err != nil {
		return r, err
	}
	defer flood.Close()
	t := Traffic{Flows: 1000, Size: smallFrame}
	err = t.send(s, func(sink *sink, g *source) error {
		calm, err := sink.rate(s.load.packets/2, g)
		if err != nil {
			return err
		}
		var over atomic.Bool
		ended := make(chan error, 1)
		go func() { ended <- pinned(1, func() error { return flood.sendUntil(&over) }) }()
		r, err = sink.rate(s.load.packets, g)
		over.Store(true)
		r.values = append(calm.values, r.values...)
		return errors.Join(err, <-ended)
	})
	return r, err
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

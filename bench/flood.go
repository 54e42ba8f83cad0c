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
// one: those that B received. Plain ways carry every packet.
func newFlowRate(s *site) (float64, error) {
	sink, err := newSink(s.a)
	if err != nil {
		return 0, err
	}
	defer sink.close()
	g, err := newFlood(s)
	if err != nil {
		return 0, err
	}
	defer g.Close()
	var kpps float64
	err = pinned(0, func() (err error) {
		kpps, err = sink.rate(s.load.packets/4, g) // no longer than the tables have room
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("new flows: %w", err)
	}
	return kpps * 1000, nil
}

// rateUnderFlood is packetRate of 1,000 established flows on core 0 while B
// floods A with new flows from core 1.
func rateUnderFlood(s *site) (float64, error) {
	sinkA, err := newSink(s.a)
	if err != nil {
		return 0, err
	}
	defer sinkA.close()
	g, err := newFlood(s)
	if err != nil {
		return 0, err
	}
	defer g.Close()
	var over atomic.Bool
	ended := make(chan error, 1)
	begun := false
	kpps, err := packetRateBeside(s, traffic{flows: 1000, sizes: small}, func() error {
		begun = true
		go func() {
			ended <- pinned(1, func() error {
				for !over.Load() {
					if err := g.sendFor(10 * time.Millisecond); err != nil {
						return err
					}
				}
				return nil
			})
		}()
		return nil
	})
	over.Store(true)
	if begun {
		err = errors.Join(err, <-ended)
	}
	return kpps, err
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
		frame = frame[:smallFrame]
		writeUDP(frame, false)
		copy(frame, macA)
		copy(frame[6:], macB)
		a, b := addrA.As4(), addrB.As4()
		copy(frame[26:], b[:])
		copy(frame[30:], a[:])
		return smallFrame
	})
	if err != nil {
		return nil, err
	}
	return &source{g, change}, nil
}

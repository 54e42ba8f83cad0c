package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane/afxdp"
)

const (
	smallFrame   = 60 // bytes; 64 with the FCS
	largeFrame   = 1514
	packetFrames = 4096
	// Flow n is UDP from port firstPort+n%portsPerTurn to packetPort+n/portsPerTurn.
	firstPort    = 10000
	portsPerTurn = 50000
	packetPort   = 9000
	packetPorts  = 32 // that the gateway's table allows
	burstFrames  = 32
	burstSize    = 8
)

// imix is the simple mix: 7 small, 4 middle, 1 large of each 12 packets.
var imix = [12]int{smallFrame, 590, smallFrame, smallFrame, 590, smallFrame, largeFrame, smallFrame, 590, smallFrame, 590, smallFrame}

// order is how a generator goes through its flows.
type order uint8

const (
	inTurn   order = iota
	inBursts       // eight packets of a flow at a time, the flows shuffled
	shuffled       // each packet another flow, in an order that no prefetcher follows
)

// traffic is what a generator in A sends to B.
type traffic struct {
	flows int
	order order
	v6    bool
	sizes []int // of frame i: sizes[i%len]
}

// packetRate sends t from A to B and returns packets a second that reached B's
// eth0, in thousands. Generator, bridge and sink share core 0: a veth receives
// on the sender's core.
func packetRate(s *site, t traffic) (float64, error) {
	return packetRateBeside(s, t, func() error { return nil })
}

// packetRateBeside is packetRate with something that begins once every flow is
// known.
func packetRateBeside(s *site, t traffic, begin func() error) (float64, error) {
	t.flows = min(t.flows, s.load.flows)
	sink, err := newSink(s.b)
	if err != nil {
		return 0, err
	}
	defer sink.close()
	g, err := t.generator(s)
	if err != nil {
		return 0, err
	}
	defer g.Close()
	var kpps float64
	err = pinned(0, func() (err error) {
		if err = t.warmUp(s, g); err != nil {
			return err
		}
		if err = begin(); err != nil {
			return err
		}
		kpps, err = sink.rate(s.load.packets, g)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("packets: %w", err)
	}
	return kpps, nil
}

// pinned runs f on a thread of its own that stays on one core.
func pinned(core int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread keeps its affinity
		pinThread(core)
		done <- f()
	}()
	return <-done
}

// source is a generator and the flows that it goes through.
type source struct {
	*afxdp.Generator
	change func(frame []byte)
}

func (t traffic) generator(s *site) (*source, error) {
	change := t.walk()
	g, err := afxdp.NewGenerator(afxdp.Config{NetNS: s.a, Interface: "eth0", Frames: packetFrames}, func(i int, frame []byte) int {
		size := t.sizes[i%len(t.sizes)]
		writeUDP(frame[:size], t.v6)
		change(frame[:size])
		return size
	})
	if err != nil {
		return nil, err
	}
	if t.flows <= packetFrames {
		// The frames hold all flows: they need no change.
		return &source{Generator: g}, nil
	}
	return &source{g, change}, nil
}

// walk returns a function that makes a frame the next flow's.
func (t traffic) walk() func(frame []byte) {
	turn := make([]uint32, t.flows)
	for i := range turn {
		turn[i] = uint32(i)
	}
	if t.order != inTurn {
		rand.New(rand.NewPCG(1, 2)).Shuffle(t.flows, func(i, j int) { turn[i], turn[j] = turn[j], turn[i] })
	}
	i, left := 0, t.repeat()
	return func(frame []byte) {
		setFlow(frame, turn[i])
		if left--; left > 0 {
			return
		}
		left = t.repeat()
		if i++; i == len(turn) {
			i = 0
		}
	}
}

// repeat is how many packets of a flow follow each other.
func (t traffic) repeat() int {
	if t.order == inBursts {
		return burstSize
	}
	return 1
}

// warmUp sends until every flow is known to the gateway, where there is one.
func (t traffic) warmUp(s *site, g *source) error {
	if err := g.sendFor(s.load.warmUp); err != nil {
		return err
	}
	if s.gateway == nil || !s.gateway.offloads {
		return nil
	}
	once := g.change
	if once != nil {
		once = traffic{flows: t.flows}.walk()
	}
	steered := ^uint64(0)
	for range 100 {
		c, err := s.gateway.counts()
		if err != nil {
			return err
		}
		if c.Steered == steered {
			return nil
		}
		steered = c.Steered
		// Once through all flows, no faster than a worker can follow.
		for sent := 0; sent < t.flows; {
			n, err := g.Burst(burstFrames, once)
			if err != nil {
				return err
			}
			sent += n
			time.Sleep(100 * time.Microsecond)
		}
	}
	return fmt.Errorf("of %d flows some still come to user space", t.flows)
}

func (g *source) sendFor(d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 16 {
			if _, err := g.Burst(burstFrames, g.change); err != nil {
				return err
			}
		}
	}
	return nil
}

// rate is what arrives of what g sends, in thousands a second.
func (s *sink) rate(d time.Duration, g *source) (float64, error) {
	before, err := s.count()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := g.sendFor(d); err != nil {
		return 0, err
	}
	elapsed := time.Since(start)
	after, err := s.count()
	return float64(after-before) / elapsed.Seconds() / 1000, err
}

// writeUDP writes a frame from A to B, all but its ports.
func writeUDP(b []byte, v6 bool) {
	clear(b)
	copy(b, macB)
	copy(b[6:], macA)
	if v6 {
		binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IPV6)
		ip, a, z := b[14:], addrA6.As16(), addrB6.As16()
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_UDP, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		copy(ip[8:], a[:])
		copy(ip[24:], z[:])
		binary.BigEndian.PutUint16(ip[44:], uint16(len(ip)-40))
		return
	}
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip, a, z := b[14:], addrA.As4(), addrB.As4()
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], a[:])
	copy(ip[16:], z[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(ip[:20], 0))
	binary.BigEndian.PutUint16(ip[24:], uint16(len(ip)-20))
}

// setFlow makes a frame one of flow n. Over IPv4 a UDP checksum may be zero,
// over IPv6 not (RFC 8200 8.1).
func setFlow(b []byte, n uint32) {
	udp := b[34:]
	if b[14]>>4 == 6 {
		udp = b[54:]
	}
	binary.BigEndian.PutUint16(udp, uint16(firstPort+n%portsPerTurn))
	binary.BigEndian.PutUint16(udp[2:], uint16(packetPort+n/portsPerTurn))
	if b[14]>>4 == 6 {
		// The payload is zero: addresses, protocol, length twice, ports.
		sum := uint32(unix.IPPROTO_UDP) + uint32(binary.BigEndian.Uint16(udp[4:]))
		binary.BigEndian.PutUint16(udp[6:], 0)
		if sum := ^fold(b[22:62], sum); sum != 0 {
			binary.BigEndian.PutUint16(udp[6:], sum)
		} else {
			binary.BigEndian.PutUint16(udp[6:], 0xffff)
		}
	}
}

// fold is the one's complement sum (RFC 1071) of b and what is added to it.
func fold(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// pinThread keeps the calling thread on one core, where there is a choice.
func pinThread(cpu int) {
	var set unix.CPUSet
	set.Set(cpu % runtime.NumCPU())
	_ = unix.SchedSetaffinity(0, &set) // a container may forbid it; the figures are then noisier
}

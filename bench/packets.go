package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane/afxdp"
)

const (
	frameCheck   = 4               // bytes of the FCS, which no veth carries
	smallFrame   = 64              // bytes, with the FCS
	smallFrameV6 = 62 + frameCheck // headers alone
	largeFrame   = 1518
	packetFrames = 2048
	// Flow n is UDP from port firstPort+n%portsPerTurn to packetPort+n/portsPerTurn.
	firstPort    = 10000
	portsPerTurn = 50000
	packetPort   = 9000
	packetPorts  = 32 // that the gateway's table allows
	burstFrames  = 32
	burstSize    = 8
)

// MaxFlows is how many flows a generator can have.
const MaxFlows = portsPerTurn * packetPorts

// imix is the simple mix: 7 small, 4 middle, 1 large of each 12 packets.
var imix = [12]int{smallFrame, 594, smallFrame, smallFrame, 594, smallFrame, largeFrame, smallFrame, 594, smallFrame, 594, smallFrame}

// Order is how a generator goes through its flows.
type Order string

// The orders that there are.
const (
	InTurn        Order = ""
	InBursts      Order = "bursts" // eight packets of a flow at a time, the flows shuffled
	InRandomOrder Order = "random" // each packet another flow, in an order that no prefetcher follows
)

// Traffic is the UDP that a generator in A sends to B.
type Traffic struct {
	Flows int // 1 to MaxFlows
	Order Order
	IPv6  bool
	Size  int // of a frame in bytes with its FCS, 64 to 1518; 0 = IMIX
}

// Check reports what no generator can send.
func (t *Traffic) Check() error {
	if t.Flows < 1 || t.Flows > MaxFlows {
		return fmt.Errorf("flows: %d is not between 1 and %d", t.Flows, MaxFlows)
	}
	if t.Size != 0 && (t.Size < smallFrame || t.Size > largeFrame) {
		return fmt.Errorf("size: %d is neither between %d and %d nor imix", t.Size, smallFrame, largeFrame)
	}
	if !slices.Contains([]Order{InTurn, InBursts, InRandomOrder}, t.Order) {
		return fmt.Errorf("order: %q is none of turn, bursts, random", t.Order)
	}
	return nil
}

// String says what is sent; over IPv6 the smallest frame has 66 bytes.
func (t Traffic) String() string {
	text := "IMIX"
	if t.Size != 0 {
		text = thousands(t.Size) + "-byte UDP"
	}
	if t.IPv6 {
		text += " over IPv6"
	}
	text += ", " + thousands(t.Flows) + " flow"
	if t.Flows > 1 {
		text += "s"
	}
	switch t.Order {
	case InBursts:
		text += " in bursts of 8"
	case InRandomOrder:
		text += " in random order"
	}
	return text
}

// thousands writes a number below a billion with commas.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}

// frame is how long the i-th frame is on a veth.
func (t *Traffic) frame(i int) int {
	size := t.Size
	if size == 0 {
		size = imix[i%len(imix)]
	}
	if t.IPv6 {
		size = max(size, smallFrameV6)
	}
	return size - frameCheck
}

// packetRate sends t from A to B and returns packets a second that reached the
// sink, in thousands. Generator, bridge and sink share core 0: a veth receives
// on the sender's core.
func packetRate(s *site, t Traffic) (r reading, err error) {
	err = t.send(s, func(sink *sink, g *source) (err error) {
		r, err = sink.rate(s.load.packets, g)
		return err
	})
	return r, err
}

// send calls measure on core 0 once every flow is known to the gateway.
func (t Traffic) send(s *site, measure func(*sink, *source) error) error {
	t.Flows = min(t.Flows, s.load.flows)
	sink, err := newSink(s.sinkPath, s.sinkDevice)
	if err != nil {
		return err
	}
	defer sink.close()
	g, err := t.generator(s)
	if err != nil {
		return err
	}
	defer g.Close()
	err = pinned(0, func() error {
		if err := t.warmUp(s, g); err != nil {
			return err
		}
		return measure(sink, g)
	})
	if err != nil {
		return fmt.Errorf("packets: %w", err)
	}
	return nil
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
	sent   uint64
}

func (t Traffic) generator(s *site) (*source, error) {
	change := t.walk()
	g, err := afxdp.NewGenerator(afxdp.Config{NetNS: s.a, Interface: "eth0", Frames: packetFrames}, func(i int, frame []byte) int {
		size := t.frame(i)
		writeUDP(frame[:size], t.IPv6)
		change(frame[:size])
		return size
	})
	if err != nil {
		return nil, err
	}
	if t.Flows <= packetFrames {
		// The frames hold all flows: they need no change.
		return &source{Generator: g}, nil
	}
	return &source{Generator: g, change: change}, nil
}

// walk returns a function that makes a frame the next flow's.
func (t Traffic) walk() func(frame []byte) {
	turn := make([]uint32, t.Flows)
	for i := range turn {
		turn[i] = uint32(i)
	}
	if t.Order != InTurn {
		rand.New(rand.NewPCG(1, 2)).Shuffle(t.Flows, func(i, j int) { turn[i], turn[j] = turn[j], turn[i] })
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
func (t Traffic) repeat() int {
	if t.Order == InBursts {
		return burstSize
	}
	return 1
}

// warmUp sends until every flow is known to the gateway, where there is one.
func (t Traffic) warmUp(s *site, g *source) error {
	if err := g.sendFor(s.load.warmUp); err != nil {
		return err
	}
	if s.gateway == nil || !s.gateway.offloads {
		return nil
	}
	once := g.change
	if once != nil {
		once = Traffic{Flows: t.Flows}.walk()
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
		for sent := 0; sent < t.Flows; {
			n, err := g.Burst(burstFrames, once)
			if err != nil {
				return err
			}
			sent += n
			time.Sleep(100 * time.Microsecond)
		}
	}
	return fmt.Errorf("of %d flows some still come to user space", t.Flows)
}

// sendPaced sends so many a second by the clock, and catches up with what it was
// late for as long as there is time.
func (g *source) sendPaced(d time.Duration, perSecond float64) error {
	start, sent := time.Now(), 0
	for past := time.Duration(0); past < d; past = time.Since(start) {
		left := int(perSecond*past.Seconds()) - sent
		if left <= 0 {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		n, err := g.Burst(min(left, burstFrames), g.change)
		if err != nil {
			return err
		}
		sent += n
		g.sent += uint64(n)
	}
	return nil
}

func (g *source) sendFor(d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 16 {
			n, err := g.Burst(burstFrames, g.change)
			if err != nil {
				return err
			}
			g.sent += uint64(n)
		}
	}
	return nil
}

// passage is what came of the frames that were sent for a while.
type passage struct {
	sent, arrived uint64        // arrived: as the last was sent
	late          uint64        // that arrived 20 ms after it at most
	elapsed, used time.Duration // used: the sending thread's own processor time
}

// watch counts what g sends while send runs. It runs on a thread of its own, see
// pinned.
func (s *sink) watch(g *source, send func() error) (p passage, err error) {
	before, err := s.count()
	if err != nil {
		return p, err
	}
	start, used, sent := time.Now(), threadTime(), g.sent
	if err := send(); err != nil {
		return p, err
	}
	p.elapsed, p.used, p.sent = time.Since(start), threadTime()-used, g.sent-sent
	after, err := s.count()
	if err != nil {
		return p, err
	}
	time.Sleep(20 * time.Millisecond) // what is still on its way is not lost
	last, err := s.count()
	p.arrived, p.late = after-before, last-after
	return p, err
}

// kpps is what arrived in thousands a second.
func (p *passage) kpps() float64 { return float64(p.arrived) / p.elapsed.Seconds() / 1000 }

// kppsUsed is the same by second of the sender's processor time: what others took
// of its core does not lower it.
func (p *passage) kppsUsed() float64 { return float64(p.arrived) / p.used.Seconds() / 1000 }

// lost is what did not arrive, in percent of what was sent.
func (p *passage) lost() float64 {
	if got := p.arrived + p.late; p.sent > got {
		return 100 * float64(p.sent-got) / float64(p.sent)
	}
	return 0
}

// rate is what arrives of what g sends, in thousands a second.
func (s *sink) rate(d time.Duration, g *source) (reading, error) {
	p, err := s.watch(g, func() error { return g.sendFor(d) })
	if err != nil {
		return reading{}, err
	}
	return reading{values: []float64{p.kpps()}, lost: p.lost()}, nil
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

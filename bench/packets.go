package bench

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane/afxdp"
)

const (
	frameBytes   = 60 // 64 with the FCS
	packetFrames = 4096
	packetPort   = 9000
)

// packetRate sends 64-byte UDP from A to B, over that many flows, and returns
// packets a second that reached B's eth0, in thousands. Generator, bridge and
// sink share core 0: a veth receives on the sender's core.
func packetRate(s *site, flows int) (float64, error) {
	sink, err := newSink(s.b)
	if err != nil {
		return 0, err
	}
	defer sink.close()
	type result struct {
		kpps float64
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread keeps its affinity
		pinThread(0)
		kpps, err := generate(s, sink, flows)
		done <- result{kpps, err}
	}()
	r := <-done
	if r.err != nil {
		return 0, fmt.Errorf("packets: %w", r.err)
	}
	return r.kpps, nil
}

func generate(s *site, sink *sink, flows int) (float64, error) {
	g, err := afxdp.NewGenerator(afxdp.Config{NetNS: s.a, Interface: "eth0", Frames: packetFrames},
		func(i int, frame []byte) int { return writeUDP(frame, i%flows) })
	if err != nil {
		return 0, err
	}
	defer g.Close()
	if err := burstFor(g, s.load.warmUp); err != nil {
		return 0, err
	}
	before, err := sink.count()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := burstFor(g, s.load.packets); err != nil {
		return 0, err
	}
	elapsed := time.Since(start)
	after, err := sink.count()
	return float64(after-before) / elapsed.Seconds() / 1000, err
}

func burstFor(g *afxdp.Generator, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 16 {
			if _, err := g.Burst(32); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeUDP writes one frame of flow number n from A to B.
func writeUDP(b []byte, n int) int {
	clear(b[:frameBytes])
	copy(b, macB)
	copy(b[6:], macA)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], frameBytes-14)
	a4, b4 := addrA.As4(), addrB.As4()
	copy(ip[12:], a4[:])
	copy(ip[16:], b4[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(ip[:20]))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp, uint16(20000+n))
	binary.BigEndian.PutUint16(udp[2:], packetPort)
	binary.BigEndian.PutUint16(udp[4:], frameBytes-14-20)
	return frameBytes
}

// fold is the one's complement sum (RFC 1071).
func fold(b []byte) uint16 {
	var sum uint32
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

package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// seen is one frame that came in at a receiver.
type seen struct {
	packet gopacket.Packet
	tagged bool // with a VLAN tag, which the kernel took out
}

func (s seen) tcp() *layers.TCP {
	tcp, _ := s.packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	return tcp
}

// ends are the packet's addresses; invalid for what is not IP.
func (s seen) ends() (src, dst netip.Addr) {
	n := s.packet.NetworkLayer()
	if n == nil {
		return
	}
	src, _ = netip.AddrFromSlice(n.NetworkFlow().Src().Raw())
	dst, _ = netip.AddrFromSlice(n.NetworkFlow().Dst().Raw())
	return src, dst
}

// witness listens with a packet socket in a receiver's namespace: it sees what
// came through, whether or not a server there would answer.
type witness struct {
	t      *testing.T
	fd     int
	fits   func(seen) bool
	stop   chan struct{}
	ended  sync.WaitGroup
	mu     sync.Mutex
	frames []seen
	all    int
	err    error
}

const settle = 250 * time.Millisecond // how long a witness listens on after the last act

func watch(t *testing.T, netns string, fits func(seen) bool) *witness {
	t.Helper()
	w := &witness{t: t, fits: fits, stop: make(chan struct{})}
	err := inside(netns, func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	timeout := unix.NsecToTimeval(int64(20 * time.Millisecond))
	if err := errors.Join(
		unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
	); err != nil {
		t.Fatal(err)
	}
	w.ended.Go(w.read)
	return w
}

func (w *witness) read() {
	data, control := make([]byte, 128<<10), make([]byte, 256)
	var end time.Time // once stopped, what has come is read, but not for ever
	for end.IsZero() || time.Now().Before(end) {
		select {
		case <-w.stop:
			if end.IsZero() {
				end = time.Now().Add(2 * time.Second)
			}
		default:
		}
		n, c, _, from, err := unix.Recvmsg(w.fd, data, control, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			if !end.IsZero() {
				return
			}
			continue
		}
		if err != nil {
			w.err = err
			return
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		s := seen{gopacket.NewPacket(data[:n], layers.LayerTypeEthernet, gopacket.Default), hasTag(control[:c])}
		w.mu.Lock()
		w.all++
		if w.fits(s) {
			w.frames = append(w.frames, s)
		}
		w.mu.Unlock()
	}
}

// hasTag reads struct tpacket_auxdata, whose first word is the status.
func hasTag(control []byte) bool {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0
		}
	}
	return false
}

func (w *witness) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.frames)
}

// close listens on for a moment and returns what fitted. A frame that the
// socket lost would spoil the proof, and fails the test.
func (w *witness) close() []seen {
	w.t.Helper()
	time.Sleep(settle)
	close(w.stop)
	w.ended.Wait()
	stats, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err := errors.Join(w.err, err, unix.Close(w.fd)); err != nil {
		w.t.Error(err)
	}
	if stats != nil && stats.Drops > 0 {
		w.t.Errorf("the witness lost %d frames", stats.Drops)
	}
	return w.frames
}

// none closes and fails for each frame that came.
func (w *witness) none(what string) {
	w.t.Helper()
	for i, s := range w.close() {
		if i == 3 {
			w.t.Errorf("... %d in all", len(w.frames))
			break
		}
		w.t.Errorf("%s: the receiver saw %s", what, s.packet)
	}
}

// towards is true of IP packets to an address and, unless 0, a TCP or UDP port.
func towards(dst netip.Addr, p int) func(seen) bool {
	return func(s seen) bool {
		_, to := s.ends()
		if to != dst {
			return false
		}
		switch l := s.packet.TransportLayer().(type) {
		case *layers.TCP:
			return p == 0 || int(l.DstPort) == p
		case *layers.UDP:
			return p == 0 || int(l.DstPort) == p
		}
		return p == 0 && s.packet.Layer(layers.LayerTypeICMPv6) == nil
	}
}

func both(a, b func(seen) bool) func(seen) bool { return func(s seen) bool { return a(s) && b(s) } }

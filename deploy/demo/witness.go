package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// frame is one frame that came in at a receiver's interface.
type frame struct {
	packet gopacket.Packet
	tagged bool // it carried a VLAN tag, which the kernel has taken out
}

// addresses are the packet's source and destination, IPv4 or IPv6; invalid for others.
func (f frame) addresses() (src, dst netip.Addr) {
	network := f.packet.NetworkLayer()
	if network == nil {
		return src, dst
	}
	src, _ = netip.AddrFromSlice(network.NetworkFlow().Src().Raw())
	dst, _ = netip.AddrFromSlice(network.NetworkFlow().Dst().Raw())
	return src, dst
}

// tcp is nil for what is not TCP.
func (f frame) tcp() *layers.TCP {
	tcp, _ := f.packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	return tcp
}

func (f frame) opens() bool {
	tcp := f.tcp()
	return tcp != nil && tcp.SYN && !tcp.ACK
}

func (f frame) says(text string) bool {
	tcp := f.tcp()
	return tcp != nil && bytes.Contains(tcp.Payload, []byte(text))
}

const (
	witnessBuffer = 16 << 20              // bytes that wait in the kernel
	witnessPoll   = 50 * time.Millisecond // how soon a witness notices its end
	frameSize     = 64 << 10              // GSO frames are larger than the MTU
)

// witness listens with a packet socket inside a receiver's namespace, and so
// sees what came through to it, whoever it is for and whether or not a server
// there would answer.
type witness struct {
	fd     int
	want   func(frame) bool
	stop   chan struct{}
	ended  sync.WaitGroup
	frames []frame // of the reader until it ended
	err    error
}

// listen starts a witness in the namespace at path for frames that want is
// true of.
func listen(path string, want func(frame) bool) (*witness, error) {
	w := &witness{want: want, stop: make(chan struct{})}
	err := inNetns(path, func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("witness in %s: %w", path, err)
	}
	timeout := unix.NsecToTimeval(int64(witnessPoll))
	if err := errors.Join(
		unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, witnessBuffer),
		unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
	); err != nil {
		unix.Close(w.fd)
		return nil, fmt.Errorf("witness: %w", err)
	}
	w.ended.Go(w.read)
	return w, nil
}

func (w *witness) read() {
	data, control := make([]byte, frameSize), make([]byte, 256)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		n, c, _, from, err := unix.Recvmsg(w.fd, data, control, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			w.err = fmt.Errorf("witness: %w", err)
			return
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		f := frame{gopacket.NewPacket(data[:n], layers.LayerTypeEthernet, gopacket.Default), tagged(control[:c])}
		if w.want(f) {
			w.frames = append(w.frames, f)
		}
	}
}

// tagged reads struct tpacket_auxdata: its first word is the status.
func tagged(control []byte) bool {
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

// close ends the witness and returns what it saw.
func (w *witness) close() ([]frame, error) {
	close(w.stop)
	w.ended.Wait()
	return w.frames, errors.Join(w.err, unix.Close(w.fd))
}

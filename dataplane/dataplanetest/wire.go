package dataplanetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Wire is a packet socket on one device, for frames in and out.
type Wire struct{ fd int }

// NewWire opens one in the network namespace of the calling thread.
func NewWire(dev string) (*Wire, error) {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dev, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	const packetIgnoreOutgoing = 23 // linux/if_packet.h
	proto := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, packetIgnoreOutgoing, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: i.Index}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), unix.Close(fd))
	}
	return &Wire{fd}, nil
}

// Write sends a frame out of the device.
func (w *Wire) Write(frame []byte) error {
	_, err := unix.Write(w.fd, frame)
	return err
}

// Read returns the next frame that the device received, with the tag that the
// kernel took out of it put back; nil when nothing came for 0.3 s.
func (w *Wire) Read() ([]byte, error) {
	buf, oob := make([]byte, 8192), make([]byte, 256)
	n, oobn, _, _, err := unix.Recvmsg(w.fd, buf, oob, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	buf = buf[:n]
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA {
			continue
		}
		// struct tpacket_auxdata: status at 0, tci at 16
		if status := binary.NativeEndian.Uint32(m.Data); status&unix.TP_STATUS_VLAN_VALID != 0 {
			tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, binary.NativeEndian.Uint16(m.Data[16:]))
			buf = append(buf[:12:12], append(tag, buf[12:]...)...)
		}
	}
	return buf, nil
}

// Close closes the socket.
func (w *Wire) Close() error { return unix.Close(w.fd) }

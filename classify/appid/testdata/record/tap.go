package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"github.com/vishvananda/netns"
)

// What is kept of each flow.
const (
	packetsPerFlow = 16
	bytesPerFlow   = 4096
)

type packet struct {
	at   time.Time
	data []byte
}

// tap sees what the client's device sends and receives.
type tap struct {
	handle  *pcapgo.EthernetHandle
	packets []packet
	done    chan struct{}
	stop    chan struct{}
}

func openTap() (*tap, error) {
	t := &tap{done: make(chan struct{}), stop: make(chan struct{})}
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread stays in the namespace, and ends
		defer close(t.done)
		ns, err := netns.GetFromName(clientNS)
		if err == nil {
			err = netns.Set(ns)
		}
		if err == nil {
			t.handle, err = pcapgo.NewEthernetHandle(device)
		}
		opened <- err
		if err != nil {
			return
		}
		for {
			data, info, err := t.handle.ReadPacketData()
			select {
			case <-t.stop:
				return
			default:
			}
			if err == nil {
				t.packets = append(t.packets, packet{info.Timestamp, bytes.Clone(data)})
			}
		}
	}()
	return t, <-opened
}

// close ends the capture; the reader wakes with the next packet, which a ping makes.
func (t *tap) close() []packet {
	close(t.stop)
	_ = run("ip", "netns", "exec", clientNS, "sh", "-c", "echo > /dev/udp/"+serverIP+"/9 || ping -c 1 -W 1 "+serverIP+" || true")
	_ = run("ip", "-n", clientNS, "neigh", "flush", "all")
	select {
	case <-t.done:
	case <-time.After(5 * time.Second):
	}
	return t.packets
}

// write keeps the beginnings of the flows to labelled ports.
func (s *scenario) write(path string, packets []packet) error {
	type count struct{ packets, bytes int }
	flows := map[string]*count{}
	var kept []packet
	for _, p := range packets {
		key, ok := s.flow(p.data)
		if !ok {
			continue
		}
		c := flows[key]
		if c == nil {
			c = &count{}
			flows[key] = c
		}
		if c.packets++; c.packets > packetsPerFlow {
			continue
		}
		if c.bytes += len(p.data); c.bytes <= bytesPerFlow {
			kept = append(kept, p)
		}
	}
	if len(kept) == 0 {
		return fmt.Errorf("nothing was captured (%d packets)", len(packets))
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		return err
	}
	for _, p := range kept {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: p.at, CaptureLength: len(p.data), Length: len(p.data)}, p.data); err != nil {
			return err
		}
	}
	return nil
}

// flow is the 5-tuple of a packet to or from a labelled port.
func (s *scenario) flow(frame []byte) (key string, ok bool) {
	if len(frame) < 14+20+8 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return "", false
	}
	ip := frame[14:]
	proto := map[byte]string{6: "tcp", 17: "udp"}[ip[9]]
	l4 := ip[int(ip[0]&15)*4:]
	if proto == "" || len(l4) < 8 {
		return "", false
	}
	ends := []string{fmt.Sprint(ip[12:16], binary.BigEndian.Uint16(l4)), fmt.Sprint(ip[16:20], binary.BigEndian.Uint16(l4[2:]))}
	slices.Sort(ends)
	for _, l := range s.labels {
		if l.proto != proto {
			continue
		}
		if int(binary.BigEndian.Uint16(l4)) == l.port || int(binary.BigEndian.Uint16(l4[2:])) == l.port {
			return proto + strings.Join(ends, " "), true
		}
	}
	return "", false
}

// Package dataplane carries frames between Ports and the classifier and
// applies verdicts: one worker per queue, no allocation per packet, violations
// and flow records out. It knows nothing of orchestrators; cmd hands it
// endpoints and tables.
package dataplane

import (
	"gatehouse/classify"
	"gatehouse/policy"
)

// Direction is the hook at which a frame was met, of those that steer frames to the
// slow path.
type Direction uint8

const (
	FromEndpoint Direction = iota // tcx ingress of the endpoint's host-side veth
	ToEndpoint                    // tcx egress of it
	Neither                       // of counts: between interfaces behind which anybody may be, or not known
	Directions
)

// String is the endpoint's view: egress, what it sends, or ingress; "" is neither.
func (d Direction) String() string {
	return [...]string{FromEndpoint: "egress", ToEndpoint: "ingress", Neither: ""}[min(d, Neither)]
}

// Frame is one Ethernet frame borrowed from a Port: Data is valid until the
// frame is given back by Send or Release. Data starts at the destination MAC;
// the steering tag has been read into Slot and Dir and still sits in Data at
// byte 12 where L3 is 18, so that the frame can go back out uncopied. Where L3
// is 0 there is no link header, and Data starts with IP's.
type Frame struct {
	Data []byte
	L3   int       // offset of the network header: 18 with the steering tag, 14 without, 0 of a TUN
	Slot uint16    // which endpoint's hook; number unique in the Port
	Dir  Direction // which hook
	Line bool      // to be sent: its flow was handed over, so that the flow map may have proof of delivery
	Ref  uint64    // the Port's own handle
}

// Tag is the steering tag that the frame leaves with, of which steer.bpf.c has the
// twin: slot and hook, and where Line is set the highest bit.
func (f *Frame) Tag() uint16 {
	tag := f.Slot<<1 | uint16(f.Dir)
	if f.Line {
		tag |= 1 << 15
	}
	return tag
}

// Port is a device that frames enter and leave by. A Port has one user
// goroutine; only Close and Stats may be called from another.
type Port interface {
	// Recv fills frames with what waits, without blocking, and returns how many.
	Recv(frames []Frame) int
	// Send gives frames back to be transmitted to where they came from (same
	// Slot, same Dir). Order is kept. Nothing leaves before Flush. A port between
	// two interfaces takes Slot for the interface: a frame that came from it goes
	// out of the other, one towards it out of itself.
	Send(frames []Frame)
	// Alloc borrows an empty frame of the port's full size, for a reject.
	// False when none is free.
	Alloc() (Frame, bool)
	// Release gives frames back to be reused; they are dropped.
	Release(frames []Frame)
	// Flush transmits what Send queued; it retries what the kernel could not
	// take yet and reports errors that do not pass (device gone), also when
	// nothing was queued.
	Flush() error
	// Pending is how many sent frames the kernel has not taken yet: while it is
	// not 0, Flush wants to be called again soon.
	Pending() int
	// Stats may be called from any goroutine.
	Stats() PortStats
	// FD becomes readable when Recv would return frames.
	FD() int
	Close() error
}

// PortStats counts what a Port did since it was opened.
type PortStats struct {
	Received, Sent uint64
	Malformed      uint64 // without the steering tag: dropped
	Kicks          uint64 // system calls to transmit
	Again          uint64 // of those, how many did not take everything
	NoFrame        uint64 // dropped by the kernel: no frame to receive into
	RingFull       uint64 // dropped by the kernel: receive ring full
	Invalid        uint64 // refused by the kernel: too long, or a descriptor of ours it did not like
}

// lost is how many frames no worker came to see, or could send.
func (s PortStats) lost() uint64 { return s.Malformed + s.NoFrame + s.RingFull + s.Invalid }

func (s *PortStats) add(t PortStats) {
	s.Received += t.Received
	s.Sent += t.Sent
	s.Malformed += t.Malformed
	s.Kicks += t.Kicks
	s.Again += t.Again
	s.NoFrame += t.NoFrame
	s.RingFull += t.RingFull
	s.Invalid += t.Invalid
}

// Endpoint is one admitted network interface, as the packet path needs it.
// Values are immutable once handed over.
type Endpoint struct {
	ID        string // policy.Endpoint.ID
	Workload  string
	Slot      uint16 // steering tag, unique in Space
	Space     int    // which network namespace's slow-path pair carries it
	Zone      policy.Zone
	Ifindex   uint32 // of the host-side veth, in its own namespace
	Bridge    uint32 // ifindex of its bridge; redirect_peer only where Space and Bridge are equal
	MAC       policy.MAC
	Gateway   policy.MAC // of the bridge device: frames to it leave the network
	Addrs     [][16]byte // IPv4 as v4-mapped; the link-local one included
	Overlay   bool       // unknown unicast MACs are remote tasks, not an error
	ICC       bool
	Mode      policy.Mode
	RanBefore bool  // its workload was running before the gateway attached (V9)
	Attached  int64 // nanoseconds, CLOCK_MONOTONIC
	// Transit: an interface behind which anybody may be. No address is its own,
	// and what neighbours say to find each other is judged here. Where it has an
	// Ifindex it is one of two, and the kernel carries decided flows between them;
	// else all its frames come to user space.
	Transit bool
}

// FlowEntry is one connection in the kernel's flow map. Index 0 of the pairs
// is the side whose address and port sort first in Key.
type FlowEntry struct {
	Key       classify.FlowKey
	Epoch     uint32
	Ifindex   [2]uint32     // of the local endpoint on that side, 0 = not local
	MAC       [2]policy.MAC // that frames from and to that side carry
	Initiator uint8         // 0 or 1
	// Verdict is Allow or Drop, or Undecided for a TCP connection of which the
	// kernel carries the bare acknowledgements, while all else, payload, SYN,
	// FIN and RST, comes to user space.
	Verdict policy.Verdict
	// Opening: of an Undecided one so far only the SYN was seen. The kernel carries
	// the SYN-ACK that acknowledges Awaited, for Answer to tell of, and bare
	// acknowledgements only after it.
	Opening bool
	Awaited uint32
	Reason  policy.Reason // of a Drop, for the counters
	Peer    bool          // redirect_peer may be used
	// Stays: of an Allow, its packets come to user space. What that lets pass goes
	// past the bridge once the entry has proof that the bridge delivers it.
	Stays   bool
	Old     bool       // of an Allow: classify.Flow.IsOld, for the next gateway
	App     policy.App // App to ALPN are its policy.Spoken
	Sub     policy.App
	Inner   policy.App
	ALPN    policy.App
	Closed  uint8     // bit 0,1: FIN from that side; bit 2: RST
	Packets [2]uint32 // wraps
	Bytes   [2]uint64
	Seen    uint32 // coarse seconds, CLOCK_MONOTONIC
	// Line is where in the map it is, as Scan found it: no other entry is there at
	// the same time. Lines are numbered from 0 without great gaps.
	Line uint32
}

// NoFlowMap is for ports all of whose frames come to user space.
type NoFlowMap struct{}

func (NoFlowMap) Put([]FlowEntry) error               { return nil }
func (NoFlowMap) Delete([]classify.FlowKey) error     { return nil }
func (NoFlowMap) Scan([]FlowEntry) (int, bool, error) { return 0, true, nil }
func (NoFlowMap) Has(*classify.FlowKey) bool          { return false }

func (NoFlowMap) Answer(*classify.FlowKey) (seq uint32, length int, ok bool) { return 0, 0, false }

// FlowMap is the kernel's flow map. Safe for concurrent use.
type FlowMap interface {
	// Put inserts or replaces entries; the error names how many were refused
	// because the map is full.
	Put(entries []FlowEntry) error
	Delete(keys []classify.FlowKey) error
	// Scan reads the next slice of the map into entries and returns how many,
	// and whether the end was reached (the next call starts over).
	Scan(entries []FlowEntry) (n int, end bool, err error)
	// Has reports whether there is an entry for key whose packets the kernel carries.
	Has(key *classify.FlowKey) bool
	// Answer returns the sequence number and IP length of the SYN-ACK that the
	// kernel has carried by an Opening entry; false if it has not.
	Answer(key *classify.FlowKey) (seq uint32, length int, ok bool)
}

// Package classify turns the bytes of a packet into a verdict: Decode, the
// flow table, and the Classifier that joins them with policy.Table and
// application identification. No I/O, no goroutines, no allocation per packet.
// A Classifier belongs to one worker goroutine.
package classify

import "gatehouse/policy"

// FlowKey names one conversation, the same in both directions: the side whose
// (address, port) sorts first as big-endian bytes is A. IPv4 addresses are
// v4-mapped. Ports are host order; ICMP echo has the identifier in both.
// The layout equals struct flow_key in dataplane/steer/steer.bpf.c: 40 bytes,
// no padding.
type FlowKey struct {
	_            [0]uint64 // aligned as words, as the table compares it
	AddrA, AddrB [16]byte
	PortA, PortB uint16
	Zone         uint16
	Proto        policy.Proto
	_            uint8
}

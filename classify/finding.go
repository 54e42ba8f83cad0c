package classify

import (
	"hash/maphash"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

// Tunnels by behaviour. A finding marks the flow; it never lets one pass.

const (
	// echoOdd is how many replies with other data than their request are a tunnel
	// and no accident.
	echoOdd = 3
	// lookupVolume is more than one conversation with a resolver ever carries, and
	// echoVolume more than a ping.
	lookupVolume = 1 << 20
	echoVolume   = 4 << 20
)

// echoed follows one flow's pings: RFC 792 has a reply return the data of its
// request, and what tunnels through ICMP answers with its own.
type echoed struct {
	seq, odd uint16
	asked    bool
	sum      uint32
}

var echoSeed = maphash.MakeSeed()

// ping compares a reply with the last request.
func (f *Flow) ping(p *Packet) {
	if len(p.segment) < icmpHead || p.Fragment != Whole {
		return
	}
	seq, sum := be.Uint16(p.segment[6:]), uint32(maphash.Bytes(echoSeed, p.Payload))
	switch e := &f.echoed; {
	case p.side() == f.Initiator:
		e.seq, e.sum, e.asked = seq, sum, true
	case e.asked && e.seq == seq && e.sum != sum:
		e.odd = min(e.odd+1, echoOdd)
	}
	if f.echoed.odd >= echoOdd {
		f.Findings |= appid.FindingICMPTunnel
	}
	f.weighVolume()
}

// weighVolume marks flows that carry more than their application is for.
func (f *Flow) weighVolume() {
	n := f.Bytes[0] + f.Bytes[1]
	if f.Key.Proto == policy.ProtoICMP && n > echoVolume {
		f.Findings |= appid.FindingICMPTunnel
	}
	if f.Key.Proto == policy.ProtoUDP && f.Spoken.App == policy.AppDNS && n > lookupVolume {
		f.Findings |= appid.FindingDNSTunnel
	}
}

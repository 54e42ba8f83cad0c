package appid

import "gatehouse/policy"

// RTP: RFC 3550 section 5.1. Its header proves nothing: what shows is that
// datagrams of one source number themselves. That is behaviour, which names a
// flow to those who look at it, and to no statement that allows. So this
// signature only keeps the flow open for a while. Streams that SIP or RTSP
// announced are named by that.
var rtpProtocol = protocol{
	app: policy.AppRTP, udp: true,
	client:       func(v *view) match { return rtpDatagram(v.c) },
	server:       func(v *view) match { return rtpDatagram(v.s) },
	clientFirsts: between(0x80, 0xbf), serverFirsts: between(0x80, 0xbf),
}

// RTCP: RFC 3550 section 6.1. A compound packet begins with a report and its parts
// fill the datagram; one of several parts is proof.
var rtcpProtocol = protocol{
	app: policy.AppRTCP, udp: true,
	client:       func(v *view) match { return rtcpCompound(v.c) },
	server:       func(v *view) match { return rtcpCompound(v.s) },
	clientFirsts: between(0x80, 0xbf), serverFirsts: between(0x80, 0xbf),
}

const (
	rtpHead = 12
	// rtpRun is how many datagrams in a row must be numbered to be a stream.
	rtpRun = 3
	// rtpGap is how many may be lost between two.
	rtpGap = 8

	rtcpSender   = 200
	rtcpReceiver = 201
	rtcpLast     = 207 // extended reports, RFC 3611
)

// rtpTrack follows one direction's numbers.
type rtpTrack struct {
	source uint32
	seq    uint16
	run    uint8 // datagrams so far whose numbers follow each other
	// foreign: there was a datagram that does not go with RTP; something of its own
	// that only carries it.
	foreign bool
}

func (t *rtpTrack) follow(b []byte) {
	if rtpHeader(b) != yes {
		t.foreign = t.foreign || rtcpCompound(b) == no && !beforeMedia(b)
		return
	}
	seq, source := be.Uint16(b[2:]), be.Uint32(b[8:])
	switch {
	case t.run == 0 || source != t.source:
		t.run = 1
	case seq-t.seq-1 < rtpGap:
		t.run = min(t.run+1, rtpRun)
	}
	t.seq, t.source = seq, source
}

// rtpHeader: version 2, a payload type that is assigned or dynamic (RFC 3551 6)
// and none of RTCP's, a source.
func rtpHeader(b []byte) match {
	if !rtpFixed(b) || len(b) < rtpHead+4*int(b[0]&15) || be.Uint32(b[8:]) == 0 {
		return no
	}
	return yes
}

// rtpFixed is rtpHeader but for the source.
func rtpFixed(b []byte) bool {
	return len(b) >= rtpHead && b[0]>>6 == 2 && (b[1]&0x7f <= 34 || b[1]&0x7f >= 96)
}

// beforeMedia: STUN with its cookie (RFC 8489 5), or a record of DTLS.
func beforeMedia(b []byte) bool {
	return len(b) >= 8 && (b[0] < 4 && be.Uint32(b[4:]) == 0x2112a442 || b[0] >= recordChangeCipher && b[0] <= recordData && b[1] == 0xfe)
}

func rtpDatagram(b []byte) match {
	if rtpHeader(b) == yes || rtcpCompound(b) != no {
		return more
	}
	return no
}

func rtcpCompound(b []byte) match {
	parts := 0
	for ; len(b) > 0; parts++ {
		if len(b) < 8 || b[0]>>6 != 2 || b[1] < rtcpSender || b[1] > rtcpLast || parts == 0 && b[1] > rtcpReceiver {
			return no
		}
		n := 4 * (1 + int(be.Uint16(b[2:])))
		if n < 8 || n > len(b) {
			return no
		}
		b = b[n:]
	}
	if parts > 1 {
		return yes
	}
	return fits
}

package appid

import "gatehouse/policy"

// RTP over TCP: RFC 4571 section 2: each packet after its length. As with datagrams
// the numbers are behaviour, which grounds no allow: the signature only keeps the
// flow open until three packets are there.
var rtpStreamProtocol = protocol{
	app: policy.AppRTP, tcp: true,
	client:       func(v *view) match { return min(more, rtpFrames(v.c, v.cFull)) },
	server:       func(v *view) match { return min(more, rtpFrames(v.s, v.sFull)) },
	clientFirsts: between(0, 8), serverFirsts: between(0, 8),
}

// rtpFrames: three packets of one source that number themselves without a gap,
// since a stream loses none.
func rtpFrames(b []byte, full bool) match {
	var seq uint16
	var source uint32
	for n := 0; ; n++ {
		if n == 3 {
			return yes
		}
		if len(b) < 2+rtpHead {
			return until(full)
		}
		size := int(be.Uint16(b))
		if size < rtpHead || !rtpFixed(b[2:]) {
			return no
		}
		if n > 0 && (be.Uint16(b[4:]) != seq+1 || be.Uint32(b[10:]) != source) {
			return no
		}
		seq, source = be.Uint16(b[4:]), be.Uint32(b[10:])
		b = b[min(len(b), 2+size):]
	}
}

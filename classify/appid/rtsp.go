package appid

import "gatehouse/policy"

// RTSP: RFC 2326 sections 6 and 7, RFC 7826. HTTP's shape with a version of its own.
var rtspProtocol = protocol{
	app: policy.AppRTSP, tcp: true,
	client: rtspRequest, server: rtspStatus,
	clientFirsts: between('A', 'Z'), serverFirsts: oneOf("R"),
	attrs: sipAttrs,
	mid: func(b []byte) match {
		if b[0] == '$' {
			return rtspInterleaved(b)
		}
		return no
	},
}

// rtspInterleaved: RFC 2326 section 10.12: dollar sign, channel, length, and RTP or
// RTCP of version 2; another one where this ends.
func rtspInterleaved(b []byte) match {
	if len(b) < 16 || b[1] > 31 || b[4]>>6 != 2 {
		return no
	}
	n := 4 + int(be.Uint16(b[2:]))
	if n < 12 || n > 1600 {
		return no
	}
	if n > len(b) {
		return more
	}
	if n == len(b) || b[n] == '$' {
		return yes
	}
	return no
}

func rtspRequest(v *view) match {
	m := requestLine(v.c, v.cFull, "RTSP/1.0", "rtsp:", "rtsps:", "rtspu:", "*", "/")
	if m == no {
		m = requestLine(v.c, v.cFull, "RTSP/2.0", "rtsp:", "rtsps:", "*")
	}
	return m
}

func rtspStatus(v *view) match {
	b := v.s
	if m := begins(b, "RTSP/"); m != yes {
		return m
	}
	if len(b) < 12 {
		return until(v.sFull)
	}
	if (b[5] == '1' || b[5] == '2') && string(b[6:9]) == ".0 " && digit(b[9]) && digit(b[10]) && digit(b[11]) {
		return yes
	}
	return no
}

package appid

import "gatehouse/policy"

// RTSP: RFC 2326 sections 6 and 7, RFC 7826. HTTP's shape with a version of its own.
var rtspProtocol = protocol{
	app: policy.AppRTSP, tcp: true,
	client: rtspRequest, server: rtspStatus,
	clientFirsts: between('A', 'Z'), serverFirsts: oneOf("R"),
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

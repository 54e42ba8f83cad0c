package appid

import "gatehouse/policy"

// MongoDB wire protocol: "Standard Message Header", OP_QUERY, OP_MSG,
// OP_COMPRESSED of the MongoDB manual. The client's first message is proof.
var mongodbProtocol = protocol{
	app: policy.AppMongoDB, tcp: true,
	client: mongodbRequest, server: mongodbReply,
	clientFirsts: anyByte(), serverFirsts: anyByte(),
}

const (
	mongodbHead    = 16
	mongodbMax     = 48_000_000 // maxMessageSizeBytes
	mongodbReplyOp = 1
	mongodbQueryOp = 2004
	mongodbZipOp   = 2012
	mongodbMsgOp   = 2013
)

func mongodbRequest(v *view) match {
	b := v.c
	if len(b) >= 4 {
		if n := le.Uint32(b); n < mongodbHead+5 || n > mongodbMax {
			return no
		}
	}
	if len(b) < mongodbHead {
		return until(v.cFull)
	}
	if le.Uint32(b[8:]) != 0 {
		return no
	}
	n, body := int(le.Uint32(b)), b[mongodbHead:]
	switch le.Uint32(b[12:]) {
	case mongodbMsgOp:
		return mongodbMsg(body, n, v.cFull)
	case mongodbQueryOp:
		if len(body) < 5 {
			return until(v.cFull)
		}
		// Flags have bits 0 to 7 only; then the collection's full name.
		if le.Uint32(body) > 0xff {
			return no
		}
		for i, c := range body[4:min(len(body), 4+256)] {
			if c == 0 && i > 2 {
				return yes
			}
			if c < ' ' || c > '~' {
				return no
			}
		}
		return until(v.cFull || len(body) >= 4+256)
	case mongodbZipOp:
		if len(body) < 9 {
			return until(v.cFull)
		}
		if op := le.Uint32(body); op == mongodbMsgOp || op == mongodbQueryOp {
			if body[8] <= 3 {
				return yes
			}
		}
	}
	return no
}

func mongodbMsg(body []byte, n int, full bool) match {
	if len(body) < 9 {
		return until(full)
	}
	// Flags 0, 1 and 16; section kind 0 or 1; then a length that fits.
	size := int(le.Uint32(body[5:]))
	if le.Uint32(body)&^0x10003 != 0 || body[4] > 1 || size < 5 || size > n-mongodbHead-5 {
		return no
	}
	return yes
}

func mongodbReply(v *view) match {
	b := v.s
	if len(b) >= 4 {
		if n := le.Uint32(b); n < mongodbHead+5 || n > mongodbMax {
			return no
		}
	}
	if len(b) < mongodbHead {
		return until(v.sFull)
	}
	if len(v.c) >= mongodbHead && le.Uint32(b[8:]) != le.Uint32(v.c[4:]) {
		return no
	}
	switch le.Uint32(b[12:]) {
	case mongodbReplyOp, mongodbMsgOp, mongodbZipOp:
		return fits
	}
	return no
}

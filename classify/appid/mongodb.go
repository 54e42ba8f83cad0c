package appid

import "gatehouse/policy"

// MongoDB wire protocol: "Standard Message Header", OP_MSG, OP_COMPRESSED and the
// legacy opcodes of the MongoDB manual; documents are BSON (bsonspec.org 1.1).
// A message whose first document begins as one is proof.
var mongodbProtocol = protocol{
	app: policy.AppMongoDB, tcp: true,
	client: mongodbRequest, server: mongodbReply,
	clientFirsts: anyByte(), serverFirsts: anyByte(),
	mid: mongodbMid, attrs: mongodbAttrs,
}

const (
	mongodbHead       = 16
	mongodbMax        = 48_000_000 // maxMessageSizeBytes
	mongodbReplyOp    = 1
	mongodbUpdateOp   = 2001
	mongodbInsertOp   = 2002
	mongodbQueryOp    = 2004
	mongodbMoreOp     = 2005
	mongodbDeleteOp   = 2006
	mongodbKillOp     = 2007
	mongodbCommandOp  = 2010
	mongodbCommandRep = 2011
	mongodbZipOp      = 2012
	mongodbMsgOp      = 2013
)

// mongodbMessage checks the header and what the opcode says of the body.
func mongodbMessage(b []byte, full bool) match {
	if len(b) >= 4 {
		if n := le.Uint32(b); n < mongodbHead+4 || n > mongodbMax {
			return no
		}
	}
	if len(b) < mongodbHead {
		return until(full)
	}
	n, body := int(le.Uint32(b)), b[mongodbHead:min(int(le.Uint32(b)), len(b))]
	cut := until(full || len(body) == n-mongodbHead)
	size := n - mongodbHead
	flags := func(most uint32) bool { return len(body) < 4 || le.Uint32(body) <= most }
	switch le.Uint32(b[12:]) {
	case mongodbMsgOp:
		return mongodbMsg(body, size, cut)
	case mongodbReplyOp:
		// Flags, cursor, where it starts, how many documents.
		if len(body) < 20 {
			return cut
		}
		count := le.Uint32(body[16:])
		if !flags(0xf) || le.Uint32(body[12:]) > 1<<30 || count > 1<<24 || count == 0 && size != 20 {
			return no
		}
		if count == 0 {
			return fits
		}
		return bson(body[20:], size-20, cut)
	case mongodbQueryOp:
		if !flags(0xff) {
			return no
		}
		return mongodbName(body, 4, 8, size, cut)
	case mongodbInsertOp:
		if !flags(1) {
			return no
		}
		return mongodbName(body, 4, 0, size, cut)
	case mongodbUpdateOp, mongodbDeleteOp:
		if len(body) >= 4 && le.Uint32(body) != 0 {
			return no
		}
		return mongodbName(body, 4, 4, size, cut)
	case mongodbMoreOp:
		if len(body) >= 4 && le.Uint32(body) != 0 {
			return no
		}
		return mongodbName(body, 4, -12, size, cut)
	case mongodbCommandOp:
		return mongodbName(body, 0, -1, size, cut)
	case mongodbCommandRep:
		return bson(body, size, cut)
	case mongodbKillOp:
		if len(body) < 8 {
			return cut
		}
		if c := le.Uint32(body[4:]); le.Uint32(body) == 0 && c > 0 && int(c) == (size-8)/8 && size%8 == 0 {
			return yes
		}
	case mongodbZipOp:
		// The opcode inside, its length, the compressor: none, snappy, zlib, zstd.
		if len(body) < 9 {
			return cut
		}
		switch op := le.Uint32(body); op {
		case mongodbMsgOp, mongodbQueryOp, mongodbReplyOp:
			if body[8] <= 3 && le.Uint32(body[4:]) < mongodbMax && le.Uint32(body[4:]) >= 5 {
				return yes
			}
		}
	}
	return no
}

// mongodbName: a collection's full name at that place, NUL, skip bytes and a
// document; with a negative skip as many bytes and no document.
func mongodbName(body []byte, at, skip, size int, cut match) match {
	for i := at; i < min(len(body), at+256); i++ {
		switch c := body[i]; {
		case c == 0 && i < at+2:
			return no
		case c == 0 && skip == -1:
			return yes
		case c == 0 && skip < 0:
			if i+1-skip == size {
				return yes
			}
			return no
		case c == 0:
			doc := i + 1 + skip
			if doc >= len(body) {
				return cut
			}
			return bson(body[doc:], size-doc, cut)
		case c < ' ' || c == 0x7f:
			return no
		}
	}
	return cut
}

func mongodbMsg(body []byte, size int, cut match) match {
	if len(body) < 9 {
		return cut
	}
	// Flags 0, 1 and 16; section kind 0: a document; 1: a length, a name, documents.
	if le.Uint32(body)&^0x10003 != 0 || body[4] > 1 {
		return no
	}
	if body[4] == 0 {
		return bson(body[5:], size-5, cut)
	}
	if n := le.Uint32(body[5:]); n < 5 || int(n) > size-5 {
		return no
	}
	for i, c := range body[9:min(len(body), 9+64)] {
		switch {
		case c == 0 && i > 1:
			return yes
		case !alpha(c):
			return no
		}
	}
	return cut
}

// bson checks the beginning of a document that has at most size bytes: its
// length, then the first element's type and name, or its end.
func bson(b []byte, size int, cut match) match {
	if len(b) < 5 {
		return cut
	}
	n := int(le.Uint32(b))
	if n < 5 || n > size {
		return no
	}
	kind := b[4]
	if kind == 0 {
		if n == 5 {
			return yes
		}
		return no
	}
	if kind > 0x13 && kind != 0x7f && kind != 0xff {
		return no
	}
	for i, c := range b[5:min(len(b), 5+128)] {
		switch {
		case c == 0 && i > 0:
			return yes
		case c < ' ' || c == 0x7f:
			return no
		}
	}
	return cut
}

func mongodbRequest(v *view) match {
	m := mongodbMessage(v.c, v.cFull)
	if m == no || len(v.c) < mongodbHead {
		return m
	}
	if to := le.Uint32(v.c[8:]); to != 0 && to != 0xffffffff {
		return no
	}
	if op := le.Uint32(v.c[12:]); op == mongodbReplyOp || op == mongodbCommandRep {
		return no
	}
	return m
}

func mongodbReply(v *view) match {
	m := mongodbMessage(v.s, v.sFull)
	if m == no || len(v.s) < mongodbHead {
		return m
	}
	switch le.Uint32(v.s[12:]) {
	case mongodbReplyOp, mongodbCommandRep, mongodbMsgOp, mongodbZipOp:
	default:
		return no
	}
	// Met mid-stream, the first kept of each side need not belong together.
	if to := le.Uint32(v.s[8:]); to == 0 || len(v.c) >= mongodbHead && to != le.Uint32(v.c[4:]) && m == fits {
		return no
	}
	return m
}

func mongodbMid(b []byte) match { return mongodbMessage(b, false) }

// mongodbAttrs: the command, the database, the driver; the user of a handshake.
func mongodbAttrs(v *view, a *Attrs) {
	b := v.c[:min(len(v.c), 2048)]
	if len(b) > mongodbHead+10 && le.Uint32(b[12:]) == mongodbMsgOp && b[mongodbHead+4] == 0 {
		a.Set(AttrMethod, upTo(b[mongodbHead+10:], "\x00"))
	}
	a.Set(AttrDatabase, bsonString(b, "\x02$db\x00"))
	a.Set(AttrUser, bsonString(b, "\x02saslSupportedMechs\x00"))
	if driver, ok := after(b, "\x03driver\x00"); ok {
		a.Set(AttrAgent, bsonString(driver, "\x02name\x00"))
	}
}

func bsonString(b []byte, element string) []byte {
	rest, ok := after(b, element)
	if !ok || len(rest) < 5 {
		return nil
	}
	n := int(le.Uint32(rest))
	if n < 1 || n > len(rest)-4 {
		return nil
	}
	return rest[4 : 4+n-1]
}

package appid

import "gatehouse/policy"

// Hadoop IPC and HDFS: RpcConstants and RpcHeader.proto of Hadoop's sources.
// The greeting is proof of the IPC; HDFS is named by the protocol that the
// connection's context asks for.
var hadoopProtocol = protocol{
	app: policy.AppHadoopIPC, tcp: true,
	client: hadoopHello, server: hadoopReply,
	clientFirsts: oneOf("h"), serverFirsts: oneOf("\x00"),
	attrs: func(v *view, a *Attrs) {
		const prefix = "org.apache.hadoop."
		if rest, ok := after(v.c, prefix); ok {
			n := 0
			for n < len(rest) && (alpha(rest[n]) || digit(rest[n]) || rest[n] == '.' || rest[n] == '$') {
				n++
			}
			at := len(v.c) - len(rest) - len(prefix)
			a.Set(AttrService, v.c[at:at+len(prefix)+n])
		}
	},
	refine: func(v *view) policy.App {
		if contains(v.c, "org.apache.hadoop.hdfs.") {
			return policy.AppHDFS
		}
		return policy.AppHadoopIPC
	},
}

func hadoopHello(v *view) match {
	if m := begins(v.c, "hrpc"); m != yes {
		return m
	}
	if len(v.c) < 7 {
		return until(v.cFull)
	}
	// Versions 4 to 9; authentication none or SASL, before version 9 as a method.
	if v.c[4] < 4 || v.c[4] > 9 || v.c[4] == 9 && v.c[6] != 0 && v.c[6] != 0xdf && v.c[6] != 0x50 && v.c[6] != 0x51 {
		return no
	}
	return yes
}

// HDFS data transfer: DataTransferProtocol (version 28, an operation, a protobuf
// of its own length) and DataTransferSaslUtil (a magic number) of Hadoop's
// sources.
var hdfsDataProtocol = protocol{
	app: policy.AppHDFS, tcp: true,
	client: hdfsTransfer, server: hdfsStatus,
	clientFirsts: oneOf("\x00\xde"), serverFirsts: anyByte(),
}

const hdfsSASL = "\xde\xad\xbe\xef"

func hdfsTransfer(v *view) match {
	b := v.c
	if b[0] == hdfsSASL[0] {
		if m := begins(b, hdfsSASL); m != yes || len(b) < 6 {
			if m == yes {
				m = until(v.cFull)
			}
			return m
		}
		// A protobuf of known length whose first field is the status.
		if _, n := varint(b[4:]); n > 0 && len(b) > 4+n && b[4+n] == 0x08 {
			return yes
		}
		return no
	}
	const version = "\x00\x1c"
	if m := begins(b, version); m != yes {
		return m
	}
	if len(b) < 6 {
		if len(b) > 2 && (b[2] < 80 || b[2] > 90) {
			return no
		}
		return until(v.cFull)
	}
	// The header's first field is a message too: field 1, of known length.
	size, n := varint(b[3:])
	if b[2] < 80 || b[2] > 90 || n == 0 || size < 4 || size > 1<<16 || len(b) > 3+n && b[3+n] != 0x0a {
		return no
	}
	if len(b) < 3+n+3 {
		return until(v.cFull)
	}
	if inner, k := varint(b[3+n+1:]); k == 0 || inner >= size {
		return no
	}
	return yes
}

// hdfsStatus: a protobuf that begins with its status, or SASL's answer.
func hdfsStatus(v *view) match {
	if begins(v.c, hdfsSASL) == no && begins(v.c, "\x00\x1c") == no {
		return no
	}
	size, n := varint(v.s)
	switch {
	case n < 0 || size > 1<<16:
		return no
	case n == 0 || len(v.s) < n+2:
		return until(v.sFull)
	case v.s[n] != 0x08 || v.s[n+1] > 20:
		return no
	}
	return fits
}

// varint reads a protobuf's number; n is 0 where it is cut, -1 where it is too long.
func varint(b []byte) (v, n int) {
	for i, c := range b[:min(len(b), 4)] {
		v |= int(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	if len(b) < 4 {
		return 0, 0
	}
	return 0, -1
}

func hadoopReply(v *view) match {
	if len(v.s) < 6 {
		return until(v.sFull)
	}
	// Length, length of the header, its first field: the call's id.
	const callID = 0x08
	if n := be.Uint32(v.s); n < 2 || n > 1<<26 || v.s[4] == 0 || v.s[5] != callID {
		return no
	}
	return fits
}

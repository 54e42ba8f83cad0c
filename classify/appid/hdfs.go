package appid

import "gatehouse/policy"

// Hadoop IPC and HDFS: RpcConstants and RpcHeader.proto of Hadoop's sources.
// The greeting is proof of the IPC; HDFS is named by the protocol that the
// connection's context asks for.
var hadoopProtocol = protocol{
	app: policy.AppHadoopIPC, tcp: true,
	client: hadoopHello, server: hadoopReply,
	clientFirsts: oneOf("h"), serverFirsts: oneOf("\x00"),
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
	if v.c[4] != 9 || v.c[6] != 0 && v.c[6] != 0xdf {
		return no
	}
	return yes
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

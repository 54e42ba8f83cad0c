package appid

import "gatehouse/policy"

// ZooKeeper: zookeeper.jute (ConnectRequest, ConnectResponse), the four-letter
// words of the administrator's guide, and the greeting of its election port
// (QuorumCnxManager) and of its quorum port (QuorumPacket, LearnerInfo).
var zookeeperProtocol = protocol{
	app: policy.AppZooKeeper, tcp: true,
	client: zookeeperConnect, server: zookeeperConnected,
	clientFirsts: oneOf("\x00\xff").or(between('a', 'z')), serverFirsts: oneOf("\x00\xff").or(between('A', 'Z')).or(between('a', 'z')),
	mid: zookeeperMid,
}

var zookeeperWords = []string{"RUOK", "STAT", "MNTR", "SRVR", "ENVI", "CONF", "CONS", "DUMP", "WCHS", "WCHC", "ISRO", "KILL", "DIRS", "CRST", "SRST"}

func zookeeperConnect(v *view) match {
	b := v.c
	if b[0] == 0xff {
		return zookeeperElection(b, v.cFull)
	}
	if b[0] != 0 {
		if len(b) > 5 {
			return no
		}
		for _, w := range zookeeperWords {
			switch beginsFold(b, w) {
			case more:
				return until(v.cFull)
			case yes:
				if len(b) == 4 || b[4] == '\n' {
					return fits
				}
			}
		}
		return no
	}
	if m := zookeeperLearner(b); m == yes || m == more && len(b) >= 4 {
		return m
	}
	// Length, protocol 0, zxid, timeout, session, password of 16 bytes, read-only.
	if len(b) >= 4 && be.Uint32(b) != 44 && be.Uint32(b) != 45 || len(b) >= 8 && be.Uint32(b[4:]) != 0 {
		return no
	}
	if len(b) < 32 {
		return until(v.cFull)
	}
	if be.Uint32(b[28:]) != 16 || be.Uint32(b[16:]) == 0 {
		return no
	}
	return yes
}

// zookeeperElection: version -65536 or -65535, server id, length of the address.
func zookeeperElection(b []byte, full bool) match {
	const version = "\xff\xff\xff\xff\xff\xff\x00"
	if m := begins(b, version); m != yes {
		return m
	}
	if len(b) < 20 {
		return until(full)
	}
	if b[7] > 1 || be.Uint64(b[8:]) > 1<<32 || be.Uint32(b[16:]) > 1024 {
		return no
	}
	return yes
}

// zookeeperLearner: type FOLLOWERINFO or OBSERVERINFO, zxid, length of the data:
// server id, protocol 0x10000, version of the configuration.
func zookeeperLearner(b []byte) match {
	if len(b) >= 4 && be.Uint32(b) != 11 && be.Uint32(b) != 16 {
		return no
	}
	if len(b) < 28 {
		return more
	}
	if n := be.Uint32(b[12:]); n != 12 && n != 20 || be.Uint32(b[24:]) != 0x10000 {
		return no
	}
	return yes
}

// zookeeperMid: requests and replies of a session (ReplyHeader, RequestHeader):
// pings, and requests for a path.
func zookeeperMid(b []byte) match {
	if len(b) < 12 {
		return no
	}
	n, xid := int(be.Uint32(b)), be.Uint32(b[4:])
	const pingXID = 0xfffffffe
	switch {
	case n == 8 && xid == pingXID && be.Uint32(b[8:]) == 11:
		return yes
	case n == 16 && xid == pingXID && len(b) >= 20 && be.Uint32(b[16:]) == 0:
		return yes
	case n < 13 || n > 1<<20 || len(b) < 18:
		return no
	}
	// Operations on a path, which is absolute.
	switch op := be.Uint32(b[8:]); op {
	case 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 19, 20, 21:
		if l := be.Uint32(b[12:]); l >= 1 && int(l) <= n-12 && b[16] == '/' && printable(b[16:min(len(b), 16+int(l))]) && xid < 1<<31 {
			return yes
		}
	}
	return no
}

func zookeeperConnected(v *view) match {
	b := v.s
	if b[0] == 0xff {
		return zookeeperElection(b, v.sFull)
	}
	if b[0] != 0 {
		for _, s := range [...]string{"imok", "Zookeeper version:", "zk_version", "Environment:", "clientPort=", "rw", "ro", "This ZooKeeper", "SessionTracker"} {
			switch begins(b, s) {
			case yes:
				return fits
			case more:
				return until(v.sFull)
			}
		}
		return no
	}
	// The leader's packet: LEADERINFO, zxid, its protocol version.
	if len(b) >= 20 && be.Uint32(b) == 17 && be.Uint32(b[12:]) == 4 && be.Uint32(b[16:]) == 0x10000 {
		return yes
	}
	if len(b) >= 4 && len(b) < 20 && be.Uint32(b) == 17 {
		return until(v.sFull)
	}
	if len(b) >= 4 && be.Uint32(b) != 36 && be.Uint32(b) != 37 || len(b) >= 8 && be.Uint32(b[4:]) != 0 {
		return no
	}
	if len(b) < 24 {
		return until(v.sFull)
	}
	if be.Uint32(b[20:]) != 16 {
		return no
	}
	return yes
}

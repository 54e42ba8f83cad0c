package appid

import "gatehouse/policy"

// ZooKeeper: zookeeper.jute (ConnectRequest, ConnectResponse), the four-letter
// words of the administrator's guide, and the greeting of its election port
// (QuorumCnxManager).
var zookeeperProtocol = protocol{
	app: policy.AppZooKeeper, tcp: true,
	client: zookeeperConnect, server: zookeeperConnected,
	clientFirsts: oneOf("\x00\xff").or(between('a', 'z')), serverFirsts: oneOf("\x00\xff").or(between('A', 'Z')).or(between('a', 'z')),
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

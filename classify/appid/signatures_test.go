package appid

import (
	"math/rand/v2"
	"strings"
	"testing"

	"gatehouse/policy"
)

func utf16le(s string) string {
	var out strings.Builder
	for i := range len(s) {
		out.WriteByte(s[i])
		out.WriteByte(0)
	}
	return out.String()
}

func tdsPacketOf(kind byte, body string) string {
	return string([]byte{kind, 1}) + be16(8+len(body)) + "\x00\x00\x01\x00" + body
}

func bsonOf(elements string) string { return le32(4+len(elements)+1) + elements + "\x00" }

func mongoOf(id, to, op int, body string) string {
	return le32(16+len(body)) + le32(id) + le32(to) + le32(op) + body
}

var noise16 = "\x9f\x13\xe4\x7a\x05\xc8\xb1\x66\xd2\x3b\x90\xf7\x4c\xa1\x08\xee"

// noiseOf is what the output of a cipher looks like.
func noiseOf(n int) string {
	rng := rand.New(rand.NewPCG(9, 9))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

// consulAsk multiplexes a request as a client of Consul's does.
func consulAsk(request string) string {
	return "\x04" + yamuxOpen + yamuxData + be32(len(request)) + request
}

// TestOneSide: one message that is proof, alone: at the beginning of a flow, or,
// where mid is set, anywhere in one and from either side.
func TestOneSide(t *testing.T) {
	allHeaders := le32(22) + le32(18) + "\x02\x00" + strings.Repeat("\x00", 8) + le32(1)
	tests := []struct {
		name     string
		app      policy.App
		udp, mid bool
		payload  string
	}{
		{"tds login 7.4", policy.AppTDS, false, false, tdsPacketOf(0x10, le32(94+6)+"\x04\x00\x00\x74"+strings.Repeat("\x00", 92))},
		{"tds 5 login", policy.AppTDS, false, false, "\x02\x00\x02\x00\x00\x00\x00\x00host" + strings.Repeat("\x00", 26) + "\x04sa" + strings.Repeat("\x00", 28) + "\x02" + strings.Repeat("\x00", 31+31+380)},
		{"tds call by name", policy.AppTDS, false, true, tdsPacketOf(3, allHeaders+"\x0d\x00"+utf16le("sp_executesql")+"\x00\x00")},
		{"tds call by number", policy.AppTDS, false, true, tdsPacketOf(3, allHeaders+"\xff\xff\x0a\x00\x00\x00\x00\x00")},
		{"tds batch", policy.AppTDS, false, true, tdsPacketOf(1, allHeaders+utf16le("SELECT 1"))},
		{"tds batch before 7.2", policy.AppTDS, false, true, tdsPacketOf(1, utf16le("SELECT 1"))},
		{"tds answer", policy.AppTDS, false, true, tdsPacketOf(4, "\xfd\x10\x00\xc1\x00"+strings.Repeat("\x00", 8))},
		{"tds attention", policy.AppTDS, false, true, tdsPacketOf(6, "")},
		{"kafka request", policy.AppKafka, false, false, kafkaAsk},
		{"kafka list offsets without a name", policy.AppKafka, false, false, be32(10+4+4+2+5) + be16(2) + be16(0) + be32(0) + be16(0) + "\xff\xff\xff\xff" + be32(1) + be16(5) + "topic"},
		{"kafka request mid-stream", policy.AppKafka, false, true, kafkaAsk},
		{"kafka versions", policy.AppKafka, false, true, be32(10+3*6) + be32(7) + be16(0) + be32(3) + be16(0) + be16(0) + be16(9) + be16(1) + be16(0) + be16(12) + be16(2) + be16(0) + be16(6)},
		{"mqtt publish", policy.AppMQTT, false, true, "\x30\x0e\x00\x08a/b/temp" + "21.5"},
		{"mqtt subscribe", policy.AppMQTT, false, true, "\x82\x08\x00\x01\x00\x03a/b\x00"},
		{"mqtt 5 subscribe", policy.AppMQTT, false, true, "\x82\x09\x00\x01\x00\x00\x03a/b\x00"},
		{"ntp client", policy.AppNTP, true, false, "\x23\x00\x06\xec" + strings.Repeat("\x00", 36) + noise16[:8]},
		{"ntp client that tells nothing", policy.AppNTP, true, false, "\x23\x00\x06\x20" + strings.Repeat("\x00", 36) + noise16[:8]},
		{"ntp client that has the time", policy.AppNTP, true, false, "\xe3\x03\x06\xec\x00\x00\x08\x00\x00\x00\x04\x00\x0a\x00\x00\x01" + strings.Repeat("\xe4\x00\x11\x22\x33\x44\x55\x66", 4)},
		{"ntp control", policy.AppNTP, true, false, "\x16\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"ntp variables", policy.AppNTP, true, true, "\x16\x82\x00\x01\x06\x15\x00\x00\x00\x00\x00\x14version=\"ntpd 4.2\",\x20"},
		{"ntp private", policy.AppNTP, true, false, "\x17\x00\x03\x2a" + strings.Repeat("\x00", 188)},
		{"ntp private answer", policy.AppNTP, true, true, "\xd7\x00\x03\x2a\x00\x01\x00\x48" + strings.Repeat("\x01", 72)},
		{"dns query", policy.AppDNS, true, false, dnsAsk},
		{"ldap search", policy.AppLDAP, false, false, "\x30\x1b\x02\x01\x01\x63\x16\x04\x00\x0a\x01\x00\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\x87\x01a\x30\x00"},
		{"ldap unbind", policy.AppLDAP, false, true, "\x30\x05\x02\x01\x03\x42\x00"},
		{"ldap result", policy.AppLDAP, false, true, "\x30\x0c\x02\x01\x01\x65\x07\x0a\x01\x04\x04\x00\x04\x00"},
		{"ldap result with long lengths", policy.AppLDAP, false, true, "\x30\x84\x00\x00\x00\x10\x02\x01\x01\x61\x84\x00\x00\x00\x07\x0a\x01\x00\x04\x00\x04\x00"},
		{"telnet", policy.AppTelnet, false, true, "\xff\xfd\x18\xff\xfd\x20"},
		{"telnet subnegotiation", policy.AppTelnet, false, true, "\xff\xfa\x18\x00xterm\xff\xf0\r\nlogin:"},
		{"smtp greeting", policy.AppSMTP, false, true, "220 mx.example ESMTP ready\r\n"},
		{"smtp envelope", policy.AppSMTP, false, true, "MAIL FROM:<a@b>\r\n"},
		{"smtp extensions", policy.AppSMTP, false, true, "250-mx.example\r\n250-SIZE 1000\r\n250 HELP\r\n"},
		{"ftp greeting", policy.AppFTP, false, true, "220 ProFTPD Server (FTP) ready\r\n"},
		{"ftp passive", policy.AppFTP, false, true, "227 Entering Passive Mode (10,0,0,1,4,1).\r\n"},
		{"ssh key exchange", policy.AppSSH, false, true, be32(300) + "\x06\x14" + noise16 + be32(40) + "curve25519-sha256,diffie-hellman-group14-sha256"},
		{"stun without the cookie", policy.AppSTUN, true, false, "\x00\x01\x00\x08" + noise16 + "\x00\x03\x00\x04\x00\x00\x00\x06"},
		{"wireguard initiation", policy.AppWireGuard, true, false, "\x01\x00\x00\x00" + noiseOf(128) + strings.Repeat("\x00", 16)},
		{"wireguard data", policy.AppWireGuard, true, false, "\x04\x00\x00\x00\x11\x22\x33\x44\x07\x00\x00\x00\x00\x00\x00\x00" + noise16},
		{"syslog with an ISO date", policy.AppSyslog, false, false, "<167>2016-05-24T09:50:52.926451+02:00 ldap01 slapd: a\n"},
		{"syslog of a router", policy.AppSyslog, true, false, "<189>29: *Apr  1 10:11:12.123: %SYS-5-CONFIG_I: x"},
		{"syslog without a date", policy.AppSyslog, true, false, "<13>cron[123]: session opened"},
		{"syslog counted", policy.AppSyslog, false, false, "52 <34>1 2003-10-11T22:14:15.003Z a su - ID47 - hello!"},
		{"sql server browser", policy.AppTDS, true, true, "\x05" + "\x1b\x00" + "ServerName;A;InstanceName;;"},
		{"netbios session", policy.AppNetBIOS, false, true, "\x81\x00\x00\x44\x20" + strings.Repeat("CA", 16) + "\x00\x20" + strings.Repeat("CA", 16) + "\x00"},
		{"websocket text", policy.AppWebSocket, false, true, "\x81\x87\x01\x02\x03\x04" + "igohn\"t"},
		{"udp tracker", policy.AppBitTorrent, true, false, "\x00\x00\x04\x17\x27\x10\x19\x80\x00\x00\x00\x00abcd"},
		{"bittorrent piece", policy.AppBitTorrent, false, true, be32(9+1<<14) + "\x07" + be32(3) + be32(1<<14) + noise16},
		{"mongodb command", policy.AppMongoDB, false, true, mongoOf(7, 0, 2013, "\x00\x00\x00\x00\x00"+bsonOf("\x10ping\x00\x01\x00\x00\x00"))},
		{"mongodb query", policy.AppMongoDB, false, false, mongoOf(7, 0, 2004, "\x00\x00\x00\x00admin.$cmd\x00"+le32(0)+le32(-1)+bsonOf("\x10isMaster\x00\x01\x00\x00\x00"))},
		{"mongodb reply", policy.AppMongoDB, false, true, mongoOf(9, 7, 1, le32(8)+strings.Repeat("\x00", 8)+le32(0)+le32(1)+bsonOf("\x08ok\x00\x01"))},
		{"mongodb compressed", policy.AppMongoDB, false, true, mongoOf(7, 0, 2012, le32(2013)+le32(99)+"\x01zzz")},
		{"mongodb more", policy.AppMongoDB, false, true, mongoOf(7, 0, 2005, le32(0)+"a.b\x00"+le32(0)+strings.Repeat("\x01", 8))},
		{"mysql login", policy.AppMySQL, false, false, mysqlLoginBytes + "\x00"},
		{"mysql query", policy.AppMySQL, false, true, "\x09\x00\x00\x00\x03SELECT 1"},
		{"mysql x", policy.AppMySQL, false, false, "\x05\x00\x00\x00\x0b\x08\x05\x1a\x00"},
		{"postgresql error", policy.AppPostgreSQL, false, true, "E" + be32(4+28) + "SERROR\x00VERROR\x00C42601\x00Mno\x00\x00\x00"},
		{"redis reply", policy.AppRedis, false, true, "*2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n"},
		{"redis error", policy.AppRedis, false, true, "-WRONGTYPE Operation against a key\r\n"},
		{"memcached set", policy.AppMemcached, false, false, "set a 0 0 5\r\nhello\r\n"},
		{"memcached value", policy.AppMemcached, false, true, "VALUE a 0 5\r\nhello\r\nEND\r\n"},
		{"memcached binary get", policy.AppMemcached, false, false, "\x80\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x03" + strings.Repeat("\x00", 12) + "abc"},
		{"zookeeper ping", policy.AppZooKeeper, false, true, be32(8) + "\xff\xff\xff\xfe" + be32(11)},
		{"zookeeper read", policy.AppZooKeeper, false, true, be32(8+4+5+1) + be32(1) + be32(4) + be32(5) + "/a/bc\x00"},
		{"zookeeper learner", policy.AppZooKeeper, false, false, be32(11) + strings.Repeat("\x00", 8) + be32(20) + be32(0) + be32(2) + be32(0x10000) + strings.Repeat("\x00", 8)},
		{"cassandra query", policy.AppCassandra, false, true, "\x04\x00\x00\x01\x07" + be32(4+8+3) + be32(8) + "SELECT 1\x00\x01\x00"},
		{"cassandra result", policy.AppCassandra, false, true, "\x84\x00\x00\x01\x08" + be32(4) + be32(1)},
		{"amqp 1.0 frame", policy.AppAMQP, false, true, be32(14) + "\x02\x00\x00\x00\x00\x53\x10\xc0\x01\x00"},
		{"nats connect", policy.AppNATS, false, true, "CONNECT {\"verbose\":false,\"lang\":\"go\"}\r\n"},
		{"nats message", policy.AppNATS, false, true, "MSG a.b 1 5\r\nhello\r\n"},
		{"stomp send", policy.AppSTOMP, false, true, "SEND\ndestination:/queue/a\n\nhello\x00"},
		{"rtsp interleaved", policy.AppRTSP, false, true, "$\x00" + be16(20) + "\x80\x60" + strings.Repeat("r", 18)},
		{"imap fetch", policy.AppIMAP, false, true, "* 12 FETCH (UID 7)\r\n"},
		{"kerberos password", policy.AppKerberos, true, false, be16(46) + "\xff\x80" + be16(40) + "\x6e\x26\x30\x24\xa0\x03\x02\x01\x05\xa1\x03\x02\x01\x0e" + strings.Repeat("\x00", 26)},
		{"bootp", policy.AppDHCP, true, false, "\x01\x01\x06\x00" + strings.Repeat("\x00", 232) + "\x63\x82\x53\x63\xff" + strings.Repeat("\x00", 59)},
		{"lustre acceptor", policy.AppLustre, false, false, "\x00\x71\xce\xac\x01\x00\x00\x00" + noise16[:8]},
		{"lustre message", policy.AppLustre, false, true, "\xc1\x00\x00\x00" + strings.Repeat("\x00", 20) + noise16 + "\x39\x30\x00\x00\x39\x30\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"},
		{"consul rpc", policy.AppConsul, false, false, consulAsk("\x82\xadServiceMethod\xacCatalog.List\xa3Seq\x01")},
		{"consul rpc, the number first", policy.AppConsul, false, false, consulAsk("\x82\xa3Seq\x01\xadServiceMethod\xacCatalog.List")},
		{"consul rpc of a single request", policy.AppConsul, false, false, "\x00\x82\xadServiceMethod\xa9KVS.Apply\xa3Seq\x00"},
		{"hdfs read", policy.AppHDFS, false, false, "\x00\x1c\x51\x10\x0a\x08\x0a\x06abcdef\x12\x04efgh"},
		{"rdp channel", policy.AppRDP, false, true, "\x03\x00\x00\x20\x02\xf0\x80\x64\x00\x05\x03\xeb\x70\x12" + noise16},
		{"rdp without negotiation", policy.AppRDP, false, false, "\x03\x00\x00\x0b\x06\xe0\x00\x00\x00\x00\x00\x03\x00\x01\x80\x02\xf0\x80\x7f\x65\x82"},
		{"tns data", policy.AppTNS, false, true, be16(14) + "\x00\x00\x06\x00\x00\x00\x00\x00\x03\x5e\x01\x02"},
		{"nfs reply", policy.AppSunRPC, false, true, "\x80\x00\x00\x18" + be32(7) + be32(1) + be32(0) + be32(0) + be32(0) + be32(0)},
		{"openvpn", policy.AppOpenVPN, true, false, "\x38" + noise16[:8] + "\x00\x00\x00\x00\x00"},
		{"openvpn signed", policy.AppOpenVPN, true, false, "\x38" + noise16[:8] + noise16 + noise16[:4] + be32(1) + be32(1700000000) + "\x00\x00\x00\x00\x00"},
		{"openvpn hidden", policy.AppOpenVPN, true, false, "\x38" + noise16[:8] + be32(1) + be32(1700000000) + noiseOf(37)},
		{"quic of google", policy.AppQUIC, true, false, "\x0d" + noise16[:8] + "Q043" + "\x01" + noise16 + "CHLO"},
		{"http2 request", policy.AppHTTP2, false, true, http2FrameOf(1, 4, 1, http2Fields(":method", "GET", ":path", "/a"))},
		{"grpc request", policy.AppGRPC, false, true, http2FrameOf(1, 4, 1, http2Fields(":method", "POST", ":path", "/a.B/C", "content-type", "application/grpc"))},
		{"http with a blank in its target", policy.AppHTTP, false, false, "GET /?q=' OR 1=1 HTTP/1.1\r\nHost: a\r\n\r\n"},
	}
	for _, tt := range tests {
		for dir := FromClient; dir <= FromServer; dir++ {
			if dir == FromServer && !tt.mid {
				continue
			}
			var s State
			proto := policy.ProtoTCP
			if tt.udp {
				proto = policy.ProtoUDP
			}
			s.Reset(proto, 9999, tt.mid)
			o := testEngine.Feed(&s, dir, 1000, []byte(tt.payload))
			if tt.name == "mysql x" { // the server begins
				s.Reset(proto, 9999, false)
				o = testEngine.Feed(&s, FromServer, 1000, []byte(tt.payload))
			}
			if o.Spoken.App != tt.app || o.Confidence > ConfidenceOneSide {
				t.Errorf("%s from side %d: %+v", tt.name, dir, o)
			}
			payload := []byte(tt.payload)
			var a Attrs
			if n := testing.AllocsPerRun(3, func() {
				s.Reset(proto, 9999, tt.mid)
				testEngine.Feed(&s, dir, 1000, payload)
				s.Attrs(&a)
			}); n != 0 && !raceEnabled {
				t.Errorf("%s: %v allocations", tt.name, n)
			}
		}
	}
}

// TestLookAlikes: what begins like a protocol and is none of it.
func TestLookAlikes(t *testing.T) {
	tests := []struct {
		name     string
		udp, mid bool
		payload  string
	}{
		{"s7 connection request", false, false, "\x03\x00\x00\x16\x11\xe0\x00\x00\x00\x01\x00\xc0\x01\x0a\xc1\x02\x01\x00\xc2\x02\x01\x02"},
		{"h.323 setup", false, false, "\x03\x00\x00\x20\x08\x02\x00\x01\x05" + strings.Repeat("q", 23)},
		{"kafka length, no kafka", false, false, be32(20) + be16(18) + be16(99) + strings.Repeat("\x00", 16)},
		{"kafka of an unknown key", false, true, be32(10+7) + be16(99) + be16(3) + be32(7) + be16(7) + "rdkafka"},
		{"mongodb opcode, no document", false, true, mongoOf(7, 0, 2013, "\x00\x00\x00\x00\x00"+le32(900)+"\x02x\x00")},
		{"bson of no type", false, true, mongoOf(7, 0, 2013, "\x00\x00\x00\x00\x00"+bsonOf("\x44ping\x00\x01"))},
		{"sixteen bytes as in stun", true, false, "\x00\x01\x00\x08" + noise16 + "\x00\x03\x00\x09\x00\x00\x00\x06"},
		{"wireguard's zeros", true, false, "\x04\x00\x00\x00" + strings.Repeat("\x00", 28)},
		{"wireguard's numbers", true, false, "\x04\x00\x00\x00\x01\x00\x00\x00" + strings.Repeat("\x01\x00\x00\x00", 6)},
		{"ntp's size of zeros", true, false, "\x1b" + strings.Repeat("\x00", 47)},
		{"dns query with an authority", true, false, strings.Replace(dnsChanges, "\x00\xfb\x00\x01", "\x00\x01\x00\x01", 1)},
		{"llmnr is not dns", true, false, "llmnr"},
		{"snmp's beginning", true, false, "\x30\x18\x02\x01\x01\x04\x06public\xa0\x0c\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x00"},
		{"syslog's bracket", false, false, "<html><body>"},
		{"syslog's number too high", true, false, "<192>Oct 11 22:14:15 a su: hello"},
		{"xml", false, false, "<?xml version=\"1.0\"?><soap:Envelope>"},
		{"sip's method", false, false, "OPTIONS mailto:a@b SIP/2.0\r\n\r\n"},
		{"icap", false, false, "OPTIONS icap://a/b ICAP/1.0\r\n\r\n"},
		{"http of version 3", false, false, "GET / HTTP/3.0\r\n\r\n"},
		{"tpkt with mcs of another", false, true, "\x03\x00\x00\x20\x02\xf0\x80\x32\x01\x00" + strings.Repeat("s", 22)},
		{"tls of version 9", false, false, "\x16\x03\x09\x00\x30\x01\x00\x00\x2c\x03\x09"},
		{"websocket that is not text", false, true, "\x81\x8a\x01\x02\x03\x04\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6"},
		{"hpack that is none", false, true, http2FrameOf(1, 4, 1, "\xff\xff\xff\xff\xff")},
		{"gossip", true, false, "\x00\x82\xa5SeqNo\x01\xa4Node\xa1a"},
		{"gossip in a stream", false, false, "\x06\x83\xa4Join\xc3\xa5Nodes\x02\xacUserStateLen\x00"},
		{"nomad's rpc", false, false, consulAsk("\x82\xadServiceMethod\xacJob.Register\xa3Seq\x01")},
		{"yamux with another's data", false, false, consulAsk(noise16)},
		{"openvpn's opcode", true, false, "\x38" + strings.Repeat("\x00", 100)},
		{"rtmp's version", false, false, "\x03" + strings.Repeat("\x00", 600)},
		{"google's quic without a version", true, false, "\x0d" + noise16[:8] + "QXYZ\x01" + noise16},
	}
	for _, tt := range tests {
		var s State
		proto, port := policy.ProtoTCP, uint16(9999)
		if tt.udp {
			proto = policy.ProtoUDP
		}
		b := tt.payload
		if b == "llmnr" {
			b, port = dnsAsk, portLLMNR
		}
		s.Reset(proto, port, tt.mid)
		testEngine.Feed(&s, FromClient, 1000, []byte(b))
		if o := testEngine.Finish(&s); o.Spoken.App != policy.AppUnknown {
			t.Errorf("%s: %+v", tt.name, o)
		}
	}
}

// TestPrefixThenNoise: a beginning that is cut anywhere and goes on as something
// else is never another protocol, and where the other side answers with
// something else, it is nothing.
func TestPrefixThenNoise(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	rounds := 60
	if testing.Short() || raceEnabled {
		rounds = 10
	}
	noise := func() string {
		b := make([]byte, 32+rng.IntN(200))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return string(b)
	}
	for _, sm := range samples() {
		message := sm.turns[0]
		for range rounds {
			cut := rng.IntN(len(message))
			k := newTalk(&sm)
			k.turn(sm.dir(0), message[:cut]+noise())
			for n := range 6 {
				k.turn(sm.dir(n+1), noise())
			}
			o := testEngine.Finish(&k.s)
			if o.Spoken.App != policy.AppUnknown && o.Spoken.App != sm.app && !sm.app.Is(o.Spoken.App) {
				t.Errorf("%s cut at %d is %+v", sm.name, cut, o)
			}
			if !sm.udp && o.Confidence == ConfidenceBothSides {
				t.Errorf("%s cut at %d and answered by noise is %+v", sm.name, cut, o)
			}
		}
	}
}

func TestAttributes(t *testing.T) {
	login := func(caps int, rest string) string {
		body := le32(caps) + le32(1<<24) + "\x21" + strings.Repeat("\x00", 23) + rest
		return le32(len(body))[:3] + "\x01" + body
	}
	tdsLoginOf := func() string {
		fields := []string{"host", "sa", "", "app", "srv", "", "odbc", "", "shop"}
		at, data, table := 94, "", ""
		for i, f := range fields {
			if i == 5 {
				table += "\x00\x00\x00\x00"
			}
			if i == 5 {
				continue
			}
			table += string([]byte{byte(at), byte(at >> 8), byte(len(f)), 0})
			data += utf16le(f)
			at += 2 * len(f)
		}
		head := le32(94+len(data)) + "\x04\x00\x00\x74" + strings.Repeat("\x00", 28) + table
		return tdsPacketOf(0x10, head+strings.Repeat("\x00", 94-len(head))+data)
	}
	mqttLogin := "\x00\x04MQTT\x04\xc6\x00\x3c\x00\x03dev\x00\x01w\x00\x01m\x00\x04anna\x00\x06secret"
	tests := []struct {
		name  string
		sm    sample
		attrs map[Attr]string
	}{
		{"mysql", sample{serverFirst: true, turns: []string{mysqlGreetingBytes, login(0x8|0x200|0x8000, "root\x00\x03pwdshop\x00")}},
			map[Attr]string{AttrVersion: "8.0.36", AttrUser: "root", AttrDatabase: "shop"}},
		{"mysql without a database", sample{serverFirst: true, turns: []string{mysqlGreetingBytes, login(0x200|0x8000, "root\x00\x03pwd")}},
			map[Attr]string{AttrUser: "root", AttrDatabase: ""}},
		{"postgresql", sample{turns: []string{be32(8+5+5+9+5+17+5+1) + be32(3<<16) + "user\x00anna\x00database\x00shop\x00application_name\x00psql\x00\x00", "R" + be32(8) + be32(0) + "S" + be32(4+15+5) + "server_version\x0016.2\x00"}},
			map[Attr]string{AttrUser: "anna", AttrDatabase: "shop", AttrAgent: "psql"}},
		{"tds", sample{turns: []string{tdsLoginOf()}}, map[Attr]string{AttrUser: "sa", AttrAgent: "app", AttrDatabase: "shop"}},
		{"tns", sample{turns: []string{be16(58+68) + "\x00\x00\x01\x00\x00\x00" + be16(312) + be16(300) + strings.Repeat("\x00", 12) + be16(68) + be16(58) + strings.Repeat("\x00", 30) + "(DESCRIPTION=(CONNECT_DATA=(SERVICE_NAME=orcl)(CID=(USER=anna))))  "}},
			map[Attr]string{AttrDatabase: "orcl", AttrUser: "anna"}},
		{"mongodb", sample{turns: []string{mongoOf(1, 0, 2013, "\x00\x00\x00\x00\x00"+bsonOf("\x10find\x00\x01\x00\x00\x00\x02$db\x00"+le32(5)+"shop\x00"))}},
			map[Attr]string{AttrMethod: "find", AttrDatabase: "shop"}},
		{"redis", sample{turns: []string{"*3\r\n$4\r\nAUTH\r\n$4\r\nanna\r\n$6\r\nsecret\r\n"}}, map[Attr]string{AttrMethod: "AUTH", AttrUser: "anna"}},
		{"redis password alone", sample{turns: []string{"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"}}, map[Attr]string{AttrMethod: "AUTH", AttrUser: ""}},
		{"kafka", sample{turns: []string{kafkaAsk}}, map[Attr]string{AttrAgent: "rdkafka", AttrMethod: "ApiVersions", AttrVersion: "3"}},
		{"mqtt", sample{turns: []string{"\x10" + string(rune(len(mqttLogin))) + mqttLogin}}, map[Attr]string{AttrAgent: "dev", AttrUser: "anna", AttrVersion: "4"}},
		{"amqp", sample{turns: []string{amqpHello, amqpStart}}, map[Attr]string{AttrVersion: "0.9.1"}},
		{"http", sample{turns: []string{"GET /a?b HTTP/1.1\r\nHost: shop\r\nUser-Agent: curl/8\r\n\r\n", "HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n"}},
			map[Attr]string{AttrMethod: "GET", AttrPath: "/a?b", AttrHost: "shop", AttrAgent: "curl/8", AttrServer: "nginx", AttrVersion: "1.1"}},
		{"dns", sample{udp: true, turns: []string{dnsAsk}}, map[Attr]string{AttrHost: "db.shop"}},
		{"ldap", sample{turns: []string{"\x30\x13\x02\x01\x01\x60\x0e\x02\x01\x03\x04\x05cn=ab\x80\x02pw"}}, map[Attr]string{AttrUser: "cn=ab", AttrVersion: "3"}},
		{"stomp", sample{turns: []string{"CONNECT\naccept-version:1.2\nhost:a\nlogin:anna\n\n\x00", "CONNECTED\nversion:1.2\nserver:activemq/5\n\n\x00"}},
			map[Attr]string{AttrUser: "anna", AttrHost: "a", AttrServer: "activemq/5", AttrVersion: "1.2"}},
		{"nats", sample{serverFirst: true, turns: []string{`INFO {"server_id":"N1","version":"2.10"}` + "\r\n", `CONNECT {"user":"anna","pass":"x","lang":"go"}` + "\r\n"}},
			map[Attr]string{AttrVersion: "2.10", AttrUser: "anna", AttrAgent: "go"}},
		{"rdp", sample{turns: []string{"\x03\x00\x00\x20\x1b\xe0\x00\x00\x00\x00\x00Cookie: mstshash=a\r\n\x00"}}, map[Attr]string{AttrUser: "a"}},
		{"ssh", sample{serverFirst: true, turns: []string{"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-Go\r\n"}}, map[Attr]string{AttrBanner: "SSH-2.0-OpenSSH_9.2", AttrAgent: "SSH-2.0-Go"}},
		{"smtp", sample{serverFirst: true, turns: []string{"220 mail ESMTP Postfix\r\n", "EHLO app\r\n"}}, map[Attr]string{AttrBanner: "mail ESMTP Postfix", AttrAgent: "app"}},
		{"ftp", sample{serverFirst: true, turns: []string{"220 (vsFTPd 3.0.3)\r\n", "USER anna\r\n"}}, map[Attr]string{AttrUser: "anna"}},
		{"nfs", sample{turns: []string{"\x80\x00\x00\x28" + be32(7) + be32(0) + be32(2) + be32(100003) + be32(4) + be32(0) + be32(0) + be32(0) + be32(0) + be32(0)}},
			map[Attr]string{AttrService: "100003", AttrVersion: "4"}},
		{"elasticsearch", sample{turns: []string{"ES" + be32(40) + strings.Repeat("\x00", 7) + "\x05\x00" + be32(8110099) + strings.Repeat("\x00", 27)}}, map[Attr]string{AttrVersion: "8.11.0"}},
		{"cassandra", sample{turns: []string{"\x05\x00\x00\x01\x01" + be32(22) + "\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0"}}, map[Attr]string{AttrVersion: "3.0.0"}},
	}
	for _, tt := range tests {
		k := newTalk(&tt.sm)
		for i, b := range tt.sm.turns {
			k.turn(tt.sm.dir(i), b)
		}
		var a Attrs
		k.s.Attrs(&a)
		if n := testing.AllocsPerRun(3, func() { k.s.Attrs(&a) }); n != 0 && !raceEnabled {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
		for key, want := range tt.attrs {
			if got := string(a.Get(key)); got != want {
				t.Errorf("%s: %v is %q, want %q (%+v)", tt.name, key, got, want, k.out)
			}
		}
		for _, v := range a.All() {
			if strings.Contains(string(v), "secret") || string(v) == "pw" || string(v) == "pwd" {
				t.Errorf("%s keeps a password: %q", tt.name, v)
			}
		}
	}
}

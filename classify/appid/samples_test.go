package appid

import (
	"encoding/binary"
	"strings"

	"gatehouse/policy"
)

// sample is a conversation as it should be: alternating turns, the first one's
// sender given.
type sample struct {
	name        string
	app         policy.App
	udp         bool
	serverFirst bool
	turns       []string
	port        uint16
}

func be16(n int) string { return string(binary.BigEndian.AppendUint16(nil, uint16(n))) }
func be32(n int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(n))) }
func le32(n int) string { return string(binary.LittleEndian.AppendUint32(nil, uint32(n))) }

// tlsHello is a ClientHello with that SNI and ALPN; pad bytes of an unknown
// extension come first.
func tlsHello(sni, alpn string, pad int) string {
	ext := ""
	add := func(kind int, body string) { ext += be16(kind) + be16(len(body)) + body }
	if pad > 0 {
		add(51, strings.Repeat("k", pad))
	}
	if sni != "" {
		add(0, be16(len(sni)+3)+"\x00"+be16(len(sni))+sni)
	}
	if alpn != "" {
		list := ""
		for a := range strings.SplitSeq(alpn, ",") {
			list += string(rune(len(a))) + a
		}
		add(16, be16(len(list))+list)
	}
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x20" + strings.Repeat("s", 32) + be16(4) + "\x13\x01\x13\x02" + "\x01\x00" + be16(len(ext)) + ext
	return "\x01" + be32(len(body))[1:] + body
}

// records cuts a handshake message into records of at most n bytes.
func records(hs string, n int) string {
	var out strings.Builder
	for len(hs) > 0 {
		k := min(n, len(hs))
		out.WriteString("\x16\x03\x01" + be16(k) + hs[:k])
		hs = hs[k:]
	}
	return out.String()
}

var (
	serverHello = records("\x02\x00\x00\x26\x03\x03"+strings.Repeat("r", 32)+"\x00\x13\x01\x00", 1<<14)

	mysqlGreetingBytes = "\x4a\x00\x00\x00\x0a8.0.36\x00\x09\x00\x00\x00abcdefgh\x00\xff\xff\xff\x02\x00\xff\xdf\x15" + strings.Repeat("\x00", 10) + "ijklmnopqrst\x00caching_sha2_password\x00"
	mysqlLoginBytes    = "\x20\x00\x00\x01\x05\xa6\x3f\x00\x00\x00\x00\x01\x21" + strings.Repeat("\x00", 23)
	mysqlSSLBytes      = "\x20\x00\x00\x01\x05\xae\x3f\x00\x00\x00\x00\x01\x21" + strings.Repeat("\x00", 23)

	mongoBody = le32(5) + "\x00"

	dnsAsk = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x04shop\x00\x00\x01\x00\x01"
	dnsSay = "\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x02db\x04shop\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01"

	dnsZone    = "\x02db\x04shop\x00"
	dnsSOA     = "\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x3c\x00\x18\xc0\x0c\xc0\x0c\x00\x00\x00\x07\x00\x00\x00\x3c\x00\x00\x00\x3c\x00\x00\x02\x58\x00\x00\x00\x3c"
	dnsChanges = "\x12\x34\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00" + dnsZone + "\x00\xfb\x00\x01" + dnsSOA // RFC 1995
	dnsChanged = "\x12\x34\x84\x00\x00\x01\x00\x02\x00\x00\x00\x00" + dnsZone + "\x00\xfb\x00\x01" + dnsSOA + dnsSOA
	dnsNotify  = "\x12\x34\x24\x00\x00\x01\x00\x01\x00\x00\x00\x00" + dnsZone + "\x00\x06\x00\x01" + dnsSOA // RFC 1996
	dnsNoted   = "\x12\x34\xa4\x00\x00\x01\x00\x00\x00\x00\x00\x00" + dnsZone + "\x00\x06\x00\x01"

	kafkaAsk = be32(10+7) + be16(18) + be16(3) + be32(0x01020304) + be16(7) + "rdkafka"
	kafkaSay = be32(10) + be32(0x01020304) + be16(0) + be32(0)

	ntpAsk = "\x23\x00\x06\x20" + strings.Repeat("\x00", 36) + "abcdefgh"
	ntpSay = "\x24\x02\x06\xe7" + strings.Repeat("\x01", 20) + "abcdefgh" + strings.Repeat("\x02", 16)

	amqpHello = "AMQP\x00\x00\x09\x01"
	amqpStart = "\x01\x00\x00" + be32(12) + "\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x00" + "\x00\x00\xce"
)

func samples() []sample {
	return []sample{
		{name: "http", app: policy.AppHTTP, turns: []string{"GET /index.html HTTP/1.1\r\nHost: shop\r\n\r\n", "HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n"}},
		{name: "websocket", app: policy.AppWebSocket, turns: []string{"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\r\n"}},
		{name: "http2", app: policy.AppHTTP2, turns: []string{http2Magic + "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"}},
		{name: "grpc", app: policy.AppGRPC, turns: []string{http2Magic + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x12\x01\x04\x00\x00\x00\x01\x5f\x10application/grpc", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"}},
		{name: "tls", app: policy.AppTLS, turns: []string{records(tlsHello("db.shop", "http/1.1", 0), 1<<14), serverHello}},
		{name: "tls post-quantum", app: policy.AppTLS, turns: []string{records(tlsHello("db.shop", "h2", 1500), 1<<14), serverHello}},
		{name: "tls hello in small records", app: policy.AppTLS, turns: []string{records(tlsHello("db.shop", "h2", 0), 60), serverHello}},
		{name: "ssh", app: policy.AppSSH, serverFirst: true, turns: []string{"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-Go\r\n"}},
		{name: "ssh after other lines", app: policy.AppSSH, serverFirst: true, turns: []string{"welcome\r\nSSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-Go\r\n"}},
		{name: "mysql", app: policy.AppMySQL, serverFirst: true, turns: []string{mysqlGreetingBytes, mysqlLoginBytes}},
		{name: "postgresql", app: policy.AppPostgreSQL, turns: []string{be32(27) + be32(3<<16) + "user\x00root\x00db\x00shop\x00\x00", "R" + be32(8) + be32(0)}},
		{name: "mongodb", app: policy.AppMongoDB, turns: []string{le32(26) + le32(7) + le32(0) + le32(2013) + le32(0) + "\x00" + mongoBody, le32(26) + le32(9) + le32(7) + le32(2013) + le32(0) + "\x00" + mongoBody}},
		{name: "amqp", app: policy.AppAMQP, turns: []string{amqpHello, amqpStart}},
		{name: "redis", app: policy.AppRedis, turns: []string{"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", "$-1\r\n"}},
		{name: "redis inline", app: policy.AppRedis, turns: []string{"PING\r\n", "+PONG\r\n"}},
		{name: "memcached", app: policy.AppMemcached, turns: []string{"get user:1\r\n", "END\r\n"}},
		{name: "kafka", app: policy.AppKafka, turns: []string{kafkaAsk, kafkaSay}},
		{name: "dns over tcp", app: policy.AppDNS, turns: []string{be16(len(dnsAsk)) + dnsAsk, be16(len(dnsSay)) + dnsSay}},
		{name: "smtp", app: policy.AppSMTP, serverFirst: true, turns: []string{"220 mail ESMTP Postfix\r\n", "EHLO app\r\n"}},
		{name: "ftp", app: policy.AppFTP, serverFirst: true, turns: []string{"220 (vsFTPd 3.0.3)\r\n", "USER anonymous\r\n"}},
		{name: "dns changes of a zone over tcp", app: policy.AppDNS, turns: []string{be16(len(dnsChanges)) + dnsChanges, be16(len(dnsChanged)) + dnsChanged}},
		{name: "dns changes of a zone", app: policy.AppDNS, udp: true, turns: []string{dnsChanges, dnsChanged}},
		{name: "dns notification", app: policy.AppDNS, udp: true, turns: []string{dnsNotify, dnsNoted}},
		{name: "dns", app: policy.AppDNS, udp: true, turns: []string{dnsAsk, dnsSay}},
		{name: "mdns", app: policy.AppMDNS, udp: true, port: 5353, turns: []string{"\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x05local\x00\x00\x01\x00\x01"}},
		{name: "ntp", app: policy.AppNTP, udp: true, turns: []string{ntpAsk, ntpSay}},
		{name: "nats", app: policy.AppNATS, serverFirst: true, turns: []string{`INFO {"server_id":"N1","version":"2.10"}` + "\r\n", "CONNECT {}\r\n"}},
		{name: "mqtt", app: policy.AppMQTT, turns: []string{"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a", "\x20\x02\x00\x00"}},
		{name: "mqtt 3.1", app: policy.AppMQTT, turns: []string{"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a", "\x20\x02\x00\x00"}},
		{name: "cassandra", app: policy.AppCassandra, turns: []string{"\x04\x00\x00\x00\x05\x00\x00\x00\x00", "\x84\x00\x00\x00\x06\x00\x00\x00\x02\x00\x00"}},
		{name: "cassandra startup", app: policy.AppCassandra, turns: []string{"\x05\x00\x00\x01\x01" + be32(22) + "\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0", "\x85\x00\x00\x01\x02\x00\x00\x00\x00"}},
		{name: "zookeeper", app: policy.AppZooKeeper, turns: []string{be32(45) + be32(0) + strings.Repeat("\x00", 8) + be32(30000) + strings.Repeat("\x00", 8) + be32(16) + strings.Repeat("\x00", 17), be32(37) + be32(0) + be32(30000) + strings.Repeat("\x01", 8) + be32(16) + strings.Repeat("\x02", 17)}},
		{name: "zookeeper four letters", app: policy.AppZooKeeper, turns: []string{"ruok", "imok"}},
		{name: "elasticsearch transport", app: policy.AppElasticsearch, turns: []string{"ES" + be32(40) + strings.Repeat("\x00", 7) + "\x05\x00" + be32(8110099) + strings.Repeat("\x00", 27), "ES" + be32(40) + strings.Repeat("\x00", 7) + "\x05\x01" + be32(8110099) + strings.Repeat("\x00", 27)}},
		{name: "hdfs", app: policy.AppHDFS, turns: []string{"hrpc\x09\x00\x00" + be32(60) + "..org.apache.hadoop.hdfs.protocol.ClientProtocol", be32(20) + "\x08\x08" + strings.Repeat("\x00", 18)}},
		{name: "ldap", app: policy.AppLDAP, turns: []string{"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", "\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00"}},
		{name: "kerberos", app: policy.AppKerberos, turns: []string{be32(40) + "\x6a\x26\x30\x24\xa1\x03\x02\x01\x05\xa2\x03\x02\x01\x0a" + strings.Repeat("\x00", 26), be32(40) + "\x7e\x26\x30\x24\xa0\x03\x02\x01\x05\xa1\x03\x02\x01\x1e" + strings.Repeat("\x00", 26)}},
		{name: "imap", app: policy.AppIMAP, serverFirst: true, turns: []string{"* OK [CAPABILITY IMAP4rev1] Dovecot ready.\r\n", "a001 LOGIN u p\r\n"}},
		{name: "pop3", app: policy.AppPOP3, serverFirst: true, turns: []string{"+OK ready\r\n", "CAPA\r\n"}},
		{name: "telnet", app: policy.AppTelnet, serverFirst: true, turns: []string{"\xff\xfd\x18\xff\xfd\x20", "\xff\xfb\x18\xff\xfb\x20"}},
		{name: "smb", app: policy.AppSMB, turns: []string{"\x00\x00\x00\x66\xfeSMB\x40\x00" + strings.Repeat("\x00", 96), "\x00\x00\x00\x66\xfeSMB\x40\x00" + strings.Repeat("\x00", 96)}},
		{name: "smb over netbios", app: policy.AppSMB, turns: []string{"\x81\x00\x00\x44\x20" + strings.Repeat("CA", 16) + "\x00\x20" + strings.Repeat("CA", 16) + "\x00" + "\x00\x00\x00\x66\xffSMB\x72\x00" + strings.Repeat("\x00", 96), "\x82\x00\x00\x00\x00\x00\x00\x66\xffSMB\x72\x00" + strings.Repeat("\x00", 96)}},
		{name: "sip", app: policy.AppSIP, turns: []string{"OPTIONS sip:a@b SIP/2.0\r\n\r\n", "SIP/2.0 200 OK\r\n\r\n"}},
		{name: "rtsp", app: policy.AppRTSP, turns: []string{"OPTIONS rtsp://a/b RTSP/1.0\r\n\r\n", "RTSP/1.0 200 OK\r\n\r\n"}},
		{name: "stomp", app: policy.AppSTOMP, turns: []string{"CONNECT\naccept-version:1.2\nhost:a\n\n\x00", "CONNECTED\nversion:1.2\n\n\x00"}},
		{name: "tds", app: policy.AppTDS, turns: []string{"\x12\x01\x00\x1a\x00\x00\x00\x00\x00\x00\x0b\x00\x06\x01\x00\x11\x00\x01\xff" + "\x0e\x00\x0c\xd1\x00\x00\x02", "\x04\x01\x00\x1a\x00\x00\x01\x00\x00\x00\x0b\x00\x06\x01\x00\x11\x00\x01\xff" + "\x0e\x00\x0c\xd1\x00\x00\x02"}},
		{name: "tns", app: policy.AppTNS, turns: []string{be16(58+14) + "\x00\x00\x01\x00\x00\x00" + be16(312) + be16(300) + strings.Repeat("\x00", 12) + be16(14) + be16(58) + strings.Repeat("\x00", 30) + "(DESCRIPTION=)", be16(32) + "\x00\x00\x02\x00\x00\x00" + strings.Repeat("\x00", 24)}},
		{name: "rdp", app: policy.AppRDP, turns: []string{"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", "\x03\x00\x00\x13\x0e\xd0\x00\x00\x12\x34\x00\x02\x00\x08\x00\x01\x00\x00\x00"}},
		{name: "nfs", app: policy.AppNFS, turns: []string{"\x80\x00\x00\x28" + be32(7) + be32(0) + be32(2) + be32(100003) + be32(4) + be32(0) + be32(0) + be32(0) + be32(0) + be32(0), "\x80\x00\x00\x18" + be32(7) + be32(1) + be32(0) + be32(0) + be32(0) + be32(0)}},
		{name: "bittorrent", app: policy.AppBitTorrent, turns: []string{bittorrentHello + strings.Repeat("\x00", 48), bittorrentHello + strings.Repeat("\x00", 48)}},
		{name: "xmpp", app: policy.AppXMPP, turns: []string{"<?xml version='1.0'?><stream:stream to='a' xmlns='jabber:client'>", "<?xml version='1.0'?><stream:stream from='a' xmlns='jabber:client'>"}},
		{name: "socks", app: policy.AppSOCKS, turns: []string{"\x05\x02\x00\x02", "\x05\x00"}},
		{name: "openvpn over tcp", app: policy.AppOpenVPN, turns: []string{"\x00\x0e\x38sessionA\x00\x00\x00\x00\x00", "\x00\x1a\x40sessionB\x01\x00\x00\x00\x00sessionA\x00\x00\x00\x00"}},
		{name: "stun over tcp", app: policy.AppSTUN, turns: []string{"\x00\x01\x00\x00\x21\x12\xa4\x42" + strings.Repeat("t", 12), "\x01\x01\x00\x00\x21\x12\xa4\x42" + strings.Repeat("t", 12)}},
		{name: "memcached binary", app: policy.AppMemcached, turns: []string{"\x80\x0b" + strings.Repeat("\x00", 22), "\x81\x0b" + strings.Repeat("\x00", 22)}},
		{name: "syslog over tcp", app: policy.AppSyslog, turns: []string{"<34>1 2003-10-11T22:14:15.003Z a su - ID47 - hello\n"}},
		{name: "syslog", app: policy.AppSyslog, udp: true, turns: []string{"<34>Oct 11 22:14:15 a su: hello"}},
		{name: "cldap", app: policy.AppLDAP, udp: true, turns: []string{"\x30\x1b\x02\x01\x01\x63\x16\x04\x00\x0a\x01\x00\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\x87\x01a\x30\x00", "\x30\x0c\x02\x01\x01\x64\x07\x04\x00\x30\x03\x04\x01a"}},
		{name: "kerberos over udp", app: policy.AppKerberos, udp: true, turns: []string{"\x6a\x26\x30\x24\xa1\x03\x02\x01\x05\xa2\x03\x02\x01\x0a" + strings.Repeat("\x00", 26), "\x6b\x26\x30\x24\xa0\x03\x02\x01\x05\xa1\x03\x02\x01\x0b" + strings.Repeat("\x00", 26)}},
		{name: "netbios names", app: policy.AppNetBIOS, udp: true, turns: []string{"\x00\x01\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\x20" + strings.Repeat("CA", 16) + "\x00\x00\x20\x00\x01"}},
		{name: "snmp", app: policy.AppSNMP, udp: true, turns: []string{"\x30\x18\x02\x01\x01\x04\x06public\xa0\x0b\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x00", "\x30\x18\x02\x01\x01\x04\x06public\xa2\x0b\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x00"}},
		{name: "stun", app: policy.AppSTUN, udp: true, turns: []string{"\x00\x01\x00\x00\x21\x12\xa4\x42" + strings.Repeat("t", 12), "\x01\x01\x00\x00\x21\x12\xa4\x42" + strings.Repeat("t", 12)}},
		{name: "sip over udp", app: policy.AppSIP, udp: true, turns: []string{"REGISTER sip:a SIP/2.0\r\n\r\n", "SIP/2.0 401 Unauthorized\r\n\r\n"}},
		{name: "portmapper", app: policy.AppSunRPC, udp: true, turns: []string{be32(7) + be32(0) + be32(2) + be32(100000) + be32(2) + be32(3) + strings.Repeat("\x00", 32), be32(7) + be32(1) + be32(0) + strings.Repeat("\x00", 16)}},
		{name: "dhcp", app: policy.AppDHCP, udp: true, turns: []string{"\x01\x01\x06\x00" + strings.Repeat("\x00", 232) + "\x63\x82\x53\x63\x35\x01\x01\xff"}},
		{name: "dhcpv6", app: policy.AppDHCPv6, udp: true, turns: []string{"\x01abc\x00\x01\x00\x0a\x00\x03\x00\x01\x02\x00\x00\x00\x00\x01\x00\x08\x00\x02\x00\x00"}},
		{name: "consul", app: policy.AppConsul, turns: []string{consulAsk("\x82\xadServiceMethod\xacCatalog.List\xa3Seq\x01\x80"), "\x00\x01\x00\x02\x00\x00\x00\x01\x00\x00\x00\x00"}},
		{name: "quic", app: policy.AppQUIC, udp: true, turns: []string{"\xc3\x00\x00\x00\x01\x08dddddddd\x00" + strings.Repeat("x", 1185), "\xc1\x00\x00\x00\x01\x00\x08ssssssss" + strings.Repeat("y", 1100)}},
		{name: "dtls", app: policy.AppDTLS, udp: true, turns: []string{"\x16\xfe\xff" + strings.Repeat("\x00", 8) + be16(52) + "\x01\x00\x00\x28\x00\x00\x00\x00\x00\x00\x00\x28" + strings.Repeat("h", 40), "\x16\xfe\xff" + strings.Repeat("\x00", 8) + be16(32) + "\x03\x00\x00\x14\x00\x00\x00\x00\x00\x00\x00\x14" + strings.Repeat("h", 20)}},
		{name: "wireguard", app: policy.AppWireGuard, udp: true, turns: []string{"\x01\x00\x00\x00iiii" + noiseOf(140), "\x02\x00\x00\x00rrrriiii" + noiseOf(80)}},
		{name: "openvpn", app: policy.AppOpenVPN, udp: true, turns: []string{"\x38sessionA\x00\x00\x00\x00\x00", "\x40sessionB\x01\x00\x00\x00\x00sessionA\x00\x00\x00\x00"}},
		{name: "dht", app: policy.AppBitTorrent, udp: true, turns: []string{"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", "d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re"}},
		{name: "memcached over udp", app: policy.AppMemcached, udp: true, turns: []string{"\x00\x01\x00\x00\x00\x01\x00\x00get a\r\n", "\x00\x01\x00\x00\x00\x01\x00\x00END\r\n"}},
	}
}

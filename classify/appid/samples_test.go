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
		{name: "grpc", app: policy.AppGRPC, turns: []string{http2Magic + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x12\x01\x04\x00\x00\x00\x01\x00\x10application/grpc", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"}},
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
		{name: "dns", app: policy.AppDNS, udp: true, turns: []string{dnsAsk, dnsSay}},
		{name: "mdns", app: policy.AppMDNS, udp: true, port: 5353, turns: []string{"\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x05local\x00\x00\x01\x00\x01"}},
		{name: "ntp", app: policy.AppNTP, udp: true, turns: []string{ntpAsk, ntpSay}},
	}
}

package appid

import (
	"encoding/hex"
	"strings"
	"testing"

	"gatehouse/policy"
)

// other is a conversation of a protocol that has no name here; turns that begin
// with "<" are the server's.
type other struct {
	name  string
	udp   bool
	turns []string
}

func zeros(n int) string { return strings.Repeat("\x00", n) }

func unhex(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// others are taken from the protocols' specifications, as their clients and
// servers open a conversation.
var others = []other{
	{"Thrift binary", false, []string{"\x80\x01\x00\x01\x00\x00\x00\x04ping\x00\x00\x00\x00\x00", "<\x80\x01\x00\x02\x00\x00\x00\x04ping\x00\x00\x00\x00\x00"}},
	{"Thrift framed", false, []string{"\x00\x00\x00\x11\x80\x01\x00\x01\x00\x00\x00\x04ping\x00\x00\x00\x00\x00", "<\x00\x00\x00\x11\x80\x01\x00\x02\x00\x00\x00\x04ping\x00\x00\x00\x00\x00"}},
	{"Thrift framed, old", false, []string{"\x00\x00\x00\x2e\x00\x00\x00\x08get_name\x01\x00\x00\x00\x01\x0b\x00\x01\x00\x00\x00\x05alice\x0b\x00\x02\x00\x00\x00\x03bob\x00", "<\x00\x00\x00\x1a\x00\x00\x00\x08get_name\x02\x00\x00\x00\x01\x0b\x00\x00\x00\x00\x00\x01x\x00"}},
	{"Thrift compact", false, []string{"\x82\x21\x01\x04ping\x00", "<\x82\x41\x01\x04ping\x00"}},
	{"Thrift compact framed", false, []string{"\x00\x00\x00\x09\x82\x21\x01\x04ping\x00", "<\x00\x00\x00\x09\x82\x41\x01\x04ping\x00"}},
	{"Cap'n Proto", false, []string{unhex("00000000 0a000000 00000000 01000100 0100 0000 00000000 00000000 03000300") + zeros(64), "<" + unhex("00000000 07000000 00000000 01000100 0100000000000000")}},
	{"Modbus/TCP", false, []string{unhex("0001 0000 0006 11 03 006b 0003"), "<" + unhex("0001 0000 0009 11 03 06 ae41 5652 4340"), unhex("0002 0000 0006 11 03 006b 0003"), "<" + unhex("0002 0000 0009 11 03 06 ae41 5652 4340")}},
	{"Modbus/TCP, id 18", false, []string{unhex("0012 0000 0006 11 03 006b 0003"), "<" + unhex("0012 0000 0009 11 03 06 ae41 5652 4340"), unhex("0013 0000 0006 11 03 006b 0003")}},
	{"S7", false, []string{unhex("03000016 11e00000000100c1020100c2020102c0010a"), "<" + unhex("03000016 11d00001000100c0010ac1020100c2020102"), unhex("03000019 02f080 32010000ccc100080000f0000001000103c0"), "<" + unhex("0300001b 02f080 32030000ccc1000800000000f0000001000100f0")}},
	{"MMS", false, []string{unhex("03000016 11e00000000100c0010dc2020001c1020000"), "<" + unhex("03000016 11d00001000100c0010dc2020001c1020000"), unhex("030000bb 02f080 0db205061301001601021402000233020001") + zeros(160)}},
	{"H.225", false, []string{unhex("03000060 08020001 05 04038890a5 7e0042 05 2080060008914a0004000101") + zeros(60), "<" + unhex("0300002e 08028001 02 7e 0021 05 2180060008914a000300") + zeros(20)}},
	{"DICOM", false, []string{unhex("0100 000000cd 0001 0000") + "ANY-SCP         FINDSCU         " + zeros(32) + unhex("10 00 0015") + "1.2.840.10008.3.1.1.1" + zeros(110), "<" + unhex("0200 000000b8 0001 0000") + "ANY-SCP         FINDSCU         " + zeros(150)}},
	{"IRC", false, []string{"NICK alice\r\nUSER alice 0 * :Alice\r\n", "<:irc.example.com NOTICE * :*** Looking up your hostname\r\n:irc.example.com 001 alice :Welcome\r\n", "PING :x\r\n"}},
	{"IRC with PASS", false, []string{"PASS secret\r\nNICK alice\r\nUSER alice 0 * :Alice\r\n", "<PING :12345\r\n", "PONG :12345\r\n"}},
	{"IRC, NOTICE first", false, []string{"<NOTICE AUTH :*** Looking up your hostname\r\n", "USER alice 0 * :Alice\r\nNICK alice\r\n", "<PING :4711\r\n"}},
	{"NNTP", false, []string{"<200 news.example.com ready - posting allowed\r\n", "MODE READER\r\n", "<200 Reader mode\r\n", "GROUP misc.test\r\n", "<211 1 1 1 misc.test\r\n", "QUIT\r\n"}},
	{"rsync", false, []string{"<@RSYNCD: 31.0 sha512 sha256 sha1 md5 md4\n", "@RSYNCD: 31.0 sha512 sha256 sha1 md5 md4\n", "module\n", "<@RSYNCD: OK\n"}},
	{"git", false, []string{"0033git-upload-pack /project.git\x00host=myserver.com\x00", "<00887217a7c7e582c46cec22a130adf4b9d7d950fba0 HEAD\x00multi_ack thin-pack side-band side-band-64k ofs-delta shallow no-progress include-tag\n0000"}},
	{"X11", false, []string{"l\x00\x0b\x00\x00\x00\x12\x00\x10\x00\x00\x00MIT-MAGIC-COOKIE-1\x00\x00" + "0123456789abcdef", "<" + unhex("01000b000000fd00") + zeros(60)}},
	{"X11, big-endian", false, []string{"B\x00\x00\x0b\x00\x00\x00\x00\x00\x00\x00\x00", "<" + unhex("01 00 000b 0000 003d") + zeros(60)}},
	{"VNC", false, []string{"<RFB 003.008\n", "RFB 003.008\n", "<\x01\x02", "\x02", "<0123456789abcdef"}},
	{"Minecraft", false, []string{"\x10\x00\x2f\x09localhost\x63\xdd\x01\x01\x00", "<\x1c\x00\x1a{\"version\":{\"protocol\":47}}"}},
	{"ZMTP", false, []string{unhex("ff00000000000000017f"), "<" + unhex("ff00000000000000017f03"), unhex("03 00") + "NULL" + zeros(49), "<" + "\x00NULL" + zeros(48)}},
	{"nanomsg", false, []string{"\x00SP\x00\x00\x10\x00\x00", "<\x00SP\x00\x00\x11\x00\x00", unhex("0000000000000005") + "hello", "<" + unhex("0000000000000005") + "world"}},
	{"Aerospike info", false, []string{unhex("0201000000000006") + "build\n", "<" + unhex("020100000000000e") + "build\t6.0.0.1\n"}},
	{"Aerospike message", false, []string{unhex("0203000000000039 16 03 00 0000 00 00000000 00000000 00000000 0003 0000 00000005 00") + "test" + unhex("00000004 01") + "set" + unhex("00000015 04") + zeros(20), "<" + unhex("0203000000000016 16 00 00 0000 00 00000000 00000000 00000000 0000 0000")}},
	{"ClickHouse", false, []string{"\x00\x11ClickHouse client\x15\x04\xb1\xa9\x03\x00\x07default\x00", "<\x00\x0aClickHouse\x15\x04\xb1\xa9\x03\x03UTC\x05local\x01"}},
	{"Ignite thin", false, []string{unhex("08000000 01 0100 0700 0000 02"), "<" + unhex("01000000 01")}},
	{"Hazelcast", false, []string{"CP2", "<" + unhex("2c000000 00c0 00010000 0100000000000000 ffffffff") + zeros(20)}},
	{"Hazelcast member", false, []string{"HZC" + zeros(3) + unhex("00000040 0012") + zeros(60), "<HZC" + zeros(40)}},
	{"Pulsar", false, []string{unhex("0000001d 00000019 0802 1215 0a0b") + "Pulsar-2.10" + unhex("20 13 2a 04") + "none", "<" + unhex("00000019 00000015 0803 1a11 0a0d") + "Pulsar Server" + unhex("1013")}},
	{"RethinkDB", false, []string{unhex("c3bdc234"), "<{\"max_protocol_version\": 0,\"min_protocol_version\": 0,\"success\": true}\x00", "{\"protocol_version\":0}\x00"}},
	{"RethinkDB, old", false, []string{unhex("20 2d 0c 40 00000000 c7 70 69 7e"), "<SUCCESS\x00", unhex("0100000000000000 09000000") + "[1,[15,[]]"}},
	{"Tarantool", false, []string{"<Tarantool 2.10.0 (Binary) 7170b4e6-8f6b-4d4c-9bbf-1bc8c1d5d1e4\n" + strings.Repeat(" ", 64), unhex("ce0000000e 82 00 01 01 01 85 10 cd0200 11 00 12 ce ffff ffff"), "<" + unhex("ce00000015 83 00ce00000000 01cf0000000000000001 05ce00000050")}},
	{"CoAP", true, []string{unhex("40 01 0001 bb") + ".well-known\x04core", "<" + unhex("60 45 0001 c1 28 ff") + "</x>;ct=40"}},
	{"CoAP, token", true, []string{unhex("44 01 c4 09 74 65 73 74 b7") + "example", "<" + unhex("64 45 c4 09 74 65 73 74 ff") + "hello"}},
	{"CoAP, token of one", true, []string{unhex("41 01 1234 07 b4") + "test" + unhex("0b") + "temperature1", "<" + unhex("61 45 1234 07 ff") + "22.5 degrees C, 40 % hum."}},
	{"CoAP, token of eight", true, []string{unhex("48 02 7d34 0011223344556677 b4") + "test", "<" + unhex("68 44 7d34 0011223344556677"), unhex("48 02 7d35 0011223344556678 b4") + "test"}},
	{"DNP3", false, []string{unhex("0564 05c0 0100 0a00 e08c"), "<" + unhex("0564 050b 0a00 0100 7c8a"), unhex("0564 14c4 0100 0a00 36d7 c0c0 01 3c02 06 3c03 06 3c04 06 3c01 06 5bc6")}},
	{"BACnet/IP", true, []string{unhex("810a 0011 0104 0205 010c 0c 00000001 19 55"), "<" + unhex("810a 0014 0100 30 01 0c 0c00000001 1955 3e 44 3f"), unhex("810b 000c 0120 ffff 00ff 1008"), unhex("810b 000c 0120 ffff 00ff 1008"), unhex("810b 000c 0120 ffff 00ff 1008")}},
	{"SMPP", false, []string{unhex("00000026 00000009 00000000 00000001") + "smppclient1\x00secret\x00" + unhex("00 34 00 00 00"), "<" + unhex("00000015 80000009 00000000 00000001") + "SMSC\x00"}},
	{"SMPP, enquire", false, []string{unhex("00000010 00000015 00000000 00000001"), "<" + unhex("00000010 80000015 00000000 00000001")}},
	{"Diameter", false, []string{unhex("01 000050 80 000101 00000000 00000001 00000001 00000108 40 00000f") + "client1" + zeros(40), "<" + unhex("01 000048 00 000101 00000000 00000001 00000001 0000010c 4000000c 000007d1") + zeros(40)}},
	{"RADIUS", true, []string{unhex("01 01 0038 0f403f9473978057bd83d5cb98f4227a 01 06") + "nemo" + unhex("02 12 0dbe708d93d413ce3196e43f782a0aee 0406c0a80110 050600000003"), "<" + unhex("02 01 0026 86fe220e7624ba2a1005f6bf9b55e0b2 060600000001 0f0600000000 0e06c0a80103")}},
	{"RADIUS, id 17", true, []string{unhex("01 11 0014 0f403f9473978057bd83d5cb98f4227a"), "<" + unhex("02 11 0014 86fe220e7624ba2a1005f6bf9b55e0b2")}},
	{"RADIUS accounting", true, []string{unhex("04 02 0030 000102030405060708090a0b0c0d0e0f 2806 00000001 0406 c0a80110 2c0a") + "35000034" + unhex("0106") + "nemo", "<" + unhex("05 02 0014 000102030405060708090a0b0c0d0e0f")}},
	{"TACACS+", false, []string{unhex("c0 01 01 00 a0b0c0d0 00000014 000102030405060708090a0b0c0d0e0f10111213"), "<" + unhex("c0 01 02 00 a0b0c0d0 00000006 f1f2f3f4f5f6")}},
	{"LPD", false, []string{"\x02lp\n", "<\x00", "\x02129 cfA001host\n", "<\x00", "Hhost\nPuser\n\x00", "<\x00"}},
	{"LPD, queue state", false, []string{"\x04lp \n", "<Printer: lp@host\n Queue: no printable jobs\n"}},
	{"finger", false, []string{"root\r\n", "<Login: root   Name: root\r\n"}},
	{"finger, word", false, []string{"stats\r\n", "<finger: stats: no such user.\r\n"}},
	{"whois", false, []string{"example.com\r\n", "<   Domain Name: EXAMPLE.COM\r\n   Registry Domain ID: 2336799\r\n"}},
	{"gopher", false, []string{"\r\n", "<iWelcome\tfake\t(NULL)\t0\r\n1Floodgap\t/home\tgopher.floodgap.com\t70\r\n.\r\n"}},
	{"gopher, selector", false, []string{"/home\r\n", "<iWelcome\tfake\t(NULL)\t0\r\n.\r\n"}},
	{"SVN", false, []string{"<( success ( 2 2 ( ) ( edit-pipeline svndiff1 absent-entries ) ) ) ", "( 2 ( edit-pipeline svndiff1 ) 21:svn://localhost/trunk 10:SVN/1.14.0 ( ) ) ", "<( success ( ( ANONYMOUS ) 36:7c2b2d5e-0000-0000-0000-000000000000 ) ) "}},
	{"Perforce", false, []string{unhex("5e5e000000") + "cmpfile\x00\x00\x00\x00\x00\x00client\x00\x02\x00\x00\x0080\x00func\x00\x08\x00\x00\x00protocol\x00", "<" + unhex("5757000000") + "server\x00\x01\x00\x00\x003\x00func\x00\x08\x00\x00\x00protocol\x00"}},
	{"CVS pserver", false, []string{"BEGIN AUTH REQUEST\n/cvsroot\nanonymous\nA\nEND AUTH REQUEST\n", "<I LOVE YOU\n", "Root /cvsroot\n"}},
	{"iSCSI", false, []string{unhex("43 87 0000 00 00002c 000000000000 0000 00000001 0001 0000 00000001 00000000") + zeros(16) + "InitiatorName=iqn.1993-08.org.debian:01:x\x00", "<" + unhex("23 87 0000 00 00000f 000000000000 0001 00000001") + zeros(40)}},
	{"9P", false, []string{unhex("15000000 64 ffff 18200000 0800") + "9P2000.L", "<" + unhex("15000000 65 ffff 18200000 0800") + "9P2000.L", unhex("17000000 68 0000 00000000 ffffffff 0000 0000 00000000")}},
	{"AFP DSI", false, []string{unhex("00 03 0001 00000000 00000000 00000000"), "<" + unhex("01 03 0001 00000000 00000020 00000000") + "0123456789abcdef0123456789abcdef"}},
	{"AFP DSI, open", false, []string{unhex("00 04 0001 00000000 00000006 00000000 010400000400"), "<" + unhex("01 04 0001 00000000 00000006 00000000 000400100000"), unhex("00 02 0002 00000000 00000010 00000000 12") + zeros(15)}},
	{"Ceph msgr1", false, []string{"<ceph v027" + zeros(136), "ceph v027" + zeros(136)}},
	{"Ceph msgr2", false, []string{"<ceph v2\n\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "ceph v2\n\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
	{"Bitcoin", false, []string{unhex("f9beb4d9") + "version" + zeros(5) + unhex("64000000 358d4932 62ea0000 0100000000000000 11b2d05000000000") + zeros(60), "<" + unhex("f9beb4d9") + "version" + zeros(5) + unhex("66000000 358d4932 62ea0000 0100000000000000")}},
	{"AJP13", false, []string{unhex("1234 0030 02 02 0008") + "HTTP/1.1\x00" + unhex("0001") + "/\x00" + unhex("0009") + "127.0.0.1\x00\x00\x00" + zeros(12), "<AB" + unhex("0011 04 00c8 0002") + "OK" + zeros(10)}},
	{"FastCGI", false, []string{unhex("01 01 0001 0008 00 00 0001 00 0000000000 01 04 0001 0011 07 00 0f00") + "SCRIPT_FILENAME" + zeros(7) + unhex("01 04 0001 0000 0000 01 05 0001 0000 0000"), "<" + unhex("01 06 0001 0020 00 00") + "Content-type: text/html\r\n\r\nhello" + unhex("01 03 0001 0008 0000 0000000000000000")}},
	{"uwsgi", false, []string{unhex("00 4000 00 0e00") + "REQUEST_METHOD" + unhex("0300") + "GET" + unhex("0b00") + "REQUEST_URI" + unhex("0100") + "/" + zeros(20), "<HTTX/1.1 200 OK\r\n\r\n"}},
	{"SCGI", false, []string{"70:CONTENT_LENGTH\x0027\x00SCGI\x001\x00REQUEST_METHOD\x00POST\x00REQUEST_URI\x00/deepthought\x00,What is", "<Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n42"}},
	{"gearman", false, []string{unhex("00") + "REQ" + unhex("00000001 00000007") + "reverse" + "\x00REQ\x00\x00\x00\x09\x00\x00\x00\x00", "<\x00RES\x00\x00\x00\x0a\x00\x00\x00\x00", "\x00REQ\x00\x00\x00\x04\x00\x00\x00\x00"}},
	{"beanstalkd", false, []string{"use mail\r\nput 0 0 60 5\r\nhello\r\n", "<USING mail\r\nINSERTED 1\r\n"}},
	{"beanstalkd stats", false, []string{"stats\r\n", "<OK 898\r\n---\ncurrent-jobs-urgent: 0\ncurrent-jobs-ready: 0\n"}},
	{"NSQ", false, []string{"  V2IDENTIFY\n\x00\x00\x00\x10{\"client_id\":\"x\"}", "<\x00\x00\x00\x06\x00\x00\x00\x00OK"}},
	{"Neo4j Bolt", false, []string{unhex("6060b017 00000405 00020404 00000104 00000003"), "<" + unhex("00000405"), unhex("0042 b1 01 a3") + zeros(60)}},
	{"DRDA", false, []string{unhex("0026 d041 0001 0020 1041 0010 115e") + "db2jcc_appl" + zeros(10) + unhex("0006 d001 0002"), "<" + unhex("0026 d043 0001 0020 1443 0010 115e") + zeros(30)}},
	{"Firebird", false, []string{unhex("00000001 00000013 00000002 0000001d 00000008") + "/data/db" + zeros(40), "<" + unhex("00000003 0000000a 00000001 00000003")}},
	{"Riak", false, []string{unhex("00000001 01"), "<" + unhex("00000001 02"), unhex("0000000b 09 0a04") + "test" + unhex("1202") + "k1", "<" + unhex("00000005 0a 0a020a00")}},
	{"RabbitMQ stream", false, []string{unhex("0000001f 0011 0001 00000001 00000001 0007") + "product" + unhex("0004") + "test" + "\x00\x00", "<" + unhex("00000020 8011 0001 00000001 0001 00000001 0007") + "product" + unhex("0003") + "Rab" + "\x00"}},
	{"RabbitMQ stream, SASL", false, []string{unhex("00000008 0012 0001 00000002"), "<" + unhex("00000015 8012 0001 00000002 0001 00000001 0005") + "PLAIN"}},
	{"OpenWire", false, []string{unhex("000000f0 01") + "ActiveMQ" + unhex("0000000c 01") + zeros(200), "<" + unhex("000000f0 01") + "ActiveMQ" + unhex("0000000c 01") + zeros(200)}},
	{"IBM MQ", false, []string{"TSH " + unhex("00000114 02 01 31 00 0000000000000000 22 02 00 00 b3 03 00 00") + "ID  " + zeros(240), "<TSH " + unhex("00000114 02 01 31 00 0000000000000000") + zeros(240)}},
	{"Zabbix", false, []string{"ZBXD\x01" + unhex("0a00000000000000") + "agent.ping", "<ZBXD\x01" + unhex("0100000000000000") + "1"}},
	{"NRPE", false, []string{unhex("0002 0001 3e80 1c2f 0000") + "_NRPE_CHECK" + zeros(1015), "<" + unhex("0002 0002 1234 5678 0000") + "NRPE v4.0.3" + zeros(1015)}},
	{"Graphite", false, []string{"stats.gauges.cpu 42 1700000000\nstats.gauges.mem 17 1700000000\n"}},
	{"InfluxDB line", true, []string{"cpu,host=a usage=0.5 1700000000000000000\n"}},
	{"StatsD", true, []string{"page.views:1|c\n", "fuel.level:0.5|g\n", "song.length:240|h|@0.5\n"}},
	{"GELF", true, []string{"{\"version\":\"1.1\",\"host\":\"a\",\"short_message\":\"x\"}"}},
	{"collectd", true, []string{unhex("0000 000e") + "localhost\x00" + unhex("0001 000c 00000000 5f5e1000 0002 0008") + "cpu\x00"}},
	{"Lumberjack", false, []string{"2W\x00\x00\x00\x012J\x00\x00\x00\x01\x00\x00\x00\x0b{\"m\":\"hi\"}", "<2A\x00\x00\x00\x01"}},
	{"PJL", false, []string{"\x1b%-12345X@PJL\r\n@PJL INFO STATUS\r\n", "<@PJL INFO STATUS\r\nCODE=10001\r\n"}},
	{"JDWP", false, []string{"JDWP-Handshake", "<JDWP-Handshake", unhex("0000000b 00000001 00 01 07"), "<" + unhex("0000001f 00000001 80 0000") + zeros(20)}},
	{"RMI", false, []string{"JRMI\x00\x02K", "<N\x00\x09127.0.0.1\x00\x00\xb2\x10", "\x00\x09127.0.1.1\x00\x00\x00\x00"}},
	{"GIOP", false, []string{"GIOP\x01\x02\x01\x00" + unhex("4c000000 05000000 03000000") + zeros(64), "<GIOP\x01\x02\x01\x01" + unhex("0c000000 05000000") + zeros(16)}},
	{"Erlang distribution", false, []string{unhex("0015 6e 0006 003dffbd") + "rabbit@hostname", "<" + unhex("0003 73") + "ok" + unhex("0018 6e 0006 003dffbd 12345678") + "rabbit@other"}},
	{"EPMD", false, []string{unhex("0007 7a") + "rabbit", "<" + unhex("77 00 6381 4d 00 0006 0005 0006") + "rabbit" + zeros(2)}},
	{"EPMD names", false, []string{unhex("0001 6e"), "<" + unhex("00001111") + "name rabbit at port 25672\n"}},
	{"DCE/RPC", false, []string{unhex("05 00 0b 03 10000000 4800 0000 01000000 b810 b810 00000000 01 000000 0000 0100 0883afe11f5dc91191a408002b14a0fa 03000000 045d888aeb1cc9119fe808002b104860 02000000"), "<" + unhex("05 00 0c 03 10000000 3c00 0000 01000000 b810 b810 3d160000 0400") + "135\x00" + zeros(24)}},
	{"PPTP", false, []string{unhex("009c 0001 1a2b3c4d 0001 0000 0100 0000 00000001 00000001 0000 0000") + zeros(128), "<" + unhex("009c 0001 1a2b3c4d 0002 0000 0100 0100") + zeros(140)}},
	{"BGP", false, []string{strings.Repeat("\xff", 16) + unhex("001d 01 04 fde8 00b4 0a000001 00"), "<" + strings.Repeat("\xff", 16) + unhex("001d 01 04 fde9 00b4 0a000002 00"), strings.Repeat("\xff", 16) + unhex("0013 04")}},
	{"MSDP", false, []string{unhex("04 0003"), "<" + unhex("04 0003")}},
	{"LDP", false, []string{unhex("0001 0022 0a000001 0000 0200 0018 00000001 0500 000e 0001 001e 00 00 0000 0a000002 0000"), "<" + unhex("0001 0022 0a000002 0000 0200 0018 00000001 0500 000e 0001 001e 00 00 0000 0a000001 0000")}},
	{"RIP", true, []string{unhex("0202 0000 0002 0000 0a000000 ff000000 00000000 00000001"), unhex("0202 0000 0002 0000 0a000000 ff000000 00000000 00000001")}},
	{"HSRP", true, []string{unhex("00 00 10 03 0a 64 01 00") + "cisco\x00\x00\x00" + unhex("0a000001")}},
	{"BFD", true, []string{unhex("20 40 03 18 00000001 00000000 000f4240 000f4240 00000000"), "<" + unhex("20 80 03 18 00000002 00000001 000f4240 000f4240 00000000"), unhex("20 c0 03 18 00000001 00000002 000f4240 000f4240 00000000"), "<" + unhex("20 c0 03 18 00000002 00000001 000f4240 000f4240 00000000")}},
	{"NAT-PMP", true, []string{unhex("0000"), "<" + unhex("0080 0000 00000010 cb007101")}},
	{"PCP", true, []string{unhex("0201 0000 00000e10 00000000 00000000 0000ffff 0a000002 000102030405060708090a0b 11 000000 1f90 0000") + zeros(16), "<" + unhex("0281 0000 00000e10 00000010") + zeros(12) + unhex("000102030405060708090a0b 11 000000 1f90 1f90") + zeros(10) + unhex("ffffcb007101")}},
	{"SLP", true, []string{unhex("02 01 00002b 2000 000000 0001 0002") + "en" + unhex("0000 000f") + "service:printer" + unhex("0007") + "default" + zeros(4)}},
	{"TFTP", true, []string{"\x00\x01boot.img\x00octet\x00", "<\x00\x03\x00\x01" + strings.Repeat("x", 512), "\x00\x04\x00\x01"}},
	{"TFTP from another port", true, []string{"\x00\x03\x00\x01" + strings.Repeat("\x00", 512), "<\x00\x04\x00\x01", "\x00\x03\x00\x02" + strings.Repeat("\x01", 512), "<\x00\x04\x00\x02"}},
	{"IKEv2", true, []string{unhex("0011223344556677 0000000000000000 21 20 22 08 00000000 000000a0") + "\x22" + zeros(131), "<" + unhex("0011223344556677 8899aabbccddeeff 21 20 22 20 00000000 000000a0") + "\x22" + zeros(131)}},
	{"IKEv1", true, []string{unhex("c011223344556677 0000000000000000 01 10 02 00 00000000 000000ac") + zeros(144), "<" + unhex("c011223344556677 8899aabbccddeeff 01 10 02 00 00000000 00000068") + zeros(76)}},
	{"IKE behind NAT", true, []string{zeros(4) + unhex("0011223344556677 8899aabbccddeeff 2e 20 23 08 00000001 00000090") + zeros(116), "<" + zeros(4) + unhex("0011223344556677 8899aabbccddeeff 2e 20 23 20 00000001 00000090") + zeros(116)}},
	{"L2TP", true, []string{unhex("c802 006c 0000 0000 0000 0000 8008 0000 0000 0001 8008 0000 0002 0100 800a 0000 0003 00000003") + zeros(60), "<" + unhex("c802 006c 0001 0000 0000 0001 8008 0000 0000 0002") + zeros(84)}},
	{"GTP-C", true, []string{unhex("48 20 0030 00000000 000001 00") + zeros(40), "<" + unhex("48 21 0030 00000001 000001 00") + zeros(40)}},
	{"GTP-U", true, []string{unhex("30 ff 0054 00000001") + "E\x00\x00\x54" + zeros(80), "<" + unhex("30 ff 0054 00000002") + "E\x00\x00\x54" + zeros(80)}},
	{"GTP echo", true, []string{unhex("32 01 0004 00000000 0001 0000"), "<" + unhex("32 02 0006 00000000 0001 0000 0e00")}},
	{"VXLAN", true, []string{unhex("08000000 00007b00") + zeros(12) + unhex("0800 4500 0054") + zeros(80), unhex("08000000 00007b00") + zeros(12) + unhex("0800 4500 0054") + zeros(80)}},
	{"Geneve", true, []string{unhex("0000 6558 00007b00") + zeros(12) + unhex("0800 4500 0054") + zeros(80)}},
	{"NetFlow 5", true, []string{unhex("0005 0001 00011170 5f5e1000 00000000 00000001 0000 0000") + zeros(48), unhex("0005 0001 00011170 5f5e1000 00000000 00000002 0000 0000") + zeros(48)}},
	{"NetFlow 9", true, []string{unhex("0009 0001 00011170 5f5e1000 00000001 00000000 0000 0014 0100 0003 0008 0004 000c 0004 0002 0004")}},
	{"IPFIX", true, []string{unhex("000a 0028 5f5e1000 00000001 00000000 0002 0018 0100 0004 0008 0004 000c 0004 0002 0004 0001 0004")}},
	{"sFlow", true, []string{unhex("00000005 00000001 0a000001 00000000 00000001 00001170 00000001 00000001 00000090") + zeros(144)}},
	{"SSDP", true, []string{"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n", "<HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\n\r\n"}},
	{"WS-Discovery", true, []string{"\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope xmlns:soap=\"http://www.w3.org/2003/05/soap-envelope\">"}},
	{"Source query", true, []string{"\xff\xff\xff\xffTSource Engine Query\x00", "<\xff\xff\xff\xffA\x01\x02\x03\x04"}},
	{"Quake", true, []string{"\xff\xff\xff\xffgetstatus\n", "<\xff\xff\xff\xffstatusResponse\n\\mapname\\q3dm17\n"}},
	{"RakNet", true, []string{"\x05\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78\x0a" + zeros(1400), "<\x06\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78" + zeros(11)}},
	{"RakNet ping", true, []string{"\x01" + zeros(7) + "\x05\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78" + zeros(8), "<\x1c" + zeros(15) + "\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78\x00\x05MCPE;"}},
	{"ENet", true, []string{unhex("8fff 0001 82ff0001 0000 ff ff 00000578 00010000 00000002 00000000 00000000 00001388 00000002 00000002 12345678 00000000"), "<" + unhex("8000 0001 83ff0001 0000 ff ff 00000578 00010000 00000002 00000000 00000000 00001388 00000002 00000002 12345678")}},
	{"Teamspeak", true, []string{"TS3INIT1\x00\x65\x00\x00\x88\x06\x3b\xec\xe9\x00" + zeros(16), "<TS3INIT1\x00\x65\x88\x01" + zeros(20)}},
	{"Mumble ping", true, []string{zeros(4) + "12345678", "<\x00\x01\x02\x03" + "12345678" + unhex("00000001 00000064 00011170")}},
	{"eDonkey", false, []string{unhex("e3 2d000000 01 10") + zeros(44), "<" + unhex("e3 2d000000 4c") + zeros(44)}},
	{"Gnutella", false, []string{"GNUTELLA CONNECT/0.6\r\nUser-Agent: x\r\n\r\n", "<GNUTELLA/0.6 200 OK\r\n\r\n"}},
	{"Direct Connect", false, []string{"<$Lock EXTENDEDPROTOCOLABCABCABC Pk=verlihub|", "$Supports UserCommand|$Key x|$ValidateNick a|"}},
	{"OSCAR", false, []string{"<" + unhex("2a01 0001 0004 00000001"), unhex("2a01 0001 0026 00000001 0006 001e") + zeros(30)}},
	{"YMSG", false, []string{"YMSG\x00\x10\x00\x00\x00\x00\x00\x4c\x00\x00\x00\x00\x00\x00\x00\x00", "<YMSG\x00\x10\x00\x00\x00\x10\x00\x4c\x00\x00\x00\x01\x00\x00\x00\x00"}},
	{"MSNP", false, []string{"VER 1 MSNP15 CVR0\r\n", "<VER 1 MSNP15\r\n"}},
	{"EtherNet/IP", false, []string{unhex("6500 0400 00000000 00000000 0000000000000000 00000000 0100 0000"), "<" + unhex("6500 0400 01000000 00000000 0000000000000000 00000000 0100 0000")}},
	{"OPC UA", false, []string{"HELF" + unhex("38000000 00000000 00000100 00000100 00000000 00000000 18000000") + "opc.tcp://localhost:4840", "<ACKF" + unhex("1c000000 00000000 00000100 00000100 00000000 00000000")}},
	{"FINS", false, []string{"FINS\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "<FINS\x00\x00\x00\x10\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02"}},
	{"FINS/UDP", true, []string{unhex("80 00 02 00 01 00 00 02 00 01 0101 82 0000 00 0001"), "<" + unhex("c0 00 02 00 02 00 00 01 00 01 0101 0000 1234")}},
	{"HART-IP", false, []string{unhex("01 00 00 00 0002 000d 01 00007530"), "<" + unhex("01 01 00 00 0002 000d 01 00007530")}},
	{"IEC 104", false, []string{unhex("68 04 07 00 00 00"), "<" + unhex("68 04 0b 00 00 00"), unhex("68 0e 00 00 00 00 64 01 06 00 01 00 00 00 00 14")}},
	{"Fox", false, []string{"fox a 1 -1 fox hello\n{\nfox.version=s:1.0\nid=i:1\n};;\n", "<fox a 0 -1 fox hello\n{\nfox.version=s:1.0\n};;\n"}},
	{"FIX", false, []string{"8=FIX.4.2\x019=65\x0135=A\x0149=CLIENT\x0156=SERVER\x0134=1\x01", "<8=FIX.4.2\x019=65\x0135=A\x0149=SERVER\x01"}},
	{"ISO 8583", false, []string{"\x00\x400800" + unhex("8220000000000000 0400000000000000") + "0101120000000001301", "<\x00\x420810" + unhex("8220000002000000")}},
	{"HL7 MLLP", false, []string{"\x0bMSH|^~\\&|A|B|C|D|20200101||ADT^A01|1|P|2.3\r\x1c\r", "<\x0bMSH|^~\\&|C|D|A|B|20200101||ACK|1|P|2.3\rMSA|AA|1\r\x1c\r"}},
	{"Skinny", false, []string{unhex("24000000 00000000 01000000") + "SEP001122334455\x00" + zeros(16), "<" + unhex("14000000 00000000 81000000 1e000000") + "D/M/YA\x00\x00" + unhex("1e000000")}},
	{"MGCP", true, []string{"AUEP 1200 *@mg.example.com MGCP 1.0\r\nF: A\r\n", "<200 1200 OK\r\nA: a:PCMU\r\n"}},
	{"MEGACO", true, []string{"MEGACO/1 [10.0.0.1]:2944\nTransaction=1{Context=-{ServiceChange=ROOT{}}}", "<MEGACO/1 [10.0.0.2]:2944\nReply=1{}"}},
	{"IAX2", true, []string{unhex("8001 0000 00000003 00 00 06 01 0b02 0002 0600 0a01") + "100", "<" + unhex("8001 0001 00000005 00 01 06 04"), unhex("8001 0001 00000013 01 01 06 0b")}},
	{"ICAP", false, []string{"OPTIONS icap://icap.server.net/x ICAP/1.0\r\nHost: icap.server.net\r\n\r\n", "<ICAP/1.0 200 OK\r\nMethods: RESPMOD\r\n\r\n"}},
	{"ManageSieve", false, []string{"<\"IMPLEMENTATION\" \"Dovecot Pigeonhole\"\r\n\"SIEVE\" \"fileinto\"\r\n\"STARTTLS\"\r\nOK \"ready\"\r\n", "STARTTLS\r\n"}},
	{"ident", false, []string{"6193, 23\r\n", "<6193, 23 : USERID : UNIX : root\r\n"}},
	{"daytime", false, []string{"<Tue Nov 25 21:00:00 2025\r\n"}},
	{"chargen", false, []string{"<!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefg\r\n\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefgh\r\n"}},
	{"echo", false, []string{"hello there\r\n", "<hello there\r\n", "hello again\r\n", "<hello again\r\n"}},
	{"a shell", false, []string{"<$ ", "id\n", "<uid=0(root) gid=0(root) groups=0(root)\n# ", "cat /etc/passwd\n", "<root:x:0:0:root:/root:/bin/bash\n"}},
	{"reverse shell of bash", false, []string{"bash: no job control in this shell\nroot@box:/# ", "<id\n", "uid=0(root)\n", "<ls\n"}},
	{"rlogin", false, []string{"\x00root\x00root\x00xterm/38400\x00", "<\x00Password: ", "secret\r"}},
	{"rsh", false, []string{"1022\x00root\x00root\x00ls\x00", "<\x00file\n"}},
	{"Citrix ICA", false, []string{"<\x7f\x7fICA\x00\x7f\x7fICA\x00\x7f\x7fICA\x00", "\x7f\x7fICA\x00"}},
	{"SPICE", false, []string{"REDQ\x02\x00\x00\x00\x02\x00\x00\x00\x1a\x00\x00\x00" + zeros(26), "<REDQ\x02\x00\x00\x00\x02\x00\x00\x00\xb2\x00\x00\x00" + zeros(100)}},
	{"TeamViewer", false, []string{unhex("1724 0a20 00000000 00 88") + zeros(30), "<" + unhex("1724 1120 00000000 00") + zeros(30)}},
	{"NDMP", false, []string{"<" + unhex("80000020 00000001 5f5e1000 00000000 00000502 00000000 00000000 00000000 00000003"), unhex("8000001c 00000001 5f5e1001 00000000 00000900 00000000 00000000 00000003")}},
	{"Aeron", true, []string{unhex("28000000 00 00 0300 00000000 01000000 0a000000 00000000 00000000 00000100 dc050000"), "<" + unhex("24000000 00 00 0300 01000000 0a000000 00000000 00000000 00000200 0000000000000000")}},
	{"DDS RTPS", true, []string{"RTPS\x02\x02\x01\x0f" + zeros(12) + "\x09\x01\x08\x00" + zeros(8)}},
	{"SOME/IP", true, []string{unhex("ffff8100 00000030 00000001 01 01 02 00 c0000000") + zeros(36)}},
	{"NBD", false, []string{"<NBDMAGICIHAVEOPT\x00\x03", "\x00\x00\x00\x03", "IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00"}},
	{"protobuf", false, []string{unhex("0a0568656c6c6f 1001 1a03616263"), "<" + unhex("0a05776f726c64 1002")}},
	{"protobuf, length first", false, []string{unhex("00000010 0a0568656c6c6f 1001 1a05616263 6465"), "<" + unhex("00000009 0a05776f726c64 1002")}},
	{"MessagePack-RPC", false, []string{unhex("94 00 01 a3") + "add" + unhex("92 01 02"), "<" + unhex("94 01 01 c0 03")}},
	{"JSON-RPC", false, []string{"{\"jsonrpc\":\"2.0\",\"method\":\"subtract\",\"params\":[42,23],\"id\":1}\n", "<{\"jsonrpc\":\"2.0\",\"result\":19,\"id\":1}\n"}},
	{"Stratum", false, []string{"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n", "<{\"id\":1,\"result\":[[\"mining.notify\",\"1\"],\"08\",4],\"error\":null}\n"}},
	{"LSP", false, []string{"Content-Length: 40\r\n\r\n{\"jsonrpc\":\"2.0\",\"method\":\"initialize\"}"}},
	{"Akka", false, []string{"AKKA\x01\x01\x00\x00\x00", "<AKKA\x01\x01\x00\x00\x00"}},
	{"SAP router", false, []string{unhex("00000012 ") + "NI_ROUTE\x00\x02\x28\x02\x00\x00\x00\x00\x00\x00", "<" + unhex("00000007") + "NI_PONG"}},
	{"SAP HANA", false, []string{unhex("ffffffff 04200004 01000001 01 01"), "<" + unhex("0420000401000000")}},
	{"LLRP", false, []string{"<" + unhex("043f 00000020 00000001 00f6 0016 0080 000c") + zeros(12), unhex("0401 0000000b 00000002 00")}},
	{"Spark block", false, []string{unhex("0000000000000030 03") + zeros(39), "<" + unhex("0000000000000015 04") + zeros(12)}},
	{"MaxDB", false, []string{unhex("5a000000 03 00 00 00 01000000 00000000 5a000000 00000000") + zeros(70), "<" + unhex("40000000 04 00 00 00") + zeros(56)}},
}

// TestOtherProtocols: what has no name here is unknown, whatever its bytes look
// like and however little of it is seen.
func TestOtherProtocols(t *testing.T) {
	for _, c := range others {
		proto := policy.ProtoTCP
		if c.udp {
			proto = policy.ProtoUDP
		}
		for _, way := range []struct {
			name       string
			mid, split bool
			only       string
		}{
			{name: "whole"}, {name: "mid-stream", mid: true}, {name: "byte by byte", split: true},
			{name: "client only", only: "client"}, {name: "server only", only: "server"},
			{name: "client only, mid-stream", only: "client", mid: true}, {name: "server only, mid-stream", only: "server", mid: true},
		} {
			if way.split && c.udp {
				continue
			}
			var s State
			s.Reset(proto, 40001, way.mid)
			var seq [2]uint32
			var o Outcome
			named := policy.AppNone
			feed := func(dir Dir, b []byte) {
				if o = testEngine.Feed(&s, dir, seq[dir], b); o.Spoken.App > policy.AppUnknown {
					named = o.Spoken.App
				}
				if o.Likely != policy.AppNone {
					named = o.Likely
				}
				seq[dir] += uint32(len(b))
			}
			for _, turn := range c.turns {
				dir := FromClient
				if rest, ok := strings.CutPrefix(turn, "<"); ok {
					dir, turn = FromServer, rest
				}
				if way.only == "client" && dir == FromServer || way.only == "server" && dir == FromClient {
					continue
				}
				if !way.split {
					feed(dir, []byte(turn))
					continue
				}
				for i := range len(turn) {
					feed(dir, []byte(turn[i:i+1]))
				}
			}
			o = testEngine.Finish(&s)
			if o.Spoken.App > policy.AppUnknown {
				named = o.Spoken.App
			}
			if named != policy.AppNone {
				t.Errorf("%s, %s: %v, %v", c.name, way.name, named, o)
			}
		}
	}
}

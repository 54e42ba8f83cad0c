package models

import (
	"strings"

	"gatehouse/policy"
)

// scheme is what the scheme of a URL says of the traffic. The ports are those
// of IANA's service names registry, and for software that is not in it those
// of its own documentation.
type scheme struct {
	app   policy.App
	forms policy.TLSForms // 0 = not said
	port  uint16
}

var schemes = map[string]scheme{
	"http": {policy.AppHTTP, 0, 80}, "https": {policy.AppHTTP, policy.TLSDirect, 443},
	"ws": {policy.AppHTTP, 0, 80}, "wss": {policy.AppHTTP, policy.TLSDirect, 443},
	"grpc": {policy.AppGRPC, 0, 0}, "grpcs": {policy.AppGRPC, policy.TLSDirect, 0},
	"postgres": {policy.AppPostgreSQL, 0, 5432}, "postgresql": {policy.AppPostgreSQL, 0, 5432},
	"pgsql": {policy.AppPostgreSQL, 0, 5432}, "postgis": {policy.AppPostgreSQL, 0, 5432},
	"mysql": {policy.AppMySQL, 0, 3306}, "mysql2": {policy.AppMySQL, 0, 3306}, "mariadb": {policy.AppMySQL, 0, 3306},
	"mssql": {policy.AppTDS, 0, 1433}, "sqlserver": {policy.AppTDS, 0, 1433}, "oracle": {policy.AppTNS, 0, 1521},
	"mongodb": {policy.AppMongoDB, 0, 27017}, "cassandra": {policy.AppCassandra, 0, 9042},
	"redis": {policy.AppRedis, 0, 6379}, "rediss": {policy.AppRedis, policy.TLSDirect, 6379},
	"valkey": {policy.AppRedis, 0, 6379}, "valkeys": {policy.AppRedis, policy.TLSDirect, 6379},
	"memcached": {policy.AppMemcached, 0, 11211}, "memcache": {policy.AppMemcached, 0, 11211},
	"elasticsearch": {policy.AppHTTP, 0, 9200},
	"amqp":          {policy.AppAMQP, 0, 5672}, "pyamqp": {policy.AppAMQP, 0, 5672}, "amqps": {policy.AppAMQP, policy.TLSDirect, 5671},
	"kafka": {policy.AppKafka, 0, 9092}, "nats": {policy.AppNATS, 0, 4222}, "stomp": {policy.AppSTOMP, 0, 61613},
	"mqtt": {policy.AppMQTT, 0, 1883}, "mqtts": {policy.AppMQTT, policy.TLSDirect, 8883},
	"zookeeper": {policy.AppZooKeeper, 0, 2181}, "zk": {policy.AppZooKeeper, 0, 2181}, "etcd": {policy.AppEtcd, 0, 2379},
	"consul": {policy.AppConsul, 0, 8500}, "hdfs": {policy.AppHDFS, 0, 8020},
	"smtp": {policy.AppSMTP, policy.TLSStart, 587}, "smtps": {policy.AppSMTP, policy.TLSDirect, 465},
	"imap": {policy.AppIMAP, policy.TLSStart, 143}, "imaps": {policy.AppIMAP, policy.TLSDirect, 993},
	"pop3": {policy.AppPOP3, policy.TLSStart, 110}, "pop3s": {policy.AppPOP3, policy.TLSDirect, 995},
	"ldap": {policy.AppLDAP, policy.TLSStart, 389}, "ldaps": {policy.AppLDAP, policy.TLSDirect, 636},
	"ftp": {policy.AppFTP, policy.TLSStart, 21}, "ftps": {policy.AppFTP, policy.TLSDirect, 990},
	"ssh": {policy.AppSSH, 0, 22}, "sftp": {policy.AppSSH, 0, 22}, "smb": {policy.AppSMB, 0, 445}, "nfs": {policy.AppNFS, 0, 2049},
	"syslog": {policy.AppSyslog, 0, 514}, "dns": {policy.AppDNS, 0, 53}, "ntp": {policy.AppNTP, 0, 123},
	"rtsp": {policy.AppRTSP, 0, 554}, "rtmp": {policy.AppRTMP, 0, 1935}, "xmpp": {policy.AppXMPP, 0, 5222}, "sip": {policy.AppSIP, 0, 5060},
}

// schemeOf reads "postgresql", "jdbc:postgresql", "db+postgresql",
// "postgresql+asyncpg", "mongodb+srv".
func schemeOf(s string) (scheme, bool) {
	s = strings.TrimPrefix(strings.ToLower(s), "jdbc:")
	if sc, ok := schemes[s]; ok {
		return sc, true
	}
	before, after, ok := strings.Cut(s, "+")
	if !ok {
		return scheme{}, false
	}
	if sc, ok := schemes[before]; ok {
		return sc, true
	}
	sc, ok := schemes[after]
	return sc, ok
}

// usualSchemes are the applications of ports that stand in a deployer's
// settings without a scheme (SMTP_SERVER and SMTP_PORT).
var usualSchemes = map[uint16]string{
	21: "ftp", 22: "ssh", 25: "smtp", 53: "dns", 80: "http", 110: "pop3", 143: "imap", 389: "ldap", 443: "https", 445: "smb",
	465: "smtps", 587: "smtp", 636: "ldaps", 993: "imaps", 995: "pop3s", 1433: "mssql", 1521: "oracle", 1883: "mqtt", 2181: "zookeeper",
	3306: "mysql", 4222: "nats", 5432: "postgresql", 5671: "amqps", 5672: "amqp", 6379: "redis", 8883: "mqtts", 9042: "cassandra",
	9092: "kafka", 9200: "elasticsearch", 11211: "memcached", 27017: "mongodb",
}

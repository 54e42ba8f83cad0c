package appid

// protocols are all signatures, in the order in which they win where several
// fit equally well: stricter ones first. Their index is their bit in evidence,
// so there can be 64.
var protocols = [...]protocol{
	tlsProtocol,
	sshProtocol,
	httpProtocol,
	http2Protocol,
	postgresqlProtocol,
	mysqlProtocol,
	mongodbProtocol,
	amqpProtocol,
	redisProtocol,
	dnsTCPProtocol,
	mdnsProtocol,
	dnsUDPProtocol,
	kafkaProtocol,
	memcachedProtocol,
	memcachedUDPProtocol,
	smtpProtocol,
	ftpProtocol,
	ntpProtocol,
}

// tlsIndex is where tlsProtocol stands.
const tlsIndex = 0

package policy

import "strings"

// App is a wire protocol as application identification names it. The numbers
// are kept in the kernel's flow map over restarts: append, never reorder.
type App uint16

const (
	AppNone    App = iota // nothing said yet
	AppUnknown            // data was seen and no signature fits, or the budget ran out
	AppHTTP
	AppHTTP2
	AppGRPC
	AppWebSocket
	AppTLS
	AppDTLS
	AppQUIC
	AppDNS
	AppMDNS
	AppSSH
	AppTelnet
	AppMySQL
	AppPostgreSQL
	AppTDS
	AppTNS
	AppMongoDB
	AppRedis
	AppMemcached
	AppCassandra
	AppElasticsearch // transport on 9300; the REST API is http
	AppAMQP
	AppKafka
	AppNATS
	AppMQTT
	AppSTOMP
	AppZooKeeper
	AppEtcd
	AppConsul
	AppHDFS
	AppSMTP
	AppIMAP
	AppPOP3
	AppFTP
	AppFTPData
	AppSMB
	AppNetBIOS
	AppNFS
	AppSunRPC
	AppLustre
	AppLDAP
	AppKerberos
	AppNTP
	AppSNMP
	AppSyslog
	AppDHCP
	AppDHCPv6
	AppSIP
	AppRTP
	AppRTCP
	AppRTSP
	AppRTMP
	AppRDP
	AppSTUN
	AppBitTorrent
	AppWireGuard
	AppOpenVPN
	AppICMP
	AppICMPv6
	AppSOCKS
	AppDocker
	AppKubernetes
	AppHadoopIPC
	AppXMPP
	AppCount // not an application: how many there are
)

var appNames = [AppCount]string{
	"none", "unknown", "http", "http2", "grpc", "websocket", "tls", "dtls", "quic", "dns", "mdns", "ssh", "telnet",
	"mysql", "postgresql", "tds", "tns", "mongodb", "redis", "memcached", "cassandra", "elasticsearch",
	"amqp", "kafka", "nats", "mqtt", "stomp", "zookeeper", "etcd", "consul", "hdfs",
	"smtp", "imap", "pop3", "ftp", "ftp-data", "smb", "netbios", "nfs", "sunrpc", "lustre", "ldap", "kerberos",
	"ntp", "snmp", "syslog", "dhcp", "dhcpv6", "sip", "rtp", "rtcp", "rtsp", "rtmp", "rdp", "stun",
	"bittorrent", "wireguard", "openvpn", "icmp", "icmpv6", "socks", "docker", "kubernetes", "hadoop-ipc", "xmpp",
}

func (a App) String() string { return nameOf(appNames[:], int(a)) }

// MarshalText makes applications words in JSON and YAML.
func (a App) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// ParseApp returns the application of that exact name. "none", "unknown" and
// "any" are not applications that a statement may name.
func ParseApp(name string) (App, bool) {
	for a := AppUnknown + 1; a < AppCount; a++ {
		if appNames[a] == name {
			return a, true
		}
	}
	return AppNone, false
}

// appParents: a statement for the parent also covers the child, which is
// spoken inside it: grpc is http2, http2 and websocket are forms of http.
// ICMPv6 echo is what a statement for icmp means in IPv6 (R21).
var appParents = [AppCount]App{
	AppHTTP2: AppHTTP, AppGRPC: AppHTTP2, AppWebSocket: AppHTTP,
	AppDocker: AppHTTP, AppKubernetes: AppHTTP, AppEtcd: AppGRPC, AppICMPv6: AppICMP,
}

// Is reports whether a is b or spoken inside b (http2 is http).
func (a App) Is(b App) bool {
	for a != b {
		if a >= AppCount || appParents[a] == AppNone {
			return false
		}
		a = appParents[a]
	}
	return true
}

// TLSForms is the set of ways in which an application may use TLS.
type TLSForms uint8

const (
	TLSPlain    TLSForms = 1 << iota // in clear
	TLSUpgraded                      // in clear first, then upgraded in the protocol (STARTTLS and its like)
	TLSDirect                        // TLS from the first byte; the application inside is expected, not seen
)

// TLSNone, TLSStart, TLSOptional and TLSOnly are the model schema's tls: values.
const (
	TLSNone     = TLSPlain
	TLSStart    = TLSPlain | TLSUpgraded
	TLSOptional = TLSPlain | TLSUpgraded | TLSDirect
	TLSOnly     = TLSDirect
)

// ParseTLSForms reads the schema's tls values; "" is none.
func ParseTLSForms(s string) (TLSForms, bool) {
	switch s {
	case "", "none":
		return TLSNone, true
	case "starttls":
		return TLSStart, true
	case "optional":
		return TLSOptional, true
	case "only":
		return TLSOnly, true
	}
	return 0, false
}

// startTLSApps can be upgraded in the protocol; only for these is
// "APP+starttls" a form of its own in the text of a statement.
var startTLSApps = map[App]bool{
	AppMySQL: true, AppPostgreSQL: true, AppSMTP: true, AppIMAP: true, AppPOP3: true, AppFTP: true,
	AppLDAP: true, AppXMPP: true, AppTDS: true, AppRDP: true, AppAMQP: true, AppNATS: true, AppSIP: true,
}

// CanStartTLS reports whether the protocol has an in-band upgrade to TLS.
func (a App) CanStartTLS() bool { return startTLSApps[a] }

// AppMatch is what a statement allows to be spoken. The zero value matches nothing.
type AppMatch struct {
	Any   bool     `json:"any,omitempty"`   // any application, unknown ones too; always written out
	App   App      `json:"app"`             // else this one
	Forms TLSForms `json:"forms,omitempty"` // in these forms
}

// AnyApp is the written-out "any".
var AnyApp = AppMatch{Any: true}

// Spoken is what app-ID saw of a flow: App is the outer protocol, Inner what
// follows an upgrade (tls), ALPN the application that a TLS hello announced
// (AppNone if it did not).
type Spoken struct {
	App, Inner, ALPN App
}

// Matches reports whether a flow that speaks s is covered.
func (m AppMatch) Matches(s Spoken) bool {
	switch {
	case m.Any:
		return true
	case m.App == AppNone || s.App == AppNone || s.App == AppUnknown:
		return false
	case s.App.Is(m.App):
		if s.Inner == AppTLS {
			return m.Forms&TLSUpgraded != 0
		}
		return m.Forms&TLSPlain != 0
	case s.App == AppTLS || s.App == AppDTLS:
		return m.Forms&TLSDirect != 0 && (s.ALPN == AppNone || s.ALPN.Is(m.App))
	}
	return false
}

// Texts are the forms in which m is written in statements, one per line:
// "any", "http", "mysql+starttls", "tls(http)".
func (m AppMatch) Texts() []string {
	if m.Any {
		return []string{"any"}
	}
	var out []string
	name := m.App.String()
	if m.Forms&TLSUpgraded != 0 && m.App.CanStartTLS() {
		out = append(out, name+"+starttls")
	} else if m.Forms&TLSPlain != 0 {
		out = append(out, name)
	}
	if m.Forms&TLSDirect != 0 {
		out = append(out, "tls("+name+")")
	}
	return out
}

func (m AppMatch) String() string { return strings.Join(m.Texts(), "|") }

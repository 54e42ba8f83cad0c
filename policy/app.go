package policy

import (
	"fmt"
	"strings"
)

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
	AppRegistry   // of container images (OCI distribution)
	AppOpenSearch // its REST API; its transport is elasticsearch
	AppCount      // not an application: how many there are, at most 256 (the kernel's flow map)
)

var appNames = [AppCount]string{
	"none", "unknown", "http", "http2", "grpc", "websocket", "tls", "dtls", "quic", "dns", "mdns", "ssh", "telnet",
	"mysql", "postgresql", "tds", "tns", "mongodb", "redis", "memcached", "cassandra", "elasticsearch",
	"amqp", "kafka", "nats", "mqtt", "stomp", "zookeeper", "etcd", "consul", "hdfs",
	"smtp", "imap", "pop3", "ftp", "ftp-data", "smb", "netbios", "nfs", "sunrpc", "lustre", "ldap", "kerberos",
	"ntp", "snmp", "syslog", "dhcp", "dhcpv6", "sip", "rtp", "rtcp", "rtsp", "rtmp", "rdp", "stun",
	"bittorrent", "wireguard", "openvpn", "icmp", "icmpv6", "socks", "docker", "kubernetes", "hadoop-ipc", "xmpp",
	"registry", "opensearch",
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

// usualWords are names that people give an application, and that are neither its
// own nor like it.
var usualWords = map[string]App{
	"https": AppHTTP, "http3": AppQUIC, "ssl": AppTLS, "mariadb": AppMySQL, "mssql": AppTDS, "sqlserver": AppTDS, "oracle": AppTNS,
	"valkey": AppRedis, "rabbitmq": AppAMQP, "sftp": AppSSH, "scp": AppSSH, "cifs": AppSMB, "cql": AppCassandra, "ping": AppICMP,
}

// UnknownApp is the error for a name that is no application's; it says which may
// be meant.
func UnknownApp(name string) error {
	if a := likeApp(strings.ToLower(name)); a != AppNone {
		return fmt.Errorf("unknown application %q: is %s meant?", name, a)
	}
	return fmt.Errorf("unknown application %q: `gatehouse schema statements` lists them", name)
}

// likeApp is the application that a name stands for or begins, or that begins it,
// or is one letter off.
func likeApp(name string) App {
	if a, ok := usualWords[name]; ok {
		return a
	}
	if len(name) < 3 {
		return AppNone
	}
	for a := AppUnknown + 1; a < AppCount; a++ {
		if strings.HasPrefix(appNames[a], name) || strings.HasPrefix(name, appNames[a]) || distance([]rune(name), []rune(appNames[a])) == 1 {
			return a
		}
	}
	return AppNone
}

// appParents: a statement for the parent also covers the child, which is
// spoken inside it: grpc is http2, http2 and websocket are forms of http.
// ICMPv6 echo is what a statement for icmp means in IPv6 (R21).
var appParents = [AppCount]App{
	AppHTTP2: AppHTTP, AppGRPC: AppHTTP2, AppWebSocket: AppHTTP,
	AppDocker: AppHTTP, AppKubernetes: AppHTTP, AppRegistry: AppHTTP, AppEtcd: AppGRPC, AppICMPv6: AppICMP,
	AppOpenSearch: AppElasticsearch,
}

// subs are the applications that are an API on top of a protocol of the web:
// what Spoken.Sub may be.
var subs = [AppCount]bool{
	AppDocker: true, AppRegistry: true, AppKubernetes: true, AppEtcd: true, AppConsul: true,
	AppElasticsearch: true, AppOpenSearch: true, AppHDFS: true,
}

// IsSub reports whether a can be spoken on top of http or its forms. Some, as
// elasticsearch, have a protocol of their own too.
func (a App) IsSub() bool { return a < AppCount && subs[a] }

// tunnels: protocols in which a connection to somewhere else can be opened
// (CONNECT, Upgrade, SOCKS).
func (a App) tunnels() bool { return a == AppSOCKS || a.Is(AppHTTP) }

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

// saysServer: its client may say which server it is for, where app-ID can read it.
func (a App) saysServer() bool {
	return a == AppTLS || a == AppDTLS || a == AppQUIC || a.Is(AppHTTP)
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

// Spoken is what app-ID saw of a flow: App is the wire protocol, Sub the API or
// product on top of it (AppNone if it is none that statements can name), Inner
// what follows an upgrade to TLS or is carried in a tunnel, ALPN the application
// that a TLS hello announced (AppNone if it did not).
type Spoken struct {
	App, Sub, Inner, ALPN App
}

// Tunnelled returns what is carried inside an http or socks tunnel, as if it were
// spoken directly; ok is false where there is no tunnel.
func (s Spoken) Tunnelled() (inner Spoken, ok bool) {
	if s.Inner == AppNone || !s.App.tunnels() {
		return Spoken{}, false
	}
	return Spoken{App: s.Inner, ALPN: s.ALPN}, true
}

// Matches reports whether a flow that speaks s is covered.
//
// A tunnel is judged by what it carries: ssh behind an HTTP CONNECT is covered
// by what covers ssh. What covers the tunnel's own protocol covers it only
// where it carries TLS or HTTP, for which proxies are there.
func (m AppMatch) Matches(s Spoken) bool {
	if m.Any {
		return true
	}
	if m.App == AppNone || s.App == AppNone || s.App == AppUnknown {
		return false
	}
	own := s.App.Is(m.App) || s.Sub.Is(m.App)
	if in, ok := s.Tunnelled(); ok {
		web := in.App == AppTLS || in.App.Is(AppHTTP)
		return own && web && m.Forms&TLSPlain != 0 || m.Matches(in)
	}
	switch {
	case own && s.Inner == AppTLS:
		return m.Forms&TLSUpgraded != 0
	case own:
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

package docker

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"gatehouse/policy"
)

// Spoken is what a deployer said of one container that may name other hosts
// (R3): what its image said already has been taken out.
type Spoken struct {
	Env        []string // KEY=VALUE
	Entrypoint []string
	Command    []string
	Links      []string // engine form: /db:/web/alias
	DependsOn  string   // value of the label com.docker.compose.depends_on
	DNS        []string // addresses of the deployer's dns:
}

// Bounds of what one container may make us read and keep.
const (
	maxReferences = 1024
	maxSpoken     = 1 << 20 // bytes of environment and arguments that are read
	maxKey        = 256     // bytes of a variable's or flag's name
	maxHostName   = 253     // RFC 1035 2.3.4, as text
)

// ParseReferences finds the hosts that a deployer named: sorted, without
// duplicates, at most 1,024. Of values only host, port and scheme survive, and
// values whose key looks secret are not read at all. Loopback and unspecified
// addresses name nobody. It is pure and never fails: what it cannot read names
// no host.
func ParseReferences(s Spoken) []policy.Reference {
	p := referenceParser{budget: maxSpoken}
	p.environment(s.Env)
	p.arguments(slices.Concat(s.Entrypoint, s.Command))
	for _, link := range s.Links {
		name, _, _ := strings.Cut(strings.TrimPrefix(link, "/"), ":")
		p.add("link", name, 0, "", true)
	}
	for _, name := range ParseDependsOn(s.DependsOn) {
		p.add("depends_on", name, 0, "", true)
	}
	for _, addr := range s.DNS {
		p.add("dns", addr, 53, "dns", false)
	}
	slices.SortFunc(p.found, compareReferences)
	return slices.Compact(p.found)
}

// ParseDependsOn reads Compose's label value "db:service_healthy:false,redis:..."
// into service names, in their order.
func ParseDependsOn(label string) []string {
	var names []string
	for item := range strings.SplitSeq(label, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(item), ":")
		if validHost(name) && len(names) < maxReferences {
			names = append(names, name)
		}
	}
	return names
}

func compareReferences(a, b policy.Reference) int {
	for _, c := range []int{
		strings.Compare(a.Source, b.Source), strings.Compare(a.Host, b.Host),
		int(a.Port) - int(b.Port), strings.Compare(a.Scheme, b.Scheme),
	} {
		if c != 0 {
			return c
		}
	}
	return 0
}

type referenceParser struct {
	found  []policy.Reference
	budget int
	scheme string // of what a client program speaks, while its host is read
}

// spend reports whether a text of that size may still be read.
func (p *referenceParser) spend(text string) bool {
	p.budget -= len(text)
	return p.budget >= 0
}

func (p *referenceParser) add(source, host string, port uint16, scheme string, weak bool) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if len(p.found) >= maxReferences || !validHost(host) {
		return
	}
	p.found = append(p.found, policy.Reference{Source: source, Host: host, Port: port, Scheme: scheme, Weak: weak})
}

// environment reads KEY=VALUE pairs; a port may stand in a sibling key.
func (p *referenceParser) environment(env []string) {
	ports := map[string]uint16{}
	for _, kv := range env {
		key, value, _ := strings.Cut(kv, "=")
		if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 16); err == nil {
			ports[strings.ToUpper(key)] = uint16(n)
		}
	}
	for _, kv := range env {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || len(key) > maxKey || !p.spend(kv) {
			continue
		}
		stem, bare := hostStem(key)
		var sibling uint16
		if bare {
			sibling = ports[stem+"PORT"]
		}
		p.value("env "+key, key, value, bare, sibling)
	}
}

// arguments reads an entrypoint or a command: --flag=value, --flag value,
// key=value, words, and shell scripts of such words.
func (p *referenceParser) arguments(args []string) {
	p.words(args, 0)
}

func (p *referenceParser) words(args []string, depth int) {
	flag, program := "", ""
	for i, arg := range args {
		if !p.spend(arg) {
			return
		}
		if words := shellWords(arg); len(words) > 1 && depth < 2 {
			if isHostPair(flag) { // --replicaof "primary 6379" is one argument, or two
				words = append([]string{flag}, words...)
			}
			p.words(words, depth+1)
			flag = ""
			continue
		}
		if strings.HasPrefix(arg, "-") {
			name, value, ok := strings.Cut(arg, "=")
			if short, host, is := clientHost(program, arg); is {
				name, value, ok = short, host, true
			}
			flag = name
			if len(name) > maxKey {
				flag = "-"
				continue
			}
			if ok {
				flag = ""
				p.option(program, name, value)
			}
			continue
		}
		switch {
		case isHostPair(flag):
			var port uint16
			if i+1 < len(args) {
				port, _ = portNumber(args[i+1])
			}
			p.value("arg "+flagName(flag, nil), flag, arg, true, port)
		case strings.HasPrefix(flag, "--") || len(flag) > 2 || asksHost(program, flag):
			p.option(program, flag, arg)
		case flag != "" && isShare(program, arg): // -N takes no value
			p.positional(program, arg)
		case flag != "" && strings.Contains(arg, "://"):
			p.urls("arg "+flag, arg)
		case flag != "": // -u elastic:1234: a short flag does not say what its value is
		case arg == "monitor" && i > 0 && args[i-1] == "sentinel" && i+3 < len(args): // redis: sentinel monitor NAME HOST PORT QUORUM
			port, _ := portNumber(args[i+3])
			p.value("command sentinel", "", args[i+2], true, port)
		case i > 0 && args[i-1] == "join_cluster": // rabbitmqctl join_cluster rabbit@HOST
			p.value("command join_cluster", "", arg, true, 0)
		default:
			p.positional(program, arg)
			if isClient(arg) {
				program = path.Base(arg)
			}
		}
		flag = ""
	}
}

// option reads the value of an option. What a client program's option says is the
// host has the scheme of what the program speaks.
func (p *referenceParser) option(program, flag, value string) {
	asks := asksHost(program, flag)
	if asks {
		p.scheme = clients[program]
	}
	p.value("arg "+flagName(flag, nil), flag, value, asks, 0)
	p.scheme = ""
}

// hostPairs are the options whose value is a host, and the word behind it the
// port: redis.conf, replicaof.
var hostPairs = []string{"--replicaof", "--slaveof"}

func isHostPair(flag string) bool { return slices.Contains(hostPairs, flag) }

// hostFlags are the options whose bare value is a host, though their names do
// not end as others' do: cockroach start, consul agent, scylla.
var hostFlags = []string{"join", "retry-join", "seeds"}

// clients are the programs to which -h says the host, with the scheme of what they
// speak: the tools of PostgreSQL, MariaDB and MySQL, Redis and Valkey, MongoDB,
// ClickHouse, Mosquitto and OpenLDAP. To others it is help. smbclient has none: its host
// is in //HOST/SHARE.
var clients = map[string]string{
	"psql": "postgresql", "pg_dump": "postgresql", "pg_dumpall": "postgresql", "pg_restore": "postgresql", "pg_basebackup": "postgresql",
	"pg_receivewal": "postgresql", "pg_isready": "postgresql", "createdb": "postgresql", "vacuumdb": "postgresql", "pgbench": "postgresql",
	"mysql": "mysql", "mysqldump": "mysql", "mysqladmin": "mysql", "mysqlcheck": "mysql",
	"mariadb": "mysql", "mariadb-dump": "mysql", "mariadb-admin": "mysql", "mariadb-check": "mysql", "mariadb-backup": "mysql",
	"redis-cli": "redis", "redis-benchmark": "redis", "valkey-cli": "redis", "keydb-cli": "redis",
	"mongo": "mongodb", "mongosh": "mongodb", "mongodump": "mongodb", "mongorestore": "mongodb", "mongoexport": "mongodb", "mongoimport": "mongodb",
	"clickhouse-client": "", "mosquitto_pub": "mqtt", "mosquitto_sub": "mqtt", "mosquitto_rr": "mqtt",
	"ldapsearch": "ldap", "ldapadd": "ldap", "ldapmodify": "ldap", "smbclient": "smb",
}

func isClient(word string) bool {
	_, ok := clients[path.Base(word)]
	return ok
}

// clientHost splits -hHOST, which such a program takes too.
func clientHost(program, arg string) (flag, host string, ok bool) {
	host, ok = strings.CutPrefix(arg, "-h")
	return "-h", host, ok && program != "" && host != "" && !strings.Contains(host, "=")
}

// asksHost reports whether the bare value of an option is a host.
func asksHost(program, flag string) bool {
	if _, ok := hostStem(flag); ok {
		return true
	}
	return flag == "-h" && program != "" || slices.Contains(hostFlags, strings.TrimLeft(flag, "-"))
}

// isShare reports whether a word is //HOST/SHARE for a program that takes such.
func isShare(program, arg string) bool {
	return clients[program] == "smb" && strings.HasPrefix(arg, "//")
}

// positional reads one word that follows no flag.
func (p *referenceParser) positional(program, arg string) {
	if isShare(program, arg) {
		host, _, _ := strings.Cut(arg[2:], "/")
		p.add("command", host, 0, "smb", false)
		return
	}
	if key, value, ok := strings.Cut(arg, "="); ok && isKey(key) {
		_, bare := hostStem(key)
		p.value("command "+key, key, value, bare, 0)
		return
	}
	p.value("command", "", arg, false, 0)
}

// value reads one value in all forms; bare names and addresses only where the
// key asks for a host.
func (p *referenceParser) value(source, key, value string, bare bool, sibling uint16) {
	if strings.Contains(value, "://") {
		if hidesHost(key) && !bare {
			return
		}
		p.urls(source, value)
		return
	}
	if hidesHost(key) || notHosts(key) {
		return
	}
	switch {
	case p.oracle(source, value):
	case p.dsnFunction(source, value):
	case p.keywords(source, value):
	default:
		p.list(source, value, bare || isNodeName(key, value), sibling)
	}
}

// isNodeName: NAME@HOST is how Erlang writes a node, so that RabbitMQ and others name
// their members in settings about nodes. It is all of the value: an @ stands in
// addresses of mail, packages and passwords too.
func isNodeName(key, value string) bool {
	parts := keyParts(strings.ToUpper(key))
	if len(parts) > 1 && (parts[len(parts)-1] == "NAME" || parts[len(parts)-1] == "ARG") {
		parts = parts[:len(parts)-1]
	}
	if len(parts) == 0 || !strings.HasSuffix(parts[len(parts)-1], "NODE") && parts[len(parts)-1] != "NODENAME" {
		return false
	}
	name, host, ok := strings.Cut(value, "@")
	return ok && isKey(name) && validHost(host)
}

// urls reads every SCHEME://[user@]host[:port][,host...] of a text.
func (p *referenceParser) urls(source, text string) {
	for {
		i := strings.Index(text, "://")
		if i < 0 {
			return
		}
		start := i
		for start > 0 && isSchemeByte(text[start-1]) {
			start--
		}
		rest := text[i+3:]
		next := len(rest)
		if j := strings.Index(rest, "://"); j >= 0 {
			next = j
			for next > 0 && isSchemeByte(rest[next-1]) {
				next--
			}
		}
		p.authority(source, normalScheme(text[start:i]), rest[:next])
		text = rest
	}
}

// localSchemes name no host.
var localSchemes = []string{"unix", "file", "npipe", "fd", "data", "http+unix", "sqlite", "sqlite3", "memory", "mem", "null"}

// authority reads what follows "://": only the part before path, query and
// fragment, without user and password. A text in which that part cannot be
// told apart from a password is left alone.
func (p *referenceParser) authority(source, scheme, rest string) {
	if slices.Contains(localSchemes, scheme) {
		return
	}
	token := rest
	if i := strings.IndexAny(rest, " \t\r\n\"'`<>|"); i >= 0 {
		token = rest[:i]
	}
	hosts, tail := token, ""
	if i := strings.IndexAny(token, "/?#;\\&)]}"); i >= 0 && token[i] != ']' {
		hosts, tail = token[:i], token[i:]
	} else if i >= 0 { // the bracket of an IPv6 address
		if j := strings.IndexAny(token[i+1:], "/?#;\\&)}"); j >= 0 {
			hosts, tail = token[:i+1+j], token[i+1+j:]
		}
	}
	if strings.Contains(tail, "@") && strings.ContainsAny(strings.TrimPrefix(hosts, "["), ":@") {
		return // user:pa/ss@host, or an @ in the path: cannot be told apart
	}
	hosts = hosts[strings.LastIndexByte(hosts, '@')+1:]
	for host := range strings.SplitSeq(hosts, ",") {
		if name, port, ok := hostPort(host); ok {
			p.add(source, name, port, scheme, false)
		}
	}
}

// oracle reads jdbc:oracle:thin:@host:1521:SID, which has no "://".
func (p *referenceParser) oracle(source, value string) bool {
	_, rest, ok := strings.Cut(value, ":@")
	if !ok || !strings.HasPrefix(value, "jdbc:") {
		return false
	}
	rest = strings.TrimPrefix(rest, "//")
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		rest = rest[:i]
	}
	parts := strings.SplitN(rest, ":", 3)
	port := uint16(0)
	if len(parts) > 1 {
		port, _ = portNumber(parts[1])
	}
	p.add(source, parts[0], port, "oracle", false)
	return true
}

// dsnFunction reads user:password@tcp(host:port)/name.
func (p *referenceParser) dsnFunction(source, value string) bool {
	for _, open := range []string{"tcp(", "tcp4(", "tcp6("} {
		_, rest, ok := strings.Cut(value, open)
		if !ok {
			continue
		}
		inside, _, closed := strings.Cut(rest, ")")
		if name, port, ok := hostPort(inside); ok && closed {
			p.add(source, name, port, "", false)
		}
		return true
	}
	return false
}

// keywordHosts are the keys of connection strings that name a host (libpq, ADO,
// ODBC), in lower case.
var keywordHosts = []string{"host", "hostaddr", "server", "data source", "datasource", "addr", "address", "network address"}

// keywords reads "host=a port=1 ..." and "Server=a,1;...".
func (p *referenceParser) keywords(source, value string) bool {
	if !strings.Contains(value, "=") {
		return false
	}
	separators := "; \t\n"
	if strings.Contains(value, ";") {
		separators = ";" // keys such as "Data Source" hold spaces
	}
	var hosts, ports []string
	isDSN := false
	for pair := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		key, v, ok := strings.Cut(pair, "=")
		key, v = strings.ToLower(strings.TrimSpace(key)), strings.Trim(strings.TrimSpace(v), `'"`)
		switch {
		case !ok:
		case slices.Contains(keywordHosts, key):
			isDSN = true
			v = strings.TrimPrefix(strings.ToLower(v), "tcp:")
			if key == "server" || strings.HasPrefix(key, "data") { // "host,port" of SQL Server
				if host, port, ok := strings.Cut(v, ","); ok {
					if _, isPort := portNumber(port); isPort {
						v = host + ":" + strings.TrimSpace(port)
					}
				}
				v, _, _ = strings.Cut(v, `\`) // server\instance
			}
			hosts = append(hosts, strings.Split(v, ",")...)
		case key == "port":
			ports = strings.Split(v, ",")
		}
	}
	for i, h := range hosts {
		name, port, ok := hostPort(h)
		if !ok {
			continue
		}
		if port == 0 && len(ports) > 0 {
			port, _ = portNumber(ports[min(i, len(ports)-1)])
		}
		p.add(source, name, port, "", false)
	}
	return isDSN
}

// list reads host:port lists with commas, semicolons or spaces between, also as
// name=host:port:port (ZooKeeper) and id@host:port (Kafka).
func (p *referenceParser) list(source, value string, bare bool, sibling uint16) {
	for item := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(",; \t\r\n\"'", r) }) {
		if i := strings.LastIndexAny(item, "=@"); i >= 0 {
			item = item[i+1:]
		}
		if i := strings.IndexByte(item, '/'); i >= 0 {
			if i == 0 {
				continue // a path
			}
			item = item[:i]
		}
		if host, rest, ok := strings.Cut(item, ":"); ok && strings.Count(item, ":") == 2 && allDigits(strings.ReplaceAll(rest, ":", "")) {
			first, second, _ := strings.Cut(rest, ":")
			p.listed(source, host+":"+first, bare, sibling)
			p.listed(source, host+":"+second, bare, sibling)
			continue
		}
		p.listed(source, item, bare, sibling)
	}
}

func (p *referenceParser) listed(source, item string, bare bool, sibling uint16) {
	name, port, ok := hostPort(item)
	if !ok || (port == 0 && !bare) {
		return
	}
	if port == 0 {
		port = sibling
	}
	p.add(source, name, port, p.scheme, false)
}

// hostPort splits host, host:port, [v6], [v6]:port and a bare IPv6 address. It
// refuses what has a port that is none.
func hostPort(s string) (host string, port uint16, ok bool) {
	s = strings.TrimSpace(s)
	if inner, rest, bracket := strings.Cut(strings.TrimPrefix(s, "["), "]"); strings.HasPrefix(s, "[") && bracket {
		if rest == "" {
			return inner, 0, true
		}
		port, ok = portNumber(strings.TrimPrefix(rest, ":"))
		return inner, port, ok && rest[0] == ':'
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return s, 0, true
	}
	host, digits, hasPort := strings.Cut(s, ":")
	if !hasPort {
		return s, 0, s != ""
	}
	port, ok = portNumber(digits)
	return host, port, ok && host != ""
}

func portNumber(s string) (uint16, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	return uint16(n), err == nil && n > 0
}

// validHost accepts addresses and names that Docker or DNS could resolve. Names
// of digits and dots only that are no address, loopback and unspecified
// addresses, and "localhost" are refused: they name no other host.
func validHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == "" && !a.Unmap().IsLoopback() && !a.IsUnspecified()
	}
	if s == "" || len(s) > maxHostName || strings.EqualFold(s, "localhost") {
		return false
	}
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "none", "null":
		return false
	}
	letter := false
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
				letter = true
			case '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return false
			}
		}
	}
	return letter
}

// hostSuffixes are the ends of keys whose bare value is a host (R3).
var hostSuffixes = []string{
	"HOSTNAME", "HOSTS", "HOST", "SERVERS", "SERVER", "ADDRESS", "ADDR", "URL", "URI", "DSN",
	"ENDPOINTS", "ENDPOINT", "BROKERS", "BROKER", "NODES", "PEERS", "SEEDS",
}

// hostStem cuts the ending that asks for a host from a key: "DB_HOST" gives
// "DB_", whose sibling with the port is "DB_PORT".
func hostStem(key string) (stem string, ok bool) {
	key = strings.ToUpper(strings.TrimLeft(key, "-"))
	for _, suffix := range hostSuffixes {
		if stem, ok := strings.CutSuffix(key, suffix); ok {
			return stem, true
		}
	}
	return "", false
}

// secretParts are the parts of keys whose values are never read. They are
// matched against whole parts, secretWords anywhere; see looksSecret for the ends
// of parts.
var (
	secretParts = []string{"PW", "KEY", "KEYS", "SALT", "PIN", "CRED", "CREDS", "LOGIN", "CERT", "SIGNATURE", "COOKIE", "SESSION"}
	secretWords = []string{"PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "APIKEY", "PRIVATE", "USERPASS"}
)

// looksSecret reports whether the value of such a key may be a secret.
func looksSecret(key string) bool {
	key = strings.ToUpper(key)
	return hasSecretWord(key) || slices.ContainsFunc(keyParts(key), func(part string) bool {
		return slices.Contains(secretParts, part) || strings.HasSuffix(part, "PASS") || strings.HasSuffix(part, "PWD") || strings.HasSuffix(part, "AUTH")
	})
}

func hasSecretWord(key string) bool {
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(key, word) })
}

// hostParts are what the last part of a key says of a value that is a host,
// whatever it is the host of: AUTH_SERVER, SESSION_REDIS_HOST.
var hostParts = []string{"HOST", "HOSTS", "HOSTNAME", "SERVER", "SERVERS", "ADDR", "ADDRESS", "ENDPOINT", "ENDPOINTS"}

// hidesHost reports whether the value of such a key is not read for hosts. Of what is
// read only host, port and scheme stay, so that less is a secret here than of what is
// kept whole.
func hidesHost(key string) bool {
	upper := strings.ToUpper(key)
	parts := keyParts(upper)
	if n := len(parts); n > 1 && slices.Contains(hostParts, parts[n-1]) {
		return hasSecretWord(upper)
	}
	return looksSecret(key)
}

// notHosts reports whether a value of the form a:1 under that key is something
// else than host and port: a user, an image, a time.
func notHosts(key string) bool {
	parts := keyParts(strings.ToUpper(key))
	if len(parts) == 0 {
		return false
	}
	switch parts[len(parts)-1] {
	case "USER", "USERS", "USERNAME", "UID", "GID", "IMAGE", "TAG", "VERSION", "TIME", "TZ", "DATE", "ROLE", "ROLES":
		return true
	}
	return false
}

func keyParts(key string) []string {
	return strings.FieldsFunc(key, func(r rune) bool { return strings.ContainsRune("_-./", r) })
}

// isKey reports whether a text may stand before '=' as a key.
func isKey(s string) bool {
	if len(s) > maxKey {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isSchemeByte(c) && c != '_' {
			return false
		}
	}
	return s != ""
}

// isSchemeByte is RFC 3986 3.1.
func isSchemeByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// normalScheme lowers a scheme and takes the driver from it:
// "db+postgresql" and "postgresql+asyncpg" are "postgresql".
func normalScheme(s string) string {
	s = strings.TrimPrefix(strings.ToLower(strings.TrimLeft(s, "+-.0123456789")), "db+")
	if slices.Contains(localSchemes, s) {
		return s
	}
	s, _, _ = strings.Cut(s, "+")
	switch s {
	case "postgres", "pgsql":
		return "postgresql"
	case "pyamqp":
		return "amqp"
	case "mysqli":
		return "mysql"
	}
	if len(s) > 32 {
		return ""
	}
	return s
}

// shellWords cuts a script into words. It knows enough of shells to find hosts
// in them, no more. A word with a URL is not cut at ; & ( ), which may be part
// of a password.
func shellWords(s string) []string {
	var words []string
	for field := range strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune(" \t\r\n|<>\"'`", r) }) {
		if strings.Contains(field, "://") {
			words = append(words, field)
			continue
		}
		words = append(words, strings.FieldsFunc(field, func(r rune) bool { return strings.ContainsRune(";&()", r) })...)
	}
	return words
}

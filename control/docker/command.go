package docker

import (
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// redacted stands where a value was taken out.
const redacted = "***"

// kept says of what the values, or the words, are kept.
type kept struct {
	env   map[string]bool // keys
	args  map[string]bool // flags with their dashes
	words map[string]bool // of commands: programs and their verbs
}

// redactCommand keeps of a deployer's entrypoint and arguments what models
// match by: the words that they ask for, the names of flags, and the ports in
// the values of the flags that they ask for. Nothing else of a value stays: a
// flag such as -p is one program's port and another's password. program says
// that the first word is what runs, and no argument of the image's entrypoint.
func redactCommand(args []string, program bool, keep kept) []string {
	var out []string
	flag := "" // whose value comes next, if anything but a flag does
	for i, arg := range args {
		switch {
		case strings.HasPrefix(arg, "-") && arg != "-":
			name, value, hasValue := strings.Cut(arg, "=")
			flag = ""
			if hasValue {
				out = append(out, flagName(name, keep.args)+"="+redactValue(name, value, keep.args))
				continue
			}
			out = append(out, flagName(arg, keep.args))
			flag = arg
		case isScriptFlag(flag) && i > 1 && isShell(args[i-2]):
			out = append(out, redactCommand(shellWords(arg), false, keep)...)
			flag = ""
		case flag != "":
			out = append(out, redactValue(flag, arg, keep.args))
			flag = ""
		case i == 0 && program:
			out = append(out, withoutUser(arg))
		default:
			out = append(out, redactWord(arg, keep.words))
		}
	}
	return out
}

// isShell: the words of its -c are the command as well.
func isShell(program string) bool {
	return slices.Contains([]string{"sh", "bash", "ash", "dash"}, path.Base(program))
}

// redactValue keeps ports and listeners: 6380, :9090, 0.0.0.0:9090,
// http://0.0.0.0:2379,http://[::]:2379. Words that switch on or off it keeps too.
func redactValue(flag, value string, keep map[string]bool) string {
	if !keep[flag] || looksSecret(flag) {
		return redacted
	}
	if slices.Contains(switches, strings.ToLower(value)) {
		return value
	}
	for item := range strings.SplitSeq(value, ",") {
		if !isListener(item) {
			return redacted
		}
	}
	return value
}

var switches = []string{"yes", "no", "on", "off", "true", "false"}

func isListener(item string) bool {
	if _, ok := portNumber(item); ok || item == "0" {
		return true
	}
	if scheme, rest, ok := strings.Cut(item, "://"); ok {
		if !isKey(scheme) {
			return false
		}
		item = rest
	}
	host, port, err := net.SplitHostPort(item)
	if err != nil {
		return false
	}
	_, ok := portNumber(port)
	return ok && (host == "" || host == "*" || isAddress(host) || validHost(host))
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// flagName keeps a flag whole, but -pSECRET only as -p***: a single dash may
// stand before a value without a space.
func flagName(arg string, keep map[string]bool) string {
	if strings.HasPrefix(arg, "--") || len(arg) <= 2 || keep[arg] {
		return arg
	}
	return arg[:2] + redacted
}

// redactWord keeps the words that models ask for, and keys before '='.
func redactWord(arg string, keep map[string]bool) string {
	if keep[arg] || keep[path.Base(arg)] {
		return arg
	}
	if key, _, pair := strings.Cut(arg, "="); pair && isKey(key) {
		return key + "=" + redacted
	}
	return redacted
}

// withoutUser takes user and password out of URLs and DSNs.
func withoutUser(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 || !strings.Contains(s[:at], ":") {
		return s
	}
	scheme, _, ok := strings.Cut(s, "://")
	if !ok {
		return s[at+1:]
	}
	return scheme + "://" + s[at+1:]
}

// deployerEnv returns the variables that are not the image's, and their keys,
// sorted.
func deployerEnv(container, image []string) (env, keys []string) {
	baked := set(image)
	for _, kv := range container {
		if baked[kv] {
			continue
		}
		env = append(env, kv)
		key, _, _ := strings.Cut(kv, "=")
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return env, slices.Compact(keys)
}

// keptEnv returns the values of the variables in keep, never a secret.
func keptEnv(env []string, keep map[string]bool) map[string]string {
	var kept map[string]string
	for _, kv := range env {
		key, value, _ := strings.Cut(kv, "=")
		if !keep[key] || looksSecret(key) {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[key] = withoutUser(value)
	}
	return kept
}

func set(items []string) map[string]bool {
	m := make(map[string]bool, len(items))
	for _, item := range items {
		m[item] = true
	}
	return m
}

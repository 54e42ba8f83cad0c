package docker

import (
	"slices"
	"strings"
)

// redacted stands where a value was taken out.
const redacted = "***"

// redactCommand keeps of a deployer's entrypoint and arguments what models
// match by: words and the names of flags. Values of flags go, except for the
// flags in keep, and so does whatever may hold a secret.
func redactCommand(args []string, keep map[string]bool) []string {
	var out []string
	flag := "" // whose value comes next, if anything but a flag does
	for i, arg := range args {
		switch {
		case strings.HasPrefix(arg, "-") && arg != "-":
			name, value, hasValue := strings.Cut(arg, "=")
			flag = ""
			switch {
			case keep[name] && hasValue && !looksSecret(name):
				out = append(out, name+"="+withoutUser(value))
			case hasValue:
				out = append(out, flagName(name, keep)+"="+redacted)
			default:
				out = append(out, flagName(arg, keep))
				flag = arg
			}
		case flag != "":
			if keep[flag] && !looksSecret(flag) {
				out = append(out, withoutUser(arg))
			} else {
				out = append(out, redacted)
			}
			flag = ""
		default:
			out = append(out, redactWord(arg, i == 0))
		}
	}
	return out
}

// flagName keeps a flag whole, but -pSECRET only as -p***: a single dash may
// stand before a value without a space.
func flagName(arg string, keep map[string]bool) string {
	if strings.HasPrefix(arg, "--") || len(arg) <= 2 || keep[arg] {
		return arg
	}
	return arg[:2] + redacted
}

func redactWord(arg string, program bool) string {
	key, _, pair := strings.Cut(arg, "=")
	switch {
	case program:
		return withoutUser(arg)
	case strings.ContainsAny(arg, " \t\r\n;|&`$"):
		return redacted // a script
	case pair && isKey(key):
		return key + "=" + redacted
	}
	return withoutUser(arg)
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

package docker

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Bounds of the scripts that are understood: what is nested in them is recursion here.
const (
	maxScript      = 16 << 10 // bytes
	maxScriptDepth = 3        // sh -c in sh -c
)

// starters start the program that their arguments name; the number is how many
// words, but for options and assignments, stand before it.
var starters = map[string]int{
	"exec": 0, "command": 0, "env": 0, "nohup": 0, "time": 0, "nice": 0, "tini": 0, "dumb-init": 0,
	"docker-entrypoint.sh": 0, "entrypoint.sh": 0, "timeout": 1, "gosu": 1, "su-exec": 1,
}

// helpers wait, tell, or handle files. None starts a program, but for find on files, or
// talks to others.
var helpers = []string{
	":", "[", "basename", "break", "bzip2", "cat", "cd", "chmod", "chown", "continue", "cp", "cut", "date", "dirname", "du", "echo",
	"exit", "export", "false", "find", "grep", "gunzip", "gzip", "head", "hostname", "id", "ls", "mkdir", "mv", "printf", "pwd", "read", "return", "rm", "rmdir",
	"sed", "set", "shift", "sleep", "sort", "tail", "tee", "test", "touch", "tr", "true", "umask", "uniq", "unset", "unzip", "wait", "wc", "xz", "zcat", "zstd",
}

// programs are the base names of those that a deployer's command starts, each once,
// in order: of a shell's script all that it calls. Helpers are left out, curl and wget
// are told. For one that is not known, for scripts in files and for what only the shell
// will know, there is one *** in the list: it is then not all of it.
func programs(args []string, known map[string]bool) []string {
	r := programReader{known: known}
	if len(args) > 0 {
		r.call(args, 0)
	}
	return r.found
}

type programReader struct {
	known map[string]bool
	found []string
}

func (r *programReader) add(name string) {
	if !slices.Contains(r.found, name) {
		r.found = append(r.found, name)
	}
}

// call reads one command with its arguments.
func (r *programReader) call(words []string, depth int) {
	words = started(words)
	name := path.Base(words[0])
	script, ok := scriptOf(words)
	switch {
	case ok:
		r.script(script, depth+1)
	case slices.Contains(helpers, name):
	case r.known[name], name == "curl", name == "wget":
		r.add(name)
	default:
		r.add(redacted)
	}
}

// started leaves out what only starts the rest. It leaves one word at least.
func started(words []string) []string {
	for {
		before, ok := starters[path.Base(words[0])]
		if !ok {
			return words
		}
		rest := words[1:]
		for len(rest) > 0 && (strings.HasPrefix(rest[0], "-") || strings.Contains(rest[0], "=")) {
			rest = rest[1:]
		}
		if len(rest) <= before {
			return words[:1]
		}
		words = rest[before:]
	}
}

// scriptOf is what follows a shell's -c, or -ec, or -o pipefail -c.
func scriptOf(words []string) (script string, ok bool) {
	if !isShell(words[0]) {
		return "", false
	}
	for i := 1; i+1 < len(words) && strings.HasPrefix(words[i], "-"); i++ {
		switch {
		case isScriptFlag(words[i]):
			return words[i+1], true
		case words[i] == "-o":
			i++
		}
	}
	return "", false
}

// isScriptFlag reports whether the word behind a shell's flag is its script.
func isScriptFlag(flag string) bool {
	return strings.HasPrefix(flag, "-") && !strings.HasPrefix(flag, "--") && strings.HasSuffix(flag, "c")
}

func (r *programReader) script(text string, depth int) {
	if depth > maxScriptDepth || len(text) > maxScript {
		r.add(redacted)
		return
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		r.add(redacted)
		return
	}
	syntax.Walk(file, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 {
			r.call(literals(c.Args), depth)
		}
		return true
	})
}

// literals are words as the shell would pass them on, "" for what it computes.
func literals(words []*syntax.Word) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = literal(w.Parts)
	}
	return out
}

func literal(parts []syntax.WordPart) string {
	var b strings.Builder
	for _, part := range parts {
		switch p := part.(type) {
		case *syntax.Lit:
			b.WriteString(p.Value)
		case *syntax.SglQuoted:
			b.WriteString(p.Value)
		case *syntax.DblQuoted:
			inner := literal(p.Parts)
			if inner == "" {
				return ""
			}
			b.WriteString(inner)
		default:
			return ""
		}
	}
	return b.String()
}
